//! The families of the forwarding plane. All come from a snapshot: the programs in the kernel count.

use std::collections::BTreeSet;

use bascule_core::balance::absent::NodeState;

use crate::handle::forward::ForwardStatus;

use super::catalog::{DIRECTIONS, RESULTS_OF_CHECKS, RESULTS_OF_WITNESSES, TABLE_WORK, TCP_EVENTS};
use super::register::Families;
use super::{Metrics, absent, advance};

/// Label values that the last snapshot set.
#[derive(Default)]
pub(super) struct Shown {
    devices: BTreeSet<[String; 3]>,
    probes: BTreeSet<[String; 2]>,
    nodes: BTreeSet<String>,
    sites: BTreeSet<String>,
    endpoints: BTreeSet<[String; 2]>,
    maps: BTreeSet<&'static str>,
}

/// Exact up to 2^53, beyond which no table goes.
fn gauge(count: u64) -> f64 {
    count as f64
}

impl Metrics {
    /// Takes over what the programs counted and what is a state, from a snapshot taken for this scrape; `None` when none could be had.
    pub fn update_forward(&self, status: Option<&ForwardStatus>) {
        let mut shown = self.lock();
        let f = &self.inner.families;
        let mut now = Shown::default();
        f.forward_on.set(f64::from(u8::from(status.is_some_and(|status| status.on))));
        if let Some(status) = status {
            counters(f, status);
            states(f, status, &mut now);
        }
        let before = &shown.forward;
        for device in before.devices.difference(&now.devices) {
            absent(f.forward_device.remove_label_values(device));
        }
        for probe in before.probes.difference(&now.probes) {
            absent(f.forward_probe.remove_label_values(probe));
        }
        for node in before.nodes.difference(&now.nodes) {
            absent(f.forward_node_up.remove_label_values(&[node]));
            absent(f.forward_node_dead.remove_label_values(&[node]));
        }
        for site in before.sites.difference(&now.sites) {
            absent(f.forward_site_usable.remove_label_values(&[site]));
        }
        for endpoint in before.endpoints.difference(&now.endpoints) {
            absent(f.forward_endpoint_ready.remove_label_values(endpoint));
        }
        for map in before.maps.difference(&now.maps) {
            absent(f.forward_map_entries.remove_label_values(&[map]));
            absent(f.forward_map_capacity.remove_label_values(&[map]));
        }
        shown.forward = now;
    }
}

fn counters(f: &Families, status: &ForwardStatus) {
    for service in &status.services {
        let name = [service.service.as_str()];
        advance(&f.forward_service_packets.with_label_values(&name), service.packets);
        advance(&f.forward_service_bytes.with_label_values(&name), service.bytes);
        advance(&f.forward_service_flows.with_label_values(&name), service.new_flows);
        advance(&f.forward_service_orphans.with_label_values(&name), service.orphans);
    }
    let [sent, received] = DIRECTIONS;
    for e in &status.endpoints {
        let (service, endpoint) = (e.service.as_str(), e.endpoint.as_str());
        for (direction, packets, bytes) in [(sent, e.packets, e.bytes), (received, e.replies, e.reply_bytes)] {
            let labels = [service, endpoint, direction];
            advance(&f.forward_endpoint_packets.with_label_values(&labels), packets);
            advance(&f.forward_endpoint_bytes.with_label_values(&labels), bytes);
        }
        advance(&f.forward_endpoint_flows.with_label_values(&[service, endpoint]), e.new_flows);
        for (event, count) in TCP_EVENTS.iter().zip([e.syns, e.syn_acks, e.resets]) {
            advance(&f.forward_endpoint_tcp.with_label_values(&[service, endpoint, event]), count);
        }
    }
    for check in &status.checks {
        for (result, count) in RESULTS_OF_CHECKS.iter().zip([check.passed, check.failed]) {
            let labels = [check.service.as_str(), check.endpoint.as_str(), result];
            advance(&f.forward_checks.with_label_values(&labels), count);
        }
    }
    for (reason, count) in &status.drops {
        advance(&f.forward_drops.with_label_values(&[reason]), *count);
    }
    for (reason, count) in &status.term_drops {
        advance(&f.sites_fence_drops.with_label_values(&[reason]), *count);
    }
    for (verdict, count) in &status.verdicts {
        advance(&f.forward_verdicts.with_label_values(&[verdict]), *count);
    }
    for (nodes, count) in status.hops.iter().enumerate() {
        advance(&f.forward_hops.with_label_values(&[nodes.to_string().as_str()]), *count);
    }
    advance(&f.forward_healed, status.healed);
    if let Some(balance) = &status.balance {
        for (work, count) in TABLE_WORK.iter().zip([balance.counts.builds, balance.counts.swaps]) {
            advance(&f.forward_tables.with_label_values(&[work]), count);
        }
        let witnesses = [balance.counts.witnesses_answered, balance.counts.witnesses_silent];
        for (result, count) in RESULTS_OF_WITNESSES.iter().zip(witnesses) {
            advance(&f.forward_witnesses.with_label_values(&[result]), count);
        }
        advance(&f.forward_rows_moved, balance.counts.rows_moved);
        advance(&f.forward_rows_forgotten, balance.counts.rows_forgotten);
    }
}

fn states(f: &Families, status: &ForwardStatus, now: &mut Shown) {
    for device in &status.devices {
        let labels = [device.device.clone(), device.ingress.as_str().to_owned(), device.egress.as_str().to_owned()];
        f.forward_device.with_label_values(&labels).set(1.0);
        now.devices.insert(labels);
        for probe in &device.probes {
            let labels = [device.device.clone(), probe.probe.as_str().to_owned()];
            f.forward_probe.with_label_values(&labels).set(f64::from(u8::from(probe.trouble.is_none())));
            now.probes.insert(labels);
        }
    }
    for node in &status.nodes {
        let dead = node.state == NodeState::Dead.as_str();
        f.forward_node_up.with_label_values(&[node.name.as_str()]).set(f64::from(u8::from(node.up)));
        f.forward_node_dead.with_label_values(&[node.name.as_str()]).set(f64::from(u8::from(dead)));
        now.nodes.insert(node.name.clone());
    }
    let mut maps = vec![
        ("flows", status.flows.entries, status.flows.capacity),
        ("half_open", status.half_open.entries, status.half_open.capacity),
    ];
    let delegated: usize = status.balance.iter().flat_map(|b| &b.services).map(|s| s.delegated).sum();
    f.forward_delegated.set(gauge(delegated as u64));
    if let Some(balance) = &status.balance {
        maps.push(("rows", balance.slab_used.into(), balance.slab_rows.into()));
        for site in &balance.sites {
            let label = site.site.0.to_string();
            f.forward_site_usable.with_label_values(&[label.as_str()]).set(f64::from(u8::from(site.usable)));
            now.sites.insert(label);
        }
        for service in &balance.services {
            for endpoint in &service.endpoints {
                let labels = [service.name.clone(), endpoint.name.clone()];
                f.forward_endpoint_ready.with_label_values(&labels).set(f64::from(u8::from(endpoint.serving)));
                now.endpoints.insert(labels);
            }
        }
    }
    for (map, entries, capacity) in maps {
        f.forward_map_entries.with_label_values(&[map]).set(gauge(entries));
        f.forward_map_capacity.with_label_values(&[map]).set(gauge(capacity));
        now.maps.insert(map);
    }
}
