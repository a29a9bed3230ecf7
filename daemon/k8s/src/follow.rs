//! One kind of object, listed and then watched, for ever.
//!
//! What was learnt stays until a complete list replaces it: an outage, a watch that breaks, a frozen server, 410, 429 and 5xx change
//! nothing. A watch is asked for a short life and ended from here when it outlives that, so a server that is frozen or gone without a word
//! is noticed; a new one goes on where the last one stood, which costs the server little.

use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::hash::BuildHasher as _;
use std::time::Duration;

use bascule_core::election::lease::{Condition, Failure};
use kube::core::WatchEvent;
use kube::core::params::{ListParams, WatchParams};
use serde::de::IgnoredAny;
use tokio::time::{Instant, sleep};

use crate::access::{Access, Clients};
use crate::exchange::{self, Fault, Trouble};
use crate::object::{Key, Kind, Page};

/// Silence that ends an answer: a list that etcd has to gather is long in coming.
const SILENCE: Duration = Duration::from_secs(10);
/// So much longer than asked for may a watch live, before its server counts as gone.
const GRACE: Duration = Duration::from_secs(5);
/// A watch that lived so long was no failure.
const STEADY: Duration = Duration::from_secs(3);
/// First wait after a failure. It doubles with each further one, up to the last. Endpoints that are gone take connections meanwhile.
const WAIT_MIN: Duration = Duration::from_millis(25);
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Failures that count against a server that does tell something between them: it waits 100 ms at most.
const FAIR: u32 = 2;
/// How often a kind is asked for that may not be there, once it was not a few times: it may come with an upgrade of the cluster.
const RARE: Duration = Duration::from_secs(60);
const RARE_AFTER: u32 = 6;
/// Longest patience with a server that asks for it.
const QUIET_MAX: Duration = Duration::from_secs(60);
/// Of one page: as many objects of 200 KB as it may have would not fit, but no cluster has those.
const PAGE_MAX: usize = 100 << 20;
/// Of one event. etcd takes no object beyond 1.5 MiB.
const EVENT_MAX: usize = 4 << 20;

/// What has become known.
#[derive(Debug)]
pub(crate) enum Told<T> {
    /// This is all there is.
    All(Vec<(Key, T)>),
    /// New or changed.
    One(Key, T),
    /// Gone, or not to be kept any more.
    Gone(Key),
}

/// Where it goes. Nothing of this may block.
pub(crate) trait Sink<R> {
    /// What is kept of an object.
    type Kept;

    /// `None`: nothing.
    fn keep(&self, object: R) -> Option<Self::Kept>;
    /// Something has become known.
    fn tell(&self, told: Told<Self::Kept>);
    /// How the server stands by this kind, said after each list, watch and failure.
    fn note(&self, note: Note);
}

/// What a follower did, or what came between.
#[derive(Debug)]
pub(crate) enum Note {
    /// A list is complete.
    Listed,
    /// A watch is open.
    Watching,
    /// It could not.
    Failed(Condition, String),
    /// The server does not know the kind, and need not.
    Unknown,
}

/// How an attempt ended.
enum End {
    /// A list is complete, as of this version.
    Listed(String),
    /// The server ended the watch, as it was asked to.
    Over,
}

/// A follower of one kind.
pub(crate) struct Follower {
    access: Access,
    /// How long a watch may live.
    life: Duration,
    clients: Option<Clients>,
    /// The server may not know the kind, and the role may not allow it.
    optional: bool,
    /// Where the next watch begins; `None`: with a list.
    version: Option<String>,
    failures: u32,
}

impl Follower {
    pub(crate) const fn new(access: Access, life: Duration) -> Self {
        Self { access, life, clients: None, optional: false, version: None, failures: 0 }
    }

    /// Of a kind that the server may not know and that the role may not allow: it is asked for rarely then.
    pub(crate) fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    /// Ends never.
    pub(crate) async fn run<R: Kind, S: Sink<R>>(mut self, sink: &S) -> Infallible {
        loop {
            let began = Instant::now();
            let ended = self.step::<R, S>(sink).await;
            if began.elapsed() >= STEADY {
                self.failures = 0;
            }
            let patience = match ended {
                Ok(End::Listed(version)) => {
                    self.version = Some(version);
                    sink.note(Note::Listed);
                    continue;
                }
                Ok(End::Over) => Duration::ZERO,
                Err(trouble) => self.failed(trouble, sink),
            };
            // A watch that ends at once is a failure as well, whatever the server calls it.
            if began.elapsed() < STEADY || !patience.is_zero() {
                sleep(self.wait().max(patience)).await;
            }
        }
    }

    async fn step<R: Kind, S: Sink<R>>(&mut self, sink: &S) -> Result<End, Trouble> {
        let clients = match &self.clients {
            Some(clients) => clients.clone(),
            None => self.access.clients().await.map_err(|error| Trouble::lost(exchange::chain(&error)))?,
        };
        self.clients = Some(clients.clone());
        match self.version.clone() {
            None => list(&clients, sink).await.map(End::Listed),
            Some(version) => self.watch(&clients, version, sink).await,
        }
    }

