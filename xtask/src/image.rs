//! `cargo xtask image`: the release build as a container image in one file, an OCI layout in a tar: `skopeo copy oci-archive:FILE ...`,
//! `ctr images import FILE`, `podman load -i FILE`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::oci::{self, About};
use crate::{report, setup, sh};

/// Options of `image`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A program that is built already, dynamic or static; without it the release build is made.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where to write the image.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Builds the program that ships, and says where it is.
pub(crate) fn program() -> Result<PathBuf> {
    setup::all()?;
    sh::run(sh::cargo().args(["build", "--release", "--package", "bascule"]))?;
    Ok(sh::target_dir().join("release/bascule"))
}

/// Makes the image and says what it is.
pub(crate) fn run(args: &Args) -> Result<()> {
    let binary = match &args.binary {
        Some(path) => path.clone(),
        None => program()?,
    };
    let said = sh::output(std::process::Command::new(&binary).arg("version"))?;
    let version = said.split_whitespace().last().context("the program does not say its version")?.to_owned();
    let file = args.out.clone().unwrap_or_else(|| sh::target_dir().join(format!("bascule-{version}.oci.tar")));
    let work = sh::target_dir().join("xtask/image");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("cannot empty {}", work.display()))?;
    }
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let about = About { version, revision: report::commit() };
    let image = oci::build(&binary, &about, &work, &work.join("layout"))?;
    oci::pack(&image.layout, &file)?;
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    println!("image: {} ({} bytes in its layer)\nimage: {}", file.display(), image.size, image.digest);
    Ok(())
}
