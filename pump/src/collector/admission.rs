//! May this pump go on with this flow's trail? Decided from facts alone, before anything is written.
//!
//! Each doubt is a refusal with its own message and remedy. A pump that is let in goes on exactly where the trail here ends:
//! its own trail begins no later (no gap), comes at least so far, and is of the same history.

use irongate_trail::{Lineage, Lsn};

use crate::settings::AcceptedFlow;
use crate::wire::{Code, Hello, History, Place, Refused};

/// The flow's trail at this site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Own {
    pub(crate) lineage: Lineage,
    pub(crate) epoch: u64,
    pub(crate) place: Place,
}

fn refused(code: Code, transient: bool, message: String, remedy: impl Into<String>) -> Refused {
    Refused { code, transient, message, remedy: remedy.into() }
}

/// Whether the pump belongs here: deployment, flow, site and epoch. `certified` says whether its certificate bears the name
/// of a site.
pub(crate) fn who<'a>(
    hello: &Hello,
    deployment: &str,
    flows: &'a [AcceptedFlow],
    certified: impl Fn(&str) -> bool,
) -> Result<&'a AcceptedFlow, Refused> {
    let Hello { deployment: theirs, flow, site, .. } = hello;
    if !certified(site) {
        return Err(refused(
            Code::Site,
            false,
            format!(
                "wrong name: the pump says that it is of site \"{site}\", and its certificate is not for that site"
            ),
            "give each site the certificate that bears its own name",
        ));
    }
    if theirs != deployment {
        return Err(refused(
            Code::Deployment,
            false,
            format!("the pump is of deployment \"{theirs}\", this collector of \"{deployment}\""),
            "look at the address of the collector, and at the deployment's name at both sites",
        ));
    }
    let Some(accepted) = flows.iter().find(|accepted| accepted.flow == *flow) else {
        return Err(refused(
            Code::Flow,
            false,
            format!("flow \"{flow}\" is not known at this site"),
            "both sites need the same configuration; restart the collector after a flow was added",
        ));
    };
    if accepted.from != *site {
        return Err(refused(
            Code::Site,
            false,
            format!("flow \"{flow}\" comes from site \"{}\", not from site \"{site}\"", accepted.from),
            "both sites need the same configuration; is the flow's direction right?",
        ));
    }
    check_epoch(hello, accepted.epoch)?;
    Ok(accepted)
}

fn check_epoch(hello: &Hello, known: u64) -> Result<(), Refused> {
    if hello.epoch >= known {
        return Ok(());
    }
    Err(refused(
        Code::Epoch,
        false,
        format!(
            "flow \"{}\" comes in epoch {}, and this site knows of epoch {known}: another site has taken over since",
            hello.flow, hello.epoch
        ),
        "the old site must not send any more; salvage what it has alone, and instantiate it anew",
    ))
}

const INSTANTIATE: &str = "instantiate the flow again";

