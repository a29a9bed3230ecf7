//! The committed fuzz corpora, replayed by the very bodies that the fuzzer runs, without a fuzzer.

#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "the interface of a library for the fuzz targets, a private module here")]
mod bodies;
#[path = "../../fuzz/src/daemon.rs"]
#[expect(unreachable_pub, reason = "as above")]
mod daemon;

use std::fs;
use std::path::PathBuf;

use bodies::Target;

/// Every target there is, by name.
fn targets() -> Vec<Target> {
    let mut all = bodies::TARGETS.to_vec();
    all.push(("config", daemon::config));
    all.sort_by_key(|(name, _)| *name);
    all
}

fn fuzz_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

/// Names of the entries of a folder, without extensions, sorted.
fn names(dir: &str) -> Vec<String> {
    let dir = fuzz_dir().join(dir);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let name = |entry: fs::DirEntry| Some(entry.path().file_stem()?.to_str()?.to_owned());
    let mut names: Vec<String> = entries.filter_map(|entry| name(entry.expect("readable entry"))).collect();
    names.sort();
    names
}

#[test]
fn every_target_has_a_body_and_a_corpus() {
    let bodies: Vec<&str> = targets().iter().map(|(name, _)| *name).collect();
    assert_eq!(names("fuzz_targets"), bodies);
    assert_eq!(names("corpus"), bodies);
}

/// A seed named `bad-*` is refused, every other one is accepted: so each corpus reaches past the first checks and each refusal is one.
#[test]
fn every_seed_is_accepted_or_refused_as_its_name_says() {
    for (target, body) in targets() {
        let mut seeds = [0_usize; 2];
        for seed in names(&format!("corpus/{target}")) {
            let bytes = fs::read(fuzz_dir().join("corpus").join(target).join(&seed)).expect("readable seed");
            let accepted = body(&bytes);
            assert_eq!(accepted, !seed.starts_with("bad-"), "{target}/{seed}");
            seeds[usize::from(accepted)] += 1;
        }
        assert!(seeds.iter().all(|count| *count >= 2), "{target}: {seeds:?} seeds refused and accepted");
    }
}

/// Every seed cut at every length and with every byte changed once: what a fuzzer does in its first second, kept for good.
#[test]
fn damaged_seeds_do_not_panic() {
    for (target, body) in targets() {
        for seed in names(&format!("corpus/{target}")) {
            let bytes = fs::read(fuzz_dir().join("corpus").join(target).join(&seed)).expect("readable seed");
            for at in 0..bytes.len() {
                body(&bytes[..at]);
                for flip in [0x01, 0x80, 0xff] {
                    let mut damaged = bytes.clone();
                    damaged[at] ^= flip;
                    body(&damaged);
                }
            }
        }
    }
}
