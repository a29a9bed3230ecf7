//! The raw sockets between two namespaces: what arrives, what does not, and how it looks on the wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bascule::net::raw::{Datagram, NeighborSocket, PeerSocket, VrrpSocket};
use bascule::net::rt::{Poller, boot_now};
use bascule_core::types::Mac;
use bascule_core::types::{Family, LinkId};
use bascule_core::wire::arp::Arp;
use bascule_core::wire::ndp;
use bascule_suite::fence::{Wire, frames};
use bascule_suite::net::{PATIENCE, Pair, ip};

const GROUP4: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18));
const GROUP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12));
const A4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
const B4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2));
const A6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xa));
const B6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xb));
const MAC_A: Mac = Mac([2, 0, 0, 0, 0, 0xa]);

/// Not a valid advert: the sockets must not care, and the checksum field must stay as it is.
const PAYLOAD: &[u8] = &[0x31, 51, 100, 1, 0, 10, 0xde, 0xad, 10, 9, 0, 100];

/// Waits for readability, then takes one datagram.
fn take(socket: &VrrpSocket) -> Result<(Datagram, Vec<u8>)> {
    let mut poller = Poller::new()?;
    poller.add(socket, 1)?;
    let end = boot_now() + PATIENCE;
    let mut buffer = [0; 2048];
    loop {
        if let Some(datagram) = socket.recv(&mut buffer)? {
            let payload = buffer[datagram.payload.clone()].to_vec();
            return Ok((datagram, payload));
        }
        ensure!(boot_now() < end, "no datagram");
        poller.wait(Some(end))?;
    }
}

fn family_pair(pair: &Pair, family: Family) -> Result<(VrrpSocket, VrrpSocket)> {
    Ok((pair.a.inside(|| Ok(VrrpSocket::open(family)?))?, pair.b.inside(|| Ok(VrrpSocket::open(family)?))?))
}

fn advert_arrives(family: Family, src: IpAddr, group: IpAddr, unicast: IpAddr) -> Result<()> {
    let pair = Pair::new()?;
    let (a, b) = family_pair(&pair, family)?;
    let mut buffer = [0; 2048];
    // Only groups that were joined: this one must not arrive, the unicast one behind it must.
    a.send(pair.a0, src, group, PAYLOAD)?;
    a.send(pair.a0, src, unicast, PAYLOAD)?;
    let (first, payload) = take(&b)?;
    assert_eq!((first.link, first.src, first.dst, first.ttl), (pair.b0, src, unicast, 255));
    assert_eq!(payload, PAYLOAD);

    a.join(pair.a0)?;
    b.join(pair.b0)?;
    b.join(pair.b0)?;
    a.send(pair.a0, src, group, PAYLOAD)?;
    let (second, payload) = take(&b)?;
    assert_eq!((second.link, second.src, second.dst, second.ttl), (pair.b0, src, group, 255));
    assert_eq!(payload, PAYLOAD);
    assert_eq!(b.recv(&mut buffer)?, None);
    assert_eq!(a.recv(&mut buffer)?, None, "own adverts do not come back");

    b.leave(pair.b0)?;
    b.leave(pair.b0)?;
    b.leave(LinkId(4000))?;
    assert!(b.join(LinkId(4000)).is_err());
    a.send(pair.a0, src, group, PAYLOAD)?;
    a.send(pair.a0, src, unicast, PAYLOAD)?;
    assert_eq!(take(&b)?.0.dst, unicast, "nothing of a group that was left");
    Ok(())
}

#[test]
fn an_ipv4_advert_arrives_with_link_addresses_and_ttl() -> Result<()> {
    advert_arrives(Family::V4, A4, GROUP4, B4)
}

#[test]
fn an_ipv6_advert_arrives_with_link_addresses_and_hop_limit() -> Result<()> {
    advert_arrives(Family::V6, A6, GROUP6, B6)
}

#[test]
fn adverts_on_the_wire_have_ttl_255_cs6_and_our_checksum() -> Result<()> {
    let pair = Pair::new()?;
    let wire = pair.b.inside(|| Ok(Wire::open(pair.b0.0)?))?;
    let (v4, v6) = pair.a.inside(|| Ok((VrrpSocket::open(Family::V4)?, VrrpSocket::open(Family::V6)?)))?;
    v4.send(pair.a0, A4, GROUP4, PAYLOAD)?;
    let frame = wire.wait_for(PATIENCE, |f| f[12..14] == [8, 0] && f[23] == 112)?.context("IPv4 advert")?;
    assert_eq!(&frame[..6], &[1, 0, 0x5e, 0, 0, 18]);
    assert_eq!((frame[14], frame[15], frame[22]), (0x45, 0xc0, 255));
    assert_eq!(&frame[34..], PAYLOAD);
    v6.send(pair.a0, A6, GROUP6, PAYLOAD)?;
    let frame = wire.wait_for(PATIENCE, |f| f[12..14] == [0x86, 0xdd] && f[20] == 112)?.context("IPv6 advert")?;
    assert_eq!(&frame[..6], &[0x33, 0x33, 0, 0, 0, 0x12]);
    assert_eq!((frame[14], frame[15] & 0xf0, frame[21]), (0x6c, 0, 255), "traffic class 0xc0, hop limit");
    assert_eq!(&frame[54..], PAYLOAD);
    Ok(())
}

