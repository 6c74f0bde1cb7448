//! Applying in sets gives what applying change by change gives.

use std::collections::BTreeMap;
use std::sync::Arc;

use irongate_apply::Grouping;
use irongate_tests::Server;
use irongate_trail::{Relation, ReplicaIdentity};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::support::{Bench, Op, relation, tuple};

const SCHEMA: &str = "
    CREATE TABLE plain (id int PRIMARY KEY, a text, b numeric(10,2));
    CREATE TABLE other_unique (id int PRIMARY KEY, a text UNIQUE, b numeric(10,2));
    CREATE TABLE generated (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text, b numeric(10,2),
                            c int GENERATED ALWAYS AS (length(a)) STORED);
    CREATE TABLE parted (id int PRIMARY KEY, a text, b numeric(10,2)) PARTITION BY HASH (id);
    CREATE TABLE parted0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE parted1 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE keyless (id int, a text, b numeric(10,2));
    CREATE TABLE watched (id int PRIMARY KEY, a text, b numeric(10,2));
    CREATE TABLE audit (n bigserial PRIMARY KEY, what text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN INSERT INTO public.audit (what) VALUES (TG_OP || coalesce(new.id, old.id)); RETURN coalesce(new, old); END $$;
    CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON watched FOR EACH ROW EXECUTE FUNCTION note();
    ALTER TABLE watched ENABLE ALWAYS TRIGGER note;";

/// Two columns, and how the key is spelled.
type Values = (Option<String>, Option<String>, usize);
pub(super) type Model = BTreeMap<i32, Values>;

fn relations() -> Vec<Arc<Relation>> {
    let default = |id, name| relation(id, name, ReplicaIdentity::Default, &["id!", "a", "b"]);
    vec![
        default(1, "plain"),
        default(2, "other_unique"),
        default(3, "generated"),
        default(4, "parted"),
        relation(5, "keyless", ReplicaIdentity::Full, &["id", "a", "b"]),
        default(6, "watched"),
    ]
}

/// Keys where the same one is to come often.
pub(super) const FEW: i32 = 12;

/// A change that fits the model, and the model after it, of one of so many keys.
pub(super) fn change(random: &mut StdRng, table: &Arc<Relation>, model: &mut Model, keys: i32) -> Op {
    let full = table.replica_identity == ReplicaIdentity::Full;
    // One key has several spellings, which only the target's server takes for one. A row keeps its own until that changes.
    let spelled =
        |id: i32, row: &Values| format!("{}{id}", if table.name == "spelled" { &"000"[..row.2] } else { "" });
    let values =
        |id: i32, row: &Values| tuple(&[Some(&spelled(id, row)), row.0.as_deref(), row.1.as_deref()]);
    let old = |id: i32, row: &Values| {
        if full { (b'O', values(id, row)) } else { (b'K', tuple(&[Some(&spelled(id, row)), None, None])) }
    };
    // Unique texts, swapped and reused often.
    let id = random.random_range(0..keys);
    let fresh = |random: &mut StdRng, model: &Model| {
        let mut text = format!("t{}", random.random_range(0..keys + 8));
        while ["other_unique", "deferred"].contains(&table.name.as_str())
            && model.values().any(|row| row.0.as_deref() == Some(&*text))
        {
            text.push('\'');
        }
        let number = random.random_bool(0.8).then(|| format!("{}.50", random.random_range(0..100)));
        ((!random.random_bool(0.1)).then_some(text), number, random.random_range(0..4))
    };
    match model.get(&id).cloned() {
        None => {
            let row = fresh(random, model);
            let op = Op::Insert(Arc::clone(table), values(id, &row));
            model.insert(id, row);
            op
        }
        Some(before) if random.random_bool(0.3) => {
            model.remove(&id);
            let (kind, old) = old(id, &before);
            Op::Delete(Arc::clone(table), kind, old)
        }
        Some(before) => {
            model.remove(&id);
            let mut after = fresh(random, model);
            let unchanged = random.random_bool(0.2);
            if unchanged {
                after.0.clone_from(&before.0);
            }
            let moved = random.random_range(0..keys);
            let to = if random.random_bool(0.15) && !model.contains_key(&moved) { moved } else { id };
            let a = if unchanged { Some("<unchanged>") } else { after.0.as_deref() };
            if !random.random_bool(0.15) {
                after.2 = before.2;
            }
            let sends_old = full || to != id || spelled(to, &after) != spelled(id, &before);
            let new = tuple(&[Some(&spelled(to, &after)), a, after.1.as_deref()]);
            let old = sends_old.then(|| old(id, &before));
            model.insert(to, after.clone());
            Op::Update(Arc::clone(table), old, new)
        }
    }
}

pub(super) fn expected(model: &Model, table: &str) -> Vec<String> {
    let text = |(id, (a, b, _)): (&i32, &Values)| {
        let shown = a.clone().unwrap_or_default();
        let mut row = format!("({id},{shown},{}", b.clone().unwrap_or_default());
        if table == "generated" {
            row.push_str(&format!(",{}", a.as_ref().map_or(String::new(), |a| a.len().to_string())));
        }
        row + ")"
    };
    let mut rows: Vec<String> = model.iter().map(text).collect();
    rows.sort();
    rows
}

async fn histories(major: u32, count: u64) {
    let mut bench = Bench::new(major, SCHEMA).await;
    let relations = relations();
    let mut models: Vec<Model> = vec![Model::new(); relations.len()];
    let first = irongate_tests::seed();
    println!("seed {first}, IRONGATE_TEST_SEED={first} runs it again");
    for round in 0..count {
        let mut random = StdRng::seed_from_u64(first.wrapping_add(round));
        for _ in 0..random.random_range(1..30) {
            let changes = random.random_range(1..8);
            let ops: Vec<Op> = (0..changes)
                .map(|_| {
                    let table = random.random_range(0..relations.len());
                    change(&mut random, &relations[table], &mut models[table], FEW)
                })
                .collect();
            bench.transaction(&ops);
        }
        let mut settings = bench.settings();
        settings.grouping = Grouping { changes: random.random_range(1..200), ..Grouping::default() };
        bench.apply(settings).await.unwrap();
        for (relation, model) in relations.iter().zip(&models) {
            let found = bench.rows(&relation.name).await;
            assert_eq!(found, expected(model, &relation.name), "{} after round {round}", relation.name);
        }
    }
    // The trigger has seen each change of its table once and in order: replayed, the notes give the table's keys.
    let notes = bench.server.rows("target", "SELECT what FROM audit ORDER BY n").await;
    assert!(!notes.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn sets_give_what_single_changes_give() {
    for major in Server::majors() {
        histories(major, 40).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_group_is_never_refused() {
    const SCHEMA: &str = "CREATE TABLE accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
                          CREATE TABLE history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
                          INSERT INTO accounts SELECT g, 1, 0, '' FROM generate_series(1, 1000) g";
    let accounts = relation(1, "accounts", ReplicaIdentity::Default, &["aid!", "bid", "abalance", "filler"]);
    let columns = ["tid", "bid", "aid", "delta", "mtime", "filler"];
    let history = relation(2, "history", ReplicaIdentity::Default, &columns);
    for major in Server::majors() {
        let mut bench = Bench::new(major, SCHEMA).await;
        for n in 0..1500_u32 {
            let (aid, delta) = ((n * 7919 % 1000 + 1).to_string(), n.to_string());
            let filler = " ".repeat(84);
            let account = tuple(&[Some(&aid), Some("1"), Some(&delta), Some(&filler)]);
            let note =
                tuple(&[Some("1"), Some("1"), Some(&aid), Some(&delta), Some("2026-01-01 00:00:00"), None]);
            bench.transaction(&[
                Op::Update(Arc::clone(&accounts), None, account),
                Op::Insert(Arc::clone(&history), note),
            ]);
        }
        let (_, refused) = bench.apply_counting(bench.settings()).await.unwrap();
        assert_eq!(refused, 0, "groups refused on {major}");
        assert_eq!(bench.rows("history").await.len(), 1500);
    }
}
