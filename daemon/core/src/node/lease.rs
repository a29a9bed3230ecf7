//! A group that a lease elects: what its elector says becomes fence, addresses and announcements, in the order of a claim by VRRP.
//!
//! Decides when the elector may own for this node ([`Standing`]), and when what it gave up is closed. No advert is sent and none is heeded:
//! the group's virtual router stays in Initialize. The proof of every claim comes from the elector, which counts it from before its
//! request (ADR 0009); a deadline that passes without a word closes by the kernel, and here as soon as this node runs again.

use core::net::IpAddr;
use core::time::Duration;

use super::config::LeaseConfig;
use super::event::Event;
use super::group::{Claim, Env, Group, RETRY, Timer};
use super::io::{Action, ElectorId, Order};
use super::status::LeaseStatus;
use crate::election::Reason;
use crate::election::lease::{CloseReason, Command, Condition, Standing, Word};
use crate::fence::{Basis, FenceRole};
use crate::time::Instant;
use crate::types::{Mac, Role, Term};

/// So long after their lifetime addresses that could not be taken off have ended, and the fence has dropped what came for them.
const ADDRESSES_END: Duration = Duration::from_secs(1);

/// The name of a node in the record of a lease. An underscore is in no node name, so that kube-vip, which writes the bare name, never
/// takes our lease for its own when both run on one node (ADR 0011).
pub fn identity(node: &str) -> String {
    format!("{node}_bascule")
}

/// Is this holder the node itself? In etcd the boot is named too, after another underscore.
fn is_identity(holder: &str, node: &str) -> bool {
    let Some(rest) = holder.strip_prefix(&identity(node)) else { return false };
    rest.is_empty() || rest.strip_prefix('_').is_some_and(|boot| !boot.contains('_'))
}

/// What the group knows of its elector.
#[derive(Debug)]
pub(super) struct Tenure {
    id: ElectorId,
    config: LeaseConfig,
    pub(super) role: Role,
    /// What the elector was told last; `None` before it was started.
    told: Option<Standing>,
    /// It was told to end.
    ended: bool,
    /// A claim of the elector that was not answered with Closed yet, whether we took it or not.
    claimed: Option<Term>,
    /// The elector has closed it, and waits for us.
    closing: bool,
    /// Of the claim that we took.
    deadline: Option<Instant>,
    /// Claims of all nodes, as the last claim counted them.
    epoch: u64,
    holder: Option<String>,
    /// Somebody answered for an address at the start. Whoever holds the lease may; if nobody else does, it is a foreign host.
    suspect: Option<(IpAddr, Mac)>,
    condition: Condition,
    detail: Option<String>,
    extended: u64,
    expired: u64,
    lost: u64,
}

impl Tenure {
    pub(super) fn new(id: ElectorId, config: LeaseConfig) -> Self {
        Self {
            id,
            config,
            role: Role::Initialize,
            told: None,
            ended: false,
            claimed: None,
            closing: false,
            deadline: None,
            epoch: 0,
            holder: None,
            suspect: None,
            condition: Condition::Unknown,
            detail: None,
            extended: 0,
            expired: 0,
            lost: 0,
        }
    }

    pub(super) fn is(&self, id: ElectorId) -> bool {
        self.id == id
    }

    /// While Active: when the fence closes without a further word.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Nothing is owed to the elector: what it claimed is closed, and it was told so. It releases by itself.
    pub(super) fn at_rest(&self) -> bool {
        self.claimed.is_none()
    }

    /// Somebody else is named in the record.
    pub(super) fn held_by_another(&self, node: &str) -> bool {
        self.holder.as_ref().is_some_and(|holder| !is_identity(holder, node))
    }

    pub(super) fn suspect(&mut self, address: IpAddr, mac: Mac) {
        self.suspect = Some((address, mac));
    }

    fn order(&self, order: Order) -> Action {
        Action::Elect { elector: self.id, order: Box::new(order) }
    }

