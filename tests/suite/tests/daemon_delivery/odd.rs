//! What is not TCP or UDP of a whole packet: tags, pings of the VIP, and errors that come from inside.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::{Netns, wait_for};
use socket2::{Domain, Protocol, Socket, Type};

use crate::frames::{Tap, checksum};
use crate::talk::Datagrams;
use crate::yard::{Hook, PORT, SOON, VIPS, Yard};

/// A port at which no endpoint listens.
const DEAF: u16 = 7999;
/// How long an answer is waited for before the question is put again.
const ANSWER: Duration = Duration::from_millis(300);

/// One echo request and its reply: identifier, sequence number and data are the same (RFC 792, RFC 4443).
fn ping(client: &Netns, vip: IpAddr, sequence: u8) -> Result<()> {
    let (domain, protocol, kinds) = match vip {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, [8, 0]),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, [128, 129]),
    };
    let socket = client.run(|| Socket::new(domain, Type::RAW, Some(protocol)))?;
    socket.set_read_timeout(Some(ANSWER))?;
    // The kernel sees to the checksum of ICMPv6 on raw sockets (RFC 3542 section 3.1).
    let mut request = [vec![kinds[0], 0, 0, 0, 0x12, 0x34, 0, sequence], b"is anybody there?".to_vec()].concat();
    let wanted = request[4..].to_vec();
    if vip.is_ipv4() {
        let sum = checksum(&[&request]).to_be_bytes();
        request[2..4].copy_from_slice(&sum);
    }
    let mut reader = UdpSocket::from(socket.try_clone()?);
    wait_for(SOON, "an echo reply", || {
        let _tried_again = socket.send_to(&request, &std::net::SocketAddr::from((vip, 0)).into());
        let mut buffer = [0; 256];
        let (length, from) = recv(&mut reader, &mut buffer)?;
        let header = if vip.is_ipv4() { 20 } else { 0 };
        let reply = buffer.get(header..length)?;
        (from == vip && reply[0] == kinds[1] && reply[4..] == wanted[..]).then_some(())
    })?;
    Ok(())
}

fn recv(socket: &mut UdpSocket, buffer: &mut [u8]) -> Option<(usize, IpAddr)> {
    socket.recv_from(buffer).ok().map(|(length, from)| (length, from.ip()))
}

/// A UDP socket towards the VIP that is told of errors, with packets of this hop limit; gives the error that comes.
fn error_of(client: &Netns, vip: IpAddr, port: u16, hops: Option<u32>) -> Result<std::io::Error> {
    let datagrams = Datagrams::open(client, vip, port)?;
    let v4 = vip.is_ipv4();
    let set = |level: i32, name: i32, value: u32| -> Result<()> {
        let length = libc::socklen_t::try_from(size_of_val(&value))?;
        // SAFETY: the socket is open; the option's value is an int that lives through the call.
        let set = unsafe { libc::setsockopt(datagrams.0.as_raw_fd(), level, name, (&raw const value).cast(), length) };
        if set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
    };
    if v4 {
        set(libc::IPPROTO_IP, libc::IP_RECVERR, 1)?
    } else {
        set(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?
    }
    if let Some(hops) = hops {
        if v4 {
            set(libc::IPPROTO_IP, libc::IP_TTL, hops)?
        } else {
            set(libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, hops)?
        }
    }
    let mut buffer = [0; 64];
    Ok(wait_for(SOON, "an error", || {
        if let Err(error) = datagrams.0.send(b"?")
            && error.kind() != std::io::ErrorKind::WouldBlock
        {
            return Some(error);
        }
        let error = datagrams.0.recv(&mut buffer).err()?;
        (!matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)).then_some(error)
    })?)
}

