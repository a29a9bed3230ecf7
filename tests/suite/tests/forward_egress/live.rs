//! One node, one service, one pod behind a veth, a client outside; direct return. The bytes are those of the kernel's own stacks, with
//! segmentation offload and half-done checksums on the pod's side, through XDP and through tc.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::tc::TcAttachType;
use aya::programs::{SchedClassifier, Xdp, xdp::XdpMode};
use bascule_ebpf_common::forward::*;
use bascule_suite::fence::{Ground, Netns};

use crate::stage::{Family, PORT, Stage, V4, V6};
use crate::{ENDPOINT_PORT, endpoint_stats, node, on_ground};

/// Longer than any answer takes here; the machine may stall.
const PATIENCE: Duration = Duration::from_secs(10);
/// A question without an answer is put again after this time.
const AGAIN: Duration = Duration::from_millis(200);
/// Bytes each way: many aggregates, many windows.
const BYTES: usize = 8 << 20;

struct Net {
    client: Netns,
    pod: Netns,
}

fn build(ground: &Ground) -> Result<Net> {
    let net = Net { client: Netns::new()?, pod: Netns::new()? };
    ground.ip("link add va type veth peer name vc")?;
    ground.ip("link add pa type veth peer name pb")?;
    for (near, far, there) in [("va", "vc", &net.client), ("pa", "pb", &net.pod)] {
        ground.ip(&format!("link set {far} netns {}", there.path()))?;
        ground.ip(&format!("link set {near} up"))?;
        there.inside(|| {
            ground.ip("link set lo up")?;
            ground.ip(&format!("link set {far} up"))?;
            Ok(())
        })?;
    }
    for (address, device) in
        [("192.0.2.1/24", "va"), ("2001:db8:1::1/64", "va"), ("10.244.1.1/24", "pa"), ("fd00:f4:1::1/64", "pa")]
    {
        ground.address(address, device)?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
    net.client.inside(|| {
        ground.ip("addr add 192.0.2.7/24 dev vc")?;
        ground.address("2001:db8:1::7/64", "vc")?;
        ground.ip("route add 10.9.0.100/32 via 192.0.2.1")?;
        ground.ip("route add 2001:db8:2::100/128 via 2001:db8:1::1")?;
        // Of frames from a veth XDP would see half a checksum.
        let output = Command::new("ethtool").args(["-K", "vc", "tx", "off", "tso", "off"]).output()?;
        ensure!(output.status.success(), "ethtool: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    })?;
    net.pod.inside(|| {
        ground.ip("addr add 10.244.1.5/24 dev pb")?;
        ground.address("fd00:f4:1::5/64", "pb")?;
        ground.ip("route add default via 10.244.1.1")?;
        ground.ip("-6 route add default via fd00:f4:1::1")?;
        Ok(())
    })?;
    ground.wait_up(&["va", "pa"])?;
    Ok(net)
}

/// What a client meets at the VIP's port: everything comes back, over TCP and over UDP.
struct Server {
    udp: UdpSocket,
}

impl Server {
    fn start(address: IpAddr) -> Result<Self> {
        let at = SocketAddr::new(address, ENDPOINT_PORT);
        let (tcp, udp) = (TcpListener::bind(at)?, UdpSocket::bind(at)?);
        thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                thread::spawn(move || echo(stream));
            }
        });
        Ok(Self { udp })
    }

    fn answer_one(&self) -> Result<()> {
        let mut buffer = [0; 65_536];
        self.udp.set_read_timeout(Some(PATIENCE))?;
        let (length, from) = self.udp.recv_from(&mut buffer)?;
        self.udp.send_to(&buffer[..length], from)?;
        Ok(())
    }
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = stream.try_clone()?;
    let mut buffer = vec![0; 65_536];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}

/// Sends bytes and takes them back; what the connection made of the MSS.
fn exchange(vip: IpAddr) -> Result<u32> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(vip, PORT), PATIENCE).context("connecting")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let byte = |n: usize| (n.wrapping_mul(0x9e37_79b1) >> 13) as u8;
    let mut writer = stream.try_clone()?;
    let sender = thread::spawn(move || -> std::io::Result<()> {
        let all: Vec<u8> = (0..BYTES).map(byte).collect();
        writer.write_all(&all)?;
        writer.shutdown(std::net::Shutdown::Write)
    });
    let mut back = Vec::with_capacity(BYTES);
    (&stream).take(BYTES as u64 + 1).read_to_end(&mut back).with_context(|| format!("{} bytes back", back.len()))?;
    sender.join().expect("the sender does not panic").context("sending")?;
    ensure!(back.len() == BYTES && back.iter().enumerate().all(|(n, b)| *b == byte(n)), "other bytes came back");
    let mut mss = 0u32;
    let mut length = libc::socklen_t::try_from(size_of_val(&mss))?;
    // SAFETY: a live number of the length given.
    let rc = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_MAXSEG,
            (&raw mut mss).cast(),
            &raw mut length,
        )
    };
    ensure!(rc == 0, "TCP_MAXSEG");
    Ok(mss)
}

