//! Whether rows can travel in binary. Text is what every version and type understands; binary spares both servers the
//! work of printing and reading. It is taken only where every column has the same built-in type at both ends, and of
//! these only such whose binary form is a stable part of the protocol and holds no OIDs of the source.

use irongate_postgres::catalog::Column;
use tokio_postgres::types::{Kind, Type};

/// Whether a column's values have the same binary form at both ends.
pub(super) fn is_alike(source: &Column, target: &Column) -> bool {
    // A domain's values travel as those of the type below, but its OID differs.
    source.type_oid == target.type_oid && is_stable(source.type_oid)
}

fn is_stable(oid: u32) -> bool {
    let Some(known) = Type::from_oid(oid) else { return false };
    // The header of an array names its element type by OID, which for these is the same everywhere.
    let element = match known.kind() {
        Kind::Array(element) => element.clone(),
        _ => known,
    };
    matches!(
        element,
        Type::BOOL
            | Type::BYTEA
            | Type::INT2
            | Type::INT4
            | Type::INT8
            | Type::OID
            | Type::FLOAT4
            | Type::FLOAT8
            | Type::NUMERIC
            | Type::TEXT
            | Type::VARCHAR
            | Type::BPCHAR
            | Type::CHAR
            | Type::NAME
            | Type::DATE
            | Type::TIME
            | Type::TIMETZ
            | Type::TIMESTAMP
            | Type::TIMESTAMPTZ
            | Type::INTERVAL
            | Type::UUID
            | Type::JSON
            | Type::JSONB
            | Type::BIT
            | Type::VARBIT
            | Type::INET
            | Type::CIDR
            | Type::MACADDR
            | Type::MACADDR8
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_the_source_alone_and_unstable_ones_go_as_text() {
        for stable in [Type::INT4, Type::TEXT, Type::NUMERIC, Type::INT4_ARRAY, Type::JSONB, Type::UUID_ARRAY]
        {
            assert!(is_stable(stable.oid()), "{stable}");
        }
        for other in
            [Type::MONEY.oid(), Type::XML.oid(), Type::REGCLASS.oid(), Type::INT4_RANGE.oid(), 16_400, 0]
        {
            assert!(!is_stable(other), "{other}");
        }
    }
}
