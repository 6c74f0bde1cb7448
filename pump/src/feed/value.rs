//! A column's value: the server's text in, JSON out.
//!
//! What a type of JSON cannot hold is refused, never changed or left out: the caller names table and column, and the group
//! stops. Nothing here says a value, so that none reaches a log.

use num_bigint::BigInt;

use super::array::{self, Step};
use super::calendar::{self, Point};
use super::json;
use super::kind::Kind;

/// What stands for a value that the server has not sent, since the update did not touch it (Debezium's
/// `unavailable.value.placeholder`).
pub(super) const UNAVAILABLE: &str = "__debezium_unavailable_value";
/// The same in an array of UUIDs: the name-based one (RFC 4122, version 3) of the placeholder, as Java's `nameUUIDFromBytes`
/// makes it.
const UNAVAILABLE_UUID: &str = "b68a35a7-17ad-35b3-af2a-ae46edb4545a";
/// Debezium's ends of time, in microseconds: pgJDBC's `DATE_POSITIVE_INFINITY` and `DATE_NEGATIVE_INFINITY`.
const LAST_MICROS: i64 = 9_223_372_036_825_200_000;
const FIRST_MICROS: i64 = -9_223_372_036_832_400_000;

/// Why a value cannot be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unfit {
    /// It is not what the type's text looks like.
    Malformed,
    /// `numeric` NaN or infinity, where an exact number is asked for.
    NoNumber,
    /// Outside what the JSON type, as its schema says, can hold.
    Range,
}

impl Unfit {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "holds a text that its type does not have",
            Self::NoNumber => "holds NaN or infinity, which an exact decimal cannot be",
            Self::Range => "holds a date or time that is further away than the type of the event reaches",
        }
    }

    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::Malformed => "leave the table out with \"exclude\" of the feed, and report it",
            Self::NoNumber => {
                "set numerics = \"string\" or \"double\" for the feed, change the value, or leave the table out with \"exclude\""
            }
            Self::Range => "change the value, or leave the table out with \"exclude\" of the feed",
        }
    }
}

