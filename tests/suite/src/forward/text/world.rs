//! The maps of a node as lines of text.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    CONFIG_HOLDS, CONFIG_OWN_MACS, CONFIG_SITES, DEFAULT_TUNNEL_PORT, DELIVER_DELEGATE, DELIVER_NONE,
    ENDPOINT_DRAINING, ENDPOINT_HOST, ENDPOINT_READY, Endpoint, FlowKey, Key, MAX_KEYS, NODE_DEAD, NODE_RESOLVED,
    NODE_SELF, Node, RETURN_VIA_INGRESS, ReverseEntry, ReverseKey, Row, SERVICE_ADDRESS, SERVICE_AFFINITY, SERVICE_ASK,
    SERVICE_EXCEPTIONS, SERVICE_QUIC, SERVICE_SOURCES, SITE_REACHABLE, SITE_VIA_INGRESS, Service, ServiceKey, Site,
    SourceKey, Table,
};

use super::packet::Keys;
use super::place::{flow, flow_key, half, namespace, place};
use super::words::{Words, address, hex, mac, number, socket, socket_protocol};
use crate::forward::bytes::is_v4;
use crate::forward::model::{Clock, State};

/// A node's state and the names its text uses.
#[derive(Clone, Debug)]
pub struct World {
    /// The maps.
    pub state: State,
    /// The time all ages count from.
    pub now: Clock,
    /// Device by name.
    pub devices: Vec<(String, u32)>,
    /// Namespace id that `ns a` stands for.
    pub netns: i32,
    /// Translated tuple and sequence number that a SYN cookie is asked for.
    pub cookie_for: Option<(FlowKey, u32)>,
    /// That cookie, as an acknowledgement number: what `ack cookie` stands for.
    pub cookie: u32,
}

impl World {
    /// An empty world.
    #[must_use]
    pub fn new(now: Clock, devices: Vec<(String, u32)>, netns: i32) -> Self {
        Self { state: State::default(), now, devices, netns, cookie_for: None, cookie: 0 }
    }

