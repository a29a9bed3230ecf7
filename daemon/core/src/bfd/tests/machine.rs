//! The machine: which session a packet belongs to, where packets go, and what a new configuration changes.

use core::net::IpAddr;
use core::time::Duration;

use super::ms;
use crate::bfd::Bfd;
use crate::bfd::config::PeerConfig;
use crate::bfd::io::{Action, BfdEvent, BfdUpdate, Input, PathState};
use crate::bfd::status::PeerStatus;
use crate::node::io::LinkInfo;
use crate::time::Instant;
use crate::types::{LinkId, Mac};
use crate::wire::bfd::{Control, Diag, SOURCE_PORTS, State};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn link(id: u32, name: &str, addresses: &[&str]) -> LinkInfo {
    let addresses = addresses.iter().map(|a| a.parse().expect("a network")).collect();
    LinkInfo { id: LinkId(id), name: name.to_owned(), mac: Mac([2, 0, 0, 0, 0, 1]), up: true, addresses }
}

#[derive(Clone, Debug)]
struct Sent {
    peer: String,
    link: Option<LinkId>,
    src: Option<IpAddr>,
    dst: IpAddr,
    multihop: bool,
    source_port: u16,
    control: Control,
}

struct World {
    bfd: Bfd,
    now: Instant,
    sent: Vec<Sent>,
    events: Vec<BfdEvent>,
    updates: Vec<BfdUpdate>,
    closed: Vec<u16>,
    stopped: u32,
}

impl World {
    fn new(peers: Vec<PeerConfig>) -> Self {
        let mut world = Self {
            bfd: Bfd::new(9),
            now: Instant::from_nanos(1_000_000_000),
            sent: Vec::new(),
            events: Vec::new(),
            updates: Vec::new(),
            closed: Vec::new(),
            stopped: 0,
        };
        world.feed(Input::Link(link(2, "eth0", &["10.9.0.1/24", "2001:db8::1/64", "fe80::1/64"])));
        world.feed(Input::Link(link(3, "eth1", &["10.8.0.1/24", "fe80::2/64"])));
        world.feed(Input::Config(peers));
        world
    }

    fn feed(&mut self, input: Input<'_>) {
        self.bfd.handle_input(input, self.now);
        self.gather();
    }

    fn gather(&mut self) {
        while let Some(action) = self.bfd.poll_action() {
            match action {
                Action::Send { peer, link, src, dst, multihop, source_port, payload } => {
                    let control = Control::parse(&payload).expect("what we send is well-formed");
                    self.sent.push(Sent { peer, link, src, dst, multihop, source_port, control });
                }
                Action::ClosePort(port) => self.closed.push(port),
                Action::Report(event) => self.events.push(event),
                Action::Update(update) => self.updates.push(update),
                Action::Stopped => self.stopped += 1,
            }
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.bfd.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.bfd.handle_timeout(self.now);
            self.gather();
        }
        self.now = end;
    }

    fn last(&self, peer: &str) -> Sent {
        self.sent.iter().rev().find(|s| s.peer == peer).expect("a packet").clone()
    }

    fn status(&self, peer: &str) -> PeerStatus {
        self.bfd.status(self.now).peers.into_iter().find(|p| p.name == peer).expect("a session")
    }

    fn discarded(&self, reason: &str) -> u64 {
        self.bfd.status(self.now).discards.iter().find(|d| d.reason == reason).expect("a reason").count
    }

    /// A packet of the peer at 10.9.0.2, as an answer to the last one sent to it.
    fn answer(&mut self, peer: &str, edit: impl FnOnce(&mut Control, &mut Place)) {
        let ours = self.last(peer);
        let mut control = Control {
            diag: Diag::NONE,
            state: State::Init,
            poll: false,
            is_final: false,
            my_discr: 4711,
            your_discr: ours.control.my_discr,
            desired_min_tx: 300_000,
            required_min_rx: 300_000,
            detect_mult: 3,
            ..ours.control
        };
        let src = ours.src.unwrap_or(ip("10.9.0.1"));
        let mut place = Place { link: 2, src: ours.dst, dst: src, ttl: 255, multihop: ours.multihop };
        edit(&mut control, &mut place);
        let Place { link, src, dst, ttl, multihop } = place;
        self.feed(Input::Packet { link: LinkId(link), src, dst, ttl, multihop, payload: &control.encode() });
    }

    fn bring_up(&mut self, peer: &str) {
        self.answer(peer, |_, _| {});
        self.answer(peer, |c, _| (c.state, c.is_final) = (State::Up, true));
        self.answer(peer, |c, _| c.state = State::Up);
        assert_eq!((self.status(peer).state, self.status(peer).polling), (State::Up, false));
    }
}

