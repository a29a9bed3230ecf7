//! The key file of the data plane.

use std::path::Path;

use bascule_core::service::keys::{ForwardKeys, Purpose, derive};

use super::{BadKeys, Content, HEX_MAX, HEX_MIN, bad, bytes_of_hex, secret};

const RIGHT: &str = "use lines of 0: or 1: and one of flow:, each with 32 to 128 hex digits";
const CONTENT: Content =
    Content { create: "create it with lines of 0: and flow:, each with 32 to 128 hex digits, mode 0600", right: RIGHT };

/// The keys of forwarding.
pub(in crate::config) fn forward(path: &Path) -> Result<ForwardKeys, BadKeys> {
    parse(&secret(path, CONTENT)?)
}

fn parse(bytes: &[u8]) -> Result<ForwardKeys, BadKeys> {
    let text = std::str::from_utf8(bytes).map_err(|_| bad("is not text", RIGHT))?;
    let (mut flow, mut tags, mut send) = (None, [None, None], None);
    let mut secrets: Vec<Vec<u8>> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let (number, line) = (i + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (label, digits) = line.split_once(':').ok_or_else(|| bad(format!("line {number}: no label"), RIGHT))?;
        if digits.len() < HEX_MIN || digits.len() > HEX_MAX || digits.len() % 2 != 0 {
            return Err(bad(format!("line {number}: {} hex digits", digits.len()), RIGHT));
        }
        let secret = bytes_of_hex(digits).ok_or_else(|| bad(format!("line {number}: not hex digits"), RIGHT))?;
        if secrets.contains(&secret) {
            return Err(bad(format!("line {number}: the key of another line"), "give each line its own"));
        }
        let (place, purpose) = match label {
            "flow" => (&mut flow, Purpose::FlowHash),
            "0" => (&mut tags[0], Purpose::Tag),
            "1" => (&mut tags[1], Purpose::Tag),
            _ => return Err(bad(format!("line {number}: the label is none of 0, 1 and flow"), RIGHT)),
        };
        if place.replace(derive(&secret, purpose)).is_some() {
            return Err(bad(format!("line {number}: a second {label}:"), "give each label once"));
        }
        if label != "flow" && send.is_none() {
            send = Some(usize::from(label == "1"));
        }
        secrets.push(secret);
    }
    let send = send.ok_or_else(|| bad("holds no key 0: or 1:", RIGHT))?;
    let flow =
        flow.ok_or_else(|| bad("holds no key flow:", "add flow: with 32 to 128 hex digits that never change"))?;
    Ok(ForwardKeys { flow, tags, send })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<ForwardKeys, String> {
        parse(text.as_bytes()).map_err(|bad| bad.wrong)
    }

    /// The steps of a rotation: both everywhere, then the other signs everywhere, then the old one goes.
    #[test]
    fn rotation_changes_neither_slots_nor_the_flow_key() {
        let (a, b, flow) = ("aa".repeat(16), "bb".repeat(32), "cc".repeat(16));
        let steps = [
            format!("0:{a}\nflow:{flow}\n"),
            format!("0:{a}\n1:{b}\nflow:{flow}\n"),
            format!("# the new one signs\n1:{b}\n0:{a}\n\nflow:{flow}\n"),
            format!("flow:{flow}\n1:{b}\n"),
        ];
        let keys: Vec<ForwardKeys> = steps.iter().map(|s| of(s).expect("keys")).collect();
        assert_eq!(keys.iter().map(|k| k.send).collect::<Vec<_>>(), [0, 0, 1, 1]);
        let slots: Vec<[bool; 2]> = keys.iter().map(|k| k.tags.map(|t| t.is_some())).collect();
        assert_eq!(slots, [[true, false], [true, true], [true, true], [false, true]]);
        assert!(keys.iter().all(|k| k.flow == keys[0].flow));
        assert!(
            keys[1].tags == keys[2].tags && keys[1].tags[0] == keys[0].tags[0] && keys[2].tags[1] == keys[3].tags[1]
        );
    }

    #[test]
    fn errors_name_the_line_and_no_key() {
        let key = "ab".repeat(16);
        for (text, wrong) in [
            (String::new(), "holds no key 0: or 1:"),
            (format!("0:{key}\n"), "holds no key flow:"),
            (format!("flow:{key}\n"), "holds no key 0: or 1:"),
            (format!("{key}\n"), "line 1: no label"),
            (format!("\n2:{key}\n"), "line 2: the label is none of 0, 1 and flow"),
            (format!("0:{key}\n0:{}\n", "cd".repeat(16)), "line 2: a second 0:"),
            (format!("0:{key}\nflow:{key}\n"), "line 2: the key of another line"),
            ("0:abcd\n".to_owned(), "line 1: 4 hex digits"),
            (format!("0:{}\n", "xy".repeat(16)), "line 1: not hex digits"),
            (format!("0:{}\n", "é".repeat(20)), "line 1: not hex digits"),
        ] {
            assert_eq!(of(&text), Err(wrong.to_owned()), "{text}");
        }
    }
}
