//! Layers to bytes: lengths, checksums, tags, from the inside out.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    DEFAULT_TUNNEL_PORT, SHIM_FINAL, SHIM_REMOTE, ShimHead, Tuple, entropy_port, key_index,
};

use super::layer::{Ip, Layer, ShimLayer, parse, shim};
use super::words::{Words, address};
use crate::forward::bytes::{address_bytes, is_v4, len16, low8, pseudo, put16, sum};
use crate::forward::model::shim_wire;

/// What encapsulation in a packet is sealed with.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// Key of the flow hash.
    pub flow: [u64; 2],
    /// Tag keys by their place (`key_index`).
    pub tag: BTreeMap<u32, [u64; 2]>,
}

/// The frame that a line describes.
///
/// # Errors
/// What in the text is not understood.
pub fn frame(text: &str, keys: &Keys) -> Result<Vec<u8>> {
    build(&parse(text)?, keys, None)
}

/// `encap A > B ...`: outer IP and UDP header and shim from node A to node B as the world addresses them.
pub(crate) fn encap(w: &mut Words<'_>) -> Result<Vec<Layer>> {
    let from: u16 = w.number()?;
    ensure!(w.next()? == ">", "`encap A > B`");
    let to: u16 = w.number()?;
    let six = w.flag("six");
    let node = |id: u16| if six { format!("fd00::{id:x}") } else { format!("10.0.0.{id}") };
    let source = w.value("src").map_or_else(|| node(from), str::to_owned);
    let destination = w.value("dst").map_or_else(|| node(to), str::to_owned);
    let mut layer = shim(w)?;
    if layer.path == (0, 0) {
        layer.path = (from, to);
    }
    let ip = Ip {
        v6: destination.contains(':'),
        source: address(&source)?,
        destination: address(&destination)?,
        tos: w.value_number("tos")?,
        ttl: w.value_number("ttl")?.unwrap_or(8),
        id: 0,
        place: if w.flag("nodf") { 0 } else { 0x4000 },
        options: w.value("opt").map(super::words::hex).transpose()?.unwrap_or_default(),
        length: w.value_number("len")?,
        sum: None,
        protocol: None,
        label: None,
        header_words: None,
        version: None,
    };
    let port = w.value_number("port")?.unwrap_or(DEFAULT_TUNNEL_PORT);
    let udp = Layer::Udp { ports: (None, port), length: w.value_number("udplen")?, sum: Some(0) };
    Ok(vec![Layer::Ip(ip), udp, Layer::Shim(layer)])
}

type Around<'a> = Option<(&'a VipKey, &'a VipKey)>;

