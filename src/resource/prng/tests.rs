//! Known values of the generator.

use std::collections::BTreeSet;

use super::*;

#[test]
fn the_stream_is_that_of_xoshiro256_plus_plus() {
    let mut prng = Prng { state: [1, 2, 3, 4] };
    let first: Vec<u64> = (0..4).map(|_| prng.next_u64()).collect();
    assert_eq!(first, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
}

#[test]
fn the_seed_is_spread_by_splitmix64() {
    assert_eq!(Prng::new(0).state[0], 0xe220_a839_7b1d_cdaf);
    assert_eq!(split_mix(&mut 1_234_567), 6_457_827_717_110_365_317);
}

#[test]
fn the_same_seed_gives_the_same_stream_and_another_seed_another() {
    let stream = |seed| {
        let mut prng = Prng::new(seed);
        (0..64).map(|_| prng.next_u64()).collect::<Vec<_>>()
    };
    assert_eq!(stream(7), stream(7));
    assert_ne!(stream(7), stream(8));
}

#[test]
fn below_reaches_every_number_about_equally_often() {
    let mut prng = Prng::new(1);
    let mut seen = [0_u32; 7];
    for _ in 0..7000 {
        seen[usize::try_from(prng.below(7)).unwrap()] += 1;
    }
    assert!(seen.iter().all(|&times| (850..1150).contains(&times)), "{seen:?}");
    assert_eq!(prng.below(1), 0);
    assert!(prng.below(u64::MAX) < u64::MAX);
}

#[test]
#[should_panic(expected = "no number below 0")]
fn below_zero_is_refused() {
    Prng::new(1).below(0);
}

#[test]
fn jitter_stays_within_its_percentage_and_reaches_both_ends() {
    let mut prng = Prng::new(2);
    let times: BTreeSet<u64> = (0..2000).map(|_| prng.jitter(100, 20)).collect();
    assert_eq!((times.first(), times.last()), (Some(&80), Some(&120)));
    assert_eq!(prng.jitter(100, 0), 100);
    assert_eq!(prng.jitter(0, 50), 0);
    assert!(prng.jitter(100, 1000) <= 200);
    assert_eq!(prng.jitter(u64::MAX, 100), u64::MAX);
}

#[test]
fn a_uuid_is_never_special_nor_odd_nor_repeated() {
    let mut prng = Prng::new(3);
    let uuids: BTreeSet<u64> = (0..20_000).map(|_| prng.uuid()).collect();
    assert_eq!(uuids.len(), 20_000);
    assert!(uuids.iter().all(|uuid| uuid & 1 == 0 && *uuid != 0 && *uuid != 4));
}

#[test]
fn a_draw_that_would_be_special_is_drawn_again() {
    // With a + d = 0 the first draw is `a` itself: 5 and 1 become 4 and 0 with the lowest bit clear.
    for a in [5_u64, 1] {
        let mut prng = Prng { state: [a, 77, 99, a.wrapping_neg()] };
        assert_eq!(prng.clone().next_u64(), a);
        let uuid = prng.uuid();
        assert!(uuid != 0 && uuid != 4, "{uuid}");
    }
}
