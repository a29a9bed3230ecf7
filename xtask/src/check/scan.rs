//! Enough of a Rust reader for the edge rules: which paths a file names. Comments, strings and `#[cfg(test)]` blocks
//! are left out; `use` trees are expanded. It reads tokens, not meaning: a path behind a macro or a rename is not
//! seen, and need not be, since the rule is against habit and not against malice.

/// One path a file names, and the line it starts on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// Segments, `crate::net::udp` as three.
    pub(super) path: Vec<String>,
    /// 1-based.
    pub(super) line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `::`
    Join,
    Mark(char),
}

type Placed = (Token, usize);

/// Every path of at least two segments, from `use` items and from expressions.
pub(super) fn paths(source: &str) -> Vec<Named> {
    let tokens = without_tests(&tokens(source));
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at].0 {
            Token::Word(word) if word == "use" => at = tree(&tokens, at + 1, &[], &mut found),
            Token::Word(_) => at = tree(&tokens, at, &[], &mut found),
            _ => at += 1,
        }
    }
    found.retain(|named| named.path.len() > 1);
    found
}

/// Read one path or `use` tree that begins at `at`; returns where it ends.
fn tree(tokens: &[Placed], mut at: usize, prefix: &[String], found: &mut Vec<Named>) -> usize {
    let mut path = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |placed| placed.1);
    // A leading `::` names a crate.
    if tokens.get(at).is_some_and(|placed| placed.0 == Token::Join) {
        at += 1;
    }
    loop {
        match tokens.get(at).map(|placed| &placed.0) {
            Some(Token::Word(word)) => path.push(word.clone()),
            // Only a `use` item has a brace here: an expression's brace never follows `::` or `use`.
            Some(Token::Mark('{')) => return group(tokens, at + 1, &path, found),
            Some(Token::Mark('*')) => path.push("*".to_owned()),
            _ => break,
        }
        at += 1;
        if tokens.get(at).is_none_or(|placed| placed.0 != Token::Join) {
            break;
        }
        at += 1;
    }
    found.push(Named { path, line });
    at
}

/// `{a, b::{c}}` after its opening brace; returns the place after the closing one.
fn group(tokens: &[Placed], mut at: usize, prefix: &[String], found: &mut Vec<Named>) -> usize {
    while at < tokens.len() {
        match &tokens[at].0 {
            Token::Mark('}') => return at + 1,
            Token::Word(word) if word == "as" => at += 2,
            Token::Word(_) | Token::Join | Token::Mark('{' | '*') => at = tree(tokens, at, prefix, found).max(at + 1),
            Token::Mark(_) => at += 1,
        }
    }
    at
}

/// Drop what `#[cfg(test)]` stands before: an item up to its `;`, or up to the end of its block.
fn without_tests(tokens: &[Placed]) -> Vec<Placed> {
    let word = |text: &str| Token::Word(text.to_owned());
    let marker = [
        Token::Mark('#'),
        Token::Mark('['),
        word("cfg"),
        Token::Mark('('),
        word("test"),
        Token::Mark(')'),
        Token::Mark(']'),
    ];
    let starts =
        |at: usize| marker.iter().enumerate().all(|(i, want)| tokens.get(at + i).is_some_and(|t| t.0 == *want));
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        if !starts(at) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        at += marker.len();
        let mut depth = 0_usize;
        while let Some((token, _)) = tokens.get(at) {
            at += 1;
            match token {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        break;
                    }
                }
                Token::Mark(';') if depth == 0 => break,
                _ => {}
            }
        }
    }
    kept
}

