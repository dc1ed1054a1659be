//! One connection, from CONNECT to its end. Everything here dies with it: rumqttc's client and
//! event loop, the ledger, the packet ids. What was not acknowledged, the broker delivers again
//! on the next one.

mod acknowledging;
mod receiving;
mod subscribing;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, ConnAck, ConnectionError, Event, EventLoop, Incoming, Outgoing};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::acks::Acks;
use super::intake::{Door, Gone};
use super::ledger::Ledger;
use super::orders::{Order, Orders};
use super::shared::Shared;
use crate::message::{ConnectionId, ConnectionNews, Feedback};
use crate::telemetry::health::Phase;

/// How often figures are refreshed and time-outs looked at.
const TICK: Duration = Duration::from_secs(1);

/// A SUBSCRIBE refused in part is repeated this often: rights may be granted meanwhile.
const RESUBSCRIBE_EVERY: Duration = Duration::from_secs(60);

/// How long new credentials wait for a moment in which nothing is un-acknowledged. After that the
/// broker delivers again what was; it makes no second rows.
const QUIET_WITHIN: Duration = Duration::from_secs(10);

/// A DISCONNECT that could not be written for so long is left unsaid: the broker does not read.
const GOODBYE_WITHIN: Duration = Duration::from_secs(5);

/// The end of a connection.
#[derive(Debug)]
pub struct Ended {
    /// Which connection.
    pub id: ConnectionId,
    /// Why.
    pub end: End,
    /// How long it was up after CONNACK; `None` if it never was.
    pub uptime: Option<Duration>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// Asked to; everything committed is acknowledged and DISCONNECT was sent.
    #[error("stopped")]
    Stopped,
    /// The stages behind are gone.
    #[error("the pipeline was rebuilt")]
    Gone,
    /// Payloads had to be dropped for want of room; now there is room for their redelivery.
    #[error("reconnected to take up what had found no room")]
    MakeRoom,
    /// Another process holds the session now.
    #[error("another process took the session over")]
    StandBy,
    /// New credentials are to be used.
    #[error("reconnected with renewed credentials")]
    Renewed,
    /// rumqttc gave up.
    #[error("{0}")]
    Failed(Box<ConnectionError>),
    /// Every filter was refused.
    #[error("{0}")]
    NotAuthorized(String),
    /// The broker did not answer in time, or not what was asked.
    #[error("{0}")]
    Protocol(String),
}

impl End {
    fn failed(error: ConnectionError) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl From<Gone> for End {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

/// A client and its event loop, never used for a second connection: rumqttc would send
/// acknowledgements queued for the first one, and deliver what it had buffered.
pub struct Attempt {
    /// Which connection this is.
    pub id: ConnectionId,
    /// Queues requests.
    pub client: AsyncClient,
    /// Does the work.
    pub event_loop: Box<EventLoop>,
}

/// What the broker did with the SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subscription {
    NotAsked,
    Asked(Instant),
    Granted,
    /// Not everything was granted; asked again at times.
    Partial(Instant),
}

/// The state of one connection. `select!` in [`Connection::drive`] yields what happened, the
/// methods change the state.
pub struct Connection<'a> {
    shared: &'a Shared,
    door: &'a mut Option<Door>,
    id: ConnectionId,
    client: AsyncClient,
    ledger: Ledger,
    acks: Acks,
    opened: Option<Instant>,
    subscription: Subscription,
    /// Filters in UNSUBSCRIBEs not answered yet, in order of sending.
    unsubscribing: VecDeque<String>,
    /// Size of the message that found no room; the ledger is sealed since.
    no_room_for: Option<usize>,
    /// Deliveries that were not let in, since the ledger was sealed.
    refused: usize,
    /// QoS-0 messages dropped for want of room: since when, and how many. A loss, written down
    /// once there is room again.
    dropped_qos0: Option<(OffsetDateTime, u64)>,
    /// Since when new credentials wait for a quiet moment.
    renewing: Option<Instant>,
    /// DISCONNECT was queued: since when, and what the end will be.
    goodbye: Option<(Instant, End)>,
}

