//! The admin endpoint's address: is it free, or held by the bridge that runs already?

use super::line::{CheckLine, CheckStatus};
use super::names;
use std::net::SocketAddr;

use crate::admin::client::{StatusError, fetch};
use crate::config::Config;

const EXPECTED: &str = "an address that is free, or served by this bridge";

pub(super) async fn check(config: &Config) -> CheckLine {
    let Some(address) = config.admin_listen else {
        return CheckLine::ok(names::ADMIN_LISTEN, "turned off");
    };
    // Asked before it is tried, so that a service that starts right now finds it free.
    match fetch(&address.into()).await {
        Ok(status) if status["client_id"] == config.mqtt.client_id.as_str() => {
            CheckLine::ok(names::ADMIN_LISTEN, format!("{address} is served by the running bridge"))
        }
        Ok(status) => {
            let other = status["client_id"].as_str().unwrap_or_default();
            failed(
                format!("{address} is served by the bridge with the client id {other:?}"),
                "set admin.listen to a port of its own",
            )
        }
        Err(StatusError::NotRunning(_)) => bind(address).await,
        Err(error) => {
            let see = "see which program holds the port, or set admin.listen to another";
            CheckLine::from_sentence_or(
                names::ADMIN_LISTEN,
                CheckStatus::Failed,
                &error.to_string(),
                EXPECTED,
                see,
            )
        }
    }
}

async fn bind(address: SocketAddr) -> CheckLine {
    match crate::admin::bind(address).await {
        Ok(_) => CheckLine::ok(names::ADMIN_LISTEN, format!("{address} is free")),
        Err(error) => CheckLine::from_sentence(
            names::ADMIN_LISTEN,
            CheckStatus::Failed,
            &error.to_string(),
            EXPECTED,
        ),
    }
}

fn failed(found: String, what_to_do: &str) -> CheckLine {
    CheckLine::problem(names::ADMIN_LISTEN, CheckStatus::Failed, found, EXPECTED, what_to_do)
}
