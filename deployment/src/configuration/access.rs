//! Whom a fence keeps out of a database.

use serde::Deserialize;
use toml::Spanned;

use super::problem::Problems;

/// `[access.NAME]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccessSection {
    roles: Vec<Spanned<String>>,
    #[serde(default)]
    keep_login: bool,
}

/// The applications' roles of a database.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Access {
    /// Roles that the applications log in as.
    pub roles: Vec<String>,
    /// A fence leaves them their LOGIN, because they work in other databases of the server too.
    pub keep_login: bool,
}

impl AccessSection {
    pub(super) fn review(self, problems: &mut Problems<'_>) -> Access {
        let mut roles: Vec<String> = Vec::new();
        for role in self.roles {
            if role.get_ref().is_empty() || role.get_ref() == "public" || roles.contains(role.get_ref()) {
                problems.add(
                    role.span(),
                    format!("\"{}\" is no role of an application, or stands there twice", role.get_ref()),
                    Some("write the roles that the applications log in as, each once".into()),
                );
                continue;
            }
            roles.push(role.into_inner());
        }
        Access { roles, keep_login: self.keep_login }
    }
}
