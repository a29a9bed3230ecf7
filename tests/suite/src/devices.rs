//! What the tests of the forwarding plane share: devices, links on them, flows in a map.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};
use bascule::dataplane::forward::{Forward, ForwardOptions};
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{Flow, FlowKey};
pub use bascule_lab::forward::{DeviceLink, device_links, forward_links, xdp_of};

use crate::fence::Ground;

/// A veth pair `va`-`vb` in the ground's namespace; the index of `va`.
///
/// # Errors
/// When it cannot be made.
pub fn veth(ground: &Ground) -> Result<u32> {
    ground.ip("link add va type veth peer name vb")?;
    ground.ip("link set va up")?;
    ground.ip("link set vb up")?;
    ground.ifindex("va")
}

/// Options for this ground; the flow table is small, because every test makes its own.
#[must_use]
pub fn options(ground: &Ground) -> ForwardOptions {
    ForwardOptions { pin_root: ground.root().to_owned(), flows: 65_536 }
}

/// Opens the forwarding plane here.
///
/// # Errors
/// As [`Forward::open`].
pub fn open(ground: &Ground) -> Result<Forward> {
    Ok(Forward::open(&options(ground))?)
}

/// The names of the programs that stand on a device of this namespace.
///
/// # Errors
/// When the kernel does not tell.
pub fn program_names(ifindex: u32) -> Result<Vec<String>> {
    let device = nix::net::if_::if_indextoname(ifindex)?.into_string()?;
    let mut names = Vec::new();
    for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
        let (_, chain) = SchedClassifier::query_tcx(&device, direction)?;
        names.extend(chain.iter().filter_map(|info| info.name_as_str().map(str::to_owned)));
    }
    let xdp = xdp_of(&device)?;
    let xdp = xdp.and_then(|id| loaded_programs().flatten().find(|info| info.id() == id));
    names.extend(xdp.and_then(|info| info.name_as_str().map(str::to_owned)));
    Ok(names)
}

/// A flow of the service 10.9.0.100:443 to the endpoint 10.0.0.1:8443, with slots of no run.
#[must_use]
pub fn flow(n: u32, seen_s: u32) -> (FlowKey, Flow) {
    let [_, _, high, low] = n.to_be_bytes();
    let key = FlowKey {
        client: VipKey::v4([192, 0, high, low]),
        endpoint: VipKey::v4([10, 0, 0, 1]),
        client_port: 40_000u16.to_be(),
        endpoint_port: 8443u16.to_be(),
        protocol: 6,
        pad: [0; 3],
    };
    let flow = Flow {
        vip: VipKey::v4([10, 9, 0, 100]),
        vip_port: 443u16.to_be(),
        service: 77,
        endpoint: 78,
        seen_s,
        ..Flow::default()
    };
    (key, flow)
}

fn flow_map(maps: &Path) -> Result<HashMap<MapData, FlowKey, Flow>> {
    Ok(HashMap::try_from(Map::LruHashMap(MapData::from_pin(maps.join("FLOWS"))?))?)
}

/// Writes a flow as a program would.
///
/// # Errors
/// When the map refuses.
pub fn put_flow(maps: &Path, (key, flow): &(FlowKey, Flow)) -> Result<()> {
    Ok(flow_map(maps)?.insert(key, flow, 0)?)
}

/// Every flow.
///
/// # Errors
/// When the map cannot be read.
pub fn flows(maps: &Path) -> Result<Vec<(FlowKey, Flow)>> {
    Ok(flow_map(maps)?.iter().collect::<Result<_, _>>()?)
}

/// A program of somebody else: passes every frame. Leaves its device with the last of the two descriptors.
#[derive(Debug)]
pub struct ForeignXdp {
    _program: OwnedFd,
    _link: OwnedFd,
}

/// Commands, types and flags of linux/bpf.h and linux/if_link.h.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// The front of the arguments of BPF_PROG_LOAD.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    rest: [u64; 4],
}

/// Puts one on a device.
///
/// # Errors
/// What the kernel says.
pub fn foreign_xdp(ifindex: u32) -> Result<ForeignXdp> {
    // r0 = 2 (XDP_PASS); exit.
    let code: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    let mut load = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: 2,
        insns: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        rest: [0; 4],
    };
    let program = call(BPF_PROG_LOAD, &mut load).context("loading a foreign program")?;
    let mut create = [u32::try_from(program.as_raw_fd())?, ifindex, BPF_XDP, XDP_FLAGS_DRV_MODE];
    let link = call(BPF_LINK_CREATE, &mut create).context("attaching a foreign program")?;
    Ok(ForeignXdp { _program: program, _link: link })
}

/// A tc program of somebody else at the front of a device's tcx chain: lets every frame go on. Leaves with its descriptors.
#[derive(Debug)]
pub struct ForeignTcx {
    _program: OwnedFd,
    _link: OwnedFd,
}

/// Types and flags of linux/bpf.h.
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
const BPF_F_BEFORE: u32 = 1 << 3;

/// Puts one before all others.
///
/// # Errors
/// What the kernel says.
pub fn foreign_tcx(ifindex: u32, direction: TcAttachType) -> Result<ForeignTcx> {
    // r0 = -1 (TCX_NEXT); exit.
    let code: [u64; 2] = [0xffff_ffff_0000_00b7, 0x0000_0000_0000_0095];
    let mut load = ProgLoad {
        prog_type: BPF_PROG_TYPE_SCHED_CLS,
        insn_cnt: 2,
        insns: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        rest: [0; 4],
    };
    let program = call(BPF_PROG_LOAD, &mut load).context("loading a foreign program")?;
    let at = if direction == TcAttachType::Egress { BPF_TCX_EGRESS } else { BPF_TCX_INGRESS };
    // Nothing relative to which, no revision expected: the front of the chain.
    let mut create = [u32::try_from(program.as_raw_fd())?, ifindex, at, BPF_F_BEFORE, 0, 0, 0, 0];
    let link = call(BPF_LINK_CREATE, &mut create).context("attaching a foreign program")?;
    Ok(ForeignTcx { _program: program, _link: link })
}

fn call<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is what the command reads, and what it points to outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) })
}
