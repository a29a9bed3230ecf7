//! `bascule bgp`: `/bgp` and the routes of one neighbor as tables for people.

use std::fmt::Write;

use comfy_table::{Table, presets};
use serde::Deserialize;

use super::client::ClientError;
use super::status::ago;

/// What the table shows of `/bgp`; fields that it does not show are not asked for, so that versions may differ.
#[derive(Deserialize)]
struct Page {
    troubles: Vec<String>,
    asn: Option<u32>,
    router_id: Option<String>,
    routes: usize,
    leaving: Option<String>,
    neighbors: Vec<Neighbor>,
}

#[derive(Deserialize)]
struct Neighbor {
    name: String,
    address: String,
    state: String,
    uptime: f64,
    waiting: Option<String>,
    negotiated: Option<Negotiated>,
    last_error: Option<LastError>,
    prefixes_in: Vec<(String, u32)>,
    prefixes_out: Vec<(String, usize)>,
    queue_depth: usize,
    held_back: Vec<HeldBack>,
}

#[derive(Deserialize)]
struct Negotiated {
    peer_as: u32,
    families: Vec<String>,
    hold_time: u16,
    four_octet_as: bool,
    route_refresh: bool,
    enhanced_refresh: bool,
    extended_message: bool,
    graceful_restart: Option<u16>,
    graceful_notification: bool,
}

#[derive(Deserialize)]
struct LastError {
    text: String,
    notification: Option<Notification>,
}

#[derive(Deserialize)]
struct Notification {
    sent: bool,
    code: u8,
    subcode: u8,
    data: String,
}

#[derive(Deserialize)]
struct HeldBack {
    reason: String,
    prefixes: usize,
    example: String,
}

#[derive(Deserialize)]
struct Route {
    prefix: String,
    next_hop: Vec<String>,
    as_path: Vec<u32>,
    med: Option<u32>,
    local_pref: Option<u32>,
    communities: Vec<String>,
    large_communities: Vec<String>,
    extended_communities: Vec<String>,
}

fn dash() -> String {
    "-".to_owned()
}

/// The text of `bascule bgp`.
pub(super) fn table(page: &str) -> Result<String, ClientError> {
    let page: Page = serde_json::from_str(page).map_err(|e| ClientError::Answer(e.to_string()))?;
    let Some(asn) = page.asn else { return Ok("no BGP speaker is configured\n".to_owned()) };
    let mut text = String::new();
    head(&page, asn, &mut text).expect("writing to memory does not fail");
    let header = ["NEIGHBOR", "ADDRESS", "AS", "STATE", "SINCE", "FAMILIES", "HOLD", "OUT", "IN", "QUEUE"];
    rows(&mut text, &header, page.neighbors.iter().map(row));
    for neighbor in &page.neighbors {
        details(neighbor, &mut text).expect("writing to memory does not fail");
    }
    Ok(text)
}

/// The text of `bascule bgp routes`.
pub(super) fn routes(answer: &str) -> Result<String, ClientError> {
    let routes: Vec<Route> = serde_json::from_str(answer).map_err(|e| ClientError::Answer(e.to_string()))?;
    if routes.is_empty() {
        return Ok("the neighbor holds no route of ours\n".to_owned());
    }
    let mut text = String::new();
    let header = ["PREFIX", "NEXT HOP", "AS PATH", "MED", "LOCAL PREF", "COMMUNITIES"];
    let number = |n: Option<u32>| n.map_or_else(dash, |n| n.to_string());
    let cells = routes.iter().map(|r| {
        let path: Vec<String> = r.as_path.iter().map(u32::to_string).collect();
        let extended = r.extended_communities.iter().map(|c| format!("ext:{c}"));
        let all: Vec<String> = r.communities.iter().chain(&r.large_communities).cloned().chain(extended).collect();
        vec![
            r.prefix.clone(),
            r.next_hop.join(" "),
            if path.is_empty() { dash() } else { path.join(" ") },
            number(r.med),
            number(r.local_pref),
            if all.is_empty() { dash() } else { all.join(" ") },
        ]
    });
    rows(&mut text, &header, cells);
    Ok(text)
}

