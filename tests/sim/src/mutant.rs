//! Planted bugs: what the simulator must find, or it proves nothing.
//!
//! None of them is a path in the shipped code: each alters what stands around the machine (the driver, the kernel's programs, the
//! packets on their way in, the configuration) in the way that a wrong line in the product would.

use std::fmt;

/// A planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// The fence stays open half an interval and more beyond 3A - max(A/4, 2 ms).
    WindowLong,
    /// An advert extends a slot whose deadline has passed.
    ExtendsWhenClosed,
    /// The kernel pairs a new claim with the deadline of an old one: a stale term is accepted.
    TermIgnored,
    /// A successor's advert or announcement does not mute the predecessor's kernel during a hand-over.
    HandoverUnmuted,
    /// A superior advert does not depose in the kernel, only in the daemon that reads it.
    NotDeposed,
    /// An advert that the fence dropped goes unnoticed by the driver.
    LateUnnoticed,
    /// Timers expire before the socket is drained.
    ExpiresBeforeDrain,
    /// Packets are taken as old as the start of the turn that read them.
    StaleNow,
    /// The fence is opened after the frames of a claim, not before.
    OpensLate,
    /// The fence is closed after the release has left, not before.
    ClosesLate,
    /// Of two Actives with equal priority each takes itself for the one with the higher address.
    TieBothWin,
    /// Every node waits the same time: no skew.
    NoSkew,
    /// The rule for one-way loss is off.
    NoYield,
    /// Addresses are installed without a lifetime, and what a crash left is not removed.
    NoLifetime,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::WindowLong,
        Self::ExtendsWhenClosed,
        Self::TermIgnored,
        Self::HandoverUnmuted,
        Self::NotDeposed,
        Self::LateUnnoticed,
        Self::ExpiresBeforeDrain,
        Self::StaleNow,
        Self::OpensLate,
        Self::ClosesLate,
        Self::TieBothWin,
        Self::NoSkew,
        Self::NoYield,
        Self::NoLifetime,
    ];

    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WindowLong => "window-long",
            Self::ExtendsWhenClosed => "extends-when-closed",
            Self::TermIgnored => "term-ignored",
            Self::HandoverUnmuted => "handover-unmuted",
            Self::NotDeposed => "not-deposed",
            Self::LateUnnoticed => "late-unnoticed",
            Self::ExpiresBeforeDrain => "expires-before-drain",
            Self::StaleNow => "stale-now",
            Self::OpensLate => "opens-late",
            Self::ClosesLate => "closes-late",
            Self::TieBothWin => "tie-both-win",
            Self::NoSkew => "no-skew",
            Self::NoYield => "no-yield",
            Self::NoLifetime => "no-lifetime",
        }
    }

    /// By name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.as_str() == name)
    }
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
