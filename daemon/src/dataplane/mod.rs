//! The fence in the kernel: loads the eBPF programs, keeps them on the links and writes what they enforce.
//!
//! What a frame may do is decided in `ebpf/` (tabulated in `docs/fence.md`); who owns what is decided elsewhere and
//! arrives here as [`ShardCtl`]. Everything is pinned under one folder per network namespace, so that a daemon that dies
//! leaves its programs standing: their deadlines pass and the node falls silent. Foreign types (aya) stay in here.
//!
//! Calls act in the network namespace of the calling thread; one [`Fence`] belongs to one namespace.

mod attach;
mod clean;
mod clsact;
mod error;
pub mod forward;
mod forwarded;
mod guard;
mod link;
mod pins;
mod probe;
mod registry;
mod rtnl;
mod sys;
mod writer;

use std::fmt;
use std::fs::DirBuilder;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use bascule_ebpf_common::{ABI_STAMP, COUNTER_ADVERTS_PASSED, DropReason, LinkInfo, MAX_SHARDS, ShardCtl, ShardKernel};

pub use attach::{Attach, AttachKind};
pub use clean::{CleanReport, clean, clean_fence, clean_forward};
pub use error::FenceError;
pub use forwarded::{Forwarded, Opening};
pub use guard::{FenceGuard, Found, Look};
pub use registry::Family;
pub use writer::FenceWriter;

use forwarded::ForwardedMap;
use guard::Stands;
use registry::Registry;

/// The object that build.rs made, aligned as the ELF reader wants it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fence.o"));

/// Names of the programs in the object; also the names of our filters in `tc filter show`.
const INGRESS: &str = "bascule_ingress";
const EGRESS: &str = "bascule_egress";

/// Where the pins of every namespace live by default: one folder per network namespace below it.
pub const DEFAULT_PIN_ROOT: &str = "/sys/fs/bpf/bascule/v1";

/// Where the pins of an instance live, when several daemons share a node: that of instance 0 is [`DEFAULT_PIN_ROOT`].
#[must_use]
pub fn pin_root(instance: u8) -> PathBuf {
    match instance {
        0 => PathBuf::from(DEFAULT_PIN_ROOT),
        further => PathBuf::from(format!("{DEFAULT_PIN_ROOT}{INSTANCE}{further}")),
    }
}

/// Where the pins of the second fence of an instance live, which silences endpoints of services whose lease is elsewhere: the same object, with
/// maps of its own. As any further instance it stands by tcx only.
#[must_use]
pub fn term_root(instance: u8) -> PathBuf {
    PathBuf::from(format!("{DEFAULT_PIN_ROOT}{INSTANCE}terms-{instance}"))
}

/// Between the root of instance 0 and the number of another one. bpffs takes no dots (`bpf_lookup` in kernel/bpf/inode.c).
const INSTANCE: &str = "-instance-";

/// How to open the fence.
#[derive(Debug, Clone)]
pub struct FenceOptions {
    /// Folder on a bpffs; created if it is missing. The pins go into a folder named by the network namespace's inode.
    pub pin_root: PathBuf,
}

impl FenceOptions {
    /// Those of an instance.
    #[must_use]
    pub fn of(instance: u8) -> Self {
        Self { pin_root: pin_root(instance) }
    }
}

impl Default for FenceOptions {
    fn default() -> Self {
        Self::of(0)
    }
}

/// Which of the two programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Judges frames that arrive.
    Ingress,
    /// Judges frames that leave, and extends deadlines.
    Egress,
}

/// What the verifier made of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramStats {
    /// Name of the program.
    pub name: &'static str,
    /// Instructions the verifier walked (Linux 5.16; `None` before).
    pub verified_instructions: Option<u32>,
    /// Bytes of the program after translation.
    pub xlated_bytes: Option<u32>,
}

/// Counters since the maps were made, summed over the CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Own adverts that were let out.
    pub adverts_passed: u64,
    drops: [u64; DropReason::ALL.len()],
}

impl Counters {
    /// Frames dropped for `reason`.
    #[must_use]
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize - 1]
    }

    /// Frames dropped for any reason.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }
}

