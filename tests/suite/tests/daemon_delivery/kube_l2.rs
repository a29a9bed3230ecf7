//! L2Announcements of a real API server: which VIPs are answered for, by which node and on which link, as a client outside sees it.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::wait_for;
use serde_json::{Value, json};

use crate::kube::{START, pods, service};
use crate::kube_allocator::{L2_ANNOUNCEMENTS, Scene};
use crate::talk::Talk;
use crate::yard::{PORT, ip};

impl Scene {
    fn announce(&self, name: &str, spec: &Value) -> Result<()> {
        let object = json!({"apiVersion": "bascule.dev/v1alpha1", "kind": "L2Announcement", "metadata": {"name": name}, "spec": spec});
        self.api.must("POST", L2_ANNOUNCEMENTS, Some(&object)).map(drop).map_err(Into::into)
    }

    fn change(&self, name: &str, spec: &Value) -> Result<()> {
        self.api.must("PATCH", &format!("{L2_ANNOUNCEMENTS}/{name}"), Some(&json!({"spec": spec})))?;
        Ok(())
    }

    /// The node whose Ethernet address the router has for a VIP.
    fn answers(&self, vip: IpAddr) -> Option<u8> {
        let said = ip(&self.kube.yard.router, &format!("neigh show {vip}")).ok()?;
        let mac = said.split_whitespace().skip_while(|word| *word != "lladdr").nth(1)?.to_owned();
        let has = |n: &u8| {
            let link = ip(&self.kube.yard.node(*n).netns, "-br link show eth0");
            link.is_ok_and(|link| link.split_whitespace().any(|word| word == mac))
        };
        (1..=3).find(has)
    }

    /// Bytes through the VIP, from this node alone.
    fn served_by(&self, vip: IpAddr, n: u8) -> Result<()> {
        let mut last = None;
        let found = wait_for(START, "the VIP to be served by that node", || {
            let bytes = Talk::open(&self.kube.yard.client, vip, PORT).ok()?.exchange(3_000, 3_000).ok();
            last = self.answers(vip);
            bytes.filter(|_| last == Some(n))
        });
        found.map(drop).with_context(|| format!("{vip} by n{n}, last by {last:?}\n{}", self.kube.told()))
    }

    /// No answer from anywhere: the router has no way to it.
    fn unanswered(&self, vip: IpAddr) -> Result<()> {
        let silent = wait_for(START, "nobody to answer for the VIP", || {
            let _old = ip(&self.kube.yard.router, &format!("neigh flush to {vip}"));
            Talk::open(&self.kube.yard.client, vip, PORT).is_err().then_some(())
        });
        silent.with_context(|| format!("{vip}\n{}", self.kube.told()))
    }

    /// `bascule status` of a node says this.
    fn says(&self, n: u8, words: &str) -> Result<()> {
        let mut last = String::new();
        let said = wait_for(START, "the status to say it", || {
            last = self.kube.yard.daemon(n).ctl(&["status"]).ok()?;
            last.contains(words).then_some(())
        });
        said.with_context(|| format!("{words}\n{last}"))
    }

    /// Nodes with a value of the label `rack`.
    fn rack(&self, n: u8, rack: &Value) -> Result<()> {
        self.api.must(
            "PATCH",
            &format!("/api/v1/nodes/n{n}"),
            Some(&json!({"metadata": {"labels": {"rack": rack}}})),
        )?;
        Ok(())
    }
}

