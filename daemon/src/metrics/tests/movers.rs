//! What moves each family.

use std::net::IpAddr;

use bascule_bgp::event::Event as BgpEvent;
use bascule_bgp::session::State as Session;
use bascule_core::bfd::io::BfdEvent;
use bascule_core::bfd::status::{BfdStatus, DiscardCount};
use bascule_core::neighbor::Standing;
use bascule_core::node::status::{AnycastStatus, GroupStatus};
use bascule_core::types::{Family, Mac, Term};
use bascule_core::wire::bfd::{Diag, State};

use super::fixtures::{across, group, in_force, lease, plane, reports, sessions, speaker, status};
use super::*;

/// What each family needs to move, and the sample that must then hold.
pub(super) type Mover = (&'static catalog::Family, &'static str, f64, fn(&Metrics));

const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 0, 100));

fn event(name: &str) -> Event {
    let group = "api".to_owned();
    match name {
        "role" => Event::Role {
            group,
            from: Role::Backup,
            to: Role::Active,
            reason: Reason::ActiveDown,
            term: Term(4),
            owner: None,
        },
        "takeover" => Event::Takeover {
            group,
            term: Term(4),
            reason: Reason::ActiveDown,
            detect: Some(0.31),
            claim: None,
            announce: 0.0015,
        },
        "rival" => Event::Rival { group, address: Some(VIP), mac: Some(Mac([2; 6])), source: None, first: false },
        "one_way" => Event::OneWay { group, source: None },
        "fence_closed" => Event::FenceClosed { group, term: Term(4) },
        "restored" => Event::AddressRestored { group, address: VIP },
        "refused" => Event::Refused { channel: "peer", source: VIP, error: "bad tag".into(), first: false },
        "bfd" => Event::Bfd(BfdEvent {
            peer: "tor".into(),
            remote: VIP,
            from: State::Up,
            to: State::Down,
            diag: Diag::DETECTION_EXPIRED,
            remote_state: State::Down,
            remote_diag: Diag::NONE,
            detection: Some(0.15),
            lateness: Some(0.0015),
        }),
        "late" => Event::AdvertLateness { group, seconds: 0.004 },
        other => panic!("no event {other}"),
    }
}

fn gives() -> bascule_k8s::AllocatorState {
    bascule_k8s::AllocatorState { leads: true, pending: 2, conflicts: 4, events: 6, ..Default::default() }
}

fn by_lease(metrics: &Metrics) {
    metrics.update_sites(Some(&super::fixtures::one_at_a_time()));
}

fn spread(metrics: &Metrics) {
    metrics.update_sites(Some(&across()));
}

fn leased() -> NodeStatus {
    status(vec![GroupStatus { lease: Some(lease()), ..group("api") }])
}

