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
#[cfg(test)]
mod apply_tests;
mod attach;
mod audit;
mod carry;
mod clean;
mod control;
mod error;
mod flows;
mod mapped;
mod peers;
mod places;
mod read;
mod recover;
mod sets;
mod shapes;
mod stats;
mod tables;
mod trace;
mod watch;

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path as FilePath, PathBuf};

use aya::maps::{Array, Map, MapData, ProgramArray};
use aya::programs::SchedClassifier;
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use bascule_ebpf_common::forward::{DEFAULT_FLOWS, FORWARD_STAMP};

pub use apply::Path;
pub use attach::Wish;
pub(super) use clean::clean;
pub use clean::stands;
pub use error::ForwardError;
pub use places::Place;
pub use read::probes;
pub use stats::Tallies;

use super::error::FenceError;
use super::{ProgramStats, pin_root, probe};
use apply::Known;
use carry::Flows;
use peers::Peers;
use sets::Set;
use stats::Stats;
use tables::Tables;
use watch::Watch;

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

impl ForwardOptions {
    /// Those of an instance.
    #[must_use]
    pub fn of(instance: u8) -> Self {
        Self { pin_root: pin_root(instance), flows: DEFAULT_FLOWS }
    }
}

impl Default for ForwardOptions {
    fn default() -> Self {
        Self::of(0)
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
    /// Flows brought over from them since the start.
    carried: u64,
    reused: bool,
    /// The tables are those of a former run, with what it wrote.
    kept: bool,
    capacity: u32,
    tables: Tables,
    peers: Peers,
    stats: Stats,
    watch: Watch,
    flows: Flows,
    half: OwnedFd,
    known: Known,
    /// [`Self::set_macs`] told some.
    own_macs: bool,
    /// Flags of [`Config`] that a former run set and this one has not decided yet: its entries and its programs go on until the sweep.
    inherited: u16,
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
        if let Some(other) = clean::other_instance(&options.pin_root)? {
            return Err(ForwardError::OneInstance { pins: other });
        }
        let root = sets::root(&options.pin_root)?;
        let choice = sets::choose(&root, options.flows)?;
        sets::make(&choice.dir)?;
        let kept = choice.reused || sets::share(&choice.others, &choice.dir)?;
        let load = sets::new_load(&root)?;
        probe::lift_memlock();
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(&choice.dir).map_max_entries(shapes::FLOWS, options.flows);
        for (array, _) in SLOW {
            loader.map_pin_path(array, load.join(array));
        }
        let mut ebpf = loader.load(OBJECT).map_err(|e| FenceError::Object(Box::new(e)))?;
        if !shapes::load_matches(&load) {
            return Err(FenceError::Incomplete { what: "arrays of slow programs of this build's ABI" }.into());
        }
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
        let watch = Watch::new(&take(&mut ebpf, "WATCHED")?)?;
        let half = tables::descriptor(&take(&mut ebpf, "HALF")?)?;
        let peers = Peers::new(|name| take(&mut ebpf, name))?;
        let mut known = Known::default();
        let mut inherited = 0;
        if kept {
            recover::seed(&mut known, &peers)?;
            inherited = peers.config()?.flags;
        }
        tracing::info!(pins = %choice.dir.display(), reused_maps = choice.reused, kept_tables = kept, carried, "forwarding loaded");
        Ok(Self {
            ebpf,
            root,
            set: choice.dir,
            load,
            others: choice.others,
            carried: 0,
            reused: choice.reused,
            kept,
            capacity: options.flows,
            tables,
            peers,
            stats,
            watch,
            flows,
            half,
            known,
            own_macs: false,
            inherited,
        })
    }

    /// Did a former run leave maps of this layout?
    #[must_use]
    pub const fn reused(&self) -> bool {
        self.reused
    }

    /// Are the tables those of a former run? So they are with reused maps, and with a new map of flows beside the former tables.
    #[must_use]
    pub const fn kept_tables(&self) -> bool {
        self.kept
    }

    /// Flows that fit.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.capacity
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
        let mut programs = ProgramArray::try_from(take(ebpf, array)?).map_err(ForwardError::map(array, "taking"))?;
        let program = ebpf.program(slow).ok_or(FenceError::Incomplete { what: slow })?;
        let fd = program.fd().map_err(refused(slow))?;
        programs.set(0, fd, 0).map_err(ForwardError::map(array, "writing"))?;
    }
    Ok(())
}

// A task of the app owns it.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Forward>();
};
