//! Publishes as the platform does, and records the messages that the broker accepted.

use std::collections::VecDeque;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, PubAck, PubComp, QoS};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::event::ItemEvent;
use super::mosquitto::{Mosquitto, PLATFORM, PLATFORM_PASSWORD};
use super::process::background;
use super::wait::SOON;

/// Messages in flight to the broker: enough that the round trip does not count.
const WINDOW: u16 = 100;

/// Mosquitto's `max_inflight_messages`, which bounds QoS-2 messages from a client too.
const QOS2_WINDOW: usize = 20;

/// Largest packet sent or received. Some tests send packets too large for a bridge.
const MAX_PACKET: usize = 64 * 1024 * 1024;

/// A publisher's connection. It does not reconnect, because a test that breaks it does so
/// explicitly.
pub struct TestPublisher {
    client: AsyncClient,
    /// Held while a message is queued. The position in this queue is the position in the publishing
    /// order, also with several tasks.
    waiters: Mutex<mpsc::Sender<oneshot::Sender<()>>>,
    task: AbortHandle,
}

impl TestPublisher {
    /// Connects to a broker's plain listener.
    pub async fn connect(broker: &Mosquitto) -> Self {
        let client_id = format!("platform-{}", uuid::Uuid::new_v4());
        let connected = Self::try_connect(broker.plain_port(), &client_id).await;
        connected.unwrap_or_else(|e| panic!("the publisher could not connect: {e}"))
    }

    /// Connects to a port and waits for CONNACK.
    pub async fn try_connect(port: u16, client_id: &str) -> Result<Self, String> {
        let mut options = MqttOptions::new(client_id, "127.0.0.1", port);
        options
            .set_credentials(PLATFORM, PLATFORM_PASSWORD)
            .set_keep_alive(Duration::from_secs(600))
            .set_inflight(WINDOW)
            .set_max_packet_size(MAX_PACKET, MAX_PACKET);
        let (client, mut events) = AsyncClient::new(options, usize::from(WINDOW));
        let (opened_tx, opened) = oneshot::channel();
        let (waiters, waiting) = mpsc::channel(usize::from(WINDOW));
        let task = background().spawn(async move {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    let _ = opened_tx.send(Ok(()));
                    follow(events, waiting).await;
                }
                Ok(other) => drop(opened_tx.send(Err(format!("{other:?} instead of CONNACK")))),
                Err(error) => drop(opened_tx.send(Err(error.to_string()))),
            }
        });
        let publisher = Self { client, waiters: Mutex::new(waiters), task: task.abort_handle() };
        opened.await.map_err(|_| "the connection task ended".to_owned())??;
        Ok(publisher)
    }

    /// Publishes at QoS 1 and waits for the broker's PUBACK. Returns false if the connection broke
    /// first. The broker may or may not have the message then.
    pub async fn publish(&self, topic: &str, payload: impl Into<Vec<u8>>) -> bool {
        self.publish_all([(topic.to_owned(), payload.into())]).await == 1
    }

    /// Publishes all at QoS 1, several in flight. Returns how many, counted from the first, the
    /// broker acknowledged before the connection broke, or all.
    pub async fn publish_all(
        &self,
        messages: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> usize {
        self.publish_all_at(QoS::AtLeastOnce, messages).await
    }

    async fn publish_all_at(
        &self,
        qos: QoS,
        messages: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> usize {
        let mut under_way = VecDeque::new();
        let mut acknowledged = 0;
        for (topic, payload) in messages {
            let Some(waiter) = self.queue(&topic, payload, qos, false).await else { break };
            under_way.push_back(waiter);
            while under_way.len() >= usize::from(WINDOW) {
                acknowledged += usize::from(acked(under_way.pop_front()).await);
            }
        }
        while !under_way.is_empty() {
            acknowledged += usize::from(acked(under_way.pop_front()).await);
        }
        acknowledged
    }

    /// Publishes item events in their JSON form. Panics unless the broker accepts all.
    pub async fn publish_json(&self, events: &[ItemEvent]) {
        let messages = events.iter().map(|e| (e.json_topic(), e.json().to_string().into_bytes()));
        assert_eq!(self.publish_all(messages).await, events.len(), "the broker took not all");
    }

    /// Does the same as [`TestPublisher::publish_json`] at QoS 2, few in flight, because Mosquitto
    /// drops messages beyond its window.
    pub async fn publish_json_qos2(&self, events: &[ItemEvent]) {
        for few in events.chunks(QOS2_WINDOW) {
            let messages = few.iter().map(|e| (e.json_topic(), e.json().to_string().into_bytes()));
            let taken = self.publish_all_at(QoS::ExactlyOnce, messages).await;
            assert_eq!(taken, few.len(), "the broker took not all");
        }
    }

    /// Publishes item events in protobuf. Panics unless the broker accepts all.
    pub async fn publish_protobuf(&self, events: &[ItemEvent]) {
        let messages = events.iter().map(|e| (e.protobuf_topic(), e.protobuf()));
        assert_eq!(self.publish_all(messages).await, events.len(), "the broker took not all");
    }

    /// Publishes at QoS 0, which nobody acknowledges. Messages published after it at QoS 1 arrive
    /// after it.
    pub async fn publish_qos0(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.client.publish(topic, QoS::AtMostOnce, false, payload).await.unwrap();
    }

    /// Publishes a retained message at QoS 1.
    pub async fn publish_retained(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        let waiter = self.queue(topic, payload.into(), QoS::AtLeastOnce, true).await;
        assert!(acked(waiter).await, "the broker did not take the retained message");
    }

    /// Queues a publish. Returns `None` if the connection is gone.
    async fn queue(
        &self,
        topic: &str,
        payload: Vec<u8>,
        qos: QoS,
        retain: bool,
    ) -> Option<oneshot::Receiver<()>> {
        let (done, waiter) = oneshot::channel();
        let waiters = self.waiters.lock().await;
        waiters.send(done).await.ok()?;
        self.client.publish(topic, qos, retain, payload).await.ok()?;
        Some(waiter)
    }
}

impl Drop for TestPublisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn acked(waiter: Option<oneshot::Receiver<()>>) -> bool {
    match waiter {
        Some(waiter) => tokio::time::timeout(SOON, waiter).await.is_ok_and(|acked| acked.is_ok()),
        None => false,
    }
}

/// Matches PUBACKs and PUBCOMPs with their waiters until the connection ends.
async fn follow(mut events: EventLoop, mut waiting: mpsc::Receiver<oneshot::Sender<()>>) {
    let mut under_way: VecDeque<(u16, oneshot::Sender<()>)> = VecDeque::new();
    while let Ok(event) = events.poll().await {
        match event {
            Event::Outgoing(Outgoing::Publish(id)) if id != 0 => {
                // The waiter was queued before the message was.
                if let Ok(waiter) = waiting.try_recv() {
                    under_way.push_back((id, waiter));
                }
            }
            Event::Incoming(
                Packet::PubAck(PubAck { pkid }) | Packet::PubComp(PubComp { pkid }),
            ) => {
                if let Some(place) = under_way.iter().position(|(id, _)| *id == pkid) {
                    let _ = under_way.remove(place).map(|(_, waiter)| waiter.send(()));
                }
            }
            _ => {}
        }
    }
}
