//! Reads one connection beside its node, by nothing but bytes.

use std::collections::BTreeMap;

use bascule_bgp::io::Conn;
use bascule_bgp::wire::attr::community::GRACEFUL_SHUTDOWN;
use bascule_bgp::wire::header::MAX_LEN_EXTENDED;
use bascule_bgp::wire::{Capability, DecodeContext, Family, FamilySet, Framer, Message, Notification, Open, Update};
use ipnet::IpNet;

use crate::bgp::check::Broken;

/// A route as it is told: draining, MED.
pub(super) type Told = BTreeMap<IpNet, (bool, Option<u32>)>;

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Side {
    framer: Framer,
    pub(super) open: Option<Open>,
    pub(super) keepalive: bool,
    pub(super) notification: Option<Notification>,
    pub(super) rib: Told,
    pub(super) end_of_rib: BTreeMap<Family, u32>,
}

/// A connection as one node sees it.
#[derive(Debug, Default)]
pub(super) struct Tap {
    pub(super) sent: Side,
    pub(super) received: Side,
    /// The driver closed it, or it ended.
    pub(super) ended: bool,
    /// Bytes that the kernel has not taken.
    pub(super) pending: usize,
    /// Last arrival of bytes in the kernel, ns.
    pub(super) arrived: u64,
}

impl Tap {
    pub(super) fn wrote(&mut self, conn: Conn, bytes: &[u8]) -> Result<(), Broken> {
        let context = self.context();
        self.sent.read(bytes, context).map_err(|error| Broken::Undecodable { conn, error })
    }

    pub(super) fn read(&mut self, conn: Conn, bytes: &[u8]) -> Result<(), Broken> {
        let context = self.context();
        self.received.read(bytes, context).map_err(|error| Broken::Undecodable { conn, error })
    }

    /// OPENs and KEEPALIVEs went both ways, and nothing ended it.
    pub(super) fn established(&self) -> bool {
        let side = |side: &Side| side.keepalive && side.notification.is_none();
        !self.ended && side(&self.sent) && side(&self.received)
    }

    pub(super) fn families(&self) -> FamilySet {
        match (&self.sent.open, &self.received.open) {
            (Some(ours), Some(theirs)) => ours.families().intersection(theirs.families()),
            _ => FamilySet::EMPTY,
        }
    }

    /// Agreed hold time, seconds.
    pub(super) fn hold(&self) -> u16 {
        let time = |side: &Side| side.open.as_ref().map_or(240, |open| open.hold_time);
        time(&self.sent).min(time(&self.received))
    }

    pub(super) fn graceful(&self) -> bool {
        let has = |side: &Side| side.open.as_ref().is_some_and(|open| restarting(open).is_some());
        has(&self.sent) && has(&self.received)
    }

    fn context(&self) -> DecodeContext {
        let both = |has: &dyn Fn(&Open) -> bool| {
            [&self.sent.open, &self.received.open].into_iter().all(|open| open.as_ref().is_some_and(has))
        };
        let internal = match (&self.sent.open, &self.received.open) {
            (Some(ours), Some(theirs)) => ours.asn() == theirs.asn(),
            _ => false,
        };
        DecodeContext {
            four_octet_as: both(&|open| open.four_octet_as().is_some()),
            families: self.families(),
            ibgp: internal,
            enhanced_refresh: both(&|open| open.has(&Capability::EnhancedRouteRefresh)),
        }
    }
}

/// The R bit of an OPEN with graceful restart.
pub(super) fn restarting(open: &Open) -> Option<bool> {
    open.capabilities.iter().find_map(|capability| match capability {
        Capability::GracefulRestart { restarting, .. } => Some(*restarting),
        _ => None,
    })
}

impl Side {
    fn read(&mut self, bytes: &[u8], context: DecodeContext) -> Result<(), String> {
        self.framer.push(bytes);
        while let Some(frame) = self.framer.next(MAX_LEN_EXTENDED).map_err(|error| error.to_string())? {
            if self.notification.is_some() {
                return Err("a message after the NOTIFICATION".to_owned());
            }
            match Message::decode(&frame, &context).map_err(|error| error.to_string())? {
                Message::Open(open) => self.open = Some(open),
                Message::Keepalive => self.keepalive = true,
                Message::Notification(notification) => self.notification = Some(notification),
                Message::Update(update) => self.update(&update)?,
                Message::RouteRefresh(_) => {}
            }
        }
        Ok(())
    }

    fn update(&mut self, update: &Update) -> Result<(), String> {
        if !update.errors.is_empty() {
            return Err(format!("{:?}", update.errors));
        }
        if let Some(family) = update.end_of_rib {
            *self.end_of_rib.entry(family).or_default() += 1;
        }
        for prefix in update.withdrawn() {
            self.rib.remove(&prefix);
        }
        let draining = update.attributes.communities.contains(&GRACEFUL_SHUTDOWN);
        self.rib.extend(update.announced().map(|prefix| (prefix, (draining, update.attributes.med))));
        Ok(())
    }
}
