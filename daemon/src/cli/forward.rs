//! `bascule services`, `bascule flows`, `bascule trace`: what is asked for, and the tables that show it.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use comfy_table::{Table, presets};
use serde::Deserialize;

use super::client::ClientError;

/// An address, or an address and a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    address: IpAddr,
    port: Option<u16>,
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(both) = text.parse::<SocketAddr>() {
            return Ok(Self { address: both.ip(), port: Some(both.port()) });
        }
        let address =
            text.parse().map_err(|_| "an address, or an address and a port such as 192.0.2.7:443".to_owned())?;
        Ok(Self { address, port: None })
    }
}

/// Which flows to show.
#[derive(clap::Args, Debug, Default)]
pub(super) struct Filter {
    /// Only flows of this client
    #[arg(long, value_name = "IP[:PORT]")]
    pub(super) client: Option<Place>,
    /// Only flows to this VIP
    #[arg(long, value_name = "IP[:PORT]")]
    pub(super) vip: Option<Place>,
    /// Only flows at this endpoint
    #[arg(long, value_name = "IP")]
    pub(super) endpoint: Option<IpAddr>,
    /// Only flows of this protocol
    #[arg(long, value_parser = ["tcp", "udp", "sctp"])]
    pub(super) protocol: Option<String>,
    /// Show at most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(super) limit: usize,
}

impl Filter {
    /// The path to ask.
    pub(super) fn path(&self) -> String {
        let mut path = format!("/flows?limit={}", self.limit);
        for (name, place) in [("client", self.client), ("vip", self.vip)] {
            let Some(place) = place else { continue };
            write!(path, "&{name}={}", place.address).expect("writing to a string does not fail");
            if let Some(port) = place.port {
                write!(path, "&{name}Port={port}").expect("writing to a string does not fail");
            }
        }
        if let Some(endpoint) = self.endpoint {
            write!(path, "&endpoint={endpoint}").expect("writing to a string does not fail");
        }
        if let Some(protocol) = &self.protocol {
            write!(path, "&protocol={protocol}").expect("writing to a string does not fail");
        }
        path
    }
}

/// The path that asks for one packet.
pub(super) fn trace_path(to: SocketAddr, from: SocketAddr, protocol: &str) -> String {
    let (vip, client) = (to.ip(), from.ip());
    format!("/trace?vip={vip}&port={}&client={client}&clientPort={}&protocol={protocol}", to.port(), from.port())
}

/// What the table shows of `/services`; fields that it does not show are not asked for, so that versions may differ.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    on: bool,
    conditions: Vec<String>,
    devices: Vec<Device>,
    #[serde(default)]
    inside: Vec<String>,
    keys: Option<Keys>,
    nodes: Vec<Node>,
    balance: Option<Balance>,
    services: Vec<ServiceTraffic>,
    endpoints: Vec<EndpointTraffic>,
    checks: Vec<Check>,
    flows: Fill,
}

#[derive(Deserialize)]
struct Keys {
    signs: u8,
    verify: Vec<u8>,
}

#[derive(Deserialize)]
struct Device {
    device: String,
    ingress: String,
    egress: String,
}

#[derive(Deserialize)]
struct Node {
    name: String,
    id: u16,
    this: bool,
    up: bool,
    #[serde(default)]
    state: String,
    #[serde(default)]
    why: String,
}

#[derive(Deserialize)]
struct Balance {
    #[serde(default)]
    sites: Vec<Site>,
    services: Vec<Service>,
}

#[derive(Deserialize)]
struct Site {
    site: u8,
    gateways: usize,
    reachable: bool,
    #[serde(default)]
    lost: bool,
    usable: bool,
    mtu: Option<u16>,
}

