//! What a configuration asks of the programs: where they stand, and what they know of this node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bascule_core::balance;
use bascule_core::node::io::LinkInfo;
use bascule_core::service::NodeSpec;
use bascule_core::types::LinkId;
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::Config;

use crate::config::Forwarding;

/// The devices that shall carry the programs: those named, else those with an address of this node.
pub(super) fn devices(config: &Forwarding, links: &BTreeMap<LinkId, LinkInfo>) -> BTreeSet<u32> {
    let this = this_node(config);
    let own = |link: &&LinkInfo| {
        let carries = |address: &IpAddr| link.addresses.iter().any(|net| net.addr() == *address);
        match config.interfaces.as_slice() {
            [] => this.is_some_and(|node| node.addresses.iter().any(carries)),
            named => named.contains(&link.name),
        }
    };
    links.values().filter(own).map(|link| link.id.0).collect()
}

/// This node, if it is one of the nodes.
fn this_node(config: &Forwarding) -> Option<&NodeSpec> {
    let balance::Config { node, nodes, .. } = &config.config;
    nodes.iter().find(|spec| Some(&spec.name) == node.as_ref())
}

/// What the programs are told of this node.
pub(super) fn node_config(config: &Forwarding) -> Config {
    let Some(this) = this_node(config) else { return Config::default() };
    let first = |v4: bool| {
        let address = this.addresses.iter().find(|address| address.is_ipv4() == v4);
        address.map_or(VipKey::default(), |address| match address {
            IpAddr::V4(a) => VipKey::v4(a.octets()),
            IpAddr::V6(a) => VipKey::v6(a.octets()),
        })
    };
    Config {
        flow_key: config.keys.flow.0,
        address4: first(true),
        address6: first(false),
        node: this.id,
        tunnel_port: config.port.to_be(),
        site: this.site,
        key_slot: u8::from(config.keys.send != 0),
        orphan_rate: config.orphan_rate,
        icmp_rate: config.icmp_rate,
        remote_rate: config.remote_rate,
        udp_idle_s: u32::try_from(config.udp_idle.as_secs()).unwrap_or(u32::MAX),
        ..Config::default()
    }
}
