//! Standing on links: tcx and clsact, again and again, beside foreign programs, and gone without a trace.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use aya::programs::{SchedClassifier, TcAttachType};
use bascule::dataplane::{Attach, AttachKind, CleanReport, Fence, FenceError, FenceOptions, clean};
use bascule_ebpf_common::DropReason;
use bascule_lab::wait_for;
use bascule_suite::fence::frames::ipv4;
use bascule_suite::fence::{Ground, Wire};

/// How long anything may take that must happen, on a busy machine.
const SOON: Duration = Duration::from_secs(15);

/// A veth pair `va`-`vb` in the ground's namespace; the index of `va`.
fn veth(ground: &Ground) -> Result<u32> {
    ground.ip("link add va type veth peer name vb")?;
    ground.ip("link set va up")?;
    ground.ip("link set vb up")?;
    ground.ifindex("va")
}

fn pins(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

const MAPS: [&str; 8] = ["ADVERTS", "COUNTERS", "CTL", "FORWARDED", "KERNEL", "LINKS", "STAMP", "VIPS"];

#[test]
fn tcx_is_pinned_renewed_and_taken_off() {
    Ground::run(|ground| {
        let a = veth(ground)?;
        let mut fence = ground.fence()?;
        for _ in 0..3 {
            assert_eq!(fence.attach(a, Attach::Auto)?, AttachKind::Tcx);
        }
        let links = [format!("link-{a}-egress"), format!("link-{a}-ingress")];
        let all: Vec<String> = MAPS.iter().map(|s| (*s).to_owned()).chain(links.clone()).collect();
        assert_eq!(pins(fence.pin_dir()), all);

        let dir = fence.pin_dir().to_owned();
        drop(fence);
        assert_eq!(pins(&dir), all, "the end of the daemon takes nothing away");
        let mut again = ground.fence()?;
        again.attach(a, Attach::Tcx)?;
        assert_eq!(pins(&dir), all);
        again.detach(a)?;
        assert_eq!(pins(&dir), MAPS);
        again.detach(a)?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn clsact_leaves_foreign_filters_and_a_foreign_qdisc_alone() {
    Ground::run(|ground| {
        let a = veth(ground)?;
        ground.tc("qdisc add dev va clsact")?;
        ground.tc("filter add dev va ingress protocol ip prio 1 u32 match u32 0 0 flowid 1:1")?;
        let mut fence = ground.fence()?;
        for _ in 0..3 {
            assert_eq!(fence.attach(a, Attach::Clsact)?, AttachKind::Clsact);
        }
        let filters = ground.tc("filter show dev va ingress")?;
        assert_eq!(filters.matches("handle 0xba5c bascule_ingress").count(), 1, "{filters}");
        assert!(filters.contains("u32"), "{filters}");
        assert_eq!(ground.tc("filter show dev va egress")?.matches("handle 0xba5c bascule_egress").count(), 1);
        drop(fence);

        let report = clean(ground.root())?;
        assert_eq!(report, CleanReport { filters: 2, maps: 8, ..CleanReport::default() });
        let filters = ground.tc("filter show dev va ingress")?;
        assert!(filters.contains("u32") && !filters.contains("bascule"), "{filters}");
        assert!(ground.tc("qdisc show dev va")?.contains("clsact"), "the qdisc was there before us");
        assert!(clean(ground.root())?.is_empty());
        assert!(!ground.root().exists(), "and no folder is left");
        Ok(())
    })
    .unwrap();
}

#[test]
fn our_own_qdisc_goes_when_empty_and_stays_while_used() {
    Ground::run(|ground| {
        let a = veth(ground)?;
        let mut fence = ground.fence()?;
        fence.attach(a, Attach::Clsact)?;
        fence.detach(a)?;
        assert!(!ground.tc("qdisc show dev va")?.contains("clsact"));

        fence.attach(a, Attach::Clsact)?;
        ground.tc("filter add dev va egress protocol ip prio 40 u32 match u32 0 0 flowid 1:1")?;
        drop(fence);
        let report = clean(ground.root())?;
        assert_eq!(report, CleanReport { filters: 2, maps: 8, ..CleanReport::default() });
        assert!(ground.tc("qdisc show dev va")?.contains("clsact"), "somebody else's filter hangs in it by now");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_guard_tells_one_direction_from_both_and_what_it_cannot_heal() {
    Ground::run(|ground| {
        let a = veth(ground)?;
        let mut fence = ground.fence()?;
        let mut guard = fence.guard()?;
        assert!(guard.look().found.is_empty(), "it stands nowhere yet");
        fence.attach(a, Attach::Clsact)?;
        // Filters of others, and the fence's own renewal, are no gap.
        ground.tc("filter add dev va ingress protocol ip prio 40 u32 match u32 0 0 flowid 1:1")?;
        fence.attach(a, Attach::Clsact)?;
        assert!(guard.look().found.is_empty());

        ground.tc("filter del dev va egress handle 0xba5c prio 1 protocol all bpf")?;
        let found = guard.look().found;
        assert!(matches!(&found[..], [one] if one.healed.is_ok() && one.missing == ["egress"]), "{found:?}");
        assert_eq!(ground.tc("filter show dev va egress")?.matches("handle 0xba5c bascule_egress").count(), 1);

        // Another qdisc in the place of ours has no egress at all.
        ground.tc("qdisc del dev va clsact")?;
        ground.tc("qdisc add dev va ingress")?;
        for _ in 0..2 {
            let found = guard.look().found;
            assert!(matches!(&found[..], [one] if one.healed.is_err()), "{found:?}");
        }
        ground.tc("qdisc del dev va ingress")?;
        let found = guard.look().found;
        assert!(matches!(&found[..], [one] if one.healed.is_ok()), "{found:?}");
        assert!(guard.look().found.is_empty());

        ground.ip("link del va")?;
        assert!(guard.look().found.is_empty(), "a link that is gone misses nothing");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_guard_puts_back_what_was_detached_and_nothing_that_was_taken_off_by_us() {
    Ground::run(|ground| {
        let a = veth(ground)?;
        let mut fence = ground.fence()?;
        let mut guard = fence.guard()?;
        fence.attach(a, Attach::Tcx)?;
        // The pin is what holds the link. The kernel takes it down a moment later; until then it judges, and the program cannot be put there twice.
        fs::remove_file(fence.pin_dir().join(format!("link-{a}-ingress")))?;
        wait_for(SOON, "the fence to stand again", || {
            let found = guard.look().found;
            assert!(matches!(&found[..], [one] if one.missing == ["ingress"]), "{found:?}");
            found[0].healed.is_ok().then_some(())
        })?;
        assert!(guard.look().found.is_empty());
        fence.detach(a)?;
        assert!(guard.look().found.is_empty());
        assert_eq!(pins(fence.pin_dir()), MAPS);
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_kind_can_change_and_only_one_stands() {
    Ground::run(|ground| {
        let a = veth(ground)?;
        let mut fence = ground.fence()?;
        fence.attach(a, Attach::Clsact)?;
        assert_eq!(fence.attach(a, Attach::Tcx)?, AttachKind::Tcx);
        assert!(!ground.tc("qdisc show dev va")?.contains("clsact"));
        assert_eq!(pins(fence.pin_dir()).len(), MAPS.len() + 2);
        assert_eq!(fence.attach(a, Attach::Clsact)?, AttachKind::Clsact);
        assert_eq!(pins(fence.pin_dir()).len(), MAPS.len() + 1, "the mark of our qdisc, no links");
        drop(fence);
        let report = clean(ground.root())?;
        assert_eq!(report, CleanReport { links: 0, filters: 2, qdiscs: 1, maps: 8 });
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_new_device_with_an_old_index_is_fenced_anew() {
    Ground::run(|ground| {
        ground.ip("link add va index 77 type veth peer name vb")?;
        let mut fence = ground.fence()?;
        fence.attach(77, Attach::Tcx)?;
        ground.ip("link del va")?;
        ground.ip("link add vc index 77 type veth peer name vd")?;
        assert_eq!(fence.attach(77, Attach::Tcx)?, AttachKind::Tcx);
        ground.ip("link del vc")?;
        assert!(matches!(fence.attach(77, Attach::Auto), Err(FenceError::NoLink { ifindex: 77 })));
        fence.detach(77)?;
        assert_eq!(pins(fence.pin_dir()), MAPS);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_foreign_tcx_program_stays_and_still_runs() {
    Ground::run(|ground| {
        let a = veth(ground)?;
        // A second fence under another pin root is as foreign to the first as any program.
        let foreign_root = ground.root().with_file_name("v0");
        let mut foreign = Fence::open(&FenceOptions { pin_root: foreign_root.clone() })?;
        foreign.attach(a, Attach::Tcx)?;
        let vip = Ipv4Addr::new(10, 9, 0, 100);
        foreign.register(1, a, &[vip.into()], &[])?;

        let mut fence = ground.fence()?;
        fence.attach(a, Attach::Tcx)?;
        let programs = || SchedClassifier::query_tcx("va", TcAttachType::Ingress);
        assert_eq!(programs()?.1.len(), 2);
        // Our program passes the frame on; the other one behind it drops and counts it.
        let from_peer = Wire::open(ground.ifindex("vb")?)?;
        from_peer.send(&ipv4(Ipv4Addr::new(10, 9, 0, 50), vip, 17, &[0; 8]))?;
        assert_eq!(fence.counters()?.dropped(), 0);
        assert_eq!(foreign.counters()?.drops(DropReason::IngressDeliver), 1);

        drop(fence);
        assert_eq!(clean(ground.root())?, CleanReport { links: 2, maps: 8, ..CleanReport::default() });
        assert_eq!(programs()?.1.len(), 1, "only ours is gone");
        from_peer.send(&ipv4(Ipv4Addr::new(10, 9, 0, 50), vip, 17, &[0; 8]))?;
        assert_eq!(foreign.counters()?.drops(DropReason::IngressDeliver), 2);
        assert_eq!(clean(&foreign_root)?.links, 2);
        Ok(())
    })
    .unwrap();
}
