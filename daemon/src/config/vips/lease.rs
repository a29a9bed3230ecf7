//! Who elects a VIP: VRRP, or a lease and where it lies.

use bascule_core::election::lease::timing::{Timing, TimingError};
use bascule_core::node::config::{LeaseConfig, Store};

use super::super::etcd::Etcd;
use super::super::read::{At, Errors, Map};
use super::super::values;

/// Fields of a virtual router, which a lease has not.
const ROUTER: [&str; 9] =
    ["linkLocal", "vrid", "priority", "nodes", "advertInterval", "preempt", "strictRfc", "unicastPeers", "drainTime"];

/// Who elects.
pub(super) enum Elects {
    Vrrp,
    Lease(At<LeaseConfig>),
}

/// Reads `elector`, `ownership` and `lease`; `None` when an error was noted.
pub(super) fn read(map: &Map<'_>, etcd: Option<&Etcd>, errors: &Errors) -> Option<Elects> {
    let elector = map.has("elector").then(|| map.word_at("elector"));
    let ownership = map.has("ownership").then(|| map.word_at("ownership"));
    // What is absent is fine, what is wrong was noted.
    let elector = match elector {
        Some(word) => Some(word?),
        None => None,
    };
    let ownership = match ownership {
        Some(word) => Some(word?),
        None => None,
    };
    let word = match (elector.as_ref().map(|e| e.value), ownership.as_ref().map(|o| o.value)) {
        (Some(elector), Some(ownership)) if (elector == "vrrp") != (ownership == "available") => {
            let at = map.place_of("ownership").unwrap_or(map.at);
            let wrong = format!("{ownership} contradicts elector: {elector}");
            let right = "remove one of the two: safe is a lease elector, available is vrrp";
            errors.add(at, &map.path_of("ownership"), wrong, right);
            return None;
        }
        (Some(elector), _) => elector,
        (None, Some("safe")) => "kubernetes",
        (None, _) => "vrrp",
    };
    if word == "vrrp" {
        if let Some(at) = map.place_of("lease") {
            let right = "set ownership: safe, or remove it";
            errors.add(at, &map.path_of("lease"), "no lease elects this VIP", right);
            return None;
        }
        return Some(Elects::Vrrp);
    }
    for key in ROUTER {
        if let Some(at) = map.place_of(key) {
            let wrong = "belongs to VRRP, and a lease elects this VIP";
            errors.add(at, &map.path_of(key), wrong, "remove it");
        }
    }
    lease(map, word, etcd, errors).map(Elects::Lease)
}

fn lease(map: &Map<'_>, word: &str, etcd: Option<&Etcd>, errors: &Errors) -> Option<At<LeaseConfig>> {
    let path = map.path_of("lease");
    let at = map.place_of("lease").unwrap_or(map.at);
    let section = if map.has("lease") { Some(map.section("lease")?) } else { None };
    let (mut namespace, mut name) = ("kube-system".to_owned(), "plndr-cp-lock".to_owned());
    let mut timing = Timing::kubernetes(DEFAULTS[0], DEFAULTS[1], DEFAULTS[2]);
    if let Some(section) = &section {
        let (given_namespace, given_name) =
            (section.text("namespace", values::name), section.text("name", values::name));
        let times = (section.time("duration"), section.time("renewDeadline"), section.time("retryPeriod"));
        (namespace, name) = (given_namespace?.value, given_name?.value);
        timing = Timing::kubernetes(times.0?.value, times.1?.value, times.2?.value);
    }
    let (store, timing) = if word == "etcd" {
        for key in ["duration", "renewDeadline", "retryPeriod"] {
            if let Some(at) = section.as_ref().and_then(|s| s.place_of(key)) {
                errors.add(
                    at,
                    &format!("{path}.{key}"),
                    "belongs to a Lease of Kubernetes",
                    "remove it; etcd.ttl holds",
                );
            }
        }
        let Some(etcd) = etcd else {
            map.wrong("elector", "etcd is not configured", "add the section etcd");
            return None;
        };
        (Store::Etcd { key: format!("/bascule/lease/{namespace}/{name}") }, etcd.timing)
    } else {
        match timing {
            Ok(timing) => (Store::Kubernetes { namespace, name }, timing),
            Err(error) => {
                errors.add(at, &path, error.to_string(), right(&error));
                return None;
            }
        }
    };
    Some(At { value: LeaseConfig { store, timing }, at, path })
}

/// Those of the table, for a VIP without the section.
const DEFAULTS: [std::time::Duration; 3] =
    [std::time::Duration::from_secs(15), std::time::Duration::from_secs(10), std::time::Duration::from_secs(2)];

fn right(error: &TimingError) -> &'static str {
    match error {
        TimingError::NotSeconds(_) => "use whole seconds",
        TimingError::DeadlineTooLong { .. } => "make renewDeadline shorter than duration",
        TimingError::RetryTooLong { .. } => "make retryPeriod at most half of renewDeadline",
    }
}
