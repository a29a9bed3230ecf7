//! The golden layout: a change of any field, size or map shows here, before it meets a pinned map of another build.

use std::fmt::Write as _;
use std::mem::offset_of;

use bascule_ebpf_common::{
    ABI_STAMP, ABI_VERSION, AdvertKey, COUNTERS, DropReason, ForwardedKey, Heard, LinkInfo, MAX_ADVERTS, MAX_FORWARDED,
    MAX_LINKS, MAX_SHARDS, MAX_VIPS, ShardCtl, ShardKernel, VipEntry, VipKey, active, answer_open, deadline_ns,
    deliver_open, deposed, deposes, fence_ns, repeats,
};

macro_rules! describe {
    ($out:ident, $t:ident: $($f:ident),*) => {
        write!($out, "{} size={} align={}", stringify!($t), size_of::<$t>(), align_of::<$t>()).unwrap();
        $( write!($out, " {}@{}", stringify!($f), offset_of!($t, $f)).unwrap(); )*
        $out.push('\n');
    };
}

fn layout() -> String {
    let mut out = format!("bascule map abi v{ABI_VERSION}\n");
    describe!(out, VipKey: addr);
    describe!(out, VipEntry: shard, ifindex);
    describe!(out, AdvertKey: ifindex, family, vrid, pad);
    describe!(out, ForwardedKey: vip, port, protocol, pad0, pad1);
    describe!(out, ShardCtl: role, flags, term, deadline_ns, deliver_until_ns, interval_ns, heed_ns);
    describe!(
        out, ShardKernel: term, deadline_ns, interval_ns, answer_closed_term, adverts, heard_ns, deposed_term, priority, source
    );
    describe!(out, LinkInfo: mac, pad);
    writeln!(out, "map VIPS hash {MAX_VIPS} VipKey VipEntry").unwrap();
    writeln!(out, "map ADVERTS hash {MAX_ADVERTS} AdvertKey u32").unwrap();
    writeln!(out, "map FORWARDED hash {MAX_FORWARDED} ForwardedKey u32").unwrap();
    writeln!(out, "map CTL array {MAX_SHARDS} u32 ShardCtl").unwrap();
    writeln!(out, "map KERNEL array {MAX_SHARDS} u32 ShardKernel").unwrap();
    writeln!(out, "map LINKS hash {MAX_LINKS} u32 LinkInfo").unwrap();
    writeln!(out, "map COUNTERS percpu_array {COUNTERS} u32 u64").unwrap();
    out.push_str("map STAMP array 1 u32 u64\n");
    out.push_str("counter 0 adverts_passed\n");
    for reason in DropReason::ALL {
        writeln!(out, "counter {} {}", reason as u32, reason.name()).unwrap();
    }
    out
}

#[test]
fn layout_matches_the_golden_file() {
    assert_eq!(
        layout(),
        include_str!("../layout-v1.txt"),
        "write a new golden file; raise ABI_VERSION when a release had the old one"
    );
    assert_eq!(ABI_STAMP >> 32, u64::from(ABI_VERSION));
    assert_ne!(ABI_STAMP & 0xffff_ffff, 0);
}

#[test]
fn fence_is_three_intervals_less_a_quarter_and_never_less_than_two_milliseconds_short() {
    const MS: u64 = 1_000_000;
    assert_eq!(fence_ns(100 * MS), 275 * MS);
    assert_eq!(fence_ns(1000 * MS), 2750 * MS);
    assert_eq!(fence_ns(10 * MS), 27_500_000);
    assert_eq!(fence_ns(4 * MS), 10 * MS, "below 8 ms the 2 ms floor holds");
    assert_eq!(fence_ns(0), 0);
    assert_eq!(fence_ns(40_950 * MS), 3 * 40_950 * MS - 10_237_500_000, "the largest interval an advert can carry");
}

#[test]
fn bits_close_at_the_deadline_and_a_foreign_term_does_not_extend() {
    let ctl = ShardCtl { role: 1, term: 7, deadline_ns: 100, ..ShardCtl::default() };
    let kernel = ShardKernel { term: 7, deadline_ns: 200, ..ShardKernel::default() };
    assert_eq!(deadline_ns(&ctl, &kernel), 200);
    assert!(active(&ctl, &kernel, 199) && !active(&ctl, &kernel, 200));
    let stale = ShardKernel { term: 6, ..kernel };
    assert!(active(&ctl, &stale, 99) && !active(&ctl, &stale, 100));

    let muted = ShardKernel { answer_closed_term: 7, ..kernel };
    assert!(!answer_open(&ctl, &muted, 150) && deliver_open(&ctl, &muted, 150));
    let refusing = ShardCtl { flags: 2, ..ctl };
    assert!(answer_open(&refusing, &kernel, 150) && !deliver_open(&refusing, &kernel, 150));
    let leaving = ShardCtl { role: 2, deliver_until_ns: 300, ..ctl };
    assert!(!answer_open(&leaving, &kernel, 150) && deliver_open(&leaving, &kernel, 299));
    assert!(!deliver_open(&leaving, &kernel, 300));
}

#[test]
fn a_superior_advert_ends_a_term_and_an_inferior_one_does_not() {
    let own = VipKey::v4([10, 9, 0, 2]);
    let ctl = ShardCtl { role: 1, term: 7, deadline_ns: 100, heed_ns: 50, ..ShardCtl::default() };
    let kernel = ShardKernel { term: 7, priority: 150, source: own, ..ShardKernel::default() };
    let heard = |priority, last| Heard { family: 4, priority, source: VipKey::v4([10, 9, 0, last]) };
    assert!(deposes(&ctl, &kernel, &heard(151, 1)) && !deposes(&ctl, &kernel, &heard(149, 3)));
    // A tie is settled by the address, in the main family only.
    assert!(deposes(&ctl, &kernel, &heard(150, 3)) && !deposes(&ctl, &kernel, &heard(150, 1)));
    assert!(!deposes(&ShardCtl { flags: 8, ..ctl }, &kernel, &heard(150, 3)));
    // Not while the successor is waited for, not as a Backup, not before the first advert unless the ownership goes on.
    assert!(!deposes(&ShardCtl { flags: 1, ..ctl }, &kernel, &heard(254, 3)));
    assert!(!deposes(&ShardCtl { role: 0, ..ctl }, &kernel, &heard(254, 3)));
    assert!(!deposes(&ShardCtl { term: 8, ..ctl }, &kernel, &heard(254, 3)));
    assert!(deposes(&ShardCtl { term: 8, flags: 4, ..ctl }, &kernel, &heard(254, 3)));

    let ended = ShardKernel { deposed_term: 7, ..kernel };
    assert!(deposed(&ctl, &ended) && !answer_open(&ctl, &ended, 60) && !deliver_open(&ctl, &ended, 60));
    assert!(!deposed(&ShardCtl { term: 8, ..ctl }, &ended), "a fresh claim opens again");
    assert!(repeats(&ctl, &ended, 150) && !repeats(&ctl, &ended, 151) && !repeats(&ctl, &ended, 0));
    // A claim on silence is void when the silence was broken before its first advert was out, and only then.
    let late = ShardKernel { term: 6, heard_ns: 51, ..kernel };
    assert!(deposed(&ctl, &late) && !deposed(&ctl, &ShardKernel { heard_ns: 50, ..late }));
    assert!(!deposed(&ctl, &ShardKernel { term: 7, ..late }));
}
