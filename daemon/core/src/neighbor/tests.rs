use core::time::Duration;

use super::*;

const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
const B: Mac = Mac([2, 0, 0, 0, 0, 2]);

fn place(last: u8) -> Place {
    Place { link: LinkId(2), address: [10, 9, 0, last].into() }
}

fn wanted(places: &[u8]) -> BTreeMap<Place, u32> {
    places.iter().map(|last| (place(*last), 1)).collect()
}

fn entry(certainty: Certainty, mac: Option<Mac>, holder: Holder) -> Seen {
    Seen { certainty, mac, holder, confirmed: Duration::ZERO }
}

fn one(seen: Seen) -> BTreeMap<Place, Seen> {
    BTreeMap::from([(place(1), seen)])
}

fn held(keeper: &Keeper) -> Vec<Place> {
    keeper.reads(&BTreeMap::new()).into_iter().collect()
}

/// A keeper that made the entry of 10.9.0.1.
fn keeping() -> Keeper {
    let mut keeper = Keeper::default();
    assert_eq!(keeper.look(&wanted(&[1]), &BTreeMap::new()), [(place(1), Step::Make)]);
    assert_eq!(keeper.news(), [News::Kept(place(1))]);
    keeper
}

#[test]
fn what_is_not_marked_is_made_marked_or_renewed_and_what_is_safe_is_left_alone() {
    use Certainty::{Asking, Fixed, Known, Lost};
    use Holder::{Nobody, Other};
    for (seen, step) in [
        (entry(Known, Some(A), Nobody), Some(Step::Mark)),
        (entry(Asking, Some(A), Nobody), Some(Step::Mark)),
        (entry(Asking, None, Nobody), Some(Step::Renew)),
        (entry(Lost, None, Nobody), Some(Step::Renew)),
        (entry(Fixed, Some(A), Nobody), None),
        (entry(Known, Some(A), Other), None),
        (entry(Lost, None, Other), None),
    ] {
        let mut keeper = Keeper::default();
        let steps: Vec<Step> = keeper.look(&wanted(&[1]), &one(seen)).into_iter().map(|(_, step)| step).collect();
        assert_eq!(steps, step.into_iter().collect::<Vec<_>>(), "{seen:?}");
        assert_eq!(held(&keeper).len(), usize::from(step.is_some()), "{seen:?}");
    }
}

#[test]
fn an_entry_of_ours_is_asked_for_when_lost_and_verified_when_old() {
    use Certainty::{Asking, Known, Lost};
    let old = Seen { confirmed: VERIFY, ..entry(Known, Some(A), Holder::Us) };
    for (seen, step) in [
        (entry(Known, Some(A), Holder::Us), None),
        (old, Some(Step::Verify)),
        (Seen { confirmed: VERIFY, ..entry(Asking, Some(A), Holder::Us) }, None),
        (entry(Asking, None, Holder::Us), None),
        (entry(Lost, None, Holder::Us), Some(Step::Ask)),
    ] {
        let mut keeper = keeping();
        let steps: Vec<Step> = keeper.look(&wanted(&[1]), &one(seen)).into_iter().map(|(_, step)| step).collect();
        assert_eq!(steps, step.into_iter().collect::<Vec<_>>(), "{seen:?}");
        assert!(keeper.news().is_empty());
    }
}

#[test]
fn beside_an_ipv6_neighbour_the_group_is_kept_that_it_is_asked_by() {
    let [neighbour, group] = ["2001:db8::12:3456", "ff02::1:ff12:3456"]
        .map(|address| Place { link: LinkId(2), address: address.parse().unwrap() });
    let wanted = BTreeMap::from([(neighbour, 1)]);
    let mut keeper = Keeper::default();
    assert_eq!(keeper.reads(&wanted), BTreeSet::from([neighbour, group]));
    let steps = keeper.look(&wanted, &BTreeMap::new());
    assert_eq!(steps, [(group, Step::Make), (neighbour, Step::Make)], "what asks comes first");
    assert_eq!(keeper.news(), [News::Kept(neighbour)]);
    assert_eq!(keeper.standing(), Standing { missing: 1, ..Standing::default() });

    // The kernel's own entry of a group is the first that it drops.
    let known = entry(Certainty::Known, Some(A), Holder::Us);
    let plain = |holder| BTreeMap::from([(neighbour, known), (group, entry(Certainty::Plain, Some(B), holder))]);
    assert_eq!(keeper.look(&wanted, &plain(Holder::Nobody)), [(group, Step::Renew)]);
    let unplugged = BTreeMap::from([(neighbour, 3)]);
    assert_eq!(keeper.look(&unplugged, &plain(Holder::Us)), [(neighbour, Step::Renew)], "it needs no asking");
    let steps = keeper.look(&BTreeMap::new(), &plain(Holder::Us));
    assert_eq!(steps, [(neighbour, Step::Return), (group, Step::Delete)]);
    assert_eq!(keeper.news(), [News::Released(neighbour)]);
}

#[test]
fn an_entry_that_went_with_its_link_is_made_again_without_news() {
    let mut keeper = keeping();
    assert_eq!(keeper.look(&wanted(&[1]), &BTreeMap::new()), [(place(1), Step::Make)]);
    assert!(keeper.news().is_empty());
}

