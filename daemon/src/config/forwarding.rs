//! The forwarding section: nodes, keys, and how packets are taken and sent.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bascule_core::balance;
use bascule_core::service::NodeSpec;
use bascule_core::service::keys::ForwardKeys;
use bascule_core::types::Family;
use ipnet::IpNet;

use super::error::shown;
use super::keys;
use super::read::{At, Errors, Items, Map};
use super::rules::family_name;
use super::sites::Sites;
use super::values;
use super::vips::Vips;

/// Most nodes: ids in rows have 12 bits.
const NODES_MAX: usize = 4095;
/// Most addresses of a node: the map of senders has two for each possible node, and few have more than one.
const ADDRESSES_MAX: usize = 8;
/// The site of all nodes when the file has no sites; 0 means "none" in the encapsulation.
const SITE: u8 = 1;

/// What the data plane is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forwarding {
    /// This node, all nodes and all services.
    pub config: balance::Config,
    /// UDP port of the encapsulation, host byte order.
    pub port: u16,
    /// Keys.
    pub keys: ForwardKeys,
    /// The key file, to be watched like the file itself.
    pub key_file: PathBuf,
    /// Files of authorities of checks, to be watched as well.
    pub ca_files: Vec<PathBuf>,
    /// Where packets are taken.
    pub hook: Hook,
    /// Links on which they arrive; empty: those that carry addresses of this node.
    pub interfaces: Vec<String>,
    /// Largest packet between nodes; `None`: the link's MTU.
    pub mtu: Option<u16>,
    /// Flows that this node remembers.
    pub flows: u32,
    /// Networks whose hosts reach endpoints directly; `None`: those of `inside::usual`.
    pub cluster_ranges: Option<Vec<IpNet>>,
    /// A UDP flow without a packet for so long is over.
    pub udp_idle: Duration,
    /// Orphans a second and CPU that the stack answers.
    pub orphan_rate: u32,
    /// ICMP packets a second and CPU of our own making.
    pub icmp_rate: u32,
    /// Packets a second and CPU of flows that nobody here knows and no row names a site for, that may ask other sites.
    pub remote_rate: u32,
}

impl Forwarding {
    /// The nodes of this site, and those of others that packets go to and come from: named `SITE/NODE`, as two sites may have nodes of one name.
    pub fn join(&mut self, sites: &Sites) {
        self.config.nodes.iter_mut().for_each(|node| node.site = sites.here.0);
        for (_, site) in sites.all.iter().filter(|(id, _)| **id != sites.here) {
            let named = |node: &NodeSpec| NodeSpec { name: format!("{}/{}", site.name, node.name), ..node.clone() };
            self.config.nodes.extend(site.gateways.iter().map(named));
        }
    }
}

/// Where packets are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// XDP where it works, else tc.
    Auto,
    /// XDP, or not at all.
    Xdp,
    /// tc.
    Tc,
}

/// A node as far as it could be read.
pub(super) struct Node {
    pub(super) name: Option<At<String>>,
    id: Option<At<u16>>,
    pub(super) addresses: Option<Items<IpAddr>>,
    draining: Option<bool>,
}

/// What stands around the section.
pub(super) struct Around<'a> {
    /// This node's name.
    pub(super) this: Option<&'a At<String>>,
    pub(super) vips: Option<&'a Vips>,
    pub(super) peer_port: Option<u16>,
    /// Nodes come from a cluster, too.
    pub(super) cluster: bool,
}

/// The section as far as it could be read.
pub(super) struct Read {
    pub(super) nodes: Vec<Node>,
    /// There may be nodes that are not in the file.
    pub(super) open: bool,
    /// All but the services; `None` when an error was noted.
    made: Option<Forwarding>,
}

impl Read {
    /// The whole with its services; `None` when an error was noted.
    pub(super) fn finish(self, services: Option<super::services::Services>) -> Option<Forwarding> {
        let (mut made, services) = (self.made?, services?);
        made.config.services = services.specs;
        made.ca_files = services.ca_files;
        Some(made)
    }

