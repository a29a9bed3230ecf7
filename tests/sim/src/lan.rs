//! The LAN: which frame arrives where, when, and how often.

use std::net::IpAddr;

use bascule_core::node::io::Input;
use bascule_core::wire::vrrp::HOP_LIMIT;

use crate::rng::Rng;
use crate::scenario::{LINK, Net};

/// What travels.
#[derive(Clone, Debug)]
pub enum Body {
    /// An advert with TTL 255.
    Vrrp {
        /// IP source.
        src: IpAddr,
        /// IP destination.
        dst: IpAddr,
        /// IP payload.
        payload: Vec<u8>,
    },
    /// An ARP or NDP frame.
    Frame(Vec<u8>),
    /// A datagram to the peer port.
    Peer {
        /// IP source.
        src: IpAddr,
        /// The datagram.
        payload: Vec<u8>,
    },
    /// A client asks who has an address (ARP request or NS; the model needs no bytes).
    Ask(IpAddr),
    /// A kernel answers it.
    Answer(IpAddr),
    /// A client's packet to a VIP.
    Data(IpAddr),
    /// The reply of the VIP's socket.
    Reply(IpAddr),
}

/// A frame on its way.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Port that sent it.
    pub from: usize,
    /// What it carries.
    pub body: Body,
}

impl Packet {
    /// As the daemon reads it.
    ///
    /// # Panics
    /// For frames that no daemon reads: they end in the kernel.
    pub fn input(&self) -> Input<'_> {
        match &self.body {
            Body::Vrrp { src, dst, payload } => {
                Input::Vrrp { link: LINK, src: *src, dst: *dst, ttl: HOP_LIMIT, payload }
            }
            Body::Frame(frame) => Input::Neighbor { link: LINK, frame },
            Body::Peer { src, payload } => Input::Peer { link: LINK, src: *src, payload },
            Body::Ask(_) | Body::Answer(_) | Body::Data(_) | Body::Reply(_) => {
                unreachable!("the kernel keeps what clients send")
            }
        }
    }
}

/// State of the network: cuts, losses, segments. Clients come after the nodes and suffer nothing of their own.
#[derive(Clone, Debug)]
pub struct Lan {
    net: Net,
    nodes: usize,
    up: Vec<bool>,
    mute: Vec<bool>,
    deaf: Vec<bool>,
    segment: u64,
    loss: u64,
    duplicate: u64,
    jitter: u64,
}

impl Lan {
    /// A whole LAN.
    pub fn new(net: Net, nodes: usize) -> Self {
        Self {
            net,
            nodes,
            up: vec![true; nodes],
            mute: vec![false; nodes],
            deaf: vec![false; nodes],
            segment: 0,
            loss: 0,
            duplicate: 0,
            jitter: 0,
        }
    }

    /// Cuts or joins the link of a node.
    pub fn set_link(&mut self, node: usize, up: bool) {
        self.up[node] = up;
    }

    /// Is the link of a node joined?
    pub fn link(&self, node: usize) -> bool {
        self.up[node]
    }

    /// Loses adverts from (`mute`) or to (`deaf`) a node.
    pub fn set_one_way(&mut self, node: usize, mute: bool, deaf: bool) {
        (self.mute[node], self.deaf[node]) = (mute, deaf);
    }

    /// Random loss and duplication in permille, extra jitter in nanoseconds.
    pub fn set_weather(&mut self, loss: u64, duplicate: u64, jitter: u64) {
        (self.loss, self.duplicate, self.jitter) = (loss, duplicate, jitter);
    }

    /// The nodes in the mask are on the other segment.
    pub fn split(&mut self, mask: u64) {
        self.segment = mask;
    }

    /// Segment of a port; clients are on 0.
    pub fn segment(&self, port: usize) -> u64 {
        if port < self.nodes { (self.segment >> port) & 1 } else { 0 }
    }

    /// The LAN is split.
    pub fn is_split(&self) -> bool {
        self.segment != 0
    }

    /// Nothing is wrong with the network.
    pub fn is_whole(&self) -> bool {
        self.segment == 0
            && self.loss == 0
            && self.up.iter().all(|u| *u)
            && !self.mute.iter().chain(&self.deaf).any(|m| *m)
    }

    /// Can frames pass between two ports at all?
    pub fn joined(&self, a: usize, b: usize) -> bool {
        let up = |port: usize| port >= self.nodes || self.up[port];
        up(a) && up(b) && self.segment(a) == self.segment(b)
    }

    /// Delays of the copies of one frame that arrive.
    pub fn delays(&self, packet: &Packet, to: usize, rng: &mut Rng) -> [Option<u64>; 2] {
        let from = packet.from;
        let advert = matches!(packet.body, Body::Vrrp { .. });
        let hurt = advert && to < self.nodes && (self.mute[from] || self.deaf[to]);
        let client = from >= self.nodes || to >= self.nodes;
        // What clients send and see is judged by cuts alone: their own luck proves nothing about the nodes.
        if !self.joined(from, to) || hurt || (!client && rng.chance(self.loss)) {
            return [None, None];
        }
        let jitter = self.net.jitter + if client { 0 } else { self.jitter };
        let first = self.net.latency + rng.between(0, jitter);
        let second = (self.duplicate > 0 && !client && rng.chance(self.duplicate))
            .then(|| self.net.latency + rng.between(0, jitter));
        [Some(first), second]
    }
}
