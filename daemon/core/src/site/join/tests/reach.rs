//! What others say of a site that is not reached from here, and what this site says of those that it reaches.

use super::*;
use crate::site::join::io::Away;

const THIRD: SiteId = SiteId(3);
const FOURTH: SiteId = SiteId(4);

/// Four sites, of which the first two have a service.
fn wide(relay: Option<&str>, relays: &[&str]) -> Config {
    let mut config = config(relay, relays);
    config.policy.sites.extend([THIRD, FOURTH].map(|site| (site, "us".to_owned())));
    config
}

fn says(site: SiteId, reached: bool) -> Fact {
    Fact::Reach { site, of: THERE, reached }
}

impl Node {
    /// A node at which all is well, and whose relay `a` has sessions with all sites.
    fn wide(relays: &[&str]) -> Self {
        let mut node = Self::with(wide(None, relays));
        node.settled();
        for site in [THIRD, FOURTH] {
            node.fact(Source::Relay("a"), Fact::Session { site, up: true });
        }
        node
    }

    fn path(&mut self, carriage: Carriage) {
        self.join.handle_path(THERE, path(carriage), at(self.now), at(self.now));
        self.take();
    }

    /// Neither path nor session to the second site any more.
    fn cut(&mut self) {
        self.path(Carriage::Down(Silence::In));
        self.fact(Source::Relay("a"), Fact::Session { site: THERE, up: false });
        self.done.clear();
    }

    /// So many seconds, in each of which these say so.
    fn hear(&mut self, seconds: u64, words: &[(SiteId, bool)]) {
        for _ in 0..seconds {
            words.iter().for_each(|(site, reached)| self.fact(Source::Relay("a"), says(*site, *reached)));
            self.run(1000, &[("a", true)]);
        }
    }

    fn others(&self) -> Vec<(SiteId, bool)> {
        self.join.others(THERE).collect()
    }

    fn away(&self) -> Vec<Away> {
        let of = |a: &Action| match a {
            Action::Report(Report::Away { site: THERE, away }) => Some(away.clone()),
            _ => None,
        };
        self.done.iter().filter_map(of).collect()
    }
}

#[test]
fn one_that_reaches_it_is_enough_and_if_none_does_the_site_is_dead() {
    let mut node = Node::wide(&["a"]);
    node.fact(Source::Relay("a"), says(THIRD, false));
    node.run(1000, &[("a", true)]);
    assert_eq!(node.verdict(THERE), Some(Verdict::Normal), "it is reached from here");
    node.fact(Source::Relay("a"), Fact::Session { site: THIRD, up: false });
    node.fact(Source::Relay("a"), Fact::Session { site: THIRD, up: true });
    node.cut();
    node.run(1000, &[("a", true)]);
    assert_eq!((node.others(), node.verdict(THERE)), (vec![], Some(Verdict::PathDown)), "nobody says anything");
    for (word, said, verdict) in [
        (says(THIRD, false), vec![(THIRD, false)], Verdict::SiteDead),
        (says(FOURTH, true), vec![(THIRD, false), (FOURTH, true)], Verdict::PathDown),
        (says(FOURTH, false), vec![(THIRD, false), (FOURTH, false)], Verdict::SiteDead),
    ] {
        node.fact(Source::Relay("a"), word);
        // In the next slot at the latest.
        node.run(500, &[("a", true)]);
        assert_eq!((node.others(), node.verdict(THERE)), (said, Some(verdict)));
    }
    node.fact(Source::Relay("a"), Fact::Session { site: THERE, up: true });
    node.run(500, &[("a", true)]);
    assert_eq!(node.verdict(THERE), Some(Verdict::PathDown), "it lives: a relay here speaks with it");
    assert!(!node.done.iter().any(|a| matches!(a, Action::Table { .. })), "{:?}", node.done);
}

#[test]
fn a_word_counts_for_three_beats_and_while_its_session_stands() {
    let mut node = Node::wide(&["a"]);
    node.cut();
    node.fact(Source::Relay("a"), says(THIRD, false));
    node.run(29_900, &[("a", true)]);
    assert_eq!((node.others(), node.verdict(THERE)), (vec![(THIRD, false)], Some(Verdict::SiteDead)));
    node.run(700, &[("a", true)]);
    assert_eq!((node.others(), node.verdict(THERE)), (vec![], Some(Verdict::PathDown)), "nobody has said it again");
    node.hear(60, &[(THIRD, false)]);
    assert_eq!(node.verdict(THERE), Some(Verdict::SiteDead));
    node.fact(Source::Relay("a"), Fact::Session { site: THIRD, up: false });
    assert_eq!(node.others(), []);
    node.fact(Source::Relay("a"), Fact::Session { site: THIRD, up: true });
    node.run(500, &[("a", true)]);
    assert_eq!(
        (node.others(), node.verdict(THERE)),
        (vec![], Some(Verdict::PathDown)),
        "what it says now is not known"
    );
}