    /// Nodes of the file as far as they could be read: names and ids.
    pub(super) fn ids(&self) -> Vec<(&str, u16)> {
        self.nodes.iter().filter_map(|n| Some((n.name.as_ref()?.value.as_str(), n.id.as_ref()?.value))).collect()
    }

    /// UDP port of the encapsulation, unless an error was noted.
    pub(super) fn port(&self) -> Option<u16> {
        self.made.as_ref().map(|made| made.port)
    }

    /// Names of nodes.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter_map(|n| n.name.as_ref()).map(|n| n.value.as_str())
    }
}

/// Reads the section; `None` without one.
pub(super) fn read(file: &Map<'_>, around: &Around<'_>, base_dir: &Path, errors: &Errors) -> Option<Read> {
    let Around { this, vips, peer_port, cluster } = *around;
    let map = file.has("forwarding").then(|| file.section("forwarding")).flatten()?;
    let keys = key_file(&map, base_dir, errors);
    let port = map.whole::<u16>("port");
    if let (Some(port), Some(peer_port)) = (&port, peer_port)
        && port.value == peer_port
    {
        errors.add(port.at, &port.path, format!("{peer_port} is the port of the peer channel"), "use another one");
    }
    let hook = match map.word("hook") {
        Some("xdp") => Hook::Xdp,
        Some("tc") => Hook::Tc,
        _ => Hook::Auto,
    };
    let interfaces = map.has("interfaces").then(|| map.texts("interfaces", values::link_name)).flatten();
    if let Some(links) = &interfaces {
        distinct(links, "link", errors);
    }
    let mtu = map.whole("mtu").map(|m| m.value);
    let flows = map.whole("flows");
    let ranges = map.has("clusterRanges").then(|| map.texts("clusterRanges", values::network)).flatten();
    if let Some(ranges) = &ranges {
        distinct(ranges, "network", errors);
    }
    let (udp_idle, orphan_rate, icmp_rate) = (map.time("udpIdle"), map.whole("orphanRate"), map.whole("icmpRate"));
    let remote_rate = map.whole("remoteRate");
    let list = match (map.has("nodes"), cluster) {
        (false, true) => None,
        (false, false) => {
            map.wrong("nodes", "missing", "use a list of mappings");
            return None;
        }
        (true, _) => map.sections("nodes", NODES_MAX),
    };
    if let Some(list) = list.as_ref().filter(|l| l.value.is_empty() && !cluster) {
        errors.add(list.at, &list.path, "the list is empty", "list the nodes, this one among them");
    }
    let nodes: Vec<Node> = list.iter().flat_map(|l| &l.value).flatten().map(|m| node(m, vips, errors)).collect();
    across(&nodes, errors);
    if let (Some(list), Some(this)) = (&list, this)
        && !list.value.is_empty()
        && !cluster
        && nodes.iter().all(|n| n.name.as_ref().is_some_and(|n| n.value != this.value))
    {
        let wrong = format!("this node, {}, is not in the list", this.value);
        errors.add(list.at, &list.path, wrong, "add it, or set node to a name of the list");
    }
    let specs: Option<Vec<NodeSpec>> = nodes.iter().map(spec).collect();
    let made = (|| {
        let (keys, key_file) = keys?;
        Some(Forwarding {
            config: balance::Config { node: this.map(|n| n.value.clone()), nodes: specs?, services: Vec::new() },
            port: port?.value,
            keys,
            key_file,
            ca_files: Vec::new(),
            hook,
            interfaces: interfaces.map(|i| i.items.into_iter().map(|l| l.value).collect()).unwrap_or_default(),
            mtu,
            flows: flows?.value,
            cluster_ranges: ranges.map(|r| r.items.into_iter().map(|n| n.value).collect()),
            udp_idle: udp_idle?.value,
            orphan_rate: orphan_rate?.value,
            icmp_rate: icmp_rate?.value,
            remote_rate: remote_rate?.value,
        })
    })();
    Some(Read { nodes, open: cluster, made })
}

