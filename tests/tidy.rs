//! The laws of the house that no compiler knows: which crate may use which, how long a file may be, what may not be in
//! it. Each says what to do instead.

#![expect(
    clippy::unwrap_used,
    reason = "what is not as expected here fails the test, and the panic says where"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use toml::{Table, Value};

/// Folder of each crate, and the crates that it may use. What is not listed is forbidden.
const ARROWS: &[(&str, &[&str])] = &[
    ("trail", &[]),
    ("postgres", &["trail"]),
    ("checkpoint", &["trail", "postgres"]),
    ("capture", &["trail", "postgres", "checkpoint"]),
    ("pump", &["trail", "checkpoint"]),
    ("apply", &["trail", "postgres", "checkpoint"]),
    ("verify", &["trail", "postgres", "checkpoint"]),
    ("deployment", &["trail", "postgres", "checkpoint", "capture", "apply", "pump"]),
    ("manager", &["trail", "postgres", "checkpoint", "capture", "apply", "pump", "verify", "deployment"]),
    (
        "switchover",
        &["trail", "postgres", "checkpoint", "capture", "apply", "pump", "verify", "deployment", "manager"],
    ),
    (
        "cli",
        &[
            "trail",
            "postgres",
            "checkpoint",
            "capture",
            "apply",
            "pump",
            "verify",
            "deployment",
            "manager",
            "switchover",
        ],
    ),
];

/// The most lines of a Rust file.
const LINES: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file that is ours, with its path from the root.
fn files() -> Vec<(String, PathBuf)> {
    fn walk(dir: &Path, root: &Path, found: &mut Vec<(String, PathBuf)>) {
        const NOT_OURS: [&str; 4] = [".git", "corpus", "artifacts", "node_modules"];
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let (name, path) = (entry.file_name().into_string().unwrap(), entry.path());
            if entry.file_type().unwrap().is_dir() {
                // What cargo builds bears its mark; a folder of ours may be called "target" too.
                if !NOT_OURS.contains(&name.as_str()) && !path.join("CACHEDIR.TAG").exists() {
                    walk(&path, root, found);
                }
            } else {
                found.push((path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), path));
            }
        }
    }
    let (root, mut found) = (root(), Vec::new());
    walk(&root, &root, &mut found);
    found.sort();
    found
}

fn with_extension(extension: &str) -> Vec<(String, String)> {
    let wanted =
        files().into_iter().filter(|(_, path)| path.extension().is_some_and(|given| given == extension));
    // An editor may be at it: a file that is gone between listing and reading is not there.
    let found: Vec<_> =
        wanted.filter_map(|(name, path)| Some((name, fs::read_to_string(path).ok()?))).collect();
    assert!(!found.is_empty(), "there is no file *.{extension}: this test looks in the wrong place");
    found
}

fn rust_files() -> Vec<(String, String)> {
    with_extension("rs")
}

fn manifest(folder: &str) -> Table {
    let path = root().join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn members() -> Vec<String> {
    let workspace = manifest(".");
    let members = workspace["workspace"]["members"].as_array().unwrap();
    members.iter().map(|member| member.as_str().unwrap().to_owned()).collect()
}

/// All dependencies of a manifest, of every kind and platform, by the name of the package.
fn dependencies(manifest: &Table) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut tables = vec![manifest];
    let platforms = manifest.get("target").and_then(Value::as_table);
    tables.extend(platforms.into_iter().flat_map(|all| all.values().filter_map(Value::as_table)));
    for table in tables {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in table.get(kind).and_then(Value::as_table).into_iter().flatten() {
                let renamed = value.get("package").and_then(Value::as_str);
                found.insert(renamed.unwrap_or(name).to_owned(), value.clone());
            }
        }
    }
    found
}

/// Fails with all complaints at once.
fn none(complaints: Vec<String>, remedy: &str) {
    assert!(complaints.is_empty(), "{remedy}:\n  {}", complaints.join("\n  "));
}

/// Whether `text` has `word` with no letter before or behind it.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let letter = |c: char| c.is_alphanumeric() || c == '_';
        !text[..at].chars().next_back().is_some_and(letter)
            && !text[at + word.len()..].chars().next().is_some_and(letter)
    })
}

#[test]
fn dependencies_follow_the_arrows_of_the_design() {
    let mut complaints = Vec::new();
    for folder in members().iter().filter(|folder| *folder != "tests") {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| name == folder) else {
            complaints.push(format!("the folder \"{folder}\" is not in the table of crates"));
            continue;
        };
        let manifest = manifest(folder);
        let name = manifest["package"]["name"].as_str().unwrap();
        let expected = if folder == "cli" { "irongate".to_owned() } else { format!("irongate-{folder}") };
        if name != expected {
            complaints.push(format!("the package in \"{folder}\" is called \"{name}\", not \"{expected}\""));
        }
        for used in dependencies(&manifest).keys().filter_map(|name| name.strip_prefix("irongate-")) {
            if !allowed.contains(&used) {
                complaints.push(format!("\"{folder}\" uses \"{used}\""));
            }
        }
    }
    none(
        complaints,
        "arrows between crates point one way (ARCHITECTURE.md): move what is shared down, or pass it in",
    );
}

