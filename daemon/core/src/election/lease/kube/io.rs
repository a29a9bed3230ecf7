//! What goes into the elector on a Lease and what comes out of it.

use core::time::Duration;

use super::super::Failure;
use super::super::timing::Timing;
use crate::types::Term;

/// `resourceVersion`: compared for equality only.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Version(pub String);

/// Microseconds since 1970, the resolution of a Lease's MicroTime. Written for people and for other clients; no decision reads it but one:
/// whether a record is the very one that this machine wrote.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct WallMicros(pub i64);

/// `spec` of a Lease. The driver keeps all else of the object that it read (labels, other annotations) and sends it back.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Record {
    /// `holderIdentity`; empty: nobody's.
    pub holder: String,
    /// Annotation `bascule.dev/holder-instance`: which boot of which machine wrote it. A restarted daemon knows its own record by it, and a
    /// clone with the same host name does not take it for its own.
    pub instance: Option<String>,
    /// `leaseDurationSeconds`; absent or not positive: zero.
    pub duration: Duration,
    /// `acquireTime`.
    pub acquired: WallMicros,
    /// `renewTime`.
    pub renewed: WallMicros,
    /// `leaseTransitions`.
    pub transitions: u32,
}

/// A Lease as the API server has it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Object {
    /// Its version.
    pub version: Version,
    /// Its content.
    pub record: Record,
}

/// What to send.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Request {
    /// GET without a resourceVersion: the latest, not the watch cache's.
    Get,
    /// POST: there is none.
    Create(Record),
    /// PUT with this resourceVersion in the object. Never a patch: one without a version always succeeds.
    Update {
        /// What it replaces.
        version: Version,
        /// With what.
        record: Record,
    },
    /// Watch this one object from this version on, and report with `handle_watch` until it ends. At most one at a time; the deadline does
    /// not apply.
    Watch(Version),
}

/// The answer to a request.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// 200 or 201: the object as it is now.
    Object(Object),
    /// 404.
    NotFound,
    /// 409: another version, or it exists already.
    Conflict,
    /// Anything else.
    Failed(Failure),
}

/// Word of the watch.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Watched {
    /// ADDED or MODIFIED.
    Object(Object),
    /// DELETED.
    Deleted,
    /// It ended, for whatever reason, 410 included. The machine reads before it watches again, so that no version is too old.
    Ended,
}

/// What the machine must know.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KubeConfig {
    /// `holderIdentity` of this node. Not the bare node name where kube-vip runs: that is kube-vip's, and each would take the other's lease
    /// for its own.
    pub identity: String,
    /// This boot of this machine.
    pub instance: String,
    /// Its times. All candidates of a Lease should have the same: old client-go counts its own duration, not the record's.
    pub timing: Timing,
    /// For spreading requests; `None`: not spread.
    pub seed: Option<u64>,
    /// The last term used before: claims count from the next.
    pub term: Term,
}
