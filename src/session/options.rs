//! rumqttc's options from the configuration.

use std::sync::LazyLock;

use rumqttc::{
    AsyncClient, EventLoop, MqttOptions, MqttState, NetworkOptions, Packet, ProxyAuth, ProxyType,
    Publish, QoS, TlsConfiguration, Transport,
};
use secrecy::ExposeSecret;

use super::tls;
use crate::config::{Mqtt, Proxy};

/// Room for requests to rumqttc: PUBACKs of every packet id, trap for deadlocks otherwise.
const REQUEST_CAPACITY: usize = 65_535;

/// A probe has one request under way at a time: a SUBSCRIBE, then DISCONNECT.
const PROBE_CAPACITY: usize = 4;

/// Own messages under way. There are none; the smallest that rumqttc takes.
const INFLIGHT: u16 = 1;

/// A client and event loop for one connection.
pub fn client(
    mqtt: &Mqtt,
    tls: Option<&tls::Loaded>,
    max_packet_size: usize,
) -> (AsyncClient, Box<EventLoop>) {
    let options = mqtt_options(mqtt, tls, max_packet_size);
    let (client, mut event_loop) = with_network(mqtt, AsyncClient::new(options, REQUEST_CAPACITY));
    event_loop.state = EXPECTING_RELEASES.clone();
    (client, event_loop)
}

/// A client and event loop for one look at the broker: a clean session, which leaves nothing behind.
pub fn probe(
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

/// A state that has seen a QoS-2 PUBLISH of every packet id, so that rumqttc answers every PUBREL
/// with PUBCOMP. It refuses those whose PUBLISH it has not seen, and would so for ever: with a new
/// state per connection, that is every PUBREL for a message of an earlier one.
static EXPECTING_RELEASES: LazyLock<MqttState> = LazyLock::new(|| {
    let mut state = MqttState::new(INFLIGHT, true);
    let mut publish = Publish::new("", QoS::ExactlyOnce, Vec::new());
    for packet_id in 1..=u16::MAX {
        publish.pkid = packet_id;
        // With manual acknowledgement this only notes the packet id; it cannot fail.
        let _ = state.handle_incoming_packet(Packet::Publish(publish.clone()));
        state.events.clear();
    }
    state
});

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
