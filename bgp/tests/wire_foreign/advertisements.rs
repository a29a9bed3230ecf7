//! What is advertised, and the content that every decoder must find in it.

use std::net::{Ipv4Addr, Ipv6Addr};

use bascule_bgp::wire::attr::community;
use bascule_bgp::wire::update::encode::announce;
use bascule_bgp::wire::{AsPath, Attributes, EncodedAttributes, LargeCommunity, NextHop, Origin};
use ipnet::IpNet;
use proptest::prelude::*;

/// One UPDATE to be.
#[derive(Clone, Debug)]
pub(crate) struct Advertisement {
    pub(crate) name: String,
    pub(crate) attributes: Attributes,
    pub(crate) next_hop: NextHop,
    pub(crate) four_octet_as: bool,
    pub(crate) prefixes: Vec<IpNet>,
}

/// What a decoder found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) origin: u8,
    /// With four-octet numbers, whatever was on the wire.
    pub(crate) as_path: Vec<u32>,
    pub(crate) next_hop: NextHop,
    pub(crate) med: Option<u32>,
    pub(crate) local_pref: Option<u32>,
    pub(crate) communities: Vec<u32>,
    pub(crate) ext_communities: Vec<[u8; 8]>,
    pub(crate) large_communities: Vec<LargeCommunity>,
    pub(crate) prefixes: Vec<IpNet>,
}

impl Advertisement {
    /// Whether it is one for a peer in our own AS.
    pub(crate) fn internal(&self) -> bool {
        self.attributes.local_pref.is_some()
    }

    /// By our encoder: one message.
    pub(crate) fn message(&self) -> Vec<u8> {
        let encoded = EncodedAttributes::new(&self.attributes, self.four_octet_as).expect("attributes that fit");
        let mut out = Vec::new();
        let count = announce(&mut out, &encoded, self.next_hop, &self.prefixes, 4096, 4096);
        assert_eq!(count, self.prefixes.len(), "{}: one message holds all", self.name);
        out
    }

    pub(crate) fn content(&self) -> Content {
        let attributes = self.attributes.clone();
        Content {
            origin: attributes.origin.number(),
            as_path: attributes.as_path.asns().collect(),
            next_hop: self.next_hop,
            med: attributes.med,
            local_pref: attributes.local_pref,
            communities: attributes.communities,
            ext_communities: attributes.ext_communities,
            large_communities: attributes.large_communities,
            prefixes: self.prefixes.clone(),
        }
    }
}

const GLOBAL: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Every form of next hop, with prefixes of its family.
fn next_hops() -> Vec<(&'static str, NextHop, Vec<IpNet>)> {
    let nets = |all: &[&str]| all.iter().map(|net| net.parse().expect("a prefix")).collect();
    let v4: Vec<IpNet> = nets(&["192.0.2.1/32", "198.51.100.128/25", "10.0.0.0/8", "203.0.113.0/24", "172.16.0.0/13"]);
    let v6: Vec<IpNet> = nets(&["2001:db8:1::1/128", "2001:db8:2::/48", "2001:db8:3:8000::/49", "2001:db8::/33"]);
    vec![
        ("v4", NextHop::V4(Ipv4Addr::new(192, 0, 2, 254)), v4),
        ("v6", NextHop::V6 { global: GLOBAL, link_local: None }, v6.clone()),
        ("v6+ll", NextHop::V6 { global: GLOBAL, link_local: Some(LOCAL) }, v6),
    ]
}

fn large(global: u32, local1: u32, local2: u32) -> LargeCommunity {
    LargeCommunity { global, local1, local2 }
}

/// Every kind of attributes that the export policy can make.
fn attributes() -> Vec<(&'static str, Attributes)> {
    let external = || Attributes { as_path: AsPath::sequence([65001]), ..Attributes::default() };
    let ext_communities = vec![
        [0, 2, 0xfd, 0xe9, 0, 0, 0, 100],     // route target, two-octet AS (RFC 4360 section 4)
        [1, 2, 192, 0, 2, 1, 0, 100],         // route target, IPv4 address
        [2, 2, 0, 1, 0x11, 0x70, 0, 100],     // route target, four-octet AS (RFC 5668)
        [0, 3, 0xfd, 0xe9, 0, 0, 0, 7],       // route origin (RFC 4360 section 5)
        [0x40, 4, 0xfd, 0xe9, 0x4b, 0, 0, 0], // link bandwidth, not transitive
        [3, 0x0b, 0, 0, 0, 0, 0, 5],          // colour (RFC 9012)
    ];
    let communities = vec![0xfde9_0064, community::NO_EXPORT];
    let large_communities = vec![large(65001, 1, 2), large(4_200_000_000, u32::MAX, 0)];
    vec![
        ("external", external()),
        ("internal", Attributes { local_pref: Some(100), ..Attributes::default() }),
        ("med", Attributes { med: Some(u32::MAX), origin: Origin::Incomplete, ..external() }),
        ("communities", Attributes { communities: communities.clone(), ..external() }),
        (
            "graceful shutdown",
            Attributes {
                communities: vec![community::GRACEFUL_SHUTDOWN],
                local_pref: Some(0),
                ..Attributes::default()
            },
        ),
        ("large", Attributes { large_communities: large_communities.clone(), ..external() }),
        ("extended", Attributes { ext_communities: ext_communities.clone(), ..external() }),
        ("prepended", Attributes { as_path: AsPath::sequence([65001; 6]), ..external() }),
        ("four-octet AS", Attributes { as_path: AsPath::sequence([4_200_000_001]), ..external() }),
        (
            "four-octet AS, prepended, all communities",
            Attributes {
                as_path: AsPath::sequence([4_200_000_001, 4_200_000_001, 65001]),
                med: Some(50),
                communities: communities.clone(),
                ext_communities,
                large_communities,
                origin: Origin::Egp,
                ..external()
            },
        ),
        (
            "long lists",
            Attributes {
                as_path: AsPath::sequence((0..300).map(|n| if n % 7 == 0 { 70_000 + n } else { 64_512 + n })),
                communities: (0..200).map(|n| 0xfde9_0000 + n).collect(),
                large_communities: (0..40).map(|n| large(65001, n, n)).collect(),
                ..external()
            },
        ),
    ]
}

