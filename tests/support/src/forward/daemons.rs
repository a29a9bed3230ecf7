//! The site of [`super::Site`] with a real daemon on every node: their files are written, everything else is theirs.
//!
//! Balancers (nodes 1 to 3, no endpoints) own the VIP in turn by VRRP; homes (11 to 13) carry two pods each. The router gives the VIP
//! either to whoever answers ARP for it, or spreads its flows over nodes, whoever owns it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use bascule_ebpf_common::forward::DEFAULT_TUNNEL_PORT;
use serde_json::Value;

use super::Hook;
use super::crew::{Crew, CrewNode};
use super::daemon_config::{DAEMON_VIP, GROUP, Keys, Listed, file, name};
use super::entries::{LAN, SERVICE_PORT, address, net};
use super::ground::{CLIENT_NET, Ground, Outside, behind_router, pod_addresses, pod_net};
use super::ledger::{Class, Counted, Ledger, classes};
use super::survive::Stage;
use super::wires::cable;
use crate::audit::AuditServer;
use crate::command::ip;
use crate::{LabError, Netns, Port, Result, wait_for};

/// Nodes without endpoints.
pub(super) const BALANCERS: [u16; 3] = [1, 2, 3];
/// Nodes with them.
pub(super) const HOMES: [u16; 3] = [11, 12, 13];
/// Pods of each home at the start.
const PODS: usize = 2;
/// Daemons agree by then: three checks of a second, a BFD session of 1.5 s, a start that loads all programs (the verifier walks 400,000
/// instructions), and a machine that is busy with 10,000 flows.
pub(super) const SOON: Duration = Duration::from_secs(180);

/// A pod.
pub(super) struct Backend {
    _netns: Netns,
    server: AuditServer,
    address: Ipv4Addr,
    pub(super) node: u16,
    pub(super) draining: bool,
    /// In the files.
    pub(super) listed: bool,
}

/// The whole.
pub struct DaemonSite {
    pub(super) backends: Vec<Backend>,
    /// Stopped: they cannot be asked.
    pub(super) frozen: BTreeSet<u16>,
    hook: Hook,
    keys: Keys,
    ledger: Ledger,
    outside: Outside,
    /// Balancers, then homes.
    pub crew: Crew,
}

impl DaemonSite {
    /// Builds everything and waits until all daemons have the same tables and node 1 owns the VIP, to which the router sends by ARP.
    ///
    /// # Errors
    /// When a part of it cannot be made, or the daemons do not come to agree.
    pub fn new(name: &str, hook: Hook) -> Result<Self> {
        let ground = Ground::new(name, hook == Hook::Xdp)?;
        let outside = Outside::new(&ground)?;
        let mut crew = Crew::new(ground);
        let ids = || BALANCERS.into_iter().chain(HOMES);
        for id in ids() {
            crew.add(id, &[net(address(id), 24)])?;
            behind_router(&crew.node(id).netns)?;
        }
        for node in crew.nodes.iter().map(|node| (&node.netns, Some(node.id))).chain([(&outside.router, None)]) {
            // What a CNI does with routes: every node reaches every pod.
            for home in HOMES.into_iter().filter(|home| Some(*home) != node.1) {
                node.0.route(4, &format!("{} via {}", pod_net(home), address(home)))?;
            }
        }
        let ports: Vec<&Port> = crew.nodes.iter().map(|node| &node.port).collect();
        let ledger = Ledger::start(&crew.ground.lan, &ports, &daemon_classes())?;
        let keys = Keys::write(&crew.ground.lab)?;
        let (backends, frozen) = (Vec::new(), BTreeSet::new());
        let mut site = Self { backends, frozen, hook, keys, ledger, outside, crew };
        for home in HOMES {
            for _ in 0..PODS {
                site.add_pod(home)?;
            }
        }
        for id in ids() {
            site.start(id)?;
            if id == BALANCERS[0] {
                // Nobody preempts: the first owns.
                site.wait_owner(&[id])?;
            }
        }
        site.wait_agreement()?;
        site.wait_owner(&BALANCERS)?;
        Ok(site)
    }

