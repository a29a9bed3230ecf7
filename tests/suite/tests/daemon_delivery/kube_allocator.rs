//! Daemons that give addresses, with exactly the shipped roles: from a Service without an address to bytes through its VIP.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::apiserver::{ApiServer, documents};
use bascule_lab::{Netns, Stamp, wait_for};
use serde_json::{Value, json};

use crate::kube::{Kube, START, only, pods, service};
use crate::kube_audit::{denied, rights, unused};
use crate::talk::Talk;
use crate::yard::{ENDPOINT_PORT, PORT, Pod};

const RBAC: &str = include_str!("../../../../deploy/rbac.yaml");
const NAMESPACES: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n\
    apiVersion: v1\nkind: Namespace\nmetadata: {name: bascule-system}\n";
const USER: &str = "system:serviceaccount:bascule-system:bascule";
pub(crate) const API: &str = "10.9.0.250";
pub(crate) const SERVICES: &str = "/api/v1/namespaces/shop/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";
pub(crate) const POOLS: &str = "/apis/bascule.dev/v1alpha1/vippools";
pub(crate) const L2_ANNOUNCEMENTS: &str = "/apis/bascule.dev/v1alpha1/l2announcements";
pub(crate) const BGP_PEERS: &str = "/apis/bascule.dev/v1alpha1/bgppeers";
pub(crate) const BGP_ANNOUNCEMENTS: &str = "/apis/bascule.dev/v1alpha1/bgpannouncements";
pub(crate) const STATUSES: &str = "/apis/bascule.dev/v1alpha1/vipstatuses";
/// Services whose way to an address is measured.
const MEASURED: usize = 50;

/// Three nodes and an API server with exactly the shipped roles.
pub(crate) struct Scene {
    pub(crate) kube: Kube,
    pub(crate) api: ApiServer,
    /// Where the server runs, and what the daemons show it.
    pub(crate) host: Netns,
    pub(crate) token: String,
    /// What was asked before the roles were in force is nobody's fault.
    before: usize,
    pub(crate) began: Stamp,
}

