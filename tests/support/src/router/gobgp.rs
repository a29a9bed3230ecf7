//! GoBGP: a TOML file, asked by `gobgp -j`, whose capabilities are protobuf messages in base64.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::config::{Config, Family, GracefulRestart, Hops, Neighbor};
use super::names::community_of;
use super::seen::{BfdSession, Capabilities, GrCapability, Path, Session, State};
use super::{Kind, Router, directory, json, number, unsupported, wait_ready};
use crate::{Lab, LabError, Netns, Process, Result, tool};

/// Port of its gRPC service on loopback; its default.
const API: u16 = 50051;
/// Restart time it would otherwise use for a neighbour that offers none.
const DEFERRAL: u16 = 1;

/// A running GoBGP.
#[derive(Debug)]
pub struct GoBgp {
    process: Process,
    netns: Netns,
}

impl GoBgp {
    /// Starts it and adds its own networks.
    ///
    /// # Errors
    /// Those of [`Kind::start`].
    pub fn start(lab: &Lab, netns: &Netns, config: &Config) -> Result<Self> {
        if config.neighbors.iter().any(|n| n.bfd.is_some()) {
            return Err(unsupported(Kind::GoBgp, "BFD"));
        }
        let file = directory(lab, Kind::GoBgp, netns)?.join("gobgpd.toml").display().to_string();
        std::fs::write(&file, render(config)).map_err(LabError::io(file.clone()))?;
        let hosts = format!("127.0.0.1:{API}");
        let args = ["-f", &file, "--api-hosts", &hosts, "--pprof-disable"].map(str::to_owned);
        let mut process = lab.process(&format!("gobgpd-{}", netns.name()), netns, "gobgpd").args(args).spawn()?;
        wait_ready("GoBGP to answer", &mut process, || gobgp(netns, &["global"]))?;
        // Its interface answers before it has read its file: a neighbour it does not know yet would be no error.
        for neighbor in &config.neighbors {
            let address = neighbor.address.to_string();
            wait_ready("GoBGP to know its neighbours", &mut process, || gobgp(netns, &["neighbor", &address]))?;
        }
        let gobgpd = Self { process, netns: netns.clone() };
        for network in &config.networks {
            let family = Family::of(network.addr()).word();
            gobgpd.gobgp(&["global", "rib", "-a", family, "add", &network.to_string()])?;
        }
        Ok(gobgpd)
    }

    /// Runs its command line.
    ///
    /// # Errors
    /// When it fails.
    pub fn gobgp(&self, args: &[&str]) -> Result<String> {
        gobgp(&self.netns, args)
    }

    fn ask(&self, args: &[&str]) -> Result<Value> {
        let text = self.gobgp(&[args, &["-j"]].concat())?;
        json(&format!("gobgp {}", args.join(" ")), &text)
    }
}

fn gobgp(netns: &Netns, args: &[&str]) -> Result<String> {
    tool(Some(netns), "gobgp", &[&["-p", &API.to_string()], args].concat(), None)
}

fn render(config: &Config) -> String {
    let mut text = format!("[global.config]\nas = {}\nrouter-id = \"{}\"\nport = 179\n", config.asn, config.router_id);
    if config.multipath > 1 {
        text += "[global.use-multiple-paths.config]\nenabled = true\n";
    }
    // Policies apply to the one table, not to a neighbour: it is enough that one neighbour asks.
    if config.neighbors.iter().any(|n| n.graceful_shutdown) {
        text += "[global.apply-policy.config]\nimport-policy-list = [\"gshut\"]\ndefault-import-policy = \"accept-route\"\n\
                 [[defined-sets.bgp-defined-sets.community-sets]]\ncommunity-set-name = \"gshut\"\ncommunity-list = [\"65535:0\"]\n\
                 [[policy-definitions]]\nname = \"gshut\"\n[[policy-definitions.statements]]\nname = \"gshut\"\n\
                 [policy-definitions.statements.conditions.bgp-conditions.match-community-set]\ncommunity-set = \"gshut\"\n\
                 match-set-options = \"any\"\n[policy-definitions.statements.actions]\nroute-disposition = \"accept-route\"\n\
                 [policy-definitions.statements.actions.bgp-actions]\nset-local-pref = 1\n";
    }
    for neighbor in &config.neighbors {
        text += &session(config, neighbor);
    }
    text
}

