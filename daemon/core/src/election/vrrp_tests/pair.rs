//! Two machines over a wire that is perfect, late or lossy.

use super::harness::{active, at, backup, centis, config, ip, ip6, take};
use super::*;

/// Nodes 0 and 1, dual stack on request; adverts take `latency`.
struct Pair {
    nodes: [Vrrp; 2],
    /// (IPv4, IPv6) of each node.
    addresses: [(IpAddr, IpAddr); 2],
    dual: bool,
    latency: Duration,
    now: Instant,
    /// Due, receiver, source and content.
    flying: Vec<(Instant, usize, IpAddr, u8, Centis)>,
    /// From node i: false loses.
    open: [bool; 2],
    /// Every n-th advert is lost on top; 0 = none.
    lose_every: u32,
    sent: u32,
    log: Vec<(Instant, usize, Output)>,
}

impl Pair {
    fn new(nodes: [Vrrp; 2]) -> Self {
        Self {
            nodes,
            addresses: [(ip(1), ip6(1)), (ip(2), ip6(2))],
            dual: false,
            latency: Duration::from_micros(100),
            now: Instant::ZERO,
            flying: Vec::new(),
            open: [true; 2],
            lose_every: 0,
            sent: 0,
            log: Vec::new(),
        }
    }

    fn settle(&mut self) {
        for from in 0..2 {
            for output in take(&mut self.nodes[from]) {
                self.log.push((self.now, from, output));
                let Output::SendAdvert { priority, interval } = output else { continue };
                self.sent += 1;
                let lost = self.lose_every > 0 && self.sent.is_multiple_of(self.lose_every);
                if !self.open[from] || lost {
                    continue;
                }
                let (v4, v6) = self.addresses[from];
                let sources = if self.dual { vec![v4, v6] } else { vec![v4] };
                for source in sources {
                    self.flying.push((self.now + self.latency, 1 - from, source, priority, interval));
                }
            }
        }
    }

    /// Everything up to `until`, in order of time; arrivals before expiries, as the contract asks.
    fn run(&mut self, until: Instant) {
        self.settle();
        loop {
            let timer = self.nodes.iter().filter_map(Vrrp::poll_timeout).min();
            let arrival = self.flying.iter().map(|f| f.0).min();
            let Some(next) = timer.into_iter().chain(arrival).min().filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            // In order of sending: both families of one advert keep theirs.
            while let Some(i) = self.flying.iter().position(|f| f.0 <= self.now) {
                let (_, to, source, priority, interval) = self.flying.remove(i);
                let own = if source.is_ipv4() { self.addresses[to].0 } else { self.addresses[to].1 };
                self.nodes[to].handle_advert(Heard { source, own, priority, interval }, self.now);
                self.settle();
            }
            for i in 0..2 {
                self.nodes[i].handle_timeout(self.now);
            }
            self.settle();
        }
        self.now = until;
    }

    fn roles(&self) -> [Role; 2] {
        [self.nodes[0].role(), self.nodes[1].role()]
    }

    fn transitions(&self) -> Vec<(usize, Role, Reason)> {
        let role = |(_, i, o): &(Instant, usize, Output)| match o {
            Output::Role { to, reason, .. } => Some((*i, *to, *reason)),
            _ => None,
        };
        self.log.iter().filter_map(role).collect()
    }
}

const ONE: [Role; 2] = [Role::Active, Role::Backup];

#[test]
fn pair_start_elects_the_higher_priority_once() {
    for latency_us in [1, 100, 5_000, 40_000] {
        let mut pair = Pair::new([backup(config(254)), backup(config(206))]);
        pair.latency = Duration::from_micros(latency_us);
        pair.run(at(5_000));
        // A wire later than the difference of the skews shows two for a moment: the lower one gives way.
        assert_eq!(pair.roles(), ONE, "{latency_us} us");
        assert!(pair.transitions().len() <= 3, "{latency_us} us: {:?}", pair.transitions());
    }
}

#[test]
fn pair_of_equal_priorities_settles_on_the_higher_address() {
    for dual in [false, true] {
        let mut pair = Pair::new([active(config(200)).0, active(config(200)).0]);
        pair.now = at(322);
        pair.dual = dual;
        // Higher in IPv4, lower in IPv6: each would send the other home.
        pair.addresses = [(ip(2), ip6(1)), (ip(1), ip6(2))];
        pair.run(at(5_000));
        assert_eq!(pair.roles(), ONE, "dual stack: {dual}");
        assert_eq!(pair.transitions(), [(1, Role::Backup, Reason::HigherPriority)], "dual stack: {dual}");
    }
}