impl Scene {
    /// An API server on the LAN of three nodes, which have no ids yet.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let mut kube = Kube::new(name)?;
        let lab = kube.yard.crew.lab();
        let (host, _port) = lab.host("api", kube.yard.crew.lan(), &[format!("{API}/24").parse()?])?;
        let api = ApiServer::start(lab, &host, &[API.parse()?])?;
        api.install_kinds()?;
        [NAMESPACES, RBAC].into_iter().try_for_each(|text| api.apply(text))?;
        for (name, node) in &kube.intent.nodes {
            let address = node.addresses.first().context("an address")?;
            let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
                "status": {"addresses": [{"type": "InternalIP", "address": address}]}});
            api.must("POST", "/api/v1/nodes", Some(&object))?;
        }
        let token = api.token("bascule-system", "bascule")?;
        // The authorizer follows what was just created.
        let lease = "/apis/coordination.k8s.io/v1/namespaces/bascule-system/leases/bascule-allocator";
        for (path, wanted) in [("/api/v1/services", 200), (POOLS, 200), (lease, 404)] {
            wait_for(START, "the roles and the kind to be known", || {
                let (status, _) = api.request_as(&token, "GET", path, None).ok()?;
                (status == wanted).then_some(())
            })?;
        }
        kube.kubeconfig = Some(api.kubeconfig("bascule", API.parse()?, &token)?);
        kube.lease_namespace = Some("bascule-system");
        let before = api.audit()?.len();
        Ok(Self { kube, api, host, token, before, began: Stamp::now() })
    }

    /// A pool for Services with this label.
    pub(crate) fn pool(&self, name: &str, first: &str, last: &str) -> Result<()> {
        let spec = json!({"blocks": {"a": {"range": {"first": first, "last": last}}},
            "serviceSelector": {"matchLabels": {"pool": name}}});
        let object =
            json!({"apiVersion": "bascule.dev/v1alpha1", "kind": "VipPool", "metadata": {"name": name}, "spec": spec});
        self.api.must("POST", POOLS, Some(&object)).map(drop).map_err(Into::into)
    }

    pub(crate) fn service(&self, name: &str, pool: &str, class: Option<&str>, annotations: Value) -> Result<()> {
        let port =
            |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": PORT, "targetPort": name});
        let mut object = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "labels": {"pool": pool}, "annotations": annotations},
            "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                "ports": [port("talk", "TCP"), port("ask", "UDP")]}});
        if let Some(class) = class {
            object["spec"]["loadBalancerClass"] = json!(class);
        }
        self.api.must("POST", SERVICES, Some(&object)).map(drop).map_err(Into::into)
    }

    pub(crate) fn slice(&self, name: &str, pod: &Pod, n: u8) -> Result<()> {
        let port = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": ENDPOINT_PORT});
        let object = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "ports": [port("talk", "TCP"), port("ask", "UDP")],
            "endpoints": [{"addresses": [pod.addresses[0]], "nodeName": format!("n{n}"), "conditions": {"ready": true}}]});
        self.api.must("POST", SLICES, Some(&object)).map(drop).map_err(Into::into)
    }

    pub(crate) fn get(&self, name: &str) -> Result<Value> {
        Ok(self.api.must("GET", &format!("{SERVICES}/{name}"), None)?)
    }

    /// The address in the status, as soon as it is there.
    pub(crate) fn address(&self, name: &str) -> Result<IpAddr> {
        let found = wait_for(START, "an address in the status", || {
            self.get(name).ok()?["status"]["loadBalancer"]["ingress"][0]["ip"].as_str()?.parse().ok()
        });
        found.with_context(|| format!("{:?}\n{}", self.get(name), self.kube.told()))
    }

    /// Bytes both ways through this VIP, from the client outside to this pod.
    pub(crate) fn serves(&self, ip: IpAddr, pod: &Pod) -> Result<()> {
        let answer = wait_for(START, "bytes through the VIP", || {
            Talk::open(&self.kube.yard.client, ip, PORT).ok()?.exchange(3_000, 3_000).ok()
        });
        only(&[answer.with_context(|| format!("{ip}\n{}", self.kube.told()))?], &[pod])
    }

    /// The node whose daemon gives addresses.
    pub(crate) fn leader(&self) -> Result<u8> {
        let leads = |n: &u8| {
            let daemon = self.kube.yard.crew.node((*n).into()).daemon.as_ref();
            daemon.is_some_and(|daemon| daemon.state().is_ok_and(|s| s["cluster"]["allocator"]["leads"] == true))
        };
        Ok(wait_for(START, "one that gives", || {
            let all: Vec<u8> = (1..=3).filter(leads).collect();
            (all.len() == 1).then(|| all[0])
        })?)
    }

    /// What our condition says, once its reason is this.
    fn reason(&self, name: &str, wanted: &str) -> Result<()> {
        let found = wait_for(START, "the condition", || {
            let service = self.get(name).ok()?;
            let all = service["status"]["conditions"].as_array()?;
            all.iter().any(|c| c["type"] == "bascule.dev/Allocated" && c["reason"] == wanted).then_some(())
        });
        found.with_context(|| format!("{:?}", self.get(name)))
    }

    fn events(&self, name: &str) -> Result<Vec<String>> {
        let path = format!("/api/v1/namespaces/shop/events?fieldSelector=involvedObject.name%3D{name}");
        let all = self.api.must("GET", &path, None)?;
        let reason = |event: &Value| event["reason"].as_str().map(str::to_owned);
        Ok(all["items"].as_array().into_iter().flatten().filter_map(reason).collect())
    }

    /// From the creation of a Service to its address, many times, one after the other.
    fn measure(&self) -> Result<()> {
        let mut took = Vec::new();
        for n in 0..MEASURED {
            let name = format!("m-{n:02}");
            let began = Stamp::now();
            self.service(&name, "edge", None, json!({}))?;
            let _address = self.address(&name)?;
            took.push(Stamp::now().since(began));
        }
        took.sort();
        let at = |percent: usize| -> Duration { took[(took.len() - 1) * percent / 100] };
        println!("{MEASURED} Services, created to address in status, polled: p50 {:?}, p99 {:?}", at(50), at(99));
        Ok(())
    }
}

