//! Names the object of the forwarding plane to the tests that run it: the one the daemon embeds, built the same way.

use std::path::PathBuf;
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
    let objects = ebpf_route::build(&route, &root.join("ebpf")).map_err(|e| e.to_string())?;
    let at = ebpf_route::OBJECTS.iter().position(|(_, name)| *name == "forward.o").ok_or("no object forward.o")?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("forward.o");
    fs::copy(&objects[at], &out).map_err(|e| format!("cannot copy to {}: {e}", out.display()))?;
    Ok(())
}