/// Whether the pump's trail goes on where the one here ends; `own` is `None` where there is none yet. Returns with what a new
/// trail begins.
///
/// A history of a later slot of the same cluster is let in from its very beginning, and returned: the flow was instantiated
/// again, and the trail here holds one behind the other as the pump's does. No reader can slip from one to the other: it
/// is bound to the history that its target was loaded from, and stops where that ends.
pub(crate) fn place(hello: &Hello, own: Option<&Own>) -> Result<History, Refused> {
    let flow = &hello.flow;
    let Some(first) = hello.histories.first() else {
        let message = format!("the pump's trail of flow \"{flow}\" is empty");
        return Err(refused(Code::Malformed, true, message, "start Extract first"));
    };
    let Some(own) = own else {
        if first.previous.0 != Lsn::ZERO {
            return Err(refused(
                Code::Gap,
                false,
                format!(
                    "gap: the trail of flow \"{flow}\" has yet to begin here, and the pump's begins only after commit {}",
                    first.previous
                ),
                INSTANTIATE,
            ));
        }
        return Ok(*first);
    };
    check_epoch(hello, own.epoch)?;
    let Some(history) = hello.histories.iter().find(|history| history.lineage == own.lineage) else {
        // In a later epoch the site may have been made anew, as another cluster.
        let is_anew = first.lineage.is_anew_after(&own.lineage)
            || (hello.epoch > own.epoch && first.lineage.system_identifier != own.lineage.system_identifier);
        if is_anew && first.previous.0 == Lsn::ZERO {
            return Ok(*first);
        }
        let Lineage { system_identifier, .. } = own.lineage;
        let last = hello.histories.last().unwrap_or(first).lineage;
        let what = if last.system_identifier == system_identifier {
            "of another history"
        } else {
            "of another database cluster"
        };
        return Err(refused(
            Code::Lineage,
            false,
            format!(
                "the pump's trail of flow \"{flow}\" is {what} ({last}) than the one here ({})",
                own.lineage
            ),
            if last.system_identifier == system_identifier {
                format!("point the pump at the trail of the flow's own source, or {INSTANTIATE}")
            } else {
                format!(
                    "point the pump at the trail of the flow's own source; if that is a new cluster on purpose, stop the \
                     flow, move its trail's directory here away, and {INSTANTIATE}"
                )
            },
        ));
    };
    // As the trail's reader finds its place: it follows the very commit, or begins no later.
    let follows = history.previous == own.place.commit && own.place.commit.0 != Lsn::ZERO;
    if !follows && (history.previous > own.place.commit || history.start > own.place.resume) {
        return Err(refused(
            Code::Gap,
            false,
            format!(
                "gap: the pump's trail of flow \"{flow}\" begins at {}, after commit {}, and the one here ends at {}, with commit {}",
                history.start, history.previous, own.place.resume, own.place.commit
            ),
            INSTANTIATE,
        ));
    }
    let is_last = hello.histories.last().is_some_and(|last| last.lineage == own.lineage);
    if is_last && own.place.commit > hello.end.commit {
        return Err(refused(
            Code::Behind,
            true,
            format!(
                "the trail of flow \"{flow}\" has commit {} here, and the pump's ends with commit {}",
                own.place.commit, hello.end.commit
            ),
            format!(
                "start Extract: after a power cut it captures again what is missing; if it runs already, the trails do not have the same history: compare the databases, then {INSTANTIATE}"
            ),
        ));
    }
    Ok(*history)
}

/// Another pump has the flow.
pub(crate) fn busy(flow: &str, holder: &str) -> Refused {
    refused(
        Code::Busy,
        true,
        format!("flow \"{flow}\" is being carried by another pump: {holder}"),
        "stop the other pump; a connection that was cut is given up after the link's time of silence",
    )
}

#[cfg(test)]
mod tests {
    use irongate_trail::{CommitLsn, ResumeLsn};

    use super::*;

    const LINEAGE: Lineage = Lineage { system_identifier: 7, timeline: 1, slot_incarnation: Lsn(5) };
    const PROMOTED: Lineage = Lineage { timeline: 2, ..LINEAGE };

    fn at(commit: u64, resume: u64) -> Place {
        Place { commit: CommitLsn(Lsn(commit)), resume: ResumeLsn(Lsn(resume)) }
    }

    fn history(lineage: Lineage, previous: u64, start: u64) -> History {
        History { lineage, previous: CommitLsn(Lsn(previous)), start: ResumeLsn(Lsn(start)) }
    }

    fn hello() -> Hello {
        Hello {
            deployment: "shop".to_owned(),
            flow: "csp".to_owned(),
            site: "main".to_owned(),
            group: "csp-pump".to_owned(),
            instance: 1,
            epoch: 3,
            server_version: 170_000,
            histories: vec![history(LINEAGE, 0, 10)],
            end: at(900, 1000),
        }
    }

    fn own(place: Place) -> Own {
        Own { lineage: LINEAGE, epoch: 3, place }
    }

    fn code_of<T: std::fmt::Debug>(result: Result<T, Refused>) -> Code {
        let refused = result.unwrap_err();
        assert!(!refused.remedy.is_empty(), "{refused}: what then?");
        refused.code
    }