/// The fence of one network namespace.
///
/// Dropping it leaves everything in place (that is its purpose); [`clean`] and [`Fence::detach`] take it away.
pub struct Fence {
    ebpf: Ebpf,
    dir: PathBuf,
    registry: Registry,
    forwarded: ForwardedMap,
    links: HashMap<MapData, u32, LinkInfo>,
    counters: PerCpuArray<MapData, u64>,
    writer: FenceWriter,
    stands: Stands,
}

impl Fence {
    /// Checks the ground, takes over or makes the pinned maps, closes every shard and loads the programs.
    ///
    /// Programs of a former run that still stand on links go on enforcing; [`Fence::attach`] replaces them. The VIPs of
    /// a former run stay registered (and closed) until they are registered anew or [`Fence::clear`] is called.
    ///
    /// # Errors
    /// One [`FenceError`] variant per missing precondition; nothing is mounted, raised or granted here but
    /// RLIMIT_MEMLOCK on kernels before 5.11.
    pub fn open(options: &FenceOptions) -> Result<Self, FenceError> {
        probe::check(&options.pin_root)?;
        let dir = probe::pin_dir(&options.pin_root)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(FenceError::io("creating the pin folder", &dir))?;
        let reused = pins::reuse_or_remove(&dir)?;
        probe::lift_memlock();
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(&dir)
            .load(OBJECT)
            .map_err(|e| FenceError::Object(Box::new(e)))?;

        let mut writer = FenceWriter::new(take_map(&mut ebpf, "CTL")?, take_map(&mut ebpf, "KERNEL")?)?;
        writer.close_all()?;
        let mut stamp = Array::<MapData, u64>::try_from(take_map(&mut ebpf, pins::STAMP)?)
            .map_err(FenceError::map(pins::STAMP, "taking"))?;
        if !reused {
            stamp.set(0, ABI_STAMP, 0).map_err(FenceError::map(pins::STAMP, "writing"))?;
        }
        let registry = Registry::new(take_map(&mut ebpf, "VIPS")?, take_map(&mut ebpf, "ADVERTS")?)?;
        let forwarded = ForwardedMap::new(take_map(&mut ebpf, "FORWARDED")?)?;
        let links = HashMap::try_from(take_map(&mut ebpf, "LINKS")?).map_err(FenceError::map("LINKS", "taking"))?;
        let counters =
            PerCpuArray::try_from(take_map(&mut ebpf, "COUNTERS")?).map_err(FenceError::map("COUNTERS", "taking"))?;
        for name in [INGRESS, EGRESS] {
            program(&mut ebpf, name)?.load().map_err(|e| FenceError::Program { name, source: Box::new(e) })?;
        }
        tracing::info!(pins = %dir.display(), reused_maps = reused, "fence loaded");
        Ok(Self { ebpf, dir, registry, forwarded, links, counters, writer, stands: Stands::default() })
    }

    /// Makes `slot` guard exactly `vips` and `adverts` on `ifindex`: what it guarded before and no longer does is
    /// released, so remove the address from the link first. A VIP that another slot held moves to this one.
    ///
    /// # Errors
    /// [`FenceError::Slot`], or [`FenceError::Map`] when a map is full; then the slot may hold part of the list.
    pub fn register(
        &mut self,
        slot: u32,
        ifindex: u32,
        vips: &[IpAddr],
        adverts: &[(Family, u8)],
    ) -> Result<(), FenceError> {
        writer::check_slot(slot)?;
        self.registry.register(slot, ifindex, vips, adverts)
    }

    /// Forgets what `slot` guards and closes it.
    ///
    /// # Errors
    /// [`FenceError::Slot`] and [`FenceError::Map`].
    pub fn unregister(&mut self, slot: u32) -> Result<(), FenceError> {
        self.write(slot, &ShardCtl::default())?;
        self.registry.unregister(slot)
    }

    /// Forgets every VIP, advert and forwarded frame, also those of a former run, and closes every shard.
    ///
    /// # Errors
    /// [`FenceError::Map`].
    pub fn clear(&mut self) -> Result<(), FenceError> {
        self.writer.close_all()?;
        self.forwarded.take(&Opening::Whole(Vec::new()))?;
        self.registry.clear()
    }

