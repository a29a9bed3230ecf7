//! Orders to take something of this site out of use, on their way to the room.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bascule_core::site::orders::Target;
use bascule_core::site::summary::ServiceId;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

/// Orders that wait for the room; who gives one more waits, and gives up by its own deadline.
const ORDERS: usize = 16;
/// Longest wait for the room's answer.
const ANSWER: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Take it out of use.
    Drain {
        /// How long connections that exist are left alone.
        within: Duration,
        /// Ready endpoints of services of several sites that a node or an endpoint carries.
        parts: BTreeMap<ServiceId, u16>,
        /// Also when what is left would not suffice.
        force: bool,
    },
    /// Put it back.
    Undrain,
}

/// An order and the way of its answer: what became of it in one line, or why nothing did.
#[derive(Debug)]
pub struct OrderRequest {
    /// Of what.
    pub target: Target,
    /// Which.
    pub wanted: Wanted,
    /// The answer.
    pub reply: oneshot::Sender<Result<String, String>>,
}

/// The asking side; cheap to clone. Without a room there is nobody to take an order.
#[derive(Clone, Default)]
pub(super) struct Orders(Arc<Mutex<Option<mpsc::Sender<OrderRequest>>>>);

impl Orders {
    /// The room's side. The last one that was made counts.
    pub(super) fn open(&self) -> mpsc::Receiver<OrderRequest> {
        let (sender, requests) = mpsc::channel(ORDERS);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        requests
    }

    pub(super) async fn give(&self, target: Target, wanted: Wanted) -> Result<String, String> {
        let room = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let silent = || "the room of sites does not answer".to_owned();
        let room = room.ok_or_else(silent)?;
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            room.send(OrderRequest { target, wanted, reply }).await.map_err(|_| silent())?;
            answer.await.map_err(|_| silent())?
        };
        tokio::time::timeout(ANSWER, exchange).await.map_err(|_| silent())?
    }
}

/// A drain in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainView {
    /// Name of the site that drains.
    pub site: String,
    /// What, in words.
    pub what: String,
    /// Services of several sites that it takes, wholly.
    pub services: Vec<String>,
    /// Seconds until connections that exist have had their time; 0: they have.
    pub seconds: u64,
}
