//! Which entries of the kernel's neighbour tables are kept, and what each of them needs now.
//!
//! An ordinary entry is the kernel's to drop, and a full table refuses a new one; what is sent to such a neighbour then vanishes. Those that
//! this node depends on are marked as learned elsewhere (`NTF_EXT_LEARNED` of linux/neighbour.h), which frees them of limit and collector,
//! and still follow the neighbour's own ARP and NDP, as a permanent entry would not (ADR 0041). Where the neighbours are (routes, links) and
//! what the tables say comes from the driver; so does every change.
//!
//! A question for an IPv6 neighbour goes to a group, and that needs an entry as well: it is kept beside the neighbour's own. One for an IPv4 neighbour is a
//! broadcast by ARP, which needs none.

#[cfg(test)]
mod tests;

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use crate::types::{LinkId, Mac};

/// A MAC that nothing has confirmed for so long is asked for again. The kernel itself asks after 30 s or so (`base_reachable_time_ms`), and
/// goes on sending to a network card that is gone meanwhile.
pub const VERIFY: Duration = Duration::from_secs(5);

/// Where an entry stands: the neighbour on its link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// Link.
    pub link: LinkId,
    /// The neighbour: a peer, or the gateway towards it.
    pub address: IpAddr,
}

impl Place {
    /// Where a question for an IPv6 neighbour goes: its solicited-node group (RFC 4291 section 2.7.1).
    fn group(self) -> Option<Self> {
        match self.address {
            IpAddr::V6(address) if !address.is_multicast() => {
                let [.., a, b, c] = address.octets();
                let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
                Some(Self { address: IpAddr::from(group), ..self })
            }
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }
}

/// How sure the kernel is (`NUD_*` of linux/neighbour.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Certainty {
    /// Permanent: never asked, never dropped.
    Fixed,
    /// A group, whose MAC follows from its address: never asked. The first to be dropped.
    Plain,
    /// Reachable, stale, or delayed: it has a MAC, and nobody asks now.
    Known,
    /// Incomplete or probed: it is being asked for.
    Asking,
    /// Nothing, or no answer.
    Lost,
}

/// Who marked an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    /// Nobody: the kernel may drop it.
    Nobody,
    /// This daemon, in this run or a former one.
    Us,
    /// Another program. It is as safe as ours, and not ours to touch.
    Other,
}

/// An entry as the kernel tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// How sure it is.
    pub certainty: Certainty,
    /// The MAC in use.
    pub mac: Option<Mac>,
    /// Who marked it.
    pub holder: Holder,
    /// Time since the neighbour was last proven to be there.
    pub confirmed: Duration,
}

/// What the driver owes an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Step {
    /// Make it, marked, and ask for the MAC.
    Make,
    /// Mark the one that is there; it has a MAC, which stays.
    Mark,
    /// Take it away and make it anew, marked.
    Renew,
    /// Ask for the MAC, by broadcast.
    Ask,
    /// Ask the known MAC whether it is still right; it is used meanwhile.
    Verify,
    /// Make it an ordinary entry, which keeps its MAC.
    Return,
    /// Take it away.
    Delete,
}

/// Something that is said once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// From now on it is kept.
    Kept(Place),
    /// It is ordinary again, or gone.
    Released(Place),
    /// The neighbour has another MAC.
    Moved {
        /// Which.
        place: Place,
        /// The MAC before.
        from: Mac,
        /// The MAC now.
        to: Mac,
    },
}

/// How the neighbours stand that are depended on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// With an entry that nothing drops, and a MAC.
    pub resolved: usize,
    /// With such an entry, and without an answer so far.
    pub unresolved: usize,
    /// Without one.
    pub missing: usize,
}

/// What is known of an entry that is ours.
#[derive(Clone, Copy, Debug)]
struct Held {
    mac: Option<Mac>,
    /// Count of carrier changes of its link when its MAC was last asked for by broadcast.
    carrier: Option<u32>,
}

/// Decides look by look. The driver reads the tables, calls [`Keeper::look`], carries out the steps in their order, and says what was refused.
#[derive(Debug, Default)]
pub struct Keeper {
    held: BTreeMap<Place, Held>,
    refused: BTreeSet<Place>,
    standing: Standing,
    news: Vec<News>,
}

impl Keeper {
    /// A keeper that takes over what a former run marked: what is not wanted any more goes with the first look.
    pub fn new(left: impl IntoIterator<Item = Place>) -> Self {
        let held = left.into_iter().map(|place| (place, Held { mac: None, carrier: None })).collect();
        Self { held, ..Self::default() }
    }

    /// Entries whose state a look with this wish needs.
    pub fn reads(&self, wanted: &BTreeMap<Place, u32>) -> BTreeSet<Place> {
        let groups = wanted.keys().filter_map(|place| place.group());
        wanted.keys().copied().chain(groups).chain(self.held.keys().copied()).collect()
    }

