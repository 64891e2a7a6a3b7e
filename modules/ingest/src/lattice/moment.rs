//! Dates and times as ISO 8601 writes them, and no other way: `01/02/2024` is two dates, so it
//! stays a text.

/// Microseconds of a second.
const MICROS: i64 = 1_000_000;
/// Nanoseconds of a second.
const NANOS: i64 = 1_000_000_000;
/// Seconds of a day.
const DAY: i64 = 86_400;

/// A date, a time of day, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Days since 1970.
    Date(i32),
    /// Microseconds since midnight.
    Time(i64),
    /// A date and a time of day.
    Stamp(Stamp),
}

/// A date and a time of day, in UTC if it says its zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Since 1970.
    seconds: i64,
    nanos: u32,
    /// Whether it says where it is that time: an instant.
    pub(crate) zoned: bool,
    /// Whether it says that by an offset other than zero, which no type keeps.
    pub(crate) offset: bool,
}

impl Stamp {
    /// At midnight of a day since 1970.
    pub(crate) fn midnight(day: i32) -> Self {
        Self { seconds: i64::from(day) * DAY, nanos: 0, zoned: false, offset: false }
    }

    /// Microseconds since 1970; none if it is finer.
    pub(crate) fn micros(self) -> Option<i64> {
        if self.nanos.is_multiple_of(1000) {
            Some(self.seconds * MICROS + i64::from(self.nanos / 1000))
        } else {
            None
        }
    }

    /// Nanoseconds since 1970; none before 1678 and after 2262.
    pub(crate) fn nanos(self) -> Option<i64> {
        self.seconds.checked_mul(NANOS)?.checked_add(i64::from(self.nanos))
    }
}

/// Two digits at a place.
fn two(text: &[u8], at: usize) -> Option<u32> {
    match text.get(at..at + 2)? {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some(u32::from(a - b'0') * 10 + u32::from(b - b'0')),
        _ => None,
    }
}

/// One digit or two at a place: their number, and where they end.
fn small(text: &[u8], at: usize) -> Option<(u32, usize)> {
    let one = || {
        text.get(at)
            .filter(|byte| byte.is_ascii_digit())
            .map(|byte| (u32::from(byte - b'0'), at + 1))
    };
    two(text, at).map(|number| (number, at + 2)).or_else(one)
}

/// Days since 1970 of a day of the Gregorian calendar, by Howard Hinnant's `days_from_civil`.
fn days(year: i64, month: u32, day: u32) -> Option<i32> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=last).contains(&day) {
        return None;
    }
    let (month, day) = (i64::from(month), i64::from(day));
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    i32::try_from(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468).ok()
}

/// `2024-01-31` at the beginning.
fn date(text: &[u8]) -> Option<i32> {
    if text.get(4) != Some(&b'-') || text.get(7) != Some(&b'-') {
        return None;
    }
    days(i64::from(two(text, 0)?) * 100 + i64::from(two(text, 2)?), two(text, 5)?, two(text, 8)?)
}

/// `23:59`, `23:59:59` or `23:59:59.123456789` at the beginning: seconds, nanoseconds, how long it
/// is.
fn clock(text: &[u8]) -> Option<(i64, u32, usize)> {
    let (hour, minute) = (two(text, 0)?, two(text, 3)?);
    if text.get(2) != Some(&b':') || hour > 23 || minute > 59 {
        return None;
    }
    let minutes = i64::from(hour * 60 + minute);
    if text.get(5) != Some(&b':') {
        return Some((minutes * 60, 0, 5));
    }
    let second = two(text, 6).filter(|second| *second < 60)?;
    let seconds = minutes * 60 + i64::from(second);
    if text.get(8) != Some(&b'.') {
        return Some((seconds, 0, 8));
    }
    let digits = text[9..].iter().take_while(|b| b.is_ascii_digit()).count();
    if !(1..=9).contains(&digits) {
        return None;
    }
    let nanos = (0..9).fold(0, |nanos, at| {
        nanos * 10 + if at < digits { u32::from(text[9 + at] - b'0') } else { 0 }
    });
    Some((seconds, nanos, 9 + digits))
}

/// `Z`, `+02`, `+0200` or `+02:00`, the whole text: seconds before UTC.
fn zone(text: &[u8]) -> Option<i64> {
    if matches!(text, b"Z" | b"z" | b" UTC") {
        return Some(0);
    }
    let sign = match text.first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let minutes = match text.len() {
        3 => 0,
        5 => two(text, 3)?,
        6 if text[3] == b':' => two(text, 4)?,
        _ => return None,
    };
    let hours = two(text, 1).filter(|hours| *hours < 24)?;
    if minutes < 60 { Some(sign * i64::from(hours * 3600 + minutes * 60)) } else { None }
}

impl Moment {
    /// A text that is a date, a time of day with its seconds, or both.
    pub(crate) fn scan(text: &[u8]) -> Option<Self> {
        if text.len() < 8 || !text[0].is_ascii_digit() {
            return None;
        }
        if text[2] == b':' {
            let (seconds, nanos, length) = clock(text)?;
            // Without its seconds it may be a score or a ratio; finer than a type of times that all
            // readers have.
            let is_time = length == text.len() && length >= 8 && nanos % 1000 == 0;
            return is_time.then_some(Self::Time(seconds * MICROS + i64::from(nanos / 1000)));
        }
        Self::of_day(date(text)?, &text[10..])
    }

