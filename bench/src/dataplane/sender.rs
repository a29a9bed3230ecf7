//! Frames from a packet socket, and SYNs from ever new tuples with right checksums: what a kernel would drop unseen is no flood.
//!
//! Not XDP live frames: each such run changes the kernel's dispatcher and waits for it, 30 ms or so, and a flood that is sent in bursts
//! small enough for the queues is thousands of runs.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use bascule_lab::{Netns, Stamp, sleep_until};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockType, SockaddrLike, bind, socket};
use nix::time::{ClockId, clock_gettime};

use super::frames::{ETHERNET, add, fold};

/// Tuples are counted by address first (22 bits), then by source port.
const ADDRESS_BITS: u32 = 22;
/// First source port, and how many are used.
const FIRST_PORT: u32 = 1024;
const PORTS: u32 = 0x8000;
/// Offsets in an untagged frame with an IPv4 header of 20 bytes (RFC 791 section 3.1, RFC 9293 section 3.1).
const IP_CHECK: usize = ETHERNET + 10;
const IP_SOURCE: usize = ETHERNET + 12;
const TCP_SOURCE: usize = ETHERNET + 20;
const TCP_CHECK: usize = ETHERNET + 36;
/// Time from burst to burst.
const PAUSE: Duration = Duration::from_millis(1);
/// Frames in one burst at most. A burst must fit the queues between veths (netdev_max_backlog: 1000, ring of a veth: 256), or it is the
/// queue that is measured.
const BURST: usize = 200;

/// Sends frames out of one device.
pub struct Sender {
    fd: OwnedFd,
    frames: Vec<Vec<u8>>,
}

/// What became of a flood at its source.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// SYNs that left.
    pub sent: u32,
    /// SYNs that the device's queue refused; they were made anew.
    pub refused: u32,
    /// From the first to the last.
    pub spent: Duration,
    /// Processor time of the thread that sent.
    pub busy: Duration,
}

impl Sender {
    /// For the device `name` of `netns`.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn new(netns: &Netns, name: &str) -> Result<Self> {
        let fd = netns
            .run(|| socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None))
            .context("packet socket")?;
        let raw = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).expect("a small constant"),
            // None: it hears nothing.
            sll_protocol: 0,
            sll_ifindex: netns.ifindex(name)?.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = libc::socklen_t::try_from(size_of_val(&raw)).expect("twenty bytes");
        // SAFETY: `raw` is a whole sockaddr_ll of family AF_PACKET and `length` is its size.
        let device = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) }.context("sockaddr_ll")?;
        bind(fd.as_raw_fd(), &device).with_context(|| format!("the packet socket on {name}"))?;
        Ok(Self { fd, frames: vec![Vec::new(); BURST] })
    }

    /// Sends `count` SYNs at `rate` a second. What a late burst left out is made up for, at twice the rate at most: if the machine has no
    /// time for all, it takes longer.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn flood(&mut self, syns: &mut Syns, count: u32, rate: u32) -> Result<Sent> {
        let (begun, before) = (Stamp::now(), thread_time()?);
        let (mut sent, mut refused, mut next) = (0, 0, begun);
        while sent < count {
            let burst = usize::try_from(due(Stamp::now().since(begun), rate, sent).min(count - sent))?;
            let left = self.burst(syns, burst)?;
            sent += u32::try_from(left)?;
            refused += u32::try_from(burst - left)?;
            next = (next + PAUSE).max(Stamp::now());
            sleep_until(next);
        }
        Ok(Sent { sent, refused, spent: Stamp::now().since(begun), busy: thread_time()?.saturating_sub(before) })
    }

    /// Sends the next `count` SYNs; how many of them the queue took.
    fn burst(&mut self, syns: &mut Syns, count: usize) -> Result<usize> {
        for frame in &mut self.frames[..count] {
            frame.clear();
            frame.extend_from_slice(syns.make());
        }
        let (mut first, mut taken) = (0, 0);
        while first < count {
            match send(self.fd.as_fd(), &self.frames[first..count]) {
                Ok(some) => {
                    taken += some;
                    first += some;
                }
                // The first of them was refused.
                Err(Errno::ENOBUFS) => first += 1,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("sendmmsg"),
            }
        }
        Ok(taken)
    }
}

/// SYNs of the next burst, `elapsed` after the first, if `sent` have left: what `rate` a second asks for until the burst after it, as far
/// as that is no more than twice a burst's share.
fn due(elapsed: Duration, rate: u32, sent: u32) -> u32 {
    let asked = |time: Duration| time.as_nanos() * u128::from(rate) / 1_000_000_000;
    let most = (asked(PAUSE) * 2).clamp(1, BURST as u128);
    let due = asked(elapsed + PAUSE).saturating_sub(u128::from(sent));
    u32::try_from(due.min(most)).expect("no more than a burst")
}

