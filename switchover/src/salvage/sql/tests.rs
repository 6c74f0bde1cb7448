use super::*;

fn column(name: &str, cast: &str) -> TargetColumn {
    TargetColumn {
        name: name.to_owned(),
        type_oid: 0,
        type_modifier: -1,
        cast: cast.to_owned(),
        cast_is_function: false,
        domain: false,
        equals: Some("OPERATOR(pg_catalog.=)".to_owned()),
        collation: None,
        has_spellings: false,
        not_null: false,
        generated: false,
        default: false,
        identity_always: false,
    }
}

fn table() -> TargetTable {
    TargetTable {
        schema: "public".into(),
        name: "person".into(),
        partitioned: false,
        columns: vec![
            TargetColumn { not_null: true, ..column("id", "integer") },
            column("name", "text"),
            TargetColumn { generated: true, ..column("twice", "integer") },
            TargetColumn { identity_always: true, ..column("n", "bigint") },
            TargetColumn { equals: None, ..column("more", "json") },
        ],
        unique: vec![vec![0]],
        constraints: 1,
        has_triggers: false,
        has_rules: false,
        row_security: false,
    }
}

fn names() -> Vec<String> {
    table().columns.into_iter().map(|column| column.name).collect()
}

fn shape(identity: Option<&[&str]>) -> Shape {
    let identity = identity.map(|names| names.iter().map(|&name| name.to_owned()).collect());
    Shape::new(("public".into(), "person".into()), Some(table()), identity, &names())
}

fn fields(of: &[(&str, &str)]) -> Fields {
    let cell = |text: &str| match text {
        "?" => Cell::Unchanged,
        "-" => Cell::Null,
        text => Cell::Text(text.to_owned()),
    };
    Fields(of.iter().map(|(name, text)| ((*name).to_owned(), cell(text))).collect())
}

fn change(
    operation: Operation,
    key: &[(&str, &str)],
    old: Option<&[(&str, &str)]>,
    new: &[(&str, &str)],
) -> Change {
    Change {
        number: 1,
        table: TableName { schema: "public".into(), table: "person".into() },
        operation,
        key: fields(key),
        old: old.map(fields),
        new: (operation != Operation::Delete).then(|| fields(new)),
        truncated: Vec::new(),
        there: None,
    }
}

fn sql(shape: &Shape, change: &Change, insist: Insist<'_>) -> String {
    shape.repeat(change, insist).unwrap().sql()
}

#[test]
fn an_insert_writes_what_can_be_written_and_over_nobody() {
    let shape = shape(Some(&["id"]));
    let new: &[(&str, &str)] = &[("id", "1"), ("name", "it's\\"), ("twice", "2"), ("n", "9"), ("more", "-")];
    let insert = change(Operation::Insert, &[("id", "1")], None, new);
    assert_eq!(
        sql(&shape, &insert, Insist::Unchanged(None)),
        "INSERT INTO \"public\".\"person\" (\"id\", \"name\", \"n\", \"more\") OVERRIDING SYSTEM VALUE VALUES \
         ('1'::integer, E'it''s\\\\'::text, '9'::bigint, NULL::json) ON CONFLICT DO NOTHING"
    );
    let over = sql(&shape, &insert, Insist::Nothing);
    assert!(
        over.ends_with(
            "ON CONFLICT (\"id\") DO UPDATE SET \"name\" = excluded.\"name\", \"more\" = excluded.\"more\""
        ),
        "{over}"
    );
}

