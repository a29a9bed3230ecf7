//! Entries of the kernel's neighbour tables that are kept: read, marked, asked for and let go of. Which need what, `bascule_core::neighbor`
//! decides.
//!
//! The mark is `NTF_EXT_LEARNED` with a number of ours as its protocol (`NDA_PROTOCOL`): such an entry is neither collected nor counted against
//! the table's limit, and still learns from ARP and NDP. From Linux 5.16 `NTF_EXT_MANAGED` comes with it: the kernel keeps it resolved even
//! while the daemon stands still. Older kernels read over that attribute.

#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use bascule_core::neighbor::{Certainty, Holder, Place, Seen, Step};
use bascule_core::types::{LinkId, Mac};
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};

use super::parse::{self, Address, attributes, ip, word};
use super::socket::NetlinkSocket;
use super::ways::{LINK_HEADER, NEIGHBOUR_HEADER, VALID, family, mac, parse_route};
use crate::net::NetError;

/// Marks an entry as ours: the protocol of instance 0; instance N has the Nth number after it. The numbers are those of routes (`RTPROT_*` of
/// linux/rtnetlink.h), and nobody is known to use these.
const MARK: u8 = 98;
/// The last one that is ours: that of instance 7.
const LAST_MARK: u8 = MARK + 7;
/// `RTMGRP_*` of linux/rtnetlink.h: links, routes of both families. Not neighbours: a table that overflows tells of thousands in a second.
const GROUPS: u32 = 0x1 | 0x40 | 0x400;
/// Attributes of linux/neighbour.h.
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_CACHEINFO: u16 = 3;
const NDA_PROTOCOL: u16 = 12;
const NDA_FLAGS_EXT: u16 = 15;
/// Flags of linux/neighbour.h.
const NTF_EXT_LEARNED: u8 = 1 << 4;
const NTF_EXT_MANAGED: u32 = 1;
/// States of linux/neighbour.h.
const NUD_ASKING: u16 = 0x01 | 0x10;
const NUD_KNOWN: u16 = 0x02 | 0x04 | 0x08;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
/// Unit of times in `nda_cacheinfo`: `USER_HZ`, 100 in a second on every architecture that Linux runs on here.
const TICK: Duration = Duration::from_millis(10);
/// Of linux/if.h: a link on which nobody is asked.
const IFF_NOARP: u32 = 0x80;
/// Attribute of linux/if_link.h: how often the carrier came and went.
const IFLA_CARRIER_CHANGES: u16 = 35;

/// A neighbour that is depended on, as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Where packets go to.
    pub address: IpAddr,
    /// The first of these links that there is has to be taken.
    pub links: Vec<String>,
    /// No link is named: the one whose subnet this address lies in has to be taken. `None`: what the routes say.
    pub beside: Option<IpAddr>,
    /// Source of the packets, where it is set: rules may route by it.
    pub source: Option<IpAddr>,
}

/// Reads and changes entries, on sockets of its own.
pub struct Entries {
    asking: NetlinkSocket,
    events: NetlinkSocket,
    /// Addresses of links, read once in each round of places.
    nets: Option<Vec<Address>>,
    mark: u8,
    unmanaged: bool,
}

impl Entries {
    /// Opens both sockets in the network namespace of the calling thread, for one of several daemons in it. Numbers above 7 count as 7.
    ///
    /// # Errors
    /// When a netlink socket cannot be opened.
    pub fn open(instance: u8) -> Result<Self, NetError> {
        let mark = MARK.saturating_add(instance).min(LAST_MARK);
        let (asking, events) = (NetlinkSocket::open(0)?, NetlinkSocket::open(GROUPS)?);
        Ok(Self { asking, events, nets: None, mark, unmanaged: false })
    }

    /// Waits until links or routes changed. Lost events are a change, too. May be dropped at any time.
    ///
    /// # Errors
    /// When the socket fails for another reason.
    pub async fn changed(&mut self) -> Result<(), NetError> {
        match self.events.next().await {
            Ok(_) => Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            Err(e) => Err(NetError::system("hear of links and routes")(e)),
        }
    }

    /// True when an entry of ours was seen that the kernel does not keep resolved by itself: it is older than 5.16.
    pub const fn unmanaged(&self) -> bool {
        self.unmanaged
    }

    /// Another round of places begins: addresses of links are read anew.
    pub fn begin(&mut self) {
        self.nets = None;
    }

