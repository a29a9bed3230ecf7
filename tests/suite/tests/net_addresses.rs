//! Our addresses on a real link: flags and lifetimes as `ip` sees them, loss reported, nothing foreign touched.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bascule::net::NetError;
use bascule::net::netlink::{MARKER, NetEvent, Netlink};
use bascule_core::node::ADDRESS_LIFETIME;
use bascule_core::node::io::LinkInfo;
use bascule_core::types::{LinkId, Mac};
use bascule_suite::net::{PATIENCE, Pair, add_marked, address, index, ip, marker, wait_for};
use tokio::sync::mpsc::Receiver;

/// Runs `body` inside the node's namespace, on a runtime of its own.
fn on_node<F: Future<Output = Result<()>>>(pair: &Pair, body: impl FnOnce(LinkId) -> F) -> Result<()> {
    pair.a.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(body(pair.a0))
    })
}

fn v4() -> IpAddr {
    [10, 9, 0, 100].into()
}

fn v6() -> IpAddr {
    "2001:db8::100".parse().expect("an address")
}

async fn next(events: &mut Receiver<NetEvent>) -> Result<NetEvent> {
    tokio::time::timeout(PATIENCE, events.recv()).await.context("no event")?.context("the watcher has ended")
}

/// Starts it and returns the links that were reported before `Synced`.
async fn start() -> Result<(Netlink, Receiver<NetEvent>, Vec<LinkInfo>)> {
    let (netlink, mut events) = Netlink::start()?;
    let mut links = Vec::new();
    loop {
        match next(&mut events).await? {
            NetEvent::Link(info) => links.push(info),
            NetEvent::Synced => return Ok((netlink, events, links)),
            other => bail!("{other:?} before Synced"),
        }
    }
}

async fn lost(events: &mut Receiver<NetEvent>) -> Result<(LinkId, IpAddr)> {
    loop {
        if let NetEvent::AddressLost { link, address } = next(events).await? {
            return Ok((link, address));
        }
    }
}

fn flag(info: &serde_json::Value, name: &str) -> bool {
    info[name] == true
}

#[test]
fn the_first_reading_names_links_and_own_addresses_without_ours() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async |a0| {
        add_marked(a0, [10, 9, 0, 99].into(), 32, MARKER)?;
        let (_netlink, _events, links) = start().await?;
        let link = links.iter().find(|l| l.id == a0).context("a0")?;
        assert_eq!((link.name.as_str(), link.mac, link.up), ("a0", Mac([2, 0, 0, 0, 0, 0xa]), true));
        let addresses: BTreeSet<String> = link.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.9.0.1/24", "2001:db8::1/64", "fe80::a/64"].map(str::to_owned).into());
        let lo = links.iter().find(|l| l.name == "lo").context("lo")?;
        assert!(lo.up && lo.mac == Mac::ZERO, "{lo:?}");
        Ok(())
    })
}

#[test]
fn an_installed_address_has_marker_lifetime_and_flags() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async |a0| {
        let (netlink, mut events, _) = start().await?;
        let local = "fe80::200:5eff:fe00:233";
        netlink.install(a0, &[v4(), v6(), local.parse()?], ADDRESS_LIFETIME).await?;
        let info = address("a0", "10.9.0.100")?.context("10.9.0.100")?;
        assert_eq!((&info["prefixlen"], &info["scope"], marker(v4())?), (&32.into(), &"global".into(), Some(MARKER)));
        assert!((9..=10).contains(&info["valid_life_time"].as_u64().unwrap_or(0)), "{info}");
        assert_eq!(info["preferred_life_time"], info["valid_life_time"], "{info}");
        for (wanted, scope) in [("2001:db8::100", "global"), (local, "link")] {
            let info = address("a0", wanted)?.context("an IPv6 address")?;
            assert_eq!(
                (&info["prefixlen"], &info["scope"], marker(wanted.parse()?)?),
                (&128.into(), &scope.into(), Some(MARKER))
            );
            assert!((9..=10).contains(&info["valid_life_time"].as_u64().unwrap_or(0)), "{info}");
            assert_eq!(info["preferred_life_time"], 0);
            assert!(flag(&info, "nodad") && flag(&info, "noprefixroute") && flag(&info, "deprecated"), "{info}");
            assert!(!flag(&info, "tentative"), "{info}");
        }
        // Never chosen as a source.
        let route: serde_json::Value = serde_json::from_str(&ip("-j -6 route get 2001:db8::2")?)?;
        assert_eq!(route[0]["prefsrc"], "2001:db8::1", "{route}");
        let route: serde_json::Value = serde_json::from_str(&ip("-j route get 10.9.0.2")?)?;
        assert_eq!(route[0]["prefsrc"], "10.9.0.1", "{route}");

        // None of them is reported as an own address: the last event comes after all of theirs.
        ip("addr add 10.9.0.55/24 dev a0")?;
        let wanted = "10.9.0.55".parse::<IpAddr>()?;
        loop {
            if let NetEvent::Link(info) = next(&mut events).await? {
                assert!(!info.addresses.iter().any(|n| [v4(), v6()].contains(&n.addr())), "{info:?}");
                if info.addresses.iter().any(|n| n.addr() == wanted) {
                    return Ok(());
                }
            }
        }
    })
}

