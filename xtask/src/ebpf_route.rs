//! Finds a compiler that can build the eBPF programs, and builds them. Used by the build scripts of the daemon, the lab and the
//! suite (by path) and by `cargo xtask ebpf`, so all always take the same route. Only std: it runs before anything else is built.
//!
//! Needed are a `rustc` whose sysroot holds the sources of `core` (the target has no prebuilt one) and `bpf-linker`
//! built on an LLVM no older than the compiler's. Two routes give them:
//!
//! (a) the nightly toolchain of rustup with the component rust-src, and bpf-linker on PATH;
//! (b) a distribution compiler with its sources (Debian: rustc-web and rust-web-src), and bpf-linker on PATH or in the
//!     cache that `cargo xtask ebpf` fills.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target of the programs: little-endian eBPF.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// The objects that cargo leaves in the target folder, and the name under which the daemon embeds each.
pub(crate) const OBJECTS: [(&str, &str); 2] = [("bascule-fence", "fence.o"), ("bascule-forward", "forward.o")];
/// The object beside them that only tests and benches load.
const BENCH_OBJECT: (&str, &str) = ("bascule-bench", "bench.o");
/// The linker version whose LLVM fits the Debian compiler; part of the cache path.
pub(crate) const LINKER_VERSION: &str = "0.13.0";
/// What cargo would inherit from an outer cargo, rustup or clippy, and what would then build the wrong thing.
const INHERITED: [&str; 14] = [
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_MAKEFLAGS",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "LD_LIBRARY_PATH",
];

/// A complete way to build the programs.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// `rustup nightly` or `system rustc`, for messages.
    pub(crate) name: &'static str,
    /// The compiler.
    pub(crate) rustc: PathBuf,
    /// The cargo to drive it with.
    pub(crate) cargo: PathBuf,
    /// The linker.
    pub(crate) linker: PathBuf,
}

/// Why there is no object.
#[derive(Debug)]
pub(crate) enum RouteError {
    /// Neither route is complete.
    NoRoute {
        /// Was any compiler with the sources of `core` found?
        compiler: bool,
        /// Was bpf-linker found?
        linker: bool,
    },
    /// Cargo could not be started.
    Spawn(std::io::Error),
    /// Cargo failed; its output.
    Build(String),
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute { compiler, linker } => {
                let have = |b: &bool| if *b { "found" } else { "missing" };
                write!(
                    f,
                    "cannot build the eBPF programs: a rustc with the sources of core is {}, bpf-linker is {}. Run `cargo \
                     xtask ebpf`, which installs what is missing; or take one of the two routes by hand: (a) `rustup \
                     toolchain install nightly --component rust-src` and bpf-linker on PATH; (b) the packages rustc-web \
                     and rust-web-src, and bpf-linker {LINKER_VERSION} on PATH or in {}",
                    have(compiler),
                    have(linker),
                    linker_cache().map_or_else(|| "the cache".to_owned(), |p| p.display().to_string()),
                )
            }
            Self::Spawn(e) => write!(f, "cannot start cargo for the eBPF programs: {e}"),
            Self::Build(output) => write!(f, "the eBPF programs do not build:\n{output}"),
        }
    }
}

impl std::error::Error for RouteError {}

/// Where `cargo install --root` puts the linker: `${XDG_CACHE_HOME:-~/.cache}/bascule/bpf-linker-<version>/bin`.
pub(crate) fn linker_cache() -> Option<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME")?).join(".cache"),
    };
    Some(cache.join("bascule").join(format!("bpf-linker-{LINKER_VERSION}")).join("bin"))
}

/// Finds the first complete route.
pub(crate) fn detect() -> Result<Route, RouteError> {
    let on_path = search_path("bpf-linker");
    let cached = linker_cache().map(|dir| dir.join("bpf-linker")).filter(|p| p.is_file());
    let nightly = nightly_rustc();
    if let (Some(rustc), Some(linker)) = (nightly.clone(), on_path.first()) {
        return Ok(Route { name: "rustup nightly", cargo: cargo_beside(&rustc), rustc, linker: linker.clone() });
    }
    let system = search_path("rustc").into_iter().find(|rustc| has_core_sources(rustc));
    // The cached linker is the one whose LLVM is known to fit.
    let linker = cached.or_else(|| on_path.first().cloned());
    match (system, linker) {
        (Some(rustc), Some(linker)) => Ok(Route { name: "system rustc", cargo: cargo_beside(&rustc), rustc, linker }),
        (rustc, linker) => Err(RouteError::NoRoute { compiler: rustc.or(nightly).is_some(), linker: linker.is_some() }),
    }
}

