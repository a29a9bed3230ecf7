//! The allocator, against a model.

use proptest::prelude::*;

use super::super::maglev::SIZES;
use super::super::slab::Slab;

#[derive(Clone, Debug)]
enum Step {
    Take(usize),
    Free(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![3 => (0_usize..7).prop_map(Step::Take), 2 => any::<usize>().prop_map(Step::Free)];
    proptest::collection::vec(step, 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_overlaps_and_everything_comes_back(steps in steps()) {
        let mut slab = Slab::new(1 << 14);
        let mut taken: Vec<(u32, u32)> = Vec::new();
        for step in steps {
            match step {
                Step::Take(size) => {
                    let count = u32::from(SIZES[size]);
                    match slab.take(count) {
                        Some(base) => {
                            prop_assert!(base + count <= 1 << 14);
                            prop_assert!(taken.iter().all(|(b, c)| base + count <= *b || b + c <= base));
                            taken.push((base, count));
                        }
                        None => prop_assert!(slab.longest() < count),
                    }
                }
                Step::Free(i) if !taken.is_empty() => {
                    let (base, count) = taken.swap_remove(i % taken.len());
                    slab.free(base, count);
                }
                Step::Free(_) => {}
            }
            prop_assert_eq!(slab.used(), taken.iter().map(|(_, c)| c).sum::<u32>());
        }
        // A slab that remembers the same tables has room for the same others.
        let mut again = Slab::new(1 << 14);
        for (base, count) in &taken {
            prop_assert!(again.claim(*base, *count));
            prop_assert!(!again.claim(*base, *count));
        }
        prop_assert_eq!(again.longest(), slab.longest());
        for (base, count) in taken {
            slab.free(base, count);
        }
        prop_assert_eq!((slab.used(), slab.longest()), (0, 1 << 14));
    }

    /// Tables of a few sizes that come and go, never more than half of the slab: what a rebuild of everything needs. There is room for
    /// one more of the largest each time.
    #[test]
    fn half_full_never_fails(seeds in proptest::collection::vec((0_usize..5, any::<usize>()), 1000)) {
        let mut slab = Slab::new(1 << 15);
        let mut taken: Vec<(u32, u32)> = Vec::new();
        for (size, victim) in seeds {
            let count = u32::from(SIZES[size]);
            while slab.used() + count > 1 << 14 {
                let (base, count) = taken.swap_remove(victim % taken.len());
                slab.free(base, count);
            }
            let base = slab.take(count);
            prop_assert!(base.is_some(), "{count} rows of {} free, longest {}", (1 << 15) - slab.used(), slab.longest());
            taken.push((base.unwrap(), count));
        }
    }
}

#[test]
fn the_first_of_the_smallest_that_fit() {
    let mut slab = Slab::new(1000);
    let bases: Vec<u32> = [100, 50, 100, 50].into_iter().map(|n| slab.take(n).expect("room")).collect();
    assert_eq!(bases, [0, 100, 150, 250]);
    slab.free(0, 100);
    slab.free(100, 50);
    slab.free(250, 50);
    assert_eq!(slab.take(120), Some(0), "150 at 0 fit better than 750 at 250");
    assert_eq!(slab.take(751), None);
    assert_eq!(slab.take(750), Some(250));
}
