//! Every rule of `docs/fence.md` over a table of frames, each in every state a shard can be in.
//!
//! A row says what a frame needs; a state says which needs it meets. Verdict and counted reason must follow.

mod frames;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use bascule::dataplane::{Attach, Direction, Family, Fence, Forwarded, Opening};
use bascule_ebpf_common::{DropReason, FLAG_HANDOVER, FLAG_NO_ACCEPT, HEED_NOBODY, ShardCtl};
use bascule_suite::fence::frames::{
    CLIENT_MAC, RIVAL_MAC, advert, arp, cut, extension, fragment, ipv4, ipv4_fragment, ipv4_options, ipv6, ndp,
    sent_by, tagged,
};
use bascule_suite::fence::{Ground, Outcome, boot_ns, test_run};

use frames::{egress_adverts, egress_arp, egress_ipv4, egress_ipv6, ingress_ipv4, ingress_ipv6};

use Direction::{Egress, Ingress};
use Need::{Advert, Answer, Deliver, Never, Nothing, Release};

/// What a frame needs to pass.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Need {
    Nothing,
    Answer,
    Deliver,
    /// An advert with a priority.
    Advert,
    /// An advert with priority 0.
    Release,
    /// Speaks for the VIP on a link that is not the VIP's.
    Never,
}

/// A state and what it allows.
struct State {
    name: &'static str,
    role: u32,
    flags: u32,
    deadline: bool,
    drain: bool,
    muted: bool,
    deposed: bool,
    allows: &'static [Need],
    /// Why adverts are dropped, if they are.
    advert_reason: DropReason,
}

const fn state(name: &'static str, role: u32, deadline: bool, drain: bool, allows: &'static [Need]) -> State {
    let advert_reason = if role == 1 { DropReason::AdvertExpired } else { DropReason::AdvertRole };
    State { name, role, flags: 0, deadline, drain, muted: false, deposed: false, allows, advert_reason }
}

const STATES: [State; 13] = [
    state("backup", 0, false, false, &[]),
    state("backup, times ahead", 0, true, true, &[]),
    state("active", 1, true, false, &[Answer, Deliver, Advert, Release]),
    state("active, deadline passed", 1, false, false, &[]),
    state("active, passed, drain ahead", 1, false, true, &[]),
    State { flags: FLAG_NO_ACCEPT, ..state("no accept", 1, true, false, &[Answer, Advert, Release]) },
    State { flags: FLAG_HANDOVER, ..state("granted away", 1, true, false, &[Answer, Deliver, Advert, Release]) },
    State { flags: FLAG_HANDOVER, muted: true, ..state("muted", 1, true, false, &[Deliver, Advert, Release]) },
    State { deposed: true, advert_reason: DropReason::AdvertRole, ..state("deposed", 1, true, false, &[]) },
    state("leaving", 2, true, true, &[Deliver, Release]),
    State { flags: FLAG_NO_ACCEPT, ..state("leaving, no accept", 2, true, true, &[Deliver, Release]) },
    state("leaving, over", 2, false, false, &[]),
    state("unknown role", 9, true, true, &[]),
];

const HOUR: u64 = 3_600_000_000_000;
const SLOT: u32 = 5;
const VRID: u8 = 51;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
/// A VIP of another shard, always open: only what is asked of `SLOT` decides.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 200);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 50);
const ZERO: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const VRRP4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);
const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x200);
const HOST6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x50);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const VRRP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

struct Row {
    name: String,
    direction: Direction,
    second_link: bool,
    need: Need,
    frame: Vec<u8>,
}

fn row(direction: Direction, need: Need, name: &str, frame: Vec<u8>) -> Row {
    Row { name: name.to_owned(), direction, second_link: false, need, frame }
}

fn second(direction: Direction, need: Need, name: &str, frame: Vec<u8>) -> Row {
    Row { second_link: true, ..row(direction, need, name, frame) }
}

/// A cut frame behind a priority tag: the kernel refuses to run a bare IP frame shorter than its header.
fn short(frame: Vec<u8>, length: usize) -> Vec<u8> {
    tagged(&cut(frame, length), 0x8100, 0)
}