fn pings_and_errors(name: &str, hook: Hook) -> Result<()> {
    let mut yard = Yard::new(name, 2, hook)?;
    let pod = yard.pod(2)?;
    let mut services = yard.services("udp", &[(&pod, 2)]);
    let mut deaf = yard.services("udp", &[(&pod, 2)]);
    for service in &mut deaf {
        service["name"] = format!("deaf{}", service["name"].as_str().context("a name")?).into();
        service["port"] = DEAF.into();
        service["endpoints"][0]["port"] = DEAF.into();
    }
    services.extend(deaf);
    yard.apply(&services)?;
    for via in 1..=2 {
        yard.via(via)?;
        for vip in VIPS {
            let address = vip.parse()?;
            let why = || format!("{vip} through n{via}\n{}", yard.counted());
            ping(&yard.client, address, via).with_context(why)?;
            // The endpoint's kernel speaks as the VIP, and quotes what the client sent: else the client's kernel would not know whose it is.
            let refused = error_of(&yard.client, address, DEAF, None).with_context(why)?;
            ensure!(refused.raw_os_error() == Some(libc::ECONNREFUSED), "{refused}: {}", why());
        }
    }
    // The endpoint's node is the second router on the way: a packet of two hops ends there, translated already.
    yard.via(2)?;
    for vip in VIPS {
        let address = vip.parse()?;
        let exceeded = error_of(&yard.client, address, PORT, Some(2)).with_context(|| yard.counted())?;
        ensure!(exceeded.raw_os_error() == Some(libc::EHOSTUNREACH), "{vip}: {exceeded}");
        ensure!(Datagrams::open(&yard.client, address, PORT)?.ask(64)? == pod.number, "and one hop more is enough");
    }
    Ok(())
}

#[test]
fn the_vip_answers_pings_and_errors_from_inside_speak_for_it() -> Result<()> {
    pings_and_errors("dodd", Hook::Tc)
}

#[test]
fn the_vip_answers_pings_and_errors_by_xdp() -> Result<()> {
    pings_and_errors("doddx", Hook::Xdp)
}

/// An Ethernet frame with these tags around a UDP datagram over IPv4.
fn tagged(
    macs: [[u8; 6]; 2],
    tags: &[(u16, u16)],
    from: (std::net::Ipv4Addr, u16),
    to: (std::net::Ipv4Addr, u16),
) -> Vec<u8> {
    let data = b"tagged";
    let mut frame = [macs[0], macs[1]].concat();
    for (ethertype, vlan) in tags {
        frame.extend([ethertype.to_be_bytes(), vlan.to_be_bytes()].concat());
    }
    frame.extend([8, 0]);
    let udp = u16::try_from(8 + data.len()).unwrap_or_default();
    let mut ip = vec![0x45, 0];
    ip.extend((20 + udp).to_be_bytes());
    ip.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(from.0.octets());
    ip.extend(to.0.octets());
    let sum = checksum(&[&ip]).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    frame.extend(ip);
    for word in [from.1, to.1, udp, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend(data);
    frame
}

#[test]
fn tagged_frames_are_steered_home_without_their_tags() -> Result<()> {
    let mut yard = Yard::new("dvlan", 2, Hook::Tc)?;
    let pod = yard.pod(2)?;
    let services = yard.services("udp", &[(&pod, 2)]);
    yard.apply(&services)?;
    // The client stands on the LAN here: there are no VLAN devices that could tag for it.
    let client = yard.router.clone();
    let from: std::net::Ipv4Addr = "10.9.0.254".parse()?;
    let socket = client.run(|| UdpSocket::bind((from, 0)))?;
    socket.set_read_timeout(Some(ANSWER))?;
    let tap = Tap::open(&client, "eth0")?;
    let macs = [yard.node(1).port.mac().0, client.mac("eth0")?.0];
    let port = socket.local_addr()?.port();
    for tags in [&[][..], &[(0x8100, 5)], &[(0x88a8, 6), (0x8100, 5)]] {
        let frame = tagged(macs, tags, (from, port), (VIPS[0].parse()?, PORT));
        let answer = wait_for(SOON, "an answer", || {
            tap.send(&frame).ok()?;
            let mut buffer = [0; 64];
            let (length, from) = socket.recv_from(&mut buffer).ok()?;
            Some((buffer[..length].to_vec(), from))
        });
        let (answer, from) = answer.with_context(|| format!("{tags:?}\n{}", yard.counted()))?;
        ensure!(from == std::net::SocketAddr::new(VIPS[0].parse()?, PORT), "from the VIP: {from}");
        ensure!(answer[0] == pod.number && answer[1..] == *b"agged", "{answer:?}");
    }
    Ok(())
}
