//! One queue, looked at from the other end of the connection: what the decoder reads, message by message.

use core::time::Duration;

use super::*;
use crate::config::{ExportAction, ExportPolicy, ExportRule, RouteAttributes};
use crate::io::Route;
use crate::rib::SessionFacts;
use crate::wire::{DecodeContext, FamilySet, Framer, Message};

const BOTH: FamilySet = FamilySet::EMPTY.with(Family::Ipv4).with(Family::Ipv6);
const MAX: usize = 4096;
const PLENTY: usize = 65_536;

/// What a message says, without attributes.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Said {
    Announce(Vec<String>),
    Withdraw(Vec<String>),
    EndOfRib(Family),
    Begin(Family),
    End(Family),
}

fn facts() -> SessionFacts {
    SessionFacts {
        own_as: 65001,
        internal: false,
        four_octet_as: true,
        families: BOTH,
        local: "2001:db8::11".parse().unwrap(),
        remote: "2001:db8::1".parse().unwrap(),
        link_local: None,
    }
}

fn policy() -> ExportPolicy {
    let med = |med| RouteAttributes { med, ..RouteAttributes::default() };
    let next_hop = crate::config::NextHopMode::Address { v4: Some([10, 0, 0, 11].into()), v6: None };
    let action = |attributes| ExportAction { attributes, next_hop, ..ExportAction::default() };
    let rule = ExportRule { vips: vec!["odd".to_owned()], prefixes: Default::default(), action: action(med(Some(1))) };
    ExportPolicy { default: action(med(None)), rules: vec![rule] }
}

struct Bench {
    rib: Rib,
    queue: OutQueue,
}

impl Bench {
    fn new(prefixes: &[&str]) -> Self {
        Self::with(prefixes, false)
    }

    fn with(prefixes: &[&str], enhanced: bool) -> Self {
        let mut rib = Rib::new();
        for prefix in prefixes {
            assert!(rib.announce(&route(prefix, "even", 0)).is_some());
        }
        let queue = OutQueue::full_table(rib.group(&facts(), &policy()), enhanced);
        Self { rib, queue }
    }

    fn established(prefixes: &[&str], enhanced: bool) -> Self {
        let mut bench = Self::with(prefixes, enhanced);
        bench.queue.open_gate();
        let _ = bench.next(PLENTY);
        assert!(bench.queue.is_idle());
        bench
    }

    fn announce(&mut self, prefix: &str, vip: &str, at: u64) {
        if let Some(prefix) = self.rib.announce(&route(prefix, vip, at)) {
            self.queue.changed(&self.rib, prefix, second(at));
        }
    }

    fn withdraw(&mut self, prefix: &str, at: u64) {
        if let Some(prefix) = self.rib.withdraw(net(prefix)) {
            self.queue.changed(&self.rib, prefix, second(at));
        }
    }

    fn next(&mut self, budget: usize) -> (Batch, Vec<Said>) {
        let mut out = Vec::new();
        let batch = self.queue.next(&self.rib, budget, MAX, &mut out);
        (batch, read(&out))
    }

    fn said(&mut self) -> Vec<Said> {
        self.next(PLENTY).1
    }
}

fn second(at: u64) -> Instant {
    Instant::from_nanos(0) + Duration::from_secs(at)
}

fn net(prefix: &str) -> IpNet {
    prefix.parse().unwrap()
}

fn route(prefix: &str, vip: &str, at: u64) -> Route {
    Route { prefix: net(prefix), vip: vip.to_owned(), draining: false, since: second(at) }
}

