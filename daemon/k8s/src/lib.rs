//! Bascule's door to the Kubernetes API. What kube and k8s-openapi know stops here: the public items speak in `bascule-core`'s types and
//! in plain ones of their own. A crate and not a room of the daemon, because the generics of kube are the slowest part of a build.
//!
//! [`Elector`] drives one [`bascule_core::election::lease::kube::KubeLease`]: it sends what the machine asks for, each request once and
//! within its deadline, and hands out what the machine decides as [`bascule_core::election::lease::Word`]s. It decides nothing itself.

mod access;
mod allocator;
mod crd;
mod elector;
mod exchange;
mod follow;
mod object;
mod reader;
mod record;
mod report;
mod request;
mod state;
mod watch;

pub use access::Access;
pub use allocator::{ALLOCATOR_LEASE, Allocator, AllocatorConfig, AllocatorState};
pub use crd::{GROUP, definitions};
pub use elector::{Elector, ElectorConfig};
pub use object::rule::Check;
pub use reader::{Pace, Reader, ReaderConfig};
pub use report::{Holder, ReportState, Reporter, VipStatus};
pub use state::ApiState;

/// `loadBalancerClass` of Services that are ours.
pub const CLASS: &str = "bascule.dev/vip";

/// Which Lease an elector stands on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LeaseName {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl std::fmt::Display for LeaseName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
