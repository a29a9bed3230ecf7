//! Between sites: what leaves this one, what comes from another, and who is asked for a flow that nobody here knows.

use bascule_ebpf_common::forward::{
    PacketDrop, Row, SHIM_FINAL, SHIM_LAST, SHIM_REMOTE, SITE_REACHABLE, SITE_VIA_INGRESS, ShimHead, Table, Tally,
    fast_range, is_site, site_of,
};

use super::chain::held;
use super::encap::Why;
use super::home::Place;
use super::ingress::{Arrival, Job};
use super::{Output, State};

/// Ids of the nearest sites that are looked at, and sites that are asked.
const NEAREST: usize = 14;
const ASKED: usize = 2;

impl State {
    /// The other site of a node; 0: it is of this one.
    pub(crate) fn other_site(&self, id: u16) -> u8 {
        self.nodes.get(&id).map(|node| node.site).filter(|site| *site != self.config.site).unwrap_or(0)
    }

    pub(crate) fn reachable(&self, site: u8) -> bool {
        self.sites.get(&site).is_some_and(|s| s.count != 0 && s.flags & SITE_REACHABLE != 0)
    }

    /// Must replies to requests that came by this node of another site go back to it?
    pub(crate) fn asks_for_replies(&self, ingress: u16) -> bool {
        let site = self.node(ingress).site;
        ingress != 0
            && site != self.config.site
            && self.sites.get(&site).is_some_and(|s| s.flags & SITE_VIA_INGRESS != 0)
    }

    /// May a node of this site (0: ours) say what the shim says?
    pub(crate) fn speaks(&self, head: &ShimHead, site: u8) -> bool {
        let own = self.config.site;
        let (last, remote) = (head.flags & SHIM_FINAL != 0, head.flags & SHIM_REMOTE != 0);
        if site == 0 {
            // Nodes of this site count a packet of another one from 1, its gateway being the first.
            return head.index != 0 || head.origin_site == own || last;
        }
        let from_origin = head.origin_site == site;
        let from_first = remote && head.second_site == own && head.origin_site != own;
        head.index == 0 && if last && remote { head.origin_site == own } else { from_origin || from_first && !last }
    }

    /// To the node of another site to which the flow is pinned.
    pub(crate) fn follow(&mut self, job: Job, node: u16, epoch: u16) -> Output {
        let from = Arrival { client: true, ..self.begin(epoch) };
        let head = ShimHead { hops: [from.ingress, node], ..Self::head(&job, &from) };
        self.encapsulate(job, node, head, true, Why::Pinned)
    }

    /// Nobody of the row takes a client's packet in this site.
    pub(crate) fn leave(&mut self, job: Job, from: &Arrival) -> Output {
        if job.lives() {
            return self.look_abroad(job, from, &[]);
        }
        match self.named_sites(&job).first() {
            Some(site) => self.send_to_site(job, from, *site, 0, Why::ToSite),
            None => self.drop(PacketDrop::NoEndpoint, job.frame),
        }
    }

    /// Reachable sites that the row names, home first.
    fn named_sites(&self, job: &Job) -> Vec<u8> {
        let row = self.node_row(&job.service, job.hash).unwrap_or_default();
        let ids = held(row, job.service.drain_minutes, job.now);
        self.distinct(ids.into_iter().filter(|id| is_site(*id)).map(site_of).collect())
    }

    fn distinct(&self, sites: Vec<u8>) -> Vec<u8> {
        let mut out = Vec::new();
        for site in sites {
            if site != 0 && site != self.config.site && self.reachable(site) && !out.contains(&site) {
                out.push(site);
            }
        }
        out
    }

    /// Nobody of this site knows a flow.
    pub(crate) fn look_abroad(&mut self, job: Job, from: &Arrival, all: &[Place]) -> Output {
        let own = self.config.site;
        if from.origin_site != own && from.flags & SHIM_REMOTE != 0 {
            let second = from.second_site;
            if second != own && second != from.origin_site && second != 0 && self.reachable(second) {
                return self.send_to_site(job, from, second, second, Why::Remote);
            }
            return self.give_back(job, from);
        }
        let named = self.named_sites(&job);
        let order = self.sites.get(&0).map(|s| s.gateways).unwrap_or_default();
        let near = order.into_iter().take(NEAREST).map(|site| u8::try_from(site & 0xff).expect("a byte"));
        let mut sites = self.distinct(named.iter().copied().chain(near).collect());
        sites.truncate(ASKED);
        if from.origin_site != own {
            return self.end(job, from, all, false);
        }
        let Some(first) = sites.first().copied() else { return self.ask_arrival(job, from, all) };
        if named.is_empty() && self.config.remote_rate == 0 {
            return self.drop(PacketDrop::RemoteRate, job.frame);
        }
        let from = Arrival { flags: from.flags | SHIM_REMOTE, ..*from };
        self.send_to_site(job, &from, first, sites.get(1).copied().unwrap_or(0), Why::Remote)
    }