fn rows(text: &mut String, header: &[&str], cells: impl Iterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.to_vec());
    for row in cells {
        table.add_row(row);
    }
    for line in table.lines() {
        text.push_str(line.trim());
        text.push('\n');
    }
}

fn head(page: &Page, asn: u32, text: &mut String) -> std::fmt::Result {
    let id = page.router_id.as_deref().unwrap_or("-");
    writeln!(text, "AS {asn}   router id {id}   {} routes wanted", page.routes)?;
    if let Some(step) = &page.leaving {
        writeln!(text, "leaving: {step}")?;
    }
    for trouble in &page.troubles {
        writeln!(text, "NOT WORKING: {trouble}")?;
    }
    writeln!(text)
}

fn row(n: &Neighbor) -> Vec<String> {
    let agreed = n.negotiated.as_ref();
    let out: usize = n.prefixes_out.iter().map(|(_, count)| count).sum();
    let incoming: u32 = n.prefixes_in.iter().map(|(_, count)| count).sum();
    vec![
        n.name.clone(),
        n.address.clone(),
        agreed.map_or_else(dash, |a| a.peer_as.to_string()),
        n.state.clone(),
        ago(n.uptime),
        agreed.map_or_else(dash, |a| a.families.join(" ")),
        agreed.map_or_else(dash, |a| if a.hold_time == 0 { "none".to_owned() } else { format!("{} s", a.hold_time) }),
        out.to_string(),
        incoming.to_string(),
        n.queue_depth.to_string(),
    ]
}

fn details(n: &Neighbor, text: &mut String) -> std::fmt::Result {
    writeln!(text, "\n{}", n.name)?;
    if let Some(agreed) = &n.negotiated {
        writeln!(text, "  agreed: {}", capabilities(agreed))?;
    }
    if let Some(waiting) = &n.waiting {
        writeln!(text, "  now: {waiting}")?;
    }
    match &n.last_error {
        None => writeln!(text, "  last error: none")?,
        Some(error) => {
            writeln!(text, "  last error: {}", error.text)?;
            if let Some(n) = &error.notification {
                let who = if n.sent { "sent" } else { "received" };
                let data = if n.data.is_empty() { String::new() } else { format!(", data {}", n.data) };
                writeln!(text, "  NOTIFICATION {who}: code {}, subcode {}{data}", n.code, n.subcode)?;
            }
        }
    }
    for held in &n.held_back {
        writeln!(text, "  not announced: {} prefixes such as {}: {}", held.prefixes, held.example, held.reason)?;
    }
    Ok(())
}

fn capabilities(agreed: &Negotiated) -> String {
    let mut words = Vec::new();
    let mut add = |holds: bool, word: &str| {
        if holds {
            words.push(word.to_owned());
        }
    };
    add(agreed.four_octet_as, "4-octet AS");
    add(agreed.route_refresh, "route refresh");
    add(agreed.enhanced_refresh, "enhanced route refresh");
    add(agreed.extended_message, "extended messages");
    if let Some(seconds) = agreed.graceful_restart {
        let notification = if agreed.graceful_notification { " with NOTIFICATION" } else { "" };
        words.push(format!("graceful restart {seconds} s{notification}"));
    }
    if words.is_empty() { "no capability".to_owned() } else { words.join(", ") }
}

