//! What a run does next, by what its journal says. Decides only.
//!
//! Steps are done in order, each once: one whose end stands in the journal is not begun again. Taken back they are in the
//! opposite order, all that were begun, since one without an end may have been done in part. Behind the point of no return
//! nothing is taken back: the run can only be gone on with.

use crate::journal::{Entry, Outcome, What};

/// A step of a plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Its name.
    pub name: &'static str,
    /// From its beginning on there is no way back.
    pub no_return: bool,
}

/// Which way a run goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Towards its end.
    Forward,
    /// Back to where it began.
    Back,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// This step, by its place in the plan.
    Do(usize),
    /// Take this step back.
    Undo(usize),
    /// Note that the run is over.
    End(Outcome),
    /// The run is over.
    Over(Outcome),
    /// There is no way back from this step.
    NoReturn(usize),
    /// A run that is being taken back cannot be gone on with.
    OnlyBack,
}

/// What is next for a run of these steps.
pub fn next(steps: &[Step], entries: &[Entry], way: Way) -> Next {
    let place = |name: &str| steps.iter().position(|step| step.name == name);
    let mut begun = vec![false; steps.len()];
    let mut done = vec![false; steps.len()];
    let mut goes_back = false;
    for entry in entries {
        match &entry.what {
            What::Ended { outcome } => return Next::Over(*outcome),
            What::Step { step } => mark(&mut begun, place(step), true),
            What::Done { step, .. } => mark(&mut done, place(step), true),
            What::Undo { .. } => goes_back = true,
            What::Undone { step, .. } => {
                mark(&mut begun, place(step), false);
                mark(&mut done, place(step), false);
                goes_back = true;
            }
            What::Begun(_) | What::Failed { .. } | What::Chosen { .. } | What::Accepted => {}
        }
    }
    match way {
        Way::Forward if goes_back => Next::OnlyBack,
        Way::Forward => match done.iter().position(|done| !done) {
            Some(step) => Next::Do(step),
            None => Next::End(Outcome::Done),
        },
        Way::Back => {
            let no_return = |step: &usize| begun[*step] && steps[*step].no_return;
            if let Some(step) = (0..steps.len()).find(no_return) {
                return Next::NoReturn(step);
            }
            match begun.iter().rposition(|begun| *begun) {
                Some(step) => Next::Undo(step),
                None => Next::End(Outcome::Aborted),
            }
        }
    }
}

fn mark(marks: &mut [bool], place: Option<usize>, value: bool) {
    if let Some(mark) = place.and_then(|place| marks.get_mut(place)) {
        *mark = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [Step; 4] = [
        Step { name: "a", no_return: false },
        Step { name: "b", no_return: false },
        Step { name: "c", no_return: true },
        Step { name: "d", no_return: false },
    ];

    fn entries(what: &[What]) -> Vec<Entry> {
        what.iter().map(|what| Entry { at: 0, what: what.clone() }).collect()
    }

    fn step(name: &str) -> What {
        What::Step { step: name.into() }
    }

    fn done(name: &str) -> What {
        What::Done { step: name.into(), seconds: 0.0, evidence: serde_json::Value::Null }
    }

    fn undone(name: &str) -> What {
        What::Undone { step: name.into(), evidence: serde_json::Value::Null }
    }

    #[test]
    fn a_run_goes_on_where_it_was_cut_off() {
        let next = |what: &[What]| next(&STEPS, &entries(what), Way::Forward);
        assert_eq!(next(&[]), Next::Do(0));
        assert_eq!(next(&[step("a")]), Next::Do(0));
        assert_eq!(next(&[step("a"), done("a"), step("b")]), Next::Do(1));
        let failed = What::Failed {
            step: "b".into(),
            error: String::new(),
            hint: None,
            evidence: serde_json::Value::Null,
        };
        assert_eq!(next(&[step("a"), done("a"), step("b"), failed]), Next::Do(1));
        let all: Vec<What> = STEPS.iter().flat_map(|s| [step(s.name), done(s.name)]).collect();
        assert_eq!(next(&all), Next::End(Outcome::Done));
        assert_eq!(
            next(&[&all[..], &[What::Ended { outcome: Outcome::Done }]].concat()),
            Next::Over(Outcome::Done)
        );
    }

    #[test]
    fn a_run_is_taken_back_in_the_opposite_order_up_to_the_point_of_no_return() {
        let next = |what: &[What], way| next(&STEPS, &entries(what), way);
        let two = [step("a"), done("a"), step("b")];
        assert_eq!(next(&two, Way::Back), Next::Undo(1));
        let one = [&two[..], &[What::Undo { step: "b".into() }, undone("b")]].concat();
        assert_eq!(next(&one, Way::Back), Next::Undo(0));
        assert_eq!(next(&one, Way::Forward), Next::OnlyBack);
        let none = [&one[..], &[undone("a")]].concat();
        assert_eq!(next(&none, Way::Back), Next::End(Outcome::Aborted));
        // Half taken back.
        assert_eq!(next(&[&two[..], &[What::Undo { step: "b".into() }]].concat(), Way::Back), Next::Undo(1));
        // The third step may have been done in part: applications may write already.
        assert_eq!(next(&[&two[..], &[done("b"), step("c")]].concat(), Way::Back), Next::NoReturn(2));
    }
}
