//! Faults of the network: cuts, loss, and a node that claims what is not its own. Each is in force while its guard lives.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::IpNet;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, sendto, socket};

use crate::command::{nft, tool};
use crate::{Bridge, Lab, LabError, Netns, Port, Result, Stamp};

/// Which way frames are lost, seen from the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What the node sends.
    FromNode,
    /// What is sent to the node.
    ToNode,
    /// Both.
    Both,
}

/// Which frames are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Every frame.
    All,
    /// VRRP advertisements only, both families.
    Vrrp,
    /// Packets to or from this address only.
    Peer(Ipv4Addr),
}

/// Frames that are dropped on a port: a silent cut that keeps the carrier, or random loss. Dropped, it ends.
#[derive(Debug)]
pub struct Dropper {
    switch: Netns,
    table: String,
    /// Just before the rules were put in force.
    pub since: Stamp,
    /// Just after; starting nft takes 10 to 60 ms of the time between.
    pub in_force: Stamp,
}

impl Port {
    /// Drops every frame that `filter` matches; the carrier stays.
    ///
    /// # Errors
    /// When nft refuses.
    pub fn cut(&self, direction: Direction, filter: Filter) -> Result<Dropper> {
        self.drop_frames(direction, filter, "")
    }

    /// Drops each matching frame with this chance (0 to 1, resolution 1/10,000), independently.
    ///
    /// # Errors
    /// When nft refuses.
    pub fn lose(&self, direction: Direction, filter: Filter, chance: f64) -> Result<Dropper> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=10,000")]
        let share = (chance.clamp(0.0, 1.0) * 10_000.0).round() as u32;
        self.drop_frames(direction, filter, &format!("numgen random mod 10000 < {share}"))
    }

    fn drop_frames(&self, direction: Direction, filter: Filter, chance: &str) -> Result<Dropper> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (port, switch) = (self.name(), self.bridge().netns().clone());
        let table = format!("fault_{port}_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let matches: Vec<String> = match filter {
            Filter::All => vec![String::new()],
            // IANA protocol 112.
            Filter::Vrrp => vec!["ip protocol 112".to_owned(), "ip6 nexthdr 112".to_owned()],
            Filter::Peer(peer) => vec![format!("ip saddr {peer}"), format!("ip daddr {peer}")],
        };
        let hooks: &[&str] = match direction {
            Direction::FromNode => &["ingress"],
            Direction::ToNode => &["egress"],
            Direction::Both => &["ingress", "egress"],
        };
        let mut script = format!("table netdev {table} {{\n counter dropped {{ }}\n");
        for hook in hooks {
            script += &format!(" chain {hook} {{\n  type filter hook {hook} device \"{port}\" priority -500;\n");
            for matched in &matches {
                script += &format!("  {matched} {chance} counter name dropped drop\n");
            }
            script += " }\n";
        }
        script += "}\n";
        let since = Stamp::now();
        nft(&switch, &script)?;
        Ok(Dropper { switch, table, since, in_force: Stamp::now() })
    }
}

impl Dropper {
    /// Frames dropped so far: 0 means that the fault has not happened.
    ///
    /// # Errors
    /// When nft does not answer as expected.
    pub fn dropped(&self) -> Result<u64> {
        let text = tool(Some(&self.switch), "nft", &["-j", "list", "counters", "table", "netdev", &self.table], None)?;
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| LabError::answer("nft -j", e.to_string()))?;
        let items = json["nftables"].as_array().cloned().unwrap_or_default();
        let packets = items.iter().find_map(|i| i["counter"]["packets"].as_u64());
        packets.ok_or_else(|| LabError::answer("nft -j", format!("no counter in {text}")))
    }

    /// Ends the fault now; gives the frames it dropped.
    ///
    /// # Errors
    /// When nft does not answer as expected.
    pub fn heal(self) -> Result<u64> {
        self.dropped()
    }
}