/// A datagram there and back, and one that is fragmented both ways.
fn datagrams(net: &Net, server: &Server, f: Family) -> Result<UdpSocket> {
    let local = SocketAddr::new(f.client, 0);
    let socket = net.client.inside(|| {
        let socket = UdpSocket::bind(local)?;
        socket.connect(SocketAddr::new(f.vip, PORT))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    })?;
    let mut buffer = [0; 65_536];
    for length in [9, 1400, 3000, 9000] {
        let sent: Vec<u8> = (0..length).map(|n: usize| (n * 7) as u8).collect();
        socket.send(&sent)?;
        server.answer_one().with_context(|| format!("a request of {length} bytes"))?;
        let got = socket.recv(&mut buffer).with_context(|| format!("an answer of {length} bytes"))?;
        ensure!(buffer[..got] == sent[..], "another datagram came back");
    }
    Ok(socket)
}

/// Asks until it is refused: the server's socket lives on for a moment in a child that another test is starting (between fork and exec).
fn refused(socket: &UdpSocket) -> Result<()> {
    socket.set_read_timeout(Some(AGAIN))?;
    let is_refusal =
        |result: std::io::Result<usize>| result.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
    let ask = || is_refusal(socket.send(b"anybody?")) || is_refusal(socket.recv(&mut [0; 16]));
    Ok(bascule_lab::wait_for(PATIENCE, "the client to be refused", || ask().then_some(()))?)
}

fn scene(net: &Net, stage: &mut Stage) -> Result<()> {
    for f in [V4, V6] {
        let server = net.pod.inside(|| Server::start(f.endpoint))?;
        let mss = net.client.inside(|| exchange(f.vip))?;
        let limit = if f.vip.is_ipv4() { 1400 } else { 1300 };
        ensure!(mss <= limit, "an MSS of {mss} over {limit}");
        net.client.inside(|| exchange(f.vip))?;
        let socket = datagrams(net, &server, f)?;
        // The endpoint goes; its kernel says so, and the client learns it of the VIP.
        drop(server);
        refused(&socket)?;
        let ping = net.client.inside(|| {
            Ok(Command::new("ping").args(["-c", "2", "-i", "0.2", "-W", "5", &f.vip.to_string()]).output()?)
        })?;
        ensure!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stdout));
        let stats = endpoint_stats(stage, f.slot)?;
        println!("{}: MSS {mss}, {stats:?}", f.vip);
        ensure!(stats.syn_acks == 2 && stats.reply_bytes > 2 * BYTES as u64);
    }
    for tally in [Tally::ReplyFlow, Tally::ReplyHalf, Tally::MssClamped, Tally::IcmpError, Tally::EchoAnswered] {
        println!("{}: {}", tally.name(), stage.tally(tally as u32)?);
        ensure!(stage.tally(tally as u32)? > 0, "{}", tally.name());
    }
    for reason in PacketDrop::ALL {
        ensure!(stage.tally(reason as u32)? == 0, "dropped: {}", reason.name());
    }
    Ok(())
}

fn attach_xdp(stage: &mut Stage, link: &str) -> Result<()> {
    let program: &mut Xdp = stage.ebpf.program_mut("bascule_xdp").context("xdp")?.try_into()?;
    program.attach(link, XdpMode::Driver)?;
    Ok(())
}

fn play(xdp: bool) {
    on_ground(move |ground, dir| {
        let net = build(ground)?;
        let mut stage = node(dir, 2, false)?;
        // A veth takes what XDP sends back only if it has a program of its own: the same one, forwarding off.
        let mut off = Stage::new(&dir.join("off"), 1, false)?;
        off.config(&Config::default())?;
        if xdp {
            attach_xdp(&mut stage, "va")?;
            net.client.inside(|| attach_xdp(&mut off, "vc"))?;
        } else {
            let program: &mut SchedClassifier =
                stage.ebpf.program_mut("bascule_tc_ingress").context("tc")?.try_into()?;
            program.attach("va", TcAttachType::Ingress)?;
        }
        let program: &mut SchedClassifier =
            stage.ebpf.program_mut("bascule_tc_egress").context("egress")?.try_into()?;
        program.attach("va", TcAttachType::Egress)?;
        scene(&net, &mut stage)
    });
}

#[test]
fn bytes_flow_through_the_vip_by_xdp() {
    play(true);
}

#[test]
fn bytes_flow_through_the_vip_by_tc() {
    play(false);
}