fn read(bytes: &[u8]) -> Vec<Said> {
    let mut framer = Framer::new();
    framer.push(bytes);
    let context = DecodeContext { four_octet_as: true, families: BOTH, ..DecodeContext::default() };
    let mut said = Vec::new();
    while let Some(frame) = framer.next(MAX).unwrap() {
        said.push(match Message::decode(&frame, &context).unwrap() {
            Message::Update(update) => {
                let update = *update;
                assert_eq!(update.errors, []);
                let v4 = |nets: &[ipnet::Ipv4Net]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
                let v6 = |nets: Vec<IpNet>| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
                let mut announced = v4(&update.announced_v4);
                announced.extend(update.mp_reach.map_or(vec![], |reach| v6(reach.prefixes)));
                let mut withdrawn = v4(&update.withdrawn_v4);
                withdrawn.extend(update.mp_unreach.map_or(vec![], |unreach| v6(unreach.prefixes)));
                assert!(announced.is_empty() || withdrawn.is_empty(), "one kind per message");
                match update.end_of_rib {
                    Some(family) => Said::EndOfRib(family),
                    None if withdrawn.is_empty() => Said::Announce(announced),
                    None => Said::Withdraw(withdrawn),
                }
            }
            Message::RouteRefresh(mark) if mark.subtype == RouteRefresh::BEGIN => Said::Begin(mark.family().unwrap()),
            Message::RouteRefresh(mark) if mark.subtype == RouteRefresh::END => Said::End(mark.family().unwrap()),
            other => panic!("{other:?}"),
        });
    }
    said
}

fn announce(prefixes: &[&str]) -> Said {
    Said::Announce(prefixes.iter().map(ToString::to_string).collect())
}

fn withdraw(prefixes: &[&str]) -> Said {
    Said::Withdraw(prefixes.iter().map(ToString::to_string).collect())
}

const A: &str = "10.9.0.1/32";
const B: &str = "10.9.0.2/32";
const C: &str = "10.9.0.3/32";
const V6: &str = "2001:db8:9::1/128";

#[test]
fn full_table_then_end_of_rib_once_per_family() {
    let mut bench = Bench::new(&[V6, B, A]);
    assert_eq!(bench.queue.depth(&bench.rib), 3);
    let (batch, said) = bench.next(PLENTY);
    assert_eq!(said, [announce(&[A, B]), announce(&[V6])]);
    let expected = Batch { announced: 3, updates: 2, ..Batch::default() };
    assert_eq!(batch, expected, "a table is nobody's latency, and End-of-RIB waits for the gate");
    assert!(bench.queue.is_idle());

    bench.queue.open_gate();
    assert!(!bench.queue.is_idle());
    let (batch, said) = bench.next(PLENTY);
    assert_eq!(said, [Said::EndOfRib(Family::Ipv4), Said::EndOfRib(Family::Ipv6)]);
    assert_eq!(batch.end_of_rib, Family::ALL);
    bench.queue.open_gate();
    bench.announce(C, "even", 1);
    assert_eq!(bench.said(), [announce(&[C])]);
    assert_eq!(bench.queue.prefixes_out(Family::Ipv4), 3);
    assert_eq!(bench.queue.prefixes_out(Family::Ipv6), 1);
}

#[test]
fn an_empty_table_is_end_of_rib_alone() {
    let mut bench = Bench::new(&[]);
    bench.queue.open_gate();
    assert_eq!(bench.said(), [Said::EndOfRib(Family::Ipv4), Said::EndOfRib(Family::Ipv6)]);
}

#[test]
fn withdrawals_go_first_and_attribute_sets_are_packed() {
    let mut bench = Bench::established(&[A, V6], false);
    for (last, vip) in [(12, "even"), (11, "odd"), (13, "odd"), (14, "even")] {
        bench.announce(&format!("10.9.0.{last}/32"), vip, 3);
    }
    bench.withdraw(V6, 5);
    bench.withdraw(A, 4);
    let (batch, said) = bench.next(PLENTY);
    let expected = [
        withdraw(&[A]),
        withdraw(&[V6]),
        announce(&["10.9.0.12/32", "10.9.0.14/32"]),
        announce(&["10.9.0.11/32", "10.9.0.13/32"]),
    ];
    assert_eq!(said, expected);
    assert_eq!((batch.announced, batch.withdrawn, batch.updates), (4, 2, 4));
    assert_eq!(batch.oldest, Some(second(3)));
}

