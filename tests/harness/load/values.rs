//! Random values of PostgreSQL's types, as text.

use rand::Rng;
use rand::rngs::StdRng;

/// A type whose values can be made.
#[derive(Clone, Debug)]
pub(super) struct Type {
    kind: Kind,
    /// The most characters or bits, where the type has such a limit.
    limit: Option<usize>,
    is_array: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Boolean,
    Integer { bits: u32 },
    Decimal { digits: u32, scale: u32 },
    Float,
    Text,
    Bytes,
    Uuid,
    Date,
    Timestamp { zone: bool },
    Time,
    Interval,
    Json,
    Xml,
    Bits { exact: bool },
    Address,
    Point,
    Range,
    Words,
    Pairs,
    Label(Vec<String>),
}

impl Type {
    /// The type of this name, type modifier, element type (of an array) and labels (of an enum), if it is known here.
    pub(super) fn known(name: &str, typmod: i32, element: Option<&str>, labels: Vec<String>) -> Option<Self> {
        let positive = usize::try_from(typmod).ok();
        // Character types count their header of four bytes in the modifier; bit types do not.
        let characters = positive.map(|typmod| typmod.saturating_sub(4));
        let plain = element.unwrap_or(name);
        let (kind, limit) = match plain {
            "bool" => (Kind::Boolean, None),
            "int2" => (Kind::Integer { bits: 16 }, None),
            "int4" => (Kind::Integer { bits: 32 }, None),
            "int8" => (Kind::Integer { bits: 64 }, None),
            "numeric" => {
                let typmod = characters.unwrap_or((20 << 16) | 6) as u32;
                (Kind::Decimal { digits: typmod >> 16, scale: typmod & 0x3ff }, None)
            }
            "float4" | "float8" => (Kind::Float, None),
            "text" | "citext" => (Kind::Text, None),
            "varchar" | "bpchar" => (Kind::Text, characters),
            "name" => (Kind::Text, Some(40)),
            "bytea" => (Kind::Bytes, None),
            "uuid" => (Kind::Uuid, None),
            "date" => (Kind::Date, None),
            "timestamp" => (Kind::Timestamp { zone: false }, None),
            "timestamptz" => (Kind::Timestamp { zone: true }, None),
            "time" => (Kind::Time, None),
            "interval" => (Kind::Interval, None),
            "json" | "jsonb" => (Kind::Json, None),
            "xml" => (Kind::Xml, None),
            "bit" => (Kind::Bits { exact: true }, positive.or(Some(1))),
            "varbit" => (Kind::Bits { exact: false }, positive),
            "inet" => (Kind::Address, None),
            "point" => (Kind::Point, None),
            "int4range" | "int8range" | "numrange" => (Kind::Range, None),
            "tsvector" => (Kind::Words, None),
            "hstore" => (Kind::Pairs, None),
            _ if !labels.is_empty() => (Kind::Label(labels), None),
            _ => return None,
        };
        Some(Type { kind, limit, is_array: element.is_some() })
    }

    /// A value for a key, which hardly ever comes twice where the type has room.
    pub(super) fn key(&self, random: &mut StdRng) -> String {
        match &self.kind {
            Kind::Integer { bits } if !self.is_array => (random.random::<i64>() >> (64 - bits)).to_string(),
            Kind::Text if !self.is_array => {
                let unique = format!("{:x}", random.random::<u64>());
                unique.chars().take(self.limit.unwrap_or(usize::MAX)).collect()
            }
            _ => self.value(random),
        }
    }

    /// A value as PostgreSQL reads it.
    pub(super) fn value(&self, random: &mut StdRng) -> String {
        if !self.is_array {
            return self.plain(random);
        }
        let element = |random: &mut StdRng| match random.random_bool(0.1) {
            true => "NULL".to_owned(),
            false => format!("\"{}\"", self.plain(random).replace('\\', "\\\\").replace('"', "\\\"")),
        };
        let elements: Vec<_> = (0..random.random_range(0..6)).map(|_| element(random)).collect();
        format!("{{{}}}", elements.join(","))
    }

