//! The walk over a received UPDATE and the verdict of RFC 7606 on each attribute.

use super::{AttributeError, Disposition, Fault, RawAttribute, Update};
use crate::wire::attr::{AsPath, LargeCommunity, Origin, code, flag};
use crate::wire::bytes::Reader;
use crate::wire::family::Family;
use crate::wire::message::DecodeContext;
use crate::wire::mp::{MpReach, MpUnreach, Value};
use crate::wire::nlri;
use crate::wire::notification::{Notification, update_error};

/// What an error asks for, before a session reset has its NOTIFICATION.
#[derive(Clone, Copy)]
enum Severity {
    Discard,
    Withdraw,
    Reset,
}

use Severity::{Discard, Reset, Withdraw};

type Verdict = Result<(), (Fault, Severity)>;

pub(super) fn decode(body: &[u8], context: &DecodeContext) -> Update {
    let mut update = Update::default();
    if let Err(reset) = fields(body, context, &mut update) {
        raise(&mut update.disposition, Disposition::Reset(reset));
    }
    update
}

/// The strongest disposition counts, and of two resets the first (RFC 7606 section 3 h).
fn raise(disposition: &mut Disposition, to: Disposition) {
    if !matches!(disposition, Disposition::Reset(_)) && to > *disposition {
        *disposition = to;
    }
}

fn fields(body: &[u8], context: &DecodeContext, update: &mut Update) -> Result<(), Notification> {
    // RFC 7606 section 3 b: lengths that do not fit into the message are still the end of the session.
    let list = || Notification::update(update_error::MALFORMED_ATTRIBUTE_LIST);
    let mut reader = Reader::new(body);
    let mut field = || reader.u16().and_then(|len| reader.take(usize::from(len))).ok_or_else(list);
    let (withdrawn, attributes) = (field()?, field()?);
    // RFC 7606 sections 3 i, 3 j and 5.3: prefixes that cannot be read are too.
    let network = |nlri::Malformed| Notification::update(update_error::INVALID_NETWORK_FIELD);
    let withdrawn = nlri::decode_v4(withdrawn).map_err(network)?;
    let announced = nlri::decode_v4(reader.rest()).map_err(network)?;
    let any_announced = !announced.is_empty();
    if context.families.contains(Family::Ipv4) {
        if body.len() == 4 {
            update.end_of_rib = Some(Family::Ipv4);
        }
        (update.withdrawn_v4, update.announced_v4) = (withdrawn, announced);
    }
    let mut walk = Walk {
        context,
        update,
        seen: [false; 256],
        beside_unreach: false,
        foreign: false,
        next_hop: None,
        first: None,
    };
    walk.attributes(attributes)?;
    walk.finish(any_announced)?;
    if body.len() == 4 + attributes.len() && !walk.beside_unreach && walk.update.errors.is_empty() {
        let unreach = walk.update.mp_unreach.as_ref().filter(|unreach| unreach.prefixes.is_empty());
        walk.update.end_of_rib = unreach.map(|unreach| unreach.family).or(walk.update.end_of_rib);
    }
    Ok(())
}

struct Walk<'a> {
    context: &'a DecodeContext,
    update: &'a mut Update,
    seen: [bool; 256],
    /// There is an attribute other than MP_UNREACH_NLRI.
    beside_unreach: bool,
    /// MP_REACH_NLRI announces something of a family that was not negotiated.
    foreign: bool,
    /// The value of NEXT_HOP as it came, judged when it is known whether it applies to anything, and the whole attribute.
    next_hop: Option<(&'a [u8], &'a [u8])>,
    /// What the first error that asks for treat-as-withdraw would be as session reset (RFC 7606 section 5.2).
    first: Option<Notification>,
}

