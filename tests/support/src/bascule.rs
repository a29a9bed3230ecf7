//! The daemon under test: a configuration file, the real binary, and its admin socket.

use std::fs::File;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use serde_json::{Value, json};

use crate::{Lab, LabError, Netns, Process, Result, Wall, http, wait_for};

/// Where bpffs is by convention (the daemon mounts nothing).
const BPFFS: &str = "/sys/fs/bpf";
/// An admin request is answered within this time or not at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// A running daemon of one node.
#[derive(Debug)]
pub struct Bascule {
    /// The process.
    pub process: Process,
    socket: PathBuf,
    config: PathBuf,
}

/// The binary: `BASCULE_BIN`, else `bascule` in the build directory of the running test or bench.
///
/// # Errors
/// When neither exists.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("BASCULE_BIN") {
        return Ok(path.into());
    }
    built("bascule")?.ok_or_else(|| LabError::answer("bascule", "not built; build it or set BASCULE_BIN"))
}

/// A file of the build directory that the running test (one folder below it) or bench is of; `None`: it was not built.
pub(crate) fn built(name: &str) -> Result<Option<PathBuf>> {
    let own = std::env::current_exe().map_err(LabError::io("the running program"))?;
    Ok(own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file()))
}

/// One VIP group for [`config`]: further keys can be set on the value.
pub fn vip(name: &str, addresses: &[IpAddr], vrid: u8, priority: u8, advert_interval: Duration) -> Value {
    json!({
        "name": name, "addresses": addresses, "vrid": vrid, "priority": priority,
        "advertInterval": format!("{}ms", advert_interval.as_millis()),
    })
}

/// A node's configuration. JSON is YAML in flow style.
pub fn config(node: &str, vips: &[Value]) -> Value {
    json!({ "node": node, "vips": vips })
}

impl Bascule {
    /// Writes `config` (its `admin.socket` is set when it has none) and starts the daemon in `netns`.
    ///
    /// # Errors
    /// When the binary is not there or the file cannot be written.
    pub fn start(lab: &Lab, netns: &Netns, config: &Value) -> Result<Self> {
        Self::start_binary(lab, netns, config, &binary()?)
    }

    /// Like [`Bascule::start`], with this binary.
    ///
    /// # Errors
    /// Those of [`Bascule::start`].
    pub fn start_binary(lab: &Lab, netns: &Netns, config: &Value, binary: &Path) -> Result<Self> {
        Self::start_in(lab, netns, config, binary, None, None)
    }

    /// Like [`Bascule::start`], with a /run that the next start of this node finds again.
    ///
    /// # Errors
    /// Those of [`Bascule::start`].
    pub fn start_keeping_run(lab: &Lab, netns: &Netns, config: &Value) -> Result<Self> {
        let run = lab.directory().join(format!("run-{}", netns.name()));
        std::fs::create_dir_all(&run).map_err(LabError::io(run.display().to_string()))?;
        Self::start_in(lab, netns, config, &binary()?, Some(&run), None)
    }

    /// Like [`Bascule::start`], by this wall clock where there is one.
    ///
    /// # Errors
    /// Those of [`Bascule::start`].
    pub fn start_by(lab: &Lab, netns: &Netns, config: &Value, wall: Option<&Wall>) -> Result<Self> {
        Self::start_in(lab, netns, config, &binary()?, None, wall)
    }

    fn start_in(
        lab: &Lab,
        netns: &Netns,
        config: &Value,
        binary: &Path,
        run: Option<&Path>,
        wall: Option<&Wall>,
    ) -> Result<Self> {
        mount_bpffs()?;
        let mut config = config.clone();
        let default = lab.directory().join(format!("{}.sock", netns.name())).display().to_string();
        let socket = config["admin"]["socket"].as_str().map(str::to_owned).unwrap_or(default);
        config["admin"]["socket"] = Value::from(socket.clone());
        let file = lab.directory().join(format!("{}.yaml", netns.name()));
        write_config(&file, &config)?;
        let name = format!("bascule-{}", netns.name());
        let args = ["run".to_owned(), "--config".to_owned(), file.display().to_string()];
        let builder = lab.process(&name, netns, binary).args(args);
        let builder = wall.iter().flat_map(|wall| wall.env()).fold(builder, |b, (key, value)| b.env(key, value));
        let process = match run {
            Some(directory) => builder.kept_run(directory),
            None => builder.private_run(),
        };
        Ok(Self { process: process.spawn()?, socket: socket.into(), config: file })
    }

