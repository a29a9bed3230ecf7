//! Where neighbors dial us: one listener for each family that somebody is expected from, and who is expected.
//!
//! Who is not expected is closed at once and never reaches the speaker. A listener that cannot be opened is a trouble of the room, and is
//! tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bascule_bgp::io::Conn;
use bascule_core::time::Instant;

use crate::net::rt::{Interest, Poller};
use crate::net::tcp::{Listener, Options, Stream};

/// Tokens of the listeners. Numbers of accepted connections begin at 2^63 and cannot reach them.
const TOKENS: [u64; 2] = [u64::MAX - 2, u64::MAX - 1];
const SIDES: [usize; 2] = [0, 1];
/// How long a listener rests that failed: its address is taken, or no descriptor is left.
const REST: Duration = Duration::from_secs(1);
/// Strangers that are named in the log, each once; more are only closed.
const STRANGERS: usize = 64;
/// Strangers that are closed in one turn.
const ACCEPTS: usize = 16;

#[derive(Debug)]
pub(super) struct Door {
    listen: SocketAddr,
    expected: BTreeMap<IpAddr, Expected>,
    /// IPv4, IPv6.
    sides: [Side; 2],
    next: u64,
    strangers: BTreeSet<IpAddr>,
}

#[derive(Debug)]
struct Expected {
    how: Options,
    /// Its key stands on the listener. Until then it is a stranger: it must not get in without a password that it should have.
    keyed: bool,
}

#[derive(Debug, Default)]
struct Side {
    listener: Option<Listener>,
    /// Why it is not as it should be.
    trouble: Option<String>,
    /// When it is tried again.
    again: Option<Instant>,
}

impl Door {
    pub(super) fn new(listen: SocketAddr) -> Self {
        let (sides, strangers) = (Default::default(), BTreeSet::new());
        Self { listen, expected: BTreeMap::new(), sides, next: Conn::INBOUND, strangers }
    }

    pub(super) fn is(token: u64) -> bool {
        TOKENS.contains(&token)
    }

    pub(super) fn troubles(&self) -> Vec<String> {
        self.sides.iter().filter_map(|side| side.trouble.clone()).collect()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.sides.iter().filter_map(|side| side.again).min()
    }

    /// Listens elsewhere from now on; connections that stand stay.
    pub(super) fn move_to(&mut self, listen: SocketAddr, poller: &Poller, now: Instant) {
        if listen == self.listen {
            return;
        }
        self.listen = listen;
        for side in SIDES {
            self.sides[side] = Side::default();
            self.settle(side, poller, now);
        }
    }

    /// Lets a neighbor in; what was known of its address before is replaced. Two neighbors with one link-local address on two links cannot
    /// both be let in: the kernel keeps one key for an address.
    pub(super) fn expect(&mut self, remote: IpAddr, how: Options, poller: &Poller, now: Instant) {
        self.expected.insert(remote, Expected { how, keyed: false });
        self.strangers.remove(&remote);
        self.settle(side_of(remote), poller, now);
    }

    pub(super) fn forget(&mut self, remote: IpAddr, poller: &Poller, now: Instant) {
        self.expected.remove(&remote);
        let side = side_of(remote);
        if let Some(listener) = &self.sides[side].listener
            && let Err(error) = listener.set_key(remote, None)
        {
            tracing::warn!(%error, %remote, "a key was not taken back; the neighbor is refused all the same");
        }
        self.settle(side, poller, now);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, poller: &Poller) {
        for side in SIDES {
            if self.sides[side].again.is_some_and(|at| at <= now) {
                self.settle(side, poller, now);
            }
        }
    }

    /// Brings a side to what is expected of it: open with every key, or closed.
    fn settle(&mut self, side: usize, poller: &Poller, now: Instant) {
        let before = self.sides[side].trouble.take();
        self.sides[side].again = None;
        if let Err(error) = self.open(side, poller) {
            if before.as_ref() != Some(&error) {
                tracing::error!(error, "neighbors cannot dial us");
            }
            self.sides[side].trouble = Some(error);
            self.sides[side].again = Some(now + REST);
        } else if before.is_some() {
            tracing::info!(listen = %self.listen, "neighbors can dial us");
        }
    }