    /// Adds a pod with a server to a home; [`DaemonSite::reload`] makes it known. Gives its number.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn add_pod(&mut self, home: u16) -> Result<u32> {
        let number = u32::try_from(self.backends.len()).unwrap_or(u32::MAX);
        let pod = self.crew.ground.lab.netns(&format!("pod{number}"))?;
        let index = u8::try_from(self.backends.iter().filter(|b| b.node == home).count() + 1).unwrap_or(u8::MAX);
        let (gateway, address) = pod_addresses(home, index);
        cable(&self.crew.node(home).netns, &format!("v{index}"), gateway, &pod, address)?;
        let server = AuditServer::start(&pod, number, SERVICE_PORT)?;
        self.backends.push(Backend { _netns: pod, server, address, node: home, draining: false, listed: true });
        Ok(number)
    }

    fn backend(&mut self, number: u32) -> Result<&mut Backend> {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        self.backends.get_mut(index).ok_or_else(|| LabError::answer("a pod", format!("there is no pod {number}")))
    }

    /// Lets a pod take no new flows; [`DaemonSite::reload`] makes it known.
    ///
    /// # Errors
    /// When there is none with this number.
    pub fn drain(&mut self, number: u32) -> Result<()> {
        self.backend(number)?.draining = true;
        Ok(())
    }

    /// Takes a pod, which goes on serving what it has, out of the files; [`DaemonSite::reload`] makes it known.
    ///
    /// # Errors
    /// When there is none with this number.
    pub fn remove(&mut self, number: u32) -> Result<()> {
        self.backend(number)?.listed = false;
        Ok(())
    }

    /// The node a pod is on.
    ///
    /// # Errors
    /// When there is none with this number.
    pub fn home_of(&mut self, number: u32) -> Result<u16> {
        Ok(self.backend(number)?.node)
    }

    /// Nodes that are not frozen.
    pub(super) fn asked(&self) -> impl Iterator<Item = &CrewNode> {
        self.crew.nodes.iter().filter(|node| !self.frozen.contains(&node.id))
    }

    /// Balancers whose daemon runs.
    pub fn living(&self) -> Vec<u16> {
        self.balancers(true)
    }

    /// Balancers that were killed.
    pub fn dead(&self) -> Vec<u16> {
        self.balancers(false)
    }

    fn balancers(&self, living: bool) -> Vec<u16> {
        let lives = |node: &&CrewNode| BALANCERS.contains(&node.id) && node.daemon.is_some() == living;
        let chosen = self.crew.nodes.iter().filter(lives);
        chosen.map(|node| node.id).collect()
    }

    /// Numbers of the pods of a home.
    pub fn pods_of(&self, home: u16) -> Vec<u32> {
        let all = (0u32..).zip(&self.backends);
        all.filter(|(_, backend)| backend.node == home).map(|(number, _)| number).collect()
    }

    fn file(&self, id: u16) -> Value {
        let listed = |(number, b): (usize, &Backend)| Listed {
            name: format!("e{number}"),
            address: b.address,
            node: b.node,
            draining: b.draining,
        };
        let listed: Vec<Listed> = self.backends.iter().enumerate().filter(|(_, b)| b.listed).map(listed).collect();
        let ids: Vec<u16> = self.crew.nodes.iter().map(|node| node.id).collect();
        file(id, &ids, &BALANCERS, &listed, self.hook, &self.keys)
    }

    /// Starts the daemon of a node.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, id: u16) -> Result<()> {
        let file = self.file(id);
        self.crew.start(id, &file)
    }

    /// Cuts a node off and kills its daemon: as when its power fails.
    ///
    /// # Errors
    /// When its port or process is gone.
    pub fn kill(&mut self, id: u16) -> Result<()> {
        let node = self.crew.node_mut(id);
        node.port.set_up(false)?;
        if let Some(mut daemon) = node.daemon.take() {
            daemon.process.sigkill()?;
        }
        Ok(())
    }

    /// Starts a killed node again with nothing of what it had: neither maps, nor programs, nor the VIP. Returns when all agree.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn boot(&mut self, id: u16) -> Result<()> {
        let node = self.crew.node_mut(id);
        node.netns.forget_pins();
        if node.netns.has_address("eth0", DAEMON_VIP.into()) {
            node.netns.delete_address("eth0", DAEMON_VIP.into())?;
        }
        node.port.set_up(true)?;
        self.start(id)?;
        self.wait_agreement()
    }

    /// Kills a daemon and starts it again; its programs and maps stay meanwhile. Returns when all agree.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn restart(&mut self, id: u16) -> Result<()> {
        self.crew.daemon_mut(id).process.sigkill()?;
        self.start(id)?;
        self.wait_agreement()
    }

    /// Stops a daemon (SIGSTOP), or lets it go on.
    pub fn freeze(&mut self, id: u16, frozen: bool) {
        let process = &self.crew.daemon(id).process;
        if frozen {
            process.stop();
            self.frozen.insert(id);
        } else {
            process.cont();
            self.frozen.remove(&id);
        }
    }

    /// Gives every daemon the files as they should be now. Returns when all agree.
    ///
    /// # Errors
    /// When a file cannot be written, or they do not come to agree.
    pub fn reload(&mut self) -> Result<()> {
        for node in self.asked() {
            if let Some(daemon) = &node.daemon {
                daemon.rewrite(&self.file(node.id))?;
            }
        }
        self.wait_agreement()
    }

    /// Asks the owner to give the VIP to `to`, and waits until it has it.
    ///
    /// # Errors
    /// When it does not.
    pub fn hand_over(&mut self, to: u16) -> Result<()> {
        let owner = self.wait_owner(&BALANCERS)?;
        self.crew.daemon(owner).ctl(&["move", GROUP, "--to", &name(to)])?;
        self.wait_owner(&[to]).map(drop)
    }

    /// Waits until one of `among` says that it owns the VIP; gives its id.
    ///
    /// # Errors
    /// When none does in time.
    pub fn wait_owner(&self, among: &[u16]) -> Result<u16> {
        let asked = || self.asked().filter(|node| among.contains(&node.id));
        let active =
            |node: &&CrewNode| node.daemon.as_ref().is_some_and(|d| d.role(GROUP).as_deref() == Some("active"));
        wait_for(SOON, &format!("one of {among:?} to own the VIP"), || asked().find(active).map(|node| node.id))
    }

    /// The router gives the VIP to whoever answers ARP for it.
    ///
    /// # Errors
    /// When it refuses.
    pub fn by_arp(&mut self) -> Result<()> {
        ip(&self.outside.router, &format!("route flush exact {DAEMON_VIP}/32")).map(drop)
    }

    /// The router spreads all flows anew over these nodes.
    ///
    /// # Errors
    /// When it refuses.
    pub fn spread(&mut self, nodes: &[u16]) -> Result<()> {
        self.outside.spread(DAEMON_VIP, nodes)
    }
}