#[test]
fn an_update_writes_what_changed_where_the_row_is_as_it_was() {
    let by_key = shape(Some(&["id"]));
    let new: &[(&str, &str)] = &[("id", "1"), ("name", "b"), ("twice", "2"), ("more", "?")];
    let update = change(Operation::Update, &[("id", "1")], None, new);
    let careful = sql(&by_key, &update, Insist::Unchanged(Some("734")));
    assert!(
        careful.starts_with(
            "UPDATE ONLY \"public\".\"person\" AS t SET \"name\" = 'b'::text \
             WHERE t.\"id\" OPERATOR(pg_catalog.=) '1'::integer AND (pg_catalog.age(t.xmin) >= pg_catalog.age('734'"
        ),
        "{careful}"
    );
    let bold = sql(&by_key, &update, Insist::Nothing);
    assert!(bold.ends_with("WHERE t.\"id\" OPERATOR(pg_catalog.=) '1'::integer"), "{bold}");

    // The whole old row tells, and its key is that of an index at the live site.
    let full = shape(None);
    assert_eq!(full.key, ["id"]);
    let old: &[(&str, &str)] = &[("id", "1"), ("name", "a"), ("more", "{}")];
    let update = change(Operation::Update, &[("id", "1")], Some(old), new);
    let careful = sql(&full, &update, Insist::Unchanged(Some("734")));
    assert!(
        careful.ends_with(
            "pg_catalog.record_image_eq(ROW(t.\"id\"::integer, t.\"name\"::text, t.\"more\"::json), \
             ROW('1'::integer, 'a'::text, '{}'::json))"
        ),
        "{careful}"
    );
}

#[test]
fn an_update_that_changes_nothing_still_looks_for_its_row() {
    let update = change(Operation::Update, &[("id", "1")], None, &[("id", "1")]);
    let sql = sql(&shape(Some(&["id"])), &update, Insist::Nothing);
    assert!(sql.contains("SET \"id\" = t.\"id\" WHERE"), "{sql}");
}

#[test]
fn a_column_that_no_update_may_set_makes_the_row_anew() {
    let shape = shape(Some(&["id"]));
    let new: &[(&str, &str)] = &[("id", "1"), ("n", "8"), ("more", "?")];
    let update = change(Operation::Update, &[("id", "1")], None, new);
    let statement = shape.repeat(&update, Insist::Nothing).unwrap();
    assert!(statement.sql().starts_with("WITH d AS (DELETE FROM ONLY \"public\".\"person\" AS t WHERE "));
    assert!(statement.sql().ends_with("VALUE SELECT '1'::integer, '8'::bigint, d.\"more\" FROM d"));
    let guarded = statement.guarded("change 1");
    assert!(
        guarded.starts_with("WITH d AS (DELETE") && guarded.contains("),\ndone AS (\n  INSERT INTO"),
        "{guarded}"
    );
}

#[test]
fn without_a_key_one_of_the_equal_rows_is_taken() {
    let mut keyless = table();
    keyless.unique.clear();
    let shape = Shape::new(("public".into(), "person".into()), Some(keyless), None, &names());
    assert!(shape.key.is_empty());
    let delete = change(Operation::Delete, &[], Some(&[("id", "1"), ("name", "-")]), &[]);
    let sql = sql(&shape, &delete, Insist::Unchanged(Some("7")));
    assert!(
        sql.contains("WHERE t.ctid = (SELECT t.ctid FROM ONLY \"public\".\"person\" AS t WHERE pg_catalog.record_image_eq("),
        "{sql}"
    );
    let nothing = change(Operation::Delete, &[], None, &[]);
    assert_eq!(shape.repeat(&nothing, Insist::Nothing), None);
}

#[test]
fn without_the_live_site_values_take_the_columns_types() {
    let shape = Shape::new(("s".into(), "t".into()), None, Some(vec!["id".into()]), &names());
    let update =
        change(Operation::Update, &[("id", "1")], Some(&[("id", "1"), ("name", "-")]), &[("name", "b")]);
    assert_eq!(
        sql(&shape, &update, Insist::Unchanged(None)),
        "UPDATE \"s\".\"t\" AS t SET \"name\" = 'b' WHERE t.\"id\" = '1' AND t.\"id\" IS NOT DISTINCT FROM '1' \
         AND t.\"name\" IS NOT DISTINCT FROM NULL"
    );
}
