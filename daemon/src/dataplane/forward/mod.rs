//! The forwarding plane in the kernel: loads its programs, keeps them on devices, writes what they steer by and reads what they count.
//!
//! What happens to a packet is decided in `ebpf/` by the tables that `bascule_core::balance` makes; this room carries out its actions.
//! Everything is pinned, so that a daemon that dies, at whatever point, leaves working programs: [`sets`] says what a later run goes
//! on with. Nothing is detached at the end of a run; [`Forward::detach`] and [`super::clean`] do that.
//!
//! A start: [`Forward::open`] (maps and programs, flows carried over), then what there was ([`Forward::recovered`]) and what there shall
//! be ([`Forward::apply`]), then [`Forward::attach`] for every device, then [`Forward::settle`], which ends what former runs left.
//! Calls act in the network namespace of the calling thread.

mod apply;
mod attach;
mod audit;
mod carry;
mod error;
mod flows;
mod mapped;
mod peers;
mod recover;
mod sets;
mod shapes;
mod stats;
mod tables;
mod trace;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path as FilePath, PathBuf};

use aya::maps::{Array, Map, MapData, ProgramArray};
use aya::programs::SchedClassifier;
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use bascule_core::balance::Recovered;
use bascule_core::balance::io::Action;
use bascule_ebpf_common::forward::{
    Config, DEFAULT_FLOWS, EndpointStats, FORWARD_STAMP, FlowKey, Key, PacketDrop, ServiceStats, Site,
};

pub use apply::{Path, Place};
pub use attach::Wish;
pub use error::ForwardError;
pub use stats::Tallies;

use crate::handle::forward::{Asked, Fill, FlowFilter, FlowList, Hook, Standing, Trace};

use super::error::FenceError;
use super::{CleanReport, DEFAULT_PIN_ROOT, ProgramStats, probe};
use apply::{Known, Written};
use carry::Flows;
use peers::Peers;
use sets::Set;
use stats::Stats;
use tables::Tables;

/// The object that build.rs made, aligned as the ELF reader wants it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/forward.o"));

/// Names of the programs in the object; also the names of our filters in `tc filter show`.
const XDP: &str = "bascule_xdp";
const XDP_SLOW: &str = "bascule_xdp_slow";
const TC_INGRESS: &str = "bascule_tc_ingress";
const TC_SLOW: &str = "bascule_tc_slow";
const TC_EGRESS: &str = "bascule_tc_egress";
/// The arrays through which a main program jumps to its slow one.
const SLOW: [(&str, &str); 2] = [("SLOW_XDP", XDP_SLOW), ("SLOW_TC", TC_SLOW)];

/// First kernel with every helper the programs use (`bpf_tcp_raw_check_syncookie_ipv4`, commit 33bf9885040c, 6.0).
const KERNEL_FLOOR: (u8, u8) = (6, 0);

/// How to open the forwarding plane.
#[derive(Debug, Clone)]
pub struct ForwardOptions {
    /// Folder on a bpffs; created if it is missing. The pins go beside the fence's.
    pub pin_root: PathBuf,
    /// Flows that this node remembers, about 140 bytes each.
    pub flows: u32,
}

impl Default for ForwardOptions {
    fn default() -> Self {
        Self { pin_root: PathBuf::from(DEFAULT_PIN_ROOT), flows: DEFAULT_FLOWS }
    }
}

/// What the end of a start did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settled {
    /// Flows brought over from maps of former runs since [`Forward::open`].
    pub carried: u64,
    /// Links and filters taken off devices that carry forwarding no more.
    pub detached: usize,
    /// Sets of maps of former runs that were removed.
    pub sets: usize,
}

/// One of the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardProgram {
    /// XDP.
    Xdp,
    /// Its twin for devices without native XDP.
    TcIngress,
    /// Replies.
    TcEgress,
}

