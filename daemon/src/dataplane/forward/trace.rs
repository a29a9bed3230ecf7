//! Where a packet would go: the choice of the programs, made again from the same maps by the same formulas of the ABI.
//!
//! The programs themselves are not run for it (`BPF_PROG_TEST_RUN`): they would open a flow, count, and spend a bucket. What only they
//! can know, whether a socket of an endpoint knows the flow, is left open and said so.

use aya::maps::{HashMap, MapData, MapError};
use bascule_ebpf_common::forward::{
    DELIVER_DELEGATE, DELIVER_NONE, ENDPOINT_DRAINING, ENDPOINT_READY, Endpoint, Flow, FlowKey, NO_NODE, NODE_DEAD,
    NODE_RESOLVED, Row, SERVICE_AFFINITY, SERVICE_ASK, SERVICE_EXCEPTIONS, SERVICE_SOURCES, SITE_REACHABLE, Service,
    ServiceKey, Table, Tuple, fast_range, is_site, site_of,
};

use super::error::ForwardError;
use super::peers::Peers;
use super::recover::address_of;
use super::shapes::FLOWS;
use super::tables::Tables;
use crate::dataplane::registry::vip_key;
use crate::handle::forward::{Asked, Candidate, Trace};

/// The maps that the choice reads.
pub(super) struct Maps<'a> {
    pub(super) tables: &'a Tables,
    pub(super) peers: &'a Peers,
    pub(super) flows: &'a HashMap<MapData, FlowKey, Flow>,
}

/// The lower half of a word.
fn half(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or_default()
}

/// Minutes of the clock modulo 2^16, as stamps count them.
fn minute(now_s: u32) -> u16 {
    u16::try_from((now_s / 60) & u32::from(u16::MAX)).unwrap_or_default()
}

/// The ids of a row that count: the home, and the former homes until the drain time has passed.
fn live(row: Row, drain_minutes: u16, now_minutes: u16) -> Vec<(u16, &'static str)> {
    let mut ids = vec![(row.home, "home")];
    if now_minutes.wrapping_sub(row.stamp) < drain_minutes {
        ids.extend([(row.previous, "previous"), (row.older, "older")]);
    }
    let mut seen = Vec::new();
    ids.retain(|(id, _)| {
        let first = *id != NO_NODE && !seen.contains(id);
        seen.push(*id);
        first
    });
    ids
}

pub(super) fn trace(maps: &Maps<'_>, asked: &Asked, now_s: u32) -> Result<Trace, ForwardError> {
    let (vip, client) = (vip_key(asked.vip), vip_key(asked.client));
    let key = ServiceKey::new(vip, asked.port.to_be(), asked.protocol.number());
    let mut trace = Trace::default();
    let both = |trace: &mut Trace, said: &str| {
        trace.new_flow = said.to_owned();
        trace.established = said.to_owned();
    };
    let config = maps.peers.config()?;
    if config.node == NO_NODE {
        both(&mut trace, "passes: forwarding is off on this node");
        return Ok(trace);
    }
    let Some(slot) = maps.tables.key(&key)? else {
        both(&mut trace, "passes: no service of this node has this address, port and protocol");
        return Ok(trace);
    };
    trace.service = Some(slot);
    let service = maps.tables.service(slot)?;
    if service.delivery == DELIVER_NONE {
        both(&mut trace, "passes: the service is announced only");
        return Ok(trace);
    }
    if service.flags & SERVICE_SOURCES != 0 && !maps.tables.source_allowed(slot, client)? {
        both(&mut trace, "dropped (source_range): the client is in none of the service's ranges");
        return Ok(trace);
    }
    let port = asked.client_port.to_be();
    let affinity = service.flags & SERVICE_AFFINITY != 0;
    let tuple =
        Tuple { client, vip, client_port: if affinity { 0 } else { port }, vip_port: key.port, protocol: key.protocol };
    let hash = tuple.hash(config.flow_key);
    trace.hash = format!("{hash:016x}");
    let now_minutes = minute(now_s);
    let flow_key = FlowKey {
        client,
        endpoint: vip,
        client_port: port,
        endpoint_port: key.port,
        protocol: key.protocol,
        pad: [0; 3],
    };
    let exception = if service.flags & SERVICE_EXCEPTIONS != 0 { maps.peers.exception(&flow_key)? } else { None };
    let table = Table::from_word(service.nodes);
    let pin =
        exception.map(|node| node_candidate(maps, u16::try_from(node).unwrap_or(NO_NODE), "pinned")).transpose()?;
    if table.rows > 0 {
        let index = fast_range(half(hash >> 32), table.rows.into());
        trace.row = Some((index, table.rows));
        let row = maps.tables.row(table.base + index)?;
        for (id, role) in live(row, service.drain_minutes, now_minutes) {
            trace.nodes.push(node_candidate(maps, id, role)?);
        }
    }
    let known = local(maps, &service, hash, now_minutes, &flow_key, &mut trace)?;
    say(&mut trace, &service, config.node, known);
    if let Some(pin) = pin {
        say_pin(&mut trace, pin, config.node);
    }
    Ok(trace)
}

