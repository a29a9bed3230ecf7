//! Messages as bytes: tags, numbers of seven bits a byte, records by their distance from the head.

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;
use std::collections::BTreeMap;

use super::{BUILD, Cursor, LATER, MORE, Message, RECORDS};
use crate::site::SiteId;
use crate::site::state::record::{Body, Key, Record};
use crate::site::state::version::Speaks;
use crate::site::summary::{ServiceId, Summary};

pub(super) const fn printable(byte: &u8) -> bool {
    matches!(*byte, b' '..=b'~')
}

pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn tag(&mut self, tag: u8) {
        self.0.push(tag);
    }

    /// LEB128: seven bits a byte, the lowest first.
    pub(super) fn number(&mut self, mut n: u64) {
        loop {
            let low = u8::try_from(n & 0x7f).unwrap_or(0);
            n >>= 7;
            if n == 0 {
                return self.0.push(low);
            }
            self.0.push(low | 0x80);
        }
    }

    /// Sequences as the distance from the head, either way: small numbers mostly.
    pub(super) fn records(&mut self, head: u64, records: &[Record]) {
        self.number(records.len() as u64);
        for record in records {
            match record.key {
                Key::Vip(ip) => {
                    self.tag(1);
                    let ip = match ip {
                        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                        IpAddr::V6(ip) => ip,
                    };
                    self.0.extend(ip.octets());
                }
                Key::Service(id) => {
                    self.tag(2);
                    self.number(u64::from(id.0));
                }
                Key::Order(id) => {
                    self.tag(3);
                    self.number(u64::from(id));
                }
            }
            let distance = head.abs_diff(record.seq) << 1 | u64::from(record.seq > head);
            self.number(distance);
            self.number(u64::try_from(record.age.as_millis()).unwrap_or(u64::MAX));
            match record.body {
                None => self.tag(0),
                Some(Body::Vip { service, term }) => {
                    self.tag(1);
                    self.number(u64::from(service.0));
                    self.number(term);
                }
                Some(Body::Service(s)) => {
                    self.tag(if s.draining { 3 } else { 2 });
                    for n in [u32::from(s.ready), u32::from(s.expected), s.capacity, s.demand] {
                        self.number(u64::from(n));
                    }
                }
                Some(Body::Order { service, seconds }) => {
                    self.tag(4);
                    self.number(service.map_or(0, |s| u64::from(s.0) + 1));
                    self.number(u64::from(seconds));
                }
            }
        }
    }
}

pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    /// The peer speaks later versions.
    pub(super) newer: bool,
    pub(super) skipped: u32,
}

impl<'a> Reader<'a> {
    fn tag(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let out = self.bytes.get(self.at..self.at + N)?.try_into().ok()?;
        self.at += N;
        Some(out)
    }

