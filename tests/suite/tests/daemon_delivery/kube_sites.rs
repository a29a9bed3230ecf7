//! Two clusters that are two sites: each a node and a real API server of its own, told of one another by Sites alone, and one Service of both
//! by a SiteTrafficPolicy, as a client outside sees it, by bytes.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::apiserver::ApiServer;
use bascule_lab::forward::write_secret;
use bascule_lab::sites::{init, issue, page, share};
use bascule_lab::{Netns, wait_for};
use serde_json::{Value, json};

use crate::kube::START;
use crate::talk::Talk;
use crate::yard::{ENDPOINT_PORT, Hook, PORT, Pod, VIPS, Yard};

const RBAC: &str = include_str!("../../../../deploy/rbac.yaml");
const NAMESPACES: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n\
    apiVersion: v1\nkind: Namespace\nmetadata: {name: bascule-system}\n";
const GROUP: &str = "/apis/bascule.dev/v1alpha1";
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";
const SITES: [&str; 2] = ["dc-a", "dc-b"];
/// The TCP port of the Service, as every node of both sites calls it.
const WEB: &str = "shop/web/10.9.7.100/7000/tcp";
/// Until a site has its whole share: its path up for 10 s, 10 s on probation, a slow start of 60 s, on a busy machine.
const WHOLE: Duration = Duration::from_secs(200);
/// A share that is this near to what the policy says is there: ten of a table's 1,021 slots.
const NEAR: f64 = 0.01;
/// Connections, of which none goes to one of two halves once in 4 million times.
const MANY: usize = 22;

/// A cluster of one node.
struct Cluster {
    api: ApiServer,
    _host: Netns,
}

struct Scene {
    yard: Yard,
    clusters: [Cluster; 2],
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "bascule.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// A site of one node, the same for both clusters.
fn site(n: u8) -> Value {
    json!({
        "id": n, "prefixes": ["10.9.7.0/24"],
        "relays": {format!("n{n}"): {"address": format!("10.9.0.{n}:7845")}},
        "gateways": {format!("n{n}"): {"id": 10 * n, "address": format!("10.9.0.{n}")}},
        "secretFile": "pair.key",
    })
}

fn halves() -> Value {
    json!({"namespaces": ["shop"], "names": ["web"], "mode": "weighted",
        "sites": {"dc-a": {"weight": 50}, "dc-b": {"weight": 50}}})
}

fn endpoints(pod: Option<&Pod>, n: u8) -> Value {
    let one = |pod: &Pod| json!({"addresses": [pod.addresses[0]], "nodeName": format!("n{n}"), "conditions": {"ready": true}});
    json!(pod.map(one).into_iter().collect::<Vec<_>>())
}

impl Scene {
    /// Two clusters with the Service, its address, and no endpoint, without daemons.
    fn new(name: &str) -> Result<Self> {
        let yard = Yard::new(name, 2, Hook::Tc)?;
        let clusters = [cluster(&yard, 1)?, cluster(&yard, 2)?];
        Ok(Self { yard, clusters })
    }

    fn api(&self, n: u8) -> &ApiServer {
        &self.clusters[usize::from(n) - 1].api
    }

    /// Starts the daemon of node `n` with the shipped roles and a file that names no sites.
    fn start(&mut self, n: u8, token: &str) -> Result<()> {
        let dir = self.yard.crew.lab().directory().to_owned();
        let address = format!("10.9.0.{}", 250 + n).parse()?;
        let kubeconfig = self.api(n).kubeconfig("bascule", address, token)?;
        let config = json!({
            "node": format!("n{n}"),
            "forwarding": { "keyFile": dir.join("forward.keys"), "hook": "tc" },
            "bgp": { "asn": 65001 },
            "kubernetes": {
                "cluster": format!("c{n}"), "kubeconfig": kubeconfig,
                "services": { "announce": "bgp", "intentFile": dir.join(format!("kept-{n}.json")), "drain": "60s" },
            },
            "site": {
                "name": SITES[usize::from(n) - 1], "domain": "sites.test", "certificates": dir.join(format!("pki-n{n}")),
                "relay": format!("n{n}"), "incarnation": dir.join(format!("incarnation-n{n}")),
            },
        });
        Ok(self.yard.crew.start(n.into(), &config)?)
    }

    /// The endpoints of the Service in cluster `n`.
    fn serve(&self, n: u8, pod: Option<&Pod>) -> Result<()> {
        let patch = json!({"endpoints": endpoints(pod, n)});
        self.api(n).must("PATCH", &format!("{SLICE}/web"), Some(&patch)).map(drop).map_err(Into::into)
    }

