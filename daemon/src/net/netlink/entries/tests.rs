use super::*;

fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn payload(state: u16, flags: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = vec![0; NEIGHBOUR_HEADER];
    payload[0] = 2;
    payload[4..8].copy_from_slice(&7u32.to_ne_bytes());
    payload[8..10].copy_from_slice(&state.to_ne_bytes());
    payload[10] = flags;
    payload.extend(nla(NDA_DST, &[10, 9, 0, 1]));
    payload.extend(attributes.concat());
    payload
}

#[test]
fn an_entry_tells_state_holder_mac_and_age() {
    let mac = nla(NDA_LLADDR, &[2, 0, 0, 0, 0, 1]);
    let age: Vec<u8> = [550u32, 1, 2, 3].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let all = [mac.clone(), nla(NDA_CACHEINFO, &age), nla(NDA_PROTOCOL, &[MARK]), nla(NDA_FLAGS_EXT, &[1, 0, 0, 0])];
    let entry = parse_entry(&payload(0x02, NTF_EXT_LEARNED, &all)).unwrap();
    assert_eq!(entry.place, Place { link: LinkId(7), address: [10, 9, 0, 1].into() });
    assert!(entry.managed);
    let seen = entry.seen(MARK);
    assert_eq!((seen.certainty, seen.holder), (Certainty::Known, Holder::Us));
    assert_eq!((seen.mac, seen.confirmed), (Some(Mac([2, 0, 0, 0, 0, 1])), Duration::from_millis(5500)));
    assert_eq!(entry.seen(MARK + 1).holder, Holder::Other, "that of another instance");
    // A mark without its flag is what we let go of.
    assert_eq!(parse_entry(&payload(0x04, 0, &all)).unwrap().seen(MARK).holder, Holder::Nobody);
    for (state, certainty) in [
        (0x00, Certainty::Lost),
        (0x01, Certainty::Asking),
        (0x04, Certainty::Known),
        (0x08, Certainty::Known),
        (0x10, Certainty::Asking),
        (0x20, Certainty::Lost),
        (0x40, Certainty::Plain),
        (0x80, Certainty::Fixed),
    ] {
        assert_eq!(parse_entry(&payload(state, 0, &[])).unwrap().seen(MARK).certainty, certainty, "{state:#x}");
    }
    assert!(parse_entry(&[0; NEIGHBOUR_HEADER]).is_none(), "it has no address");
}

#[test]
fn what_marks_never_carries_a_mac_and_what_sets_a_state_never_asks() {
    let place = Place { link: LinkId(7), address: "fe80::1".parse().unwrap() };
    for step in [Step::Make, Step::Mark, Step::Renew, Step::Ask, Step::Verify, Step::Return, Step::Delete] {
        for (message, _) in requests(place, step, MARK) {
            let RouteNetlinkMessage::NewNeighbour(message) = message else { continue };
            let mac = message.attributes.iter().any(|a| matches!(a, NeighbourAttribute::LinkLayerAddress(_)));
            assert!(!mac, "{step:?}");
            let asks = message.header.flags.contains(NeighbourFlags::Use);
            assert_eq!(asks, message.header.state == NeighbourState::None, "{step:?}");
            let learned = message.header.flags.contains(NeighbourFlags::ExtLearned);
            assert_eq!(learned, step != Step::Return, "{step:?}");
        }
    }
}

#[test]
fn a_link_tells_its_carrier_and_one_without_addresses_does_not() {
    let mut payload = vec![0; LINK_HEADER];
    payload.extend(nla(IFLA_CARRIER_CHANGES, &6u32.to_ne_bytes()));
    assert_eq!(parse_carrier(&payload), Some(6));
    payload[8..12].copy_from_slice(&IFF_NOARP.to_ne_bytes());
    assert_eq!(parse_carrier(&payload), None);
}
