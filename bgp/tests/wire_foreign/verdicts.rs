//! The table of malformed UPDATEs before a foreign decoder that knows RFC 7606 too.

use bytes::Bytes;
use rustbgpd_wire as foreign;
use rustbgpd_wire::ErrorDisposition;

use crate::rfc7606::{Session, Vector, Verdict, vectors};

/// How strong a verdict is, without its attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Strength {
    Accept,
    Discard,
    Withdraw,
    Reset,
}

fn demanded(verdict: Verdict) -> Strength {
    match verdict {
        Verdict::Accept => Strength::Accept,
        Verdict::Discard(_) => Strength::Discard,
        Verdict::Withdraw(_) => Strength::Withdraw,
        Verdict::Reset(..) => Strength::Reset,
    }
}

fn theirs(vector: &Vector) -> Strength {
    let mut bytes = Bytes::copy_from_slice(&vector.message);
    let Ok(foreign::Message::Update(update)) = foreign::decode_message(&mut bytes, 4096) else {
        return Strength::Reset;
    };
    let internal = vector.session == Session::Ibgp;
    let Ok(parsed) = update.parse_revised(vector.session != Session::Old, internal, false, &[]) else {
        return Strength::Reset;
    };
    let strength = |disposition: ErrorDisposition| match disposition {
        ErrorDisposition::AttributeDiscard => Strength::Discard,
        ErrorDisposition::TreatAsWithdraw => Strength::Withdraw,
        ErrorDisposition::SessionReset => Strength::Reset,
    };
    parsed.malformed.iter().map(|one| strength(one.disposition)).max().unwrap_or(Strength::Accept)
}

/// Left by the crate to whoever calls it, after the walk over the attributes.
const AFTERWARDS: &[&str] = &[
    "no-origin",
    "no-as-path",
    "no-next-hop",
    "no-local-pref-internal",
    "no-attribute-at-all",
    "no-origin-with-mp-reach",
    "no-as-path-with-mp-reach",
    "withdraw-and-reset",
    "unknown-well-known",
    "unknown-well-known-not-even-transitive",
    "next-hop-0.0.0.0",
    "next-hop-multicast",
    "local-pref-external",
    "originator-id-external",
    "cluster-list-external",
    "bad-origin-and-no-prefix",
    "bad-med-and-no-prefix",
    "bad-as-path-and-withdrawn-only",
    "bad-flags-and-mp-unreach-only",
    "overrun-and-no-prefix",
    "bad-med-and-mp-reach-without-prefix",
    "bad-next-hop-and-no-prefix",
];

/// Where the crate reads the RFC otherwise, or speaks something else; and what we hold against it.
const OTHERWISE: &[(&str, &str)] = &[
    ("confederation-segment-internal", "it knows no confederations; a peer inside one sends such segments"),
    (
        "mp-reach-transitive",
        "resets; RFC 7606 section 3 c makes no exception for MP_REACH_NLRI, whose prefixes can be read",
    ),
    ("mp-unreach-well-known", "as above"),
    ("mp-unreach-alone-with-bad-flags", "as above"),
    ("as-path-segment-without-number", "accepts; RFC 7606 section 7.2 names the empty segment"),
    ("next-hop-malformed-beside-mp-reach", "withdraws; RFC 4760 section 3 has it ignored"),
    ("mp-reach-v4-with-v6-next-hop", "accepts; RFC 8950 was not negotiated"),
    ("mp-reach-of-ipv6-multicast", "resets; a family that was not negotiated is ignored"),
    ("mp-reach-of-an-unknown-family", "as above"),
    ("mp-unreach-of-an-unknown-family", "as above"),
];

#[test]
fn a_foreign_decoder_agrees_with_the_table_but_for_the_differences_listed() {
    let all = vectors();
    let differing: Vec<&Vector> = all.iter().filter(|vector| theirs(vector) != demanded(vector.verdict)).collect();
    let names: Vec<&str> = differing.iter().map(|vector| vector.name).collect();
    let sections: Vec<&str> = differing.iter().map(|vector| vector.section).collect();
    let mut listed: Vec<&str> = OTHERWISE.iter().map(|(name, _)| *name).chain(AFTERWARDS.iter().copied()).collect();
    listed.sort_by_key(|name| all.iter().position(|vector| vector.name == *name));
    assert_eq!(names, listed, "by RFC {sections:?}");
    assert!(all.len() - listed.len() >= 100, "{} of {} agree", all.len() - listed.len(), all.len());
}
