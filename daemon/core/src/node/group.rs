//! One group on this node: the election of its virtual router, its fence slot, its addresses and their announcement.
//!
//! Decides when the group takes part at all, and turns a change of role into effects in the one safe order: fence before frames when
//! claiming, fence before everything when giving up.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::VecDeque;

use super::config::{FencePolicy, GroupConfig, WhenAllFail};
use super::event::Event;
use super::io::{Action, ElectorId, FenceState, LinkInfo};
use super::lease::Tenure;
use super::prepare::Prepared;
use super::status::GroupStatus;
use crate::announce::l2::Announcer;
use crate::announce::route::Want;
use crate::election::Reason;
use crate::election::vrrp::{Vrrp, VrrpConfig};
use crate::fence::{Basis, FenceRole, window};
use crate::handover::{Handover, Wanted};
use crate::time::{Instant, TimerTable};
use crate::types::{Family, LinkId, Mac, Role, Slot, Term, sick_priority};
use crate::wire::peer::Keys;

/// Between conflict probes, and after the last (RFC 5227 sends 3; its seconds are far too long before a claim).
pub(super) const PROBE_GAP: Duration = Duration::from_millis(200);
/// Number of conflict probes (PROBE_NUM, RFC 5227 section 1.1).
pub(super) const PROBE_COUNT: u32 = 3;
/// A group that met a foreign holder, or could not install its addresses, tries again after this.
pub(super) const RETRY: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Timer {
    /// Next conflict probe, or the end of probing.
    Probe,
    /// The next step of a claim towards its first announcement.
    Announce,
    /// A grant lapses.
    Prepared,
    /// Nobody has announced the addresses since we gave way.
    Recall,
    /// The routes of a planned move were announced with GRACEFUL_SHUTDOWN long enough.
    Unroute,
    /// Stragglers have been served long enough.
    Drained,
    /// A condition that blocks the group is looked at again.
    Retry,
    /// The foreign virtual router has been silent long enough.
    Foreign,
    /// The fence of a claim on a lease closes without a further proof.
    Lease,
    /// Addresses that could not be taken off have ended by their lifetime.
    Closed,
}

/// What the node knows and every group needs.
pub(super) struct Env<'a> {
    pub(super) node: &'a str,
    pub(super) policy: FencePolicy,
    pub(super) fence: &'a FenceState,
    pub(super) keys: &'a Keys,
    pub(super) drained: bool,
    /// The group or the process ends: electors are told to stop.
    pub(super) ending: bool,
    /// How long routes are announced with GRACEFUL_SHUTDOWN when the node is drained.
    pub(super) route_drain: Duration,
    pub(super) links: &'a [LinkInfo],
}

impl Env<'_> {
    /// Writes to the fence have an effect.
    pub(super) fn fenced(&self) -> bool {
        self.policy != FencePolicy::Off && *self.fence == FenceState::Ready
    }
}

/// A claim on its way to the first announcement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) at: Instant,
    pub(super) reason: Reason,
    pub(super) detect: Option<Duration>,
    /// The first advert has left by then.
    pub(super) left: Option<Instant>,
    pub(super) installed: Option<Instant>,
    pub(super) announced: bool,
}