/// Processor time of the calling thread so far.
fn thread_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Sends frames by a bound packet socket, in one call; how many of them it took, one at least.
fn send(socket: BorrowedFd<'_>, frames: &[Vec<u8>]) -> nix::Result<usize> {
    let mut pieces: Vec<libc::iovec> = frames
        .iter()
        .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() })
        .collect();
    let message = |piece: &mut libc::iovec| {
        // SAFETY: no name and no control data: zero is what the fields are for that.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (piece, 1);
        message
    };
    let mut messages: Vec<libc::mmsghdr> = pieces.iter_mut().map(message).collect();
    let count = libc::c_uint::try_from(messages.len()).expect("a burst");
    // SAFETY: `messages` are as many as is said, and what they point to lives until the end of the call; frames are only read.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    Errno::result(sent).map(|sent| usize::try_from(sent).expect("no error is below zero"))
}

/// One SYN after another, each from another tuple.
pub struct Syns {
    frame: Vec<u8>,
    source: u32,
    next: u32,
    /// Sums of the IPv4 header, and of pseudo header and TCP, without what changes.
    ip: u32,
    tcp: u32,
}

impl Syns {
    /// Of the untagged `frame`, a SYN over IPv4 already; the lower 22 bits of `source` are counted.
    pub fn new(frame: Vec<u8>, source: u32) -> Self {
        let mut bytes = frame[ETHERNET..].to_vec();
        // IPv4 checksum and source, TCP source port and checksum.
        for range in [10..16, 20..22, 36..38] {
            bytes[range].fill(0);
        }
        let (ip, tcp) = bytes.split_at(20);
        let length = u32::try_from(tcp.len()).expect("a small segment");
        // Destination, protocol 6 and length stand in the pseudo header too (RFC 9293 section 3.1).
        let (ip, tcp) = (add(ip), add(&ip[16..20]) + 6 + length + add(tcp));
        Self { frame, source, next: 0, ip, tcp }
    }

    /// Makes the next one.
    pub fn make(&mut self) -> &[u8] {
        let source = self.source | (self.next & ((1 << ADDRESS_BITS) - 1));
        let port = FIRST_PORT + (self.next >> ADDRESS_BITS) % PORTS;
        self.next += 1;
        let halves = (source >> 16) + (source & 0xffff);
        let mut put = |at: usize, bytes: &[u8]| self.frame[at..at + bytes.len()].copy_from_slice(bytes);
        put(IP_SOURCE, &source.to_be_bytes());
        put(TCP_SOURCE, &u16::try_from(port).expect("below 2^16").to_be_bytes());
        put(IP_CHECK, &fold(self.ip + halves).to_be_bytes());
        put(TCP_CHECK, &fold(self.tcp + halves + port).to_be_bytes());
        &self.frame
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::super::frames::{SYN, tcp4};
    use super::{BURST, Syns, due};

    #[test]
    fn a_late_sender_makes_up_for_it_at_twice_the_rate() {
        let after = |ms, sent| due(Duration::from_millis(ms), 50_000, sent);
        assert_eq!([after(0, 0), after(1, 50), after(2, 150), after(1, 150)], [50, 50, 0, 0]);
        // Ten bursts late: two at a time, until nothing is owed.
        assert_eq!([after(10, 50), after(11, 150), after(20, 1049), after(20, 1050)], [100, 100, 1, 0]);
        assert_eq!((due(Duration::ZERO, 10, 0), due(Duration::from_millis(99), 10, 0)), (0, 1));
        assert_eq!(due(Duration::from_secs(1), 10_000_000, 0), u32::try_from(BURST).unwrap());
    }

    #[test]
    fn every_syn_is_a_whole_packet_of_its_own() {
        let to = (Ipv4Addr::new(10, 7, 0, 1), 80);
        let first = Ipv4Addr::new(10, 128, 0, 0);
        let mut syns = Syns::new(tcp4((first, 1024), to, SYN, 0), first.to_bits());
        assert_eq!(syns.make(), tcp4((first, 1024), to, SYN, 0));
        assert_eq!(syns.make(), tcp4((Ipv4Addr::new(10, 128, 0, 1), 1024), to, SYN, 0));
        syns.next = (2 << 22) + 0x12_3456;
        assert_eq!(syns.make(), tcp4((Ipv4Addr::new(10, 146, 52, 86), 1026), to, SYN, 0));
    }
}
