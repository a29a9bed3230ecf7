//! Snapshots of every room.

use bascule_bgp::session::State as Session;
use bascule_bgp::speaker::{Speaker, SpeakerStatus};
use bascule_core::bfd::config::PeerConfig;
use bascule_core::bfd::status::BfdStatus;
use bascule_core::election::lease::{Condition, Standing};
use bascule_core::node::config::FencePolicy;
use bascule_core::node::status::{GateStatus, GroupStatus, LeaseStatus};
use bascule_core::types::{Family as Af, Term};

use super::*;

pub(crate) fn group(name: &str) -> GroupStatus {
    GroupStatus {
        name: name.into(),
        addresses: vec!["10.9.0.100".parse().unwrap(), "2001:db8::100".parse().unwrap()],
        families: vec![Af::V4, Af::V6],
        interface: Some("eth0".into()),
        lease: None,
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
        barred: false,
        announce: bascule_core::node::config::Announce::L2,
        route: bascule_core::announce::route::Want::Withdraw,
        adverts_sent: 0,
        adverts_heard: 0,
    }
}

pub(super) fn lease() -> LeaseStatus {
    LeaseStatus {
        store: "kubernetes",
        name: "kube-system/plndr-cp-lock".into(),
        holder: Some("n2_bascule".into()),
        standing: Standing::Fit,
        store_condition: Condition::Denied,
        detail: Some("403".into()),
        seconds_left: Some(1.5),
        transitions: 8,
        renewals: 30,
        expired: 2,
        lost: 1,
        takeover_bound_seconds: 4.5,
    }
}

pub(crate) fn status(groups: Vec<GroupStatus>) -> NodeStatus {
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
pub(super) fn sessions() -> BfdStatus {
    let now = bascule_core::time::Instant::ZERO;
    let mut bfd = bascule_core::bfd::Bfd::new(1);
    let peer = PeerConfig::new("10.9.0.254", std::net::IpAddr::from([10, 9, 0, 254]));
    bfd.handle_input(bascule_core::bfd::io::Input::Config(vec![peer]), now);
    bfd.status(now)
}

/// A forwarding room in which every count and state is another number.
pub(crate) fn plane() -> crate::handle::forward::ForwardStatus {
    use bascule_core::balance::Balancer;
    use bascule_core::balance::io::{ServiceSlot, Table};
    use bascule_core::balance::sites::SiteStatus;
    use bascule_core::balance::status::{EndpointStatus, ServiceStatus};
    use bascule_core::service::{Delivery, Protocol, ServiceKey};
    use bascule_core::site::SiteId;

    use crate::handle::forward::{
        CheckView, EndpointTraffic, Fill, ForwardStatus, Hook, NodeView, Probe, ProbeKind, ServiceTraffic, Standing,
    };
    let (service, endpoint) = ("dns".to_owned(), "e1".to_owned());
    let mut balance = Balancer::default().status();
    (balance.counts.builds, balance.counts.swaps, balance.counts.rows_moved) = (21, 22, 23);
    balance.counts.rows_forgotten = 25;
    (balance.counts.witnesses_answered, balance.counts.witnesses_silent) = (26, 27);
    balance.slab_used = 24;
    let site = SiteId(2);
    balance.sites.push(SiteStatus { site, gateways: 1, reachable: true, lost: false, usable: true, mtu: Some(1380) });
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
        delegated: 28,
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
            delegated: false,
        }],
    });
    let probes = vec![Probe { probe: ProbeKind::NativeXdp, trouble: None }];
    let (ingress, egress) = (Hook::Xdp, Hook::Tcx);
    let standing = Standing { ifindex: 2, device: "eth0".into(), ingress, egress, reasons: Vec::new(), probes };
    ForwardStatus {
        healed: 97,
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
            new_flows: 21,
        }],
        checks: vec![CheckView { service, endpoint, up: true, detail: String::new(), passed: 13, failed: 14 }],
        drops: vec![("encap_tag", 15)],
        term_drops: vec![("deliver", 29)],
        verdicts: vec![("flow_hit", 16)],
        hops: vec![17, 18],
        flows: Fill { entries: 19, capacity: 524_288 },
        ..ForwardStatus::default()
    }
}

