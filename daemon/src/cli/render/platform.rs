//! What each platform needs of the static pod: where the manifest goes and when, what its API server answers, and the objects of Cluster API
//! that carry it. The facts are in docs/install.md.

use std::fmt;
use std::net::IpAddr;

use super::StaticPod;
use super::pod;

/// Who makes the node.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Platform {
    /// kubeadm, by hand or by a tool
    Kubeadm,
    /// K3s servers
    K3s,
    /// RKE2 servers
    Rke2,
    /// Cluster API with the kubeadm control plane, any infrastructure
    Capi,
    /// The same on vSphere, with the variables of its templates
    Capv,
    /// The same on bare metal (Metal3), with the variables of its templates
    Capm3,
}

impl Platform {
    /// Priority of a node that no list ranks: the least one; commands on the node put one of its own in its place.
    pub(super) const PRIORITY: u8 = 100;

    /// The certificate that is shown to the node's API server and its key, without their endings. K3s and RKE2 start it with
    /// `anonymous-auth=false`: it tells only who shows one how it is. The scheduler's lies on every server before the kubelet starts,
    /// and its user may do less than the administrator's.
    pub(super) const fn client(self) -> Option<&'static str> {
        match self {
            Self::K3s => Some("/var/lib/rancher/k3s/server/tls/client-scheduler"),
            Self::Rke2 => Some("/var/lib/rancher/rke2/server/tls/client-scheduler"),
            Self::Kubeadm | Self::Capi | Self::Capv | Self::Capm3 => None,
        }
    }

    /// The kubelet's folder for static pods.
    const fn folder(self) -> &'static str {
        match self {
            Self::K3s => "/var/lib/rancher/k3s/agent/pod-manifests",
            Self::Rke2 => "/var/lib/rancher/rke2/agent/pod-manifests",
            Self::Kubeadm | Self::Capi | Self::Capv | Self::Capm3 => "/etc/kubernetes/manifests",
        }
    }

    /// What the API server's certificate must name, and where that is said.
    const fn names(self) -> &'static str {
        match self {
            Self::K3s => {
                "\n# Beforehand, in /etc/rancher/k3s/config.yaml of every server: `tls-san: [VIP]`; later servers join `https://VIP:6443`."
            }
            Self::Rke2 => {
                "\n# Beforehand, in /etc/rancher/rke2/config.yaml of every server: `tls-san: [VIP]`; later servers join `https://VIP:9345`."
            }
            Self::Kubeadm => "\n# The cluster's controlPlaneEndpoint is VIP:6443 from the first `kubeadm init` on.",
            Self::Capi | Self::Capv | Self::Capm3 => "",
        }
    }

    /// Is the manifest part of a template of Cluster API, which knows neither the names nor the number of the nodes?
    const fn is_cluster_api(self) -> bool {
        matches!(self, Self::Capi | Self::Capv | Self::Capm3)
    }

    /// The template's variable for the endpoint.
    const fn endpoint(self) -> Option<&'static str> {
        match self {
            Self::Capv => Some("${CONTROL_PLANE_ENDPOINT_IP}"),
            Self::Capm3 => Some("${CLUSTER_APIENDPOINT_HOST}"),
            Self::Kubeadm | Self::K3s | Self::Rke2 | Self::Capi => None,
        }
    }
}

/// An address, or the variable of a template that stands for one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Vip {
    /// An address.
    Address(IpAddr),
    /// `${NAME}` or `${NAME:=default}`.
    Variable(String),
}

impl Vip {
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        match name {
            Some(name) if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_:=.".contains(c)) => {
                Ok(Self::Variable(text.to_owned()))
            }
            _ => text.parse().map(Self::Address).map_err(|error| format!("{error}")),
        }
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Variable(text) => f.write_str(text),
        }
    }
}

