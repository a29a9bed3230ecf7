//! Relays that all hear another site: whose word counts, and what becomes of it when one of them is gone.

use super::*;

const UP: Fact = Fact::Session { site: THERE, up: true };
const DOWN: Fact = Fact::Session { site: THERE, up: false };
/// Of three relays a leads.
const ALL: [(&str, bool); 3] = [("a", true), ("b", false), ("c", false)];

fn aged(ready: u16, age: u64) -> Fact {
    let Fact::Summary { site, service, summary, .. } = fact(ready) else { panic!("it is one") };
    Fact::Summary { site, service, summary, age: Duration::from_millis(age) }
}

fn sessions(node: &Node) -> Vec<(&str, bool)> {
    node.join.sessions(THERE).collect()
}

/// A node that hears three relays, of which `with` have sessions.
fn hearing(with: &[&str]) -> Node {
    let mut node = Node::new(None, &["a", "b", "c"]);
    node.settled();
    node.fact(Source::Relay("a"), DOWN);
    node.run(100, &ALL);
    for relay in with {
        node.fact(Source::Relay(relay), UP);
        node.fact(Source::Relay(relay), fact(4));
    }
    node.done.clear();
    node
}

#[test]
fn the_word_of_the_leading_relay_counts_then_by_name_and_only_with_a_session() {
    let mut node = hearing(&["c"]);
    assert_eq!(sessions(&node), [("c", true)], "a leads and hears nobody");
    node.fact(Source::Relay("b"), UP);
    assert_eq!(sessions(&node), [("b", true), ("c", false)]);
    node.fact(Source::Relay("c"), fact(0));
    assert!(node.share(THERE) > 0.4, "c is not asked");
    node.fact(Source::Relay("a"), UP);
    assert_eq!(sessions(&node), [("a", true), ("b", false), ("c", false)]);
    node.fact(Source::Relay("b"), fact(0));
    assert!(node.share(THERE) > 0.4, "nor is b");
    node.fact(Source::Relay("a"), fact(0));
    assert_eq!(node.share(THERE), 0.0);
    assert!(!node.done.iter().any(|a| matches!(a, Action::Report(Report::Session { .. }))), "one session is as good");
}

/// In the step in which it is known, at every node: killed, stopped, or silent; and with sessions at fewer relays than there are.
#[test]
fn the_death_of_the_leading_relay_leaves_no_gap_of_facts() {
    for (with, heir) in [(&["a", "b"][..], "b"), (&["a", "c"], "c"), (&["a", "b", "c"], "b")] {
        for way in ["gone", "stops", "silent"] {
            let mut node = hearing(with);
            // What happens while a is dead already and nobody knows comes by the others.
            node.run(100, &ALL);
            node.fact(Source::Relay(heir), fact(0));
            assert!(node.share(THERE) > 0.4, "a's word counts yet");
            let rest = &ALL[1..];
            match way {
                "gone" => node.join.handle_gone("a", at(node.now)),
                "stops" => node.join.handle_beat("a", Beat { stops: true, ..Beat::default() }, at(node.now)),
                _ => node.run(2_900, rest),
            }
            node.take();
            if way == "silent" {
                assert!(node.share(THERE) > 0.4 && node.join.leader() == Some("a"), "three beats");
                node.run(100, rest);
            }
            assert_eq!(sessions(&node)[0], (heir, true), "{way}, nobody leads yet");
            assert_eq!((node.share(THERE), node.verdict(THERE)), (0.0, Some(Verdict::NotReady)), "{way}, {with:?}");
            assert!(node.join.session(THERE));
            let lost = |a: &Action| matches!(a, Action::Report(Report::Session { up: false, .. }));
            assert!(!node.done.iter().any(lost), "{way}: {:?}", node.done);
        }
    }
}

#[test]
fn a_death_by_which_nothing_is_news_moves_nothing_for_an_hour() {
    let mut node = hearing(&["a", "b"]);
    node.join.handle_gone("a", at(node.now));
    node.take();
    for _ in 0..360 {
        node.run(10_000, &[("b", true), ("c", false)]);
        node.fact(Source::Relay("b"), Fact::Confirmed { site: THERE, age: Duration::from_millis(300) });
        assert!(node.join.age(THERE, at(node.now)).is_some_and(|age| age < Duration::from_secs(1)));
    }
    assert!(!node.done.iter().any(|a| matches!(a, Action::Table { .. })), "{:?}", node.done);
}

