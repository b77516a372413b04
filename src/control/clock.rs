//! Wall clock times for people. They decide nothing.

use chrono::{DateTime, Local, Offset, TimeZone, Utc};

/// In which zone times are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// That of this system (`TZ`, /etc/localtime).
    Local,
    /// So many seconds east of Greenwich.
    Fixed(i32),
}

impl Zone {
    /// `2026-11-25 03:02:11` of seconds since 1970.
    pub(crate) fn iso(self, seconds: u64) -> String {
        let east = match self {
            Self::Fixed(east) => east,
            Self::Local => i64::try_from(seconds)
                .ok()
                .and_then(|seconds| DateTime::<Utc>::from_timestamp(seconds, 0))
                .map_or(0, |utc| {
                    Local.offset_from_utc_datetime(&utc.naive_utc()).fix().local_minus_utc()
                }),
        };
        iso(seconds.saturating_add_signed(i64::from(east)))
    }
}

/// `2026-11-25 03:02:11` (UTC) of seconds since 1970.
#[must_use]
pub(crate) fn iso(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// Days since 1970 to a date of the Gregorian calendar. The year is counted from March, so that
/// the leap day is the last one.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::{Zone, iso};

    #[test]
    fn a_zone_is_east_or_west_of_greenwich() {
        assert_eq!(Zone::Fixed(3600).iso(1_795_549_964), "2026-11-24 20:52:44");
        assert_eq!(Zone::Fixed(-3600).iso(1_795_549_964), "2026-11-24 18:52:44");
    }

    #[test]
    fn known_instants_print_as_dates() {
        assert_eq!(iso(0), "1970-01-01 00:00:00");
        assert_eq!(iso(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(iso(1_795_549_964), "2026-11-24 19:52:44");
        assert_eq!(iso(4_107_542_399), "2100-02-28 23:59:59");
    }
}