/// `poll` is not safe to cancel, so its future is kept across events of other kinds and owns the
/// event loop meanwhile.
async fn poll(mut event_loop: Box<EventLoop>) -> (Box<EventLoop>, Result<Event, ConnectionError>) {
    let event = event_loop.poll().await;
    (event_loop, event)
}

impl<'a> Connection<'a> {
    /// Connects and stays until the end.
    pub async fn run(
        shared: &'a Shared,
        door: &'a mut Option<Door>,
        attempt: Attempt,
        feedback: &mut mpsc::Receiver<Feedback>,
        orders: &mut Orders,
    ) -> Ended {
        let Attempt { id, client, event_loop } = attempt;
        let mut connection = Self {
            shared,
            door,
            id,
            client,
            ledger: Ledger::new(id),
            acks: Acks::default(),
            opened: None,
            subscription: Subscription::NotAsked,
            unsubscribing: VecDeque::new(),
            no_room_for: None,
            refused: 0,
            dropped_qos0: None,
            renewing: None,
            goodbye: None,
        };
        let end = connection.drive(event_loop, feedback, orders).await;
        shared.memory().hold.disconnected(Instant::now());
        shared.health.update(|snapshot| snapshot.session.connection = None);
        let uptime = connection.opened.map(|opened| opened.elapsed());
        connection.publish_figures(true);
        let _ = connection.write_down_dropped_qos0(0);
        Ended { id, end, uptime }
    }

    async fn drive(
        &mut self,
        event_loop: Box<EventLoop>,
        feedback: &mut mpsc::Receiver<Feedback>,
        orders: &mut Orders,
    ) -> End {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut polling = Box::pin(poll(event_loop));
        let mut drained = false;
        loop {
            let result = tokio::select! {
                (mut event_loop, event) = &mut polling => {
                    let result = self.after_poll(&mut event_loop, event).await;
                    polling.set(poll(event_loop));
                    result
                }
                news = feedback.recv(), if !drained => {
                    drained = news.is_none();
                    self.apply_feedback(news)
                }
                order = orders.next(self.door.is_some()) => self.obey(order),
                _ = tick.tick() => self.look_at_the_clock(),
            };
            let result = result.and_then(|()| self.leave_if_due(drained));
            if let Err(end) = result {
                return end;
            }
        }
    }

    fn obey(&mut self, order: Order) -> Result<(), End> {
        match order {
            Order::Stop => self.begin_drain(),
            // What is left un-acknowledged, the broker delivers to the other process.
            Order::StandBy => self.say_goodbye(End::StandBy),
            Order::Renew if self.opened.is_none() => Err(End::Renewed),
            Order::Renew => {
                self.renewing.get_or_insert_with(Instant::now);
                Ok(())
            }
        }
    }

    /// Leaves once everything received is acknowledged, if it is to leave at all.
    fn leave_if_due(&mut self, drained: bool) -> Result<(), End> {
        if drained && self.acks.is_empty() {
            return self.say_goodbye(End::Stopped);
        }
        let Some(since) = self.renewing.filter(|_| self.door.is_some()) else { return Ok(()) };
        let quiet = self.ledger.outstanding() == 0 && self.acks.is_empty();
        if quiet || since.elapsed() > QUIET_WITHIN {
            return self.say_goodbye(End::Renewed);
        }
        Ok(())
    }

    /// Sends DISCONNECT, once; the connection ends when it has left. The durable session stays.
    fn say_goodbye(&mut self, end: End) -> Result<(), End> {
        if self.goodbye.is_some() {
            return Ok(());
        }
        if self.opened.is_none() || self.client.try_disconnect().is_err() {
            return Err(end);
        }
        self.goodbye = Some((Instant::now(), end));
        Ok(())
    }

    fn goodbye_said(&mut self) -> End {
        self.goodbye.take().map_or(End::Stopped, |(_, end)| end)
    }

