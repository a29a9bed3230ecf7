//! What the allocator writes, and what it leaves alone.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bascule_core::election::lease::timing::Timing;
use bascule_k8s::{Access, Allocator, AllocatorConfig, AllocatorState};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::common::PATIENCE;
use crate::fake::Fake;

pub(crate) const SERVICES: &str = "/api/v1/services";
const SECOND: Duration = Duration::from_secs(1);

fn clock() -> bascule_core::time::Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    let since = START.get_or_init(Instant::now).elapsed();
    bascule_core::time::Instant::from_nanos(u64::try_from(since.as_nanos()).expect("a test is short"))
}

/// A running allocator.
pub(crate) struct Giver {
    pub(crate) state: watch::Receiver<AllocatorState>,
    stop: Option<oneshot::Sender<()>>,
    pub(crate) task: JoinHandle<()>,
}

impl Giver {
    pub(crate) fn start(fake: &Fake, identity: &str) -> Self {
        let timing = Timing::kubernetes(SECOND * 3, SECOND * 2, SECOND / 4).expect("good times");
        let access = Access::Kubeconfig(fake.kubeconfig());
        let mut config = AllocatorConfig::new(access, "kube-system", identity, "boot", timing, clock);
        config.watch = SECOND * 2;
        let allocator = Allocator::new(config);
        let state = allocator.state();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(allocator.run(async move { drop(stopped.await) }));
        Self { state, stop: Some(stop), task }
    }

    pub(crate) async fn until(&mut self, what: &str, wanted: impl FnMut(&AllocatorState) -> bool) -> AllocatorState {
        let found = tokio::time::timeout(PATIENCE, self.state.wait_for(wanted)).await;
        found.unwrap_or_else(|_| panic!("waited for {what}")).expect("it runs").clone()
    }

    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("it ends when it is told to")
            .expect("it does not panic");
    }
}

pub(crate) fn path(name: &str) -> String {
    format!("/api/v1/namespaces/shop/services/{name}")
}

