//! What each fuzz target does with its bytes. Used by the targets (nightly, libFuzzer) and, included by path, by the suite's
//! plain replay of the committed corpora (`tests/suite/tests/fuzz_corpus.rs`), so that both run the very same code.
//!
//! Each body returns whether the parser accepted the input: a corpus of which nothing is accepted would only test the first
//! length check.

mod bgp_session;

use std::net::IpAddr;

use bascule_bgp::wire::header::{MAX_LEN, MAX_LEN_EXTENDED};
use bascule_bgp::wire::update::encode::announce;
use bascule_bgp::wire::{DecodeContext, EncodedAttributes, Family, Frame, Framer, MessageType, Update};
use bascule_core::types::Mac;
use bascule_core::wire::arp::Arp;
use bascule_core::wire::ndp::Ndp;
use bascule_core::wire::peer::{Keys, Message};
use bascule_core::wire::vrrp::{Advert, GROUP_V4, GROUP_V6, PROTOCOL};

pub use bgp_session::bgp_session;

/// A target: its name, which is the corpus folder's too, and its body.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// Every target but those of `daemon.rs`.
pub const TARGETS: &[Target] = &[
    ("arp", arp),
    ("bgp_decoder", bgp_decoder),
    ("bgp_session", bgp_session),
    ("ndp", ndp),
    ("peer", peer),
    ("vrrp", vrrp),
];

/// The first byte chooses the family. Parsed as it came, and with a checksum made right, so that the fuzzer is not stopped by it.
pub fn vrrp(data: &[u8]) -> bool {
    let Some((family, message)) = data.split_first() else { return false };
    let (src, dst): (IpAddr, IpAddr) = if family % 2 == 0 {
        ([10, 9, 0, 1].into(), GROUP_V4.into())
    } else {
        ([0xfe80, 0, 0, 0, 0, 0, 0, 1].into(), GROUP_V6.into())
    };
    let mut repaired = message.to_vec();
    if let Some(&[_, _, _, count]) = message.get(..4) {
        let whole = 8 + usize::from(count) * if src.is_ipv4() { 4 } else { 16 };
        if let Some(advert) = repaired.get_mut(..whole) {
            repair(advert, 6, src, dst, PROTOCOL);
        }
    }
    let mut accepted = false;
    for bytes in [message, &repaired] {
        if let Ok(advert) = Advert::parse(bytes, src, dst) {
            assert_eq!(
                Advert::parse(&advert.encode(src, dst), src, dst).as_ref(),
                Ok(&advert),
                "encode loses something"
            );
            accepted = true;
        }
    }
    accepted
}

/// A whole Ethernet frame.
pub fn arp(data: &[u8]) -> bool {
    let Some(message) = Arp::parse(data) else { return false };
    assert_eq!(Arp::parse(&message.encode(Mac::BROADCAST)), Some(message), "encode loses something");
    true
}

/// What a BGP neighbour sends. The bits of the first byte say what was negotiated, and whether the rest is a stream of messages or the
/// body of one, so that the fuzzer is not stopped by the header. Accepted is what has messages and no error; what is accepted and
/// can be sent is the same when it is sent and read again.
pub fn bgp_decoder(data: &[u8]) -> bool {
    let Some((&bits, rest)) = data.split_first() else { return false };
    let bit = |at: u8| bits >> at & 1 != 0;
    let context = DecodeContext {
        four_octet_as: bit(0),
        ibgp: bit(1),
        enhanced_refresh: bit(2),
        families: Family::ALL.into_iter().filter(|family| bit(3 + (*family as u8))).collect(),
    };
    let max_len = if bit(5) { MAX_LEN_EXTENDED } else { MAX_LEN };
    if bit(6) {
        let Some((kind, body)) = rest.split_first() else { return false };
        let kind = MessageType::ALL[usize::from(*kind) % MessageType::ALL.len()];
        return bgp_message(&Frame { kind, body: body.to_vec() }, &context);
    }
    // By bytes or at once, the messages are the same.
    let piece = if bit(7) { 1 } else { rest.len().max(1) };
    let mut framer = Framer::new();
    let mut messages = 0;
    for bytes in rest.chunks(piece) {
        framer.push(bytes);
        loop {
            match framer.next(max_len) {
                Ok(Some(frame)) if bgp_message(&frame, &context) => messages += 1,
                Ok(Some(_)) | Err(_) => return false,
                Ok(None) => break,
            }
        }
        assert!(framer.pending() < max_len, "a whole message is held back");
    }
    messages > 0
}

