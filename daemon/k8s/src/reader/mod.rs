//! The reader of a cluster's intent: Services, EndpointSlices, Nodes and objects about announcements and sites as the API server has them, in
//! plain types.
//!
//! Nothing is handed out before all lists are complete, or the server says that it has none of a kind that it need not have. From then on
//! a burst of changes makes one new intent, a few milliseconds late. Whatever the API server does, the intent neither empties nor shrinks by it (see [`crate::follow`]).

mod pace;
mod rules;
mod store;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bascule_core::election::lease::Condition;
use bascule_core::intent::rules::Rules;
use bascule_core::intent::{Intent, NodeIntent};
use bascule_core::service::translate::KubeService;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::access::Access;
use crate::follow::{Follower, Note, Sink, Told};
use crate::object::bgp::{BgpAnnouncement, BgpPeer};
use crate::object::l2_announcement::L2Announcement;
use crate::object::node::Node;
use crate::object::pool::VipPool;
use crate::object::rule::Check;
use crate::object::service::Service;
use crate::object::site::{Site, SiteTrafficPolicy};
use crate::object::slice::{EndpointSlice, KeptSlice};
use crate::state::{ApiState, Standing};
pub use pace::Pace;
use rules::Listed;
use store::Store;

/// Changes that come within this time make one intent.
const COALESCE: Duration = Duration::from_millis(10);

/// What a reader must know.
#[derive(Debug, Clone)]
pub struct ReaderConfig {
    /// How the API server is reached. The files need not be there yet.
    pub access: Access,
    /// How long a watch lives before it is replaced: a server that is gone without a word is noticed a few seconds after. A request for
    /// each kind and node in this time.
    pub watch: Duration,
    /// Judges what objects about announcements and sites say in the words of the configuration file.
    pub check: Check,
}

impl ReaderConfig {
    /// With watches of 30 s: a third of a request a second, and what a dead server withholds is half a minute old at most.
    pub const fn new(access: Access, check: Check) -> Self {
        Self { access, watch: Duration::from_secs(30), check }
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

    /// Of objects about announcements and sites these were known to a former run: they hold until the API server says otherwise.
    #[must_use]
    pub fn knowing(self, rules: &Rules) -> Self {
        self.shared.lock().know(rules);
        self
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
        let standing = Standing::new(9, state);
        let follower = || Follower::new(config.access.clone(), config.watch);
        let [services, slices, nodes] = [0, 1, 2].map(|kind| Ear { shared, standing: &standing, kind });
        let ear = |kind| RuleEar { ear: Ear { shared, standing: &standing, kind }, check: config.check };
        let [pools, l2, peers, bgp, sites, traffic] = [3, 4, 5, 6, 7, 8].map(ear);
        tokio::select! {
            () = stop => {}
            never = follower().run::<Service, _>(&services) => match never {},
            never = follower().run::<EndpointSlice, _>(&slices) => match never {},
            never = follower().run::<Node, _>(&nodes) => match never {},
            never = follower().optional().run::<VipPool, _>(&pools) => match never {},
            never = follower().optional().run::<L2Announcement, _>(&l2) => match never {},
            never = follower().optional().run::<BgpPeer, _>(&peers) => match never {},
            never = follower().optional().run::<BgpAnnouncement, _>(&bgp) => match never {},
            never = follower().optional().run::<Site, _>(&sites) => match never {},
            never = follower().optional().run::<SiteTrafficPolicy, _>(&traffic) => match never {},
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

/// The way of a kind that the server need not tell of.
struct RuleEar<'a> {
    ear: Ear<'a>,
    check: Check,
}

impl<R: Listed> Sink<R> for RuleEar<'_> {
    type Kept = Result<R::Good, String>;

    fn keep(&self, object: R) -> Option<Self::Kept> {
        Some(object.read(self.check))
    }

    fn tell(&self, told: Told<Self::Kept>) {
        self.ear.store(|store| store.rule::<R>(told));
    }

    fn note(&self, note: Note) {
        match note {
            Note::Unknown => self.ear.store(Store::without::<R>),
            Note::Failed(Condition::Denied, words) => {
                self.ear.store(Store::without::<R>);
                return self.ear.standing.forgo(self.ear.kind, words);
            }
            Note::Listed | Note::Watching | Note::Failed(..) => {}
        }
        self.ear.standing.note(self.ear.kind, note);
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
