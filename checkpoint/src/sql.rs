//! The few values that travel between this crate and a server: LSNs and times, without loss.

use bytes::{BufMut, BytesMut};
use irongate_trail::{Lsn, Timestamp};
use postgres_types::{FromSql, IsNull, PgLsn, ToSql, Type, accepts, to_sql_checked};

/// A [`Timestamp`] as `timestamptz`, whose binary form counts the same microseconds from the same epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SqlTime(pub(crate) Timestamp);

impl ToSql for SqlTime {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_i64(self.0.0);
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for SqlTime {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(Timestamp(i64::from_be_bytes(raw.try_into()?))))
    }

    accepts!(TIMESTAMPTZ);
}

pub(crate) fn to_pg(lsn: Lsn) -> PgLsn {
    PgLsn::from(lsn.0)
}

pub(crate) fn from_pg(lsn: PgLsn) -> Lsn {
    Lsn(lsn.into())
}
