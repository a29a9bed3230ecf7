//! Cables between namespaces.

use std::net::Ipv4Addr;

use crate::command::{ip, ip_batch};
use crate::{LabError, Netns, Result};

/// A veth between `near` (device `device`) and `far` (eth0, default route to `near`), in one /24.
///
/// # Errors
/// When the link exists already or an address is refused.
pub fn cable(near: &Netns, device: &str, near_at: Ipv4Addr, far: &Netns, far_at: Ipv4Addr) -> Result<()> {
    let peer = far.full_name();
    ip(near, &format!("link add {device} type veth peer name eth0 netns {peer}"))?;
    ip_batch(near, &[format!("addr add {near_at}/24 dev {device}"), format!("link set {device} up")])?;
    ip_batch(
        far,
        &[
            format!("addr add {far_at}/24 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via {near_at}"),
        ],
    )
}

/// The id by which `netns` knows the namespace at the other end of its device.
///
/// # Errors
/// When the device is not there or its other end is in the same namespace.
pub fn nsid(netns: &Netns, device: &str) -> Result<i32> {
    let text = ip(netns, &format!("-j link show dev {device}"))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| LabError::answer("ip -j link", e.to_string()))?;
    let id = json[0]["link_netnsid"].as_i64().and_then(|id| i32::try_from(id).ok());
    id.ok_or_else(|| LabError::answer("ip -j link", format!("no link_netnsid for {device}: {text}")))
}
