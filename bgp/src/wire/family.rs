//! Address families that we announce: unicast, IPv4 and IPv6.

use ipnet::IpNet;
use serde::Serialize;

/// A unicast family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4,
    /// AFI 2, SAFI 1.
    Ipv6,
}

impl Family {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];
    /// SAFI of unicast (RFC 4760 section 6).
    pub const SAFI: u8 = 1;

    /// Address Family Identifier (IANA address family numbers).
    pub const fn afi(self) -> u16 {
        match self {
            Self::Ipv4 => 1,
            Self::Ipv6 => 2,
        }
    }

    /// The family of these numbers, if it is one of ours.
    pub const fn from_wire(afi: u16, safi: u8) -> Option<Self> {
        match (afi, safi) {
            (1, Self::SAFI) => Some(Self::Ipv4),
            (2, Self::SAFI) => Some(Self::Ipv6),
            _ => None,
        }
    }

    /// The family of a prefix.
    pub const fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::Ipv4,
            IpNet::V6(_) => Self::Ipv6,
        }
    }

    /// As in configuration and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// A set of families.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FamilySet(u8);

impl FamilySet {
    /// None.
    pub const EMPTY: Self = Self(0);

    const fn bit(family: Family) -> u8 {
        match family {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        }
    }

    /// With this one too.
    #[must_use]
    pub const fn with(self, family: Family) -> Self {
        Self(self.0 | Self::bit(family))
    }

    /// What both have.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Is it there?
    pub const fn contains(self, family: Family) -> bool {
        self.0 & Self::bit(family) != 0
    }

    /// Is none there?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are there, in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |f| self.contains(*f))
    }
}

impl FromIterator<Family> for FamilySet {
    fn from_iter<I: IntoIterator<Item = Family>>(families: I) -> Self {
        families.into_iter().fold(Self::EMPTY, Self::with)
    }
}
