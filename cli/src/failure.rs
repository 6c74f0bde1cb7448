//! What a failure says, and which exit code it gets.

use std::error::Error as StdError;
use std::fmt;
use std::process::ExitCode;

use crate::arguments::LogFormat;

/// An end that is this program's own and not a library's.
#[derive(Debug)]
pub(crate) enum End {
    /// What was typed or configured cannot be done: 2.
    Usage {
        /// What is wrong.
        message: String,
        /// What to type instead.
        hint: Option<String>,
    },
    /// A check says no; nothing was changed: 3.
    Refused(String),
    /// Something was done, and not all of it: 4.
    Incomplete(String),
    /// What was looked for is not as it should be, and the result is printed already: 1.
    Failed(String),
}

impl End {
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        Self::Usage { message: message.into(), hint: Some(hint.into()) }.into()
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage { message, .. }
            | Self::Refused(message)
            | Self::Incomplete(message)
            | Self::Failed(message) => f.write_str(message),
        }
    }
}

impl StdError for End {}

/// The reader of our output has gone: there is nobody left to tell.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// The exit code of a failure; the contract is CLI's table of codes.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    use irongate_checkpoint::Error as Checkpoint;
    use irongate_deployment::Error as Deployment;
    let of_checkpoint = |error: &Checkpoint| match error {
        Checkpoint::Held { .. } | Checkpoint::FlowInUse { .. } | Checkpoint::LoadInUse { .. } => 3,
        _ => 1,
    };
    let of_deployment = |error: &Deployment| match error {
        Deployment::Unreadable { .. }
        | Deployment::TwoWay { .. }
        | Deployment::Configuration(_)
        | Deployment::NoSite { .. }
        | Deployment::Elsewhere { .. }
        | Deployment::Unknown { .. } => 2,
        Deployment::NotEmpty { .. }
        | Deployment::TargetTables { .. }
        | Deployment::Schema { .. }
        | Deployment::Works { .. }
        | Deployment::Tables { .. }
        | Deployment::NothingSelected { .. }
        | Deployment::NothingPublished { .. }
        | Deployment::NoAdmin { .. }
        | Deployment::OwnSource { .. }
        | Deployment::TargetWrites { .. }
        | Deployment::LargeObjectsOfBoth { .. }
        | Deployment::Transfer { .. }
        | Deployment::NotLive { .. }
        | Deployment::Slot { .. }
        | Deployment::Blocked { .. } => 3,
        Deployment::Checkpoint(error) => of_checkpoint(error),
        _ => 1,
    };
    let of_names = |failure: &irongate_switchover::names::Failure| {
        use irongate_switchover::names::Failure;
        match failure {
            Failure::Nothing { .. } | Failure::Key { .. } => 2,
            Failure::Shared { .. } | Failure::Foreign { .. } | Failure::Changed { .. } => 3,
            Failure::Unknown { .. } | Failure::Behind { .. } | Failure::Partly { .. } => 4,
            _ => 1,
        }
    };
    // This finds it as a context too, which the chain does not.
    match error.downcast_ref::<End>() {
        Some(End::Usage { .. }) => return 2,
        Some(End::Refused(_)) => return 3,
        Some(End::Incomplete(_)) => return 4,
        Some(End::Failed(_)) => return 1,
        None => {}
    }
    for cause in error.chain() {
        let code = if let Some(error) = cause.downcast_ref::<irongate_manager::Error>() {
            match error {
                irongate_manager::Error::AlreadyRunning { .. } => 3,
                irongate_manager::Error::Setting { .. } | irongate_manager::Error::NoAddress { .. } => 2,
                irongate_manager::Error::Deployment(error) => of_deployment(error),
                irongate_manager::Error::Checkpoint(error) => of_checkpoint(error),
                _ => 1,
            }
        } else if let Some(error) = cause.downcast_ref::<irongate_switchover::Error>() {
            use irongate_switchover::Error as Switchover;
            use irongate_switchover::salvage::Problem;
            match error {
                Switchover::Deployment(error) => of_deployment(error),
                Switchover::Names(failure) => of_names(failure),
                Switchover::NoAccess { .. }
                | Switchover::OwnRole { .. }
                | Switchover::Elsewhere { .. }
                | Switchover::NoRun { .. }
                | Switchover::OtherPlan { .. }
                | Switchover::OtherRun { .. } => 2,
                Switchover::Refused { .. }
                | Switchover::Returned { .. }
                | Switchover::Busy { .. }
                | Switchover::Open { .. }
                | Switchover::JournalElsewhere { .. }
                | Switchover::Crossed { .. }
                | Switchover::NothingOpen
                | Switchover::NotHeld { .. }
                | Switchover::IsOver { .. }
                | Switchover::Overtaken { .. }
                | Switchover::NoReturn { .. }
                | Switchover::OnlyBack { .. }
                | Switchover::Scattered { .. } => 3,
                Switchover::Unfinished { .. } | Switchover::Left { .. } => 4,
                Switchover::Salvage(problem) => match &**problem {
                    Problem::Elsewhere { .. } | Problem::Spoilt { .. } => 2,
                    Problem::Conflict { before, .. } if *before > 0 => 4,
                    problem if problem.is_refusal() => 3,
                    _ => 1,
                },
                Switchover::NoAdmin { .. }
                | Switchover::NotSetUp { .. }
                | Switchover::NoRole { .. }
                | Switchover::NotByHand { .. }
                | Switchover::Administrator { .. }
                | Switchover::Live { .. }
                | Switchover::OnlyOpen { .. }
                | Switchover::SecondOpen { .. }
                | Switchover::OtherIsOpen { .. } => 3,
                // The fence stands, and does not hold.
                Switchover::Leaks { .. }
                | Switchover::Writers { .. }
                | Switchover::NoEntry { .. }
                | Switchover::StillClosed { .. } => 4,
                _ => 1,
            }
        } else if let Some(error) = cause.downcast_ref::<irongate_pump::Error>() {
            match error {
                irongate_pump::Error::Setting { .. } => 2,
                irongate_pump::Error::Exists(_) => 3,
                irongate_pump::Error::Checkpoint(error) => of_checkpoint(error),
                _ => 1,
            }
        } else if let Some(error) = cause.downcast_ref::<irongate_verify::Error>() {
            use irongate_verify::Error as Verify;
            match error {
                Verify::NoTable { .. }
                | Verify::OtherFlow { .. }
                | Verify::OtherEnds { .. }
                | Verify::Line { .. } => 2,
                Verify::NothingPublished { .. }
                | Verify::Missing { .. }
                | Verify::Rights { .. }
                | Verify::Altered { .. } => 3,
                Verify::Stopped { .. } => 4,
                Verify::Checkpoint(error) => of_checkpoint(error),
                _ => 1,
            }
        } else if let Some(error) = cause.downcast_ref::<Deployment>() {
            of_deployment(error)
        } else if let Some(irongate_apply::Error::Checkpoint(error)) = cause.downcast_ref() {
            of_checkpoint(error)
        } else if let Some(irongate_capture::Error::Checkpoint(error)) = cause.downcast_ref() {
            of_checkpoint(error)
        } else if let Some(error) = cause.downcast_ref::<Checkpoint>() {
            of_checkpoint(error)
        } else {
            continue;
        };
        return code;
    }
    1
}

