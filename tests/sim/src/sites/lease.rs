//! The authority, as a model: a lease that a majority of three members keeps, two sites and a witness. The real one is etcd.

use super::link::SEC;

/// Time to live (issue 6, Shows 2: etcd TTL 5 s).
pub(super) const TTL: u64 = 5 * SEC;

/// Who holds, and until when.
#[derive(Clone, Debug, Default)]
pub(super) struct Lease {
    holder: Option<(usize, u64)>,
    /// How often another site became the holder.
    pub(super) moves: u64,
    last: Option<usize>,
}

impl Lease {
    /// The holder at `now`.
    pub(super) fn holder(&self, now: u64) -> Option<usize> {
        self.holder.filter(|(_, until)| *until > now).map(|(site, _)| site)
    }

    /// A site that reaches the majority asks for it, or renews it. True: it holds it for [`TTL`] from the request on.
    pub(super) fn ask(&mut self, site: usize, now: u64) -> bool {
        if self.holder(now).is_some_and(|holder| holder != site) {
            return false;
        }
        if self.last.is_some_and(|last| last != site) {
            self.moves += 1;
        }
        self.last = Some(site);
        self.holder = Some((site, now + TTL));
        true
    }

    /// It gives it back.
    pub(super) fn give(&mut self, site: usize, now: u64) {
        if self.holder(now) == Some(site) {
            self.holder = None;
        }
    }
}
