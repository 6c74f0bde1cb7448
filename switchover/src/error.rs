//! What can go wrong when sites change their roles.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::journal::Outcome;
use crate::plan::Kind;

/// Everything that this crate's functions can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration does not have it.
    #[error(transparent)]
    Deployment(#[from] irongate_deployment::Error),
    /// The rows of two sites cannot be compared, or one not be made like the other.
    #[error(transparent)]
    Verify(#[from] irongate_verify::Error),
    /// A site cannot be made a copy by repair.
    #[error("\"{end}\" cannot be repaired: {}", reasons.join("; "))]
    NotRepairable {
        /// The database and its site.
        end: String,
        /// Why, for each table.
        reasons: Vec<String>,
    },
    /// What a compare has found cannot be kept, or not be read again.
    #[error("cannot use file \"{}\": {source}", path.display())]
    Found {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A fence is an administrator's work.
    #[error("database \"{end}\" has no address for its administrator")]
    NoAdmin {
        /// The database and its site.
        end: String,
        /// The database.
        database: String,
    },
    /// It is not known whom to keep out.
    #[error("the roles of database \"{database}\"'s applications are not configured")]
    NoAccess {
        /// The database.
        database: String,
    },
    /// A fence would keep Irongate out.
    #[error("role \"{role}\" of database \"{database}\" is one of Irongate's own or the administrator's")]
    OwnRole {
        /// The role.
        role: String,
        /// The database.
        database: String,
    },
    /// A database cannot be reached, or does not do what it is asked.
    #[error("cannot {doing} at \"{end}\": {source}")]
    Database {
        /// The database and its site.
        end: String,
        /// What was tried, as a verb.
        doing: String,
        /// What went wrong.
        source: Box<irongate_postgres::Error>,
    },
    /// Somebody holds a lock for longer than it was waited for.
    #[error("cannot {doing} at \"{end}\": {} in the way", holders.join(", "))]
    Blocked {
        /// The database and its site.
        end: String,
        /// What was tried, as a verb.
        doing: String,
        /// The sessions, with their server processes.
        holders: Vec<String>,
    },
    /// A hook did not do what it is for.
    #[error(transparent)]
    Hook(#[from] crate::hook::Failure),
    /// Names do not lead where they should.
    #[error(transparent)]
    Names(#[from] crate::names::Failure),
    /// The schema of Irongate's own tables is not there.
    #[error("database \"{end}\" is not set up")]
    NotSetUp {
        /// The database and its site.
        end: String,
    },
    /// What was saved cannot be read.
    #[error("what the fence of \"{end}\" has saved cannot be read: {reason}")]
    Saved {
        /// The database and its site.
        end: String,
        /// Why.
        reason: String,
    },
    /// A load copies tables of the site that is to write.
    #[error(
        "\"{end}\" is no whole copy: a load of flow \"{flow}\" is not done, and {tables} have not all rows"
    )]
    HalfCopied {
        /// The database and its site.
        end: String,
        /// The flow.
        flow: String,
        /// The tables.
        tables: String,
    },
    /// A run belongs to the site that is to write.
    #[error("a run to site \"{to}\" begins there{}", site.as_ref().map(|site| format!(", and this is site \"{site}\"")).unwrap_or_default())]
    Elsewhere {
        /// The site that is to write.
        to: String,
        /// This site, if it is said.
        site: Option<String>,
    },
    /// The databases come from several sites.
    #[error("the databases that are to be written at \"{to}\" come from several sites")]
    Scattered {
        /// The site that is to write.
        to: String,
    },
    /// A run has not been brought to its end.
    #[error("run \"{run}\" is not over")]
    Open {
        /// The run.
        run: String,
        /// The command that it was begun with.
        command: String,
    },
    /// A run has no database in hand.
    #[error("no database is in the hands of run \"{run}\"{}", if silent.is_empty() { String::new() } else { format!("; not asked: {silent}") })]
    NotHeld {
        /// The run.
        run: String,
        /// What does not answer.
        silent: String,
    },
    /// A run is ended where its journal is, and that site can be asked.
    #[error("the journal of run \"{run}\" lies at site \"{site}\", whose manager answers")]
    JournalElsewhere {
        /// The run.
        run: String,
        /// The site.
        site: String,
    },
    /// A run goes elsewhere.
    #[error("run \"{run}\" goes to site \"{to}\"")]
    OtherRun {
        /// The run.
        run: String,
        /// Where it goes.
        to: String,
    },
    /// A run is of another plan.
    #[error("run \"{run}\" is a {plan}")]
    OtherPlan {
        /// The run.
        run: String,
        /// Its plan.
        plan: String,
    },
    /// There is nothing left to do.
    #[error("run \"{run}\" is over: {outcome}")]
    IsOver {
        /// The run.
        run: String,
        /// How it ended.
        outcome: Outcome,
    },
    /// A site that is needed cannot be asked.
    #[error("{reason}")]
    Lost {
        /// Why.
        reason: String,
    },
    /// There is no run to go on with.
    #[error("every run of this site is over")]
    NothingOpen,
    /// The checks say no.
    #[error("refused, and nothing was changed: {}", complaints.join("; "))]
    Refused {
        /// All that is wrong.
        complaints: Vec<String>,
    },
    /// A step has failed.
    #[error("step \"{step}\" of run \"{run}\" has failed: {source}")]
    Unfinished {
        /// The run.
        run: String,
        /// The step.
        step: &'static str,
        /// It can still be taken back.
        can_abort: bool,
        /// Why.
        source: Box<Error>,
    },
    /// Runs are led one at a time.
    #[error("another irongate ({holder}) leads a run of this site")]
    Busy {
        /// The process that does.
        holder: String,
    },
    /// There is no way back.
    #[error("run \"{run}\" cannot be taken back: step \"{step}\" has begun, and {}", behind(plan))]
    NoReturn {
        /// The run.
        run: String,
        /// Its plan.
        plan: String,
        /// The step.
        step: &'static str,
    },
    /// A run that is being taken back.
    #[error("run \"{run}\" is being taken back and cannot be gone on with")]
    OnlyBack {
        /// The run.
        run: String,
    },
    /// A run has a database in hand, or another site writes it.
    #[error("{end} is not to be opened by hand: {reason}")]
    NotByHand {
        /// The database and its site.
        end: String,
        /// Why.
        reason: String,
    },
    /// The fence of the site that wrote is not this run's any more.
    #[error("the fence of {end} has been opened since this run closed it")]
    Reopened {
        /// The database and its site.
        end: String,
    },
    /// Somebody else has the database in hand.
    #[error("{end} is in the hands of run \"{run}\" of {holder} since {since}")]
    Held {
        /// The database and its site.
        end: String,
        /// The run.
        run: String,
        /// Who runs it.
        holder: String,
        /// Since when.
        since: String,
    },
    /// The roles are not what the run has found or made.
    #[error("{complaint}")]
    Roles {
        /// What is wrong.
        complaint: String,
    },
    /// A manager cannot be asked.
    #[error("the manager of site \"{site}\": {source}")]
    Manager {
        /// The site.
        site: String,
        /// Why.
        source: Box<irongate_manager::Error>,
    },
    /// A group does not do what it is told.
    #[error("group \"{group}\" at site \"{site}\" does not come to it: {doing}")]
    Group {
        /// The group.
        group: String,
        /// Its site.
        site: String,
        /// What it does instead.
        doing: String,
    },
    /// The standby has not applied everything in time.
    #[error("\"{end}\" has not applied everything after {} s; it is at {applied}", waited.as_secs())]
    NotDrained {
        /// The database and its site.
        end: String,
        /// How long it was waited for.
        waited: Duration,
        /// Where it is.
        applied: String,
    },
    /// Something was committed behind the fence.
    #[error("something was committed at \"{end}\" behind its fence, up to {applied}")]
    Breach {
        /// The database and its site.
        end: String,
        /// How far the other site is.
        applied: String,
    },
    /// A site that comes back has committed more than was salvaged.
    #[error("what \"{end}\" has alone is not all salvaged: {what}")]
    Unsalvaged {
        /// The database and its site.
        end: String,
        /// What is known of it.
        what: String,
    },
    /// A site that comes back was written, or open, while it was made a copy.
    #[error("\"{end}\" is no copy: since its rows were read, {what}")]
    Written {
        /// The database and its site.
        end: String,
        /// What is known of it.
        what: String,
    },
    /// A run cannot be gone on with, because others have changed the roles since it was cut off.
    #[error("run \"{run}\" is over: {what}, which is not how it has left it")]
    Overtaken {
        /// The run.
        run: String,
        /// What is so now.
        what: String,
    },
    /// A site that was lost answers again before it was taken over from.
    #[error("{places}: what was lost answers again, and is open")]
    Returned {
        /// The databases there.
        places: String,
    },
    /// A site that was closed for another one has committed something by itself.
    #[error(
        "{end} has committed something by itself since it was closed, and is no copy of what site \"{to}\" has"
    )]
    Alone {
        /// The database and its site.
        end: String,
        /// The site that writes.
        to: String,
        /// The site that does not any more.
        from: String,
    },
    /// A run has come to its end, or was taken back, but for what could not be done.
    #[error("run \"{run}\" {}, but {what}", if *is_back { "was taken back" } else { "has come to its end" })]
    Left {
        /// The run.
        run: String,
        /// It was taken back.
        is_back: bool,
        /// What is left.
        what: String,
        /// What helps.
        remedy: String,
    },
    /// A standby was written while it was open for a drill.
    #[error("{transactions} transactions were written at the standby \"{end}\" while it was open")]
    Touched {
        /// The database and its site.
        end: String,
        /// How many.
        transactions: u64,
    },
    /// A journal cannot be written or read.
    #[error("cannot use journal \"{}\": {source}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A journal says what no run writes.
    #[error("line {line} of journal \"{}\" cannot be read: {reason}", path.display())]
    BadJournal {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// Why.
        reason: String,
    },
    /// There is no such run.
    #[error("there is no run \"{run}\" at this site")]
    NoRun {
        /// The run.
        run: String,
    },
    /// Roles that the configuration names and the server does not have.
    #[error("database \"{end}\" has no role \"{role}\"")]
    NoRole {
        /// The database and its site.
        end: String,
        /// The role.
        role: String,
    },
    /// Somebody can still write.
    #[error("the fence of \"{end}\" does not hold: {}", leaks.join("; "))]
    Leaks {
        /// The database and its site.
        end: String,
        /// Who can write what, and why.
        leaks: Vec<String>,
    },
    /// The administrator cannot close the fence.
    #[error("\"{end}\" cannot be closed as its administrator, and nothing was taken: {}", lacks.join("; "))]
    Administrator {
        /// The database and its site.
        end: String,
        /// What the administrator may not do, each with what gives it.
        lacks: Vec<String>,
    },
    /// The site that writes is to be closed by hand.
    #[error(
        "\"{end}\" is written by its applications, and a fence would cut them off until it is opened again"
    )]
    Live {
        /// The database and its site.
        end: String,
    },
    /// Where the applications are, whatever else is said.
    #[error("\"{end}\" is the only site of its database that is open, and a fence would leave none")]
    OnlyOpen {
        /// The database and its site.
        end: String,
    },
    /// Taken back, a run would open a second site.
    #[error("\"{end}\" cannot be opened while \"{other}\" has no fence: somebody has opened that since")]
    SecondOpen {
        /// The database and the site that the run has closed.
        end: String,
        /// The one that is open.
        other: String,
        /// Its site.
        site: String,
    },
    /// Somebody has opened a site in the middle of a run.
    #[error("\"{end}\" was open for a while since the run closed it, and is marked")]
    Opened {
        /// The database and its site.
        end: String,
        /// The site.
        site: String,
    },
    /// Others have done something with a database of a run that has others of it in hand still.
    #[error("run \"{run}\" cannot go this way: {what}, which is not how it has left it")]
    Crossed {
        /// The run.
        run: String,
        /// What is otherwise.
        what: String,
        /// What helps.
        remedy: String,
    },
    /// Two sites would write one database.
    #[error("database \"{end}\" cannot be opened while \"{other}\" {reason}")]
    OtherIsOpen {
        /// The database and the site that is to be opened.
        end: String,
        /// The database at the other site.
        other: String,
        /// What is known of that.
        reason: String,
    },
    /// Writers from before the fence have not ended.
    #[error("transactions from before the fence of \"{end}\" are open after {} s: {}", waited.as_secs(), writers.join("; "))]
    Writers {
        /// The database and its site.
        end: String,
        /// How long they were waited for.
        waited: Duration,
        /// Who they are.
        writers: Vec<String>,
    },
    /// What was given back is not what there was.
    #[error("not everything could be given back at \"{end}\": {}", lacking.join("; "))]
    NotRestored {
        /// The database and its site.
        end: String,
        /// What is lacking or too much.
        lacking: Vec<String>,
    },
    /// What a lost site had committed cannot be found, or not be seen to.
    #[error(transparent)]
    Salvage(Box<crate::salvage::Problem>),
    /// An application that was let in cannot write.
    #[error("role \"{role}\" cannot write table {table} of \"{end}\": {reason}")]
    StillClosed {
        /// The database and its site.
        end: String,
        /// The application's role.
        role: String,
        /// The table.
        table: String,
        /// What the server said.
        reason: String,
    },
    /// An application that was let in cannot come in.
    #[error("role \"{role}\" cannot log in to \"{end}\": {reason}")]
    NoEntry {
        /// The database and its site.
        end: String,
        /// The application's role.
        role: String,
        /// What is in its way.
        reason: String,
    },
}

