//! The crate netgauze-bgp-pkt as decoder and encoder. It leaves AS4_PATH beside AS_PATH: the two are put together here, by a rule
//! of our own writing that is simpler than that of the codec, as no advertisement has a part in front that AS4_PATH lacks.

use bascule_bgp::wire::{LargeCommunity, NextHop};
use ipnet::IpNet;
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::community::{Community, ExtendedCommunity, LargeCommunity as ForeignLarge};
use netgauze_bgp_pkt::nlri::{Ipv4Unicast, Ipv4UnicastAddress, Ipv6Unicast, Ipv6UnicastAddress};
use netgauze_bgp_pkt::path_attribute::{
    As2PathSegment, As4Path, As4PathSegment, AsPath, AsPathSegmentType, Communities, ExtendedCommunities,
    LargeCommunities, LocalPreference, MpReach, MultiExitDiscriminator, NextHop as ForeignNextHop, Origin,
    PathAttribute, PathAttributeValue,
};
use netgauze_bgp_pkt::update::BgpUpdateMessage;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::WritablePdu;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::{ParseFrom, ParseFromWithOneInput};

use super::advertisements::{Advertisement, Content};

pub(crate) fn decode(advertisement: &Advertisement, message: &[u8]) -> Result<Content, String> {
    let mut context =
        if advertisement.four_octet_as { BgpParsingContext::default() } else { BgpParsingContext::asn2_default() };
    let decoded =
        BgpMessage::parse(&mut SliceReader::new(message), &mut context).map_err(|error| format!("{error:?}"))?;
    let BgpMessage::Update(update) = decoded else { return Err("not an UPDATE".to_owned()) };
    let mut next_hop = None;
    let mut as4_path = None;
    let mut prefixes: Vec<IpNet> = update.nlri().iter().map(|one| IpNet::V4(one.network().address())).collect();
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
    for attribute in update.path_attributes() {
        match attribute.value() {
            PathAttributeValue::Origin(origin) => content.origin = *origin as u8,
            PathAttributeValue::AsPath(path) => content.as_path = path.clone().into(),
            PathAttributeValue::As4Path(path) => {
                as4_path = Some(path.segments().iter().flat_map(|segment| segment.as_numbers().to_vec()).collect());
            }
            PathAttributeValue::NextHop(hop) => next_hop = Some(NextHop::V4(hop.next_hop())),
            PathAttributeValue::MultiExitDiscriminator(med) => content.med = Some(med.metric()),
            PathAttributeValue::LocalPreference(value) => content.local_pref = Some(value.metric()),
            PathAttributeValue::Communities(all) => {
                content.communities = all.communities().iter().map(Community::value).collect();
            }
            PathAttributeValue::ExtendedCommunities(all) => {
                content.ext_communities = all.communities().iter().map(octets).collect();
            }
            PathAttributeValue::LargeCommunities(all) => {
                let own = |one: &ForeignLarge| LargeCommunity {
                    global: one.global_admin(),
                    local1: one.local_data1(),
                    local2: one.local_data2(),
                };
                content.large_communities = all.communities().iter().map(own).collect();
            }
            PathAttributeValue::MpReach(MpReach::Ipv6Unicast { next_hop_global, next_hop_local, nlri }) => {
                next_hop = Some(NextHop::V6 { global: *next_hop_global, link_local: *next_hop_local });
                prefixes.extend(nlri.iter().map(|one| IpNet::V6(one.network().address())));
            }
            other => return Err(format!("{other:?}")),
        }
    }
    if let Some(path) = as4_path {
        content.as_path = path;
    }
    content.next_hop = next_hop.ok_or("no next hop")?;
    Ok(Content { prefixes, ..content })
}

fn octets(community: &ExtendedCommunity) -> [u8; 8] {
    let mut out = Vec::new();
    community.write(&mut out).expect("a vector takes all");
    out.try_into().expect("eight octets")
}

fn attribute(optional: bool, transitive: bool, value: PathAttributeValue) -> PathAttribute {
    // With two octets of length, needed or not: our decoder must read those as well.
    PathAttribute::from(optional, transitive, false, true, value).expect("flags of the attribute")
}

