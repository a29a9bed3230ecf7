//! ExaBGP: no routing table and no command line that shows one. It tells a helper program what it hears, as lines of JSON;
//! the helper appends them to a file, and what the neighbour announced is worked out from that.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use ipnet::IpNet;
use serde_json::Value;

use super::config::{Config, Family, GracefulRestart, Hops, Neighbor};
use super::seen::{BfdSession, Capabilities, GrCapability, Path, Session, State};
use super::{Kind, Router, directory, number, unsupported, wait_ready};
use crate::{Lab, LabError, Netns, Process, Result};

/// A running ExaBGP.
#[derive(Debug)]
pub struct ExaBgp {
    process: Process,
    config: Config,
    events: PathBuf,
    commands: PathBuf,
}

impl ExaBgp {
    /// Starts it.
    ///
    /// # Errors
    /// Those of [`Kind::start`].
    pub fn start(lab: &Lab, netns: &Netns, config: &Config) -> Result<Self> {
        for neighbor in &config.neighbors {
            let wish = [(neighbor.bfd.is_some(), "BFD"), (neighbor.max_prefix.is_some(), "prefix limit")];
            let policy = (neighbor.graceful_shutdown, "import policy");
            if let Some((_, what)) = wish.into_iter().chain([policy]).find(|(asked, _)| *asked) {
                return Err(unsupported(Kind::ExaBgp, what));
            }
        }
        let dir = directory(lab, Kind::ExaBgp, netns)?;
        let path = |name: &str| dir.join(name).display().to_string();
        let (file, helper) = (path("exabgp.conf"), path("helper"));
        // The reader must be the shell's `read`: the pipe does not block, and most programs take that for an error.
        let script = format!(
            "#!/bin/sh\nexec 3<&0\nwhile read -r line <&3; do printf '%s\\n' \"$line\" >> {}; done &\nexec cat <> {}\n",
            path("events"),
            path("commands")
        );
        let write = || {
            std::fs::write(dir.join("events"), "")?;
            nix::unistd::mkfifo(&dir.join("commands"), nix::sys::stat::Mode::S_IRWXU)?;
            std::fs::write(&helper, script)?;
            std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o700))?;
            std::fs::write(&file, render(config, &helper))
        };
        write().map_err(LabError::io(file.clone()))?;
        let mut builder = lab.process(&format!("exabgp-{}", netns.name()), netns, "exabgp").args([file.clone()]);
        for (key, value) in
            [("daemon.user", "root"), ("daemon.drop", "false"), ("api.cli", "false"), ("api.ack", "false")]
        {
            builder = builder.env(format!("exabgp.{key}"), value);
        }
        let listens: Vec<String> = config.neighbors.iter().filter(|n| n.passive).map(|n| n.local.to_string()).collect();
        if !listens.is_empty() {
            builder = builder.env("exabgp.tcp.bind", listens.join(" ")).env("exabgp.tcp.port", "179");
        }
        let mut process = builder.spawn()?;
        let log = process.log_path().to_owned();
        wait_ready("ExaBGP to load its configuration", &mut process, || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let loaded = text.contains("loaded new configuration successfully");
            loaded.then_some(text).ok_or_else(|| LabError::answer("ExaBGP", "not yet"))
        })?;
        Ok(Self { process, config: config.clone(), events: dir.join("events"), commands: dir.join("commands") })
    }

    /// Gives it a command of its API.
    ///
    /// # Errors
    /// When it has gone.
    pub fn command(&self, line: &str) -> Result<()> {
        // Opened for both directions: without a reader an opened pipe would wait.
        let open = std::fs::File::options().read(true).write(true).open(&self.commands);
        let write = |mut file: std::fs::File| std::io::Write::write_all(&mut file, format!("{line}\n").as_bytes());
        open.and_then(write).map_err(LabError::io("the command pipe of ExaBGP"))
    }

    /// What it told its helper about one neighbour, oldest first.
    pub fn events(&self, neighbor: IpAddr) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.events).unwrap_or_default();
        let all = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let wanted = neighbor.to_string();
        all.filter(|event| event["neighbor"]["address"]["peer"] == wanted.as_str()).collect()
    }
}

fn render(config: &Config, helper: &str) -> String {
    let mut text = format!("process log {{ run {helper}; encoder json; }}\n");
    for neighbor in &config.neighbors {
        text += &session(config, neighbor);
    }
    text
}

