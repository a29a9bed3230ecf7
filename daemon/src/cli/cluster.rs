//! The cluster's part of `bascule status`, and `bascule rebalance`.

use std::fmt::Write;

use comfy_table::{Table, presets};
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, ClientError};

/// What is shown of the cluster.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cluster {
    source: Option<String>,
    api: Option<String>,
    age_seconds: Option<f64>,
    services: usize,
    refused: std::collections::BTreeMap<String, u64>,
    may_own: bool,
    reasons: Vec<String>,
    allocator: Option<Allocator>,
    reports: Option<Reports>,
    untold: Option<String>,
    #[serde(default)]
    objects: Vec<Object>,
    shards: Vec<Shard>,
}

/// An object about announcements or sites.
#[derive(Deserialize)]
struct Object {
    kind: String,
    name: String,
    refused: Option<String>,
}

#[derive(Deserialize)]
struct Reports {
    trouble: Option<String>,
}

#[derive(Deserialize)]
struct Allocator {
    leads: bool,
    holder: Option<String>,
    lease: String,
    pending: Option<usize>,
    writes: u64,
    detail: Option<String>,
}

impl Allocator {
    /// Who gives addresses, and what this node had to do with it; why nobody is known.
    fn line(&self) -> String {
        let (pending, writes) = (self.pending.unwrap_or_default(), self.writes);
        match &self.holder {
            _ if self.leads => format!("this node   {pending} pending, {writes} writes"),
            Some(holder) => format!("{holder}   {writes} writes of this node"),
            None => format!("nobody is known: {} {}", self.lease, self.detail.as_deref().unwrap_or_default()),
        }
    }
}

#[derive(Deserialize)]
struct Shard {
    name: String,
    rank: Option<usize>,
    owner: Option<String>,
    vips: Vec<String>,
}

impl Cluster {
    /// Is the group one of the shards?
    pub(super) fn has(&self, group: &str) -> bool {
        self.shards.iter().any(|shard| shard.name == group)
    }
}

/// How a shard stands on this node.
pub(super) struct Standing<'a> {
    pub(super) role: &'a str,
    pub(super) since: String,
}

/// VIPs of a shard that fit a line.
const SHOWN: usize = 4;

/// The Services of the cluster in one line, why this node owns none, and a table of the shards.
pub(super) fn shown<'a>(
    cluster: &Cluster,
    standing: impl Fn(&str) -> Option<Standing<'a>>,
    text: &mut String,
) -> std::fmt::Result {
    let vips: usize = cluster.shards.iter().map(|shard| shard.vips.len()).sum();
    let source = match (&cluster.source, cluster.age_seconds) {
        (Some(source), Some(age)) => format!("intent from {source}, {} old", super::status::ago(age)),
        (Some(source), None) => format!("intent from {source}"),
        (None, _) => "no intent yet".to_owned(),
    };
    let refused: Vec<String> = cluster
        .refused
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let refused = if refused.is_empty() { String::new() } else { format!("   not served: {}", refused.join(", ")) };
    writeln!(text, "\ncluster   {} services, {vips} VIPs   {source}{refused}", cluster.services)?;
    if let Some(api) = &cluster.api {
        writeln!(text, "the API server tells nothing new: {api}")?;
    }
    if let Some(allocator) = &cluster.allocator {
        writeln!(text, "allocator {}", allocator.line().trim())?;
    }
    if let Some(trouble) = cluster.reports.as_ref().and_then(|reports| reports.trouble.as_ref()) {
        writeln!(text, "VipStatus is not written, which changes nothing else: {trouble}")?;
    }
    if let Some(untold) = &cluster.untold {
        writeln!(text, "objects about announcements and sites are not read, what is known of them stays: {untold}")?;
    }
    for Object { kind, name, refused } in &cluster.objects {
        if let Some(why) = refused {
            writeln!(text, "{kind} {name} is refused: {why}")?;
        }
    }
    if !cluster.may_own {
        for reason in &cluster.reasons {
            writeln!(text, "this node owns no VIPs of Services: {reason}")?;
        }
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(vec!["SHARD", "OWNER", "RANK", "ROLE", "SINCE", "VIPS"]);
    let dash = || "-".to_owned();
    for shard in &cluster.shards {
        let here = standing(&shard.name);
        let mut vips = shard.vips.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(" ");
        if shard.vips.len() > SHOWN {
            vips += &format!(" and {} more", shard.vips.len() - SHOWN);
        }
        table.add_row(vec![
            shard.name.clone(),
            shard.owner.clone().unwrap_or_else(dash),
            shard.rank.map_or_else(dash, |rank| rank.to_string()),
            here.as_ref().map_or_else(dash, |here| here.role.to_owned()),
            here.map_or_else(dash, |here| here.since),
            if vips.is_empty() { dash() } else { vips },
        ]);
    }
    for line in table.lines() {
        writeln!(text, "{}", line.trim())?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct Move {
    shard: u8,
    from: String,
    to: String,
}

/// Carries out the moves, one after the other; what cannot be moved is said, and the others are moved all the same.
pub(super) async fn rebalance(client: &Client, dry: bool) -> Result<String, ClientError> {
    let moves = client.get("/rebalance").await?;
    let moves: Vec<Move> = serde_json::from_str(&moves).map_err(|e| ClientError::Answer(e.to_string()))?;
    if moves.is_empty() {
        return Ok("every shard is at its best node\n".to_owned());
    }
    let mut text = String::new();
    for Move { shard, from, to } in moves {
        let name = format!("shard-{shard}");
        let done = if dry { Ok(String::new()) } else { client.post("/move", json!({ "vip": name, "to": to })).await };
        let outcome = match done {
            Ok(_) => String::new(),
            Err(ClientError::Refused(why)) => format!(": {why}"),
            Err(error) => return Err(error),
        };
        text += &format!("{name} from {from} to {to}{outcome}\n");
    }
    Ok(text)
}
