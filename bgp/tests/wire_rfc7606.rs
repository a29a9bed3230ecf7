//! RFC 7606: every vector of the table gets the verdict that the RFC demands, for the reason that the table names.

mod rfc7606;

use std::collections::BTreeSet;

use bascule_bgp::wire::{DecodeContext, Disposition, FamilySet, Framer, Message, Notification, Update};
use rfc7606::{Session, Vector, Verdict, vectors};

fn decode(vector: &Vector) -> Result<Update, Notification> {
    let context = DecodeContext {
        four_octet_as: vector.session != Session::Old,
        ibgp: vector.session == Session::Ibgp,
        families: FamilySet::ALL,
        ..DecodeContext::default()
    };
    let mut framer = Framer::new();
    framer.push(&vector.message);
    let frame = framer.next(4096).expect("the header is right").expect("the message is whole");
    match Message::decode(&frame, &context)? {
        Message::Update(update) => Ok(*update),
        other => panic!("{}: {other:?}", vector.name),
    }
}

/// The verdict, as the table writes it.
fn verdict(decoded: &Result<Update, Notification>) -> Verdict {
    let update = match decoded {
        Err(notification) => return Verdict::Reset(notification.code.number(), notification.subcode),
        Ok(update) => update,
    };
    let first = || {
        let error = update.errors.iter().find(|error| error.disposition == update.disposition);
        error.expect("an error that asks for the disposition").code
    };
    match update.disposition {
        Disposition::Accept => Verdict::Accept,
        Disposition::AttributeDiscard => Verdict::Discard(first()),
        Disposition::TreatAsWithdraw => Verdict::Withdraw(first()),
        Disposition::Reset(_) => panic!("a reset is an error of the decoder"),
    }
}

#[test]
fn every_vector_gets_the_verdict_that_the_rfc_demands() {
    let wrong: Vec<String> = vectors()
        .iter()
        .filter_map(|vector| {
            let found = verdict(&decode(vector));
            (found != vector.verdict)
                .then(|| format!("{}: {found:?} and not {:?} (RFC {})", vector.name, vector.verdict, vector.section))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), vectors().len(), wrong.join("\n"));
}

#[test]
fn what_counts_as_withdrawn_is_withdrawn_and_what_stands_stands() {
    for vector in vectors() {
        let Ok(update) = decode(&vector) else { continue };
        match vector.verdict {
            Verdict::Withdraw(_) => {
                assert_eq!(update.announced().count(), 0, "{}", vector.name);
                assert!(update.withdrawn().count() > 0, "{}: nothing is withdrawn", vector.name);
            }
            Verdict::Accept | Verdict::Discard(_) => {
                let listed =
                    update.mp_reach.as_ref().map_or(0, |reach| reach.prefixes.len()) + update.announced_v4.len();
                assert_eq!(update.announced().count(), listed, "{}", vector.name);
            }
            Verdict::Reset(..) => panic!("{}", vector.name),
        }
    }
}

#[test]
fn the_table_is_large_and_has_no_name_twice() {
    let all = vectors();
    let malformed = all.iter().filter(|vector| vector.verdict != Verdict::Accept).count();
    assert!(malformed >= 60, "{malformed}");
    let names: BTreeSet<&str> = all.iter().map(|vector| vector.name).collect();
    assert_eq!(names.len(), all.len());
}
