//! The shipped programs of one node, and its maps.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::{Array, DevMapHash, HashMap, Map, PerCpuArray, ProgramArray};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, Program, ProgramFd, SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, Pod};
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    Config, Endpoint, Flow, FlowKey, FragmentKey, Half, Key, MAX_ROWS, MAX_SERVICES, Node, ReverseEntry, ReverseKey,
    Row, Service, ServiceKey, Site, TALLIES, Table,
};

use super::error::{bpf, missing};
use super::mapped::Mapped;
use super::tallies::Tallies;
use crate::{LabError, Netns, Result, leftovers};

/// The XDP program and what it calls.
const XDP: &str = "bascule_xdp";
const XDP_SLOW: &str = "bascule_xdp_slow";
/// Its twin at tc ingress.
const TC: &str = "bascule_tc_ingress";
const TC_SLOW: &str = "bascule_tc_slow";
/// At tc egress: replies.
const EGRESS: &str = "bascule_tc_egress";
/// Words of a [`Service`].
const SERVICE_WORDS: usize = size_of::<Service>() / 8;

/// Where ingress is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// In the driver.
    Xdp,
    /// At tcx ingress.
    Tc,
}

impl Hook {
    /// As `forwarding.hook` has it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }
}

/// What the verifier made of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramSize {
    /// Its name in the object.
    pub name: String,
    /// Instructions the verifier walked.
    pub verified: u32,
    /// Bytes after translation.
    pub translated: u32,
    /// Bytes of machine code.
    pub jited: u32,
}

/// Key of an IPv4 address.
pub fn v4(address: Ipv4Addr) -> VipKey {
    VipKey::v4(address.octets())
}

/// The programs and maps of one node. Dropped, its programs leave every device.
pub struct NodePrograms {
    ebpf: Ebpf,
    netns: Netns,
    services: Mapped,
    rows: Mapped,
}

impl NodePrograms {
    /// Makes the maps (with room for `flows` flows; None: as shipped) and loads all programs of the object.
    ///
    /// # Errors
    /// When the kernel refuses; the end of the verifier's log is in the error.
    pub fn load(netns: &Netns, flows: Option<u32>) -> Result<Self> {
        crate::bascule::mount_bpffs()?;
        let pins = pin_dir(netns)?;
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(&pins);
        if let Some(flows) = flows {
            loader.map_max_entries("FLOWS", flows);
        }
        // As BASCULE_BIN for the daemon: programs of another commit, measured by this one.
        let mut ebpf = netns
            .run(|| match std::env::var_os("BASCULE_FORWARD_OBJECT") {
                Some(path) => loader.load_file(PathBuf::from(path)),
                None => loader.load(super::FORWARD),
            })
            .map_err(bpf("the forwarding object"))?;
        let names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
        for name in names {
            match ebpf.program_mut(&name).ok_or_else(|| missing(&name))? {
                Program::Xdp(program) => program.load().map_err(bpf(&name))?,
                Program::SchedClassifier(program) => program.load().map_err(bpf(&name))?,
                _ => return Err(LabError::answer(name, "neither XDP nor tc")),
            }
        }
        let mapped = |ebpf: &Ebpf, name: &str, words| match ebpf.map(name) {
            Some(Map::Array(data)) => Mapped::new(data.fd().as_fd(), words),
            _ => Err(missing(name)),
        };
        let services = mapped(&ebpf, "SERVICES", MAX_SERVICES as usize * SERVICE_WORDS)?;
        let rows = mapped(&ebpf, "ROWS", MAX_ROWS as usize)?;
        let mut node = Self { ebpf, netns: netns.clone(), services, rows };
        node.call("SLOW_XDP", 0, XDP_SLOW)?;
        node.call("SLOW_TC", 0, TC_SLOW)?;
        Ok(node)
    }

    /// Puts a program into a slot of a tail-call array.
    fn call(&mut self, array: &str, slot: u32, program: &str) -> Result<()> {
        let fd = self.program(program)?;
        let map = self.ebpf.map_mut(array).ok_or_else(|| missing(array))?;
        ProgramArray::try_from(map).map_err(bpf(array))?.set(slot, &fd, 0).map_err(bpf(array))
    }

