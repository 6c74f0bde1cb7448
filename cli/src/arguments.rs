//! The words that can be typed.

pub(crate) mod large_objects;
pub(crate) mod load;
pub(crate) mod plan;
pub(crate) mod transfer;
pub(crate) mod verify;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use irongate_trail::Lsn;

pub(crate) use large_objects::LargeObjects;
pub(crate) use load::{Instantiate, KeepSnapshot};
pub(crate) use plan::Salvage;
use plan::{Failover, Reinstate, Switchback, Switchover};
pub(crate) use transfer::{Export, Import};
use verify::{Compare, Repair};

/// GoldenGate for PostgreSQL: what one database commits, another has, exactly once.
#[derive(Parser, Debug)]
#[command(name = "irongate", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 refused by a check, \
    4 executed but incomplete.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// The configuration file
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "IRONGATE_CONFIG",
        default_value = "irongate.toml",
        help_heading = "Global options"
    )]
    pub(crate) config: PathBuf,
    /// The site where this process stands, instead of the one that the configuration names
    #[arg(long, global = true, value_name = "NAME", env = "IRONGATE_SITE", help_heading = "Global options")]
    pub(crate) site: Option<String>,
    /// Print one JSON document instead of text
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// How logs on standard error are written
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "human",
        help_heading = "Global options"
    )]
    pub(crate) log_format: LogFormat,
    /// Log more; twice for everything (IRONGATE_LOG takes filters such as "irongate_apply=debug")
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,
}

/// How logs are written.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LogFormat {
    /// For people
    Human,
    /// One JSON object a line
    Json,
}

/// The commands.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Command {
    /// Show with two sites on throw-away servers that nothing is lost and nothing comes twice
    Demo(Demo),
    /// Write a commented configuration
    Init(Init),
    /// Look at both sites for what replication would stumble over; each finding comes with the statement that mends it
    Check(Check),
    /// Make roles, publications, slots, trails and the checkpoint schema; what is there already stays
    Setup(Setup),
    /// Take away everything that setup and instantiate have made, trails included
    Teardown(Teardown),
    /// Copy a flow's tables at one snapshot, from which the stream goes on
    Instantiate(Instantiate),
    /// Write a flow's tables at one snapshot into a directory, to be carried and imported; the stream goes on from there
    Export(Export),
    /// Bring an export into the flow's target, from where the stream goes on
    Import(Import),
    /// Keep the snapshot of a load (started by instantiate)
    #[command(hide = true)]
    KeepSnapshot(KeepSnapshot),
    /// Run one group in the foreground, until SIGTERM or SIGINT (a second one ends it at once)
    Run(Run),
    /// Supervise this site's groups in the foreground: start, restart, watch, purge, alarm (SIGHUP reads the configuration
    /// again)
    Manager,
    /// Have the manager start groups or flows
    Start(Order),
    /// Have the manager stop groups or flows at the end of the transaction in hand; they stay stopped
    Stop(Order),
    /// Have the manager stop groups or flows and start them again
    Restart(Order),
    /// Have the manager end groups or flows at once; they stay stopped
    Kill(Order),
    /// Show what has happened at the sites
    Events(Events),
    /// Show the last lines that a group has printed
    Report(Report),
    /// Have the manager read the configuration again, and say what changes now and what needs a restart
    Reload,
    /// Say whether everything runs that should; exit code 4 and the reasons if not
    Health {
        /// Print only the manager's process id
        #[arg(long)]
        pid: bool,
    },
    /// Make a private authority and a certificate and key for each site, for the link between them
    Certs {
        /// The directory
        directory: PathBuf,
    },
    /// Change which site writes, planned and without loss; to be run at the site that is to write
    Switchover(Switchover),
    /// Go back to the site that writes in normal mode: a switchover to it
    Switchback(Switchback),
    /// Take over from a site that is lost
    Failover(Failover),
    /// Make a site that was lost a standby again, by putting right what differs from the site that writes, or by a fresh
    /// copy of it
    Reinstate(Reinstate),
    /// Show the runs of this site, or one of them
    Runs {
        /// The run
        #[arg(value_name = "RUN")]
        run: Option<String>,
        /// Write the report of the run to this file, as a page that needs nothing else and can be printed
        #[arg(long, value_name = "FILE", requires = "run")]
        html: Option<PathBuf>,
        /// Only the name of the run that is not over; nothing if there is none
        #[arg(long, conflicts_with_all = ["run", "last"])]
        unfinished: bool,
        /// Only the name of the last run
        #[arg(long, conflicts_with = "run")]
        last: bool,
        /// Free the databases that this run has in hand and that nobody can end any more, because its journal is gone with
        /// the site where it began; nothing else is changed
        #[arg(long, value_name = "RUN", conflicts_with_all = ["run", "html", "unfinished", "last"])]
        forget: Option<String>,
    },
    /// Find out what a lost site had committed and the other one does not have, or carry out what was decided about it; to be
    /// run at the lost site
    Salvage(Salvage),
    /// Keep the applications out of a site: rights to write, CONNECT, LOGIN and triggers are saved and taken away, sessions
    /// ended, and a write as the application's role must fail
    Fence(Fence),
    /// Let the applications in again, with exactly what they had
    Open(Open),
    /// Names in the DNS that lead to the site that writes: look at them, or point them to a site
    #[command(subcommand)]
    Name(Name),
    /// Show every group: program, state, lag, position, since when, what it is doing
    Info(Names),
    /// Show how far each flow is behind, at each stage and end to end
    Lag(Names),
    /// Show what groups have done, by table
    Stats(Names),
    /// Show a group's checkpoint, or alter it
    Position(Position),
    /// Look into trails
    #[command(subcommand)]
    Trail(Trail),
    /// See to the changes that the target refused
    #[command(subcommand)]
    Errors(Errors),
    /// Look at the conflicts between two sites that both write
    #[command(subcommand)]
    Conflicts(Conflicts),
    /// Compare the rows of a flow's target with those of its source, under load as well; exit code 3 for differences, 4 for
    /// what could not be compared or settled
    Compare(Compare),
    /// Make one side of a flow like the other where a compare has found differences
    Repair(Repair),
    /// Compare or copy large objects, which are in no stream
    #[command(subcommand)]
    LargeObjects(LargeObjects),
    /// Interleave the sequences of a flow's tables, so that two sites never make the same key
    Sequences(Sequences),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages into a directory
    Man {
        /// The directory
        directory: PathBuf,
    },
}

