//! Adverts extend the deadline as they leave, and nothing else does; a successor mutes, and is handed what is new.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use bascule::dataplane::{Attach, Direction, Family, Fence};
use bascule_ebpf_common::{DropReason, FLAG_CONTINUED, FLAG_HANDOVER, HEED_NOBODY, ShardCtl, ShardKernel};
use bascule_suite::fence::frames::{RIVAL_MAC, advert, arp, ipv4, ipv6, ipv6_from, ndp, sent_by};
use bascule_suite::fence::{Ground, Outcome, boot_ns, test_run};

const MS: u64 = 1_000_000;
const HOUR: u64 = 3_600_000 * MS;
const SLOT: u32 = 0;
const VRID: u8 = 51;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const HOST6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

struct Stage {
    fence: Fence,
    va: u32,
    vb: u32,
}

impl Stage {
    fn set(ground: &Ground) -> Result<Self> {
        ground.ip("link add va type veth peer name vb")?;
        let (va, vb) = (ground.ifindex("va")?, ground.ifindex("vb")?);
        let mut fence = ground.fence()?;
        // Both links, as on a node: a rule that forgot to look at the link would find a MAC for either.
        fence.attach(va, Attach::Auto)?;
        fence.attach(vb, Attach::Auto)?;
        fence.register(SLOT, va, &[VIP.into(), VIP6.into()], &[(Family::V4, VRID), (Family::V6, VRID)])?;
        Ok(Self { fence, va, vb })
    }

    fn egress(&self, frame: &[u8]) -> Result<Outcome> {
        Ok(test_run(self.fence.program_fd(Direction::Egress)?, self.va, frame)?)
    }

    fn ingress(&self, ifindex: u32, frame: &[u8]) -> Result<Outcome> {
        Ok(test_run(self.fence.program_fd(Direction::Ingress)?, ifindex, frame)?)
    }

    /// Sends an advert; the outcome, and the deadline as [`now before + fence, now after + fence`] must contain it.
    fn advert(&self, priority: u8, centiseconds: u16) -> Result<(Outcome, u64, u64)> {
        let before = boot_ns();
        let outcome =
            self.egress(&ipv4(HOST, Ipv4Addr::new(224, 0, 0, 18), 112, &advert(VRID, priority, centiseconds)))?;
        Ok((outcome, before, boot_ns()))
    }

    fn kernel(&self) -> Result<ShardKernel> {
        Ok(self.fence.read(SLOT)?.1)
    }

    fn claim(&mut self, term: u64, deadline_ns: u64, interval_ns: u64) -> Result<()> {
        self.fence.write(SLOT, &ShardCtl { role: 1, term, deadline_ns, interval_ns, ..ShardCtl::default() })?;
        Ok(())
    }

    fn delivers(&self) -> Result<bool> {
        Ok(self.ingress(self.va, &ipv4(HOST, VIP, 17, &[0; 8]))? == Outcome::Pass)
    }

    fn answers(&self) -> Result<bool> {
        Ok(self.egress(&arp(RIVAL_MAC, 2, VIP, HOST))? == Outcome::Pass)
    }
}

/// The fence of an interval, from the words and not from the shared crate: 3A - max(A/4, 2 ms).
fn fence_of(ms: u64) -> u64 {
    3 * ms * MS - (ms * MS / 4).max(2 * MS)
}

