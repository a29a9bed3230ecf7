//! Sites and SiteTrafficPolicies. How they are written stands in [`crate::crd`]. What a Site says is judged by who reads the configuration file.

use std::collections::{BTreeMap, BTreeSet};

use bascule_core::intent::rules::{CAPACITY_MAX, NO_PASSIVE, SitePart, TrafficRule, WEIGHT_MAX};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::rule::{Check, RawChoice, Rule};
use super::selector::RawSelector;
use super::{Kind, Meta};

/// A Site.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Site {
    metadata: Meta,
    spec: Map<String, Value>,
}

impl Kind for Site {
    const PATH: &'static str = "/apis/bascule.dev/v1alpha1/sites";
    const LIST: &'static str = "SiteList";
    const PAGE: u32 = 500;

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Rule for Site {
    const NAME: &'static str = "Site";
    type Good = String;

    fn read(self, check: Check) -> Result<String, String> {
        let words = Value::Object(self.spec).to_string();
        check(Self::NAME, &self.metadata.name, &words)?;
        Ok(words)
    }
}

/// A SiteTrafficPolicy.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SiteTrafficPolicy {
    metadata: Meta,
    spec: TrafficSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TrafficSpec {
    pools: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    names: BTreeSet<String>,
    service_selector: Option<RawSelector>,
    mode: Option<String>,
    sites: BTreeMap<String, RawPart>,
    number: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPart {
    weight: Option<i64>,
    capacity: Option<i64>,
    capacity_per_endpoint: Option<i64>,
    draining: bool,
}

impl Kind for SiteTrafficPolicy {
    const PATH: &'static str = "/apis/bascule.dev/v1alpha1/sitetrafficpolicies";
    const LIST: &'static str = "SiteTrafficPolicyList";
    const PAGE: u32 = 500;

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Rule for SiteTrafficPolicy {
    const NAME: &'static str = "SiteTrafficPolicy";
    type Good = TrafficRule;

    fn read(self, _: Check) -> Result<TrafficRule, String> {
        let TrafficSpec { pools, namespaces, names, service_selector, mode, sites, number } = self.spec;
        let weighted = match mode.as_deref() {
            None | Some("localFirst") => false,
            Some("weighted") => true,
            Some("activePassive") => return Err(format!("spec.mode: {NO_PASSIVE}")),
            Some(other) => return Err(format!("spec.mode: {other:?} is none of localFirst and weighted")),
        };
        let sites = sites.into_iter().map(|(name, raw)| {
            let read = raw.part(&format!("spec.sites.{name}"), weighted)?;
            Ok::<_, String>((name, read))
        });
        let number = within("spec.number", number, 1, u16::MAX.into())?;
        Ok(TrafficRule {
            choice: RawChoice { pools, namespaces, service_selector }.choice()?,
            names,
            weighted,
            sites: sites.collect::<Result<_, String>>()?,
            number: number.and_then(|number| u16::try_from(number).ok()),
        })
    }
}

impl RawPart {
    fn part(self, field: &str, weighted: bool) -> Result<SitePart, String> {
        let Self { weight, capacity, capacity_per_endpoint, draining } = self;
        match weight {
            None if weighted => return Err(format!("{field}.weight: missing, and the mode is weighted")),
            Some(_) if !weighted => return Err(format!("{field}.weight: the mode is not weighted")),
            None | Some(_) => {}
        }
        if capacity.is_some() && capacity_per_endpoint.is_some() {
            return Err(format!("{field}.capacityPerEndpoint: capacity is given, too"));
        }
        Ok(SitePart {
            weight: within(&format!("{field}.weight"), weight, 0, WEIGHT_MAX)?,
            capacity: within(&format!("{field}.capacity"), capacity, 1, CAPACITY_MAX)?,
            capacity_per_endpoint: within(
                &format!("{field}.capacityPerEndpoint"),
                capacity_per_endpoint,
                1,
                CAPACITY_MAX,
            )?,
            draining,
        })
    }
}

fn within(field: &str, number: Option<i64>, least: u32, most: u32) -> Result<Option<u32>, String> {
    let read = |number: i64| {
        let found = u32::try_from(number).ok().filter(|number| (least..=most).contains(number));
        found.ok_or_else(|| format!("{field}: {number} is not within {least} to {most}"))
    };
    number.map(read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(spec: &str) -> Result<TrafficRule, String> {
        let text = format!(r#"{{"metadata":{{"name":"a"}},"spec":{spec}}}"#);
        serde_json::from_str::<SiteTrafficPolicy>(&text).unwrap().read(|_, _, _| Ok(()))
    }

    #[test]
    fn a_site_goes_along_as_it_is_and_is_judged_by_others() {
        let text = r#"{"metadata":{"name":"dc-b"},"spec":{"id":2,"relays":{"r":{"address":"10.0.0.1:7845"}}}}"#;
        let site = || serde_json::from_str::<Site>(text).unwrap();
        let words = site().read(|_, _, _| Ok(())).unwrap();
        assert_eq!(words, r#"{"id":2,"relays":{"r":{"address":"10.0.0.1:7845"}}}"#);
        let refuse: Check = |kind, name, words| Err(format!("{kind} {name} {}", words.len()));
        assert_eq!(site().read(refuse).unwrap_err(), format!("Site dc-b {}", words.len()));
    }

    #[test]
    fn every_field_of_a_policy_is_read_and_what_is_absent_selects_all() {
        let all = policy(
            r#"{"pools":["edge"],"namespaces":["shop"],"names":["web"],"serviceSelector":{"matchLabels":{"tier":"edge"}},
               "mode":"weighted","number":7,
               "sites":{"dc-a":{"weight":60,"capacity":9,"draining":true},"dc-b":{"weight":0,"capacityPerEndpoint":3}}}"#,
        )
        .unwrap();
        assert!(all.weighted && all.number == Some(7) && all.names.contains("web"));
        assert!(all.choice.pools.contains("edge") && all.choice.namespaces.contains("shop"));
        assert_eq!(all.choice.services.labels["tier"], "edge");
        let here = SitePart { weight: Some(60), capacity: Some(9), capacity_per_endpoint: None, draining: true };
        assert_eq!(all.sites["dc-a"], here);
        assert_eq!((all.sites["dc-b"].weight, all.sites["dc-b"].capacity_per_endpoint), (Some(0), Some(3)));
        let bare = policy("{}").unwrap();
        assert!(!bare.weighted && bare.sites.is_empty() && bare.number.is_none() && bare.choice == Default::default());
    }

    #[test]
    fn what_makes_no_sense_is_said_with_its_field() {
        for (spec, why) in [
            (r#"{"mode":"activePassive"}"#, "spec.mode: activePassive is for services of the configuration file"),
            (r#"{"mode":"nearest"}"#, "spec.mode: \"nearest\" is none of localFirst and weighted"),
            (r#"{"mode":"weighted","sites":{"a":{}}}"#, "spec.sites.a.weight: missing"),
            (r#"{"sites":{"a":{"weight":1}}}"#, "spec.sites.a.weight: the mode is not weighted"),
            (
                r#"{"mode":"weighted","sites":{"a":{"weight":1001}}}"#,
                "spec.sites.a.weight: 1001 is not within 0 to 1000",
            ),
            (r#"{"sites":{"a":{"capacity":0}}}"#, "spec.sites.a.capacity: 0 is not within 1"),
            (r#"{"sites":{"a":{"capacity":1,"capacityPerEndpoint":1}}}"#, "spec.sites.a.capacityPerEndpoint: capacity"),
            (r#"{"number":65536}"#, "spec.number: 65536 is not within 1 to 65535"),
        ] {
            let said = policy(spec).expect_err(spec);
            assert!(said.starts_with(why), "{said}");
        }
    }
}
