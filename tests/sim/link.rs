//! A connection between the bridge and the model broker. Packets wait on it in both directions
//! until the other side receives them, so that a cut can occur between any two.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use centiloc_bridge::session::transport::{
    IncomingPacket, OutgoingPacket, Transport, TransportFuture,
};
use rumqttc::ConnectionError;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::world::SimulatedWorld;

/// The state of the connection.
#[derive(Debug)]
pub struct ModelLink {
    /// Number of the connection in its schedule.
    pub number: u64,
    world: Arc<SimulatedWorld>,
    state: Mutex<LinkState>,
    changed: Notify,
}

#[derive(Debug)]
struct LinkState {
    to_client: VecDeque<IncomingPacket>,
    to_broker: VecDeque<OutgoingPacket>,
    /// True while the client can use it.
    open: bool,
    /// True once nothing passes any more, without notice to the client.
    silent: bool,
    /// True while the broker does not read, and the buffers between are full.
    stalled: bool,
    /// Number of packets of the client that wait in a write.
    writing: usize,
    /// Time at which the broker last received a packet of the client.
    heard: Instant,
}

impl ModelLink {
    /// Opens a connection.
    pub fn new(number: u64, world: &Arc<SimulatedWorld>) -> Arc<Self> {
        Arc::new(Self {
            number,
            world: Arc::clone(world),
            state: Mutex::new(LinkState {
                to_client: VecDeque::new(),
                to_broker: VecDeque::new(),
                open: true,
                silent: false,
                stalled: false,
                writing: 0,
                heard: Instant::now(),
            }),
            changed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap()
    }

    /// Sends a packet to the client.
    pub fn send(&self, packet: IncomingPacket) {
        let mut state = self.lock();
        if state.open && !state.silent {
            state.to_client.push_back(packet);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Receives the next packet of the client, unless the link is blocked.
    pub fn take(&self) -> Option<OutgoingPacket> {
        let mut state = self.lock();
        let packet = if state.stalled || state.silent { None } else { state.to_broker.pop_front() };
        if packet.is_some() {
            state.heard = Instant::now();
        }
        packet
    }

    /// Returns true if no packet waits for the broker.
    pub fn is_idle(&self) -> bool {
        self.lock().to_broker.is_empty()
    }

    /// Returns true while packets of the client wait in a write.
    pub fn is_writing(&self) -> bool {
        self.lock().writing > 0
    }

    /// Returns the time of the client's last packet.
    pub fn heard(&self) -> Instant {
        self.lock().heard
    }

    /// Ends the connection for both sides. With `orderly`, packets sent before still arrive.
    pub fn close(&self, orderly: bool) {
        let mut state = self.lock();
        state.open = false;
        if !orderly {
            state.to_client.clear();
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Stops all traffic, without notice to the client.
    pub fn silence(&self) {
        self.lock().silent = true;
    }

    /// Stops or resumes receiving packets of the client.
    pub fn stall(&self, stalled: bool) {
        self.lock().stalled = stalled;
        self.changed.notify_one();
    }

    /// Returns true while the broker may use it.
    pub fn is_usable(&self) -> bool {
        let state = self.lock();
        state.open && !state.silent
    }

    fn read_now(&self) -> Option<Result<IncomingPacket, ConnectionError>> {
        let mut state = self.lock();
        match state.to_client.pop_front() {
            Some(packet) => {
                drop(state);
                self.world.note(format_args!("{} client reads {}", self.number, short(&packet)));
                Some(Ok(packet))
            }
            None if state.open => None,
            None => Some(Err(broken())),
        }
    }

    fn is_stalled(&self) -> bool {
        let state = self.lock();
        state.open && state.stalled
    }

    async fn write_all(&self, packets: Vec<OutgoingPacket>) -> Result<(), ConnectionError> {
        self.lock().writing = packets.len();
        self.world.step_aside(0..=2).await;
        while self.is_stalled() {
            self.changed.notified().await;
        }
        if !self.lock().open {
            return Err(broken());
        }
        let whole = packets.len();
        let cut = self.world.fault_chance(4).then(|| self.world.index(whole + 1));
        for packet in packets.into_iter().take(cut.unwrap_or(whole)) {
            self.world.note(format_args!("{} client writes {packet:?}", self.number));
            let mut state = self.lock();
            if !state.silent {
                state.to_broker.push_back(packet);
            }
        }
        self.lock().writing = 0;
        if cut.is_some() {
            self.world.fault("connection cut within a write");
            self.close(false);
            return Err(broken());
        }
        self.world.step_aside(0..=2).await;
        Ok(())
    }
}

fn broken() -> ConnectionError {
    ConnectionError::Io(io::ErrorKind::ConnectionReset.into())
}

fn short(packet: &IncomingPacket) -> String {
    match packet {
        IncomingPacket::Publish(publish) => {
            let (event, _) = crate::message::identify(&publish.payload);
            format!(
                "PUBLISH event {event} id {} qos {} dup {}",
                publish.packet_id, publish.qos, publish.dup
            )
        }
        other => format!("{other:?}"),
    }
}

/// The bridge's end of a connection.
pub struct ClientEnd(pub Arc<ModelLink>);

impl Drop for ClientEnd {
    fn drop(&mut self) {
        self.0.close(false);
    }
}

impl Transport for ClientEnd {
    fn read(&mut self) -> TransportFuture<'_, IncomingPacket> {
        Box::pin(async {
            loop {
                if let Some(packet) = self.0.read_now() {
                    return packet;
                }
                self.0.changed.notified().await;
            }
        })
    }

    fn read_ready(&mut self) -> Option<Result<IncomingPacket, ConnectionError>> {
        self.0.read_now()
    }

    fn write(&mut self, packets: Vec<OutgoingPacket>) -> TransportFuture<'_, ()> {
        Box::pin(self.0.write_all(packets))
    }
}
