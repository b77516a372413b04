//! How much a SyncTarget may request: as fast as the pipe answers, gently beside application I/O.
//!
//! A token bucket whose rate is looked at every 100 ms. What counts is the *delay*: how much longer
//! a request takes than the quickest of the last minute (so the distance to the peer does not
//! count). Latency tells of a flood only after it has passed, so what is in flight is bounded as
//! well: to what the pipe has carried of late in its latency and half of the accepted delay. So a
//! pipe that is full holds the resync back before its delay does.
//!
//! | delay | no application I/O | application I/O |
//! |---|---|---|
//! | high | above 200 ms: 7/8 of what is carried | above 20 ms: half of it, at least c-min-rate |
//! | low | the rate doubles; from 100 ms on it grows by 1/8 | it grows by 1/8 |
//!
//! The rate grows only where it held the resync back. It starts at resync-rate, and until a delay or
//! application I/O has been seen it doubles every 10 ms in which something came back: a few MiB are
//! not worth seconds of caution, and what is in flight is bounded all the same.
//! Application I/O that sets in halves what was carried at once. c-max-rate is the only cap;
//! c-min-rate is a floor beside application I/O and never a cap. 0 turns it off as in drbd.conf:
//! then no room is made for application I/O.
//!
//! Invariants:
//! - The rate is at least 1 KiB/s, and never above c-max-rate where there is one.
//! - The same calls give the same answers: whole numbers only, and time is an argument.

use std::collections::VecDeque;

use crate::resource::ids::Time;
use crate::resource::options::DiskOptions;
use crate::resource::status::ResyncStatus;

/// How often the rate is looked at, ms.
const STEP_MS: u64 = 100;
/// How often the rate doubles at the start, ms.
const START_MS: u64 = 10;
/// The delay that is accepted while nobody else wants the disks, ms.
const IDLE_DELAY_MS: u64 = 200;
/// The delay that is accepted beside application I/O, ms.
const ACTIVE_DELAY_MS: u64 = 20;
/// The quickest answer is remembered for one to two of these, ms.
const BASE_WINDOW_MS: u64 = 60_000;
/// What may be requested at once, however low the rate, bytes.
const BURST_MIN: u64 = 1 << 20;
/// What may be in flight beside application I/O, however little the pipe carries, bytes.
const ACTIVE_IN_FLIGHT_MIN: u64 = 2 * REQUEST;
/// The pipe carries what it carried in the best of so many steps.
const CARRIED_STEPS: usize = 10;
/// The size of the request that `next_time` waits for, bytes.
pub(in crate::resource) const REQUEST: u64 = 128 << 10;
/// The lowest rate, bytes a second.
const RATE_MIN: u64 = 1024;
/// The highest rate where c-max-rate sets none, bytes a second.
const RATE_MAX: u64 = 1 << 40;
/// The printed rate is that of the last so many ms, ...
const PROGRESS_MS: u64 = 3000;
/// ... counted in slices of so many ms.
const SLICE_MS: u64 = 100;
const NANOS: u64 = 1_000_000_000;

/// The rate of one resync, and how far it has come.
#[derive(Clone, Debug)]
pub(crate) struct ResyncRate {
    /// Bytes a second.
    rate: u64,
    /// c-max-rate, bytes a second.
    rate_max: u64,
    /// c-min-rate, bytes a second; 0: application I/O is not looked at.
    rate_min: u64,
    /// Bytes that may be requested; below 0 after a request that was larger.
    tokens: i128,
    /// What is left of the last refill, bytes * ns: less than one byte.
    token_rest: u128,
    refilled: Time,
    in_flight: u64,
    application_active: bool,
    step: Step,
    start: Option<Start>,
    last_completion: Time,
    base: BaseLatency,
    /// Bytes a second that were completed in each of the last steps, newest last.
    carried: [u64; CARRIED_STEPS],
    started: Time,
    total: u64,
    failed: u64,
    slices: VecDeque<Slice>,
}

