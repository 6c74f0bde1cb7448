//! What two lists of large objects differ in, and what makes one like the other. No server is asked here.

use irongate_postgres::sql::quote_identifier;

/// A large object as one side has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Described {
    pub(super) oid: u32,
    pub(super) owner: String,
    /// In order, each once.
    pub(super) rights: Vec<Right>,
    pub(super) comment: Option<String>,
    /// What the asking role may do with it.
    pub(super) may: May,
    /// In bytes; none where it may not be read.
    pub(super) size: Option<i64>,
}

/// What a role may do with a large object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct May {
    pub(super) read: bool,
    /// Reading is a part of it.
    pub(super) write: bool,
    /// Remove it.
    pub(super) own: bool,
}

/// Somebody's right.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Right {
    privilege: String,
    may_grant: bool,
    /// As a statement names him; nothing for the owner, who may have another name at the other side.
    grantee: String,
}

impl Right {
    /// Reads what the list of a side says: the privilege, a star where it may be given on, and the grantee.
    pub(super) fn of_text(text: &str) -> Option<Self> {
        let (privilege, grantee) = text.split_once(' ')?;
        let (privilege, may_grant) = match privilege.strip_suffix('*') {
            Some(privilege) => (privilege, true),
            None => (privilege, false),
        };
        Some(Self { privilege: privilege.to_owned(), may_grant, grantee: grantee.to_owned() })
    }
}

/// What is different of an object that both sides have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content {
    /// Not told yet: of one size, and not hashed.
    Open,
    Same,
    Different,
    /// A side may not read it.
    Unread,
}

/// One OID at the two sides, of which at least one has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pair {
    pub(super) oid: u32,
    pub(super) source: Option<Described>,
    pub(super) target: Option<Described>,
    /// Only of an object that both have.
    pub(super) content: Content,
}

impl Pair {
    fn new(source: Option<Described>, target: Option<Described>) -> Option<Self> {
        let oid = source.as_ref().or(target.as_ref())?.oid;
        let content = match (&source, &target) {
            (Some(source), Some(target)) => match (source.size, target.size) {
                (Some(0), Some(0)) => Content::Same,
                (Some(one), Some(other)) if one == other => Content::Open,
                (Some(_), Some(_)) => Content::Different,
                _ => Content::Unread,
            },
            _ => Content::Same,
        };
        Some(Self { oid, source, target, content })
    }
}

/// Puts a page of each side together. Pages are in the order of OIDs and go on behind the same OID; one of `most` objects
/// is perhaps not the last. What a side may still have on its next page is left out: the second is the OID behind which
/// both go on, if there is more.
pub(super) fn pairs(source: Vec<Described>, target: Vec<Described>, most: usize) -> (Vec<Pair>, Option<u32>) {
    let end = |page: &[Described]| if page.len() < most { None } else { page.last().map(|last| last.oid) };
    let bound = [end(&source), end(&target)].into_iter().flatten().min();
    let is_within = |one: &Described| bound.is_none_or(|bound| one.oid <= bound);
    let mut source = source.into_iter().filter(is_within).peekable();
    let mut target = target.into_iter().filter(is_within).peekable();
    let mut pairs = Vec::new();
    loop {
        let oid = match (source.peek(), target.peek()) {
            (Some(one), Some(other)) => one.oid.min(other.oid),
            (Some(one), None) | (None, Some(one)) => one.oid,
            (None, None) => return (pairs, bound),
        };
        pairs.extend(Pair::new(source.next_if(|one| one.oid == oid), target.next_if(|one| one.oid == oid)));
    }
}

/// A part of an object's content, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    pub(super) oid: u32,
    pub(super) from: i64,
    pub(super) length: i64,
}

/// Cuts objects, each with its size, into spans, and puts together what one statement hashes: `most` bytes at the most,
/// of which an object begins a span anew, so that all but its last are whole multiples of what is hashed at once.
pub(super) fn spans(objects: impl IntoIterator<Item = (u32, i64)>, most: i64) -> Vec<Vec<Span>> {
    let (mut all, mut together, mut bytes) = (Vec::new(), Vec::new(), 0);
    for (oid, size) in objects {
        let mut from = 0;
        while from < size {
            let length = (size - from).min(most);
            if bytes + length > most {
                all.push(std::mem::take(&mut together));
                bytes = 0;
            }
            together.push(Span { oid, from, length });
            bytes += length;
            from += length;
        }
    }
    if !together.is_empty() {
        all.push(together);
    }
    all
}

