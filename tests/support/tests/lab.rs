//! The lab is proven before it judges anything: planted faults of known size and kind are seen as what they are.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's failure")]

use std::net::IpAddr;
use std::time::Duration;

use bascule_lab::{
    Bridge, BridgeOptions, Direction, Filter, Frame, Kind, Lab, Netns, PlantedOwner, Port, Probe, ProbeOptions,
    Responder, Sniffer, Stamp, TcpProber, UdpProber, sleep_until, tool, wait_for,
};

const PORT: u16 = 7;
const VIP4: &str = "10.9.0.100";
const VIP6: &str = "2001:db8::100";
const SOON: Duration = Duration::from_secs(5);

struct Lan {
    lan: Bridge,
    nodes: Vec<(Netns, Port, Responder)>,
    client: (Netns, Port),
    lab: Lab,
}

/// Two nodes and a client; node 1 holds both VIPs by hand.
fn lan(name: &str) -> Lan {
    let lab = Lab::new(name).unwrap();
    let lan = lab.bridge("lan", &BridgeOptions::default()).unwrap();
    let addresses = |n: u32| [format!("10.9.0.{n}/24").parse().unwrap(), format!("2001:db8::{n}/64").parse().unwrap()];
    let nodes: Vec<_> = (1..=2)
        .map(|n| {
            let (netns, port) = lab.host(&format!("n{n}"), &lan, &addresses(n)).unwrap();
            let responder = Responder::start(&netns, n, PORT).unwrap();
            (netns, port, responder)
        })
        .collect();
    let client = lab.host("client", &lan, &addresses(200)).unwrap();
    for vip in [format!("{VIP4}/32"), format!("{VIP6}/128")] {
        nodes[0].0.add_address("eth0", vip.parse().unwrap()).unwrap();
    }
    for vip in vips() {
        // A link that has just come up takes a moment until both of its ends forward.
        let reached = || client.0.tool("ping", &["-c1", "-W1", &vip.to_string()]).ok();
        wait_for(SOON, "the VIP to be reachable by hand", reached).unwrap();
    }
    Lan { lab, lan, nodes, client }
}

fn vips() -> [IpAddr; 2] {
    [VIP4.parse().unwrap(), VIP6.parse().unwrap()]
}

/// Runs `fault` under the prober; gives the probe, the window and how late prober and responder were.
fn probed(lan: &Lan, vip: IpAddr, fault: impl FnOnce()) -> (Probe, Stamp, Stamp, Duration) {
    let prober = UdpProber::start(&lan.client.0, vip, PORT, ProbeOptions::default()).unwrap();
    prober.wait_answer(SOON, Stamp::now(), Some(1)).unwrap();
    let start = Stamp::now();
    lan.nodes[0].2.take_lateness();
    sleep_until(start + Duration::from_millis(100));
    fault();
    let healed = Stamp::now();
    prober.wait_answer(SOON, healed, Some(1)).unwrap();
    sleep_until(healed + Duration::from_millis(100));
    let end = Stamp::now();
    let probe = prober.finish();
    let late = probe.lateness(start, end).worst() + lan.nodes[0].2.take_lateness();
    (probe, start, end, late)
}

#[test]
fn the_prober_measures_a_planted_gap() {
    let lan = lan("gap");
    for vip in vips() {
        let mut bounds = (Duration::ZERO, Duration::ZERO);
        let (probe, start, end, late) = probed(&lan, vip, || {
            let before = Stamp::now();
            lan.nodes[0].2.mute(true);
            let muted = Stamp::now();
            sleep_until(muted + Duration::from_millis(50));
            let heard = Stamp::now();
            lan.nodes[0].2.mute(false);
            // This thread may be late as well: the silence was at least `heard - muted` and at most `now - before` long.
            bounds = (heard.since(muted), Stamp::now().since(before));
        });
        let gap = probe.longest_gap(start, end);
        println!("{vip}: gap {:.2} ms of {bounds:?}, late {late:?}", gap.ms());
        // One probe interval on either side belongs to the gap; lateness of the meter itself may add or hide.
        let slack = Duration::from_millis(2) + late;
        let (least, most) = bounds;
        assert!(gap.length() + slack >= least && gap.length() <= most + slack, "{gap:?} of {bounds:?}, late {late:?}");
        assert_eq!((gap.from, gap.to), (1, 1));
        let (sent, lost) = probe.lost(start, end);
        let packets = |time: Duration| usize::try_from(time.as_millis()).unwrap();
        assert!(lost + packets(slack) >= packets(least) && lost <= packets(most + slack), "{lost} of {sent} lost");
    }
}

