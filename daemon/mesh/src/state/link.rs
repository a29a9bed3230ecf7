//! One connection after the handshake: its two tasks, its bounded queues, its manners.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bascule_core::site::partner::Pulse;
use bascule_core::time::Instant;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::TlsStream;

use super::frame::{self, Frame, FrameError, Rank};
use super::{Inner, Said};
use crate::pki::Identity;

/// Frames of one connection that wait for the machine; then its reader stops reading, and TCP its sender.
const UNREAD: usize = 4;
/// Frames that wait to be sent, and their bytes. A connection that has more ends ([`super::Ended::Slow`]): nothing is left out of a session, and
/// the next one resumes where this one was read to. The bytes hold the snapshot of a full site (6,280 records) twice.
const UNSENT: (usize, usize) = (256, 1024 * 1024);
/// A connection that is ended in order has so long to send what waits.
const FAREWELL: Duration = Duration::from_secs(10);
/// Largest TLS record (RFC 8446 section 5.1).
const RECORD: usize = 16 * 1024;
/// Pings and pongs that a peer may send at once, and then in a second.
const PINGS: (f64, f64) = (20.0, 2.0);

/// A connection whose ends have greeted each other.
pub(super) struct Fresh {
    pub(super) from: SocketAddr,
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) peer: Identity,
    pub(super) process: u64,
    /// The process of ours that greeted.
    pub(super) ours: u64,
    pub(super) renews: bool,
    /// What the other end is in its site.
    pub(super) rank: Option<Rank>,
    /// What it was told of us: that we lead.
    pub(super) stated: bool,
    pub(super) dialled: bool,
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// Which of our credentials it was made with.
    pub(super) generation: u64,
}

/// It, with its tasks.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: u64,
    pub(super) from: SocketAddr,
    pub(super) peer: Identity,
    pub(super) process: u64,
    /// The other end leads, as it says; `None`: it is of an earlier version, says nothing, and leads.
    pub(super) rank: Option<bool>,
    /// What it was told of us: that we lead.
    pub(super) stated: bool,
    pub(super) dialled: bool,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) generation: u64,
    pub(super) since: Instant,
    pub(super) pulse: Pulse,
    pings: (f64, Instant),
    out: Option<(mpsc::Sender<Vec<u8>>, oneshot::Sender<()>)>,
    unsent: Arc<AtomicUsize>,
    go: Option<oneshot::Sender<()>>,
    reader: JoinHandle<()>,
}

/// It takes our bytes too slowly.
#[derive(Debug)]
pub(super) struct Slow;

impl Link {
    /// Starts to write. Nothing is read before [`Self::listen`].
    pub(super) fn new(id: u64, fresh: Fresh, inner: mpsc::Sender<Inner>, now: Instant) -> Self {
        let (read, write) = tokio::io::split(fresh.stream);
        let (out, queue) = mpsc::channel(UNSENT.0);
        let unsent = Arc::new(AtomicUsize::new(0));
        let ((go, gone), (living, lives)) = (oneshot::channel(), oneshot::channel());
        let reader = tokio::spawn(reader(id, read, gone, inner));
        // Ends by itself: when the queue is closed and empty, when the stream breaks, or when it has had its time to say farewell.
        let _writer = tokio::spawn(writer(write, queue, Arc::clone(&unsent), lives));
        let Fresh { from, peer, process, rank, stated, dialled, chain, generation, .. } = fresh;
        Self {
            id,
            from,
            peer,
            process,
            rank: rank.map(|rank| rank.leads),
            stated,
            dialled,
            chain,
            generation,
            since: now,
            pulse: Pulse::new(now),
            pings: (PINGS.0, now),
            out: Some((out, living)),
            unsent,
            go: Some(go),
            reader,
        }
    }

    /// The other end leads its site.
    pub(super) fn leads(&self) -> bool {
        self.rank != Some(false)
    }

