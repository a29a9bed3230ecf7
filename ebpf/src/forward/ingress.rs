//! A packet that arrives on a link: ours or not, encapsulated or from a client, and which node it goes to.

use bascule_ebpf_common::forward::{
    CONFIG_OWN_MACS, CONFIG_SITES, Config, DELIVER_NONE, FlowKey, HOP_ACCEPT, NODE_DEAD, NODE_RESOLVED, PacketDrop,
    SERVICE_ASK, SERVICE_EXCEPTIONS, Tally, is_site, site_of,
};

use crate::encap::{self, Onward};
use crate::home;
use crate::maps;
use crate::packet::{Packet, forgotten, same};
use crate::parse::{self, IPPROTO_UDP, Ip, Network, Ports};
use crate::request::{Chain, Request, Work, alive, reachable};
use crate::rows::{self, Place};
use crate::service::{self, Found, Kind};
use crate::tunnel;
use crate::verdict::Verdict;
use crate::watch;

/// Judges a frame.
#[inline(always)]
pub(crate) fn judge<P: Packet>(packet: &P) -> Verdict {
    let (Some(config), Some(work)) = (maps::CONFIG.get(0), maps::work()) else { return Verdict::Pass };
    if config.node == 0 {
        return Verdict::Pass;
    }
    let slot = match arrive(packet, config, work) {
        Ok(slot) => slot,
        Err(verdict) => return verdict,
    };
    let Some(service) = maps::SERVICES.get(slot) else { return Verdict::Pass };
    home::step(packet, &mut Request { config, found: Found { slot, service }, work })
}

/// The slot of the service, of a packet whose first node is this one; or what became of any other packet.
///
/// A number, and not the request: a result made of pointers and numbers is moved in halves of pointers, which the verifier refuses.
#[inline(always)]
fn arrive<P: Packet>(packet: &P, config: &'static Config, work: &mut Work) -> Result<u32, Verdict> {
    packet.prepare();
    let link = parse::link(packet).ok_or(Verdict::Pass)?;
    work.link = link.bytes as u8;
    work.chain.outer = None;
    match parse::ip(packet, link.bytes, link.v6, &mut work.ip) {
        Network::Plain => {}
        Network::Odd => return Err(Verdict::Slow(maps::WHOLE)),
        Network::Broken => return Err(Verdict::Pass),
    }
    let mut ports: Ports = packet.read(work.ip.transport()).ok_or(Verdict::Pass)?;
    let tunnelled = is_tunnel(config, &work.ip, ports);
    if tunnelled {
        ports = tunnel::open(packet, config, work)?;
    }
    admit::<P, true>(packet, config, work, ports, tunnelled)
}

/// The rest of it, of a packet whose ports are known. `LOOKS`: nobody has looked yet whether the frame is for another station.
#[inline(always)]
pub(crate) fn admit<P: Packet, const LOOKS: bool>(
    packet: &P,
    config: &'static Config,
    work: &mut Work,
    ports: Ports,
    tunnelled: bool,
) -> Result<u32, Verdict> {
    let Some(found) = service::find(work.ip.destination, ports.destination, work.ip.protocol) else {
        if tunnelled {
            return Err(Verdict::Drop(PacketDrop::EncapService));
        }
        maps::tally(Tally::Passed);
        return Err(Verdict::Pass);
    };
    if LOOKS && !tunnelled && is_foreign(packet, config) {
        maps::tally(Tally::Passed);
        return Err(Verdict::Pass);
    }
    if found.service.delivery == DELIVER_NONE {
        return Err(if tunnelled { Verdict::Drop(PacketDrop::EncapService) } else { Verdict::Pass });
    }
    work.client_port = ports.source;
    work.slot = found.slot as u16;
    let pair = (ports.source, ports.destination);
    work.tunnelled = tunnelled;
    work.hash = found.hash(config, work.ip.source, work.ip.destination, pair, work.ip.protocol);
    // The hash was one for both.
    let tunnelled = forgotten(&work.tunnelled);
    if packet.segment() != 0 {
        // An aggregate beyond 64 KiB has no length of its own.
        work.ip.length = (packet.length() - work.ip.at()) as u32;
    }
    if tunnelled {
        tunnel::trust(config, work, &found)?;
    }
    work.kind = found.transport(packet, &work.ip).map_err(Verdict::Drop)?;
    if tunnelled {
        tunnel::accept(packet, work)?;
        return Ok(found.slot);
    }
    balance::<P, LOOKS>(packet, &mut Request { config, found, work })
}

