//! What client and endpoints say to one another: bytes that can be checked, over TCP and UDP.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::Netns;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How often a server looks whether it shall end.
const LOOK: Duration = Duration::from_millis(50);
/// Longest time without a byte: several retransmissions, far below what a black hole costs.
const STALL: Duration = Duration::from_secs(4);
/// How long an answer to a datagram is waited for before it is sent again, and how often.
const ANSWER: Duration = Duration::from_millis(300);
const TRIES: usize = 12;
/// The longest datagram (RFC 768 over IPv4, less the headers).
const DATAGRAM: usize = 65_507;
/// Bytes after which the pattern repeats: a prime, so that no power of two hides a lost or repeated piece.
const PERIOD: usize = 65_521;

fn pattern() -> &'static [u8] {
    static PATTERN: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    PATTERN.get_or_init(|| {
        let mut state = 1u32;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        (0..PERIOD).map(next).collect()
    })
}

/// Writes `length` bytes of the pattern.
fn send(stream: &mut impl Write, length: u64) -> std::io::Result<()> {
    let mut left = length;
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(PERIOD);
        stream.write_all(&pattern()[..piece])?;
        left -= piece as u64;
    }
    Ok(())
}

/// Reads `length` bytes and compares them.
fn receive(stream: &mut impl Read, length: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; PERIOD];
    let mut left = length;
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(PERIOD);
        stream.read_exact(&mut buffer[..piece])?;
        if buffer[..piece] != pattern()[..piece] {
            return Err(std::io::Error::new(ErrorKind::InvalidData, format!("other bytes, {left} before the end")));
        }
        left -= piece as u64;
    }
    Ok(())
}

/// A TCP server (what is asked for, it takes and gives) and a UDP server (the same datagram back, with its number in front), for both
/// families; dropped, they stop.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(netns: &Netns, number: u8, port: u16) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let (listener, socket) =
            netns.run(|| Ok::<_, std::io::Error>((TcpListener::bind(any)?, UdpSocket::bind(any)?)))?;
        listener.set_nonblocking(true)?;
        socket.set_read_timeout(Some(LOOK))?;
        let (tcp, udp) = (Arc::clone(&stop), Arc::clone(&stop));
        let threads = vec![
            std::thread::spawn(move || accept(&listener, number, &tcp)),
            std::thread::spawn(move || echo(&socket, number, &udp)),
        ];
        Ok(Self { stop, threads })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, number: u8, stop: &AtomicBool) {
    let timeout = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let _timed_out = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], timeout);
        while let Ok((stream, _)) = listener.accept() {
            // It ends with its client, or with the test's process.
            let _detached = std::thread::spawn(move || answer(stream, number));
        }
    }
}

/// Requests of a connection: how many bytes come, how many are wanted.
fn answer(mut stream: TcpStream, number: u8) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let mut request = [0; 16];
    loop {
        stream.read_exact(&mut request)?;
        let (up, down) = request.split_at(8);
        let number_of = |bytes: &[u8]| bytes.iter().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
        let good = match receive(&mut stream, number_of(up)) {
            Ok(()) => 1,
            Err(error) if error.kind() == ErrorKind::InvalidData => 0,
            Err(error) => return Err(error),
        };
        stream.write_all(&[number, good])?;
        send(&mut stream, number_of(down))?;
    }
}

fn echo(socket: &UdpSocket, number: u8, stop: &AtomicBool) {
    let mut buffer = vec![0; DATAGRAM];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        buffer[0] = number;
        let _gone = socket.send_to(&buffer[..length], from);
    }
}

/// A connection of the client.
pub(crate) struct Talk(TcpStream);

impl Talk {
    pub(crate) fn open(client: &Netns, vip: IpAddr, port: u16) -> Result<Self> {
        let stream = client.run(|| TcpStream::connect_timeout(&(vip, port).into(), STALL));
        let stream = stream.with_context(|| format!("connecting to {vip} port {port}"))?;
        stream.set_read_timeout(Some(STALL))?;
        stream.set_write_timeout(Some(STALL))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Sends and wants so many bytes, each compared; gives the number of the server. No time of [`STALL`] passes without progress.
    pub(crate) fn exchange(&mut self, up: u64, down: u64) -> Result<u8> {
        let mut step = || -> std::io::Result<[u8; 2]> {
            self.0.write_all(&[up.to_be_bytes(), down.to_be_bytes()].concat())?;
            send(&mut self.0, up)?;
            let mut head = [0; 2];
            self.0.read_exact(&mut head)?;
            receive(&mut self.0, down)?;
            Ok(head)
        };
        let [number, good] = step().with_context(|| format!("{up} bytes up, {down} down"))?;
        ensure!(good == 1, "the server read other bytes than were sent, {up} up");
        Ok(number)
    }
}

/// A UDP socket of the client towards one VIP.
pub(crate) struct Datagrams(pub(crate) UdpSocket);

impl Datagrams {
    pub(crate) fn open(client: &Netns, vip: IpAddr, port: u16) -> Result<Self> {
        let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = client.run(|| {
            let socket = UdpSocket::bind(any)?;
            socket.connect((vip, port))?;
            Ok::<_, std::io::Error>(socket)
        })?;
        socket.set_read_timeout(Some(ANSWER))?;
        Ok(Self(socket))
    }

    /// Packets that leave this host or a router whole, or not at all (`IP_PMTUDISC_DO`).
    pub(crate) fn never_cut(&self) -> Result<()> {
        let (level, name, value) = if self.0.local_addr()?.is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
        };
        let length = libc::socklen_t::try_from(size_of_val(&value))?;
        // SAFETY: the socket is open; the option's value is an int that lives through the call.
        let set = unsafe { libc::setsockopt(self.0.as_raw_fd(), level, name, (&raw const value).cast(), length) };
        if set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
    }

    /// One datagram of `length` bytes there and back, sent again while nothing comes; gives the number of the server.
    pub(crate) fn ask(&self, length: usize) -> Result<u8> {
        let mut datagram: Vec<u8> = pattern().iter().copied().cycle().take(length).collect();
        let mut answer = vec![0; DATAGRAM];
        for _ in 0..TRIES {
            // Refused while the path's MTU is being learnt: then the next try is of other packets.
            let _too_big = self.0.send(&datagram);
            let Ok(got) = self.0.recv(&mut answer) else { continue };
            let number = answer[0];
            datagram[0] = number;
            ensure!(answer[..got] == datagram, "{got} of {length} bytes came back, or others");
            return Ok(number);
        }
        anyhow::bail!("no answer to a datagram of {length} bytes")
    }
}
