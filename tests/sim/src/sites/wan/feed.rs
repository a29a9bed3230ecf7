//! What goes between the nodes of a site: the words of relays, and what nodes say to them. Each node listens to each relay of its site over a
//! connection of its own, which carries words in order, late by what a network within a site takes. A relay that dies ends it, with what it said
//! still on its way; where its host lives, who listens calls at once and is refused, and knows. It is made anew within a second of the relay's
//! return (`feed::listen` in `daemon/mesh`), and then nothing comes of the one before.

use std::collections::BTreeMap;

use super::super::link::{MS, SEC};
use super::super::node::{NAMES, NODES, RELAYS, Word};
use super::{Event, World};
use crate::rng::Rng;

/// A word takes at least so long, and at most twenty times.
const WAY: u64 = MS / 10;
/// Who finds nobody calls again after so long.
const AGAIN: u64 = SEC;

/// A site, a relay of it, and a node that listens to that.
type Ear = (usize, usize, usize);

/// Something on its way.
#[derive(Debug)]
struct Parcel {
    ear: Ear,
    /// The processes of the relay and of the node, and which connection of theirs it is.
    lives: [u64; 2],
    line: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    /// The connection is made.
    Call,
    Down(Word),
    Up(Word),
    /// Nobody serves there any more.
    Refused,
}

/// The feeds of all sites. Their chances are their own: what happens between sites stays what a seed made of it.
#[derive(Debug)]
pub(super) struct Feed {
    rng: Rng,
    under_way: BTreeMap<u64, Parcel>,
    ears: BTreeMap<Ear, Line>,
}

/// The last connection.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    number: u64,
    /// When the last word of each direction arrives: to the node, and to the relay.
    last: [u64; 2],
    open: bool,
}

impl Feed {
    pub(super) const fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed ^ 0xfeed), under_way: BTreeMap::new(), ears: BTreeMap::new() }
    }

    /// One of two.
    pub(super) const fn chance(&mut self) -> bool {
        self.rng.chance(500)
    }
}

impl World {
    /// The daemon of a node starts: it calls the relays of its site, and is called where it is one.
    pub(super) fn rise(&mut self, site: usize, node: usize) {
        let now = self.now;
        self.starts += 1;
        let life = self.starts << 8 | site as u64;
        let Some(host) = self.hosts[site].as_mut().filter(|host| host.nodes[node].daemon.is_none()) else { return };
        host.boot(node, life, now);
        self.touched[site] = true;
        self.stirred[site] = now;
        let others = || (0..NODES).filter(move |other| *other != node);
        let heard = others().filter(|_| RELAYS.contains(&node)).map(|other| (site, node, other));
        let hears = others().filter(|other| RELAYS.contains(other)).map(|other| (site, other, node));
        heard.chain(hears).for_each(|ear| self.listen(ear, [MS, AGAIN]));
    }

    /// A node calls a relay of its site within such a time.
    pub(super) fn listen(&mut self, ear: Ear, [least, most]: [u64; 2]) {
        let wait = self.feed.rng.between(least, most);
        self.parcel(ear, What::Call, self.now + wait);
    }

    /// The daemon of a node dies. Half of all deaths are those of a host, and nobody answers.
    pub(super) fn fall(&mut self, site: usize, node: usize) {
        let silent = !self.feed.rng.chance(500);
        self.end(site, node, silent);
    }

    /// The daemon of a node is over.
    pub(super) fn end(&mut self, site: usize, node: usize, silent: bool) {
        let listeners: Vec<(Ear, [u64; 2], Line)> = (0..NODES)
            .map(|listens| (site, node, listens))
            .filter_map(|ear| Some((ear, self.lives(ear)?, *self.feed.ears.get(&ear).filter(|line| line.open)?)))
            .collect();
        self.log(site, &format!("{} dies{}", NAMES[node], if silent { " with its host" } else { "" }));
        let Some(host) = self.hosts[site].as_mut().filter(|host| host.nodes[node].daemon.is_some()) else { return };
        host.kill(node);
        host.nodes[node].lost = silent;
        let _unread = self.frozen.remove(&(site, node));
        self.touched[site] = true;
        self.stirred[site] = self.now;
        for (ear, lives, line) in listeners.into_iter().filter(|_| !silent) {
            let late = self.feed.rng.between(WAY, 20 * WAY);
            // Behind what it has said.
            let at = (self.now + late).max(line.last[0] + 1);
            self.carry(ear, (lives, line.number), What::Refused, at);
        }
        self.unheard(site, Some(node));
        self.hang_up((site, node), !silent);
    }