    fn plain(&self, random: &mut StdRng) -> String {
        match &self.kind {
            Kind::Boolean => if random.random() { "true" } else { "false" }.to_owned(),
            Kind::Integer { bits } => {
                let any: i64 = random.random();
                // Small and large numbers alike, down to the type's least and up to its most.
                (any >> (64 - random.random_range(1..=*bits))).to_string()
            }
            Kind::Decimal { digits, scale } => {
                let whole = digits.saturating_sub(*scale).clamp(1, 18);
                let most = 10_u64.pow(random.random_range(0..=whole));
                let number = random.random_range(0..most);
                let fraction = random.random_range(0..10_u64.pow((*scale).min(9)));
                let sign = if random.random() { "-" } else { "" };
                match scale {
                    0 => format!("{sign}{number}"),
                    _ if digits <= scale => format!("{sign}0.{}", "0".repeat(*scale as usize)),
                    _ => format!("{sign}{number}.{fraction:0width$}", width = (*scale).min(9) as usize),
                }
            }
            Kind::Float => match random.random_range(0..20) {
                0 => "NaN".to_owned(),
                1 => "Infinity".to_owned(),
                2 => "-Infinity".to_owned(),
                3 => "-0".to_owned(),
                _ => format!("{:e}", random.random::<f32>() * 10_f32.powi(random.random_range(-20..20))),
            },
            Kind::Text => self.text(random),
            Kind::Bytes => {
                let length = length(random);
                (0..length).fold("\\x".to_owned(), |hex, _| hex + &format!("{:02x}", random.random::<u8>()))
            }
            Kind::Uuid => {
                let hex = format!("{:032x}", random.random::<u128>());
                format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
            }
            Kind::Date => date(random),
            Kind::Timestamp { zone } => {
                let date = date(random);
                if date.ends_with("infinity") {
                    return date;
                }
                let zone = if *zone { "+00" } else { "" };
                match date.strip_suffix(" BC") {
                    Some(date) => format!("{date} {}{zone} BC", time(random)),
                    None => format!("{date} {}{zone}", time(random)),
                }
            }
            Kind::Time => time(random),
            Kind::Interval => format!(
                "{} mons {} days {} secs",
                random.random_range(-50..50),
                random.random_range(-50..50),
                random.random_range(-1e5..1e5)
            ),
            Kind::Json => format!(
                r#"{{"n": {}, "list": [null, true, 1e3], "text": "{}"}}"#,
                random.random::<i32>(),
                word(random)
            ),
            Kind::Xml => format!("<row n=\"{}\">{}</row>", random.random::<u16>(), word(random)),
            Kind::Bits { exact } => {
                let most = self.limit.unwrap_or(70);
                let length = if *exact { most } else { random.random_range(0..=most) };
                (0..length).map(|_| if random.random() { '1' } else { '0' }).collect()
            }
            Kind::Address => format!("10.{}.{}.0/24", random.random::<u8>(), random.random::<u8>()),
            Kind::Point => format!("({},{})", random.random::<i16>(), random.random::<i16>()),
            Kind::Range => {
                let low = random.random_range(-1000..1000);
                match random.random_range(0..4) {
                    0 => "empty".to_owned(),
                    1 => format!("[{low},)"),
                    _ => format!("[{low},{}]", low + random.random_range(0..1000)),
                }
            }
            Kind::Words => format!("'{}':1A '{}':2", word(random), word(random)),
            Kind::Pairs => format!("\"{}\"=>\"{}\", \"none\"=>NULL", word(random), word(random)),
            Kind::Label(labels) => labels[random.random_range(0..labels.len())].clone(),
        }
    }

    fn text(&self, random: &mut StdRng) -> String {
        let length = length(random);
        let mut text = String::new();
        while text.len() < length {
            text.push_str(&word(random));
            text.push_str(["", " ", "'", "\\", "\"", "\n", "\t", ",", "{}"][random.random_range(0..9)]);
        }
        // Trailing blanks do not count in a character type, except against its limit.
        text.chars().take(self.limit.unwrap_or(usize::MAX)).collect()
    }
}

/// Mostly short; one in fifty is long enough to be stored out of line even when compressed.
fn length(random: &mut StdRng) -> usize {
    if random.random_ratio(1, 50) { random.random_range(5_000..15_000) } else { random.random_range(0..60) }
}

fn word(random: &mut StdRng) -> String {
    const OTHERS: [&str; 6] = ["ä", "ß", "日本", "é", "🦀", "Ω"];
    if random.random_ratio(1, 12) {
        return OTHERS[random.random_range(0..OTHERS.len())].to_owned();
    }
    (0..random.random_range(3..12)).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect()
}

fn date(random: &mut StdRng) -> String {
    let (month, day) = (random.random_range(1..=12), random.random_range(1..=28));
    match random.random_range(0..40) {
        0 => "infinity".to_owned(),
        1 => "-infinity".to_owned(),
        2 => format!("{:04}-{month:02}-{day:02} BC", random.random_range(1..4000)),
        _ => format!("{:04}-{month:02}-{day:02}", random.random_range(1900..2100)),
    }
}

fn time(random: &mut StdRng) -> String {
    let (hour, minute) = (random.random_range(0..24), random.random_range(0..60));
    format!(
        "{hour:02}:{minute:02}:{:02}.{:06}",
        random.random_range(0..60),
        random.random_range(0..1_000_000)
    )
}
