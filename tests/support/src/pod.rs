//! A pod of a manifest, started as a container runtime would: its image's files as the root, read-only, with what the manifest mounts, the
//! capabilities that it adds and its command line, in a namespace of the lab.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bascule::{Bascule, mount_bpffs};
use crate::{Lab, LabError, Netns, Result};

/// What every runtime gives a container beside its image: the kernel's files, and the devices that a program may count on.
const RUNTIME: [&str; 3] = ["/proc", "/dev/null", "/dev/urandom"];
/// Numbers of `linux/capability.h`.
const CAPABILITIES: [(&str, u32); 5] =
    [("NET_ADMIN", 12), ("NET_RAW", 13), ("SYS_NICE", 23), ("PERFMON", 38), ("BPF", 39)];

/// Every document of some YAML.
///
/// # Errors
/// When it is not YAML.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    serde_saphyr::from_multiple(text).map_err(|e| LabError::answer("YAML", e.to_string()))
}

/// A pod with its configuration.
#[derive(Debug, Clone)]
pub struct Pod {
    spec: Value,
    /// The configuration as it was shipped; empty where it is a file of the host.
    pub config: String,
    /// Further files beside the configuration, with their text: keys, for their owner only.
    pub beside: Vec<(&'static str, String)>,
}

/// The root of a container, prepared for a process that does not run yet.
#[derive(Debug)]
pub(crate) struct Root {
    /// Its folder.
    pub(crate) directory: CString,
    /// What is bound where, as paths outside.
    pub(crate) binds: Vec<(CString, CString)>,
    /// What it may do.
    pub(crate) capabilities: Vec<u32>,
}

impl Pod {
    /// A static pod, whose configuration is in an annotation or a file of the host.
    ///
    /// # Errors
    /// When there is no pod.
    pub fn of_static(manifest: &str) -> Result<Self> {
        let pod = documents(manifest)?.into_iter().find(|d| d["kind"] == "Pod").ok_or_else(|| lacks("Pod"))?;
        let config = pod["metadata"]["annotations"]["bascule/config"].as_str().unwrap_or_default();
        Ok(Self { config: config.to_owned(), spec: pod["spec"].clone(), beside: Vec::new() })
    }

    /// The pods of a DaemonSet, whose configuration is in a ConfigMap beside it.
    ///
    /// # Errors
    /// When one of the two is not there.
    pub fn of_daemonset(manifests: &str) -> Result<Self> {
        let all = documents(manifests)?;
        let find = |kind: &str| all.iter().find(|d| d["kind"] == kind).ok_or_else(|| lacks(kind));
        let config = find("ConfigMap")?["data"]["bascule.yaml"].as_str().ok_or_else(|| lacks("bascule.yaml"))?;
        let spec = find("DaemonSet")?["spec"]["template"]["spec"].clone();
        Ok(Self { config: config.to_owned(), spec, beside: Vec::new() })
    }

    fn container(&self) -> &Value {
        &self.spec["containers"][0]
    }

    /// Its command line, without the program.
    pub fn args(&self) -> Vec<String> {
        texts(&self.container()["args"])
    }

