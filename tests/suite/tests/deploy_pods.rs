//! The pods that are shipped and rendered, started from their image by their own command lines with what they mount and may do, each in a
//! namespace: they serve a VIP. And two of them on one node.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bascule_lab::bascule::Bascule;
use bascule_lab::{Pod, Stamp, documents, tool, wait_for};
use bascule_suite::cluster::{Cluster, SOON, VIP};
use bascule_suite::image::{self, About};
use bascule_suite::manifests::{Schemas, deploy};
use serde_json::{Value, json};

/// Key files beside the configuration.
const PEER_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";
const FORWARD_KEYS: &str = "0:00112233445566778899aabbccddeeff\nflow:ffeeddccbbaa99887766554433221100\n";

fn vip(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 9, 0, 100 + number))
}

/// The image, unpacked below the lab, and its entry point.
fn unpacked(cluster: &Cluster) -> Result<(PathBuf, String)> {
    let folder = cluster.lab.directory().join("image");
    let program = image::unpacked(&folder)?;
    Ok((folder.join("files"), program))
}

/// A configuration as a value, for this node.
fn config(text: &str, node: usize) -> Result<Value> {
    let mut config = documents(text)?.into_iter().next().context("an empty configuration")?;
    config["node"] = json!(format!("n{node}"));
    Ok(config)
}

/// A group of its own for the client to ask. Pods have no real-time thread: an interval that a busy machine does not make late, so that
/// whoever loses an address here has lost it to the other pod.
fn group(name: &str, address: IpAddr, vrid: u8) -> Value {
    json!({
        "name": name, "addresses": [address], "vrid": vrid, "priority": 200, "advertInterval": "1s", "conflictProbe": false,
    })
}

/// A client's answer through the VIP from now on.
fn serves(cluster: &Cluster, address: IpAddr, node: u32) -> Result<()> {
    let answered = cluster.probe(address)?.wait_answer(SOON, Stamp::now(), Some(node));
    answered.map(drop).with_context(|| format!("{address} does not answer from n{node}"))
}

#[test]
fn one_program_makes_one_image_from_scratch_and_it_serves_as_a_static_pod() -> Result<()> {
    let cluster = Cluster::new("image", 2)?;
    let about = About { version: "1.2.3".to_owned(), revision: "abc".to_owned() };
    let binary = bascule_lab::bascule::binary()?;
    let mut made = Vec::new();
    for name in ["first", "second"] {
        let folder = cluster.lab.directory().join(name);
        std::fs::create_dir(&folder)?;
        made.push(image::build(&binary, &about, &folder.join("work"), &folder.join("layout"))?);
        image::pack(&folder.join("layout"), &folder.join("image.tar"))?;
    }
    ensure!(made[0].digest == made[1].digest, "{} and {}", made[0].digest, made[1].digest);
    let archives = ["first", "second"].map(|name| std::fs::read(cluster.lab.directory().join(name).join("image.tar")));
    let [first, second] = archives;
    ensure!(first? == second?, "the archives differ");
    println!("measured: image {} ({} bytes in its layer)", made[0].digest, made[0].size);

    let files = cluster.lab.directory().join("files");
    std::fs::create_dir(&files)?;
    let program = image::unpack(&made[0].layout, &files)?;
    // A blob that was touched is noticed.
    let layout = made[1].layout.clone();
    let manifest = layout.join("blobs").join(made[1].digest.replace(':', "/"));
    std::fs::write(&manifest, std::fs::read_to_string(&manifest)?.replace("1.2.3", "1.2.4"))?;
    ensure!(image::unpack(&layout, &files).is_err(), "a forged manifest was taken");

    for (n, file) in [(1, "static-pod.yaml"), (2, "static-pod-hostpath.yaml")] {
        let pod = Pod::of_static(&std::fs::read_to_string(deploy(file))?)?;
        let mut shipped = if pod.config.is_empty() { json!({ "node": "n2" }) } else { config(&pod.config, n)? };
        let number = u8::try_from(n)?;
        shipped["vips"] = json!([group("control-plane", vip(number), 50 + number)]);
        let mut daemon = pod.start(&cluster.lab, &cluster.hosts[n - 1].netns, &files, &program, &shipped)?;
        daemon.wait_role(SOON, "control-plane", "active")?;
        serves(&cluster, vip(number), u32::from(number))?;
        let status = daemon.ctl(&["status"])?;
        ensure!(status.contains("control-plane"), "{status}");
        let ready = daemon.state()?;
        ensure!(ready["fenceReady"] == true, "the fence stands with the rights of the pod: {ready}");
    }
    Ok(())
}

