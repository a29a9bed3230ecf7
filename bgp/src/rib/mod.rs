//! Adj-RIB-Out as desired state: which routes this node wants announced, how each kind of neighbor sees them, and what each neighbor has
//! been sent.
//!
//! [`Rib`] holds the wishes, a [`policy::Group`] turns them into attributes for every neighbor that gets the same, an [`OutQueue`] per
//! session turns the difference between wish and what was sent into UPDATEs. Nothing grows with the number of changes: a neighbor that
//! does not read costs one entry per prefix, and gets the latest state when it reads again.

mod out;
pub mod policy;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use ipnet::{IpNet, Ipv6Net};

use crate::config::ExportPolicy;
use crate::io::Route;
use crate::wire::Family;

pub use out::{Advertised, Batch, OutQueue};
pub use policy::{Group, NotAnnounced, SessionFacts};

/// A wish as it is kept; its time is kept by the queues that have not sent it yet.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Wish {
    vip: Box<str>,
    draining: bool,
}

/// Every route that is wanted, and the groups of neighbors that see them alike.
///
/// Contract: whenever a method here returns that something changed, the caller tells every [`OutQueue`] by [`OutQueue::changed`], or by
/// [`OutQueue::reconsider`] when everything may have.
#[derive(Debug, Default)]
pub struct Rib {
    wishes: BTreeMap<IpNet, Wish>,
    draining: bool,
    generation: u64,
    groups: Vec<Weak<Group>>,
}

impl Rib {
    /// Without routes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wants this route; one of the same prefix is replaced. Returns the prefix, host bits cleared, if that changes what may be sent.
    pub fn announce(&mut self, route: &Route) -> Option<IpNet> {
        let prefix = route.prefix.trunc();
        let wish = Wish { vip: route.vip.as_str().into(), draining: route.draining };
        if self.wishes.get(&prefix) == Some(&wish) {
            return None;
        }
        self.wishes.insert(prefix, wish);
        self.generation += 1;
        Some(prefix)
    }

    /// Wants this route no more. Returns the prefix, host bits cleared, if it was wanted.
    pub fn withdraw(&mut self, prefix: IpNet) -> Option<IpNet> {
        let prefix = prefix.trunc();
        self.wishes.remove(&prefix)?;
        self.generation += 1;
        Some(prefix)
    }

    /// Presents every route, also those that come later, as draining. Returns whether that is news.
    pub fn drain(&mut self) -> bool {
        let news = !self.draining;
        self.draining = true;
        self.generation += u64::from(news);
        news
    }

    /// The group of neighbors with this policy and session; groups without sessions are forgotten.
    pub fn group(&mut self, facts: &SessionFacts, policy: &ExportPolicy) -> Arc<Group> {
        self.groups.retain(|group| group.strong_count() > 0);
        let mut living = self.groups.iter().filter_map(Weak::upgrade);
        if let Some(group) = living.find(|group| group.is_for(facts, policy)) {
            return group;
        }
        let group = Arc::new(Group::new(facts, policy));
        self.groups.push(Arc::downgrade(&group));
        group
    }

    /// Grows with every change: equal numbers, equal wishes.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How many routes are wanted.
    pub fn len(&self) -> usize {
        self.wishes.len()
    }

    /// Nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.wishes.is_empty()
    }

    /// Every wanted prefix, in order.
    pub fn prefixes(&self) -> impl Iterator<Item = &IpNet> {
        self.wishes.keys()
    }

    /// How a group is shown this prefix: `None` when nobody wants it.
    pub fn shown<'g>(
        &self,
        prefix: &IpNet,
        group: &'g Group,
    ) -> Option<Result<&'g Arc<policy::Exported>, NotAnnounced>> {
        let wish = self.wishes.get(prefix)?;
        Some(group.show(prefix, &wish.vip, wish.draining || self.draining))
    }

    /// Wanted prefixes of a family past `after`, in order. IPv4 sorts before IPv6.
    fn past(&self, family: Family, after: Option<IpNet>) -> impl Iterator<Item = &IpNet> {
        use core::ops::Bound::{Excluded, Included, Unbounded};
        let from = match (after, family) {
            (Some(prefix), _) => Excluded(prefix),
            (None, Family::Ipv4) => Unbounded,
            (None, Family::Ipv6) => Included(IpNet::V6(Ipv6Net::default())),
        };
        let past = self.wishes.range((from, Unbounded)).map(|(prefix, _)| prefix);
        past.take_while(move |prefix| Family::of(prefix) == family)
    }
}

#[cfg(test)]
mod tests;
