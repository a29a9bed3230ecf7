//! The state machine on messages as the kernel sends them, for kinds of links that test machines may lack (bond, VLAN) and for losses.
//! The messages are laid out by netlink-packet-route's encoder, an independent reading of the format.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bascule_core::node::io::LinkInfo;
use bascule_core::types::{LinkId, Mac};
use proptest::prelude::*;
use rtnetlink::packet_core::{DefaultNla, Emitable};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol};
use rtnetlink::packet_route::link::{
    InfoBond, InfoData, InfoKind, InfoPortKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo as Info, LinkMessage,
    State as Oper,
};

use super::parse::{self, LAST_MARKER, MARKER};
use super::state::State;
use super::{NetEvent, Shared};

const ETH0: u32 = 2;
const ETH1: u32 = 3;
const BOND: u32 = 4;
const VLAN: u32 = 5;

fn bytes(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn link(index: u32, name: &str, oper: Oper, more: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up | LinkFlags::Broadcast | LinkFlags::Multicast;
    let mac = vec![2, 0, 0, 0, 0, u8::try_from(index).expect("a small index")];
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::TxQueueLen(1000),
        LinkAttribute::OperState(oper),
        LinkAttribute::Address(mac),
        // What a newer kernel may add must not disturb.
        LinkAttribute::Other(DefaultNla::new(1000, vec![1, 2, 3])),
    ];
    message.attributes.extend(more);
    message
}

/// A member of the bond: its LINKINFO names the kind of its master only.
fn member(index: u32, name: &str, oper: Oper) -> LinkMessage {
    let info = vec![Info::PortKind(InfoPortKind::Bond)];
    link(index, name, oper, vec![LinkAttribute::Controller(BOND), LinkAttribute::LinkInfo(info)])
}

fn bond(oper: Oper) -> LinkMessage {
    let data = InfoData::Bond(vec![InfoBond::MiiMon(100), InfoBond::ActivePort(ETH0)]);
    let info = vec![Info::Kind(InfoKind::Bond), Info::Data(data)];
    link(BOND, "bond0", oper, vec![LinkAttribute::LinkInfo(info)])
}

fn vlan(oper: Oper) -> LinkMessage {
    let info = vec![Info::Kind(InfoKind::Vlan), Info::Data(InfoData::Vlan(vec![InfoVlan::Id(10)]))];
    link(VLAN, "bond0.10", oper, vec![LinkAttribute::Link(BOND), LinkAttribute::LinkInfo(info)])
}

fn address(net: &str, index: u32, proto: Option<u8>, flags: AddressFlags) -> AddressMessage {
    let (ip, prefix) = net.split_once('/').expect("a prefix");
    let ip: IpAddr = ip.parse().expect("an address");
    let mut message = AddressMessage::default();
    message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.index = index;
    message.header.prefix_len = prefix.parse().expect("a length");
    message.attributes = vec![AddressAttribute::Address(ip), AddressAttribute::Flags(flags)];
    message.attributes.extend(proto.map(|p| AddressAttribute::Protocol(AddressProtocol::Other(p))));
    message
}

fn own(net: &str) -> AddressMessage {
    address(net, ETH0, None, AddressFlags::Permanent)
}

fn ours(net: &str) -> AddressMessage {
    address(net, ETH0, Some(MARKER), AddressFlags::Nodad)
}

fn key(ip: &str) -> (LinkId, IpAddr) {
    (LinkId(ETH0), ip.parse().expect("an address"))
}

/// A watcher's state with the driver's view of it.
#[derive(Default)]
struct Bench {
    state: State,
    shared: Shared,
    seen: Vec<LinkInfo>,
}

impl Bench {
    fn with_links() -> Self {
        let mut bench = Self::default();
        bench.read(&[link(ETH0, "eth0", Oper::Up, vec![])], &[]);
        bench
    }

    fn event(&mut self, kind: u16, message: &impl Emitable) -> Vec<NetEvent> {
        let lost = self.state.apply(kind, &bytes(message), &mut self.shared);
        self.publish(lost.into_iter().collect())
    }

    fn read(&mut self, links: &[LinkMessage], addresses: &[AddressMessage]) -> Vec<NetEvent> {
        let confirmed: BTreeSet<_> = self.shared.installed.iter().filter(|(_, c)| **c).map(|(k, _)| *k).collect();
        let links: Vec<_> = links.iter().map(bytes).collect();
        let addresses: Vec<_> = addresses.iter().map(bytes).collect();
        let lost = self.state.replace(&links, &addresses, confirmed, &mut self.shared);
        self.publish(lost)
    }

