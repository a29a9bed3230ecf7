//! Path attributes: the content that a route carries. How they lie in an UPDATE is in [`super::update`].

use std::fmt;

use super::AS_TRANS;
use super::bytes::Reader;

/// Attribute type codes (IANA "BGP Path Attributes").
pub mod code {
    /// RFC 4271 section 5.1.1.
    pub const ORIGIN: u8 = 1;
    /// RFC 4271 section 5.1.2.
    pub const AS_PATH: u8 = 2;
    /// RFC 4271 section 5.1.3.
    pub const NEXT_HOP: u8 = 3;
    /// RFC 4271 section 5.1.4.
    pub const MULTI_EXIT_DISC: u8 = 4;
    /// RFC 4271 section 5.1.5.
    pub const LOCAL_PREF: u8 = 5;
    /// RFC 4271 section 5.1.6.
    pub const ATOMIC_AGGREGATE: u8 = 6;
    /// RFC 4271 section 5.1.7.
    pub const AGGREGATOR: u8 = 7;
    /// RFC 1997.
    pub const COMMUNITIES: u8 = 8;
    /// RFC 4456 section 8.
    pub const ORIGINATOR_ID: u8 = 9;
    /// RFC 4456 section 8.
    pub const CLUSTER_LIST: u8 = 10;
    /// RFC 4760 section 3.
    pub const MP_REACH_NLRI: u8 = 14;
    /// RFC 4760 section 4.
    pub const MP_UNREACH_NLRI: u8 = 15;
    /// RFC 4360 section 2.
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    /// RFC 6793 section 3.
    pub const AS4_PATH: u8 = 17;
    /// RFC 6793 section 3.
    pub const AS4_AGGREGATOR: u8 = 18;
    /// RFC 5701 section 2.
    pub const IPV6_EXTENDED_COMMUNITIES: u8 = 25;
    /// RFC 8092 section 3.
    pub const LARGE_COMMUNITIES: u8 = 32;
}

/// Attribute flags (RFC 4271 section 4.3).
pub mod flag {
    /// Not every speaker knows the attribute.
    pub const OPTIONAL: u8 = 0x80;
    /// Passed on also by those who do not know it.
    pub const TRANSITIVE: u8 = 0x40;
    /// Someone on the way did not know it.
    pub const PARTIAL: u8 = 0x20;
    /// The length has two octets.
    pub const EXTENDED_LENGTH: u8 = 0x10;
}

/// Well-known communities (IANA "BGP Well-known Communities").
pub mod community {
    /// RFC 8326 section 4: about to go away, prefer another way.
    pub const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;
    /// RFC 7999 section 5.
    pub const BLACKHOLE: u32 = 0xffff_029a;
    /// RFC 1997: not beyond the confederation.
    pub const NO_EXPORT: u32 = 0xffff_ff01;
    /// RFC 1997: to no other peer.
    pub const NO_ADVERTISE: u32 = 0xffff_ff02;
    /// RFC 1997: to no external peer.
    pub const NO_EXPORT_SUBCONFED: u32 = 0xffff_ff03;
}

/// ORIGIN (RFC 4271 section 5.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// 0: interior to the originating AS; what we send.
    #[default]
    Igp,
    /// 1: learned by EGP.
    Egp,
    /// 2: by other means.
    Incomplete,
}

impl Origin {
    /// The attribute's value.
    pub const fn number(self) -> u8 {
        match self {
            Self::Igp => 0,
            Self::Egp => 1,
            Self::Incomplete => 2,
        }
    }

    /// The origin of this value, if it is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Igp),
            1 => Some(Self::Egp),
            2 => Some(Self::Incomplete),
            _ => None,
        }
    }
}

/// A large community (RFC 8092 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity {
    /// Whose community it is: an AS number.
    pub global: u32,
    /// Meaning given by it.
    pub local1: u32,
    /// Meaning given by it.
    pub local2: u32,
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.global, self.local1, self.local2)
    }
}

