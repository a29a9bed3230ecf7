//! One line for each change of state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bascule_core::site::SiteId;
use bascule_core::site::join::io::{Away, Report};
use bascule_core::site::orders::Turn;
use bascule_core::site::path::io::Event as PathEvent;
use bascule_core::site::policy::facts::Observed;
use bascule_core::site::policy::io::Report as PolicyReport;
use bascule_core::site::policy::standing::State;
use bascule_core::site::state::version::Speaks;
use bascule_core::site::timeline::Timeline;
use bascule_mesh::feed::{Heard, Word};
use bascule_mesh::state::{Event, Failed};
use bascule_mesh::tls::Refusal;
use tracing::{debug, error, info, warn};

use super::orders::words;
use crate::config::Sites;

/// What was said already: what goes on is not news.
#[derive(Default)]
pub(super) struct Teller {
    failed: BTreeMap<SiteId, Failed>,
    sent_away: BTreeSet<(Option<SiteId>, Refusal)>,
    foreign: BTreeSet<(SiteId, IpAddr)>,
    versions: BTreeMap<SiteId, Speaks>,
    heard: BTreeMap<String, &'static str>,
    /// Relays of this site that run a later version.
    later: BTreeSet<String>,
    conditions: Vec<String>,
    /// Gateways of other sites that probes do not reach.
    silent: BTreeMap<SiteId, BTreeSet<u16>>,
}

impl Teller {
    /// Of the relay of this node.
    pub(super) fn relay(&mut self, sites: &Sites, event: &Event) {
        let named = |site: &SiteId| sites.name_of(*site);
        match event {
            Event::Up { site, relay, dialled } => {
                self.failed.remove(site);
                self.sent_away.retain(|(of, _)| *of != Some(*site));
                info!(site = named(site), relay, dialled, "a session with another site");
            }
            Event::Down { site, ended } => warn!(site = named(site), ?ended, "a session with another site ended"),
            Event::Renewed { site, relay } => {
                info!(site = named(site), relay, "a session goes on with other certificates")
            }
            Event::CallFailed { site, failed } => {
                if self.failed.insert(*site, *failed) != Some(*failed) {
                    warn!(site = named(site), ?failed, "no relay of another site takes the call");
                }
            }
            Event::SentAway { from, site, refusal } => {
                // Counted each time; said once until the site has a session.
                if self.sent_away.insert((*site, *refusal)) {
                    warn!(%from, site = site.as_ref().map(named), %refusal, "a caller was sent away");
                }
            }
            Event::ForeignVip { site, vip } => {
                if self.foreign.insert((*site, *vip)) {
                    warn!(site = named(site), %vip, "another site claims a VIP that is not in its prefixes");
                }
            }
            Event::Versions { site, theirs, ours } => {
                if self.versions.insert(*site, *theirs) != Some(*theirs) {
                    error!(site = named(site), %theirs, %ours, "another site speaks no version that this one speaks: upgrade one of the two");
                }
            }
            Event::TooMany { site } => warn!(site = named(site), "another site has more records than it may"),
            Event::DuplicateSite { instance } => {
                error!(instance, "another process writes as this relay: nothing is exported any more");
            }
            Event::Incarnation(number) => info!(number, "the relay of this node writes in a new incarnation"),
            Event::Leads(leads) => info!(leads, "the relay of this node leads the site, or not"),
            Event::Reloaded { expires } => info!(expires, "other certificates are in force"),
            Event::NotReloaded { error } => {
                warn!(error, "the files of the certificate are not taken: what was in force stays")
            }
            Event::Heard { .. }
            | Event::Record { .. }
            | Event::Ask { .. }
            | Event::Lend { .. }
            | Event::Reach { .. } => {}
        }
    }

    /// Of a relay of this site.
    pub(super) fn heard(&mut self, relay: &str, heard: &Heard) {
        let word = match heard {
            Heard::Unknown(_) => {
                if self.later.insert(relay.to_owned()) {
                    info!(
                        relay,
                        "a relay of this site says what only later versions know: that is left out and counted"
                    );
                }
                return;
            }
            Heard::Words(words) if words.iter().any(stops) => "stops",
            Heard::Words(_) => "heard",
            Heard::Refused(_) => "refused",
            Heard::Unready(_) => "unready",
            Heard::Lost => "lost",
            Heard::Gone => "gone",
        };
        if self.heard.insert(relay.to_owned(), word) == Some(word) {
            return;
        }
        match heard {
            Heard::Words(_) if word == "stops" => info!(relay, "a relay of this site says that it stops"),
            Heard::Words(_) => info!(relay, "a relay of this site is heard"),
            Heard::Refused(refusal) => warn!(relay, %refusal, "a relay of this site is not listened to"),
            Heard::Unready(error) => warn!(relay, error, "this node cannot listen to a relay of its site"),
            Heard::Lost => warn!(relay, "a relay of this site is not heard"),
            Heard::Gone => warn!(relay, "nobody serves where a relay of this site was: it is gone"),
            Heard::Unknown(_) => {}
        }
    }

    /// Gateways of another site that probes do not reach: all that there are now.
    pub(super) fn gateways(&mut self, sites: &Sites, site: SiteId, silent: &BTreeSet<u16>) {
        let before = self.silent.insert(site, silent.clone()).unwrap_or_default();
        for id in silent.difference(&before) {
            let gateway = sites.gateway_name(site, *id);
            warn!(site = sites.name_of(site), gateway, "probes do not reach a gateway: nothing is sent to it");
        }
        for id in before.difference(silent) {
            let gateway = sites.gateway_name(site, *id);
            info!(site = sites.name_of(site), gateway, "a gateway is sent its part again");
        }
    }

