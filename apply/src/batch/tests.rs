use irongate_trail::{
    Column, CommitLsn, Lineage, Lsn, Mark, Position, ReplicaIdentity, ResumeLsn, Timestamp, TupleBuilder,
};

use super::*;

/// Items told beforehand. `Rows(n)` is n inserts.
enum Told {
    Begin(u64),
    Rows(usize),
    Commit(u64),
    Marker(&'static str),
    Structure(&'static str),
    Nothing,
}

struct Script {
    items: Vec<Told>,
    relation: Arc<Relation>,
    tuple: TupleBuilder,
}

impl Script {
    fn new(mut items: Vec<Told>) -> Self {
        items.reverse();
        let column =
            Column { name: "id".into(), key: true, type_oid: 23, type_modifier: -1, type_name: None };
        let relation = Arc::new(Relation {
            id: 1,
            schema: "public".into(),
            name: "t".into(),
            replica_identity: ReplicaIdentity::Default,
            columns: vec![column],
        });
        Self { items, relation, tuple: TupleBuilder::new().text("1") }
    }
}

impl Source for Script {
    fn next(&mut self) -> Result<Option<Item<'_>>, Error> {
        let lsn = |n: u64| CommitLsn(Lsn(n));
        Ok(match self.items.pop() {
            None | Some(Told::Nothing) => None,
            Some(Told::Begin(n)) => Some(Item::Begin(Begin {
                xid: n as u32,
                commit_lsn: lsn(n),
                commit_time: Timestamp(0),
                origin: None,
                previous: lsn(n - 1),
            })),
            Some(Told::Rows(n)) => {
                if n > 1 {
                    self.items.push(Told::Rows(n - 1));
                }
                let row = Row::Insert { new: self.tuple.as_tuple() };
                Some(Item::Row { relation: &self.relation, row })
            }
            Some(Told::Marker(content)) => Some(Item::Message(irongate_trail::Message {
                transactional: true,
                lsn: Lsn(1),
                prefix: MARKER_PREFIX,
                content: content.as_bytes(),
            })),
            Some(Told::Structure(content)) => Some(Item::Message(irongate_trail::Message {
                transactional: true,
                lsn: Lsn(1),
                prefix: DDL_PREFIX,
                content: content.as_bytes(),
            })),
            Some(Told::Commit(n)) => Some(Item::Commit(Commit {
                commit_lsn: lsn(n),
                end_lsn: ResumeLsn(Lsn(n)),
                commit_time: Timestamp(0),
                changes: 0,
            })),
        })
    }
    fn position(&self) -> Position {
        Position::default()
    }
    fn lineage(&self) -> Lineage {
        Lineage::default()
    }
    fn epoch(&self) -> u64 {
        1
    }
    fn durable(&self) -> Mark {
        Mark::default()
    }
    async fn wait(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

fn limits(changes: usize) -> Grouping {
    Grouping { changes, ..Grouping::default() }
}

#[test]
fn a_group_ends_at_a_transaction_boundary() {
    let told = vec![
        Told::Begin(1),
        Told::Rows(2),
        Told::Commit(1),
        Told::Begin(2),
        Told::Rows(2),
        Told::Commit(2),
        Told::Begin(3),
        Told::Rows(1),
        Told::Commit(3),
    ];
    let (mut script, mut batch) = (Script::new(told), Batch::default());
    assert!(batch.fill(&mut script, &limits(3), false).unwrap());
    assert_eq!((batch.len(), batch.commits()), (4, 2));
    assert_eq!(batch.end().unwrap().commit_lsn.0, Lsn(2));
    let places: Vec<_> = (0..4).map(|i| batch.place(i).map(|(b, n)| (b.xid, n)).unwrap()).collect();
    assert_eq!(places, [(1, 1), (1, 2), (2, 1), (2, 2)]);
    batch.clear();
    assert!(batch.fill(&mut script, &limits(3), false).unwrap());
    assert_eq!((batch.len(), batch.commits()), (1, 1));
    batch.clear();
    assert!(!batch.fill(&mut script, &limits(3), false).unwrap());
    assert!(batch.is_empty());
}

#[test]
fn a_large_transaction_comes_in_pieces_and_ends_once() {
    let told = vec![Told::Begin(1), Told::Rows(10), Told::Nothing, Told::Rows(1), Told::Commit(1)];
    let (mut script, mut batch, mut next) = (Script::new(told), Batch::default(), Batch::default());
    assert!(batch.fill(&mut script, &limits(1), false).unwrap());
    assert_eq!(batch.len(), PIECE);
    assert!(batch.is_open() && batch.end().is_none() && !batch.is_continued());
    next.follow(&batch);
    assert!(next.fill(&mut script, &limits(1), false).unwrap());
    assert!(next.is_continued());
    assert_eq!(next.place(0).map(|(b, n)| (b.xid, n)), Some((1, PIECE as u64 + 1)));
    batch.follow(&next);
    assert!(batch.fill(&mut script, &limits(1), false).unwrap());
    assert_eq!((batch.len(), batch.is_open()), (2, true));
    assert!(batch.fill(&mut script, &limits(1), false).unwrap());
    assert_eq!((batch.len(), batch.end().is_some()), (3, true));
    assert_eq!(batch.place(2).map(|(b, n)| (b.xid, n)), Some((1, 11)));
}

#[test]
fn one_transaction_is_a_group_when_asked() {
    let told =
        vec![Told::Begin(1), Told::Rows(1), Told::Commit(1), Told::Begin(2), Told::Rows(1), Told::Commit(2)];
    let (mut script, mut batch) = (Script::new(told), Batch::default());
    batch.fill(&mut script, &limits(100), true).unwrap();
    assert_eq!((batch.len(), batch.commits()), (1, 1));
}

#[test]
fn a_marker_stands_until_changes_come_behind_it() {
    let told = |items: Vec<Told>| {
        let (mut source, mut batch) = (Script::new(items), Batch::default());
        let limits = Grouping::default();
        batch.fill(&mut source, &limits, false).unwrap();
        batch.marker().map(str::to_owned)
    };
    use Told::{Begin, Commit, Marker, Rows};
    assert_eq!(told(vec![]), None);
    assert_eq!(told(vec![Begin(1), Commit(1)]), None);
    assert_eq!(told(vec![Begin(1), Rows(2), Commit(1)]).as_deref(), Some(""));
    let marked = || vec![Begin(1), Rows(2), Commit(1), Begin(2), Marker("m"), Commit(2)];
    assert_eq!(told(marked()).as_deref(), Some("m"));
    let behind = [marked(), vec![Begin(3), Rows(1), Commit(3)]];
    assert_eq!(told(behind.into_iter().flatten().collect()).as_deref(), Some(""));
    // The rows of a transaction in an earlier piece of it count for the piece that has its end.
    let mut source = Script::new(vec![Begin(1), Rows(50), Commit(1)]);
    let limits = Grouping { changes: 5, ..Grouping::default() };
    let (mut piece, mut last) = (Batch::default(), Batch::default());
    piece.fill(&mut source, &limits, false).unwrap();
    assert!(piece.is_open());
    while piece.is_open() {
        last.follow(&piece);
        last.fill(&mut source, &limits, false).unwrap();
        std::mem::swap(&mut piece, &mut last);
    }
    assert_eq!(piece.marker(), Some(""));
}

#[test]
fn what_a_tables_copy_has_is_left_out_and_counted_whatever_it_is() {
    let table = |name: &str| {
        let column =
            Column { name: "id".into(), key: true, type_oid: 23, type_modifier: -1, type_name: None };
        Arc::new(Relation {
            id: 1,
            schema: "public".into(),
            name: name.into(),
            replica_identity: ReplicaIdentity::Default,
            columns: vec![column],
        })
    };
    let (early, late) = (table("early"), table("late"));
    let tuple = TupleBuilder::new().text("1");
    let mut starts = TableStarts::default();
    starts.insert("public", "late", Lsn(20));
    let mut batch = Batch::default();
    batch.skip(Some(Arc::new(starts)));
    let transaction = |batch: &mut Batch, n: u64| {
        let begin = Begin {
            xid: n as u32,
            commit_lsn: CommitLsn(Lsn(n)),
            commit_time: Timestamp(0),
            origin: None,
            previous: CommitLsn(Lsn(n - 1)),
        };
        batch.take(Item::Begin(begin)).unwrap();
        for relation in [&late, &early] {
            for row in [
                Row::Insert { new: tuple.as_tuple() },
                Row::Update { old: None, new: tuple.as_tuple() },
                Row::Delete { old: Old::Key(tuple.as_tuple()) },
            ] {
                batch.take(Item::Row { relation, row }).unwrap();
            }
        }
        for relations in [vec![late.clone()], vec![early.clone(), late.clone()], vec![early.clone()]] {
            let item = Item::Truncate { relations, cascade: false, restart_identity: true };
            batch.take(item).unwrap();
        }
        let commit = Commit {
            commit_lsn: CommitLsn(Lsn(n)),
            end_lsn: ResumeLsn(Lsn(n + 1)),
            commit_time: Timestamp(0),
            changes: 9,
        };
        batch.take(Item::Commit(commit)).unwrap();
    };
    transaction(&mut batch, 19);
    assert_eq!(batch.skipped().collect::<Vec<_>>(), [("public", "late", 5)]);
    assert_eq!(batch.len(), 3 + 2);
    let truncates: Vec<_> = batch
        .changes()
        .filter_map(|change| match change {
            Change::Truncate { relations, partial, .. } => Some((relations.to_vec(), partial)),
            Change::Row { .. } => None,
        })
        .collect();
    assert_eq!(truncates, [(vec![0], true), (vec![0], false)]);
    assert!(batch.relations().iter().all(|relation| relation.name == "early"));
    // The transaction that commits at the place itself is not in the copy.
    batch.clear();
    transaction(&mut batch, 20);
    assert_eq!((batch.len(), batch.skipped().count()), (9, 0));
    // Behind the last place nothing is asked any more; before it, a copy of the rule goes along.
    let mut next = Batch::default();
    next.follow(&batch);
    assert!(next.skipping.starts.is_some());
    next.stop_skipping_behind(ResumeLsn(Lsn(19)));
    assert!(next.skipping.starts.is_some());
    next.stop_skipping_behind(ResumeLsn(Lsn(20)));
    assert!(next.skipping.starts.is_none());
}

#[test]
fn a_change_of_structure_ends_its_batch_and_its_transaction_the_next() {
    use Told::{Begin, Commit, Rows, Structure};
    let mut script = Script::new(vec![
        Begin(1),
        Rows(1),
        Commit(1),
        Begin(2),
        Rows(2),
        Structure("one"),
        Structure("two"),
        Rows(3),
        Commit(2),
        Begin(3),
        Rows(1),
        Commit(3),
        Begin(4),
        Rows(1),
        Commit(4),
    ]);
    let limits = Grouping::default();
    let mut batch = Batch::default();
    let mut seen = Vec::new();
    loop {
        let read = batch.fill(&mut script, &limits, false).unwrap();
        // Asked again, it takes no more than it should.
        if batch.structure().is_some() || !read {
            assert!(!batch.fill(&mut script, &limits, false).unwrap());
        }
        if !read {
            break;
        }
        let structure = batch.structure().map(str::to_owned);
        seen.push((batch.len(), batch.commits(), structure, batch.is_open()));
        let mut next = Batch::default();
        next.follow(&batch);
        batch = next;
    }
    assert_eq!(
        seen,
        [
            (3, 1, Some("one".to_owned()), true),
            (0, 0, Some("two".to_owned()), true),
            (3, 1, None, false),
            (2, 2, None, false)
        ]
    );
}
