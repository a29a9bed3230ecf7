//! A routed network: nodes that announce, routers they announce to, and a client behind the routers.
//!
//! Every node has a veth pair of its own to every router, and the client too, so that each link can be cut alone. The client's
//! one address is on its loopback, reached through every router; nodes and client spread their packets over all routers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::IpNet;

use super::config::Family;
use crate::command::{ip_batch, nft};
use crate::{Lab, LabError, Netns, Result, Stamp, tool};

/// One link between a node (or the client) and a router.
#[derive(Debug, Clone)]
pub struct Link {
    /// Its name in the node's namespace.
    pub node_device: String,
    /// Its name in the router's namespace.
    pub router_device: String,
    /// The node's addresses: IPv4 of a /24, IPv6 of a /64.
    pub node: (Ipv4Addr, Ipv6Addr),
    /// The router's addresses.
    pub router: (Ipv4Addr, Ipv6Addr),
}

impl Link {
    /// The node's address of one family.
    pub fn node_address(&self, family: Family) -> IpAddr {
        pick(self.node, family)
    }

    /// The router's address of one family.
    pub fn router_address(&self, family: Family) -> IpAddr {
        pick(self.router, family)
    }
}

fn pick((v4, v6): (Ipv4Addr, Ipv6Addr), family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => v4.into(),
        Family::Ipv6 => v6.into(),
    }
}

/// The network. Dropped, its namespaces go with their last handles.
#[derive(Debug)]
pub struct Routed {
    /// The nodes: `n1`, `n2`, ...
    pub nodes: Vec<Netns>,
    /// The routers: `r1`, `r2`, ... They forward, and hash over addresses and ports.
    pub routers: Vec<Netns>,
    /// The client.
    pub client: Netns,
    /// The client's addresses.
    pub client_addresses: (Ipv4Addr, Ipv6Addr),
    /// By node, then by router.
    links: Vec<Vec<Link>>,
}

impl Routed {
    /// Builds it, with up to 15 nodes and 15 routers.
    ///
    /// # Errors
    /// When a namespace or a link cannot be made.
    pub fn build(lab: &Lab, nodes: u8, routers: u8) -> Result<Self> {
        if nodes > 15 || routers > 15 {
            return Err(LabError::answer("topology", format!("{nodes} nodes and {routers} routers are too many")));
        }
        let make = |letter: char, count: u8| -> Result<Vec<Netns>> {
            (1..=count).map(|number| lab.netns(&format!("{letter}{number}"))).collect()
        };
        let (nodes, routers, client) = (make('n', nodes)?, make('r', routers)?, lab.netns("client")?);
        for netns in routers.iter().chain(&nodes).chain([&client]) {
            // By addresses, protocol and ports, so that the flows of one client spread.
            netns.sysctl("net/ipv4/fib_multipath_hash_policy", "1")?;
            netns.sysctl("net/ipv6/fib_multipath_hash_policy", "1")?;
        }
        for router in &routers {
            router.forward()?;
        }
        // The client is the node of number 0.
        let mut links = Vec::new();
        for (number, host) in (0u8..).zip([&client].into_iter().chain(&nodes)) {
            let joined: Result<Vec<Link>> =
                (1u8..).zip(&routers).map(|(r, router)| join(host, number, router, r)).collect();
            links.push(joined?);
        }
        let to_client = links.remove(0);
        let client_addresses = (Ipv4Addr::new(10, 40, 0, 1), Ipv6Addr::new(0xfd40, 0, 0, 0, 0, 0, 0, 1));
        let (v4, v6) = client_addresses;
        ip_batch(&client, &[format!("addr add {v4}/32 dev lo"), format!("addr add {v6}/128 dev lo nodad")])?;
        for (router, link) in routers.iter().zip(&to_client) {
            let (via4, via6) = link.node;
            ip_batch(router, &[format!("route add {v4} via {via4}"), format!("route add {v6} via {via6}")])?;
        }
        spread(&client, &to_client, Some(client_addresses))?;
        for (node, links) in nodes.iter().zip(&links) {
            spread(node, links, None)?;
        }
        Ok(Self { nodes, routers, client, client_addresses, links })
    }

    /// The link between a node and a router, both counted from 0.
    pub fn link(&self, node: usize, router: usize) -> &Link {
        &self.links[node][router]
    }

