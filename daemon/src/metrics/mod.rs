//! Metrics in the Prometheus text format: which families exist, and how events and snapshots move them.
//!
//! Counters and histograms move as things happen ([`Metrics::observe`] and its siblings, called by the driver). Gauges are taken from
//! a snapshot at the scrape ([`Metrics::update`]). Foreign types stay in here: the rest of the process sees numbers and text.

mod bfd;
mod bgp;
mod catalog;
mod cluster;
mod forward;
mod lease;
mod register;
mod sites;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bascule_core::announce::l2::FrameKind;
use bascule_core::announce::route::Want;
use bascule_core::election::Reason;
use bascule_core::neighbor::Standing;
use bascule_core::node::event::Event;
use bascule_core::node::status::NodeStatus;
use bascule_core::types::{Family, Role};
use prometheus::{Encoder, TextEncoder};

use catalog::{CHANNELS, PHASES, RESULTS, STATES_OF_NEIGHBORS};
use register::Families;

const ROLES: [Role; 3] = [Role::Initialize, Role::Backup, Role::Active];

/// All metrics of the process; cheap to clone, callable from any thread.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    families: Families,
    /// Held over [`Metrics::update`] and [`Metrics::render`], so that no scrape sees half a snapshot.
    snapshot: Mutex<Shown>,
}

/// Label values that the last snapshot set, to take back what a later one no longer has.
#[derive(Default)]
struct Shown {
    vips: BTreeSet<(String, String)>,
    groups: BTreeSet<String>,
    leases: BTreeSet<String>,
    gates: BTreeSet<String>,
    bfd_peers: BTreeSet<String>,
    bgp: bgp::Shown,
    forward: forward::Shown,
    routes: BTreeSet<(String, String)>,
}

impl Metrics {
    /// A fresh registry. Whatever has label values known beforehand exists from the start with 0.
    pub fn new(node: &str, instance: u8) -> Self {
        let families = Families::register();
        families.build_info.with_label_values(&[node, env!("CARGO_PKG_VERSION"), &instance.to_string()]).set(1.0);
        for phase in PHASES {
            let _exists = families.failover.with_label_values(&[phase]);
        }
        for kind in FrameKind::ALL {
            let _exists = families.garp_sent.with_label_values(&[kind.as_str()]);
            let _exists = families.garp_refused.with_label_values(&[kind.as_str()]);
        }
        for result in RESULTS {
            let _exists = families.config_reload.with_label_values(&[result]);
        }
        for channel in CHANNELS {
            let _exists = families.refused.with_label_values(&[channel]);
        }
        bfd::prepare(&families);
        sites::prepare(&families);
        Self { inner: Arc::new(Inner { families, snapshot: Mutex::default() }) }
    }

    /// Counts an event. Call it once for every [`Event`] the node reports.
    pub fn observe(&self, event: &Event) {
        let f = &self.inner.families;
        match event {
            Event::Role { group, reason, .. } => f.transitions.with_label_values(&[group, reason.as_str()]).inc(),
            Event::Takeover { detect, claim, announce, .. } => {
                let phases = [*detect, *claim, Some(*announce)];
                for (phase, seconds) in PHASES.iter().zip(phases) {
                    if let Some(seconds) = seconds {
                        f.failover.with_label_values(&[phase]).observe(seconds);
                    }
                }
            }
            Event::Rival { group, .. } => f.rival_claims.with_label_values(&[group]).inc(),
            Event::OneWay { group, .. } => f.one_way.with_label_values(&[group]).inc(),
            Event::FenceClosed { group, .. } => f.fence_closed.with_label_values(&[group]).inc(),
            Event::AddressRestored { group, .. } => f.address_restored.with_label_values(&[group]).inc(),
            Event::Refused { channel, .. } => f.refused.with_label_values(&[channel]).inc(),
            Event::Bfd(event) => bfd::observe(f, event),
            Event::AdvertLateness { seconds, .. } => f.advert_lateness.observe(*seconds),
            Event::ConfigApplied { added, changed, .. } => {
                added.iter().chain(changed).for_each(|group| self.known_group(group));
            }
            // States, not counts: the snapshot at the scrape shows them, or they lead to a change of role that is counted.
            Event::Gate { .. }
            | Event::Health { .. }
            | Event::AddressInUse { .. }
            | Event::VridInUse { .. }
            | Event::LeaseHolder { .. }
            | Event::LeaseStore { .. }
            | Event::LeaseStalled { .. }
            | Event::InstallFailed { .. }
            | Event::Routes { .. }
            | Event::Handover { .. }
            | Event::Blocked { .. }
            | Event::Fence { .. }
            | Event::Drain { .. } => {}
        }
    }

