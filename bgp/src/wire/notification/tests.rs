//! Numbers for the peer, words for people.

use proptest::prelude::*;

use super::*;

fn octets(notification: &Notification) -> Vec<u8> {
    let mut out = Vec::new();
    notification.encode(&mut out);
    out
}

#[test]
fn what_the_session_sends_has_its_code_subcode_and_data() {
    let missing = [Capability::FourOctetAs(0), Capability::RouteRefresh];
    for (notification, code, subcode, data, words) in [
        (Notification::hold_timer_expired(), 4, 0, &[][..], "Hold Timer Expired (4/0)"),
        (Notification::send_hold_timer_expired(), 8, 0, &[], "Send Hold Timer Expired (8/0)"),
        (
            Notification::fsm_error(FsmState::OpenConfirm, MessageType::Update),
            5,
            2,
            &[2],
            "Finite State Machine Error / Unexpected Message in OpenConfirm (5/2): Update was not expected",
        ),
        (
            Notification::unsupported_version(),
            2,
            1,
            &[0, 4],
            "OPEN Message Error / Unsupported Version Number (2/1): version 4 is spoken",
        ),
        (
            Notification::bad_peer_as(65001),
            2,
            2,
            &[0, 0, 0xfd, 0xe9],
            "OPEN Message Error / Bad Peer AS (2/2): AS 65001",
        ),
        (
            Notification::bad_bgp_identifier([0, 0, 0, 0].into()),
            2,
            3,
            &[0; 4],
            "OPEN Message Error / Bad BGP Identifier (2/3): 0.0.0.0",
        ),
        (
            Notification::unacceptable_hold_time(2),
            2,
            6,
            &[0, 2],
            "OPEN Message Error / Unacceptable Hold Time (2/6): 2 s",
        ),
        (
            Notification::unsupported_capability(&missing).unwrap(),
            2,
            7,
            &[65, 4, 0, 0, 0, 0, 2, 0],
            "OPEN Message Error / Unsupported Capability (2/7): four-octet AS 0, route refresh",
        ),
        (
            Notification::cease(Cease::BfdDown, "a text only belongs to two subcodes"),
            6,
            10,
            &[],
            "Cease / BFD Down (6/10)",
        ),
        (
            Notification::cease(Cease::AdministrativeShutdown, "bye"),
            6,
            2,
            b"\x03bye",
            "Cease / Administrative Shutdown (6/2): \"bye\"",
        ),
        (Notification::cease(Cease::AdministrativeReset, ""), 6, 4, &[], "Cease / Administrative Reset (6/4)"),
        (
            Notification::maximum_prefixes(Family::Ipv6, 1000),
            6,
            1,
            &[0, 2, 1, 0, 0, 3, 0xe8],
            "Cease / Maximum Number of Prefixes Reached (6/1): limit 1000 of AFI 2 SAFI 1",
        ),
        (
            Notification::hard_reset(&Notification::cease(Cease::AdministrativeShutdown, "bye")),
            6,
            9,
            b"\x06\x02\x03bye",
            "Cease / Hard Reset (6/9), because of Cease / Administrative Shutdown (6/2): \"bye\"",
        ),
    ] {
        let bytes = octets(&notification);
        let len = u8::try_from(21 + data.len()).unwrap();
        assert_eq!(bytes, [&header::MARKER[..], &[0, len, 3, code, subcode], data].concat(), "{words}");
        assert_eq!(notification.describe(), words);
        assert_eq!(notification.to_string(), words);
        assert_eq!(Notification::decode(&bytes[HEADER_LEN..]), Ok(notification));
    }
}

#[test]
fn unknown_codes_are_kept_and_shown_as_numbers() {
    for (body, words) in [
        (&[9, 3][..], "unknown error (9/3)"),
        (&[0, 0], "unknown error (0/0)"),
        (&[6, 99, 1, 2], "Cease / unknown (6/99), data 0102"),
        (&[2, 0], "OPEN Message Error (2/0)"),
        (&[3, 5, 0x40, 1, 0], "UPDATE Message Error / Attribute Length Error (3/5), data 400100"),
        (&[1, 2, 0, 18], "Message Header Error / Bad Message Length (1/2): length 18"),
        (&[1, 3, 77], "Message Header Error / Bad Message Type (1/3): type 77"),
        (&[2, 2, 0xfd, 0xf1], "OPEN Message Error / Bad Peer AS (2/2): AS 65009"),
        (&[2, 7, 65], "OPEN Message Error / Unsupported Capability (2/7), data 41"),
        (&[7, 1], "ROUTE-REFRESH Message Error / Invalid Message Length (7/1)"),
    ] {
        let notification = Notification::decode(body).unwrap();
        assert_eq!(octets(&notification)[HEADER_LEN..], *body);
        assert_eq!(notification.describe(), words);
    }
    assert_eq!(Notification::decode(&[6]).unwrap_err().subcode, header_error::BAD_MESSAGE_LENGTH);
}

/// RFC 9003 section 2: up to 255 octets of UTF-8, and what is received need not be that.
#[test]
fn a_shutdown_text_is_made_safe_in_both_directions() {
    let sent = |text: &str| Notification::cease(Cease::AdministrativeReset, text).data;
    assert_eq!(sent("a\u{7}b\nc"), b"\x03abc");
    let long = "é".repeat(200);
    assert_eq!(sent(&long).len(), 1 + 254);
    assert_eq!(sent(&"x".repeat(300)).len(), 256);
    let read = |data: &[u8]| Notification::decode(&[&[6, 2], data].concat()).unwrap().shutdown_communication();
    assert_eq!(read(b"\x05\x1b[31m"), Some("[31m".to_owned()));
    assert_eq!(read(b"\x03a\xffb"), Some("a\u{fffd}b".to_owned()));
    assert_eq!(read(b"\x02abc"), Some("ab".to_owned()));
    for nothing in [&b""[..], b"\x00", b"\x05abc"] {
        assert_eq!(read(nothing), None, "{nothing:?}");
    }
    let cut_short = Notification::decode(&[6, 2, 5, b'a']).unwrap().describe();
    assert_eq!(cut_short, "Cease / Administrative Shutdown (6/2), data 0561");
}

#[test]
fn long_data_is_cut_where_it_is_shown_and_where_it_is_sent() {
    let long = Notification::update(update_error::OPTIONAL_ATTRIBUTE).with_data(&[0xab; 60_000]);
    assert!(long.describe().ends_with("... (60000 octets)") && long.describe().len() < 200);
    assert_eq!(octets(&long).len(), MAX_LEN);
}

/// A Hard Reset may wrap a Hard Reset that wraps ...: as deep as the message is long.
#[test]
fn nested_hard_resets_do_not_nest_here() {
    let nested = Notification::decode(&[6_u8, 9].repeat(2000)).unwrap();
    assert!(nested.describe().len() < 300, "{}", nested.describe());
    assert_eq!(nested.hard_reset_reason().unwrap().data.len(), 3996);
    assert_eq!(Notification::decode(&[6, 9, 6]).unwrap().hard_reset_reason(), None);
}

proptest! {
    #[test]
    fn any_body_is_kept_and_described_without_control_characters(
        code: u8, subcode: u8, data in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let body = [&[code, subcode][..], &data].concat();
        let notification = Notification::decode(&body).unwrap();
        prop_assert_eq!(&octets(&notification)[HEADER_LEN..], body.as_slice());
        prop_assert!(!notification.describe().chars().any(char::is_control));
        let numbers = format!("({code}/{subcode})");
        prop_assert!(notification.describe().contains(&numbers));
    }
}
