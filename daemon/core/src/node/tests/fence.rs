//! The fence as the node sees it: policies, its coming and going, and agreement with the kernel's model.

use super::config::GroupConfig;
use super::harness::{Rig, START, at, centis, group, ip, link, node};
use super::*;
use crate::announce::l2::FrameKind;
use crate::fence::{Basis, FenceCtl, FenceRole, KernelSlot, window};

fn with(policy: FencePolicy) -> NodeConfig {
    NodeConfig { fence: policy, ..node(1, vec![group(254)]) }
}

fn gone() -> FenceState {
    FenceState::Unavailable("no BTF".into())
}

#[test]
fn required_and_missing_is_no_claim_and_not_ready() {
    let config = with(FencePolicy::Required);
    let mut rig = Rig::bare(&config, 1);
    rig.input(Input::Fence(gone()));
    rig.input(Input::Link(link(1)));
    rig.reload(config);
    rig.run(5_000);
    let status = rig.node.status(rig.now);
    assert_eq!((status.ready, status.groups[0].role), (false, Role::Initialize));
    assert_eq!(status.groups[0].condition.as_deref(), Some("fence: no BTF"));
    let _ = rig.take();
    rig.input(Input::Fence(FenceState::Ready));
    assert_eq!(rig.take(), ["Fence", "register 0 10.9.0.100", "Blocked", "backup by started"]);
    assert!(rig.node.status(rig.now).ready);
}

#[test]
fn required_and_lost_gives_up_at_once() {
    let mut rig = Rig::active(with(FencePolicy::Required));
    rig.input(Input::Fence(gone()));
    assert_eq!(rig.take(), ["Fence", "Blocked", "remove 10.9.0.100", "initialize by fence_unavailable"]);
}

#[test]
fn preferred_claims_without_it_and_says_so() {
    let config = with(FencePolicy::Preferred);
    let mut rig = Rig::bare(&config, 1);
    rig.input(Input::Fence(gone()));
    rig.input(Input::Link(link(1)));
    rig.reload(config);
    rig.run(301);
    let owed = rig.take();
    assert!(!owed.iter().any(|w| w.starts_with("fence ") || w.starts_with("register")), "{owed:?}");
    let status = rig.node.status(rig.now);
    assert_eq!((status.groups[0].role, status.ready, status.fence_ready), (Role::Active, true, false));
    assert_eq!(status.fence_error.as_deref(), Some("no BTF"));
}

