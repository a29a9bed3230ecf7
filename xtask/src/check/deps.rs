//! Dependency rules of the pure crates, from `cargo metadata`: a Cargo.toml keeps a promise that a module cannot.

use anyhow::{Result, bail};
use serde_json::Value;

/// A pure crate and every crate it may name as a dependency of its own (tests excepted). Nothing here can open a
/// socket or a file, read a clock or start a thread on our behalf; a new line needs that same argument.
const PURE: &[(&str, &[&str])] = &[
    (
        "bascule-core",
        &[
            "hmac",        // peer channel signatures
            "ipnet",       // prefixes
            "pnet_base",   // MAC addresses
            "pnet_packet", // packet layouts, no sockets
            "serde",       // state for the admin API
            "sha2",        // peer channel signatures
            "siphasher",   // seeded spread
            "subtle",      // constant-time comparison
            "thiserror",   // errors
        ],
    ),
    (
        "bascule-bgp",
        &[
            "ipnet",     // prefixes
            "serde",     // state for the admin API
            "thiserror", // errors
        ],
    ),
    ("bascule-ebpf-common", &["aya"]), // for the marker trait of map values, only with the feature `user`
];

/// A foreign crate and the one of ours that may name it (tests included): its types stop there.
const DOORS: &[(&str, &str)] = &[
    ("kube", "bascule-k8s"),
    ("k8s-openapi", "bascule-k8s"),
    ("tonic", "bascule-etcd"),
    ("tonic-prost", "bascule-etcd"),
];

/// Crates at the bottom of the direction `core <- daemon`: nobody of ours below them.
pub(super) fn check(metadata: &Value) -> Result<()> {
    let found = violations(metadata);
    if !found.is_empty() {
        bail!("{}", found.join("; "));
    }
    Ok(())
}

fn violations(metadata: &Value) -> Vec<String> {
    let mut found = doors(metadata);
    for (name, allowed) in PURE {
        let packages = metadata["packages"].as_array();
        let Some(package) = packages.and_then(|all| all.iter().find(|package| package["name"] == **name)) else {
            found.push(format!("crate {name} is not in the workspace"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let Some(dependency_name) = dependency["name"].as_str() else { continue };
            let test_only = dependency["kind"] == "dev";
            if !test_only && !allowed.contains(&dependency_name) {
                found
                    .push(format!("{name} depends on {dependency_name}, which xtask/src/check/deps.rs does not allow"));
            }
            if *name == "bascule-ebpf-common" && dependency_name == "aya" && dependency["optional"] != true {
                found.push("bascule-ebpf-common must keep aya optional: the eBPF build has no std".to_owned());
            }
        }
    }
    found
}

/// What is ours has no source: it came from no registry.
fn doors(metadata: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten().filter(|p| p["source"].is_null()) {
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let door = DOORS.iter().find(|(foreign, _)| dependency["name"] == **foreign);
            if let Some((foreign, owner)) = door.filter(|(_, owner)| package["name"] != **owner) {
                let name = package["name"].as_str().unwrap_or("?");
                found.push(format!("{name} depends on {foreign}, whose types stop at {owner}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn workspace(core: &Value) -> Value {
        let aya = json!({"name": "aya", "kind": null, "optional": true});
        json!({"packages": [
            {"name": "bascule-core", "dependencies": core},
            {"name": "bascule-bgp", "dependencies": []},
            {"name": "bascule-ebpf-common", "dependencies": [aya]},
        ]})
    }

    #[test]
    fn a_socket_crate_in_core_is_found() {
        let planted = workspace(&json!([{"name": "sha2", "kind": null}, {"name": "tokio", "kind": null}]));
        let found = violations(&planted);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("bascule-core depends on tokio"), "{found:?}");
    }

    #[test]
    fn a_foreign_crate_past_its_door_is_found() {
        let kube = json!([{"name": "kube", "kind": "dev"}]);
        let planted = json!({"packages": [
            {"name": "bascule", "dependencies": kube},
            {"name": "bascule-k8s", "dependencies": kube},
            {"name": "kube-runtime", "source": "registry", "dependencies": kube},
        ]});
        assert_eq!(doors(&planted), ["bascule depends on kube, whose types stop at bascule-k8s"]);
    }

    #[test]
    fn build_dependencies_count_and_test_dependencies_do_not() {
        let planted = workspace(&json!([{"name": "cc", "kind": "build"}, {"name": "proptest", "kind": "dev"}]));
        assert_eq!(violations(&planted).len(), 1);
    }

    #[test]
    fn a_pure_crate_that_vanished_is_found() {
        assert_eq!(violations(&json!({"packages": []})).len(), 3);
    }

    #[test]
    fn our_own_workspace_holds() {
        assert_eq!(violations(&super::super::metadata().unwrap()), Vec::<String>::new());
    }
}
