//! What a planned restart leaves behind, and what the next run may claim because of it.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;

use crate::time::Instant;
use crate::wire::{Family, FamilySet};

/// First line of the persisted form; the number grows when the form changes, and an unknown one is refused.
const MAGIC: &str = "bascule-bgp-restart 1";

/// Restart Time has 12 bits (RFC 4724 section 3).
const RESTART_TIME_MAX: u16 = 4095;

/// Written by the driver as text ([`fmt::Display`]) when a planned restart begins, read ([`FromStr`]) and removed by the next run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestartMarker {
    /// Which boot of the machine: a rebooted one has kept no forwarding state.
    pub boot_id: String,
    /// When the run ended, on the clock of that boot.
    pub written: Instant,
    /// Restart Time that was offered, seconds: how long helpers keep our routes.
    pub restart_time: u16,
    /// Families with routes that were announced.
    pub families: FamilySet,
}

/// A persisted marker that cannot be read. The run starts as if there were none: it then claims nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MarkerError {
    /// Not a marker, or one of another version.
    #[error("first line of the restart marker is `{found}`, not `{MAGIC}`")]
    Version {
        /// The first line.
        found: String,
    },
    /// A field that does not parse.
    #[error("restart marker, field {field}: `{value}` is not {expected}")]
    Value {
        /// Its name.
        field: &'static str,
        /// As written.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A field that is not there.
    #[error("restart marker has no field {field}")]
    Missing {
        /// Its name.
        field: &'static str,
    },
}

impl fmt::Display for RestartMarker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{MAGIC}")?;
        writeln!(f, "boot {}", self.boot_id)?;
        writeln!(f, "written {}", self.written.as_nanos())?;
        writeln!(f, "restart-time {}", self.restart_time)?;
        write!(f, "families")?;
        for family in self.families.iter() {
            write!(f, " {}", family.as_str())?;
        }
        writeln!(f)
    }
}

impl FromStr for RestartMarker {
    type Err = MarkerError;

    fn from_str(text: &str) -> Result<Self, MarkerError> {
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        if first != MAGIC {
            return Err(MarkerError::Version { found: first.to_owned() });
        }
        let fields: Vec<_> = lines.map(|line| line.split_once(' ').unwrap_or((line, ""))).collect();
        let field = |name: &'static str| {
            let found = fields.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| *value).ok_or(MarkerError::Missing { field: name })
        };
        let bad = |field, value: &str, expected| MarkerError::Value { field, value: value.to_owned(), expected };
        let boot_id = field("boot")?;
        if boot_id.is_empty() {
            return Err(bad("boot", boot_id, "a boot id"));
        }
        let written = field("written")?;
        let nanos = written.parse().map_err(|_| bad("written", written, "nanoseconds since boot"))?;
        let restart_time = field("restart-time")?;
        let seconds = restart_time.parse().ok().filter(|seconds| *seconds <= RESTART_TIME_MAX);
        let families = field("families")?;
        let family = |word: &str| {
            let known = Family::ALL.into_iter().find(|family| family.as_str() == word);
            known.ok_or_else(|| bad("families", word, "`ipv4` or `ipv6`"))
        };
        Ok(Self {
            boot_id: boot_id.to_owned(),
            written: Instant::from_nanos(nanos),
            restart_time: seconds.ok_or_else(|| bad("restart-time", restart_time, "0 to 4095 seconds"))?,
            families: families.split_whitespace().map(family).collect::<Result<_, _>>()?,
        })
    }
}

/// What this run may say of the one before: the Restart State bit and the Forwarding State bits (RFC 4724 section 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FormerRun {
    until: Instant,
    forwarding: FamilySet,
}

impl FormerRun {
    /// From a marker. `still_forwarding`: families of which every announced address is still installed, as the driver found them before
    /// it changed anything. `None` when nothing may be claimed: another boot, a time stamp of the future, or too late.
    pub fn new(marker: &RestartMarker, boot_id: &str, still_forwarding: FamilySet, now: Instant) -> Option<Self> {
        let until = marker.written + Duration::from_secs(u64::from(marker.restart_time));
        let valid = marker.boot_id == boot_id && marker.written <= now && now < until;
        valid.then(|| Self { until, forwarding: marker.families.intersection(still_forwarding) })
    }

    /// Restart State (R) bit of an OPEN sent at `now`: helpers keep our routes only this long.
    pub fn restarting(&self, now: Instant) -> bool {
        now < self.until
    }

    /// Forwarding State (F) bits of an OPEN sent at `now`, before this run had a session with that neighbor. Afterwards the run itself
    /// is the proof: it never stopped forwarding, so every family keeps its bit.
    pub fn forwarding(&self, now: Instant) -> FamilySet {
        if self.restarting(now) { self.forwarding } else { FamilySet::EMPTY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: FamilySet = FamilySet::EMPTY.with(Family::Ipv4).with(Family::Ipv6);

    fn marker() -> RestartMarker {
        RestartMarker {
            boot_id: "5c1f".to_owned(),
            written: Instant::from_nanos(100_000_000_000),
            restart_time: 120,
            families: BOTH,
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn what_is_written_is_read_back() {
        for families in [BOTH, FamilySet::EMPTY.with(Family::Ipv6), FamilySet::EMPTY] {
            let marker = RestartMarker { families, ..marker() };
            assert_eq!(marker.to_string().parse(), Ok(marker));
        }
    }

    #[test]
    fn a_broken_marker_is_refused_by_field() {
        let text = marker().to_string();
        let broken = [
            (String::new(), "first line"),
            (text.replace("restart 1", "restart 2"), "first line"),
            (text.replace("boot 5c1f\n", ""), "no field boot"),
            (text.replace("boot 5c1f", "boot "), "field boot"),
            (text.replace("100000000000", "-1"), "field written: `-1`"),
            (text.replace("time 120", "time 4096"), "field restart-time: `4096`"),
            (text.replace("ipv6", "ipv5"), "field families: `ipv5`"),
            (text.replace("families ipv4 ipv6\n", ""), "no field families"),
        ];
        for (text, says) in broken {
            let error = text.parse::<RestartMarker>().expect_err(&text).to_string();
            assert!(error.contains(says), "{error} should say {says}");
        }
    }

    #[test]
    fn s4724_3_restart_state_only_within_restart_time_of_the_same_boot() {
        let former = |boot: &str, now| FormerRun::new(&marker(), boot, BOTH, now);
        assert_eq!(former("other", at(101)), None);
        assert_eq!(former("5c1f", at(99)), None, "a time stamp of the future proves nothing");
        assert_eq!(former("5c1f", at(220)), None);
        let run = former("5c1f", at(101)).expect("in time");
        assert!(run.restarting(at(219)));
        assert!(!run.restarting(at(220)));
    }

    #[test]
    fn s4724_3_forwarding_state_is_what_the_driver_found_and_nothing_more() {
        let ipv4 = FamilySet::EMPTY.with(Family::Ipv4);
        let run = FormerRun::new(&marker(), "5c1f", ipv4, at(101)).expect("in time");
        assert_eq!(run.forwarding(at(101)), ipv4);
        assert_eq!(run.forwarding(at(220)), FamilySet::EMPTY);
        let narrow = RestartMarker { families: ipv4, ..marker() };
        let run = FormerRun::new(&narrow, "5c1f", BOTH, at(101)).expect("in time");
        assert_eq!(run.forwarding(at(101)), ipv4, "a family that was not announced was not kept either");
    }
}
