//! Paths: two-octet peers, and how long a path is.

use super::*;

fn set(asns: &[u32]) -> Segment {
    Segment { kind: SegmentKind::Set, asns: asns.to_vec() }
}

fn sequence(asns: &[u32]) -> Segment {
    Segment { kind: SegmentKind::Sequence, asns: asns.to_vec() }
}

fn confederation(asns: &[u32]) -> Segment {
    Segment { kind: SegmentKind::ConfedSequence, asns: asns.to_vec() }
}

fn path(segments: &[Segment]) -> AsPath {
    AsPath { segments: segments.to_vec() }
}

#[test]
fn a_long_sequence_is_sent_in_pieces_that_its_length_octet_can_say() {
    let long = AsPath::sequence(1..=300);
    let mut out = Vec::new();
    long.encode(true, &mut out);
    assert_eq!((out[0], out[1], out.len()), (2, 255, 2 * 2 + 300 * 4));
    let read = AsPath::decode(&out, true, false).unwrap();
    assert_eq!(read.segments.len(), 2);
    assert!(read.asns().eq(1..=300));
    assert!(AsPath::sequence([]).segments.is_empty());
}

#[test]
fn as4_path_is_sent_only_when_a_number_does_not_fit_and_without_confederations() {
    assert_eq!(AsPath::sequence([65535, 1]).as4_path(), None);
    let large = path(&[confederation(&[65000]), sequence(&[70000, 1])]);
    assert_eq!(large.as4_path(), Some(AsPath::sequence([70000, 1])));
    let mut out = Vec::new();
    large.encode(false, &mut out);
    assert_eq!(out, [3, 1, 0xfd, 0xe8, 2, 2, 0x5b, 0xa0, 0, 1]);
}

/// RFC 6793 section 4.2.3.
#[test]
fn as_path_and_as4_path_are_put_together() {
    let trans = u32::from(AS_TRANS);
    for (what, as_path, as4_path, expected) in [
        (
            "an old speaker in front",
            AsPath::sequence([10, trans, trans]),
            AsPath::sequence([70000, 70001]),
            AsPath::sequence([10, 70000, 70001]),
        ),
        ("as long", AsPath::sequence([trans, 20]), AsPath::sequence([70000, 20]), AsPath::sequence([70000, 20])),
        (
            "a longer AS4_PATH is ignored",
            AsPath::sequence([trans]),
            AsPath::sequence([70000, 20]),
            AsPath::sequence([trans]),
        ),
        (
            "a set counts as one",
            path(&[set(&[1, 2, 3]), sequence(&[trans])]),
            AsPath::sequence([70000]),
            path(&[set(&[1, 2, 3]), sequence(&[70000])]),
        ),
        (
            "no part of a set",
            path(&[sequence(&[10]), set(&[1, trans])]),
            path(&[set(&[1, 70000])]),
            path(&[sequence(&[10]), set(&[1, 70000])]),
        ),
    ] {
        assert_eq!(as_path.merged(&as4_path), expected, "{what}");
    }
}

#[test]
fn hops_are_counted_as_route_selection_does() {
    let mixed = path(&[confederation(&[1, 2]), sequence(&[3, 3, 3]), set(&[4, 5])]);
    assert_eq!(mixed.hops(), 4);
}
