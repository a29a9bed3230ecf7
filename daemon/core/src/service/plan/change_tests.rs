use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};

use super::super::Protocol;
use super::super::translate::KubePort;
use super::tests::{intent, ip, policy, service};
use super::*;
use crate::intent::ServiceIntent;

const NAMES: usize = 12;
/// The last two no service can have: one is a node's.
const VIPS: [&str; 6] = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "10.9.0.1", "169.254.0.1"];

/// One service, by its number, as it becomes.
#[derive(Clone, Debug)]
enum Step {
    Gone,
    /// VIPs, ports, whether it is somebody else's, a healthCheckNodePort.
    Is(Vec<&'static str>, Vec<u16>, bool, u16),
}

/// VIPs of its own, mostly: what several have is refused or shared.
fn step(number: usize) -> impl Strategy<Value = Step> {
    const OWN: [&str; NAMES] = [
        "192.0.2.101",
        "192.0.2.102",
        "192.0.2.103",
        "192.0.2.104",
        "192.0.2.105",
        "192.0.2.106",
        "192.0.2.107",
        "192.0.2.108",
        "192.0.2.109",
        "192.0.2.110",
        "2001:db8::111",
        "2001:db8::112",
    ];
    let own = Just(vec![OWN[number]]);
    let any = subsequence(VIPS.to_vec(), 0..3);
    let vips = prop_oneof![12 => own, 1 => any];
    let ports = subsequence(vec![80, 81], 1..=2);
    let is = (vips, ports, prop::bool::weighted(0.1), prop_oneof![4 => Just(0), 1 => 30_000_u16..30_003])
        .prop_map(|(vips, ports, foreign, health)| Step::Is(vips, ports, foreign, health));
    prop_oneof![1 => Just(Step::Gone), 5 => is]
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let one = (0..NAMES).prop_flat_map(|number| step(number).prop_map(move |step| (number, step)));
    vec(one, 1..4)
}

fn made(number: usize, step: &Step) -> Option<Arc<ServiceIntent>> {
    let Step::Is(vips, ports, foreign, health) = step else { return None };
    let mut it = service(&format!("s{number:02}"), vips);
    it.service.class = foreign.then(|| "somebody.else/lb".to_owned());
    (it.service.local, it.service.health_check_node_port) = (*health != 0, *health);
    it.service.ports =
        ports.iter().map(|port| KubePort { name: "http".into(), port: *port, protocol: Protocol::Tcp }).collect();
    Some(Arc::new(it))
}

proptest! {
    #[test]
    fn a_plan_that_was_carried_over_is_that_of_all_services(
        turns in vec((steps(), prop::option::weighted(0.1, 1_u8..4), any::<Index>()), 1..30),
        announce in prop_oneof![3 => Just(Announce::L2), 1 => Just(Announce::Both), 1 => Just(Announce::Bgp)],
        limit in prop_oneof![4 => Just(8192_usize), 1 => 6_usize..12],
    ) {
        let mut policy = policy("n1");
        policy.announce = announce;
        policy.translate.everywhere = announce == Announce::Bgp;
        policy.limits.addresses = limit;
        policy.file_neighbors = announce.routed().then(BTreeSet::new);
        policy.taken = [ip("192.0.2.3")].into();
        policy.file_services = vec![ServiceKey { vip: ip("192.0.2.2"), port: 80, protocol: Protocol::Tcp }];
        let mut planner = Planner::new(policy.clone());
        let mut services: BTreeMap<usize, Arc<ServiceIntent>> = BTreeMap::new();
        let mut nodes = 2;
        for (steps, others, which) in turns {
            for (number, step) in steps {
                match made(number, &step) {
                    Some(it) => drop(services.insert(number, it)),
                    None => drop(services.remove(&number)),
                }
            }
            nodes = others.unwrap_or(nodes);
            let mut now = intent(Vec::new(), nodes);
            now.services = services.values().cloned().collect();
            let plan = planner.plan(&now);
            prop_assert_eq!(&plan, &Planner::new(policy.clone()).plan(&now));
            // Whoever has it may do with it what he likes.
            let mut plan = plan;
            if !plan.told.is_empty() {
                let _one = plan.told.remove(which.index(plan.told.len()));
            }
        }
    }
}

/// How often the last plan was carried over since all was planned; `None`: it will not be.
fn carried(planner: &Planner) -> Option<usize> {
    planner.last.as_ref().map(|last| last.carried)
}

#[test]
fn one_service_of_many_is_carried_over_and_a_clash_is_not() {
    let mut planner = Planner::new(policy("n1"));
    let vip = |n: u32| format!("192.0.2.{n}");
    let mut now = intent((1..=40).map(|n| service(&format!("s{n:02}"), &[&vip(n)])).collect(), 3);
    let _all = planner.plan(&now);
    assert_eq!(carried(&planner), Some(0));
    now.services.push(Arc::new(service("s99", &[&vip(99)])));
    assert_eq!(planner.plan(&now).services.len(), 41);
    let _gone = now.services.remove(0);
    assert_eq!(planner.plan(&now).services.len(), 40);
    assert_eq!(carried(&planner), Some(2));
    // Of two that want one port of one address, the first by name has it.
    now.services[39] = Arc::new(service("s99", &[&vip(2)]));
    assert_eq!(planner.plan(&now).services.len(), 39);
    assert_eq!(carried(&planner), None);
    now.services[39] = Arc::new(service("s99", &[&vip(99)]));
    assert_eq!(planner.plan(&now).services.len(), 40);
    assert_eq!(carried(&planner), Some(0), "all was planned, and the next may begin with it");
    // An address goes from one to another.
    now.services[0] = Arc::new(service("s02", &[&vip(99)]));
    now.services[39] = Arc::new(service("s99", &[&vip(2)]));
    assert_eq!(planner.plan(&now), Planner::new(policy("n1")).plan(&now));
    assert_eq!(carried(&planner), Some(1));
    let mut other = planner.policy().clone();
    other.shards = 8;
    assert!(planner.set_policy(other.clone()));
    assert_eq!(planner.plan(&now), Planner::new(other).plan(&now));
    assert_eq!(carried(&planner), Some(0), "another policy is no change of a few services");
}
