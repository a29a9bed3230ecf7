//! An API server of many objects that can be told to misbehave: in this process, on a port of loopback.
//!
//! It has versions, conflicts, pages, watches from a version on, bookmarks, a history that ends (410), merge patches, and counts what is
//! written.

mod answer;
mod objects;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use serde_json::{Value, json};
use tokio::sync::watch;

pub(crate) use objects::{Change, Objects};

/// What the server does with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mood {
    Well,
    /// Answers with this and nothing else.
    Status(u16),
    /// 429 with this `Retry-After`, in seconds.
    Throttle(u64),
    /// Neither answers nor goes on with what it is answering.
    Freeze,
    /// Answers after this.
    Slow(Duration),
    /// Breaks the connection in the middle of an answer.
    Break,
    /// Carries writes out and never says so.
    Swallow,
    /// Every other write meets a change of somebody else's.
    Conflict,
}

pub(crate) struct Inner {
    pub(crate) mood: Mood,
    pub(crate) objects: Objects,
    /// Method and path of each request.
    pub(crate) seen: Vec<(String, String)>,
    /// The one token that is good.
    pub(crate) token: String,
    writes: u64,
}

/// The server, and a kubeconfig for it. Its tasks end with their runtime.
#[derive(Clone)]
pub(crate) struct Fake {
    inner: Arc<Mutex<Inner>>,
    /// Watches and whoever is frozen look again when this changes.
    pub(crate) pulse: Arc<watch::Sender<u64>>,
    /// Watches of an older age end.
    pub(crate) age: Arc<watch::Sender<u64>>,
    directory: Arc<tempfile::TempDir>,
    address: String,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a port");
        let address = format!("http://{}", listener.local_addr().expect("it is bound"));
        let inner = Inner {
            mood: Mood::Well,
            objects: Objects::default(),
            seen: Vec::new(),
            token: "good".to_owned(),
            writes: 0,
        };
        let server = Self {
            inner: Arc::new(Mutex::new(inner)),
            pulse: Arc::new(watch::Sender::new(0)),
            age: Arc::new(watch::Sender::new(0)),
            directory: Arc::new(tempfile::tempdir().expect("a directory")),
            address,
        };
        let router = Router::new().fallback(answer::handle).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server.write_token("good");
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "t",
            "clusters": [{"name": "t", "cluster": {"server": server.address}}],
            "users": [{"name": "t", "user": {"tokenFile": server.directory.path().join("token")}}],
            "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}]});
        std::fs::write(server.kubeconfig(), config.to_string()).expect("a file");
        server
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    pub(crate) fn write_token(&self, token: &str) {
        std::fs::write(self.directory.path().join("token"), token).expect("a file");
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.lock().mood = mood;
        self.wake();
    }

    /// From now on only this token is good.
    pub(crate) fn rotate(&self, token: &str) {
        self.lock().token = token.to_owned();
    }

    /// Ends every watch.
    pub(crate) fn cut_watches(&self) {
        self.age.send_modify(|age| *age += 1);
    }

    /// Forgets what was before: whoever comes with an older version gets 410.
    pub(crate) fn compact(&self) {
        self.lock().objects.compact();
    }

    fn wake(&self) {
        self.pulse.send_modify(|beat| *beat += 1);
    }

    /// Somebody puts an object: with `/api/v1/...` as in a path of one.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.lock().objects.put(path, object);
        self.wake();
    }

    /// Somebody changes an object.
    pub(crate) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut inner = self.lock();
        let mut object = inner.objects.get(path).cloned().unwrap_or_else(|| panic!("no {path}"));
        change(&mut object);
        inner.objects.put(path, object);
        drop(inner);
        self.wake();
    }

    pub(crate) fn remove(&self, path: &str) {
        self.lock().objects.remove(path);
        self.wake();
    }

    /// How often somebody has asked for this: method, and a part of the path with its query.
    pub(crate) fn asked(&self, method: &str, part: &str) -> usize {
        self.lock().seen.iter().filter(|(m, path)| m == method && path.contains(part)).count()
    }
}

/// Waits until this holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited until {what}"));
}

/// How long anything may take that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
