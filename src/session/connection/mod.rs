//! One connection, from CONNACK to its end. Its state ends with it, except for the room that its
//! deliveries still take in the ledger. The broker redelivers un-acknowledged messages on the next
//! one.
//!
//! `select!` in [`BrokerConnection::drive`] waits for an event, methods without `await` change the
//! state and queue packets, and queued packets are written before the next packet is read.

mod acknowledging;
mod disconnect_reason;
mod disconnecting;
mod keep_alive;
mod packet_ids;
mod read_pause;
mod receiving;
mod retirement;
mod subscription;

use std::time::Duration;

use rumqttc::{ConnectionError, StateError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

pub use self::disconnect_reason::DisconnectReason;
use self::keep_alive::KeepAlive;
pub use self::keep_alive::ping_interval;
use self::packet_ids::PacketIds;
use self::read_pause::ReadPause;
use self::retirement::SessionRetirement;
pub use self::subscription::SubscriptionGrants;
use self::subscription::SubscriptionState;
use super::context::SessionContext;
use super::control::SessionControl;
use super::feedback::{publish_unacked, save_gaps};
use super::gaps::GapTracker;
use super::intake_sender::IntakeSender;
use super::ledger::{DeliveryLedger, LedgerBound};
use super::transport::{AcceptedConnection, IncomingPacket, OutgoingPacket, Transport};
use crate::progress;
use crate::stream::ack::ConnectionId;
use crate::stream::message::Feedback;

/// Interval at which metrics are refreshed and time limits checked.
const TICK: Duration = Duration::from_secs(1);

/// Gives up writing after this long, because the broker is not reading: shorter than any sensible
/// keep-alive.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Gives up sending DISCONNECT after this long.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Packets applied before other events are handled: enough to save system calls, few enough that
/// acknowledgements are sent promptly.
const READ_BURST: usize = 128;

/// End of a connection, with its reason.
#[derive(Debug)]
pub struct Disconnected {
    /// Number of the connection in this process.
    pub id: ConnectionId,
    /// Cause of the end.
    pub reason: DisconnectReason,
    /// Time from CONNACK to the end.
    pub uptime: Duration,
    /// True if the broker granted a subscription, which proves the credentials.
    pub granted: bool,
    /// Silence in both directions before the end, if an idle timeout explains the end.
    pub idle: Option<Duration>,
}

/// Session state that outlives a connection and is borrowed by it.
pub struct SessionState<'a> {
    /// Settings, metrics and health.
    pub context: &'a SessionContext,
    /// Sends to the next stage. `None` once the session accepts no more messages.
    pub intake: &'a mut Option<IntakeSender>,
    /// Ledger of the un-acknowledged deliveries.
    pub ledger: &'a mut DeliveryLedger,
    /// Tracks gaps that are not durable yet.
    pub gaps: &'a mut GapTracker,
    /// Time between two PINGREQs.
    pub ping_interval: Duration,
}

/// The state of one connection.
pub struct BrokerConnection<'a> {
    state: SessionState<'a>,
    id: ConnectionId,
    opened: Instant,
    subscription: SubscriptionState,
    granted: bool,
    packet_ids: PacketIds,
    /// Filters of UNSUBSCRIBE packets without an UNSUBACK yet, by packet id.
    unsubscribing: Vec<(u16, String)>,
    /// Packets to be written. Invariant: empty whenever a packet is read.
    outgoing: Vec<OutgoingPacket>,
    keep_alive: KeepAlive,
    next_tick: Instant,
    /// Set while reading is paused, so that TCP flow control holds the broker back.
    paused: Option<ReadPause>,
    /// Set once the ledger is sealed because a pause would have outlived the keep-alive.
    refusing: Option<LedgerBound>,
    /// Deliveries refused since the ledger was sealed.
    refused: usize,
    /// Since when new credentials have been waiting for a moment without un-acknowledged deliveries.
    renewing: Option<Instant>,
    /// Set if the session is to be retired.
    retirement: Option<SessionRetirement>,
    /// Since when the broker may be waiting for an acknowledgement that cannot be sent on this
    /// connection.
    unclear_since: Option<Instant>,
    /// Set once DISCONNECT is to be sent after the queued packets, with the reason.
    disconnecting: Option<DisconnectReason>,
}

