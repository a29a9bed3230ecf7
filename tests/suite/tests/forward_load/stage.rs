//! One node's programs and maps, with one service of each family and protocol.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::{Program, SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::*;

pub(crate) const PASS: [u32; 2] = [2, u32::MAX];
pub(crate) const DROP: [u32; 2] = [1, 2];
pub(crate) const SEND: [u32; 2] = [3, 7];
pub(crate) const KEY: [u64; 2] = [0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00];
pub(crate) const FLOW_KEY: [u64; 2] = [3, 5];
pub(crate) const PORT: u16 = 443;
pub(crate) const SYN: u8 = 2;
pub(crate) const ACK: u8 = 16;

#[derive(Clone, Copy)]
pub(crate) struct Family {
    pub(crate) client: IpAddr,
    pub(crate) vip: IpAddr,
    pub(crate) endpoint: IpAddr,
    pub(crate) slot: u32,
}

pub(crate) const V4: Family = Family {
    client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
    vip: IpAddr::V4(Ipv4Addr::new(10, 9, 0, 100)),
    endpoint: IpAddr::V4(Ipv4Addr::new(10, 244, 1, 5)),
    slot: 1,
};
pub(crate) const V6: Family = Family {
    client: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7)),
    vip: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x100)),
    endpoint: IpAddr::V6(Ipv6Addr::new(0xfd00, 244, 1, 0, 0, 0, 0, 5)),
    slot: 3,
};

pub(crate) fn key(address: IpAddr) -> VipKey {
    match address {
        IpAddr::V4(a) => VipKey::v4(a.octets()),
        IpAddr::V6(a) => VipKey::v6(a.octets()),
    }
}

pub(crate) fn node_address(id: u8, v6: bool) -> VipKey {
    if v6 {
        VipKey::v6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, id.into()).octets())
    } else {
        VipKey::v4([10, 0, 0, id])
    }
}

/// One node's programs and maps.
pub(crate) struct Stage {
    pub(crate) ebpf: Ebpf,
}

impl Stage {
    /// A node `id` of two; every row names node 2, where one endpoint of each family waits. `v6`: the family between nodes.
    pub(crate) fn new(dir: &Path, id: u8, v6: bool) -> Result<Self> {
        let dir = dir.join(format!("{id}{v6}"));
        std::fs::create_dir_all(&dir)?;
        let object =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ebpf/target/bpfel-unknown-none/release/bascule-forward");
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(&dir).map_max_entries("FLOWS", 1024).map_max_entries("ROWS", 4096);
        let mut ebpf = loader.load(&std::fs::read(object)?)?;
        for (_, program) in ebpf.programs_mut() {
            match program {
                Program::Xdp(xdp) => xdp.load()?,
                Program::SchedClassifier(tc) => tc.load()?,
                other => anyhow::bail!("{other:?}"),
            }
        }
        let mut stage = Self { ebpf };
        stage.config(&Config {
            flow_key: FLOW_KEY,
            address4: if v6 { VipKey::default() } else { node_address(id, false) },
            address6: if v6 { node_address(id, true) } else { VipKey::default() },
            node: id.into(),
            tunnel_port: DEFAULT_TUNNEL_PORT.to_be(),
            key_slot: 0,
            orphan_rate: 1,
            udp_idle_s: 60,
            ..Config::default()
        })?;
        stage.array::<Key>("KEYS")?.set(0, Key { key: KEY, valid: 1 }, 0)?;
        for node in 1..=3u8 {
            let flags = NODE_RESOLVED | if node == id { NODE_SELF } else { 0 };
            let entry = Node {
                address: node_address(node, v6),
                flags,
                ifindex: 1,
                source_mac: [2, 0, 0, 0, 1, id],
                next_mac: [2, 0, 0, 0, 2, node],
                mtu: 1500,
                ..Node::default()
            };
            stage.array::<Node>("NODES")?.set(node.into(), entry, 0)?;
            stage.hash::<VipKey, u32>("PEERS")?.insert(node_address(node, v6), u32::from(node), 0)?;
        }
        stage.array::<u64>("ROWS")?.set(0, Row { home: 2, ..Row::default() }.word(), 0)?;
        for (family, protocol, offset) in [(V4, 6, 0), (V4, 17, 1), (V6, 6, 0), (V6, 17, 1)] {
            stage.service(family, protocol, family.slot + offset, id == 2)?;
        }
        Ok(stage)
    }

    pub(crate) fn service(&mut self, family: Family, protocol: u8, slot: u32, here: bool) -> Result<()> {
        let endpoint = u16::try_from(slot)?;
        self.array::<u64>("ROWS")?.set(slot, Row { home: endpoint, ..Row::default() }.word(), 0)?;
        let service = Service {
            nodes: Table { base: 0, rows: 1, epoch: 9 }.word(),
            endpoints: if here { Table { base: slot, rows: 1, epoch: 4 }.word() } else { 0 },
            number: 500 + endpoint,
            port: PORT.to_be(),
            protocol,
            drain_minutes: 60,
            mss4: 1400,
            mss6: 1300,
            vip: key(family.vip),
            ..Service::default()
        };
        self.array::<Service>("SERVICES")?.set(slot, service, 0)?;
        let service_key = ServiceKey::new(key(family.vip), PORT.to_be(), protocol);
        self.hash::<ServiceKey, u32>("SERVICE_KEYS")?.insert(service_key, slot, 0)?;
        let entry = Endpoint {
            address: key(family.endpoint),
            port: 8443u16.to_be(),
            protocol,
            flags: ENDPOINT_READY,
            netns: -1,
            service: endpoint,
            ..Endpoint::default()
        };
        self.array::<Endpoint>("ENDPOINTS")?.set(slot, entry, 0)?;
        Ok(())
    }

    pub(crate) fn config(&mut self, config: &Config) -> Result<()> {
        Ok(self.array::<Config>("CONFIG")?.set(0, config, 0)?)
    }

    pub(crate) fn array<T: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, T>> {
        Ok(Array::try_from(self.ebpf.map_mut(name).context("map")?)?)
    }

    pub(crate) fn hash<K: aya::Pod, V: aya::Pod>(&mut self, name: &str) -> Result<HashMap<&mut MapData, K, V>> {
        Ok(HashMap::try_from(self.ebpf.map_mut(name).context("map")?)?)
    }

    pub(crate) fn lru<V: aya::Pod>(&mut self, name: &str) -> Result<Vec<(FlowKey, V)>> {
        let map: HashMap<_, FlowKey, V> = HashMap::try_from(self.ebpf.map_mut(name).context("map")?)?;
        Ok(map.iter().collect::<Result<_, _>>()?)
    }

    pub(crate) fn tally(&mut self, slot: u32) -> Result<u64> {
        let map: PerCpuArray<_, u64> = PerCpuArray::try_from(self.ebpf.map_mut("TALLIES").context("map")?)?;
        Ok(map.get(&slot, 0)?.iter().sum())
    }

    /// Runs a frame through a hook; its verdict and what it is then.
    pub(crate) fn run(&mut self, hook: usize, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        let mut out = vec![0u8; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let result = if hook == 0 {
            let xdp: &Xdp = self.ebpf.program("bascule_xdp").context("xdp")?.try_into()?;
            xdp.test_run(options)?
        } else {
            let tc: &SchedClassifier = self.ebpf.program("bascule_tc_ingress").context("tc")?.try_into()?;
            tc.test_run(options)?
        };
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
    }
}
