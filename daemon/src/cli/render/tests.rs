use std::path::Path;

use bascule_core::health::{ClientCertificate, ProbeKind};
use clap::{CommandFactory, FromArgMatches, Parser};

use super::*;

#[derive(Parser, Debug)]
struct Only {
    #[command(flatten)]
    pod: StaticPod,
}

fn pod(words: &str) -> Result<StaticPod, String> {
    let words = std::iter::once("x").chain(words.split_whitespace());
    let matches = Only::command().try_get_matches_from(words).map_err(|e| e.to_string())?;
    Only::from_arg_matches(&matches).map(|only| only.pod).map_err(|e| e.to_string())
}

/// The command lines of the files under deploy/, which their tests in the suite validate as well.
const POD: &str = "--vip 10.9.0.100,2001:db8::100 --interface eth0 --vrid 51 --nodes cp-1,cp-2,cp-3 --gate 127.0.0.1:6443 \
                   --image registry.example/bascule:0.1.0";
const POD_FILE: &str = "--config /etc/bascule/bascule.yaml --realtime --image registry.example/bascule:0.1.0";

fn text(words: &str) -> String {
    static_pod(&pod(words).unwrap()).unwrap()
}

fn inline(words: &str) -> String {
    super::pod::inline_config(&super::platform::Wanted::new(&pod(words).unwrap()).unwrap())
}

fn unit() -> Unit {
    Unit { config: "/etc/bascule/bascule.yaml".into(), binary: "/usr/local/bin/bascule".into() }
}

#[test]
fn the_files_under_deploy_are_what_render_prints() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let files = [
        ("static-pod.yaml", text(POD)),
        ("static-pod-hostpath.yaml", text(POD_FILE)),
        ("bascule.service", systemd(&unit())),
    ];
    let update = std::env::var_os("BASCULE_UPDATE_GOLDEN").is_some();
    for (name, text) in files {
        let path = deploy.join(name);
        if update {
            std::fs::write(&path, &text).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(
            golden, text,
            "deploy/{name}: run the test once with BASCULE_UPDATE_GOLDEN=1 and read the difference"
        );
    }
}

#[test]
fn the_configuration_in_the_manifest_is_one_that_a_daemon_takes() {
    for words in [POD, "--vip 10.9.0.100 --vrid 1 --priority 200 --image x"] {
        let text = inline(words);
        let loaded =
            crate::config::parse(&text, "inline", Path::new("/"), "cp-2").unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(loaded.node.groups.len(), 1);
        assert_eq!(loaded.admin.http, Some("127.0.0.1:9750".parse().unwrap()), "the probes ask there");
        let indented = self::text(words);
        assert!(text.lines().all(|line| indented.contains(&format!("      {line}\n"))), "{indented}");
    }
}

#[test]
fn a_control_plane_over_bgp_is_anycast_from_every_healthy_node() {
    let words = "--vip 10.9.0.100 --bgp-as 65001 --bgp-neighbor 10.0.0.1@65100,10.0.0.2@external --bfd --gate 127.0.0.1:6443 --image x";
    let text = inline(words);
    let loaded = crate::config::parse(&text, "inline", Path::new("/"), "n1").unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!((loaded.node.groups.len(), loaded.node.anycast.len(), loaded.bfd.len()), (0, 1, 2));
    let speaker = loaded.bgp.expect("a speaker").speaker;
    let routers: Vec<String> = speaker.neighbors.iter().map(|n| format!("{} {:?}", n.address, n.remote_as)).collect();
    assert_eq!((speaker.asn, routers), (65001, vec!["10.0.0.1 Is(65100)".to_owned(), "10.0.0.2 External".to_owned()]));
}

