//! The formulas of the fence, shared so that the daemon reports (and tests judge) exactly what the programs enforce.

use crate::{
    FLAG_CONTINUED, FLAG_HANDOVER, FLAG_MAIN_V6, FLAG_NO_ACCEPT, ROLE_ACTIVE, ROLE_LEAVING, ShardCtl, ShardKernel,
    VipKey,
};

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

/// An advert of another node, for a shard of ours.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    /// IP version: 4 or 6.
    pub family: u8,
    /// Priority field, above 0.
    pub priority: u8,
    /// IP source.
    pub source: VipKey,
}

/// Must an Active that said what `kernel` remembers give way to this advert (RFC 9568 section 6.4.3)?
///
/// The kernel takes that transition itself: the process that should may stand still, and the sender announces the addresses next. Not
/// during a hand-over: there the predecessor goes on serving, mute from this advert on.
#[inline(always)]
#[must_use]
pub const fn deposes(ctl: &ShardCtl, kernel: &ShardKernel, heard: &Heard) -> bool {
    let speaks = kernel.term == ctl.term || ctl.flags & FLAG_CONTINUED != 0;
    if ctl.role != ROLE_ACTIVE || ctl.flags & FLAG_HANDOVER != 0 || !speaks {
        return false;
    }
    let main = if ctl.flags & FLAG_MAIN_V6 != 0 { 6 } else { 4 };
    let priority = heard.priority as u64;
    priority > kernel.priority
        || (priority == kernel.priority && heard.family == main && higher(&heard.source, &kernel.source))
}

/// Compares as numbers, in two words: the target has no 128-bit comparison.
#[inline(always)]
const fn higher(a: &VipKey, b: &VipKey) -> bool {
    let (a, b) = (u128::from_be_bytes(a.addr), u128::from_be_bytes(b.addr));
    let (a_high, b_high) = ((a >> 64) as u64, (b >> 64) as u64);
    a_high > b_high || (a_high == b_high && a as u64 > b as u64)
}

/// Another node has the better right: it outranked this term, or it spoke up after the silence that the claim stands on.
#[inline(always)]
#[must_use]
pub const fn deposed(ctl: &ShardCtl, kernel: &ShardKernel) -> bool {
    kernel.deposed_term == ctl.term || (kernel.term != ctl.term && kernel.heard_ns > ctl.heed_ns)
}

/// An advert of a deposed Active with this priority claims no more than the last one did.
#[inline(always)]
#[must_use]
pub const fn repeats(ctl: &ShardCtl, kernel: &ShardKernel, priority: u8) -> bool {
    ctl.role == ROLE_ACTIVE && kernel.term == ctl.term && priority != 0 && priority as u64 <= kernel.priority
}

/// Owner, not deposed, and before the deadline at `now` (`CLOCK_BOOTTIME` nanoseconds).
#[inline(always)]
#[must_use]
pub const fn active(ctl: &ShardCtl, kernel: &ShardKernel, now: u64) -> bool {
    ctl.role == ROLE_ACTIVE && now < deadline_ns(ctl, kernel) && !deposed(ctl, kernel)
}

/// ARP and NDP may speak for the shard's VIPs.
#[inline(always)]
#[must_use]
pub const fn answer_open(ctl: &ShardCtl, kernel: &ShardKernel, now: u64) -> bool {
    active(ctl, kernel, now) && kernel.answer_closed_term != ctl.term
}

/// Granted away or given up: who speaks for the shard now is the successor.
#[inline(always)]
#[must_use]
pub const fn awaits_successor(ctl: &ShardCtl) -> bool {
    (ctl.role == ROLE_ACTIVE && ctl.flags & FLAG_HANDOVER != 0) || ctl.role == ROLE_LEAVING
}

/// Frames are still served and a successor was heard: new connections are its business.
#[inline(always)]
#[must_use]
pub const fn hands_on(ctl: &ShardCtl, kernel: &ShardKernel, now: u64) -> bool {
    kernel.answer_closed_term == ctl.term && deliver_open(ctl, kernel, now)
}

/// IP frames to and from the shard's VIPs may pass.
#[inline(always)]
#[must_use]
pub const fn deliver_open(ctl: &ShardCtl, kernel: &ShardKernel, now: u64) -> bool {
    (active(ctl, kernel, now) && ctl.flags & FLAG_NO_ACCEPT == 0)
        || (ctl.role == ROLE_LEAVING && now < ctl.deliver_until_ns)
}
