//! One node: a namespace on the LAN, the service behind the VIP, and a VRRP daemon.

use std::time::Duration;

use anyhow::{Context, Result};
use bascule_lab::bascule::Bascule;
use bascule_lab::keepalived::{Keepalived, KeepalivedConfig};
use bascule_lab::{Bridge, Lab, Netns, Port, Process, Responder, Stamp};
use serde_json::Value;

/// Port of the service behind every VIP.
pub const SERVICE: u16 = 7777;

/// Which daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The one under test.
    Bascule,
    /// The incumbent.
    Keepalived,
}

impl Kind {
    /// Its name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bascule => "bascule",
            Self::Keepalived => "keepalived",
        }
    }
}

/// What to start a node's daemon with.
pub enum Config {
    /// A configuration file as JSON.
    Bascule(Value),
    /// keepalived's settings.
    Keepalived(KeepalivedConfig),
}

enum Daemon {
    Bascule(Bascule),
    Keepalived(Keepalived),
}

/// One node.
pub struct Node {
    /// The number its service answers with.
    pub id: u32,
    /// Its namespace.
    pub netns: Netns,
    /// Its port on the LAN.
    pub port: Port,
    /// Its service.
    pub responder: Responder,
    config: Config,
    group: String,
    daemon: Option<Daemon>,
}

impl Node {
    /// A node at 10.9.0.`id` whose daemon is not started yet. `group` is the name of its VIP group.
    ///
    /// # Errors
    /// When the lab refuses.
    pub fn new(lab: &Lab, lan: &Bridge, name: &str, id: u8, group: &str, config: Config) -> Result<Self> {
        let addresses = [format!("10.9.0.{id}/24").parse()?, format!("fd09::{id}/64").parse()?];
        let (netns, port) = lab.host(name, lan, &addresses)?;
        let responder = Responder::start(&netns, u32::from(id), SERVICE)?;
        Ok(Self { id: id.into(), netns, port, responder, config, group: group.to_owned(), daemon: None })
    }

    /// Starts its daemon; what ran before is killed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, lab: &Lab) -> Result<()> {
        self.daemon = None;
        self.daemon = Some(match &self.config {
            Config::Bascule(config) => Daemon::Bascule(Bascule::start(lab, &self.netns, config)?),
            Config::Keepalived(config) => Daemon::Keepalived(Keepalived::start(lab, &self.netns, config)?),
        });
        Ok(())
    }

    /// Its daemon's process.
    ///
    /// # Errors
    /// When it is not started.
    pub fn process(&mut self) -> Result<&mut Process> {
        match self.daemon.as_mut().context("the daemon of this node is not started")? {
            Daemon::Bascule(daemon) => Ok(&mut daemon.process),
            Daemon::Keepalived(daemon) => Ok(&mut daemon.process),
        }
    }

    /// Its Bascule.
    ///
    /// # Errors
    /// When it is not started or is a keepalived.
    pub fn bascule(&mut self) -> Result<&mut Bascule> {
        match self.daemon.as_mut() {
            Some(Daemon::Bascule(daemon)) => Ok(daemon),
            _ => anyhow::bail!("no Bascule runs on this node"),
        }
    }

    /// SIGTERM, and the wait until it has ended. The moment just before the signal.
    ///
    /// # Errors
    /// When it does not end in ten seconds.
    pub fn terminate(&mut self) -> Result<Stamp> {
        let at = self.process()?.sigterm()?;
        self.process()?.wait(Duration::from_secs(10))?;
        Ok(at)
    }

    /// Its role in lower-case words of RFC 9568: `active`, `backup`, or `initialize`; None when it is not known.
    pub fn role(&self) -> Option<String> {
        match self.daemon.as_ref()? {
            Daemon::Bascule(daemon) => daemon.role(&self.group),
            Daemon::Keepalived(daemon) => {
                let log = daemon.process.log();
                let last = log.lines().rev().find_map(|l| l.split_once("Entering ")?.1.split(' ').next())?;
                Some(if last == "MASTER" { "active" } else { "backup" }.to_owned())
            }
        }
    }

    /// The lines of Bascule's log (JSON) that hold `message`.
    pub fn events(&self, message: &str) -> Vec<Value> {
        let Some(Daemon::Bascule(daemon)) = &self.daemon else { return Vec::new() };
        let log = daemon.process.log();
        let lines = log.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        lines.filter(|v| v["message"].as_str().is_some_and(|m| m.contains(message))).collect()
    }

    /// The end of its daemon's output, for a report of what went wrong.
    pub fn tail(&self) -> String {
        match &self.daemon {
            Some(Daemon::Bascule(daemon)) => daemon.process.tail(),
            Some(Daemon::Keepalived(daemon)) => daemon.process.tail(),
            None => String::new(),
        }
    }
}