/// Each kind of attributes with each form of next hop, to peers with and without four-octet AS numbers.
pub(crate) fn all() -> Vec<Advertisement> {
    let mut all = Vec::new();
    for (kind, attributes) in attributes() {
        for (form, next_hop, prefixes) in next_hops() {
            for four_octet_as in [true, false] {
                let name = format!("{kind}, {form}, {} octets", if four_octet_as { 4 } else { 2 });
                let (attributes, prefixes) = (attributes.clone(), prefixes.clone());
                all.push(Advertisement { name, attributes, next_hop, four_octet_as, prefixes });
            }
        }
    }
    all
}

/// Host prefixes that are unicast: one of the foreign crates refuses others.
fn any_prefixes(v6: bool) -> impl Strategy<Value = Vec<IpNet>> {
    let one = move |bits: u128, len: u8| {
        if v6 {
            let address = Ipv6Addr::from(0x2000_u128 << 112 | bits >> 4);
            IpNet::new(address.into(), 4 + len % 125).expect("at most 128 bits").trunc()
        } else {
            let [a, b, c, d, ..] = bits.to_be_bytes();
            IpNet::new(Ipv4Addr::new(a % 100 + 1, b, c, d).into(), 8 + len % 25).expect("at most 32 bits").trunc()
        }
    };
    prop::collection::btree_map(any::<u128>(), any::<u8>(), 1..20)
        .prop_map(move |all| all.into_iter().map(|(bits, len)| one(bits, len)).collect())
}

fn any_next_hop() -> impl Strategy<Value = (NextHop, Vec<IpNet>)> {
    let v6 = |link_local| NextHop::V6 { global: GLOBAL, link_local };
    prop_oneof![
        (1..224_u8, any::<[u8; 3]>(), any_prefixes(false)).prop_filter_map("not a host", |(a, [b, c, d], prefixes)| {
            (a != 127).then_some((NextHop::V4(Ipv4Addr::new(a, b, c, d)), prefixes))
        }),
        (prop::option::of(Just(LOCAL)), any_prefixes(true)).prop_map(move |(local, prefixes)| (v6(local), prefixes)),
    ]
}

/// Extended communities of types that have no inner structure a decoder could normalise.
fn any_ext_community() -> impl Strategy<Value = [u8; 8]> {
    (prop::sample::select(vec![[0, 2], [0, 3], [2, 2], [1, 2]]), any::<[u8; 6]>())
        .prop_map(|([kind, sub], [a, b, c, d, e, f])| [kind, sub, a, b, c, d, e, f])
}

/// Random ones. Large communities have no repetition: decoders may drop one (RFC 8092 section 5).
pub(crate) fn any_advertisement() -> impl Strategy<Value = Advertisement> {
    let small = prop_oneof![1..=65535_u32, 65536..=u32::MAX];
    let lists = (
        prop::collection::vec(small, 0..40),
        prop::collection::vec(any::<u32>(), 0..100),
        prop::collection::btree_set(any::<[u32; 3]>(), 0..30),
        prop::collection::vec(any_ext_community(), 0..30),
    );
    let rest = (0..3_u8, any::<Option<u32>>(), any::<Option<u32>>(), any::<bool>());
    (any_next_hop(), lists, rest).prop_map(
        |(
            (next_hop, prefixes),
            (path, communities, larges, ext_communities),
            (origin, med, local_pref, four_octet_as),
        )| {
            let attributes = Attributes {
                origin: Origin::from_number(origin).expect("below 3"),
                as_path: AsPath::sequence(path),
                med,
                local_pref,
                communities,
                ext_communities,
                large_communities: larges.into_iter().map(|[a, b, c]| large(a, b, c)).collect(),
            };
            Advertisement { name: "random".to_owned(), attributes, next_hop, four_octet_as, prefixes }
        },
    )
}
