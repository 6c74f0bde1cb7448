//! A change of roles of the reference deployment with names in BIND and every hook, from site to site and back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use irongate_tests::{Network, Plan, Reference, SITES, Server, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use super::bind::{Bind, ZONE};

const PATIENCE: Duration = Duration::from_secs(120);
const HOOKS: [&str; 10] = [
    "stop-applications",
    "start-applications",
    "fence",
    "open",
    "point-name",
    "push-name",
    "notify",
    "enable-jobs",
    "disable-jobs",
    "probe",
];

/// Hooks of both sites that write down who was asked for what, and fail where a file says so.
struct Hooks<'a> {
    dir: &'a Path,
}

impl Hooks<'_> {
    /// Makes them; the sections that configure them.
    fn make(&self) -> String {
        let mut text = String::new();
        for site in SITES {
            let path = self.path(site);
            let script = format!(
                "#!/bin/sh\ncd {} || exit 9\necho \"$IRONGATE_SITE $IRONGATE_HOOK $IRONGATE_STEP $IRONGATE_BACK\" >> calls\n\
                 if [ -e \"slow-$IRONGATE_SITE-$IRONGATE_HOOK\" ]; then sleep 3; echo \"$IRONGATE_SITE $IRONGATE_HOOK is over\" >> calls; fi\n\
                 if [ -e \"break-$IRONGATE_SITE-$IRONGATE_HOOK\" ]; then echo 'first things'; echo 'it is broken'; exit 3; fi\n\
                 echo \"done for $IRONGATE_DATABASES\"\n",
                self.dir.display()
            );
            fs::write(&path, script).unwrap();
            self.executable(site, true);
            for hook in HOOKS {
                text +=
                    &format!("[hooks.{site}.{hook}]\npath = \"{}\"\ntime_limit = \"20s\"\n", path.display());
            }
        }
        text
    }

    fn path(&self, site: &str) -> PathBuf {
        self.dir.join(format!("hook-{site}"))
    }

    fn executable(&self, site: &str, is: bool) {
        let mode = if is { 0o755 } else { 0o644 };
        fs::set_permissions(self.path(site), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn broken(&self, what: &str, is: bool) {
        let path = self.dir.join(format!("break-{what}"));
        if is { fs::write(path, "").unwrap() } else { fs::remove_file(path).unwrap() }
    }

    /// What was asked for since the last time.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.dir.join("calls"));
        text.lines().map(str::to_owned).collect()
    }
}

async fn deployment(bind: &Bind, network: Option<Network>, hooks: &str) -> Reference {
    let key = format!("\"{}\"", bind.dir.path().join("names.key").display());
    let access = "[access.config]\nroles = [\"app\"]\n";
    let more =
        [access, &bind.section(&[("key_file", key), ("time_limit", "\"5s\"".to_owned())]), hooks].concat();
    let major = Server::majors()[0];
    let plan = Plan::new(major).more(&more).control();
    let plan = match network {
        Some(network) => plan.at(network),
        None => plan,
    };
    let reference = plan.make().await;
    for server in &reference.servers {
        server.batch_in("config", "CREATE ROLE app LOGIN; GRANT ALL ON entry TO app").await;
    }
    reference.expect("main", 0, &["setup", "csp"]).await;
    reference.expect("secondary", 0, &["setup", "css"]).await;
    reference.expect("secondary", 0, &["fence", "secondary"]).await;
    reference
}

/// Waits until everything runs but the reverse set.
async fn running(reference: &Reference) {
    wait_until(PATIENCE, "everything but the reverse set to run", async || {
        let groups = reference.groups("main").await;
        let reverse = groups.iter().filter(|group| group["flow"] == "css").count();
        let running = groups.iter().filter(|group| group["state"] == "RUNNING").count();
        reverse == 3 && running == 11
    })
    .await;
}

