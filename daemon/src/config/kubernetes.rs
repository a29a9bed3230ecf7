//! How this node reaches the Kubernetes API, when anything in the file needs it.

use std::path::{Path, PathBuf};

use super::read::Map;
use super::values;

/// The section `kubernetes`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kubernetes {
    /// A kubeconfig; without one the pod's ServiceAccount is used. It need not be there yet: a control plane is still being made.
    pub kubeconfig: Option<PathBuf>,
}

/// Reads the section: `Some(None)` when there is none, `None` when an error was noted.
#[expect(clippy::option_option, reason = "absent, wrong and given are three things")]
pub(super) fn read(file: &Map<'_>, base_dir: &Path) -> Option<Option<Kubernetes>> {
    if !file.has("kubernetes") {
        return Some(None);
    }
    let map = file.section("kubernetes")?;
    let kubeconfig = if map.has("kubeconfig") { Some(map.text("kubeconfig", values::path)?) } else { None };
    Some(Some(Kubernetes { kubeconfig: kubeconfig.map(|path| base_dir.join(path.value)) }))
}
