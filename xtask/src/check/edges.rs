//! Forbidden `use` edges: rooms under daemon/src meet only in `driver` and `app`; foreign types stop at the door; the
//! pure crates name no clock, socket, file or thread.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{rust_files, scan};

/// Where everything meets: these may name any room.
const MEETING: &[&str] = &["driver", "app", "cli", "main", "lib"];

/// Rooms that others may name, with the reason.
const COMMON: &[&str] = &[
    "clock",  // one source of CLOCK_BOOTTIME for every room
    "handle", // the contract between the driver and those who ask it
];

/// A room that names another, with the reason.
const ALLOWED: &[(&str, &str)] = &[
    ("announce", "net"), // it runs the sockets of its sessions itself, as the driver runs those of the loop
];

/// A foreign crate and the only rooms that may name it (design.md: foreign types stop at the door).
const DOORS: &[(&str, &[&str])] = &[
    ("aya", &["dataplane"]),
    ("prometheus", &["metrics"]),
    ("rtnetlink", &["net", "dataplane"]), // dataplane: qdisc and filters, which are how its programs are attached
    ("socket2", &["net"]),
];

/// What a decision must not reach for. `now` and seeds are arguments, effects are actions.
const IMPURE: &[&[&str]] = &[
    &["std", "net", "UdpSocket"],
    &["std", "net", "TcpStream"],
    &["std", "net", "TcpListener"],
    &["std", "time", "Instant"],
    &["std", "time", "SystemTime"],
    &["std", "fs"],
    &["std", "thread"],
    &["std", "process"],
    &["std", "env"],
    &["std", "os"],
];

/// Files that may read the wall clock, inside their crates, with the reason. Everything else goes by `CLOCK_BOOTTIME`: a wall clock that is
/// wrong or jumps must not be noticed by what decides who lives (F23).
const WALL: &[&str] = &[
    "clock.rs", // of the daemon: times for people; of the mesh: what certificates are held against, with a floor
    "driver/effects.rs", // when an event was, for people
    "app/report.rs", // since when a VIP is where it is, for people
    "app/intent/source.rs", // when the API server said it, for people
    "handle/intent.rs", // how old that is, for people
    "intent/mod.rs", // the same
    "intent/file.rs", // the same, on the disk
    "intent/keeper.rs", // the same
    "elector.rs", // times in a Lease, which others read for the record
    "report/mod.rs", // times in a status
];

pub(super) fn check(root: &Path) -> Result<()> {
    let mut found = Vec::new();
    for (dir, rule) in [
        ("daemon/src", room as Rule),
        ("daemon/src", wall),
        ("daemon/mesh/src", wall),
        ("daemon/k8s/src", wall),
        ("daemon/etcd/src", wall),
        ("daemon/core/src", pure),
        ("bgp/src", pure),
        ("ebpf/common/src", pure),
    ] {
        let base = root.join(dir);
        let files = rust_files(&base)?;
        let rooms: Vec<String> = files.iter().filter_map(|file| room_of(file.strip_prefix(&base).ok()?)).collect();
        for file in &files {
            let inside = file.strip_prefix(&base).context("a file outside its folder")?;
            if is_test(inside) {
                continue;
            }
            let source = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let lines = rule(inside, &source, &rooms);
            found.extend(lines.into_iter().map(|(line, why)| format!("{dir}/{}:{line}: {why}", inside.display())));
        }
    }
    if !found.is_empty() {
        bail!("{} forbidden edges:\n    {}", found.len(), found.join("\n    "));
    }
    Ok(())
}

/// Returns the line and the reason of each forbidden edge.
type Rule = fn(inside: &Path, source: &str, rooms: &[String]) -> Vec<(usize, String)>;

/// `net/udp.rs` and `net.rs` are in the room `net`.
fn room_of(inside: &Path) -> Option<String> {
    let first = inside.components().next()?.as_os_str().to_str()?;
    Some(first.strip_suffix(".rs").unwrap_or(first).to_owned())
}

/// `x/tests.rs`, `tests/y.rs` and `x_tests.rs` hold tests only.
fn is_test(inside: &Path) -> bool {
    let name = inside.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    name == "tests" || name.ends_with("_tests") || inside.components().any(|part| part.as_os_str() == "tests")
}

fn room(inside: &Path, source: &str, rooms: &[String]) -> Vec<(usize, String)> {
    let Some(own) = room_of(inside) else { return Vec::new() };
    let mut found = Vec::new();
    for named in scan::paths(source) {
        let (first, second) = (named.path[0].as_str(), named.path[1].as_str());
        if let Some((_, doors)) =
            DOORS.iter().find(|(foreign, doors)| *foreign == first && !doors.contains(&own.as_str()))
        {
            let doors = doors.join("`, `");
            found.push((named.line, format!("`{first}` stops at the door: only the room `{doors}` may name it")));
        }
        // In a file directly under src, `super` is the crate as well.
        let from_root = first == "crate" || (first == "super" && inside.components().count() == 1);
        let other = from_root && second != own && rooms.iter().any(|room| room == second);
        let allowed = COMMON.contains(&second) || ALLOWED.contains(&(own.as_str(), second));
        if other && !MEETING.contains(&own.as_str()) && !allowed {
            found.push((
                named.line,
                format!("room `{own}` names room `{second}`; they meet only in `driver` and `app`"),
            ));
        }
    }
    found.dedup();
    found
}

