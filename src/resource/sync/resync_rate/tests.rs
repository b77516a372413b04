//! The rate against a simulated pipe.

use proptest::prelude::*;

use super::*;
use crate::resource::Options;

const MIB: u64 = 1 << 20;

fn options(start: u64, max: u64, min: u64) -> DiskOptions {
    DiskOptions {
        resync_rate: start,
        c_max_rate: max,
        c_min_rate: min,
        ..Options::default().disk()
    }
}

fn at(ms: u64) -> Time {
    Time(5 * NANOS).after_ms(ms)
}

/// A pipe that carries so many bytes a second and is `distance_ms` long, asked by a resync that
/// always wants more, at most `window` bytes at once.
struct Pipe {
    resync: ResyncRate,
    now_ms: u64,
    carries: u64,
    distance_ms: u64,
    window: u64,
    /// When the last request will have passed, us.
    busy_until_us: u64,
    /// Requested at, in place at, ms.
    under_way: VecDeque<(u64, u64)>,
    latency_ms: u64,
    completed: u64,
}

impl Pipe {
    fn new(options: &DiskOptions, carries: u64, distance_ms: u64) -> Self {
        Self {
            resync: ResyncRate::new(options, at(0), 1 << 40),
            now_ms: 0,
            carries,
            distance_ms,
            window: 64 * MIB,
            busy_until_us: 0,
            under_way: VecDeque::new(),
            latency_ms: 0,
            completed: 0,
        }
    }

    /// Runs for `ms`, a millisecond a step, and returns the bytes a second that came through.
    fn run(&mut self, ms: u64, active: bool) -> u64 {
        let before = self.completed;
        for _ in 0..ms {
            self.now_ms += 1;
            while let Some(&(sent, done)) = self.under_way.front()
                && done <= self.now_ms
            {
                self.under_way.pop_front();
                self.latency_ms = self.now_ms - sent;
                self.resync.completed(at(self.now_ms), REQUEST, self.latency_ms);
                self.completed += REQUEST;
            }
            while self.resync.allowance(at(self.now_ms), active) >= REQUEST
                && self.resync.in_flight() + REQUEST <= self.window
            {
                self.resync.requested(REQUEST);
                let start = self.busy_until_us.max(self.now_ms * 1000);
                self.busy_until_us = start + REQUEST * 1_000_000 / self.carries;
                let done = self.busy_until_us.div_ceil(1000) + self.distance_ms;
                self.under_way.push_back((self.now_ms, done));
            }
        }
        (self.completed - before) * 1000 / ms
    }
}

#[test]
fn an_idle_pipe_reaches_c_max_rate_from_drbds_defaults_within_two_seconds() {
    let drbds = DiskOptions { c_max_rate: 102_400, ..Options::default().disk() };
    let mut pipe = Pipe::new(&drbds, 2 << 30, 1);
    pipe.run(2000, false);
    let rate = pipe.run(1000, false);
    assert!((95 * MIB..=101 * MIB).contains(&rate), "{rate}");
}

#[test]
fn a_few_mebibytes_are_copied_without_seconds_of_caution() {
    // 24 MiB through a pipe that carries 200 MiB/s: 120 ms if nothing held it back.
    let mut pipe = Pipe::new(&options(250, 0, 250), 200 * MIB, 1);
    pipe.run(300, false);
    assert!(pipe.completed >= 24 * MIB, "{} KiB", pipe.completed >> 10);
    // A slow and long one is not flooded by that.
    let mut pipe = Pipe::new(&options(250, 0, 250), 4 * MIB, 80);
    for _ in 0..40 {
        pipe.run(50, false);
        assert!(pipe.latency_ms <= 80 + 2 * IDLE_DELAY_MS, "{} ms", pipe.latency_ms);
    }
    // Beside application I/O it is as careful as ever.
    let mut pipe = Pipe::new(&options(250, 0, 250), 200 * MIB, 1);
    pipe.run(1000, true);
    assert!(pipe.resync.rate < 2 * MIB, "{}", pipe.resync.rate);
}

#[test]
fn at_the_start_the_rate_doubles_by_itself_where_nothing_is_asked_for_meanwhile() {
    let mut resync = ResyncRate::new(&options(250, 102_400, 250), at(0), 10 * MIB);
    resync.requested(MIB);
    // Nothing has come back: the pipe is not known, and the next request is a matter of the rate.
    assert_eq!(resync.next_time(at(1)), Some(at(512)));
    resync.completed(at(5), MIB, 5);
    let mut now = at(5);
    let mut doubled = 0;
    while let Some(due) = resync.next_time(now) {
        now = due;
        doubled += 1;
        assert!(doubled < 20 && resync.allowance(now, false) <= MIB);
    }
    assert!(now < at(80), "{now:?}");
}

#[test]
fn c_max_rate_zero_is_no_limit_and_the_pipe_is_filled_but_not_flooded() {
    for (carries, distance) in [(20 * MIB, 1), (500 * MIB, 0), (100 * MIB, 80)] {
        let mut pipe = Pipe::new(&options(250, 0, 250), carries, distance);
        pipe.run(3000, false);
        let rate = pipe.run(5000, false);
        assert!(rate >= carries * 7 / 10, "{rate} of {carries}");
        assert!(pipe.latency_ms <= distance + 2 * IDLE_DELAY_MS, "{} ms", pipe.latency_ms);
    }
}