fn build(layers: &[Layer], keys: &Keys, around: Around<'_>) -> Result<Vec<u8>> {
    let Some((layer, rest)) = layers.split_first() else { return Ok(Vec::new()) };
    let inside = |around| build(rest, keys, around);
    match layer {
        Layer::Ethernet { destination, source, tags, kind, tail } => {
            let mut f = [*destination, *source].concat();
            for (tpid, tci) in tags {
                f.extend(tpid.to_be_bytes());
                f.extend(tci.to_be_bytes());
            }
            let natural = match rest.iter().find(|l| !matches!(l, Layer::Truncate(_))) {
                Some(Layer::Ip(ip)) if ip.v6 => 0x86dd,
                Some(Layer::Ip(_)) => 0x0800,
                _ => 0x88b5,
            };
            f.extend(kind.unwrap_or(natural).to_be_bytes());
            f.extend(inside(None)?);
            f.extend(vec![0; *tail]);
            Ok(f)
        }
        Layer::Ip(ip) => ip_packet(ip, rest, &inside(Some((&ip.source, &ip.destination)))?, keys),
        Layer::Extension(_, bytes) => {
            let mut f = vec![number_of(rest)];
            f.extend(bytes);
            f.extend(inside(around)?);
            Ok(f)
        }
        Layer::Tcp(t) => {
            let mut f = t.ports.0.to_be_bytes().to_vec();
            f.extend(t.ports.1.to_be_bytes());
            f.extend(t.seq.to_be_bytes());
            f.extend(t.ack.to_be_bytes());
            let words = low8((20 + t.options.len() as u64).div_ceil(4));
            f.extend([t.offset.unwrap_or(words) << 4, t.flags]);
            f.extend(t.window.to_be_bytes());
            f.extend([0, 0, 0, 0]);
            f.extend(&t.options);
            f.resize(usize::from(words) * 4, 0);
            f.extend(inside(None)?);
            let checksum = t.sum.unwrap_or(l4_sum(&f, 6, around)?);
            put16(&mut f, 16, checksum);
            Ok(f)
        }
        Layer::Udp { ports, length, sum } => {
            let payload = inside(None)?;
            let source = match ports.0 {
                Some(port) => port,
                None => entropy_port(hash(rest, keys)?),
            };
            let mut f = source.to_be_bytes().to_vec();
            f.extend(ports.1.to_be_bytes());
            f.extend(length.unwrap_or(len16(8 + payload.len())).to_be_bytes());
            f.extend([0, 0]);
            f.extend(payload);
            let computed = match l4_sum(&f, 17, around)? {
                0 => 0xffff,
                other => other,
            };
            put16(&mut f, 6, sum.unwrap_or(computed));
            Ok(f)
        }
        Layer::Icmp { v6, kind, code, rest: word, sum: given } => {
            let mut f = vec![*kind, *code, 0, 0];
            f.extend(word.to_be_bytes());
            f.extend(inside(None)?);
            let computed = if *v6 { l4_sum(&f, 58, around)? } else { !sum(&[&f]) };
            put16(&mut f, 2, given.unwrap_or(computed));
            Ok(f)
        }
        Layer::Shim(s) => {
            let mut f = shim_bytes(s, rest, keys)?;
            f.extend(inside(None)?);
            Ok(f)
        }
        Layer::Bytes(bytes) => Ok([bytes.clone(), inside(None)?].concat()),
        Layer::Truncate(n) => {
            let mut f = inside(None)?;
            f.truncate(*n);
            Ok(f)
        }
    }
}

fn l4_sum(part: &[u8], protocol: u8, around: Around<'_>) -> Result<u16> {
    let (source, destination) = around.context("L4 without an IP header around it")?;
    Ok(!sum(&[&pseudo(source, destination, protocol, part.len()), part]))
}

fn number_of(rest: &[Layer]) -> u8 {
    match rest.first() {
        Some(Layer::Tcp(_)) => 6,
        Some(Layer::Udp { .. }) => 17,
        Some(Layer::Icmp { v6: true, .. }) => 58,
        Some(Layer::Icmp { .. }) => 1,
        Some(Layer::Extension(number, _)) => *number,
        Some(Layer::Ip(ip)) if ip.v6 => 41,
        Some(Layer::Ip(_)) => 4,
        _ => 59,
    }
}

