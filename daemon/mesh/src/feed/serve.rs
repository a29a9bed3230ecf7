//! The relay's side.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bascule_core::site::SiteId;
use bascule_core::site::demand::Count;
use bascule_core::site::join::io::Fact;
use bascule_core::site::lead::{BEAT, Beat};
use bascule_core::site::summary::{ServiceId, Summary};
use bascule_core::time::Instant;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::Status;
use super::wire::{WORDS, Word, decode_counts, encode};
use crate::clock::Clock;
use crate::pki::Identity;
use crate::state::frame::{self, Frame, FrameError};
use crate::state::{manners, whose};
use crate::tls::{Credentials, Refusal, TlsError};

/// A handshake takes no longer.
const GREET: Duration = Duration::from_secs(5);
/// Handshakes at a time; more are closed at once.
const GREETING: usize = 64;
/// Frames that a listener may be behind: all that 16 sites can say of 2,000 services, twice.
const BEHIND: usize = 512;
/// After an error of the listener nothing is accepted for so long.
const PAUSE: Duration = Duration::from_millis(200);
/// Bytes that a listener does not take for so long: it is gone.
const STUCK: Duration = Duration::from_secs(3);
/// What the last word may take to leave, to all listeners.
const FAREWELL: Duration = Duration::from_millis(500);
/// Frames that a node may say in a second: all services of a site (5,000) twice, in frames of 256 counts, and as many again.
const SAID: u32 = 80;

/// What the server is told.
#[derive(Debug)]
pub enum Order {
    /// What the relay is; one that does not lead and does not say what it hears knows no facts.
    Lead(Beat),
    /// Tell everybody, and whoever comes later.
    Publish(Fact),
    /// How is it?
    Status(oneshot::Sender<Status>),
    /// Say that the relay stops, and end.
    Stop,
}

/// A node that listens.
struct Node {
    /// Of this connection.
    number: u64,
    name: String,
    chain: Vec<CertificateDer<'static>>,
    frames: mpsc::Sender<Arc<[u8]>>,
}

enum Inner {
    Here(Node),
    SentAway(Refusal),
    /// A node counts so much.
    Said(String, Vec<Count>),
    /// What came on this connection is nothing that a node may say.
    Wrong(u64, Refusal),
}

/// The feed of one relay.
pub struct Server {
    directory: PathBuf,
    clock: Arc<dyn Clock>,
    reload: Duration,
    credentials: Arc<Credentials>,
    says: Beat,
    sessions: BTreeMap<SiteId, bool>,
    said: BTreeMap<(SiteId, ServiceId), (Summary, Duration, Instant)>,
    nodes: Vec<Node>,
    status: Status,
}

impl Server {
    /// A feed with the certificates of a directory, which is read again every `reload`.
    ///
    /// # Errors
    /// [`TlsError`] without certificates that peers would accept.
    pub fn new(directory: PathBuf, reload: Duration, clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        let credentials = Arc::new(Credentials::read(&directory, &clock)?);
        Ok(Self {
            directory,
            clock,
            reload,
            credentials,
            says: Beat { waits: true, tells: true, ..Beat::default() },
            sessions: BTreeMap::new(),
            said: BTreeMap::new(),
            nodes: Vec::new(),
            status: Status::default(),
        })
    }

