//! What a site stands on: a LAN whose ports suit nodes that forward, and outside of it a client behind a router that spreads flows.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::entries::{ROUTER, address, net};
use super::wires::cable;
use super::{BenchPrograms, Sinks};
use crate::command::ip;
use crate::{Bridge, BridgeOptions, Lab, Netns, Port, Result};

/// The client's network, behind the router.
pub(super) const CLIENT_NET: &str = "10.8.0.0/24";

/// The LAN; the lab last, so that it goes after all that stands in it.
pub(super) struct Ground {
    /// On the switch's ports towards XDP.
    passing: Option<BenchPrograms>,
    pub(super) lan: Bridge,
    pub(super) lab: Lab,
}

impl Ground {
    /// Builds it; hosts may carry XDP programs if `xdp`.
    pub(super) fn new(name: &str, xdp: bool) -> Result<Self> {
        let lab = Lab::new(name)?;
        let lan = lab.bridge("lan", &BridgeOptions::default())?;
        let passing = if xdp { Some(BenchPrograms::load(1)?) } else { None };
        Ok(Self { passing, lan, lab })
    }

    /// A host on the LAN.
    pub(super) fn host(&mut self, name: &str, addresses: &[IpNet]) -> Result<(Netns, Port)> {
        let (netns, port) = self.lab.host(name, &self.lan, addresses)?;
        if let Some(passing) = &mut self.passing {
            // What the switch sends towards an XDP program must have its checksums. What XDP_TX sends into the switch needs a program
            // there: GRO alone gives the port its NAPI, but veth wakes it after XDP_TX only where there is a program (seen on 6.18:
            // frames stay in the ring).
            self.lan.netns().tool("ethtool", &["-K", port.name(), "tx", "off"])?;
            passing.attach(self.lan.netns(), port.name(), Sinks::Pass)?;
        }
        Ok((netns, port))
    }

    /// A node that forwards, with the router as its way out.
    pub(super) fn node(&mut self, id: u16) -> Result<(Netns, Port)> {
        let (netns, port) = self.host(&format!("n{id}"), &[net(address(id), 24)])?;
        behind_router(&netns)?;
        Ok((netns, port))
    }
}

/// Makes `netns` a node that forwards, with the router as its way out.
pub(super) fn behind_router(netns: &Netns) -> Result<()> {
    netns.forward()?;
    for tree in ["all", "default", "eth0"] {
        netns.sysctl(&format!("net/ipv4/conf/{tree}/rp_filter"), "0")?;
        netns.sysctl(&format!("net/ipv4/conf/{tree}/send_redirects"), "0")?;
    }
    netns.route(4, &format!("default via {ROUTER}"))
}

/// A client and the router between it and the LAN.
pub(super) struct Outside {
    /// Where clients stand.
    pub(super) client: Netns,
    /// The router between.
    pub(super) router: Netns,
    seed: u32,
}

impl Outside {
    pub(super) fn new(ground: &Ground) -> Result<Self> {
        let (router, _) = ground.lab.host("router", &ground.lan, &[net(Ipv4Addr::new(10, 9, 0, 254), 24)])?;
        let client = ground.lab.netns("client")?;
        cable(&router, "eth1", Ipv4Addr::new(10, 8, 0, 254), &client, Ipv4Addr::new(10, 8, 0, 2))?;
        router.forward()?;
        router.sysctl("net/ipv4/fib_multipath_hash_policy", "1")?;
        client.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        Ok(Self { client, router, seed: 1 })
    }

    /// Lets the router spread all flows to `vip` anew over these nodes: other members, and another seed of its hash.
    pub(super) fn spread(&mut self, vip: Ipv4Addr, nodes: &[u16]) -> Result<()> {
        self.seed = self.seed.wrapping_mul(0x9e37_79b1).wrapping_add(1);
        let hops: Vec<String> = nodes.iter().map(|id| format!("nexthop via {}", address(*id))).collect();
        ip(&self.router, &format!("route replace {vip}/32 {}", hops.join(" ")))?;
        self.router.sysctl("net/ipv4/fib_multipath_hash_seed", &self.seed.to_string())
    }
}

/// The network of the pods of node `id`: pod number k stands at .k.2.
pub(super) fn pod_net(id: u16) -> String {
    format!("10.{}.0.0/16", 20 + id)
}

/// Gateway and address of the pod at place `index` (from 1) of node `id`.
pub(super) fn pod_addresses(id: u16, index: u8) -> (Ipv4Addr, Ipv4Addr) {
    let subnet = 20 + u8::try_from(id).expect("a small id");
    (Ipv4Addr::new(10, subnet, index, 1), Ipv4Addr::new(10, subnet, index, 2))
}
