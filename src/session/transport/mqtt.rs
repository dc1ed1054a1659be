//! MQTT over a socket: reads and writes rumqttc's packets. The session decides everything after
//! CONNACK, because it alone knows when to pause reading.

use std::future::Future as _;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use rumqttc::mqttbytes::Error as PacketError;
use rumqttc::{
    ConnAck, ConnectReturnCode, ConnectionError, Packet, PubAck, PubComp, PubRec, QoS, StateError,
    Subscribe, SubscribeFilter, SubscribeReasonCode, Unsubscribe,
};
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{
    AcceptedConnection, IncomingPacket, OutgoingPacket, PublishPacket, Transport, TransportFuture,
};
use crate::config::MqttConfig;

/// Buffer size of one read from the socket, bytes. Most events are smaller.
const READ_BUFFER: usize = 16 * 1024;

/// Smallest remaining buffer that is used for a read, bytes.
const SMALLEST_READ: usize = 256;

/// A connected socket, with or without TLS.
pub type BrokerStream = Box<dyn DuplexStream>;

/// A byte stream in both directions.
pub trait DuplexStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> DuplexStream for T {}

/// Options of CONNECT that differ between callers.
#[derive(Debug, Clone, Copy)]
pub struct LoginOptions {
    /// Clean Session flag: the broker keeps no session.
    pub clean_session: bool,
    /// Largest packet accepted, bytes.
    pub max_packet_size: usize,
}

/// Transport over a socket.
pub struct NetworkTransport {
    stream: BrokerStream,
    max_packet_size: usize,
    /// Received bytes, beginning with the next packet.
    received: BytesMut,
    /// Bytes to be sent, empty between two writes.
    to_send: BytesMut,
}

impl NetworkTransport {
    /// Sends CONNECT and waits for CONNACK.
    pub async fn login(
        mqtt: &MqttConfig,
        stream: BrokerStream,
        LoginOptions { clean_session, max_packet_size }: LoginOptions,
    ) -> Result<AcceptedConnection, ConnectionError> {
        let (received, to_send) = (BytesMut::with_capacity(READ_BUFFER), BytesMut::new());
        let mut transport = Self { stream, max_packet_size, received, to_send };
        transport.send([Packet::Connect(connect(mqtt, clean_session))]).await?;
        let session_present = match transport.next().await? {
            Packet::ConnAck(ConnAck { session_present, code: ConnectReturnCode::Success }) => {
                session_present
            }
            Packet::ConnAck(ConnAck { code, .. }) => {
                return Err(ConnectionError::ConnectionRefused(code));
            }
            other => return Err(ConnectionError::NotConnAck(other)),
        };
        Ok(AcceptedConnection { transport: Box::new(transport), session_present })
    }

    /// Reads a packet. Dropping the future loses no data, because a partial packet stays in the
    /// buffer.
    async fn next(&mut self) -> Result<Packet, ConnectionError> {
        loop {
            match Packet::read(&mut self.received, self.max_packet_size) {
                Ok(packet) => return Ok(packet),
                Err(PacketError::InsufficientBytes(missing)) => {
                    // A message keeps its whole read buffer alive, so buffers are filled before new
                    // ones.
                    let spare = self.received.capacity() - self.received.len();
                    if spare < missing.max(SMALLEST_READ) {
                        self.received.reserve(missing.max(READ_BUFFER));
                    }
                }
                Err(error) => return Err(StateError::Deserialization(error).into()),
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(if self.received.is_empty() {
                    StateError::ConnectionAborted.into()
                } else {
                    io::Error::from(io::ErrorKind::UnexpectedEof).into()
                });
            }
        }
    }

    async fn send(
        &mut self,
        packets: impl IntoIterator<Item = Packet>,
    ) -> Result<(), ConnectionError> {
        for packet in packets {
            packet
                .write(&mut self.to_send, self.max_packet_size)
                .map_err(StateError::Deserialization)?;
        }
        self.stream.write_all(&self.to_send).await?;
        self.to_send.clear();
        Ok(self.stream.flush().await?)
    }

    async fn next_incoming(&mut self) -> Result<IncomingPacket, ConnectionError> {
        Ok(incoming(self.next().await?)?)
    }
}

impl Transport for NetworkTransport {
    fn read(&mut self) -> TransportFuture<'_, IncomingPacket> {
        Box::pin(self.next_incoming())
    }

    fn read_ready(&mut self) -> Option<Result<IncomingPacket, ConnectionError>> {
        // Dropping the future loses no data, and the next `read` registers its own waker.
        match pin!(self.next_incoming()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(packet) => Some(packet),
            Poll::Pending => None,
        }
    }

    fn write(&mut self, packets: Vec<OutgoingPacket>) -> TransportFuture<'_, ()> {
        Box::pin(self.send(packets.into_iter().map(outgoing)))
    }
}

