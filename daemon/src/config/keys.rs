//! Key files: of the peer channel, of forwarding, and passwords of BGP neighbors. No part of a secret ever reaches an error.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use bascule_core::wire::peer::Keys;

mod forward;

pub(super) use forward::forward;

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

/// The keys of the peer channel.
pub(super) fn read(path: &Path) -> Result<Keys, BadKeys> {
    parse(&secret(path, KEYS)?)
}

/// The secrets of a pair of sites, in order of use.
pub(super) fn secrets(path: &Path) -> Result<Vec<Vec<u8>>, BadKeys> {
    lines(&secret(path, KEYS)?)
}

/// A TCP MD5 key: one line.
pub(super) fn password(path: &Path) -> Result<Vec<u8>, BadKeys> {
    parse_password(&secret(path, PASSWORD)?)
}

/// What a file should hold, for errors.
struct Content {
    create: &'static str,
    right: &'static str,
}

const KEYS: Content = Content {
    create: "create it with 32 to 128 hex digits on one line, mode 0600",
    right: "use 1 or 2 lines of 32 to 128 hex digits",
};
const PASSWORD: Content =
    Content { create: "create it with one line of 1 to 80 bytes, mode 0600", right: "use one line of 1 to 80 bytes" };

/// Longest TCP MD5 key that the kernel takes (`TCP_MD5SIG_MAXKEYLEN` of linux/tcp.h).
const PASSWORD_MAX: usize = 80;

fn secret(path: &Path, content: Content) -> Result<Vec<u8>, BadKeys> {
    let unreadable = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => bad("does not exist", content.create),
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
        return Err(bad(format!("has {} bytes", meta.len()), content.right));
    }
    let mut bytes = Vec::new();
    let _length = file.take(FILE_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// The line as it stands: blanks at its ends may be part of it, its end is not.
fn parse_password(bytes: &[u8]) -> Result<Vec<u8>, BadKeys> {
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(bad("holds no password", PASSWORD.right));
    }
    if line.iter().any(|b| matches!(b, b'\n' | b'\r' | 0)) {
        return Err(bad("holds more than one line", PASSWORD.right));
    }
    if line.len() > PASSWORD_MAX {
        return Err(bad(format!("holds a password of {} bytes", line.len()), PASSWORD.right));
    }
    Ok(line.to_vec())
}

fn parse(bytes: &[u8]) -> Result<Keys, BadKeys> {
    lines(bytes).map(Keys::new)
}

/// One secret a line.
fn lines(bytes: &[u8]) -> Result<Vec<Vec<u8>>, BadKeys> {
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
        keys.push(bytes_of_hex(line).unwrap_or_default());
    }
    Ok(keys)
}

/// The bytes that pairs of hex digits name.
fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let byte = |pair: &[u8]| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?);
    text.as_bytes().chunks(2).map(byte).collect()
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
    fn a_password_is_one_line_as_it_stands() {
        for text in ["s3cret", "s3cret\n", "s3cret\r\n"] {
            assert_eq!(parse_password(text.as_bytes()).expect("one line"), b"s3cret");
        }
        assert_eq!(parse_password(b" two words ").expect("blanks count"), b" two words ");
        assert_eq!(parse_password(&[b'x'; 80]).expect("80 bytes").len(), 80);
        for bad in [&b""[..], b"\n", b"a\nb\n", b"a\0", &[b'x'; 81]] {
            let error = parse_password(bad).expect_err("no password");
            assert!(!error.wrong.contains("xx"), "{error:?}");
        }
    }

    #[test]
    fn errors_name_no_key() {
        for text in ["secretsecretsecretsecretsecretse", &"abc".repeat(3), &"a".repeat(33)] {
            let bad = parse(text.as_bytes()).expect_err("no key");
            assert!(!bad.wrong.contains(text), "{bad:?}");
        }
    }
}
