//! The sections `site` and `sites`: which site this is, what the others are, and what this node has to do with them. With a cluster its Sites
//! are added to the second one.

mod cluster;
mod rules;
mod spread;
#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bascule_core::service::NodeSpec;
use bascule_core::site::SiteId;
use bascule_core::site::summary::ServiceId;
use bascule_core::wire::site::PairKeys;
use ipnet::IpNet;

use super::Etcd;
use super::error::shown;
use super::keys;
use super::read::{At, Errors, Map};
use super::values;

pub(super) use cluster::check_words;
pub use cluster::{Joined, SiteFile};
pub use spread::Spread;
pub(super) use spread::{Around as SpreadAround, Policy, read as spread};

/// Most sites: each is connected with each.
const SITES_MAX: usize = 16;
/// Most relays of a site.
const RELAYS_MAX: usize = 8;
/// Most gateways of a site: each probes each of another one over two ports, ten times a second.
const GATEWAYS_MAX: usize = 8;

/// This site among others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sites {
    /// This one.
    pub here: SiteId,
    /// Domain of the certificates.
    pub domain: String,
    /// Directory of this node's certificate.
    pub certificates: PathBuf,
    /// This node's relay, if it is one.
    pub relay: Option<Relay>,
    /// TCP port on which relays tell the nodes of their site, host byte order.
    pub nodes_port: u16,
    /// First of two UDP ports of probes, host byte order.
    pub path_port: u16,
    /// Probes of paths may rest while handshakes speak for them.
    pub quiet_probes: bool,
    /// Place of this node among the gateways of its site, from 0.
    pub rank: u8,
    /// Directory of the files that say by which term this site has a service.
    pub terms: PathBuf,
    /// File of the last time at which a certificate was believed.
    pub clock: PathBuf,
    /// Who decides which site has an activePassive service.
    pub authority: Option<Etcd>,
    /// All sites, this one among them.
    pub all: BTreeMap<SiteId, Site>,
    /// Services of several sites.
    pub services: BTreeMap<ServiceId, Spread>,
}

/// A relay that runs here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relay {
    /// Its name.
    pub name: String,
    /// Where it takes calls.
    pub listen: SocketAddr,
    /// File that counts its starts.
    pub incarnation: PathBuf,
}

/// A site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Names and addresses of its relays.
    pub relays: Vec<(String, SocketAddr)>,
    /// Nodes that send to other sites and are sent to; each has one address.
    pub gateways: Vec<NodeSpec>,
    /// VIPs that it may announce lie in these.
    pub prefixes: Vec<IpNet>,
    /// Keys of probes; `None` of this site.
    pub keys: Option<PairKeys>,
    /// Where they stand, to be watched.
    pub secret_file: Option<PathBuf>,
}

impl Sites {
    /// Name of a site, for people.
    pub fn name_of(&self, site: SiteId) -> String {
        self.all.get(&site).map_or_else(|| site.to_string(), |found| found.name.clone())
    }

    /// Name of a gateway, for people.
    pub fn gateway_name(&self, site: SiteId, id: u16) -> String {
        let found = self.all.get(&site).and_then(|site| site.gateways.iter().find(|node| node.id == id));
        found.map_or_else(|| format!("node {id}"), |node| node.name.clone())
    }

    /// Number of a site by its name.
    pub fn numbered(&self, name: &str) -> Option<SiteId> {
        self.all.iter().find(|(_, site)| site.name == name).map(|(id, _)| *id)
    }

    /// This site's own entry.
    pub fn own(&self) -> &Site {
        self.all.get(&self.here).expect("the reader refuses a `site.name` that is none of `sites`")
    }
}

