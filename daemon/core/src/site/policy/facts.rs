//! Three facts, never one bit: is its control plane heard, does the path carry packets, is the service ready (sites.md 4.5).

use core::time::Duration;

use serde::Serialize;

use crate::site::path::io::Carriage;
use crate::site::summary::Summary;

/// A summary is worth all of its weight for so long: three refreshes of 30 s.
pub const FRESH: Duration = Duration::from_secs(90);
/// Its weight has fallen to a half by then, and the site is a fallback from then on.
pub const FROZEN: Duration = Duration::from_secs(300);
/// It is as if the site had never said anything.
pub const EXPIRED: Duration = Duration::from_secs(24 * 3600);
/// Handshakes of the data path within 10 s that contradict a summary (sites.md 4.5).
pub const HANDSHAKES: u32 = 64;
/// Of which so many per cent failed.
const FAILED: u32 = 20;

/// What the data path saw of a service at a site, within the last 10 s ([`crate::site::handshakes`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Observed {
    /// Handshakes of which is known what became of them.
    pub handshakes: u32,
    /// Of which failed: the client did not go on in time, whether nothing came back or a RST.
    pub failed: u32,
    /// Of the failed ones those that say nothing against the site: as many fail elsewhere, or by chance.
    pub usual: u32,
    /// Another site was seen over the same time, so that `usual` is more than what nobody knows.
    pub compared: bool,
}

impl Observed {
    /// Enough of them fail to trust this more than what the site says of itself.
    pub const fn contradicts(&self) -> bool {
        self.handshakes >= HANDSHAKES && self.unusual() as u64 * 100 >= self.handshakes as u64 * FAILED as u64
    }

    /// Share of handshakes that failed and should not have; 0 when there are too few to say.
    pub fn failure(&self) -> f64 {
        if self.handshakes < HANDSHAKES { 0.0 } else { f64::from(self.unusual()) / f64::from(self.handshakes) }
    }

    const fn unusual(&self) -> u32 {
        self.failed.saturating_sub(self.usual)
    }
}

/// All that is known of a service at a site, seen from here.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Facts {
    /// This site: no path, no session.
    pub here: bool,
    /// The STATE session, or a relay through which its records come.
    pub session: bool,
    /// The path from here.
    pub carriage: Carriage,
    /// Other sites say that they reach it. `None`: nobody can say.
    pub others_reach: Option<bool>,
    /// What it said last, and how old that is.
    pub summary: Option<(Summary, Duration)>,
    /// What the data path sees.
    pub observed: Observed,
}

/// What follows for new flows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All three facts speak for it.
    Normal,
    /// Its control plane is not heard: what it said last holds, and the data path has the last word.
    Blind,
    /// Its word is too old: only when nobody else is there.
    Fallback,
    /// Nothing is ready there.
    NotReady,
    /// It drains.
    Draining,
    /// The path from here carries nothing. Others reach it, or nobody can say: this is not its death.
    PathDown,
    /// Neither path nor session, and none of the others that can say reaches it.
    SiteDead,
    /// It says ready, and the data path says that it is not.
    Mismatch,
    /// It has never said anything, or too long ago.
    Unknown,
}

impl Verdict {
    /// The word for logs and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Blind => "blind",
            Self::Fallback => "fallback",
            Self::NotReady => "not-ready",
            Self::Draining => "draining",
            Self::PathDown => "path-down",
            Self::SiteDead => "site-dead",
            Self::Mismatch => "mismatch",
            Self::Unknown => "unknown",
        }
    }

    /// New flows may go there, if the score allows.
    pub const fn usable(self) -> bool {
        matches!(self, Self::Normal | Self::Blind)
    }

    /// Nothing that is sent there can be served. A mismatch and an old word are judgements; these are facts.
    pub const fn hard(self) -> bool {
        matches!(self, Self::NotReady | Self::Draining | Self::PathDown | Self::SiteDead | Self::Unknown)
    }
}

impl Facts {
    /// The table.
    pub fn verdict(&self) -> Verdict {
        let Some((summary, age)) = self.summary.filter(|(_, age)| self.here || *age < EXPIRED) else {
            return Verdict::Unknown;
        };
        let down = !self.here && matches!(self.carriage, Carriage::Down(_));
        match (down, self.session || self.here, self.others_reach) {
            (true, false, Some(false)) => return Verdict::SiteDead,
            (true, _, _) => return Verdict::PathDown,
            (false, _, _) => {}
        }
        if summary.draining {
            Verdict::Draining
        } else if summary.ready == 0 {
            Verdict::NotReady
        } else if self.observed.contradicts() {
            Verdict::Mismatch
        } else if self.here || age < FROZEN && self.session {
            Verdict::Normal
        } else if age < FROZEN {
            Verdict::Blind
        } else {
            Verdict::Fallback
        }
    }

    /// Weight of an ageing word: 1 while fresh, then falling to a half.
    pub fn freshness(&self) -> f64 {
        let Some((_, age)) = self.summary.filter(|_| !self.here) else { return 1.0 };
        let span = (FROZEN - FRESH).as_secs_f64();
        1.0 - 0.5 * (age.saturating_sub(FRESH).as_secs_f64() / span).min(1.0)
    }
}