struct Place {
    link: u32,
    src: IpAddr,
    dst: IpAddr,
    ttl: u8,
    multihop: bool,
}

fn tor() -> PeerConfig {
    PeerConfig::new("tor", ip("10.9.0.2"))
}

fn far() -> PeerConfig {
    PeerConfig { multihop: Some(253), local: Some(ip("10.9.0.1")), ..PeerConfig::new("far", ip("192.0.2.1")) }
}

#[test]
fn link_and_source_come_from_the_subnet_or_from_the_name() {
    let v6 = PeerConfig::new("v6", ip("2001:db8::2"));
    let scoped = PeerConfig { interface: Some("eth1".into()), ..PeerConfig::new("scoped", ip("fe80::99")) };
    let vague = PeerConfig::new("vague", ip("fe80::98"));
    let off = PeerConfig { local: Some(ip("10.8.0.1")), ..PeerConfig::new("off", ip("10.9.0.3")) };
    let lost = PeerConfig { interface: Some("eth7".into()), ..PeerConfig::new("lost", ip("10.9.0.4")) };
    let mut world = World::new(vec![tor(), v6, scoped, vague, off, lost, far()]);
    let place = |w: &World, peer: &str| (w.last(peer).link.map(|l| l.0), w.last(peer).src);
    assert_eq!(place(&world, "tor"), (Some(2), Some(ip("10.9.0.1"))));
    assert_eq!(place(&world, "v6"), (Some(2), Some(ip("2001:db8::1"))));
    assert_eq!(place(&world, "scoped"), (Some(3), Some(ip("fe80::2"))));
    assert_eq!(place(&world, "far"), (None, Some(ip("10.9.0.1"))));
    for silent in ["vague", "off", "lost"] {
        assert!(world.sent.iter().all(|s| s.peer != silent), "{silent}");
        assert!(world.status(silent).condition.is_some(), "{silent} says why");
    }
    let count = world.sent.len();
    world.feed(Input::Link(link(9, "eth7", &["10.9.0.9/24"])));
    assert_eq!(world.sent.len(), count + 1, "its way appeared: it is told at once");
    assert_eq!(place(&world, "lost"), (Some(9), Some(ip("10.9.0.9"))));
    assert_eq!(world.status("lost").condition, None);
}

#[test]
fn s5881_4_source_ports_are_stable_unique_and_in_range() {
    let peers: Vec<_> = (10..210).map(|n| PeerConfig::new(&format!("p{n}"), ip(&format!("10.9.0.{n}")))).collect();
    let mut world = World::new(peers);
    world.run(ms(3_000));
    let mut ports = std::collections::BTreeMap::new();
    for sent in &world.sent {
        assert!(SOURCE_PORTS.contains(&sent.source_port));
        assert_eq!(*ports.entry(sent.peer.clone()).or_insert(sent.source_port), sent.source_port, "{}", sent.peer);
    }
    let distinct: std::collections::BTreeSet<_> = ports.values().collect();
    assert_eq!((ports.len(), distinct.len()), (200, 200));
    let discriminators: std::collections::BTreeSet<_> = world.sent.iter().map(|s| s.control.my_discr).collect();
    assert_eq!(discriminators.len(), 200);
    let taken = ports["p10"];
    world.feed(Input::PortTaken { peer: "p10".into() });
    let again = world.last("p10");
    assert!(again.source_port != taken && again.control.state == State::Down, "sent anew from another port");
}

#[test]
fn s5881_5_single_hop_needs_ttl_255() {
    let mut world = World::new(vec![tor()]);
    world.answer("tor", |_, p| p.ttl = 254);
    assert_eq!((world.discarded("ttl"), world.status("tor").state), (1, State::Down));
    world.answer("tor", |_, _| {});
    assert_eq!(world.status("tor").state, State::Up);
}

#[test]
fn s5883_multihop_has_its_port_its_least_ttl_and_its_address_pair() {
    let mut world = World::new(vec![far()]);
    assert!(world.last("far").multihop);
    world.answer("far", |_, p| p.ttl = 252);
    assert_eq!(world.discarded("ttl"), 1);
    assert!(world.status("far").condition.is_some_and(|why| why.contains("TTL 252, below the least of 253")));
    world.answer("far", |_, p| p.multihop = false);
    assert_eq!(world.discarded("no-session"), 1, "its discriminator on the other port");
    world.answer("far", |c, p| (c.your_discr, c.state, p.src) = (0, State::Down, ip("192.0.2.9")));
    world.answer("far", |c, p| (c.your_discr, c.state, p.dst) = (0, State::Down, ip("10.8.0.1")));
    assert_eq!((world.discarded("no-session"), world.status("far").state), (3, State::Down));
    world.answer("far", |c, p| (c.your_discr, c.state, p.ttl, p.link) = (0, State::Down, 253, 3));
    assert_eq!(world.status("far").state, State::Init, "by the address pair, from any link");
    assert_eq!(world.status("far").condition, None);
}

