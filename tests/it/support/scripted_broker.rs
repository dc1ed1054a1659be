//! A scripted MQTT broker, for behaviour that Mosquitto cannot be made to show. The test decides
//! every packet that it sends and receives the bridge's packets.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::duplex::DuplexConnection;
use super::process::loopback;
use super::wait::SOON;

/// QoS 1 in a SUBSCRIBE and its SUBACK.
const QOS1: u8 = 1;

/// Receive buffer of the broker's sockets, bytes. It is small, so that a bridge that does not read
/// is detected soon.
const SEND_BUFFER: u32 = 64 * 1024;

/// The bytes of a PINGRESP.
pub const PINGRESP: [u8; 2] = [0xd0, 0];

/// A listener for connections of the bridge.
pub struct ScriptedBroker {
    listener: TcpListener,
}

/// One connection of the bridge, after its CONNECT was read.
pub struct ScriptedConnection {
    stream: TcpStream,
    connect: Connect,
}

/// The contents of a CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    pub client_id: String,
    pub clean_session: bool,
    /// Keep alive, seconds.
    pub keep_alive: u16,
    pub password: Option<String>,
}

/// A packet that the bridge sends after CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BridgePacket {
    /// Packet id, and filters with the requested QoS.
    Subscribe(u16, Vec<(String, u8)>),
    /// Packet id and filters.
    Unsubscribe(u16, Vec<String>),
    /// Acknowledgement at QoS 1.
    Puback(u16),
    /// First acknowledgement at QoS 2.
    Pubrec(u16),
    /// Completion at QoS 2.
    Pubcomp(u16),
    /// PINGREQ.
    Pingreq,
    /// DISCONNECT.
    Disconnect,
}

/// A PUBLISH to be sent.
#[derive(Debug, Clone, Copy)]
pub struct ScriptedPublish<'a> {
    /// QoS, 0 to 2.
    pub qos: u8,
    /// Ignored at QoS 0.
    pub packet_id: u16,
    /// The DUP flag: true for a redelivery.
    pub dup: bool,
    pub topic: &'a str,
    pub payload: &'a [u8],
}

impl ScriptedBroker {
    /// Listens on a free port of loopback.
    #[expect(clippy::unused_async, reason = "a listener is registered with the runtime")]
    pub async fn listen() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(SEND_BUFFER).unwrap();
        socket.bind(loopback(0)).expect("could not bind");
        Self { listener: socket.listen(16).expect("could not listen") }
    }

    /// Returns the port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Accepts the next connection and reads its CONNECT.
    pub async fn accept(&self) -> ScriptedConnection {
        let accepted = tokio::time::timeout(SOON, self.listener.accept()).await;
        let (mut stream, _) = accepted.expect("the bridge did not connect").unwrap();
        stream.set_nodelay(true).unwrap();
        let (first, body) = read_packet(&mut stream).await.expect("CONNECT");
        assert_eq!(first, 0x10, "not a CONNECT");
        ScriptedConnection { stream, connect: parse_connect(&body) }
    }

    /// Accepts the next connection, with CONNACK and every filter granted at QoS 1.
    pub async fn subscribed(&self, session_present: bool) -> ScriptedConnection {
        let mut conversation = self.accept().await;
        conversation.connack(session_present, 0).await;
        conversation.grant_all(QOS1).await;
        conversation
    }
}

impl ScriptedConnection {
    /// Returns the contents of CONNECT.
    pub fn connect(&self) -> &Connect {
        &self.connect
    }

    /// Answers CONNECT.
    pub async fn connack(&mut self, session_present: bool, code: u8) {
        self.send(&[0x20, 2, u8::from(session_present), code]).await;
    }

    /// Reads the SUBSCRIBE and grants all its filters at one QoS, or refuses all with 0x80.
    pub async fn grant_all(&mut self, code: u8) {
        let BridgePacket::Subscribe(packet_id, filters) = self.next().await else {
            panic!("expected SUBSCRIBE");
        };
        assert!(filters.iter().all(|(_, qos)| *qos == QOS1), "not all asked at QoS 1: {filters:?}");
        self.suback(packet_id, &vec![code; filters.len()]).await;
    }

    /// Answers a SUBSCRIBE.
    pub async fn suback(&mut self, packet_id: u16, codes: &[u8]) {
        let length = u8::try_from(codes.len() + 2).unwrap();
        self.send(&[&[0x90, length], &packet_id.to_be_bytes()[..], codes].concat()).await;
    }

    /// Answers an UNSUBSCRIBE.
    pub async fn unsuback(&mut self, packet_id: u16) {
        self.send(&[&[0xb0, 2], &packet_id.to_be_bytes()[..]].concat()).await;
    }

    /// Delivers a message.
    pub async fn publish(&mut self, delivery: ScriptedPublish<'_>) {
        self.send(&delivery.packet()).await;
    }

    /// Sends PUBREL, the second half of QoS 2.
    pub async fn pubrel(&mut self, packet_id: u16) {
        self.send(&[&[0x62, 2], &packet_id.to_be_bytes()[..]].concat()).await;
    }

    /// Returns the next packet from the bridge, answering PINGREQs. Panics at the end of the
    /// connection, and if nothing arrives.
    pub async fn next(&mut self) -> BridgePacket {
        let next = tokio::time::timeout(SOON, self.try_next()).await;
        next.expect("the bridge sent nothing").expect("the bridge closed the connection")
    }

    /// True if nothing but PINGREQs arrives for that long. This can only fail, never prove: pair it
    /// with something that must arrive afterwards.
    pub async fn is_quiet_for(&mut self, duration: Duration) -> bool {
        tokio::time::timeout(duration, self.try_next()).await.is_err()
    }

