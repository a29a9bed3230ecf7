//! MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760 sections 3 and 4) and the forms of a next hop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::bytes::Reader;
use super::family::Family;
use super::nlri;

/// Where the announced prefixes are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// For IPv4 prefixes: NEXT_HOP (RFC 4271 section 5.1.3).
    V4(Ipv4Addr),
    /// For IPv6 prefixes (RFC 2545 section 3): 16 octets, or 32 with a link-local address, which belongs there only when the
    /// peer is on the same link.
    V6 {
        /// The global address; on a link without one, the link-local address.
        global: Ipv6Addr,
        /// The link-local address beside it.
        link_local: Option<Ipv6Addr>,
    },
}

impl NextHop {
    /// The family of prefixes it can stand with; next hops of the other family (RFC 8950) are not spoken.
    pub const fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::Ipv4,
            Self::V6 { .. } => Family::Ipv6,
        }
    }

    /// The address without its link-local companion.
    pub const fn address(&self) -> IpAddr {
        match self {
            Self::V4(address) => IpAddr::V4(*address),
            Self::V6 { global, .. } => IpAddr::V6(*global),
        }
    }

    /// The next hop field without its length octet.
    pub(super) fn octets(&self) -> Vec<u8> {
        match self {
            Self::V4(address) => address.octets().to_vec(),
            Self::V6 { global, link_local: None } => global.octets().to_vec(),
            Self::V6 { global, link_local: Some(local) } => [global.octets(), local.octets()].concat(),
        }
    }

    /// A next hop field of the length that the family expects (RFC 7606 section 7.11).
    fn decode(family: Family, field: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(field);
        let next_hop = match family {
            Family::Ipv4 => Self::V4(reader.array::<4>()?.into()),
            Family::Ipv6 => {
                let global = reader.array::<16>()?.into();
                let link_local = if reader.is_empty() { None } else { Some(reader.array::<16>()?.into()) };
                Self::V6 { global, link_local }
            }
        };
        reader.is_empty().then_some(next_hop)
    }
}

/// Announced prefixes of a family that was negotiated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MpReach {
    /// Of these prefixes.
    pub family: Family,
    /// Where they are reached.
    pub next_hop: NextHop,
    /// May be empty.
    pub prefixes: Vec<IpNet>,
}

/// Withdrawn prefixes of a family that was negotiated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MpUnreach {
    /// Of these prefixes.
    pub family: Family,
    /// May be empty: then, alone in its UPDATE, End-of-RIB (RFC 4724 section 2).
    pub prefixes: Vec<IpNet>,
}

/// An attribute value: of a family that we exchange with the peer, or of another one, of which only that much is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value<T> {
    Ours(T),
    Foreign { any_prefix: bool },
}

/// The attribute cannot be read: what the peer announced or withdrew is unknown (RFC 7606 sections 3 j, 5.3 and 7.11).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

impl MpReach {
    pub(super) fn decode(value: &[u8], ours: impl Fn(Family) -> bool) -> Result<Value<Self>, Unreadable> {
        let mut reader = Reader::new(value);
        let (afi, safi) = reader.u16().zip(reader.u8()).ok_or(Unreadable)?;
        let next_hop = reader.u8().and_then(|len| reader.take(usize::from(len))).ok_or(Unreadable)?;
        let _reserved = reader.u8().ok_or(Unreadable)?;
        let Some(family) = Family::from_wire(afi, safi).filter(|family| ours(*family)) else {
            return Ok(Value::Foreign { any_prefix: !reader.is_empty() });
        };
        let next_hop = NextHop::decode(family, next_hop).ok_or(Unreadable)?;
        let prefixes = nlri::decode_any(family, reader.rest()).map_err(|nlri::Malformed| Unreadable)?;
        Ok(Value::Ours(Self { family, next_hop, prefixes }))
    }
}

impl MpUnreach {
    pub(super) fn decode(value: &[u8], ours: impl Fn(Family) -> bool) -> Result<Value<Self>, Unreadable> {
        let mut reader = Reader::new(value);
        let (afi, safi) = reader.u16().zip(reader.u8()).ok_or(Unreadable)?;
        let Some(family) = Family::from_wire(afi, safi).filter(|family| ours(*family)) else {
            return Ok(Value::Foreign { any_prefix: !reader.is_empty() });
        };
        let prefixes = nlri::decode_any(family, reader.rest()).map_err(|nlri::Malformed| Unreadable)?;
        Ok(Value::Ours(Self { family, prefixes }))
    }
}
