//! The watch of one Lease, until it ends for whatever reason.

use std::time::Duration;

use bascule_core::election::lease::kube::{Version, Watched};
use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::core::WatchEvent;
use kube::core::params::WatchParams;
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;

use crate::{LeaseName, record, request};

/// What the watch saw, and the object for the next write. The channel is bounded: a reader that is behind makes the server wait, and what
/// it learns late it learns in order.
pub(crate) type Seen = (Watched, Option<Lease>);

/// Watches from `version` on and reports to `seen`; the last report is always [`Watched::Ended`]. A holder renews more often than once in
/// `idle`: after so long a silence it ends as well, and the machine looks for itself.
pub(crate) async fn follow(client: Client, name: LeaseName, version: Version, idle: Duration, seen: Sender<Seen>) {
    let _reader_gone = follow_until_end(client, &name, &version, idle, &seen).await;
    // Nobody listens when the elector is gone.
    let _unheard = seen.send((Watched::Ended, None)).await;
}

/// `None` at its end.
async fn follow_until_end(
    client: Client,
    name: &LeaseName,
    version: &Version,
    idle: Duration,
    seen: &Sender<Seen>,
) -> Option<()> {
    let only = WatchParams::default().fields(&format!("metadata.name={}", name.name)).disable_bookmarks();
    let request = request::collection(name).watch(&only, &version.0).ok()?;
    let events = timeout(idle, client.request_events::<Lease>(request)).await.ok()?.ok()?;
    pin_mut!(events);
    loop {
        let said = match timeout(idle, events.next()).await.ok()??.ok()? {
            WatchEvent::Added(lease) | WatchEvent::Modified(lease) => {
                (Watched::Object(record::object(&lease)?), Some(lease))
            }
            WatchEvent::Deleted(_) => (Watched::Deleted, None),
            WatchEvent::Bookmark(_) => continue,
            // 410 among them.
            WatchEvent::Error(_) => return None,
        };
        seen.send(said).await.ok()?;
    }
}
