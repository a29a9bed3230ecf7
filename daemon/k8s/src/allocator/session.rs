//! One claim of the allocator: what it learns from the API and what it writes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bascule_core::election::lease::Failure;
use bascule_core::ipam::Labels;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::book::{Book, Rules};
use super::send::{self, Sent};
use super::{AllocatorConfig, AllocatorState, Right};
use crate::access::Clients;
use crate::exchange::{self, Fault};
use crate::follow::{Follower, Note, Sink, Told, spread};
use crate::object::namespace::Namespace;
use crate::object::node::Node;
use crate::object::pool::VipPool;
use crate::object::service::Service;
use crate::state::{ApiState, Standing};

/// Writes under way at once.
const WIDTH: usize = 8;
/// How full a pool is, is written this often at most: each Service changes it.
const POOLS_EVERY: Duration = Duration::from_secs(2);
/// First wait after a write that failed, doubling up to the last.
const WAIT_MIN: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How long after a conflict the watch is waited for. A server that is well sends what it has stored within milliseconds.
const WATCH_LATE: Duration = Duration::from_secs(2);

/// A session. It never ends by itself.
pub(super) struct Session<'a> {
    config: &'a AllocatorConfig,
    state: &'a watch::Sender<AllocatorState>,
    right: watch::Receiver<Right>,
    book: Mutex<Book>,
    changed: Notify,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        config: &'a AllocatorConfig,
        state: &'a watch::Sender<AllocatorState>,
        right: watch::Receiver<Right>,
    ) -> Self {
        let rules = Rules { classes: config.classes.clone(), unclassed: config.unclassed };
        Self { config, state, right, book: Mutex::new(Book::new(rules, send::now)), changed: Notify::new() }
    }

    pub(super) async fn run(&self) {
        let api = watch::Sender::new(ApiState::default());
        let standing = Standing::new(4, &api);
        let follower = || Follower::new(self.config.access.clone(), self.config.watch);
        let [services, namespaces, pools, nodes] =
            [0, 1, 2, 3].map(|kind| Ear { session: self, standing: &standing, kind });
        tokio::select! {
            never = follower().run::<Service, _>(&services) => match never {},
            never = follower().run::<Namespace, _>(&namespaces) => match never {},
            never = follower().run::<VipPool, _>(&pools) => match never {},
            never = follower().run::<Node, _>(&nodes) => match never {},
            () = self.show(api.subscribe()) => {}
            () = self.work() => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn show(&self, mut api: watch::Receiver<ApiState>) {
        while api.changed().await.is_ok() {
            let now = api.borrow_and_update().clone();
            self.state.send_modify(|state| state.api = now);
        }
    }

    /// Writes what is to be written, several at once, later after each failure.
    async fn work(&self) {
        let mut clients: Option<Clients> = None;
        let mut running: JoinSet<Sent> = JoinSet::new();
        let (mut quiet, mut failures) = (Instant::now(), 0_u32);
        let mut pools_next = Instant::now();
        let mut conflict: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if conflict.take_if(|at| *at + WATCH_LATE <= now).is_some() {
                self.lock().look_again();
            }
            // After a failure one write shows whether it goes better.
            let width = if failures > 0 { 1 } else { WIDTH };
            while now >= quiet && running.len() < width {
                let with_pools = now >= pools_next && running.is_empty();
                let (write, pools_left) = {
                    let mut book = self.lock();
                    (book.next(with_pools), book.has_pools())
                };
                if with_pools && !pools_left {
                    pools_next = now + POOLS_EVERY;
                }
                let Some(write) = write else { break };
                let client = match self.client(&mut clients).await {
                    Ok(client) => client,
                    Err(detail) => {
                        self.lock().done(&write.target, super::book::Done::Again);
                        self.state.send_modify(|state| {
                            state.failures += 1;
                            state.detail = Some(detail);
                        });
                        quiet = now + wait(&mut failures);
                        break;
                    }
                };
                let Some((_, deadline)) = self.right.borrow().claim else { return };
                running.spawn(send::send(client, write, deadline, self.config.clock));
            }
            let due = self.lock().is_due();
            // What waits for nothing but its turn is looked at when one ends.
            let look = if quiet > now { Some(quiet) } else { running.is_empty().then_some(pools_next) };
            tokio::select! {
                Some(sent) = running.join_next() => match sent {
                    Ok(sent) => {
                        if sent.trouble.as_ref().is_some_and(|t| matches!(t.fault, Fault::Conflict | Fault::Gone)) {
                            conflict.get_or_insert(now);
                        }
                        let (patience, lost) = self.took(sent, &mut failures);
                        quiet = quiet.max(Instant::now() + patience);
                        if lost {
                            clients = None;
                        }
                    }
                    // It panicked, which ends a daemon as it ships.
                    Err(_) => quiet = now + wait(&mut failures),
                },
                () = self.changed.notified() => {}
                () = sleep_until(look.unwrap_or(now)), if due && look.is_some() => {}
                () = sleep_until(conflict.unwrap_or(now) + WATCH_LATE), if conflict.is_some() => {}
            }
        }
    }

    async fn client(&self, clients: &mut Option<Clients>) -> Result<kube::Client, String> {
        if clients.is_none() {
            *clients = Some(self.config.access.clients().await.map_err(|error| exchange::chain(&error))?);
        }
        Ok(clients.as_ref().expect("it was just made").watches.clone())
    }

    /// Gives how long to wait before the next write, and whether the connection is to be made anew.
    fn took(&self, sent: Sent, failures: &mut u32) -> (Duration, bool) {
        let mut book = self.lock();
        book.done(&sent.target, sent.done);
        let (pending, pools) = (book.pending(), book.usage());
        drop(book);
        let fault = sent.trouble.as_ref().map(|trouble| trouble.fault);
        self.state.send_modify(|state| {
            state.writes += u64::from(sent.written);
            state.events += u64::from(sent.said);
            state.conflicts += u64::from(fault == Some(Fault::Conflict));
            state.failures += u64::from(fault.is_some_and(|fault| fault != Fault::Conflict));
            if let Some(trouble) = sent.trouble {
                state.detail = Some(trouble.detail);
            }
            (state.pending, state.pools) = (pending, pools);
        });
        match fault {
            None => {
                *failures = 0;
                (Duration::ZERO, false)
            }
            // The object alone is to blame; and one that somebody else wrote waits for the watch by itself.
            Some(Fault::NotFound | Fault::Refused | Fault::Conflict | Fault::Gone) => (Duration::ZERO, false),
            Some(Fault::Failed(failure)) => {
                let asked = match failure {
                    Failure::Throttled { retry_after } => retry_after.unwrap_or_default(),
                    Failure::Unavailable | Failure::Denied | Failure::Lost => Duration::ZERO,
                };
                (wait(failures).max(asked), matches!(failure, Failure::Denied | Failure::Lost))
            }
        }
    }
}