fn session(config: &Config, neighbor: &Neighbor) -> String {
    let mut text = format!(
        "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{}\"\npeer-as = {}\n",
        neighbor.address, neighbor.remote_as
    );
    if let Some(password) = &neighbor.password {
        let _ = writeln!(text, "auth-password = \"{password}\"");
    }
    let _ = writeln!(
        text,
        "[neighbors.transport.config]\nlocal-address = \"{}\"\npassive-mode = {}",
        neighbor.local, neighbor.passive
    );
    // Its default after a reset is 30 s of Idle.
    let _ = writeln!(
        text,
        "[neighbors.timers.config]\nidle-hold-time-after-reset = 1\nconnect-retry = {}",
        neighbor.connect_retry
    );
    if let (Some(hold), Some(keepalive)) = (neighbor.hold_time, neighbor.keepalive()) {
        let _ = writeln!(text, "hold-time = {hold}\nkeepalive-interval = {keepalive}");
    }
    match neighbor.hops {
        Hops::Direct => {}
        Hops::Gtsm => text += "[neighbors.ttl-security.config]\nenabled = true\nttl-min = 255\n",
        Hops::Multihop(hops) => {
            let _ = writeln!(text, "[neighbors.ebgp-multihop.config]\nenabled = true\nmultihop-ttl = {hops}");
        }
    }
    let restart = match config.graceful_restart {
        GracefulRestart::Off => None,
        GracefulRestart::On(seconds) => Some(seconds),
    };
    if let Some(seconds) = restart {
        let _ = writeln!(
            text,
            "[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = {seconds}\ndeferral-time = {DEFERRAL}"
        );
    }
    for family in &neighbor.families {
        let _ = writeln!(
            text,
            "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{}-unicast\"",
            family.word()
        );
        if restart.is_some() {
            text += "[neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true\n";
        }
        if let Some(limit) = neighbor.max_prefix {
            let _ = writeln!(text, "[neighbors.afi-safis.prefix-limit.config]\nmax-prefixes = {limit}");
        }
    }
    text
}

impl Router for GoBgp {
    fn kind(&self) -> Kind {
        Kind::GoBgp
    }

    fn session(&self, neighbor: IpAddr) -> Result<Session> {
        let about = self.ask(&["neighbor", &neighbor.to_string()])?;
        let state = match about["state"]["session_state"].as_u64() {
            Some(1) => State::Idle,
            Some(2) => State::Connect,
            Some(3) => State::Active,
            Some(4) => State::OpenSent,
            Some(5) => State::OpenConfirm,
            Some(6) => State::Established,
            _ => return Err(LabError::answer("gobgp neighbor", about.to_string())),
        };
        let up = state == State::Established;
        let families = about["afi_safis"].as_array().into_iter().flatten();
        Ok(Session {
            state,
            // A value of 0 is left out of its JSON.
            hold_time: up.then(|| number(&about["timers"]["state"]["negotiated_hold_time"]).unwrap_or(0)),
            capabilities: capabilities(&about["state"]["remote_cap"]),
            received: up.then(|| families.filter_map(|f| number::<u32>(&f["state"]["received"])).sum()),
            updates: number(&about["state"]["messages"]["received"]["update"]).unwrap_or_default(),
            last_error: self.process.log().lines().rev().find_map(|line| {
                let event: Value = serde_json::from_str(line).ok()?;
                (event["msg"] == "Peer Down" && event["Key"] == neighbor.to_string().as_str())
                    .then(|| event["Reason"].as_str().map(str::to_owned))?
            }),
        })
    }