    fn publish(&mut self, mut events: Vec<NetEvent>) -> Vec<NetEvent> {
        events.extend(self.state.publish());
        for event in &events {
            match event {
                NetEvent::Link(info) => {
                    self.seen.retain(|l| l.id != info.id);
                    self.seen.push(info.clone());
                }
                NetEvent::LinkGone(id) => self.seen.retain(|l| l.id != *id),
                _ => {}
            }
        }
        events
    }

    fn up(&self, index: u32) -> bool {
        self.seen.iter().find(|l| l.id == LinkId(index)).expect("reported").up
    }

    fn own(&self) -> Vec<String> {
        let link = self.seen.iter().find(|l| l.id == LinkId(ETH0)).expect("reported");
        link.addresses.iter().map(ToString::to_string).collect()
    }
}

fn lost(ip: &str) -> NetEvent {
    let (link, address) = key(ip);
    NetEvent::AddressLost { link, address }
}

#[test]
fn a_vlan_on_a_bond_is_up_while_one_member_is() {
    let mut bench = Bench::default();
    let all = [member(ETH0, "eth0", Oper::Up), member(ETH1, "eth1", Oper::Up), bond(Oper::Up), vlan(Oper::Up)];
    bench.read(&all, &[]);
    assert!([ETH0, ETH1, BOND, VLAN].iter().all(|id| bench.up(*id)), "{:?}", bench.seen);
    assert_eq!(bench.seen.iter().find(|l| l.id == LinkId(VLAN)).map(|l| l.name.as_str()), Some("bond0.10"));

    bench.event(libc::RTM_NEWLINK, &member(ETH0, "eth0", Oper::Down));
    assert!(!bench.up(ETH0) && bench.up(BOND) && bench.up(VLAN));
    // The members' messages come before those of what stands on them.
    bench.event(libc::RTM_NEWLINK, &member(ETH1, "eth1", Oper::Down));
    assert!(!bench.up(BOND) && !bench.up(VLAN));
    bench.event(libc::RTM_NEWLINK, &bond(Oper::Down));
    bench.event(libc::RTM_NEWLINK, &vlan(Oper::LowerLayerDown));
    assert!(!bench.up(BOND) && !bench.up(VLAN));

    bench.event(libc::RTM_NEWLINK, &member(ETH1, "eth1", Oper::Up));
    bench.event(libc::RTM_NEWLINK, &bond(Oper::Up));
    assert!(bench.up(BOND) && !bench.up(VLAN));
    bench.event(libc::RTM_NEWLINK, &vlan(Oper::Up));
    assert!(bench.up(VLAN));
}

#[test]
fn a_bond_that_waits_for_its_updelay_is_down_by_its_own_state() {
    let mut bench = Bench::default();
    bench.read(&[member(ETH0, "eth0", Oper::Up), bond(Oper::Down), vlan(Oper::LowerLayerDown)], &[]);
    assert!(bench.up(ETH0) && !bench.up(BOND) && !bench.up(VLAN));
}

#[test]
fn a_vlan_goes_with_its_link() {
    let mut bench = Bench::default();
    bench.read(&[link(ETH0, "eth0", Oper::Up, vec![]), vlan(Oper::Up)], &[]);
    let events = bench.event(libc::RTM_DELLINK, &vlan(Oper::Down));
    assert_eq!(events, [NetEvent::LinkGone(LinkId(VLAN))]);
}

#[test]
fn operstates_count_as_rfc_2863_says_and_unknown_counts_as_up() {
    for (oper, up) in [
        (Oper::Unknown, true),
        (Oper::NotPresent, false),
        (Oper::Down, false),
        (Oper::LowerLayerDown, false),
        (Oper::Testing, false),
        (Oper::Dormant, false),
        (Oper::Up, true),
    ] {
        let mut bench = Bench::default();
        bench.read(&[link(ETH0, "eth0", oper, vec![])], &[]);
        assert_eq!(bench.up(ETH0), up, "{oper}");
    }
}

