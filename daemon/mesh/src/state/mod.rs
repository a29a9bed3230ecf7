//! Records between sites: the driver of [`bascule_core::site::state::State`].
//!
//! Every relay of a site speaks, as a process of its own. It has at most one session with each other site, whoever called
//! ([`bascule_core::site::partner`]): those
//! that lead have one with one another, which is looked for where it is not ([`Command::Lead`]); each of the others with the first relay that has
//! none (ADR 0043). Relays of an earlier version have sessions with the one that leads alone. All over TLS 1.3 with certificates at both ends ([`crate::tls`]). Who a peer is, its certificate
//! says; where it called from decides nothing.
//!
//! What is bounded: frames by their header before they are read ([`frame`]), unread frames by a permit each, unsent ones by number and
//! bytes, greetings by number and time, pings by a rate, messages, bytes and records by the machine. Beyond a bound the connection ends and
//! is counted; nothing is dropped out of a session.
//!
//! Certificates are compared with their files every [`RelayConfig::reload`]. A session whose peer is still believed stays; when our own
//! certificate is another one, the session moves to a new connection without a gap: who is called writes [`frame::Frame::Moved`] and goes on
//! there, the caller answers the same way, and each end reads the old connection to that frame before it reads the new one.

mod connect;
mod disk;
pub mod frame;
pub mod io;
mod link;
mod renew;
mod seek;
mod session;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bascule_core::site::SiteId;
use bascule_core::site::partner::{LOOK, Why, stood_still};
use bascule_core::site::state::State;
use bascule_core::site::state::io::{Action, Config, Report};
use bascule_core::site::state::record::{Body, Key};
use bascule_core::site::state::version::Speaks;
use bascule_core::time::Instant;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, sleep};

pub use disk::DiskError;
pub use io::{Command, Counters, Dial, Ended, Event, Failed, Peer, RelayConfig, SessionStatus, Status};

use connect::Face;
pub(crate) use connect::{manners, whose};
use disk::Disk;
use link::Fresh;
use session::Site;

use crate::tls::{Credentials, Files, Refusal, TlsError};

/// What the tasks of all connections have said and the driver has not heard; then they wait.
const INNER: usize = 256;

/// Why a relay does not run.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Its own certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its incarnation cannot be read or kept: exporting without it could bring back an old time.
    #[error("incarnation: {0}")]
    Disk(#[from] DiskError),
    /// No random numbers.
    #[error("the source of random numbers failed")]
    Random,
}

/// What a connection said.
#[derive(Debug)]
enum Said {
    Frame(frame::Frame, usize, OwnedSemaphorePermit),
    Malformed,
    Broken(Option<Refusal>),
}

/// What tasks tell the driver.
enum Inner {
    Accepted { crowded: bool },
    Unfinished,
    SentAway { from: SocketAddr, site: Option<SiteId>, refusal: Refusal },
    Fresh(Box<Fresh>),
    Called { site: SiteId, call: u64, outcome: Result<Box<Fresh>, Failed> },
    Said(u64, Said),
    Files(Result<Files, TlsError>),
}

/// The driver.
pub struct Relay {
    config: RelayConfig,
    face: watch::Sender<Face>,
    disk: Disk,
    state: Option<State>,
    /// All that this site has written, for the next process.
    ours: BTreeMap<Key, Body>,
    /// What this site reaches, for the next process, too.
    reach: BTreeMap<SiteId, bool>,
    sites: BTreeMap<SiteId, Site>,
    /// Numbers of connections and calls.
    drawn: u64,
    inner: (mpsc::Sender<Inner>, mpsc::Receiver<Inner>),
    counters: Counters,
    events: Vec<Event>,
    reading: bool,
    not_reloaded: Option<String>,
    looked: Instant,
    /// When the driver last ran.
    awake: Instant,
    calls: JoinSet<()>,
}

impl Relay {
    /// A relay that does nothing yet.
    ///
    /// # Errors
    /// [`RelayError`] without certificates that peers would accept.
    pub fn new(mut config: RelayConfig) -> Result<Self, RelayError> {
        let credentials = Arc::new(Credentials::read(&config.credentials, &config.clock)?);
        let _own = config.peers.remove(&credentials.identity.site);
        let (face, _) = watch::channel(Face { credentials, generation: 0, process: None, leads: false });
        let sites = config.peers.iter().map(|(site, peer)| (*site, Site::new(peer.clone()))).collect();
        Ok(Self {
            disk: Disk { path: config.incarnation.clone() },
            looked: config.clock.now(),
            awake: config.clock.now(),
            config,
            face,
            state: None,
            ours: BTreeMap::new(),
            reach: BTreeMap::new(),
            sites,
            drawn: 0,
            inner: mpsc::channel(INNER),
            counters: Counters::default(),
            events: Vec::new(),
            reading: false,
            not_reloaded: None,
            calls: JoinSet::new(),
        })
    }