fn session(config: &Config, neighbor: &Neighbor) -> String {
    let mut text = format!(
        "neighbor {} {{\n router-id {}; local-address {}; local-as {}; peer-as {};\n",
        neighbor.address, config.router_id, neighbor.local, config.asn, neighbor.remote_as
    );
    if let Some(hold) = neighbor.hold_time {
        let _ = writeln!(text, " hold-time {hold};");
    }
    if let Some(password) = &neighbor.password {
        let _ = writeln!(text, " md5-password \"{password}\";");
    }
    match neighbor.hops {
        Hops::Direct => {}
        Hops::Gtsm => text += " outgoing-ttl 255; incoming-ttl 255;\n",
        Hops::Multihop(hops) => {
            let _ = writeln!(text, " outgoing-ttl {hops};");
        }
    }
    if neighbor.passive {
        text += " passive true;\n";
    }
    let restart = match config.graceful_restart {
        GracefulRestart::Off => String::new(),
        GracefulRestart::On(seconds) => format!(" graceful-restart {seconds};"),
    };
    let _ = writeln!(text, " capability {{ route-refresh enable;{restart} }}");
    let families: String = neighbor.families.iter().map(|f| format!(" {} unicast;", f.word())).collect();
    let _ = writeln!(text, " family {{{families} }}");
    let networks = config.networks.iter().filter(|n| neighbor.families.contains(&Family::of(n.addr())));
    let routes: String = networks.map(|n| format!(" route {n} next-hop {};", neighbor.local)).collect();
    let _ = writeln!(text, " static {{{routes} }}");
    text + " api { processes [ log ]; neighbor-changes; receive { parsed; open; update; notification; refresh; } }\n}\n"
}

impl Router for ExaBgp {
    fn kind(&self) -> Kind {
        Kind::ExaBgp
    }

    fn session(&self, neighbor: IpAddr) -> Result<Session> {
        self.config.position(neighbor)?;
        let events = self.events(neighbor);
        // One that waits for the neighbour's dial says nothing of a session that a NOTIFICATION has ended.
        let last = events.iter().rev().find(|e| e["type"] == "state" || e["type"] == "notification");
        let state = match last.and_then(|e| e["neighbor"]["state"].as_str()) {
            Some("up") => State::Established,
            Some("connected") => State::OpenSent,
            _ => State::Idle,
        };
        let open = events.iter().rev().find(|e| e["type"] == "open" && e["neighbor"]["direction"] == "receive");
        let open = open.map(|e| &e["neighbor"]["open"]).filter(|_| state != State::Idle);
        // RFC 4271 4.2: the smaller of both offers.
        let offered: Option<u16> = open.and_then(|o| number(&o["hold_time"]));
        let configured = self.config.neighbors.iter().find(|n| n.address == neighbor).and_then(|n| n.hold_time);
        let up = state == State::Established;
        Ok(Session {
            state,
            hold_time: offered.filter(|_| up).map(|theirs| configured.map_or(theirs, |own| own.min(theirs))),
            capabilities: open.map(|o| capabilities(&o["capabilities"])).unwrap_or_default(),
            received: up.then(|| table(&events).len().try_into().ok()).flatten(),
            updates: u64::try_from(events.iter().filter(|e| e["type"] == "update").count()).unwrap_or(u64::MAX),
            last_error: last_error(&events),
        })
    }

    fn paths(&self, prefix: IpNet) -> Result<Vec<Path>> {
        let neighbors = self.config.neighbors.iter().map(|n| n.address);
        let mut paths: Vec<Path> = neighbors
            .filter_map(|address| {
                let path = table(&self.events(address)).remove(&prefix)?;
                Some(Path { neighbor: Some(address), ..path })
            })
            .collect();
        // It does not choose: the first neighbour's stands for the best.
        if let Some(first) = paths.first_mut() {
            first.best = true;
        }
        Ok(paths)
    }

    fn bfd(&self, _peer: IpAddr) -> Result<Option<BfdSession>> {
        Err(unsupported(Kind::ExaBgp, "BFD"))
    }

    fn refresh(&self, neighbor: IpAddr) -> Result<()> {
        let number = self.config.position(neighbor)?;
        for family in &self.config.neighbors[number].families {
            self.command(&format!("neighbor {neighbor} announce route-refresh {} unicast", family.word()))?;
        }
        Ok(())
    }

