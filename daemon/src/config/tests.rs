//! Good files, the table against the reader, and the watch. Broken files are in `broken_tests`.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use bascule_core::node::config::{FencePolicy, GroupConfig};

use super::schema::{Absent, Kind, ROOT, Section};
use super::tree::{Tree, Value};
use super::*;

mod file;

const MINIMAL: &str = "vips:\n  - name: api\n    addresses: [10.9.0.100]\n    vrid: 51\n    priority: 200\n";

/// A folder with a good key file.
pub(super) fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    key_file(&dir.path().join("peer.key"), &format!("{}\n", "ab".repeat(32)), 0o600);
    key_file(&dir.path().join("tor.key"), "s3cret\n", 0o600);
    let forward = format!("0:{}\nflow:{}\n", "ab".repeat(16), "cd".repeat(16));
    key_file(&dir.path().join("forward.key"), &forward, 0o600);
    std::fs::write(dir.path().join("ca.pem"), include_str!("ca.pem")).expect("written");
    dir
}

pub(super) fn key_file(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode set");
}

#[track_caller]
fn good(text: &str, dir: &Path) -> Loaded {
    match parse(text, "bascule.yaml", dir, "n1") {
        Ok(loaded) => loaded,
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

#[test]
fn four_fields_are_enough() {
    let loaded = good(MINIMAL, Path::new("/"));
    let vip =
        GroupConfig { priority: 200, ..GroupConfig::new("api", 51, vec!["10.9.0.100".parse().expect("address")]) };
    assert_eq!(loaded.node.groups, [vip]);
    assert_eq!((loaded.node.node.as_str(), loaded.node.fence), ("n1", FencePolicy::Required));
    assert!(loaded.node.gates.is_empty() && loaded.node.keys.is_empty());
    assert_eq!((loaded.admin, loaded.log), (Admin::default(), Log::default()));
    assert_eq!((loaded.peer_port, loaded.key_file, loaded.warnings.len()), (3112, None, 0));
}

#[test]
fn instances_of_one_node_have_sockets_and_ports_of_their_own() {
    let dir = folder();
    let of = |text: &str| {
        let loaded = good(&format!("{text}\npeers: {{ keyFile: peer.key }}\n{MINIMAL}"), dir.path());
        (loaded.instance, loaded.admin.socket.display().to_string(), loaded.peer_port)
    };
    assert_eq!(of("instance: 0"), (0, "/run/bascule/admin.sock".to_owned(), 3112));
    assert_eq!(of("instance: 2"), (2, "/run/bascule/admin-2.sock".to_owned(), 3114));
    let chosen = of("instance: 7\nadmin: { socket: /run/x.sock }");
    assert_eq!(chosen, (7, "/run/x.sock".to_owned(), 3119));
    assert_eq!(crate::net::netlink::LAST_MARKER - crate::net::netlink::MARKER, INSTANCE_MAX, "one number of each kind");
}

#[test]
fn a_rank_is_a_priority() {
    for (node, priority) in [("n1", 254), ("n2", 206), ("n3", 158)] {
        let text = MINIMAL.replace("priority: 200", "nodes: [n1, n2, n3]");
        let loaded = parse(&text, "f", Path::new("/"), node).expect("good");
        assert_eq!(loaded.node.groups[0].priority, priority);
    }
}

/// Every field of the table, in a place where it may stand; `@` is replaced by the field.
fn carrier(section: &str, key: &str) -> String {
    let tcp = "tcp: { address: '127.0.0.1:1' }, ";
    let gate = match key {
        "tcp" | "http" | "https" | "grpc" => "",
        "timeout" => &format!("{tcp}interval: 1h, "),
        _ => tcp,
    };
    let extra = match section {
        "" => "@".to_owned(),
        "admin" | "log" => format!("{section}: {{ @ }}"),
        "kubernetes" | "kubernetes.services" => {
            let (cluster, outer) = match (section, key) {
                ("kubernetes", "cluster") => ("", "@"),
                ("kubernetes", _) => ("cluster: prod, ", "@"),
                _ => ("cluster: prod, ", "services: { @ }"),
            };
            // Without VIPs of the file: 255 shards leave no VRID to others.
            return format!("forwarding: {{ keyFile: forward.key }}\nkubernetes: {{ {cluster}{outer} }}\n");
        }
        "kubernetes.services.bfd" => {
            let hops = if key == "minimumTtl" { "multihop: 3, " } else { "" };
            return format!(
                "forwarding: {{ keyFile: forward.key }}\nkubernetes: {{ cluster: prod, services: {{ bfd: {{ {hops}@ }} }} }}\n"
            );
        }
        "peers" => "peers: { keyFile: peer.key, @ }".to_owned(),
        "bfd.peers[]" if key == "minimumTtl" => "bfd: { peers: [{ address: 10.9.0.9, multihop: 3, @ }] }".to_owned(),
        "bfd.peers[]" => "bfd: { peers: [{ address: 10.9.0.9, @ }] }".to_owned(),
        "gates[]" => format!("gates: [{{ name: g, {gate}@ }}]"),
        "gates[].tcp" => "gates: [{ name: g, tcp: { @ } }]".to_owned(),
        "gates[].http" => "gates: [{ name: g, http: { url: 'http://h/', @ } }]".to_owned(),
        "gates[].https" => "gates: [{ name: g, https: { url: 'https://h/', caFile: ca.pem, @ } }]".to_owned(),
        "gates[].grpc" => "gates: [{ name: g, grpc: { address: '127.0.0.1:1', @ } }]".to_owned(),
        "forwarding" | "forwarding.nodes[]" => return services::tests::carrier(section, key),
        "site" | "services[].sites" | "services[].sites.each.NAME" => return sites::tests::carrier(section, key),
        of_sites if of_sites.starts_with("sites.") => return sites::tests::carrier(section, key),
        services if services.starts_with("services") => return services::tests::carrier(section, key),
        "etcd" => "etcd: { endpoints: ['http://10.0.0.11:2379'], @ }".to_owned(),
        "vips[].lease" => {
            return "vips:\n  - name: api\n    addresses: [10.9.0.100]\n    ownership: safe\n    lease: { @ }\n"
                .to_owned();
        }
        "vips[]" => "    @".to_owned(),
        "vips[].l2" => "    l2: { @ }".to_owned(),
        bgp if bgp.starts_with("bgp") => return bgp::tests::carrier(MINIMAL, bgp, key),
        other => panic!("no carrier for {other}"),
    };
    format!("{MINIMAL}{extra}\n")
}

fn sections(section: &'static Section, all: &mut Vec<&'static Section>) {
    all.push(section);
    for field in section.fields {
        if let Some(inner) = field.kind.inner() {
            sections(inner, all);
        }
    }
}

fn table() -> Vec<&'static Section> {
    let mut all = Vec::new();
    sections(&ROOT, &mut all);
    all
}

#[test]
fn the_documented_default_is_what_holds_without_the_field() {
    let dir = folder();
    let mut compared = 0;
    for (section, field) in table().into_iter().flat_map(|s| s.fields.iter().map(move |f| (s, f))) {
        let Absent::Value(default) = field.default else { continue };
        let carrier = carrier(section.path, field.key);
        let without = good(&carrier.replace('@', ""), dir.path());
        let with = good(&carrier.replace('@', &format!("{}: {default}", field.key)), dir.path());
        assert_eq!(with, without, "{}.{}", section.path, field.key);
        compared += 1;
    }
    assert!(compared >= 20, "{compared} defaults");
    for empty in ["admin: {}", "log: {}", "    l2: {}"] {
        assert_eq!(good(&format!("{MINIMAL}{empty}\n"), dir.path()), good(MINIMAL, dir.path()));
    }
}

#[test]
fn documented_ranges_are_the_ranges_that_hold() {
    let dir = folder();
    let mut tried = 0;
    for (section, field) in table().into_iter().flat_map(|s| s.fields.iter().map(move |f| (s, f))) {
        let (unit, min, max, step) = match field.kind {
            Kind::Whole { min, max } => ("", min, max, 1),
            Kind::Time { min, max, step } => ("ms", min, max, step),
            _ => continue,
        };
        let text = |n: u64| {
            let given = format!("{}: {n}{unit}", field.key);
            match (section.path, field.key) {
                ("bgp", key @ "asn") => carrier("bgp", key).replace("asn: 65001", &given).replace("@", "drainTime: 5s"),
                ("vips[]", "vrid") => MINIMAL.replace("vrid: 51", &given),
                // Times of a lease are bound by one another: the others are as far away as they may be.
                ("vips[].lease", "duration") => carrier("vips[].lease", "duration")
                    .replace('@', &format!("{given}, renewDeadline: 500ms, retryPeriod: 50ms")),
                ("vips[].lease", "renewDeadline") => carrier("vips[].lease", "renewDeadline")
                    .replace('@', &format!("duration: 1h, {given}, retryPeriod: 50ms")),
                ("vips[].lease", "retryPeriod") => carrier("vips[].lease", "retryPeriod")
                    .replace('@', &format!("duration: 1h, renewDeadline: 3599s, {given}")),
                ("vips[]", "priority") => MINIMAL.replace("priority: 200", &given),
                (path, key) => carrier(path, key).replace('@', &given),
            }
        };
        for n in [min, max] {
            let _accepted = good(&text(n), dir.path());
        }
        for n in [min.wrapping_sub(1).min(max + step), max + step] {
            let errors = parse(&text(n), "f", dir.path(), "n1").expect_err("out of range");
            assert!(errors.to_string().contains(&field.kind.right()), "{errors}");
        }
        tried += 1;
    }
    assert!(tried >= 12, "{tried} ranges");
}

/// The path of a field, as the table calls it: an entry of a mapping by name is called NAME.
fn step(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        "sites" | "services[].sites.each" => format!("{path}.NAME"),
        _ => format!("{path}.{key}"),
    }
}