    /// Connections within a site are over: those of a node, or all.
    pub(super) fn unheard(&mut self, site: usize, node: Option<usize>) {
        let of = |relay, listens| node.is_none_or(|node| node == relay || node == listens);
        let over = self.feed.ears.iter_mut().filter(|((at, relay, listens), _)| *at == site && of(*relay, *listens));
        over.for_each(|(_, line)| line.open = false);
    }

    /// One connection is over; false: there was none.
    pub(super) fn deafen(&mut self, ear: Ear) -> bool {
        self.feed.ears.get_mut(&ear).is_some_and(|line| std::mem::take(&mut line.open))
    }

    /// The node that something within a site is for.
    pub(super) fn listener(&self, number: u64) -> Option<usize> {
        let Parcel { ear: (_, relay, node), what, .. } = self.feed.under_way.get(&number)?;
        Some(if matches!(what, What::Up(_)) { *relay } else { *node })
    }

    /// A relay says a word to all that listen to it.
    pub(super) fn tell_nodes(&mut self, site: usize, relay: usize, word: &Word) {
        (0..NODES).for_each(|node| self.pass((site, relay, node), word, false));
    }

    /// A node says a word to all relays that it listens to.
    pub(super) fn tell_relays(&mut self, site: usize, node: usize, word: &Word) {
        RELAYS.for_each(|relay| self.pass((site, relay, node), word, true));
    }

    fn pass(&mut self, ear: Ear, word: &Word, up: bool) {
        let (now, late) = (self.now, self.feed.rng.between(WAY, 20 * WAY));
        let Some(line) = self.feed.ears.get_mut(&ear).filter(|line| line.open) else { return };
        let last = &mut line.last[usize::from(up)];
        *last = (now + late).max(*last + 1);
        let at = *last;
        let word = word.clone();
        self.parcel(ear, if up { What::Up(word) } else { What::Down(word) }, at);
    }

    fn parcel(&mut self, ear: Ear, what: What, at: u64) {
        let line = self.feed.ears.get(&ear).map_or(0, |line| line.number);
        if let Some(lives) = self.lives(ear) {
            self.carry(ear, (lives, line), what, at);
        }
    }

    fn carry(&mut self, ear: Ear, (lives, line): ([u64; 2], u64), what: What, at: u64) {
        self.order += 1;
        let (site, number) = (ear.0, self.order);
        let _new = self.feed.under_way.insert(number, Parcel { ear, lives, line, what });
        self.put(at, Event::Word { site, number });
    }

    /// The processes at both ends of a connection; `None`: one does not run.
    fn lives(&self, (site, relay, node): Ear) -> Option<[u64; 2]> {
        let host = self.hosts[site].as_ref()?;
        let life = |node: usize| host.nodes[node].daemon.as_ref().map(|daemon| daemon.life);
        Some([life(relay)?, life(node)?])
    }

    /// It arrives, if it is for the process that it was sent to and of the last connection that there was.
    pub(super) fn word(&mut self, site: usize, number: u64) {
        let Some(Parcel { ear, lives, line, what }) = self.feed.under_way.remove(&number) else { return };
        let (now, (_, relay, node)) = (self.now, ear);
        let last = self.feed.ears.get(&ear).is_some_and(|last| last.number == line);
        let Some(host) = &mut self.hosts[site] else { return };
        let [tells, hears] = [relay, node].map(|node| host.life(node));
        let [told, heard] = [tells == Some(lives[0]), hears == Some(lives[1])];
        match what {
            What::Refused if tells.is_none() && heard => host.refused(node, relay, now),
            What::Up(word) if told && last => host.hear(relay, node, word, now),
            What::Down(word) if heard && last => host.hear(node, relay, word, now),
            What::Call if told && heard && host.nodes[relay].frozen.is_some() => {
                // It is called until it answers.
                return self.listen(ear, [AGAIN, 2 * AGAIN]);
            }
            What::Call if told && heard => {
                let all = host.greeting(relay, now);
                self.order += 1;
                let line = Line { number: self.order, last: [now; 2], open: true };
                let _new = self.feed.ears.insert(ear, line);
                all.iter().for_each(|word| self.pass(ear, word, false));
            }
            What::Refused | What::Up(_) | What::Down(_) | What::Call => return,
        }
        self.touched[site] = true;
    }
}
