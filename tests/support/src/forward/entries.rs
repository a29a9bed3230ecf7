//! What the maps of a site's nodes hold.

use std::net::Ipv4Addr;

use bascule_ebpf_common::forward::{Config, DEFAULT_TUNNEL_PORT, Key, OVERHEAD_V4, Service, Table};
use ipnet::IpNet;
use nix::time::ClockId;

use super::v4;
use crate::time;

/// The VIP.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
/// Port of the service and of the servers in the pods.
pub const SERVICE_PORT: u16 = 80;
/// The LAN of the nodes.
pub(super) const LAN: &str = "10.9.0.0/24";
/// The router's address on the LAN.
pub(super) const ROUTER: &str = "10.9.0.254";
/// Slot and number of the one service, and the slot of its address entry.
pub(super) const SERVICE: u32 = 1;
pub(super) const ADDRESS: u32 = 2;
/// Rows of each table: a prime that spreads six endpoints to a percent.
pub(super) const ROWS: u16 = 1021;
/// Two places per level that tables take in turn, so that no packet meets a row that is being written.
const NODE_BASES: [u32; 2] = [0, 2048];
pub(super) const ENDPOINT_BASES: [u32; 2] = [4096, 6144];
/// Path MTU of the LAN.
pub(super) const MTU: u16 = 1500;
/// TCP protocol number.
pub(super) const TCP: u8 = 6;
/// Drain time: longer than any lab run.
const DRAIN_MINUTES: u16 = 60;

/// Address of a node.
pub(super) fn address(id: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, u8::try_from(id).expect("a small id"))
}

pub(super) fn net(address: Ipv4Addr, length: u8) -> IpNet {
    IpNet::new(address.into(), length).expect("a prefix length of IPv4")
}

pub(super) fn config(id: u16) -> Config {
    Config {
        flow_key: [0x1716_1514_1312_1110, 0x1f1e_1d1c_1b1a_1918],
        address4: v4(address(id)),
        node: id,
        tunnel_port: DEFAULT_TUNNEL_PORT.to_be(),
        orphan_rate: 1000,
        icmp_rate: 1000,
        remote_rate: 1000,
        udp_idle_s: 300,
        ..Config::default()
    }
}

pub(super) fn nodes_table(epoch: u16) -> Table {
    Table { base: NODE_BASES[usize::from(epoch % 2)], rows: if epoch == 0 { 0 } else { ROWS }, epoch }
}

pub(super) fn service(nodes: Table) -> Service {
    // IPv4 header and TCP header without options: 40 bytes.
    let mss = usize::from(MTU) - OVERHEAD_V4 - 40;
    Service {
        nodes: nodes.word(),
        number: u16::try_from(SERVICE).expect("a small slot"),
        port: SERVICE_PORT.to_be(),
        protocol: TCP,
        drain_minutes: DRAIN_MINUTES,
        mss4: u16::try_from(mss).expect("below an MTU"),
        vip: v4(VIP),
        ..Service::default()
    }
}

/// Minutes of CLOCK_BOOTTIME, as rows hold them.
pub(super) fn minutes() -> u16 {
    let minutes = time::read(ClockId::CLOCK_BOOTTIME) / 60_000_000_000;
    u16::try_from(minutes % 65_536).expect("below 2^16")
}

/// The key all nodes tag with.
pub(super) fn tag_key() -> Key {
    Key { key: [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908], valid: 1 }
}
