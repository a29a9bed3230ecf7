//! A node: its speaker, what it wants announced, its clock, and what stands between its kernel and its speaker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use core::net::IpAddr;
use core::time::Duration;

use bascule_bgp::config::SpeakerConfig;
use bascule_bgp::graceful::{FormerRun, RestartMarker};
use bascule_bgp::io::{Conn, Route};
use bascule_bgp::speaker::Speaker;
use bascule_bgp::time::Instant;
use bascule_bgp::wire::{Family, FamilySet};
use ipnet::IpNet;

use crate::bgp::check::Broken;
use crate::bgp::scenario::SECOND;
use crate::bgp::tap::{Tap, Told};
use crate::bgp::tcp::In;

/// A shutdown or restart that was ordered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    /// Local time when withdrawals must be over, at the latest.
    pub(super) until: Instant,
    /// Back after so long.
    pub(super) back: u64,
    /// Connection that must end without a word.
    pub(super) silent: Option<Conn>,
    pub(super) planned: bool,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) speaker: Option<Speaker>,
    pub(super) config: SpeakerConfig,
    /// What this run has asked for: prefix, draining.
    pub(super) routes: BTreeMap<IpNet, bool>,
    /// What it will have asked for when its start is known.
    pub(super) wishes: BTreeMap<IpNet, bool>,
    pub(super) synced: bool,
    /// The wishes changed while the driver could not say so.
    pub(super) owes_routes: bool,
    pub(super) runs: u64,
    pub(super) listens: BTreeSet<IpAddr>,
    pub(super) taps: BTreeMap<Conn, Tap>,
    /// Of each connection number: the TCP and the end.
    pub(super) conns: BTreeMap<Conn, (usize, usize)>,
    pub(super) inbox: VecDeque<In>,
    pub(super) frozen_until: u64,
    pub(super) window_until: u64,
    pub(super) power_until: u64,
    pub(super) bfd_up: bool,
    pub(super) leaving: Option<Leaving>,
    pub(super) marker: Option<RestartMarker>,
    /// The next OPEN must carry the R bit while this is in time.
    pub(super) former: Option<FormerRun>,
    /// Established after the last turn.
    pub(super) session: Option<Conn>,
    pub(super) next_inbound: u64,
    /// Only the latest timer event counts.
    pub(super) timer: u64,
    /// Timers that fired at one moment.
    pub(super) fired: (Instant, u32),
    ppm: i64,
    offset: u64,
}

impl Node {
    pub(super) fn new(config: SpeakerConfig, ppm: i64, offset: u64) -> Self {
        Self {
            speaker: None,
            config,
            routes: BTreeMap::new(),
            wishes: BTreeMap::new(),
            synced: false,
            owes_routes: false,
            runs: 0,
            listens: BTreeSet::new(),
            taps: BTreeMap::new(),
            conns: BTreeMap::new(),
            inbox: VecDeque::new(),
            frozen_until: 0,
            window_until: 0,
            power_until: 0,
            bfd_up: true,
            leaving: None,
            marker: None,
            former: None,
            session: None,
            next_inbound: Conn::INBOUND,
            timer: 0,
            fired: (Instant::ZERO, 0),
            ppm,
            offset,
        }
    }

    /// Its own clock.
    pub(super) fn clock(&self, t: u64) -> Instant {
        let drift = i128::from(t) * i128::from(self.ppm) / 1_000_000;
        let local = i128::from(t) + drift + i128::from(self.offset);
        Instant::from_nanos(u64::try_from(local).expect("a clock that is a little slow stays positive"))
    }

    /// When its clock has reached `local`, never too early.
    pub(super) fn world_time(&self, local: Instant) -> u64 {
        let since = i128::from(local.as_nanos()) - i128::from(self.offset);
        let t = since * 1_000_000 / (1_000_000 + i128::from(self.ppm)) + 1;
        let mut t = u64::try_from(t).unwrap_or(0);
        while self.clock(t) < local {
            t += 1;
        }
        t
    }

    pub(super) fn frozen(&self, t: u64) -> bool {
        t < self.frozen_until
    }

    /// A route of the model as an input.
    pub(super) fn route(prefix: IpNet, draining: bool, since: Instant) -> Route {
        Route { prefix, vip: "vip".to_owned(), draining, since }
    }

