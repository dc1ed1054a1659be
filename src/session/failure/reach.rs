//! No address of the broker, or of the proxy before it, accepted a TCP connection.

use super::cause::{self, IoCause};
use super::{ConnectionFailure, FailureContext, FailureKind, proxy};
use crate::race::{AttemptError, FailedAttempt};

pub(super) fn explain(context: &FailureContext<'_>, failed: &[FailedAttempt]) -> ConnectionFailure {
    match failed {
        [FailedAttempt { cause: AttemptError::Io(error), .. }] => context.explain_first_hop(error),
        _ => several(context, failed),
    }
}

fn several(context: &FailureContext<'_>, failed: &[FailedAttempt]) -> ConnectionFailure {
    let attempts = describe(failed);
    if let Some(proxy) = &context.mqtt.proxy {
        return proxy::no_address(proxy, &attempts);
    }
    let (broker, port) = (context.broker(), context.mqtt.port);
    let kind = kind(failed);
    let remedy = match kind {
        FailureKind::TcpRefused => {
            "nothing listens there, or a firewall answers in its place; check mqtt.host and \
             mqtt.port (8883 at Centiloc)"
                .to_owned()
        }
        FailureKind::Timeout => {
            format!("a firewall may drop outgoing connections to port {port}; check the network")
        }
        _ => "check this machine's network, routes and firewall, or set mqtt.proxy where traffic \
              must pass one"
            .to_owned(),
    };
    ConnectionFailure::new(
        kind,
        format!("{broker} accepted no TCP connection: {attempts}; {remedy}"),
    )
}

/// Describes each attempt, for a sentence.
fn describe(failed: &[FailedAttempt]) -> String {
    let attempts: Vec<_> = failed.iter().map(ToString::to_string).collect();
    attempts.join(", ")
}

/// Returns the cause that a remedy is most likely to be found for: nothing listens only where every
/// address says so.
fn kind(failed: &[FailedAttempt]) -> FailureKind {
    let causes = || {
        failed.iter().map(|attempt| match &attempt.cause {
            AttemptError::Io(error) => IoCause::of(error),
            AttemptError::Unanswered(_) => IoCause::TimedOut,
        })
    };
    if causes().all(|cause| cause == IoCause::Refused) {
        FailureKind::TcpRefused
    } else if causes().any(|cause| cause == IoCause::TimedOut) {
        FailureKind::Timeout
    } else {
        FailureKind::TcpUnreachable
    }
}

/// Explains an address lookup without a result.
pub(super) fn lookup_failed(
    context: &FailureContext<'_>,
    error: &std::io::Error,
) -> ConnectionFailure {
    match &context.mqtt.proxy {
        Some(proxy) => proxy::lookup_failed(proxy, error),
        None => cause::lookup_failed(context, error),
    }
}
