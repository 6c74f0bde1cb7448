//! What helps, for each error.

use super::Error;
use crate::plan::Kind;

impl Error {
    /// What to type or do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Deployment(error) => return error.hint(),
            Self::Names(failure) => return failure.hint(),
            Self::Hook(failure) => return failure.hint(),
            Self::Salvage(problem) => return problem.hint(),
            Self::Database { source, .. } => return source.hint(),
            Self::NoAdmin { database, .. } => format!("give [databases.{database}.SITE] an admin_uri"),
            Self::NoAccess { database } => {
                format!("write [access.{database}] with roles = [\"…\"], the roles that the applications log in as")
            }
            Self::OwnRole { database, .. } => {
                format!("name only the applications' roles in [access.{database}]; give Irongate roles of its own")
            }
            Self::NotSetUp { .. } => "irongate setup".to_owned(),
            Self::Saved { .. } => {
                "do not open the site by force: restore table irongate.fence from a backup, or grant by hand what the \
                 applications need and delete its row"
                    .to_owned()
            }
            Self::Elsewhere { to, .. } => format!("run it at site \"{to}\": it will be there afterwards"),
            Self::Scattered { .. } => "name those of one site with --database".to_owned(),
            Self::Open { command, .. } => {
                format!("{command} --resume goes on with it; {command} --abort takes it back, or the rest of one that goes back")
            }
            Self::JournalElsewhere { run, site } => format!(
                "at site \"{site}\": irongate runs {run} shows how to go on with it or to take it back; if it is over there, \
                 irongate runs --forget {run} there"
            ),
            Self::Blocked { .. } => "wait for them, or end them: SELECT pg_terminate_backend(PID)".to_owned(),
            Self::OtherRun { to, .. } => format!("--to {to}"),
            Self::OtherPlan { plan, .. } if *plan == Kind::Drill.to_string() => {
                "irongate switchover --drill goes on with it".to_owned()
            }
            Self::OtherPlan { plan, .. } => format!("irongate {plan} goes on with it"),
            Self::IsOver { run, .. } => format!("irongate runs {run} shows it; begin another one"),
            Self::Lost { .. } => "see to that site first".to_owned(),
            Self::NotHeld { .. } => "table irongate.role of a database says which run has it".to_owned(),
            Self::NothingOpen => "irongate runs lists them".to_owned(),
            Self::Refused { .. } => "mend it; --dry-run checks again".to_owned(),
            Self::Unfinished { source, can_abort, .. } => {
                let first = source.hint().map(|hint| hint + "; then ").unwrap_or_default();
                let abort = if *can_abort { ", or take the run back with --abort" } else { "" };
                format!("{first}go on with --resume{abort}")
            }
            Self::Busy { .. } => {
                "wait for it to end: irongate runs shows how far it is; SIGTERM cuts it off, and --resume goes on with it".to_owned()
            }
            Self::NoReturn { plan, .. } if *plan == Kind::Reinstate.to_string() => "go on with --resume".to_owned(),
            Self::NoReturn { .. } => "go on with --resume; a switchover back is a run of its own".to_owned(),
            Self::OnlyBack { .. } => "take it back with --abort to its end".to_owned(),
            Self::NotByHand { .. } => "go on with the run, or take it back; --force opens nevertheless, and then both sites write and their rows \
                 part ways".to_owned(),
            Self::Reopened { .. } => {
                "applications may have written there: find out, fence that site again, and compare before the run is gone on with".to_owned()
            }
            Self::Held { run, .. } => format!(
                "ask who has it; a run is gone on with or taken back at the site where it began (irongate runs {run} there), and \
                 where it is over or that site is gone with its journal, irongate runs --forget {run} frees the databases"
            ),
            Self::Roles { .. } => "irongate runs shows what was done; compare table irongate.role at both sites".to_owned(),
            Self::Manager { source, .. } => return source.hint(),
            Self::Verify(source) => return source.hint(),
            Self::NotRepairable { .. } => {
                "--resume --by copy makes it a copy anew; irongate check names where the two databases are not alike".to_owned()
            }
            Self::Found { .. } => "see to the disk and its rights, and go on with --resume; --by copy needs no such file".to_owned(),
            Self::Group { group, .. } => format!("irongate report {group}"),
            Self::NotDrained { .. } => "irongate lag shows where it hangs".to_owned(),
            Self::HalfCopied { flow, .. } => {
                format!("take the run back with --abort; irongate instantiate {flow} finishes the load, then begin again")
            }
            Self::Breach { .. } => {
                "take the run back with --abort, find out who wrote (irongate trail dump shows what), and close that way".to_owned()
            }
            Self::Unsalvaged { .. } => {
                "take the run back with --abort and salvage again, now that the site is closed; --accept-loss at a new run gives it \
                 up. Where a repair has begun, salvage again and go on with --resume".to_owned()
            }
            Self::Written { .. } => {
                "find out who wrote there; then --resume --by repair compares again, and --resume --by copy copies it anew".to_owned()
            }
            Self::Overtaken { .. } => {
                "nothing was done; irongate runs and irongate health say how the sites stand, and a new run can begin".to_owned()
            }
            Self::Left { remedy, .. } => remedy.clone(),
            Self::Returned { .. } => {
                "--abort takes the run back where it still can be, and nothing is lost; --resume --force takes over nevertheless"
                    .to_owned()
            }
            Self::Alone { to, from, .. } => format!(
                "the run cannot come to its end: irongate fence {from}, then irongate failover --to {to} --accept-loss --force ends \
                 it, irongate salvage {from} lists what it has, and irongate reinstate {from} makes it a copy again"
            ),
            Self::Touched { .. } => {
                "it is no longer a copy: take the drill back with --abort, find out who wrote, and instantiate the flow again".to_owned()
            }
            Self::Journal { .. } => "see to the disk and its rights; nothing was done that the journal does not say".to_owned(),
            Self::BadJournal { .. } => "restore the file; a run is never gone on with by guessing".to_owned(),
            Self::NoRun { .. } => "irongate runs lists those of this site; a run is gone on with where it began".to_owned(),
            Self::NoRole { .. } => "create the role, or take it out of [access]".to_owned(),
            Self::Leaks { .. } => {
                "take the attribute or right away and fence again; a superuser, and a function that runs as one, cannot \
                 be fenced"
                    .to_owned()
            }
            Self::Administrator { .. } => {
                "give the administrator what is said, or name a superuser in admin_uri".to_owned()
            }
            Self::Live { .. } => {
                "a switchover closes it by itself; if the applications are to be cut off now, --force".to_owned()
            }
            Self::SecondOpen { site, .. } => {
                format!("irongate fence {site} --force, and --abort again; or go on with --resume")
            }
            Self::OnlyOpen { .. } => "if nobody is to write for now, --force".to_owned(),
            Self::Opened { site, .. } => format!(
                "find out whether anybody has written there, and compare; if it is a copy still, irongate fence {site} --is-copy, and go \
                 on with --resume"
            ),
            Self::Crossed { remedy, .. } => remedy.clone(),
            Self::NoEntry { .. } => "everything else is open; give the role what it lacks".to_owned(),
            Self::OtherIsOpen { .. } => {
                "fence the other site first; with --force this one is opened nevertheless, and if both are written their \
                 rows part ways"
                    .to_owned()
            }
            Self::Writers { .. } => "end them, or wait, and fence again".to_owned(),
            Self::NotRestored { .. } => {
                "the saved rights are still in table irongate.fence; mend what is said and open again".to_owned()
            }
            Self::StillClosed { .. } => {
                "the role could not write before the fence either, or lost a right meanwhile; grant it and open again".to_owned()
            }
        })
    }
}
