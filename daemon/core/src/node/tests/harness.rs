//! One node with a link and a fence, or several on one LAN; what they owe as short words.

use super::config::GroupConfig;
use super::io::Order;
use super::*;
use crate::fence::FenceWrite;
use crate::wire::peer::Keys;

pub(super) const LINK: LinkId = LinkId(2);
/// Start of every test: not zero, so that a term is not zero either.
pub(super) const START: u64 = 1_000;

pub(super) fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

pub(super) fn centis(v: u16) -> Centis {
    Centis::new(v).expect("in range")
}

pub(super) fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 9, 0, last])
}

pub(super) fn ip6(text: &str) -> IpAddr {
    text.parse().expect("address")
}

pub(super) fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

/// The link of node `n`: 10.9.0.n/24 and fe80::n/64.
pub(super) fn link(n: u8) -> LinkInfo {
    let v6 = IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, u16::from(n)]);
    let addresses = vec![
        ipnet::IpNet::new(ip(n), 24).expect("prefix"),
        ipnet::IpNet::new(ip6("2001:db8::ff"), 64).expect("prefix"),
        ipnet::IpNet::new(v6, 64).expect("prefix"),
    ];
    LinkInfo { id: LINK, name: "eth0".into(), mac: mac(n), up: true, addresses }
}

/// VIP 10.9.0.100, VRID 51, 100 ms, no probe.
pub(super) fn group(priority: u8) -> GroupConfig {
    GroupConfig { priority, conflict_probe: false, ..GroupConfig::new("api", 51, vec![ip(100)]) }
}

pub(super) fn dual_group(priority: u8) -> GroupConfig {
    GroupConfig { addresses: vec![ip(100), ip6("2001:db8::100")], ..group(priority) }
}

pub(super) fn node(n: u8, groups: Vec<GroupConfig>) -> NodeConfig {
    NodeConfig { node: format!("n{n}"), groups, ..NodeConfig::default() }
}

pub(super) fn keyed(n: u8, groups: Vec<GroupConfig>) -> NodeConfig {
    NodeConfig { keys: Keys::new(vec![b"0123456789abcdef".to_vec()]), ..node(n, groups) }
}