#[test]
fn ip_options_are_not_part_of_the_payload() -> Result<()> {
    let pair = Pair::new()?;
    let b = pair.b.inside(|| Ok(VrrpSocket::open(Family::V4)?))?;
    let wire = pair.a.inside(|| Ok(Wire::open(pair.a0.0)?))?;
    for words in [0, 1, 10] {
        let mut frame =
            frames::ipv4_options(Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2), 112, words, PAYLOAD);
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0xb]);
        let header = usize::from(words) * 4 + 20;
        let sum = checksum(&frame[14..14 + header]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        wire.send(&frame)?;
        let (datagram, payload) = take(&b)?;
        assert_eq!(datagram.payload, header..header + PAYLOAD.len());
        assert_eq!(payload, PAYLOAD);
    }
    Ok(())
}

#[test]
fn a_source_that_is_not_ours_and_a_link_that_is_down_are_errors() -> Result<()> {
    let pair = Pair::new()?;
    for (family, src, group) in [(Family::V4, B4, GROUP4), (Family::V6, B6, GROUP6)] {
        let socket = pair.a.inside(|| Ok(VrrpSocket::open(family)?))?;
        assert!(socket.send(pair.a0, src, group, PAYLOAD).is_err(), "{src}");
    }
    let socket = pair.a.inside(|| Ok(VrrpSocket::open(Family::V4)?))?;
    assert!(socket.send(pair.a0, A4, GROUP6, PAYLOAD).is_err(), "mixed families");
    pair.a.inside(|| ip("link set a0 down"))?;
    assert!(socket.send(pair.a0, A4, GROUP4, PAYLOAD).is_err());
    Ok(())
}

/// Everything that can be read now, after the frame that was sent last has come through.
fn frames_until(socket: &NeighborSocket, last: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut poller = Poller::new()?;
    poller.add(socket, 1)?;
    let end = boot_now() + PATIENCE;
    let (mut all, mut buffer) = (Vec::new(), [0; 2048]);
    loop {
        while let Some(length) = socket.recv(&mut buffer)? {
            all.push(buffer[..length].to_vec());
            if &buffer[..length] == last {
                return Ok(all);
            }
        }
        ensure!(boot_now() < end, "the last frame has not come");
        poller.wait(Some(end))?;
    }
}

#[test]
fn only_untagged_arp_ns_and_na_pass_the_filter() -> Result<()> {
    let pair = Pair::new()?;
    let b = pair.b.inside(|| Ok(NeighborSocket::open(pair.b0)?))?;
    let wire = pair.a.inside(|| Ok(Wire::open(pair.a0.0)?))?;
    let (v4, v6) = (Ipv4Addr::new(10, 9, 0, 77), "2001:db8::77".parse::<Ipv6Addr>()?);
    let ask = frames::arp(MAC_A.0, 1, Ipv4Addr::new(10, 9, 0, 1), v4);
    let wanted = [
        ask.clone(),
        ndp::solicitation(MAC_A, "2001:db8::1".parse()?, v6),
        // To a group that b has not joined, with a MAC that its NIC would not take.
        ndp::probe(MAC_A, "2001:db8::beef:1234".parse()?),
        ndp::unsolicited_advertisement(MAC_A, v6),
    ];
    let echo = frames::ipv6_from(MAC_A.0, "2001:db8::1".parse()?, "2001:db8::2".parse()?, 58, &frames::ndp(128, v6));
    let other = [
        echo,
        frames::tagged(&ask, 0x8100, 7),
        frames::tagged(&ask, 0x88a8, 7),
        frames::ipv4(Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2), 17, &[0; 8]),
        frames::ethernet([0xff; 6], MAC_A.0, 0x88cc, &[0; 50]),
        frames::cut(ndp::unsolicited_advertisement(MAC_A, v6), 50),
    ];
    for frame in &other {
        wire.send(frame)?;
    }
    for frame in &wanted {
        wire.send(frame)?;
    }
    let last = frames::arp(MAC_A.0, 1, Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 78));
    wire.send(&last)?;
    let seen = frames_until(&b, &last)?;
    let ours = |f: &&Vec<u8>| wanted.contains(f);
    assert_eq!(seen.iter().filter(ours).count(), wanted.len(), "{seen:02x?}");
    assert!(!seen.iter().any(|f| other.contains(f)), "{seen:02x?}");
    assert!(seen.iter().all(|f| f[12..14] == [8, 6] || (f[12..14] == [0x86, 0xdd] && (135..=136).contains(&f[54]))));
    Ok(())
}

