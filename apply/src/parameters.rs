//! Values on their way to the server, in the forms that its parameters take.

use std::error::Error as StdError;

use bytes::{BufMut, BytesMut};
use irongate_trail::{Row, Value};
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use crate::batch::{Batch, Change};
use crate::statement::{Parameter, key_tuple};

/// One value, in the form in which the trail has it, for a parameter of whatever type.
#[derive(Debug)]
pub(crate) struct Single<'a>(pub(crate) Value<'a>);

impl Single<'_> {
    pub(crate) fn len(&self) -> usize {
        match self.0 {
            Value::Text(bytes) | Value::Binary(bytes) => bytes.len(),
            Value::Null | Value::Unchanged => 0,
        }
    }
}

impl ToSql for Single<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        match self.0 {
            Value::Text(bytes) | Value::Binary(bytes) => {
                out.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
            Value::Null => Ok(IsNull::Yes),
            Value::Unchanged => Err("a value that the source did not send cannot be written".into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        if matches!(self.0, Value::Binary(_)) { Format::Binary } else { Format::Text }
    }

    to_sql_checked!();
}

/// A column of many rows: an array of texts in its binary form (`array_recv` in the server's sources).
#[derive(Debug)]
pub(crate) struct Column {
    bytes: Vec<u8>,
}

/// Bytes before the first element: dimensions, flags, element type, length, lower bound.
const ARRAY_HEADER: usize = 20;

impl Column {
    fn new(rows: usize) -> Self {
        let mut bytes = Vec::with_capacity(ARRAY_HEADER + rows * 16);
        bytes.put_i32(1);
        bytes.put_i32(1);
        bytes.put_u32(Type::TEXT.oid());
        bytes.put_i32(i32::try_from(rows).unwrap_or(i32::MAX));
        bytes.put_i32(1);
        Self { bytes }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    fn push(&mut self, value: Value<'_>) {
        match value {
            Value::Text(text) | Value::Binary(text) => {
                self.bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
                self.bytes.extend_from_slice(text);
            }
            Value::Null | Value::Unchanged => self.bytes.extend_from_slice(&(-1_i32).to_be_bytes()),
        }
    }
}

impl ToSql for Column {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT_ARRAY
    }

    to_sql_checked!();
}

/// The columns of a set of rows for a statement's parameters.
pub(crate) fn columns(batch: &Batch, rows: &[u32], parameters: &[Parameter]) -> Vec<Column> {
    let mut columns: Vec<Column> = parameters.iter().map(|_| Column::new(rows.len())).collect();
    let (mut new, mut key) = (Vec::new(), Vec::new());
    let by_key = parameters.iter().any(|parameter| parameter.key);
    for row in rows {
        let Change::Row { row, .. } = batch.change(*row as usize) else { continue };
        gather(row, by_key, &mut new, &mut key);
        for (parameter, column) in parameters.iter().zip(&mut columns) {
            let values = if parameter.key { &key } else { &new };
            column.push(values.get(parameter.column).copied().unwrap_or(Value::Null));
        }
    }
    columns
}

/// The values of one row for a statement's parameters.
pub(crate) fn values<'a>(row: Row<'a>, parameters: &[Parameter]) -> Vec<Single<'a>> {
    let (mut new, mut key) = (Vec::new(), Vec::new());
    gather(row, true, &mut new, &mut key);
    let value = |parameter: &Parameter| {
        let values = if parameter.key { &key } else { &new };
        Single(values.get(parameter.column).copied().unwrap_or(Value::Null))
    };
    parameters.iter().map(value).collect()
}

#[inline]
fn gather<'a>(row: Row<'a>, by_key: bool, new: &mut Vec<Value<'a>>, key: &mut Vec<Value<'a>>) {
    new.clear();
    key.clear();
    if let Some(tuple) = row.new() {
        new.extend(tuple.values());
    }
    if by_key && let Some(tuple) = key_tuple(row) {
        key.extend(tuple.values());
    }
}

/// Rows in COPY's text form (PostgreSQL manual, "COPY", "Text Format").
pub(crate) fn copy_rows(batch: &Batch, rows: &[u32], parameters: &[Parameter], out: &mut BytesMut) {
    let (mut new, mut key) = (Vec::new(), Vec::new());
    for row in rows {
        let Change::Row { row, .. } = batch.change(*row as usize) else { continue };
        gather(row, false, &mut new, &mut key);
        for (place, parameter) in parameters.iter().enumerate() {
            if place > 0 {
                out.put_u8(b'\t');
            }
            match new.get(parameter.column) {
                Some(Value::Text(text) | Value::Binary(text)) => copy_text(text, out),
                _ => out.put_slice(b"\\N"),
            }
        }
        out.put_u8(b'\n');
    }
}

fn copy_text(mut text: &[u8], out: &mut BytesMut) {
    // Tab, newline and carriage return lie below every printing character, so one comparison rules most bytes out.
    while let Some(at) = text.iter().position(|byte| *byte == b'\\' || *byte < b' ') {
        out.put_slice(&text[..at]);
        match text[at] {
            b'\\' => out.put_slice(b"\\\\"),
            b'\t' => out.put_slice(b"\\t"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            other => out.put_u8(other),
        }
        text = &text[at + 1..];
    }
    out.put_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_escapes_what_would_end_a_value() {
        let mut out = BytesMut::new();
        copy_text(b"a\tb\nc\rd\\e\x07f", &mut out);
        assert_eq!(&out[..], b"a\\tb\\nc\\rd\\\\e\x07f");
    }
}