    fn reset(&self, neighbor: IpAddr) -> Result<()> {
        self.command(&format!("neighbor {neighbor} teardown 4"))
    }

    fn processes(&mut self) -> Vec<&mut Process> {
        vec![&mut self.process]
    }

    fn log(&self) -> String {
        self.process.log()
    }
}

/// The last NOTIFICATION that was heard, as `(code,subcode)`; without one why the last connection ended.
fn last_error(events: &[Value]) -> Option<String> {
    let told = events.iter().rev().find_map(|event| {
        let about = &event["neighbor"]["notification"];
        Some(format!("notification ({},{})", about["code"].as_u64()?, about["subcode"].as_u64()?))
    });
    told.or_else(|| events.iter().rev().find_map(|e| e["neighbor"]["reason"].as_str().map(str::to_owned)))
}

fn capabilities(seen: &Value) -> Capabilities {
    let families = |value: &Value| -> Vec<Family> {
        let names = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        names.filter_map(family).collect()
    };
    // By capability code (RFC 5492): 1 multiprotocol, 2 refresh, 6 extended message, 64 graceful restart, 65 AS4, 70 enhanced.
    let has = |code: &str| Some(seen[code].is_object());
    let restart = &seen["64"];
    let flags = restart["address-family-flags"].as_object();
    Capabilities {
        families: families(&seen["1"]["families"]),
        four_octet_as: has("65"),
        route_refresh: has("2"),
        enhanced_refresh: has("70"),
        extended_message: has("6"),
        graceful_restart: restart.is_object().then(|| GrCapability {
            restart_time: number(&restart["time"]).unwrap_or_default(),
            families: flags
                .into_iter()
                .flatten()
                .filter_map(|(name, flags)| Some((family(name)?, flags.as_array().is_some_and(|all| !all.is_empty()))))
                .collect(),
        }),
    }
}

fn family(name: &str) -> Option<Family> {
    match name {
        "ipv4/unicast" | "ipv4 unicast" => Some(Family::Ipv4),
        "ipv6/unicast" | "ipv6 unicast" => Some(Family::Ipv6),
        _ => None,
    }
}

/// What a neighbour has announced and not withdrawn, since its session came up.
fn table(events: &[Value]) -> BTreeMap<IpNet, Path> {
    let mut table = BTreeMap::new();
    for event in events {
        if event["type"] == "state" {
            table.clear();
        }
        let update = &event["neighbor"]["message"]["update"];
        for (_, routes) in update["withdraw"].as_object().into_iter().flatten() {
            for prefix in routes.as_array().into_iter().flatten().filter_map(nlri) {
                table.remove(&prefix);
            }
        }
        let attributes = attributes(&update["attribute"]);
        for (_, next_hops) in update["announce"].as_object().into_iter().flatten() {
            for (next_hop, routes) in next_hops.as_object().into_iter().flatten() {
                let next_hop: Option<IpAddr> = next_hop.parse().ok();
                // A link-local next hop stands beside the global one (RFC 2545 3).
                if matches!(next_hop, Some(IpAddr::V6(hop)) if hop.is_unicast_link_local()) {
                    continue;
                }
                for prefix in routes.as_array().into_iter().flatten().filter_map(nlri) {
                    table.insert(prefix, Path { next_hop, ..attributes.clone() });
                }
            }
        }
    }
    table
}

fn nlri(value: &Value) -> Option<IpNet> {
    value["nlri"].as_str().or(value.as_str())?.parse().ok()
}

fn attributes(seen: &Value) -> Path {
    let tuples = |key: &str| seen[key].as_array().cloned().unwrap_or_default();
    let as_path = seen["as-path"].as_array().into_iter().flatten().filter_map(number);
    Path {
        as_path: as_path.collect(),
        communities: tuples("community").iter().filter_map(|t| Some((number(&t[0])?, number(&t[1])?))).collect(),
        large: tuples("large-community")
            .iter()
            .filter_map(|t| Some((number(&t[0])?, number(&t[1])?, number(&t[2])?)))
            .collect(),
        med: number(&seen["med"]),
        local_pref: number(&seen["local-preference"]),
        ..Path::default()
    }
}