fn key_file(map: &Map<'_>, base_dir: &Path, errors: &Errors) -> Option<(ForwardKeys, PathBuf)> {
    let file = map.text("keyFile", values::path)?;
    let path = base_dir.join(&file.value);
    match keys::forward(&path) {
        Ok(keys) => Some((keys, path)),
        Err(bad) => {
            let shown = shown(&file.value.display().to_string());
            errors.add(file.at, &file.path, format!("{shown} {}", bad.wrong), bad.right);
            None
        }
    }
}

fn node(map: &Map<'_>, vips: Option<&Vips>, errors: &Errors) -> Node {
    let name = map.text("name", values::node_name);
    let id = map.whole("id");
    let addresses = map.texts("addresses", values::global);
    let draining = map.flag("draining");
    if let Some(list) = &addresses {
        if list.items.is_empty() && list.complete {
            errors.add(list.at, &list.path, "the list is empty", "give 1 to 8 addresses");
        }
        if list.items.len() > ADDRESSES_MAX {
            errors.add(list.at, &list.path, format!("{} addresses", list.items.len()), "give 1 to 8 addresses");
        }
        for address in list.items.iter().filter(|a| vips.is_some_and(|v| v.has_address(&a.value))) {
            let wrong = format!("{} is an address of a VIP", address.value);
            errors.add(address.at, &address.path, wrong, "use an address that does not move");
        }
    }
    Node { name, id, addresses, draining }
}

fn spec(node: &Node) -> Option<NodeSpec> {
    Some(NodeSpec {
        name: node.name.as_ref()?.value.clone(),
        id: node.id.as_ref()?.value,
        addresses: node.addresses.as_ref()?.items.iter().map(|a| a.value).collect(),
        site: SITE,
        draining: node.draining?,
    })
}

/// Names, ids and addresses differ, and every node can reach every other one.
fn across(nodes: &[Node], errors: &Errors) {
    use std::collections::HashMap;
    let (mut names, mut ids, mut addresses) = (HashMap::new(), HashMap::new(), HashMap::new());
    for node in nodes {
        if let Some(name) = &node.name
            && let Some(line) = names.insert(&name.value, name.at.line)
        {
            let wrong = format!("{} is also the name at line {line}", name.value);
            errors.add(name.at, &name.path, wrong, "give each node its own");
        }
        if let Some(id) = &node.id
            && let Some(line) = ids.insert(id.value, id.at.line)
        {
            errors.add(
                id.at,
                &id.path,
                format!("{} is also the id at line {line}", id.value),
                "give each node its own",
            );
        }
        for address in node.addresses.iter().flat_map(|a| &a.items) {
            if let Some(path) = addresses.insert(address.value, &address.path) {
                let wrong = format!("{} is already given at {path}", address.value);
                errors.add(address.at, &address.path, wrong, "give each address once");
            }
        }
    }
    let has =
        |node: &Node, family| node.addresses.iter().flat_map(|a| &a.items).any(|a| Family::of(&a.value) == family);
    for node in nodes {
        let Some(first) = node.addresses.as_ref().and_then(|a| a.items.first()) else { continue };
        let family = Family::of(&first.value);
        // A node whose addresses could not be read has said so.
        let complete = |n: &&Node| n.addresses.as_ref().is_some_and(|a| a.complete && !a.items.is_empty());
        let lacking = nodes.iter().filter(complete).find(|n| !has(n, family));
        if let Some(name) = lacking.and_then(|n| n.name.as_ref()) {
            let wrong = format!("{} is {}, of which {} has no address", first.value, family_name(family), name.value);
            errors.add(first.at, &first.path, wrong, "put an address of a family first that every node has");
        }
    }
}

/// Every item of a list once.
pub(super) fn distinct<T: PartialEq + std::fmt::Display>(list: &Items<T>, what: &str, errors: &Errors) {
    for (i, item) in list.items.iter().enumerate() {
        if list.items[..i].iter().any(|earlier| earlier.value == item.value) {
            errors.add(
                item.at,
                &item.path,
                format!("{} is listed twice", item.value),
                format!("list each {what} once"),
            );
        }
    }
}
