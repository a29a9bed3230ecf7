//! One layer of a packet, as written between slashes.

use anyhow::{Context, Result, bail, ensure};
use bascule_ebpf_common::VipKey;

use super::words::{Words, address, hex, mac, number};

#[derive(Clone, Debug)]
pub(crate) struct Tcp {
    pub(crate) ports: (u16, u16),
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) offset: Option<u8>,
    pub(crate) sum: Option<u16>,
}

#[derive(Clone, Debug)]
pub(crate) struct Ip {
    pub(crate) source: VipKey,
    pub(crate) destination: VipKey,
    pub(crate) v6: bool,
    pub(crate) tos: Option<u8>,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    pub(crate) place: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) length: Option<u16>,
    pub(crate) sum: Option<u16>,
    pub(crate) protocol: Option<u8>,
    /// `None`: from the flow hash.
    pub(crate) label: Option<u32>,
    pub(crate) header_words: Option<u8>,
    pub(crate) version: Option<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct ShimLayer {
    pub(crate) flags: u8,
    pub(crate) index: u8,
    pub(crate) count: u8,
    pub(crate) accept: bool,
    pub(crate) service: u16,
    pub(crate) epoch: u16,
    pub(crate) sites: (u8, u8),
    pub(crate) hops: [u16; 2],
    pub(crate) path: (u16, u16),
    pub(crate) tag: Option<u32>,
    pub(crate) version: Option<u8>,
    pub(crate) reserved: u8,
    pub(crate) affinity: bool,
    /// The other site whose key it is sealed with; 0: that of this site.
    pub(crate) pair: u8,
}

#[derive(Clone, Debug)]
pub(crate) enum Layer {
    Ethernet {
        destination: [u8; 6],
        source: [u8; 6],
        tags: Vec<(u16, u16)>,
        kind: Option<u16>,
        tail: usize,
    },
    Ip(Ip),
    /// An IPv6 extension header: its number and bytes from the second on.
    Extension(u8, Vec<u8>),
    Tcp(Tcp),
    Udp {
        ports: (Option<u16>, u16),
        length: Option<u16>,
        sum: Option<u16>,
    },
    Icmp {
        v6: bool,
        kind: u8,
        code: u8,
        rest: u32,
        sum: Option<u16>,
    },
    Shim(ShimLayer),
    Bytes(Vec<u8>),
    Truncate(usize),
}

/// MACs of the uplink and of who sends to it, where a packet names none.
pub(crate) const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];

pub(crate) fn parse(text: &str) -> Result<Vec<Layer>> {
    let mut layers = Vec::new();
    for part in text.split(" / ") {
        let mut w = Words::of(part);
        let name = w.next()?;
        let layer = one(name, &mut w, &mut layers).with_context(|| format!("layer `{part}`"))?;
        w.done().with_context(|| format!("layer `{part}`"))?;
        layers.extend(layer);
    }
    Ok(layers)
}

fn one(name: &str, w: &mut Words<'_>, _before: &mut [Layer]) -> Result<Vec<Layer>> {
    Ok(vec![match name {
        "eth" => ethernet(w)?,
        "ip" => Layer::Ip(ip(w)?),
        "tcp" => Layer::Tcp(tcp(w)?),
        "udp" => udp(w)?,
        "icmp" | "icmp6" => Layer::Icmp {
            v6: name == "icmp6",
            kind: w.number()?,
            code: w.number()?,
            rest: w.value_number("rest")?.unwrap_or(0),
            sum: w.value_number("sum")?,
        },
        "shim" => Layer::Shim(shim(w)?),
        "encap" => return super::packet::encap(w),
        "hop" | "dest" => {
            let extra: u8 = w.value_number("extra")?.unwrap_or(0);
            let fill = 6 + 8 * extra;
            let mut bytes = vec![extra, 1, fill - 2];
            bytes.resize(usize::from(fill) + 1, 0);
            Layer::Extension(if name == "hop" { 0 } else { 60 }, bytes)
        }
        "route" => Layer::Extension(43, vec![0, 0, w.value_number("left")?.unwrap_or(0), 0, 0, 0, 0]),
        "frag" => {
            let place = w.value_number::<u16>("off")?.unwrap_or(0) | u16::from(w.flag("mf"));
            let mut bytes = vec![0];
            bytes.extend(place.to_be_bytes());
            bytes.extend(w.value_number::<u32>("id")?.unwrap_or(0).to_be_bytes());
            Layer::Extension(44, bytes)
        }
        "quic" => quic(w)?,
        "hex" => Layer::Bytes(w.clone().rest().into_iter().map(hex).collect::<Result<Vec<_>>>()?.concat()).taken(w),
        "text" => Layer::Bytes(w.next()?.bytes().collect()),
        "zero" => Layer::Bytes(vec![0; w.number()?]),
        "count" => Layer::Bytes((0..w.number::<usize>()?).map(|i| (i % 251).to_le_bytes()[0]).collect()),
        "trunc" => Layer::Truncate(w.number()?),
        other => bail!("no layer is called {other}"),
    }])
}

impl Layer {
    fn taken(self, w: &mut Words<'_>) -> Self {
        while w.next().is_ok() {}
        self
    }
}

fn ethernet(w: &mut Words<'_>) -> Result<Layer> {
    let mut tags = Vec::new();
    while let Some(tag) = w.value("vlan") {
        tags.push((0x8100, number(tag)?));
    }
    while let Some(tag) = w.value("qinq") {
        tags.insert(0, (0x88a8, number(tag)?));
    }
    Ok(Layer::Ethernet {
        destination: w.value("to").map(mac).transpose()?.unwrap_or(NODE_MAC),
        source: w.value("from").map(mac).transpose()?.unwrap_or(CLIENT_MAC),
        tags,
        kind: w.value_number("type")?,
        tail: w.value_number("tail")?.unwrap_or(0),
    })
}

