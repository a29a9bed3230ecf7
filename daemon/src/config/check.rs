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
            let _infallible = write!(text, "{file}: ok: node {}, {vips} vips, {gates} gates", loaded.node.node);
            if let Some(forwarding) = &loaded.forwarding {
                let services = &forwarding.config.services;
                let endpoints: usize = services.iter().map(|s| s.endpoints.len()).sum();
                let _infallible = write!(text, ", {} services, {endpoints} endpoints", services.len());
            }
            text.push('\n');
            (0, text)
        }
        Err(errors) => (1, format!("{errors}\n")),
    }
}