#[test]
fn platforms_of_hosts_differ_in_folder_and_answer() {
    for (platform, folder, client) in [
        ("kubeadm", "/etc/kubernetes/manifests/", None),
        ("k3s", "/var/lib/rancher/k3s/agent/pod-manifests/", Some("/var/lib/rancher/k3s/server/tls/client-scheduler")),
        (
            "rke2",
            "/var/lib/rancher/rke2/agent/pod-manifests/",
            Some("/var/lib/rancher/rke2/server/tls/client-scheduler"),
        ),
    ] {
        let words = format!(
            "--for {platform} --vip 10.9.0.100 --vrid 51 --nodes a,b --unicast-peers 10.9.0.1,10.9.0.2 --image x"
        );
        let config = inline(&words);
        let loaded =
            crate::config::parse(&config, "inline", Path::new("/"), "a").unwrap_or_else(|e| panic!("{e}\n{config}"));
        assert_eq!(loaded.node.groups[0].unicast_peers.len(), 2);
        let probe = format!("{:?}", loaded.node.gates[0].probe);
        assert!(probe.contains("/livez?exclude=etcd"), "{probe}");
        let ProbeKind::Https { expect: (200, 200), client: shown, .. } = &loaded.node.gates[0].probe else {
            panic!("{probe}")
        };
        let files = |name: &str| ClientCertificate {
            certificate: format!("{name}.crt").into(),
            key: format!("{name}.key").into(),
        };
        assert_eq!(*shown, client.map(files));
        let text = text(&words);
        assert!(text.contains(&format!("Save it as {folder}bascule.yaml")), "{text}");
        // What the gate reads is there in the pod, and nothing beside it.
        let pod: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        let paths = |list: &serde_json::Value, key: [&str; 2]| -> Vec<String> {
            let all = list
                .as_array()
                .unwrap()
                .iter()
                .map(|one| if key[1].is_empty() { &one[key[0]] } else { &one[key[0]][key[1]] });
            all.filter_map(|path| path.as_str().filter(|path| path.contains("/tls/")).map(str::to_owned)).collect()
        };
        let wanted: Vec<String> = client.iter().flat_map(|c| [format!("{c}.crt"), format!("{c}.key")]).collect();
        assert_eq!(paths(&pod["spec"]["containers"][0]["volumeMounts"], ["mountPath", ""]), wanted);
        assert_eq!(paths(&pod["spec"]["volumes"], ["hostPath", "path"]), wanted);
    }
}

#[test]
fn cluster_api_gets_a_part_of_its_control_plane_with_the_same_pod_inside() {
    for (platform, vip, endpoint) in [
        ("capi", "--vip ${VIP}", "${VIP}"),
        ("capv", "", "${CONTROL_PLANE_ENDPOINT_IP}"),
        ("capm3", "", "${CLUSTER_APIENDPOINT_HOST}"),
    ] {
        // clap wants the way of an address beside the address.
        let words = format!("--for {platform} {vip} --vrid 51 --image x");
        let text = text(&words);
        let control_plane: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        let spec = &control_plane["spec"]["kubeadmConfigSpec"];
        let file = &spec["files"][0];
        assert_eq!(file["path"], "/etc/kubernetes/manifests/bascule.yaml");
        let manifest = file["content"].as_str().unwrap();
        let pod: serde_json::Value = serde_saphyr::from_str(manifest).unwrap();
        let config = pod["metadata"]["annotations"]["bascule/config"].as_str().unwrap();
        assert!(config.contains(&format!("addresses: [\"{endpoint}\"]")), "{config}");
        let command = spec["preKubeadmCommands"][0].as_str().unwrap();
        assert!(command.contains(endpoint) && command.contains(" priority: 100$/"), "{command}");
        assert_eq!(platform == "capv", config.contains("${VIP_NETWORK_INTERFACE:=eth0}"));
        // What the template's variables become is a configuration that a daemon takes.
        let filled = config.replace(endpoint, "10.9.0.100").replace("${VIP_NETWORK_INTERFACE:=eth0}", "eth0");
        crate::config::parse(&filled, "inline", Path::new("/"), "any").unwrap_or_else(|e| panic!("{e}\n{filled}"));
    }
    let named = text("--for capi --vip 10.9.0.100 --vrid 51 --nodes a,b --image x");
    assert!(!named.contains("preKubeadmCommands"), "ranks by name need no command");
}

