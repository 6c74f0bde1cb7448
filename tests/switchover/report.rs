//! Reports of runs as pages: the same bytes for the same journal, nothing from outside that does anything, and in a real
//! browser everything to be read at any width.
//!
//! The journals are those of real runs, as they were kept (`golden/runs`), and made ones for what takes a day or a
//! lost site.

use std::fs;
use std::path::{Path, PathBuf};

use irongate_switchover::journal::{Entry, Heading, Journal, Outcome, What};
use irongate_switchover::plan::By;
use irongate_switchover::report::{Report, html, report};
use irongate_tests::{Browser, TempDir};
use serde_json::{Value, json};

/// A wide screen, a phone, and A4 without its margins.
const WIDTHS: [u32; 3] = [1280, 400, 680];
/// 2026-11-21 15:00 UTC.
const BEGIN: i64 = 848_588_400_000_000;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// A journal in the making.
struct Made {
    heading: Heading,
    at: f64,
    entries: Vec<Entry>,
}

impl Made {
    fn new(plan: &str) -> Self {
        let heading = Heading {
            run: format!("{plan}-20261121150000000000"),
            plan: plan.into(),
            from: "main".into(),
            to: "secondary".into(),
            databases: vec!["config".into()],
            holder: "dba@bastion.example".into(),
            release: "0.1.0".into(),
            accept_loss: plan == "failover",
            force: false,
            supersedes: None,
            by: By::Copy,
        };
        let mut made = Self { heading, at: 0.0, entries: Vec::new() };
        made.note(What::Begun(made.heading.clone()));
        made
    }

    fn note(&mut self, what: What) {
        self.entries.push(Entry { at: BEGIN + (self.at * 1e6) as i64, what });
    }

    fn begin(&mut self, step: &str) {
        self.note(What::Step { step: step.into() });
    }

    fn done(&mut self, step: &str, seconds: f64, evidence: Value) {
        self.begin(step);
        self.at += seconds;
        self.note(What::Done { step: step.into(), seconds, evidence });
        self.at += 0.002;
    }

    fn failed(&mut self, step: &str, seconds: f64, error: &str, hint: Option<&str>) {
        self.begin(step);
        self.at += seconds;
        self.note(What::Failed {
            step: step.into(),
            error: error.into(),
            hint: hint.map(Into::into),
            evidence: Value::Null,
        });
    }

    fn undone(&mut self, step: &str, seconds: f64, evidence: Value) {
        self.note(What::Undo { step: step.into() });
        self.at += seconds;
        self.note(What::Undone { step: step.into(), evidence });
        self.at += 0.002;
    }

    fn end(&mut self, outcome: Outcome) {
        self.note(What::Ended { outcome });
    }

    fn report(&self) -> Report {
        report(&self.heading, &self.entries)
    }
}

/// The first half of a switchover, whose slot waits for a minute.
fn begun() -> Made {
    let mut run = Made::new("switchover");
    run.done("prechecks", 0.214, json!({ "checked": ["config.secondary"] }));
    run.done(
        "lock",
        0.011,
        json!({ "locked": [{ "database": "config.main", "next_epoch": 2 },
                                           { "database": "config.secondary", "next_epoch": 2 }] }),
    );
    let slot =
        "the slot was not there after 60 s: process 4711 of \"batch\" has a transaction open since 14:12";
    run.failed(
        "reverse-capture",
        60.0,
        slot,
        Some("end process 4711, or wait for it, and go on with the run"),
    );
    run.at += 300.0;
    let begun = json!({ "begun": [{ "flow": "css", "slot": "irongate_css", "from": "0/1A2B3C4" }] });
    run.done("reverse-capture", 1.31, begun);
    let closed = json!({ "closed": [{ "database": "config.main", "rights": 214, "logins": 3, "triggers": 12,
                                      "sessions": 41, "refused_writes": 3, "seconds": 0.183_211 }] });
    run.done("fence", 0.19, closed);
    run.done("marker", 0.004, json!({ "markers": [{ "database": "config.main", "lsn": "0/1A2FF08" }] }));
    run
}

