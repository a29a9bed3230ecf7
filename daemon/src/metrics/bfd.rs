//! The families of BFD.

use std::collections::BTreeSet;

use bascule_core::bfd::io::BfdEvent;
use bascule_core::bfd::status::BfdStatus;
use bascule_core::wire::bfd::{Discard, State};

use super::catalog::DIRECTIONS;
use super::register::Families;
use super::{Metrics, absent, advance};

/// Whatever has label values known beforehand exists from the start.
pub(super) fn prepare(families: &Families) {
    for direction in DIRECTIONS {
        let _exists = families.bfd_packets.with_label_values(&[direction]);
    }
    for reason in Discard::NAMES {
        let _exists = families.bfd_discards.with_label_values(&[reason]);
    }
}

/// Counts a change of state.
pub(super) fn observe(families: &Families, event: &BfdEvent) {
    families.bfd_transitions.with_label_values(&[event.peer.as_str(), event.to.as_str()]).inc();
    if let Some(late) = event.lateness {
        families.bfd_lateness.observe(late);
    }
}

/// The state as a number: the one on the wire.
fn number(state: State) -> f64 {
    match state {
        State::AdminDown => 0.0,
        State::Down => 1.0,
        State::Init => 2.0,
        State::Up => 3.0,
    }
}

impl Metrics {
    /// Sets what is a state of BFD, from a snapshot taken for this scrape; `None` when none could be had. Call it after
    /// [`Metrics::update`]: sessions that cannot be heard take `ready` back.
    pub fn update_bfd(&self, status: Option<&BfdStatus>) {
        let mut shown = self.lock();
        let f = &self.inner.families;
        let mut now = BTreeSet::new();
        if let Some(status) = status {
            if !status.errors.is_empty() {
                f.ready.set(0.0);
            }
            for peer in &status.peers {
                let name = peer.name.as_str();
                f.bfd_state.with_label_values(&[name]).set(number(peer.state));
                for state in State::ALL {
                    // Counters exist before they move.
                    let _exists = f.bfd_transitions.with_label_values(&[name, state.as_str()]);
                }
                now.insert(peer.name.clone());
            }
            for (direction, total) in DIRECTIONS.into_iter().zip([status.sent, status.received]) {
                advance(&f.bfd_packets.with_label_values(&[direction]), total);
            }
            for discard in &status.discards {
                advance(&f.bfd_discards.with_label_values(&[discard.reason]), discard.count);
            }
        }
        for gone in shown.bfd_peers.difference(&now) {
            absent(f.bfd_state.remove_label_values(&[gone]));
        }
        shown.bfd_peers = now;
    }
}
