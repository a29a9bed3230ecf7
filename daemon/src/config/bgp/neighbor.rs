//! One neighbor.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bascule_bgp::config::{MaxPrefixAction, Mode, NeighborConfig, NextHopMode, RemoteAs, Secret, Transport, Ttl};
use bascule_bgp::wire::{Family, FamilySet};
use bascule_core::bfd::config::PeerConfig;
use bascule_core::types::Family as AddressFamily;

use super::super::bfd::{least_ttl, minimum_ttl};
use super::super::error::shown;
use super::super::read::{At, Errors, Map};
use super::super::rules::family_name;
use super::super::values::{Wrong, wrong};
use super::super::vips::Vips;
use super::super::{keys, values};
use super::{AS_TRANS, export, real_as};

/// A neighbor as far as it could be read.
pub(super) struct Neighbor {
    pub(super) name: Option<At<String>>,
    pub(super) address: Option<At<IpAddr>>,
    pub(super) interface: Option<At<String>>,
    pub(super) source: Option<At<IpAddr>>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) bfd: Option<PeerConfig>,
    /// The finished neighbor; `None` when an error was noted.
    pub(super) config: Option<NeighborConfig>,
}

pub(super) fn read(
    map: &Map<'_>,
    own_as: Option<u32>,
    vips: Option<&Vips>,
    base_dir: &Path,
    errors: &Errors,
    warnings: &mut Vec<String>,
) -> Neighbor {
    let mut neighbor = Neighbor {
        name: map.text("name", values::name),
        address: map.text("address", values::unicast),
        interface: map.text("interface", values::link_name),
        source: map.text("source", values::unicast),
        password_file: None,
        bfd: None,
        config: None,
    };
    // Everything is read before the first `?`, so that every error of this neighbor is noted.
    let family = neighbor.address.as_ref().map(|a| AddressFamily::of(&a.value));
    scoped(&neighbor, errors);
    same_family(&neighbor, errors);
    let (remote_as, local_as) = as_numbers(map, own_as, errors);
    let internal = remote_as.zip(own_as).map(|(remote, own)| is_internal(remote, local_as.flatten().unwrap_or(own)));
    let password = password(map, base_dir, &mut neighbor, errors);
    let ttl = ttl(map, errors);
    let bfd = bfd(map, &neighbor, ttl);
    let hold = hold_time(map, errors);
    let families = families(map, family, errors);
    let next_hop = next_hop(map, errors);
    let export = next_hop.and_then(|hop| export::read(map, hop, internal, vips, errors, warnings));
    if let (Some(families), Some(hop), Some(family), Some(vips)) = (families, next_hop, family, vips) {
        unreachable_family(map, families, hop, family, vips, warnings);
    }
    let (mode, port, retry) = (map.word("mode"), map.whole("port"), map.time("connectRetry"));
    let restart = optional(map, "gracefulRestart", |k| map.time(k).and_then(|t| seconds(t.value)));
    let limit = optional(map, "maxPrefix", |k| map.whole(k).map(|n| n.value));
    let action = map.word("maxPrefixAction");
    if map.has("maxPrefixAction") && !map.has("maxPrefix") {
        warnings.push(format!("{}: has no effect without maxPrefix", map.path_of("maxPrefixAction")));
    }
    let config = neighbor.name.as_ref().and_then(|name| {
        Some(NeighborConfig {
            name: name.value.clone(),
            address: neighbor.address.as_ref()?.value,
            port: port?.value,
            remote_as: remote_as?,
            local_as: local_as?,
            mode: match mode? {
                "passive" => Mode::Passive,
                "both" => Mode::Both,
                _ => Mode::Active,
            },
            families: families?,
            hold_time: hold?,
            connect_retry: retry?.value,
            send_hold: None,
            graceful_restart: restart?,
            max_prefix: limit?,
            max_prefix_action: if action? == "reset" { MaxPrefixAction::Reset } else { MaxPrefixAction::Warn },
            bfd: bfd.as_ref()?.is_some(),
            export: export?,
            transport: Transport {
                source: neighbor.source.as_ref().map(|s| s.value),
                interface: neighbor.interface.as_ref().map(|i| i.value.clone()),
                ttl: ttl?,
                password: password?,
            },
        })
    });
    neighbor.config = config;
    neighbor.bfd = bfd.flatten();
    neighbor
}

