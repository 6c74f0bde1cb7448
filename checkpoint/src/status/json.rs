//! How positions and times stand in a status file: so that a person and any JSON reader can use them.

/// Microseconds since 1970-01-01 UTC.
pub(super) mod unix_micros {
    use irongate_trail::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::status) fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(time.unix_micros())
    }

    pub(in crate::status) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(from).map(from_unix)
    }

    pub(super) fn from_unix(micros: i64) -> Timestamp {
        Timestamp(micros.saturating_sub(Timestamp(0).unix_micros()))
    }
}

/// The same, or null.
pub(super) mod optional_unix_micros {
    use irongate_trail::Timestamp;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in crate::status) fn serialize<S: Serializer>(
        time: &Option<Timestamp>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(Timestamp::unix_micros).serialize(to)
    }

    pub(in crate::status) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        Ok(Option::<i64>::deserialize(from)?.map(super::unix_micros::from_unix))
    }
}

/// An LSN as the server prints it, or null.
pub(super) mod lsn {
    use irongate_trail::Lsn;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in crate::status) fn serialize<S: Serializer>(lsn: &Option<Lsn>, to: S) -> Result<S::Ok, S::Error> {
        lsn.map(|lsn| lsn.to_string()).serialize(to)
    }

    pub(in crate::status) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Lsn>, D::Error> {
        Option::<String>::deserialize(from)?.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}
