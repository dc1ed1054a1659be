//! The admin endpoint's address: is it free, or held by the bridge that runs already?

use std::net::SocketAddr;

use crate::admin::client::{StatusError, fetch};
use crate::config::Config;
use crate::credentials::preflight::{Check, Status};

const NAME: &str = "admin_listen";
const EXPECTED: &str = "an address that is free, or served by this bridge";

pub(super) async fn check(config: &Config) -> Check {
    let Some(address) = config.admin_listen else {
        return Check::ok(NAME, "turned off");
    };
    // Asked before it is tried, so that a service that starts right now finds it free.
    match fetch(&address.into()).await {
        Ok(status) if status["client_id"] == config.mqtt.client_id.as_str() => {
            Check::ok(NAME, format!("{address} is served by the running bridge"))
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
            super::from_sentence(NAME, Status::Failed, &error.to_string(), EXPECTED, see)
        }
    }
}

async fn bind(address: SocketAddr) -> Check {
    match crate::admin::bind(address).await {
        Ok(_) => Check::ok(NAME, format!("{address} is free")),
        Err(error) => Check::from_sentence(NAME, Status::Failed, &error.to_string(), EXPECTED),
    }
}

fn failed(found: String, what_to_do: &str) -> Check {
    Check::trouble(NAME, Status::Failed, found, EXPECTED, what_to_do)
}
