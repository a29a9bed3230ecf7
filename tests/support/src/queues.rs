//! What the lab's own wires dropped, and not the programs under test: veth and the machine's receive queues overflow when the processor
//! is given to somebody else for long enough.

use crate::{LabError, Netns, Result};

/// Packets dropped by full queues since boot: by the machine's (`net.core.netdev_max_backlog`, all CPUs and namespaces) and by the
/// links of these namespaces. A veth towards an XDP program holds 256 packets and counts the others as dropped on transmission.
///
/// # Errors
/// When the counters cannot be read, or have another form.
pub fn dropped<'a>(namespaces: impl IntoIterator<Item = &'a Netns>) -> Result<u64> {
    let path = "/proc/net/softnet_stat";
    let text = std::fs::read_to_string(path).map_err(LabError::io(path))?;
    let mut sum = of_machine(&text).ok_or_else(|| LabError::answer("softnet_stat", text))?;
    for namespace in namespaces {
        let text = namespace.tool("ip", &["-s", "-j", "link"])?;
        sum += of_links(&text).ok_or_else(|| LabError::answer("ip -s -j link", text))?;
    }
    Ok(sum)
}

/// The second column of every line (kernel, net/core/net-procfs.c).
fn of_machine(text: &str) -> Option<u64> {
    text.lines().map(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok()).sum()
}

fn of_links(json: &str) -> Option<u64> {
    let links: Vec<serde_json::Value> = serde_json::from_str(json).ok()?;
    links.iter().map(|link| link["stats64"]["tx"]["dropped"].as_u64()).sum()
}

#[cfg(test)]
mod tests {
    use super::{of_links, of_machine};

    #[test]
    fn drops_of_every_cpu_and_link_are_added_up() {
        assert_eq!(of_machine("0000000a 00000010 00000000\n0000000b 00000001 00000000\n"), Some(17));
        assert_eq!(of_machine("0000000a\n"), None);
        let links = r#"[{"ifname":"a","stats64":{"tx":{"dropped":2}}},{"ifname":"b","stats64":{"tx":{"dropped":3}}}]"#;
        assert_eq!(of_links(links), Some(5));
        assert_eq!(of_links(r#"[{"ifname":"a"}]"#), None);
    }
}