/// Fields given anywhere in a file, as paths of the table.
fn given(tree: &Tree, path: &str, out: &mut Vec<String>) {
    match &tree.value {
        Value::Map(entries) => {
            for (key, value) in entries {
                let path = step(path, key.key());
                out.push(path.clone());
                given(value, &path, out);
            }
        }
        Value::List(items) => items.iter().for_each(|i| given(i, &format!("{path}[]"), out)),
        _ => {}
    }
}

#[test]
fn every_field_of_the_table_is_read_and_documented() {
    let dir = folder();
    let text = include_str!("full.yaml");
    let loaded = good(text, dir.path());
    assert_eq!(loaded.node.groups.len(), 3);
    let mut fields = Vec::new();
    given(&tree::read(text).expect("YAML"), "", &mut fields);
    let reference = reference();
    for section in table() {
        for field in section.fields {
            let path =
                if section.path.is_empty() { field.key.to_owned() } else { format!("{}.{}", section.path, field.key) };
            assert!(fields.contains(&path), "full.yaml lacks {path}");
            assert!(reference.contains(&format!("| `{}` | ", field.key)), "the reference lacks {path}");
            // A field that the reader ignores could hold anything.
            let mut broken = tree::read(text).expect("YAML");
            assert!(spoil(&mut broken, "", &path), "{path} was not spoilt");
            let errors =
                model::build_tree(&broken, &model::Around { file: "f", base_dir: dir.path(), host_name: "n1" });
            assert!(errors.is_err(), "{path} is not read");
        }
    }
}

