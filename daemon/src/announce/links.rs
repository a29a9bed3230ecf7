//! What a session must know of the links: whether the neighbor is on the same subnet, and our link-local address there.
//!
//! Taken from what netlink reports anyway. Asking the kernel for each connection would dump every address of the node, and wait for whoever
//! holds the kernel's routing lock meanwhile.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use bascule_core::node::io::LinkInfo;
use bascule_core::types::LinkId;

/// Links with our own addresses; those of VIPs are not among them.
#[derive(Debug, Default)]
pub(super) struct Links(BTreeMap<LinkId, LinkInfo>);

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// The neighbor is on the subnet of the own end (RFC 2545 section 3 asks for that before a link-local next hop is sent).
    pub(super) on_link: bool,
    /// Own link-local address on that link.
    pub(super) link_local: Option<Ipv6Addr>,
}

impl Links {
    pub(super) fn note(&mut self, link: LinkInfo) {
        self.0.insert(link.id, link);
    }

    pub(super) fn forget(&mut self, link: LinkId) {
        self.0.remove(&link);
    }

    /// Judges a connection by its ends. `scope` is the link of a link-local end.
    pub(super) fn place(&self, local: IpAddr, remote: IpAddr, scope: u32) -> Place {
        let has = |link: &&LinkInfo| link.addresses.iter().any(|net| net.addr() == local);
        let link = if is_link_local(remote) { self.0.get(&LinkId(scope)) } else { self.0.values().find(has) };
        let near = |link: &LinkInfo| {
            link.addresses.iter().any(|net| net.contains(&remote) && net.prefix_len() < net.max_prefix_len())
        };
        let link_local = |link: &LinkInfo| {
            link.addresses.iter().find_map(|net| match net.addr() {
                IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(v6),
                _ => None,
            })
        };
        Place { on_link: is_link_local(remote) || link.is_some_and(near), link_local: link.and_then(link_local) }
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use bascule_core::types::Mac;

    use super::*;

    fn link(id: u32, addresses: &[&str]) -> LinkInfo {
        let addresses = addresses.iter().map(|a| a.parse().expect("a prefix")).collect();
        LinkInfo { id: LinkId(id), name: format!("eth{id}"), mac: Mac::ZERO, up: true, addresses }
    }

    fn links() -> Links {
        let mut links = Links::default();
        links.note(link(1, &["127.0.0.1/8", "10.0.0.9/32", "2001:db8::9/128"]));
        links.note(link(2, &["10.0.0.11/24", "2001:db8::b/64", "fe80::b/64"]));
        links.note(link(3, &["10.1.0.11/24", "fe80::c/64"]));
        links
    }

    fn place(local: &str, remote: &str, scope: u32) -> (bool, Option<String>) {
        let place = links().place(local.parse().expect("local"), remote.parse().expect("remote"), scope);
        (place.on_link, place.link_local.map(|a| a.to_string()))
    }

    #[test]
    fn a_neighbor_on_the_subnet_is_on_link() {
        let b = Some("fe80::b".to_owned());
        assert_eq!(place("10.0.0.11", "10.0.0.1", 0), (true, b.clone()));
        assert_eq!(place("2001:db8::b", "2001:db8::1", 0), (true, b.clone()));
        assert_eq!(place("2001:db8::b", "2001:db8:1::1", 0), (false, b));
        // A session between loopback addresses is not on any link, whatever else shares the prefix.
        assert_eq!(place("2001:db8::9", "2001:db8::1", 0), (false, None));
        assert_eq!(place("192.0.2.1", "192.0.2.2", 0), (false, None), "an address that no link reports");
    }

    #[test]
    fn a_link_local_neighbor_is_judged_by_its_link() {
        assert_eq!(place("fe80::b", "fe80::1", 3), (true, Some("fe80::c".to_owned())));
        let mut links = links();
        links.forget(LinkId(3));
        let ends = ("fe80::c".parse().expect("local"), "fe80::1".parse().expect("remote"));
        assert_eq!(links.place(ends.0, ends.1, 3), Place { on_link: true, link_local: None });
    }
}
