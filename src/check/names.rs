//! Names of the lines. Operators' scripts match on them, so a name that was released stays.

macro_rules! names {
    ($($name:ident = $text:literal,)*) => {
        $(pub(super) const $name: &str = $text;)*

        /// Every name a line can have, in the order of the lines.
        pub const NAMES: &[&str] = &[$($name),*];
    };
}

names! {
    CONFIGURATION = "configuration",
    CLIENT_ID = "client_id",
    PAYLOADS = "payloads",
    SECRET_FILE_MODE = "secret_file_mode",
    CLIENT_CERTIFICATE = "client_certificate",
    PRIVATE_KEY = "private_key",
    KEY_FILE_MODE = "key_file_mode",
    KEY_FITS_CERTIFICATE = "key_fits_certificate",
    CERTIFICATE_TENANT = "certificate_tenant",
    CERTIFICATE_VALIDITY = "certificate_validity",
    CERTIFICATE_VERSION = "certificate_version",
    CERTIFICATE_CHAIN = "certificate_chain",
    TRUST_ANCHOR = "trust_anchor",
    PROTOBUF_SCHEMA = "protobuf_schema",
    SPOOL = "spool",
    ARCHIVE = "archive",
    SYSTEM_CLOCK = "system_clock",
    ADMIN_LISTEN = "admin_listen",
    BROKER_NAME = "broker_name",
    BROKER_TCP = "broker_tcp",
    BROKER_PROXY = "broker_proxy",
    BROKER_TLS = "broker_tls",
    BROKER_LOGIN = "broker_login",
    SUBSCRIPTION = "subscription",
    DATABASE_CONNECTION = "database_connection",
    DATABASE_ADDRESS = "database_address",
    DATABASE_SESSIONS = "database_sessions",
    DATABASE_CONNECTIONS = "database_connections",
    DATABASE_TLS = "database_tls",
    DATABASE_VERSION = "database_version",
    DATABASE_ENCODING = "database_encoding",
    DATABASE_WRITABLE = "database_writable",
    DATABASE_DURABILITY = "database_durability",
    DATABASE_SCHEMA = "database_schema",
    DATABASE_RIGHTS = "database_rights",
    DATABASE_PARTITIONS = "database_partitions",
    DATABASE_CLOCK = "database_clock",
}
