//! Our adverts as a real keepalived 2.2 reads them, and its adverts as we read them, without the daemon in between.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, ensure};
use bascule::net::raw::VrrpSocket;
use bascule_core::types::{Centis, Family, LinkId};
use bascule_core::wire::vrrp::{Advert, GROUP_V4, GROUP_V6};
use bascule_lab::keepalived::{Keepalived, KeepalivedConfig};
use bascule_lab::{Bridge, BridgeOptions, Lab, Netns, Stamp, sleep_until, wait_for};
use bascule_suite::cluster::{SOON, VIP, VIP6};

const VRID: u8 = 51;
/// Words of keepalived 2.2 about an advert that it does not accept (vrrp.c, `vrrp_check_packet` and `vrrp_in_chk`).
const COMPLAINTS: [&str; 7] = ["checksum", "bogus", "nvalid", "mismatch", "ignoring", "does not match", "not expected"];

/// Address list of the IPv6 virtual router: the link-local that Bascule derives from the VRID comes first.
fn link_local() -> IpAddr {
    IpAddr::from([0xfe80, 0, 0, 0, 0x0200, 0x5eff, 0xfe00, 0x0200 | u16::from(VRID)])
}

fn complaints(log: &str) -> Vec<&str> {
    log.lines().filter(|l| COMPLAINTS.iter().any(|c| l.contains(c))).collect()
}

/// What was heard: destination, TTL and the message as parsed.
type Heard = (IpAddr, IpAddr, u8, Result<Advert, String>);

/// A sender of adverts in a node's namespace that also listens.
struct Talker {
    priority: Arc<AtomicU8>,
    corrupt: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
    heard: Arc<Mutex<Vec<Heard>>>,
    thread: Option<JoinHandle<()>>,
}

/// No adverts are sent with this priority: 255 belongs to an address owner, which no node here is.
const SILENT: u8 = 255;

impl Talker {
    fn start(netns: &Netns, priority: u8, interval: Duration) -> Result<Self> {
        let mut talker = Self {
            priority: Arc::new(AtomicU8::new(priority)),
            corrupt: Arc::default(),
            end: Arc::default(),
            heard: Arc::default(),
            thread: None,
        };
        let link = LinkId(netns.ifindex("eth0")?);
        let own: Vec<IpAddr> = netns.addresses("eth0")?.iter().map(ipnet::IpNet::addr).collect();
        let v6 = own.iter().copied().find(|a| matches!(a, IpAddr::V6(a) if a.is_unicast_link_local()));
        let (Some(v4), Some(v6)) = (own.iter().copied().find(IpAddr::is_ipv4), v6) else {
            anyhow::bail!("a node has an IPv4 and a link-local address: {own:?}")
        };
        let (priority, corrupt) = (Arc::clone(&talker.priority), Arc::clone(&talker.corrupt));
        let (end, heard) = (Arc::clone(&talker.end), Arc::clone(&talker.heard));
        let thread = netns.spawn("talker", move || {
            let sockets = [Family::V4, Family::V6].map(|f| VrrpSocket::open(f).expect("root may open raw sockets"));
            sockets.iter().for_each(|s| s.join(link).expect("the link is there"));
            let centis = u16::try_from(interval.as_millis() / 10).ok().and_then(Centis::new).expect("in range");
            let mut next = Stamp::now();
            while !end.load(Ordering::Relaxed) {
                let priority = priority.load(Ordering::Relaxed);
                for (socket, src, dst, addresses) in [
                    (&sockets[0], v4, IpAddr::V4(GROUP_V4), vec![VIP]),
                    (&sockets[1], v6, IpAddr::V6(GROUP_V6), vec![link_local(), VIP6]),
                ] {
                    if priority != SILENT {
                        let mut bytes = Advert { vrid: VRID, priority, interval: centis, addresses }.encode(src, dst);
                        if corrupt.load(Ordering::Relaxed) {
                            bytes[6] ^= 1;
                        }
                        socket.send(link, src, dst, &bytes).expect("the link is up");
                    }
                    let mut buffer = [0; 2048];
                    while let Some(d) = socket.recv(&mut buffer).expect("the socket is open") {
                        let parsed = Advert::parse(&buffer[d.payload], d.src, d.dst).map_err(|e| e.to_string());
                        heard.lock().unwrap_or_else(PoisonError::into_inner).push((d.src, d.dst, d.ttl, parsed));
                    }
                }
                next = next + interval;
                sleep_until(next);
            }
        });
        talker.thread = Some(thread);
        Ok(talker)
    }

