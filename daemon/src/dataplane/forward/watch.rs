//! Handshakes under watch: reads the places in which the programs note SYNs of clients, and empties those whose end is known.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;

use aya::maps::Map;
use bascule_core::site::SiteId;
use bascule_core::site::handshakes::{Places, Totals};
use bascule_core::time::Instant;
use bascule_ebpf_common::forward::{MAX_WATCHED, WATCHED_ANSWERED, Watched};

use super::error::ForwardError;
use super::mapped::Mapped;
use super::tables::descriptor;

pub(super) struct Watch {
    words: Mapped,
    places: Places,
    /// Since the start of this process, by slot of the service and site.
    totals: BTreeMap<(u16, SiteId), Totals>,
}

impl Watch {
    /// Takes the map, and empties it: how long ago what stands there was noted is not known.
    pub(super) fn new(map: &Map) -> Result<Self, ForwardError> {
        let words = Mapped::new(descriptor(map)?.as_fd(), MAX_WATCHED as usize)
            .map_err(ForwardError::call("mapping an array"))?;
        let watch = Self { words, places: Places::new(MAX_WATCHED as usize), totals: BTreeMap::new() };
        (0..MAX_WATCHED as usize).for_each(|place| watch.empty(place));
        Ok(watch)
    }

    /// Counts what has come to its end since the last call, and what is late.
    pub(super) fn look(&mut self, now: Instant) {
        for place in 0..MAX_WATCHED as usize {
            let word = self.words.load(place);
            let noted = Watched::from_word(word);
            let seen = noted.map(|noted| (word & !WATCHED_ANSWERED, noted.answered));
            if let (Some(seen), Some(noted)) = (self.places.look(place, seen, now), noted) {
                if seen.ends() {
                    self.empty(place);
                }
                self.totals.entry((noted.service, SiteId(noted.site))).or_default().count(seen);
            }
        }
    }

    /// What became of handshakes with the service in `slot`, by site.
    pub(super) fn totals(&self, slot: u16) -> Vec<(SiteId, Totals)> {
        let all: RangeInclusive<_> = (slot, SiteId(0))..=(slot, SiteId(u8::MAX));
        self.totals.range(all).map(|((_, site), totals)| (*site, *totals)).collect()
    }

    /// Forgets what was counted for the former holder of a slot.
    pub(super) fn forget(&mut self, slot: u16) {
        self.totals.retain(|(of, _), _| *of != slot);
    }

    fn empty(&self, place: usize) {
        // A program may write its last word there at the same time: one answer more, or the place stays taken until the next look.
        let within = self.words.store(place, 0);
        debug_assert!(within, "as many places as the map has");
    }
}