#[test]
fn nothing_is_named_after_what_it_is_not() {
    let crates = members()
        .into_iter()
        .filter(|name| ["common", "utils", "util", "types", "helpers"].contains(&name.as_str()));
    let mut complaints: Vec<_> = crates.collect();
    for (name, _) in files() {
        let stem = Path::new(&name).file_stem().unwrap().to_str().unwrap();
        if name.ends_with(".rs") && ["common", "util", "utils", "helper", "helpers", "misc"].contains(&stem) {
            complaints.push(name);
        }
    }
    none(
        complaints,
        "a file is named so that a newcomer finds any line in one guess: name it after the noun it holds",
    );
}

#[test]
fn no_rust_file_is_long() {
    let long = |(name, text): (String, String)| {
        let lines = text.lines().count();
        (lines > LINES).then(|| format!("{name}: {lines} lines"))
    };
    none(rust_files().into_iter().filter_map(long).collect(), "cut by noun before a file passes 600 lines");
}

#[test]
fn modules_are_files_beside_their_folder() {
    let found = files().into_iter().map(|(name, _)| name).filter(|name| name.ends_with("/mod.rs")).collect();
    none(found, "a module with children is foo.rs beside foo/");
}

#[test]
fn nothing_is_left_to_be_done_in_the_code() {
    let macros = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX"), concat!("ha", "ck")];
    let mut complaints = Vec::new();
    for (name, path) in files() {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        if name == "Cargo.lock" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let macros = macros.iter().filter(|call| name.ends_with(".rs") && line.contains(*call));
            let words = words.iter().filter(|word| has_word(line, word)).map(|word| word.to_string());
            for found in macros.cloned().chain(words) {
                complaints.push(format!("{name}:{}: {found}", number + 1));
            }
        }
    }
    none(complaints, "do it now, or open an issue and say in present tense what holds");
}

#[test]
fn no_place_of_one_machine_is_named() {
    // Places that only one developer's machine has.
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/home", "/")];
    let mut complaints = Vec::new();
    for (name, path) in files() {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            if let Some(place) = places.iter().find(|place| line.contains(**place)) {
                complaints.push(format!("{name}:{}: {place}", number + 1));
            }
        }
    }
    none(complaints, "the project works in any directory of any machine");
}

#[test]
fn each_script_can_be_run_and_says_how() {
    use std::os::unix::fs::PermissionsExt;
    let mut complaints = Vec::new();
    let scripts: Vec<_> = files()
        .into_iter()
        .filter(|(name, _)| name.starts_with("scripts/"))
        .filter(|(_, path)| fs::read(path).unwrap().starts_with(b"#!"))
        .collect();
    assert!(!scripts.is_empty(), "there is no script: this test looks in the wrong place");
    for (name, path) in scripts {
        if fs::metadata(&path).unwrap().permissions().mode() & 0o111 != 0o111 {
            complaints.push(format!("{name} is not executable: chmod +x {name}"));
            continue;
        }
        // Without a word of it in the text, running it might do anything.
        if !fs::read_to_string(&path).unwrap().contains("--help") {
            complaints.push(format!("{name} knows no --help"));
            continue;
        }
        let output = Command::new(&path).arg("--help").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
        if !output.status.success() || !text.contains("usage") {
            complaints.push(format!("{name} --help ({}) prints no usage to standard output", output.status));
        }
    }
    none(complaints, "a script is executable and explains itself with --help");
}

#[test]
fn every_crate_lives_under_the_workspace_s_lints() {
    let lints =
        |folder: &String| manifest(folder).get("lints").and_then(|lints| lints.get("workspace")?.as_bool());
    let lax = members().into_iter().filter(|folder| lints(folder) != Some(true)).collect();
    none(lax, "write [lints] workspace = true into the manifest");
}

#[test]
fn bincode_and_sled_are_pinned() {
    let workspace = manifest(".");
    let version = |name: &str| {
        let dependency = &workspace["workspace"]["dependencies"][name];
        dependency.as_str().or_else(|| dependency.get("version")?.as_str()).unwrap_or_default().to_owned()
    };
    assert_eq!(version("bincode"), "=2.0.1", "bincode 3.0.0 is an end-of-life notice that does not compile");
    assert_eq!(version("sled"), "=0.34.7", "sled 1.0 is an alpha");
}

