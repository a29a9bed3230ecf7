//! A packet for a service, with all that was found out about it on the way to a decision.

use bascule_ebpf_common::forward::{
    Config, Flow, FlowKey, HOP_ACCEPT, Half, NODE_DEAD, SITE_REACHABLE, Shim, ShimHead, is_site,
};

use crate::egress::Leaving;
use crate::encap::{Onward, Outer4, Outer6};
use crate::home::{Glance, Step};
use crate::maps;
use crate::packet::{Inner, Room};
use crate::parse::{Ip, Ipv4Header, Ipv6Header, TcpHeader};
use crate::service::{Found, Kind};
use crate::slow::{Abroad, Guests};
use crate::socket::{Tuple4, Tuple6};

/// A packet for a service.
pub(crate) struct Request<'a> {
    pub(crate) config: &'static Config,
    pub(crate) found: Found,
    pub(crate) work: &'a mut Work,
}

/// What was read from a packet. It lies in a map, one per CPU, for the stack has 512 bytes; nothing in it outlives the packet.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Work {
    /// The packet as the client sent it.
    pub(crate) ip: Ip,
    /// The IP header of the encapsulation it came in.
    pub(crate) outer: Ip,
    /// The shim of that encapsulation.
    pub(crate) shim: Shim,
    pub(crate) hash: u64,
    pub(crate) chain: Chain,
    /// Client port, network order.
    pub(crate) client_port: u16,
    /// Slot of the service.
    pub(crate) slot: u16,
    /// The other site that its sender belongs to; 0: it is of this one.
    pub(crate) site: u8,
    /// Its sender, of another site, was told that the flow lives on this node.
    pub(crate) named: bool,
    /// Nobody is told that it does not fit, and no stack answers it: an error, or a part of a packet.
    pub(crate) quiet: bool,
    pub(crate) kind: Kind,
    /// Bytes of the link header.
    pub(crate) link: u8,
    /// The node it was sent to last.
    pub(crate) next: u16,
    /// Identification of a fragment, network order (IPv4: in the low half).
    pub(crate) fragment: u32,
    /// Offsets of the IP and transport headers that an ICMP error quotes.
    pub(crate) quote: u8,
    pub(crate) quote_transport: u8,
    /// Slots of the candidates here.
    pub(crate) slots: Slots,
    /// How many of them count.
    pub(crate) candidates: u8,
    /// The first candidate that may take a new flow.
    pub(crate) free: u8,
    /// Who is asked for what nobody here knows. The step says so too: it is what the function that finds it out has to give, as the verifier wants.
    pub(crate) asked: u16,
    /// Another VIP holds one that would have taken it.
    pub(crate) collided: bool,
    /// Candidates that another VIP holds, one bit each.
    pub(crate) foreign: u8,
    /// The first candidate that the SYN of this flow went to.
    pub(crate) half: u8,
    /// The first candidate whose flow of this tuple is closed.
    pub(crate) closed: u8,
    /// It came from another node, encapsulated.
    pub(crate) tunnelled: bool,
    /// What it goes into is IPv6.
    pub(crate) outer_v6: bool,
    /// The shim of the encapsulation that is made.
    pub(crate) sealed: [u64; 2],
    /// Offset of the transport checksum.
    pub(crate) checksum: u8,
    /// The candidate that is being looked at.
    pub(crate) aimed: Aimed,
    /// Who of the own row is asked.
    pub(crate) glance: Glance,
    /// Who is asked for a packet from another site.
    pub(crate) guests: Guests,
    /// Which other sites are asked.
    pub(crate) abroad: Abroad,
    /// What the home step decided.
    pub(crate) step: Step,
    /// Where it goes on to.
    pub(crate) onward: Onward,
    /// The flow under the tuple of the endpoint that is being looked at.
    pub(crate) key: FlowKey,
    /// Room for what is built of it.
    pub(crate) build: Build,
    /// What was read from a packet that leaves.
    pub(crate) leaving: Leaving,
}

/// Keys, values and headers under construction, one at a time.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) union Build {
    pub(crate) flow: Flow,
    pub(crate) half: Half,
    pub(crate) tuple4: Tuple4,
    pub(crate) tuple6: Tuple6,
    pub(crate) cookie4: (Ipv4Header, TcpHeader),
    pub(crate) cookie6: (Ipv6Header, TcpHeader),
    pub(crate) outer4: Outer4,
    pub(crate) outer6: Outer6,
}

/// What of a candidate is still asked once its key has been made.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Aimed {
    /// Slot of the endpoint; 0: the stack's own delivery.
    pub(crate) slot: u16,
    /// Takes new flows.
    pub(crate) ready: bool,
}

/// Slots of candidates. Aligned: written by words.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Slots(pub(crate) [u16; 8]);

