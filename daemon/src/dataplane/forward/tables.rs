//! Services and rows: the two arrays, and the hash that leads to a service. Of the rows only what is just written is mapped: all of them are
//! 32 MiB, which would count as this process's whatever part of them is in use.
//!
//! Order is what makes a change whole: a service is written before a key leads to it, rows before a table word names them. Slot 0 of
//! the services is never used.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::lpm_trie::{Key as Prefix, LpmTrie};
use aya::maps::{HashMap, Map, MapData};
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{MAX_ROWS, MAX_SERVICES, Row, Service, ServiceKey, Table};
use ipnet::IpNet;

use super::error::ForwardError;
use super::mapped::Mapped;
use crate::dataplane::FenceError;
use crate::dataplane::registry::vip_key;

/// Words of one service.
const SERVICE_WORDS: usize = size_of::<Service>() / size_of::<u64>();
/// Where its two table words lie.
const NODES_WORD: usize = std::mem::offset_of!(Service, nodes) / size_of::<u64>();
const ENDPOINTS_WORD: usize = std::mem::offset_of!(Service, endpoints) / size_of::<u64>();

/// The slot, network order, and an address.
type SourceData = [u8; 20];
/// A source range as the map has it: bits, and what they count over.
pub(super) type SourcePrefix = (u32, SourceData);

pub(super) struct Tables {
    services: Mapped,
    rows: OwnedFd,
    keys: HashMap<MapData, ServiceKey, u32>,
    sources: LpmTrie<MapData, SourceData, u32>,
}

impl Tables {
    pub(super) fn new(services: Map, rows: Map, keys: Map, sources: Map) -> Result<Self, ForwardError> {
        let services = Mapped::new(descriptor(&services)?.as_fd(), MAX_SERVICES as usize * SERVICE_WORDS);
        Ok(Self {
            services: services.map_err(ForwardError::call("mapping SERVICES"))?,
            rows: descriptor(&rows)?,
            keys: HashMap::try_from(keys).map_err(ForwardError::map("SERVICE_KEYS", "taking"))?,
            sources: LpmTrie::try_from(sources).map_err(ForwardError::map("SOURCES", "taking"))?,
        })
    }

    /// Writes a service but for its two table words, which say where there is something to read.
    pub(super) fn write_service(&mut self, slot: u32, service: &Service) -> Result<(), ForwardError> {
        let base = service_base(slot)?;
        let words = words_of(service);
        for word in (0..SERVICE_WORDS).filter(|word| !matches!(*word, NODES_WORD | ENDPOINTS_WORD)) {
            store(&self.services, base + word, words[word])?;
        }
        Ok(())
    }

    /// Zeroes a slot, the table words first.
    pub(super) fn clear_service(&mut self, slot: u32) -> Result<(), ForwardError> {
        self.write_nodes_table(slot, Table::default())?;
        self.write_endpoints_table(slot, Table::default())?;
        self.write_service(slot, &Service::default())
    }

    pub(super) fn write_nodes_table(&mut self, slot: u32, table: Table) -> Result<(), ForwardError> {
        store(&self.services, service_base(slot)? + NODES_WORD, table.word())
    }

    pub(super) fn write_endpoints_table(&mut self, slot: u32, table: Table) -> Result<(), ForwardError> {
        store(&self.services, service_base(slot)? + ENDPOINTS_WORD, table.word())
    }

    pub(super) fn service(&self, slot: u32) -> Result<Service, ForwardError> {
        let base = service_base(slot)?;
        let mut words = [0u64; SERVICE_WORDS];
        for (at, word) in words.iter_mut().enumerate() {
            *word = self.services.load(base + at);
        }
        // SAFETY: as large as a service, plain data for which every bit pattern is valid.
        Ok(unsafe { std::mem::transmute::<[u64; SERVICE_WORDS], Service>(words) })
    }

    /// Writes rows from `base` on.
    pub(super) fn write_rows(
        &mut self,
        base: u32,
        rows: impl ExactSizeIterator<Item = Row>,
    ) -> Result<(), ForwardError> {
        let Some(part) = self.part(base, rows.len())? else { return Ok(()) };
        rows.enumerate().try_for_each(|(index, row)| store(&part, index, row.word()))
    }

    /// The rows from `base` on.
    pub(super) fn rows(&self, base: u32, count: u16) -> Result<Vec<Row>, ForwardError> {
        let part = self.part(base, count.into())?;
        Ok(part.iter().flat_map(|part| (0..count.into()).map(|index| Row::from_word(part.load(index)))).collect())
    }

    pub(super) fn row(&self, index: u32) -> Result<Row, ForwardError> {
        Ok(self.rows(index, 1)?.first().copied().unwrap_or_default())
    }

    /// So many rows from `base` on, mapped; `None` of none.
    fn part(&self, base: u32, count: usize) -> Result<Option<Mapped>, ForwardError> {
        if base as usize + count > MAX_ROWS as usize {
            return Err(ForwardError::Range { what: "row", index: base, limit: MAX_ROWS });
        }
        let part = (count > 0).then(|| Mapped::part(self.rows.as_fd(), base as usize, count)).transpose();
        part.map_err(ForwardError::call("mapping ROWS"))
    }

    pub(super) fn set_key(&mut self, key: &ServiceKey, slot: u32) -> Result<(), ForwardError> {
        service_base(slot)?;
        self.keys.insert(key, slot, 0).map_err(ForwardError::map("SERVICE_KEYS", "inserting"))
    }

    pub(super) fn remove_key(&mut self, key: &ServiceKey) -> Result<(), ForwardError> {
        absent_is_fine(self.keys.remove(key)).map_err(ForwardError::map("SERVICE_KEYS", "removing"))
    }

