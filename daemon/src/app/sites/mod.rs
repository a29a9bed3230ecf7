//! Sites, as this node has to do with them: its paths, its relay where it is one, what the relays of its site tell it, and the machine that
//! makes site tables of all of it ([`bascule_core::site::join`]). Nothing of this node waits for it.
//!
//! Queues are bounded. What tasks report waits in `inbox` and they with it, but for two that must not: a prober's news is dropped when it is
//! full (its state is asked for every slot), and a relay whose news would be dropped begins anew, which tells everything again.

mod authority;
mod facts;
mod local;
mod orders;
mod paths;
mod relay;
mod tell;
mod terms;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bascule_core::balance::serving::Serving;
use bascule_core::site::SiteId;
use bascule_core::site::demand::Count;
use bascule_core::site::gateways::Gateways;
use bascule_core::site::handshakes::Totals;
use bascule_core::site::join::Join;
use bascule_core::site::join::io::{Action, Config, Fact, Local, Source};
use bascule_core::site::path::io::{Event as PathEvent, Evidence};
use bascule_core::site::policy::SLOT;
use bascule_core::site::policy::io::Config as PolicyConfig;
use bascule_core::site::state::record::{Body, Key};
use bascule_core::site::summary::ServiceId;
use bascule_core::time::Instant;
use bascule_mesh::clock::{Clock, Floor};
use bascule_mesh::feed::{Heard, Word};
use bascule_mesh::path::PathStatus;
use bascule_mesh::state::Event;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::forward::ForwardSender;
use crate::clock;
use crate::config::{Loaded, Sites};
use crate::handle::forward::ForwardHandle;
use crate::handle::sites::{OrderRequest, SitesHandle, Why};

use authority::{Authority, Said};
use facts::facts;
use paths::Paths;
use relay::Relays;
use tell::Teller;

/// News that wait for the room.
const INBOX: usize = 4096;
/// From one try to the next of what could not be opened, and from one look at the certificate to the next.
const RETRY: Duration = Duration::from_secs(5);
/// From one word of a relay on how old everything is to the next: as often as sites say so (`state::BEAT`).
const CONFIRM: Duration = bascule_core::site::state::BEAT;
/// Evidence of a path that waited for longer is of another moment: it would hold a path up that is cut by now.
const STALE: Duration = Duration::from_millis(50);
/// What an operator ordered, and who has a service, is shown so soon: an order is followed by a question.
const SHOWN: Duration = Duration::from_millis(50);

/// The clock of the daemon, for drivers.
#[derive(Debug)]
struct Boot;

impl Clock for Boot {
    fn now(&self) -> Instant {
        now()
    }
}

fn now() -> Instant {
    Instant::from_nanos(clock::boot_ns())
}

/// What the tasks of the room tell it.
enum News {
    /// The relay of this node.
    Relay(Event),
    /// It ended, and why.
    RelayEnded(String),
    /// A relay of this site was heard, or was not.
    Heard(String, Heard),
    /// A path changed.
    Path(SiteId, PathEvent),
    /// What the balancer sees of a service.
    Serving(ServiceId, Serving),
    /// What clients have asked for at this node since its counters began.
    Counts(Vec<(ServiceId, u64)>),
    /// What became of handshakes of clients at this node, by site, of services of which that is news.
    Handshakes(Vec<(ServiceId, Vec<(SiteId, Totals)>)>),
    /// What handshakes said of the path to a site at a time, which is of no use later.
    Evidence { site: SiteId, evidence: Evidence, at: Instant },
    /// What another node of this site counts, by the name in its certificate.
    Said(String, Vec<Count>),
    /// Of the lease of a service that one site at a time has.
    Lease(ServiceId, Said),
}

/// The part of the file, or of this site's Site, that needs a start to change.
pub(super) fn fixed(sites: Option<&Sites>) -> Option<impl PartialEq + std::fmt::Debug> {
    let s = sites?;
    Some((s.here, &s.domain, &s.certificates, s.relay.as_ref(), s.nodes_port, s.path_port, &s.clock))
}

/// The way into the room.
#[derive(Clone)]
pub(super) struct SitesSender(watch::Sender<Option<Sites>>);

impl SitesSender {
    /// What is in force, of file and cluster. With the first that there are the room begins.
    pub(super) fn config(&self, next: Option<&Sites>) {
        self.0.send_if_modified(|sites| {
            let changed = sites.as_ref() != next;
            *sites = next.cloned();
            changed
        });
    }
}

