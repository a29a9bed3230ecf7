//! A program in a namespace: started, watched through its output, stopped, frozen and killed; gone with its guard.

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::group::Group;
use crate::pod::{self, Root};
use crate::{Lab, LabError, Netns, Result, Stamp, sleep_until, wait_for};

/// Lines of a log that are shown when a test unwinds.
const TAIL: usize = 40;

/// What to start; made by [`Lab::process`].
#[derive(Debug)]
pub struct ProcessBuilder {
    name: String,
    group: String,
    log: PathBuf,
    netns: Netns,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    run: Run,
}

/// What a program finds at /run.
#[derive(Debug, Clone)]
enum Run {
    /// The machine's.
    Shared,
    /// An empty one of its own.
    Empty,
    /// This directory, which outlives it.
    Kept(PathBuf),
    /// That of a container.
    Rooted(Arc<Root>),
}

/// A started program with all its children, in a control group of its own. Dropped, all of it is killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    group: Group,
    log: PathBuf,
    status: Option<ExitStatus>,
    /// When it was started.
    pub started: Stamp,
}

/// Scheduling of one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedClass {
    /// Name of the thread.
    pub thread: String,
    /// Policy number of sched_setscheduler(2): 0 ordinary, 1 SCHED_FIFO, 2 SCHED_RR.
    pub policy: u32,
    /// Real-time priority; 0 for ordinary threads.
    pub priority: u32,
}

impl ProcessBuilder {
    pub(crate) fn new(lab: &Lab, name: &str, netns: &Netns, program: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let serial = COUNT.fetch_add(1, Ordering::Relaxed);
        Self {
            name: name.to_owned(),
            group: format!("{}-{name}-{serial}", lab.prefix()),
            log: lab.logs().join(format!("{name}-{serial}.log")),
            netns: netns.clone(),
            program: program.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            run: Run::Shared,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Gives it a mount namespace of its own with an empty /run. Everything else, bpffs too, stays visible.
    #[must_use]
    pub fn private_run(mut self) -> Self {
        self.run = Run::Empty;
        self
    }

    /// Like [`ProcessBuilder::private_run`], with this directory as its /run: a later start finds there what this one left, as on a
    /// node that is not booted in between.
    #[must_use]
    pub fn kept_run(mut self, directory: impl Into<PathBuf>) -> Self {
        self.run = Run::Kept(directory.into());
        self
    }

    /// Starts it in a container's root, where its program is looked for too.
    #[must_use]
    pub(crate) fn rooted(mut self, root: Root) -> Self {
        self.run = Run::Rooted(Arc::new(root));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// When the program does not exist or a namespace refuses.
    pub fn spawn(self) -> Result<Process> {
        let log = File::create(&self.log).map_err(LabError::io(self.log.display().to_string()))?;
        let stderr = log.try_clone().map_err(LabError::io("the log"))?;
        let group = Group::create(&self.group)?;
        let join = File::options().write(true).open(group.procs()).map_err(LabError::io("cgroup.procs"))?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env).stdin(Stdio::null()).stdout(log).stderr(stderr);
        let netns = self.netns;
        let run = match &self.run {
            Run::Shared | Run::Rooted(_) => None,
            Run::Empty => Some((c"tmpfs".to_owned(), 0)),
            Run::Kept(directory) => {
                let path = CString::new(directory.as_os_str().as_bytes());
                let path =
                    path.map_err(|_| LabError::answer("a /run", format!("{} has a NUL", directory.display())))?;
                Some((path, libc::MS_BIND))
            }
        };
        let root = if let Run::Rooted(root) = self.run { Some(root) } else { None };
        // SAFETY: between fork and exec only write(2), sigprocmask(2), setsid(2), setns(2), unshare(2), mount(2), chroot(2), chdir(2) and prctl(2) are called, all of
        // them async-signal-safe, on descriptors and strings that the closure owns.
        unsafe {
            command.pre_exec(move || {
                // The mask is inherited, and a bench that cleans up on SIGTERM has that blocked.
                SigSet::empty().thread_set_mask()?;
                check(libc::write(join.as_raw_fd(), c"0".as_ptr().cast(), 1) == 1)?;
                check(libc::setsid() != -1)?;
                check(libc::setns(netns.fd().as_raw_fd(), libc::CLONE_NEWNET) == 0)?;
                root.as_ref().map_or(Ok(()), |root| pod::enter(root))?;
                run.as_ref().map_or(Ok(()), |(source, flags)| own_run(source, *flags))
            });
        }
        let child = command.spawn().map_err(LabError::io(self.program.display().to_string()))?;
        Ok(Process { name: self.name, child, group, log: self.log, status: None, started: Stamp::now() })
    }
}

fn check(ok: bool) -> std::io::Result<()> {
    if ok { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// A mount namespace in which /run is a new tmpfs, or `source` by MS_BIND. Slave propagation: what the host mounts later (bpffs) still
/// shows.
fn own_run(source: &CStr, flags: libc::c_ulong) -> std::io::Result<()> {
    let nothing = std::ptr::null();
    // SAFETY: every pointer is null where mount(2) allows it or a NUL-terminated string that outlives the call.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS) == 0)?;
        let slave = libc::MS_REC | libc::MS_SLAVE;
        check(libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(), slave, nothing) == 0)?;
        check(libc::mount(source.as_ptr(), c"/run".as_ptr(), c"tmpfs".as_ptr(), flags, nothing) == 0)
    }
}

impl Process {
    /// Its name in the lab.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pid of the program itself.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// All its processes.
    pub fn pids(&self) -> Vec<Pid> {
        self.group.pids()
    }

    /// Sends a signal to the program itself.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).map_err(LabError::errno(format!("{signal} to {}", self.name)))
    }

    /// SIGKILL to the program and all its children; waits until they are gone. The moment just before is given back.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn sigkill(&mut self) -> Result<Stamp> {
        // Stopped first: keepalived's child is told of its parent's death by a SIGTERM, and would release before its own turn comes.
        let at = self.stop();
        self.group.signal(Signal::SIGKILL);
        self.wait(Duration::from_secs(5))?;
        Ok(at)
    }

