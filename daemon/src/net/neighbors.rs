//! What the kernel counts of its neighbour tables.

use std::fs;

use bascule_core::types::Family;

/// Neighbours that the table of a family had no room for (`gc_thresh3`), since boot and of all namespaces together. `None` where the kernel
/// does not show it: it does to its first network namespace only.
pub fn table_full(family: Family) -> Option<u64> {
    let name = match family {
        Family::V4 => "arp_cache",
        Family::V6 => "ndisc_cache",
    };
    parse(&fs::read_to_string(format!("/proc/net/stat/{name}")).ok()?)
}

/// A line of names, then a line of hexadecimal counters for each processor (`neigh_stat_seq_show` of `net/core/neighbour.c`).
fn parse(text: &str) -> Option<u64> {
    let mut lines = text.lines();
    let column = lines.next()?.split_whitespace().position(|name| name == "table_fulls")?;
    lines.map(|line| u64::from_str_radix(line.split_whitespace().nth(column)?, 16).ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_all_processors_are_added() {
        let text = "entries  allocs   unresolved_discards table_fulls\n\
                    00000002 00006248         000003bd    00010009\n\
                    00000002 00006cdf         00000060    00010eae\n";
        assert_eq!(parse(text), Some(0x10009 + 0x10eae));
        assert_eq!(parse("entries  allocs\n00000002 00006248\n"), None);
        assert_eq!(parse("entries table_fulls\n00000002 many\n"), None);
        assert_eq!(parse(""), None);
    }
}
