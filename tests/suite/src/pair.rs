//! Two sites of real daemons on the LAN of a [`Cluster`], `dc-a` and `dc-b`: most often nodes n1 (relay) and n2 are one, n3 (relay) is the
//! other; what clients connect to there, and what daemons show of it.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::sites::{page, secret_file};
use bascule_lab::{Netns, wait_for};
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// The VIP of both sites.
pub const VIP: &str = "10.9.7.100";
/// Long enough for the protocol's own waits (a relay listens for 3 s and learns for 10 s before it speaks, a share moves by a tenth a
/// second) on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// Until a site has its whole share whose path was down when its first word came, which a start of its only gateway may cause: 20 good
/// slots of the path (10 s), 10 s on probation, and a slow start of 60 s.
pub const WHOLE: Duration = Duration::from_secs(140);

/// What a client connects to (the service `shop`), and where its endpoints listen.
pub const SHOP: u16 = 7001;
/// Endpoints of [`SHOP`].
pub const SHELF: u16 = 7101;

/// The files that hold the keys of both sites.
///
/// # Errors
/// When one cannot be written.
pub fn secrets(dir: &Path) -> Result<()> {
    let key = "00112233445566778899aabbccddeeff";
    secret_file(&dir.join("forward.keys"), &format!("0:{key}\nflow:{key}{key}\n"))?;
    Ok(secret_file(&dir.join("pair.key"), &format!("{key}{key}\n"))?)
}

/// A server that gives its number to everybody, and everybody's bytes back, until the process ends.
///
/// # Errors
/// When its port is taken.
pub fn serve(netns: &Netns, number: u8) -> Result<()> {
    let listener = netns.run(|| TcpListener::bind(("0.0.0.0", SHELF)))?;
    let _ends_with_the_process = netns.spawn("shelf", move || {
        for stream in listener.incoming().flatten() {
            let _ends_with_its_client = std::thread::spawn(move || -> std::io::Result<()> {
                let (mut stream, mut byte) = (stream, [number]);
                // Whoever hangs up first is the test's matter.
                loop {
                    stream.write_all(&byte)?;
                    stream.read_exact(&mut byte)?;
                }
            });
        }
    });
    Ok(())
}

/// A connection to the VIP, and who answered it.
///
/// # Errors
/// When nobody did within the time in which TCP tries three times.
pub fn connect(client: &Netns) -> Result<(u8, TcpStream)> {
    client.run(knock)
}

/// The same from the namespace that the thread is in.
///
/// # Errors
/// Those of [`connect`].
pub fn knock() -> Result<(u8, TcpStream)> {
    let to = format!("{VIP}:{SHOP}").parse()?;
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut number = [0];
    stream.read_exact(&mut number)?;
    Ok((number[0], stream))
}

/// All of these connections live.
///
/// # Errors
/// With the first that does not.
pub fn live(held: &mut [(u8, TcpStream)]) -> Result<()> {
    for (number, stream) in held {
        let mut back = [0];
        let both = stream.write_all(&[77]).and_then(|()| stream.read_exact(&mut back));
        both.with_context(|| format!("a connection at endpoint {number}"))?;
        ensure!(back == [77], "endpoint {number} gave {back:?}");
    }
    Ok(())
}

/// Who answers `count` new connections to the VIP.
///
/// # Errors
/// With the first that nobody answers.
pub fn answers(client: &Netns, count: usize) -> Result<BTreeSet<u8>> {
    (0..count).map(|n| Ok(connect(client).with_context(|| format!("connection {n}"))?.0)).collect()
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Of `dc-b`, not of `dc-a`.
    pub far: bool,
    /// It is a relay of its site.
    pub relay: bool,
}

/// Nodes n1, n2, ... of both sites, of which each has a relay.
pub const PAIR: [Place; 3] =
    [Place { far: false, relay: true }, Place { far: false, relay: false }, Place { far: true, relay: true }];

/// The file of node `n` of [`PAIR`].
pub fn config(dir: &Path, n: usize) -> Value {
    file(dir, &PAIR, n)
}

