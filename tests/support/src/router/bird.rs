//! BIRD 2: one process, asked by birdc, whose answers are indented text.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::config::{BfdTimers, Config, Family, GracefulRestart, Hops, Neighbor};
use super::seen::{BfdSession, BfdState, Capabilities, GrCapability, Path, Session, State};
use super::{Kind, Router, directory, wait_ready};
use crate::{Lab, LabError, Netns, Process, Result, tool};

/// A running BIRD. Neighbour number N of its configuration is its protocol `nN`.
#[derive(Debug)]
pub struct Bird {
    process: Process,
    config: Config,
    control: PathBuf,
}

impl Bird {
    /// Starts it.
    ///
    /// # Errors
    /// Those of [`Kind::start`].
    pub fn start(lab: &Lab, netns: &Netns, config: &Config) -> Result<Self> {
        let dir = directory(lab, Kind::Bird, netns)?;
        let path = |name: &str| dir.join(name).display().to_string();
        let (file, control) = (path("bird.conf"), dir.join("bird.ctl"));
        std::fs::write(&file, render(config)).map_err(LabError::io(file.clone()))?;
        let args = ["-f", "-c", &file, "-s", &path("bird.ctl"), "-P", &path("bird.pid")].map(str::to_owned);
        let mut process = lab.process(&format!("bird-{}", netns.name()), netns, "bird").args(args).spawn()?;
        wait_ready("BIRD to answer", &mut process, || birdc(&control, "show status"))?;
        Ok(Self { process, config: config.clone(), control })
    }

    /// Runs one command of its command line.
    ///
    /// # Errors
    /// When birdc fails, or BIRD calls the command wrong.
    pub fn birdc(&self, command: &str) -> Result<String> {
        birdc(&self.control, command)
    }

    fn protocol(&self, neighbor: IpAddr) -> Result<String> {
        Ok(format!("n{}", self.config.position(neighbor)?))
    }

    /// Next hops that the kernel's table is given for a prefix: the merged paths.
    fn merged(&self, prefix: IpNet) -> Vec<IpAddr> {
        let kernel = format!("show route {prefix} export kernel_{}", Family::of(prefix.addr()).word());
        let text = self.birdc(&kernel).unwrap_or_default();
        text.lines().filter_map(|line| line.trim().strip_prefix("via ")?.split(' ').next()?.parse().ok()).collect()
    }
}

/// birdc exits 0 also when BIRD refuses; its complaints begin with these words.
const REFUSALS: [&str; 3] = ["syntax error", "Unable to connect", "No protocols match"];

fn birdc(control: &std::path::Path, command: &str) -> Result<String> {
    let text = tool(None, "birdc", &["-s", &control.display().to_string(), command], None)?;
    match text.lines().find(|line| REFUSALS.iter().any(|word| line.contains(word))) {
        Some(line) => Err(LabError::answer(format!("birdc {command}"), line.to_owned())),
        None => Ok(text),
    }
}

fn render(config: &Config) -> String {
    let mut text = format!("log stderr all;\nrouter id {};\nprotocol device {{ scan time 1; }}\n", config.router_id);
    for family in [Family::Ipv4, Family::Ipv6] {
        let word = family.word();
        // Its own prefixes stay out of the kernel's table: they are addresses of this node.
        let _ = writeln!(
            text,
            "protocol kernel kernel_{word} {{ {word} {{ import none; export filter {{ if source = RTS_BGP then accept; reject; }}; \
             }}; {} }}",
            if config.multipath > 1 { format!("merge paths yes limit {};", config.multipath) } else { String::new() }
        );
        let routes: String = config.networks_of(family).map(|network| format!(" route {network} blackhole;")).collect();
        let _ = writeln!(text, "protocol static own_{word} {{ {word};{routes} }}");
    }
    text += &bfd_protocol(config);
    for (number, neighbor) in config.neighbors.iter().enumerate() {
        text += &session(config, number, neighbor);
    }
    text
}

/// Timers belong to the kind of session, not to each one.
fn bfd_protocol(config: &Config) -> String {
    let asked = config.neighbors.iter().filter_map(|n| Some((matches!(n.hops, Hops::Multihop(_)), n.bfd?)));
    let own = config.bfd.iter().map(|p| (p.multihop, p.timers));
    let all: Vec<(bool, BfdTimers)> = asked.chain(own).collect();
    if all.is_empty() {
        return String::new();
    }
    let timers = |multihop: bool| all.iter().find(|(far, _)| *far == multihop).map(|(_, timers)| bfd(*timers));
    let direct = timers(false).map(|t| format!(" interface \"*\" {{ {t} }};")).unwrap_or_default();
    let far = timers(true).map(|t| format!(" multihop {{ {t} }};")).unwrap_or_default();
    let mut text = format!("protocol bfd {{{direct}{far}");
    for peer in &config.bfd {
        let hops = if peer.multihop { " multihop yes" } else { "" };
        let _ = write!(text, " neighbor {} local {}{hops};", peer.address, peer.local);
    }
    text + " }\n"
}

