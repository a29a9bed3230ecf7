//! A client, a router that spreads flows, balancers, homes, and pods behind them.
//!
//! ```text
//!  client 10.8.0.2 -- router -- LAN 10.9.0.0/24 -- balancers 10.9.0.1.., no endpoints
//!                                              \-- homes 10.9.0.11.. -- pods 10.(20+n).k.2 behind a veth each
//! ```
//! Balancers and homes are nodes alike; that balancers have no endpoints lets one be lost without any flow's own backend.

use std::net::{Ipv4Addr, SocketAddrV4};

use bascule_ebpf_common::forward::{
    DEFAULT_TUNNEL_PORT, ENDPOINT_DRAINING, ENDPOINT_READY, Endpoint, NODE_DEAD, NODE_RESOLVED, NODE_SELF, Node,
    ReverseEntry, ReverseKey, Row, SERVICE_ADDRESS, Service, ServiceKey, Table, Tally,
};

use super::entries::{
    ADDRESS, ENDPOINT_BASES, MTU, ROWS, SERVICE, SERVICE_PORT, TCP, VIP, address, config, minutes, nodes_table,
    service, tag_key,
};
use super::ground::{CLIENT_NET, Ground, Outside, pod_addresses, pod_net};
use super::ledger::{Counted, Ledger, classes};
use super::table::{homes, push};
use super::wires::{cable, nsid};
use super::{Hook, NodePrograms, Tallies, v4};
use crate::audit::AuditServer;
use crate::{Lab, Netns, Port, Result};

/// How many of what.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Nodes without endpoints, which the router sends to.
    pub balancers: u16,
    /// Nodes with endpoints.
    pub homes: u16,
    /// Pods of each.
    pub pods: u16,
    /// Where ingress is judged.
    pub hook: Hook,
}

/// A pod.
pub struct Pod {
    /// Its namespace.
    pub netns: Netns,
    /// Its address.
    pub address: Ipv4Addr,
    /// The server in it; its number names the pod in audits.
    pub server: AuditServer,
    /// That number.
    pub number: u32,
    slot: u16,
    nsid: i32,
    draining: bool,
}

/// A node.
pub struct Member {
    /// Its id.
    pub id: u16,
    /// Its namespace.
    pub netns: Netns,
    /// Its port on the LAN.
    pub port: Port,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// Its programs; None while it is dead.
    pub programs: Option<NodePrograms>,
    ifindex: u32,
    rows: Vec<Row>,
}

/// The whole.
pub struct Site {
    /// Nodes: balancers first.
    pub members: Vec<Member>,
    /// Where clients stand.
    pub client: Netns,
    /// The router between.
    pub router: Netns,
    layout: Layout,
    rows: Vec<Row>,
    epoch: u16,
    servers: u32,
    /// What programs counted that are gone.
    fallen: Vec<Tallies>,
    ledger: Ledger,
    outside: Outside,
    ground: Ground,
}

impl Site {
    /// Builds everything; the router sends to all balancers.
    ///
    /// # Errors
    /// When a part of it cannot be made or a program is refused.
    pub fn new(name: &str, layout: Layout) -> Result<Self> {
        let mut ground = Ground::new(name, layout.hook == Hook::Xdp)?;
        let outside = Outside::new(&ground)?;
        let ids: Vec<u16> = (1..=layout.balancers).chain(11..11 + layout.homes).collect();
        let members: Vec<Member> = ids.iter().map(|id| member(&mut ground, *id)).collect::<Result<_>>()?;
        let ports: Vec<&Port> = members.iter().map(|member| &member.port).collect();
        let ledger = Ledger::start(&ground.lan, &ports, &classes(VIP, CLIENT_NET, DEFAULT_TUNNEL_PORT))?;
        let (rows, epoch, servers, fallen) = (Vec::new(), 0, 0, Vec::new());
        let (client, router) = (outside.client.clone(), outside.router.clone());
        let mut site = Self { members, client, router, layout, rows, epoch, servers, fallen, ledger, outside, ground };
        for home in site.homes() {
            for _ in 0..layout.pods {
                site.add_pod(home)?;
            }
            site.router.route(4, &format!("{} via {}", pod_net(home), address(home)))?;
        }
        for id in site.balancers().into_iter().chain(site.homes()) {
            site.start(id)?;
        }
        site.publish(&[])?;
        site.spread(&site.balancers())?;
        Ok(site)
    }

    /// The lab all of it stands in.
    pub fn lab(&self) -> &Lab {
        &self.ground.lab
    }

    /// The namespace of the switch between the nodes.
    pub fn switch(&self) -> &Netns {
        self.ground.lan.netns()
    }

