//! Services and their endpoints, one by one, then what concerns several of them.

mod check;
mod endpoint;
mod passive;
mod rules;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bascule_core::service::{
    Affinity, Delivery, EndpointSpec, Protocol, Return, ServiceSpec, WhenAllFail, WhenUnplaced, number_of,
};
use bascule_core::site::summary::ServiceId;

use super::forwarding::{self, distinct};
use super::read::{At, Errors, Items, Map};
use super::sites::{self, Sites, Spread};
use super::values;
use super::vips::Vips;
use check::Check;

/// Most services: each takes a slot of the data plane's map, and so does each VIP.
const SERVICES_MAX: usize = bascule_ebpf_common::forward::MAX_SERVICES as usize / 4;
/// Most endpoints of a service.
const ENDPOINTS_MAX: usize = 1024;
/// Drain time by default: connections of TCP live longer than flows of UDP.
const DRAIN: Duration = Duration::from_secs(3600);
const DRAIN_UDP: Duration = Duration::from_secs(300);

/// What the data plane is told, and files to be watched.
pub(super) struct Services {
    pub(super) specs: Vec<Arc<ServiceSpec>>,
    pub(super) ca_files: Vec<PathBuf>,
    /// Those of several sites.
    pub(super) spreads: BTreeMap<ServiceId, Spread>,
}

/// What stands around the services.
pub(super) struct Around<'a> {
    pub(super) vips: Option<&'a Vips>,
    pub(super) forwarding: Option<&'a forwarding::Read>,
    /// Sites; `None` when there are none or an error was noted.
    pub(super) sites: Option<&'a Sites>,
    /// No error was noted of `site` and `sites`, and which site this is stands elsewhere.
    pub(super) known_elsewhere: bool,
    pub(super) base_dir: &'a Path,
    pub(super) errors: &'a Errors,
}

/// A service as far as it could be read, with what rules look at.
struct Service {
    path: String,
    name: Option<At<String>>,
    number: Option<At<u16>>,
    vip: Option<At<std::net::IpAddr>>,
    port: Option<At<u16>>,
    protocol: Option<Protocol>,
    delivery: Option<Delivery>,
    sources: Option<Items<ipnet::IpNet>>,
    endpoints: Vec<endpoint::Endpoint>,
    ca_file: Option<PathBuf>,
    spec: Option<ServiceSpec>,
    /// `None` when an error was noted.
    spread: Option<Option<sites::Policy>>,
}

/// Reads the services and applies every rule; `None` when an error was noted.
pub(super) fn read(file: &Map<'_>, around: &Around<'_>, warnings: &mut Vec<String>) -> Option<Services> {
    if !file.has("services") {
        return Some(Services { specs: Vec::new(), ca_files: Vec::new(), spreads: BTreeMap::new() });
    }
    let list = file.sections("services", SERVICES_MAX)?;
    if !list.value.is_empty() && !file.has("forwarding") {
        let right = "add forwarding with its nodes and keyFile";
        around.errors.add(list.at, &list.path, "services are given, but there is no forwarding section", right);
    }
    let of_sites = sites::SpreadAround {
        sites: around.sites,
        given: file.has("site") || file.has("sites"),
        elsewhere: file.has("site") && around.known_elsewhere,
        authority: file.has("etcd"),
        errors: around.errors,
    };
    let services: Vec<Service> = list.value.iter().flatten().map(|m| service(m, around, &of_sites, warnings)).collect();
    rules::across(&services, around.errors);
    passive::across(&services, around);
    let mut ca_files: Vec<PathBuf> = services.iter().filter_map(|s| s.ca_file.clone()).collect();
    ca_files.sort();
    ca_files.dedup();
    let whole = services.len() == list.value.len();
    let mut spreads = BTreeMap::new();
    for service in &services {
        if let (Some(spec), Some(policy)) = (&service.spec, service.spread.clone()?) {
            let _first = spreads.insert(ServiceId(spec.number.into()), Spread::new(spec, policy));
        }
    }
    let specs: Option<Vec<Arc<ServiceSpec>>> = services.into_iter().map(|s| s.spec.map(Arc::new)).collect();
    Some(Services { specs: specs.filter(|_| whole)?, ca_files, spreads })
}