pub(crate) fn service() -> Value {
    json!({"metadata": {}, "spec": {"type": "LoadBalancer", "loadBalancerClass": "bascule.dev/vip", "ports": [{"port": 80}],
        "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}})
}

pub(crate) fn asking(annotations: Value) -> Value {
    let mut service = service();
    service["metadata"]["annotations"] = annotations;
    service
}

pub(crate) fn pool(cidr: &str) -> Value {
    json!({"metadata": {}, "spec": {"blocks": {"a": {"cidr": cidr}}}})
}

/// A namespace, a pool of 254 addresses.
pub(crate) async fn cluster() -> Fake {
    let fake = Fake::start().await;
    fake.put("/api/v1/namespaces/shop", json!({"metadata": {"labels": {"tier": "edge"}}}));
    fake.put("/apis/bascule.dev/v1alpha1/vippools/main", pool("192.0.2.0/24"));
    fake
}

/// Addresses by Service, of those that have one.
pub(crate) fn addresses(fake: &Fake) -> BTreeMap<String, Vec<String>> {
    let inner = fake.lock();
    inner.objects.of(SERVICES).map(|(at, s)| (at.clone(), ips(s))).filter(|(_, ips)| !ips.is_empty()).collect()
}

pub(crate) fn ips(service: &Value) -> Vec<String> {
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array();
    ingress.into_iter().flatten().filter_map(|one| one["ip"].as_str().map(str::to_owned)).collect()
}

fn of(fake: &Fake, name: &str) -> Vec<String> {
    fake.lock().objects.get(&path(name)).map(ips).unwrap_or_default()
}

pub(crate) fn condition(fake: &Fake, name: &str) -> (String, String, String) {
    let inner = fake.lock();
    let all = inner.objects.get(&path(name)).map(|s| s["status"]["conditions"].clone()).unwrap_or_default();
    let ours = all.as_array().into_iter().flatten().find(|c| c["type"] == "bascule.dev/Allocated").cloned();
    let ours = ours.unwrap_or_default();
    let text = |key: &str| ours[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

/// Writes to this object.
fn writes(fake: &Fake, path: &str) -> usize {
    fake.lock().seen.iter().filter(|(method, at)| method != "GET" && at.starts_with(path)).count()
}

#[tokio::test]
async fn each_service_gets_an_address_in_the_exact_form_and_a_deleted_one_gives_it_back() {
    let fake = cluster().await;
    (0..20).for_each(|n| fake.put(&path(&format!("s{n:02}")), service()));
    let giver = Giver::start(&fake, "n1");
    fake.until("all have one", || addresses(&fake).len() == 20).await;
    // The lowest first; the network address is avoided.
    assert_eq!(of(&fake, "s00"), ["192.0.2.1"]);
    let first = fake.lock().objects.get(&path("s00")).unwrap()["status"].clone();
    assert_eq!(first["loadBalancer"], json!({"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}));
    assert_eq!(condition(&fake, "s00"), ("True".into(), "Allocated".into(), "192.0.2.1".into()));
    fake.remove(&path("s03"));
    fake.put(&path("late"), service());
    fake.until("the late one has one", || of(&fake, "late") == ["192.0.2.4"]).await;
    let status = "/apis/bascule.dev/v1alpha1/vippools/main/status";
    fake.until("the pool says so", || {
        let inner = fake.lock();
        let pool = inner.objects.get("/apis/bascule.dev/v1alpha1/vippools/main").unwrap();
        pool["status"]["used"] == 20
            && pool["status"]["free"] == 234
            && pool["status"]["conditions"][0]["status"] == "True"
    })
    .await;
    assert_eq!((writes(&fake, SERVICES), fake.asked("PATCH", "/services/")), (0, 21), "one write each");
    assert!(fake.asked("PATCH", status) <= 3, "the pool's status is written now and then");
    giver.stop().await;
}

#[tokio::test]
async fn nothing_of_others_is_written_and_what_they_gave_is_not_given() {
    let fake = cluster().await;
    let mut foreign = service();
    foreign["spec"]["loadBalancerClass"] = json!("metallb.io/metallb");
    foreign["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    fake.put(&path("foreign"), foreign);
    let mut unclassed = service();
    unclassed["spec"].as_object_mut().unwrap().remove("loadBalancerClass");
    fake.put(&path("unclassed"), unclassed);
    fake.put(&path("inner"), json!({"metadata": {}, "spec": {"type": "ClusterIP", "ports": [{"port": 80}]}}));
    fake.put(&path("ours"), service());
    let giver = Giver::start(&fake, "n1");
    fake.until("ours has one", || !of(&fake, "ours").is_empty()).await;
    assert_eq!(of(&fake, "ours"), ["192.0.2.2"]);
    fake.put(&path("second"), service());
    fake.until("the second has one", || !of(&fake, "second").is_empty()).await;
    for name in ["foreign", "unclassed", "inner"] {
        assert_eq!(writes(&fake, &path(name)), 0, "{name}");
    }
    giver.stop().await;
}

#[tokio::test]
async fn what_a_status_says_is_adopted_whatever_the_pools_say() {
    let fake = cluster().await;
    for (name, ip) in [("a", "192.0.2.77"), ("b", "198.51.100.9")] {
        let mut service = service();
        service["status"] = json!({"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"}]}});
        fake.put(&path(name), service);
    }
    let giver = Giver::start(&fake, "n1");
    fake.until("both are marked", || ["a", "b"].iter().all(|name| condition(&fake, name).0 == "True")).await;
    assert_eq!((of(&fake, "a"), of(&fake, "b")), (vec!["192.0.2.77".to_owned()], vec!["198.51.100.9".to_owned()]));
    giver.stop().await;
}

#[tokio::test]
async fn a_service_that_waits_says_why_once_and_is_served_when_it_can_be() {
    let fake = cluster().await;
    fake.put(&path("a"), asking(json!({"bascule.dev/pool": "later"})));
    fake.put(&path("b"), asking(json!({"bascule.dev/addresses": "203.0.113.5"})));
    fake.put(&path("c"), asking(json!({"metallb.universe.tf/loadBalancerIPs": "web"})));
    let mut giver = Giver::start(&fake, "n1");
    fake.until("each says why", || ["a", "b", "c"].iter().all(|name| condition(&fake, name).0 == "False")).await;
    assert_eq!(condition(&fake, "a").1, "UnknownPool");
    assert_eq!(condition(&fake, "b").1, "NotInPool");
    assert_eq!(condition(&fake, "c").1, "BadRequest");
    giver.until("three wait", |state| state.pending >= 2 && state.events == 3).await;
    // An unrelated change says nothing again.
    fake.change(&path("a"), |service| service["metadata"]["labels"] = json!({"x": "y"}));
    fake.put("/apis/bascule.dev/v1alpha1/vippools/later", pool("203.0.113.0/28"));
    fake.change(&path("c"), |service| service["metadata"]["annotations"] = json!({}));
    fake.until("each has one", || addresses(&fake).len() == 3).await;
    assert_eq!((of(&fake, "a"), of(&fake, "b")), (vec!["203.0.113.1".to_owned()], vec!["203.0.113.5".to_owned()]));
    assert_eq!(fake.asked("POST", "/events"), 3, "one word each");
    let told = {
        let inner = fake.lock();
        let mut events = inner.objects.of("/api/v1/events").map(|(_, event)| event);
        events.find(|event| event["involvedObject"]["name"] == "a").cloned().expect("it was told")
    };
    assert_eq!((told["reason"].as_str(), told["type"].as_str()), (Some("UnknownPool"), Some("Warning")));
    assert!(told["message"].as_str().unwrap().contains("pool later does not exist"));
    giver.stop().await;
}

#[tokio::test]
async fn services_of_one_key_share_and_others_wait() {
    let fake = cluster().await;
    let keyed = |port: u16| {
        let mut service = asking(json!({"metallb.io/allow-shared-ip": "k", "bascule.dev/addresses": "192.0.2.9"}));
        service["spec"]["ports"] = json!([{"port": port}]);
        service
    };
    fake.put(&path("a"), keyed(80));
    let giver = Giver::start(&fake, "n1");
    fake.until("the first has it", || !of(&fake, "a").is_empty()).await;
    fake.put(&path("b"), keyed(443));
    fake.put(&path("c"), keyed(80));
    fake.until("the second has it", || of(&fake, "b") == ["192.0.2.9"]).await;
    fake.until("the third says why not", || condition(&fake, "c").1 == "PortTaken").await;
    fake.remove(&path("a"));
    fake.until("the third has it", || of(&fake, "c") == ["192.0.2.9"]).await;
    giver.stop().await;
}

#[tokio::test]
async fn a_service_that_changes_its_type_keeps_only_what_others_gave() {
    let fake = cluster().await;
    fake.put(&path("a"), service());
    let giver = Giver::start(&fake, "n1");
    fake.until("it has one", || of(&fake, "a") == ["192.0.2.1"]).await;
    fake.change(&path("a"), |service| {
        service["spec"]["type"] = json!("ClusterIP");
        service["status"]["loadBalancer"]["ingress"].as_array_mut().unwrap().push(json!({"ip": "198.51.100.1"}));
    });
    fake.until("ours is gone", || of(&fake, "a") == ["198.51.100.1"]).await;
    assert_eq!(condition(&fake, "a").0, "");
    fake.put(&path("b"), service());
    fake.until("it is free again", || of(&fake, "b") == ["192.0.2.1"]).await;
    giver.stop().await;
}

#[tokio::test]
async fn of_two_pools_that_overlap_the_older_one_gives() {
    let fake = cluster().await;
    let mut later = pool("192.0.2.128/25");
    later["metadata"]["creationTimestamp"] = json!("2026-02-01T00:00:00Z");
    later["spec"]["priority"] = json!(9);
    fake.put("/apis/bascule.dev/v1alpha1/vippools/later", later);
    fake.put(&path("a"), service());
    let giver = Giver::start(&fake, "n1");
    fake.until("it has one", || of(&fake, "a") == ["192.0.2.1"]).await;
    fake.until("the later one says why", || {
        let inner = fake.lock();
        let later = inner.objects.get("/apis/bascule.dev/v1alpha1/vippools/later").unwrap();
        let condition = &later["status"]["conditions"][0];
        condition["reason"] == "Overlaps" && condition["message"].as_str().unwrap().contains("pool main")
    })
    .await;
    giver.stop().await;
}