    /// One that was started otherwise: its process, its admin socket and its file as they are reached from outside.
    pub(crate) fn of(process: Process, socket: PathBuf, config: PathBuf) -> Self {
        Self { process, socket, config }
    }

    /// Its admin socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Writes another configuration over its file; the daemon sees the change or is sent SIGHUP.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn rewrite(&self, config: &Value) -> Result<()> {
        let mut config = config.clone();
        config["admin"]["socket"] = Value::from(self.socket.display().to_string());
        write_config(&self.config, &config)
    }

    /// GET of an admin path: status code and body.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        get(&self.socket, path)
    }

    /// `GET /state`.
    ///
    /// # Errors
    /// When the daemon does not answer with JSON.
    pub fn state(&self) -> Result<Value> {
        let (code, body) = self.get("/state")?;
        serde_json::from_str(&body).map_err(|e| LabError::answer(format!("/state ({code})"), format!("{e}: {body}")))
    }

    /// The entry of one group in [`Bascule::state`].
    pub fn group(&self, name: &str) -> Option<Value> {
        let state = self.state().ok()?;
        state["groups"].as_array()?.iter().find(|g| g["name"] == name).cloned()
    }

    /// The role of one group: `initialize`, `backup` or `active`.
    pub fn role(&self, group: &str) -> Option<String> {
        self.group(group)?["role"].as_str().map(str::to_owned)
    }

    /// Waits for a role.
    ///
    /// # Errors
    /// When it does not come in time or the daemon ends; the end of its output is in the error.
    pub fn wait_role(&mut self, deadline: Duration, group: &str, role: &str) -> Result<()> {
        let what = format!("{} to be {role} for {group}", self.process.name());
        let mut last = None;
        let waited = wait_for(deadline, &what, || {
            last = self.role(group);
            if last.as_deref() == Some(role) { Some(true) } else { (!self.process.alive()).then_some(false) }
        });
        match waited {
            Ok(true) => Ok(()),
            _ => Err(LabError::answer(what, format!("it is {last:?}; output:\n{}", self.process.tail()))),
        }
    }

    /// Runs one of its client commands (`status`, `move`, `drain` ...) against its socket; gives its output.
    ///
    /// # Errors
    /// When the command fails.
    pub fn ctl(&self, args: &[&str]) -> Result<String> {
        let program = binary()?;
        let socket = self.socket.display().to_string();
        let all: Vec<&str> = args.iter().copied().chain(["--socket", &socket]).collect();
        crate::tool(None, &program.display().to_string(), &all, None)
    }

    /// The value of a metric by the start of its line (name and labels as exposed); None when it is not there.
    pub fn metric(&self, line: &str) -> Option<f64> {
        let (_, body) = self.get("/metrics").ok()?;
        let found = body.lines().find(|l| l.strip_prefix(line).is_some_and(|rest| rest.starts_with([' ', '{'])))?;
        found.rsplit_once(' ')?.1.parse().ok()
    }
}

fn write_config(file: &Path, config: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(config).expect("a JSON value");
    std::fs::write(file, text).map_err(LabError::io(file.display().to_string()))
}

/// Plain HTTP/1.1 over a unix socket, one request per connection.
fn get(socket: &Path, path: &str) -> Result<(u16, String)> {
    let talk = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer: Vec<u8> = talk().map_err(LabError::io(format!("GET {path} on {}", socket.display())))?;
    http::parse(&answer)
        .ok_or_else(|| LabError::answer(format!("GET {path}"), String::from_utf8_lossy(&answer).into_owned()))
}

/// Mounts bpffs where a machine has none yet, as systemd does elsewhere. It stays: it is the machine's, not a lab's.
pub(crate) fn mount_bpffs() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        let mount = || {
            let lock = File::open(BPFFS)?;
            // Several test processes may start at once: the second one must see the first one's mount.
            lock.lock()?;
            let mounts = std::fs::read_to_string("/proc/self/mounts")?;
            if mounts.lines().any(|l| l.split(' ').nth(1) == Some(BPFFS)) {
                return Ok(());
            }
            let none: Option<&str> = None;
            nix::mount::mount(Some("bpf"), BPFFS, Some("bpf"), nix::mount::MsFlags::empty(), none)?;
            Ok(())
        };
        result = mount().map_err(LabError::io(format!("bpffs on {BPFFS}")));
    });
    result
}