fn service(
    map: &Map<'_>,
    around: &Around<'_>,
    of_sites: &sites::SpreadAround<'_>,
    warnings: &mut Vec<String>,
) -> Service {
    // Everything is read before the first `?`, so that every error of this service is noted.
    let errors = around.errors;
    let protocol = map.word_at("protocol").map(|w| At { value: protocol_of(w.value), at: w.at, path: w.path });
    let delivery = map.word_at("delivery").map(|w| At { value: delivery_of(w.value), at: w.at, path: w.path });
    let returns = map.word_at("return");
    let affinity = map.word("affinity");
    let when_all_fail = map.word("whenAllFail");
    let (quic, draining) = (map.flag("quic"), map.flag("draining"));
    let stateful = map.has("stateful").then(|| map.flag("stateful"));
    let drain = map.has("drainTime").then(|| map.time("drainTime"));
    let mut service = Service {
        path: map.path.clone(),
        name: map.text("name", values::name),
        number: map.whole("number"),
        vip: map.text("vip", values::global),
        port: map.whole("port"),
        protocol: protocol.as_ref().map(|p| p.value),
        delivery: delivery.as_ref().map(|d| d.value),
        sources: map.texts("sources", values::network),
        endpoints: Vec::new(),
        ca_file: None,
        spec: None,
        spread: None,
    };
    service.spread = sites::spread(map, service.vip.as_ref().map(|v| v.value), of_sites);
    if let Some(sources) = &service.sources {
        distinct(sources, "network", errors);
    }
    let port = service.port.as_ref().map(|p| p.value);
    let check = map.has("check").then(|| map.section("check")).flatten();
    let check: Option<Option<Check>> = match check {
        Some(inner) => check::read(&inner, service.protocol, around.base_dir, errors).map(Some),
        None if map.has("check") => None,
        None => Some(None),
    };
    service.endpoints = endpoint::read(map, port, service.delivery, around);
    rules::within(map, &service, (&protocol, &delivery, &returns), around, warnings);
    let spec = (|| {
        let check = check?;
        service.ca_file = check.as_ref().and_then(|c| c.ca_file.clone());
        let (protocol, name) = (service.protocol?, service.name.as_ref()?.value.clone());
        let udp = protocol == Protocol::Udp;
        let quic = quic?;
        let given = |name: &endpoint::Endpoint| name.spec(check.as_ref());
        let endpoints: Vec<EndpointSpec> = service.endpoints.iter().map(given).collect::<Option<_>>()?;
        Some(ServiceSpec {
            number: match (&service.number, map.has("number")) {
                (Some(number), _) => number.value,
                (None, true) => return None,
                (None, false) => number_of(&name),
            },
            name,
            vip: service.vip.as_ref()?.value,
            port: port?,
            protocol,
            delivery: service.delivery?,
            returns: if returns?.value == "viaIngress" { Return::ViaIngress } else { Return::Direct },
            affinity: if affinity? == "clientIp" { Affinity::ClientIp } else { Affinity::None },
            sources: service.sources.as_ref()?.items.iter().map(|s| s.value).collect(),
            drain: match drain {
                Some(drain) => drain?.value,
                None if udp => DRAIN_UDP,
                None => DRAIN,
            },
            ask: udp && !quic && stateful.unwrap_or(Some(true))?,
            quic,
            when_all_fail: if when_all_fail? == "refuse" { WhenAllFail::Refuse } else { WhenAllFail::Keep },
            // Of a service of the file nobody behind us needs to know.
            when_unplaced: WhenUnplaced::Direct,
            draining: draining?,
            elsewhere: map.has("sites"),
            endpoints: Arc::new(endpoints),
        })
    })();
    service.spec = spec;
    service
}

fn protocol_of(word: &str) -> Protocol {
    match word {
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

fn delivery_of(word: &str) -> Delivery {
    match word {
        "delegate" => Delivery::Delegate,
        "none" => Delivery::None,
        _ => Delivery::Direct,
    }
}

#[cfg(test)]
pub(super) mod tests;
