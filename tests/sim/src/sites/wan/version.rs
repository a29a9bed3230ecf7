//! Relays of several versions (F32): the last one, this one, and a next one that says what nobody knows yet.

use core::time::Duration;

use bascule_core::site::state::message::{LATER, Message, RECORDS};
use bascule_core::site::state::record::{Key, Record};
use bascule_core::site::state::version::Speaks;

use super::super::mutant::Mutant;
use super::super::node::RELAYS;
use super::super::scene::THIS;
use super::World;

impl World {
    /// All relays of a site are other ones from now on.
    pub(super) fn upgrade(&mut self, site: usize, newest: u8) {
        if let Some(host) = &mut self.hosts[site] {
            host.newest = newest;
        }
        RELAYS.for_each(|node| self.fall(site, node));
        RELAYS.for_each(|node| self.rise(site, node));
        self.said[site] = self.now;
    }

    /// What the versions of two relays make of a message: what the next one adds, which those before it must leave out.
    pub(super) fn versions(&mut self, site: usize, to: usize, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        let newest = |site: usize| self.hosts[site].as_ref().map_or(THIS, |host| host.newest);
        let (own, theirs) = (newest(site), newest(to));
        let Ok(Some(message)) = Message::read(&bytes, true).map(|heard| heard.message) else { return vec![bytes] };
        if message.since() > theirs {
            self.foreign = Some(format!("site {to} speaks {theirs} and is told {message:?}"));
        }
        let bytes = match (message, self.mutant) {
            (Message::Hello { own, read, speaks }, Some(Mutant::NewerUnsaid)) => {
                let speaks = Speaks { newest: speaks.newest.min(THIS), ..speaks };
                Message::Hello { own, read, speaks }.encode()
            }
            (Message::Hello { own, read, speaks }, Some(Mutant::OlderUnheard)) => {
                let speaks = Speaks { newest: speaks.newest.max(THIS), ..speaks };
                Message::Hello { own, read, speaks }.encode()
            }
            (Message::Delta { incarnation, head, records }, _) if own > THIS && theirs <= THIS => {
                let made = |records| Message::Delta { incarnation, head, records };
                with_record(head, records, made)
            }
            (Message::Snapshot { incarnation, head, part, last, records }, _) if own > THIS && theirs <= THIS => {
                let made = |records| Message::Snapshot { incarnation, head, part, last, records };
                with_record(head, records, made)
            }
            _ => bytes,
        };
        if own <= THIS || theirs > THIS {
            return vec![bytes];
        }
        // The first that is said is Hello, which says that more may come.
        vec![[&bytes[..], b"more"].concat(), vec![200, 1, 2, 3]]
    }
}

/// Behind the records one with a key of the next version.
fn with_record(head: u64, mut records: Vec<Record>, made: impl Fn(Vec<Record>) -> Message) -> Vec<u8> {
    if records.len() == RECORDS {
        return made(records).encode();
    }
    records.push(Record { key: Key::Order(0), seq: head, age: Duration::ZERO, body: None });
    let mut bytes = made(records).encode();
    // Key 3 and its number 0, no distance, no age, no body.
    let known = bytes.split_off(bytes.len() - 5);
    debug_assert_eq!(known, [3, 0, 0, 0, 0]);
    bytes.extend([LATER, 1, 7, 0, 0, 0]);
    bytes
}
