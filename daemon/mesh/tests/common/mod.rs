//! Sites of one process: an authority, relays on loopback, a proxy that cuts and holds, and peers that misbehave.

pub(crate) mod proxy;
pub(crate) mod rogue;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bascule_core::site::SiteId;
use bascule_core::site::state::io::{Pass, PeerConfig};
use bascule_core::site::state::record::{Body, Key};
use bascule_core::site::summary::{ServiceId, Summary};
use bascule_core::time::Instant;
use bascule_mesh::clock::{Clock, Floor};
use bascule_mesh::pki::Authority;
use bascule_mesh::state::{Command, Dial, Event, Peer, Relay, RelayConfig, RelayError, Status};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// How long anything may take that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
pub(crate) const A: SiteId = SiteId(1);
pub(crate) const B: SiteId = SiteId(2);
pub(crate) const C: SiteId = SiteId(3);
/// What the wall clocks of all sites begin with, in seconds since 1970.
pub(crate) const EPOCH: u64 = 1_800_000_000;
pub(crate) const DAY: u64 = 86_400;

/// A clock that runs `speed` times as fast as the world's, or only when a test says so, with a wall clock that a test may set.
#[derive(Debug)]
pub(crate) struct Fast {
    start: std::time::Instant,
    speed: u32,
    /// Nanoseconds, of a clock that is stepped.
    stepped: Option<AtomicU64>,
    pub(crate) wall: AtomicU64,
}

impl Fast {
    pub(crate) fn new(speed: u32) -> Arc<Self> {
        Arc::new(Self { start: std::time::Instant::now(), speed, stepped: None, wall: AtomicU64::new(EPOCH) })
    }

    /// A clock that stands between [`Self::step`]s.
    pub(crate) fn stepped() -> Arc<Self> {
        let stepped = Some(AtomicU64::new(1_000_000_000));
        Arc::new(Self { start: std::time::Instant::now(), speed: 1, stepped, wall: AtomicU64::new(EPOCH) })
    }

    pub(crate) fn step(&self, span: Duration) {
        let nanos = u64::try_from(span.as_nanos()).expect("a test is short");
        let at = self.stepped.as_ref().expect("a clock that is stepped");
        let _before = at.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl Clock for Fast {
    fn now(&self) -> Instant {
        if let Some(at) = &self.stepped {
            return Instant::from_nanos(at.load(Ordering::Relaxed));
        }
        let since = (self.start.elapsed() * self.speed).as_nanos();
        Instant::from_nanos(u64::try_from(since).expect("a test is short") + 1_000_000_000)
    }

    fn unix(&self) -> Duration {
        Duration::from_secs(self.wall.load(Ordering::Relaxed))
    }

    fn sleep(&self, span: Duration) -> Duration {
        // A driver looks again soon when the clock has not come as far as it wants: how soon is nothing a test may lean on.
        if self.stepped.is_some() { Duration::from_millis(1) } else { span / self.speed }
    }
}

/// An authority and the directories of its relays.
pub(crate) struct Mesh {
    pub(crate) dir: TempDir,
    pub(crate) authority: Authority,
    pub(crate) clock: Arc<Fast>,
}

impl Mesh {
    pub(crate) fn new(speed: u32) -> Self {
        Self::with(Fast::new(speed))
    }

    pub(crate) fn with(clock: Arc<Fast>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let authority = Authority::init(&dir.path().join("ca"), "sites.test", 365, EPOCH).expect("an authority");
        Self { dir, authority, clock }
    }

    /// Certificate and key of a relay, for ten days; new ones when it has some.
    pub(crate) fn issue(&mut self, site: SiteId, relay: &str) -> PathBuf {
        let into = self.dir.path().join(format!("{}-{relay}", site.0));
        self.authority.issue((site, relay), 10, EPOCH, &into).expect("issued");
        into
    }

    pub(crate) fn config(&self, dir: &Path, peers: BTreeMap<SiteId, Peer>) -> RelayConfig {
        RelayConfig {
            credentials: dir.to_owned(),
            incarnation: dir.join("incarnation"),
            peers,
            leads: true,
            reload: Duration::from_millis(50),
            build: "a test".to_owned(),
            clock: Arc::new(Floor::new(self.clock.clone(), dir.join("clock"))),
            dial: Dial::default(),
        }
    }

    /// A relay that leads, with what it must know of others.
    pub(crate) async fn start(&mut self, site: SiteId, relay: &str, peers: &[(SiteId, &[SocketAddr])]) -> Node {
        let dir = self.issue(site, relay);
        Node::start(self.config(&dir, members(peers))).await
    }
}

/// Site N may claim 10.N.0.0/16, and all may know everything.
pub(crate) fn members(peers: &[(SiteId, &[SocketAddr])]) -> BTreeMap<SiteId, Peer> {
    let member = |(site, relays): &(SiteId, &[SocketAddr])| {
        let prefixes = vec![format!("10.{}.0.0/16", site.0).parse().expect("a prefix")];
        let rights = PeerConfig { prefixes, export: Pass::All, import: Pass::All };
        (*site, Peer { rights, relays: relays.to_vec() })
    };
    peers.iter().map(member).collect()
}

/// What a relay told.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) events: Vec<Event>,
    pub(crate) records: BTreeMap<(SiteId, Key), Body>,
}

/// A running relay.
pub(crate) struct Node {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) told: Arc<Mutex<Told>>,
    pub(crate) task: JoinHandle<Result<(), RelayError>>,
    pub(crate) address: SocketAddr,
}