/// Builds the CONNECT packet.
fn connect(mqtt: &MqttConfig, clean_session: bool) -> rumqttc::Connect {
    let mut connect = rumqttc::Connect::new(&mqtt.client_id);
    // The configuration allows at most 65,535 s.
    connect.keep_alive = u16::try_from(mqtt.keep_alive.as_secs()).unwrap_or(u16::MAX);
    connect.clean_session = clean_session;
    if let Some(username) = &mqtt.username {
        let password = mqtt.password.as_ref().map_or("", |password| password.expose_secret());
        connect.set_login(username, password);
    }
    connect
}

fn incoming(packet: Packet) -> Result<IncomingPacket, StateError> {
    Ok(match packet {
        Packet::Publish(publish) => IncomingPacket::Publish(PublishPacket {
            topic: publish.topic,
            payload: publish.payload,
            qos: publish.qos as u8,
            dup: publish.dup,
            retain: publish.retain,
            packet_id: publish.pkid,
        }),
        Packet::SubAck(suback) => IncomingPacket::SubAck {
            packet_id: suback.pkid,
            granted: granted(&suback.return_codes),
        },
        Packet::UnsubAck(unsuback) => IncomingPacket::UnsubAck(unsuback.pkid),
        Packet::PubRel(pubrel) => IncomingPacket::PubRel(pubrel.pkid),
        Packet::PingResp => IncomingPacket::PingResp,
        _ => return Err(StateError::WrongPacket),
    })
}

/// Returns the granted QoS of each filter, `None` for a refusal.
fn granted(codes: &[SubscribeReasonCode]) -> Vec<Option<u8>> {
    let qos = |code: &SubscribeReasonCode| match code {
        SubscribeReasonCode::Success(qos) => Some(*qos as u8),
        SubscribeReasonCode::Failure => None,
    };
    codes.iter().map(qos).collect()
}

fn outgoing(packet: OutgoingPacket) -> Packet {
    match packet {
        OutgoingPacket::PubAck(packet_id) => Packet::PubAck(PubAck::new(packet_id)),
        OutgoingPacket::PubRec(packet_id) => Packet::PubRec(PubRec::new(packet_id)),
        OutgoingPacket::PubComp(packet_id) => Packet::PubComp(PubComp::new(packet_id)),
        OutgoingPacket::Subscribe { packet_id, filters } => {
            let filters =
                filters.into_iter().map(|path| SubscribeFilter::new(path, QoS::AtLeastOnce));
            Packet::Subscribe(Subscribe { pkid: packet_id, filters: filters.collect() })
        }
        OutgoingPacket::Unsubscribe { packet_id, filter } => {
            Packet::Unsubscribe(Unsubscribe { pkid: packet_id, topics: vec![filter] })
        }
        OutgoingPacket::PingReq => Packet::PingReq,
        OutgoingPacket::Disconnect => Packet::Disconnect,
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::{PubRel, Publish, SubAck, UnsubAck};

    use super::*;

    #[test]
    fn packets_of_a_broker_are_read_completely() {
        let mut publish = Publish::new("topic", QoS::AtLeastOnce, "payload");
        (publish.pkid, publish.dup, publish.retain) = (7, true, true);
        let expected = PublishPacket {
            topic: "topic".into(),
            payload: "payload".into(),
            qos: 1,
            dup: true,
            retain: true,
            packet_id: 7,
        };
        let codes = vec![
            SubscribeReasonCode::Success(QoS::AtLeastOnce),
            SubscribeReasonCode::Failure,
            SubscribeReasonCode::Success(QoS::AtMostOnce),
        ];
        let granted = vec![Some(1), None, Some(0)];
        for (packet, expected) in [
            (Packet::Publish(publish), IncomingPacket::Publish(expected)),
            (
                Packet::SubAck(SubAck { pkid: 3, return_codes: codes }),
                IncomingPacket::SubAck { packet_id: 3, granted },
            ),
            (Packet::UnsubAck(UnsubAck { pkid: 4 }), IncomingPacket::UnsubAck(4)),
            (Packet::PubRel(PubRel { pkid: 5 }), IncomingPacket::PubRel(5)),
            (Packet::PingResp, IncomingPacket::PingResp),
        ] {
            assert_eq!(incoming(packet).unwrap(), expected);
        }
        assert!(matches!(incoming(Packet::PingReq), Err(StateError::WrongPacket)));
    }
}