    /// Serves until it is told to stop, or until nobody can tell it anything any more. `said` is told what nodes count, with the names in their certificates; it must not
    /// block.
    pub async fn run(
        mut self,
        listener: TcpListener,
        mut orders: mpsc::Receiver<Order>,
        mut said: impl FnMut(String, Vec<Count>) + Send,
    ) {
        let mut connections = 0;
        let (inner, mut greeted) = mpsc::channel(GREETING);
        let room = Arc::new(Semaphore::new(GREETING));
        let mut beat = interval(self.clock.sleep(BEAT));
        let mut reload = interval(self.reload.max(Duration::from_millis(1)));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        reload.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Stop) => break,
                    Some(order) => self.told(order),
                    None => return,
                },
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
                        let (credentials, inner) = (Arc::clone(&self.credentials), inner.clone());
                        connections += 1;
                        let (number, second) = (connections, self.clock.sleep(Duration::from_secs(1)));
                        let _attended = tokio::spawn(async move {
                            let outcome = timeout(GREET, greet(stream, number, &credentials)).await;
                            drop(permit);
                            match outcome {
                                Ok(Ok(greeted)) => attend(greeted, second, &inner).await,
                                // A server that has ended needs no listeners.
                                Ok(Err(Some(refusal))) => drop(inner.send(Inner::SentAway(refusal)).await),
                                Ok(Err(None)) | Err(_) => {}
                            }
                        });
                    }
                    Err(_) => sleep(PAUSE).await,
                },
                Some(inner) = greeted.recv() => match inner {
                    Inner::Said(name, counts) => {
                        self.status.said += 1;
                        said(name, counts);
                    }
                    other => self.hear(other),
                },
                _ = beat.tick() => self.say(&[Word::Beat(self.says)]),
                _ = reload.tick() => self.look(),
            }
        }
        // Who calls again must find nobody: that is what tells it that this relay is gone, should the last word be lost.
        drop(listener);
        self.say(&[Word::Beat(Beat { stops: true, ..Beat::default() })]);
        self.nodes.clear();
        drop(inner);
        let gone = async { while greeted.recv().await.is_some() {} };
        let _late = timeout(FAREWELL, gone).await;
    }

    fn told(&mut self, order: Order) {
        match order {
            Order::Lead(says) => {
                self.says = says;
                if !says.leads && !says.tells {
                    self.sessions.clear();
                    self.said.clear();
                }
                self.say(&[Word::Beat(says)]);
            }
            Order::Publish(fact) => {
                self.keep(fact);
                self.say(&[Word::Fact(fact)]);
            }
            Order::Status(answer) => {
                let listeners = self.nodes.iter().filter(|n| !n.frames.is_closed()).map(|n| n.name.clone()).collect();
                // Who asked and went away needs no answer.
                let _gone = answer.send(Status { listeners, ..self.status.clone() });
            }
            Order::Stop => {}
        }
    }

    fn keep(&mut self, fact: Fact) {
        let now = self.clock.now();
        match fact {
            Fact::Session { site, up } => drop(self.sessions.insert(site, up)),
            Fact::Summary { site, service, summary, age } => {
                let _before = self.said.insert((site, service), (summary.unwrap_or_default(), age, now));
            }
            Fact::Confirmed { site, age } => {
                for (_, (_, said, at)) in self.said.iter_mut().filter(|((s, _), _)| *s == site) {
                    if *said + now.since(*at) > age {
                        (*said, *at) = (age, now);
                    }
                }
            }
            // Worth seconds, or said again every second or with each beat of a site: who comes later hears the next.
            Fact::Ask { .. }
            | Fact::Loan { .. }
            | Fact::Order { .. }
            | Fact::Drained { .. }
            | Fact::Demand { .. }
            | Fact::Reach { .. } => {}
        }
    }

    fn hear(&mut self, inner: Inner) {
        match inner {
            Inner::SentAway(refusal) => *self.status.sent_away.entry(refusal).or_default() += 1,
            Inner::Wrong(number, refusal) => {
                *self.status.sent_away.entry(refusal).or_default() += 1;
                self.nodes.retain(|node| node.number != number);
            }
            Inner::Said(..) => {}
            Inner::Here(node) => {
                let now = self.clock.now();
                let beat = Word::Beat(self.says);
                let sessions = self.sessions.iter().map(|(site, up)| Fact::Session { site: *site, up: *up });
                let said = self.said.iter().map(|((site, service), (summary, age, at))| Fact::Summary {
                    site: *site,
                    service: *service,
                    summary: Some(*summary),
                    age: *age + now.since(*at),
                });
                let all: Vec<Word> = [beat].into_iter().chain(sessions.chain(said).map(Word::Fact)).collect();
                // A queue that is as long as all there is takes all there is.
                if all.chunks(WORDS).all(|words| node.frames.try_send(frame(words)).is_ok()) {
                    self.nodes.push(node);
                } else {
                    self.status.slow += 1;
                }
            }
        }
    }

    fn say(&mut self, words: &[Word]) {
        let frame = frame(words);
        let slow = &mut self.status.slow;
        self.nodes.retain(|node| match node.frames.try_send(Arc::clone(&frame)) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                *slow += 1;
                false
            }
        });
    }

    /// Files that changed to something good are in force from here on; who is not believed any more is let go.
    fn look(&mut self) {
        if let Ok(read) = Credentials::read(&self.directory, &self.clock) {
            self.credentials = Arc::new(read);
        }
        let (credentials, unix, status) = (&self.credentials, self.clock.unix(), &mut self.status);
        self.nodes.retain(|node| match credentials.believes(&node.chain, unix) {
            Ok(_) => true,
            Err(refusal) => {
                *status.sent_away.entry(refusal).or_default() += 1;
                false
            }
        });
    }
}

