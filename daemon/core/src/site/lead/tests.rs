use super::*;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn relays() -> Vec<String> {
    ["a", "b", "c"].map(str::to_owned).to_vec()
}

fn relay(name: &str, now: u64) -> Lead {
    Lead::new(Some(name.to_owned()), &relays(), at(now))
}

const LEADS: Beat = Beat { leads: true, waits: false, stops: false, tells: true };
const STANDS_BY: Beat = Beat { leads: false, waits: false, stops: false, tells: true };
const WAITS: Beat = Beat { leads: false, waits: true, stops: false, tells: true };
const STOPS: Beat = Beat { leads: false, waits: false, stops: true, tells: false };

#[test]
fn the_first_by_name_of_those_heard_leads() {
    let mut lead = relay("b", 0);
    lead.handle_expire(at(2_999));
    assert_eq!((lead.leads(), lead.says()), (false, WAITS), "others are listened for first");
    lead.handle_expire(at(3_000));
    assert_eq!((lead.leads(), lead.says()), (true, LEADS), "nobody better is there");
    lead.handle_beat("c", STANDS_BY, at(3_100));
    assert!(lead.leads(), "c comes after b");
    lead.handle_beat("a", STANDS_BY, at(3_300));
    assert!(!lead.leads(), "a is better, even before it leads");
    assert_eq!((lead.leader(), lead.says()), (None, STANDS_BY));
    lead.handle_expire(at(6_299));
    assert!(!lead.leads());
    lead.handle_expire(at(6_300));
    assert_eq!((lead.leads(), lead.leader()), (true, Some("b")), "a is gone");
    assert_eq!(lead.gone(), Gone { silent: 2, ..Gone::default() });
}

#[test]
fn a_relay_without_others_waits_for_nobody() {
    let alone = ["a".to_owned()];
    assert!(Lead::new(Some("a".to_owned()), &alone, at(0)).leads());
    let mut node = Lead::new(None, &alone, at(0));
    node.handle_expire(at(60_000));
    assert!(!node.leads(), "a node that is no relay never leads");
}

#[test]
fn the_word_of_a_leader_counts_for_three_beats() {
    let mut lead = Lead::new(None, &relays(), at(0));
    lead.handle_beat("b", LEADS, at(0));
    lead.handle_beat("c", LEADS, at(0));
    lead.handle_expire(at(2_999));
    assert_eq!(lead.leader(), Some("b"), "of two that say so, the first by name");
    assert_eq!(lead.poll_timeout(at(0)), Some(at(3_000)));
    lead.handle_beat("c", LEADS, at(2_999));
    lead.handle_expire(at(3_000));
    assert_eq!(lead.leader(), Some("c"));
    assert_eq!(lead.heard().collect::<Vec<_>>(), ["c"]);
    lead.handle_expire(at(5_999));
    assert_eq!(lead.leader(), None);
}

/// Two relays that have stood for long, of which a leads.
fn settled() -> Lead {
    let mut b = relay("b", 0);
    for second in 1..20 {
        b.handle_beat("a", LEADS, at(second * 1_000));
    }
    assert_eq!((b.leads(), b.leader()), (false, Some("a")));
    b
}

#[test]
fn the_next_one_leads_in_the_step_in_which_the_first_is_known_to_be_gone() {
    for (gone, counted) in
        [(None, Gone { closed: 1, ..Gone::default() }), (Some(STOPS), Gone { stopped: 1, ..Gone::default() })]
    {
        let mut b = settled();
        match gone {
            Some(last) => b.handle_beat("a", last, at(19_010)),
            None => b.handle_gone("a", at(19_010)),
        }
        assert_eq!((b.leads(), b.leader(), b.gone()), (true, Some("b"), counted));
        // What is known already is no news.
        b.handle_gone("a", at(20_000));
        b.handle_beat("a", STOPS, at(20_000));
        assert_eq!((b.leads(), b.gone()), (true, counted));
        // It lives after all: its word is enough, as ever.
        b.handle_beat("a", LEADS, at(20_100));
        assert_eq!((b.leads(), b.leader()), (false, Some("a")));
    }
    let mut b = settled();
    b.handle_expire(at(21_999));
    assert!(!b.leads(), "silence alone takes three beats");
    b.handle_expire(at(22_000));
    assert!(b.leads());
}

#[test]
fn the_third_waits_for_the_second() {
    let mut c = relay("c", 0);
    for second in 1..20 {
        c.handle_beat("a", LEADS, at(second * 1_000));
        c.handle_beat("b", STANDS_BY, at(second * 1_000));
    }
    c.handle_gone("a", at(19_010));
    assert_eq!((c.leads(), c.leader()), (false, None));
    c.handle_beat("b", LEADS, at(19_020));
    assert_eq!(c.leader(), Some("b"));
}

#[test]
fn one_that_comes_back_is_waited_for_by_nobody_and_takes_over_on_a_word() {
    let (mut a, mut b) = (relay("a", 20_000), settled());
    b.handle_gone("a", at(19_010));
    for ms in (20_000..23_000).step_by(100) {
        b.handle_beat("a", a.says(), at(ms));
        a.handle_beat("b", b.says(), at(ms));
        assert!(!a.leads() && b.leads(), "b goes on while a listens, {ms}");
    }
    a.handle_expire(at(23_000));
    assert_eq!(a.says(), STANDS_BY, "it waits no more, and does not lead while b says that it does");
    b.handle_beat("a", a.says(), at(23_001));
    assert_eq!(b.says(), STANDS_BY);
    a.handle_beat("b", b.says(), at(23_002));
    assert_eq!((a.says(), a.leader()), (LEADS, Some("a")));
    // Whatever b believes later, a goes on.
    a.handle_beat("b", LEADS, at(23_500));
    assert!(a.leads());
}

#[test]
fn one_that_is_not_answered_leads_after_another_three_beats() {
    let mut a = relay("a", 0);
    for ms in (0..6_000).step_by(100) {
        a.handle_beat("b", LEADS, at(ms));
        assert!(!a.leads(), "{ms}");
    }
    a.handle_beat("b", LEADS, at(6_000));
    assert!(a.leads(), "b does not hear it");
}

#[test]
fn a_relay_of_an_earlier_version_that_comes_back_is_stepped_back_from_at_once() {
    let mut b = settled();
    b.handle_gone("a", at(19_010));
    // It says nothing of waiting.
    b.handle_beat("a", STANDS_BY, at(20_000));
    assert!(!b.leads());
}

#[test]
fn of_relays_that_begin_together_only_the_first_ever_leads() {
    for apart in [0, 500, 2_900] {
        let (mut a, mut b) = (relay("a", apart), relay("b", 0));
        for ms in (apart..10_000).step_by(100) {
            a.handle_beat("b", b.says(), at(ms));
            b.handle_beat("a", a.says(), at(ms));
            assert!(!b.leads(), "{ms}");
        }
        assert!(a.leads());
    }
}
