//! What packets are told of other sites, and when.

use super::*;
use crate::site::near::HELD;

#[test]
fn packets_hear_of_a_path_that_is_down_in_the_same_step_as_the_table() {
    let mut node = Node::new(None, &["a"]);
    let neighbours = |node: &Node| {
        let of = |a: &Action| if let Action::Neighbours(specs) = a { Some(specs.clone()) } else { None };
        node.done.iter().filter_map(of).collect::<Vec<_>>()
    };
    let said = |reachable, lost, mtu| vec![SiteSpec { site: THERE, reachable, lost, via_ingress: false, mtu }];
    let there = |reachable, mtu| said(reachable, !reachable, mtu);
    assert_eq!(neighbours(&node), [there(true, None)], "before anything is heard");
    node.settled();
    let (cause, now) = (at(node.now - 500), at(node.now));
    node.join.handle_path(THERE, path(Carriage::Down(Silence::Out)), cause, now);
    node.take();
    assert_eq!(neighbours(&node), [there(false, None)]);
    assert!(node.done.iter().any(|a| matches!(a, Action::Table { .. })) && node.share(THERE) == 0.0);
    node.done.clear();
    node.join.handle_path(THERE, PathStatus { mtu: 1380, ..path(Carriage::Up) }, now, now);
    node.join.handle_path(THERE, PathStatus { mtu: 1380, ..path(Carriage::Up) }, now, now);
    node.take();
    assert_eq!(neighbours(&node), [there(true, Some(1380))], "a path that is as it was is no news");
    // What may live there is held for a while, which ends without a word from anybody.
    node.join.handle_path(THERE, path(Carriage::Down(Silence::Out)), cause, now);
    node.take();
    node.done.clear();
    let ends = now + HELD;
    assert!(node.join.poll_timeout(now).is_some_and(|at| at <= ends));
    node.join.handle_expire(ends);
    node.take();
    assert_eq!(neighbours(&node), [said(false, false, Some(1380))]);
}
