//! The forwarding room's place in the process: a thread that owns the balancer and the programs, fed with configuration, links, checks
//! and the state of nodes. The real-time thread has no part in it.

mod by_place;
mod checks;
mod frames;
mod inside;
mod liveness;
mod plane;
mod status;
mod terms;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bascule_core::balance::SiteSpec;
use bascule_core::bfd::config::PeerConfig;
use bascule_core::node::io::LinkInfo;
use bascule_core::service::ServiceKey;
use bascule_core::site::SiteId;
use bascule_core::time::Instant;
use bascule_core::types::LinkId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use crate::clock;
use crate::config::{Forwarding, Loaded};
use crate::dataplane;
use crate::handle::forward::{ForwardPort, ForwardRequest};
use crate::net::netlink::{Change, Ways};

use checks::Checks;
pub(super) use frames::Frames;
pub(super) use liveness::Session;
use plane::{Plane, Question};

/// Orders that may wait for the room. Whoever gives one waits meanwhile.
const ORDER_QUEUE: usize = 64;
/// From one look at the devices, the frames that did not fit and the nodes to the next.
const TICK: Duration = Duration::from_secs(1);
/// Events of the network within this time are one change: a link that comes up makes dozens.
const CALM: Duration = Duration::from_millis(50);
/// From one look at everything to the next when nothing was heard: changes of routes and links are, so it is for what nobody thought of.
const ALL: Duration = Duration::from_secs(300);

/// What the room is told.
#[derive(Debug)]
pub(super) enum Order {
    /// The configuration; `None`: there is no data plane. And the services that one site at a time has. Answered once the room has taken it.
    Config(Option<Box<Forwarding>>, Vec<PeerConfig>, BTreeSet<ServiceKey>, oneshot::Sender<()>),
    /// A link is there or changed.
    Link(LinkInfo),
    /// A link is gone.
    LinkGone(LinkId),
    /// A BFD session came up or ended.
    Path(IpAddr, Session),
    /// Whose each slot of a service's site table is; answered once the balancer has it, whose rows follow within 10 ms.
    Sites(ServiceKey, Vec<SiteId>, oneshot::Sender<()>),
    /// Other sites, the nearest first: whether they may be asked, and how large a packet gets there.
    Neighbours(Vec<SiteSpec>),
    /// Gateways of a site that probes do not reach, by id: nothing is sent to them.
    Silent(SiteId, BTreeSet<u16>),
    /// This site has a service, by a term, until then. Answered with why its endpoints here do not answer, if so.
    Grant(ServiceKey, u64, Instant, oneshot::Sender<Result<(), String>>),
    /// It has it for longer.
    Extend(ServiceKey, Instant),
    /// It does not have it any more; answered once nothing here answers for it, with false where that is so from the deadline on only.
    Revoke(ServiceKey, oneshot::Sender<bool>),
    /// Endpoints are taken out of use, or put back.
    Drain(Endpoints, bool),
}

/// Endpoints that an operator takes out of use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Endpoints {
    /// All of a node, by its id.
    Node(u16),
    /// One of a service.
    One(ServiceKey, IpAddr, u16),
}

/// The way into the room.
#[derive(Clone)]
pub(super) struct ForwardSender {
    orders: mpsc::Sender<Order>,
}

impl ForwardSender {
    /// Waits while the queue is full. A room that has ended is told of by its conditions, and needs nothing any more.
    pub(super) async fn send(&self, order: Order) {
        let _ended = self.orders.send(order).await;
    }
}

impl ForwardSender {
    /// The configuration in force. What comes back is ready once the room has taken it, or has ended.
    pub(super) async fn config(&self, loaded: &Loaded) -> oneshot::Receiver<()> {
        let (done, taken) = oneshot::channel();
        let spreads = loaded.sites.iter().flat_map(|sites| sites.services.values());
        let passive = spreads.filter(|spread| spread.is_passive()).map(|spread| spread.key).collect();
        self.send(Order::Config(loaded.forwarding.clone().map(Box::new), loaded.bfd.clone(), passive, done)).await;
        taken
    }
}

