//! The reader of the intent against an API server that hangs, breaks, forgets and refuses: what was read never empties and never shrinks.
//!
//! Nothing here asserts how fast something happens, but that it happens and what does not.

use std::sync::Arc;
use std::time::Duration;

use bascule_core::election::lease::Condition;
use bascule_core::intent::Intent;
use bascule_core::intent::rules::Rules;
use bascule_k8s::{Access, ApiState, Reader, ReaderConfig};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::common::PATIENCE;
use crate::fake::{Fake, Mood};

/// Kinds that are read: Services, EndpointSlices, Nodes, VipPools, L2Announcements, BgpPeers, BgpAnnouncements, Sites, SiteTrafficPolicies.
const KINDS: usize = 9;
const SERVICE: &str = "/api/v1/namespaces/shop/services/web";
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/web-1";

fn service(kind: &str) -> Value {
    json!({"metadata": {}, "spec": {"type": kind, "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}}})
}

fn slice(service: &str, ready: &[bool]) -> Value {
    let endpoint = |(at, ready): (usize, &bool)| json!({"addresses": [format!("10.1.0.{}", at + 1)], "nodeName": "n1", "conditions": {"ready": ready}});
    json!({"metadata": {"labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4", "ports": [{"port": 8080}],
        "endpoints": ready.iter().enumerate().map(endpoint).collect::<Vec<_>>()})
}

fn node(address: &str) -> Value {
    json!({"metadata": {}, "status": {"addresses": [{"type": "InternalIP", "address": address}]}})
}

/// One Service with two endpoints, one node; another Service that is not of the type, with its slice.
pub(crate) fn seed(fake: &Fake) {
    fake.put(SERVICE, service("LoadBalancer"));
    fake.put(SLICE, slice("web", &[true, true]));
    fake.put("/api/v1/namespaces/shop/services/inner", service("ClusterIP"));
    fake.put("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/inner-1", slice("inner", &[true]));
    fake.put("/api/v1/nodes/n1", node("10.0.0.1"));
}

/// A running reader.
pub(crate) struct Reading {
    intents: watch::Receiver<Option<Arc<Intent>>>,
    state: watch::Receiver<ApiState>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Reading {
    pub(crate) fn start(fake: &Fake) -> Self {
        Self::knowing(fake, &Rules::default())
    }

    /// With the announcements of a former run.
    pub(crate) fn knowing(fake: &Fake, rules: &Rules) -> Self {
        let access = Access::Kubeconfig(fake.kubeconfig());
        let config = ReaderConfig { watch: Duration::from_secs(2), ..ReaderConfig::new(access, |_, _, _| Ok(())) };
        let reader = Reader::new(config).knowing(rules);
        let (intents, state) = (reader.intents(), reader.state());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(reader.run(async move { drop(stopped.await) }));
        Self { intents, state, stop, task }
    }

    /// The next intent that `wanted` takes.
    pub(crate) async fn intent(&mut self, what: &str, wanted: impl Fn(&Intent) -> bool) -> Arc<Intent> {
        let found = self.intents.wait_for(|intent| intent.as_deref().is_some_and(&wanted));
        let found = tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("waited for {what}"));
        found.expect("the reader runs").clone().expect("it is one")
    }

    async fn condition(&mut self, wanted: Condition) -> ApiState {
        self.state(&format!("{wanted:?}"), |state| state.condition == wanted).await
    }

    pub(crate) async fn state(&mut self, what: &str, wanted: impl FnMut(&ApiState) -> bool) -> ApiState {
        let found = tokio::time::timeout(PATIENCE, self.state.wait_for(wanted)).await;
        found.unwrap_or_else(|_| panic!("waited for {what}")).expect("the reader runs").clone()
    }

    /// Seen by nobody since.
    fn is_unchanged(&mut self) -> bool {
        !self.intents.has_changed().expect("the reader runs")
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).expect("the reader runs");
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("it ends when it is told to")
            .expect("it does not panic");
    }
}

fn ready(intent: &Intent) -> Vec<bool> {
    let endpoints = intent.services.iter().flat_map(|s| &s.slices).flat_map(|s| &s.endpoints);
    endpoints.map(|endpoint| endpoint.ready == Some(true)).collect()
}

#[tokio::test]
async fn what_a_cluster_has_is_read_and_followed() {
    let fake = Fake::start().await;
    seed(&fake);
    let mut reading = Reading::start(&fake);
    let first = reading.intent("the first intent", |_| true).await;
    assert_eq!((first.services.len(), first.nodes.len(), ready(&first)), (1, 1, vec![true, true]));
    let web = &first.services[0].service;
    assert_eq!((web.name.as_str(), web.vips.as_slice()), ("web", ["192.0.2.1".parse().unwrap()].as_slice()));
    assert_eq!(first.nodes["n1"].addresses, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);

    fake.put(SLICE, slice("web", &[true, false]));
    reading.intent("an endpoint that is not ready", |intent| ready(intent) == [true, false]).await;
    // Its slice came long ago, when it was of another type.
    fake.put("/api/v1/namespaces/shop/services/inner", service("LoadBalancer"));
    let both = reading.intent("a second service", |intent| intent.services.len() == 2).await;
    assert_eq!((both.services[0].service.name.as_str(), both.services[0].slices.len()), ("inner", 1));
    fake.put(SERVICE, service("NodePort"));
    reading.intent("the first one gone", |intent| intent.services.len() == 1).await;
    fake.remove("/api/v1/nodes/n1");
    reading.intent("no node", |intent| intent.nodes.is_empty()).await;
    reading.stop().await;
}

#[tokio::test]
async fn nothing_is_handed_out_before_all_lists_are_complete() {
    let fake = Fake::start().await;
    seed(&fake);
    fake.set_mood(Mood::Status(503));
    let mut reading = Reading::start(&fake);
    let state = reading.condition(Condition::Unreachable).await;
    assert!(
        state.detail.as_deref().is_some_and(|said| said.contains("503") && said.contains("test wants")),
        "{state:?}"
    );
    fake.until("it asked for each kind again", || {
        ["services", "endpointslices", "nodes"].iter().all(|kind| fake.asked("GET", kind) > 1)
    })
    .await;
    assert!(reading.is_unchanged());
    fake.set_mood(Mood::Well);
    let first = reading.intent("the first intent", |_| true).await;
    assert_eq!((first.services.len(), first.nodes.len(), ready(&first)), (1, 1, vec![true, true]));
    reading.condition(Condition::Reachable).await;
    reading.stop().await;
}

#[tokio::test]
async fn lists_come_in_pages_and_a_burst_makes_few_intents() {
    let fake = Fake::start().await;
    let name = |n: u32| format!("/api/v1/namespaces/shop/services/s{n:04}");
    (0..1234).for_each(|n| fake.put(&name(n), service("LoadBalancer")));
    let mut reading = Reading::start(&fake);
    let first = reading.intent("the first intent", |_| true).await;
    assert_eq!(first.services.len(), 1234);
    assert_eq!(fake.asked("GET", "/api/v1/services?&limit=500"), 3, "{:?}", fake.lock().seen);
    let mut handed = 0;
    (1234..1634).for_each(|n| fake.put(&name(n), service("LoadBalancer")));
    loop {
        handed += 1;
        reading.intents.changed().await.unwrap();
        let count = reading.intents.borrow_and_update().as_ref().unwrap().services.len();
        if count == 1634 {
            break;
        }
    }
    assert!(handed < 200, "{handed} intents for 400 changes");
    reading.stop().await;
}

#[tokio::test]
async fn a_slow_server_is_waited_for() {
    let fake = Fake::start().await;
    seed(&fake);
    fake.set_mood(Mood::Slow);
    let mut reading = Reading::start(&fake);
    fake.until("a list of each kind waits", || fake.lock().waiting == KINDS as u64).await;
    assert!(reading.is_unchanged());
    fake.release();
    reading.intent("the first intent", |_| true).await;
    fake.until("a watch of each kind waits", || fake.lock().waiting == 2 * KINDS as u64).await;
    fake.put(SLICE, slice("web", &[false]));
    fake.release();
    reading.intent("what happens afterwards", |intent| ready(intent) == [false]).await;
    assert_eq!(reading.state.borrow().failures, 0);
    reading.stop().await;
}

/// Changes that are made while the server is in this mood are known afterwards, and nothing is lost meanwhile.
async fn survives(mood: Mood, condition: Condition) {
    let fake = Fake::start().await;
    seed(&fake);
    let mut reading = Reading::start(&fake);
    let first = reading.intent("the first intent", |_| true).await;
    fake.set_mood(mood);
    fake.cut_watches();
    reading.condition(condition).await;
    assert!(reading.is_unchanged(), "an outage changes nothing");
    fake.put(SLICE, slice("web", &[false, true, true]));
    fake.set_mood(Mood::Well);
    let then = reading.intent("what happened meanwhile", |intent| ready(intent).len() == 3).await;
    assert_eq!((&then.services[0].service, &then.nodes), (&first.services[0].service, &first.nodes));
    reading.condition(Condition::Reachable).await;
    // By watches alone: each list is asked for once in a life.
    assert_eq!(fake.asked("GET", "limit="), KINDS, "{:?}", fake.lock().seen);
    reading.stop().await;
}

#[tokio::test]
async fn errors_of_the_server_change_nothing() {
    survives(Mood::Status(500), Condition::Unreachable).await;
}

#[tokio::test]
async fn patience_that_is_asked_for_changes_nothing() {
    survives(Mood::Throttle(1), Condition::Throttled).await;
}

#[tokio::test]
async fn connections_that_break_change_nothing() {
    survives(Mood::Break, Condition::Unreachable).await;
}

#[tokio::test]
async fn a_role_that_was_taken_away_changes_nothing() {
    survives(Mood::Status(403), Condition::Denied).await;
}

#[tokio::test]
async fn a_frozen_server_is_noticed_and_its_watch_goes_on_where_it_stood() {
    let fake = Fake::start().await;
    seed(&fake);
    let mut reading = Reading::start(&fake);
    reading.intent("the first intent", |_| true).await;
    fake.set_mood(Mood::Freeze);
    let state = reading.condition(Condition::Unreachable).await;
    assert!(state.detail.is_some_and(|said| said.contains("did not end")));
    assert!(reading.is_unchanged());
    fake.put(SLICE, slice("web", &[false]));
    fake.set_mood(Mood::Well);
    reading.intent("what happened meanwhile", |intent| ready(intent) == [false]).await;
    assert_eq!(fake.asked("GET", "limit="), KINDS);
    reading.stop().await;
}

#[tokio::test]
async fn watches_that_are_cut_and_histories_that_end_are_made_good() {
    let fake = Fake::start().await;
    seed(&fake);
    let mut reading = Reading::start(&fake);
    reading.intent("the first intent", |_| true).await;
    for round in 1..=20 {
        fake.cut_watches();
        fake.change(SERVICE, |service| service["metadata"]["labels"]["round"] = round.to_string().into());
        fake.put(SLICE, slice("web", &vec![true; round]));
        if round % 4 == 0 {
            // The changes just made are in no history any more.
            fake.compact();
            fake.cut_watches();
        }
        reading.intent("this round's endpoints", |intent| ready(intent).len() == round).await;
        let intent = reading.intents.borrow().clone().unwrap();
        assert_eq!((intent.services.len(), intent.nodes.len()), (1, 1));
    }
    // What went away while nobody watched is seen by the list.
    fake.remove(SLICE);
    fake.compact();
    fake.cut_watches();
    reading.intent("no endpoint", |intent| ready(intent).is_empty()).await;
    reading.stop().await;
}

#[tokio::test]
async fn a_page_of_a_proxy_is_no_list() {
    let fake = Fake::start().await;
    seed(&fake);
    let mut reading = Reading::start(&fake);
    reading.intent("the first intent", |_| true).await;
    fake.set_mood(Mood::Status(200));
    fake.cut_watches();
    let state = reading.condition(Condition::Unreachable).await;
    assert!(state.detail.is_some_and(|said| said.contains("broke off")));
    assert!(reading.is_unchanged());
    let mut late = Reading::start(&fake);
    let state = late.condition(Condition::Unreachable).await;
    assert!(state.detail.is_some_and(|said| said.contains("a list of")));
    assert!(late.is_unchanged());
    late.stop().await;
    reading.stop().await;
}

#[tokio::test]
async fn a_token_that_was_replaced_is_read_again() {
    let fake = Fake::start().await;
    seed(&fake);
    let mut reading = Reading::start(&fake);
    reading.intent("the first intent", |_| true).await;
    fake.rotate("better");
    fake.cut_watches();
    reading.condition(Condition::Denied).await;
    fake.write_token("better");
    reading.condition(Condition::Reachable).await;
    fake.put(SLICE, slice("web", &[false]));
    reading.intent("what happens afterwards", |intent| ready(intent) == [false]).await;
    reading.stop().await;
}

#[tokio::test]
async fn what_does_not_matter_makes_no_intent() {
    let fake = Fake::start().await;
    seed(&fake);
    let mut reading = Reading::start(&fake);
    reading.intent("the first intent", |_| true).await;
    // The status of a node that only says that it lives, an annotation of a CNI, a slice of a Service of another type.
    fake.change("/api/v1/nodes/n1", |node| node["status"]["images"] = json!([{"names": ["a"]}]));
    fake.change(SERVICE, |service| service["metadata"]["annotations"] = json!({"other": "x"}));
    fake.put("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/inner-1", slice("other", &[false]));
    // A list of each kind, to be sure that all of it was seen.
    fake.compact();
    fake.cut_watches();
    reading.state("all to be listed again", |state| state.lists == 2 * KINDS as u64).await;
    assert!(reading.is_unchanged());
    fake.put(SLICE, slice("web", &[false]));
    reading.intent("what matters", |intent| ready(intent) == [false]).await;
    reading.stop().await;
}
