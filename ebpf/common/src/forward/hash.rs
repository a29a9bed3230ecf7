//! The keyed hashes. Every node of every site computes the same value from the same bytes.
//!
//! Both are SipHash (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012) over whole 64-bit words in little-endian
//! order: bit for bit what any SipHash gives for those bytes. One round less per word (1-3) steers flows, where an attacker gains
//! at most an uneven row; the full 2-4 authenticates encapsulation.

use crate::VipKey;

/// What names a flow at the balancing tier, as the client sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Client address.
    pub client: VipKey,
    /// VIP.
    pub vip: VipKey,
    /// Client port, network order; 0 where the service hashes without it (ClientIP affinity) and for portless protocols.
    pub client_port: u16,
    /// Port of the service, network order.
    pub vip_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl Tuple {
    /// The keyed flow hash: SipHash-1-3 over five words: client, VIP, then `client_port | vip_port << 16 | protocol << 32`, where
    /// the ports are the numbers whose little-endian bytes are the bytes on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn hash(&self, key: [u64; 2]) -> u64 {
        let (c0, c1) = halves(&self.client);
        let (v0, v1) = halves(&self.vip);
        let ports = self.client_port as u64 | (self.vip_port as u64) << 16 | (self.protocol as u64) << 32;
        siphash13(key, [c0, c1, v0, v1, ports])
    }
}

/// The two little-endian words of an address.
#[inline(always)]
const fn halves(key: &VipKey) -> (u64, u64) {
    let all = u128::from_le_bytes(key.addr);
    (all as u64, (all >> 64) as u64)
}

/// Maps the upper half of a hash onto `0..m` (Lemire: "Fast random integer generation in an interval", 2019).
#[inline(always)]
#[must_use]
pub const fn fast_range(hash32: u32, m: u32) -> u32 {
    ((hash32 as u64 * m as u64) >> 32) as u32
}

/// UDP source port of the outer header: 49152..=65535 (RFC 7605 and RFC 8085 section 5.1.1: entropy in the dynamic range).
#[inline(always)]
#[must_use]
pub const fn entropy_port(hash: u64) -> u16 {
    0xc000 | (hash as u16 & 0x3fff)
}

/// SipHash-1-3 of `words` under `key` (little-endian halves).
#[inline(always)]
#[must_use]
pub const fn siphash13<const N: usize>(key: [u64; 2], words: [u64; N]) -> u64 {
    siphash::<1, 3, N>(key, words)
}

/// SipHash-2-4 of `words` under `key` (little-endian halves).
#[inline(always)]
#[must_use]
pub const fn siphash24<const N: usize>(key: [u64; 2], words: [u64; N]) -> u64 {
    siphash::<2, 4, N>(key, words)
}

#[inline(always)]
const fn siphash<const C: usize, const D: usize, const N: usize>(key: [u64; 2], words: [u64; N]) -> u64 {
    // Initial state: the constants of the paper, section 2.1.
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    let mut i = 0;
    while i < N {
        v = absorb::<C>(v, words[i]);
        i += 1;
    }
    // The last word holds the length in bytes, modulo 256, in its top byte.
    v = absorb::<C>(v, ((N as u64 * 8) & 0xff) << 56);
    v[2] ^= 0xff;
    let mut d = 0;
    while d < D {
        v = round(v);
        d += 1;
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
const fn absorb<const C: usize>(mut v: [u64; 4], word: u64) -> [u64; 4] {
    v[3] ^= word;
    let mut c = 0;
    while c < C {
        v = round(v);
        c += 1;
    }
    v[0] ^= word;
    v
}

#[inline(always)]
const fn round(v: [u64; 4]) -> [u64; 4] {
    let [mut a, mut b, mut c, mut d] = v;
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}