fn bfd(timers: BfdTimers) -> String {
    let (rx, tx) = (timers.receive.as_millis(), timers.transmit.as_millis());
    format!("min rx interval {rx} ms; min tx interval {tx} ms; multiplier {};", timers.multiplier)
}

fn session(config: &Config, number: usize, neighbor: &Neighbor) -> String {
    let mut text = format!("protocol bgp n{number} {{\n local {} as {};\n", neighbor.local, config.asn);
    let _ = writeln!(text, " neighbor {} as {};", neighbor.address, neighbor.remote_as);
    if let Some(interface) = &neighbor.interface {
        let _ = writeln!(text, " interface \"{interface}\";");
    }
    let _ = writeln!(text, " connect retry time {};", neighbor.connect_retry);
    // Its defaults (5 s before the first dial, 60 s after an error) are longer than a test.
    text += " connect delay time 1;\n error wait time 1, 2;\n";
    text += &match neighbor.hops {
        Hops::Direct => " direct;\n".to_owned(),
        Hops::Gtsm => " direct;\n ttl security on;\n".to_owned(),
        Hops::Multihop(hops) => format!(" multihop {hops};\n"),
    };
    if let Some(password) = &neighbor.password {
        let _ = writeln!(text, " password \"{password}\";");
    }
    if neighbor.passive {
        text += " passive on;\n";
    }
    if let (Some(hold), Some(keepalive)) = (neighbor.hold_time, neighbor.keepalive()) {
        let _ = writeln!(text, " hold time {hold};\n keepalive time {keepalive};");
    }
    if let Some(timers) = neighbor.bfd {
        let _ = writeln!(text, " bfd {{ {} }};", bfd(timers));
    }
    match config.graceful_restart {
        GracefulRestart::Off => text += " graceful restart off;\n long lived graceful restart off;\n",
        GracefulRestart::On(seconds) => {
            let _ = writeln!(text, " graceful restart on;\n graceful restart time {seconds};");
        }
    }
    text += " enable extended messages on;\n";
    let import = if neighbor.graceful_shutdown {
        "filter { if (65535, 0) ~ bgp_community then bgp_local_pref = 0; accept; }"
    } else {
        "all"
    };
    let limit = neighbor.max_prefix.map(|n| format!(" import limit {n} action disable;")).unwrap_or_default();
    for family in &neighbor.families {
        let _ = writeln!(text, " {} {{ import {import};{limit} export where source = RTS_STATIC; }};", family.word());
    }
    text + "}\n"
}

impl Router for Bird {
    fn kind(&self) -> Kind {
        Kind::Bird
    }

    fn session(&self, neighbor: IpAddr) -> Result<Session> {
        let text = self.birdc(&format!("show protocols all {}", self.protocol(neighbor)?))?;
        parse_session(&text).ok_or_else(|| LabError::answer("show protocols all", text))
    }

    fn paths(&self, prefix: IpNet) -> Result<Vec<Path>> {
        // By a condition and not by the prefix itself: that fails, with the reason on stdout, when there is no such route.
        let table = if prefix.addr().is_ipv4() { "master4" } else { "master6" };
        let text = self.birdc(&format!("show route table {table} where net = {prefix} all"))?;
        let mut paths = parse_paths(&text, &|protocol| {
            let number: usize = protocol.strip_prefix('n')?.parse().ok()?;
            self.config.neighbors.get(number).map(|n| n.address)
        });
        if paths.len() > 1 {
            let merged = self.merged(prefix);
            for path in &mut paths {
                path.multipath = path.next_hop.is_some_and(|hop| merged.contains(&hop));
            }
        }
        Ok(paths)
    }

    fn bfd(&self, peer: IpAddr) -> Result<Option<BfdSession>> {
        let text = self.birdc("show bfd sessions")?;
        let wanted = peer.to_string();
        Ok(text.lines().find(|line| line.split_whitespace().next() == Some(&wanted)).and_then(parse_bfd))
    }

    fn refresh(&self, neighbor: IpAddr) -> Result<()> {
        self.birdc(&format!("reload in {}", self.protocol(neighbor)?)).map(drop)
    }

    fn reset(&self, neighbor: IpAddr) -> Result<()> {
        self.birdc(&format!("restart {}", self.protocol(neighbor)?)).map(drop)
    }

    fn processes(&mut self) -> Vec<&mut Process> {
        vec![&mut self.process]
    }

    fn log(&self) -> String {
        self.process.log()
    }
}

/// The lines of an indented block below its heading.
fn block<'a>(lines: &[&'a str], heading: &str) -> Vec<&'a str> {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let Some(start) = lines.iter().position(|line| line.trim() == heading) else { return Vec::new() };
    let inside = lines[start + 1..].iter().take_while(|line| depth(line) > depth(lines[start]));
    inside.copied().collect()
}

