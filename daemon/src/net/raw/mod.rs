//! Non-blocking sockets for an epoll loop: VRRP, neighbour frames, the peer channel, BFD.
//!
//! None of them decides whether a packet is good: checksums, TTL and contents are judged by `bascule-core`.

mod bfd;
mod message;
mod neighbor;
mod options;
mod peer;
mod vrrp;

pub use bfd::{BfdListener, BfdSender};
pub use message::Datagram;
pub use neighbor::NeighborSocket;
pub use peer::PeerSocket;
pub use vrrp::VrrpSocket;
