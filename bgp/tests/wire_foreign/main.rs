//! Our encoder before three foreign decoders and two foreign encoders before ours: what is said is what is understood. Our verdicts
//! beside those of another decoder.
//!
//! The sixty-odd advertisements of [`advertisements`] are what a VIP announcer says; random ones find what nobody thought of.

mod advertisements;
mod exabgp;
mod netgauze;
#[path = "../rfc7606/mod.rs"]
mod rfc7606;
mod rustbgpd;
mod verdicts;

use advertisements::{Advertisement, Content};
use bascule_bgp::wire::{DecodeContext, Disposition, FamilySet, Framer, Message, NextHop};
use proptest::prelude::*;

/// A foreign decoder: the UPDATE's content, or why it was not accepted.
type Decoder = fn(&Advertisement, &[u8]) -> Result<Content, String>;

/// A foreign encoder.
type Encoder = fn(&Advertisement) -> Vec<u8>;

const DECODERS: &[(&str, Decoder)] = &[("rustbgpd-wire", rustbgpd::decode), ("netgauze-bgp-pkt", netgauze::decode)];

const ENCODERS: &[(&str, Encoder)] = &[("rustbgpd-wire", rustbgpd::encode), ("netgauze-bgp-pkt", netgauze::encode)];

/// Our own decoder, in the same terms.
fn ours(advertisement: &Advertisement, message: &[u8]) -> Result<Content, String> {
    let context = DecodeContext {
        four_octet_as: advertisement.four_octet_as,
        ibgp: advertisement.internal(),
        families: FamilySet::ALL,
        ..DecodeContext::default()
    };
    let mut framer = Framer::new();
    framer.push(message);
    let frame = framer.next(4096).map_err(|error| error.to_string())?.ok_or("not a whole message")?;
    let Message::Update(update) = Message::decode(&frame, &context).map_err(|error| error.to_string())? else {
        return Err(format!("{:?}", frame.kind));
    };
    if update.disposition != Disposition::Accept {
        return Err(format!("{:?}", update.errors));
    }
    let next_hop = update.mp_reach.as_ref().map(|reach| reach.next_hop).or(update.next_hop.map(NextHop::V4));
    Ok(Content {
        origin: update.attributes.origin.number(),
        as_path: update.as_path().asns().collect(),
        next_hop: next_hop.ok_or("no next hop")?,
        med: update.attributes.med,
        local_pref: update.attributes.local_pref,
        communities: update.attributes.communities.clone(),
        ext_communities: update.attributes.ext_communities.clone(),
        large_communities: update.attributes.large_communities.clone(),
        prefixes: update.announced().collect(),
    })
}

#[test]
fn sixty_advertisements_mean_the_same_to_two_foreign_crates_and_to_us() {
    let all = advertisements::all();
    assert!(all.len() >= 60, "{}", all.len());
    for advertisement in all {
        let message = advertisement.message();
        assert_eq!(ours(&advertisement, &message), Ok(advertisement.content()), "{}", advertisement.name);
        for (name, decode) in DECODERS {
            assert_eq!(decode(&advertisement, &message), Ok(advertisement.content()), "{name}: {}", advertisement.name);
        }
    }
}

/// A decoder that nods at everything would prove nothing: a changed ORIGIN and a changed prefix are seen by each.
#[test]
fn a_changed_bit_is_seen_by_every_decoder() {
    let advertisement = &advertisements::all()[0];
    let whole = advertisement.message();
    for (at, bit) in [(23 + 3, 0x01), (whole.len() - 1, 0x80)] {
        let mut changed = whole.clone();
        changed[at] ^= bit;
        let decoders = DECODERS.iter().copied();
        for (name, decode) in decoders.chain([("bascule", ours as Decoder), ("exabgp", exabgp::decode)]) {
            assert_ne!(decode(advertisement, &changed), Ok(advertisement.content()), "{name} at {at}");
        }
    }
}

#[test]
fn exabgp_decodes_the_same_advertisements_with_equal_content() {
    exabgp::compare(&advertisements::all());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn whatever_we_send_is_understood_by_both_crates(advertisement in advertisements::any_advertisement()) {
        let message = advertisement.message();
        for (name, decode) in DECODERS {
            prop_assert_eq!(decode(&advertisement, &message), Ok(advertisement.content()), "{}", name);
        }
    }

    #[test]
    fn whatever_both_crates_send_is_understood_by_us(advertisement in advertisements::any_advertisement()) {
        for (name, encode) in ENCODERS {
            prop_assert_eq!(ours(&advertisement, &encode(&advertisement)), Ok(advertisement.content()), "{}", name);
        }
    }
}