fn ip(w: &mut Words<'_>) -> Result<Ip> {
    let source = w.next()?;
    ensure!(w.next()? == ">", "`ip A > B`");
    let destination = w.next()?;
    let mut place: u16 = w.value_number::<u16>("off")?.unwrap_or(0) / 8;
    for (name, bit) in [("df", 0x4000), ("mf", 0x2000), ("evil", 0x8000)] {
        if w.flag(name) {
            place |= bit;
        }
    }
    Ok(Ip {
        v6: destination.contains(':'),
        source: address(source)?,
        destination: address(destination)?,
        tos: w.value_number("tos")?,
        ttl: w.value_number("ttl")?.unwrap_or(64),
        id: w.value_number("id")?.unwrap_or(0),
        place,
        options: w.value("opt").map(hex).transpose()?.unwrap_or_default(),
        length: w.value_number("len")?,
        sum: w.value_number("sum")?,
        protocol: w.value_number("proto")?,
        label: if w.flag("label-hash") { None } else { Some(w.value_number("label")?.unwrap_or(0)) },
        header_words: w.value_number("ihl")?,
        version: w.value_number("version")?,
    })
}

fn tcp(w: &mut Words<'_>) -> Result<Tcp> {
    let source = w.number()?;
    ensure!(w.next()? == ">", "`tcp A > B FLAGS`");
    let destination = w.number()?;
    let mut flags = 0;
    for c in w.next()?.chars() {
        flags |= match c {
            'F' => 1,
            'S' => 2,
            'R' => 4,
            'P' => 8,
            'A' => 16,
            'U' => 32,
            'E' => 64,
            'C' => 128,
            '0' => 0,
            _ => bail!("{c}: no flag of TCP"),
        };
    }
    let mut options = Vec::new();
    if let Some(mss) = w.value_number::<u16>("mss")? {
        options.extend([2, 4]);
        options.extend(mss.to_be_bytes());
    }
    if let Some(scale) = w.value_number::<u8>("ws")? {
        options.extend([3, 3, scale, 1]);
    }
    if let Some(raw) = w.value("opt") {
        options.extend(hex(raw)?);
    }
    Ok(Tcp {
        ports: (source, destination),
        flags,
        seq: w.value_number("seq")?.unwrap_or(1),
        ack: w.value_number("ack")?.unwrap_or(0),
        window: w.value_number("win")?.unwrap_or(512),
        options,
        offset: w.value_number("offset")?,
        sum: w.value_number("sum")?,
    })
}

fn udp(w: &mut Words<'_>) -> Result<Layer> {
    let source = w.next()?;
    ensure!(w.next()? == ">", "`udp A > B`");
    let ports = (if source == "entropy" { None } else { Some(number(source)?) }, w.number()?);
    let sum = match w.value("sum") {
        Some("none") => Some(0),
        Some(word) => Some(number(word)?),
        None => None,
    };
    Ok(Layer::Udp { ports, length: w.value_number("len")?, sum })
}

pub(crate) fn shim(w: &mut Words<'_>) -> Result<ShimLayer> {
    let mut flags = w.value_number::<u8>("key")?.unwrap_or(0) & 1;
    for (name, bit) in [("remote", 4), ("final", 8)] {
        if w.flag(name) {
            flags |= bit;
        }
    }
    let mut hops = [0; 2];
    if let Some(list) = w.value("hops") {
        for (slot, word) in hops.iter_mut().zip(list.split(',')) {
            *slot = match word.strip_suffix('+') {
                Some(id) => number::<u16>(id)? | bascule_ebpf_common::forward::HOP_ACCEPT,
                None => number(word)?,
            };
        }
    }
    let index = w.value_number("index")?.unwrap_or(0);
    let given = u8::from(hops[0] != 0) + u8::from(hops[1] != 0);
    Ok(ShimLayer {
        flags,
        index,
        count: w.value_number("count")?.unwrap_or(given),
        accept: w.flag("accept"),
        service: w.value_number("svc")?.unwrap_or(0),
        epoch: w.value_number("epoch")?.unwrap_or(0),
        sites: (w.value_number("origin")?.unwrap_or(0), w.value_number("second")?.unwrap_or(0)),
        hops,
        path: (w.value_number("sealed-from")?.unwrap_or(0), w.value_number("sealed-to")?.unwrap_or(0)),
        tag: w.value_number("tag")?,
        version: w.value_number("shim-version")?,
        reserved: w.value_number("reserved")?.unwrap_or(0),
        affinity: w.flag("affinity"),
        pair: w.value_number("pair")?.unwrap_or(0),
    })
}

fn quic(w: &mut Words<'_>) -> Result<Layer> {
    let two = w.flag("v2");
    let kind = w.next()?;
    let number = match kind {
        "initial" => 0,
        "0rtt" => 1,
        "handshake" => 2,
        "retry" => 3,
        "short" => return Ok(Layer::Bytes([vec![0x40], vec![0xd1; 24]].concat())),
        other => bail!("{other}: no QUIC packet"),
    };
    // RFC 9369 section 3.2 numbers the types of version 2 one further.
    let bits = if two { (number + 1) % 4 } else { number };
    let version: u32 = if two { 0x6b33_43cf } else { 1 };
    let mut bytes = vec![0xc0 | bits << 4];
    bytes.extend(version.to_be_bytes());
    bytes.extend([8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 16]);
    bytes.extend([0xee; 16]);
    Ok(Layer::Bytes(bytes))
}
