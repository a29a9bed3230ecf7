//! Newtypes that every room shares. One word per thing.

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use serde::{Deserialize, Serialize};

/// Index of a network link in the node's network namespace (the kernel's ifindex).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct LinkId(pub u32);

/// Longest name of a link in bytes (IFNAMSIZ of linux/if.h, less its final NUL).
pub const LINK_NAME_MAX: usize = 15;

/// Why a text is no name of a link (`dev_valid_name` of the kernel).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkNameFault {
    /// Empty, or a folder's name.
    Nothing,
    /// So many bytes.
    Long(usize),
    /// It contains this.
    Contains(char),
}

impl fmt::Display for LinkNameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("is no link name"),
            Self::Long(bytes) => write!(f, "is {bytes} bytes long"),
            Self::Contains(c) => write!(f, "contains {c:?}"),
        }
    }
}

/// What is wrong with the name of a link; `None`: nothing.
pub fn link_name_fault(text: &str) -> Option<LinkNameFault> {
    if text.is_empty() || text == "." || text == ".." {
        return Some(LinkNameFault::Nothing);
    }
    if text.len() > LINK_NAME_MAX {
        return Some(LinkNameFault::Long(text.len()));
    }
    let bad = |c: &char| *c == '/' || *c == ':' || c.is_whitespace() || c.is_control();
    text.chars().find(bad).map(LinkNameFault::Contains)
}

/// An Ethernet address, in wire order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// 00:00:00:00:00:00, the unknown target of an ARP request.
    pub const ZERO: Self = Self([0; 6]);
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Address family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(addr: &IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// A time in centiseconds, the unit of VRRPv3 intervals: 1..=4095 (RFC 9568 section 5.2.7, 12 bits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct Centis(u16);

impl Centis {
    /// 10 ms, the floor of this implementation and of the protocol.
    pub const MIN: Self = Self(1);
    /// 40.95 s, the largest value of the 12-bit field.
    pub const MAX: Self = Self(4095);

    /// `value` centiseconds, or `None` outside 1..=4095.
    pub const fn new(value: u16) -> Option<Self> {
        if value >= 1 && value <= 4095 { Some(Self(value)) } else { None }
    }

    /// Centiseconds as sent.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The same time as a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0 as u64 * 10)
    }
}

/// Role of a virtual router, RFC 9568 section 6.4.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Not taking part yet, or not any more.
    Initialize,
    /// Listening to the Active router, ready to take over.
    Backup,
    /// Owning the addresses.
    Active,
}

impl Role {
    /// The word used in logs, JSON and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Backup => "backup",
            Self::Active => "active",
        }
    }
}

/// Number of a claim: each time a node takes a group it counts one up, so that state of an earlier claim can be told apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Term(pub u64);

/// Slot of a group in the fence's arrays, 0..1024. Stable for the group's life on this node, reused afterwards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct Slot(pub u32);

/// Lowest priority of a healthy node. Below it lies the sick band 1..=99 (ADR 0004).
pub const HEALTHY_MIN: u8 = 100;
/// Highest priority a node may be given; 255 means "owns the address for good" (RFC 9568 section 5.2.4), which no node here does.
pub const PRIORITY_MAX: u8 = 254;

/// The priority of a node in the sick band: keeps the order of the healthy ones, within 1..=99.
pub fn sick_priority(healthy: u8) -> u8 {
    let span = u16::from(PRIORITY_MAX - HEALTHY_MIN);
    let above = u16::from(healthy.clamp(HEALTHY_MIN, PRIORITY_MAX) - HEALTHY_MIN);
    // 98 steps over 154: order-preserving, 1 for the lowest and 99 for the highest.
    u8::try_from(1 + above * 98 / span).unwrap_or(99)
}

/// The priority of a rank (0 = first) in an ordered list of nodes.
///
/// The first four ranks lie 48 apart, so that their skew times differ by 18.75 ms at the default interval of 100 ms, more than the
/// scheduling noise of a busy node; later ranks are one apart and end at 100.
pub fn rank_priority(rank: usize) -> u8 {
    match rank {
        0 => 254,
        1 => 206,
        2 => 158,
        3 => 110,
        _ => u8::try_from(113_usize.saturating_sub(rank)).unwrap_or(HEALTHY_MIN).max(HEALTHY_MIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sick_band_keeps_order_and_bounds() {
        assert_eq!(sick_priority(100), 1);
        assert_eq!(sick_priority(254), 99);
        for p in 100..254 {
            assert!(sick_priority(p) <= sick_priority(p + 1));
        }
        let ranks: Vec<u8> = (0..4).map(|r| sick_priority(rank_priority(r))).collect();
        assert!(ranks.windows(2).all(|w| w[0] > w[1]), "{ranks:?}");
    }

    #[test]
    fn first_four_ranks_are_48_apart() {
        let ranks: Vec<u8> = (0..20).map(rank_priority).collect();
        assert!(ranks[..4].windows(2).all(|w| w[0] - w[1] >= 48), "{ranks:?}");
        assert_eq!(&ranks[3..6], &[110, 109, 108]);
        assert_eq!(ranks[19], 100);
    }
}
