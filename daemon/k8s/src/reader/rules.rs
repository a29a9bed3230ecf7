//! Objects about announcements and sites: kinds that the API server may not know and that the role may not allow. Then there are none, but for those
//! that were known before.
//!
//! Of an object whose new words make no sense the old ones stay.

use std::collections::BTreeMap;

use bascule_core::intent::rules::{BgpRule, L2Rule, PeerRule, Rules, TrafficRule, Wrong};
use bascule_core::ipam::Block;

use crate::follow::Told;
use crate::object::bgp::{BgpAnnouncement, BgpPeer};
use crate::object::l2_announcement::L2Announcement;
use crate::object::pool::VipPool;
use crate::object::rule::Rule;
use crate::object::site::{Site, SiteTrafficPolicy};

/// What is kept of an object.
#[derive(Clone, PartialEq)]
struct Row<T> {
    /// The last words that made sense.
    good: Option<T>,
    /// What is wrong with the present ones.
    wrong: Option<String>,
}

/// Objects of one kind by name.
pub(super) struct Table<T> {
    rows: BTreeMap<String, Row<T>>,
    /// They were all told once, or there is nobody who tells them.
    settled: bool,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), settled: false }
    }
}

impl<T: PartialEq + Clone> Table<T> {
    /// With what a former run knew.
    fn known(rows: &BTreeMap<String, T>) -> Self {
        let row = |(name, good): (&String, &T)| (name.clone(), Row { good: Some(good.clone()), wrong: None });
        Self { rows: rows.iter().map(row).collect(), settled: false }
    }

    fn row(&self, name: &str, read: Result<T, String>) -> Row<T> {
        match read {
            Ok(good) => Row { good: Some(good), wrong: None },
            Err(why) => Row { good: self.rows.get(name).and_then(|before| before.good.clone()), wrong: Some(why) },
        }
    }

    /// True when something changed.
    fn take(&mut self, told: Told<Result<T, String>>) -> bool {
        match told {
            Told::All(all) => {
                let rows = all.into_iter().map(|((_, name), read)| {
                    let row = self.row(&name, read);
                    (name, row)
                });
                let rows: BTreeMap<_, _> = rows.collect();
                self.settled = true;
                let changed = rows != self.rows;
                self.rows = rows;
                changed
            }
            Told::One((_, name), read) => {
                let row = self.row(&name, read);
                let changed = self.rows.get(&name) != Some(&row);
                let _before = self.rows.insert(name, row);
                changed
            }
            Told::Gone((_, name)) => self.rows.remove(&name).is_some(),
        }
    }

    fn good(&self) -> BTreeMap<String, T> {
        self.rows.iter().filter_map(|(name, row)| Some((name.clone(), row.good.clone()?))).collect()
    }

    fn wrong<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = Wrong> + 'a {
        self.rows.iter().filter_map(move |(name, row)| {
            let why = row.wrong.clone()?;
            Some(Wrong { kind: kind.to_owned(), name: name.clone(), why, kept: row.good.is_some() })
        })
    }
}

/// A kind with its table.
pub(super) trait Listed: Rule {
    fn table(tables: &mut Tables) -> &mut Table<Self::Good>;
}

impl Listed for VipPool {
    fn table(tables: &mut Tables) -> &mut Table<Vec<Block>> {
        &mut tables.pools
    }
}

impl Listed for L2Announcement {
    fn table(tables: &mut Tables) -> &mut Table<L2Rule> {
        &mut tables.l2
    }
}

impl Listed for BgpPeer {
    fn table(tables: &mut Tables) -> &mut Table<PeerRule> {
        &mut tables.peers
    }
}

impl Listed for BgpAnnouncement {
    fn table(tables: &mut Tables) -> &mut Table<BgpRule> {
        &mut tables.bgp
    }
}

impl Listed for Site {
    fn table(tables: &mut Tables) -> &mut Table<String> {
        &mut tables.sites
    }
}

impl Listed for SiteTrafficPolicy {
    fn table(tables: &mut Tables) -> &mut Table<TrafficRule> {
        &mut tables.traffic
    }
}

/// All kinds.
#[derive(Default)]
pub(super) struct Tables {
    pools: Table<Vec<Block>>,
    l2: Table<L2Rule>,
    peers: Table<PeerRule>,
    bgp: Table<BgpRule>,
    sites: Table<String>,
    traffic: Table<TrafficRule>,
}

impl Tables {
    /// With what a former run knew, until the API server tells.
    pub(super) fn known(rules: &Rules) -> Self {
        Self {
            pools: Table::known(&rules.pools),
            l2: Table::known(&rules.l2),
            peers: Table::known(&rules.peers),
            bgp: Table::known(&rules.bgp),
            sites: Table::known(&rules.sites),
            traffic: Table::known(&rules.traffic),
        }
    }

    /// True when something changed.
    pub(super) fn take<R: Listed>(&mut self, told: Told<Result<R::Good, String>>) -> bool {
        R::table(self).take(told)
    }

    /// Nobody tells of this kind: what is known of it is all there is.
    pub(super) fn settle<R: Listed>(&mut self) {
        R::table(self).settled = true;
    }

    /// Is what is here all there is?
    pub(super) const fn is_complete(&self) -> bool {
        let announcements = self.pools.settled && self.l2.settled && self.peers.settled && self.bgp.settled;
        announcements && self.sites.settled && self.traffic.settled
    }

    /// As the intent has them.
    pub(super) fn rules(&self) -> Rules {
        let l2 = self.l2.wrong(L2Announcement::NAME);
        let bgp = self.peers.wrong(BgpPeer::NAME).chain(self.bgp.wrong(BgpAnnouncement::NAME));
        let sites = self.sites.wrong(Site::NAME).chain(self.traffic.wrong(SiteTrafficPolicy::NAME));
        let wrong = l2.chain(bgp).chain(sites);
        Rules {
            pools: self.pools.good(),
            l2: self.l2.good(),
            peers: self.peers.good(),
            bgp: self.bgp.good(),
            sites: self.sites.good(),
            traffic: self.traffic.good(),
            wrong: wrong.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> (String, String) {
        (String::new(), name.to_owned())
    }

    #[test]
    fn words_that_make_no_sense_leave_the_last_good_ones() {
        let mut table = Table::<u8>::known(&[("kept".to_owned(), 1)].into());
        assert!(!table.settled);
        assert!(
            table.take(Told::All(vec![(key("kept"), Err("spec.a: bad".into())), (key("new"), Err("worse".into()))]))
        );
        assert_eq!(table.good(), [("kept".to_owned(), 1)].into(), "what a former run knew");
        let kept = table.wrong("K").map(|wrong| (wrong.name, wrong.kept)).collect::<Vec<_>>();
        assert_eq!(kept, [("kept".to_owned(), true), ("new".to_owned(), false)]);
        assert!(table.settled);
        assert!(table.take(Told::One(key("new"), Ok(2))) && !table.take(Told::One(key("new"), Ok(2))));
        assert!(table.take(Told::One(key("new"), Err("spec.b".into()))));
        assert_eq!(table.good()["new"], 2);
        assert!(table.take(Told::Gone(key("new"))) && !table.take(Told::Gone(key("new"))));
        assert!(table.take(Told::All(vec![])) && table.good().is_empty());
    }
}