impl Node {
    pub(crate) async fn start(config: RelayConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::start_on(config, listener)
    }

    pub(crate) fn start_on(config: RelayConfig, listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("its address");
        let (commands, received) = mpsc::channel(256);
        let told = Arc::new(Mutex::new(Told::default()));
        let heard = Arc::clone(&told);
        let relay = Relay::new(config).expect("good certificates");
        let say = move |event: Event| {
            let mut told = heard.lock().expect("nobody panics with it");
            match event {
                Event::Record { origin, key, body: Some(body), .. } => drop(told.records.insert((origin, key), body)),
                Event::Record { origin, key, body: None, .. } => drop(told.records.remove(&(origin, key))),
                event => told.events.push(event),
            }
        };
        let task = tokio::spawn(relay.run(listener, received, say));
        Self { commands, told, task, address }
    }

    pub(crate) async fn tell(&self, command: Command) {
        self.commands.send(command).await.expect("the relay runs");
    }

    pub(crate) async fn write(&self, id: u32, body: Option<Body>) {
        self.tell(Command::Local(key(id), body)).await;
    }

    pub(crate) async fn status(&self) -> Status {
        let (ask, answer) = oneshot::channel();
        self.tell(Command::Status(ask)).await;
        answer.await.expect("an answer")
    }

    /// Events so far that `wanted` takes.
    pub(crate) fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.told.lock().expect("nobody panics with it").events.iter().filter(|e| wanted(e)).count()
    }

    pub(crate) fn record(&self, origin: SiteId, id: u32) -> Option<Body> {
        self.told.lock().expect("nobody panics with it").records.get(&(origin, key(id))).copied()
    }

    pub(crate) fn records(&self, origin: SiteId) -> BTreeMap<Key, Body> {
        let told = self.told.lock().expect("nobody panics with it");
        told.records.iter().filter(|((o, _), _)| *o == origin).map(|((_, key), body)| (*key, *body)).collect()
    }

    /// Waits until the state of the relay is as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        match met(async || Some(self.status().await).filter(|status| wanted(status))).await {
            Some(status) => status,
            None => {
                let events = self.told.lock().expect("nobody panics with it").events.clone();
                panic!("waited until {what}: {:?} {events:?}", self.status().await);
            }
        }
    }

    /// Waits for a session with a site in which the site was heard.
    pub(crate) async fn hears(&self, site: SiteId) {
        let heard = |status: &Status| status.sites.get(&site).is_some_and(|s| s.relay.is_some() && s.cursor.seq > 0);
        self.until(&format!("{site} is heard"), heard).await;
    }

    /// As SIGKILL: nothing is said to anybody.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _aborted = self.task.await;
    }
}

pub(crate) async fn until(what: &str, mut wanted: impl FnMut() -> bool) {
    met(async || wanted().then_some(())).await.unwrap_or_else(|| panic!("waited until {what}"));
}

/// Asks every 5 ms until something is given; `None` when [`PATIENCE`] is over.
pub(crate) async fn met<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    let all = async {
        loop {
            pace.tick().await;
            if let Some(found) = ask().await {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await.ok()
}

pub(crate) const fn key(id: u32) -> Key {
    Key::Service(ServiceId(id))
}

pub(crate) const fn summary(ready: u16, demand: u32) -> Body {
    Body::Service(Summary { ready, expected: 100, draining: false, capacity: 1000, demand })
}
