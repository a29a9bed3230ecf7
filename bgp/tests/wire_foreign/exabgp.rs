//! `exabgp --decode` (Debian's 4.2.21, installed by `cargo xtask setup`) as decoder: a program and no crate, with a parser of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use bascule_bgp::wire::{LargeCommunity, NextHop};
use ipnet::IpNet;
use serde_json::Value;

use super::advertisements::{Advertisement, Content};

/// It reads the upper octet of a message's length as if it were sixteen bits higher, so that only the last of several
/// messages may have 256 octets or more.
const LONGEST_IN_A_ROW: usize = 255;

/// Every advertisement, in as few runs of the program as it can take.
pub(crate) fn compare(all: &[Advertisement]) {
    let mut runs: Vec<Vec<&Advertisement>> = Vec::new();
    for advertisement in all {
        let alike = |run: &&mut Vec<&Advertisement>| {
            run[0].four_octet_as == advertisement.four_octet_as && run[0].internal() == advertisement.internal()
        };
        let short = |run: &&mut Vec<&Advertisement>| run[0].message().len() <= LONGEST_IN_A_ROW;
        match runs.iter_mut().filter(short).find(alike) {
            Some(run) if advertisement.message().len() <= LONGEST_IN_A_ROW => run.push(advertisement),
            _ => runs.push(vec![advertisement]),
        }
    }
    assert!(runs.len() < all.len(), "short advertisements share a run");
    for run in &runs {
        let decoded = run_program(run[0], &run.iter().flat_map(|one| one.message()).collect::<Vec<u8>>());
        assert_eq!(decoded.len(), run.len(), "{:?}", run.iter().map(|one| &one.name).collect::<Vec<_>>());
        for (advertisement, update) in run.iter().zip(&decoded) {
            assert_eq!(content(update), Some(expected(advertisement)), "{}: {update}", advertisement.name);
        }
    }
}

/// What it shows of a next hop is the global address alone.
fn expected(advertisement: &Advertisement) -> Content {
    let mut content = advertisement.content();
    if let NextHop::V6 { link_local, .. } = &mut content.next_hop {
        *link_local = None;
    }
    content
}

/// One message.
pub(crate) fn decode(advertisement: &Advertisement, message: &[u8]) -> Result<Content, String> {
    let decoded = run_program(advertisement, message);
    decoded.first().and_then(content).ok_or_else(|| format!("{decoded:?}"))
}

/// The JSON of each UPDATE in `messages`, in order, read as on the session of `advertisement`.
fn run_program(advertisement: &Advertisement, messages: &[u8]) -> Vec<Value> {
    let configuration = configuration(advertisement);
    let hex: String = messages.iter().map(|octet| format!("{octet:02X}")).collect();
    let output = Command::new("exabgp")
        .arg("--decode")
        .arg(&hex)
        .arg(&configuration)
        .output()
        .expect("exabgp is installed by `cargo xtask setup`");
    std::fs::remove_file(&configuration).expect("our own file");
    let text = String::from_utf8_lossy(&output.stdout);
    let json = text.lines().filter_map(|line| line.split_once("update json ").map(|(_, json)| json));
    json.map(|json| serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))).collect()
}

/// The neighbour whose session the messages are decoded in.
fn configuration(advertisement: &Advertisement) -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("exabgp-{}-{number}.conf", std::process::id()));
    let peer = if advertisement.internal() { 64512 } else { 65001 };
    let asn4 = if advertisement.four_octet_as { "enable" } else { "disable" };
    let text = format!(
        "neighbor 127.0.0.1 {{\n  router-id 192.0.2.2;\n  local-address 127.0.0.1;\n  local-as 64512;\n  peer-as {peer};\n  \
         capability {{ asn4 {asn4}; }}\n  family {{ ipv4 unicast; ipv6 unicast; }}\n}}\n"
    );
    std::fs::write(&path, text).expect("a file in the target directory");
    path
}

fn content(update: &Value) -> Option<Content> {
    let update = &update["neighbor"]["message"]["update"];
    let attribute = &update["attribute"];
    let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
    let list = |name: &str| attribute[name].as_array().cloned().unwrap_or_default();
    let (family, hops) = update["announce"].as_object()?.iter().next()?;
    let (hop, prefixes) = hops.as_object()?.iter().next()?;
    let next_hop = match family.as_str() {
        "ipv4 unicast" => NextHop::V4(hop.parse().ok()?),
        "ipv6 unicast" => NextHop::V6 { global: hop.parse().ok()?, link_local: None },
        _ => return None,
    };
    let prefix = |entry: &Value| entry["nlri"].as_str()?.parse::<IpNet>().ok();
    let community = |pair: &Value| Some(number(&pair[0])? << 16 | number(&pair[1])?);
    let large = |triple: &Value| {
        let [global, local1, local2] = [number(&triple[0])?, number(&triple[1])?, number(&triple[2])?];
        Some(LargeCommunity { global, local1, local2 })
    };
    Some(Content {
        origin: ["igp", "egp", "incomplete"].iter().position(|name| attribute["origin"] == *name)?.try_into().ok()?,
        as_path: list("as-path").iter().map(number).collect::<Option<_>>()?,
        next_hop,
        med: number(&attribute["med"]),
        local_pref: number(&attribute["local-preference"]),
        communities: list("community").iter().map(community).collect::<Option<_>>()?,
        ext_communities: list("extended-community")
            .iter()
            .map(|one| Some(one["value"].as_u64()?.to_be_bytes()))
            .collect::<Option<_>>()?,
        large_communities: list("large-community").iter().map(large).collect::<Option<_>>()?,
        prefixes: prefixes.as_array()?.iter().map(prefix).collect::<Option<_>>()?,
    })
}