/// The forwarding plane of one network namespace.
pub struct Forward {
    ebpf: Ebpf,
    /// Folder of links, sets and loads.
    root: PathBuf,
    /// Folder of the maps in use.
    set: PathBuf,
    /// Folder of this load's arrays of programs.
    load: PathBuf,
    /// Complete sets of former runs that programs may still use.
    others: Vec<Set>,
    reused: bool,
    capacity: u32,
    tables: Tables,
    peers: Peers,
    stats: Stats,
    flows: Flows,
    half: OwnedFd,
    known: Known,
}

impl Forward {
    /// Checks the ground, takes over or makes the pinned maps, carries flows over and loads the programs. Devices keep what they have
    /// until [`Self::attach`].
    ///
    /// # Errors
    /// One variant per missing precondition; nothing is mounted, raised or granted here but RLIMIT_MEMLOCK on old kernels.
    pub fn open(options: &ForwardOptions) -> Result<Self, ForwardError> {
        probe::check(&options.pin_root)?;
        let (major, minor) = KERNEL_FLOOR;
        if !KernelVersion::current().is_ok_and(|found| found >= KernelVersion::new(major, minor, 0)) {
            let found = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
            return Err(ForwardError::KernelTooOld { found });
        }
        let root = sets::root(&options.pin_root)?;
        let choice = sets::choose(&root, options.flows)?;
        sets::make(&choice.dir)?;
        let load = sets::new_load(&root)?;
        probe::lift_memlock();
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(&choice.dir).map_max_entries(shapes::FLOWS, options.flows);
        for (array, _) in SLOW {
            loader.map_pin_path(array, load.join(array));
        }
        let mut ebpf = loader.load(OBJECT).map_err(|e| FenceError::Object(Box::new(e)))?;
        load_programs(&mut ebpf)?;

        let mut flows = Flows::new(take(&mut ebpf, shapes::FLOWS)?)?;
        let carried = carry::carry(&choice.others, &mut flows.map)?;
        if !choice.reused {
            let mut stamp = Array::<MapData, u64>::try_from(take(&mut ebpf, shapes::STAMP)?)
                .map_err(ForwardError::map(shapes::STAMP, "taking"))?;
            stamp.set(0, FORWARD_STAMP, 0).map_err(ForwardError::map(shapes::STAMP, "writing"))?;
            // An object whose maps differ from the ABI would be replaced at every start.
            if !shapes::all_match(&choice.dir, options.flows) {
                return Err(FenceError::Incomplete { what: "map layout of this build's ABI" }.into());
            }
        }
        let tables = Tables::new(
            take(&mut ebpf, "SERVICES")?,
            take(&mut ebpf, "ROWS")?,
            take(&mut ebpf, "SERVICE_KEYS")?,
            take(&mut ebpf, "SOURCES")?,
        )?;
        let stats = Stats::new(
            take(&mut ebpf, "TALLIES")?,
            take(&mut ebpf, "SERVICE_STATS")?,
            take(&mut ebpf, "ENDPOINT_STATS")?,
        )?;
        let half = tables::descriptor(&take(&mut ebpf, "HALF")?)?;
        let peers = Peers::new(|name| take(&mut ebpf, name))?;
        tracing::info!(pins = %choice.dir.display(), reused_maps = choice.reused, carried, "forwarding loaded");
        Ok(Self {
            ebpf,
            root,
            set: choice.dir,
            load,
            others: choice.others,
            reused: choice.reused,
            capacity: options.flows,
            tables,
            peers,
            stats,
            flows,
            half,
            known: Known::default(),
        })
    }

    /// Did a former run leave maps of this layout?
    #[must_use]
    pub const fn reused(&self) -> bool {
        self.reused
    }

    /// What the maps hold; for the balancer, before its first configuration.
    ///
    /// # Errors
    /// [`FenceError::Map`].
    pub fn recovered(&self) -> Result<Recovered, ForwardError> {
        recover::recovered(&self.tables, &self.peers)
    }

