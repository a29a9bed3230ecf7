//! Each capability's octets, and lengths that none may have.

use super::*;

fn octets(capability: &Capability) -> Vec<u8> {
    let mut out = Vec::new();
    capability.encode(&mut out).unwrap();
    out
}

fn restart(restarting: bool, notification: bool, restart_time: u16, families: Vec<(u16, u8, bool)>) -> Capability {
    Capability::GracefulRestart { restarting, notification, restart_time, families }
}

#[test]
fn every_capability_has_the_layout_of_its_rfc() {
    for (capability, expected, words) in [
        (Capability::MultiProtocol(2, 1), &[1, 4, 0, 2, 0, 1][..], "IPv6 unicast"),
        (Capability::MultiProtocol(1, 128), &[1, 4, 0, 1, 0, 128], "AFI 1 SAFI 128"),
        (Capability::RouteRefresh, &[2, 0], "route refresh"),
        (Capability::ExtendedMessage, &[6, 0], "extended message"),
        (Capability::EnhancedRouteRefresh, &[70, 0], "enhanced route refresh"),
        (Capability::FourOctetAs(65536), &[65, 4, 0, 1, 0, 0], "four-octet AS 65536"),
        (restart(false, false, 120, Vec::new()), &[64, 2, 0, 120], "graceful restart 120 s, helper only"),
        (
            restart(true, true, 4095, vec![(1, 1, true), (2, 1, false)]),
            &[64, 10, 0xcf, 0xff, 0, 1, 1, 0x80, 0, 2, 1, 0],
            "graceful restart 4095 s, restarting, notification, IPv4 unicast forwarding, IPv6 unicast",
        ),
        (Capability::Unknown { code: 200, value: vec![1, 2, 3] }, &[200, 3, 1, 2, 3], "capability 200 of 3 octets"),
        (Capability::Unknown { code: 69, value: vec![0, 1, 1, 3] }, &[69, 4, 0, 1, 1, 3], "ADD-PATH (69)"),
    ] {
        assert_eq!(octets(&capability), expected, "{capability:?}");
        assert_eq!(decode_all(expected), Ok(vec![capability.clone()]));
        assert_eq!(capability.to_string(), words);
        assert_eq!(capability.code(), expected[0]);
    }
}

#[test]
fn reserved_bits_are_ignored() {
    assert_eq!(decode_all(&[1, 4, 0, 1, 0xff, 1]), Ok(vec![Capability::MultiProtocol(1, 1)]));
    assert_eq!(decode_all(&[64, 6, 0x30, 5, 0, 1, 1, 0x7f]), Ok(vec![restart(false, false, 5, vec![(1, 1, false)])]));
}

#[test]
fn a_restart_time_has_twelve_bits() {
    assert_eq!(octets(&restart(false, false, u16::MAX, Vec::new())), [64, 2, 0x0f, 0xff]);
}

#[test]
fn a_known_capability_of_another_length_is_malformed() {
    for bytes in [
        &[1, 3, 0, 1, 0][..],
        &[1, 5, 0, 1, 0, 1, 0],
        &[2, 1, 0],
        &[6, 1, 0],
        &[70, 1, 0],
        &[65, 3, 0, 0, 1],
        &[65, 5, 0, 0, 1, 0, 0],
        &[64, 0],
        &[64, 1, 0],
        &[64, 5, 0, 0, 0, 1, 1],
        &[200],
        &[200, 2, 0],
    ] {
        assert_eq!(decode_all(bytes), Err(Malformed), "{bytes:?}");
    }
}

#[test]
fn unknown_capabilities_are_kept_and_repetitions_too() {
    let unknown = Capability::Unknown { code: 9, value: vec![4] };
    let bytes = [octets(&unknown), octets(&Capability::RouteRefresh), octets(&unknown)].concat();
    assert_eq!(decode_all(&bytes), Ok(vec![unknown.clone(), Capability::RouteRefresh, unknown]));
}
