//! How a share in a joint entry is given up, and the entry with the last one.

use super::io::{Answer, Entry, LeaseId, Request};
use super::{EtcdLease, Known, Purpose};
use crate::time::Instant;

/// A share, as this node wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Share {
    /// The lease that it goes with, which is the entry's.
    pub(super) lease: LeaseId,
    /// Its own revision.
    pub(super) revision: u64,
    /// That of the entry.
    pub(super) entry: u64,
}

/// A share that was given up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Departure {
    share: Share,
    /// It is taken away.
    left: bool,
    /// Then the lease is over at the latest, unless others keep it.
    until: Instant,
}

impl EtcdLease {
    /// Everything of the share is closed, or nothing ever opened by it.
    pub(super) fn depart(&mut self, now: Instant) {
        let until = now + self.seat.timing.duration();
        self.departure = self.share.take().map(|share| Departure { share, left: false, until });
    }

    /// The next step of a departure, when it is due; false: there is none, and other things may be done.
    pub(super) fn leave_on(&mut self, now: Instant) -> bool {
        let Some(departure) = self.departure.filter(|departure| now < departure.until) else {
            // The lease runs out by itself, or others have it.
            self.departure = None;
            return false;
        };
        if self.is_due(now) {
            let Departure { share, left, .. } = departure;
            let (purpose, request) = if left {
                (Purpose::Free, Request::Free(share.entry))
            } else {
                (Purpose::Leave, Request::Leave(share.revision))
            };
            self.seat.send(purpose, request, now);
        }
        true
    }

    /// The share is gone, by this request or before it.
    pub(super) fn left(&mut self, now: Instant) {
        if let Some(departure) = &mut self.departure {
            departure.left = true;
        }
        self.seat.look_at(now);
    }

    /// The entry is gone, or others have a share in it.
    pub(super) fn freed(&mut self, answer: Answer, now: Instant) {
        let departure = self.departure.take();
        match answer {
            Answer::Key(entry, revision) => self.take_key(entry, revision, now),
            // Nothing goes with its lease any more, nor can anything come to.
            _ => {
                self.spent.extend(departure.map(|departure| departure.share.lease));
                self.known = Known::Absent(now);
                self.seat.look_at(now);
            }
        }
    }

    /// The share beside this entry is written: now for a proof, if the entry is still that one.
    pub(super) fn take_share(&mut self, share: Share, now: Instant) {
        self.share = Some(share);
        self.seat.look_at(now);
    }

    pub(super) fn has_share(&self, entry: &Entry) -> bool {
        self.share.is_some_and(|share| share.lease == entry.lease && share.entry == entry.revision)
    }

    /// Asks for a share in this entry, or with one for the proof that it needs.
    pub(super) fn join(&mut self, entry: &Entry, now: Instant) {
        let (lease, over) = (entry.lease, entry.revision);
        if self.has_share(entry) {
            self.seat.send(Purpose::Join, Request::KeepAlive(lease), now);
        } else {
            self.seat.send(Purpose::Share(lease, over), Request::Share { lease, over }, now);
        }
    }

    /// What the entry won by a node that may not have it any more is worth: nobody counts on it, so it goes at once.
    pub(super) fn decline(&mut self, now: Instant) {
        self.known = Known::Nothing;
        self.let_go();
        self.depart(now);
        self.seat.look_at(now);
    }
}
