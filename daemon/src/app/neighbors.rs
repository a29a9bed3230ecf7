//! Tells when the kernel's neighbour tables are full.

use std::time::Duration;

use bascule_core::types::Family;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::net::neighbors::table_full;

/// From one look to the next. The kernel forgets no count meanwhile.
const LOOK: Duration = Duration::from_secs(10);
/// A table that refused nobody for so many looks has room again.
const QUIET: u32 = 6;

/// What a look says that is new.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Full(u64),
    Room,
}

/// One table over time.
#[derive(Debug)]
struct Table {
    total: u64,
    /// Looks that are left before it counts as one with room; 0: it does.
    full: u32,
}

impl Table {
    fn look(&mut self, total: u64) -> Option<News> {
        let more = total.saturating_sub(self.total);
        self.total = total;
        let was = self.full;
        self.full = if more > 0 { QUIET } else { was.saturating_sub(1) };
        match (was, self.full) {
            (0, 1..) => Some(News::Full(more)),
            (1.., 0) => Some(News::Room),
            _ => None,
        }
    }
}

/// Looks until the process ends. Where the kernel shows nothing, there is nothing to look at.
pub(super) async fn run(metrics: Metrics) {
    let mut tables: Vec<(Family, Table)> = [Family::V4, Family::V6]
        .into_iter()
        .filter_map(|family| Some((family, Table { total: table_full(family)?, full: 0 })))
        .collect();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !tables.is_empty() {
        let _at = looks.tick().await;
        for (family, table) in &mut tables {
            let Some(total) = table_full(*family) else { continue };
            metrics.neighbor_table_full(*family, total);
            let setting = match family {
                Family::V4 => "net.ipv4.neigh.default.gc_thresh3",
                Family::V6 => "net.ipv6.neigh.default.gc_thresh3",
            };
            match table.look(total) {
                Some(News::Full(refused)) => warn!(
                    refused,
                    setting,
                    "the kernel's neighbour table is full: clients and endpoints may be out of reach; raise it"
                ),
                Some(News::Room) => info!(setting, "the kernel's neighbour table has room again"),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_told_of_when_it_fills_and_when_it_has_had_room_for_a_minute() {
        let mut table = Table { total: 7, full: 0 };
        assert_eq!(table.look(7), None, "what was before the start is no news");
        assert_eq!(table.look(10), Some(News::Full(3)));
        assert_eq!(table.look(20), None);
        for _ in 0..QUIET - 1 {
            assert_eq!(table.look(20), None);
        }
        assert_eq!(table.look(20), Some(News::Room));
        assert_eq!(table.look(20), None);
        assert_eq!(table.look(21), Some(News::Full(1)));
    }
}
