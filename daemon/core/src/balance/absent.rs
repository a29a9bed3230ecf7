//! Nodes whose daemons are not heard: do their programs forward on, or are they dead?
//!
//! Packets skip a dead node, so nothing of what it holds is found any more; and as long as a dead node is not known to be dead, packets on
//! their way to flows elsewhere are lost on it. Both mistakes cost connections, so a silent daemon (BFD) is not believed alone: endpoints of
//! the node are asked at once, by their own checks, whether the node still works. These witnesses decide in [`WITNESS_TIMEOUT`]; the checks'
//! `interval` times `fall` would be seconds.
//!
//! | state | takes new flows | packets skip it | ends by |
//! |---|---|---|---|
//! | heard | yes | no | BFD |
//! | asked | yes | no | the witnesses |
//! | vouched | no | no | BFD; all its endpoints fail their checks |
//! | dead | no | yes | BFD; the second question; [`RETURN`] |
//!
//! Who was silent is asked once more at once: a verdict that a hiccup made is taken back before it costs much. After that a node is dead
//! until BFD is back. An endpoint that passes again is no reason by itself: on a node that boots endpoints are up before the programs
//! stand, and its daemon says by BFD when they do. Only a node whose endpoints have passed for [`RETURN`] without a word of its daemon is asked
//! again.

use core::time::Duration;
use std::collections::BTreeSet;

use serde::Serialize;

use super::damping::State;
use super::io::{Action, Report};
use super::{Balancer, SETTLE};
use crate::service::{EndpointId, EndpointSpec};
use crate::time::Instant;

/// A witness that has not answered by then is silent: the shortest retransmission timeout of Linux (`TCP_RTO_MIN`, 200 ms). An endpoint that
/// answers later costs its clients retransmissions anyhow, and a lost SYN would be repeated only after 1 s (RFC 6298 section 2).
pub const WITNESS_TIMEOUT: Duration = Duration::from_millis(200);

/// An endpoint whose checks take longer than this is no witness: its silence would say nothing.
const PROMPT: Duration = Duration::from_millis(100);

/// Questions to the endpoints of one node: with one packet in a hundred lost, all four are in one of 10^8 cases.
const WITNESSES: usize = 4;

/// Endpoints of a dead node pass again for so long without its daemon: then it does not boot, or its daemon does not come, and what forwards
/// there are programs of a former run. A boot loads them in seconds, ten on a busy machine.
const RETURN: Duration = Duration::from_secs(30);

/// Questions that are open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Inquiry {
    number: u32,
    open: usize,
}

/// What is known of a node whose daemon is not heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Absence {
    /// Witnesses are asked. Nothing changes before they have answered: a table that is built now would count a dead node among those that
    /// hold flows, and forget a living one for it.
    Asked(Inquiry),
    /// An endpoint answers: the daemon is gone, the programs forward.
    Vouched,
    /// Dead: no endpoint has a check that has spoken.
    Unvouched,
    /// Dead: the endpoints fail their checks, since then.
    Failing(Instant),
    /// Dead: no witness answered, and they are asked again.
    AskedAgain(Inquiry),
    /// Dead, although endpoints pass their checks, as far as these have got; asked again then.
    Waiting(Instant),
}

/// What a node is worth, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Its daemon is heard, or there is no BFD session that says otherwise.
    Up,
    /// Its daemon is not heard, and an endpoint on it answers: it takes no new flows, its programs forward those it has.
    Vouched,
    /// Neither answers: packets skip it.
    Dead,
}

impl NodeState {
    /// The word in pages, logs and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Vouched => "vouched",
            Self::Dead => "dead",
        }
    }
}

impl Absence {
    fn state(this: Option<Self>) -> NodeState {
        match this {
            None | Some(Self::Asked(_)) => NodeState::Up,
            Some(Self::Vouched) => NodeState::Vouched,
            Some(Self::Unvouched | Self::Failing(_) | Self::AskedAgain(_) | Self::Waiting(_)) => NodeState::Dead,
        }
    }

    /// Does nobody know any better than that it is there?
    pub(super) fn is_up(self) -> bool {
        Self::state(Some(self)) == NodeState::Up
    }

