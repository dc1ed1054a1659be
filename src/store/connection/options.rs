//! Builds the options of one connection from `database.url`. Nothing is taken from the environment
//! or from a password file: each value that `sqlx` would take from there is set.

use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::config::{
    DatabaseEndpoint, DatabaseHost, DatabaseTls, DatabaseUrl, RootCertificates, SslMode,
};
use crate::credentials::error::FileRole;
use crate::credentials::pem::PemFile;
use crate::files;
use crate::store::connection::route::ConnectRoute;
use crate::store::error::DbError;

/// Default folders of sockets: Debian's, then PostgreSQL's own.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Files in which operating systems keep the authorities they trust.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Returns the options for one endpoint. Certificate files are read again each time, so that renewed
/// ones are used.
pub(in crate::store) async fn options(
    url: &DatabaseUrl,
    endpoint: &DatabaseEndpoint,
    route: ConnectRoute,
    application_name: &str,
) -> Result<PgConnectOptions, DbError> {
    let options = PgConnectOptions::new_without_pgpass();
    let user = url.user.clone().unwrap_or_else(|| options.get_username().to_owned());
    let database = url.database.as_deref().unwrap_or(&user);
    let password = url.password.as_ref().map_or("", |password| password.expose_secret());
    let mut options = options
        .port(endpoint.port)
        .username(&user)
        .password(password)
        .database(database)
        .application_name(application_name)
        .extra_float_digits(None)
        .ssl_mode(ssl_mode(url.tls.mode))
        .disable_statement_logging();
    if let Some(capacity) = url.statement_cache {
        options = options.statement_cache_capacity(capacity);
    }
    options = match &endpoint.host {
        DatabaseHost::Tcp(name) => match route {
            ConnectRoute::AsNamed => options.host(name),
            ConnectRoute::Address(address) => options.host(&address.to_string()),
            ConnectRoute::Relay(folder) => options.host(name).socket(folder),
        },
        DatabaseHost::Socket(folder) => options.host("localhost").socket(folder),
        DatabaseHost::Default => match default_socket(endpoint.port) {
            Some(folder) => options.host("localhost").socket(folder),
            None => options.host("localhost"),
        },
    };
    with_certificates(options, url.tls.clone()).await
}

/// The folder of the socket that is used where no host is named.
pub(in crate::store) fn default_socket(port: u16) -> Option<PathBuf> {
    let socket = format!(".s.PGSQL.{port}");
    SOCKET_FOLDERS.iter().map(Path::new).find(|dir| dir.join(&socket).exists()).map(Path::to_owned)
}

fn ssl_mode(mode: SslMode) -> PgSslMode {
    match mode {
        SslMode::Disable => PgSslMode::Disable,
        SslMode::Allow => PgSslMode::Allow,
        SslMode::Prefer => PgSslMode::Prefer,
        SslMode::Require => PgSslMode::Require,
        SslMode::VerifyCa => PgSslMode::VerifyCa,
        SslMode::VerifyFull => PgSslMode::VerifyFull,
    }
}

async fn with_certificates(
    options: PgConnectOptions,
    tls: DatabaseTls,
) -> Result<PgConnectOptions, DbError> {
    if tls.mode <= SslMode::Allow {
        return Ok(options.ssl_root_cert_from_pem(Vec::new()));
    }
    let read = files::apart(move || read_certificates(&tls)).await;
    let (roots, client) = read.map_err(|error| DbError::retry(error.to_string()))??;
    let options = options.ssl_root_cert_from_pem(roots);
    Ok(match client {
        Some((cert, key)) => options.ssl_client_cert_from_pem(cert).ssl_client_key_from_pem(key),
        None => options,
    })
}

type ClientPem = (Vec<u8>, Vec<u8>);

fn read_certificates(tls: &DatabaseTls) -> Result<(Vec<u8>, Option<ClientPem>), DbError> {
    let roots = match &tls.root {
        RootCertificates::BuiltIn => Vec::new(),
        RootCertificates::System => system_roots(),
        RootCertificates::File(path) => {
            let file = pem(FileRole::DatabaseRoot, path)?;
            file.certificates().map_err(|error| DbError::stop(error.to_string()))?;
            file.text().to_vec()
        }
    };
    let client = match &tls.client {
        Some((cert, key)) => {
            let cert = pem(FileRole::DatabaseCertificate, cert)?;
            cert.certificates().map_err(|error| DbError::stop(error.to_string()))?;
            let key = pem(FileRole::DatabaseKey, key)?;
            if !key.has_private_key() {
                return Err(DbError::stop(key.wrong_content().to_string()));
            }
            Some((cert.text().to_vec(), key.text().to_vec()))
        }
        None => None,
    };
    Ok((roots, client))
}

fn pem(role: FileRole, path: &Path) -> Result<PemFile, DbError> {
    PemFile::read(role, path).map_err(|error| DbError::stop(error.to_string()))
}

/// The system's authorities, but for those that cannot be used. Without such a file the built-in
/// ones, which are Mozilla's, are used alone.
fn system_roots() -> Vec<u8> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    let bundle = SYSTEM_BUNDLES.iter().find_map(|path| {
        let bytes = files::read(Path::new(path), LARGEST_BUNDLE).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    });
    let bundle = bundle.unwrap_or_default();
    let sections = bundle.split(BEGIN).skip(1).map(|rest| format!("{BEGIN}{rest}"));
    sections.filter(|section| is_usable(section.as_bytes())).collect::<String>().into_bytes()
}

/// About four times what systems have.
const LARGEST_BUNDLE: u64 = 1024 * 1024;

fn is_usable(pem: &[u8]) -> bool {
    use rustls::pki_types::pem::PemObject as _;
    let certificate = rustls::pki_types::CertificateDer::from_pem_slice(pem);
    certificate.is_ok_and(|der| rustls::RootCertStore::empty().add(der).is_ok())
}