/// Starts the room on its thread; it ends when the sender is dropped. Programs and maps stay as they are.
///
/// The second part becomes true when it is decided whether this node forwards: the programs stand (those of a former run count, which
/// forward while this one starts), or they cannot, and a condition says why, or there is no data plane. Until then nobody must
/// be led to send packets here.
pub(super) fn spawn(
    port: ForwardPort,
    links: Vec<LinkInfo>,
    instance: u8,
) -> Result<(ForwardSender, watch::Receiver<bool>)> {
    let (sender, orders) = mpsc::channel(ORDER_QUEUE);
    let stand = dataplane::forward::stands(&dataplane::pin_root(instance)).unwrap_or_else(|error| {
        debug!(%error, "no look for programs of a former run");
        false
    });
    let (decided, told) = watch::channel(stand);
    let (opened, opening) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new().name("bascule-forward".to_owned()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(opened.send(Err(error.into()))),
        };
        runtime.block_on(async {
            let ways = match Ways::open() {
                Ok(ways) => ways,
                Err(error) => return drop(opened.send(Err(anyhow::Error::from(error)))),
            };
            drop(opened.send(Ok(())));
            let links = links.into_iter().map(|link| (link.id, link)).collect();
            Room { orders, port, decided, ways, links, plane: Plane::of(instance), checks: Checks::new() }.run().await;
        });
    })?;
    opening.recv().context("the forwarding room ended before it began")??;
    Ok((ForwardSender { orders: sender }, told))
}

struct Room {
    orders: mpsc::Receiver<Order>,
    port: ForwardPort,
    decided: watch::Sender<bool>,
    ways: Ways,
    links: BTreeMap<LinkId, LinkInfo>,
    plane: Plane,
    checks: Checks,
}

fn now() -> Instant {
    Instant::from_nanos(clock::boot_ns())
}

