//! Bodies that need the daemon's crate: its dependencies take longest to compile with the sanitizer, and the other targets do without.
//! Included by path, as the library is.

use std::path::Path;

/// A configuration file. Each error is exactly one line that begins with the file's name, whatever the text holds.
pub fn config(data: &[u8]) -> bool {
    let Ok(text) = core::str::from_utf8(data) else { return false };
    match bascule::config::parse(text, "fuzz.yaml", Path::new("/nonexistent"), "n1") {
        Ok(loaded) => {
            assert!(!loaded.node.groups.is_empty(), "a configuration without a VIP is of no use");
            true
        }
        Err(errors) => {
            let shown = errors.to_string();
            assert!(!shown.is_empty() && shown.lines().all(|line| line.starts_with("fuzz.yaml")), "{shown:?}");
            false
        }
    }
}
