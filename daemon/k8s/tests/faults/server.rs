//! An API server for one Lease that can be told to misbehave: in this process, on a port of loopback.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::common::{Bell, Credentials};

/// What the server does with a request that is no watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mood {
    Well,
    /// Answers with this and nothing else.
    Status(u16),
    /// 429 with this `Retry-After`, in seconds.
    Throttle(u64),
    /// Never answers.
    Hang,
    /// Carries the request out and never says so.
    Swallow,
    /// Breaks the connection in the middle of an answer.
    Break,
}

pub(crate) struct Inner {
    pub(crate) mood: Mood,
    pub(crate) lease: Option<Value>,
    version: u64,
    /// Arrival and method of each request that was no watch.
    pub(crate) seen: Vec<(Instant, Method)>,
    /// The one token that is good.
    token: String,
    /// The watches that are open; replaced to end them.
    events: broadcast::Sender<Value>,
    pub(crate) watches: usize,
}

/// The server, and a kubeconfig for it. The task ends with its runtime.
#[derive(Clone)]
pub(crate) struct Server {
    inner: Arc<Mutex<Inner>>,
    credentials: Arc<Credentials>,
    bell: Arc<Bell>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a port");
        let address = format!("http://{}", listener.local_addr().expect("it is bound"));
        let inner = Inner {
            mood: Mood::Well,
            lease: None,
            version: 100,
            seen: Vec::new(),
            token: "good".to_owned(),
            events: broadcast::channel(64).0,
            watches: 0,
        };
        let credentials = Arc::new(Credentials::of(address));
        let server = Self { inner: Arc::new(Mutex::new(inner)), credentials, bell: Arc::new(Bell::new()) };
        let router = Router::new().fallback(handle).with_state(server.clone());
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

    pub(crate) fn write_kubeconfig(&self) {
        self.credentials.write_kubeconfig();
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.lock().mood = mood;
    }

    /// From now on only this token is good.
    pub(crate) fn rotate(&self, token: &str) {
        self.lock().token = token.to_owned();
    }

    /// Ends every watch.
    pub(crate) fn cut_watches(&self) {
        self.lock().events = broadcast::channel(64).0;
    }

    /// Somebody else writes: `change` sees the Lease as it is.
    pub(crate) fn write(&self, change: impl FnOnce(&mut Value)) {
        let mut inner = self.lock();
        let mut lease =
            inner.lease.clone().unwrap_or_else(|| json!({"metadata": {"name": "lock", "namespace": "kube-system"}}));
        change(&mut lease);
        inner.store(lease);
        drop(inner);
        self.bell.ring();
    }

    /// Waits until this holds, which depends on what the server has been asked for and what it has stored.
    pub(crate) async fn until(&self, what: &str, condition: impl FnMut() -> bool) {
        self.bell.until(what, condition).await;
    }

    /// The Lease is there and nobody's: nobody waits for its absence to last.
    pub(crate) fn free(&self) {
        self.write(|lease| lease["spec"] = json!({"holderIdentity": "", "leaseDurationSeconds": 1}));
    }

    pub(crate) fn spec(&self) -> Value {
        self.lock().lease.as_ref().map(|lease| lease["spec"].clone()).unwrap_or_default()
    }

    pub(crate) fn holder(&self) -> String {
        self.spec()["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }
}

impl Inner {
    fn store(&mut self, mut lease: Value) -> Value {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = self.version.to_string().into();
        let kind = if self.lease.is_some() { "MODIFIED" } else { "ADDED" };
        self.lease = Some(lease.clone());
        // Nobody may watch.
        let _watchers = self.events.send(json!({"type": kind, "object": lease}));
        lease
    }

    fn carry_out(&mut self, method: &Method, body: &Bytes) -> Response {
        let sent: Value = serde_json::from_slice(body).unwrap_or_default();
        let current = self.lease.as_ref().map(|lease| lease["metadata"]["resourceVersion"].clone());
        match (method.as_str(), current) {
            ("GET", Some(_)) => axum::Json(self.lease.clone()).into_response(),
            ("GET" | "PUT", None) => StatusCode::NOT_FOUND.into_response(),
            ("POST", None) => (StatusCode::CREATED, axum::Json(self.store(sent))).into_response(),
            ("PUT", Some(version)) if version == sent["metadata"]["resourceVersion"] => {
                axum::Json(self.store(sent)).into_response()
            }
            ("POST" | "PUT", Some(_)) => StatusCode::CONFLICT.into_response(),
            _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        }
    }
}

async fn handle(State(server): State<Server>, request: Request) -> Response {
    let method = request.method().clone();
    let authorization = request.headers().get("authorization").and_then(|v| v.to_str().ok()).map(str::to_owned);
    if request.uri().query().is_some_and(|query| query.contains("watch=")) {
        return watch(&server);
    }
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap_or_default();
    let (mood, answer) = {
        let mut inner = server.lock();
        inner.seen.push((Instant::now(), method.clone()));
        if authorization != Some(format!("Bearer {}", inner.token)) {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        let mood = inner.mood;
        let answer = matches!(mood, Mood::Well | Mood::Swallow).then(|| inner.carry_out(&method, &body));
        (mood, answer)
    };
    server.bell.ring();
    match mood {
        Mood::Well => answer.expect("it was carried out"),
        Mood::Status(status) => {
            let status = StatusCode::from_u16(status).expect("a status");
            (status, axum::Json(json!({"kind": "Status", "message": "as the test wants it"}))).into_response()
        }
        Mood::Throttle(seconds) => {
            (StatusCode::TOO_MANY_REQUESTS, [("retry-after", seconds.to_string())], "Too many requests").into_response()
        }
        Mood::Break => {
            let parts: [Result<&str, std::io::Error>; 2] = [Ok("{"), Err(std::io::ErrorKind::ConnectionReset.into())];
            Response::new(Body::from_stream(futures_util::stream::iter(parts)))
        }
        Mood::Hang | Mood::Swallow => std::future::pending().await,
    }
}

fn watch(server: &Server) -> Response {
    let mut inner = server.lock();
    inner.watches += 1;
    let events = inner.events.subscribe();
    drop(inner);
    server.bell.ring();
    let lines = futures_util::stream::unfold(events, |mut events| async move {
        let event = events.recv().await.ok()?;
        Some((Ok::<_, std::convert::Infallible>(format!("{event}\n")), events))
    });
    Response::new(Body::from_stream(lines))
}
