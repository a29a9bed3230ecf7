//! Our own UPDATEs: attributes encoded once, then as many messages as their prefixes need, each appended to the caller's buffer
//! and never beyond its budget.
//!
//! A message holds one kind of thing: withdrawn routes, or IPv4 prefixes in the body, or one MP attribute in front of all others
//! (RFC 7606 section 5.1). Attributes are in the order of their codes.

use ipnet::IpNet;

use crate::wire::EncodeError;
use crate::wire::attr::{Attributes, code, flag};
use crate::wire::family::Family;
use crate::wire::header::{self, HEADER_LEN, MAX_LEN, MAX_LEN_EXTENDED, MessageType};
use crate::wire::mp::NextHop;
use crate::wire::nlri;

/// Header, length of withdrawn routes, length of attributes.
const FIXED: usize = HEADER_LEN + 2 + 2;

/// NEXT_HOP with its header.
const NEXT_HOP_LEN: usize = 7;

/// Header of an attribute with a two-octet length.
const LONG_HEADER: usize = 4;

/// AFI and SAFI.
const MP_UNREACH_FIXED: usize = 3;

/// AFI, SAFI, length of the next hop, reserved octet.
const MP_REACH_FIXED: usize = 5;

/// The longest next hop (RFC 2545 section 3).
const LONGEST_NEXT_HOP: usize = 32;

/// The longest prefix: 128 bits and their count.
const LONGEST_PREFIX: usize = 17;

/// [`Attributes`] as one kind of peer reads them, without next hop and prefixes. Encode once, announce to many.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EncodedAttributes {
    /// ORIGIN and AS_PATH, whose codes are below that of NEXT_HOP.
    before: Vec<u8>,
    /// The others.
    after: Vec<u8>,
}

impl EncodedAttributes {
    /// Octets that leave room, in a message without extension, for any next hop and any one prefix.
    pub const MAX_LEN: usize = MAX_LEN - FIXED - LONG_HEADER - MP_REACH_FIXED - LONGEST_NEXT_HOP - LONGEST_PREFIX;

    /// For peers with four-octet AS numbers, or for the others, who get [`AS_TRANS`](crate::wire::AS_TRANS) and AS4_PATH
    /// (RFC 6793 section 4.2.2). Everything in `attributes` is sent: what a kind of peer must not see is left out by the caller.
    ///
    /// # Errors
    /// More than [`EncodedAttributes::MAX_LEN`] octets, or a set in the path.
    pub fn new(attributes: &Attributes, four_octet_as: bool) -> Result<Self, EncodeError> {
        const TRANSITIVE: u8 = flag::TRANSITIVE;
        const OPTIONAL: u8 = flag::OPTIONAL;
        if attributes.as_path.has_sets() {
            return Err(EncodeError::AsSet);
        }
        let as_path = |path: &crate::wire::AsPath, four_octet| {
            let mut value = Vec::new();
            path.encode(four_octet, &mut value);
            value
        };
        let mut before = Vec::new();
        put(&mut before, TRANSITIVE, code::ORIGIN, &[attributes.origin.number()])?;
        put(&mut before, TRANSITIVE, code::AS_PATH, &as_path(&attributes.as_path, four_octet_as))?;
        let mut after = Vec::new();
        if let Some(med) = attributes.med {
            put(&mut after, OPTIONAL, code::MULTI_EXIT_DISC, &med.to_be_bytes())?;
        }
        if let Some(local_pref) = attributes.local_pref {
            put(&mut after, TRANSITIVE, code::LOCAL_PREF, &local_pref.to_be_bytes())?;
        }
        let communities: Vec<u8> = attributes.communities.iter().flat_map(|one| one.to_be_bytes()).collect();
        put_list(&mut after, code::COMMUNITIES, &communities)?;
        put_list(&mut after, code::EXTENDED_COMMUNITIES, attributes.ext_communities.as_flattened())?;
        if !four_octet_as && let Some(path) = attributes.as_path.as4_path() {
            put(&mut after, OPTIONAL | TRANSITIVE, code::AS4_PATH, &as_path(&path, true))?;
        }
        let large = attributes.large_communities.iter().flat_map(|one| [one.global, one.local1, one.local2]);
        let large: Vec<u8> = large.flat_map(u32::to_be_bytes).collect();
        put_list(&mut after, code::LARGE_COMMUNITIES, &large)?;
        let encoded = Self { before, after };
        if encoded.len() > Self::MAX_LEN {
            return Err(EncodeError::Attributes { len: encoded.len(), max: Self::MAX_LEN });
        }
        Ok(encoded)
    }

