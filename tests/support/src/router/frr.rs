//! FRRouting: zebra (kernel routes), bfdd and bgpd, each with its own configuration file, asked by vtysh.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use super::config::{BfdTimers, Config, Family, GracefulRestart, Hops, Neighbor};
use super::seen::{BfdSession, BfdState, Capabilities, GrCapability, Path, Session, State};
use super::{Kind, Router, directory, json, names, number, wait_ready};
use crate::{Lab, LabError, Netns, Process, Result, tool};

/// Where the Debian package keeps the daemons.
const DAEMONS: &str = "/usr/lib/frr";
/// The user the daemons change to.
const USER: &str = "frr";

/// A running FRR.
#[derive(Debug)]
pub struct Frr {
    bgpd: Process,
    bfdd: Process,
    zebra: Process,
    netns: Netns,
    vty: PathBuf,
}

impl Frr {
    /// Starts the three daemons.
    ///
    /// # Errors
    /// Those of [`Kind::start`].
    pub fn start(lab: &Lab, netns: &Netns, config: &Config) -> Result<Self> {
        let dir = directory(lab, Kind::Frr, netns)?;
        let vty = dir.join("vty");
        std::fs::create_dir(&vty).map_err(LabError::io("the vty directory"))?;
        let head = "hostname router\nlog stdout\n";
        for (name, text) in [("zebra", head.to_owned()), ("bfdd", bfdd(head, config)), ("bgpd", bgpd(head, config))] {
            let file = dir.join(format!("{name}.conf"));
            std::fs::write(&file, text).map_err(LabError::io(file.display().to_string()))?;
        }
        own(&dir)?;
        let daemon = |name: &str| -> Result<Process> {
            let text = |file: &str| dir.join(file).display().to_string();
            let mut args: Vec<String> = ["-A", "127.0.0.1", "-P", "0", "--vty_socket"].map(str::to_owned).into();
            args.extend([vty.display().to_string(), "-i".into(), text(&format!("{name}.pid"))]);
            args.extend(["-z".into(), text("zserv.api"), "-f".into(), text(&format!("{name}.conf"))]);
            if name == "bfdd" {
                args.extend(["--bfdctl".into(), text("bfdd.sock")]);
            }
            let program = FilePath::new(DAEMONS).join(name);
            let mut process =
                lab.process(&format!("frr-{name}-{}", netns.name()), netns, program).args(args).spawn()?;
            let (socket, what) = (vty.join(format!("{name}.vty")), format!("{name} to open its socket"));
            let there = || socket.exists().then(String::new).ok_or_else(|| LabError::answer("vty", "not there"));
            wait_ready(&what, &mut process, there)?;
            Ok(process)
        };
        // zebra first: the others find its socket at once instead of trying again after seconds.
        let (zebra, bfdd, bgpd) = (daemon("zebra")?, daemon("bfdd")?, daemon("bgpd")?);
        let mut frr = Self { bgpd, bfdd, zebra, netns: netns.clone(), vty };
        let (vty, netns) = (frr.vty.clone(), frr.netns.clone());
        wait_ready("bgpd to answer", &mut frr.bgpd, || vtysh(&netns, &vty, "show bgp summary json"))?;
        for line in frr.bgpd.log().lines().chain(frr.bfdd.log().lines()) {
            if line.contains("on config line") {
                return Err(LabError::answer("FRR refuses its configuration", line.to_owned()));
            }
        }
        Ok(frr)
    }

    /// Runs one command of its command line.
    ///
    /// # Errors
    /// When vtysh fails.
    pub fn vtysh(&self, command: &str) -> Result<String> {
        vtysh(&self.netns, &self.vty, command)
    }
}

fn vtysh(netns: &Netns, vty: &FilePath, command: &str) -> Result<String> {
    tool(Some(netns), "vtysh", &["--vty_socket", &vty.display().to_string(), "-c", command], None)
}

/// The daemons drop root: everything below `dir` becomes theirs.
fn own(dir: &FilePath) -> Result<()> {
    tool(None, "chown", &["-R", &format!("{USER}:{USER}"), &dir.display().to_string()], None).map(drop)
}

fn profile(timers: BfdTimers) -> String {
    format!("t{}r{}x{}", timers.transmit.as_millis(), timers.receive.as_millis(), timers.multiplier)
}

fn bfdd(head: &str, config: &Config) -> String {
    let mut text = format!("{head}bfd\n");
    for timers in config.neighbors.iter().filter_map(|n| n.bfd).chain(config.bfd.iter().map(|p| p.timers)) {
        let _ = writeln!(
            text,
            " profile {}\n  detect-multiplier {}\n  receive-interval {}\n  transmit-interval {}\n exit",
            profile(timers),
            timers.multiplier,
            timers.receive.as_millis(),
            timers.transmit.as_millis()
        );
    }
    for peer in &config.bfd {
        let hops = if peer.multihop { " multihop" } else { "" };
        let _ = writeln!(
            text,
            " peer {}{hops} local-address {}\n  profile {}",
            peer.address,
            peer.local,
            profile(peer.timers)
        );
        if peer.multihop {
            // Its default is 254.
            text += "  minimum-ttl 250\n";
        }
        text += " exit\n";
    }
    text + "exit\n"
}