    /// The same of both clusters, as a fleet's tool does it.
    fn both(&self, method: &str, path: &str, body: Option<&Value>) -> Result<()> {
        for n in [1, 2] {
            self.api(n).must(method, &format!("{GROUP}/{path}"), body)?;
        }
        Ok(())
    }

    fn weight(&self, site: &str, weight: u32) -> Result<()> {
        let patch = json!({"spec": {"sites": {site: {"weight": weight}}}});
        self.both("PATCH", "sitetrafficpolicies/web", Some(&patch))
    }

    /// What every node says, for the message of a failure.
    fn told(&self) -> String {
        let of = |n: u8| {
            let daemon = self.yard.daemon(n);
            let said = ["status", "sites"].map(|what| daemon.ctl(&[what]).unwrap_or_else(|error| error.to_string()));
            format!("n{n}: {}\n{}\n{}\n", said[0], said[1], daemon.process.tail())
        };
        [1, 2].map(of).join("\n")
    }

    /// Who answers new connections that arrive at node `n`, each by bytes both ways.
    fn answers(&self, n: u8, count: usize) -> Result<BTreeSet<u8>> {
        self.yard.via(n)?;
        let vip = VIPS[0].parse()?;
        let one = |_| Talk::open(&self.yard.client, vip, PORT)?.exchange(3_000, 3_000);
        (0..count).map(one).collect()
    }

    /// By whichever node they arrive, these pods and no others answer.
    fn answered_by(&self, what: &str, by: [&[&Pod]; 2]) -> Result<()> {
        for (n, pods) in [1, 2].into_iter().zip(by) {
            let wanted: BTreeSet<u8> = pods.iter().map(|pod| pod.number).collect();
            let mut last = None;
            let found = wait_for(START, what, || {
                last = Some(self.answers(n, MANY));
                last.as_ref()?.as_ref().is_ok_and(|seen| *seen == wanted).then_some(())
            });
            found
                .with_context(|| format!("by n{n}: {last:?} of {wanted:?}\n{}{}", self.yard.counted(), self.told()))?;
        }
        Ok(())
    }

    /// On both nodes this site has this share of the Service.
    fn wait_share(&self, what: &str, site: &str, wanted: f64) -> Result<()> {
        for n in [1, 2] {
            let mut last = Value::Null;
            let found = wait_for(WHOLE, what, || {
                last = page(self.yard.daemon(n))?;
                let there = last["services"].as_array()?.iter().any(|service| service["name"] == WEB);
                (there && (share(&last, WEB, site) - wanted).abs() < NEAR).then_some(())
            });
            found.with_context(|| format!("n{n}: {last:#}\n{}", self.told()))?;
        }
        Ok(())
    }

    /// `bascule status` of a node says this.
    fn says(&self, n: u8, words: &str) -> Result<()> {
        let mut last = String::new();
        let said = wait_for(START, "the status to say it", || {
            last = self.yard.daemon(n).ctl(&["status"]).ok()?;
            last.contains(words).then_some(())
        });
        said.with_context(|| format!("{words}\n{last}"))
    }
}

/// The API server of node `n`, with what an operator puts there: the kinds, the roles, a pool of the VIP, the Service that asks for it.
fn cluster(yard: &Yard, n: u8) -> Result<Cluster> {
    let lab = yard.crew.lab();
    let address = format!("10.9.0.{}", 250 + n);
    let (host, _port) = lab.host(&format!("api{n}"), yard.crew.lan(), &[format!("{address}/24").parse()?])?;
    let api = ApiServer::start(lab, &host, &[address.parse()?])?;
    api.install_kinds()?;
    [NAMESPACES, RBAC].into_iter().try_for_each(|text| api.apply(text))?;
    // Ids are one space over all sites: an operator gives them before anybody else does.
    let node = json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("n{n}"), "annotations": {"bascule.dev/node-id": (10 * n).to_string()}},
        "status": {"addresses": [{"type": "InternalIP", "address": format!("10.9.0.{n}")}]}});
    api.must("POST", "/api/v1/nodes", Some(&node))?;
    let pool = object("VipPool", "anycast", &json!({"blocks": {"a": {"cidr": "10.9.7.0/24"}}}));
    api.must("POST", &format!("{GROUP}/vippools"), Some(&pool))?;
    let port = |name: &str, protocol: &str, port: u16| json!({"name": name, "protocol": protocol, "port": port});
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "annotations": {"bascule.dev/addresses": VIPS[0]}},
        "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [port("talk", "TCP", PORT)]}});
    api.must("POST", "/api/v1/namespaces/shop/services", Some(&service))?;
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [port("talk", "TCP", ENDPOINT_PORT)], "endpoints": []});
    api.must("POST", SLICE, Some(&slice))?;
    Ok(Cluster { api, _host: host })
}

