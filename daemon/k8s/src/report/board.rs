//! Which report is due, and when: a holder that changed at once, anything else later and together with what else changed meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{VipStatus, text, wire};

/// Between two writes of one object, whatever happened.
pub(super) const HOLDER_GAP: Duration = Duration::from_secs(1);
/// A list of VIPs that changes is left alone for so long: Services come in numbers.
pub(super) const SETTLE: Duration = Duration::from_secs(2);
/// Between two writes of an object whose holder is the same: a thousand Services in half a minute cost two or three writes of each shard.
pub(super) const LIST_GAP: Duration = Duration::from_secs(20);
/// So often an object is written that did not change: what somebody else wrote over it, or deleted, is right again by then.
pub(super) const REFRESH: Duration = Duration::from_secs(300);

/// What is this node's to report, and what was written of it.
#[derive(Debug, Default)]
pub(super) struct Board {
    rows: BTreeMap<String, Row>,
}

#[derive(Debug)]
struct Row {
    wanted: VipStatus,
    /// As the first report of this holder had it.
    since: String,
    /// Since when it is this node's.
    seen: Instant,
    /// Since when it is not as it was written.
    changed: Option<Instant>,
    written: Option<(VipStatus, Instant)>,
}

impl Row {
    fn due(&self) -> Instant {
        let Some((before, at)) = &self.written else { return self.seen };
        if before.holder != self.wanted.holder {
            return *at + HOLDER_GAP;
        }
        match self.changed {
            Some(changed) => (*at + LIST_GAP).max(changed + SETTLE),
            None => *at + REFRESH,
        }
    }
}

/// All but the time, which is another one at each look.
fn same(a: &VipStatus, b: &VipStatus) -> bool {
    let rest = |s: &VipStatus| (s.announce.clone(), s.vips.clone(), s.ineligible.clone());
    a.holder == b.holder && rest(a) == rest(b)
}

impl Board {
    /// These reports are this node's to give. Those that are not any more are forgotten: who holds the shard now writes.
    pub(super) fn see(&mut self, wanted: &BTreeMap<String, VipStatus>, now: Instant) {
        self.rows.retain(|name, _| wanted.contains_key(name));
        for (name, status) in wanted {
            let Some(row) = self.rows.get_mut(name) else {
                let (wanted, since) = (status.clone(), text(status.since));
                let row = Row { wanted, since, seen: now, changed: None, written: None };
                let _none = self.rows.insert(name.clone(), row);
                continue;
            };
            if row.wanted.holder != status.holder {
                row.since = text(status.since);
            }
            if !same(&row.wanted, status) {
                row.wanted = status.clone();
            }
            let differs = row.written.as_ref().is_some_and(|(before, _)| !same(before, status));
            row.changed = if differs { row.changed.or(Some(now)) } else { None };
        }
    }

    /// What is to be written now, the one that waits longest first.
    pub(super) fn due(&self, now: Instant) -> Option<String> {
        let (name, row) = self.rows.iter().min_by_key(|(_, row)| row.due())?;
        (row.due() <= now).then(|| name.clone())
    }

    /// The status of that object.
    pub(super) fn status(&self, name: &str) -> Option<Value> {
        self.rows.get(name).map(|row| wire(&row.wanted, &row.since))
    }

