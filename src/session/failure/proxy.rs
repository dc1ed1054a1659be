//! Explanations of failures of the HTTP proxy on the way to the broker.

use std::io;

use async_http_proxy::HttpError;

use super::cause::{IoCause, lookup_detail};
use super::{ConnectionFailure, FailureContext, FailureKind};
use crate::config::ProxyConfig;

/// Explains a network error on the way to the proxy.
pub(super) fn first_hop(proxy: &ProxyConfig, error: &io::Error) -> ConnectionFailure {
    ConnectionFailure::new(FailureKind::Proxy, unreachable(&name(proxy), error))
}

/// Explains a proxy of which no address accepted a connection.
pub(super) fn no_address(proxy: &ProxyConfig, attempts: &str) -> ConnectionFailure {
    let message = format!(
        "{} accepted no TCP connection: {attempts}; check mqtt.proxy and the network",
        name(proxy)
    );
    ConnectionFailure::new(FailureKind::Proxy, message)
}

/// Explains a proxy whose name could not be resolved.
pub(super) fn lookup_failed(proxy: &ProxyConfig, error: &io::Error) -> ConnectionFailure {
    let message = format!(
        "could not resolve the name of {}: {}; check mqtt.proxy and this machine's DNS",
        name(proxy),
        lookup_detail(error)
    );
    ConnectionFailure::new(FailureKind::Proxy, message)
}

fn name(proxy: &ProxyConfig) -> String {
    format!("the proxy {}:{}", proxy.host, proxy.port)
}

pub(super) fn explain(context: &FailureContext<'_>, error: &HttpError) -> ConnectionFailure {
    let proxy = context.mqtt.proxy.as_ref().map_or_else(|| "the proxy".to_owned(), name);
    let (kind, message) = match error {
        HttpError::HttpCode200(status) => {
            let by_policy = (400..500).contains(status);
            let kind = if by_policy { FailureKind::ProxyRefused } else { FailureKind::Proxy };
            (kind, refused(context, &proxy, *status))
        }
        HttpError::IoError(error) => (FailureKind::Proxy, unreachable(&proxy, error)),
        _ => (FailureKind::Proxy, no_http(context, &proxy)),
    };
    ConnectionFailure::new(kind, message)
}

fn no_http(context: &FailureContext<'_>, proxy: &str) -> String {
    format!(
        "{proxy} closed the connection or did not answer as an HTTP proxy; check that mqtt.proxy \
         names an HTTP proxy that allows CONNECT to port {}",
        context.mqtt.port
    )
}

fn refused(context: &FailureContext<'_>, proxy: &str, status: u16) -> String {
    let (host, port) = (&context.mqtt.host, context.mqtt.port);
    let given = context.mqtt.proxy.as_ref().is_some_and(|proxy| proxy.credentials.is_some());
    let remedy = match status {
        407 if given => "it does not accept the user and password in mqtt.proxy; correct them, \
                         percent-encoded where they hold special characters"
            .to_owned(),
        407 => "it asks for credentials: give them in mqtt.proxy, http://user:password@host:port"
            .to_owned(),
        502..=504 => "it could not reach the broker itself; check mqtt.host and mqtt.port, and \
                      the proxy's own network"
            .to_owned(),
        _ => format!(
            "ask its operator to allow CONNECT to {host}:{port} for this machine, and not to \
             inspect the traffic"
        ),
    };
    format!("{proxy} refused to connect to {host}:{port} (HTTP status {status}): {remedy}")
}

fn unreachable(proxy: &str, error: &io::Error) -> String {
    match IoCause::of(error) {
        IoCause::Refused => {
            format!(
                "{proxy} refused the TCP connection: no process listens there; check mqtt.proxy"
            )
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