/// One whose holder went home with applications kept out, and went on the next day.
fn resumed_a_day_later() -> Made {
    let mut run = begun();
    run.begin("drain");
    run.at += 86_000.0;
    let behind = "config.secondary is at 0/1A2F000 after 120 s, and not at the marker";
    run.failed("drain", 120.0, behind, Some("look at csp-replicat: irongate info"));
    run.at += 240.0;
    let certificates = json!({ "certificates": [{ "database": "config.secondary", "applied": "0/1A2FF90",
        "marker": "switchover-20261121150000000000", "behind": "0/1A2FF60" }],
        "digests": [{ "database": "config.secondary", "transactions": 812_004, "digest": "9f86d081884c7d65" }] });
    run.done("drain", 0.05, certificates);
    run.done("stop-forward", 0.4, json!({ "groups": ["csp-extract", "csp-pump", "csp-replicat"] }));
    run.done("verify", 0.01, json!({ "databases": ["config.secondary"] }));
    run.done(
        "open",
        0.21,
        json!({ "opened": [{ "database": "config.secondary", "rights": 214 }], "sequences": 37 }),
    );
    run.done(
        "roles",
        0.01,
        json!({ "roles": [{ "database": "config.secondary", "live": "secondary", "epoch": 2 }] }),
    );
    run.done(
        "follow",
        2.6,
        json!({ "groups": ["css-pump", "css-replicat"], "dropped_slots": ["irongate_csp"] }),
    );
    run.end(Outcome::Done);
    run
}

fn taken_back() -> Made {
    let mut run = begun();
    let breach = "config.main has committed changes behind the marker: the fence did not hold";
    run.failed("drain", 0.3, breach, None);
    run.at += 45.0;
    run.undone("drain", 0.001, Value::Null);
    run.undone("marker", 0.001, Value::Null);
    run.undone("fence", 0.17, json!({ "opened": [{ "database": "config.main", "rights": 214 }] }));
    run.undone("reverse-capture", 0.9, json!({ "dropped_slots": ["irongate_css"] }));
    run.undone("lock", 0.01, Value::Null);
    run.undone("prechecks", 0.001, Value::Null);
    run.end(Outcome::Aborted);
    run
}

/// Everything that a page must not fall for, in a failover of 300 databases.
fn hostile() -> Made {
    let mut run = Made::new("failover");
    let names = (0..300).map(|n| format!("customer_{n:03}_{}", "long".repeat(n % 7)));
    run.heading.databases = names.collect();
    run.heading.holder = "<script>document.title='hit'</script>\"'&amp;@host".into();
    let told = |database: &String| {
        json!({ "database": database, "fence": null, "arrived": { "seconds_since": 3.25,
                "last_received": "2026-11-21T14:59:56.750Z", "estimated_lost_transactions_at_most": 640 } })
    };
    let databases: Vec<Value> = run.heading.databases.iter().map(told).collect();
    let probes = json!([{ "asked": "manager of main", "answers": false, "answer": "no answer in 5 s" }]);
    run.done("prechecks", 4.0, json!({ "databases": databases, "probes": probes, "loss_accepted": true }));
    let fence = "config.main cannot be reached: <img src=x onerror=\"document.title='hit'\">";
    run.failed("fence-lost", 5.0, fence, Some("</style></title><script>document.title='hit'</script>"));
    run.done("fence-lost", 5.0, json!({ "tried": [{ "database": "config.main", "fenced": false }] }));
    let nested = |database: &String| json!({ "flow": database, "arrived": { "deeper": [1, 2], "bytes": 1_u64 << 40 } });
    let applied: Vec<Value> = run.heading.databases.iter().map(nested).collect();
    run.done("apply-rest", 31.0, json!({ "applied": applied }));
    let mut deep = json!("bottom");
    for n in 0..40 {
        deep = json!({ format!("level_{n}"): deep });
    }
    let long = "x".repeat(20_000);
    let evidence = json!({ "deep": deep, "long": long, "<b>key</b>": "<script>document.title='hit'</script>",
        "\u{202e}turned": "\u{0}\u{7}", "empty": {}, "list": [[], [1, 2, [3]]], "yes": true, "no": null,
        "x".repeat(300): 1.5e300 });
    run.done("open", 0.2, evidence);
    run.begin("roles");
    run
}