    /// Starts it in `netns` on the files of an image in `image`, whose entry point is `program`, with `config` in place of its own. Folders
    /// of the host are folders of this node in the lab: two pods of one node share them.
    ///
    /// # Errors
    /// When the manifest asks for what a runtime would not give.
    pub fn start(&self, lab: &Lab, netns: &Netns, image: &Path, program: &str, config: &Value) -> Result<Bascule> {
        mount_bpffs()?;
        let args = self.args();
        let file = args.iter().skip_while(|arg| *arg != "--config").nth(1).ok_or_else(|| lacks("--config"))?;
        let host = lab.directory().join(format!("host-{}", netns.name()));
        let root = copy_of(image, &lab.directory().join(format!("root-{}-{}", netns.name(), unique())))?;
        let configs = lab.directory().join(format!("config-{}-{}", netns.name(), unique()));
        make(&configs)?;
        let held = configs.join(Path::new(file).file_name().unwrap_or_default());
        fs::write(&held, config.to_string()).map_err(LabError::io(held.display().to_string()))?;
        for (name, text) in &self.beside {
            let path = configs.join(name);
            let kept =
                fs::write(&path, text).and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)));
            kept.map_err(LabError::io(path.display().to_string()))?;
        }
        let mut binds = Vec::new();
        for mount in self.container()["volumeMounts"].as_array().into_iter().flatten() {
            let volumes = self.spec["volumes"].as_array();
            let volume = volumes.into_iter().flatten().find(|v| v["name"] == mount["name"]);
            let volume = volume.ok_or_else(|| LabError::answer("a mount without a volume", mount.to_string()))?;
            let inside = mount["mountPath"].as_str().ok_or_else(|| lacks("mountPath"))?;
            let outside = match volume["hostPath"]["path"].as_str() {
                Some("/sys/fs/bpf") => PathBuf::from("/sys/fs/bpf"),
                Some(path) if volume["hostPath"]["type"] == "DirectoryOrCreate" => {
                    let folder = host.join(path.trim_start_matches('/'));
                    make(&folder)?;
                    folder
                }
                Some(path) if volume["hostPath"]["type"] == "File" => {
                    let file = host.join(path.trim_start_matches('/'));
                    make(file.parent().unwrap_or(&host))?;
                    fs::write(&file, "").map_err(LabError::io(file.display().to_string()))?;
                    file
                }
                Some(_) | None => configs.clone(),
            };
            let folder = outside.is_dir();
            binds.push((outside, place(&root, inside, folder)?));
        }
        for path in RUNTIME {
            binds.push((PathBuf::from(path), place(&root, path, Path::new(path).is_dir())?));
        }
        let text = |path: &Path| {
            CString::new(path.as_os_str().as_bytes())
                .map_err(|_| LabError::answer("a path", path.display().to_string()))
        };
        let binds = binds.iter().map(|(from, to)| Ok((text(from)?, text(to)?))).collect::<Result<_>>()?;
        let container = Root { directory: text(&root)?, binds, capabilities: self.capabilities()? };
        let name = format!("pod-{}", netns.name());
        let process = lab.process(&name, netns, program).args(&args).rooted(container).spawn()?;
        let socket = config["admin"]["socket"].as_str();
        let usual = match config["instance"].as_u64().unwrap_or_default() {
            0 => "/run/bascule/admin.sock".to_owned(),
            further => format!("/run/bascule/admin-{further}.sock"),
        };
        let socket = host.join(socket.unwrap_or(&usual).trim_start_matches('/'));
        Ok(Bascule::of(process, socket, held))
    }

    fn capabilities(&self) -> Result<Vec<u32>> {
        let rights = &self.container()["securityContext"];
        if rights["capabilities"]["drop"] != serde_json::json!(["ALL"]) || rights["privileged"] != false {
            return Err(LabError::answer("the rights of a pod", rights.to_string()));
        }
        let number = |name: &String| {
            let found = CAPABILITIES.iter().find(|(known, _)| known == name);
            found.map(|(_, number)| *number).ok_or_else(|| LabError::answer("a capability", name.clone()))
        };
        texts(&rights["capabilities"]["add"]).iter().map(number).collect()
    }
}

/// Enters the root: what follows sees nothing else, writes nowhere but in what is bound, and may do nothing but what is listed. Only
/// async-signal-safe calls.
pub(crate) fn enter(root: &Root) -> std::io::Result<()> {
    let check = |ok: bool| if ok { Ok(()) } else { Err(std::io::Error::last_os_error()) };
    let nothing = std::ptr::null::<libc::c_void>();
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: every pointer is null where mount(2) allows it or a NUL-terminated string that outlives the call; prctl(2) takes numbers.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS) == 0)?;
        let directory = root.directory.as_ptr();
        check(libc::mount(c"none".as_ptr(), c"/".as_ptr(), none, libc::MS_REC | libc::MS_SLAVE, nothing) == 0)?;
        check(libc::mount(directory, directory, none, libc::MS_BIND, nothing) == 0)?;
        let read_only = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
        check(libc::mount(none, directory, none, read_only, nothing) == 0)?;
        for (from, to) in &root.binds {
            check(libc::mount(from.as_ptr(), to.as_ptr(), none, libc::MS_BIND | libc::MS_REC, nothing) == 0)?;
        }
        check(libc::chroot(directory) == 0)?;
        check(libc::chdir(c"/".as_ptr()) == 0)?;
        // Beyond the last capability of this kernel the call fails, and there is nothing to drop.
        for capability in (0..64).filter(|number| !root.capabilities.contains(number)) {
            libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0);
        }
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
    }
}

fn lacks(what: &str) -> LabError {
    LabError::answer("a manifest", format!("it has no {what}"))
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

fn unique() -> usize {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(LabError::io(folder.display().to_string()))
}

/// Where something is bound: a runtime makes what the image lacks.
fn place(root: &Path, inside: &str, folder: bool) -> Result<PathBuf> {
    let path = root.join(inside.trim_start_matches('/'));
    if folder {
        make(&path)?;
    } else {
        path.parent().map_or(Ok(()), make)?;
        fs::write(&path, "").map_err(LabError::io(path.display().to_string()))?;
    }
    Ok(path)
}

/// The files of an image under `to`, as hard links where the file system allows them.
fn copy_of(image: &Path, to: &Path) -> Result<PathBuf> {
    make(to)?;
    let entries = fs::read_dir(image).map_err(LabError::io(image.display().to_string()))?;
    for entry in entries.flatten() {
        let (from, into) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_of(&from, &into)?;
        } else if fs::hard_link(&from, &into).is_err() {
            fs::copy(&from, &into).map_err(LabError::io(from.display().to_string()))?;
            let mode = fs::metadata(&from).map_err(LabError::io(from.display().to_string()))?.permissions().mode();
            fs::set_permissions(&into, fs::Permissions::from_mode(mode)).map_err(LabError::io("an image's file"))?;
        }
    }
    Ok(to.to_owned())
}
