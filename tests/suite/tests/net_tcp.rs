//! TCP for BGP between namespaces: what connects, what does not, and how it looks on the wire.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule::net::tcp::{Dial, Hops, Key, Listener, Options, Read, Stream};
use bascule_core::types::LinkId;
use bascule_suite::fence::{Netns, Wire, give_address};
use bascule_suite::net::{PATIENCE, Pair, index, ip, wait_for};

const PORT: u16 = 1790;

fn plain() -> Options {
    let user_timeout = Duration::from_secs(30);
    Options { source: None, interface: None, hops: Hops::Limit(255), key: None, user_timeout }
}

fn keyed(key: &str) -> Options {
    Options { key: Some(Key(key.as_bytes().to_vec())), ..plain() }
}

fn at(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), PORT)
}

/// Listens on every address of a family in `netns`.
fn listen_at_once(netns: &Netns, v6: bool) -> Result<Listener> {
    let any = if v6 { at("::") } else { at("0.0.0.0") };
    let listener = netns.inside(|| Ok(Listener::bind(any)?))?;
    listener.listen()?;
    Ok(listener)
}

/// The same where a listener may just have gone: it lives on for a moment in a child that another test is starting (between fork and exec).
fn listen(netns: &Netns, v6: bool) -> Result<Listener> {
    wait_for("the port to be free", || match listen_at_once(netns, v6) {
        Err(error) if format!("{error:#}").contains("Address already in use") => Ok(None),
        other => other.map(Some),
    })
}

fn dial(netns: &Netns, remote: SocketAddr, how: &Options) -> Result<Dial> {
    netns.inside(|| Ok(Dial::start(remote, how)?))
}

fn settle(dial: Dial) -> Result<Stream> {
    wait_for("the connection", || Ok(dial.settled().transpose()?))?;
    Ok(dial.into_stream()?)
}

fn accept(listener: &Listener) -> Result<Stream> {
    wait_for("a connection to accept", || Ok(listener.accept()?))
}

/// Both ends of a connection that `a` dials.
fn connect(pair: &Pair, listener: &Listener, remote: &str, how: &Options) -> Result<(Stream, Stream)> {
    let stream = settle(dial(&pair.a, at(remote), how)?)?;
    Ok((stream, accept(listener)?))
}

fn take(stream: &Stream, wanted: &[u8]) -> Result<()> {
    let mut all: Vec<u8> = Vec::new();
    wait_for("bytes", || {
        let mut buffer = [0; 1500];
        match stream.read(&mut buffer)? {
            Read::Bytes(count) => all.extend(&buffer[..count]),
            Read::Nothing => {}
            Read::End => anyhow::bail!("ended after {all:?}"),
        }
        Ok((all.len() >= wanted.len()).then_some(()))
    })?;
    ensure!(all == wanted, "{all:?}");
    Ok(())
}

fn pass_bytes(from: &Stream, to: &Stream) -> Result<()> {
    ensure!(from.write(b"hello")? == 5);
    take(to, b"hello")
}

/// A counter of `TcpExt` in a namespace.
fn counter(netns: &Netns, name: &str) -> Result<u64> {
    let text = netns.inside(|| Ok(std::fs::read_to_string("/proc/thread-self/net/netstat")?))?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
    let place = names.split_whitespace().position(|n| n == name).with_context(|| name.to_owned())?;
    Ok(values.split_whitespace().nth(place).context("value")?.parse()?)
}

/// A dial whose segments `netns` throws away for the reason that `name` counts: it stays unsettled.
fn dropped(pair: &Pair, remote: &str, how: &Options, netns: &Netns, name: &str) -> Result<()> {
    let before = counter(netns, name)?;
    let dial = dial(&pair.a, at(remote), how)?;
    wait_for(name, || Ok((counter(netns, name)? > before).then_some(())))?;
    ensure!(dial.settled().is_none(), "{name} was counted, and yet it settled");
    Ok(())
}