/// A neighbor that is being dialled, with totals of its own.
pub(super) fn speaker() -> SpeakerStatus {
    use bascule_bgp::config::{NeighborConfig, SpeakerConfig};
    use bascule_bgp::io::Input;
    use bascule_bgp::wire::Family;
    let now = bascule_bgp::time::Instant::ZERO;
    let mut speaker = Speaker::new(1, now);
    let tor = NeighborConfig::external("tor1", [10, 0, 0, 1].into());
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

/// Two Services of which one has its address, on a node that may own.
pub(crate) fn reports() -> bascule_k8s::ReportState {
    bascule_k8s::ReportState { written: 3, failed: 2, trouble: Some("403".to_owned()) }
}

pub(crate) fn in_force() -> crate::handle::intent::InForce {
    use bascule_core::service::plan::{NodeStanding, ObjectStanding, Plan, Refused, ServiceStanding};
    let vip: std::net::IpAddr = [10, 9, 7, 100].into();
    let told = |name: &str, vips: Vec<_>, refused| {
        std::sync::Arc::new(ServiceStanding { name: name.to_owned(), vips, refused })
    };
    let mut plan = Plan::default();
    plan.told = vec![told("shop/a", vec![vip], vec![]), told("shop/b", vec![], vec![Refused::Pending])];
    plan.standings = vec![NodeStanding { name: "n1".to_owned(), forwards: true, may_own: true, reasons: vec![] }];
    let refused = Some("spec.peers: there is no peer tor".to_owned());
    plan.objects = vec![ObjectStanding { kind: "BgpAnnouncement".into(), name: "edge".into(), vips: 0, refused }];
    plan.shards = [(bascule_core::shard::ShardId(0), [vip].into())].into();
    crate::handle::intent::InForce {
        node: "n1".to_owned(),
        announce: bascule_core::node::config::Announce::L2,
        source: Some("file"),
        at: None,
        plan: std::sync::Arc::new(plan),
        took: std::time::Duration::from_millis(250),
        plans: 7,
        names: std::collections::BTreeMap::new(),
    }
}

/// This site and one more, of which much is known.
pub(crate) fn across() -> crate::handle::sites::SitesStatus {
    use bascule_core::site::SiteId;
    use bascule_core::site::handshakes::Totals;
    use bascule_core::site::join::demand::Brought;
    use bascule_core::site::lead::Gone;
    use bascule_core::site::path::io::{Carriage, Refused, Status};
    use bascule_core::site::policy::Opinion;
    use bascule_core::site::policy::facts::{Observed, Verdict};
    use bascule_core::site::policy::standing::State;
    use bascule_mesh::path::{Counters, PathStatus};
    use bascule_mesh::state::SessionStatus;
    use bascule_mesh::tls::Refusal;

    use crate::handle::sites::{DrainView, OtherView, RelayView, ServiceView, SiteView, SitesStatus, StandingView};
    let path = Status {
        carriage: Carriage::Up,
        brownout_in: None,
        brownout_out: None,
        loss_in: 0.25,
        loss_out: 0.125,
        rtt: Some(0.02),
        rtt_usual: Some(0.02),
        rtt_factor: 1.0,
        mtu: 1400,
        flows_up: 2,
        flows: 0b11,
        returning: false,
        suppressed: true,
        refused: Refused { tag: 5, ..Refused::default() },
    };
    let counters = Counters { sent: 30, received: 20, ..Counters::default() };
    let session = SessionStatus { sent: 300, received: 200, relay: Some("m1".to_owned()), ..SessionStatus::default() };
    let session = SessionStatus { version: Some(2), build: Some("bascule 9.9".to_owned()), ..session };
    let mut state = bascule_mesh::state::Status { leads: true, incarnation: 3, ..Default::default() };
    state.counters.sent_away.insert(Refusal::Revoked, 2);
    let opinion = Opinion {
        site: SiteId(2),
        state: State::Degraded,
        verdict: Verdict::Normal,
        score: 62.5,
        share: 0.375,
        age: Some(4.0),
        suppressed: false,
        observed: Observed { handshakes: 120, failed: 90, usual: 6, compared: true },
        ejected: Some(25.5),
        ejections: 3,
    };
    let handshakes = Totals { answered: 1000, failed: 96, ..Totals::default() };
    SitesStatus {
        site: "dc-a".to_owned(),
        node: "n1".to_owned(),
        relay: Some("n1".to_owned()),
        leads: true,
        leader: Some("n1".to_owned()),
        heard: vec!["n1".to_owned()],
        gone: Gone { closed: 2, ..Gone::default() },
        isolated: false,
        conditions: vec!["no probes".to_owned()],
        sites: vec![SiteView {
            id: SiteId(2),
            name: "dc-b".to_owned(),
            region: "south".to_owned(),
            session: true,
            relays: vec![RelayView { relay: "n1".to_owned(), counts: true }],
            others: vec![
                OtherView { site: "dc-c".to_owned(), reaches: true },
                OtherView { site: "dc-d".to_owned(), reaches: false },
            ],
            age_seconds: Some(4.0),
            state: Some(session),
            path: Some(PathStatus { path, counters, silent_since: None }),
            silent_gateways: vec!["m2".to_owned()],
        }],
        services: vec![ServiceView {
            name: "web".to_owned(),
            number: 7,
            mode: "weighted",
            tables: 9,
            spill: 0.375,
            brought: Brought { node: 40.25, site: 100.5, capacity: 50, lent: 0.0, borrowed: 53.0 },
            lease: None,
            sites: vec![StandingView { name: "dc-b".to_owned(), opinion, summary: None, handshakes }],
        }],
        drains: vec![DrainView {
            site: "dc-b".to_owned(),
            what: "service web".to_owned(),
            services: vec!["web".to_owned()],
            seconds: 540,
        }],
        state: Some(state),
        feed: None,
        unknown_words: 0,
        unwanted_counts: 3,
    }
}

/// The same, of a service that this site has.
pub(crate) fn one_at_a_time() -> crate::handle::sites::SitesStatus {
    use crate::handle::sites::{GrantView, LeaseView};
    let mut status = across();
    let lease = LeaseView {
        holder: Some("dc-a".to_owned()),
        authority: "reachable",
        detail: None,
        refrains: None,
        grant: Some(GrantView { term: 41, seconds: 4.25 }),
        grants: 2,
        handed: None,
        handovers: [("draining", 3), ("failback", 0)].into(),
    };
    status.services[0].mode = "activePassive";
    status.services[0].lease = Some(lease);
    status
}