    pub(super) fn status(&self, now: Instant) -> LeaseStatus {
        LeaseStatus {
            store: self.config.store.word(),
            name: self.config.store.to_string(),
            holder: self.holder.clone(),
            standing: self.told.unwrap_or(Standing::Barred),
            store_condition: self.condition,
            detail: self.detail.clone(),
            seconds_left: self.deadline.map(|at| at.since(now).as_secs_f64()),
            transitions: self.epoch,
            renewals: self.extended,
            expired: self.expired,
            lost: self.lost,
            takeover_bound_seconds: self.config.takeover_bound().as_secs_f64(),
        }
    }
}

impl Group {
    /// Takes part: the elector is started with the first time.
    pub(super) fn lease_join(&mut self, now: Instant) {
        let Some(tenure) = self.lease.as_mut() else { return };
        if tenure.told.is_none() && !tenure.ended {
            // The elector's terms count from here on: the pinned slot knows none as late as this one.
            let (group, lease) = (self.config.name.clone(), tenure.config.clone());
            let start = Order::Start { group, lease, term: Term(now.as_nanos()) };
            tenure.told = Some(Standing::Fit);
            let start = tenure.order(start);
            self.out.push_back(start);
        }
        self.lease_role(Role::Backup, Reason::Started, now);
    }

    /// Tells the elector what this node may do, when that changed.
    pub(super) fn tell_standing(&mut self, env: &Env<'_>) {
        let healthy = self.healthy;
        let Some(tenure) = self.lease.as_mut() else { return };
        if tenure.told.is_none() || tenure.ended {
            return;
        }
        if env.ending && tenure.role == Role::Initialize {
            tenure.ended = true;
            let stop = tenure.order(Order::Tell(Command::Stop));
            self.out.push_back(stop);
            return;
        }
        // A claim that we did not take, or gave up by ourselves, must end before the next one.
        let refused = tenure.claimed.is_some() && !tenure.closing && tenure.role != Role::Active;
        let standing = match tenure.role {
            Role::Initialize => Standing::Barred,
            Role::Backup | Role::Active if refused => Standing::Barred,
            Role::Backup | Role::Active if healthy => Standing::Fit,
            Role::Backup | Role::Active => Standing::Sick,
        };
        if tenure.told != Some(standing) {
            tenure.told = Some(standing);
            let tell = tenure.order(Order::Tell(Command::Standing(standing)));
            self.out.push_back(tell);
        }
    }

    /// A word of the group's elector.
    pub(super) fn handle_word(&mut self, word: Word, env: &Env<'_>, now: Instant) {
        let group = self.config.name.clone();
        self.expire_lease(env, now);
        let addresses_end = self.lifetime() + ADDRESSES_END;
        let Some(tenure) = self.lease.as_mut() else { return };
        match word {
            Word::Claim { term, epoch, deadline } => {
                (tenure.claimed, tenure.closing, tenure.epoch) = (Some(term), false, epoch);
                self.timers.stop(Timer::Closed);
                self.consider(term, deadline, env, now);
            }
            Word::Extend { term, deadline } => {
                if tenure.role == Role::Active && self.term == term {
                    tenure.deadline = Some(deadline);
                    tenure.extended += 1;
                    self.timers.set(Timer::Lease, deadline);
                    self.write_fence(env, FenceRole::Active, deadline, Instant::ZERO, false);
                }
            }
            Word::Close { term, reason } => {
                tenure.closing = tenure.claimed == Some(term);
                if tenure.closing {
                    self.timers.set(Timer::Closed, now + addresses_end);
                }
                if tenure.role == Role::Active && self.term == term {
                    self.lease_close(Role::Backup, meaning(reason), env, now);
                }
            }
            Word::Holder(holder) => {
                tenure.holder.clone_from(&holder);
                if tenure.held_by_another(env.node) {
                    tenure.suspect = None;
                }
                self.report(Event::LeaseHolder { group, holder });
            }
            Word::Condition { condition, detail } => {
                (tenure.condition, tenure.detail) = (condition, detail.clone());
                self.report(Event::LeaseStore { group, condition, detail });
            }
            Word::Stalled(late) => self.report(Event::LeaseStalled { group, seconds: late.as_secs_f64() }),
        }
        self.confirm_closed();
        self.tell_standing(env);
        self.drain_outputs(env, now);
    }

