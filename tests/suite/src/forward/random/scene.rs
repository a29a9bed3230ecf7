//! A random world: services of every kind, tables with dead and unknown nodes, endpoints, flows.

use std::path::Path;

use anyhow::Result;
use bascule_ebpf_common::forward::FlowKey;

use super::Dice;
use crate::forward::model::Clock;
use crate::forward::text::World;

/// A service as packets need it.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) vip: &'static str,
    pub(crate) port: u16,
    pub(crate) tcp: bool,
    pub(crate) v6: bool,
    pub(crate) affinity: bool,
    pub(crate) delegate: bool,
    pub(crate) number: u16,
}

/// World and what its packets draw from.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) services: Vec<Service>,
    /// ICMP errors occur (their statistics are not settled).
    pub(crate) errors: bool,
    /// Key slot that is valid beside the one in use.
    pub(crate) second_key: bool,
    /// The site of this node.
    pub(crate) site: u8,
    /// There are others.
    pub(crate) sites: bool,
    pub(crate) acks: Vec<(FlowKey, u32, u32)>,
}

pub(crate) const CLIENTS4: [&str; 4] = ["198.51.100.7", "198.51.100.8", "203.0.113.9", "100.64.3.4"];
pub(crate) const CLIENTS6: [&str; 3] = ["2001:db8:c::7", "2001:db8:c::8", "2001:db8:ffff::9"];
pub(crate) const PORTS: [u16; 5] = [40000, 40001, 1024, 65535, 53];
pub(crate) const ENDPOINTS4: [&str; 4] = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"];
pub(crate) const ENDPOINTS6: [&str; 4] = ["fd01::1", "fd01::2", "fd01::3", "fd01::4"];
const VIPS: [(&str, bool); 5] = [
    ("192.0.2.10", false),
    ("192.0.2.20", false),
    ("192.0.2.255", false),
    ("2001:db8:a::10", true),
    ("2001:db8:a::ffff", true),
];
/// Prime numbers of rows.
const ROWS: [u32; 5] = [1, 2, 3, 7, 31];

/// The sockets of every scene, opened once: the tuples lie in the namespace called `a`.
pub(crate) fn sockets() -> Vec<String> {
    vec![
        "socket a 198.51.100.7:40000 10.1.0.1:8080/tcp".to_owned(),
        "socket a 198.51.100.8:40001 10.1.0.2:8080/tcp".to_owned(),
        "socket a 203.0.113.9:1024 10.1.0.1:8080/tcp".to_owned(),
        "socket a [2001:db8:c::7]:40000 [fd01::1]:8080/tcp".to_owned(),
        "socket a [2001:db8:c::8]:40001 [fd01::2]:8080/tcp".to_owned(),
        "listen a 10.1.0.3:8080".to_owned(),
        "listen a [fd01::3]:8080".to_owned(),
    ]
}

pub(crate) fn scene(
    dice: &mut Dice,
    base: &Path,
    now: Clock,
    ground: (Vec<(String, u32)>, i32),
    cookies: &[(FlowKey, u32, u32)],
) -> Result<Scene> {
    let mut lines = sockets();
    let second_key = dice.one_in(2);
    if second_key {
        lines.push("key 1 b0b1b2b3b4b5b6b7b8b9babbbcbdbebf".to_owned());
        if dice.one_in(2) {
            lines.push("config key 1".to_owned());
        }
    }
    let sites = dice.one_in(2);
    let site = if sites { 1 } else { dice.pick(&[0, 0, 9]) };
    lines.push(format!("config site {site}"));
    if sites {
        other_sites(dice, &mut lines, second_key);
    }
    if dice.one_in(8) {
        lines.push("config orphans 0".to_owned());
    }
    for id in 2..=7u16 {
        let mtu = dice.pick(&[1600, 1600, 1600, 9000, 1400]);
        let state = if id == 7 || dice.one_in(12) {
            "dead"
        } else if id == 5 || dice.one_in(30) {
            "unresolved"
        } else {
            ""
        };
        lines.push(format!("node {id} mtu {mtu} {state}"));
    }
    endpoints(dice, &mut lines);
    let services = services(dice, &mut lines, sites);
    let (devices, netns) = ground;
    let mut world = World::new(now, devices, netns);
    world.read(base)?;
    world.state.service_keys.retain(|key, _| key.port == 0);
    world.state.services.retain(|slot, _| *slot >= 90);
    for line in &lines {
        world.line(line).map_err(|e| e.context(line.clone()))?;
    }
    world.state.sockets.cookies.extend(cookies);
    Ok(Scene { world, services, errors: dice.one_in(2), second_key, acks: cookies.to_vec(), site, sites })
}