fn node_candidate(maps: &Maps<'_>, id: u16, role: &'static str) -> Result<Candidate, ForwardError> {
    if is_site(id) {
        let site = site_of(id);
        let entry = maps.peers.site(site.into())?;
        let trouble = match (entry.count, entry.flags & SITE_REACHABLE) {
            (0, _) => "dead: no gateway of it lives",
            (_, 0) => "dead: no path to it carries packets",
            _ => "",
        };
        return Ok(Candidate { id, address: Some(format!("site {site}")), role, trouble });
    }
    let node = maps.peers.node(id.into())?;
    let this = maps.peers.config()?.node == id;
    let trouble = match node.flags {
        flags if flags & NODE_DEAD != 0 => "dead: skipped",
        flags if flags & NODE_RESOLVED == 0 && !this => "no way to it: dropped (unresolved)",
        _ => "",
    };
    Ok(Candidate { id, address: Some(address_of(node.address).to_string()), role, trouble })
}

/// Fills in the endpoints of this node; the one whose flow is in the table.
fn local(
    maps: &Maps<'_>,
    service: &Service,
    hash: u64,
    now_minutes: u16,
    flow_key: &FlowKey,
    trace: &mut Trace,
) -> Result<Option<String>, ForwardError> {
    let flow_of =
        |endpoint: &Endpoint| FlowKey { endpoint: endpoint.address, endpoint_port: endpoint.port, ..*flow_key };
    let known = |key: &FlowKey| match maps.flows.get(key, 0) {
        Ok(flow) => Ok(flow.vip == service.vip && flow.vip_port == service.port),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(e) => Err(ForwardError::map(FLOWS, "reading")(e)),
    };
    if service.delivery == DELIVER_DELEGATE {
        return Ok(known(flow_key)?.then(|| "the stack of this node".to_owned()));
    }
    let table = Table::from_word(service.endpoints);
    if table.rows == 0 {
        return Ok(None);
    }
    let row = maps.tables.row(table.base + fast_range(half(hash), table.rows.into()))?;
    let mut hit = None;
    for (id, role) in live(row, service.drain_minutes, now_minutes) {
        let endpoint = maps.peers.endpoint(id.into())?;
        let ready = endpoint.flags & ENDPOINT_READY != 0 && endpoint.flags & ENDPOINT_DRAINING == 0;
        let address = format!("{} port {}", address_of(endpoint.address), u16::from_be(endpoint.port));
        if hit.is_none() && known(&flow_of(&endpoint))? {
            hit = Some(address.clone());
        }
        let trouble = if ready { "" } else { "takes no new flows" };
        trace.endpoints.push(Candidate { id, address: Some(address), role, trouble });
    }
    Ok(hit)
}

