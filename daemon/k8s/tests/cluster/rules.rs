//! Objects about announcements and sites, of a server that has them, does not know them, or does not show them.

use bascule_core::election::lease::Condition;
use bascule_core::intent::rules::{L2Rule, Rules};
use serde_json::json;

use crate::fake::Fake;
use crate::reader::{Reading, seed};

const EDGE: &str = "/apis/bascule.dev/v1alpha1/l2announcements/edge";

fn rule(shards: u8) -> L2Rule {
    let created = String::new();
    L2Rule { created, choice: Default::default(), nodes: Default::default(), interfaces: vec![], shards }
}

#[tokio::test]
async fn announcements_and_pools_are_read_and_nonsense_leaves_what_was_before() {
    let fake = Fake::start().await;
    seed(&fake);
    let mut reading = Reading::start(&fake);
    let first = reading.intent("the first intent", |_| true).await;
    assert_eq!(first.rules, Rules::default());
    fake.put(
        "/apis/bascule.dev/v1alpha1/vippools/p",
        json!({"metadata": {}, "spec": {"blocks": {"a": {"cidr": "192.0.2.0/24"}}}}),
    );
    fake.put(EDGE, json!({"metadata": {}, "spec": {"pools": ["p"], "shards": 3}}));
    let both = reading.intent("both", |i| !i.rules.l2.is_empty() && !i.rules.pools.is_empty()).await;
    assert!(both.rules.pools["p"][0].contains("192.0.2.7".parse().unwrap()));
    assert!(both.rules.l2["edge"].shards == 3 && both.rules.l2["edge"].choice.pools.contains("p"));
    fake.put(EDGE, json!({"metadata": {}, "spec": {"shards": 99}}));
    let then = reading.intent("the refusal", |intent| !intent.rules.wrong.is_empty()).await;
    assert_eq!(then.rules.l2, both.rules.l2, "the last good words hold");
    let wrong = &then.rules.wrong[0];
    assert_eq!((wrong.kind.as_str(), wrong.name.as_str(), wrong.kept), ("L2Announcement", "edge", true));
    assert_eq!(wrong.why, "spec.shards: 99 is not within 1 to 32");
    fake.remove(EDGE);
    reading.intent("none", |intent| intent.rules.l2.is_empty() && intent.rules.wrong.is_empty()).await;
    reading.stop().await;
}

#[tokio::test]
async fn sites_and_their_policies_are_read_and_nonsense_leaves_what_was_before() {
    const POLICY: &str = "/apis/bascule.dev/v1alpha1/sitetrafficpolicies/shop";
    const SITE: &str = "/apis/bascule.dev/v1alpha1/sites/dc-b";
    let fake = Fake::start().await;
    seed(&fake);
    let mut reading = Reading::start(&fake);
    reading.intent("the first intent", |_| true).await;
    fake.put(SITE, json!({"metadata": {}, "spec": {"id": 2}}));
    let spec = |weight: u32| json!({"mode": "weighted", "sites": {"dc-b": {"weight": weight}}});
    fake.put(POLICY, json!({"metadata": {}, "spec": spec(50)}));
    let both = reading.intent("both", |i| !i.rules.sites.is_empty() && !i.rules.traffic.is_empty()).await;
    assert_eq!(both.rules.sites["dc-b"], r#"{"id":2}"#);
    assert_eq!(both.rules.traffic["shop"].sites["dc-b"].weight, Some(50));
    fake.put(POLICY, json!({"metadata": {}, "spec": spec(5000)}));
    let then = reading.intent("the refusal", |intent| !intent.rules.wrong.is_empty()).await;
    assert_eq!(then.rules.traffic, both.rules.traffic, "the last good words hold");
    let wrong = &then.rules.wrong[0];
    assert_eq!((wrong.kind.as_str(), wrong.name.as_str(), wrong.kept), ("SiteTrafficPolicy", "shop", true));
    fake.remove(POLICY);
    fake.remove(SITE);
    reading.intent("none", |intent| intent.rules == Rules::default()).await;
    reading.stop().await;
    // Who starts without the kinds knows what a former run knew.
    let other = Fake::start().await;
    seed(&other);
    other.lock().withheld = Some(("sitetrafficpolicies", 404));
    let mut reading = Reading::knowing(&other, &both.rules);
    let first = reading.intent("the first intent", |_| true).await;
    assert_eq!((&first.rules.traffic, first.rules.sites.len()), (&both.rules.traffic, 0));
    reading.stop().await;
}

/// A server that answers so for the kind: the rest is read all the same, and what a former run knew stays.
async fn without(code: u16, said: Option<&str>) {
    let fake = Fake::start().await;
    seed(&fake);
    fake.lock().withheld = Some(("l2announcements", code));
    let known = Rules { l2: [("edge".to_owned(), rule(2))].into(), ..Rules::default() };
    let mut reading = Reading::knowing(&fake, &known);
    let first = reading.intent("the first intent", |_| true).await;
    assert_eq!((first.services.len(), &first.rules.l2), (1, &known.l2));
    let state = reading.state("the other kinds to be watched", |state| state.watches >= 8).await;
    assert_eq!((state.condition, state.detail.as_deref()), (Condition::Reachable, None));
    match said {
        Some(said) => assert!(state.untold.is_some_and(|words| words.contains(said))),
        None => assert_eq!(state.untold, None),
    }
    reading.stop().await;
}

#[tokio::test]
async fn a_server_that_does_not_know_the_kind_is_read_without() {
    without(404, None).await;
}

#[tokio::test]
async fn a_role_without_the_kind_is_told_and_costs_nothing_else() {
    without(403, Some("withheld")).await;
}