/// Is the frame for another station? A switch that does not know a MAC shows its frames to all, a bridge and a promiscuous device take
/// them: each node that took one would deliver its packet once more.
#[inline(always)]
pub(crate) fn is_foreign<P: Packet>(packet: &P, config: &Config) -> bool {
    if config.flags & CONFIG_OWN_MACS == 0 || packet.for_host() {
        return false;
    }
    let Some(head) = packet.read::<u64>(0) else { return true };
    // SAFETY: only whether there is an entry counts.
    unsafe { maps::OWN_MACS.get(head & MAC_BYTES) }.is_none()
}

/// The destination of an Ethernet frame among its first eight bytes.
const MAC_BYTES: u64 = 0xffff_ffff_ffff;

/// Is it a packet to the address and port at which this node takes encapsulation?
#[inline(always)]
pub(crate) fn is_tunnel(config: &Config, ip: &Ip, ports: Ports) -> bool {
    let own = if ip.v6 { &config.address6 } else { &config.address4 };
    ip.protocol == IPPROTO_UDP && ports.destination == config.tunnel_port && same(own, &ip.destination)
}

/// Chooses the nodes that may hold the flow of a packet from a client. `WATCHES`: its handshake is watched.
#[inline(always)]
pub(crate) fn balance<P: Packet, const WATCHES: bool>(packet: &P, request: &mut Request) -> Result<u32, Verdict> {
    let (config, found) = (request.config, request.found);
    if !found.admits(&request.work.ip.source) {
        return Err(Verdict::Drop(PacketDrop::SourceRange));
    }
    // What it asks for is of interest only where another site could take it.
    found.count(request.work.ip.length, config.flags & CONFIG_SITES != 0 && request.work.kind.asks());
    if WATCHES {
        watch::goes_on(request);
    }
    let place = Place::new(&raw const found.service.nodes, (request.work.hash >> 32) as u32);
    let nodes = match pinned(request) {
        Pin::None => candidates::<WATCHES>(request, &place).ok_or_else(|| nobody(config))?,
        Pin::Here(id) => Nodes { first: id, hops: 0, count: 0 },
        Pin::There => return Err(Verdict::Slow(maps::PINNED)),
    };
    let chain = &mut request.work.chain;
    *chain = Chain {
        index: 0,
        count: nodes.count,
        place: 0,
        hops: nodes.hops,
        flags: 0,
        accept: false,
        ingress: config.node,
        sender: config.node,
        origin_site: config.site,
        second_site: 0,
        epoch: place.table.epoch,
        outer: None,
    };
    if nodes.first == config.node {
        return Ok(found.slot);
    }
    let onward = Onward { to: nodes.first, first: true, site: 0, head: chain.head(&found) };
    let verdict = encap::send(packet, request, onward);
    if let Verdict::Send(_) = verdict {
        maps::tally(Tally::Encapsulated);
    }
    Err(verdict)
}

/// No node of the row takes the packet: another site may.
#[inline(always)]
fn nobody(config: &Config) -> Verdict {
    if config.flags & CONFIG_SITES != 0 { Verdict::Slow(maps::AWAY) } else { Verdict::Drop(PacketDrop::NoEndpoint) }
}

/// The nodes to ask, in order.
struct Nodes {
    first: u16,
    /// Further ones, 16 bits each from the lowest.
    hops: u32,
    /// How many further ones.
    count: u8,
}

/// Where a flow is pinned against its row.
enum Pin {
    /// Nowhere, or where it cannot be sent now.
    None,
    /// To this node of this site.
    Here(u16),
    /// To a node of another site.
    There,
}