#[test]
fn what_was_never_sent_costs_nothing() {
    let mut bench = Bench::established(&[A], false);
    bench.announce(B, "even", 1);
    bench.withdraw(B, 2);
    bench.withdraw(A, 3);
    bench.announce(A, "even", 4);
    bench.announce(A, "odd", 5);
    bench.announce(A, "even", 6);
    bench.withdraw(C, 7);
    assert_eq!(bench.queue.depth(&bench.rib), 0);
    assert_eq!(bench.next(PLENTY), (Batch::default(), vec![]));
}

#[test]
fn a_slow_neighbor_gets_the_latest_state_once_and_its_oldest_wait_is_counted() {
    let mut bench = Bench::established(&[A], false);
    for at in 1..100 {
        bench.announce(A, if at % 2 == 1 { "odd" } else { "even" }, at);
        bench.announce(B, if at % 2 == 1 { "odd" } else { "even" }, at);
    }
    assert_eq!(bench.queue.depth(&bench.rib), 2);
    let (batch, said) = bench.next(PLENTY);
    assert_eq!(said, [announce(&[A, B])]);
    assert_eq!(batch.oldest, Some(second(1)));
    let advertised: Vec<_> = bench.queue.advertised().map(|route| route.exported.attributes.med).collect();
    assert_eq!(advertised, [Some(1), Some(1)]);
}

#[test]
fn a_small_budget_gets_on_message_by_message() {
    let mut bench = Bench::new(&[A, B, V6]);
    bench.queue.open_gate();
    let mut said = Vec::new();
    loop {
        let (batch, some) = bench.next(1);
        assert_eq!(some.len(), 1);
        said.extend(some);
        if !batch.more {
            break;
        }
    }
    let ends = [Said::EndOfRib(Family::Ipv4), Said::EndOfRib(Family::Ipv6)];
    assert_eq!(said, [announce(&[A]), announce(&[B]), ends[0].clone(), announce(&[V6]), ends[1].clone()]);
    assert!(bench.queue.is_idle());
    assert_eq!(bench.next(1).1, []);
}

#[test]
fn a_withdrawal_overtakes_a_long_table() {
    let table: Vec<String> = (0..2000).map(|i| format!("10.8.{}.{}/32", i / 250, i % 250)).collect();
    let mut bench = Bench::new(&table.iter().map(String::as_str).collect::<Vec<_>>());
    bench.queue.open_gate();
    let (batch, _) = bench.next(MAX);
    assert!(batch.more && batch.announced > 700);
    bench.withdraw(&table[0], 9);
    bench.withdraw(&table[1999], 9);
    let (batch, said) = bench.next(MAX);
    assert_eq!(said[0], withdraw(&[&table[0]]));
    assert_eq!((batch.withdrawn, batch.oldest), (1, Some(second(9))));
    while bench.next(MAX).0.more {}
    assert_eq!(bench.queue.prefixes_out(Family::Ipv4), 1998);
}

#[test]
fn s7313_4_a_refresh_is_marked_only_after_end_of_rib() {
    let mut bench = Bench::with(&[A, V6], true);
    bench.queue.refresh(Family::Ipv4);
    assert_eq!(bench.said(), [announce(&[A]), announce(&[A]), announce(&[V6])]);
    bench.queue.open_gate();
    bench.queue.refresh(Family::Ipv4);
    bench.queue.refresh(Family::Ipv4);
    let (v4, v6) = (Family::Ipv4, Family::Ipv6);
    let once = [announce(&[A]), announce(&[A]), Said::EndOfRib(v4), Said::EndOfRib(v6)];
    assert_eq!(bench.said(), once, "asked while End-of-RIB is due: as RFC 2918 does");
    bench.queue.refresh(v6);
    let (batch, said) = bench.next(PLENTY);
    assert_eq!(said, [Said::Begin(v6), announce(&[V6]), Said::End(v6)]);
    assert_eq!((batch.marks, batch.updates, batch.oldest), (2, 1, None));
}

#[test]
fn s2918_without_the_enhancement_a_refresh_has_no_marks() {
    let mut bench = Bench::established(&[A, V6], false);
    bench.queue.refresh(Family::Ipv4);
    assert_eq!(bench.said(), [announce(&[A])]);
}

