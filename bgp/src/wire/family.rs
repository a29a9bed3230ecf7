//! The two address families we speak: IPv4 and IPv6 unicast. Others are carried as bare numbers where a peer names them.

use std::fmt;

use ipnet::IpNet;
use serde::Serialize;

/// An address family with unicast forwarding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4 unicast, AFI 1.
    Ipv4,
    /// IPv6 unicast, AFI 2.
    Ipv6,
}

impl Family {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// SAFI of unicast forwarding (RFC 4760 section 6).
    pub const SAFI: u8 = 1;

    /// Address family identifier (IANA, named by RFC 4760 section 3).
    pub const fn afi(self) -> u16 {
        match self {
            Self::Ipv4 => 1,
            Self::Ipv6 => 2,
        }
    }

    /// Subsequent address family identifier: always [`Family::SAFI`].
    pub const fn safi(self) -> u8 {
        Self::SAFI
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

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4 unicast",
            Self::Ipv6 => "IPv6 unicast",
        })
    }
}

/// Some of the families.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct FamilySet(u8);

impl FamilySet {
    /// No family.
    pub const EMPTY: Self = Self(0);
    /// Both families.
    pub const ALL: Self = Self::EMPTY.with(Family::Ipv4).with(Family::Ipv6);

    const fn bit(family: Family) -> u8 {
        1 << family as u8
    }

    /// This set and `family`.
    #[must_use]
    pub const fn with(self, family: Family) -> Self {
        Self(self.0 | Self::bit(family))
    }

    /// Puts `family` in.
    pub const fn insert(&mut self, family: Family) {
        self.0 |= Self::bit(family);
    }

    /// Takes `family` out.
    pub const fn remove(&mut self, family: Family) {
        self.0 &= !Self::bit(family);
    }

    /// Whether `family` is in it.
    pub const fn contains(self, family: Family) -> bool {
        self.0 & Self::bit(family) != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many there are.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Those in both sets: what two OPENs have in common.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Its families, IPv4 first.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.contains(*family))
    }
}

impl FromIterator<Family> for FamilySet {
    fn from_iter<I: IntoIterator<Item = Family>>(families: I) -> Self {
        families.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for FamilySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_its_numbers_and_is_found_by_them() {
        assert_eq!((Family::Ipv4.afi(), Family::Ipv4.safi()), (1, 1));
        assert_eq!((Family::Ipv6.afi(), Family::Ipv6.safi()), (2, 1));
        for family in Family::ALL {
            assert_eq!(Family::from_wire(family.afi(), family.safi()), Some(family));
        }
        for (afi, safi) in [(1, 2), (2, 128), (3, 1), (25, 65), (0, 0)] {
            assert_eq!(Family::from_wire(afi, safi), None, "{afi}/{safi}");
        }
    }

    #[test]
    fn a_set_is_a_set() {
        let both: FamilySet = Family::ALL.into_iter().collect();
        assert_eq!((both, both.len()), (FamilySet::ALL, 2));
        let mut one = both;
        one.remove(Family::Ipv4);
        assert!(!one.contains(Family::Ipv4) && one.contains(Family::Ipv6) && !one.is_empty());
        assert_eq!(one.intersection(FamilySet::EMPTY.with(Family::Ipv4)), FamilySet::EMPTY);
        one.insert(Family::Ipv4);
        assert_eq!(one.iter().collect::<Vec<_>>(), Family::ALL);
    }
}