/// What relays said meanwhile waits in its sockets, before the beat by which they are heard again.
#[test]
fn what_waited_while_a_node_stood_still_is_neither_lost_nor_young() {
    let mut node = hearing(&["a", "b"]);
    node.run(100, &ALL);
    node.now += 8_000;
    node.fact(Source::Relay("a"), fact(0));
    assert_eq!(node.join.leader(), None, "nobody was heard for as long as a relay is believed");
    node.run(1_200, &ALL);
    // As of before that: it is confirmed as what it is.
    node.fact(Source::Relay("a"), Fact::Confirmed { site: THERE, age: Duration::from_millis(8_500) });
    node.fact(Source::Relay("a"), UP);
    assert_eq!((sessions(&node), node.share(THERE)), (vec![("a", true)], 0.0));
    let age = |node: &Node| node.join.age(THERE, at(node.now)).expect("it is known").as_millis();
    assert_eq!(age(&node), 8_500, "and it may have waited all the time");
    node.run(2_000, &ALL);
    node.fact(Source::Relay("a"), Fact::Confirmed { site: THERE, age: Duration::from_millis(300) });
    assert_eq!((age(&node), node.share(THERE)), (300, 0.0));
}

/// The end of a session that the leading relay had is a death to those who listen.
#[test]
fn another_end_that_dies_leaves_the_word_of_who_has_another_partner() {
    let mut node = hearing(&["a", "b"]);
    node.run(100, &ALL);
    node.fact(Source::Relay("b"), fact(2));
    node.fact(Source::Relay("a"), DOWN);
    assert_eq!(sessions(&node), [("b", true)]);
    assert_eq!(node.join.summary(THERE, WEB).map(|s| s.ready), Some(2));
    node.fact(Source::Relay("a"), UP);
    assert_eq!(sessions(&node), [("a", true), ("b", false)]);
    assert_eq!(node.join.summary(THERE, WEB).map(|s| s.ready), Some(2), "a has not heard it yet");
    node.fact(Source::Relay("a"), aged(2, 100));
    node.fact(Source::Relay("b"), DOWN);
    assert!(node.join.session(THERE) && !node.done.iter().any(|a| matches!(a, Action::Report(Report::Session { .. }))));
    node.fact(Source::Relay("a"), DOWN);
    assert!(!node.join.session(THERE), "the last one");
}

#[test]
fn what_is_known_later_is_not_undone_by_a_relay_that_has_not_heard_it() {
    let mut node = hearing(&["a", "b"]);
    node.run(5_000, &ALL);
    node.fact(Source::Relay("a"), fact(0));
    node.join.handle_gone("a", at(node.now));
    node.take();
    assert_eq!((sessions(&node), node.share(THERE)), (vec![("b", true)], 0.0));
    // What b holds is still so as of before that.
    node.run(200, &ALL[1..]);
    node.fact(Source::Relay("b"), Fact::Confirmed { site: THERE, age: Duration::from_millis(400) });
    assert_eq!(node.share(THERE), 0.0);
    // And as of later: it has come back.
    node.run(1_000, &ALL[1..]);
    node.fact(Source::Relay("b"), Fact::Confirmed { site: THERE, age: Duration::from_millis(400) });
    assert_eq!(node.verdict(THERE), Some(Verdict::Normal));
    // A snapshot says when it was written; what is the same is not older for that.
    node.fact(Source::Relay("b"), aged(4, 3_600_000));
    assert!(node.join.age(THERE, at(node.now)).is_some_and(|age| age < Duration::from_secs(1)));
}

