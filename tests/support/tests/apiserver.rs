//! The API server of the lab is a real one: it stores, it authenticates, and it refuses what no role allows.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bascule_lab::apiserver::ApiServer;
use bascule_lab::{Lab, wait_for};
use serde_json::json;

/// An account with a role for Leases, and one without.
const MANIFESTS: &str = r"
apiVersion: v1
kind: Namespace
metadata: { name: lab }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: allowed, namespace: lab }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: nobody, namespace: lab }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: { name: leases, namespace: lab }
rules:
  - { apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create, get] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: leases, namespace: lab }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: leases }
subjects:
  - { kind: ServiceAccount, name: allowed, namespace: lab }
";

#[test]
fn a_real_api_server_stores_and_refuses() {
    let lab = Lab::new("api").unwrap();
    let netns = lab.netns("api").unwrap();
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut api = ApiServer::start(&lab, &netns, &[]).unwrap();
    assert!(api.version().contains("v1."), "{}", api.version());
    api.apply(MANIFESTS).unwrap();

    let leases = "/apis/coordination.k8s.io/v1/namespaces/lab/leases";
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "one"},
        "spec": {"holderIdentity": "n1", "leaseDurationSeconds": 15}});
    let allowed = api.token("lab", "allowed").unwrap();
    let nobody = api.token("lab", "nobody").unwrap();
    // RBAC's own caches follow what was just created.
    wait_for(Duration::from_secs(30), "the role to be known", || {
        let (status, _) = api.request_as(&allowed, "GET", &format!("{leases}/none"), None).ok()?;
        (status == 404).then_some(())
    })
    .unwrap();
    let (status, answer) = api.request_as(&nobody, "POST", leases, Some(&lease)).unwrap();
    assert_eq!(status, 403, "{answer}");
    assert_eq!(api.request_as("no-token", "GET", leases, None).unwrap().0, 401);
    let (status, answer) = api.request_as(&allowed, "POST", leases, Some(&lease)).unwrap();
    assert_eq!(status, 201, "{answer}");
    let (status, answer) = api.request_as(&allowed, "DELETE", &format!("{leases}/one"), None).unwrap();
    assert_eq!(status, 403, "a verb that the role does not name: {answer}");

    let config = api.kubeconfig("allowed", local, &allowed).unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(
        text.contains("https://127.0.0.1:6443") && !text.contains(&allowed),
        "the token lies in its own file: {text}"
    );

    // What was stored outlives the server, for it lies in etcd.
    api.restart(&lab, &netns).unwrap();
    let (status, stored) = api.request_as(&allowed, "GET", &format!("{leases}/one"), None).unwrap();
    assert_eq!((status, stored["spec"]["holderIdentity"].as_str()), (200, Some("n1")));
}