    /// Carries out one action of the balancer.
    ///
    /// # Errors
    /// [`FenceError::Map`] when a map is full or refuses, [`ForwardError::Range`].
    pub fn apply(&mut self, action: Action) -> Result<(), ForwardError> {
        match &action {
            Action::Sweep => {
                let gone = self.sweep()?;
                tracing::info!(entries = gone, "what a former run left and nobody wants is gone");
            }
            Action::PutService { slot, .. } if !self.known.services.contains_key(slot) && !self.reused => {
                self.stats.reset_service(slot.0.into())?;
            }
            Action::ClearService { slot } => self.stats.reset_service(slot.0.into())?,
            Action::RemoveEndpoint { slot } => self.stats.reset_endpoint(slot.0.into())?,
            _ => {}
        }
        self.known.apply(&mut Written { tables: &mut self.tables, peers: &mut self.peers }, action)
    }

    /// Addresses of other nodes whose way must be found, and of endpoints here whose place must be.
    #[must_use]
    pub fn wanted(&self) -> (BTreeSet<IpAddr>, BTreeSet<IpAddr>) {
        self.known.wanted()
    }

    /// The way to the node at `address`; `None`: there is none. True when that is news.
    ///
    /// # Errors
    /// [`FenceError::Map`].
    pub fn set_path(&mut self, address: IpAddr, path: Option<Path>) -> Result<bool, ForwardError> {
        if let Some(path) = path {
            self.peers.add_device(path.ifindex)?;
        }
        self.known.set_path(&mut Written { tables: &mut self.tables, peers: &mut self.peers }, address, path)
    }

    /// Where the endpoint at `address` lives. True when that is news.
    ///
    /// # Errors
    /// [`FenceError::Map`].
    pub fn set_place(&mut self, address: IpAddr, place: Place) -> Result<bool, ForwardError> {
        self.known.set_place(&mut Written { tables: &mut self.tables, peers: &mut self.peers }, address, place)
    }

    /// What this node is and how it sends. Node 0 turns forwarding off: every packet passes.
    ///
    /// # Errors
    /// [`FenceError::Map`].
    pub fn set_config(&mut self, config: &Config) -> Result<(), ForwardError> {
        self.peers.set_config(config)
    }

    /// What is written there.
    ///
    /// # Errors
    /// [`FenceError::Map`].
    pub fn config(&self) -> Result<Config, ForwardError> {
        self.peers.config()
    }

    /// Writes one of the two tag keys. Rotation: the new key into the other slot on every node, then [`Config::key_slot`] on every
    /// node, then the old slot cleared.
    ///
    /// # Errors
    /// [`FenceError::Map`].
    pub fn set_key(&mut self, slot: u32, key: &Key) -> Result<(), ForwardError> {
        if self.peers.key(slot)? == *key { Ok(()) } else { self.peers.set_key(slot, key) }
    }

    /// Writes the gateways of another site.
    ///
    /// # Errors
    /// [`FenceError::Map`], [`ForwardError::Range`].
    pub fn set_site(&mut self, site: u32, entry: &Site) -> Result<(), ForwardError> {
        if self.peers.site(site)? == *entry { Ok(()) } else { self.peers.set_site(site, entry) }
    }

    /// Pins a flow to a node (or takes that back).
    ///
    /// # Errors
    /// [`FenceError::Map`].
    pub fn set_exception(&mut self, flow: &FlowKey, node: Option<u16>) -> Result<(), ForwardError> {
        match node {
            Some(node) => self.peers.set_exception(flow, node.into()),
            None => self.peers.remove_exception(flow),
        }
    }

    /// Ends the start: every device in `devices` has the new programs, so what former runs left elsewhere goes, and the flows that their
    /// programs wrote until now come over.
    ///
    /// # Errors
    /// What could not be removed; it is tried again by the next start.
    pub fn settle(&mut self, devices: &BTreeSet<u32>) -> Result<Settled, ForwardError> {
        let mut settled = Settled { carried: carry::carry(&self.others, &mut self.flows.map)?, ..Settled::default() };
        for link in super::link::all()?.into_iter().filter(|link| !devices.contains(&link.ifindex)) {
            let removed = attach::remove(&self.root, link.ifindex)?;
            settled.detached += removed.links + removed.filters;
        }
        for ifindex in pinned_devices(&self.root)?.difference(devices) {
            settled.detached += attach::remove(&self.root, *ifindex)?.links;
        }
        let towards_nodes = self.known.devices();
        for ifindex in self.peers.devices()? {
            if !devices.contains(&ifindex) && !towards_nodes.contains(&ifindex) {
                self.peers.remove_device(ifindex)?;
            }
        }
        settled.sets = sets::keep_only(&self.root, &self.set, &self.load)?;
        self.others.clear();
        Ok(settled)
    }