#[test]
fn pair_release_moves_within_skew() {
    let mut pair = Pair::new([backup(config(254)), backup(config(206))]);
    pair.run(at(1_000));
    pair.nodes[0].stop(Reason::Stopped, true);
    pair.run(at(1_021));
    assert_eq!(pair.roles(), [Role::Initialize, Role::Active]);
    assert_eq!(pair.transitions().last(), Some(&(1, Role::Active, Reason::PeerReleased)));
}

#[test]
fn pair_silence_moves_within_the_active_down_interval_and_after_the_fence() {
    let mut pair = Pair::new([backup(config(254)), backup(config(206))]);
    pair.run(at(1_000));
    let last = pair.log.iter().rev().find(|(_, i, o)| *i == 0 && matches!(o, Output::SendAdvert { .. })).map(|l| l.0);
    let closes = pair.nodes[0].fence_deadline().expect("fenced");
    // Frozen: it neither sends nor expires anything.
    pair.nodes[0] = Vrrp::new(config(254));
    pair.run(at(2_000));
    let took = pair.log.iter().find(|(_, i, o)| *i == 1 && matches!(o, Output::Role { to: Role::Active, .. }));
    let took = took.expect("taken over").0;
    assert_eq!(took, last.expect("sent") + pair.latency + pair.nodes[1].active_down_interval());
    assert!(took.since(closes) >= Duration::from_millis(25), "closed {closes:?}, taken {took:?}");
}

#[test]
fn pair_one_way_loss_ends_with_one_stable_owner() {
    for (dual, preempt) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut pair = Pair::new([backup(config(254)), backup(VrrpConfig { preempt, ..config(206) })]);
        pair.nodes[0].reconfigure(VrrpConfig { preempt, ..config(254) }, at(0));
        pair.dual = dual;
        pair.run(at(1_000));
        pair.open[0] = false;
        pair.run(at(20_000));
        let case = format!("dual {dual}, preempt {preempt}: {:?}", pair.transitions());
        assert_eq!(pair.roles(), [Role::Backup, Role::Active], "{case}");
        let both =
            |to, i| pair.log.iter().find(|(_, n, o)| *n == i && matches!(o, Output::Role { to: t, .. } if *t == to));
        let (second, yielded) = (
            pair.log.iter().find(|(_, n, o)| *n == 1 && matches!(o, Output::Role { to: Role::Active, .. })),
            both(Role::Backup, 0),
        );
        let two_owners = yielded.expect("yields").0.since(second.expect("takes over").0);
        assert!(two_owners <= Duration::from_millis(300), "{two_owners:?} {case}");
    }
}

#[test]
fn pair_partition_has_one_owner_each_and_one_after_it() {
    for dual in [false, true] {
        let mut pair = Pair::new([backup(config(254)), backup(config(206))]);
        pair.dual = dual;
        pair.run(at(1_000));
        pair.open = [false; 2];
        pair.run(at(3_000));
        assert_eq!(pair.roles(), [Role::Active, Role::Active]);
        pair.open = [true; 2];
        // At most one interval to the first advert that is delivered again.
        pair.run(at(3_101));
        assert_eq!(pair.roles(), ONE, "dual {dual}");
        assert_eq!(pair.transitions().last(), Some(&(1, Role::Backup, Reason::HigherPriority)));
    }
}

#[test]
fn pair_with_every_third_advert_lost_never_changes_hands() {
    let mut pair = Pair::new([backup(config(254)), backup(config(206))]);
    pair.run(at(1_000));
    pair.lose_every = 3;
    let before = pair.transitions().len();
    pair.run(at(60_000));
    assert_eq!((pair.roles(), pair.transitions().len()), (ONE, before));
}

#[test]
fn pair_longer_interval_is_learned_without_a_takeover_even_when_its_first_advert_is_lost() {
    for lost in [false, true] {
        let mut pair = Pair::new([backup(config(254)), backup(config(206))]);
        pair.run(at(1_000));
        pair.open[0] = !lost;
        pair.nodes[0].reconfigure(VrrpConfig { interval: centis(100), ..config(254) }, at(1_000));
        pair.run(at(1_050));
        pair.open[0] = true;
        pair.run(at(30_000));
        assert_eq!(pair.roles(), ONE, "lost {lost}: {:?}", pair.transitions());
        assert_eq!(pair.nodes[1].active_down_interval(), Duration::from_nanos(3_195_312_500), "learned");
        assert!(pair.transitions().len() == 1, "{:?}", pair.transitions());
    }
}
