//! Tells when the configuration or one of its key and password files changed.
//!
//! Folders are watched, not files: editors and mounted ConfigMaps replace a file by renaming another over it, and a watch on the old
//! inode would stay with the dead one.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Quiet time after the last event before a change is told: an editor writes, renames and sets modes in one go.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// A change that nobody has taken yet is one change: capacity 1, more are dropped. Must be called within a tokio runtime; the watch ends
/// when the receiver is dropped.
///
/// # Errors
/// When the folder of a file cannot be watched.
pub fn watch(path: &Path, secrets: &[PathBuf]) -> io::Result<mpsc::Receiver<()>> {
    let (wake, events) = mpsc::channel(1);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the file is an event, too: our own reload must not trigger the next.
        if event.map_or(true, |e| !matches!(e.kind, EventKind::Access(_))) {
            let _already_awake = wake.try_send(());
        }
    });
    let files = std::iter::once(path.to_owned()).chain(secrets.iter().cloned()).collect();
    let mut watched = Watched { watcher: watcher.map_err(io_error)?, files, folders: Vec::new(), seen: Vec::new() };
    watched.follow()?;
    watched.seen = watched.look();
    let (tell, changes) = mpsc::channel(1);
    tokio::spawn(run(watched, events, tell));
    Ok(changes)
}

struct Watched {
    watcher: RecommendedWatcher,
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    seen: Vec<Option<Print>>,
}

/// What changes when a file is written, replaced, or its mode or a link on the way to it is changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Print {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

async fn run(mut watched: Watched, mut events: mpsc::Receiver<()>, tell: mpsc::Sender<()>) {
    loop {
        tokio::select! {
            () = tell.closed() => return,
            event = events.recv() => if event.is_none() { return },
        }
        while let Ok(Some(())) = tokio::time::timeout(DEBOUNCE, events.recv()).await {}
        // A new link may lead to another folder; if that cannot be watched, the folder of the name still is.
        if let Err(error) = watched.follow() {
            tracing::warn!(%error, "a folder of the configuration cannot be watched");
        }
        let now = watched.look();
        if now != watched.seen {
            watched.seen = now;
            let _one_is_waiting = tell.try_send(());
        }
    }
}

impl Watched {
    /// Watches the folder of each name and of what each name leads to.
    fn follow(&mut self) -> io::Result<()> {
        for file in self.files.clone() {
            let named = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let real = file.canonicalize().ok().and_then(|f| f.parent().map(Path::to_owned));
            for folder in std::iter::once(named.to_owned()).chain(real) {
                if !self.folders.contains(&folder) {
                    self.watcher.watch(&folder, RecursiveMode::NonRecursive).map_err(io_error)?;
                    self.folders.push(folder);
                }
            }
        }
        // A folder that is gone is forgotten, so that it is watched again when it comes back.
        self.folders.retain(|f| f.exists());
        Ok(())
    }

    fn look(&self) -> Vec<Option<Print>> {
        self.files.iter().map(|f| std::fs::metadata(f).ok().map(|m| Print::of(&m))).collect()
    }
}

impl Print {
    fn of(meta: &std::fs::Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

fn io_error(error: notify::Error) -> io::Error {
    match error.kind {
        notify::ErrorKind::Io(io) => io,
        kind => io::Error::other(format!("{kind:?} for {:?}", error.paths)),
    }
}