/// Kinds of path segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentKind {
    /// AS_SET, 1 (RFC 4271 section 4.3); neither sent nor accepted any more (RFC 9774 section 3).
    Set,
    /// AS_SEQUENCE, 2 (RFC 4271 section 4.3).
    Sequence,
    /// AS_CONFED_SEQUENCE, 3 (RFC 5065 section 3).
    ConfedSequence,
    /// AS_CONFED_SET, 4 (RFC 5065 section 3); as AS_SET.
    ConfedSet,
}

impl SegmentKind {
    const fn number(self) -> u8 {
        match self {
            Self::Set => 1,
            Self::Sequence => 2,
            Self::ConfedSequence => 3,
            Self::ConfedSet => 4,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Set),
            2 => Some(Self::Sequence),
            3 => Some(Self::ConfedSequence),
            4 => Some(Self::ConfedSet),
            _ => None,
        }
    }

    const fn is_confederation(self) -> bool {
        matches!(self, Self::ConfedSequence | Self::ConfedSet)
    }
}

/// One segment of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// How its numbers are meant.
    pub kind: SegmentKind,
    /// AS numbers. Any count may be held; it is sent in pieces of at most 255, which a length octet can say.
    pub asns: Vec<u32>,
}

/// AS_PATH (RFC 4271 section 5.1.2) or AS4_PATH, with numbers of four octets always.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AsPath {
    /// From the nearest AS to the origin.
    pub segments: Vec<Segment>,
}

/// A path cannot be read (RFC 7606 section 7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MalformedPath;

impl AsPath {
    /// A path of one sequence; an empty one, which is what iBGP sends (RFC 4271 section 5.1.2), has no segment.
    pub fn sequence(asns: impl IntoIterator<Item = u32>) -> Self {
        let asns: Vec<u32> = asns.into_iter().collect();
        let segment = Segment { kind: SegmentKind::Sequence, asns };
        Self { segments: Some(segment).filter(|segment| !segment.asns.is_empty()).into_iter().collect() }
    }

    /// Whether there is an AS_SET or AS_CONFED_SET in it (RFC 9774 section 3).
    pub fn has_sets(&self) -> bool {
        self.segments.iter().any(|segment| matches!(segment.kind, SegmentKind::Set | SegmentKind::ConfedSet))
    }

    /// All numbers in order, whatever the segments.
    pub fn asns(&self) -> impl Iterator<Item = u32> {
        self.segments.iter().flat_map(|segment| segment.asns.iter().copied())
    }

    /// Appends the value with AS numbers of `four_octet` or two octets, where [`AS_TRANS`] stands for what does not fit
    /// (RFC 6793 section 4.2.2).
    pub(super) fn encode(&self, four_octet: bool, out: &mut Vec<u8>) {
        for segment in &self.segments {
            for piece in segment.asns.chunks(255) {
                let count = u8::try_from(piece.len()).expect("pieces have at most 255 numbers");
                out.extend_from_slice(&[segment.kind.number(), count]);
                for number in piece {
                    if four_octet {
                        out.extend_from_slice(&number.to_be_bytes());
                    } else {
                        out.extend_from_slice(&u16::try_from(*number).unwrap_or(AS_TRANS).to_be_bytes());
                    }
                }
            }
        }
    }

    /// The AS4_PATH that goes to a two-octet peer beside AS_PATH: none when every number fits (RFC 6793 section 4.2.2).
    pub(super) fn as4_path(&self) -> Option<Self> {
        let needed = self.asns().any(|number| u16::try_from(number).is_err());
        let segments = self.segments.iter().filter(|segment| !segment.kind.is_confederation());
        needed.then(|| Self { segments: segments.cloned().collect() })
    }