#[test]
fn renewal_prolongs_and_a_batch_of_many_is_one_call() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async |a0| {
        let (netlink, _events, _) = start().await?;
        let many: Vec<IpAddr> = (0..200).map(|i| IpAddr::from([10, 10, 0, i])).collect();
        netlink.install(a0, &many, ADDRESS_LIFETIME).await?;
        let left = || anyhow::Ok(address("a0", "10.10.0.199")?.context("the last one")?["valid_life_time"].as_u64());
        wait_for("the lifetime to run", || Ok((left()? <= Some(8)).then_some(())))?;
        let batch: Vec<_> = many.iter().map(|address| (a0, *address)).collect();
        let begin = Instant::now();
        netlink.renew(&batch, ADDRESS_LIFETIME).await?;
        println!("renewed {} addresses in {:?}", batch.len(), begin.elapsed());
        assert!(left()? >= Some(9));
        netlink.remove(a0, &many).await?;
        assert!(address("a0", "10.10.0.0")?.is_none() && address("a0", "10.10.0.199")?.is_none());
        Ok(())
    })
}

#[test]
fn an_address_removed_by_hand_is_reported_within_50_ms() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async |a0| {
        let (netlink, mut events, _) = start().await?;
        let mut slowest = Duration::ZERO;
        for (address, prefix) in [(v4(), 32), (v6(), 128)].into_iter().cycle().take(20) {
            netlink.install(a0, &[address], ADDRESS_LIFETIME).await?;
            ip(&format!("addr del {address}/{prefix} dev a0"))?;
            let begin = Instant::now();
            assert_eq!(lost(&mut events).await?, (a0, address));
            slowest = slowest.max(begin.elapsed());
        }
        println!("slowest report {slowest:?}");
        assert!(slowest < Duration::from_millis(50), "{slowest:?}");
        Ok(())
    })
}

#[test]
fn an_address_whose_marker_was_taken_is_lost_and_can_be_retaken() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async |a0| {
        let (netlink, mut events, _) = start().await?;
        netlink.install(a0, &[v4()], ADDRESS_LIFETIME).await?;
        ip("addr replace 10.9.0.100/32 dev a0")?;
        assert_eq!(lost(&mut events).await?, (a0, v4()));
        netlink.install(a0, &[v4()], ADDRESS_LIFETIME).await?;
        let info = address("a0", "10.9.0.100")?.context("10.9.0.100")?;
        assert_eq!(marker(v4())?, Some(MARKER));
        assert!(info["valid_life_time"].as_u64() <= Some(10));
        Ok(())
    })
}

#[test]
fn removal_takes_only_ours_and_is_content_when_there_is_nothing() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async |a0| {
        let (netlink, mut events, _) = start().await?;
        netlink.install(a0, &[v4(), v6()], ADDRESS_LIFETIME).await?;
        netlink.remove(a0, &[v4(), v6()]).await?;
        assert!(address("a0", "10.9.0.100")?.is_none() && address("a0", "2001:db8::100")?.is_none());
        netlink.remove(a0, &[v4(), v6()]).await?;
        netlink.remove(LinkId(4000), &[v4()]).await?;

        ip("addr add 10.9.0.100/32 dev a0")?;
        ip("addr add 2001:db8::100/128 dev a0 nodad")?;
        // Until the foreign ones are known.
        loop {
            match next(&mut events).await? {
                NetEvent::Link(l) if l.addresses.iter().any(|n| n.addr() == v6()) => break,
                NetEvent::Link(_) => {}
                other => bail!("{other:?}: own removals are no loss"),
            }
        }
        netlink.remove(a0, &[v4(), v6()]).await?;
        for result in
            [netlink.install(a0, &[v4()], ADDRESS_LIFETIME).await, netlink.install(a0, &[v6()], ADDRESS_LIFETIME).await]
        {
            assert!(matches!(result, Err(NetError::Foreign { .. })), "{result:?}");
        }
        for wanted in ["10.9.0.100", "2001:db8::100"] {
            let info = address("a0", wanted)?.context("the foreign address")?;
            assert_eq!(info["valid_life_time"], u32::MAX, "{info}");
            assert_eq!(marker(wanted.parse()?)?, None);
        }
        Ok(())
    })
}