#[test]
fn only_the_right_key_connects() -> Result<()> {
    let pair = Pair::new()?;
    let through = |how: Options| Options { interface: Some("a0".to_owned()), ..how };
    for (local, remote) in [("10.9.0.1", "10.9.0.2"), ("2001:db8::1", "2001:db8::2"), ("fe80::a", "fe80::b")] {
        let (local, how): (IpAddr, _) =
            (local.parse()?, |how| if remote.starts_with("fe80") { through(how) } else { how });
        let listener = listen(&pair.b, local.is_ipv6())?;
        listener.set_key(local, Some(&Key(b"right".to_vec())))?;
        dropped(&pair, remote, &how(keyed("wrong")), &pair.b, "TCPMD5Failure")?;
        dropped(&pair, remote, &how(plain()), &pair.b, "TCPMD5NotFound")?;
        let (here, there) = connect(&pair, &listener, remote, &how(keyed("right")))?;
        assert_eq!(there.remote().ip(), local);
        pass_bytes(&here, &there)?;
        pass_bytes(&there, &here)?;
        // Without a key on the listener a signed segment is not heard either.
        listener.set_key(local, None)?;
        listener.set_key(local, None)?;
        dropped(&pair, remote, &how(keyed("right")), &pair.b, "TCPMD5Unexpected")?;
        let (here, there) = connect(&pair, &listener, remote, &how(plain()))?;
        pass_bytes(&here, &there)?;
    }
    Ok(())
}

#[test]
fn a_new_key_holds_for_new_connections_and_the_old_one_goes_on() -> Result<()> {
    let pair = Pair::new()?;
    let listener = listen(&pair.b, false)?;
    let a: IpAddr = "10.9.0.1".parse()?;
    listener.set_key(a, Some(&Key(b"first".to_vec())))?;
    let (old_here, old_there) = connect(&pair, &listener, "10.9.0.2", &keyed("first"))?;
    listener.set_key(a, Some(&Key(b"second, and longer".to_vec())))?;
    dropped(&pair, "10.9.0.2", &keyed("first"), &pair.b, "TCPMD5Failure")?;
    let (here, there) = connect(&pair, &listener, "10.9.0.2", &keyed("second, and longer"))?;
    pass_bytes(&here, &there)?;
    pass_bytes(&old_here, &old_there)?;
    pass_bytes(&old_there, &old_here)
}

#[test]
fn keys_have_1_to_80_bytes() -> Result<()> {
    let pair = Pair::new()?;
    let listener = listen(&pair.b, false)?;
    let (longest, longer) = ("k".repeat(80), "k".repeat(81));
    listener.set_key("10.9.0.1".parse()?, Some(&Key(longest.clone().into_bytes())))?;
    connect(&pair, &listener, "10.9.0.2", &keyed(&longest))?;
    let error = dial(&pair.a, at("10.9.0.2"), &keyed(&longer)).expect_err("81 bytes").to_string();
    assert!(error.starts_with("passwordFile, key for 10.9.0.2: Invalid argument"), "{error}");
    Ok(())
}

/// `a`, then `b` as a router, then `c`: `a` is one hop too far for a neighbor of `c`.
struct Routed {
    pair: Pair,
    c: Netns,
    c0: LinkId,
}

impl Routed {
    fn new() -> Result<Self> {
        let (pair, c) = (Pair::new()?, Netns::new()?);
        let there = c.path();
        pair.b.inside(|| {
            ip("link add b1 type veth peer name c0")?;
            ip(&format!("link set c0 netns {there}"))?;
            ip("link set b1 up")?;
            ip("addr add 10.9.1.1/24 dev b1")?;
            give_address("2001:db8:1::1/64", "b1")?;
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
            Ok(())
        })?;
        let c0 = c.inside(|| {
            ip("link set c0 up")?;
            ip("addr add 10.9.1.2/24 dev c0")?;
            give_address("2001:db8:1::2/64", "c0")?;
            ip("route add default via 10.9.1.1")?;
            ip("-6 route add default via 2001:db8:1::1")?;
            index("c0")
        })?;
        pair.a.inside(|| {
            ip("route add 10.9.1.0/24 via 10.9.0.2")?;
            ip("-6 route add 2001:db8:1::/64 via 2001:db8::2")
        })?;
        wait_for("c0 to run", || Ok(c.inside(|| ip("link show c0"))?.contains("state UP").then_some(())))?;
        Ok(Self { pair, c, c0 })
    }
}

