//! How the rest of the process asks the BGP room: bounded requests in, answers back, and two facts that need no answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bascule_bgp::speaker::{AdvertisedRoute, SpeakerStatus};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot};

/// Requests that may wait for the room. More means that it is stuck: the asker waits, and gives up by its own deadline.
const REQUESTS: usize = 64;
/// Longest wait for an answer. The room turns within milliseconds.
const ANSWER: Duration = Duration::from_secs(5);

/// A snapshot of the room.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct BgpStatus {
    /// What the room cannot do and should, in words; empty when all is well. Neighbors that are down are not among it.
    pub troubles: Vec<String>,
    /// The speaker.
    #[serde(flatten)]
    pub speaker: SpeakerStatus,
}

/// What the room is asked.
#[derive(Debug)]
pub enum BgpRequest {
    /// A snapshot.
    Status(oneshot::Sender<BgpStatus>),
    /// The routes that a neighbor holds of ours; `None` when there is no such neighbor.
    Routes(String, oneshot::Sender<Option<Vec<AdvertisedRoute>>>),
    /// Close the session of a neighbor and start anew; false when there is no such neighbor.
    Reset(String, oneshot::Sender<bool>),
}

/// The BGP room has ended or does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the BGP room does not answer")]
pub struct RoomGone;

/// The asking side; cheap to clone.
#[derive(Clone)]
pub struct BgpHandle {
    requests: mpsc::Sender<BgpRequest>,
    shared: Arc<Shared>,
}

/// The room's side.
pub struct BgpPort {
    /// Requests, to be taken in every turn.
    pub requests: mpsc::Receiver<BgpRequest>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// `CLOCK_BOOTTIME` nanoseconds of the last turn of the room.
    turn: AtomicU64,
    troubles: Mutex<Vec<String>>,
    /// A planned restart is asked for.
    restart: Notify,
}

/// Makes both sides.
pub fn channel() -> (BgpHandle, BgpPort) {
    let (sender, requests) = mpsc::channel(REQUESTS);
    let shared = Arc::<Shared>::default();
    (BgpHandle { requests: sender, shared: Arc::clone(&shared) }, BgpPort { requests, shared })
}

impl BgpHandle {
    /// A snapshot of the room.
    ///
    /// # Errors
    /// [`RoomGone`] when it has ended or does not answer within 5 s.
    pub async fn status(&self) -> Result<BgpStatus, RoomGone> {
        self.ask(BgpRequest::Status).await
    }

    /// The routes that a neighbor holds of ours; `None` when there is no such neighbor.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn routes(&self, neighbor: &str) -> Result<Option<Vec<AdvertisedRoute>>, RoomGone> {
        self.ask(|reply| BgpRequest::Routes(neighbor.to_owned(), reply)).await
    }

    /// Closes the session of a neighbor and starts anew (Cease, subcode 4); false when there is no such neighbor.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn reset(&self, neighbor: &str) -> Result<bool, RoomGone> {
        self.ask(|reply| BgpRequest::Reset(neighbor.to_owned(), reply)).await
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> BgpRequest) -> Result<T, RoomGone> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.requests.send(request(reply)).await.map_err(|_| RoomGone)?;
            answer.await.map_err(|_| RoomGone)
        };
        tokio::time::timeout(ANSWER, exchange).await.map_err(|_| RoomGone)?
    }

    /// Asks for a planned restart of the daemon: sessions that negotiated graceful restart keep our routes, the process ends, and whoever
    /// supervises it starts the next one.
    pub fn ask_restart(&self) {
        self.shared.restart.notify_one();
    }

    /// Resolves when a planned restart is asked for.
    pub async fn restart_asked(&self) {
        self.shared.restart.notified().await;
    }

    /// What the room cannot do and should, without asking it: readiness must be told even when the room is stuck.
    pub fn troubles(&self) -> Vec<String> {
        self.shared.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `CLOCK_BOOTTIME` nanoseconds of the room's last turn; 0 before the first. It turns at least once a second.
    pub fn last_turn(&self) -> u64 {
        self.shared.turn.load(Ordering::Relaxed)
    }
}

impl BgpPort {
    /// Notes that the room turned.
    pub fn turned(&self, boot_ns: u64) {
        self.shared.turn.store(boot_ns, Ordering::Relaxed);
    }

    /// Notes what the room cannot do now.
    pub fn set_troubles(&self, troubles: Vec<String>) {
        *self.shared.troubles.lock().unwrap_or_else(PoisonError::into_inner) = troubles;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_room_that_ended_is_told_at_once() {
        let (handle, port) = channel();
        port.turned(7);
        port.set_troubles(vec!["listen [::]:179: taken".to_owned()]);
        drop(port);
        assert_eq!(handle.status().await, Err(RoomGone));
        assert_eq!(handle.reset("tor1").await, Err(RoomGone));
        assert_eq!((handle.last_turn(), handle.troubles().len()), (7, 1));
    }

    #[tokio::test]
    async fn a_request_reaches_the_room_and_its_answer_the_asker() {
        let (handle, mut port) = channel();
        let room = tokio::spawn(async move {
            while let Some(request) = port.requests.recv().await {
                match request {
                    BgpRequest::Reset(neighbor, reply) => reply.send(neighbor == "tor1").expect("asker"),
                    BgpRequest::Routes(_, reply) => reply.send(None).expect("asker"),
                    BgpRequest::Status(_) => panic!("not asked"),
                }
            }
        });
        assert_eq!(handle.reset("tor1").await, Ok(true));
        assert_eq!(handle.reset("tor2").await, Ok(false));
        assert_eq!(handle.routes("tor1").await, Ok(None));
        drop(handle);
        room.await.expect("room");
    }
}