impl From<crate::salvage::Problem> for Error {
    fn from(problem: crate::salvage::Problem) -> Self {
        Self::Salvage(Box::new(problem))
    }
}

/// What may have come behind the step of a plan from which on there is no way back.
fn behind(plan: &str) -> &'static str {
    match Kind::of(plan) {
        Some(Kind::Reinstate) => "the site's rows may have been overwritten",
        _ => "applications may have written",
    }
}

impl Error {
    /// Of the lock that lets one process at a time lead a run. Its name is no group's, and nobody knows it.
    pub(crate) fn of_lock(error: irongate_checkpoint::Error) -> Self {
        match error {
            irongate_checkpoint::Error::Held { holder, .. } => {
                let pid = holder
                    .pid
                    .map_or_else(|| "its process is not known".to_owned(), |pid| format!("process {pid}"));
                Self::Busy { holder: pid }
            }
            error => Self::Deployment(error.into()),
        }
    }

    /// Whether trying again can help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Deployment(error) => error.is_transient(),
            Self::Names(failure) => failure.is_transient(),
            Self::Database { source, .. } => source.is_transient(),
            Self::Blocked { .. }
            | Self::Writers { .. }
            | Self::NotDrained { .. }
            | Self::Group { .. }
            | Self::Busy { .. } => true,
            Self::Unfinished { source, .. } => source.is_transient(),
            Self::Manager { source, .. } => source.is_transient(),
            Self::Verify(source) => source.is_transient(),
            Self::Salvage(problem) => problem.is_transient(),
            _ => false,
        }
    }

    /// What shows what went wrong, for the journal.
    pub(crate) fn evidence(&self) -> serde_json::Value {
        match self {
            Self::Hook(failure) => failure.evidence(),
            _ => serde_json::Value::Null,
        }
    }
}

mod hint;
#[cfg(test)]
mod tests;
