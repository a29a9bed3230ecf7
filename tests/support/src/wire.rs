//! What a frame on the LAN says, as far as ownership of a VIP goes.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::Stamp;

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Mac {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            *byte = parts.next().and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or(())?;
        }
        if parts.next().is_none() { Ok(Self(bytes)) } else { Err(()) }
    }
}

impl Mac {
    /// True for broadcast and multicast.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Asks who has `target`.
    ArpRequest {
        /// Sender protocol address.
        sender: Ipv4Addr,
        /// Sender hardware address.
        mac: Mac,
        /// The address asked for.
        target: Ipv4Addr,
    },
    /// Says that `mac` has `sender`.
    ArpReply {
        /// Sender protocol address: the address claimed.
        sender: Ipv4Addr,
        /// Sender hardware address.
        mac: Mac,
    },
    /// Gratuitous ARP: sender and target address are the same.
    Gratuitous {
        /// The address claimed.
        vip: Ipv4Addr,
        /// Sender hardware address.
        mac: Mac,
        /// The reply form; else the request form.
        reply: bool,
    },
    /// Neighbour solicitation.
    Ns {
        /// The address asked for.
        target: Ipv6Addr,
        /// Who asks; unspecified in duplicate address detection.
        source: Ipv6Addr,
    },
    /// Neighbour advertisement.
    Na {
        /// The address claimed.
        target: Ipv6Addr,
        /// The target link-layer address option.
        mac: Option<Mac>,
        /// An answer to a solicitation; else an announcement.
        solicited: bool,
        /// Override flag.
        overrides: bool,
    },
    /// A VRRP advertisement.
    Vrrp {
        /// 2 or 3.
        version: u8,
        /// Virtual router.
        vrid: u8,
        /// 0 releases.
        priority: u8,
        /// Who sends it.
        source: IpAddr,
        /// Version 3: Max Advertise Interval, in centiseconds; version 2: its seconds, times 100.
        interval_cs: u16,
    },
    /// Any other IP packet.
    Ip {
        /// Source address.
        source: IpAddr,
        /// Destination address.
        destination: IpAddr,
        /// IP protocol or next header.
        protocol: u8,
        /// A TCP segment with SYN and ACK.
        syn_ack: bool,
    },
}

/// A frame seen on a port of a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// When the kernel of the switch handled it.
    pub at: Stamp,
    /// [`crate::Bridge::id`] of the switch.
    pub bridge: u16,
    /// Index of the port.
    pub port: u32,
    /// The switch sent it out of the port; else it came in from the node.
    pub out: bool,
    /// Ethernet source.
    pub src: Mac,
    /// Ethernet destination.
    pub dst: Mac,
    /// What it says.
    pub kind: Kind,
    /// Tells copies of one frame on several ports from different frames.
    pub digest: u64,
}

impl Frame {
    /// The address this frame speaks for as its holder: ARP and NDP claims, and packets with the address as source.
    pub fn speaks_for(&self) -> Option<IpAddr> {
        match self.kind {
            Kind::ArpReply { sender, .. } => Some(IpAddr::V4(sender)),
            Kind::Gratuitous { vip, .. } => Some(IpAddr::V4(vip)),
            Kind::Na { target, .. } => Some(IpAddr::V6(target)),
            Kind::Ip { source, .. } => Some(source),
            // An ARP request or solicitation from the address teaches its neighbours as well (RFC 826, RFC 4861 7.2.3).
            Kind::ArpRequest { sender, .. } => Some(IpAddr::V4(sender)),
            Kind::Ns { source, .. } => Some(IpAddr::V6(source)),
            Kind::Vrrp { .. } => None,
        }
    }

    /// ARP replies, gratuitous ARP, advertisements of neighbours and SYN-ACKs: what takes new traffic to the sender.
    pub fn claims(&self) -> bool {
        match self.kind {
            Kind::ArpReply { .. } | Kind::Gratuitous { .. } | Kind::Na { .. } => true,
            Kind::Ip { syn_ack, .. } => syn_ack,
            Kind::ArpRequest { .. } | Kind::Ns { .. } | Kind::Vrrp { .. } => false,
        }
    }