/// Sites 2 and 3, their gateways, and the second keys of the pairs.
fn other_sites(dice: &mut Dice, lines: &mut Vec<String>, second_key: bool) {
    lines.push(format!("config sites remote {}", dice.pick(&[1_000_000, 1_000_000, 1_000_000, 0])));
    if dice.one_in(4) {
        lines.push("config holds".to_owned());
    }
    if second_key {
        lines.push("key 5 e0e1e2e3e4e5e6e7e8e9eaebecedeeef".to_owned());
        lines.push("key 7 f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff".to_owned());
    }
    for id in [40, 41, 50] {
        let state = dice.pick(&["", "", "", "", "", "dead", "unresolved"]);
        lines.push(format!("node {id} mtu {} {state}", dice.pick(&[1600, 1600, 1400])));
    }
    for (site, gateways) in [(2, ["40", "41", "40,41", "none"]), (3, ["50"; 4])] {
        lines.push(format!("site {site} gateways {} {}", dice.pick(&gateways), dice.pick(&["", "", "via", "cut"])));
    }
    lines.push(format!("site 0 gateways {}", dice.pick(&["2,3", "3,2", "3", "1,2", "none"])));
}

fn endpoints(dice: &mut Dice, lines: &mut Vec<String>) {
    // Slots 1 to 4 and 5 to 8: TCP over IPv4 and IPv6; 9 to 12 and 13 to 16: UDP.
    for (protocol, port, first) in [("tcp", 8080, 1), ("udp", 5353, 9)] {
        for (family, addresses) in [(0, ENDPOINTS4), (1, ENDPOINTS6)] {
            for (i, address) in addresses.iter().enumerate() {
                let state = dice.pick(&["", "", "", "", "unready", "draining"]);
                let ns = dice.pick(&["a", "a", "unknown"]);
                lines
                    .push(format!("endpoint {} [{address}]:{port}/{protocol} ns {ns} {state}", first + family * 4 + i));
            }
        }
    }
}

/// Ids of rows, with other sites among them.
const WITH_SITES: [&str; 11] = ["1", "1", "1", "2", "3", "4", "6", "7", "site:2", "site:2", "site:3"];
const NODES: [&str; 9] = ["1", "1", "1", "2", "3", "4", "5", "6", "7"];

fn row(dice: &mut Dice, lines: &mut Vec<String>, index: u32, ids: &[&str]) {
    let age = dice.pick(&[0, 10, 30, 100, 1000]);
    let older = if dice.one_in(2) { "0" } else { dice.pick(ids) };
    let previous = if dice.one_in(3) { "0" } else { dice.pick(ids) };
    let home = if dice.one_in(40) { "0" } else { dice.pick(ids) };
    lines.push(format!("row {index} {home} {previous} {older} age {age}"));
}

fn services(dice: &mut Dice, lines: &mut Vec<String>, sites: bool) -> Vec<Service> {
    let mut all = Vec::new();
    let (mut base, mut slot) = (0u32, 1u16);
    for (vip, v6) in VIPS {
        for (port, tcp) in [(80u16, true), (443, true), (53, false), (443, false)] {
            let nodes = if dice.one_in(15) { 0 } else { dice.pick(&ROWS) };
            let here = if dice.one_in(8) { 0 } else { dice.pick(&ROWS[..4]) };
            for index in 0..nodes {
                row(dice, lines, base + index, if sites { &WITH_SITES } else { &NODES });
            }
            let first: u16 = if tcp { 1 } else { 9 } + if v6 { 4 } else { 0 };
            let slots = [first, first + 1, first + 2, first + 3].map(|slot| slot.to_string());
            for index in 0..here {
                row(dice, lines, 1000 + base + index, &slots.each_ref().map(String::as_str));
            }
            let affinity = dice.one_in(4);
            let mut words = String::new();
            for (word, odds) in
                [("sources", 8), ("exceptions", if sites { 2 } else { 4 }), ("ask", 2), ("quic", 2), ("via", 4)]
            {
                let fits = tcp || word != "sources";
                if (fits || word != "quic" || port == 443)
                    && dice.one_in(odds)
                    && !(tcp && (word == "ask" || word == "quic"))
                {
                    words.push_str(word);
                    words.push(' ');
                }
            }
            if affinity {
                words.push_str("affinity ");
            }
            let delegate = dice.one_in(8);
            if delegate {
                words.push_str("delegate ");
            }
            let drain = dice.pick(&[60, 60, 60, 0, 65535]);
            let (mss4, mss6) = (dice.pick(&[0, 1400, 536]), dice.pick(&[0, 1380, 1220]));
            let number = 100 + slot;
            let epoch = dice.roll(65536);
            lines.push(format!(
                "service {slot} vip [{vip}]:{port}/{} nodes {base}+{nodes}@{epoch} endpoints {}+{here}@1 drain {drain} mss4 {mss4} mss6 {mss6} {words}",
                if tcp { "tcp" } else { "udp" },
                1000 + base,
            ));
            all.push(Service { vip, port, tcp, v6, affinity, delegate, number });
            base += nodes.max(here);
            slot += 1;
        }
    }
    for slot in 1..slot {
        let net =
            dice.pick(&["198.51.100.0/24", "198.51.100.7/32", "0.0.0.0/0", "100.64.0.0/10", "2001:db8:c::/48", "::/0"]);
        lines.push(format!("source {slot} {net}"));
    }
    flows(dice, lines, &all, sites);
    reverse(dice, lines, &all);
    all
}