impl Command {
    /// Whether it runs until it is told to end, so that its log is what people look at.
    pub(crate) fn is_process(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Manager | Self::KeepSnapshot(_))
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Order {
    /// Groups or flows, here and at sites whose manager can be reached
    #[arg(value_name = "NAME", required_unless_present = "all")]
    pub(crate) names: Vec<String>,
    /// All groups of this site
    #[arg(long, conflicts_with = "names")]
    pub(crate) all: bool,
    /// How long to wait until it is done, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) wait: u64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Events {
    /// Only those of this site
    #[arg(long)]
    pub(crate) here: bool,
    /// So many of the newest
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 20)]
    pub(crate) count: usize,
    /// Go on with those that come
    #[arg(short, long)]
    pub(crate) follow: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Report {
    /// The group, such as csp-extract
    pub(crate) group: String,
    /// So many of the last lines
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 40)]
    pub(crate) lines: usize,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Demo {
    /// Leave servers and processes running, and say how to look at them and how to end them; of a demo that fails, its
    /// files
    #[arg(long)]
    pub(crate) keep: bool,
    /// How long the load runs while processes are killed, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=600))]
    pub(crate) seconds: u64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Init {
    /// Print it instead of writing the file that --config names
    #[arg(long)]
    pub(crate) stdout: bool,
    /// The reference deployment instead: two sites with pumps and managers, four flows
    #[arg(long)]
    pub(crate) reference: bool,
    /// The reference deployment with its flows' trails going through topics of Apache Kafka
    #[arg(long)]
    pub(crate) kafka: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Flows {
    /// Flows; all of them if none is named
    #[arg(value_name = "FLOW")]
    pub(crate) flows: Vec<String>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) flows: Flows,
    /// Print the statements that mend what was found, by database, to be read and run with psql; run none of them
    #[arg(long)]
    pub(crate) fix_sql: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Gate {
    /// The site
    #[arg(value_name = "SITE")]
    pub(crate) at: String,
    /// Only this database (may be given several times); all that one site writes at a time if none is named
    #[arg(long, value_name = "NAME")]
    pub(crate) database: Vec<String>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Fence {
    #[command(flatten)]
    pub(crate) gate: Gate,
    /// Seconds to wait for transactions that have written before the fence
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) timeout: u64,
    /// Close the site that writes, too: its applications are cut off until it is opened again
    #[arg(long)]
    pub(crate) force: bool,
    /// Say that a site which was open while another one wrote is a copy again: somebody has compared
    #[arg(long)]
    pub(crate) is_copy: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Open {
    #[command(flatten)]
    pub(crate) gate: Gate,
    /// Open although another site may be open, or cannot be asked, or a run has the database in hand
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Name {
    /// Show what every name server says
    Show {
        /// Only names that lead to this database (may be given several times)
        #[arg(long, value_name = "NAME")]
        database: Vec<String>,
    },
    /// Point the names to a site, in one operation for each zone, and wait until every name server says so
    Point(PointName),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct PointName {
    /// The site
    #[arg(long, value_name = "SITE")]
    pub(crate) to: String,
    /// The site to which they lead now; any other one if it is not said
    #[arg(long, value_name = "SITE")]
    pub(crate) from: Option<String>,
    /// Only names that lead to this database (may be given several times)
    #[arg(long, value_name = "NAME")]
    pub(crate) database: Vec<String>,
    /// Check only: name servers, times to live, and whether the update would be taken; change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Names {
    /// Groups or flows; all of them if none is named
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Do not ask the managers of other sites
    #[arg(long)]
    pub(crate) here: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Setup {
    #[command(flatten)]
    pub(crate) flows: Flows,
    /// Show the statements and run none of them
    #[arg(long)]
    pub(crate) print_sql: bool,
    /// The target has the source's rows already: begin the flow here, without an initial load
    #[arg(long, conflicts_with = "print_sql")]
    pub(crate) start_here: bool,
    /// How long the creation of a slot may wait for open transactions, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) slot_timeout: u64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Teardown {
    #[command(flatten)]
    pub(crate) flows: Flows,
    /// Show the statements and run none of them
    #[arg(long)]
    pub(crate) print_sql: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Run {
    /// The group, such as csp-extract
    pub(crate) group: String,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Position {
    /// The group; it must be stopped to be altered
    pub(crate) group: String,
    /// Begin again behind this LSN of the source ("end": at the end of the trail); what lies between is left out, or
    /// applied a second time
    #[arg(long, value_name = "LSN", requires = "accept_loss")]
    pub(crate) to: Option<Place>,
    /// Confirm that source and target may differ afterwards
    #[arg(long, requires = "to")]
    pub(crate) accept_loss: bool,
}

/// A place that a checkpoint can be set to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Behind everything that lies before this LSN.
    Lsn(Lsn),
    /// The end of the trail.
    End,
}

impl std::str::FromStr for Place {
    type Err = irongate_trail::ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "end" { Ok(Self::End) } else { text.parse().map(Self::Lsn) }
    }
}

/// A trail: of a flow, or anywhere.
#[derive(Args, Clone, Debug)]
pub(crate) struct WhichTrail {
    /// The flow whose trail it is
    #[arg(required_unless_present = "directory")]
    pub(crate) flow: Option<String>,
    /// A trail that no configuration needs to know
    #[arg(long, value_name = "DIR", conflicts_with = "flow")]
    pub(crate) directory: Option<PathBuf>,
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Trail {
    /// List the files, how far they are durable, and how far each reader is
    Ls(WhichTrail),
    /// Print the records as text, or with --json as JSON, one object a line; the values of rows are shown
    Dump(Dump),
    /// Read everything and test every checksum and digest
    Check(WhichTrail),
    /// Remove the files that every reader has passed, as far as the flow's settings allow
    Purge(Purge),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Dump {
    #[command(flatten)]
    pub(crate) which: WhichTrail,
    /// What the flow's topic holds at present, instead of the trail here
    #[arg(long, conflicts_with = "directory")]
    pub(crate) kafka: bool,
    /// Begin with this file
    #[arg(long, value_name = "SEQNO")]
    pub(crate) from: Option<u64>,
    /// End with this file
    #[arg(long, value_name = "SEQNO")]
    pub(crate) to: Option<u64>,
    /// Only changes of these tables ("schema.name", "*" for any characters)
    #[arg(long = "table", value_name = "TABLE")]
    pub(crate) tables: Vec<String>,
    /// Only these kinds of change
    #[arg(long = "operation", value_enum, value_name = "KIND")]
    pub(crate) operations: Vec<Operation>,
    /// Only rows with this value in the column, or in any column of the key
    #[arg(long = "key", value_name = "[COLUMN=]VALUE")]
    pub(crate) keys: Vec<String>,
    /// Only this transaction of the source
    #[arg(long, value_name = "XID")]
    pub(crate) xid: Option<u32>,
    /// Only transactions whose commit lies at or behind this LSN
    #[arg(long, value_name = "LSN")]
    pub(crate) from_lsn: Option<Lsn>,
    /// Only transactions whose commit lies at or before this LSN
    #[arg(long, value_name = "LSN")]
    pub(crate) to_lsn: Option<Lsn>,
    /// Only transactions committed at this time or later, such as 2025-06-01T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<jiff::Timestamp>,
    /// Only transactions committed at this time or earlier
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<jiff::Timestamp>,
    /// Show which sub-transaction the rows of streamed transactions belong to
    #[arg(long)]
    pub(crate) subtransactions: bool,
    /// Read on behind the durable end, as far as transactions are whole
    #[arg(long)]
    pub(crate) to_the_end: bool,
}

/// A kind of change.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    /// New rows
    Insert,
    /// Changed rows
    Update,
    /// Rows that are gone
    Delete,
    /// Emptied tables
    Truncate,
    /// Logical messages
    Message,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Purge {
    #[command(flatten)]
    pub(crate) which: WhichTrail,
    /// Keep files that were written within so many seconds, whatever the flow's setting says
    #[arg(long, value_name = "SECONDS")]
    pub(crate) keep_seconds: Option<u64>,
    /// Keep so many of the newest files, whatever the flow's setting says
    #[arg(long, value_name = "COUNT")]
    pub(crate) keep_files: Option<usize>,
}

/// Which changes of a queue.
#[derive(Args, Clone, Debug)]
pub(crate) struct Queued {
    /// The flow
    pub(crate) flow: String,
    /// Their numbers, as "errors list" shows them
    #[arg(value_name = "ID", required_unless_present = "all")]
    pub(crate) ids: Vec<i64>,
    /// All that are queued
    #[arg(long, conflicts_with = "ids")]
    pub(crate) all: bool,
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Conflicts {
    /// List the newest conflicts of a flow
    List {
        /// The flow
        flow: String,
        /// So many at the most
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        limit: u32,
    },
    /// Show one conflict with the rows that met
    Show {
        /// The flow
        flow: String,
        /// Its number
        id: i64,
    },
    /// Let a flow go on that has stopped because versions of rows were forgotten
    Accept {
        /// The flow
        flow: String,
    },
    /// Remove what was recorded longer ago
    Purge {
        /// The flow
        flow: String,
        /// Keep what was recorded in the last so many days
        #[arg(long, value_name = "DAYS")]
        keep_days: u32,
    },
}

/// What `sequences` takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Sequences {
    /// The flow, in either direction
    pub(crate) flow: String,
    /// Run the statements, instead of printing them
    #[arg(long)]
    pub(crate) apply: bool,
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Errors {
    /// List the queue of a flow
    List {
        /// The flow
        flow: String,
        /// Those replayed and skipped too
        #[arg(long)]
        all: bool,
    },
    /// Show one change with the row before and after it
    Show {
        /// The flow
        flow: String,
        /// Its number
        id: i64,
    },
    /// Apply changes now, in their order; stops at the first that is refused again
    Replay(Queued),
    /// Mark changes as not wanted
    Skip(Queued),
}
