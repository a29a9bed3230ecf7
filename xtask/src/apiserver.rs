//! Builds the API server of the tests, once: `tests/k8s` by Go into the cache. What `KUBEBUILDER_ASSETS` names is taken as it is.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::apiserver_place::{self as place, ASSETS};
use crate::setup;
use crate::sh::{self, End};

/// A build takes a quarter of this on two idle cores.
const LIMIT: Duration = Duration::from_secs(40 * 60);
/// Where Go's own installer puts it; not every shell has that folder on its PATH.
const GO: &str = "/usr/local/go/bin/go";
/// A line of progress for so many packages.
const STEP: usize = 200;
/// Lines of the compiler that a failure shows.
const SHOWN: usize = 20;

/// Everything that decides what comes out.
const INPUTS: [&str; 3] = ["go.mod", "go.sum", "main.go"];

/// The server and its store are there afterwards. Returns whether something was built.
pub(crate) fn ensure() -> Result<bool> {
    if std::env::var_os(ASSETS).is_some_and(|dir| !dir.is_empty()) {
        place::find()?;
        return Ok(false);
    }
    let dir = place::cache().context("neither XDG_CACHE_HOME nor HOME is set: no place for kube-apiserver")?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let (program, stamp) = (dir.join("kube-apiserver"), dir.join("built-from"));
    let inputs = inputs()?;
    if program.is_file() && fs::read_to_string(&stamp).is_ok_and(|built| built == inputs) {
        return Ok(false);
    }
    let started = Instant::now();
    build(&dir, &program)?;
    fs::write(&stamp, inputs).with_context(|| format!("cannot write {}", stamp.display()))?;
    println!("setup: kube-apiserver {} built in {:.0} s", place::release(), started.elapsed().as_secs_f32());
    Ok(true)
}

/// What the tests run, for the end of their report.
pub(crate) fn describe() -> String {
    match place::find() {
        Ok(found) if found.given => format!("{} (from {ASSETS})", found.apiserver.display()),
        Ok(found) => format!("kube-apiserver {} built from tests/k8s, {}", place::release(), found.etcd.display()),
        Err(missing) => missing.to_string(),
    }
}

fn inputs() -> Result<String> {
    let source = sh::root().join("tests/k8s");
    let mut all = flags();
    for name in INPUTS {
        let text = fs::read_to_string(source.join(name));
        all += &format!("\n== {name}\n{}", text.with_context(|| format!("cannot read tests/k8s/{name}"))?);
    }
    Ok(all)
}

/// The release is what `kube-apiserver --version` and `/version` say; without symbols the file has half the size.
fn flags() -> String {
    let release = place::release();
    let mut numbers = release.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let set = "-X k8s.io/component-base/version.git";
    // Quoted: it holds blanks.
    format!("-mod=readonly -trimpath '-ldflags=-s -w {set}Version={release} {set}Major={major} {set}Minor={minor}'")
}

fn go(args: &[&str]) -> Command {
    let mut command = Command::new(if setup::on_path("go") { "go" } else { GO });
    command.args(args).current_dir(sh::root().join("tests/k8s")).env("CGO_ENABLED", "0");
    // A shell's own settings must not decide what is built.
    command.env("GOFLAGS", flags()).env_remove("GOOS").env_remove("GOARCH").env_remove("GOWORK");
    command
}

