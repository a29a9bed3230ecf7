//! The running BGP room among neighbors that misbehave: one floods, one never reads, one never speaks, one resets every connection, one
//! sends noise. A well-behaved one beside them must not notice, the daemon must not grow, and nobody is dialled without a pause.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bascule_bgp::wire::{DecodeContext, Family as Afi, FamilySet, Update};
use bascule_lab::bascule::Bascule;
use bascule_lab::router::scripted::{Identity, NOTIFICATION, ScriptedPeer, ScriptedSession, UPDATE};
use bascule_lab::router::{Family, Routed, host};
use bascule_lab::{Lab, Stamp, sleep_until, wait_for};
use bascule_suite::cluster::SOON;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::{Value, json};

const OWN: u32 = 65010;
const ROUTER: u32 = 65001;
/// VIPs of so many addresses ...
const TABLES: u16 = 8;
/// ... each, the most that a list may have: with 17 octets each more than a deaf neighbor's window and the daemon's own buffer hold.
const TABLE: u16 = 250;
/// Hold time of the well-behaved neighbor (s): the shortest there is, so that it ends if a keepalive is late.
const HOLD: u16 = 3;
/// How long all of them go on at once: longer than that hold time.
const SIEGE: Duration = Duration::from_secs(4);
/// What the daemon may grow by meanwhile: a read budget per connection and the table, and by far not the flood.
const GROWTH_KB: usize = 16 << 10;

const NAMES: [&str; 6] = ["good", "flood", "deaf", "silent", "reset", "noise"];

fn config(addresses: &BTreeMap<IpAddr, usize>, more: bool) -> Value {
    let neighbor = |(address, number): (&IpAddr, &usize)| {
        json!({
            "name": NAMES[*number], "address": address, "remoteAs": ROUTER, "families": ["ipv4", "ipv6"],
            "nextHop6": "fd09::1", "connectRetry": "1s",
        })
    };
    let table =
        |t: u16| -> Vec<IpAddr> { (1..=TABLE).map(|n| IpAddr::from([0xfd09, 0, 0, 0, 0, 0, t + 1, n])).collect() };
    let vip = |t| json!({ "name": format!("table{t}"), "addresses": table(t), "announce": "bgp", "scope": "all" });
    let mut vips: Vec<Value> = (0..TABLES).map(vip).collect();
    if more {
        vips.push(json!({ "name": "web", "addresses": [web()], "announce": "bgp", "scope": "all" }));
    }
    json!({
        "node": "n1", "fence": "off",
        "bgp": {
            "asn": OWN, "routerId": "10.0.0.1", "neighbors": addresses.iter().map(neighbor).collect::<Vec<_>>(),
        },
        "vips": vips,
    })
}

fn web() -> IpAddr {
    [10, 9, 0, 80].into()
}

/// What the threads share.
#[derive(Default)]
struct Siege {
    over: AtomicBool,
    accepted: [AtomicUsize; NAMES.len()],
    flooded: AtomicUsize,
    notified: AtomicUsize,
    /// Prefixes that the well-behaved one holds, and when it was told of each.
    held: Mutex<BTreeMap<ipnet::IpNet, Stamp>>,
}

impl Siege {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn accepted(&self, name: &str) -> usize {
        let number = NAMES.iter().position(|n| *n == name).expect("one of them");
        self.accepted[number].load(Ordering::Relaxed)
    }

    fn held(&self, prefix: ipnet::IpNet) -> Option<Stamp> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).get(&prefix).copied()
    }
}

fn identity(number: usize, hold_time: u16) -> Identity {
    let last = u8::try_from(number).expect("six");
    Identity { asn: ROUTER, id: Ipv4Addr::new(10, 0, 1, last + 1), four_octet: true, hold_time }
}

/// Gives each connection to the neighbor that was dialled.
fn doorman(
    peer: &ScriptedPeer,
    by_address: &BTreeMap<IpAddr, usize>,
    doors: &[Sender<ScriptedSession>],
    siege: &Siege,
) {
    while siege.goes_on() {
        let Ok((address, session)) = peer.accept(Duration::from_millis(100)) else { continue };
        let Some(number) = by_address.get(&address) else { continue };
        siege.accepted[*number].fetch_add(1, Ordering::Relaxed);
        // A neighbor that has ended takes no more.
        let _ = doors[*number].send(session);
    }
}

/// Establishes its first connection.
fn established(door: &Receiver<ScriptedSession>, number: usize, hold: u16) -> Result<ScriptedSession> {
    let mut session = door.recv_timeout(SOON).with_context(|| format!("{} was not dialled", NAMES[number]))?;
    session.establish(identity(number, hold), SOON).with_context(|| NAMES[number])?;
    Ok(session)
}

