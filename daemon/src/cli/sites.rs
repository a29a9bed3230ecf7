//! `bascule sites` and `bascule why`: `/sites` and `/why` for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use comfy_table::{Table, presets};
use serde::Deserialize;
use serde_json::Value;

use super::client::ClientError;
use super::status::ago;

/// What is shown of `/sites`; fields that are not shown are not asked for, so that versions may differ.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    site: String,
    node: String,
    relay: Option<String>,
    leads: bool,
    leader: Option<String>,
    heard: Vec<String>,
    isolated: bool,
    conditions: Vec<String>,
    sites: Vec<Site>,
    services: Vec<Service>,
    #[serde(default)]
    drains: Vec<Drain>,
    state: Option<Relay>,
}

/// What operators have taken out of use.
#[derive(Deserialize)]
struct Drain {
    site: String,
    what: String,
    seconds: u64,
}

impl Drain {
    fn line(&self) -> String {
        let Self { site, what, seconds } = self;
        match seconds {
            0 => format!("{site} drains {what}: connections that exist have had their time\n"),
            left => format!("{site} drains {what}: connections that exist have {left} s more\n"),
        }
    }
}

#[derive(Deserialize)]
struct Relay {
    counters: Counters,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counters {
    sent_away: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Site {
    name: String,
    session: bool,
    age_seconds: Option<f64>,
    state: Option<Session>,
    path: Option<Probed>,
}

#[derive(Deserialize)]
struct Session {
    relay: Option<String>,
    #[serde(default)]
    version: Option<u8>,
    #[serde(default)]
    build: Option<String>,
}

#[derive(Deserialize)]
struct Probed {
    path: Path,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Path {
    carriage: Value,
    brownout_in: Option<Value>,
    brownout_out: Option<Value>,
    loss_in: f64,
    loss_out: f64,
    rtt: Option<f64>,
    rtt_factor: f64,
    mtu: u16,
    flows_up: u8,
}

#[derive(Deserialize)]
struct Service {
    name: String,
    mode: String,
    tables: u64,
    spill: f64,
    #[serde(default)]
    brought: Option<Brought>,
    #[serde(default)]
    lease: Option<Lease>,
    sites: Vec<Standing>,
}

/// What clients bring of a service.
#[derive(Deserialize)]
struct Brought {
    node: f64,
    site: f64,
    capacity: u32,
    lent: f64,
    borrowed: f64,
}

impl Brought {
    fn line(&self) -> String {
        let Self { node, site, capacity, lent, borrowed } = self;
        let capacity = if *capacity > 0 { format!("of {capacity}") } else { "no capacity said".to_owned() };
        format!(
            "brought {node:.1}/s here, {site:.1}/s to the site ({capacity}); lent {lent:.0}, borrowed {borrowed:.0}\n"
        )
    }
}

/// Who has a service that one site at a time has.
#[derive(Deserialize)]
struct Lease {
    holder: Option<String>,
    authority: String,
    detail: Option<String>,
    refrains: Option<String>,
    grant: Option<Grant>,
}

#[derive(Deserialize)]
struct Grant {
    term: u64,
    seconds: f64,
}

impl Lease {
    fn line(&self) -> String {
        let holder = match &self.holder {
            Some(site) => format!("{site} has it"),
            None => "nobody has it".to_owned(),
        };
        let grant = match &self.grant {
            Some(Grant { term, seconds }) => format!("this node serves it by term {term} for {seconds:.1} s more"),
            None => "this node is silent for it".to_owned(),
        };
        let asks = match &self.refrains {
            Some(reason) => format!("this site does not ask for it ({reason})"),
            None => "this site asks for it".to_owned(),
        };
        let detail = self.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
        format!("{holder}; {grant}; {asks}; the authority is {}{detail}\n", self.authority)
    }
}

#[derive(Deserialize)]
struct Standing {
    name: String,
    state: String,
    verdict: String,
    score: f64,
    share: f64,
    age: Option<f64>,
    suppressed: bool,
    summary: Option<Summary>,
}

#[derive(Deserialize)]
struct Summary {
    ready: u16,
    expected: u16,
    capacity: u32,
    demand: u32,
}

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
pub(super) fn table(answer: &str) -> Result<String, ClientError> {
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
                carriage(&path.carriage),
                percent(path.loss_in),
                percent(path.loss_out),
                path.rtt.map_or_else(dash, |rtt| format!("{:.1} ms", rtt * 1000.0)),
                path.mtu.to_string(),
                path.flows_up.to_string(),
                alarms(path),
            ]),
            None => row.extend(std::iter::repeat_n(dash(), 7)),
        }
        sites.add_row(row);
    }
    put(&mut text, &sites);
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
            new_table(&["SITE", "STANDING", "FACTS", "SCORE", "SHARE", "READY", "CAPACITY", "DEMAND", "AGE"]);
        for site in &service.sites {
            let held = if site.suppressed { " (held)" } else { "" };
            let summary = site.summary.as_ref();
            standings.add_row(vec![
                site.name.clone(),
                format!("{}{held}", site.state),
                site.verdict.clone(),
                format!("{:.0}", site.score),
                percent(site.share),
                summary.map_or_else(dash, |s| format!("{}/{}", s.ready, s.expected)),
                summary.filter(|s| s.capacity > 0).map_or_else(dash, |s| s.capacity.to_string()),
                summary.filter(|s| s.demand > 0).map_or_else(dash, |s| s.demand.to_string()),
                site.age.map_or_else(dash, ago),
            ]);
        }
        put(&mut text, &standings);
    }
    Ok(text)
}