/// One group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) config: GroupConfig,
    pub(super) slot: Slot,
    pub(super) link: Option<LinkInfo>,
    /// The virtual router. Where a lease elects it stays in Initialize, which sends nothing and heeds nothing.
    pub(super) vrrp: Vrrp,
    /// Where a lease elects.
    pub(super) lease: Option<Tenure>,
    pub(super) handover: Handover,
    pub(super) announcer: Announcer,
    pub(super) term: Term,
    /// What the claim of this term stands on.
    pub(super) basis: Basis,
    pub(super) since: Instant,
    /// Gates are all open.
    pub(super) healthy: bool,
    /// The conflict probe is behind us.
    pub(super) probed: bool,
    /// Probes sent while probing.
    pub(super) probes: u32,
    /// Probes sent since we gave way to another Active.
    pub(super) questions: u32,
    /// Who answered a probe, and when: a foreign holder unless it turns out to advertise.
    pub(super) answered: Option<(IpAddr, Mac, Instant)>,
    /// A foreign holder was met by the probe, or the kernel refused: why the group waits.
    pub(super) setback: Option<(Reason, String)>,
    /// Why the group does not take part, and what of that was reported last.
    pub(super) condition: Option<String>,
    pub(super) reported: Option<String>,
    /// When the group began to exist here.
    pub(super) begun: Instant,
    /// What the fence slot guards now.
    pub(super) registered: Option<(LinkId, Vec<IpAddr>)>,
    /// Addresses that the driver was asked to take off and that may still be there, and how many such requests are open.
    pub(super) removing: Vec<IpAddr>,
    pub(super) removals: u32,
    /// Addresses on the link, and that link, while we hold them.
    pub(super) installed: Option<(LinkId, Vec<IpAddr>)>,
    pub(super) claim: Option<Claim>,
    /// A grant whose claim waits for the addresses.
    pub(super) prepared: Option<Prepared>,
    /// Last advert of another Active.
    pub(super) heard: Option<Instant>,
    /// When the Active that we hear became another one.
    pub(super) owner_since: Option<Instant>,
    /// The foreign virtual router on our VRID.
    pub(super) foreign: Option<IpAddr>,
    /// A rival was reported in this series.
    pub(super) rival_seen: Option<Instant>,
    /// The planned way out was tried.
    pub(super) farewell: bool,
    pub(super) timers: TimerTable<Timer>,
    /// What the ledger of routes took last.
    pub(super) routed: Want,
    pub(super) out: VecDeque<Action>,
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Key and counter of the nonces: unpredictable for others, repeatable for a seed.
    seed: u64,
    drawn: u64,
}

impl Group {
    /// `elector`: the name of its elector, should a lease elect.
    pub(super) fn new(
        config: GroupConfig,
        slot: Slot,
        elector: ElectorId,
        seed: u64,
        env: &Env<'_>,
        now: Instant,
    ) -> Self {
        let healthy = config.gates.is_empty();
        let vrrp = Vrrp::new(vrrp_config(&config, healthy, env));
        Self {
            handover: Handover::new(config.vrid, env.node.to_owned()),
            announcer: Announcer::new(config.l2, config.owned()),
            vrrp,
            lease: config.lease.clone().map(|lease| Tenure::new(elector, lease)),
            slot,
            link: None,
            term: Term(0),
            basis: Basis::Given,
            since: now,
            healthy,
            probed: !config.conflict_probe || !config.announce.on_link(),
            probes: 0,
            questions: 0,
            answered: None,
            setback: None,
            condition: None,
            reported: None,
            begun: now,
            registered: None,
            removing: Vec::new(),
            removals: 0,
            installed: None,
            claim: None,
            prepared: None,
            heard: None,
            owner_since: None,
            foreign: None,
            rival_seen: None,
            farewell: false,
            timers: TimerTable::default(),
            routed: Want::Withdraw,
            out: VecDeque::new(),
            sent: 0,
            received: 0,
            seed,
            drawn: 0,
            config,
        }
    }

    /// The role, whoever elects.
    pub(super) fn role(&self) -> Role {
        self.lease.as_ref().map_or_else(|| self.vrrp.role(), |lease| lease.role)
    }

    /// While Active and fenced: when the fence closes without a further proof.
    pub(super) fn fence_deadline(&self) -> Option<Instant> {
        match &self.lease {
            Some(lease) => lease.deadline(),
            None => self.vrrp.fence_deadline(),
        }
    }

    /// A number that nobody else can guess.
    pub(super) fn nonce(&mut self) -> u64 {
        use core::hash::Hasher as _;
        self.drawn += 1;
        let mut hasher = siphasher::sip::SipHasher13::new_with_keys(self.seed, u64::from(self.slot.0));
        hasher.write_u64(self.drawn);
        hasher.finish()
    }

    /// Priority in force: the sick band while a gate is closed.
    pub(super) fn priority(&self) -> u8 {
        priority(&self.config, self.healthy)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.vrrp.poll_timeout(), self.handover.poll_timeout(), self.announcer.poll_timeout(), self.timers.next()]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn report(&mut self, event: Event) {
        self.out.push_back(Action::Report(event));
    }

