//! `docs`: the references under docs/reference and the manifests under deploy/crds are what the code says, written down. `--check` compares.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::sh;

/// `bascule docs NAME` prints docs/reference/NAME.md.
const REFERENCES: &[&str] = &["config", "metrics", "cli"];
/// The example `crds` prints deploy/crds/NAME.yaml for each of these: all kinds there are.
const KINDS: &[&str] =
    &["bgpannouncements", "bgppeers", "l2announcements", "sites", "sitetrafficpolicies", "vippools", "vipstatuses"];

/// Regenerate, or with `check` compare; true when nothing differs.
pub(crate) fn run(check: bool) -> Result<bool> {
    if check {
        return up_to_date().map(|()| true);
    }
    for (file, text) in generated()? {
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        println!("docs: wrote {}", shown(&file));
    }
    Ok(true)
}

/// An error names the first line that differs.
pub(crate) fn up_to_date() -> Result<()> {
    for (file, text) in generated()? {
        let old = std::fs::read_to_string(&file).unwrap_or_default();
        if let Some(line) = first_difference(&old, &text) {
            bail!("{} is out of date from line {line} on; run `cargo xtask docs` and commit it", shown(&file));
        }
    }
    Ok(())
}

fn generated() -> Result<Vec<(PathBuf, String)>> {
    // As the tests are built: for a part of it cargo takes other features of dependencies, and builds half of the workspace anew.
    sh::run(sh::cargo().args(["build", "--quiet", "--workspace", "--all-targets"]))?;
    let program = sh::target_dir().join("debug/bascule");
    let one = |name: &&str| {
        let text = sh::output(Command::new(&program).args(["docs", name]))?;
        if text.trim().is_empty() {
            bail!("`bascule docs {name}` printed nothing");
        }
        Ok((sh::root().join(format!("docs/reference/{name}.md")), text))
    };
    let mut all = REFERENCES.iter().map(one).collect::<Result<Vec<_>>>()?;
    all.extend(crds()?);
    Ok(all)
}

/// What the API server is told of our kinds.
fn crds() -> Result<Vec<(PathBuf, String)>> {
    let program = sh::target_dir().join("debug/examples/crds");
    let mut all = Vec::new();
    for name in KINDS {
        let text = sh::output(Command::new(&program).arg(name))?;
        all.push((sh::root().join(format!("deploy/crds/{name}.yaml")), text));
    }
    let printed = sh::output(&mut Command::new(&program))?.matches("kind: CustomResourceDefinition").count();
    if printed != KINDS.len() {
        bail!("the example `crds` prints {printed} kinds, and {} have a file under deploy/crds", KINDS.len());
    }
    Ok(all)
}

fn first_difference(old: &str, new: &str) -> Option<usize> {
    if old == new {
        return None;
    }
    let common = old.split('\n').zip(new.split('\n')).take_while(|(a, b)| a == b).count();
    Some(common + 1)
}

fn shown(file: &Path) -> String {
    file.strip_prefix(sh::root()).unwrap_or(file).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_differing_line_is_named() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some(2));
        assert_eq!(first_difference("a\n", "a\nb\n"), Some(2));
        assert_eq!(first_difference("", "a\n"), Some(1));
    }
}
