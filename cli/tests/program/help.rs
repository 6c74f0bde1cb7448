//! Every command explains itself.

use super::irongate;

/// The commands that a help text lists.
fn listed(help: &str) -> Vec<String> {
    let commands = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

fn visit(path: &mut Vec<String>, seen: &mut Vec<String>) {
    let here = tempfile::tempdir().unwrap();
    let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
    arguments.push("--help");
    let answer = irongate(here.path(), &arguments).expect(0);
    assert!(answer.stdout.contains("Usage: irongate"), "{path:?}: {}", answer.stdout);
    assert!(answer.stderr.is_empty(), "{path:?}: {}", answer.stderr);
    for option in ["--config", "--site", "--json", "--log-format", "--verbose"] {
        assert!(answer.stdout.contains(option), "{path:?} does not list {option}");
    }
    seen.push(path.join(" "));
    for name in listed(&answer.stdout) {
        path.push(name);
        visit(path, seen);
        path.pop();
    }
}

#[test]
fn every_command_has_help_and_no_command_is_an_empty_promise() {
    let mut seen = Vec::new();
    visit(&mut Vec::new(), &mut seen);
    let expected = [
        "",
        "demo",
        "init",
        "check",
        "setup",
        "teardown",
        "instantiate",
        "export",
        "import",
        "run",
        "manager",
        "start",
        "stop",
        "restart",
        "kill",
        "events",
        "report",
        "reload",
        "health",
        "certs",
        "switchover",
        "switchback",
        "failover",
        "reinstate",
        "runs",
        "salvage",
        "fence",
        "open",
        "name",
        "name show",
        "name point",
        "info",
        "lag",
        "stats",
        "position",
        "trail",
        "trail ls",
        "trail dump",
        "trail check",
        "trail purge",
        "errors",
        "errors list",
        "errors show",
        "errors replay",
        "errors skip",
        "conflicts",
        "conflicts list",
        "conflicts show",
        "conflicts accept",
        "conflicts purge",
        "compare",
        "repair",
        "large-objects",
        "large-objects compare",
        "large-objects copy",
        "sequences",
        "completions",
        "man",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn the_version_is_the_package_s() {
    let here = tempfile::tempdir().unwrap();
    let answer = irongate(here.path(), &["--version"]).expect(0);
    assert_eq!(answer.stdout.trim(), concat!("irongate ", env!("CARGO_PKG_VERSION")));
}