/// A field without a default: `Some(None)` when it is not given, `None` when an error was noted.
fn optional<T>(map: &Map<'_>, key: &'static str, read: impl FnOnce(&'static str) -> Option<T>) -> Option<Option<T>> {
    if map.has(key) { read(key).map(Some) } else { Some(None) }
}

fn seconds(time: Duration) -> Option<u16> {
    u16::try_from(time.as_secs()).ok()
}

fn is_internal(remote: RemoteAs, local: u32) -> bool {
    match remote {
        RemoteAs::Internal => true,
        RemoteAs::External => false,
        RemoteAs::Is(number) => number == local,
    }
}

/// The neighbor's AS and, where it differs, our own towards it.
fn as_numbers(map: &Map<'_>, own_as: Option<u32>, errors: &Errors) -> (Option<RemoteAs>, Option<Option<u32>>) {
    let remote = map.text_or_number("remoteAs", remote_as).map(|r| r.value);
    if !map.has("localAs") {
        return (remote, Some(None));
    }
    let Some(local) = map.whole::<u32>("localAs").filter(|l| real_as(l, errors)) else { return (remote, None) };
    if own_as == Some(local.value) {
        errors.add(local.at, &local.path, format!("{} is bgp.asn already", local.value), "remove it");
    }
    if remote == Some(RemoteAs::Internal) {
        // Whose AS would be the inner one is anybody's guess, and routers differ.
        errors.add(local.at, &local.path, format!("{} with remoteAs: internal", local.value), "remove one of them");
    }
    (remote, Some(Some(local.value)))
}

fn remote_as(text: &str) -> Result<RemoteAs, Wrong> {
    match text {
        "external" => return Ok(RemoteAs::External),
        "internal" => return Ok(RemoteAs::Internal),
        _ => {}
    }
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u32>() {
        Ok(AS_TRANS) => Err(Wrong {
            what: "23456 is AS_TRANS, which nobody has".into(),
            right: Some("use its own AS number".into()),
        }),
        Ok(number) if digits && number > 0 => Ok(RemoteAs::Is(number)),
        _ => wrong(format!("{} is no AS", shown(text))),
    }
}

/// A link-local address says nothing without its link.
fn scoped(neighbor: &Neighbor, errors: &Errors) {
    let Some(address) = &neighbor.address else { return };
    let link_local = matches!(address.value, IpAddr::V6(a) if a.is_unicast_link_local());
    if link_local && neighbor.interface.is_none() {
        let wrong = format!("{} is link-local, and no interface is given", address.value);
        errors.add(address.at, &address.path, wrong, "add interface");
    }
}

fn same_family(neighbor: &Neighbor, errors: &Errors) {
    let (Some(address), Some(source)) = (&neighbor.address, &neighbor.source) else { return };
    let (theirs, ours) = (AddressFamily::of(&address.value), AddressFamily::of(&source.value));
    if theirs != ours {
        let wrong = format!("{} is {}, but the address is {}", source.value, family_name(ours), family_name(theirs));
        errors.add(source.at, &source.path, wrong, format!("use an own {} address", family_name(theirs)));
    }
}

/// `Some(None)`: no password.
fn password(map: &Map<'_>, base_dir: &Path, neighbor: &mut Neighbor, errors: &Errors) -> Option<Option<Secret>> {
    if !map.has("passwordFile") {
        return Some(None);
    }
    let file = map.text("passwordFile", values::path)?;
    let path = base_dir.join(&file.value);
    match keys::password(&path) {
        Ok(bytes) => {
            neighbor.password_file = Some(path);
            Some(Some(Secret(bytes)))
        }
        Err(bad) => {
            let shown = shown(&file.value.display().to_string());
            errors.add(file.at, &file.path, format!("{shown} {}", bad.wrong), bad.right);
            None
        }
    }
}

fn ttl(map: &Map<'_>, errors: &Errors) -> Option<Ttl> {
    match (map.has("multihop"), map.has("ttlSecurity")) {
        (false, false) => Some(Ttl::Default),
        (true, false) => map.whole("multihop").map(|n| Ttl::Multihop(n.value)),
        (false, true) => map.whole("ttlSecurity").map(|n| Ttl::Security(n.value)),
        (true, true) => {
            let (_, security) = (map.whole::<u8>("multihop"), map.whole::<u8>("ttlSecurity")?);
            errors.add(security.at, &security.path, "multihop is given, too", "use one of them");
            None
        }
    }
}

/// `Some(None)`: no BFD.
fn bfd(map: &Map<'_>, neighbor: &Neighbor, ttl: Option<Ttl>) -> Option<Option<PeerConfig>> {
    if !map.has("bfd") {
        return Some(None);
    }
    let bfd = map.section("bfd")?;
    let (tx, rx) = (bfd.time("transmitInterval"), bfd.time("receiveInterval"));
    let multiplier = bfd.whole("multiplier");
    let minimum = minimum_ttl(&bfd, map.has("multihop"));
    let hops = match ttl? {
        Ttl::Multihop(hops) => Some(hops),
        Ttl::Default | Ttl::Security(_) => None,
    };
    Some(Some(PeerConfig {
        local: neighbor.source.as_ref().map(|s| s.value),
        interface: neighbor.interface.as_ref().map(|i| i.value.clone()),
        multihop: least_ttl(hops, minimum?),
        desired_min_tx: tx?.value,
        required_min_rx: rx?.value,
        multiplier: multiplier?.value,
        ..PeerConfig::new(&neighbor.name.as_ref()?.value, neighbor.address.as_ref()?.value)
    }))
}

/// Seconds; 1 and 2 do not exist (RFC 4271 section 4.2).
fn hold_time(map: &Map<'_>, errors: &Errors) -> Option<u16> {
    let hold = map.time("holdTime")?;
    let seconds = seconds(hold.value)?;
    if matches!(seconds, 1 | 2) {
        errors.add(hold.at, &hold.path, format!("{seconds}s is no hold time"), "use 0s, or 3s to 65535s");
        return None;
    }
    Some(seconds)
}

fn families(map: &Map<'_>, own: Option<AddressFamily>, errors: &Errors) -> Option<FamilySet> {
    if !map.has("families") {
        return own.map(|f| FamilySet::EMPTY.with(bgp_family(f)));
    }
    let families = map.texts("families", |text| match text {
        "ipv4" => Ok(Family::Ipv4),
        "ipv6" => Ok(Family::Ipv6),
        _ => wrong(format!("{} is no family", shown(text))),
    })?;
    for (i, family) in families.items.iter().enumerate() {
        if families.items[..i].iter().any(|f| f.value == family.value) {
            errors.add(family.at, &family.path, format!("{} is listed twice", family.value.as_str()), "list it once");
        }
    }
    if families.items.is_empty() && families.complete {
        errors.add(families.at, &families.path, "the list is empty", "use [ipv4], [ipv6] or both");
    }
    families.complete.then(|| families.items.iter().map(|f| f.value).collect())
}

fn bgp_family(family: AddressFamily) -> Family {
    match family {
        AddressFamily::V4 => Family::Ipv4,
        AddressFamily::V6 => Family::Ipv6,
    }
}

fn next_hop(map: &Map<'_>, errors: &Errors) -> Option<NextHopMode> {
    let v4 = optional(map, "nextHop", |k| map.text(k, values::unicast).and_then(|a| next_hop_v4(&a, errors)));
    let v6 = optional(map, "nextHop6", |k| map.text(k, values::unicast).and_then(|a| next_hop_v6(&a, errors)));
    match (v4?, v6?) {
        (None, None) => Some(NextHopMode::Own),
        (v4, v6) => Some(NextHopMode::Address { v4, v6 }),
    }
}

fn next_hop_v4(address: &At<IpAddr>, errors: &Errors) -> Option<Ipv4Addr> {
    match address.value {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(v6) => {
            errors.add(address.at, &address.path, format!("{v6} is IPv6"), "use an IPv4 address, or nextHop6");
            None
        }
    }
}

fn next_hop_v6(address: &At<IpAddr>, errors: &Errors) -> Option<Ipv6Addr> {
    match address.value {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            errors.add(address.at, &address.path, format!("{v6} is link-local"), "use a global address");
            None
        }
        IpAddr::V6(v6) => Some(v6),
        IpAddr::V4(v4) => {
            errors.add(address.at, &address.path, format!("{v4} is IPv4"), "use an IPv6 address, or nextHop");
            None
        }
    }
}

/// A family whose next hop the session cannot give is offered and stays empty.
fn unreachable_family(
    map: &Map<'_>,
    families: FamilySet,
    hop: NextHopMode,
    session: AddressFamily,
    vips: &Vips,
    warnings: &mut Vec<String>,
) {
    let (other, key) = match session {
        AddressFamily::V4 => (AddressFamily::V6, "nextHop6"),
        AddressFamily::V6 => (AddressFamily::V4, "nextHop"),
    };
    let given = match (hop, other) {
        (NextHopMode::Own, _) => false,
        (NextHopMode::Address { v4, .. }, AddressFamily::V4) => v4.is_some(),
        (NextHopMode::Address { v6, .. }, AddressFamily::V6) => v6.is_some(),
    };
    if families.contains(bgp_family(other)) && !given && vips.routed(other) {
        let (name, session) = (family_name(other), family_name(session));
        warnings.push(format!(
            "{}: {name} routes are not announced over an {session} session without it",
            map.path_of(key)
        ));
    }
}
