//! What goes between the nodes of a site: the words of relays, and what nodes say to them. Each node listens to each relay of its site over a
//! connection of its own, which carries words in order, late by what a network within a site takes. A relay that dies ends it; where its host
//! lives, who listens calls at once and is refused, and knows. It is made anew within a second of the relay's return (`feed::listen` in
//! `daemon/mesh`).

use std::collections::BTreeMap;

use super::super::link::{MS, SEC};
use super::super::node::{NODES, RELAYS, Word};
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
    /// The processes of the relay and of the node.
    lives: [u64; 2],
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
    /// Connections, and when the last word of each direction arrives: to the node, and to the relay.
    ears: BTreeMap<Ear, [u64; 2]>,
}

impl Feed {
    pub(super) const fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed ^ 0xfeed), under_way: BTreeMap::new(), ears: BTreeMap::new() }
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
        let others = || (0..NODES).filter(move |other| *other != node);
        let heard = others().filter(|_| RELAYS.contains(&node)).map(|other| (site, node, other));
        let hears = others().filter(|other| RELAYS.contains(other)).map(|other| (site, other, node));
        for ear in heard.chain(hears) {
            let wait = self.feed.rng.between(MS, AGAIN);
            self.parcel(ear, What::Call, now + wait);
        }
    }

    /// The daemon of a node dies.
    pub(super) fn fall(&mut self, site: usize, node: usize) {
        let listeners: Vec<(Ear, [u64; 2])> = (0..NODES)
            .map(|listens| (site, node, listens))
            .filter(|ear| self.feed.ears.contains_key(ear))
            .filter_map(|ear| Some((ear, self.lives(ear)?)))
            .collect();
        let Some(host) = &mut self.hosts[site] else { return };
        host.kill(node);
        self.touched[site] = true;
        // Half of all deaths are those of a host, and nobody answers.
        if self.feed.rng.chance(500) {
            for (ear, lives) in listeners {
                let late = self.feed.rng.between(WAY, 20 * WAY);
                self.carry(ear, lives, What::Refused, self.now + late);
            }
        }
        self.unheard(site, Some(node));
        (0..self.scene.sites).filter(|to| *to != site).for_each(|to| self.hang_up(site, node, to));
    }

    /// Connections within a site are over: those of a node, or all.
    pub(super) fn unheard(&mut self, site: usize, node: Option<usize>) {
        let of = |(relay, listens)| node.is_none_or(|node| node == relay || node == listens);
        self.feed.ears.retain(|(at, relay, listens), _| *at != site || !of((*relay, *listens)));
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
        let Some(last) = self.feed.ears.get_mut(&ear) else { return };
        let last = &mut last[usize::from(up)];
        *last = (now + late).max(*last + 1);
        let at = *last;
        let word = word.clone();
        self.parcel(ear, if up { What::Up(word) } else { What::Down(word) }, at);
    }

    fn parcel(&mut self, ear: Ear, what: What, at: u64) {
        if let Some(lives) = self.lives(ear) {
            self.carry(ear, lives, what, at);
        }
    }

    fn carry(&mut self, ear: Ear, lives: [u64; 2], what: What, at: u64) {
        self.order += 1;
        let (site, number) = (ear.0, self.order);
        let _new = self.feed.under_way.insert(number, Parcel { ear, lives, what });
        self.put(at, Event::Word { site, number });
    }

    /// The processes at both ends of a connection; `None`: one does not run.
    fn lives(&self, (site, relay, node): Ear) -> Option<[u64; 2]> {
        let host = self.hosts[site].as_ref()?;
        let life = |node: usize| host.nodes[node].daemon.as_ref().map(|daemon| daemon.life);
        Some([life(relay)?, life(node)?])
    }

    /// It arrives, if it is for the process that it was sent to.
    pub(super) fn word(&mut self, site: usize, number: u64) {
        let Some(Parcel { ear, lives, what }) = self.feed.under_way.remove(&number) else { return };
        let (now, (_, relay, node)) = (self.now, ear);
        let living = self.lives(ear) == Some(lives);
        let Some(host) = &mut self.hosts[site] else { return };
        let life = |node: usize| host.nodes[node].daemon.as_ref().map(|daemon| daemon.life);
        let refused = life(relay).is_none() && life(node) == Some(lives[1]);
        match what {
            What::Refused if refused => host.refused(node, relay, now),
            What::Up(word) if living => host.hear(relay, node, word, now),
            What::Down(word) if living => host.hear(node, relay, word, now),
            What::Call if living => {
                let all = host.greeting(relay, now);
                let _new = self.feed.ears.insert(ear, [now; 2]);
                all.iter().for_each(|word| self.pass(ear, word, false));
            }
            What::Refused | What::Up(_) | What::Down(_) | What::Call => return,
        }
        self.touched[site] = true;
    }
}
