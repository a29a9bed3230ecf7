//! The links of this network namespace, as far as the fence must know them.

use nix::ifaddrs::getifaddrs;

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
    let list = getifaddrs().map_err(std::io::Error::from).map_err(FenceError::io("listing the links in", "netns"))?;
    Ok(list
        .filter_map(|entry| {
            let address = entry.address?;
            let link = address.as_link_addr()?;
            Some(LinkFacts {
                ifindex: u32::try_from(link.ifindex()).ok()?,
                name: entry.interface_name,
                mac: link.addr().unwrap_or_default(),
                hatype: link.hatype(),
            })
        })
        .collect())
}

/// The Ethernet link with this index.
pub(super) fn ethernet(ifindex: u32) -> Result<LinkFacts, FenceError> {
    let link = all()?.into_iter().find(|link| link.ifindex == ifindex).ok_or(FenceError::NoLink { ifindex })?;
    if ETHERNET_TYPES.contains(&link.hatype) {
        Ok(link)
    } else {
        Err(FenceError::NotEthernet { name: link.name, ifindex, hatype: link.hatype })
    }
}
