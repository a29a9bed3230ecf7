//! The frames of the table, each with what it needs.

use std::net::Ipv6Addr;

use bascule_suite::fence::frames::{
    BROADCAST, CLIENT_MAC, RIVAL_MAC, advert, arp, auth, cut, ethernet, extension, fragment, ipv4, ipv4_fragment,
    ipv4_options, ipv6, ndp,
};

use super::Direction::{Egress, Ingress};
use super::Need::{Advert, Answer, Deliver, Never, Nothing, Release};
use super::{
    ALL_NODES, CLIENT, CLIENT6, HOST, HOST6, OTHER, OTHER6, Row, VIP, VIP6, VRID, VRRP4, VRRP6, ZERO, row, second,
    short, with_tags,
};

pub(super) fn egress_arp(rows: &mut Vec<Row>) {
    with_tags(rows, Egress, Answer, "arp reply by the VIP", &arp(CLIENT_MAC, 2, VIP, CLIENT));
    rows.extend([
        row(Egress, Answer, "arp request by the VIP", arp(CLIENT_MAC, 1, VIP, CLIENT)),
        row(Egress, Answer, "gratuitous request", arp(CLIENT_MAC, 1, VIP, VIP)),
        row(Egress, Answer, "gratuitous reply", arp(CLIENT_MAC, 2, VIP, VIP)),
        row(Egress, Answer, "odd operation by the VIP", arp(CLIENT_MAC, 9, VIP, CLIENT)),
        row(Egress, Nothing, "arp request for the VIP", arp(CLIENT_MAC, 1, HOST, VIP)),
        row(Egress, Nothing, "arp probe for the VIP", arp(CLIENT_MAC, 1, ZERO, VIP)),
        row(Egress, Nothing, "arp of the host", arp(CLIENT_MAC, 2, HOST, CLIENT)),
        second(Egress, Never, "arp reply on the second link", arp(CLIENT_MAC, 2, VIP, CLIENT)),
        second(Egress, Never, "gratuitous on the second link", arp(CLIENT_MAC, 1, VIP, VIP)),
        second(Egress, Nothing, "arp request for the VIP on the second link", arp(CLIENT_MAC, 1, HOST, VIP)),
        row(Egress, Nothing, "arp one byte short", cut(arp(CLIENT_MAC, 2, VIP, CLIENT), 41)),
        row(Egress, Nothing, "arp of another hardware", {
            let mut frame = arp(CLIENT_MAC, 2, VIP, CLIENT);
            frame[15] = 6;
            frame
        }),
        row(Egress, Nothing, "unknown ethertype", ethernet(BROADCAST, CLIENT_MAC, 0x88cc, &[0; 40])),
        row(Egress, Nothing, "only an ethernet header", short(ethernet(BROADCAST, CLIENT_MAC, 0x0800, &[]), 14)),
    ]);
}

pub(super) fn egress_ipv4(rows: &mut Vec<Row>) {
    let udp = [0x30, 0x39, 0, 53, 0, 8, 0, 0];
    with_tags(rows, Egress, Deliver, "ipv4 from the VIP", &ipv4(VIP, CLIENT, 17, &udp));
    rows.extend([
        row(Egress, Deliver, "first fragment from the VIP", ipv4_fragment(VIP, CLIENT, 17, 0x2000, &udp)),
        row(Egress, Deliver, "later fragment from the VIP", ipv4_fragment(VIP, CLIENT, 17, 0x00b9, &udp)),
        row(Egress, Deliver, "options from the VIP", ipv4_options(VIP, CLIENT, 6, 10, &udp)),
        row(Egress, Deliver, "VIP to VIP", ipv4(VIP, OTHER, 17, &udp)),
        row(Egress, Deliver, "bare header from the VIP", ipv4(VIP, CLIENT, 17, &[])),
        second(Egress, Deliver, "from the VIP by the second link", ipv4(VIP, CLIENT, 17, &udp)),
        row(Egress, Nothing, "to the VIP", ipv4(HOST, VIP, 17, &udp)),
        row(Egress, Nothing, "another VIP, open, to the VIP", ipv4(OTHER, VIP, 17, &udp)),
        row(Egress, Nothing, "not ours", ipv4(HOST, CLIENT, 17, &udp)),
        row(Egress, Nothing, "ipv4 header one byte short", short(ipv4(VIP, CLIENT, 17, &[]), 33)),
        row(Egress, Nothing, "version 5 in ipv4", {
            let mut frame = ipv4(VIP, CLIENT, 17, &udp);
            frame[14] = 0x55;
            frame
        }),
    ]);
}