#[derive(Deserialize)]
struct Service {
    name: String,
    key: Key,
    delivery: String,
    draining: bool,
    starved: bool,
    delegated: usize,
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Key {
    vip: IpAddr,
    port: u16,
    protocol: String,
}

#[derive(Deserialize)]
struct Endpoint {
    name: String,
    address: IpAddr,
    port: u16,
    node: Option<String>,
    weight: u16,
    state: String,
    serving: bool,
    delegated: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceTraffic {
    service: String,
    packets: u64,
    new_flows: u64,
}

#[derive(Deserialize)]
struct EndpointTraffic {
    service: String,
    endpoint: String,
    packets: u64,
}

#[derive(Deserialize)]
struct Check {
    service: String,
    endpoint: String,
    detail: String,
}

#[derive(Deserialize)]
struct Fill {
    entries: u64,
    capacity: u64,
}

fn read<'a, T: Deserialize<'a>>(page: &'a str) -> Result<T, ClientError> {
    serde_json::from_str(page).map_err(|e| ClientError::Answer(e.to_string()))
}

/// A table as text, without blanks at the ends of its lines.
fn rows(header: &[&str], cells: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.to_vec());
    for row in cells {
        table.add_row(row);
    }
    table.lines().fold(String::new(), |text, line| text + line.trim() + "\n")
}

/// `bascule services`.
pub(super) fn services(page: &str) -> Result<String, ClientError> {
    let page: Page = read(page)?;
    let mut text = String::new();
    for condition in &page.conditions {
        text.push_str(&format!("! {condition}\n"));
    }
    if !page.on {
        text.push_str("forwarding is off on this node\n");
        return Ok(text);
    }
    let devices: Vec<String> =
        page.devices.iter().map(|d| format!("{} ({} in, {} out)", d.device, d.ingress, d.egress)).collect();
    let devices = if devices.is_empty() { "none".to_owned() } else { devices.join(", ") };
    let nodes: Vec<String> = page.nodes.iter().map(node).collect();
    let Fill { entries, capacity } = page.flows;
    for Node { name, why, .. } in page.nodes.iter().filter(|node| !node.this && !node.why.is_empty()) {
        text.push_str(&format!("! {name}: {why}\n"));
    }
    text.push_str(&format!("devices: {devices}\nnodes: {}\nflows here: {entries} of {capacity}\n", nodes.join(", ")));
    if let Some(Keys { signs, verify }) = &page.keys {
        let verify: Vec<String> = verify.iter().map(|label| format!("{label}:")).collect();
        text.push_str(&format!("keys: {signs}: signs, {} verify\n", verify.join(" and ")));
    }
    text.push_str(&format!("inside: {}\n\n", inside(&page.inside)));

    let sites: Vec<&Site> = page.balance.iter().flat_map(|b| &b.sites).collect();
    if !sites.is_empty() {
        // In the order in which they are asked.
        text.push_str(&rows(&["SITE", "GATEWAYS", "PACKETS", "MTU"], sites.into_iter().map(site_row)));
        text.push('\n');
    }
    let all = || page.balance.iter().flat_map(|b| &b.services);
    let header = ["SERVICE", "ADDRESS", "DELIVERY", "STATE", "PACKETS IN", "NEW FLOWS"];
    text.push_str(&rows(&header, all().map(|service| service_row(&page, service))));
    text.push('\n');
    let header = ["SERVICE", "ENDPOINT", "ADDRESS", "NODE", "WEIGHT", "STATE", "PACKETS", "LAST CHECK"];
    let endpoints = all().flat_map(|service| service.endpoints.iter().map(move |endpoint| (service, endpoint)));
    text.push_str(&rows(&header, endpoints.map(|(service, endpoint)| endpoint_row(&page, service, endpoint))));
    Ok(text)
}

/// Networks of a line; the rest is in `/services`.
const INSIDE_SHOWN: usize = 8;

fn inside(networks: &[String]) -> String {
    let shown = networks.iter().take(INSIDE_SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match networks.len().saturating_sub(INSIDE_SHOWN) {
        0 if networks.is_empty() => "none".to_owned(),
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn site_row(site: &Site) -> Vec<String> {
    let packets = match (site.usable, site.reachable, site.lost) {
        (true, ..) => "sent",
        (false, false, true) => "not sent: the path is down; its flows are held",
        (false, false, false) => "not sent: the path is down",
        (false, true, _) => "not sent: no gateway",
    };
    let mtu = site.mtu.map_or_else(|| "of the route".to_owned(), |mtu| mtu.to_string());
    vec![site.site.to_string(), site.gateways.to_string(), packets.to_owned(), mtu]
}

fn service_row(page: &Page, service: &Service) -> Vec<String> {
    let ready = service.endpoints.iter().filter(|e| e.serving).count();
    let mut state = format!("{ready}/{} ready", service.endpoints.len());
    for (is, word) in [(service.draining, "draining"), (service.starved, "no room for its table")] {
        if is {
            state = format!("{state}, {word}");
        }
    }
    if service.delegated > 0 {
        state = format!("{state}, {} delegated", service.delegated);
    }
    let traffic = page.services.iter().find(|t| t.service == service.name);
    vec![
        service.name.clone(),
        format!("{}/{}", SocketAddr::new(service.key.vip, service.key.port), service.key.protocol),
        service.delivery.clone(),
        state,
        traffic.map_or(0, |t| t.packets).to_string(),
        traffic.map_or(0, |t| t.new_flows).to_string(),
    ]
}

fn endpoint_row(page: &Page, service: &Service, endpoint: &Endpoint) -> Vec<String> {
    let is = |of: &str, name: &str| of == service.name && name == endpoint.name;
    let traffic = page.endpoints.iter().find(|t| is(&t.service, &t.endpoint));
    let check = page.checks.iter().find(|c| is(&c.service, &c.endpoint));
    vec![
        service.name.clone(),
        endpoint.name.clone(),
        SocketAddr::new(endpoint.address, endpoint.port).to_string(),
        endpoint.node.clone().unwrap_or_else(|| "-".to_owned()),
        endpoint.weight.to_string(),
        if endpoint.delegated { format!("{}, delegated", endpoint.state) } else { endpoint.state.clone() },
        traffic.map_or_else(|| "-".to_owned(), |t| t.packets.to_string()),
        check.map_or_else(|| "-".to_owned(), |c| c.detail.clone()),
    ]
}

fn node(node: &Node) -> String {
    let said = match (node.this, node.up, node.state.as_str()) {
        (true, _, _) => " (this)",
        (false, _, "vouched") => " (down, forwards)",
        (false, _, "dead") => " (dead)",
        (false, true, _) => "",
        (false, false, _) => " (down)",
    };
    format!("{} = {}{said}", node.id, node.name)
}

#[derive(Deserialize)]
struct Flows {
    flows: Vec<Flow>,
    more: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Flow {
    protocol: String,
    client: IpAddr,
    client_port: u16,
    vip: IpAddr,
    vip_port: u16,
    endpoint: IpAddr,
    endpoint_port: u16,
    ingress: u16,
    idle_seconds: u32,
    state: String,
}

/// `bascule flows`.
pub(super) fn flows(page: &str) -> Result<String, ClientError> {
    let page: Flows = read(page)?;
    if page.flows.is_empty() {
        return Ok("no such flow on this node\n".to_owned());
    }
    let header = ["PROTOCOL", "CLIENT", "VIP", "ENDPOINT", "VIA NODE", "IDLE", "STATE"];
    let cells = page.flows.iter().map(|flow| {
        vec![
            flow.protocol.clone(),
            SocketAddr::new(flow.client, flow.client_port).to_string(),
            SocketAddr::new(flow.vip, flow.vip_port).to_string(),
            SocketAddr::new(flow.endpoint, flow.endpoint_port).to_string(),
            flow.ingress.to_string(),
            format!("{} s", flow.idle_seconds),
            flow.state.clone(),
        ]
    });
    let more = if page.more { "there are more: --limit\n" } else { "" };
    Ok(rows(&header, cells) + more)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trace {
    service: Option<u32>,
    hash: String,
    row: Option<(u32, u16)>,
    nodes: Vec<Candidate>,
    endpoints: Vec<Candidate>,
    new_flow: String,
    established: String,
}

#[derive(Deserialize)]
struct Candidate {
    id: u16,
    address: Option<String>,
    role: String,
    trouble: String,
}

/// `bascule trace`.
pub(super) fn trace(page: &str) -> Result<String, ClientError> {
    let page: Trace = read(page)?;
    let mut text = String::new();
    if let Some(slot) = page.service {
        let row = page.row.map_or_else(String::new, |(row, rows)| format!(", row {row} of {rows}"));
        let hash = if page.hash.is_empty() { String::new() } else { format!(", flow hash {}", page.hash) };
        text.push_str(&format!("service slot {slot}{hash}{row}\n"));
    }
    for (what, candidates) in [("node", &page.nodes), ("endpoint", &page.endpoints)] {
        for candidate in candidates {
            let Candidate { id, address, role, trouble } = candidate;
            let trouble = if trouble.is_empty() { String::new() } else { format!(": {trouble}") };
            text.push_str(&format!("  {role:9} {what} {id} {}{trouble}\n", address.as_deref().unwrap_or("-")));
        }
    }
    text.push_str(&format!("first packet: {}\nany other:    {}\n", page.new_flow, page.established));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_asks_for_what_was_given() {
        assert_eq!(Filter { limit: 5, ..Filter::default() }.path(), "/flows?limit=5");
        let filter = Filter {
            client: Some("192.0.2.7:4000".parse().unwrap()),
            vip: Some("2001:db8::1".parse().unwrap()),
            endpoint: Some("10.0.0.1".parse().unwrap()),
            protocol: Some("udp".to_owned()),
            limit: 1,
        };
        assert_eq!(
            filter.path(),
            "/flows?limit=1&client=192.0.2.7&clientPort=4000&vip=2001:db8::1&endpoint=10.0.0.1&protocol=udp"
        );
        assert!("eth0".parse::<Place>().is_err());
    }

    #[test]
    fn a_trace_names_row_candidates_and_outcome() {
        let page = r#"{"service":3,"hash":"00ff","row":[7,251],"nodes":[{"id":2,"address":"10.0.0.2","role":"home","trouble":""},
            {"id":1,"address":"10.0.0.1","role":"previous","trouble":"dead: skipped"}],"endpoints":[],"newFlow":"encapsulated to node 2",
            "established":"the same"}"#;
        let text = trace(page).unwrap();
        for part in [
            "service slot 3, flow hash 00ff, row 7 of 251",
            "home      node 2 10.0.0.2\n",
            "dead: skipped",
            "first packet: encapsulated to node 2",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(trace("{}").is_err());
    }

    #[test]
    fn services_off_and_on() {
        let off = r#"{"on":false,"conditions":["forwarding cannot be started: no bpffs"],"devices":[],"nodes":[],"balance":null,
            "services":[],"endpoints":[],"checks":[],"flows":{"entries":0,"capacity":0}}"#;
        assert_eq!(
            services(off).unwrap(),
            "! forwarding cannot be started: no bpffs\nforwarding is off on this node\n"
        );
        let on = r#"{"on":true,"conditions":[],"devices":[{"device":"eth0","ingress":"xdp","egress":"tcx"}],
            "nodes":[{"name":"a","id":1,"this":true,"up":true},{"name":"b","id":2,"this":false,"up":false},
            {"name":"c","id":3,"this":false,"up":false,"state":"vouched","why":"its endpoints answer"},
            {"name":"d","id":4,"this":false,"up":false,"state":"dead","why":"no endpoint answered"}],
            "balance":{"sites":[{"site":3,"gateways":2,"reachable":true,"usable":true,"mtu":null},
            {"site":2,"gateways":1,"reachable":false,"usable":false,"mtu":1380},
            {"site":4,"gateways":1,"reachable":false,"lost":true,"usable":false,"mtu":1380}],"services":[{"name":"web","key":{"vip":"10.9.0.100","port":443,"protocol":"tcp"},"delivery":"direct",
            "draining":false,"starved":false,"delegated":1,"endpoints":[{"name":"e1","address":"10.0.0.1","port":8443,"node":"a","weight":1,
            "state":"ready","serving":true,"delegated":true}]}]},"services":[{"service":"web","packets":12,"newFlows":3}],
            "endpoints":[{"service":"web","endpoint":"e1","packets":11}],
            "checks":[{"service":"web","endpoint":"e1","detail":"connected"}],"flows":{"entries":2,"capacity":524288},
            "keys":{"signs":1,"verify":[0,1]},"inside":["10.0.0.0/8","fc00::/7"]}"#;
        let text = services(on).unwrap();
        for part in [
            "eth0 (xdp in, tcx out)",
            "1 = a (this), 2 = b (down), 3 = c (down, forwards), 4 = d (dead)\n",
            "! c: its endpoints answer\n! d: no endpoint answered\n",
            "2 of 524288",
            "3     2         sent                                            of the route\n",
            "2     1         not sent: the path is down                      1380\n",
            "4     1         not sent: the path is down; its flows are held  1380\n",
            "10.9.0.100:443/tcp",
            "1/1 ready, 1 delegated",
            "ready, delegated",
            "keys: 1: signs, 0: and 1: verify\n",
            "inside: 10.0.0.0/8, fc00::/7\n",
            "connected",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let many: Vec<String> = (0..INSIDE_SHOWN + 3).map(|n| format!("10.{n}.0.0/16")).collect();
        assert!(inside(&many).ends_with("10.7.0.0/16 and 3 more"), "{}", inside(&many));
        assert_eq!(inside(&[]), "none");
    }
}