/// What `render` prints for a platform, as the manifest that the kubelet of node `n` finds.
fn rendered(cluster: &Cluster, platform: &str, n: usize) -> Result<String> {
    let address = vip(u8::try_from(n)?).to_string();
    let vrid = (50 + n).to_string();
    let mut args = vec!["render", "static-pod", "--for", platform, "--vrid", &vrid, "--image", "registry.example/x:1"];
    let of_cluster_api = platform.starts_with("cap");
    if !of_cluster_api {
        args.extend(["--vip", &address, "--nodes", "n1,n2,n3,n4,n5,n6"]);
        args.extend(["--unicast-peers", "10.9.0.1,10.9.0.2,10.9.0.3,10.9.0.4,10.9.0.5,10.9.0.6"]);
    } else if platform == "capi" {
        args.extend(["--vip", "${VIP}"]);
    }
    let text = tool(None, &bascule_lab::bascule::binary()?.display().to_string(), &args, None)?;
    if !of_cluster_api {
        return Ok(text);
    }
    // What the provider's templating does with its variables, then what the bootstrap provider does with files and commands.
    let mut filled = text.replace("${VIP_NETWORK_INTERFACE:=eth0}", "eth0").replace("${CLUSTER_NAME}", "lab");
    for variable in ["${VIP}", "${CONTROL_PLANE_ENDPOINT_IP}", "${CLUSTER_APIENDPOINT_HOST}"] {
        filled = filled.replace(variable, &address);
    }
    ensure!(!filled.contains("${"), "a variable that nobody fills: {filled}");
    let object = documents(&filled)?.into_iter().next().context("no document")?;
    ensure!(object["kind"] == "KubeadmControlPlane" && object["metadata"]["name"] == "lab-control-plane", "{object}");
    let spec = &object["spec"]["kubeadmConfigSpec"];
    let known = ["files", "preKubeadmCommands"];
    ensure!(spec.as_object().is_some_and(|fields| fields.keys().all(|key| known.contains(&key.as_str()))), "{spec}");
    let file = &spec["files"][0];
    let known = ["path", "owner", "permissions", "content"];
    ensure!(file.as_object().is_some_and(|fields| fields.keys().all(|key| known.contains(&key.as_str()))), "{file}");
    let path = cluster.lab.directory().join(format!("{platform}.yaml"));
    std::fs::write(&path, file["content"].as_str().context("no content")?)?;
    let place = file["path"].as_str().context("no path")?;
    for command in spec["preKubeadmCommands"].as_array().into_iter().flatten() {
        let command = command.as_str().context("a command is text")?.replace(place, &path.display().to_string());
        cluster.hosts[n - 1].netns.tool("sh", &["-c", &command])?;
    }
    let text = std::fs::read_to_string(&path)?;
    ensure!(text.contains(&format!(" priority: {}\n", 100 + n)), "10.9.0.{n} gives no priority of its own: {text}");
    Ok(text)
}