/// What stands around the sections.
pub(super) struct Around<'a> {
    /// This node's name.
    pub(super) this: Option<&'a At<String>>,
    pub(super) base_dir: &'a Path,
    pub(super) errors: &'a Errors,
    /// Nodes of `forwarding.nodes`: names and ids.
    pub(super) nodes: Vec<(&'a str, u16)>,
    /// UDP ports that are taken, and by what.
    pub(super) taken: Vec<(u16, &'static str)>,
    /// Nodes and sites come from a cluster, too.
    pub(super) cluster: bool,
}

/// A site as far as it could be read, with what rules look at.
pub(super) struct Read {
    name: At<String>,
    id: Option<At<u8>>,
    region: Option<At<String>>,
    relays: Option<Vec<(At<String>, At<SocketAddr>)>>,
    gateways: Option<Vec<Gateway>>,
    prefixes: Option<Vec<IpNet>>,
    /// Secrets, where the file has any.
    secret: Option<Option<(Vec<Vec<u8>>, PathBuf)>>,
}

struct Gateway {
    name: At<String>,
    id: At<u16>,
    address: At<std::net::IpAddr>,
}

/// Reads both sections: `Some(None)` without them, or where it is for Sites of the cluster to say what this one is; `None` when an error was noted.
#[expect(clippy::option_option, reason = "absent, wrong and given are three things")]
pub(super) fn read(file: &Map<'_>, around: &Around<'_>) -> Option<Option<Sites>> {
    if !file.has("site") && !file.has("sites") {
        return Some(None);
    }
    for (has, lacks, right) in [
        ("sites", "site", "add site with the name of this one"),
        ("site", "sites", "add sites with every site, this one among them"),
        ("site", "forwarding", "add forwarding with its nodes and keyFile"),
    ] {
        if file.has(has) && !file.has(lacks) && !(around.cluster && lacks == "sites") {
            file.wrong(lacks, format!("missing, and there is a {has} section"), right);
        }
    }
    let site = file.has("site").then(|| file.section("site")).flatten();
    let nowhere = || At { value: Vec::new(), at: file.at, path: "sites".to_owned() };
    let all = if file.has("sites") { file.named("sites", SITES_MAX) } else { around.cluster.then(nowhere) };
    let (site, all) = (site?, all?);
    let own = site.text("name", values::name);
    let domain = site.text("domain", values::server_name);
    let certificates = site.text("certificates", values::path);
    let relay = site.has("relay").then(|| site.text("relay", values::node_name));
    let listen = site.has("listen").then(|| site.text("listen", values::socket_address));
    let incarnation = site.text("incarnation", values::path);
    let (terms, clock) = (site.text("terms", values::path), site.text("clock", values::path));
    let (nodes_port, path_port) = (site.whole::<u16>("nodesPort"), site.whole::<u16>("pathPort"));
    let quiet_probes = site.flag("quietProbes");
    // Without it, nothing can be said of secrets: one is this site, and none is known to be it.
    let listed = |own: &&At<String>| around.cluster || all.value.iter().any(|(name, _)| name.value == own.value);
    let own_name = own.as_ref().filter(listed);
    let own_name = own_name.map(|own| own.value.as_str());
    let sites: Vec<Read> = all.value.iter().map(|(name, map)| one(name, map, own_name, around)).collect();
    let whole = rules::across(&sites, around.errors);
    let own = own?;
    let Some(here) = sites.iter().find(|site| site.name.value == own.value) else {
        if around.cluster {
            // What is wrong with the others is noted; the rest waits for a Site of the name.
            let good = whole && sites.iter().all(|other| other.made(SiteId(0)).is_some());
            let read = relay.is_none_or(|relay| relay.is_some()) && listen.is_none_or(|listen| listen.is_some());
            let whole = domain.is_some() && certificates.is_some() && incarnation.is_some() && terms.is_some();
            let whole = whole && nodes_port.is_some() && path_port.is_some() && quiet_probes.is_some();
            return (good && read && whole).then_some(None);
        }
        site.refuse(&own, format!("{} is none of sites", own.value), "use a name of sites, or add it there");
        return None;
    };
    let relay = rules::relay(&site, relay, listen, here);
    let rank = rules::rank(here, around);
    let whole = rules::nodes(&sites, here, around) && whole;
    rules::ports(&site, path_port.as_ref(), nodes_port.as_ref(), here, around);
    let (relay, incarnation) = (relay?, incarnation?);
    let id = SiteId(here.id.as_ref()?.value);
    let named = sites.iter().map(|site| site.made(id)).collect::<Option<BTreeMap<SiteId, Site>>>();
    if !whole || all.value.is_empty() {
        return None;
    }
    let path = |path: At<PathBuf>| around.base_dir.join(path.value);
    let relay =
        relay.map(|(name, listen)| Relay { name, listen, incarnation: around.base_dir.join(&incarnation.value) });
    Some(Some(Sites {
        here: id,
        domain: domain?.value,
        certificates: path(certificates?),
        relay,
        nodes_port: nodes_port?.value,
        path_port: path_port?.value,
        quiet_probes: quiet_probes?,
        rank: rank?,
        terms: path(terms?),
        clock: path(clock?),
        authority: None,
        all: named?,
        services: BTreeMap::new(),
    }))
}

/// One of `sites`; the name of this one decides whether it needs a secret.
fn one(name: &At<String>, map: &Map<'_>, own: Option<&str>, around: &Around<'_>) -> Read {
    let id = map.whole("id");
    let region = if map.has("region") { map.text("region", values::name) } else { Some(name.clone()) };
    let relays = map.sections("relays", RELAYS_MAX).and_then(|list| {
        rules::some(&list, "give 1 to 8 relays", around.errors)?;
        let read = |map: &Option<Map<'_>>| {
            let map = map.as_ref()?;
            let (name, address) = (map.text("name", values::node_name), map.text("address", values::socket_address));
            Some((name?, address?))
        };
        let read: Vec<_> = list.value.iter().map(read).collect();
        read.into_iter().collect()
    });
    let gateways = map.sections("gateways", GATEWAYS_MAX).and_then(|list| {
        rules::some(&list, "give 1 to 8 gateways", around.errors)?;
        let read = |map: &Option<Map<'_>>| {
            let map = map.as_ref()?;
            let (name, id) = (map.text("name", values::node_name), map.whole("id"));
            let address = map.text("address", values::global);
            Some(Gateway { name: name?, id: id?, address: address? })
        };
        let read: Vec<_> = list.value.iter().map(read).collect();
        read.into_iter().collect()
    });
    let prefixes = map.texts("prefixes", values::network);
    let prefixes = prefixes.filter(|p| p.complete).map(|p| p.items.into_iter().map(|net| net.value).collect());
    let secret = secret(name, map, own, around);
    Read { name: name.clone(), id, region, relays, gateways, prefixes, secret }
}