/// The same need with a priority tag; none with the tag of another VLAN.
fn with_tags(rows: &mut Vec<Row>, direction: Direction, need: Need, name: &str, frame: &[u8]) {
    rows.push(row(direction, need, name, frame.to_vec()));
    for (what, tpid, tci, tagged_need) in [
        ("priority tag", 0x8100, 0xe000, need),
        ("802.1ad priority tag", 0x88a8, 0, need),
        ("VLAN 7", 0x8100, 7, Nothing),
        ("VLAN 4095 with priority", 0x8100, 0xefff, Nothing),
    ] {
        rows.push(row(direction, tagged_need, &format!("{name}, {what}"), tagged(frame, tpid, tci)));
    }
    let twice = tagged(&tagged(frame, 0x8100, 0), 0x88a8, 0x2000);
    rows.push(row(direction, need, &format!("{name}, two priority tags"), twice));
    let inner = tagged(&tagged(frame, 0x8100, 7), 0x88a8, 0);
    rows.push(row(direction, Nothing, &format!("{name}, VLAN 7 in a priority tag"), inner));
}

/// Brings the shard into a state, in a term of its own.
fn enter(fence: &mut Fence, ifindex: u32, state: &State, term: u64) -> Result<()> {
    let ahead = |on: bool| if on { boot_ns() + HOUR } else { boot_ns() - 1 };
    fence.write(
        SLOT,
        &ShardCtl {
            role: state.role,
            flags: state.flags,
            term,
            deadline_ns: ahead(state.deadline),
            deliver_until_ns: ahead(state.drain),
            interval_ns: 100_000_000,
            // The silence is broken at once below: a claim that stands on it is void.
            heed_ns: if state.deposed { 0 } else { HEED_NOBODY },
        },
    )?;
    if state.deposed {
        let frame = sent_by(RIVAL_MAC, 255, ipv4(CLIENT, VRRP4, 112, &advert(VRID, 1, 10)));
        assert_eq!(test_run(fence.program_fd(Ingress)?, ifindex, &frame)?, Outcome::Pass);
    }
    if state.muted {
        let announcement = arp(RIVAL_MAC, 1, VIP, VIP);
        assert_eq!(test_run(fence.program_fd(Ingress)?, ifindex, &announcement)?, Outcome::Pass);
        assert_eq!(fence.read(SLOT)?.1.answer_closed_term, term);
    }
    Ok(())
}

fn expected_reason(row: &Row, state: &State) -> Option<DropReason> {
    if row.need == Nothing || state.allows.contains(&row.need) {
        return None;
    }
    Some(match (row.need, row.direction) {
        (Answer, Ingress) => DropReason::IngressAnswer,
        (Answer, Egress) => DropReason::EgressAnswer,
        (Never, Ingress) => DropReason::IngressSecondLink,
        (Never, Egress) => DropReason::EgressSecondLink,
        (Deliver, Ingress) => DropReason::IngressDeliver,
        (Deliver, Egress) => DropReason::EgressDeliver,
        // A node that is leaving may release, but not after its deadline.
        (Release, _) if state.role == 2 => DropReason::AdvertExpired,
        _ => state.advert_reason,
    })
}

