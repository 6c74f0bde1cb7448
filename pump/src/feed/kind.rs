//! What becomes of a column's type: Debezium's PostgreSQL connector's choice, with the settings that it has by default.
//!
//! The trail knows a type by its number, its modifier, and where it is not built in by its name. It does not know whether
//! such a type is an enum or a composite, so both are strings; and of a domain it knows the type below, and no modifier.

use irongate_trail::Column;

use super::json;
use super::settings::Numerics;

/// The modifier of a type that has none.
const NONE: i32 = -1;
/// What a modifier of a type with a length begins at.
const HEADER: i32 = 4;
/// The length of a bit string without a limit, as Debezium says it.
const UNLIMITED: u32 = i32::MAX as u32;

/// What a column's values are in JSON.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Boolean,
    Int16,
    Int32,
    Int64,
    Float,
    Double,
    /// As the server prints it; the name says what it means.
    Text(Option<&'static str>),
    /// The unscaled number of a `numeric` that has a scale, or of `money`.
    Decimal {
        scale: i32,
        precision: Option<u32>,
    },
    /// A `numeric` of any scale.
    VariableDecimal,
    /// A `numeric` as a number.
    Approximate,
    Bytes,
    Bit,
    Bits(u32),
    Date,
    /// A `timestamp` in milliseconds.
    Timestamp,
    MicroTimestamp,
    Time,
    MicroTime,
    ZonedTimestamp {
        width: u8,
    },
    ZonedTime,
    Duration,
    Point,
    Hstore,
    Array(Box<Self>, u8),
}

const UUID: Kind = Kind::Text(Some("io.debezium.data.Uuid"));
const JSON: Kind = Kind::Text(Some("io.debezium.data.Json"));
const XML: Kind = Kind::Text(Some("io.debezium.data.Xml"));

/// Names of the built-in types whose values are not plain strings, with the numbers of each and of its arrays
/// (`pg_type.dat`).
const BUILT_IN: [(&str, u32, u32); 33] = [
    ("bool", 16, 1000),
    ("int2", 21, 1005),
    ("int4", 23, 1007),
    ("int8", 20, 1016),
    ("oid", 26, 1028),
    ("float4", 700, 1021),
    ("float8", 701, 1022),
    ("numeric", 1700, 1231),
    ("money", 790, 791),
    ("bytea", 17, 1001),
    ("bit", 1560, 1561),
    ("varbit", 1562, 1563),
    ("date", 1082, 1182),
    ("timestamp", 1114, 1115),
    ("timestamptz", 1184, 1185),
    ("time", 1083, 1183),
    ("timetz", 1266, 1270),
    ("interval", 1186, 1187),
    ("uuid", 2950, 2951),
    ("json", 114, 199),
    ("jsonb", 3802, 3807),
    ("xml", 142, 143),
    ("point", 600, 1017),
    ("tsvector", 3614, 3643),
    // Strings, of which there are arrays.
    ("text", 25, 1009),
    ("varchar", 1043, 1015),
    ("bpchar", 1042, 1014),
    ("name", 19, 1003),
    ("char", 18, 1002),
    ("inet", 869, 1041),
    ("cidr", 650, 651),
    ("macaddr", 829, 1040),
    ("macaddr8", 774, 775),
];

/// Arrays of other built-in types: their elements are strings. That of `box` has a delimiter of its own.
const ARRAYS: [(u32, u8); 33] = [
    (1006, b','),
    (1008, b','),
    (1010, b','),
    (1011, b','),
    (1012, b','),
    (1013, b','),
    (1018, b','),
    (1019, b','),
    (1020, b';'),
    (1027, b','),
    (629, b','),
    (719, b','),
    (3645, b','),
    (3905, b','),
    (3907, b','),
    (3909, b','),
    (3911, b','),
    (3913, b','),
    (3927, b','),
    (6150, b','),
    (6151, b','),
    (6152, b','),
    (6153, b','),
    (6155, b','),
    (6157, b','),
    (3221, b','),
    (2210, b','),
    (2211, b','),
    (2949, b','),
    (4073, b','),
    (3735, b','),
    (271, b','),
    (2207, b','),
];

impl Kind {
    /// What a column's values become.
    pub(super) fn of(column: &Column, numerics: Numerics) -> Self {
        let modifier = column.type_modifier;
        let by_number =
            BUILT_IN.iter().find(|(_, scalar, array)| [*scalar, *array].contains(&column.type_oid));
        if let Some((name, scalar, _)) = by_number {
            let kind = Self::named(name, modifier, numerics);
            return if *scalar == column.type_oid { kind } else { Self::Array(Box::new(kind), b',') };
        }
        if let Some((_, delimiter)) = ARRAYS.iter().find(|(array, _)| *array == column.type_oid) {
            return Self::Array(Box::new(Self::Text(None)), *delimiter);
        }
        let Some((schema, name)) = &column.type_name else { return Self::Text(None) };
        let is_built_in = schema.is_empty() || schema == "pg_catalog";
        let of = |name: &str| match name {
            name if is_built_in => Self::named(name, modifier, numerics),
            "hstore" => Self::Hstore,
            "ltree" => Self::Text(Some("io.debezium.data.Ltree")),
            _ => Self::Text(None),
        };
        match name.strip_prefix('_') {
            Some(element) => Self::Array(Box::new(of(element)), if element == "box" { b';' } else { b',' }),
            None => of(name),
        }
    }

