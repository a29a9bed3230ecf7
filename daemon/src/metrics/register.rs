//! One registry, and a typed handle for each family of the catalogue.

use prometheus::core::Collector;
use prometheus::{Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

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
