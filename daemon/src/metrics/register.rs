//! One registry, and a typed handle for each family of the catalogue.

use prometheus::core::Collector;
use prometheus::{Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

use super::catalog::{self, Family};

/// Typed handles; the registry owns the same families.
pub(super) struct Families {
    pub(super) registry: Registry,
    pub(super) vip_held: GaugeVec,
    pub(super) election_role: GaugeVec,
    pub(super) transitions: IntCounterVec,
    pub(super) failover: HistogramVec,
    pub(super) fence_margin: GaugeVec,
    pub(super) fence_closed: IntCounterVec,
    pub(super) fence_drops: IntCounterVec,
    pub(super) garp_sent: IntCounterVec,
    pub(super) rival_claims: IntCounterVec,
    pub(super) one_way: IntCounterVec,
    pub(super) address_restored: IntCounterVec,
    pub(super) lease_condition: GaugeVec,
    pub(super) lease_left: GaugeVec,
    pub(super) lease_renewals: IntCounterVec,
    pub(super) lease_transitions: GaugeVec,
    pub(super) adverts_sent: IntCounterVec,
    pub(super) adverts_heard: IntCounterVec,
    pub(super) refused: IntCounterVec,
    pub(super) advert_lateness: Histogram,
    pub(super) loop_lag: Histogram,
    pub(super) health_state: GaugeVec,
    pub(super) bfd_state: GaugeVec,
    pub(super) bfd_transitions: IntCounterVec,
    pub(super) bfd_packets: IntCounterVec,
    pub(super) bfd_discards: IntCounterVec,
    pub(super) bfd_lateness: Histogram,
    pub(super) route_wanted: GaugeVec,
    pub(super) bgp_session_state: GaugeVec,
    pub(super) bgp_transitions: IntCounterVec,
    pub(super) bgp_messages: IntCounterVec,
    pub(super) bgp_notifications: IntCounterVec,
    pub(super) bgp_malformed: IntCounterVec,
    pub(super) bgp_prefixes: GaugeVec,
    pub(super) bgp_queue_depth: GaugeVec,
    pub(super) bgp_ready_to_wire: Histogram,
    pub(super) forward_on: Gauge,
    pub(super) forward_device: GaugeVec,
    pub(super) forward_probe: GaugeVec,
    pub(super) forward_service_packets: IntCounterVec,
    pub(super) forward_service_bytes: IntCounterVec,
    pub(super) forward_service_flows: IntCounterVec,
    pub(super) forward_service_orphans: IntCounterVec,
    pub(super) forward_endpoint_packets: IntCounterVec,
    pub(super) forward_endpoint_bytes: IntCounterVec,
    pub(super) forward_endpoint_flows: IntCounterVec,
    pub(super) forward_endpoint_tcp: IntCounterVec,
    pub(super) forward_endpoint_ready: GaugeVec,
    pub(super) forward_checks: IntCounterVec,
    pub(super) forward_node_up: GaugeVec,
    pub(super) forward_node_dead: GaugeVec,
    pub(super) forward_witnesses: IntCounterVec,
    pub(super) forward_drops: IntCounterVec,
    pub(super) forward_verdicts: IntCounterVec,
    pub(super) forward_hops: IntCounterVec,
    pub(super) forward_tables: IntCounterVec,
    pub(super) forward_rows_moved: IntCounter,
    pub(super) forward_rows_forgotten: IntCounter,
    pub(super) forward_map_entries: GaugeVec,
    pub(super) forward_map_capacity: GaugeVec,
    pub(super) cluster_services: Gauge,
    pub(super) cluster_vips: Gauge,
    pub(super) cluster_source: GaugeVec,
    pub(super) cluster_intent_age: Gauge,
    pub(super) cluster_plans: IntCounter,
    pub(super) cluster_plan_seconds: Gauge,
    pub(super) cluster_refused: GaugeVec,
    pub(super) cluster_may_own: Gauge,
    pub(super) allocator_leads: Gauge,
    pub(super) allocator_pending: Gauge,
    pub(super) allocator_writes: IntCounterVec,
    pub(super) allocator_events: IntCounter,
    pub(super) cluster_reports: IntCounterVec,
    pub(super) config_reload: IntCounterVec,
    pub(super) ready: Gauge,
    pub(super) build_info: GaugeVec,
}

impl Families {
    pub(super) fn register() -> Self {
        let r = Registry::new();
        Self {
            vip_held: gauges(&r, &catalog::VIP_HELD),
            election_role: gauges(&r, &catalog::ELECTION_ROLE),
            transitions: counters(&r, &catalog::TRANSITIONS),
            failover: add(&r, HistogramVec::new(buckets(&catalog::FAILOVER), catalog::FAILOVER.labels)),
            fence_margin: gauges(&r, &catalog::FENCE_MARGIN),
            fence_closed: counters(&r, &catalog::FENCE_CLOSED),
            fence_drops: counters(&r, &catalog::FENCE_DROPS),
            garp_sent: counters(&r, &catalog::GARP_SENT),
            rival_claims: counters(&r, &catalog::RIVAL_CLAIMS),
            one_way: counters(&r, &catalog::ONE_WAY),
            address_restored: counters(&r, &catalog::ADDRESS_RESTORED),
            lease_condition: gauges(&r, &catalog::LEASE_CONDITION),
            lease_left: gauges(&r, &catalog::LEASE_LEFT),
            lease_renewals: counters(&r, &catalog::LEASE_RENEWALS),
            lease_transitions: gauges(&r, &catalog::LEASE_TRANSITIONS),
            adverts_sent: counters(&r, &catalog::ADVERTS_SENT),
            adverts_heard: counters(&r, &catalog::ADVERTS_HEARD),
            refused: counters(&r, &catalog::REFUSED),
            advert_lateness: add(&r, Histogram::with_opts(buckets(&catalog::ADVERT_LATENESS))),
            loop_lag: add(&r, Histogram::with_opts(buckets(&catalog::LOOP_LAG))),
            health_state: gauges(&r, &catalog::HEALTH_STATE),
            bfd_state: gauges(&r, &catalog::BFD_STATE),
            bfd_transitions: counters(&r, &catalog::BFD_TRANSITIONS),
            bfd_packets: counters(&r, &catalog::BFD_PACKETS),
            bfd_discards: counters(&r, &catalog::BFD_DISCARDS),
            bfd_lateness: add(&r, Histogram::with_opts(buckets(&catalog::BFD_LATENESS))),
            route_wanted: gauges(&r, &catalog::ROUTE_WANTED),
            bgp_session_state: gauges(&r, &catalog::BGP_SESSION_STATE),
            bgp_transitions: counters(&r, &catalog::BGP_TRANSITIONS),
            bgp_messages: counters(&r, &catalog::BGP_MESSAGES),
            bgp_notifications: counters(&r, &catalog::BGP_NOTIFICATIONS),
            bgp_malformed: counters(&r, &catalog::BGP_MALFORMED),
            bgp_prefixes: gauges(&r, &catalog::BGP_PREFIXES),
            bgp_queue_depth: gauges(&r, &catalog::BGP_QUEUE_DEPTH),
            bgp_ready_to_wire: add(&r, Histogram::with_opts(buckets(&catalog::BGP_READY_TO_WIRE))),
            forward_on: add(&r, Gauge::with_opts(opts(&catalog::FORWARD_ON))),
            forward_device: gauges(&r, &catalog::FORWARD_DEVICE),
            forward_probe: gauges(&r, &catalog::FORWARD_PROBE),
            forward_service_packets: counters(&r, &catalog::FORWARD_SERVICE_PACKETS),
            forward_service_bytes: counters(&r, &catalog::FORWARD_SERVICE_BYTES),
            forward_service_flows: counters(&r, &catalog::FORWARD_SERVICE_FLOWS),
            forward_service_orphans: counters(&r, &catalog::FORWARD_SERVICE_ORPHANS),
            forward_endpoint_packets: counters(&r, &catalog::FORWARD_ENDPOINT_PACKETS),
            forward_endpoint_bytes: counters(&r, &catalog::FORWARD_ENDPOINT_BYTES),
            forward_endpoint_flows: counters(&r, &catalog::FORWARD_ENDPOINT_FLOWS),
            forward_endpoint_tcp: counters(&r, &catalog::FORWARD_ENDPOINT_TCP),
            forward_endpoint_ready: gauges(&r, &catalog::FORWARD_ENDPOINT_READY),
            forward_checks: counters(&r, &catalog::FORWARD_CHECKS),
            forward_node_up: gauges(&r, &catalog::FORWARD_NODE_UP),
            forward_node_dead: gauges(&r, &catalog::FORWARD_NODE_DEAD),
            forward_witnesses: counters(&r, &catalog::FORWARD_WITNESSES),
            forward_drops: counters(&r, &catalog::FORWARD_DROPS),
            forward_verdicts: counters(&r, &catalog::FORWARD_VERDICTS),
            forward_hops: counters(&r, &catalog::FORWARD_HOPS),
            forward_tables: counters(&r, &catalog::FORWARD_TABLES),
            forward_rows_moved: add(&r, IntCounter::with_opts(opts(&catalog::FORWARD_ROWS_MOVED))),
            forward_rows_forgotten: add(&r, IntCounter::with_opts(opts(&catalog::FORWARD_ROWS_FORGOTTEN))),
            forward_map_entries: gauges(&r, &catalog::FORWARD_MAP_ENTRIES),
            forward_map_capacity: gauges(&r, &catalog::FORWARD_MAP_CAPACITY),
            cluster_services: add(&r, Gauge::with_opts(opts(&catalog::CLUSTER_SERVICES))),
            cluster_vips: add(&r, Gauge::with_opts(opts(&catalog::CLUSTER_VIPS))),
            cluster_source: gauges(&r, &catalog::CLUSTER_SOURCE),
            cluster_intent_age: add(&r, Gauge::with_opts(opts(&catalog::CLUSTER_INTENT_AGE))),
            cluster_plans: add(&r, IntCounter::with_opts(opts(&catalog::CLUSTER_PLANS))),
            cluster_plan_seconds: add(&r, Gauge::with_opts(opts(&catalog::CLUSTER_PLAN_SECONDS))),
            cluster_refused: gauges(&r, &catalog::CLUSTER_REFUSED),
            cluster_may_own: add(&r, Gauge::with_opts(opts(&catalog::CLUSTER_MAY_OWN))),
            allocator_leads: add(&r, Gauge::with_opts(opts(&catalog::ALLOCATOR_LEADS))),
            allocator_pending: add(&r, Gauge::with_opts(opts(&catalog::ALLOCATOR_PENDING))),
            allocator_writes: counters(&r, &catalog::ALLOCATOR_WRITES),
            allocator_events: add(&r, IntCounter::with_opts(opts(&catalog::ALLOCATOR_EVENTS))),
            cluster_reports: counters(&r, &catalog::CLUSTER_REPORTS),
            config_reload: counters(&r, &catalog::CONFIG_RELOAD),
            ready: add(&r, Gauge::with_opts(opts(&catalog::READY))),
            build_info: gauges(&r, &catalog::BUILD_INFO),
            registry: r,
        }
    }
}

fn opts(family: &Family) -> Opts {
    Opts::new(family.name, family.help)
}

fn buckets(family: &Family) -> HistogramOpts {
    HistogramOpts { common_opts: opts(family), buckets: catalog::SECONDS.to_vec() }
}

fn gauges(registry: &Registry, family: &Family) -> GaugeVec {
    add(registry, GaugeVec::new(opts(family), family.labels))
}

fn counters(registry: &Registry, family: &Family) -> IntCounterVec {
    add(registry, IntCounterVec::new(opts(family), family.labels))
}

/// Names, labels and help are constants of the catalogue: what is refused here is refused in the first test that makes a registry.
fn add<C: Collector + Clone + 'static>(registry: &Registry, collector: prometheus::Result<C>) -> C {
    let collector = collector.expect("a family of the catalogue is well-formed");
    registry.register(Box::new(collector.clone())).expect("names in the catalogue are unique");
    collector
}
