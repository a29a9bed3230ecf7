//! The home step (section 3): who of this node's endpoints has the flow, who may open it, who is asked next.

use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    CONFIG_HOLDS, CONFIG_SITES, DELIVER_DELEGATE, ENDPOINT_DRAINING, ENDPOINT_READY, FLOW_ASKED, FLOW_CLOSING,
    FLOW_VIA_INGRESS, Flow, FlowKey, HALF_ORPHAN, HOP_ACCEPT, Half, PacketDrop, Row, SERVICE_ASK, SHIM_FINAL,
    SHIM_LAST, SHIM_REMOTE, Service, ShimHead, Table, Tally, fast_range,
};

use super::chain::held;
use super::deliver::seen;
use super::encap::Why;
use super::ingress::{ACK, Arrival, FIN, Job, Kind, RST, SYN};
use super::{Output, State, Verdict};
use crate::forward::bytes::{is_v4, u32_at};

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

/// What the tables say.
enum Known {
    Delivered(Output),
    /// A flow that was closed there: it gets the packet if its socket lives, or cannot be asked.
    Closed(Place),
    No,
}

/// Who of the rest of a chain can be asked.
struct Rest {
    /// A hop on the way names this node and lets it open the flow.
    leave: bool,
    /// From the next one that can be asked, with their accept bits.
    hops: Vec<u16>,
}

impl State {
    pub(crate) fn home(&mut self, job: Job, from: Arrival) -> Output {
        let own = self.places(&job);
        let all = self.with_stand_ins(&job, &own);
        let late = match self.known(&job, &from, &own, &all) {
            Known::Delivered(out) => return out,
            Known::Closed(place) => Some(place),
            Known::No => None,
        };
        let Rest { leave, hops } = self.rest(&job, &from);
        // What comes from another site may find its flow, but opens none.
        let remote = from.flags & SHIM_REMOTE != 0;
        let opens = match job.kind {
            _ if remote => false,
            Kind::Tcp { .. } => job.opens(),
            Kind::Udp { quic_opens } => {
                quic_opens || job.service.flags & SERVICE_ASK == 0 || from.accept || leave || hops.is_empty()
            }
            Kind::Error(_) | Kind::Answer => false,
        };
        if opens && let Some(out) = self.open(&job, &from, &own, &all) {
            return out;
        }
        if !opens && let Some(out) = self.probed(&job, &from, &own, late.as_ref()) {
            return out;
        }
        self.ask_on(job, &from, hops, &all, opens)
    }