/// Builds the programs in `ebpf_dir` by `route`, and gives the paths of the objects in the order of [`OBJECTS`].
///
/// The target folder is the workspace's own (`ebpf_dir/target`): an outer cargo holds no lock on it, and every profile
/// and check of the outer workspace shares the one build.
pub(crate) fn build(route: &Route, ebpf_dir: &Path) -> Result<[PathBuf; OBJECTS.len()], RouteError> {
    let target_dir = ebpf_dir.join("target");
    let mut cargo = Command::new(&route.cargo);
    cargo.current_dir(ebpf_dir);
    for name in INHERITED {
        cargo.env_remove(name);
    }
    // BTF for bpftool and the verifier's log; -Zbuild-std wants an unstable switch even from a stable compiler.
    let flags = ["-C", "debuginfo=2", "-C", "link-arg=--btf"].join("\u{1f}");
    cargo
        .env("RUSTC", &route.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &route.linker)
        .args(["build", "--release", "--locked", "--quiet", "-Z", "build-std=core", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target_dir);
    let output = cargo.output().map_err(RouteError::Spawn)?;
    if !output.status.success() {
        return Err(RouteError::Build(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let release = target_dir.join(TARGET).join("release");
    Ok(OBJECTS.map(|(built, _)| release.join(built)))
}

/// What a build script does with the programs: builds them, copies those called `names` (`fence.o`, `forward.o`, `bench.o`) to where the
/// crate embeds them, and asks to be run again when a source of theirs or the route changes. `root` is the repository, seen from the package.
pub(crate) fn embed(root: &str, names: &[&str]) -> Result<(), String> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?).join(root);
    for source in sources() {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    let route = detect().map_err(|e| e.to_string())?;
    let objects = build(&route, &root.join("ebpf")).map_err(|e| e.to_string())?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    for name in names {
        let known = OBJECTS.iter().chain([&BENCH_OBJECT]).find(|(_, object)| object == name);
        let (built, _) = known.ok_or_else(|| format!("there is no object {name}"))?;
        let (from, to) = (objects[0].with_file_name(built), out.join(name));
        std::fs::copy(&from, &to).map_err(|e| format!("cannot copy {} to {}: {e}", from.display(), to.display()))?;
    }
    Ok(())
}

/// The files and folders whose change asks for a new build, relative to the root of the repository.
pub(crate) fn sources() -> [&'static str; 8] {
    [
        "ebpf/Cargo.toml",
        "ebpf/Cargo.lock",
        "ebpf/src",
        "ebpf/common/Cargo.toml",
        "ebpf/common/src",
        "ebpf/common/layout-v1.txt",
        "ebpf/common/layout-forward-v1.txt",
        "xtask/src/ebpf_route.rs",
    ]
}

/// Every file called `name` in the folders of PATH, in order.
fn search_path(name: &str) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|dir| dir.join(name)).filter(|p| p.is_file()).collect()
}

/// The real compiler of rustup's nightly (its proxy would obey rust-toolchain.toml), if its rust-src is there.
fn nightly_rustc() -> Option<PathBuf> {
    let output = stripped("rustup".as_ref()).args(["run", "nightly", "rustc", "--print", "sysroot"]).output().ok()?;
    let sysroot = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    let rustc = sysroot.join("bin").join("rustc");
    (output.status.success() && core_sources(&sysroot) && rustc.is_file()).then_some(rustc)
}

/// Does the compiler bring the sources of `core`? A proxy of rustup answers for the toolchain it would choose.
fn has_core_sources(rustc: &Path) -> bool {
    stripped(rustc)
        .args(["--print", "sysroot"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .is_some_and(|sysroot| core_sources(Path::new(sysroot.trim())))
}

fn core_sources(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
}

/// The cargo of the same toolchain, else the one that runs us, else PATH's.
fn cargo_beside(rustc: &Path) -> PathBuf {
    let beside = rustc.with_file_name("cargo");
    if beside.is_file() {
        return beside;
    }
    PathBuf::from(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

fn stripped(program: &Path) -> Command {
    let mut command = Command::new(program);
    for name in INHERITED {
        command.env_remove(name);
    }
    command
}
