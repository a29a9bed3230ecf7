//! What the other verbs stand on: Debian packages, bpf-linker, and the API server of the tests. Installs only what is missing, says so before it
//! does it, and leaves no daemon of a freshly installed package running.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::ebpf_route::{self, LINKER_VERSION};
use crate::sh;
use crate::{apiserver, chart_tools};

/// For the eBPF object by Debian's own compiler (platform.md, "Building the eBPF programs").
const BUILD_PACKAGES: &[&str] =
    &["rustc-web", "rust-web-src", "llvm-22-dev", "libpolly-22-dev", "zlib1g-dev", "libzstd-dev", "libxml2-dev"];

/// For the lab: the peers (VRRP, then BGP), the tools that make networks and faults, promtool with a real Prometheus, what the data
/// plane is measured beside, and the store of an API server with its tool.
const LAB_PACKAGES: &[&str] = &[
    "keepalived",
    "bird2",
    "frr",
    "gobgpd",
    "openbgpd",
    "exabgp",
    "tcpdump",
    "nftables",
    "ethtool",
    "iputils-arping",
    "iputils-ping",
    "iproute2",
    "prometheus",
    "haproxy",
    "etcd-server",
    "etcd-client",
];

/// The LLVM that the linker is built against moves together with the Debian packages above.
const LLVM_CONFIG: &str = "llvm-config-22";

/// Debian asks this file whether a package may start its service while it is being installed; 101 means no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// `cargo xtask setup`: as the other verbs do it, and a word when there was nothing to do.
pub(crate) fn verb() -> Result<()> {
    let installed = install()?;
    if !for_tests()? && !installed {
        println!("setup: nothing is missing");
    }
    Ok(())
}

/// For the verbs that run tests: the API server, a build of minutes that a demo does not need, and helm with kubectl. Returns whether
/// something was made.
pub(crate) fn for_tests() -> Result<bool> {
    // A turn of its own: a build of minutes must not hold up the verbs that do without it.
    let _turn = one_at_a_time("kube-apiserver.lock")?;
    let fetched = chart_tools::ensure()?;
    Ok(apiserver::ensure()? || fetched)
}

/// Everything a verb needs before it builds: packages, then the linker.
pub(crate) fn all() -> Result<()> {
    install().map(drop)
}

/// Returns whether something was installed.
fn install() -> Result<bool> {
    let started = Instant::now();
    let _turn = one_at_a_time("setup.lock")?;
    let ordinary = ordinary_route();
    let wanted = if ordinary { LAB_PACKAGES.to_vec() } else { [BUILD_PACKAGES, LAB_PACKAGES].concat() };
    let packages = packages(&wanted)?;
    let linker = if ordinary { false } else { linker()? };
    if packages || linker {
        println!("setup: done in {:.1} s", started.elapsed().as_secs_f32());
    }
    Ok(packages || linker)
}

/// `cargo xtask ebpf`: what building the objects needs, then the objects.
pub(crate) fn ebpf() -> Result<()> {
    all()?;
    let route = ebpf_route::detect()?;
    let linker = sh::output(Command::new(&route.linker).arg("--version"))?;
    println!("ebpf: building by {}, {}", route.name, linker.trim());
    for object in ebpf_route::build(&route, &sh::root().join("ebpf"))? {
        let size = fs::metadata(&object).with_context(|| format!("no object at {}", object.display()))?.len();
        println!("ebpf: {} ({size} bytes)", object.strip_prefix(sh::root()).unwrap_or(&object).display());
    }
    Ok(())
}

/// Two verbs started at once must not both call apt-get or cargo install.
fn one_at_a_time(lock: &str) -> Result<fs::File> {
    let dir = sh::cache_dir()?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let file = fs::File::create(dir.join(lock)).with_context(|| format!("cannot create the lock file {lock}"))?;
    file.lock().with_context(|| format!("cannot lock {lock}"))?;
    Ok(file)
}

/// The ordinary way, a nightly with rust-src and bpf-linker on PATH: where it is there, no compiler is installed.
fn ordinary_route() -> bool {
    ebpf_route::detect().is_ok_and(|route| route.name == "rustup nightly")
}