    fn paths(&self, prefix: IpNet) -> Result<Vec<Path>> {
        let (family, prefix) = (Family::of(prefix.addr()).word(), prefix.to_string());
        let answer = self.ask(&["global", "rib", "-a", family, &prefix])?;
        Ok(answer[&prefix].as_array().map(|all| all.iter().map(path).collect()).unwrap_or_default())
    }

    fn bfd(&self, _peer: IpAddr) -> Result<Option<BfdSession>> {
        Err(unsupported(Kind::GoBgp, "BFD"))
    }

    fn refresh(&self, _neighbor: IpAddr) -> Result<()> {
        // Its "softresetin" runs the policy over what it has kept, and asks nobody.
        Err(unsupported(Kind::GoBgp, "command that sends ROUTE-REFRESH"))
    }

    fn reset(&self, neighbor: IpAddr) -> Result<()> {
        self.gobgp(&["neighbor", &neighbor.to_string(), "reset"]).map(drop)
    }

    fn processes(&mut self) -> Vec<&mut Process> {
        vec![&mut self.process]
    }

    fn log(&self) -> String {
        self.process.log()
    }
}

/// Path attributes by their type code (RFC 4271 5.1, 1997, 4760, 8092).
fn path(entry: &Value) -> Path {
    let mut path = Path {
        neighbor: entry["neighbor-ip"].as_str().and_then(|text| text.parse().ok()),
        stale: entry["stale"] == true,
        best: entry["best"] == true,
        ..Path::default()
    };
    for attribute in entry["attrs"].as_array().into_iter().flatten() {
        let items = |key: &str| attribute[key].as_array().cloned().unwrap_or_default();
        match attribute["type"].as_u64() {
            Some(2) => {
                let segments = items("as_paths");
                let asns = segments.iter().flat_map(|s| s["asns"].as_array().into_iter().flatten());
                path.as_path = asns.filter_map(number).collect();
            }
            Some(3 | 14) => path.next_hop = attribute["nexthop"].as_str().and_then(|text| text.parse().ok()),
            Some(4) => path.med = number(&attribute["metric"]),
            Some(5) => path.local_pref = number(&attribute["value"]),
            Some(8) => path.communities = items("communities").iter().filter_map(number).map(community_of).collect(),
            Some(32) => {
                let value = |v: &Value, key: &str| number::<u32>(&v[key]);
                let one = |v: &Value| Some((value(v, "ASN")?, value(v, "LocalData1")?, value(v, "LocalData2")?));
                path.large = items("value").iter().filter_map(one).collect();
            }
            _ => {}
        }
    }
    path
}

fn capabilities(list: &Value) -> Capabilities {
    let all: Vec<(&str, Vec<u8>)> = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| {
            let name = one["type_url"].as_str()?.rsplit_once('.')?.1;
            Some((name, base64(one["value"].as_str().unwrap_or_default())?))
        })
        .collect();
    let has = |name: &str| (!all.is_empty()).then(|| all.iter().any(|(found, _)| *found == name));
    let mut families: Vec<Family> = all
        .iter()
        .filter(|(name, _)| *name == "MultiProtocolCapability")
        .filter_map(|(_, value)| family(bytes_of(&fields(value), 1)?))
        .collect();
    families.sort_unstable();
    // The code of a capability it does not know is field 1; that of extended messages is 6 (RFC 8654).
    let extended = all.iter().any(|(name, value)| {
        *name == "UnknownCapability" && fields(value).iter().any(|(key, field)| *key == 1 && field.number() == Some(6))
    });
    Capabilities {
        families,
        four_octet_as: has("FourOctetASNCapability"),
        route_refresh: has("RouteRefreshCapability"),
        enhanced_refresh: has("EnhancedRouteRefreshCapability"),
        extended_message: (!all.is_empty()).then_some(extended),
        graceful_restart: all
            .iter()
            .find(|(name, _)| *name == "GracefulRestartCapability")
            .map(|(_, value)| graceful_restart(&fields(value))),
    }
}