    /// True when nothing is owed any more: not in the election, no stragglers, no addresses, and an elector has what it waits for.
    pub(super) fn at_rest(&self) -> bool {
        self.role() == Role::Initialize
            && self.timers.get(Timer::Drained).is_none()
            && self.installed.is_none()
            && self.lease.as_ref().is_none_or(Tenure::at_rest)
    }

    /// The other owner was first heard within the two seconds before `deadline` as somebody else than before.
    pub(super) fn owner_changed(&self, deadline: Instant) -> bool {
        self.owner_since.is_some_and(|at| at + Duration::from_secs(2) > deadline)
    }

    /// At rest, and the kernel has none of our addresses any more: the fence may forget the slot.
    pub(super) fn is_gone(&self) -> bool {
        self.at_rest() && self.removals == 0
    }

    /// Asks for addresses to be taken off. They stay guarded until that is done.
    pub(super) fn remove(&mut self, link: LinkId, addresses: Vec<IpAddr>) {
        self.removals += 1;
        self.out.push_back(Action::Remove { slot: self.slot, link, addresses });
    }

    /// One request to take addresses off was carried out.
    pub(super) fn handle_removed(&mut self, env: &Env<'_>, now: Instant) {
        self.removals = self.removals.saturating_sub(1);
        if self.removals == 0 && !self.removing.is_empty() {
            self.removing.clear();
            self.register(env, now);
        }
        self.confirm_closed();
        self.tell_standing(env);
    }

    /// Our own address of a family on the link: the source of adverts and the tie-break.
    pub(super) fn own_address(&self, family: Family) -> Option<IpAddr> {
        let link = self.link.as_ref()?;
        // The addresses of a shard come and go: what names the node must not follow them.
        let near = |n: &&ipnet::IpNet| match self.config.shard {
            Some(shard) => n.addr() == shard.node,
            None => self.config.addresses.iter().any(|vip| n.contains(vip)),
        };
        let fits = |net: &&ipnet::IpNet| !self.config.owns(net.addr());
        match family {
            Family::V4 => {
                // Of a shard's VIPs the link may have thousands: who it is not is asked of one address only.
                let v4 = || link.addresses.iter().filter(|n| n.addr().is_ipv4());
                v4().filter(near).find(fits).or_else(|| v4().find(fits))
            }
            // RFC 9568 section 5.1.2.1: the source is a link-local address.
            Family::V6 => link.addresses.iter().filter(|n| is_link_local(&n.addr())).find(fits),
        }
        .map(ipnet::IpNet::addr)
    }

    /// New health of the gates as a whole.
    pub(super) fn set_healthy(&mut self, healthy: bool, env: &Env<'_>, now: Instant) {
        if self.healthy == healthy {
            return;
        }
        self.healthy = healthy;
        let (group, priority) = (self.config.name.clone(), self.priority());
        self.report(Event::Health { group, healthy, priority });
        self.apply_vrrp(env, now);
        // A lease has no peer to ask: its sick holder keeps what it has.
        let sick_owner = !healthy && self.vrrp.role() == Role::Active;
        if sick_owner && self.config.when_all_fail == WhenAllFail::Keep && !env.keys.is_empty() {
            self.start_handover(Wanted::Healthy, now);
        }
        self.evaluate(env, now);
    }

    /// Brings the election's configuration up to date with ours, the gates and the fence.
    pub(super) fn apply_vrrp(&mut self, env: &Env<'_>, now: Instant) {
        self.vrrp.reconfigure(vrrp_config(&self.config, self.healthy, env), now);
        self.drain_outputs(env, now);
    }

