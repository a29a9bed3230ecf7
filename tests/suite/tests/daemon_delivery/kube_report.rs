//! What the owners say of themselves in objects of kind VipStatus, held against who owns.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use bascule_core::shard::eligible::DRAIN_ANNOTATION;
use bascule_core::shard::shard_of;
use bascule_lab::{Stamp, wait_for};
use bascule_suite::manifests::chart_tool;
use serde_json::{Value, json};

use crate::kube::{SHARDS, START};
use crate::kube_allocator::{STATUSES, Scene};

impl Scene {
    /// The status of a shard, as it is in the API.
    fn said(&self, shard: &str) -> Option<Value> {
        let (status, object) = self.api.request("GET", &format!("{STATUSES}/{shard}"), None).ok()?;
        (status == 200).then(|| object["status"].clone())
    }

    /// Waits until every shard is said to be its owner's, by the daemons' own word.
    fn said_of_owners(&self) -> Result<()> {
        let mut last = Value::Null;
        let told = wait_for(START, "every shard to be said to be its owner's", || {
            let owners = self.kube.owners()?;
            owners
                .iter()
                .all(|(shard, owner)| {
                    last = json!([shard, owner, self.said(shard)]);
                    self.said(shard).is_some_and(|s| s["node"] == format!("n{owner}") && s["reason"] == "Held")
                })
                .then_some(())
        });
        told.with_context(|| format!("{last:#}\n{}", self.kube.told()))
    }

    /// What `kubectl get vipstatus` prints: a row for each shard, with its owner.
    fn shown(&self) -> Result<()> {
        let Some(kubectl) = chart_tool("kubectl") else {
            println!("no kubectl on this machine (cargo xtask setup): its columns were not looked at");
            return Ok(());
        };
        let config = self.api.admin_kubeconfig()?.display().to_string();
        let args = ["--kubeconfig", &config, "get", "vipstatus"];
        let text = self.host.tool(&kubectl.display().to_string(), &args)?;
        let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let head = lines.next().unwrap_or_default();
        ensure!(head == ["NAME", "NODE", "REASON", "VIPS", "ANNOUNCE", "SINCE"], "{text}");
        let rows: Vec<Vec<&str>> = lines.collect();
        let good =
            |row: &Vec<&str>| row.len() == 6 && row[1].starts_with('n') && row[2] == "Held" && row[4] == "[\"L2\"]";
        ensure!(rows.len() == usize::from(SHARDS) && rows.iter().all(good), "{text}");
        println!("{text}");
        Ok(())
    }

    /// Who owns is said, with the VIP that serves; a drained node stands there with its reason and owns nothing; what makes no sense is refused.
    pub(crate) fn reported(&self, vip: IpAddr) -> Result<()> {
        self.said_of_owners()?;
        let shard = format!("shard-{}", shard_of(vip, SHARDS).context("a shard")?.0);
        let listed = |s: &Value| s["vips"].as_array().is_some_and(|all| all.contains(&json!(vip)));
        let said = wait_for(START, "the VIP in its shard's status", || self.said(&shard).filter(listed));
        let said = said.with_context(|| format!("{:?}", self.said(&shard)))?;
        ensure!(said["announce"] == json!(["L2"]) && said["vipCount"].as_u64() > Some(0), "{said}");
        ensure!(said["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{said}");

        self.shown()?;

        // An object that was deleted comes back with the next takeover; a drained node's shards are taken over.
        let owner = self.kube.owners().and_then(|owners| owners.get(&shard).copied()).context("an owner")?;
        let drain = |value: Value| json!({"metadata": {"annotations": {DRAIN_ANNOTATION: value}}});
        let node = format!("/api/v1/nodes/n{owner}");
        self.api.must("DELETE", &format!("{STATUSES}/{shard}"), None)?;
        self.api.must("PATCH", &node, Some(&drain(json!("true"))))?;
        let reason = format!("annotation {DRAIN_ANNOTATION} is true");
        let barred = json!([{"node": format!("n{owner}"), "reasons": [reason]}]);
        let moved = wait_for(START, "the shard to be another node's, and the reason", || {
            let said = self.said(&shard)?;
            let held = said["node"].as_str().is_some_and(|node| node != format!("n{owner}"));
            (held && said["ineligible"] == barred).then_some(())
        });
        moved.with_context(|| format!("{:?}\n{}", self.said(&shard), self.kube.told()))?;
        self.api.must("PATCH", &node, Some(&drain(Value::Null)))?;
        self.said_of_owners()?;

        // The definition refuses a holder that holds nothing, and what is no address.
        for wrong in [
            json!({"reason": "Nobody", "node": "n1", "since": "2026-01-01T00:00:00Z", "vipCount": 0, "vips": []}),
            json!({"reason": "Held", "node": null, "since": "2026-01-01T00:00:00Z", "vipCount": 0, "vips": []}),
            json!({"reason": "Held", "node": "n1", "since": "2026-01-01T00:00:00Z", "vipCount": 1, "vips": ["web"]}),
            json!({"reason": "Held", "node": "n1", "since": "2026-01-01T00:00:00Z", "vipCount": 0, "vips": ["192.0.2.1"]}),
        ] {
            let (status, answer) =
                self.api.request("PATCH", &format!("{STATUSES}/{shard}"), Some(&json!({"status": wrong})))?;
            ensure!(status == 422, "{status} {answer}");
        }
        let written: f64 = (1..=3)
            .filter_map(|n| self.kube.yard.daemon(n).metric("bascule_cluster_reports_total{result=\"written\"}"))
            .sum();
        let took = Stamp::now().since(self.began);
        println!("{written} writes of VipStatus for {SHARDS} shards, lists that grew and a drain, in {took:?}");
        // One in 20 s for each shard, and so many takeovers: the start, the way to even, the drain and what follows from it.
        let most = f64::from(SHARDS) * (took.as_secs_f64() / 20.0 + 8.0);
        ensure!(written >= f64::from(SHARDS) && written <= most, "{written} writes in {took:?}");
        let page = self.kube.yard.daemon(1).state()?;
        ensure!(page["cluster"]["reports"]["trouble"].is_null(), "{}", page["cluster"]["reports"]);
        Ok(())
    }
}
