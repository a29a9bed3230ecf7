//! Planned hand-over of one group between Bascule peers.
//!
//! Owner: asks who can take the group (Query), picks the best offer, grants it, and steps down when it sees the successor.
//! Backup: offers with a fresh nonce, and claims on a grant that carries it. A third node orders a move after a challenge.
//! Decides who gets the group and when to give up; the group carries it out.

use std::collections::VecDeque;
use std::net::IpAddr;

use core::time::Duration;

use crate::time::{Instant, TimerTable};
use crate::types::HEALTHY_MIN;
use crate::wire::peer::{Kind, Message};

/// How long offers are collected before the best is taken. A LAN answers within a millisecond; a busy node within a few.
const COLLECT: Duration = Duration::from_millis(20);
/// A lost datagram is asked for again.
const RETRY: Duration = Duration::from_millis(100);
/// Queries per attempt before it is given up.
const ATTEMPTS: u32 = 3;
/// How long a granted peer may take to be seen as Active.
const GRANT: Duration = Duration::from_millis(300);
/// A grant must be taken up within this time of our offer. Shorter than `GRANT`, which begins later: an owner that gives up the grant
/// and goes on must not meet a successor that was held up and claims after all.
const TAKE: Duration = Duration::from_millis(250);
/// How long a nonce that we gave out is good for.
const NONCE_LIFE: Duration = Duration::from_secs(2);

/// What the group owes.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Output {
    /// Sign and send; `None` as destination means every peer.
    Send(Option<IpAddr>, Message),
    /// A fresh, genuine grant arrived: claim.
    Claim {
        /// Whose grant it is.
        granter: IpAddr,
        /// Void from this time on.
        until: Instant,
    },
    /// We granted to this address: let the kernel mute our answers as soon as it announces.
    Granted(IpAddr),
    /// Nobody took it: as before.
    Failed(Failure),
    /// Another node asks, freshly proven, to move the group to this node name.
    MoveRequested(String),
}

/// Why a hand-over did not happen.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// No Bascule peer offered to take it.
    #[error("no peer offered to take the group")]
    NoOffer,
    /// The wanted node did not offer.
    #[error("node {node} did not offer to take the group")]
    NodeSilent {
        /// Its name.
        node: String,
    },
    /// Only sick peers offered and the move asked for a healthy one.
    #[error("no healthy peer offered to take the group")]
    NoHealthyOffer,
    /// The successor never became visible.
    #[error("{address} was granted the group and was not seen as Active")]
    NotTaken {
        /// Its address.
        address: IpAddr,
    },
    /// No owner answered the request to move.
    #[error("no owner answered")]
    NoOwner,
}

