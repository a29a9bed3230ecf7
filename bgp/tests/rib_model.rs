//! The queue of a session against a reference model: a neighbor that decodes every byte and keeps what it was told, through random
//! announcements, withdrawals, policies, drains, refreshes, sessions, and budgets down to a few octets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::time::Duration;

use bascule_bgp::config::{ExportAction, ExportPolicy, ExportRule, NextHopMode, RouteAttributes};
use bascule_bgp::io::Route;
use bascule_bgp::rib::{Batch, OutQueue, Rib, SessionFacts, policy};
use bascule_bgp::time::Instant;
use bascule_bgp::wire::{Attributes, DecodeContext, Family, FamilySet, Framer, Message, NextHop, RouteRefresh, Update};
use ipnet::IpNet;
use proptest::prelude::*;

const VIPS: [&str; 3] = ["api", "web", "dns"];
const PREFIXES: u8 = 12;

/// One step of a run.
#[derive(Clone, Debug)]
enum Op {
    Announce { prefix: u8, vip: usize, draining: bool },
    Withdraw { prefix: u8 },
    Policy { which: usize },
    Drain,
    Refresh { family: Family },
    OpenGate,
    NewSession { facts: usize, enhanced: bool },
    Write { budget: usize, max_message: usize },
    Retire,
}

fn op() -> impl Strategy<Value = Op> {
    let budget = prop_oneof![0_usize..200, 200_usize..5_000, Just(65_536)];
    prop_oneof![
        10 => (0..PREFIXES, 0..VIPS.len(), prop::bool::weighted(0.2))
            .prop_map(|(prefix, vip, draining)| Op::Announce { prefix, vip, draining }),
        6 => (0..PREFIXES).prop_map(|prefix| Op::Withdraw { prefix }),
        2 => (0..policies().len()).prop_map(|which| Op::Policy { which }),
        3 => prop::sample::select(&Family::ALL[..]).prop_map(|family| Op::Refresh { family }),
        12 => (budget, prop::sample::select(vec![4096_usize, 65_535]))
            .prop_map(|(budget, max_message)| Op::Write { budget, max_message }),
        2 => Just(Op::OpenGate),
        1 => (0..all_facts().len(), any::<bool>()).prop_map(|(facts, enhanced)| Op::NewSession { facts, enhanced }),
        // Rare: nothing undoes it.
        1 => prop::bool::weighted(0.2).prop_map(|drain| if drain { Op::Drain } else { Op::OpenGate }),
        1 => prop::bool::weighted(0.1).prop_map(|retire| if retire { Op::Retire } else { Op::OpenGate }),
    ]
}

fn prefix(index: u8) -> IpNet {
    let text = match index % 3 {
        0 => format!("10.9.0.{index}/32"),
        1 => format!("2001:db8:9::{index}/128"),
        _ => format!("10.{index}.0.0/{}", 12 + index),
    };
    text.parse::<IpNet>().expect("a prefix").trunc()
}

fn policies() -> Vec<ExportPolicy> {
    let action = |med, communities: &[u32]| ExportAction {
        attributes: RouteAttributes {
            med,
            communities: communities.to_vec(),
            large_communities: vec![[65001, 1, 2]],
            ..RouteAttributes::default()
        },
        next_hop: NextHopMode::Address { v4: Some([10, 0, 0, 11].into()), v6: None },
        ..ExportAction::default()
    };
    let rule = |vips: &[&str], action| ExportRule {
        vips: vips.iter().map(|vip| (*vip).to_owned()).collect(),
        prefixes: Default::default(),
        action,
    };
    let deny = ExportAction { deny: true, ..ExportAction::default() };
    vec![
        ExportPolicy::default(),
        ExportPolicy { default: action(Some(5), &[1, 2]), rules: vec![rule(&["web"], action(None, &[3]))] },
        ExportPolicy { default: action(Some(5), &[1, 2]), rules: vec![rule(&["api", "web"], deny.clone())] },
        ExportPolicy { default: deny, rules: vec![rule(&["dns"], action(Some(9), &[0xffff_0000]))] },
        // Longer than most budgets: one message at a time.
        ExportPolicy { default: action(None, &(0..500).collect::<Vec<_>>()), rules: vec![] },
    ]
}

