//! What daemons cost: processor time and memory by /proc, requests by the API server's audit log.

use std::time::Duration;

use serde_json::Value;

use crate::{LabError, Process, Result};

/// What a process has used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// User and system time of all its threads.
    pub cpu: Duration,
    /// Resident memory, MiB.
    pub rss: f64,
}

/// What `process` itself has used so far.
///
/// # Errors
/// When it is gone.
pub fn usage(process: &Process) -> Result<Usage> {
    let read = |file: &str| {
        let path = format!("/proc/{}/{file}", process.pid());
        std::fs::read_to_string(&path).map_err(LabError::io(path))
    };
    let (stat, status) = (read("stat")?, read("status")?);
    let found = parse(&stat, &status);
    found.ok_or_else(|| LabError::answer("/proc", format!("{stat}\n{status}")))
}

fn parse(stat: &str, status: &str) -> Option<Usage> {
    // proc_pid_stat(5): utime and stime are fields 14 and 15, the 12th and 13th after the name.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let kib: f64 =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.parse().ok()?;
    // USER_HZ is 100 on every architecture that the kernel shows to processes.
    Some(Usage { cpu: Duration::from_millis(ticks * 10), rss: kib / 1024.0 })
}

/// Requests that came from `source`: one for each watch, at its start, and one for each other request, at its end.
pub fn asked(events: &[Value], source: &str) -> usize {
    let from = |event: &&Value| event["sourceIPs"][0] == source;
    let once = |event: &&Value| (event["verb"] == "watch") == (event["stage"] == "ResponseStarted");
    events.iter().filter(from).filter(once).count()
}

/// Writes for Services and pools, whoever sent them: statuses and events, without the Lease of who gives.
pub fn writes(events: &[Value]) -> usize {
    let writes = |event: &&Value| ["create", "update", "patch", "delete"].iter().any(|verb| event["verb"] == *verb);
    let lease = |event: &&Value| event["objectRef"]["resource"] == "leases";
    let ended = |event: &&Value| event["stage"] == "ResponseComplete";
    events.iter().filter(writes).filter(ended).filter(|event| !lease(event)).count()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_kernels_words() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 31 0 0 20 0 9 0 55 1 2";
        let found = parse(stat, "Name:\ta\nVmRSS:\t  2048 kB\nVmData:\t1 kB\n").unwrap();
        assert_eq!(found, Usage { cpu: Duration::from_millis(2810), rss: 2.0 });
        assert_eq!(parse("7 (a", "VmRSS: 1 kB"), None);
    }

    #[test]
    fn each_request_counts_once() {
        let event = |verb: &str, stage: &str, resource: &str, from: &str| json!({"verb": verb, "stage": stage, "objectRef": {"resource": resource}, "sourceIPs": [from]});
        let events = [
            event("watch", "ResponseStarted", "services", "10.9.0.1"),
            event("watch", "ResponseComplete", "services", "10.9.0.1"),
            event("list", "ResponseComplete", "services", "10.9.0.1"),
            event("patch", "ResponseComplete", "services", "10.9.0.2"),
            event("update", "ResponseComplete", "leases", "10.9.0.2"),
        ];
        assert_eq!((asked(&events, "10.9.0.1"), asked(&events, "10.9.0.2"), writes(&events)), (2, 2, 1));
    }
}
