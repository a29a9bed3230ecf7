//! The container image of the binary under test, by the code of `cargo xtask image`.

#[path = "../../../xtask/src/oci.rs"]
mod oci;

use std::path::Path;

use anyhow::Result;

pub use oci::{About, Image, PROGRAM, build, pack, unpack};

/// Builds the image below `folder` and unpacks it: `folder/files` is its root. Gives its entry point.
///
/// # Errors
/// When it cannot be built.
pub fn unpacked(folder: &Path) -> Result<String> {
    let about = About { version: "test".to_owned(), revision: "test".to_owned() };
    let image = build(&bascule_lab::bascule::binary()?, &about, &folder.join("work"), &folder.join("layout"))?;
    let files = folder.join("files");
    std::fs::create_dir_all(&files)?;
    unpack(&image.layout, &files)
}
