//! `bascule sites` and `bascule why`: `/sites` and `/why` for people.

mod page;
mod why;

use comfy_table::{Table, presets};
use serde::Deserialize;
use serde_json::Value;

use super::client::ClientError;
use super::status::ago;
use page::{Page, Path, Probed, Service};
pub(super) use why::why;

/// An answer of the daemon, read.
fn read<'a, T: Deserialize<'a>>(answer: &'a str) -> Result<T, ClientError> {
    serde_json::from_str(answer).map_err(|e| ClientError::Answer(e.to_string()))
}

fn dash() -> String {
    "-".to_owned()
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.to_vec());
    table
}

fn put(text: &mut String, table: &Table) {
    table.lines().for_each(|line| text.push_str(&format!("{}\n", line.trim())));
}

/// `up`, `unknown`, or which way is silent.
fn carriage(carriage: &Value) -> String {
    match (carriage.as_str(), carriage["down"].as_str()) {
        (Some(word), _) => word.to_owned(),
        (None, Some(way)) => format!("down ({way})"),
        (None, None) => dash(),
    }
}

/// Alarms of a path in words.
fn alarms(path: &Path) -> String {
    let mut all = Vec::new();
    for (way, alarm) in [("in", &path.brownout_in), ("out", &path.brownout_out)] {
        if let Some(scale) = alarm.as_ref().and_then(Value::as_str) {
            all.push(format!("{scale} loss {way}"));
        }
    }
    if path.rtt_factor > 1.0 {
        all.push(format!("rtt x{:.1}", path.rtt_factor));
    }
    if all.is_empty() { dash() } else { all.join(", ") }
}

