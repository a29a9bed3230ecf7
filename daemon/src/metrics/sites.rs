//! The families of sites, from the snapshot in force at the scrape.

use bascule_core::election::lease::Condition;
use bascule_core::site::lead::Gone;
use bascule_core::site::path::io::Carriage;
use bascule_mesh::tls::Refusal;

use super::catalog::{DIRECTIONS, GONE, PLANES};
use super::register::Families;
use super::{Metrics, advance};
use crate::handle::sites::{ServiceView, SiteView, SitesStatus};

/// Directions of a path, seen from here.
const WAYS: [&str; 2] = ["in", "out"];

/// What is counted by reason exists before it happens.
pub(super) fn prepare(f: &Families) {
    let [state, nodes, ..] = PLANES;
    for (plane, refusal) in [state, nodes].into_iter().flat_map(|plane| Refusal::ALL.map(|refusal| (plane, refusal))) {
        let _exists = f.sites_refused.with_label_values(&[plane, refusal.as_str()]);
    }
}

impl Metrics {
    /// Takes over what is known of sites; `None`: this one is alone, and nothing is shown.
    pub fn update_sites(&self, status: Option<&SitesStatus>) {
        let Some(status) = status else { return };
        let _consistent = self.lock();
        let f = &self.inner.families;
        // States of what is gone go with it.
        for states in [
            &f.sites_session,
            &f.sites_state_age,
            &f.sites_others_reach,
            &f.sites_path_up,
            &f.sites_path_loss,
            &f.sites_path_rtt,
            &f.sites_path_mtu,
            &f.sites_gateways_silent,
            &f.sites_path_quiet,
            &f.sites_score,
            &f.sites_share,
            &f.sites_demand,
            &f.sites_capacity,
            &f.sites_credit,
            &f.sites_drains,
            &f.sites_active,
            &f.sites_term,
            &f.sites_authority,
        ] {
            states.reset();
        }
        f.sites_leads.set(f64::from(u8::from(status.leads)));
        let Gone { stopped, closed, silent } = status.gone;
        for (how, total) in GONE.iter().zip([stopped, closed, silent]) {
            advance(&f.sites_relays_gone.with_label_values(&[how]), total);
        }
        status.sites.iter().for_each(|one| site(f, one));
        status.services.iter().for_each(|one| service(f, one));
        status.drains.iter().for_each(|one| f.sites_drains.with_label_values(&[one.site.as_str()]).inc());
        refused(f, status);
    }
}

fn site(f: &Families, site: &SiteView) {
    let name = site.name.as_str();
    f.sites_session.with_label_values(&[name]).set(f64::from(u8::from(site.session)));
    if !site.others.is_empty() {
        let reach = site.others.iter().any(|other| other.reaches);
        f.sites_others_reach.with_label_values(&[name]).set(f64::from(u8::from(reach)));
    }
    if let Some(age) = site.age_seconds {
        f.sites_state_age.with_label_values(&[name]).set(age);
    }
    if let Some(state) = &site.state {
        for (direction, total) in DIRECTIONS.iter().zip([state.sent, state.received]) {
            advance(&f.sites_bytes.with_label_values(&[name, direction]), total);
        }
    }
    let Some(path) = &site.path else { return };
    f.sites_path_up.with_label_values(&[name]).set(f64::from(u8::from(path.path.carriage == Carriage::Up)));
    for (way, loss) in WAYS.iter().zip([path.path.loss_in, path.path.loss_out]) {
        f.sites_path_loss.with_label_values(&[name, way]).set(loss);
    }
    if let Some(rtt) = path.path.rtt {
        f.sites_path_rtt.with_label_values(&[name]).set(rtt);
    }
    f.sites_path_mtu.with_label_values(&[name]).set(f64::from(path.path.mtu));
    let silent = u32::try_from(site.silent_gateways.len()).unwrap_or(u32::MAX);
    f.sites_gateways_silent.with_label_values(&[name]).set(f64::from(silent));
    f.sites_path_quiet.with_label_values(&[name]).set(f64::from(u8::from(path.path.suppressed)));
    for (direction, total) in DIRECTIONS.iter().zip([path.counters.sent, path.counters.received]) {
        advance(&f.sites_path_packets.with_label_values(&[name, direction]), total);
    }
}

