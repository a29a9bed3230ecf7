//! The allocator: gives addresses to Services and ids to nodes, on one node of the cluster at a time.
//!
//! It stands on a Lease of its own ([`Elector`]). Who holds it lists everything, adopts what the statuses say, and only then gives. No write
//! begins after the deadline of the claim and none outlasts it; a write that the network still carries then names the version it was
//! decided on, so it cannot undo what a successor wrote. Who does not hold the lease watches nothing but the Lease.

mod ask;
mod book;
mod send;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bascule_core::election::lease::kube::KubeConfig;
use bascule_core::election::lease::timing::Timing;
use bascule_core::election::lease::{Command, Condition, Word};
use bascule_core::ipam::Usage;
use bascule_core::time::Instant;
use bascule_core::types::Term;
use tokio::sync::{mpsc, watch};

use crate::access::Access;
use crate::elector::{Elector, ElectorConfig};
use crate::state::ApiState;
use crate::{CLASS, LeaseName};
use session::Session;

/// What an allocator must know.
#[derive(Debug, Clone)]
pub struct AllocatorConfig {
    /// How the API server is reached. The files need not be there yet.
    pub access: Access,
    /// The Lease that allocators of a cluster share; see [`ALLOCATOR_LEASE`].
    pub lease: LeaseName,
    /// Who holds it: the node's name.
    pub identity: String,
    /// Which boot of the node, so that a process that comes back knows its own claim.
    pub instance: String,
    /// Of the lease.
    pub timing: Timing,
    /// Spreads the times of the elector; `None`: not.
    pub seed: Option<u64>,
    /// CLOCK_BOOTTIME.
    pub clock: fn() -> Instant,
    /// `loadBalancerClass`es that are ours.
    pub classes: BTreeSet<String>,
    /// Services without a class are ours as well.
    pub unclassed: bool,
    /// How long a watch lives before it is replaced.
    pub watch: Duration,
}

/// Name of the Lease, in the namespace of the daemon.
pub const ALLOCATOR_LEASE: &str = "bascule-allocator";

impl AllocatorConfig {
    /// With the class `bascule.dev/vip`, Services of no class left to others, and watches of 30 s.
    pub fn new(
        access: Access,
        namespace: &str,
        identity: &str,
        instance: &str,
        timing: Timing,
        clock: fn() -> Instant,
    ) -> Self {
        Self {
            access,
            lease: LeaseName { namespace: namespace.to_owned(), name: ALLOCATOR_LEASE.to_owned() },
            identity: identity.to_owned(),
            instance: instance.to_owned(),
            timing,
            seed: None,
            clock,
            classes: BTreeSet::from([CLASS.to_owned()]),
            unclassed: false,
            watch: Duration::from_secs(30),
        }
    }
}

/// For status and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllocatorState {
    /// It gives addresses now.
    pub leads: bool,
    /// Who does, as far as is known.
    pub holder: Option<String>,
    /// How the API server answers for the Lease.
    pub lease: Condition,
    /// How it answers for the objects; as it was when it led last.
    pub api: ApiState,
    /// Writes that were carried out so far: statuses and ids.
    pub writes: u64,
    /// Writes that somebody else's came before (409).
    pub conflicts: u64,
    /// Writes that did not work for another reason.
    pub failures: u64,
    /// Events that were sent.
    pub events: u64,
    /// The last failure, in the server's words.
    pub detail: Option<String>,
    /// Services of ours that lack something; only who leads knows.
    pub pending: usize,
    /// How full the pools are; only who leads knows.
    pub pools: BTreeMap<String, Usage>,
}

/// The claim that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Right {
    claim: Option<(Term, Instant)>,
    /// Given up by choice, and not yet confirmed.
    closing: Option<Term>,
}

/// The allocator.
pub struct Allocator {
    config: AllocatorConfig,
    state: watch::Sender<AllocatorState>,
}

impl Allocator {
    /// An allocator that does not take part yet.
    pub fn new(config: AllocatorConfig) -> Self {
        Self { config, state: watch::Sender::default() }
    }

    /// What it does.
    pub fn state(&self) -> watch::Receiver<AllocatorState> {
        self.state.subscribe()
    }

    /// Takes part until `stop` is ready; then the lease is released. No error of the API ends it.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { config, state } = &self;
        let machine = KubeConfig {
            identity: config.identity.clone(),
            instance: config.instance.clone(),
            timing: config.timing,
            seed: config.seed,
            term: Term(0),
        };
        let elector = Elector::new(ElectorConfig {
            access: config.access.clone(),
            lease: config.lease.clone(),
            machine,
            timing: config.timing,
            clock: config.clock,
        });
        // A few: one for the end of each claim, and the stop.
        let (commands, received) = mpsc::channel(4);
        let right = watch::Sender::new(Right::default());
        let elects = elector.run(received, |word| hear(word, &right, state));
        let stops = async {
            stop.await;
            // It has ended where nobody hears this.
            let _ended = commands.send(Command::Stop).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = elects => {}
            () = stops => {}
            () = self.lead(&right, &commands) => {}
        }
    }

    /// While a claim stands there is a session, and it ends with the claim.
    async fn lead(&self, right: &watch::Sender<Right>, commands: &mpsc::Sender<Command>) {
        let mut changes = right.subscribe();
        loop {
            let now = *changes.borrow_and_update();
            if let Some((term, _)) = now.claim {
                let other = |right: &Right| right.claim.map(|(term, _)| term) != Some(term);
                let session = Session::new(&self.config, &self.state, right.subscribe());
                self.state.send_modify(|state| state.leads = true);
                tokio::select! {
                    biased;
                    _ = changes.wait_for(other) => {}
                    () = session.run() => {}
                }
                self.state.send_modify(|state| state.leads = false);
                continue;
            }
            if let Some(term) = now.closing {
                right.send_modify(|right| right.closing = None);
                let _ended = commands.send(Command::Closed(term)).await;
                continue;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

fn hear(word: Word, right: &watch::Sender<Right>, state: &watch::Sender<AllocatorState>) {
    match word {
        Word::Claim { term, deadline, .. } | Word::Extend { term, deadline } => {
            right.send_modify(|right| right.claim = Some((term, deadline)));
        }
        Word::Close { term, .. } => right.send_modify(|right| *right = Right { claim: None, closing: Some(term) }),
        Word::Holder(holder) => state.send_modify(|state| state.holder = holder),
        Word::Condition { condition, detail } => state.send_modify(|state| {
            state.lease = condition;
            if detail.is_some() {
                state.detail = detail;
            }
        }),
        Word::Stalled(_) => {}
    }
}