    fn named(name: &str, modifier: i32, numerics: Numerics) -> Self {
        let precision = if modifier == NONE { 6 } else { u8::try_from(modifier).unwrap_or(6).min(6) };
        match name {
            "bool" => Self::Boolean,
            "int2" => Self::Int16,
            "int4" => Self::Int32,
            "int8" | "oid" => Self::Int64,
            "float4" => Self::Float,
            "float8" => Self::Double,
            "numeric" => Self::numeric(modifier, numerics),
            "money" => match numerics {
                Numerics::Precise => Self::Decimal { scale: 2, precision: None },
                Numerics::Double => Self::Approximate,
                Numerics::String => Self::Text(None),
            },
            "bytea" => Self::Bytes,
            "bit" | "varbit" if modifier == NONE => Self::Bits(UNLIMITED),
            "bit" if modifier == 1 => Self::Bit,
            "bit" | "varbit" => Self::Bits(u32::try_from(modifier).unwrap_or(UNLIMITED)),
            "date" => Self::Date,
            "timestamp" if precision <= 3 => Self::Timestamp,
            "timestamp" => Self::MicroTimestamp,
            "time" if precision <= 3 => Self::Time,
            "time" => Self::MicroTime,
            "timestamptz" => Self::ZonedTimestamp { width: precision },
            "timetz" => Self::ZonedTime,
            "interval" => Self::Duration,
            "uuid" => UUID,
            "json" | "jsonb" => JSON,
            "xml" => XML,
            "point" => Self::Point,
            "tsvector" => Self::Text(Some("io.debezium.data.Tsvector")),
            _ => Self::Text(None),
        }
    }

    fn numeric(modifier: i32, numerics: Numerics) -> Self {
        match numerics {
            Numerics::Double => Self::Approximate,
            Numerics::String => Self::Text(None),
            Numerics::Precise if modifier < HEADER => Self::VariableDecimal,
            Numerics::Precise => {
                let packed = modifier - HEADER;
                // Eleven bits with a sign (numeric.c, "numeric_typmod_scale").
                let scale = ((packed & 0x7ff) ^ 1024) - 1024;
                Self::Decimal { scale, precision: Some((packed >> 16) as u32 & 0xffff) }
            }
        }
    }

