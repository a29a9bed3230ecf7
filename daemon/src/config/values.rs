//! Single values from text. Each function says only what is wrong; what would be right stands in the table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use bascule_core::types::{LinkNameFault, link_name_fault};
use ipnet::IpNet;

use super::error::shown;
use super::schema::time;

/// Longest path of a Unix socket: `sun_path` is 108 bytes with its NUL (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// What is wrong with a value, the value included.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) what: String,
    /// What would be right, where more is known than the table says.
    pub(super) right: Option<String>,
}

impl From<String> for Wrong {
    fn from(what: String) -> Self {
        Self { what, right: None }
    }
}

pub(super) fn wrong<T>(what: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong::from(what.into()))
}

/// A time with its unit, in milliseconds.
pub(super) fn milliseconds(text: &str) -> Result<u64, Wrong> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" if !number.is_empty() => return wrong(format!("{} has no unit", shown(text))),
        _ => return wrong(format!("{} is not a whole number with ms, s, m or h", shown(text))),
    };
    if number.is_empty() {
        return wrong(format!("{} is not a whole number with ms, s, m or h", shown(text)));
    }
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(|| format!("{} is too large", shown(text)).into())
}

/// A time within `min..=max` in steps of `step`, all in milliseconds.
pub(super) fn time_in(text: &str, min: u64, max: u64, step: u64) -> Result<u64, Wrong> {
    let ms = milliseconds(text)?;
    if ms < min {
        return wrong(format!("{} is below {}", shown(text), time(min)));
    }
    if ms > max {
        return wrong(format!("{} is above {}", shown(text), time(max)));
    }
    if ms % step != 0 {
        return wrong(format!("{} is not a multiple of {}", shown(text), time(step)));
    }
    Ok(ms)
}

/// Name of a VIP or a gate.
pub(super) fn name(text: &str) -> Result<String, Wrong> {
    checked_name(text, |c| c.is_ascii_lowercase() || c.is_ascii_digit(), "-")
}

/// Name of a node.
pub(super) fn node_name(text: &str) -> Result<String, Wrong> {
    checked_name(text, |c| c.is_ascii_alphanumeric(), "-._")
}

fn checked_name(text: &str, plain: impl Fn(char) -> bool, inner: &str) -> Result<String, Wrong> {
    if text.is_empty() {
        return wrong("\"\" is empty");
    }
    if text.len() > 63 {
        return wrong(format!("{} is {} bytes long", shown(text), text.len()));
    }
    if let Some(c) = text.chars().find(|c| !plain(*c) && !inner.contains(*c)) {
        return wrong(format!("{} contains {}", shown(text), shown_char(c)));
    }
    if !text.starts_with(&plain) || !text.ends_with(&plain) {
        return wrong(format!("{} starts or ends with a separator", shown(text)));
    }
    Ok(text.to_owned())
}

fn shown_char(c: char) -> String {
    if c == ' ' { "a space".into() } else { shown(&c.to_string()) }
}

/// A `loadBalancerClass`: a label key, which the API wants with a prefix (Service v1 core, `loadBalancerClass`).
pub(super) fn load_balancer_class(text: &str) -> Result<String, Wrong> {
    label_key(text)
}

/// A label with its value, `KEY=VALUE`.
pub(super) fn label(text: &str) -> Result<(String, String), Wrong> {
    let Some((key, value)) = text.split_once('=') else { return wrong(format!("{} has no =", shown(text))) };
    let value =
        if value.is_empty() { String::new() } else { checked_name(value, |c| c.is_ascii_alphanumeric(), "-._")? };
    Ok((label_key(key)?, value))
}

/// `NAME` or `PREFIX/NAME`, both of letters, digits and `-._`.
fn label_key(text: &str) -> Result<String, Wrong> {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    for part in prefix.into_iter().chain([name]) {
        let _whole = checked_name(part, |c| c.is_ascii_alphanumeric(), "-._")?;
    }
    Ok(text.to_owned())
}