    /// What a neighbor with these families shall be told.
    pub(super) fn wanted(&self, families: FamilySet) -> Told {
        let med = self.config.neighbors.first().and_then(|neighbor| neighbor.export.default.attributes.med);
        let of_family = self.routes.iter().filter(|(prefix, _)| families.contains(Family::of(prefix)));
        of_family.map(|(prefix, draining)| (*prefix, (*draining, med))).collect()
    }

    pub(super) fn established(&self) -> Option<Conn> {
        self.taps.iter().find(|(_, tap)| tap.established()).map(|(conn, _)| *conn)
    }

    /// Connections that its driver holds.
    pub(super) fn open(&self) -> usize {
        self.taps.values().filter(|tap| !tap.ended).count()
    }

    /// What must hold after every turn.
    pub(super) fn check(&self, t: u64) -> Result<(), Broken> {
        let now = self.clock(t);
        let mut established = self.taps.iter().filter(|(_, tap)| tap.established());
        if let (Some((first, _)), Some((second, _))) = (established.next(), established.next()) {
            return Err(Broken::TwoEstablished(*first, *second));
        }
        for (conn, tap) in &self.taps {
            if let Some((family, times)) = tap.sent.end_of_rib.iter().find(|(_, times)| **times > 1) {
                return Err(Broken::EndOfRib { family: *family, times: *times, conn: *conn });
            }
            if tap.established() && tap.pending == 0 && self.leaving.is_none() {
                let wanted = self.wanted(tap.families());
                if tap.sent.rib != wanted {
                    let (told, wanted) = (shown(&tap.sent.rib), shown(&wanted));
                    return Err(Broken::Untold { conn: *conn, told, wanted });
                }
            }
        }
        // A driver that was held up expires its timers last.
        if let Some(leaving) = &self.leaving
            && t > self.frozen_until + SECOND
            && now > leaving.until + Duration::from_secs(1)
        {
            return Err(Broken::ShutdownSlow);
        }
        Ok(())
    }

    /// What must hold for a write before it is made. `bytes` were read by the tap already.
    pub(super) fn check_write(&mut self, conn: Conn, t: u64) -> Result<(), Broken> {
        let now = self.clock(t);
        let Some(tap) = self.taps.get(&conn) else { return Ok(()) };
        if let Some(open) = &tap.sent.open
            && self.former.take().is_some_and(|former| former.restarting(now))
            && crate::bgp::tap::restarting(open) == Some(false)
        {
            return Err(Broken::RestartUnsaid);
        }
        if !self.synced && !tap.sent.end_of_rib.is_empty() {
            return Err(Broken::EndOfRibEarly(conn));
        }
        let Some(notification) = &tap.sent.notification else { return Ok(()) };
        if notification.code.number() == 4 {
            let silence = t.saturating_sub(tap.arrived);
            let hold = u64::from(if tap.received.open.is_some() { tap.hold() } else { 240 }) * SECOND;
            // A clock may be a little fast.
            if silence + SECOND / 10 < hold {
                return Err(Broken::HoldTooEarly { conn, silence_ms: silence / 1_000_000, hold_ms: hold / 1_000_000 });
            }
        }
        if let Some(leaving) = &self.leaving {
            if leaving.silent == Some(conn) {
                return Err(Broken::RestartSpoke(conn));
            }
            // A dead path (6/10) or a reset by the operator ends it before its time.
            let reason = notification.hard_reset_reason().unwrap_or_else(|| notification.clone());
            if (reason.code.number(), reason.subcode) == (6, 2) && !tap.sent.rib.is_empty() && now < leaving.until {
                return Err(Broken::ShutdownWithRoutes(conn, tap.sent.rib.len()));
            }
        }
        Ok(())
    }
}

/// Routes, short.
pub(super) fn shown(told: &Told) -> String {
    let route = |(prefix, (draining, med)): (&IpNet, &(bool, Option<u32>))| {
        let (draining, med) = (if *draining { " draining" } else { "" }, med.map(|m| format!(" med {m}")));
        format!("{prefix}{draining}{}", med.unwrap_or_default())
    };
    format!("[{}]", told.iter().map(route).collect::<Vec<_>>().join(", "))
}
