//! Check of the address of the admin endpoint: it is free, or the running bridge holds it.

use std::net::SocketAddr;

use super::line::{CheckLine, CheckStatus};
use super::names;
use crate::admin::client::{StatusError, fetch};
use crate::config::Config;

const EXPECTED: &str = "an address that is free, or served by this bridge";

pub(super) async fn check(config: &Config) -> CheckLine {
    let Some(address) = config.admin_listen else {
        return CheckLine::ok(names::ADMIN_LISTEN, "turned off");
    };
    // Queried before it is bound, so that a service that starts right now finds the address free.
    match fetch(&address.into(), config.admin_token.as_ref()).await {
        Ok(status) if status["client_id"] == config.mqtt.client_id.as_str() => {
            CheckLine::ok(names::ADMIN_LISTEN, format!("{address} is served by the running bridge"))
        }
        Ok(status) => {
            let other = status["client_id"].as_str().unwrap_or_default();
            failed(
                format!("{address} is served by the bridge with the client id {other:?}"),
                "set admin.listen to an unused port",
            )
        }
        Err(StatusError::NotRunning(_)) => bind(address).await,
        Err(error) => {
            let remedy = "find the program that holds the port, or set admin.listen to another";
            CheckLine::from_sentence_or(
                names::ADMIN_LISTEN,
                CheckStatus::Failed,
                &error.to_string(),
                EXPECTED,
                remedy,
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
