//! The elector on etcd, by hand.

use super::etcd::{Answer, Entry, EtcdConfig, LeaseId, Request, Watched};
use super::*;

const TTL: Duration = Duration::from_secs(5);
const L: LeaseId = LeaseId(41);

fn of(identity: &str, joint: bool) -> EtcdLease {
    let timing = Timing::etcd(TTL).expect("valid");
    EtcdLease::new(EtcdConfig { identity: identity.into(), joint, members: 1, timing, seed: None, term: Term(0) })
}

/// The same where three members can be asked.
fn of_three() -> EtcdLease {
    let timing = Timing::etcd(TTL).expect("valid");
    EtcdLease::new(EtcdConfig {
        identity: "a/boot".into(),
        joint: false,
        members: 3,
        timing,
        seed: None,
        term: Term(0),
    })
}

fn machine() -> EtcdLease {
    of("a/boot", false)
}

fn entry(holder: &str, lease: LeaseId, revision: u64) -> Option<Entry> {
    Some(Entry { holder: holder.into(), lease, revision })
}

fn take(machine: &mut EtcdLease) -> Vec<Output<Request>> {
    let aside =
        |o: &Output<Request>| matches!(o, Output::Send { request: Request::Watch(_), .. } | Output::Condition(_));
    core::iter::from_fn(|| machine.poll_output()).filter(|o| !aside(o)).collect()
}

fn sent(machine: &mut EtcdLease) -> (RequestId, Request) {
    let mut outputs = take(machine);
    match (outputs.pop(), outputs.pop()) {
        (Some(Output::Send { id, request, .. }), None) => (id, request),
        other => panic!("one request is expected, not {other:?}"),
    }
}

/// The machine is owed this answer to this request.
fn step(machine: &mut EtcdLease, want: &Request, answer: Answer, ms: u64) {
    let (id, request) = sent(machine);
    assert_eq!(&request, want);
    machine.handle_answer(id, answer, at(ms));
}

fn campaign(lease: LeaseId, over: u64) -> Request {
    Request::Campaign { holder: "a/boot".into(), lease, over }
}

/// Owner since 30 ms by a lease that was asked for at 10 ms.
fn owner() -> EtcdLease {
    let mut machine = machine();
    machine.handle_start(at(0));
    step(&mut machine, &Request::Look, Answer::Key(None, 7), 10);
    step(&mut machine, &Request::Grant(TTL), Answer::Lease(L, TTL), 20);
    step(&mut machine, &campaign(L, 0), Answer::Won(8), 30);
    let deadline = at(10) + hold_max(TTL);
    assert_eq!(take(&mut machine), [Output::Claim { term: Term(1), epoch: 8, deadline }], "counted from the grant");
    machine
}

#[test]
fn keep_alives_extend_from_before_the_request_and_a_lease_that_is_gone_closes() {
    let mut machine = owner();
    let due = at(10) + TTL / 3;
    assert_eq!(machine.poll_timeout(), Some(due));
    machine.handle_timeout(due);
    step(&mut machine, &Request::KeepAlive(L), Answer::Lease(L, TTL), 2_000);
    assert_eq!(take(&mut machine), [Output::Extend { term: Term(1), deadline: due + hold_max(TTL) }]);
    machine.handle_timeout(due + TTL / 3);
    let (id, _) = sent(&mut machine);
    machine.handle_answer(id, Answer::Lease(L, Duration::ZERO), at(3_500));
    assert_eq!(take(&mut machine)[0], Output::Close { term: Term(1), reason: CloseReason::Gone });
}

