//! Records: our own, with the next sequence; and what is held of another site.

use core::time::Duration;
use std::collections::BTreeMap;

use super::io::{PeerConfig, Refused};
use super::message::Cursor;
use super::record::{Body, Key, Record, digest};
use crate::site::SiteId;
use crate::site::summary::ServiceId;
use crate::time::Instant;

/// A deleted record is remembered for so long, so that a reader that was away hears of it (sites.md 4.4).
const GRAVE: Duration = Duration::from_secs(600);
/// Relays of a site whose place is remembered. Names are what its authority has signed; a site has a handful.
const RELAYS: usize = 16;
/// What a site may have: services, VIPs, orders (sites.md 4.3).
const LIMITS: [usize; 3] = [5000, 1024, 256];
/// Records that are held of a site at most, for a snapshot on its way.
pub(super) const MOST: usize = LIMITS[0] + LIMITS[1] + LIMITS[2];

/// The service that a record concerns.
pub(super) const fn service_of(key: &Key, body: Option<&Body>) -> Option<ServiceId> {
    match (key, body) {
        (Key::Service(id), _) => Some(*id),
        (_, Some(Body::Vip { service, .. })) => Some(*service),
        (_, Some(Body::Order { service, .. })) => *service,
        _ => None,
    }
}

/// One of ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub(super) seq: u64,
    pub(super) body: Option<Body>,
    pub(super) at: Instant,
    /// The service it concerns, also after its deletion.
    service: Option<ServiceId>,
}

/// All of ours.
#[derive(Clone, Debug, Default)]
pub(super) struct Ours {
    pub(super) records: BTreeMap<Key, Own>,
    pub(super) head: u64,
    /// Up to here deletions are forgotten: who has read less needs everything.
    pub(super) floor: u64,
}

impl Ours {
    /// Writes; gives what was there before. Nothing is written when nothing changed.
    pub(super) fn write(&mut self, key: Key, body: Option<Body>, now: Instant) -> Option<Option<Body>> {
        let old = self.records.get(&key);
        let before = old.and_then(|own| own.body);
        if before == body {
            return None;
        }
        self.head += 1;
        let service = service_of(&key, body.as_ref()).or(old.and_then(|own| own.service));
        let _old = self.records.insert(key, Own { seq: self.head, body, at: now, service });
        Some(before)
    }

    /// What `peer` may see of a record: a record that it may not know does not exist.
    pub(super) fn shown(&self, key: &Key, peer: &PeerConfig, now: Instant) -> Option<Record> {
        let own = self.records.get(key)?;
        let body = own.body.filter(|_| peer.export.lets(own.service));
        Some(Record { key: *key, seq: own.seq, age: now.since(own.at), body })
    }

    pub(super) fn root(&self, here: SiteId, peer: &PeerConfig) -> u64 {
        let visible = |own: &Own| own.body.is_some() && peer.export.lets(own.service);
        self.records.iter().filter(|(_, o)| visible(o)).fold(0, |root, (key, own)| root ^ digest(here, key, own.seq))
    }

    pub(super) fn bury(&mut self, now: Instant) {
        let old = |own: &Own| own.body.is_none() && now.since(own.at) >= GRAVE;
        self.floor = self.records.values().filter(|o| old(o)).map(|o| o.seq).fold(self.floor, u64::max);
        self.records.retain(|_, own| !old(own));
    }
}

/// One of theirs. What is refused is held without its body, so that both sides reckon the same digest.
#[derive(Clone, Copy, Debug)]
struct Stored {
    seq: u64,
    body: Option<Body>,
    refused: bool,
    /// How old it was when it came, and when that was.
    age: Duration,
    at: Instant,
}

/// What is held of one site.
#[derive(Clone, Debug, Default)]
pub(super) struct Theirs {
    pub(super) cursor: Cursor,
    /// Of which relay that is, and which process of others was read last, without a position: what they said was replaced since.
    relay: String,
    others: BTreeMap<String, Cursor>,
    records: BTreeMap<Key, Stored>,
    /// When all that is held was last said to be current, and how late that word was.
    pub(super) confirmed: Option<(Instant, Duration)>,
    pub(super) refused: Refused,
}

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    /// Known, or older than what is known.
    Old,
    /// For the policy.
    News,
    /// Held, but not for the policy.
    Refused,
    /// A VIP that is not its to claim.
    Foreign,
    /// Its class is full.
    Surplus,
}