/// Answers keepalives with its own, and notes what it is told.
fn behave(door: &Receiver<ScriptedSession>, siege: &Siege) -> Result<()> {
    let families: FamilySet = Afi::ALL.into_iter().collect();
    let context = DecodeContext { four_octet_as: true, families, ..DecodeContext::default() };
    let mut session = established(door, 0, HOLD)?;
    let third = Duration::from_secs(u64::from(HOLD)) / 3;
    let (mut heard_at, mut said_at) = (Stamp::now(), Stamp::now());
    while siege.goes_on() {
        if Stamp::now().since(said_at) >= third {
            session.keepalive()?;
            said_at = Stamp::now();
        }
        match session.read(Duration::from_millis(50)) {
            Ok(None) => bail!("the daemon closed the session"),
            Ok(Some(heard)) => {
                ensure!(heard.kind != NOTIFICATION, "the daemon says {:02x?}", heard.body);
                heard_at = Stamp::now();
                if heard.kind == UPDATE {
                    let update = Update::decode(&heard.body, &context);
                    ensure!(update.errors.is_empty(), "{:?}", update.errors);
                    let mut held = siege.held.lock().unwrap_or_else(PoisonError::into_inner);
                    held.retain(|prefix, _| !update.withdrawn().any(|gone| gone == *prefix));
                    held.extend(update.announced().map(|prefix| (prefix, heard_at)));
                }
            }
            Err(_) => {
                let silence = Stamp::now().since(heard_at);
                ensure!(silence < third * 3, "the daemon was silent for {silence:?}");
            }
        }
    }
    Ok(())
}

/// 800 prefixes in an UPDATE, over and over, as fast as they are taken.
fn flood(door: &Receiver<ScriptedSession>, siege: &Siege) -> Result<()> {
    let mut session = established(door, 1, 0)?;
    // ORIGIN IGP, AS_PATH of one four-octet AS, NEXT_HOP (RFC 4271 5.1).
    let [a, b, c, d] = ROUTER.to_be_bytes();
    let attributes = [&[0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, a, b, c, d][..], &[0x40, 3, 4, 10, 20, 17, 17]].concat();
    let mut burst = Vec::new();
    for third in 0..16_u8 {
        let prefixes: Vec<u8> = (0..800_u16)
            .flat_map(|n| {
                let [high, low] = n.to_be_bytes();
                [32, 100, third, high, low]
            })
            .collect();
        let body = [&[0, 0][..], &u16::try_from(attributes.len())?.to_be_bytes(), &attributes, &prefixes].concat();
        burst.extend([0xff; 16]);
        burst.extend(u16::try_from(19 + body.len())?.to_be_bytes());
        burst.push(UPDATE);
        burst.extend(body);
    }
    while siege.goes_on() {
        session.send(&burst)?;
        siege.flooded.fetch_add(burst.len(), Ordering::Relaxed);
    }
    Ok(())
}

/// Shuts its window and asks for the table again and again.
fn deaf(door: &Receiver<ScriptedSession>, siege: &Siege) -> Result<()> {
    let mut session = established(door, 2, 0)?;
    while siege.goes_on() {
        session.ask_refresh()?;
        sleep_until(Stamp::now() + Duration::from_millis(20));
    }
    Ok(())
}

/// Takes the connection and never says a word.
fn silent(door: &Receiver<ScriptedSession>, siege: &Siege) -> Result<()> {
    let _kept = door.recv_timeout(SOON).context("silent was not dialled")?;
    while siege.goes_on() {
        sleep_until(Stamp::now() + Duration::from_millis(50));
    }
    Ok(())
}

/// Every connection ends with a RST before the OPEN is read.
fn reset(door: &Receiver<ScriptedSession>, siege: &Siege) -> Result<()> {
    while siege.goes_on() {
        if let Ok(session) = door.recv_timeout(Duration::from_millis(100)) {
            let now = libc::linger { l_onoff: 1, l_linger: 0 };
            setsockopt(session.stream(), sockopt::Linger, &now)?;
        }
    }
    Ok(())
}

