//! The packets that the session exchanges with the broker, and the traits that hide the network. The
//! service implements them in [`connector`] and [`mqtt`], the fault simulator with a model broker.

pub mod connector;
pub mod mqtt;

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use rumqttc::ConnectionError;

use self::connector::ConnectError;
use super::credentials::ClientCredentials;
use crate::config::MqttConfig;

/// Future of one read or write of a transport.
pub type TransportFuture<'a, T> =
    Pin<Box<dyn Future<Output = Result<T, ConnectionError>> + Send + 'a>>;

/// Future of an attempt to connect.
pub type ConnectFuture<'a> =
    Pin<Box<dyn Future<Output = Result<AcceptedConnection, ConnectError>> + Send + 'a>>;

/// Opens connections to the broker.
pub trait BrokerConnector: Send + Sync {
    /// Opens a connection, sends CONNECT and waits for CONNACK. May be dropped at any point.
    fn connect<'a>(&'a self, request: &'a ConnectRequest<'a>) -> ConnectFuture<'a>;
}

/// Parameters of one connection attempt.
#[derive(Debug)]
pub struct ConnectRequest<'a> {
    /// Section `mqtt` of the configuration.
    pub mqtt: &'a MqttConfig,
    /// Credentials to present to the broker.
    pub credentials: &'a ClientCredentials,
    /// Largest packet accepted, bytes.
    pub max_packet_size: usize,
}

/// A connection that the broker accepted.
pub struct AcceptedConnection {
    /// Transport of the packets.
    pub transport: Box<dyn Transport>,
    /// Session Present flag of the CONNACK.
    pub session_present: bool,
}

/// Carries packets over one connection, in order.
pub trait Transport: Send {
    /// Waits for the next packet. Dropping the future loses no packet.
    fn read(&mut self) -> TransportFuture<'_, IncomingPacket>;

    /// Returns a packet that has already arrived, if there is one.
    fn read_ready(&mut self) -> Option<Result<IncomingPacket, ConnectionError>>;

    /// Writes all of `packets` in order and flushes. Dropping the future may leave a packet partly
    /// sent, after which the connection is unusable.
    fn write(&mut self, packets: Vec<OutgoingPacket>) -> TransportFuture<'_, ()>;
}

/// A packet from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IncomingPacket {
    /// PUBLISH, with its message.
    Publish(PublishPacket),
    /// SUBACK: a return code for each filter of the SUBSCRIBE, `None` for a refusal.
    SubAck {
        /// Packet id of the SUBSCRIBE.
        packet_id: u16,
        /// Granted QoS of each filter.
        granted: Vec<Option<u8>>,
    },
    /// UNSUBACK, with the packet id of the UNSUBSCRIBE.
    UnsubAck(u16),
    /// PUBREL, with the packet id of the QoS-2 PUBLISH.
    PubRel(u16),
    /// PINGRESP, the answer to PINGREQ.
    PingResp,
}

/// A received PUBLISH packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishPacket {
    /// Topic name of the message.
    pub topic: String,
    /// Payload, the application message.
    pub payload: Bytes,
    /// MQTT quality of service, 0 to 2.
    pub qos: u8,
    /// DUP flag: true for a redelivery.
    pub dup: bool,
    /// RETAIN flag of the message.
    pub retain: bool,
    /// Packet id, 0 at QoS 0.
    pub packet_id: u16,
}

impl PublishPacket {
    /// Returns the bytes of topic and payload, which count towards `mqtt.max_unacked`.
    pub fn size(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// A packet to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutgoingPacket {
    /// PUBACK of this packet id.
    PubAck(u16),
    /// PUBREC of this packet id.
    PubRec(u16),
    /// PUBCOMP of this packet id.
    PubComp(u16),
    /// SUBSCRIBE to these filters at QoS 1.
    Subscribe {
        /// Packet id, which the SUBACK repeats.
        packet_id: u16,
        /// Topic filters to subscribe to.
        filters: Vec<String>,
    },
    /// UNSUBSCRIBE from this filter.
    Unsubscribe {
        /// Packet id, which the UNSUBACK repeats.
        packet_id: u16,
        /// Topic filter to unsubscribe from.
        filter: String,
    },
    /// PINGREQ, which asks for PINGRESP.
    PingReq,
    /// DISCONNECT, the last packet of a connection.
    Disconnect,
}