#[test]
fn a_rate_that_the_window_holds_back_does_not_grow() {
    let mut pipe = Pipe::new(&options(250, 0, 250), 500 * MIB, 10);
    pipe.window = MIB;
    // It carries 90 MiB/s; at the start the rate overshoots that by a few doublings, and no more.
    pipe.run(300, false);
    assert!(pipe.resync.rate < 1000 * MIB, "{}", pipe.resync.rate);
    let rate = pipe.resync.rate;
    pipe.run(3000, false);
    assert_eq!(pipe.resync.rate, rate);
}

#[test]
fn beside_application_io_the_queue_stays_short_and_the_floor_holds() {
    let mut pipe = Pipe::new(&options(250, 0, 4096), 50 * MIB, 2);
    pipe.run(3000, false);
    let rate_before = pipe.resync.rate;
    pipe.run(10, true);
    assert!(pipe.resync.rate <= rate_before / 2 + 1, "{} of {rate_before}", pipe.resync.rate);
    pipe.run(2000, true);
    let mut worst = 0;
    for _ in 0..100 {
        pipe.run(50, true);
        worst = worst.max(pipe.latency_ms);
        assert!(pipe.resync.rate >= 4096 * 1024);
    }
    assert!(worst <= 100, "{worst} ms");
    // The application has taken nearly all: the floor is kept, and no less.
    pipe.carries = MIB;
    pipe.run(3000, true);
    assert_eq!(pipe.resync.rate, 4096 * 1024);
}

#[test]
fn c_min_rate_is_no_cap_and_zero_makes_no_room() {
    let mut floor_high = Pipe::new(&options(250, 10_240, 1 << 20), 100 * MIB, 1);
    floor_high.run(1000, true);
    assert_eq!(floor_high.resync.rate, 10 * MIB);
    let mut light = Pipe::new(&options(250, 102_400, 250), 2 << 30, 1);
    light.run(10_000, true);
    assert!(light.run(1000, true) > 90 * MIB);
    let mut no_room = Pipe::new(&options(250, 102_400, 0), 2 << 30, 1);
    no_room.run(2000, true);
    assert!(no_room.run(1000, true) > 90 * MIB);
}

#[test]
fn a_stuck_pipe_is_not_filled_further_and_recovers() {
    let mut pipe = Pipe::new(&options(250, 102_400, 250), 200 * MIB, 1);
    pipe.run(2000, false);
    let before = pipe.resync.rate;
    pipe.busy_until_us = (pipe.now_ms + 2000) * 1000;
    pipe.run(1500, false);
    assert!(pipe.resync.rate <= before / 64, "{}", pipe.resync.rate);
    pipe.run(3000, false);
    assert!(pipe.run(1000, false) > 90 * MIB);
}

#[test]
fn a_burst_is_a_mebibyte_or_a_tenth_of_a_second() {
    let mut slow = ResyncRate::new(&options(250, 250, 250), at(0), MIB);
    assert_eq!(slow.allowance(at(0), false), MIB);
    assert_eq!(slow.allowance(at(3_600_000), false), MIB);
    let mut fast = ResyncRate::new(&options(1 << 20, 1 << 20, 250), at(0), MIB);
    // Until the pipe has shown what it carries, a mebibyte is under way at most.
    assert_eq!(fast.allowance(at(10_000), false), MIB);
    fast.completed(at(10_050), 1 << 30, 1);
    assert_eq!(fast.allowance(at(10_100), false), (1 << 30) / 10);
    assert_eq!(fast.allowance(Time(u64::MAX), false), (1 << 30) / 10);
}

#[test]
fn what_is_in_flight_is_bounded_by_what_the_pipe_carries() {
    let mut resync = ResyncRate::new(&options(1 << 20, 0, 250), at(0), 1 << 40);
    resync.requested(10 * MIB);
    resync.completed(at(90), 10 * MIB, 50);
    // 100 MiB/s for the 50 ms of a request and 100 ms of queue; with application I/O 10 ms of it.
    assert_eq!(resync.allowance(at(100), false), 15 * MIB);
    resync.requested(14 * MIB);
    assert_eq!(resync.allowance(at(100), false), MIB);
    assert_eq!(resync.next_time(at(100)), None);
    assert_eq!(resync.allowance(at(101), true), 0);
    resync.failed(14 * MIB);
    assert_eq!(resync.in_flight(), 0);
    // The floor has its share of a slow disk under way, whatever that carried.
    resync.set_options(&options(1 << 20, 0, 102_400));
    assert_eq!((resync.rate, resync.in_flight_max()), (100 * MIB, 50 * MIB));
}