    /// Are its flows out of reach?
    pub(super) fn is_dead(self) -> bool {
        Self::state(Some(self)) == NodeState::Dead
    }

    fn inquiry(&mut self) -> Option<&mut Inquiry> {
        match self {
            Self::Asked(inquiry) | Self::AskedAgain(inquiry) => Some(inquiry),
            Self::Vouched | Self::Unvouched | Self::Failing(_) | Self::Waiting(_) => None,
        }
    }
}

impl Balancer {
    /// What is known of a node, by its name, and why; the reason is empty where there is none to give.
    pub fn node_state(&self, node: &str) -> (NodeState, &'static str) {
        let absence = self.nodes.absent.get(node).copied();
        let why = match absence {
            None => "",
            Some(Absence::Asked(_)) => "its daemon is not heard, its endpoints are being asked",
            Some(Absence::Vouched) => "its daemon is not heard, its endpoints answer",
            Some(Absence::Unvouched) => "its daemon is not heard, and no check of an endpoint has spoken for it",
            Some(Absence::Failing(_)) => "its daemon is not heard, its endpoints fail their checks",
            Some(Absence::AskedAgain(_)) => "its daemon is not heard, no endpoint answered",
            Some(Absence::Waiting(_)) => {
                "its daemon is not heard, and no endpoint has answered, or none for long enough"
            }
        };
        (Absence::state(absence), why)
    }

    /// A node's daemon (by the node's name) is heard or is not. Nodes are heard until they are said not to be; this node always is.
    pub fn handle_node(&mut self, node: &str, heard: bool, now: Instant) {
        match (heard, self.nodes.absent.contains_key(node)) {
            (true, true) => self.set_absence(node, None, now),
            (false, false) => {
                let first = self.first_look(node, now);
                self.set_absence(node, Some(first), now);
            }
            (true, false) | (false, true) => {}
        }
    }

    /// The result of [`Action::Ask`]: did the witness answer in time?
    pub fn handle_witness(&mut self, number: u32, answered: bool, now: Instant) {
        let asked = self.nodes.absent.iter_mut().find_map(|(node, absence)| {
            let inquiry = absence.inquiry().filter(|inquiry| inquiry.number == number)?;
            inquiry.open = inquiry.open.saturating_sub(1);
            Some((node.clone(), inquiry.open, *absence))
        });
        self.counts.witnesses_answered += u64::from(answered);
        self.counts.witnesses_silent += u64::from(!answered);
        // The node is heard meanwhile, or another witness has answered.
        let Some((node, open, absence)) = asked else { return };
        let next = match (absence, answered) {
            (_, true) => Absence::Vouched,
            (_, false) if open > 0 => return,
            (Absence::Asked(_), false) => self.ask(&node).map_or(Absence::Waiting(now + RETURN), Absence::AskedAgain),
            (_, false) => Absence::Waiting(now + RETURN),
        };
        self.set_absence(&node, Some(next), now);
    }

    /// Checks said something new, or endpoints came or went: does it change what absent nodes are worth?
    pub(super) fn review_absent(&mut self, now: Instant) {
        for (node, absence) in self.nodes.absent.clone() {
            let next = match (absence, self.passes(&node)) {
                (Absence::Unvouched, true) => Absence::Vouched,
                // What is heard within that time is heard at once: nodes that hear it in another order must say the same.
                (Absence::Failing(since), true) if now.since(since) < SETTLE => self.first_look(&node, now),
                (Absence::Failing(_), true) => Absence::Waiting(now + RETURN),
                (kept @ Absence::Failing(_), false) if self.fails(&node) => kept,
                (kept, true) => kept,
                (_, false) => self.without_witness(&node, now),
            };
            self.set_absence(&node, Some(next), now);
        }
    }

    /// Asks again where it is time to.
    pub(super) fn expire_absent(&mut self, now: Instant) {
        for (node, absence) in self.nodes.absent.clone() {
            if matches!(absence, Absence::Waiting(at) if at <= now) {
                // Whom nobody can ask passes by checks that went on all the time.
                let next = self.ask(&node).map_or(Absence::Vouched, Absence::AskedAgain);
                self.set_absence(&node, Some(next), now);
            }
        }
    }