    /// Who this relay is, by its certificate.
    pub fn site(&self) -> SiteId {
        self.face.borrow().credentials.identity.site
    }

    /// Serves until it is told to stop, or until nobody can tell it anything any more. `say` must not block.
    ///
    /// # Errors
    /// [`RelayError::Disk`] when the incarnation cannot be kept: nothing is exported then, and whoever started the relay must say so.
    pub async fn run(
        mut self,
        listener: TcpListener,
        mut commands: mpsc::Receiver<Command>,
        mut say: impl FnMut(Event),
    ) -> Result<(), RelayError> {
        let mut reload = interval(self.config.reload.max(Duration::from_millis(1)));
        reload.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.begin().await?;
        if self.config.leads {
            self.lead(true);
        }
        // Who calls earlier waits in the queue of the listener, and is not told that we stand by.
        let mut tasks = JoinSet::new();
        tasks.spawn(connect::listen(listener, self.face.subscribe(), self.inner.0.clone()));
        loop {
            self.wake();
            let now = self.now();
            if let Some(state) = self.state.as_mut().filter(|s| s.poll_timeout().is_some_and(|at| at <= now)) {
                state.handle_expire(now);
            }
            if now.since(self.looked) >= LOOK {
                self.look(now);
            }
            self.seek(now);
            self.carry_out().await?;
            self.events.drain(..).for_each(&mut say);
            let due = self.state.as_ref().and_then(State::poll_timeout).into_iter().chain(self.next_seek()).min();
            // Sessions are looked after by the clock of the machine.
            let wait = due.map_or(LOOK, |at| at.since(self.now()).min(LOOK));
            tokio::select! {
                Some(inner) = self.inner.1.recv() => self.hear(inner),
                command = commands.recv() => match command {
                    Some(Command::Stop) | None => break,
                    Some(command) => self.told(command).await?,
                },
                _ = reload.tick() => self.read_files(),
                Some(_called) = self.calls.join_next(), if !self.calls.is_empty() => {}
                () = sleep(self.config.clock.sleep(wait)) => {}
            }
        }
        self.leave();
        self.lead(false);
        self.events.drain(..).for_each(&mut say);
        Ok(())
    }

    fn now(&self) -> Instant {
        self.config.clock.now()
    }