pub(super) fn egress_adverts(rows: &mut Vec<Row>) {
    with_tags(rows, Egress, Advert, "advert", &ipv4(HOST, VRRP4, 112, &advert(VRID, 200, 100)));
    rows.extend([
        row(Egress, Advert, "unicast advert", ipv4(HOST, CLIENT, 112, &advert(VRID, 1, 100))),
        row(Egress, Advert, "advert behind options", ipv4_options(HOST, VRRP4, 112, 1, &advert(VRID, 200, 100))),
        row(Egress, Advert, "advert from the VIP", ipv4(VIP, VRRP4, 112, &advert(VRID, 255, 100))),
        row(Egress, Release, "release", ipv4(HOST, VRRP4, 112, &advert(VRID, 0, 100))),
        row(Egress, Nothing, "foreign router", ipv4(HOST, VRRP4, 112, &advert(VRID + 1, 200, 100))),
        row(Egress, Deliver, "foreign router from the VIP", ipv4(VIP, VRRP4, 112, &advert(VRID + 1, 200, 100))),
        second(Egress, Nothing, "our router on the second link", ipv4(HOST, VRRP4, 112, &advert(VRID, 200, 100))),
        row(
            Egress,
            Nothing,
            "vrrp version 2",
            ipv4(HOST, VRRP4, 112, &[&[0x21][..], &advert(VRID, 200, 1)[1..]].concat()),
        ),
        row(
            Egress,
            Nothing,
            "vrrp type 2",
            ipv4(HOST, VRRP4, 112, &[&[0x32][..], &advert(VRID, 200, 1)[1..]].concat()),
        ),
        row(Egress, Nothing, "advert cut short", ipv4(HOST, VRRP4, 112, &advert(VRID, 200, 100)[..5])),
        row(Egress, Nothing, "later fragment of 112", ipv4_fragment(HOST, VRRP4, 112, 2, &advert(VRID, 200, 100))),
        row(Egress, Advert, "ipv6 advert", ipv6(HOST6, VRRP6, 112, &advert(VRID, 200, 100))),
        row(Egress, Release, "ipv6 release", ipv6(HOST6, VRRP6, 112, &advert(VRID, 0, 100))),
        row(
            Egress,
            Advert,
            "advert behind hop-by-hop",
            ipv6(HOST6, VRRP6, 0, &extension(112, 1, &advert(VRID, 200, 100))),
        ),
        row(
            Egress,
            Advert,
            "advert behind an auth header",
            ipv6(HOST6, VRRP6, 51, &auth(112, &advert(VRID, 200, 100))),
        ),
        row(Egress, Nothing, "foreign ipv6 router", ipv6(HOST6, VRRP6, 112, &advert(VRID + 1, 200, 100))),
    ]);
}