/// The secret of a pair: of every site but this one.
#[expect(clippy::option_option, reason = "absent, wrong and given are three things")]
fn secret(
    name: &At<String>,
    map: &Map<'_>,
    own: Option<&str>,
    around: &Around<'_>,
) -> Option<Option<(Vec<Vec<u8>>, PathBuf)>> {
    let here = own == Some(name.value.as_str());
    if !map.has("secretFile") {
        if !here && own.is_some() {
            map.wrong("secretFile", "missing", "name a file with 1 or 2 lines of 32 to 128 hex digits");
            return None;
        }
        return Some(None);
    }
    let file = map.text("secretFile", values::path)?;
    if here {
        map.refuse(&file, "this site has no secret with itself", "remove it");
        return None;
    }
    let path = around.base_dir.join(&file.value);
    match keys::secrets(&path) {
        Ok(secrets) => Some(Some((secrets, path))),
        Err(bad) => {
            let shown = shown(&file.value.display().to_string());
            map.refuse(&file, format!("{shown} {}", bad.wrong), bad.right);
            None
        }
    }
}

impl Read {
    fn made(&self, here: SiteId) -> Option<(SiteId, Site)> {
        let id = self.id.as_ref()?.value;
        let node = |gateway: &Gateway| NodeSpec {
            name: gateway.name.value.clone(),
            id: gateway.id.value,
            addresses: vec![gateway.address.value],
            site: id,
            draining: false,
        };
        let (secrets, secret_file) = self.secret.clone()?.unzip();
        let site = Site {
            name: self.name.value.clone(),
            region: self.region.as_ref()?.value.clone(),
            relays: self.relays.as_ref()?.iter().map(|(name, at)| (name.value.clone(), at.value)).collect(),
            gateways: self.gateways.as_ref()?.iter().map(node).collect(),
            prefixes: self.prefixes.clone()?,
            keys: secrets.map(|secrets| PairKeys::new(here.0, id, secrets)),
            secret_file,
        };
        Some((SiteId(id), site))
    }
}