    /// A new stanza that [`GroupConfig::updatable_to`] allows: the election goes on.
    pub(super) fn update(&mut self, config: GroupConfig, env: &Env<'_>, now: Instant) {
        let before = self.config.owned();
        let announced = self.config.announce;
        let shorter = config.interval < self.config.interval;
        self.config = config;
        let after = self.config.owned();
        self.announcer.reconfigure(self.config.l2, after.clone());
        let held = self.installed.clone().filter(|_| before != after);
        let mut new = Vec::new();
        if let Some((link, held)) = &held {
            let gone = held.iter().filter(|a| !after.contains(a));
            self.removing.extend(gone);
            new.extend(after.iter().copied().filter(|a| !held.contains(a)));
            self.removing.retain(|a| !new.contains(a));
            self.installed = Some((*link, after.clone()));
        }
        // New addresses are guarded before they are there, old ones until they are gone.
        self.register(env, now);
        if let Some((link, _)) = held {
            if !self.removing.is_empty() {
                self.remove(link, self.removing.clone());
            }
            if !new.is_empty() {
                self.put(link, new.clone());
                self.announcer.add(new, now);
            }
        }
        self.change_announcement(announced, now);
        if shorter && self.vrrp.role() == Role::Active {
            // The claim was made for longer than the Backups will now wait: its own deadline must not outlive the next advert's.
            self.next_term(Basis::Continued, now);
            let deadline = self.vrrp.fence_deadline().unwrap_or(now).min(now + window(self.config.interval));
            self.write_fence(env, FenceRole::Active, deadline, Instant::ZERO, self.handover.granted_to().is_some());
        }
        self.apply_vrrp(env, now);
        self.evaluate(env, now);
    }

    /// Leaves at once and for good, without a farewell; the slot is free afterwards.
    pub(super) fn abandon(&mut self, env: &Env<'_>, now: Instant) {
        self.config.drain_time = Duration::ZERO;
        self.vrrp.stop(Reason::Reconfigured, true);
        self.drain_outputs(env, now);
        self.lease_close(Role::Initialize, Reason::Reconfigured, env, now);
        self.finish_drain(env);
        self.tell_standing(env);
    }

    pub(super) fn status(&self, fenced: bool, now: Instant) -> GroupStatus {
        let active = self.role() == Role::Active;
        let own = self.own_address(self.config.main_family());
        let other = self.vrrp.owner();
        GroupStatus {
            name: self.config.name.clone(),
            addresses: self.config.owned(),
            families: self.config.families(),
            interface: self.link.as_ref().map(|l| l.name.clone()),
            vrid: self.config.vrid,
            lease: self.lease.as_ref().map(|lease| lease.status(now)),
            role: self.role(),
            term: self.term,
            owner: if active { own } else { other.map(|o| o.address) },
            owner_priority: if active { Some(self.priority()) } else { other.map(|o| o.priority) },
            since_seconds: now.since(self.since).as_secs_f64(),
            fence_margin_seconds: self.fence_deadline().filter(|_| fenced).map(|at| at.since(now).as_secs_f64()),
            priority: self.priority(),
            healthy: self.healthy,
            draining: self.timers.get(Timer::Drained).is_some(),
            condition: self.visible_condition(),
            barred: self.config.barred.is_some(),
            announce: self.config.announce,
            route: self.routed,
            adverts_sent: self.sent,
            adverts_heard: self.received,
        }
    }

    fn visible_condition(&self) -> Option<String> {
        let foreign = self
            .foreign
            .map(|who| format!("vrid_in_use: {who} advertises VRID {} with other addresses", self.config.vrid));
        let probing = self.timers.get(Timer::Probe).map(|_| "probing for a foreign holder".to_owned());
        self.condition.clone().or(foreign).or(probing)
    }
}

fn priority(config: &GroupConfig, healthy: bool) -> u8 {
    if healthy { config.priority } else { sick_priority(config.priority) }
}

fn vrrp_config(config: &GroupConfig, healthy: bool, env: &Env<'_>) -> VrrpConfig {
    VrrpConfig {
        priority: priority(config, healthy),
        interval: config.interval,
        preempt: config.preempt,
        strict_rfc: config.strict_rfc,
        fenced: env.fenced(),
        family: config.main_family(),
    }
}

pub(super) fn is_link_local(addr: &IpAddr) -> bool {
    match addr {
        IpAddr::V6(a) => a.segments()[0] & 0xffc0 == 0xfe80,
        IpAddr::V4(_) => false,
    }
}
