use super::*;

const ALL: Facets = Facets { indexes: true, triggers: true, comments: true, grants: true, owners: true };

fn column(id: u32, name: &str, kind: &str, more: &str) -> String {
    format!(
        r#"{{"id": {id}, "name": "{name}", "type": "{kind}", "collation": null, "not_null": false, "default": null, "generated": "",
            "identity": "", "storage": "p", "compression": "", "inherited": false, "missing": null, "comment": null{more}}}"#
    )
}

fn object(columns: &[String], more: &str) -> Object {
    // Of two keys of one name the later counts.
    let text = format!(
        r#"{{"kind": "table", "schema": "s", "name": "t", "owner": "o", "unlogged": false, "partition_key": null, "parents": null,
            "bound": null, "replica_identity": "d", "identity_index": null, "options": null, "comment": null, "grants": null,
            "columns": [{}], "constraints": [], "indexes": [], "triggers": []}}"#,
        columns.join(", ")
    );
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let more: serde_json::Value = serde_json::from_str(more).unwrap();
    for (key, of) in more.as_object().unwrap() {
        value[key] = of.clone();
    }
    serde_json::from_value(value).unwrap()
}

fn now(wanted: &Object, found: &Object) -> Vec<String> {
    alter(wanted, found, ALL).now.into_iter().map(|statement| statement.sql).collect()
}

#[test]
fn what_is_alike_is_left_alone() {
    let table = object(&[column(1, "id", "integer", "")], "{}");
    assert_eq!(alter(&table, &table, ALL), Work::default());
    assert!(parts(&table, &table).is_empty());
}

