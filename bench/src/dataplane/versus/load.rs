//! Load on a service, bounded in time: bulk transfer, and connections one after another. (Requests on kept connections are the
//! audit's flows with a window of one.)
//!
//! The sinks of a bulk transfer drop in the kernel what arrives: what they would copy takes memory bandwidth from the sender, on whose
//! processor the balancer runs too, and every balancer would look alike. (A sender that does not copy, by sendfile of pages in memory, is
//! seven times slower here: a page a fragment.)

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use bascule_lab::{Netns, Stamp, sleep_until};
use nix::sys::socket::{MsgFlags, recv};

/// One read or write of a bulk transfer: what a socket buffer takes at once.
const CHUNK: usize = 256 * 1024;
/// A connection that does not get on for this long has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Question and answer of a connection: one record of the audit.
const QUESTION: usize = 16;
/// Before counting begins: slow start is over, every thread runs.
pub(super) const SETTLE: Duration = Duration::from_millis(200);

/// Takes bulk transfers and counts their bytes.
pub struct Discard {
    bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    at: Ipv4Addr,
    port: u16,
    netns: Netns,
}

impl Discard {
    /// Listens on `port` of `netns`, which has the address `at`.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(netns: &Netns, at: Ipv4Addr, port: u16) -> Result<Self> {
        let listener = netns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).context("the bulk port")?;
        let (bytes, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (own_bytes, own_stop) = (Arc::clone(&bytes), Arc::clone(&stop));
        let thread = netns.spawn("discard", move || {
            while let Ok((stream, _)) = listener.accept() {
                if own_stop.load(Ordering::Relaxed) {
                    return;
                }
                let bytes = Arc::clone(&own_bytes);
                std::thread::spawn(move || discard(stream, &bytes));
            }
        });
        Ok(Self { bytes, stop, thread: Some(thread), at, port, netns: netns.clone() })
    }

    /// Bytes taken so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Discard {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let to = SocketAddrV4::new(self.at, self.port);
        // Wakes the thread in accept; when even that fails the thread ends with the process.
        let woken = self.netns.run(|| TcpStream::connect_timeout(&to.into(), PATIENCE)).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

fn discard(stream: TcpStream, bytes: &AtomicU64) {
    // tcp(7), MSG_TRUNC: the bytes are taken from the socket and not copied to the buffer.
    let mut buffer = vec![0; CHUNK];
    while let Ok(n @ 1..) = recv(stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
        bytes.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// Bits per second that `sinks` take from `streams` connections to `target`, and by how much the measurement ended late.
///
/// # Errors
/// When a connection cannot be opened or breaks.
pub(super) fn bulk(
    client: &Netns,
    target: SocketAddrV4,
    streams: usize,
    time: Duration,
    sinks: &[Discard],
) -> Result<(f64, Duration)> {
    let stop = AtomicBool::new(false);
    let total = || sinks.iter().map(Discard::bytes).sum::<u64>();
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..streams).map(|_| scope.spawn(|| client.run(|| send(target, &stop)))).collect();
        sleep_until(Stamp::now() + SETTLE);
        let (begun, before) = (Stamp::now(), total());
        sleep_until(begun + time);
        let (taken, spent) = (total() - before, Stamp::now().since(begun));
        stop.store(true, Ordering::Relaxed);
        for sender in senders {
            sender.join().map_err(|_| anyhow::anyhow!("a sender panicked"))??;
        }
        Ok((taken as f64 * 8.0 / spent.as_secs_f64(), spent.saturating_sub(time)))
    })
}

fn send(target: SocketAddrV4, stop: &AtomicBool) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&target.into(), PATIENCE).context("bulk connection")?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let chunk = vec![0x5a; CHUNK];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&chunk).context("bulk transfer")?;
    }
    Ok(())
}

/// Connections per second: opened, asked once, answered, closed, by `workers` at once; and by how much the measurement ended late.
///
/// # Errors
/// When a connection fails.
pub(super) fn connections(
    client: &Netns,
    target: SocketAddrV4,
    workers: usize,
    time: Duration,
) -> Result<(f64, Duration)> {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..workers).map(|_| scope.spawn(|| client.run(|| connect(target, &stop, &done)))).collect();
        sleep_until(Stamp::now() + SETTLE);
        let (begun, before) = (Stamp::now(), done.load(Ordering::Relaxed));
        sleep_until(begun + time);
        let (made, spent) = (done.load(Ordering::Relaxed) - before, Stamp::now().since(begun));
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        Ok((made as f64 / spent.as_secs_f64(), spent.saturating_sub(time)))
    })
}

fn connect(target: SocketAddrV4, stop: &AtomicBool, done: &AtomicU64) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect_timeout(&target.into(), PATIENCE).context("connection")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // Flow 0, record 0: what the audit's server expects of a new flow.
        stream.write_all(&[0; QUESTION])?;
        stream.read_exact(&mut [0; QUESTION]).context("answer")?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
