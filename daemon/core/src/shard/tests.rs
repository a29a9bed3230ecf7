use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::eligible::{ConditionStatus, DRAIN_ANNOTATION, EXCLUDE_LABEL, Ineligible, NodeFacts, NodePolicy, reasons};
use super::number::numbers;
use super::place::{Placement, place, place_numbered};
use super::rebalance::rebalance;
use super::*;

fn names(n: usize, salt: u32) -> Vec<String> {
    (0..n).map(|i| format!("node-{salt}-{i}")).collect()
}

fn placed(nodes: &[String], shards: u8) -> Placement {
    place(nodes.iter().map(String::as_str), shards)
}

/// Shards per node when these are dead.
fn loads(placement: &Placement, nodes: &[String], dead: &[&str]) -> BTreeMap<String, usize> {
    let alive = |node: &str| !dead.contains(&node);
    let mut loads: BTreeMap<String, usize> = nodes.iter().filter(|n| alive(n)).map(|n| (n.clone(), 0)).collect();
    for shard in placement.shards() {
        if let Some(owner) = placement.owner(shard, alive) {
            *loads.entry(owner.to_owned()).or_default() += 1;
        }
    }
    loads
}

fn spread(loads: &BTreeMap<String, usize>) -> usize {
    loads.values().max().unwrap_or(&0) - loads.values().min().unwrap_or(&0)
}

