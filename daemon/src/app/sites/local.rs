//! The way between the room and the forwarding room: what services have, and whose their slots are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bascule_core::balance::SiteSpec;
use bascule_core::service::{Return, ServiceKey};
use bascule_core::site::SiteId;
use bascule_core::site::demand::READ;
use bascule_core::site::evidence::Speaker;
use bascule_core::site::handshakes::Totals;
use bascule_core::site::summary::ServiceId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant as Time, MissedTickBehavior, interval, sleep_until};

use super::super::forward::{Endpoints, ForwardSender, Order};
use super::{News, now};
use crate::config::Sites;
use crate::handle::forward::ForwardHandle;

/// How often the balancer is asked: a service without endpoints is told to other sites within this and a round trip (sites.md 4.14).
const ASK: Duration = Duration::from_millis(100);
/// Tables and words that wait for the forwarding room; then the room of sites does.
const TABLES: usize = 1024;

/// Services that several sites share, and what the balancer calls them.
pub(super) type Keys = Arc<BTreeMap<ServiceId, ServiceKey>>;

/// The services of a file.
pub(super) fn keys(sites: &Sites) -> Keys {
    Arc::new(sites.services.iter().map(|(id, spread)| (*id, spread.key)).collect())
}

/// Those of which a handshake speaks for a path, both ways: replies come back through the node of the request. None unless that is wanted.
pub(super) fn speakers(sites: &Sites) -> BTreeSet<ServiceId> {
    let both = sites.services.iter().filter(|(_, spread)| sites.quiet_probes && spread.returns == Return::ViaIngress);
    both.map(|(id, _)| *id).collect()
}

/// Tells what changes until nobody listens.
pub(super) async fn watch(keys: watch::Receiver<Keys>, asked: ForwardHandle, news: mpsc::Sender<News>) {
    let mut tick = interval(ASK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = BTreeMap::new();
    loop {
        tick.tick().await;
        let wanted = Arc::clone(&keys.borrow());
        if wanted.is_empty() {
            before.clear();
        } else {
            let services: Arc<[ServiceKey]> = wanted.values().copied().collect();
            // A room that loads programs does not answer for a while: what was known holds.
            let Ok(serving) = asked.serving(services).await else { continue };
            before.retain(|id, _| wanted.contains_key(id));
            for ((id, key), serving) in wanted.iter().zip(serving) {
                let Some(serving) = serving else { continue };
                if before.insert(*id, (*key, serving)) != Some((*key, serving))
                    && news.send(News::Serving(*id, serving)).await.is_err()
                {
                    return;
                }
            }
        }
        if news.is_closed() {
            return;
        }
    }
}

/// Tells what clients have brought, every [`READ`], until nobody listens.
pub(super) async fn count(keys: watch::Receiver<Keys>, asked: ForwardHandle, news: mpsc::Sender<News>) {
    let mut tick = interval(READ);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !news.is_closed() {
        tick.tick().await;
        let wanted = Arc::clone(&keys.borrow());
        if wanted.is_empty() {
            continue;
        }
        let services: Arc<[ServiceKey]> = wanted.values().copied().collect();
        // A room that loads programs does not answer for a while: what was counted is told with the next answer.
        let Ok(totals) = asked.demand(services).await else { continue };
        let counts = wanted.keys().zip(totals).filter_map(|(id, total)| Some((*id, total?))).collect();
        if news.send(News::Counts(counts)).await.is_err() {
            return;
        }
    }
}

/// What is asked for, of which services.
pub(super) struct Watched {
    pub(super) keys: watch::Receiver<Keys>,
    /// Those that speak for paths.
    pub(super) speakers: watch::Receiver<BTreeSet<ServiceId>>,
}

/// Tells what became of handshakes, of services of which that is news: every `handshakes::LOOK`, and more often while they speak for paths. Until
/// nobody listens.
pub(super) async fn handshakes(here: SiteId, watched: Watched, asked: ForwardHandle, news: mpsc::Sender<News>) {
    let Watched { keys, mut speakers } = watched;
    let mut speaker = Speaker::new(here);
    speaker.handle_services(&speakers.borrow_and_update());
    let mut before: BTreeMap<ServiceId, Vec<(SiteId, Totals)>> = BTreeMap::new();
    let (mut looked, mut whole) = (Time::now(), true);
    while !news.is_closed() {
        sleep_until(looked + speaker.pace()).await;
        looked = Time::now();
        if speakers.has_changed().unwrap_or(false) {
            speaker.handle_services(&speakers.borrow_and_update());
        }
        let mut wanted = Arc::clone(&keys.borrow());
        before.retain(|id, _| wanted.contains_key(id));
        // Two of the frequent looks are shorter than a seldom one: each other one is at everything.
        whole = !(whole && speaker.is_speaking());
        if !whole {
            wanted = Arc::new(speaker.services().filter_map(|id| Some((id, *wanted.get(&id)?))).collect());
        }
        if wanted.is_empty() {
            continue;
        }
        let services: Arc<[ServiceKey]> = wanted.values().copied().collect();
        let begun = now();
        // A room that loads programs does not answer for a while: what waits in the places is looked at with the next answer.
        let Ok(totals) = asked.handshakes(services).await else { continue };
        let known = now();
        let read: Vec<_> = wanted.keys().copied().zip(totals).collect();
        for (site, evidence) in speaker.handle_totals(&read, begun, known) {
            // A full inbox loses it: probes measure then.
            let _lost = news.try_send(News::Evidence { site, evidence, at: known });
        }
        if !whole {
            continue;
        }
        let mut fresh = Vec::new();
        for (id, totals) in read {
            if before.get(&id).map_or(!totals.is_empty(), |known| *known != totals) {
                before.insert(id, totals.clone());
                fresh.push((id, totals));
            }
        }
        if news.send(News::Handshakes(fresh)).await.is_err() {
            return;
        }
    }
}

/// What the balancer is told, on its way there.
pub(super) enum Told {
    /// The table of a service.
    Table {
        service: ServiceId,
        key: ServiceKey,
        /// To be confirmed.
        generation: Option<u64>,
        slots: Vec<SiteId>,
    },
    /// Other sites, the nearest first.
    Neighbours(Vec<SiteSpec>),
    /// Gateways of a site that probes do not reach, by id.
    Silent(SiteId, BTreeSet<u16>),
    /// Endpoints out of use, or back.
    Drain(Endpoints, bool),
}

/// Carries it, in its order; confirms tables with a generation.
pub(super) fn apply(forward: ForwardSender) -> (mpsc::Sender<Told>, mpsc::Receiver<(ServiceId, u64)>) {
    let (sender, mut all) = mpsc::channel::<Told>(TABLES);
    // Never full: no more are under way than wait in the other queue, and one.
    let (confirm, confirmed) = mpsc::channel(TABLES * 2);
    tokio::spawn(async move {
        while let Some(told) = all.recv().await {
            match told {
                Told::Drain(endpoints, on) => forward.send(Order::Drain(endpoints, on)).await,
                Told::Neighbours(specs) => forward.send(Order::Neighbours(specs)).await,
                Told::Silent(site, gateways) => forward.send(Order::Silent(site, gateways)).await,
                Told::Table { service, key, generation, slots } => {
                    let (done, wait) = oneshot::channel();
                    forward.send(Order::Sites(key, slots, done)).await;
                    if let (Ok(()), Some(generation)) = (wait.await, generation)
                        && confirm.send((service, generation)).await.is_err()
                    {
                        return;
                    }
                }
            }
        }
    });
    (sender, confirmed)
}
