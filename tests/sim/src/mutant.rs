//! Planted bugs: what the simulator must find, or it proves nothing.
//!
//! None of them is a path in the shipped code: each alters what stands around the machine (the driver, the kernel's programs, the
//! packets on their way in, the configuration) in the way that a wrong line in the product would.

use crate::planted::planted;

planted! {
    /// The fence stays open half an interval and more beyond 3A - max(A/4, 2 ms).
    WindowLong = "window-long",
    /// An advert extends a slot whose deadline has passed.
    ExtendsWhenClosed = "extends-when-closed",
    /// The kernel pairs a new claim with the deadline of an old one: a stale term is accepted.
    TermIgnored = "term-ignored",
    /// A successor's advert or announcement does not mute the predecessor's kernel during a hand-over.
    HandoverUnmuted = "handover-unmuted",
    /// A superior advert does not depose in the kernel, only in the daemon that reads it.
    NotDeposed = "not-deposed",
    /// An advert that the fence dropped goes unnoticed by the driver.
    LateUnnoticed = "late-unnoticed",
    /// Timers expire before the socket is drained.
    ExpiresBeforeDrain = "expires-before-drain",
    /// Packets are taken as old as the start of the turn that read them.
    StaleNow = "stale-now",
    /// The fence is opened after the frames of a claim, not before.
    OpensLate = "opens-late",
    /// The fence is closed after the release has left, not before.
    ClosesLate = "closes-late",
    /// Of two Actives with equal priority each takes itself for the one with the higher address.
    TieBothWin = "tie-both-win",
    /// Every node waits the same time: no skew.
    NoSkew = "no-skew",
    /// The rule for one-way loss is off.
    NoYield = "no-yield",
    /// Addresses are installed without a lifetime, and what a crash left is not removed.
    NoLifetime = "no-lifetime",
}
