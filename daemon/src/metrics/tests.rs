pub(crate) mod fixtures;
mod movers;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use bascule_core::bfd::status::BfdStatus;
use bascule_core::node::status::GroupStatus;

use self::fixtures::{group, sessions, speaker, status};
use self::movers::MOVERS;
use super::*;

/// Every sample of a rendered page.
fn samples(metrics: &Metrics) -> BTreeMap<String, f64> {
    let text = metrics.render();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').map(|(k, v)| (k.to_owned(), v.parse().unwrap())).unwrap()).collect()
}

#[test]
fn every_family_moves_by_what_its_row_says() {
    let moved: Vec<&str> = MOVERS.iter().map(|m| m.0.name).collect();
    let all: Vec<&str> = catalog::ALL.iter().map(|f| f.name).collect();
    assert_eq!(moved, all, "one mover per family, in the order of the catalogue");
    for (family, sample, wanted, act) in MOVERS {
        let metrics = Metrics::new("n1", 0);
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
    let metrics = Metrics::new("n1", 0);
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
    let metrics = Metrics::new("n1", 0);
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
fn a_lease_is_taken_back_with_its_group_and_with_its_elector() {
    let metrics = Metrics::new("n1", 0);
    let has = |what: &str| samples(&metrics).keys().any(|key| key.starts_with(what));
    let leased = GroupStatus { lease: Some(self::fixtures::lease()), ..group("api") };
    for after in [vec![], vec![group("api")]] {
        metrics.update(&status(vec![leased.clone()]));
        assert!(
            has("bascule_lease_condition{") && has("bascule_lease_seconds_left{") && has("bascule_lease_transitions{")
        );
        metrics.update(&status(after));
        assert!(
            !has("bascule_lease_condition{")
                && !has("bascule_lease_seconds_left{")
                && !has("bascule_lease_transitions{")
        );
        assert!(has("bascule_lease_renewals_total{"), "counters stay");
    }
}

#[test]
fn bfd_sessions_come_and_go_and_a_deaf_socket_is_not_ready() {
    let metrics = Metrics::new("n1", 0);
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
    let metrics = Metrics::new("n1", 0);
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
fn a_site_that_is_gone_has_no_state_and_keeps_its_counters() {
    let metrics = Metrics::new("n1", 0);
    metrics.update_sites(Some(&fixtures::across()));
    let has = |what: &str| samples(&metrics).keys().any(|key| key.starts_with(what));
    assert!(has("bascule_sites_session{") && has("bascule_sites_service_share{"));
    let alone =
        crate::handle::sites::SitesStatus { sites: vec![], services: vec![], drains: vec![], ..fixtures::across() };
    metrics.update_sites(Some(&alone));
    for states in [
        "session{",
        "state_age",
        "others_reach",
        "path_up",
        "path_loss",
        "path_rtt",
        "path_mtu",
        "gateways_silent",
        "service_score",
        "service_share",
        "drains",
    ] {
        assert!(!has(&format!("bascule_sites_{states}")), "{states}");
    }
    assert!(has("bascule_sites_session_bytes_total{") && has("bascule_sites_tables_total{"));
}

#[test]
fn what_others_reach_is_shown_while_somebody_can_say() {
    let metrics = Metrics::new("n1", 0);
    let mut status = fixtures::across();
    let mut value = |others| {
        status.sites[0].others = others;
        metrics.update_sites(Some(&status));
        samples(&metrics).get(r#"bascule_sites_others_reach{site="dc-b"}"#).copied()
    };
    let says = |site: &str, reaches| crate::handle::sites::OtherView { site: site.to_owned(), reaches };
    assert_eq!(value(vec![says("dc-c", false), says("dc-d", true)]), Some(1.0));
    assert_eq!(value(vec![says("dc-c", false), says("dc-d", false)]), Some(0.0));
    assert_eq!(value(vec![]), None);
}

#[test]
fn who_may_answer_is_shown_with_its_term_and_not_without() {
    let metrics = Metrics::new("n1", 0);
    let mut status = fixtures::one_at_a_time();
    metrics.update_sites(Some(&status));
    let value = |what: &str| samples(&metrics).get(&format!("bascule_sites_{what}{{service=\"web\"}}")).copied();
    assert_eq!((value("service_active"), value("service_term")), (Some(1.0), Some(41.0)));
    assert_eq!((value("service_grants_total"), value("authority_reachable")), (Some(2.0), Some(1.0)));
    let lease = status.services[0].lease.as_mut().expect("a lease");
    (lease.grant, lease.authority) = (None, "unreachable");
    metrics.update_sites(Some(&status));
    assert_eq!((value("service_active"), value("service_term")), (Some(0.0), None));
    assert_eq!((value("service_grants_total"), value("authority_reachable")), (Some(2.0), Some(0.0)));
}

#[test]
fn promtool_has_nothing_to_say() {
    let metrics = Metrics::new("n1", 0);
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
