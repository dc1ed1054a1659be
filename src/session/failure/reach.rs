//! Explanations of attempts in which no address of the broker or proxy accepted a TCP connection.

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
            "no process listens there, or a firewall rejects it; check mqtt.host and \
             mqtt.port (8883 at Centiloc)"
                .to_owned()
        }
        FailureKind::Timeout => {
            format!("a firewall may drop outgoing connections to port {port}; check the network")
        }
        _ => "check this machine's network, routes and firewall, or set mqtt.proxy if traffic \
              must pass a proxy"
            .to_owned(),
    };
    ConnectionFailure::new(
        kind,
        format!("{broker} accepted no TCP connection: {attempts}; {remedy}"),
    )
}

/// Describes each attempt in one text.
fn describe(failed: &[FailedAttempt]) -> String {
    let attempts: Vec<_> = failed.iter().map(ToString::to_string).collect();
    attempts.join(", ")
}

/// Returns the cause with the most likely remedy. Only if every address refused the connection, no
/// process listens on the port.
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

/// Explains a failed name lookup.
pub(super) fn lookup_failed(
    context: &FailureContext<'_>,
    error: &std::io::Error,
) -> ConnectionFailure {
    match &context.mqtt.proxy {
        Some(proxy) => proxy::lookup_failed(proxy, error),
        None => cause::lookup_failed(context, error),
    }
}