/// Comes up, then sends what is no message.
fn noise(door: &Receiver<ScriptedSession>, siege: &Siege) -> Result<()> {
    while siege.goes_on() {
        let Ok(mut session) = door.recv_timeout(Duration::from_millis(100)) else { continue };
        session.establish(identity(5, 0), SOON)?;
        session.send(&[0x5a; 64])?;
        loop {
            match session.hear(SOON)? {
                Some(heard) if heard.kind == UPDATE => {}
                // Message Header Error, Connection Not Synchronized (RFC 4271 6.1).
                Some(heard) => {
                    ensure!(heard.kind == NOTIFICATION && heard.body.starts_with(&[1, 1]), "{heard:02x?}");
                    siege.notified.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                None => bail!("closed without a NOTIFICATION"),
            }
        }
    }
    Ok(())
}

fn resident_kb(daemon: &Bascule) -> Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.process.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn neighbor(daemon: &Bascule, name: &str) -> Result<Value> {
    let page: Value = serde_json::from_str(&daemon.get("/bgp")?.1)?;
    let all = page["neighbors"].as_array().context("neighbors")?;
    all.iter().find(|n| n["name"] == name).cloned().with_context(|| format!("{name} in {page}"))
}

/// What holds while all of them are at it.
fn observe(daemon: &Bascule, addresses: &BTreeMap<IpAddr, usize>, siege: &Siege) -> Result<()> {
    let state = |name: &str| neighbor(daemon, name).map(|n| n["state"].clone()).unwrap_or_default();
    let up = |name: &str| wait_for(SOON, &format!("{name} to be up"), || (state(name) == "established").then_some(()));
    ["good", "flood", "deaf"].into_iter().try_for_each(up)?;
    let table = usize::from(TABLE * TABLES);
    wait_for(SOON, "the table at the good one", || {
        let held = siege.held.lock().unwrap_or_else(PoisonError::into_inner);
        (held.len() == table).then_some(())
    })?;
    let before = resident_kb(daemon)?;
    let end = Stamp::now() + SIEGE;
    let dials = ["silent", "reset", "noise"].map(|name| siege.accepted(name));
    daemon.rewrite(&config(addresses, true))?;
    let asked = Stamp::now();
    let told = wait_for(SOON, "the new VIP at the good one", || siege.held(host(web())))?;
    println!("a new VIP: {:?} from the file to the good neighbor", told.since(asked));
    sleep_until(end);

    let after = resident_kb(daemon)?;
    let flooded = siege.flooded.load(Ordering::Relaxed);
    println!("{before} kB before, {after} kB after {} kB of flood", flooded >> 10);
    ensure!(after < before + GROWTH_KB, "it grew from {before} to {after} kB");
    ensure!(flooded >> 10 > GROWTH_KB, "only {flooded} octets of flood: that shows nothing");
    let good = neighbor(daemon, "good")?;
    ensure!(good["state"] == "established" && good["queue_depth"] == 0, "{good}");
    let deaf = neighbor(daemon, "deaf")?;
    ensure!(deaf["state"] == "established" && deaf["queue_depth"].as_u64() > Some(0), "it reads after all: {deaf}");
    ensure!(state("silent") == "opensent", "{}", state("silent"));
    // Dialled once a second, less the jitter of a quarter, at most; a refused one more and more rarely.
    let most = usize::try_from(SIEGE.as_millis() / 750)? + 2;
    for (name, earlier) in ["silent", "reset", "noise"].into_iter().zip(dials) {
        let dialled = siege.accepted(name) - earlier;
        println!("{name}: dialled {dialled} times in {SIEGE:?}");
        ensure!(dialled <= most, "{name} was dialled {dialled} times in {SIEGE:?}");
    }
    ensure!(siege.accepted("silent") == 1 && siege.accepted("reset") > 1, "dials");
    ensure!(siege.accepted("good") == 1, "the good one was dialled again");
    ensure!(siege.notified.load(Ordering::Relaxed) > 0, "noise was never refused");
    Ok(())
}

#[test]
fn a_good_neighbor_does_not_notice_five_hostile_ones() -> Result<()> {
    let lab = Lab::new("hostile")?;
    let net = Routed::build(&lab, 1, 1)?;
    let IpAddr::V4(first) = net.link(0, 0).router_address(Family::Ipv4) else { bail!("an IPv4 address") };
    let mut by_address = BTreeMap::new();
    for number in 0..NAMES.len() {
        // From .16 on: .1 and .2 are the link's own.
        let address = Ipv4Addr::from(u32::from(first) + 15 + u32::try_from(number)?);
        net.routers[0].add_address(&net.link(0, 0).router_device, ipnet::IpNet::new(address.into(), 24)?)?;
        by_address.insert(IpAddr::V4(address), number);
    }
    let peer = ScriptedPeer::listen(&net.routers[0])?;
    // Before the first connection, or its window is open already: the kernel's least.
    setsockopt(peer.socket(), sockopt::RcvBuf, &2304)?;
    let daemon = Bascule::start(&lab, &net.nodes[0], &config(&by_address, false))?;
    let (doors, rooms): (Vec<_>, Vec<_>) = NAMES.iter().map(|_| channel()).unzip();
    let siege = Siege::default();
    let scripts = [behave, flood, deaf, silent, reset, noise];
    std::thread::scope(|scope| {
        let (siege, peer, by_address) = (&siege, &peer, &by_address);
        scope.spawn(move || doorman(peer, by_address, &doors, siege));
        let players: Vec<_> = scripts
            .into_iter()
            .zip(rooms)
            .map(|(script, room)| {
                scope.spawn(move || {
                    let outcome = script(&room, siege);
                    // What ends with the siege is the daemon's stop.
                    if siege.goes_on() { outcome } else { Ok(()) }
                })
            })
            .collect();
        let seen = observe(&daemon, by_address, siege);
        siege.over.store(true, Ordering::Relaxed);
        // The flood may be stuck in a full socket: the daemon's end frees it.
        daemon.process.sigterm()?;
        let mut outcomes = vec![seen];
        for player in players {
            outcomes.push(player.join().map_err(|_| anyhow::anyhow!("a neighbor panicked")).flatten());
        }
        outcomes.into_iter().collect::<Result<()>>().with_context(|| daemon.process.tail())
    })
}
