//! Owner, Backups and a third node exchange messages over a perfect wire.

use super::*;

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 9, 0, last])
}

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn outputs(machine: &mut Handover) -> Vec<Output> {
    core::iter::from_fn(|| machine.poll_output()).collect()
}

fn sent(machine: &mut Handover) -> Message {
    match outputs(machine).pop() {
        Some(Output::Send(_, message)) => message,
        other => panic!("expected a message, got {other:?}"),
    }
}

fn machine(node: &str) -> Handover {
    Handover::new(51, node.into())
}

#[test]
fn best_offer_is_granted_and_claims() {
    let (mut owner, mut b2, mut b3) = (machine("n1"), machine("n2"), machine("n3"));
    owner.start(Wanted::Best, 7, at(0));
    let query = sent(&mut owner);
    for (backup, addr, priority) in [(&mut b2, ip(2), 50), (&mut b3, ip(3), 158)] {
        backup.handle_message(ip(1), &query, Some(priority), false, 100 + u64::from(priority), at(1));
        owner.handle_message(addr, &sent(backup), None, true, 0, at(2));
    }
    assert_eq!(owner.poll_timeout(), Some(at(22)));
    owner.handle_timeout(at(22));
    let out = outputs(&mut owner);
    assert_eq!(out[0], Output::Granted(ip(3)), "armed before the grant leaves");
    let Output::Send(Some(to), grant) = &out[1] else { panic!("{out:?}") };
    assert_eq!(*to, ip(3));
    b3.handle_message(ip(1), grant, Some(158), false, 1, at(23));
    assert_eq!(outputs(&mut b3), vec![Output::Claim { granter: ip(1), until: at(1) + TAKE }]);
    b3.handle_message(ip(1), grant, Some(158), false, 1, at(24));
    assert_eq!(outputs(&mut b3), vec![], "a replayed grant is worth nothing");
}

#[test]
fn stale_or_foreign_grants_are_ignored() {
    let mut backup = machine("n2");
    let query = Message { kind: Kind::Query, vrid: 51, priority: 0, nonce_a: 7, nonce_b: 0, text: "n1".into() };
    backup.handle_message(ip(1), &query, Some(200), false, 42, at(0));
    let _ = outputs(&mut backup);
    let grant = Message { kind: Kind::Grant, nonce_b: 42, text: "n2".into(), ..query };
    backup.handle_message(ip(1), &Message { nonce_b: 43, ..grant.clone() }, Some(200), false, 1, at(1));
    backup.handle_message(ip(1), &Message { text: "n3".into(), ..grant.clone() }, Some(200), false, 1, at(1));
    backup.handle_message(ip(1), &grant, Some(200), false, 1, at(250));
    assert_eq!(outputs(&mut backup), vec![], "the owner may have given up the grant");
}

#[test]
fn silence_is_asked_again_then_reported() {
    let mut owner = machine("n1");
    owner.start(Wanted::Node("n9".into()), 7, at(0));
    for round in 1..=3 {
        assert!(matches!(outputs(&mut owner)[..], [Output::Send(None, _)]), "round {round}");
        owner.handle_timeout(at(round * 100));
    }
    assert_eq!(outputs(&mut owner), vec![Output::Failed(Failure::NodeSilent { node: "n9".into() })]);
    assert!(!owner.in_progress());
}

#[test]
fn sick_owner_keeps_what_only_sick_peers_want() {
    let (mut owner, mut backup) = (machine("n1"), machine("n2"));
    owner.start(Wanted::Healthy, 7, at(0));
    backup.handle_message(ip(1), &sent(&mut owner), Some(60), false, 5, at(1));
    owner.handle_message(ip(2), &sent(&mut backup), None, true, 0, at(2));
    owner.handle_timeout(at(30));
    assert_eq!(outputs(&mut owner), vec![Output::Failed(Failure::NoHealthyOffer)]);
}

#[test]
fn granted_but_never_seen_is_a_failure() {
    let (mut owner, mut backup) = (machine("n1"), machine("n2"));
    owner.start(Wanted::Node("n2".into()), 7, at(0));
    backup.handle_message(ip(1), &sent(&mut owner), Some(200), false, 5, at(1));
    owner.handle_message(ip(2), &sent(&mut backup), None, true, 0, at(2));
    let _ = outputs(&mut owner);
    assert_eq!(owner.granted_to(), Some(ip(2)));
    owner.handle_timeout(at(302));
    assert_eq!(outputs(&mut owner), vec![Output::Failed(Failure::NotTaken { address: ip(2) })]);
}

#[test]
fn third_node_moves_a_group_after_a_challenge() {
    let (mut owner, mut third) = (machine("n1"), machine("n3"));
    third.ask_move("n2".into(), 9, at(0));
    owner.handle_message(ip(3), &sent(&mut third), None, true, 77, at(1));
    third.handle_message(ip(1), &sent(&mut owner), None, false, 0, at(2));
    let order = sent(&mut third);
    owner.handle_message(ip(3), &Message { nonce_b: 78, ..order.clone() }, None, true, 0, at(3));
    assert_eq!(outputs(&mut owner), vec![], "an order without our nonce is a replay");
    owner.handle_message(ip(3), &order, None, true, 0, at(3));
    assert_eq!(outputs(&mut owner), vec![Output::MoveRequested("n2".into())]);
}
