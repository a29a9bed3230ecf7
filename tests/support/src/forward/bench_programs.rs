//! The test programs: shim, floor, sink, generators.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use aya::maps::{Array, Map, PerCpuArray, ProgramArray};
use aya::programs::{ProgramFd, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, TestRun, TestRunAttrs, TestRunOptions};

use super::bench_abi::{Control, MAX_PACKETS, Packet, SINK_OTHER, SINK_UDP};
use super::error::{bpf, missing};
use super::mapped::Mapped;
use crate::{Netns, Result};

/// Programs that end a path or hold a veth open, by their name in the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sinks {
    /// Counts UDP over IPv4 and drops it.
    Udp,
    /// Passes everything: XDP sends only to a veth whose peer has a program.
    Pass,
}

/// Words of a [`Packet`]: its length and padding are the first.
const PACKET_WORDS: usize = size_of::<Packet>() / 8;

/// What the shim calls.
#[derive(Debug, Clone, Copy)]
pub enum UnderTest<'a> {
    /// A shipped program.
    Program(&'a ProgramFd),
    /// The cheapest program: what the shim itself costs.
    Floor,
    /// The program that counts whole frames and spoils them.
    Spoil,
}

/// The test programs, loaded once; several devices may share them.
pub struct BenchPrograms {
    ebpf: Ebpf,
    array: Mapped,
    /// How many packets the array holds now.
    pub packets: u32,
}

impl BenchPrograms {
    /// Loads everything, with room for `packets` golden packets.
    ///
    /// # Errors
    /// When the kernel refuses a program or a map.
    pub fn load(packets: u32) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("PACKETS", packets.clamp(1, MAX_PACKETS))
            .load(super::BENCH)
            .map_err(bpf("the bench object"))?;
        for name in ["shim", "floor", "spoil", "pass", "send", "sink"] {
            program(&mut ebpf, name)?.load().map_err(bpf(name))?;
        }
        let Some(Map::Array(data)) = ebpf.map("PACKETS") else { return Err(missing("PACKETS")) };
        let array = Mapped::new(data.fd().as_fd(), packets.clamp(1, MAX_PACKETS) as usize * PACKET_WORDS)?;
        Ok(Self { ebpf, array, packets: 0 })
    }

    /// Fills the array, from its start.
    ///
    /// # Panics
    /// When there is no room for so many.
    pub fn fill(&mut self, packets: impl IntoIterator<Item = Packet>) {
        self.packets = 0;
        for packet in packets {
            let words = [u64::from(packet.length)].into_iter().chain(packet.head);
            self.array.write(self.packets as usize * PACKET_WORDS, words);
            self.packets += 1;
        }
    }

    /// Writes the control entry.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn control(&mut self, control: Control) -> Result<()> {
        let map = self.ebpf.map_mut("CONTROL").ok_or_else(|| missing("CONTROL"))?;
        let mut array: Array<_, Control> = Array::try_from(map).map_err(bpf("CONTROL"))?;
        array.set(0, control, 0).map_err(bpf("CONTROL"))
    }

    /// Puts a program under test.
    ///
    /// # Errors
    /// When its type or kind does not fit the shim's.
    pub fn under_test(&mut self, test: UnderTest<'_>) -> Result<()> {
        match test {
            UnderTest::Program(fd) => self.slot(fd),
            UnderTest::Floor => self.own_under_test("floor"),
            UnderTest::Spoil => self.own_under_test("spoil"),
        }
    }

    fn own_under_test(&mut self, name: &'static str) -> Result<()> {
        let fd = program(&mut self.ebpf, name)?.fd().map_err(bpf(name))?;
        let fd = fd.try_clone().map_err(bpf(name))?;
        self.slot(&fd)
    }

    fn slot(&mut self, fd: &ProgramFd) -> Result<()> {
        let map = self.ebpf.map_mut("UNDER_TEST").ok_or_else(|| missing("UNDER_TEST"))?;
        let mut array = ProgramArray::try_from(map).map_err(bpf("UNDER_TEST"))?;
        array.set(0, fd, 0).map_err(bpf("the program under test"))
    }

    /// Replays `flows` packets in a circle, `repeat` of them, through the program under test. Gives the last verdict and the mean time
    /// of one packet, shim included, in nanoseconds. Acts in the calling thread's namespace, whose loopback is the device.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn replay(&mut self, flows: u32, repeat: u32) -> Result<(u32, f64)> {
        self.control(Control { count: flows.min(self.packets), ..Control::default() })?;
        // Everything below the head is the same for all packets; 0xff shows where a program leaves it to what was there.
        let frame = [0xffu8; 256];
        let options = TestRunOptions { data_in: Some(&frame), repeat, ..TestRunOptions::new() };
        let shim: &Xdp = self.ebpf.program("shim").ok_or_else(|| missing("shim"))?.try_into().map_err(bpf("shim"))?;
        let result = shim.test_run(options).map_err(bpf("test_run of the shim"))?;
        Ok((result.return_value, result.duration.as_secs_f64() * 1e9))
    }

    /// Sends `count` packets out of the calling thread's namespace by the device that `control` names: golden packets in a circle.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn send(&mut self, control: Control, count: u32) -> Result<()> {
        self.own_under_test("send")?;
        self.control(Control { count: self.packets, ..control })?;
        let length = usize::try_from(self.array.word(0).load(Ordering::Relaxed)).unwrap_or_default();
        self.live("shim", &[0u8; 256][..length], count)
    }

    fn live(&self, name: &str, frame: &[u8], count: u32) -> Result<()> {
        let xdp: &Xdp = self.ebpf.program(name).ok_or_else(|| missing(name))?.try_into().map_err(bpf(name))?;
        let attrs = TestRunAttrs::new().xdp_live_frames(64);
        let options = TestRunOptions { data_in: Some(frame), repeat: count, attrs, ..TestRunOptions::new() };
        xdp.test_run(options).map(drop).map_err(bpf(name))
    }

    /// Attaches a sink to a device of `netns`, in native mode, for as long as these programs live.
    ///
    /// # Errors
    /// When the device cannot take it.
    pub fn attach(&mut self, netns: &Netns, device: &str, sink: Sinks) -> Result<()> {
        let name = match sink {
            Sinks::Udp => "sink",
            Sinks::Pass => "pass",
        };
        let xdp = program(&mut self.ebpf, name)?;
        netns.run(|| xdp.attach(device, XdpMode::Driver)).map(drop).map_err(bpf(device))
    }

    /// Frames the sinks saw: UDP, and all others.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn sunk(&self) -> Result<(u64, u64)> {
        let map = self.ebpf.map("SINK").ok_or_else(|| missing("SINK"))?;
        let array: PerCpuArray<_, u64> = PerCpuArray::try_from(map).map_err(bpf("SINK"))?;
        let sum = |slot| array.get(&slot, 0).map(|cpus| cpus.iter().sum()).map_err(bpf("SINK"));
        Ok((sum(SINK_UDP)?, sum(SINK_OTHER)?))
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    ebpf.program_mut(name).ok_or_else(|| missing(name))?.try_into().map_err(bpf(name))
}
