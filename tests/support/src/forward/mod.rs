//! The forwarding plane in the lab: the real programs loaded into a namespace, their maps written by a small control plane of
//! the lab's own, and a site of balancers, homes and pods behind a router that spreads flows.
//!
//! Nothing here decides as the daemon does: tables are the simplest ones that keep the rules of the ABI (rendezvous hashing, a
//! changed row pushes its home back), so that programs are shown to keep flows under any table that keeps those rules.

mod bench_programs;
mod budget;
mod crew;
mod daemon_agreement;
mod daemon_config;
mod daemon_events;
mod daemons;
mod entries;
mod error;
mod fleet;
mod fleet_traffic;
mod forge;
mod ground;
mod kills;
mod ledger;
mod links;
mod lost;
mod mapped;
mod node;
mod rotation;
mod site;
mod sites;
mod survive;
mod table;
mod tallies;
mod wires;

#[path = "../../../../ebpf/src/bench/abi.rs"]
mod bench_abi;

pub use bench_abi::{Control, HEAD_WORDS, MAX_PACKETS, Packet, SHORT_WORDS, SINK_OTHER, SINK_SLOTS, SINK_UDP};
pub use bench_programs::{BenchPrograms, Sinks, UnderTest};
pub use budget::BUDGETS;
pub use crew::{Crew, CrewNode, stands, write_secret};
pub use daemon_events::{ALL, SHORT, survive_daemons};
pub use daemons::DaemonSite;
pub use entries::{SERVICE_PORT, VIP};
pub use fleet::{FLEET_FLOW_KEY, FLEET_NUMBER, FLEET_VIP, Fleet};
pub use fleet_traffic::{Toll, Traffic, unless_void};
pub use forge::{Encapsulated, ipv4, send_frame};
pub use kills::{Dice, KillPlan, KillReport, kills};
pub use ledger::{CLIENTS, Counted, ENCAPSULATION, OTHER};
pub use links::{DeviceLink, device_links, forward_links, links_in, xdp_of};
pub use lost::LostCopies;
pub use node::{Hook, NodePrograms, ProgramSize, v4};
pub use rotation::{RotationReport, rotate, tag_key};
pub use site::{Layout, Member, Pod, Site};
pub use sites::TwoSites;
pub use survive::{Event, Stage, Step, Survival, survive};
pub use table::{homes, push};
pub use tallies::Tallies;
pub use wires::{cable, nsid};

/// The object with the programs that ship.
static FORWARD: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/forward.o"));
/// The object with the shim, floors, sinks and generators.
static BENCH: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench.o"));

// SAFETY: `repr(C)`, `Copy`, no padding (its size is asserted beside it), every bit pattern valid.
unsafe impl aya::Pod for Packet {}
// SAFETY: as above.
unsafe impl aya::Pod for Control {}
