//! The programs as a subject: loaded from the daemon's object, their maps filled, run by `BPF_PROG_TEST_RUN`.

mod cookie;
mod maps;
mod sockets;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{DevMapHash, MapData, ProgramArray};
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use bascule_ebpf_common::forward::{FlowKey, ServiceStats, TALLIES};

use super::judge::{Seen, Shown};
use super::model::{Clock, Sockets, State};
use super::subject::{Subject, endpoint_moved};
use super::text::{Fixture, Side, World};
use crate::bpf::{self, Ran};
use crate::fence::{Ground, Netns, boot_ns};

/// Where the frames meet the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The XDP program, new headroom filled with 0xff.
    Xdp,
    /// The tc programs.
    Tc,
}

/// Devices and another namespace for the endpoints.
#[derive(Debug)]
pub struct Arena {
    pods: Netns,
    devices: Vec<(String, u32)>,
    netns: i32,
}

impl Arena {
    /// Makes the devices `up` and `back` and the namespace `a`.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn new(ground: &Ground) -> Result<Self> {
        let pods = Netns::new()?;
        pods.inside(|| ground.ip("link set lo up"))?;
        ground.ip(&format!("link add name up type veth peer name upp netns {}", pods.path()))?;
        ground.ip("link add name back type veth peer name backp")?;
        for link in ["up", "back", "backp"] {
            ground.ip(&format!("link set dev {link} up"))?;
        }
        let shown = ground.ip("-o link show dev up")?;
        let id = shown.split("link-netnsid ").nth(1).and_then(|rest| rest.split_whitespace().next());
        let netns = id.with_context(|| format!("no namespace id: {shown}"))?.parse()?;
        let devices = vec![("up".to_owned(), ground.ifindex("up")?), ("back".to_owned(), ground.ifindex("back")?)];
        Ok(Self { pods, devices, netns })
    }
}

/// One loaded object and one hook of it.
pub struct Programs<'a> {
    arena: &'a Arena,
    ebpf: Ebpf,
    hook: Hook,
    touched: maps::Touched,
    cpus: usize,
    held: sockets::Held,
}

impl std::fmt::Debug for Programs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Programs").field("hook", &self.hook).finish_non_exhaustive()
    }
}

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/forward.o"));

/// The object under test: the one built, or the file that `BASCULE_FORWARD_OBJECT` names.
fn object() -> Result<Vec<u8>> {
    match std::env::var_os("BASCULE_FORWARD_OBJECT") {
        Some(path) => std::fs::read(&path).with_context(|| PathBuf::from(path).display().to_string()),
        None => Ok(OBJECT.to_vec()),
    }
}

impl<'a> Programs<'a> {
    /// Loads the object with maps of its own.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn load(ground: &Ground, arena: &'a Arena, hook: Hook) -> Result<Self> {
        let pins = ground.root().join(format!("{hook:?}"));
        std::fs::create_dir_all(&pins)?;
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(&pins);
        for name in ["FLOWS", "HALF", "EXCEPTIONS", "FRAGMENTS"] {
            loader.map_max_entries(name, 16_384);
        }
        let mut ebpf = loader.load(&object()?)?;
        let names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
        for name in &names {
            let program = ebpf.program_mut(name).context("just named")?;
            if name.contains("xdp") {
                <&mut Xdp>::try_from(program)?.load().with_context(|| name.clone())?;
            } else {
                <&mut SchedClassifier>::try_from(program)?.load().with_context(|| name.clone())?;
            }
        }
        for (array, name) in [("SLOW_XDP", "bascule_xdp_slow"), ("SLOW_TC", "bascule_tc_slow")] {
            let fd = ebpf.program(name).with_context(|| format!("no program {name}"))?.fd()?.try_clone()?;
            let mut slow = ProgramArray::try_from(ebpf.map_mut(array).with_context(|| array.to_owned())?)?;
            slow.set(0, &fd, 0)?;
        }
        let mut map = DevMapHash::try_from(ebpf.map_mut("DEVICES").context("DEVICES")?)?;
        for (_, ifindex) in &arena.devices {
            map.insert(*ifindex, *ifindex, None, 0)?;
        }
        let cpus = aya::util::nr_cpus().map_err(|(what, e)| anyhow::anyhow!("{what}: {e}"))?;
        Ok(Self { arena, ebpf, hook, touched: maps::Touched::default(), cpus, held: sockets::Held::default() })
    }

    /// Fills the maps and opens the sockets.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn fill(&mut self, state: &State) -> Result<()> {
        self.fill_maps(state)?;
        self.open(&state.sockets)
    }

    /// Fills the maps alone.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn fill_maps(&mut self, state: &State) -> Result<()> {
        maps::fill(&mut self.ebpf, state, &mut self.touched)
    }

    /// Opens these sockets and closes those of before.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(&mut self, wanted: &Sockets) -> Result<()> {
        self.held = sockets::Held::default();
        self.held = sockets::open(wanted, &self.arena.pods)?;
        Ok(())
    }

    fn program(&self, name: &str) -> Result<BorrowedFd<'_>> {
        let fd = self.ebpf.program(name).with_context(|| format!("no program {name}"))?.fd()?.as_fd();
        // SAFETY: the descriptor lives as long as the object.
        Ok(unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) })
    }

    /// Runs one frame.
    ///
    /// # Errors
    /// What the kernel says, and verdicts that no program may give.
    pub fn one(&self, side: Side, device: u32, frame: &[u8]) -> Result<(Shown, Vec<u8>)> {
        if self.hook == Hook::Xdp && side == Side::In {
            let (verdict, out) = bpf::xdp(self.program("bascule_xdp")?, device, frame, bpf::HEADROOM)?;
            let shown = match verdict {
                1 => Shown::Drop,
                2 => Shown::Pass,
                3 => Shown::Transmit,
                4 => Shown::Redirect,
                other => bail!("verdict {other}"),
            };
            return Ok((shown, out));
        }
        let name = if side == Side::In { "bascule_tc_ingress" } else { "bascule_tc_egress" };
        let Ran { verdict, frame: out, .. } = bpf::tc(self.program(name)?, device, frame, 1)?;
        let shown = match verdict {
            -1 => Shown::Pass,
            2 => Shown::Drop,
            7 => Shown::Sent,
            other => bail!("verdict {other}"),
        };
        Ok((shown, out))
    }

    /// The tallies, summed over the CPUs.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn tallies(&mut self) -> Result<Vec<u64>> {
        let map: aya::maps::PerCpuArray<&MapData, u64> =
            aya::maps::PerCpuArray::try_from(self.ebpf.map("TALLIES").context("TALLIES")?)?;
        ensure!(map.len() == TALLIES, "slots of the tallies");
        let aya::maps::Map::PerCpuArray(data) = self.ebpf.map("TALLIES").context("TALLIES")? else {
            bail!("TALLIES is no per-CPU array");
        };
        Ok(bpf::sums(data.fd().as_fd(), TALLIES as usize, self.cpus)?)
    }

    /// The flow table.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn flows(&mut self) -> Result<std::collections::HashMap<FlowKey, bascule_ebpf_common::forward::Flow>> {
        maps::flows(&mut self.ebpf)
    }

    /// The half-open table.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn half(&mut self) -> Result<std::collections::HashMap<FlowKey, bascule_ebpf_common::forward::Half>> {
        maps::half(&mut self.ebpf)
    }

    /// The exceptions: nodes to which flows are pinned.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn pins(&mut self) -> Result<std::collections::HashMap<FlowKey, u16>> {
        maps::pins(&mut self.ebpf)
    }
}

