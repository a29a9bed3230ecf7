//! Flows of nodes that live are found, whichever nodes have lost what they knew of the rows' past.

use bascule_suite::forward::group::Group;
use bascule_suite::forward::random::Dice;

/// Every flow from every node; what is lost is printed with the rows that all nodes have for it.
fn audit(group: &mut Group, after: &str) -> (usize, usize) {
    let (sent, lost) = group.audit();
    for (flow, at, why) in lost.iter().take(4) {
        let rows: Vec<String> = group
            .rows_of(*flow)
            .into_iter()
            .map(|(id, row)| format!("{id}: {} {} {}", row.home, row.previous, row.older))
            .collect();
        println!("after {after}: {flow:?} by {at}: {why}; rows {}", rows.join(", "));
    }
    println!("{after}: {sent} sent, {} lost", lost.len());
    (sent, lost.len())
}

#[test]
fn a_home_that_boots_after_a_balancer_did_breaks_no_flow_of_another_home() {
    let mut group = Group::new(3, 3, 2);
    for at in group.living() {
        group.open(at, 50).unwrap();
    }
    let mut lost = audit(&mut group, "the start").1;
    group.drain(0);
    group.reload();
    lost += audit(&mut group, "a backend drains").1;
    group.add_pod(12);
    group.reload();
    lost += audit(&mut group, "a backend is added").1;
    let newest = group.add_pod(13);
    group.remove(4);
    group.reload();
    lost += audit(&mut group, "a backend is replaced").1;
    group.add_pod(13);
    group.remove(newest);
    group.reload();
    lost += audit(&mut group, "its successor is replaced").1;
    group.kill(2);
    group.boot(2);
    lost += audit(&mut group, "a balancer boots").1;
    group.restart(12);
    lost += audit(&mut group, "the daemon of a home starts again").1;
    group.freeze(11, true);
    lost += audit(&mut group, "the daemon of a home freezes").1;
    group.freeze(11, false);
    lost += audit(&mut group, "it goes on").1;
    group.kill(13);
    lost += audit(&mut group, "a home dies").1;
    group.boot(13);
    lost += audit(&mut group, "it boots").1;
    assert_eq!(lost, 0);
}

/// What happens next, by dice.
fn happens(group: &mut Group, dice: &mut Dice) -> String {
    let (living, dead) = (group.living(), group.dead());
    match dice.roll(10) {
        0 | 1 if dead.is_empty() => {
            let id = dice.pick(&living);
            group.kill(id);
            format!("{id} dies")
        }
        0..=3 if !dead.is_empty() => {
            let id = dice.pick(&dead);
            group.boot(id);
            format!("{id} boots")
        }
        4 | 5 => {
            let home = dice.pick(&group.homes());
            let pod = group.add_pod(home);
            group.reload();
            format!("{pod} comes to {home}")
        }
        6 | 7 if group.serving().len() > 4 => {
            let pod = dice.pick(&group.serving());
            let home = group.home_of(pod);
            group.drain(pod);
            group.reload();
            format!("{pod} of {home:?} drains")
        }
        8 => {
            let id = dice.pick(&living);
            group.restart(id);
            format!("the daemon of {id} starts again")
        }
        9 => {
            let id = dice.pick(&living);
            group.freeze(id, true);
            group.freeze(id, false);
            format!("the daemon of {id} freezes and goes on")
        }
        _ => {
            for at in group.living() {
                group.open(at, 5).expect("a node lets the flow in");
            }
            "new flows".to_owned()
        }
    }
}

/// With three homes a row has room for all of them, so that nothing is forgotten but what a boot forgets.
#[test]
fn whoever_booted_last_breaks_no_flow() {
    let (mut sent, mut lost) = (0, 0);
    for seed in 0..12 {
        let mut dice = Dice(seed);
        let mut group = Group::new(2, 3, 2);
        for at in group.living() {
            group.open(at, 20).unwrap();
        }
        for _ in 0..12 {
            let after = happens(&mut group, &mut dice);
            let done = audit(&mut group, &format!("seed {seed}, {after}"));
            (sent, lost) = (sent + done.0, lost + done.1);
        }
    }
    assert!(sent > 50_000 && lost == 0, "{lost} of {sent}");
}