/// What was seen since the rate was looked at last.
#[derive(Clone, Debug, Default)]
struct Step {
    began: Time,
    completions: u64,
    latency_sum_ms: u64,
    bytes: u64,
    /// The bucket was too empty for a request: the rate held the resync back.
    limited: bool,
}

/// Neither a delay nor application I/O has been seen since the resync began.
#[derive(Clone, Copy, Debug)]
struct Start {
    doubled: Time,
    /// Something came back since then.
    answered: bool,
}

/// The lowest latency of this window and of the one before, ms.
#[derive(Clone, Debug, Default)]
struct BaseLatency {
    began: Time,
    current: Option<u64>,
    previous: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Slice {
    began: Time,
    bytes: u64,
}

impl ResyncRate {
    /// A resync of `total_bytes` that starts `now`, at resync-rate.
    pub(crate) fn new(options: &DiskOptions, now: Time, total_bytes: u64) -> Self {
        let mut new = Self {
            rate: kib(options.resync_rate),
            rate_max: 0,
            rate_min: 0,
            tokens: i128::from(BURST_MIN),
            token_rest: 0,
            refilled: now,
            in_flight: 0,
            application_active: false,
            step: Step { began: now, ..Step::default() },
            start: Some(Start { doubled: now, answered: false }),
            last_completion: now,
            base: BaseLatency { began: now, ..BaseLatency::default() },
            carried: [0; CARRIED_STEPS],
            started: now,
            total: total_bytes,
            failed: 0,
            slices: VecDeque::new(),
        };
        new.set_options(options);
        new
    }

    /// Takes c-max-rate and c-min-rate of changed options; the rate moves into them at once.
    pub(crate) fn set_options(&mut self, options: &DiskOptions) {
        let cap = if options.c_max_rate == 0 { RATE_MAX } else { kib(options.c_max_rate) };
        self.rate_max = cap.clamp(RATE_MIN, RATE_MAX);
        self.rate_min = kib(options.c_min_rate).min(self.rate_max);
        let floor = if self.application_active { self.rate_min } else { RATE_MIN };
        self.rate = self.rate.max(floor).clamp(RATE_MIN, self.rate_max);
    }

    /// How many bytes may be requested now. Call it after completions and at `next_time` while
    /// there is something to request: the rate is adapted here. `application_active`: clients have
    /// had I/O under way lately.
    pub(crate) fn allowance(&mut self, now: Time, application_active: bool) -> u64 {
        self.refill(now);
        let active = application_active && self.rate_min > 0;
        if active && !self.application_active {
            let carried = self.carried_of_late();
            self.set_rate(if carried > 0 { carried.min(self.rate) } else { self.rate } / 2);
        }
        self.application_active = active;
        self.adapt(now);
        self.double_at_start(now);
        self.tokens = self.tokens.min(i128::from(self.burst()));
        let tokens = u64::try_from(self.tokens.max(0)).unwrap_or(u64::MAX);
        self.step.limited |= tokens < REQUEST;
        tokens.min(self.in_flight_max().saturating_sub(self.in_flight))
    }

    /// `bytes` were requested. More than was allowed is paid back before anything is allowed again.
    /// They are in flight until `completed` or `failed` names them, also when a write has
    /// superseded them.
    pub(crate) fn requested(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_add(bytes);
        self.tokens -= i128::from(bytes);
        self.step.limited |= self.tokens < i128::from(REQUEST);
    }

    /// `bytes` that were requested `latency_ms` ago are in place.
    pub(crate) fn completed(&mut self, now: Time, bytes: u64, latency_ms: u64) {
        self.carried_for(now, bytes, bytes, latency_ms);
    }

    /// `carried` bytes that were requested `latency_ms` ago have come, and brought `bytes` in place.
    pub(crate) fn carried_for(&mut self, now: Time, carried: u64, bytes: u64, latency_ms: u64) {
        self.returned(carried);
        self.last_completion = now;
        self.step.completions += 1;
        if let Some(start) = &mut self.start {
            start.answered = true;
        }
        self.step.latency_sum_ms = self.step.latency_sum_ms.saturating_add(latency_ms);
        self.step.bytes = self.step.bytes.saturating_add(carried);
        self.base.note(now, latency_ms);
        match self.slices.back_mut() {
            Some(slice) if now.ms_since(slice.began) < SLICE_MS => slice.bytes += bytes,
            _ => self.slices.push_back(Slice { began: now, bytes }),
        }
        while self.slices.front().is_some_and(|slice| now.ms_since(slice.began) > PROGRESS_MS) {
            self.slices.pop_front();
        }
    }

