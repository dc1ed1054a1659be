//! What the broker says in MQTT, and what it must not say.

use rumqttc::mqttbytes;
use rumqttc::{ConnectReturnCode, StateError};

use super::{Context, Failure, FailureKind, cause};

/// CONNACK with a return code other than 0.
pub(super) fn of_connack(context: &Context<'_>, code: ConnectReturnCode) -> Failure {
    match code {
        ConnectReturnCode::RefusedProtocolVersion => refused(context, Refused::Version),
        ConnectReturnCode::BadClientId => refused(context, Refused::Identifier),
        ConnectReturnCode::ServiceUnavailable => refused(context, Refused::Unavailable),
        ConnectReturnCode::BadUserNamePassword => refused(context, Refused::Credentials),
        ConnectReturnCode::NotAuthorized => refused(context, Refused::NotAuthorized),
        ConnectReturnCode::Success => not_a_connack(context),
    }
}

#[derive(Clone, Copy)]
enum Refused {
    Version,
    Identifier,
    Unavailable,
    Credentials,
    NotAuthorized,
}

fn refused(context: &Context<'_>, why: Refused) -> Failure {
    let broker = context.broker();
    let id = &context.mqtt.client_id;
    let (kind, sentence) = match why {
        Refused::Version => (
            FailureKind::ProtocolVersion,
            format!("{broker} does not speak MQTT 3.1.1; check mqtt.host and mqtt.port"),
        ),
        Refused::Identifier => (
            FailureKind::IdentifierRejected,
            format!(
                "{broker} refused the client id {id:?}; at Centiloc it must begin with the \
                 tenantID: check tenant and mqtt.client_id"
            ),
        ),
        Refused::Unavailable => (
            FailureKind::ServerUnavailable,
            format!("{broker} says that its service is unavailable; trying again"),
        ),
        Refused::Credentials => (
            FailureKind::BadCredentials,
            format!(
                "{broker} refused the user name or password; check mqtt.username and \
                 mqtt.password_file against what Centiloc sent for this connection{}",
                missing_credentials(context)
            ),
        ),
        Refused::NotAuthorized => (
            FailureKind::NotAuthorized,
            format!(
                "{broker} does not authorize this connection: check mqtt.username, the password, \
                 that client id {id:?} and certificate belong to the tenant {:?}, and that the \
                 subscription is active{}",
                context.tenant,
                missing_credentials(context)
            ),
        ),
    };
    Failure::new(kind, sentence)
}

fn missing_credentials(context: &Context<'_>) -> &'static str {
    match (&context.mqtt.username, &context.mqtt.password) {
        (None, _) => " (none is configured, and Centiloc requires both)",
        (Some(_), None) => " (no password is configured, and Centiloc requires one)",
        _ => "",
    }
}

/// The first packet of the broker was none it may begin with.
pub(super) fn not_a_connack(context: &Context<'_>) -> Failure {
    protocol(context, "it did not answer CONNECT with CONNACK")
}

/// Cannot happen while the session holds the sending side.
pub(super) fn requests_done() -> Failure {
    Failure::new(FailureKind::Protocol, "the connection was given up by this program itself")
}

/// An error out of rumqttc's state, which also wraps what happens on the socket.
pub(super) fn of_state(context: &Context<'_>, error: &StateError) -> Failure {
    match error {
        StateError::Io(error) => cause::of_io(context, error),
        StateError::Deserialization(error) => of_packet(context, error),
        StateError::AwaitPingResp => cause::silent(context),
        StateError::ConnectionAborted => cause::closed(context),
        StateError::Unsolicited(_) => protocol(context, "it acknowledged what was never sent"),
        StateError::WrongPacket => protocol(context, "it sent a packet that only clients send"),
        StateError::InvalidState | StateError::CollisionTimeout | StateError::EmptySubscription => {
            protocol(context, &error.to_string())
        }
    }
}

fn of_packet(context: &Context<'_>, error: &mqttbytes::Error) -> Failure {
    match error {
        mqttbytes::Error::Io(error) => cause::of_io(context, error),
        mqttbytes::Error::PayloadSizeLimitExceeded(size) => too_large(context, *size),
        mqttbytes::Error::InvalidConnectReturnCode(code) => of_version_5_code(context, *code),
        other => protocol(context, &other.to_string()),
    }
}

fn too_large(context: &Context<'_>, size: usize) -> Failure {
    Failure::new(
        FailureKind::PacketTooLarge(size),
        format!(
            "{} sent a packet of {size} bytes, more than mqtt.max_packet_size allows ({} bytes); \
             the limit is raised for the next connection: set it to at least {size}",
            context.broker(),
            context.mqtt.max_packet_size
        ),
    )
}

/// Some brokers answer an MQTT 3.1.1 client with a reason code of MQTT 5.
fn of_version_5_code(context: &Context<'_>, code: u8) -> Failure {
    match code {
        0x84 => refused(context, Refused::Version),
        0x85 => refused(context, Refused::Identifier),
        0x86 => refused(context, Refused::Credentials),
        0x87 | 0x8a | 0x8c => refused(context, Refused::NotAuthorized),
        0x88 | 0x89 | 0x97 | 0x9f => refused(context, Refused::Unavailable),
        other => protocol(context, &format!("it refused CONNECT with the unknown code {other}")),
    }
}

fn protocol(context: &Context<'_>, detail: &str) -> Failure {
    Failure::new(
        FailureKind::Protocol,
        format!(
            "{} does not follow MQTT 3.1.1: {detail}; check that mqtt.host and mqtt.port name an \
             MQTT broker, and report it to its operator if they do",
            context.broker()
        ),
    )
}
