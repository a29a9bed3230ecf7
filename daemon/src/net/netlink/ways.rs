//! The way to an address and the place where it lives: route, neighbour, link and forwarding tables of this network namespace, read.
//!
//! Nothing is configured here, with one exception that the kernel makes for every packet as well: a next hop whose MAC is not known is
//! asked for (`NTF_USE`). Answers are of the moment; [`Ways::changed`] tells when to ask again.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use rtnetlink::packet_core::NLM_F_CREATE;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::parse::{attributes, ip, text, word};
use super::socket::{NetlinkSocket, messages};
use crate::net::NetError;

/// `RTMGRP_*` of linux/rtnetlink.h: links, neighbours, routes of both families.
const GROUPS: u32 = 0x1 | 0x4 | 0x40 | 0x400;
/// Networks of routes that are told apart; more at once are any.
const ROUTES_MAX: usize = 256;
/// Events that are read in one go: half of what the socket holds.
const PENDING_MAX: usize = 4096;
/// Sizes of `rtmsg`, `ndmsg` and `ifinfomsg`.
const ROUTE_HEADER: usize = 12;
pub(super) const NEIGHBOUR_HEADER: usize = 12;
pub(super) const LINK_HEADER: usize = 16;
/// Attributes of linux/rtnetlink.h and linux/neighbour.h.
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_METRICS: u16 = 8;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const NDA_LLADDR: u16 = 2;
const NDA_MASTER: u16 = 9;
/// Attributes of linux/if_link.h.
const IFLA_ADDRESS: u16 = 1;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
/// Type of a route to an address of our own (`RTN_LOCAL`).
const LOCAL: u8 = 2;
/// Neighbour states in which the MAC may be used (`NUD_VALID`), and those in which it is known to be right.
pub(super) const VALID: u16 = 0x80 | 0x40 | 0x02 | 0x10 | 0x04 | 0x08;
const CERTAIN: u16 = 0x80 | 0x40 | 0x02;
/// Smallest MTU of IPv6 (RFC 8200 section 5): a metric below it is somebody's mistake.
const MTU_MIN: u32 = 576;

/// How frames get to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Device towards it.
    pub ifindex: u32,
    /// MAC of that device.
    pub source_mac: [u8; 6],
    /// MAC of the next hop.
    pub next_mac: [u8; 6],
    /// Largest IP packet, bytes.
    pub mtu: u16,
}

/// Where an address lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// In this network namespace.
    Here,
    /// In the one with this id, at the other end of a device (veth, or one that is a port of a bridge here).
    Netns(i32),
    /// Not to be told from here.
    Elsewhere,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Change {
    /// Neighbours at most: answers of [`Ways::way`], and places that are not known.
    #[default]
    Neighbours,
    /// Routes to these networks: answers about what lies in them. A VIP that is taken or let go of is such a route, of one address.
    Routes(Vec<IpNet>),
    /// Links, or what was lost to hear: any answer.
    Any,
}

impl Change {
    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => Self::Any,
            (Self::Neighbours, rest) | (rest, Self::Neighbours) => rest,
            (Self::Routes(one), Self::Routes(two)) if one.len() + two.len() > ROUTES_MAX => Self::Any,
            (Self::Routes(mut all), Self::Routes(two)) => {
                all.extend(two);
                Self::Routes(all)
            }
        }
    }
}

pub(super) struct Route {
    pub(super) local: bool,
    pub(super) ifindex: u32,
    pub(super) gateway: Option<IpAddr>,
    mtu: Option<u32>,
}

struct Neighbour {
    state: u16,
    mac: Option<[u8; 6]>,
}

#[derive(Clone, Copy, Default)]
struct LinkFacts {
    mac: Option<[u8; 6]>,
    mtu: u32,
    netns: Option<i32>,
    bridge: bool,
}

/// Asks and listens, on sockets of its own.
pub struct Ways {
    asking: NetlinkSocket,
    events: NetlinkSocket,
    /// Links that this look has asked for.
    links: HashMap<u32, LinkFacts>,
}

impl Ways {
    /// Opens both sockets in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When a netlink socket cannot be opened.
    pub fn open() -> Result<Self, NetError> {
        Ok(Self { asking: NetlinkSocket::open(0)?, events: NetlinkSocket::open(GROUPS)?, links: HashMap::new() })
    }

    /// Another look begins: links are asked for once in each, for many ways lead over the same.
    pub fn begin(&mut self) {
        self.links.clear();
    }

