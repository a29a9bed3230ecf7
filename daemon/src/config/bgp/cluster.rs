//! What BgpPeers and BgpAnnouncements of the cluster add to the section: read like a file's neighbor, and by the same rules.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Component, Path};

use bascule_bgp::config::{ExportAction, ExportRule, NeighborConfig, RemoteAs};
use bascule_core::bfd::config::PeerConfig;
use bascule_core::service::plan::Routes;
use ipnet::IpNet;
use serde_json::{Map as Words, Value, json};

use super::super::read::{Errors, Map};
use super::super::schema::{EXPORT, NEIGHBOR};
use super::super::tree;
use super::neighbor::{self, Neighbor};
use super::{Bgp, NEIGHBORS_MAX, export};

/// Kinds of the cluster's objects.
const PEER: &str = "BgpPeer";
const ANNOUNCEMENT: &str = "BgpAnnouncement";

/// An object that cannot be had on this node: its kind, its name, and the field with what is wrong.
type Refused = (&'static str, String, String);

/// Judges the words of an object by themselves: no file is read for it.
///
/// # Errors
/// The field, and what is wrong with it.
pub(in crate::config) fn check_words(kind: &str, name: &str, words: &str) -> Result<(), String> {
    if kind == PEER { neighbor_of(name, words, None, None).map(drop) } else { action_of(words, None).map(drop) }
}

impl Bgp {
    /// The section with the cluster's neighbors and what all neighbors are told; with their BFD sessions and what is refused.
    /// `known`: names of the sessions that there are.
    pub fn with_cluster(&self, routes: &Routes, known: &[PeerConfig]) -> (Self, Vec<PeerConfig>, Vec<Refused>) {
        let (mut all, mut bfd, mut refused) = (self.clone(), Vec::new(), Vec::new());
        for (name, words) in &routes.peers {
            match self.peer(name, words, &all, routes, known) {
                Ok((config, session)) => {
                    all.speaker.neighbors.push(config);
                    bfd.extend(session);
                }
                Err(why) => refused.push((PEER, name.clone(), why)),
            }
        }
        let asn = all.speaker.asn;
        for neighbor in &mut all.speaker.neighbors {
            refused.extend(tell(neighbor, asn, routes));
        }
        refused.dedup();
        (all, bfd, refused)
    }

    fn peer(
        &self,
        name: &str,
        words: &str,
        all: &Self,
        routes: &Routes,
        known: &[PeerConfig],
    ) -> Result<(NeighborConfig, Option<PeerConfig>), String> {
        let read = neighbor_of(name, words, Some(self.speaker.asn), Some(&self.base_dir))?;
        let config = read.config.ok_or_else(|| "spec: it is not complete".to_owned())?;
        let neighbors = &all.speaker.neighbors;
        if neighbors.len() >= NEIGHBORS_MAX {
            return Err(format!("metadata.name: there are {NEIGHBORS_MAX} neighbors before it"));
        }
        if neighbors.iter().any(|n| n.name == name) || known.iter().any(|session| session.name == name) {
            return Err(format!(
                "metadata.name: {name} is the name of a neighbor or BFD peer of the configuration file"
            ));
        }
        let link = |n: &NeighborConfig| n.transport.interface.clone();
        if let Some(other) = neighbors.iter().find(|n| n.address == config.address && link(n) == link(&config)) {
            return Err(format!("spec.address: {} is already that of {}", config.address, other.name));
        }
        let own = [Some(config.address), config.transport.source];
        if let Some(vip) = own.into_iter().flatten().find(|address| routes.vips.contains(address)) {
            return Err(format!("spec.address: {vip} is a VIP"));
        }
        Ok((config, read.bfd))
    }
}

/// What a neighbor is told of the cluster's VIPs goes before its own rules; gives what cannot be said to it.
fn tell(neighbor: &mut NeighborConfig, asn: u32, routes: &Routes) -> Vec<Refused> {
    let Some(told) = routes.of(&neighbor.name) else { return Vec::new() };
    let internal = match neighbor.remote_as {
        RemoteAs::Internal => true,
        RemoteAs::External => false,
        RemoteAs::Is(number) => number == neighbor.local_as.unwrap_or(asn),
    };
    let next_hop = neighbor.export.default.next_hop;
    let deny = || ExportAction { deny: true, ..ExportAction::default() };
    let rule = |vips: BTreeSet<IpAddr>, action: ExportAction| ExportRule {
        vips: Vec::new(),
        prefixes: vips.into_iter().map(IpNet::from).collect(),
        action: ExportAction { next_hop, ..action },
    };
    let (mut rules, mut refused) = (Vec::new(), Vec::new());
    for (announcement, vips) in told {
        match action_of(&announcement.words, Some(internal)) {
            Ok(action) => rules.push(rule(vips, action)),
            Err(why) => {
                refused.push((ANNOUNCEMENT, announcement.name.clone(), why));
                rules.push(rule(vips, deny()));
            }
        }
    }
    rules.push(ExportRule { vips: routes.shards.clone(), ..rule(BTreeSet::new(), deny()) });
    rules.append(&mut neighbor.export.rules);
    neighbor.export.rules = rules;
    refused
}

/// A neighbor of these words. Without a folder the password is not read.
fn neighbor_of(name: &str, words: &str, asn: Option<u32>, folder: Option<&Path>) -> Result<Neighbor, String> {
    let mut all: Words<String, Value> = serde_json::from_str(words).map_err(|error| format!("spec: {error}"))?;
    for own in ["mode", "maxPrefix", "maxPrefixAction", "export", "name"] {
        if all.contains_key(own) {
            return Err(format!("spec.{own}: unknown field"));
        }
    }
    if let Some(file) = all.get("passwordFile").and_then(Value::as_str) {
        // Whoever may write the object may not choose among all files of the node.
        let inside = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
        if !inside {
            return Err("spec.passwordFile: it is not a relative path that stays in the folder".to_owned());
        }
    }
    if folder.is_none() {
        let _unread = all.remove("passwordFile");
    }
    let _none = all.insert("name".to_owned(), json!(name));
    let tree = tree::read(&Value::Object(all).to_string()).map_err(|error| format!("spec: {}", error.wrong))?;
    let errors = Errors::default();
    let read = Map::open(&tree, &NEIGHBOR, "spec".to_owned(), &errors)
        .map(|map| neighbor::read(&map, asn, None, folder.unwrap_or(Path::new("/")), &errors, &mut Vec::new()));
    said(errors)?;
    read.ok_or_else(|| "spec: it is not a mapping".to_owned())
}

/// What is done with a route, of these words.
fn action_of(words: &str, internal: Option<bool>) -> Result<ExportAction, String> {
    let tree = tree::read(words).map_err(|error| format!("spec: {}", error.wrong))?;
    let errors = Errors::default();
    let map = Map::open(&tree, &EXPORT, "spec".to_owned(), &errors);
    let unknown = map.as_ref().and_then(|map| ["deny", "rules"].into_iter().find(|own| map.has(own)));
    let hop = bascule_bgp::config::NextHopMode::Own;
    let action = map.and_then(|map| export::action(&map, hop, internal, &mut Vec::new()));
    said(errors)?;
    match (unknown, action) {
        (Some(own), _) => Err(format!("spec.{own}: unknown field")),
        (None, action) => action.ok_or_else(|| "spec: it is not complete".to_owned()),
    }
}

/// The first of the errors.
fn said(errors: Errors) -> Result<(), String> {
    let first = errors.into_inner().into_iter().next();
    first.map_or(Ok(()), |error| {
        let field = if error.field == "spec.name" { "metadata.name" } else { &error.field };
        Err(format!("{field}: {}; {}", error.wrong, error.right))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bascule_bgp::config::{Mode, Ttl};
    use bascule_core::service::plan::Announcement;

    use super::*;

    const FILE: &str =
        "node: n1\nforwarding: { keyFile: forward.key }\nkubernetes: { cluster: c, services: { announce: bgp } }\n";

    fn bgp(neighbors: &str, folder: &Path) -> Bgp {
        let key = folder.join("forward.key");
        std::fs::write(&key, format!("0:{}\nflow:{}\n", "aa".repeat(16), "bb".repeat(16))).unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let text = format!("{FILE}bgp: {{ asn: 65001{neighbors} }}\n");
        let loaded = crate::config::parse(&text, "b.yaml", folder, "n1").unwrap_or_else(|e| panic!("{e}"));
        loaded.bgp.unwrap()
    }

    fn routes(peers: &[(&str, &str)], announcements: Option<Vec<Announcement>>) -> Routes {
        let peers: BTreeMap<_, _> =
            peers.iter().map(|(name, words)| ((*name).to_owned(), (*words).to_owned())).collect();
        let shards = vec!["shard-0".to_owned()];
        Routes { peers, announcements, shards, vips: ["192.0.2.1", "192.0.2.2"].map(|vip| vip.parse().unwrap()).into() }
    }

    fn announcement(name: &str, peers: &[&str], words: &str, vip: &str) -> Announcement {
        let peers = peers.iter().map(|peer| (*peer).to_owned()).collect();
        Announcement { name: name.into(), peers, words: words.into(), vips: [vip.parse().unwrap()].into() }
    }

    #[test]
    fn a_peer_is_a_neighbor_with_the_files_words_and_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let (file, password) = (bgp("", dir.path()), dir.path().join("tor.key"));
        assert!(file.speaker.neighbors.is_empty(), "they may all come from the cluster");
        std::fs::write(&password, "secret\n").unwrap();
        std::fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let words = r#"{"address":"10.0.0.1","remoteAs":65100,"holdTime":"9s","port":1790,"multihop":3,"bfd":{},"passwordFile":"tor.key"}"#;
        let (all, bfd, refused) = file.with_cluster(&routes(&[("tor", words)], None), &[]);
        assert!(refused.is_empty(), "{refused:?}");
        let [tor] = &all.speaker.neighbors[..] else { panic!("one neighbor") };
        assert_eq!((tor.name.as_str(), tor.port, tor.hold_time, tor.mode), ("tor", 1790, 9, Mode::Active));
        assert_eq!((tor.remote_as, tor.transport.ttl, tor.bfd), (RemoteAs::Is(65100), Ttl::Multihop(3), true));
        assert_eq!(tor.transport.password.as_ref().map(|secret| secret.0.as_slice()), Some(b"secret".as_slice()));
        assert_eq!(bfd.iter().map(|session| session.name.as_str()).collect::<Vec<_>>(), ["tor"]);
        assert!(tor.export.rules.is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_field_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let file = bgp(", neighbors: [{ name: r1, address: 10.0.0.9, remoteAs: external }]", dir.path());
        for (name, words, why) in [
            ("tor", r#"{"address":"10.0.0.1"}"#, "spec.remoteAs: missing"),
            ("tor", r#"{"address":"10.0.0.1","remoteAs":65100,"holdTime":"2s"}"#, "spec.holdTime: 2s is no hold time"),
            ("tor", r#"{"address":"10.0.0.1","remoteAs":65100,"holdtime":"9s"}"#, "spec.holdtime: unknown field"),
            ("tor", r#"{"address":"10.0.0.1","remoteAs":65100,"mode":"passive"}"#, "spec.mode: unknown field"),
            ("tor", r#"{"address":"10.0.0.1","remoteAs":65100,"passwordFile":"/etc/shadow"}"#, "spec.passwordFile"),
            ("tor", r#"{"address":"10.0.0.1","remoteAs":65100,"passwordFile":"../x"}"#, "spec.passwordFile"),
            ("a.b", r#"{"address":"10.0.0.1","remoteAs":65100}"#, "metadata.name: a.b contains"),
        ] {
            let said = check_words(PEER, name, words).expect_err(words);
            assert!(said.starts_with(why), "{said}");
        }
        for (name, words, why) in [
            ("r1", r#"{"address":"10.0.0.1","remoteAs":65100}"#, "metadata.name: r1 is the name of a neighbor"),
            ("tor", r#"{"address":"10.0.0.9","remoteAs":65100}"#, "spec.address: 10.0.0.9 is already that of r1"),
            ("tor", r#"{"address":"192.0.2.1","remoteAs":65100}"#, "spec.address: 192.0.2.1 is a VIP"),
            ("tor", r#"{"address":"10.0.0.1","remoteAs":65100,"passwordFile":"none"}"#, "spec.passwordFile: none "),
        ] {
            check_words(PEER, name, words).expect("by itself it is right");
            let (all, _, refused) = file.with_cluster(&routes(&[(name, words)], None), &[]);
            assert_eq!(all, file);
            assert!(refused[0].2.starts_with(why) && refused[0].1 == name, "{refused:?}");
        }
        for (words, why) in [
            (r#"{"communities":["65001"]}"#, "spec.communities[0]: 65001 is not a community"),
            (r#"{"prepend":11}"#, "spec.prepend: 11 is above 10"),
            (r#"{"deny":true}"#, "spec.deny: unknown field"),
            (r#"{"aggregationLength":24}"#, "spec.aggregationLength: unknown field"),
        ] {
            let said = check_words(ANNOUNCEMENT, "a", words).expect_err(words);
            assert!(said.starts_with(why), "{said}");
        }
    }

    #[test]
    fn announcements_go_before_a_neighbors_own_rules_and_what_none_selects_is_denied() {
        let dir = tempfile::tempdir().unwrap();
        let file = bgp(
            ", neighbors: [{ name: r1, address: 10.0.0.9, remoteAs: 65001, nextHop: 10.0.0.7, export: { med: 5 } }]",
            dir.path(),
        );
        let all = vec![
            announcement("a", &["r1"], r#"{"communities":["65001:7"],"localPref":200}"#, "192.0.2.1"),
            announcement("b", &["other"], "{}", "192.0.2.2"),
        ];
        let (told, _, refused) = file.with_cluster(&routes(&[], Some(all)), &[]);
        assert!(refused.is_empty());
        let export = &told.speaker.neighbors[0].export;
        assert_eq!(export.default, file.speaker.neighbors[0].export.default);
        let [one, rest] = &export.rules[..] else { panic!("{:?}", export.rules) };
        assert_eq!(one.prefixes, ["192.0.2.1/32".parse().unwrap()].into());
        assert_eq!(
            (one.action.attributes.local_pref, &one.action.attributes.communities),
            (Some(200), &vec![65001 << 16 | 7])
        );
        assert_eq!(one.action.next_hop, export.default.next_hop);
        assert!(rest.action.deny && rest.prefixes.is_empty() && rest.vips == ["shard-0"]);
    }
}
