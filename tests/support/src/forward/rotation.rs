//! Rotation of the tag keys on a running fleet, as docs/operations.md has it: both keys everywhere, then the new one signs everywhere, then
//! the old one goes. One node after the other, so that in every moment nodes are a step apart.

use std::collections::BTreeSet;
use std::time::Duration;

use super::fleet::Fleet;
use super::kills::Dice;
use crate::{Result, Stamp, sleep_until};

/// Longest pause between two nodes.
const PAUSE: Duration = Duration::from_millis(300);

/// What a rotation did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RotationReport {
    /// Key files that were written and taken over.
    pub steps: usize,
}

/// The `n`th tag key, hexadecimal: any bytes will do that differ from all others.
pub fn tag_key(n: u32) -> String {
    format!("{n:08x}").repeat(4)
}

/// Rotates from key `old`, which signs under label `slot`, to key `old + 1` under the other label, on every node.
///
/// # Errors
/// When a daemon does not take a key file over.
pub fn rotate(fleet: &mut Fleet, old: u32, slot: u8, dice: &mut Dice) -> Result<RotationReport> {
    let (a, b) = (tag_key(old), tag_key(old + 1));
    let other = 1 - slot;
    let steps: [Vec<(u8, &str)>; 3] = [vec![(slot, &a), (other, &b)], vec![(other, &b), (slot, &a)], vec![(other, &b)]];
    let mut report = RotationReport::default();
    for step in steps {
        for n in fleet.ids() {
            fleet.write_keys(n, &step)?;
            let labels: BTreeSet<u64> = step.iter().map(|(label, _)| u64::from(*label)).collect();
            fleet.wait_keys(n, step[0].0.into(), &labels)?;
            report.steps += 1;
            sleep_until(Stamp::now() + PAUSE.mul_f64(dice.part()));
        }
    }
    Ok(report)
}
