//! OPEN in both forms, and what is wrong with others.

use proptest::prelude::*;

use super::*;

const ID: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Version 4, AS 65001, hold time 90, the identifier.
const FRONT: [u8; 9] = [4, 0xfd, 0xe9, 0, 90, 192, 0, 2, 1];

fn decode(parameters: &[u8]) -> Result<Open, Notification> {
    Open::decode(&[&FRONT, parameters].concat())
}

fn encoded(open: &Open) -> Vec<u8> {
    let mut out = Vec::new();
    open.encode(&mut out).unwrap();
    out
}

#[test]
fn layout_is_that_of_rfc_4271_section_4_2() {
    let open = Open::new(65001, 90, ID, vec![Capability::RouteRefresh, Capability::FourOctetAs(65001)]);
    let parameters = [10, 2, 8, 2, 0, 65, 4, 0, 0, 0xfd, 0xe9];
    let expected = [&header::MARKER[..], &[0, 39, 1], &FRONT, &parameters].concat();
    assert_eq!(encoded(&open), expected);
    assert_eq!(encoded(&Open::new(65001, 90, ID, Vec::new()))[28], 0);
}

#[test]
fn an_as_of_four_octets_is_as_trans_in_two() {
    let open = Open::new(4_200_000_001, 90, ID, vec![Capability::FourOctetAs(4_200_000_001)]);
    assert_eq!((open.my_as, open.asn()), (23456, 4_200_000_001));
    assert_eq!(Open::new(65001, 90, ID, Vec::new()).asn(), 65001);
}

/// RFC 9072 section 2: 255 octets still are in the old form, 256 are not.
#[test]
fn the_extended_form_is_sent_only_when_the_old_one_is_too_short() {
    let of = |len: usize| {
        let first = Capability::Unknown { code: 200, value: vec![1; 200] };
        let second = Capability::Unknown { code: 201, value: vec![2; len - 2 - 202 - 2] };
        Open::new(65001, 90, ID, vec![first, second])
    };
    let old = encoded(&of(255));
    assert_eq!((old[28], old[29], old[30], old.len()), (255, 2, 253, 29 + 255));
    let extended = encoded(&of(256));
    assert_eq!(extended[28..35], [255, 255, 1, 1, 2, 0, 254]);
    assert_eq!(extended.len(), 29 + 3 + 257);
    for open in [of(255), of(256)] {
        assert_eq!(Open::decode(&encoded(&open)[HEADER_LEN..]), Ok(open));
    }
}

#[test]
fn what_does_not_fit_is_refused_and_appends_nothing() {
    let long = Capability::Unknown { code: 200, value: vec![0; 256] };
    let many = vec![Capability::Unknown { code: 200, value: vec![0; 255] }; 16];
    for (capabilities, expected) in [
        (vec![long], EncodeError::Capability { code: 200, len: 256 }),
        (many, EncodeError::Open { len: 28 + 7 + 16 * 257 }),
    ] {
        let mut out = vec![7];
        assert_eq!(Open::new(1, 90, ID, capabilities).encode(&mut out), Err(expected));
        assert_eq!(out, [7]);
    }
}

#[test]
fn parameters_in_every_form_are_read() {
    let two = vec![Capability::RouteRefresh, Capability::ExtendedMessage];
    for (what, parameters, expected) in [
        ("none", &[0][..], Vec::new()),
        ("one with both", &[6, 2, 4, 2, 0, 6, 0], two.clone()),
        ("one for each", &[8, 2, 2, 2, 0, 2, 2, 6, 0], two.clone()),
        ("an empty one", &[2, 2, 0], Vec::new()),
        ("extended", &[255, 255, 0, 7, 2, 0, 4, 2, 0, 6, 0], two.clone()),
        ("extended, two", &[255, 255, 0, 10, 2, 0, 2, 2, 0, 2, 0, 2, 6, 0], two.clone()),
        ("extended, told by its type alone", &[9, 255, 0, 7, 2, 0, 4, 2, 0, 6, 0], two.clone()),
        ("extended and empty", &[255, 255, 0, 0], Vec::new()),
    ] {
        assert_eq!(decode(parameters).map(|open| open.capabilities), Ok(expected), "{what}");
    }
}

#[test]
fn malformed_is_2_0_and_other_parameters_are_2_4() {
    for (what, parameters, subcode) in [
        ("length past the end", &[4, 2, 0][..], 0),
        ("octets behind the end", &[2, 2, 0, 0], 0),
        ("no length", &[], 0),
        ("parameter past the end", &[2, 2, 5], 0),
        ("parameter without length", &[1, 2], 0),
        ("capability past the parameter", &[4, 2, 2, 2, 1], 0),
        ("capability without length", &[3, 2, 1, 2], 0),
        ("extended length past the end", &[255, 255, 0, 8, 2, 0, 4, 2, 0, 6, 0], 0),
        ("extended without length", &[255, 255, 0], 0),
        ("extended with a short parameter length", &[255, 255, 0, 2, 2, 0], 0),
        ("authentication", &[3, 1, 1, 0], 4),
        ("type 255 inside the extended form", &[255, 255, 0, 3, 255, 0, 0], 4),
        ("type 77 after capabilities", &[6, 2, 2, 2, 0, 77, 0], 4),
    ] {
        let error = decode(parameters).unwrap_err();
        assert_eq!((error.code.number(), error.subcode), (2, subcode), "{what}");
    }
}

#[test]
fn another_version_is_2_1_with_ours() {
    let mut body = [&FRONT[..], &[0]].concat();
    for version in [0, 3, 5, 255] {
        body[0] = version;
        assert_eq!(Open::decode(&body), Err(Notification::open(1).with_data(&[0, 4])));
    }
}

#[test]
fn without_a_multiprotocol_capability_it_is_ipv4() {
    let of = |capabilities| Open::new(1, 90, ID, capabilities).families();
    let v6 = Capability::multi_protocol(Family::Ipv6);
    let v4 = FamilySet::EMPTY.with(Family::Ipv4);
    assert_eq!(of(vec![Capability::RouteRefresh]), v4);
    assert_eq!(of(vec![v6.clone()]), FamilySet::EMPTY.with(Family::Ipv6));
    assert_eq!(of(vec![v6, Capability::multi_protocol(Family::Ipv4)]), FamilySet::ALL);
    assert_eq!(of(vec![Capability::MultiProtocol(25, 70)]), FamilySet::EMPTY);
}

proptest! {
    #[test]
    fn what_is_sent_is_read_back(
        asn: u32, hold_time: u16, id: [u8; 4],
        unknown in prop::collection::vec((100..=255_u8, prop::collection::vec(any::<u8>(), 0..60)), 0..20),
        families in prop::collection::vec((any::<u16>(), any::<u8>(), any::<bool>()), 0..4),
        restart_time in 0..4096_u16, restarting: bool, notification: bool,
    ) {
        let mut capabilities = vec![
            Capability::MultiProtocol(1, 1),
            Capability::FourOctetAs(asn),
            Capability::GracefulRestart { restarting, notification, restart_time, families },
            Capability::EnhancedRouteRefresh,
        ];
        capabilities.extend(unknown.into_iter().map(|(code, value)| Capability::Unknown { code, value }));
        let open = Open::new(asn, hold_time, id.into(), capabilities);
        prop_assert_eq!(Open::decode(&encoded(&open)[HEADER_LEN..]), Ok(open));
    }

    #[test]
    fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..60), fronted: bool) {
        let _ = if fronted { decode(&body) } else { Open::decode(&body) };
    }
}