pub(crate) fn encode(advertisement: &Advertisement) -> Vec<u8> {
    let content = advertisement.content();
    let origin = Origin::try_from(content.origin).expect("an origin");
    let mut attributes = vec![attribute(false, true, PathAttributeValue::Origin(origin))];
    let sequence = |asns: &[u32]| As4PathSegment::new(AsPathSegmentType::AsSequence, asns);
    let segments: Vec<_> = content.as_path.chunks(255).map(sequence).collect();
    let path = if advertisement.four_octet_as {
        AsPath::as4_path_segments(segments.clone())
    } else {
        let two = |asn: &u32| u16::try_from(*asn).unwrap_or(23456);
        let sequence = |asns: &[u32]| {
            As2PathSegment::new(AsPathSegmentType::AsSequence, asns.iter().map(two).collect::<Vec<u16>>())
        };
        AsPath::as2_path_segments(content.as_path.chunks(255).map(sequence).collect::<Vec<_>>())
    };
    attributes.push(attribute(false, true, PathAttributeValue::AsPath(path)));
    let mut nlri = Vec::new();
    match content.next_hop {
        NextHop::V4(address) => {
            attributes.push(attribute(false, true, PathAttributeValue::NextHop(ForeignNextHop::new(address))));
            nlri.extend(content.prefixes.iter().map(|prefix| match prefix {
                IpNet::V4(net) => Ipv4UnicastAddress::new_no_path_id(Ipv4Unicast::from_net(*net).expect("unicast")),
                IpNet::V6(_) => panic!("prefixes of the next hop's family"),
            }));
        }
        NextHop::V6 { global, link_local } => {
            let entry = |prefix: &IpNet| match prefix {
                IpNet::V6(net) => Ipv6UnicastAddress::new(None, Ipv6Unicast::from_net(*net).expect("unicast")),
                IpNet::V4(_) => panic!("prefixes of the next hop's family"),
            };
            let nlri: Vec<_> = content.prefixes.iter().map(entry).collect();
            let reach = MpReach::Ipv6Unicast { next_hop_global: global, next_hop_local: link_local, nlri: nlri.into() };
            attributes.push(attribute(true, false, PathAttributeValue::MpReach(reach)));
        }
    }
    if let Some(med) = content.med {
        let med = MultiExitDiscriminator::new(med);
        attributes.push(attribute(true, false, PathAttributeValue::MultiExitDiscriminator(med)));
    }
    if let Some(value) = content.local_pref {
        attributes.push(attribute(false, true, PathAttributeValue::LocalPreference(LocalPreference::new(value))));
    }
    if !content.communities.is_empty() {
        let all: Vec<_> = content.communities.into_iter().map(Community::new).collect();
        attributes.push(attribute(true, true, PathAttributeValue::Communities(Communities::new(all))));
    }
    if !content.ext_communities.is_empty() {
        let all: Vec<_> = content.ext_communities.iter().map(community).collect();
        let all = ExtendedCommunities::new(all);
        attributes.push(attribute(true, true, PathAttributeValue::ExtendedCommunities(all)));
    }
    if !advertisement.four_octet_as && content.as_path.iter().any(|asn| *asn > 65535) {
        attributes.push(attribute(true, true, PathAttributeValue::As4Path(As4Path::new(segments))));
    }
    if !content.large_communities.is_empty() {
        let one = |one: LargeCommunity| ForeignLarge::new(one.global, one.local1, one.local2);
        let all: Vec<_> = content.large_communities.into_iter().map(one).collect();
        attributes.push(attribute(true, true, PathAttributeValue::LargeCommunities(LargeCommunities::new(all))));
    }
    let mut out = Vec::new();
    BgpMessage::Update(BgpUpdateMessage::new(Vec::new(), attributes, nlri)).write(&mut out).expect("it fits");
    out
}

fn community(octets: &[u8; 8]) -> ExtendedCommunity {
    ExtendedCommunity::parse(&mut SliceReader::new(octets)).expect("eight octets")
}
