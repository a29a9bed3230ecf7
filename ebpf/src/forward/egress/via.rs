//! Replies that go back through the node on which the request arrived: encapsulated, and emitted there.
//!
//! The shim says FINAL and has no hops: it marks a packet whose source is the VIP. The tag's hash is that of the request, so that
//! both sides find it in the packet: its tuple reversed. Fragments have no ports, not even the first: theirs is 0 and 0.

use aya_ebpf::bindings::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC as MODE;
use aya_ebpf::programs::TcContext;
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{Config, Service};

use super::frame::Packet;
use super::lookup::Found;
use crate::verdict::Verdict;