/// The matrix of sites, then one of each service.
pub(in crate::cli) fn table(answer: &str) -> Result<String, ClientError> {
    let page: Page = read(answer)?;
    let relay = match (&page.relay, &page.leader) {
        (Some(own), _) if page.leads => format!("relay {own} (leads)"),
        (Some(own), Some(leader)) => format!("relay {own}, {leader} leads"),
        (None, Some(leader)) => format!("no relay, {leader} leads"),
        (_, None) => "no relay leads".to_owned(),
    };
    let mut text = format!("site {}   node {}   {relay}   heard: {}\n", page.site, page.node, page.heard.join(", "));
    for condition in &page.conditions {
        text.push_str(&format!("{condition}\n"));
    }
    page.drains.iter().for_each(|drain| text.push_str(&drain.line()));
    if page.isolated {
        text.push_str("no other site is heard\n");
    }
    let sent_away = page.state.iter().flat_map(|state| &state.counters.sent_away).filter(|(_, count)| **count > 0);
    let sent_away: Vec<String> = sent_away.map(|(reason, count)| format!("{count} {reason}")).collect();
    if !sent_away.is_empty() {
        text.push_str(&format!("sent away: {}\n", sent_away.join(", ")));
    }
    text.push('\n');
    let header = ["SITE", "STATE", "AGE", "RELAY", "PATH", "LOSS IN", "LOSS OUT", "RTT", "MTU", "FLOWS", "ALARM"];
    let mut sites = new_table(&header);
    for site in &page.sites {
        let session = if site.session { "up" } else { "down" }.to_owned();
        let relay = site.state.as_ref().and_then(|state| state.relay.clone()).unwrap_or_else(dash);
        let mut row = vec![site.name.clone(), session, site.age_seconds.map_or_else(dash, ago), relay];
        match &site.path {
            Some(Probed { path }) => row.extend([
                if path.returning { "returning".to_owned() } else { carriage(&path.carriage) },
                percent(path.loss_in),
                percent(path.loss_out),
                path.rtt.map_or_else(dash, |rtt| format!("{:.1} ms", rtt * 1000.0)),
                path.mtu.to_string(),
                path.flows(),
                alarms(path),
            ]),
            None => row.extend(std::iter::repeat_n(dash(), 7)),
        }
        sites.add_row(row);
    }
    put(&mut text, &sites);
    page.sites.iter().filter_map(page::Site::seen).for_each(|line| text.push_str(&line));
    for (site, hears) in page.sites.iter().flat_map(|site| site.relays.iter().map(move |hears| (site, hears))) {
        let counts = if hears.counts { ", and its word counts" } else { "" };
        text.push_str(&format!("{} is heard by relay {}{counts}\n", site.name, hears.relay));
    }
    for (site, gateway) in page.sites.iter().flat_map(|site| site.silent_gateways.iter().map(move |name| (site, name)))
    {
        text.push_str(&format!("gateway {gateway} of {} is not reached by probes: nothing is sent to it\n", site.name));
    }
    for (site, state) in page.sites.iter().filter_map(|site| Some((site, site.state.as_ref()?))) {
        if let Some(version) = state.version {
            let build = state.build.as_deref().unwrap_or("it does not say what it runs");
            text.push_str(&format!("the session with {} speaks version {version}: {build}\n", site.name));
        }
    }
    for service in &page.services {
        let Service { name, mode, tables, spill, .. } = service;
        text.push_str(&format!("\nservice {name}   {mode}   {} elsewhere   {tables} tables\n", percent(*spill)));
        service.brought.iter().for_each(|brought| text.push_str(&brought.line()));
        service.lease.iter().for_each(|lease| text.push_str(&lease.line()));
        let mut standings =
            new_table(&["SITE", "STANDING", "FACTS", "SCORE", "SHARE", "READY", "FAILED", "CAPACITY", "DEMAND", "AGE"]);
        for site in &service.sites {
            let summary = site.summary.as_ref();
            standings.add_row(vec![
                site.name.clone(),
                site.stands(),
                site.verdict.clone(),
                format!("{:.0}", site.score),
                percent(site.share),
                summary.map_or_else(dash, |s| format!("{}/{}", s.ready, s.expected)),
                site.observed
                    .as_ref()
                    .filter(|o| o.handshakes > 0)
                    .map_or_else(dash, |o| format!("{}/{}", o.failed, o.handshakes)),
                summary.filter(|s| s.capacity > 0).map_or_else(dash, |s| s.capacity.to_string()),
                summary.filter(|s| s.demand > 0).map_or_else(dash, |s| s.demand.to_string()),
                site.age.map_or_else(dash, ago),
            ]);
        }
        put(&mut text, &standings);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_are_a_matrix_and_services_tables() {
        let page = serde_json::to_string(&crate::metrics::tests::fixtures::across()).expect("JSON");
        let expected = "\
site dc-a   node n1   relay n1 (leads)   heard: n1
no probes
dc-b drains service web: connections that exist have 540 s more
sent away: 2 revoked

SITE  STATE  AGE   RELAY  PATH  LOSS IN  LOSS OUT  RTT      MTU   FLOWS      ALARM
dc-b  up     4.0s  m1     up    25.0 %   12.5 %    20.0 ms  1400  2 (quiet)  -
of dc-b: dc-c reaches it, dc-d does not reach it
dc-b is heard by relay n1, and its word counts
gateway m2 of dc-b is not reached by probes: nothing is sent to it
the session with dc-b speaks version 2: bascule 9.9

service web   weighted   37.5 % elsewhere   9 tables
brought 40.2/s here, 100.5/s to the site (of 50); lent 0, borrowed 53
SITE  STANDING                 FACTS   SCORE  SHARE   READY  FAILED  CAPACITY  DEMAND  AGE
dc-b  degraded (out for 26 s)  normal  62     37.5 %  -      90/120  -         -       4.0s
";
        let shown = table(&page).expect("a page");
        assert_eq!(shown, expected, "\n{shown}");
    }

    #[test]
    fn a_silent_way_and_alarms_have_words() {
        assert_eq!(carriage(&serde_json::json!({ "down": "out" })), "down (out)");
        assert_eq!(carriage(&serde_json::json!("unknown")), "unknown");
        let mut page = serde_json::to_value(crate::metrics::tests::fixtures::across()).expect("JSON");
        page["sites"][0]["path"]["path"]["brownoutIn"] = "light".into();
        page["sites"][0]["path"]["path"]["rttFactor"] = 2.5.into();
        let shown = table(&page.to_string()).expect("a page");
        assert!(shown.contains("light loss in, rtt x2.5"), "{shown}");
        page["sites"][0]["path"]["path"]["carriage"] = serde_json::json!({ "down": "in" });
        page["sites"][0]["path"]["path"]["returning"] = true.into();
        let shown = table(&page.to_string()).expect("a page");
        assert!(shown.contains("  returning  "), "flows that live there go on: {shown}");
    }

    #[test]
    fn what_other_sites_say_is_shown_where_it_matters() {
        let mut page = serde_json::to_value(crate::metrics::tests::fixtures::across()).expect("JSON");
        let mut shown = |carriage: serde_json::Value, session: bool, others: serde_json::Value| {
            page["sites"][0]["path"]["path"]["carriage"] = carriage;
            page["sites"][0]["session"] = session.into();
            page["sites"][0]["others"] = others;
            table(&page.to_string()).expect("a page")
        };
        let (up, down) = (serde_json::json!("up"), serde_json::json!({ "down": "in" }));
        let reaches = serde_json::json!([{ "site": "dc-c", "reaches": true }]);
        assert!(!shown(up.clone(), true, reaches.clone()).contains("reaches it"), "all is well");
        for (carriage, session) in [(down.clone(), true), (down.clone(), false), (up, false)] {
            assert!(shown(carriage, session, reaches.clone()).contains("\nof dc-b: dc-c reaches it\n"));
        }
        let nobody = shown(down, false, serde_json::json!([]));
        assert!(!nobody.contains("\nof dc-b"), "{nobody}");
    }

    #[test]
    fn who_has_a_service_is_said_with_its_term() {
        let mut page = serde_json::to_value(crate::metrics::tests::fixtures::one_at_a_time()).expect("JSON");
        let shown = table(&page.to_string()).expect("a page");
        let line = "dc-a has it; this node serves it by term 41 for 4.2 s more; this site asks for it; the authority is reachable\n";
        assert!(shown.contains(line), "{shown}");
        let lease = serde_json::json!({ "holder": null, "authority": "unreachable", "detail": "no answer in time", "refrains": "elsewhere",
            "grant": null, "grants": 0 });
        page["services"][0]["lease"] = lease;
        let shown = table(&page.to_string()).expect("a page");
        let line = "nobody has it; this node is silent for it; this site does not ask for it (elsewhere); the authority is unreachable (no answer in time)\n";
        assert!(shown.contains(line), "{shown}");
        page["services"][0]["lease"]["handed"] = serde_json::json!({ "reason": "draining", "seconds": 12.0 });
        let shown = table(&page.to_string()).expect("a page");
        assert!(
            shown.contains("nobody has it; this node handed it over 12.0s ago (draining) and is silent for it;"),
            "{shown}"
        );
    }
}
