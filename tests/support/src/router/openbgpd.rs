//! OpenBGPD: three processes of one program, asked by `bgpctl -j`. On Linux it keeps its routes out of the kernel's table.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use ipnet::IpNet;
use serde_json::Value;

use super::config::{Config, Family, GracefulRestart, Hops, Neighbor};
use super::names;
use super::seen::{BfdSession, Capabilities, GrCapability, Path, Session, State};
use super::{Kind, Router, directory, json, number, unsupported, wait_ready};
use crate::{Lab, LabError, Netns, Process, Result, tool};

/// A running OpenBGPD.
#[derive(Debug)]
pub struct OpenBgpd {
    process: Process,
    socket: PathBuf,
}

impl OpenBgpd {
    /// Starts it.
    ///
    /// # Errors
    /// Those of [`Kind::start`].
    pub fn start(lab: &Lab, netns: &Netns, config: &Config) -> Result<Self> {
        if config.neighbors.iter().any(|n| n.bfd.is_some()) {
            return Err(unsupported(Kind::OpenBgpd, "BFD"));
        }
        let dir = directory(lab, Kind::OpenBgpd, netns)?;
        let (file, socket) = (dir.join("bgpd.conf"), dir.join("ctl"));
        let write = || {
            std::fs::write(&file, render(config, &socket.display().to_string()))?;
            // It refuses a file that others may read.
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))
        };
        write().map_err(LabError::io(file.display().to_string()))?;
        // Its children change root to a directory below /run, which is its own and empty here.
        let script = format!("mkdir -p /run/openbgpd && exec bgpd -d -v -f {}", file.display());
        let name = format!("openbgpd-{}", netns.name());
        let mut process = lab.process(&name, netns, "sh").args(["-c".to_owned(), script]).private_run().spawn()?;
        wait_ready("OpenBGPD to answer", &mut process, || bgpctl(&socket, "show"))?;
        Ok(Self { process, socket })
    }

    /// The last NOTIFICATION or loss of connection of its log: bgpctl shows only received ones.
    fn last_error(&self, neighbor: IpAddr) -> Option<String> {
        let (log, who) = (self.process.log(), format!("neighbor {neighbor}"));
        let about = |line: &&str| {
            line.starts_with(&who) && (line.contains("notification") || line.contains("Connection closed"))
        };
        log.lines().rev().find(about).map(str::to_owned)
    }

    /// Runs its command line, arguments separated by blanks.
    ///
    /// # Errors
    /// When it fails.
    pub fn bgpctl(&self, command: &str) -> Result<String> {
        bgpctl(&self.socket, command)
    }
}

fn bgpctl(socket: &std::path::Path, command: &str) -> Result<String> {
    let socket = socket.display().to_string();
    let args: Vec<&str> = ["-s", &socket, "-j"].into_iter().chain(command.split(' ')).collect();
    tool(None, "bgpctl", &args, None)
}

fn render(config: &Config, socket: &str) -> String {
    let mut text = format!("AS {}\nrouter-id {}\nfib-update no\nsocket \"{socket}\"\n", config.asn, config.router_id);
    let retry = config.neighbors.iter().map(|n| n.connect_retry).min();
    if let Some(seconds) = retry {
        let _ = writeln!(text, "connect-retry {seconds}");
    }
    let mut own: Vec<IpAddr> = config.neighbors.iter().map(|n| n.local).collect();
    own.sort_unstable();
    own.dedup();
    for address in own {
        let _ = writeln!(text, "listen on {address}");
    }
    for network in &config.networks {
        let _ = writeln!(text, "network {network}");
    }
    for neighbor in &config.neighbors {
        text += &session(config, neighbor);
    }
    text += "allow from any\nallow to any\n";
    for neighbor in config.neighbors.iter().filter(|n| n.graceful_shutdown) {
        let _ = writeln!(text, "match from {} community GRACEFUL_SHUTDOWN set {{ localpref 0 }}", neighbor.address);
    }
    text
}

fn session(config: &Config, neighbor: &Neighbor) -> String {
    let mut text = format!(
        "neighbor {} {{\n remote-as {}\n local-address {}\n",
        neighbor.address, neighbor.remote_as, neighbor.local
    );
    for (family, name) in [(Family::Ipv4, "IPv4"), (Family::Ipv6, "IPv6")] {
        let what = if neighbor.families.contains(&family) { "unicast" } else { "none" };
        let _ = writeln!(text, " announce {name} {what}");
    }
    if config.graceful_restart == GracefulRestart::Off {
        text += " announce restart no\n";
    }
    if let Some(hold) = neighbor.hold_time {
        let _ = writeln!(text, " holdtime {hold}");
    }
    if let Some(password) = &neighbor.password {
        let _ = writeln!(text, " tcp md5sig password {password}");
    }
    match neighbor.hops {
        Hops::Direct => {}
        Hops::Gtsm => text += " ttl-security yes\n",
        Hops::Multihop(hops) => {
            let _ = writeln!(text, " multihop {hops}");
        }
    }
    if neighbor.passive {
        text += " passive\n";
    }
    if let Some(limit) = neighbor.max_prefix {
        let _ = writeln!(text, " max-prefix {limit}");
    }
    text + "}\n"
}

