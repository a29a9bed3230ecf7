//! Between sites: what leaves for another one, what comes from one, and who is asked for a flow that nobody of this site knows.
//!
//! A packet that opens a flow goes to another site only where its client's packet arrived, and is then placed there for good. One of a flow is
//! looked for here first, then in two other sites at most: those that its row names, then the nearest; each that does not know it sends it on
//! to the second, or back to the origin. So no packet sees more than three sites, and nobody sends on what came to be opened.
//!
//! Of the first reply of a flow that was found so a copy goes to the origin, which pins the flow to the node that sent it (ADR 0036).

use core::ffi::{c_long, c_void};

use bascule_ebpf_common::forward::{
    BUCKET_REMOTE, Config, PacketDrop, SERVICE_EXCEPTIONS, SHIM_FINAL, SHIM_LAST, SHIM_REMOTE, ShimHead, Tally,
    fast_range, is_site, site_of,
};

use super::fragment;
use crate::clock;
use crate::deliver;
use crate::encap::{self, Onward};
use crate::home::{self, Step, Way};
use crate::ingress;
use crate::maps;
use crate::packet::{Packet, forgotten};
use crate::request::{Chain, Request, Slots, Work, alive, living, reachable};
use crate::rows::{self, Place};
use crate::search::Search;
use crate::service::{Found, Kind};
use crate::verdict::Verdict;

/// Ids of a row that are looked at, and sites by nearness.
const ROW: u32 = 3;
const NEAREST: u32 = 14;

/// Nodes of this site that are asked for a packet from another one. It lies in the map, as [`home::Glance`].
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Guests {
    /// Ids to look at, 16 bits each from the lowest; shifted by one place each time.
    ids: u64,
    first: u16,
    second: u16,
    third: u16,
}

/// Other sites that are asked for a flow.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Abroad {
    /// As above, of the own row.
    ids: u64,
    first: u8,
    second: u8,
    /// The row names the first.
    named: bool,
}

/// Goes on `from` where the fast program or this one stopped; all that was read is in the work.
#[inline(always)]
pub(super) fn go_on<P: Packet>(packet: &P, config: &'static Config, work: &mut Work, from: u32) -> Verdict {
    let slot = u32::from(work.slot);
    let Some(service) = maps::SERVICES.get(slot) else { return Verdict::Pass };
    let mut request = Request { config, found: Found { slot, service }, work };
    decide(&mut request, from);
    let step = forgotten(&request.work.step);
    match step.way {
        Way::Onward => send(packet, &mut request, step),
        // As a chain ends.
        Way::Recover => {
            if finish(packet, &mut request) == 0 {
                return Verdict::Pass;
            }
            Verdict::Drop(forgotten(&request.work.step).reason())
        }
        Way::Deliver | Way::Abroad | Way::Drop => Verdict::Drop(step.reason()),
    }
}

/// Decides; the packet is not touched. A function of its own, with a stack frame of its own, and so verified once.
#[inline(never)]
fn decide(request: &mut Request, from: u32) -> u32 {
    if from == maps::AWAY || from == maps::PINNED {
        start(request);
    }
    let lives = matches!(request.work.kind, Kind::Tcp(_)) && !request.work.kind.opens();
    request.work.step = if from == maps::PINNED {
        follow(request)
    } else if from == maps::AWAY && !lives {
        leave(request)
    } else {
        look_abroad(request)
    };
    0
}

/// A packet from a client for which nobody has looked yet.
#[inline(always)]
fn start(request: &mut Request) {
    request.work.slots = Slots::new(0);
    request.work.chain.outer = None;
    anew(request);
}

/// The chain of a packet begins at this node.
#[inline(always)]
fn anew(request: &mut Request) {
    let config = request.config;
    let outer = forgotten(&request.work.chain.outer);
    request.work.chain = Chain {
        index: 0,
        count: 0,
        place: 0,
        hops: 0,
        flags: 0,
        accept: false,
        ingress: config.node,
        sender: config.node,
        origin_site: config.site,
        second_site: 0,
        epoch: Place::new(&raw const request.found.service.nodes, 0).table.epoch,
        outer,
    };
}

/// It belongs to a flow that a node of another site has said to have. Should that have changed since the fast program looked, its client
/// sends it again.
#[inline(always)]
fn follow(request: &mut Request) -> Step {
    request.work.key = ingress::pin(request);
    // SAFETY: four bytes are copied at once.
    let id = match unsafe { maps::EXCEPTIONS.get(&request.work.key) } {
        Some(id) => *id as u16,
        None => return Step::drop(PacketDrop::Unresolved),
    };
    match living(request.config, id) {
        None | Some(0) => Step::drop(PacketDrop::Unresolved),
        Some(site) => {
            request.work.site = site;
            Step::onward(id, id, Tally::Pinned)
        }
    }
}

/// Ends a flow's pin; false: it had none.
#[inline(always)]
fn unpin(request: &mut Request) -> bool {
    if request.found.service.flags & SERVICE_EXCEPTIONS == 0 {
        return false;
    }
    request.work.key = ingress::pin(request);
    maps::EXCEPTIONS.remove(&request.work.key).is_ok()
}

