//! The DaemonSet's manifests: kustomize and Helm say the same, both are valid for the oldest and the newest release, and a real API server
//! takes them, Pod Security included.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::apiserver::ApiServer;
use bascule_lab::{Lab, Netns, documents};
use bascule_suite::manifests::{Schemas, chart_tool, deploy, must};
use serde_json::{Value, json};

/// The namespace of the manifests.
const NAMESPACE: &str = "bascule-system";

/// helm and kubectl, or a line that says that they are missing: `cargo xtask setup` fetches them.
fn tools() -> Option<(PathBuf, PathBuf)> {
    Some((chart_tool("helm")?, chart_tool("kubectl")?))
}

fn without(what: &str) {
    println!("measured: no helm and kubectl on this machine (cargo xtask setup): {what} was not run");
}

fn kustomized(kubectl: &Path, folder: &Path) -> Result<String> {
    must(Command::new(kubectl).arg("kustomize").arg(folder))
}

fn templated(helm: &Path, set: &[&str]) -> Result<String> {
    let mut command = Command::new(helm);
    command.args(["template", "bascule"]).arg(deploy("helm/bascule")).args([
        "--include-crds",
        "--namespace",
        NAMESPACE,
    ]);
    must(command.args(set.iter().flat_map(|set| ["--set", set])))
}

/// An overlay with every component beside the base.
fn overlay(folder: &Path) -> Result<PathBuf> {
    let kustomize = deploy("kustomize").canonicalize()?;
    // kustomize takes relative paths only.
    let linked = folder.join("kustomize");
    must(Command::new("cp").arg("-r").arg(&kustomize).arg(&linked))?;
    let here = folder.join("overlay");
    std::fs::create_dir(&here)?;
    let all = ["podmonitor", "realtime", "keys", "elector"].map(|name| format!("../kustomize/components/{name}"));
    let text = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": ["../kustomize/base"], "components": all,
    });
    std::fs::write(here.join("kustomization.yaml"), text.to_string())?;
    Ok(here)
}

fn one<'a>(all: &'a [Value], kind: &str) -> Result<&'a Value> {
    all.iter().find(|d| d["kind"] == kind).with_context(|| format!("no {kind}"))
}

/// Every object of a kind, in the order of their names.
fn every<'a>(all: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let mut found: Vec<&Value> = all.iter().filter(|d| d["kind"] == kind).collect();
    found.sort_by_key(|d| d["metadata"]["name"].to_string());
    found
}

fn without_kind(text: &str, kind: &str) -> Result<Vec<Value>> {
    Ok(documents(text)?.into_iter().filter(|d| !d.is_null() && d["kind"] != kind).collect())
}

fn written(folder: &Path, name: &str, objects: &[Value]) -> Result<PathBuf> {
    let path = folder.join(name);
    let all: Vec<String> = objects.iter().map(Value::to_string).collect();
    std::fs::write(&path, all.join("\n---\n"))?;
    Ok(path)
}