#[test]
fn gtsm_does_not_hear_a_sender_that_is_too_far() -> Result<()> {
    let lab = Routed::new()?;
    for remote in ["10.9.1.2", "2001:db8:1::2"] {
        let listener = listen(&lab.c, remote.contains(':'))?;
        let one = Options { hops: Hops::Security(1), ..plain() };
        let two = Options { hops: Hops::Security(2), ..plain() };
        listener.set_hops(one.hops.ttl(), one.hops.least())?;
        dropped(&lab.pair, remote, &one, &lab.c, "TCPMinTTLDrop")?;
        listener.set_hops(two.hops.ttl(), two.hops.least())?;
        let (here, there) = connect(&lab.pair, &listener, remote, &two)?;
        there.protect(&two)?;
        pass_bytes(&here, &there)?;
        pass_bytes(&there, &here)?;
        // The dialling side judges the answers.
        dropped(&lab.pair, remote, &one, &lab.pair.a, "TCPMinTTLDrop")?;
        // What stands is protected as well: its segments with a smaller TTL are not heard.
        there.protect(&one)?;
        let before = counter(&lab.c, "TCPMinTTLDrop")?;
        ensure!(here.write(b"unheard")? == 7);
        wait_for("a drop", || Ok((counter(&lab.c, "TCPMinTTLDrop")? > before).then_some(())))?;
        assert_eq!(there.read(&mut [0; 16])?, Read::Nothing);
    }
    Ok(())
}

#[test]
fn a_ttl_of_one_does_not_pass_a_router() -> Result<()> {
    let lab = Routed::new()?;
    let listener = listen(&lab.c, false)?;
    let near = Options { hops: Hops::Limit(1), ..plain() };
    let dial = dial(&lab.pair.a, at("10.9.1.2"), &near)?;
    let error = wait_for("the router's answer", || Ok(dial.settled()))?.expect_err("too far").to_string();
    assert!(error.starts_with("cannot connect to 10.9.1.2:1790: No route to host"), "{error}");
    assert!(listener.accept()?.is_none());
    let wire = lab.c.inside(|| Ok(Wire::open(lab.c0.0)?))?;
    let multihop = Options { hops: Hops::Limit(2), ..plain() };
    let (_here, _there) = connect(&lab.pair, &listener, "10.9.1.2", &multihop)?;
    let frame = wire.wait_for(PATIENCE, |f| f[12..14] == [8, 0] && f[23] == 6)?.context("a segment")?;
    assert_eq!(frame[22], 1, "one of two is left");
    Ok(())
}

/// TTL and DSCP of a segment with these flags, either family.
fn seen(wire: &Wire, v6: bool, flags: u8) -> Result<(u8, u8)> {
    let segment = move |f: &[u8]| {
        if v6 {
            f.len() > 67 && f[12..14] == [0x86, 0xdd] && f[20] == 6 && f[67] & 0x3f == flags
        } else {
            f.len() > 47 && f[12..14] == [8, 0] && f[23] == 6 && f[47] & 0x3f == flags
        }
    };
    let frame = wire.wait_for(PATIENCE, segment)?.context("a segment")?;
    Ok(if v6 { (frame[21], (frame[14] << 4) | (frame[15] >> 4)) } else { (frame[22], frame[15]) })
}