/// The home step is done. Where the flow was said to live on this node and does not, it is looked for from here on: who has it says so.
#[inline(always)]
pub(super) fn missed(request: &mut Request) {
    if request.work.named {
        request.work.chain.flags |= SHIM_REMOTE;
    }
}

/// It may open a flow: to a site that its row names.
#[inline(always)]
fn leave(request: &mut Request) -> Step {
    choose_sites(request, ROW);
    match forgotten(&request.work.abroad.first) {
        0 => Step::drop(PacketDrop::NoEndpoint),
        site => to_site(request, site, 0, Tally::ToSite),
    }
}

/// It belongs to a flow that nobody of this site knows.
#[inline(always)]
fn look_abroad(request: &mut Request) -> Step {
    let (chain, own) = (&request.work.chain, request.config.site);
    if chain.origin_site != own && chain.flags & SHIM_REMOTE != 0 {
        let second = chain.second_site;
        let more = second != 0 && second != own && second != chain.origin_site && reachable(second);
        return if more { to_site(request, second, second, Tally::Remote) } else { give_back(request) };
    }
    if chain.origin_site != own {
        return Step::recover();
    }
    choose_sites(request, ROW + NEAREST);
    let Abroad { first, second, named, .. } = forgotten(&request.work.abroad);
    if first == 0 {
        return ask_arrival(request);
    }
    // Where the row leads anyhow, it may lead a packet of any sort.
    if !named && !clock::take(BUCKET_REMOTE, request.config.remote_rate) {
        return Step::drop(PacketDrop::RemoteRate);
    }
    request.work.chain.flags |= SHIM_REMOTE;
    to_site(request, first, second, Tally::Remote)
}

/// No other site is left that this node reaches: the node where the packet arrived may reach one. It does not either: who asked it says how the
/// chain ends, for it had to be one of the row and may be the only one here with an endpoint.
#[inline(always)]
fn ask_arrival(request: &mut Request) -> Step {
    let (this, chain) = (request.config.node, &mut request.work.chain);
    let mut to = chain.ingress;
    if to == this {
        if chain.index < SHIM_LAST {
            return Step::recover();
        }
        to = chain.sender;
        chain.flags |= SHIM_REMOTE | SHIM_FINAL;
    }
    if living(request.config, to) == Some(0) { Step::onward(to, 0, Tally::NextHop) } else { Step::recover() }
}

/// To a gateway of `site`.
#[inline(always)]
fn to_site(request: &mut Request, site: u8, second: u8, why: Tally) -> Step {
    let Some(entry) = maps::SITES.get(u32::from(site)) else { return Step::drop(PacketDrop::Unresolved) };
    let which = fast_range(request.work.hash as u32, u32::from(entry.count));
    let Some(gateway) = entry.gateways.get(which as usize) else { return Step::drop(PacketDrop::Unresolved) };
    request.work.chain.second_site = second;
    request.work.site = site;
    Step::onward(*gateway, 0, why)
}

/// Nobody here knows it, and no site is left: the node on which it arrived is told.
#[inline(always)]
fn give_back(request: &mut Request) -> Step {
    let (to, origin) = (request.work.chain.ingress, request.work.chain.origin_site);
    if living(request.config, to) != Some(origin) {
        return Step::drop(PacketDrop::RemoteMiss);
    }
    request.work.chain.flags |= SHIM_FINAL;
    request.work.site = origin;
    Step::onward(to, 0, Tally::NextHop)
}

/// To the node that `step` names, of another site or, as the last of a chain, of this one. Between sites the index begins anew, the first place says
/// where the packet arrived, and the second one to whom the flow is pinned.
#[inline(always)]
fn send<P: Packet>(packet: &P, request: &mut Request, step: Step) -> Verdict {
    let chain = &request.work.chain;
    let site = request.work.site;
    let index = if site == 0 { SHIM_LAST } else { 0 };
    let head = ShimHead { index, count: 0, hops: [chain.ingress, step.then], ..chain.head(&request.found) };
    let onward = Onward { to: step.id, first: chain.outer.is_none(), site, head };
    let verdict = encap::send(packet, request, onward);
    if let Verdict::Send(_) = verdict {
        maps::count(step.why());
        if request.work.ip.partial {
            fragment::remember_sent(request.work);
        }
    }
    verdict
}

/// No site is left. A function of its own, as above; 0: the packet is delivered, else the step in the work says why not.
#[inline(never)]
fn finish<P: Packet>(packet: &P, request: &mut Request) -> u32 {
    // Nobody's stack answers an error.
    let step = if request.work.quiet { Step::drop(PacketDrop::NoEndpoint) } else { home::end(request) };
    if step.way != Way::Deliver {
        request.work.step = step;
        return 1;
    }
    maps::count(step.why());
    match deliver::to(packet, request, step.id) {
        Verdict::Drop(reason) => {
            request.work.step = Step::drop(reason);
            1
        }
        _ => 0,
    }
}