    /// Unasked claims: gratuitous ARP and unsolicited neighbour advertisements.
    pub fn announces(&self) -> bool {
        matches!(self.kind, Kind::Gratuitous { .. } | Kind::Na { solicited: false, .. })
    }
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_ICMPV6: u8 = 58;
const PROTOCOL_VRRP: u8 = 112;
const ICMPV6_NS: u8 = 135;
const ICMPV6_NA: u8 = 136;

/// Source MAC, destination MAC, meaning and digest of an Ethernet frame; None for what says nothing about addresses.
pub fn classify(frame: &[u8]) -> Option<(Mac, Mac, Kind, u64)> {
    let dst = Mac(array(frame, 0)?);
    let src = Mac(array(frame, 6)?);
    let payload = frame.get(14..)?;
    let kind = match u16::from_be_bytes(array(frame, 12)?) {
        ETHERTYPE_ARP => arp(payload)?,
        ETHERTYPE_IPV4 => ipv4(payload)?,
        ETHERTYPE_IPV6 => ipv6(payload)?,
        _ => return None,
    };
    let mut hasher = DefaultHasher::new();
    frame.hash(&mut hasher);
    Some((src, dst, kind, hasher.finish()))
}

/// RFC 826: operation at 6, sender MAC at 8, sender address at 14, target address at 24.
fn arp(p: &[u8]) -> Option<Kind> {
    let (reply, mac) = (*p.get(7)? == 2, Mac(array(p, 8)?));
    let (sender, target) = (Ipv4Addr::from(array::<4>(p, 14)?), Ipv4Addr::from(array::<4>(p, 24)?));
    Some(match (sender == target, reply) {
        (true, reply) => Kind::Gratuitous { vip: sender, mac, reply },
        (false, true) => Kind::ArpReply { sender, mac },
        (false, false) => Kind::ArpRequest { sender, mac, target },
    })
}

fn ipv4(p: &[u8]) -> Option<Kind> {
    let source = IpAddr::V4(Ipv4Addr::from(array::<4>(p, 12)?));
    let destination = IpAddr::V4(Ipv4Addr::from(array::<4>(p, 16)?));
    let header = usize::from(*p.first()? & 0xf) * 4;
    // Only the first fragment has the transport header.
    let first = u16::from_be_bytes(array(p, 6)?) & 0x1fff == 0;
    let payload = if first { p.get(header..)? } else { &[] };
    Some(transport(*p.get(9)?, source, destination, payload))
}

fn ipv6(p: &[u8]) -> Option<Kind> {
    let source = Ipv6Addr::from(array::<16>(p, 8)?);
    let destination = Ipv6Addr::from(array::<16>(p, 24)?);
    let (protocol, payload) = (*p.get(6)?, p.get(40..)?);
    if protocol == PROTOCOL_ICMPV6 {
        match *payload.first()? {
            ICMPV6_NS => return Some(Kind::Ns { target: array::<16>(payload, 8)?.into(), source }),
            ICMPV6_NA => {
                // RFC 4861 4.4: flags R, S, O in the top bits of byte 4; option 2 is the target link-layer address.
                let flags = *payload.get(4)?;
                let mac = (payload.get(24) == Some(&2)).then(|| array(payload, 26).map(Mac)).flatten();
                let target = array::<16>(payload, 8)?.into();
                return Some(Kind::Na { target, mac, solicited: flags & 0x40 != 0, overrides: flags & 0x20 != 0 });
            }
            _ => {}
        }
    }
    Some(transport(protocol, source.into(), destination.into(), payload))
}

fn transport(protocol: u8, source: IpAddr, destination: IpAddr, p: &[u8]) -> Kind {
    if protocol == PROTOCOL_VRRP
        && let Some([kind, vrid, priority, _, high, low]) = array::<6>(p, 0)
    {
        // RFC 9568 5.2: version and type in byte 0, 12 bits of Max Advertise Interval at byte 4. RFC 3768: its seconds at byte 5.
        let version = kind >> 4;
        let interval_cs =
            if version == 3 { u16::from_be_bytes([high & 0xf, low]) } else { u16::from(low).saturating_mul(100) };
        return Kind::Vrrp { version, vrid, priority, source, interval_cs };
    }
    // RFC 9293 3.1: SYN is 0x02 and ACK 0x10 of byte 13.
    let syn_ack = protocol == PROTOCOL_TCP && p.get(13).is_some_and(|flags| flags & 0x12 == 0x12);
    Kind::Ip { source, destination, protocol, syn_ack }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::{Kind, Mac, classify};

    const SENDER: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn ethernet(ethertype: [u8; 2], payload: &[u8]) -> Vec<u8> {
        [&[0xff; 6][..], &SENDER.0, &ethertype, payload].concat()
    }

    fn kind(frame: &[u8]) -> Option<Kind> {
        classify(frame).map(|(src, dst, kind, _)| {
            assert!(src == SENDER && dst.is_group());
            kind
        })
    }

    fn arp(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let head = [0, 1, 8, 0, 6, 4, 0, operation];
        ethernet([8, 6], &[&head[..], &SENDER.0, &sender, &[0; 6], &target].concat())
    }

    fn ipv4(protocol: u8, fragment: [u8; 2], payload: &[u8]) -> Vec<u8> {
        let head = [0x45, 0, 0, 0, 0, 0, fragment[0], fragment[1], 255, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        ethernet([8, 0], &[&head[..], payload].concat())
    }

    fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut head = [0u8; 40];
        (head[0], head[6], head[23], head[39]) = (0x60, next, 1, 2);
        ethernet([0x86, 0xdd], &[&head[..], payload].concat())
    }

    #[test]
    fn arp_kinds() {
        let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let (sender, mac) = (a.into(), SENDER);
        assert_eq!(kind(&arp(1, a, b)), Some(Kind::ArpRequest { sender, mac, target: b.into() }));
        assert_eq!(kind(&arp(2, a, b)), Some(Kind::ArpReply { sender, mac }));
        assert_eq!(kind(&arp(1, a, a)), Some(Kind::Gratuitous { vip: sender, mac, reply: false }));
        assert_eq!(kind(&arp(2, a, a)), Some(Kind::Gratuitous { vip: sender, mac, reply: true }));
    }

    #[test]
    fn vrrp_of_both_versions() {
        let read = |frame: Vec<u8>| match kind(&frame) {
            Some(Kind::Vrrp { version, vrid, priority, interval_cs, .. }) => (version, vrid, priority, interval_cs),
            other => panic!("{other:?}"),
        };
        // The top four bits of byte 4 are reserved in version 3.
        assert_eq!(read(ipv4(112, [0, 0], &[0x31, 51, 200, 1, 0xf1, 0x02, 0, 0])), (3, 51, 200, 258));
        assert_eq!(read(ipv4(112, [0, 0], &[0x21, 51, 0, 1, 0, 1, 0, 0])), (2, 51, 0, 100));
        assert_eq!(read(ipv6(112, &[0x31, 7, 1, 1, 0, 10, 0, 0])), (3, 7, 1, 10));
    }

    #[test]
    fn neighbour_discovery() {
        let target = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        let message = |kind: u8, flags: u8, option: u8| {
            [&[kind, 0, 0, 0, flags, 0, 0, 0][..], &target, &[option, 1], &SENDER.0].concat()
        };
        let na = |flags, option| match kind(&ipv6(58, &message(136, flags, option))) {
            Some(Kind::Na { target: t, mac, solicited, overrides }) => {
                (t.octets() == target, mac, solicited, overrides)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(na(0x20, 2), (true, Some(SENDER), false, true));
        assert_eq!(na(0x40, 1), (true, None, true, false));
        assert!(matches!(kind(&ipv6(58, &message(135, 0, 1))), Some(Kind::Ns { .. })));
    }

    #[test]
    fn syn_acks_are_told_from_other_segments() {
        let read = |flags: u8, fragment: [u8; 2]| {
            let mut tcp = [0; 20];
            tcp[13] = flags;
            matches!(kind(&ipv4(6, fragment, &tcp)), Some(Kind::Ip { syn_ack: true, .. }))
        };
        assert!(read(0x12, [0, 0]) && read(0x52, [0x40, 0]));
        assert!(!read(0x10, [0, 0]) && !read(0x02, [0, 0]) && !read(0x12, [0, 1]));
    }

    #[test]
    fn short_frames_say_nothing() {
        for whole in [arp(1, [1; 4], [2; 4]), ipv4(6, [0, 0], &[]), ipv6(58, &[135; 24])] {
            let needed = (0..whole.len()).rfind(|n| classify(&whole[..*n]).is_none());
            assert!(needed.is_some_and(|n| n >= 34 - 1), "cut short it still says something");
        }
    }
}