#[test]
fn the_api_is_reached_by_a_file_or_by_the_service_account() {
    let kubernetes = |extra: &str| good(&format!("{MINIMAL}{extra}"), Path::new("/etc/bascule")).kubernetes;
    assert_eq!(kubernetes(""), None);
    assert_eq!(kubernetes("kubernetes: {}\n"), Some(Kubernetes::default()));
    for (given, meant) in [("admin.conf", "/etc/bascule/admin.conf"), ("/etc/admin.conf", "/etc/admin.conf")] {
        let kubeconfig = Some(meant.into());
        assert_eq!(
            kubernetes(&format!("kubernetes: {{ kubeconfig: {given} }}\n")),
            Some(Kubernetes { kubeconfig, services: None })
        );
    }
}

/// What elects a VIP, in words.
fn electors(text: &str) -> Vec<String> {
    let loaded = good(text, Path::new("/"));
    let word = |g: &GroupConfig| g.lease.as_ref().map_or("vrrp".into(), |l| format!("{} {}", l.store.word(), l.store));
    loaded.node.groups.iter().map(word).collect()
}

#[test]
fn ownership_and_elector_say_the_same_in_two_words() {
    let vip = |words: &str| {
        let vrrp = if words.contains("safe") || words.contains("kubernetes") { "" } else { ", vrid: 1, priority: 100" };
        format!("vips:\n  - {{ name: a, addresses: [10.0.0.1]{vrrp}{words} }}\n")
    };
    for words in ["", ", ownership: available", ", elector: vrrp", ", ownership: available, elector: vrrp"] {
        assert_eq!(electors(&vip(words)), ["vrrp"], "{words}");
    }
    for words in [", ownership: safe", ", elector: kubernetes", ", ownership: safe, elector: kubernetes"] {
        assert_eq!(electors(&vip(words)), ["kubernetes kube-system/plndr-cp-lock"], "{words}");
    }
    let etcd = "etcd: { endpoints: ['http://10.0.0.1:2379'] }\n";
    let text = format!("{etcd}{}", vip(", ownership: safe, elector: etcd, lease: { name: api }"));
    assert_eq!(electors(&text), ["etcd /bascule/lease/kube-system/api"]);
}