/// A relay of the other site stood still, leads there again, and writes what it saw before that: so old it says itself.
#[test]
fn what_a_writer_saw_before_it_stood_still_does_not_undo_what_another_one_said_since() {
    let mut node = hearing(&["a", "b"]);
    node.run(30_000, &ALL);
    node.fact(Source::Relay("a"), fact(2));
    node.fact(Source::Relay("a"), aged(0, 25_000));
    assert_eq!(node.join.summary(THERE, WEB).map(|s| s.ready), Some(2), "that was before");
    // It sees what there is.
    node.fact(Source::Relay("a"), aged(2, 0));
    assert_eq!(node.join.summary(THERE, WEB).map(|s| s.ready), Some(2));
    // Or says that it is still so.
    node.fact(Source::Relay("a"), aged(0, 25_000));
    node.run(10_000, &ALL);
    node.fact(Source::Relay("a"), Fact::Confirmed { site: THERE, age: Duration::from_millis(300) });
    assert_eq!(node.join.summary(THERE, WEB).map(|s| s.ready), Some(0));
    // What only came by a slower way is news.
    node.fact(Source::Relay("a"), aged(4, 2_000));
    assert_eq!(node.join.summary(THERE, WEB).map(|s| s.ready), Some(4));
}

#[test]
fn a_relay_that_returns_takes_the_word_back_when_it_has_a_session() {
    let mut node = hearing(&["a", "b"]);
    node.join.handle_gone("a", at(node.now));
    node.run(20_000, &[("b", true)]);
    node.fact(Source::Relay("b"), fact(2));
    let waits = Beat { waits: true, tells: true, ..Beat::default() };
    node.join.handle_beat("a", waits, at(node.now));
    node.take();
    node.fact(Source::Relay("a"), UP);
    assert_eq!(sessions(&node), [("a", false), ("b", true)], "b leads");
    node.fact(Source::Relay("a"), aged(2, 700));
    node.run(100, &[("a", true), ("b", false)]);
    assert_eq!((sessions(&node), node.join.leader()), (vec![("a", true), ("b", false)], Some("a")));
    assert_eq!(node.join.summary(THERE, WEB).map(|s| s.ready), Some(2));
    assert!(node.join.age(THERE, at(node.now)).is_some_and(|age| age < Duration::from_secs(1)));
}

/// Relays of before say nothing while they do not lead, not even that their sessions ended.
#[test]
fn a_relay_of_an_earlier_version_that_steps_back_has_no_word_any_more() {
    let earlier = |leads| Beat { leads, ..Beat::default() };
    let mut node = Node::new(None, &["a", "b"]);
    node.settled();
    node.join.handle_gone("a", at(node.now));
    node.join.handle_beat("b", earlier(true), at(node.now));
    node.take();
    node.fact(Source::Relay("b"), UP);
    node.fact(Source::Relay("b"), fact(4));
    assert_eq!((sessions(&node), node.join.session(THERE)), (vec![("b", true)], true));
    node.join.handle_beat("a", beat(true), at(node.now));
    node.join.handle_beat("b", earlier(false), at(node.now));
    node.take();
    assert!(sessions(&node).is_empty() && !node.join.session(THERE), "{:?}", sessions(&node));
    node.fact(Source::Relay("a"), UP);
    assert_eq!(sessions(&node), [("a", true)]);
}

#[test]
fn a_relay_that_does_not_lead_says_what_it_hears_and_neither_borrows_nor_sums_up() {
    let mut b = Node::new(Some("b"), &["a", "b"]);
    b.run(100, &[("a", true)]);
    b.done.clear();
    let order = Fact::Drained { site: THERE, number: 9, order: Some((None, 60)), age: Duration::ZERO };
    let confirmed = Fact::Confirmed { site: THERE, age: Duration::ZERO };
    for said in [UP, fact(4), confirmed, order] {
        b.fact(Source::Own, said);
        assert!(b.done.contains(&Action::Publish(said)), "{said:?}");
    }
    for kept in [
        Fact::Ask { site: THERE, service: WEB, amount: 5 },
        Fact::Loan { site: THERE, service: WEB, amount: 5 },
        Fact::Demand { service: WEB, rate: Rate(5_000) },
    ] {
        b.fact(Source::Own, kept);
        assert!(!b.done.contains(&Action::Publish(kept)), "{kept:?}");
    }
    assert_eq!(b.join.brought(WEB, at(b.now)).borrowed, 0.0);
    // Nodes take the order from whoever has a session there; from nobody else who does not lead.
    let mut node = hearing(&["b"]);
    node.fact(Source::Relay("c"), order);
    assert!(node.join.drains().is_empty());
    node.fact(Source::Relay("b"), order);
    assert_eq!(node.join.drains().len(), 1);
}