    async fn after_poll(
        &mut self,
        event_loop: &mut EventLoop,
        event: Result<Event, ConnectionError>,
    ) -> Result<(), End> {
        let event = match event {
            Ok(event) => event,
            // Having been told goodbye, the broker may hang up first.
            Err(_) if self.goodbye.is_some() => return Err(self.goodbye_said()),
            Err(error) => return Err(End::failed(error)),
        };
        self.apply(event)?;
        while let Some(event) = event_loop.state.events.pop_front() {
            self.apply(event)?;
        }
        if self.acks_may_leave() {
            let written = self.acks.write(event_loop).await.map_err(End::failed)?;
            self.acknowledged(written)?;
        }
        self.publish_figures(false);
        Ok(())
    }

    fn apply(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Incoming(Incoming::Publish(publish)) => self.apply_publish(publish),
            Event::Incoming(Incoming::ConnAck(connack)) => self.apply_connack(&connack),
            Event::Incoming(Incoming::SubAck(suback)) => self.apply_suback(&suback.return_codes),
            Event::Incoming(Incoming::UnsubAck(_)) => self.apply_unsuback(),
            Event::Outgoing(outgoing) => {
                let left = self.acks.seen_leaving(&outgoing);
                self.acknowledged(left)?;
                if let Outgoing::Disconnect = outgoing { Err(self.goodbye_said()) } else { Ok(()) }
            }
            Event::Incoming(_) => Ok(()),
        }
    }

    fn apply_connack(&mut self, connack: &ConnAck) -> Result<(), End> {
        self.opened = Some(Instant::now());
        let Some(door) = self.door.as_ref() else { return Err(End::Stopped) };
        let session_present = connack.session_present;
        tracing::info!(
            connection = self.id.0,
            session_present,
            "the broker accepted the connection"
        );
        door.announce(self.shared.opened(self.id, session_present))?;
        if let Some(gap) = self.shared.memory().unsaid_gap() {
            door.announce(ConnectionNews::Gap(gap))?;
        }
        self.subscribe()
    }

    /// Closes the door, so that the stages behind finish what they hold and then the feedback
    /// ends.
    fn begin_drain(&mut self) -> Result<(), End> {
        self.ledger.seal();
        if let Some(door) = self.door.take() {
            self.shared.announce_closed(&door, self.id, "stopped");
        }
        self.shared.enter(Phase::Stopping, None);
        if self.opened.is_none() { Err(End::Stopped) } else { Ok(()) }
    }

    fn look_at_the_clock(&mut self) -> Result<(), End> {
        self.publish_figures(false);
        self.note_hold()?;
        if self.goodbye.as_ref().is_some_and(|(since, _)| since.elapsed() > GOODBYE_WITHIN) {
            return Err(self.goodbye_said());
        }
        match self.subscription {
            Subscription::Asked(since) if since.elapsed() > self.shared.mqtt.connect_timeout => {
                return Err(End::Protocol("the broker did not answer SUBSCRIBE in time".into()));
            }
            Subscription::Partial(since) if since.elapsed() > RESUBSCRIBE_EVERY => {
                self.subscribe()?;
            }
            _ => {}
        }
        self.write_down_dropped_qos0(1)?;
        match (self.no_room_for, self.door.as_ref()) {
            (Some(size), Some(door)) if door.has_recovered_for(size) && self.acks.is_empty() => {
                Err(End::MakeRoom)
            }
            _ => Ok(()),
        }
    }

    fn publish_figures(&self, ended: bool) {
        let metrics = &self.shared.metrics;
        let outstanding = if ended { 0 } else { self.ledger.outstanding() };
        metrics.unacked.set(i64::try_from(outstanding).unwrap_or(i64::MAX));
        let oldest = self.ledger.oldest().filter(|_| !ended);
        metrics
            .oldest_unacked_seconds
            .set(oldest.map_or(0.0, |since| since.elapsed().as_secs_f64()));
    }
}