/// The node that a flow is pinned to. What opens a flow follows the row, and ends the pin of what had its tuple before.
#[inline(always)]
fn pinned(request: &Request) -> Pin {
    if request.found.service.flags & SERVICE_EXCEPTIONS == 0 {
        return Pin::None;
    }
    let key = pin(request);
    let tcp = matches!(request.work.kind, Kind::Tcp(_));
    if tcp && request.work.kind.opens() {
        let _none = maps::EXCEPTIONS.remove(&key);
        return Pin::None;
    }
    // SAFETY: four bytes are copied at once.
    let id = match unsafe { maps::EXCEPTIONS.get(key) } {
        Some(id) => *id as u16,
        None => return Pin::None,
    };
    let Some(node) = maps::NODES.get(u32::from(id)) else { return Pin::None };
    if id == 0 || node.flags & NODE_DEAD != 0 {
        return Pin::None;
    }
    // Where there are no sites nobody has a number.
    if node.site == request.config.site || node.site == 0 {
        return Pin::Here(id);
    }
    if tcp && node.flags & NODE_RESOLVED != 0 && reachable(node.site) { Pin::There } else { Pin::None }
}

/// The key of a flow's pin: its tuple as the client knows it.
#[inline(always)]
pub(crate) fn pin(request: &Request) -> FlowKey {
    FlowKey {
        client: request.work.ip.source,
        endpoint: request.work.ip.destination,
        client_port: request.work.client_port,
        endpoint_port: request.found.service.port,
        protocol: request.work.ip.protocol,
        pad: [0; 3],
    }
}

/// The nodes of the flow's row.
#[inline(always)]
fn candidates<const WATCHES: bool>(request: &Request, place: &Place) -> Option<Nodes> {
    let service = request.found.service;
    if place.table.rows == 0 {
        // Nobody balances: what there is here serves.
        let local = Place::new(&raw const service.endpoints, request.work.hash as u32).table.rows != 0;
        return local.then_some(Nodes { first: request.config.node, hops: 0, count: 0 });
    }
    let ids = rows::current(place.row(), service.drain_minutes);
    let (home, previous, older) = (ids.at(0), ids.at(1), ids.at(2));
    let (home_lives, previous_lives) = (alive(home), alive(previous));
    if is_site(home) && leaves(request, previous_lives) && reachable(site_of(home)) {
        if WATCHES {
            watch::note(request, site_of(home));
        }
        return None;
    }
    if WATCHES {
        watch::note(request, request.config.site);
    }
    let first = if home_lives {
        home
    } else if previous_lives {
        previous
    } else if alive(older) {
        older
    } else {
        return None;
    };
    let alone = Nodes { first, hops: 0, count: 0 };
    Some(match request.work.kind {
        Kind::Tcp(_) if !request.work.kind.opens() => {
            // Who is first is not asked again.
            let second = previous_lives && first != previous;
            let third = first != older && alive(older);
            match (second, third) {
                (true, true) => Nodes { first, hops: u32::from(previous) | u32::from(older) << 16, count: 2 },
                (true, false) => Nodes { first, hops: u32::from(previous), count: 1 },
                (false, true) => Nodes { first, hops: u32::from(older), count: 1 },
                (false, false) => alone,
            }
        }
        Kind::Udp if service.flags & SERVICE_ASK != 0 && home_lives && previous_lives => {
            Nodes { first, hops: u32::from(previous) | u32::from(home | HOP_ACCEPT) << 16, count: 2 }
        }
        Kind::Tcp(_) | Kind::Udp | Kind::Quic => alone,
    })
}

/// Does a packet of a row that another site is the home of go there at once? What belongs to a flow is asked for here first, at the homes before;
/// UDP with state stays with the last one, for nobody else could say whether it opens a flow.
#[inline(always)]
fn leaves(request: &Request, previous_lives: bool) -> bool {
    match request.work.kind {
        Kind::Tcp(_) => request.work.kind.opens(),
        Kind::Udp | Kind::Quic => request.found.service.flags & SERVICE_ASK == 0 || !previous_lives,
    }
}