    /// Octets of all of them.
    #[expect(clippy::len_without_is_empty, reason = "there are always ORIGIN and AS_PATH")]
    pub fn len(&self) -> usize {
        self.before.len() + self.after.len()
    }
}

fn put(out: &mut Vec<u8>, flags: u8, kind: u8, value: &[u8]) -> Result<(), EncodeError> {
    match (u8::try_from(value.len()), u16::try_from(value.len())) {
        (Ok(len), _) => out.extend_from_slice(&[flags, kind, len]),
        (Err(_), Ok(len)) => {
            out.extend_from_slice(&[flags | flag::EXTENDED_LENGTH, kind]);
            out.extend_from_slice(&len.to_be_bytes());
        }
        (Err(_), Err(_)) => {
            return Err(EncodeError::Attributes { len: value.len(), max: EncodedAttributes::MAX_LEN });
        }
    }
    out.extend_from_slice(value);
    Ok(())
}

/// An empty list is no attribute: zero octets of communities are malformed (RFC 7606 section 7.8).
fn put_list(out: &mut Vec<u8>, kind: u8, value: &[u8]) -> Result<(), EncodeError> {
    if value.is_empty() { Ok(()) } else { put(out, flag::OPTIONAL | flag::TRANSITIVE, kind, value) }
}

/// Appends UPDATEs that announce `prefixes`, which are all of the family of `next_hop`, and returns how many of them are announced.
///
/// No message is longer than `max_message`, and all together are no longer than `budget`. The rest did not fit or begins with
/// a prefix of another family. With a budget of `max_message` or more at least one prefix always fits.
#[must_use = "prefixes past the returned count are not announced"]
pub fn announce(
    out: &mut Vec<u8>,
    attributes: &EncodedAttributes,
    next_hop: NextHop,
    prefixes: &[IpNet],
    max_message: usize,
    budget: usize,
) -> usize {
    let next_hop_octets = next_hop.octets();
    messages(out, prefixes, max_message, budget, |out, rest, room| match next_hop {
        NextHop::V4(_) => {
            let (count, _) = fit(rest, Family::Ipv4, room.checked_sub(FIXED + attributes.len() + NEXT_HOP_LEN)?)?;
            let update = UpdateWriter::begin(out, &[]);
            update.out.extend_from_slice(&attributes.before);
            update.out.extend_from_slice(&[flag::TRANSITIVE, code::NEXT_HOP, 4]);
            update.out.extend_from_slice(&next_hop_octets);
            update.out.extend_from_slice(&attributes.after);
            update.finish(&rest[..count]);
            Some(count)
        }
        NextHop::V6 { .. } => {
            let value = MP_REACH_FIXED + next_hop_octets.len();
            let room = room.checked_sub(FIXED + LONG_HEADER + value + attributes.len())?;
            let (count, len) = fit(rest, Family::Ipv6, room)?;
            let mut update = UpdateWriter::begin(out, &[]);
            update.mp_header(code::MP_REACH_NLRI, value + len, Family::Ipv6);
            let next_hop_len = u8::try_from(next_hop_octets.len()).expect("a next hop has at most 32 octets");
            update.out.push(next_hop_len);
            update.out.extend_from_slice(&next_hop_octets);
            update.out.push(0);
            rest[..count].iter().for_each(|prefix| nlri::encode(prefix, update.out));
            update.out.extend_from_slice(&attributes.before);
            update.out.extend_from_slice(&attributes.after);
            update.finish(&[]);
            Some(count)
        }
    })
}

/// Appends UPDATEs that withdraw `prefixes`, all of `family`; limits and result are those of [`announce`].
#[must_use = "prefixes past the returned count are not withdrawn"]
pub fn withdraw(out: &mut Vec<u8>, family: Family, prefixes: &[IpNet], max_message: usize, budget: usize) -> usize {
    messages(out, prefixes, max_message, budget, |out, rest, room| match family {
        Family::Ipv4 => {
            let (count, _) = fit(rest, family, room.checked_sub(FIXED)?)?;
            UpdateWriter::begin(out, &rest[..count]).finish(&[]);
            Some(count)
        }
        Family::Ipv6 => {
            let (count, len) = fit(rest, family, room.checked_sub(FIXED + LONG_HEADER + MP_UNREACH_FIXED)?)?;
            let mut update = UpdateWriter::begin(out, &[]);
            update.mp_header(code::MP_UNREACH_NLRI, MP_UNREACH_FIXED + len, family);
            rest[..count].iter().for_each(|prefix| nlri::encode(prefix, update.out));
            update.finish(&[]);
            Some(count)
        }
    })
}