fn wait(failures: &mut u32) -> Duration {
    let wait = (WAIT_MIN * (1 << (*failures).min(8))).min(WAIT_MAX);
    *failures = failures.saturating_add(1);
    spread(wait)
}

/// One kind's way into the book.
struct Ear<'a> {
    session: &'a Session<'a>,
    standing: &'a Standing<'a>,
    kind: usize,
}

impl Ear<'_> {
    fn book(&self, tell: impl FnOnce(&mut Book)) {
        let mut book = self.session.lock();
        tell(&mut book);
        if book.is_due() {
            self.session.changed.notify_one();
        }
    }
}

impl Sink<Service> for Ear<'_> {
    type Kept = Service;

    fn keep(&self, object: Service) -> Option<Service> {
        // One that is no LoadBalancer any more may still carry our mark.
        (object.is_load_balancer() || object.is_marked()).then_some(object)
    }

    fn tell(&self, told: Told<Service>) {
        self.book(|book| book.services(told));
    }

    fn note(&self, note: Note) {
        self.standing.note(self.kind, note);
    }
}

impl Sink<Namespace> for Ear<'_> {
    type Kept = Labels;

    fn keep(&self, object: Namespace) -> Option<Labels> {
        Some(object.metadata.labels)
    }

    fn tell(&self, told: Told<Labels>) {
        self.book(|book| book.namespaces(told));
    }

    fn note(&self, note: Note) {
        self.standing.note(self.kind, note);
    }
}

impl Sink<VipPool> for Ear<'_> {
    type Kept = VipPool;

    fn keep(&self, object: VipPool) -> Option<VipPool> {
        Some(object)
    }

    fn tell(&self, told: Told<VipPool>) {
        self.book(|book| book.pools(told));
    }

    fn note(&self, note: Note) {
        self.standing.note(self.kind, note);
    }
}

impl Sink<Node> for Ear<'_> {
    type Kept = Node;

    fn keep(&self, object: Node) -> Option<Node> {
        Some(object)
    }

    fn tell(&self, told: Told<Node>) {
        self.book(|book| book.nodes(told));
    }

    fn note(&self, note: Note) {
        self.standing.note(self.kind, note);
    }
}
