//! Reads the HTTP/1.1 answers of the lab's clients: of one request a connection, and of one after the other.

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

/// The first answer in `bytes` of a connection that goes on, once it is whole: status, body, and how many bytes it takes. It must say how
/// long it is, or be chunked (RFC 9112, 6.3); one of neither kind is never whole.
pub(crate) fn first(bytes: &[u8]) -> Option<(u16, Vec<u8>, usize)> {
    let start = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..start]).ok()?.to_ascii_lowercase();
    let code = head.split(' ').nth(1)?.parse().ok()?;
    if head.contains("transfer-encoding: chunked") {
        let mut chunks = Chunks::default();
        let used = chunks.take(&bytes[start..]);
        return chunks.ended.then(|| (code, chunks.body, start + used));
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse::<usize>().ok()?;
    let body = bytes.get(start..start + length)?;
    Some((code, body.to_vec(), start + length))
}

/// The body of a chunked answer (RFC 9112, 7.1), as far as it has come.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    pub(crate) body: Vec<u8>,
    pub(crate) ended: bool,
}

impl Chunks {
    /// Takes whole chunks; gives how many bytes they are.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        while !self.ended {
            let Some((length, chunk)) = chunk(&bytes[used..]) else { break };
            self.ended = chunk.is_empty();
            self.body.extend(chunk);
            used += length;
        }
        used
    }
}

/// The first chunk with its frame, and what is in it.
fn chunk(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let line = bytes.windows(2).position(|w| w == b"\r\n")?;
    let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).ok()?.split(';').next()?, 16).ok()?;
    let whole = line + 2 + size + 2;
    bytes.get(..whole).map(|chunk| (whole, &chunk[line + 2..line + 2 + size]))
}

#[cfg(test)]
mod tests {
    use super::{Chunks, first, parse};

    #[test]
    fn answers_of_a_connection_that_goes_on() {
        let two = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nHT";
        let (code, body, used) = first(two).unwrap();
        assert_eq!((code, body.as_slice()), (201, b"{}".as_slice()));
        assert_eq!(first(&two[used..]), Some((200, b"abc".to_vec(), two.len() - used - 2)));
        for cut in 0..used {
            assert_eq!(first(&two[..cut]), None, "{cut}");
        }
        assert_eq!(first(&two[used..two.len() - 3]), None);
    }

    #[test]
    fn chunks_that_come_in_pieces() {
        let all = b"3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n";
        let (mut chunks, mut rest) = (Chunks::default(), Vec::new());
        for byte in all {
            rest.push(*byte);
            let used = chunks.take(&rest);
            rest.drain(..used);
        }
        assert_eq!((chunks.body.as_slice(), chunks.ended, rest.len()), (b"abcd".as_slice(), true, 0));
    }

    #[test]
    fn answers_of_both_framings() {
        let plain = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(parse(plain), Some((200, "{}".to_owned())));
        let chunked = b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n";
        assert_eq!(parse(chunked), Some((503, "abcd".to_owned())));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n"), None);
    }
}