    /// The endpoint in a slot, if it can serve the service at all: families are not translated, and the slot may have another user by now.
    fn place(&self, service: &Service, slot: u16) -> Option<Place> {
        let e = self.endpoints.get(&slot).filter(|_| slot != 0)?;
        if e.protocol != service.protocol || is_v4(&e.address) != is_v4(&service.vip) {
            return None;
        }
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
                // Rows lead here only while there are endpoints; which of them is the stack's business.
                ready: true,
                netns: OWN_NAMESPACE - 1,
            };
            return vec![vip];
        }
        let Some(row) = self.local_row(job, 0) else { return Vec::new() };
        let mut places: Vec<Place> = Vec::new();
        for slot in held(row, job.service.drain_minutes, job.now) {
            if let Some(place) = self.place(&job.service, slot)
                && places.iter().all(|p| p.slot != slot)
            {
                places.push(place);
            }
        }
        places
    }

    /// A tuple that another VIP holds at one of them: the homes of the rows behind stand in for the endpoint.
    fn with_stand_ins(&self, job: &Job, own: &[Place]) -> Vec<Place> {
        let mut all = own.to_vec();
        if job.service.delivery != DELIVER_DELEGATE && own.iter().any(|place| self.collides(job, place)) {
            let homes = (1..=MORE_ROWS).filter_map(|further| self.local_row(job, further));
            all.extend(homes.filter_map(|row| self.place(&job.service, row.home)));
        }
        all
    }

    /// The tables: who has the flow open, else whom its SYN was sent to, else who had it until it was closed. A packet that opens a
    /// flow asks for an open one only: it may be sent twice.
    fn known(&mut self, job: &Job, from: &Arrival, own: &[Place], places: &[Place]) -> Known {
        let error = matches!(job.kind, Kind::Error(_));
        let of = |state: &Self, place: &Place| state.flows.get(&key_of(job, place)).filter(|f| of_vip(job, f)).copied();
        let open = |place: &&Place| of(self, place).is_some_and(|flow| !self.over(job, &flow));
        if let Some(place) = places.iter().find(open).copied() {
            if !error {
                self.renew(job, from, &place);
            }
            return Known::Delivered(self.deliver(job, &place, Tally::FlowHit));
        }
        if !job.tcp() || job.opens() {
            return Known::No;
        }
        let asked = |place: &&Place| {
            let half = self.half.get(&key_of(job, place));
            // An orphan's entry is for the answer alone.
            let opened = |h: &Half| h.endpoint & HALF_ORPHAN == 0;
            half.is_some_and(|h| opened(h) && h.vip == job.service.vip && h.vip_port == job.service.port)
                && !self.collides(job, place)
        };
        if let Some(place) = places.iter().find(asked).copied() {
            if !error {
                self.half.remove(&key_of(job, &place));
                self.enter(job, from, &place);
            }
            return Known::Delivered(self.deliver(job, &place, Tally::FlowHit));
        }
        let Some(index) = places.iter().position(|place| of(self, place).is_some()) else { return Known::No };
        let closed = places[index];
        // A client's port in use again, by a flow of another site: its segments come here first.
        let asks = self.config.flags & CONFIG_SITES != 0 && from.flags & SHIM_FINAL == 0;
        let left_over = matches!(job.kind, Kind::Tcp { flags } if flags & (ACK | RST) == RST);
        if asks && !error && !left_over && index < own.len() {
            return Known::Closed(closed);
        }
        Known::Delivered(self.deliver(job, &closed, Tally::FlowHit))
    }

    /// A packet of the client keeps its flow alive; its replies follow when requests come by another node than before.
    fn renew(&mut self, job: &Job, from: &Arrival, place: &Place) {
        let (via, sought) = (self.via(&job.service, from.ingress), self.sought(from));
        let Some(flow) = self.flows.get_mut(&key_of(job, place)) else { return };
        seen(flow, job.now);
        if flow.ingress != from.ingress {
            flow.ingress = from.ingress;
            flow.site = from.origin_site;
            flow.flags = flow.flags & !(FLOW_VIA_INGRESS | FLOW_ASKED) | via;
        }
        // A mark a second for each node where it comes in.
        if flow.flags & FLOW_ASKED == 0 {
            flow.flags |= sought;
        }
    }

    /// Is a flow closed, or was it quiet for too long?
    fn over(&self, job: &Job, flow: &Flow) -> bool {
        if job.tcp() {
            flow.flags & FLOW_CLOSING != 0
        } else {
            job.now.seconds.saturating_sub(flow.seen_s) > self.config.udp_idle_s
        }
    }

    /// Does another VIP use the tuple now?
    fn collides(&self, job: &Job, place: &Place) -> bool {
        self.flows.get(&key_of(job, place)).is_some_and(|flow| !of_vip(job, flow) && !self.over(job, flow))
    }

    /// A new flow: the first of the own row that is ready and free. Only one that is ready and taken has stand-ins.
    fn open(&mut self, job: &Job, from: &Arrival, own: &[Place], all: &[Place]) -> Option<Output> {
        let ready = |places: &[Place]| places.iter().filter(|p| p.ready).copied().collect::<Vec<_>>();
        let mut tried = ready(own);
        if tried.iter().any(|place| self.collides(job, place)) {
            tried = ready(all);
        }
        let mut collided = false;
        for place in tried {
            if self.collides(job, &place) {
                collided = true;
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
            self.endpoint_stats.entry(place.slot).or_default().new_flows += 1;
            if collided {
                self.count(Tally::Collision);
            }
            return Some(self.deliver(job, &place, Tally::FlowNew));
        }
        None
    }

    /// Sockets and SYN cookies of the own row's endpoints; one whose tuple another VIP holds would speak for that VIP.
    fn probed(&mut self, job: &Job, from: &Arrival, own: &[Place], late: Option<&Place>) -> Option<Output> {
        if !job.tcp() || job.opens() && from.flags & SHIM_REMOTE == 0 {
            return None;
        }
        // It may carry data: the acknowledgement before it can be lost.
        let acknowledges = matches!(job.kind, Kind::Tcp { flags } if flags & (SYN | ACK | FIN | RST) == ACK);
        // Other sites are asked before what is only remembered counts.
        let first = self.config.flags & CONFIG_SITES != 0 && from.flags & (SHIM_FINAL | SHIM_REMOTE) == 0;
        for place in own {
            if self.collides(job, place) {
                continue;
            }
            let key = key_of(job, place);
            let at = (place.netns, key);
            let waits = self.sockets.waiting.contains(&at);
            let known = self.sockets.connected.contains(&at) || waits && !first;
            let late = late.is_some_and(|late| late.slot == place.slot);
            if late && (place.netns < OWN_NAMESPACE || known) {
                return Some(self.deliver(job, place, Tally::FlowHit));
            }
            if place.netns < OWN_NAMESPACE {
                continue;
            }
            if known {
                match job.kind {
                    Kind::Tcp { .. } if waits => self.answer_as_vip(job, place, from.ingress),
                    Kind::Tcp { .. } => self.enter(job, from, place),
                    Kind::Udp { .. } | Kind::Error(_) | Kind::Answer => {}
                }
                return Some(self.deliver(job, place, Tally::SocketHit));
            }
            if acknowledges
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

    /// The hops that are left, after those at the front that are dead or name this node.
    fn rest(&self, job: &Job, from: &Arrival) -> Rest {
        let mut leave = false;
        let left = usize::from(from.index.min(1))..usize::from(from.count.min(2));
        let mut hops: Vec<u16> = from.hops.get(left).unwrap_or_default().to_vec();
        while let Some(hop) = hops.first().copied() {
            let (id, accept) = (hop & !HOP_ACCEPT, hop & HOP_ACCEPT != 0);
            if id == self.config.node {
                leave |= accept && matches!(job.kind, Kind::Udp { .. });
            } else if self.live(id) {
                break;
            }
            hops.remove(0);
        }
        Rest { leave, hops }
    }

    /// The next node; the own row adds whom the list lacks. Nobody is left: the end.
    fn ask_on(&mut self, job: Job, from: &Arrival, mut hops: Vec<u16>, all: &[Place], opens: bool) -> Output {
        let listed = !hops.is_empty();
        // Only a TCP flow that lives is looked for where the row was before.
        let lives = job.service.protocol == IPPROTO_TCP && !job.opens();
        if lives {
            let mut seen = vec![self.config.node];
            hops.retain(|hop| {
                let id = hop & !HOP_ACCEPT;
                let kept = self.live(id) && !seen.contains(&id);
                seen.push(id);
                kept
            });
        }
        let room = if from.index + 1 < SHIM_LAST { 2 } else { 1 };
        if lives || !listed {
            for id in self.own_row(&job, lives) {
                let named = hops.iter().any(|hop| hop & !HOP_ACCEPT == id);
                if hops.len() < room && self.live(id) && !named && id != self.config.node && !asked(from, id) {
                    hops.push(id);
                }
            }
        }
        // It was said to live here and does not: from here on it is looked for.
        let flags = from.flags | if from.named { SHIM_REMOTE } else { 0 };
        let Some(&next) = hops.first().filter(|_| from.index < SHIM_LAST) else {
            if job.lives() && self.config.flags & CONFIG_SITES != 0 && from.flags & SHIM_FINAL == 0 {
                return self.look_abroad(job, &Arrival { flags, ..*from }, all);
            }
            return self.end(job, from, all, opens);
        };
        let then = hops.get(1).copied();
        // One place of the list names the ingress node; the other one, if nobody stands there, who was asked first.
        let first = if from.index == 1 { from.sender } else { 0 };
        let head = ShimHead {
            flags,
            index: from.index + 1,
            count: if then.is_some() { 2 } else { 1 },
            accept: next & HOP_ACCEPT != 0,
            service: job.service.number,
            epoch: from.epoch,
            origin_site: from.origin_site,
            second_site: from.second_site,
            hops: [from.ingress, then.unwrap_or(first)],
        };
        let why = if listed { Why::Next } else { Why::LookAhead };
        self.encapsulate(job, next & !HOP_ACCEPT, head, from.client, why)
    }

    /// Nobody is left to ask.
    pub(crate) fn end(&mut self, job: Job, from: &Arrival, all: &[Place], opens: bool) -> Output {
        let lost = from.flags & SHIM_REMOTE != 0 && from.flags & SHIM_FINAL == 0;
        if lost && !matches!(job.kind, Kind::Error(_)) {
            return self.drop(PacketDrop::RemoteMiss, job.frame);
        }
        // A SYN is nobody's orphan, whatever its way says.
        let opens = opens || job.opens();
        self.orphan(job, all, opens, from.ingress)
    }

    /// Whom the own row names; of its past only for who asks `all` of it.
    fn own_row(&self, job: &Job, all: bool) -> Vec<u16> {
        let row = self.node_row(&job.service, job.hash).unwrap_or_default();
        let ids = held(row, job.service.drain_minutes, job.now);
        ids[..if all { 3 } else { 1 }].to_vec()
    }

    /// Nobody knows it: an endpoint's kernel says so, but not for a flow of another VIP.
    fn orphan(&mut self, job: Job, all: &[Place], opens: bool, ingress: u16) -> Output {
        if self.config.flags & CONFIG_HOLDS != 0 && !opens && matches!(job.kind, Kind::Tcp { .. }) {
            return self.drop(PacketDrop::RemoteMiss, job.frame);
        }
        let place = all.iter().find(|place| !self.collides(&job, place)).copied();
        let (Some(place), false, Kind::Tcp { .. }) = (place, opens, &job.kind) else {
            return self.drop(PacketDrop::NoEndpoint, job.frame);
        };
        if self.config.orphan_rate == 0 {
            return self.drop(PacketDrop::OrphanRate, job.frame);
        }
        self.service_stats.entry(job.slot).or_default().orphans += 1;
        self.answer_as_vip(&job, &place, ingress);
        let out = self.deliver(&job, &place, Tally::Orphan);
        debug_assert!(out.verdict == Verdict::Pass, "an endpoint's kernel answers");
        out
    }

    /// What an endpoint's kernel answers leaves as the VIP's, whoever the client is; unless the tuple is somebody's handshake.
    fn answer_as_vip(&mut self, job: &Job, place: &Place, ingress: u16) {
        let (vip, vip_port) = (job.service.vip, job.service.port);
        let half = Half { vip, vip_port, service: job.slot, endpoint: place.slot | HALF_ORPHAN, ingress };
        self.half.entry(key_of(job, place)).or_insert(half);
    }
}

/// Does the packet show that `id` was asked? The ingress node need not have been: its row may be older than ours.
fn asked(from: &Arrival, id: u16) -> bool {
    match from.index {
        0 => false,
        // The second place tells of the first one that was asked, unless it names one to ask.
        2 => id == from.sender || from.count < 2 && id == from.hops[1],
        _ => id == from.sender,
    }
}

/// Is the entry one of the packet's VIP?
fn of_vip(job: &Job, flow: &Flow) -> bool {
    flow.vip == job.service.vip && flow.vip_port == job.service.port
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
