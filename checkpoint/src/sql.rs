//! What this crate's SQL shares: the few values that travel between it and a server, LSNs and times, without loss; and who
//! has an advisory lock.

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

/// The statement that asks who has the advisory lock of a key. `pg_locks` shows what is so now, whatever the snapshot of the
/// transaction that asks: the upper half of the key as `classid` and the lower as `objid`, with `objsubid` 1.
macro_rules! claimant {
    ($key:expr) => {
        concat!(
            "SELECT l.pid FROM pg_catalog.pg_locks l, (SELECT pg_catalog.",
            $key,
            " AS key) k WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
             AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
             AND l.classid::bigint = (k.key >> 32) & 4294967295 AND l.objid::bigint = k.key & 4294967295 LIMIT 1"
        )
    };
}
pub(crate) use claimant;