#[test]
fn what_is_rendered_for_each_platform_is_valid_and_serves_with_no_api_server() -> Result<()> {
    let platforms = ["kubeadm", "k3s", "rke2", "capi", "capv", "capm3"];
    let cluster = Cluster::new("render", u8::try_from(platforms.len())?)?;
    let (files, program) = unpacked(&cluster)?;
    let mut daemons = Vec::new();
    let mut manifests = Vec::new();
    for (n, platform) in (1..).zip(platforms) {
        let text = rendered(&cluster, platform, n)?;
        let path = cluster.lab.directory().join(format!("{platform}.yaml"));
        std::fs::write(&path, &text)?;
        manifests.push(path);
        let pod = Pod::of_static(&text)?;
        let config = config(&pod.config, n)?;
        let asked = config["gates"][0]["https"]["url"].as_str();
        ensure!(asked == Some("https://127.0.0.1:6443/livez?exclude=etcd"), "{platform}: {asked:?}");
        daemons.push(pod.start(&cluster.lab, &cluster.hosts[n - 1].netns, &files, &program, &config)?);
    }
    Schemas::new()?.accept(&manifests, manifests.len())?;
    for (n, daemon) in (1..).zip(&mut daemons) {
        daemon.wait_role(SOON, "control-plane", "active")?;
        serves(&cluster, vip(n), u32::from(n))?;
        // No API server answers here, and the only owner keeps what it has.
        ensure!(
            daemon.group("control-plane").is_some_and(|group| group["healthy"] == false),
            "a gate without a server is open"
        );
    }
    Ok(())
}

/// The shipped DaemonSet with the shipped configuration.
fn daemonset() -> Result<Pod> {
    let config = std::fs::read_to_string(deploy("kustomize/base/bascule.yaml"))?;
    let map = json!({ "kind": "ConfigMap", "data": { "bascule.yaml": config } });
    let text = std::fs::read_to_string(deploy("kustomize/base/daemonset.yaml"))?;
    let mut pod = Pod::of_daemonset(&format!("{text}\n---\n{map}\n"))?;
    pod.beside = vec![("peer.key", PEER_KEY.to_owned()), ("forward.key", FORWARD_KEYS.to_owned())];
    Ok(pod)
}

/// Both pods of one node, with the configurations that they are given.
struct Pair {
    files: PathBuf,
    program: String,
    pods: [Pod; 2],
    configs: [Value; 2],
    cluster: Cluster,
}

impl Pair {
    fn new() -> Result<Self> {
        let cluster = Cluster::new("pair", 1)?;
        let (files, program) = unpacked(&cluster)?;
        let mut first = Pod::of_static(&std::fs::read_to_string(deploy("static-pod.yaml"))?)?;
        let second = daemonset()?;
        first.beside.clone_from(&second.beside);
        let mut configs = [config(&first.config, 1)?, config(&second.config, 1)?];
        for (config, (name, number)) in configs.iter_mut().zip([("control-plane", 0), ("example", 1)]) {
            config["vips"] = json!([group(name, vip(number), 51 + number)]);
            config["peers"] = json!({ "keyFile": "peer.key" });
        }
        Ok(Self { files, program, pods: [first, second], configs, cluster })
    }

    fn start(&self, which: usize) -> Result<Bascule> {
        self.start_with(which, &self.configs[which])
    }

    fn start_with(&self, which: usize, config: &Value) -> Result<Bascule> {
        Ok(self.pods[which].start(
            &self.cluster.lab,
            &self.cluster.hosts[0].netns,
            &self.files,
            &self.program,
            config,
        )?)
    }

    fn both_serve(&self) -> Result<()> {
        serves(&self.cluster, vip(0), 1)?;
        serves(&self.cluster, vip(1), 1)
    }
}

/// Nothing took its address away, and it owns by the claim that it began with.
fn undisturbed(daemon: &Bascule, group: &str, term: &Value) -> Result<()> {
    let state = daemon.group(group).context("no state")?;
    ensure!(state["role"] == "active" && state["term"] == *term, "{state}");
    let restored = daemon.metric("bascule_address_restored_total").unwrap_or(0.0);
    ensure!(restored == 0.0, "its address was taken away {restored} times");
    Ok(())
}

