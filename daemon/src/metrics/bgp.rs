//! The families of BGP.

use std::collections::BTreeSet;

use bascule_bgp::event::Event;
use bascule_bgp::session::State;
use bascule_bgp::speaker::{NeighborStatus, SpeakerStatus};

use super::catalog::DIRECTIONS;
use super::register::Families;
use super::{Metrics, absent, advance};

const STATES: [State; 6] =
    [State::Idle, State::Connect, State::Active, State::OpenSent, State::OpenConfirm, State::Established];

/// The state as the number that network management knows it by (RFC 4273, bgpPeerState).
const fn number(state: State) -> f64 {
    match state {
        State::Idle => 1.0,
        State::Connect => 2.0,
        State::Active => 3.0,
        State::OpenSent => 4.0,
        State::OpenConfirm => 5.0,
        State::Established => 6.0,
    }
}

const fn word(state: State) -> &'static str {
    match state {
        State::Idle => "idle",
        State::Connect => "connect",
        State::Active => "active",
        State::OpenSent => "opensent",
        State::OpenConfirm => "openconfirm",
        State::Established => "established",
    }
}

/// Peers and families that the last snapshot set.
#[derive(Default)]
pub(super) struct Shown {
    peers: BTreeSet<String>,
    families: BTreeSet<(String, &'static str, &'static str)>,
}

impl Metrics {
    /// Counts an event of the speaker. Call it once for each.
    pub fn observe_bgp(&self, event: &Event) {
        let f = &self.inner.families;
        match event {
            Event::State { neighbor, to, .. } => {
                f.bgp_transitions.with_label_values(&[neighbor.as_str(), word(*to)]).inc()
            }
            Event::Sent { latency, .. } => f.bgp_ready_to_wire.observe(latency.as_secs_f64()),
            // Counted by the speaker itself: the snapshot at the scrape has the totals.
            Event::Notification { .. } | Event::Malformed { .. } => {}
            // States, or news that lead to a change of state.
            Event::Unreachable { .. }
            | Event::CapabilitiesReduced { .. }
            | Event::EndOfRib { .. }
            | Event::PrefixLimit { .. }
            | Event::Drain { .. } => {}
        }
    }

    /// Sets what is a state of BGP, from a snapshot taken for this scrape; `None` when none could be had.
    pub fn update_bgp(&self, status: Option<&SpeakerStatus>) {
        let mut shown = self.lock();
        let f = &self.inner.families;
        let mut now = Shown::default();
        for neighbor in status.iter().flat_map(|s| &s.neighbors) {
            set(f, neighbor, &mut now);
        }
        for gone in shown.bgp.peers.difference(&now.peers) {
            absent(f.bgp_session_state.remove_label_values(&[gone]));
            absent(f.bgp_queue_depth.remove_label_values(&[gone]));
        }
        for (peer, family, direction) in shown.bgp.families.difference(&now.families) {
            absent(f.bgp_prefixes.remove_label_values(&[peer.as_str(), family, direction]));
        }
        shown.bgp = now;
    }
}

fn set(f: &Families, neighbor: &NeighborStatus, now: &mut Shown) {
    let session = &neighbor.session;
    let peer = session.name.as_str();
    f.bgp_session_state.with_label_values(&[peer]).set(number(session.state));
    f.bgp_queue_depth.with_label_values(&[peer]).set(as_gauge(neighbor.queue_depth));
    now.peers.insert(peer.to_owned());
    for state in STATES {
        // Counters exist before they move.
        let _exists = f.bgp_transitions.with_label_values(&[peer, word(state)]);
    }
    let [sent, received] = DIRECTIONS;
    let outgoing = neighbor.prefixes_out.iter().map(|(family, count)| (*family, sent, *count));
    let incoming = session.prefixes_in.iter();
    let incoming = incoming.map(|(family, count)| (*family, received, usize::try_from(*count).unwrap_or(usize::MAX)));
    for (family, direction, count) in outgoing.chain(incoming) {
        f.bgp_prefixes.with_label_values(&[peer, family.as_str(), direction]).set(as_gauge(count));
        now.families.insert((peer.to_owned(), family.as_str(), direction));
    }
    let counters = &session.counters;
    for (direction, messages) in [(sent, counters.sent), (received, counters.received)] {
        let types = [
            ("open", messages.open),
            ("update", messages.update),
            ("notification", messages.notification),
            ("keepalive", messages.keepalive),
            ("route_refresh", messages.route_refresh),
        ];
        for (kind, total) in types {
            advance(&f.bgp_messages.with_label_values(&[peer, direction, kind]), total);
        }
    }
    for (direction, table) in [(sent, &counters.notifications_sent), (received, &counters.notifications_received)] {
        for (pair, total) in table {
            let (code, subcode) = pair.split_once('/').unwrap_or((pair, pair));
            advance(&f.bgp_notifications.with_label_values(&[peer, direction, code, subcode]), *total);
        }
    }
    advance(&f.bgp_malformed.with_label_values(&[peer]), counters.malformed);
}

/// Exact up to 2^32, beyond which no table goes.
fn as_gauge(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}
