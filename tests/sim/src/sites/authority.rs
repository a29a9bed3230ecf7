//! The authority, as a model of etcd: one key and the leases that it goes with, behind a majority of three members (two sites and a witness).
//! What a site asks of it, and when, its elector decides: the machine of the daemon.

use std::collections::BTreeMap;

use bascule_core::election::lease::etcd::{Answer, Entry, LeaseId, Request, Watched};

use super::link::{MS, SEC};

/// Time to live (issue 6, Shows 2: etcd TTL 5 s).
pub(super) const TTL: u64 = 5 * SEC;
/// How long a lease lives by the clock of etcd that is fastest of all (`lease::timing::CLOCK_RATE_PPM`).
const LIFE: u64 = TTL / 1001 * 1000;
/// etcd's lessor looks for leases that are over this often.
const LAG: u64 = 500 * MS;

/// One key.
#[derive(Debug, Default)]
pub(super) struct Authority {
    revision: u64,
    leases: BTreeMap<i64, u64>,
    next: i64,
    key: Option<Entry>,
    changes: Vec<Watched>,
    /// How often another site became the holder.
    pub(super) moves: u64,
    last: Option<String>,
    /// Leases that are over end at once, and not when etcd looks: the worst for safety.
    prompt: bool,
}

impl Authority {
    pub(super) fn new(prompt: bool) -> Self {
        Self { prompt, ..Self::default() }
    }

    pub(super) fn serve(&mut self, request: Request, now: u64) -> Answer {
        if self.prompt {
            self.expire(now);
        }
        match request {
            Request::Look | Request::Watch(_) => Answer::Key(self.key.clone(), self.revision),
            Request::Grant(ttl) => {
                self.next += 1;
                let _new = self.leases.insert(self.next, now + LIFE);
                Answer::Lease(LeaseId(self.next), ttl)
            }
            Request::KeepAlive(id) => match self.leases.get_mut(&id.0) {
                Some(end) if *end > now => {
                    *end = now + LIFE;
                    Answer::Lease(id, core::time::Duration::from_nanos(TTL))
                }
                Some(_) | None => Answer::NoLease,
            },
            Request::Campaign { holder, lease, over } => {
                if !self.leases.contains_key(&lease.0) {
                    return Answer::NoLease;
                }
                if self.key.as_ref().map_or(0, |key| key.revision) != over {
                    return Answer::Key(self.key.clone(), self.revision);
                }
                self.revision += 1;
                if self.last.as_ref().is_some_and(|last| *last != holder) {
                    self.moves += 1;
                }
                self.last = Some(holder.clone());
                let entry = Entry { holder, lease, revision: self.revision };
                self.key = Some(entry.clone());
                self.changes.push(Watched::Put(entry));
                Answer::Won(self.revision)
            }
            Request::Revoke(id) => {
                self.end(id.0);
                Answer::Revoked
            }
            // A site is one node here: nobody else has a share.
            Request::Share { lease, .. } if !self.leases.contains_key(&lease.0) => Answer::NoLease,
            Request::Share { over, .. } if self.key.as_ref().is_some_and(|key| key.revision == over) => {
                self.revision += 1;
                Answer::Won(self.revision)
            }
            Request::Leave(_) => Answer::Revoked,
            Request::Free(over) if self.key.take_if(|key| key.revision == over).is_some() => {
                self.revision += 1;
                self.changes.push(Watched::Deleted);
                Answer::Won(self.revision)
            }
            Request::Share { .. } | Request::Free(_) => Answer::Key(self.key.clone(), self.revision),
        }
    }

    fn end(&mut self, lease: i64) {
        let _end = self.leases.remove(&lease);
        if self.key.take_if(|key| key.lease.0 == lease).is_some() {
            self.revision += 1;
            self.changes.push(Watched::Deleted);
        }
    }

    fn expire(&mut self, now: u64) {
        let over: Vec<i64> = self.leases.iter().filter(|(_, end)| **end <= now).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.end(id));
    }

    /// Time passes, in steps that divide [`LAG`].
    pub(super) fn tick(&mut self, now: u64, tick: u64) {
        if self.prompt || tick.is_multiple_of(LAG) {
            self.expire(now);
        }
    }

    /// What watchers are owed since the last call.
    pub(super) fn changes(&mut self) -> Vec<Watched> {
        std::mem::take(&mut self.changes)
    }
}
