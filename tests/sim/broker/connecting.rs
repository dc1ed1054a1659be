//! CONNECT and CONNACK of the model broker.

use std::sync::Arc;

use centiloc_bridge::session::transport::{
    AcceptedConnection, BrokerConnector, ConnectFuture, ConnectRequest,
};
use rumqttc::{ConnectReturnCode, ConnectionError};
use tokio::time::Instant;

use super::{ConnectResponse, ModelBroker};
use crate::link::{ClientEnd, ModelLink};
use crate::world::SimulatedWorld;

impl ModelBroker {
    /// Answers CONNECT. Creates the session if there is none.
    fn accept(&self) -> (Arc<ModelLink>, ConnectAnswer<'_>) {
        let mut state = self.lock();
        if let Some(old) = state.link.take() {
            self.world.note(format_args!("connection {} is taken over", old.number));
            old.close(self.world.chance(500));
        }
        state.links += 1;
        let link = ModelLink::new(state.links, &self.world);
        state.link = Some(Arc::clone(&link));
        (state.sent_on_link, state.last_answered) = (0, 0);
        state.last_progress = Instant::now();
        let present = state.session.is_some();
        let announces = std::mem::take(&mut state.unannounced) && !present;
        let id_space = state.behavior.id_space;
        let session = state.session.get_or_insert_default();
        for entry in &mut session.in_flight {
            entry.sent = None;
        }
        session.part_equal_ids(id_space);
        self.world.note(format_args!("broker accepts {}, session {present}", link.number));
        (link, ConnectAnswer { broker: self, present, announces, reached: false })
    }

    /// Records if a CONNACK reached the client that is the only one to announce a lost session.
    fn announced(&self, reached: bool) {
        if reached {
            self.world.news_in_memory(true);
        } else {
            self.excuse_losses();
        }
    }

    /// Records that no process knows of the new session: no CONNACK arrived.
    pub fn excuse_losses(&self) {
        let mut state = self.lock();
        state.first_unseen |= state.losses.is_empty();
        for loss in &mut state.losses {
            loss.excused |= loss.of_session;
        }
    }
}

/// A connector that opens connections to the model.
pub struct ModelConnector {
    pub world: Arc<SimulatedWorld>,
    pub broker: Arc<ModelBroker>,
}

/// Informs the model if CONNACK arrived, also when the attempt is abandoned.
struct ConnectAnswer<'a> {
    broker: &'a ModelBroker,
    /// Session Present.
    present: bool,
    /// A session was lost before CONNACK was sent. A later loss is for the next CONNACK.
    announces: bool,
    reached: bool,
}

impl Drop for ConnectAnswer<'_> {
    fn drop(&mut self) {
        if self.announces {
            self.broker.announced(self.reached);
        }
    }
}

impl BrokerConnector for ModelConnector {
    fn connect<'a>(&'a self, request: &'a ConnectRequest<'a>) -> ConnectFuture<'a> {
        Box::pin(async move {
            self.world.sleep(0..=20).await;
            let refused = ConnectionError::ConnectionRefused;
            let door = self.broker.lock().door;
            match door {
                ConnectResponse::Open | ConnectResponse::NoSubscription => {}
                ConnectResponse::Refused => {
                    return Err(
                        ConnectionError::Io(std::io::ErrorKind::ConnectionRefused.into()).into()
                    );
                }
                ConnectResponse::NotAuthorized => {
                    return Err(refused(ConnectReturnCode::NotAuthorized).into());
                }
                ConnectResponse::Silent => {
                    tokio::time::sleep(request.mqtt.connect_timeout).await;
                    return Err(ConnectionError::NetworkTimeout.into());
                }
            }
            let (link, mut answer) = self.broker.accept();
            let transport = Box::new(ClientEnd(link));
            self.world.sleep(0..=5).await;
            answer.reached = true;
            Ok(AcceptedConnection { transport, session_present: answer.present })
        })
    }
}
