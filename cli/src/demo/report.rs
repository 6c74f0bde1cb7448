//! What the demo did: told step by step to people, or at the end as one JSON document.

use std::future::Future;
use std::time::Instant;

use irongate_verify::Comparison;
use serde::Serialize;

use crate::arguments::Global;
use crate::{output, progress};

/// A step; the names are a contract.
#[derive(Clone, Debug, Serialize)]
struct Step {
    name: &'static str,
    result: &'static str,
    seconds: f64,
    evidence: String,
}

/// What the demo did; the names are a contract.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    result: &'static str,
    steps: Vec<Step>,
    pub(super) compare: Option<Comparison>,
    /// The same of the log database, which both sites write.
    pub(super) compare_log: Option<Comparison>,
    /// Seconds in which the planned switchover let nobody write.
    pub(super) outage_seconds: Option<f64>,
    /// Transactions of the load that are not at the target.
    pub(super) lost_transactions: Option<u64>,
    /// Transactions of the load that are there more than once.
    pub(super) repeated_transactions: Option<u64>,
    pub(super) transactions: u64,
    pub(super) kills: u32,
    seconds: f64,
    #[serde(skip)]
    begin: Instant,
    #[serde(skip)]
    global: Global,
}

impl Report {
    pub(super) fn new(global: &Global) -> Self {
        Self {
            result: "failed",
            steps: Vec::new(),
            compare: None,
            compare_log: None,
            outage_seconds: None,
            lost_transactions: None,
            repeated_transactions: None,
            transactions: 0,
            kills: 0,
            seconds: 0.0,
            begin: Instant::now(),
            global: global.clone(),
        }
    }

    /// Takes a step: its value, and what it shows. A failure is noted too.
    pub(super) async fn step<T>(
        &mut self,
        name: &'static str,
        doing: &'static str,
        work: impl Future<Output = anyhow::Result<(T, String)>>,
    ) -> anyhow::Result<T> {
        let bar = progress::bar(&self.global, None, "  {spinner}   {prefix:12} {elapsed:>5}  {wide_msg}");
        bar.set_prefix(name);
        bar.set_message(doing);
        let begin = Instant::now();
        let result = work.await;
        bar.finish_and_clear();
        let seconds = begin.elapsed().as_secs_f64();
        let (result, evidence, outcome) = match result {
            Ok((value, evidence)) => ("ok", evidence, Ok(value)),
            Err(error) => ("failed", format!("{error:#}"), Err(error)),
        };
        if !self.global.json {
            output::text(format_args!("  {result:<6} {name:<12} {seconds:>6.1} s   {evidence}"))?;
        }
        self.steps.push(Step { name, result, seconds, evidence });
        outcome
    }

    /// Everything went well.
    pub(super) fn succeed(&mut self) {
        self.result = "ok";
    }

    /// Shows the end.
    pub(super) fn print(&mut self) -> anyhow::Result<()> {
        self.seconds = self.begin.elapsed().as_secs_f64();
        if self.global.json {
            return output::json(self);
        }
        if self.result == "ok" {
            output::text(format_args!(
                "\n{} transactions under {} kills: 0 lost, 0 repeated, 0 differences ({:.0} s)",
                output::count(self.transactions),
                self.kills,
                self.seconds
            ))?;
        }
        Ok(())
    }
}
