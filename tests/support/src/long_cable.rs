//! A cable that takes its time: a frame that goes in at one end comes out at the other one after a delay, unless the cable is cut or loses it.
//! Kernels without netem have no such thing: two TAP devices and a thread are it.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::command::ip_batch;
use crate::time::nanos;
use crate::{LabError, Netns, Result, Stamp, fifo};

/// Frames that wait in a device while the thread has no processor: half a second of what 10,000 flows bring.
const QUEUE: u32 = 20_000;
/// A frame of 1500 octets with its header and two tags, and room.
const FRAME: usize = 2048;
/// Frames that are taken from one end before the other one has its turn.
const BATCH: usize = 256;
/// How often the thread looks whether it shall end.
const LOOK: Duration = Duration::from_millis(20);
/// The chance that means a cut, in parts of itself.
const ALL: u32 = 10_000;

/// Where an end of it is.
#[derive(Debug, Clone, Copy)]
pub struct CableEnd<'a> {
    /// In this namespace,
    pub netns: &'a Netns,
    /// as this link,
    pub link: &'a str,
    /// with this address.
    pub address: IpNet,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Chance of a frame to be lost, of [`ALL`].
    loss: AtomicU32,
    dropped: AtomicU64,
    late_ns: AtomicU64,
}

/// A laid cable. Dropped, both its devices are gone.
#[derive(Debug)]
pub struct LongCable {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A cable that is cut, or loses frames both ways. Dropped, it is whole again.
#[derive(Debug)]
pub struct Torn {
    shared: Arc<Shared>,
    before: u64,
    /// Since when: no frame comes out after a cut, not even one that was under way.
    pub since: Stamp,
}

impl LongCable {
    /// Lays one; each frame takes `delay` from end to end, and up to a millisecond more.
    ///
    /// # Errors
    /// When a device cannot be made.
    pub fn lay(ends: [CableEnd<'_>; 2], delay: Duration) -> Result<Self> {
        let [near, far] = ends;
        let devices = [tap(near)?, tap(far)?];
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("long-cable".to_owned())
            .spawn(move || carry(&devices, delay, &own))
            .map_err(LabError::io("the cable's thread"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Cuts it; both ends keep their carrier.
    #[must_use]
    pub fn cut(&self) -> Torn {
        self.tear(ALL)
    }

    /// Loses each frame with this chance (0 to 1, resolution 1/10,000), independently. A tear replaces the one before.
    #[must_use]
    pub fn lose(&self, chance: f64) -> Torn {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=10,000")]
        let share = (chance.clamp(0.0, 1.0) * f64::from(ALL)).round() as u32;
        self.tear(share)
    }

    fn tear(&self, share: u32) -> Torn {
        let before = self.shared.dropped.load(Ordering::Relaxed);
        self.shared.loss.store(share, Ordering::SeqCst);
        Torn { shared: Arc::clone(&self.shared), before, since: Stamp::now() }
    }

    /// The longest time by which a frame came out late since the last call: what the thread itself waited for a processor.
    pub fn take_lateness(&self) -> Duration {
        Duration::from_nanos(self.shared.late_ns.swap(0, Ordering::Relaxed))
    }
}

impl Drop for LongCable {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by its own unwinding.
            let _ = thread.join();
        }
    }
}

impl Torn {
    /// Frames lost so far: 0 means that the fault has not happened.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed) - self.before
    }

    /// Mends it now; gives the frames that were lost.
    #[must_use]
    pub fn heal(self) -> u64 {
        self.dropped()
    }
}

impl Drop for Torn {
    fn drop(&mut self) {
        self.shared.loss.store(0, Ordering::SeqCst);
    }
}

/// A TAP device, up and with its address; frames come and go by the file.
fn tap(end: CableEnd<'_>) -> Result<File> {
    let name = end.link.as_bytes();
    let open = || {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        // SAFETY: all-zero is a valid ifreq: integers, and a union of such.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name) {
            *to = libc::c_char::from_ne_bytes([*from]);
        }
        request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TAP | libc::IFF_NO_PI).map_err(std::io::Error::other)?;
        // SAFETY: TUNSETIFF reads an ifreq, which outlives the call. The device comes to be in the namespace of this thread.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) };
        if made == 0 { Ok(file) } else { Err(std::io::Error::last_os_error()) }
    };
    let file = end.netns.run(open).map_err(LabError::io(format!("TAP device {} (/dev/net/tun)", end.link)))?;
    let lines =
        [format!("link set {} txqueuelen {QUEUE} up", end.link), format!("addr add {} dev {}", end.address, end.link)];
    ip_batch(end.netns, &lines)?;
    Ok(file)
}

/// Frames under way to one end: when each is due there.
type UnderWay = VecDeque<(Stamp, Vec<u8>)>;

fn carry(ends: &[File; 2], delay: Duration, shared: &Shared) {
    fifo();
    let mut under_way: [UnderWay; 2] = Default::default();
    let mut buffer = [0; FRAME];
    // Any sequence will do; xorshift64, whose state must not be 0.
    let mut dice = 0x2545_f491_4f6c_dd1d_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        for (queue, end) in under_way.iter_mut().zip(ends) {
            hand_over(queue, end, shared);
        }
        let due = under_way.iter().filter_map(|queue| queue.front()).map(|(due, _)| *due).min();
        let wait = due.map_or(LOOK, |due| due.since(Stamp::now()).min(LOOK));
        // Whole milliseconds: rounded up, so that it does not spin.
        let wait = u16::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u16::MAX);
        let mut ready = ends.each_ref().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
        if poll(&mut ready, PollTimeout::from(wait)).is_err() {
            continue;
        }
        for (mut end, queue) in ends.iter().zip(under_way.iter_mut().rev()) {
            for _ in 0..BATCH {
                let Ok(length) = end.read(&mut buffer) else { break };
                dice ^= dice << 13;
                dice ^= dice >> 7;
                dice ^= dice << 17;
                if dice % u64::from(ALL) < u64::from(shared.loss.load(Ordering::Relaxed)) {
                    shared.dropped.fetch_add(1, Ordering::Relaxed);
                } else {
                    queue.push_back((Stamp::now() + delay, buffer[..length].to_vec()));
                }
            }
        }
    }
}

/// Gives an end what is due; a cut loses what is under way.
fn hand_over(queue: &mut UnderWay, mut end: &File, shared: &Shared) {
    if shared.loss.load(Ordering::SeqCst) == ALL {
        shared.dropped.fetch_add(u64::try_from(queue.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        queue.clear();
        return;
    }
    let now = Stamp::now();
    while queue.front().is_some_and(|(due, _)| *due <= now) {
        let Some((due, frame)) = queue.pop_front() else { return };
        shared.late_ns.fetch_max(nanos(now.since(due)), Ordering::Relaxed);
        // A device that is down loses the frame, as a card would.
        let _ = end.write_all(&frame);
    }
}
