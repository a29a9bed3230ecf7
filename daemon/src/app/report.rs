//! What this node says of the shards that it owns, in objects of kind VipStatus. Nothing waits for it and nothing depends on it.
//!
//! Who owns reports. Where every node announces, the best of those that may own does it, as the list has it. Of a shard that nobody is heard
//! to own the first node of its list says so, whether it may own or not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use bascule_core::node::config::Announce;
use bascule_core::node::status::NodeStatus;
use bascule_core::service::plan::{NodeStanding, shard_name};
use bascule_core::shard::ShardId;
use bascule_core::types::Role;
use bascule_k8s::{Access, Holder, ReportState, Reporter, VipStatus};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::config::{Loaded, Source};
use crate::handle::NodeHandle;
use crate::handle::intent::InForce;

/// From one look at the node to the next.
const LOOK: Duration = Duration::from_secs(1);
/// A shard without an owner is told of after so long: elections take less.
const VACANT: Duration = Duration::from_secs(5);

/// Reports as the file in force at the start says; ends with the loop.
pub(super) async fn run(loaded: Loaded, node: NodeHandle) {
    let Some(kubernetes) = loaded.kubernetes else { return };
    if !kubernetes.services.is_some_and(|services| services.report && services.source == Source::Api) {
        return;
    }
    let access = kubernetes.kubeconfig.map_or(Access::InCluster, Access::Kubeconfig);
    let mut reporter = Reporter::new(access);
    let mut vacant = Vacant::default();
    let mut before = ReportState::default();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let _at = looks.tick().await;
        let wanted = match (node.intent().get(), node.status().await) {
            (Some(plan), Ok(status)) => reports(&plan, &status, &mut vacant, Instant::now(), SystemTime::now()),
            // Services are left alone from now on, or nothing is known of them yet.
            (None, Ok(_)) => BTreeMap::new(),
            (_, Err(_)) => return,
        };
        let now = reporter.turn(&wanted).await.clone();
        match (&before.trouble, &now.trouble) {
            (None, Some(trouble)) => warn!(trouble, "VipStatus is not written; nothing else depends on it"),
            (Some(_), None) => info!("VipStatus is written again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        if now != before {
            node.intent().set_reports(now.clone());
        }
        before = now;
    }
}

/// Since when nobody is heard to own a shard.
#[derive(Default)]
struct Vacant(BTreeMap<ShardId, Instant>);

impl Vacant {
    /// Has it been so for long enough?
    fn lasts(&mut self, shard: ShardId, vacant: bool, now: Instant) -> bool {
        if !vacant {
            let _none = self.0.remove(&shard);
            return false;
        }
        now.duration_since(*self.0.entry(shard).or_insert(now)) >= VACANT
    }
}