/// How an object's content is brought over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Write {
    Create,
    Replace,
    /// It is the same.
    Keep,
}

/// What makes one object of the target like that of the source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Task {
    pub(super) oid: u32,
    pub(super) write: Write,
    /// Bytes that are brought over.
    pub(super) size: i64,
    /// Statements for owner, rights and comment.
    pub(super) statements: Vec<String>,
}

/// Puts together what is one transaction: `most` bytes at the most, but for one object that has more.
pub(super) fn transactions(tasks: Vec<Task>, most: i64) -> Vec<Vec<Task>> {
    let (mut all, mut together, mut bytes) = (Vec::new(), Vec::<Task>::new(), 0);
    for task in tasks {
        if bytes + task.size > most && !together.is_empty() {
            all.push(std::mem::take(&mut together));
            bytes = 0;
        }
        bytes += task.size;
        together.push(task);
    }
    if !together.is_empty() {
        all.push(together);
    }
    all
}

/// What an object is that has just been created by a role.
pub(super) fn fresh(oid: u32, creator: &str) -> Described {
    let right =
        |privilege: &str| Right { privilege: privilege.to_owned(), may_grant: false, grantee: String::new() };
    Described {
        oid,
        owner: creator.to_owned(),
        rights: vec![right("SELECT"), right("UPDATE")],
        comment: None,
        may: May { read: true, write: true, own: true },
        size: Some(0),
    }
}

/// What two objects differ in besides their content, in words.
pub(super) fn attributes(source: &Described, target: &Described) -> Vec<&'static str> {
    let mut found = Vec::new();
    if source.owner != target.owner {
        found.push("owner");
    }
    if source.rights != target.rights {
        found.push("rights");
    }
    if source.comment != target.comment {
        found.push("comment");
    }
    found
}

