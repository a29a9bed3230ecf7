//! The shim gives the program under test a whole packet every time, whatever the one before left.

use bascule_lab::Lab;
use bascule_lab::forward::{BenchPrograms, Packet, UnderTest};

const RUNS: u32 = 10_000;

#[test]
fn every_packet_is_restored() {
    let lab = Lab::new("shim").unwrap();
    let netns = lab.netns("n").unwrap();
    let packet = |length, mark| Packet { length, pad: 0, head: [mark; 12] };
    let mut programs = BenchPrograms::load(4).unwrap();
    for length in [64, 74, 96, 200] {
        programs.fill((0..4).map(|_| packet(length, 0x0102_0304_0506_0708)));
        programs.under_test(UnderTest::Spoil).unwrap();
        let before = programs.sunk().unwrap().0;
        let (verdict, ns) = netns.run(|| programs.replay(4, RUNS)).unwrap();
        // XDP_TX (linux/bpf.h).
        assert_eq!((verdict, programs.sunk().unwrap().0 - before), (3, u64::from(RUNS)), "length {length}");
        assert!(ns > 0.0);
    }
    // A packet that is not the first one is seen for what it is: the count above is no accident.
    programs.fill([packet(64, 1), packet(64, 2)]);
    programs.under_test(UnderTest::Spoil).unwrap();
    let before = programs.sunk().unwrap().0;
    netns.run(|| programs.replay(2, RUNS)).unwrap();
    assert_eq!(programs.sunk().unwrap().0 - before, u64::from(RUNS / 2));
    programs.under_test(UnderTest::Floor).unwrap();
    assert_eq!(netns.run(|| programs.replay(2, RUNS)).unwrap().0, 3);
}
