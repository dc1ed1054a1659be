//! Makes the broker forget a session: a client that connects with CleanSession has its earlier session
//! discarded, and leaves none behind (MQTT 3.1.1, section 3.1.2.4).

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::timeout;

use super::credentials::ClientCredentials;
use super::failure::FailureContext;
use super::transport::OutgoingPacket;
use super::transport::connector::NetworkConnector;
use super::transport::mqtt::LoginOptions;
use crate::config::MqttConfig;

/// A DISCONNECT that does not leave within this is left to the closing socket.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Ends the durable session of `mqtt.client_id`. Fails with what is wrong, and the cure.
pub async fn end_session(
    tenant: &str,
    mqtt: &MqttConfig,
    credentials: &ClientCredentials,
) -> Result<(), String> {
    let mut mqtt = mqtt.clone();
    credentials.apply_to(&mut mqtt);
    let login = LoginOptions { clean_session: true, max_packet_size: mqtt.max_packet_size };
    let connector = NetworkConnector::default();
    let accepted = connector.open(&mqtt, credentials.tls.as_ref(), login).await;
    let mut accepted = accepted.map_err(|error| {
        let context = FailureContext::new(tenant, &mqtt, OffsetDateTime::now_utc());
        context.explain_attempt(&error).message
    })?;
    // So that the broker logs no lost client.
    let disconnect = accepted.transport.write(vec![OutgoingPacket::Disconnect]);
    let _ = timeout(DISCONNECT_TIMEOUT, disconnect).await;
    Ok(())
}