    /// The neighbour through which packets for `target` leave: itself, or a gateway. `None`: there is no route, or the address is our own.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn place(&mut self, target: &Target) -> Result<Option<Place>, NetError> {
        let link = match (target.links.as_slice(), target.beside) {
            ([], None) => None,
            ([], Some(beside)) => self.link_of(beside).await?,
            (links, _) => links.iter().find_map(|name| if_nametoindex(name.as_str()).ok()),
        };
        if link.is_none() && (!target.links.is_empty() || target.beside.is_some()) {
            return Ok(None);
        }
        let mut message = RouteMessage::default();
        message.header.address_family = family(target.address);
        message.header.destination_prefix_length = host_prefix(target.address);
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(target.address)));
        message.attributes.extend(link.map(RouteAttribute::Oif));
        if let Some(source) = target.source.filter(|source| source.is_ipv4() == target.address.is_ipv4()) {
            message.header.source_prefix_length = host_prefix(source);
            message.attributes.push(RouteAttribute::Source(RouteAddress::from(source)));
        }
        let answer = self.asking.ask("ask for a route", RouteNetlinkMessage::GetRoute(message)).await?;
        let route = answer.as_deref().and_then(parse_route).filter(|route| !route.local);
        Ok(route.map(|route| Place { link: LinkId(route.ifindex), address: route.gateway.unwrap_or(target.address) }))
    }

    /// The link whose subnet an address lies in. A host address is no subnet: it may be a VIP.
    async fn link_of(&mut self, address: IpAddr) -> Result<Option<u32>, NetError> {
        if self.nets.is_none() {
            let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
            let all = self.asking.dump("list addresses", &request).await?;
            self.nets = Some(all.iter().filter_map(|payload| parse::address(payload)).collect());
        }
        let subnet = |a: &&Address| a.net.prefix_len() < host_prefix(address) && a.net.contains(&address);
        Ok(self.nets.iter().flatten().find(subnet).map(|a| a.link.0))
    }

    /// How often the carrier of a link came and went; `None`: the link is gone, or nobody on it has an address of its own.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn carrier(&mut self, link: LinkId) -> Result<Option<u32>, NetError> {
        let mut message = LinkMessage::default();
        message.header.index = link.0;
        let answer = self.asking.ask("ask for a link", RouteNetlinkMessage::GetLink(message)).await?;
        Ok(answer.as_deref().and_then(parse_carrier))
    }

    /// The entry of a place.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn entry(&mut self, place: Place) -> Result<Option<Seen>, NetError> {
        let request = RouteNetlinkMessage::GetNeighbour(message(place));
        let answer = self.asking.ask("ask for a neighbour", request).await?;
        let Some(entry) = answer.as_deref().and_then(parse_entry) else { return Ok(None) };
        let seen = entry.seen(self.mark);
        self.unmanaged |= seen.holder == Holder::Us && !entry.managed;
        Ok(Some(seen))
    }

    /// Every entry with our mark: what a former run left.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn ours(&mut self) -> Result<Vec<Place>, NetError> {
        let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let all = self.asking.dump("list neighbours", &request).await?;
        let ours =
            all.iter().filter_map(|payload| parse_entry(payload)).filter(|e| e.seen(self.mark).holder == Holder::Us);
        Ok(ours.map(|entry| entry.place).collect())
    }

    /// Carries out a step.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn step(&mut self, place: Place, step: Step) -> Result<(), NetError> {
        let requests = requests(place, step, self.mark);
        let answers = self.asking.change("keep an entry of the neighbour table", requests).await?;
        let refusal = answers.into_iter().filter_map(Result::err).find(|error| !is_gone(error, step));
        refusal.map_or(Ok(()), |source| {
            let (link, address) = (place.link, place.address);
            Err(NetError::Address { what: "keep an entry of the neighbour table for", link, address, source })
        })
    }
}

/// The entry, its MAC or its link has gone since the look that the step comes from: the next look finds that.
fn is_gone(error: &io::Error, step: Step) -> bool {
    match (step, error.raw_os_error()) {
        (_, Some(libc::ENODEV)) => true,
        (Step::Make | Step::Ask, _) => false,
        (_, Some(libc::ENOENT)) => true,
        // No MAC to keep.
        (Step::Mark | Step::Verify | Step::Return, Some(libc::EINVAL)) => true,
        (Step::Mark | Step::Verify | Step::Return | Step::Renew | Step::Delete, _) => false,
    }
}

