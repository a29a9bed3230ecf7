//! The successor's side of a planned move: the addresses go onto the link behind the closed fence, then the claim is made.
//!
//! The predecessor owns, answers and serves meanwhile, so this may take as long as the kernel takes; a grant that cannot be used in
//! time lapses, and nothing has happened. With the addresses there, what the predecessor hands on from the claim's first advert on is
//! served here.

use core::net::IpAddr;

use super::group::{Env, Group, Timer};
use crate::election::grace::Granter;
use crate::election::vrrp::Heard;
use crate::time::Instant;
use crate::types::Role;
use crate::wire::vrrp::PRIORITY_RELEASE;

/// A grant whose claim is being prepared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prepared {
    granter: Granter,
    /// The grant is void from here on.
    until: Instant,
    /// The addresses are there.
    pub(super) installed: bool,
}

impl Group {
    /// A genuine grant came: claim as soon as the addresses are there. Without a fence the kernel would answer for them from the moment they
    /// are: then the claim comes first.
    pub(super) fn prepare(&mut self, granter: IpAddr, until: Instant, env: &Env<'_>, now: Instant) {
        let granter = self.vrrp.granter(granter);
        let Some(link) = self.link.as_ref().map(|l| l.id).filter(|_| env.fenced()) else {
            self.vrrp.claim(granter, until, now);
            return;
        };
        // What is left of an earlier move away from here ends: the addresses stay.
        self.timers.stop(Timer::Drained);
        self.timers.stop(Timer::Unroute);
        self.timers.set(Timer::Prepared, until);
        self.prepared = Some(Prepared { granter, until, installed: false });
        let addresses = self.config.owned();
        self.installed = Some((link, addresses.clone()));
        self.put(link, addresses);
    }

    /// The driver has put our addresses on the link.
    pub(super) fn handle_installed(&mut self, env: &Env<'_>, now: Instant) {
        if let Some(prepared) = self.prepared.as_mut() {
            prepared.installed = true;
            let Prepared { granter, until, .. } = *prepared;
            self.vrrp.claim(granter, until, now);
            self.drain_outputs(env, now);
            self.give_up_grant(env);
        } else {
            self.announce(true, env, now);
        }
    }

    /// A grant that led to no claim is over.
    pub(super) fn give_up_grant(&mut self, env: &Env<'_>) {
        if self.prepared.take().is_some() {
            self.timers.stop(Timer::Prepared);
            self.finish_drain(env);
        }
    }

    /// Somebody who is not the granter owns: the grant has been overtaken.
    pub(super) fn check_grant(&mut self, heard: &Heard, env: &Env<'_>) {
        let other = |p: &Prepared| heard.priority != PRIORITY_RELEASE && !p.granter.said(heard);
        if self.vrrp.role() == Role::Backup && self.prepared.as_ref().is_some_and(other) {
            self.give_up_grant(env);
        }
    }
}
