//! The watch of one key, until it ends for whatever reason.

use std::time::Duration;

use bascule_core::election::lease::etcd::Watched;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::Access;
use crate::connection::Connection;
use crate::proto::{Event, WATCH, WatchCreateRequest, WatchRequest, WatchResponse};
use crate::request::entry;

/// What is watched, and over what.
pub(crate) struct Watching {
    pub(crate) access: Access,
    /// Index of the endpoint that is tried first.
    pub(crate) first: usize,
    pub(crate) key: String,
    /// The revision that is known.
    pub(crate) after: u64,
    /// How long a connection, and then the word that the watch stands, is awaited.
    pub(crate) patience: Duration,
    /// The endpoint that last kept a request waiting, or broke off.
    pub(crate) sick: watch::Receiver<Option<usize>>,
}

impl Watching {
    /// Watches and reports to `seen`; the last report is always [`Watched::Ended`]. The channel is bounded: a reader that is behind makes
    /// the server wait, and what it learns late it learns in order.
    pub(crate) async fn follow(self, seen: Sender<Watched>) {
        let _reader_gone = self.follow_until_end(&seen).await;
        // Nobody listens when the elector is gone.
        let _unheard = seen.send(Watched::Ended).await;
    }

    /// `None` at its end.
    async fn follow_until_end(mut self, seen: &Sender<Watched>) -> Option<()> {
        self.sick.mark_unchanged();
        let opened = timeout(self.patience, Connection::open(&self.access, self.first, self.patience));
        let connection = opened.await.ok()?.ok()?;
        let start_revision = i64::try_from(self.after + 1).ok()?;
        let create_request = Some(WatchCreateRequest { key: self.key.clone().into(), start_revision });
        // Our side of the stream stays open: its end would end the watch.
        let asked = stream::iter([WatchRequest { create_request }]).chain(stream::pending());
        let answers = timeout(self.patience, connection.stream::<_, WatchResponse>(WATCH, asked));
        let mut answers = answers.await.ok()?.ok()?;
        loop {
            let response = tokio::select! {
                response = answers.message() => response.ok()??,
                // A member that answers no request tells no news either.
                changed = self.sick.changed() => {
                    changed.ok()?;
                    if *self.sick.borrow() == Some(connection.at) {
                        return None;
                    }
                    continue;
                }
            };
            // Compaction and missing rights among them.
            if response.canceled {
                return None;
            }
            for event in &response.events {
                let watched = match (event.r#type, &event.kv) {
                    (Event::DELETE, _) => Watched::Deleted,
                    (_, Some(kv)) => Watched::Put(entry(kv)),
                    (_, None) => return None,
                };
                seen.send(watched).await.ok()?;
            }
        }
    }
}
