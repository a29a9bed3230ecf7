//! The side of every other node.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bascule_core::site::demand::Count;
use bascule_core::site::lead::HOLD;
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::{TlsConnector, TlsStream};

use super::wire::{WORDS, Word, decode, encode_counts};
use crate::clock::Clock;
use crate::state::frame::{self, Frame, FrameError};
use crate::state::{Dial, manners, whose};
use crate::tls::{Credentials, Refusal};

/// A connection and its handshake take no longer.
const CONNECT: Duration = Duration::from_secs(3);
/// From one call to the next: within a site nobody is far away, and a beat is a second.
const AGAIN: Duration = Duration::from_secs(1);
/// The same for [`HOLD`] after a connection ended: a relay that lives is heard again before anybody has made much of it.
const SOON: Duration = Duration::from_millis(200);
/// Bytes that a relay does not take for so long: it is gone.
const STUCK: Duration = Duration::from_secs(3);

/// A node that listens to one relay of its site.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The relay's name: its certificate must have it.
    pub relay: String,
    /// Where it serves.
    pub address: SocketAddr,
    /// Directory of this node's certificate, read for each call.
    pub credentials: PathBuf,
    /// Clocks.
    pub clock: Arc<dyn Clock>,
    /// How connections are made.
    pub dial: Dial,
}

/// What comes of listening.
#[derive(Clone, PartialEq, Debug)]
pub enum Heard {
    /// The relay said something.
    Words(Vec<Word>),
    /// It said so many things that only later versions know. They are left out.
    Unknown(u64),
    /// It is not who it should be, or does not take this node for one of its site.
    Refused(Refusal),
    /// This node's own files are not good: why.
    Unready(String),
    /// The connection is over, or there was none.
    Lost,
    /// Nobody serves at its address: the other end refused the connection.
    Gone,
}

/// Why a relay is not heard.
enum Unheard {
    Refused(Refusal),
    /// Its end of the connection ended it, or the network did.
    Closed,
    Lost,
    Gone,
}

impl From<io::Error> for Unheard {
    fn from(error: io::Error) -> Self {
        Refusal::of_io(&error).map_or(Self::Lost, Self::Refused)
    }
}

/// Listens for ever, and says `counts` while there is a connection; what comes while there is none is dropped. `say` must not block for long:
/// nothing is read meanwhile.
///
/// A relay whose connection ended is called again at once. If it lives it takes the call; if its process is gone, its host refuses it
/// ([`Heard::Gone`]). A host that is gone with it, or a network that lets nothing pass, does neither: that is silence.
pub async fn listen(listener: Listener, mut counts: mpsc::Receiver<Vec<Count>>, mut say: impl AsyncFnMut(Heard)) {
    let mut closed_at: Option<Instant> = None;
    loop {
        let begun = Instant::now();
        let unheard = match Credentials::read(&listener.credentials, &listener.clock) {
            Err(error) => {
                say(Heard::Unready(error.to_string())).await;
                sleep(AGAIN).await;
                continue;
            }
            Ok(credentials) => match timeout(CONNECT, call(&listener, &credentials)).await {
                Ok(Ok(stream)) => {
                    while counts.try_recv().is_ok() {}
                    let (from, to) = split(stream);
                    tokio::select! {
                        unheard = hear(from, &listener, &mut say) => unheard,
                        unheard = speak(to, &mut counts) => unheard,
                    }
                }
                Ok(Err(unheard)) => unheard,
                Err(_late) => Unheard::Lost,
            },
        };
        let closed = matches!(unheard, Unheard::Closed);
        say(match unheard {
            Unheard::Refused(refusal) => Heard::Refused(refusal),
            Unheard::Closed | Unheard::Lost => Heard::Lost,
            Unheard::Gone => Heard::Gone,
        })
        .await;
        if closed {
            closed_at = Some(Instant::now());
        }
        // A relay that lets this node go again and again is not called in a circle.
        if !closed || begun.elapsed() < AGAIN {
            sleep(if closed_at.is_some_and(|at| at.elapsed() < HOLD) { SOON } else { AGAIN }).await;
        }
    }
}

async fn call(listener: &Listener, credentials: &Credentials) -> Result<TlsStream<TcpStream>, Unheard> {
    let stream = listener.dial.0(listener.address).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Unheard::Gone,
        _ => Unheard::Lost,
    })?;
    manners(&stream)?;
    let name = credentials.server_name(credentials.identity.site);
    let connector = TlsConnector::from(credentials.client());
    let stream = TlsStream::Client(connector.connect(name, stream).await?);
    let unix = listener.clock.unix();
    let (peer, chain) = whose(&stream, credentials).map_err(Unheard::Refused)?;
    if credentials.believes(&chain, unix).is_ok() {
        listener.clock.believed(unix);
    }
    if peer.site == credentials.identity.site && peer.relay == listener.relay {
        Ok(stream)
    } else {
        Err(Unheard::Refused(Refusal::WrongName))
    }
}

/// Reads until the relay is silent for as long as its word counts.
async fn hear(
    mut stream: ReadHalf<TlsStream<TcpStream>>,
    listener: &Listener,
    say: &mut impl AsyncFnMut(Heard),
) -> Unheard {
    loop {
        match timeout(listener.clock.sleep(HOLD), frame::read(&mut stream)).await {
            Err(_silent) => return Unheard::Lost,
            Ok(Err(FrameError::Broken(error))) => {
                return Refusal::of_io(&error).map_or(Unheard::Closed, Unheard::Refused);
            }
            Ok(Err(FrameError::Malformed { .. } | FrameError::Version { .. })) => {
                return Unheard::Refused(Refusal::Protocol);
            }
            Ok(Ok((Frame::Message(payload), _))) => match decode(&payload) {
                Some((words, unknown)) => {
                    if unknown > 0 {
                        say(Heard::Unknown(unknown)).await;
                    }
                    say(Heard::Words(words)).await;
                }
                None => return Unheard::Refused(Refusal::Protocol),
            },
            Ok(Ok((Frame::Unknown, _))) => say(Heard::Unknown(1)).await,
            Ok(Ok(_)) => return Unheard::Refused(Refusal::Protocol),
        }
    }
}

/// Says what there is to say until the relay does not take it.
async fn speak(mut stream: WriteHalf<TlsStream<TcpStream>>, counts: &mut mpsc::Receiver<Vec<Count>>) -> Unheard {
    while let Some(said) = counts.recv().await {
        for part in said.chunks(WORDS) {
            let frame = Frame::Message(encode_counts(part)).encode();
            let whole = async {
                stream.write_all(&frame).await?;
                stream.flush().await
            };
            match timeout(STUCK, whole).await {
                Ok(Ok(())) => {}
                // The reader may come to the same a moment later.
                Ok(Err(_broken)) => return Unheard::Closed,
                Err(_stuck) => return Unheard::Lost,
            }
        }
    }
    // Nobody has anything to say any more.
    std::future::pending().await
}
