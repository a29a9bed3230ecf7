//! The static pod.

use std::fmt::Write;
use std::path::Path;

use super::StaticPod;
use super::platform::{Platform, Wanted};

/// Where the manifest's own configuration appears in the container.
const INLINE: &str = "/etc/bascule-pod/bascule.yaml";

/// The manifest, with its configuration inside unless that is a file on the host.
pub(super) fn manifest(wanted: &Wanted<'_>) -> String {
    let mut text = String::new();
    write_pod(wanted, &mut text).expect("writing to memory does not fail");
    text
}

fn write_pod(what: &Wanted<'_>, text: &mut String) -> std::fmt::Result {
    let wanted: &StaticPod = what.pod;
    let config = wanted.config.as_deref().unwrap_or(Path::new(INLINE)).display();
    let (host, port) = (wanted.http.ip(), wanted.http.port());
    writeln!(
        text,
        "# Made by `bascule render static-pod`. {place}\n\
         # No kubeconfig and no service account: it works before, without and during the loss of the API server.\n\
         apiVersion: v1\n\
         kind: Pod\n\
         metadata:\n\
         \x20 name: bascule\n\
         \x20 namespace: kube-system\n\
         \x20 labels:\n\
         \x20   app.kubernetes.io/name: bascule\n\
         \x20   app.kubernetes.io/component: control-plane-vip",
        place = what.place(),
    )?;
    if wanted.config.is_none() {
        writeln!(
            text,
            "  annotations:\n\
             \x20   # The configuration. A static pod may not use a ConfigMap, but it may see its own annotations (downwardAPI below).\n\
             \x20   bascule/config: |"
        )?;
        for line in inline_config(what).lines() {
            writeln!(text, "      {line}")?;
        }
    }
    writeln!(
        text,
        "spec:\n\
         \x20 hostNetwork: true # the addresses live on the node's links\n\
         \x20 priorityClassName: system-node-critical\n\
         \x20 automountServiceAccountToken: false\n\
         \x20 enableServiceLinks: false\n\
         \x20 tolerations: [{{operator: Exists}}]\n\
         \x20 # Handing over takes well under 3 s, serving stragglers the drainTime (1 s by default) on top.\n\
         \x20 terminationGracePeriodSeconds: 30\n\
         \x20 securityContext:\n\
         \x20   # Allows bpf(2) with CAP_BPF since containerd 1.7 and Docker 23; an older one refuses, and the log says so.\n\
         \x20   seccompProfile: {{type: RuntimeDefault}}\n\
         \x20 containers:\n\
         \x20   - name: bascule\n\
         \x20     image: {image}\n\
         \x20     imagePullPolicy: IfNotPresent # a registry that cannot be reached must not cost the address\n\
         \x20     args: [run, --config, {config}]\n\
         \x20     securityContext:\n\
         \x20       runAsUser: 0 # bpffs and the admin socket are root's\n\
         \x20       privileged: false\n\
         \x20       allowPrivilegeEscalation: false\n\
         \x20       readOnlyRootFilesystem: true\n\
         \x20       capabilities:\n\
         \x20         drop: [ALL]\n\
         \x20         # NET_ADMIN: addresses and tc; NET_RAW: adverts, ARP, NDP; BPF, PERFMON: the fence{nice_why}\n\
         \x20         add: [NET_ADMIN, NET_RAW, BPF, PERFMON{nice}]\n\
         \x20     # No limit on CPU: throttling delays adverts until the fence closes.\n\
         \x20     resources:\n\
         \x20       requests: {{cpu: 50m, memory: 32Mi}}\n\
         \x20     # The first turn of the loop; then a loop that hangs is restarted (its fence has closed by itself long before).\n\
         \x20     startupProbe:\n\
         \x20       httpGet: {{host: \"{host}\", port: {port}, path: /live}}\n\
         \x20       periodSeconds: 1\n\
         \x20       failureThreshold: 30\n\
         \x20     livenessProbe:\n\
         \x20       httpGet: {{host: \"{host}\", port: {port}, path: /live}}\n\
         \x20       periodSeconds: 5\n\
         \x20       failureThreshold: 3\n\
         \x20     readinessProbe:\n\
         \x20       httpGet: {{host: \"{host}\", port: {port}, path: /ready}}\n\
         \x20       periodSeconds: 2\n\
         \x20     volumeMounts:\n\
         \x20       # HostToContainer: a bpffs that the host mounts after us appears here as well. We mount nothing ourselves, and pins are\n\
         \x20       # files of that one file system, so nothing has to propagate back: Bidirectional would need a privileged container.\n\
         \x20       - {{name: bpffs, mountPath: /sys/fs/bpf, mountPropagation: HostToContainer}}\n\
         \x20       - {{name: run, mountPath: /run/bascule}}",
        image = wanted.image,
        nice = if wanted.realtime { ", SYS_NICE" } else { "" },
        nice_why = if wanted.realtime { "; SYS_NICE: the real-time thread" } else { "" },
    )?;
    // A folder and not the file: editors and configuration tools replace files by renaming, which a mounted file does not see.
    let folder = wanted.config.as_deref().and_then(Path::parent).map(Path::display);
    match &folder {
        Some(folder) => writeln!(text, "        - {{name: config, mountPath: {folder}, readOnly: true}}")?,
        None => writeln!(text, "        - {{name: config, mountPath: /etc/bascule-pod, readOnly: true}}")?,
    }
    if let Some(key) = wanted.key_file.as_deref().map(Path::display) {
        writeln!(text, "        - {{name: key, mountPath: {key}, readOnly: true}}")?;
    }
    // Two files and not their folder, where the keys of the cluster's authorities lie as well. They are written anew in place.
    let client = gate_client(wanted);
    for (name, path) in &client {
        writeln!(text, "        - {{name: {name}, mountPath: {path}, readOnly: true}}")?;
    }
    writeln!(
        text,
        "  volumes:\n\
         \x20   - {{name: bpffs, hostPath: {{path: /sys/fs/bpf, type: Directory}}}}\n\
         \x20   # The admin socket, so that `bascule status` works on the host.\n\
         \x20   - {{name: run, hostPath: {{path: /run/bascule, type: DirectoryOrCreate}}}}"
    )?;
    match &folder {
        Some(folder) => writeln!(text, "    - {{name: config, hostPath: {{path: {folder}, type: Directory}}}}")?,
        None => writeln!(
            text,
            "    - name: config\n\
             \x20     downwardAPI:\n\
             \x20       items:\n\
             \x20         - path: bascule.yaml\n\
             \x20           fieldRef: {{fieldPath: \"metadata.annotations['bascule/config']\"}}"
        )?,
    }
    if let Some(key) = wanted.key_file.as_deref().map(Path::display) {
        writeln!(text, "    - {{name: key, hostPath: {{path: {key}, type: File}}}}")?;
    }
    for (name, path) in &client {
        writeln!(text, "    - {{name: {name}, hostPath: {{path: {path}, type: File}}}}")?;
    }
    Ok(())
}