    /// Waits until something changed that an answer may depend on. Lost events are a change, too. May be dropped at any time.
    ///
    /// # Errors
    /// When the socket fails for another reason; open anew.
    pub async fn changed(&mut self) -> Result<Change, NetError> {
        loop {
            match self.events.next().await {
                Ok(bytes) => {
                    if let Some(change) = heard(bytes) {
                        return Ok(change);
                    }
                }
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Change::Any),
                Err(e) => return Err(NetError::system("hear of routes and neighbours")(e)),
            }
        }
    }

    /// What changed since the last look, without waiting. An error is for the next [`Self::changed`] to tell.
    pub async fn pending(&mut self) -> Change {
        let mut all = Change::default();
        for _ in 0..PENDING_MAX {
            match tokio::time::timeout(Duration::ZERO, self.changed()).await {
                Ok(Ok(change)) => all = all.and(change),
                Ok(Err(_)) => return Change::Any,
                Err(_nothing_more) => break,
            }
        }
        all
    }

    /// The way to `address`; `None`: there is no route, or the next hop has not answered yet.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn way(&mut self, address: IpAddr) -> Result<Option<Way>, NetError> {
        let Some(route) = self.route(address).await? else { return Ok(None) };
        if route.local {
            return Ok(None);
        }
        let link = self.link(route.ifindex).await?;
        let Some(source_mac) = link.mac else { return Ok(None) };
        let hop = route.gateway.unwrap_or(address);
        let Some(next_mac) = self.neighbour(hop, route.ifindex).await? else { return Ok(None) };
        let mtu = route.mtu.filter(|mtu| *mtu >= MTU_MIN).map_or(link.mtu, |mtu| mtu.min(link.mtu));
        Ok(Some(Way { ifindex: route.ifindex, source_mac, next_mac, mtu: u16::try_from(mtu).unwrap_or(u16::MAX) }))
    }

    /// Where `address` lives.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn whereabouts(&mut self, address: IpAddr) -> Result<Whereabouts, NetError> {
        let Some(route) = self.route(address).await? else { return Ok(Whereabouts::Elsewhere) };
        if route.local {
            return Ok(Whereabouts::Here);
        }
        if route.gateway.is_some_and(|gateway| gateway != address) {
            return Ok(Whereabouts::Elsewhere);
        }
        let link = self.link(route.ifindex).await?;
        if let Some(id) = link.netns {
            return Ok(Whereabouts::Netns(id));
        }
        if !link.bridge {
            return Ok(Whereabouts::Elsewhere);
        }
        let Some(mac) = self.neighbour(address, route.ifindex).await? else { return Ok(Whereabouts::Elsewhere) };
        let Some(port) = self.port_of(route.ifindex, mac).await? else { return Ok(Whereabouts::Elsewhere) };
        Ok(self.link(port).await?.netns.map_or(Whereabouts::Elsewhere, Whereabouts::Netns))
    }

    async fn route(&mut self, to: IpAddr) -> Result<Option<Route>, NetError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(to);
        message.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(to)));
        let answer = self.asking.ask("ask for a route", RouteNetlinkMessage::GetRoute(message)).await?;
        Ok(answer.as_deref().and_then(parse_route))
    }

    async fn link(&mut self, ifindex: u32) -> Result<LinkFacts, NetError> {
        if let Some(known) = self.links.get(&ifindex) {
            return Ok(*known);
        }
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        let answer = self.asking.ask("ask for a link", RouteNetlinkMessage::GetLink(message)).await?;
        let facts = answer.as_deref().and_then(parse_link).unwrap_or_default();
        let _none = self.links.insert(ifindex, facts);
        Ok(facts)
    }

    /// The MAC of a neighbour. One that is not certain is asked for; what was known of it holds meanwhile.
    async fn neighbour(&mut self, address: IpAddr, ifindex: u32) -> Result<Option<[u8; 6]>, NetError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = ifindex;
        message.attributes.push(NeighbourAttribute::Destination(match address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        }));
        let request = RouteNetlinkMessage::GetNeighbour(message.clone());
        let answer = self.asking.ask("ask for a neighbour", request).await?;
        let found = answer.as_deref().and_then(parse_neighbour);
        if found.as_ref().is_none_or(|n| n.state & CERTAIN == 0) {
            message.header.flags = NeighbourFlags::Use;
            let solicit = (RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE);
            let refused = self.asking.change("ask a neighbour for its MAC", vec![solicit]).await?;
            if let Some(Err(error)) = refused.into_iter().next() {
                tracing::debug!(%error, %address, "the kernel does not ask this neighbour");
            }
        }
        Ok(found.filter(|n| n.state & VALID != 0).and_then(|n| n.mac))
    }

    /// The port of a bridge behind which a MAC was last seen.
    async fn port_of(&mut self, bridge: u32, mac: [u8; 6]) -> Result<Option<u32>, NetError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        let request = RouteNetlinkMessage::GetNeighbour(message);
        let entries = self.asking.dump("list forwarding entries", &request).await?;
        Ok(entries.iter().find_map(|entry| parse_forwarding(entry, bridge, mac)))
    }
}

pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

pub(super) fn mac(value: &[u8]) -> Option<[u8; 6]> {
    value.try_into().ok()
}

/// What a datagram of events says; `None`: nothing new.
fn heard(datagram: &[u8]) -> Option<Change> {
    let change = |kind: u16, payload: &[u8]| match kind {
        // Our own questions refresh neighbours: their use is no change.
        libc::RTM_NEWNEIGH if !settles(payload) => None,
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => Some(Change::Neighbours),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            Some(destination(payload).map_or(Change::Any, |net| Change::Routes(vec![net])))
        }
        _ => Some(Change::Any),
    };
    messages(datagram).filter_map(|message| change(message.kind, message.payload)).reduce(Change::and)
}

/// The network that a route leads to.
fn destination(payload: &[u8]) -> Option<IpNet> {
    let (header, rest) = payload.split_at_checked(ROUTE_HEADER)?;
    let (family, length) = (i32::from(header[0]), header[1]);
    let any: IpAddr = match family {
        libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let to = attributes(rest).find(|nla| nla.kind() == RTA_DST).map_or(Some(any), |nla| ip(nla.value()))?;
    IpNet::new(to, length).ok()
}

pub(super) fn parse_route(payload: &[u8]) -> Option<Route> {
    let (header, rest) = payload.split_at_checked(ROUTE_HEADER)?;
    let mut route = Route { local: header[7] == LOCAL, ifindex: 0, gateway: None, mtu: None };
    for nla in attributes(rest) {
        let value = nla.value();
        match nla.kind() {
            RTA_OIF => route.ifindex = word(value)?,
            RTA_GATEWAY => route.gateway = ip(value),
            // The family, then the address.
            RTA_VIA => route.gateway = value.get(2..).and_then(ip),
            RTA_METRICS => {
                route.mtu = attributes(value).find(|m| m.kind() == RTAX_MTU).and_then(|m| word(m.value()));
            }
            _ => {}
        }
    }
    (route.ifindex != 0).then_some(route)
}

fn parse_neighbour(payload: &[u8]) -> Option<Neighbour> {
    let (header, rest) = payload.split_at_checked(NEIGHBOUR_HEADER)?;
    let state = u16::from_ne_bytes([header[8], header[9]]);
    let known = attributes(rest).find(|nla| nla.kind() == NDA_LLADDR).and_then(|nla| mac(nla.value()));
    Some(Neighbour { state, mac: known })
}

/// Does a neighbour event say more than that the entry is in use?
fn settles(payload: &[u8]) -> bool {
    parse_neighbour(payload).is_none_or(|n| n.state & CERTAIN != 0 || n.state & VALID == 0)
}

fn parse_forwarding(payload: &[u8], bridge: u32, wanted: [u8; 6]) -> Option<u32> {
    let (header, rest) = payload.split_at_checked(NEIGHBOUR_HEADER)?;
    let port = word(&header[4..8])?;
    let (mut master, mut seen) = (None, None);
    for nla in attributes(rest) {
        match nla.kind() {
            NDA_LLADDR => seen = mac(nla.value()),
            NDA_MASTER => master = word(nla.value()),
            _ => {}
        }
    }
    (seen == Some(wanted) && master == Some(bridge)).then_some(port)
}

fn parse_link(payload: &[u8]) -> Option<LinkFacts> {
    let (_, rest) = payload.split_at_checked(LINK_HEADER)?;
    let mut facts = LinkFacts::default();
    for nla in attributes(rest) {
        let value = nla.value();
        match nla.kind() {
            IFLA_ADDRESS => facts.mac = mac(value),
            IFLA_MTU => facts.mtu = word(value)?,
            IFLA_LINK_NETNSID => facts.netns = word(value).map(u32::cast_signed).filter(|id| *id >= 0),
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|n| n.kind() == IFLA_INFO_KIND).map(|n| text(n.value()));
                facts.bridge = kind.as_deref() == Some("bridge");
            }
            _ => {}
        }
    }
    Some(facts)
}

