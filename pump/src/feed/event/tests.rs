use irongate_trail::{Column, Lsn, ReplicaIdentity, ResumeLsn, TupleBuilder, Value};
use serde_json::{Value as Json, json};

use super::*;

fn relation(identity: ReplicaIdentity, columns: &[(&str, u32, bool)]) -> Arc<Relation> {
    let column = |(name, type_oid, key): &(&str, u32, bool)| Column {
        name: (*name).to_owned(),
        key: *key,
        type_oid: *type_oid,
        type_modifier: -1,
        type_name: None,
    };
    Arc::new(Relation {
        id: 16_384,
        schema: "public".to_owned(),
        name: "t".to_owned(),
        replica_identity: identity,
        columns: columns.iter().map(column).collect(),
    })
}

/// `id int PRIMARY KEY, v text, big text`
fn usual(identity: ReplicaIdentity) -> Arc<Relation> {
    let all = identity == ReplicaIdentity::Full;
    relation(identity, &[("id", 23, true), ("v", 25, all), ("big", 25, all)])
}

fn tuple(values: &[&str]) -> TupleBuilder {
    values.iter().fold(TupleBuilder::new(), |tuple, value| match *value {
        "~" => tuple.value(Value::Null),
        "?" => tuple.value(Value::Unchanged),
        text => tuple.text(text),
    })
}

struct World {
    teller: Teller,
    out: Vec<Event>,
}

impl World {
    fn new(change: impl FnOnce(&mut Shape)) -> Self {
        let mut shape = Shape::new("shop", "config");
        change(&mut shape);
        Self { teller: Teller::new(&shape), out: Vec::new() }
    }

    fn tell(&mut self, item: &Item<'_>) -> Result<(), Error> {
        self.teller.tell(item, Timestamp(7_000_000), &mut self.out)
    }

    fn begin(&mut self) {
        let begin = Begin {
            xid: 771,
            commit_lsn: CommitLsn(Lsn(1000)),
            commit_time: Timestamp(5_123_456),
            origin: None,
            previous: CommitLsn(Lsn(3)),
        };
        self.tell(&Item::Begin(begin)).unwrap();
    }

    fn row(&mut self, relation: &Arc<Relation>, row: Row<'_>) -> Result<(), Error> {
        self.tell(&Item::Row { relation, row })
    }

    fn commit(&mut self) {
        let commit = Commit {
            commit_lsn: CommitLsn(Lsn(1000)),
            end_lsn: ResumeLsn(Lsn(1100)),
            commit_time: Timestamp(5_123_456),
            changes: 1,
        };
        self.tell(&Item::Commit(commit)).unwrap();
    }

    /// Topic, key, value and header of every event since the last call.
    fn told(&mut self) -> Vec<(String, Json, Json, Json)> {
        let json = |bytes: Option<&Vec<u8>>| bytes.map_or(Json::Null, |b| serde_json::from_slice(b).unwrap());
        let one = |event: Event| {
            let header = event.header.map_or(Json::Null, |(name, key)| json!([name, json(Some(&key))]));
            (event.topic.to_string(), json(event.key.as_ref()), json(event.value.as_ref()), header)
        };
        self.out.drain(..).map(one).collect()
    }
}

#[test]
fn a_row_is_told_in_debeziums_envelope() {
    let mut world = World::new(|_| {});
    let table = usual(ReplicaIdentity::Default);
    world.begin();
    world.row(&table, Row::Insert { new: tuple(&["1", "a", "~"]).as_tuple() }).unwrap();
    world.commit();
    let told = world.told();
    let micros = 946_684_800_000_000_i64 + 5_123_456;
    let expected = json!({
        "before": null, "after": {"id": 1, "v": "a", "big": null},
        "source": {"version": env!("CARGO_PKG_VERSION"), "connector": "postgresql", "name": "shop",
            "ts_ms": micros / 1000, "snapshot": "false", "db": "config", "sequence": "[\"1000\",\"1\"]",
            "ts_us": micros, "ts_ns": micros * 1000, "schema": "public", "table": "t", "txId": 771, "lsn": 1000,
            "xmin": null, "origin": null, "origin_lsn": null},
        "transaction": null, "op": "c", "ts_ms": 946_684_807_000_i64, "ts_us": 946_684_807_000_000_i64,
        "ts_ns": 946_684_807_000_000_000_i64,
    });
    assert_eq!(told, [("shop.public.t".to_owned(), json!({"id": 1}), expected, Json::Null)]);
}

