//! The whole file: from the tree to the types of the core.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bascule_core::node::config::{FencePolicy, NodeConfig};
use bascule_core::wire::peer::Keys;

use super::error::{ConfigErrors, Pos};
use super::read::{At, Errors, Map};
use super::schema::ROOT;
use super::tree::Tree;
use super::{
    Admin, Loaded, Log, LogFormat, bfd, bgp, etcd, forwarding, gates, keys, kubernetes, services, sites, tree, values,
    vips,
};

/// What is needed beside the text.
pub(super) struct Around<'a> {
    pub(super) file: &'a str,
    pub(super) base_dir: &'a Path,
    pub(super) host_name: &'a str,
}

pub(super) fn build(text: &str, around: &Around<'_>) -> Result<Loaded, ConfigErrors> {
    build_tree(&tree::read(text).map_err(|e| ConfigErrors::new(around.file, vec![*e]))?, around)
}

pub(super) fn build_tree(root: &Tree, around: &Around<'_>) -> Result<Loaded, ConfigErrors> {
    let errors = Errors::default();
    let mut warnings = Vec::new();
    let loaded = Map::open(root, &ROOT, String::new(), &errors).and_then(|m| file(&m, around, &errors, &mut warnings));
    let errors = errors.into_inner();
    match loaded {
        Some(mut loaded) if errors.is_empty() => {
            loaded.warnings = warnings;
            Ok(loaded)
        }
        _ => Err(ConfigErrors::new(around.file, errors)),
    }
}

fn file(map: &Map<'_>, around: &Around<'_>, errors: &Errors, warnings: &mut Vec<String>) -> Option<Loaded> {
    let node = node_name(map, around);
    let fence = match map.word("fence") {
        Some("preferred") => FencePolicy::Preferred,
        Some("off") => {
            warnings.push("fence: off: a stalled or isolated owner goes on answering for its addresses".into());
            FencePolicy::Off
        }
        _ => FencePolicy::Required,
    };
    let instance = map.whole("instance").map_or(0, |n| n.value);
    let admin = admin(map, instance);
    let log = log(map);
    let peers = peers(map, instance, around.base_dir, errors);
    let gates = gates::read(map, around.base_dir, errors);
    let kubernetes = kubernetes::read(map, around.base_dir, errors);
    let etcd = etcd::read(map, around.base_dir);
    let cluster = map.holds("kubernetes", "services");
    let known =
        vips::Known { node: node.as_ref(), gates: &gates, etcd: etcd.as_ref().and_then(Option::as_ref), cluster };
    let vips = vips::read(map, &known, errors, warnings);
    let name = node.as_ref().map(|n| n.value.as_str());
    let speaker = bgp::read(map, name, vips.as_ref(), around.base_dir, errors, warnings);
    let of_neighbors = speaker.iter().flatten().flat_map(|s| s.bfd.clone()).collect();
    let bfd = bfd::read(map, of_neighbors, errors);
    let peer_port = peers.as_ref().and_then(|p| p.file.as_ref().map(|_| p.port));
    let of_nodes = forwarding::Around { this: node.as_ref(), vips: vips.as_ref(), peer_port, cluster };
    let forwarding = forwarding::read(map, &of_nodes, around.base_dir, errors);
    let taken = [(peer_port, "the peer channel"), (forwarding.as_ref().and_then(forwarding::Read::port), "forwarding")];
    let of_sites = sites::Around {
        this: node.as_ref(),
        base_dir: around.base_dir,
        errors,
        nodes: forwarding.as_ref().map(forwarding::Read::ids).unwrap_or_default(),
        taken: taken.into_iter().filter_map(|(port, of)| Some((port?, of))).collect(),
        cluster,
    };
    let sites = sites::read(map, &of_sites);
    let site_file = sites::SiteFile::of(map, &of_sites, etcd.clone().flatten());
    let of_services = services::Around {
        vips: vips.as_ref(),
        forwarding: forwarding.as_ref(),
        sites: sites.as_ref().and_then(Option::as_ref),
        known_elsewhere: matches!(sites, Some(None)),
        base_dir: around.base_dir,
        errors,
    };
    let mut services = services::read(map, &of_services, warnings);
    let spreads = services.as_mut().map(|s| std::mem::take(&mut s.spreads)).unwrap_or_default();
    let sites = sites
        .map(|sites| sites.map(|sites| sites::Sites { services: spreads, authority: etcd.clone().flatten(), ..sites }));
    let forwarding = match (map.has("forwarding"), forwarding) {
        (true, read) => {
            let mut whole = read?.finish(services)?;
            if let Some(Some(sites)) = &sites {
                whole.join(sites);
            }
            Some(whole)
        }
        (false, _) => None,
    };
    let (groups, anycast) = vips?.finish()?;
    if fence != FencePolicy::Required && groups.iter().any(|group| group.lease.is_some()) {
        warnings.push("fence: a lease keeps its promise only with `required`: without the fence a stalled owner goes on answering".into());
    }
    if let Some(services) = kubernetes.iter().flatten().find_map(|kubernetes| kubernetes.services.as_ref()) {
        services.against(&groups, map);
    }
    let (peers, speaker) = (peers?, speaker?);
    let ca_files = gates.iter().filter_map(|g| g.ca_file.clone()).collect();
    Some(Loaded {
        node: NodeConfig {
            node: node?.value,
            fence,
            keys: peers.keys,
            gates: gates.into_iter().map(|g| g.into_config()).collect::<Option<_>>()?,
            groups,
            anycast,
            route_drain: speaker.as_ref().map_or(Duration::ZERO, |s| s.bgp.drain_time),
        },
        instance,
        admin: admin?,
        log: log?,
        peer_port: peers.port,
        key_file: peers.file,
        bfd,
        bgp: speaker.map(|s| s.bgp),
        forwarding,
        sites: sites?,
        site_file,
        kubernetes: kubernetes?,
        etcd: etcd?,
        ca_files,
        warnings: Vec::new(),
    })
}

