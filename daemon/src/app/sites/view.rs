//! The snapshot for people and metrics.

use bascule_core::site::SiteId;
use bascule_core::site::policy::io::Mode;
use bascule_core::site::summary::ServiceId;
use bascule_core::time::Instant;

use super::{Room, now};
use crate::clock;
use crate::config::{Site, Spread};
use crate::handle::sites::{OtherView, RelayView, ServiceView, SiteView, SitesStatus, StandingView};

/// A certificate that ends so soon is said: leaves of 90 days are replaced at half their time.
const EXPIRES_SOON: u64 = 7 * 86_400;

pub(super) fn status(room: &Room) -> SitesStatus {
    let now = now();
    let Room { sites, join, relays, .. } = room;
    let state = relays.state.clone();
    SitesStatus {
        site: sites.own().name.clone(),
        node: room.node.clone(),
        relay: sites.relay.as_ref().map(|relay| relay.name.clone()),
        leads: join.leads(),
        leader: join.leader().map(str::to_owned),
        heard: join.heard().map(str::to_owned).collect(),
        gone: join.gone(),
        isolated: join.isolated(),
        conditions: conditions(room),
        sites: sites.all.iter().filter(|(id, _)| **id != sites.here).map(|one| site(room, one, now)).collect(),
        services: sites.services.iter().map(|one| service(room, one, now)).collect(),
        drains: super::orders::views(sites, join, now),
        state,
        feed: relays.told.clone(),
        unknown_words: relays.unknown_words,
        unwanted_counts: room.unwanted,
    }
}

fn conditions(room: &Room) -> Vec<String> {
    let named = |site: &SiteId| room.sites.name_of(*site);
    let mut all: Vec<String> = room.relays.trouble.iter().cloned().collect();
    all.extend(room.paths.trouble.iter().map(|(site, why)| format!("{}: {why}", named(site))));
    let unix = clock::unix_ms() / 1000;
    if let Some(expires) = room.relays.expires.filter(|expires| *expires < unix + EXPIRES_SOON) {
        all.push(format!("the certificate ends in {} h", expires.saturating_sub(unix) / 3600));
    }
    all.extend(room.authority.conditions());
    if room.relays.state.as_ref().is_some_and(|state| state.duplicate) {
        all.push("another process writes as this relay: nothing is exported".to_owned());
    }
    if room.join.leader().is_none() {
        all.push("no relay of this site leads: what was known of others ages".to_owned());
    }
    all
}

fn site(room: &Room, (id, site): (&SiteId, &Site), now: Instant) -> SiteView {
    let silent = room.gateways.left_out(*id);
    let other = |(site, reaches)| OtherView { site: room.sites.name_of(site), reaches };
    SiteView {
        id: *id,
        name: site.name.clone(),
        region: site.region.clone(),
        session: room.join.session(*id),
        relays: room.join.sessions(*id).map(|(relay, counts)| RelayView { relay: relay.to_owned(), counts }).collect(),
        others: room.join.others(*id).map(other).collect(),
        age_seconds: room.join.age(*id, now).map(|age| age.as_secs_f64()),
        state: room.relays.state.as_ref().and_then(|state| state.sites.get(id).cloned()),
        path: room.paths.status.get(id).copied(),
        silent_gateways: silent.iter().map(|gateway| room.sites.gateway_name(*id, *gateway)).collect(),
    }
}

fn service(room: &Room, (id, spread): (&ServiceId, &Spread), now: Instant) -> ServiceView {
    let opinions = room.join.opinions(*id, now);
    let away =
        opinions.iter().filter(|o| o.site != room.sites.here).map(|o| o.share).fold(0.0, |all, share| all + share);
    let standing = |opinion: bascule_core::site::policy::Opinion| StandingView {
        name: room.sites.name_of(opinion.site),
        summary: room.join.summary(opinion.site, *id),
        handshakes: room.join.handshakes(*id, opinion.site),
        opinion,
    };
    ServiceView {
        name: spread.name.clone(),
        number: id.0,
        mode: match spread.policy.mode {
            Mode::LocalFirst => "localFirst",
            Mode::Weighted(_) => "weighted",
            Mode::ActivePassive { .. } => "activePassive",
        },
        tables: room.join.history(*id).and_then(|h| h.iter().last()).map_or(0, |last| last.generation),
        spill: away,
        brought: room.join.brought(*id, now),
        lease: room.authority.view(*id, now),
        sites: opinions.into_iter().map(standing).collect(),
    }
}