#[test]
fn updates_and_deletes_have_what_the_replica_identity_has() {
    let mut world = World::new(|_| {});
    let table = usual(ReplicaIdentity::Default);
    world.begin();
    world.row(&table, Row::Update { old: None, new: tuple(&["1", "b", "?"]).as_tuple() }).unwrap();
    world.row(&table, Row::Delete { old: Old::Key(tuple(&["1", "~", "~"]).as_tuple()) }).unwrap();
    let told = world.told();
    assert_eq!(told[0].2["after"], json!({"id": 1, "v": "b", "big": "__debezium_unavailable_value"}));
    assert_eq!((&told[0].2["before"], &told[0].2["op"]), (&Json::Null, &json!("u")));
    assert_eq!(
        (&told[1].2["before"], &told[1].2["op"]),
        (&json!({"id": 1, "v": null, "big": null}), &json!("d"))
    );
    assert_eq!((&told[1].1, &told[1].2["after"]), (&json!({"id": 1}), &Json::Null));
    assert_eq!((&told[2].1, &told[2].2), (&json!({"id": 1}), &Json::Null), "a tombstone");
    assert_eq!(told[1].2["source"]["sequence"], "[\"1000\",\"2\"]");
    assert_eq!(told.len(), 3);

    // Where the whole old row comes, it is told, and has what was not sent.
    let mut world = World::new(|shape| {
        shape.tombstones = false;
        shape.key_columns.insert(("public".to_owned(), "t".to_owned()), vec!["id".to_owned()]);
    });
    let table = usual(ReplicaIdentity::Full);
    let old = tuple(&["1", "a", "long"]);
    world.begin();
    let new = tuple(&["1", "b", "?"]);
    let update = Row::Update { old: Some(Old::Full(old.as_tuple())), new: new.as_tuple() };
    world.row(&table, update).unwrap();
    world.row(&table, Row::Delete { old: Old::Full(old.as_tuple()) }).unwrap();
    let told = world.told();
    assert_eq!(told[0].2["before"], json!({"id": 1, "v": "a", "big": "long"}));
    assert_eq!(told[0].2["after"], json!({"id": 1, "v": "b", "big": "long"}));
    assert_eq!((told.len(), &told[1].1), (2, &json!({"id": 1})), "no tombstone");
}

#[test]
fn a_changed_key_is_a_delete_and_a_create_that_name_each_other() {
    let mut world = World::new(|_| {});
    let table = usual(ReplicaIdentity::Default);
    let old = tuple(&["1", "~", "~"]);
    world.begin();
    let new = tuple(&["2", "b", "?"]);
    world.row(&table, Row::Update { old: Some(Old::Key(old.as_tuple())), new: new.as_tuple() }).unwrap();
    let told = world.told();
    let short: Vec<_> = told.iter().map(|(_, key, value, header)| (key, &value["op"], header)).collect();
    let (one, two) = (json!({"id": 1}), json!({"id": 2}));
    let headers = (json!([NEW_KEY, two]), json!([OLD_KEY, one]));
    assert_eq!(
        short,
        [(&one, &json!("d"), &headers.0), (&one, &Json::Null, &Json::Null), (&two, &json!("c"), &headers.1)]
    );
    assert_eq!(told[2].2["after"], json!({"id": 2, "v": "b", "big": "__debezium_unavailable_value"}));

    // The old key also comes with a key that is TOASTed and the same: that is an update like any other.
    let table = relation(ReplicaIdentity::Default, &[("id", 25, true), ("v", 25, false)]);
    let (old, new) = (tuple(&["long", "~"]), tuple(&["?", "b"]));
    world.row(&table, Row::Update { old: Some(Old::Key(old.as_tuple())), new: new.as_tuple() }).unwrap();
    let told = world.told();
    assert_eq!((told.len(), &told[0].1, &told[0].2["op"]), (1, &json!({"id": "long"}), &json!("u")));
    assert_eq!(told[0].2["after"], json!({"id": "long", "v": "b"}));
    // And of it together with another column of the key.
    let table = relation(ReplicaIdentity::Default, &[("id", 25, true), ("n", 23, true), ("v", 25, false)]);
    let (old, new) = (tuple(&["long", "1", "~"]), tuple(&["?", "2", "?"]));
    world.row(&table, Row::Update { old: Some(Old::Key(old.as_tuple())), new: new.as_tuple() }).unwrap();
    let told = world.told();
    assert_eq!(told[2].1, json!({"id": "long", "n": 2}));
    assert_eq!(told[2].2["after"], json!({"id": "long", "n": 2, "v": "__debezium_unavailable_value"}));
}