    /// `n` frames of one kind were handed to the link.
    pub fn frame_sent(&self, kind: FrameKind, n: u64) {
        self.inner.families.garp_sent.with_label_values(&[kind.as_str()]).inc_by(n);
    }

    /// The link did not take a frame of one kind.
    pub fn frame_refused(&self, kind: FrameKind) {
        self.inner.families.garp_refused.with_label_values(&[kind.as_str()]).inc();
    }

    /// The total that the kernel keeps of neighbours that the table of a family had no room for.
    pub fn neighbor_table_full(&self, family: Family, total: u64) {
        let _consistent = self.lock();
        let family = if family == Family::V4 { "ipv4" } else { "ipv6" };
        advance(&self.inner.families.neighbor_table_full.with_label_values(&[family]), total);
    }

    /// How the neighbours stand that this node depends on.
    pub fn neighbors_kept(&self, standing: Standing) {
        let _consistent = self.lock();
        let counts = [standing.resolved, standing.unresolved, standing.missing];
        for (state, count) in STATES_OF_NEIGHBORS.iter().zip(counts) {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            self.inner.families.neighbors_kept.with_label_values(&[state]).set(f64::from(count));
        }
    }

    /// The kernel refused to keep an entry of the neighbour table.
    pub fn neighbor_refused(&self) {
        self.inner.families.neighbor_refusals.inc();
    }

    /// The event loop woke this much after the deadline it slept for.
    pub fn loop_lag(&self, late: Duration) {
        self.inner.families.loop_lag.observe(late.as_secs_f64());
    }

    /// A configuration was read after the start: applied, or refused.
    pub fn config_reload(&self, ok: bool) {
        let [applied, refused] = RESULTS;
        self.inner.families.config_reload.with_label_values(&[if ok { applied } else { refused }]).inc();
    }

    /// The totals that the fence's programs keep by themselves, one per drop reason.
    pub fn fence_drops(&self, totals: &[(&str, u64)]) {
        let _consistent = self.lock();
        for (reason, total) in totals {
            let counter = self.inner.families.fence_drops.with_label_values(&[reason]);
            advance(&counter, *total);
        }
    }

    /// The fence was missing on a link, and stands again.
    pub fn fence_healed(&self) {
        self.inner.families.fence_healed.inc();
    }

    /// Sets everything that is a state, from a snapshot taken for this scrape.
    pub fn update(&self, status: &NodeStatus) {
        let mut shown = self.lock();
        let f = &self.inner.families;
        let (bfd_peers, bgp, forward) =
            (shown.bfd_peers.clone(), std::mem::take(&mut shown.bgp), std::mem::take(&mut shown.forward));
        let mut now = Shown { bfd_peers, bgp, forward, ..Shown::default() };
        f.ready.set(f64::from(u8::from(status.ready)));
        for group in &status.groups {
            let name = group.name.as_str();
            self.known_group(name);
            let active = group.role == Role::Active;
            for address in &group.addresses {
                let vip = address.to_string();
                f.vip_held.with_label_values(&[vip.as_str(), name]).set(f64::from(u8::from(active)));
                now.vips.insert((vip, name.to_owned()));
            }
            for role in ROLES {
                let holds = f64::from(u8::from(group.role == role));
                f.election_role.with_label_values(&[name, role.as_str()]).set(holds);
            }
            match (active, group.fence_margin_seconds) {
                (true, Some(margin)) => f.fence_margin.with_label_values(&[name]).set(margin),
                (true, None) => absent(f.fence_margin.remove_label_values(&[name])),
                (false, _) => f.fence_margin.with_label_values(&[name]).set(0.0),
            }
            if let Some(lease) = &group.lease {
                lease::update(f, name, lease);
                now.leases.insert(name.to_owned());
            }
            advance(&f.adverts_sent.with_label_values(&[name]), group.adverts_sent);
            advance(&f.adverts_heard.with_label_values(&[name]), group.adverts_heard);
            now.groups.insert(name.to_owned());
        }
        let owned = status.groups.iter().filter(|g| g.announce.routed()).map(|g| (&g.name, &g.addresses, g.route));
        for (name, addresses, want) in owned.chain(status.anycast.iter().map(|a| (&a.name, &a.addresses, a.route))) {
            // The link-local address of an IPv6 router is never announced.
            for vip in addresses.iter().filter(|a| !is_link_local(a)).map(ToString::to_string) {
                let wanted = f64::from(u8::from(want == Want::Announce));
                f.route_wanted.with_label_values(&[name.as_str(), vip.as_str()]).set(wanted);
                now.routes.insert((name.clone(), vip));
            }
        }
        for gate in &status.gates {
            f.health_state.with_label_values(&[gate.name.as_str()]).set(f64::from(u8::from(gate.up)));
            now.gates.insert(gate.name.clone());
        }
        self.take_back(&shown, &now);
        *shown = now;
    }

