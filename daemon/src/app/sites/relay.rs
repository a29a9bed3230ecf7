//! The relay of this node, if it is one, and its ears: what the relays of its site say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bascule_core::site::SiteId;
use bascule_core::site::demand::Count;
use bascule_core::site::join::io::Fact;
use bascule_core::site::lead::Beat;
use bascule_core::site::state::io::{Pass, PeerConfig};
use bascule_core::site::state::record::{Body, Key};
use bascule_core::site::summary::ServiceId;
use bascule_mesh::clock::Clock;
use bascule_mesh::feed::{self, Listener, Order, Server};
use bascule_mesh::pki::Identity;
use bascule_mesh::state::{Command, Dial, Peer, Relay, RelayConfig, Status};
use bascule_mesh::tls::Credentials;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::News;
use crate::config::Sites;

/// Orders that wait for the relay or its feed; then the room does. Both take them between two frames.
const ORDERS: usize = 1024;
/// How often the files of the certificate are compared with what is in force.
const RELOAD: Duration = Duration::from_secs(5);
/// A driver that does not say how it is by then is asked again in the next slot.
const ANSWER: Duration = Duration::from_millis(200);
/// Counts that wait for a relay of this site; more are dropped, and said again within a second.
const COUNTS: usize = 16;
/// What a relay that stops may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);
/// What its feed may take for its last word: as long as the feed itself gives it, and as much again.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A relay that runs, with its feed.
struct Running {
    orders: mpsc::Sender<Command>,
    feed: mpsc::Sender<Order>,
    relay: JoinHandle<()>,
    served: JoinHandle<()>,
}

/// Another relay of this site, which this node listens to.
struct Ear {
    address: SocketAddr,
    counts: mpsc::Sender<Vec<Count>>,
    task: JoinHandle<()>,
}

/// All that this node has to do with relays.
pub(super) struct Relays {
    news: mpsc::Sender<News>,
    clock: Arc<dyn Clock>,
    running: Option<Running>,
    ears: BTreeMap<String, Ear>,
    /// News of the relay found no room.
    lost: Arc<AtomicBool>,
    /// What this site reaches, for a relay that begins.
    reach: BTreeMap<SiteId, bool>,
    /// Why the relay does not run, or why this node's certificate is not good.
    pub(super) trouble: Option<String>,
    pub(super) state: Option<Status>,
    pub(super) told: Option<feed::Status>,
    /// Words of relays that only later versions know.
    pub(super) unknown_words: u64,
    /// Our certificate ends, in seconds since 1970.
    pub(super) expires: Option<u64>,
}

/// Other sites, as the relay must know them. All services pass: which of them this site has, its file says, and what is beyond the
/// bounds of a site is refused.
fn peers(sites: &Sites) -> BTreeMap<SiteId, Peer> {
    let others = sites.all.iter().filter(|(id, _)| **id != sites.here);
    let peer = |(id, site): (&SiteId, &crate::config::Site)| {
        let rights = PeerConfig { prefixes: site.prefixes.clone(), export: Pass::All, import: Pass::All };
        (*id, Peer { rights, relays: site.relays.iter().map(|(_, address)| *address).collect() })
    };
    others.map(peer).collect()
}

/// What is wrong with a certificate that is good in itself: it must be one of this site, and of its relay.
pub(super) fn stranger(identity: &Identity, sites: &Sites) -> Option<String> {
    let Identity { domain, site, relay } = identity;
    if *domain != sites.domain {
        return Some(format!("the certificate is of {domain}, site.domain says {}", sites.domain));
    }
    if *site != sites.here {
        return Some(format!("the certificate is of {site}, this is {}", sites.here));
    }
    let wanted = sites.relay.as_ref().filter(|wanted| wanted.name != *relay)?;
    Some(format!("the certificate is of relay {relay}, site.relay says {}", wanted.name))
}

