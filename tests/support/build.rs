//! Builds the eBPF programs and puts the objects that the lab loads where `forward` embeds them.

use std::path::{Path, PathBuf};
use std::{env, fs, process};

#[path = "../../xtask/src/ebpf_route.rs"]
#[expect(dead_code, reason = "the names and constants are for xtask")]
mod ebpf_route;

fn main() {
    if let Err(message) = run() {
        eprintln!("{message}");
        process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?).join("../..");
    for source in ebpf_route::sources() {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    let route = ebpf_route::detect().map_err(|e| e.to_string())?;
    let [fence, forward] = ebpf_route::build(&route, &root.join("ebpf")).map_err(|e| e.to_string())?;
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    for (object, name) in [(forward, "forward.o"), (fence.with_file_name(ebpf_route::BENCH_OBJECT), "bench.o")] {
        let out = Path::new(&out).join(name);
        fs::copy(&object, &out).map_err(|e| format!("cannot copy {} to {}: {e}", object.display(), out.display()))?;
    }
    Ok(())
}