#[test]
fn next_time_is_when_a_request_is_allowed_and_not_before() {
    let mut resync = ResyncRate::new(&options(250, 250, 250), at(0), 10 * MIB);
    assert_eq!(resync.next_time(at(0)), None);
    resync.requested(MIB + 1);
    resync.completed(at(0), MIB + 1, 0);
    let due = resync.next_time(at(0)).unwrap();
    assert!(resync.allowance(Time(due.0 - 1), false) < REQUEST);
    assert_eq!(resync.next_time(Time(due.0 - 1)), Some(due));
    assert_eq!(resync.allowance(due, false), REQUEST);
    assert_eq!(resync.next_time(due), None);
    // 128 KiB and the byte that was overdrawn, at 250 KiB/s.
    assert_eq!(due.ms_since(at(0)), 512);
}

#[test]
fn time_that_stands_still_or_goes_back_earns_nothing() {
    let mut resync = ResyncRate::new(&options(250, 250, 250), at(1000), MIB);
    resync.requested(MIB);
    assert_eq!(resync.allowance(at(1000), false), 0);
    assert_eq!(resync.allowance(at(0), false), 0);
    assert_eq!(resync.allowance(at(1000), false), 0);
    resync.completed(at(0), MIB, 1);
    assert_eq!(resync.progress(at(0), 0).elapsed_ms, 0);
}

#[test]
fn changed_options_are_in_force_at_once() {
    let mut resync = ResyncRate::new(&options(51_200, 102_400, 250), at(0), MIB);
    resync.set_options(&options(51_200, 1024, 250));
    assert_eq!(resync.rate, MIB);
    resync.set_options(&options(0, 0, 0));
    assert_eq!((resync.rate, resync.rate_max), (MIB, RATE_MAX));
    assert_eq!(ResyncRate::new(&options(0, 0, 0), at(0), 1).rate, RATE_MIN);
    assert_eq!(ResyncRate::new(&options(u64::MAX, 0, u64::MAX), at(0), 1).rate, RATE_MAX);
}

#[test]
fn progress_shows_the_rate_of_the_last_seconds_and_what_is_left() {
    let mut resync = ResyncRate::new(&Options::default().disk(), at(0), 100 * MIB);
    assert_eq!(resync.progress(at(0), 100 * MIB).seconds_left, None);
    for tenth in 1..=100 {
        resync.requested(MIB);
        resync.completed(at(tenth * 100), MIB / 2, 5);
    }
    resync.failed(4096);
    let shown = resync.progress(at(10_000), 25 * MIB);
    assert_eq!((shown.total, shown.left, shown.elapsed_ms), (100 * MIB, 25 * MIB, 10_000));
    assert_eq!((shown.rate, shown.done_hundredths), (5 * MIB, 7500));
    assert_eq!((shown.seconds_left, shown.failed), (Some(5), 4096));
    assert_eq!(resync.progress(at(20_000), 25 * MIB).rate, 0);
    assert!(resync.slices.len() <= 32);
}

#[test]
fn done_is_whole_only_when_nothing_is_left() {
    let resync = ResyncRate::new(&Options::default().disk(), at(0), u64::MAX);
    assert_eq!(resync.progress(at(1), 1).done_hundredths, 9999);
    assert_eq!(resync.progress(at(1), 0).done_hundredths, 10_000);
    let empty = ResyncRate::new(&Options::default().disk(), at(0), 0);
    assert_eq!(empty.progress(at(1), 0).done_hundredths, 10_000);
    let grown = ResyncRate::new(&Options::default().disk(), at(0), MIB);
    assert_eq!(grown.progress(at(1), 2 * MIB).done_hundredths, 0);
}

#[test]
fn the_quickest_answer_is_forgotten_after_two_windows() {
    let mut base = BaseLatency::default();
    base.note(at(0), 3);
    base.note(at(BASE_WINDOW_MS + 6000), 50);
    assert_eq!(base.lowest(), 3);
    base.note(at(2 * BASE_WINDOW_MS + 12_000), 60);
    assert_eq!(base.lowest(), 50);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// Whatever happens, no more is requested than c-max-rate and one burst, and the same calls give
    /// the same answers.
    #[test]
    fn c_max_rate_is_kept_over_any_stretch(
        max in 1..200_000_u64,
        start in 1..400_000_u64,
        min in 0..400_000_u64,
        calls in prop::collection::vec((0..400_u64, any::<bool>(), 0..3000_u64), 1..100),
    ) {
        let options = options(start, max, min);
        let mut resync = ResyncRate::new(&options, at(0), 1 << 40);
        let mut twin = resync.clone();
        let (mut now_ms, mut requested) = (0, 0);
        for (pause, active, latency) in calls {
            now_ms += pause;
            let before = resync.rate;
            let allowed = resync.allowance(at(now_ms), active);
            prop_assert_eq!(allowed, twin.allowance(at(now_ms), active));
            for resync in [&mut resync, &mut twin] {
                resync.requested(allowed);
                resync.completed(at(now_ms), allowed / 2, latency);
            }
            requested += allowed;
            prop_assert!(requested <= max * 1024 * now_ms / 1000 + BURST_MIN);
            prop_assert!(resync.rate >= RATE_MIN && resync.rate <= max * 1024);
            prop_assert!(resync.rate >= min.min(max) * 1024 || resync.rate >= before, "below the floor");
        }
    }
}
