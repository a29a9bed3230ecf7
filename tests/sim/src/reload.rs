//! Changes of a node's configuration.

use bascule_core::node::config::NodeConfig;
use bascule_core::types::{Centis, rank_priority};

use crate::faults::Change;

/// Applies a change; `pristine` is what the node started with.
pub(crate) fn apply(config: &mut NodeConfig, pristine: &NodeConfig, change: Change, node: usize, count: usize) {
    match change {
        Change::Interval(cs) => {
            let interval = Centis::new(cs).expect("in range");
            config.groups.iter_mut().for_each(|g| g.interval = interval);
        }
        Change::Ranks(turn) => {
            for (index, group) in config.groups.iter_mut().enumerate() {
                group.priority = rank_priority((node + index + turn) % count);
            }
        }
        Change::Preempt(on) => config.groups.iter_mut().for_each(|g| g.preempt = on),
        Change::Address(all) => {
            for (group, first) in config.groups.iter_mut().zip(&pristine.groups) {
                group.addresses.clone_from(&first.addresses);
                let v4 = first.addresses.iter().filter(|a| a.is_ipv4()).count();
                // The last IPv4 address goes when another one stays: the families of a group do not change here.
                if !all && v4 > 1 {
                    group.addresses.remove(v4 - 1);
                }
            }
        }
        Change::Group(all) => {
            let kept =
                if all || pristine.groups.len() == 1 { pristine.groups.len() } else { pristine.groups.len() - 1 };
            let mut groups: Vec<_> = pristine.groups[..kept].to_vec();
            for (group, old) in groups.iter_mut().zip(&config.groups) {
                *group = old.clone();
            }
            config.groups = groups;
        }
    }
}
