//! The fence on real links, with the kernel's own ARP, NDP and IP behind it: tcx and clsact alike.
//!
//! The node holds the VIP as an address all the time, as a hung owner would: whatever is silent is silent by the fence.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use bascule::dataplane::{Attach, AttachKind, Family, Fence, FenceOptions, clean};
use bascule_ebpf_common::{DropReason, FLAG_NO_ACCEPT, ShardCtl};
use bascule_lab::wait_for;
use bascule_suite::fence::frames::{CLIENT_MAC, advert, arp, ipv4, solicitation, tagged};
use bascule_suite::fence::{Ground, Netns, Wire, boot_ns};

const MS: u64 = 1_000_000;
const HOUR: u64 = 3_600_000 * MS;
const SLOT: u32 = 3;
const VRID: u8 = 51;
const NODE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 50);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x50);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);
/// An answer that takes longer is none. The kernel answers in microseconds; the machine may stall.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long anything may take that must happen, on a busy machine.
const SOON: Duration = Duration::from_secs(15);
/// For silence: long enough for any answer in flight, short enough to ask often.
const SHORT: Duration = Duration::from_millis(40);

/// A node with two NICs, va and wa, each on a LAN with the client.
struct Lan {
    client: Netns,
    va: u32,
    wa: u32,
    lan: Wire,
    lan2: Wire,
}

impl Lan {
    fn build(ground: &Ground) -> Result<Self> {
        let client = Netns::new()?;
        let there = client.path();
        for (node, peer) in [("va", "vb"), ("wa", "wb")] {
            ground.ip(&format!("link add {node} type veth peer name {peer}"))?;
            ground.ip(&format!("link set {peer} netns {there}"))?;
            ground.ip(&format!("link set {node} up"))?;
        }
        ground.ip(&format!("addr add {NODE}/24 dev va"))?;
        ground.ip("addr add 2001:db8::1/64 dev va nodad")?;
        ground.ip("addr add 10.10.0.1/24 dev wa")?;
        ground.ip(&format!("addr add {VIP}/32 dev va"))?;
        ground.ip(&format!("addr add {VIP6}/128 dev va nodad"))?;
        let (lan, lan2) = client.inside(|| {
            ground.ip("link set lo up")?;
            ground.ip("link set vb address 02:00:00:00:00:c1 up")?;
            ground.ip("link set wb up")?;
            ground.ip(&format!("addr add {CLIENT}/24 dev vb"))?;
            ground.ip(&format!("addr add {CLIENT6}/64 dev vb nodad"))?;
            Ok((Wire::open(ground.ifindex("vb")?)?, Wire::open(ground.ifindex("wb")?)?))
        })?;
        ground.wait_up(&["va", "wa"])?;
        client.inside(|| ground.wait_up(&["vb", "wb"]))?;
        Ok(Self { va: ground.ifindex("va")?, wa: ground.ifindex("wa")?, client, lan, lan2 })
    }

    fn fenced(&self, ground: &Ground, how: Attach) -> Result<Fence> {
        let mut fence = ground.fence()?;
        let kind = fence.attach(self.va, how)?;
        assert_eq!(kind == AttachKind::Tcx, how == Attach::Tcx);
        fence.attach(self.wa, how)?;
        fence.register(SLOT, self.va, &[VIP.into(), VIP6.into()], &[(Family::V4, VRID)])?;
        Ok(fence)
    }

    /// Does somebody on this LAN answer an ARP request for the VIP?
    fn arp_answered(wire: &Wire, patience: Duration) -> Result<bool> {
        wire.drain();
        wire.send(&arp(CLIENT_MAC, 1, CLIENT, VIP))?;
        Ok(wire
            .wait_for(patience, |f| f.len() >= 42 && f[12..14] == [8, 6] && f[21] == 2 && f[28..32] == VIP.octets())?
            .is_some())
    }

    /// Does somebody answer a neighbour solicitation for the IPv6 VIP?
    fn ndp_answered(&self, patience: Duration) -> Result<bool> {
        self.lan.drain();
        self.lan.send(&solicitation(CLIENT_MAC, CLIENT6, VIP6))?;
        let answer =
            |f: &[u8]| f.len() >= 78 && f[12..14] == [0x86, 0xdd] && f[54] == 136 && f[62..78] == VIP6.octets();
        Ok(self.lan.wait_for(patience, answer)?.is_some())
    }

    fn answered(&self) -> Result<(bool, bool)> {
        Ok((Self::arp_answered(&self.lan, PATIENCE)?, self.ndp_answered(PATIENCE)?))
    }

    fn silent(&self) -> Result<bool> {
        Ok(!Self::arp_answered(&self.lan, SHORT)? && !self.ndp_answered(SHORT)?)
    }
}

