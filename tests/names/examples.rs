//! The examples of hooks in `scripts/hooks/`, each run as a manager runs it. Where they talk to programs that are not on
//! every machine, a program of the same name stands in and writes down how it was called.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use irongate_tests::{Server, Settings, TempDir};

/// A directory of programs that write down how they were called, before all others.
struct Stage {
    dir: TempDir,
}

impl Stage {
    fn new() -> Self {
        let stage = Self { dir: TempDir::new() };
        fs::create_dir(stage.path("bin")).unwrap();
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program. Whatever it does, it has written down its name and its arguments before.
    fn program(&self, name: &str, text: &str) {
        let (path, calls) = (self.path("bin").join(name), self.path("calls"));
        let text = format!("#!/bin/sh\necho \"{name} $*\" >> {}\n{text}\n", calls.display());
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// systemd with units that are active or not, as files say.
    fn systemd(&self) {
        let units = self.path("units");
        fs::create_dir(&units).unwrap();
        let text = format!(
            "cd {} || exit 9\nfor unit; do :; done\ncase $1 in\n\
             start) [ ! -e \"$unit.broken\" ] || exit 1; touch \"$unit\" ;;\n\
             enable) touch \"$unit\" ;;\nstop | disable) rm -f \"$unit\" ;;\nis-active) [ -e \"$unit\" ] ;;\nesac",
            units.display()
        );
        self.program("systemctl", &text);
    }

    /// Runs an example.
    fn run(&self, hook: &str, variables: &[(&str, &str)]) -> Output {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/hooks").join(hook);
        let mut command = Command::new(path);
        let programs =
            format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap_or_default());
        command.env_clear().env("PATH", programs).env("HOME", self.dir.path()).envs([
            ("IRONGATE_HOOK", hook),
            ("IRONGATE_RUN", "switchover-1"),
            ("IRONGATE_PLAN", "switchover"),
            ("IRONGATE_STEP", hook),
            ("IRONGATE_SITE", "main"),
            ("IRONGATE_FROM", "main"),
            ("IRONGATE_TO", "secondary"),
            ("IRONGATE_DATABASES", "config"),
            ("IRONGATE_HOLDER", "dba@here"),
            ("IRONGATE_BACK", "no"),
        ]);
        command.envs(variables.iter().copied()).current_dir(self.dir.path());
        let input = self.path("input");
        fs::write(&input, "{\"run\":\"switchover-1\"}\n").unwrap();
        command.stdin(fs::File::open(input).unwrap()).output().unwrap()
    }

    /// Runs one, and expects that it ends well or not; what it printed.
    fn expect(&self, well: bool, hook: &str, variables: &[(&str, &str)]) -> String {
        let output = self.run(hook, variables);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(output.status.success(), well, "{hook}: {text}");
        text
    }

    /// How programs were called since the last time.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn applications_start_in_order_each_when_the_one_before_is_healthy() {
    let stage = Stage::new();
    stage.systemd();
    let services = ("SERVICES", "message config-1 config-2 control");
    // Healthy at the second look, and not before the one that it needs.
    let seen = stage.path("seen");
    let probe = format!("[ -e {0}-$1 ] && exit 0; touch {0}-$1; exit 1", seen.display());
    stage.program("probe", &probe);
    let probe = stage.path("bin/probe").display().to_string();
    stage.expect(true, "start-applications", &[services, ("PROBE", &probe)]);
    let expected: Vec<String> = ["message", "config-1", "config-2", "control"]
        .iter()
        .flat_map(|unit| {
            [format!("systemctl start {unit}"), format!("probe {unit}"), format!("probe {unit}")]
        })
        .collect();
    assert_eq!(stage.calls(), expected);
    // Done again it is done already: nothing is stopped.
    stage.expect(true, "start-applications", &[services]);
    assert!(stage.calls().iter().all(|call| !call.contains("stop")));

    stage.expect(true, "stop-applications", &[services]);
    let stops: Vec<_> = stage.calls().into_iter().filter(|call| call.contains(" stop ")).collect();
    assert_eq!(
        stops,
        ["control", "config-2", "config-1", "message"].map(|unit| format!("systemctl stop {unit}"))
    );

    // The pair's first does not start: nothing behind it is touched. One that is never healthy is named.
    fs::write(stage.path("units/config-1.broken"), "").unwrap();
    stage.expect(false, "start-applications", &[services]);
    assert!(!stage.calls().iter().any(|call| call.contains("config-2")));
    stage.program("probe", "exit 1");
    let said = stage.expect(
        false,
        "start-applications",
        &[("SERVICES", "control"), ("PROBE", &probe), ("PROBE_SECONDS", "1")],
    );
    assert!(said.ends_with("control was started and is not healthy after 1 s\n"), "{said}");
    stage.program("systemctl", "exit 0");
    let said = stage.expect(false, "stop-applications", &[services]);
    assert!(said.ends_with("control was stopped and is still active\n"), "{said}");
    assert!(stage.expect(false, "stop-applications", &[]).contains("SERVICES"));
}

#[test]
fn a_hosts_file_is_changed_at_once_and_only_where_it_must_be() {
    let stage = Stage::new();
    let file = stage.path("hosts");
    let before = "127.0.0.1\tlocalhost   # keep\n192.0.2.10 Config-DB.example.com other config-db # pinned\n\n\
                  # config-db in a comment\n192.0.2.10\tconfig-db.example.com\n::1 localhost\n";
    fs::write(&file, before).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let path = file.display().to_string();
    let variables = [
        ("NAMES", "config-db.example.com config-db"),
        ("ADDRESSES", "main=192.0.2.10 secondary=198.51.100.10"),
        ("HOSTS_FILE", path.as_str()),
    ];
    stage.expect(true, "point-name", &variables);
    let after = "127.0.0.1\tlocalhost   # keep\n192.0.2.10 other # pinned\n\n# config-db in a comment\n::1 localhost\n\
                 198.51.100.10 config-db.example.com config-db\n";
    assert_eq!(fs::read_to_string(&file).unwrap(), after);
    let facts = fs::metadata(&file).unwrap();
    assert_eq!(facts.mode() & 0o777, 0o640);
    // Done again, the file is not even touched.
    assert!(stage.expect(true, "point-name", &variables).contains("already"));
    assert_eq!(fs::metadata(&file).unwrap().ino(), facts.ino());
    let back = [&variables[..], &[("IRONGATE_BACK", "yes")]].concat();
    stage.expect(true, "point-name", &back);
    assert_eq!(fs::read_to_string(&file).unwrap(), after.replace("198.51.100.10", "192.0.2.10"));
    let nowhere = [&variables[..], &[("IRONGATE_TO", "moon")]].concat();
    assert!(stage.expect(false, "point-name", &nowhere).contains("no address of site moon"));
    let left: Vec<_> =
        fs::read_dir(stage.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.iter().filter(|name| name.to_string_lossy().starts_with("hosts")).count(), 1, "{left:?}");
}

#[test]
fn a_name_is_pushed_to_every_host_and_those_where_it_fails_are_named() {
    let stage = Stage::new();
    stage.program("ssh", "case $* in *proxy2*) exit 255 ;; esac");
    let variables = [("HOSTS", "proxy1 proxy2 proxy3"), ("COMMAND", "sudo -n systemctl reload haproxy")];
    let said = stage.expect(false, "push-name", &variables);
    assert!(said.contains("proxy2: exit code 255") && said.ends_with("not done at: proxy2\n"), "{said}");
    let calls = stage.calls();
    assert_eq!(calls.len(), 3);
    assert_eq!(calls[2], "ssh -o BatchMode=yes -o ConnectTimeout=5 proxy3 sudo -n systemctl reload haproxy");
    stage.program("at", "");
    stage.expect(true, "push-name", &[&variables[..], &[("CONNECT", "at")]].concat());
    assert_eq!(stage.calls()[1], "at proxy2 sudo -n systemctl reload haproxy");
}

#[test]
fn health_checks_see_the_fence_and_people_are_told() {
    let stage = Stage::new();
    let flag = stage.path("fenced").display().to_string();
    for _ in 0..2 {
        stage.expect(true, "fence", &[("FLAG", &flag)]);
        assert_eq!(fs::read_to_string(&flag).unwrap(), "1\n");
    }
    for _ in 0..2 {
        stage.expect(true, "open", &[("FLAG", &flag)]);
        assert!(!Path::new(&flag).exists());
    }
    for name in ["logger", "mail", "curl"] {
        let file = stage.path(name);
        stage.program(
            name,
            &if name == "logger" { String::new() } else { format!("cat > {}", file.display()) },
        );
    }
    stage.expect(
        true,
        "notify",
        &[("MAIL_TO", "dba@example.com"), ("WEBHOOK", "https://hooks.example.com/x")],
    );
    let text = "switchover from main to secondary (config): run switchover-1 of dba@here";
    let calls = stage.calls();
    assert_eq!(calls[0], format!("logger -t irongate {text}"));
    assert_eq!(calls[1], "mail -s irongate: switchover to secondary dba@example.com");
    assert!(calls[2].ends_with("https://hooks.example.com/x"), "{calls:?}");
    assert_eq!(fs::read_to_string(stage.path("mail")).unwrap(), format!("{text}\n"));
    assert_eq!(fs::read_to_string(stage.path("curl")).unwrap(), "{\"run\":\"switchover-1\"}\n");
    stage.program("curl", "exit 22");
    stage.expect(false, "notify", &[("WEBHOOK", "https://hooks.example.com/x")]);
    assert_eq!(stage.calls().len(), 2, "no mail without an address");
}

#[test]
fn a_site_that_others_still_see_is_not_lost() {
    let stage = Stage::new();
    // Two hosts that can be asked, of which one sees the site, and one that cannot.
    stage.program("ssh", "case \"$*\" in *deaf*) exit 255 ;; *near*) exit 0 ;; esac; exit 1");
    let address = ("ADDRESSES", "main=192.0.2.10:5432 secondary=198.51.100.10:5433");
    let said = stage.expect(true, "probe", &[("WITNESSES", "deaf far near"), address]);
    assert_eq!(said, "192.0.2.10:5432 of main: seen from near; not seen from far; not to be asked: deaf\n");
    let call = "ssh -o BatchMode=yes -o ConnectTimeout=5 far nc -z -w 5 192.0.2.10 5432";
    assert_eq!(stage.calls()[1], call);
    let said = stage.expect(false, "probe", &[("WITNESSES", "deaf far"), address]);
    assert!(said.contains("seen from nobody"), "{said}");
    let said = stage.expect(false, "probe", &[("WITNESSES", "far"), ("ADDRESSES", "secondary=x:1")]);
    assert!(said.contains("no address of site main"), "{said}");
    stage.expect(false, "probe", &[address]);
}

#[tokio::test]
async fn jobs_are_quiet_at_a_standby() {
    let stage = Stage::new();
    stage.systemd();
    let timers = [("TIMERS", "report.timer import.timer")];
    fs::write(stage.path("units/report.service"), "").unwrap();
    stage.expect(true, "enable-jobs", &timers);
    assert_eq!(stage.calls(), ["systemctl enable --now report.timer", "systemctl enable --now import.timer"]);
    stage.expect(true, "disable-jobs", &timers);
    assert_eq!(stage.calls()[..2], ["systemctl disable --now report.timer", "systemctl stop report.service"]);
    assert_eq!(fs::read_dir(stage.path("units")).unwrap().count(), 0);

    let major = *Server::majors().last().unwrap();
    let server = Server::start(major, &Settings::new()).await;
    server
        .batch(
            "CREATE SCHEMA cron; CREATE TABLE cron.job (jobid bigserial, jobname text, active bool DEFAULT true);
             INSERT INTO cron.job (jobname) VALUES ('report'), ('it''s'), ('other')",
        )
        .await;
    let address = server.uri("postgres", "postgres");
    let jobs = [("JOBS", "report it's"), ("JOBS_DATABASE", address.as_str())];
    let active = async || {
        let sql = "SELECT coalesce(string_agg(jobname, ',' ORDER BY jobname), '') FROM cron.job WHERE active";
        server.scalar("postgres", sql).await
    };
    stage.expect(true, "disable-jobs", &jobs);
    assert_eq!(active().await, "other");
    stage.expect(true, "enable-jobs", &jobs);
    assert_eq!(active().await, "it's,other,report");
    stage.expect(false, "disable-jobs", &[&jobs[..], &[("JOBS_TABLE", "cron.nothing")]].concat());
    assert!(stage.expect(false, "disable-jobs", &[("JOBS", "report")]).contains("say where the table is"));
}