    fn say(&self, priority: u8) -> Stamp {
        self.priority.store(priority, Ordering::Relaxed);
        Stamp::now()
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Scene {
    talker: Talker,
    keepalived: Keepalived,
    /// Kept: a dropped switch or namespace is gone.
    _kept: (Netns, Bridge, Lab),
}

/// The talker at priority 200 on n1, keepalived at priority 100 on n2.
fn scene(name: &str, interval: Duration) -> Result<Scene> {
    let lab = Lab::new(name)?;
    let lan = lab.bridge("lan", &BridgeOptions::default())?;
    let (n1, _) = lab.host("n1", &lan, &["10.9.0.1/24".parse()?, "fd09::1/64".parse()?])?;
    let (n2, _) = lab.host("n2", &lan, &["10.9.0.2/24".parse()?, "fd09::2/64".parse()?])?;
    let talker = Talker::start(&n1, 200, interval)?;
    let config = KeepalivedConfig {
        interface: "eth0".into(),
        vrid: VRID,
        priority: 100,
        advert_interval: interval,
        vips: vec![VIP, link_local(), VIP6],
        rt_priority: None,
        preempt: false,
    };
    let mut keepalived = Keepalived::start(&lab, &n2, &config)?;
    keepalived.wait_state(SOON, "v4", "BACKUP")?;
    keepalived.wait_state(SOON, "v6", "BACKUP")?;
    Ok(Scene { talker, keepalived, _kept: (n2, lan, lab) })
}

fn masters(log: &str) -> usize {
    log.lines().filter(|l| l.contains("Entering MASTER STATE")).count()
}

#[test]
fn keepalived_stays_backup_by_our_adverts_and_we_read_its_own() -> Result<()> {
    let mut scene = scene("wire", Duration::from_millis(100))?;
    sleep_until(Stamp::now() + Duration::from_secs(3));
    let log = scene.keepalived.process.log();
    ensure!(masters(&log) == 0, "30 of our adverts, and it took over:\n{log}");
    ensure!(complaints(&log).is_empty(), "{:?}", complaints(&log));
    ensure!(scene.talker.heard().is_empty(), "a Backup is silent: {:?}", scene.talker.heard());

    let silent = scene.talker.say(SILENT);
    scene.keepalived.wait_state(SOON, "v4", "MASTER")?;
    scene.keepalived.wait_state(SOON, "v6", "MASTER")?;
    println!("it takes over {:?} after our last advert (300 to 361 ms by the RFC)", Stamp::now().since(silent));
    wait_for(SOON, "adverts of both families", || (scene.talker.heard().len() >= 8).then_some(()))?;
    for (src, dst, ttl, advert) in scene.talker.heard() {
        let Ok(advert) = advert else { anyhow::bail!("from {src}: {advert:?}") };
        ensure!(
            (ttl, advert.vrid, advert.priority, advert.interval.get()) == (255, VRID, 100, 10),
            "{src}: {advert:?}"
        );
        let (group, addresses) = match src {
            IpAddr::V4(_) => (IpAddr::V4(GROUP_V4), vec![VIP]),
            IpAddr::V6(_) => (IpAddr::V6(GROUP_V6), vec![link_local(), VIP6]),
        };
        ensure!((dst, &advert.addresses) == (group, &addresses), "{src} to {dst}: {advert:?}");
    }
    let families = |v6: bool| scene.talker.heard().iter().filter(|h| h.0.is_ipv6() == v6).count();
    ensure!(families(false) >= 3 && families(true) >= 3, "{} IPv4, {} IPv6", families(false), families(true));

    // And back: a higher priority is obeyed in both families.
    scene.talker.say(200);
    let backup = |log: &str, f: &str| log.matches(&format!("({f}) Entering BACKUP STATE")).count() >= 2;
    let log = || scene.keepalived.process.log();
    wait_for(SOON, "keepalived to follow us again", || (backup(&log(), "v4") && backup(&log(), "v6")).then_some(()))?;
    ensure!(complaints(&log()).is_empty(), "{:?}", complaints(&log()));
    Ok(())
}

#[test]
fn a_broken_checksum_is_what_keepalived_complains_of() -> Result<()> {
    let scene = scene("bad", Duration::from_millis(100))?;
    scene.talker.corrupt.store(true, Ordering::Relaxed);
    let complained = || complaints(&scene.keepalived.process.log()).iter().any(|l| l.contains("checksum"));
    wait_for(SOON, "a complaint: the other tests look for its absence", || complained().then_some(()))?;
    wait_for(SOON, "keepalived to take over", || (masters(&scene.keepalived.process.log()) == 2).then_some(()))?;
    Ok(())
}

#[test]
fn priority_0_is_understood_both_ways() -> Result<()> {
    let mut scene = scene("zero", Duration::from_secs(1))?;
    sleep_until(Stamp::now() + Duration::from_secs(2));
    let said = scene.talker.say(0);
    wait_for(SOON, "our release to leave", || (masters(&scene.keepalived.process.log()) > 0).then_some(()))?;
    scene.talker.say(SILENT);
    scene.keepalived.wait_state(SOON, "v6", "MASTER")?;
    let took = Stamp::now().since(said);
    // At most one interval until the release is sent, then the skew: 609 ms. Without it: 3609 ms.
    ensure!(took < Duration::from_millis(2600), "{took:?}");
    println!("it takes over {took:?} after the order to release");

    let before = scene.talker.heard().len();
    scene.keepalived.process.sigterm()?;
    scene.keepalived.process.wait(SOON)?;
    let released = |v6: bool| {
        let heard = scene.talker.heard();
        heard[before..].iter().any(|h| h.0.is_ipv6() == v6 && h.3.as_ref().is_ok_and(|a| a.priority == 0))
    };
    wait_for(SOON, "its release in both families", || (released(false) && released(true)).then_some(()))?;
    Ok(())
}