proptest! {
    #[test]
    fn all_up_every_node_is_within_one_of_even(n in 1_usize..40, shards in 1_u8.., salt: u32) {
        let nodes = names(n, salt);
        let placement = placed(&nodes, shards);
        let loads = loads(&placement, &nodes, &[]);
        prop_assert!(spread(&loads) <= 1, "{loads:?}");
        prop_assert_eq!(loads.values().sum::<usize>(), usize::from(shards));
        for shard in placement.shards() {
            let ranked: BTreeSet<&String> = placement.ranks(shard).iter().collect();
            prop_assert_eq!(ranked.len(), n, "every node is ranked once");
        }
    }

    #[test]
    fn after_any_one_death_survivors_are_within_two_and_what_moved_is_spread(n in 2_usize..20, shards in 1_u8.., salt: u32) {
        let nodes = names(n, salt);
        let placement = placed(&nodes, shards);
        for dead in &nodes {
            let after = loads(&placement, &nodes, &[dead]);
            prop_assert!(spread(&after) <= 2, "{dead}: {after:?}");
            let mut heirs: BTreeMap<&str, usize> = BTreeMap::new();
            for shard in placement.shards().filter(|s| placement.ranks(*s)[0] == *dead) {
                *heirs.entry(&placement.ranks(shard)[1]).or_default() += 1;
            }
            let (moved, most) = (heirs.values().sum::<usize>(), heirs.values().max().copied().unwrap_or(0));
            prop_assert!(most <= moved.div_ceil(n - 1), "{moved} shards of {dead} go to {heirs:?}");
        }
    }

    #[test]
    fn a_death_moves_only_what_the_dead_owned_and_order_does_not_matter(n in 2_usize..20, shards in 1_u8.., salt: u32, dead in 0_usize..20) {
        let nodes = names(n, salt);
        let dead = nodes[dead % n].as_str();
        let placement = placed(&nodes, shards);
        for shard in placement.shards() {
            let before = placement.owner(shard, |_| true);
            prop_assert!(before == Some(dead) || placement.owner(shard, |node| node != dead) == before);
        }
        let reversed: Vec<String> = nodes.iter().rev().cloned().collect();
        prop_assert_eq!(placed(&reversed, shards), placement);
    }

    #[test]
    fn priorities_keep_the_order_of_ranks_and_the_first_four_lie_48_apart(n in 1_usize..40, salt: u32) {
        let nodes = names(n, salt);
        let placement = placed(&nodes, 8);
        for shard in placement.shards() {
            let of = |sick| move |node: &String| (node.clone(), sick);
            let all = placement.ranks(shard).iter().map(of(false));
            let healthy: Vec<u8> = all.map(|(node, sick)| placement.priority(shard, &node, sick).expect("ranked")).collect();
            prop_assert!(healthy.windows(2).take(3).all(|w| w[0] - w[1] >= 48), "{healthy:?}");
            prop_assert!(healthy.windows(2).all(|w| w[0] >= w[1]) && healthy.iter().all(|p| *p >= 100));
            for node in placement.ranks(shard) {
                prop_assert!(placement.priority(shard, node, true).expect("ranked") < 100);
            }
            prop_assert_eq!(placement.priority(shard, "stranger", false), None);
        }
    }

    #[test]
    fn rebalancing_after_any_deaths_leads_back_and_then_asks_for_nothing(n in 2_usize..12, shards in 1_u8..64, salt: u32, deaths in proptest::collection::vec(0_usize..12, 0..6)) {
        let nodes = names(n, salt);
        let placement = placed(&nodes, shards);
        let mut owners: BTreeMap<ShardId, String> = BTreeMap::new();
        // Owners stay where the deaths put them: nobody takes anything back.
        for dead in std::iter::once(None).chain(deaths.iter().map(|d| Some(nodes[d % n].as_str()))) {
            for shard in placement.shards() {
                if owners.get(&shard).is_none_or(|owner| Some(owner.as_str()) == dead) {
                    let heir = placement.owner(shard, |node| Some(node) != dead).expect("two nodes");
                    let _before = owners.insert(shard, heir.to_owned());
                }
            }
        }
        let moves = rebalance(&placement, &owners, |_| true);
        for planned in &moves {
            let before = owners.insert(planned.shard, planned.to.clone());
            prop_assert_eq!(before.as_ref(), Some(&planned.from));
        }
        let mut loads: BTreeMap<String, usize> = nodes.iter().map(|node| (node.clone(), 0)).collect();
        owners.values().for_each(|owner| *loads.entry(owner.clone()).or_default() += 1);
        prop_assert!(spread(&loads) <= 1);
        prop_assert_eq!(rebalance(&placement, &owners, |_| true), vec![]);
        prop_assert_eq!(moves.iter().map(|m| m.shard).collect::<BTreeSet<_>>().len(), moves.len(), "no shard moves twice");
    }

    #[test]
    fn shards_of_a_cluster_have_identities_of_their_own(cluster in "[a-z0-9-]{1,40}") {
        let all: Vec<Identity> = (0..SHARDS_MAX).map(|s| identity(&cluster, ShardId(s))).collect();
        for of in [|i: &Identity| IpAddr::from(i.v4), |i: &Identity| IpAddr::from(i.v6)] {
            prop_assert_eq!(all.iter().map(of).collect::<BTreeSet<_>>().len(), 255);
        }
        prop_assert_eq!(all.iter().map(|i| i.vrid).collect::<BTreeSet<_>>().len(), 255);
        prop_assert!(all.iter().all(|i| i.vrid > 0 && i.v4.is_link_local() && (1..255).contains(&i.v4.octets()[2])));
    }
}

#[test]
fn vips_spread_over_shards_and_stay() {
    let vips: Vec<IpAddr> = (0..1_000_u32).map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes())).collect();
    let mut loads = [0; 16];
    for vip in &vips {
        loads[usize::from(shard_of(*vip, 16).expect("shards").0)] += 1;
    }
    // 62.5 each; five standard deviations are 38.
    assert!(loads.iter().all(|load| (25..=101).contains(load)), "{loads:?}");
    assert_eq!(shard_of(vips[0], 0), None);
    // What is on the wire must be the same in every release.
    assert_eq!(shard_of(IpAddr::from([192, 0, 2, 1]), 16), Some(ShardId(GOLDEN_SHARD)));
    assert_eq!(identity("prod", ShardId(3)).to_golden(), GOLDEN_IDENTITY);
    assert_ne!(identity("prod", ShardId(3)).v6, identity("test", ShardId(3)).v6);
}

/// Computed by an independent program.
const GOLDEN_SHARD: u8 = 9;
const GOLDEN_IDENTITY: &str = "144 169.254.171.30 fe80::360:d63d:7972:b703";