#[test]
fn s5883_a_peer_that_sends_another_ttl_is_heard_as_configured_and_without_a_reset() {
    let mut world = World::new(vec![far()]);
    world.answer("far", |_, p| p.ttl = 63);
    assert_eq!((world.discarded("ttl"), world.status("far").state), (1, State::Down));
    let discriminator = world.status("far").local_discriminator;
    world.feed(Input::Config(vec![PeerConfig { multihop: Some(63), ..far() }]));
    world.answer("far", |_, p| p.ttl = 63);
    let far = world.status("far");
    assert_eq!((far.state, far.min_ttl, far.local_discriminator), (State::Up, Some(63), discriminator));
    world.answer("far", |_, p| p.ttl = 62);
    assert_eq!((world.discarded("ttl"), world.status("far").condition), (2, None), "a stray packet is no condition");
}

#[test]
fn s6_3_demultiplexing() {
    let other = PeerConfig::new("other", ip("10.9.0.3"));
    let mut world = World::new(vec![tor(), other]);
    // Without our discriminator: link and source must fit.
    world.answer("tor", |c, p| (c.your_discr, c.state, p.link) = (0, State::Down, 3));
    world.answer("tor", |c, p| (c.your_discr, c.state, p.src) = (0, State::Down, ip("10.9.0.77")));
    assert_eq!(world.discarded("no-session"), 2);
    world.answer("tor", |c, _| (c.your_discr, c.state) = (0, State::Down));
    assert_eq!((world.status("tor").state, world.status("other").state), (State::Init, State::Down));
    // With it, it alone decides; a wrong one fits nobody.
    world.answer("tor", |c, _| c.your_discr ^= 1);
    assert_eq!(world.discarded("no-session"), 3);
    world.answer("tor", |_, p| p.src = ip("10.9.0.77"));
    assert_eq!(world.status("tor").state, State::Up);
}

#[test]
fn discards_are_counted_by_reason() {
    let mut world = World::new(vec![tor()]);
    let (link, src, dst) = (LinkId(2), ip("10.9.0.2"), ip("10.9.0.1"));
    world.feed(Input::Packet { link, src, dst, ttl: 255, multihop: false, payload: b"hello" });
    world.answer("tor", |c, _| (c.your_discr, c.state) = (0, State::Up));
    world.answer("tor", |_, _| {});
    assert_eq!((world.discarded("truncated"), world.discarded("your-discriminator")), (1, 1));
    let status = world.bfd.status(world.now);
    assert_eq!((status.received, status.peers[0].received), (1, 1));
    assert_eq!(status.sent, u64::try_from(world.sent.len()).expect("few"));
}

#[test]
fn an_unchanged_session_never_notices_a_new_configuration() {
    let mut world = World::new(vec![tor(), PeerConfig::new("other", ip("10.9.0.3"))]);
    world.bring_up("tor");
    let (count, before) = (world.sent.iter().filter(|s| s.peer == "tor").count(), world.status("tor"));
    world.feed(Input::Config(vec![PeerConfig::new("new", ip("10.9.0.4")), tor()]));
    world.feed(Input::Config(vec![tor(), PeerConfig::new("new", ip("10.9.0.4"))]));
    assert_eq!(world.sent.iter().filter(|s| s.peer == "tor").count(), count);
    assert_eq!(world.status("tor"), before);
}

#[test]
fn changed_intervals_poll_and_do_not_reset() {
    let mut world = World::new(vec![tor()]);
    world.bring_up("tor");
    let before = world.status("tor");
    let faster = PeerConfig { desired_min_tx: ms(50), required_min_rx: ms(50), ..tor() };
    world.feed(Input::Config(vec![faster]));
    let sent = world.last("tor").control;
    assert_eq!((sent.poll, sent.desired_min_tx, sent.required_min_rx), (true, 50_000, 50_000));
    let after = world.status("tor");
    assert_eq!((after.state, after.local_discriminator), (State::Up, before.local_discriminator));
    assert_eq!((after.source_port, world.updates.len()), (before.source_port, 1));
}

