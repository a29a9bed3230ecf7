//! A client that asks a VIP over UDP at least once per millisecond, by an absolute schedule.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::SockaddrStorage;

use crate::responder::PROBE;
use crate::{LabError, Netns, Probe, Record, Result, Stamp, capture, fifo, sleep_until, wait_for};

/// How a prober probes.
#[derive(Debug, Clone, Copy)]
pub struct ProbeOptions {
    /// Time between two probes.
    pub interval: Duration,
    /// After the last probe, answers are waited for this long.
    pub grace: Duration,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self { interval: Duration::from_millis(1), grace: Duration::from_millis(100) }
    }
}

#[derive(Default)]
struct Shared {
    records: Mutex<Vec<Record>>,
    stop_sending: AtomicBool,
    stop: AtomicBool,
    last_by: AtomicU32,
    last_at: AtomicU64,
}

/// A running prober; [`UdpProber::finish`] gives what it saw.
pub struct UdpProber {
    shared: Arc<Shared>,
    options: ProbeOptions,
    threads: Vec<JoinHandle<()>>,
}

impl UdpProber {
    /// Probes `vip:port` from `client`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(client: &Netns, vip: IpAddr, port: u16, options: ProbeOptions) -> Result<Self> {
        let any: SocketAddr = if vip.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = client.run(|| UdpSocket::bind(any)).map_err(LabError::io("prober socket"))?;
        capture::stamp_arrivals(&socket)?;
        // An echo of a long burst must not be lost in the prober's own socket.
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(4 << 20))
            .map_err(LabError::errno("SO_RCVBUFFORCE"))?;
        let sender = socket.try_clone().map_err(LabError::io("prober socket"))?;
        let shared = Arc::new(Shared::default());
        let (of_sender, of_receiver) = (Arc::clone(&shared), Arc::clone(&shared));
        let to = SocketAddr::new(vip, port);
        let threads = vec![
            client.spawn("prober-receive", move || receive(&socket, &of_receiver)),
            client.spawn("prober-send", move || send(&sender, to, options.interval, &of_sender)),
        ];
        Ok(Self { shared, options, threads })
    }

    /// Who gave the last answer, and when.
    pub fn last_answer(&self) -> Option<(u32, Stamp)> {
        let by = self.shared.last_by.load(Ordering::Acquire);
        (by != 0).then(|| (by, Stamp(self.shared.last_at.load(Ordering::Acquire))))
    }

    /// Waits until an answer came after `since`, by `id` when given. Gives who answered.
    ///
    /// # Errors
    /// [`LabError::Timeout`].
    pub fn wait_answer(&self, deadline: Duration, since: Stamp, id: Option<u32>) -> Result<u32> {
        wait_for(deadline, &format!("an answer from the VIP by {id:?}"), || {
            self.last_answer().filter(|(by, at)| *at > since && id.is_none_or(|id| id == *by)).map(|(by, _)| by)
        })
    }

    /// What it saw so far of probes that were due since `since`.
    pub fn snapshot(&self, since: Stamp) -> Probe {
        let records = self.shared.records.lock().unwrap_or_else(PoisonError::into_inner);
        let first = records.partition_point(|r| r.due < since);
        Probe { records: records[first..].to_vec(), interval: self.options.interval }
    }

    /// Stops sending, waits for late answers, gives everything.
    pub fn finish(self) -> Probe {
        self.shared.stop_sending.store(true, Ordering::Relaxed);
        std::thread::sleep(self.options.grace);
        self.snapshot(Stamp(0))
    }
}

impl Drop for UdpProber {
    fn drop(&mut self) {
        self.shared.stop_sending.store(true, Ordering::Relaxed);
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn send(socket: &UdpSocket, to: SocketAddr, interval: Duration, shared: &Shared) {
    fifo();
    let mut due = Stamp::now() + interval;
    let mut sequence = 0u64;
    while !shared.stop_sending.load(Ordering::Relaxed) {
        sleep_until(due);
        let record = Record { due, send_late: Stamp::now().since(due), answered: None, by: 0 };
        shared.records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        let mut bytes = [0; PROBE];
        bytes[..8].copy_from_slice(&sequence.to_be_bytes());
        // No route, no neighbour: a lost probe, which is what is counted.
        let _ = socket.send_to(&bytes, to);
        sequence += 1;
        due = due + interval;
    }
}

fn receive(socket: &UdpSocket, shared: &Shared) {
    fifo();
    let mut buffer = [0; PROBE];
    while !shared.stop.load(Ordering::Relaxed) {
        if !capture::readable(socket.as_fd(), Duration::from_millis(50)) {
            continue;
        }
        while let Ok(Some(received)) = capture::receive::<SockaddrStorage>(socket.as_fd(), &mut buffer) {
            let (sequence, by) = buffer.split_at(8);
            let sequence = u64::from_be_bytes(sequence.try_into().expect("eight bytes"));
            let by = u32::from_be_bytes(by.try_into().expect("four bytes"));
            let mut records = shared.records.lock().unwrap_or_else(PoisonError::into_inner);
            let record = usize::try_from(sequence).ok().and_then(|n| records.get_mut(n));
            if let Some(record) = record.filter(|r| r.answered.is_none()) {
                record.answered = Some((received.at, received.late));
                record.by = by;
                shared.last_at.store(received.at.0, Ordering::Release);
                shared.last_by.store(by, Ordering::Release);
            }
        }
    }
}