#[derive(Deserialize)]
struct Why {
    service: String,
    names: BTreeMap<u8, String>,
    changes: Vec<Change>,
    now: u64,
    #[serde(default)]
    drains: Vec<Drain>,
    #[serde(default)]
    lease: Option<Lease>,
    #[serde(default)]
    brought: Option<Brought>,
}

#[derive(Deserialize)]
struct Change {
    why: Value,
    cause: u64,
    detected: u64,
    decided: u64,
    applied: Option<u64>,
    moved: f64,
    before: BTreeMap<u8, f64>,
    after: BTreeMap<u8, f64>,
}

impl Why {
    fn name(&self, site: u64) -> String {
        let found = u8::try_from(site).ok().and_then(|site| self.names.get(&site));
        found.cloned().unwrap_or_else(|| format!("site {site}"))
    }

    /// The rule with its numbers.
    fn rule(&self, why: &Value) -> String {
        let site = || self.name(why["site"].as_u64().unwrap_or_default());
        let number = |key: &str| why[key].as_u64().unwrap_or_default();
        match why["rule"].as_str().unwrap_or_default() {
            "first" => "the first table".to_owned(),
            "facts" => format!("{} is {}", site(), why["verdict"].as_str().unwrap_or_default()),
            "score" => {
                let number = |key: &str| why[key].as_f64().unwrap_or_default();
                format!(
                    "{} has a score of {:.0} and takes {} of its share",
                    site(),
                    number("score"),
                    percent(number("factor"))
                )
            }
            "spill" => format!(
                "numbers changed: demand {}, capacity {}, lent {}",
                number("demand"),
                number("capacity"),
                number("lent")
            ),
            "config" => "the configuration changed".to_owned(),
            "lease" => match why["holder"].as_u64() {
                Some(site) => format!("{} has the lease", self.name(site)),
                None => "nobody has the lease".to_owned(),
            },
            "panic" => "too little is usable: soft scores are ignored, or count again".to_owned(),
            other => other.to_owned(),
        }
    }

