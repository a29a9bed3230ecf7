//! What the model reads of an IP packet.

use bascule_ebpf_common::VipKey;

use crate::forward::bytes::{u16_at, u32_at};

/// IP protocol numbers (IANA).
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP6: u8 = 58;
/// IPv6 extension headers that are walked (RFC 8200 section 4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// Most extension headers walked.
const MAX_WALK: usize = 8;

/// A fragment's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) offset: u16,
    pub(crate) id: u32,
}

/// An IP packet inside a frame; offsets count from the start of the frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ip {
    pub(crate) at: usize,
    pub(crate) v6: bool,
    pub(crate) source: VipKey,
    pub(crate) destination: VipKey,
    pub(crate) protocol: u8,
    pub(crate) l4: usize,
    /// Where the header says the packet ends.
    pub(crate) end: usize,
    /// No options, no extension header.
    pub(crate) bare: bool,
    pub(crate) fragment: Option<Fragment>,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
}

impl Ip {
    /// Length the header states.
    pub(crate) fn length(&self) -> usize {
        self.end - self.at
    }
    /// A fragment other than the first.
    pub(crate) fn rest(&self) -> bool {
        self.fragment.is_some_and(|f| f.offset != 0)
    }
    /// Fast path: neither options nor fragments nor extension headers.
    pub(crate) fn plain(&self) -> bool {
        self.bare && self.fragment.is_none()
    }
}

/// The Ethernet header: where it ends and the type behind at most two tags.
#[must_use]
pub fn ethernet(frame: &[u8]) -> Option<(usize, u16)> {
    let mut at = 12;
    for _ in 0..2 {
        match u16_at(frame, at)? {
            0x8100 | 0x88a8 => at += 4,
            _ => break,
        }
    }
    Some((at + 2, u16_at(frame, at)?))
}

/// The packet at `at`, if it is IP of the family that the EtherType names.
pub(crate) fn read(frame: &[u8], at: usize, ethertype: u16) -> Option<Ip> {
    match ethertype {
        0x0800 => read4(frame, at),
        0x86dd => read6(frame, at),
        _ => None,
    }
}

/// The packet at `at`, of the family its first bits name.
pub(crate) fn read_any(frame: &[u8], at: usize) -> Option<Ip> {
    match frame.get(at)? >> 4 {
        4 => read4(frame, at),
        6 => read6(frame, at),
        _ => None,
    }
}

fn read4(frame: &[u8], at: usize) -> Option<Ip> {
    let h = frame.get(at..at + 20)?;
    let header = usize::from(h[0] & 15) * 4;
    if h[0] >> 4 != 4 || header < 20 || at + header > frame.len() {
        return None;
    }
    let place = u16_at(h, 6)?;
    let fragment = (place & 0x3fff != 0)
        .then(|| Fragment { offset: (place & 0x1fff) * 8, id: u32::from(u16::from_be_bytes([h[4], h[5]])) });
    Some(Ip {
        at,
        v6: false,
        source: VipKey::v4([h[12], h[13], h[14], h[15]]),
        destination: VipKey::v4([h[16], h[17], h[18], h[19]]),
        protocol: h[9],
        l4: at + header,
        end: at + usize::from(u16_at(h, 2)?),
        bare: header == 20,
        fragment,
        tos: h[1],
        ttl: h[8],
    })
}

fn read6(frame: &[u8], at: usize) -> Option<Ip> {
    let h = frame.get(at..at + 40)?;
    if h[0] >> 4 != 6 {
        return None;
    }
    let mut ip = Ip {
        at,
        v6: true,
        source: VipKey::v6(h[8..24].try_into().ok()?),
        destination: VipKey::v6(h[24..40].try_into().ok()?),
        protocol: h[6],
        l4: at + 40,
        end: at + 40 + usize::from(u16_at(h, 4)?),
        bare: true,
        fragment: None,
        tos: h[0] << 4 | h[1] >> 4,
        ttl: h[7],
    };
    for _ in 0..MAX_WALK {
        let Some(x) = frame.get(ip.l4..ip.l4 + 8) else { return Some(ip) };
        match ip.protocol {
            HOP_BY_HOP | DESTINATION => ip.l4 += 8 + usize::from(x[1]) * 8,
            // With segments left the destination is not the final one: none of ours.
            ROUTING if x[3] == 0 => ip.l4 += 8 + usize::from(x[1]) * 8,
            FRAGMENT => {
                let place = u16_at(x, 2)?;
                // An atomic fragment (RFC 6946) is whole.
                if place & 0xfff9 != 0 {
                    ip.fragment = Some(Fragment { offset: place & 0xfff8, id: u32_at(x, 4)? });
                }
                ip.l4 += 8;
            }
            _ => return Some(ip),
        }
        ip.bare = false;
        ip.protocol = x[0];
        if ip.rest() {
            return Some(ip);
        }
    }
    Some(ip)
}

/// Where the packet at `at` begins and ends by its own header.
#[must_use]
pub fn read_ip(frame: &[u8], at: usize, ethertype: u16) -> Option<(usize, usize)> {
    read(frame, at, ethertype).map(|ip| (ip.at, ip.end))
}
