//! What goes wrong when its time has come, and what the planted bugs spoil.

use std::collections::VecDeque;

use core::time::Duration;

use bascule_bgp::graceful::{FLUSH_CAP, RestartMarker};
use bascule_bgp::io::{Action, BfdState, Command, Conn, Input};
use bascule_bgp::wire::{Cease, Family, FamilySet, Notification, encode_keepalive};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::bgp::check::Broken;
use crate::bgp::mutant::Mutant;
use crate::bgp::node::{Leaving, Node};
use crate::bgp::scenario::{Event, Fault, SECOND, policy};
use crate::bgp::tcp::In;
use crate::bgp::world::{Ev, World};

impl World {
    pub(super) fn fault(&mut self, event: Event) -> Result<(), (usize, Broken)> {
        let Event { node, fault, .. } = event;
        self.say(|| format!("node {node}: {fault:?}"));
        let runs = self.nodes[node].speaker.is_some();
        match fault {
            Fault::LinkDown(time) => self.link_until = self.link_until.max(self.now + time),
            Fault::WindowShut(time) => self.nodes[node].window_until = self.now + time,
            Fault::Frozen(time) if runs => {
                self.nodes[node].frozen_until = self.now + time;
                self.at(self.now + time, Ev::Thaw(node));
            }
            Fault::Killed(back) if runs => self.exit(node, back),
            Fault::PowerLoss(time) => self.power_loss(node, time),
            Fault::Restart(back) if runs => return self.leave(node, true, Duration::ZERO, back),
            Fault::Shutdown(drain) if runs => return self.leave(node, false, Duration::from_nanos(drain), SECOND),
            Fault::Forgotten => self.tcps.iter_mut().for_each(|tcp| tcp.forgotten = true),
            Fault::Reset => self.reset_connections(),
            Fault::OperatorReset if runs => {
                let command = Command::Reset { neighbor: "peer".to_owned() };
                return self.deliver(node, In::Input(Input::Command(command)));
            }
            Fault::BfdDown(time) => {
                self.nodes[node].bfd_up = false;
                self.feed_bfd(node)?;
                self.nodes[node].bfd_up = true;
                let up = Input::Bfd { neighbor: "peer".to_owned(), state: BfdState::Up };
                self.at(self.now + time, Ev::Feed(node, self.nodes[node].runs, Box::new(up)));
            }
            Fault::Unrelated => return self.unrelated(node),
            Fault::Policy if !self.nodes[node].frozen(self.now) => {
                let med = u32::try_from(self.rng.below(100)).ok();
                self.nodes[node].config.neighbors[0].export = policy(node, med);
                return self.configure(node);
            }
            Fault::HoldTime(seconds) if !self.nodes[node].frozen(self.now) => {
                self.nodes[node].config.neighbors[0].hold_time = seconds;
                return self.configure(node);
            }
            Fault::Routes => return self.change_routes(node),
            // Not possible just now.
            Fault::Frozen(_)
            | Fault::Killed(_)
            | Fault::Restart(_)
            | Fault::Shutdown(_)
            | Fault::OperatorReset
            | Fault::Policy
            | Fault::HoldTime(_) => {}
        }
        Ok(())
    }

    pub(super) fn configure(&mut self, node: usize) -> Result<(), (usize, Broken)> {
        let config = Box::new(self.nodes[node].config.clone());
        self.deliver(node, In::Input(Input::Config(config)))
    }

    fn unrelated(&mut self, node: usize) -> Result<(), (usize, Broken)> {
        let before = self.nodes[node].established().filter(|_| !self.nodes[node].frozen(self.now));
        let retry = Duration::from_millis(self.rng.between(3000, 6000));
        self.nodes[node].config.neighbors[0].connect_retry = retry;
        self.configure(node)?;
        if self.mutant == Some(Mutant::ConfigResets) {
            let command = Command::Reset { neighbor: "peer".to_owned() };
            self.deliver(node, In::Input(Input::Command(command)))?;
        }
        match before.filter(|_| self.nodes[node].established() != before) {
            Some(conn) => Err((node, Broken::Reset(conn))),
            None => Ok(()),
        }
    }