    fn shares(&self, change: &Change) -> String {
        let mut sites: Vec<u8> = change.before.keys().chain(change.after.keys()).copied().collect();
        sites.sort_unstable();
        sites.dedup();
        let share = |of: &BTreeMap<u8, f64>, site: u8| percent(of.get(&site).copied().unwrap_or_default());
        let one = |site: u8| {
            format!("{} {} -> {}", self.name(site.into()), share(&change.before, site), share(&change.after, site))
        };
        sites.into_iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// What moved new connections of a service, the latest first.
pub(super) fn why(answer: &str) -> Result<String, ClientError> {
    let why: Why = read(answer)?;
    let mut text = format!("service {}\n", why.service);
    why.drains.iter().for_each(|drain| text.push_str(&drain.line()));
    why.lease.iter().for_each(|lease| text.push_str(&lease.line()));
    why.brought.iter().for_each(|brought| text.push_str(&brought.line()));
    let ms = |from: u64, to: u64| to.saturating_sub(from) / 1_000_000;
    for change in why.changes.iter().rev() {
        let age = std::time::Duration::from_nanos(why.now.saturating_sub(change.decided)).as_secs_f64();
        let applied = match change.applied {
            Some(at) => format!("in force after {} ms", ms(change.decided, at)),
            None => "overtaken by the next".to_owned(),
        };
        let wrote = writeln!(
            text,
            "\n{} ago   {} moved: {}\n  {}\n  noticed {} ms after its cause, decided after {} ms, {applied}",
            ago(age),
            percent(change.moved),
            why.rule(&change.why),
            why.shares(change),
            ms(change.cause, change.detected),
            ms(change.detected, change.decided),
        );
        wrote.map_err(|e| ClientError::Answer(e.to_string()))?;
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

SITE  STATE  AGE   RELAY  PATH  LOSS IN  LOSS OUT  RTT      MTU   FLOWS  ALARM
dc-b  up     4.0s  m1     up    25.0 %   12.5 %    20.0 ms  1400  2      -
the session with dc-b speaks version 2: bascule 9.9

service web   weighted   37.5 % elsewhere   9 tables
brought 40.2/s here, 100.5/s to the site (of 50); lent 0, borrowed 53
SITE  STANDING  FACTS   SCORE  SHARE   READY  CAPACITY  DEMAND  AGE
dc-b  degraded  normal  62     37.5 %  -      -         -       4.0s
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
    }

    #[test]
    fn why_tells_the_rule_the_numbers_and_the_times() {
        let answer = serde_json::json!({
            "service": "web", "names": { "1": "dc-a", "2": "dc-b" }, "now": 12_500_000_000u64,
            "drains": [{ "site": "dc-a", "what": "vip 10.9.0.100", "services": ["web"], "seconds": 0 }],
            "brought": { "node": 40.0, "site": 100.0, "capacity": 0, "lent": 7.0, "borrowed": 0.0 },
            "changes": [
                { "service": 7, "generation": 1, "why": { "rule": "first" }, "cause": 1, "detected": 1, "decided": 1,
                  "applied": null, "moved": 1.0, "before": {}, "after": { "1": 0.5, "2": 0.5 } },
                { "service": 7, "generation": 2, "why": { "rule": "facts", "site": 2, "verdict": "path-down" },
                  "cause": 9_490_000_000u64, "detected": 10_000_000_000u64, "decided": 10_000_000_000u64, "applied": 10_012_000_000u64,
                  "moved": 0.5, "before": { "1": 0.5, "2": 0.5 }, "after": { "1": 1.0 } },
            ],
        });
        let shown = why(&answer.to_string()).expect("an answer");
        let expected = "\
service web
dc-a drains vip 10.9.0.100: connections that exist have had their time
brought 40.0/s here, 100.0/s to the site (no capacity said); lent 7, borrowed 0

2.5s ago   50.0 % moved: dc-b is path-down
  dc-a 50.0 % -> 100.0 %, dc-b 50.0 % -> 0.0 %
  noticed 510 ms after its cause, decided after 0 ms, in force after 12 ms

12.5s ago   100.0 % moved: the first table
  dc-a 0.0 % -> 50.0 %, dc-b 0.0 % -> 50.0 %
  noticed 0 ms after its cause, decided after 0 ms, overtaken by the next
";
        assert_eq!(shown, expected, "\n{shown}");
    }

    #[test]
    fn rules_are_told_with_the_names_that_the_daemon_gives_them() {
        use bascule_core::site::SiteId;
        use bascule_core::site::policy::facts::Verdict;
        use bascule_core::site::timeline::Rule;
        let why = Why {
            service: "web".to_owned(),
            names: [(2, "dc-b".to_owned())].into(),
            changes: vec![],
            drains: vec![],
            lease: None,
            brought: None,
            now: 0,
        };
        let site = SiteId(2);
        for (rule, words) in [
            (Rule::First, "the first table"),
            (Rule::Facts { site, verdict: Verdict::NotReady }, "dc-b is not-ready"),
            (Rule::Score { site, score: 40.0, factor: 0.4 }, "dc-b has a score of 40 and takes 40.0 % of its share"),
            (Rule::Spill { demand: 9, capacity: 8, lent: 1 }, "numbers changed: demand 9, capacity 8, lent 1"),
            (Rule::Config, "the configuration changed"),
            (Rule::Lease { holder: Some(site) }, "dc-b has the lease"),
            (Rule::Lease { holder: None }, "nobody has the lease"),
            (Rule::Panic, "too little is usable: soft scores are ignored, or count again"),
        ] {
            assert_eq!(why.rule(&serde_json::to_value(rule).expect("JSON")), words);
        }
    }
}