#[test]
fn services_are_given_addresses_and_the_shipped_roles_are_what_that_takes() -> Result<()> {
    let mut scene = Scene::new("kgive")?;
    let (one, two) = (scene.kube.yard.pod(1)?, scene.kube.yard.pod(2)?);
    scene.pool("edge", "10.9.0.101", "10.9.0.160")?;
    scene.service("web", "edge", None, json!({}))?;
    scene.slice("web", &one, 1)?;
    scene.service("foreign", "edge", Some("example.org/lb"), json!({}))?;
    let foreign = scene.get("foreign")?;
    // What the daemons are expected to steer.
    scene.kube.add(service("web", 1), pods(&[(&one, 1)]));
    scene.kube.start()?;
    let web = scene.address("web")?;
    ensure!(web == "10.9.0.101".parse::<IpAddr>()?, "{web}");
    scene.serves(web, &one)?;

    scene.measure()?;
    // Deleted, and its address is the lowest that is free.
    let freed = scene.address("m-07")?;
    scene.api.must("DELETE", &format!("{SERVICES}/m-07"), None)?;
    scene.service("again", "edge", None, json!({}))?;
    scene.slice("again", &two, 2)?;
    ensure!(scene.address("again")? == freed);
    scene.serves(freed, &two)?;
    // Asked for, in kube-vip's words.
    scene.service("wish", "edge", None, json!({"kube-vip.io/loadbalancerIPs": "10.9.0.160"}))?;
    scene.slice("wish", &two, 2)?;
    let wish = scene.address("wish")?;
    ensure!(wish == "10.9.0.160".parse::<IpAddr>()?, "{wish}");
    scene.serves(wish, &two)?;

    // No pool serves it: it waits, says why once, and is served when one comes.
    scene.service("waits", "later", None, json!({}))?;
    scene.slice("waits", &one, 1)?;
    scene.reason("waits", "NoPool")?;
    wait_for(START, "the event", || (scene.events("waits").ok()? == ["NoPool"]).then_some(()))?;
    let leader = scene.leader()?;
    let _pending =
        scene.kube.yard.crew.wait_metric(leader.into(), "bascule_cluster_allocator_pending", |v| v == 1.0)?;
    scene.pool("later", "10.9.0.170", "10.9.0.170")?;
    let later = scene.address("waits")?;
    ensure!(later == "10.9.0.170".parse::<IpAddr>()?, "{later}");
    scene.serves(later, &one)?;
    ensure!(scene.events("waits")? == ["NoPool"]);

    scene.reported(web)?;

    // Who gives is seen on every node; when it stops, another one goes on at once and changes nothing.
    for n in 1..=3 {
        let status = scene.kube.yard.daemon(n).ctl(&["status"])?;
        let line = if n == leader { "allocator this node".to_owned() } else { format!("allocator n{leader}_bascule") };
        ensure!(status.contains(&line), "n{n}: {line}\n{status}");
    }
    let told = Stamp::now();
    let mut stopped = scene.kube.yard.crew.node_mut(leader.into()).daemon.take().context("its daemon")?;
    let _signalled = stopped.process.sigterm()?;
    let ended = stopped.process.wait(START)?;
    ensure!(ended.success(), "{ended}\n{}", stopped.process.tail());
    let next = scene.leader()?;
    println!("{:?} from the stop of the one that gave to the next one, polled", Stamp::now().since(told));
    ensure!(next != leader);
    scene.service("after", "edge", None, json!({}))?;
    ensure!(scene.address("after")? != web && scene.address("web")? == web && scene.address("wish")? == wish);

    let now = scene.get("foreign")?;
    ensure!(now["metadata"]["resourceVersion"] == foreign["metadata"]["resourceVersion"], "{now}");
    let events = scene.api.audit()?;
    let events = events.get(scene.before..).context("the log only grows")?;
    let denied = denied(events, USER);
    ensure!(denied.is_empty(), "{denied:?}");
    let unused = unused(&rights(&documents(RBAC)?), events, USER);
    ensure!(unused.is_empty(), "rights in vain: {unused:?}");
    Ok(())
}
