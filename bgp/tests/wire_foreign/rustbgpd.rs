//! The crate rustbgpd-wire as decoder and encoder.

use bascule_bgp::wire::{LargeCommunity, NextHop};
use bytes::Bytes;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustbgpd_wire as foreign;
use rustbgpd_wire::{
    Afi, AsPathSegment, Ipv4NlriEntry, Ipv4Prefix, Ipv4UnicastMode, Ipv6Prefix, MpReachNlri, NlriEntry, PathAttribute,
    Prefix, Safi,
};

use super::advertisements::{Advertisement, Content};

pub(crate) fn decode(advertisement: &Advertisement, message: &[u8]) -> Result<Content, String> {
    let mut bytes = Bytes::copy_from_slice(message);
    let decoded = foreign::decode_message(&mut bytes, 4096).map_err(|error| error.to_string())?;
    let foreign::Message::Update(update) = decoded else { return Err(decoded.to_string()) };
    let internal = advertisement.internal();
    let parsed =
        update.parse_revised(advertisement.four_octet_as, internal, false, &[]).map_err(|error| error.to_string())?;
    if !parsed.malformed.is_empty() {
        return Err(format!("{:?}", parsed.malformed));
    }
    let body = !parsed.update.announced.is_empty();
    foreign::validate::validate_update_attributes(&parsed.update.attributes, true, body, !internal)
        .map_err(|error| format!("{error:?}"))?;
    content(&parsed.update)
}

fn content(update: &foreign::ParsedUpdate) -> Result<Content, String> {
    let mut next_hop = None;
    let mut prefixes: Vec<IpNet> = update.announced.iter().map(|entry| net_v4(entry.prefix)).collect();
    let mut content = Content {
        origin: u8::MAX,
        as_path: Vec::new(),
        next_hop: NextHop::V4([0, 0, 0, 0].into()),
        med: None,
        local_pref: None,
        communities: Vec::new(),
        ext_communities: Vec::new(),
        large_communities: Vec::new(),
        prefixes: Vec::new(),
    };
    for attribute in &update.attributes {
        match attribute {
            PathAttribute::Origin(origin) => content.origin = *origin as u8,
            PathAttribute::AsPath(path) => {
                for segment in &path.segments {
                    let AsPathSegment::AsSequence(asns) = segment else { return Err("a set in the path".to_owned()) };
                    content.as_path.extend(asns);
                }
            }
            PathAttribute::NextHop(address) => next_hop = Some(NextHop::V4(*address)),
            PathAttribute::LocalPref(value) => content.local_pref = Some(*value),
            PathAttribute::Med(value) => content.med = Some(*value),
            PathAttribute::Communities(all) => content.communities.clone_from(all),
            PathAttribute::ExtendedCommunities(all) => {
                content.ext_communities = all.iter().map(|one| one.as_u64().to_be_bytes()).collect();
            }
            PathAttribute::LargeCommunities(all) => {
                let own = |one: &foreign::LargeCommunity| LargeCommunity {
                    global: one.global_admin,
                    local1: one.local_data1,
                    local2: one.local_data2,
                };
                content.large_communities = all.iter().map(own).collect();
            }
            PathAttribute::MpReachNlri(reach) => {
                let std::net::IpAddr::V6(global) = reach.next_hop else { return Err("a v4 next hop".to_owned()) };
                next_hop = Some(NextHop::V6 { global, link_local: reach.link_local_next_hop });
                prefixes.extend(reach.announced.iter().map(|entry| match entry.prefix {
                    Prefix::V4(prefix) => net_v4(prefix),
                    Prefix::V6(prefix) => IpNet::V6(Ipv6Net::new(prefix.addr, prefix.len).expect("a prefix")),
                }));
            }
            other => return Err(format!("{other:?}")),
        }
    }
    content.next_hop = next_hop.ok_or("no next hop")?;
    Ok(Content { prefixes, ..content })
}

fn net_v4(prefix: Ipv4Prefix) -> IpNet {
    IpNet::V4(Ipv4Net::new(prefix.addr, prefix.len).expect("a prefix"))
}

pub(crate) fn encode(advertisement: &Advertisement) -> Vec<u8> {
    let Content {
        origin,
        as_path,
        next_hop,
        med,
        local_pref,
        communities,
        ext_communities,
        large_communities,
        prefixes,
    } = advertisement.content();
    let origin = match origin {
        0 => foreign::Origin::Igp,
        1 => foreign::Origin::Egp,
        _ => foreign::Origin::Incomplete,
    };
    let segments = if as_path.is_empty() { Vec::new() } else { vec![AsPathSegment::AsSequence(as_path)] };
    let mut attributes = vec![PathAttribute::Origin(origin), PathAttribute::AsPath(foreign::AsPath { segments })];
    let mut announced = Vec::new();
    match next_hop {
        NextHop::V4(address) => {
            attributes.push(PathAttribute::NextHop(address));
            announced.extend(prefixes.iter().map(|prefix| match prefix {
                IpNet::V4(net) => Ipv4NlriEntry { path_id: 0, prefix: Ipv4Prefix::new(net.addr(), net.prefix_len()) },
                IpNet::V6(_) => panic!("prefixes of the next hop's family"),
            }));
        }
        NextHop::V6 { global, link_local } => {
            let entry = |prefix: &IpNet| match prefix {
                IpNet::V6(net) => {
                    NlriEntry { path_id: 0, prefix: Prefix::V6(Ipv6Prefix::new(net.addr(), net.prefix_len())) }
                }
                IpNet::V4(_) => panic!("prefixes of the next hop's family"),
            };
            attributes.push(PathAttribute::MpReachNlri(Box::new(MpReachNlri {
                afi: Afi::Ipv6,
                safi: Safi::Unicast,
                next_hop: global.into(),
                link_local_next_hop: link_local,
                announced: prefixes.iter().map(entry).collect(),
                flowspec_announced: Vec::new(),
                evpn_announced: Vec::new(),
                bgpls_announced: Vec::new(),
                vpn_announced: Vec::new(),
                labeled_announced: Vec::new(),
                rtc_announced: Vec::new(),
            })));
        }
    }
    attributes.extend(med.map(PathAttribute::Med));
    attributes.extend(local_pref.map(PathAttribute::LocalPref));
    if !communities.is_empty() {
        attributes.push(PathAttribute::Communities(communities));
    }
    if !ext_communities.is_empty() {
        let all = ext_communities.into_iter().map(|one| foreign::ExtendedCommunity::new(u64::from_be_bytes(one)));
        attributes.push(PathAttribute::ExtendedCommunities(all.collect()));
    }
    if !large_communities.is_empty() {
        let one = |one: LargeCommunity| foreign::LargeCommunity::new(one.global, one.local1, one.local2);
        attributes.push(PathAttribute::LargeCommunities(large_communities.into_iter().map(one).collect()));
    }
    let update = foreign::UpdateMessage::build(
        &announced,
        &[],
        &attributes,
        advertisement.four_octet_as,
        false,
        Ipv4UnicastMode::Body,
    );
    foreign::encode_message(&foreign::Message::Update(update)).expect("it fits").to_vec()
}