    /// What each entry needs. `wanted`: those depended on, each with the count of carrier changes of its link; `seen`: the entries that there are,
    /// of those that [`Keeper::reads`] names.
    pub fn look(&mut self, wanted: &BTreeMap<Place, u32>, seen: &BTreeMap<Place, Seen>) -> Vec<(Place, Step)> {
        let mut steps = Vec::new();
        let groups: BTreeMap<Place, u32> =
            wanted.iter().filter_map(|(place, carrier)| Some((place.group()?, *carrier))).collect();
        let kept = |place: &Place| wanted.contains_key(place) || groups.contains_key(place);
        let gone: Vec<Place> = self.held.keys().filter(|&place| !kept(place)).copied().collect();
        for place in gone {
            self.let_go(place);
            match seen.get(&place) {
                Some(seen) if seen.holder == Holder::Us => steps.push((place, back(seen))),
                Some(_) | None => {}
            }
        }
        self.refused.retain(kept);
        self.standing = Standing::default();
        // Groups first: what asks needs them.
        for (place, carrier) in groups.iter().chain(wanted) {
            let seen = seen.get(place);
            if !place.address.is_multicast() {
                self.count(seen);
            }
            let step = self.step(*place, *carrier, seen);
            steps.extend(step.map(|step| (*place, step)));
        }
        steps
    }

    fn step(&mut self, place: Place, carrier: u32, seen: Option<&Seen>) -> Option<Step> {
        let Some(seen) = seen else { return Some(self.take(place, carrier, Step::Make)) };
        match (seen.holder, seen.certainty) {
            // Safe without us. What a program that let go of it leaves is marked by a later look.
            (Holder::Other, _) | (Holder::Nobody, Certainty::Fixed) => {
                self.let_go(place);
                None
            }
            (Holder::Nobody, Certainty::Known) => Some(self.take(place, carrier, Step::Mark)),
            (Holder::Nobody, Certainty::Plain) => Some(self.take(place, carrier, Step::Renew)),
            // One that is probed has a MAC; one that is asked for has none to lose.
            (Holder::Nobody, Certainty::Asking | Certainty::Lost) => {
                let step = if seen.mac.is_some() { Step::Mark } else { Step::Renew };
                Some(self.take(place, carrier, step))
            }
            (Holder::Us, _) => self.tend(place, carrier, seen),
        }
    }

    /// An entry that is ours already.
    fn tend(&mut self, place: Place, carrier: u32, seen: &Seen) -> Option<Step> {
        let held = self.held.entry(place).or_insert(Held { mac: None, carrier: None });
        if let (Some(from), Some(to)) = (held.mac, seen.mac)
            && from != to
        {
            self.news.push(News::Moved { place, from, to });
        }
        held.mac = seen.mac.or(held.mac);
        // Ordinary entries go with the carrier: at the other end of a cable that was out there may be another card.
        let unplugged = held.carrier.replace(carrier).is_some_and(|before| before != carrier);
        if unplugged && seen.certainty != Certainty::Plain {
            return Some(Step::Renew);
        }
        match seen.certainty {
            Certainty::Lost => Some(Step::Ask),
            Certainty::Known if seen.confirmed >= VERIFY => Some(Step::Verify),
            Certainty::Known | Certainty::Asking | Certainty::Fixed | Certainty::Plain => None,
        }
    }

    fn take(&mut self, place: Place, carrier: u32, step: Step) -> Step {
        let mac = self.held.get(&place).and_then(|held| held.mac);
        let new = self.held.insert(place, Held { mac, carrier: Some(carrier) }).is_none();
        if new && !place.address.is_multicast() {
            self.news.push(News::Kept(place));
        }
        step
    }

    fn let_go(&mut self, place: Place) {
        if self.held.remove(&place).is_some() && !place.address.is_multicast() {
            self.news.push(News::Released(place));
        }
    }

    fn count(&mut self, seen: Option<&Seen>) {
        let safe = |seen: &&Seen| seen.holder != Holder::Nobody || seen.certainty == Certainty::Fixed;
        let counter = match seen.filter(safe) {
            Some(seen) if seen.mac.is_some() || seen.certainty == Certainty::Fixed => &mut self.standing.resolved,
            Some(_) => &mut self.standing.unresolved,
            None => &mut self.standing.missing,
        };
        *counter += 1;
    }

    /// The kernel refused a step for this entry. True: it did not so far, and that is news.
    pub fn refused(&mut self, place: Place) -> bool {
        let first = self.refused.insert(place);
        if self.held.remove(&place).is_some() {
            self.news.retain(|news| *news != News::Kept(place));
        }
        first
    }

    /// The kernel took a step for this entry.
    pub fn done(&mut self, place: Place) {
        let _was = self.refused.remove(&place);
    }

    /// How the entries stood at the last look, before its steps.
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// What happened since the last call.
    pub fn news(&mut self) -> Vec<News> {
        core::mem::take(&mut self.news)
    }
}

/// How an entry of ours is let go of. Others may be using it, so one with a MAC stays.
const fn back(seen: &Seen) -> Step {
    match (seen.certainty, seen.mac) {
        (Certainty::Known | Certainty::Asking, Some(_)) => Step::Return,
        (Certainty::Fixed | Certainty::Plain | Certainty::Lost, _) | (_, None) => Step::Delete,
    }
}
