//! Loading the fence: cost, pins, reuse, replacement, refusal, clean.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use aya::maps::{Array, Map, MapData};
use bascule::dataplane::{Attach, Direction, Family, Fence, FenceError, FenceOptions, clean};
use bascule_ebpf_common::{ABI_STAMP, DropReason, ROLE_ACTIVE, ShardCtl};
use bascule_suite::fence::frames::{advert, ipv4, ipv6};
use bascule_suite::fence::{Ground, Outcome, boot_ns, cost_ns, test_run};

/// What the programs may cost: far below the verifier's own limit of one million, and 16 KiB after translation.
const VERIFIED_BUDGET: u32 = 4_000;
const XLATED_BUDGET: u32 = 16 * 1024;

#[test]
fn programs_stay_within_their_budget() {
    Ground::run(|ground| {
        for program in ground.fence()?.programs()? {
            println!("{program:?} (budget {VERIFIED_BUDGET} instructions, {XLATED_BUDGET} bytes)");
            assert!(program.verified_instructions.unwrap() <= VERIFIED_BUDGET, "{program:?}");
            assert!(program.xlated_bytes.unwrap() <= XLATED_BUDGET, "{program:?}");
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_frame_costs_well_under_a_microsecond() {
    Ground::run(|ground| {
        let mut fence = ground.fence()?;
        fence.register(0, 1, &[VIPS[0].into(), VIP6.into()], &[])?;
        fence.write(0, &open_for_an_hour())?;
        let frames = [
            ("not ours", ipv4(CLIENT, CLIENT, 6, &[0; 1400])),
            ("to the VIP", ipv4(CLIENT, VIPS[0], 6, &[0; 1400])),
            ("ipv6 to the VIP", ipv6(VIP6, VIP6, 6, &[0; 1400])),
        ];
        for direction in [Direction::Ingress, Direction::Egress] {
            for (name, frame) in &frames {
                // The least of several means: what the program costs, not what else this machine does meanwhile.
                let mut ns = u32::MAX;
                for _ in 0..10 {
                    ns = ns.min(cost_ns(fence.program_fd(direction)?, 1, frame, 10_000)?);
                }
                println!("{direction:?} {name}: {ns} ns (bound 1000)");
                assert!(ns < 1_000, "{direction:?} {name}: {ns} ns");
            }
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_second_open_closes_every_shard() {
    Ground::run(|ground| {
        let ctl =
            ShardCtl { role: ROLE_ACTIVE, term: 3, deadline_ns: boot_ns() + 1_000_000_000, ..ShardCtl::default() };
        let mut first = ground.fence()?;
        first.write(7, &ctl)?;
        assert_eq!(first.read(7)?.0, ctl);
        let second = ground.fence()?;
        assert_eq!(second.read(7)?.0, ShardCtl::default());
        assert_eq!(first.read(7)?.0, ShardCtl::default(), "both see the same pinned map");
        Ok(())
    })
    .unwrap();
}

const HOUR: u64 = 3_600_000_000_000;
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 50);
const VIPS: [Ipv4Addr; 3] = [Ipv4Addr::new(10, 9, 0, 100), Ipv4Addr::new(10, 9, 0, 101), Ipv4Addr::new(10, 9, 0, 102)];
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);

fn open_for_an_hour() -> ShardCtl {
    ShardCtl { role: ROLE_ACTIVE, term: 1, deadline_ns: boot_ns() + HOUR, ..ShardCtl::default() }
}

/// Is the VIP closed? An address that is none of ours is not.
fn closed(fence: &Fence, vip: Ipv4Addr) -> Result<bool> {
    let frame = ipv4(CLIENT, vip, 17, &[0; 8]);
    Ok(test_run(fence.program_fd(Direction::Ingress)?, 1, &frame)? == Outcome::Drop)
}

fn map_id(path: &Path) -> Result<u32> {
    Ok(MapData::from_pin(path)?.info()?.id())
}

#[test]
fn maps_are_reused_when_the_layout_is_ours_and_replaced_when_not() {
    Ground::run(|ground| {
        let mut fence = ground.fence()?;
        let dir = fence.pin_dir().to_owned();
        fence.register(1, 1, &[VIPS[0].into()], &[])?;
        let (first, counters) = (map_id(&dir.join("VIPS"))?, map_id(&dir.join("COUNTERS"))?);
        drop(fence);
        let fence = ground.fence()?;
        assert_eq!(map_id(&dir.join("VIPS"))?, first, "reused");
        assert!(closed(&fence, VIPS[0])?, "with the VIP of the former run, closed");
        drop(fence);

        // Another layout under the same names: only the stamp tells.
        let mut stamp = Array::<_, u64>::try_from(Map::Array(MapData::from_pin(dir.join("STAMP"))?))?;
        assert_eq!(stamp.get(&0, 0)?, ABI_STAMP);
        stamp.set(0, ABI_STAMP ^ 1, 0)?;
        drop(stamp);
        let fence = ground.fence()?;
        assert_ne!(map_id(&dir.join("VIPS"))?, first, "replaced");
        assert!(!closed(&fence, VIPS[0])?);
        drop(fence);

        // A map of another shape under the name of one of ours: the whole set goes.
        let third = map_id(&dir.join("VIPS"))?;
        fs::remove_file(dir.join("CTL"))?;
        fs::rename(dir.join("KERNEL"), dir.join("spare"))?;
        fs::rename(dir.join("STAMP"), dir.join("KERNEL"))?;
        fs::rename(dir.join("spare"), dir.join("CTL"))?;
        let _fence = ground.fence()?;
        assert_ne!(map_id(&dir.join("VIPS"))?, third);
        assert_ne!(map_id(&dir.join("COUNTERS"))?, counters);

        // And one that is merely missing.
        let fourth = map_id(&dir.join("VIPS"))?;
        fs::remove_file(dir.join("LINKS"))?;
        let _fence = ground.fence()?;
        assert_ne!(map_id(&dir.join("VIPS"))?, fourth);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_renewed_link_runs_the_new_program_on_the_new_maps() {
    Ground::run(|ground| {
        ground.ip("link add va type veth peer name vb")?;
        let va = ground.ifindex("va")?;
        let mut fence = ground.fence()?;
        fence.attach(va, Attach::Tcx)?;
        let programs = || aya::programs::SchedClassifier::query_tcx("va", aya::programs::TcAttachType::Egress);
        let old = programs()?.1[0].id();
        fs::remove_file(fence.pin_dir().join("STAMP"))?;
        let mut fence = ground.fence()?;
        assert_eq!(programs()?.1[0].id(), old, "until it is attached anew the old one stands");
        fence.attach(va, Attach::Tcx)?;
        let now = programs()?.1;
        assert_eq!(now.len(), 1, "in place, not beside");
        assert_ne!(now[0].id(), old);
        let ctl = map_id(&fence.pin_dir().join("CTL"))?;
        assert!(now[0].map_ids()?.unwrap_or_default().contains(&ctl));
        Ok(())
    })
    .unwrap();
}

#[test]
fn register_holds_exactly_what_it_is_given() {
    Ground::run(|ground| {
        let mut fence = ground.fence()?;
        fence.register(1, 1, &[VIPS[0].into(), VIPS[1].into(), VIP6.into()], &[(Family::V4, 1), (Family::V4, 2)])?;
        fence.register(1, 1, &[VIPS[1].into(), VIPS[2].into()], &[(Family::V4, 2), (Family::V6, 2)])?;
        assert_eq!([closed(&fence, VIPS[0])?, closed(&fence, VIPS[1])?, closed(&fence, VIPS[2])?], [false, true, true]);
        let egress = fence.program_fd(Direction::Egress)?;
        let sent4 = |vrid| test_run(egress, 1, &ipv4(CLIENT, CLIENT, 112, &advert(vrid, 1, 1)));
        let sent6 = |vrid| test_run(egress, 1, &ipv6(VIP6, VIP6, 112, &advert(vrid, 1, 1)));
        assert_eq!([sent4(1)?, sent4(2)?], [Outcome::Pass, Outcome::Drop], "only the second router is ours now");
        assert_eq!([sent6(1)?, sent6(2)?], [Outcome::Pass, Outcome::Drop]);

        // A VIP that moves to another shard belongs to the new one, whoever lets go of it later.
        fence.register(2, 1, &[VIPS[1].into()], &[])?;
        fence.unregister(1)?;
        assert_eq!([closed(&fence, VIPS[1])?, closed(&fence, VIPS[2])?], [true, false]);
        fence.write(2, &open_for_an_hour())?;
        assert!(!closed(&fence, VIPS[1])?);

        // Another run removes what this one left only when told.
        let mut next = ground.fence()?;
        assert!(closed(&next, VIPS[1])?);
        next.register(1, 1, &[VIPS[0].into()], &[])?;
        assert!(closed(&next, VIPS[1])?);
        next.clear()?;
        assert_eq!([closed(&next, VIPS[0])?, closed(&next, VIPS[1])?], [false, false]);
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_maps_hold_what_is_promised_and_say_so_when_full() {
    Ground::run(|ground| {
        let mut fence = ground.fence()?;
        for slot in 0..1024u32 {
            let [_, _, high, low] = slot.to_be_bytes();
            let vips: Vec<_> = (0..8).map(|n| Ipv4Addr::new(10, high, low, n).into()).collect();
            fence.register(slot, 1, &vips, &[])?;
        }
        let error = fence.register(0, 1, &[CLIENT.into(); 1], &[]).err();
        assert!(matches!(error, Some(FenceError::Map { name: "VIPS", .. })), "{error:?}");
        let said = error.map(|e| e.to_string()).unwrap_or_default();
        assert!(
            said.contains("Argument list too long"),
            "E2BIG, the kernel's word for full, is in the message: {said}"
        );
        fence.clear()?;
        fence.register(0, 1, &[CLIENT.into()], &[])?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_writer_for_another_thread_writes_the_same_shards() {
    Ground::run(|ground| {
        let mut fence = ground.fence()?;
        fence.register(9, 1, &[VIPS[0].into()], &[])?;
        let mut writer = fence.writer()?;
        let ctl = open_for_an_hour();
        let started = boot_ns();
        std::thread::spawn(move || {
            for term in 1..=1_000 {
                writer.write(9, &ShardCtl { term, ..ctl })?;
            }
            Ok::<(), FenceError>(())
        })
        .join()
        .expect("the thread ends")?;
        println!("{} ns per write", (boot_ns() - started) / 1_000);
        assert_eq!(fence.read(9)?.0, ShardCtl { term: 1_000, ..ctl });
        assert!(!closed(&fence, VIPS[0])?);
        assert_eq!(fence.counters()?.drops(DropReason::IngressDeliver), 0);
        Ok(())
    })
    .unwrap();
}

#[test]
fn two_network_namespaces_never_share_a_pin() {
    Ground::run(|ground| {
        let mut here = ground.fence()?;
        here.register(1, 1, &[VIPS[0].into()], &[])?;
        let other = bascule_suite::fence::Netns::new()?;
        let there = other.inside(|| ground.fence())?;
        assert_ne!(here.pin_dir(), there.pin_dir());
        assert!(closed(&here, VIPS[0])? && !closed(&there, VIPS[0])?);
        assert_eq!(other.inside(|| Ok(clean(ground.root())?))?.maps, 8);
        assert!(here.pin_dir().exists(), "clean keeps to its own namespace");
        Ok(())
    })
    .unwrap();
}

/// Tells this binary, started again, that it shall open the fence there.
const OPENER: &str = "FENCE_OPENER";

/// Opens the fence in a child made by `wrapper` (a command that runs another) of the test of this name, and gives what it said.
fn opened_by(ground: &Ground, test: &str, wrapper: &str) -> Result<String> {
    let mut words = wrapper.split_whitespace();
    let output = Command::new(words.next().expect("a command"))
        .args(words)
        .arg(std::env::current_exe()?)
        .args(["--exact", test, "--nocapture"])
        .env(OPENER, ground.root())
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

/// Is this process that child? Then it has opened the fence.
fn opens() -> bool {
    let Some(root) = std::env::var_os(OPENER) else { return false };
    match Fence::open(&FenceOptions { pin_root: root.into() }) {
        Ok(mut fence) => println!("opened, attach: {:?}", fence.attach(1, Attach::Auto)),
        Err(e) => println!("refused: {e:?}"),
    }
    true
}

#[test]
fn a_shifted_boot_clock_is_refused() {
    if opens() {
        return;
    }
    Ground::run(|ground| {
        let opened = |wrapper| opened_by(ground, "a_shifted_boot_clock_is_refused", wrapper);
        let said = opened("unshare --time --boottime 86400 --fork")?;
        assert!(said.contains("refused: ShiftedTime") && said.contains("86400"), "{said}");
        let said = opened("unshare --time --monotonic 86400 --fork")?;
        assert!(said.contains("opened"), "the fence knows no other clock: {said}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn capabilities_are_named_when_missing_and_two_are_enough() {
    if opens() {
        return;
    }
    Ground::run(|ground| {
        let test = "capabilities_are_named_when_missing_and_two_are_enough";
        let with = |caps: &str| opened_by(ground, test, &format!("setpriv --bounding-set -all,{caps}"));
        let said = with("+net_admin,+net_raw")?;
        assert!(said.contains("MissingCapability") && said.contains("CAP_BPF"), "{said}");
        let said = with("+bpf,+perfmon")?;
        assert!(said.contains("MissingCapability") && said.contains("CAP_NET_ADMIN"), "{said}");
        // CAP_PERFMON buys a laxer verifier; the programs pass the strict one.
        let said = with("+bpf,+net_admin")?;
        assert!(said.contains("attach: Ok(Tcx)"), "{said}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn without_a_bpffs_the_error_says_so() {
    Ground::run(|_| {
        let dir = tempfile::tempdir()?;
        let error = Fence::open(&FenceOptions { pin_root: dir.path().join("v1") }).err();
        assert!(matches!(error, Some(FenceError::NoBpffs { .. })), "{error:?}");
        assert!(!dir.path().join("v1").exists(), "and nothing is made or mounted");
        Ok(())
    })
    .unwrap();
}
