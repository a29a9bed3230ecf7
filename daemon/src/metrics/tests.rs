use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use bascule_bgp::event::Event as BgpEvent;
use bascule_bgp::session::State as Session;
use bascule_bgp::speaker::{Speaker, SpeakerStatus};
use bascule_core::bfd::config::PeerConfig;
use bascule_core::bfd::io::BfdEvent;
use bascule_core::bfd::status::{BfdStatus, DiscardCount};
use bascule_core::node::config::FencePolicy;
use bascule_core::node::status::{AnycastStatus, GateStatus, GroupStatus};
use bascule_core::types::{Family as Af, Mac, Term};
use bascule_core::wire::bfd::{Diag, State};

use super::*;

fn group(name: &str) -> GroupStatus {
    GroupStatus {
        name: name.into(),
        addresses: vec!["10.9.0.100".parse().unwrap(), "2001:db8::100".parse().unwrap()],
        families: vec![Af::V4, Af::V6],
        interface: Some("eth0".into()),
        vrid: 51,
        role: Role::Backup,
        term: Term(3),
        owner: Some("10.9.0.2".parse().unwrap()),
        owner_priority: Some(206),
        since_seconds: 1.5,
        fence_margin_seconds: None,
        priority: 254,
        healthy: true,
        draining: false,
        condition: None,
        announce: bascule_core::node::config::Announce::L2,
        route: bascule_core::announce::route::Want::Withdraw,
        adverts_sent: 0,
        adverts_heard: 0,
    }
}

fn status(groups: Vec<GroupStatus>) -> NodeStatus {
    NodeStatus {
        node: "n1".into(),
        fence_policy: FencePolicy::Required,
        fence_ready: true,
        fence_error: None,
        drained: false,
        ready: false,
        groups,
        anycast: vec![],
        gates: vec![GateStatus { name: "api-local".into(), up: false, detail: "connect: refused".into() }],
    }
}

/// One session, never up.
fn sessions() -> BfdStatus {
    let now = bascule_core::time::Instant::ZERO;
    let mut bfd = bascule_core::bfd::Bfd::new(1);
    let peer = PeerConfig::new("10.9.0.254", std::net::IpAddr::from([10, 9, 0, 254]));
    bfd.handle_input(bascule_core::bfd::io::Input::Config(vec![peer]), now);
    bfd.status(now)
}

/// A neighbor that is being dialled, with totals of its own.
/// A forwarding room in which every count and state is another number.
fn plane() -> crate::handle::forward::ForwardStatus {
    use bascule_core::balance::Balancer;
    use bascule_core::balance::io::{ServiceSlot, Table};
    use bascule_core::balance::status::{EndpointStatus, ServiceStatus};
    use bascule_core::service::{Delivery, Protocol, ServiceKey};

    use crate::handle::forward::{
        CheckView, EndpointTraffic, Fill, ForwardStatus, Hook, NodeView, Probe, ProbeKind, ServiceTraffic, Standing,
    };
    let (service, endpoint) = ("dns".to_owned(), "e1".to_owned());
    let mut balance = Balancer::default().status();
    (balance.counts.builds, balance.counts.swaps, balance.counts.rows_moved) = (21, 22, 23);
    balance.counts.rows_forgotten = 25;
    (balance.counts.witnesses_answered, balance.counts.witnesses_silent) = (26, 27);
    balance.slab_used = 24;
    balance.services.push(ServiceStatus {
        name: service.clone(),
        key: ServiceKey { vip: "10.9.0.100".parse().unwrap(), port: 53, protocol: Protocol::Udp },
        number: 1,
        slot: ServiceSlot(1),
        delivery: Delivery::Direct,
        nodes: Table::default(),
        endpoint_table: Table::default(),
        waiting: 0,
        forgotten: 0,
        all_unready: false,
        starved: false,
        draining: false,
        endpoints: vec![EndpointStatus {
            name: endpoint.clone(),
            address: "10.1.0.1".parse().unwrap(),
            port: 5353,
            node: None,
            slot: None,
            weight: 1,
            state: "ready",
            serving: true,
        }],
    });
    let probes = vec![Probe { probe: ProbeKind::NativeXdp, trouble: None }];
    let (ingress, egress) = (Hook::Xdp, Hook::Tcx);
    let standing = Standing { ifindex: 2, device: "eth0".into(), ingress, egress, reasons: Vec::new(), probes };
    ForwardStatus {
        on: true,
        devices: vec![standing],
        nodes: vec![
            NodeView { name: "n2".into(), id: 2, this: false, up: true, state: "up", why: "" },
            NodeView { name: "n3".into(), id: 3, this: false, up: false, state: "dead", why: "" },
        ],
        balance: Some(balance),
        services: vec![ServiceTraffic { service: service.clone(), packets: 2, bytes: 3, new_flows: 4, orphans: 5 }],
        endpoints: vec![EndpointTraffic {
            service: service.clone(),
            endpoint: endpoint.clone(),
            packets: 6,
            bytes: 7,
            replies: 8,
            reply_bytes: 9,
            syns: 10,
            syn_acks: 11,
            resets: 12,
        }],
        checks: vec![CheckView { service, endpoint, up: true, detail: String::new(), passed: 13, failed: 14 }],
        drops: vec![("encap_tag", 15)],
        verdicts: vec![("flow_hit", 16)],
        hops: vec![17, 18],
        flows: Fill { entries: 19, capacity: 524_288 },
        ..ForwardStatus::default()
    }
}