    /// The schema of a value, as Kafka's `JsonConverter` writes it; `name` is the field's.
    pub(super) fn write_schema(&self, name: Option<&str>, optional: bool, out: &mut Vec<u8>) {
        let simple = |kind: &str| format!("{{\"type\":\"{kind}\",\"optional\":{optional}");
        let named = |kind: &str, name: &str| format!("{},\"name\":\"{name}\",\"version\":1", simple(kind));
        let text = match self {
            Self::Boolean | Self::Bit => simple("boolean"),
            Self::Int16 => simple("int16"),
            Self::Int32 => simple("int32"),
            Self::Int64 => simple("int64"),
            Self::Float => simple("float"),
            Self::Double | Self::Approximate => simple("double"),
            Self::Text(None) => simple("string"),
            Self::Text(Some(name)) => named("string", name),
            Self::Hstore => named("string", "io.debezium.data.Json"),
            Self::Bytes => simple("bytes"),
            Self::Decimal { scale, precision } => {
                let precision = precision.map_or_else(String::new, |digits| {
                    format!(",\"connect.decimal.precision\":\"{digits}\"")
                });
                format!(
                    "{},\"parameters\":{{\"scale\":\"{scale}\"{precision}}}",
                    named("bytes", "org.apache.kafka.connect.data.Decimal")
                )
            }
            Self::VariableDecimal => {
                format!(
                    "{{\"type\":\"struct\",\"fields\":[{{\"type\":\"int32\",\"optional\":false,\"field\":\"scale\"}},{{\"type\":\"bytes\",\"optional\":false,\"field\":\"value\"}}],\"optional\":{optional},\"name\":\"io.debezium.data.VariableScaleDecimal\",\"version\":1,\"doc\":\"Variable scaled decimal\""
                )
            }
            Self::Bits(length) => {
                format!(
                    "{},\"parameters\":{{\"length\":\"{length}\"}}",
                    named("bytes", "io.debezium.data.Bits")
                )
            }
            Self::Date => named("int32", "io.debezium.time.Date"),
            Self::Timestamp => named("int64", "io.debezium.time.Timestamp"),
            Self::MicroTimestamp => named("int64", "io.debezium.time.MicroTimestamp"),
            Self::Time => named("int32", "io.debezium.time.Time"),
            Self::MicroTime => named("int64", "io.debezium.time.MicroTime"),
            Self::ZonedTimestamp { .. } => named("string", "io.debezium.time.ZonedTimestamp"),
            Self::ZonedTime => named("string", "io.debezium.time.ZonedTime"),
            Self::Duration => named("int64", "io.debezium.time.MicroDuration"),
            Self::Point => {
                format!(
                    "{{\"type\":\"struct\",\"fields\":[{{\"type\":\"double\",\"optional\":false,\"field\":\"x\"}},{{\"type\":\"double\",\"optional\":false,\"field\":\"y\"}},{{\"type\":\"bytes\",\"optional\":true,\"field\":\"wkb\"}},{{\"type\":\"int32\",\"optional\":true,\"field\":\"srid\"}}],\"optional\":{optional},\"name\":\"io.debezium.data.geometry.Point\",\"version\":1,\"doc\":\"Geometry (POINT)\""
                )
            }
            Self::Array(element, _) => {
                out.extend_from_slice(b"{\"type\":\"array\",\"items\":");
                element.write_schema(None, true, out);
                format!(",\"optional\":{optional}")
            }
        };
        out.extend_from_slice(text.as_bytes());
        if let Some(name) = name {
            out.extend_from_slice(b",\"field\":");
            json::text(name, out);
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(type_oid: u32, type_modifier: i32, type_name: Option<(&str, &str)>) -> Kind {
        let type_name = type_name.map(|(schema, name)| (schema.to_owned(), name.to_owned()));
        let column = Column { name: "c".to_owned(), key: false, type_oid, type_modifier, type_name };
        Kind::of(&column, Numerics::Precise)
    }

    #[test]
    fn a_type_is_known_by_number_and_by_name() {
        assert_eq!(kind(23, -1, None), Kind::Int32);
        assert_eq!(kind(1007, -1, None), Kind::Array(Box::new(Kind::Int32), b','));
        assert_eq!(kind(1020, -1, None), Kind::Array(Box::new(Kind::Text(None)), b';'));
        assert_eq!(kind(3904, -1, None), Kind::Text(None), "a range");
        // Domains: of a number, of an array.
        assert_eq!(kind(20_000, -1, Some(("pg_catalog", "int4"))), Kind::Int32);
        assert_eq!(kind(20_000, -1, Some(("", "_int4"))), Kind::Array(Box::new(Kind::Int32), b','));
        assert_eq!(kind(20_000, -1, Some(("pg_catalog", "numeric"))), Kind::VariableDecimal);
        assert_eq!(kind(20_000, -1, Some(("pg_catalog", "bit"))), Kind::Bits(UNLIMITED));
        assert_eq!(kind(20_000, -1, Some(("public", "mood"))), Kind::Text(None));
        assert_eq!(kind(20_000, -1, Some(("public", "int4"))), Kind::Text(None), "somebody's own");
        assert_eq!(
            kind(20_000, -1, Some(("public", "_mood"))),
            Kind::Array(Box::new(Kind::Text(None)), b',')
        );
        assert_eq!(kind(20_000, -1, Some(("public", "hstore"))), Kind::Hstore);
    }

    #[test]
    fn a_modifier_says_how_exact_a_value_is() {
        assert_eq!(kind(1700, -1, None), Kind::VariableDecimal);
        assert_eq!(kind(1700, 786_439, None), Kind::Decimal { scale: 3, precision: Some(12) });
        // numeric(5, -3)
        assert_eq!(
            kind(1700, (5 << 16 | (-3 & 0x7ff)) + 4, None),
            Kind::Decimal { scale: -3, precision: Some(5) }
        );
        assert_eq!((kind(1114, -1, None), kind(1114, 4, None)), (Kind::MicroTimestamp, Kind::MicroTimestamp));
        assert_eq!((kind(1114, 3, None), kind(1114, 0, None)), (Kind::Timestamp, Kind::Timestamp));
        assert_eq!((kind(1083, 3, None), kind(1083, 6, None)), (Kind::Time, Kind::MicroTime));
        assert_eq!(kind(1184, 3, None), Kind::ZonedTimestamp { width: 3 });
        assert_eq!(kind(1184, -1, None), Kind::ZonedTimestamp { width: 6 });
        assert_eq!((kind(1560, 1, None), kind(1560, 5, None)), (Kind::Bit, Kind::Bits(5)));
        assert_eq!(kind(1562, -1, None), Kind::Bits(UNLIMITED));
    }
}