/// The room, which waits for the first word of what sites there are.
pub(super) struct Running(oneshot::Sender<()>, JoinHandle<()>);

/// What it begins with.
struct Seat {
    node: String,
    instance: u8,
    seed: u64,
    forward: ForwardSender,
    asked: ForwardHandle,
    handle: SitesHandle,
}

impl Running {
    /// Starts it as what is in force at the start says.
    ///
    /// # Errors
    /// When this system has no random numbers.
    pub(super) fn start(
        whole: &Loaded,
        forward: &ForwardSender,
        asked: &ForwardHandle,
        handle: &SitesHandle,
    ) -> Result<(Self, SitesSender)> {
        let (sender, configs) = watch::channel(whole.sites.clone());
        let (stop, stopped) = oneshot::channel();
        let seat = Seat {
            node: whole.node.node.clone(),
            instance: whole.instance,
            seed: super::random_seed()?,
            forward: forward.clone(),
            asked: asked.clone(),
            handle: handle.clone(),
        };
        Ok((Self(stop, tokio::spawn(seat.run(configs, stopped))), SitesSender(sender)))
    }

    /// Takes leave of other sites, so that they need not wait for silence.
    pub(super) async fn stop(self, grace: Duration) {
        let Self(stop, mut task) = self;
        // It hears also of a sender that is gone.
        let _told = stop.send(());
        if tokio::time::timeout(grace, &mut task).await.is_err() {
            task.abort();
        }
    }
}

impl Seat {
    async fn run(self, mut configs: watch::Receiver<Option<Sites>>, mut stopped: oneshot::Receiver<()>) {
        let sites = loop {
            let known = configs.borrow_and_update().clone();
            if let Some(sites) = known {
                break sites;
            }
            tokio::select! {
                _ = &mut stopped => return,
                changed = configs.changed() => if changed.is_err() { return },
            }
        };
        let Self { node, instance, seed, forward, asked, handle } = self;
        let (news, inbox) = mpsc::channel(INBOX);
        let clock: Arc<dyn Clock> = Arc::new(Floor::new(Arc::new(Boot), sites.clock.clone()));
        let (keys, watched) = watch::channel(local::keys(&sites));
        tokio::spawn(local::watch(watched.clone(), asked.clone(), news.clone()));
        tokio::spawn(local::count(watched.clone(), asked.clone(), news.clone()));
        let (speakers, speaking) = watch::channel(local::speakers(&sites));
        let watched = local::Watched { keys: watched, speakers: speaking };
        tokio::spawn(local::handshakes(sites.here, watched, asked, news.clone()));
        let (tables, applied) = local::apply(forward.clone());
        let orders = handle.open_orders();
        let room = Room {
            authority: Authority::new(format!("{node}-{instance}"), news.clone(), forward),
            node,
            gateways: Gateways::default(),
            paths: Paths::new(seed, news.clone(), Arc::clone(&clock)),
            relays: Relays::new(news, clock),
            join: Join::new(join_config(&sites), now()),
            records: BTreeMap::new(),
            keys,
            speakers,
            tables,
            handle,
            teller: Teller::default(),
            unwanted: 0,
            retry_at: now(),
            confirm_at: now() + CONFIRM,
            changed: false,
            sites,
        };
        room.run(configs, inbox, applied, orders, stopped).await;
    }
}

/// What the machine must know of the file.
fn join_config(sites: &Sites) -> Config {
    let local = |(id, spread): (&ServiceId, &crate::config::Spread)| {
        (*id, Local { name: spread.name.clone(), key: spread.key, capacity: spread.capacity })
    };
    Config {
        policy: PolicyConfig {
            here: sites.here,
            sites: sites.all.iter().map(|(id, site)| (*id, site.region.clone())).collect(),
            services: sites.services.iter().map(|(id, spread)| (*id, spread.policy.clone())).collect(),
            spill: true,
        },
        services: sites.services.iter().map(local).collect(),
        relays: sites.own().relays.iter().map(|(name, _)| name.clone()).collect(),
        relay: sites.relay.as_ref().map(|relay| relay.name.clone()),
    }
}

