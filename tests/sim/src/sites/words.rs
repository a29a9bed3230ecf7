//! What relays and nodes know of other sites, seen from outside: from sessions that stand, from what sites have ready, and from what each node
//! would answer.

use std::collections::BTreeMap;

use bascule_core::site::state::BEAT;
use bascule_core::site::state::message::Cursor;
use bascule_core::site::state::record::{Body, Key};

use super::host::{Host, LOCAL, id};
use super::link::SEC;
use super::node::NAMES;
use super::scene::LATE;
use super::wan::wire::{At, Standing};
use crate::violation::Violation;

/// An urgent record is known at the other end of a session that works.
const URGENT: u64 = SEC;
/// A session that stands for so long has said everything; a node that runs for so long listens to all relays, and after it stood still hears of
/// sessions again within a beat of `state`.
const LEARNED: u64 = 15 * SEC;
/// Beats until all that is known was said again after sessions became other ones.
const TURNED: u64 = 5;
/// Words and looks, beside beats.
const SLACK: u64 = SEC;
/// Those who lead have a session with one another when they have led for so long: a session whose end is silent stands for 15 s, and they look for
/// each other every 5 s.
const PAIRED: u64 = 30 * SEC;
/// The same after the link between them was cut: back-off.
const HEALED: u64 = 90 * SEC;

/// What is true at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) hosts: &'a [Option<Host>],
    pub(super) standing: &'a [Standing],
    pub(super) cut: &'a [Vec<bool>],
    pub(super) paused: &'a [bool],
    /// When each site last had something else ready, and when a node of it last died, stood still or came back.
    pub(super) said: &'a [u64],
    pub(super) stirred: &'a [u64],
    pub(super) now: u64,
}

/// Connections of a pair of sites' relays, and since when they are those.
type Turned = (Vec<[At; 2]>, u64);

/// The checker of it.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// How far a relay has read another one, with the process that reads.
    cursors: BTreeMap<(At, At), (u64, Cursor)>,
    /// What a node knows of a site: its process, the place in the news of that site, what stands there.
    places: BTreeMap<(At, usize), (u64, usize, u16)>,
    /// Since when one session of two sites always stood; all that stand, and since when it is those.
    covered: BTreeMap<(usize, usize), u64>,
    turned: BTreeMap<(usize, usize), Turned>,
    /// Who leads two sites, and since when, without a cut between them; and when there was one.
    leaders: BTreeMap<(usize, usize), ([At; 2], u64)>,
    cut: BTreeMap<(usize, usize), u64>,
    /// The oldest that was known of a site at any time while a session stood, in nanoseconds.
    pub(super) oldest: u64,
    /// Most sessions that two sites had at once.
    pub(super) most: usize,
}

impl Words {
    /// After a site heard something: no older word has replaced a newer one at a node. `news`: what each site has had ready, in its order.
    pub(super) fn heard(&mut self, site: usize, host: &Host, news: &[Vec<u16>], now: u64) -> Result<(), Violation> {
        if news.iter().all(|news| news.len() < 2) {
            return Ok(());
        }
        for (number, _, daemon) in host.running() {
            for (of, news) in news.iter().enumerate().filter(|(of, _)| *of != site) {
                let Some(ready) = daemon.join.summary(id(of), LOCAL).map(|summary| summary.ready) else { continue };
                let before = self.places.get(&((site, number), of)).filter(|(life, ..)| *life == daemon.life);
                if before.is_some_and(|(.., known)| *known == ready) {
                    continue;
                }
                let place = match before {
                    Some((_, at, _)) => (at + 1..news.len()).find(|at| news[*at] == ready),
                    None => news.iter().rposition(|one| *one == ready),
                };
                let Some(place) = place else {
                    let name = NAMES[number];
                    let text = format!(
                        "node {name} of site {site} knows {ready} ready of site {of}, after {before:?} of {news:?}"
                    );
                    return Err(Violation { rule: "no older word", at: now, text });
                };
                let _before = self.places.insert(((site, number), of), (daemon.life, place, ready));
            }
        }
        Ok(())
    }

