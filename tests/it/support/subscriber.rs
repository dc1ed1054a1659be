//! A plain MQTT client with a durable session, for tests of the support itself and of a broker's
//! remaining messages.

use std::collections::VecDeque;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, Publish, QoS};

use super::mosquitto::{PASSWORD, USERNAME};
use super::wait::SOON;

/// Makes a broker forget the session of a client id and its queue, by connecting with CleanSession.
pub async fn forget_session(port: u16, client_id: &str) -> Result<(), String> {
    let mut options = MqttOptions::new(client_id, "127.0.0.1", port);
    options.set_credentials(USERNAME, PASSWORD).set_clean_session(true);
    let (client, mut events) = AsyncClient::new(options, 10);
    client.disconnect().await.map_err(|e| e.to_string())?;
    loop {
        match tokio::time::timeout(SOON, events.poll()).await {
            Ok(Ok(Event::Outgoing(Outgoing::Disconnect))) => return Ok(()),
            Ok(Ok(_)) => {}
            other => return Err(format!("no orderly end: {other:?}")),
        }
    }
}

/// A subscriber's connection.
pub struct TestSubscriber {
    client: AsyncClient,
    events: EventLoop,
    inbox: VecDeque<Publish>,
    session_present: bool,
}

impl TestSubscriber {
    /// Connects to a plain listener with CleanSession=false. Nothing is acknowledged automatically.
    pub async fn connect(port: u16, client_id: &str) -> Result<Self, String> {
        let mut options = MqttOptions::new(client_id, "127.0.0.1", port);
        options
            .set_credentials(USERNAME, PASSWORD)
            .set_clean_session(false)
            .set_manual_acks(true)
            .set_keep_alive(Duration::from_secs(600));
        let (client, mut events) = AsyncClient::new(options, 100);
        match tokio::time::timeout(SOON, events.poll()).await {
            Ok(Ok(Event::Incoming(Packet::ConnAck(ack)))) => Ok(Self {
                client,
                events,
                inbox: VecDeque::new(),
                session_present: ack.session_present,
            }),
            other => Err(format!("no CONNACK: {other:?}")),
        }
    }

    /// True if the broker knew the session.
    pub fn session_present(&self) -> bool {
        self.session_present
    }

    /// Subscribes at QoS 1 and waits for the SUBACK.
    pub async fn subscribe(&mut self, filter: &str) -> Result<(), String> {
        self.subscribe_at(filter, QoS::AtLeastOnce).await
    }

    /// Does the same as [`TestSubscriber::subscribe`] at QoS 2.
    pub async fn subscribe_qos2(&mut self, filter: &str) -> Result<(), String> {
        self.subscribe_at(filter, QoS::ExactlyOnce).await
    }

    async fn subscribe_at(&mut self, filter: &str, qos: QoS) -> Result<(), String> {
        self.client.subscribe(filter, qos).await.map_err(|e| e.to_string())?;
        self.poll_until(|event| matches!(event, Event::Incoming(Packet::SubAck(_)))).await
    }

    /// Returns the next message.
    pub async fn receive(&mut self) -> Result<Publish, String> {
        if self.inbox.is_empty() {
            self.poll_until(|event| matches!(event, Event::Incoming(Packet::Publish(_)))).await?;
        }
        Ok(self.inbox.pop_front().expect("a message was just received"))
    }

    /// Receives a message, acknowledges it, and waits until the PUBACK has been written.
    pub async fn receive_and_ack(&mut self) -> Result<Publish, String> {
        let publish = self.receive().await?;
        self.client.ack(&publish).await.map_err(|e| e.to_string())?;
        self.poll_until(|event| matches!(event, Event::Outgoing(Outgoing::PubAck(_)))).await?;
        Ok(publish)
    }

    /// Polls until `wanted`. Messages received meanwhile are kept.
    async fn poll_until(&mut self, wanted: impl Fn(&Event) -> bool) -> Result<(), String> {
        loop {
            let event = tokio::time::timeout(SOON, self.events.poll()).await;
            let event = event.map_err(|_| "nothing came")?.map_err(|e| e.to_string())?;
            let found = wanted(&event);
            if let Event::Incoming(Packet::Publish(publish)) = event {
                self.inbox.push_back(publish);
            }
            if found {
                return Ok(());
            }
        }
    }
}