/// `GracefulRestartCapability { flags = 1, time = 2, repeated tuples = 3 { family = 1, flags = 2 } }`.
fn graceful_restart(message: &[(u64, Field<'_>)]) -> GrCapability {
    let number = |fields: &[(u64, Field<'_>)], key: u64| {
        fields.iter().find(|(found, _)| *found == key).and_then(|(_, field)| field.number()).unwrap_or_default()
    };
    let tuples = message.iter().filter(|(key, _)| *key == 3).filter_map(|(_, field)| field.bytes());
    let families = tuples.filter_map(|tuple| {
        let tuple = fields(tuple);
        // Its flags are a boolean "forwarding preserved" as it shows them: bit 0x80 of the octet, or 1.
        Some((family(bytes_of(&tuple, 1)?)?, number(&tuple, 2) != 0))
    });
    GrCapability { restart_time: number(message, 2).try_into().unwrap_or_default(), families: families.collect() }
}

/// `Family { afi = 1, safi = 2 }` of unicast.
fn family(message: &[u8]) -> Option<Family> {
    let fields = fields(message);
    let number = |key: u64| fields.iter().find(|(found, _)| *found == key)?.1.number();
    match (number(1)?, number(2)?) {
        (1, 1) => Some(Family::Ipv4),
        (2, 1) => Some(Family::Ipv6),
        _ => None,
    }
}

/// A field of a protobuf message: the two wire types that occur here.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    fn number(&self) -> Option<u64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    fn bytes(&self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }
}

fn bytes_of<'a>(fields: &[(u64, Field<'a>)], key: u64) -> Option<&'a [u8]> {
    fields.iter().find(|(found, _)| *found == key)?.1.bytes()
}

/// Fields of a protobuf message up to the first that is not understood.
fn fields(mut rest: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut found = Vec::new();
    let varint = |rest: &mut &[u8]| -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, after) = rest.split_first()?;
            *rest = after;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    };
    while let Some(tag) = varint(&mut rest) {
        let field = match tag & 7 {
            0 => varint(&mut rest).map(Field::Number),
            2 => varint(&mut rest).and_then(|length| {
                let (bytes, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                rest = after;
                Some(Field::Bytes(bytes))
            }),
            _ => None,
        };
        let Some(field) = field else { break };
        found.push((tag >> 3, field));
    }
    found
}

/// RFC 4648 4, padding ignored.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for character in text.bytes().filter(|c| *c != b'=') {
        let six = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).expect("masked to eight bits"));
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{Capabilities, Family, GrCapability, base64, capabilities};

    #[test]
    fn capabilities_out_of_protobuf() {
        let list = serde_json::json!([
            {"type_url": "type.googleapis.com/apipb.RouteRefreshCapability"},
            {"type_url": "type.googleapis.com/apipb.FourOctetASNCapability", "value": "COn7Aw=="},
            {"type_url": "type.googleapis.com/apipb.GracefulRestartCapability", "value": "CAwQeBoGCgQIARABGgYKBAgCEAE="},
            {"type_url": "type.googleapis.com/apipb.UnknownCapability", "value": "CAY="},
            {"type_url": "type.googleapis.com/apipb.MultiProtocolCapability", "value": "CgQIAhAB"},
            {"type_url": "type.googleapis.com/apipb.MultiProtocolCapability", "value": "CgQIARAB"},
        ]);
        let families = vec![(Family::Ipv4, false), (Family::Ipv6, false)];
        let expected = Capabilities {
            families: vec![Family::Ipv4, Family::Ipv6],
            four_octet_as: Some(true),
            route_refresh: Some(true),
            enhanced_refresh: Some(false),
            extended_message: Some(true),
            graceful_restart: Some(GrCapability { restart_time: 120, families }),
        };
        assert_eq!(capabilities(&list), expected);
        assert_eq!(capabilities(&serde_json::Value::Null), Capabilities::default());
    }

    #[test]
    fn base64_of_rfc_4648() {
        assert_eq!(base64("Zm9vYmE=").as_deref(), Some(&b"fooba"[..]));
        assert_eq!(base64("Zm9v!"), None);
    }
}