#[test]
fn what_a_site_says_of_itself_of_this_one_or_of_a_stranger_is_nobody_s_evidence() {
    let mut node = Node::wide(&["a"]);
    node.fact(Source::Relay("a"), Fact::Session { site: THERE, up: true });
    let nobody = SiteId(9);
    for (site, of) in [(THERE, THERE), (nobody, THERE), (THIRD, nobody), (THIRD, HERE), (HERE, THERE)] {
        node.fact(Source::Relay("a"), Fact::Reach { site, of, reached: false });
        assert_eq!(node.others(), [], "{site} of {of}");
        assert_eq!((node.join.others(HERE).count(), node.join.others(nobody).count()), (0, 0), "{site} of {of}");
    }
    // Nor is that of a relay which is not heard.
    node.fact(Source::Relay("z"), says(THIRD, false));
    node.fact(Source::Own, says(THIRD, false));
    assert_eq!(node.others(), []);
}

#[test]
fn the_next_relay_s_word_counts_in_the_step_in_which_the_first_is_gone() {
    let mut node = Node::wide(&["a", "b"]);
    node.cut();
    node.join.handle_beat("b", beat(false), at(node.now));
    node.fact(Source::Relay("b"), Fact::Session { site: THIRD, up: true });
    node.fact(Source::Relay("b"), says(THIRD, true));
    node.fact(Source::Relay("a"), says(THIRD, false));
    assert_eq!(node.others(), [(THIRD, false)], "a leads");
    node.join.handle_gone("a", at(node.now));
    node.take();
    assert_eq!(node.others(), [(THIRD, true)]);
    // What a said before it was gone is not its word when it is back.
    node.join.handle_beat("a", beat(true), at(node.now));
    node.fact(Source::Relay("a"), Fact::Session { site: THIRD, up: true });
    assert_eq!((node.join.leader(), node.others()), (Some("a"), vec![]));
}

/// What the relay of a node was told to say since this was last asked.
fn told(node: &mut Node) -> Vec<Vec<(u8, bool)>> {
    let of = |a: Action| if let Action::Reach(sites) = a { Some(sites) } else { None };
    node.done.drain(..).filter_map(of).map(|sites| sites.into_iter().map(|(site, up)| (site.0, up)).collect()).collect()
}

#[test]
fn a_relay_says_what_its_site_reaches_by_path_or_session_and_what_it_hears() {
    let mut node = Node::with(wide(Some("a"), &["a"]));
    let none: [Vec<(u8, bool)>; 0] = [];
    node.path(Carriage::Unknown);
    assert_eq!(told(&mut node), none, "a path that was never heard says nothing");
    node.path(Carriage::Up);
    node.path(Carriage::Up);
    assert_eq!(told(&mut node), [vec![(2, true)]]);
    node.fact(Source::Own, Fact::Session { site: THERE, up: true });
    node.path(Carriage::Down(Silence::Out));
    assert_eq!(told(&mut node), none, "a session reaches it");
    node.fact(Source::Own, Fact::Session { site: THERE, up: false });
    assert_eq!(told(&mut node), [vec![(2, false)]]);
    node.fact(Source::Own, Fact::Session { site: THIRD, up: true });
    assert_eq!(told(&mut node), [vec![(2, false), (3, true)]]);
    node.fact(Source::Own, says(THIRD, true));
    assert!(node.done.contains(&Action::Publish(says(THIRD, true))), "{:?}", node.done);
    assert_eq!(told(&mut node), none, "hearsay is not said on");
    let mut next = wide(Some("a"), &["a"]);
    next.policy.sites.remove(&THERE);
    node.join.handle_config(next, at(node.now));
    node.take();
    assert_eq!(told(&mut node), [vec![(3, true)]]);

    let mut node = Node::wide(&["a"]);
    node.cut();
    assert_eq!(told(&mut node), none, "a node that is no relay tells nobody");
}

#[test]
fn a_broken_way_and_a_death_are_reported_once_each() {
    let mut node = Node::wide(&["a"]);
    node.cut();
    node.hear(19, &[(THIRD, true), (FOURTH, false)]);
    assert_eq!(node.away(), [], "for so long a session may outlive its other end");
    node.hear(60, &[(THIRD, true), (FOURTH, false)]);
    assert_eq!(node.away(), [Away::Asymmetric(vec![THIRD])]);
    node.done.clear();
    node.fact(Source::Relay("a"), says(THIRD, false));
    node.hear(60, &[(THIRD, false), (FOURTH, false)]);
    assert_eq!(node.away(), [Away::Dead(vec![THIRD, FOURTH])]);
    node.done.clear();
    node.path(Carriage::Up);
    node.hear(60, &[(THIRD, true), (FOURTH, true)]);
    assert_eq!(node.away(), [Away::Over]);
    // A site dies, and the sessions of others with it last for a while.
    node.done.clear();
    node.cut();
    node.hear(14, &[(THIRD, true), (FOURTH, true)]);
    node.hear(4, &[(THIRD, false), (FOURTH, true)]);
    node.hear(60, &[(THIRD, false), (FOURTH, false)]);
    assert_eq!(node.away(), [Away::Dead(vec![THIRD, FOURTH])]);
}