    /// It was written.
    pub(super) fn written(&mut self, name: &str, now: Instant) {
        if let Some(row) = self.rows.get_mut(name) {
            row.written = Some((row.wanted.clone(), now));
            row.changed = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::SystemTime;

    use super::super::Holder;
    use super::*;

    fn held(node: &str, vips: u8) -> VipStatus {
        let vips = (0..vips).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        let holder = Holder::Node(node.to_owned());
        VipStatus { holder, since: SystemTime::UNIX_EPOCH, announce: vec!["L2"], vips, ineligible: vec![] }
    }

    fn of(status: VipStatus) -> BTreeMap<String, VipStatus> {
        BTreeMap::from([("shard-0".to_owned(), status)])
    }

    /// Writes whatever is due in each second of `seconds`, and gives when that was.
    fn run(
        board: &mut Board,
        wanted: impl Fn(u64) -> BTreeMap<String, VipStatus>,
        from: Instant,
        seconds: std::ops::Range<u64>,
    ) -> Vec<u64> {
        let mut writes = Vec::new();
        for second in seconds {
            let now = from + Duration::from_secs(second);
            board.see(&wanted(second), now);
            while let Some(name) = board.due(now) {
                board.written(&name, now);
                writes.push(second);
            }
        }
        writes
    }

    #[test]
    fn a_takeover_is_one_write_and_a_calm_shard_one_in_five_minutes() {
        let (mut board, now) = (Board::default(), Instant::now());
        assert_eq!(run(&mut board, |_| of(held("n1", 3)), now, 0..900), [0, 300, 600]);
        // It is another one's, and comes back.
        assert_eq!(run(&mut board, |_| BTreeMap::new(), now, 900..905), [0; 0]);
        assert_eq!(run(&mut board, |_| of(held("n1", 3)), now, 905..1000), [905]);
    }

    #[test]
    fn a_thousand_changes_of_the_list_are_three_writes() {
        let (mut board, now) = (Board::default(), Instant::now());
        let grows = |second: u64| of(held("n1", u8::try_from(second.min(35)).unwrap()));
        assert_eq!(run(&mut board, grows, now, 0..200), [0, 20, 40]);
    }

    #[test]
    fn another_holder_is_written_at_once_with_its_own_time() {
        let (mut board, now) = (Board::default(), Instant::now());
        let nobody = VipStatus { holder: Holder::Nobody("all are drained".into()), ..held("n1", 1) };
        let back = VipStatus { since: SystemTime::UNIX_EPOCH + Duration::from_secs(86_400), ..held("n1", 1) };
        let wanted = |second: u64| {
            of(if second < 3 {
                held("n1", 1)
            } else if second < 5 {
                nobody.clone()
            } else {
                back.clone()
            })
        };
        assert_eq!(run(&mut board, wanted, now, 0..100), [0, 3, 5]);
        let status = board.status("shard-0").unwrap();
        assert_eq!((status["since"].as_str(), status["node"].as_str()), (Some("1970-01-02T00:00:00Z"), Some("n1")));
        assert!(status["message"].is_null() && status["ineligible"].is_null());
        // The time of a look is no change.
        let later = VipStatus { since: SystemTime::UNIX_EPOCH + Duration::from_secs(90_000), ..held("n1", 1) };
        assert_eq!(run(&mut board, |_| of(later.clone()), now, 100..200), [0; 0]);
    }

    #[test]
    fn a_report_says_who_may_not_and_how_many_there_are() {
        let reasons = vec!["annotation bascule.dev/drain is true".to_owned()];
        let many: Vec<IpAddr> = (0..1500_u32).map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes())).collect();
        let report =
            VipStatus { vips: many, ineligible: vec![("n2".into(), reasons), ("n3".into(), vec![])], ..held("n1", 0) };
        let status = wire(&report, "1970-01-01T00:00:00Z");
        assert_eq!((status["vipCount"].as_u64(), status["vips"].as_array().map(Vec::len)), (Some(1500), Some(1024)));
        assert_eq!(status["ineligible"].as_array().map(Vec::len), Some(1));
        assert_eq!(status["ineligible"][0]["reasons"][0], "annotation bascule.dev/drain is true");
        let every = VipStatus { holder: Holder::EveryNode(vec!["n1".into(), "n2".into()]), ..held("n1", 1) };
        let status = wire(&every, "1970-01-01T00:00:00Z");
        assert!(status["node"].is_null() && status["message"] == "announced by n1, n2", "{status}");
    }
}