impl Theirs {
    /// The next word is this relay's. What another one said stays in force until this one has said everything.
    pub(super) fn turn_to(&mut self, relay: &str) {
        if self.relay == relay {
            return;
        }
        let next = self.others.remove(relay).unwrap_or_default();
        let before = core::mem::replace(&mut self.relay, relay.to_owned());
        if self.cursor.incarnation > 0 {
            if self.others.len() >= RELAYS {
                let _forgotten = self.others.pop_first();
            }
            let _known = self.others.insert(before, Cursor { seq: 0, ..self.cursor });
        }
        self.cursor = next;
        self.confirmed = None;
        self.forget_sequences();
    }

    pub(super) fn take(&mut self, record: &Record, peer: &PeerConfig, now: Instant) -> Taken {
        let known = self.records.get(&record.key);
        if known.is_some_and(|stored| stored.seq >= record.seq) {
            return Taken::Old;
        }
        let had = known.is_some_and(|s| !s.refused && s.body.is_some());
        let class = |key: &Key| match key {
            Key::Service(_) => 0,
            Key::Vip(_) => 1,
            Key::Order(_) => 2,
        };
        let of_class = |s: &Self| s.records.keys().filter(|k| class(k) == class(&record.key)).count();
        if known.is_none() && self.records.len() >= LIMITS[2] && of_class(self) >= LIMITS[class(&record.key)] {
            self.refused.surplus += 1;
            return Taken::Surplus;
        }
        let foreign = matches!(record.key, Key::Vip(ip) if !peer.prefixes.iter().any(|net| net.contains(&ip)));
        let unwanted = !peer.import.lets(service_of(&record.key, record.body.as_ref()));
        let refused = record.body.is_some() && (foreign || unwanted);
        if record.body.is_none() {
            let _gone = self.records.remove(&record.key);
            return if had { Taken::News } else { Taken::Refused };
        }
        let (body, age) = (record.body.filter(|_| !refused), record.age);
        let _old = self.records.insert(record.key, Stored { seq: record.seq, body, refused, age, at: now });
        match (refused, foreign) {
            (false, _) => Taken::News,
            (true, true) => {
                self.refused.foreign += 1;
                Taken::Foreign
            }
            (true, false) => {
                self.refused.unwanted += 1;
                Taken::Refused
            }
        }
    }

    /// Drops what a snapshot does not name; gives the keys that the policy knew.
    pub(super) fn replace(&mut self, named: &BTreeMap<Key, Record>) -> Vec<Key> {
        let gone: Vec<Key> = self.records.keys().filter(|k| !named.contains_key(k)).copied().collect();
        gone.into_iter().filter(|key| self.records.remove(key).is_some_and(|s| s.body.is_some())).collect()
    }

    /// Sequences of an earlier incarnation mean nothing in the next: whatever comes is newer. Bodies stay in force until they are replaced.
    pub(super) fn forget_sequences(&mut self) {
        self.records.values_mut().for_each(|s| s.seq = 0);
    }

    pub(super) fn root(&self, origin: SiteId) -> u64 {
        self.records.iter().fold(0, |root, (key, stored)| root ^ digest(origin, key, stored.seq))
    }

    /// What is known, with its age: since the origin observed it, or since it last said that this is still so.
    pub(super) fn iter(&self, now: Instant) -> impl Iterator<Item = (Key, Body, Duration)> {
        let confirmed = self.confirmed;
        self.records.iter().filter_map(move |(key, stored)| {
            let own = stored.age + now.since(stored.at);
            let since = confirmed.map(|(at, lag)| lag + now.since(at)).filter(|_| stored.at <= now);
            Some((*key, stored.body?, since.map_or(own, |s| s.min(own))))
        })
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }
}
