//! Which relay of a site leads: of those that are heard, the first by name. Every relay hears other sites and writes there (ADR 0043); the one that
//! leads gives orders, sums up what clients bring, borrows and lends.
//!
//! Relays beat to all nodes of their site every second. One that is heard no more for [`HOLD`] is gone; so is, at once, one that says that it
//! stops, and one at whose address nobody serves any more. The next one by name begins in the same step.
//!
//! Contract: feed `handle_*` with a `now` that never goes back, and call [`Lead::handle_expire`] at or after [`Lead::poll_timeout`].
//!
//! A relay that begins *waits*: it listens for [`HOLD`] and says so, and one that leads goes on meanwhile. Then it says that it waits no more;
//! those of a worse name step back on that word, and it leads as soon as none of them says that it leads, or after one more [`HOLD`]. So a
//! relay that comes back is waited for with nobody leading for as long as words take, rather than with two that lend and borrow for one site.
//! A network that splits a site has two leaders for as long as it is split.

use core::time::Duration;
use std::collections::BTreeMap;

use serde::Serialize;

use crate::time::Instant;

/// How often a relay beats.
pub const BEAT: Duration = Duration::from_secs(1);
/// A relay is believed for so long after its last beat: three beats.
pub const HOLD: Duration = Duration::from_secs(3);

/// What a relay says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Beat {
    /// It leads.
    pub leads: bool,
    /// It has just begun and listens first: whoever leads goes on.
    pub waits: bool,
    /// It ends now, and this is its last word.
    pub stops: bool,
    /// It says what it hears of other sites also while another one leads. Relays of before ADR 0043 do not.
    pub tells: bool,
}

/// Relays that were heard and are not any more, since the start, by how that became known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gone {
    /// They said so.
    pub stopped: u64,
    /// Their connection ended and nobody serves at their address.
    pub closed: u64,
    /// They were silent for [`HOLD`].
    pub silent: u64,
}

/// What a relay last said.
#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Instant,
    beat: Beat,
}

/// The choice, as one node of the site sees it.
#[derive(Clone, Debug)]
pub struct Lead {
    /// This node's relay.
    me: Option<String>,
    /// There is no other one to wait for.
    alone: bool,
    since: Instant,
    /// What it says of itself.
    says: Beat,
    heard: BTreeMap<String, Heard>,
    gone: Gone,
}

impl Lead {
    /// `me`: the relay of this node, if it is one, of `relays`.
    pub fn new(me: Option<String>, relays: &[String], now: Instant) -> Self {
        let (says, heard, gone) = Default::default();
        let mut new = Self { me, alone: false, since: now, says, heard, gone };
        new.handle_config(relays, now);
        new
    }

    /// Other relays of the site.
    pub fn handle_config(&mut self, relays: &[String], now: Instant) {
        self.alone = self.me.as_ref().is_some_and(|me| relays.iter().all(|relay| relay == me));
        self.heard.retain(|relay, _| relays.contains(relay));
        self.handle_expire(now);
    }

    /// A relay of the site beat.
    pub fn handle_beat(&mut self, relay: &str, beat: Beat, now: Instant) {
        if !beat.stops {
            let _before = self.heard.insert(relay.to_owned(), Heard { at: now, beat });
        } else if self.heard.remove(relay).is_some() {
            self.gone.stopped += 1;
        }
        self.handle_expire(now);
    }

    /// Nobody serves any more where a relay of the site was heard: the other end refused a new connection.
    pub fn handle_gone(&mut self, relay: &str, now: Instant) {
        if self.heard.remove(relay).is_some() {
            self.gone.closed += 1;
        }
        self.handle_expire(now);
    }

    /// Deadlines passed.
    pub fn handle_expire(&mut self, now: Instant) {
        self.gone.silent += self.heard.extract_if(.., |_, heard| now.since(heard.at) >= HOLD).count() as u64;
        let Some(me) = &self.me else { return };
        let waits = !self.alone && now.since(self.since) < HOLD;
        // Who begins with others is young until all of them have had the same time.
        let young = now.since(self.since) < HOLD * 2;
        let leads = self.says.leads;
        let held = self.heard.iter().any(|(relay, Heard { beat, .. })| {
            if relay < me { !beat.waits || young && !leads } else { beat.leads && young && !leads }
        });
        self.says = Beat { leads: !waits && !held, waits, stops: false, tells: true };
    }

    /// Does the relay of this node speak for the site?
    pub const fn leads(&self) -> bool {
        self.says.leads
    }

    /// What the relay of this node says of itself.
    pub const fn says(&self) -> Beat {
        self.says
    }

    /// Whose word counts here: that of the first by name who says that it leads.
    pub fn leader(&self) -> Option<&str> {
        if self.says.leads {
            return self.me.as_deref();
        }
        self.heard.iter().find(|(_, heard)| heard.beat.leads).map(|(relay, _)| relay.as_str())
    }

    /// Is this relay, another one than this node's, heard?
    pub fn is_heard(&self, relay: &str) -> bool {
        self.heard.contains_key(relay)
    }

    /// Relays that are heard, this node's among them.
    pub fn heard(&self) -> impl Iterator<Item = &str> {
        self.me.as_deref().into_iter().chain(self.heard.keys().map(String::as_str))
    }

    /// Relays that are heard no more.
    pub const fn gone(&self) -> Gone {
        self.gone
    }

    /// When the answer may be another one without a word from anybody.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let ends = self.heard.values().map(|heard| heard.at + HOLD).chain([self.since + HOLD, self.since + HOLD * 2]);
        ends.filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests;