    /// SIGTERM to the program itself. The moment just before is given back.
    ///
    /// # Errors
    /// When it is gone.
    pub fn sigterm(&self) -> Result<Stamp> {
        let at = Stamp::now();
        self.signal(Signal::SIGTERM)?;
        Ok(at)
    }

    /// SIGSTOP to all its processes.
    pub fn stop(&self) -> Stamp {
        let at = Stamp::now();
        self.group.signal(Signal::SIGSTOP);
        at
    }

    /// SIGCONT to all its processes.
    pub fn cont(&self) {
        self.group.signal(Signal::SIGCONT);
    }

    /// Stops all its processes for exactly this long. Gives the time they stood really, measured outside.
    pub fn stall(&self, time: Duration) -> Duration {
        let at = self.stop();
        sleep_until(at + time);
        self.cont();
        Stamp::now().since(at)
    }

    /// Freezes or thaws all its processes by the cgroup freezer: unlike SIGSTOP they cannot see it.
    ///
    /// # Errors
    /// When the freezer does not do it in time.
    pub fn freeze(&self, frozen: bool) -> Result<Stamp> {
        let at = Stamp::now();
        self.group.freeze(frozen)?;
        Ok(at)
    }

    /// True while it runs.
    pub fn alive(&mut self) -> bool {
        self.try_status().is_none()
    }

    fn try_status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// [`LabError::Timeout`].
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        wait_for(deadline, &what, || self.try_status())
    }

    /// The file that holds everything it wrote to stdout and stderr.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Everything it wrote to stdout and stderr.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits for a line of its output that holds `text`; gives the line.
    ///
    /// # Errors
    /// [`LabError::Timeout`], or its exit when it ends before.
    pub fn wait_for_line(&mut self, deadline: Duration, text: &str) -> Result<String> {
        let what = format!("{} to write {text:?}", self.name);
        let found = wait_for(deadline, &what, || {
            let ended = !self.alive();
            let line = self.log().lines().find(|l| l.contains(text)).map(str::to_owned);
            if line.is_none() && ended { Some(Err(())) } else { line.map(Ok) }
        })?;
        found.map_err(|()| {
            let status = self.status.map(|s| format!("{s} (signal {:?})", s.signal())).unwrap_or_default();
            LabError::answer(what, format!("it ended: {status}\n{}", self.tail()))
        })
    }

    /// Scheduling of each of its threads.
    pub fn scheduling(&self) -> Vec<SchedClass> {
        let mut found = Vec::new();
        for pid in self.pids() {
            let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for task in tasks.flatten() {
                let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else { continue };
                let Some((head, fields)) = stat.rsplit_once(')') else { continue };
                // proc(5): rt_priority is field 40 and policy field 41; the first one after the name is field 3.
                let fields: Vec<&str> = fields.split_whitespace().collect();
                let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse().ok()).unwrap_or_default();
                let thread = head.split_once('(').map(|(_, name)| name.to_owned()).unwrap_or_default();
                found.push(SchedClass { thread, policy: field(41), priority: field(40) });
            }
        }
        found
    }

    /// The end of its output.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.group.kill();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- end of the output of {}:\n{}\n---", self.name, self.tail());
        }
    }
}