/// What a hand-over is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Whoever is best, sick or not (stop, drain).
    Best,
    /// Whoever is best among the healthy (a sick owner).
    Healthy,
    /// This node.
    Node(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Timer {
    Collect,
    Grant,
    Ask,
}

#[derive(Clone, Debug)]
struct Offer {
    from: IpAddr,
    node: String,
    priority: u8,
    nonce: u64,
}

#[derive(Clone, Debug)]
enum State {
    Idle,
    Collecting { nonce: u64, wanted: Wanted, attempt: u32, best: Option<Offer> },
    Granted { to: IpAddr },
    Asking { nonce: u64, target: String, attempt: u32 },
}

/// The hand-over machine of one group.
#[derive(Clone, Debug)]
pub struct Handover {
    vrid: u8,
    node: String,
    state: State,
    /// Nonces that we gave out: as a Backup in offers, as an owner in challenges.
    issued: Vec<(Kind, u64, Instant)>,
    timers: TimerTable<Timer>,
    outputs: VecDeque<Output>,
}

impl Handover {
    /// A machine at rest for the virtual router on this node.
    pub fn new(vrid: u8, node: String) -> Self {
        Self {
            vrid,
            node,
            state: State::Idle,
            issued: Vec::new(),
            timers: TimerTable::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Next thing the group owes.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Next time [`Self::handle_timeout`] must be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// True while the owner looks for or waits for a successor.
    pub fn in_progress(&self) -> bool {
        matches!(self.state, State::Collecting { .. } | State::Granted { .. })
    }

    /// The address that was granted the group and has not been seen as Active yet.
    pub fn granted_to(&self) -> Option<IpAddr> {
        match self.state {
            State::Granted { to } => Some(to),
            _ => None,
        }
    }

    /// The owner starts to look for a successor. `nonce` must be random.
    pub fn start(&mut self, wanted: Wanted, nonce: u64, now: Instant) {
        self.state = State::Collecting { nonce, wanted, attempt: 1, best: None };
        self.timers.clear();
        self.query(nonce, now);
    }

    /// Asks the owner, wherever it is, to move the group to `target`. `nonce` must be random.
    pub fn ask_move(&mut self, target: String, nonce: u64, now: Instant) {
        self.state = State::Asking { nonce, target, attempt: 1 };
        self.timers.clear();
        self.send_ask(nonce, now);
    }

    /// Forgets what is under way: the role changed for another reason, or it is complete.
    pub fn reset(&mut self) {
        self.state = State::Idle;
        self.timers.clear();
    }

    /// A genuine message of a peer about this virtual router.
    ///
    /// `offer` is our effective priority when we are a Backup that could claim now, `owner` whether we are Active;
    /// `nonce` must be random, it is given out when an answer needs one.
    pub fn handle_message(
        &mut self,
        from: IpAddr,
        message: &Message,
        offer: Option<u8>,
        owner: bool,
        nonce: u64,
        now: Instant,
    ) {
        self.issued.retain(|(_, _, at)| now.since(*at) < NONCE_LIFE);
        match message.kind {
            Kind::Query => {
                if let Some(priority) = offer {
                    self.issue(Kind::Offer, nonce, now);
                    let text = self.node.clone();
                    self.send(Some(from), Kind::Offer, priority, message.nonce_a, nonce, text);
                }
            }
            Kind::Offer => self.handle_offer(from, message, now),
            Kind::Grant => {
                if message.text != self.node {
                    return;
                }
                let until = self.redeem(Kind::Offer, message.nonce_b).map(|at| at + TAKE);
                if let Some(until) = until.filter(|until| now < *until && offer.is_some()) {
                    self.outputs.push_back(Output::Claim { granter: from, until });
                }
            }
            Kind::MoveAsk => {
                if owner {
                    self.issue(Kind::MoveChallenge, nonce, now);
                    self.send(Some(from), Kind::MoveChallenge, 0, message.nonce_a, nonce, String::new());
                }
            }
            Kind::MoveChallenge => {
                let State::Asking { nonce: asked, target, .. } = &self.state else { return };
                if *asked == message.nonce_a {
                    let target = target.clone();
                    self.send(Some(from), Kind::MoveOrder, 0, message.nonce_a, message.nonce_b, target);
                    self.reset();
                }
            }
            Kind::MoveOrder => {
                if owner && self.redeem(Kind::MoveChallenge, message.nonce_b).is_some() {
                    self.outputs.push_back(Output::MoveRequested(message.text.clone()));
                }
            }
        }
    }

    /// A deadline passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.expire(now) {
            match (timer, &mut self.state) {
                (Timer::Collect, State::Collecting { nonce, wanted, attempt, best }) => {
                    if let Some(offer) = best.take() {
                        let offer_ok = *wanted != Wanted::Healthy || offer.priority >= HEALTHY_MIN;
                        if offer_ok { self.grant(offer, now) } else { self.fail(Failure::NoHealthyOffer) }
                    } else if *attempt < ATTEMPTS {
                        *attempt += 1;
                        let nonce = *nonce;
                        self.query(nonce, now);
                    } else {
                        let failure = match wanted {
                            Wanted::Node(node) => Failure::NodeSilent { node: node.clone() },
                            Wanted::Best | Wanted::Healthy => Failure::NoOffer,
                        };
                        self.fail(failure);
                    }
                }
                (Timer::Grant, State::Granted { to }) => {
                    let failure = Failure::NotTaken { address: *to };
                    self.fail(failure);
                }
                (Timer::Ask, State::Asking { nonce, attempt, .. }) => {
                    if *attempt < ATTEMPTS {
                        *attempt += 1;
                        let nonce = *nonce;
                        self.send_ask(nonce, now);
                    } else {
                        self.fail(Failure::NoOwner);
                    }
                }
                // A timer of a state that was left: `reset` and `start` clear them, so nothing is owed.
                (Timer::Collect | Timer::Grant | Timer::Ask, _) => {}
            }
        }
    }

    fn handle_offer(&mut self, from: IpAddr, message: &Message, now: Instant) {
        let State::Collecting { nonce, wanted, attempt, best } = &mut self.state else { return };
        if *nonce != message.nonce_a {
            return;
        }
        let offer = Offer { from, node: message.text.clone(), priority: message.priority, nonce: message.nonce_b };
        match wanted {
            Wanted::Node(node) => {
                if *node == offer.node {
                    self.grant(offer, now);
                }
            }
            Wanted::Best | Wanted::Healthy => {
                if best.as_ref().is_none_or(|b| (offer.priority, offer.from) > (b.priority, b.from)) {
                    *best = Some(offer);
                }
                // The first round waits a little for a better one; a repeated round takes what comes.
                if *attempt == 1 {
                    let soon = now + COLLECT;
                    if self.timers.get(Timer::Collect).is_some_and(|at| soon < at) {
                        self.timers.set(Timer::Collect, soon);
                    }
                } else {
                    self.timers.set(Timer::Collect, now);
                }
            }
        }
    }

    fn grant(&mut self, offer: Offer, now: Instant) {
        self.state = State::Granted { to: offer.from };
        self.timers.clear();
        self.timers.set(Timer::Grant, now + GRANT);
        // The kernel must be ready to mute us before the successor can know of its luck.
        self.outputs.push_back(Output::Granted(offer.from));
        self.send(Some(offer.from), Kind::Grant, 0, 0, offer.nonce, offer.node);
    }

    fn fail(&mut self, failure: Failure) {
        self.reset();
        self.outputs.push_back(Output::Failed(failure));
    }

    fn query(&mut self, nonce: u64, now: Instant) {
        self.timers.set(Timer::Collect, now + RETRY);
        let text = self.node.clone();
        self.send(None, Kind::Query, 0, nonce, 0, text);
    }

    fn send_ask(&mut self, nonce: u64, now: Instant) {
        self.timers.set(Timer::Ask, now + RETRY);
        let text = self.node.clone();
        self.send(None, Kind::MoveAsk, 0, nonce, 0, text);
    }

    fn send(&mut self, to: Option<IpAddr>, kind: Kind, priority: u8, nonce_a: u64, nonce_b: u64, text: String) {
        let message = Message { kind, vrid: self.vrid, priority, nonce_a, nonce_b, text };
        self.outputs.push_back(Output::Send(to, message));
    }

    fn issue(&mut self, kind: Kind, nonce: u64, now: Instant) {
        // Bounded: the oldest goes first. Sixteen askers within two seconds are more than any cluster needs.
        if self.issued.len() >= 16 {
            self.issued.remove(0);
        }
        self.issued.push((kind, nonce, now));
    }

    /// A nonce is good once; when it was issued.
    fn redeem(&mut self, kind: Kind, nonce: u64) -> Option<Instant> {
        let found = self.issued.iter().position(|(k, n, _)| *k == kind && *n == nonce);
        found.map(|i| self.issued.remove(i).2)
    }
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;
