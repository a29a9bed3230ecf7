//! Links that stand on others, live: a bridge with its ports, a macvlan on its parent, links that come and go.

use anyhow::{Context, Result};
use bascule::net::netlink::{NetEvent, Netlink};
use bascule_core::node::io::LinkInfo;
use bascule_core::types::LinkId;
use bascule_suite::net::{PATIENCE, Pair, index, ip};
use tokio::sync::mpsc::Receiver;

fn on_node<F: Future<Output = Result<()>>>(pair: &Pair, body: impl FnOnce() -> F) -> Result<()> {
    pair.a.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(body())
    })
}

async fn next(events: &mut Receiver<NetEvent>) -> Result<NetEvent> {
    tokio::time::timeout(PATIENCE, events.recv()).await.context("no event")?.context("the watcher has ended")
}

async fn until(events: &mut Receiver<NetEvent>, wanted: impl Fn(&LinkInfo) -> bool) -> Result<LinkInfo> {
    loop {
        if let NetEvent::Link(info) = next(events).await?
            && wanted(&info)
        {
            return Ok(info);
        }
    }
}

async fn gone(events: &mut Receiver<NetEvent>, id: LinkId) -> Result<()> {
    while next(events).await? != NetEvent::LinkGone(id) {}
    Ok(())
}

#[test]
fn a_link_that_appears_changes_and_goes_is_reported() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async || {
        let (_netlink, mut events) = Netlink::start()?;
        while next(&mut events).await? != NetEvent::Synced {}
        ip("link add p0 type veth peer name p1")?;
        let info = until(&mut events, |l| l.name == "p0").await?;
        assert!(!info.up, "{info:?}");
        ip("link set p0 up")?;
        ip("link set p1 up")?;
        until(&mut events, |l| l.id == info.id && l.up).await?;
        ip("addr add 10.8.0.1/24 dev p0")?;
        until(&mut events, |l| l.id == info.id && l.addresses.iter().any(|n| n.to_string() == "10.8.0.1/24")).await?;
        ip("addr del 10.8.0.1/24 dev p0")?;
        until(&mut events, |l| l.id == info.id && !l.addresses.iter().any(|n| n.addr().is_ipv4())).await?;
        ip("link set p0 address 02:00:00:00:00:77")?;
        until(&mut events, |l| l.id == info.id && l.mac.0[5] == 0x77).await?;
        ip("link set p1 down")?;
        until(&mut events, |l| l.id == info.id && !l.up).await?;
        ip("link del p0")?;
        gone(&mut events, info.id).await
    })
}

#[test]
fn a_bridge_is_up_while_a_port_runs() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async || {
        let (_netlink, mut events) = Netlink::start()?;
        while next(&mut events).await? != NetEvent::Synced {}
        ip("link add br0 type bridge")?;
        ip("link set br0 up")?;
        let br0 = index("br0")?;
        ip("link add p0 type veth peer name p1")?;
        let p0 = index("p0")?;
        ip("link set p0 up")?;
        ip("link set p1 up")?;
        until(&mut events, |l| {
            assert!(l.id != br0 || !l.up, "a bridge without a port is down: {l:?}");
            l.id == p0 && l.up
        })
        .await?;
        ip("link set p0 master br0")?;
        until(&mut events, |l| l.id == br0 && l.up).await?;
        ip("link set p1 down")?;
        until(&mut events, |l| l.id == br0 && !l.up).await?;
        ip("link set p1 up")?;
        until(&mut events, |l| l.id == br0 && l.up).await?;
        // Leaving the bridge is a message about the port of family AF_BRIDGE: the port itself must not be reported as gone.
        ip("link set p0 nomaster")?;
        loop {
            match next(&mut events).await? {
                NetEvent::LinkGone(id) => assert_ne!(id, p0),
                NetEvent::Link(l) if l.id == br0 && !l.up => break,
                _ => {}
            }
        }
        Ok(())
    })
}

#[test]
fn a_macvlan_follows_its_parent_and_a_stack_its_ground() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async || {
        let (_netlink, mut events) = Netlink::start()?;
        while next(&mut events).await? != NetEvent::Synced {}
        // macvlan on a bridge on a veth: the whole stack falls and rises with the far end of the veth.
        for words in [
            "link add p0 type veth peer name p1",
            "link add br0 type bridge",
            "link set p0 master br0",
            "link add link br0 name mv0 type macvlan mode bridge",
            "link set p0 up",
            "link set p1 up",
            "link set br0 up",
            "link set mv0 up",
        ] {
            ip(words)?;
        }
        let mv0 = index("mv0")?;
        until(&mut events, |l| l.id == mv0 && l.up).await?;
        ip("link set p1 down")?;
        until(&mut events, |l| l.id == mv0 && !l.up).await?;
        ip("link set p1 up")?;
        until(&mut events, |l| l.id == mv0 && l.up).await?;
        ip("link set br0 down")?;
        until(&mut events, |l| l.id == mv0 && !l.up).await?;
        Ok(())
    })
}

#[test]
fn a_macvlan_in_another_namespace_follows_by_its_own_state() -> Result<()> {
    let pair = Pair::new()?;
    let there = pair.b.path();
    pair.a.inside(|| {
        ip("link add link a0 name mv0 type macvlan mode bridge")?;
        ip(&format!("link set mv0 netns {there}"))
    })?;
    pair.b.inside(|| {
        ip("link set mv0 up")?;
        let mv0 = index("mv0")?;
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let (_netlink, mut events) = Netlink::start()?;
            until(&mut events, |l| l.id == mv0 && l.up).await?;
            pair.a.inside(|| ip("link set a0 down"))?;
            until(&mut events, |l| l.id == mv0 && !l.up).await?;
            anyhow::Ok(())
        })
    })
}
