//! etcd in three places: a member in each site and one at the witness, which leads.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde_json::{Value, json};

use super::file::{NAMES, gateway};
use super::ground::{Ground, net, whole_checksums};
use crate::etcd::{Data, Member, PORT, lead_by_last};
use crate::pki::Authority;
use crate::{Lab, Netns, Result};

/// TTL of a lease: how long a site that is gone keeps a service of one site at a time (issue 6).
pub const TTL: Duration = Duration::from_secs(5);
/// The witness.
const WITNESS: Ipv4Addr = Ipv4Addr::new(10, 33, 0, 1);

/// The members.
pub(super) struct Store {
    members: Vec<Member>,
    /// The section `etcd` of the nodes' files.
    pub(super) section: Value,
    _hosts: Vec<Netns>,
}

impl Store {
    /// Starts all three.
    pub(super) fn start(lab: &Lab, ground: &Ground) -> Result<Self> {
        let address = |site: u8| Ipv4Addr::new(10, 31 + site, 0, 200);
        let pki = Authority::create(&lab.directory().join("etcd-pki"))?;
        let mut hosts = Vec::new();
        for (site, place) in (0..).zip(&ground.places) {
            let name = format!("store-{}", NAMES[usize::from(site)]);
            let (netns, _) = lab.host(&name, &place.lan, &[net(&format!("{}/24", address(site)))])?;
            whole_checksums(&netns)?;
            netns.route(4, &format!("default via {}", gateway(site)))?;
            hosts.push(netns);
        }
        hosts.push(ground.witness.clone());
        let at: [Ipv4Addr; 3] = [address(0), address(1), WITNESS];
        let cluster: Vec<(&str, IpAddr)> =
            ["store-a", "store-b", "witness"].into_iter().zip(at.map(IpAddr::V4)).collect();
        let start = |me: usize| Member::start(lab, &hosts[me], &cluster, me, Data::Memory, &pki);
        let members = (0..hosts.len()).map(start).collect::<Result<Vec<_>>>()?;
        let user = pki.sign("bascule", "bascule", &[])?;
        let section = json!({
            "endpoints": at.map(|address| format!("https://{address}:{PORT}")), "ttl": format!("{}s", TTL.as_secs()),
            "caFile": pki.ca, "certFile": user.certificate, "keyFile": user.key,
        });
        Ok(Self { members, section, _hosts: hosts })
    }

    /// Waits until every member answers and the witness leads: a leader that dies with its site gives leases their whole time again.
    pub(super) fn lead_by_witness(&mut self) -> Result<()> {
        self.members.iter_mut().try_for_each(Member::wait_ready)?;
        lead_by_last(&self.members)
    }
}