    /// `bytes` that were requested are not in flight any more.
    pub(crate) fn returned(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
    }

    /// It stood still by order until now: what was earned meanwhile is no burst, and the silence says
    /// nothing about the pipe.
    pub(crate) fn resumed(&mut self, now: Time) {
        self.tokens = self.tokens.min(0);
        self.refilled = self.refilled.max(now);
        self.step = Step { began: now, ..Step::default() };
        self.last_completion = self.last_completion.max(now);
    }

    /// `bytes` that were requested could not be read or written: they stay out of sync.
    pub(crate) fn failed(&mut self, bytes: u64) {
        self.returned(bytes);
        self.failed = self.failed.saturating_add(bytes);
    }

    /// Requested and neither completed nor failed, bytes.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// When the rate allows a request of 128 KiB, or doubles at the start; `None`: it allows one now,
    /// and what is in flight holds it back, if anything: ask again when something is completed.
    pub(crate) fn next_time(&self, now: Time) -> Option<Time> {
        let wanted = i128::from(REQUEST) - self.tokens;
        let wanted = u128::try_from(wanted).ok().filter(|&bytes| bytes > 0)?;
        let nanos = (wanted * u128::from(NANOS) - self.token_rest).div_ceil(u128::from(self.rate));
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        let due = Time(self.refilled.0.saturating_add(nanos));
        let grows = self.start.filter(|start| self.may_double(*start));
        let due = grows.map_or(due, |start| due.min(start.doubled.after_ms(START_MS)));
        (due > now).then_some(due)
    }

    /// How far it has come, with `left_bytes` out of sync now. The rate is what was completed in
    /// the last 3 s.
    pub(crate) fn progress(&self, now: Time, left_bytes: u64) -> ResyncStatus {
        let elapsed_ms = now.ms_since(self.started);
        let rate = self.recent(now, PROGRESS_MS);
        let done = u128::from(self.total.saturating_sub(left_bytes)) * 10_000;
        let done = done.checked_div(u128::from(self.total)).unwrap_or(10_000);
        ResyncStatus {
            total: self.total,
            left: left_bytes,
            elapsed_ms,
            paused_ms: 0,
            rate,
            done_hundredths: u32::try_from(done).expect("at most 10000"),
            seconds_left: (rate > 0).then(|| left_bytes.div_ceil(rate)),
            failed: self.failed,
        }
    }

    /// The largest number of bytes that may pile up in the bucket: 100 ms of the rate.
    fn burst(&self) -> u64 {
        (self.rate / (1000 / STEP_MS)).max(BURST_MIN)
    }

    fn refill(&mut self, now: Time) {
        let nanos = now.0.saturating_sub(self.refilled.0);
        self.refilled = self.refilled.max(now);
        let earned = u128::from(self.rate) * u128::from(nanos) + self.token_rest;
        self.token_rest = earned % u128::from(NANOS);
        self.tokens += i128::try_from(earned / u128::from(NANOS)).unwrap_or(i128::MAX / 2);
        self.tokens = self.tokens.min(i128::from(self.burst()));
    }