fn node_name(map: &Map<'_>, around: &Around<'_>) -> Option<At<String>> {
    if map.has("node") {
        return map.text("node", values::node_name);
    }
    match values::node_name(around.host_name) {
        Ok(value) => Some(At { value, at: map.at, path: "node".into() }),
        Err(wrong) => {
            map.wrong(
                "node",
                format!("missing, and the host name {}", wrong.what),
                "give the node a name of letters and digits",
            );
            None
        }
    }
}

fn admin(map: &Map<'_>, instance: u8) -> Option<Admin> {
    let usual = Admin::of(instance);
    if !map.has("admin") {
        return Some(usual);
    }
    let map = map.section("admin")?;
    let http = map.text("http", values::socket_address).map(|a| a.value);
    let socket = if map.has("socket") { map.text("socket", values::socket_path)?.value } else { usual.socket };
    Some(Admin { socket, http })
}

fn log(map: &Map<'_>) -> Option<Log> {
    if !map.has("log") {
        return Some(Log::default());
    }
    let map = map.section("log")?;
    let format = map.word("format");
    let level = map.text("level", values::log_filter)?.value;
    let format = if format? == "json" { LogFormat::Json } else { LogFormat::Text };
    Some(Log { format, level })
}

struct Peers {
    keys: Keys,
    port: u16,
    file: Option<PathBuf>,
}

/// UDP port of the peer channel of instance 0 where none is configured.
const PEER_PORT: u16 = 3112;

fn peers(map: &Map<'_>, instance: u8, base_dir: &Path, errors: &Errors) -> Option<Peers> {
    let usual = PEER_PORT + u16::from(instance);
    if !map.has("peers") {
        return Some(Peers { keys: Keys::default(), port: usual, file: None });
    }
    let map = map.section("peers")?;
    let port = if map.has("port") { map.whole("port").map(|p| p.value) } else { Some(usual) };
    let file = map.text("keyFile", values::path)?;
    let path = base_dir.join(&file.value);
    match keys::read(&path) {
        Ok(keys) => Some(Peers { keys, port: port?, file: Some(path) }),
        Err(bad) => {
            let shown = super::error::shown(&file.value.display().to_string());
            errors.add(file.at, &file.path, format!("{shown} {}", bad.wrong), bad.right);
            None
        }
    }
}

/// Where a whole-file problem is shown.
pub(super) const FILE: (Pos, &str) = (Pos::START, "(file)");
