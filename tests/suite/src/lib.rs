//! What the functional tests share beyond the lab.

pub mod askers;
mod bpf;
pub mod candidate;
pub mod cluster;
pub mod control_plane;
pub mod devices;
pub mod etcd;
pub mod fence;
pub mod forward;
pub mod image;
pub mod manifests;
pub mod net;
pub mod pair;
pub mod traffic;
