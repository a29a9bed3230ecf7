//! The container image, FROM scratch, as an OCI image layout (image-spec 1.1) without a container engine: one layer with the program and, when
//! it is linked dynamically, its loader and libraries. Same program, same image: names are sorted, times are 0, owners are root.
//!
//! Stands alone: the tests include this file to start what it makes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// Where the program is in the image; its entry point.
pub const PROGRAM: &str = "/bascule";
/// Folders that a pod mounts over, so that a runtime need not make them in a read-only root.
const MOUNTED: [&str; 8] =
    ["dev", "etc/bascule", "etc/bascule-pod", "etc/bascule-keys", "proc", "run/bascule", "sys/fs/bpf", "tmp"];
/// Media types of the image specification.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What the labels say.
#[derive(Debug, Clone)]
pub struct About {
    /// Version of the program.
    pub version: String,
    /// Commit it was built from.
    pub revision: String,
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Image {
    /// The layout's folder.
    pub layout: PathBuf,
    /// Digest of the manifest, `sha256:...`: what a pod spec pins.
    pub digest: String,
    /// Bytes of the layer.
    pub size: u64,
}

/// Makes the layout in the empty folder `layout`, with `work` for what is made on the way.
///
/// # Errors
/// When a program is missing (ldd, tar, sha256sum of an ordinary system) or a file cannot be read or written.
pub fn build(binary: &Path, about: &About, work: &Path, layout: &Path) -> Result<Image> {
    let root = work.join("root");
    for folder in MOUNTED {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("cannot make {folder} of the image"))?;
    }
    install(binary, &root.join(PROGRAM.trim_start_matches('/')))?;
    for library in libraries(binary)? {
        let inside = library.strip_prefix("/").with_context(|| format!("{} is not absolute", library.display()))?;
        // By its content: what ldd names is mostly a link.
        install(&fs::canonicalize(&library)?, &root.join(inside))?;
    }
    let layer = work.join("layer.tar");
    pack(&root, &layer)?;
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
    let (layer_digest, size) = keep(&layer, &blobs)?;
    let config = json!({
        "architecture": architecture(), "os": "linux",
        // The addresses of links, raw sockets, bpffs and the admin socket are root's: the pod takes every other right away.
        "config": { "User": "0:0", "Entrypoint": [PROGRAM], "Cmd": ["version"], "WorkingDir": "/", "Labels": labels(about) },
        "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
        "history": [{ "created_by": "cargo xtask image" }],
    });
    let config = blob(&config, CONFIG, &work.join("config.json"), &blobs)?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config,
        "layers": [{ "mediaType": LAYER, "digest": layer_digest, "size": size }],
        "annotations": labels(about),
    });
    let mut manifest = blob(&manifest, MANIFEST, &work.join("manifest.json"), &blobs)?;
    let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": about.version });
    let index =
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest] });
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(layout.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())?;
    Ok(Image { layout: layout.to_owned(), digest, size })
}

/// Packs a folder so that the same content is the same file.
///
/// # Errors
/// When tar fails.
pub fn pack(folder: &Path, file: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--format=ustar", "-cf"]);
    output(tar.arg(file).arg("-C").arg(folder).arg(".")).map(drop)
}

/// Unpacks the layers of a layout into `root`; gives its entry point. Every blob must be what its digest says.
///
/// # Errors
/// When the layout is not one, or damaged.
pub fn unpack(layout: &Path, root: &Path) -> Result<String> {
    let read = |path: PathBuf| -> Result<Value> {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(serde_json::from_str(&text)?)
    };
    let find = |descriptor: &Value| -> Result<PathBuf> {
        let digest = descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
        let path = layout.join("blobs/sha256").join(digest.context("a descriptor without a digest")?);
        ensure!(Some(sha256(&path)?.as_str()) == digest, "{} is not what its digest says", path.display());
        ensure!(Some(fs::metadata(&path)?.len()) == descriptor["size"].as_u64(), "{}: its size", path.display());
        Ok(path)
    };
    let index = read(layout.join("index.json"))?;
    let manifest = read(find(&index["manifests"][0])?)?;
    let config = read(find(&manifest["config"])?)?;
    for (place, layer) in manifest["layers"].as_array().into_iter().flatten().enumerate() {
        ensure!(config["rootfs"]["diff_ids"][place] == layer["digest"], "an uncompressed layer is its own diff_id");
        output(Command::new("tar").arg("-xpf").arg(find(layer)?).arg("-C").arg(root))?;
    }
    config["config"]["Entrypoint"][0].as_str().map(str::to_owned).context("an image without an entry point")
}

fn labels(about: &About) -> Value {
    json!({
        "org.opencontainers.image.title": "bascule",
        "org.opencontainers.image.description": "Owns a cluster's virtual IPs and moves their traffic between sites",
        "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
        "org.opencontainers.image.version": about.version,
        "org.opencontainers.image.revision": about.revision,
    })
}

/// Names of architectures as Go and so the specification has them.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A file of mode 0755.
fn install(from: &Path, to: &Path) -> Result<()> {
    to.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The loader and every library of a dynamic program; none of a static one.
fn libraries(binary: &Path) -> Result<Vec<PathBuf>> {
    let out = Command::new("ldd").arg(binary).output().context("cannot start ldd")?;
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    if text.contains("not a dynamic executable") || text.contains("statically linked") {
        return Ok(Vec::new());
    }
    ensure!(out.status.success(), "ldd {}: {text}", binary.display());
    if let Some(missing) = text.lines().find(|line| line.contains("not found")) {
        bail!("{} lacks a library: {}", binary.display(), missing.trim());
    }
    // "name => /path (address)", "/loader (address)"; what the kernel maps has no path.
    let path = |line: &str| {
        let right = line.rsplit("=> ").next().unwrap_or(line);
        right.split_whitespace().next().filter(|word| word.starts_with('/')).map(PathBuf::from)
    };
    Ok(text.lines().filter_map(path).collect())
}

fn blob(value: &Value, kind: &str, on_the_way: &Path, blobs: &Path) -> Result<Value> {
    fs::write(on_the_way, value.to_string()).with_context(|| format!("cannot write {}", on_the_way.display()))?;
    let (digest, size) = keep(on_the_way, blobs)?;
    Ok(json!({ "mediaType": kind, "digest": digest, "size": size }))
}

/// Puts a file among the blobs: its digest and size.
fn keep(file: &Path, blobs: &Path) -> Result<(String, u64)> {
    let digest = sha256(file)?;
    let place = blobs.join(&digest);
    fs::rename(file, &place).with_context(|| format!("cannot write {}", place.display()))?;
    Ok((format!("sha256:{digest}"), fs::metadata(&place)?.len()))
}

fn sha256(file: &Path) -> Result<String> {
    let text = output(Command::new("sha256sum").arg("--binary").arg(file))?;
    text.split_whitespace().next().map(str::to_owned).context("sha256sum printed nothing")
}

fn output(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