impl Identity {
    fn to_golden(self) -> String {
        format!("{} {} {}", self.vrid, self.v4, self.v6)
    }
}

#[test]
fn every_reason_is_found_alone_and_said_in_words() {
    let map = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let fine = NodeFacts { labels: map("role", "edge"), ready: ConditionStatus::True, ..NodeFacts::default() };
    let policy = NodePolicy { selector: map("role", "edge"), honour_exclude: true, require_ready: true };
    assert_eq!(reasons(&fine, &policy), []);
    let mut excluded = fine.clone();
    let _none = excluded.labels.insert(EXCLUDE_LABEL.to_owned(), "false".to_owned());
    let drained = |value| NodeFacts { annotations: map(DRAIN_ANNOTATION, value), ..fine.clone() };
    let cases = [
        (
            NodeFacts { labels: map("role", "db"), ..fine.clone() },
            Ineligible::NotSelected { label: "role".into() },
            "label role",
        ),
        (excluded.clone(), Ineligible::Excluded, EXCLUDE_LABEL),
        (drained("true"), Ineligible::Drained, DRAIN_ANNOTATION),
        (
            NodeFacts { network_unavailable: ConditionStatus::True, ..fine.clone() },
            Ineligible::NetworkUnavailable,
            "NetworkUnavailable",
        ),
        (NodeFacts { ready: ConditionStatus::Unknown, ..fine.clone() }, Ineligible::NotReady, "Ready"),
        (NodeFacts { deleting: true, ..fine.clone() }, Ineligible::Deleting, "deleted"),
    ];
    for (node, reason, words) in cases {
        assert_eq!(reasons(&node, &policy), std::slice::from_ref(&reason));
        assert!(reason.to_string().contains(words), "{reason}");
        assert_eq!(reason.is_lasting(), matches!(reason, Ineligible::NotSelected { .. } | Ineligible::Excluded));
    }
    assert_eq!(reasons(&drained("false"), &policy), []);
    let lenient = NodePolicy { honour_exclude: false, ..NodePolicy::default() };
    assert_eq!(reasons(&NodeFacts { ready: ConditionStatus::False, ..excluded }, &lenient), []);
}

#[test]
fn numbers_of_announcements_are_apart_and_later_ones_move_no_earlier() {
    let all: Vec<(String, u8)> = (0..40).map(|n| (format!("a{n}"), 1 + n % 7)).collect();
    let asked = |count: usize| all[..count].iter().map(|(name, count)| (name.as_str(), *count)).collect::<Vec<_>>();
    let whole = numbers(&asked(40), 16);
    let taken: Vec<ShardId> = whole.iter().flatten().flatten().copied().collect();
    assert_eq!(taken.len(), taken.iter().collect::<BTreeSet<_>>().len());
    assert!(taken.iter().all(|shard| (16..SHARDS_MAX).contains(&shard.0)));
    for count in 0..40 {
        assert_eq!(numbers(&asked(count), 16), whole[..count], "{count}");
    }
    // A full house: who does not fit gets nothing, and who comes later and fits does.
    assert_eq!(
        numbers(&[("big", 200), ("too", 40), ("fits", 39)], 16).iter().map(Option::is_some).collect::<Vec<_>>(),
        [true, false, true]
    );
    assert_eq!(numbers(&[("all", 1)], SHARDS_MAX), [None]);
}

#[test]
fn shards_with_numbers_of_their_own_are_spread_by_themselves() {
    let nodes = names(3, 1);
    let numbered = place_numbered(nodes.iter().map(String::as_str), &[ShardId(20), ShardId(70), ShardId(254)]);
    assert_eq!(spread(&loads(&numbered, &nodes, &[])), 0);
    let mut both = placed(&nodes, 6);
    both.join(numbered);
    assert_eq!(both.shards().count(), 9);
    assert!(both.priority(ShardId(254), &nodes[0], false).is_some() && both.ranks(ShardId(7)).is_empty());
}
