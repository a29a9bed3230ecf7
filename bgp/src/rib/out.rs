//! What one neighbor still has to be told, and what it was told: one queue per Established session.
//!
//! A queue holds prefixes and never messages: a prefix that changes ten times before the neighbor reads is sent once, as it is then. The
//! full table and route refreshes walk the wishes in bounded pieces, so they cost no copy of the table either.

mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::Rib;
use super::policy::{Exported, Group, NotAnnounced};
use crate::time::Instant;
use crate::wire::update::encode::END_OF_RIB_LEN;
use crate::wire::{Family, RouteRefresh};
use writer::Writer;

/// What one call of [`OutQueue::next`] wrote.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Batch {
    /// Prefixes announced.
    pub announced: usize,
    /// Prefixes withdrawn.
    pub withdrawn: usize,
    /// UPDATE messages, End-of-RIB included.
    pub updates: usize,
    /// ROUTE-REFRESH messages that mark the begin or end of a refresh (RFC 7313).
    pub marks: usize,
    /// The oldest decision that is now on the wire; `None` when only the full table or a refresh was.
    pub oldest: Option<Instant>,
    /// Families whose End-of-RIB was written.
    pub end_of_rib: Vec<Family>,
    /// The budget ended before the work.
    pub more: bool,
}

/// A route as the neighbor was sent it.
#[derive(Clone, Copy, Debug)]
pub struct Advertised<'a> {
    /// Which.
    pub prefix: IpNet,
    /// How.
    pub exported: &'a Exported,
}

/// The queue of one session, from Established until it ends. A new session gets a new one.
///
/// Contract: [`Self::changed`] for every prefix that [`Rib`] says has changed, then [`Self::next`] whenever the connection takes bytes,
/// again while [`Batch::more`]. What `next` appended counts as sent.
#[derive(Debug)]
pub struct OutQueue {
    group: Arc<Group>,
    enhanced_refresh: bool,
    /// End-of-RIB may be sent.
    gate_open: bool,
    retired: bool,
    sent: BTreeMap<IpNet, Arc<Exported>>,
    /// How many of `sent` are of each family.
    counts: [usize; 2],
    /// Sent and no longer wanted. No prefix is in both maps.
    withdraw: BTreeMap<IpNet, Due>,
    /// Wanted and not sent like that.
    announce: BTreeMap<IpNet, Due>,
    streams: [Stream; 2],
}

/// Why a prefix is to be announced or withdrawn.
#[derive(Clone, Copy, Debug)]
struct Due {
    /// The oldest decision that is not on the wire yet.
    since: Option<Instant>,
    /// A refresh has passed this prefix and it was not sent since: to be announced even if the neighbor was sent the same before. It
    /// outlives a withdrawal that is taken back unsent, or EoRR would make the neighbor drop the route (RFC 7313 section 4).
    anyway: bool,
}

/// A family's table on its way.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    walk: Option<Walk>,
    /// Another refresh was asked for meanwhile.
    again: bool,
    end_of_rib_due: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Walk {
    /// Where it stands.
    after: Option<IpNet>,
    /// A refresh: send also what was sent before.
    anyway: bool,
    begun: bool,
    /// Between BoRR and EoRR.
    marked: bool,
}

fn index(family: Family) -> usize {
    match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => 1,
    }
}

impl OutQueue {
    /// Owes everything that is wanted, then End-of-RIB for every negotiated family. `enhanced_refresh`: RFC 7313 was negotiated.
    pub fn full_table(group: Arc<Group>, enhanced_refresh: bool) -> Self {
        let mut streams = [Stream::default(); 2];
        for family in group.families().iter() {
            streams[index(family)] = Stream { walk: Some(Walk::default()), again: false, end_of_rib_due: true };
        }
        Self {
            group,
            enhanced_refresh,
            gate_open: false,
            retired: false,
            sent: BTreeMap::new(),
            counts: [0; 2],
            withdraw: BTreeMap::new(),
            announce: BTreeMap::new(),
            streams,
        }
    }

    /// End-of-RIB may be sent from now on ([`crate::graceful::EndOfRibGate`]).
    pub fn open_gate(&mut self) {
        self.gate_open = true;
    }

