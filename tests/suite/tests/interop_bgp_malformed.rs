//! RFC 7606 live: a scripted neighbour sends the daemon every malformed UPDATE of the table. The session survives where the RFC says that
//! it must, which a ROUTE-REFRESH behind them proves, and ends with the right NOTIFICATION elsewhere.

#[path = "../../../bgp/tests/rfc7606/mod.rs"]
mod rfc7606;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bascule_bgp::wire::{DecodeContext, Family as Afi, Update};
use bascule_lab::bascule::Bascule;
use bascule_lab::router::scripted::{Identity, NOTIFICATION, ScriptedPeer, ScriptedSession, UPDATE};
use bascule_lab::router::{Family, Routed};
use bascule_lab::{Lab, Stamp};
use rfc7606::{Session, Vector, Verdict, vectors};
use serde_json::{Value, json};

const OWN: u32 = 65010;
const SOON: Duration = Duration::from_secs(20);

/// What one neighbour sends: many vectors that the session survives, or one that ends it.
struct Script {
    session: Session,
    vectors: Vec<Vector>,
}

/// One neighbour for the survivors of each kind of session, and one for each vector that ends its session.
fn scripts() -> Vec<Script> {
    let (survive, reset): (Vec<Vector>, Vec<Vector>) =
        vectors().into_iter().partition(|v| !matches!(v.verdict, Verdict::Reset(..)));
    let of = |session: Session| survive.iter().filter(|v| v.session == session).cloned().collect();
    let kinds = [Session::Ebgp, Session::Ibgp, Session::Old];
    let mut scripts: Vec<Script> = kinds.into_iter().map(|session| Script { session, vectors: of(session) }).collect();
    scripts.extend(reset.into_iter().map(|vector| Script { session: vector.session, vectors: vec![vector] }));
    scripts
}

/// The neighbour's AS: the vectors' paths begin with 65001 (0xfde9), as a neighbour's must.
fn asn(session: Session) -> u32 {
    if session == Session::Ibgp { OWN } else { 65001 }
}

fn play(mut session: ScriptedSession, number: usize, script: &Script) -> Result<usize> {
    let id = Ipv4Addr::from(0x0a00_0100 + u32::try_from(number)?);
    let identity = Identity { asn: asn(script.session), id, four_octet: script.session != Session::Old, hold_time: 0 };
    session.establish(identity, SOON)?;
    table(&mut session)?;
    for vector in &script.vectors {
        one(&mut session, vector).with_context(|| format!("{} (RFC {})", vector.name, vector.section))?;
    }
    if script.vectors.iter().all(|vector| !matches!(vector.verdict, Verdict::Reset(..))) {
        // Behind all of them in the same stream: its answer proves that the session outlived each.
        session.ask_refresh()?;
        let Some(heard) = session.hear(SOON)? else { bail!("the session is gone") };
        ensure!(heard.kind == UPDATE, "the daemon answers {heard:02x?}");
    }
    Ok(script.vectors.len())
}

fn one(session: &mut ScriptedSession, vector: &Vector) -> Result<()> {
    quiet(session)?;
    session.send(&vector.message)?;
    let Verdict::Reset(code, subcode) = vector.verdict else { return quiet(session) };
    let Some(heard) = session.hear(SOON)? else { bail!("closed without a NOTIFICATION") };
    ensure!(heard.kind == NOTIFICATION && heard.body.starts_with(&[code, subcode]), "the daemon answers {heard:02x?}");
    ensure!(session.hear(SOON)?.is_none(), "it goes on after its NOTIFICATION");
    Ok(())
}

/// Takes the first table up to End-of-RIB of both families: behind it nothing comes unasked, however busy the machine is.
fn table(session: &mut ScriptedSession) -> Result<()> {
    let context = DecodeContext { families: Afi::ALL.into_iter().collect(), ..DecodeContext::default() };
    let mut ends = 0;
    while ends < Afi::ALL.len() {
        let Some(heard) = session.hear(SOON)? else { bail!("the session is gone") };
        ensure!(heard.kind == UPDATE, "the daemon begins with {heard:02x?}");
        ends += usize::from(Update::decode(&heard.body, &context).end_of_rib.is_some());
    }
    Ok(())
}

/// Takes what was already on its way, so that the answer to a ROUTE-REFRESH is no earlier UPDATE.
fn quiet(session: &mut ScriptedSession) -> Result<()> {
    loop {
        match session.hear(Duration::from_millis(30)) {
            Ok(Some(heard)) => ensure!(heard.kind == UPDATE, "unasked: {heard:02x?}"),
            Ok(None) => bail!("the session is gone"),
            Err(_) => return Ok(()),
        }
    }
}

#[test]
fn malformed_updates_end_a_session_only_where_they_must() -> Result<()> {
    let lab = Lab::new("malformed")?;
    let net = Routed::build(&lab, 1, 1)?;
    let scripts = scripts();
    let IpAddr::V4(first) = net.link(0, 0).router_address(Family::Ipv4) else { bail!("an IPv4 address") };
    let mut by_address = BTreeMap::new();
    let mut neighbors: Vec<Value> = Vec::new();
    for (number, script) in scripts.iter().enumerate() {
        // From .16 on: .1 and .2 are the link's own.
        let address = Ipv4Addr::from(u32::from(first) + 15 + u32::try_from(number)?);
        net.routers[0].add_address(&net.link(0, 0).router_device, ipnet::IpNet::new(address.into(), 24)?)?;
        by_address.insert(IpAddr::V4(address), number);
        neighbors.push(json!({
            "name": format!("n{number}"), "address": address, "remoteAs": asn(script.session),
            "families": ["ipv4", "ipv6"], "nextHop6": "fd09::1", "connectRetry": "1s",
        }));
    }
    let peer = ScriptedPeer::listen(&net.routers[0])?;
    let config = json!({
        "node": "n1",
        "bgp": { "asn": OWN, "routerId": "10.0.0.1", "neighbors": neighbors },
        "vips": [{ "name": "web", "addresses": ["10.9.0.100"], "announce": "bgp", "scope": "all" }],
    });
    let daemon = Bascule::start(&lab, &net.nodes[0], &config)?;
    let mut players = BTreeMap::new();
    let end = Stamp::now() + SOON;
    while players.len() < scripts.len() {
        let waited = peer.accept(end.since(Stamp::now()));
        let (address, session) = waited.with_context(|| daemon.process.tail())?;
        let number = *by_address.get(&address).with_context(|| format!("{address} was dialled"))?;
        // A second connection is a session's next dial after its vector ended it.
        players.entry(number).or_insert_with(|| Some(session));
    }
    let results: Vec<Result<usize>> = std::thread::scope(|scope| {
        let started: Vec<_> = players
            .iter_mut()
            .map(|(number, session)| {
                let (session, script) = (session.take().expect("taken once"), &scripts[*number]);
                scope.spawn(move || play(session, *number, script))
            })
            .collect();
        started.into_iter().map(|thread| thread.join().expect("no panic in a player")).collect()
    });
    let wrong: Vec<String> = results.iter().filter_map(|r| r.as_ref().err()).map(|e| format!("{e:#}")).collect();
    ensure!(wrong.is_empty(), "{} sessions:\n{}\n{}", wrong.len(), wrong.join("\n"), daemon.process.tail());
    let sent: usize = results.into_iter().flatten().sum();
    ensure!(sent == vectors().len() && sent >= 60, "{sent} vectors were sent");
    Ok(())
}