fn step<'a>(report: &'a Value, name: &str) -> &'a Value {
    let steps = report["steps"].as_array().unwrap();
    steps.iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("no step {name} in {report}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_takes_names_applications_and_jobs_with_it() {
    let network = Network::start().ok();
    let places = network.as_ref().map(|network| [0, 1].map(|number| network.site(number).clone()));
    let bind = Bind::start_at(places, "hmac-sha256", |_| {}).await;
    let hooks = Hooks { dir: bind.dir.path() };
    let mut reference = deployment(&bind, network, &hooks.make()).await;
    let managers = SITES.map(|site| reference.start(site, &["manager"]));
    running(&reference).await;
    let there = ["switchover", "--to", "secondary"];
    let name = |number: usize| bind.says(number, "A", &format!("db.{ZONE}"));

    // What would not work is found before anything is done: at both sites, and at every name server.
    hooks.executable("main", false);
    bind.signal(1, Signal::STOP);
    let said = reference.expect("secondary", 3, &[&there[..], &["--dry-run"]].concat()).await.stderr;
    let path = hooks.path("main").display().to_string();
    assert!(said.contains(&format!("hook \"fence\" of site \"main\", {path}, cannot be run")), "{said}");
    assert!(said.contains(&format!("name server {}: it does not answer", bind.server(1))), "{said}");
    bind.signal(1, Signal::CONT);
    hooks.executable("main", true);
    // What counts is what the manager of the site has read: not the file of whoever leads the run.
    let file = reference.directory.path().join("irongate.toml");
    let right = fs::read_to_string(&file).unwrap();
    fs::write(&file, right.replace("hook-main", "hook-gone")).unwrap();
    reference.expect("main", 0, &["reload"]).await;
    fs::write(&file, &right).unwrap();
    let said = reference.expect("secondary", 3, &there).await.stderr;
    assert!(said.contains("hook-gone, cannot be run: No such file"), "{said}");
    reference.expect("main", 0, &["reload"]).await;
    bind.edit("update delete db.shop.example A\nupdate add db.shop.example 30 A 192.0.2.77");
    let said = reference.expect("secondary", 3, &there).await.stderr;
    assert!(said.contains("db.shop.example A says 192.0.2.77"), "{said}");
    bind.edit("update delete db.shop.example A\nupdate add db.shop.example 30 A 192.0.2.1");
    assert_eq!(hooks.calls(), [""; 0], "nothing is run by a check");
    let dry = reference.json("secondary", &[&there[..], &["--dry-run"]].concat()).await;
    assert_eq!(step(&dry, "prechecks")["evidence"]["reach"]["zones"][0]["key"], "irongate", "{dry}");

    // A hook that fails: the run stands still there, and goes on there.
    hooks.broken("secondary-start-applications", true);
    let said = reference.expect("secondary", 4, &there).await.stderr;
    let expected = "hook \"start-applications\" of site \"secondary\" failed: exit status: 3: it is broken";
    assert!(said.contains(expected) && said.contains("--resume"), "{said}");
    assert_eq!((name(0), name(1)), ("192.0.2.1".into(), "192.0.2.1".into()), "the name waits for its step");
    let runs = reference.json("secondary", &["runs"]).await;
    let run = runs["runs"].as_array().unwrap().last().unwrap();
    assert_eq!(run["result"], "unfinished");
    let shown = reference.json("secondary", &["runs", run["run"].as_str().unwrap()]).await;
    assert!(shown.to_string().contains("first things\\nit is broken"), "what it printed is kept: {shown}");
    reference.expect("secondary", 3, &[&there[..], &["--abort"]].concat()).await;
    reference.expect("secondary", 4, &[&there[..], &["--resume"]].concat()).await;
    hooks.broken("secondary-start-applications", false);
    let report = reference.json("secondary", &[&there[..], &["--resume"]].concat()).await;
    assert_eq!(report["result"], "done");
    let start = "secondary start-applications start-applications no";
    let expected = [
        "main stop-applications stop-applications no",
        "main disable-jobs disable-jobs no",
        "main fence fence-hook no",
        "secondary open open-hook no",
        start,
        start,
        start,
        "secondary enable-jobs enable-jobs no",
        "secondary point-name point-name no",
        "main point-name point-name no",
        "secondary push-name push-name no",
        "main push-name push-name no",
        "secondary notify notify no",
        "main notify notify no",
    ];
    assert_eq!(hooks.calls(), expected);
    assert_eq!((name(0), name(1)), ("192.0.2.2".into(), "192.0.2.2".into()));
    let pointed = &step(&report, "point-name")["evidence"];
    assert_eq!(pointed["zones"][0]["changed"].as_array().unwrap().len(), 4, "{pointed}");
    assert!(pointed["zones"][0]["caches_until"].is_string());
    assert_eq!(pointed["hooks"][1]["site"], "main");
    assert_eq!(step(&report, "stop-applications")["evidence"]["hooks"][0]["output"], "done for config\n");
    let told = reference.events("main").await;
    let ran = |event: &&Value| event["kind"] == "hook-ran" && event["site"] == "main";
    assert_eq!(told.iter().filter(ran).count(), 6, "{told:?}");
    assert!(
        told.iter()
            .any(|event| event["text"].as_str().unwrap().contains("from site \"secondary\": done after"))
    );

    // Back, taken back before the point of no return: what was stopped is started again, in the opposite order.
    hooks.broken("secondary-fence", true);
    let said = reference.expect("main", 4, &["switchback"]).await.stderr;
    assert!(
        said.contains("hook \"fence\" of site \"secondary\" failed") && said.contains("--abort"),
        "{said}"
    );
    hooks.calls();
    reference.expect("main", 0, &["switchback", "--abort"]).await;
    let expected = [
        "secondary open fence-hook yes",
        "secondary enable-jobs disable-jobs yes",
        "secondary start-applications stop-applications yes",
    ];
    assert_eq!(hooks.calls(), expected);
    // The names have never led elsewhere, and the run looks.
    let at_main = async || {
        let runs = reference.json("main", &["runs"]).await;
        let last = runs["runs"].as_array().unwrap().last().unwrap()["run"].as_str().unwrap().to_owned();
        reference.json("main", &["runs", &last]).await
    };
    let aborted = at_main().await;
    let left = &step(&aborted, "lock")["evidence"]["names"];
    assert_eq!((&aborted["result"], &left["site"]), (&"aborted".into(), &"secondary".into()), "{aborted}");
    assert_eq!(left["astray"], serde_json::json!([]), "{aborted}");
    assert_eq!((name(0), name(1)), ("192.0.2.2".into(), "192.0.2.2".into()));
    // Somebody has pointed one elsewhere meanwhile: that is said, and what to type.
    reference.expect("main", 4, &["switchback"]).await;
    bind.edit("update delete db.shop.example A\nupdate add db.shop.example 30 A 192.0.2.1");
    let said = reference.expect("main", 0, &["switchback", "--abort"]).await.stderr;
    assert!(said.contains("db.shop.example A does not lead to site \"secondary\""), "{said}");
    let aborted = at_main().await;
    assert!(aborted["next"].to_string().contains("irongate name point --to secondary"), "{aborted}");
    assert_eq!(name(0), "192.0.2.1", "what somebody did is left to him");
    reference.expect("secondary", 0, &["name", "point", "--to", "secondary"]).await;
    hooks.calls();
    hooks.broken("secondary-fence", false);
    assert_eq!(name(0), "192.0.2.2");

    // The leader of a run dies while a hook is at work: that one comes to its end, and then it is run again.
    fs::write(bind.dir.path().join("slow-secondary-fence"), "").unwrap();
    let mut leader = reference.start("main", &["switchback"]);
    wait_until(PATIENCE, "the slow hook to begin", async || {
        let calls = fs::read_to_string(bind.dir.path().join("calls")).unwrap_or_default();
        calls.contains("secondary fence fence-hook no")
    })
    .await;
    leader.kill();
    reference.expect("main", 0, &["switchback", "--resume"]).await;
    let fences: Vec<_> = hooks.calls().into_iter().filter(|call| call.contains("fence")).collect();
    let once = ["secondary fence fence-hook no", "secondary fence is over"];
    assert_eq!(fences, [once, once].concat());
    fs::remove_file(bind.dir.path().join("slow-secondary-fence")).unwrap();
    reference.expect("secondary", 0, &there).await;
    assert_eq!(name(1), "192.0.2.2");

    // A frozen name server: the site writes, and the run says that somebody must look.
    bind.signal(1, Signal::STOP);
    let said = reference.expect("main", 3, &["switchback"]).await.stderr;
    assert!(said.contains("it does not answer"), "{said}");
    bind.signal(1, Signal::CONT);
    // That nobody can be told does not keep the site from writing, and is said.
    hooks.broken("main-notify", true);
    let report = reference.json("main", &["switchback"]).await;
    assert_eq!((&report["result"], name(1)), (&"done".into(), "192.0.2.1".into()));
    let told = &step(&report, "notify")["evidence"]["hooks"];
    assert_eq!((&told[0]["result"], &told[1]["result"]), (&"not-done".into(), &"done".into()), "{told}");
    hooks.calls();

    // The other site is lost: what can be asked there is tried, and the names come over.
    reference.kill("main");
    reference.servers[0].kill();
    // As long as other hosts see it, it is not lost.
    let failover = ["failover", "--to", "secondary", "--accept-loss"];
    let said = reference.expect("secondary", 3, &failover).await.stderr;
    assert!(said.contains("main, asked from elsewhere answers: done for config"), "{said}");
    assert_eq!(hooks.calls(), ["secondary probe prechecks no"]);
    hooks.broken("secondary-probe", true);
    let report = reference.json("secondary", &failover).await;
    let probes = &step(&report, "prechecks")["evidence"]["probes"];
    assert_eq!(probes[2]["answers"], false, "{probes}");
    assert!(probes[2]["answer"].as_str().unwrap().contains("it is broken"), "{probes}");
    let tried = &step(&report, "quiet-lost")["evidence"]["hooks"];
    assert_eq!((tried.as_array().unwrap().len(), &tried[0]["result"]), (1, &"not-done".into()), "{tried}");
    // It is looked before the run begins, and in its first step.
    let expected =
        ["probe prechecks", "probe prechecks", "open open-hook", "start-applications start-applications"]
            .into_iter()
            .chain([
                "enable-jobs enable-jobs",
                "point-name point-name",
                "push-name push-name",
                "notify notify",
            ]);
    assert_eq!(hooks.calls(), expected.map(|call| format!("secondary {call} no")).collect::<Vec<_>>());
    assert_eq!((name(0), name(1)), ("192.0.2.2".into(), "192.0.2.2".into()));

    // It comes back, and its services have started by themselves: they are stopped before it becomes a standby.
    let [_, secondary] = managers;
    reference.servers[0].start_again().await;
    let main = reference.start("main", &["manager"]);
    wait_until(PATIENCE, "the site that came back to be closed, and its manager to answer", async || {
        let closed = reference.servers[0].try_client("app", "config").await.is_err();
        let groups = reference.start("main", &["info", "--here", "csp", "--json"]).finish(PATIENCE).await;
        closed && groups.code() == 0 && ["ABENDED", "STOPPED"].iter().any(|word| groups.stdout.contains(word))
    })
    .await;
    reference.json("secondary", &["reinstate", "main", "--accept-loss"]).await;
    let expected = [
        "main stop-applications stop-applications no",
        "main disable-jobs disable-jobs no",
        "main fence fence-hook no",
        "secondary notify notify no",
        "main notify notify no",
    ];
    assert_eq!(hooks.calls(), expected);
    // A drill finds out whether all of it could be done, and does none of it.
    hooks.executable("secondary", false);
    let said = reference.expect("main", 3, &["switchover", "--to", "main", "--drill"]).await.stderr;
    assert!(said.contains("hook \"stop-applications\" of site \"secondary\""), "{said}");
    hooks.executable("secondary", true);
    reference.expect("main", 0, &["switchover", "--to", "main", "--drill"]).await;
    assert_eq!((hooks.calls(), name(0)), (Vec::new(), "192.0.2.2".into()));
    for mut manager in [main, secondary] {
        manager.terminate();
        manager.wait(PATIENCE).await;
    }
}
