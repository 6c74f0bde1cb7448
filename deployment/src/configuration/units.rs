//! Lengths of time and amounts of bytes as people write them: `"10s"`, `"64MiB"`.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use toml::Spanned;

use super::problem::Problems;

/// A length of time, written as one or more numbers with units: `us`, `ms`, `s`, `min`, `h`, `d` (`"1min 30s"`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Time(pub(super) Duration);

/// An amount of bytes, written as a number with one of the units `B`, `KiB`, `MiB`, `GiB`, `TiB`. The names without
/// the `i`, as PostgreSQL's settings have them, mean the same powers of 1024.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bytes(pub(super) u64);

/// A limit: something, or `"off"` for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limit<T>(pub(super) Option<T>);

/// A first pause before another attempt and the longest one, where they are written or else as they are anyway.
pub(super) fn delays(
    first: Option<Spanned<Time>>,
    longest: Option<Spanned<Time>>,
    default: (Duration, Duration),
    problems: &mut Problems<'_>,
) -> (Duration, Duration) {
    let at = longest.as_ref().or(first.as_ref()).map(Spanned::span);
    let given = |time: Option<Spanned<Time>>, default| time.map_or(default, |time| time.into_inner().0);
    let (first, longest) = (given(first, default.0), given(longest, default.1));
    if let Some(at) = at {
        if first < Duration::from_millis(1) {
            problems.add(at, "a time of nothing", Some("use \"1s\" or more".into()));
        } else if longest < first {
            let remedy = "make retry_longest_delay as long as retry_delay or longer";
            problems.add(at, "the longest delay is shorter than the first", Some(remedy.into()));
        }
    }
    (first, longest)
}

fn time(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, behind) = number(rest)?;
        let unit_end = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_end);
        let micros: u64 = match unit {
            "us" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            "min" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_micros(number.checked_mul(micros)?))?;
        rest = behind.trim_start();
    }
    Some(total)
}

/// An amount of bytes as the file has it, such as `64MiB`; nothing where the text is none.
pub fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = number(text.trim())?;
    let shift = match unit {
        "B" => 0,
        "KiB" | "kB" | "KB" => 10,
        "MiB" | "MB" => 20,
        "GiB" | "GB" => 30,
        "TiB" | "TB" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// A whole number and what stands behind it and its blanks.
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest.trim_start()))
}

struct Text<T> {
    parse: fn(&str) -> Option<T>,
    expected: &'static str,
    examples: &'static str,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text)
            .ok_or_else(|| E::custom(format!("\"{text}\" is not {}; write {}", self.expected, self.examples)))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (expected, examples) =
            ("a length of time in quotes", "\"500ms\", \"10s\", \"5min\", \"24h\" or the like");
        deserializer.deserialize_str(Text { parse: time, expected, examples }).map(Self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (expected, examples) =
            ("an amount of bytes in quotes", "\"512KiB\", \"64MiB\", \"2GiB\" or the like");
        deserializer.deserialize_str(Text { parse: bytes, expected, examples }).map(Self)
    }
}

fn limit<T>(text: &str, parse: fn(&str) -> Option<T>) -> Option<Limit<T>> {
    if text == "off" { Some(Limit(None)) } else { parse(text).map(|value| Limit(Some(value))) }
}

impl<'de> Deserialize<'de> for Limit<Time> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (expected, examples) =
            ("a length of time in quotes, or \"off\"", "\"10s\", \"5min\", \"off\" or the like");
        let parse = |text: &str| limit(text, |text| time(text).map(Time));
        deserializer.deserialize_str(Text { parse, expected, examples })
    }
}

impl<'de> Deserialize<'de> for Limit<Bytes> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (expected, examples) =
            ("an amount of bytes in quotes, or \"off\"", "\"512MiB\", \"2GiB\", \"off\" or the like");
        let parse = |text: &str| limit(text, |text| bytes(text).map(Bytes));
        deserializer.deserialize_str(Text { parse, expected, examples })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_a_unit_and_may_have_several() {
        for (text, millis) in [
            ("10s", 10_000),
            ("500ms", 500),
            ("1min 30s", 90_000),
            ("2 h", 7_200_000),
            ("1d", 86_400_000),
            ("0s", 0),
        ] {
            assert_eq!(time(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in
            ["", "10", "s", "-1s", "1.5s", "10m", "99999999999999999999s", "999999999999999999d", "1s,"]
        {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn amounts_are_powers_of_1024_by_either_name() {
        for (text, amount) in
            [("64MiB", 64 << 20), ("64MB", 64 << 20), ("8kB", 8192), ("1 GiB", 1 << 30), ("0B", 0)]
        {
            assert_eq!(bytes(text), Some(amount), "{text}");
        }
        for text in ["", "64", "MiB", "64 Mi", "99999999999TiB", "-1B", "1.5GiB"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
