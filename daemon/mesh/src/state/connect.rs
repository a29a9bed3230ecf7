//! From a TCP connection to two ends that have greeted each other, called or calling.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bascule_core::site::SiteId;
use bascule_core::site::partner::{Why, stands_by};
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::Inner;
use super::frame::{self, Frame, FrameError, Goodbye, Rank};
use super::io::{Dial, Failed};
use super::link::Fresh;
use crate::pki::Identity;
use crate::tls::{Credentials, Refusal};

/// A connection is there within this time, or the next relay is called.
const CONNECT: Duration = Duration::from_secs(3);
/// Handshake and greeting take no longer: two round trips and a signature at each end.
const GREET: Duration = Duration::from_secs(5);
/// Connections that may be greeting at a time. More are closed at once: strangers can keep our attention from other strangers, but not from
/// the sites that we call ourselves.
const GREETING: usize = 64;
/// The kernel gives a connection up when it was not acknowledged for so long (RFC 5482).
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);
/// After an error of the listener (no descriptors left, say) nothing is accepted for so long.
const PAUSE: Duration = Duration::from_millis(200);

/// What is in force now, for those who greet.
#[derive(Clone, Debug)]
pub(super) struct Face {
    pub(super) credentials: Arc<Credentials>,
    /// Counts up with every change of credentials.
    pub(super) generation: u64,
    /// `None`: it does not run yet.
    pub(super) process: Option<u64>,
    /// It leads its site.
    pub(super) leads: bool,
}

/// Accepts for ever.
pub(super) async fn listen(listener: TcpListener, face: watch::Receiver<Face>, inner: mpsc::Sender<Inner>) {
    let room = Arc::new(Semaphore::new(GREETING));
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                sleep(PAUSE).await;
                continue;
            }
        };
        let permit = Arc::clone(&room).try_acquire_owned().ok();
        if inner.send(Inner::Accepted { crowded: permit.is_none() }).await.is_err() {
            return;
        }
        let Some(permit) = permit else { continue };
        let (face, inner) = (face.borrow().clone(), inner.clone());
        let _greeting = tokio::spawn(async move {
            let outcome = match timeout(GREET, answer(stream, from, &face)).await {
                Ok(outcome) => outcome,
                Err(_late) => Err(Unanswered::Broken),
            };
            drop(permit);
            // A driver that has ended needs to know nothing.
            let _over = match outcome {
                Ok(fresh) => inner.send(Inner::Fresh(Box::new(fresh))).await,
                Err(Unanswered::Refused(site, refusal)) => inner.send(Inner::SentAway { from, site, refusal }).await,
                Err(Unanswered::Standby) => Ok(()),
                Err(Unanswered::Broken) => inner.send(Inner::Unfinished).await,
            };
        });
    }
}

enum Unanswered {
    Refused(Option<SiteId>, Refusal),
    Standby,
    Broken,
}

impl From<io::Error> for Unanswered {
    fn from(error: io::Error) -> Self {
        Refusal::of_io(&error).map_or(Self::Broken, |refusal| Self::Refused(None, refusal))
    }
}

impl From<FrameError> for Unanswered {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Broken(error) => error.into(),
            FrameError::Malformed { .. } => Self::Refused(None, Refusal::Protocol),
            FrameError::Version { .. } => Self::Refused(None, Refusal::Version),
        }
    }
}

async fn answer(stream: TcpStream, from: SocketAddr, face: &Face) -> Result<Fresh, Unanswered> {
    manners(&stream)?;
    let acceptor = TlsAcceptor::from(face.credentials.server());
    let mut stream = TlsStream::Server(acceptor.accept(stream).await?);
    let (peer, chain) = whose(&stream, &face.credentials).map_err(|refusal| Unanswered::Refused(None, refusal))?;
    if peer.site == face.credentials.identity.site {
        return Err(Unanswered::Refused(Some(peer.site), Refusal::WrongName));
    }
    let Some(process) = face.process else {
        stream.write_all(&Frame::Goodbye(Goodbye::Standby).encode()).await?;
        stream.shutdown().await?;
        return Err(Unanswered::Standby);
    };
    // Who is called greets second: it may be asked to carry on a session.
    match frame::read(&mut stream).await? {
        (Frame::Greeting { process: theirs, renews, rank }, _) => {
            // An earlier version knows one writer of a site (ADR 0043), and who seeks has a session with one that does not lead.
            if rank.map_or(!face.leads, |rank| stands_by(face.leads, rank.seeks)) {
                stream.write_all(&Frame::Goodbye(Goodbye::Standby).encode()).await?;
                stream.shutdown().await?;
                return Err(Unanswered::Standby);
            }
            let ours = Some(Rank { leads: face.leads, seeks: false });
            stream.write_all(&Frame::Greeting { process, renews, rank: ours }.encode()).await?;
            stream.flush().await?;
            let (generation, stated) = (face.generation, face.leads);
            let (ours, process) = (process, theirs);
            Ok(Fresh { from, stream, peer, process, ours, renews, rank, stated, dialled: false, chain, generation })
        }
        _ => Err(Unanswered::Refused(Some(peer.site), Refusal::Protocol)),
    }
}