fn ip_packet(ip: &Ip, rest: &[Layer], payload: &[u8], keys: &Keys) -> Result<Vec<u8>> {
    let protocol = ip.protocol.unwrap_or(number_of(rest));
    // An outer header takes the type of service of the packet inside.
    let inherited = rest.iter().find_map(|l| if let Layer::Ip(inner) = l { inner.tos } else { None });
    let tunnels = rest.iter().any(|l| matches!(l, Layer::Shim(_)));
    let tos = ip.tos.or(inherited.filter(|_| tunnels)).unwrap_or(0);
    let mut p;
    if is_v4(&ip.destination) {
        let words = low8((20 + ip.options.len() as u64).div_ceil(4));
        p = vec![ip.version.unwrap_or(4) << 4 | ip.header_words.unwrap_or(words), tos];
        p.extend(ip.length.unwrap_or(len16(usize::from(words) * 4 + payload.len())).to_be_bytes());
        p.extend(ip.id.to_be_bytes());
        p.extend(ip.place.to_be_bytes());
        p.extend([ip.ttl, protocol, 0, 0]);
        p.extend(address_bytes(&ip.source));
        p.extend(address_bytes(&ip.destination));
        p.extend(&ip.options);
        p.resize(usize::from(words) * 4, 0);
        let checksum = ip.sum.unwrap_or(!sum(&[&p]));
        put16(&mut p, 10, checksum);
    } else {
        let label = match ip.label {
            Some(label) => u64::from(label),
            None => hash(rest, keys)? & 0xf_ffff,
        };
        p = vec![ip.version.unwrap_or(6) << 4 | tos >> 4, tos << 4 | low8(label >> 16), low8(label >> 8), low8(label)];
        p.extend(ip.length.unwrap_or(len16(payload.len())).to_be_bytes());
        p.extend([protocol, ip.ttl]);
        p.extend(address_bytes(&ip.source));
        p.extend(address_bytes(&ip.destination));
    }
    p.extend(payload);
    Ok(p)
}

/// The flow hash of the packet behind the shim among these layers.
fn hash(layers: &[Layer], keys: &Keys) -> Result<u64> {
    let at = layers.iter().position(|l| matches!(l, Layer::Shim(_))).context("a hash needs a shim")?;
    let Layer::Shim(shim) = &layers[at] else { bail!("just found") };
    let inner = &layers[at + 1..];
    let error = inner.iter().any(|l| matches!(l, Layer::Icmp { .. }));
    let ip = |layers: &[Layer]| {
        layers.iter().rev().find_map(|l| if let Layer::Ip(ip) = l { Some((ip.source, ip.destination)) } else { None })
    };
    let (mut source, mut destination) = ip(inner).unwrap_or_default();
    let (mut ports, protocol) = inner
        .iter()
        .find_map(|l| match l {
            Layer::Tcp(t) => Some((t.ports, 6)),
            Layer::Udp { ports, .. } => Some(((ports.0.unwrap_or(0), ports.1), 17)),
            _ => None,
        })
        .unwrap_or_else(|| {
            // A later fragment has no ports.
            let stated = inner.iter().rev().find_map(|l| if let Layer::Ip(ip) = l { ip.protocol } else { None });
            ((0, 0), stated.unwrap_or_default())
        });
    // What an error quotes, and a reply that goes back (FINAL without REMOTE), are read backwards.
    if error || shim.flags & (SHIM_FINAL | SHIM_REMOTE) == SHIM_FINAL {
        std::mem::swap(&mut source, &mut destination);
        ports = (ports.1, ports.0);
    }
    let client_port = if shim.affinity { 0 } else { ports.0.to_be() };
    let tuple = Tuple { client: source, vip: destination, client_port, vip_port: ports.1.to_be(), protocol };
    Ok(tuple.hash(keys.flow))
}

fn shim_bytes(s: &ShimLayer, rest: &[Layer], keys: &Keys) -> Result<Vec<u8>> {
    let mut all = vec![Layer::Shim(s.clone())];
    all.extend_from_slice(rest);
    let head = ShimHead {
        flags: s.flags,
        index: s.index,
        count: s.count,
        accept: s.accept,
        service: s.service,
        epoch: s.epoch,
        origin_site: s.sites.0,
        second_site: s.sites.1,
        hops: s.hops,
    };
    let key = keys.tag.get(&key_index(s.pair, s.flags & 1)).copied().unwrap_or_default();
    let mut sealed = head.seal(key, hash(&all, keys)?, s.path.0, s.path.1);
    if let Some(version) = s.version {
        sealed.version_flags = version << 4 | (sealed.version_flags & 15);
    }
    sealed.hops_used |= s.reserved;
    if let Some(tag) = s.tag {
        sealed.tag ^= tag.to_be();
    }
    Ok(shim_wire(&sealed))
}
