//! State, verdicts and what a comparison must leave out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    Config, Endpoint, EndpointStats, Flow, FlowKey, FragmentKey, Half, Key, Node, PacketDrop, ReverseEntry, ReverseKey,
    Row, Service, ServiceKey, ServiceStats, Site, SourceKey, Table, Tally, key_index,
};

/// `CLOCK_BOOTTIME` in the two units the maps use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Seconds.
    pub seconds: u32,
}

impl Clock {
    /// Minutes modulo 2^16.
    ///
    /// # Panics
    /// Never: the value is reduced first.
    #[must_use]
    pub fn minutes(self) -> u16 {
        u16::try_from(self.seconds / 60 % 65536).expect("reduced")
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the stack.
    Pass,
    /// Dropped and counted.
    Drop(PacketDrop),
    /// Back out of the device it came in on.
    Transmit,
    /// Out of another device.
    Redirect(u32),
}

/// What the rules do not settle about one frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loose {
    /// Bytes of the output that may have any value.
    pub bytes: Vec<Range<usize>>,
    /// Slots of the tallies that may have any value.
    pub tallies: Vec<u32>,
    /// The output may be shorter or longer (a quotation), from this offset on.
    pub from: Option<usize>,
    /// Flow and half-open entries of this tuple are not compared.
    pub flow: Option<FlowKey>,
    /// Statistics of services and endpoints are not compared.
    pub stats: bool,
}

/// Verdict and frame.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Output {
    /// What becomes of it.
    pub verdict: Verdict,
    /// The frame as it leaves or goes on.
    pub frame: Vec<u8>,
    /// What is not compared.
    pub loose: Loose,
}

impl Output {
    pub(crate) fn new(verdict: Verdict, frame: Vec<u8>) -> Self {
        Self { verdict, frame, loose: Loose::default() }
    }
}

/// Sockets of the endpoints, by network namespace as the endpoint entry names it.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    /// Connected ones (ESTABLISHED, SYN-RECEIVED), by translated tuple.
    pub connected: HashSet<(i32, FlowKey)>,
    /// Those in TIME-WAIT.
    pub waiting: HashSet<(i32, FlowKey)>,
    /// Listening ones.
    pub listening: HashSet<(i32, VipKey, u16)>,
    /// Acknowledgements that carry a valid SYN cookie: translated tuple, sequence and acknowledgement number.
    pub cookies: HashSet<(FlowKey, u32, u32)>,
}

/// Everything a node's programs know.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each is the map of that name")]
pub struct State {
    pub config: Config,
    pub service_keys: HashMap<ServiceKey, u16>,
    pub services: HashMap<u16, Service>,
    pub sources: HashSet<SourceKey>,
    pub rows: BTreeMap<u32, Row>,
    pub nodes: HashMap<u16, Node>,
    pub sites: HashMap<u8, Site>,
    pub peers: HashMap<VipKey, u16>,
    pub keys: BTreeMap<u32, Key>,
    pub macs: HashSet<[u8; 6]>,
    pub endpoints: HashMap<u16, Endpoint>,
    pub reverse: HashMap<ReverseKey, ReverseEntry>,
    pub exceptions: HashMap<FlowKey, u16>,
    pub flows: HashMap<FlowKey, Flow>,
    pub half: HashMap<FlowKey, Half>,
    pub fragments: HashMap<FragmentKey, Followed>,
    pub followed: Option<Followed>,
    pub sockets: Sockets,
    pub tallies: BTreeMap<u32, u64>,
    pub service_stats: BTreeMap<u16, ServiceStats>,
    pub endpoint_stats: BTreeMap<u16, EndpointStats>,
}

/// Where the first fragment of a datagram went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// To an endpoint of this node.
    Endpoint(u16),
    /// To another node.
    Node(u16),
}

impl State {
    pub(crate) fn count(&mut self, tally: Tally) {
        *self.tallies.entry(tally as u32).or_default() += 1;
    }

    pub(crate) fn drop(&mut self, reason: PacketDrop, frame: Vec<u8>) -> Output {
        *self.tallies.entry(reason as u32).or_default() += 1;
        Output::new(Verdict::Drop(reason), frame)
    }

    pub(crate) fn row(&self, table: Table, index: u32) -> Option<Row> {
        self.rows.get(&(table.base + index)).copied()
    }

    pub(crate) fn key(&self, site: u8, slot: u8) -> Key {
        self.keys.get(&key_index(site, slot)).copied().unwrap_or_default()
    }

    pub(crate) fn node(&self, id: u16) -> Node {
        self.nodes.get(&id).copied().unwrap_or_default()
    }

    /// Longest-prefix match of the source ranges: does any cover the address?
    pub(crate) fn in_sources(&self, slot: u16, address: &VipKey) -> bool {
        let mut wanted = u32::from(slot).to_be_bytes().to_vec();
        wanted.extend(address.addr);
        self.sources.iter().any(|range| {
            let mut have = range.slot.to_vec();
            have.extend(range.address);
            (0..usize::try_from(range.prefix).unwrap_or(160))
                .all(|bit| (wanted[bit / 8] ^ have[bit / 8]) & (0x80 >> (bit % 8)) == 0)
        })
    }
}