/// What the kernel says to "is there such a thing?" when there is not.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ENOENT
                | libc::ESRCH
                | libc::ENODEV
                | libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::EACCES
                | libc::EINVAL
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_route_tells_device_gateway_and_mtu() {
        let mut payload = vec![0; ROUTE_HEADER];
        payload[7] = 1;
        payload.extend(nla(RTA_OIF, &7u32.to_ne_bytes()));
        payload.extend(nla(RTA_GATEWAY, &[192, 0, 2, 1]));
        payload.extend(nla(RTA_METRICS, &nla(RTAX_MTU, &1400u32.to_ne_bytes())));
        let route = parse_route(&payload).unwrap();
        assert_eq!((route.local, route.ifindex, route.mtu), (false, 7, Some(1400)));
        assert_eq!(route.gateway, Some([192, 0, 2, 1].into()));
        payload[7] = LOCAL;
        assert!(parse_route(&payload).unwrap().local);
        assert!(parse_route(&payload[..ROUTE_HEADER]).is_none(), "an unreachable route has no device");
    }

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + payload.len()).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], payload].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn route(family: i32, length: u8, to: &[u8]) -> Vec<u8> {
        let mut payload = vec![0; ROUTE_HEADER];
        (payload[0], payload[1]) = (u8::try_from(family).unwrap(), length);
        if !to.is_empty() {
            payload.extend(nla(RTA_DST, to));
        }
        message(libc::RTM_NEWROUTE, &payload)
    }

    #[test]
    fn a_route_changes_answers_about_its_network_only() {
        let net = |text: &str| Some(Change::Routes(vec![text.parse().unwrap()]));
        assert_eq!(heard(&route(libc::AF_INET, 32, &[10, 9, 64, 7])), net("10.9.64.7/32"));
        assert_eq!(heard(&route(libc::AF_INET, 0, &[])), net("0.0.0.0/0"));
        assert_eq!(heard(&route(libc::AF_INET6, 0, &[])), net("::/0"));
        assert_eq!(heard(&route(libc::AF_INET, 99, &[10, 9, 64, 7])), Some(Change::Any));
        assert_eq!(heard(&message(libc::RTM_NEWLINK, &[0; 16])), Some(Change::Any));
        let both = [route(libc::AF_INET, 24, &[10, 1, 0, 0]), route(libc::AF_INET, 24, &[10, 2, 0, 0])].concat();
        let nets = ["10.1.0.0/24", "10.2.0.0/24"].map(|text| text.parse().unwrap());
        assert_eq!(heard(&both), Some(Change::Routes(nets.to_vec())));
        assert_eq!(heard(&[both, message(libc::RTM_DELLINK, &[0; 16])].concat()), Some(Change::Any));
        let mut used = vec![0; NEIGHBOUR_HEADER];
        used[8..10].copy_from_slice(&0x04u16.to_ne_bytes());
        assert_eq!(heard(&message(libc::RTM_NEWNEIGH, &used)), None);
        assert_eq!(heard(&message(libc::RTM_DELNEIGH, &used)), Some(Change::Neighbours));
        let many = Change::Routes(vec![nets[0]; ROUTES_MAX]);
        assert_eq!(many.clone().and(Change::Neighbours), many);
        assert_eq!(many.and(Change::Routes(vec![nets[1]])), Change::Any);
    }

    #[test]
    fn a_forwarding_entry_counts_for_its_bridge_and_its_mac_only() {
        let mut payload = vec![0; NEIGHBOUR_HEADER];
        payload[4..8].copy_from_slice(&9u32.to_ne_bytes());
        payload.extend(nla(NDA_LLADDR, &[2, 0, 0, 0, 0, 1]));
        payload.extend(nla(NDA_MASTER, &3u32.to_ne_bytes()));
        assert_eq!(parse_forwarding(&payload, 3, [2, 0, 0, 0, 0, 1]), Some(9));
        assert_eq!(parse_forwarding(&payload, 4, [2, 0, 0, 0, 0, 1]), None);
        assert_eq!(parse_forwarding(&payload, 3, [2, 0, 0, 0, 0, 2]), None);
    }

    #[test]
    fn a_neighbour_in_use_is_no_news() {
        let mut payload = vec![0; NEIGHBOUR_HEADER];
        for (state, news) in [(0x04u16, false), (0x08, false), (0x10, false), (0x02, true), (0x20, true), (0x01, true)]
        {
            payload[8..10].copy_from_slice(&state.to_ne_bytes());
            assert_eq!(settles(&payload), news, "{state:#x}");
        }
    }
}
