//! Reads the HTTP/1.1 answers of the lab's clients: one request a connection.

/// Status and body of an HTTP/1.1 answer that ended with its connection (RFC 9112), also of a chunked one (7.1).
pub(crate) fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let split = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..split]).ok()?.to_ascii_lowercase();
    let code = head.split(' ').nth(1)?.parse().ok()?;
    let mut rest = &answer[split + 4..];
    let mut body = Vec::new();
    if head.contains("transfer-encoding: chunked") {
        loop {
            let line = rest.windows(2).position(|w| w == b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?.split(';').next()?, 16).ok()?;
            if size == 0 {
                break;
            }
            body.extend(rest.get(line + 2..line + 2 + size)?);
            rest = rest.get(line + 2 + size + 2..)?;
        }
    } else {
        body.extend(rest);
    }
    Some((code, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn answers_of_both_framings() {
        let plain = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(parse(plain), Some((200, "{}".to_owned())));
        let chunked = b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n";
        assert_eq!(parse(chunked), Some((503, "abcd".to_owned())));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n"), None);
    }
}
