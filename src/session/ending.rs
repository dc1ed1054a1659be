//! Makes the broker forget a session: a client that connects with CleanSession has its earlier session
//! discarded, and leaves none behind (MQTT 3.1.1, section 3.1.2.4).

use rumqttc::{ConnectionError, Event, Packet, StateError};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::credentials::Credentials;
use super::failure::Context;
use super::options;
use super::probe::say_goodbye;
use crate::config::Mqtt;

/// Ends the durable session of `mqtt.client_id`. Fails with what is wrong, and the cure.
pub async fn end_session(
    tenant: &str,
    mqtt: &Mqtt,
    credentials: &Credentials,
) -> Result<(), String> {
    let mut mqtt = mqtt.clone();
    credentials.apply_to(&mut mqtt);
    let context = Context::new(tenant, &mqtt, OffsetDateTime::now_utc());
    let tls = credentials.tls.as_ref();
    let (client, mut event_loop) = options::clean(&mqtt, tls, mqtt.max_packet_size);
    let accepted = match timeout(mqtt.connect_timeout, event_loop.poll()).await {
        Ok(Ok(Event::Incoming(Packet::ConnAck(_)))) => Ok(()),
        Ok(Ok(_)) => Err(StateError::WrongPacket.into()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ConnectionError::NetworkTimeout),
    };
    accepted.map_err(|error| context.explain(&error).sentence)?;
    say_goodbye(&client, &mut event_loop).await;
    Ok(())
}
