//! Licences of everything that is linked: each package's SPDX expression against licences.txt.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

pub(super) fn check(metadata: &Value, list: &Path) -> Result<()> {
    let text = std::fs::read_to_string(list).with_context(|| format!("cannot read {}", list.display()))?;
    let allowed: Vec<&str> =
        text.lines().map(|line| line.split('#').next().unwrap_or("").trim()).filter(|line| !line.is_empty()).collect();
    let found = violations(metadata, &allowed);
    if !found.is_empty() {
        bail!("{} packages with a licence that licences.txt does not list:\n    {}", found.len(), found.join("\n    "));
    }
    Ok(())
}

fn violations(metadata: &Value, allowed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or("?");
        let version = package["version"].as_str().unwrap_or("?");
        match package["license"].as_str() {
            None => found.push(format!("{name} {version}: states no licence")),
            Some(expression) if !permitted(expression, allowed) => {
                found.push(format!("{name} {version}: {expression}"))
            }
            Some(_) => {}
        }
    }
    found
}

/// SPDX: `OR` binds weaker than `AND`; `/` is an old way to write `OR`; `WITH` belongs to the licence before it.
fn permitted(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let verdict = any(&words, &mut at, allowed);
    verdict && at == words.len()
}

fn any(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut verdict = every(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        verdict |= every(words, at, allowed);
    }
    verdict
}

fn every(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut verdict = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        verdict &= one(words, at, allowed);
    }
    verdict
}

fn one(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let verdict = any(words, at, allowed);
        *at += 1;
        return verdict;
    }
    let mut name = (*word).to_owned();
    if words.get(*at) == Some(&"WITH") {
        name = format!("{name} WITH {}", words.get(*at + 1).copied().unwrap_or_default());
        *at += 2;
    }
    allowed.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ALLOWED: &[&str] = &["MIT", "Apache-2.0", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"];

    #[test]
    fn expressions_mean_what_spdx_says() {
        for good in ["MIT", "MIT/Apache-2.0", "GPL-2.0 OR MIT", "(MIT OR GPL-2.0) AND Unicode-3.0"] {
            assert!(permitted(good, ALLOWED), "{good}");
        }
        for good in ["Apache-2.0 WITH LLVM-exception OR GPL-2.0", "GPL-2.0 AND MIT OR Apache-2.0"] {
            assert!(permitted(good, ALLOWED), "{good}");
        }
        for bad in ["GPL-2.0", "MIT AND GPL-2.0", "(GPL-2.0 OR MIT) AND AGPL-3.0", "", "MIT Apache-2.0", "MIT WITH x"] {
            assert!(!permitted(bad, ALLOWED), "{bad}");
        }
    }

    #[test]
    fn a_planted_licence_is_named_with_its_package() {
        let planted = json!({"packages": [
            {"name": "good", "version": "1.0.0", "license": "MIT"},
            {"name": "bad", "version": "2.0.0", "license": "AGPL-3.0"},
            {"name": "none", "version": "3.0.0", "license": null},
        ]});
        assert_eq!(violations(&planted, ALLOWED), ["bad 2.0.0: AGPL-3.0", "none 3.0.0: states no licence"]);
    }
}