    /// The process is gone; its kernel ends what it held, without what the driver had not handed over.
    fn exit(&mut self, node: usize, back: u64) {
        self.process_ends(node);
        for tcp in 0..self.tcps.len() {
            for end in 0..2 {
                let side = &mut self.tcps[tcp].ends[end];
                if side.node == node && core::mem::take(&mut side.open) {
                    side.unsent.clear();
                    self.fin(tcp, end);
                }
            }
        }
        let at = self.now + back;
        self.at(at, Ev::Start(node));
    }

    fn power_loss(&mut self, node: usize, time: u64) {
        self.process_ends(node);
        for side in self.tcps.iter_mut().flat_map(|tcp| &mut tcp.ends).filter(|side| side.node == node) {
            side.open = false;
            side.gone = true;
            side.unsent.clear();
            side.way.clear();
        }
        self.nodes[node].marker = None;
        self.nodes[node].power_until = self.now + time;
        self.at(self.now + time, Ev::Start(node));
    }

    fn reset_connections(&mut self) {
        for tcp in 0..self.tcps.len() {
            self.tcps[tcp].ends.iter_mut().for_each(|side| side.way.clear());
            self.at(self.now, Ev::Rst(tcp, 0));
            self.at(self.now, Ev::Rst(tcp, 1));
        }
    }

    fn leave(&mut self, node: usize, planned: bool, drain: Duration, back: u64) -> Result<(), (usize, Broken)> {
        if self.nodes[node].frozen(self.now) || self.nodes[node].leaving.is_some() {
            return Ok(());
        }
        let now = self.nodes[node].clock(self.now);
        let established = self.nodes[node].established();
        let graceful = established.and_then(|conn| self.nodes[node].taps.get(&conn)).is_some_and(|tap| tap.graceful());
        let silent = established.filter(|_| planned && graceful);
        self.nodes[node].leaving = Some(Leaving { until: now + drain + FLUSH_CAP, back, silent, planned });
        let text = "simulated".to_owned();
        if self.mutant == Some(Mutant::ShutdownKeepsRoutes) && !planned {
            // As if the session were closed without a word before it.
            if let Some(conn) = established {
                let mut bytes = Vec::new();
                Notification::cease(Cease::AdministrativeShutdown, &text).encode(&mut bytes);
                let write = Action::Write { conn, bytes };
                return self.act(node, write, &mut VecDeque::new()).map_err(|broken| (node, broken));
            }
        }
        let command = match planned && self.mutant != Some(Mutant::RestartCeases) {
            true => Command::Restart,
            false => Command::Shutdown { drain, text },
        };
        self.deliver(node, In::Input(Input::Command(command)))
    }

    /// The speaker says that every session is closed.
    pub(super) fn stopped(&mut self, node: usize) {
        let Some(leaving) = self.nodes[node].leaving else { return };
        self.say(|| format!("node {node} stopped"));
        let restart_time = self.nodes[node].config.neighbors[0].graceful_restart;
        self.nodes[node].marker = restart_time.filter(|_| leaving.planned).map(|restart_time| RestartMarker {
            boot_id: "boot".to_owned(),
            written: self.nodes[node].clock(self.now),
            restart_time,
            families: FamilySet::ALL,
        });
        self.exit(node, leaving.back);
    }

    pub(super) fn prefix(&mut self, node: usize) -> IpNet {
        let (node, last) = (u8::try_from(node).expect("two nodes"), u8::try_from(self.rng.below(12)).expect("small"));
        if last < 8 {
            IpNet::V4(Ipv4Net::new([10, 9, node, last].into(), 32).expect("32 fits"))
        } else {
            let address = [0x2001, 0xdb8, 0, 0, 9, 0, u16::from(node), u16::from(last)].into();
            IpNet::V6(Ipv6Net::new(address, 128).expect("128 fits"))
        }
    }

