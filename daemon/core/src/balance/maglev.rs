//! Maglev (Eisenbud et al.: "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4) over weighted members.
//!
//! Every node computes the same table from the same members, whatever their order: positions come from names by a hash that is
//! fixed here, and never from ids, addresses or the process.

use core::hash::Hasher as _;
use core::net::IpAddr;

use siphasher::sip::SipHasher13;

use crate::service::ServiceKey;

/// Sizes of tables: primes below powers of two, so that one step of the permutation visits every row. 65,521 is the largest that a table
/// word can hold.
pub const SIZES: [u16; 11] = [61, 127, 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521];

/// Keys of the two hashes of a name: digits of pi. They are public, as members are not chosen by an attacker; changing them moves rows.
const OFFSET_KEY: u64 = 0x243f_6a88_85a3_08d3;
const SKIP_KEY: u64 = 0x1319_8a2e_0370_7344;
const SERVICE_KEY: u64 = 0xa409_3822_299f_31d0;

/// A member of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// What the rows say; never 0.
    pub id: u16,
    /// What its rows are computed from; unique.
    pub name: String,
    /// Its share; 0: no rows.
    pub weight: u32,
}

/// What makes the tables of two services differ, so that the rounding of one does not fall on the same member in all.
pub fn seed(key: &ServiceKey) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(SERVICE_KEY, 0);
    let vip = match key.vip {
        IpAddr::V4(vip) => vip.to_ipv6_mapped(),
        IpAddr::V6(vip) => vip,
    };
    hasher.write(&vip.octets());
    hasher.write(&key.port.to_be_bytes());
    hasher.write(&[key.protocol.number()]);
    hasher.finish()
}

/// The smallest size for so many members of so large a total weight (relative to the lightest, at best).
///
/// 25 rows a member keep the busiest within 4 % of the mean (one row too many out of 25); the finer the weights, the more rows they
/// need to show, up to [`FINEST`].
pub fn size(members: usize, total_weight: u64) -> u16 {
    let by_count = u64::try_from(members).unwrap_or(u64::MAX).saturating_mul(25);
    let by_weight = total_weight.saturating_mul(4).min(FINEST);
    let wanted = by_count.max(by_weight);
    SIZES.into_iter().find(|s| u64::from(*s) >= wanted).unwrap_or(SIZES[SIZES.len() - 1])
}

/// Rows that weights alone may ask for: a weight of 1 beside one of 1,000 is worth 32 KiB and no more.
const FINEST: u64 = 4093;

/// A position in the permutation of one member.
struct Walk {
    id: u16,
    at: u32,
    skip: u32,
    weight: u64,
    /// Turns saved up, in units of the largest weight.
    credit: u64,
}

/// Fills `rows` rows (one of [`SIZES`]); empty when no member has weight.
pub fn fill(seed: u64, members: &[Member], rows: u16) -> Vec<u16> {
    let size = u32::from(rows);
    let mut members: Vec<&Member> = members.iter().filter(|m| m.weight > 0).collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let mut walks: Vec<Walk> = members.into_iter().map(|m| walk(seed, m, size)).collect();
    let Some(heaviest) = walks.iter().map(|w| w.weight).max() else { return Vec::new() };
    let mut table = vec![0; usize::from(rows)];
    let mut left = size;
    while left > 0 {
        for walk in &mut walks {
            walk.credit += walk.weight;
            if walk.credit < heaviest || left == 0 {
                continue;
            }
            walk.credit -= heaviest;
            // Ends: a row is left, and the permutation passes every row.
            while table[walk.at as usize] != 0 {
                walk.step(size);
            }
            table[walk.at as usize] = walk.id;
            walk.step(size);
            left -= 1;
        }
    }
    table
}

impl Walk {
    fn step(&mut self, size: u32) {
        self.at += self.skip;
        if self.at >= size {
            self.at -= size;
        }
    }
}

fn walk(seed: u64, member: &Member, size: u32) -> Walk {
    let below = |key, limit: u32| u32::try_from(hash(key, seed, &member.name) % u64::from(limit)).unwrap_or_default();
    Walk {
        id: member.id,
        at: below(OFFSET_KEY, size),
        skip: 1 + below(SKIP_KEY, size - 1),
        weight: u64::from(member.weight),
        credit: 0,
    }
}

fn hash(key: u64, seed: u64, name: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(key, seed);
    hasher.write(name.as_bytes());
    hasher.finish()
}