    #[test]
    fn only_the_flow_s_own_site_of_the_deployment_in_the_present_epoch_is_let_in() {
        let flows = [AcceptedFlow { flow: "csp".to_owned(), from: "main".to_owned(), epoch: 3 }];
        let ask = |hello: &Hello, certified: bool| who(hello, "shop", &flows, |_| certified).cloned();
        assert_eq!(ask(&hello(), true).unwrap(), flows[0]);
        assert_eq!(code_of(ask(&hello(), false)), Code::Site);
        assert_eq!(code_of(ask(&Hello { deployment: "x".to_owned(), ..hello() }, true)), Code::Deployment);
        assert_eq!(code_of(ask(&Hello { flow: "x".to_owned(), ..hello() }, true)), Code::Flow);
        assert_eq!(code_of(ask(&Hello { site: "x".to_owned(), ..hello() }, true)), Code::Site);
        assert_eq!(code_of(ask(&Hello { epoch: 2, ..hello() }, true)), Code::Epoch);
        ask(&Hello { epoch: 4, ..hello() }, true).unwrap();
    }

    #[test]
    fn a_new_trail_begins_where_the_pump_s_does_and_nothing_is_missing_before() {
        assert_eq!(place(&hello(), None).unwrap(), history(LINEAGE, 0, 10));
        let purged = Hello { histories: vec![history(LINEAGE, 500, 600)], ..hello() };
        assert_eq!(code_of(place(&purged, None)), Code::Gap);
        assert_eq!(code_of(place(&Hello { histories: Vec::new(), ..hello() }, None)), Code::Malformed);
    }

    #[test]
    fn a_trail_goes_on_where_it_ends_and_every_doubt_is_told_apart() {
        place(&hello(), Some(&own(at(0, 10)))).unwrap();
        place(&hello(), Some(&own(at(500, 600)))).unwrap();
        place(&hello(), Some(&own(at(900, 1000)))).unwrap();
        assert_eq!(code_of(place(&hello(), Some(&own(at(901, 1001))))), Code::Behind);
        let purged = Hello { histories: vec![history(LINEAGE, 500, 600)], ..hello() };
        place(&purged, Some(&own(at(500, 550)))).unwrap();
        place(&purged, Some(&own(at(700, 800)))).unwrap();
        assert_eq!(code_of(place(&purged, Some(&own(at(400, 450))))), Code::Gap);
        let other = Own { lineage: Lineage { system_identifier: 8, ..LINEAGE }, ..own(at(0, 10)) };
        assert_eq!(code_of(place(&hello(), Some(&other))), Code::Lineage);
        let later = Hello { epoch: other.epoch + 1, ..hello() };
        assert_eq!(place(&later, Some(&other)).unwrap(), history(LINEAGE, 0, 10));
        assert_eq!(code_of(place(&Hello { epoch: 9, ..purged.clone() }, Some(&other))), Code::Lineage);
        let anew = Own { lineage: Lineage { slot_incarnation: Lsn(6), ..LINEAGE }, ..own(at(0, 10)) };
        assert_eq!(code_of(place(&hello(), Some(&anew))), Code::Lineage);
        // A later slot: from its beginning, or not at all.
        let before = Own { lineage: Lineage { slot_incarnation: Lsn(4), ..LINEAGE }, ..own(at(5000, 5100)) };
        assert_eq!(place(&hello(), Some(&before)).unwrap(), history(LINEAGE, 0, 10));
        assert_eq!(code_of(place(&purged, Some(&before))), Code::Lineage);
        assert_eq!(code_of(place(&hello(), Some(&Own { epoch: 4, ..before }))), Code::Epoch);
        assert_eq!(code_of(place(&hello(), Some(&Own { epoch: 4, ..own(at(0, 10)) }))), Code::Epoch);
    }

    #[test]
    fn a_promoted_server_s_trail_goes_on_from_the_one_before() {
        let histories = vec![history(LINEAGE, 0, 10), history(PROMOTED, 0, 700)];
        let hello = Hello { histories, end: at(0, 700), ..hello() };
        assert_eq!(place(&hello, Some(&own(at(500, 600)))).unwrap().lineage, LINEAGE);
        let own = Own { lineage: PROMOTED, ..own(at(0, 700)) };
        assert_eq!(place(&hello, Some(&own)).unwrap().lineage, PROMOTED);
        let lost = Hello { histories: vec![history(PROMOTED, 0, 700)], ..hello };
        let earlier = Own { lineage: LINEAGE, ..own };
        assert_eq!(code_of(place(&lost, Some(&earlier))), Code::Lineage);
    }
}
