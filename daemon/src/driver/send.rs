//! Adverts and announcements on their way out.

use std::net::IpAddr;
use std::time::Duration;

use bascule_core::announce::l2::FrameKind;
use bascule_core::time::Instant;
use bascule_core::types::{Family, LinkId};
use bascule_core::wire::multicast::{self, Header};
use bascule_core::wire::vrrp;
use tracing::warn;

use super::Driver;
use crate::net::NetError;
use crate::net::rt::boot_now;

/// What the IP header of an advert to the group says, as the options of the IP socket have it for the others.
const ADVERT: Header = Header { protocol: vrrp::PROTOCOL, hop_limit: vrrp::HOP_LIMIT, class: vrrp::CLASS };
/// The same of a message of the peer channel. Multicast stays on the link.
const PEER: Header = Header { hop_limit: 1, ..ADVERT };
/// One line tells of all announcements that a link refused in such a time.
const QUIET: Duration = Duration::from_secs(10);

/// Announcements that links refused, of which no line told yet.
#[derive(Debug, Default)]
pub(super) struct Refused {
    untold: u64,
    told: Option<Instant>,
}

impl Refused {
    /// One more; how many a line has to tell of now, if one is due.
    fn note(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| now.since(told) < QUIET) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

impl Driver {
    /// Hands an advert to its link. To the group it leaves as a whole frame, for which the kernel needs no entry of its neighbour table: when
    /// that is full, adverts through the IP layer vanish without an error, and every owner of the node loses what it owns.
    pub(super) fn send_advert(&self, link: LinkId, src: IpAddr, dst: IpAddr, payload: &[u8]) -> Result<(), NetError> {
        let frame = self.macs.get(&link).and_then(|mac| multicast::frame(*mac, src, dst, ADVERT, payload));
        if let (Some(frame), Some(socket)) = (frame, self.neighbors.get(&link)) {
            match socket.send(&frame) {
                // Some hundred addresses in one advert: the IP layer cuts it into fragments.
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {}
                sent => return sent,
            }
        }
        let index = usize::from(Family::of(&src) == Family::V6);
        self.vrrp[index].send(link, src, dst, payload)
    }

    /// Hands a message of the peer channel to its link; to the group as an advert leaves.
    pub(super) fn send_peer(&self, link: LinkId, src: IpAddr, dst: IpAddr, payload: &[u8]) -> Result<(), NetError> {
        let ports = multicast::Ports { src: self.peer_port, dst: self.peer_port };
        let frame = self.macs.get(&link).and_then(|mac| multicast::udp(*mac, src, dst, PEER, ports, payload));
        match (frame, self.neighbors.get(&link)) {
            (Some(frame), Some(socket)) => socket.send(&frame),
            _ => self.peers[usize::from(Family::of(&src) == Family::V6)].send(link, src, dst, self.peer_port, payload),
        }
    }

    /// Hands an announcement to its link.
    pub(super) fn send_frame(&mut self, link: LinkId, kind: FrameKind, bytes: &[u8]) {
        self.open_neighbor(link);
        match self.neighbors.get(&link).map(|socket| socket.send(bytes)) {
            Some(Ok(())) => self.ports.metrics.frame_sent(kind, 1),
            Some(Err(error)) => {
                self.ports.metrics.frame_refused(kind);
                if let Some(count) = self.refused.note(boot_now()) {
                    warn!(%error, link = link.0, kind = kind.as_str(), count, "announcements not sent");
                }
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_tells_of_all_that_was_refused_in_ten_seconds() {
        let mut refused = Refused::default();
        let at = |s| Instant::ZERO + Duration::from_secs(s);
        assert_eq!(refused.note(at(5)), Some(1));
        assert_eq!(refused.note(at(6)), None);
        assert_eq!(refused.note(at(14)), None);
        assert_eq!(refused.note(at(15)), Some(3));
        assert_eq!(refused.note(at(60)), Some(1));
    }
}