fn all_facts() -> Vec<SessionFacts> {
    let both: FamilySet = Family::ALL.into_iter().collect();
    let over_v6 = SessionFacts {
        own_as: 4_200_000_001,
        internal: false,
        four_octet_as: true,
        families: both,
        local: "2001:db8::11".parse().expect("an address"),
        remote: "2001:db8::1".parse().expect("an address"),
        link_local: Some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x11)),
    };
    let over_v4 = SessionFacts {
        own_as: 65001,
        local: "10.0.0.11".parse().expect("an address"),
        remote: "10.0.0.1".parse().expect("an address"),
        link_local: None,
        ..over_v6.clone()
    };
    vec![
        SessionFacts { families: FamilySet::EMPTY.with(Family::Ipv6), ..over_v6.clone() },
        SessionFacts { four_octet_as: false, ..over_v4.clone() },
        SessionFacts { internal: true, ..over_v4 },
        over_v6,
    ]
}

type Held = BTreeMap<IpNet, (Attributes, NextHop)>;

/// A neighbor that follows RFC 4724 and RFC 7313 and keeps everything.
#[derive(Default)]
struct Neighbor {
    holds: Held,
    ended: BTreeSet<Family>,
    /// Families between BoRR and EoRR, with what was not announced again since.
    stale: BTreeMap<Family, BTreeSet<IpNet>>,
}

/// What one write said.
#[derive(Default)]
struct Heard {
    announced: usize,
    withdrawn: usize,
    updates: usize,
    marks: usize,
    ended: Vec<Family>,
    messages: usize,
    /// Announcements of what the neighbor held just like that.
    repeated: usize,
}

impl Neighbor {
    fn hear(&mut self, bytes: &[u8], facts: &SessionFacts, max_message: usize) -> Heard {
        let mut heard = Heard::default();
        let context = DecodeContext {
            four_octet_as: facts.four_octet_as,
            families: facts.families,
            ibgp: facts.internal,
            enhanced_refresh: true,
        };
        let mut framer = Framer::new();
        framer.push(bytes);
        while let Some(frame) = framer.next(max_message).expect("a message of a length that was agreed to") {
            heard.messages += 1;
            match Message::decode(&frame, &context).expect("a message without an error") {
                Message::Update(update) => {
                    heard.updates += 1;
                    assert_eq!(update.errors, [], "nothing to complain of");
                    match update.end_of_rib {
                        Some(family) => {
                            assert!(self.ended.insert(family), "End-of-RIB of {family:?} twice");
                            heard.ended.push(family);
                        }
                        None => self.hear_routes(*update, facts, &mut heard),
                    }
                }
                Message::RouteRefresh(mark) => self.hear_mark(mark, &mut heard),
                other => panic!("not of a queue: {other:?}"),
            }
        }
        heard
    }

    fn hear_routes(&mut self, update: Update, facts: &SessionFacts, heard: &mut Heard) {
        let mut announced: Vec<(IpNet, NextHop)> = Vec::new();
        for prefix in &update.announced_v4 {
            let next_hop = update.next_hop.expect("NEXT_HOP beside prefixes in the body");
            announced.push((IpNet::V4(*prefix), NextHop::V4(next_hop)));
        }
        if let Some(reach) = update.mp_reach {
            announced.extend(reach.prefixes.into_iter().map(|prefix| (prefix, reach.next_hop)));
        }
        let unreach = update.mp_unreach.into_iter().flat_map(|unreach| unreach.prefixes);
        let withdrawn: Vec<_> = update.withdrawn_v4.iter().copied().map(IpNet::V4).chain(unreach).collect();
        assert!(announced.is_empty() != withdrawn.is_empty(), "one kind of thing per message");
        let families: BTreeSet<_> = announced.iter().map(|(p, _)| p).chain(&withdrawn).map(Family::of).collect();
        assert_eq!(families.len(), 1, "one family per message");
        assert!(families.iter().all(|family| facts.families.contains(*family)), "only negotiated families");
        heard.announced += announced.len();
        heard.withdrawn += withdrawn.len();
        for prefix in withdrawn {
            assert!(self.holds.remove(&prefix).is_some(), "{prefix} was withdrawn and never announced");
            self.fresh(&prefix);
        }
        for (prefix, next_hop) in announced {
            let route = (update.attributes.clone(), next_hop);
            heard.repeated += usize::from(self.holds.insert(prefix, route.clone()) == Some(route));
            self.fresh(&prefix);
        }
    }