#[test]
fn partial_and_foreign_messages_change_nothing() {
    let mut bench = Bench::with_links();
    let mut bridge_port = link(ETH0, "eth0", Oper::Down, vec![]);
    bridge_port.header.interface_family = AddressFamily::Bridge;
    assert!(bench.event(libc::RTM_DELLINK, &bridge_port).is_empty());
    let mut wireless = link(ETH0, "eth0", Oper::Up, vec![]);
    wireless.header.flags = LinkFlags::empty();
    wireless.attributes.retain(|a| !matches!(a, LinkAttribute::OperState(_)));
    assert!(bench.event(libc::RTM_NEWLINK, &wireless).is_empty());
    assert!(bench.up(ETH0));
    assert_eq!(bench.seen[0].mac, Mac([2, 0, 0, 0, 0, 2]));
}

#[test]
fn own_addresses_are_those_that_can_be_a_source_and_are_not_ours() {
    let mut bench = Bench::with_links();
    bench.event(libc::RTM_NEWADDR, &own("10.9.0.1/24"));
    bench.event(libc::RTM_NEWADDR, &ours("10.9.0.100/32"));
    bench.event(libc::RTM_NEWADDR, &address("fe80::1/64", ETH0, None, AddressFlags::Tentative));
    assert_eq!(bench.own(), ["10.9.0.1/24"]);
    bench.event(libc::RTM_NEWADDR, &address("fe80::1/64", ETH0, None, AddressFlags::Permanent));
    assert_eq!(bench.own(), ["10.9.0.1/24", "fe80::1/64"]);
    bench.event(libc::RTM_NEWADDR, &address("fe80::1/64", ETH0, None, AddressFlags::Dadfailed));
    bench.event(libc::RTM_DELADDR, &own("10.9.0.1/24"));
    assert!(bench.own().is_empty());
}

#[test]
fn the_local_end_of_a_point_to_point_address_counts() {
    let mut bench = Bench::with_links();
    let mut message = own("10.9.0.254/32");
    message.attributes.push(AddressAttribute::Local([10, 9, 0, 1].into()));
    bench.event(libc::RTM_NEWADDR, &message);
    assert_eq!(bench.own(), ["10.9.0.1/32"]);
}

#[test]
fn a_marked_address_that_goes_is_lost_even_if_its_coming_was_missed() {
    let mut bench = Bench::with_links();
    assert_eq!(bench.event(libc::RTM_DELADDR, &ours("10.9.0.100/32")), [lost("10.9.0.100")]);
    assert_eq!(bench.event(libc::RTM_DELADDR, &own("10.9.0.1/24")), []);
}

#[test]
fn a_full_reading_finds_what_events_did_not_tell() {
    let mut bench = Bench::with_links();
    let eth0 = [link(ETH0, "eth0", Oper::Up, vec![])];
    bench.read(&eth0, &[own("10.9.0.1/24"), ours("10.9.0.100/32")]);
    // Known by a message, and by the kernel's confirmation alone: coming and going of it were both lost.
    bench.shared.installed.insert(key("10.9.0.101"), true);
    // On its way: not missed yet.
    bench.shared.installed.insert(key("10.9.0.102"), false);
    let events = bench.read(&eth0, &[own("10.9.0.1/24")]);
    assert_eq!(events, [lost("10.9.0.100"), lost("10.9.0.101")]);
    let events = bench.read(&eth0, &[own("10.9.0.1/24")]);
    assert!(events.is_empty(), "said once: {events:?}");
    bench.event(libc::RTM_NEWADDR, &ours("10.9.0.101/32"));
    let events = bench.read(&[], &[]);
    assert_eq!(events, [lost("10.9.0.101"), NetEvent::LinkGone(LinkId(ETH0))]);
    assert!(bench.shared.installed.is_empty(), "a link takes its addresses with it");
}

#[test]
fn an_own_removal_is_no_loss_even_when_the_address_is_back_before_its_event() {
    let mut bench = Bench::with_links();
    bench.shared.installed.insert(key("10.9.0.100"), true);
    bench.event(libc::RTM_NEWADDR, &ours("10.9.0.100/32"));
    bench.shared.removal_asked(key("10.9.0.100"));
    bench.shared.installed.insert(key("10.9.0.100"), true);
    assert_eq!(bench.event(libc::RTM_DELADDR, &ours("10.9.0.100/32")), []);
    bench.event(libc::RTM_NEWADDR, &ours("10.9.0.100/32"));
    assert_eq!(bench.event(libc::RTM_DELADDR, &ours("10.9.0.100/32")), [lost("10.9.0.100")]);

    // A removal whose event was lost must not swallow a later loss.
    let eth0 = [link(ETH0, "eth0", Oper::Up, vec![])];
    bench.read(&eth0, &[ours("10.9.0.100/32")]);
    bench.shared.removal_asked(key("10.9.0.100"));
    assert_eq!(bench.read(&eth0, &[]), []);
    bench.event(libc::RTM_NEWADDR, &ours("10.9.0.100/32"));
    assert_eq!(bench.event(libc::RTM_DELADDR, &ours("10.9.0.100/32")), [lost("10.9.0.100")]);
}