/// A packet that comes from another site: who of this one is asked. 1: the step in the work says so; 0: this node is, or the packet is none of
/// those. A function of its own, as above.
#[inline(never)]
pub(super) fn enter(request: &mut Request) -> u32 {
    request.work.named = false;
    if !request.work.tunnelled || request.work.site == 0 {
        return 0;
    }
    choose_nodes(request);
    let Guests { first, second, third, .. } = forgotten(&request.work.guests);
    let this = request.config.node;
    let lives = matches!(request.work.kind, Kind::Tcp(_)) && !request.work.kind.opens();
    let back = request.work.chain.flags & SHIM_FINAL != 0;
    maps::tally(if back { Tally::RemoteBack } else { Tally::FromSite });
    if back && unpin(request) {
        // It was sent where its flow was said to be, and nobody was asked.
        anew(request);
    } else if back {
        let chain = &mut request.work.chain;
        chain.place = 0;
        chain.count = 0;
        // Everybody here was asked before: the first of the row alone says how it ends.
        chain.index = if first == this { SHIM_LAST } else { SHIM_LAST - 1 };
        request.work.step =
            if first == 0 { Step::drop(PacketDrop::NoEndpoint) } else { Step::onward(first, 0, Tally::NextHop) };
        return u32::from(first != this);
    }
    let chain = &mut request.work.chain;
    let named = lives && !back && chain.flags & SHIM_REMOTE == 0 && chain.hop(1) == this;
    chain.place = 0;
    chain.count = 0;
    if first == this || named {
        request.work.named = named;
        if lives {
            // Hops that name this node are skipped.
            let (next, then) = if named { (first, second) } else { (second, third) };
            chain.hops = u32::from(next) | u32::from(then) << 16;
            chain.count = u8::from(next != 0) + u8::from(then != 0);
        }
        return 0;
    }
    request.work.slots = Slots::new(0);
    request.work.step = if first != 0 {
        Step::onward(first, if lives { second } else { 0 }, Tally::NextHop)
    } else if lives {
        Step::abroad()
    } else {
        Step::drop(PacketDrop::NoEndpoint)
    };
    1
}

/// Who of this site is asked for a packet from another one: its row without other sites, nobody sends it on. Where such a site is the home, the
/// row at the other end of the table says who is: the rows that leave first are those at the lower end.
#[inline(always)]
fn choose_nodes(request: &mut Request) {
    let place = Place::new(&raw const request.found.service.nodes, (request.work.hash >> 32) as u32);
    let row = place.row();
    let ids = rows::current(row, request.found.service.drain_minutes).0;
    let other = u64::from(place.opposite().home);
    let ids = if is_site(row.home) { ids & !0xffff | other } else { ids | other << 48 };
    request.work.guests = Guests { ids, first: 0, second: 0, third: 0 };
    Search::new((), request).run(4, look_here);
}

/// Does the next id name a node that can be asked?
extern "C" fn look_here(_: u32, search: *mut c_void) -> c_long {
    // SAFETY: `choose_nodes` gives a live `Search` of a live request.
    let search = unsafe { &mut *search.cast::<Search<()>>() };
    // SAFETY: as above.
    let request = unsafe { &mut *search.request };
    let guests = &mut request.work.guests;
    let id = guests.ids as u16;
    guests.ids >>= 16;
    if id == guests.first || id == guests.second || !alive(id) {
        return 0;
    }
    if guests.first == 0 {
        guests.first = id;
    } else if guests.second == 0 {
        guests.second = id;
    } else {
        guests.third = id;
        return 1;
    }
    0
}

/// Which sites are asked, of the first `turns`: those that the own row names, then by nearness.
#[inline(never)]
fn choose_sites(request: &mut Request, turns: u32) -> u32 {
    let place = Place::new(&raw const request.found.service.nodes, (request.work.hash >> 32) as u32);
    let ids = rows::current(place.row(), request.found.service.drain_minutes).0;
    request.work.abroad = Abroad { ids, first: 0, second: 0, named: false };
    Search::new((), request).run(turns, look_there);
    0
}

/// Is the next site one that can be asked?
extern "C" fn look_there(turn: u32, search: *mut c_void) -> c_long {
    // SAFETY: `choose_sites` gives a live `Search` of a live request.
    let search = unsafe { &mut *search.cast::<Search<()>>() };
    // SAFETY: as above.
    let request = unsafe { &mut *search.request };
    let own = request.config.site;
    let abroad = &mut request.work.abroad;
    let site = if turn < ROW {
        let id = abroad.ids as u16;
        abroad.ids >>= 16;
        if is_site(id) { site_of(id) } else { 0 }
    } else {
        match maps::SITES.get(0).and_then(|order| order.gateways.get((turn - ROW) as usize)) {
            Some(site) => *site as u8,
            None => 0,
        }
    };
    if site == 0 || site == own || site == abroad.first || !reachable(site) {
        return 0;
    }
    if abroad.first == 0 {
        abroad.first = site;
        abroad.named = turn < ROW;
        return 0;
    }
    abroad.second = site;
    1
}