    /// This prefix changed by a decision made at `since`.
    pub fn changed(&mut self, rib: &Rib, prefix: IpNet, since: Instant) {
        let Some(wanted) = self.wanted(rib, &prefix) else {
            let anyway = self.announce.remove(&prefix).is_some_and(|due| due.anyway);
            if self.sent.contains_key(&prefix) {
                self.withdraw.entry(prefix).or_insert(Due { since: Some(since), anyway });
            }
            return;
        };
        let known = self.sent.get(&prefix).is_some_and(|sent| sent.says_the_same(&wanted));
        let due = self.withdraw.remove(&prefix).or_else(|| self.announce.get(&prefix).copied());
        let anyway = due.is_some_and(|due| due.anyway);
        if known && !anyway {
            self.announce.remove(&prefix);
        } else {
            let due = self.announce.entry(prefix).or_insert(Due { since: None, anyway });
            due.since = due.since.or(Some(since));
        }
    }

    /// Anything may have changed by a decision made at `since`: the whole table is compared with what was sent.
    pub fn reconsider(&mut self, rib: &Rib, since: Instant) {
        let gone: Vec<_> = self.sent.keys().filter(|prefix| !rib.wishes.contains_key(*prefix)).copied().collect();
        for prefix in gone.into_iter().chain(rib.prefixes().copied()) {
            self.changed(rib, prefix, since);
        }
    }

    /// A new policy under a session that stays: only what looks different is sent.
    pub fn set_group(&mut self, rib: &Rib, group: Arc<Group>, since: Instant) {
        if !Arc::ptr_eq(&self.group, &group) {
            self.group = group;
            self.reconsider(rib, since);
        }
    }

    /// The neighbor asks for a family's routes again (RFC 2918, RFC 7313). One more request while it is served is served afterwards, and
    /// any number of them once.
    pub fn refresh(&mut self, family: Family) {
        if self.retired || !self.group.families().contains(family) {
            return;
        }
        let stream = &mut self.streams[index(family)];
        match stream.walk {
            Some(_) => stream.again = true,
            None => stream.walk = Some(Walk { anyway: true, ..Walk::default() }),
        }
    }

    /// The session is about to end: withdraw everything, announce nothing any more. Only withdrawals follow.
    pub fn retire(&mut self, since: Instant) {
        self.retired = true;
        self.announce.clear();
        self.streams = [Stream::default(); 2];
        for prefix in self.sent.keys() {
            self.withdraw.entry(*prefix).or_insert(Due { since: Some(since), anyway: false });
        }
    }

    /// Appends whole messages: withdrawals, then changes, then the table on its way, then End-of-RIB. No message is longer than
    /// `max_message`, and all together are no longer than `budget`; when not even one fits into that, one is written nevertheless.
    pub fn next(&mut self, rib: &Rib, budget: usize, max_message: usize, out: &mut Vec<u8>) -> Batch {
        let mut writer = Writer::new(out, budget, max_message);
        let done = self.withdrawals(&mut writer) && self.changes(rib, &mut writer) && self.tables(rib, &mut writer);
        let mut batch = writer.finish();
        batch.more = !done;
        batch
    }

