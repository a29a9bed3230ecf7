//! The elector on a Lease, by hand.

use super::kube::{Answer, KubeConfig, Object, Record, Request, Version, WallMicros, Watched};
use super::*;

fn config(identity: &str) -> KubeConfig {
    let timing = Timing::kubernetes(ms(15_000), ms(10_000), ms(2_000)).expect("kube-vip's");
    KubeConfig { identity: identity.into(), instance: format!("{identity}-boot"), timing, seed: None, term: Term(7) }
}

fn record(holder: &str, renewed: i64, transitions: u32) -> Record {
    let instance = (!holder.is_empty()).then(|| format!("{holder}-boot"));
    let (acquired, renewed) = (WallMicros(1), WallMicros(renewed));
    Record { holder: holder.into(), instance, duration: ms(15_000), acquired, renewed, transitions }
}

fn object(version: u32, record: Record) -> Object {
    Object { version: Version(version.to_string()), record }
}

fn take(machine: &mut KubeLease) -> Vec<Output<Request>> {
    core::iter::from_fn(|| machine.poll_output()).filter(|o| !is_watch(o)).collect()
}

fn is_watch(output: &Output<Request>) -> bool {
    matches!(output, Output::Send { request: Request::Watch(_), .. } | Output::Condition(_))
}

/// The one request that is owed.
fn sent(machine: &mut KubeLease) -> (RequestId, Request) {
    let mut outputs = take(machine);
    match (outputs.pop(), outputs.pop()) {
        (Some(Output::Send { id, request, .. }), None) => (id, request),
        other => panic!("one request is expected, not {other:?}"),
    }
}

fn answer(machine: &mut KubeLease, id: RequestId, answer: Answer, ms: u64) {
    machine.handle_answer(id, answer, at(ms));
}

/// Started at 0 and told at 10 ms what the server has.
fn told(has: Answer) -> KubeLease {
    let mut machine = KubeLease::new(config("a"));
    machine.handle_start(at(0));
    let (id, request) = sent(&mut machine);
    assert_eq!(request, Request::Get);
    answer(&mut machine, id, has, 10);
    machine
}

/// Carries out a write on the server: version and what was written.
fn written(request: Request, version: u32) -> Answer {
    match request {
        Request::Update { record, .. } | Request::Create(record) => Answer::Object(object(version, record)),
        Request::Get | Request::Watch(_) => panic!("no write: {request:?}"),
    }
}

/// Owner since 20 ms by a request of 10 ms.
fn owner() -> KubeLease {
    let mut machine = told(Answer::Object(object(5, record("", 1, 3))));
    let (id, request) = sent(&mut machine);
    assert!(matches!(&request, Request::Update { version, record }
        if version.0 == "5" && record.holder == "a" && record.transitions == 4));
    answer(&mut machine, id, written(request, 6), 20);
    let claim = Output::Claim { term: Term(8), epoch: 4, deadline: at(10_010) };
    assert_eq!(take(&mut machine), [claim], "counted from before the request");
    machine
}

/// The next renewal of `owner`, sent at 2,010 ms.
fn renewing() -> (KubeLease, RequestId, Request) {
    let mut machine = owner();
    assert_eq!(machine.poll_timeout(), Some(at(2_010)));
    machine.handle_timeout(at(2_010));
    let (id, request) = sent(&mut machine);
    (machine, id, request)
}

#[test]
fn renewals_extend_from_before_the_request_and_never_look_like_the_one_before() {
    let (mut machine, id, request) = renewing();
    let Request::Update { version, record } = &request else { panic!("{request:?}") };
    assert!(version.0 == "6" && record.transitions == 4);
    answer(&mut machine, id, written(request, 7), 2_500);
    assert_eq!(take(&mut machine), [Output::Extend { term: Term(8), deadline: at(12_010) }]);
    assert_eq!(machine.poll_timeout(), Some(at(4_010)), "the cadence does not drift with the answers");
    // The wall clock jumps back by an hour.
    machine.handle_wall_clock(WallMicros(-3_600_000_000), at(4_010));
    machine.handle_timeout(at(4_010));
    let (_, Request::Update { record: next, .. }) = sent(&mut machine) else { panic!("a renewal") };
    assert_eq!(machine.holder(), Some("a"));
    assert!(next.renewed > WallMicros(2_010_000), "{next:?}");
}

#[test]
fn an_expired_claim_is_not_extended_but_acquired_anew_in_a_new_term() {
    let (mut machine, id, request) = renewing();
    // The process was frozen; the answer lies in the socket and is read first.
    answer(&mut machine, id, written(request, 7), 10_010);
    let mut outputs = take(&mut machine);
    assert_eq!(outputs.remove(0), Output::Close { term: Term(8), reason: CloseReason::Expired });
    let [Output::Send { id, request: Request::Update { version, record }, .. }] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert!(version.0 == "7" && record.transitions == 5, "one more transition");
    let granted = Answer::Object(object(8, record.clone()));
    answer(&mut machine, *id, granted, 10_020);
    assert_eq!(take(&mut machine), [Output::Claim { term: Term(9), epoch: 5, deadline: at(20_010) }]);
}

