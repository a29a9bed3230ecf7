//! `bascule why`: `/why` for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Deserialize;
use serde_json::Value;

use super::super::client::ClientError;
use super::super::status::ago;
use super::page::{Brought, Drain, Lease};
use super::{percent, read};

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
            "facts" => match why["verdict"].as_str().unwrap_or_default() {
                "mismatch" => format!("{} is mismatch: it says ready, and handshakes with it fail", site()),
                verdict => format!("{} is {verdict}", site()),
            },
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
pub(in crate::cli) fn why(answer: &str) -> Result<String, ClientError> {
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