fn open_for(ns: u64) -> ShardCtl {
    ShardCtl { role: 1, term: 1, deadline_ns: boot_ns() + ns, interval_ns: 100 * MS, ..ShardCtl::default() }
}

fn each_kind(body: fn(&Ground, Attach) -> Result<()>) {
    for how in [Attach::Tcx, Attach::Clsact] {
        println!("{how:?}");
        Ground::run(move |ground| body(ground, how)).expect("the scene plays");
    }
}

#[test]
fn answers_while_open_and_is_silent_from_the_deadline_on() {
    each_kind(|ground, how| {
        let lan = Lan::build(ground)?;
        assert_eq!(lan.answered()?, (true, true), "without the fence the kernel answers");
        let mut fence = lan.fenced(ground, how)?;
        assert!(lan.silent()?, "a fence starts closed");

        fence.write(SLOT, &open_for(HOUR))?;
        assert_eq!(lan.answered()?, (true, true));
        let ctl = open_for(300 * MS);
        fence.write(SLOT, &ctl)?;
        // From here on nobody writes. Asked again and again, across the deadline.
        let (mut answered, mut refused) = (0, 0);
        while refused < 10 {
            let asked = boot_ns();
            let answer = Lan::arp_answered(&lan.lan, SHORT)?;
            assert!(!(answer && asked >= ctl.deadline_ns), "answered {} ns late", asked - ctl.deadline_ns);
            answered += u32::from(answer);
            refused += u32::from(!answer && asked >= ctl.deadline_ns);
        }
        println!("{answered} answers before the deadline, none after");
        assert!(lan.silent()?);
        let counters = fence.counters()?;
        assert!(counters.drops(DropReason::IngressAnswer) >= 12, "{counters:?}");
        Ok(())
    });
}

/// Without the guard the node would answer from then on, whoever owns.
#[test]
fn a_fence_that_was_taken_off_stands_again_after_a_look_of_the_guard() {
    each_kind(|ground, how| {
        let lan = Lan::build(ground)?;
        let mut fence = lan.fenced(ground, how)?;
        let mut guard = fence.guard()?;
        assert!(guard.look().found.is_empty() && lan.silent()?, "nothing is missing");
        match how {
            // Takes the filters of all with it.
            Attach::Clsact => drop(ground.tc("qdisc del dev va clsact")?),
            Attach::Tcx | Attach::Auto => {
                for place in ["ingress", "egress"] {
                    std::fs::remove_file(fence.pin_dir().join(format!("link-{}-{place}", lan.va)))?;
                }
            }
        }
        // The kernel takes links without pins down a moment later.
        wait_for(SOON, "the kernel to answer", || matches!(lan.answered(), Ok((true, true))).then_some(()))?;
        let found = guard.look().found;
        assert!(matches!(&found[..], [one] if one.healed.is_ok() && one.missing == ["egress", "ingress"]), "{found:?}");
        assert!(lan.silent()?, "closed as before");
        fence.write(SLOT, &open_for(HOUR))?;
        assert_eq!(lan.answered()?, (true, true), "by the maps that were there");
        assert!(guard.look().found.is_empty());
        Ok(())
    });
}

#[test]
fn adverts_that_leave_keep_it_open_and_closing_follows_the_last_one() {
    each_kind(|ground, how| {
        let lan = Lan::build(ground)?;
        let mut fence = lan.fenced(ground, how)?;
        let out = Wire::open(lan.va)?;
        let frame = ipv4(NODE, Ipv4Addr::new(224, 0, 0, 18), 112, &advert(VRID, 200, 50));
        let ctl = ShardCtl { interval_ns: 500 * MS, ..open_for(1_000 * MS) };
        fence.write(SLOT, &ctl)?;
        out.send(&frame)?;
        while boot_ns() < ctl.deadline_ns + 200 * MS {
            assert!(Lan::arp_answered(&lan.lan, PATIENCE)?, "open by the adverts alone");
            out.send(&frame)?;
        }
        let (_, kernel) = fence.read(SLOT)?;
        assert!(kernel.adverts > 3 && kernel.deadline_ns > ctl.deadline_ns, "{kernel:?}");
        while boot_ns() < kernel.deadline_ns {
            let _ = Lan::arp_answered(&lan.lan, SHORT)?;
        }
        assert!(lan.silent()?);
        out.send(&frame)?;
        assert!(lan.silent()?, "an advert after the deadline opens nothing");
        assert!(lan.lan.wait_for(SHORT, |f| f[12..14] == [8, 0] && f[23] == 112)?.is_none(), "and does not leave");
        assert_eq!(fence.counters()?.drops(DropReason::AdvertExpired), 1);
        Ok(())
    });
}