#[test]
fn a_carrier_that_was_away_renews_the_entry_once() {
    let mut keeper = keeping();
    let seen = one(entry(Certainty::Known, Some(A), Holder::Us));
    assert!(keeper.look(&wanted(&[1]), &seen).is_empty());
    let after = BTreeMap::from([(place(1), 3)]);
    assert_eq!(keeper.look(&after, &seen), [(place(1), Step::Renew)]);
    assert!(keeper.look(&after, &seen).is_empty());
}

#[test]
fn another_mac_is_told_once_even_when_the_entry_was_lost_between() {
    let mut keeper = keeping();
    assert!(keeper.look(&wanted(&[1]), &one(entry(Certainty::Known, Some(A), Holder::Us))).is_empty());
    assert_eq!(keeper.look(&wanted(&[1]), &one(entry(Certainty::Lost, None, Holder::Us))).len(), 1);
    let moved = one(entry(Certainty::Known, Some(B), Holder::Us));
    assert!(keeper.look(&wanted(&[1]), &moved).is_empty());
    assert_eq!(keeper.news(), [News::Moved { place: place(1), from: A, to: B }]);
    assert!(keeper.look(&wanted(&[1]), &moved).is_empty());
    assert!(keeper.news().is_empty());
}

#[test]
fn what_is_not_wanted_any_more_becomes_ordinary_or_goes() {
    use Certainty::{Asking, Fixed, Known, Lost};
    for (seen, step) in [
        (Some(entry(Known, Some(A), Holder::Us)), Some(Step::Return)),
        (Some(entry(Asking, Some(A), Holder::Us)), Some(Step::Return)),
        (Some(entry(Asking, None, Holder::Us)), Some(Step::Delete)),
        (Some(entry(Lost, None, Holder::Us)), Some(Step::Delete)),
        (Some(entry(Fixed, Some(A), Holder::Us)), Some(Step::Delete)),
        (Some(entry(Known, Some(A), Holder::Other)), None),
        (Some(entry(Known, Some(A), Holder::Nobody)), None),
        (None, None),
    ] {
        let mut keeper = keeping();
        let seen: BTreeMap<Place, Seen> = seen.map(|seen| (place(1), seen)).into_iter().collect();
        let steps: Vec<Step> = keeper.look(&BTreeMap::new(), &seen).into_iter().map(|(_, step)| step).collect();
        assert_eq!(steps, step.into_iter().collect::<Vec<_>>(), "{seen:?}");
        assert_eq!(keeper.news(), [News::Released(place(1))]);
        assert!(held(&keeper).is_empty());
    }
}

#[test]
fn what_a_former_run_left_is_kept_when_wanted_and_returned_when_not() {
    let ours = entry(Certainty::Known, Some(A), Holder::Us);
    let mut keeper = Keeper::new([place(1), place(2)]);
    let seen = BTreeMap::from([(place(1), ours), (place(2), ours)]);
    assert_eq!(keeper.look(&wanted(&[1]), &seen), [(place(2), Step::Return)]);
    assert_eq!(held(&keeper), [place(1)]);
}

#[test]
fn another_program_that_marks_it_or_an_operator_who_fixes_it_takes_it_over() {
    for seen in [entry(Certainty::Known, Some(A), Holder::Other), entry(Certainty::Fixed, Some(A), Holder::Nobody)] {
        let mut keeper = keeping();
        assert!(keeper.look(&wanted(&[1]), &one(seen)).is_empty());
        assert_eq!(keeper.news(), [News::Released(place(1))]);
        // And back: what they let go of is marked again.
        let ordinary = one(entry(Certainty::Known, Some(A), Holder::Nobody));
        assert_eq!(keeper.look(&wanted(&[1]), &ordinary), [(place(1), Step::Mark)]);
    }
}

#[test]
fn a_refusal_is_news_once_and_the_entry_counts_as_missing() {
    let mut keeper = Keeper::default();
    for first in [true, false] {
        assert_eq!(keeper.look(&wanted(&[1]), &BTreeMap::new()), [(place(1), Step::Make)]);
        assert_eq!(keeper.refused(place(1)), first);
        assert!(keeper.news().is_empty(), "nothing is kept");
    }
    assert_eq!(keeper.standing(), Standing { missing: 1, ..Standing::default() });
    assert_eq!(keeper.look(&wanted(&[1]), &BTreeMap::new()), [(place(1), Step::Make)]);
    keeper.done(place(1));
    assert_eq!(keeper.news(), [News::Kept(place(1))]);
    assert!(keeper.refused(place(1)), "it was taken in between");
}

#[test]
fn the_standing_counts_what_is_safe_with_and_without_a_mac() {
    use Certainty::{Fixed, Known, Lost};
    let mut keeper = Keeper::default();
    let seen = BTreeMap::from([
        (place(1), entry(Known, Some(A), Holder::Us)),
        (place(2), entry(Lost, None, Holder::Us)),
        (place(3), entry(Known, Some(A), Holder::Other)),
        (place(4), entry(Fixed, Some(A), Holder::Nobody)),
        (place(5), entry(Known, Some(A), Holder::Nobody)),
    ]);
    let _steps = keeper.look(&wanted(&[1, 2, 3, 4, 5, 6]), &seen);
    assert_eq!(keeper.standing(), Standing { resolved: 3, unresolved: 1, missing: 2 });
}
