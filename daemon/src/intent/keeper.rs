//! Keeps the last good intent on disk while intents come.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bascule_core::intent::Intent;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info};

use super::file;

/// From one writing to the next at least: pods come and go all the time, and what is lost with a crash is read again from the API server,
/// or is a second old...
const PAUSE: Duration = Duration::from_secs(1);
/// ...or so many times older than a large one takes to be written: half a hundredth of a core while everything changes...
const TIMES: u32 = 199;
/// ...and never more than this.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Writes what comes, the newest at most once a second, and seldom enough that it costs little.
pub struct Keeper {
    path: PathBuf,
    /// What is in the file.
    kept: Option<Arc<Intent>>,
    failed: bool,
    pause: Duration,
}

impl Keeper {
    /// `kept`: what is in the file at `path`, if anything.
    pub fn new(path: PathBuf, kept: Option<Arc<Intent>>) -> Self {
        Self { path, kept, failed: false, pause: PAUSE }
    }

    /// Until the sender is gone. Between two writings intents are skipped, never the last.
    pub async fn run(mut self, mut intents: watch::Receiver<Option<Arc<Intent>>>) {
        while intents.changed().await.is_ok() {
            let began = Instant::now();
            let newest = intents.borrow_and_update().clone();
            if let Some(intent) = newest.filter(|intent| self.kept.as_ref() != Some(intent)) {
                self.keep(intent).await;
            }
            let took = began.elapsed();
            sleep_until(began + self.pause.max((took * TIMES).min(PAUSE_MAX))).await;
        }
    }

    async fn keep(&mut self, intent: Arc<Intent>) {
        let (path, written) = (self.path.clone(), Arc::clone(&intent));
        let done = tokio::task::spawn_blocking(move || file::write(&path, &written, SystemTime::now())).await;
        match done {
            Ok(Ok(())) => {
                if std::mem::take(&mut self.failed) {
                    info!(file = %self.path.display(), "the intent is kept again");
                }
                self.kept = Some(intent);
            }
            Ok(Err(error)) if !self.failed => {
                self.failed = true;
                error!(%error, "the intent is not kept: a start without an API server would know an older one");
            }
            Ok(Err(_)) => {}
            Err(error) => error!(%error, "the writer of the intent panicked"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_is_in_the_file_when_the_pause_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("intent.json");
        let (sender, receiver) = watch::channel(None);
        let keeper = Keeper { pause: Duration::ZERO, ..Keeper::new(path.clone(), None) };
        let keeper = tokio::spawn(keeper.run(receiver));
        let named = |name: &str| {
            let nodes = [(name.to_owned(), bascule_core::intent::NodeIntent::default())].into();
            Arc::new(Intent { nodes, ..Intent::default() })
        };
        for name in ["a", "b", "c"] {
            sender.send_replace(Some(named(name)));
            tokio::task::yield_now().await;
        }
        drop(sender);
        keeper.await.unwrap();
        assert_eq!(file::read(&path).unwrap().unwrap().0, *named("c"));
    }
}