fn bgpd(head: &str, config: &Config) -> String {
    let mut text = format!(
        "{head}bgp community-list standard gshut permit graceful-shutdown\nroute-map gshut permit 10\n match community \
         gshut\n set local-preference 0\nroute-map gshut permit 20\nrouter bgp {}\n bgp router-id {}\n no bgp \
         ebgp-requires-policy\n no bgp network import-check\n no bgp default ipv4-unicast\n bgp bestpath as-path \
         multipath-relax\n",
        config.asn, config.router_id
    );
    match config.graceful_restart {
        GracefulRestart::Off => text += " bgp graceful-restart-disable\n",
        GracefulRestart::On(seconds) => {
            let _ = writeln!(text, " bgp graceful-restart\n bgp graceful-restart restart-time {seconds}");
        }
    }
    for neighbor in &config.neighbors {
        text += &session(neighbor);
    }
    for family in [Family::Ipv4, Family::Ipv6] {
        let _ = writeln!(text, " address-family {} unicast\n  maximum-paths {}", family.word(), config.multipath);
        let _ = writeln!(text, "  maximum-paths ibgp {}", config.multipath);
        for network in config.networks_of(family) {
            let _ = writeln!(text, "  network {network}");
        }
        for neighbor in config.neighbors_of(family) {
            let _ = writeln!(text, "  neighbor {} activate", neighbor.address);
            if neighbor.graceful_shutdown {
                let _ = writeln!(text, "  neighbor {} route-map gshut in", neighbor.address);
            }
            if let Some(limit) = neighbor.max_prefix {
                let _ = writeln!(text, "  neighbor {} maximum-prefix {limit}", neighbor.address);
            }
        }
        text += " exit-address-family\n";
    }
    text
}

fn session(neighbor: &Neighbor) -> String {
    let who = format!(" neighbor {}", neighbor.address);
    let mut text = format!("{who} remote-as {}\n{who} update-source {}\n", neighbor.remote_as, neighbor.local);
    let _ = writeln!(text, "{who} timers connect {}", neighbor.connect_retry);
    if let (Some(hold), Some(keepalive)) = (neighbor.hold_time, neighbor.keepalive()) {
        let _ = writeln!(text, "{who} timers {keepalive} {hold}");
    }
    if let Some(password) = &neighbor.password {
        let _ = writeln!(text, "{who} password {password}");
    }
    match neighbor.hops {
        Hops::Direct => {}
        Hops::Gtsm => text += &format!("{who} ttl-security hops 1\n"),
        Hops::Multihop(hops) => text += &format!("{who} ebgp-multihop {hops}\n"),
    }
    if neighbor.passive {
        text += &format!("{who} passive\n");
    }
    if let Some(timers) = neighbor.bfd {
        let _ = writeln!(text, "{who} bfd\n{who} bfd profile {}", profile(timers));
    }
    text
}

impl Router for Frr {
    fn kind(&self) -> Kind {
        Kind::Frr
    }

    fn session(&self, neighbor: IpAddr) -> Result<Session> {
        let text = self.vtysh(&format!("show bgp neighbors {neighbor} json"))?;
        let all = json("show bgp neighbors", &text)?;
        let about = &all[neighbor.to_string()];
        let state = about["bgpState"].as_str().and_then(State::parse);
        let state = state.ok_or_else(|| LabError::answer("show bgp neighbors", text.clone()))?;
        let milliseconds: Option<u64> = about["bgpTimerHoldTimeMsecs"].as_u64();
        let hold_time = milliseconds.and_then(|ms| (ms / 1000).try_into().ok());
        let families = about["addressFamilyInfo"].as_object();
        let received = families
            .map(|all| all.values().filter_map(|family| number::<u32>(&family["acceptedPrefixCounter"])).sum::<u32>());
        Ok(Session {
            state,
            hold_time: hold_time.filter(|_| state == State::Established),
            capabilities: capabilities(about),
            received: received.filter(|_| state == State::Established),
            updates: number(&about["messageStats"]["updatesRecv"]).unwrap_or_default(),
            last_error: about["lastResetDueTo"].as_str().map(|reason| {
                let code = about["lastNotificationReason"].as_str().unwrap_or_default();
                format!("{reason} {code}").trim().to_owned()
            }),
        })
    }