/// What is to be written: the flags, and what the platform adds to them.
pub(super) struct Wanted<'a> {
    pub(super) pod: &'a StaticPod,
    pub(super) vips: Vec<Vip>,
    pub(super) interface: Option<String>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(pod: &'a StaticPod) -> Result<Self, String> {
        let templated = pod.platform.is_some_and(Platform::is_cluster_api);
        let endpoint = pod.platform.and_then(Platform::endpoint).map(|name| Vip::Variable(name.to_owned()));
        let vips = if pod.vip.is_empty() { endpoint.into_iter().collect() } else { pod.vip.clone() };
        if pod.config.is_none() {
            if vips.is_empty() {
                return Err("one of --config <PATH>|--vip <ADDRESS> is needed".into());
            }
            if !templated && vips.iter().any(|vip| matches!(vip, Vip::Variable(_))) {
                return Err(
                    "a variable is an address in templates of Cluster API only: --for capi, capv or capm3".into()
                );
            }
            if pod.vrid.is_none() && pod.bgp_as.is_none() {
                return Err("one of --vrid <1-255>|--bgp-as <AS> is needed".into());
            }
            if pod.vrid.is_some() && !templated && pod.nodes.is_empty() && pod.priority.is_none() {
                return Err("one of --nodes <NODE>|--priority <100-254> is needed".into());
            }
        }
        let interface = match (&pod.interface, pod.platform) {
            (None, Some(Platform::Capv)) => Some("${VIP_NETWORK_INTERFACE:=eth0}".to_owned()),
            (given, _) => given.clone(),
        };
        Ok(Self { pod, vips, interface })
    }

    /// Where the manifest goes, for its first line.
    pub(super) fn place(&self) -> String {
        match self.pod.platform {
            None => "Save it in the kubelet's staticPodPath (/etc/kubernetes/manifests).".to_owned(),
            Some(platform) if platform.is_cluster_api() => {
                "Cluster API writes it before kubeadm runs; the kubelet starts it with the API server.".to_owned()
            }
            Some(platform) => {
                let (folder, names) = (platform.folder(), platform.names());
                format!("Save it as {folder}/bascule.yaml on every server before the first start.{names}")
            }
        }
    }
}

/// The manifest of a static pod, or the part of a KubeadmControlPlane that delivers one.
///
/// # Errors
/// In words, what the flags lack.
pub fn static_pod(pod: &StaticPod) -> Result<String, String> {
    let wanted = Wanted::new(pod)?;
    let manifest = pod::manifest(&wanted);
    Ok(match pod.platform {
        Some(platform) if platform.is_cluster_api() => control_plane(&wanted, platform, &manifest),
        _ => manifest,
    })
}

/// Fields that API versions v1beta1 and v1beta2 of KubeadmControlPlane have alike.
fn control_plane(wanted: &Wanted<'_>, platform: Platform, manifest: &str) -> String {
    let file = format!("{}/bascule.yaml", platform.folder());
    let content: String = manifest.lines().map(|line| format!("          {line}\n")).collect();
    let mut text = format!(
        "# Made by `bascule render static-pod`: merge it into the KubeadmControlPlane (also as v1beta2, whose fields here are the same).\n\
         # No kubeconfig is mounted, so there is nothing to patch on the first node: neither admin.conf nor super-admin.conf.\n\
         apiVersion: controlplane.cluster.x-k8s.io/v1beta1\n\
         kind: KubeadmControlPlane\n\
         metadata:\n\
         \x20 name: \"${{CLUSTER_NAME}}-control-plane\"\n\
         spec:\n\
         \x20 kubeadmConfigSpec:\n\
         \x20   files:\n\
         \x20     - path: {file}\n\
         \x20       owner: root:root\n\
         \x20       permissions: \"0644\"\n\
         \x20       content: |\n{content}"
    );
    let ranked = !wanted.pod.nodes.is_empty() || wanted.pod.priority.is_some() || wanted.pod.vrid.is_none();
    if let (false, Some(first)) = (ranked || wanted.pod.config.is_some(), wanted.vips.first()) {
        text += &format!(
            "    preKubeadmCommands:\n\
             \x20     # A priority of its own for each machine, 100 to 254, by the end of its address towards the VIP; of two that are equal the\n\
             \x20     # higher address wins (RFC 9568 section 6.4.3).\n\
             \x20     - >-\n\
             \x20       n=$(ip -o route get {first} | sed -n 's/.* src [0-9a-f.:]*[.:]\\([0-9a-f]*\\) .*/\\1/p') &&\n\
             \x20       sed -i \"s/ priority: {priority}$/ priority: $((100 + 0x0$n % 155))/\" {file}\n",
            priority = Platform::PRIORITY,
        );
    }
    text
}
