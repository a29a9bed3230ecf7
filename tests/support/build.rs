//! Builds the eBPF programs and puts the objects that the lab loads where `forward` embeds them.

#[path = "../../xtask/src/ebpf_route.rs"]
#[expect(dead_code, reason = "the names and constants are for xtask")]
mod ebpf_route;

fn main() {
    if let Err(message) = ebpf_route::embed("../..", &["forward.o", "bench.o"]) {
        eprintln!("{message}");
        std::process::exit(1);
    }
}
