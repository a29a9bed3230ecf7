//! One peer: what waits to be sent to it, and how fast.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use super::io::PeerConfig;
use super::limit::{Backoff, Bucket};
use super::message::{Message, RECORDS};
use super::reach::Reaching;
use super::record::{Key, Record};
use super::store::Ours;
use super::version::Speaks;
use crate::time::Instant;

/// Writes of one key within this time are one record (sites.md 4.4, core sites).
pub(super) const COALESCE: Duration = Duration::from_millis(250);
/// A change that moves little may wait for so long.
pub(super) const LAZY: Duration = Duration::from_secs(30);
/// Bytes a second of records to one peer, framing included: with beats, below the 2 kB/s of issue 6, Shows 6.
const RATE: f64 = 1500.0;
/// What may go out at once after a pause: five seconds of the rate. A minute that begins with all of it is below 2 kB/s as well.
const BURST: f64 = 8192.0;
/// Bytes a second that only urgent records may use, beyond the rate: 5 a second for ever, 200 at once.
const URGENT: (f64, f64) = (100.0, 4096.0);
/// Bytes of a message around its records, as the kernel counts them: TLS record and frame header (26), TCP with timestamps over IPv6 over
/// Ethernet (86), and the same 86 for its acknowledgement on the way back.
const FRAME: f64 = 200.0;
/// Messages and bytes that a peer may send us, a second and at once (sites.md 4.3).
const HEARD: [(f64, f64); 2] = [(200.0, 400.0), (1_048_576.0, 2_097_152.0)];

/// Why and since when a key waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) due: Instant,
    pub(super) since: Instant,
    pub(super) urgent: bool,
}

/// A snapshot on its way in.
#[derive(Clone, Debug)]
pub(super) struct Staging {
    /// When its first part came, and how late that was read.
    pub(super) began: (Instant, Duration),
    pub(super) incarnation: u64,
    pub(super) next: u32,
    pub(super) records: BTreeMap<Key, Record>,
}

/// A session, or the wish for one.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) connected: bool,
    /// Since when.
    pub(super) since: Instant,
    /// The peer has said Hello.
    pub(super) greeted: bool,
    /// It was last reported as up. While a session turns to another relay it stays so: what there is of the site is in force.
    pub(super) shown: bool,
    /// Versions that it speaks, by its Hello, and the newest that both do.
    pub(super) speaks: Option<(Speaks, u8)>,
    /// What it runs.
    pub(super) build: Option<String>,
    pub(super) pending: BTreeMap<Key, Pending>,
    /// Parts of a snapshot that wait, with the position they lead to.
    pub(super) parts: VecDeque<Message>,
    /// Position of the reader after all that was sent.
    pub(super) sent: u64,
    rate: Bucket,
    urgent: Bucket,
    heard: [Bucket; 2],
    pub(super) heard_at: Instant,
    pub(super) staging: Option<Staging>,
    /// When a resync was last asked for.
    pub(super) asked: Option<Instant>,
    pub(super) backoff: Backoff,
    pub(super) reach: Reaching,
}

impl Session {
    pub(super) fn new(now: Instant) -> Self {
        // A process that has just begun to lead may find the session of the one before it.
        let mut backoff = Backoff::default();
        backoff.soon();
        Self {
            connected: false,
            since: now,
            greeted: false,
            shown: false,
            speaks: None,
            build: None,
            pending: BTreeMap::new(),
            parts: VecDeque::new(),
            sent: 0,
            rate: Bucket::new(RATE, BURST, now),
            urgent: Bucket::new(URGENT.0, URGENT.1, now),
            heard: HEARD.map(|(rate, most)| Bucket::new(rate, most, now)),
            heard_at: now,
            staging: None,
            asked: None,
            backoff,
            reach: Reaching::new(now),
        }
    }

    /// The session is gone; what the rate allows is not renewed by that.
    pub(super) fn reset(&mut self) {
        self.connected = false;
        self.greeted = false;
        (self.speaks, self.build) = (None, None);
        self.pending.clear();
        self.parts.clear();
        self.staging = None;
        self.asked = None;
        self.reach.reset();
    }