/// A token of the daemons' account, once its roles are in force.
fn token(api: &ApiServer) -> Result<String> {
    let token = api.token("bascule-system", "bascule")?;
    for path in ["/api/v1/services".to_owned(), format!("{GROUP}/sites"), format!("{GROUP}/sitetrafficpolicies")] {
        wait_for(START, "the roles to be in force", || {
            let (status, _) = api.request_as(&token, "GET", &path, None).ok()?;
            (status == 200).then_some(())
        })?;
    }
    Ok(token)
}

/// What the definitions refuse, and what they take.
fn definitions(api: &ApiServer) -> Result<()> {
    let with = |change: Value| {
        let mut spec = site(2);
        for (key, value) in change.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        spec
    };
    let gateway = |id: u32, address: &str| json!({"id": id, "address": address});
    let sites = [
        json!({}),
        with(json!({"id": 0})),
        with(json!({"id": 64})),
        with(json!({"relays": {}})),
        with(json!({"relays": {"m": {"address": "10.0.0.1"}}})),
        with(json!({"relays": {"m": {"address": "10.0.0.256:7845"}}})),
        with(json!({"relays": {"m": {"address": "node:7845"}}})),
        with(json!({"gateways": {"m": gateway(4096, "10.0.0.1")}})),
        with(json!({"gateways": {"m": gateway(1, "10.0.0.1/24")}})),
        with(json!({"gateways": {"m": gateway(1, "10.0.0.1"), "n": gateway(1, "10.0.0.2")}})),
        with(json!({"prefixes": ["10.9.7.0"]})),
        with(json!({"region": "EU"})),
        with(json!({"secretFile": "/etc/shadow"})),
        with(json!({"secretFile": "a/../../b"})),
    ];
    let policies = [
        json!({"mode": "nearest"}),
        json!({"mode": "activePassive"}),
        json!({"mode": "weighted"}),
        json!({"mode": "weighted", "sites": {"a": {"weight": 1}, "b": {}}}),
        json!({"mode": "weighted", "sites": {"a": {"weight": 0}}}),
        json!({"mode": "weighted", "sites": {"a": {"weight": 1001}}}),
        json!({"sites": {"a": {"weight": 1}}}),
        json!({"sites": {"a": {"capacity": 0}}}),
        json!({"sites": {"a": {"capacity": 1, "capacityPerEndpoint": 1}}}),
        json!({"number": 0}),
        json!({"names": ["a", "a"]}),
    ];
    let sites = sites.into_iter().map(|spec| ("Site", "sites", spec));
    let policies = policies.into_iter().map(|spec| ("SiteTrafficPolicy", "sitetrafficpolicies", spec));
    for (kind, plural, spec) in sites.chain(policies) {
        let path = format!("{GROUP}/{plural}?dryRun=All");
        let (status, answer) = api.request("POST", &path, Some(&object(kind, "wrong", &spec)))?;
        ensure!(status == 422, "{spec}: {status} {answer}");
        ensure!(
            spec["mode"] != "activePassive"
                || answer["message"].as_str().is_some_and(|m| m.contains("pods come and go")),
            "{answer}"
        );
    }
    let v6 =
        with(json!({"relays": {"m": {"address": "[2001:db8::1]:7845"}}, "gateways": {"m": gateway(1, "2001:db8::1")}}));
    let local = json!({"sites": {"a": {"capacityPerEndpoint": 3, "draining": true}}, "number": 65535});
    for (kind, plural, spec) in [("Site", "sites", v6), ("SiteTrafficPolicy", "sitetrafficpolicies", local)] {
        let answer = api.must("POST", &format!("{GROUP}/{plural}?dryRun=All"), Some(&object(kind, "right", &spec)))?;
        ensure!(kind == "Site" || answer["spec"]["mode"] == "localFirst", "{answer}");
    }
    Ok(())
}