    fn change_routes(&mut self, node: usize) -> Result<(), (usize, Broken)> {
        for _ in 0..self.rng.between(1, 4) {
            let prefix = self.prefix(node);
            if self.nodes[node].wishes.contains_key(&prefix) && self.rng.chance(600) {
                self.nodes[node].wishes.remove(&prefix);
                if self.nodes[node].speaker.is_some() && !self.nodes[node].frozen(self.now) {
                    self.withdraw(node, prefix)?;
                } else {
                    self.later(node);
                }
            } else {
                let draining = self.rng.chance(200);
                self.nodes[node].wishes.insert(prefix, draining);
                if self.nodes[node].synced && !self.nodes[node].frozen(self.now) {
                    self.announce(node, &[(prefix, draining)])?;
                } else {
                    self.later(node);
                }
            }
        }
        Ok(())
    }

    /// A frozen driver hears of the wishes when it runs again: as one difference.
    fn later(&mut self, node: usize) {
        self.nodes[node].owes_routes = true;
    }

    /// What a driver that was held up has to catch up with.
    pub(super) fn catch_up(&mut self, node: usize) -> Result<(), (usize, Broken)> {
        if !core::mem::take(&mut self.nodes[node].owes_routes) || !self.nodes[node].synced {
            return Ok(());
        }
        let wishes = self.nodes[node].wishes.clone();
        let gone: Vec<_> = self.nodes[node].routes.keys().filter(|p| !wishes.contains_key(*p)).copied().collect();
        for prefix in gone {
            self.withdraw(node, prefix)?;
        }
        self.announce(node, &wishes.into_iter().collect::<Vec<_>>())
    }

    fn withdraw(&mut self, node: usize, prefix: IpNet) -> Result<(), (usize, Broken)> {
        if self.nodes[node].routes.remove(&prefix).is_none() {
            return Ok(());
        }
        self.withdrawals += 1;
        let since = self.nodes[node].clock(self.now);
        let input = Input::Withdraw(vec![prefix], since);
        match self.mutant {
            Some(Mutant::WithdrawForgotten) if self.withdrawals.is_multiple_of(3) => Ok(()),
            Some(Mutant::WithdrawLate) => {
                let run = self.nodes[node].runs;
                self.at(self.now + SECOND, Ev::Feed(node, run, Box::new(input)));
                Ok(())
            }
            _ => self.deliver(node, In::Input(input)),
        }
    }

    pub(super) fn announce(&mut self, node: usize, routes: &[(IpNet, bool)]) -> Result<(), (usize, Broken)> {
        let since = self.nodes[node].clock(self.now);
        self.nodes[node].routes.extend(routes.iter().copied());
        let routes = routes.iter().map(|(prefix, draining)| Node::route(*prefix, *draining, since)).collect();
        self.deliver(node, In::Input(Input::Announce(routes)))
    }

    /// What a planted bug does to a write.
    pub(super) fn spoil(&mut self, node: usize, conn: Conn, bytes: &mut Vec<u8>) {
        let mut keepalive = Vec::new();
        encode_keepalive(&mut keepalive);
        let established = self.nodes[node].taps.get(&conn).is_some_and(|tap| tap.established());
        match self.mutant {
            Some(Mutant::EndOfRibTwice) if established && *bytes == keepalive => {
                bascule_bgp::wire::update::encode::end_of_rib(bytes, Family::Ipv4);
            }
            Some(Mutant::NoKeepalive) if established && *bytes == keepalive => {
                bytes.clear();
            }
            Some(Mutant::UpdateAfterCease) if established && bytes.get(18) == Some(&3) => {
                bascule_bgp::wire::update::encode::end_of_rib(bytes, Family::Ipv4);
            }
            _ => {}
        }
    }
}
