//! The programs' maps: filled from a model's state, read back as collections.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, HashMap as BpfHash, LpmTrie, PerCpuArray, PerCpuValues, lpm_trie};
use aya::util::nr_cpus;
use bascule_ebpf_common::forward::{Bucket, EndpointStats, Flow, FlowKey, Half, Row, ServiceStats, mac_key};

use crate::forward::model::State;

/// Array slots that a world filled and the next one must empty.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    services: Vec<u32>,
    rows: Vec<u32>,
    nodes: Vec<u32>,
    sites: Vec<u32>,
    keys: Vec<u32>,
    endpoints: Vec<u32>,
}

pub(crate) fn array<'a, V: aya::Pod>(ebpf: &'a mut Ebpf, name: &str) -> Result<Array<&'a mut aya::maps::MapData, V>> {
    Ok(Array::try_from(ebpf.map_mut(name).with_context(|| format!("no map {name}"))?)?)
}

pub(crate) fn hash<'a, K: aya::Pod, V: aya::Pod>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<BpfHash<&'a mut aya::maps::MapData, K, V>> {
    Ok(BpfHash::try_from(ebpf.map_mut(name).with_context(|| format!("no map {name}"))?)?)
}

/// Writes slots of an array, and zeroes those written last time.
fn slots<V: aya::Pod + Default>(
    ebpf: &mut Ebpf,
    name: &str,
    touched: &mut Vec<u32>,
    values: impl Iterator<Item = (u32, V)>,
) -> Result<()> {
    let mut map = array::<V>(ebpf, name)?;
    for slot in touched.drain(..) {
        map.set(slot, V::default(), 0)?;
    }
    for (slot, value) in values {
        map.set(slot, value, 0).with_context(|| format!("{name} {slot}"))?;
        touched.push(slot);
    }
    Ok(())
}

