//! `bascule status`: `/state` as a table for people.

use std::fmt::Write;

use comfy_table::{Table, presets};
use serde::Deserialize;

use super::client::ClientError;
use super::cluster::{self, Cluster, Standing};

/// What the table shows of `/state`; fields that it does not show are not asked for, so that versions may differ.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    version: String,
    node: String,
    ready: bool,
    reasons: Vec<String>,
    fence_policy: String,
    fence_ready: bool,
    fence_error: Option<String>,
    drained: bool,
    last_turn_age_seconds: f64,
    groups: Vec<Group>,
    anycast: Vec<Anycast>,
    gates: Vec<Gate>,
    bgp: Option<Bgp>,
    cluster: Option<Cluster>,
    #[serde(default)]
    neighbors: Option<Neighbours>,
}

#[derive(Deserialize)]
struct Neighbours {
    resolved: usize,
    unresolved: usize,
    missing: usize,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Bgp {
    neighbors: Vec<Neighbor>,
}

#[derive(Deserialize)]
struct Neighbor {
    state: String,
    queue_depth: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Anycast {
    name: String,
    addresses: Vec<String>,
    healthy: bool,
    installed: bool,
    route: String,
    since_seconds: f64,
    condition: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    name: String,
    addresses: Vec<String>,
    interface: Option<String>,
    vrid: u8,
    #[serde(default)]
    lease: Option<Lease>,
    role: String,
    term: u64,
    owner: Option<String>,
    owner_priority: Option<u8>,
    since_seconds: f64,
    fence_margin_seconds: Option<f64>,
    priority: u8,
    healthy: bool,
    draining: bool,
    condition: Option<String>,
    announce: String,
    route: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lease {
    store: String,
    name: String,
    holder: Option<String>,
    standing: String,
    store_condition: String,
    detail: Option<String>,
    seconds_left: Option<f64>,
    transitions: u64,
    takeover_bound_seconds: f64,
}

#[derive(Deserialize)]
struct Gate {
    name: String,
    up: bool,
    detail: String,
}

/// A loop that has not turned for this long is worth a line: it turns at least every 100 ms.
const LATE: f64 = 0.5;

/// The text of `bascule status`.
pub(super) fn table(state: &str) -> Result<String, ClientError> {
    let state: State = serde_json::from_str(state).map_err(|e| ClientError::Answer(e.to_string()))?;
    let mut text = String::new();
    head(&state, &mut text).expect("writing to memory does not fail");
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(vec![
        "VIP",
        "GROUP",
        "LINK",
        "VRID",
        "ROLE",
        "OWNER",
        "TERM",
        "SINCE",
        "FENCE",
        "PRIO",
        "HEALTH",
        "CONDITION",
    ]);
    let of_cluster = |group: &&Group| state.cluster.as_ref().is_some_and(|cluster| cluster.has(&group.name));
    for group in state.groups.iter().filter(|group| !of_cluster(group)) {
        table.add_row(row(group));
    }
    for line in table.lines() {
        text.push_str(line.trim());
        text.push('\n');
    }
    leases(&state, &mut text).expect("writing to memory does not fail");
    if let Some(of) = &state.cluster {
        let standing = |name: &str| {
            let group = state.groups.iter().find(|group| group.name == name)?;
            Some(Standing { role: &group.role, since: ago(group.since_seconds) })
        };
        cluster::shown(of, standing, &mut text).expect("writing to memory does not fail");
    }
    routes(&state, &mut text).expect("writing to memory does not fail");
    neighbours(&state, &mut text).expect("writing to memory does not fail");
    gates(&state, &mut text).expect("writing to memory does not fail");
    Ok(text)
}

fn head(state: &State, text: &mut String) -> std::fmt::Result {
    let ready = if state.ready { "ready" } else { "NOT READY" };
    let fence = match (state.fence_policy.as_str(), state.fence_ready) {
        ("off", _) => "off".to_owned(),
        (policy, true) => format!("{policy}, armed"),
        (policy, false) => {
            format!("{policy}, NOT ARMED: {}", state.fence_error.as_deref().unwrap_or("no reason known"))
        }
    };
    let drained = if state.drained { "   drained" } else { "" };
    writeln!(text, "node {}   {ready}{drained}   fence {fence}   bascule {}", state.node, state.version)?;
    for reason in &state.reasons {
        writeln!(text, "not ready: {reason}")?;
    }
    if state.last_turn_age_seconds > LATE {
        writeln!(text, "the event loop last turned {:.1} s ago", state.last_turn_age_seconds)?;
    }
    writeln!(text)
}

fn row(g: &Group) -> Vec<String> {
    let dash = || "-".to_owned();
    let active = g.role == "active";
    let owner = match (&g.owner, active) {
        (_, true) => "this node".to_owned(),
        (Some(owner), false) => match g.owner_priority {
            Some(priority) => format!("{owner} ({priority})"),
            None => owner.clone(),
        },
        (None, false) => g.lease.as_ref().and_then(|lease| lease.holder.clone()).unwrap_or_else(dash),
    };
    let fence = match (g.fence_margin_seconds, active) {
        (Some(margin), true) => format!("{margin:.3} s"),
        (None, true) => "none".to_owned(),
        (_, false) => dash(),
    };
    let condition = g.condition.clone().or_else(|| g.draining.then(|| "draining".to_owned())).unwrap_or_else(dash);
    vec![
        g.addresses.join("\n"),
        g.name.clone(),
        g.interface.clone().unwrap_or_else(dash),
        if g.lease.is_some() { dash() } else { g.vrid.to_string() },
        g.role.clone(),
        owner,
        g.term.to_string(),
        ago(g.since_seconds),
        fence,
        if g.lease.is_some() { dash() } else { g.priority.to_string() },
        if g.healthy { "ok" } else { "sick" }.to_owned(),
        condition,
    ]
}

/// VIPs that a lease elects.
fn leases(state: &State, text: &mut String) -> std::fmt::Result {
    let leases: Vec<(&Group, &Lease)> = state.groups.iter().filter_map(|g| Some((g, g.lease.as_ref()?))).collect();
    if leases.is_empty() {
        return Ok(());
    }
    writeln!(text)?;
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(vec![
        "GROUP",
        "ELECTOR",
        "LEASE",
        "HOLDER",
        "STORE",
        "STANDING",
        "LEFT",
        "CLAIMS",
        "TAKE-OVER WITHIN",
    ]);
    for (group, lease) in &leases {
        table.add_row(vec![
            group.name.clone(),
            lease.store.clone(),
            lease.name.clone(),
            lease.holder.clone().unwrap_or_else(|| "-".to_owned()),
            lease.store_condition.clone(),
            lease.standing.clone(),
            lease.seconds_left.map_or_else(|| "-".to_owned(), |left| format!("{left:.1} s")),
            lease.transitions.to_string(),
            format!("{:.1} s", lease.takeover_bound_seconds),
        ]);
    }
    for line in table.lines() {
        writeln!(text, "{}", line.trim())?;
    }
    for (group, lease) in leases {
        if let Some(detail) = &lease.detail {
            writeln!(text, "lease of {}: {detail}", group.name)?;
        }
    }
    Ok(())
}

/// VIPs that are announced over BGP.
fn routes(state: &State, text: &mut String) -> std::fmt::Result {
    let owned = state.groups.iter().filter(|g| g.announce != "l2");
    if state.anycast.is_empty() && owned.clone().next().is_none() {
        return Ok(());
    }
    let routers = match &state.bgp {
        None => "the BGP room does not answer".to_owned(),
        Some(bgp) => {
            let up: Vec<&Neighbor> = bgp.neighbors.iter().filter(|n| n.state == "established").collect();
            let waiting: usize = up.iter().map(|n| n.queue_depth).sum();
            let behind = if waiting > 0 { format!(", {waiting} prefixes on their way") } else { String::new() };
            format!("{} of {} neighbors up{behind}", up.len(), bgp.neighbors.len())
        }
    };
    writeln!(text, "\nroutes   {routers}")?;
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(vec!["VIP", "NAME", "SCOPE", "WANTED", "SINCE", "HEALTH", "CONDITION"]);
    let health = |healthy| if healthy { "ok" } else { "sick" }.to_owned();
    for g in owned {
        let vips: Vec<&str> = g.addresses.iter().map(String::as_str).filter(|a| !a.starts_with("fe80:")).collect();
        let (route, healthy) = (g.route.clone(), health(g.healthy));
        let cells = [vips.join("\n"), g.name.clone(), "owner".to_owned(), route, ago(g.since_seconds), healthy];
        table.add_row(cells.into_iter().chain(["-".to_owned()]));
    }
    for a in &state.anycast {
        let missing = (!a.installed).then(|| "addresses are not in place".to_owned());
        let condition = a.condition.clone().or(missing).unwrap_or_else(|| "-".to_owned());
        let (route, healthy) = (a.route.clone(), health(a.healthy));
        let cells = [a.addresses.join("\n"), a.name.clone(), "all".to_owned(), route, ago(a.since_seconds), healthy];
        table.add_row(cells.into_iter().chain([condition]));
    }
    for line in table.lines() {
        writeln!(text, "{}", line.trim())?;
    }
    Ok(())
}

/// Neighbours whose entries are kept: a line where there are any.
fn neighbours(state: &State, text: &mut String) -> std::fmt::Result {
    let Some(Neighbours { resolved, unresolved, missing, error }) = &state.neighbors else { return Ok(()) };
    let all = resolved + unresolved + missing;
    if all == 0 {
        return Ok(());
    }
    write!(text, "\nneighbours   {} of {all} kept", resolved + unresolved)?;
    if *unresolved > 0 {
        write!(text, ", {unresolved} without an answer")?;
    }
    if let Some(error) = error {
        write!(text, ": {error}")?;
    }
    writeln!(text)
}

fn gates(state: &State, text: &mut String) -> std::fmt::Result {
    if !state.gates.is_empty() {
        writeln!(text)?;
    }
    for gate in &state.gates {
        writeln!(text, "gate {}   {}   {}", gate.name, if gate.up { "open" } else { "CLOSED" }, gate.detail)?;
    }
    Ok(())
}

/// The two largest units: 3d4h, 5h12m, 12m03s, 4.2s.
pub(super) fn ago(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1}s");
    }
    let whole = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    match (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60) {
        (0, 0, m, s) => format!("{m}m{s:02}s"),
        (0, h, m, _) => format!("{h}h{m:02}m"),
        (d, h, _, _) => format!("{d}d{h}h"),
    }
}
