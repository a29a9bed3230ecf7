//! The endpoints of this node that may hold a flow.

use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{DELIVER_DELEGATE, ENDPOINT_DRAINING, ENDPOINT_READY, Endpoint, FlowKey};

use crate::encap::is_v4;
use crate::maps;
use crate::packet::{forgotten, halves};
use crate::request::{Aimed, Request, Slots};
use crate::rows::{self, Place};

/// Candidates of the flow's own row.
pub(crate) const OWN: u8 = 3;
/// Candidates in all: where another VIP holds the tuple on one of them, the homes of the rows behind it count too.
pub(crate) const MAX_CANDIDATES: u8 = OWN + 4;
/// In place of a slot: the stack's own delivery of the VIP (delegated). Whether there are endpoints here is its business; rows lead here
/// only while there are.
const STACK: u16 = 0xffff;

/// Where a packet may be delivered.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    /// Slot of the endpoint; 0: the stack's own delivery.
    pub(crate) slot: u16,
    /// Takes new flows.
    pub(crate) ready: bool,
    /// Network namespace id; below -1: unknown.
    pub(crate) netns: i32,
    pub(crate) address: VipKey,
    /// Network order.
    pub(crate) port: u16,
}

impl Target {
    /// Its namespace is known, and so are its sockets.
    #[inline(always)]
    pub(crate) fn has_sockets(&self) -> bool {
        self.netns >= -1
    }
}

/// Puts the candidates at this node for the flow of `request` into the work. There and not into variables: the verifier would follow every
/// combination.
#[inline(always)]
pub(crate) fn gather(request: &mut Request) {
    let service = request.found.service;
    let work = &mut *request.work;
    work.candidates = OWN;
    if service.delivery == DELIVER_DELEGATE {
        work.slots = Slots::new(u64::from(STACK));
        return;
    }
    let place = Place::new(&raw const service.endpoints, work.hash as u32);
    let ids = rows::current(place.row(), service.drain_minutes);
    work.slots = Slots::new(ids.0);
}

/// Another VIP holds the flow's tuple on a candidate: the rows behind its own count too, once.
#[inline(always)]
pub(crate) fn widen(request: &mut Request) {
    let service = request.found.service;
    if request.work.candidates != OWN || service.delivery == DELIVER_DELEGATE {
        return;
    }
    let place = Place::new(&raw const service.endpoints, request.work.hash as u32);
    request.work.slots.0[3] = place.row_after(1).home;
    request.work.slots.0[4] = place.row_after(2).home;
    request.work.slots.0[5] = place.row_after(3).home;
    request.work.slots.0[6] = place.row_after(4).home;
    request.work.candidates = MAX_CANDIDATES;
}

/// Candidate `index`, if there is one.
#[inline(always)]
pub(crate) fn target(request: &Request, index: u8) -> Option<Target> {
    let service = request.found.service;
    let slot = request.work.slots.0[usize::from(index & 7)];
    if slot == STACK {
        let (address, port) = (service.vip, service.port);
        return Some(Target { slot: 0, ready: true, netns: i32::MIN, address, port });
    }
    let endpoint = endpoint(slot)?;
    // A slot that was cleared or given to another service is no candidate; families are not translated.
    if endpoint.protocol != service.protocol || is_v4(&endpoint.address) == request.work.ip.v6 {
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

/// The endpoint in `slot`, if that is one.
#[inline(always)]
pub(crate) fn endpoint(slot: u16) -> Option<&'static Endpoint> {
    if slot == 0 { None } else { maps::ENDPOINTS.get(u32::from(slot)) }
}

/// Puts the key of the flow of `request` into the work; the endpoint is still to be filled in.
#[inline(always)]
pub(crate) fn start_key(request: &mut Request) {
    let (work, service) = (&mut *request.work, request.found.service);
    work.key = flow_key(&work.ip.source, &service.vip, (work.client_port, service.port), work.ip.protocol);
}

/// The key of a flow between `client` and `endpoint`, ports in that order; put together of words, as the key of a service.
#[inline(always)]
pub(crate) fn flow_key(client: &VipKey, endpoint: &VipKey, ports: (u16, u16), protocol: u8) -> FlowKey {
    const { assert!(size_of::<FlowKey>() == 40) };
    let (client, endpoint) = (halves(client), halves(endpoint));
    let last = u64::from(ports.0) | u64::from(ports.1) << 16 | u64::from(protocol) << 32;
    let words = [client[0], client[1], endpoint[0], endpoint[1], last];
    // SAFETY: both are 40 bytes of plain numbers; the layout is the ABI's (ports, protocol, padding behind the addresses).
    unsafe { core::mem::transmute::<[u64; 5], FlowKey>(words) }
}

/// Completes the key in the work; what else counts of the candidate.
#[inline(always)]
pub(crate) fn aim_key(request: &mut Request, target: &Target) -> Aimed {
    request.work.key.endpoint = target.address;
    request.work.key.endpoint_port = target.port;
    request.work.aimed = Aimed { slot: target.slot, ready: target.ready };
    // From here on an endpoint and the stack are one way to the verifier.
    forgotten(&request.work.aimed)
}
