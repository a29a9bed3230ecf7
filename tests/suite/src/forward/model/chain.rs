//! Who may hold the flow: exceptions, row, hop list (rules 8 to 10).

use bascule_ebpf_common::forward::{
    CONFIG_SITES, FlowKey, HOP_ACCEPT, NO_NODE, NODE_DEAD, NODE_RESOLVED, PacketDrop, Row, SERVICE_ASK,
    SERVICE_EXCEPTIONS, Service, ShimHead, Table, fast_range, is_site, site_of,
};

use super::ingress::{Arrival, Job, Kind};
use super::{Clock, Output, State};

impl State {
    /// Is it a node that can be asked?
    pub(crate) fn live(&self, id: u16) -> bool {
        id != NO_NODE && !is_site(id) && self.node(id).flags & NODE_DEAD == 0
    }

    /// The row over nodes for this hash.
    pub(crate) fn node_row(&self, service: &Service, hash: u64) -> Option<Row> {
        let table = Table::from_word(service.nodes);
        if table.rows == 0 {
            return None;
        }
        self.row(table, fast_range(u32::try_from(hash >> 32).expect("upper half"), u32::from(table.rows)))
    }

    pub(crate) fn start(&mut self, job: Job) -> Output {
        let table = Table::from_word(job.service.nodes);
        let pin = self.pinned(&job);
        if let Some(node) = pin.filter(|node| self.other_site(*node) != 0) {
            return self.follow(job, node, table.epoch);
        }
        let chain = match pin {
            Some(node) => vec![node],
            None if table.rows == 0 && Table::from_word(job.service.endpoints).rows == 0 => Vec::new(),
            None if table.rows == 0 => vec![self.config.node],
            None => {
                let row = self.node_row(&job.service, job.hash).unwrap_or_default();
                if self.leaves(&job, row) { Vec::new() } else { self.candidates(&job, row) }
            }
        };
        let mut hops = [NO_NODE; 2];
        let rest = chain.get(1..).unwrap_or_default();
        hops[..rest.len()].copy_from_slice(rest);
        let count = u8::try_from(rest.len()).expect("at most two");
        let arrival = Arrival { client: true, count, hops, ..self.begin(table.epoch) };
        let Some(&first) = chain.first() else {
            if self.config.flags & CONFIG_SITES == 0 {
                return self.drop(PacketDrop::NoEndpoint, job.frame);
            }
            return self.leave(job, &arrival);
        };
        if first == self.config.node {
            return self.home(job, arrival);
        }
        let head = ShimHead {
            count,
            service: job.service.number,
            epoch: table.epoch,
            origin_site: self.config.site,
            hops,
            ..ShimHead::default()
        };
        self.encapsulate(job, first, head, true, super::encap::Why::First)
    }

    /// The chain of a packet begins here.
    pub(crate) fn begin(&self, epoch: u16) -> Arrival {
        Arrival {
            ingress: self.config.node,
            sender: self.config.node,
            client: false,
            guest: false,
            named: false,
            flags: 0,
            index: 0,
            count: 0,
            accept: false,
            epoch,
            origin_site: self.config.site,
            second_site: 0,
            hops: [NO_NODE; 2],
        }
    }

    /// Another site is the row's home, and what the packet is does not bind it to this one: a flow of TCP is looked for here first, and UDP with
    /// state stays with the home before.
    fn leaves(&self, job: &Job, row: Row) -> bool {
        let [home, previous, _] = held(row, job.service.drain_minutes, job.now);
        let free = match job.kind {
            Kind::Tcp { .. } => job.opens(),
            Kind::Udp { .. } => job.service.flags & SERVICE_ASK == 0 || !self.live(previous),
            Kind::Error(_) | Kind::Answer => false,
        };
        free && is_site(home) && self.reachable(site_of(home))
    }

    /// An exception that can be followed. What opens a flow of TCP follows none and ends it.
    fn pinned(&mut self, job: &Job) -> Option<u16> {
        if job.service.flags & SERVICE_EXCEPTIONS == 0 {
            return None;
        }
        let key = pin(job);
        if job.tcp() && job.opens() {
            self.exceptions.remove(&key);
            return None;
        }
        let id = self.exceptions.get(&key).copied().filter(|id| self.live(*id))?;
        let site = self.other_site(id);
        let way = self.node(id).flags & NODE_RESOLVED != 0 && self.reachable(site);
        (site == 0 || job.lives() && way).then_some(id)
    }

    /// Ends the exception of a flow; false: there was none.
    pub(crate) fn unpin(&mut self, job: &Job) -> bool {
        job.service.flags & SERVICE_EXCEPTIONS != 0 && self.exceptions.remove(&pin(job)).is_some()
    }

    fn candidates(&self, job: &Job, row: Row) -> Vec<u16> {
        let [home, previous, older] = held(row, job.service.drain_minutes, job.now);
        let mut live: Vec<u16> = Vec::new();
        for id in [home, previous, older] {
            if self.live(id) && !live.contains(&id) {
                live.push(id);
            }
        }
        let Some(&first) = live.first() else { return live };
        if job.opens() {
            return vec![first];
        }
        match &job.kind {
            // An error opens nothing, so that nobody is asked too early.
            Kind::Tcp { .. } | Kind::Error(_) => live,
            Kind::Udp { .. }
                if job.service.flags & SERVICE_ASK != 0 && previous != first && live.contains(&previous) =>
            {
                vec![first, previous, first | HOP_ACCEPT]
            }
            Kind::Udp { .. } | Kind::Answer => vec![first],
        }
    }
}

/// The tuple as the client knows it.
fn pin(job: &Job) -> FlowKey {
    FlowKey {
        client: job.client,
        endpoint: job.service.vip,
        client_port: job.client_port,
        endpoint_port: job.service.port,
        protocol: job.service.protocol,
        pad: [0; 3],
    }
}

/// Home, previous and older of a row; the latter two only within the drain time.
pub(crate) fn held(row: Row, drain_minutes: u16, now: Clock) -> [u16; 3] {
    if now.minutes().wrapping_sub(row.stamp) >= drain_minutes {
        [row.home, NO_NODE, NO_NODE]
    } else {
        [row.home, row.previous, row.older]
    }
}