    /// Tells the other end what we are, unless it knows, or would not understand it.
    pub(super) fn state(&mut self, leads: bool) -> Result<usize, Slow> {
        if self.rank.is_none() || self.stated == leads {
            return Ok(0);
        }
        self.stated = leads;
        self.send(&Frame::Leads(leads))
    }

    /// Reads from now on.
    pub(super) fn listen(&mut self, now: Instant) {
        self.pulse.handle_frame(now);
        if let Some(go) = self.go.take() {
            // A reader that has ended says so by its own event.
            let _ended = go.send(());
        }
    }

    /// Queues a frame. Gives its bytes.
    pub(super) fn send(&self, frame: &Frame) -> Result<usize, Slow> {
        let Some((out, _)) = &self.out else { return Ok(0) };
        let bytes = frame.encode();
        let len = bytes.len();
        if self.unsent.load(Ordering::Relaxed) + len > UNSENT.1 {
            return Err(Slow);
        }
        self.unsent.fetch_add(len, Ordering::Relaxed);
        match out.try_send(bytes) {
            Ok(()) => Ok(len),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Slow),
            // The stream broke: its reader says so.
            Err(mpsc::error::TrySendError::Closed(_)) => Ok(0),
        }
    }

    /// Frames that wait to be sent, and their bytes.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let frames = self.out.as_ref().map_or(0, |(out, _)| UNSENT.0 - out.capacity());
        (frames, self.unsent.load(Ordering::Relaxed))
    }

    /// Counts a ping or pong; false when it is one too many.
    pub(super) fn admit_ping(&mut self, now: Instant) -> bool {
        let (tokens, at) = self.pings;
        let tokens = (tokens + now.since(at).as_secs_f64() * PINGS.1).min(PINGS.0) - 1.0;
        self.pings = (tokens, now);
        tokens >= 0.0
    }

    /// Sends nothing more after what waits; still reads.
    pub(super) fn hush(&mut self) {
        self.out = None;
    }

    /// Ends it: what waits has a moment to leave, nothing more is read.
    pub(super) fn end(mut self, last: Option<&Frame>) {
        if let Some(frame) = last {
            // A connection that is ended for its slowness gets no word.
            let _slow = self.send(frame);
        }
        self.hush();
        self.reader.abort();
    }
}

async fn reader(
    id: u64,
    mut stream: ReadHalf<TlsStream<TcpStream>>,
    go: oneshot::Receiver<()>,
    inner: mpsc::Sender<Inner>,
) {
    if go.await.is_err() {
        return;
    }
    let room = Arc::new(Semaphore::new(UNREAD));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let read = frame::read(&mut stream).await;
        // Nothing follows these two: what comes of the stream afterwards is how it ends.
        let over = matches!(read, Err(_) | Ok((Frame::Moved | Frame::Goodbye(_), _)));
        let said = match read {
            Ok((frame, len)) => Said::Frame(frame, len, permit),
            Err(FrameError::Broken(error)) => Said::Broken(crate::tls::Refusal::of_io(&error)),
            Err(FrameError::Malformed { .. } | FrameError::Version { .. }) => Said::Malformed,
        };
        if inner.send(Inner::Said(id, said)).await.is_err() || over {
            return;
        }
    }
}

async fn writer(
    mut stream: WriteHalf<TlsStream<TcpStream>>,
    mut queue: mpsc::Receiver<Vec<u8>>,
    unsent: Arc<AtomicUsize>,
    lives: oneshot::Receiver<()>,
) {
    let write = async {
        while let Some(mut bytes) = queue.recv().await {
            // What waits beside it shares a TLS record and a segment.
            while bytes.len() < RECORD
                && let Ok(more) = queue.try_recv()
            {
                bytes.extend(more);
            }
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            unsent.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
        stream.shutdown().await
    };
    let farewell = async {
        // Nobody sends: it only ends, with the link.
        let _over = lives.await;
        tokio::time::sleep(FAREWELL).await;
    };
    // An error is the reader's to report: it sees the same broken stream.
    tokio::select! {
        _done = write => {}
        () = farewell => {}
    }
}