#[test]
fn a_refusal_names_link_address_and_reason() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async |_| {
        let (netlink, _events, _) = start().await?;
        let error = netlink.install(LinkId(4000), &[v4()], ADDRESS_LIFETIME).await.expect_err("there is no such link");
        assert_eq!(error.to_string(), "cannot install 10.9.0.100 on link 4000: No such device (os error 19)");
        Ok(())
    })
}

#[test]
fn a_sweep_removes_what_carries_our_marker_and_nothing_else() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async |a0| {
        // Of a crashed run, one of them with another prefix length; and of others.
        let lo = index("lo")?;
        add_marked(a0, v4(), 32, MARKER)?;
        add_marked(lo, [10, 9, 0, 101].into(), 28, MARKER)?;
        add_marked(a0, v6(), 128, MARKER)?;
        add_marked(a0, [10, 9, 0, 102].into(), 32, MARKER + 1)?;
        ip("addr add 10.9.0.103/32 dev a0 valid_lft 10 preferred_lft 10")?;
        let (netlink, mut events, _) = start().await?;
        let swept: BTreeSet<_> = netlink.sweep(&[]).await?.into_iter().collect();
        assert_eq!(swept, [(a0, v4()), (a0, v6()), (lo, [10, 9, 0, 101].into())].into());
        let left = ip("addr")?;
        for gone in ["10.9.0.100", "10.9.0.101", "2001:db8::100"] {
            assert!(!left.contains(gone), "{left}");
        }
        for kept in ["10.9.0.1/24", "10.9.0.102", "10.9.0.103", "2001:db8::1/64", "fe80::a/64", "127.0.0.1", "::1/128"]
        {
            assert!(left.contains(kept), "{kept}: {left}");
        }
        assert!(netlink.sweep(&[]).await?.is_empty());
        // An event that comes after those of the sweep: the sweep itself is no loss.
        netlink.install(a0, &[v4()], ADDRESS_LIFETIME).await?;
        ip("addr del 10.9.0.100/32 dev a0")?;
        assert_eq!(lost(&mut events).await?, (a0, v4()));
        assert!(events.try_recv().is_err());
        Ok(())
    })
}

#[test]
fn anycast_addresses_stay_on_the_loopback_link_without_end_and_a_sweep_keeps_the_wanted_ones() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async |a0| {
        let lo = index("lo")?;
        let (netlink, mut events, _) = start().await?;
        netlink.hold(lo, &[v4(), v6()]).await?;
        for wanted in [v4(), v6()] {
            let info = address("lo", &wanted.to_string())?.context("held")?;
            assert_eq!(info["valid_life_time"], u32::MAX, "{info}");
            assert_eq!(marker(wanted)?, Some(MARKER));
        }
        // Never a source by itself (IPv6), never announced by duplicate address detection.
        let info = address("lo", &v6().to_string())?.context("held")?;
        assert_eq!((&info["deprecated"], &info["tentative"]), (&true.into(), &serde_json::Value::Null), "{info}");
        // A next run: what it still wants stays where it is; the same address elsewhere is a leftover.
        add_marked(a0, v4(), 32, MARKER)?;
        assert_eq!(netlink.sweep(&[v4()]).await?.into_iter().collect::<BTreeSet<_>>(), [(a0, v4()), (lo, v6())].into());
        assert!(address("lo", &v4().to_string())?.is_some() && address("lo", &v6().to_string())?.is_none());
        netlink.hold(lo, &[v4()]).await?;
        // Removed by hand it is reported, to be put back.
        ip("addr del 10.9.0.100/32 dev lo")?;
        assert_eq!(lost(&mut events).await?, (lo, v4()));
        netlink.hold(lo, &[v4()]).await?;
        netlink.remove(lo, &[v4()]).await?;
        assert!(address("lo", &v4().to_string())?.is_none());
        Ok(())
    })
}

#[test]
fn without_renewal_an_address_is_gone_within_11_s_and_reported() -> Result<()> {
    let pair = Pair::new()?;
    on_node(&pair, async |a0| {
        let (netlink, mut events, _) = start().await?;
        let begin = Instant::now();
        netlink.install(a0, &[v4(), v6()], ADDRESS_LIFETIME).await?;
        let mut gone = BTreeSet::new();
        while gone.len() < 2 {
            if let NetEvent::AddressLost { link, address } =
                tokio::time::timeout(Duration::from_secs(15), events.recv()).await?.context("events")?
            {
                assert_eq!(link, a0);
                println!("{address} gone after {:?}", begin.elapsed());
                gone.insert(address);
            }
        }
        assert!(begin.elapsed() > Duration::from_secs(9) && begin.elapsed() < Duration::from_secs(11));
        Ok(())
    })
}
