//! The stream without a trail, for embedders.

use std::sync::Arc;
use std::time::Duration;

use irongate_capture::pgoutput::Streaming;
use irongate_capture::{Error, Place, Sink, Source, follow};
use irongate_tests::{Server, Settings, wait_until};
use irongate_trail::{Begin, Commit, Message, Progress, Relation, Truncate};

use crate::support::{SOON, Site, TABLE};

/// Keeps what it is told, and can fail.
#[derive(Default)]
struct Kept {
    lines: Vec<String>,
    syncs: usize,
    fails_at_commit: bool,
}

impl Sink for Kept {
    fn begin(&mut self, begin: &Begin) -> Result<(), Error> {
        self.lines.push(format!("begin after {}", begin.previous));
        Ok(())
    }
    fn relation(&mut self, relation: &Arc<Relation>) -> Result<(), Error> {
        self.lines.push(format!("relation {}", relation.name));
        Ok(())
    }
    fn row(&mut self, _: u32, operation: u8, _: &[u8]) -> Result<(), Error> {
        self.lines.push(char::from(operation).to_string());
        Ok(())
    }
    fn truncate(&mut self, _: &Truncate) -> Result<(), Error> {
        self.lines.push("truncate".to_owned());
        Ok(())
    }
    fn message(&mut self, _: &Message<'_>) -> Result<(), Error> {
        Ok(())
    }
    fn commit(&mut self, commit: &Commit) -> Result<(), Error> {
        if self.fails_at_commit {
            return Err(Error::Sink("no more room".into()));
        }
        self.lines.push(format!("commit {}", commit.changes));
        Ok(())
    }
    fn rollback(&mut self) -> Result<(), Error> {
        self.lines.push("rollback".to_owned());
        Ok(())
    }
    fn progress(&mut self, _: &Progress) -> Result<(), Error> {
        Ok(())
    }
    fn sync(&mut self) -> Result<(), Error> {
        self.syncs += 1;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_follows_committed_transactions_without_a_trail() {
    for major in Server::majors() {
        let site = Site::new(major, &Settings::new().set("logical_decoding_work_mem", "64kB"), TABLE).await;
        site.server.batch("INSERT INTO t VALUES (1, 'a')").await;
        site.server.batch("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(10, 4009) i").await;
        let mut source = Source { streaming: Streaming::Off, ..site.source() };

        // A sink that fails: nothing of what it did not commit is confirmed.
        let mut failing = Kept { fails_at_commit: true, ..Kept::default() };
        let error =
            follow(&source, &mut failing, Place::default(), std::future::pending()).await.unwrap_err();
        assert_eq!(error.to_string(), "the sink failed: no more room");
        assert_eq!(failing.lines.last().unwrap(), "rollback");

        wait_until(SOON, "the server to let go of the slot", async || {
            site.server.scalar("postgres", "SELECT active FROM pg_replication_slots").await == "f"
        })
        .await;
        let mut kept = Kept::default();
        let stop = tokio::time::sleep(Duration::from_secs(2));
        let (place, counts) = follow(&source, &mut kept, Place::default(), stop).await.unwrap();
        assert_eq!(kept.lines[..4], ["begin after 0/0", "relation t", "I", "commit 1"]);
        assert_eq!(kept.lines.last().unwrap(), "rollback", "which finds nothing to forget");
        assert_eq!((counts.transactions, counts.changes), (2, 4001));
        assert!(kept.syncs > 0);
        site.confirmed_reaches(&place.resume_lsn.to_string()).await;

        // It goes on where it was, and the next transaction knows the one before.
        site.server.batch("TRUNCATE t").await;
        let mut kept = Kept::default();
        let stop = tokio::time::sleep(Duration::from_secs(1));
        follow(&source, &mut kept, place, stop).await.unwrap();
        assert_eq!(kept.lines[0], format!("begin after {}", place.commit_lsn));
        assert_eq!(kept.lines[1..4], ["relation t", "truncate", "commit 1"]);

        // What a sink cannot hold is refused, and not left out.
        source.streaming = Streaming::On;
        site.server.batch("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(10, 4009) i").await;
        let error = follow(&source, &mut Kept::default(), Place::default(), std::future::pending())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::NoSideStorage), "{error}");
    }
}
