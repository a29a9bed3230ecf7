//! The lab: network namespaces, bridges, clients, processes, faults, a sniffer and a prober, all as guards.
//!
//! Everything a [`Lab`] makes has a name that starts with its unique prefix and goes away when its guard is dropped, also
//! while a test unwinds. What a SIGKILLed run left behind is removed by the next [`Lab::new`]. Traffic stays inside
//! namespaces made here. Times are [`Stamp`]s: one clock (CLOCK_MONOTONIC) for probes, frames and faults.
//!
//! Needs root, iproute2 and nftables. Synchronous: threads, no async runtime.

pub mod apiserver;
mod asker;
pub mod audit;
pub mod bascule;
mod bridge;
mod capture;
mod command;
mod error;
pub mod etcd;
mod fault;
pub mod forward;
mod group;
mod http;
pub mod keepalived;
mod lab;
pub mod leased;
mod leftovers;
mod long_cable;
mod netns;
pub mod pki;
mod pod;
mod probe;
mod process;
pub mod queues;
mod report;
mod responder;
pub mod router;
pub mod scale;
mod sched;
pub mod sites;
mod sniffer;
mod tcp_probe;
mod time;
mod udp_probe;
mod wall;
mod wire;

pub use asker::ArpAsker;
pub use bridge::{Bridge, BridgeOptions, Port, Trunk};
pub use command::tool;
pub use error::{LabError, Result};
pub use fault::{Direction, Dropper, Filter, PlantedOwner};
pub use lab::Lab;
pub use leftovers::clean_on_signals;
pub use long_cable::{CableEnd, LongCable, Torn};
pub use netns::Netns;
pub use pod::{Pod, documents};
pub use probe::{Gap, Lateness, Probe, Record};
pub use process::{Process, ProcessBuilder, SchedClass};
pub use report::{Report, Row, Samples};
pub use responder::Responder;
pub use sched::{fifo, fifo_threads};
pub use sniffer::{Dual, Sniffer};
pub use tcp_probe::TcpProber;
pub use time::{Stamp, sleep_until, wait_for};
pub use udp_probe::{ProbeOptions, UdpProber};
pub use wall::Wall;
pub use wire::{Frame, Kind, Mac, classify};