impl Relays {
    pub(super) fn new(news: mpsc::Sender<News>, clock: Arc<dyn Clock>) -> Self {
        let (running, ears, lost, reach, trouble) = Default::default();
        Self {
            news,
            clock,
            running,
            ears,
            lost,
            reach,
            trouble,
            state: None,
            told: None,
            unknown_words: 0,
            expires: None,
        }
    }

    /// Starts what does not run and listens to whom it shall.
    pub(super) async fn fit(&mut self, sites: &Sites, records: &BTreeMap<Key, Body>, says: Beat) {
        self.listen(sites);
        self.trouble = match Credentials::read(&sites.certificates, &self.clock) {
            Err(error) => Some(format!("certificate: {error}")),
            Ok(credentials) => {
                self.expires = Some(credentials.expires.as_secs());
                stranger(&credentials.identity, sites)
            }
        };
        if self.trouble.is_some() || self.running.is_some() || sites.relay.is_none() {
            return;
        }
        match self.begin(sites).await {
            Err(why) => self.trouble = Some(format!("the relay does not run: {why}")),
            Ok(running) => {
                self.running = Some(running);
                for (key, body) in records {
                    self.write(*key, Some(*body)).await;
                }
                self.order(Command::Reach(self.reach.clone())).await;
                self.lead(says).await;
            }
        }
    }

    fn listen(&mut self, sites: &Sites) {
        let own = sites.relay.as_ref().map(|relay| &relay.name);
        let relays = sites.own().relays.iter().filter(|(name, _)| Some(name) != own);
        let wanted: BTreeMap<&String, SocketAddr> =
            relays.map(|(name, at)| (name, SocketAddr::new(at.ip(), sites.nodes_port))).collect();
        for (_, ear) in self.ears.extract_if(.., |name, ear| wanted.get(name) != Some(&ear.address)) {
            ear.task.abort();
        }
        for (name, address) in wanted {
            if self.ears.contains_key(name) {
                continue;
            }
            let listener = Listener {
                relay: name.clone(),
                address,
                credentials: sites.certificates.clone(),
                clock: Arc::clone(&self.clock),
                dial: Dial::default(),
            };
            let (relay, news) = (name.clone(), self.news.clone());
            let (counts, queue) = mpsc::channel(COUNTS);
            let task = tokio::spawn(feed::listen(listener, queue, async move |heard| {
                // A room that has ended hears nothing.
                let _ended = news.send(News::Heard(relay.clone(), heard)).await;
            }));
            self.ears.insert(name.clone(), Ear { address, counts, task });
        }
    }

    async fn begin(&mut self, sites: &Sites) -> Result<Running, String> {
        let Some(own) = &sites.relay else { return Err("this node is no relay".to_owned()) };
        let bind = async |at: SocketAddr| TcpListener::bind(at).await.map_err(|error| format!("{at}: {error}"));
        let calls = bind(own.listen).await?;
        let nodes = bind(SocketAddr::new(own.listen.ip(), sites.nodes_port)).await?;
        let relay = Relay::new(RelayConfig {
            credentials: sites.certificates.clone(),
            incarnation: own.incarnation.clone(),
            peers: peers(sites),
            leads: false,
            reload: RELOAD,
            build: format!("bascule {}", env!("CARGO_PKG_VERSION")),
            clock: Arc::clone(&self.clock),
            dial: Dial::default(),
        });
        let relay = relay.map_err(|error| error.to_string())?;
        let server = Server::new(sites.certificates.clone(), RELOAD, Arc::clone(&self.clock));
        let server = server.map_err(|error| error.to_string())?;
        let ((orders, taken), (feed, feed_orders)) = (mpsc::channel(ORDERS), mpsc::channel(ORDERS));
        let said = self.news.clone();
        let served = tokio::spawn(server.run(nodes, feed_orders, move |node, counts| {
            // A room that is busy hears the next word of it.
            let _full = said.try_send(News::Said(node, counts));
        }));
        let (news, lost) = (self.news.clone(), Arc::clone(&self.lost));
        let relay = tokio::spawn(async move {
            let say = |event| {
                if news.try_send(News::Relay(event)).is_err() {
                    lost.store(true, Ordering::Relaxed);
                }
            };
            let why = match relay.run(calls, taken, say).await {
                Ok(()) => "it was told to stop".to_owned(),
                Err(error) => error.to_string(),
            };
            let _ended = news.send(News::RelayEnded(why)).await;
        });
        Ok(Running { orders, feed, relay, served })
    }

