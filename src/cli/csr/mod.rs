//! `csr`: creates the private key and the certificate signing request, the vendor's first step.

mod report;

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};

use self::report::CsrReport;
use super::UsageError;

use crate::credentials::csr::{RequestSubject, request_pem};
use crate::credentials::error::FileRole;
use crate::credentials::files::{self, NewFile, PRIVATE, PUBLIC};
use crate::credentials::pem::PemFile;
use crate::credentials::{EcCurve, EcKey};

/// File name of the private key in the vendor's documentation.
const KEY_FILE: &str = "private-key.pem";
/// File name of the request in the vendor's documentation.
const REQUEST_FILE: &str = "certificate-request.csr";

/// Create a private key and a certificate signing request for Centiloc
#[derive(Debug, Args)]
pub struct CsrArgs {
    /// Your tenantID, exactly as Centiloc gave it (Common Name)
    #[arg(long)]
    pub tenant: String,
    /// Your company, even in case of data access delegation (Organization Name)
    #[arg(long)]
    pub organization: String,
    /// Where Centiloc sends expiry notices (Email Address)
    #[arg(long)]
    pub email: String,
    /// Two-letter country code (Country Name)
    #[arg(long)]
    pub country: Option<String>,
    /// State or Province Name
    #[arg(long)]
    pub state: Option<String>,
    /// Locality Name, for example the city
    #[arg(long)]
    pub locality: Option<String>,
    /// Organizational Unit Name, for example the section
    #[arg(long)]
    pub organizational_unit: Option<String>,
    /// Directory for the files, created if missing (no file is overwritten)
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Use this existing EC key instead of a new one, for example for a renewal
    #[arg(long, value_name = "FILE", conflicts_with = "curve")]
    pub key: Option<PathBuf>,
    /// Curve of the new key
    #[arg(long, value_enum, default_value_t = CurveArg::P256)]
    pub curve: CurveArg,
    /// Print one JSON document, for programs
    #[arg(long)]
    pub json: bool,
}

/// The elliptic curve of a new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CurveArg {
    /// NIST P-256, the documented choice
    P256,
    /// NIST P-384
    P384,
}

/// Creates the files and writes the next steps to `out`.
pub fn run(args: &CsrArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let subject = subject(args);
    let problems = subject.problems();
    if !problems.is_empty() {
        return Err(UsageError(problems.join("\n")).into());
    }
    let (key, existing) = match &args.key {
        Some(path) => {
            (EcKey::from_pem(&PemFile::read(FileRole::KeyOption, path)?)?, Some(absolute(path)))
        }
        None => (EcKey::generate(curve(args.curve)), None),
    };
    let request = request_pem(&subject, &key)?;
    let directory = absolute(&args.out);
    let key_path = existing.clone().unwrap_or_else(|| directory.join(KEY_FILE));
    let new_key = existing.is_none().then_some(&key);
    write_files(&directory, new_key, &request)?;

    let warning = existing.as_deref().and_then(files::exposure);
    let report = CsrReport {
        subject: &subject,
        directory: &directory,
        key: &key_path,
        new: new_key.is_some(),
        request: &request,
        warning,
    };
    let text = if args.json { report.json()? } else { report.text()? };
    out.write_all(text.as_bytes()).context("could not print the next steps")
}

fn subject(args: &CsrArgs) -> RequestSubject {
    RequestSubject {
        tenant: args.tenant.clone(),
        organization: args.organization.clone(),
        email: args.email.clone(),
        country: args.country.clone(),
        state: args.state.clone(),
        locality: args.locality.clone(),
        organizational_unit: args.organizational_unit.clone(),
    }
}

fn curve(curve: CurveArg) -> EcCurve {
    match curve {
        CurveArg::P256 => EcCurve::P256,
        CurveArg::P384 => EcCurve::P384,
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Writes both files, complete and synced to disk, or neither.
fn write_files(directory: &Path, key: Option<&EcKey>, request: &str) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("could not create the directory {}", directory.display()))?;
    let mut key_file = key
        .map(|key| create(&directory.join(KEY_FILE), PRIVATE).map(|file| (file, key)))
        .transpose()?;
    let request_path = directory.join(REQUEST_FILE);
    let mut request_file = create(&request_path, PUBLIC)?;
    if let Some((file, key)) = &mut key_file {
        file.write(key.to_sec1_pem().as_bytes())
            .with_context(|| format!("could not write {}", directory.join(KEY_FILE).display()))?;
    }
    request_file
        .write(request.as_bytes())
        .with_context(|| format!("could not write {}", request_path.display()))?;
    if let Some((file, _)) = key_file {
        file.keep();
    }
    request_file.keep();
    Ok(())
}