    /// This node reaches no other site: the one where the packet arrived may. It does not either: who asked it ends it.
    fn ask_arrival(&mut self, job: Job, from: &Arrival, all: &[Place]) -> Output {
        let (this, at_last) = (self.config.node, from.index == SHIM_LAST);
        let (to, flags) = match from.ingress {
            ingress if ingress != this => (ingress, from.flags),
            _ if at_last => (from.sender, from.flags | SHIM_REMOTE | SHIM_FINAL),
            _ => return self.end(job, from, all, false),
        };
        if !self.live(to) || self.other_site(to) != 0 {
            let from = Arrival { flags, ..*from };
            return self.end(job, &from, all, false);
        }
        let head = ShimHead { flags, index: SHIM_LAST, ..Self::head(&job, from) };
        self.encapsulate(job, to, head, from.client, Why::Next)
    }

    fn head(job: &Job, from: &Arrival) -> ShimHead {
        ShimHead {
            flags: from.flags,
            index: 0,
            count: 0,
            accept: false,
            service: job.service.number,
            epoch: from.epoch,
            origin_site: from.origin_site,
            second_site: from.second_site,
            hops: [from.ingress, 0],
        }
    }

    fn send_to_site(&mut self, job: Job, from: &Arrival, site: u8, second: u8, why: Why) -> Output {
        let entry = self.sites.get(&site).copied().unwrap_or_default();
        let lower = u32::try_from(job.hash & u64::from(u32::MAX)).expect("lower half");
        let at = usize::try_from(fast_range(lower, entry.count.into())).expect("small");
        let head = ShimHead { second_site: second, ..Self::head(&job, from) };
        self.encapsulate(job, entry.gateways[at], head, from.client, why)
    }

    /// It goes back to where it came into its site.
    fn give_back(&mut self, job: Job, from: &Arrival) -> Output {
        if self.other_site(from.ingress) != from.origin_site || !self.live(from.ingress) {
            return self.drop(PacketDrop::RemoteMiss, job.frame);
        }
        let head = Self::head(&job, from);
        let head = ShimHead { flags: head.flags | SHIM_FINAL, ..head };
        self.encapsulate(job, from.ingress, head, from.client, Why::Next)
    }

    /// A packet from another site: who of this one is asked.
    pub(crate) fn take_guest(&mut self, job: Job, mut from: Arrival) -> Output {
        let nodes = self.hosts(&job);
        let first = nodes.first().copied();
        let back = from.flags & SHIM_FINAL != 0;
        self.count(if back { Tally::RemoteBack } else { Tally::FromSite });
        if back && self.unpin(&job) {
            // It was sent where its flow was said to be, and nobody was asked.
            from = self.begin(Table::from_word(job.service.nodes).epoch);
        } else if back {
            let Some(first) = first else { return self.drop(PacketDrop::NoEndpoint, job.frame) };
            let end = Arrival { index: SHIM_LAST, count: 0, hops: [from.ingress, 0], ..from };
            return self.hand(job, end, first, None);
        }
        let lives = job.lives();
        if lives && !back && from.flags & SHIM_REMOTE == 0 && from.hops[1] == self.config.node {
            let place = |i: usize| nodes.get(i).copied().unwrap_or(0);
            let count = u8::try_from(nodes.len().min(2)).expect("at most two");
            return self.home(job, Arrival { index: 0, count, hops: [place(0), place(1)], named: true, ..from });
        }
        let Some(first) = first else {
            let none = Arrival { count: 0, ..from };
            return if lives {
                self.look_abroad(job, &none, &[])
            } else {
                self.drop(PacketDrop::NoEndpoint, job.frame)
            };
        };
        let more = if lives { nodes.get(1..).unwrap_or_default() } else { &[] };
        if first != self.config.node {
            return self.hand(job, Arrival { index: 1, ..from }, first, more.first().copied());
        }
        let place = |i: usize| more.get(i).copied().unwrap_or(0);
        let count = u8::try_from(more.len()).expect("at most two");
        self.home(job, Arrival { index: 0, count, hops: [place(0), place(1)], ..from })
    }

    /// To `first`, which may be this node, as the next one of the index.
    fn hand(&mut self, job: Job, from: Arrival, first: u16, then: Option<u16>) -> Output {
        if first == self.config.node {
            return self.home(job, from);
        }
        let head = Self::head(&job, &from);
        let head = ShimHead {
            index: from.index,
            count: 1 + u8::from(then.is_some()),
            hops: [from.ingress, then.unwrap_or(0)],
            ..head
        };
        self.encapsulate(job, first, head, false, Why::Next)
    }

    /// Nodes of this site that a packet from another one is for: those of its row, and the home of the row at the other end of the table; that
    /// stands in for a home that is another site.
    fn hosts(&self, job: &Job) -> Vec<u16> {
        let row = self.node_row(&job.service, job.hash).unwrap_or_default();
        let [home, previous, older] = held(row, job.service.drain_minutes, job.now);
        let other = self.opposite_row(job).home;
        let order = if is_site(row.home) { [other, previous, older, 0] } else { [home, previous, older, other] };
        let mut out = Vec::new();
        for id in order {
            if self.live(id) && !out.contains(&id) && out.len() < 3 {
                out.push(id);
            }
        }
        out
    }

    fn opposite_row(&self, job: &Job) -> Row {
        let table = Table::from_word(job.service.nodes);
        let rows = u32::from(table.rows);
        if rows == 0 {
            return Row::default();
        }
        let upper = u32::try_from(job.hash >> 32).expect("upper half");
        self.row(table, rows - 1 - fast_range(upper, rows)).unwrap_or_default()
    }
}
