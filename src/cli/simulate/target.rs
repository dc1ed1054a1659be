//! The broker and client of `simulate`, from its options and from the configuration if one is
//! given.

use std::path::Path;

use anyhow::Context as _;
use rand::{RngCore as _, SeedableRng as _};
use secrecy::SecretString;

use super::{ConfigFileArgs, SimulateArgs, UsageError};
use crate::config::{Config, MqttConfig, SubscribedFormats, TlsConfig};
use crate::event::EventKind;
use crate::session::credentials::tls;
use crate::simulate::encode::FormatChoice;
use crate::simulate::publish::BrokerSettings;
use crate::telemetry::stderr;

/// Domain of the vendor's broker, which must not receive simulated events.
const VENDOR_DOMAIN: &str = "centiloc.com";
/// Default host of the broker.
const HOST: &str = "127.0.0.1";
/// Default tenant in topics and events.
const TENANT: &str = "demo";
/// Standard MQTT ports without and with TLS.
const PORTS: [u16; 2] = [1883, 8883];

/// The settings that are known before the TLS files are read.
pub(super) struct PublishTarget {
    pub host: String,
    pub port: u16,
    pub tenant: String,
    pub format: FormatChoice,
    credentials: Option<(String, SecretString)>,
    tls: Option<TlsConfig>,
}

impl PublishTarget {
    /// Merges the options with the configuration, which is used only if `-c` names one.
    pub fn new(args: &SimulateArgs) -> anyhow::Result<Self> {
        let load = |file| ConfigFileArgs { file: Some(file) }.load();
        let config = args.config.clone().map(load).transpose()?.map(|loaded| loaded.config);
        Self::merged(args, config.as_ref())
    }

    fn merged(args: &SimulateArgs, config: Option<&Config>) -> anyhow::Result<Self> {
        let mqtt = config.map(|config| &config.mqtt);
        let host = args.host.clone().or_else(|| Some(mqtt?.host.clone()));
        let host = host.unwrap_or_else(|| HOST.to_owned());
        if is_vendors(&host) {
            let text = format!(
                "{host} is the vendor's broker: simulated events go to a broker of your own; name \
                 it with --host"
            );
            return Err(UsageError(text).into());
        }
        let tls = of_options(args).or_else(|| mqtt?.tls.clone());
        let [plain_port, tls_port] = PORTS;
        let usual = if tls.is_some() { tls_port } else { plain_port };
        let tenant = args.tenant.clone().or_else(|| Some(config?.tenant.clone()));
        Ok(Self {
            host,
            port: args.port.or(mqtt.map(|mqtt| mqtt.port)).unwrap_or(usual),
            tenant: tenant.unwrap_or_else(|| TENANT.to_owned()),
            format: args.format.or(mqtt.map(format)).unwrap_or(FormatChoice::Protobuf),
            credentials: match (&args.username, &args.password_file) {
                (Some(username), Some(file)) => Some((username.clone(), password(file)?)),
                _ => mqtt.and_then(credentials),
            },
            tls,
        })
    }

    /// Returns the broker settings, after reading the TLS files.
    pub fn broker(&self, args: &SimulateArgs) -> anyhow::Result<BrokerSettings> {
        let client_id = args.client_id.clone();
        Ok(BrokerSettings {
            host: self.host.clone(),
            port: self.port,
            client_id: client_id.unwrap_or_else(|| random_client_id(&self.tenant)),
            credentials: self.credentials.clone(),
            tls: self.tls.as_ref().map(tls_config).transpose()?,
            max_inflight: args.max_inflight,
        })
    }
}

fn is_vendors(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == VENDOR_DOMAIN || host.ends_with(&format!(".{VENDOR_DOMAIN}"))
}

fn of_options(args: &SimulateArgs) -> Option<TlsConfig> {
    Some(TlsConfig::of_files(args.ca.clone(), args.cert.clone()?, args.key.clone()?))
}

fn credentials(mqtt: &MqttConfig) -> Option<(String, SecretString)> {
    Some((
        mqtt.username.clone()?,
        mqtt.password.clone().unwrap_or_else(|| SecretString::from(String::new())),
    ))
}

/// Returns the format that a bridge with this configuration receives.
fn format(mqtt: &MqttConfig) -> FormatChoice {
    match mqtt.formats[EventKind::Item] {
        SubscribedFormats::Json => FormatChoice::Json,
        SubscribedFormats::Both => FormatChoice::Both,
        SubscribedFormats::Protobuf | SubscribedFormats::Off => FormatChoice::Protobuf,
    }
}

fn tls_config(tls: &TlsConfig) -> anyhow::Result<std::sync::Arc<rustls::ClientConfig>> {
    let loaded = tls::client_config(tls)?;
    for warning in &loaded.warnings {
        stderr::line(format_args!("warning: {warning}"));
    }
    Ok(loaded.config)
}

pub(super) fn password(file: &Path) -> anyhow::Result<SecretString> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("could not read the password from {}", file.display()))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(SecretString::from(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

fn random_client_id(tenant: &str) -> String {
    format!("{tenant}-simulator-{:08x}", rand::rngs::StdRng::from_os_rng().next_u32())
}