/// The statements that give an object of the target the owner, the rights and the comment that it has at the source.
pub(super) fn statements(source: &Described, target: &Described) -> Vec<String> {
    let object = format!("LARGE OBJECT {}", source.oid);
    let owner = quote_identifier(&source.owner);
    let mut all = Vec::new();
    // First, since what the owner has goes over to the new one.
    if source.owner != target.owner {
        all.push(format!("ALTER {object} OWNER TO {owner}"));
    }
    let name = |right: &Right| if right.grantee.is_empty() { owner.clone() } else { right.grantee.clone() };
    if source.rights != target.rights {
        let mut grantees: Vec<String> = target.rights.iter().map(name).collect();
        grantees.sort();
        grantees.dedup();
        all.extend(grantees.iter().map(|grantee| format!("REVOKE ALL ON {object} FROM {grantee} CASCADE")));
        for right in &source.rights {
            let on = if right.may_grant { " WITH GRANT OPTION" } else { "" };
            all.push(format!("GRANT {} ON {object} TO {}{on}", right.privilege, name(right)));
        }
    }
    if source.comment != target.comment {
        let comment =
            source.comment.as_deref().map_or("NULL".to_owned(), irongate_postgres::sql::quote_literal);
        all.push(format!("COMMENT ON {object} IS {comment}"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(oid: u32, size: i64) -> Described {
        Described { size: Some(size), ..fresh(oid, "app") }
    }

    fn oids(pairs: &[Pair]) -> Vec<(u32, bool, bool)> {
        pairs.iter().map(|pair| (pair.oid, pair.source.is_some(), pair.target.is_some())).collect()
    }

    #[test]
    fn what_only_one_side_has_and_what_both_have_is_told_apart() {
        let (found, more) = pairs(
            vec![object(1, 5), object(2, 5), object(4, 0)],
            vec![object(2, 6), object(3, 1), object(4, 0)],
            9,
        );
        assert_eq!(oids(&found), [(1, true, false), (2, true, true), (3, false, true), (4, true, true)]);
        assert_eq!(found[1].content, Content::Different, "another size");
        assert_eq!(found[3].content, Content::Same, "both are empty");
        assert_eq!(more, None);
        let (found, _) = pairs(vec![object(2, 5)], vec![object(2, 5)], 9);
        assert_eq!(found[0].content, Content::Open);
        let unread = Described { size: None, ..object(2, 5) };
        let (found, _) = pairs(vec![object(2, 5)], vec![unread], 9);
        assert_eq!(found[0].content, Content::Unread);
    }

    #[test]
    fn pages_that_end_at_different_objects_lose_none() {
        let every = |step: usize| (0..200_u32).step_by(step).map(|oid| object(oid, 1)).collect::<Vec<_>>();
        let (source, target) = (every(2), every(3));
        let page = |all: &[Described], after: Option<u32>| {
            let is_behind = |one: &&Described| after.is_none_or(|after| one.oid > after);
            all.iter().filter(is_behind).take(7).cloned().collect::<Vec<_>>()
        };
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let (pairs, more) = pairs(page(&source, after), page(&target, after), 7);
            found.extend(oids(&pairs));
            after = more;
            if after.is_none() {
                break;
            }
        }
        let expected: Vec<_> = (0..200_u32)
            .map(|oid| (oid, oid % 2 == 0, oid % 3 == 0))
            .filter(|(_, source, target)| *source || *target)
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn large_contents_are_hashed_in_spans_and_small_ones_together() {
        let span = |oid, from, length| Span { oid, from, length };
        assert_eq!(
            spans([(1, 250), (2, 40), (3, 0), (4, 10), (5, 60)], 100),
            [
                vec![span(1, 0, 100)],
                vec![span(1, 100, 100)],
                vec![span(1, 200, 50), span(2, 0, 40), span(4, 0, 10)],
                vec![span(5, 0, 60)],
            ]
        );
        assert!(spans([], 100).is_empty() && spans([(1, 0)], 100).is_empty());
    }

    #[test]
    fn a_transaction_is_of_many_small_objects_or_of_a_large_one() {
        let task = |oid, size| Task { oid, write: Write::Create, size, statements: Vec::new() };
        let all = transactions(vec![task(1, 40), task(2, 60), task(3, 500), task(4, 0), task(5, 1)], 100);
        let oids: Vec<Vec<u32>> =
            all.iter().map(|together| together.iter().map(|task| task.oid).collect()).collect();
        assert_eq!(oids, [vec![1, 2], vec![3], vec![4, 5]]);
    }

    #[test]
    fn the_statements_give_owner_rights_and_comment() {
        let right = |text: &str| Right::of_text(text).unwrap();
        let target =
            Described { rights: vec![right("SELECT "), right("SELECT other")], ..fresh(7, "irongate") };
        let source = Described {
            owner: "the app".into(),
            rights: vec![right("SELECT "), right("SELECT* \"a b\""), right("UPDATE PUBLIC")],
            comment: Some("it's".into()),
            ..fresh(7, "")
        };
        assert_eq!(attributes(&source, &target), ["owner", "rights", "comment"]);
        assert_eq!(
            statements(&source, &target),
            [
                "ALTER LARGE OBJECT 7 OWNER TO \"the app\"",
                "REVOKE ALL ON LARGE OBJECT 7 FROM \"the app\" CASCADE",
                "REVOKE ALL ON LARGE OBJECT 7 FROM other CASCADE",
                "GRANT SELECT ON LARGE OBJECT 7 TO \"the app\"",
                "GRANT SELECT ON LARGE OBJECT 7 TO \"a b\" WITH GRANT OPTION",
                "GRANT UPDATE ON LARGE OBJECT 7 TO PUBLIC",
                "COMMENT ON LARGE OBJECT 7 IS 'it''s'",
            ]
        );
        assert!(statements(&source, &source).is_empty() && attributes(&target, &target).is_empty());
        let fresh_one = fresh(7, "app");
        assert!(statements(&fresh_one, &fresh(7, "app")).is_empty());
        assert_eq!(Right::of_text("nonsense"), None);
    }
}