#[test]
fn every_frame_in_every_state() {
    Ground::run(|ground| {
        ground.ip("link add va type veth peer name vb")?;
        let (va, vb) = (ground.ifindex("va")?, ground.ifindex("vb")?);
        let mut fence = ground.fence()?;
        fence.attach(va, Attach::Auto)?;
        let routers = [(Family::V4, VRID), (Family::V6, VRID)];
        fence.register(SLOT, va, &[VIP.into(), VIP6.into()], &routers)?;
        fence.register(SLOT + 1, va, &[OTHER.into(), OTHER6.into()], &[])?;
        let open = ShardCtl { role: 1, term: 1, deadline_ns: boot_ns() + HOUR, ..ShardCtl::default() };
        fence.write(SLOT + 1, &open)?;

        let mut rows = Vec::new();
        egress_arp(&mut rows);
        egress_ipv4(&mut rows);
        egress_adverts(&mut rows);
        egress_ipv6(&mut rows);
        ingress_ipv4(&mut rows);
        ingress_ipv6(&mut rows);

        let mut term = 0;
        let mut verdicts = 0;
        let mut drops = 0;
        let mut failures = Vec::new();
        for row in &rows {
            for state in &STATES {
                term += 1;
                enter(&mut fence, va, state, term)?;
                let before = fence.counters()?;
                let ifindex = if row.second_link { vb } else { va };
                let outcome = test_run(fence.program_fd(row.direction)?, ifindex, &row.frame)
                    .with_context(|| row.name.clone())?;
                let after = fence.counters()?;
                let reason = expected_reason(row, state);
                let want = if reason.is_some() { Outcome::Drop } else { Outcome::Pass };
                let counted = DropReason::ALL
                    .into_iter()
                    .all(|r| after.drops(r) - before.drops(r) == u64::from(Some(r) == reason));
                let advert = outcome == Outcome::Pass && matches!(row.need, Advert | Release);
                let passed = after.adverts_passed - before.adverts_passed == u64::from(advert);
                if outcome != want || !counted || !passed {
                    failures.push(format!(
                        "{:?} {:?} in state {:?}: {outcome:?}, expected {want:?} for {reason:?} (drops counted right: \
                         {counted}, adverts counted right: {passed})",
                        row.direction, row.name, state.name
                    ));
                }
                verdicts += 1;
                drops += usize::from(outcome == Outcome::Drop);
            }
        }
        println!("{} frames x {} states = {verdicts} verdicts, {drops} drops", rows.len(), STATES.len());
        assert!(failures.is_empty(), "{} wrong verdicts:\n{}", failures.len(), failures.join("\n"));
        Ok(())
    })
    .unwrap();
}

/// What the forwarding plane serves here in the test below.
fn served() -> BTreeSet<Forwarded> {
    let entry = |vip: IpAddr, port, protocol| Forwarded { vip, port, protocol };
    let mut all = BTreeSet::new();
    for vip in [VIP.into(), VIP6.into()] {
        all.extend([entry(vip, 53, 17), entry(vip, 443, 6), entry(vip, 5060, 132), entry(vip, 0, 17)]);
    }
    all.extend([entry(VIP.into(), 0, 1), entry(VIP6.into(), 0, 58)]);
    all
}

/// Ports on the wire, with some payload behind them.
fn ports(source: u16, destination: u16) -> Vec<u8> {
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0; 16]].concat()
}

