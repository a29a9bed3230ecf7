//! The endpoints of this node that may hold a flow.

use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{DELIVER_DELEGATE, ENDPOINT_DRAINING, ENDPOINT_READY, Endpoint, FlowKey, Service};

use crate::maps;
use crate::request::Request;
use crate::rows::{self, Ids, Place};

/// Candidates of the flow's own row.
const OWN: u32 = 3;
/// Candidates in all: where another VIP holds the tuple on one of them, the homes of the rows behind it are taken into account too.
pub(crate) const MAX_CANDIDATES: u32 = OWN + 4;

/// Where a packet may be delivered.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    /// Slot of the endpoint; 0: the stack's own delivery of the VIP (delegated).
    pub(crate) slot: u16,
    /// Takes new flows.
    pub(crate) ready: bool,
    /// Network namespace id; below -1: unknown.
    pub(crate) netns: i32,
    pub(crate) address: VipKey,
    /// Network order.
    pub(crate) port: u16,
}

/// The candidates at this node for one flow.
#[derive(Clone, Copy)]
pub(crate) struct Local {
    service: &'static Service,
    place: Place,
    ids: Ids,
    v6: bool,
}

impl Local {
    /// The candidates for the flow of `request`.
    #[inline(always)]
    pub(crate) fn new(request: &Request) -> Self {
        let service = request.found.service;
        let place = Place::new(&raw const service.endpoints, request.work.hash as u32);
        Self { service, place, ids: rows::current(place.row(), service.drain_minutes), v6: request.work.ip.v6 }
    }

    /// Candidate `index`, if there is one. Those beyond the own row count only once a collision was met.
    #[inline(always)]
    pub(crate) fn target(&self, index: u32) -> Option<Target> {
        if self.service.delivery == DELIVER_DELEGATE {
            return (index == 0).then_some(Target {
                slot: 0,
                ready: self.place.table.rows != 0,
                netns: i32::MIN,
                address: self.service.vip,
                port: self.service.port,
            });
        }
        let slot = if index < OWN { self.ids.at(index) } else { self.place.row_after(index - OWN + 1).home };
        let endpoint = endpoint(slot)?;
        // A slot that was cleared or given to another service is no candidate; families are not translated.
        if endpoint.protocol != self.service.protocol || crate::encap::is_v4(&endpoint.address) == self.v6 {
            return None;
        }
        Some(Target {
            slot,
            ready: endpoint.flags & (ENDPOINT_READY | ENDPOINT_DRAINING) == ENDPOINT_READY,
            netns: endpoint.netns,
            address: endpoint.address,
            port: endpoint.port,
        })
    }
}

/// The endpoint in `slot`, if that is one.
#[inline(always)]
pub(crate) fn endpoint(slot: u16) -> Option<&'static Endpoint> {
    if slot == 0 { None } else { maps::ENDPOINTS.get(u32::from(slot)) }
}

/// Is `index` beyond the flow's own row?
#[inline(always)]
pub(crate) fn is_further(index: u32) -> bool {
    index >= OWN
}

/// Puts the key of the flow of `request` into the work; the endpoint is still to be filled in.
#[inline(always)]
pub(crate) fn start_key(request: &mut Request) {
    request.work.key = FlowKey {
        client: request.work.ip.source,
        endpoint: request.found.service.vip,
        client_port: request.work.client_port,
        endpoint_port: request.found.service.port,
        protocol: request.work.ip.protocol,
        pad: [0; 3],
    };
}

/// Completes the key in the work.
#[inline(always)]
pub(crate) fn aim_key(request: &mut Request, target: &Target) {
    request.work.key.endpoint = target.address;
    request.work.key.endpoint_port = target.port;
}