    /// Descriptor of a program.
    fn program(&self, name: &str) -> Result<ProgramFd> {
        let program = self.ebpf.program(name).ok_or_else(|| missing(name))?;
        program.fd().map_err(bpf(name))?.try_clone().map_err(LabError::io(name))
    }

    /// Descriptor of the XDP program, for the shim.
    ///
    /// # Errors
    /// When the object has none.
    pub fn xdp(&self) -> Result<ProgramFd> {
        self.program(XDP)
    }

    /// Attaches ingress by `hook`, and egress, to a device of the node.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn attach(&mut self, device: &str, hook: Hook) -> Result<()> {
        let netns = self.netns.clone();
        match hook {
            Hook::Xdp => {
                let xdp: &mut Xdp = program(&mut self.ebpf, XDP)?.try_into().map_err(bpf(XDP))?;
                netns.run(|| xdp.attach(device, XdpMode::Driver)).map(drop).map_err(bpf(device))?;
            }
            Hook::Tc => self.classifier(TC, device, TcAttachType::Ingress)?,
        }
        self.classifier(EGRESS, device, TcAttachType::Egress)
    }

    fn classifier(&mut self, name: &str, device: &str, at: TcAttachType) -> Result<()> {
        let netns = self.netns.clone();
        let tc: &mut SchedClassifier = program(&mut self.ebpf, name)?.try_into().map_err(bpf(name))?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::last());
        netns.run(|| tc.attach_with_options(device, at, options)).map(drop).map_err(bpf(device))
    }

    fn set<V: Pod>(&mut self, map: &str, index: u32, value: &V) -> Result<()> {
        let found = self.ebpf.map_mut(map).ok_or_else(|| missing(map))?;
        Array::<_, V>::try_from(found).map_err(bpf(map))?.set(index, value, 0).map_err(bpf(map))
    }

    fn insert<K: Pod, V: Pod>(&mut self, map: &str, key: &K, value: &V) -> Result<()> {
        let found = self.ebpf.map_mut(map).ok_or_else(|| missing(map))?;
        HashMap::<_, K, V>::try_from(found).map_err(bpf(map))?.insert(key, value, 0).map_err(bpf(map))
    }

    fn count<K: Pod, V: Pod>(&self, map: &str) -> Result<usize> {
        let found = self.ebpf.map(map).ok_or_else(|| missing(map))?;
        Ok(HashMap::<_, K, V>::try_from(found).map_err(bpf(map))?.keys().filter(std::result::Result::is_ok).count())
    }

    /// Writes the node's own facts.
    ///
    /// # Errors
    /// When the kernel refuses; so for all that follow.
    pub fn config(&mut self, config: &Config) -> Result<()> {
        self.set("CONFIG", 0, config)
    }

    /// Writes a tag key.
    ///
    /// # Errors
    /// As [`NodePrograms::config`].
    pub fn key(&mut self, slot: u32, key: &Key) -> Result<()> {
        self.set("KEYS", slot, key)
    }

    /// Writes a node, and takes encapsulation from its address.
    ///
    /// # Errors
    /// As [`NodePrograms::config`].
    pub fn node(&mut self, id: u16, node: &Node) -> Result<()> {
        self.insert("PEERS", &node.address, &u32::from(id))?;
        self.set("NODES", u32::from(id), node)
    }

    /// Writes the gateways of another site; of site 0, the order of the others.
    ///
    /// # Errors
    /// As [`NodePrograms::config`].
    pub fn site(&mut self, number: u32, site: &Site) -> Result<()> {
        self.set("SITES", number, site)
    }

    /// Lets frames be redirected to a device.
    ///
    /// # Errors
    /// As [`NodePrograms::config`].
    pub fn device(&mut self, ifindex: u32) -> Result<()> {
        let found = self.ebpf.map_mut("DEVICES").ok_or_else(|| missing("DEVICES"))?;
        let mut map = DevMapHash::try_from(found).map_err(bpf("DEVICES"))?;
        // The kernel looks for the device in the namespace of the thread that writes.
        self.netns.run(|| map.insert(ifindex, ifindex, None, 0)).map_err(bpf("DEVICES"))
    }

    /// Writes a service and the keys that lead to it.
    ///
    /// # Errors
    /// As [`NodePrograms::config`].
    pub fn service(&mut self, slot: u32, service: &Service) -> Result<()> {
        self.set("SERVICES", slot, service)?;
        self.insert("SERVICE_KEYS", &ServiceKey::new(service.vip, service.port, service.protocol), &slot)
    }

    /// Writes a key that leads to a service slot (an address entry has port and protocol 0).
    ///
    /// # Errors
    /// As [`NodePrograms::config`].
    pub fn service_key(&mut self, key: &ServiceKey, slot: u32) -> Result<()> {
        self.insert("SERVICE_KEYS", key, &slot)
    }

    /// Writes an endpoint.
    ///
    /// # Errors
    /// As [`NodePrograms::config`].
    pub fn endpoint(&mut self, slot: u16, endpoint: &Endpoint) -> Result<()> {
        self.set("ENDPOINTS", u32::from(slot), endpoint)
    }

    /// Writes the only VIP an endpoint answers for.
    ///
    /// # Errors
    /// As [`NodePrograms::config`].
    pub fn reverse(&mut self, key: &ReverseKey, entry: &ReverseEntry) -> Result<()> {
        self.insert("REVERSE", key, entry)
    }

    /// Writes a flow as if its packets had come before.
    ///
    /// # Errors
    /// As [`NodePrograms::config`].
    pub fn flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<()> {
        self.insert("FLOWS", key, flow)
    }

    /// Writes rows into the slab. No table may point at them: a swap writes elsewhere first.
    pub fn rows(&self, base: u32, rows: &[Row]) {
        self.rows.write(base as usize, rows.iter().map(|row| row.word()));
    }

    /// Swaps the table over nodes of a service, by one store.
    pub fn swap_nodes(&self, slot: u32, table: Table) {
        self.services.word(slot as usize * SERVICE_WORDS).store(table.word(), Ordering::Release);
    }

    /// Gives a service flags in addition to those that it has: the lower half of the word behind its tables.
    pub fn flag_service(&mut self, slot: u32, flags: u32) {
        let word = self.services.word(slot as usize * SERVICE_WORDS + 2);
        let _before = word.fetch_or(flags.into(), Ordering::Release);
    }

    /// Swaps the table over endpoints of a service, by one store.
    pub fn swap_endpoints(&self, slot: u32, table: Table) {
        self.services.word(slot as usize * SERVICE_WORDS + 1).store(table.word(), Ordering::Release);
    }

    /// What the programs counted.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn tallies(&self) -> Result<Tallies> {
        let found = self.ebpf.map("TALLIES").ok_or_else(|| missing("TALLIES"))?;
        let array: PerCpuArray<_, u64> = PerCpuArray::try_from(found).map_err(bpf("TALLIES"))?;
        let sum = |slot| array.get(&slot, 0).map(|cpus| cpus.iter().sum()).map_err(bpf("TALLIES"));
        (0..TALLIES).map(sum).collect::<Result<_>>().map(Tallies)
    }

    /// Entries of the flow table.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn flows(&self) -> Result<usize> {
        self.count::<FlowKey, Flow>("FLOWS")
    }

    /// Entries of the half-open table.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn half_open(&self) -> Result<usize> {
        self.count::<FlowKey, Half>("HALF")
    }

    /// Entries of the table of fragments.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn fragments(&self) -> Result<usize> {
        self.count::<FragmentKey, u32>("FRAGMENTS")
    }

    /// What the verifier made of each program.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn sizes(&self) -> Result<Vec<ProgramSize>> {
        let size = |(name, program): (&str, &Program)| {
            let info = program.info().map_err(bpf(name))?;
            let verified = info.verified_instruction_count().unwrap_or_default();
            let (translated, jited) = (info.size_translated().unwrap_or_default(), info.size_jitted());
            Ok(ProgramSize { name: name.to_owned(), verified, translated, jited })
        };
        let mut sizes: Vec<ProgramSize> = self.ebpf.programs().map(size).collect::<Result<_>>()?;
        sizes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(sizes)
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name).ok_or_else(|| missing(name))
}

/// A new folder for the pins of one load, inside the one that goes with the namespace.
fn pin_dir(netns: &Netns) -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let handle = format!("/run/netns/{}", netns.full_name());
    let inode = std::fs::metadata(&handle).map_err(LabError::io(handle))?.ino();
    let serial = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = leftovers::pins(inode).join(format!("lab-{serial}"));
    std::fs::create_dir_all(&dir).map_err(LabError::io(dir.display().to_string()))?;
    Ok(dir)
}
