//! The vectors of `vectors.txt`, for every test that wants to send them. Included by path; needs nothing but std.

/// What the session was like on which the message is received. All exchange IPv4 and IPv6 unicast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    /// External, four-octet AS numbers.
    Ebgp,
    /// Internal, four-octet AS numbers.
    Ibgp,
    /// External, two-octet AS numbers.
    Old,
}

/// What must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing is wrong.
    Accept,
    /// Attribute discard; the type code of the first attribute.
    Discard(u8),
    /// Treat-as-withdraw; the type code of the first attribute that asks for it.
    Withdraw(u8),
    /// Session reset by a NOTIFICATION of this code and subcode.
    Reset(u8, u8),
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Vector {
    /// Unique.
    pub(crate) name: &'static str,
    /// Where it is received.
    pub(crate) session: Session,
    /// The whole UPDATE, header included.
    pub(crate) message: Vec<u8>,
    /// What must follow.
    pub(crate) verdict: Verdict,
    /// RFC and section that demand it.
    pub(crate) section: &'static str,
}

/// All of them, in the order of the file.
///
/// # Panics
/// When a line cannot be read: a test must not run on half a table.
#[must_use]
pub(crate) fn vectors() -> Vec<Vector> {
    let lines = include_str!("vectors.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| vector(line).unwrap_or_else(|| panic!("cannot read: {line}"))).collect()
}

fn vector(line: &'static str) -> Option<Vector> {
    let mut columns = line.split('|').map(str::trim);
    let vector = Vector {
        name: columns.next()?,
        session: match columns.next()? {
            "ebgp" => Session::Ebgp,
            "ibgp" => Session::Ibgp,
            "old" => Session::Old,
            _ => return None,
        },
        message: message(columns.next()?)?,
        verdict: verdict(columns.next()?)?,
        section: columns.next()?,
    };
    columns.next().is_none().then_some(vector)
}

fn message(body: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        body.chars().filter(|c| *c != ' ').map(|c| u8::try_from(c.to_digit(16)?).ok()).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let body: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    let length = u16::try_from(19 + body.len()).ok()?.to_be_bytes();
    rest.is_empty().then(|| [&[0xff; 16][..], &length, &[2], &body].concat())
}

fn verdict(words: &str) -> Option<Verdict> {
    let (word, number) = words.split_once(' ').unwrap_or((words, ""));
    Some(match word {
        "accept" => Verdict::Accept,
        "discard" => Verdict::Discard(number.parse().ok()?),
        "withdraw" => Verdict::Withdraw(number.parse().ok()?),
        "reset" => {
            let (code, subcode) = number.split_once('/')?;
            Verdict::Reset(code.parse().ok()?, subcode.parse().ok()?)
        }
        _ => return None,
    })
}
