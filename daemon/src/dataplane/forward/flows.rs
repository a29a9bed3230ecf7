//! Listing flows for people, and estimating how full the tables are.

use std::os::fd::BorrowedFd;

use aya::maps::{HashMap, Map, MapData};
use bascule_core::service::Protocol;
use bascule_ebpf_common::forward::{
    FLOW_CLOSING, FLOW_FIN_CLIENT, FLOW_FIN_ENDPOINT, FLOW_VIA_INGRESS, Flow, FlowKey, Half, MAX_HALF,
};

use super::super::sys::{self, Cursor};
use super::carry::FlowReader;
use super::error::ForwardError;
use super::recover::address_of;
use super::shapes::HALF;
use super::tables::absent_is_fine;
use crate::handle::forward::{Fill, FlowFilter, FlowList, FlowView};

/// Flows listed when nobody says how many.
const LIMIT: usize = 100;

fn passes(filter: &FlowFilter, key: &FlowKey, flow: &Flow) -> bool {
    fn is<T: PartialEq>(wanted: Option<T>, found: T) -> bool {
        wanted.is_none_or(|wanted| wanted == found)
    }
    is(filter.client, address_of(key.client))
        && is(filter.client_port, u16::from_be(key.client_port))
        && is(filter.vip, address_of(flow.vip))
        && is(filter.vip_port, u16::from_be(flow.vip_port))
        && is(filter.endpoint, address_of(key.endpoint))
        && is(filter.protocol.map(Protocol::number), key.protocol)
}

/// Lists flows that pass, up to the filter's limit; `now_s` is CLOCK_BOOTTIME in seconds.
pub(super) fn list(map: BorrowedFd<'_>, filter: &FlowFilter, now_s: u32) -> Result<FlowList, ForwardError> {
    let mut found = FlowList::default();
    let limit = filter.limit.unwrap_or(LIMIT);
    let mut reader = FlowReader::new(map);
    while let Some(entries) = reader.next()? {
        for (key, flow) in entries.iter().filter(|(key, flow)| passes(filter, key, flow)) {
            if found.flows.len() == limit {
                found.more = true;
                return Ok(found);
            }
            found.flows.push(view(key, flow, now_s));
        }
    }
    Ok(found)
}

fn view(key: &FlowKey, flow: &Flow, now_s: u32) -> FlowView {
    let fins = FLOW_FIN_CLIENT | FLOW_FIN_ENDPOINT;
    FlowView {
        protocol: Protocol::from_number(key.protocol).map_or_else(|| key.protocol.to_string(), |p| p.to_string()),
        client: address_of(key.client),
        client_port: u16::from_be(key.client_port),
        vip: address_of(flow.vip),
        vip_port: u16::from_be(flow.vip_port),
        endpoint: address_of(key.endpoint),
        endpoint_port: u16::from_be(key.endpoint_port),
        ingress: flow.ingress,
        idle_seconds: now_s.saturating_sub(flow.seen_s),
        state: if flow.flags & FLOW_CLOSING != 0 {
            "closing"
        } else if flow.flags & fins != 0 {
            "half_closed"
        } else {
            "open"
        },
        via_ingress: flow.flags & FLOW_VIA_INGRESS != 0,
    }
}

/// Entries that are counted before the rest is estimated from them: a hash spreads evenly, so 8192 of them give about 1 %.
const SAMPLE: u32 = 8192;

/// Fill of the map of flows and of the half-open table.
pub(super) fn fill(flows: BorrowedFd<'_>, capacity: u32, half: BorrowedFd<'_>) -> Result<(Fill, Fill), ForwardError> {
    let flows = estimate::<Flow>(flows, capacity)?;
    let half = estimate::<Half>(half, MAX_HALF)?;
    Ok((flows, half))
}