/// The file of node `n` of these: half of the new connections of `web` (UDP) and `shop` (TCP) is each site's.
pub fn file(dir: &Path, places: &[Place], n: usize) -> Value {
    let of = |far: bool, relay: bool| -> Vec<usize> {
        (1..).zip(places).filter(|(_, p)| p.far == far && (p.relay || !relay)).map(|(n, _)| n).collect()
    };
    let gateway = |n: &usize| json!({ "name": format!("n{n}"), "id": n, "address": format!("10.9.0.{n}") });
    let relay = |n: &usize| json!({ "name": format!("n{n}"), "address": format!("10.9.0.{n}:7845") });
    let site = |far: bool| {
        json!({
            "id": 1 + u8::from(far), "prefixes": ["10.9.7.0/24"],
            "relays": of(far, true).iter().map(relay).collect::<Vec<_>>(),
            "gateways": of(far, false).iter().map(gateway).collect::<Vec<_>>(),
        })
    };
    let place = places[n - 1];
    let (here, other) = if place.far { ("dc-b", "dc-a") } else { ("dc-a", "dc-b") };
    let mut sites = json!({ "dc-a": site(false), "dc-b": site(true) });
    sites[other]["secretFile"] = json!(dir.join("pair.key"));
    let mut own = json!({ "name": here, "domain": "sites.test", "certificates": dir.join(format!("pki-n{n}")), "clock": dir.join(format!("clock-n{n}")) });
    if place.relay {
        own["relay"] = json!(format!("n{n}"));
        own["incarnation"] = json!(dir.join(format!("incarnation-n{n}")));
    }
    let nodes = of(place.far, false);
    let members: Vec<Value> = nodes
        .iter()
        .map(|n| json!({ "name": format!("n{n}"), "id": n, "addresses": [format!("10.9.0.{n}")] }))
        .collect();
    let endpoints: Vec<Value> = nodes
        .iter()
        .map(|n| json!({ "name": format!("e{n}"), "address": format!("10.9.0.{n}"), "port": 7100, "node": format!("n{n}") }))
        .collect();
    let shelves: Vec<Value> = endpoints
        .iter()
        .map(|endpoint| {
            let mut shelf = endpoint.clone();
            shelf["port"] = json!(SHELF);
            shelf
        })
        .collect();
    json!({
        "node": format!("n{n}"),
        // XDP on veth wants checksums that the lab's clients leave to their cards.
        "forwarding": { "nodes": members, "keyFile": dir.join("forward.keys"), "hook": "tc" },
        "site": own,
        "sites": sites,
        "services": [{
            "name": "web", "number": 7, "vip": VIP, "port": 7000, "protocol": "udp", "endpoints": endpoints,
            "sites": { "mode": "weighted", "each": { "dc-a": { "weight": 50 }, "dc-b": { "weight": 50 } } },
        }, {
            "name": "shop", "number": 8, "vip": VIP, "port": SHOP, "protocol": "tcp", "endpoints": shelves,
            "sites": { "mode": "weighted", "each": { "dc-a": { "weight": 50 }, "dc-b": { "weight": 50 } } },
        }],
    })
}

/// Waits until `/sites` of a node is as wanted; the last page is in the error.
///
/// # Errors
/// When it does not come to that within [`PATIENCE`].
pub fn wait_page(cluster: &mut Cluster, n: usize, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    wait_page_for(PATIENCE, cluster, n, what, wanted)
}

/// The same with another patience.
///
/// # Errors
/// When it does not come to that in time.
pub fn wait_page_for(
    patience: Duration,
    cluster: &mut Cluster,
    n: usize,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let daemon = cluster.daemon(n);
    let mut last = Value::Null;
    let found = wait_for(patience, what, || {
        last = page(daemon)?;
        wanted(&last).then(|| last.clone())
    });
    found.with_context(|| format!("n{n}: {last:#}"))
}

/// Waits until `bascule services` of a node says so; the last table is in the error.
///
/// # Errors
/// When it does not within [`PATIENCE`].
pub fn wait_services(cluster: &mut Cluster, n: usize, wanted: &str) -> Result<String> {
    let daemon = cluster.daemon(n);
    let mut last = String::new();
    let found = wait_for(PATIENCE, wanted, || {
        last = daemon.ctl(&["services"]).ok()?;
        last.contains(wanted).then(|| last.clone())
    });
    found.with_context(|| format!("n{n}: {last}"))
}
