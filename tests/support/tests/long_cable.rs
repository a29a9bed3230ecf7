//! The long cable takes its time, loses what it shall lose, and carries nothing while it is cut.

use std::time::Duration;

use bascule_lab::{CableEnd, Lab, LongCable, ProbeOptions, Responder, Result, Stamp, UdpProber, sleep_until, wait_for};

const DELAY: Duration = Duration::from_millis(10);
const PORT: u16 = 7777;
/// For what a busy machine adds.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn frames_take_their_time_and_none_passes_a_cut() -> Result<()> {
    let lab = Lab::new("cable")?;
    let (near, far) = (lab.netns("near")?, lab.netns("far")?);
    let end = |netns, address: &str| CableEnd { netns, link: "long0", address: address.parse().unwrap() };
    let cable = LongCable::lay([end(&near, "10.7.0.1/24"), end(&far, "10.7.0.2/24")], DELAY)?;
    let _server = Responder::start(&far, 7, PORT)?;
    let options = ProbeOptions { interval: Duration::from_millis(2), grace: Duration::from_millis(200) };
    let prober = UdpProber::start(&near, "10.7.0.2".parse().unwrap(), PORT, options)?;
    prober.wait_answer(PATIENCE, Stamp::now(), Some(7))?;
    let whole = Stamp::now();
    sleep_until(whole + Duration::from_millis(300));

    // Half of all frames each way: a quarter of the questions is answered.
    let torn = cable.lose(0.5);
    let lossy = torn.since;
    sleep_until(lossy + Duration::from_secs(2));
    let lost = torn.heal();
    let healed = Stamp::now();
    assert!(lost > 100, "{lost} frames lost");
    prober.wait_answer(PATIENCE, healed, Some(7))?;

    let torn = cable.cut();
    let cut = torn.since;
    sleep_until(cut + Duration::from_millis(300));
    let probe = prober.snapshot(Stamp(0));
    let after = |at: Stamp| at > cut + Duration::from_millis(5);
    assert!(!probe.records.iter().filter_map(|r| r.answered).any(|(at, _)| after(at)), "an answer passed the cut");
    assert!(torn.heal() > 0, "nothing was lost by the cut");
    let mended = Stamp::now();
    wait_for(PATIENCE, "an answer", || prober.last_answer().filter(|(_, at)| *at > mended).map(drop))?;

    let probe = prober.finish();
    let took = |from: Stamp, until: Stamp| {
        let records = probe.records.iter().filter(move |r| r.due >= from && r.due < until);
        records.filter_map(|r| Some((r.answered?.0.since(r.due), r.send_late)))
    };
    for (rtt, late) in took(whole, lossy) {
        assert!(rtt + Duration::from_millis(1) >= DELAY * 2 && late < rtt, "{rtt:?} there and back");
    }
    let least = took(whole, lossy).map(|(rtt, _)| rtt).min().unwrap();
    assert!(least < DELAY * 3, "{least:?} there and back at least");
    let (asked, silent) = probe.lost(lossy, healed - DELAY * 2);
    assert!((asked / 2..asked).contains(&silent), "{silent} of {asked} lost, three quarters are to be");
    Ok(())
}