/// Endpoints that only one VIP has, and the ranges that reach them by their own addresses.
fn reverse(dice: &mut Dice, lines: &mut Vec<String>, services: &[Service]) {
    for _ in 0..dice.roll(4) {
        let at = usize::try_from(dice.roll(services.len() as u64)).unwrap_or(0);
        let s = &services[at];
        let endpoint = if s.v6 { dice.pick(&ENDPOINTS6) } else { dice.pick(&ENDPOINTS4) };
        let (protocol, to) = if s.tcp { ("tcp", 8080) } else { ("udp", 5353) };
        lines.push(format!("reverse [{endpoint}]:{to}/{protocol} [{}]:{} service {}", s.vip, s.port, at + 1));
    }
    if dice.one_in(3) {
        lines.push(format!("source 0 {}", dice.pick(&["198.51.100.8/32", "100.64.0.0/10", "2001:db8:c::8/128"])));
    }
}

/// Flags of a TCP flow.
const FLAGS: [&str; 10] =
    ["", "", "", "fin-client", "fin-endpoint", "closing", "via", "asked", "remote asked", "remote asked via"];

fn flows(dice: &mut Dice, lines: &mut Vec<String>, services: &[Service], sites: bool) {
    for _ in 0..60 {
        let at = usize::try_from(dice.roll(services.len() as u64)).unwrap_or(0);
        let s = &services[at];
        let client = if s.v6 { dice.pick(&CLIENTS6) } else { dice.pick(&CLIENTS4) };
        let port = dice.pick(&PORTS);
        let i = dice.roll(4);
        let (endpoint, slot) = if s.v6 { (ENDPOINTS6, 5) } else { (ENDPOINTS4, 1) };
        let endpoint = dice.pick(&endpoint[usize::try_from(i).unwrap_or(0)..=usize::try_from(i).unwrap_or(0)]);
        let slot = slot + i + if s.tcp { 0 } else { 8 };
        let (protocol, to) = if s.tcp { ("tcp", 8080) } else { ("udp", 5353) };
        // Delegated flows lie under the VIP and name no endpoint.
        let (endpoint, to, slot) = if s.delegate { (s.vip, s.port, 0) } else { (endpoint, to, slot) };
        let rest = format!(
            "vip [{}]:{} service {} endpoint {slot} ingress {}",
            s.vip,
            s.port,
            at + 1,
            dice.pick(if sites { &[1, 1, 2, 3, 40, 41, 50] } else { &[1, 1, 2, 3][..] })
        );
        let tuple = format!("[{client}]:{port} [{endpoint}]:{to}/{protocol}");
        match dice.roll(6) {
            0 if s.tcp => lines.push(format!("half {tuple} {rest}")),
            1 | 2 => {
                lines.push(format!(
                    "exception [{client}]:{port} [{}]:{}/{protocol} {}",
                    s.vip,
                    s.port,
                    dice.pick(if sites { &[1, 2, 3, 7, 40, 41, 50] } else { &[1, 2, 3, 7][..] })
                ));
            }
            _ => {
                let flags = if s.tcp { dice.pick(&FLAGS) } else { "" };
                lines.push(format!("flow {tuple} {rest} age {} {flags}", dice.pick(&[0, 1, 200])));
            }
        }
    }
}
