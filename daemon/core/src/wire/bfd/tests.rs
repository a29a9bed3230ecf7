use super::*;
use proptest::prelude::*;

fn packet() -> Control {
    Control {
        diag: Diag::NEIGHBOR_DOWN,
        state: State::Up,
        poll: true,
        is_final: false,
        control_plane_independent: false,
        demand: false,
        detect_mult: 3,
        my_discr: 0x0102_0304,
        your_discr: 0x0506_0708,
        desired_min_tx: 300_000,
        required_min_rx: 50_000,
        required_min_echo_rx: 0,
    }
}

#[test]
fn layout_is_that_of_section_4_1() {
    let bytes = packet().encode();
    let expected: [u8; LEN] =
        [0x23, 0xe0, 3, 24, 1, 2, 3, 4, 5, 6, 7, 8, 0, 4, 0x93, 0xe0, 0, 0, 0xc3, 0x50, 0, 0, 0, 0];
    assert_eq!(bytes, expected);
    let flags = |edit: fn(&mut Control)| {
        let mut control = packet();
        (control.state, control.poll) = (State::AdminDown, false);
        edit(&mut control);
        control.encode()[1]
    };
    assert_eq!(flags(|_| {}), 0);
    assert_eq!(flags(|c| c.is_final = true), 0x10);
    assert_eq!(flags(|c| c.control_plane_independent = true), 0x08);
    assert_eq!(flags(|c| c.demand = true), 0x02);
    assert_eq!(flags(|c| c.state = State::Down), 0x40);
    assert_eq!(flags(|c| c.state = State::Init), 0x80);
}

#[test]
fn s6_8_6_every_discard_rule() {
    let good = packet().encode();
    assert_eq!(Control::parse(&good), Ok(packet()));
    let broken = |edits: &[(usize, u8)]| {
        let mut bytes = good.to_vec();
        edits.iter().for_each(|(at, value)| bytes[*at] = *value);
        Control::parse(&bytes)
    };
    assert_eq!(Control::parse(&good[..23]), Err(Discard::Truncated { got: 23 }));
    assert_eq!(Control::parse(&[]), Err(Discard::Truncated { got: 0 }));
    assert_eq!(broken(&[(0, 0x03)]), Err(Discard::Version { version: 0 }));
    assert_eq!(broken(&[(0, 0x43)]), Err(Discard::Version { version: 2 }));
    assert_eq!(broken(&[(3, 23)]), Err(Discard::Length { length: 23, got: 24 }));
    assert_eq!(broken(&[(3, 25)]), Err(Discard::Length { length: 25, got: 24 }));
    assert_eq!(broken(&[(1, 0xc4), (3, 24)]), Err(Discard::Length { length: 24, got: 24 }));
    assert_eq!(broken(&[(2, 0)]), Err(Discard::Multiplier));
    assert_eq!(broken(&[(1, 0xc1)]), Err(Discard::Multipoint));
    assert_eq!(broken(&[(4, 0), (5, 0), (6, 0), (7, 0)]), Err(Discard::MyDiscriminator));
    let no_your = [(8, 0), (9, 0), (10, 0), (11, 0)];
    assert_eq!(broken(&no_your), Err(Discard::YourDiscriminator { state: State::Up }));
    for (flags, fits) in [(0x00, true), (0x40, true), (0x80, false), (0xc0, false)] {
        let edits: Vec<(usize, u8)> = no_your.iter().copied().chain([(1, flags)]).collect();
        assert_eq!(broken(&edits).is_ok(), fits, "{flags:#x}");
    }
    let mut authenticated = good.to_vec();
    authenticated.extend([1, 2]);
    (authenticated[1], authenticated[3]) = (0xc4, 26);
    assert_eq!(Control::parse(&authenticated), Err(Discard::Authenticated));
}

#[test]
fn bytes_behind_the_packet_are_ignored_and_unknown_diagnostics_kept() {
    let mut bytes = packet().encode().to_vec();
    bytes[0] = 0x3f;
    bytes.extend([0xff; 9]);
    let read = Control::parse(&bytes).expect("well-formed");
    assert_eq!((read.diag.code(), read.diag.to_string().as_str()), (31, "unknown diagnostic (31)"));
}