/// Writes a value.
pub(super) fn write(kind: &Kind, text: &str, out: &mut Vec<u8>) -> Result<(), Unfit> {
    let malformed = Unfit::Malformed;
    match kind {
        Kind::Text(_) => json::text(text, out),
        Kind::Int16 | Kind::Int32 | Kind::Int64 => {
            text.parse::<i64>().map_err(|_| malformed)?;
            json::raw(text, out);
        }
        Kind::Boolean | Kind::Bit => match text {
            "t" | "1" => json::raw("true", out),
            "f" | "0" => json::raw("false", out),
            _ => return Err(malformed),
        },
        // The shortest text that is this number again is the server's, of a float4 too.
        Kind::Float | Kind::Double => match text {
            "NaN" | "Infinity" | "-Infinity" => json::text(text, out),
            _ => {
                text.parse::<f64>().map_err(|_| malformed)?;
                json::raw(text, out);
            }
        },
        Kind::Approximate => json::number(plain(text).parse().map_err(|_| malformed)?, out),
        Kind::Decimal { scale, .. } => {
            let (digits, found) = decimal(&plain(text))?;
            let shift = scale.checked_sub(found).ok_or(malformed)?;
            json::bytes(&scaled(digits, shift)?.to_signed_bytes_be(), out);
        }
        Kind::VariableDecimal => {
            let (digits, scale) = decimal(text)?;
            variable(scale, &digits.to_signed_bytes_be(), out);
        }
        Kind::Bytes => json::bytes(&hex(text).ok_or(malformed)?, out),
        Kind::Bits(_) => json::bytes(&bits(text).ok_or(malformed)?, out),
        Kind::Date => {
            let days = match calendar::date(text).ok_or(malformed)? {
                // The server's own numbers for the ends.
                Point::Before => i32::MIN,
                Point::After => i32::MAX,
                Point::At(days) => i32::try_from(days).map_err(|_| Unfit::Range)?,
            };
            json::raw(&days.to_string(), out);
        }
        Kind::Timestamp => instant(calendar::timestamp(text).ok_or(malformed)?, 1000, out)?,
        Kind::MicroTimestamp => instant(calendar::timestamp(text).ok_or(malformed)?, 1, out)?,
        Kind::Time => json::raw(&(calendar::time(text).ok_or(malformed)? / 1000).to_string(), out),
        Kind::MicroTime => json::raw(&calendar::time(text).ok_or(malformed)?.to_string(), out),
        Kind::ZonedTimestamp { width } => match calendar::timestamp_with_zone(text).ok_or(malformed)? {
            Point::At(micros) => json::text(&calendar::iso_timestamp(micros, Some(*width)), out),
            Point::Before | Point::After => json::text(text, out),
        },
        Kind::ZonedTime => {
            let micros = calendar::time_with_zone(text).ok_or(malformed)?;
            json::text(&calendar::iso_time(micros, None), out);
        }
        Kind::Duration => {
            let micros = match calendar::interval(text).ok_or(malformed)? {
                Point::Before => i64::MIN,
                Point::After => i64::MAX,
                Point::At(micros) => i64::try_from(micros).map_err(|_| Unfit::Range)?,
            };
            json::raw(&micros.to_string(), out);
        }
        Kind::Point => point(text, out).ok_or(malformed)?,
        Kind::Hstore => hstore(text, out).ok_or(malformed)?,
        Kind::Array(element, delimiter) => {
            let mut is_first = true;
            for step in array::steps(text, *delimiter).ok_or(malformed)? {
                if !is_first && step != Step::Close {
                    out.push(b',');
                }
                is_first = false;
                match step {
                    Step::Open => {
                        out.push(b'[');
                        is_first = true;
                    }
                    Step::Close => out.push(b']'),
                    Step::Null => json::raw("null", out),
                    Step::Value(value) => write(element, &value, out)?,
                }
            }
        }
    }
    Ok(())
}

/// Writes what stands for a value that the server has not sent. Never null: that would say that there is none.
pub(super) fn write_unavailable(kind: &Kind, out: &mut Vec<u8>) {
    let placeholder = UNAVAILABLE.as_bytes();
    match kind {
        Kind::Bytes | Kind::Bits(_) | Kind::Decimal { .. } => json::bytes(placeholder, out),
        Kind::VariableDecimal => variable(0, placeholder, out),
        Kind::Array(element, _) => {
            let one = |out: &mut Vec<u8>| match &**element {
                Kind::Text(Some("io.debezium.data.Uuid")) => json::text(UNAVAILABLE_UUID, out),
                element => write_unavailable(element, out),
            };
            out.push(b'[');
            match &**element {
                // Numbers: the bytes of the placeholder, one by one.
                Kind::Int16
                | Kind::Int32
                | Kind::Int64
                | Kind::Float
                | Kind::Double
                | Kind::Approximate
                | Kind::Date
                | Kind::Timestamp
                | Kind::MicroTimestamp
                | Kind::Time
                | Kind::MicroTime
                | Kind::Duration => {
                    let numbers: Vec<_> = placeholder.iter().map(u8::to_string).collect();
                    json::raw(&numbers.join(","), out);
                }
                _ => one(out),
            }
            out.push(b']');
        }
        _ => json::text(UNAVAILABLE, out),
    }
}

fn instant(point: Point, unit: i128, out: &mut Vec<u8>) -> Result<(), Unfit> {
    let number = match point {
        Point::Before => FIRST_MICROS,
        Point::After => LAST_MICROS,
        Point::At(micros) => i64::try_from(micros.div_euclid(unit)).map_err(|_| Unfit::Range)?,
    };
    json::raw(&number.to_string(), out);
    Ok(())
}

