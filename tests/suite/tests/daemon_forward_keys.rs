//! Tag keys that are replaced on running nodes, and encapsulation that no node made.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use bascule_core::service::keys::{Purpose, derive};
use bascule_lab::forward::{
    Dice, Encapsulated, FLEET_FLOW_KEY, FLEET_NUMBER, FLEET_VIP, Fleet, rotate, send_frame, tag_key, unless_void,
};

const FLOWS: u32 = 16_384;
/// Packets of each kind.
const EACH: u16 = 50;
/// Bytes that the server beside a node answers.
const PROBE: [u8; 12] = [0; 12];

fn key(hex: &str, purpose: Purpose) -> Result<[u64; 2]> {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16);
    let secret: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect::<Result<_, _>>()?;
    Ok(derive(&secret, purpose).0)
}

/// What node 2 would send to node 1 for a client on `port`, tagged with the `n`th key under `slot`.
fn good(n: u32, slot: u8, port: u16) -> Result<Encapsulated> {
    Ok(Encapsulated {
        outer: (Ipv4Addr::new(10, 9, 0, 2), Ipv4Addr::new(10, 9, 0, 1)),
        path: (2, 1),
        flow_key: key(FLEET_FLOW_KEY, Purpose::FlowHash)?,
        key: key(&tag_key(n), Purpose::Tag)?,
        slot,
        service: FLEET_NUMBER,
        // Nobody has this address: a client that lives would answer the reply that it never asked for with an error, through the VIP.
        inner: (SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 201), port), SocketAddrV4::new(FLEET_VIP, 7000)),
        spoilt: 0,
        version: 1,
    })
}

fn send(fleet: &Fleet, packet: &Encapsulated) -> Result<()> {
    let to = fleet.crew.node(1).netns.mac("eth0")?;
    Ok(send_frame(&fleet.client, "eth0", to, &packet.packet(&PROBE))?)
}

fn drops(reason: &str) -> String {
    format!("bascule_forward_drops_total{{reason=\"{reason}\"}}")
}

/// Packets that came out of the encapsulation, and those that the endpoint beside node 1 was given.
const DECAPSULATED: &str = "bascule_forward_verdicts_total{verdict=\"decapsulated\"}";
const DELIVERED: &str = "bascule_forward_endpoint_packets_total{direction=\"sent\",endpoint=\"e1\",service=\"echo\"}";

const REASONS: [&str; 5] = ["encap_peer", "encap_format", "encap_tag", "encap_nested", "encap_service"];

/// Two whole rotations, there and back, over nodes that are a step apart at every moment; then the old keys are worth nothing.
#[test]
fn keys_rotate_under_traffic_without_loss_and_old_ones_are_dropped() -> Result<()> {
    let (mut fleet, toll) = unless_void(|| {
        let mut fleet = Fleet::new("frot", 3, "auto")?;
        fleet.start_all(FLOWS)?;
        let traffic = fleet.traffic(6, 20)?;
        let mut dice = Dice::new(1);
        let steps = rotate(&mut fleet, 0, 0, &mut dice)?.steps + rotate(&mut fleet, 1, 1, &mut dice)?.steps;
        ensure!(steps == 2 * 3 * 3, "three files on three nodes, twice: {steps}");
        Ok((fleet, traffic.finish()?))
    })?;
    ensure!(toll.broken.is_empty() && toll.datagrams.1 == 0, "{toll:?}");
    ensure!(toll.datagrams.0 > 1000 && toll.echoed > 1000, "{toll:?}");
    // The traffic went through the tunnel, in both directions of every pair.
    for n in 1..=3 {
        fleet.crew.wait_metric(n, DECAPSULATED, |packets| packets > 100.0)?;
    }
    let line = fleet.daemon(1).ctl(&["services"])?;
    ensure!(line.contains("keys: 0: signs, 0: verify"), "{line}");

    let tag = drops("encap_tag");
    let before = fleet.crew.wait_metric(1, &tag, |_| true)?;
    for port in 30_000..30_000 + EACH {
        // Key 0 signed under label 0 in the beginning, where key 2 is now; key 1 under label 1, where nothing is.
        send(&fleet, &good(0, 0, port)?)?;
        send(&fleet, &good(1, 1, port)?)?;
    }
    fleet.crew.wait_metric(1, &tag, |drops| drops >= before + f64::from(2 * EACH))?;
    let delivered = fleet.crew.wait_metric(1, DELIVERED, |_| true)?;
    send(&fleet, &good(2, 0, 40_000)?)?;
    let now = fleet.crew.wait_metric(1, DELIVERED, |packets| packets > delivered)?;
    ensure!(now == delivered + 1.0, "{delivered} and one: {now}");
    ensure!(fleet.crew.wait_metric(1, &tag, |_| true)? == before + f64::from(2 * EACH), "each once");
    Ok(())
}