/// The message with its causes: each that its predecessors have not quoted already.
fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// What checks have found, where there can be much of it: people read it line by line.
fn complaints(error: &anyhow::Error) -> Option<&[String]> {
    match error.downcast_ref::<irongate_switchover::Error>() {
        Some(irongate_switchover::Error::Refused { complaints }) => Some(complaints),
        _ => None,
    }
}

/// What to do next, by the first in the chain that knows.
fn hint(error: &anyhow::Error) -> Option<String> {
    fn of(cause: &(dyn StdError + 'static)) -> Option<String> {
        macro_rules! ask {
            ($($error:ty),*) => {
                $(if let Some(error) = cause.downcast_ref::<$error>() { return error.hint(); })*
            };
        }
        ask!(
            irongate_switchover::Error,
            irongate_manager::Error,
            irongate_deployment::Error,
            irongate_pump::Error,
            irongate_verify::Error,
            irongate_apply::Error,
            irongate_capture::Error,
            irongate_checkpoint::Error,
            irongate_postgres::Error,
            irongate_trail::Error
        );
        match cause.downcast_ref::<End>() {
            Some(End::Usage { hint, .. }) => hint.clone(),
            _ => None,
        }
    }
    error.chain().find_map(of)
}

/// A run that was refused, for a script that reads standard output.
fn document(error: &anyhow::Error) -> Option<serde_json::Value> {
    complaints(error).map(|complaints| serde_json::json!({ "result": "refused", "complaints": complaints }))
}

/// Tells standard error, and chooses the exit code. A script that asked for JSON finds there what a run was refused for.
pub(crate) fn report(error: &anyhow::Error, format: LogFormat, json: bool) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    if let Some(document) = document(error).filter(|_| json) {
        // The exit code says it, too, to whoever does not read.
        let _ = crate::output::json(&document);
    }
    let (message, hint, code) = (message(error), hint(error), code(error));
    match format {
        LogFormat::Human if let Some(complaints) = complaints(error) => {
            let list: String = complaints.iter().map(|complaint| format!("\n  * {complaint}")).collect();
            crate::output::complain(&format!("refused, and nothing was changed:{list}"), hint.as_deref());
        }
        LogFormat::Json => tracing::error!(hint, exit_code = code, "{message}"),
        LogFormat::Human => crate::output::complain(&message, hint.as_deref()),
    }
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_has_its_exit_code() {
        let file = std::path::Path::new("f.toml");
        let wrong = irongate_deployment::Configuration::parse("nonsense = 1", file).unwrap_err();
        assert_eq!(code(&wrong.into()), 2);
        assert_eq!(code(&End::usage("a", "b")), 2);
        assert_eq!(code(&End::Refused(String::new()).into()), 3);
        assert_eq!(code(&End::Incomplete(String::new()).into()), 4);
        assert_eq!(code(&anyhow::anyhow!("something else")), 1);
        let held = irongate_checkpoint::Error::Held { group: "g".into(), holder: Default::default() };
        assert_eq!(code(&anyhow::Error::from(irongate_apply::Error::from(held)).context("running it")), 3);
        use irongate_deployment::Error as Deployment;
        let live = || Deployment::NotLive { end: "config.secondary".into(), live: "main".into() };
        assert_eq!(code(&live().into()), 3);
        assert_eq!(code(&irongate_switchover::Error::from(live()).into()), 3);
        let (flow, at, site) = ("csp".into(), "main".into(), "secondary".into());
        assert_eq!(code(&Deployment::Elsewhere { flow, at, site }.into()), 2);
        assert_eq!(code(&irongate_switchover::Error::Busy { holder: "process 7".into() }.into()), 3);
    }

    #[test]
    fn a_script_is_told_what_a_run_was_refused_for() {
        let complaints = vec!["a is wrong".to_owned(), "b is".to_owned()];
        let refused = anyhow::Error::from(irongate_switchover::Error::Refused { complaints });
        let expected = serde_json::json!({ "result": "refused", "complaints": ["a is wrong", "b is"] });
        assert_eq!(document(&refused.context("above")), Some(expected));
        assert_eq!(document(&irongate_switchover::Error::NothingOpen.into()), None);
    }

    #[test]
    fn a_cause_that_was_quoted_is_not_said_twice() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = irongate_trail::Error::Io { operation: "open", path: "p".into(), source: missing };
        let said = message(&anyhow::Error::from(error).context("cannot look into the trail"));
        assert_eq!(said, "cannot look into the trail: could not open \"p\": entity not found");
    }

    #[test]
    fn the_hint_of_a_library_is_found_below_a_context() {
        let error = anyhow::Error::from(irongate_trail::Error::Missing("p".into())).context("above");
        assert!(hint(&error).unwrap().contains("setup"));
    }
}
