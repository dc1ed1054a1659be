//! The output of `csr` once the files exist, as text or as JSON.

use std::path::Path;

use anyhow::anyhow;
use serde_json::json;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::REQUEST_FILE;
use crate::cli::output;
use crate::credentials::csr::RequestSubject;

/// File name of the certificate in the vendor's documentation.
const CERTIFICATE_FILE: &str = "tls-cert.pem";
/// File name of the password, as used throughout docs and examples.
const PASSWORD_FILE: &str = "mqtt.password";

/// The created files and their contents.
pub(super) struct CsrReport<'a> {
    pub subject: &'a RequestSubject,
    pub directory: &'a Path,
    pub key: &'a Path,
    /// True if the key is new: a first request, not a renewal.
    pub new: bool,
    /// The certificate signing request, PEM.
    pub request: &'a str,
    /// Problem with the permissions of the existing key file.
    pub warning: Option<String>,
}

impl CsrReport<'_> {
    /// Formats the report as text with the next steps.
    pub fn text(&self) -> anyhow::Result<String> {
        let (path, key) = (self.directory.join(REQUEST_FILE), self.key.display());
        let path = path.display();
        let made = if self.new {
            format!("Created the private key {key} (mode 0600) and the request {path}")
        } else {
            format!("Created the request {path} for the existing private key {key}")
        };
        let warning =
            self.warning.as_ref().map(|text| format!("Warning: {text}\n")).unwrap_or_default();
        let RequestContents { subject, public_key } = contents(self.request)?;
        Ok(format!(
            "{made}\n{warning}\nThe request contains\n   RequestSubject:    {subject}\n   Public key: \
             {public_key}\n\nThe same with OpenSSL: openssl req -in {path} -noout -text \
             -verify\n\n{steps}",
            steps = if self.new { self.first_steps() } else { self.renewal_step() },
        ))
    }

    /// Formats the report as JSON. `configuration` is null for a renewal.
    pub fn json(&self) -> anyhow::Result<String> {
        let RequestContents { subject, public_key } = contents(self.request)?;
        output::json(&json!({
            "key_file": self.key,
            "key_created": self.new,
            "request_file": self.directory.join(REQUEST_FILE),
            "request": self.request,
            "subject": subject,
            "public_key": public_key,
            "configuration": self.new.then(|| self.configuration()),
            "warning": self.warning,
        }))
    }

    fn first_steps(&self) -> String {
        format!(
            "Next steps
1. Send {REQUEST_FILE} to the Centiloc support team.
   Never send {key} to anyone.
2. The trusted certificate of Centiloc's broker (ca-cert.pem in its documentation) is built in;
   leave mqtt.tls.ca_file unset.
3. Within one working day the support team sends your certificate, valid for 1 year, and a user
   name and password for this connection. Save the certificate as {CERTIFICATE_FILE} and the
   password alone as {PASSWORD_FILE}, a file that only the service can read. Then configure:

{configuration}
4. Verify everything before starting: centiloc-bridge check
5. Start: centiloc-bridge run

Before the certificate expires, renew it with the same key:
   centiloc-bridge csr --key {key} … --out a-new-directory
",
            key = self.key.display(),
            configuration = self.configuration(),
        )
    }

    fn renewal_step(&self) -> String {
        format!(
            "Next step: send {} to the Centiloc support team. When the new certificate \
             arrives, put it in the place of the old one (mqtt.tls.cert_file): the running service \
             loads it without a restart. Key, user name, password and configuration stay the same.\n",
            self.directory.join(REQUEST_FILE).display()
        )
    }

    fn configuration(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let file = |name: &str| quoted(&self.directory.join(name).display().to_string());
        format!(
            "tenant = {tenant}

[mqtt]
username = \"the user name from Centiloc\"
password_file = {password}

[mqtt.tls]
cert_file = {certificate}
key_file = {key}
",
            tenant = quoted(&self.subject.tenant),
            password = file(PASSWORD_FILE),
            certificate = file(CERTIFICATE_FILE),
            key = quoted(&self.key.display().to_string()),
        )
    }
}

struct RequestContents {
    subject: String,
    public_key: String,
}

/// Parses the request that was just created.
fn contents(request: &str) -> anyhow::Result<RequestContents> {
    let unreadable = || anyhow!("the request just created could not be parsed");
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(request.as_bytes()).map_err(|_| unreadable())?;
    let (_, parsed) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|_| unreadable())?;
    let info = parsed.certification_request_info;
    Ok(RequestContents {
        subject: crate::credentials::inspect::name(&info.subject),
        public_key: crate::credentials::algorithm::KeyAlgorithm::of(&info.subject_pki).to_string(),
    })
}