fn pages() -> Vec<(String, Report)> {
    let mut pages = vec![
        ("resumed".to_owned(), resumed_a_day_later().report()),
        ("unfinished".to_owned(), begun().report()),
        ("taken-back".to_owned(), taken_back().report()),
        ("hostile".to_owned(), hostile().report()),
    ];
    // Journals are read where a site has them.
    let state = TempDir::new();
    fs::create_dir(state.path().join("runs")).unwrap();
    for file in fs::read_dir(golden("runs")).unwrap() {
        let path = file.unwrap().path();
        fs::copy(&path, state.path().join("runs").join(path.file_name().unwrap())).unwrap();
    }
    for run in Journal::runs(state.path()).unwrap() {
        let (heading, entries) = Journal::read(state.path(), &run).unwrap();
        pages.push((format!("kept {run}"), report(&heading, &entries)));
    }
    assert!(pages.len() > 8, "journals of real runs are kept");
    pages
}

/// What a page tells is told before: IRONGATE_TEST_GOLDEN=write takes over what it tells now.
#[test]
fn the_same_journal_makes_the_same_page() {
    let (file, page) = (golden("report.html"), html(&resumed_a_day_later().report()));
    if std::env::var_os("IRONGATE_TEST_GOLDEN").is_some_and(|word| word == "write") {
        fs::write(&file, &page).unwrap();
    }
    let kept = fs::read_to_string(&file).unwrap();
    let differs = kept.bytes().zip(page.bytes()).position(|(kept, page)| kept != page);
    let around = |text: &str, at: usize| {
        String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(100)..text.len().min(at + 100)])
            .into_owned()
    };
    if let Some(at) = differs {
        panic!("at byte {at}\nkept: {}\nnow:  {}", around(&kept, at), around(&page, at));
    }
    assert_eq!(kept.len(), page.len());
}

#[test]
fn nothing_in_a_page_does_anything_or_comes_from_elsewhere() {
    for (name, report) in pages() {
        let page = html(&report);
        for word in ["<script", "<img", "<link", "http:", "https:", "url(", "src=x onerror=\"", "@import"] {
            assert!(!page.contains(word), "{name} has {word}");
        }
        assert_eq!(page.matches("<style").count(), 1, "{name}");
        assert!(page.contains("default-src 'none'"), "{name}");
    }
    let page = html(&hostile().report());
    assert!(page.contains("&lt;script&gt;document.title="), "what is hostile is shown as text");
    assert!(page.contains("16000 more characters are in the journal"));
}

#[test]
fn a_page_tells_what_its_journal_knows() {
    let page = html(&resumed_a_day_later().report());
    for word in [
        "dba@bastion.example",
        "Irongate 0.1.0",
        "process 4711",
        "look at csp-replicat",
        "0/1A2FF08",
        "9f86d081884c7d65",
        "23 h 53 min",
        "no longer &quot;main&quot;",
    ] {
        assert!(page.contains(word), "{word}\n{page}");
    }
    let lost = html(&hostile().report());
    for word in ["cannot be known", "irongate salvage main", "640", "--resume failover-20261121150000000000"]
    {
        assert!(lost.contains(word), "{word}");
    }
    assert!(!lost.contains("--abort"), "behind the opening nothing is taken back");
    let half = html(&begun().report());
    for word in ["applications are kept out", "--resume switchover-", "--abort switchover-", "lasts"] {
        assert!(half.contains(word), "{word}");
    }
}

#[tokio::test]
async fn everything_on_a_page_can_be_read_in_a_browser() {
    let Some(browser) = Browser::find_or_skip("everything_on_a_page_can_be_read_in_a_browser") else {
        return;
    };
    for (name, report) in pages() {
        let page = html(&report);
        for seen in browser.look(&page, &WIDTHS).await {
            let width = seen.width;
            assert!(seen.said.is_empty(), "{name} at {width}: {:#?}", seen.said);
            assert!(seen.texts > 40, "{name} at {width}: {} pieces of text", seen.texts);
        }
    }
    // The measure finds what it is there for.
    let wide = "<body><p style='width:3000px'>wide</p><p style='position:absolute;top:0;left:0'>over</p>";
    let said = browser.look(wide, &[400]).await[0].said.join("\n");
    assert!(said.contains("sticks out") && said.contains("lies on"), "{said}");
    let hostile = browser.dom(&html(&hostile().report())).await;
    assert!(hostile.contains("<title>failover-20261121150000000000: unfinished</title>"), "nothing was run");
}