#[test]
fn ip_frames_are_served_only_while_deliver_is_open() {
    each_kind(|ground, how| {
        let lan = Lan::build(ground)?;
        let server = UdpSocket::bind((VIP, 7))?;
        server.set_read_timeout(Some(PATIENCE))?;
        let client = lan.client.inside(|| Ok(UdpSocket::bind((CLIENT, 0))?))?;
        client.set_read_timeout(Some(PATIENCE))?;
        let mut fence = lan.fenced(ground, how)?;
        let mut buffer = [0; 16];
        // The way in and the way out are two rules: the server's own reply is tried even when nothing came in.
        let mut serve = || -> Result<(bool, bool)> {
            client.send_to(b"in", (VIP, 7))?;
            let arrived = server.recv(&mut buffer).is_ok();
            let _refused = server.send_to(b"out", client.local_addr()?);
            Ok((arrived, client.recv(&mut buffer).is_ok()))
        };
        fence.write(SLOT, &open_for(HOUR))?;
        assert_eq!(serve()?, (true, true));
        for ctl in [
            ShardCtl { term: 1, ..ShardCtl::default() },
            ShardCtl { flags: FLAG_NO_ACCEPT, ..open_for(HOUR) },
            ShardCtl { role: 2, deliver_until_ns: boot_ns() - 1, ..open_for(HOUR) },
            ShardCtl { deadline_ns: boot_ns() - 1, ..open_for(0) },
        ] {
            fence.write(SLOT, &ctl)?;
            assert_eq!(serve()?, (false, false), "{ctl:?}");
        }
        // Draining: neighbours are known, frames that still arrive are served, nobody new is answered.
        fence.write(SLOT, &ShardCtl { role: 2, deliver_until_ns: boot_ns() + HOUR, ..open_for(0) })?;
        assert_eq!(serve()?, (true, true));
        assert!(lan.silent()?);
        Ok(())
    });
}

#[test]
fn the_second_nic_never_answers() {
    each_kind(|ground, how| {
        let lan = Lan::build(ground)?;
        assert!(Lan::arp_answered(&lan.lan2, PATIENCE)?, "the kernel answers on any link: that is the fault");
        let mut fence = lan.fenced(ground, how)?;
        for ctl in [open_for(HOUR), ShardCtl::default()] {
            fence.write(SLOT, &ctl)?;
            for _ in 0..5 {
                assert!(!Lan::arp_answered(&lan.lan2, SHORT)?, "{ctl:?}");
            }
        }
        assert_eq!(fence.counters()?.drops(DropReason::IngressSecondLink), 10);
        // What another program announces there does not get out either.
        let out = Wire::open(lan.wa)?;
        out.send(&arp(CLIENT_MAC, 1, VIP, VIP))?;
        assert!(lan.lan2.wait_for(SHORT, |f| f[12..14] == [8, 6] && f[28..32] == VIP.octets())?.is_none());
        assert_eq!(fence.counters()?.drops(DropReason::EgressSecondLink), 1);
        Ok(())
    });
}

#[test]
fn a_vip_on_a_bridge_is_fenced_at_the_bridge() {
    each_kind(|ground, how| {
        let lan = Lan::build(ground)?;
        ground.ip("addr flush dev va")?;
        ground.ip("link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0")?;
        ground.ip("link set va master br0")?;
        ground.ip("link set br0 up")?;
        ground.ip(&format!("addr add {NODE}/24 dev br0"))?;
        ground.ip(&format!("addr add {VIP}/32 dev br0"))?;
        ground.wait_up(&["br0"])?;
        assert!(Lan::arp_answered(&lan.lan, PATIENCE)?);
        // On the bridge and not on its port: the port carries the bridge's frames under another index.
        let bridge = ground.ifindex("br0")?;
        let mut fence = ground.fence()?;
        fence.attach(bridge, how)?;
        fence.register(SLOT, bridge, &[VIP.into()], &[])?;
        assert!(!Lan::arp_answered(&lan.lan, SHORT)?);
        fence.write(SLOT, &open_for(HOUR))?;
        assert!(Lan::arp_answered(&lan.lan, PATIENCE)?);
        Ok(())
    });
}

#[test]
fn a_backup_reaches_the_vip_as_a_client() {
    each_kind(|ground, how| {
        let lan = Lan::build(ground)?;
        ground.ip(&format!("addr del {VIP}/32 dev va"))?;
        ground.ip(&format!("addr del {VIP6}/128 dev va"))?;
        let fence = lan.fenced(ground, how)?;
        let owners = lan.client.inside(|| {
            ground.ip(&format!("addr add {VIP}/32 dev vb"))?;
            ground.ip(&format!("addr add {VIP6}/128 dev vb nodad"))?;
            Ok([UdpSocket::bind((VIP, 7))?, UdpSocket::bind((VIP6, 7))?])
        })?;
        let clients = [UdpSocket::bind((NODE, 0))?, UdpSocket::bind("[2001:db8::1]:0")?];
        let mut buffer = [0; 16];
        for (owner, client) in owners.iter().zip(&clients) {
            // Nothing here waits for silence: time enough for a kernel that asks its neighbour twice.
            owner.set_read_timeout(Some(Duration::from_secs(5)))?;
            client.set_read_timeout(Some(Duration::from_secs(5)))?;
            client.send_to(b"ask", owner.local_addr()?)?;
            let (_, from) = owner.recv_from(&mut buffer).context("the request reaches the owner")?;
            owner.send_to(b"answer", from)?;
            client.recv(&mut buffer).context("the answer reaches the Backup")?;
        }
        assert_eq!(fence.counters()?.dropped(), 0);
        Ok(())
    });
}

