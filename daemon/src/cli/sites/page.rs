//! What the daemon says of sites, as it is read here.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::ago;

/// What is shown of `/sites`; fields that are not shown are not asked for, so that versions may differ.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page {
    pub(super) site: String,
    pub(super) node: String,
    pub(super) relay: Option<String>,
    pub(super) leads: bool,
    pub(super) leader: Option<String>,
    pub(super) heard: Vec<String>,
    pub(super) isolated: bool,
    pub(super) conditions: Vec<String>,
    pub(super) sites: Vec<Site>,
    pub(super) services: Vec<Service>,
    #[serde(default)]
    pub(super) drains: Vec<Drain>,
    pub(super) state: Option<Relay>,
}

/// What operators have taken out of use.
#[derive(Deserialize)]
pub(super) struct Drain {
    pub(super) site: String,
    pub(super) what: String,
    pub(super) seconds: u64,
}

impl Drain {
    pub(super) fn line(&self) -> String {
        let Self { site, what, seconds } = self;
        match seconds {
            0 => format!("{site} drains {what}: connections that exist have had their time\n"),
            left => format!("{site} drains {what}: connections that exist have {left} s more\n"),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Relay {
    pub(super) counters: Counters,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Counters {
    pub(super) sent_away: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Site {
    pub(super) name: String,
    pub(super) session: bool,
    #[serde(default)]
    pub(super) relays: Vec<Hears>,
    #[serde(default)]
    pub(super) others: Vec<Other>,
    pub(super) age_seconds: Option<f64>,
    pub(super) state: Option<Session>,
    pub(super) path: Option<Probed>,
    #[serde(default)]
    pub(super) silent_gateways: Vec<String>,
}

/// A relay of this site that has a session with another one.
#[derive(Deserialize)]
pub(super) struct Hears {
    pub(super) relay: String,
    pub(super) counts: bool,
}

impl Site {
    /// What other sites say of it, where it is not well seen from here, or one of them does not reach it.
    pub(super) fn seen(&self) -> Option<String> {
        let up = |probed: &Probed| probed.path.carriage == "up";
        let well = self.session && self.path.as_ref().is_none_or(up) && self.others.iter().all(|other| other.reaches);
        if well || self.others.is_empty() {
            return None;
        }
        let word = |other: &Other| {
            let does = if other.reaches { "reaches it" } else { "does not reach it" };
            format!("{} {does}", other.site)
        };
        Some(format!("of {}: {}\n", self.name, self.others.iter().map(word).collect::<Vec<_>>().join(", ")))
    }
}

/// What another site says of it.
#[derive(Deserialize)]
pub(super) struct Other {
    pub(super) site: String,
    pub(super) reaches: bool,
}

#[derive(Deserialize)]
pub(super) struct Session {
    pub(super) relay: Option<String>,
    #[serde(default)]
    pub(super) version: Option<u8>,
    #[serde(default)]
    pub(super) build: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Probed {
    pub(super) path: Path,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Path {
    pub(super) carriage: Value,
    pub(super) brownout_in: Option<Value>,
    pub(super) brownout_out: Option<Value>,
    pub(super) loss_in: f64,
    pub(super) loss_out: f64,
    pub(super) rtt: Option<f64>,
    pub(super) rtt_factor: f64,
    pub(super) mtu: u16,
    pub(super) flows_up: u8,
    #[serde(default)]
    pub(super) returning: bool,
    #[serde(default)]
    pub(super) suppressed: bool,
}

impl Path {
    /// Flows that carry, and whether their probes are few because traffic speaks for the path.
    pub(super) fn flows(&self) -> String {
        let quiet = if self.suppressed { " (quiet)" } else { "" };
        format!("{}{quiet}", self.flows_up)
    }
}

#[derive(Deserialize)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) mode: String,
    pub(super) tables: u64,
    pub(super) spill: f64,
    #[serde(default)]
    pub(super) brought: Option<Brought>,
    #[serde(default)]
    pub(super) lease: Option<Lease>,
    pub(super) sites: Vec<Standing>,
}

/// What clients bring of a service.
#[derive(Deserialize)]
pub(super) struct Brought {
    pub(super) node: f64,
    pub(super) site: f64,
    pub(super) capacity: u32,
    pub(super) lent: f64,
    pub(super) borrowed: f64,
}

impl Brought {
    pub(super) fn line(&self) -> String {
        let Self { node, site, capacity, lent, borrowed } = self;
        let capacity = if *capacity > 0 { format!("of {capacity}") } else { "no capacity said".to_owned() };
        format!(
            "brought {node:.1}/s here, {site:.1}/s to the site ({capacity}); lent {lent:.0}, borrowed {borrowed:.0}\n"
        )
    }
}

/// Who has a service that one site at a time has.
#[derive(Deserialize)]
pub(super) struct Lease {
    pub(super) holder: Option<String>,
    pub(super) authority: String,
    pub(super) detail: Option<String>,
    pub(super) refrains: Option<String>,
    pub(super) grant: Option<Grant>,
    #[serde(default)]
    pub(super) handed: Option<Handed>,
}

#[derive(Deserialize)]
pub(super) struct Handed {
    pub(super) reason: String,
    pub(super) seconds: f64,
}

#[derive(Deserialize)]
pub(super) struct Grant {
    pub(super) term: u64,
    pub(super) seconds: f64,
}

impl Lease {
    pub(super) fn line(&self) -> String {
        let holder = match &self.holder {
            Some(site) => format!("{site} has it"),
            None => "nobody has it".to_owned(),
        };
        let grant = match (&self.grant, &self.handed) {
            (Some(Grant { term, seconds }), _) => format!("this node serves it by term {term} for {seconds:.1} s more"),
            (None, Some(Handed { reason, seconds })) => {
                format!("this node handed it over {} ago ({reason}) and is silent for it", ago(*seconds))
            }
            (None, None) => "this node is silent for it".to_owned(),
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
pub(super) struct Standing {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) verdict: String,
    pub(super) score: f64,
    pub(super) share: f64,
    pub(super) age: Option<f64>,
    pub(super) suppressed: bool,
    pub(super) summary: Option<Summary>,
    #[serde(default)]
    pub(super) observed: Option<Observed>,
    #[serde(default)]
    pub(super) ejected: Option<f64>,
}

impl Standing {
    /// Where it stands, and what holds it there.
    pub(super) fn stands(&self) -> String {
        let held = if self.suppressed { " (held)" } else { "" };
        let out = self.ejected.map(|left| format!(" (out for {left:.0} s)")).unwrap_or_default();
        format!("{}{held}{out}", self.state)
    }
}

/// Handshakes with it of the last seconds.
#[derive(Deserialize)]
pub(super) struct Observed {
    pub(super) handshakes: u32,
    pub(super) failed: u32,
}

#[derive(Deserialize)]
pub(super) struct Summary {
    pub(super) ready: u16,
    pub(super) expected: u16,
    pub(super) capacity: u32,
    pub(super) demand: u32,
}