#[test]
fn a_column_is_told_by_its_number_and_only_what_the_source_had_goes() {
    let before = r#"{"before": {"schema": "s", "name": "t", "columns": {"1": {"name": "id"}, "2": {"name": "old"}, "3": {"name": "gone"}}}}"#;
    let wanted = object(&[column(1, "id", "integer", ""), column(2, "new", "text", "")], before);
    let found = object(
        &[
            column(1, "id", "integer", ""),
            column(2, "old", "text", ""),
            column(3, "gone", "text", ""),
            column(4, "mine", "text", ""),
        ],
        "{}",
    );
    let renames: Vec<String> = parts(&wanted, &found).into_iter().map(|statement| statement.sql).collect();
    assert_eq!(renames, [r#"ALTER TABLE "s"."t" RENAME COLUMN "old" TO "new""#]);
    let found = object(
        &[
            column(1, "id", "integer", ""),
            column(2, "new", "text", ""),
            column(3, "gone", "text", ""),
            column(4, "mine", "text", ""),
        ],
        "{}",
    );
    assert_eq!(now(&wanted, &found), [r#"ALTER TABLE "s"."t" DROP COLUMN "gone""#]);
}

#[test]
fn a_column_in_the_place_of_one_that_was_dropped_is_another_one() {
    let before = r#"{"before": {"schema": "s", "name": "t", "columns": {"1": {"name": "id"}, "2": {"name": "a"}, "3": {"name": "g"}},
        "constraints": {"9": "f"}}}"#;
    let wanted = object(&[column(1, "id", "integer", ""), column(4, "a", "integer", "")], before);
    let computed = column(3, "g", "integer", r#", "generated": "s""#);
    let foreign = r#"{"constraints": [{"id": 1, "name": "f", "type": "f", "definition": "FOREIGN KEY (a) REFERENCES s.u(n)", "comment": null}]}"#;
    let found = object(&[column(1, "id", "integer", ""), column(2, "a", "integer", ""), computed], foreign);
    let sql = |statements: Vec<Statement>| -> Vec<String> {
        statements.into_iter().map(|statement| statement.sql).collect()
    };
    assert_eq!(
        sql(replaced(&wanted, &found, ALL)),
        [
            r#"ALTER TABLE "s"."t" DROP CONSTRAINT "f""#,
            r#"ALTER TABLE "s"."t" DROP COLUMN "g""#,
            r#"ALTER TABLE "s"."t" DROP COLUMN "a""#
        ]
    );
    let found = object(&[column(1, "id", "integer", "")], "{}");
    assert_eq!(now(&wanted, &found), [r#"ALTER TABLE "s"."t" ADD COLUMN "a" integer"#]);
    // What comes from a parent is the parent's business.
    let parents = r#"{"parents": [{"schema": "s", "name": "p"}], "before": {"schema": "s", "name": "t", "columns": {"2": {"name": "a"}}}}"#;
    let of = |id, kind, default: &str| {
        object(&[column(id, "a", kind, &format!(r#", "inherited": true, "default": "{default}""#))], parents)
    };
    let (wanted, found) = (of(4, "text", "2"), of(2, "integer", "1"));
    assert!(replaced(&wanted, &found, ALL).is_empty() && now(&wanted, &found).is_empty());
}

#[test]
fn older_rows_get_the_value_that_the_source_computed_once() {
    let stable = column(2, "at", "timestamp with time zone", "")
        .replace(r#""default": null"#, r#""default": "now()""#)
        .replace(r#""missing": null"#, r#""missing": "2026-01-01 00:00:00+00""#);
    let wanted = object(&[column(1, "id", "integer", ""), stable], "{}");
    let found = object(&[column(1, "id", "integer", "")], "{}");
    assert_eq!(
        now(&wanted, &found),
        [
            r#"ALTER TABLE "s"."t" ADD COLUMN "at" timestamp with time zone DEFAULT '2026-01-01 00:00:00+00'::timestamp with time zone"#,
            r#"ALTER TABLE "s"."t" ALTER COLUMN "at" SET DEFAULT now()"#
        ]
    );
}

#[test]
fn rows_that_come_again_make_room_first_and_others_are_cast() {
    let found = object(&[column(1, "n", "text", "")], "{}");
    let wanted = object(&[column(1, "n", "integer", "")], r#"{"sent": true}"#);
    assert_eq!(
        now(&wanted, &found),
        [r#"ALTER TABLE "s"."t" ALTER COLUMN "n" TYPE integer"#, r#"DELETE FROM ONLY "s"."t""#]
    );
    assert_eq!(
        alter(&wanted, &found, ALL).now[0].otherwise[1],
        r#"DELETE FROM "s"."t"; ALTER TABLE "s"."t" ALTER COLUMN "n" TYPE integer USING NULL::integer"#
    );
    let wanted = object(&[column(1, "n", "integer", "")], "{}");
    let work = alter(&wanted, &found, ALL);
    assert_eq!(work.now[0].sql, r#"ALTER TABLE "s"."t" ALTER COLUMN "n" TYPE integer"#);
    assert_eq!(
        work.now[0].otherwise,
        [r#"ALTER TABLE "s"."t" ALTER COLUMN "n" TYPE integer USING "n"::text::integer"#]
    );
}

#[test]
fn constraints_are_validated_replaced_and_referred_to_in_the_end() {
    let constraint = |name: &str, sort: &str, definition: &str| {
        format!(
            r#"{{"id": 1, "name": "{name}", "type": "{sort}", "definition": "{definition}", "comment": null}}"#
        )
    };
    let with = |constraints: &[String]| {
        object(
            &[column(1, "n", "integer", "")],
            &format!(r#"{{"constraints": [{}]}}"#, constraints.join(", ")),
        )
    };
    let wanted = with(&[
        constraint("a", "c", "CHECK (n > 1)"),
        constraint("b", "c", "CHECK (n > 2)"),
        constraint("f", "f", "FOREIGN KEY (n) REFERENCES s.u(n)"),
    ]);
    let found =
        with(&[constraint("a", "c", "CHECK (n > 1) NOT VALID"), constraint("b", "c", "CHECK (n > 0)")]);
    let work = alter(&wanted, &found, ALL);
    let sql = |statements: &[Statement]| {
        statements.iter().map(|statement| statement.sql.clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        sql(&work.now),
        [
            r#"ALTER TABLE "s"."t" DROP CONSTRAINT "b""#,
            r#"ALTER TABLE "s"."t" ADD CONSTRAINT "b" CHECK (n > 2)"#
        ]
    );
    assert_eq!(
        sql(&work.then),
        [
            r#"ALTER TABLE "s"."t" VALIDATE CONSTRAINT "a""#,
            r#"ALTER TABLE "s"."t" ADD CONSTRAINT "f" FOREIGN KEY (n) REFERENCES s.u(n)"#
        ]
    );
}

#[test]
fn new_labels_stand_beside_those_that_are_there() {
    let of = |labels: &[&str]| -> Object {
        let labels: Vec<String> = labels
            .iter()
            .enumerate()
            .map(|(n, label)| format!(r#"{{"id": {n}, "name": "{label}"}}"#))
            .collect();
        serde_json::from_str(&format!(
            r#"{{"kind": "type", "schema": "s", "name": "e", "owner": "o", "sort": "e", "comment": null, "labels": [{}], "attributes": null,
                "base": null, "collation": null, "not_null": false, "default": null, "constraints": [], "range": null}}"#,
            labels.join(", ")
        ))
        .unwrap()
    };
    assert_eq!(
        now(&of(&["first", "a", "between", "b", "last"]), &of(&["a", "b"])),
        [
            r#"ALTER TYPE "s"."e" ADD VALUE 'first' BEFORE 'a'"#,
            r#"ALTER TYPE "s"."e" ADD VALUE 'between' AFTER 'a'"#,
            r#"ALTER TYPE "s"."e" ADD VALUE 'last' AFTER 'b'"#
        ]
    );
}

#[test]
fn what_has_another_name_or_schema_is_moved_and_not_made_anew() {
    let wanted = object(&[], "{}");
    let before = Before { schema: Some("old".to_owned()), name: "was".to_owned(), ..Before::default() };
    let statements: Vec<String> =
        names(&wanted, &before).into_iter().map(|statement| statement.sql).collect();
    assert_eq!(
        statements,
        [r#"ALTER TABLE "old"."was" SET SCHEMA "s""#, r#"ALTER TABLE "s"."was" RENAME TO "t""#]
    );
}

#[test]
fn rights_of_others_follow_and_ours_stay() {
    let wanted = object(&[], r#"{"grants": [{"role": null, "privilege": "SELECT", "grantable": false}]}"#);
    let found = object(
        &[],
        r#"{"grants": [{"role": "app", "privilege": "INSERT", "grantable": false}, {"role": "irongate_replicat", "privilege": "INSERT", "grantable": false}]}"#,
    );
    let work = alter(&wanted, &found, ALL);
    assert_eq!(
        work.now
            .iter()
            .map(|statement| (statement.sql.as_str(), statement.role.as_deref()))
            .collect::<Vec<_>>(),
        [
            (r#"REVOKE INSERT ON TABLE "s"."t" FROM "app""#, Some("o")),
            (r#"GRANT SELECT ON TABLE "s"."t" TO PUBLIC"#, Some("o"))
        ]
    );
}
