//! Dates and times as the server prints them under `datestyle = ISO`, `intervalstyle = postgres` and `timezone = UTC`, in
//! numbers. The calendar is the proleptic Gregorian one, as PostgreSQL's is (manual, "Date/Time Types"): years go from 4713 BC
//! to 5874897, further than any library of the field, so the count of days is our own.

/// Microseconds of a day.
pub(super) const DAY: i128 = 86_400_000_000;
/// Microseconds of a month: 30.4375 days, the twelfth part of 365.25.
const MONTH: i128 = 2_629_800_000_000;

/// A point on a line that has ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Point {
    /// `-infinity`
    Before,
    /// `infinity`
    After,
    /// A number of days or microseconds since 1970-01-01.
    At(i128),
}

fn infinity(text: &str) -> Option<Point> {
    match text {
        "infinity" => Some(Point::After),
        "-infinity" => Some(Point::Before),
        _ => None,
    }
}

/// Days from 1970-01-01 to a date. Year 0 is 1 BC.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the day that comes and goes is the last one; eras have 400 of them.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date of so many days since 1970-01-01: year, month, day.
fn date_of(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * shifted_month + 2) / 5 + 1, (shifted_month + 2) % 12 + 1);
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

fn number(text: &str) -> Option<i64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn date_part(text: &str, is_bc: bool) -> Option<i64> {
    let mut parts = text.splitn(3, '-');
    let (year, month, day) = (number(parts.next()?)?, number(parts.next()?)?, number(parts.next()?)?);
    let sound = (1..=9_999_999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    sound.then(|| days(if is_bc { 1 - year } else { year }, month, day))
}

/// Microseconds of `hh:mm:ss[.ffffff]`.
fn clock(text: &str) -> Option<i128> {
    let mut parts = text.splitn(3, ':');
    let (hours, minutes, seconds) = (number(parts.next()?)?, number(parts.next()?)?, parts.next()?);
    let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let micros = match fraction.len() {
        0 => 0,
        length @ 1..=6 => number(fraction)? * 10_i64.pow(6 - length as u32),
        _ => return None,
    };
    Some(i128::from((hours * 60 + minutes) * 60 + number(seconds)?) * 1_000_000 + i128::from(micros))
}

/// Microseconds east of Greenwich, of `+hh[:mm[:ss]]`, and what stands before.
fn split_zone(text: &str) -> Option<(&str, i128)> {
    let at = text.rfind(['+', '-'])?;
    let (before, zone) = text.split_at(at);
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let mut seconds = 0;
    for (part, unit) in zone[1..].split(':').zip([3600, 60, 1]) {
        seconds += number(part)? * unit;
    }
    Some((before, sign * i128::from(seconds) * 1_000_000))
}

/// Days since 1970-01-01 of a `date`.
pub(super) fn date(text: &str) -> Option<Point> {
    if let Some(end) = infinity(text) {
        return Some(end);
    }
    let (text, is_bc) = text.strip_suffix(" BC").map_or((text, false), |text| (text, true));
    date_part(text, is_bc).map(|days| Point::At(i128::from(days)))
}

/// Microseconds since 1970-01-01 00:00 of a `timestamp`, in its own time.
pub(super) fn timestamp(text: &str) -> Option<Point> {
    if let Some(end) = infinity(text) {
        return Some(end);
    }
    let (text, is_bc) = text.strip_suffix(" BC").map_or((text, false), |text| (text, true));
    let (date, time) = text.split_once(' ')?;
    Some(Point::At(i128::from(date_part(date, is_bc)?) * DAY + clock(time)?))
}

/// Microseconds since 1970-01-01 00:00 UTC of a `timestamptz`.
pub(super) fn timestamp_with_zone(text: &str) -> Option<Point> {
    if let Some(end) = infinity(text) {
        return Some(end);
    }
    let (text, is_bc) = text.strip_suffix(" BC").map_or((text, false), |text| (text, true));
    let (date, time) = text.split_once(' ')?;
    let (time, zone) = split_zone(time)?;
    Some(Point::At(i128::from(date_part(date, is_bc)?) * DAY + clock(time)? - zone))
}

/// Microseconds since midnight of a `time`; 24:00:00 is one of its values.
pub(super) fn time(text: &str) -> Option<i128> {
    clock(text)
}

/// Microseconds since midnight at Greenwich of a `timetz`.
pub(super) fn time_with_zone(text: &str) -> Option<i128> {
    let (time, zone) = split_zone(text)?;
    Some((clock(time)? - zone).rem_euclid(DAY))
}

/// Microseconds of an `interval`, with months of 30.4375 days.
pub(super) fn interval(text: &str) -> Option<Point> {
    if let Some(end) = infinity(text) {
        return Some(end);
    }
    let mut micros = 0;
    let mut words = text.split(' ');
    while let Some(word) = words.next() {
        if word.contains(':') {
            let (sign, time) = match word.strip_prefix('-') {
                Some(time) => (-1, time),
                None => (1, word.strip_prefix('+').unwrap_or(word)),
            };
            micros += sign * clock(time)?;
            continue;
        }
        let count: i128 = word.strip_prefix('+').unwrap_or(word).parse().ok()?;
        micros += count
            * match words.next()? {
                "year" | "years" => 12 * MONTH,
                "mon" | "mons" => MONTH,
                "day" | "days" => DAY,
                _ => return None,
            };
    }
    Some(Point::At(micros))
}

/// `2024-02-29T10:34:56.1Z`, as Java prints it; with `width`, that many digits behind the point, else as many as there are.
pub(super) fn iso_timestamp(micros: i128, width: Option<u8>) -> String {
    let days = i64::try_from(micros.div_euclid(DAY)).unwrap_or_default();
    let (year, month, day) = date_of(days);
    let sign = match year {
        10_000.. => "+",
        ..0 => "-",
        _ => "",
    };
    let time = iso_time(micros.rem_euclid(DAY), width);
    format!("{sign}{:04}-{month:02}-{day:02}T{time}", year.abs())
}

/// `10:04:56.5Z`.
pub(super) fn iso_time(micros: i128, width: Option<u8>) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let digits = format!("{fraction:06}");
    let digits = match width {
        Some(width) => digits.get(..usize::from(width)).unwrap_or(&digits),
        None => digits.trim_end_matches('0'),
    };
    let point = if digits.is_empty() { "" } else { "." };
    format!("{hours:02}:{minutes:02}:{seconds:02}{point}{digits}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_as_the_server_counts_them() {
        // SELECT date '…' - date '1970-01-01'
        for (text, days) in [
            ("1970-01-01", 0),
            ("2000-01-01", 10_957),
            ("2024-02-29", 19_782),
            ("1969-12-31", -1),
            ("0001-01-01", -719_162),
            ("0001-12-31 BC", -719_163),
            ("0044-03-15 BC", -735_160),
            ("4713-01-01 BC", -2_440_550),
            ("5874897-12-31", 2_145_042_905),
        ] {
            assert_eq!(date(text), Some(Point::At(days)), "{text}");
        }
        for days in (-800_000..3_000_000).step_by(97) {
            let (year, month, day) = date_of(days);
            assert_eq!(super::days(year, month, day), days);
        }
        assert_eq!((date("infinity"), date("-infinity")), (Some(Point::After), Some(Point::Before)));
        for bad in ["", "2024", "2024-02", "2024-13-01", "2024-00-01", "2024-01-32", "x-y-z", "2024-02-29 AD"]
        {
            assert_eq!(date(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_are_microseconds() {
        assert_eq!(timestamp("2024-02-29 12:34:56.123456"), Some(Point::At(1_709_210_096_123_456)));
        assert_eq!(timestamp("0044-03-15 12:00:00 BC"), Some(Point::At(-63_517_780_800_000_000)));
        assert_eq!(timestamp_with_zone("2024-02-29 12:34:56.1+02"), Some(Point::At(1_709_202_896_100_000)));
        assert_eq!(timestamp_with_zone("2024-02-29 12:34:56-02:30"), Some(Point::At(1_709_219_096_000_000)));
        assert_eq!(time("24:00:00"), Some(DAY));
        assert_eq!(time("12:34:56.789"), Some(45_296_789_000));
        assert_eq!(time_with_zone("12:34:56.5+02:30"), Some(36_296_500_000));
        assert_eq!(time_with_zone("23:00:00-05"), Some(4 * 3_600_000_000));
        for bad in ["12", "12:3", "a:b:c", "12:00:00.1234567"] {
            assert_eq!(time(bad), None, "{bad}");
        }
        assert_eq!((timestamp("2024-02-29"), timestamp_with_zone("2024-02-29 12:00:00")), (None, None));
    }

    #[test]
    fn intervals_are_microseconds_with_months_of_a_twelfth_of_a_year() {
        for (text, micros) in [
            ("1 year 2 mons 3 days 04:05:06.789", 37_091_106_789_000),
            ("-1 mons -00:00:01", -2_629_801_000_000),
            ("00:00:00", 0),
            ("100 years", 3_155_760_000_000_000),
            ("-1 years -2 mons +3 days -04:05:06", -36_572_706_000_000),
        ] {
            assert_eq!(interval(text), Some(Point::At(micros)), "{text}");
        }
        assert_eq!(interval("infinity"), Some(Point::After));
        assert_eq!((interval("1 week"), interval("1"), interval("")), (None, None, None));
    }

    #[test]
    fn times_are_printed_as_java_prints_them() {
        assert_eq!(iso_timestamp(1_709_202_896_100_000, Some(6)), "2024-02-29T10:34:56.100000Z");
        assert_eq!(iso_timestamp(1_709_202_896_100_000, Some(0)), "2024-02-29T10:34:56Z");
        assert_eq!(iso_timestamp(-63_517_780_800_000_000, Some(3)), "-0043-03-15T12:00:00.000Z");
        let far = timestamp_with_zone("12000-01-01 00:00:00+00");
        let Some(Point::At(far)) = far else { panic!("{far:?}") };
        assert_eq!(iso_timestamp(far, Some(6)), "+12000-01-01T00:00:00.000000Z");
        assert_eq!(iso_time(36_296_500_000, None), "10:04:56.5Z");
        assert_eq!(iso_time(0, None), "00:00:00Z");
    }
}