impl Subject for Programs<'_> {
    fn name(&self) -> &'static str {
        match self.hook {
            Hook::Xdp => "xdp",
            Hook::Tc => "tc",
        }
    }

    fn now(&self) -> Clock {
        Clock { seconds: u32::try_from(boot_ns() / 1_000_000_000).expect("136 years") }
    }

    fn ground(&self) -> (Vec<(String, u32)>, i32) {
        (self.arena.devices.clone(), self.arena.netns)
    }

    fn cookie(&mut self, key: &FlowKey, sequence: u32) -> Result<u32> {
        Ok(cookie::acknowledgement(key, sequence)?)
    }

    fn run(&mut self, world: &World, side: Side, device: u32, frames: &[Vec<u8>]) -> Result<Seen> {
        self.fill(&world.state)?;
        let (last, earlier) = frames.split_last().context("a frame")?;
        for frame in earlier {
            self.one(side, device, frame)?;
        }
        let services: Vec<u16> = world.state.services.keys().copied().collect();
        let endpoints: Vec<u16> = world.state.endpoints.keys().copied().collect();
        let flows = maps::flows(&mut self.ebpf)?;
        let half = maps::half(&mut self.ebpf)?;
        let pins = maps::pins(&mut self.ebpf)?;
        let service_stats = maps::service_stats(&mut self.ebpf, &services)?;
        let endpoint_stats = maps::endpoint_stats(&mut self.ebpf, &endpoints)?;
        let tallies = self.tallies()?;
        let (verdict, frame) = self.one(side, device, last)?;
        let moved: BTreeMap<u32, u64> = (0..)
            .zip(self.tallies()?.iter().zip(&tallies).map(|(after, before)| after - before))
            .filter(|(_, delta)| *delta != 0)
            .collect();
        let service_after = maps::service_stats(&mut self.ebpf, &services)?;
        let endpoint_after = maps::endpoint_stats(&mut self.ebpf, &endpoints)?;
        let services = service_after.iter().map(|(slot, b)| {
            let a = service_stats[slot];
            let delta = ServiceStats {
                packets: b.packets - a.packets,
                bytes: b.bytes - a.bytes,
                new_flows: b.new_flows - a.new_flows,
                orphans: b.orphans - a.orphans,
                asked: b.asked - a.asked,
            };
            (*slot, delta)
        });
        Ok(Seen {
            verdict,
            frame,
            tallies: moved,
            flows: [flows, maps::flows(&mut self.ebpf)?],
            half: [half, maps::half(&mut self.ebpf)?],
            pins: [pins, maps::pins(&mut self.ebpf)?],
            services: services.collect(),
            endpoints: endpoint_after.iter().map(|(s, b)| (*s, endpoint_moved(endpoint_stats[s], *b))).collect(),
        })
    }

    fn shows(&self, fixture: &Fixture) -> bool {
        match self.hook {
            Hook::Xdp => fixture.side == Side::In && fixture.tc_only.is_none(),
            Hook::Tc => fixture.xdp_only.is_none(),
        }
    }
}