    /// The same of a date as `31/12/2024`, `31.12.2024` and `31-12-2024` write it, or with the
    /// month first.
    pub(crate) fn scan_by(text: &[u8], day_first: bool) -> Option<Self> {
        let (first, at) = small(text, 0)?;
        let mark = text.get(at).filter(|byte| matches!(byte, b'/' | b'.' | b'-'))?;
        let (second, at) = small(text, at + 1)?;
        if text.get(at) != Some(mark) {
            return None;
        }
        let year = i64::from(two(text, at + 1)?) * 100 + i64::from(two(text, at + 3)?);
        let (day, month) = if day_first { (first, second) } else { (second, first) };
        Self::of_day(days(year, month, day)?, &text[at + 5..])
    }

    /// A day, or the time of it that stands behind it.
    fn of_day(day: i32, time: &[u8]) -> Option<Self> {
        if time.is_empty() {
            return Some(Self::Date(day));
        }
        if !matches!(time[0], b'T' | b' ' | b't') {
            return None;
        }
        let (seconds, nanos, length) = clock(&time[1..])?;
        let seconds = i64::from(day) * DAY + seconds;
        let rest = &time[1 + length..];
        if rest.is_empty() {
            return Some(Self::Stamp(Stamp { seconds, nanos, zoned: false, offset: false }));
        }
        let east = zone(rest)?;
        Some(Self::Stamp(Stamp { seconds: seconds - east, nanos, zoned: true, offset: east != 0 }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Option<Moment> {
        Moment::scan(text.as_bytes())
    }

    fn stamp(text: &str) -> Stamp {
        match of(text) {
            Some(Moment::Stamp(stamp)) => stamp,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn dates_and_times_are_those_of_the_calendar() {
        assert_eq!(of("1970-01-01"), Some(Moment::Date(0)));
        assert_eq!(of("2000-02-29"), Some(Moment::Date(11_016)));
        assert_eq!(of("1899-12-31"), Some(Moment::Date(-25_568)));
        assert_eq!(of("23:59:59.5"), Some(Moment::Time(86_399_500_000)));
        for text in [
            "2023-02-29",
            "1900-02-29",
            "2024-13-01",
            "2024-00-01",
            "2024-01-00",
            "24:00:00",
            "12:60:00",
            "12:30",
            "1/2/2024",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
        for text in [
            "2024-01-31T",
            "2024-01-31 25:00",
            "2024-01-31x12:00",
            "2024-01-31T12:00:00.",
            "2024-01-31T12:00+2",
            "20240131",
            "é-01-311",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn days_and_months_are_in_the_order_that_is_said() {
        let by = |text: &str, day_first| Moment::scan_by(text.as_bytes(), day_first);
        for text in ["31/12/2024", "31.12.2024", "31-12-2024"] {
            assert_eq!((by(text, true), by(text, false)), (of("2024-12-31"), None), "{text}");
        }
        assert_eq!(
            (by("1/2/2024", true), by("1/2/2024", false)),
            (of("2024-02-01"), of("2024-01-02"))
        );
        assert_eq!(by("31.12.2024 12:30", true), of("2024-12-31 12:30"));
        assert_eq!(by("12/31/2024T12:30:00Z", false), of("2024-12-31T12:30:00Z"));
        for text in
            ["31/12/24", "31/12-2024", "2024-12-31", "29.2.2023", "31.12.2024x", "31.12", ""]
        {
            assert_eq!(by(text, true), None, "{text}");
        }
    }

    #[test]
    fn instants_are_in_utc_and_say_what_they_lost() {
        let (plain, zulu, east) = (
            stamp("2024-01-31 12:00"),
            stamp("2024-01-31T12:00:00Z"),
            stamp("2024-01-31T14:00:00.000001+02:00"),
        );
        assert_eq!((plain.micros(), plain.zoned), (Some(1_706_702_400_000_000), false));
        assert_eq!(
            (zulu.micros(), zulu.zoned, zulu.offset),
            (Some(1_706_702_400_000_000), true, false)
        );
        assert_eq!(
            (east.micros(), east.zoned, east.offset),
            (Some(1_706_702_400_000_001), true, true)
        );
        let fine = stamp("2024-01-31T12:00:00.000000001");
        assert_eq!((fine.micros(), fine.nanos()), (None, Some(1_706_702_400_000_000_001)));
        assert_eq!(stamp("0001-01-01T00:00:00.000000001").nanos(), None);
    }

    proptest! {
        #[test]
        fn days_are_those_of_chrono(day in -700_000_i32..2_900_000) {
            let date = chrono::NaiveDate::from_epoch_days(day).expect("a day");
            prop_assert_eq!(of(&date.to_string()), Some(Moment::Date(day)));
        }

        #[test]
        fn no_text_is_too_odd(text in "\\PC{0,30}", near in "[0-9T:. Z+-]{8,32}") {
            let _ = (of(&text), of(&near));
        }
    }
}
