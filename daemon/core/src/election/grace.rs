//! The moment after a grant: adverts of the granter that crossed our first one.

use core::net::IpAddr;
use core::time::Duration;

use super::vrrp::Heard;
use crate::types::Family;

/// How long an advert of the granter that crossed our first one may be under way at most: a LAN and a busy node.
pub(super) const GRACE_MAX: Duration = Duration::from_millis(20);

/// The owner that granted the group to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granter {
    /// Where the grant came from.
    pub address: IpAddr,
    /// In its last advert; tells its adverts of the other family, whose source no grant names.
    pub priority: Option<u8>,
}

impl Granter {
    /// Is this an advert of its? Of any other node it is none of a hand-over's: who outranks us preempts us as at any other time, its
    /// kernel announces, and ours has given way already.
    pub fn said(&self, heard: &Heard) -> bool {
        let other_family = Family::of(&heard.source) != Family::of(&self.address);
        heard.source == self.address || other_family && self.priority.is_none_or(|said| said == heard.priority)
    }
}

/// While adverts of the granter may have crossed our first one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grace {
    pub(super) granter: Granter,
    /// One advert of its was answered.
    pub(super) answered: bool,
}
