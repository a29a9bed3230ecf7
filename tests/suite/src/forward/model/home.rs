//! The home step (section 3): who of this node's endpoints has the flow, who may open it, who is asked next.

use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    DELIVER_DELEGATE, ENDPOINT_DRAINING, ENDPOINT_READY, FLOW_CLOSING, FLOW_VIA_INGRESS, Flow, FlowKey, HOP_ACCEPT,
    Half, PacketDrop, Row, SERVICE_ASK, SHIM_LOOKAHEAD, ShimHead, Table, Tally, fast_range,
};

use super::chain::held;
use super::encap::Why;
use super::ingress::{ACK, Arrival, FIN, Job, Kind, RST, SYN};
use super::{Output, State, Verdict};
use crate::forward::bytes::u32_at;

/// Namespace ids below this one are unknown.
const OWN_NAMESPACE: i32 = -1;
/// IANA.
const IPPROTO_TCP: u8 = 6;
/// Rows tried after a collision.
const MORE_ROWS: u32 = 4;

/// An endpoint that may have the flow; with delegated delivery the VIP itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) slot: u16,
    pub(crate) address: VipKey,
    pub(crate) port: u16,
    pub(crate) ready: bool,
    pub(crate) netns: i32,
}

/// Next hop of a chain.
enum Next {
    /// This node itself, which may open the flow.
    Here,
    Node {
        index: u8,
        id: u16,
        accept: bool,
    },
    None,
}

impl State {
    pub(crate) fn home(&mut self, job: Job, from: Arrival) -> Output {
        let places = self.places(&job);
        if let Some(out) = self.known(&job, &from, &places) {
            return out;
        }
        let next = self.next_hop(&job, &from);
        let opens = match job.kind {
            Kind::Tcp { .. } => job.opens(),
            Kind::Udp { quic_opens } => {
                quic_opens
                    || job.service.flags & SERVICE_ASK == 0
                    || from.accept
                    || matches!(next, Next::Here | Next::None)
            }
            Kind::Error(_) => false,
        };
        let mut collided = false;
        if opens && places.iter().any(|p| p.ready) {
            if let Some(out) = self.open(&job, &from, &places) {
                return out;
            }
            collided = true;
        }
        if !opens && let Some(out) = self.probed(&job, &from, &places) {
            return out;
        }
        let mut out = match next {
            Next::Node { index, id, accept } => self.send_on(job, &from, index, id, accept, None),
            Next::Here | Next::None => self.look_ahead(job, &from, &places, opens),
        };
        if collided {
            // Whether collisions count that no other endpoint took is not said.
            out.loose.tallies.push(Tally::Collision as u32);
        }
        out
    }

    fn place(&self, slot: u16) -> Option<Place> {
        let e = self.endpoints.get(&slot).filter(|_| slot != 0)?;
        Some(Place {
            slot,
            address: e.address,
            port: e.port,
            ready: e.flags & (ENDPOINT_READY | ENDPOINT_DRAINING) == ENDPOINT_READY,
            netns: e.netns,
        })
    }

    fn local_row(&self, job: &Job, further: u32) -> Option<Row> {
        let table = Table::from_word(job.service.endpoints);
        let rows = u32::from(table.rows);
        if rows == 0 {
            return None;
        }
        let low = u32::try_from(job.hash & 0xffff_ffff).expect("masked");
        self.row(table, (fast_range(low, rows) + further) % rows)
    }

    /// Home, previous and older endpoint of the local row.
    fn places(&self, job: &Job) -> Vec<Place> {
        if job.service.delivery == DELIVER_DELEGATE {
            let vip = Place {
                slot: 0,
                address: job.service.vip,
                port: job.service.port,
                ready: true,
                netns: OWN_NAMESPACE - 1,
            };
            return vec![vip];
        }
        let Some(row) = self.local_row(job, 0) else { return Vec::new() };
        let mut places: Vec<Place> = Vec::new();
        for slot in held(row, job.service.drain_minutes, job.now) {
            if let Some(place) = self.place(slot)
                && places.iter().all(|p| p.slot != slot)
            {
                places.push(place);
            }
        }
        places
    }