fn frame(words: &[Word]) -> Arc<[u8]> {
    Frame::Message(encode(words)).encode().into()
}

type Greeted = (Node, TlsStream<TcpStream>, mpsc::Receiver<Arc<[u8]>>);

async fn greet(stream: TcpStream, number: u64, credentials: &Credentials) -> Result<Greeted, Option<Refusal>> {
    manners(&stream).map_err(|_| None)?;
    let acceptor = TlsAcceptor::from(credentials.server());
    let accepted = acceptor.accept(stream).await.map_err(|error| Refusal::of_io(&error))?;
    let stream = TlsStream::Server(accepted);
    let (Identity { site, relay, .. }, chain) = whose(&stream, credentials).map_err(Some)?;
    if site != credentials.identity.site {
        return Err(Some(Refusal::WrongName));
    }
    let (frames, queue) = mpsc::channel(BEHIND);
    Ok((Node { number, name: relay, chain, frames }, stream, queue))
}

/// Writes to a node and reads what it says, until one of the two is over. A server that has ended needs neither.
async fn attend((node, stream, frames): Greeted, second: Duration, inner: &mpsc::Sender<Inner>) {
    let (number, name) = (node.number, node.name.clone());
    let (from, to) = split(stream);
    // Before anything that it says: who is wrong must be known to be let go.
    if inner.send(Inner::Here(node)).await.is_err() {
        return;
    }
    let mut writer = tokio::spawn(write(to, frames));
    let wrong = tokio::select! {
        wrong = read(from, &name, second, inner) => wrong,
        _ended = &mut writer => return,
    };
    match wrong {
        Some(refusal) => drop(inner.send(Inner::Wrong(number, refusal)).await),
        // It is gone: what waits for it waits for nobody.
        None => writer.abort(),
    }
}

/// Reads what a node says until it is gone, or says what it may not.
async fn read(
    mut stream: ReadHalf<TlsStream<TcpStream>>,
    name: &str,
    second: Duration,
    inner: &mpsc::Sender<Inner>,
) -> Option<Refusal> {
    let (mut since, mut frames) = (tokio::time::Instant::now(), 0);
    loop {
        let payload = match frame::read(&mut stream).await {
            Ok((Frame::Message(payload), _)) => payload,
            Err(FrameError::Broken(error)) => return Refusal::of_io(&error),
            Err(FrameError::Version { .. }) => return Some(Refusal::Version),
            Ok(_) | Err(FrameError::Malformed { .. }) => return Some(Refusal::Protocol),
        };
        if since.elapsed() >= second {
            (since, frames) = (tokio::time::Instant::now(), 0);
        }
        frames += 1;
        if frames > SAID {
            return Some(Refusal::Flood);
        }
        let Some(counts) = decode_counts(&payload) else { return Some(Refusal::Protocol) };
        if inner.send(Inner::Said(name.to_owned(), counts)).await.is_err() {
            return None;
        }
    }
}

/// Writes until the queue ends or the listener does not take it.
async fn write(mut stream: WriteHalf<TlsStream<TcpStream>>, mut frames: mpsc::Receiver<Arc<[u8]>>) {
    while let Some(frame) = frames.recv().await {
        let whole = async {
            stream.write_all(&frame).await?;
            stream.flush().await
        };
        match timeout(STUCK, whole).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
    // It is over for both: how it ends is nothing to either.
    let _closed: Result<io::Result<()>, _> = timeout(STUCK, stream.shutdown()).await;
}
