//! Replies at tc egress: the VIP as their source again, checksums right to the bit, in every kind of packet that an endpoint sends; and
//! what the slow programs do with what the fast ones leave.
//!
//! What a frame must become is built from scratch and compared as a whole. Checksums half done are the live test's (`live.rs`): a test run
//! has none.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::needless_range_loop,
    clippy::precedence,
    reason = "helpers of tests: a failure ends the test, numbers are small, and `hook` names one of two"
)]

#[path = "../forward_load/frames.rs"]
#[expect(dead_code, reason = "shared with the tests of the ingress programs")]
mod frames;
mod live;
mod replies;
mod shapes;
mod slow;
#[path = "../forward_load/stage.rs"]
#[expect(dead_code, reason = "shared with the tests of the ingress programs")]
mod stage;

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::{PerCpuArray, ProgramArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use bascule_ebpf_common::forward::*;
use bascule_suite::fence::Ground;

use stage::{Family, PORT, Stage, key};

/// Ports of the endpoint and the client, as `Stage` and its frames have them.
pub(crate) const ENDPOINT_PORT: u16 = 8443;
pub(crate) const CLIENT_PORT: u16 = 40_000;

pub(crate) fn on_ground(body: impl Fn(&Ground, &Path) -> Result<()> + Send + 'static) {
    Ground::run(move |ground| body(ground, ground.root())).unwrap();
}

/// A node with the slow programs behind the fast ones, and an address entry for each VIP.
pub(crate) fn node(dir: &Path, id: u8, v6: bool) -> Result<Stage> {
    let mut stage = Stage::new(dir, id, v6)?;
    for (map, name) in [("SLOW_XDP", "bascule_xdp_slow"), ("SLOW_TC", "bascule_tc_slow")] {
        let fd = stage.ebpf.program(name).context("slow")?.fd()?.try_clone()?;
        let mut array = ProgramArray::try_from(stage.ebpf.map_mut(map).context("map")?)?;
        array.set(0, &fd, 0)?;
    }
    for (slot, family) in [(11, stage::V4), (13, stage::V6)] {
        let service = Service {
            nodes: Table { base: 0, rows: 1, epoch: 9 }.word(),
            flags: SERVICE_ADDRESS,
            vip: key(family.vip),
            ..Service::default()
        };
        stage.array::<Service>("SERVICES")?.set(slot, service, 0)?;
        stage.hash::<ServiceKey, u32>("SERVICE_KEYS")?.insert(ServiceKey::new(key(family.vip), 0, 0), slot, 0)?;
    }
    let mut config = stage.array::<Config>("CONFIG")?.get(&0, 0)?;
    config.icmp_rate = 1000;
    stage.config(&config)?;
    Ok(stage)
}

/// Slot of the family's service (and endpoint) of `protocol`.
pub(crate) fn slot(f: Family, protocol: u8) -> u32 {
    f.slot + u32::from(protocol == 17)
}

pub(crate) fn flow_key(f: Family, protocol: u8) -> FlowKey {
    FlowKey {
        client: key(f.client),
        endpoint: key(f.endpoint),
        client_port: CLIENT_PORT.to_be(),
        endpoint_port: ENDPOINT_PORT.to_be(),
        protocol,
        pad: [0; 3],
    }
}

pub(crate) fn flow(f: Family, protocol: u8) -> Flow {
    let slot = u16::try_from(slot(f, protocol)).unwrap();
    Flow { vip: key(f.vip), vip_port: PORT.to_be(), service: slot, endpoint: slot, ingress: 2, ..Flow::default() }
}

pub(crate) fn half(f: Family) -> Half {
    let slot = u16::try_from(f.slot).unwrap();
    Half { vip: key(f.vip), vip_port: PORT.to_be(), service: slot, endpoint: slot, ingress: 2 }
}

/// Runs a frame through tc egress: verdict and frame.
pub(crate) fn leave(stage: &Stage, frame: &[u8]) -> Result<(i32, Vec<u8>)> {
    let mut out = vec![0u8; frame.len() + 256];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    let tc: &SchedClassifier = stage.ebpf.program("bascule_tc_egress").context("egress")?.try_into()?;
    let result = tc.test_run(options)?;
    out.truncate(result.data_size_out as usize);
    Ok((result.return_value.cast_signed(), out))
}

pub(crate) fn endpoint_stats(stage: &mut Stage, slot: u32) -> Result<EndpointStats> {
    let map: PerCpuArray<_, EndpointStats> =
        PerCpuArray::try_from(stage.ebpf.map_mut("ENDPOINT_STATS").context("map")?)?;
    let mut sum = EndpointStats::default();
    for cpu in map.get(&slot, 0)?.iter() {
        sum.packets += cpu.packets;
        sum.syn_acks += cpu.syn_acks;
        sum.resets += cpu.resets;
        sum.replies += cpu.replies;
        sum.reply_bytes += cpu.reply_bytes;
    }
    Ok(sum)
}

/// The endpoint's side and the VIP's side of a reply.
pub(crate) fn sides(f: Family) -> [(IpAddr, u16); 2] {
    [(f.endpoint, ENDPOINT_PORT), (f.vip, PORT)]
}

/// The client's side.
pub(crate) fn client(f: Family) -> (IpAddr, u16) {
    (f.client, CLIENT_PORT)
}