fn speaker() -> SpeakerStatus {
    use bascule_bgp::config::{
        ExportPolicy, MaxPrefixAction, Mode, NeighborConfig, RemoteAs, SpeakerConfig, Transport,
    };
    use bascule_bgp::io::Input;
    use bascule_bgp::wire::{Family, FamilySet};
    let now = bascule_bgp::time::Instant::ZERO;
    let mut speaker = Speaker::new(1, now);
    let tor = NeighborConfig {
        name: "tor1".into(),
        address: [10, 0, 0, 1].into(),
        port: 179,
        remote_as: RemoteAs::External,
        local_as: None,
        mode: Mode::Active,
        families: FamilySet::EMPTY.with(Family::Ipv4),
        hold_time: 90,
        connect_retry: Duration::from_secs(5),
        send_hold: None,
        graceful_restart: None,
        max_prefix: None,
        max_prefix_action: MaxPrefixAction::Warn,
        bfd: false,
        export: ExportPolicy::default(),
        transport: Transport::default(),
    };
    let config = SpeakerConfig { asn: 65001, router_id: [10, 0, 0, 11].into(), neighbors: vec![tor] };
    speaker.handle_input(Input::Config(Box::new(config)), now);
    speaker.handle_timeout(now + Duration::from_secs(1));
    let mut status = speaker.status(now);
    let tor = &mut status.neighbors[0];
    tor.session.state = Session::Connect;
    tor.session.counters.sent.update = 5;
    tor.session.counters.notifications_received.insert("2/2".into(), 4);
    tor.session.counters.malformed = 6;
    tor.prefixes_out = vec![(Family::Ipv4, 12)];
    tor.queue_depth = 3;
    status
}

/// Every sample of a rendered page.
fn samples(metrics: &Metrics) -> BTreeMap<String, f64> {
    let text = metrics.render();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').map(|(k, v)| (k.to_owned(), v.parse().unwrap())).unwrap()).collect()
}

/// What each family needs to move, and the sample that must then hold.
type Mover = (&'static catalog::Family, &'static str, f64, fn(&Metrics));

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

