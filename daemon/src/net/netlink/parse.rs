//! Links and addresses out of rtnetlink messages.
//!
//! Only the attributes needed here are read, straight from the message's bytes: a full decoder refuses a whole message for one attribute
//! that a newer kernel has changed, and a link that cannot be decoded would be a link that is never up.

use std::net::IpAddr;

use bascule_core::types::{LinkId, Mac};
use ipnet::IpNet;
use rtnetlink::packet_core::{NlaBuffer, NlasIterator};

use crate::net::stack::{Kind, Link};

/// Marks an address as ours (`IFA_PROTO`, Linux 5.18 and later). 186 is 0xba; 1..=3 belong to the kernel (`linux/if_addr.h`), and no
/// other program is known to use this one. That of instance 0; instance N has the Nth number after it.
pub const MARKER: u8 = 186;
/// The last one that is ours: that of instance 7.
pub const LAST_MARKER: u8 = MARKER + 7;

/// Attribute types of `linux/if_link.h`.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
/// Operational states of `linux/if.h` that count as running (RFC 2863 section 3.1.14).
const IF_OPER_UNKNOWN: u8 = 0;
const IF_OPER_UP: u8 = 6;
/// Attribute types of `linux/if_addr.h`.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
/// Not usable as a source: duplicate address detection runs, or has failed.
const IFA_F_UNUSABLE: u32 = 0x40 | 0x08;
/// Sizes of `ifinfomsg` and `ifaddrmsg`.
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;

/// An address of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Address {
    pub(crate) link: LinkId,
    pub(crate) net: IpNet,
    /// Its marker; `None` when the kernel reports none.
    pub(crate) proto: Option<u8>,
    /// May be used as a source now.
    pub(crate) usable: bool,
}

/// Reads the payload of RTM_NEWLINK or RTM_DELLINK. `None` for messages of another family (bridge ports), for partial ones (wireless
/// events) and for damaged ones.
pub(crate) fn link(payload: &[u8]) -> Option<(LinkId, Link)> {
    let (header, rest) = payload.split_at_checked(LINK_HEADER)?;
    if header[0] != 0 {
        return None;
    }
    let id = LinkId(word(&header[4..8])?);
    let flags = word(&header[8..12])?;
    let mut link = Link {
        name: String::new(),
        mac: Mac::ZERO,
        kind: Kind::Plain,
        admin_up: flags & 1 != 0,
        running: false,
        parent: None,
        master: None,
    };
    let (mut state, mut elsewhere) = (None, false);
    for nla in attributes(rest) {
        let value = nla.value();
        match nla.kind() {
            IFLA_ADDRESS => link.mac = value.try_into().map_or(Mac::ZERO, Mac),
            IFLA_IFNAME => link.name = text(value),
            IFLA_LINK => link.parent = word(value).map(LinkId),
            IFLA_MASTER => link.master = word(value).map(LinkId),
            IFLA_OPERSTATE => state = value.first().copied(),
            IFLA_LINK_NETNSID => elsewhere = true,
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|n| n.kind() == IFLA_INFO_KIND).map(|n| text(n.value()));
                link.kind = Kind::of(kind.as_deref());
            }
            _ => {}
        }
    }
    link.running = matches!(state?, IF_OPER_UNKNOWN | IF_OPER_UP);
    if elsewhere || link.kind != Kind::Rider {
        link.parent = None;
    }
    (!link.name.is_empty()).then_some((id, link))
}

/// Reads the payload of RTM_NEWADDR or RTM_DELADDR; `None` for other families and damaged messages.
pub(crate) fn address(payload: &[u8]) -> Option<Address> {
    let (header, rest) = payload.split_at_checked(ADDRESS_HEADER)?;
    let (prefix, mut flags) = (header[1], u32::from(header[2]));
    let link = LinkId(word(&header[4..8])?);
    let (mut local, mut address, mut proto) = (None, None, None);
    for nla in attributes(rest) {
        let value = nla.value();
        match nla.kind() {
            IFA_LOCAL => local = ip(value),
            IFA_ADDRESS => address = ip(value),
            IFA_FLAGS => flags = word(value)?,
            IFA_PROTO => proto = value.first().copied(),
            _ => {}
        }
    }
    // On point-to-point links IFA_ADDRESS is the other end; IPv6 has IFA_LOCAL only there.
    let net = IpNet::new(local.or(address)?, prefix).ok()?;
    Some(Address { link, net, proto, usable: flags & IFA_F_UNUSABLE == 0 })
}

/// The attributes up to the first damaged one.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(Result::ok)
}

/// Attributes are in host byte order.
pub(super) fn word(value: &[u8]) -> Option<u32> {
    value.get(..4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// A string up to its zero byte.
pub(super) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

pub(super) fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}
