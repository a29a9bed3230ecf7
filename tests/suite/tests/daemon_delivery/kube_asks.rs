//! What a Service can ask of the allocator, and pools of its Services: by bytes that a client outside the nodes sends and receives through
//! the VIP that came of it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::wait_for;
use serde_json::{Value, json};

use crate::kube::{START, only, pods, service};
use crate::kube_allocator::{POOLS, Scene};
use crate::talk::{Datagrams, Talk};
use crate::yard::{ENDPOINT_PORT, PORT, Pod};

/// The other namespace: pools select it by this label.
const OTHER: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: other, labels: {tier: edge}}\n";
/// What an answer of `healthCheckNodePort` may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A Service as these tests write it.
struct Ask<'a> {
    namespace: &'a str,
    name: &'a str,
    labels: Value,
    annotations: Value,
    /// Over `spec` of one TCP and one UDP port.
    spec: Value,
    pod: (&'a Pod, u8),
}

impl<'a> Ask<'a> {
    fn new(name: &'a str, pod: (&'a Pod, u8)) -> Self {
        Self { namespace: "shop", name, labels: json!({"pool": "edge"}), annotations: json!({}), spec: json!({}), pod }
    }

    fn annotated(name: &'a str, pod: (&'a Pod, u8), annotation: &str, value: &str) -> Self {
        Self { annotations: json!({annotation: value}), ..Self::new(name, pod) }
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/services/{}", self.namespace, self.name)
    }

    /// Makes it, with a slice of each family that it has; gives its addresses once there are `count`.
    fn make(&self, scene: &Scene, count: usize) -> Result<Vec<IpAddr>> {
        let mut spec = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "ports": [{"name": "talk", "protocol": "TCP", "port": PORT, "targetPort": "talk"},
                {"name": "ask", "protocol": "UDP", "port": PORT, "targetPort": "ask"}]});
        for (key, value) in self.spec.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let object = json!({"apiVersion": "v1", "kind": "Service", "spec": spec,
            "metadata": {"name": self.name, "labels": self.labels, "annotations": self.annotations}});
        let collection = format!("/api/v1/namespaces/{}/services", self.namespace);
        scene.api.must("POST", &collection, Some(&object))?;
        let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", self.namespace);
        let port = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": ENDPOINT_PORT});
        for (address, family) in self.pod.0.addresses.iter().zip(["IPv4", "IPv6"]) {
            let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
                "metadata": {"name": format!("{}-{}", self.name, family.to_lowercase()),
                    "labels": {"kubernetes.io/service-name": self.name}},
                "ports": [port("talk", "TCP"), port("ask", "UDP")],
                "endpoints": [{"addresses": [address], "nodeName": format!("n{}", self.pod.1), "conditions": {"ready": true}}]});
            scene.api.must("POST", &slices, Some(&slice))?;
        }
        let path = self.path();
        let given = || {
            let now = scene.api.must("GET", &path, None).ok()?;
            let all = now["status"]["loadBalancer"]["ingress"].as_array()?;
            let all: Vec<IpAddr> = all.iter().filter_map(|one| one["ip"].as_str()?.parse().ok()).collect();
            (all.len() == count).then_some(all)
        };
        let found = wait_for(START, "the addresses in the status", given);
        found.with_context(|| format!("{}: {:?}\n{}", self.name, scene.api.must("GET", &path, None), scene.kube.told()))
    }

    /// Its one address, which is this one and serves by TCP and UDP.
    fn gets(&self, scene: &Scene, wanted: &str) -> Result<()> {
        let given = self.make(scene, 1)?;
        ensure!(given == [wanted.parse::<IpAddr>()?], "{}: {given:?}, not {wanted}", self.name);
        let status = &scene.api.must("GET", &self.path(), None)?["status"];
        let said = status["conditions"].as_array().into_iter().flatten();
        let allocated = said.filter(|c| c["type"] == "bascule.dev/Allocated" && c["status"] == "True").count();
        ensure!(allocated == 1 && status["loadBalancer"]["ingress"][0]["ipMode"] == "VIP", "{status}");
        scene.serves(given[0], self.pod.0)?;
        let asked = Datagrams::open(&scene.kube.yard.client, given[0], PORT)?.ask(500);
        only(&[asked.with_context(|| self.name.to_owned())?], &[self.pod.0])
    }
}