/// An amount of money without what the C locale adorns it with.
fn plain(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains(['$', ',']) { text.replace(['$', ','], "").into() } else { text.into() }
}

/// The digits of a decimal number, and how many stand behind the point.
fn decimal(text: &str) -> Result<(BigInt, i32), Unfit> {
    if matches!(text, "NaN" | "Infinity" | "-Infinity") {
        return Err(Unfit::NoNumber);
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number =
        whole.strip_prefix('-').unwrap_or(whole).bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit());
    let digits = BigInt::parse_bytes(format!("{whole}{fraction}").as_bytes(), 10).filter(|_| is_number);
    let scale = i32::try_from(fraction.len()).map_err(|_| Unfit::Malformed)?;
    digits.map(|digits| (digits, scale)).ok_or(Unfit::Malformed)
}

/// The digits with so many more, or fewer zeros, behind the point.
fn scaled(digits: BigInt, shift: i32) -> Result<BigInt, Unfit> {
    let power = BigInt::from(10).pow(shift.unsigned_abs());
    if shift >= 0 {
        return Ok(digits * power);
    }
    let (whole, rest) = (&digits / &power, &digits % &power);
    if rest == BigInt::ZERO { Ok(whole) } else { Err(Unfit::Malformed) }
}

fn variable(scale: i32, digits: &[u8], out: &mut Vec<u8>) {
    json::raw(&format!("{{\"scale\":{scale},\"value\":"), out);
    json::bytes(digits, out);
    out.push(b'}');
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let digit = |b: &u8| char::from(*b).to_digit(16).map(|digit| digit as u8);
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    };
    digits.chunks(2).map(pair).collect()
}

/// A string of bits, the last one first, eight to a byte.
fn bits(text: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0_u8; text.len().div_ceil(8)];
    for (number, bit) in text.bytes().rev().enumerate() {
        match bit {
            b'1' => bytes[number / 8] |= 1 << (number % 8),
            b'0' => {}
            _ => return None,
        }
    }
    Some(bytes)
}

fn point(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let (x, y) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    let (x, y): (f64, f64) = (x.parse().ok()?, y.parse().ok()?);
    // Well-known binary (OGC 06-103r4): little-endian, of type 1, a point.
    let mut binary = vec![1, 1, 0, 0, 0];
    binary.extend_from_slice(&x.to_le_bytes());
    binary.extend_from_slice(&y.to_le_bytes());
    json::raw("{\"x\":", out);
    json::number(x, out);
    json::raw(",\"y\":", out);
    json::number(y, out);
    json::raw(",\"wkb\":", out);
    json::bytes(&binary, out);
    json::raw(",\"srid\":null}", out);
    Some(())
}

/// Pairs `"key"=>"value"`, as JSON within a string.
fn hstore(text: &str, out: &mut Vec<u8>) -> Option<()> {
    fn quoted(rest: &str) -> Option<(String, &str)> {
        let mut chars = rest.strip_prefix('"')?.char_indices();
        let mut value = String::new();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => return Some((value, &rest[at + 2..])),
                '\\' => value.push(chars.next()?.1),
                c => value.push(c),
            }
        }
        None
    }
    let mut object = vec![b'{'];
    let mut rest = text;
    while !rest.is_empty() {
        let (key, after) = quoted(rest)?;
        json::field(&key, object.len() == 1, &mut object);
        let after = after.strip_prefix("=>")?;
        rest = match after.strip_prefix("NULL") {
            Some(after) => {
                json::raw("null", &mut object);
                after
            }
            None => {
                let (value, after) = quoted(after)?;
                json::text(&value, &mut object);
                after
            }
        };
        if !rest.is_empty() {
            rest = rest.strip_prefix(", ")?;
        }
    }
    object.push(b'}');
    json::text(&String::from_utf8(object).ok()?, out);
    Some(())
}

#[cfg(test)]
mod tests;