#[test]
fn a_silent_cut_is_a_gap_as_long_as_the_cut() {
    let lan = lan("cut");
    for vip in vips() {
        let mut bounds = (Duration::ZERO, Duration::ZERO);
        let (probe, start, end, late) = probed(&lan, vip, || {
            let cut = lan.nodes[0].1.cut(Direction::Both, Filter::All).unwrap();
            let (before, in_force) = (cut.since, Stamp::now());
            sleep_until(in_force + Duration::from_millis(50));
            let healing = Stamp::now();
            assert!(cut.heal().unwrap() > 20, "the port dropped nothing");
            // nft takes its time: the cut was at least `healing - in_force` and at most `now - before` long.
            bounds = (healing.since(in_force), Stamp::now().since(before));
        });
        let gap = probe.longest_gap(start, end).length();
        let slack = Duration::from_millis(2) + late;
        assert!(gap + slack >= bounds.0 && gap <= bounds.1 + slack, "{gap:?}, {bounds:?}, late {late:?}");
    }
}

#[test]
fn tcp_connects_are_answered_and_a_dead_service_is_seen() {
    let mut lan = lan("tcp");
    let options = ProbeOptions { interval: Duration::from_millis(2), ..ProbeOptions::default() };
    for vip in vips() {
        let prober = TcpProber::start(&lan.client.0, vip, PORT, options).unwrap();
        let start = Stamp::now();
        sleep_until(start + Duration::from_millis(300));
        let end = Stamp::now() - Duration::from_millis(50);
        let probe = prober.finish();
        let (sent, lost) = probe.lost(start, end);
        assert!(sent > 100 && lost == 0, "{lost} of {sent} lost");
        assert_eq!(probe.answerers(start, end).into_iter().collect::<Vec<_>>(), [1]);
    }
    let (_, _, responder) = lan.nodes.remove(0);
    drop(responder);
    let prober = TcpProber::start(&lan.client.0, vips()[0], PORT, options).unwrap();
    let start = Stamp::now();
    sleep_until(start + Duration::from_millis(200));
    let probe = prober.finish();
    let (sent, lost) = probe.lost(start, Stamp::now());
    assert!(sent > 50 && lost == sent, "{lost} of {sent} lost");
}

#[test]
fn a_planted_second_owner_is_reported() {
    let lan = lan("planted");
    let sniffer = Sniffer::start(&[&lan.lan], &vips()).unwrap();
    let owner = lan.nodes[0].1.mac();
    let ask = |vip: &str| lan.client.0.tool("ping", &["-c1", "-W1", vip]);
    let start = Stamp::now();
    for vip in [VIP4, VIP6] {
        ask(vip).unwrap();
    }
    for vip in vips() {
        let served = wait_for(SOON, "the echo reply", || {
            let reply = |f: &Frame| f.src == owner && matches!(f.kind, Kind::Ip { source, .. } if source == vip);
            let frames = sniffer.carried(start, reply);
            (!frames.is_empty()).then_some(frames)
        });
        assert_eq!(served.unwrap().len(), 1, "one echo reply, however many ports it left by");
        let dual = sniffer.dual_frames(vip, owner, start, Stamp::now(), None);
        assert!(dual.claims.is_empty() && dual.served.is_empty(), "{dual:?}");
    }
    for (vip, own) in vips().into_iter().zip(["10.9.0.66/24", "2001:db8::66/64"]) {
        let planted = PlantedOwner::plant(&lan.lab, &lan.lan, own.parse().unwrap(), vip).unwrap();
        let mac = planted.port.mac();
        let since = Stamp::now();
        // Both answer a fresh question; which answer wins at the client does not matter here. The question is asked until it is a fresh one:
        // the owner's own look at its neighbour, right after the flush, teaches the client the VIP, and then nobody is asked.
        let answered = wait_for(SOON, "the planted owner's answer", || {
            lan.client.0.tool("ip", &["neigh", "flush", "dev", "eth0"]).unwrap();
            let _ = ask(&vip.to_string());
            let dual = sniffer.dual_frames(vip, owner, since, Stamp::now(), None);
            (!dual.claims.is_empty()).then_some(dual)
        });
        assert!(answered.unwrap().claims.iter().all(|f| f.src == mac));
        assert!(sniffer.first_announcement(vip, since, |m| m == mac).is_none(), "it has announced nothing yet");
        planted.announce().unwrap();
        let seen = wait_for(SOON, "its announcement", || sniffer.first_announcement(vip, since, |m| m == mac)).unwrap();
        assert!(seen.at >= since && seen.claims());
        assert_eq!(sniffer.announcers(vip, start).last().map(|(_, m)| *m), Some(mac));
    }
    assert_eq!(sniffer.lost(), 0);
}

