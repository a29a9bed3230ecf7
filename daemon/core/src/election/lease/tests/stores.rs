//! A virtual API server and a virtual etcd.

use std::collections::BTreeMap;

use super::contract::{Ans, Mutant, Req, Store};
use super::kube::{KubeConfig, Object, Record, Version};
use super::*;

/// One Lease object.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct ApiServer {
    pub(super) timing: Timing,
    pub(super) version: u64,
    pub(super) object: Option<Object>,
    changes: Vec<kube::Watched>,
}

impl ApiServer {
    pub(super) fn new(timing: Timing) -> Self {
        Self { timing, version: 0, object: None, changes: Vec::new() }
    }

    fn write(&mut self, record: &Record) -> kube::Answer {
        self.version += 1;
        let object = Object { version: Version(self.version.to_string()), record: record.clone() };
        self.object = Some(object.clone());
        self.changes.push(kube::Watched::Object(object.clone()));
        kube::Answer::Object(object)
    }
}

impl Store for ApiServer {
    type M = KubeLease;

    fn machine(&self, node: usize, boot: u32, term: Term, seed: u64) -> KubeLease {
        let (identity, instance) = (format!("node-{node}"), format!("boot-{node}-{boot}"));
        KubeLease::new(KubeConfig { identity, instance, timing: self.timing, seed: Some(seed), term })
    }

    fn serve(&mut self, _from: usize, request: &kube::Request, _now: u64, mutant: Option<Mutant>) -> kube::Answer {
        match (request, &self.object) {
            (kube::Request::Get, Some(object)) => kube::Answer::Object(object.clone()),
            (kube::Request::Get | kube::Request::Update { .. }, None) => kube::Answer::NotFound,
            (kube::Request::Create(record), None) => self.write(record),
            (kube::Request::Create(_), Some(_)) => kube::Answer::Conflict,
            (kube::Request::Update { version, record }, Some(object)) => {
                if object.version == *version || mutant == Some(Mutant::Unversioned) {
                    self.write(record)
                } else {
                    kube::Answer::Conflict
                }
            }
            (kube::Request::Watch(_), _) => kube::Answer::NotFound,
        }
    }

    fn failed(failure: Failure) -> kube::Answer {
        kube::Answer::Failed(failure)
    }

    fn is_watch(request: &kube::Request) -> bool {
        matches!(request, kube::Request::Watch(_))
    }

    fn ended() -> kube::Watched {
        kube::Watched::Ended
    }

    fn changes(&mut self) -> Vec<kube::Watched> {
        std::mem::take(&mut self.changes)
    }

    fn tick(&mut self, now: u64) -> u64 {
        now + 200_000_000
    }

    fn touch(&mut self) {
        if let Some(record) = self.object.as_ref().map(|o| o.record.clone()) {
            let _object = self.write(&record);
        }
    }

    fn delete(&mut self) {
        if self.object.take().is_some() {
            self.changes.push(kube::Watched::Deleted);
        }
    }

    fn distort(mutant: Mutant, request: &kube::Request, answer: kube::Answer) -> kube::Answer {
        match (mutant, request, answer) {
            (Mutant::ConflictIsSuccess, kube::Request::Update { version, record }, kube::Answer::Conflict) => {
                kube::Answer::Object(Object { version: version.clone(), record: record.clone() })
            }
            (Mutant::ShortDuration, _, kube::Answer::Object(mut object)) => {
                object.record.duration = object.record.duration.saturating_sub(Duration::from_secs(1));
                kube::Answer::Object(object)
            }
            (_, _, answer) => answer,
        }
    }

    fn duration(&self) -> Duration {
        self.timing.duration()
    }
}

/// One key and the leases.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Etcd {
    timing: Timing,
    revision: u64,
    leases: Vec<(etcd::LeaseId, u64)>,
    next: i64,
    key: Option<etcd::Entry>,
    /// Shares in it by node, with their leases and revisions.
    shares: BTreeMap<usize, (etcd::LeaseId, u64)>,
    changes: Vec<etcd::Watched>,
    /// Expired leases are looked for this often; 0: at once.
    lag: u64,
    /// The first two nodes are one site.
    joint: bool,
}

impl Etcd {
    /// etcd's lessor looks for expired leases every 500 ms; a lag of 0 is the worst for safety.
    pub(super) fn new(timing: Timing, lag: Duration) -> Self {
        let lag = u64::try_from(lag.as_nanos()).expect("short");
        let (leases, changes, shares) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { timing, revision: 1, leases, next: 1, key: None, shares, changes, lag, joint: false }
    }

    pub(super) fn joint(timing: Timing, lag: Duration) -> Self {
        Self { joint: true, ..Self::new(timing, lag) }
    }

    fn life(&self) -> u64 {
        // Its clock is the fastest.
        u64::try_from(self.timing.duration().as_nanos() * 1000 / 1001).expect("short")
    }

    fn drop_lease(&mut self, id: etcd::LeaseId) {
        self.leases.retain(|(lease, _)| *lease != id);
        self.shares.retain(|_, (lease, _)| *lease != id);
        if self.key.as_ref().is_some_and(|key| key.lease == id) {
            self.end();
        }
    }

