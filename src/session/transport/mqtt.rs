//! The network: rumqttc opens the connection and speaks the wire format. Everything after CONNACK is
//! decided by the session, which alone knows when to stop reading.

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use rumqttc::{
    ConnAck, ConnectionError, Event, EventLoop, Packet, PubAck, PubComp, PubRec, QoS, StateError,
    Subscribe, SubscribeFilter, SubscribeReasonCode, Unsubscribe,
};
use tokio::time::timeout;

use super::{Accepted, Connect, ConnectRequest, Incoming, Outgoing, Publish, Step, Transport};
use crate::session::options;

/// Connects over TCP and TLS.
#[derive(Debug, Clone, Copy, Default)]
pub struct NetworkConnector;

impl Connect for NetworkConnector {
    fn connect<'a>(&'a self, request: &'a ConnectRequest<'a>) -> Step<'a, Accepted> {
        Box::pin(async move {
            let ConnectRequest { mqtt, credentials, max_packet_size } = *request;
            let mut event_loop =
                options::event_loop(mqtt, credentials.tls.as_ref(), max_packet_size);
            let connected = timeout(mqtt.connect_timeout, event_loop.poll()).await;
            let event = connected.map_err(|_| ConnectionError::NetworkTimeout)??;
            let Event::Incoming(Packet::ConnAck(ConnAck { session_present, .. })) = event else {
                return Err(StateError::WrongPacket.into());
            };
            Ok(Accepted { transport: Box::new(NetworkTransport(event_loop)), session_present })
        })
    }
}

/// Carries packets over the socket of a connected event loop, which is never polled again.
struct NetworkTransport(Box<EventLoop>);

impl NetworkTransport {
    async fn next(&mut self) -> Result<Incoming, ConnectionError> {
        let network = self.0.network.as_mut().ok_or(StateError::ConnectionAborted)?;
        Ok(incoming(network.read().await?)?)
    }
}

impl Transport for NetworkTransport {
    fn read(&mut self) -> Step<'_, Incoming> {
        Box::pin(self.next())
    }

    fn read_ready(&mut self) -> Option<Result<Incoming, ConnectionError>> {
        // Nothing is lost by dropping it: partial packets stay in rumqttc's buffer, and the next
        // `read` registers a waker of its own.
        match pin!(self.next()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(packet) => Some(packet),
            Poll::Pending => None,
        }
    }

    fn write(&mut self, packets: Vec<Outgoing>) -> Step<'_, ()> {
        Box::pin(async move {
            let network = self.0.network.as_mut().ok_or(StateError::ConnectionAborted)?;
            for packet in packets {
                network.write(outgoing(packet)).await?;
            }
            Ok(network.flush().await?)
        })
    }
}

fn incoming(packet: Packet) -> Result<Incoming, StateError> {
    Ok(match packet {
        Packet::Publish(publish) => Incoming::Publish(Publish {
            topic: publish.topic,
            payload: publish.payload,
            qos: publish.qos as u8,
            dup: publish.dup,
            retain: publish.retain,
            packet_id: publish.pkid,
        }),
        Packet::SubAck(suback) => {
            Incoming::SubAck { packet_id: suback.pkid, granted: granted(&suback.return_codes) }
        }
        Packet::UnsubAck(unsuback) => Incoming::UnsubAck(unsuback.pkid),
        Packet::PubRel(pubrel) => Incoming::PubRel(pubrel.pkid),
        Packet::PingResp => Incoming::PingResp,
        _ => return Err(StateError::WrongPacket),
    })
}

/// Returns the granted QoS of each filter, `None` for a refusal.
pub fn granted(codes: &[SubscribeReasonCode]) -> Vec<Option<u8>> {
    let qos = |code: &SubscribeReasonCode| match code {
        SubscribeReasonCode::Success(qos) => Some(*qos as u8),
        SubscribeReasonCode::Failure => None,
    };
    codes.iter().map(qos).collect()
}

fn outgoing(packet: Outgoing) -> Packet {
    match packet {
        Outgoing::PubAck(packet_id) => Packet::PubAck(PubAck::new(packet_id)),
        Outgoing::PubRec(packet_id) => Packet::PubRec(PubRec::new(packet_id)),
        Outgoing::PubComp(packet_id) => Packet::PubComp(PubComp::new(packet_id)),
        Outgoing::Subscribe { packet_id, filters } => {
            let filters =
                filters.into_iter().map(|path| SubscribeFilter::new(path, QoS::AtLeastOnce));
            Packet::Subscribe(Subscribe { pkid: packet_id, filters: filters.collect() })
        }
        Outgoing::Unsubscribe { packet_id, filter } => {
            Packet::Unsubscribe(Unsubscribe { pkid: packet_id, topics: vec![filter] })
        }
        Outgoing::PingReq => Packet::PingReq,
        Outgoing::Disconnect => Packet::Disconnect,
    }
}