/// What an action is, in a few words.
fn word(action: &Action, keys: &Keys) -> String {
    match action {
        Action::Fence(FenceWrite::Register { slot, addresses, .. }) => {
            format!("register {} {}", slot.0, list(addresses))
        }
        Action::Fence(FenceWrite::Unregister(slot)) => format!("unregister {}", slot.0),
        Action::Fence(FenceWrite::Ctl(_, ctl)) => {
            let mute = if ctl.handover { " handover" } else { "" };
            format!("fence {}{mute}", format!("{:?}", ctl.role).to_lowercase())
        }
        Action::SendVrrp { src, dst, payload, .. } => {
            let advert = Advert::parse(payload, *src, *dst).expect("own advert");
            format!("advert {} {src}", advert.priority)
        }
        Action::SendFrame { kind, address, .. } => format!("{} {address}", kind.as_str()),
        Action::SendPeer { dst, payload, .. } => {
            format!("{:?} to {dst}", Message::parse(payload, keys).expect("own message").kind)
        }
        Action::Install { addresses, .. } => format!("install {}", list(addresses)),
        Action::Remove { addresses, .. } => format!("remove {}", list(addresses)),
        Action::Renew { addresses, lifetime } => format!("renew {} for {lifetime:?}", addresses.len()),
        Action::Hold { addresses, .. } => format!("hold {}", list(addresses)),
        Action::Release { addresses, .. } => format!("release {}", list(addresses)),
        Action::Routes(wishes) => {
            let words: Vec<String> =
                wishes.iter().map(|w| format!("{} {} {}", w.want.as_str(), w.address, w.vip)).collect();
            words.join(", ")
        }
        Action::Elect { order, .. } => match order.as_ref() {
            Order::Start { lease, .. } => format!("start {}", lease.store),
            Order::Tell(command) => format!("tell {command:?}"),
        },
        Action::Probe { gate, .. } => format!("probe {gate}"),
        Action::Report(Event::Role { to, reason, .. }) => format!("{} by {}", to.as_str(), reason.as_str()),
        Action::Report(event) => {
            let text = format!("{event:?}");
            text.split([' ', '{']).next().unwrap_or_default().to_owned()
        }
        Action::CommandDone { id, result } => format!("done {id} {}", if result.is_ok() { "ok" } else { "err" }),
        Action::Stopped => "stopped".into(),
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")
}

/// One node and the clock.
pub(super) struct Rig {
    pub(super) node: Node,
    pub(super) now: Instant,
    keys: Keys,
    /// Everything owed since the last [`Rig::take`].
    pub(super) owed: Vec<Action>,
}

impl Rig {
    /// Node 1, with fence, link and configuration since [`START`]; what that owed is forgotten.
    pub(super) fn new(config: NodeConfig) -> Self {
        let mut rig = Self::bare(&config, 1);
        rig.input(Input::Fence(FenceState::Ready));
        rig.input(Input::Link(link(1)));
        rig.input(Input::Config(Box::new(config)));
        let _ = rig.take();
        rig
    }

    /// Nothing but the node.
    pub(super) fn bare(config: &NodeConfig, seed: u64) -> Self {
        let now = at(START);
        Self { node: Node::new(seed, now), now, keys: config.keys.clone(), owed: Vec::new() }
    }

    /// The same after it became Active on silence and announced; nothing owed.
    pub(super) fn active(config: NodeConfig) -> Self {
        let mut rig = Self::new(config);
        while rig.role() != Role::Active {
            let next = rig.node.poll_timeout().expect("a deadline");
            rig.run_to(next);
        }
        for slot in 0..u32::try_from(rig.node.groups.len()).expect("few") {
            rig.installed(slot);
        }
        let _ = rig.take();
        rig
    }

    /// The addresses of a slot are there, and what waits for the lead of the first advert is over.
    pub(super) fn installed(&mut self, slot: u32) {
        self.input(Input::Installed(Slot(slot)));
        self.run(1);
    }

    pub(super) fn role(&self) -> Role {
        self.node.groups[0].role()
    }

    fn drain(&mut self) {
        self.owed.extend(core::iter::from_fn(|| self.node.poll_action()));
    }

    pub(super) fn input(&mut self, input: Input<'_>) {
        self.node.handle_input(input, self.now);
        self.drain();
    }

    /// Serves every deadline up to and including `until`, each at its time.
    pub(super) fn run_to(&mut self, until: Instant) {
        while let Some(next) = self.node.poll_timeout().filter(|next| *next <= until) {
            self.now = self.now.max(next);
            self.node.handle_timeout(self.now);
            self.drain();
        }
        self.now = until;
    }

    pub(super) fn run(&mut self, ms: u64) {
        self.run_to(self.now + Duration::from_millis(ms));
    }

    pub(super) fn words(&self, actions: &[Action]) -> Vec<String> {
        actions.iter().map(|a| word(a, &self.keys)).collect()
    }

    /// What is owed, in words, and forgets it. Measured lateness is left out: it comes with every advert.
    pub(super) fn take(&mut self) -> Vec<String> {
        let owed = core::mem::take(&mut self.owed);
        self.words(&owed).into_iter().filter(|w| w != "AdvertLateness").collect()
    }

    /// An advert of node `n` for the IPv4 router of group "api".
    pub(super) fn hear(&mut self, n: u8, priority: u8) {
        self.hear_from(ip(n), priority, vec![ip(100)]);
    }

    pub(super) fn hear_from(&mut self, src: IpAddr, priority: u8, addresses: Vec<IpAddr>) {
        let dst = match src {
            IpAddr::V4(_) => IpAddr::V4(crate::wire::vrrp::GROUP_V4),
            IpAddr::V6(_) => IpAddr::V6(crate::wire::vrrp::GROUP_V6),
        };
        let advert = Advert { vrid: 51, priority, interval: centis(10), addresses };
        let payload = advert.encode(src, dst);
        self.input(Input::Vrrp { link: LINK, src, dst, ttl: 255, payload: &payload });
    }

    pub(super) fn command(&mut self, id: u64, command: Command) {
        self.input(Input::Command { id, command });
    }

    pub(super) fn reload(&mut self, config: NodeConfig) {
        self.input(Input::Config(Box::new(config)));
    }
}

/// Nodes 1.. on one LAN, each with an exact fence; frames take 100 us, netlink 300 us.
pub(super) struct Lan {
    pub(super) rigs: Vec<Rig>,
    pub(super) now: Instant,
    /// (due, receiver, what).
    flying: Vec<(Instant, usize, Flight)>,
    /// (time, node index, what it did), lateness left out.
    pub(super) log: Vec<(Instant, usize, String)>,
    /// Nodes whose frames are lost.
    pub(super) deaf: Vec<usize>,
}

enum Flight {
    Vrrp { src: IpAddr, dst: IpAddr, payload: Vec<u8> },
    Frame(Vec<u8>),
    Peer { src: IpAddr, payload: Vec<u8> },
    Installed(Slot),
    Removed(Slot),
    Held(u64),
    Released(u64),
}

impl Lan {
    pub(super) fn new(configs: Vec<NodeConfig>) -> Self {
        let start = |(i, config): (usize, NodeConfig)| {
            let n = u8::try_from(i + 1).expect("few");
            let mut rig = Rig::bare(&config, u64::from(n) * 7);
            rig.input(Input::Fence(FenceState::Ready));
            rig.input(Input::Link(link(n)));
            rig.input(Input::Config(Box::new(config)));
            rig
        };
        let rigs = configs.into_iter().enumerate().map(start).collect();
        let mut lan = Self { rigs, now: at(START), flying: Vec::new(), log: Vec::new(), deaf: Vec::new() };
        lan.settle();
        lan
    }

    fn settle(&mut self) {
        for i in 0..self.rigs.len() {
            let owed = core::mem::take(&mut self.rigs[i].owed);
            for (word, action) in self.rigs[i].words(&owed).into_iter().zip(&owed) {
                if word != "AdvertLateness" {
                    self.log.push((self.now, i, word));
                }
                self.carry_out(i, action);
            }
        }
    }

    fn carry_out(&mut self, from: usize, action: &Action) {
        let (soon, later) = (self.now + Duration::from_micros(100), self.now + Duration::from_micros(300));
        let others = (0..self.rigs.len()).filter(|to| *to != from && !self.deaf.contains(to));
        match action {
            Action::SendVrrp { src, dst, payload, .. } => self
                .flying
                .extend(others.map(|to| (soon, to, Flight::Vrrp { src: *src, dst: *dst, payload: payload.clone() }))),
            Action::SendFrame { bytes, .. } => {
                self.flying.extend(others.map(|to| (soon, to, Flight::Frame(bytes.clone()))));
            }
            Action::SendPeer { src, dst, payload, .. } => self.flying.extend(
                others
                    .filter(|to| {
                        dst.is_multicast() || self.rigs[*to].node.links[0].addresses.iter().any(|n| n.addr() == *dst)
                    })
                    .map(|to| (soon, to, Flight::Peer { src: *src, payload: payload.clone() })),
            ),
            Action::Install { slot, .. } => self.flying.push((later, from, Flight::Installed(*slot))),
            Action::Remove { slot, .. } => self.flying.push((later, from, Flight::Removed(*slot))),
            Action::Hold { id, .. } => self.flying.push((later, from, Flight::Held(*id))),
            Action::Release { id, .. } => self.flying.push((later, from, Flight::Released(*id))),
            Action::Fence(_)
            | Action::Renew { .. }
            | Action::Routes(_)
            | Action::Elect { .. }
            | Action::Probe { .. }
            | Action::Report(_)
            | Action::CommandDone { .. }
            | Action::Stopped => {}
        }
    }

    pub(super) fn run(&mut self, ms: u64) {
        let until = self.now + Duration::from_millis(ms);
        self.settle();
        loop {
            let timer = self.rigs.iter().filter_map(|r| r.node.poll_timeout()).min();
            let arrival = self.flying.iter().map(|f| f.0).min();
            let Some(next) = timer.into_iter().chain(arrival).min().filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            self.rigs.iter_mut().for_each(|r| r.now = self.now);
            while let Some(i) = self.flying.iter().position(|f| f.0 <= self.now) {
                let (_, to, flight) = self.flying.remove(i);
                let rig = &mut self.rigs[to];
                match flight {
                    Flight::Vrrp { src, dst, payload } => {
                        rig.input(Input::Vrrp { link: LINK, src, dst, ttl: 255, payload: &payload });
                    }
                    Flight::Frame(frame) => rig.input(Input::Neighbor { link: LINK, frame: &frame }),
                    Flight::Peer { src, payload } => rig.input(Input::Peer { link: LINK, src, payload: &payload }),
                    Flight::Installed(slot) => rig.input(Input::Installed(slot)),
                    Flight::Removed(slot) => rig.input(Input::Removed(slot)),
                    Flight::Held(id) => rig.input(Input::Held { id, result: Ok(()) }),
                    Flight::Released(id) => rig.input(Input::Released { id, result: Ok(()) }),
                }
                self.settle();
            }
            for rig in &mut self.rigs {
                rig.run_to(self.now);
            }
            self.settle();
        }
        self.now = until;
        self.rigs.iter_mut().for_each(|r| r.now = until);
    }

    pub(super) fn command(&mut self, node: usize, id: u64, command: Command) {
        self.rigs[node].command(id, command);
        self.settle();
    }

    pub(super) fn roles(&self) -> Vec<Role> {
        self.rigs.iter().map(Rig::role).collect()
    }

    /// What `node` did since `from` that begins with one of `prefixes`.
    pub(super) fn did(&self, node: usize, from: Instant, prefixes: &[&str]) -> Vec<(Instant, String)> {
        let wanted = |(t, i, w): &&(Instant, usize, String)| {
            *i == node && *t >= from && (prefixes.is_empty() || prefixes.iter().any(|p| w.starts_with(p)))
        };
        self.log.iter().filter(wanted).map(|(t, _, w)| (*t, w.clone())).collect()
    }

    /// When `node` first did `what`, since `from`.
    pub(super) fn when(&self, node: usize, from: Instant, what: &str) -> Instant {
        let found = self.did(node, from, &[what]);
        found.first().unwrap_or_else(|| panic!("n{} never did {what}: {:?}", node + 1, self.did(node, from, &[]))).0
    }
}
