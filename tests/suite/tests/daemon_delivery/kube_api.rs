//! The same through a real API server, with an account that may read and nothing else.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::apiserver::ApiServer;
use bascule_lab::{Port, Stamp, wait_for};
use serde_json::{Value, json};

use crate::kube::{Kube, SHOWS, only, pods, service, vip};
use crate::talk::Talk;
use crate::yard::{ENDPOINT_PORT, PORT, Pod};

/// Account `reader` and the role that reading takes.
const MANIFESTS: &str = include_str!("../../fixtures/kube_reader.yaml");
const API: &str = "10.9.0.250";
const SERVICES: &str = "/api/v1/namespaces/shop/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";

struct Api {
    server: ApiServer,
    port: Port,
}

impl Api {
    /// A server on the LAN of the nodes, which are its Nodes.
    fn start(kube: &mut Kube) -> Result<Self> {
        let (host, port) = kube.yard.crew.lab().host("api", kube.yard.crew.lan(), &[format!("{API}/24").parse()?])?;
        let server = ApiServer::start(kube.yard.crew.lab(), &host, &[API.parse()?])?;
        server.apply(MANIFESTS)?;
        for (name, node) in &kube.intent.nodes {
            let address = node.addresses.first().context("an address")?;
            let id = node.id.context("an id")?.to_string();
            let object = json!({ "apiVersion": "v1", "kind": "Node",
                "metadata": { "name": name, "annotations": { "bascule.dev/node-id": id } },
                "status": { "addresses": [{ "type": "InternalIP", "address": address }] } });
            server.must("POST", "/api/v1/nodes", Some(&object))?;
        }
        let token = server.token("shop", "reader")?;
        kube.kubeconfig = Some(server.kubeconfig("reader", API.parse::<IpAddr>()?, &token)?);
        Ok(Self { server, port })
    }

    /// A Service with its address in its status, as an allocator writes it.
    fn service(&self, name: &str, k: u8, class: Option<&str>) -> Result<()> {
        let port = |name: &str, protocol: &str| json!({ "name": name, "protocol": protocol, "port": PORT, "targetPort": name });
        let mut object = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                "ports": [port("talk", "TCP"), port("ask", "UDP")] } });
        if let Some(class) = class {
            object["spec"]["loadBalancerClass"] = json!(class);
        }
        let mut made = self.server.must("POST", SERVICES, Some(&object))?;
        made["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": vip(k) }] } });
        self.server.must("PUT", &format!("{SERVICES}/{name}/status"), Some(&made))?;
        Ok(())
    }

    /// The slice of a Service, made or replaced.
    fn slice(&self, name: &str, endpoints: &[(&Pod, u8, bool)]) -> Result<()> {
        let one = |(pod, n, ready): &(&Pod, u8, bool)| {
            json!({ "addresses": [pod.addresses[0]], "nodeName": format!("n{n}"),
                "conditions": { "ready": ready, "serving": ready, "terminating": false } })
        };
        let port = |name: &str, protocol: &str| json!({ "name": name, "protocol": protocol, "port": ENDPOINT_PORT });
        let object = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
            "ports": [port("talk", "TCP"), port("ask", "UDP")],
            "endpoints": endpoints.iter().map(one).collect::<Vec<Value>>() });
        let (status, _) = self.server.request("PUT", &format!("{SLICES}/{name}"), Some(&object))?;
        if status == 404 {
            self.server.must("POST", SLICES, Some(&object))?;
        }
        Ok(())
    }
}

#[test]
fn services_of_a_real_api_server_are_served_and_outlive_it() -> Result<()> {
    let mut kube = Kube::new("kapi")?;
    let (one, two) = (kube.yard.pod(1)?, kube.yard.pod(2)?);
    let api = Api::start(&mut kube)?;
    println!("API server {}", api.server.version());
    api.service("web", 1, None)?;
    api.slice("web", &[(&one, 1, true), (&two, 2, true)])?;
    api.service("foreign", 2, Some("example.org/lb"))?;
    api.slice("foreign", &[(&one, 1, true)])?;
    // What the daemons are expected to steer.
    kube.add(service("web", 1), pods(&[(&one, 1), (&two, 2)]));
    kube.start()?;
    only(&kube.talks(1, 10)?, &[&one, &two])?;
    ensure!(Talk::open(&kube.yard.client, vip(2), PORT).is_err(), "a foreign class");
    let state = kube.yard.daemon(2).state()?;
    ensure!(state["cluster"]["source"] == "api", "{}", state["cluster"]);
    // This account may not report who owns: that is said, and costs nothing.
    let said = || kube.yard.daemon(2).ctl(&["status"]).ok().filter(|text| text.contains("VipStatus is not written"));
    let said = wait_for(SHOWS, "the missing right to be said", said)?;
    ensure!(said.contains("vipstatuses") && said.contains("forbidden"), "{said}");

    // A slice changes: no new connection goes there.
    let told = Stamp::now();
    api.slice("web", &[(&one, 1, false), (&two, 2, true)])?;
    let serving = |page: &Value| {
        let services = page["balance"]["services"].as_array().cloned().unwrap_or_default();
        let all = services.iter().flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default());
        all.filter(|e| e["serving"] == true).count()
    };
    for n in 1..=3 {
        kube.yard.crew.wait_page(n, SHOWS, "one endpoint of each port", |page| serving(page) == 2)?;
    }
    println!("{:?} from the write of the slice to the last node's table, polled", Stamp::now().since(told));
    only(&kube.talks(1, 10)?, &[&two])?;

    // A Service more: from its status to its first byte.
    let told = Stamp::now();
    api.service("more", 3, None)?;
    api.slice("more", &[(&one, 1, true)])?;
    wait_for(SHOWS, "the new VIP to serve", || Talk::open(&kube.yard.client, vip(3), PORT).ok()?.exchange(1, 1).ok())?;
    println!("{:?} from a Service to bytes through its VIP", Stamp::now().since(told));
    kube.add(service("more", 3), pods(&[(&one, 1)]));

    // The API server is gone: nothing moves, and a node that starts anew knows what it kept.
    let kept = kube.yard.crew.lab().directory().join("kept-3.json");
    wait_for(SHOWS, "the intent to be kept", || {
        let (intent, _) = bascule::intent::file::read(&kept).ok()??;
        (intent.services.len() == 3).then_some(())
    })?;
    let owners = kube.wait_owners(|_| true)?;
    api.port.set_up(false)?;
    kube.yard.crew.daemon_mut(3).process.sigkill()?;
    kube.yard.crew.node_mut(3).daemon = None;
    kube.wait_owners(|owners| owners.values().all(|owner| *owner != 3))?;
    kube.start_again(3)?;
    let state = kube.yard.daemon(3).state()?;
    ensure!(state["cluster"]["source"] == "file", "{}", state["cluster"]);
    only(&kube.talks(1, 4)?, &[&two])?;
    only(&kube.talks(3, 4)?, &[&one])?;
    let now = kube.wait_owners(|_| true)?;
    ensure!(now.iter().all(|(shard, owner)| owners[shard] == 3 || owners[shard] == *owner), "{owners:?} {now:?}");
    Ok(())
}
