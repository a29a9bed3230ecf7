//! An API server of many objects that can be told to misbehave: in this process, on a port of loopback.
//!
//! It has versions, conflicts, pages, watches from a version on, bookmarks, a history that ends (410), merge patches, and counts what is
//! written.

mod answer;
mod objects;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use serde_json::Value;
use tokio::sync::watch;

use crate::common::{Bell, Credentials};

pub(crate) use objects::Objects;

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
    /// Answers when the test lets it; see [`Fake::release`].
    Slow,
    /// Breaks the connection in the middle of an answer.
    Break,
    /// Carries writes out and never says so.
    Swallow,
    /// Every other write of an object meets a change of somebody else's; and so does every other one of a Lease. Watches tell of a change
    /// when so many requests have come since.
    Conflict(u64),
}

pub(crate) struct Inner {
    pub(crate) mood: Mood,
    pub(crate) objects: Objects,
    /// Method and path of each request.
    pub(crate) seen: Vec<(String, String)>,
    /// The end of the path of a collection, and the status that stands for it.
    pub(crate) withheld: Option<(&'static str, u16)>,
    /// The one token that is good.
    pub(crate) token: String,
    /// Of objects, and of Leases: each has a storm of its own, or the one would decide which of the other's are met.
    writes: [u64; 2],
    /// Requests that came in [`Mood::Slow`], and how many of them may be answered.
    pub(crate) waiting: u64,
    released: u64,
}

/// The server, and a kubeconfig for it. Its tasks end with their runtime.
#[derive(Clone)]
pub(crate) struct Fake {
    inner: Arc<Mutex<Inner>>,
    /// Watches and whoever is frozen look again when this changes.
    pub(crate) pulse: Arc<watch::Sender<u64>>,
    /// Watches of an older age end.
    pub(crate) age: Arc<watch::Sender<u64>>,
    credentials: Arc<Credentials>,
    bell: Arc<Bell>,
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
            writes: [0; 2],
            withheld: None,
            waiting: 0,
            released: 0,
        };
        let server = Self {
            inner: Arc::new(Mutex::new(inner)),
            pulse: Arc::new(watch::Sender::new(0)),
            age: Arc::new(watch::Sender::new(0)),
            credentials: Arc::new(Credentials::of(address)),
            bell: Arc::new(Bell::new()),
        };
        let router = Router::new().fallback(answer::handle).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.credentials.kubeconfig()
    }

    pub(crate) fn write_token(&self, token: &str) {
        self.credentials.write_token(token);
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

    /// Answers all requests that wait now, in [`Mood::Slow`].
    pub(crate) fn release(&self) {
        let mut inner = self.lock();
        inner.released = inner.waiting;
        drop(inner);
        self.wake();
    }

    fn wake(&self) {
        self.pulse.send_modify(|beat| *beat += 1);
        self.bell.ring();
    }

    /// Waits until this holds, which depends on what the server has been asked for and what it has stored.
    pub(crate) async fn until(&self, what: &str, condition: impl FnMut() -> bool) {
        self.bell.until(what, condition).await;
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