impl<'a> Walk<'a> {
    fn attributes(&mut self, bytes: &'a [u8]) -> Result<(), Notification> {
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let whole = reader.rest();
            let header = reader.u8().zip(reader.u8());
            self.beside_unreach |= header.is_none_or(|(_, kind)| kind != code::MP_UNREACH_NLRI);
            let value = header.and_then(|(flags, _)| {
                let len = if flags & flag::EXTENDED_LENGTH != 0 { reader.u16() } else { reader.u8().map(u16::from) };
                reader.take(usize::from(len?))
            });
            let (Some((flags, kind)), Some(value)) = (header, value) else {
                // RFC 7606 section 4: the total length is believed, so the prefixes behind it are still found.
                let kind = header.map_or(0, |(_, kind)| kind);
                return self.error(kind, whole, Fault::Overrun, Withdraw);
            };
            let raw = &whole[..whole.len() - reader.rest().len()];
            if let Err((fault, severity)) = self.attribute(flags, kind, value, raw) {
                self.error(kind, raw, fault, severity)?;
            }
        }
        Ok(())
    }

    fn attribute(&mut self, flags: u8, kind: u8, value: &'a [u8], raw: &'a [u8]) -> Verdict {
        // RFC 7606 section 3 g.
        if std::mem::replace(&mut self.seen[usize::from(kind)], true) {
            let routes = matches!(kind, code::MP_REACH_NLRI | code::MP_UNREACH_NLRI);
            return Err((Fault::Repeated, if routes { Reset } else { Discard }));
        }
        let Some(expected) = expected_flags(kind) else { return self.unknown(flags, kind, value) };
        // The routes are read even where the flags are wrong: they are what is to be withdrawn.
        let read = self.known(kind, value, raw);
        // RFC 7606 section 3 c.
        if flags & (flag::OPTIONAL | flag::TRANSITIVE) != expected && !matches!(read, Err((_, Reset))) {
            return Err((Fault::Flags { flags }, Withdraw));
        }
        read
    }

    fn unknown(&mut self, flags: u8, kind: u8, value: &[u8]) -> Verdict {
        if flags & flag::OPTIONAL == 0 {
            // RFC 4271 section 6.3; RFC 7606 leaves it so.
            return Err((Fault::UnknownWellKnown, Reset));
        }
        self.update.unknown.push(RawAttribute { flags, code: kind, value: value.to_vec() });
        Ok(())
    }

    fn known(&mut self, kind: u8, value: &'a [u8], raw: &'a [u8]) -> Verdict {
        let DecodeContext { four_octet_as, ibgp, families, .. } = *self.context;
        let attributes = &mut self.update.attributes;
        let mut reader = Reader::new(value);
        match kind {
            code::ORIGIN => {
                let [number] = exactly(value, Withdraw)?;
                attributes.origin = Origin::from_number(number).ok_or((Fault::Value, Withdraw))?;
            }
            code::AS_PATH => {
                let path = AsPath::decode(value, four_octet_as, ibgp);
                attributes.as_path = path.map_err(|_| (Fault::Unreadable, Withdraw))?;
                no_sets(&attributes.as_path)?;
            }
            code::NEXT_HOP => self.next_hop = Some((value, raw)),
            code::MULTI_EXIT_DISC => attributes.med = Some(u32::from_be_bytes(exactly(value, Withdraw)?)),
            code::LOCAL_PREF => {
                internal_only(ibgp)?;
                attributes.local_pref = Some(u32::from_be_bytes(exactly(value, Withdraw)?));
            }
            code::ATOMIC_AGGREGATE => {
                exactly::<0>(value, Discard)?;
            }
            code::AGGREGATOR => {
                let number = if four_octet_as { reader.u32() } else { reader.u16().map(u32::from) };
                let both = number.zip(reader.array::<4>()).filter(|_| reader.is_empty());
                let (number, router) = both.ok_or((Fault::Length { len: value.len() }, Discard))?;
                // RFC 7607 section 2.
                if number == 0 {
                    return Err((Fault::Value, Discard));
                }
                self.update.aggregator = Some((number, router.into()));
            }
            code::COMMUNITIES => {
                attributes.communities = multiples::<4>(value)?.map(u32::from_be_bytes).collect();
            }
            code::ORIGINATOR_ID => {
                internal_only(ibgp)?;
                exactly::<4>(value, Withdraw)?;
            }
            code::CLUSTER_LIST => {
                internal_only(ibgp)?;
                drop(multiples::<4>(value)?);
            }
            code::MP_REACH_NLRI => {
                match MpReach::decode(value, |family| families.contains(family))
                    .map_err(|_| (Fault::Unreadable, Reset))?
                {
                    Value::Ours(reach) => self.update.mp_reach = Some(reach),
                    Value::Foreign { any_prefix } => {
                        self.foreign = any_prefix;
                        return Err((Fault::Family, Discard));
                    }
                }
            }
            code::MP_UNREACH_NLRI => {
                match MpUnreach::decode(value, |family| families.contains(family))
                    .map_err(|_| (Fault::Unreadable, Reset))?
                {
                    Value::Ours(unreach) => self.update.mp_unreach = Some(unreach),
                    Value::Foreign { .. } => return Err((Fault::Family, Discard)),
                }
            }
            code::EXTENDED_COMMUNITIES => attributes.ext_communities = multiples::<8>(value)?.collect(),
            code::IPV6_EXTENDED_COMMUNITIES => drop(multiples::<20>(value)?),
            code::LARGE_COMMUNITIES => {
                attributes.large_communities = multiples::<12>(value)?.map(large_community).collect();
            }
            // RFC 6793 section 6: from a peer that has no need of them they are left out, and so are malformed ones.
            code::AS4_PATH => {
                old_speaker_only(four_octet_as)?;
                if value.len() < 6 {
                    return Err((Fault::Length { len: value.len() }, Discard));
                }
                let mut path = AsPath::decode(value, true, true).map_err(|_| (Fault::Unreadable, Discard))?;
                no_sets(&path)?;
                path.leave_confederations();
                self.update.as4_path = Some(path);
            }
            code::AS4_AGGREGATOR => {
                old_speaker_only(four_octet_as)?;
                exactly::<8>(value, Discard)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// What can only be judged when everything is read. `any_announced`: there is a prefix in the body, of whatever family.
    fn finish(&mut self, any_announced: bool) -> Result<(), Notification> {
        let mp = self.update.mp_reach.as_ref().is_some_and(|reach| !reach.prefixes.is_empty());
        if let Some((value, raw)) = self.next_hop
            && let Err((fault, severity)) = self.judge_next_hop(value, any_announced)
        {
            self.error(code::NEXT_HOP, raw, fault, severity)?;
        }
        // RFC 7606 section 3 d; RFC 4271 section 5 and RFC 4760 section 3 say which are mandatory with what.
        let mandatory = [
            (code::ORIGIN, any_announced || mp),
            (code::AS_PATH, any_announced || mp),
            (code::NEXT_HOP, any_announced),
            (code::LOCAL_PREF, self.context.ibgp && (any_announced || mp)),
        ];
        for (kind, needed) in mandatory {
            if needed && !self.seen[usize::from(kind)] {
                self.error(kind, &[], Fault::Missing, Withdraw)?;
            }
        }
        // RFC 7606 section 5.2: without a route in sight, treat-as-withdraw would withdraw nothing.
        let reachable = any_announced || mp || self.foreign;
        match self.first.take() {
            Some(reset) if self.beside_unreach && !reachable => Err(reset),
            _ => Ok(()),
        }
    }

    /// NEXT_HOP matters for prefixes of the body only (RFC 4760 section 3): some send 0.0.0.0 beside MP_REACH_NLRI.
    fn judge_next_hop(&mut self, value: &[u8], any_announced: bool) -> Verdict {
        let applies = any_announced || !self.seen[usize::from(code::MP_REACH_NLRI)];
        let severity = if applies { Withdraw } else { Discard };
        let address = std::net::Ipv4Addr::from(exactly::<4>(value, severity)?);
        if !applies {
            return Ok(());
        }
        // RFC 4271 section 6.3: an address of a host; section 3 e of RFC 7606 says what follows when it is not.
        if address.is_unspecified() || address.octets()[0] >= 224 {
            return Err((Fault::Value, Withdraw));
        }
        self.update.next_hop = Some(address);
        Ok(())
    }

    fn error(&mut self, kind: u8, raw: &[u8], fault: Fault, severity: Severity) -> Result<(), Notification> {
        let disposition = match severity {
            Discard => Disposition::AttributeDiscard,
            Withdraw => {
                self.first.get_or_insert_with(|| notification(kind, fault, raw));
                Disposition::TreatAsWithdraw
            }
            Reset => Disposition::Reset(notification(kind, fault, raw)),
        };
        raise(&mut self.update.disposition, disposition.clone());
        if self.update.errors.len() < Update::MAX_ERRORS {
            self.update.errors.push(AttributeError { code: kind, fault, disposition: disposition.clone() });
        }
        match disposition {
            Disposition::Reset(notification) => Err(notification),
            _ => Ok(()),
        }
    }
}

/// Optional and transitive bit of the attributes we know.
fn expected_flags(kind: u8) -> Option<u8> {
    match kind {
        code::ORIGIN | code::AS_PATH | code::NEXT_HOP | code::LOCAL_PREF | code::ATOMIC_AGGREGATE => {
            Some(flag::TRANSITIVE)
        }
        code::MULTI_EXIT_DISC
        | code::ORIGINATOR_ID
        | code::CLUSTER_LIST
        | code::MP_REACH_NLRI
        | code::MP_UNREACH_NLRI => Some(flag::OPTIONAL),
        code::AGGREGATOR
        | code::COMMUNITIES
        | code::EXTENDED_COMMUNITIES
        | code::AS4_PATH
        | code::AS4_AGGREGATOR
        | code::IPV6_EXTENDED_COMMUNITIES
        | code::LARGE_COMMUNITIES => Some(flag::OPTIONAL | flag::TRANSITIVE),
        _ => None,
    }
}

fn exactly<const N: usize>(value: &[u8], severity: Severity) -> Result<[u8; N], (Fault, Severity)> {
    value.try_into().map_err(|_| (Fault::Length { len: value.len() }, severity))
}

/// Lists of communities and the like: at least one, and nothing left over (RFC 7606 sections 7.8, 7.10, 7.14, 7.15; RFC 8092 section 6).
fn multiples<const N: usize>(value: &[u8]) -> Result<impl Iterator<Item = [u8; N]>, (Fault, Severity)> {
    let (chunks, rest) = value.as_chunks::<N>();
    if chunks.is_empty() || !rest.is_empty() {
        return Err((Fault::Length { len: value.len() }, Withdraw));
    }
    Ok(chunks.iter().copied())
}

/// RFC 7606 sections 7.5, 7.9 and 7.10.
fn internal_only(ibgp: bool) -> Verdict {
    if ibgp { Ok(()) } else { Err((Fault::External, Discard)) }
}

fn old_speaker_only(four_octet_as: bool) -> Verdict {
    if four_octet_as { Err((Fault::NewSpeaker, Discard)) } else { Ok(()) }
}

/// RFC 9774 section 3, for AS_PATH and AS4_PATH alike.
fn no_sets(path: &AsPath) -> Verdict {
    if path.has_sets() { Err((Fault::AsSet, Withdraw)) } else { Ok(()) }
}

fn large_community(octets: [u8; 12]) -> LargeCommunity {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = octets;
    LargeCommunity {
        global: u32::from_be_bytes([a, b, c, d]),
        local1: u32::from_be_bytes([e, f, g, h]),
        local2: u32::from_be_bytes([i, j, k, l]),
    }
}

/// The error as RFC 4271 section 6.3 names it, with the data it asks for: `raw` is the whole attribute.
fn notification(kind: u8, fault: Fault, raw: &[u8]) -> Notification {
    let update = |subcode| Notification::update(subcode).with_data(raw);
    match (kind, fault) {
        (_, Fault::Flags { .. }) => update(update_error::ATTRIBUTE_FLAGS),
        (_, Fault::Missing) => Notification::update(update_error::MISSING_WELL_KNOWN).with_data(&[kind]),
        (_, Fault::UnknownWellKnown) => update(update_error::UNRECOGNIZED_WELL_KNOWN),
        (_, Fault::Repeated) => Notification::update(update_error::MALFORMED_ATTRIBUTE_LIST),
        (_, Fault::Length { .. } | Fault::Overrun) => update(update_error::ATTRIBUTE_LENGTH),
        (code::ORIGIN, _) => update(update_error::INVALID_ORIGIN),
        (code::NEXT_HOP, _) => update(update_error::INVALID_NEXT_HOP),
        (code::AS_PATH, _) => Notification::update(update_error::MALFORMED_AS_PATH),
        (_, Fault::Value | Fault::AsSet | Fault::Unreadable | Fault::External | Fault::NewSpeaker | Fault::Family) => {
            update(update_error::OPTIONAL_ATTRIBUTE)
        }
    }
}