impl<'a> BrokerConnection<'a> {
    /// Runs an accepted connection until it ends.
    pub async fn run(
        state: SessionState<'a>,
        id: ConnectionId,
        accepted: AcceptedConnection,
        feedback: &mut mpsc::Receiver<Feedback>,
        control: &mut SessionControl,
    ) -> Disconnected {
        let AcceptedConnection { transport, session_present } = accepted;
        let now = Instant::now();
        let mut connection = Self::new(state, id, now);
        connection.retirement =
            control.retire.clone().map(|empty| SessionRetirement::new(empty, now));
        let reason = connection.drive(session_present, transport, feedback, control).await;
        connection.finish(reason)
    }

    fn new(state: SessionState<'a>, id: ConnectionId, now: Instant) -> Self {
        Self {
            id,
            opened: now,
            subscription: SubscriptionState::Partial(now),
            granted: false,
            packet_ids: PacketIds::default(),
            unsubscribing: Vec::new(),
            outgoing: Vec::new(),
            keep_alive: KeepAlive::new(state.context.mqtt.keep_alive, state.ping_interval, now),
            next_tick: now + TICK,
            paused: None,
            refusing: None,
            refused: 0,
            renewing: None,
            retirement: None,
            unclear_since: None,
            disconnecting: None,
            state,
        }
    }

    async fn drive(
        &mut self,
        session_present: bool,
        mut transport: Box<dyn Transport>,
        feedback: &mut mpsc::Receiver<Feedback>,
        control: &mut SessionControl,
    ) -> DisconnectReason {
        let mut drained = false;
        let mut result = self.open(session_present);
        loop {
            progress::tick();
            let result_so_far = result.and_then(|()| self.disconnect_if_due(drained));
            if let Err(reason) = result_so_far {
                return reason;
            }
            save_gaps(self.state.context, self.state.gaps).await;
            if let Err(reason) = self.write(transport.as_mut()).await {
                return reason;
            }
            self.publish_metrics();
            result = tokio::select! {
                biased;
                command = control.next(self.state.intake.is_some()) => self.handle_command(command),
                () = sleep_until(self.next_deadline()) => self.on_tick(),
                feedback = feedback.recv(), if !drained => {
                    drained = feedback.is_none();
                    self.apply_feedback(feedback)
                }
                packet = transport.read(), if self.is_reading() => {
                    self.apply_burst(packet, transport.as_mut())
                }
            };
        }
    }

    /// Reports the CONNACK to the downstream stages and subscribes.
    fn open(&mut self, session_present: bool) -> Result<(), DisconnectReason> {
        let SessionState { context, intake, ledger, gaps, .. } = &mut self.state;
        ledger.begin(self.id);
        let Some(intake) = intake.as_ref() else { return Err(DisconnectReason::Stopped) };
        let connection = self.id.0;
        tracing::info!(connection, session_present, "the broker accepted the connection");
        let opened = context.opened(self.id, session_present);
        for event in gaps.opened(context.is_first_connection(), opened) {
            intake.send_event(event)?;
        }
        if self.retirement.is_none() {
            self.subscribe();
        }
        Ok(())
    }

    fn finish(mut self, reason: DisconnectReason) -> Disconnected {
        let now = Instant::now();
        self.state.gaps.stall.disconnected(now);
        // If the pipeline is gone, the next one reports the gap.
        let _ = self.end_drops();
        publish_unacked(self.state.context, self.state.ledger);
        self.state.context.metrics.oldest_unacked_seconds.set(0.0);
        self.state.context.health.update(|snapshot| snapshot.session.connection = None);
        let uptime = now - self.opened;
        let idle = self.keep_alive.idle_before_end(now);
        Disconnected { id: self.id, reason, uptime, granted: self.granted, idle }
    }