    /// a: the flow table.
    fn known(&mut self, job: &Job, from: &Arrival, places: &[Place]) -> Option<Output> {
        for place in places {
            let key = key_of(job, place);
            let Some(mut flow) = self.flows.get(&key).copied() else { continue };
            if !self.same_vip(job, &flow) {
                continue;
            }
            // A closed flow's tuple was taken by a SYN since, or is about to be.
            if job.tcp() && flow.flags & FLOW_CLOSING != 0 && (job.opens() || self.half_open(job, places).is_some()) {
                continue;
            }
            if !matches!(job.kind, Kind::Error(_)) {
                flow.seen_s = job.now.seconds;
                // Requests may come by another node than before: replies follow.
                flow.ingress = from.ingress;
                flow.site = from.origin_site;
                flow.flags = flow.flags & !FLOW_VIA_INGRESS | self.via(&job.service, from.ingress);
                self.flows.insert(key, flow);
            }
            return Some(self.deliver(job, place, Tally::FlowHit));
        }
        None
    }

    /// Where a SYN of this flow went.
    fn half_open(&self, job: &Job, places: &[Place]) -> Option<Place> {
        let ours = |place: &&Place| {
            let half = self.half.get(&key_of(job, place));
            half.is_some_and(|h| h.vip == job.service.vip && h.vip_port == job.service.port)
        };
        places.iter().find(ours).copied()
    }

    /// Is the entry one of this VIP, and not over?
    fn same_vip(&self, job: &Job, flow: &Flow) -> bool {
        let fresh = job.tcp() || job.now.seconds.saturating_sub(flow.seen_s) <= self.config.udp_idle_s;
        flow.vip == job.service.vip && flow.vip_port == job.service.port && fresh
    }

    /// Does another VIP use the tuple now?
    fn collides(&self, job: &Job, place: &Place) -> bool {
        self.flows.get(&key_of(job, place)).is_some_and(|flow| {
            let other = flow.vip != job.service.vip || flow.vip_port != job.service.port;
            let over = if job.tcp() {
                flow.flags & FLOW_CLOSING != 0
            } else {
                job.now.seconds.saturating_sub(flow.seen_s) > self.config.udp_idle_s
            };
            other && !over
        })
    }

    /// b: a new flow.
    fn open(&mut self, job: &Job, from: &Arrival, places: &[Place]) -> Option<Output> {
        let mut tried: Vec<Place> = places.iter().filter(|p| p.ready).copied().collect();
        let rows = u32::from(Table::from_word(job.service.endpoints).rows);
        for further in 1..=MORE_ROWS.min(rows.saturating_sub(1)) {
            let home = self.local_row(job, further).map_or(0, |row| row.home);
            tried.extend(self.place(home).filter(|p| p.ready));
        }
        let mut collisions = 0;
        for place in tried {
            if self.collides(job, &place) {
                collisions += 1;
                continue;
            }
            let key = key_of(job, &place);
            let service = &job.service;
            if job.tcp() {
                let half = Half {
                    vip: service.vip,
                    vip_port: service.port,
                    service: job.slot,
                    endpoint: place.slot,
                    ingress: from.ingress,
                };
                self.half.insert(key, half);
            } else {
                self.enter(job, from, &place);
            }
            self.service_stats.entry(job.slot).or_default().new_flows += 1;
            if collisions > 0 {
                self.count(Tally::Collision);
            }
            let mut out = self.deliver(job, &place, Tally::FlowNew);
            if collisions > 1 {
                out.loose.tallies.push(Tally::Collision as u32);
            }
            return Some(out);
        }
        None
    }

    /// c: half-open table, sockets, SYN cookies.
    fn probed(&mut self, job: &Job, from: &Arrival, places: &[Place]) -> Option<Output> {
        if !job.tcp() || job.opens() {
            return None;
        }
        let bare = match job.kind {
            Kind::Tcp { flags, data } => flags & (SYN | ACK | FIN | RST) == ACK && data == 0,
            _ => false,
        };
        if let Some(place) = self.half_open(job, places).filter(|_| matches!(job.kind, Kind::Tcp { .. })) {
            self.half.remove(&key_of(job, &place));
            self.enter(job, from, &place);
            return Some(self.deliver(job, &place, Tally::FlowHit));
        }
        for place in places.iter().filter(|p| p.netns >= OWN_NAMESPACE) {
            let key = key_of(job, place);
            if self.sockets.connected.contains(&(place.netns, key)) {
                if matches!(job.kind, Kind::Tcp { .. }) {
                    self.enter(job, from, place);
                }
                return Some(self.deliver(job, place, Tally::SocketHit));
            }
            if bare
                && self.sockets.listening.contains(&(place.netns, place.address, place.port))
                && let Some((sequence, acknowledged)) = numbers(job)
                && self.sockets.cookies.contains(&(key, sequence, acknowledged))
            {
                self.enter(job, from, place);
                return Some(self.deliver(job, place, Tally::CookieHit));
            }
        }
        None
    }

