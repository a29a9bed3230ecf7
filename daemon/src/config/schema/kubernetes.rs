//! The part of the table that concerns the Kubernetes API.

use super::Absent::Words;
use super::Kind::Text;
use super::{Section, field};

pub(super) static KUBERNETES: Section = Section {
    path: "kubernetes",
    about: "How the Kubernetes API is reached. Nothing here is needed by VIPs that VRRP elects.",
    fields: &[field(
        "kubeconfig",
        Text { what: "a path", right: "a kubeconfig" },
        Words("the pod's ServiceAccount"),
        "Credentials and address of the API server. The file may appear later. A relative path starts at the configuration file.",
    )],
};
