//! Which relay of a site speaks for it: of those that are heard, the first by name.
//!
//! Relays beat to all nodes of their site every second. One that does not lead begins when it has heard no relay of a better name for
//! [`HOLD`], and one that leads stops as soon as it hears one. So a relay that comes back is waited for with nobody leading for up to
//! [`HOLD`], rather than with two: a gap moves nothing, while two that write as one site would be taken for an accident (`state`).
//! A network that splits a site has two leaders for as long; both stop exporting then, which moves nothing either.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::time::Instant;

/// How often a relay beats.
pub const BEAT: Duration = Duration::from_secs(1);
/// A relay is believed for so long after its last beat: three beats.
pub const HOLD: Duration = Duration::from_secs(3);

/// What a relay last said.
#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Instant,
    leads: bool,
}

/// The choice, as one node of the site sees it.
#[derive(Clone, Debug)]
pub struct Lead {
    /// This node's relay.
    me: Option<String>,
    /// There is no other one to wait for.
    alone: bool,
    since: Instant,
    heard: BTreeMap<String, Heard>,
}

impl Lead {
    /// `me`: the relay of this node, if it is one, of `relays`.
    pub fn new(me: Option<String>, relays: &[String], now: Instant) -> Self {
        let alone = me.as_ref().is_some_and(|me| relays.iter().all(|relay| relay == me));
        Self { me, alone, since: now, heard: BTreeMap::new() }
    }

    /// Other relays of the site.
    pub fn handle_config(&mut self, relays: &[String]) {
        self.alone = self.me.as_ref().is_some_and(|me| relays.iter().all(|relay| relay == me));
        self.heard.retain(|relay, _| relays.contains(relay));
    }

    /// A relay of the site beat.
    pub fn handle_beat(&mut self, relay: &str, leads: bool, now: Instant) {
        let _before = self.heard.insert(relay.to_owned(), Heard { at: now, leads });
    }

    /// Does the relay of this node speak for the site?
    pub fn leads(&self, now: Instant) -> bool {
        let Some(me) = &self.me else { return false };
        let better = |(relay, heard): (&String, &Heard)| relay < me && now.since(heard.at) < HOLD;
        (self.alone || now.since(self.since) >= HOLD) && !self.heard.iter().any(better)
    }

    /// Whose word counts here: that of the first by name who says that it leads.
    pub fn leader(&self, now: Instant) -> Option<&str> {
        if self.leads(now) {
            return self.me.as_deref();
        }
        let lives = |(_, heard): &(&String, &Heard)| heard.leads && now.since(heard.at) < HOLD;
        self.heard.iter().find(lives).map(|(relay, _)| relay.as_str())
    }

    /// Relays that are heard now, this node's among them.
    pub fn heard(&self, now: Instant) -> impl Iterator<Item = &str> {
        let others = self.heard.iter().filter(move |(_, heard)| now.since(heard.at) < HOLD);
        self.me.as_deref().into_iter().chain(others.map(|(relay, _)| relay.as_str()))
    }

    /// When the answer may be another one without a word from anybody.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let ends = self.heard.values().map(|heard| heard.at + HOLD).chain([self.since + HOLD]);
        ends.filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn relays() -> Vec<String> {
        ["a", "b", "c"].map(str::to_owned).to_vec()
    }

    #[test]
    fn the_first_by_name_of_those_heard_leads() {
        let mut lead = Lead::new(Some("b".to_owned()), &relays(), at(0));
        assert!(!lead.leads(at(2_999)), "others are listened for first");
        assert!(lead.leads(at(3_000)), "nobody better is there");
        lead.handle_beat("c", false, at(3_100));
        assert!(lead.leads(at(3_200)), "c comes after b");
        lead.handle_beat("a", false, at(3_300));
        assert!(!lead.leads(at(3_300)), "a is better, even before it leads");
        assert_eq!(lead.leader(at(3_300)), None);
        assert!(!lead.leads(at(6_299)) && lead.leads(at(6_300)), "a is gone");
        assert_eq!(lead.leader(at(6_300)), Some("b"));
    }

    #[test]
    fn a_relay_without_others_waits_for_nobody() {
        assert!(Lead::new(Some("a".to_owned()), &["a".to_owned()], at(0)).leads(at(0)));
        assert!(!Lead::new(None, &["a".to_owned()], at(0)).leads(at(60_000)), "a node that is no relay never leads");
    }

    #[test]
    fn the_word_of_a_leader_counts_for_three_beats() {
        let mut lead = Lead::new(None, &relays(), at(0));
        lead.handle_beat("b", true, at(0));
        lead.handle_beat("c", true, at(0));
        assert_eq!(lead.leader(at(2_999)), Some("b"), "of two that say so, the first by name");
        assert_eq!(lead.poll_timeout(at(0)), Some(at(3_000)));
        lead.handle_beat("c", true, at(2_500));
        assert_eq!(lead.leader(at(3_000)), Some("c"));
        assert_eq!(lead.heard(at(3_000)).collect::<Vec<_>>(), ["c"]);
        assert_eq!(lead.leader(at(5_500)), None);
    }
}
