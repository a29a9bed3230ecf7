//! The audit sees what it is there to see: a clean run is clean, a dead server and a stolen flow are not.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use bascule_lab::audit::{AuditServer, End, Flows, Load};
use bascule_lab::{Bridge, BridgeOptions, Lab, Netns, Stamp, wait_for};
use ipnet::IpNet;

const PORT: u16 = 80;
/// All of this takes milliseconds, on a machine that has time for it.
const PATIENCE: Duration = Duration::from_secs(30);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

fn ground(name: &str) -> bascule_lab::Result<((Bridge, Lab), Netns, Netns)> {
    let lab = Lab::new(name)?;
    let lan = lab.bridge("lan", &BridgeOptions::default())?;
    let net = |host| IpNet::new(Ipv4Addr::new(10, 9, 0, host).into(), 24).expect("a prefix length of IPv4");
    let (server, _) = lab.host("server", &lan, &[net(1)])?;
    let (client, _) = lab.host("client", &lan, &[net(2)])?;
    Ok(((lan, lab), server, client))
}

fn load(paced: usize, full_speed: usize) -> Load {
    let target = SocketAddrV4::new(SERVER, PORT);
    Load { target, paced, every: Duration::from_millis(100), full_speed, window: 1024 }
}

#[test]
fn flows_that_nothing_happens_to_are_whole() {
    let (_lab, server, client) = ground("audit").unwrap();
    let server = AuditServer::start(&server, 7, PORT).unwrap();
    let flows = Flows::start(&client, load(50, 2)).unwrap();
    assert_eq!(flows.wait_open(PATIENCE).unwrap(), 52);
    let before = flows.echoed();
    wait_for(PATIENCE, "ten records a flow", || (flows.echoed() > before + 10_000).then_some(())).unwrap();
    let report = flows.finish();
    assert!(report.broken(&[]).is_empty(), "{}", report.describe(&[]));
    assert_eq!((report.on(7), server.disorder(), server.accepted()), (52, 0, 52));
    assert!(report.flows[51].echoed >= 1024 && report.flows[0].echoed >= 1);
}

#[test]
fn a_server_that_dies_ends_its_flows_and_excuses_only_them() {
    let (_lab, netns, client) = ground("audit-dead").unwrap();
    let server = AuditServer::start(&netns, 7, PORT).unwrap();
    let flows = Flows::start(&client, load(20, 1)).unwrap();
    assert_eq!(flows.wait_open(PATIENCE).unwrap(), 21);
    drop(server);
    wait_for(PATIENCE, "all flows to end", || (flows.alive() == 0).then_some(())).unwrap();
    let report = flows.finish();
    assert_eq!((report.broken(&[]).len(), report.broken(&[7]).len(), report.broken(&[8]).len()), (21, 0, 21));
    assert!(report.flows.iter().all(|f| matches!(f.end, Some(End::Closed | End::Failed(_)))));
}

#[test]
fn a_cut_shows_as_a_stall_and_a_refused_flow_as_not_opened() {
    let (_lab, netns, client) = ground("audit-cut").unwrap();
    let server = AuditServer::start(&netns, 7, PORT).unwrap();
    let flows = Flows::start(&client, load(20, 0)).unwrap();
    flows.wait_open(PATIENCE).unwrap();
    let calm = flows.window().unwrap();
    assert!(calm.flows.iter().all(|flow| flow.end.is_none() && flow.server == Some(7)), "{calm:?}");
    netns.set_link("eth0", false).unwrap();
    let cut = Stamp::now();
    wait_for(Duration::from_secs(5), "the cut to last", || (Stamp::now() > cut + Duration::from_secs(1)).then_some(()))
        .unwrap();
    assert!(flows.window().unwrap().longest_stall(&[]) > Duration::from_millis(800));
    let report = flows.finish();
    assert!(report.longest_stall(&[]) > Duration::from_millis(800), "{:?}", report.longest_stall(&[]));
    assert_eq!(report.longest_stall(&[7]), Duration::ZERO);
    netns.set_link("eth0", true).unwrap();
    drop(server);
    let flows = Flows::start(&client, load(3, 0)).unwrap();
    assert_eq!(flows.wait_open(PATIENCE).unwrap(), 0);
    assert!(flows.finish().flows.iter().all(|f| matches!(f.end, Some(End::NotOpened(_)))));
}