#[test]
fn every_discard_has_its_name() {
    let names: std::collections::BTreeSet<_> = Discard::NAMES.into_iter().collect();
    assert_eq!(names.len(), Discard::NAMES.len());
    assert_eq!(Discard::Truncated { got: 0 }.name(), "truncated");
    assert_eq!(Discard::Ttl { ttl: 1, min: 255 }.name(), "ttl");
    assert_eq!(Discard::AdminDown.name(), "admin-down");
}

/// The fields as the crate `packet-dissector-bfd` reads them, by its names; `None` when it refuses the packet.
fn foreign(bytes: &[u8]) -> Option<std::collections::BTreeMap<&'static str, u32>> {
    use packet_dissector_core::dissector::Dissector as _;
    use packet_dissector_core::field::FieldValue;
    let mut buffer = packet_dissector_core::packet::DissectBuffer::new();
    packet_dissector_bfd::BfdDissector.dissect(bytes, &mut buffer, 0).ok()?;
    let number = |value: &FieldValue<'_>| match value {
        FieldValue::U8(v) => Some(u32::from(*v)),
        FieldValue::U32(v) => Some(*v),
        _ => None,
    };
    Some(buffer.fields().iter().filter_map(|f| Some((f.descriptor.name, number(&f.value)?))).collect())
}

proptest! {
    /// Two readers, written by two people from one text: they accept the same packets and see the same in them.
    #[test]
    fn another_reader_agrees(
        first in prop_oneof![9 => 0x20u8..0x40, 1 => any::<u8>()], flags: u8, mult in 0u8..4, length in 20u8..30,
        rest in proptest::collection::vec(prop_oneof![1 => Just(0u8), 2 => any::<u8>()], 16..30),
    ) {
        let mut bytes = vec![first, flags, mult, length];
        bytes.extend(rest);
        match (Control::parse(&bytes), foreign(&bytes)) {
            (Ok(ours), Some(theirs)) => {
                let of = |name: &str| theirs[name];
                prop_assert_eq!(u32::from(ours.diag.code()), of("diagnostic"));
                prop_assert_eq!(u32::from(ours.state.bits()), of("state"));
                let flags = [ours.poll, ours.is_final, ours.control_plane_independent, ours.demand].map(u32::from);
                prop_assert_eq!(flags, ["poll", "final", "control_plane_independent", "demand"].map(of));
                prop_assert_eq!(u32::from(ours.detect_mult), of("detect_mult"));
                prop_assert_eq!(ours.my_discr, of("my_discriminator"));
                prop_assert_eq!(ours.your_discr, of("your_discriminator"));
                prop_assert_eq!(ours.desired_min_tx, of("desired_min_tx_interval"));
                prop_assert_eq!(ours.required_min_rx, of("required_min_rx_interval"));
                prop_assert_eq!(ours.required_min_echo_rx, of("required_min_echo_rx_interval"));
            }
            // It shows what a receiver must discard by rules that are no matter of form, and the multipoint of RFC 8562.
            (Err(Discard::Multipoint | Discard::YourDiscriminator { .. } | Discard::Authenticated), _) => {}
            (ours, theirs) => prop_assert!(ours.is_err() && theirs.is_none(), "{ours:?} {theirs:?}"),
        }
    }

    #[test]
    fn parse_never_panics_and_what_it_accepts_is_sound(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(control) = Control::parse(&bytes) {
            prop_assert!(control.my_discr != 0 && control.detect_mult != 0);
            prop_assert!(control.your_discr != 0 || matches!(control.state, State::Down | State::AdminDown));
            prop_assert_eq!(Control::parse(&control.encode()), Ok(control));
        }
    }

    #[test]
    fn what_is_sent_is_read_back(
        state in proptest::sample::select(&State::ALL[..]), code in 0u8..32, flags: [bool; 4],
        detect_mult in 1u8.., my_discr in 1u32.., your_discr in 1u32.., times: [u32; 3],
    ) {
        let [poll, is_final, control_plane_independent, demand] = flags;
        let [desired_min_tx, required_min_rx, required_min_echo_rx] = times;
        let control = Control {
            diag: Diag(code), state, poll, is_final, control_plane_independent, demand, detect_mult,
            my_discr, your_discr, desired_min_tx, required_min_rx, required_min_echo_rx,
        };
        prop_assert_eq!(Control::parse(&control.encode()), Ok(control));
    }
}