fn say(trace: &mut Trace, service: &Service, this: u16, known: Option<String>) {
    let alive: Vec<&Candidate> = trace.nodes.iter().filter(|node| !node.trouble.starts_with("dead")).collect();
    // Flows are asked for at nodes here first, then in the sites that the row names, then in the nearest ones.
    let (sites, nodes): (Vec<&Candidate>, Vec<&Candidate>) = alive.iter().copied().partition(|node| is_site(node.id));
    let away = alive.first().copied().filter(|first| is_site(first.id) && (first.role == "home" || nodes.is_empty()));
    let alive: Vec<&Candidate> = nodes.into_iter().chain(sites).collect();
    let name = |node: &Candidate| match node.address.as_deref() {
        Some(site) if is_site(node.id) => site.to_owned(),
        address => format!("node {} ({})", node.id, address.unwrap_or("?")),
    };
    let here = trace.nodes.is_empty() || alive.first().is_some_and(|node| node.id == this);
    let delegate = service.delivery == DELIVER_DELEGATE;
    let ready = trace.endpoints.iter().find(|endpoint| endpoint.trouble.is_empty());
    let opened = match (&known, ready) {
        _ if delegate => "delivered to the stack of this node".to_owned(),
        (Some(endpoint), _) => format!("delivered to {endpoint}: the tuple is in use there"),
        (None, Some(endpoint)) => format!("opens a flow to {}", endpoint.address.as_deref().unwrap_or("?")),
        (None, None) => "dropped (no_endpoint): no endpoint here takes new flows".to_owned(),
    };
    let (new_flow, established) = match alive.first() {
        None if !here => {
            let none = "dropped (no_endpoint): no node of the row is alive".to_owned();
            (none.clone(), none)
        }
        Some(first) if !here => {
            let sent = |node: &Candidate| match node.trouble {
                "" => format!("encapsulated to {}", name(node)),
                trouble => format!("{}: {trouble}", name(node)),
            };
            let further: Vec<String> = alive.iter().skip(1).map(|node| name(node)).collect();
            let chain = if further.is_empty() { String::new() } else { format!(", then {}", further.join(", ")) };
            (sent(first), format!("{}{chain}", sent(first)))
        }
        _ => {
            let asked: Vec<String> = alive.iter().skip(1).map(|node| name(node)).collect();
            let last = if asked.is_empty() { "the stack answers (orphan)".to_owned() } else { asked.join(", then ") };
            let established = match known {
                Some(endpoint) => format!("delivered to {endpoint} (flow_hit)"),
                None => format!("no flow here: delivered if a socket of an endpoint knows it, else {last}"),
            };
            (opened, established)
        }
    };
    let asks = service.flags & SERVICE_ASK != 0 && trace.nodes.iter().any(|node| node.role == "previous");
    let new_flow = match away {
        Some(site) => format!("sent to {}, which is the row's {}", name(site), site.role),
        None => new_flow,
    };
    trace.new_flow = if asks { format!("{new_flow}, after the previous home was asked") } else { new_flow };
    trace.established = established;
}

