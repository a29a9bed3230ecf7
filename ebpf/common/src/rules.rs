//! The formulas of the fence, shared so that the daemon reports (and tests judge) exactly what the programs enforce.

use crate::{FLAG_NO_ACCEPT, ROLE_ACTIVE, ROLE_LEAVING, ShardCtl, ShardKernel};

/// Least distance between the fence and three intervals: what a late timer and the send itself may take (design.md).
const MIN_GAP_NS: u64 = 2_000_000;

/// How long one advert with interval `interval_ns` keeps the fence open: `3A - max(A/4, 2 ms)`, never below zero.
///
/// A Backup of any priority waits at least 3A (RFC 9568 section 6.1), so this ends before it may take over.
#[inline(always)]
#[must_use]
pub const fn fence_ns(interval_ns: u64) -> u64 {
    let quarter = interval_ns / 4;
    let gap = if quarter > MIN_GAP_NS { quarter } else { MIN_GAP_NS };
    (interval_ns * 3).saturating_sub(gap)
}

/// The deadline in force: the claim's own or, in the same term, the one the last advert set, whichever is later.
#[inline(always)]
#[must_use]
pub const fn deadline_ns(ctl: &ShardCtl, kernel: &ShardKernel) -> u64 {
    if kernel.term == ctl.term && kernel.deadline_ns > ctl.deadline_ns { kernel.deadline_ns } else { ctl.deadline_ns }
}

/// Owner and before the deadline at `now` (`CLOCK_BOOTTIME` nanoseconds).
#[inline(always)]
#[must_use]
pub const fn active(ctl: &ShardCtl, kernel: &ShardKernel, now: u64) -> bool {
    ctl.role == ROLE_ACTIVE && now < deadline_ns(ctl, kernel)
}

/// ARP and NDP may speak for the shard's VIPs.
#[inline(always)]
#[must_use]
pub const fn answer_open(ctl: &ShardCtl, kernel: &ShardKernel, now: u64) -> bool {
    active(ctl, kernel, now) && kernel.answer_closed_term != ctl.term
}

/// IP frames to and from the shard's VIPs may pass.
#[inline(always)]
#[must_use]
pub const fn deliver_open(ctl: &ShardCtl, kernel: &ShardKernel, now: u64) -> bool {
    (active(ctl, kernel, now) && ctl.flags & FLAG_NO_ACCEPT == 0)
        || (ctl.role == ROLE_LEAVING && now < ctl.deliver_until_ns)
}
