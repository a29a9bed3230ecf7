//! Where the API server of the tests is: said once, for `cargo xtask`, which builds it, and for the lab (by path), which starts it.
//! Only std.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

/// envtest's name for the folder with `kube-apiserver` and `etcd`; set by the user it wins.
pub(crate) const ASSETS: &str = "KUBEBUILDER_ASSETS";
/// What the server is built from; its release stands here and nowhere else.
const GO_MOD: &str = include_str!("../../tests/k8s/go.mod");

/// The two programs.
#[derive(Debug, Clone)]
pub(crate) struct Assets {
    /// The API server.
    pub(crate) apiserver: PathBuf,
    /// Its store.
    pub(crate) etcd: PathBuf,
    /// They are the user's.
    pub(crate) given: bool,
}

/// Which of them is not there.
#[derive(Debug)]
pub(crate) struct Missing {
    program: &'static str,
    looked: String,
    given: bool,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, looked, given } = self;
        let cure =
            if *given { "it was named by KUBEBUILDER_ASSETS" } else { "`cargo xtask setup` builds or installs it" };
        write!(f, "no {program} in {looked}: {cure}")
    }
}

impl std::error::Error for Missing {}

/// The release of Kubernetes that tests/k8s names: `v1.35.4`.
pub(crate) fn release() -> &'static str {
    GO_MOD.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes ")).map_or("", str::trim)
}

/// Where the build puts it: `${XDG_CACHE_HOME:-~/.cache}/bascule/kube-apiserver-<release>`.
pub(crate) fn cache() -> Option<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute()) {
        Some(dir) => dir,
        None => PathBuf::from(env::var_os("HOME")?).join(".cache"),
    };
    Some(cache.join("bascule").join(format!("kube-apiserver-{}", release())))
}

/// The programs as they are there now.
pub(crate) fn find() -> Result<Assets, Missing> {
    let given = env::var_os(ASSETS).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian's package puts etcd there, whatever PATH says.
    let folders: Vec<PathBuf> = env::split_paths(&path).chain([PathBuf::from("/usr/bin")]).collect();
    look(given.as_deref(), cache().as_deref(), &folders)
}

/// In what the user named and nowhere else; without that, the server in the cache and etcd in these folders.
pub(crate) fn look(given: Option<&Path>, cache: Option<&Path>, folders: &[PathBuf]) -> Result<Assets, Missing> {
    let built: Vec<PathBuf> = cache.into_iter().map(Path::to_path_buf).collect();
    let named: Vec<PathBuf> = given.into_iter().map(Path::to_path_buf).collect();
    let (servers, stores) = if given.is_some() { (&named[..], &named[..]) } else { (&built[..], folders) };
    let program = |program: &'static str, folders: &[PathBuf]| {
        let found = folders.iter().map(|dir| dir.join(program)).find(|path| path.is_file());
        found.ok_or_else(|| {
            let looked: Vec<String> = folders.iter().map(|dir| dir.display().to_string()).collect();
            Missing { program, looked: looked.join(", "), given: given.is_some() }
        })
    };
    let (apiserver, etcd) = (program("kube-apiserver", servers)?, program("etcd", stores)?);
    Ok(Assets { apiserver, etcd, given: given.is_some() })
}