/// Volumes and files of what the gate of the manifest's own configuration shows to the API server.
fn gate_client(wanted: &StaticPod) -> Vec<(&'static str, String)> {
    let own = wanted.config.is_none() && wanted.gate.is_none();
    let client = wanted.platform.filter(|_| own).and_then(Platform::client);
    client.map_or_else(Vec::new, |name| {
        vec![("client-cert", format!("{name}.crt")), ("client-key", format!("{name}.key"))]
    })
}

/// The configuration that the flags stand for.
pub(super) fn inline_config(what: &Wanted<'_>) -> String {
    let wanted: &StaticPod = what.pod;
    let mut text = format!("admin: {{ http: \"{}\" }}\n", wanted.http);
    let mut line = |words: std::fmt::Arguments<'_>| {
        text.write_fmt(words).and_then(|()| text.write_char('\n')).expect("writing to memory does not fail");
    };
    if let Some(key) = &wanted.key_file {
        line(format_args!("peers: {{ keyFile: {} }}", key.display()));
    }
    let gated = wanted.gate.is_some() || wanted.platform.is_some();
    match (&wanted.gate, wanted.platform) {
        (Some(gate), _) => line(format_args!("gates:\n  - name: local\n    tcp: {{ address: \"{gate}\" }}")),
        (None, Some(platform)) => line(format_args!("{}", api_server_gate(platform))),
        (None, None) => {}
    }
    if let Some(asn) = wanted.bgp_as {
        line(format_args!("bgp:\n  asn: {asn}\n  neighbors:"));
        for (number, neighbor) in wanted.bgp_neighbor.iter().enumerate() {
            let bfd = if wanted.bfd { ", bfd: {}" } else { "" };
            let (number, address, remote_as) = (number + 1, neighbor.address, &neighbor.remote_as);
            line(format_args!("    - {{ name: router-{number}, address: \"{address}\", remoteAs: {remote_as}{bfd} }}"));
        }
    }
    line(format_args!("vips:\n  - name: control-plane"));
    let addresses: Vec<String> = what.vips.iter().map(|vip| format!("\"{vip}\"")).collect();
    line(format_args!("    addresses: [{}]", addresses.join(", ")));
    if let Some(interface) = &what.interface {
        line(format_args!("    interface: {}", quoted(interface)));
    }
    if let Some(vrid) = wanted.vrid {
        line(format_args!("    vrid: {vrid}"));
    }
    match wanted.priority {
        _ if wanted.bgp_as.is_some() => line(format_args!("    announce: bgp\n    scope: all")),
        Some(priority) => line(format_args!("    priority: {priority}")),
        None if wanted.nodes.is_empty() => line(format_args!("    priority: {}", Platform::PRIORITY)),
        None => {
            let nodes: Vec<String> = wanted.nodes.iter().map(|node| quoted(node)).collect();
            line(format_args!("    nodes: [{}]", nodes.join(", ")));
        }
    }
    if !wanted.unicast_peers.is_empty() {
        let peers: Vec<String> = wanted.unicast_peers.iter().map(|peer| format!("\"{peer}\"")).collect();
        line(format_args!("    unicastPeers: [{}]", peers.join(", ")));
    }
    if gated {
        line(format_args!("    gates: [local]"));
    }
    // An anycast address without a healthy node is withdrawn; an owned one stays where it is: no API server is no reason for no address.
    if wanted.platform.is_some() && wanted.bgp_as.is_none() {
        line(format_args!("    whenAllFail: keep"));
    }
    text
}

/// The gate on the node's own API server: without etcd, whose loss is the same on every node and no reason to move. Asked over loopback,
/// so that whose certificate it is needs no proof: the CA's file is not there yet when the first node starts.
fn api_server_gate(platform: Platform) -> String {
    let client = platform.client().map(|name| format!(",\n             certFile: {name}.crt, keyFile: {name}.key"));
    let client = client.unwrap_or_default();
    format!(
        "gates:\n  - name: local\n    https: {{ url: \"https://127.0.0.1:6443/livez?exclude=etcd\", expect: \"200\", insecureSkipVerify: true{client} }}\n    \
         interval: 400ms\n    timeout: 400ms"
    )
}

/// A JSON string is a YAML string, whatever is in it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