fn wall(inside: &Path, source: &str, _rooms: &[String]) -> Vec<(usize, String)> {
    if WALL.iter().any(|file| inside == Path::new(file)) {
        return Vec::new();
    }
    let clock = |path: &[String]| path.iter().any(|part| part == "SystemTime" || part == "CLOCK_REALTIME");
    let glob = |path: &[String]| *path == ["std", "time", "*"];
    let reads = scan::paths(source).into_iter().filter(|named| clock(&named.path) || glob(&named.path));
    reads.map(|named| (named.line, "reads the wall clock: liveness must not".to_owned())).collect()
}

fn pure(_inside: &Path, source: &str, _rooms: &[String]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for named in scan::paths(source) {
        let hits = |wanted: &&&[&str]| {
            // A glob over the parent brings the forbidden name in as well.
            let glob = named.path.last().is_some_and(|last| last == "*") && named.path.len() <= wanted.len();
            let length = if glob { named.path.len() - 1 } else { wanted.len() };
            named.path.len() >= length && named.path.iter().zip(wanted.iter()).take(length).all(|(a, b)| a == b)
        };
        if let Some(wanted) = IMPURE.iter().find(hits) {
            found.push((named.line, format!("a pure crate names `{}`", wanted.join("::"))));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms() -> Vec<String> {
        ["driver", "net", "dataplane", "metrics", "clock"].map(str::to_owned).to_vec()
    }

    fn in_room(file: &str, source: &str) -> Vec<String> {
        room(Path::new(file), source, &rooms()).into_iter().map(|(_, why)| why).collect()
    }

    #[test]
    fn a_room_that_names_another_is_found() {
        let found = in_room("net/udp.rs", "use crate::{clock::Now, dataplane::Fence};");
        assert_eq!(found, ["room `net` names room `dataplane`; they meet only in `driver` and `app`"]);
        assert_eq!(in_room("net.rs", "use super::metrics::Metrics;").len(), 1);
        assert_eq!(in_room("net/mod.rs", "fn a() { crate::metrics::count() }").len(), 1);
    }

    #[test]
    fn the_driver_and_the_own_room_are_free() {
        assert!(in_room("driver/mod.rs", "use crate::{net::Udp, dataplane::Fence};").is_empty());
        assert!(in_room("net/udp.rs", "use crate::net::raw; use super::metrics::Own;").is_empty());
    }

    #[test]
    fn a_wall_clock_where_something_is_decided_is_found() {
        let found = |file: &str, source: &str| wall(Path::new(file), source, &[]).len();
        for source in [
            "use std::time::{Duration, SystemTime};",
            "fn a() { std::time::SystemTime::now(); }",
            "use std::time::*;",
            "fn a() { clock_gettime(ClockId::CLOCK_REALTIME); }",
        ] {
            assert_eq!(found("election/vrrp.rs", source), 1, "{source}");
            assert_eq!(found("clock.rs", source), 0, "{source}");
        }
        assert_eq!(found("election/vrrp.rs", "use std::time::{Duration, Instant};"), 0);
    }

    #[test]
    fn only_files_of_tests_are_left_out() {
        for test in ["net/tests.rs", "net/tests/udp.rs", "election/vrrp_tests.rs"] {
            assert!(is_test(Path::new(test)), "{test}");
        }
        assert!(!is_test(Path::new("net/udp.rs")) && !is_test(Path::new("net/contests.rs")));
    }

    #[test]
    fn foreign_types_stop_at_the_door() {
        assert_eq!(in_room("driver/mod.rs", "fn a(x: aya::Ebpf) {}").len(), 1);
        assert!(in_room("dataplane/mod.rs", "use aya::Ebpf;").is_empty());
    }

    #[test]
    fn a_core_that_reads_a_clock_or_opens_a_socket_is_found() {
        let found = |source: &str| pure(Path::new("x.rs"), source, &[]).len();
        assert_eq!(found("use std::time::{Duration, Instant};"), 1);
        assert_eq!(found("use std::net::{IpAddr, UdpSocket};"), 1);
        assert_eq!(found("fn a() { std::thread::spawn(b); std::fs::read(c); }"), 2);
        assert_eq!(found("use std::time::*;"), 1);
        assert_eq!(found("use std::{time::Duration, net::IpAddr, fmt};"), 0);
        assert_eq!(found("#[cfg(test)] mod tests { use std::time::Instant; }"), 0);
    }
}