fn after<'a>(lines: &[&'a str], key: &str) -> Option<&'a str> {
    lines.iter().find_map(|line| line.trim().strip_prefix(key)).map(str::trim)
}

fn families(words: &str) -> Vec<Family> {
    let one = |word: &str| match word {
        "ipv4" => Some(Family::Ipv4),
        "ipv6" => Some(Family::Ipv6),
        _ => None,
    };
    words.split_whitespace().filter_map(one).collect()
}

fn parse_session(text: &str) -> Option<Session> {
    let lines: Vec<&str> = text.lines().collect();
    let state = State::parse(after(&lines, "BGP state:")?)?;
    let seen = block(&lines, "Neighbor capabilities");
    let has = |name: &str| (!seen.is_empty()).then(|| seen.iter().any(|line| line.trim() == name));
    let restart = block(&seen, "Graceful restart");
    let listed = families(after(&restart, "AF supported:").unwrap_or_default());
    let preserved = families(after(&restart, "AF preserved:").unwrap_or_default());
    let imported = lines.iter().filter_map(|line| line.trim().strip_prefix("Routes:"));
    Some(Session {
        state,
        hold_time: after(&lines, "Hold timer:").and_then(|t| t.rsplit_once('/')?.1.parse().ok()),
        capabilities: Capabilities {
            families: families(after(&block(&seen, "Multiprotocol"), "AF announced:").unwrap_or_default()),
            four_octet_as: has("4-octet AS numbers"),
            route_refresh: has("Route refresh"),
            enhanced_refresh: has("Enhanced refresh"),
            extended_message: has("Extended message"),
            graceful_restart: has("Graceful restart").filter(|offered| *offered).map(|_| GrCapability {
                restart_time: after(&restart, "Restart time:").and_then(|t| t.parse().ok()).unwrap_or_default(),
                families: listed.into_iter().map(|family| (family, preserved.contains(&family))).collect(),
            }),
        },
        received: (state == State::Established)
            .then(|| imported.filter_map(|rest| rest.split_whitespace().next()?.parse::<u32>().ok()).sum()),
        updates: lines
            .iter()
            .filter_map(|line| {
                line.trim().strip_prefix("Import updates:")?.split_whitespace().next()?.parse::<u64>().ok()
            })
            .sum(),
        last_error: after(&lines, "Last error:").map(str::to_owned),
    })
}

/// A path begins with a line that names its protocol in brackets; its attributes follow, indented by a tab.
fn parse_paths(text: &str, neighbor: &dyn Fn(&str) -> Option<IpAddr>) -> Vec<Path> {
    let mut paths: Vec<Path> = Vec::new();
    for line in text.lines() {
        if let Some(attribute) = line.strip_prefix('\t') {
            if let Some(path) = paths.last_mut() {
                attribute_of(path, attribute.trim());
            }
        } else if let Some((_, rest)) = line.split_once(" [")
            && let Some((source, flags)) = rest.split_once(']')
        {
            let protocol = source.split_whitespace().next().unwrap_or_default();
            let best = flags.trim_start().starts_with('*');
            paths.push(Path { neighbor: neighbor(protocol), best, ..Path::default() });
        }
    }
    paths
}

fn attribute_of(path: &mut Path, line: &str) {
    let Some((key, value)) = line.split_once(':') else { return };
    // `(65000,1) (65000,2)` and `(65000, 1, 2) (...)`.
    let tuples =
        || value.split(')').map(|part| part.trim().trim_start_matches('(').replace([',', ' '], ":").replace("::", ":"));
    let value = value.trim();
    match key {
        "BGP.as_path" => path.as_path = value.split_whitespace().filter_map(|asn| asn.parse().ok()).collect(),
        "BGP.next_hop" => path.next_hop = value.split_whitespace().next().and_then(|hop| hop.parse().ok()),
        "BGP.med" => path.med = value.parse().ok(),
        "BGP.local_pref" => path.local_pref = value.parse().ok(),
        "BGP.community" => path.communities = tuples().filter_map(|t| super::names::community(&t)).collect(),
        "BGP.large_community" => path.large = tuples().filter_map(|t| super::names::large(&t)).collect(),
        _ => {}
    }
}

/// `address interface state since interval timeout`, the last two in seconds.
fn parse_bfd(line: &str) -> Option<BfdSession> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let seconds = |word: &str| word.parse().ok().map(Duration::from_secs_f64);
    Some(BfdSession {
        state: BfdState::parse(words.get(2)?)?,
        transmit: seconds(words.get(words.len().checked_sub(2)?)?)?,
        detection: seconds(words.last()?)?,
        multihop: Some(words.get(1) == Some(&"---")),
    })
}

#[cfg(test)]
mod tests;