    /// Other sites or other relays.
    pub(super) async fn configure(&mut self, sites: &Sites) {
        self.listen(sites);
        self.order(Command::Peers(peers(sites))).await;
    }

    /// The relay ended by itself; it is tried again.
    pub(super) fn ended(&mut self, why: String) {
        self.running = None;
        self.state = None;
        self.trouble = Some(format!("the relay ended: {why}"));
    }

    /// News of the relay found no room since this was last asked.
    pub(super) fn lost_news(&self) -> bool {
        self.lost.swap(false, Ordering::Relaxed)
    }

    /// The relay of this node is this from now on.
    pub(super) async fn lead(&mut self, says: Beat) {
        self.order(Command::Lead(says.leads)).await;
        self.tell(Order::Lead(says)).await;
    }

    /// It tells everything again, as another process.
    pub(super) async fn begin_anew(&mut self) {
        self.order(Command::Anew).await;
    }

    pub(super) async fn write(&mut self, key: Key, body: Option<Body>) {
        self.order(Command::Local(key, body)).await;
    }

    pub(super) async fn credit(&mut self, to: SiteId, service: ServiceId, amount: u32, lend: bool) {
        self.order(Command::Credit { to, service, amount, lend }).await;
    }

    /// What this site reaches is this from now on.
    pub(super) async fn reach(&mut self, reach: BTreeMap<SiteId, bool>) {
        self.reach.clone_from(&reach);
        self.order(Command::Reach(reach)).await;
    }

    pub(super) async fn publish(&mut self, fact: Fact) {
        self.tell(Order::Publish(fact)).await;
    }

    /// Tells all other relays of this site what clients bring here.
    pub(super) fn say(&self, counts: &[Count]) {
        for ear in self.ears.values() {
            let _full = ear.counts.try_send(counts.to_vec());
        }
    }

    /// A relay that has ended says so by itself.
    async fn order(&mut self, command: Command) {
        if let Some(running) = &self.running {
            let _ended = running.orders.send(command).await;
        }
    }

    async fn tell(&mut self, order: Order) {
        if let Some(running) = &self.running {
            let _ended = running.feed.send(order).await;
        }
    }

    /// How old what is held of each site is.
    pub(super) async fn ages(&mut self) -> BTreeMap<SiteId, Duration> {
        let (ask, answer) = oneshot::channel();
        self.order(Command::Ages(ask)).await;
        timeout(ANSWER, answer).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Asks how they are.
    pub(super) async fn look(&mut self) {
        if self.running.is_none() {
            (self.state, self.told) = (None, None);
            return;
        }
        let ((ask, state), (ask_feed, told)) = (oneshot::channel(), oneshot::channel());
        self.order(Command::Status(ask)).await;
        self.tell(Order::Status(ask_feed)).await;
        if let Ok(Ok(state)) = timeout(ANSWER, state).await {
            self.state = Some(state);
        }
        if let Ok(Ok(told)) = timeout(ANSWER, told).await {
            self.told = Some(told);
        }
    }

    /// Takes leave: of other sites first, so that the next relay finds no session of this one there, then of the nodes of this site.
    pub(super) async fn stop(&mut self) {
        for (_, ear) in std::mem::take(&mut self.ears) {
            ear.task.abort();
        }
        self.order(Command::Stop).await;
        if let Some(running) = self.running.take() {
            // One that is stuck is noticed by its peers as one that was killed.
            let _late = timeout(GOODBYE, running.relay).await;
            let _ended = running.feed.send(Order::Stop).await;
            let _late = timeout(LAST_WORD, running.served).await;
        }
    }
}
