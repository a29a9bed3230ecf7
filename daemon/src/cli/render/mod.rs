//! `bascule render`: manifests for the two ways a control-plane node runs us, and rules that a node needs beside us. The reasons stand in the
//! output, where they are read.

mod masquerade;
mod platform;
mod pod;
mod unit;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::ArgGroup;

pub use masquerade::{Masquerade, masquerade};
pub use platform::{Platform, Vip, static_pod};
pub use unit::systemd;

/// What `bascule render static-pod` is told.
#[derive(clap::Args, Clone, Debug)]
#[command(group = ArgGroup::new("source").args(["config", "vip"]))]
#[command(group = ArgGroup::new("rank").args(["nodes", "priority"]))]
#[command(group = ArgGroup::new("way").args(["vrid", "bgp_as"]))]
pub struct StaticPod {
    /// What the node is made by: where the manifest goes, when, and what the API server answers there
    #[arg(long = "for", value_name = "PLATFORM", value_enum)]
    pub platform: Option<Platform>,
    /// Addresses that move together, both families if wanted; with --for capi, capv and capm3 also a variable of their templates
    /// [default of capv: ${CONTROL_PLANE_ENDPOINT_IP}, of capm3: ${CLUSTER_APIENDPOINT_HOST}]
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', value_parser = Vip::read, requires = "way")]
    pub vip: Vec<Vip>,
    /// The link they live on [default: the one whose subnet contains the first address; of capv: ${VIP_NETWORK_INTERFACE}]
    #[arg(long, value_name = "LINK", value_parser = link_name, conflicts_with = "config")]
    pub interface: Option<String>,
    /// Virtual router id, unique on the LAN
    #[arg(long, value_name = "1-255", value_parser = clap::value_parser!(u8).range(1..), conflicts_with = "config")]
    pub vrid: Option<u8>,
    /// Host names of all nodes, the preferred first: one manifest for all of them
    #[arg(long, value_name = "NODE", value_delimiter = ',', value_parser = node_name, conflicts_with = "config")]
    pub nodes: Vec<String>,
    /// Instead of --nodes: the priority of this node, which must differ from node to node
    #[arg(long, value_name = "100-254", value_parser = clap::value_parser!(u8).range(100..=254), conflicts_with = "config")]
    pub priority: Option<u8>,
    /// Instead of --vrid: announce the addresses over BGP from every healthy node (anycast), with this AS number
    #[arg(
        long,
        value_name = "AS",
        value_parser = clap::value_parser!(u32).range(1..),
        requires = "bgp_neighbor",
        conflicts_with_all = ["config", "interface", "rank", "key_file"],
    )]
    pub bgp_as: Option<u32>,
    /// Routers that hear of them, each with its AS number, or `external` or `internal`
    #[arg(long, value_name = "ADDRESS@AS", value_delimiter = ',', value_parser = bgp_neighbor, requires = "bgp_as")]
    pub bgp_neighbor: Vec<BgpNeighbor>,
    /// BFD with each of them: a dead node is noticed within a second
    #[arg(long, requires = "bgp_as")]
    pub bfd: bool,
    /// Send adverts to these nodes only, all nodes of the cluster, this one among them or not [default: multicast]
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', requires = "vrid")]
    pub unicast_peers: Vec<IpAddr>,
    /// Only a node where this accepts TCP connections is healthy, such as its own API server, 127.0.0.1:6443 [default with --for: the API
    /// server's /livez without etcd, at 127.0.0.1:6443]
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "config")]
    pub gate: Option<SocketAddr>,
    /// Key file of the peer channel on the host, for moves without a gap
    #[arg(long, value_name = "PATH", value_parser = absolute, conflicts_with = "config")]
    pub key_file: Option<PathBuf>,
    /// A configuration on the host, instead of all of the above; its folder is mounted
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    pub config: Option<PathBuf>,
    /// The image
    #[arg(long, value_name = "IMAGE", value_parser = image_name)]
    pub image: String,
    /// Where the probes ask; with --config, its admin.http
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9750")]
    pub http: SocketAddr,
    /// Add SYS_NICE, for adverts on a real-time thread: recommended below 100 ms and on busy nodes
    #[arg(long)]
    pub realtime: bool,
}

/// What `bascule render systemd` is told.
#[derive(clap::Args, Clone, Debug)]
pub struct Unit {
    /// The configuration of the node
    #[arg(long, value_name = "PATH", value_parser = absolute, default_value = "/etc/bascule/bascule.yaml")]
    pub config: PathBuf,
    /// The program
    #[arg(long, value_name = "PATH", value_parser = absolute, default_value = "/usr/local/bin/bascule")]
    pub binary: PathBuf,
}

/// A router, as `--bgp-neighbor` names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BgpNeighbor {
    /// Where it is.
    pub address: IpAddr,
    /// Its AS number or a word for it, as in the configuration.
    pub remote_as: String,
}

fn bgp_neighbor(text: &str) -> Result<BgpNeighbor, String> {
    let (address, remote_as) = text.rsplit_once('@').ok_or("ADDRESS@AS is needed, such as 10.0.0.1@65100")?;
    let address = address.parse().map_err(|error| format!("{address}: {error}"))?;
    let number = remote_as.parse::<u32>().is_ok_and(|number| number > 0);
    if !number && !matches!(remote_as, "external" | "internal") {
        return Err(format!("{remote_as} is no AS: a number, external or internal is needed"));
    }
    Ok(BgpNeighbor { address, remote_as: remote_as.to_owned() })
}

/// A path that means the same everywhere, and needs no quoting in YAML or in a unit.
fn absolute(text: &str) -> Result<PathBuf, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    if !text.starts_with('/') || text.ends_with('/') {
        return Err("an absolute path of a file is needed".into());
    }
    if !text.chars().all(plain) {
        return Err("only letters, digits and / . _ - + @ are allowed in a path of a manifest".into());
    }
    Ok(text.into())
}

/// The kernel's rule for names of links (`dev_valid_name`): 1 to 15 bytes, neither `/` nor `:` nor white space.
fn link_name(text: &str) -> Result<String, String> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text.is_empty() || text.len() > 15 || text == "." || text == ".." || text.contains(bad) {
        return Err("the name of a link has 1 to 15 bytes, without / : and spaces".into());
    }
    Ok(text.into())
}

/// A host name: RFC 1123 labels, 63 bytes at most together (the limit of a node name on the peer channel).
fn node_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if text.is_empty() || text.len() > 63 || !text.chars().all(plain) {
        return Err("a host name has 1 to 63 letters, digits, - and .".into());
    }
    Ok(text.into())
}

/// The characters of a reference (OCI distribution specification): registry with port, path, tag, digest.
fn image_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@".contains(c);
    if text.is_empty() || !text.chars().all(plain) {
        return Err("an image is named by letters, digits and / . _ - : @".into());
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests;
