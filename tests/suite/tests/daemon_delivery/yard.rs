//! A client behind a router, nodes with the real daemon on a LAN behind it, and pods behind the nodes.
//!
//! ```text
//!  client 10.8.0.2 -- router -- LAN 10.9.0.0/24 -- n1, n2, .. 10.9.0.N -- pods 10.(20+N).K.2, a veth or a bridge each
//!                          \-- far 10.7.0.0/24: endpoints that lie behind no node
//! ```
//! The same in IPv6 (fd08::, fd09::, fd20:N:K::, fd07::). The router sends a VIP to whichever node the test says.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use bascule_lab::bascule::Bascule;
use bascule_lab::forward::{Crew, stands, write_secret};
pub(crate) use bascule_lab::forward::{CrewNode, Hook};
use bascule_lab::{Netns, tool};
use serde_json::{Value, json};

use crate::talk::Server;

/// The VIPs.
pub(crate) const VIPS: [&str; 2] = ["10.9.7.100", "fd09:7::100"];
/// The service's port, and the endpoints': they differ, so that ports are rewritten, too.
pub(crate) const PORT: u16 = 7000;
pub(crate) const ENDPOINT_PORT: u16 = 7100;
/// A start, a table change, a neighbour: all of them take well under a second on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// A start: the kernel verifies 400,000 instructions for each node, in this test's share of a machine that does other things too.
const START: Duration = Duration::from_secs(90);

/// A namespace with servers in it.
pub(crate) struct Pod {
    pub(crate) netns: Netns,
    pub(crate) addresses: [IpAddr; 2],
    /// Its servers say this number.
    pub(crate) number: u8,
    _server: Server,
}

/// The whole.
pub(crate) struct Yard {
    pub(crate) client: Netns,
    pub(crate) router: Netns,
    hook: Hook,
    /// Encapsulation over IPv6.
    pub(crate) over_v6: bool,
    pods: u8,
    pub(crate) crew: Crew,
}

/// `ip ARGS` in a namespace.
pub(crate) fn ip(netns: &Netns, args: &str) -> Result<String> {
    Ok(tool(Some(netns), "ip", &args.split_whitespace().collect::<Vec<_>>(), None)?)
}

/// Several of them at once.
pub(crate) fn ip_all(netns: &Netns, lines: &[String]) -> Result<()> {
    tool(Some(netns), "ip", &["-batch", "-"], Some(&(lines.join("\n") + "\n")))?;
    Ok(())
}

/// A veth between `near` (device `device`) and `far` (eth0), which takes it for its default route; `net` is both networks without
/// their last number.
pub(crate) fn cable(near: &Netns, device: &str, far: &Netns, net: [&str; 2], ends: [u8; 2]) -> Result<()> {
    let [v4, v6] = net;
    let [gate, host] = ends;
    ip(near, &format!("link add {device} type veth peer name eth0 netns {}", far.full_name()))?;
    ip_all(
        near,
        &[
            format!("addr add {v4}.{gate}/24 dev {device}"),
            format!("addr add {v6}::{gate:x}/64 dev {device} nodad"),
            format!("link set {device} up"),
        ],
    )?;
    ip_all(
        far,
        &[
            format!("addr add {v4}.{host}/24 dev eth0"),
            format!("addr add {v6}::{host:x}/64 dev eth0 nodad"),
            "link set eth0 up".to_owned(),
            format!("route add default via {v4}.{gate}"),
            format!("route add ::/0 via {v6}::{gate:x}"),
        ],
    )
}

impl Yard {
    /// `count` nodes without daemons.
    pub(crate) fn new(name: &str, count: u8, hook: Hook) -> Result<Self> {
        let mut crew = Crew::on_lan(name, hook)?;
        let (router, _) = crew.lab().host("router", crew.lan(), &["10.9.0.254/24".parse()?, "fd09::fe/64".parse()?])?;
        let client = crew.lab().netns("client")?;
        cable(&router, "eth1", &client, ["10.8.0", "fd08"], [254, 2])?;
        router.forward()?;
        for n in 1..=count {
            crew.add(n.into(), &[format!("10.9.0.{n}/24").parse()?, format!("fd09::{n:x}/64").parse()?])?;
            let netns = &crew.node(n.into()).netns;
            netns.forward()?;
            netns.route(4, "default via 10.9.0.254")?;
            netns.route(6, "default via fd09::fe")?;
            ip(&router, &format!("route add 10.{}.0.0/16 via 10.9.0.{n}", 20 + n))?;
            ip(&router, &format!("-6 route add fd20:{n}::/32 via fd09::{n:x}"))?;
        }
        let yard = Self { client, router, hook, over_v6: false, pods: 0, crew };
        yard.via(1)?;
        Ok(yard)
    }