#[test]
fn a_static_pod_and_a_daemonset_share_a_node_and_neither_needs_the_other() -> Result<()> {
    let pair = Pair::new()?;
    let mut one = pair.start(0)?;
    one.wait_role(SOON, "control-plane", "active")?;
    let term = one.group("control-plane").context("no state")?["term"].clone();

    // The same instance twice is refused before anything is touched.
    let mut same = pair.configs[1].clone();
    same["instance"] = json!(0);
    let mut refused = pair.start_with(1, &same)?;
    let status = refused.process.wait(SOON)?;
    ensure!(!status.success(), "two daemons of one instance run on one node");
    let why = refused.process.log();
    ensure!(why.contains("admin.sock"), "{why}");
    undisturbed(&one, "control-plane", &term)?;

    let mut two = pair.start(1)?;
    two.wait_role(SOON, "example", "active")?;
    pair.both_serve()?;
    undisturbed(&one, "control-plane", &term)?;

    // The DaemonSet's pod dies and comes back: it removes its own leftovers and nothing of the other's.
    two.process.sigkill()?;
    serves(&pair.cluster, vip(0), 1)?;
    let mut two = pair.start(1)?;
    two.wait_role(SOON, "example", "active")?;
    pair.both_serve()?;
    undisturbed(&one, "control-plane", &term)?;
    let term = two.group("example").context("no state")?["term"].clone();

    // And the other way round; this time it ends in peace, and takes its own fence with it.
    one.process.sigterm()?;
    one.process.wait(SOON)?;
    serves(&pair.cluster, vip(1), 1)?;
    let netns = pair.cluster.hosts[0].netns.clone();
    ensure!(!netns.has_address("eth0", VIP), "a stopped daemon left its address");
    let mut one = pair.start(0)?;
    one.wait_role(SOON, "control-plane", "active")?;
    pair.both_serve()?;
    undisturbed(&two, "example", &term)?;
    one.process.sigkill()?;
    serves(&pair.cluster, vip(1), 1)?;
    undisturbed(&two, "example", &term)
}

#[test]
fn one_instance_of_a_node_forwards_and_the_other_says_why_it_does_not() -> Result<()> {
    let pair = Pair::new()?;
    let forwarding = |config: &Value| {
        let mut config = config.clone();
        let node = json!({ "name": "n1", "id": 1, "addresses": ["10.9.0.1"] });
        config["forwarding"] = json!({ "keyFile": "forward.key", "nodes": [node] });
        config
    };
    let [first, second] = [forwarding(&pair.configs[0]), forwarding(&pair.configs[1])];
    let page = |daemon: &Bascule| -> Option<Value> { serde_json::from_str(&daemon.get("/services").ok()?.1).ok() };
    let two = pair.start_with(1, &second)?;
    let shown = || (page(&two)?["devices"][0]["device"] == "eth0").then_some(());
    wait_for(SOON, "the DaemonSet's data plane on eth0", shown)?;
    let mut one = pair.start_with(0, &first)?;
    one.wait_role(SOON, "control-plane", "active")?;
    let mut last = Value::Null;
    let told = wait_for(SOON, "the other instance's refusal", || {
        last = page(&one)?;
        let conditions = last["conditions"].as_array()?;
        conditions.iter().any(|c| c.as_str().is_some_and(|c| c.contains("another instance on this node"))).then_some(())
    });
    told.with_context(|| format!("{last:#}"))?;
    ensure!(page(&two).is_some_and(|page| page["devices"][0]["device"] == "eth0"), "the first one's programs went");
    Ok(())
}

/// The manifests name files that exist where they say.
#[test]
fn links_of_the_deployments_lead_somewhere() -> Result<()> {
    for link in [
        "rbac.yaml",
        "rbac-elector.yaml",
        "crds/bgpannouncements.yaml",
        "crds/bgppeers.yaml",
        "crds/l2announcements.yaml",
        "crds/sites.yaml",
        "crds/sitetrafficpolicies.yaml",
        "crds/vippools.yaml",
        "crds/vipstatuses.yaml",
        "helm/bascule/crds/bgpannouncements.yaml",
        "helm/bascule/crds/bgppeers.yaml",
        "helm/bascule/crds/l2announcements.yaml",
        "helm/bascule/crds/sites.yaml",
        "helm/bascule/crds/sitetrafficpolicies.yaml",
        "helm/bascule/crds/vippools.yaml",
        "helm/bascule/crds/vipstatuses.yaml",
        "helm/bascule/files/rbac.yaml",
        "helm/bascule/files/rbac-elector.yaml",
        "helm/bascule/files/bascule.yaml",
    ] {
        let text = std::fs::read_to_string(deploy(link)).with_context(|| link.to_owned())?;
        ensure!(!text.is_empty() && Path::new(&deploy(link)).is_symlink(), "{link}");
    }
    Ok(())
}