    /// Removes what former runs wrote and this one does not want, and gives flows that came over this run's slots; how many entries went.
    fn sweep(&mut self) -> Result<usize, ForwardError> {
        self.known.forget_unwanted();
        let gone = recover::sweep(&self.known, &mut self.tables, &mut self.peers)?;
        Ok(gone + carry::rename(&mut self.flows, |key, flow| recover::renamed(&self.known, key, flow))?)
    }

    /// What an operator should know of this node's tables and devices.
    #[must_use]
    pub fn conditions(&self, standings: &[Standing]) -> Vec<String> {
        let mut conditions = self.known.conditions();
        for standing in standings {
            let device = &standing.device;
            let order = if standing.egress == Hook::Tcx { audit::order(device) } else { None };
            let said = standing.reasons.iter().cloned().chain(order).chain(audit::facts(device));
            conditions.extend(said.map(|what| format!("{device}: {what}")));
        }
        conditions
    }

    /// Counters of everything.
    ///
    /// # Errors
    /// [`FenceError::Map`].
    pub fn tallies(&self) -> Result<Tallies, ForwardError> {
        self.stats.tallies()
    }

    /// Frames that could not be made longer: grows on a device whose driver leaves no room before the frame.
    ///
    /// # Errors
    /// [`FenceError::Map`].
    pub fn headroom_failures(&self) -> Result<u64, ForwardError> {
        self.stats.tally_slot(PacketDrop::Headroom as u32)
    }

    /// Traffic of a service, by slot.
    ///
    /// # Errors
    /// [`FenceError::Map`], [`ForwardError::Range`].
    pub fn service_stats(&self, slot: u16) -> Result<ServiceStats, ForwardError> {
        self.stats.service(slot.into())
    }

    /// Traffic of an endpoint, by slot.
    ///
    /// # Errors
    /// [`FenceError::Map`], [`ForwardError::Range`].
    pub fn endpoint_stats(&self, slot: u16) -> Result<EndpointStats, ForwardError> {
        self.stats.endpoint(slot.into())
    }

    /// Fill of the flow table and of the half-open table, estimated.
    ///
    /// # Errors
    /// [`ForwardError::Call`].
    pub fn fill(&self) -> Result<(Fill, Fill), ForwardError> {
        flows::fill(self.flows.fd.as_fd(), self.capacity, self.half.as_fd())
    }

    /// Lists flows; `now_s` is CLOCK_BOOTTIME in seconds. Reads all of the table where few pass.
    ///
    /// # Errors
    /// [`ForwardError::Call`].
    pub fn flows(&self, filter: &FlowFilter, now_s: u32) -> Result<FlowList, ForwardError> {
        flows::list(self.flows.fd.as_fd(), filter, now_s)
    }

    /// Where a packet would go that arrived now; `now_s` is CLOCK_BOOTTIME in seconds.
    ///
    /// # Errors
    /// [`FenceError::Map`].
    pub fn trace(&self, asked: &Asked, now_s: u32) -> Result<Trace, ForwardError> {
        trace::trace(&trace::Maps { tables: &self.tables, peers: &self.peers, flows: &self.flows.map }, asked, now_s)
    }

