//! What goes into a prober and what comes out of it. Events are the machine's own: [`bascule_core::site::path::io::Event`].

use std::sync::Arc;

use bascule_core::site::path::io::{Config, Evidence, Status};
use bascule_core::time::Instant;
use bascule_core::wire::site::PairKeys;
use serde::Serialize;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use crate::clock::Clock;

/// One flow: a socket that is connected to the other node, made by [`super::open`].
#[derive(Debug)]
pub struct Flow {
    /// The socket.
    pub socket: UdpSocket,
    /// Its number, where that is not its place in the list: between sites of different sizes some numbers are nobody's.
    pub number: Option<u8>,
}

/// All that a prober must know.
#[derive(Debug)]
pub struct PathConfig {
    /// Of the machine; the number of its flows is what the numbers of `flows` come to.
    pub machine: Config,
    /// In the order of their numbers, from 0 where they say none.
    pub flows: Vec<Flow>,
    /// A random number that no earlier process of this node used.
    pub run: u32,
    /// For the jitter.
    pub seed: u64,
    /// Clocks.
    pub clock: Arc<dyn Clock>,
}

/// What a prober is told.
#[derive(Debug)]
pub enum Command {
    /// Other keys, the first to sign with.
    Keys(PairKeys),
    /// What the data path saw.
    Evidence(Evidence),
    /// How is it?
    Status(oneshot::Sender<PathStatus>),
}

/// Datagrams, since start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Given to the kernel.
    pub sent: u64,
    /// Not taken by the kernel: larger than the link.
    pub too_large: u64,
    /// Not taken by the kernel, for another reason.
    pub send_errors: u64,
    /// Read.
    pub received: u64,
    /// Errors of sockets while reading: ICMP errors mostly.
    pub receive_errors: u64,
    /// Dropped unread: more than a flow may have.
    pub flooded: u64,
}

/// How a path is.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PathStatus {
    /// What the machine knows, with what it refused.
    pub path: Status,
    /// Datagrams.
    pub counters: Counters,
    /// The path is down, and this is when the last packet got through: nanoseconds of the prober's clock.
    pub silent_since: Option<Instant>,
}
