//! A node of [`super::SiteLab`]: its daemon, and an endpoint of each service beside it.

use super::file::{BASE, DESK, FLOWS, Files, SHOP, Seat};
use super::ground::{net, whole_checksums};
use super::issue;
use crate::audit::AuditServer;
use crate::bascule::Bascule;
use crate::{Bridge, Lab, Netns, Port, Responder, Result, Stamp};

/// A node.
pub struct SiteNode {
    /// Its name: `a1`.
    pub name: String,
    /// Its site, from 0.
    pub site: usize,
    /// Its number in audits and answers.
    pub number: u32,
    /// Its daemon; it runs while the node lives.
    pub daemon: Bascule,
    /// False since it lost its power.
    pub alive: bool,
    shop: Option<Responder>,
    _flows: AuditServer,
    _answers: [Responder; 2],
    netns: Netns,
    port: Port,
}

impl SiteNode {
    /// Makes it on its site's LAN and starts all that it runs.
    pub(super) fn start(lab: &Lab, lan: &Bridge, seat: Seat, files: &Files) -> Result<Self> {
        let authority = lab.directory().join("authority");
        issue(&authority, &(seat.site + 1).to_string(), &seat.name(), seat.pki(lab.directory()).as_ref())?;
        let (netns, port) = lab.host(&seat.name(), lan, &[net(&format!("{}/24", seat.address()))])?;
        whole_checksums(&netns)?;
        netns.route(4, &format!("default via {}", seat.gateway()))?;
        netns.add_address("lo", net(&format!("{}/32", seat.base())))?;
        let number = u32::from(seat.id());
        let shop = Some(Responder::start(&netns, number, SHOP.shelf())?);
        let answers =
            [Responder::start(&netns, number, DESK.shelf())?, Responder::start(&netns, number, BASE.shelf())?];
        let flows = AuditServer::start(&netns, number, FLOWS.shelf())?;
        let daemon = Bascule::start(lab, &netns, &files.of(seat))?;
        let (name, site) = (seat.name(), usize::from(seat.site));
        Ok(Self { name, site, number, daemon, alive: true, shop, _flows: flows, _answers: answers, netns, port })
    }

    /// Its endpoint of [`SHOP`] dies: its connections and its sockets go, everything else goes on. Gives the moment before.
    pub fn kill_endpoint(&mut self) -> Stamp {
        let at = Stamp::now();
        self.shop = None;
        at
    }

    /// A new one takes its place.
    ///
    /// # Errors
    /// When its port is taken.
    pub fn revive_endpoint(&mut self) -> Result<()> {
        self.shop = Some(Responder::start(&self.netns, self.number, SHOP.shelf())?);
        Ok(())
    }

    /// It loses its power: no frame passes its port, and its daemon is gone. Gives the moment before.
    ///
    /// # Errors
    /// When its port is gone.
    pub fn kill(&mut self) -> Result<Stamp> {
        let at = Stamp::now();
        self.alive = false;
        self.port.set_up(false)?;
        self.daemon.process.sigkill()?;
        Ok(at)
    }
}
