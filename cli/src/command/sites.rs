//! What commands that see all sites have in common: whom they ask, and what they say of a site that does not answer.

use irongate_manager::Error;
use irongate_manager::sites::{Answered, Meant, Sites};
use serde::Serialize;

use super::Here;
use crate::failure::End;
use crate::output;

/// A site that could not be asked; the names are a contract.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Unreachable {
    site: String,
    reason: String,
    hint: Option<String>,
}

impl Unreachable {
    fn new(site: &str, error: &Error) -> Self {
        Self { site: site.to_owned(), reason: error.to_string(), hint: error.hint() }
    }
}

impl Here {
    /// All sites as they are seen from here; nothing where it is not said which site this is.
    pub(super) fn sites(&self) -> Option<Sites<'_>> {
        self.site().map(|site| Sites::new(&self.configuration, site))
    }

    /// The other sites at which there is something of these names, as far as their managers have an address.
    pub(super) fn others(&self, names: &[String]) -> anyhow::Result<Vec<Meant>> {
        let Some(sites) = self.sites() else { return Ok(Vec::new()) };
        let mut meant = sites.meant(names)?;
        meant.retain(|meant| Some(meant.site.as_str()) != self.site() && sites.is_reachable(&meant.site));
        Ok(meant)
    }
}

/// Takes the answers apart: those that came, and the sites that gave none.
pub(super) fn sort<T>(answers: Vec<Answered<T>>) -> (Vec<(String, T)>, Vec<Unreachable>) {
    let (mut came, mut missing) = (Vec::new(), Vec::new());
    for Answered { site, answer, .. } in answers {
        match answer {
            Ok(answer) => came.push((site, answer)),
            Err(error) => missing.push(Unreachable::new(&site, &error)),
        }
    }
    (came, missing)
}

/// Says which sites are missing in what was shown, and makes that an incomplete end.
pub(super) fn say(missing: &[Unreachable]) -> anyhow::Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    for Unreachable { site, reason, hint } in missing {
        output::note(format_args!("site \"{site}\" cannot be asked: {reason}"));
        if let Some(hint) = hint {
            output::note(format_args!("  hint: {hint}"));
        }
    }
    let names: Vec<_> = missing.iter().map(|missing| missing.site.as_str()).collect();
    Err(End::Incomplete(format!("without what site {} would say", names.join(", "))).into())
}