    /// Cuts the links between a node and these routers, silently (the carrier stays), all in one moment.
    ///
    /// # Errors
    /// When nft refuses.
    pub fn cut(&self, node: usize, routers: &[usize]) -> Result<Cut> {
        let devices: Vec<&str> = routers.iter().map(|r| self.links[node][*r].node_device.as_str()).collect();
        Cut::new(&self.nodes[node], &devices)
    }

    /// Gives a node a VIP, on its loopback as an anycast service has it.
    ///
    /// # Errors
    /// When the address is refused.
    pub fn add_vip(&self, node: usize, vip: IpAddr) -> Result<()> {
        self.nodes[node].add_address("lo", host(vip))
    }
}

/// The route of one address.
pub fn host(address: IpAddr) -> IpNet {
    IpNet::new(address, if address.is_ipv4() { 32 } else { 128 }).expect("a full prefix length")
}

/// Link number `10.20.(16 * host + router).0/24` and `fd20:0:0:N::/64`, the router at .1 and the host at .2.
fn join(host: &Netns, number: u8, router: &Netns, router_number: u8) -> Result<Link> {
    let id = number * 16 + router_number;
    let v4 = |last: u8| Ipv4Addr::new(10, 20, id, last);
    let v6 = |last: u16| Ipv6Addr::new(0xfd20, 0, 0, u16::from(id), 0, 0, 0, last);
    let link = Link {
        node_device: router.name().to_owned(),
        router_device: host.name().to_owned(),
        node: (v4(2), v6(2)),
        router: (v4(1), v6(1)),
    };
    let (here, there) = (&link.router_device, &link.node_device);
    let end = |device: &str, (v4, v6): (Ipv4Addr, Ipv6Addr)| {
        [
            format!("link set {device} up"),
            format!("addr add {v4}/24 dev {device}"),
            format!("addr add {v6}/64 dev {device} nodad"),
        ]
    };
    let pair = format!("link add {here} type veth peer name {there} netns {}", host.full_name());
    ip_batch(router, &[vec![pair], end(here, link.router).into()].concat())?;
    ip_batch(host, &end(there, link.node))?;
    Ok(link)
}

/// Default routes over all links.
fn spread(host: &Netns, links: &[Link], source: Option<(Ipv4Addr, Ipv6Addr)>) -> Result<()> {
    let hops =
        |family| -> String { links.iter().map(|l| format!(" nexthop via {}", l.router_address(family))).collect() };
    let from = |family| source.map(|s| format!(" src {}", pick(s, family))).unwrap_or_default();
    for (family, version) in [(Family::Ipv4, 4), (Family::Ipv6, 6)] {
        host.route(version, &format!("default{}{}", from(family), hops(family)))?;
    }
    Ok(())
}

/// Links that drop every frame both ways and keep their carrier. Dropped, it ends.
#[derive(Debug)]
pub struct Cut {
    netns: Netns,
    table: String,
    /// Just before the rules were put in force.
    pub since: Stamp,
    /// Just after.
    pub in_force: Stamp,
}

impl Cut {
    fn new(netns: &Netns, devices: &[&str]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let table = format!("cut_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut script = format!("table netdev {table} {{\n counter dropped {{ }}\n");
        for (number, device) in devices.iter().enumerate() {
            for hook in ["ingress", "egress"] {
                script += &format!(
                    " chain {hook}{number} {{ type filter hook {hook} device \"{device}\" priority -500; counter name dropped drop; }}\n"
                );
            }
        }
        let since = Stamp::now();
        nft(netns, &(script + "}\n"))?;
        Ok(Self { netns: netns.clone(), table, since, in_force: Stamp::now() })
    }

    /// Frames dropped so far: 0 means that the cut has not happened.
    ///
    /// # Errors
    /// When nft does not answer as expected.
    pub fn dropped(&self) -> Result<u64> {
        let text = tool(Some(&self.netns), "nft", &["-j", "list", "counters", "table", "netdev", &self.table], None)?;
        let answer = super::json("nft -j list counters", &text)?;
        let packets =
            answer["nftables"].as_array().into_iter().flatten().find_map(|i| i["counter"]["packets"].as_u64());
        packets.ok_or_else(|| LabError::answer("nft -j list counters", text))
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if let Err(error) = nft(&self.netns, &format!("delete table netdev {}\n", self.table)) {
            eprintln!("lab: {error}");
        }
    }
}
