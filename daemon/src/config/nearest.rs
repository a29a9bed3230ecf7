//! The known word that a person most likely meant.

/// The closest of `known`, or `None` when nothing is near.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = plain(word);
    if word.is_empty() {
        return None;
    }
    let scored = known.map(|k| {
        let candidate = plain(k);
        let contained = word.len() > 2 && (candidate.contains(&word) || word.contains(&candidate));
        // A part of the word beats a misspelling of the same length.
        (if contained { 1 } else { distance(&word, &candidate) }, k)
    });
    scored.min_by_key(|(d, _)| *d).filter(|(d, k)| *d <= k.len().div_ceil(2)).map(|(_, k)| k)
}

/// Case and separators are what people mix up most: `advert_interval`, `linklocal`.
fn plain(word: &str) -> String {
    word.chars().filter(|c| c.is_alphanumeric()).take(64).flat_map(char::to_lowercase).collect()
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_words_find_their_field() {
        let known = ["advertInterval", "vrid", "priority", "linkLocal", "drainTime", "name"];
        let find = |w| nearest(w, known.into_iter());
        assert_eq!(find("advert_interval"), Some("advertInterval"));
        assert_eq!(find("interval"), Some("advertInterval"));
        assert_eq!(find("vird"), Some("vrid"));
        assert_eq!(find("drain"), Some("drainTime"));
        assert_eq!(find("xyzzy-quux"), None);
        assert_eq!(find(""), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