#[test]
fn a_claim_whose_answer_came_too_late_is_not_made() {
    let mut machine = told(Answer::Object(object(5, record("", 1, 3))));
    let (id, request) = sent(&mut machine);
    answer(&mut machine, id, written(request, 6), 10_010);
    let (_, request) = sent(&mut machine);
    assert_eq!((request, machine.holding()), (Request::Get, None));
}

#[test]
fn a_renewal_in_doubt_that_the_record_shows_is_a_proof_from_when_it_was_sent() {
    let (mut machine, _, request) = renewing();
    let deadline = machine.poll_timeout().expect("the answer is overdue");
    assert_eq!(deadline, at(4_010));
    machine.handle_timeout(deadline);
    assert_eq!((take(&mut machine), machine.condition()), (vec![], Condition::Unreachable));
    machine.handle_timeout(at(4_260));
    let (id, look) = sent(&mut machine);
    assert_eq!(look, Request::Get);
    answer(&mut machine, id, written(request, 7), 4_300);
    let mut outputs = take(&mut machine);
    assert_eq!(outputs.remove(0), Output::Extend { term: Term(8), deadline: at(12_010) });
    assert!(
        matches!(&outputs[..], [Output::Send { request: Request::Update { version, .. }, .. }] if version.0 == "7")
    );
}

#[test]
fn a_record_of_another_ends_the_claim_and_old_news_does_not() {
    let mut machine = owner();
    machine.handle_watch(Watched::Object(object(4, record("b", 9, 3))), at(100));
    let (id, request) = sent(&mut machine);
    assert_eq!(request, Request::Get, "it asks before it believes");
    answer(&mut machine, id, Answer::Object(object(9, record("b", 9, 5))), 150);
    assert_eq!(take(&mut machine), [Output::Close { term: Term(8), reason: CloseReason::Lost }]);
    assert_eq!(machine.holder(), Some("b"));
}

#[test]
fn a_foreign_record_is_waited_for_from_when_it_was_seen_and_again_after_every_change() {
    let mut machine = told(Answer::Object(object(5, record("b", 1, 3))));
    machine.handle_watch(Watched::Object(object(6, record("b", 2, 3))), at(5_000));
    machine.handle_watch(Watched::Object(object(7, record("b", 2, 3))), at(9_000));
    while machine.poll_timeout().is_some_and(|due| due < at(20_000)) {
        let due = machine.poll_timeout().expect("some");
        machine.handle_timeout(due);
        let (id, request) = sent(&mut machine);
        assert_eq!(request, Request::Get);
        answer(&mut machine, id, Answer::Object(object(7, record("b", 2, 3))), 15_020);
    }
    assert_eq!(machine.poll_timeout(), Some(at(20_000)), "an edit that says nothing new does not count");
    machine.handle_timeout(at(20_000));
    let (_, request) = sent(&mut machine);
    assert!(matches!(request, Request::Update { version, record } if version.0 == "7" && record.transitions == 4));
}

#[test]
fn a_restarted_daemon_takes_its_own_lease_at_once_and_a_clone_waits() {
    let mut machine = told(Answer::Object(object(5, record("a", 1, 3))));
    assert!(matches!(sent(&mut machine).1, Request::Update { record, .. } if record.transitions == 4));
    let clone = Record { instance: Some("another-boot".into()), ..record("a", 1, 3) };
    let mut machine = told(Answer::Object(object(5, clone)));
    assert_eq!((take(&mut machine), machine.holding()), (vec![], None));
}

#[test]
fn an_absent_lease_is_waited_for_as_long_as_a_held_one() {
    let mut machine = told(Answer::NotFound);
    assert_eq!(take(&mut machine), []);
    let mut last = 0;
    while let Some(due) = machine.poll_timeout().filter(|due| *due < at(15_010)) {
        last = due.as_nanos() / 1_000_000 + 1;
        machine.handle_timeout(due);
        let (id, request) = sent(&mut machine);
        assert_eq!(request, Request::Get);
        answer(&mut machine, id, Answer::NotFound, last);
    }
    assert!(last > 12_000, "it looks every two seconds");
    machine.handle_timeout(at(15_010));
    assert!(matches!(sent(&mut machine).1, Request::Create(record) if record.transitions == 1));
}

#[test]
fn an_own_record_by_a_create_in_doubt_is_waited_for_like_anybodys() {
    let mut machine = told(Answer::NotFound);
    let mut now;
    let (id, create) = loop {
        now = machine.poll_timeout().expect("a look").as_nanos() / 1_000_000;
        machine.handle_timeout(at(now));
        match sent(&mut machine) {
            (id, Request::Get) => answer(&mut machine, id, Answer::NotFound, now),
            create => break create,
        }
    };
    answer(&mut machine, id, Answer::Failed(Failure::Lost), now);
    machine.handle_timeout(at(now + 250));
    let (id, _) = sent(&mut machine);
    answer(&mut machine, id, written(create, 9), now + 300);
    assert_eq!(take(&mut machine), [], "a Lease of another may have come and gone before it was done");
    assert!(machine.holding().is_none() && machine.holder() == Some("a"));
}