    /// Writes all queued packets at once, followed by DISCONNECT if the connection is to end. The
    /// broker keeps the durable session.
    async fn write(&mut self, transport: &mut dyn Transport) -> Result<(), DisconnectReason> {
        self.release_acks();
        // After the release, which frees room.
        self.pause_or_resume();
        if !self.outgoing.is_empty() {
            let packets = std::mem::take(&mut self.outgoing);
            let is_ack = |packet: &&OutgoingPacket| {
                matches!(packet, OutgoingPacket::PubAck(_) | OutgoingPacket::PubRec(_))
            };
            let acks = packets.iter().filter(is_ack).count() as u64;
            match timeout(WRITE_TIMEOUT, transport.write(packets)).await {
                Ok(written) => written.map_err(DisconnectReason::failed)?,
                Err(_) => return Err(DisconnectReason::failed(ConnectionError::FlushTimeout)),
            }
            self.keep_alive.sent(Instant::now());
            self.acknowledged(acks)?;
        }
        let Some(reason) = self.disconnecting.take() else { return Ok(()) };
        let _ =
            timeout(DISCONNECT_TIMEOUT, transport.write(vec![OutgoingPacket::Disconnect])).await;
        Err(reason)
    }

    fn is_reading(&self) -> bool {
        self.paused.is_none() && self.state.intake.is_some()
    }

    fn apply_burst(
        &mut self,
        first: Result<IncomingPacket, ConnectionError>,
        transport: &mut dyn Transport,
    ) -> Result<(), DisconnectReason> {
        let first = first.map_err(DisconnectReason::failed)?;
        self.keep_alive.received(Instant::now());
        self.apply(first)?;
        for _ in 1..READ_BURST {
            if !self.is_reading() {
                break;
            }
            let Some(packet) = transport.read_ready() else { break };
            self.apply(packet.map_err(DisconnectReason::failed)?)?;
        }
        Ok(())
    }

    fn apply(&mut self, packet: IncomingPacket) -> Result<(), DisconnectReason> {
        match packet {
            IncomingPacket::Publish(publish) => self.apply_publish(publish),
            IncomingPacket::SubAck { packet_id, granted } => self.apply_suback(packet_id, &granted),
            IncomingPacket::UnsubAck(packet_id) => Ok(self.apply_unsuback(packet_id)?),
            IncomingPacket::PubRel(packet_id) => {
                self.outgoing.push(OutgoingPacket::PubComp(packet_id));
                Ok(())
            }
            IncomingPacket::PingResp => {
                if let Some(retirement) = &mut self.retirement {
                    retirement.ping_answered();
                }
                Ok(())
            }
        }
    }

    fn next_deadline(&self) -> Instant {
        self.next_tick.min(self.keep_alive.next_ping())
    }

    fn on_tick(&mut self) -> Result<(), DisconnectReason> {
        let now = Instant::now();
        self.next_tick = now + TICK;
        if self.keep_alive.is_due(now) {
            self.keep_alive
                .ping(now, self.is_reading())
                .map_err(|_lost| DisconnectReason::failed(StateError::AwaitPingResp.into()))?;
            self.outgoing.push(OutgoingPacket::PingReq);
        }
        self.note_stall()?;
        self.continue_retirement(now)?;
        let is_unclear = self.state.ledger.has_unclear_repeats();
        self.unclear_since = is_unclear.then(|| self.unclear_since.unwrap_or(now));
        if self.state.ledger.has_recovered() {
            self.end_drops()?;
        }
        let limit = self.state.context.mqtt.connect_timeout;
        if self.is_reading() && self.subscription.is_unanswered(limit, now) {
            return Err(DisconnectReason::Protocol(
                "the broker did not answer SUBSCRIBE in time".into(),
            ));
        }
        if self.retirement.is_none() && self.subscription.is_repeat_due(now) {
            self.subscribe();
        }
        Ok(())
    }

    fn publish_metrics(&self) {
        let SessionState { context, ledger, .. } = &self.state;
        publish_unacked(context, ledger);
        let age = ledger.oldest().map_or(0.0, |since| since.elapsed().as_secs_f64());
        context.metrics.oldest_unacked_seconds.set(age);
    }
}
