//! Happy eyeballs (RFC 8305): connects to the addresses of a name one shortly after another, without
//! waiting for those that do not answer. Name resolution is not part of it.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// Timing of the attempts.
#[derive(Debug, Clone, Copy)]
pub struct RacePace {
    /// Time from the beginning of one attempt to the next, unless one fails before. RFC 8305 calls
    /// it the Connection Attempt Delay.
    pub delay: Duration,
    /// Time that the other attempts may take after the first success.
    pub patience: Duration,
}

/// Timing that takes the first connection. The delay is the one that RFC 8305 recommends in section 5.
pub const FIRST: RacePace =
    RacePace { delay: Duration::from_millis(250), patience: Duration::ZERO };

/// Timing that tries every address. The patience leaves time to repeat a SYN twice.
pub const EVERY: RacePace = RacePace { delay: Duration::ZERO, patience: Duration::from_secs(5) };

/// The result of the attempts.
#[derive(Debug)]
pub struct RaceOutcome<S> {
    /// Connections, in the order of success.
    pub reached: Vec<ReachedAddress<S>>,
    /// Failed attempts. An address that was not tried is in neither list.
    pub failed: Vec<FailedAttempt>,
}

/// An established connection with its address.
#[derive(Debug)]
pub struct ReachedAddress<S> {
    /// The stream of the connection.
    pub stream: S,
    /// The address that accepted it.
    pub address: SocketAddr,
    /// Time from the beginning of the attempt to the connection.
    pub took: Duration,
}

/// An attempt without a connection.
#[derive(Debug, thiserror::Error)]
#[error("{address} {cause}")]
pub struct FailedAttempt {
    /// The address that was tried.
    pub address: SocketAddr,
    /// The reason of the failure.
    pub cause: AttemptError,
}

impl FailedAttempt {
    /// Returns true if the failure is worth a report although another address was reached. A refusal by
    /// a loopback address is not: `localhost` has an address of each family, and servers often listen on
    /// one of them.
    pub fn is_noteworthy(&self) -> bool {
        let refused = matches!(self.cause, AttemptError::Io(_));
        !(refused && self.address.ip().is_loopback())
    }
}

/// The reason why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The network reported an error.
    #[error("failed: {0}")]
    Io(#[from] io::Error),
    /// There was no answer for this long.
    #[error("did not answer within {:.1} s", .0.as_secs_f64())]
    Unanswered(Duration),
}

/// Sorts addresses so that the families alternate, beginning with the one that the system prefers
/// (RFC 8305, section 4). Those in `suspects` come last, in the order given there.
pub fn order(addresses: &[SocketAddr], suspects: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut unique: Vec<SocketAddr> = Vec::with_capacity(addresses.len());
    for address in addresses {
        if !unique.contains(address) && !suspects.contains(address) {
            unique.push(*address);
        }
    }
    let first_is_v6 = unique.first().is_some_and(SocketAddr::is_ipv6);
    let (preferred, other): (Vec<_>, Vec<_>) =
        unique.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let mut ordered = Vec::with_capacity(addresses.len());
    loop {
        let pair = [preferred.next(), other.next()];
        if pair == [None, None] {
            break;
        }
        ordered.extend(pair.into_iter().flatten());
    }
    ordered.extend(suspects.iter().filter(|suspect| addresses.contains(suspect)));
    ordered
}

/// Addresses that accepted a TCP connection but not the session when they were last tried. They are
/// tried after the others, in the order in which they failed.
#[derive(Debug, Default)]
pub struct SuspectAddresses(Mutex<Vec<SocketAddr>>);

impl SuspectAddresses {
    /// Records if a session could be established at an address.
    pub fn note(&self, address: SocketAddr, works: bool) {
        let mut suspects = self.lock();
        suspects.retain(|suspect| *suspect != address);
        if !works {
            suspects.push(address);
        }
    }

    /// Sorts addresses as [`order`] does.
    pub fn order(&self, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        order(addresses, &self.lock())
    }