fn pool(scene: &Scene, name: &str, spec: Value) -> Result<()> {
    let object =
        json!({"apiVersion": "bascule.dev/v1alpha1", "kind": "VipPool", "metadata": {"name": name}, "spec": spec});
    scene.api.must("POST", POOLS, Some(&object)).map(drop).map_err(Into::into)
}

/// A cluster with one Service that is served, a pool `edge` and a second namespace.
fn begin(name: &str) -> Result<(Scene, Pod, Pod)> {
    let mut scene = Scene::new(name)?;
    let (one, two) = (scene.kube.yard.pod(1)?, scene.kube.yard.pod(2)?);
    scene.api.apply(OTHER)?;
    scene.pool("edge", "10.9.0.101", "10.9.0.120")?;
    scene.service("web", "edge", None, json!({}))?;
    scene.slice("web", &one, 1)?;
    scene.kube.add(service("web", 1), pods(&[(&one, 1)]));
    scene.kube.start()?;
    Ok((scene, one, two))
}

#[test]
fn what_services_and_pools_ask_for_is_given_and_serves() -> Result<()> {
    let (scene, one, two) = begin("kasks")?;
    let (on_one, on_two) = ((&one, 1), (&two, 2));
    // An address by name, in five ways; and our class.
    let field = Ask { spec: json!({"loadBalancerIP": "10.9.0.111"}), ..Ask::new("by-field", on_one) };
    field.gets(&scene, "10.9.0.111")?;
    for (name, annotation, address) in [
        ("by-ours", "bascule.dev/addresses", "10.9.0.112"),
        ("by-kube-vip", "kube-vip.io/loadbalancerIPs", "10.9.0.113"),
        ("by-metallb", "metallb.io/loadBalancerIPs", "10.9.0.114"),
        ("by-old-metallb", "metallb.universe.tf/loadBalancerIPs", "10.9.0.115"),
    ] {
        Ask::annotated(name, on_two, annotation, address).gets(&scene, address)?;
    }
    let class = json!({"loadBalancerClass": "bascule.dev/vip"});
    Ask { spec: class, ..Ask::new("classed", on_one) }.gets(&scene, "10.9.0.102")?;

    pools(&scene, on_one)?;
    shared(&scene, on_one, on_two)?;
    dual(&scene, on_two)?;
    health(&scene, on_one)
}

/// Which pool gives, and which of its addresses.
fn pools(scene: &Scene, pod: (&Pod, u8)) -> Result<()> {
    let range = |address: &str| json!({"a": {"range": {"first": address, "last": address}}});
    let of = |label: &str| json!({"matchLabels": {"pool": label}});
    let labelled = |name, label: &str| Ask { labels: json!({"pool": label}), ..Ask::new(name, pod) };
    // The higher priority gives first, then the other.
    pool(scene, "low", json!({"blocks": range("10.9.0.130"), "serviceSelector": of("ranked")}))?;
    pool(scene, "high", json!({"blocks": range("10.9.0.131"), "serviceSelector": of("ranked"), "priority": 5}))?;
    labelled("first", "ranked").gets(scene, "10.9.0.131")?;
    labelled("second", "ranked").gets(scene, "10.9.0.130")?;
    // Only to who names it.
    pool(scene, "named", json!({"blocks": range("10.9.0.132"), "autoAssign": false, "serviceSelector": of("named")}))?;
    let named = Ask { annotations: json!({"bascule.dev/pool": "named"}), ..labelled("names-it", "named") };
    named.gets(scene, "10.9.0.132")?;
    // Not the network's own address.
    let ends = json!({"a": {"cidr": "10.9.0.136/30"}});
    pool(scene, "ends", json!({"blocks": ends, "avoidEnds": true, "serviceSelector": of("ends")}))?;
    labelled("inside", "ends").gets(scene, "10.9.0.137")?;
    // By the labels of the namespace.
    let tier = json!({"matchLabels": {"tier": "edge"}});
    let spec = json!({"blocks": range("10.9.0.133"), "namespaceSelector": tier, "serviceSelector": of("tier")});
    pool(scene, "tier", spec)?;
    let elsewhere = Ask { namespace: "other", ..labelled("elsewhere", "tier") };
    elsewhere.gets(scene, "10.9.0.133")
}