#[test]
fn a_lease_has_kube_vips_defaults_and_no_link_local() {
    let text = "vips:\n  - { name: a, addresses: [\"2001:db8::1\"], ownership: safe }\n";
    let group = &good(text, Path::new("/")).node.groups[0];
    let timing = group.lease.as_ref().expect("a lease").timing;
    assert_eq!(
        (timing.duration(), timing.hold(), timing.renew()),
        (Duration::from_secs(15), Duration::from_secs(10), Duration::from_secs(2))
    );
    assert_eq!((group.vrid, group.owned().len()), (0, 1));
    let warnings = good(&format!("fence: preferred\n{text}"), Path::new("/")).warnings;
    assert!(warnings.len() == 1 && warnings[0].starts_with("fence: a lease keeps its promise only"), "{warnings:?}");
}

#[test]
fn bfd_sessions_become_the_cores_type() {
    let text = "node: n1\nbfd:\n  peers:\n    - address: 10.9.0.254\n    - { address: \"fe80::1\", interface: eth0, transmitInterval: 50ms, receiveInterval: 100ms, multiplier: 5, passive: true }\n    - { address: \"2001:db8::9\", source: \"2001:db8::1\", multihop: 3 }\nvips:\n  - { name: api, addresses: [10.9.0.100], vrid: 51, priority: 200 }\n";
    let loaded = good(text, folder().path());
    let ip = |text: &str| text.parse::<std::net::IpAddr>().expect("an address");
    let plain = PeerConfig::new("10.9.0.254", ip("10.9.0.254"));
    let scoped = PeerConfig {
        interface: Some("eth0".into()),
        desired_min_tx: Duration::from_millis(50),
        required_min_rx: Duration::from_millis(100),
        multiplier: 5,
        passive: true,
        ..PeerConfig::new("fe80::1%eth0", ip("fe80::1"))
    };
    let far = PeerConfig {
        local: Some(ip("2001:db8::1")),
        multihop: Some(253),
        ..PeerConfig::new("2001:db8::9", ip("2001:db8::9"))
    };
    assert_eq!(loaded.bfd, [plain, scoped, far]);
}

/// Replaces the value of the first field at `target` by one that no field accepts.
fn spoil(tree: &mut Tree, path: &str, target: &str) -> bool {
    match &mut tree.value {
        Value::Map(entries) => entries.iter_mut().any(|(key, value)| {
            let path = step(path, key.key());
            if path == target {
                *value = tree::read("[.nan]").expect("YAML");
                return true;
            }
            spoil(value, &path, target)
        }),
        Value::List(items) => items.iter_mut().any(|i| spoil(i, &format!("{path}[]"), target)),
        _ => false,
    }
}

#[test]
fn the_committed_reference_is_the_generated_one() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/config.md");
    let committed = std::fs::read_to_string(file).expect("docs/reference/config.md");
    assert!(committed == reference(), "run `cargo xtask docs` and commit docs/reference/config.md");
}

#[test]
fn the_examples_load() {
    let dir = folder();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let mut loaded = 0;
    for entry in std::fs::read_dir(examples).expect("deploy/examples") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("text").replace("/etc/bascule/", "");
        let example = parse(&text, "example", dir.path(), "cp2").unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(example.warnings.is_empty() && !example.node.keys.is_empty(), "{}", path.display());
        let guide = include_str!("../../../docs/configuration.md");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(guide.contains(&name), "docs/configuration.md does not name {name}");
        loaded += 1;
    }
    assert!(loaded >= 2);
}

#[test]
fn values_may_be_shared_by_anchors() {
    let text = "vips:\n  - &a { name: a, addresses: [10.0.0.1], vrid: 1, priority: 200, l2: &x { burst: 5 } }\n  - { <<: *a, name: b, addresses: [10.0.0.2], vrid: 2 }\n";
    let loaded = good(text, Path::new("/"));
    assert_eq!(loaded.node.groups[1].l2.burst, 5);
    assert_eq!(loaded.node.groups[1].priority, 200);
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let text = "fence: off\nvips:\n  - { name: a, addresses: [10.0.0.1], vrid: 1, priority: 200, whenAllFail: release }\n  - { name: b, addresses: [10.0.0.2], vrid: 1, priority: 200, interface: eth1, l2: { refresh: 10m } }\n";
    let warnings = good(text, Path::new("/")).warnings;
    assert_eq!(
        warnings,
        [
            "fence: off: a stalled or isolated owner goes on answering for its addresses",
            "vips[0].whenAllFail: release has no effect without gates",
            "vips[1].l2.refresh: longer than 300s, after which a switch forgets where the addresses are",
            "vips[1].vrid: 1 is also the VRID of vips[0]; this is refused if both are on one interface",
        ]
    );
}