#[test]
fn what_a_cut_node_says_is_seen_but_not_carried() {
    let lan = lan("uncarried");
    let sniffer = Sniffer::start(&[&lan.lan], &vips()).unwrap();
    let (netns, port, _) = &lan.nodes[0];
    let start = Stamp::now();
    let cut = port.cut(Direction::FromNode, Filter::All).unwrap();
    // The kernel of node 1 asks for a neighbour with the VIP as its own address: a frame that speaks for the VIP.
    let _ = netns.tool("ping", &["-c1", "-W1", "-I", VIP4, "10.9.0.2"]);
    let mac = port.mac();
    let said = || sniffer.frames(start, |f| f.src == mac && matches!(f.kind, Kind::ArpRequest { .. }));
    wait_for(SOON, "what the cut node says", || (!said().is_empty()).then_some(())).unwrap();
    assert!(sniffer.carried(start, |f| f.src == mac).is_empty());
    assert!(cut.heal().unwrap() > 0);
}

#[test]
fn loss_is_near_its_chance() {
    let lan = lan("loss");
    let loss = lan.nodes[0].1.lose(Direction::FromNode, Filter::All, 0.3).unwrap();
    let prober = UdpProber::start(&lan.client.0, vips()[0], PORT, ProbeOptions::default()).unwrap();
    prober.wait_answer(SOON, Stamp::now(), Some(1)).unwrap();
    let start = Stamp::now();
    sleep_until(start + Duration::from_secs(1));
    let end = Stamp::now();
    let (sent, lost) = prober.finish().lost(start, end);
    // 300 +- 14.5 of 1,000 expected: eight standard deviations either way.
    let share = f64::from(u32::try_from(lost).unwrap()) / f64::from(u32::try_from(sent).unwrap());
    assert!((0.18..0.42).contains(&share), "{lost} of {sent} lost");
    assert!(loss.heal().unwrap() > 100);
}

#[test]
fn two_lans_are_joined_parted_and_joined_again() {
    let lab = Lab::new("trunk").unwrap();
    let (west, east) = (
        lab.bridge("west", &BridgeOptions::default()).unwrap(),
        lab.bridge("east", &BridgeOptions::default()).unwrap(),
    );
    let trunk = west.join(&east).unwrap();
    let (a, _) = lab.host("a", &west, &["10.9.0.1/24".parse().unwrap()]).unwrap();
    let (_b, _) = lab.host("b", &east, &["10.9.0.2/24".parse().unwrap()]).unwrap();
    let ping = || a.tool("ping", &["-c1", "-W1", "10.9.0.2"]).is_ok();
    assert!(ping());
    let cut = trunk.near.cut(Direction::Both, Filter::All).unwrap();
    assert!(!ping());
    cut.heal().unwrap();
    assert!(ping());
}

#[test]
fn processes_are_stalled_frozen_stopped_and_killed() {
    let lab = Lab::new("process").unwrap();
    let netns = lab.netns("n1").unwrap();
    // A counter that is read from outside: it stands while its process stands.
    let script = "trap 'echo bye; exit 7' TERM; i=0; while :; do i=$((i+1)); echo $i; ls /run >/dev/null; done";
    let mut process = lab.process("counter", &netns, "bash").args(["-c", script]).private_run().spawn().unwrap();
    process.wait_for_line(SOON, "3").unwrap();
    let stands = |process: &bascule_lab::Process| {
        let size = process.log().len();
        sleep_until(Stamp::now() + Duration::from_millis(60));
        process.log().len() == size
    };
    assert!(!stands(&process));
    process.freeze(true).unwrap();
    assert!(stands(&process));
    process.freeze(false).unwrap();
    process.stop();
    assert!(wait_for(SOON, "SIGSTOP to take", || stands(&process).then_some(())).is_ok());
    process.cont();
    wait_for(SOON, "SIGCONT to take", || (!stands(&process)).then_some(())).unwrap();
    let stood = process.stall(Duration::from_millis(20));
    assert!(stood >= Duration::from_millis(20), "{stood:?}");
    process.sigterm().unwrap();
    assert_eq!(process.wait(SOON).unwrap().code(), Some(7));
    assert!(process.log().ends_with("bye\n"));
    let mut other = lab.process("sleeper", &netns, "sleep").args(["1000"]).spawn().unwrap();
    other.sigkill().unwrap();
    assert!(!other.alive() && other.pids().is_empty());
}

#[test]
fn guards_clean_up_when_a_test_panics() {
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    let unwound = std::thread::spawn(move || {
        let lan = lan("panic");
        let sleeper = lan.lab.process("sleeper", &lan.nodes[0].0, "sleep").args(["1000"]).spawn().unwrap();
        let _sniffer = Sniffer::start(&[&lan.lan], &[]).unwrap();
        let _cut = lan.nodes[0].1.cut(Direction::Both, Filter::All).unwrap();
        send.send((lan.lab.prefix().to_owned(), lan.lab.directory().to_owned(), sleeper.pid())).unwrap();
        panic!("planted");
    })
    .join();
    assert!(unwound.is_err());
    let (prefix, directory, pid) = receive.recv().unwrap();
    let names = tool(None, "ip", &["netns", "list"], None).unwrap();
    assert!(!names.contains(&prefix), "{names}");
    assert!(!directory.exists());
    assert!(nix::sys::signal::kill(pid, None).is_err(), "the process is alive");
}
