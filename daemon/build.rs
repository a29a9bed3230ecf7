//! Builds the eBPF programs and puts the objects where `dataplane` embeds them.
//!
//! Runs again only when the programs, the ABI or the route change, so an ordinary build pays nothing for it.

#[path = "../xtask/src/ebpf_route.rs"]
#[expect(dead_code, reason = "the names and constants are for xtask")]
mod ebpf_route;

fn main() {
    if let Err(message) = ebpf_route::embed("..", &["fence.o", "forward.o"]) {
        eprintln!("{message}");
        std::process::exit(1);
    }
}
