//! The admin interface: what people and machines ask a running daemon, over a unix socket (root only) and, if asked for, over TCP.
//!
//! Both listeners answer `/metrics`, `/live`, `/ready`, `/state`, `/bfd`, `/bgp`, `/bgp/routes`, `/services`, `/trace`, `/sites` and `/why`; only the
//! unix socket answers `/events` and `/flows` (who talks to whom), and acts: `/move`, `/drain`,
//! `/sites/drain`, `/bgp/reset`, `/restart`.
//! Decides nothing about ownership: it asks the driver through [`NodeHandle`].

mod bgp;
mod bounded;
mod cluster;
mod drains;
mod events;
mod forward;
mod sites;
mod socket;
mod views;

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use bascule_bgp::speaker::SpeakerStatus;
use bascule_core::bfd::status::BfdStatus;
use bascule_core::node::status::NodeStatus;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::handle::NodeHandle;
use crate::handle::forward::ForwardStatus;

pub use socket::{AdminSocket, BindError};
pub use views::{LIVE_AGE, is_live};

/// Requests under way may finish this long after the shutdown began; readers of events are told to go at once.
const LINGER: Duration = Duration::from_secs(1);

/// Makes the text of `/metrics` from snapshots; `None` where the driver gave none.
pub type Scrape = Arc<
    dyn Fn(Option<&NodeStatus>, Option<&BfdStatus>, Option<&SpeakerStatus>, Option<&ForwardStatus>) -> String
        + Send
        + Sync,
>;

/// Where the interface listens.
pub struct Listeners {
    /// The unix socket.
    pub socket: AdminSocket,
    /// The TCP listener of `admin.http`.
    pub http: Option<TcpListener>,
}

impl Listeners {
    /// Binds both. Call it from within a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`]: another live daemon has the socket, a path cannot be made, the port is taken.
    pub async fn bind(socket: &Path, http: Option<SocketAddr>) -> Result<Self, BindError> {
        let socket = AdminSocket::bind(socket)?;
        let http = match http {
            None => None,
            Some(address) => {
                Some(TcpListener::bind(address).await.map_err(|source| BindError::Http { address, source })?)
            }
        };
        Ok(Self { socket, http })
    }
}

/// What every request needs.
#[derive(Clone)]
struct Asked {
    handle: NodeHandle,
    scrape: Scrape,
    /// True once the interface closes.
    closing: watch::Receiver<bool>,
}

/// Answers until `shutdown` resolves, then removes the socket.
pub async fn serve(
    listeners: Listeners,
    handle: NodeHandle,
    scrape: Scrape,
    shutdown: impl Future<Output = ()> + Send,
) {
    let (close, closing) = watch::channel(false);
    let asked = Asked { handle, scrape, closing: closing.clone() };
    let closed = |mut closing: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which is closing too.
        let _closing = closing.wait_for(|closing| *closing).await;
    };
    let unix = axum::serve(listeners.socket, local(asked.clone())).with_graceful_shutdown(closed(closing.clone()));
    let tcp = async {
        match listeners.http {
            Some(listener) => {
                axum::serve(bounded::Bounded::new(listener), public(asked))
                    .with_graceful_shutdown(closed(closing))
                    .await
            }
            None => Ok(()),
        }
    };
    // axum's accept loop has no error that ends it: it waits a second and goes on.
    let both = async { tokio::join!(async { unix.await }, tcp) };
    let stop = async {
        shutdown.await;
        close.send_replace(true);
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        _ended = both => {}
        () = stop => {}
    }
}

/// What anybody who reaches a listener may ask: nothing here changes anything.
fn public(asked: Asked) -> Router {
    Router::new()
        .route("/metrics", get(views::metrics))
        .route("/live", get(views::live))
        .route("/ready", get(views::ready))
        .route("/state", get(views::state))
        .route("/bfd", get(views::bfd))
        .route("/bgp", get(bgp::status))
        .route("/bgp/routes", get(bgp::routes))
        .route("/cluster", get(cluster::cluster))
        .route("/rebalance", get(cluster::moves))
        .route("/services", get(forward::services))
        .route("/sites", get(sites::sites))
        .route("/why", get(sites::why))
        .route("/trace", get(forward::trace))
        .with_state(asked)
}

/// What root may ask over the unix socket.
fn local(asked: Asked) -> Router {
    let acts = Router::new()
        .route("/events", get(events::events))
        .route("/flows", get(forward::flows))
        .route("/move", post(views::move_group))
        .route("/drain", post(views::drain))
        .route("/sites/drain", post(drains::drain))
        .route("/bgp/reset", post(bgp::reset))
        .route("/restart", post(bgp::restart))
        .with_state(asked.clone());
    public(asked).merge(acts)
}

#[cfg(test)]
mod tests;