/// What this node has to say.
fn reports(
    plan: &InForce,
    status: &NodeStatus,
    vacant: &mut Vacant,
    now: Instant,
    wall: SystemTime,
) -> BTreeMap<String, VipStatus> {
    let announce = match plan.announce {
        Announce::L2 => vec!["L2"],
        Announce::Both => vec!["L2", "BGP"],
        Announce::Bgp => vec!["BGP"],
    };
    let standings = &plan.plan.standings;
    let reasons = |s: &NodeStanding| s.reasons.iter().map(ToString::to_string).collect();
    let barred: Vec<(String, Vec<String>)> =
        standings.iter().filter(|s| !s.may_own).map(|s| (s.name.clone(), reasons(s))).collect();
    let may: Vec<String> = standings.iter().filter(|s| s.may_own).map(|s| s.name.clone()).collect();
    let ago =
        |seconds: f64| Duration::try_from_secs_f64(seconds).ok().and_then(|ago| wall.checked_sub(ago)).unwrap_or(wall);
    let first = |shard| plan.plan.first(shard) == Some(plan.node.as_str());
    let nobody = || if may.is_empty() { "no node may own VIPs".to_owned() } else { "no owner is heard".to_owned() };
    let mut reports = BTreeMap::new();
    for (shard, vips) in plan.shards() {
        let name = shard_name(shard);
        let group = status.groups.iter().find(|group| group.name == name);
        let held = if plan.announce == Announce::Bgp {
            match plan.plan.best(shard) {
                Some(best) if best == plan.node => Some((Holder::EveryNode(may.clone()), wall)),
                None if first(shard) => Some((Holder::Nobody(nobody()), wall)),
                Some(_) | None => None,
            }
        } else {
            let silent = group.is_some_and(|group| group.role != Role::Active && group.owner.is_none());
            let lasts = vacant.lasts(shard, silent && first(shard), now);
            match group {
                Some(group) if group.role == Role::Active => {
                    Some((Holder::Node(plan.node.clone()), ago(group.since_seconds)))
                }
                Some(_) | None => lasts.then(|| (Holder::Nobody(nobody()), wall)),
            }
        };
        let Some((holder, since)) = held else { continue };
        let (announce, vips) = (announce.clone(), vips.iter().copied().collect());
        let _none = reports.insert(name, VipStatus { holder, since, announce, vips, ineligible: barred.clone() });
    }
    reports
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bascule_core::intent::{Intent, NodeIntent};
    use bascule_core::node::status::GroupStatus;
    use bascule_core::service::plan::Planner;
    use bascule_core::shard::eligible::DRAIN_ANNOTATION;

    use super::*;
    use crate::metrics::tests::fixtures::{group, status};

    /// Three nodes, of which those in `drained` may not own, as `n1` sees them.
    fn plan(announce: &str, drained: &[&str]) -> InForce {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("forward.key");
        std::fs::write(&key, format!("0:{}\nflow:{}\n", "aa".repeat(16), "bb".repeat(16))).unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let text = format!(
            "forwarding: {{ keyFile: forward.key }}\n\
             bgp: {{ asn: 65001, neighbors: [{{ name: r, address: 10.9.0.254, remoteAs: 65100 }}] }}\n\
             kubernetes: {{ cluster: c, services: {{ announce: {announce}, shards: 4 }} }}\n"
        );
        let loaded = crate::config::parse(&text, "b.yaml", dir.path(), "n1").unwrap_or_else(|e| panic!("{e}"));
        let policy = super::super::intent::policy_of(&loaded, None).unwrap();
        let mut intent = Intent::default();
        for n in 1..=3_u8 {
            let name = format!("n{n}");
            let mut node =
                NodeIntent { id: Some(n.into()), addresses: vec![[10, 9, 0, n].into()], ..NodeIntent::default() };
            if drained.contains(&name.as_str()) {
                let _none = node.facts.annotations.insert(DRAIN_ANNOTATION.to_owned(), "true".to_owned());
            }
            let _none = intent.nodes.insert(name, node);
        }
        let plan = Planner::new(policy.clone()).plan(&intent);
        InForce {
            node: "n1".to_owned(),
            announce: policy.announce,
            source: Some("api"),
            at: None,
            plan: Arc::new(plan),
            took: Duration::ZERO,
            plans: 1,
            names: BTreeMap::new(),
        }
    }

    fn shard(name: &str, role: Role, owner: Option<[u8; 4]>) -> GroupStatus {
        let owner = owner.map(Into::into);
        GroupStatus { role, owner, ..group(name) }
    }

    #[test]
    fn an_owner_reports_what_it_owns_and_who_may_not() {
        let plan = plan("l2", &["n3"]);
        let groups = vec![
            shard("shard-0", Role::Active, Some([10, 9, 0, 1])),
            shard("shard-1", Role::Backup, Some([10, 9, 0, 2])),
            shard("shard-2", Role::Backup, Some([10, 9, 0, 2])),
        ];
        let said = reports(&plan, &status(groups), &mut Vacant::default(), Instant::now(), SystemTime::now());
        assert_eq!(said.keys().collect::<Vec<_>>(), ["shard-0"]);
        let VipStatus { holder, announce, ineligible, .. } = &said["shard-0"];
        assert_eq!((holder, announce), (&Holder::Node("n1".into()), &vec!["L2"]));
        assert_eq!(ineligible, &[("n3".to_owned(), vec![format!("annotation {DRAIN_ANNOTATION} is true")])]);
    }

    #[test]
    fn of_a_shard_without_an_owner_one_node_says_so_once_it_lasts() {
        let plan = plan("both", &["n1", "n2", "n3"]);
        let all = (0..4).map(|n| shard(&format!("shard-{n}"), Role::Initialize, None)).collect();
        let (status, mut vacant, begin) = (status(all), Vacant::default(), Instant::now());
        assert!(reports(&plan, &status, &mut vacant, begin, SystemTime::now()).is_empty());
        let said = reports(&plan, &status, &mut vacant, begin + VACANT, SystemTime::now());
        let firsts = (0..4_u8).map(ShardId).filter(|shard| plan.plan.first(*shard) == Some("n1")).count();
        assert!(firsts > 0 && said.len() == firsts, "{said:?}");
        assert!(
            said.values().all(|s| s.holder == Holder::Nobody("no node may own VIPs".into()) && s.announce.len() == 2)
        );
        assert!(said.values().all(|s| s.ineligible.len() == 3));
    }

    #[test]
    fn where_every_node_announces_the_best_that_may_reports() {
        let now = || (Instant::now(), SystemTime::now());
        let said = |plan: &InForce| reports(plan, &status(vec![]), &mut Vacant::default(), now().0, now().1);
        let one = plan("bgp", &["n2", "n3"]);
        assert!(said(&one).len() == 4 && said(&one).values().all(|s| s.holder == Holder::EveryNode(vec!["n1".into()])));
        assert!(said(&plan("bgp", &["n1"])).is_empty());
        let all = plan("bgp", &[]);
        let best = (0..4_u8).filter(|n| all.plan.best(ShardId(*n)) == Some("n1")).count();
        assert_eq!(said(&all).len(), best);
    }
}