    pub(super) fn key(&self, key: &ServiceKey) -> Result<Option<u32>, ForwardError> {
        match self.keys.get(key, 0) {
            Ok(slot) => Ok(Some(slot)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(e) => Err(ForwardError::map("SERVICE_KEYS", "reading")(e)),
        }
    }

    pub(super) fn keys(&self) -> Result<Vec<(ServiceKey, u32)>, ForwardError> {
        self.keys.iter().collect::<Result<_, _>>().map_err(ForwardError::map("SERVICE_KEYS", "listing"))
    }

    pub(super) fn add_sources(&mut self, slot: u32, ranges: &[IpNet]) -> Result<(), ForwardError> {
        for net in ranges {
            let key = source_key(slot, *net);
            self.sources.insert(&key, slot, 0).map_err(ForwardError::map("SOURCES", "inserting"))?;
        }
        Ok(())
    }

    pub(super) fn remove_sources(&mut self, slot: u32, ranges: &[IpNet]) -> Result<(), ForwardError> {
        for net in ranges {
            let removed = self.sources.remove(&source_key(slot, *net));
            absent_is_fine(removed).map_err(ForwardError::map("SOURCES", "removing"))?;
        }
        Ok(())
    }

    /// Removes source ranges that `named` does not know; how many there were. An IPv4 range shows as the mapped one it is.
    pub(super) fn sweep_sources(&mut self, named: &BTreeSet<SourcePrefix>) -> Result<usize, ForwardError> {
        let there = self.sources.keys().collect::<Result<Vec<_>, _>>();
        let mut gone = 0;
        for key in there.map_err(ForwardError::map("SOURCES", "listing"))? {
            if !named.contains(&(key.prefix_len(), key.data())) {
                absent_is_fine(self.sources.remove(&key)).map_err(ForwardError::map("SOURCES", "removing"))?;
                gone += 1;
            }
        }
        Ok(gone)
    }

    /// May `client` connect, by the ranges of the service?
    pub(super) fn source_allowed(&self, slot: u32, client: VipKey) -> Result<bool, ForwardError> {
        match self.sources.get(&Prefix::new(160, source_data(slot, client)), 0) {
            Ok(_) => Ok(true),
            Err(aya::maps::MapError::KeyNotFound) => Ok(false),
            Err(e) => Err(ForwardError::map("SOURCES", "reading")(e)),
        }
    }
}

/// A descriptor of an array or hash of our own, beside aya's.
pub(super) fn descriptor(map: &Map) -> Result<OwnedFd, ForwardError> {
    let (Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data)) = map else {
        return Err(FenceError::Incomplete { what: "array or hash where the ABI has one" }.into());
    };
    data.fd().as_fd().try_clone_to_owned().map_err(ForwardError::call("duplicating a map"))
}

fn source_data(slot: u32, address: VipKey) -> SourceData {
    let mut data = [0; 20];
    data[..4].copy_from_slice(&slot.to_be_bytes());
    data[4..].copy_from_slice(&address.addr);
    data
}

/// The range as [`Tables::sweep_sources`] compares it.
pub(super) fn source_prefix(slot: u32, net: IpNet) -> SourcePrefix {
    let key = source_key(slot, net);
    (key.prefix_len(), key.data())
}

/// An IPv4 prefix is 96 bits longer as a mapped one.
fn source_key(slot: u32, net: IpNet) -> Prefix<SourceData> {
    let mapped = if net.addr().is_ipv4() { 96 } else { 0 };
    Prefix::new(32 + mapped + u32::from(net.prefix_len()), source_data(slot, vip_key(net.trunc().addr())))
}

fn service_base(slot: u32) -> Result<usize, ForwardError> {
    if slot == 0 || slot >= MAX_SERVICES {
        return Err(ForwardError::Range { what: "service slot", index: slot, limit: MAX_SERVICES });
    }
    Ok(slot as usize * SERVICE_WORDS)
}

fn words_of(service: &Service) -> [u64; SERVICE_WORDS] {
    // SAFETY: as large as a service, without padding (asserted in the ABI crate).
    unsafe { std::mem::transmute::<Service, [u64; SERVICE_WORDS]>(*service) }
}

fn store(memory: &Mapped, index: usize, word: u64) -> Result<(), ForwardError> {
    if memory.store(index, word) {
        return Ok(());
    }
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let limit = u32::try_from(memory.len()).unwrap_or(u32::MAX);
    Err(ForwardError::Range { what: "word of an array", index, limit })
}

/// A key that is gone already has been removed.
pub(super) fn absent_is_fine(removed: Result<(), aya::maps::MapError>) -> Result<(), aya::maps::MapError> {
    match removed {
        Err(aya::maps::MapError::KeyNotFound) => Ok(()),
        Err(aya::maps::MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_survives_its_words() {
        let service = Service { nodes: 7, endpoints: 9, flags: 3, number: 513, mss4: 1400, ..Service::default() };
        let words = words_of(&service);
        assert_eq!((words[NODES_WORD], words[ENDPOINTS_WORD]), (7, 9));
        assert_eq!(size_of::<Service>() % size_of::<u64>(), 0);
    }

    #[test]
    fn source_keys_count_the_slot_and_the_mapping() {
        let v4 = source_key(258, "192.0.2.77/24".parse().unwrap());
        assert_eq!(v4.prefix_len(), 32 + 96 + 24);
        assert_eq!(&v4.data()[..4], [0, 0, 1, 2]);
        assert_eq!(&v4.data()[14..], [0xff, 0xff, 192, 0, 2, 0]);
        let v6 = source_key(1, "2001:db8::/32".parse().unwrap());
        assert_eq!((v6.prefix_len(), &v6.data()[4..8]), (64, &[0x20, 0x01, 0x0d, 0xb8][..]));
    }
}