    fn fresh(&mut self, prefix: &IpNet) {
        for stale in self.stale.values_mut() {
            stale.remove(prefix);
        }
    }

    fn hear_mark(&mut self, mark: RouteRefresh, heard: &mut Heard) {
        heard.marks += 1;
        let family = mark.family().expect("one of ours");
        match mark.subtype {
            RouteRefresh::BEGIN => {
                assert!(self.ended.contains(&family), "no BoRR before End-of-RIB (RFC 7313 section 4)");
                let stale = self.holds.keys().filter(|prefix| Family::of(prefix) == family).copied().collect();
                assert!(self.stale.insert(family, stale).is_none(), "BoRR inside of a refresh");
            }
            RouteRefresh::END => {
                for prefix in self.stale.remove(&family).expect("EoRR after BoRR") {
                    self.holds.remove(&prefix);
                }
            }
            other => panic!("subtype {other}"),
        }
    }
}

/// Both ends, and what ought to be.
struct Run {
    rib: Rib,
    queue: OutQueue,
    neighbor: Neighbor,
    facts: SessionFacts,
    policy: ExportPolicy,
    wishes: BTreeMap<IpNet, (usize, bool)>,
    draining: bool,
    retired: bool,
    gate_open: bool,
    /// A refresh may still repeat what the neighbor has.
    refreshing: bool,
    now: Instant,
}

impl Run {
    fn new() -> Self {
        let (facts, policy) = (all_facts().remove(3), ExportPolicy::default());
        let mut rib = Rib::new();
        let queue = OutQueue::full_table(rib.group(&facts, &policy), true);
        Self {
            rib,
            queue,
            neighbor: Neighbor::default(),
            facts,
            policy,
            wishes: BTreeMap::new(),
            draining: false,
            retired: false,
            gate_open: false,
            refreshing: false,
            now: Instant::ZERO,
        }
    }

    fn step(&mut self, op: &Op) {
        self.now = self.now + Duration::from_millis(1);
        let now = self.now;
        match op {
            Op::Announce { prefix: index, vip, draining } => {
                let prefix = prefix(*index);
                self.wishes.insert(prefix, (*vip, *draining));
                let route = Route { prefix, vip: VIPS[*vip].to_owned(), draining: *draining, since: now };
                if let Some(prefix) = self.rib.announce(&route) {
                    self.queue.changed(&self.rib, prefix, now);
                }
            }
            Op::Withdraw { prefix: index } => {
                self.wishes.remove(&prefix(*index));
                if let Some(prefix) = self.rib.withdraw(prefix(*index)) {
                    self.queue.changed(&self.rib, prefix, now);
                }
            }
            Op::Policy { which } => {
                self.policy = policies().swap_remove(*which);
                let group = self.rib.group(&self.facts, &self.policy);
                self.queue.set_group(&self.rib, group, now);
            }
            Op::Drain => {
                self.draining = true;
                if self.rib.drain() {
                    self.queue.reconsider(&self.rib, now);
                }
            }
            Op::Refresh { family } => {
                self.queue.refresh(*family);
                self.refreshing = true;
            }
            Op::OpenGate => {
                self.queue.open_gate();
                self.gate_open = true;
            }
            Op::NewSession { facts, enhanced } => {
                self.facts = all_facts().swap_remove(*facts);
                self.queue = OutQueue::full_table(self.rib.group(&self.facts, &self.policy), *enhanced);
                self.neighbor = Neighbor::default();
                (self.retired, self.gate_open, self.refreshing) = (false, false, false);
            }
            Op::Write { budget, max_message } => drop(self.write(*budget, *max_message)),
            Op::Retire => {
                self.queue.retire(now);
                self.retired = true;
            }
        }
    }