#[test]
fn a_table_without_a_key_is_told_without_one() {
    for identity in [ReplicaIdentity::Full, ReplicaIdentity::Nothing] {
        let mut world = World::new(|_| {});
        let all = identity == ReplicaIdentity::Full;
        let table = relation(identity, &[("v", 25, all)]);
        world.begin();
        world.row(&table, Row::Insert { new: tuple(&["a"]).as_tuple() }).unwrap();
        world.row(&table, Row::Delete { old: Old::Full(tuple(&["a"]).as_tuple()) }).unwrap();
        let told = world.told();
        assert_eq!(
            (told.len(), &told[0].1, &told[1].1),
            (2, &Json::Null, &Json::Null),
            "and without tombstones"
        );
    }
}

#[test]
fn truncates_and_messages_are_told_where_they_are_asked_for() {
    let table = usual(ReplicaIdentity::Default);
    let truncate =
        || Item::Truncate { relations: vec![Arc::clone(&table)], cascade: false, restart_identity: false };
    let message = |transactional, prefix| {
        Item::Message(Message { transactional, lsn: Lsn(900), prefix, content: b"hello" })
    };
    let mut world = World::new(|_| {});
    world.tell(&message(false, "app")).unwrap();
    world.begin();
    world.tell(&truncate()).unwrap();
    world.tell(&message(true, "app")).unwrap();
    world.commit();
    assert_eq!(world.told(), []);
    let mut world =
        World::new(|shape| (shape.truncates, shape.messages, shape.schemas) = (true, true, false));
    world.tell(&message(false, "app")).unwrap();
    world.begin();
    world.tell(&truncate()).unwrap();
    world.tell(&message(true, "app")).unwrap();
    world.tell(&message(true, "irongate.own")).unwrap();
    world.commit();
    let told = world.told();
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(
        (&told[0].0[..], &told[0].1, &told[0].2["op"]),
        ("shop.message", &json!({"prefix": "app"}), &json!("m"))
    );
    assert_eq!(told[0].2["message"], json!({"prefix": "app", "content": "aGVsbG8="}));
    assert_eq!(told[0].2["source"]["lsn"], 900);
    assert_eq!(told[0].2["source"]["txId"], Json::Null);
    assert_eq!((&told[1].1, &told[1].2["op"], &told[1].2["after"]), (&Json::Null, &json!("t"), &Json::Null));
    assert_eq!(told[2].2["source"]["txId"], 771);
}

#[test]
fn transactions_are_told_where_they_are_asked_for() {
    let mut world = World::new(|shape| shape.transactions = true);
    let table = usual(ReplicaIdentity::Default);
    world.begin();
    world.commit();
    assert_eq!(world.told(), [], "one with nothing in it is none");
    world.begin();
    world.row(&table, Row::Insert { new: tuple(&["1", "a", "~"]).as_tuple() }).unwrap();
    world.row(&table, Row::Insert { new: tuple(&["2", "a", "~"]).as_tuple() }).unwrap();
    world.commit();
    let told = world.told();
    let topics: Vec<_> = told.iter().map(|(topic, ..)| topic.as_str()).collect();
    assert_eq!(topics, ["shop.transaction", "shop.public.t", "shop.public.t", "shop.transaction"]);
    assert_eq!(told[0].1, json!({"id": "771:1000"}));
    assert_eq!(told[0].2["status"], "BEGIN");
    assert_eq!(
        told[2].2["transaction"],
        json!({"id": "771:1000", "total_order": 2, "data_collection_order": 2})
    );
    assert_eq!((&told[3].2["status"], &told[3].2["event_count"]), (&json!("END"), &json!(2)));
    assert_eq!(told[3].2["data_collections"], json!([{"data_collection": "public.t", "event_count": 2}]));
}

/// What a schema of Kafka Connect says of a value, checked as `JsonConverter` would.
fn fits(schema: &Json, value: &Json) -> bool {
    if value.is_null() {
        return schema["optional"] == true;
    }
    match schema["type"].as_str().unwrap() {
        "struct" => {
            let fields = schema["fields"].as_array().unwrap();
            let object = value.as_object().unwrap();
            object.len() == fields.len()
                && fields.iter().all(|field| fits(field, &object[field["field"].as_str().unwrap()]))
        }
        "array" => value.as_array().unwrap().iter().all(|one| fits(&schema["items"], one)),
        "string" | "bytes" => value.is_string(),
        "boolean" => value.is_boolean(),
        "float" | "double" => value.is_number() || value.is_string(),
        "int16" => value.as_i64().is_some_and(|n| i16::try_from(n).is_ok()),
        "int32" => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        "int64" => value.is_i64(),
        other => panic!("{other}"),
    }
}