#[test]
fn own_frames_go_out_whole_through_the_egress_hook_and_do_not_come_back() -> Result<()> {
    let pair = Pair::new()?;
    let a = pair.a.inside(|| Ok(NeighborSocket::open(pair.a0)?))?;
    let b = pair.b.inside(|| Ok(NeighborSocket::open(pair.b0)?))?;
    let first = announcement(100);
    a.send(&first)?;
    frames_until(&b, &first)?;
    let back = frames::arp([2, 0, 0, 0, 0, 0xb], 1, Ipv4Addr::new(10, 9, 0, 2), Ipv4Addr::new(10, 9, 0, 90));
    b.send(&back)?;
    assert!(!frames_until(&a, &back)?.contains(&first), "own frames are not delivered");

    // What stands at egress sees the frame: a socket that bypassed the queue would bypass the fence.
    pair.a.inside(|| {
        let rules = "table netdev t { chain c { type filter hook egress device a0 priority 0; arp saddr ip 10.9.0.100 drop; }; }";
        let done = Command::new("nft").arg(rules).status()?;
        ensure!(done.success(), "nft");
        Ok(())
    })?;
    // A frame that egress drops may be reported as such; what counts is that it does not arrive.
    let _dropped = a.send(&first);
    let last = frames::arp(MAC_A.0, 1, Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 79));
    a.send(&last)?;
    assert!(!frames_until(&b, &last)?.contains(&first));
    Ok(())
}

#[test]
fn a_neighbor_socket_outlives_its_link_going_down() -> Result<()> {
    let pair = Pair::new()?;
    let b = pair.b.inside(|| Ok(NeighborSocket::open(pair.b0)?))?;
    pair.b.inside(|| ip("link set b0 down"))?;
    let mut buffer = [0; 2048];
    while b.recv(&mut buffer)?.is_some() {}
    assert!(b.send(&announcement(1)).is_err());
    pair.b.inside(|| ip("link set b0 up"))?;
    let wire = pair.a.inside(|| Ok(Wire::open(pair.a0.0)?))?;
    let frame = frames::arp(MAC_A.0, 1, Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 78));
    bascule_suite::net::wait_for("the pair to run", || {
        Ok(pair.a.inside(|| ip("link show a0"))?.contains("state UP").then_some(()))
    })?;
    wire.send(&frame)?;
    frames_until(&b, &frame)?;
    assert!(pair.b.inside(|| Ok(NeighborSocket::open(LinkId(4000))?)).is_err());
    Ok(())
}

#[test]
fn peer_datagrams_arrive_by_group_and_by_address() -> Result<()> {
    let pair = Pair::new()?;
    for (family, src, group, unicast) in [(Family::V4, A4, GROUP4, B4), (Family::V6, A6, GROUP6, B6)] {
        let a = pair.a.inside(|| Ok(PeerSocket::open(family, 3112)?))?;
        let b = pair.b.inside(|| Ok(PeerSocket::open(family, 3112)?))?;
        assert!(pair.b.inside(|| Ok(PeerSocket::open(family, 3112)?)).is_err(), "the port is ours alone");
        b.join(pair.b0)?;
        let wire = pair.b.inside(|| Ok(Wire::open(pair.b0.0)?))?;
        let mut buffer = [0; 64];
        for (dst, byte) in [(group, 1), (unicast, 2)] {
            a.send(pair.a0, src, dst, 3112, &[byte; 5])?;
            let got = bascule_suite::net::wait_for("a peer datagram", || Ok(b.recv(&mut buffer)?))?;
            assert_eq!(got, (pair.b0, src, 5));
            assert_eq!(buffer[..5], [byte; 5]);
        }
        assert_eq!(a.recv(&mut buffer)?, None, "own datagrams do not come back");
        let ttl = if family == Family::V4 { 14 + 8 } else { 14 + 7 };
        let is_multicast = |f: &[u8]| f[0] & 1 == 1 && f.len() > 40 && (f[23] == 17 || f[20] == 17);
        let frame = wire.wait_for(PATIENCE, is_multicast)?.context("the multicast datagram")?;
        assert_eq!(frame[ttl], 1, "multicast stays on the link");
    }
    Ok(())
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// A gratuitous ARP request of a for 10.9.0.`host`.
fn announcement(host: u8) -> Vec<u8> {
    Arp::announcement(MAC_A, Ipv4Addr::new(10, 9, 0, host)).encode(Mac::BROADCAST)
}