pub(super) fn egress_ipv6(rows: &mut Vec<Row>) {
    let udp = [0x30, 0x39, 0, 53, 0, 8, 0, 0];
    with_tags(rows, Egress, Deliver, "ipv6 from the VIP", &ipv6(VIP6, CLIENT6, 17, &udp));
    with_tags(rows, Egress, Answer, "advertisement for the VIP", &ipv6(HOST6, ALL_NODES, 58, &ndp(136, VIP6)));
    for kind in [133, 134, 135, 136, 137] {
        let frame = ipv6(VIP6, ALL_NODES, 58, &ndp(kind, HOST6));
        rows.push(row(Egress, Answer, &format!("ndp {kind} from the VIP"), frame.clone()));
        rows.push(second(Egress, Never, &format!("ndp {kind} from the VIP on the second link"), frame));
    }
    for kind in [128, 129, 132, 138, 143] {
        rows.push(row(
            Egress,
            Deliver,
            &format!("icmp {kind} from the VIP"),
            ipv6(VIP6, CLIENT6, 58, &ndp(kind, VIP6)),
        ));
        rows.push(row(Egress, Nothing, &format!("icmp {kind} not ours"), ipv6(HOST6, CLIENT6, 58, &ndp(kind, VIP6))));
    }
    let mut deep = ndp(136, VIP6);
    for depth in 1..=9 {
        deep = extension(if depth == 1 { 58 } else { 60 }, 1, &deep);
        let need = if depth < 8 { Answer } else { Nothing };
        rows.push(row(
            Egress,
            need,
            &format!("advertisement behind {depth} headers"),
            ipv6(HOST6, ALL_NODES, 60, &deep),
        ));
    }
    rows.extend([
        second(Egress, Never, "advertisement on the second link", ipv6(HOST6, ALL_NODES, 58, &ndp(136, VIP6))),
        row(Egress, Answer, "advertisement by the VIP", ipv6(VIP6, CLIENT6, 58, &ndp(136, VIP6))),
        row(Egress, Answer, "advertisement by an open VIP", ipv6(OTHER6, CLIENT6, 58, &ndp(136, VIP6))),
        row(Egress, Answer, "advertisement by the VIP for an open one", ipv6(VIP6, CLIENT6, 58, &ndp(136, OTHER6))),
        row(Egress, Nothing, "advertisement of the host", ipv6(HOST6, CLIENT6, 58, &ndp(136, HOST6))),
        row(Egress, Nothing, "solicitation for the VIP", ipv6(HOST6, ALL_NODES, 58, &ndp(135, VIP6))),
        row(
            Egress,
            Nothing,
            "duplicate check for the VIP",
            ipv6(Ipv6Addr::UNSPECIFIED, ALL_NODES, 58, &ndp(135, VIP6)),
        ),
        second(Egress, Nothing, "solicitation on the second link", ipv6(HOST6, ALL_NODES, 58, &ndp(135, VIP6))),
        row(
            Egress,
            Answer,
            "advertisement in a first fragment",
            ipv6(HOST6, ALL_NODES, 44, &fragment(58, 0, true, &ndp(136, VIP6))),
        ),
        row(
            Egress,
            Nothing,
            "advertisement in a later fragment",
            ipv6(HOST6, ALL_NODES, 44, &fragment(58, 8, false, &ndp(136, VIP6))),
        ),
        row(
            Egress,
            Deliver,
            "later fragment from the VIP",
            ipv6(VIP6, CLIENT6, 44, &fragment(58, 1448, false, &ndp(136, VIP6))),
        ),
        row(Egress, Nothing, "advertisement without a target", ipv6(HOST6, ALL_NODES, 58, &ndp(136, VIP6)[..23])),
        row(
            Egress,
            Answer,
            "advertisement by the VIP without a target",
            ipv6(VIP6, ALL_NODES, 58, &ndp(136, VIP6)[..23]),
        ),
        row(Egress, Deliver, "icmp without a type from the VIP", ipv6(VIP6, ALL_NODES, 58, &[])),
        row(Egress, Deliver, "hop-by-hop cut off, from the VIP", ipv6(VIP6, CLIENT6, 0, &[58, 0])),
        row(Egress, Nothing, "to the VIP", ipv6(HOST6, VIP6, 17, &udp)),
        row(Egress, Nothing, "ipv6 header one byte short", short(ipv6(VIP6, CLIENT6, 17, &[]), 53)),
        row(Egress, Nothing, "version 4 in ipv6", {
            let mut frame = ipv6(VIP6, CLIENT6, 17, &udp);
            frame[14] = 0x40;
            frame
        }),
    ]);
}

pub(super) fn ingress_ipv4(rows: &mut Vec<Row>) {
    let udp = [0x30, 0x39, 0, 53, 0, 8, 0, 0];
    with_tags(rows, Ingress, Answer, "arp request for the VIP", &arp(CLIENT_MAC, 1, CLIENT, VIP));
    with_tags(rows, Ingress, Deliver, "ipv4 to the VIP", &ipv4(CLIENT, VIP, 17, &udp));
    rows.extend([
        row(Ingress, Answer, "arp probe for the VIP", arp(CLIENT_MAC, 1, ZERO, VIP)),
        row(Ingress, Answer, "arp request by another VIP", arp(CLIENT_MAC, 1, OTHER, VIP)),
        second(Ingress, Never, "arp request on the second link", arp(CLIENT_MAC, 1, CLIENT, VIP)),
        row(Ingress, Nothing, "gratuitous request", arp(RIVAL_MAC, 1, VIP, VIP)),
        row(Ingress, Nothing, "gratuitous reply", arp(RIVAL_MAC, 2, VIP, VIP)),
        second(Ingress, Nothing, "gratuitous on the second link", arp(RIVAL_MAC, 1, VIP, VIP)),
        row(Ingress, Nothing, "reply by the VIP", arp(RIVAL_MAC, 2, VIP, HOST)),
        row(Ingress, Nothing, "request by the VIP for us", arp(RIVAL_MAC, 1, VIP, HOST)),
        row(Ingress, Nothing, "reply to the VIP", arp(CLIENT_MAC, 2, CLIENT, VIP)),
        row(Ingress, Nothing, "request for the host", arp(CLIENT_MAC, 1, CLIENT, HOST)),
        row(Ingress, Nothing, "arp one byte short", cut(arp(CLIENT_MAC, 1, CLIENT, VIP), 41)),
        row(Ingress, Deliver, "first fragment to the VIP", ipv4_fragment(CLIENT, VIP, 17, 0x2000, &udp)),
        row(Ingress, Deliver, "later fragment to the VIP", ipv4_fragment(CLIENT, VIP, 17, 0x00b9, &udp)),
        row(Ingress, Deliver, "options to the VIP", ipv4_options(CLIENT, VIP, 6, 10, &udp)),
        second(Ingress, Deliver, "to the VIP by the second link", ipv4(CLIENT, VIP, 17, &udp)),
        row(Ingress, Deliver, "from an open VIP to the VIP", ipv4(OTHER, VIP, 17, &udp)),
        row(Ingress, Deliver, "advert of our router to the VIP", ipv4(CLIENT, VIP, 112, &advert(VRID, 200, 100))),
        row(Ingress, Nothing, "from the VIP", ipv4(VIP, HOST, 17, &udp)),
        row(Ingress, Nothing, "from the VIP to an open VIP", ipv4(VIP, OTHER, 17, &udp)),
        row(Ingress, Nothing, "not ours", ipv4(CLIENT, HOST, 17, &udp)),
        row(Ingress, Nothing, "a rival's advert", ipv4(CLIENT, VRRP4, 112, &advert(VRID, 200, 100))),
        row(Ingress, Nothing, "ipv4 header one byte short", short(ipv4(CLIENT, VIP, 17, &[]), 33)),
    ]);
}