    /// Opens `deliver` for frames on this node, whoever owns their VIPs: what the forwarding plane serves here. ARP and NDP stay
    /// with the owner. What a former run opened stays open until the first whole word.
    ///
    /// # Errors
    /// [`FenceError::Map`] when the map is full; then a part may be open, and the next word tries the rest again.
    pub fn forward(&mut self, opening: &Opening) -> Result<(), FenceError> {
        self.forwarded.take(opening)
    }

    /// Writes the will of user space for `slot`: one system call, fit for the real-time thread.
    ///
    /// # Errors
    /// [`FenceError::Slot`], [`FenceError::TermZero`], [`FenceError::Map`].
    pub fn write(&mut self, slot: u32, ctl: &ShardCtl) -> Result<(), FenceError> {
        self.writer.write(slot, ctl)
    }

    /// Reads both halves of a shard.
    ///
    /// # Errors
    /// [`FenceError::Slot`], [`FenceError::Map`].
    pub fn read(&self, slot: u32) -> Result<(ShardCtl, ShardKernel), FenceError> {
        self.writer.read(slot)
    }

    /// A second handle that can only write and read shards, for another thread.
    ///
    /// # Errors
    /// [`FenceError::Io`] when the process is out of file descriptors.
    pub fn writer(&self) -> Result<FenceWriter, FenceError> {
        self.writer.try_clone()
    }

    /// Reads the counters.
    ///
    /// # Errors
    /// [`FenceError::Map`].
    pub fn counters(&self) -> Result<Counters, FenceError> {
        let sum = |slot: u32| -> Result<u64, FenceError> {
            let values = self.counters.get(&slot, 0).map_err(FenceError::map("COUNTERS", "reading"))?;
            Ok(values.iter().sum())
        };
        let mut counters = Counters { adverts_passed: sum(COUNTER_ADVERTS_PASSED)?, ..Counters::default() };
        for (drops, reason) in counters.drops.iter_mut().zip(DropReason::ALL) {
            *drops = sum(reason as u32)?;
        }
        Ok(counters)
    }

    /// What the verifier made of the two programs.
    ///
    /// # Errors
    /// [`FenceError::Program`] when the kernel does not tell.
    pub fn programs(&self) -> Result<Vec<ProgramStats>, FenceError> {
        [INGRESS, EGRESS]
            .into_iter()
            .map(|name| {
                let program = self.ebpf.program(name).ok_or(FenceError::Incomplete { what: name })?;
                let info = program.info().map_err(|e| FenceError::Program { name, source: Box::new(e) })?;
                Ok(ProgramStats {
                    name,
                    verified_instructions: info.verified_instruction_count(),
                    xlated_bytes: info.size_translated(),
                })
            })
            .collect()
    }

    /// The loaded program of one direction, for `BPF_PROG_TEST_RUN` and inspection.
    ///
    /// # Errors
    /// [`FenceError::Incomplete`] never happens on an opened fence.
    pub fn program_fd(&self, direction: Direction) -> Result<BorrowedFd<'_>, FenceError> {
        let name = match direction {
            Direction::Ingress => INGRESS,
            Direction::Egress => EGRESS,
        };
        self.ebpf
            .program(name)
            .and_then(|program| program.fd().ok())
            .map(|fd| fd.as_fd())
            .ok_or(FenceError::Incomplete { what: name })
    }

    /// The folder of this fence's pins.
    #[must_use]
    pub fn pin_dir(&self) -> &Path {
        &self.dir
    }

    /// How many shards there are; slots are below it.
    #[must_use]
    pub const fn slots() -> u32 {
        MAX_SHARDS
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence").field("pins", &self.dir).finish_non_exhaustive()
    }
}

fn take_map(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, FenceError> {
    ebpf.take_map(name).ok_or(FenceError::Incomplete { what: name })
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, FenceError> {
    let program = ebpf.program_mut(name).ok_or(FenceError::Incomplete { what: name })?;
    program.try_into().map_err(|e| FenceError::Program { name, source: Box::new(e) })
}

// The driver moves the fence and its writer into its threads.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Fence>();
    is_send::<FenceWriter>();
};