#[test]
fn an_advert_sets_the_deadline_by_its_interval() {
    Ground::run(|ground| {
        let mut stage = Stage::set(ground)?;
        for (term, centiseconds) in (1..).zip([1u16, 2, 10, 100, 4095]) {
            let ms = u64::from(centiseconds) * 10;
            stage.claim(term, boot_ns() + HOUR, ms * MS)?;
            let (outcome, before, after) = stage.advert(100, centiseconds)?;
            assert_eq!(outcome, Outcome::Pass);
            let kernel = stage.kernel()?;
            assert_eq!((kernel.term, kernel.interval_ns, kernel.adverts), (term, ms * MS, term));
            let range = before + fence_of(ms)..=after + fence_of(ms);
            assert!(range.contains(&kernel.deadline_ns), "{ms} ms: {} not in {range:?}", kernel.deadline_ns);
        }
        assert_eq!(stage.fence.counters()?.adverts_passed, 5);
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_claims_own_deadline_holds_while_it_is_the_later_one() {
    Ground::run(|ground| {
        let mut stage = Stage::set(ground)?;
        stage.claim(1, boot_ns() + HOUR, 10 * MS)?;
        let _ = stage.advert(100, 1)?;
        assert!(stage.kernel()?.deadline_ns < boot_ns() + 60 * MS);
        wait_past(stage.kernel()?.deadline_ns);
        assert!(stage.delivers()?, "an advert never shortens what the claim was given");
        Ok(())
    })
    .unwrap();
}

/// Waits until the clock has passed `deadline`: what is tested is time itself.
fn wait_past(deadline: u64) {
    while boot_ns() <= deadline {
        std::thread::park_timeout(std::time::Duration::from_nanos(deadline.saturating_sub(boot_ns()) + 1));
    }
}

#[test]
fn after_the_deadline_no_advert_leaves_until_a_new_term() {
    Ground::run(|ground| {
        let mut stage = Stage::set(ground)?;
        stage.claim(1, boot_ns() + HOUR, 10 * MS)?;
        assert_eq!(stage.advert(100, 1)?.0, Outcome::Pass);
        // From here on only the advert's own deadline holds; no stall of this test can come too late for it.
        stage.claim(1, boot_ns(), 10 * MS)?;
        let (ctl, kernel) = stage.fence.read(SLOT)?;
        wait_past(ctl.deadline_ns.max(kernel.deadline_ns));

        assert!(!stage.delivers()? && !stage.answers()?);
        for _ in 0..3 {
            assert_eq!(stage.advert(100, 1)?.0, Outcome::Drop, "a resumed owner cannot depose its successor");
        }
        assert_eq!(stage.advert(0, 1)?.0, Outcome::Drop);
        assert_eq!(stage.kernel()?, kernel, "and nothing is extended");
        assert_eq!(stage.fence.counters()?.drops(DropReason::AdvertExpired), 4);

        stage.claim(1, ctl.deadline_ns, 10 * MS)?;
        assert_eq!(stage.advert(100, 1)?.0, Outcome::Drop, "the old term written again opens nothing");
        stage.claim(2, boot_ns() + HOUR, 10 * MS)?;
        assert!(stage.delivers()? && stage.answers()?);
        assert_eq!(stage.advert(100, 1)?.0, Outcome::Pass);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_deadline_of_an_old_term_does_not_carry_over() {
    Ground::run(|ground| {
        let mut stage = Stage::set(ground)?;
        stage.claim(1, boot_ns() + HOUR, 0)?;
        let _ = stage.advert(100, 4095)?;
        assert!(stage.kernel()?.deadline_ns > boot_ns() + 100_000 * MS);
        stage.claim(2, boot_ns() - 1, 0)?;
        assert!(!stage.delivers()? && !stage.answers()?);
        assert_eq!(stage.advert(100, 100)?.0, Outcome::Drop);
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_smaller_interval_holds_until_one_advert_with_the_new_one_is_out() {
    Ground::run(|ground| {
        let mut stage = Stage::set(ground)?;
        // (interval in the claim, intervals of the adverts in order, fence each must set), milliseconds.
        let cases: [(u64, &[(u16, u64)]); 4] = [
            (100, &[(100, 100), (100, 1000), (10, 100), (10, 100)]),
            (1000, &[(10, 100), (100, 100), (100, 1000)]),
            (0, &[(100, 1000), (1, 10), (1, 10), (200, 10), (200, 2000)]),
            (40_950, &[(1, 10), (4095, 10), (4095, 40_950)]),
        ];
        for (term, (claimed, adverts)) in (1..).zip(cases) {
            stage.claim(term, boot_ns() + HOUR, claimed * MS)?;
            for (step, (centiseconds, effective)) in adverts.iter().enumerate() {
                let (outcome, before, after) = stage.advert(100, *centiseconds)?;
                assert_eq!(outcome, Outcome::Pass);
                let range = before + fence_of(*effective)..=after + fence_of(*effective);
                let deadline = stage.kernel()?.deadline_ns;
                assert!(range.contains(&deadline), "claim {claimed} ms, advert {step}: {deadline} not in {range:?}");
            }
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn releases_and_adverts_without_an_interval_extend_nothing() {
    Ground::run(|ground| {
        let mut stage = Stage::set(ground)?;
        stage.claim(1, boot_ns() + HOUR, 0)?;
        for (priority, centiseconds) in [(0, 100), (0, 0), (100, 0)] {
            assert_eq!(stage.advert(priority, centiseconds)?.0, Outcome::Pass);
            assert_eq!(stage.kernel()?, ShardKernel::default(), "priority {priority}, interval {centiseconds}");
        }
        let leaving = ShardCtl { role: 2, term: 1, deadline_ns: boot_ns() + HOUR, ..ShardCtl::default() };
        stage.fence.write(SLOT, &leaving)?;
        assert_eq!(stage.advert(0, 100)?.0, Outcome::Pass);
        assert_eq!(stage.advert(1, 100)?.0, Outcome::Drop);
        assert_eq!(stage.kernel()?, ShardKernel::default());
        assert_eq!(stage.fence.counters()?.drops(DropReason::AdvertRole), 1);
        Ok(())
    })
    .unwrap();
}

#[test]
fn both_families_extend_the_same_shard() {
    Ground::run(|ground| {
        let mut stage = Stage::set(ground)?;
        stage.claim(1, boot_ns() + HOUR, 0)?;
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
        assert_eq!(stage.egress(&ipv6(HOST6, group, 112, &advert(VRID, 100, 10)))?, Outcome::Pass);
        assert_eq!(stage.kernel()?.interval_ns, 100 * MS);
        assert_eq!(stage.advert(100, 20)?.0, Outcome::Pass);
        assert_eq!((stage.kernel()?.interval_ns, stage.kernel()?.adverts), (200 * MS, 2));
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_successor_mutes_and_only_a_successor() {
    Ground::run(|ground| {
        let mut stage = Stage::set(ground)?;
        let mac = link_mac(ground, "va")?;
        let (va, vb) = (stage.va, stage.vb);
        let announcements = [
            ("gratuitous request", arp(RIVAL_MAC, 1, VIP, VIP)),
            ("gratuitous reply", arp(RIVAL_MAC, 2, VIP, VIP)),
            ("reply", arp(RIVAL_MAC, 2, VIP, HOST)),
            ("advertisement", ipv6_from(RIVAL_MAC, HOST6, ALL_NODES, 58, &ndp(136, VIP6))),
            // What a successor sends first, whatever its rank.
            ("advert", other(1)),
            ("superior advert", other(254)),
        ];
        let harmless = [
            ("request for the VIP", va, arp(RIVAL_MAC, 1, HOST, VIP)),
            ("solicitation for the VIP", va, ipv6_from(RIVAL_MAC, HOST6, ALL_NODES, 58, &ndp(135, VIP6))),
            ("own announcement reflected", va, arp(mac, 1, VIP, VIP)),
            ("own advertisement reflected", va, ipv6_from(mac, HOST6, ALL_NODES, 58, &ndp(136, VIP6))),
            ("announcement on another link", vb, arp(RIVAL_MAC, 1, VIP, VIP)),
            ("announcement of another address", va, arp(RIVAL_MAC, 1, HOST, HOST)),
            ("release", va, other(0)),
            ("own advert reflected", va, sent_by(mac, 255, other(1))),
            ("advert on another link", vb, other(1)),
            ("advert forwarded by a router", va, sent_by(RIVAL_MAC, 254, other(1))),
        ];
        let mut term = 0;
        let handover = |term, role, flags| ShardCtl {
            role,
            flags,
            term,
            deadline_ns: boot_ns() + HOUR,
            heed_ns: HEED_NOBODY,
            ..ShardCtl::default()
        };
        for (name, frame) in &announcements {
            term += 1;
            stage.fence.write(SLOT, &handover(term, 1, 0))?;
            assert_eq!(stage.ingress(va, frame)?, Outcome::Pass);
            assert!(stage.answers()?, "{name} without the flag");
            stage.fence.write(SLOT, &handover(term, 1, FLAG_HANDOVER))?;
            assert!(stage.answers()? && stage.delivers()?, "the successor is not ready yet");
            for (quiet, ifindex, frame) in &harmless {
                let _ = stage.ingress(*ifindex, frame)?;
                assert!(stage.answers()?, "{quiet} must not mute the term");
            }
            assert_eq!(stage.ingress(va, frame)?, Outcome::Pass);
            assert!(!stage.answers()? && stage.delivers()?, "{name} mutes and only mutes");
            assert_eq!(stage.egress(&ipv6(HOST6, ALL_NODES, 58, &ndp(136, VIP6)))?, Outcome::Drop);
            stage.fence.write(SLOT, &handover(term, 1, 0))?;
            assert!(!stage.answers()?, "the term stays mute when the flag goes");
        }
        stage.fence.write(SLOT, &handover(term + 1, 1, 0))?;
        assert!(stage.answers()?, "a new term speaks");
        stage.fence.write(SLOT, &handover(term + 1, 2, FLAG_HANDOVER))?;
        assert_eq!(stage.ingress(va, &announcements[0].1)?, Outcome::Pass);
        let kernel = stage.kernel()?;
        assert_eq!((kernel.answer_closed_term, kernel.successor.mac), (term + 1, RIVAL_MAC), "nor on the way out");
        stage.fence.write(SLOT, &handover(term + 2, 0, FLAG_HANDOVER))?;
        assert_eq!(stage.ingress(va, &announcements[0].1)?, Outcome::Pass);
        assert_eq!(stage.kernel()?.answer_closed_term, term + 1, "a Backup has no successor");
        Ok(())
    })
    .unwrap();
}

/// A TCP header with these control bits.
fn segment(flags: u8) -> [u8; 20] {
    let mut header = [0; 20];
    (header[12], header[13]) = (5 << 4, flags);
    header
}

#[test]
fn new_connections_are_handed_on_to_the_successor() {
    const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb3];
    Ground::run(|ground| {
        let mut stage = Stage::set(ground)?;
        let (va, vb, mac) = (stage.va, stage.vb, link_mac(ground, "va")?);
        let client6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x50);
        // SYN, also with ECN; SYN-ACK; ACK; RST.
        let in4 = |flags| ipv4(HOST, VIP, 6, &segment(flags));
        let in6 = |flags| ipv6(client6, VIP6, 6, &segment(flags));
        let out = |flags| [ipv4(VIP, HOST, 6, &segment(flags)), ipv6(VIP6, client6, 6, &segment(flags))];
        let ctl =
            ShardCtl { role: 1, term: 1, deadline_ns: boot_ns() + HOUR, heed_ns: HEED_NOBODY, ..ShardCtl::default() };
        let leaving = ShardCtl { role: 2, deliver_until_ns: boot_ns() + HOUR, ..ctl };
        for (term, ctl) in (1..).zip([ShardCtl { flags: FLAG_HANDOVER, ..ctl }, leaving]) {
            stage.fence.write(SLOT, &ShardCtl { term, ..ctl })?;
            for frame in [in4(2), in4(0xc2), in6(2)] {
                assert_eq!(stage.ingress(va, &frame)?, Outcome::Pass, "nobody is there to take it");
            }
            assert_eq!(stage.egress(&out(0x12)[0])?, Outcome::Pass);
            let _ = stage.ingress(va, &other(1))?;
            let handed = Outcome::HandOn(RIVAL_MAC, mac);
            for frame in [in4(2), in4(0xc2), in6(2)] {
                assert_eq!(stage.ingress(va, &frame)?, handed);
                assert_eq!(stage.ingress(vb, &frame)?, Outcome::Drop, "the successor is not on that link");
                assert_eq!(stage.ingress(va, &sent_by(RIVAL_MAC, 64, frame))?, Outcome::Drop, "never back to it");
            }
            for flags in [0x10, 0x11, 0x04, 0x18] {
                assert_eq!(stage.ingress(va, &in4(flags))?, Outcome::Pass, "what is open here is served here");
                assert_eq!(stage.egress(&out(flags)[0])?, Outcome::Pass);
            }
            assert_eq!(stage.ingress(va, &ipv4(HOST, VIP, 17, &segment(2)))?, Outcome::Pass, "UDP has no handshake");
            let dropped = stage.fence.counters()?.drops(DropReason::EgressAnswer);
            for frame in out(0x12) {
                assert_eq!(stage.egress(&frame)?, Outcome::Drop, "an answer in TCP");
            }
            assert_eq!(stage.fence.counters()?.drops(DropReason::EgressAnswer), dropped + 2);
            // The one heard last serves.
            let _ = stage.ingress(va, &sent_by(OTHER_MAC, 255, other(1)))?;
            assert_eq!(stage.ingress(va, &in4(2))?, Outcome::HandOn(OTHER_MAC, mac));
        }
        stage.fence.write(SLOT, &ShardCtl { term: 2, deliver_until_ns: 0, ..leaving })?;
        assert_eq!(stage.ingress(va, &in4(2))?, Outcome::Drop, "the drain time is over");
        stage.fence.write(SLOT, &ShardCtl { term: 3, ..ctl })?;
        assert_eq!(stage.ingress(va, &in4(2))?, Outcome::Pass, "an owner again");
        assert_eq!(stage.egress(&out(0x12)[0])?, Outcome::Pass);
        Ok(())
    })
    .unwrap();
}

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

/// An advert of another host, which has a higher address than ours.
fn other(priority: u8) -> Vec<u8> {
    sent_by(RIVAL_MAC, 255, ipv4(Ipv4Addr::new(10, 9, 0, 9), GROUP, 112, &advert(VRID, priority, 10)))
}

#[test]
fn a_superior_advert_deposes_and_nothing_else_does() {
    Ground::run(|ground| {
        let mut stage = Stage::set(ground)?;
        let (va, vb, mac) = (stage.va, stage.vb, link_mac(ground, "va")?);
        let mut strange = other(254);
        let last = strange.len() - 1;
        strange[last] = 77;
        let six = [vec![0x31, VRID, 201, 2, 0, 10, 0, 0], VIP6.octets().to_vec(), HOST6.octets().to_vec()].concat();
        let group6 = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
        let lower = |priority| {
            sent_by(RIVAL_MAC, 255, ipv4(Ipv4Addr::new(10, 9, 0, 0), GROUP, 112, &advert(VRID, priority, 10)))
        };
        let cases = [
            ("lower priority", va, other(199), false),
            ("equal priority, lower address", va, lower(200), false),
            ("release", va, other(0), false),
            ("forwarded by a router", va, sent_by(RIVAL_MAC, 254, other(254)), false),
            ("own advert reflected", va, sent_by(mac, 255, other(254)), false),
            ("another link", vb, other(254), false),
            ("other addresses", va, strange, false),
            ("other router", va, sent_by(RIVAL_MAC, 255, ipv4(HOST, GROUP, 112, &advert(VRID + 1, 254, 10))), false),
            ("cut short", va, other(254)[..40].to_vec(), false),
            ("equal priority, higher address", va, other(200), true),
            ("higher priority", va, other(201), true),
            ("higher priority over IPv6", va, sent_by(RIVAL_MAC, 255, ipv6(HOST6, group6, 112, &six)), true),
        ];
        for (term, (name, ifindex, frame, deposes)) in (1..).zip(&cases) {
            let ctl =
                ShardCtl { role: 1, term, deadline_ns: boot_ns() + HOUR, heed_ns: HEED_NOBODY, ..ShardCtl::default() };
            stage.fence.write(SLOT, &ctl)?;
            assert_eq!(stage.advert(200, 10)?.0, Outcome::Pass);
            assert_eq!(stage.ingress(*ifindex, frame)?, Outcome::Pass, "{name}: an advert is always heard");
            assert_eq!((stage.answers()?, stage.delivers()?), (!deposes, !deposes), "{name}");
            let before = stage.kernel()?;
            assert_eq!(stage.advert(200, 10)?.0, Outcome::Pass, "{name}: what was said may be said again");
            let after = stage.kernel()?;
            assert_eq!(after.adverts != before.adverts, !deposes, "{name}: but extends nothing");
            let louder = if *deposes { Outcome::Drop } else { Outcome::Pass };
            assert_eq!((stage.advert(202, 10)?.0, stage.advert(0, 10)?.0), (louder, louder), "{name}");
            // A daemon that knows better claims anew, and can be deposed before its next advert.
            if *deposes {
                stage.fence.write(SLOT, &ShardCtl { term: term + 1000, flags: FLAG_CONTINUED, ..ctl })?;
                assert!(stage.answers()? && stage.delivers()?, "{name}");
                let _ = stage.ingress(*ifindex, frame)?;
                assert!(!stage.answers()? && !stage.delivers()?, "{name}");
            }
            stage.fence.write(SLOT, &ShardCtl { term: term + 2000, flags: FLAG_HANDOVER, ..ctl })?;
            assert_eq!(stage.advert(200, 10)?.0, Outcome::Pass);
            let _ = stage.ingress(*ifindex, frame)?;
            assert!(stage.delivers()?, "{name}: a predecessor that handed over goes on serving");
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_claim_is_void_when_its_silence_was_broken() {
    Ground::run(|ground| {
        let mut stage = Stage::set(ground)?;
        let claim =
            |term, heed_ns| ShardCtl { role: 1, term, heed_ns, deadline_ns: boot_ns() + HOUR, ..ShardCtl::default() };
        assert_eq!(stage.ingress(stage.va, &other(1))?, Outcome::Pass);
        stage.fence.write(SLOT, &claim(1, boot_ns()))?;
        assert!(stage.answers()?, "what was heard before the decision is its ground");
        let decided = boot_ns();
        assert_eq!(stage.ingress(stage.va, &other(1))?, Outcome::Pass);
        stage.fence.write(SLOT, &claim(2, decided))?;
        assert!(!stage.answers()? && !stage.delivers()?);
        assert_eq!(stage.advert(254, 10)?.0, Outcome::Drop, "it must not depose the one that spoke");
        stage.fence.write(SLOT, &claim(3, HEED_NOBODY))?;
        assert_eq!(stage.advert(254, 10)?.0, Outcome::Pass, "a grant expects the granter's adverts");
        assert_eq!(stage.ingress(stage.va, &other(1))?, Outcome::Pass);
        assert!(stage.answers()? && stage.delivers()?, "once its own advert is out that is what counts");
        Ok(())
    })
    .unwrap();
}

fn link_mac(ground: &Ground, link: &str) -> Result<[u8; 6]> {
    let text = ground.ip(&format!("-o link show dev {link}"))?;
    let mac = text.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    let bytes: Vec<u8> = mac.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().map_err(|_| anyhow::anyhow!("no MAC in {text}"))
}