/// The messages of a step, in one datagram: between two of them the kernel does nothing else for us.
fn requests(place: Place, step: Step, mark: u8) -> Vec<(RouteNetlinkMessage, u16)> {
    let put = NLM_F_CREATE | NLM_F_REPLACE;
    // Asks for the MAC unless it is known, and marks a new entry. NTF_USE is what makes kernels before 5.16 ask.
    let ask = || {
        let mut ask = marked(place, mark);
        ask.header.flags |= NeighbourFlags::Use;
        ask.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        (RouteNetlinkMessage::NewNeighbour(ask), put)
    };
    // Without a MAC the one that is there stays. Not together with NTF_USE and NTF_EXT_MANAGED: with those the state is not read.
    let state = |state, mut message: NeighbourMessage| {
        message.header.state = state;
        (RouteNetlinkMessage::NewNeighbour(message), NLM_F_REPLACE)
    };
    let delete = || (RouteNetlinkMessage::DelNeighbour(message(place)), 0);
    match step {
        Step::Make | Step::Ask => vec![ask()],
        // Kernels before 5.16 do not mark an entry that is there by NTF_USE.
        Step::Mark => vec![state(NeighbourState::Stale, marked(place, mark)), ask()],
        Step::Renew => vec![delete(), ask()],
        Step::Verify => vec![state(NeighbourState::Probe, marked(place, mark)), ask()],
        Step::Return => vec![state(NeighbourState::Stale, message(place))],
        Step::Delete => vec![delete()],
    }
}

fn message(place: Place) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(place.address);
    message.header.ifindex = place.link.0;
    message.attributes.push(NeighbourAttribute::Destination(match place.address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }));
    message
}

fn marked(place: Place, mark: u8) -> NeighbourMessage {
    let mut message = message(place);
    message.header.flags = NeighbourFlags::ExtLearned;
    message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::from(mark)));
    message
}

const fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// An entry as it came.
struct Entry {
    place: Place,
    state: u16,
    learned: bool,
    managed: bool,
    protocol: u8,
    mac: Option<Mac>,
    confirmed: Duration,
}

impl Entry {
    fn seen(&self, mark: u8) -> Seen {
        let certainty = match self.state {
            state if state & NUD_PERMANENT != 0 => Certainty::Fixed,
            state if state & NUD_NOARP != 0 => Certainty::Plain,
            state if state & NUD_ASKING != 0 => Certainty::Asking,
            state if state & NUD_KNOWN != 0 => Certainty::Known,
            _ => Certainty::Lost,
        };
        let holder = match (self.learned, self.protocol == mark) {
            (true, true) => Holder::Us,
            (true, false) => Holder::Other,
            (false, _) => Holder::Nobody,
        };
        let mac = self.mac.filter(|_| self.state & VALID != 0);
        Seen { certainty, mac, holder, confirmed: self.confirmed }
    }
}

fn parse_entry(payload: &[u8]) -> Option<Entry> {
    let (header, rest) = payload.split_at_checked(NEIGHBOUR_HEADER)?;
    let link = LinkId(word(&header[4..8])?);
    let (mut address, mut hardware, mut confirmed, mut protocol, mut more) = (None, None, Duration::ZERO, 0, 0);
    for nla in attributes(rest) {
        let value = nla.value();
        match nla.kind() {
            NDA_DST => address = ip(value),
            NDA_LLADDR => hardware = mac(value).map(Mac),
            NDA_CACHEINFO => confirmed = TICK.saturating_mul(word(value)?),
            NDA_PROTOCOL => protocol = value.first().copied()?,
            NDA_FLAGS_EXT => more = word(value)?,
            _ => {}
        }
    }
    Some(Entry {
        place: Place { link, address: address? },
        state: u16::from_ne_bytes([header[8], header[9]]),
        learned: header[10] & NTF_EXT_LEARNED != 0,
        managed: more & NTF_EXT_MANAGED != 0,
        protocol,
        mac: hardware,
        confirmed,
    })
}

fn parse_carrier(payload: &[u8]) -> Option<u32> {
    let (header, rest) = payload.split_at_checked(LINK_HEADER)?;
    let asked = word(&header[8..12])? & IFF_NOARP == 0;
    let changes = attributes(rest).find(|nla| nla.kind() == IFLA_CARRIER_CHANGES).and_then(|nla| word(nla.value()));
    asked.then(|| changes.unwrap_or(0))
}