/// A pin comes before the row, for what opens no flow.
fn say_pin(trace: &mut Trace, pin: Candidate, this: u16) {
    let address = pin.address.as_deref().unwrap_or("?");
    match pin.trouble {
        "" if pin.id == this => {}
        "" => trace.established = format!("encapsulated to node {} ({address}): the flow is pinned to it", pin.id),
        trouble => {
            trace.established = format!("{}; its pin to node {} does not count: {trouble}", trace.established, pin.id)
        }
    }
    trace.nodes.push(pin);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_for_what_belongs_to_a_flow() {
        let said = |pin: Candidate| {
            let mut trace = Trace { nodes: vec![candidate(1, "home", "")], ..Trace::default() };
            (trace.new_flow, trace.established) = ("new".to_owned(), "known".to_owned());
            say_pin(&mut trace, pin, 1);
            assert_eq!((trace.nodes.len(), trace.new_flow.as_str()), (2, "new"));
            trace.established
        };
        assert_eq!(said(candidate(41, "pinned", "")), "encapsulated to node 41 (10.0.0.41): the flow is pinned to it");
        assert_eq!(
            said(candidate(41, "pinned", "dead: skipped")),
            "known; its pin to node 41 does not count: dead: skipped"
        );
        assert_eq!(said(candidate(1, "pinned", "")), "known");
    }

    #[test]
    fn former_homes_count_until_the_drain_time_has_passed() {
        let row = Row { home: 1, previous: 2, older: 3, stamp: 65_530 };
        let ids = |now| live(row, 10, now).iter().map(|(id, _)| *id).collect::<Vec<_>>();
        assert_eq!(ids(65_530), [1, 2, 3]);
        assert_eq!(ids(3), [1, 2, 3], "nine minutes later, past the wrap");
        assert_eq!(ids(4), [1], "ten minutes later");
    }

    #[test]
    fn nobody_and_doubles_are_left_out() {
        let ids = |home, previous, older| {
            let row = Row { home, previous, older, stamp: 0 };
            live(row, 60, 1).iter().map(|(id, _)| *id).collect::<Vec<_>>()
        };
        assert_eq!(ids(1, 0, 3), [1, 3]);
        assert_eq!(ids(1, 2, 1), [1, 2]);
        assert_eq!(ids(0, 2, 2), [2]);
        assert_eq!(ids(0, 0, 0), [0u16; 0]);
    }

    fn candidate(id: u16, role: &'static str, trouble: &'static str) -> Candidate {
        Candidate { id, address: Some(format!("10.0.0.{id}")), role, trouble }
    }

    #[test]
    fn a_row_of_another_site_sends_new_flows_there_and_asks_for_the_others_here() {
        let site = |role, trouble| Candidate {
            id: bascule_ebpf_common::forward::SITE_BASE | 4,
            address: Some("site 4".to_owned()),
            role,
            trouble,
        };
        let of = |nodes: Vec<Candidate>, this| {
            let mut trace = Trace { nodes, ..Trace::default() };
            say(&mut trace, &Service::default(), this, None);
            (trace.new_flow, trace.established)
        };
        let (new, old) = of(vec![site("home", ""), candidate(2, "previous", "")], 3);
        assert_eq!(new, "sent to site 4, which is the row's home");
        assert_eq!(old, "encapsulated to node 2 (10.0.0.2), then site 4");
        let (new, old) = of(vec![candidate(3, "home", ""), site("previous", "")], 3);
        assert!(new.starts_with("dropped (no_endpoint): no endpoint here"), "{new}");
        assert!(old.ends_with("else site 4"), "{old}");
        let (new, _) = of(vec![site("home", "dead: no gateway of it lives"), candidate(2, "previous", "")], 3);
        assert_eq!(new, "encapsulated to node 2 (10.0.0.2)");
        let (new, old) = of(vec![site("home", "")], 3);
        assert_eq!(new, "sent to site 4, which is the row's home");
        assert_eq!(old, "encapsulated to site 4");
    }

    #[test]
    fn the_words_name_what_is_first_alive() {
        let mut trace = Trace {
            nodes: vec![candidate(1, "home", "dead: skipped"), candidate(2, "previous", "")],
            ..Trace::default()
        };
        say(&mut trace, &Service::default(), 3, None);
        assert_eq!(trace.new_flow, "encapsulated to node 2 (10.0.0.2)");
        trace.endpoints = vec![candidate(7, "home", "takes no new flows"), candidate(8, "previous", "")];
        say(&mut trace, &Service::default(), 2, None);
        assert_eq!(trace.new_flow, "opens a flow to 10.0.0.8");
        assert!(trace.established.contains("if a socket"), "{}", trace.established);
        say(&mut trace, &Service::default(), 2, Some("10.0.0.7".to_owned()));
        assert_eq!(trace.established, "delivered to 10.0.0.7 (flow_hit)");
        trace.nodes.truncate(1);
        say(&mut trace, &Service::default(), 2, None);
        assert!(trace.new_flow.starts_with("dropped (no_endpoint)"), "{}", trace.new_flow);
    }
}