fn service(f: &Families, service: &ServiceView) {
    let name = service.name.as_str();
    advance(&f.sites_tables.with_label_values(&[name]), service.tables);
    let brought = &service.brought;
    for (of, rate) in [("node", brought.node), ("site", brought.site)] {
        f.sites_demand.with_label_values(&[name, of]).set(rate);
    }
    f.sites_capacity.with_label_values(&[name]).set(f64::from(brought.capacity));
    for (direction, amount) in [("lent", brought.lent), ("borrowed", brought.borrowed)] {
        f.sites_credit.with_label_values(&[name, direction]).set(amount);
    }
    if let Some(lease) = &service.lease {
        let set = |gauge: &prometheus::GaugeVec, on: bool| {
            gauge.with_label_values(&[name]).set(f64::from(u8::from(on)));
        };
        set(&f.sites_active, lease.grant.is_some_and(|grant| grant.seconds > 0.0));
        set(&f.sites_authority, lease.authority == Condition::Reachable.as_str());
        advance(&f.sites_grants.with_label_values(&[name]), lease.grants);
        for (reason, total) in &lease.handovers {
            advance(&f.sites_handovers.with_label_values(&[name, reason]), *total);
        }
        if let Some(grant) = lease.grant {
            #[expect(clippy::cast_precision_loss, reason = "a revision beyond 2^53 is not reached")]
            f.sites_term.with_label_values(&[name]).set(grant.term as f64);
        }
    }
    for site in &service.sites {
        f.sites_score.with_label_values(&[name, &site.name]).set(site.opinion.score);
        f.sites_share.with_label_values(&[name, &site.name]).set(site.opinion.share);
        for (result, total) in [("answered", site.handshakes.answered), ("failed", site.handshakes.failed)] {
            advance(&f.sites_handshakes.with_label_values(&[name, &site.name, result]), total);
        }
        advance(&f.sites_ejections.with_label_values(&[name, &site.name]), site.opinion.ejections);
    }
}

fn refused(f: &Families, status: &SitesStatus) {
    let [state, nodes, records, probes] = PLANES;
    let callers = status.state.iter().flat_map(|s| &s.counters.sent_away).map(|found| (state, found));
    let listeners = status.feed.iter().flat_map(|s| &s.sent_away).map(|found| (nodes, found));
    for (plane, (refusal, total)) in callers.chain(listeners) {
        advance(&f.sites_refused.with_label_values(&[plane, refusal.as_str()]), *total);
    }
    advance(&f.sites_refused.with_label_values(&[nodes, "unwanted"]), status.unwanted_counts);
    let held = || status.state.iter().flat_map(|s| s.sites.values()).map(|site| site.refused);
    let of_records = [
        ("stale", held().map(|r| r.stale).sum()),
        ("foreign", held().map(|r| r.foreign).sum()),
        ("unwanted", held().map(|r| r.unwanted).sum()),
        ("surplus", held().map(|r| r.surplus).sum()),
        ("closed", held().map(|r| r.closed).sum()),
        ("unknown", held().map(|r| r.unknown).sum::<u64>() + status.state.as_ref().map_or(0, |s| s.counters.unknown)),
    ];
    let paths = || status.sites.iter().filter_map(|site| site.path.as_ref());
    let of_probes = [
        ("malformed", paths().map(|p| p.path.refused.malformed).sum()),
        ("tag", paths().map(|p| p.path.refused.tag).sum()),
        ("stale", paths().map(|p| p.path.refused.stale).sum()),
        ("replayed", paths().map(|p| p.path.refused.replayed).sum()),
        ("flow", paths().map(|p| p.path.refused.flow).sum()),
        ("version", paths().map(|p| p.path.refused.version).sum()),
        ("unknown", paths().map(|p| p.path.refused.unknown).sum()),
        ("flooded", paths().map(|p| p.counters.flooded).sum::<u64>()),
    ];
    advance(&f.sites_refused.with_label_values(&[nodes, "unknown"]), status.unknown_words);
    let both = of_records.iter().map(|found| (records, found)).chain(of_probes.iter().map(|found| (probes, found)));
    for (plane, (reason, total)) in both {
        advance(&f.sites_refused.with_label_values(&[plane, reason]), *total);
    }
}
