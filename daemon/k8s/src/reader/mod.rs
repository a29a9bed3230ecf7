//! The reader of a cluster's intent: Services, EndpointSlices and Nodes as the API server has them, in plain types.
//!
//! Nothing is handed out before all three lists are complete. From then on a burst of changes makes one new intent, a few milliseconds
//! late. Whatever the API server does, the intent neither empties nor shrinks by it (see [`crate::follow`]).

mod pace;
mod store;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bascule_core::intent::{Intent, NodeIntent};
use bascule_core::service::translate::KubeService;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::access::Access;
use crate::follow::{Follower, Note, Sink, Told};
use crate::object::node::Node;
use crate::object::service::Service;
use crate::object::slice::{EndpointSlice, KeptSlice};
use crate::state::{ApiState, Standing};
pub use pace::Pace;
use store::Store;

/// Changes that come within this time make one intent.
const COALESCE: Duration = Duration::from_millis(10);

/// What a reader must know.
#[derive(Debug, Clone)]
pub struct ReaderConfig {
    /// How the API server is reached. The files need not be there yet.
    pub access: Access,
    /// How long a watch lives before it is replaced: a server that is gone without a word is noticed a few seconds after. Three requests
    /// per node in this time.
    pub watch: Duration,
}

impl ReaderConfig {
    /// With watches of 30 s: 0.1 requests a second, and what a dead server withholds is half a minute old at most.
    pub const fn new(access: Access) -> Self {
        Self { access, watch: Duration::from_secs(30) }
    }
}

/// The reader.
pub struct Reader {
    config: ReaderConfig,
    shared: Shared,
    intents: watch::Sender<Option<Arc<Intent>>>,
    state: watch::Sender<ApiState>,
    pace: Pace,
}

impl Reader {
    /// A reader that asks for nothing yet.
    pub fn new(config: ReaderConfig) -> Self {
        let (intents, state) = (watch::Sender::new(None), watch::Sender::default());
        Self { config, shared: Shared::default(), intents, state, pace: Pace::default() }
    }

    /// Where whoever carries intents out tells how long one took.
    pub fn pace(&self) -> Pace {
        self.pace.clone()
    }

    /// The last intent; `None` before the first. Who is slow misses what was between.
    pub fn intents(&self) -> watch::Receiver<Option<Arc<Intent>>> {
        self.intents.subscribe()
    }

    /// How the API server stands.
    pub fn state(&self) -> watch::Receiver<ApiState> {
        self.state.subscribe()
    }

    /// Reads until `stop` is ready. No error of the API ends it.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { config, shared, intents, state, pace } = &self;
        let standing = Standing::new(3, state);
        let follower = || Follower::new(config.access.clone(), config.watch);
        let [services, slices, nodes] = [0, 1, 2].map(|kind| Ear { shared, standing: &standing, kind });
        tokio::select! {
            () = stop => {}
            never = follower().run::<Service, _>(&services) => match never {},
            never = follower().run::<EndpointSlice, _>(&slices) => match never {},
            never = follower().run::<Node, _>(&nodes) => match never {},
            () = publish(shared, intents, pace) => {}
        }
    }
}

/// What the followers fill and the publisher reads, all in one task: the lock is never waited for.
#[derive(Default)]
struct Shared {
    store: Mutex<Store>,
    changed: Notify,
    urgent: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One kind's way into the store.
struct Ear<'a> {
    shared: &'a Shared,
    standing: &'a Standing<'a>,
    kind: usize,
}

impl Ear<'_> {
    fn store(&self, tell: impl FnOnce(&mut Store)) {
        let mut store = self.shared.lock();
        tell(&mut store);
        if store.is_due() {
            self.shared.changed.notify_one();
        }
        if store.is_urgent() {
            self.shared.urgent.notify_one();
        }
    }
}

impl Sink<Service> for Ear<'_> {
    type Kept = KubeService;

    fn keep(&self, object: Service) -> Option<KubeService> {
        object.intent()
    }

    fn tell(&self, told: Told<KubeService>) {
        self.store(|store| store.services(told));
    }

    fn note(&self, note: Note) {
        self.standing.note(self.kind, note);
    }
}

impl Sink<EndpointSlice> for Ear<'_> {
    type Kept = KeptSlice;

    fn keep(&self, object: EndpointSlice) -> Option<KeptSlice> {
        self.shared.lock().keep(object)
    }

    fn tell(&self, told: Told<KeptSlice>) {
        self.store(|store| store.slices(told));
    }

    fn note(&self, note: Note) {
        self.standing.note(self.kind, note);
    }
}

impl Sink<Node> for Ear<'_> {
    type Kept = NodeIntent;

    fn keep(&self, object: Node) -> Option<NodeIntent> {
        Some(object.intent())
    }

    fn tell(&self, told: Told<NodeIntent>) {
        self.store(|store| store.nodes(told));
    }

    fn note(&self, note: Note) {
        self.standing.note(self.kind, note);
    }
}

async fn publish(shared: &Shared, intents: &watch::Sender<Option<Arc<Intent>>>, pace: &Pace) {
    loop {
        shared.changed.notified().await;
        sleep(COALESCE).await;
        let began = Instant::now();
        let Some(intent) = shared.lock().take() else { continue };
        let _before = intents.send_replace(Some(Arc::new(intent)));
        let made = Instant::now();
        let (changes, adds) = pace.pauses(made - began);
        sleep_until(made + changes).await;
        while !shared.lock().is_urgent() {
            tokio::select! {
                () = sleep_until(made + adds) => break,
                () = shared.urgent.notified() => {}
            }
        }
    }
}