    /// What the verifier made of the programs.
    ///
    /// # Errors
    /// [`FenceError::Program`] when the kernel does not tell.
    pub fn programs(&self) -> Result<Vec<ProgramStats>, ForwardError> {
        let stats = |name| {
            let program = self.ebpf.program(name).ok_or(FenceError::Incomplete { what: name })?;
            let info = program.info().map_err(|e| FenceError::Program { name, source: Box::new(e) })?;
            let verified_instructions = info.verified_instruction_count();
            Ok(ProgramStats { name, verified_instructions, xlated_bytes: info.size_translated() })
        };
        [XDP, XDP_SLOW, TC_INGRESS, TC_SLOW, TC_EGRESS].into_iter().map(stats).collect()
    }

    /// A loaded program, for `BPF_PROG_TEST_RUN` and inspection.
    ///
    /// # Errors
    /// [`FenceError::Incomplete`] never happens on an opened plane.
    pub fn program_fd(&self, program: ForwardProgram) -> Result<BorrowedFd<'_>, ForwardError> {
        self.program(match program {
            ForwardProgram::Xdp => XDP,
            ForwardProgram::TcIngress => TC_INGRESS,
            ForwardProgram::TcEgress => TC_EGRESS,
        })
    }

    /// The folder of links, sets and loads.
    #[must_use]
    pub fn pin_dir(&self) -> &FilePath {
        &self.root
    }

    /// The folder of the maps in use.
    #[must_use]
    pub fn map_dir(&self) -> &FilePath {
        &self.set
    }

    fn classifier(&mut self, name: &'static str) -> Result<&mut SchedClassifier, ForwardError> {
        Ok(super::program(&mut self.ebpf, name)?)
    }
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward").field("maps", &self.set).finish_non_exhaustive()
    }
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, ForwardError> {
    Ok(super::take_map(ebpf, name)?)
}

/// Loads every program, and puts the slow ones where the main ones jump to.
fn load_programs(ebpf: &mut Ebpf) -> Result<(), ForwardError> {
    let refused = |name| move |e| FenceError::Program { name, source: Box::new(e) };
    for name in [XDP, XDP_SLOW] {
        let program = ebpf.program_mut(name).ok_or(FenceError::Incomplete { what: name })?;
        let program: &mut aya::programs::Xdp = program.try_into().map_err(refused(name))?;
        program.load().map_err(refused(name))?;
    }
    for name in [TC_INGRESS, TC_SLOW, TC_EGRESS] {
        super::program(ebpf, name)?.load().map_err(refused(name))?;
    }
    for (array, slow) in SLOW {
        let mut programs =
            ProgramArray::try_from(take(ebpf, array)?).map_err(ForwardError::map(array, "taking"))?;
        let program = ebpf.program(slow).ok_or(FenceError::Incomplete { what: slow })?;
        let fd = program.fd().map_err(refused(slow))?;
        programs.set(0, fd, 0).map_err(ForwardError::map(array, "writing"))?;
    }
    Ok(())
}

/// Devices that pins of links name.
fn pinned_devices(root: &FilePath) -> Result<BTreeSet<u32>, ForwardError> {
    let mut found = BTreeSet::new();
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(e) => return Err(FenceError::io("reading", root)(e).into()),
    };
    for entry in entries {
        let entry = entry.map_err(FenceError::io("reading", root))?;
        let name = entry.file_name();
        let index: Option<u32> = name.to_str().and_then(|name| name.strip_prefix("link-")?.split('-').next()?.parse().ok());
        found.extend(index);
    }
    Ok(found)
}

/// Takes forwarding off every device of this network namespace and removes its pins.
pub(super) fn clean(pin_root: &FilePath, report: &mut CleanReport) -> Result<(), ForwardError> {
    let root = sets::root(pin_root)?;
    let devices = super::link::all()?.into_iter().map(|link| link.ifindex).chain(pinned_devices(&root)?);
    for ifindex in devices.collect::<BTreeSet<_>>() {
        let removed = attach::remove(&root, ifindex)?;
        report.links += removed.links;
        report.filters += removed.filters;
        report.qdiscs += removed.qdiscs;
    }
    report.maps += sets::remove_all(&root)?;
    match std::fs::remove_dir(&root) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(FenceError::io("removing", root)(e).into()),
        _ => Ok(()),
    }
}

// A task of the app owns it.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Forward>();
};
