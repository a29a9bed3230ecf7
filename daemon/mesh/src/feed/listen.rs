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
use tokio::time::{sleep, timeout};
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
}

/// Listens for ever, and says `counts` while there is a connection; what comes while there is none is dropped. `say` must not block for long:
/// nothing is read meanwhile.
pub async fn listen(listener: Listener, mut counts: mpsc::Receiver<Vec<Count>>, mut say: impl AsyncFnMut(Heard)) {
    loop {
        match Credentials::read(&listener.credentials, &listener.clock) {
            Err(error) => say(Heard::Unready(error.to_string())).await,
            Ok(credentials) => match timeout(CONNECT, call(&listener, &credentials)).await {
                Ok(Ok(stream)) => {
                    while counts.try_recv().is_ok() {}
                    let (from, to) = split(stream);
                    let ended = tokio::select! {
                        ended = hear(from, &listener, &mut say) => ended,
                        () = speak(to, &mut counts) => None,
                    };
                    say(ended.map_or(Heard::Lost, Heard::Refused)).await;
                }
                Ok(Err(Some(refusal))) => say(Heard::Refused(refusal)).await,
                Ok(Err(None)) | Err(_) => say(Heard::Lost).await,
            },
        }
        sleep(AGAIN).await;
    }
}

async fn call(listener: &Listener, credentials: &Credentials) -> Result<TlsStream<TcpStream>, Option<Refusal>> {
    let refused = |error: io::Error| Refusal::of_io(&error);
    let stream = listener.dial.0(listener.address).await.map_err(refused)?;
    manners(&stream).map_err(refused)?;
    let name = credentials.server_name(credentials.identity.site);
    let connector = TlsConnector::from(credentials.client());
    let stream = TlsStream::Client(connector.connect(name, stream).await.map_err(refused)?);
    let unix = listener.clock.unix();
    let (peer, chain) = whose(&stream, credentials).map_err(Some)?;
    if credentials.believes(&chain, unix).is_ok() {
        listener.clock.believed(unix);
    }
    if peer.site == credentials.identity.site && peer.relay == listener.relay {
        Ok(stream)
    } else {
        Err(Some(Refusal::WrongName))
    }
}

/// Reads until the relay is silent for as long as its word counts.
async fn hear(
    mut stream: ReadHalf<TlsStream<TcpStream>>,
    listener: &Listener,
    say: &mut impl AsyncFnMut(Heard),
) -> Option<Refusal> {
    loop {
        match timeout(listener.clock.sleep(HOLD), frame::read(&mut stream)).await {
            Err(_silent) => return None,
            Ok(Err(FrameError::Broken(error))) => return Refusal::of_io(&error),
            Ok(Err(FrameError::Malformed { .. } | FrameError::Version { .. })) => return Some(Refusal::Protocol),
            Ok(Ok((Frame::Message(payload), _))) => match decode(&payload) {
                Some((words, unknown)) => {
                    if unknown > 0 {
                        say(Heard::Unknown(unknown)).await;
                    }
                    say(Heard::Words(words)).await;
                }
                None => return Some(Refusal::Protocol),
            },
            Ok(Ok((Frame::Unknown, _))) => say(Heard::Unknown(1)).await,
            Ok(Ok(_)) => return Some(Refusal::Protocol),
        }
    }
}

/// Says what there is to say until the relay does not take it.
async fn speak(mut stream: WriteHalf<TlsStream<TcpStream>>, counts: &mut mpsc::Receiver<Vec<Count>>) {
    while let Some(said) = counts.recv().await {
        for part in said.chunks(WORDS) {
            let frame = Frame::Message(encode_counts(part)).encode();
            let whole = async {
                stream.write_all(&frame).await?;
                stream.flush().await
            };
            match timeout(STUCK, whole).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }
    // Nobody has anything to say any more.
    std::future::pending().await
}
