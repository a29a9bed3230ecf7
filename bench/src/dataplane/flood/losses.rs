//! Where packets were lost on a site: what programs, devices, queues and TCP stacks say.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use bascule_ebpf_common::forward::PacketDrop;
use bascule_lab::Netns;
use bascule_lab::forward::Site;

/// Counters of /proc/net/snmp and /proc/net/netstat (RFC 4022 and Linux' own) that speak of lost or refused segments, or of cookies.
const STACK: [&str; 9] = [
    "RetransSegs",
    "InErrs",
    "TCPTimeouts",
    "TCPBacklogDrop",
    "TCPReqQFullDrop",
    "ListenDrops",
    "ListenOverflows",
    "SyncookiesSent",
    "InCsumErrors",
];
/// Counters of a device that speak of frames lost (rtnl_link_stats64).
const DEVICE: [&str; 3] = ["dropped", "errors", "missed_errors"];

/// Counters by what they count; only those above zero are told.
#[derive(Default)]
pub(super) struct Losses(BTreeMap<String, u64>);

impl Losses {
    /// What all of `site` has counted so far.
    pub(super) fn now(site: &Site) -> Result<Self> {
        let mut all = Self::default();
        // The backlog of every processor: column 1 of softnet_stat, hexadecimal (net/core/net-procfs.c).
        let backlog = std::fs::read_to_string("/proc/net/softnet_stat").context("softnet_stat")?;
        let dropped = |line: &str| line.split_whitespace().nth(1).and_then(|word| u64::from_str_radix(word, 16).ok());
        all.add("backlogs".to_owned(), backlog.lines().filter_map(dropped).sum());
        for member in &site.members {
            all.devices(&member.netns)?;
            for pod in &member.pods {
                all.devices(&pod.netns)?;
                all.stack(&pod.netns)?;
            }
            let Some(programs) = &member.programs else { continue };
            let tallies = programs.tallies()?;
            for reason in PacketDrop::ALL {
                all.add(format!("{} program {}", member.netns.name(), reason.name()), tallies.drops(reason));
            }
        }
        for netns in [&site.router, &site.client] {
            all.devices(netns)?;
            all.stack(netns)?;
        }
        all.devices(site.switch())?;
        Ok(all)
    }

    /// What was counted since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let before = |name: &String| earlier.0.get(name).copied().unwrap_or_default();
        Self(self.0.iter().map(|(name, count)| (name.clone(), count.saturating_sub(before(name)))).collect())
    }

    fn add(&mut self, name: String, count: u64) {
        *self.0.entry(name).or_default() += count;
    }

    fn devices(&mut self, netns: &Netns) -> Result<()> {
        let links: serde_json::Value = serde_json::from_str(&netns.tool("ip", &["-j", "-s", "link", "show"])?)?;
        for link in links.as_array().context("ip -j gives a list")? {
            let device = link["ifname"].as_str().unwrap_or_default();
            for (way, counter) in ["rx", "tx"].iter().flat_map(|way| DEVICE.map(|counter| (way, counter))) {
                let count = link["stats64"][way][counter].as_u64().unwrap_or_default();
                self.add(format!("{} {device} {way} {counter}", netns.name()), count);
            }
        }
        Ok(())
    }

    fn stack(&mut self, netns: &Netns) -> Result<()> {
        for file in ["/proc/thread-self/net/snmp", "/proc/thread-self/net/netstat"] {
            let text = netns.run(|| std::fs::read_to_string(file)).context(file)?;
            // Names on one line, values on the next.
            for pair in text.lines().collect::<Vec<_>>().chunks(2) {
                let [names, values] = pair else { continue };
                for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
                    if let (true, Ok(value)) = (STACK.contains(&name), value.parse()) {
                        self.add(format!("{} {name}", netns.name()), value);
                    }
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.0.iter().filter(|(_, count)| **count > 0).peekable();
        if told.peek().is_none() {
            return f.write_str("nothing");
        }
        for (index, (name, count)) in told.enumerate() {
            write!(f, "{}{name} {count}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