struct Room {
    node: String,
    sites: Sites,
    join: Join,
    paths: Paths,
    gateways: Gateways,
    relays: Relays,
    authority: Authority,
    /// What this site writes, for a relay that begins anew.
    records: BTreeMap<Key, Body>,
    keys: watch::Sender<local::Keys>,
    speakers: watch::Sender<BTreeSet<ServiceId>>,
    tables: mpsc::Sender<local::Told>,
    handle: SitesHandle,
    teller: Teller,
    /// Counts of nodes that are of no service here.
    unwanted: u64,
    retry_at: Instant,
    confirm_at: Instant,
    /// Something is to be shown before the next slot.
    changed: bool,
}

impl Room {
    async fn run(
        mut self,
        mut configs: watch::Receiver<Option<Sites>>,
        mut inbox: mpsc::Receiver<News>,
        mut applied: mpsc::Receiver<(ServiceId, u64)>,
        mut orders: mpsc::Receiver<OrderRequest>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        let mut look = interval(SLOT);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        configs.mark_unchanged();
        self.gateways.handle_config(&paths::gateways(&self.sites));
        self.authority.fit(&self.sites);
        self.join.handle_authority(self.authority.is_reachable(), now());
        let mut soon = false;
        loop {
            self.join.handle_expire(now());
            self.carry_out().await;
            if core::mem::take(&mut self.changed) && !soon {
                soon = true;
                look.reset_after(SHOWN);
            }
            let wait = self.join.poll_timeout(now()).map_or(SLOT, |at| at.since(now()));
            tokio::select! {
                _ = &mut stopped => break,
                Some(news) = inbox.recv() => self.hear(news).await,
                Some((service, generation)) = applied.recv() => self.join.handle_applied(service, generation, now()),
                Some(order) = orders.recv() => self.order(order),
                Ok(()) = configs.changed() => {
                    let next = configs.borrow_and_update().clone();
                    if let Some(next) = next {
                        self.configure(next).await;
                    }
                }
                _ = look.tick() => {
                    soon = false;
                    self.look().await;
                }
                () = sleep(wait) => {}
            }
        }
        self.authority.stop();
        self.relays.stop().await;
    }

    async fn configure(&mut self, next: Sites) {
        self.sites = next;
        self.keys.send_replace(local::keys(&self.sites));
        self.speakers.send_replace(local::speakers(&self.sites));
        self.join.handle_config(join_config(&self.sites), now());
        self.gateways.handle_config(&paths::gateways(&self.sites));
        self.authority.fit(&self.sites);
        self.relays.configure(&self.sites).await;
        self.paths.fit(&self.sites).await;
    }

    async fn hear(&mut self, news: News) {
        let now = now();
        match news {
            News::Serving(service, serving) => self.join.handle_serving(service, serving, now),
            News::Counts(totals) => self.join.handle_counts(&totals, now),
            News::Handshakes(read) => self.join.handle_handshakes(&read, now),
            News::Evidence { site, evidence, at } => {
                if now.since(at) <= STALE {
                    self.paths.tell(site, evidence);
                }
            }
            News::Said(node, counts) => self.unwanted += self.join.handle_said(&node, &counts, now) as u64,
            News::Path(site, event) => {
                self.teller.path(&self.sites, site, &event);
                if let Some(status) = self.paths.ask(site).await {
                    self.know_path(site, &status);
                }
            }
            News::Heard(relay, heard) => {
                self.teller.heard(&relay, &heard);
                if let Heard::Unknown(count) = heard {
                    self.relays.unknown_words += count;
                }
                let words = match heard {
                    Heard::Words(words) => words,
                    Heard::Gone => return self.join.handle_gone(&relay, now),
                    Heard::Unknown(_) | Heard::Refused(_) | Heard::Unready(_) | Heard::Lost => return,
                };
                for word in words {
                    match word {
                        Word::Beat(beat) => self.join.handle_beat(&relay, beat, now),
                        Word::Fact(fact) => self.join.handle_fact(Source::Relay(&relay), fact, now),
                    }
                }
            }
            News::Relay(event) => {
                self.teller.relay(&self.sites, &event);
                facts(&event).into_iter().for_each(|fact| self.join.handle_fact(Source::Own, fact, now));
            }
            News::Lease(service, said) => {
                self.changed |= !matches!(said, Said::Extended(_));
                self.authority.hear(service, &said, now);
                match said {
                    Said::Holder(holder) => {
                        let holder = holder.and_then(|name| self.sites.numbered(&name));
                        self.join.handle_lease(service, holder, now);
                    }
                    Said::Condition(..) => self.join.handle_authority(self.authority.is_reachable(), now),
                    Said::Granted(..) | Said::Extended(_) | Said::Ended(_) => {}
                }
            }
            News::RelayEnded(why) => {
                self.relays.ended(why);
                self.no_sessions();
            }
        }
    }

