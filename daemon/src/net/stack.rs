//! Whether a link can carry traffic, judged together with everything it stands on. A pure function over a table of links.

use std::collections::BTreeMap;

use bascule_core::types::{LinkId, Mac};

/// What a link is, as far as it matters here (`IFLA_INFO_KIND`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Carries what its running members carry: bond, team, bridge. Members name it as their master.
    Master,
    /// Rides on one parent link (`IFLA_LINK`): VLAN, macvlan, macvtap, ipvlan, ipvtap, MACsec.
    Rider,
    /// Everything else. `IFLA_LINK` of a veth is its peer, which it does not stand on.
    Plain,
}

impl Kind {
    /// From the kernel's name of the kind; physical links have none.
    pub fn of(name: Option<&str>) -> Self {
        match name {
            Some("bond" | "team" | "bridge") => Self::Master,
            Some("vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap" | "macsec") => Self::Rider,
            _ => Self::Plain,
        }
    }
}

/// One link as the kernel reports it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its hardware address; zero when it has none or one of another length.
    pub mac: Mac,
    /// What it is.
    pub kind: Kind,
    /// Administratively up (`IFF_UP`).
    pub admin_up: bool,
    /// Operational by itself: operstate Up, or Unknown, which devices report that do not track it (loopback, tun, some veth).
    pub running: bool,
    /// What it rides on, when that is in this network namespace.
    pub parent: Option<LinkId>,
    /// The bond, team, bridge or VRF that it is a member of.
    pub master: Option<LinkId>,
}

/// Every link of the network namespace.
pub type Table = BTreeMap<LinkId, Link>;

/// Deepest stack that is followed; the kernel allows 8 nested upper devices (`MAX_NEST_DEV`).
const MAX_DEPTH: usize = 8;

/// True when `id` and everything it stands on can carry traffic: the link is up and operational; a VLAN, macvlan and the like needs its
/// parent as well; a bond, team or bridge needs at least one member that can (a bridge without a running port is down, whatever its
/// operstate says).
///
/// A parent that the table does not know lies in another network namespace: then the link's own operstate, which follows it, decides.
pub fn stack_up(table: &Table, id: LinkId) -> bool {
    up(table, id, MAX_DEPTH)
}

fn up(table: &Table, id: LinkId, depth: usize) -> bool {
    let Some(link) = table.get(&id) else { return false };
    let Some(depth) = depth.checked_sub(1) else { return false };
    if !link.admin_up || !link.running {
        return false;
    }
    match link.kind {
        Kind::Plain => true,
        Kind::Rider => match link.parent {
            Some(parent) if table.contains_key(&parent) => up(table, parent, depth),
            _ => true,
        },
        Kind::Master => table.iter().any(|(member, l)| l.master == Some(id) && up(table, *member, depth)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Link = Link {
        name: String::new(),
        mac: Mac::ZERO,
        kind: Kind::Plain,
        admin_up: true,
        running: true,
        parent: None,
        master: None,
    };

    fn member(of: u32) -> Link {
        Link { master: Some(LinkId(of)), ..PLAIN }
    }

    fn rider(on: u32) -> Link {
        Link { kind: Kind::Rider, parent: Some(LinkId(on)), ..PLAIN }
    }

    fn master() -> Link {
        Link { kind: Kind::Master, ..PLAIN }
    }

    fn table(links: impl IntoIterator<Item = (u32, Link)>) -> Table {
        links.into_iter().map(|(id, link)| (LinkId(id), link)).collect()
    }

    #[test]
    fn a_link_needs_both_states() {
        let links = table([(1, PLAIN), (2, Link { admin_up: false, ..PLAIN }), (3, Link { running: false, ..PLAIN })]);
        let up: Vec<bool> = (1..=4).map(|id| stack_up(&links, LinkId(id))).collect();
        assert_eq!(up, [true, false, false, false], "the fourth does not exist");
    }

    #[test]
    fn a_vlan_on_a_bond_falls_with_the_last_member() {
        let mut links = table([(2, member(4)), (3, member(4)), (4, master()), (5, rider(4))]);
        assert!(stack_up(&links, LinkId(5)));
        links.get_mut(&LinkId(2)).expect("link 2").running = false;
        assert!(stack_up(&links, LinkId(5)), "one member is enough");
        links.get_mut(&LinkId(3)).expect("link 3").admin_up = false;
        assert!(!stack_up(&links, LinkId(5)));
        assert!(!stack_up(&links, LinkId(4)));
    }

    #[test]
    fn a_master_without_members_is_down() {
        assert!(!stack_up(&table([(4, master())]), LinkId(4)));
    }

    #[test]
    fn a_parent_elsewhere_is_left_to_the_own_state() {
        assert!(stack_up(&table([(5, rider(99))]), LinkId(5)));
        assert!(!stack_up(&table([(5, Link { running: false, ..rider(99) })]), LinkId(5)));
    }

    #[test]
    fn a_loop_in_the_table_ends() {
        assert!(!stack_up(&table([(5, rider(6)), (6, rider(5))]), LinkId(5)));
    }
}