/// Is a program of this name in a folder of PATH?
pub(crate) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Returns whether something was installed.
fn packages(wanted: &[&str]) -> Result<bool> {
    if !on_path("dpkg-query") || !on_path("apt-get") {
        println!("setup: not a Debian-like system; the tests need the equivalent of: {}", wanted.join(" "));
        return Ok(false);
    }
    let missing = missing_packages(wanted)?;
    if missing.is_empty() {
        return Ok(false);
    }
    let names = missing.join(" ");
    if fs::metadata("/proc/self").context("/proc is not mounted")?.uid() != 0 {
        bail!(
            "packages are missing and only root can install them. Run:\n  sudo sh -c 'apt-get update && apt-get install -y --no-install-recommends {names}'"
        );
    }
    println!("setup: installing {} Debian packages: {names}", missing.len());
    let _quiet = NoServices::new()?;
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"]).args(args);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        sh::run(&mut command)
    };
    apt(&["update"])?;
    apt(&[&["install", "-y", "--no-install-recommends"], missing.as_slice()].concat())?;
    let still = missing_packages(wanted)?;
    if !still.is_empty() {
        bail!("apt-get succeeded, and these packages are still missing: {}", still.join(" "));
    }
    Ok(true)
}

fn missing_packages<'a>(wanted: &[&'a str]) -> Result<Vec<&'a str>> {
    // dpkg-query exits 1 when it does not know one of the names; what it printed for the others still holds.
    let out = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(wanted)
        .stderr(Stdio::null())
        .output()
        .context("cannot start dpkg-query")?;
    Ok(not_installed(wanted, &String::from_utf8_lossy(&out.stdout)))
}

fn not_installed<'a>(wanted: &[&'a str], listing: &str) -> Vec<&'a str> {
    let installed = |name: &str| listing.lines().any(|line| line.split_once(' ') == Some((name, "installed")));
    wanted.iter().copied().filter(|name| !installed(name)).collect()
}

/// While it lives, no package starts its service. A policy that is already there is the machine's own and stays.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn new() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("cannot write {POLICY}"))?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot chmod {POLICY}"))?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("setup: could not remove {POLICY}, which keeps packages from starting services: {error}");
        }
    }
}

/// Returns whether the linker was built.
fn linker() -> Result<bool> {
    let bin = ebpf_route::linker_cache().context("neither XDG_CACHE_HOME nor HOME is set: no place for bpf-linker")?;
    let program = bin.join("bpf-linker");
    // "--version" and not only "exists": a cache carried to a machine with another LLVM must be rebuilt, not believed.
    let version = |program: &Path| sh::output(Command::new(program).arg("--version")).unwrap_or_default();
    if version(&program).contains(LINKER_VERSION) {
        return Ok(false);
    }
    if !on_path(LLVM_CONFIG) {
        bail!(
            "bpf-linker {LINKER_VERSION} must be built and {LLVM_CONFIG} is not on PATH; install LLVM 22's development files"
        );
    }
    let prefix = sh::output(Command::new(LLVM_CONFIG).arg("--prefix"))?;
    println!("setup: building bpf-linker {LINKER_VERSION} into the cache (once per machine, about a minute)");
    let mut install = sh::cargo();
    install
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features", "llvm-22", "--root"])
        .arg(bin.parent().unwrap_or(&bin))
        .env("LLVM_PREFIX", prefix.trim())
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS");
    sh::run(&mut install)?;
    if !version(&program).contains(LINKER_VERSION) {
        bail!("cargo install succeeded, and {} does not say it is {LINKER_VERSION}", program.display());
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_counts_as_installed() {
        let listing = "tcpdump installed\nkeepalived config-files\nnftables-dev installed\n";
        assert_eq!(not_installed(&["tcpdump", "keepalived", "nftables"], listing), ["keepalived", "nftables"]);
    }

    #[test]
    fn a_machine_with_everything_needs_nothing() {
        assert!(not_installed(&["a", "b"], "a installed\nb installed\n").is_empty());
    }
}