#[test]
fn bincode_is_behind_one_module_of_a_crate() {
    let mut complaints = Vec::new();
    for folder in members() {
        let users: Vec<_> = rust_files()
            .into_iter()
            .filter(|(name, text)| name.starts_with(&format!("{folder}/src/")) && text.contains("bincode::"))
            .map(|(name, _)| name)
            .collect();
        if users.len() > 1 {
            complaints.push(users.join(", "));
        }
    }
    none(complaints, "the stored format is ours and not the crate's: keep bincode behind one module");
}

#[test]
fn some_crates_are_for_some_folders_only() {
    let only = [("sled", &["checkpoint"] as &[_]), ("anyhow", &["cli", "tests"])];
    let mut complaints = Vec::new();
    for folder in members() {
        let used = dependencies(&manifest(&folder));
        for (name, folders) in only {
            if used.contains_key(name) && !folders.contains(&folder.as_str()) {
                complaints.push(format!("\"{folder}\" uses {name}, which is for {}", folders.join(" and ")));
            }
        }
        for (name, value) in used {
            let inherited = value.get("workspace").and_then(Value::as_bool) == Some(true);
            if !inherited && value.get("path").is_none() {
                complaints.push(format!("\"{folder}\" gives {name} a version of its own"));
            }
        }
    }
    none(
        complaints,
        "versions stand in [workspace.dependencies]; libraries have one Error type with thiserror",
    );
}

#[test]
fn every_test_file_is_a_test() {
    // The tests' package has no tests/ folder of its own in which cargo would look by itself.
    let manifest = manifest("tests");
    let targets: Vec<_> = ["test", "bin", "bench"]
        .into_iter()
        .flat_map(|kind| manifest[kind].as_array().unwrap())
        .map(|target| target["path"].as_str().unwrap())
        .collect();
    let sources = rust_files();
    let mut complaints = Vec::new();
    for (name, _) in &sources {
        let Some(path) = name.strip_prefix("tests/") else { continue };
        let (dir, stem) =
            (Path::new(path).parent().unwrap(), Path::new(path).file_stem().unwrap().to_str().unwrap());
        if dir.starts_with("harness") || targets.contains(&path) {
            continue;
        }
        let declared = |(other, text): &(String, String)| {
            other.starts_with("tests/")
                && other != name
                && text.lines().any(|line| {
                    let line = line.trim().trim_start_matches("pub ");
                    line == format!("mod {stem};")
                        || line.starts_with("#[path") && line.contains(&format!("{stem}.rs"))
                })
        };
        if !sources.iter().any(declared) {
            complaints.push(name.clone());
        }
    }
    none(complaints, "nobody runs this file: give it a [[test]] in tests/Cargo.toml");
}

#[test]
fn the_documents_are_there_and_their_links_lead_somewhere() {
    let mut complaints = Vec::new();
    for name in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "deny.toml",
        ".ci/run",
    ] {
        if !root().join(name).is_file() {
            complaints.push(format!("{name} is missing"));
        }
    }
    for (name, text) in with_extension("md") {
        let dir = root().join(&name).parent().unwrap().to_owned();
        let mut code = false;
        for (number, line) in text.lines().enumerate() {
            code ^= line.trim_start().starts_with("```");
            if code {
                continue;
            }
            for (at, _) in line.match_indices("](") {
                let link = line[at + 2..].split([')', ' ', '#']).next().unwrap();
                let elsewhere = link.is_empty() || link.contains("://") || link.starts_with("mailto:");
                if !elsewhere && !dir.join(link).exists() {
                    complaints.push(format!("{name}:{}: there is no {link}", number + 1));
                }
            }
        }
    }
    none(complaints, "write the document, or mend the link");
}

#[test]
fn the_page_of_scenarios_names_tests_that_are_there() {
    let page = "docs/scenarios.md";
    let text = fs::read_to_string(root().join(page)).unwrap();
    let (mut complaints, mut file, mut named) = (Vec::new(), (String::new(), String::new()), 0);
    // What stands between two back quotes is every other piece.
    for word in text.split('`').skip(1).step_by(2) {
        if word.ends_with(".rs") {
            let source = fs::read_to_string(root().join(word));
            if source.is_err() {
                complaints.push(format!("{page}: there is no {word}"));
            }
            file = (word.to_owned(), source.unwrap_or_default());
        } else if word.contains('_') {
            named += 1;
            if !file.1.contains(&format!("fn {word}()")) {
                complaints.push(format!("{page}: there is no test {word} in {}", file.0));
            }
        }
    }
    assert!(named > 25, "{page} names {named} tests only");
    none(complaints, "name the test that shows the scenario now");
}