/// Calls the relays of a site, one after the other, until one greets. Gives what the last one said when none does.
pub(super) async fn call(
    site: SiteId,
    relays: Vec<SocketAddr>,
    dial: Dial,
    face: Face,
    why: Why,
) -> Result<Fresh, Failed> {
    let mut failed = Failed::Unreachable;
    for address in relays {
        let stream = match timeout(CONNECT, dial.0(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(_)) | Err(_) => {
                failed = Failed::Unreachable;
                continue;
            }
        };
        match timeout(GREET, greet(stream, address, site, &face, why)).await {
            Ok(Ok(fresh)) => return Ok(fresh),
            Ok(Err(why)) => failed = why,
            Err(_late) => failed = Failed::Unreachable,
        }
    }
    Err(failed)
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Refusal::of_io(&error).map_or(Self::Unreachable, Self::Refused)
    }
}

async fn greet(stream: TcpStream, from: SocketAddr, site: SiteId, face: &Face, why: Why) -> Result<Fresh, Failed> {
    let Some(ours) = face.process else { return Err(Failed::Goodbye(Goodbye::Standby)) };
    manners(&stream)?;
    let connector = TlsConnector::from(face.credentials.client());
    let name = face.credentials.server_name(site);
    let mut stream = TlsStream::Client(connector.connect(name, stream).await?);
    let (peer, chain) = whose(&stream, &face.credentials).map_err(Failed::Refused)?;
    if peer.site != site {
        return Err(Failed::Refused(Refusal::WrongName));
    }
    let (renews, stated) = (why == Why::Renewal, face.leads);
    let rank = Some(Rank { leads: stated, seeks: why == Why::Seek });
    stream.write_all(&Frame::Greeting { process: ours, renews, rank }.encode()).await?;
    stream.flush().await?;
    let read = frame::read(&mut stream).await.map_err(|error| match error {
        FrameError::Broken(error) => error.into(),
        FrameError::Malformed { .. } => Failed::Refused(Refusal::Protocol),
        FrameError::Version { .. } => Failed::Refused(Refusal::Version),
    });
    match read?.0 {
        Frame::Greeting { rank: None, .. } if !stated => {
            stream.write_all(&Frame::Goodbye(Goodbye::Standby).encode()).await?;
            stream.shutdown().await?;
            Err(Failed::Goodbye(Goodbye::Standby))
        }
        Frame::Greeting { process, renews, rank } => {
            let generation = face.generation;
            Ok(Fresh { from, stream, peer, process, ours, renews, rank, stated, dialled: true, chain, generation })
        }
        Frame::Goodbye(why) => Err(Failed::Goodbye(why)),
        Frame::Message(_) | Frame::Ping | Frame::Pong | Frame::Moved | Frame::Leads(_) | Frame::Unknown => {
            Err(Failed::Refused(Refusal::Protocol))
        }
    }
}

/// Messages are small and urgent ones must not wait for others; a peer that vanished must be noticed by the kernel too.
pub(crate) fn manners(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

/// Who is at the other end: what its certificate says, checked once more as a whole.
pub(crate) fn whose(
    stream: &TlsStream<TcpStream>,
    credentials: &Credentials,
) -> Result<(Identity, Vec<CertificateDer<'static>>), Refusal> {
    let (_, connection) = stream.get_ref();
    let chain = connection.peer_certificates().ok_or(Refusal::NoCertificate)?;
    let chain: Vec<CertificateDer<'static>> = chain.iter().map(|c| c.clone().into_owned()).collect();
    let identity = credentials.identity_of(&chain)?;
    Ok((identity, chain))
}