    /// The relay of this node begins anew: sessions that it had are over, whether it said so or not.
    fn no_sessions(&mut self) {
        for site in self.sites.all.keys().filter(|site| **site != self.sites.here) {
            self.join.handle_fact(Source::Own, Fact::Session { site: *site, up: false }, now());
        }
    }

    fn know_path(&mut self, site: SiteId, status: &PathStatus) {
        let now = now();
        self.gateways.handle_path(site, &status.path, now);
        self.join.handle_path(site, status.path, status.silent_since.unwrap_or(now), now);
    }

    /// Everything that the machine owes, in its order.
    async fn carry_out(&mut self) {
        while let Some((site, silent)) = self.gateways.poll() {
            self.teller.gateways(&self.sites, site, &silent);
            // As for tables: it waits for the forwarding room, which may be busy for seconds when it loads programs.
            let _ended = self.tables.send(local::Told::Silent(site, silent)).await;
        }
        if self.relays.lost_news() {
            // What was not heard is told again by a process that begins anew.
            self.no_sessions();
            self.relays.begin_anew().await;
        }
        while let Some(action) = self.join.poll_action() {
            match action {
                Action::Table { service, key, generation, slots } => {
                    self.say_why(service);
                    // The forwarding room may be busy for seconds when it loads programs: a thousand tables wait for it, then this room.
                    let _ended = self.tables.send(local::Told::Table { service, key, generation, slots }).await;
                }
                Action::Neighbours(specs) => drop(self.tables.send(local::Told::Neighbours(specs)).await),
                Action::Drain { target, on } => {
                    if let Some(endpoints) = self.endpoints(&target) {
                        let _ended = self.tables.send(local::Told::Drain(endpoints, on)).await;
                    }
                }
                Action::Claim(service) => self.authority.want(service, None),
                Action::Release(service, reason) => self.authority.want(service, Some(reason)),
                Action::Lead(says) => self.relays.lead(says).await,
                Action::Write(key, body) => {
                    match body {
                        Some(body) => drop(self.records.insert(key, body)),
                        None => drop(self.records.remove(&key)),
                    }
                    self.relays.write(key, body).await;
                }
                Action::Credit { to, service, amount, lend } => self.relays.credit(to, service, amount, lend).await,
                Action::Reach(reach) => self.relays.reach(reach).await,
                Action::Publish(fact) => self.relays.publish(fact).await,
                Action::Say(counts) => self.relays.say(&counts),
                Action::Report(report) => self.teller.report(&self.sites, &report),
                Action::Timeline(timeline) => {
                    self.teller.timeline(&self.sites, &timeline);
                    self.say_why(timeline.service);
                }
            }
        }
    }

    fn say_why(&self, service: ServiceId) {
        let (Some(spread), Some(history)) = (self.sites.services.get(&service), self.join.history(service)) else {
            return;
        };
        let names = self.sites.all.iter().map(|(id, site)| (*id, site.name.clone())).collect();
        let changes = history.iter().cloned().collect();
        self.handle.set_why(Why {
            service: spread.name.clone(),
            names,
            changes,
            drains: Vec::new(),
            lease: None,
            brought: None,
            now: now(),
        });
    }

    /// Once in a slot: paths are asked, what could not be opened is tried again, what is known is shown.
    async fn look(&mut self) {
        for (site, status) in self.paths.ask_all().await {
            self.know_path(site, &status);
        }
        if now() >= self.retry_at {
            self.retry_at = now() + RETRY;
            self.authority.fit(&self.sites);
            self.paths.fit(&self.sites).await;
            self.relays.fit(&self.sites, &self.records, self.join.says()).await;
        }
        if now() >= self.confirm_at {
            self.confirm_at = now() + CONFIRM;
            for (site, age) in self.relays.ages().await {
                self.join.handle_fact(Source::Own, Fact::Confirmed { site, age }, now());
            }
        }
        self.relays.look().await;
        let status = view::status(self);
        self.teller.conditions(&status.conditions);
        self.handle.set(status);
    }
}

#[cfg(test)]
mod tests;
