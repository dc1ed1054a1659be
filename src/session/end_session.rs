//! Deletes a durable session at the broker: connecting with CleanSession discards the earlier session
//! and leaves none behind (MQTT 3.1.1, section 3.1.2.4).

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::timeout;

use super::credentials::ClientCredentials;
use super::failure::{ConnectionFailure, FailureContext};
use super::transport::OutgoingPacket;
use super::transport::connector::NetworkConnector;
use super::transport::mqtt::LoginOptions;
use crate::config::MqttConfig;

/// Gives up sending DISCONNECT after this long. Closing the socket ends the connection too.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Deletes the durable session of `mqtt.client_id`. The error explains the cause and its remedy.
pub async fn end_session(
    tenant: &str,
    mqtt: &MqttConfig,
    credentials: &ClientCredentials,
) -> Result<(), ConnectionFailure> {
    let mut mqtt = mqtt.clone();
    credentials.apply_to(&mut mqtt);
    let login = LoginOptions { clean_session: true, max_packet_size: mqtt.max_packet_size };
    let connector = NetworkConnector::default();
    let accepted = connector.open(&mqtt, credentials.tls.as_ref(), login).await;
    let mut accepted = accepted.map_err(|error| {
        let context = FailureContext::new(tenant, &mqtt, OffsetDateTime::now_utc());
        context.explain_attempt(&error)
    })?;
    // Without it, the broker logs a lost client.
    let disconnect = accepted.transport.write(vec![OutgoingPacket::Disconnect]);
    let _ = timeout(DISCONNECT_TIMEOUT, disconnect).await;
    Ok(())
}