impl Router for OpenBgpd {
    fn kind(&self) -> Kind {
        Kind::OpenBgpd
    }

    fn session(&self, neighbor: IpAddr) -> Result<Session> {
        let text = self.bgpctl(&format!("show neighbor {neighbor}"))?;
        let answer = json("bgpctl show neighbor", &text)?;
        let about = &answer["neighbors"][0];
        let state = about["state"].as_str().and_then(State::parse);
        let state = state.ok_or_else(|| LabError::answer("bgpctl show neighbor", text.clone()))?;
        let up = state == State::Established;
        Ok(Session {
            state,
            hold_time: up.then(|| number(&about["session"]["holdtime"])).flatten(),
            capabilities: capabilities(&about["session"]["remote"]["capabilities"]),
            received: up.then(|| number(&about["stats"]["prefixes"]["received"])).flatten(),
            updates: number(&about["stats"]["message"]["received"]["updates"]).unwrap_or_default(),
            last_error: self.last_error(neighbor),
        })
    }

    fn paths(&self, prefix: IpNet) -> Result<Vec<Path>> {
        let answer = json("bgpctl show rib", &self.bgpctl(&format!("show rib detail {prefix}"))?)?;
        // A host that is not in the table is answered with the longer match, of another prefix.
        let of_it = |entry: &&Value| entry["prefix"] == prefix.to_string().as_str();
        Ok(answer["rib"].as_array().into_iter().flatten().filter(of_it).map(path).collect())
    }

    fn bfd(&self, _peer: IpAddr) -> Result<Option<BfdSession>> {
        Err(unsupported(Kind::OpenBgpd, "BFD"))
    }

    fn refresh(&self, neighbor: IpAddr) -> Result<()> {
        self.bgpctl(&format!("neighbor {neighbor} refresh")).map(drop)
    }

    fn reset(&self, neighbor: IpAddr) -> Result<()> {
        self.bgpctl(&format!("neighbor {neighbor} clear")).map(drop)
    }

    fn processes(&mut self) -> Vec<&mut Process> {
        vec![&mut self.process]
    }

    fn log(&self) -> String {
        self.process.log()
    }
}

fn family(name: &Value) -> Option<Family> {
    match name.as_str()? {
        "IPv4 unicast" => Some(Family::Ipv4),
        "IPv6 unicast" => Some(Family::Ipv6),
        _ => None,
    }
}

fn capabilities(seen: &Value) -> Capabilities {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let restart = &seen["graceful_restart"];
    Capabilities {
        families: list(&seen["multiprotocol"]).iter().filter_map(family).collect(),
        four_octet_as: seen["as4byte"].as_bool(),
        route_refresh: seen["refresh"].as_bool(),
        enhanced_refresh: seen["enhanced_refresh"].as_bool(),
        // It does not know them.
        extended_message: None,
        // Without a list of families the neighbour sends End-of-RIB and restarts ungracefully: a helper.
        graceful_restart: restart.is_object().then(|| GrCapability {
            restart_time: number(&restart["timeout"]).unwrap_or_default(),
            families: list(&restart["protocols"])
                .iter()
                .filter_map(|one| Some((family(&one["family"])?, one["preserved"] == true)))
                .collect(),
        }),
    }
}

fn path(entry: &Value) -> Path {
    let texts = |key: &str| -> Vec<String> {
        entry[key].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let as_path = entry["aspath"].as_str().unwrap_or_default();
    Path {
        neighbor: entry["neighbor"]["remote_addr"].as_str().and_then(|text| text.parse().ok()),
        next_hop: entry["exit_nexthop"].as_str().and_then(|text| text.parse().ok()),
        as_path: as_path.split_whitespace().filter_map(|asn| asn.parse().ok()).collect(),
        communities: texts("communities").iter().filter_map(|text| names::community(text)).collect(),
        large: texts("large_communities").iter().filter_map(|text| names::large(text)).collect(),
        med: number(&entry["metric"]),
        local_pref: number(&entry["localpref"]),
        stale: entry["stale"] == true,
        best: entry["best"] == true,
        multipath: entry["ecmp"] == true,
    }
}