/// Frames of a VIP that is served by forwarding: those that are, which pass whatever the shard says, and those that are not.
fn forwarded_rows() -> Vec<(bool, Row)> {
    let mut rows = Vec::new();
    let mut both = |open: bool, name: &str, protocol: u8, port: u16| {
        let (out, into) = (ports(port, 9), ports(9, port));
        let frames = [
            (Egress, "from", ipv4(VIP, CLIENT, protocol, &out), ipv6(VIP6, CLIENT6, protocol, &out)),
            (Ingress, "to", ipv4(CLIENT, VIP, protocol, &into), ipv6(CLIENT6, VIP6, protocol, &into)),
        ];
        for (direction, way, v4, v6) in frames {
            rows.push((open, row(direction, Deliver, &format!("ipv4 {name} {way} the VIP"), v4.clone())));
            rows.push((open, row(direction, Deliver, &format!("ipv6 {name} {way} the VIP"), v6)));
            rows.push((open, second(direction, Deliver, &format!("{name} {way} the VIP, second link"), v4)));
        }
    };
    both(true, "udp 53", 17, 53);
    both(true, "tcp 443", 6, 443);
    both(true, "sctp 5060", 132, 5060);
    both(false, "udp 54", 17, 54);
    both(false, "tcp 53", 6, 53);
    both(false, "udp with the client on port 53 only", 17, 9);
    both(false, "sctp 443", 132, 443);
    both(false, "gre", 47, 53);
    let (out, into) = (ports(53, 9), ports(9, 53));
    let closed = |r: Row| (false, r);
    let open = |r: Row| (true, r);
    rows.extend([
        open(row(Egress, Deliver, "first fragment out", ipv4_fragment(VIP, CLIENT, 17, 0x2000, &out))),
        open(row(Egress, Deliver, "later fragment out", ipv4_fragment(VIP, CLIENT, 17, 0x00b9, &out))),
        open(row(Ingress, Deliver, "first fragment in", ipv4_fragment(CLIENT, VIP, 17, 0x2000, &into))),
        open(row(Ingress, Deliver, "later fragment in", ipv4_fragment(CLIENT, VIP, 17, 0x00b9, &into))),
        closed(row(Ingress, Deliver, "later fragment of tcp", ipv4_fragment(CLIENT, VIP, 6, 0x00b9, &ports(9, 443)))),
        closed(row(Ingress, Deliver, "ports cut off", ipv4(CLIENT, VIP, 17, &into[..3]))),
        closed(row(Egress, Deliver, "port cut off", ipv4(VIP, CLIENT, 17, &out[..1]))),
        open(row(Ingress, Deliver, "behind options", ipv4_options(CLIENT, VIP, 17, 10, &into))),
        open(row(Ingress, Deliver, "behind hop-by-hop", ipv6(CLIENT6, VIP6, 0, &extension(17, 2, &into)))),
        open(row(Egress, Deliver, "v6 first fragment", ipv6(VIP6, CLIENT6, 44, &fragment(17, 0, true, &out)))),
        open(row(Egress, Deliver, "v6 later fragment", ipv6(VIP6, CLIENT6, 44, &fragment(17, 1448, false, &out)))),
        closed(row(Egress, Deliver, "v6 later of tcp", ipv6(VIP6, CLIENT6, 44, &fragment(6, 1448, false, &out)))),
        open(row(Ingress, Deliver, "echo in", ipv4(CLIENT, VIP, 1, &[8, 0, 0, 0, 0, 0, 0, 0]))),
        open(row(Egress, Deliver, "echo reply out", ipv4(VIP, CLIENT, 1, &[0; 8]))),
        open(row(Ingress, Deliver, "v6 echo in", ipv6(CLIENT6, VIP6, 58, &ndp(128, VIP6)))),
        open(row(Egress, Deliver, "v6 error out", ipv6(VIP6, CLIENT6, 58, &ndp(1, VIP6)))),
        open(row(Egress, Deliver, "to another VIP", ipv4(VIP, OTHER, 17, &out))),
        closed(row(Ingress, Deliver, "discovery to the VIP", ipv6(CLIENT6, VIP6, 58, &ndp(136, CLIENT6)))),
        closed(row(Ingress, Deliver, "solicitation for us", ipv6(CLIENT6, VIP6, 58, &ndp(135, HOST6)))),
        closed(row(Ingress, Answer, "solicitation for the VIP", ipv6(CLIENT6, VIP6, 58, &ndp(135, VIP6)))),
        closed(row(Egress, Answer, "advertisement by the VIP", ipv6(VIP6, CLIENT6, 58, &ndp(136, VIP6)))),
        closed(row(Ingress, Answer, "arp request", arp(CLIENT_MAC, 1, CLIENT, VIP))),
        closed(row(Egress, Answer, "arp reply", arp(CLIENT_MAC, 2, VIP, CLIENT))),
    ]);
    rows
}

