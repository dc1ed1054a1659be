//! Failures of the HTTP proxy on the way to the broker.
//!
//! rumqttc does not export its proxy error, so it is taken apart through `std::error::Error`;
//! tests against a real refusing proxy pin the texts relied upon.

use std::error::Error;
use std::io;

use super::cause::{IoCause, lookup_detail};
use super::{Context, Failure, FailureKind};
use crate::config::Proxy;

/// How the proxy library introduces the status of a refusal.
const STATUS: &str = "The HTTP code is not equal 200: ";

/// The proxy itself could not be reached.
pub(super) fn first_hop(proxy: &Proxy, error: &io::Error) -> Failure {
    let name = format!("the proxy {}:{}", proxy.host, proxy.port);
    Failure::new(FailureKind::Proxy, unreachable(&name, error))
}

pub(super) fn explain(context: &Context<'_>, error: &(dyn Error + 'static)) -> Failure {
    let proxy = match &context.mqtt.proxy {
        Some(proxy) => format!("the proxy {}:{}", proxy.host, proxy.port),
        None => "the proxy".to_owned(),
    };
    let status = status(error);
    let sentence = match (status, io_error(error)) {
        (Some(status), _) => refused(context, &proxy, status),
        (None, Some(error)) => unreachable(&proxy, error),
        (None, None) => format!(
            "{proxy} closed the connection or did not answer as an HTTP proxy; check that \
             mqtt.proxy names an HTTP proxy that allows CONNECT to port {}",
            context.mqtt.port
        ),
    };
    let kind = match status {
        Some(400..500) => FailureKind::ProxyRefused,
        _ => FailureKind::Proxy,
    };
    Failure::new(kind, sentence)
}

fn refused(context: &Context<'_>, proxy: &str, status: u16) -> String {
    let (host, port) = (&context.mqtt.host, context.mqtt.port);
    let given = context.mqtt.proxy.as_ref().is_some_and(|proxy| proxy.credentials.is_some());
    let cure = match status {
        407 if given => "it does not accept the user and password in mqtt.proxy; correct them, \
                         percent-encoded where they hold special characters"
            .to_owned(),
        407 => "it asks for credentials: give them in mqtt.proxy, http://user:password@host:port"
            .to_owned(),
        502..=504 => "it could not reach the broker itself; check mqtt.host and mqtt.port, and \
                      the proxy's own network"
            .to_owned(),
        _ => format!(
            "ask whoever runs it to allow CONNECT to {host}:{port} for this machine, and not to \
             inspect the traffic"
        ),
    };
    format!("{proxy} refused to connect to {host}:{port} (HTTP status {status}): {cure}")
}

fn unreachable(proxy: &str, error: &io::Error) -> String {
    match IoCause::of(error) {
        IoCause::Dns => format!(
            "could not resolve the name of {proxy}: {}; check mqtt.proxy and this machine's DNS",
            lookup_detail(error)
        ),
        IoCause::Refused => {
            format!("{proxy} refused the TCP connection: nothing listens there; check mqtt.proxy")
        }
        IoCause::Closed => format!(
            "{proxy} closed the connection without an answer; check that mqtt.proxy names an HTTP \
             proxy"
        ),
        IoCause::Unreachable | IoCause::TimedOut | IoCause::Other => {
            format!("{proxy} cannot be reached: {error}; check mqtt.proxy and the network")
        }
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error: &&'a (dyn Error + 'static)| error.source())
}

fn status(error: &(dyn Error + 'static)) -> Option<u16> {
    causes(error).find_map(|error| error.to_string().strip_prefix(STATUS)?.parse().ok())
}

fn io_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    causes(error).find_map(|error| error.downcast_ref())
}
