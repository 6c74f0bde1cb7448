//! Which transaction is applied ahead.

use std::collections::HashSet;

use irongate_trail::OpenSide;

/// Files that were tried already, whatever came of it: a second try would most likely end like the first.
#[derive(Default, Debug)]
pub(super) struct Tried(HashSet<String>);

impl Tried {
    /// Notes that a file is tried.
    pub(super) fn add(&mut self, name: &str) {
        self.0.insert(name.to_owned());
    }

    /// The largest file of at least `from` bytes that was not tried. Forgets those that are there no more.
    pub(super) fn choose(&mut self, there: Vec<OpenSide>, from: u64) -> Option<OpenSide> {
        self.0.retain(|tried| there.iter().any(|side| side.name == *tried));
        let fits = |side: &OpenSide| side.bytes >= from && !self.0.contains(&side.name);
        there.into_iter().filter(fits).max_by_key(|side| side.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(xid: u32, bytes: u64) -> OpenSide {
        OpenSide { name: format!("open-{xid}-0.side"), xid, bytes }
    }

    #[test]
    fn the_largest_is_chosen_and_none_twice() {
        let mut tried = Tried::default();
        let there = || vec![side(1, 50), side(2, 200), side(3, 100)];
        let chosen = tried.choose(there(), 100).expect("two are large enough");
        assert_eq!(chosen.xid, 2);
        tried.add(&chosen.name);
        let chosen = tried.choose(there(), 100).expect("one is left");
        assert_eq!(chosen.xid, 3);
        tried.add(&chosen.name);
        assert_eq!(tried.choose(there(), 100), None);
        assert_eq!(tried.choose(there(), 50).map(|side| side.xid), Some(1));
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut tried = Tried::default();
        tried.add(&side(2, 0).name);
        assert_eq!(tried.choose(vec![side(2, 200)], 100), None);
        assert_eq!(tried.choose(Vec::new(), 100), None);
        assert!(tried.0.is_empty());
    }
}