/// One address for three Services of different ports, one of them in another namespace.
fn shared(scene: &Scene, one: (&Pod, u8), two: (&Pod, u8)) -> Result<()> {
    let with = |port: u16| json!({"ports": [{"name": "talk", "protocol": "TCP", "port": port, "targetPort": "talk"}]});
    let key = json!({"bascule.dev/allow-shared-ip": "k", "bascule.dev/allow-shared-ip-with": "*",
        "bascule.dev/addresses": "10.9.0.118"});
    let ask = |name, namespace, port, pod| Ask {
        namespace,
        annotations: key.clone(),
        spec: with(port),
        labels: json!({"pool": "edge"}),
        name,
        pod,
    };
    let address: IpAddr = "10.9.0.118".parse()?;
    for (name, namespace, port, pod) in
        [("share-a", "shop", PORT, one), ("share-b", "shop", PORT + 1, two), ("share-c", "other", PORT + 2, two)]
    {
        ensure!(ask(name, namespace, port, pod).make(scene, 1)? == [address], "{name}");
        let answer = wait_for(START, "bytes through the shared VIP", || {
            Talk::open(&scene.kube.yard.client, address, port).ok()?.exchange(3_000, 3_000).ok()
        });
        only(&[answer.with_context(|| format!("{name}\n{}", scene.kube.told()))?], &[pod.0])?;
    }
    Ok(())
}

/// One address of each family, and bytes through both.
fn dual(scene: &Scene, pod: (&Pod, u8)) -> Result<()> {
    let range = |first: &str| json!({"range": {"first": first, "last": first}});
    let blocks = json!({"four": range("10.9.0.140"), "six": range("fd09::140")});
    pool(scene, "dual", json!({"blocks": blocks, "serviceSelector": {"matchLabels": {"pool": "dual"}}}))?;
    let spec = json!({"ipFamilyPolicy": "RequireDualStack"});
    let ask = Ask { labels: json!({"pool": "dual"}), spec, ..Ask::new("dual", pod) };
    let given = ask.make(scene, 2)?;
    ensure!(given.contains(&"10.9.0.140".parse()?) && given.contains(&"fd09::140".parse()?), "{given:?}");
    for address in given {
        scene.serves(address, pod.0)?;
        only(&[Datagrams::open(&scene.kube.yard.client, address, PORT)?.ask(500)?], &[pod.0])?;
    }
    Ok(())
}

/// The port that the API server chose says on each node whether it has endpoints.
fn health(scene: &Scene, pod: (&Pod, u8)) -> Result<()> {
    let spec = json!({"externalTrafficPolicy": "Local"});
    let ask = Ask { spec, ..Ask::new("local", pod) };
    let given = ask.make(scene, 1)?;
    scene.serves(given[0], pod.0)?;
    let port = scene.api.must("GET", &ask.path(), None)?["spec"]["healthCheckNodePort"].as_u64();
    let port = u16::try_from(port.context("a healthCheckNodePort")?)?;
    for n in 1..=3 {
        let wanted = if n == pod.1 { "200 OK" } else { "503 Service Unavailable" };
        let to = (IpAddr::from([10, 9, 0, n]), port).into();
        let answered = wait_for(START, "the answer of healthCheckNodePort", || {
            let ask = || -> std::io::Result<String> {
                let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n")?;
                let mut text = String::new();
                stream.read_to_string(&mut text).map(|_| text)
            };
            scene.kube.yard.client.run(ask).ok().filter(|text| text.contains(wanted))
        });
        answered.with_context(|| format!("n{n}, {wanted}"))?;
    }
    Ok(())
}