    /// Of a path.
    pub(super) fn path(&self, sites: &Sites, site: SiteId, event: &PathEvent) {
        let site = sites.name_of(site);
        match event {
            PathEvent::Down { silence, silent } => warn!(site, ?silence, silent, "the path carries nothing"),
            PathEvent::Up => info!(site, "the path carries packets"),
            PathEvent::FlowDown { flow } => debug!(site, flow, "a flow of the path carries nothing"),
            PathEvent::FlowUp { flow } => debug!(site, flow, "a flow of the path carries packets"),
            PathEvent::Brownout { direction, scale, loss, learned } => {
                warn!(site, ?direction, ?scale, loss, learned, "the path loses more than is usual");
            }
            PathEvent::Cleared { direction } => info!(site, ?direction, "the path loses no more than is usual"),
            PathEvent::Inflated { factor } => warn!(site, factor, "the round trip is longer than is usual"),
            PathEvent::Deflated => info!(site, "the round trip is as usual"),
            PathEvent::Mtu { from, to } => warn!(site, from, to, "the largest packet that gets through is another one"),
        }
    }

    /// Of the machine.
    pub(super) fn report(&self, sites: &Sites, report: &Report) {
        match report {
            Report::Leader { relay: Some(relay) } => info!(relay, "a relay speaks for this site"),
            Report::Leader { relay: None } => warn!("no relay speaks for this site: what was known of others ages"),
            Report::Order { target, turn } => {
                let what = words(sites, target);
                match turn {
                    Turn::Given => warn!(what, "drained: new connections go elsewhere"),
                    Turn::Over => warn!(what, "drained: connections that exist have had their time"),
                    Turn::Ended => info!(what, "drained no more: takes part again, slowly"),
                }
            }
            Report::Session { site, up } => info!(site = sites.name_of(*site), up, "the state of another site"),
            Report::Away { site, away } => {
                let named = |all: &[SiteId]| all.iter().map(|one| sites.name_of(*one)).collect::<Vec<_>>().join(", ");
                let site = sites.name_of(*site);
                match away {
                    Away::Asymmetric(by) => {
                        let by = named(by);
                        warn!(site, by, "other sites reach a site to which no path carries from here");
                    }
                    Away::Dead(by) => {
                        let by = named(by);
                        warn!(site, by, "a site is dead: neither this one nor another one that can say reaches it");
                    }
                    Away::Over => info!(site, "a site is reached again, or nobody can say who else reaches it"),
                }
            }
            Report::Policy(PolicyReport::Standing { service, site, state, verdict, score, suppressed }) => {
                let (service, site) = (service_name(sites, *service), sites.name_of(*site));
                let verdict = verdict.as_str();
                if *state == State::Up {
                    info!(service, site, ?state, verdict, score, "a service at a site");
                } else {
                    warn!(service, site, ?state, verdict, score, suppressed, "a service at a site");
                }
            }
            Report::Policy(PolicyReport::Mismatch { service, site, observed, seconds }) => {
                let (service, site) = (service_name(sites, *service), sites.name_of(*site));
                let Observed { handshakes, failed, usual, .. } = observed;
                warn!(
                    service,
                    site,
                    handshakes,
                    failed,
                    usual,
                    seconds,
                    "a site says ready and serves nobody: it gets no new connections for a while"
                );
            }
            Report::Policy(PolicyReport::Kept { service, seconds }) => {
                let service = service_name(sites, *service);
                warn!(
                    service,
                    seconds, "no other site took the service: this one keeps it for a while, drained or not"
                );
            }
            Report::Policy(PolicyReport::Panic { service, on: true }) => {
                warn!(service = service_name(sites, *service), "too little is usable: soft scores are ignored");
            }
            Report::Policy(PolicyReport::Panic { service, on: false }) => {
                info!(service = service_name(sites, *service), "enough is usable: scores count again");
            }
            Report::Policy(PolicyReport::Isolated(true)) => warn!("no other site is heard"),
            Report::Policy(PolicyReport::Isolated(false)) => info!("another site is heard again"),
        }
    }

    /// Traffic moved.
    pub(super) fn timeline(&self, sites: &Sites, told: &Timeline) {
        let ms = |from: bascule_core::time::Instant, to: bascule_core::time::Instant| {
            u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX)
        };
        let after: Vec<String> =
            told.after.iter().map(|(site, share)| format!("{} {:.1} %", sites.name_of(*site), share * 100.0)).collect();
        let applied = told.applied.unwrap_or(told.decided);
        info!(
            service = service_name(sites, told.service),
            moved = format!("{:.1} %", told.moved * 100.0),
            why = ?told.why,
            shares = after.join(", "),
            detected_ms = ms(told.cause, told.detected),
            decided_ms = ms(told.detected, told.decided),
            applied_ms = ms(told.decided, applied),
            "new connections go elsewhere"
        );
    }

    /// What an operator should know, as it comes and goes.
    pub(super) fn conditions(&mut self, now: &[String]) {
        for new in now.iter().filter(|one| !self.conditions.contains(one)) {
            warn!("sites: {new}");
        }
        for gone in self.conditions.iter().filter(|one| !now.contains(one)) {
            info!("sites: no more: {gone}");
        }
        if self.conditions != now {
            self.conditions = now.to_vec();
        }
    }
}

/// The last word of a relay.
fn stops(word: &Word) -> bool {
    matches!(word, Word::Beat(beat) if beat.stops)
}

pub(super) fn service_name(sites: &Sites, id: bascule_core::site::summary::ServiceId) -> String {
    sites.services.get(&id).map_or_else(|| id.0.to_string(), |spread| spread.name.clone())
}