    /// It runs; perhaps after this process stood still.
    fn wake(&mut self) {
        let now = self.now();
        if let Some(gap) = stood_still(std::mem::replace(&mut self.awake, now), now) {
            self.stood(gap, now);
        }
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    async fn told(&mut self, command: Command) -> Result<(), RelayError> {
        let now = self.now();
        match command {
            Command::Local(key, body) => {
                match body {
                    Some(body) => drop(self.ours.insert(key, body)),
                    None => drop(self.ours.remove(&key)),
                }
                if let Some(state) = &mut self.state {
                    state.handle_local(key, body, now);
                }
            }
            Command::Credit { to, service, amount, lend } => {
                // Nobody else has use for it.
                let leads = self.sites.get(&to).and_then(|site| site.link.as_ref()).is_some_and(link::Link::leads);
                if leads && let Some(state) = &mut self.state {
                    state.handle_credit(to, service, amount, lend);
                }
            }
            Command::Reach(reach) => {
                if let Some(state) = &mut self.state {
                    state.handle_reach(reach.clone(), now);
                }
                self.reach = reach;
            }
            Command::Peers(mut peers) => {
                let _own = peers.remove(&self.site());
                let rights = peers.iter().map(|(site, peer)| (*site, peer.rights.clone())).collect();
                if let Some(state) = &mut self.state {
                    state.handle_config(rights, now);
                }
                // Sessions that must end do so while their sites are still there.
                self.carry_out().await?;
                self.sites.retain(|site, _| peers.contains_key(site));
                for (site, peer) in &peers {
                    let held = self.sites.entry(*site).or_insert_with(|| Site::new(peer.clone()));
                    held.peer = peer.clone();
                }
                self.config.peers = peers;
            }
            Command::Lead(leads) => self.lead(leads),
            Command::Anew => {
                self.leave();
                self.begin().await?;
            }
            Command::Status(answer) => {
                // Who asked and went away needs no answer.
                let _gone = answer.send(self.status());
            }
            Command::Ages(answer) => {
                let (state, now) = (self.state.as_ref(), self.now());
                let oldest = |site: &SiteId| state.and_then(|s| s.records(*site, now).map(|(.., age)| age).max());
                let ages = self.sites.keys().filter_map(|site| Some((*site, oldest(site)?))).collect();
                let _gone = answer.send(ages);
            }
            Command::Stop => {}
        }
        Ok(())
    }

    /// Begins to lead the site, or ends that.
    fn lead(&mut self, leads: bool) {
        if leads == self.face.borrow().leads {
            return;
        }
        let now = self.now();
        self.face.send_modify(|face| face.leads = leads);
        if let Some(state) = self.state.as_mut().filter(|_| leads) {
            state.handle_lead(now);
        }
        self.state_rank(leads, now);
        self.events.push(Event::Leads(leads));
    }

    /// Takes leave of all sites.
    fn leave(&mut self) {
        for site in self.sites.keys().copied().collect::<Vec<_>>() {
            self.end(site, Ended::Ours);
        }
        // What a call was made for is over with its process.
        self.sites.values_mut().for_each(|site| site.calling = None);
        self.state = None;
    }

    /// Begins to write, as a new process.
    async fn begin(&mut self) -> Result<(), RelayError> {
        let mut random = [[0; 8]; 2];
        for number in &mut random {
            let source = rustls::crypto::ring::default_provider().secure_random;
            source.fill(number).map_err(|_| RelayError::Random)?;
        }
        let [instance, seed] = random.map(u64::from_be_bytes);
        let disk = self.disk.clone();
        let last = blocking(move || disk.read()).await?;
        let peers = self.config.peers.iter().map(|(site, peer)| (*site, peer.rights.clone())).collect();
        let incarnation = last.saturating_add(1);
        let (speaks, build) = (Speaks::OURS, self.config.build.clone());
        let config = Config { here: self.site(), instance, incarnation, seed, speaks, build, peers };
        let now = self.now();
        let mut state = State::new(config, now);
        self.ours.iter().for_each(|(key, body)| state.handle_local(*key, Some(*body), now));
        state.handle_reach(self.reach.clone(), now);
        self.state = Some(state);
        self.face.send_modify(|face| face.process = Some(instance));
        Ok(())
    }

    /// Everything that the machine owes, in its order.
    async fn carry_out(&mut self) -> Result<(), RelayError> {
        while let Some(action) = self.state.as_mut().and_then(State::poll_action) {
            match action {
                Action::Dial(site) => self.call(site, Why::Session),
                Action::Send(site, bytes) => self.send(site, bytes),
                Action::Close(site, reason) => self.end(site, Ended::Machine(reason)),
                Action::Persist(incarnation) => {
                    let disk = self.disk.clone();
                    blocking(move || disk.write(incarnation)).await?;
                    self.events.push(Event::Incarnation(incarnation));
                }
                Action::Record { origin, key, body, age } => {
                    self.events.push(Event::Record { origin, key, body, age });
                }
                Action::Ask { from, service, amount } => self.events.push(Event::Ask { from, service, amount }),
                Action::Lend { from, service, amount } => self.events.push(Event::Lend { from, service, amount }),
                Action::Reach { from, reach } => self.events.push(Event::Reach { from, reach }),
                Action::Report(report) => self.events.extend(match report {
                    Report::Session { site, up } => Some(Event::Heard { site, up }),
                    Report::ForeignVip { site, vip } => Some(Event::ForeignVip { site, vip }),
                    Report::DuplicateSite { instance } => Some(Event::DuplicateSite { instance }),
                    Report::TooMany { site } => Some(Event::TooMany { site }),
                    Report::Versions { site, theirs, ours } => Some(Event::Versions { site, theirs, ours }),
                    // Said once it is on the disk.
                    Report::Incarnation(_) => None,
                }),
            }
        }
        Ok(())
    }

    fn hear(&mut self, inner: Inner) {
        // Before anything is read that waited.
        self.wake();
        match inner {
            Inner::Accepted { crowded } => {
                self.counters.accepted += 1;
                self.counters.crowded += u64::from(crowded);
            }
            Inner::Unfinished => self.counters.unfinished += 1,
            Inner::SentAway { from, site, refusal } => self.sent_away(from, site, refusal),
            Inner::Fresh(fresh) => self.fresh(*fresh),
            Inner::Called { site, call, outcome } => self.called(site, call, outcome),
            Inner::Said(link, said) => self.said(link, said),
            Inner::Files(read) => self.reloaded(read),
        }
    }

    fn sent_away(&mut self, from: SocketAddr, site: Option<SiteId>, refusal: Refusal) {
        *self.counters.sent_away.entry(refusal).or_default() += 1;
        self.events.push(Event::SentAway { from, site, refusal });
    }

    fn status(&self) -> Status {
        let state = self.state.as_ref();
        let site = |(id, site): (&SiteId, &Site)| {
            let mut status = site.status();
            if let Some(state) = state {
                status.cursor = state.cursor(*id);
                status.held = state.held(*id);
                status.refused = state.refused(*id);
                let (version, build) = state.speaks(*id);
                (status.version, status.build) = (version, build.map(str::to_owned));
            }
            (*id, status)
        };
        Status {
            leads: self.face.borrow().leads,
            incarnation: state.map_or(0, |s| s.own().incarnation),
            duplicate: state.is_some_and(State::duplicate),
            expires: self.face.borrow().credentials.expires.as_secs(),
            sites: self.sites.iter().map(site).collect(),
            counters: self.counters.clone(),
        }
    }
}

/// Runs what waits for the disk where waiting hurts nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    spawn_blocking(work).await.expect("reading and writing a file does not panic, and the runtime ends after its tasks")
}
