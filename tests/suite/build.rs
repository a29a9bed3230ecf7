//! Names the object of the forwarding plane to the tests that run it: the one the daemon embeds, built the same way.

#[path = "../../xtask/src/ebpf_route.rs"]
#[expect(dead_code, reason = "the names and constants are for xtask")]
mod ebpf_route;

fn main() {
    if let Err(message) = ebpf_route::embed("../..", &["forward.o"]) {
        eprintln!("{message}");
        std::process::exit(1);
    }
}
