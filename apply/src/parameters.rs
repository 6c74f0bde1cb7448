//! Values on their way to the server, in the forms that its parameters take.

use std::error::Error as StdError;
use std::str::FromStr;

use bytes::{BufMut, BytesMut};
use irongate_trail::{Row, Value};
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use crate::batch::{Batch, Change};
use crate::statement::{Element, Parameter, key_tuple};

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

/// A column of many rows: an array in its binary form (`array_recv` in the server's sources).
#[derive(Debug)]
pub(crate) struct Column {
    bytes: Vec<u8>,
    element: Element,
}

/// Bytes before the first element: dimensions, flags, element type, length, lower bound.
const ARRAY_HEADER: usize = 20;

impl Column {
    fn new(rows: usize, element: Element) -> Self {
        let mut bytes = Vec::with_capacity(ARRAY_HEADER + rows * 16);
        bytes.put_i32(1);
        bytes.put_i32(1);
        bytes.put_u32(element.type_of().oid());
        bytes.put_i32(i32::try_from(rows).unwrap_or(i32::MAX));
        bytes.put_i32(1);
        Self { bytes, element }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// False where a value is no number.
    #[inline]
    fn push(&mut self, value: Value<'_>) -> bool {
        let (Value::Text(text) | Value::Binary(text)) = value else {
            self.bytes.extend_from_slice(&(-1_i32).to_be_bytes());
            return true;
        };
        match self.element {
            Element::Text => self.put(text),
            Element::Int2 => number(text).is_some_and(|number: i16| self.put(&number.to_be_bytes())),
            Element::Int4 => number(text).is_some_and(|number: i32| self.put(&number.to_be_bytes())),
            Element::Int8 => number(text).is_some_and(|number: i64| self.put(&number.to_be_bytes())),
        }
    }

    #[inline]
    fn put(&mut self, element: &[u8]) -> bool {
        self.bytes.extend_from_slice(&(element.len() as u32).to_be_bytes());
        self.bytes.extend_from_slice(element);
        true
    }
}

#[inline]
fn number<T: FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl ToSql for Column {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        [Type::TEXT_ARRAY, Type::INT2_ARRAY, Type::INT4_ARRAY, Type::INT8_ARRAY].contains(ty)
    }

    to_sql_checked!();
}

/// The columns of a set of rows for a statement's parameters. `None` where a value is no number although its column's type at
/// the source is: the server has to say what it thinks of it.
pub(crate) fn columns(batch: &Batch, rows: &[u32], parameters: &[Parameter]) -> Option<Vec<Column>> {
    let column = |parameter: &Parameter| Column::new(rows.len(), parameter.element);
    let mut columns: Vec<Column> = parameters.iter().map(column).collect();
    let (mut new, mut key) = (Vec::new(), Vec::new());
    let by_key = parameters.iter().any(|parameter| parameter.key);
    for row in rows {
        let Change::Row { row, .. } = batch.change(*row as usize) else { continue };
        gather(row, by_key, &mut new, &mut key);
        for (parameter, column) in parameters.iter().zip(&mut columns) {
            let values = if parameter.key { &key } else { &new };
            if !column.push(values.get(parameter.column).copied().unwrap_or(Value::Null)) {
                return None;
            }
        }
    }
    Some(columns)
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
    fn whole_numbers_go_in_their_binary_form_and_nothing_else_does() {
        let mut column = Column::new(3, Element::Int4);
        assert!(column.push(Value::Text(b"-7")) && column.push(Value::Null));
        assert!(column.push(Value::Text(b"2147483647")));
        let elements = &column.bytes[ARRAY_HEADER..];
        assert_eq!(
            elements,
            [0, 0, 0, 4, 255, 255, 255, 249, 255, 255, 255, 255, 0, 0, 0, 4, 127, 255, 255, 255]
        );
        for text in [&b"2147483648"[..], b"", b"1.0", b"x", b"\xff"] {
            assert!(!column.push(Value::Text(text)), "{text:?}");
        }
        let mut column = Column::new(1, Element::Int8);
        assert!(column.push(Value::Text(b"-9223372036854775808")));
        assert_eq!(column.bytes[ARRAY_HEADER..], [0, 0, 0, 8, 128, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn copy_escapes_what_would_end_a_value() {
        let mut out = BytesMut::new();
        copy_text(b"a\tb\nc\rd\\e\x07f", &mut out);
        assert_eq!(&out[..], b"a\\tb\\nc\\rd\\\\e\x07f");
    }
}