#[test]
fn ttl_and_dscp_are_as_asked_from_the_first_segment_on() -> Result<()> {
    const SYN: u8 = 0x02;
    const SYN_ACK: u8 = 0x12;
    const PUSH_ACK: u8 = 0x18;
    let pair = Pair::new()?;
    for remote in ["10.9.0.2", "2001:db8::2"] {
        let v6 = remote.contains(':');
        for hops in [Hops::Limit(1), Hops::Limit(7), Hops::Security(1)] {
            let listener = listen(&pair.b, v6)?;
            listener.set_hops(hops.ttl(), hops.least())?;
            let (at_a, at_b) =
                (pair.a.inside(|| Ok(Wire::open(pair.a0.0)?))?, pair.b.inside(|| Ok(Wire::open(pair.b0.0)?))?);
            let (here, there) = connect(&pair, &listener, remote, &Options { hops, ..plain() })?;
            assert_eq!(seen(&at_b, v6, SYN)?, (hops.ttl(), 0xc0), "{remote} {hops:?}");
            assert_eq!(seen(&at_a, v6, SYN_ACK)?, (hops.ttl(), 0xc0), "{remote} {hops:?}");
            there.protect(&Options { hops, ..plain() })?;
            pass_bytes(&here, &there)?;
            pass_bytes(&there, &here)?;
            assert_eq!(seen(&at_b, v6, PUSH_ACK)?, (hops.ttl(), 0xc0), "{remote} {hops:?}");
            assert_eq!(seen(&at_a, v6, PUSH_ACK)?, (hops.ttl(), 0xc0), "{remote} {hops:?}");
        }
    }
    Ok(())
}

/// A second neighbor of `a` with the addresses of `b`, behind the link `a1`.
fn twin(pair: &Pair) -> Result<Netns> {
    let twin = Netns::new()?;
    let there = twin.path();
    pair.a.inside(|| {
        ip("link add a1 type veth peer name t0")?;
        ip(&format!("link set t0 netns {there}"))?;
        ip("link set a1 up")?;
        ip("addr add 10.9.0.4/24 dev a1")?;
        give_address("2001:db8::4/64", "a1")
    })?;
    twin.inside(|| {
        ip("link set t0 up")?;
        ip("addr add 10.9.0.2/24 dev t0")?;
        give_address("2001:db8::2/64", "t0")
    })?;
    wait_for("the twin", || Ok(pair.a.inside(|| ip("link show a1"))?.contains("state UP").then_some(())))?;
    Ok(twin)
}

#[test]
fn source_and_interface_are_honoured() -> Result<()> {
    let pair = Pair::new()?;
    let twin = twin(&pair)?;
    pair.a.inside(|| {
        ip("addr add 10.9.0.3/24 dev a0")?;
        give_address("2001:db8::3/64", "a0")
    })?;
    for (source, remote) in [("10.9.0.3", "10.9.0.2"), ("2001:db8::3", "2001:db8::2")] {
        let v6 = remote.contains(':');
        let (listener, other) = (listen(&pair.b, v6)?, listen(&twin, v6)?);
        let source: IpAddr = source.parse()?;
        let through = |name: &str| Options { interface: Some(name.to_owned()), ..plain() };
        let (here, there) = connect(&pair, &listener, remote, &Options { source: Some(source), ..through("a0") })?;
        assert_eq!((here.local().ip(), there.remote().ip()), (source, source));
        // Routes alone would lead to one of the two: the interface leads to each.
        connect(&pair, &listener, remote, &through("a0"))?;
        connect(&pair, &other, remote, &through("a1"))?;
        let error = dial(&pair.a, at(remote), &through("nope")).expect_err("no such link").to_string();
        assert!(error.starts_with("interface nope: "), "{error}");
    }
    let foreign = Options { source: Some("10.9.0.77".parse()?), ..plain() };
    let error = dial(&pair.a, at("10.9.0.2"), &foreign).expect_err("not ours").to_string();
    assert!(error.starts_with("source 10.9.0.77: Cannot assign requested address"), "{error}");
    Ok(())
}