    fn paths(&self, prefix: IpNet) -> Result<Vec<Path>> {
        let family = Family::of(prefix.addr()).word();
        let text = self.vtysh(&format!("show bgp {family} unicast {prefix} json"))?;
        let answer = json("show bgp unicast", &text)?;
        Ok(answer["paths"].as_array().map(|all| all.iter().map(path).collect()).unwrap_or_default())
    }

    fn bfd(&self, peer: IpAddr) -> Result<Option<BfdSession>> {
        let text = self.vtysh("show bfd peers json")?;
        let all = json("show bfd peers", &text)?;
        let wanted = peer.to_string();
        let found = all.as_array().into_iter().flatten().find(|s| s["peer"] == wanted.as_str());
        Ok(found.and_then(bfd_session))
    }

    fn refresh(&self, neighbor: IpAddr) -> Result<()> {
        self.vtysh(&format!("clear bgp {neighbor} soft in")).map(drop)
    }

    fn reset(&self, neighbor: IpAddr) -> Result<()> {
        self.vtysh(&format!("clear bgp {neighbor}")).map(drop)
    }

    fn processes(&mut self) -> Vec<&mut Process> {
        vec![&mut self.bgpd, &mut self.bfdd, &mut self.zebra]
    }

    fn log(&self) -> String {
        self.bgpd.log()
    }
}

/// `advertisedAndReceived`, `received`: the neighbour offered it; `advertised`: it did not.
fn offered(value: &Value) -> Option<bool> {
    Some(value.as_str().is_some_and(|word| word.to_ascii_lowercase().contains("received")))
}

fn capabilities(about: &Value) -> Capabilities {
    let seen = &about["neighborCapabilities"];
    let key = |family: Family| format!("{}Unicast", family.word());
    let families = [Family::Ipv4, Family::Ipv6].into_iter().filter(|family| {
        let entry = &seen["multiprotocolExtensions"][key(*family)];
        entry["advertisedAndReceived"] == true || entry["received"] == true
    });
    let restart = offered(&seen["gracefulRestart"]).filter(|offered| *offered).map(|_| GrCapability {
        restart_time: number(&about["gracefulRestartInfo"]["timers"]["receivedRestartTimer"]).unwrap_or_default(),
        families: [Family::Ipv4, Family::Ipv6]
            .into_iter()
            .filter(|family| seen["addressFamiliesByPeer"][key(*family)].is_object())
            .map(|family| (family, about["gracefulRestartInfo"][key(family)]["fBit"] == true))
            .collect(),
    });
    Capabilities {
        families: families.collect(),
        four_octet_as: offered(&seen["4byteAs"]),
        route_refresh: offered(&seen["routeRefresh"]),
        enhanced_refresh: offered(&seen["enhancedRouteRefresh"]),
        extended_message: offered(&seen["extendedMessage"]),
        graceful_restart: restart,
    }
}

fn path(entry: &Value) -> Path {
    let list = |value: &Value| -> Vec<String> {
        value["list"].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let segments = entry["aspath"]["segments"].as_array().into_iter().flatten();
    let next_hops: Vec<&Value> = entry["nexthops"].as_array().into_iter().flatten().collect();
    let global = next_hops.iter().find(|n| n["scope"] != "link-local");
    Path {
        neighbor: entry["peer"]["peerId"].as_str().and_then(|text| text.parse().ok()),
        next_hop: global.and_then(|n| n["ip"].as_str()?.parse().ok()),
        as_path: segments.flat_map(|s| s["list"].as_array().into_iter().flatten()).filter_map(number).collect(),
        communities: list(&entry["community"]).iter().filter_map(|text| names::community(text)).collect(),
        large: list(&entry["largeCommunity"]).iter().filter_map(|text| names::large(text)).collect(),
        med: number(&entry["metric"]).or_else(|| number(&entry["med"])),
        local_pref: number(&entry["locPrf"]).or_else(|| number(&entry["localPref"])),
        stale: entry["stale"] == true,
        best: entry["bestpath"]["overall"] == true,
        multipath: entry["multipath"] == true,
    }
}

/// RFC 5880 6.8.4 and 6.8.7, from both sides' values; before the session is up the peer's are what FRR assumes.
fn bfd_session(entry: &Value) -> Option<BfdSession> {
    let milliseconds = |key: &str| number::<u64>(&entry[key]).map(Duration::from_millis);
    let (receive, transmit) = (milliseconds("receive-interval")?, milliseconds("transmit-interval")?);
    let (peer_receive, peer_transmit) =
        (milliseconds("remote-receive-interval")?, milliseconds("remote-transmit-interval")?);
    let multiplier: u32 = number(&entry["remote-detect-multiplier"])?;
    Some(BfdSession {
        state: BfdState::parse(entry["status"].as_str()?)?,
        transmit: transmit.max(peer_receive),
        detection: receive.max(peer_transmit) * multiplier,
        multihop: entry["multihop"].as_bool(),
    })
}