    fn end(&mut self) {
        self.key = None;
        self.revision += 1;
        self.changes.push(etcd::Watched::Deleted);
    }

    fn is_at(&self, revision: u64) -> bool {
        self.key.as_ref().map_or(0, |key| key.revision) == revision
    }

    fn expire(&mut self, now: u64) {
        let over: Vec<etcd::LeaseId> = self.leases.iter().filter(|(_, end)| *end <= now).map(|(id, _)| *id).collect();
        for id in over {
            self.drop_lease(id);
        }
    }
}

impl Store for Etcd {
    type M = EtcdLease;

    fn party(&self, node: usize) -> usize {
        if self.joint { node / 2 } else { node }
    }

    fn machine(&self, node: usize, boot: u32, term: Term, seed: u64) -> EtcdLease {
        let identity =
            if self.joint { format!("site-{}", self.party(node)) } else { format!("node-{node}/boot-{boot}") };
        let (joint, timing) = (self.joint, self.timing);
        EtcdLease::new(etcd::EtcdConfig { identity, joint, members: 3, timing, seed: Some(seed), term })
    }

    fn hands_over(&self) -> bool {
        self.joint
    }

    fn serve(&mut self, from: usize, request: &Req<Self>, now: u64, mutant: Option<Mutant>) -> Ans<Self> {
        if self.lag == 0 {
            self.expire(now);
        }
        let life = self.life();
        let ttl = self.timing.duration();
        match request.clone() {
            etcd::Request::Look | etcd::Request::Watch(_) => etcd::Answer::Key(self.key.clone(), self.revision),
            etcd::Request::Grant(_) => {
                let id = etcd::LeaseId(self.next);
                self.next += 1;
                self.leases.push((id, now + life));
                etcd::Answer::Lease(id, ttl)
            }
            etcd::Request::KeepAlive(id) => match self.leases.iter_mut().find(|(lease, _)| *lease == id) {
                Some((_, end)) if *end > now => {
                    *end = now + life;
                    etcd::Answer::Lease(id, ttl)
                }
                Some(_) | None => etcd::Answer::Lease(id, Duration::ZERO),
            },
            etcd::Request::Campaign { holder, lease, over } => {
                if !self.leases.iter().any(|(id, _)| *id == lease) {
                    return etcd::Answer::NoLease;
                }
                if !self.is_at(over) {
                    return etcd::Answer::Key(self.key.clone(), self.revision);
                }
                self.revision += 1;
                if self.joint {
                    let _former = self.shares.insert(from, (lease, self.revision));
                }
                let entry = etcd::Entry { holder, lease, revision: self.revision };
                self.key = Some(entry.clone());
                self.changes.push(etcd::Watched::Put(entry));
                etcd::Answer::Won(self.revision)
            }
            etcd::Request::Revoke(id) => {
                self.drop_lease(id);
                etcd::Answer::Revoked
            }
            etcd::Request::Share { lease, over } => {
                if !self.leases.iter().any(|(id, _)| *id == lease) {
                    return etcd::Answer::NoLease;
                }
                if !self.is_at(over) {
                    return etcd::Answer::Key(self.key.clone(), self.revision);
                }
                self.revision += 1;
                let _former = self.shares.insert(from, (lease, self.revision));
                etcd::Answer::Won(self.revision)
            }
            etcd::Request::Leave(share) => {
                let any = mutant == Some(Mutant::LeavesAnyShare);
                if self.shares.get(&from).is_some_and(|(_, revision)| *revision == share || any) {
                    self.revision += 1;
                    let _left = self.shares.remove(&from);
                }
                etcd::Answer::Revoked
            }
            etcd::Request::Free(over) => {
                let none = self.shares.is_empty() || mutant == Some(Mutant::LooksForNoShare);
                if !self.is_at(over) || !none {
                    return etcd::Answer::Key(self.key.clone(), self.revision);
                }
                self.end();
                etcd::Answer::Won(self.revision)
            }
        }
    }

    fn failed(failure: Failure) -> etcd::Answer {
        etcd::Answer::Failed(failure)
    }

    fn is_watch(request: &etcd::Request) -> bool {
        matches!(request, etcd::Request::Watch(_))
    }

    fn ended() -> etcd::Watched {
        etcd::Watched::Ended
    }

    fn changes(&mut self) -> Vec<etcd::Watched> {
        std::mem::take(&mut self.changes)
    }

    fn tick(&mut self, now: u64) -> u64 {
        self.expire(now);
        let later = now + self.lag.max(200_000_000);
        let next = self.leases.iter().map(|(_, end)| *end).filter(|_| self.lag == 0).min();
        next.map_or(later, |end| end.clamp(now + 1, later))
    }

    fn touch(&mut self) {
        self.revision += 1;
    }

    fn delete(&mut self) {}

    fn distort(_mutant: Mutant, _request: &etcd::Request, answer: etcd::Answer) -> etcd::Answer {
        answer
    }

    fn duration(&self) -> Duration {
        self.timing.duration()
    }
}
