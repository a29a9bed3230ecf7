//! Two sites of two nodes each behind one router, which is the WAN between them and the anycast edge before them.
//!
//! A [`Site`] of two balancers and two homes, divided: nodes 1 and 11 are site 1, nodes 2 and 12 site 2. What goes from one to the other goes
//! by the router; each site has tables of its own.

use bascule_ebpf_common::forward::{
    CONFIG_SITES, Config, Key, Node, PacketDrop, Row, SERVICE_EXCEPTIONS, SITE_BASE, SITE_REACHABLE, Site as Gateways,
    Tally, key_index, pair_key,
};

use super::entries::{ROWS, SERVICE, config, minutes, nodes_table, tag_key};
use super::table::push;
use super::{Hook, Layout, LostCopies, NodePrograms, Site};
use crate::{LabError, Result};

/// Packets a second and CPU that may look for their flow in the other site: as the daemon has it.
const REMOTE_RATE: u32 = 20_000;
/// The sites.
const SITES: [u8; 2] = [1, 2];

/// The lab.
pub struct TwoSites {
    /// Its nodes, client and router.
    pub site: Site,
    /// The tables of both.
    rows: [Vec<Row>; 2],
    epoch: u16,
}

/// The site of a node.
fn site_of(id: u16) -> u8 {
    if id % 10 == 1 { 1 } else { 2 }
}

/// The node of a site that has its endpoints.
fn home_of(site: u8) -> u16 {
    10 + u16::from(site)
}

fn other(site: u8) -> u8 {
    3 - site
}

impl TwoSites {
    /// Builds it, with `pods` in each site: numbers 0 up in site 1, those behind in site 2. All flows come in at site 1.
    ///
    /// # Errors
    /// When a part of it cannot be made or a program is refused.
    pub fn new(name: &str, hook: Hook, pods: u16) -> Result<Self> {
        let mut site = Site::new(name, Layout { balancers: 2, homes: 2, pods, hook })?;
        // A router on one leg would tell the nodes of a shorter way.
        for tree in ["all", "default", "eth0"] {
            site.router.sysctl(&format!("net/ipv4/conf/{tree}/send_redirects"), "0")?;
        }
        let wan = site.router.mac("eth0")?.0;
        site.spread(&[1])?;
        let mut sites = Self { site, rows: [Vec::new(), Vec::new()], epoch: 1 };
        sites.divide(wan)?;
        sites.spill(0.0)?;
        sites.guard(REMOTE_RATE)?;
        Ok(sites)
    }

    fn programs(&mut self, id: u16) -> Result<&mut NodePrograms> {
        let programs = self.site.member_mut(id).programs.as_mut();
        programs.ok_or_else(|| LabError::answer("programs", format!("node {id} has none")))
    }

    fn ids(&self) -> Vec<u16> {
        self.site.members.iter().map(|member| member.id).collect()
    }

    /// Tells each node who is of the other site, and that the way there is by the router.
    fn divide(&mut self, wan: [u8; 6]) -> Result<()> {
        for id in self.ids() {
            let own = site_of(id);
            let seen = |to: &super::Member| {
                let entry = self.site.entry(id, to);
                let next_mac = if site_of(to.id) == own { entry.next_mac } else { wan };
                (to.id, Node { site: site_of(to.id), next_mac, ..entry })
            };
            let entries: Vec<(u16, Node)> = self.site.members.iter().map(seen).collect();
            let gateways: Vec<u16> = self.ids().into_iter().filter(|to| site_of(*to) != own).collect();
            let programs = self.programs(id)?;
            let shared = tag_key();
            let pair = Key { key: pair_key(shared.key, SITES[0], SITES[1]), ..shared };
            programs.key(key_index(other(own), 0), &pair)?;
            for (to, node) in &entries {
                programs.node(*to, node)?;
            }
            let mut there = Gateways { count: 2, flags: SITE_REACHABLE, ..Gateways::default() };
            there.gateways[..2].copy_from_slice(&gateways);
            programs.site(other(own).into(), &there)?;
            let mut nearest = Gateways { count: 1, ..Gateways::default() };
            nearest.gateways[0] = other(own).into();
            programs.site(0, &nearest)?;
            programs.flag_service(SERVICE, SERVICE_EXCEPTIONS);
        }
        Ok(())
    }

    /// How many packets may look for their flow in the other site, a second and CPU.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn guard(&mut self, remote_rate: u32) -> Result<()> {
        for id in self.ids() {
            let facts = Config { site: site_of(id), flags: CONFIG_SITES, remote_rate, ..config(id) };
            self.programs(id)?.config(&facts)?;
        }
        Ok(())
    }

    /// The lowest `fraction` of site 1's rows have site 2 as their home from now on, the others its own.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn spill(&mut self, fraction: f64) -> Result<()> {
        self.epoch += 1;
        let table = nodes_table(self.epoch);
        for site in SITES {
            let away = if site == 1 { (f64::from(ROWS) * fraction).round() } else { 0.0 };
            let home =
                |row: u16| if f64::from(row) < away { SITE_BASE | u16::from(other(site)) } else { home_of(site) };
            let homes: Vec<u16> = (0..ROWS).map(home).collect();
            let rows = &mut self.rows[usize::from(site - 1)];
            *rows = push(rows, &homes, &[], minutes());
            let rows = rows.clone();
            for id in self.ids().into_iter().filter(|id| site_of(*id) == site) {
                let programs = self.programs(id)?;
                programs.rows(table.base, &rows);
                programs.swap_nodes(SERVICE, table);
            }
        }
        Ok(())
    }

    /// The anycast route of all clients leads to this site from now on.
    ///
    /// # Errors
    /// When the router refuses.
    pub fn shift(&mut self, site: u8) -> Result<()> {
        self.site.spread(&[site.into()])
    }

    /// Copies of replies get lost between the sites from now on.
    ///
    /// # Errors
    /// When nft refuses.
    pub fn lose_copies(&self) -> Result<LostCopies> {
        LostCopies::new(&self.site.router)
    }

    /// What the nodes of a site counted.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn counted(&self, site: u8, tally: Tally) -> Result<u64> {
        self.sum(site, |tallies| tallies.of(tally))
    }

    /// What they dropped for this reason.
    ///
    /// # Errors
    /// As [`TwoSites::counted`].
    pub fn dropped(&self, site: u8, reason: PacketDrop) -> Result<u64> {
        self.sum(site, |tallies| tallies.drops(reason))
    }

    fn sum(&self, site: u8, of: impl Fn(&super::Tallies) -> u64) -> Result<u64> {
        let members = self.site.members.iter().filter(|member| site_of(member.id) == site);
        members.filter_map(|member| member.programs.as_ref()).map(|programs| Ok(of(&programs.tallies()?))).sum()
    }
}