    /// What the neighbor holds of ours.
    pub fn advertised(&self) -> impl Iterator<Item = Advertised<'_>> {
        self.sent.iter().map(|(prefix, exported)| Advertised { prefix: *prefix, exported })
    }

    /// What is wanted and not announced, and why.
    pub fn held_back<'a>(&'a self, rib: &'a Rib) -> impl Iterator<Item = (IpNet, NotAnnounced)> + 'a {
        let why = |prefix| Some((prefix, rib.shown(&prefix, &self.group)?.err()?));
        rib.prefixes().copied().filter_map(why)
    }

    /// How many prefixes of a family the neighbor holds.
    pub fn prefixes_out(&self, family: Family) -> usize {
        self.counts[index(family)]
    }

    /// Prefixes that are to be sent, the rest of a table on its way included.
    pub fn depth(&self, rib: &Rib) -> usize {
        let walking =
            Family::ALL.into_iter().filter_map(|family| Some((family, self.streams[index(family)].walk?.after)));
        let rest: usize = walking.map(|(family, after)| rib.past(family, after).count()).sum();
        self.withdraw.len() + self.announce.len() + rest
    }

    /// [`Self::next`] would write nothing.
    pub fn is_idle(&self) -> bool {
        let busy = |stream: &Stream| stream.walk.is_some() || (stream.end_of_rib_due && self.gate_open);
        self.withdraw.is_empty() && self.announce.is_empty() && !self.streams.iter().any(busy)
    }

    fn wanted(&self, rib: &Rib, prefix: &IpNet) -> Option<Arc<Exported>> {
        if self.retired {
            return None;
        }
        rib.shown(prefix, &self.group)?.ok().cloned()
    }

    /// True when none is left.
    fn withdrawals(&mut self, writer: &mut Writer<'_>) -> bool {
        while let Some((first, _)) = self.withdraw.first_key_value() {
            let family = Family::of(first);
            let of_family = self.withdraw.keys().take_while(|prefix| Family::of(prefix) == family);
            let piece: Vec<IpNet> = writer.piece(of_family.copied());
            let count = writer.withdraw(family, &piece);
            for prefix in &piece[..count] {
                let since = self.withdraw.remove(prefix).and_then(|due| due.since);
                writer.batch.oldest = earlier(writer.batch.oldest, since);
                if self.sent.remove(prefix).is_some() {
                    self.counts[index(family)] -= 1;
                }
            }
            if count < piece.len() {
                return false;
            }
        }
        true
    }

    /// True when none is left.
    fn changes(&mut self, rib: &Rib, writer: &mut Writer<'_>) -> bool {
        while !self.announce.is_empty() {
            let piece = writer.piece(self.announce.keys().copied());
            let mut sets = Vec::with_capacity(piece.len());
            for prefix in piece {
                match self.wanted(rib, &prefix) {
                    Some(exported) => sets.push((exported, prefix)),
                    // The caller forgot to say so: it is not announced all the same.
                    None => {
                        let due = self.announce.remove(&prefix);
                        if let Some(due) = due.filter(|_| self.sent.contains_key(&prefix)) {
                            self.withdraw.insert(prefix, due);
                        }
                    }
                }
            }
            sets.sort_by_key(|(exported, _)| exported.id);
            for run in sets.chunk_by(|(a, _), (b, _)| a.id == b.id) {
                let exported = &run[0].0;
                let prefixes: Vec<IpNet> = run.iter().map(|(_, prefix)| *prefix).collect();
                let count = writer.announce(exported, &prefixes);
                for prefix in &prefixes[..count] {
                    let due = self.announce.remove(prefix).and_then(|due| due.since);
                    writer.batch.oldest = earlier(writer.batch.oldest, due);
                    if self.sent.insert(*prefix, Arc::clone(exported)).is_none() {
                        self.counts[index(Family::of(prefix))] += 1;
                    }
                }
                if count < run.len() {
                    return false;
                }
            }
        }
        self.withdraw.is_empty()
    }

    /// True when none is left.
    fn tables(&mut self, rib: &Rib, writer: &mut Writer<'_>) -> bool {
        for family in self.group.families().iter() {
            while let Some(mut walk) = self.streams[index(family)].walk {
                let begun = self.begin(family, &mut walk, writer);
                let done = begun && self.walk(rib, family, &mut walk, writer);
                let ended = done && (!walk.marked || writer.mark(family, RouteRefresh::END));
                let stream = &mut self.streams[index(family)];
                stream.walk = Some(walk);
                if !ended {
                    return false;
                }
                let again = core::mem::take(&mut stream.again);
                stream.walk = again.then(|| Walk { anyway: true, ..Walk::default() });
            }
            let stream = &mut self.streams[index(family)];
            if stream.end_of_rib_due && self.gate_open {
                if !writer.has_room(END_OF_RIB_LEN) {
                    return false;
                }
                writer.end_of_rib(family);
                stream.end_of_rib_due = false;
            }
        }
        true
    }

    /// RFC 7313 section 4: no mark before End-of-RIB; such a request is answered as RFC 2918 does.
    fn begin(&self, family: Family, walk: &mut Walk, writer: &mut Writer<'_>) -> bool {
        if !walk.begun {
            walk.marked = walk.anyway && self.enhanced_refresh && !self.streams[index(family)].end_of_rib_due;
            walk.begun = !walk.marked || writer.mark(family, RouteRefresh::BEGIN);
        }
        walk.begun
    }

    /// Makes a piece of the table due and sends it, until there is no more of it.
    fn walk(&mut self, rib: &Rib, family: Family, walk: &mut Walk, writer: &mut Writer<'_>) -> bool {
        loop {
            // What an earlier piece left over goes first: End-of-RIB and EoRR must not overtake it.
            if !self.changes(rib, writer) {
                return false;
            }
            let piece = writer.piece(rib.past(family, walk.after).copied());
            let Some(last) = piece.last() else { return true };
            walk.after = Some(*last);
            for prefix in piece {
                let Some(wanted) = self.wanted(rib, &prefix) else { continue };
                let known = self.sent.get(&prefix).is_some_and(|sent| sent.says_the_same(&wanted));
                if walk.anyway || !known {
                    self.announce.entry(prefix).or_insert(Due { since: None, anyway: false }).anyway |= walk.anyway;
                }
            }
        }
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

#[cfg(test)]
mod tests;