/// Name of a link.
pub(super) fn link_name(text: &str) -> Result<String, Wrong> {
    match link_name_fault(text) {
        Some(LinkNameFault::Contains(c)) => wrong(format!("{} contains {}", shown(text), shown_char(c))),
        Some(fault) => wrong(format!("{} {fault}", shown(text))),
        None => Ok(text.to_owned()),
    }
}

/// An address that a node can own or be reached at.
pub(super) fn unicast(text: &str) -> Result<IpAddr, Wrong> {
    let shown = shown(text);
    let address: IpAddr = match text.parse() {
        Ok(address) => address,
        Err(_) => {
            let bare = text.split_once('/').and_then(|(a, _)| a.parse::<IpAddr>().ok());
            return match bare {
                Some(bare) => {
                    Err(Wrong { what: format!("{shown} has a prefix length"), right: Some(format!("use {bare}")) })
                }
                None => wrong(format!("{shown} is not an IP address")),
            };
        }
    };
    let kind = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "the broadcast address",
        IpAddr::V4(a) if a.octets()[0] == 0 => "an address of 0.0.0.0/8",
        IpAddr::V4(a) if a.octets()[0] >= 240 => "a reserved address",
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => "an IPv4 address written as IPv6",
        IpAddr::V4(_) | IpAddr::V6(_) => return Ok(address),
    };
    wrong(format!("{shown} is {kind}"))
}

/// An address of a VIP.
pub(super) fn vip_address(text: &str) -> Result<IpAddr, Wrong> {
    match unicast(text)? {
        IpAddr::V6(a) if a.is_unicast_link_local() => {
            Err(Wrong { what: format!("{} is link-local", shown(text)), right: Some("give it as linkLocal".into()) })
        }
        address => Ok(address),
    }
}

/// A link-local IPv6 address.
pub(super) fn link_local(text: &str) -> Result<Ipv6Addr, Wrong> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(a)) if a.is_unicast_link_local() => Ok(a),
        Ok(_) => wrong(format!("{} is not within fe80::/10", shown(text))),
        Err(_) => wrong(format!("{} is not an IPv6 address", shown(text))),
    }
}

/// An address with a port.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, Wrong> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => wrong(format!("{} has port 0", shown(text))),
        Ok(address) => Ok(address),
        Err(_) if text.parse::<IpAddr>().is_ok() => wrong(format!("{} has no port", shown(text))),
        Err(_) => wrong(format!("{} is not an IP address with a port", shown(text))),
    }
}

/// Path of the admin socket.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, Wrong> {
    if !Path::new(text).is_absolute() {
        return wrong(format!("{} is not absolute", shown(text)));
    }
    if text.len() > SOCKET_PATH_MAX {
        return wrong(format!("{} is {} bytes long", shown(text), text.len()));
    }
    if text.ends_with('/') || text.contains('\0') {
        return wrong(format!("{} names no file", shown(text)));
    }
    Ok(PathBuf::from(text))
}

/// A path.
pub(super) fn path(text: &str) -> Result<PathBuf, Wrong> {
    if text.is_empty() || text.contains('\0') {
        return wrong(format!("{} names no file", shown(text)));
    }
    Ok(PathBuf::from(text))
}

/// The URL of a gate over HTTP.
pub(super) fn http_url(text: &str) -> Result<String, Wrong> {
    url(text, "http")
}

/// The URL of a gate over HTTPS.
pub(super) fn https_url(text: &str) -> Result<String, Wrong> {
    url(text, "https")
}

/// The path of a probe, with a query if it likes.
pub(super) fn url_path(text: &str) -> Result<String, Wrong> {
    if !text.starts_with('/') {
        return wrong(format!("{} does not start with /", shown(text)));
    }
    match text.parse::<hyper::http::uri::PathAndQuery>() {
        Ok(path) if path.as_str() == text => Ok(text.to_owned()),
        Ok(_) | Err(_) => wrong(format!("{} is not the path of a URL", shown(text))),
    }
}

