//! Explanations of MQTT errors: refused CONNECT packets and protocol violations.

use rumqttc::mqttbytes;
use rumqttc::{ConnectReturnCode, StateError};

use super::{ConnectionFailure, FailureContext, FailureKind, cause};

/// Explains a CONNACK with a return code other than 0.
pub(super) fn explain_connack(
    context: &FailureContext<'_>,
    code: ConnectReturnCode,
) -> ConnectionFailure {
    match code {
        ConnectReturnCode::RefusedProtocolVersion => refused(context, ConnectRefusal::Version),
        ConnectReturnCode::BadClientId => refused(context, ConnectRefusal::Identifier),
        ConnectReturnCode::ServiceUnavailable => refused(context, ConnectRefusal::Unavailable),
        ConnectReturnCode::BadUserNamePassword => refused(context, ConnectRefusal::Credentials),
        ConnectReturnCode::NotAuthorized => refused(context, ConnectRefusal::NotAuthorized),
        ConnectReturnCode::Success => not_a_connack(context),
    }
}

#[derive(Clone, Copy)]
enum ConnectRefusal {
    Version,
    Identifier,
    Unavailable,
    Credentials,
    NotAuthorized,
}

fn refused(context: &FailureContext<'_>, refusal: ConnectRefusal) -> ConnectionFailure {
    let broker = context.broker();
    let id = &context.mqtt.client_id;
    let (kind, message) = match refusal {
        ConnectRefusal::Version => (
            FailureKind::ProtocolVersion,
            format!("{broker} does not speak MQTT 3.1.1; check mqtt.host and mqtt.port"),
        ),
        ConnectRefusal::Identifier => (
            FailureKind::IdentifierRejected,
            format!(
                "{broker} refused the client id {id:?}; at Centiloc it must begin with the \
                 tenantID: check tenant and mqtt.client_id"
            ),
        ),
        ConnectRefusal::Unavailable => (
            FailureKind::ServerUnavailable,
            format!("{broker} reports that its service is unavailable; retrying"),
        ),
        ConnectRefusal::Credentials => (
            FailureKind::BadCredentials,
            format!(
                "{broker} refused the user name or password; check mqtt.username and \
                 mqtt.password_file against what Centiloc sent for this connection{}",
                missing_credentials(context)
            ),
        ),
        ConnectRefusal::NotAuthorized => (
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
    ConnectionFailure::new(kind, message)
}

fn missing_credentials(context: &FailureContext<'_>) -> &'static str {
    match (&context.mqtt.username, &context.mqtt.password) {
        (None, _) => " (none is configured, and Centiloc requires both)",
        (Some(_), None) => " (no password is configured, and Centiloc requires one)",
        _ => "",
    }
}

/// Explains a first packet that is not CONNACK.
pub(super) fn not_a_connack(context: &FailureContext<'_>) -> ConnectionFailure {
    protocol(context, "it did not answer CONNECT with CONNACK")
}

/// Explains an error that cannot occur while the session holds the sending side.
pub(super) fn requests_done() -> ConnectionFailure {
    ConnectionFailure::new(FailureKind::Protocol, "the bridge closed the connection itself")
}

/// Explains an error of rumqttc's state, which also wraps socket errors.
pub(super) fn explain_state(context: &FailureContext<'_>, error: &StateError) -> ConnectionFailure {
    match error {
        StateError::Io(error) => cause::explain_io(context, error),
        StateError::Deserialization(error) => explain_packet(context, error),
        StateError::AwaitPingResp => cause::silent(context),
        StateError::ConnectionAborted => cause::closed(context),
        StateError::Unsolicited(_) => {
            protocol(context, "it acknowledged a packet that was never sent")
        }
        StateError::WrongPacket => protocol(context, "it sent a packet that only clients send"),
        StateError::InvalidState | StateError::CollisionTimeout | StateError::EmptySubscription => {
            protocol(context, &error.to_string())
        }
    }
}

fn explain_packet(context: &FailureContext<'_>, error: &mqttbytes::Error) -> ConnectionFailure {
    match error {
        mqttbytes::Error::Io(error) => cause::explain_io(context, error),
        mqttbytes::Error::PayloadSizeLimitExceeded(size) => too_large(context, *size),
        mqttbytes::Error::InvalidConnectReturnCode(code) => explain_v5_code(context, *code),
        other => protocol(context, &other.to_string()),
    }
}

fn too_large(context: &FailureContext<'_>, size: usize) -> ConnectionFailure {
    ConnectionFailure::new(
        FailureKind::PacketTooLarge(size),
        format!(
            "{} sent a packet of {size} bytes, more than mqtt.max_packet_size allows ({} bytes); \
             the limit is raised for the next connection: set it to at least {size}",
            context.broker(),
            context.mqtt.max_packet_size
        ),
    )
}

/// Explains a reason code of MQTT 5, with which some brokers answer an MQTT 3.1.1 client.
fn explain_v5_code(context: &FailureContext<'_>, code: u8) -> ConnectionFailure {
    match code {
        0x84 => refused(context, ConnectRefusal::Version),
        0x85 => refused(context, ConnectRefusal::Identifier),
        0x86 => refused(context, ConnectRefusal::Credentials),
        0x87 | 0x8a | 0x8c => refused(context, ConnectRefusal::NotAuthorized),
        0x88 | 0x89 | 0x97 | 0x9f => refused(context, ConnectRefusal::Unavailable),
        other => protocol(context, &format!("it refused CONNECT with the unknown code {other}")),
    }
}

fn protocol(context: &FailureContext<'_>, detail: &str) -> ConnectionFailure {
    ConnectionFailure::new(
        FailureKind::Protocol,
        format!(
            "{} does not follow MQTT 3.1.1: {detail}; check that mqtt.host and mqtt.port name an \
             MQTT broker, and report it to its operator if they do",
            context.broker()
        ),
    )
}
