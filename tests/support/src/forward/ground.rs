//! What a site stands on: a client, a router that spreads flows, a LAN, and nodes with forwarding switched on.

use std::net::Ipv4Addr;

use super::entries::{ROUTER, address, net};
use super::wires::cable;
use super::{BenchPrograms, Hook, Sinks};
use crate::command::ip;
use crate::{Bridge, BridgeOptions, Lab, Netns, Port, Result};

/// The client's network, behind the router.
pub(super) const CLIENT_NET: &str = "10.8.0.0/24";

/// Everything but the nodes.
pub(super) struct Ground {
    /// Where clients stand.
    pub(super) client: Netns,
    /// The router between.
    pub(super) router: Netns,
    /// On the switch's ports towards XDP.
    passing: Option<BenchPrograms>,
    seed: u32,
    pub(super) lan: Bridge,
    pub(super) lab: Lab,
}

impl Ground {
    /// Builds it; nodes will judge by `hook`.
    pub(super) fn new(name: &str, hook: Hook) -> Result<Self> {
        let lab = Lab::new(name)?;
        let lan = lab.bridge("lan", &BridgeOptions::default())?;
        let (router, _) = lab.host("router", &lan, &[net(Ipv4Addr::new(10, 9, 0, 254), 24)])?;
        let client = lab.netns("client")?;
        cable(&router, "eth1", Ipv4Addr::new(10, 8, 0, 254), &client, Ipv4Addr::new(10, 8, 0, 2))?;
        router.forward()?;
        router.sysctl("net/ipv4/fib_multipath_hash_policy", "1")?;
        client.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        let passing = if hook == Hook::Xdp { Some(BenchPrograms::load(1)?) } else { None };
        Ok(Self { client, router, passing, seed: 1, lan, lab })
    }

    /// A node on the LAN.
    pub(super) fn node(&mut self, id: u16) -> Result<(Netns, Port)> {
        let (netns, port) = self.lab.host(&format!("n{id}"), &self.lan, &[net(address(id), 24)])?;
        netns.forward()?;
        for tree in ["all", "default", "eth0"] {
            netns.sysctl(&format!("net/ipv4/conf/{tree}/rp_filter"), "0")?;
            netns.sysctl(&format!("net/ipv4/conf/{tree}/send_redirects"), "0")?;
        }
        netns.route(4, &format!("default via {ROUTER}"))?;
        if let Some(passing) = &mut self.passing {
            // What the switch sends towards an XDP program must have its checksums. What XDP_TX sends into the switch needs a program
            // there: GRO alone gives the port its NAPI, but veth wakes it after XDP_TX only where there is a program (seen on 6.18:
            // frames stay in the ring).
            self.lan.netns().tool("ethtool", &["-K", port.name(), "tx", "off"])?;
            passing.attach(self.lan.netns(), port.name(), Sinks::Pass)?;
        }
        Ok((netns, port))
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