    /// Adds every line of a file.
    ///
    /// # Errors
    /// What cannot be read or understood.
    pub fn read(&mut self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split(" #").next().unwrap_or("").trim();
            if !line.is_empty() && !line.starts_with('#') {
                self.line(line).with_context(|| format!("{}:{number}: {line}", path.display()))?;
            }
        }
        Ok(())
    }

    /// What tags are made with here.
    #[must_use]
    pub fn keys(&self) -> Keys {
        Keys {
            flow: self.state.config.flow_key,
            tag: self.state.keys.iter().map(|(slot, key)| (*slot, key.key)).collect(),
        }
    }

    /// A device's index.
    ///
    /// # Errors
    /// When the name is unknown.
    pub fn device(&self, name: &str) -> Result<u32> {
        let found = self.devices.iter().find(|(n, _)| n == name);
        Ok(found.with_context(|| format!("no device is called {name}"))?.1)
    }

    /// Adds or replaces what one line says.
    ///
    /// # Errors
    /// What is not understood.
    pub fn line(&mut self, line: &str) -> Result<()> {
        let mut w = Words::of(line);
        match w.next()? {
            "config" => self.config(&mut w)?,
            "key" => {
                let slot: u32 = w.number()?;
                let bytes = hex(w.next()?)?;
                ensure!(bytes.len() == 16 && slot < MAX_KEYS, "slots of sixteen bytes");
                let key = Key { key: halves(&bytes), valid: u64::from(!w.flag("invalid")) };
                self.state.keys.insert(slot, key);
            }
            "own-mac" => {
                self.state.config.flags |= CONFIG_OWN_MACS;
                self.state.macs.insert(mac(w.next()?)?);
            }
            "peer" => {
                let from = address(w.next()?)?;
                if w.flag("removed") {
                    self.state.peers.remove(&from);
                } else {
                    self.state.peers.insert(from, w.number()?);
                }
            }
            "node" => self.node(&mut w)?,
            "site" => {
                let id: u8 = w.number()?;
                let flags =
                    (u16::from(!w.flag("cut")) * SITE_REACHABLE) | (u16::from(w.flag("via")) * SITE_VIA_INGRESS);
                let list = w.value("gateways").unwrap_or_default();
                let ids = list
                    .split(',')
                    .filter(|id| !matches!(*id, "" | "none"))
                    .map(number)
                    .collect::<Result<Vec<u16>>>()?;
                let mut site = Site { count: u16::try_from(ids.len())?, flags, ..Site::default() };
                site.gateways.get_mut(..ids.len()).context("at most 14")?.copy_from_slice(&ids);
                self.state.sites.insert(id, site);
            }
            "service" => self.service(&mut w)?,
            "address" => self.address(&mut w)?,
            "unmap" => {
                let (vip, port, protocol) = socket_protocol(w.next()?)?;
                self.state.service_keys.remove(&ServiceKey::new(vip, port, protocol));
            }
            "row" => {
                let index = w.number()?;
                let mut ids = [0u16; 3];
                for id in &mut ids {
                    let word = w.next()?;
                    *id = match word.strip_prefix("site:") {
                        Some(site) => bascule_ebpf_common::forward::SITE_BASE | number::<u16>(site)?,
                        None => number(word)?,
                    };
                }
                let age: u16 = w.value_number("age")?.unwrap_or(0);
                let stamp = self.now.minutes().wrapping_sub(age);
                self.state.rows.insert(index, Row { home: ids[0], previous: ids[1], older: ids[2], stamp });
            }
            "endpoint" => self.endpoint(&mut w)?,
            "flow" => {
                let (key, value) = flow(&mut w, self.now)?;
                self.state.flows.insert(key, value);
            }
            "half" => {
                let (key, value) = half(&mut w)?;
                self.state.half.insert(key, value);
            }
            "reverse" => {
                let (at, port, protocol) = socket_protocol(w.next()?)?;
                let (vip, vip_port) = socket(w.next()?)?;
                let key = ReverseKey { address: at, port, protocol, pad: [0; 5] };
                let service = w.value_number("service")?.unwrap_or(1);
                self.state.reverse.insert(key, ReverseEntry { vip, port: vip_port, service, pad: 0 });
            }
            "exception" => {
                let key = flow_key(&mut w)?;
                let word = w.next()?;
                let id = match word.strip_prefix("site:") {
                    Some(site) => bascule_ebpf_common::forward::SITE_BASE | number::<u16>(site)?,
                    None => number(word)?,
                };
                self.state.exceptions.insert(key, id);
            }
            "source" => {
                let slot: u32 = w.number()?;
                let (base, length) = w.next()?.split_once('/').context("`source SLOT NET/LENGTH`")?;
                let base = address(base)?;
                let prefix = 32 + number::<u32>(length)? + if is_v4(&base) { 96 } else { 0 };
                self.state.sources.insert(SourceKey { prefix, slot: slot.to_be_bytes(), address: base.addr });
            }
            "socket" => {
                let ns = namespace(w.next()?, self.netns)?;
                self.state.sockets.connected.insert((ns, flow_key(&mut w)?));
            }
            "waiting" => {
                let ns = namespace(w.next()?, self.netns)?;
                self.state.sockets.waiting.insert((ns, flow_key(&mut w)?));
            }
            "cookie" => {
                let key = flow_key(&mut w)?;
                self.cookie_for = Some((key, w.value_number("seq")?.unwrap_or(1)));
            }
            "listen" => {
                let ns = namespace(w.next()?, self.netns)?;
                let (at, port) = place(w.next()?)?;
                self.state.sockets.listening.insert((ns, at, port));
            }
            other => bail!("no line starts with {other}"),
        }
        w.done()
    }

    fn config(&mut self, w: &mut Words<'_>) -> Result<()> {
        let c = &mut self.state.config;
        c.node = w.value_number("node")?.unwrap_or(c.node);
        c.site = w.value_number("site")?.unwrap_or(c.site);
        c.key_slot = w.value_number("key")?.unwrap_or(c.key_slot);
        c.orphan_rate = w.value_number("orphans")?.unwrap_or(c.orphan_rate);
        c.icmp_rate = w.value_number("icmp")?.unwrap_or(c.icmp_rate);
        c.remote_rate = w.value_number("remote")?.unwrap_or(c.remote_rate);
        if w.flag("sites") {
            c.flags |= CONFIG_SITES;
        }
        if w.flag("holds") {
            c.flags |= CONFIG_HOLDS;
        }
        c.udp_idle_s = w.value_number("idle")?.unwrap_or(c.udp_idle_s);
        if let Some(word) = w.value("flow-key") {
            c.flow_key = halves(&hex(word)?);
        }
        for (name, slot) in [("address4", &mut c.address4), ("address6", &mut c.address6)] {
            match w.value(name) {
                Some("unset") => *slot = VipKey::default(),
                Some(word) => *slot = address(word)?,
                None => {}
            }
        }
        let port: Option<u16> = w.value_number("port")?;
        if let Some(port) = port.or((c.tunnel_port == 0).then_some(DEFAULT_TUNNEL_PORT)) {
            c.tunnel_port = port.to_be();
        }
        Ok(())
    }

    fn node(&mut self, w: &mut Words<'_>) -> Result<()> {
        let id: u16 = w.number()?;
        let mut flags = if w.flag("unresolved") { 0 } else { NODE_RESOLVED };
        flags |= if w.flag("dead") { NODE_DEAD } else { 0 };
        flags |= if id == self.state.config.node { NODE_SELF } else { 0 };
        let old = self.state.nodes.get(&id).copied().unwrap_or_default();
        let known = old != Node::default();
        let node = Node {
            address: w.value("at").map(address).transpose()?.unwrap_or(old.address),
            flags,
            ifindex: match w.value("dev") {
                Some(name) => self.device(name)?,
                None => old.ifindex,
            },
            source_mac: w.value("mac").map(mac).transpose()?.unwrap_or(old.source_mac),
            next_mac: w.value("next").map(mac).transpose()?.unwrap_or(old.next_mac),
            mtu: w.value_number("mtu")?.unwrap_or(if known { old.mtu } else { 1500 }),
            site: w.value_number("site")?.unwrap_or(if known { old.site } else { self.state.config.site }),
            ..old
        };
        self.state.nodes.insert(id, node);
        Ok(())
    }

    fn service(&mut self, w: &mut Words<'_>) -> Result<()> {
        let slot: u16 = w.number()?;
        let old = self.state.services.get(&slot).copied();
        let mut s = old.unwrap_or(Service { number: slot + 100, drain_minutes: 60, ..Service::default() });
        if let Some(word) = w.value("vip") {
            (s.vip, s.port, s.protocol) = socket_protocol(word)?;
            self.state.service_keys.insert(ServiceKey::new(s.vip, s.port, s.protocol), slot);
        }
        for (name, bit) in [
            ("affinity", SERVICE_AFFINITY),
            ("sources", SERVICE_SOURCES),
            ("exceptions", SERVICE_EXCEPTIONS),
            ("ask", SERVICE_ASK),
            ("quic", SERVICE_QUIC),
        ] {
            s.flags |= if w.flag(name) { bit } else { 0 };
        }
        for (name, value) in [("delegate", DELIVER_DELEGATE), ("none", DELIVER_NONE)] {
            if w.flag(name) {
                s.delivery = value;
            }
        }
        if w.flag("via") {
            s.returns = RETURN_VIA_INGRESS;
        }
        s.number = w.value_number("number")?.unwrap_or(s.number);
        s.drain_minutes = w.value_number("drain")?.unwrap_or(s.drain_minutes);
        s.mss4 = w.value_number("mss4")?.unwrap_or(s.mss4);
        s.mss6 = w.value_number("mss6")?.unwrap_or(s.mss6);
        for (name, word) in [("nodes", &mut s.nodes), ("endpoints", &mut s.endpoints)] {
            if let Some(text) = w.value(name) {
                *word = table(text)?.word();
            }
        }
        self.state.services.insert(slot, s);
        Ok(())
    }

    fn address(&mut self, w: &mut Words<'_>) -> Result<()> {
        let slot: u16 = w.number()?;
        let vip = address(w.next()?)?;
        let nodes = w.value("nodes").map(table).transpose()?.unwrap_or_default().word();
        let flags = if w.flag("plain") { 0 } else { SERVICE_ADDRESS };
        self.state.service_keys.insert(ServiceKey::new(vip, 0, 0), slot);
        self.state.services.insert(slot, Service { nodes, vip, flags, number: slot, ..Service::default() });
        Ok(())
    }

    fn endpoint(&mut self, w: &mut Words<'_>) -> Result<()> {
        let slot: u16 = w.number()?;
        let (at, port, protocol) = socket_protocol(w.next()?)?;
        let netns = namespace(w.value("ns").unwrap_or("unknown"), self.netns)?;
        let mut flags = if w.flag("unready") { 0 } else { ENDPOINT_READY };
        flags |= if w.flag("draining") { ENDPOINT_DRAINING } else { 0 };
        flags |= if w.flag("host") { ENDPOINT_HOST } else { 0 };
        let service = w.value_number("service")?.unwrap_or(1);
        let endpoint = Endpoint { address: at, port, protocol, pad0: 0, flags, netns, service, pad1: 0 };
        self.state.endpoints.insert(slot, endpoint);
        Ok(())
    }
}

/// `BASE+ROWS@EPOCH`.
fn table(text: &str) -> Result<Table> {
    let (base, rest) = text.split_once('+').with_context(|| format!("{text}: BASE+ROWS@EPOCH"))?;
    let (rows, epoch) = rest.split_once('@').with_context(|| format!("{text}: BASE+ROWS@EPOCH"))?;
    Ok(Table { base: number(base)?, rows: number(rows)?, epoch: number(epoch)? })
}

/// The two little-endian halves of sixteen bytes.
fn halves(bytes: &[u8]) -> [u64; 2] {
    let half = |at: usize| bytes.iter().skip(at).take(8).rev().fold(0, |all, b| all << 8 | u64::from(*b));
    [half(0), half(8)]
}