#[test]
fn what_is_forwarded_passes_in_every_state_and_nothing_else_does() {
    Ground::run(|ground| {
        ground.ip("link add va type veth peer name vb")?;
        let (va, vb) = (ground.ifindex("va")?, ground.ifindex("vb")?);
        let mut fence = ground.fence()?;
        fence.attach(va, Attach::Auto)?;
        fence.register(SLOT, va, &[VIP.into(), VIP6.into()], &[(Family::V4, VRID)])?;
        fence.register(SLOT + 1, va, &[OTHER.into(), OTHER6.into()], &[])?;
        fence.forward(&Opening::Whole(Vec::from_iter(served())))?;
        let rows = forwarded_rows();
        let mut failures = Vec::new();
        for (term, state) in (1..).zip(&STATES) {
            enter(&mut fence, va, state, term)?;
            for (open, row) in &rows {
                let ifindex = if row.second_link { vb } else { va };
                let outcome = test_run(fence.program_fd(row.direction)?, ifindex, &row.frame)
                    .with_context(|| row.name.clone())?;
                let pass = *open || expected_reason(row, state).is_none();
                if outcome != if pass { Outcome::Pass } else { Outcome::Drop } {
                    failures.push(format!("{:?} {:?} in state {:?}: {outcome:?}", row.direction, row.name, state.name));
                }
            }
        }
        println!("{} frames x {} states", rows.len(), STATES.len());
        assert!(failures.is_empty(), "{} wrong verdicts:\n{}", failures.len(), failures.join("\n"));

        // What a former run served goes on until this one says what it serves.
        let frame = ipv4(CLIENT, VIP, 17, &ports(9, 53));
        drop(fence);
        let mut fence = ground.fence()?;
        assert_eq!(test_run(fence.program_fd(Ingress)?, va, &frame)?, Outcome::Pass);
        let mut less = served();
        less.remove(&Forwarded { vip: VIP.into(), port: 53, protocol: 17 });
        fence.forward(&Opening::Whole(Vec::from_iter(less)))?;
        assert_eq!(test_run(fence.program_fd(Ingress)?, va, &frame)?, Outcome::Drop);
        let other = ipv4(CLIENT, VIP, 6, &ports(9, 443));
        assert_eq!(test_run(fence.program_fd(Ingress)?, va, &other)?, Outcome::Pass);
        let [dns, web] = [(53, 17), (443, 6)].map(|(port, protocol)| Forwarded { vip: VIP.into(), port, protocol });
        for (gone, new) in [(web, dns), (dns, web)] {
            fence.forward(&Opening::Change { gone: vec![gone], new: vec![new] })?;
            let verdict = |at: Forwarded| if at == new { Outcome::Pass } else { Outcome::Drop };
            assert_eq!(
                test_run(fence.program_fd(Ingress)?, va, &frame)?,
                verdict(dns),
                "a difference changes what it names"
            );
            assert_eq!(test_run(fence.program_fd(Ingress)?, va, &other)?, verdict(web));
        }
        fence.clear()?;
        fence.register(SLOT, va, &[VIP.into()], &[])?;
        assert_eq!(test_run(fence.program_fd(Ingress)?, va, &other)?, Outcome::Drop);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_slot_outside_the_maps_is_closed() {
    // The loader refuses such a slot; the program must not depend on it. Slot 1023 is the last one.
    Ground::run(|ground| {
        let mut fence = ground.fence()?;
        assert!(fence.register(1024, 1, &[VIP.into()], &[]).is_err());
        fence.register(1023, 1, &[VIP.into()], &[])?;
        let frame = ipv4(CLIENT, VIP, 17, &[0; 8]);
        assert_eq!(test_run(fence.program_fd(Ingress)?, 1, &frame)?, Outcome::Drop);
        let open = ShardCtl { role: 1, term: 1, deadline_ns: boot_ns() + HOUR, ..ShardCtl::default() };
        fence.write(1023, &open)?;
        assert_eq!(test_run(fence.program_fd(Ingress)?, 1, &frame)?, Outcome::Pass);
        assert!(fence.write(1024, &open).is_err());
        assert!(fence.write(1, &ShardCtl { term: 0, ..open }).is_err(), "an Active needs a term");
        fence.unregister(1023)?;
        assert_eq!(fence.read(1023)?.0, ShardCtl::default());
        assert_eq!(test_run(fence.program_fd(Ingress)?, 1, &frame)?, Outcome::Pass, "no VIP of ours any more");
        Ok(())
    })
    .unwrap();
}
