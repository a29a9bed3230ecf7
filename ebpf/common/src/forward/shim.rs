//! The shim between the outer UDP header and the packet: who may hold the flow, and a tag that only nodes of the group can make.
//!
//! ```text
//!  byte 0        1              2-3       4-5     6        7         8-9      10-11    12-15
//!  version:4     index:2        service   epoch   origin   second    hop 0    hop 1    tag
//!  flags:4       count:2, 0:4   number            site     site
//! ```
//!
//! All numbers in network order. `index` says how many nodes were asked before the receiver, at most [`SHIM_LAST`]; the outer destination
//! is the next one. At index 0 the hops below `count` are to be asked after it, and the outer source is the ingress node. From index 1 on
//! `hops[0]` is the node on which the packet came into the site, whose hop has been used by then, and `hops[1]` is to be asked if `count` is
//! 2; at index 2 with a `count` of 1 it is the node that was asked at index 0. A node that sends on drops hops that are dead or itself, adds
//! those of its own row that the shim does not show to have been asked, as far as there is room, and lets `index` grow by one.
//!
//! From one site to another the index is 0, there are no hops to ask, and `hops[0]` is the node on which the client's packet came into
//! its site. `hops[1]`, if it is the receiver, says that the flow lives there, as far as is known; else the gateway chooses who is asked, as the node of
//! index 0. `origin site` is the client's, from there on always; `second site` is the
//! one that is asked after the first ([`SHIM_REMOTE`]), as the origin chose. With [`SHIM_REMOTE`] and [`SHIM_FINAL`] it comes back to `hops[0]`.
//!
//! The tag is the lower half of SipHash-2-4 over three words: the flow hash of the packet inside (its reversed inner tuple for an
//! ICMP error), bytes 0-7 as a little-endian number, and bytes 8-11 (little-endian, low half) with the sending node in bits 32-47
//! and the receiving node in bits 48-63. Sender and receiver are not in the packet: each side takes them from what it knows of
//! the outer addresses, so a tag is worth nothing on any other path.

use super::hash::siphash24;

/// Version of the shim, in the upper half of byte 0.
pub const SHIM_VERSION: u8 = 1;
/// Flag: slot of the tag key.
pub const SHIM_KEY: u8 = 1;
/// Flag: it looks for its flow in other sites: none may be opened.
pub const SHIM_REMOTE: u8 = 4;
/// Flag: on its way back: alone, a reply to the node on which the request arrived; with [`SHIM_REMOTE`], a packet that no other site knew.
pub const SHIM_FINAL: u8 = 8;
/// Not in the shim's flags but in a hop: the receiver opens the flow (UDP ask-then-claim).
pub const HOP_ACCEPT: u16 = 0x1000;
/// Same as [`HOP_ACCEPT`], as bit 4 of byte 1: this very arrival may open the flow without asking on. With [`SHIM_FINAL`] alone: a copy of a
/// reply, which says that its flow lives with its sender, and is not emitted.
pub const SHIM_ACCEPT: u8 = 0x10;

/// Largest index: who receives it is the last one that is asked, so that a site's nodes see a packet five times at most; twice more where the last one
/// reaches no other site, and gives it back to the node where it arrived.
pub const SHIM_LAST: u8 = 3;

/// Bytes of the shim.
pub const SHIM_LEN: usize = 16;
/// Bytes that encapsulation adds over IPv4: 20 + 8 + 16.
pub const OVERHEAD_V4: usize = 44;
/// Bytes that encapsulation adds over IPv6: 40 + 8 + 16.
pub const OVERHEAD_V6: usize = 64;

/// The shim on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Shim {
    /// Version (upper half) and flags (lower half).
    pub version_flags: u8,
    /// Index (bits 0-1), count (bits 2-3), [`SHIM_ACCEPT`] (bit 4); the rest zero.
    pub hops_used: u8,
    /// Service number, network order.
    pub service: u16,
    /// Epoch of the sender's table, network order.
    pub epoch: u16,
    /// Site in which the packet arrived from the client.
    pub origin_site: u8,
    /// Site that is asked after the first one; 0: none.
    pub second_site: u8,
    /// Further nodes of the chain, network order.
    pub hops: [u16; 2],
    /// Keyed tag, network order.
    pub tag: u32,
}

/// The shim's fields in host order, for code that makes and reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShimHead {
    /// `SHIM_KEY`, `SHIM_REMOTE`, `SHIM_FINAL`.
    pub flags: u8,
    /// How many nodes were asked before the receiver.
    pub index: u8,
    /// How many places of `hops` count.
    pub count: u8,
    /// This arrival may open the flow.
    pub accept: bool,
    /// Service number.
    pub service: u16,
    /// Epoch.
    pub epoch: u16,
    /// Origin site.
    pub origin_site: u8,
    /// Second site.
    pub second_site: u8,
    /// Hops.
    pub hops: [u16; 2],
}

impl ShimHead {
    /// The shim with its tag, for a packet with flow hash `hash` from node `from` to node `to`.
    #[inline(always)]
    #[must_use]
    pub const fn seal(&self, key: [u64; 2], hash: u64, from: u16, to: u16) -> Shim {
        let mut shim = Shim {
            version_flags: SHIM_VERSION << 4 | (self.flags & 0x0f),
            hops_used: (self.index & 3) | (self.count & 3) << 2 | if self.accept { SHIM_ACCEPT } else { 0 },
            service: self.service.to_be(),
            epoch: self.epoch.to_be(),
            origin_site: self.origin_site,
            second_site: self.second_site,
            hops: [self.hops[0].to_be(), self.hops[1].to_be()],
            tag: 0,
        };
        shim.tag = shim.expected(key, hash, from, to).to_be();
        shim
    }
}

impl Shim {
    /// The fields, if the version is ours and the reserved bits are zero.
    #[inline(always)]
    #[must_use]
    pub const fn open(&self) -> Option<ShimHead> {
        if self.version_flags >> 4 != SHIM_VERSION || self.hops_used & 0xe0 != 0 {
            return None;
        }
        Some(ShimHead {
            flags: self.version_flags & 0x0f,
            index: self.hops_used & 3,
            count: self.hops_used >> 2 & 3,
            accept: self.hops_used & SHIM_ACCEPT != 0,
            service: u16::from_be(self.service),
            epoch: u16::from_be(self.epoch),
            origin_site: self.origin_site,
            second_site: self.second_site,
            hops: [u16::from_be(self.hops[0]), u16::from_be(self.hops[1])],
        })
    }

    /// The tag this shim ought to carry (host order).
    #[inline(always)]
    #[must_use]
    pub const fn expected(&self, key: [u64; 2], hash: u64, from: u16, to: u16) -> u32 {
        let head = self.version_flags as u64
            | (self.hops_used as u64) << 8
            | (self.service as u64) << 16
            | (self.epoch as u64) << 32
            | (self.origin_site as u64) << 48
            | (self.second_site as u64) << 56;
        let path = self.hops[0] as u64 | (self.hops[1] as u64) << 16 | (from as u64) << 32 | (to as u64) << 48;
        siphash24(key, [hash, head, path]) as u32
    }

    /// Does the tag hold?
    #[inline(always)]
    #[must_use]
    pub const fn verify(&self, key: [u64; 2], hash: u64, from: u16, to: u16) -> bool {
        u32::from_be(self.tag) == self.expected(key, hash, from, to)
    }
}

const _: () = assert!(size_of::<Shim>() == SHIM_LEN);
