//! What goes into the elector on etcd and what comes out of it.

use core::time::Duration;

use super::super::Failure;
use super::super::timing::Timing;
use crate::types::Term;

/// Id of a lease, made by the server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LeaseId(pub i64);

/// The key, when it is there.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    /// Its value: the identity of the holder.
    pub holder: String,
    /// The lease that it goes with.
    pub lease: LeaseId,
    /// `mod_revision`.
    pub revision: u64,
}

/// What to send. Every call is made with a leader required, and is not retried.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Request {
    /// Range of the key, linearizable.
    Look,
    /// LeaseGrant with this TTL; the server chooses the id.
    Grant(Duration),
    /// Txn: if the key's `mod_revision` is `over` (0: the key is not there), put it with the lease; else range it. With a joint entry its first
    /// share is put in the same step, whose revision is then the key's.
    Campaign {
        /// The value.
        holder: String,
        /// The lease that it goes with.
        lease: LeaseId,
        /// What it replaces: an entry of this node's own, or nothing.
        over: u64,
    },
    /// LeaseKeepAlive. An answer must be that to this very message: on a stream that still owes older answers it is not.
    KeepAlive(LeaseId),
    /// LeaseRevoke: the key goes with it.
    Revoke(LeaseId),
    /// Of a joint entry. Txn: if the key's `mod_revision` is `over`, put this node's share with the lease; else range the key.
    Share {
        /// The lease that it goes with.
        lease: LeaseId,
        /// The revision of the entry that it is a share in.
        over: u64,
    },
    /// Txn: if the `mod_revision` of this node's share is this one, delete it.
    Leave(u64),
    /// Txn: if the key's `mod_revision` is this one and no share is there, delete the key; else range it.
    Free(u64),
    /// Watch the key after this revision and report with `handle_watch` until it ends. At most one at a time; the deadline does not apply.
    Watch(u64),
}

/// The answer to a request.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// Look, or a Campaign, a Share or a Free whose comparison failed: the key, and the revision of the store.
    Key(Option<Entry>, u64),
    /// Grant or KeepAlive: the TTL in the answer. Zero: the lease is gone.
    Lease(LeaseId, Duration),
    /// Campaign, Share or Free whose comparison held: the revision of the store, which is that of what was put.
    Won(u64),
    /// Revoke, and Leave whatever its comparison said.
    Revoked,
    /// NOT_FOUND: the lease is gone.
    NoLease,
    /// Anything else.
    Failed(Failure),
}

/// Word of the watch.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Watched {
    /// PUT.
    Put(Entry),
    /// DELETE: by revocation, expiry or hand.
    Deleted,
    /// It ended, for whatever reason, compaction included. The machine looks before it watches again.
    Ended,
}

/// What the machine must know.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct EtcdConfig {
    /// Names this node in the key. It ends with something that only this boot of this machine has: a restarted daemon takes its own entry
    /// over at once. Where the entry is `joint` it names the whole group.
    pub identity: String,
    /// All who name themselves so own together (the nodes of a site): each keeps the lease of the one entry alive and owns by its own proof.
    /// None ends it for the others: the last one that leaves frees it, and what is not left runs out.
    pub joint: bool,
    /// Members of the cluster that the driver can ask; after a failure it asks another one. The failure of one of several says little of the
    /// cluster: only the next one makes it [`super::super::Condition::Unreachable`].
    pub members: usize,
    /// Its times.
    pub timing: Timing,
    /// For spreading requests; `None`: not spread.
    pub seed: Option<u64>,
    /// The last term used before: claims count from the next.
    pub term: Term,
}
