//! Loading the fence: cost, pins, reuse, replacement, refusal, clean.

use bascule_ebpf_common::{ROLE_ACTIVE, ShardCtl};
use bascule_suite::fence::{Ground, boot_ns};

/// What the programs may cost: far below the verifier's own limit of one million, and 16 KiB after translation.
const VERIFIED_BUDGET: u32 = 8_000;
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
