//! What an operator asks for: drains, stops and moves.

use core::net::IpAddr;
use core::time::Duration;

use super::Node;
use super::event::Event;
use super::group::Group;
use super::io::{Action, Command};
use crate::handover::Wanted;
use crate::time::Instant;
use crate::types::Role;

#[derive(Debug)]
pub(super) struct PendingMove {
    id: u64,
    group: String,
    to: String,
    was_active: bool,
    pub(super) deadline: Instant,
}

/// How long a move may take before the operator is told that it did not happen: three queries, a grant and a take-over.
const MOVE_DEADLINE: Duration = Duration::from_secs(2);

impl Node {
    pub(super) fn handle_command(&mut self, id: u64, command: Command, now: Instant) {
        match command {
            Command::Drain | Command::Undrain => {
                let on = command == Command::Drain;
                if self.drained != on {
                    self.drained = on;
                    self.actions.push_back(Action::Report(Event::Drain { on }));
                    self.evaluate(now);
                }
                let text = if on { "drained: every group is being given away" } else { "taking part again" };
                self.actions.push_back(Action::CommandDone { id, result: Ok(text.to_owned()) });
            }
            Command::Stop | Command::Restart => {
                // A stop that is under way is not turned into a restart: addresses are on their way off already.
                self.restarting = self.restarting || !self.stopping && command == Command::Restart;
                self.stopping = true;
                self.evaluate(now);
                let text = if self.restarting { "stopping for a restart" } else { "stopping" };
                self.actions.push_back(Action::CommandDone { id, result: Ok(text.to_owned()) });
            }
            Command::Move { vip, to } => self.start_move(id, &vip, to, now),
        }
    }

    fn start_move(&mut self, id: u64, vip: &str, to: String, now: Instant) {
        let address: Option<IpAddr> = vip.parse().ok();
        let wanted = |g: &Group| g.config.name == vip || address.is_some_and(|a| g.config.owns(a));
        let known: Vec<&str> = self.groups.iter().map(|g| g.config.name.as_str()).collect();
        let refusal = match self.groups.iter().find(|g| wanted(g)) {
            Some(g) if g.lease.is_some() => Some(format!(
                "{} is elected by a lease: whoever asks first is given it, so no node can be chosen; `bascule drain` on its owner gives it away",
                g.config.name
            )),
            _ if self.config.keys.is_empty() => {
                Some("no peer key is configured (peers.keyFile): a move needs one".to_owned())
            }
            None if self
                .anycast
                .iter()
                .any(|a| a.config.name == vip || address.is_some_and(|v| a.config.addresses.contains(&v))) =>
            {
                Some(format!("{vip} is announced by every node (scope: all): there is nothing to move"))
            }
            None => Some(format!("no group or address {vip}; known groups: {}", known.join(", "))),
            Some(g) if g.vrrp.role() == Role::Active && to == self.config.node => {
                Some(format!("{} is owned by {to} already", g.config.name))
            }
            Some(g) if g.handover.in_progress() => Some(format!("{} is being handed over already", g.config.name)),
            Some(_) => None,
        };
        if let Some(why) = refusal {
            self.actions.push_back(Action::CommandDone { id, result: Err(why) });
            return;
        }
        let deadline = now + MOVE_DEADLINE;
        let mut pending = None;
        for group in self.groups.iter_mut().filter(|g| wanted(g)) {
            let was_active = group.vrrp.role() == Role::Active;
            pending = Some(PendingMove { id, group: group.config.name.clone(), to: to.clone(), was_active, deadline });
            if was_active {
                group.start_handover(Wanted::Node(to.clone()), now);
            } else {
                let nonce = group.nonce();
                group.handover.ask_move(to.clone(), nonce, now);
            }
        }
        self.moves.extend(pending);
        self.each(now, |g, env, now| g.drain_outputs(env, now));
    }

    /// A move is done when the group changed hands as seen from here.
    pub(super) fn settle_moves(&mut self, now: Instant) {
        let (groups, actions, own) = (&self.groups, &mut self.actions, &self.config.node);
        self.moves.retain(|m| {
            let Some(group) = groups.iter().find(|g| g.config.name == m.group) else { return false };
            let active = group.vrrp.role() == Role::Active;
            let arrived =
                if m.was_active { !active } else { active || *own != m.to && group.owner_changed(m.deadline) };
            let failed = m.was_active && active && !group.handover.in_progress();
            let result = if arrived {
                Ok(format!("{} moved to {}", m.group, m.to))
            } else if failed || now >= m.deadline {
                Err(format!("{} did not move to {}", m.group, m.to))
            } else {
                return true;
            };
            actions.push_back(Action::CommandDone { id: m.id, result });
            false
        });
    }
}
