//! What `--keep` leaves: everything running, and a script that ends it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::DATABASE;
use super::guard::Guard;
use super::server::Server;
use super::site::Site;
use super::sites::{Base, Sites};

/// Leaves everything running, with a script that ends it.
pub(super) fn keep(
    directory: Base,
    servers: &mut Sites,
    sites: &mut [Site; 2],
    guard: Guard,
    file: &Path,
) -> anyhow::Result<String> {
    let base = directory.keep();
    let psql = [servers.main.psql(DATABASE), servers.secondary.psql(DATABASE)];
    let words = |pids: Vec<u32>| pids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let processes = words(sites.iter_mut().flat_map(Site::keep).collect());
    let servers =
        words([&mut servers.main, &mut servers.secondary].into_iter().filter_map(Server::keep).collect());
    let script = base.join("stop");
    // A pid may be a stranger's by then: its command line tells. What the servers hold is thrown away, so they abort.
    let text = format!(
        "#!/bin/sh\n# Ends what irongate demo --keep has left running, and removes it.\n\
         end() {{\n\
         \x20   signal=$1; shift\n\
         \x20   for pid in \"$@\"; do grep -q '{base}' \"/proc/$pid/cmdline\" 2>/dev/null && kill -\"$signal\" \"$pid\"; done\n\
         \x20   for pid in \"$@\"; do\n\
         \x20       i=0; while [ $i -lt 100 ] && kill -0 \"$pid\" 2>/dev/null; do sleep 0.1; i=$((i + 1)); done\n\
         \x20   done\n\
         }}\n\
         end TERM {processes}\nend QUIT {servers}\nrm -rf '{base}'\n",
        base = base.display(),
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    drop(guard);
    let program = std::env::current_exe().unwrap_or_else(|_| "irongate".into());
    Ok(format!(
        "\nKept running. To look at it:\n  {} --config {} --site main info\n  {}\n  {}\nTo end it and remove everything:\n  {}",
        program.display(),
        file.display(),
        psql[0],
        psql[1],
        script.display()
    ))
}