impl Stage for DaemonSite {
    fn client(&self) -> &Netns {
        &self.outside.client
    }

    fn target(&self) -> SocketAddrV4 {
        SocketAddrV4::new(DAEMON_VIP, SERVICE_PORT)
    }

    fn disorder(&self) -> u64 {
        self.backends.iter().map(|backend| backend.server.disorder()).sum()
    }

    fn traffic(&self) -> Result<Vec<Counted>> {
        self.ledger.read()
    }

    fn describe(&self) -> Result<String> {
        let mut text = String::new();
        for node in self.asked() {
            let Some(said) = self.crew.page(node.id) else { continue };
            let counted = |what: &str| {
                let all = said[what].as_array().cloned().unwrap_or_default();
                let some = all.iter().filter(|pair| pair[1].as_u64().is_some_and(|n| n > 0));
                some.map(|pair| format!("{} {}", pair[0].as_str().unwrap_or_default(), pair[1]))
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            text += &format!("n{}: {}, {} hops {}\n", node.id, counted("verdicts"), counted("drops"), said["hops"]);
        }
        Ok(text)
    }
}

/// What nodes say besides what every site says.
fn daemon_classes() -> Vec<Class> {
    let mut all = classes(DAEMON_VIP, CLIENT_NET, DEFAULT_TUNNEL_PORT);
    all.extend([
        // IANA protocol 112.
        ("vrrp", "ip protocol 112".to_owned()),
        // RFC 5881 4.
        ("bfd", "udp dport 3784".to_owned()),
        // A node that boots answers encapsulation so until its programs stand.
        ("unreachable", format!("ip saddr {LAN} ip daddr {LAN} icmp type destination-unreachable")),
        // `peers.port`: a move is asked for and granted there.
        ("peers", "udp dport 3112".to_owned()),
    ]);
    for home in HOMES {
        let (net, port) = (pod_net(home), SERVICE_PORT);
        all.push(("checks", format!("ip saddr {LAN} ip daddr {net} tcp dport {port}")));
        all.push(("checks", format!("ip saddr {net} ip daddr {LAN} tcp sport {port}")));
    }
    all
}