    /// Every 100 ms.
    pub(super) fn look(&mut self, seen: &Seen<'_>) -> Result<(), Violation> {
        for Standing { ends: [a, b], since } in seen.standing {
            self.read(seen, [*a, *b], *since)?;
            self.read(seen, [*b, *a], *since)?;
        }
        let sites = seen.hosts.len();
        for (a, b) in (0..sites).flat_map(|a| (a + 1..sites).map(move |b| (a, b))) {
            self.pair(seen, (a, b))?;
        }
        Ok(())
    }

    /// What one relay has read of another.
    fn read(&mut self, seen: &Seen<'_>, [reader, writer]: [At; 2], since: u64) -> Result<(), Violation> {
        let wrong = |rule, text| Err(Violation { rule, at: seen.now, text });
        let (Some(reads), Some(writes)) = (&seen.hosts[reader.0], &seen.hosts[writer.0]) else { return Ok(()) };
        let (at, Some(relay)) = (reads.at(seen.now), reads.relay(reader.1)) else { return Ok(()) };
        let (of, state) = (id(writer.0), &relay.state);
        let (run, cursor) = (state.own().instance, state.cursor(of));
        let before = self.cursors.insert((reader, writer), (run, cursor)).filter(|(before, _)| *before == run);
        let older = |old: &Cursor| {
            let back = old.incarnation == cursor.incarnation && cursor.seq > 0 && old.seq > cursor.seq;
            old.incarnation > cursor.incarnation || back
        };
        if let Some((_, old)) = before.filter(|(_, old)| older(old)) {
            let text = format!("relay {reader:?} of {writer:?}: {old:?} then {cursor:?}");
            return wrong("no older incarnation", text);
        }
        if state.duplicate() {
            return wrong("one writer of a name", format!("relay {reader:?} takes another one for itself"));
        }
        if seen.now.saturating_sub(since) <= LEARNED || seen.now.saturating_sub(seen.said[writer.0]) <= URGENT {
            return Ok(());
        }
        let known = state.records(of, at).find_map(|(key, body, _)| match body {
            Body::Service(summary) if key == Key::Service(LOCAL) => Some(summary.ready),
            _ => None,
        });
        if known != Some(writes.ready) {
            let text = format!("relay {reader:?} knows {known:?} ready of {writer:?}, which has {}", writes.ready);
            return wrong("what is said is known", text);
        }
        Ok(())
    }

    /// Two sites.
    fn pair(&mut self, seen: &Seen<'_>, pair: (usize, usize)) -> Result<(), Violation> {
        let ((a, b), now) = (pair, seen.now);
        let cut = seen.cut[a][b] || seen.cut[b][a];
        let of = |one: &&Standing| one.ends[0].0 == a && one.ends[1].0 == b && !cut;
        let standing: Vec<Standing> = seen.standing.iter().filter(of).copied().collect();
        let ends: Vec<[At; 2]> = standing.iter().map(|one| one.ends).collect();
        self.most = self.most.max(ends.len());
        let turned = self.turned.entry(pair).or_default();
        if turned.0 != ends {
            *turned = (ends, now);
        }
        let turned = turned.1;
        if cut {
            let _last = self.cut.insert(pair, now);
        }
        self.lead(seen, pair, &standing)?;
        let Some(oldest) = standing.iter().map(|one| one.since).min() else {
            let _none = self.covered.remove(&pair);
            return Ok(());
        };
        let covered = *self.covered.entry(pair).or_insert(now);
        let stirred = seen.stirred[a].max(seen.stirred[b]);
        for (reader, writer) in [(a, b), (b, a)] {
            let (Some(reads), Some(writes)) = (&seen.hosts[reader], &seen.hosts[writer]) else { continue };
            let said = now.saturating_sub(seen.said[writer]);
            let late = if now - stirred > LATE + LEARNED { URGENT } else { LATE };
            if now.saturating_sub(oldest) > LEARNED && said > late {
                every_node_knows(reads, writes, now)?;
            }
            self.age(reads, writer, (covered, turned), now)?;
        }
        Ok(())
    }

