//! How this node reaches the Kubernetes API, when anything in the file needs it, and what it makes of the cluster's Services.

mod bfd;
mod services;

use std::path::{Path, PathBuf};

use super::read::{Errors, Map};
use super::values;
pub use bfd::ClusterBfd;
pub use services::{ClusterServices, Source};

/// The section `kubernetes`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kubernetes {
    /// A kubeconfig; without one the pod's ServiceAccount is used. It need not be there yet: a control plane is still being made.
    pub kubeconfig: Option<PathBuf>,
    /// What is made of the cluster's Services; `None`: nothing.
    pub services: Option<ClusterServices>,
}

/// Reads the section: `Some(None)` when there is none, `None` when an error was noted.
#[expect(clippy::option_option, reason = "absent, wrong and given are three things")]
pub(super) fn read(file: &Map<'_>, base_dir: &Path, errors: &Errors) -> Option<Option<Kubernetes>> {
    if !file.has("kubernetes") {
        return Some(None);
    }
    let map = file.section("kubernetes")?;
    // Everything is read before the first `?`, so that every error is noted.
    let kubeconfig = map.has("kubeconfig").then(|| map.text("kubeconfig", values::path));
    let cluster = map.has("cluster").then(|| map.text("cluster", values::name));
    let services = map.has("services").then(|| services::read(file, &map, cluster.as_ref(), base_dir, errors));
    let kubeconfig = kubeconfig.map_or(Some(None), |read| read.map(Some))?;
    cluster.map_or(Some(None), |read| read.map(Some))?;
    let services = services.map_or(Some(None), |read| read.map(Some))?;
    Some(Some(Kubernetes { kubeconfig: kubeconfig.map(|path| base_dir.join(path.value)), services }))
}
