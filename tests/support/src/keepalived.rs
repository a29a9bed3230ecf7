//! keepalived as a node's VRRP daemon: the incumbent, run with settings equal to Bascule's.

use std::net::IpAddr;
use std::time::Duration;

use crate::{Lab, LabError, Netns, Process, Result};

/// What a keepalived node is told.
#[derive(Debug, Clone)]
pub struct KeepalivedConfig {
    /// Link that holds the VIP.
    pub interface: String,
    /// Virtual router; the IPv6 one has the same number.
    pub vrid: u8,
    /// 1 to 254.
    pub priority: u8,
    /// Time between adverts; whole centiseconds.
    pub advert_interval: Duration,
    /// Virtual addresses; those of IPv6 need a link-local one first.
    pub vips: Vec<IpAddr>,
    /// SCHED_RR priority of its VRRP process; None leaves it an ordinary process.
    pub rt_priority: Option<u8>,
    /// A higher priority takes over from a running lower one.
    pub preempt: bool,
}

impl KeepalivedConfig {
    /// The configuration file: VRRP version 3, no preemption unless asked for, every node starts as a Backup.
    pub fn render(&self, router_id: &str) -> String {
        // Its default limit of 10 ms of real-time CPU without a pause (RLIMIT_RTTIME) gets its VRRP process killed on a busy
        // machine: a second is still a limit.
        let rt = |p| format!("  vrrp_rt_priority {p}\n  vrrp_rlimit_rttime 1000000\n");
        let rt = self.rt_priority.map(rt).unwrap_or_default();
        let mut text = format!("global_defs {{\n  router_id {router_id}\n  vrrp_version 3\n{rt}}}\n");
        for (name, v6) in [("v4", false), ("v6", true)] {
            let vips: Vec<&IpAddr> = self.vips.iter().filter(|a| a.is_ipv6() == v6).collect();
            if vips.is_empty() {
                continue;
            }
            let bits = if v6 { 128 } else { 32 };
            text += &format!(
                "vrrp_instance {name} {{\n  state BACKUP\n  interface {}\n  virtual_router_id {}\n  priority {}\n  \
                 advert_int {}\n{}{}  virtual_ipaddress {{\n",
                self.interface,
                self.vrid,
                self.priority,
                self.advert_interval.as_secs_f64(),
                if self.preempt { "" } else { "  nopreempt\n" },
                if v6 { "  native_ipv6\n" } else { "" },
            );
            for vip in vips {
                text += &format!("    {vip}/{bits} dev {}\n", self.interface);
            }
            text += "  }\n}\n";
        }
        text
    }
}

/// A running keepalived.
#[derive(Debug)]
pub struct Keepalived {
    /// Its parent and VRRP process.
    pub process: Process,
}

impl Keepalived {
    /// Starts it in `netns`; it logs to its [`Process::log`].
    ///
    /// # Errors
    /// When it is not installed.
    pub fn start(lab: &Lab, netns: &Netns, config: &KeepalivedConfig) -> Result<Self> {
        let name = format!("keepalived-{}", netns.name());
        let path = |kind: &str| lab.directory().join(format!("{name}.{kind}"));
        let (file, pid, vrrp_pid) = (path("conf"), path("pid"), path("vrrp-pid"));
        std::fs::write(&file, config.render(netns.name())).map_err(LabError::io(file.display().to_string()))?;
        // A killed parent leaves its pid files, and the next start says that it is running already.
        for stale in [&pid, &vrrp_pid] {
            let _ = std::fs::remove_file(stale);
        }
        let text = |p: &std::path::Path| p.display().to_string();
        let args =
            ["-n", "-P", "-l", "-D", "-f", &text(&file), "-p", &text(&pid), "-r", &text(&vrrp_pid)].map(str::to_owned);
        let process = lab.process(&name, netns, "keepalived").args(args).spawn()?;
        Ok(Self { process })
    }

    /// Waits until its instance of one family ("v4" or "v6") has entered `state` ("MASTER", "BACKUP").
    ///
    /// # Errors
    /// When it does not in time, or ends.
    pub fn wait_state(&mut self, deadline: Duration, family: &str, state: &str) -> Result<String> {
        self.process.wait_for_line(deadline, &format!("({family}) Entering {state} STATE"))
    }
}