pub(super) const MOVERS: &[Mover] = &[
    (&catalog::VIP_HELD, r#"bascule_vip_held{group="api",vip="2001:db8::100"}"#, 1.0, |m| {
        m.update(&status(vec![GroupStatus { role: Role::Active, ..group("api") }]));
    }),
    (&catalog::ELECTION_ROLE, r#"bascule_election_role{group="api",role="active"}"#, 1.0, |m| {
        m.update(&status(vec![GroupStatus { role: Role::Active, ..group("api") }]));
    }),
    (&catalog::TRANSITIONS, r#"bascule_vip_transitions_total{group="api",reason="active_down"}"#, 1.0, |m| {
        m.observe(&event("role"));
    }),
    (&catalog::FAILOVER, r#"bascule_failover_seconds_bucket{phase="announce",le="0.002"}"#, 1.0, |m| {
        m.observe(&event("takeover"));
    }),
    (&catalog::FENCE_MARGIN, r#"bascule_fence_margin_seconds{group="api"}"#, 0.25, |m| {
        let held = GroupStatus { role: Role::Active, fence_margin_seconds: Some(0.25), ..group("api") };
        m.update(&status(vec![held]));
    }),
    (&catalog::FENCE_CLOSED, r#"bascule_fence_closed_total{group="api"}"#, 1.0, |m| m.observe(&event("fence_closed"))),
    (&catalog::FENCE_DROPS, r#"bascule_fence_drops_total{reason="answer"}"#, 7.0, |m| {
        m.fence_drops(&[("answer", 7), ("deliver", 0)]);
    }),
    (&catalog::FENCE_HEALED, "bascule_fence_healed_total", 1.0, |m| m.fence_healed()),
    (&catalog::GARP_SENT, r#"bascule_garp_sent_total{kind="first"}"#, 2.0, |m| m.frame_sent(FrameKind::First, 2)),
    (&catalog::GARP_REFUSED, r#"bascule_garp_refused_total{kind="first"}"#, 1.0, |m| m.frame_refused(FrameKind::First)),
    (&catalog::NEIGHBOR_TABLE_FULL, r#"bascule_neighbor_table_full_total{family="ipv4"}"#, 3.0, |m| {
        m.neighbor_table_full(Family::V4, 3);
    }),
    (&catalog::NEIGHBORS_KEPT, r#"bascule_neighbors_kept{state="unresolved"}"#, 2.0, |m| {
        m.neighbors_kept(Standing { resolved: 3, unresolved: 2, missing: 1 });
    }),
    (&catalog::NEIGHBOR_REFUSALS, "bascule_neighbor_refusals_total", 1.0, |m| m.neighbor_refused()),
    (&catalog::RIVAL_CLAIMS, r#"bascule_rival_claims_total{group="api"}"#, 1.0, |m| m.observe(&event("rival"))),
    (&catalog::ONE_WAY, r#"bascule_one_way_total{group="api"}"#, 1.0, |m| m.observe(&event("one_way"))),
    (&catalog::ADDRESS_RESTORED, r#"bascule_address_restored_total{group="api"}"#, 1.0, |m| {
        m.observe(&event("restored"));
    }),
    (&catalog::LEASE_CONDITION, r#"bascule_lease_condition{condition="denied",group="api"}"#, 1.0, |m| {
        m.update(&leased())
    }),
    (&catalog::LEASE_LEFT, r#"bascule_lease_seconds_left{group="api"}"#, 1.5, |m| m.update(&leased())),
    (&catalog::LEASE_RENEWALS, r#"bascule_lease_renewals_total{group="api",result="expired"}"#, 2.0, |m| {
        m.update(&leased());
    }),
    (&catalog::LEASE_TRANSITIONS, r#"bascule_lease_transitions{group="api"}"#, 8.0, |m| m.update(&leased())),
    (&catalog::ADVERTS_SENT, r#"bascule_adverts_sent_total{group="api"}"#, 12.0, |m| {
        m.update(&status(vec![GroupStatus { adverts_sent: 12, ..group("api") }]));
    }),
    (&catalog::ADVERTS_HEARD, r#"bascule_adverts_heard_total{group="api"}"#, 13.0, |m| {
        m.update(&status(vec![GroupStatus { adverts_heard: 13, ..group("api") }]));
    }),
    (&catalog::REFUSED, r#"bascule_refused_total{channel="peer"}"#, 1.0, |m| m.observe(&event("refused"))),
    (&catalog::ADVERT_LATENESS, r#"bascule_advert_lateness_seconds_bucket{le="0.005"}"#, 1.0, |m| {
        m.observe(&event("late"));
    }),
    (&catalog::LOOP_LAG, "bascule_loop_lag_seconds_count", 1.0, |m| m.loop_lag(Duration::from_millis(3))),
    (&catalog::HEALTH_STATE, r#"bascule_health_state{gate="api-local"}"#, 1.0, |m| {
        let mut status = status(vec![]);
        status.gates[0].up = true;
        m.update(&status);
    }),
    (&catalog::BFD_STATE, r#"bascule_bfd_state{peer="10.9.0.254"}"#, 1.0, |m| m.update_bfd(Some(&sessions()))),
    (&catalog::BFD_TRANSITIONS, r#"bascule_bfd_transitions_total{peer="tor",to="down"}"#, 1.0, |m| {
        m.observe(&event("bfd"));
    }),
    (&catalog::BFD_PACKETS, r#"bascule_bfd_packets_total{direction="received"}"#, 8.0, |m| {
        m.update_bfd(Some(&BfdStatus { received: 8, ..sessions() }));
    }),
    (&catalog::BFD_DISCARDS, r#"bascule_bfd_discards_total{reason="ttl"}"#, 3.0, |m| {
        let discards = vec![DiscardCount { reason: "ttl", count: 3 }];
        m.update_bfd(Some(&BfdStatus { discards, ..sessions() }));
    }),
    (&catalog::BFD_LATENESS, r#"bascule_bfd_detection_lateness_seconds_bucket{le="0.002"}"#, 1.0, |m| {
        m.observe(&event("bfd"));
    }),
    (&catalog::ROUTE_WANTED, r#"bascule_route_wanted{group="dns",vip="10.9.0.53"}"#, 1.0, |m| {
        let dns = AnycastStatus {
            name: "dns".into(),
            addresses: vec![IpAddr::from([10, 9, 0, 53])],
            healthy: true,
            installed: true,
            route: Want::Announce,
            since_seconds: 1.0,
            condition: None,
        };
        m.update(&NodeStatus { anycast: vec![dns], ..status(vec![]) });
    }),
    (&catalog::BGP_SESSION_STATE, r#"bascule_bgp_session_state{peer="tor1"}"#, 2.0, |m| m.update_bgp(Some(&speaker()))),
    (&catalog::BGP_TRANSITIONS, r#"bascule_bgp_transitions_total{peer="tor1",to="idle"}"#, 1.0, |m| {
        let (neighbor, reason) = ("tor1".to_owned(), "hold time expired".to_owned());
        m.observe_bgp(&BgpEvent::State { neighbor, from: Session::Established, to: Session::Idle, reason });
    }),
    (&catalog::BGP_MESSAGES, r#"bascule_bgp_messages_total{direction="sent",peer="tor1",type="update"}"#, 5.0, |m| {
        m.update_bgp(Some(&speaker()))
    }),
    (
        &catalog::BGP_NOTIFICATIONS,
        r#"bascule_bgp_notifications_total{code="2",direction="received",peer="tor1",subcode="2"}"#,
        4.0,
        |m| m.update_bgp(Some(&speaker())),
    ),
    (&catalog::BGP_MALFORMED, r#"bascule_bgp_malformed_updates_total{peer="tor1"}"#, 6.0, |m| {
        m.update_bgp(Some(&speaker()));
    }),
    (&catalog::BGP_PREFIXES, r#"bascule_bgp_prefixes{direction="sent",family="ipv4",peer="tor1"}"#, 12.0, |m| {
        m.update_bgp(Some(&speaker()))
    }),
    (&catalog::BGP_QUEUE_DEPTH, r#"bascule_bgp_queue_depth{peer="tor1"}"#, 3.0, |m| m.update_bgp(Some(&speaker()))),
    (&catalog::BGP_READY_TO_WIRE, r#"bascule_bgp_ready_to_wire_seconds_bucket{le="0.002"}"#, 1.0, |m| {
        let latency = Duration::from_micros(1500);
        m.observe_bgp(&BgpEvent::Sent { neighbor: "tor1".into(), announced: 1, withdrawn: 0, latency });
    }),
    (&catalog::FORWARD_ON, r#"bascule_forward_on"#, 1.0, |m| m.update_forward(Some(&plane()))),
    (&catalog::FORWARD_DEVICE, r#"bascule_forward_device{device="eth0",egress="tcx",ingress="xdp"}"#, 1.0, |m| {
        m.update_forward(Some(&plane()))
    }),
    (&catalog::FORWARD_PROBE, r#"bascule_forward_probe{device="eth0",probe="native_xdp"}"#, 1.0, |m| {
        m.update_forward(Some(&plane()))
    }),
    (&catalog::FORWARD_SERVICE_PACKETS, r#"bascule_forward_service_packets_total{service="dns"}"#, 2.0, |m| {
        m.update_forward(Some(&plane()))
    }),
    (&catalog::FORWARD_SERVICE_BYTES, r#"bascule_forward_service_bytes_total{service="dns"}"#, 3.0, |m| {
        m.update_forward(Some(&plane()))
    }),
    (&catalog::FORWARD_SERVICE_FLOWS, r#"bascule_forward_service_new_flows_total{service="dns"}"#, 4.0, |m| {
        m.update_forward(Some(&plane()))
    }),
    (&catalog::FORWARD_SERVICE_ORPHANS, r#"bascule_forward_service_orphans_total{service="dns"}"#, 5.0, |m| {
        m.update_forward(Some(&plane()))
    }),
    (
        &catalog::FORWARD_ENDPOINT_PACKETS,
        r#"bascule_forward_endpoint_packets_total{direction="received",endpoint="e1",service="dns"}"#,
        8.0,
        |m| m.update_forward(Some(&plane())),
    ),
    (
        &catalog::FORWARD_ENDPOINT_BYTES,
        r#"bascule_forward_endpoint_bytes_total{direction="sent",endpoint="e1",service="dns"}"#,
        7.0,
        |m| m.update_forward(Some(&plane())),
    ),
    (
        &catalog::FORWARD_ENDPOINT_FLOWS,
        r#"bascule_forward_endpoint_new_flows_total{endpoint="e1",service="dns"}"#,
        21.0,
        |m| m.update_forward(Some(&plane())),
    ),
    (
        &catalog::FORWARD_ENDPOINT_TCP,
        r#"bascule_forward_endpoint_tcp_total{endpoint="e1",event="reset",service="dns"}"#,
        12.0,
        |m| m.update_forward(Some(&plane())),
    ),
    (&catalog::FORWARD_ENDPOINT_READY, r#"bascule_forward_endpoint_ready{endpoint="e1",service="dns"}"#, 1.0, |m| {
        m.update_forward(Some(&plane()))
    }),
    (&catalog::FORWARD_DELEGATED, r#"bascule_forward_endpoints_delegated"#, 28.0, |m| m.update_forward(Some(&plane()))),
    (
        &catalog::FORWARD_CHECKS,
        r#"bascule_forward_checks_total{endpoint="e1",result="failed",service="dns"}"#,
        14.0,
        |m| m.update_forward(Some(&plane())),
    ),
    (&catalog::FORWARD_NODE_UP, r#"bascule_forward_node_up{node="n2"}"#, 1.0, |m| m.update_forward(Some(&plane()))),
    (&catalog::FORWARD_NODE_DEAD, r#"bascule_forward_node_dead{node="n3"}"#, 1.0, |m| m.update_forward(Some(&plane()))),
    (&catalog::FORWARD_SITE_USABLE, r#"bascule_forward_site_usable{site="2"}"#, 1.0, |m| {
        m.update_forward(Some(&plane()));
    }),
    (&catalog::FORWARD_WITNESSES, r#"bascule_forward_witnesses_total{result="silent"}"#, 27.0, |m| {
        m.update_forward(Some(&plane()))
    }),
    (&catalog::FORWARD_DROPS, r#"bascule_forward_drops_total{reason="encap_tag"}"#, 15.0, |m| {
        m.update_forward(Some(&plane()))
    }),
    (&catalog::FORWARD_VERDICTS, r#"bascule_forward_verdicts_total{verdict="flow_hit"}"#, 16.0, |m| {
        m.update_forward(Some(&plane()))
    }),
    (&catalog::FORWARD_HOPS, r#"bascule_forward_hops_total{nodes="1"}"#, 18.0, |m| m.update_forward(Some(&plane()))),
    (&catalog::FORWARD_TABLES, r#"bascule_forward_tables_total{work="swapped"}"#, 22.0, |m| {
        m.update_forward(Some(&plane()))
    }),
    (&catalog::FORWARD_HEALED, "bascule_forward_healed_total", 97.0, |m| m.update_forward(Some(&plane()))),
    (&catalog::FORWARD_ROWS_MOVED, r#"bascule_forward_rows_moved_total"#, 23.0, |m| m.update_forward(Some(&plane()))),
    (&catalog::FORWARD_ROWS_FORGOTTEN, r#"bascule_forward_rows_forgotten_total"#, 25.0, |m| {
        m.update_forward(Some(&plane()))
    }),
    (&catalog::FORWARD_MAP_ENTRIES, r#"bascule_forward_map_entries{map="rows"}"#, 24.0, |m| {
        m.update_forward(Some(&plane()))
    }),
    (&catalog::FORWARD_MAP_CAPACITY, r#"bascule_forward_map_capacity{map="flows"}"#, 524288.0, |m| {
        m.update_forward(Some(&plane()))
    }),
    (&catalog::CLUSTER_SERVICES, "bascule_cluster_services", 2.0, |m| m.update_cluster(Some(&in_force()))),
    (&catalog::CLUSTER_VIPS, "bascule_cluster_vips", 1.0, |m| m.update_cluster(Some(&in_force()))),
    (&catalog::CLUSTER_SOURCE, r#"bascule_cluster_source{source="file"}"#, 1.0, |m| {
        m.update_cluster(Some(&in_force()))
    }),
    (&catalog::CLUSTER_INTENT_AGE, "bascule_cluster_intent_age_seconds", f64::INFINITY, |m| {
        m.update_cluster(Some(&in_force()))
    }),
    (&catalog::CLUSTER_PLANS, "bascule_cluster_plans_total", 7.0, |m| m.update_cluster(Some(&in_force()))),
    (&catalog::CLUSTER_PLAN_SECONDS, "bascule_cluster_plan_seconds", 0.25, |m| m.update_cluster(Some(&in_force()))),
    (&catalog::CLUSTER_REFUSED, r#"bascule_cluster_refused{reason="pending"}"#, 1.0, |m| {
        m.update_cluster(Some(&in_force()))
    }),
    (&catalog::CLUSTER_OBJECTS, r#"bascule_cluster_objects{kind="BgpAnnouncement",state="refused"}"#, 1.0, |m| {
        m.update_cluster(Some(&in_force()))
    }),
    (&catalog::CLUSTER_MAY_OWN, "bascule_cluster_may_own", 1.0, |m| m.update_cluster(Some(&in_force()))),
    (&catalog::ALLOCATOR_LEADS, "bascule_cluster_allocator_leads", 1.0, |m| m.update_allocator(Some(&gives()))),
    (&catalog::ALLOCATOR_PENDING, "bascule_cluster_allocator_pending", 2.0, |m| m.update_allocator(Some(&gives()))),
    (&catalog::ALLOCATOR_WRITES, r#"bascule_cluster_allocator_writes_total{result="conflict"}"#, 4.0, |m| {
        m.update_allocator(Some(&gives()))
    }),
    (&catalog::ALLOCATOR_EVENTS, "bascule_cluster_allocator_events_total", 6.0, |m| m.update_allocator(Some(&gives()))),
    (&catalog::CLUSTER_REPORTS, r#"bascule_cluster_reports_total{result="failed"}"#, 2.0, |m| {
        m.update_reports(Some(&reports()))
    }),
    (&catalog::SITES_LEADS, r#"bascule_sites_leads"#, 1.0, spread),
    (&catalog::SITES_RELAYS_GONE, r#"bascule_sites_relays_gone_total{how="closed"}"#, 2.0, spread),
    (&catalog::SITES_SESSION, r#"bascule_sites_session{site="dc-b"}"#, 1.0, spread),
    (&catalog::SITES_BYTES, r#"bascule_sites_session_bytes_total{direction="received",site="dc-b"}"#, 200.0, spread),
    (&catalog::SITES_STATE_AGE, r#"bascule_sites_state_age_seconds{site="dc-b"}"#, 4.0, spread),
    (&catalog::SITES_OTHERS_REACH, r#"bascule_sites_others_reach{site="dc-b"}"#, 1.0, spread),
    (&catalog::SITES_REFUSED, r#"bascule_sites_refused_total{plane="state",reason="revoked"}"#, 2.0, spread),
    (&catalog::SITES_PATH_UP, r#"bascule_sites_path_up{site="dc-b"}"#, 1.0, spread),
    (&catalog::SITES_PATH_LOSS, r#"bascule_sites_path_loss_ratio{direction="in",site="dc-b"}"#, 0.25, spread),
    (&catalog::SITES_PATH_RTT, r#"bascule_sites_path_rtt_seconds{site="dc-b"}"#, 0.02, spread),
    (&catalog::SITES_PATH_MTU, r#"bascule_sites_path_mtu_bytes{site="dc-b"}"#, 1400.0, spread),
    (&catalog::SITES_GATEWAYS_SILENT, r#"bascule_sites_gateways_silent{site="dc-b"}"#, 1.0, spread),
    (&catalog::SITES_PATH_QUIET, r#"bascule_sites_path_quiet{site="dc-b"}"#, 1.0, spread),
    (&catalog::SITES_PATH_PACKETS, r#"bascule_sites_path_packets_total{direction="sent",site="dc-b"}"#, 30.0, spread),
    (&catalog::SITES_SCORE, r#"bascule_sites_service_score{service="web",site="dc-b"}"#, 62.5, spread),
    (&catalog::SITES_SHARE, r#"bascule_sites_service_share{service="web",site="dc-b"}"#, 0.375, spread),
    (&catalog::SITES_DEMAND, r#"bascule_sites_service_demand{of="site",service="web"}"#, 100.5, spread),
    (&catalog::SITES_CAPACITY, r#"bascule_sites_service_capacity{service="web"}"#, 50.0, spread),
    (&catalog::SITES_CREDIT, r#"bascule_sites_service_credit{direction="borrowed",service="web"}"#, 53.0, spread),
    (
        &catalog::SITES_HANDSHAKES,
        r#"bascule_sites_service_handshakes_total{result="failed",service="web",site="dc-b"}"#,
        96.0,
        spread,
    ),
    (&catalog::SITES_EJECTIONS, r#"bascule_sites_service_ejections_total{service="web",site="dc-b"}"#, 3.0, spread),
    (&catalog::SITES_DRAINS, r#"bascule_sites_drains{site="dc-b"}"#, 1.0, spread),
    (&catalog::SITES_ACTIVE, r#"bascule_sites_service_active{service="web"}"#, 1.0, by_lease),
    (&catalog::SITES_TERM, r#"bascule_sites_service_term{service="web"}"#, 41.0, by_lease),
    (&catalog::SITES_GRANTS, r#"bascule_sites_service_grants_total{service="web"}"#, 2.0, by_lease),
    (
        &catalog::SITES_HANDOVERS,
        r#"bascule_sites_service_handovers_total{reason="draining",service="web"}"#,
        3.0,
        by_lease,
    ),
    (&catalog::SITES_FENCE_DROPS, r#"bascule_sites_fence_drops_total{reason="deliver"}"#, 29.0, |m| {
        m.update_forward(Some(&plane()))
    }),
    (&catalog::SITES_AUTHORITY, r#"bascule_sites_authority_reachable{service="web"}"#, 1.0, by_lease),
    (&catalog::SITES_TABLES, r#"bascule_sites_tables_total{service="web"}"#, 9.0, spread),
    (&catalog::CONFIG_RELOAD, r#"bascule_config_reload_total{result="refused"}"#, 1.0, |m| m.config_reload(false)),
    (&catalog::READY, "bascule_ready", 1.0, |m| m.update(&NodeStatus { ready: true, ..status(vec![]) })),
    (
        &catalog::BUILD_INFO,
        concat!(r#"bascule_build_info{instance="0",node="n1",version=""#, env!("CARGO_PKG_VERSION"), r#""}"#),
        1.0,
        |_| {},
    ),
];