impl Room {
    async fn run(mut self) {
        let mut next_tick = tokio::time::Instant::now() + TICK;
        // When ways and places must be asked for anew, and what of them may be others.
        let mut stale = None;
        let mut news = Change::Any;
        let mut next_all = tokio::time::Instant::now() + ALL;
        loop {
            let deadlines = [self.plane.poll_timeout(), self.checks.poll_timeout()];
            let deadline = deadlines.into_iter().flatten().min();
            let calm = stale.map(|at: tokio::time::Instant| at.saturating_duration_since(tokio::time::Instant::now()));
            let wait = deadline.map_or(TICK, |at| at.since(now())).min(calm.unwrap_or(TICK));
            let mut changed = false;
            tokio::select! {
                biased;
                order = self.orders.recv() => match order {
                    Some(order) => self.order(order),
                    None => return,
                },
                Some(request) = self.port.requests.recv() => self.answer(request),
                Some(answer) = self.checks.answer() => {
                    self.checks.handle_answer(answer, &mut self.plane.balancer, now());
                }
                heard = self.ways.changed(), if stale.is_none() => {
                    let change = match heard {
                        Ok(change) => change,
                        Err(error) => {
                            warn!(%error, "changes of routes and neighbours are not heard; looking every second");
                            sleep(CALM).await;
                            Change::Any
                        }
                    };
                    news = news.and(change);
                    changed = true;
                }
                () = sleep(wait) => {}
                () = tokio::time::sleep_until(next_tick) => {
                    next_tick += TICK;
                    self.plane.tick(&self.links);
                    changed = true;
                }
            }
            if std::mem::take(&mut self.plane.asks_all) {
                (changed, news) = (true, Change::Any);
            }
            if changed || self.plane.asks_ways() {
                stale.get_or_insert(tokio::time::Instant::now() + CALM);
            }
            let now = now();
            if std::mem::take(&mut self.plane.forgot_checks) {
                for (endpoint, health) in self.checks.known() {
                    self.plane.balancer.handle_endpoint_health(&endpoint, health, now);
                }
            }
            self.checks.start_due(now);
            self.plane.turn(now, &self.links);
            for Question { inquiry, probe, timeout } in self.plane.questions.drain(..) {
                self.checks.ask(inquiry, probe, timeout);
            }
            self.port.set_trouble(self.plane.problem.as_deref());
            if self.plane.is_decided() && self.decided.send_if_modified(|decided| !std::mem::replace(decided, true)) {
                self.plane.sessions_begin(now);
            }
            if stale.is_some_and(|at| at <= tokio::time::Instant::now()) {
                stale = None;
                news = news.and(self.ways.pending().await);
                if next_all <= tokio::time::Instant::now() {
                    news = Change::Any;
                }
                if news == Change::Any {
                    next_all = tokio::time::Instant::now() + ALL;
                }
                news =
                    if self.plane.resolve(&mut self.ways, &news, now).await { Change::default() } else { Change::Any };
            }
        }
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Config(forwarding, bfd, passive, done) => {
                let specs = forwarding.iter().flat_map(|f| &f.config.services);
                self.checks.configure(specs, now());
                self.plane.passive(&passive, now());
                self.plane.configure(forwarding, &bfd, &self.links, now());
                // Who does not wait needs no answer.
                let _gone = done.send(());
            }
            // Who no longer waits needs no answer.
            Order::Grant(key, term, deadline, done) => {
                drop(done.send(self.plane.grant(key, (term, deadline), &self.links, now())));
            }
            Order::Extend(key, deadline) => self.plane.terms.extend(&key, deadline),
            Order::Revoke(key, done) => {
                let silent = self.plane.revoke(&key, &self.links, now());
                let _gone = done.send(silent);
            }
            Order::Link(link) => {
                self.links.insert(link.id, link);
                self.plane.links_changed();
            }
            Order::LinkGone(id) => {
                self.links.remove(&id);
                self.plane.links_changed();
            }
            Order::Path(remote, session) => self.plane.path(remote, session, now()),
            Order::Sites(key, slots, done) => {
                self.plane.sites(key, slots, &self.links, now());
                // Who no longer waits needs no answer.
                let _gone = done.send(());
            }
            Order::Drain(endpoints, on) => self.plane.drain(endpoints, on, &self.links, now()),
            Order::Neighbours(specs) => self.plane.neighbours(specs, &self.links, now()),
            Order::Silent(site, gateways) => self.plane.silent(site, gateways, &self.links, now()),
        }
    }

    fn answer(&mut self, request: ForwardRequest) {
        let now_s = u32::try_from(clock::boot_ns() / 1_000_000_000).unwrap_or(u32::MAX);
        // Whoever asked may have gone meanwhile.
        match request {
            ForwardRequest::Status(reply) => drop(reply.send(Box::new(self.status()))),
            ForwardRequest::Flows(filter, reply) => {
                drop(reply.send(self.plane.ask(|forward| forward.flows(&filter, now_s))));
            }
            ForwardRequest::Trace(asked, reply) => {
                drop(reply.send(self.plane.ask(|forward| forward.trace(&asked, now_s))));
            }
            ForwardRequest::Serving(services, reply) => {
                let serving = services.iter().map(|key| self.plane.balancer.serving(key));
                drop(reply.send(serving.collect()));
            }
            ForwardRequest::Demand(services, reply) => {
                drop(reply.send(services.iter().map(|key| self.plane.demand(key)).collect()));
            }
            ForwardRequest::Handshakes(services, reply) => drop(reply.send(self.plane.handshakes(&services, now()))),
        }
    }
}

/// Says it once for each text: a fault that goes on is not news.
#[derive(Debug, Default)]
struct Said(Option<String>);

impl Said {
    fn error(&mut self, text: String) {
        if self.0.as_ref() != Some(&text) {
            error!("{text}");
            self.0 = Some(text);
        }
    }

    fn cleared(&mut self, what: &str) {
        if self.0.take().is_some() {
            info!("{what}");
        }
    }
}