/// Removes half-open entries; how many.
pub(super) fn forget_half(
    half: BorrowedFd<'_>,
    mut gone: impl FnMut(&FlowKey, &Half) -> bool,
) -> Result<usize, ForwardError> {
    let fd = half.try_clone_to_owned().map_err(ForwardError::call("duplicating HALF"))?;
    let data = MapData::from_fd(fd).map_err(ForwardError::map(HALF, "opening"))?;
    let mut map: HashMap<MapData, FlowKey, Half> =
        HashMap::try_from(Map::LruHashMap(data)).map_err(ForwardError::map(HALF, "taking"))?;
    // Under a flood entries come and go, and a walk over them begins anew each time: bounded, for what is asked about gets no new ones.
    let found: Vec<FlowKey> = map
        .iter()
        .filter_map(Result::ok)
        .take(2 * MAX_HALF as usize)
        .filter(|(key, value)| gone(key, value))
        .map(|(key, _)| key)
        .collect();
    for key in &found {
        absent_is_fine(map.remove(key)).map_err(ForwardError::map(HALF, "removing"))?;
    }
    Ok(found.len())
}

fn estimate<V>(map: BorrowedFd<'_>, capacity: u32) -> Result<Fill, ForwardError> {
    let mut keys = vec![0; SAMPLE as usize * size_of::<FlowKey>()];
    let mut values = vec![0; SAMPLE as usize * size_of::<V>()];
    let (count, cursor) = sys::lookup_batch(map, Cursor::Start, &mut keys, &mut values, SAMPLE)
        .map_err(ForwardError::call("counting entries"))?;
    // The kernel's hash has the next power of two of buckets (kernel/bpf/hashtab.c, htab_map_alloc).
    let buckets = u64::from(capacity).next_power_of_two();
    let entries = match cursor {
        Cursor::At(bucket) if bucket > 0 => u64::from(count) * buckets / u64::from(bucket),
        Cursor::At(_) | Cursor::Start | Cursor::End => u64::from(count),
    };
    Ok(Fill { entries: entries.min(capacity.into()), capacity: capacity.into() })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use bascule_ebpf_common::VipKey;

    use super::*;

    fn flow() -> (FlowKey, Flow) {
        let key = FlowKey {
            client: VipKey::v4([192, 0, 2, 7]),
            endpoint: VipKey::v4([10, 0, 0, 1]),
            client_port: 40_000u16.to_be(),
            endpoint_port: 8080u16.to_be(),
            protocol: 6,
            pad: [0; 3],
        };
        let flow = Flow {
            vip: VipKey::v4([10, 9, 0, 100]),
            vip_port: 443u16.to_be(),
            seen_s: 90,
            flags: FLOW_FIN_CLIENT | FLOW_VIA_INGRESS,
            ..Flow::default()
        };
        (key, flow)
    }

    #[test]
    fn every_field_of_a_filter_counts() {
        let (key, flow) = flow();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let all = FlowFilter {
            client: Some(ip("192.0.2.7")),
            client_port: Some(40_000),
            vip: Some(ip("10.9.0.100")),
            vip_port: Some(443),
            endpoint: Some(ip("10.0.0.1")),
            protocol: Some(Protocol::Tcp),
            limit: None,
        };
        assert!(passes(&all, &key, &flow) && passes(&FlowFilter::default(), &key, &flow));
        for wrong in [
            FlowFilter { client: Some(ip("192.0.2.8")), ..all },
            FlowFilter { client_port: Some(1), ..all },
            FlowFilter { vip: Some(ip("10.9.0.101")), ..all },
            FlowFilter { vip_port: Some(1), ..all },
            FlowFilter { endpoint: Some(ip("::1")), ..all },
            FlowFilter { protocol: Some(Protocol::Udp), ..all },
        ] {
            assert!(!passes(&wrong, &key, &flow), "{wrong:?}");
        }
    }

    #[test]
    fn a_flow_is_shown_in_host_order() {
        let (key, flow) = flow();
        let view = view(&key, &flow, 100);
        assert_eq!((view.client_port, view.vip_port, view.endpoint_port), (40_000, 443, 8080));
        assert_eq!((view.protocol.as_str(), view.state, view.idle_seconds), ("tcp", "half_closed", 10));
        assert!(view.via_ingress);
    }
}
