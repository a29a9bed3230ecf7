//! Adverts extend the deadline as they leave, and nothing else does; a successor's announcement mutes.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use bascule::dataplane::{Attach, Direction, Family, Fence};
use bascule_ebpf_common::{DropReason, FLAG_HANDOVER, ShardCtl, ShardKernel};
use bascule_suite::fence::frames::{RIVAL_MAC, advert, arp, ipv4, ipv6, ipv6_from, ndp};
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
        ];
        let harmless = [
            ("request for the VIP", va, arp(RIVAL_MAC, 1, HOST, VIP)),
            ("solicitation for the VIP", va, ipv6_from(RIVAL_MAC, HOST6, ALL_NODES, 58, &ndp(135, VIP6))),
            ("own announcement reflected", va, arp(mac, 1, VIP, VIP)),
            ("own advertisement reflected", va, ipv6_from(mac, HOST6, ALL_NODES, 58, &ndp(136, VIP6))),
            ("announcement on another link", vb, arp(RIVAL_MAC, 1, VIP, VIP)),
            ("announcement of another address", va, arp(RIVAL_MAC, 1, HOST, HOST)),
        ];
        let mut term = 0;
        let handover =
            |term, role, flags| ShardCtl { role, flags, term, deadline_ns: boot_ns() + HOUR, ..ShardCtl::default() };
        for (name, frame) in &announcements {
            term += 1;
            stage.fence.write(SLOT, &handover(term, 1, 0))?;
            assert_eq!(stage.ingress(va, frame)?, Outcome::Pass);
            assert!(stage.answers()?, "{name} without the flag");
            stage.fence.write(SLOT, &handover(term, 1, FLAG_HANDOVER))?;
            for (quiet, ifindex, frame) in &harmless {
                let _ = stage.ingress(*ifindex, frame)?;
                assert!(stage.answers()?, "{quiet} must not mute");
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
        assert_eq!(stage.kernel()?.answer_closed_term, term, "only an Active is muted");
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