    /// What the nodes have sent so far, by class.
    ///
    /// # Errors
    /// When the switch does not say.
    pub fn traffic(&self) -> Result<Vec<Counted>> {
        self.ledger.read()
    }

    /// Packets that programs of this site have sent from node to node, those of dead nodes included.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn sent_on(&self) -> Result<u64> {
        let living = self.members.iter().filter_map(|member| member.programs.as_ref());
        let living: Vec<Tallies> = living.map(NodePrograms::tallies).collect::<Result<_>>()?;
        let ways = [Tally::Encapsulated, Tally::NextHop, Tally::LookAhead];
        Ok(living.iter().chain(&self.fallen).flat_map(|t| ways.map(|way| t.of(way))).sum())
    }

    /// Where clients connect to.
    pub fn target(&self) -> SocketAddrV4 {
        SocketAddrV4::new(VIP, SERVICE_PORT)
    }

    /// Ids of the balancers.
    pub fn balancers(&self) -> Vec<u16> {
        (1..=self.layout.balancers).collect()
    }

    /// Ids of the homes.
    pub fn homes(&self) -> Vec<u16> {
        (11..11 + self.layout.homes).collect()
    }

    /// The node with this id.
    ///
    /// # Panics
    /// When there is none.
    pub fn member(&self, id: u16) -> &Member {
        self.members.iter().find(|member| member.id == id).expect("a node of the layout")
    }

    pub(super) fn member_mut(&mut self, id: u16) -> &mut Member {
        self.members.iter_mut().find(|member| member.id == id).expect("a node of the layout")
    }

    /// Adds a pod with a server to a home; [`Site::publish`] makes it known. Gives its number.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn add_pod(&mut self, home: u16) -> Result<u32> {
        let number = self.servers;
        self.servers += 1;
        let index = u8::try_from(self.member(home).pods.len() + 1).expect("a few pods");
        let (gateway, address) = pod_addresses(home, index);
        let netns = self.ground.lab.netns(&format!("pod{number}"))?;
        let device = format!("v{index}");
        let member = self.member_mut(home);
        cable(&member.netns, &device, gateway, &netns, address)?;
        let nsid = nsid(&member.netns, &device)?;
        let server = AuditServer::start(&netns, number, SERVICE_PORT)?;
        let slot = u16::from(index);
        member.pods.push(Pod { netns, address, server, number, slot, nsid, draining: false });
        Ok(number)
    }

    /// Lets a pod take no new flows; [`Site::publish`] makes it known.
    ///
    /// # Panics
    /// When no pod has this number.
    pub fn drain(&mut self, number: u32) {
        let pods = self.members.iter_mut().flat_map(|member| &mut member.pods);
        pods.filter(|pod| pod.number == number).for_each(|pod| pod.draining = true);
    }

    /// Cuts a node off and takes its programs: as when its power fails.
    ///
    /// # Errors
    /// When its port is gone.
    pub fn kill(&mut self, id: u16) -> Result<()> {
        let member = self.member_mut(id);
        // The cable first: without programs its stack would answer encapsulation with ICMP errors, which no dead node sends.
        member.port.set_up(false)?;
        let counted = member.programs.take().map(|programs| programs.tallies());
        self.fallen.extend(counted.transpose()?);
        Ok(())
    }

    /// Takes every program away: what is left is a routed network with pods.
    pub fn unload(&mut self) {
        self.members.iter_mut().for_each(|member| member.programs = None);
    }

    /// Starts a node, or starts it again with empty maps.
    ///
    /// # Errors
    /// When a program is refused.
    pub fn start(&mut self, id: u16) -> Result<()> {
        let hook = self.layout.hook;
        let (key, rows, epoch) = (tag_key(), self.rows.clone(), self.epoch);
        let entries: Vec<(u16, Node)> = self.members.iter().map(|to| (to.id, self.entry(id, to))).collect();
        let member = self.member_mut(id);
        member.port.set_up(true)?;
        let mut programs = NodePrograms::load(&member.netns, None)?;
        programs.key(0, &key)?;
        for (to, node) in &entries {
            programs.node(*to, node)?;
        }
        programs.device(member.ifindex)?;
        let table = nodes_table(epoch);
        programs.rows(table.base, &rows);
        programs.service(SERVICE, &service(table))?;
        programs.service(ADDRESS, &Service { flags: SERVICE_ADDRESS, port: 0, protocol: 0, ..service(table) })?;
        programs.service_key(&ServiceKey::new(v4(VIP), 0, 0), ADDRESS)?;
        programs.config(&config(id))?;
        member.rows.clear();
        programs.attach("eth0", hook)?;
        member.programs = Some(programs);
        if epoch > 0 {
            self.publish_endpoints(id)?;
        }
        Ok(())
    }

    /// Node `to` as node `from` sees it.
    pub(super) fn entry(&self, from: u16, to: &Member) -> Node {
        let own = self.member(from);
        Node {
            address: v4(address(to.id)),
            flags: NODE_RESOLVED | if from == to.id { NODE_SELF } else { 0 },
            ifindex: own.ifindex,
            source_mac: own.port.mac().0,
            next_mac: to.port.mac().0,
            mtu: MTU,
            ..Node::default()
        }
    }

    /// Computes both levels of tables anew and gives them to every living node. Rows forget the `dead` nodes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn publish(&mut self, dead: &[u16]) -> Result<()> {
        let weight = |member: &Member| {
            let ready = member.pods.iter().filter(|pod| !pod.draining).count();
            if dead.contains(&member.id) { 0 } else { u32::try_from(ready).unwrap_or(u32::MAX) }
        };
        let weights: Vec<(u16, u32)> = self.members.iter().map(|member| (member.id, weight(member))).collect();
        self.rows = push(&self.rows, &homes(ROWS, &weights), dead, minutes());
        self.epoch += 1;
        let table = nodes_table(self.epoch);
        let ids: Vec<u16> = self.members.iter().map(|member| member.id).collect();
        // Endpoints first: a node is ready for its rows before others send by them.
        for &id in &ids {
            self.publish_endpoints(id)?;
        }
        for &from in &ids {
            let entries: Vec<(u16, Node)> = self.members.iter().map(|to| (to.id, self.entry(from, to))).collect();
            let rows = self.rows.clone();
            let Some(programs) = self.member_mut(from).programs.as_mut() else { continue };
            for (to, mut node) in entries {
                node.flags |= if dead.contains(&to) { NODE_DEAD } else { 0 };
                programs.node(to, &node)?;
            }
            programs.rows(table.base, &rows);
            programs.swap_nodes(SERVICE, table);
            programs.swap_nodes(ADDRESS, table);
        }
        Ok(())
    }

    fn publish_endpoints(&mut self, id: u16) -> Result<()> {
        let epoch = self.epoch;
        let member = self.member_mut(id);
        let Some(programs) = member.programs.as_mut() else { return Ok(()) };
        if member.pods.is_empty() {
            return Ok(());
        }
        let weights: Vec<(u16, u32)> =
            member.pods.iter().map(|pod| (pod.slot, if pod.draining { 0 } else { 1 })).collect();
        member.rows = push(&member.rows, &homes(ROWS, &weights), &[], minutes());
        for pod in &member.pods {
            let flags = if pod.draining { ENDPOINT_DRAINING } else { ENDPOINT_READY };
            let (address, port) = (v4(pod.address), SERVICE_PORT.to_be());
            let endpoint = Endpoint {
                address,
                port,
                protocol: TCP,
                flags,
                netns: pod.nsid,
                service: u16::try_from(SERVICE).expect("a small slot"),
                ..Endpoint::default()
            };
            programs.endpoint(pod.slot, &endpoint)?;
            let key = ReverseKey { address, port, protocol: TCP, pad: [0; 5] };
            let entry = ReverseEntry { vip: v4(VIP), port, service: endpoint.service, pad: 0 };
            programs.reverse(&key, &entry)?;
        }
        let table = Table { base: ENDPOINT_BASES[usize::from(epoch % 2)], rows: ROWS, epoch };
        programs.rows(table.base, &member.rows);
        programs.swap_endpoints(SERVICE, table);
        Ok(())
    }

    /// Lets the router spread all flows anew over these balancers: other members, and another seed of its hash.
    ///
    /// # Errors
    /// When the router refuses.
    pub fn spread(&mut self, balancers: &[u16]) -> Result<()> {
        self.outside.spread(VIP, balancers)
    }

    /// What the programs of every living node counted, in words.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn describe(&self) -> Result<String> {
        let mut text = String::new();
        for member in &self.members {
            if let Some(programs) = &member.programs {
                text += &format!("n{}: {}\n", member.id, programs.tallies()?.describe());
            }
        }
        Ok(text)
    }
}

fn member(ground: &mut Ground, id: u16) -> Result<Member> {
    let (netns, port) = ground.node(id)?;
    let ifindex = netns.ifindex("eth0")?;
    Ok(Member { id, netns, port, pods: Vec::new(), programs: None, ifindex, rows: Vec::new() })
}