const MOVERS: &[Mover] = &[
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
    (&catalog::GARP_SENT, r#"bascule_garp_sent_total{kind="first"}"#, 2.0, |m| m.frame_sent(FrameKind::First, 2)),
    (&catalog::RIVAL_CLAIMS, r#"bascule_rival_claims_total{group="api"}"#, 1.0, |m| m.observe(&event("rival"))),
    (&catalog::ONE_WAY, r#"bascule_one_way_total{group="api"}"#, 1.0, |m| m.observe(&event("one_way"))),
    (&catalog::ADDRESS_RESTORED, r#"bascule_address_restored_total{group="api"}"#, 1.0, |m| {
        m.observe(&event("restored"));
    }),
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
        &catalog::FORWARD_ENDPOINT_TCP,
        r#"bascule_forward_endpoint_tcp_total{endpoint="e1",event="reset",service="dns"}"#,
        12.0,
        |m| m.update_forward(Some(&plane())),
    ),
    (&catalog::FORWARD_ENDPOINT_READY, r#"bascule_forward_endpoint_ready{endpoint="e1",service="dns"}"#, 1.0, |m| {
        m.update_forward(Some(&plane()))
    }),
    (
        &catalog::FORWARD_CHECKS,
        r#"bascule_forward_checks_total{endpoint="e1",result="failed",service="dns"}"#,
        14.0,
        |m| m.update_forward(Some(&plane())),
    ),
    (&catalog::FORWARD_NODE_UP, r#"bascule_forward_node_up{node="n2"}"#, 1.0, |m| m.update_forward(Some(&plane()))),
    (&catalog::FORWARD_NODE_DEAD, r#"bascule_forward_node_dead{node="n3"}"#, 1.0, |m| m.update_forward(Some(&plane()))),
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
    (&catalog::CONFIG_RELOAD, r#"bascule_config_reload_total{result="refused"}"#, 1.0, |m| m.config_reload(false)),
    (&catalog::READY, "bascule_ready", 1.0, |m| m.update(&NodeStatus { ready: true, ..status(vec![]) })),
    (
        &catalog::BUILD_INFO,
        concat!(r#"bascule_build_info{node="n1",version=""#, env!("CARGO_PKG_VERSION"), r#""}"#),
        1.0,
        |_| {},
    ),
];

#[test]
fn every_family_moves_by_what_its_row_says() {
    let moved: Vec<&str> = MOVERS.iter().map(|m| m.0.name).collect();
    let all: Vec<&str> = catalog::ALL.iter().map(|f| f.name).collect();
    assert_eq!(moved, all, "one mover per family, in the order of the catalogue");
    for (family, sample, wanted, act) in MOVERS {
        let metrics = Metrics::new("n1");
        metrics.update(&status(vec![group("api")]));
        let before = samples(&metrics).get(*sample).copied();
        act(&metrics);
        let after = samples(&metrics).get(*sample).copied();
        assert_eq!(after, Some(*wanted), "{}: {sample}", family.name);
        if family.name != "bascule_build_info" {
            assert_ne!(before, after, "{}: it must have moved", family.name);
        }
    }
}

#[test]
fn what_is_known_beforehand_starts_at_zero() {
    let metrics = Metrics::new("n1");
    metrics.update(&status(vec![group("api")]));
    let now = samples(&metrics);
    for reason in Reason::ALL {
        let name = format!(r#"bascule_vip_transitions_total{{group="api",reason="{}"}}"#, reason.as_str());
        assert_eq!(now.get(&name), Some(&0.0), "{name}");
    }
    for name in [
        r#"bascule_rival_claims_total{group="api"}"#,
        r#"bascule_garp_sent_total{kind="defend"}"#,
        r#"bascule_failover_seconds_count{phase="detect"}"#,
        r#"bascule_refused_total{channel="vrrp"}"#,
        r#"bascule_config_reload_total{result="applied"}"#,
        r#"bascule_fence_margin_seconds{group="api"}"#,
    ] {
        assert_eq!(now.get(name), Some(&0.0), "{name}");
    }
}

#[test]
fn states_of_what_is_gone_or_unknown_are_taken_back() {
    let metrics = Metrics::new("n1");
    let held = GroupStatus { role: Role::Active, adverts_sent: 9, ..group("api") };
    metrics.update(&NodeStatus { ready: true, ..status(vec![held, group("web")]) });
    let has = |what: &str| samples(&metrics).keys().any(|key| key.starts_with(what));
    assert!(!has(r#"bascule_fence_margin_seconds{group="api"}"#), "Active without a fence has no margin");
    metrics.update(&status(vec![group("api")]));
    assert!(!has(r#"bascule_vip_held{group="web""#) && !has(r#"bascule_election_role{group="web""#));
    assert!(has(r#"bascule_vip_transitions_total{group="web""#), "counters stay");
    assert_eq!(samples(&metrics)[r#"bascule_adverts_sent_total{group="api"}"#], 0.0, "a total that began anew");
    metrics.unknown();
    assert!(!has("bascule_vip_held") && !has("bascule_election_role") && !has("bascule_health_state"));
    assert_eq!(samples(&metrics)["bascule_ready"], 0.0);
}

#[test]
fn bfd_sessions_come_and_go_and_a_deaf_socket_is_not_ready() {
    let metrics = Metrics::new("n1");
    let has = |what: &str| samples(&metrics).keys().any(|key| key.starts_with(what));
    let ready = NodeStatus { ready: true, ..status(vec![]) };
    metrics.update(&ready);
    metrics.update_bfd(Some(&sessions()));
    assert!(has(r#"bascule_bfd_state{peer="10.9.0.254"}"#));
    assert_eq!(samples(&metrics)[r#"bascule_bfd_transitions_total{peer="10.9.0.254",to="up"}"#], 0.0);
    metrics.update(&ready);
    assert!(has("bascule_bfd_state"), "the node's snapshot takes nothing back");
    assert_eq!(samples(&metrics)["bascule_ready"], 1.0);
    metrics.update_bfd(Some(&BfdStatus { errors: vec!["port taken".into()], ..sessions() }));
    assert_eq!(samples(&metrics)["bascule_ready"], 0.0);
    metrics.update_bfd(None);
    assert!(!has("bascule_bfd_state") && has("bascule_bfd_transitions_total"));
}

#[test]
fn a_bgp_peer_that_is_gone_has_no_state_and_keeps_its_counters() {
    let metrics = Metrics::new("n1");
    metrics.update_bgp(Some(&speaker()));
    // A scrape without a snapshot of the node leaves BGP alone, and the other way round.
    metrics.unknown();
    let has = |what: &str| samples(&metrics).keys().any(|key| key.starts_with(what));
    assert!(has("bascule_bgp_session_state{") && has("bascule_bgp_prefixes{") && has("bascule_bgp_queue_depth{"));
    metrics.update_bgp(None);
    assert!(!has("bascule_bgp_session_state{") && !has("bascule_bgp_prefixes{") && !has("bascule_bgp_queue_depth{"));
    assert!(has("bascule_bgp_messages_total{"));
}

#[test]
fn promtool_has_nothing_to_say() {
    let metrics = Metrics::new("n1");
    MOVERS.iter().for_each(|(.., act)| act(&metrics));
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool of the Debian package prometheus is installed by `cargo xtask setup`");
    promtool.stdin.take().unwrap().write_all(metrics.render().as_bytes()).unwrap();
    let out = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn the_reference_names_every_family_and_its_limit() {
    let text = reference();
    for family in catalog::ALL {
        let row = text.lines().find(|line| line.contains(&format!("`{}`", family.name))).expect(family.name);
        assert!(row.contains(family.help) && row.contains(family.moved_by), "{row}");
        assert!(family.help.len() > 60, "{} states no limit", family.name);
    }
}