#[test]
fn nothing_is_told_twice() {
    let mut bench = Bench::with_links();
    let eth0 = [link(ETH0, "eth0", Oper::Up, vec![])];
    let all = [own("10.9.0.1/24"), ours("10.9.0.100/32")];
    assert_eq!(bench.read(&eth0, &all).len(), 1);
    assert!(bench.read(&eth0, &all).is_empty());
    assert!(bench.event(libc::RTM_NEWLINK, &eth0[0]).is_empty());
    assert!(bench.event(libc::RTM_NEWADDR, &ours("10.9.0.100/32")).is_empty());
}

#[test]
fn a_marker_taken_away_by_hand_is_a_loss() {
    let mut bench = Bench::with_links();
    bench.event(libc::RTM_NEWADDR, &ours("10.9.0.100/32"));
    let events = bench.event(libc::RTM_NEWADDR, &own("10.9.0.100/32"));
    assert_eq!(events[0], lost("10.9.0.100"));
    assert_eq!(bench.own(), ["10.9.0.100/32"]);
    assert!(bench.shared.foreign.contains(&key("10.9.0.100")));
}

#[test]
fn a_kernel_without_markers_is_helped_by_memory() {
    let unmarked = |net: &str| address(net, ETH0, None, AddressFlags::Nodad);
    let mut bench = Bench::with_links();
    bench.shared.installed.insert(key("10.9.0.100"), true);
    bench.event(libc::RTM_NEWADDR, &unmarked("10.9.0.100/32"));
    bench.event(libc::RTM_NEWADDR, &unmarked("10.9.0.1/24"));
    assert_eq!(bench.own(), ["10.9.0.1/24"]);
    assert_eq!(bench.event(libc::RTM_DELADDR, &unmarked("10.9.0.100/32")), [lost("10.9.0.100")]);
    // One marker seen: this kernel has them, and an address without is not ours.
    bench.event(libc::RTM_NEWADDR, &address("127.0.0.1/8", 1, Some(1), AddressFlags::Permanent));
    bench.event(libc::RTM_NEWADDR, &unmarked("10.9.0.100/32"));
    assert_eq!(bench.own(), ["10.9.0.1/24", "10.9.0.100/32"]);
}

#[test]
fn in_ipv4_another_prefix_length_is_another_address() {
    let mut bench = Bench::with_links();
    bench.event(libc::RTM_NEWADDR, &own("10.9.0.100/24"));
    assert!(bench.shared.foreign.is_empty());
    bench.event(libc::RTM_NEWADDR, &own("2001:db8::100/64"));
    assert_eq!(bench.shared.foreign, [key("2001:db8::100")].into());
    bench.event(libc::RTM_DELADDR, &own("2001:db8::100/64"));
    assert!(bench.shared.foreign.is_empty());
}

proptest! {
    #[test]
    fn damaged_messages_never_panic(mut message in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
        let _link = parse::link(&message);
        let _address = parse::address(&message);
        let good = bytes(&vlan(Oper::Up));
        for (byte, noise) in message.iter_mut().zip(&good) {
            *byte = noise.wrapping_add(*byte & 1);
        }
        let _link = parse::link(&message[..cut.min(message.len())]);
        for _message in super::socket::messages(&message) {}
    }
}

#[test]
fn an_address_of_another_instance_is_neither_ours_nor_the_nodes() {
    let mut bench = Bench::with_links();
    let other = address("10.9.0.101/32", ETH0, Some(MARKER + 1), AddressFlags::Permanent);
    bench.event(libc::RTM_NEWADDR, &own("10.9.0.1/24"));
    bench.event(libc::RTM_NEWADDR, &other);
    assert_eq!(bench.own(), ["10.9.0.1/24"], "a VIP is no address to speak from");
    assert_eq!(bench.event(libc::RTM_DELADDR, &other), [], "and its end is not ours to mend");
    let foreign = address("10.9.0.102/32", ETH0, Some(LAST_MARKER + 1), AddressFlags::Permanent);
    bench.event(libc::RTM_NEWADDR, &foreign);
    assert_eq!(bench.own(), ["10.9.0.1/24", "10.9.0.102/32"], "the number after the last is somebody else's");
}
