//! Values that were captured in binary, made into text by a server: nobody else knows how it prints them.

use std::collections::HashMap;
use std::error::Error as StdError;

use bytes::BytesMut;
use irongate_postgres::Session;
use irongate_postgres::sql::quote_identifier;
use tokio_postgres::Statement;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use super::change::{Cell, Fields};
use super::intake::Raw;
use super::problem::Problem;
use crate::error::Error;

/// A value in its type's binary form.
#[derive(Debug)]
struct Sent<'a>(&'a [u8]);

impl ToSql for Sent<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.extend_from_slice(self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Binary
    }

    to_sql_checked!();
}

/// Asks for texts.
#[derive(Debug)]
pub(super) struct Texts<'a> {
    session: Option<&'a Session>,
    statements: HashMap<Vec<u32>, Statement>,
}

impl<'a> Texts<'a> {
    pub(super) fn new(session: Option<&'a Session>) -> Self {
        Self { session, statements: HashMap::new() }
    }

    /// Makes text of every binary value of a change.
    pub(super) async fn convert(&mut self, raw: &mut Raw) -> Result<(), Error> {
        for fields in [&mut raw.key, &mut raw.old, &mut raw.new].into_iter().flatten() {
            self.convert_fields(fields).await?;
        }
        Ok(())
    }

    async fn convert_fields(&mut self, fields: &mut Fields) -> Result<(), Error> {
        let binary = fields.0.iter().filter_map(|(_, cell)| match cell {
            Cell::Binary(oid, bytes) => Some((*oid, Sent(bytes))),
            _ => None,
        });
        let (oids, values): (Vec<u32>, Vec<Sent<'_>>) = binary.unzip();
        if oids.is_empty() {
            return Ok(());
        }
        let failed = |source: irongate_postgres::Error| {
            let (end, doing) =
                ("either site".to_owned(), "print values that were captured in binary".to_owned());
            Error::Database { end, doing, source: Box::new(source) }
        };
        let session = self.session.ok_or_else(|| failed(irongate_postgres::Error::Closed(None)))?;
        if !self.statements.contains_key(&oids) {
            let mut columns = Vec::new();
            for (number, oid) in oids.iter().enumerate() {
                let known =
                    Type::from_oid(*oid).ok_or(Problem::Capture(irongate_capture::Error::Malformed {
                        lsn: irongate_trail::Lsn::ZERO,
                        source: irongate_trail::Malformed("a binary value of a type that is not built in"),
                    }))?;
                let name = quote_identifier(known.name());
                // Unlike a cast, it prints every type by the type's own function.
                columns.push(format!("pg_catalog.format('%s', ${}::pg_catalog.{name})", number + 1));
            }
            let sql = format!("SELECT {}", columns.join(", "));
            let statement = session.prepare(&sql).await.map_err(|error| failed(error.into()))?;
            self.statements.insert(oids.clone(), statement);
        }
        let parameters: Vec<&(dyn ToSql + Sync)> =
            values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let row = session
            .query_one(&self.statements[&oids], &parameters)
            .await
            .map_err(|error| failed(error.into()))?;
        let mut texts = Vec::new();
        for place in 0..oids.len() {
            texts.push(row.try_get::<_, String>(place).map_err(|error| failed(error.into()))?);
        }
        let mut texts = texts.into_iter();
        for (_, cell) in &mut fields.0 {
            if matches!(cell, Cell::Binary(..))
                && let Some(text) = texts.next()
            {
                *cell = Cell::Text(text);
            }
        }
        Ok(())
    }
}
