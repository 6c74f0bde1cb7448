//! `[flows.NAME.ddl]`: changes of structure that go with the rows.

use serde::Deserialize;
use toml::Spanned;

use super::problem::Problems;

/// Classes of what can go along.
const CLASSES: [&str; 12] = [
    "tables",
    "indexes",
    "triggers",
    "types",
    "sequences",
    "views",
    "functions",
    "schemas",
    "extensions",
    "comments",
    "owners",
    "grants",
];
/// The one that is left out unless it is named: rights are the fence's at a standby.
const NOT_USUAL: &str = "grants";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DdlSection {
    objects: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    schemas: Vec<Spanned<String>>,
    owner: Option<Spanned<String>>,
    on_error: Option<OnError>,
    on_rewrite: Option<OnRewrite>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnError {
    Stop,
    Refuse,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnRewrite {
    Send,
    Stop,
}

/// What of a source's structure goes with a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DdlOptions {
    /// Classes of objects, and of what belongs to them.
    pub objects: Vec<String>,
    /// Schemas whose views, types, functions and the like go along, besides those of the flow's tables.
    pub schemas: Vec<String>,
    /// Who owns at the target what is made there; the role of the same name as at the source where it is not said.
    pub owner: Option<String>,
    /// A command that cannot be described is refused at the source; otherwise Replicat stops at it.
    pub refuse: bool,
    /// Where a table was rewritten with values that nobody can compute again, all its rows are sent again; otherwise
    /// Replicat stops.
    pub send: bool,
}

impl DdlSection {
    pub(super) fn review(self, problems: &mut Problems<'_>) -> DdlOptions {
        let usual = || CLASSES.iter().filter(|class| **class != NOT_USUAL).map(|class| (*class).to_owned());
        let objects = match self.objects {
            None => usual().collect(),
            Some(named) => {
                for class in &named {
                    if !CLASSES.contains(&class.get_ref().as_str()) {
                        problems.add(
                            class.span(),
                            format!("\"{}\" is no class of objects", class.get_ref()),
                            Some(format!("known are: {}", CLASSES.join(", "))),
                        );
                    }
                }
                // In one order, whatever the file's.
                let is_named = |class: &&&str| named.iter().any(|named| named.get_ref() == **class);
                CLASSES.iter().filter(is_named).map(|class| (*class).to_owned()).collect()
            }
        };
        for name in self.schemas.iter().chain(&self.owner) {
            if name.get_ref().is_empty() {
                problems.add(name.span(), "an empty name", Some("leave it away".into()));
            }
        }
        DdlOptions {
            objects,
            schemas: self.schemas.into_iter().map(Spanned::into_inner).collect(),
            owner: self.owner.map(Spanned::into_inner),
            refuse: matches!(self.on_error, Some(OnError::Refuse)),
            send: !matches!(self.on_rewrite, Some(OnRewrite::Stop)),
        }
    }
}
