//! The links of this network namespace, as far as the fence must know them.
//!
//! Asked link by link: a list of interfaces with their addresses (getifaddrs) is as long as there are VIPs, and a link is asked for with
//! every VIP that comes.

use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;

use nix::net::if_::{if_indextoname, if_nameindex};

use super::error::FenceError;

/// Hardware types with an Ethernet header (linux/if_arp.h): ARPHRD_ETHER and ARPHRD_LOOPBACK.
const ETHERNET_TYPES: [u16; 2] = [1, 772];

/// One link.
#[derive(Debug, Clone)]
pub(super) struct LinkFacts {
    pub(super) ifindex: u32,
    pub(super) name: String,
    pub(super) mac: [u8; 6],
    hatype: u16,
}

/// Every link there is.
pub(super) fn all() -> Result<Vec<LinkFacts>, FenceError> {
    let listing = FenceError::io("listing the links in", "netns");
    let list = if_nameindex().map_err(std::io::Error::from).map_err(listing)?;
    let mut links = Vec::new();
    for entry in &list {
        // One that has gone meanwhile is not there.
        links.extend(facts(entry.index(), entry.name().to_string_lossy().into_owned()).ok());
    }
    Ok(links)
}

/// The Ethernet link with this index.
pub(super) fn ethernet(ifindex: u32) -> Result<LinkFacts, FenceError> {
    let gone = |_| FenceError::NoLink { ifindex };
    let name = if_indextoname(ifindex).map_err(gone)?.to_string_lossy().into_owned();
    let link = facts(ifindex, name).map_err(|error| match error.raw_os_error() {
        Some(libc::ENODEV) => FenceError::NoLink { ifindex },
        _ => FenceError::io("asking for the address of link", ifindex.to_string())(error),
    })?;
    if ETHERNET_TYPES.contains(&link.hatype) {
        Ok(link)
    } else {
        Err(FenceError::NotEthernet { name: link.name, ifindex, hatype: link.hatype })
    }
}

/// Asks by name (netdevice(7), SIOCGIFHWADDR): type and address of the hardware. A socket of any family will do.
fn facts(ifindex: u32, name: String) -> std::io::Result<LinkFacts> {
    let socket = UnixDatagram::unbound()?;
    // SAFETY: all zeroes is a valid ifreq: an empty name and an empty union of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0: names are shorter than IFNAMSIZ.
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from.cast_signed();
    }
    // SAFETY: the kernel reads the name of this ifreq and writes its union, within its size; the socket is open until the end.
    let asked = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR as libc::Ioctl, &raw mut request) };
    if asked < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFHWADDR has filled this member, and every bit pattern of it is valid.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(address.sa_data) {
        *to = from.cast_unsigned();
    }
    Ok(LinkFacts { ifindex, name, mac, hatype: address.sa_family })
}
