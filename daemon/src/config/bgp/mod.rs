//! The BGP section: one neighbor after another, then what concerns several of them and the VIPs.

mod cluster;
mod community;
mod export;
mod neighbor;
mod rules;

pub(super) use cluster::check_words;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bascule_bgp::config::{Mode, NeighborConfig, SpeakerConfig};
use bascule_core::bfd::config::PeerConfig;

use super::error::shown;
use super::read::{At, Errors, Map};
use super::values::{Wrong, wrong};
use super::vips::Vips;

/// Most neighbors: a node has two or four routers; each has sockets and buffers of its own.
const NEIGHBORS_MAX: usize = 64;
/// AS_TRANS stands for every AS that a 2-octet speaker cannot name; nobody may have it (RFC 6793 section 9).
const AS_TRANS: u32 = 23456;

/// What the BGP room is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bgp {
    /// The speaker. Without a router id in the file it has the one that the node's name stands for, which is valid, until
    /// [`Self::choose_router_id`] finds an address that says more.
    pub speaker: SpeakerConfig,
    /// The file names the router id.
    pub router_id_given: bool,
    /// How long routes are announced with GRACEFUL_SHUTDOWN before a planned withdrawal.
    pub drain_time: Duration,
    /// Where neighbors may dial; `None` when none may.
    pub listen: Option<SocketAddr>,
    /// Where relative paths start.
    pub base_dir: PathBuf,
    /// The password files, to be watched like the file itself.
    pub password_files: Vec<PathBuf>,
}

impl Bgp {
    /// Chooses the router id where the file gives none: the source of the first IPv4 neighbor, else the lowest of the node's `own`
    /// addresses that others can reach, else what the node's name stands for. To be called at the start and kept: another id would
    /// reset every session.
    pub fn choose_router_id(&mut self, own: impl IntoIterator<Item = IpAddr>) {
        if self.router_id_given {
            return;
        }
        let source = self.speaker.neighbors.iter().find(|n| n.address.is_ipv4()).and_then(|n| n.transport.source);
        let reachable = |a: &Ipv4Addr| !a.is_loopback() && !a.is_link_local() && !a.is_unspecified();
        let v4 = |a: IpAddr| match a {
            IpAddr::V4(a) => Some(a),
            IpAddr::V6(_) => None,
        };
        let lowest = own.into_iter().filter_map(v4).filter(reachable).min();
        if let Some(id) = source.and_then(v4).or(lowest) {
            self.speaker.router_id = id;
        }
    }
}

/// The section as read: what the speaker, the BFD machine and the core are told.
pub(super) struct Read {
    pub(super) bgp: Bgp,
    pub(super) bfd: Vec<PeerConfig>,
}

/// Reads the section and applies every rule. `Ok(None)` without one.
pub(super) fn read(
    file: &Map<'_>,
    node: Option<&str>,
    vips: Option<&Vips>,
    base_dir: &Path,
    errors: &Errors,
    warnings: &mut Vec<String>,
) -> Option<Option<Read>> {
    if !file.has("bgp") {
        vips.into_iter().for_each(|v| rules::without_speaker(v, errors));
        return Some(None);
    }
    let map = file.section("bgp")?;
    let asn = map.whole("asn").filter(|asn| real_as(asn, errors));
    let router_id = map.has("routerId").then(|| map.text("routerId", router_id));
    let drain = map.time("drainTime");
    let listen = map.text("listen", super::values::socket_address);
    let list = map.has("neighbors").then(|| map.sections("neighbors", NEIGHBORS_MAX));
    // The cluster may have them all.
    let cluster = file.holds("kubernetes", "services");
    if list.is_none() && !cluster {
        map.wrong("neighbors", "missing", "use a list of mappings");
    }
    if let Some(list) = list.iter().flatten().find(|l| l.value.is_empty() && !cluster) {
        errors.add(list.at, &list.path, "the list is empty", "give at least one router");
    }
    let own_as = asn.as_ref().map(|a| a.value);
    let mut neighbors = Vec::new();
    let list = match list {
        Some(list) => list?.value,
        None => Vec::new(),
    };
    for neighbor in list.iter().flatten() {
        neighbors.push(neighbor::read(neighbor, own_as, vips, base_dir, errors, warnings));
    }
    rules::across(&neighbors, vips, errors);
    let bfd = neighbors.iter().filter_map(|n| n.bfd.clone()).collect();
    let password_files = neighbors.iter().filter_map(|n| n.password_file.clone()).collect();
    let neighbors: Option<Vec<NeighborConfig>> = neighbors.into_iter().map(|n| n.config).collect();
    let (neighbors, listen) = (neighbors?, listen?);
    let listens = neighbors.iter().any(|n| n.mode != Mode::Active);
    if map.has("listen") && !listens {
        warnings.push(format!("{}: has no effect while the mode of every neighbor is active", listen.path));
    }
    vips.into_iter().for_each(|v| rules::unused(v, &neighbors, warnings));
    let router_id_given = router_id.is_some();
    let router_id = match router_id {
        Some(given) => given?.value,
        None => id_of_name(node.unwrap_or_default()),
    };
    let bgp = Bgp {
        speaker: SpeakerConfig { asn: asn?.value, router_id, neighbors },
        router_id_given,
        drain_time: drain?.value,
        listen: listens.then_some(listen.value),
        base_dir: base_dir.to_owned(),
        password_files,
    };
    Some(Some(Read { bgp, bfd }))
}

/// False, and noted, for a number that no AS may have.
fn real_as(asn: &At<u32>, errors: &Errors) -> bool {
    if asn.value == AS_TRANS {
        errors.add(asn.at, &asn.path, "23456 is AS_TRANS, which nobody has", "use your own AS number");
    }
    asn.value != AS_TRANS
}

fn router_id(text: &str) -> Result<Ipv4Addr, Wrong> {
    match text.parse::<Ipv4Addr>() {
        Ok(id) if id.is_unspecified() => wrong(format!("{id} is no identifier")),
        Ok(id) => Ok(id),
        Err(_) => wrong(format!("{} is not an IPv4 address", shown(text))),
    }
}

/// A number that differs between nodes and stays over restarts: FNV-1a of the name (Fowler, Noll, Vo; 32 bits), never 0.
fn id_of_name(name: &str) -> Ipv4Addr {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    Ipv4Addr::from(hash.max(1))
}

#[cfg(test)]
pub(super) mod tests;