#[test]
fn a_removed_session_says_admin_down_until_the_peer_confirms() {
    let mut world = World::new(vec![tor()]);
    world.bring_up("tor");
    let port = world.last("tor").source_port;
    world.feed(Input::Config(Vec::new()));
    let farewell = world.last("tor").control;
    assert_eq!((farewell.state, farewell.diag, farewell.poll), (State::AdminDown, Diag::ADMIN_DOWN, true));
    assert!(world.closed.is_empty() && world.bfd.status(world.now).peers.is_empty());
    let last = BfdUpdate { peer: "tor".into(), state: PathState::AdminDown, failures: 0 };
    assert_eq!(world.updates.last(), Some(&last));
    world.answer("tor", |c, _| (c.state, c.is_final) = (State::Down, true));
    assert_eq!(world.closed, [port]);
    assert_eq!(world.bfd.poll_timeout(), None, "nothing is left behind");
}

#[test]
fn a_peer_that_does_not_confirm_is_not_waited_for_longer_than_its_detection_time() {
    let mut world = World::new(vec![tor()]);
    world.bring_up("tor");
    world.feed(Input::Config(Vec::new()));
    world.run(ms(899));
    assert!(world.closed.is_empty());
    world.run(ms(1));
    assert_eq!(world.closed.len(), 1);
}

#[test]
fn a_session_that_comes_back_is_a_new_one_and_its_farewell_is_over() {
    let mut world = World::new(vec![tor()]);
    world.bring_up("tor");
    let before = world.last("tor").control.my_discr;
    world.feed(Input::Config(Vec::new()));
    world.feed(Input::Config(vec![tor()]));
    assert_eq!(world.closed.len(), 1);
    world.sent.clear();
    world.run(ms(5_000));
    assert!(!world.sent.is_empty());
    assert!(world.sent.iter().all(|s| s.control.my_discr != before && s.control.state == State::Down));
}

#[test]
fn a_stop_tells_everybody_and_ends_once() {
    let mut world = World::new(vec![tor(), PeerConfig::new("silent", ip("10.9.0.3"))]);
    world.bring_up("tor");
    world.feed(Input::Stop);
    assert_eq!(world.stopped, 0, "the peer has not confirmed yet");
    assert_eq!(world.last("tor").control.state, State::AdminDown);
    world.answer("tor", |c, _| (c.state, c.is_final) = (State::Down, true));
    assert_eq!(world.stopped, 1);
    world.feed(Input::Config(vec![tor()]));
    assert_eq!(world.bfd.status(world.now).peers.len(), 0, "a late configuration starts nothing");
    world.feed(Input::Stop);
    assert_eq!(world.stopped, 1);
    // Nobody to tell: at once.
    let mut idle = World::new(Vec::new());
    idle.feed(Input::Stop);
    assert_eq!(idle.stopped, 1);
}

#[test]
fn followers_hear_failures_and_can_tell_them_from_an_operators_will() {
    let mut world = World::new(vec![tor()]);
    world.bring_up("tor");
    world.run(ms(901));
    let event = world.events.last().expect("an event");
    assert_eq!((event.to, event.diag, event.detection), (State::Down, Diag::DETECTION_EXPIRED, Some(0.9)));
    assert_eq!(event.lateness, Some(0.0));
    world.bring_up("tor");
    world.answer("tor", |c, _| c.state = State::AdminDown);
    let told: Vec<_> = world.updates.iter().map(|u| (u.state, u.failures)).collect();
    let expected = [(PathState::Up, 0), (PathState::Down, 1), (PathState::Up, 1), (PathState::AdminDown, 1)];
    assert_eq!(told, expected);
}

#[test]
fn what_could_not_be_sent_is_shown_until_something_can() {
    let mut world = World::new(vec![tor()]);
    world.feed(Input::SendFailed { peer: "tor".into(), error: "network is unreachable".into() });
    assert_eq!(world.status("tor").condition.as_deref(), Some("network is unreachable"));
    world.run(ms(1_000));
    assert_eq!(world.status("tor").condition, None);
}

#[test]
fn sessions_that_cannot_be_told_apart_collide() {
    let named =
        |name: &str, link: &str| PeerConfig { interface: Some(link.into()), ..PeerConfig::new(name, ip("fe80::9")) };
    assert!(tor().collides(&PeerConfig { name: "again".into(), ..tor() }));
    assert!(!tor().collides(&PeerConfig::new("other", ip("10.9.0.3"))));
    assert!(!named("a", "eth0").collides(&named("b", "eth1")));
    assert!(named("a", "eth0").collides(&named("b", "eth0")));
    assert!(!tor().collides(&PeerConfig { multihop: Some(250), ..tor() }));
    assert!(far().collides(&PeerConfig { local: None, ..far() }));
    assert!(!far().collides(&PeerConfig { local: Some(ip("10.8.0.1")), ..far() }));
}
