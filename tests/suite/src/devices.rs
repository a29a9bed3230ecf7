//! What the tests of the forwarding plane share: devices, links on them, flows in a map.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};
use bascule::dataplane::forward::{Forward, ForwardOptions};
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{Flow, FlowKey};
pub use bascule_lab::forward::{DeviceLink, device_links, forward_links, xdp_of};

use crate::bpf;
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

/// Puts one on a device.
///
/// # Errors
/// What the kernel says.
pub fn foreign_xdp(ifindex: u32) -> Result<ForeignXdp> {
    // r0 = 2 (XDP_PASS); exit.
    let code = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    let program = bpf::load_xdp(&code).context("loading a foreign program")?;
    let link = bpf::link_xdp(program.as_fd(), ifindex).context("attaching a foreign program")?;
    Ok(ForeignXdp { _program: program, _link: link })
}

/// A tc program of somebody else at the front of a device's tcx chain: lets every frame go on. Leaves with its descriptors.
#[derive(Debug)]
pub struct ForeignTcx {
    _program: OwnedFd,
    _link: OwnedFd,
}

/// Puts one before all others.
///
/// # Errors
/// What the kernel says.
pub fn foreign_tcx(ifindex: u32, direction: TcAttachType) -> Result<ForeignTcx> {
    // r0 = -1 (TCX_NEXT); exit.
    let code = [0xffff_ffff_0000_00b7, 0x0000_0000_0000_0095];
    let program = bpf::load_tc(&code).context("loading a foreign program")?;
    let egress = direction == TcAttachType::Egress;
    let link = bpf::link_tcx_first(program.as_fd(), ifindex, egress).context("attaching a foreign program")?;
    Ok(ForeignTcx { _program: program, _link: link })
}