#[test]
fn preferred_goes_on_when_it_comes_and_when_it_goes() {
    let mut rig = Rig::active(with(FencePolicy::Preferred));
    rig.input(Input::Fence(gone()));
    rig.run(2_000);
    assert_eq!(rig.role(), Role::Active, "no deadline without a fence");
    let _ = rig.take();
    rig.input(Input::Fence(FenceState::Ready));
    assert_eq!(rig.take(), ["Fence", "register 0 10.9.0.100", "fence active", "advert 254 10.9.0.1"]);
    assert!(rig.node.status(rig.now).groups[0].fence_margin_seconds.is_some());
    rig.run(2_000);
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn off_never_writes_and_never_expires() {
    let mut rig = Rig::active(with(FencePolicy::Off));
    assert_eq!(rig.node.status(rig.now).groups[0].fence_margin_seconds, None);
    rig.command(1, Command::Drain);
    rig.run(2_000);
    let owed = rig.take();
    assert!(!owed.iter().any(|w| w.starts_with("fence ") || w.contains("register")), "{owed:?}");
    assert!(owed.contains(&"remove 10.9.0.100".to_owned()));
    // A loop that was away for longer than a window goes on as the RFC has it.
    let mut late = Rig::active(with(FencePolicy::Off));
    late.now = late.now + Duration::from_secs(3);
    late.node.handle_timeout(late.now);
    assert_eq!(late.role(), Role::Active);
}

#[test]
fn a_stalled_owner_steps_down_when_it_wakes_and_sends_nothing() {
    let mut rig = Rig::active(with(FencePolicy::Required));
    rig.now = rig.now + Duration::from_secs(3);
    let now = rig.now;
    rig.run_to(now);
    assert_eq!(rig.take(), ["fence backup", "remove 10.9.0.100", "FenceClosed", "backup by fence_expired"]);
}

#[test]
fn a_refused_send_extends_nothing() {
    let mut rig = Rig::active(with(FencePolicy::Required));
    for _ in 0..3 {
        let next = rig.node.groups[0].vrrp.advert_due().expect("armed");
        rig.run_to(next);
        rig.input(Input::SendFailed { slot: Slot(0), error: "network is down".into() });
    }
    assert_eq!(rig.role(), Role::Backup);
    assert!(rig.take().contains(&"FenceClosed".to_owned()));
}

/// Feeds a kernel slot with what the node owes; every advert must be allowed to leave, and both must know the same deadline.
fn kernel_follows(rig: &mut Rig, slot: &mut KernelSlot, ms: u64) {
    let until = rig.now + Duration::from_millis(ms);
    loop {
        for action in core::mem::take(&mut rig.owed) {
            match action {
                Action::Fence(FenceWrite::Ctl(_, ctl)) => slot.write(ctl),
                Action::SendVrrp { src, dst, payload, .. } => {
                    let advert = Advert::parse(&payload, src, dst).expect("own advert");
                    assert!(
                        slot.egress_advert(advert.priority, src, advert.interval, rig.now),
                        "dropped at {:?}",
                        rig.now
                    );
                }
                Action::SendFrame { kind: FrameKind::Probe, .. } => {}
                Action::SendFrame { kind, .. } => assert!(slot.answer(rig.now), "{kind:?} frame at {:?}", rig.now),
                _ => {}
            }
        }
        let active = rig.role() == Role::Active;
        assert_eq!(slot.answer(rig.now), active, "at {:?}", rig.now);
        if active {
            assert_eq!(Some(slot.deadline()), rig.node.groups[0].vrrp.fence_deadline(), "at {:?}", rig.now);
        }
        let Some(next) = rig.node.poll_timeout().filter(|next| *next <= until) else { break };
        rig.run_to(next);
    }
    rig.now = until;
}

#[test]
fn the_kernel_model_lets_every_advert_out_and_knows_the_same_deadline() {
    let mut rig = Rig::new(with(FencePolicy::Required));
    let mut slot = KernelSlot::default();
    kernel_follows(&mut rig, &mut slot, 1_000);
    assert_eq!(rig.role(), Role::Active);
    let with_interval = |v| node(1, vec![GroupConfig { interval: centis(v), ..group(254) }]);
    for interval in [100, 3, 10] {
        rig.reload(with_interval(interval));
        kernel_follows(&mut rig, &mut slot, 5_000);
    }
    rig.hear(9, 255);
    kernel_follows(&mut rig, &mut slot, 5_000);
    rig.command(1, Command::Drain);
    kernel_follows(&mut rig, &mut slot, 500);
    assert!(slot.deliver(rig.now), "stragglers are served");
    kernel_follows(&mut rig, &mut slot, 1_000);
    assert!(!slot.deliver(rig.now));
    rig.command(2, Command::Undrain);
    kernel_follows(&mut rig, &mut slot, 5_000);
    assert_eq!(rig.role(), Role::Active);
}

/// Control words since the last look: role, term, basis.
fn words(rig: &mut Rig) -> Vec<FenceCtl> {
    let ctl = |action| match action {
        Action::Fence(FenceWrite::Ctl(_, ctl)) => Some(ctl),
        _ => None,
    };
    core::mem::take(&mut rig.owed).into_iter().filter_map(ctl).collect()
}

#[test]
fn a_claim_carries_the_time_of_its_decision_and_a_deposed_one_is_given_up() {
    let mut rig = Rig::new(with(FencePolicy::Required));
    rig.run(301);
    let claim = words(&mut rig)[0];
    assert_eq!(claim.basis, Basis::Silence(at(START) + rig.node.groups[0].vrrp.active_down_interval()));
    assert_eq!(claim.deadline, at(START) + rig.node.groups[0].vrrp.active_down_interval() + window(centis(10)));
    rig.input(Input::Deposed(Slot(0)));
    assert_eq!(rig.take(), ["fence backup", "remove 10.9.0.100", "backup by overtaken"]);
}

#[test]
fn an_advert_that_is_no_peers_costs_an_owner_one_term_and_nothing_else() {
    let config = NodeConfig {
        groups: vec![GroupConfig { unicast_peers: vec![ip(2)], ..group(200) }],
        ..with(FencePolicy::Required)
    };
    let mut rig = Rig::active(config);
    let (before, proven) = (rig.node.groups[0].term, rig.node.groups[0].vrrp.fence_deadline());
    rig.hear(9, 150);
    assert_eq!(rig.take(), [""; 0], "the kernel does not give way to a lower priority");
    rig.hear(9, 254);
    let again = words(&mut rig);
    assert_eq!((again.len(), again[0].role, again[0].basis), (1, FenceRole::Active, Basis::Continued));
    assert!(again[0].term > before && Some(again[0].deadline) == proven);
    rig.hear(2, 254);
    assert_eq!(rig.role(), Role::Backup, "a peer's is obeyed");
}