/// Replaces all of a hash map.
fn entries<K: aya::Pod, V: aya::Pod>(ebpf: &mut Ebpf, name: &str, values: impl Iterator<Item = (K, V)>) -> Result<()> {
    let mut map = hash::<K, V>(ebpf, name)?;
    let old: Vec<K> = map.keys().collect::<Result<_, _>>()?;
    for key in old {
        map.remove(&key)?;
    }
    for (key, value) in values {
        map.insert(key, value, 0).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// Everything a state holds, and nothing else.
pub(crate) fn fill(ebpf: &mut Ebpf, state: &State, touched: &mut Touched) -> Result<()> {
    array(ebpf, "CONFIG")?.set(0, state.config, 0)?;
    slots(ebpf, "KEYS", &mut touched.keys, state.keys.iter().map(|(k, v)| (*k, *v)))?;
    slots(ebpf, "SERVICES", &mut touched.services, state.services.iter().map(|(k, v)| (u32::from(*k), *v)))?;
    slots(ebpf, "ROWS", &mut touched.rows, state.rows.iter().map(|(k, v)| (*k, Row::word(*v))))?;
    slots(ebpf, "NODES", &mut touched.nodes, state.nodes.iter().map(|(k, v)| (u32::from(*k), *v)))?;
    slots(ebpf, "SITES", &mut touched.sites, state.sites.iter().map(|(k, v)| (u32::from(*k), *v)))?;
    slots(ebpf, "ENDPOINTS", &mut touched.endpoints, state.endpoints.iter().map(|(k, v)| (u32::from(*k), *v)))?;
    entries(ebpf, "SERVICE_KEYS", state.service_keys.iter().map(|(k, v)| (*k, u32::from(*v))))?;
    entries(ebpf, "PEERS", state.peers.iter().map(|(k, v)| (*k, u32::from(*v))))?;
    entries(ebpf, "OWN_MACS", state.macs.iter().map(|mac| (mac_key(*mac), 1_u32)))?;
    entries(ebpf, "REVERSE", state.reverse.iter().map(|(k, v)| (*k, *v)))?;
    entries(ebpf, "EXCEPTIONS", state.exceptions.iter().map(|(k, v)| (*k, u32::from(*v))))?;
    entries(ebpf, "FLOWS", state.flows.iter().map(|(k, v)| (*k, *v)))?;
    entries(ebpf, "HALF", state.half.iter().map(|(k, v)| (*k, *v)))?;
    entries(ebpf, "FRAGMENTS", std::iter::empty::<(bascule_ebpf_common::forward::FragmentKey, u32)>())?;
    sources(ebpf, state)?;
    let mut buckets: PerCpuArray<_, Bucket> = PerCpuArray::try_from(ebpf.map_mut("BUCKETS").context("BUCKETS")?)?;
    let cpus = nr_cpus().map_err(|(what, e)| anyhow::anyhow!("{what}: {e}"))?;
    for slot in 0..buckets.len() {
        buckets.set(slot, PerCpuValues::try_from(vec![Bucket::default(); cpus])?, 0)?;
    }
    Ok(())
}

fn sources(ebpf: &mut Ebpf, state: &State) -> Result<()> {
    let mut trie: LpmTrie<_, [u8; 20], u32> = LpmTrie::try_from(ebpf.map_mut("SOURCES").context("SOURCES")?)?;
    let old: Vec<_> = trie.keys().collect::<Result<_, _>>()?;
    for key in old {
        trie.remove(&key)?;
    }
    for range in &state.sources {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&range.slot);
        bytes[4..].copy_from_slice(&range.address);
        trie.insert(&lpm_trie::Key::new(range.prefix, bytes), 1, 0)?;
    }
    Ok(())
}

fn all<K: aya::Pod + Eq + Hash, V: aya::Pod>(ebpf: &mut Ebpf, name: &str) -> Result<HashMap<K, V>> {
    Ok(hash::<K, V>(ebpf, name)?.iter().collect::<Result<_, _>>()?)
}

pub(crate) fn flows(ebpf: &mut Ebpf) -> Result<HashMap<FlowKey, Flow>> {
    all(ebpf, "FLOWS")
}

pub(crate) fn half(ebpf: &mut Ebpf) -> Result<HashMap<FlowKey, Half>> {
    all(ebpf, "HALF")
}

pub(crate) fn pins(ebpf: &mut Ebpf) -> Result<HashMap<FlowKey, u16>> {
    let all: HashMap<FlowKey, u32> = all(ebpf, "EXCEPTIONS")?;
    all.into_iter().map(|(key, node)| Ok((key, u16::try_from(node)?))).collect()
}

/// Statistics of these slots, summed over the CPUs.
pub(crate) fn service_stats(ebpf: &mut Ebpf, slots: &[u16]) -> Result<BTreeMap<u16, ServiceStats>> {
    let map: PerCpuArray<_, ServiceStats> = PerCpuArray::try_from(ebpf.map_mut("SERVICE_STATS").context("no map")?)?;
    let sum = |slot: &u16| -> Result<(u16, ServiceStats)> {
        let values = map.get(&u32::from(*slot), 0)?;
        let add = |f: fn(&ServiceStats) -> u64| values.iter().map(f).sum();
        let stats = ServiceStats {
            packets: add(|s| s.packets),
            bytes: add(|s| s.bytes),
            new_flows: add(|s| s.new_flows),
            orphans: add(|s| s.orphans),
            asked: add(|s| s.asked),
        };
        Ok((*slot, stats))
    };
    slots.iter().map(sum).collect()
}

/// The same of endpoints.
pub(crate) fn endpoint_stats(ebpf: &mut Ebpf, slots: &[u16]) -> Result<BTreeMap<u16, EndpointStats>> {
    let map: PerCpuArray<_, EndpointStats> = PerCpuArray::try_from(ebpf.map_mut("ENDPOINT_STATS").context("no map")?)?;
    let sum = |slot: &u16| -> Result<(u16, EndpointStats)> {
        let values = map.get(&u32::from(*slot), 0)?;
        let add = |f: fn(&EndpointStats) -> u64| values.iter().map(f).sum();
        let stats = EndpointStats {
            packets: add(|s| s.packets),
            bytes: add(|s| s.bytes),
            syns: add(|s| s.syns),
            syn_acks: add(|s| s.syn_acks),
            resets: add(|s| s.resets),
            replies: add(|s| s.replies),
            reply_bytes: add(|s| s.reply_bytes),
            new_flows: add(|s| s.new_flows),
        };
        Ok((*slot, stats))
    };
    slots.iter().map(sum).collect()
}