    /// What is known of a site is at most two beats old, one of its relay and one of the reader's. After sessions became other ones it is five: what
    /// the next relay says is not confirmed before its beat, the second of its process if that has just begun.
    fn age(&mut self, reads: &Host, writer: usize, (covered, turned): (u64, u64), now: u64) -> Result<(), Violation> {
        let beat = u64::try_from(BEAT.as_nanos()).unwrap_or(u64::MAX);
        let most = |beats: u64| beats * beat + SLACK;
        let turning = now - turned <= most(TURNED);
        let bound = most(if turning { TURNED } else { 2 });
        for (number, node, daemon) in reads.running() {
            let since = covered.max(node.since).max(node.woke).max(reads.woke);
            let Some(age) = daemon.join.age(id(writer), reads.at(now)).filter(|_| now - since > most(TURNED)) else {
                continue;
            };
            let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            self.oldest = self.oldest.max(age);
            if age > bound {
                let (name, age) = (NAMES[number], age as f64 / 1e9);
                let text = format!("node {name} of site {} knows of site {writer} as of {age:.3} s ago", reads.site);
                return Err(Violation { rule: "what is known is young", at: now, text });
            }
        }
        Ok(())
    }

    /// Those who lead have a session with one another.
    fn lead(&mut self, seen: &Seen<'_>, pair: (usize, usize), standing: &[Standing]) -> Result<(), Violation> {
        let awake = |site: usize| {
            let host = seen.hosts[site].as_ref().filter(|_| !seen.paused[site])?;
            let leader = host.leader().filter(|node| host.nodes[*node].frozen.is_none())?;
            Some((site, leader))
        };
        let ((a, b), now) = (pair, seen.now);
        let (Some(one), Some(other)) = (awake(a), awake(b)) else {
            let _none = self.leaders.remove(&pair);
            return Ok(());
        };
        let entry = self.leaders.entry(pair).or_insert(([one, other], now));
        if entry.0 != [one, other] {
            *entry = ([one, other], now);
        }
        let since = entry.1.max(seen.stirred[a]).max(seen.stirred[b]);
        let healed = self.cut.get(&pair).is_none_or(|cut| now - cut > HEALED);
        if now - since > PAIRED && healed && !standing.iter().any(|of| of.ends == [one, other]) {
            let text = format!("{one:?} and {other:?} lead, sessions: {standing:?}");
            return Err(Violation { rule: "those who lead hear one another", at: now, text });
        }
        Ok(())
    }
}

/// What the relays of a site know of another one every node of the site knows, if it has run for a while.
fn every_node_knows(reads: &Host, writes: &Host, now: u64) -> Result<(), Violation> {
    let of = id(writes.site);
    for (number, node, daemon) in reads.running().filter(|(_, node, _)| now - node.since.max(node.woke) > LEARNED) {
        let wrong = |what| {
            let (name, since) = (NAMES[number], node.since as f64 / 1e9);
            let text =
                format!("node {name} of site {}, since {since:.3} s, of site {}: {what}", reads.site, writes.site);
            Err(Violation { rule: "what is said is known to every node", at: now, text })
        };
        let known = daemon.join.summary(of, LOCAL).map(|summary| summary.ready);
        if known != Some(writes.ready) {
            return wrong(format!("{known:?} ready, where {} are", writes.ready));
        }
        if now.saturating_sub(reads.woke.max(node.woke)) > LEARNED && !daemon.join.session(of) {
            return wrong("no session".to_owned());
        }
    }
    Ok(())
}
