//! The one spelling of time in records: RFC 3339, microseconds, UTC, as in `2026-11-21T00:14:04.000123Z`.
//!
//! Called by whoever writes records (the clock's reading arrives as an argument) and by `record` to check the spelling.
//! All years have four digits, so records sort by time as text.

/// Microseconds in a day.
const DAY_MICROS: i64 = 86_400_000_000;
/// 0000-01-01 and 10000-01-01 in days since 1970: the years that have four digits.
const FIRST_DAY: i64 = -719_528;
const END_DAY: i64 = 2_932_897;

/// RFC 3339 with microseconds, UTC, of microseconds since 1970. Times outside the years 0 to 9999 are clamped.
#[must_use]
pub fn format_ts(unix_micros: i64) -> String {
    String::from_utf8_lossy(&spell(unix_micros)).into_owned()
}

/// The spelling as ASCII.
fn spell(unix_micros: i64) -> [u8; 27] {
    let clamped = unix_micros.clamp(FIRST_DAY * DAY_MICROS, END_DAY * DAY_MICROS - 1);
    let (days, micros) = (clamped.div_euclid(DAY_MICROS), clamped.rem_euclid(DAY_MICROS));
    let (year, month, day) = civil_from_days(days);
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    for (end, mut number) in [(4, year), (7, month), (10, day), (13, hour), (16, minute), (19, second), (26, fraction)]
    {
        let digits = text.get_mut(..end).unwrap_or_default().iter_mut().rev();
        for digit in digits.take_while(|byte| byte.is_ascii_digit()) {
            *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
            number /= 10;
        }
    }
    text
}

/// Microseconds since 1970 of exactly what [`format_ts`] writes; `None` for any other spelling or impossible date.
#[must_use]
pub fn parse_ts(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let days = days_from_civil(number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let seconds = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    let micros = days * DAY_MICROS + seconds * 1_000_000 + number(20, 26)?;
    (spell(micros) == text.as_bytes()).then_some(micros)
}

/// Year, month and day of the proleptic Gregorian calendar. Years are counted from March, so that the leap day comes
/// last, in eras of 400 years (146,097 days), after which the calendar repeats.
const fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let since_march_0000 = days + 719_468;
    let era = since_march_0000.div_euclid(146_097);
    let day_of_era = since_march_0000.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_are_written_as_rfc_3339() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (1_795_220_044_000_123, "2026-11-21T00:14:04.000123Z"),
            (i64::MIN, "0000-01-01T00:00:00.000000Z"),
            (i64::MAX, "9999-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(format_ts(micros), text);
            assert_eq!(parse_ts(text).map(format_ts).as_deref(), Some(text));
        }
    }

    #[test]
    fn every_day_of_eight_centuries_round_trips() {
        let mut before = String::new();
        for day in -146_097..146_097 {
            let text = format_ts(day * DAY_MICROS);
            assert_eq!(parse_ts(&text), Some(day * DAY_MICROS));
            assert!(before < text, "{before} {text}");
            before = text;
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "2026-11-21T00:14:04Z",
            "2026-11-21T00:14:04.000123+00:00",
            "2026-11-21 00:14:04.000123Z",
            "2026-02-30T00:14:04.000123Z",
            "2026-13-01T00:14:04.000123Z",
            "2026-11-21T24:00:00.000000Z",
            "2026-11-21T00:14:60.000000Z",
            "2026-11-21T00:14:04.0001234Z",
            "+026-11-21T00:14:04.000123Z",
            "2026-11-21T00:14:04.000123é",
        ] {
            assert_eq!(parse_ts(text), None, "{text}");
        }
    }
}
