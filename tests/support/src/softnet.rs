//! What the machine's own receive queues dropped: all namespaces of the lab share one queue per CPU, and veth delivers through it.

use crate::{LabError, Result};

/// Packets that did not fit into `net.core.netdev_max_backlog` since boot, all CPUs together (the second column of
/// `/proc/net/softnet_stat`). What the programs under test drop is not among them.
///
/// # Errors
/// When the file cannot be read, or has another form.
pub fn dropped() -> Result<u64> {
    let path = "/proc/net/softnet_stat";
    let text = std::fs::read_to_string(path).map_err(LabError::io(path))?;
    total(&text).ok_or_else(|| LabError::answer("softnet_stat", text))
}

fn total(text: &str) -> Option<u64> {
    text.lines().map(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::{dropped, total};

    #[test]
    fn the_second_column_of_every_cpu_is_added_up() {
        assert_eq!(total("0000000a 00000010 00000000\n0000000b 00000001 00000000\n"), Some(17));
        assert_eq!(total("0000000a\n"), None);
        assert!(dropped().is_ok());
    }
}