    fn open(&mut self, side: usize, poller: &Poller) -> Result<(), String> {
        let wanted = self.expected.iter_mut().filter(|(remote, _)| side_of(**remote) == side);
        let mut wanted: Vec<_> = wanted.map(|(remote, expected)| (*remote, expected)).collect();
        if wanted.is_empty() {
            self.sides[side].listener = None;
            return Ok(());
        }
        let slot = &mut self.sides[side].listener;
        let fresh = slot.is_none();
        let listener = match slot.take() {
            Some(listener) => listener,
            None => {
                wanted.iter_mut().for_each(|(_, expected)| expected.keyed = false);
                Listener::bind(address(self.listen, side)?).map_err(|e| e.to_string())?
            }
        };
        let ttl = wanted.iter().map(|(_, e)| e.how.hops.ttl()).max().unwrap_or(u8::MAX);
        let least = wanted.iter().map(|(_, e)| e.how.hops.least()).min().unwrap_or_default();
        let mut done = listener.set_hops(ttl, least).map_err(|e| e.to_string());
        // Keys stand before the first segment is heard. One that is refused keeps only its neighbor out.
        for (remote, expected) in wanted.iter_mut().filter(|(_, expected)| !expected.keyed) {
            match listener.set_key(*remote, expected.how.key.as_ref()) {
                Ok(()) => expected.keyed = true,
                Err(error) => done = Err(error.to_string()),
            }
        }
        if fresh {
            listener.listen().map_err(|e| e.to_string())?;
            poller.add(&listener, TOKENS[side]).map_err(|e| e.to_string())?;
        } else {
            // It may rest after a failure.
            poller.change(&listener, TOKENS[side], Interest::Read).map_err(|e| e.to_string())?;
        }
        *slot = Some(listener);
        done
    }

    /// Takes one connection of somebody who is expected.
    pub(super) fn accept(&mut self, token: u64, now: Instant, poller: &Poller) -> Option<(Conn, Stream)> {
        let side = TOKENS.iter().position(|known| *known == token)?;
        for _ in 0..ACCEPTS {
            let accepted = match self.sides[side].listener.as_ref()?.accept() {
                Ok(accepted) => accepted?,
                Err(error) => {
                    self.rest(side, &error.to_string(), now, poller);
                    return None;
                }
            };
            match self.admit(&accepted) {
                Ok(()) => {
                    let conn = Conn(self.next);
                    self.next += 1;
                    return Some((conn, accepted));
                }
                Err(reason) => self.turn_away(&accepted, &reason),
            }
        }
        None
    }

    fn admit(&self, stream: &Stream) -> Result<(), String> {
        let (remote, local) = (stream.remote(), stream.local());
        let expected = self.expected.get(&remote.ip()).filter(|expected| expected.keyed);
        let how = &expected.ok_or("nobody is expected from there")?.how;
        if how.source.is_some_and(|source| source != local.ip()) {
            return Err(format!("it dialled {}, not the source of this neighbor", local.ip()));
        }
        stream.protect(how).map_err(|error| error.to_string())
    }

    fn turn_away(&mut self, stream: &Stream, reason: &str) {
        let remote = stream.remote().ip();
        if self.strangers.len() < STRANGERS && self.strangers.insert(remote) {
            tracing::warn!(%remote, reason, "a BGP connection was turned away; said once for each address");
        }
    }

    /// Without a free descriptor the same connection would be offered for ever.
    fn rest(&mut self, side: usize, error: &str, now: Instant, poller: &Poller) {
        if let Some(listener) = &self.sides[side].listener
            && let Err(error) = poller.change(listener, TOKENS[side], Interest::Errors)
        {
            tracing::error!(%error, "a listener cannot be paused");
        }
        if self.sides[side].trouble.is_none() {
            tracing::error!(error, "neighbors cannot dial us");
        }
        self.sides[side].trouble = Some(error.to_owned());
        self.sides[side].again = Some(now + REST);
    }
}

fn side_of(remote: IpAddr) -> usize {
    usize::from(remote.is_ipv6())
}

/// Where one family is heard: the wildcard stands for both.
fn address(listen: SocketAddr, side: usize) -> Result<SocketAddr, String> {
    let any: IpAddr = if side == 0 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    match listen.ip() {
        ip if ip.is_unspecified() => Ok(SocketAddr::new(any, listen.port())),
        ip if side_of(ip) == side => Ok(listen),
        _ => Err(format!("listen {listen}: a neighbor of the other family cannot dial it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wildcard_stands_for_both_families() {
        let listen = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for any in ["[::]:179", "0.0.0.0:179"] {
            assert_eq!(address(listen(any), 0), Ok(listen("0.0.0.0:179")));
            assert_eq!(address(listen(any), 1), Ok(listen("[::]:179")));
        }
        assert_eq!(address(listen("10.0.0.1:1790"), 0), Ok(listen("10.0.0.1:1790")));
        assert!(address(listen("10.0.0.1:1790"), 1).is_err());
    }
}