impl Slots {
    /// The first four, 16 bits each from the lowest; the others are 0.
    #[inline(always)]
    pub(crate) fn new(first: u64) -> Self {
        // SAFETY: both are 16 bytes of plain numbers.
        unsafe { core::mem::transmute::<[u64; 2], Self>([first, 0]) }
    }
}

impl Work {
    /// Where the packet lies.
    #[inline(always)]
    pub(crate) fn inner(&self) -> Inner {
        Inner { link: usize::from(self.link), at: self.ip.at(), v6: self.ip.v6 }
    }
}

impl Request<'_> {
    /// Where the packet lies.
    #[inline(always)]
    pub(crate) fn inner(&self) -> Inner {
        self.work.inner()
    }
}

/// Who may still be asked, and how the packet came.
#[derive(Clone, Copy)]
pub(crate) struct Chain {
    /// Nodes that were asked before this one.
    pub(crate) index: u8,
    /// Hops there are.
    pub(crate) count: u8,
    /// Which of them is the next one.
    pub(crate) place: u8,
    /// Hops, 16 bits each from the lowest: shifted, not indexed.
    pub(crate) hops: u32,
    /// `SHIM_REMOTE`, `SHIM_FINAL` as they came.
    pub(crate) flags: u8,
    /// This arrival may open the flow without asking on.
    pub(crate) accept: bool,
    /// Node on which the client's packet arrived.
    pub(crate) ingress: u16,
    /// Node it came from; self: from the client.
    pub(crate) sender: u16,
    pub(crate) origin_site: u8,
    pub(crate) second_site: u8,
    /// Epoch of the table from which the node chose on which the client's packet arrived.
    pub(crate) epoch: u16,
    /// The encapsulation it came in.
    pub(crate) outer: Option<Room>,
}

impl Chain {
    /// The hop at `place` 0 or 1, with its accept bit.
    #[inline(always)]
    pub(crate) fn hop(&self, place: u8) -> u16 {
        (self.hops >> (16 * u32::from(place & 1))) as u16
    }

    /// Skips hops that cannot be asked; one that names this node may tell it to open the flow.
    #[inline(always)]
    pub(crate) fn settle(&mut self, this: u16) {
        for _ in 0..2 {
            if self.used_up() {
                return;
            }
            let hop = self.hop(self.place);
            let id = hop & !HOP_ACCEPT;
            if id == this {
                self.accept |= hop & HOP_ACCEPT != 0;
            } else if alive(id) {
                return;
            }
            self.place += 1;
        }
    }

    /// Is anybody left to ask? True of a settled chain only.
    #[inline(always)]
    pub(crate) fn used_up(&self) -> bool {
        self.place >= self.count
    }

    /// The shim that says the same.
    #[inline(always)]
    pub(crate) fn head(&self, found: &Found) -> ShimHead {
        ShimHead {
            flags: self.flags,
            index: self.index,
            count: self.count,
            accept: false,
            service: found.service.number,
            epoch: self.epoch,
            origin_site: self.origin_site,
            second_site: self.second_site,
            hops: [self.hops as u16, (self.hops >> 16) as u16],
        }
    }

    /// Does the packet show that `id` was asked? Not the node where it arrived, whose own row may lag behind ours.
    #[inline(always)]
    pub(crate) fn asked(&self, id: u16) -> bool {
        // A second place that names nobody who is still to be asked names who was asked first.
        (self.index != 0 && id == self.sender) || (self.index == 2 && self.count < 2 && id == self.hop(1))
    }
}

/// May a packet be sent to other site `site`?
#[inline(always)]
pub(crate) fn reachable(site: u8) -> bool {
    maps::SITES.get(u32::from(site)).is_some_and(|site| site.count != 0 && site.flags & SITE_REACHABLE != 0)
}

/// Which other site does node `id` belong to? 0: it is of this one.
#[inline(always)]
pub(crate) fn foreign(config: &Config, id: u16) -> u8 {
    match maps::NODES.get(u32::from(id)) {
        Some(node) if node.site != config.site => node.site,
        Some(_) | None => 0,
    }
}

/// The other site of a node to which a packet may be sent, 0: it is of this one; `None`: it may not be. [`foreign`] and [`alive`] in one look.
#[inline(always)]
pub(crate) fn living(config: &Config, id: u16) -> Option<u8> {
    if id == 0 || is_site(id) {
        return None;
    }
    match maps::NODES.get(u32::from(id)) {
        Some(node) if node.flags & NODE_DEAD != 0 => None,
        Some(node) if node.site != config.site => Some(node.site),
        Some(_) => Some(0),
        None => None,
    }
}

/// May a packet be sent to this node? Sites are no nodes: they are asked when no node is left.
#[inline(always)]
pub(crate) fn alive(id: u16) -> bool {
    if id == 0 || is_site(id) {
        return false;
    }
    maps::NODES.get(u32::from(id)).is_some_and(|node| node.flags & NODE_DEAD == 0)
}