    fn number(&mut self) -> Option<u64> {
        let mut out = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.tag()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                return None;
            }
            out |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(out);
            }
        }
        None
    }

    fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.number()?).ok()
    }

    /// A length and so many bytes.
    fn block(&mut self) -> Option<&'a [u8]> {
        let len: usize = self.small()?;
        let block = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(block)
    }

    /// Inside: `None` for a kind that is left out.
    pub(super) fn message(&mut self) -> Option<Option<Message>> {
        let tag = self.tag()?;
        Some(Some(match tag {
            1 => {
                let [own, read] = [self.cursor()?, self.cursor()?];
                let speaks = Speaks { oldest: self.tag()?, newest: self.tag()? };
                if speaks.oldest == 0 || speaks.newest < speaks.oldest {
                    return None;
                }
                self.newer |= speaks.newest > Speaks::OURS.newest;
                Message::Hello { own, read, speaks }
            }
            2 => {
                let (incarnation, head) = (self.number()?, self.number()?);
                Message::Delta { incarnation, head, records: self.records(head)? }
            }
            3 | 4 => {
                let (incarnation, head, part) = (self.number()?, self.number()?, self.small()?);
                Message::Snapshot { incarnation, head, part, last: tag == 4, records: self.records(head)? }
            }
            5 => {
                let (incarnation, head) = (self.number()?, self.number()?);
                let lag = Duration::from_millis(self.number()?);
                Message::Beat { incarnation, head, lag, root: u64::from_be_bytes(self.array()?) }
            }
            7 => Message::Resync,
            8 => Message::Contested { instance: self.number()? },
            9 => Message::Ask { service: ServiceId(self.small()?), amount: self.small()? },
            10 => Message::Lend { service: ServiceId(self.small()?), amount: self.small()? },
            11 => {
                let build = self.block().filter(|text| text.len() <= BUILD && text.iter().all(printable))?;
                Message::About { build: build.iter().map(|byte| char::from(*byte)).collect() }
            }
            12 => Message::Reach { sites: self.sites()? },
            _ if self.newer => {
                self.at = self.bytes.len();
                self.skipped += 1;
                return Some(None);
            }
            _ => return None,
        }))
    }

    /// Sites with a bit each, by number: none twice, so that there are no more than there can be.
    fn sites(&mut self) -> Option<BTreeMap<SiteId, bool>> {
        let count: usize = self.small()?;
        let (mut sites, mut last) = (BTreeMap::new(), 0);
        for _ in 0..count {
            let [site, reached] = self.array::<2>()?;
            if site <= last || site == u8::MAX || reached > 1 {
                return None;
            }
            last = site;
            let _new = sites.insert(SiteId(site), reached == 1);
        }
        Some(sites)
    }

    fn cursor(&mut self) -> Option<Cursor> {
        Some(Cursor { incarnation: self.number()?, instance: self.number()?, seq: self.number()? })
    }

    fn records(&mut self, head: u64) -> Option<Vec<Record>> {
        let count: usize = self.small()?;
        // A record has four bytes at least: a count that the bytes cannot hold reserves nothing.
        if count > RECORDS || count * 4 > self.bytes.len() - self.at {
            return None;
        }
        let mut records = Vec::with_capacity(count);
        for _ in 0..count {
            records.extend(self.record(head)?);
        }
        Some(records)
    }

    /// Inside: `None` for one that is left out.
    fn record(&mut self, head: u64) -> Option<Option<Record>> {
        let key = match self.tag()? {
            1 => {
                let ip = Ipv6Addr::from(self.array::<16>()?);
                Some(Key::Vip(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)))
            }
            2 => Some(Key::Service(ServiceId(self.small()?))),
            3 => Some(Key::Order(self.small()?)),
            LATER.. if self.newer => self.block().map(|_| None)?,
            _ => return None,
        };
        let distance = self.number()?;
        let seq = if distance & 1 == 1 { head.checked_add(distance >> 1)? } else { head.checked_sub(distance >> 1)? };
        let age = Duration::from_millis(self.number()?);
        let tag = self.tag()?;
        let more = tag & MORE != 0;
        if more && !self.newer {
            return None;
        }
        // Inside: `None` for a body that is left out.
        let body: Option<Option<Body>> = match tag & !MORE {
            0 => Some(None),
            1 => Some(Some(Body::Vip { service: ServiceId(self.small()?), term: self.number()? })),
            tag @ (2 | 3) => Some(Some(Body::Service(Summary {
                ready: self.small()?,
                expected: self.small()?,
                draining: tag == 3,
                capacity: self.small()?,
                demand: self.small()?,
            }))),
            4 => {
                let service: u64 = self.number()?;
                let service = match service.checked_sub(1) {
                    Some(id) => Some(ServiceId(u32::try_from(id).ok()?)),
                    None => None,
                };
                Some(Some(Body::Order { service, seconds: self.small()? }))
            }
            LATER.. if self.newer => self.block().map(|_| None)?,
            _ => return None,
        };
        if more {
            let _left_out = self.block()?;
            self.skipped += 1;
        }
        let (Some(key), Some(body)) = (key, body) else {
            self.skipped += 1;
            return Some(None);
        };
        body.is_none_or(|b| b.fits(&key)).then_some(Some(Record { key, seq, age, body }))
    }
}