#[test]
fn what_cannot_work_is_refused_on_the_command_line() {
    let table = [
        ("--image x", "--config <PATH>|--vip <ADDRESS>"),
        ("--for kubeadm --image x", "--config <PATH>|--vip <ADDRESS>"),
        ("--for capv --image x", "--vrid <1-255>|--bgp-as <AS>"),
        ("--for kubeadm --vip ${VIP} --vrid 5 --nodes a --image x", "in templates of Cluster API only"),
        ("--for capi --vip ${VI-P} --vrid 5 --image x", "invalid IP address syntax"),
        ("--for talos --vip 10.9.0.100 --vrid 5 --nodes a --image x", "possible values"),
        ("--vip 10.9.0.100 --vrid 51 --image x", "--nodes <NODE>|--priority <100-254>"),
        ("--vip 10.9.0.100 --nodes a --image x", "--vrid <1-255>"),
        ("--vip 10.9.0.100 --vrid 0 --nodes a --image x", "0 is not in 1..=255"),
        ("--vip 10.9.0.100 --image x", "--vrid <1-255>|--bgp-as <AS>"),
        ("--vip 10.9.0.100 --bgp-as 65001 --image x", "--bgp-neighbor <ADDRESS@AS>"),
        ("--vip 10.9.0.100 --bgp-as 65001 --bgp-neighbor 10.0.0.1 --image x", "ADDRESS@AS is needed"),
        ("--vip 10.9.0.100 --bgp-as 65001 --bgp-neighbor 10.0.0.1@0 --image x", "0 is no AS"),
        (
            "--vip 10.9.0.100 --bgp-as 65001 --bgp-neighbor 10.0.0.1@1 --vrid 5 --nodes a --image x",
            "cannot be used with",
        ),
        ("--vip 10.9.0.100 --vrid 1 --priority 99 --image x", "99 is not in 100..=254"),
        ("--vip 10.9.0 --vrid 51 --nodes a --image x", "invalid IP address syntax"),
        ("--vip 10.9.0.100 --vrid 51 --nodes a --image x --config /etc/b.yaml", "cannot be used with"),
        ("--config bascule.yaml --image x", "an absolute path of a file is needed"),
        ("--config /etc/$HOME --image x", "only letters, digits"),
        ("--vip 10.9.0.100 --vrid 51 --nodes a_b --image x", "a host name has"),
        ("--vip 10.9.0.100 --vrid 51 --nodes a --interface a/b --image x", "the name of a link"),
        ("--config /etc/b.yaml --image x,y", "an image is named by"),
    ];
    for (words, wanted) in table {
        let error = pod(words).and_then(|pod| static_pod(&pod)).expect_err(words);
        assert!(error.contains(wanted), "{words}: {error}");
    }
}

#[test]
fn endpoints_without_a_node_are_masqueraded_and_no_others() {
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "0:00112233445566778899aabbccddeeff\nflow:ffeeddccbbaa99887766554433221100\n").unwrap();
    let text = |remote: &str| {
        let node = "{ address: 10.9.0.1, node: n1 }";
        let service = |name: &str, rest: &str| format!("  - {{ name: {name}, vip: 10.9.7.100, {rest} }}\n");
        let mut text = format!(
            "node: n1\nforwarding:\n  keyFile: {}\n  nodes: [{{ name: n1, id: 1, addresses: [10.9.0.1] }}]\nservices:\n",
            keys.path().display()
        );
        text += &service("web", &format!("port: 80, endpoints: [{node}{remote}]"));
        text += &service("dns", &format!("port: 53, protocol: udp, endpoints: [{node}{remote}]"));
        text += &service("other", &format!("port: 99, delivery: delegate, endpoints: [{node}{remote}]"));
        let loaded =
            crate::config::parse(&text, "inline", Path::new("/"), "n1").unwrap_or_else(|e| panic!("{e}\n{text}"));
        masquerade(&loaded.forwarding.unwrap().config.services)
    };
    let some = text(", { address: 10.20.0.7, port: 8080 }");
    assert!(some.contains("elements = { 10.20.0.7 . tcp . 8080, 10.20.0.7 . udp . 8080 }\n"), "{some}");
    assert!(some.contains("ip daddr . meta l4proto . th dport @endpoints4 masquerade\n"), "{some}");
    let none = text("");
    assert!(none.ends_with("delete table inet bascule_remote\n"), "what an earlier one loaded goes: {none}");
}
