//! One TCP connection: what each kernel holds, in order, and nothing of what the speakers think.

use std::collections::VecDeque;

use bascule_bgp::io::Conn;

/// What travels one way, in this order.
#[derive(Debug)]
pub(super) enum Item {
    /// The second segment of the handshake.
    SynAck,
    Data(Vec<u8>),
    Fin,
}

/// One end.
#[derive(Debug)]
pub(super) struct End {
    pub(super) node: usize,
    pub(super) conn: Conn,
    /// The driver has it.
    pub(super) open: bool,
    /// The machine lost it with its power.
    pub(super) gone: bool,
    /// Handed to the driver and not yet to the kernel.
    pub(super) unsent: VecDeque<u8>,
    /// Not acknowledged.
    pub(super) in_kernel: usize,
    pub(super) watched: bool,
    /// On its way to the other end, with the time of arrival.
    pub(super) way: VecDeque<(u64, Item)>,
    pub(super) fin_queued: bool,
}

impl End {
    pub(super) fn new(node: usize, conn: Conn, open: bool) -> Self {
        Self {
            node,
            conn,
            open,
            gone: false,
            unsent: VecDeque::new(),
            in_kernel: 0,
            watched: false,
            way: VecDeque::new(),
            fin_queued: false,
        }
    }
}

/// End 0 dialled.
#[derive(Debug)]
pub(super) struct Tcp {
    pub(super) ends: [End; 2],
    /// A middlebox forgot it.
    pub(super) forgotten: bool,
}

/// What a driver has to do with its speaker, in the order in which it learned of it.
#[derive(Debug)]
pub(super) enum In {
    Input(bascule_bgp::io::Input<'static>),
    Bytes(Conn, Vec<u8>),
    Accepted {
        tcp: usize,
    },
    Connected(Conn),
    /// The kernel has room: of connection `tcp`, end.
    Room(usize, usize),
    Closed(Conn, Option<&'static str>),
}