#[test]
fn a_refresh_in_pieces_ends_after_its_last_piece() {
    let mut bench = Bench::established(&[A, B, C], true);
    bench.queue.refresh(Family::Ipv4);
    let mut said = bench.next(1).1;
    bench.withdraw(C, 1);
    bench.announce("10.9.0.4/32", "odd", 1);
    while !bench.queue.is_idle() {
        said.extend(bench.next(1).1);
    }
    let (first, last) = (said.first().unwrap(), said.last().unwrap());
    assert_eq!((first, last), (&Said::Begin(Family::Ipv4), &Said::End(Family::Ipv4)));
    for expected in [announce(&[A]), announce(&[B]), announce(&["10.9.0.4/32"]), withdraw(&[C])] {
        assert!(said.contains(&expected), "{expected:?} in {said:?}");
    }
}

/// Found by tests/rib_model.rs: the withdrawal made the queue forget that the refresh still owed the prefix, and EoRR without it makes the
/// neighbor drop a route that we believe it holds.
#[test]
fn s7313_4_a_withdrawal_taken_back_inside_a_refresh_is_still_owed() {
    let mut bench = Bench::established(&[A, B], true);
    bench.queue.refresh(Family::Ipv4);
    // Room for BoRR only: the walk has passed A, which is due now.
    assert_eq!(bench.next(30).1, [Said::Begin(Family::Ipv4)]);
    bench.withdraw(A, 1);
    bench.announce(A, "even", 2);
    let said = bench.said();
    assert_eq!(said, [announce(&[A]), announce(&[B]), Said::End(Family::Ipv4)]);

    // Taken back for good: the next time it comes is news, and said once.
    bench.withdraw(A, 3);
    bench.announce(A, "even", 4);
    assert_eq!(bench.said(), []);
}

#[test]
fn draining_and_policy_send_only_what_looks_different() {
    let mut bench = Bench::established(&[A, V6], false);
    bench.announce(B, "odd", 1);
    let _ = bench.said();

    let mut changed = policy();
    changed.rules[0].action.attributes.med = Some(2);
    let group = bench.rib.group(&facts(), &changed);
    bench.queue.set_group(&bench.rib, group, second(2));
    assert_eq!(bench.said(), [announce(&[B])]);

    changed.rules[0].action.deny = true;
    let group = bench.rib.group(&facts(), &changed);
    bench.queue.set_group(&bench.rib, group, second(3));
    assert_eq!(bench.said(), [withdraw(&[B])]);
    let held: Vec<_> = bench.queue.held_back(&bench.rib).collect();
    assert_eq!(held, [(net(B), NotAnnounced::Denied)]);

    assert!(bench.rib.drain());
    assert!(!bench.rib.drain());
    bench.queue.reconsider(&bench.rib, second(4));
    let (batch, said) = bench.next(PLENTY);
    assert_eq!(said, [announce(&[A]), announce(&[V6])]);
    assert_eq!(batch.oldest, Some(second(4)));
    let gshut = |route: Advertised<'_>| route.exported.attributes.communities == [0xffff_0000];
    assert!(bench.queue.advertised().all(gshut));
}

#[test]
fn a_retired_queue_only_withdraws() {
    let mut bench = Bench::established(&[A, V6], true);
    bench.announce(B, "even", 1);
    bench.queue.refresh(Family::Ipv6);
    bench.queue.retire(second(2));
    bench.announce(C, "even", 3);
    bench.queue.refresh(Family::Ipv4);
    bench.queue.open_gate();
    assert_eq!(bench.said(), [withdraw(&[A]), withdraw(&[V6])]);
    assert!(bench.queue.is_idle());
    assert_eq!(bench.queue.advertised().count(), 0);
}

#[test]
fn host_bits_do_not_make_a_second_route() {
    let mut bench = Bench::established(&[], false);
    bench.announce("10.9.1.7/24", "even", 1);
    bench.announce("10.9.1.8/24", "even", 1);
    assert_eq!(bench.said(), [announce(&["10.9.1.0/24"])]);
    bench.withdraw("10.9.1.9/24", 2);
    assert_eq!(bench.said(), [withdraw(&["10.9.1.0/24"])]);
}