    /// What it means for the next attempt. Gives how long the server asks to be left alone.
    fn failed<R, S: Sink<R>>(&mut self, Trouble { fault, detail }: Trouble, sink: &S) -> Duration {
        match fault {
            // Too old: only a list helps.
            Fault::Gone => self.version = None,
            // A token, a certificate or a CA may have been replaced, and a connection may be dead: the next attempt begins with the files.
            Fault::Failed(Failure::Denied | Failure::Lost) => self.clients = None,
            Fault::Failed(Failure::Throttled { .. } | Failure::Unavailable)
            | Fault::NotFound
            | Fault::Conflict
            | Fault::Refused => {}
        }
        let rare = if self.optional && self.failures >= RARE_AFTER { RARE } else { Duration::ZERO };
        let (condition, patience) = match fault {
            Fault::Gone => return Duration::ZERO,
            Fault::Failed(Failure::Throttled { retry_after }) => {
                (Condition::Throttled, retry_after.unwrap_or_default())
            }
            Fault::NotFound if self.optional => {
                sink.note(Note::Unknown);
                return rare;
            }
            Fault::Failed(Failure::Denied) => (fault.condition(), rare),
            // A kind that is not there (404), or a question that it does not understand: it does not do what it should.
            Fault::NotFound | Fault::Conflict | Fault::Refused => (Condition::Unreachable, Duration::ZERO),
            Fault::Failed(_) => (fault.condition(), Duration::ZERO),
        };
        sink.note(Note::Failed(condition, detail));
        patience.min(QUIET_MAX)
    }

    /// Longer with each failure, and not the same for all nodes.
    fn wait(&mut self) -> Duration {
        let wait = (WAIT_MIN * (1 << self.failures.min(9))).min(WAIT_MAX);
        self.failures = self.failures.saturating_add(1);
        spread(wait)
    }

    async fn watch<R: Kind, S: Sink<R>>(
        &mut self,
        clients: &Clients,
        version: String,
        sink: &S,
    ) -> Result<End, Trouble> {
        // Watches of many nodes that began together end apart.
        let life = spread(self.life);
        let seconds = u32::try_from(life.as_secs()).unwrap_or(u32::MAX).max(1);
        let asked = WatchParams { bookmarks: true, ..WatchParams::default().timeout(seconds) };
        let request = kube::core::Request::new(R::PATH).watch(&asked, &version);
        let request = request.map_err(|error| Trouble::nonsense(error.to_string()))?;
        let deadline = Instant::now() + life + GRACE;
        let mut lines = exchange::open(&clients.watches, request, SILENCE).await?.lines(EVENT_MAX);
        sink.note(Note::Watching);
        while let Some(line) = lines.next(deadline).await? {
            let event: WatchEvent<R> = serde_json::from_slice(&line)
                .map_err(|error| Trouble::nonsense(format!("an event of {}: {error}", R::PATH)))?;
            if !matches!(event, WatchEvent::Error(_)) {
                self.failures = self.failures.min(FAIR);
            }
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.version = Some(object.meta().resource_version.clone());
                    let key = object.meta().key();
                    sink.tell(match sink.keep(object) {
                        Some(kept) => Told::One(key, kept),
                        None => Told::Gone(key),
                    });
                }
                WatchEvent::Deleted(object) => {
                    self.version = Some(object.meta().resource_version.clone());
                    sink.tell(Told::Gone(object.meta().key()));
                }
                WatchEvent::Bookmark(mark) => self.version = Some(mark.metadata.resource_version),
                WatchEvent::Error(status) => {
                    let fault = Fault::of(status.code, None);
                    return Err(Trouble { fault, detail: format!("{}: {}", status.code, status.message) });
                }
            }
        }
        Ok(End::Over)
    }
}

/// The whole kind, page by page. Gives the version of the first page: the others are of the same moment.
async fn list<R: Kind, S: Sink<R>>(clients: &Clients, sink: &S) -> Result<String, Trouble> {
    let mut all = Vec::new();
    let mut page = ListParams::default().limit(R::PAGE);
    loop {
        let request = kube::core::Request::new(R::PATH).list(&page);
        let request = request.map_err(|error| Trouble::nonsense(error.to_string()))?;
        let answer = exchange::open(&clients.watches, request, SILENCE).await?;
        let bytes = answer.whole_in_time(PAGE_MAX, SILENCE).await?;
        let got: Page<R> = serde_json::from_slice(&bytes).map_err(|error| {
            // Is it this kind at all?
            let kind = serde_json::from_slice::<Page<IgnoredAny>>(&bytes).map(|page| page.kind).unwrap_or_default();
            Trouble::nonsense(format!("a list of {} ({kind}): {error}", R::PATH))
        })?;
        if got.kind != R::LIST || got.metadata.resource_version.is_empty() {
            return Err(Trouble::nonsense(format!("{} was asked for and {} came", R::LIST, got.kind)));
        }
        let keep = |object: R| {
            let key = object.meta().key();
            sink.keep(object).map(|kept| (key, kept))
        };
        all.extend(got.items.into_iter().filter_map(keep));
        if got.metadata.r#continue.is_empty() {
            sink.tell(Told::All(all));
            return Ok(got.metadata.resource_version);
        }
        page.continue_token = Some(got.metadata.r#continue);
    }
}

/// Up to a quarter less.
pub(crate) fn spread(base: Duration) -> Duration {
    let draw = RandomState::new().hash_one(0_u8) % 251;
    base - base * u32::try_from(draw).unwrap_or(0) / 1000
}
