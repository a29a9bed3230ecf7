//! UPDATE (RFC 4271 section 4.3): what a received one says and what must be done about its errors (RFC 7606). Ours are built in
//! [`encode`].

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use super::AS_TRANS;
use super::attr::{AsPath, Attributes};
use super::family::Family;
use super::message::DecodeContext;
use super::mp::{MpReach, MpUnreach};
use super::notification::Notification;

mod decode;
pub mod encode;

/// What an UPDATE leads to; of several errors the strongest counts (RFC 7606 section 3 h). Ordered by strength.
///
/// RFC 7606 also has "AFI/SAFI disable". It is left out: where it is allowed, session reset is too, and a half-dead session is
/// harder to operate than a restarted one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[must_use]
pub enum Disposition {
    /// Nothing is wrong.
    #[default]
    Accept,
    /// Some attributes were left out, the routes stand.
    AttributeDiscard,
    /// Every announced prefix counts as withdrawn.
    TreatAsWithdraw,
    /// The session ends with this.
    Reset(Notification),
}

/// What is wrong with an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Against its definition.
    #[error("has {len} octets")]
    Length {
        /// Octets of its value.
        len: usize,
    },
    /// Optional or transitive bit against its definition.
    #[error("has flags {flags:#04x}")]
    Flags {
        /// The flags octet.
        flags: u8,
    },
    /// A value nobody defined, or one that is not allowed there.
    #[error("has a value that is not defined")]
    Value,
    /// An AS_SET or AS_CONFED_SET (RFC 9774 section 3).
    #[error("has a set of AS numbers")]
    AsSet,
    /// Its inner structure cannot be read.
    #[error("cannot be read")]
    Unreadable,
    /// It goes on behind the last octet of all attributes.
    #[error("runs past the end of the attributes")]
    Overrun,
    /// All but the first are left out; of MP_REACH_NLRI and MP_UNREACH_NLRI there must be one.
    #[error("is there more than once")]
    Repeated,
    /// Mandatory with the routes there are.
    #[error("is missing")]
    Missing,
    /// It has no meaning from a peer in another AS.
    #[error("came from an external peer")]
    External,
    /// It has no meaning from a peer that speaks four-octet AS numbers.
    #[error("came from a peer with four-octet AS numbers")]
    NewSpeaker,
    /// Routes of a family that was not negotiated.
    #[error("is of a family that was not negotiated")]
    Family,
    /// Marked well-known, and not known.
    #[error("is marked well-known and unknown")]
    UnknownWellKnown,
}

/// One error of one attribute.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("attribute {code} {fault}: {disposition:?}")]
pub struct AttributeError {
    /// Its type code; 0 when the message ends before it.
    pub code: u8,
    /// What is wrong.
    pub fault: Fault,
    /// What this error alone asks for.
    pub disposition: Disposition,
}

/// An attribute that is not decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawAttribute {
    /// Its flags.
    pub flags: u8,
    /// Its type code.
    pub code: u8,
    /// Its value.
    pub value: Vec<u8>,
}

/// A received UPDATE. Only prefixes of negotiated families are in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// What to do; see the fields below only in the light of it.
    pub disposition: Disposition,
    /// Each attribute error with its own verdict, at most [`Update::MAX_ERRORS`] of them.
    pub errors: Vec<AttributeError>,
    /// IPv4 prefixes of the field Withdrawn Routes.
    pub withdrawn_v4: Vec<Ipv4Net>,
    /// IPv4 prefixes of the field Network Layer Reachability Information.
    pub announced_v4: Vec<Ipv4Net>,
    /// NEXT_HOP, for `announced_v4`.
    pub next_hop: Option<Ipv4Addr>,
    /// MP_REACH_NLRI.
    pub mp_reach: Option<MpReach>,
    /// MP_UNREACH_NLRI.
    pub mp_unreach: Option<MpUnreach>,
    /// End-of-RIB of this family, and nothing else (RFC 4724 section 2).
    pub end_of_rib: Option<Family>,
    /// What can be sent as well.
    pub attributes: Attributes,
    /// AGGREGATOR.
    pub aggregator: Option<(u32, Ipv4Addr)>,
    /// AS4_PATH of a two-octet peer.
    pub as4_path: Option<AsPath>,
    /// Attributes we do not know.
    pub unknown: Vec<RawAttribute>,
}

impl Update {
    /// Errors that are kept; the disposition counts all of them.
    pub const MAX_ERRORS: usize = 32;

    /// Reads a body. Never fails: what is wrong is in [`Update::disposition`].
    pub fn decode(body: &[u8], context: &DecodeContext) -> Self {
        decode::decode(body, context)
    }

    /// Prefixes that are announced after the verdict: none when they count as withdrawn.
    pub fn announced(&self) -> impl Iterator<Item = IpNet> {
        let stands = matches!(self.disposition, Disposition::Accept | Disposition::AttributeDiscard);
        self.reach().filter(move |_| stands)
    }

    /// Prefixes that are withdrawn, those that count as withdrawn among them.
    pub fn withdrawn(&self) -> impl Iterator<Item = IpNet> {
        let unreach = self.mp_unreach.iter().flat_map(|mp| mp.prefixes.iter().copied());
        let treated = self.disposition == Disposition::TreatAsWithdraw;
        self.withdrawn_v4.iter().copied().map(IpNet::V4).chain(unreach).chain(self.reach().filter(move |_| treated))
    }

    fn reach(&self) -> impl Iterator<Item = IpNet> {
        let mp = self.mp_reach.iter().flat_map(|mp| mp.prefixes.iter().copied());
        self.announced_v4.iter().copied().map(IpNet::V4).chain(mp)
    }

    /// The path with four-octet numbers, put together from AS_PATH and AS4_PATH where the peer sends both. AS4_PATH is ignored when
    /// a two-octet speaker aggregated the route after it was written (RFC 6793 section 4.2.3).
    pub fn as_path(&self) -> AsPath {
        let aggregated = self.aggregator.is_some_and(|(asn, _)| asn != u32::from(AS_TRANS));
        match &self.as4_path {
            Some(as4_path) if !aggregated => self.attributes.as_path.merged(as4_path),
            _ => self.attributes.as_path.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