    /// The next node of the chain that can be asked.
    fn next_hop(&self, job: &Job, from: &Arrival) -> Next {
        for index in from.index..from.count.min(2) {
            let hop = from.hops[usize::from(index)];
            let (id, accept) = (hop & !HOP_ACCEPT, hop & HOP_ACCEPT != 0);
            if id == self.config.node && accept && matches!(job.kind, Kind::Udp { .. }) {
                return Next::Here;
            }
            if id != self.config.node && self.live(id) {
                return Next::Node { index: index + 1, id, accept };
            }
        }
        Next::None
    }

    /// e: on along the chain, or ahead of it, then with who is asked after that node.
    fn send_on(
        &mut self,
        job: Job,
        from: &Arrival,
        index: u8,
        id: u16,
        accept: bool,
        ahead: Option<Option<u16>>,
    ) -> Output {
        // One place of the list names the ingress node; the other takes one more node if the list was not longer than one.
        let more = ahead.flatten().filter(|_| from.count < 2);
        let ahead = ahead.is_some();
        let head = ShimHead {
            flags: from.flags | if ahead { SHIM_LOOKAHEAD } else { 0 },
            index: if more.is_some() { 1 } else { index },
            count: if more.is_some() { 2 } else { from.count },
            accept,
            service: job.service.number,
            epoch: from.epoch,
            origin_site: from.origin_site,
            second_site: from.second_site,
            hops: [from.ingress, more.unwrap_or(from.hops[1])],
        };
        self.encapsulate(job, id, head, from.client, if ahead { Why::LookAhead } else { Why::Next })
    }

    fn look_ahead(&mut self, job: Job, from: &Arrival, places: &[Place], opens: bool) -> Output {
        let row = self.node_row(&job.service, job.hash).unwrap_or_default();
        let [home, previous, older] = held(row, job.service.drain_minutes, job.now);
        let hops = from.hops[..usize::from(from.count.min(2))].iter().map(|hop| hop & !HOP_ACCEPT);
        let mut named: Vec<u16> = hops.chain([self.config.node, from.sender, from.ingress]).collect();
        // Only a TCP flow that lives is looked for where the row was before.
        let past = job.service.protocol == IPPROTO_TCP && !opens;
        let mut asked = Vec::new();
        for id in if past { vec![home, previous, older] } else { vec![home] } {
            if self.live(id) && !named.contains(&id) {
                named.push(id);
                asked.push(id);
            }
        }
        if let (false, Some(&first)) = (from.look_ahead, asked.first()) {
            return self.send_on(job, from, from.index.max(from.count), first, false, Some(asked.get(1).copied()));
        }
        self.orphan(job, places, opens)
    }

    /// f: nobody knows it.
    fn orphan(&mut self, job: Job, places: &[Place], opens: bool) -> Output {
        let (Some(place), false, Kind::Tcp { .. }) = (places.first(), opens, &job.kind) else {
            return self.drop(PacketDrop::NoEndpoint, job.frame);
        };
        if self.config.orphan_rate == 0 {
            return self.drop(PacketDrop::OrphanRate, job.frame);
        }
        self.service_stats.entry(job.slot).or_default().orphans += 1;
        let out = self.deliver(&job, place, Tally::Orphan);
        debug_assert!(out.verdict == Verdict::Pass, "an endpoint's kernel answers");
        out
    }
}

/// The translated tuple.
pub(crate) fn key_of(job: &Job, place: &Place) -> FlowKey {
    FlowKey {
        client: job.client,
        endpoint: place.address,
        client_port: job.client_port,
        endpoint_port: place.port,
        protocol: job.service.protocol,
        pad: [0; 3],
    }
}

fn numbers(job: &Job) -> Option<(u32, u32)> {
    Some((u32_at(&job.frame, job.ip.l4 + 4)?, u32_at(&job.frame, job.ip.l4 + 8)?))
}