    /// No snapshot could be had: an old state must not look like a current one.
    pub fn unknown(&self) {
        let mut shown = self.lock();
        self.inner.families.ready.set(0.0);
        self.take_back(&shown, &Shown::default());
        let (bfd_peers, bgp, forward) =
            (std::mem::take(&mut shown.bfd_peers), std::mem::take(&mut shown.bgp), std::mem::take(&mut shown.forward));
        *shown = Shown { bfd_peers, bgp, forward, ..Shown::default() };
    }

    /// The text exposition format, version 0.0.4.
    pub fn render(&self) -> String {
        let _consistent = self.lock();
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.inner.families.registry.gather(), &mut text)
            .expect("gathered families are consistent, and writing to memory does not fail");
        String::from_utf8(text).expect("the text format is UTF-8")
    }

    /// Counters of a group exist before they move. They stay after the group is gone: a counter that vanishes reads as a gap.
    fn known_group(&self, group: &str) {
        let f = &self.inner.families;
        for reason in Reason::ALL {
            let _exists = f.transitions.with_label_values(&[group, reason.as_str()]);
        }
        for counter in [&f.rival_claims, &f.one_way, &f.fence_closed, &f.address_restored] {
            let _exists = counter.with_label_values(&[group]);
        }
    }

    fn take_back(&self, before: &Shown, now: &Shown) {
        let f = &self.inner.families;
        for (vip, group) in before.vips.difference(&now.vips) {
            absent(f.vip_held.remove_label_values(&[vip, group]));
        }
        for (group, vip) in before.routes.difference(&now.routes) {
            absent(f.route_wanted.remove_label_values(&[group, vip]));
        }
        for group in before.groups.difference(&now.groups) {
            for role in ROLES {
                absent(f.election_role.remove_label_values(&[group.as_str(), role.as_str()]));
            }
            absent(f.fence_margin.remove_label_values(&[group]));
        }
        for group in before.leases.difference(&now.leases) {
            lease::take_back(f, group);
        }
        for gate in before.gates.difference(&now.gates) {
            absent(f.health_state.remove_label_values(&[gate]));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.inner.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_link_local(address: &std::net::IpAddr) -> bool {
    matches!(address, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Brings a counter to a total kept elsewhere. A total that shrank began anew, and so does the counter.
fn advance(counter: &prometheus::IntCounter, total: u64) {
    if total < counter.get() {
        counter.reset();
    }
    counter.inc_by(total - counter.get());
}

/// Removing a series that is not there is what was wanted.
fn absent(_removed: prometheus::Result<()>) {}

/// docs/reference/metrics.md.
pub fn reference() -> String {
    let mut text = String::from(
        "# Metrics\n\nGenerated by `bascule docs metrics`; `cargo xtask docs` writes it. Served as `/metrics` on the admin socket and on \
         `admin.http`.\n\nThe last column names the fault or the act that makes a family move.\n\n| name | type | labels | says, and does not prove | moved by |\n|---|---|---|---|---|\n",
    );
    for family in catalog::ALL {
        let labels =
            if family.labels.is_empty() { "-".to_owned() } else { format!("`{}`", family.labels.join("`, `")) };
        text.push_str(&format!(
            "| `{}` | {} | {labels} | {} | {} |\n",
            family.name,
            family.kind.as_str(),
            family.help,
            family.moved_by
        ));
    }
    let reasons: Vec<&str> = Reason::ALL.iter().map(|r| r.as_str()).collect();
    let kinds: Vec<&str> = FrameKind::ALL.iter().map(|k| k.as_str()).collect();
    text.push_str(&format!("\n- `reason` of `bascule_vip_transitions_total`: `{}`.\n", reasons.join("`, `")));
    text.push_str(&format!(
        "- `kind` of `bascule_garp_sent_total` and `bascule_garp_refused_total`: `{}`.\n",
        kinds.join("`, `")
    ));
    text.push_str(&format!(
        "- Buckets of every histogram, in seconds: {}.\n",
        catalog::SECONDS.iter().map(f64::to_string).collect::<Vec<_>>().join(", ")
    ));
    text
}

#[cfg(test)]
pub(crate) mod tests;
