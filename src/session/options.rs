//! rumqttc's options from the configuration.

use rumqttc::{
    AsyncClient, EventLoop, MqttOptions, NetworkOptions, ProxyAuth, ProxyType, TlsConfiguration,
    Transport,
};
use secrecy::ExposeSecret;

use super::tls;
use crate::config::{Mqtt, Proxy};

/// The session sends its packets past rumqttc's queue of requests.
const NO_REQUESTS: usize = 1;

/// A probe has one request under way at a time: a SUBSCRIBE, then DISCONNECT.
const PROBE_CAPACITY: usize = 4;

/// Own messages under way. There are none; the smallest that rumqttc takes.
const INFLIGHT: u16 = 1;

/// Makes the event loop that opens one connection. The client belonging to it is not needed.
pub fn event_loop(
    mqtt: &Mqtt,
    tls: Option<&tls::Loaded>,
    max_packet_size: usize,
) -> Box<EventLoop> {
    let options = mqtt_options(mqtt, tls, max_packet_size);
    with_network(mqtt, AsyncClient::new(options, NO_REQUESTS)).1
}

/// A client and event loop with a clean session, which ends an earlier one and leaves none behind.
pub fn clean(
    mqtt: &Mqtt,
    tls: Option<&tls::Loaded>,
    max_packet_size: usize,
) -> (AsyncClient, Box<EventLoop>) {
    let mut options = mqtt_options(mqtt, tls, max_packet_size);
    options.set_clean_session(true);
    with_network(mqtt, AsyncClient::new(options, PROBE_CAPACITY))
}

fn with_network(
    mqtt: &Mqtt,
    (client, mut event_loop): (AsyncClient, EventLoop),
) -> (AsyncClient, Box<EventLoop>) {
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(mqtt.connect_timeout.as_secs().max(1));
    event_loop.set_network_options(network);
    (client, Box::new(event_loop))
}

fn mqtt_options(mqtt: &Mqtt, tls: Option<&tls::Loaded>, max_packet_size: usize) -> MqttOptions {
    let mut options = MqttOptions::new(&mqtt.client_id, &mqtt.host, mqtt.port);
    options
        .set_keep_alive(mqtt.keep_alive)
        .set_clean_session(false)
        .set_manual_acks(true)
        .set_inflight(INFLIGHT)
        .set_max_packet_size(max_packet_size, max_packet_size);
    if let Some(username) = &mqtt.username {
        let password = mqtt.password.as_ref().map_or("", |password| password.expose_secret());
        options.set_credentials(username, password);
    }
    if let Some(loaded) = tls {
        let config = TlsConfiguration::Rustls(loaded.config.clone());
        options.set_transport(Transport::tls_with_config(config));
    }
    if let Some(proxy) = &mqtt.proxy {
        options.set_proxy(proxy_options(proxy));
    }
    options
}

fn proxy_options(proxy: &Proxy) -> rumqttc::Proxy {
    let auth = match &proxy.credentials {
        Some((username, password)) => ProxyAuth::Basic {
            username: username.clone(),
            password: password.expose_secret().to_owned(),
        },
        None => ProxyAuth::None,
    };
    rumqttc::Proxy { ty: ProxyType::Http, auth, addr: proxy.host.clone(), port: proxy.port }
}