#[test]
fn a_link_local_neighbor_is_reached_through_its_interface_only() -> Result<()> {
    let pair = Pair::new()?;
    let listener = listen(&pair.b, true)?;
    let error = dial(&pair.a, at("fe80::b"), &plain()).expect_err("no scope").to_string();
    assert_eq!(error, "link-local address fe80::b needs `interface`");
    let source = Some("fe80::a".parse()?);
    let how = Options { interface: Some("a0".to_owned()), source, ..plain() };
    let (here, there) = connect(&pair, &listener, "fe80::b", &how)?;
    assert_eq!(here.local().ip(), "fe80::a".parse::<IpAddr>()?);
    let SocketAddr::V6(remote) = there.remote() else { panic!("an IPv6 connection") };
    assert_eq!(remote.scope_id(), pair.b0.0, "the accepting side knows the link");
    pass_bytes(&here, &there)
}

#[test]
fn a_refused_connection_and_a_taken_port_are_told_in_the_kernels_words() -> Result<()> {
    let pair = Pair::new()?;
    let dial = dial(&pair.a, at("10.9.0.2"), &plain())?;
    let error = wait_for("the refusal", || Ok(dial.settled()))?.expect_err("nobody listens").to_string();
    assert!(error.starts_with("cannot connect to 10.9.0.2:1790: Connection refused"), "{error}");
    let _first = listen_at_once(&pair.b, false)?;
    let error = listen_at_once(&pair.b, false).expect_err("taken").to_string();
    assert!(error.starts_with("listen 0.0.0.0:1790: Address already in use"), "{error}");
    // The other family of the same port is free: the listeners do not overlap.
    listen_at_once(&pair.b, true).map(drop)
}

#[test]
fn a_reader_that_stops_leaves_little_in_the_kernel() -> Result<()> {
    let pair = Pair::new()?;
    let listener = listen(&pair.b, false)?;
    let (here, there) = connect(&pair, &listener, "10.9.0.2", &plain())?;
    let chunk = [7; 4096];
    let mut buffer = vec![0; 1 << 16];
    let (mut sent, mut read) = (0, 0);
    // First as fast as both go: the kernel's send buffer grows with the window.
    wait_for("a fast transfer", || {
        sent += here.write(&chunk)?;
        if let Read::Bytes(count) = there.read(&mut buffer)? {
            read += count;
        }
        Ok((read > 16 << 20).then_some(()))
    })?;
    // Then the window closes. What waits comes down to 16 kB and the segment of up to 64 kB that was begun below that mark; without
    // the mark it stays at megabytes.
    let mut still = 0;
    wait_for("a closed window with little behind it", || {
        let taken = here.write(&chunk)?;
        sent += taken;
        let waiting = here.unacknowledged()?;
        still = if taken == 0 && waiting > 0 && waiting <= 96 << 10 { still + 1 } else { 0 };
        Ok((still > 10_000).then_some(()))
    })?;
    wait_for("all bytes at the other end", || {
        if let Read::Bytes(count) = there.read(&mut buffer)? {
            read += count;
        }
        Ok((read == sent).then_some(()))
    })?;
    wait_for("the last acknowledgement", || Ok((here.unacknowledged()? == 0).then_some(())))
}

#[test]
fn an_end_is_orderly_unless_it_is_an_abort() -> Result<()> {
    let pair = Pair::new()?;
    let listener = listen(&pair.b, false)?;
    let (here, there) = connect(&pair, &listener, "10.9.0.2", &plain())?;
    ensure!(here.write(b"last")? == 4);
    here.finish()?;
    take(&there, b"last")?;
    let ended = wait_for("the end", || Ok(Some(there.read(&mut [0; 16])?).filter(|r| *r != Read::Nothing)))?;
    assert_eq!(ended, Read::End);
    // The other direction goes on until it ends too.
    pass_bytes(&there, &here)?;

    let (here, there) = connect(&pair, &listener, "10.9.0.2", &plain())?;
    here.reset_on_close();
    drop(here);
    let error = wait_for("the reset", || Ok(there.read(&mut [0; 16]).err()))?;
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    Ok(())
}
