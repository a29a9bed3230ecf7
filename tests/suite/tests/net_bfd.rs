//! The BFD sockets between two namespaces: how packets look on the wire, and what a listener reports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use bascule::net::raw::{BfdListener, BfdSender, Datagram};
use bascule::net::rt::{Poller, boot_now};
use bascule_core::types::Family;
use bascule_suite::fence::Wire;
use bascule_suite::net::{PATIENCE, Pair, ip};

const A4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
const B4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2));
const A6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xa));
const B6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xb));
const PAYLOAD: &[u8; 24] = &[7; 24];
const SOURCE: u16 = 50_001;

fn take(listener: &BfdListener) -> Result<(Datagram, Vec<u8>)> {
    let mut poller = Poller::new()?;
    poller.add(listener, 1)?;
    let end = boot_now() + PATIENCE;
    let mut buffer = [0; 512];
    loop {
        if let Some(datagram) = listener.recv(&mut buffer)? {
            let payload = buffer[datagram.payload.clone()].to_vec();
            return Ok((datagram, payload));
        }
        ensure!(boot_now() < end, "no datagram");
        poller.wait(Some(end))?;
    }
}

#[test]
fn bfd_packets_have_ttl_255_cs6_their_ports_and_no_checksum_of_zero() -> Result<()> {
    let pair = Pair::new()?;
    let wire = pair.b.inside(|| Ok(Wire::open(pair.b0.0)?))?;
    for (multihop, port) in [(false, 3784_u16), (true, 4784)] {
        let (v4, v6) = pair.a.inside(|| {
            let open = |family| BfdSender::open(family, multihop, SOURCE);
            Ok((open(Family::V4)?, open(Family::V6)?))
        })?;
        let ports = [SOURCE.to_be_bytes(), port.to_be_bytes()].concat();
        v4.send(Some(pair.a0), Some(A4), B4, PAYLOAD)?;
        let frame = wire.wait_for(PATIENCE, |f| f[12..14] == [8, 0] && f[23] == 17)?.context("IPv4 packet")?;
        ensure!((frame[15], frame[22]) == (0xc0, 255), "TOS and TTL: {frame:?}");
        ensure!(frame[26..34] == [10, 9, 0, 1, 10, 9, 0, 2] && frame[34..38] == ports, "{frame:?}");
        ensure!(&frame[42..66] == PAYLOAD, "{frame:?}");
        v6.send(Some(pair.a0), Some(A6), B6, PAYLOAD)?;
        let frame = wire.wait_for(PATIENCE, |f| f[12..14] == [0x86, 0xdd] && f[20] == 17)?.context("IPv6 packet")?;
        ensure!((frame[14], frame[15] & 0xf0, frame[21]) == (0x6c, 0, 255), "class and hop limit: {frame:?}");
        ensure!(frame[54..58] == ports && frame[60..62] != [0, 0], "{frame:?}");
    }
    Ok(())
}

#[test]
fn bfd_listeners_report_link_addresses_and_ttl_and_hear_their_port_only() -> Result<()> {
    let pair = Pair::new()?;
    for (family, src, dst) in [(Family::V4, A4, B4), (Family::V6, A6, B6)] {
        let (near, far) =
            pair.b.inside(|| Ok((BfdListener::open(family, false)?, BfdListener::open(family, true)?)))?;
        ensure!((near.multihop(), far.multihop()) == (false, true));
        let (one, many) = pair
            .a
            .inside(|| Ok((BfdSender::open(family, false, SOURCE)?, BfdSender::open(family, true, SOURCE + 1)?)))?;
        one.send(Some(pair.a0), Some(src), dst, PAYLOAD)?;
        let (got, payload) = take(&near)?;
        ensure!((got.link, got.src, got.dst, got.ttl) == (pair.b0, src, dst, 255), "{got:?}");
        ensure!(payload == PAYLOAD);
        many.send(Some(pair.a0), Some(src), dst, PAYLOAD)?;
        let (got, _) = take(&far)?;
        ensure!((got.src, got.ttl) == (src, 255), "{got:?}");
        ensure!(near.recv(&mut [0; 512])?.is_none(), "the other port");
    }
    Ok(())
}

#[test]
fn bfd_without_link_and_source_follows_the_routes() -> Result<()> {
    let pair = Pair::new()?;
    let a = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    let b = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));
    for (family, src, dst) in [(Family::V4, A4, B4), (Family::V6, a, b)] {
        let listener = pair.b.inside(|| Ok(BfdListener::open(family, true)?))?;
        let sender = pair.a.inside(|| Ok(BfdSender::open(family, true, SOURCE)?))?;
        sender.send(None, None, dst, PAYLOAD)?;
        ensure!(take(&listener)?.0.src == src);
        ensure!(sender.send(None, Some(dst), dst, PAYLOAD).is_err(), "a source that is not ours");
    }
    Ok(())
}

#[test]
fn bfd_ports_are_not_shared() -> Result<()> {
    let pair = Pair::new()?;
    pair.a.inside(|| {
        let _first = BfdListener::open(Family::V4, false)?;
        let second = BfdListener::open(Family::V4, false).err().context("opened twice")?;
        ensure!(second.port_taken(), "{second}");
        // The other family and the other kind are other sockets.
        let _others = (BfdListener::open(Family::V6, false)?, BfdListener::open(Family::V4, true)?);
        let _sender = BfdSender::open(Family::V4, false, SOURCE)?;
        let again = BfdSender::open(Family::V4, false, SOURCE).err().context("opened twice")?;
        ensure!(again.port_taken(), "{again}");
        Ok(())
    })?;
    pair.a.inside(|| ip("link set a0 down"))?;
    let sender = pair.a.inside(|| Ok(BfdSender::open(Family::V4, false, SOURCE)?))?;
    let down = sender.send(Some(pair.a0), Some(A4), B4, PAYLOAD).err().context("sent into a link that is down")?;
    ensure!(!down.port_taken(), "{down}");
    Ok(())
}