    /// When [`Self::expire_absent`] has something to do.
    pub(super) fn absent_timeout(&self) -> Option<Instant> {
        let waiting = |absence: &Absence| match absence {
            Absence::Waiting(at) => Some(*at),
            Absence::Asked(_) | Absence::AskedAgain(_) => None,
            Absence::Vouched | Absence::Unvouched | Absence::Failing(_) => None,
        };
        self.nodes.absent.values().filter_map(waiting).min()
    }

    fn set_absence(&mut self, node: &str, next: Option<Absence>, now: Instant) {
        let before = match next {
            Some(absence) => self.nodes.absent.insert(node.to_owned(), absence),
            None => self.nodes.absent.remove(node),
        };
        let (was, is) = (Absence::state(before), Absence::state(next));
        if was == is || !self.nodes.by_name.contains_key(node) {
            return;
        }
        self.tell_nodes();
        let why = self.node_state(node).1;
        self.room.owe(Action::Report(Report::Node { node: node.to_owned(), state: is, why }));
        for service in self.services.values_mut() {
            service.urgent |= was == NodeState::Up;
        }
        self.mark_all(now);
    }

    fn first_look(&mut self, node: &str, now: Instant) -> Absence {
        if !self.passes(node) {
            return self.without_witness(node, now);
        }
        self.ask(node).map_or(Absence::Vouched, Absence::Asked)
    }

    /// No endpoint of the node passes its check.
    fn without_witness(&self, node: &str, now: Instant) -> Absence {
        if self.fails(node) { Absence::Failing(now) } else { Absence::Unvouched }
    }

    /// Does an endpoint of the node fail its check?
    fn fails(&self, node: &str) -> bool {
        self.checked(node).any(|(_, _, state)| state == State::Unready)
    }

    /// Does an endpoint of the node pass its check, by what was heard last?
    fn passes(&self, node: &str) -> bool {
        self.checked(node).any(|(_, _, state)| matches!(state, State::Ready | State::Held(_)))
    }

    /// Endpoints of a node that have checks.
    fn checked<'a>(&'a self, node: &'a str) -> impl Iterator<Item = (EndpointId, &'a EndpointSpec, State)> {
        self.services.iter().flat_map(move |(key, service)| {
            let there = service.endpoints().filter(move |(e, _)| e.check.is_some() && e.node.as_deref() == Some(node));
            let id = |endpoint: &str| EndpointId { service: *key, endpoint: endpoint.to_owned() };
            there.map(move |(e, known)| (id(&e.name), e, known.state()))
        })
    }

    /// Asks witnesses of a node; `None`: it has none that answers fast enough to be one.
    fn ask(&mut self, node: &str) -> Option<Inquiry> {
        let took = |id: &EndpointId| self.services.get(&id.service)?.known(&id.endpoint)?.health.takes;
        let passing = self.checked(node).filter(|(_, _, state)| matches!(state, State::Ready | State::Held(_)));
        let mut prompt: Vec<(Duration, EndpointId, &EndpointSpec)> =
            passing.filter_map(|(id, spec, _)| Some((took(&id).filter(|took| *took <= PROMPT)?, id, spec))).collect();
        prompt.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        // One for each address first: endpoints of one pod fall silent together.
        let mut seen = BTreeSet::new();
        let (first, more): (Vec<_>, Vec<_>) = prompt.into_iter().partition(|(_, _, spec)| seen.insert(spec.address));
        let chosen = first.into_iter().chain(more).take(WITNESSES);
        let chosen: Vec<_> =
            chosen.filter_map(|(_, id, spec)| Some((id, spec.check.as_ref()?.probe.clone()))).collect();
        if chosen.is_empty() {
            return None;
        }
        let inquiry = Inquiry { number: self.nodes.inquiries.wrapping_add(1), open: WITNESSES };
        self.nodes.inquiries = inquiry.number;
        for (endpoint, probe) in chosen.iter().cycle().take(WITNESSES) {
            let (endpoint, probe) = (endpoint.clone(), probe.clone());
            self.room.owe(Action::Ask { inquiry: inquiry.number, endpoint, probe, timeout: WITNESS_TIMEOUT });
        }
        Some(inquiry)
    }
}