/// A value within the query of a path.
pub(super) fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn neighbor() -> Value {
        json!({
            "name": "tor1", "address": "10.0.0.1", "state": "established", "since": 7, "uptime": 93_784.0, "waiting": null,
            "negotiated": {
                "peer_as": 65002, "peer_id": "10.0.0.1", "internal": false, "families": ["ipv4", "ipv6"], "hold_time": 90,
                "keepalive": 30, "four_octet_as": true, "route_refresh": true, "enhanced_refresh": false,
                "extended_message": false, "graceful_restart": 120, "graceful_notification": true,
            },
            "last_error": {
                "at": 3, "text": "the neighbor refuses our AS number 65001",
                "notification": { "sent": false, "code": 2, "subcode": 2, "data": "fde9" },
            },
            "prefixes_in": [["ipv4", 3], ["ipv6", 0]], "prefixes_out": [["ipv4", 12], ["ipv6", 2]], "queue_depth": 1,
            "held_back": [{ "reason": "no IPv6 next hop", "prefixes": 2, "example": "2001:db8::53/128" }],
        })
    }

    fn page(neighbors: &[Value]) -> String {
        json!({
            "troubles": ["listen [::]:179: address in use"], "asn": 65001, "router_id": "10.0.0.11", "routes": 14,
            "leaving": null, "neighbors": neighbors,
        })
        .to_string()
    }

    #[test]
    fn a_session_is_a_line_and_its_reasons_follow() {
        let expected = "\
AS 65001   router id 10.0.0.11   14 routes wanted
NOT WORKING: listen [::]:179: address in use

NEIGHBOR  ADDRESS   AS     STATE        SINCE  FAMILIES   HOLD  OUT  IN  QUEUE
tor1      10.0.0.1  65002  established  1d2h   ipv4 ipv6  90 s  14   3   1

tor1
  agreed: 4-octet AS, route refresh, graceful restart 120 s with NOTIFICATION
  last error: the neighbor refuses our AS number 65001
  NOTIFICATION received: code 2, subcode 2, data fde9
  not announced: 2 prefixes such as 2001:db8::53/128: no IPv6 next hop
";
        let shown = table(&page(&[neighbor()])).expect("well-formed");
        assert_eq!(shown, expected, "\n{shown}");
    }

    #[test]
    fn a_session_that_is_down_says_what_comes_next() {
        let mut down = neighbor();
        down["state"] = "active".into();
        down["negotiated"] = Value::Null;
        down["last_error"] = Value::Null;
        down["waiting"] = "dials again in 5 s".into();
        let shown = table(&page(&[down])).expect("well-formed");
        assert!(shown.contains("tor1      10.0.0.1  -   active"), "{shown}");
        assert!(shown.contains("  now: dials again in 5 s\n  last error: none\n"), "{shown}");
        let none = json!({
            "troubles": [], "asn": null, "router_id": null, "routes": 0, "leaving": null, "neighbors": [],
        });
        assert_eq!(table(&none.to_string()).expect("well-formed"), "no BGP speaker is configured\n");
    }

    #[test]
    fn routes_show_every_attribute() {
        let route = json!([{
            "prefix": "2001:db8::53/128", "next_hop": ["2001:db8::11", "fe80::11"], "as_path": [65001, 65001], "med": 10,
            "local_pref": null, "communities": ["65001:100", "65535:0"], "large_communities": ["65001:1:2"],
            "extended_communities": ["0002fde900000064"],
        }]);
        let shown = routes(&route.to_string()).expect("well-formed");
        let words: Vec<&str> = shown.lines().nth(1).expect("a line").split_whitespace().collect();
        let expected =
            "2001:db8::53/128 2001:db8::11 fe80::11 65001 65001 10 - 65001:100 65535:0 65001:1:2 ext:0002fde900000064";
        assert_eq!(words.join(" "), expected);
        assert_eq!(routes("[]").expect("well-formed"), "the neighbor holds no route of ours\n");
    }

    #[test]
    fn a_name_that_is_none_stays_one_query() {
        assert_eq!(quoted("tor-1.a_b"), "tor-1.a_b");
        assert_eq!(quoted("a b&c=ü"), "a%20b%26c%3D%C3%BC");
    }
}