#[test]
fn a_service_of_two_clusters_is_one_of_two_sites_by_sites_and_policies_alone() -> Result<()> {
    let _turn = crate::kube::turn();
    let mut scene = Scene::new("ksites")?;
    let dir = scene.yard.crew.lab().directory().to_owned();
    let key = "00112233445566778899aabbccddeeff";
    write_secret(&dir.join("forward.keys"), &format!("0:{key}\nflow:{key}{key}\n"))?;
    write_secret(&dir.join("pair.key"), &format!("{key}{key}\n"))?;
    let authority = init(&dir.join("authority"))?;
    let (one, mut two) = (scene.yard.pod(1)?, scene.yard.pod(2)?);
    for (n, pod) in [(1, &one), (2, &two)] {
        issue(&authority, &n.to_string(), &format!("n{n}"), &dir.join(format!("pki-n{n}")))?;
        scene.serve(n, Some(pod))?;
        let token = token(scene.api(n))?;
        scene.start(n, &token)?;
    }
    definitions(scene.api(1))?;
    // Two clusters that know nothing of one another: each serves its own.
    scene.answered_by("each cluster's own", [&[&one], &[&two]])?;
    scene.says(1, "Site dc-a is refused: neither the configuration file nor a Site says what this site is")?;

    // The same objects in both.
    scene.both("POST", "sitetrafficpolicies", Some(&object("SiteTrafficPolicy", "web", &halves())))?;
    scene.says(1, "SiteTrafficPolicy web is refused: has no effect: this node is of no site")?;
    for n in [1, 2] {
        scene.both("POST", "sites", Some(&object("Site", SITES[usize::from(n) - 1], &site(n))))?;
    }
    for n in [1, 2] {
        let there = SITES[2 - usize::from(n)];
        let mut last = Value::Null;
        let found = wait_for(WHOLE, "a session, a path and half of the Service there", || {
            last = page(scene.yard.daemon(n))?;
            let site = &last["sites"][0];
            let met = site["session"] == true && site["path"]["path"]["carriage"] == "up";
            (met && (share(&last, WEB, there) - 0.5).abs() < NEAR).then_some(())
        });
        found.with_context(|| format!("n{n}: {last:#}\n{}", scene.told()))?;
    }
    scene.answered_by("both clusters'", [&[&one, &two], &[&one, &two]])?;
    let status = scene.yard.daemon(1).ctl(&["status"])?;
    ensure!(!status.contains("is refused"), "{status}");
    let (table, why) = (scene.yard.daemon(2).ctl(&["sites"])?, scene.yard.daemon(2).ctl(&["why", WEB])?);
    ensure!(table.contains(&format!("service {WEB}")) && table.contains("dc-a"), "{table}");
    ensure!(why.contains("dc-a"), "{why}");
    for kind in ["Site", "SiteTrafficPolicy"] {
        let line = format!("bascule_cluster_objects{{kind=\"{kind}\",state=\"in_force\"}}");
        scene.yard.crew.wait_metric(1, &line, |count| count >= 1.0)?;
    }
    let kept = wait_for(START, "the objects to be kept", || {
        let (intent, _) = bascule::intent::file::read(&dir.join("kept-2.json")).ok()??;
        (intent.rules.sites.len() == 2 && intent.rules.traffic.contains_key("web")).then_some(intent)
    })?;
    ensure!(kept.rules.wrong.is_empty(), "{:?}", kept.rules.wrong);

    // One word about one site, by a merge patch: all goes to the other, and comes back.
    scene.weight("dc-b", 0)?;
    scene.wait_share("nothing for dc-b", "dc-b", 0.0)?;
    scene.answered_by("dc-a's alone", [&[&one], &[&one]])?;
    scene.weight("dc-b", 50)?;
    scene.wait_share("half for dc-b", "dc-b", 0.5)?;
    scene.answered_by("both again", [&[&one, &two], &[&one, &two]])?;

    // An operator drains the Service at one site.
    scene.yard.daemon(1).ctl(&["drain", "service", WEB])?;
    scene.wait_share("all of it for dc-b", "dc-b", 1.0)?;
    scene.answered_by("dc-b's alone", [&[&two], &[&two]])?;
    scene.yard.daemon(1).ctl(&["drain", "service", WEB, "--off"])?;
    scene.wait_share("half for dc-a", "dc-a", 0.5)?;

    // All endpoints of one cluster die: its share goes to the other.
    drop(two);
    scene.serve(2, None)?;
    scene.wait_share("nothing for dc-b", "dc-b", 0.0)?;
    scene.answered_by("dc-a's alone", [&[&one], &[&one]])?;
    two = scene.yard.pod(2)?;
    scene.serve(2, Some(&two))?;

    // Without a policy each cluster serves its own.
    scene.both("DELETE", "sitetrafficpolicies/web", None)?;
    scene.answered_by("each cluster's own", [&[&one], &[&two]])?;
    wait_for(START, "no service of several sites", || {
        (page(scene.yard.daemon(1))?["services"] == json!([])).then_some(())
    })?;
    Ok(())
}