fn bgp_message(frame: &Frame, context: &DecodeContext) -> bool {
    use bascule_bgp::wire::Message;
    let decoded = match Message::decode(frame, context) {
        Ok(decoded) => decoded,
        Err(notification) => {
            let words = notification.describe();
            assert!(words.len() < 1000 && !words.chars().any(char::is_control), "{words:?}");
            return false;
        }
    };
    let mut sent = Vec::new();
    match &decoded {
        Message::Open(open) => open.encode(&mut sent).expect("it came in one OPEN"),
        Message::Notification(notification) => notification.encode(&mut sent),
        Message::Keepalive => bascule_bgp::wire::encode_keepalive(&mut sent),
        Message::RouteRefresh(refresh) => refresh.encode(&mut sent),
        Message::Update(update) => {
            bgp_update(update, context);
            return true;
        }
    }
    let mut framer = Framer::new();
    framer.push(&sent);
    let again = framer.next(MAX_LEN_EXTENDED).expect("our own message").expect("whole");
    // An OPEN of a frame longer than 4,096 octets or a NOTIFICATION whose data was cut is not what came.
    if frame.wire_len() <= MAX_LEN {
        assert_eq!(Message::decode(&again, context).as_ref(), Ok(&decoded), "encode loses something");
    }
    true
}

/// Its first prefixes with its attributes, as we would send them, mean the same.
fn bgp_update(update: &Update, context: &DecodeContext) {
    let prefixes: Vec<_> = update.announced().take(5).collect();
    let reach = update.mp_reach.as_ref().filter(|_| update.announced_v4.is_empty());
    let next_hop = update.next_hop.map(bascule_bgp::wire::NextHop::V4).or(reach.map(|reach| reach.next_hop));
    let (Some(next_hop), Ok(attributes)) =
        (next_hop, EncodedAttributes::new(&update.attributes, context.four_octet_as))
    else {
        return;
    };
    let mut sent = Vec::new();
    if announce(&mut sent, &attributes, next_hop, &prefixes, MAX_LEN, MAX_LEN) == 0 {
        return;
    }
    let again = Update::decode(&sent[19..], context);
    assert_eq!(again.attributes, update.attributes, "encode loses something");
    assert!(prefixes.starts_with(&again.announced().collect::<Vec<_>>()), "{prefixes:?}");
}

/// A whole Ethernet frame, as it came and with its ICMPv6 checksum made right.
pub fn ndp(data: &[u8]) -> bool {
    const MESSAGE: usize = 14 + 40;
    let mut repaired = data.to_vec();
    if let (Some(ip), Some(&[high, low])) = (data.get(14..MESSAGE), data.get(18..20)) {
        let address = |at: usize| <[u8; 16]>::try_from(&ip[at..at + 16]).map(IpAddr::from);
        let whole = MESSAGE + usize::from(u16::from_be_bytes([high, low]));
        if let (Ok(src), Ok(dst), Some(message)) = (address(8), address(24), repaired.get_mut(MESSAGE..whole)) {
            repair(message, 2, src, dst, 58);
        }
    }
    Ndp::parse(data).is_some() | Ndp::parse(&repaired).is_some()
}

/// The first byte is the length of the key. A datagram of a stranger, and one signed with the key.
pub fn peer(data: &[u8]) -> bool {
    let Some((length, rest)) = data.split_first() else { return false };
    let Some((key, datagram)) = rest.split_at_checked(usize::from(*length)) else { return false };
    let keys = Keys::new(vec![key.to_vec()]);
    let Ok(message) = Message::parse(datagram, &keys) else { return false };
    let again = message.encode(&keys).expect("there is a key");
    assert_eq!(Message::parse(&again, &keys), Ok(message), "encode loses something");
    true
}

/// Put the right Internet checksum (RFC 1071) at `at`, over the message and its pseudo-header. Written again here on
/// purpose: a fuzz target that used the parser's own sum would not notice when it is wrong.
fn repair(message: &mut [u8], at: usize, src: IpAddr, dst: IpAddr, protocol: u8) {
    let Some(field) = message.get_mut(at..at + 2) else { return };
    field.fill(0);
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    // Length and protocol lie differently in the two pseudo-headers; as 16-bit words their sum is the same.
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes();
    let pseudo = [address(src), address(dst), length.to_vec(), vec![0, protocol]].concat();
    let mut padded = message.to_vec();
    padded.resize(message.len().next_multiple_of(2), 0);
    let words = pseudo.chunks_exact(2).chain(padded.chunks_exact(2));
    let mut sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).expect("folded to 16 bits just above");
    message[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}