#[test]
fn a_holder_whose_lease_was_deleted_writes_it_again() {
    let (mut machine, id, _) = renewing();
    answer(&mut machine, id, Answer::NotFound, 2_020);
    let (id, request) = sent(&mut machine);
    assert!(matches!(&request, Request::Create(record) if record.transitions == 4));
    answer(&mut machine, id, written(request, 9), 2_040);
    assert_eq!(take(&mut machine), [Output::Extend { term: Term(8), deadline: at(12_020) }]);
}

#[test]
fn patience_that_the_server_asks_for_costs_a_holder_at_most_half_of_what_is_left() {
    let (mut machine, id, _) = renewing();
    let throttled = Answer::Failed(Failure::Throttled { retry_after: Some(ms(30_000)) });
    answer(&mut machine, id, throttled.clone(), 2_010);
    assert_eq!((machine.poll_timeout(), machine.condition()), (Some(at(6_010)), Condition::Throttled));
    let mut machine = told(throttled);
    assert_eq!(machine.poll_timeout(), Some(at(30_010)), "a candidate waits");
    machine.handle_watch(Watched::Object(object(5, record("", 1, 3))), at(100));
    assert!(take(&mut machine).is_empty() || machine.holding().is_none());
}

#[test]
fn a_holder_that_reaches_nobody_closes_at_its_deadline() {
    let (mut machine, _, _) = renewing();
    let mut closed = None;
    while let Some(due) = machine.poll_timeout().filter(|due| *due <= at(11_000)) {
        machine.handle_timeout(due);
        let close = Output::Close { term: Term(8), reason: CloseReason::Expired };
        if take(&mut machine).contains(&close) {
            assert_eq!(closed.replace(due), None);
        }
    }
    assert_eq!(closed, Some(at(10_010)));
}

#[test]
fn what_is_given_up_is_closed_before_it_is_released() {
    let mut machine = owner();
    machine.handle_stop(at(100));
    assert_eq!(take(&mut machine), [Output::Close { term: Term(8), reason: CloseReason::Stopped }]);
    machine.handle_closed(Term(7), at(110));
    assert_eq!(take(&mut machine), [], "that was another claim");
    machine.handle_closed(Term(8), at(120));
    let (id, request) = sent(&mut machine);
    let Request::Update { version, record } = &request else { panic!("{request:?}") };
    assert_eq!((&version.0[..], &record.holder[..], record.duration, record.transitions), ("6", "", ms(1_000), 4));
    assert!(!machine.is_stopped());
    answer(&mut machine, id, written(request, 7), 130);
    assert!(machine.is_stopped() && machine.poll_timeout().is_none());
}

#[test]
fn a_barred_node_releases_what_an_answer_under_way_gave_it() {
    let mut machine = told(Answer::Object(object(5, record("", 1, 3))));
    let (id, request) = sent(&mut machine);
    machine.handle_standing(Standing::Barred, at(15));
    answer(&mut machine, id, written(request, 6), 20);
    let (_, request) = sent(&mut machine);
    assert!(matches!(request, Request::Update { record, .. } if record.holder.is_empty()));
    assert_eq!(machine.holding(), None);
}

#[test]
fn a_sick_node_leaves_a_free_lease_to_others_first_and_keeps_what_it_has() {
    let mut machine = owner();
    machine.handle_standing(Standing::Sick, at(100));
    assert!(take(&mut machine).is_empty() && machine.holding().is_some());
    let mut machine = KubeLease::new(config("a"));
    machine.handle_standing(Standing::Sick, at(0));
    machine.handle_start(at(0));
    let (id, _) = sent(&mut machine);
    answer(&mut machine, id, Answer::Object(object(5, record("", 1, 3))), 10);
    machine.handle_timeout(at(2_010));
    let (id, look) = sent(&mut machine);
    assert_eq!(look, Request::Get);
    answer(&mut machine, id, Answer::Object(object(5, record("", 1, 3))), 2_020);
    assert_eq!(machine.poll_timeout(), Some(at(10) + SICK_WAIT));
    machine.handle_timeout(at(10) + SICK_WAIT);
    assert!(matches!(sent(&mut machine).1, Request::Update { .. }));
}

#[test]
fn a_stall_is_told_and_answers_that_nobody_awaits_are_not_heard() {
    let (mut machine, id, request) = renewing();
    machine.handle_timeout(at(4_100));
    assert_eq!(take(&mut machine), [Output::Stalled(ms(90))]);
    answer(&mut machine, id, written(request, 7), 4_200);
    assert_eq!(take(&mut machine), [], "the look that follows will tell");
    assert!(WIRE_MARGIN > ms(90) && hold_max(ms(15_000)) < ms(15_000));
}