    /// Looks at the rate if 100 ms have passed.
    fn adapt(&mut self, now: Time) {
        if now.ms_since(self.step.began) < STEP_MS {
            return;
        }
        let step = std::mem::replace(&mut self.step, Step { began: now, ..Step::default() });
        let target = if self.application_active { ACTIVE_DELAY_MS } else { IDLE_DELAY_MS };
        let span_ms = now.ms_since(step.began).max(1);
        let carried = step.bytes.saturating_mul(1000) / span_ms;
        self.carried.rotate_left(1);
        self.carried[CARRIED_STEPS - 1] = carried;
        let delay = match step.latency_sum_ms.checked_div(step.completions) {
            Some(average) => average.saturating_sub(self.base.lowest()),
            // Nothing was asked for: the rate is too low for a request a step.
            None if self.in_flight == 0 => 0,
            // Nothing came back. It is stuck once that takes longer than the delay accepted.
            None => {
                let silent = now.ms_since(self.last_completion).saturating_sub(self.base.lowest());
                if self.last_completion > self.started && silent > target {
                    self.start = None;
                    self.set_rate(self.rate / 2);
                }
                return;
            }
        };
        if delay > target / 2 {
            self.start = None;
        }
        if delay > target {
            let carried = carried.min(self.rate);
            self.set_rate(if self.application_active { carried / 2 } else { carried / 8 * 7 });
        } else if step.limited {
            let gentle = self.application_active || delay > target / 2;
            self.set_rate(if gentle { self.rate + self.rate / 8 + 1 } else { self.rate * 2 });
        }
    }

    /// The start, see above: the rate doubles where it is what holds the resync back.
    fn double_at_start(&mut self, now: Time) {
        if self.application_active {
            self.start = None;
        }
        let due = |start: &Start| now.ms_since(start.doubled) >= START_MS;
        if self.start.is_some_and(|start| self.may_double(start) && due(&start)) {
            self.set_rate(self.rate.saturating_mul(2));
            self.start = Some(Start { doubled: now, answered: false });
        }
    }

    /// The rate holds the resync back, and what was asked for has come back since it doubled.
    fn may_double(&self, start: Start) -> bool {
        let answered = self.in_flight == 0 || start.answered;
        answered && self.tokens < i128::from(REQUEST) && self.rate < self.rate_max
    }

    /// Bytes a second that the pipe can carry, as far as it has shown; 0: nothing came back lately.
    fn carried_of_late(&self) -> u64 {
        self.carried.iter().copied().max().unwrap_or(0)
    }

    /// What may be in flight: see above. Never less than c-min-rate needs while a request takes
    /// 0.5 s, for a share of a busy disk is had by having requests there.
    fn in_flight_max(&self) -> u64 {
        let (delay, least) = if self.application_active {
            (ACTIVE_DELAY_MS, (self.rate_min / 2).max(ACTIVE_IN_FLIGHT_MIN))
        } else {
            (IDLE_DELAY_MS, BURST_MIN)
        };
        let span_ms = self.base.lowest().saturating_add(delay / 2);
        (self.carried_of_late().saturating_mul(span_ms) / 1000).max(least)
    }

    fn set_rate(&mut self, rate: u64) {
        self.rate = rate.max(self.rate_min).clamp(RATE_MIN, self.rate_max);
    }

    /// Bytes a second that were completed in the last `window_ms`, or since the start if that is
    /// later.
    fn recent(&self, now: Time, window_ms: u64) -> u64 {
        let recent = self.slices.iter().rev();
        let recent = recent.take_while(|slice| now.ms_since(slice.began) < window_ms);
        let bytes: u128 = recent.map(|slice| u128::from(slice.bytes)).sum();
        let span = now.ms_since(self.started).clamp(SLICE_MS, window_ms);
        u64::try_from(bytes * 1000 / u128::from(span)).unwrap_or(u64::MAX)
    }
}

impl BaseLatency {
    fn note(&mut self, now: Time, latency_ms: u64) {
        if now.ms_since(self.began) >= BASE_WINDOW_MS {
            self.previous = self.current.take();
            self.began = now;
        }
        self.current = Some(self.current.unwrap_or(u64::MAX).min(latency_ms));
    }

    /// 0 while nothing was completed.
    fn lowest(&self) -> u64 {
        self.current.into_iter().chain(self.previous).min().unwrap_or(0)
    }
}

/// KiB/s as bytes a second.
fn kib(rate: u64) -> u64 {
    rate.saturating_mul(1024)
}

#[cfg(test)]
mod tests;
