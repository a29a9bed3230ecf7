//! What the fence must let in for the data plane, as a difference: of thousands of services a handful changes at a time, and the event loop has
//! better things to do than to compare the rest.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bascule_core::service::{Delivery, ServiceSpec};

use crate::config::Loaded;
use crate::dataplane::{Forwarded, Opening};

/// Protocol numbers (IANA).
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What was told last.
#[derive(Debug, Default)]
pub(in crate::app) struct Frames {
    /// Services that need each frame.
    needed: HashMap<Forwarded, u32>,
    /// Kept, so that their places in memory stay theirs.
    services: Vec<Arc<ServiceSpec>>,
    told: bool,
}

/// Every service that is steered, and of its VIP what belongs to any service (ICMP, later fragments).
fn of(service: &ServiceSpec) -> impl Iterator<Item = Forwarded> {
    let (vip, protocol) = (service.vip, service.protocol.number());
    let icmp = if vip.is_ipv4() { ICMP } else { ICMPV6 };
    let frames = [(service.port, protocol), (0, protocol), (0, icmp)];
    let steered = service.delivery != Delivery::None;
    frames.into_iter().filter(move |_| steered).map(move |(port, protocol)| Forwarded { vip, port, protocol })
}

impl Frames {
    /// All frames of a configuration, for a fence that knows none.
    pub(in crate::app) fn all(loaded: &Loaded) -> Opening {
        Self::default().config(loaded).unwrap_or(Opening::Whole(Vec::new()))
    }

    /// The configuration in force: what the fence must let in whoever owns its VIP. `None`: nothing is to be told.
    pub(in crate::app) fn config(&mut self, loaded: &Loaded) -> Option<Opening> {
        self.take(loaded.forwarding.as_ref().map_or(&[], |forwarding| &forwarding.config.services))
    }

    /// These are all services from now on.
    fn take(&mut self, services: &[Arc<ServiceSpec>]) -> Option<Opening> {
        let before = std::mem::replace(&mut self.services, services.to_vec());
        if !std::mem::replace(&mut self.told, true) {
            for frame in services.iter().flat_map(|service| of(service)) {
                *self.needed.entry(frame).or_default() += 1;
            }
            return Some(Opening::Whole(self.needed.keys().copied().collect()));
        }
        let place = |service: &Arc<ServiceSpec>| Arc::as_ptr(service);
        let (was, is): (HashSet<_>, HashSet<_>) =
            (before.iter().map(place).collect(), services.iter().map(place).collect());
        let mut touched: HashMap<Forwarded, bool> = HashMap::new();
        let needed = &mut self.needed;
        let mut touch = |frame: Forwarded, more: bool| {
            let count = needed.entry(frame).or_default();
            let _first = touched.entry(frame).or_insert(*count > 0);
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
        };
        for service in services.iter().filter(|service| !was.contains(&place(service))) {
            of(service).for_each(|frame| touch(frame, true));
        }
        for service in before.iter().filter(|service| !is.contains(&place(service))) {
            of(service).for_each(|frame| touch(frame, false));
        }
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        for (frame, there) in touched {
            match (there, self.needed.get(&frame).is_some_and(|count| *count > 0)) {
                (false, true) => new.push(frame),
                (true, false) => gone.push(frame),
                (true, true) | (false, false) => {}
            }
            if self.needed.get(&frame) == Some(&0) {
                let _none = self.needed.remove(&frame);
            }
        }
        (!gone.is_empty() || !new.is_empty()).then_some(Opening::Change { gone, new })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use bascule_core::service::{Affinity, Protocol, Return, WhenAllFail, WhenUnplaced};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn spec((vip, port, protocol, delivery): (u8, u16, Protocol, Delivery)) -> Arc<ServiceSpec> {
        Arc::new(ServiceSpec {
            name: format!("{vip}:{port}"),
            number: 1,
            vip: [192, 0, 2, vip].into(),
            port,
            protocol,
            delivery,
            returns: Return::Direct,
            affinity: Affinity::None,
            sources: Vec::new(),
            drain: Duration::ZERO,
            ask: false,
            quic: false,
            when_all_fail: WhenAllFail::Keep,
            when_unplaced: WhenUnplaced::Delegate,
            draining: false,
            elsewhere: false,
            endpoints: Arc::default(),
        })
    }

    fn any_spec() -> impl Strategy<Value = Arc<ServiceSpec>> {
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
        let delivery = prop_oneof![3 => Just(Delivery::Direct), 1 => Just(Delivery::None)];
        (1_u8..4, 80_u16..83, protocol, delivery).prop_map(spec)
    }

    proptest! {
        #[test]
        fn what_was_told_adds_up_to_what_is_needed(turns in vec((vec(any_spec(), 0..3), vec(any::<prop::sample::Index>(), 0..3)), 1..12)) {
            let (mut frames, mut services, mut open) = (Frames::default(), Vec::new(), BTreeSet::new());
            for (more, fewer) in turns {
                services.extend(more);
                for at in fewer {
                    if !services.is_empty() {
                        let _gone = services.remove(at.index(services.len()));
                    }
                }
                match frames.take(&services) {
                    Some(Opening::Whole(all)) => open = all.into_iter().collect(),
                    Some(Opening::Change { gone, new }) => {
                        prop_assert!(gone.iter().all(|frame| open.remove(frame)), "only what is open goes");
                        prop_assert!(new.into_iter().all(|frame| open.insert(frame)), "only what is not open comes");
                    }
                    None => {}
                }
                let needed: BTreeSet<Forwarded> = services.iter().flat_map(|service| of(service)).collect();
                prop_assert_eq!(&open, &needed);
            }
        }
    }

    #[test]
    fn the_first_word_is_whole_even_if_there_is_nothing_and_no_change_is_no_word() {
        let mut frames = Frames::default();
        assert_eq!(frames.take(&[]), Some(Opening::Whole(Vec::new())), "what a former run left goes");
        assert_eq!(frames.take(&[]), None);
        let one = spec((1, 80, Protocol::Tcp, Delivery::Direct));
        assert!(
            matches!(frames.take(&[one]), Some(Opening::Change { gone, new }) if gone.is_empty() && new.len() == 3)
        );
        let same = spec((1, 80, Protocol::Tcp, Delivery::Direct));
        assert_eq!(frames.take(&[same]), None, "described anew, and the same frames");
    }
}
