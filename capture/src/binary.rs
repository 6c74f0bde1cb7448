//! Which types may travel in binary.
//!
//! A value's binary form is safe to hand to another server when it says the same there: fixed layouts of built-in
//! scalar types. Left out are arrays, composites, ranges and everything made by users (they carry the source's OIDs),
//! numbers whose reading depends on settings or on the release (`money`, `tsvector`, `jsonpath`, snapshots), the `reg*`
//! types (an OID means another object elsewhere), and the geometric types, whose text is exact as well.
//!
//! Binary is asked for per connection and not per column, so one column outside of this list turns it off for the flow.

/// Whether values of the type with this OID may travel in binary. The OIDs are PostgreSQL's `pg_type.dat`; built-in
/// OIDs below 10000 never change.
pub fn is_safe(type_oid: u32) -> bool {
    matches!(
        type_oid,
        16 // bool
        | 17 // bytea
        | 18 // "char"
        | 19 // name
        | 20 // int8
        | 21 // int2
        | 23 // int4
        | 25 // text
        | 26 // oid
        | 114 // json
        | 700 // float4
        | 701 // float8
        | 1042 // bpchar
        | 1043 // varchar
        | 1082 // date
        | 1083 // time
        | 1114 // timestamp
        | 1184 // timestamptz
        | 1186 // interval
        | 1266 // timetz
        | 1700 // numeric
        | 2950 // uuid
        | 3802 // jsonb
    )
}

#[cfg(test)]
mod tests {
    use super::is_safe;

    #[test]
    fn types_that_carry_the_sources_oids_stay_text() {
        // _int4, record, int4range, regclass, money and the first OID of users' types.
        for oid in [1007, 2249, 3904, 2205, 790, 16384] {
            assert!(!is_safe(oid), "{oid}");
        }
        assert!(is_safe(23));
    }
}