fn tokens(source: &str) -> Vec<Placed> {
    let chars: Vec<char> = source.chars().collect();
    let (mut out, mut at, mut line) = (Vec::new(), 0, 1);
    while at < chars.len() {
        let (c, next) = (chars[at], chars.get(at + 1).copied());
        let end = match (c, next) {
            ('/', Some('/')) => find(&chars, at, |i| chars[i] == '\n'),
            ('/', Some('*')) => block_comment(&chars, at),
            ('"', _) => string(&chars, at + 1),
            ('r' | 'b', Some('r' | '#' | '"')) if let Some(end) = raw_string(&chars, at) => end,
            ('\'', _) if let Some(end) = character(&chars, at) => end,
            (':', Some(':')) => {
                out.push((Token::Join, line));
                at + 2
            }
            _ if c.is_alphabetic() || c == '_' => {
                let end = find(&chars, at, |i| !chars[i].is_alphanumeric() && chars[i] != '_');
                out.push((Token::Word(chars[at..end].iter().collect()), line));
                end
            }
            _ => {
                if !c.is_whitespace() {
                    out.push((Token::Mark(c), line));
                }
                at + 1
            }
        };
        line += chars[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    out
}

fn find(chars: &[char], from: usize, stop: impl Fn(usize) -> bool) -> usize {
    (from..chars.len()).find(|i| stop(*i)).unwrap_or(chars.len())
}

fn block_comment(chars: &[char], from: usize) -> usize {
    let (mut depth, mut at) = (0_usize, from);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    at
}

fn string(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `r"..."`, `r#"..."#`, `br"..."`; not a raw identifier.
fn raw_string(chars: &[char], at: usize) -> Option<usize> {
    let r = if chars[at] == 'b' { at + 1 } else { at };
    if chars.get(r) != Some(&'r') {
        return None;
    }
    let quote = find(chars, r + 1, |i| chars[i] != '#');
    if chars.get(quote) != Some(&'"') {
        return None;
    }
    let hashes = quote - r - 1;
    let closes = |i: usize| chars[i] == '"' && (1..=hashes).all(|k| chars.get(i + k) == Some(&'#'));
    Some((find(chars, quote + 1, closes) + 1 + hashes).min(chars.len()))
}

/// `'x'` or `'\n'`, not a lifetime.
fn character(chars: &[char], at: usize) -> Option<usize> {
    if chars.get(at + 1) == Some(&'\\') {
        return Some((find(chars, at + 3, |i| chars[i] == '\'') + 1).min(chars.len()));
    }
    (chars.get(at + 2) == Some(&'\'')).then_some(at + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str) -> Vec<String> {
        paths(source).into_iter().map(|named| named.path.join("::")).collect()
    }

    #[test]
    fn use_trees_are_expanded() {
        assert_eq!(
            found("use std::{fs, time::{Duration, Instant as I}, io::*};\nuse crate::net;"),
            ["std::fs", "std::time::Duration", "std::time::Instant", "std::io::*", "crate::net"]
        );
    }

    #[test]
    fn paths_in_expressions_and_types_are_found() {
        assert_eq!(found("fn a() -> std::fs::File { b(crate::net::open()) }"), ["std::fs::File", "crate::net::open"]);
        assert_eq!(found("let x = Foo { a: std::thread::current() };"), ["std::thread::current"]);
    }

    #[test]
    fn comments_strings_and_lifetimes_are_not_code() {
        let source = "// std::fs\n/* std::fs /* x */ std::fs */ \"std::fs \\\" std::fs\" r#\"std::\"fs\"# '\"' &'a str; std::env::var";
        assert_eq!(found(source), ["std::env::var"]);
    }

    #[test]
    fn test_modules_are_left_out_and_what_follows_is_not() {
        let source =
            "#[cfg(test)]\nmod tests { use std::fs; fn a() { {} } }\n#[cfg(test)] mod t;\nuse std::net::UdpSocket;";
        assert_eq!(found(source), ["std::net::UdpSocket"]);
    }

    #[test]
    fn lines_are_counted() {
        let named = paths("\n/*\n\n*/\nuse std::{\n  fs,\n};");
        assert_eq!(named[0].line, 6);
    }
}
