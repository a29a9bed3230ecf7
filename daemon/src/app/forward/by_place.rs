//! What was made of each of many shared things, remembered while somebody brings the same ones again.
//!
//! A configuration of thousands of services differs from the one before in a few. Those that did not change are the same in memory, and known by
//! their place there.

use std::sync::Arc;

/// A value for each thing, in the order of their places. It holds the things, so that no place is used again meanwhile.
#[derive(Debug)]
pub(super) struct ByPlace<T, V>(Vec<(Arc<T>, V)>);

impl<T, V> Default for ByPlace<T, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, V> ByPlace<T, V> {
    /// These are all there are now: makes the values of those that are new, and forgets those that are gone.
    pub(super) fn renew<'a>(&mut self, all: impl Iterator<Item = &'a Arc<T>>, mut make: impl FnMut(&T) -> V)
    where
        T: 'a,
    {
        let mut wanted: Vec<&Arc<T>> = all.collect();
        wanted.sort_unstable_by_key(|thing| Arc::as_ptr(thing));
        wanted.dedup_by_key(|thing| Arc::as_ptr(thing));
        let mut before = std::mem::take(&mut self.0).into_iter().peekable();
        let mut known = |thing: &Arc<T>| {
            let place = Arc::as_ptr(thing);
            while before.next_if(|(known, _)| Arc::as_ptr(known) < place).is_some() {}
            before.next_if(|(known, _)| Arc::as_ptr(known) == place)
        };
        let one = |thing: &Arc<T>| known(thing).unwrap_or_else(|| (Arc::clone(thing), make(thing)));
        self.0 = wanted.into_iter().map(one).collect();
    }

    /// Every thing with its value.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<T>, &V)> {
        self.0.iter().map(|(thing, value)| (thing, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_made_and_what_is_gone_is_forgotten() {
        let things: Vec<Arc<u32>> = (0..100).map(Arc::new).collect();
        let mut known = ByPlace::default();
        let mut made = Vec::new();
        let mut renew = |things: &[Arc<u32>]| {
            made.clear();
            known.renew(things.iter(), |thing| {
                made.push(*thing);
                *thing * 2
            });
            let mut values: Vec<(u32, u32)> = known.iter().map(|(thing, value)| (**thing, *value)).collect();
            values.sort_unstable();
            made.sort_unstable();
            (made.clone(), values)
        };
        let pairs = |of: std::ops::Range<u32>| of.map(|n| (n, n * 2)).collect::<Vec<_>>();
        assert_eq!(renew(&things[..60]), ((0..60).collect(), pairs(0..60)));
        assert_eq!(renew(&things[20..]), ((60..100).collect(), pairs(20..100)), "those that stayed are not made again");
        assert_eq!(renew(&things[..30]), ((0..20).collect(), pairs(0..30)), "what was forgotten is made anew");
        // Equal things in another place are others.
        assert_eq!(renew(&[Arc::new(7)]), (vec![7], vec![(7, 14)]));
        assert_eq!(renew(&[]), (vec![], vec![]));
    }
}
