//! `bascule bfd`: `/bfd` as a table for people.

use std::fmt::Write;

use comfy_table::{Table, presets};
use serde::Deserialize;

use super::client::ClientError;
use super::status::ago;

/// What the table shows of `/bfd`; fields that it does not show are not asked for, so that versions may differ.
#[derive(Deserialize)]
struct Sessions {
    peers: Vec<Peer>,
    errors: Vec<String>,
    sent: u64,
    received: u64,
    discards: Vec<Discards>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Peer {
    name: String,
    remote: String,
    local: Option<String>,
    interface: Option<String>,
    min_ttl: Option<u8>,
    state: String,
    since_seconds: f64,
    diag: String,
    remote_state: String,
    remote_diag: String,
    transmit_interval_ms: Option<f64>,
    detection_time_ms: Option<f64>,
    polling: bool,
    failures: u64,
    condition: Option<String>,
}

#[derive(Deserialize)]
struct Discards {
    reason: String,
    count: u64,
}

/// The text of `bascule bfd`.
pub(super) fn table(sessions: &str) -> Result<String, ClientError> {
    let sessions: Sessions = serde_json::from_str(sessions).map_err(|e| ClientError::Answer(e.to_string()))?;
    let mut text = String::new();
    if sessions.peers.is_empty() {
        text.push_str("no BFD session is configured\n");
    } else {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(vec![
            "PEER",
            "ADDRESS",
            "LOCAL",
            "LINK",
            "STATE",
            "SINCE",
            "PEER SAYS",
            "TX",
            "DETECT",
            "FAILURES",
            "REASON",
        ]);
        for peer in &sessions.peers {
            table.add_row(row(peer));
        }
        for line in table.lines() {
            text.push_str(line.trim());
            text.push('\n');
        }
    }
    foot(&sessions, &mut text).expect("writing to memory does not fail");
    Ok(text)
}

fn row(p: &Peer) -> Vec<String> {
    let dash = || "-".to_owned();
    let link = match (&p.interface, p.min_ttl) {
        (Some(link), _) => link.clone(),
        (None, Some(ttl)) => format!("multihop, TTL {ttl}+"),
        (None, None) => dash(),
    };
    let time = |ms: Option<f64>| ms.map_or_else(dash, |ms| format!("{ms} ms"));
    vec![
        p.name.clone(),
        p.remote.clone(),
        p.local.clone().unwrap_or_else(dash),
        link,
        p.state.clone(),
        ago(p.since_seconds),
        p.remote_state.clone(),
        time(p.transmit_interval_ms),
        time(p.detection_time_ms),
        p.failures.to_string(),
        reason(p),
    ]
}

/// Why it is not up, or what is going on: our own condition first, then our diagnostic, then the peer's.
fn reason(p: &Peer) -> String {
    const NONE: &str = "none (0)";
    if let Some(condition) = &p.condition {
        return condition.clone();
    }
    match (p.diag.as_str(), p.remote_diag.as_str()) {
        (NONE, _) if p.state == "up" && p.polling => "intervals are being changed".to_owned(),
        (NONE, NONE) => "-".to_owned(),
        (NONE, theirs) => format!("the peer: {theirs}"),
        (ours, NONE) => ours.to_owned(),
        (ours, theirs) => format!("{ours}; the peer: {theirs}"),
    }
}

fn foot(sessions: &Sessions, text: &mut String) -> std::fmt::Result {
    writeln!(text, "\npackets: {} sent, {} accepted", sessions.sent, sessions.received)?;
    for discards in sessions.discards.iter().filter(|d| d.count > 0) {
        writeln!(text, "discarded: {} ({})", discards.count, discards.reason)?;
    }
    for error in &sessions.errors {
        writeln!(text, "{error}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(state: &str, diag: &str, remote_diag: &str) -> serde_json::Value {
        serde_json::json!({
            "name": "tor-a", "remote": "10.9.0.2", "local": "10.9.0.1", "interface": "eth0", "minTtl": null,
            "state": state, "sinceSeconds": 3.25, "diag": diag, "remoteState": "up", "remoteDiag": remote_diag,
            "transmitIntervalMs": 50.0, "detectionTimeMs": 150.0, "polling": false, "failures": 2, "condition": null,
        })
    }

    fn shown(peers: &[serde_json::Value]) -> String {
        let discards = serde_json::json!([{"reason": "ttl", "count": 4}, {"reason": "version", "count": 0}]);
        let page = serde_json::json!({
            "peers": peers, "errors": ["no socket"], "sent": 10, "received": 9, "discards": discards,
        });
        table(&page.to_string()).expect("well-formed")
    }

    #[test]
    fn a_session_is_one_line_with_what_is_in_force() {
        let text = shown(&[peer("up", "none (0)", "none (0)")]);
        let line = text.lines().nth(1).expect("a line");
        let words: Vec<&str> = line.split_whitespace().collect();
        let expected = "tor-a 10.9.0.2 10.9.0.1 eth0 up 3.2s up 50 ms 150 ms 2 -";
        assert_eq!(words.join(" "), expected);
        assert!(text.contains("packets: 10 sent, 9 accepted\ndiscarded: 4 (ttl)\nno socket\n"), "{text}");
        assert!(!text.contains("version"));
    }

    #[test]
    fn the_reason_names_whose_it_is() {
        let text = shown(&[
            peer("down", "detection time expired (1)", "none (0)"),
            peer("down", "neighbor signaled session down (3)", "administratively down (7)"),
        ]);
        assert!(text.contains("detection time expired (1)\n"), "{text}");
        assert!(text.contains("neighbor signaled session down (3); the peer: administratively down (7)"), "{text}");
        assert!(shown(&[]).starts_with("no BFD session is configured\n"));
    }
}
