//! A line as words: positional ones, flags and `name value` pairs.

use std::net::IpAddr;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bascule_ebpf_common::VipKey;

use crate::forward::bytes::key_of;

/// Words of a line, each used once.
#[derive(Debug, Clone)]
pub(crate) struct Words<'a> {
    words: Vec<&'a str>,
}

impl<'a> Words<'a> {
    pub(crate) fn of(line: &'a str) -> Self {
        Self { words: line.split_whitespace().collect() }
    }
    /// The next positional word.
    pub(crate) fn next(&mut self) -> Result<&'a str> {
        ensure!(!self.words.is_empty(), "a word is missing");
        Ok(self.words.remove(0))
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }
    pub(crate) fn number<T: TryFrom<u64>>(&mut self) -> Result<T> {
        number(self.next()?)
    }
    /// Takes a flag.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let found = self.words.iter().position(|w| *w == name);
        found.map(|at| self.words.remove(at)).is_some()
    }
    /// Takes the word after `name`.
    pub(crate) fn value(&mut self, name: &str) -> Option<&'a str> {
        let at = self.words.iter().position(|w| *w == name)?;
        if at + 1 >= self.words.len() {
            return None;
        }
        self.words.remove(at);
        Some(self.words.remove(at))
    }
    pub(crate) fn value_number<T: TryFrom<u64>>(&mut self, name: &str) -> Result<Option<T>> {
        self.value(name).map(number).transpose()
    }
    /// Nothing may be left: a misspelt word must not pass for a default.
    pub(crate) fn done(self) -> Result<()> {
        ensure!(self.words.is_empty(), "unknown words: {}", self.words.join(" "));
        Ok(())
    }
    pub(crate) fn rest(self) -> Vec<&'a str> {
        self.words
    }
}

/// Decimal or 0x.
pub(crate) fn number<T: TryFrom<u64>>(word: &str) -> Result<T> {
    let value = match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => u64::from_str(word),
    };
    let value = value.with_context(|| format!("{word}: not a number"))?;
    T::try_from(value).map_err(|_| anyhow!("{word}: too large"))
}

pub(crate) fn address(word: &str) -> Result<VipKey> {
    Ok(key_of(word.parse::<IpAddr>().with_context(|| format!("{word}: not an address"))?))
}

/// `ADDRESS:PORT`, `[ADDRESS6]:PORT`; the port as the maps hold it.
pub(crate) fn socket(word: &str) -> Result<(VipKey, u16)> {
    let (host, port) = word.rsplit_once(':').with_context(|| format!("{word}: no port"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((address(host)?, number::<u16>(port)?.to_be()))
}

/// `ADDRESS:PORT/tcp`.
pub(crate) fn socket_protocol(word: &str) -> Result<(VipKey, u16, u8)> {
    let (socket_word, protocol) = word.rsplit_once('/').with_context(|| format!("{word}: no protocol"))?;
    let (address, port) = socket(socket_word)?;
    let protocol = match protocol {
        "tcp" => 6,
        "udp" => 17,
        "sctp" => 132,
        other => number(other)?,
    };
    Ok((address, port, protocol))
}

pub(crate) fn mac(word: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> = word
        .split(':')
        .map(|b| u8::from_str_radix(b, 16).with_context(|| format!("{word}: not a MAC")))
        .collect::<Result<_>>()?;
    <[u8; 6]>::try_from(bytes).map_err(|_| anyhow!("{word}: not a MAC"))
}

pub(crate) fn hex(word: &str) -> Result<Vec<u8>> {
    let digits: String = word.chars().filter(|c| *c != '.').collect();
    if !digits.len().is_multiple_of(2) {
        bail!("{word}: half a byte");
    }
    (0..digits.len() / 2)
        .map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).with_context(|| format!("{word}: not hex")))
        .collect()
}