/// Octets of the longest End-of-RIB.
pub const END_OF_RIB_LEN: usize = FIXED + 3 + MP_UNREACH_FIXED;

/// Appends End-of-RIB (RFC 4724 section 2), at most [`END_OF_RIB_LEN`] octets.
pub fn end_of_rib(out: &mut Vec<u8>, family: Family) {
    let mut update = UpdateWriter::begin(out, &[]);
    if family == Family::Ipv6 {
        update.mp_header(code::MP_UNREACH_NLRI, MP_UNREACH_FIXED, family);
    }
    update.finish(&[]);
}

/// Calls `one` for message after message, with the prefixes that are left and the octets it may append, until nothing more fits.
fn messages(
    out: &mut Vec<u8>,
    prefixes: &[IpNet],
    max_message: usize,
    budget: usize,
    mut one: impl FnMut(&mut Vec<u8>, &[IpNet], usize) -> Option<usize>,
) -> usize {
    let end = out.len().saturating_add(budget);
    let mut done = 0;
    while done < prefixes.len() {
        let room = max_message.min(MAX_LEN_EXTENDED).min(end - out.len());
        match one(out, &prefixes[done..], room) {
            Some(count) => done += count,
            None => break,
        }
    }
    done
}

/// How many prefixes of `family`, from the first on, fit into `room` octets, and how many octets they have. None when there is none.
fn fit(prefixes: &[IpNet], family: Family, room: usize) -> Option<(usize, usize)> {
    let (mut count, mut len) = (0, 0);
    for prefix in prefixes.iter().take_while(|prefix| Family::of(prefix) == family) {
        let longer = len + nlri::encoded_len(prefix);
        if longer > room {
            break;
        }
        (count, len) = (count + 1, longer);
    }
    (count > 0).then_some((count, len))
}

/// One message being written: withdrawn routes at its begin, attributes in between, prefixes at its end.
struct UpdateWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    /// Where the two octets of the attributes' length are.
    length_at: usize,
}

impl<'a> UpdateWriter<'a> {
    fn begin(out: &'a mut Vec<u8>, withdrawn: &[IpNet]) -> Self {
        let start = header::begin(out, MessageType::Update);
        let withdrawn_at = out.len();
        out.extend_from_slice(&[0, 0]);
        withdrawn.iter().for_each(|prefix| nlri::encode(prefix, out));
        patch(out, withdrawn_at);
        let length_at = out.len();
        out.extend_from_slice(&[0, 0]);
        Self { out, start, length_at }
    }

    /// Header, AFI and SAFI of MP_REACH_NLRI or MP_UNREACH_NLRI with a value of `len` octets. The extended length is for values
    /// that need it (RFC 4271 section 4.3).
    fn mp_header(&mut self, kind: u8, len: usize, family: Family) {
        match u8::try_from(len) {
            Ok(len) => self.out.extend_from_slice(&[flag::OPTIONAL, kind, len]),
            Err(_) => {
                let len = u16::try_from(len).expect("callers bound every message by 65535 octets");
                self.out.extend_from_slice(&[flag::OPTIONAL | flag::EXTENDED_LENGTH, kind]);
                self.out.extend_from_slice(&len.to_be_bytes());
            }
        }
        self.out.extend_from_slice(&family.afi().to_be_bytes());
        self.out.push(family.safi());
    }

    fn finish(self, nlri: &[IpNet]) {
        patch(self.out, self.length_at);
        nlri.iter().for_each(|prefix| nlri::encode(prefix, self.out));
        header::finish(self.out, self.start);
    }
}

/// Writes how many octets follow the two at `at`.
fn patch(out: &mut [u8], at: usize) {
    let len = u16::try_from(out.len() - at - 2).expect("callers bound every message by 65535 octets");
    out[at..at + 2].copy_from_slice(&len.to_be_bytes());
}