fn create(path: &Path, mode: u32) -> anyhow::Result<NewFile> {
    NewFile::create(path, mode).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => anyhow!(
            "{} exists and is not overwritten; choose another --out, move it away, or reuse an \
             existing key with --key",
            path.display()
        ),
        _ => anyhow!(error).context(format!("could not create {}", path.display())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::testing::{TestFiles, openssl};
    use clap::Parser;
    use std::os::unix::fs::PermissionsExt;

    #[derive(Parser)]
    struct CsrCommandLine {
        #[command(flatten)]
        csr: CsrArgs,
    }

    fn csr(out: &Path, more: &[&str]) -> anyhow::Result<String> {
        let out = out.display().to_string();
        let fixed =
            ["csr", "--tenant", "acme", "--organization", "Acme", "--email", "it@example.com"];
        let args = fixed.iter().chain(more).copied().chain(["--out", &out]);
        let mut printed = Vec::new();
        run(&CsrCommandLine::try_parse_from(args)?.csr, &mut printed)?;
        Ok(String::from_utf8(printed)?)
    }

    #[test]
    fn key_and_request_match_and_key_is_private() {
        let files = TestFiles::new();
        let out = files.path("new/deep");
        let printed = csr(&out, &["--country", "FR"]).expect("made");
        let (key, request) = (out.join(KEY_FILE), out.join(REQUEST_FILE));
        let mode = std::fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let of_key = openssl(&["ec", "-in", &key.display().to_string(), "-pubout"], &[]);
        let args = ["req", "-in", &request.display().to_string(), "-verify", "-noout", "-pubkey"];
        assert_eq!(openssl(&args, &[]), of_key);
        assert!(printed.contains("C = FR, O = Acme, CN = acme, emailAddress = it@example.com"));
        assert!(printed.contains(&format!("openssl req -in {} -noout -text", request.display())));
    }

    #[test]
    fn printed_configuration_is_toml_naming_the_files() {
        let files = TestFiles::new();
        let printed = csr(files.dir(), &[]).expect("made");
        let from = printed.find("tenant = ").expect("a configuration");
        let to = printed.find("4. Verify").expect("the step after it");
        let table: toml::Table = printed[from..to].parse().expect("TOML");
        let path = files.path(KEY_FILE).display().to_string();
        assert_eq!(table["mqtt"]["tls"]["key_file"].as_str(), Some(path.as_str()));
        assert_eq!(table["tenant"].as_str(), Some("acme"));
    }

    #[test]
    fn existing_files_are_never_overwritten() {
        let files = TestFiles::new();
        files.write(REQUEST_FILE, "old request");
        let error = csr(files.dir(), &[]).expect_err("refused").to_string();
        assert!(error.contains("certificate-request.csr exists and is not overwritten"), "{error}");
        assert!(!files.path(KEY_FILE).exists(), "no key without its request");
        let files = TestFiles::new();
        files.write(KEY_FILE, "old key");
        csr(files.dir(), &[]).expect_err("refused");
        assert!(!files.path(REQUEST_FILE).exists());
        assert_eq!(std::fs::read_to_string(files.path(KEY_FILE)).unwrap(), "old key");
    }

    #[test]
    fn request_for_existing_key_leaves_key_unchanged() {
        for format in ["SEC1", "PKCS#8"] {
            let files = TestFiles::new();
            let sec1 = openssl(&["ecparam", "-name", "secp384r1", "-genkey", "-noout"], &[]);
            let pem = match format {
                "SEC1" => sec1.clone(),
                _ => openssl(&["pkcs8", "-topk8", "-nocrypt"], &sec1),
            };
            let key = files.write("old.pem", &pem);
            let printed = csr(files.dir(), &["--key", &key.display().to_string()]).expect("made");
            assert!(printed.contains("an EC key on P-384"), "{printed}");
            assert!(!files.path(KEY_FILE).exists());
            assert_eq!(std::fs::read(&key).unwrap(), pem);
            let request = files.path(REQUEST_FILE).display().to_string();
            let of_key = openssl(&["ec", "-pubout"], &sec1);
            assert_eq!(openssl(&["req", "-in", &request, "-noout", "-pubkey"], &[]), of_key);
        }
    }

    #[test]
    fn unsuitable_key_is_refused_before_writing() {
        let files = TestFiles::new();
        let key = files.write("rsa.pem", openssl(&["genrsa", "2048"], &[]));
        let out = files.path("out");
        let error = csr(&out, &["--key", &key.display().to_string()]).expect_err("refused");
        assert!(error.to_string().contains("an RSA key"), "{error}");
        assert!(!out.exists());
    }

    #[test]
    fn exposed_existing_key_is_warned_about() {
        let files = TestFiles::new();
        let key = files.write("old.pem", EcKey::generate(EcCurve::P256).to_sec1_pem().as_str());
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let printed = csr(files.dir(), &["--key", &key.display().to_string()]).expect("made");
        assert!(printed.contains("Warning: the private key"), "{printed}");
        assert!(printed.contains("chmod 600"), "{printed}");
    }
}
