//! What a relay says that leads, at a node that does not know yet that the one before it is gone.
//!
//! A fact is said once. Without this, a node that hears a moment later than the next relay itself that the former one is gone would miss what
//! that moment brought.

use std::collections::{BTreeMap, VecDeque};

use super::io::Fact;
use crate::site::lead::HOLD;
use crate::time::Instant;

/// Facts kept of one relay: all that 16 sites say of 512 services. What is more pushes out the oldest.
const MOST: usize = 8192;

/// Facts by relay, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Early(BTreeMap<String, VecDeque<(Instant, Fact)>>);

impl Early {
    /// Keeps a fact for [`HOLD`]: after that a relay that is silent is gone for everybody. What is said again every second is not kept.
    pub(super) fn keep(&mut self, relay: &str, fact: Fact, now: Instant) {
        if !matches!(fact, Fact::Session { .. } | Fact::Summary { .. } | Fact::Confirmed { .. }) {
            return;
        }
        let kept = self.0.entry(relay.to_owned()).or_default();
        while kept.front().is_some_and(|(at, _)| now.since(*at) >= HOLD) || kept.len() >= MOST {
            let _old = kept.pop_front();
        }
        kept.push_back((now, fact));
    }

    /// Only these relays are of interest.
    pub(super) fn retain(&mut self, wanted: impl Fn(&String) -> bool) {
        self.0.retain(|relay, _| wanted(relay));
    }

    /// The word of this relay counts from now on: what it has said, as old as it is by now. What others said is forgotten.
    pub(super) fn taken(&mut self, relay: &str, now: Instant) -> Vec<Fact> {
        let kept = core::mem::take(&mut self.0).remove(relay).unwrap_or_default();
        let kept = kept.into_iter().filter(|(at, _)| now.since(*at) < HOLD);
        kept.map(|(at, fact)| older(fact, now.since(at))).collect()
    }
}

fn older(fact: Fact, by: core::time::Duration) -> Fact {
    match fact {
        Fact::Summary { site, service, summary, age } => Fact::Summary { site, service, summary, age: age + by },
        Fact::Confirmed { site, age } => Fact::Confirmed { site, age: age + by },
        other => other,
    }
}