    /// A message that must go now, out of what records may cost: they wait for as long as it takes to save it up again.
    pub(super) fn charge(&mut self, bytes: usize, now: Instant) {
        let _tokens = self.rate.fill(now);
        self.rate.take(FRAME + bytes as f64);
    }

    /// Counts a message against what the peer may send; false when it is too much.
    pub(super) fn admit(&mut self, bytes: usize, now: Instant) -> bool {
        self.heard_at = now;
        let costs = [1.0, bytes as f64];
        let mut fits = true;
        for (bucket, cost) in self.heard.iter_mut().zip(costs) {
            fits &= bucket.fill(now) >= cost;
            bucket.take(cost);
        }
        fits
    }

    /// A key changed.
    pub(super) fn note(&mut self, key: Key, delay: Duration, urgent: bool, now: Instant) {
        if !self.greeted {
            return;
        }
        let due = now + delay;
        let entry = self.pending.entry(key).or_insert(Pending { due, since: now, urgent });
        entry.due = entry.due.min(due);
        entry.urgent |= urgent;
    }

    /// All that may be sent now, as one message.
    pub(super) fn flush(&mut self, ours: &Ours, incarnation: u64, peer: &PeerConfig, now: Instant) -> Option<Message> {
        if let Some(part) = self.parts.pop_front() {
            // Snapshots are rare and not counted against the rate: a reader without them has nothing at all.
            return Some(part);
        }
        let (plain, reserve) = (self.rate.fill(now), self.urgent.fill(now));
        let mut due: Vec<(bool, Instant, Key)> =
            self.pending.iter().filter(|(_, p)| p.due <= now).map(|(k, p)| (!p.urgent, p.since, *k)).collect();
        due.sort_unstable();
        let (mut records, mut cost) = (Vec::new(), FRAME);
        for (lazy, _, key) in due.into_iter().take(RECORDS) {
            let allowed = if lazy { plain } else { plain.max(0.0) + reserve };
            let Some(record) = ours.shown(&key, peer, now) else {
                let _gone = self.pending.remove(&key);
                continue;
            };
            // The bytes of the record alone: a message of one, less what a message of none has.
            let one = Message::Delta { incarnation, head: ours.head, records: vec![record] };
            let size = one.encode().len() as f64 - 8.0;
            if cost + size > allowed {
                break;
            }
            cost += size;
            records.push(record);
            let _sent = self.pending.remove(&key);
        }
        if records.is_empty() {
            return None;
        }
        let over = (cost - plain.max(0.0)).max(0.0);
        self.urgent.take(over);
        self.rate.take(cost - over);
        self.sent = self.position(ours);
        Some(Message::Delta { incarnation, head: self.sent, records })
    }

    /// Everything up to here has been sent.
    fn position(&self, ours: &Ours) -> u64 {
        let waiting = self.pending.keys().filter_map(|k| ours.records.get(k)).map(|own| own.seq).min();
        waiting.map_or(ours.head, |seq| seq - 1).max(self.sent)
    }

    /// How long the oldest write has waited.
    pub(super) fn lag(&self, now: Instant) -> Duration {
        self.pending.values().map(|p| now.since(p.since)).max().unwrap_or(Duration::ZERO)
    }

    /// When [`Self::flush`] may have something.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        if !self.parts.is_empty() {
            return Some(now);
        }
        let urgent = self.pending.values().filter(|p| p.urgent).map(|p| p.due).min();
        let lazy = self.pending.values().filter(|p| !p.urgent).map(|p| p.due).min();
        // Whatever is due goes out in one message a quarter of a second: single records would be mostly framing.
        let wait = |at: Instant| if at <= now { now + COALESCE } else { at };
        let urgent = urgent.map(|at| if at <= now { self.urgent.ready().max(now + COALESCE / 5) } else { at });
        urgent.into_iter().chain(lazy.map(wait)).min()
    }
}