/// A name that a certificate may carry.
pub(super) fn server_name(text: &str) -> Result<String, Wrong> {
    match rustls::pki_types::ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => wrong(format!("{} is neither a DNS name nor an IP address", shown(text))),
    }
}

/// Name of a gRPC service: identifiers joined by dots (protobuf language specification).
pub(super) fn grpc_service(text: &str) -> Result<String, Wrong> {
    let plain = |part: &str| {
        let starts = part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        starts && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if text.len() <= 255 && text.split('.').all(plain) {
        return Ok(text.to_owned());
    }
    wrong(format!("{} is not the name of a gRPC service", shown(text)))
}

/// An address that a packet can be sent to from anywhere.
pub(super) fn global(text: &str) -> Result<IpAddr, Wrong> {
    match unicast(text)? {
        IpAddr::V6(a) if a.is_unicast_link_local() => wrong(format!("{} is link-local", shown(text))),
        address => Ok(address),
    }
}

/// A network.
pub(super) fn network(text: &str) -> Result<IpNet, Wrong> {
    let Ok(net) = text.parse::<IpNet>() else {
        return match text.parse::<IpAddr>() {
            Ok(address) => {
                let right = Some(format!("use {}", IpNet::from(address)));
                Err(Wrong { what: format!("{address} has no prefix length"), right })
            }
            Err(_) => wrong(format!("{} is not a network", shown(text))),
        };
    };
    if net.trunc() != net {
        let right = Some(format!("use {}", net.trunc()));
        return Err(Wrong { what: format!("{net} has bits behind its prefix"), right });
    }
    match net {
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() && v6.prefix_len() >= 96 => {
            wrong(format!("{net} is an IPv4 network written as IPv6"))
        }
        IpNet::V4(_) | IpNet::V6(_) => Ok(net),
    }
}

fn url(text: &str, scheme: &str) -> Result<String, Wrong> {
    if text.contains('@') {
        // It may be a password: it is not repeated.
        return wrong("the URL contains a user name or @");
    }
    let shown = shown(text);
    let Ok(url) = text.parse::<hyper::Uri>() else { return wrong(format!("{shown} is not a URL")) };
    match url.scheme_str() {
        Some(given) if given == scheme => {}
        Some("https") => {
            return Err(Wrong {
                what: format!("{shown} needs TLS"),
                right: Some("use https in the place of http".into()),
            });
        }
        Some(_) | None => return wrong(format!("{shown} does not start with {scheme}://")),
    }
    let Some(authority) = url.authority().filter(|a| !a.host().is_empty()) else {
        return wrong(format!("{shown} has no host"));
    };
    match authority.as_str().strip_prefix(authority.host()).and_then(|rest| rest.strip_prefix(':')) {
        Some(port) if port.parse::<u16>().map_or(true, |p| p == 0) => {
            wrong(format!("the port of {shown} is not 1 to 65535"))
        }
        Some(_) | None => Ok(text.to_owned()),
    }
}

/// A status or a range of them.
pub(super) fn status_range(text: &str) -> Result<(u16, u16), Wrong> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let status = |s: &str| s.parse::<u16>().ok().filter(|n| (100..=599).contains(n));
    match (status(low), status(high)) {
        (Some(low), Some(high)) if low <= high => Ok((low, high)),
        (Some(_), Some(_)) => wrong(format!("{} ends before it starts", shown(text))),
        _ => wrong(format!("{} is not a status or a range of them", shown(text))),
    }
}

/// A log filter.
pub(super) fn log_filter(text: &str) -> Result<String, Wrong> {
    if text.trim().is_empty() {
        return wrong(format!("{} is empty", shown(text)));
    }
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => wrong(format!("{} is not a log filter", shown(text))),
    }
}