#[test]
fn events_with_schemas_are_what_their_schemas_say() {
    let mut world = World::new(|shape| {
        (shape.schemas, shape.transactions, shape.truncates, shape.messages) = (true, true, true, true);
    });
    let columns = [
        ("id", 23, true),
        ("n", 1700, false),
        ("p", 600, false),
        ("a", 1007, false),
        ("ts", 1114, false),
        ("b", 17, false),
        ("f", 701, false),
        ("vb", 1562, false),
        ("an", 1231, false),
    ];
    let table = relation(ReplicaIdentity::Default, &columns);
    let new =
        tuple(&["1", "1.5", "(1,2)", "{1,NULL}", "2024-01-01 00:00:00", "\\x00", "NaN", "101", "{1.5}"]);
    world.begin();
    world.row(&table, Row::Insert { new: new.as_tuple() }).unwrap();
    let old = tuple(&["1", "~", "~", "~", "~", "~", "~", "~", "~"]);
    let moved = tuple(&["2", "?", "~", "?", "~", "?", "~", "?", "?"]);
    world.row(&table, Row::Update { old: Some(Old::Key(old.as_tuple())), new: moved.as_tuple() }).unwrap();
    world
        .tell(&Item::Truncate {
            relations: vec![Arc::clone(&table)],
            cascade: false,
            restart_identity: false,
        })
        .unwrap();
    world
        .tell(&Item::Message(Message { transactional: true, lsn: Lsn(900), prefix: "p", content: b"" }))
        .unwrap();
    world.commit();
    let heartbeat = world.teller.heartbeat(Timestamp(1));
    world.out.push(heartbeat);
    let told = world.told();
    assert_eq!(told.len(), 9, "{told:?}");
    for (topic, key, value, _) in told {
        for part in [key, value].into_iter().filter(|part| !part.is_null()) {
            assert!(fits(&part["schema"], &part["payload"]), "{topic}: {part}");
        }
    }
}

#[test]
fn what_cannot_be_told_stops_with_table_and_remedy_and_no_value() {
    let refused = |world: &mut World, table: &Arc<Relation>, new: &TupleBuilder| {
        world.begin();
        let error = world.row(table, Row::Insert { new: new.as_tuple() }).unwrap_err();
        assert!(!error.is_transient() && error.hint().is_some_and(|hint| !hint.is_empty()));
        let text = error.to_string();
        assert!(text.contains("table \"public.t\" cannot be told"), "{text}");
        text
    };
    let table = relation(ReplicaIdentity::Default, &[("id", 23, true), ("n", 1700, false)]);
    let text = refused(&mut World::new(|_| {}), &table, &tuple(&["1", "NaN"]));
    assert!(text.contains("column \"n\" holds NaN"), "{text}");
    let mut world = World::new(|shape| shape.numerics = crate::feed::Numerics::String);
    world.begin();
    world.row(&table, Row::Insert { new: tuple(&["1", "NaN"]).as_tuple() }).unwrap();
    let text = refused(&mut World::new(|_| {}), &table, &tuple(&["secret", "1"]));
    assert!(!text.contains("secret"), "{text}");
    refused(&mut World::new(|_| {}), &table, &tuple(&["1"]));
    let binary = TupleBuilder::new().value(Value::Binary(&[0, 0, 0, 1])).value(Value::Null);
    let text = refused(&mut World::new(|_| {}), &table, &binary);
    assert!(text.contains("binary"), "{text}");
    let key = |column: &str| vec![column.to_owned()];
    for column in ["n", "nothing"] {
        let named = |shape: &mut Shape| {
            drop(shape.key_columns.insert(("public".to_owned(), "t".to_owned()), key(column)))
        };
        let text = refused(&mut World::new(named), &table, &tuple(&["1", "1"]));
        assert!(text.contains("not part of its replica identity"), "{text}");
    }
    // Left out, it is no trouble.
    let mut world = World::new(|shape| shape.exclude = [("public".to_owned(), "t".to_owned())].into());
    world.begin();
    world.row(&table, Row::Insert { new: tuple(&["1", "NaN"]).as_tuple() }).unwrap();
    world.commit();
    assert_eq!(world.told(), []);
}

#[test]
fn a_table_that_changes_is_told_as_it_is_then() {
    let mut world = World::new(|_| {});
    world.begin();
    let before = relation(ReplicaIdentity::Default, &[("id", 23, true)]);
    world.row(&before, Row::Insert { new: tuple(&["1"]).as_tuple() }).unwrap();
    let after = relation(ReplicaIdentity::Default, &[("id", 20, true), ("more", 16, false)]);
    world.row(&after, Row::Insert { new: tuple(&["2", "t"]).as_tuple() }).unwrap();
    let told = world.told();
    assert_eq!(
        (&told[0].2["after"], &told[1].2["after"]),
        (&json!({"id": 1}), &json!({"id": 2, "more": true}))
    );
}