    /// The elector owns for this node: own, unless something stands in the way by now.
    fn consider(&mut self, term: Term, deadline: Instant, env: &Env<'_>, now: Instant) {
        let Some(tenure) = self.lease.as_mut() else { return };
        if tenure.role != Role::Backup || tenure.told == Some(Standing::Barred) || deadline <= now {
            return;
        }
        if let Some((address, mac)) = tenure.suspect.take() {
            let text = format!("address_in_use: {address} is answered for by {mac}");
            self.setback = Some((Reason::AddressInUse, text));
            // Asked again after the wait.
            self.probed = false;
            self.report(Event::AddressInUse { group: self.config.name.clone(), address, mac });
            self.timers.set(Timer::Retry, now + RETRY);
            self.evaluate(env, now);
            return;
        }
        tenure.deadline = Some(deadline);
        self.term = term;
        self.basis = Basis::Given;
        self.rival_seen = None;
        self.timers.set(Timer::Lease, deadline);
        self.write_fence(env, FenceRole::Active, deadline, Instant::ZERO, false);
        let reason = Reason::LeaseAcquired;
        self.claim = Some(Claim { at: now, reason, detect: None, left: None, installed: None, announced: false });
        self.install(now);
        self.lease_role(Role::Active, reason, now);
    }

    /// The deadline passed without a word: the kernel has closed already.
    pub(super) fn expire_lease(&mut self, env: &Env<'_>, now: Instant) {
        if self.lease.as_ref().and_then(|t| t.deadline).is_some_and(|at| at <= now) {
            self.lease_close(Role::Backup, Reason::FenceExpired, env, now);
            self.tell_standing(env);
        }
    }

    /// Gives up what is owned, if anything: fence, routes and announcements in this step, addresses as soon as the kernel takes them off.
    pub(super) fn lease_close(&mut self, to: Role, reason: Reason, env: &Env<'_>, now: Instant) {
        let Some(tenure) = self.lease.as_mut() else { return };
        let owned = tenure.role == Role::Active;
        tenure.deadline = None;
        tenure.expired += u64::from(owned && reason == Reason::FenceExpired);
        tenure.lost += u64::from(owned && reason == Reason::LeaseLost);
        self.timers.stop(Timer::Lease);
        if owned {
            self.announcer.stop();
            self.claim = None;
            self.timers.stop(Timer::Announce);
            self.finish_drain(env);
        }
        self.lease_role(to, reason, now);
        if owned && reason == Reason::FenceExpired {
            self.report(Event::FenceClosed { group: self.config.name.clone(), term: self.term });
        }
    }

    /// Tells the elector that all is closed, once it is.
    pub(super) fn confirm_closed(&mut self) {
        let closed = self.installed.is_none() && self.removals == 0;
        let Some(tenure) = self.lease.as_mut() else { return };
        if let Some(term) = tenure.claimed.take_if(|_| tenure.closing && closed) {
            tenure.closing = false;
            self.timers.stop(Timer::Closed);
            let told = tenure.order(Order::Tell(Command::Closed(term)));
            self.out.push_back(told);
        }
    }

    /// Addresses that could not be taken off are gone by their lifetime.
    pub(super) fn addresses_ended(&mut self, env: &Env<'_>, now: Instant) {
        while self.removals > 0 {
            self.handle_removed(env, now);
        }
    }

    fn lease_role(&mut self, to: Role, reason: Reason, now: Instant) {
        let Some(tenure) = self.lease.as_mut() else { return };
        let from = core::mem::replace(&mut tenure.role, to);
        if from != to {
            self.since = now;
            let (group, term) = (self.config.name.clone(), self.term);
            self.report(Event::Role { group, from, to, reason, term, owner: None });
        }
    }
}

/// Why the role changes, in the words of all electors.
fn meaning(reason: CloseReason) -> Reason {
    match reason {
        CloseReason::Expired => Reason::FenceExpired,
        CloseReason::Lost | CloseReason::Gone => Reason::LeaseLost,
        CloseReason::Stopped | CloseReason::Barred | CloseReason::HandedOver => Reason::Stopped,
    }
}
