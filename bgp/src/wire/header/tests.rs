//! Framing by table and by random streams.

use proptest::prelude::*;

use super::*;

fn message(len: u16, kind: u8, body: &[u8]) -> Vec<u8> {
    [&MARKER[..], &len.to_be_bytes(), &[kind], body].concat()
}

fn whole(kind: MessageType, body: &[u8]) -> Vec<u8> {
    message(u16::try_from(HEADER_LEN + body.len()).unwrap(), kind.code(), body)
}

fn first(bytes: &[u8], max_len: usize) -> Result<Option<Frame>, Notification> {
    let mut framer = Framer::new();
    framer.push(bytes);
    framer.next(max_len)
}

/// All frames of a stream that comes in pieces, and the error that ends it.
fn frames(stream: &[u8], piece: usize, max_len: usize) -> (Vec<Frame>, Option<Notification>) {
    let mut framer = Framer::new();
    let mut all = Vec::new();
    for bytes in stream.chunks(piece) {
        framer.push(bytes);
        assert!(framer.buffer.len() <= max_len + piece, "the buffer is bounded");
        loop {
            match framer.next(max_len) {
                Ok(Some(frame)) => all.push(frame),
                Ok(None) => break,
                Err(error) => return (all, Some(error)),
            }
        }
        assert!(framer.pending() < max_len);
    }
    (all, None)
}

#[test]
fn header_errors_have_their_subcode_and_data() {
    let mut unmarked = whole(MessageType::Keepalive, &[]);
    unmarked[15] = 0xfe;
    let error = |code: u8, data: &[u8]| Notification::new(NotificationCode::MessageHeader, code).with_data(data);
    for (what, bytes, expected) in [
        ("marker", unmarked, error(1, &[])),
        ("length 0", message(0, 4, &[]), error(2, &[0, 0])),
        ("length 18", message(18, 4, &[]), error(2, &[0, 18])),
        ("length 4097", message(4097, 2, &[]), error(2, &[0x10, 1])),
        ("length 65535", message(65535, 2, &[]), error(2, &[0xff, 0xff])),
        ("OPEN of 28", message(28, 1, &[]), error(2, &[0, 28])),
        ("UPDATE of 22", message(22, 2, &[]), error(2, &[0, 22])),
        ("NOTIFICATION of 20", message(20, 3, &[]), error(2, &[0, 20])),
        ("KEEPALIVE of 20", message(20, 4, &[]), error(2, &[0, 20])),
        ("type 0", message(19, 0, &[]), error(3, &[0])),
        ("type 6", message(19, 6, &[]), error(3, &[6])),
        ("type 255", message(19, 255, &[]), error(3, &[255])),
        ("text", b"GET / HTTP/1.1\r\nHost: x".to_vec(), error(1, &[])),
    ] {
        assert_eq!(first(&bytes, MAX_LEN), Err(expected), "{what}");
    }
}

#[test]
fn a_route_refresh_of_any_length_is_left_to_its_decoder() {
    for len in [0, 3, 5] {
        let frame = first(&whole(MessageType::RouteRefresh, &vec![0; len]), MAX_LEN).unwrap().unwrap();
        assert_eq!((frame.kind, frame.body.len()), (MessageType::RouteRefresh, len));
    }
}

/// RFC 8654 section 4: OPEN and KEEPALIVE are never longer than before.
#[test]
fn extended_messages_are_for_all_but_open_and_keepalive() {
    for kind in MessageType::ALL {
        let long = whole(kind, &[0; 5000]);
        let extended = first(&long, MAX_LEN_EXTENDED);
        match kind {
            MessageType::Open | MessageType::Keepalive => assert_eq!(extended.unwrap_err().subcode, 2, "{kind:?}"),
            MessageType::Update | MessageType::Notification | MessageType::RouteRefresh => {
                assert_eq!(extended.unwrap().unwrap().wire_len(), 5019, "{kind:?}");
            }
        }
        assert_eq!(first(&long, MAX_LEN).unwrap_err().subcode, 2, "{kind:?}");
    }
    let longest = whole(MessageType::Update, &vec![0; MAX_LEN_EXTENDED - HEADER_LEN]);
    assert!(first(&longest, MAX_LEN_EXTENDED).unwrap().is_some());
}

#[test]
fn nothing_is_given_out_after_an_error() {
    let mut framer = Framer::new();
    framer.push(&message(19, 9, &[]));
    let error = framer.next(MAX_LEN).unwrap_err();
    for _ in 0..3 {
        framer.push(&whole(MessageType::Keepalive, &[]));
        assert_eq!(framer.next(MAX_LEN), Err(error.clone()));
        assert_eq!(framer.pending(), 0);
    }
}

#[test]
fn a_header_is_judged_before_its_body_is_there() {
    assert_eq!(first(&message(4000, 7, &[]), MAX_LEN).unwrap_err().subcode, 3);
    assert_eq!(first(&message(4000, 2, &[]), MAX_LEN), Ok(None));
}

proptest! {
    #[test]
    fn byte_by_byte_is_as_all_at_once(
        bodies in prop::collection::vec((1..6_usize, prop::collection::vec(any::<u8>(), 0..80)), 0..8),
        noise in prop::collection::vec(any::<u8>(), 0..40),
        piece in 1..50_usize,
    ) {
        let mut stream: Vec<u8> =
            bodies.iter().flat_map(|(kind, body)| whole(MessageType::ALL[kind - 1], body)).collect();
        stream.extend(noise);
        let at_once = frames(&stream, stream.len().max(1), MAX_LEN);
        prop_assert_eq!(&frames(&stream, 1, MAX_LEN), &at_once);
        prop_assert_eq!(&frames(&stream, piece, MAX_LEN), &at_once);
    }

    #[test]
    fn no_stream_panics_and_every_message_of_it_is_answered(
        stream in prop::collection::vec(any::<u8>(), 0..200), kind in 1..6_u8, len in 19..219_u16,
    ) {
        let stream = message(len, kind, &stream);
        for frame in frames(&stream, 7, MAX_LEN).0 {
            let context = crate::wire::DecodeContext { families: crate::wire::FamilySet::ALL, ..Default::default() };
            if let Err(notification) = crate::wire::Message::decode(&frame, &context) {
                prop_assert!([1, 2, 3, 7].contains(&notification.code.number()), "{}", notification);
            }
        }
    }
}
