//! The core's words as the maps have them.

use bascule_core::balance::io::{EndpointEntry, NodeEntry, ServiceEntry, ServiceSlot};
use bascule_core::balance::sites::{SiteEntry, SiteSpec};
use bascule_core::service::{Affinity, Delivery, NodeSpec, Protocol, Return, ServiceKey};
use bascule_core::site::SiteId;
use bascule_ebpf_common::forward::{
    DELIVER_DELEGATE, ENDPOINT_DRAINING, ENDPOINT_HOST, ENDPOINT_READY, ENDPOINT_REMOTE, NODE_DEAD, NODE_RESOLVED,
    RETURN_VIA_INGRESS, SERVICE_AFFINITY, SERVICE_ASK, SERVICE_EXCEPTIONS, SERVICE_QUIC, SERVICE_SOURCES,
};

use super::apply::{Known, Path, Shared, service};
use super::places::Place;

const PATH: Path = Path { ifindex: 7, source_mac: [1; 6], next_mac: [2; 6], mtu: 1500 };

fn entry() -> ServiceEntry {
    ServiceEntry {
        name: "web".to_owned(),
        key: ServiceKey { vip: [10, 9, 0, 100].into(), port: 443, protocol: Protocol::Tcp },
        number: 513,
        delivery: Delivery::Delegate,
        returns: Return::ViaIngress,
        affinity: Affinity::ClientIp,
        sources: true,
        ask: false,
        quic: false,
        drain_minutes: 60,
    }
}

fn endpoint() -> EndpointEntry {
    EndpointEntry {
        name: "e1".to_owned(),
        service: ServiceSlot(3),
        address: [10, 0, 0, 1].into(),
        port: 8443,
        protocol: Protocol::Tcp,
        ready: true,
        draining: false,
        remote: false,
    }
}

fn node(dead: bool) -> NodeEntry {
    let spec =
        NodeSpec { name: "n2".to_owned(), id: 2, addresses: vec![[10, 9, 0, 2].into()], site: 1, draining: false };
    NodeEntry { spec, dead, this: false }
}

#[test]
fn a_service_has_its_flags_and_its_numbers_in_their_order() {
    let shared = Shared { mss: (1416, 1396), sites: false };
    let written = service(&entry(), shared);
    assert_eq!(written.flags, SERVICE_AFFINITY | SERVICE_SOURCES);
    assert_eq!((written.number, u16::from_be(written.port), written.protocol), (513, 443, 6));
    assert_eq!((written.delivery, written.returns), (DELIVER_DELEGATE, RETURN_VIA_INGRESS));
    assert_eq!((written.mss4, written.mss6, written.drain_minutes), (1416, 1396, 60));
    assert_eq!((written.nodes, written.endpoints), (0, 0), "words of tables are stored alone");
    let entry = ServiceEntry { ask: true, quic: true, affinity: Affinity::None, sources: false, ..entry() };
    assert_eq!(service(&entry, Shared::default()).flags, SERVICE_ASK | SERVICE_QUIC);
    // Where there are other sites, their nodes say which flows live there: of TCP.
    let shared = Shared { sites: true, ..shared };
    assert_eq!(service(&entry, shared).flags & SERVICE_EXCEPTIONS, SERVICE_EXCEPTIONS);
    let udp = ServiceKey { protocol: Protocol::Udp, ..entry.key };
    assert_eq!(service(&ServiceEntry { key: udp, ..entry }, shared).flags & SERVICE_EXCEPTIONS, 0);
}

#[test]
fn an_endpoint_is_asked_for_sockets_where_it_lives() {
    let mut known = Known::default();
    let address = endpoint().address;
    assert_eq!((known.endpoint(&endpoint()).netns, known.endpoint(&endpoint()).flags), (-2, ENDPOINT_READY));
    known.places.note(address, Place::Netns(4));
    assert_eq!(known.endpoint(&endpoint()).netns, 4);
    known.places.note(address, Place::Host);
    let draining = EndpointEntry { ready: false, draining: true, ..endpoint() };
    assert_eq!(
        (known.endpoint(&draining).netns, known.endpoint(&draining).flags),
        (-1, ENDPOINT_DRAINING | ENDPOINT_HOST)
    );
    let remote = known.endpoint(&EndpointEntry { remote: true, ..endpoint() });
    assert_eq!((remote.netns, remote.flags), (-2, ENDPOINT_READY | ENDPOINT_REMOTE), "whatever stands at its address");
    assert_eq!((u16::from_be(remote.port), remote.service), (8443, 3));
}

#[test]
fn a_node_is_resolved_with_its_way_and_its_way_bounds_segments() {
    let mut known = Known::default();
    assert_eq!(known.node(&node(true)).flags, NODE_DEAD);
    known.nodes.insert(2, node(false));
    assert_eq!(known.narrowest(), (0, 0), "no way, no bound");
    known.note_path([10, 9, 0, 2].into(), Some(PATH));
    let written = known.node(&node(false));
    assert_eq!((written.flags, written.ifindex, written.mtu), (NODE_RESOLVED, 7, 1500));
    assert_eq!((written.source_mac, written.next_mac), ([1; 6], [2; 6]));
    // 1500 less 44 of encapsulation and 40 or 60 of headers.
    assert_eq!(known.narrowest(), (1416, 1396));
    // A gateway of another site, behind a path that carries less than the link, bounds what is too big and all segments.
    let there = NodeEntry { spec: NodeSpec { site: 2, ..node(false).spec }, ..node(false) };
    let spec = SiteSpec { site: SiteId(2), reachable: true, lost: false, via_ingress: false, mtu: Some(1380) };
    known.nodes.insert(2, there.clone());
    known.sites.insert(2, SiteEntry { gateways: vec![2], spec });
    assert_eq!((known.node(&there).mtu, known.narrowest()), (1380, (1296, 1276)));
    known.sites.insert(2, SiteEntry { gateways: vec![2], spec: SiteSpec { mtu: None, ..spec } });
    assert_eq!((known.node(&there).mtu, known.narrowest()), (1500, (1416, 1396)));
    known.note_path([10, 9, 0, 2].into(), None);
    assert_eq!(known.node(&node(false)).flags, 0);
}