#[test]
fn a_priority_tag_is_no_way_round() {
    each_kind(|ground, how| {
        let lan = Lan::build(ground)?;
        let ask = || -> Result<bool> {
            lan.lan.drain();
            lan.lan.send(&tagged(&arp(CLIENT_MAC, 1, CLIENT, VIP), 0x8100, 0))?;
            let answer = |f: &[u8]| f.len() >= 42 && f[12..14] == [8, 6] && f[21] == 2 && f[28..32] == VIP.octets();
            Ok(lan.lan.wait_for(SHORT, answer)?.is_some())
        };
        assert!(ask()?, "the kernel takes the tag off and answers");
        let mut fence = lan.fenced(ground, how)?;
        assert!(!ask()?);
        assert_eq!(fence.counters()?.drops(DropReason::IngressAnswer), 1);
        // The tag of a VLAN, taken off by the kernel before the program sees the frame: another link's business.
        lan.lan.send(&tagged(&arp(CLIENT_MAC, 1, CLIENT, VIP), 0x8100, 7))?;
        assert!(!ask()?);
        assert_eq!(fence.counters()?.dropped(), 2, "the frame of VLAN 7 is not counted");
        fence.write(SLOT, &open_for(HOUR))?;
        assert!(ask()?);
        Ok(())
    });
}

/// Tells this binary, started again, that it is the holder, and of what.
const HOLDER: &str = "FENCE_HOLDER";
/// How long the holder below lets its fence stand.
const LEASE: u64 = 1_000 * MS;

/// Ends the holder also when the test panics.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn sigkill_of_the_holder_leaves_the_fence_closed() {
    if let Ok(words) = std::env::var(HOLDER) {
        hold(&words).expect("the holder holds");
        return;
    }
    each_kind(|ground, how| {
        let lan = Lan::build(ground)?;
        // The same test binary, in this thread's namespaces, as the process that holds the VIP.
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exact", "sigkill_of_the_holder_leaves_the_fence_closed", "--nocapture"])
            .env(HOLDER, format!("{} {} {how:?}", ground.root().display(), lan.va))
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("piped")?;
        let mut holder = Holder(child);
        let holding = BufReader::new(output).lines().map_while(Result::ok).any(|line| line.contains("holding"));
        assert!(holding, "the holder started");
        assert_eq!(lan.answered()?, (true, true));

        holder.0.kill()?;
        holder.0.wait()?;
        let closed_by = boot_ns() + LEASE;
        let mut refused = 0;
        while refused < 5 {
            let asked = boot_ns();
            let answer = Lan::arp_answered(&lan.lan, SHORT)?;
            assert!(!(answer && asked >= closed_by), "answered after the dead holder's deadline");
            refused += u32::from(!answer && asked >= closed_by);
        }
        assert!(lan.silent()?);

        // A restart takes the same links and maps over without opening anything.
        let mut fence = ground.fence()?;
        fence.attach(lan.va, how)?;
        assert!(lan.silent()?, "the VIPs of the former run stay guarded");
        fence.register(SLOT, lan.va, &[VIP.into(), VIP6.into()], &[])?;
        fence.write(SLOT, &open_for(HOUR))?;
        assert_eq!(lan.answered()?, (true, true));
        drop(fence);
        assert!(!clean(ground.root())?.is_empty());
        assert_eq!(lan.answered()?, (true, true), "it was the fence that kept silence");
        Ok(())
    });
}

/// What the test above starts and kills. Ends only by an error.
fn hold(words: &str) -> Result<()> {
    let [pins, va, how] = words.split(' ').collect::<Vec<_>>()[..] else {
        anyhow::bail!("expected \"PINS IFINDEX ATTACH\", not {words:?}");
    };
    let how = if how == "Tcx" { Attach::Tcx } else { Attach::Clsact };
    let va: u32 = va.parse()?;
    let mut fence = Fence::open(&FenceOptions { pin_root: pins.into() })?;
    fence.attach(va, how)?;
    fence.register(SLOT, va, &[VIP.into(), VIP6.into()], &[])?;
    fence.write(SLOT, &open_for(LEASE))?;
    println!("holding");
    loop {
        fence.write(SLOT, &open_for(LEASE))?;
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