    /// Returns true if every address worked when it was last tried.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        // Each change leaves the list complete.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects by TCP to the fastest address or to every one, as `pace` defines.
pub async fn connect_tcp(
    addresses: &[SocketAddr],
    pace: RacePace,
    deadline: Instant,
) -> RaceOutcome<TcpStream> {
    race(addresses, pace, deadline, |address| async move {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    })
    .await
}

struct ConnectAttempt<F> {
    address: SocketAddr,
    began: Instant,
    future: Pin<Box<F>>,
}

/// Connects with `dial`, at most until the deadline. Returns the connections and the failures.
pub async fn race<S, F>(
    addresses: &[SocketAddr],
    pace: RacePace,
    deadline: Instant,
    dial: impl Fn(SocketAddr) -> F,
) -> RaceOutcome<S>
where
    F: Future<Output = io::Result<S>>,
{
    let mut outcome = RaceOutcome { reached: Vec::new(), failed: Vec::new() };
    let mut waiting = addresses.iter().copied();
    let mut attempts: Vec<ConnectAttempt<F>> = Vec::new();
    let (mut end, mut next) = (deadline, Instant::now());
    while !(attempts.is_empty() && waiting.len() == 0) {
        tokio::select! {
            biased;
            (attempt, result) = poll_fn(|context| poll_any(&mut attempts, context)) => {
                let ConnectAttempt { address, began, .. } = attempt;
                match result {
                    Ok(stream) => {
                        outcome.reached.push(ReachedAddress { stream, address, took: began.elapsed() });
                        if pace.patience.is_zero() {
                            break;
                        }
                        end = end.min(Instant::now() + pace.patience);
                    }
                    Err(error) => {
                        outcome.failed.push(FailedAttempt { address, cause: error.into() });
                        next = Instant::now();
                    }
                }
            }
            () = sleep_until(end) => break,
            () = sleep_until(next), if waiting.len() > 0 => {
                let began = Instant::now();
                next = began + pace.delay;
                // The branch is enabled only while an address is left.
                let Some(address) = waiting.next() else { break };
                attempts.push(ConnectAttempt { address, began, future: Box::pin(dial(address)) });
            }
        }
    }
    outcome.failed.extend(attempts.into_iter().map(|attempt| FailedAttempt {
        address: attempt.address,
        cause: AttemptError::Unanswered(attempt.began.elapsed()),
    }));
    outcome
}

fn poll_any<S, F: Future<Output = io::Result<S>>>(
    attempts: &mut Vec<ConnectAttempt<F>>,
    context: &mut Context<'_>,
) -> Poll<(ConnectAttempt<F>, io::Result<S>)> {
    let ready = attempts.iter_mut().enumerate().find_map(|(place, attempt)| {
        match attempt.future.as_mut().poll(context) {
            Poll::Ready(result) => Some((place, result)),
            Poll::Pending => None,
        }
    });
    match ready {
        Some((place, result)) => Poll::Ready((attempts.remove(place), result)),
        None => Poll::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn v4(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 8883))
    }

    fn v6(last: u16) -> SocketAddr {
        SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], 8883))
    }

    /// Answers by the last part of the address: 1 accepts at once, 2 after a second, 3 refuses, any
    /// other is silent.
    async fn dial(address: SocketAddr) -> io::Result<SocketAddr> {
        match address {
            _ if [v4(1), v6(1)].contains(&address) => Ok(address),
            _ if [v4(2), v6(2)].contains(&address) => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(address)
            }
            _ if [v4(3), v6(3)].contains(&address) => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => std::future::pending().await,
        }
    }

    async fn raced(
        addresses: &[SocketAddr],
        pace: RacePace,
    ) -> (RaceOutcome<SocketAddr>, Duration) {
        let began = Instant::now();
        let outcome = race(addresses, pace, began + LIMIT, dial).await;
        (outcome, began.elapsed())
    }

    fn reached(outcome: &RaceOutcome<SocketAddr>) -> Vec<SocketAddr> {
        outcome.reached.iter().map(|reached| reached.stream).collect()
    }

    #[test]
    fn families_alternate_and_suspects_come_last() {
        let resolved = [v6(1), v6(2), v6(3), v4(1), v4(2), v6(1)];
        assert_eq!(order(&resolved, &[]), [v6(1), v4(1), v6(2), v4(2), v6(3)]);
        let suspects = [v4(9), v6(2), v6(1)];
        assert_eq!(order(&resolved, &suspects), [v6(3), v4(1), v4(2), v6(2), v6(1)]);
        assert_eq!(order(&[v4(1)], &[v4(1)]), [v4(1)]);
        assert_eq!(order(&[], &suspects), []);
    }

    #[tokio::test(start_paused = true)]
    async fn silent_address_delays_the_next_by_250_ms() {
        let (outcome, took) = raced(&[v6(4), v4(1)], FIRST).await;
        assert_eq!(reached(&outcome), [v4(1)]);
        assert!((250..260).contains(&took.as_millis()), "{took:?}");
        let [FailedAttempt { address, cause: AttemptError::Unanswered(_) }] = &outcome.failed[..]
        else {
            panic!("{outcome:?}")
        };
        assert_eq!(*address, v6(4));
    }

    #[tokio::test(start_paused = true)]
    async fn refusal_starts_the_next_at_once() {
        let (outcome, took) = raced(&[v6(3), v4(3), v4(1)], FIRST).await;
        assert_eq!(reached(&outcome), [v4(1)]);
        assert!(took < Duration::from_millis(10), "{took:?}");
        assert_eq!(outcome.failed.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn first_answer_ends_the_race() {
        let (outcome, took) = raced(&[v6(2), v4(1), v6(1)], FIRST).await;
        assert_eq!(reached(&outcome), [v4(1)]);
        assert!(took < Duration::from_millis(300), "{took:?}");
        assert_eq!(outcome.failed.len(), 1, "the slow one only: {outcome:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn deadline_ends_silent_attempts() {
        let (outcome, took) = raced(&[v6(4), v4(4), v4(3)], FIRST).await;
        assert_eq!((reached(&outcome).len(), outcome.failed.len()), (0, 3));
        assert!(took >= LIMIT && took < LIMIT + Duration::from_millis(10), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn every_address_is_tried_within_the_patience() {
        let (outcome, took) = raced(&[v6(4), v4(1), v6(2), v4(3)], EVERY).await;
        assert_eq!(reached(&outcome), [v4(1), v6(2)]);
        assert_eq!(outcome.failed.len(), 2);
        assert!(took <= EVERY.patience + Duration::from_millis(10), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_address_ends_at_once() {
        let (outcome, took) = raced(&[], FIRST).await;
        assert!(outcome.reached.is_empty() && outcome.failed.is_empty() && took.is_zero());
    }
}
