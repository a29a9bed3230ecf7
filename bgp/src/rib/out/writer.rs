//! Whole messages into a buffer with a budget, and the count of what they say.

use ipnet::IpNet;

use super::Batch;
use crate::rib::policy::Exported;
use crate::wire::header::HEADER_LEN;
use crate::wire::update::encode;
use crate::wire::{Family, RouteRefresh, nlri};

/// Octets of ROUTE-REFRESH: header, AFI, subtype, SAFI (RFC 2918 section 3).
const MARK_LEN: usize = 23;

/// Writes until the budget is spent. The first message is written even beyond it: a caller with a small buffer gets on.
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    budget: usize,
    max_message: usize,
    pub(super) batch: Batch,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>, budget: usize, max_message: usize) -> Self {
        let start = out.len();
        Self { out, start, budget, max_message, batch: Batch::default() }
    }

    fn written(&self) -> usize {
        self.out.len() - self.start
    }

    fn left(&self) -> usize {
        self.budget.saturating_sub(self.written())
    }

    pub(super) fn has_room(&self, octets: usize) -> bool {
        self.written() == 0 || octets <= self.left()
    }

    /// As many of these prefixes as could fit at best, at least one.
    pub(super) fn piece(&self, prefixes: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
        let mut octets = 0;
        let fits = |prefix: &IpNet| {
            let first = octets == 0;
            octets += nlri::encoded_len(prefix);
            first || octets <= self.left()
        };
        prefixes.take_while(fits).collect()
    }

    pub(super) fn withdraw(&mut self, family: Family, prefixes: &[IpNet]) -> usize {
        let max_message = self.max_message;
        let count = self.write(prefixes, |out, some, budget| encode::withdraw(out, family, some, max_message, budget));
        self.batch.withdrawn += count;
        count
    }

    pub(super) fn announce(&mut self, exported: &Exported, prefixes: &[IpNet]) -> usize {
        let (set, next_hop, max_message) = (&exported.encoded, exported.next_hop, self.max_message);
        let count =
            self.write(prefixes, |out, some, budget| encode::announce(out, set, next_hop, some, max_message, budget));
        self.batch.announced += count;
        count
    }

    /// A mark of RFC 7313, if there is room for it.
    pub(super) fn mark(&mut self, family: Family, subtype: u8) -> bool {
        let room = self.has_room(MARK_LEN);
        if room {
            RouteRefresh::new(family, subtype).encode(self.out);
            self.batch.marks += 1;
        }
        room
    }

    pub(super) fn end_of_rib(&mut self, family: Family) {
        encode::end_of_rib(self.out, family);
        self.batch.updates += 1;
        self.batch.end_of_rib.push(family);
    }

    pub(super) fn finish(self) -> Batch {
        self.batch
    }

    fn write(&mut self, prefixes: &[IpNet], encode: impl Fn(&mut Vec<u8>, &[IpNet], usize) -> usize) -> usize {
        let from = self.out.len();
        let mut count = encode(self.out, prefixes, self.left());
        if count == 0 && self.written() == 0 {
            count = encode(self.out, &prefixes[..1], self.max_message);
        }
        self.batch.updates += messages(&self.out[from..]);
        count
    }
}

/// How many messages these octets are: the length is in octets 16 and 17 of each (RFC 4271 section 4.1).
fn messages(mut octets: &[u8]) -> usize {
    let mut count = 0;
    while let Some(length) = octets.get(16..18) {
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        octets = octets.get(length.max(HEADER_LEN)..).unwrap_or_default();
        count += 1;
    }
    count
}