    /// Node `n`, from 1.
    pub(crate) fn node(&self, n: u8) -> &CrewNode {
        self.crew.node(n.into())
    }

    /// The daemon of node `n`.
    pub(crate) fn daemon(&self, n: u8) -> &Bascule {
        self.crew.daemon(n.into())
    }

    /// A pod behind a veth of node `n`.
    pub(crate) fn pod(&mut self, n: u8) -> Result<Pod> {
        self.pods += 1;
        let k = self.pods;
        let netns = self.crew.lab().netns(&format!("pod{k}"))?;
        cable(
            &self.node(n).netns,
            &format!("v{k}"),
            &netns,
            [&format!("10.{}.{k}", 20 + n), &format!("fd20:{n}:{k}")],
            [1, 2],
        )?;
        self.serve(netns, [format!("10.{}.{k}.2", 20 + n), format!("fd20:{n}:{k}::2")])
    }

    /// A pod behind a bridge of node `n`.
    pub(crate) fn bridged_pod(&mut self, n: u8) -> Result<Pod> {
        self.pods += 1;
        let k = self.pods;
        let netns = self.crew.lab().netns(&format!("pod{k}"))?;
        let (v4, v6) = (format!("10.{}.{k}", 20 + n), format!("fd20:{n}:{k}"));
        let node = &self.node(n).netns;
        ip_all(
            node,
            &[
                format!("link add br{k} type bridge"),
                format!("link add v{k} type veth peer name eth0 netns {}", netns.full_name()),
                format!("link set v{k} master br{k} up"),
                format!("link set br{k} up"),
                format!("addr add {v4}.1/24 dev br{k}"),
                format!("addr add {v6}::1/64 dev br{k} nodad"),
            ],
        )?;
        ip_all(
            &netns,
            &[
                format!("addr add {v4}.2/24 dev eth0"),
                format!("addr add {v6}::2/64 dev eth0 nodad"),
                "link set eth0 up".to_owned(),
                format!("route add default via {v4}.1"),
                format!("route add ::/0 via {v6}::1"),
            ],
        )?;
        self.serve(netns, [format!("{v4}.2"), format!("{v6}::2")])
    }

    /// A process of node `n` itself.
    pub(crate) fn process(&mut self, n: u8) -> Result<Pod> {
        self.pods += 1;
        self.serve(self.node(n).netns.clone(), [format!("10.9.0.{n}"), format!("fd09::{n:x}")])
    }

    /// A host behind the router, on no node.
    pub(crate) fn far(&mut self) -> Result<Pod> {
        self.pods += 1;
        let k = self.pods;
        let netns = self.crew.lab().netns(&format!("far{k}"))?;
        cable(&self.router, &format!("f{k}"), &netns, [&format!("10.7.{k}"), &format!("fd07:{k}")], [1, 2])?;
        self.serve(netns, [format!("10.7.{k}.2"), format!("fd07:{k}::2")])
    }

    fn serve(&self, netns: Netns, addresses: [String; 2]) -> Result<Pod> {
        let number = self.pods;
        let server = Server::start(&netns, number, ENDPOINT_PORT)?;
        let [v4, v6] = addresses;
        Ok(Pod { netns, addresses: [v4.parse()?, v6.parse()?], number, _server: server })
    }

    /// A service of each family over these endpoints, given as the pod and the node that it is on, 0 for none.
    pub(crate) fn services(&self, protocol: &str, endpoints: &[(&Pod, u8)]) -> Vec<Value> {
        let family = |f: usize| {
            let list: Vec<Value> = endpoints
                .iter()
                .map(|(pod, node)| {
                    let mut one = json!({ "name": format!("e{}", pod.number), "address": pod.addresses[f], "port": ENDPOINT_PORT });
                    if *node != 0 {
                        one["node"] = json!(format!("n{node}"));
                    }
                    one
                })
                .collect();
            json!({ "name": format!("{protocol}{}", 4 + 2 * f), "vip": VIPS[f], "port": PORT, "protocol": protocol, "endpoints": list })
        };
        vec![family(0), family(1)]
    }

