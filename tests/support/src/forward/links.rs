//! The links that stand on a device, as the kernel tells it.

use std::io;

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_links, loaded_programs};

use super::error::bpf;
use crate::{LabError, Netns, Result, tool};

/// A link on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceLink {
    /// Its id.
    pub id: u32,
    /// The program it leads to.
    pub program: u32,
}

/// The XDP program on a device of the calling thread's namespace, by id.
///
/// # Errors
/// When `ip` fails.
pub fn xdp_of(device: &str) -> Result<Option<u32>> {
    let text = tool(None, "ip", &["-j", "-d", "link", "show", "dev", device], None)?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| LabError::answer("ip -j link", e.to_string()))?;
    Ok(json[0]["xdp"]["prog"]["id"].as_u64().and_then(|id| u32::try_from(id).ok()))
}

/// The links of the programs that stand on a device of the calling thread's namespace, by id.
///
/// # Errors
/// When the kernel does not tell.
pub fn device_links(ifindex: u32) -> Result<Vec<DeviceLink>> {
    let name = nix::net::if_::if_indextoname(ifindex).map_err(LabError::errno("the device's name"))?;
    let name = name.into_string().map_err(|e| LabError::io("the device's name")(io::Error::other(e)))?;
    let mut programs: Vec<u32> = xdp_of(&name)?.into_iter().collect();
    for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
        let (_, chain) = SchedClassifier::query_tcx(&name, direction).map_err(bpf("the tcx chain"))?;
        programs.extend(chain.iter().map(ProgramInfo::id));
    }
    // Links of other namespaces come and go meanwhile.
    let links = loaded_links().flatten().filter(|link| programs.contains(&link.program_id()));
    let mut links: Vec<_> = links.map(|link| DeviceLink { id: link.id(), program: link.program_id() }).collect();
    links.sort();
    Ok(links)
}

/// Those of [`device_links`] that lead to the forwarding plane's programs: the fence has links of its own there.
///
/// # Errors
/// When the kernel does not tell.
pub fn forward_links(ifindex: u32) -> Result<Vec<DeviceLink>> {
    let ours = |info: &ProgramInfo| {
        info.name_as_str().is_some_and(|name| name.starts_with("bascule_xdp") || name.starts_with("bascule_tc"))
    };
    let programs: Vec<u32> = loaded_programs().flatten().filter(ours).map(|info| info.id()).collect();
    Ok(device_links(ifindex)?.into_iter().filter(|link| programs.contains(&link.program)).collect())
}

/// [`forward_links`] of `device` in `netns`.
///
/// # Errors
/// When the kernel does not tell.
pub fn links_in(netns: &Netns, device: &str) -> Result<Vec<DeviceLink>> {
    let index = netns.ifindex(device)?;
    netns.run(move || forward_links(index))
}
