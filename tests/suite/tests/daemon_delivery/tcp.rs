//! TCP in bulk through the encapsulation, with the kernel's aggregates on: nothing stalls, nothing is changed, and the MSS says why.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::frames::Tap;
use crate::talk::Talk;
use crate::yard::{Hook, PORT, SOON, VIPS, Yard};

/// TCP flags (RFC 9293 section 3.1).
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;

/// Around one and two segments of `mss` bytes, then in bulk; both ways.
fn sizes(mss: u64) -> Vec<(u64, u64)> {
    let around = [1, 2].into_iter().flat_map(|n| [n * mss - 1, n * mss, n * mss + 1]);
    let mut all: Vec<(u64, u64)> = around.flat_map(|n| [(n, 1), (1, n)]).collect();
    all.extend([(100_000, 1), (1, 100_000), (10_000_000, 1), (1, 10_000_000), (3_000_000, 3_000_000)]);
    all
}

/// Transfers of both families through node 1 to an endpoint on node 2, and the MSS that each side was told.
fn transfers(yard: &Yard, pod: &crate::yard::Pod, limits: [u16; 2]) -> Result<()> {
    for (vip, limit) in VIPS.into_iter().zip(limits) {
        let vip = vip.parse()?;
        let (at_client, at_pod) = (Tap::open(&yard.client, "eth0")?, Tap::open(&pod.netns, "eth0")?);
        let mut talk = Talk::open(&yard.client, vip, PORT).with_context(|| yard.counted())?;
        let options = |tap: &Tap| {
            let there =
                |all: &[crate::frames::Seen], flags| all.iter().filter_map(|s| s.mss()).find(|(f, _)| *f == flags);
            let all = tap.collect(SOON, |all| there(all, SYN).is_some() && there(all, SYN_ACK).is_some());
            (there(&all, SYN).map(|s| s.1), there(&all, SYN_ACK).map(|s| s.1))
        };
        let own = if vip.is_ipv4() { 1460 } else { 1440 };
        let (client, endpoint) = (options(&at_client), options(&at_pod));
        ensure!(client == (Some(own), Some(limit)), "the client said {own} and is told {limit}: {client:?}");
        ensure!(endpoint == (Some(limit), Some(own)), "the endpoint is told {limit}, and said {own}: {endpoint:?}");
        drop((at_client, at_pod));
        // Without time stamps a segment is 12 bytes longer: both sizes are around a border.
        for (up, down) in sizes(u64::from(limit) - 12) {
            let number = talk.exchange(up, down).with_context(|| format!("{vip}\n{}", yard.counted()))?;
            ensure!(number == pod.number);
        }
    }
    for n in 1..=2 {
        ensure!(yard.metric(n, "bascule_forward_drops_total{reason=\"too_big\"}") == 0, "{}", yard.counted());
    }
    Ok(())
}

#[test]
fn bulk_through_the_tunnel_is_whole_and_does_not_stall() -> Result<()> {
    let mut yard = Yard::new("dtcp", 2, Hook::Tc)?;
    let pod = yard.pod(2)?;
    let services = yard.services("tcp", &[(&pod, 2)]);
    yard.apply(&services)?;
    // 1500 less 44 bytes of encapsulation and 40 or 60 of headers.
    transfers(&yard, &pod, [1416, 1396])?;
    ensure!(yard.metric(1, "bascule_forward_verdicts_total{verdict=\"encapsulated\"}") > 100, "{}", yard.counted());
    ensure!(yard.metric(2, "bascule_forward_verdicts_total{verdict=\"mss_clamped\"}") >= 4, "{}", yard.counted());
    // A narrower network between the nodes: known by configuration, for no route says so.
    yard.apply_with(&services, |config| config["forwarding"]["mtu"] = json!(1400))?;
    bascule_lab::wait_for(SOON, "the MTU in force", || {
        let tap = Tap::open(&yard.client, "eth0").ok()?;
        let _talk = Talk::open(&yard.client, VIPS[0].parse().ok()?, PORT).ok()?;
        tap.drain().iter().filter_map(|s| s.mss()).any(|mss| mss == (SYN_ACK, 1316)).then_some(())
    })?;
    transfers(&yard, &pod, [1316, 1296])
}

#[test]
fn bulk_through_a_tunnel_over_ipv6() -> Result<()> {
    let mut yard = Yard::new("dtcp6", 2, Hook::Tc)?;
    yard.over_v6 = true;
    let pod = yard.pod(2)?;
    let services = yard.services("tcp", &[(&pod, 2)]);
    yard.apply(&services)?;
    transfers(&yard, &pod, [1396, 1376])
}
