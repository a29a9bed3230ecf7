//! What the programs may cost the verifier, as CI prints and holds it (issue 4, "Shows" 8).

/// A program's name, the instructions the verifier may walk (its own limit is one million), and the KiB after translation.
///
/// `bascule_xdp`: the goal of the design is 20,000. The others: what they need, and a few per cent.
pub const BUDGETS: [(&str, u32, u32); 5] = [
    ("bascule_xdp", 20_000, 64),
    ("bascule_tc_ingress", 21_000, 64),
    ("bascule_tc_egress", 26_000, 64),
    ("bascule_xdp_slow", 165_000, 144),
    ("bascule_tc_slow", 165_000, 144),
];
