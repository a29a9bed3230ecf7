//! Where intents come from: the file of the last run at the start, then the API server, or a file that somebody else writes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bascule_core::election::lease::Condition;
use bascule_core::intent::Intent;
use bascule_k8s::{Access, ApiState, Pace, Reader, ReaderConfig};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::Merger;
use crate::config::{self, Loaded, Source};
use crate::handle::intent::IntentHandle;
use crate::intent::{Keeper, Origin, Seen, file};

/// How long the first intent is waited for before the data plane goes on without: an API server answers within a second or is away. What a
/// former run left forwards meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is known at the start: the intent that the last run kept. A file that is none is told and kept aside.
pub(in crate::app) fn begin(loaded: &Loaded) -> Option<Seen> {
    let services = loaded.kubernetes.as_ref()?.services.as_ref()?;
    let path = &services.intent_file;
    match file::read(path) {
        Ok(Some((intent, at))) => {
            let (services, nodes) = (intent.services.len(), intent.nodes.len());
            info!(file = %path.display(), services, nodes, "begins with the intent that is kept");
            Some(Seen { intent: Arc::new(intent), origin: Origin::File, at })
        }
        Ok(None) => None,
        Err(error) if services.source == Source::File => {
            error!(%error, "the intent is not read");
            None
        }
        Err(error) => {
            match file::keep_aside(path) {
                Ok(aside) => error!(%error, kept = %aside.display(), "the kept intent is of no use and is put aside"),
                Err(kept) => error!(%error, %kept, "the kept intent is of no use, and stays where it is"),
            }
            None
        }
    }
}

/// Whatever brings intents.
pub(in crate::app) struct Sources {
    merger: Merger,
    known: Option<Seen>,
    handle: IntentHandle,
}

impl Sources {
    pub(in crate::app) fn new(merger: Merger, known: Option<Seen>, handle: IntentHandle) -> Self {
        Self { merger, known, handle }
    }

    /// Brings intents until the loop has ended. What is asked of the file in force at the start holds.
    pub(in crate::app) async fn run(self, loaded: Loaded) {
        let Some(kubernetes) = loaded.kubernetes else { return };
        let Some(services) = kubernetes.services else { return };
        if self.known.is_none() {
            let merger = self.merger.clone();
            tokio::spawn(async move {
                tokio::time::sleep(PATIENCE).await;
                // The loop has ended: so does the process.
                let _ended = merger.go_on_without().await;
            });
        }
        if services.source == Source::File {
            return follow_file(&services.intent_file, &self.merger).await;
        }
        let access = kubernetes.kubeconfig.map_or(Access::InCluster, Access::Kubeconfig);
        let mut reader = Reader::new(ReaderConfig::new(access, config::check_words));
        if let Some(seen) = &self.known {
            reader = reader.knowing(&seen.intent.rules);
        }
        let (intents, state, pace) = (reader.intents(), reader.state(), reader.pace());
        // Like every task of the process it ends with it.
        tokio::spawn(reader.run(std::future::pending()));
        tokio::spawn(tell_state(state, self.handle));
        let kept = self.known.map(|seen| seen.intent);
        tokio::spawn(Keeper::new(services.intent_file, kept).run(intents.clone()));
        follow_reader(intents, &pace, &self.merger).await;
    }
}

/// One line for each change of how the API server stands. Its own words change more often and are no news by themselves.
async fn tell_state(mut state: watch::Receiver<ApiState>, handle: IntentHandle) {
    let mut before = Condition::Unknown;
    while state.changed().await.is_ok() {
        let now = state.borrow_and_update().clone();
        let well = matches!(now.condition, Condition::Unknown | Condition::Reachable);
        let detail = now.detail.unwrap_or_default();
        tell_untold(&handle, now.untold);
        handle.set_api((!well).then(|| format!("{:?}: {detail}", now.condition)));
        if now.condition != before {
            if well {
                info!("the API server tells of the cluster");
            } else {
                let condition = now.condition;
                warn!(?condition, detail, "the API server tells nothing new of the cluster; the last intent stays");
            }
        }
        before = now.condition;
    }
}

/// One line when the role does not allow the kinds of announcements and sites, and when it does again.
fn tell_untold(handle: &IntentHandle, now: Option<String>) {
    match (handle.untold(), &now) {
        (None, Some(words)) => {
            warn!(words, "objects about announcements and sites are not read; what is known of them stays")
        }
        (Some(_), None) => info!("objects about announcements and sites are read again"),
        (None, None) | (Some(_), Some(_)) => {}
    }
    handle.set_untold(now);
}

async fn follow_reader(mut reader: watch::Receiver<Option<Arc<Intent>>>, pace: &Pace, merger: &Merger) {
    reader.mark_changed();
    while reader.changed().await.is_ok() {
        let newest = reader.borrow_and_update().clone();
        let Some(intent) = newest else { continue };
        let began = Instant::now();
        if merger.intent(Seen { intent, origin: Origin::Api, at: SystemTime::now() }).await.is_err() {
            return;
        }
        pace.took(began.elapsed());
    }
}

/// A file that somebody else writes. One that cannot be read is told; the last good intent stays in force.
async fn follow_file(path: &Path, merger: &Merger) {
    let mut changes = match config::watch(path, &[]) {
        Ok(changes) => changes,
        Err(error) => return error!(%error, file = %path.display(), "changes of the intent are not heard"),
    };
    loop {
        let owned = path.to_owned();
        let read = tokio::task::spawn_blocking(move || file::read(&owned)).await;
        match read {
            Ok(Ok(Some((intent, at)))) => {
                let seen = Seen { intent: Arc::new(intent), origin: Origin::File, at };
                if merger.intent(seen).await.is_err() {
                    return;
                }
            }
            Ok(Ok(None)) => warn!(file = %path.display(), "there is no intent yet"),
            Ok(Err(error)) => error!(%error, "the intent is refused, the last good one stays"),
            Err(error) => error!(%error, "the reader of the intent panicked"),
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}