    /// The configuration of node `n`.
    pub(crate) fn config(&self, n: u8, services: &[Value]) -> Result<Value> {
        let keys = self.crew.lab().directory().join("forward.keys");
        if !keys.exists() {
            let key = "00112233445566778899aabbccddeeff";
            write_secret(&keys, &format!("0:{key}\nflow:{key}{key}\n"))?;
        }
        let nodes: Vec<Value> = (1..=self.crew.nodes.len())
            .map(|n| {
                let mut addresses = [format!("10.9.0.{n}"), format!("fd09::{n:x}")];
                if self.over_v6 {
                    addresses.reverse();
                }
                json!({ "name": format!("n{n}"), "id": n, "addresses": addresses })
            })
            .collect();
        Ok(json!({
            "node": format!("n{n}"),
            "forwarding": { "nodes": nodes, "keyFile": keys, "hook": self.hook.word() },
            "services": services,
        }))
    }

    /// Starts every daemon, or gives a running one its new configuration, and waits until all steer by it.
    pub(crate) fn apply(&mut self, services: &[Value]) -> Result<()> {
        self.apply_with(services, |_| {})
    }

    /// As [`Yard::apply`], with a change to each node's configuration.
    pub(crate) fn apply_with(&mut self, services: &[Value], change: impl Fn(&mut Value)) -> Result<()> {
        for n in 1..=u8::try_from(self.crew.nodes.len())? {
            let mut config = self.config(n, services)?;
            change(&mut config);
            self.crew.tell(n.into(), &config)?;
        }
        let wanted: Vec<&Value> = services.iter().filter(|service| service["delivery"] != "none").collect();
        for n in 1..=u8::try_from(self.crew.nodes.len())? {
            self.wait(n, &wanted)?;
        }
        Ok(())
    }

    /// Programs stand, the tables are those of `services`, every node and every endpoint here is found.
    fn wait(&self, n: u8, services: &[&Value]) -> Result<()> {
        let page = self.crew.wait_page(n.into(), START, "the data plane", |page| {
            let lost = |c: &Value| c.as_str().is_some_and(|c| c.contains("network namespace of the endpoint"));
            let found = page["conditions"].as_array().is_some_and(|said| !said.iter().any(lost));
            stands(page) && found && services.iter().all(|wanted| has_tables(page, wanted))
        })?;
        let wanted = if self.hook == Hook::Tc { "tcx" } else { "xdp" };
        ensure!(page["devices"][0]["ingress"] == wanted, "{page:#}");
        Ok(())
    }

    /// Lets the router send both VIPs to node `n`.
    pub(crate) fn via(&self, n: u8) -> Result<()> {
        let [v4, v6] = VIPS;
        ip(&self.router, &format!("route replace {v4} via 10.9.0.{n}"))?;
        ip(&self.router, &format!("-6 route replace {v6} via fd09::{n:x}"))?;
        Ok(())
    }

    /// A tally or drop counter of node `n`; 0 where it was never counted.
    pub(crate) fn metric(&self, n: u8, line: &str) -> u64 {
        let value = self.daemon(n).metric(line).unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, reason = "counters are whole numbers")]
        let whole = value as u64;
        whole
    }

    /// What every node counted, for the message of a failure.
    pub(crate) fn counted(&self) -> String {
        let mut text = String::new();
        for n in 1..=u8::try_from(self.crew.nodes.len()).unwrap_or(u8::MAX) {
            let Some(Ok((_, body))) = self.node(n).daemon.as_ref().map(|daemon| daemon.get("/metrics")) else {
                continue;
            };
            let lines = body.lines().filter(|l| l.starts_with("bascule_forward_") && !l.ends_with(" 0"));
            let lines: Vec<&str> = lines.filter(|l| l.contains("drops") || l.contains("verdicts")).collect();
            text += &format!("n{n}:\n  {}\n", lines.join("\n  "));
        }
        text
    }
}

/// The tables of a service are those of the configuration `wanted`.
fn has_tables(page: &Value, wanted: &Value) -> bool {
    let names = |list: &Value| -> Vec<String> {
        let all = list["endpoints"].as_array().into_iter().flatten();
        all.filter_map(|e| e["name"].as_str().map(str::to_owned)).collect()
    };
    let same =
        |s: &Value| s["name"] == wanted["name"] && s["nodes"]["rows"].as_u64() > Some(0) && names(s) == names(wanted);
    page["balance"]["services"].as_array().is_some_and(|there| there.iter().any(same))
}
