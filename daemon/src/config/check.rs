//! `bascule check FILE`.

use std::fmt::Write as _;
use std::path::Path;

/// Exit status and text for a person: 0 and a summary, or 1 and one line per error.
pub fn check(path: &Path) -> (u8, String) {
    match super::load(path) {
        Ok(loaded) => {
            let file = path.display();
            let mut text = String::new();
            for warning in &loaded.warnings {
                let _infallible = writeln!(text, "{file}: warning: {warning}");
            }
            let (vips, gates) = (loaded.node.groups.len(), loaded.node.gates.len());
            let _infallible = writeln!(text, "{file}: ok: node {}, {vips} vips, {gates} gates", loaded.node.node);
            (0, text)
        }
        Err(errors) => (1, format!("{errors}\n")),
    }
}