fn build(dir: &Path, program: &Path) -> Result<()> {
    let release = place::release();
    if let Err(error) = sh::output(&mut go(&["version"])) {
        bail!(
            "kube-apiserver {release} must be built and Go does not run ({error:#}). Install Go 1.25 or newer, or set {ASSETS} to a \
             folder with kube-apiserver and etcd"
        );
    }
    println!(
        "setup: building kube-apiserver {release} into the cache (once per machine, about ten minutes on two cores)"
    );
    let total = packages()?;
    let (unfinished, objects) = (dir.join("unfinished"), dir.join("objects"));
    let mut command = go(&["build", "-v"]);
    // Objects of its own: they are a gigabyte, and nothing needs them once the program is there.
    command.env("GOCACHE", &objects).arg("-o").arg(&unfinished).arg(".");
    let (mut built, mut last) = (0, Vec::new());
    let end = sh::stream(&mut command, LIMIT, |line| {
        built += 1;
        if built % STEP == 0 {
            println!("setup: kube-apiserver: {built} of {total} packages");
        }
        last.push(line.to_owned());
        if last.len() > SHOWN {
            last.remove(0);
        }
    })?;
    let output = last.join("\n    ");
    match end {
        End::Exit(status) if status.success() => {}
        End::Exit(status) => bail!("building kube-apiserver {release} failed: {status}\n    {output}"),
        End::TimedOut(limit) => bail!("building kube-apiserver {release} took more than {limit:?}\n    {output}"),
    }
    let said = sh::output(Command::new(&unfinished).arg("--version"))?;
    if said.trim() != format!("Kubernetes {release}") {
        bail!("the kube-apiserver that was built says it is {:?} and not {release}", said.trim());
    }
    fs::rename(&unfinished, program).with_context(|| format!("cannot write {}", program.display()))?;
    fs::remove_dir_all(&objects).with_context(|| format!("cannot remove {}", objects.display()))
}

/// How many packages there are to build; fetches the modules.
fn packages() -> Result<usize> {
    let mut list = Vec::new();
    let mut command = go(&["list", "-deps", "-f", "{{.ImportPath}}", "."]);
    let end = sh::stream(&mut command, LIMIT, |line| list.push(line.to_owned()))?;
    match end {
        End::Exit(status) if status.success() => {
            Ok(list.iter().filter(|line| !line.starts_with("go: ") && !line.contains(' ')).count())
        }
        End::Exit(status) => {
            bail!(
                "the modules of tests/k8s cannot be had: {status}\n    {}",
                list[list.len().saturating_sub(SHOWN)..].join("\n    ")
            )
        }
        End::TimedOut(limit) => bail!("the modules of tests/k8s were not there after {limit:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_the_one_of_the_module() {
        assert!(place::release().starts_with("v1."), "{}", place::release());
        let flags = flags();
        assert!(flags.contains(&format!("gitVersion={} ", place::release())), "{flags}");
        assert!(flags.contains("gitMajor=1 ") && !flags.ends_with("='"), "{flags}");
    }

    #[test]
    fn what_the_user_names_wins_and_is_looked_for_nowhere_else() {
        let root = std::env::temp_dir().join(format!("bascule-xtask-assets-{}", std::process::id()));
        let [given, cache, system] = ["given", "cache", "system"].map(|name| root.join(name));
        let put = |dir: &Path, name: &str| {
            fs::create_dir_all(dir).unwrap();
            fs::write(dir.join(name), "").unwrap();
        };
        put(&cache, "kube-apiserver");
        put(&system, "etcd");
        put(&given, "kube-apiserver");
        let folders = std::slice::from_ref(&system);
        let built = place::look(None, Some(&cache), folders).unwrap();
        let missing = place::look(Some(&given), Some(&cache), folders).unwrap_err().to_string();
        put(&given, "etcd");
        let named = place::look(Some(&given), Some(&cache), folders).unwrap();
        let unbuilt = place::look(None, Some(&root), folders).unwrap_err().to_string();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!((built.apiserver, built.etcd), (cache.join("kube-apiserver"), system.join("etcd")));
        assert_eq!(
            (named.apiserver, named.etcd, named.given),
            (given.join("kube-apiserver"), given.join("etcd"), true)
        );
        assert!(missing.contains("no etcd in") && missing.contains(ASSETS), "{missing}");
        assert!(unbuilt.contains("no kube-apiserver in") && unbuilt.contains("cargo xtask setup"), "{unbuilt}");
    }

    #[test]
    fn what_is_built_depends_on_every_input() {
        let all = inputs().unwrap();
        assert!(INPUTS.iter().all(|name| all.contains(&format!("== {name}\n"))));
        assert!(all.contains("NewAPIServerCommand") && all.contains("h1:"));
    }
}
