//! Communities as routers write them: numbers, and names for the well-known ones (IANA registry; RFC 1997, 3765, 8326).

/// Names by which FRR (camel case in JSON) and OpenBGPD (capitals) write well-known communities.
const WELL_KNOWN: [(&str, (u16, u16)); 5] = [
    ("gracefulshutdown", (65535, 0)),
    ("noexport", (65535, 65281)),
    ("noadvertise", (65535, 65282)),
    ("localas", (65535, 65283)),
    ("noexportsubconfed", (65535, 65283)),
];

/// One community (RFC 1997): `65000:1` or a name.
pub(super) fn community(text: &str) -> Option<(u16, u16)> {
    if let Some((high, low)) = text.split_once(':') {
        return Some((high.trim().parse().ok()?, low.trim().parse().ok()?));
    }
    let plain: String = text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    WELL_KNOWN.iter().find(|(name, _)| *name == plain).map(|(_, value)| *value)
}

/// A community as one number.
pub(super) fn community_of(value: u32) -> (u16, u16) {
    let [a, b, c, d] = value.to_be_bytes();
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

/// One large community (RFC 8092): `65000:1:2`.
pub(super) fn large(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split(':').map(|part| part.trim().parse());
    let value = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    parts.next().is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::{community, community_of, large};

    #[test]
    fn numbers_and_names() {
        assert_eq!(community("65001:7"), Some((65001, 7)));
        for name in ["gracefulShutdown", "graceful-shutdown", "GRACEFUL_SHUTDOWN"] {
            assert_eq!(community(name), Some((65535, 0)), "{name}");
        }
        assert_eq!(community("no-such-name"), None);
        assert_eq!(community_of(0xffff_0000), (65535, 0));
        assert_eq!(large("65001:1:2"), Some((65001, 1, 2)));
        assert_eq!((large("65001:1"), large("1:2:3:4")), (None, None));
    }
}