#[test]
fn helm_and_kustomize_say_the_same_and_both_are_valid() -> Result<()> {
    let Some((helm, kubectl)) = tools() else {
        without("helm and kustomize");
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let linted = must(Command::new(&helm).args(["lint", "--strict"]).arg(deploy("helm/bascule")))?;
    ensure!(linted.contains("0 chart(s) failed"), "{linted}");
    let base = documents(&kustomized(&kubectl, &deploy("kustomize/base"))?)?;
    let full = kustomized(&kubectl, &overlay(dir.path())?)?;
    let chart = documents(&templated(&helm, &["namespace.create=true"])?)?;
    let wanted = ["Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet"];
    for kind in wanted {
        ensure!(one(&base, kind)? == one(&chart, kind)?, "{kind}: {}\n{}", one(&base, kind)?, one(&chart, kind)?);
    }
    let kinds = every(&base, "CustomResourceDefinition");
    let files = std::fs::read_dir(deploy("crds"))?.count();
    ensure!(kinds.len() == files && kinds == every(&chart, "CustomResourceDefinition"), "{files} kinds: {kinds:?}");
    let options = [
        "podMonitor.enabled=true",
        "realtime=true",
        "keysSecret=bascule-keys",
        "namespace.create=true",
        "rbac.elector=true",
    ];
    let full_chart = templated(&helm, &options)?;
    for kind in ["PodMonitor", "DaemonSet"] {
        let (ours, theirs) = (documents(&full)?, documents(&full_chart)?);
        ensure!(one(&ours, kind)? == one(&theirs, kind)?, "{kind}: {}\n{}", one(&ours, kind)?, one(&theirs, kind)?);
    }
    // The electors' role is asked for: the base has none, and both say the same of it.
    for (kind, more) in [("Role", 1), ("RoleBinding", 1), ("ServiceAccount", 1)] {
        let (without, ours, theirs) = (every(&base, kind).len(), documents(&full)?, documents(&full_chart)?);
        let (ours, theirs) = (every(&ours, kind), every(&theirs, kind));
        ensure!(ours.len() == without + more && ours == theirs, "{kind}: {ours:?}\n{theirs:?}");
    }
    // The operator's own kind is not among the schemas: what it names must be there.
    let all = documents(&full)?;
    let port = &one(&all, "PodMonitor")?["spec"]["podMetricsEndpoints"][0]["port"];
    ensure!(one(&all, "DaemonSet")?["spec"]["template"]["spec"]["containers"][0]["ports"][0]["name"] == *port);
    let schemas = Schemas::new()?;
    let objects = [without_kind(&full, "PodMonitor")?, without_kind(&full_chart, "PodMonitor")?];
    let files = [written(dir.path(), "kustomize.yaml", &objects[0])?, written(dir.path(), "helm.yaml", &objects[1])?];
    schemas.accept(&files, objects.iter().map(Vec::len).sum())?;
    // The values are judged: a limit on CPU, an unknown key and a wrong digest.
    for bad in ["resources.limits.cpu=1", "imagePullPolicy=Always", "image.digest=sha256:abc", "port=0"] {
        ensure!(templated(&helm, &[bad]).is_err(), "{bad} was taken");
    }
    let pinned = templated(&helm, &[&format!("image.digest=sha256:{}", "ab".repeat(32))])?;
    ensure!(pinned.contains(&format!("registry.example/bascule@sha256:{}", "ab".repeat(32))), "{pinned}");
    Ok(())
}

/// `kubectl apply` by the server, without keeping anything.
fn dry_run(kubectl: &Path, netns: &Netns, kubeconfig: &Path, file: &Path) -> Result<String> {
    let (kubeconfig, file) = (kubeconfig.display().to_string(), file.display().to_string());
    let args = ["--kubeconfig", &kubeconfig, "apply", "--dry-run=server", "--validate=strict", "-f", &file];
    Ok(netns.tool(&kubectl.display().to_string(), &args)?)
}

#[test]
fn a_real_api_server_takes_what_helm_and_kustomize_print() -> Result<()> {
    let Some((helm, kubectl)) = tools() else {
        without("the server-side dry run");
        return Ok(());
    };
    let lab = Lab::new("charts")?;
    let netns = lab.netns("api")?;
    let api = ApiServer::start(&lab, &netns, &[])?;
    let kubeconfig = api.admin_kubeconfig()?;
    let dir = tempfile::tempdir()?;
    let outputs = [
        kustomized(&kubectl, &overlay(dir.path())?)?,
        templated(&helm, &["realtime=true", "keysSecret=bascule-keys", "namespace.create=true", "rbac.elector=true"])?,
    ];
    // A dry run makes no namespace for what is to stand in it.
    let namespace = one(&documents(&outputs[0])?, "Namespace")?.clone();
    api.must("POST", "/api/v1/namespaces", Some(&namespace))?;
    for (name, text) in ["kustomize.yaml", "helm.yaml"].iter().zip(&outputs) {
        let objects = without_kind(text, "PodMonitor")?;
        let answer = dry_run(&kubectl, &netns, &kubeconfig, &written(dir.path(), name, &objects)?)?;
        let taken = answer.lines().filter(|line| line.ends_with("(server dry run)")).count();
        ensure!(taken == objects.len(), "{name}: {taken} of {} objects were taken:\n{answer}", objects.len());
    }
    // The pods themselves: Pod Security lets them into their namespace and into no stricter one.
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "bascule" } });
    let strict = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": "strict", "labels": { "pod-security.kubernetes.io/enforce": "baseline" } },
    });
    api.must("POST", "/api/v1/namespaces", Some(&strict))?;
    let template = one(&documents(&outputs[1])?, "DaemonSet")?["spec"]["template"].clone();
    for (namespace, wanted) in [(NAMESPACE, true), ("strict", false)] {
        api.must("POST", &format!("/api/v1/namespaces/{namespace}/serviceaccounts"), Some(&account))?;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "one", "labels": template["metadata"]["labels"] },
            "spec": template["spec"],
        });
        let (status, answer) =
            api.request("POST", &format!("/api/v1/namespaces/{namespace}/pods?dryRun=All"), Some(&pod))?;
        ensure!((status == 201) == wanted, "{namespace}: {status} {answer}");
        ensure!(wanted || answer["message"].as_str().is_some_and(|m| m.contains("PodSecurity")), "{answer}");
    }
    // A field that does not exist is refused by the same way.
    let mut misspelt = without_kind(&outputs[0], "PodMonitor")?;
    misspelt.retain(|object| object["kind"] == "DaemonSet");
    misspelt[0]["spec"]["template"]["spec"]["hostNetwrk"] = json!(true);
    let refused = dry_run(&kubectl, &netns, &kubeconfig, &written(dir.path(), "bad.yaml", &misspelt)?);
    ensure!(refused.is_err_and(|error| error.to_string().contains("hostNetwrk")), "a misspelt field was taken");
    Ok(())
}