pub(super) fn ingress_ipv6(rows: &mut Vec<Row>) {
    let udp = [0x30, 0x39, 0, 53, 0, 8, 0, 0];
    let dad = Ipv6Addr::UNSPECIFIED;
    with_tags(rows, Ingress, Answer, "solicitation for the VIP", &ipv6(CLIENT6, ALL_NODES, 58, &ndp(135, VIP6)));
    with_tags(rows, Ingress, Deliver, "ipv6 to the VIP", &ipv6(CLIENT6, VIP6, 17, &udp));
    rows.extend([
        row(Ingress, Answer, "duplicate check for the VIP", ipv6(dad, ALL_NODES, 58, &ndp(135, VIP6))),
        row(Ingress, Answer, "unicast solicitation", ipv6(CLIENT6, VIP6, 58, &ndp(135, VIP6))),
        row(
            Ingress,
            Answer,
            "solicitation behind hop-by-hop",
            ipv6(CLIENT6, ALL_NODES, 0, &extension(58, 2, &ndp(135, VIP6))),
        ),
        second(Ingress, Never, "solicitation on the second link", ipv6(CLIENT6, ALL_NODES, 58, &ndp(135, VIP6))),
        row(Ingress, Nothing, "solicitation by the VIP for itself", ipv6(VIP6, ALL_NODES, 58, &ndp(135, VIP6))),
        row(Ingress, Nothing, "solicitation by the VIP for us", ipv6(VIP6, ALL_NODES, 58, &ndp(135, HOST6))),
        row(Ingress, Nothing, "solicitation for the host", ipv6(CLIENT6, ALL_NODES, 58, &ndp(135, HOST6))),
        row(Ingress, Deliver, "solicitation for the host to the VIP", ipv6(CLIENT6, VIP6, 58, &ndp(135, HOST6))),
        row(Ingress, Nothing, "advertisement of the VIP", ipv6(HOST6, ALL_NODES, 58, &ndp(136, VIP6))),
        row(Ingress, Nothing, "advertisement of the VIP to the VIP", ipv6(HOST6, VIP6, 58, &ndp(136, VIP6))),
        row(Ingress, Deliver, "advertisement of a client to the VIP", ipv6(CLIENT6, VIP6, 58, &ndp(136, CLIENT6))),
        row(Ingress, Deliver, "echo to the VIP", ipv6(CLIENT6, VIP6, 58, &ndp(128, VIP6))),
        row(Ingress, Deliver, "fragment to the VIP", ipv6(CLIENT6, VIP6, 44, &fragment(17, 1448, false, &udp))),
        row(
            Ingress,
            Deliver,
            "solicitation without a target to the VIP",
            ipv6(CLIENT6, VIP6, 58, &ndp(135, VIP6)[..23]),
        ),
        row(Ingress, Nothing, "solicitation without a target", ipv6(CLIENT6, ALL_NODES, 58, &ndp(135, VIP6)[..23])),
        second(Ingress, Deliver, "to the VIP by the second link", ipv6(CLIENT6, VIP6, 17, &udp)),
        row(Ingress, Nothing, "from the VIP", ipv6(VIP6, HOST6, 17, &udp)),
        row(Ingress, Nothing, "not ours", ipv6(CLIENT6, HOST6, 17, &udp)),
        row(Ingress, Nothing, "ipv6 header one byte short", short(ipv6(CLIENT6, VIP6, 17, &[]), 53)),
    ]);
}