impl Drop for Dropper {
    fn drop(&mut self) {
        if let Err(error) = nft(&self.switch, &format!("delete table netdev {}\n", self.table)) {
            eprintln!("lab: {error}");
        }
    }
}

/// A stranger on the LAN that holds a VIP by hand: its kernel answers ARP, NDP, SYNs and pings for it.
#[derive(Debug)]
pub struct PlantedOwner {
    netns: Netns,
    /// Where it hangs; [`Port::mac`] is what it claims with.
    pub port: Port,
    vip: IpAddr,
}

impl PlantedOwner {
    /// Plants it on `lan` with `own` as its own address (its prefix must hold the VIP).
    ///
    /// # Errors
    /// When a part of it cannot be made.
    pub fn plant(lab: &Lab, lan: &Bridge, own: IpNet, vip: IpAddr) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("planted{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let (netns, port) = lab.host(&name, lan, &[own])?;
        let host = IpNet::new(vip, if vip.is_ipv4() { 32 } else { 128 }).expect("a host prefix");
        netns.add_address("eth0", host)?;
        Ok(Self { netns, port, vip })
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Sends one gratuitous ARP (request form) or unsolicited advertisement for the VIP.
    ///
    /// # Errors
    /// When the frame cannot be sent.
    pub fn announce(&self) -> Result<()> {
        announce(&self.netns, "eth0", self.vip)
    }
}

/// Sends one gratuitous ARP (request form) or one unsolicited neighbour advertisement (override) for `vip` from `link`.
///
/// # Errors
/// When the frame cannot be sent.
pub(crate) fn announce(netns: &Netns, link: &str, vip: IpAddr) -> Result<()> {
    let mac = netns.mac(link)?.0;
    let index = netns.ifindex(link)?;
    let frame = match vip {
        IpAddr::V4(vip) => gratuitous_arp(mac, vip),
        IpAddr::V6(vip) => unsolicited_na(mac, vip),
    };
    netns.run(|| {
        let (socket, to) = packet_socket(index)?;
        sendto(socket.as_raw_fd(), &frame, &to, MsgFlags::empty()).map(drop).map_err(LabError::errno("sendto"))
    })
}

/// A socket of the calling thread's namespace that sends whole frames, and the link with this index as where to.
pub(crate) fn packet_socket(index: u32) -> Result<(OwnedFd, LinkAddr)> {
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
        .map_err(LabError::errno("packet socket"))?;
    let raw = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).expect("a small constant"),
        sll_protocol: 0,
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of_val(&raw)).expect("twenty bytes");
    // SAFETY: `raw` is a whole sockaddr_ll of family AF_PACKET and `length` is its size.
    let to = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) }
        .ok_or_else(|| LabError::answer("sockaddr_ll", "refused"))?;
    Ok((fd, to))
}

/// RFC 5227 3: request form, sender and target address the same.
fn gratuitous_arp(mac: [u8; 6], vip: std::net::Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(vip.octets());
    frame.extend([0; 6]);
    frame.extend(vip.octets());
    frame
}

/// RFC 4861 4.4 to all nodes: override set, solicited clear, with the target link-layer address option.
fn unsolicited_na(mac: [u8; 6], vip: std::net::Ipv6Addr) -> Vec<u8> {
    let all_nodes = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut body = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    body.extend(vip.octets());
    body.extend([2, 1]);
    body.extend(mac);
    // Pseudo-header of RFC 8200 8.1: addresses, length 32, next header 58.
    let mut pseudo: Vec<u8> = Vec::new();
    pseudo.extend(vip.octets());
    pseudo.extend(all_nodes.octets());
    pseudo.extend([0, 0, 0, 32, 0, 0, 0, 58]);
    pseudo.extend(&body);
    let mut sum: u32 = pseudo.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).expect("folded to 16 bits");
    body[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(mac);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
    frame.extend(vip.octets());
    frame.extend(all_nodes.octets());
    frame.extend(body);
    frame
}