    /// Reads a value. Confederation segments are malformed unless `confederation` (RFC 5065 section 5), AS 0 always is (RFC 7607
    /// section 2).
    pub(super) fn decode(value: &[u8], four_octet: bool, confederation: bool) -> Result<Self, MalformedPath> {
        let mut reader = Reader::new(value);
        let mut segments = Vec::new();
        while !reader.is_empty() {
            let (kind, count) = reader.u8().zip(reader.u8()).ok_or(MalformedPath)?;
            let kind = SegmentKind::from_number(kind).ok_or(MalformedPath)?;
            if count == 0 || (kind.is_confederation() && !confederation) {
                return Err(MalformedPath);
            }
            let mut asns = Vec::with_capacity(usize::from(count));
            for _ in 0..count {
                let number = if four_octet { reader.u32() } else { reader.u16().map(u32::from) };
                asns.push(number.filter(|number| *number != 0).ok_or(MalformedPath)?);
            }
            segments.push(Segment { kind, asns });
        }
        Ok(Self { segments })
    }

    /// How long the path counts (RFC 4271 section 9.1.2.2: a set is one; RFC 5065 section 5.3: confederations are none).
    pub fn hops(&self) -> usize {
        let hops = |segment: &Segment| match segment.kind {
            SegmentKind::Sequence => segment.asns.len(),
            SegmentKind::Set => 1,
            SegmentKind::ConfedSequence | SegmentKind::ConfedSet => 0,
        };
        self.segments.iter().map(hops).sum()
    }

    /// The real path of a two-octet peer: as much of the front of this AS_PATH as AS4_PATH is short of, then AS4_PATH
    /// (RFC 6793 section 4.2.3). An AS4_PATH that is longer is ignored.
    #[must_use]
    pub fn merged(&self, as4_path: &Self) -> Self {
        let Some(mut missing) = self.hops().checked_sub(as4_path.hops()) else { return self.clone() };
        let mut merged = Self::default();
        for segment in &self.segments {
            let taken = match segment.kind {
                SegmentKind::Sequence => missing.min(segment.asns.len()),
                SegmentKind::Set => missing.min(1),
                SegmentKind::ConfedSequence | SegmentKind::ConfedSet => 0,
            };
            if missing == 0 {
                break;
            }
            let asns = match segment.kind {
                SegmentKind::Sequence => segment.asns[..taken].to_vec(),
                SegmentKind::Set | SegmentKind::ConfedSequence | SegmentKind::ConfedSet => segment.asns.clone(),
            };
            merged.push(Segment { kind: segment.kind, asns });
            missing -= taken;
        }
        as4_path.segments.iter().cloned().for_each(|segment| merged.push(segment));
        merged
    }

    /// Drops the segments that have no business in AS4_PATH (RFC 6793 section 6).
    pub(super) fn leave_confederations(&mut self) {
        self.segments.retain(|segment| !segment.kind.is_confederation());
    }

    /// Two sequences after one another are one.
    fn push(&mut self, segment: Segment) {
        match self.segments.last_mut() {
            Some(last) if last.kind == SegmentKind::Sequence && segment.kind == SegmentKind::Sequence => {
                last.asns.extend(segment.asns);
            }
            _ => self.segments.push(segment),
        }
    }
}

/// What a route carries besides its next hop, in both directions. Vectors are sent in the order they have; sort them to have equal
/// routes compare equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attributes {
    /// ORIGIN; always sent.
    pub origin: Origin,
    /// AS_PATH; always sent. To external peers it begins with our AS, to internal ones it is as given: the caller decides.
    pub as_path: AsPath,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF: for internal peers only, and there always (RFC 4271 section 5.1.5).
    pub local_pref: Option<u32>,
    /// COMMUNITIES, AS number in the upper half (RFC 1997).
    pub communities: Vec<u32>,
    /// EXTENDED COMMUNITIES as they are on the wire (RFC 4360).
    pub ext_communities: Vec<[u8; 8]>,
    /// LARGE_COMMUNITY (RFC 8092).
    pub large_communities: Vec<LargeCommunity>,
}

#[cfg(test)]
mod tests;