    fn write(&mut self, budget: usize, max_message: usize) -> Batch {
        let mut out = vec![0xee; 3];
        let batch = self.queue.next(&self.rib, budget, max_message, &mut out);
        assert_eq!(out[..3], [0xee; 3], "what is in the buffer stays");
        let heard = self.neighbor.hear(&out[3..], &self.facts, max_message);

        assert!(out.len() - 3 <= budget || heard.messages == 1, "more than one message beyond the budget");
        assert!(heard.messages > 0 || !batch.more, "nothing was written and there is more");
        let counted = (batch.announced, batch.withdrawn, batch.updates, batch.marks, &batch.end_of_rib);
        assert_eq!(counted, (heard.announced, heard.withdrawn, heard.updates, heard.marks, &heard.ended));
        assert_eq!(batch.more, !self.queue.is_idle());
        assert!(heard.ended.is_empty() || self.gate_open, "End-of-RIB through a closed gate");
        assert!(heard.repeated == 0 || self.refreshing, "said again without being asked");
        let told = batch.announced + batch.withdrawn;
        assert!(batch.oldest.is_none_or(|oldest| told > 0 && oldest <= self.now));
        assert!(batch.withdrawn == 0 || batch.oldest.is_some(), "a withdrawal has its time");
        self.refreshing &= batch.more;

        let advertised: Held = self
            .queue
            .advertised()
            .map(|route| (route.prefix, (route.exported.attributes.clone(), route.exported.next_hop)))
            .collect();
        assert_eq!(advertised, self.neighbor.holds, "what we believe and what it holds");
        for family in Family::ALL {
            let held = self.neighbor.holds.keys().filter(|prefix| Family::of(prefix) == family).count();
            assert_eq!(self.queue.prefixes_out(family), held);
        }
        batch
    }

    /// What the neighbor must hold in the end, from the wishes and without the queue.
    fn expected(&self) -> Held {
        let shown = |(prefix, (vip, draining)): (&IpNet, &(usize, bool))| {
            let family = Family::of(prefix);
            let named = |rule: &&ExportRule| rule.vips.iter().any(|name| name == VIPS[*vip]);
            let action = self.policy.rules.iter().find(named).map_or(&self.policy.default, |rule| &rule.action);
            let route = policy::export(action, &self.facts, *draining || self.draining, family).ok()?;
            (self.facts.families.contains(family) && !self.retired).then_some((*prefix, route))
        };
        self.wishes.iter().filter_map(shown).collect()
    }

    fn settle(&mut self, budget: usize) {
        self.step(&Op::OpenGate);
        let mut rounds = 0;
        while self.write(budget, 4096).more {
            rounds += 1;
            assert!(rounds < 1_000, "it never ends");
        }
        assert_eq!(self.neighbor.holds, self.expected());
        assert_eq!(self.queue.depth(&self.rib), 0);
        assert_eq!(self.write(budget, 4096), Batch::default(), "silence after quiet");
        if self.retired {
            return;
        }
        assert_eq!(self.neighbor.ended, self.facts.families.iter().collect(), "End-of-RIB of every family");
        assert!(self.neighbor.stale.is_empty(), "every refresh has ended");
        let held: BTreeSet<_> = self.queue.held_back(&self.rib).map(|(prefix, _)| prefix).collect();
        let told: BTreeSet<_> = self.neighbor.holds.keys().copied().collect();
        assert!(held.is_disjoint(&told));
        assert_eq!(held.len() + told.len(), self.wishes.len(), "announced, or a reason why not");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    #[test]
    fn the_neighbor_holds_what_is_wanted(
        ops in prop::collection::vec(op(), 1..80),
        budget in prop_oneof![1_usize..300, Just(65_536)],
    ) {
        let mut run = Run::new();
        ops.iter().for_each(|op| run.step(op));
        run.settle(budget);
    }
}