    /// Returns the next packet if one arrives within that time. As with
    /// [`ScriptedConnection::is_quiet_for`], a `None` proves nothing.
    pub async fn next_within(&mut self, duration: Duration) -> Option<BridgePacket> {
        let next = tokio::time::timeout(duration, self.try_next()).await.ok()?;
        Some(next.expect("the bridge closed the connection"))
    }

    /// Waits for the bridge to end the connection. Returns the packets sent before.
    pub async fn until_closed(mut self) -> Vec<BridgePacket> {
        let mut sent = Vec::new();
        let read = async {
            while let Ok(packet) = self.try_next().await {
                sent.push(packet);
            }
        };
        tokio::time::timeout(SOON, read).await.expect("the bridge did not end the connection");
        sent
    }

    /// Splits the connection into independent reading and writing.
    pub fn duplex(self) -> DuplexConnection {
        DuplexConnection::over(self.stream)
    }

    /// Ends the connection by a reset, including everything in flight.
    pub fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }

    /// Waits for PINGREQ and answers it with a reset, as a middlebox does that has forgotten the
    /// connection.
    pub async fn reset_at_pingreq(mut self) {
        const PINGREQ: u8 = 0xc0;
        let read = async { while read_packet(&mut self.stream).await.unwrap().0 != PINGREQ {} };
        tokio::time::timeout(SOON, read).await.expect("the bridge sent no PINGREQ");
        self.reset();
    }

    /// Reads one packet. Not safe to cancel in the middle of a packet, but the bridge writes
    /// packets whole.
    async fn try_next(&mut self) -> std::io::Result<BridgePacket> {
        loop {
            match read_from_bridge(&mut self.stream).await? {
                BridgePacket::Pingreq => self.send(&PINGRESP).await,
                packet => return Ok(packet),
            }
        }
    }

    async fn send(&mut self, packet: &[u8]) {
        self.stream.write_all(packet).await.expect("could not write to the bridge");
    }
}

impl ScriptedPublish<'_> {
    /// Encodes the PUBLISH.
    pub fn packet(self) -> Vec<u8> {
        let Self { qos, packet_id, dup, topic, payload } = self;
        let topic_length = u16::try_from(topic.len()).unwrap().to_be_bytes();
        let id = if qos == 0 { Vec::new() } else { packet_id.to_be_bytes().to_vec() };
        let body = [&topic_length[..], topic.as_bytes(), &id, payload].concat();
        let mut packet = vec![0x30 | u8::from(dup) << 3 | qos << 1];
        packet.extend(remaining_length(body.len()));
        packet.extend(body);
        packet
    }
}

/// Reads the next packet after CONNECT.
pub async fn read_from_bridge(
    stream: &mut (impl AsyncRead + Unpin),
) -> std::io::Result<BridgePacket> {
    let (first, body) = read_packet(stream).await?;
    let packet_id = || u16::from_be_bytes([body[0], body[1]]);
    Ok(match first {
        0x40 => BridgePacket::Puback(packet_id()),
        0x50 => BridgePacket::Pubrec(packet_id()),
        0x70 => BridgePacket::Pubcomp(packet_id()),
        0x82 => BridgePacket::Subscribe(packet_id(), filters_with_qos(&body[2..])),
        0xa2 => BridgePacket::Unsubscribe(packet_id(), filters(&body[2..])),
        0xc0 => BridgePacket::Pingreq,
        0xe0 => BridgePacket::Disconnect,
        other => panic!("the bridge sent a packet that a client must not send: {other:#x}"),
    })
}

/// Reads the first byte, and everything after the fixed header.
async fn read_packet(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(u8, Vec<u8>)> {
    let first = stream.read_u8().await?;
    let mut length = 0;
    for place in 0..4 {
        let byte = stream.read_u8().await?;
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((first, body))
}

fn remaining_length(mut length: usize) -> Vec<u8> {
    let mut encoded = Vec::new();
    loop {
        let digit = u8::try_from(length % 128).unwrap();
        length /= 128;
        encoded.push(if length > 0 { digit | 0x80 } else { digit });
        if length == 0 {
            return encoded;
        }
    }
}

fn parse_connect(body: &[u8]) -> Connect {
    let (protocol, rest) = take_string(body);
    assert_eq!((protocol.as_str(), rest[0]), ("MQTT", 4), "not MQTT 3.1.1");
    let (client_id, mut credentials) = take_string(&rest[4..]);
    let mut next_if = |flag: u8| {
        (rest[1] & flag != 0).then(|| {
            let (text, rest) = take_string(credentials);
            credentials = rest;
            text
        })
    };
    // The bridge sets no will.
    let _username = next_if(0x80);
    let password = next_if(0x40);
    Connect {
        client_id,
        clean_session: rest[1] & 0b10 != 0,
        keep_alive: u16::from_be_bytes([rest[2], rest[3]]),
        password,
    }
}

fn take_string(bytes: &[u8]) -> (String, &[u8]) {
    let (length, rest) = bytes.split_at(2);
    let (text, rest) = rest.split_at(usize::from(u16::from_be_bytes([length[0], length[1]])));
    (String::from_utf8(text.to_vec()).unwrap(), rest)
}

fn filters(mut bytes: &[u8]) -> Vec<String> {
    let mut filters = Vec::new();
    while !bytes.is_empty() {
        let (filter, rest) = take_string(bytes);
        filters.push(filter);
        bytes = rest;
    }
    filters
}

fn filters_with_qos(mut bytes: &[u8]) -> Vec<(String, u8)> {
    let mut filters = Vec::new();
    while !bytes.is_empty() {
        let (filter, rest) = take_string(bytes);
        filters.push((filter, rest[0]));
        bytes = &rest[1..];
    }
    filters
}