#[test]
fn announcements_say_which_vips_are_answered_for_by_whom_and_where() -> Result<()> {
    let mut scene = Scene::new("kl2")?;
    let (one, two) = (scene.kube.yard.pod(1)?, scene.kube.yard.pod(2)?);
    scene.pool("edge", "10.9.0.101", "10.9.0.109")?;
    scene.pool("inner", "10.9.0.111", "10.9.0.119")?;
    scene.rack(2, &json!("a"))?;
    for (name, pool, pod, n) in [("web", "edge", &one, 1), ("plain", "inner", &two, 2)] {
        scene.service(name, pool, None, json!({}))?;
        scene.slice(name, pod, n)?;
        scene.kube.add(service(name, n), pods(&[(pod, n)]));
    }
    scene.kube.start()?;
    let (web, plain) = (scene.address("web")?, scene.address("plain")?);
    // Without announcements everything is announced, as the configuration file says.
    scene.serves(web, &one)?;
    scene.serves(plain, &two)?;

    // One pool, on the nodes of one rack; what nothing selects is announced by nobody.
    let rack = |rack: &str| json!({"matchLabels": {"rack": rack}});
    scene.announce("racked", &json!({"pools": ["edge"], "nodeSelector": rack("a")}))?;
    scene.served_by(web, 2)?;
    scene.unanswered(plain)?;
    scene.says(1, "1 not_announced")?;
    // Labels of the Services instead of the pool, and another rack.
    scene.rack(3, &json!("b"))?;
    let spec = json!({"pools": null, "serviceSelector": {"matchLabels": {"pool": "edge"}}, "nodeSelector": rack("b")});
    scene.change("racked", &spec)?;
    scene.served_by(web, 3)?;

    // The first link of the list that there is; then none of them.
    scene.change("racked", &json!({"interfaces": ["nolink", "eth0"]}))?;
    scene.served_by(web, 3)?;
    scene.change("racked", &json!({"interfaces": ["nolink"]}))?;
    scene.unanswered(web)?;
    scene.says(3, "interface nolink does not exist")?;
    scene.change("racked", &json!({"interfaces": null}))?;
    scene.served_by(web, 3)?;

    // What makes no sense is refused by the definition; what no node fits by every daemon, in words.
    for wrong in [
        json!({"interfaces": ["a/b"]}),
        json!({"interfaces": [""]}),
        json!({"interfaces": ["."]}),
        json!({"shards": 0}),
        json!({"nodeSelector": {"matchExpressions": [{"key": "k", "operator": "In"}]}}),
    ] {
        let object = json!({"apiVersion": "bascule.dev/v1alpha1", "kind": "L2Announcement", "metadata": {"name": "wrong"}, "spec": wrong});
        let (status, answer) = scene.api.request("POST", L2_ANNOUNCEMENTS, Some(&object))?;
        ensure!(status == 422, "{wrong}: {status} {answer}");
    }
    scene.announce("nowhere", &json!({"pools": ["inner"], "nodeSelector": rack("none")}))?;
    scene.says(1, "L2Announcement nowhere is refused: spec.nodeSelector: takes no node")?;
    scene.unanswered(plain)?;
    scene.api.must("DELETE", &format!("{L2_ANNOUNCEMENTS}/nowhere"), None)?;

    // A start without an API server knows the announcements: the owner comes back as the owner, and nobody announces the other VIP.
    let kept = scene.kube.yard.crew.lab().directory().join("kept-3.json");
    wait_for(START, "the announcement to be kept", || {
        let (intent, _) = bascule::intent::file::read(&kept).ok()??;
        // What is kept may be a second old: the last change took the links away.
        let racked = intent.rules.l2.get("racked")?;
        let last =
            intent.rules.l2.len() == 1 && racked.interfaces.is_empty() && racked.nodes.labels.get("rack")? == "b";
        (last && racked.choice.pools.is_empty()).then_some(())
    })?;
    let _down = ip(&scene.host, "link set eth0 down")?;
    scene.kube.yard.crew.daemon_mut(3).process.sigkill()?;
    scene.kube.yard.crew.node_mut(3).daemon = None;
    scene.kube.start_again(3)?;
    let page = scene.kube.yard.daemon(3).state()?;
    ensure!(page["cluster"]["source"] == "file", "{}", page["cluster"]);
    scene.served_by(web, 3)?;
    scene.unanswered(plain)?;

    // The API server is back, and the last announcement goes: as in the beginning.
    let _up = ip(&scene.host, "link set eth0 up")?;
    scene.api.must("DELETE", &format!("{L2_ANNOUNCEMENTS}/racked"), None)?;
    scene.serves(plain, &two)?;
    scene.serves(web, &one)?;
    Ok(())
}