#[test]
fn an_expired_claim_is_not_extended_but_its_entry_taken_over_with_a_new_lease() {
    let mut machine = owner();
    machine.handle_timeout(at(10) + TTL / 3);
    let (id, _) = sent(&mut machine);
    machine.handle_answer(id, Answer::Lease(L, TTL), at(10) + hold_max(TTL));
    let outputs = take(&mut machine);
    assert_eq!(outputs[0], Output::Close { term: Term(1), reason: CloseReason::Expired });
    let [_, Output::Send { id, request: Request::Look, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    machine.handle_answer(*id, Answer::Key(entry("a/boot", L, 8), 9), at(5_000));
    step(&mut machine, &Request::Grant(TTL), Answer::Lease(LeaseId(42), TTL), 5_010);
    step(&mut machine, &campaign(LeaseId(42), 8), Answer::Won(10), 5_020);
    let deadline = at(5_000) + hold_max(TTL);
    assert_eq!(take(&mut machine), [Output::Claim { term: Term(2), epoch: 10, deadline }]);
}

#[test]
fn a_campaign_whose_answer_was_lost_claims_nothing_and_is_fought_again_with_a_new_lease() {
    let mut machine = machine();
    machine.handle_start(at(0));
    step(&mut machine, &Request::Look, Answer::Key(None, 7), 10);
    step(&mut machine, &Request::Grant(TTL), Answer::Lease(L, TTL), 20);
    let (id, _) = sent(&mut machine);
    machine.handle_answer(id, Answer::Failed(Failure::Lost), at(30));
    machine.handle_timeout(machine.poll_timeout().expect("a look"));
    step(&mut machine, &Request::Look, Answer::Key(entry("a/boot", L, 8), 8), 300);
    assert_eq!(machine.holding(), None);
    step(&mut machine, &Request::Grant(TTL), Answer::Lease(LeaseId(42), TTL), 310);
    step(&mut machine, &campaign(LeaseId(42), 8), Answer::Won(9), 320);
    assert_eq!(machine.holding().map(|h| h.epoch), Some(9));
}

#[test]
fn a_member_that_fails_is_not_the_cluster_and_another_one_is_asked_at_once() {
    fn conditions(machine: &mut EtcdLease) -> Vec<Output<Request>> {
        core::iter::from_fn(|| machine.poll_output()).filter(|o| !matches!(o, Output::Send { .. })).collect()
    }
    for (mut machine, patient) in [(of_three(), true), (machine(), false)] {
        machine.handle_start(at(0));
        step(&mut machine, &Request::Look, Answer::Key(entry("b/boot", LeaseId(3), 8), 8), 10);
        let _reachable = conditions(&mut machine);
        let due = machine.poll_timeout().expect("a look");
        machine.handle_timeout(due);
        let (id, _) = sent(&mut machine);
        machine.handle_answer(id, Answer::Failed(Failure::Lost), due);
        let said = Output::Condition(Condition::Unreachable);
        if !patient {
            assert_eq!(conditions(&mut machine), [said]);
            assert!(machine.poll_timeout().expect("a look") > due, "nobody else can be asked");
            continue;
        }
        let mut outputs: Vec<_> = core::iter::from_fn(|| machine.poll_output()).collect();
        let Some(Output::Send { id, request: Request::Look, .. }) = outputs.pop() else { panic!("{outputs:?}") };
        assert_eq!(outputs, [], "one member is not the cluster");
        machine.handle_answer(id, Answer::Failed(Failure::Lost), due);
        assert_eq!(conditions(&mut machine), [said]);
        machine.handle_timeout(machine.poll_timeout().filter(|at| *at > due).expect("a look, later"));
        step(&mut machine, &Request::Look, Answer::Key(entry("b/boot", LeaseId(3), 8), 8), 2_000);
        assert_eq!(conditions(&mut machine), [Output::Condition(Condition::Reachable)]);
    }
}

#[test]
fn a_lost_campaign_gives_its_lease_back_and_a_deletion_starts_the_next() {
    let mut machine = machine();
    machine.handle_start(at(0));
    step(&mut machine, &Request::Look, Answer::Key(None, 7), 10);
    step(&mut machine, &Request::Grant(TTL), Answer::Lease(L, TTL), 20);
    step(&mut machine, &campaign(L, 0), Answer::Key(entry("b/boot", LeaseId(3), 8), 8), 30);
    step(&mut machine, &Request::Revoke(L), Answer::Revoked, 40);
    assert_eq!((take(&mut machine), machine.holder()), (vec![], Some("b/boot")));
    machine.handle_watch(Watched::Deleted, at(100));
    assert_eq!(sent(&mut machine).1, Request::Grant(TTL));
}

#[test]
fn what_is_given_up_is_closed_before_it_is_revoked() {
    let mut machine = owner();
    machine.handle_stop(at(100));
    assert_eq!(take(&mut machine), [Output::Close { term: Term(1), reason: CloseReason::Stopped }]);
    machine.handle_closed(Term(1), at(120));
    step(&mut machine, &Request::Revoke(L), Answer::Revoked, 130);
    assert!(machine.is_stopped() && machine.poll_timeout().is_none());
}

#[test]
fn old_news_is_asked_about_and_another_holder_ends_the_claim() {
    let mut machine = owner();
    machine.handle_watch(Watched::Put(entry("b/boot", LeaseId(3), 5).expect("some")), at(100));
    step(&mut machine, &Request::Look, Answer::Key(entry("a/boot", L, 8), 8), 110);
    step(&mut machine, &Request::KeepAlive(L), Answer::Lease(L, TTL), 120);
    assert!(machine.holding().is_some());
    let _ = take(&mut machine);
    machine.handle_watch(Watched::Deleted, at(200));
    step(&mut machine, &Request::Look, Answer::Key(entry("b/boot", LeaseId(3), 9), 9), 210);
    assert_eq!(take(&mut machine)[0], Output::Close { term: Term(1), reason: CloseReason::Lost });
}

#[test]
fn a_server_that_grants_less_is_believed() {
    let mut machine = machine();
    machine.handle_start(at(0));
    step(&mut machine, &Request::Look, Answer::Key(None, 7), 10);
    step(&mut machine, &Request::Grant(TTL), Answer::Lease(L, ms(3_000)), 20);
    step(&mut machine, &campaign(L, 0), Answer::Won(8), 30);
    assert_eq!(machine.holding().map(|h| h.deadline), Some(at(10) + hold_max(ms(3_000))));
}

/// Revision of the share that a member writes.
const SHARE: u64 = 12;

/// A share in the entry of revision 8 is asked for.
fn share() -> Request {
    Request::Share { lease: L, over: 8 }
}

/// Found the entry of its site at 10 ms and has a share in it since 30 ms.
fn member() -> EtcdLease {
    let mut machine = of("site-1", true);
    machine.handle_start(at(0));
    step(&mut machine, &Request::Look, Answer::Key(entry("site-1", L, 8), 9), 5);
    step(&mut machine, &share(), Answer::Won(SHARE), 10);
    step(&mut machine, &Request::KeepAlive(L), Answer::Lease(L, TTL), 30);
    let deadline = at(10) + hold_max(TTL);
    assert_eq!(take(&mut machine), [Output::Claim { term: Term(1), epoch: 8, deadline }], "a proof of its own");
    machine
}

#[test]
fn who_finds_the_entry_of_its_group_joins_by_a_proof_of_its_own() {
    let mut machine = member();
    machine.handle_timeout(at(10) + TTL / 3);
    step(&mut machine, &Request::KeepAlive(L), Answer::Lease(L, TTL), 1_700);
    assert_eq!(take(&mut machine), [Output::Extend { term: Term(1), deadline: at(10) + TTL / 3 + hold_max(TTL) }]);
    // One that reads that another one of its group was faster joins it, and so does one that is told.
    let mut slower = of("site-1", true);
    slower.handle_start(at(0));
    step(&mut slower, &Request::Look, Answer::Key(None, 7), 10);
    step(&mut slower, &Request::Grant(TTL), Answer::Lease(LeaseId(42), TTL), 20);
    let over = Request::Campaign { holder: "site-1".into(), lease: LeaseId(42), over: 0 };
    step(&mut slower, &over, Answer::Key(entry("site-1", L, 8), 8), 30);
    assert_eq!(sent(&mut slower).1, share());
    let mut told = of("site-1", true);
    told.handle_start(at(0));
    step(&mut told, &Request::Look, Answer::Key(entry("site-2", LeaseId(3), 5), 7), 10);
    assert_eq!((told.holder(), told.is_certain()), (Some("site-2"), true));
    told.handle_watch(Watched::Deleted, at(20));
    let (id, _) = sent(&mut told);
    told.handle_watch(Watched::Put(entry("site-1", L, 8).expect("some")), at(30));
    told.handle_answer(id, Answer::Lease(LeaseId(44), TTL), at(40));
    assert_eq!(sent(&mut told).1, share());
}

#[test]
fn a_share_in_a_lease_that_ended_or_became_another_ones_is_none() {
    for (lease, ttl) in [(L, Duration::ZERO), (LeaseId(43), TTL)] {
        let mut machine = of("site-1", true);
        machine.handle_start(at(0));
        step(&mut machine, &Request::Look, Answer::Key(entry("site-1", L, 8), 9), 5);
        step(&mut machine, &share(), Answer::Won(SHARE), 10);
        let (id, _) = sent(&mut machine);
        machine.handle_answer(id, Answer::Lease(lease, ttl), at(20));
        assert_eq!(machine.holding(), None, "{lease:?} {ttl:?}");
    }
    let mut late = of("site-1", true);
    late.handle_start(at(0));
    step(&mut late, &Request::Look, Answer::Key(entry("site-1", L, 8), 9), 5);
    step(&mut late, &share(), Answer::Won(SHARE), 10);
    let (id, _) = sent(&mut late);
    late.handle_answer(id, Answer::Lease(L, TTL), at(10) + hold_max(TTL));
    assert_eq!(late.holding(), None, "its time was over before the answer came");
}

#[test]
fn who_may_not_own_any_more_uses_its_share_to_the_end_and_ends_nothing_for_others() {
    let mut machine = member();
    machine.handle_standing(Standing::Barred, at(100));
    let end = at(10) + hold_max(TTL);
    while let Some(due) = machine.poll_timeout().filter(|due| *due < end) {
        machine.handle_timeout(due);
        assert_eq!(take(&mut machine), [], "{due:?}");
    }
    machine.handle_timeout(end);
    let outputs = take(&mut machine);
    assert_eq!(outputs[0], Output::Close { term: Term(1), reason: CloseReason::Expired });
    assert!(matches!(&outputs[1..], [Output::Send { request: Request::Look, .. }]), "{outputs:?}");
    // Told otherwise in time, it goes on.
    let mut again = member();
    again.handle_standing(Standing::Barred, at(100));
    again.handle_timeout(at(10) + TTL / 3);
    again.handle_standing(Standing::Fit, at(2_000));
    assert_eq!(sent(&mut again).1, Request::KeepAlive(L));
    // Told that it may have what is free, it asks in the same step.
    let mut free = of("site-1", true);
    free.handle_standing(Standing::Barred, at(0));
    free.handle_start(at(0));
    step(&mut free, &Request::Look, Answer::Key(None, 7), 10);
    assert_eq!(take(&mut free), []);
    free.handle_standing(Standing::Fit, at(500));
    assert_eq!(sent(&mut free).1, Request::Grant(TTL));
}

#[test]
fn a_share_is_only_had_in_the_entry_that_was_found() {
    let mut machine = of("site-1", true);
    machine.handle_start(at(0));
    step(&mut machine, &Request::Look, Answer::Key(entry("site-1", L, 8), 9), 5);
    // Another node of the site took it over meanwhile.
    step(&mut machine, &share(), Answer::Key(entry("site-1", LeaseId(43), 11), 11), 10);
    step(&mut machine, &Request::Share { lease: LeaseId(43), over: 11 }, Answer::NoLease, 20);
    assert_eq!((machine.holding(), take(&mut machine)), (None, vec![]), "a lease that is over");
    // The watch tells of another entry while the share is written: it is none in that one.
    let mut late = of("site-1", true);
    late.handle_start(at(0));
    step(&mut late, &Request::Look, Answer::Key(entry("site-1", L, 8), 9), 5);
    let (id, _) = sent(&mut late);
    late.handle_watch(Watched::Put(entry("site-1", LeaseId(43), 11).expect("some")), at(8));
    late.handle_answer(id, Answer::Won(SHARE), at(10));
    assert_eq!(sent(&mut late).1, Request::Share { lease: LeaseId(43), over: 11 });
}

/// A member that was told to hand over, and has closed.
fn leaving() -> EtcdLease {
    let mut machine = member();
    machine.handle_standing(Standing::Leaving, at(100));
    assert_eq!(take(&mut machine), [Output::Close { term: Term(1), reason: CloseReason::HandedOver }]);
    machine.handle_closed(Term(1), at(110));
    machine
}

#[test]
fn who_hands_over_closes_leaves_and_frees_what_nobody_shares() {
    let mut last = leaving();
    step(&mut last, &Request::Leave(SHARE), Answer::Revoked, 120);
    step(&mut last, &Request::Free(8), Answer::Won(14), 130);
    assert_eq!((last.holder(), last.is_certain()), (None, true), "said at once");
    step(&mut last, &Request::Revoke(L), Answer::Revoked, 140);
    let look = last.poll_timeout().expect("a look");
    last.handle_timeout(look);
    step(&mut last, &Request::Look, Answer::Key(None, 14), 3_000);
    assert_eq!(take(&mut last), [], "it does not ask for it");
    // Another node of the site has a share: the entry stays, and so does its lease.
    let mut first = leaving();
    step(&mut first, &Request::Leave(SHARE), Answer::Revoked, 120);
    step(&mut first, &Request::Free(8), Answer::Key(entry("site-1", L, 8), 14), 130);
    assert_eq!((take(&mut first), first.holder()), (vec![], Some("site-1")));
    // Told otherwise it comes back, by a share and a proof of its own again.
    first.handle_standing(Standing::Fit, at(200));
    step(&mut first, &share(), Answer::Won(15), 210);
    step(&mut first, &Request::KeepAlive(L), Answer::Lease(L, TTL), 220);
    assert_eq!(first.holding().map(|h| (h.term, h.epoch)), Some((Term(2), 8)));
    // A stop is the same.
    let mut stops = member();
    stops.handle_stop(at(100));
    assert_eq!(take(&mut stops), [Output::Close { term: Term(1), reason: CloseReason::Stopped }]);
    stops.handle_closed(Term(1), at(110));
    step(&mut stops, &Request::Leave(SHARE), Answer::Revoked, 120);
    step(&mut stops, &Request::Free(8), Answer::Key(entry("site-1", L, 8), 14), 130);
    assert_eq!((take(&mut stops), stops.is_stopped()), (vec![], true));
}

#[test]
fn nothing_is_left_before_it_is_closed_and_what_is_left_is_finished_before_anything_else() {
    let mut machine = member();
    machine.handle_timeout(at(10) + TTL / 3);
    let (id, _) = sent(&mut machine);
    machine.handle_standing(Standing::Leaving, at(1_680));
    let _close = take(&mut machine);
    machine.handle_answer(id, Answer::Lease(L, TTL), at(1_690));
    assert_eq!((take(&mut machine), machine.holding()), (vec![], None), "a proof that comes now extends nothing");
    machine.handle_standing(Standing::Fit, at(1_700));
    assert_eq!(take(&mut machine), [], "told otherwise, it is still closing");
    machine.handle_closed(Term(1), at(1_710));
    step(&mut machine, &Request::Leave(SHARE), Answer::Revoked, 1_720);
    step(&mut machine, &Request::Free(8), Answer::Won(14), 1_730);
    step(&mut machine, &Request::Revoke(L), Answer::Revoked, 1_740);
    assert_eq!(sent(&mut machine).1, Request::Grant(TTL), "then it asks like anybody");
    // The node that wins what it may not have any more frees it.
    let mut won = of("site-1", true);
    won.handle_start(at(0));
    step(&mut won, &Request::Look, Answer::Key(None, 7), 10);
    step(&mut won, &Request::Grant(TTL), Answer::Lease(L, TTL), 20);
    let (id, _) = sent(&mut won);
    won.handle_standing(Standing::Leaving, at(25));
    won.handle_answer(id, Answer::Won(8), at(30));
    step(&mut won, &Request::Leave(8), Answer::Revoked, 40);
    step(&mut won, &Request::Free(8), Answer::Won(10), 50);
    assert_eq!(won.holding(), None);
}

#[test]
fn a_departure_that_is_not_answered_is_tried_again_until_the_lease_is_over() {
    let mut machine = leaving();
    let mut now = at(110);
    let mut asked = 0;
    let end = at(110) + TTL;
    while now < end {
        for output in take(&mut machine) {
            let Output::Send { id, request: Request::Leave(SHARE), .. } = output else { panic!("{output:?}") };
            asked += 1;
            machine.handle_answer(id, Answer::Failed(Failure::Lost), now);
        }
        let due = machine.poll_timeout().expect("another try");
        assert!(due > now, "not at once, where nobody else can be asked");
        now = due;
        machine.handle_timeout(now);
    }
    assert!(asked > 5, "{asked}");
    let outputs = take(&mut machine);
    assert!(matches!(&outputs[..], [Output::Send { request: Request::Look, .. }]), "{outputs:?}");
}