type Spoil = fn(&mut Encapsulated);

/// What is forged, and the reason it is dropped for.
const FORGED: [(&str, &str, Spoil); 8] = [
    ("a sender that is no node", "encap_peer", |p| p.outer.0 = Ipv4Addr::new(10, 9, 0, 66)),
    ("another tag", "encap_tag", |p| p.spoilt = 0x8000_0001),
    ("another node's packet", "encap_tag", |p| p.path.0 = 1),
    ("a packet for another node", "encap_tag", |p| p.path.1 = 2),
    ("a key that is not in force", "encap_tag", |p| p.slot = 1),
    ("encapsulation within encapsulation", "encap_nested", |p| {
        p.inner.1 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 1), 7846);
    }),
    ("a destination that is no service", "encap_service", |p| p.inner.1.set_port(7999)),
    ("another version", "encap_format", |p| p.version = 2),
];

#[test]
fn forged_encapsulation_is_dropped_and_counted_by_reason() -> Result<()> {
    for hook in ["auto", "tc"] {
        let mut fleet = Fleet::new("fforge", 2, hook)?;
        fleet.start_all(FLOWS)?;
        // The harness: what is not spoilt arrives.
        let start = fleet.crew.wait_metric(1, DELIVERED, |_| true)?;
        for port in 20_000..20_000 + EACH {
            send(&fleet, &good(0, 0, port)?)?;
        }
        let all = start + f64::from(EACH);
        fleet.crew.wait_metric(1, DELIVERED, |packets| packets >= all).context("good packets")?;

        for (what, reason, spoil) in FORGED {
            let before: Vec<f64> =
                REASONS.iter().map(|r| fleet.daemon(1).metric(&drops(r)).unwrap_or_default()).collect();
            for port in 20_000..20_000 + EACH {
                let mut packet = good(0, 0, port)?;
                spoil(&mut packet);
                send(&fleet, &packet)?;
            }
            let at = REASONS.iter().position(|r| *r == reason).context("a reason")?;
            let wanted = before[at] + f64::from(EACH);
            fleet
                .crew
                .wait_metric(1, &drops(reason), |drops| drops >= wanted)
                .with_context(|| format!("{hook}: {what}"))?;
            for (slot, of) in REASONS.iter().enumerate() {
                let want = before[slot] + if slot == at { f64::from(EACH) } else { 0.0 };
                let found = fleet.daemon(1).metric(&drops(of)).context("a metric")?;
                ensure!(found == want, "{hook}: {what}: {of} is {found}, expected {want}");
            }
            let delivered = fleet.daemon(1).metric(DELIVERED).context("a metric")?;
            ensure!(delivered == all, "{hook}: {what}: {delivered} packets reached the endpoint, of {all} good ones");
        }
        // To an address that is not this node's it is no encapsulation: no tunnel takes it, and no endpoint gets it.
        let taken = fleet.crew.wait_metric(1, DECAPSULATED, |_| true)?;
        let mut elsewhere = good(0, 0, 20_000)?;
        elsewhere.outer.1 = Ipv4Addr::new(10, 9, 0, 77);
        send(&fleet, &elsewhere)?;
        send(&fleet, &good(0, 0, 20_001)?)?;
        fleet.crew.wait_metric(1, DELIVERED, |packets| packets > all)?;
        ensure!(fleet.crew.wait_metric(1, DECAPSULATED, |_| true)? == taken + 1.0, "{hook}: only the good one");
        ensure!(fleet.crew.wait_metric(1, DELIVERED, |_| true)? == all + 1.0, "{hook}: only the good one");
    }
    Ok(())
}
