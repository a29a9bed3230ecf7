//! The key file of the peer channel. No part of a key ever reaches an error.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use bascule_core::wire::peer::Keys;

/// Shortest and longest key in hex digits: 16 to 64 bytes; a longer key than the block of SHA-256 (64 bytes) adds nothing (RFC 2104).
const HEX_MIN: usize = 32;
const HEX_MAX: usize = 128;
/// Keys at a time: one in use, one being rolled in or out.
const KEYS_MAX: usize = 2;
/// No key file is longer; protects against a path to something endless.
const FILE_MAX: u64 = 4096;

/// What is wrong with the file, and what would be right.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadKeys {
    pub(super) wrong: String,
    pub(super) right: &'static str,
}

fn bad(wrong: impl Into<String>, right: &'static str) -> BadKeys {
    BadKeys { wrong: wrong.into(), right }
}

const HEX: &str = "use 32 to 128 hex digits, an even number";

pub(super) fn read(path: &Path) -> Result<Keys, BadKeys> {
    let unreadable = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => {
            bad("does not exist", "create it with 32 to 128 hex digits on one line, mode 0600")
        }
        kind => bad(format!("cannot be read: {kind}"), "make it readable for its owner, mode 0600"),
    };
    let not_a_file = || bad("is not a regular file", "name a file");
    // Opening a device or a pipe may do something or wait for ever.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(not_a_file());
    }
    let mut options = File::options();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    // The kind, size and mode of what is open, not of what the name led to a moment ago.
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(not_a_file());
    }
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(bad(format!("is open to everybody (mode {mode:04o})"), "use mode 0600, or 0640 for a group"));
    }
    if meta.len() > FILE_MAX {
        return Err(bad(format!("has {} bytes", meta.len()), "use 1 or 2 lines of 32 to 128 hex digits"));
    }
    let mut bytes = Vec::new();
    let _length = file.take(FILE_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<Keys, BadKeys> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| bad("is not text", "use 1 or 2 lines of 32 to 128 hex digits"))?;
    let lines: Vec<(usize, &str)> =
        text.lines().enumerate().map(|(i, l)| (i + 1, l.trim())).filter(|(_, l)| !l.is_empty()).collect();
    if lines.is_empty() {
        return Err(bad("holds no key", "use 1 or 2 lines of 32 to 128 hex digits"));
    }
    if lines.len() > KEYS_MAX {
        return Err(bad(format!("holds {} keys", lines.len()), "use 1 key, or 2 while it is replaced"));
    }
    let mut keys = Vec::new();
    for (number, line) in lines {
        let column = line.chars().position(|c| !c.is_ascii_hexdigit());
        if let Some(column) = column {
            return Err(bad(format!("line {number}: character {} is not a hex digit", column + 1), HEX));
        }
        if line.len() < HEX_MIN || line.len() > HEX_MAX || line.len() % 2 != 0 {
            return Err(bad(format!("line {number}: {} hex digits", line.len()), HEX));
        }
        let digit = |c: u8| u8::try_from(char::from(c).to_digit(16).unwrap_or(0)).unwrap_or(0);
        keys.push(line.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect());
    }
    Ok(Keys::new(keys))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bascule_core::wire::peer::{Kind, Message};

    #[test]
    fn hex_becomes_the_bytes_it_names() {
        let parsed = parse(b"\n00112233445566778899aabbccddeeFF\n\n").expect("one key");
        let same = Keys::new(vec![(0u8..16).map(|i| i * 0x11).collect()]);
        assert!(parsed == same);
    }

    #[test]
    fn the_first_signs_and_both_verify() {
        let (a, b) = ("aa".repeat(16), "bb".repeat(64));
        let both = parse(format!("{a}\n{b}\n").as_bytes()).expect("two keys");
        let message = Message { kind: Kind::Query, vrid: 1, priority: 0, nonce_a: 1, nonce_b: 0, text: String::new() };
        let by_first = message.encode(&both).expect("signed");
        assert_eq!(by_first, message.encode(&parse(a.as_bytes()).expect("key a")).expect("signed"));
        let by_second = message.encode(&parse(b.as_bytes()).expect("key b")).expect("signed");
        assert!(Message::parse(&by_second, &both).is_ok());
    }

    #[test]
    fn errors_name_no_key() {
        for text in ["secretsecretsecretsecretsecretse", &"abc".repeat(3), &"a".repeat(33)] {
            let bad = parse(text.as_bytes()).expect_err("no key");
            assert!(!bad.wrong.contains(text), "{bad:?}");
        }
    }
}
