//! `[flows.NAME.conflicts]`: what to do where both sites have changed the same key.

use std::collections::BTreeMap;
use std::time::Duration;

use irongate_apply::{ColumnRule, Conflicts, Rule, TableRule};
use serde::Deserialize;
use toml::Spanned;

use super::problem::Problems;
use super::units::Time;

/// How long deleted keys are remembered unless the file says otherwise.
const TOMBSTONE_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConflictSection {
    policy: Option<Spanned<PolicyName>>,
    site: Option<Spanned<String>>,
    tombstone_age: Option<Spanned<Time>>,
    #[serde(default)]
    table: Vec<TableSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableSection {
    table: Spanned<String>,
    policy: Option<Spanned<PolicyName>>,
    site: Option<Spanned<String>>,
    #[serde(default)]
    columns: BTreeMap<String, ColumnName>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PolicyName {
    Abend,
    Latest,
    Site,
    Keep,
    Overwrite,
    Queue,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ColumnName {
    Difference,
    Keep,
    Overwrite,
}

/// The sites between which a flow goes.
pub(super) struct Ends<'a> {
    pub(super) from: &'a str,
    pub(super) to: &'a str,
}

impl ConflictSection {
    pub(super) fn review(self, ends: &Ends<'_>, problems: &mut Problems<'_>) -> Option<Conflicts> {
        let default = rule(self.policy.as_ref(), self.site.as_ref(), ends, problems).unwrap_or(Rule::Abend);
        if self.policy.is_none()
            && let Some(site) = &self.site
        {
            needs_policy(site, problems);
        }
        let age = self.tombstone_age.map(|age| {
            if age.get_ref().0.is_zero() {
                let remedy = "use a time longer than the flow may ever be behind, such as \"7d\"";
                problems.add(age.span(), "deleted keys would not be remembered", Some(remedy.into()));
            }
            age.into_inner().0
        });
        let mut tables = Vec::new();
        for section in self.table {
            let name = section.table.get_ref();
            if !name.contains('.') && name != "*" {
                problems.add(
                    section.table.span(),
                    format!("\"{name}\" is not of the form schema.table"),
                    Some("write \"schema.table\" or \"schema.*\"".into()),
                );
            }
            if section.policy.is_none()
                && let Some(site) = &section.site
            {
                needs_policy(site, problems);
            }
            let own = rule(section.policy.as_ref(), section.site.as_ref(), ends, problems);
            let rule = own.unwrap_or_else(|| default.clone());
            if rule == Rule::Abend && !section.columns.is_empty() {
                let reason = "columns cannot be resolved where conflicts are not looked for";
                let remedy = "give the table a policy = \"latest\", \"site\", \"keep\" or \"overwrite\"";
                problems.add(section.table.span(), reason, Some(remedy.into()));
            }
            if rule == Rule::Queue && !section.columns.is_empty() {
                let reason = "a change that goes to the error queue goes there whole";
                problems.add(section.table.span(), reason, Some("leave columns out".into()));
            }
            let column = |(name, rule): (String, ColumnName)| {
                let rule = match rule {
                    ColumnName::Difference => ColumnRule::Difference,
                    ColumnName::Keep => ColumnRule::Keep,
                    ColumnName::Overwrite => ColumnRule::Overwrite,
                };
                (name, rule)
            };
            let columns = section.columns.into_iter().map(column).collect();
            tables.push((section.table.into_inner(), TableRule { rule, columns }));
        }
        let conflicts = Conflicts {
            here: ends.to.to_owned(),
            there: ends.from.to_owned(),
            default: TableRule::of(default),
            tables,
            tombstone_age: age.unwrap_or(TOMBSTONE_AGE),
        };
        (!conflicts.is_idle()).then_some(conflicts)
    }
}

fn needs_policy(site: &Spanned<String>, problems: &mut Problems<'_>) {
    let reason = "only the policy \"site\" has a site that goes first";
    problems.add(site.span(), reason, Some("leave it out, or use policy = \"site\"".into()));
}

fn rule(
    policy: Option<&Spanned<PolicyName>>,
    site: Option<&Spanned<String>>,
    ends: &Ends<'_>,
    problems: &mut Problems<'_>,
) -> Option<Rule> {
    let policy = policy?;
    if let Some(site) = site {
        if *policy.get_ref() != PolicyName::Site {
            needs_policy(site, problems);
        } else if site.get_ref() != ends.from && site.get_ref() != ends.to {
            problems.add(
                site.span(),
                format!("site \"{}\" is neither end of the flow", site.get_ref()),
                Some(format!("use \"{}\" or \"{}\", and the same in both flows", ends.from, ends.to)),
            );
        }
    }
    Some(match policy.get_ref() {
        PolicyName::Abend => Rule::Abend,
        PolicyName::Latest => Rule::Latest,
        PolicyName::Keep => Rule::Keep,
        PolicyName::Overwrite => Rule::Overwrite,
        PolicyName::Queue => Rule::Queue,
        PolicyName::Site => match site {
            Some(site) => Rule::Site(site.get_ref().clone()),
            None => {
                let remedy = format!("add site = \"{}\" or site = \"{}\"", ends.from, ends.to);
                problems.add(policy.span(), "the policy does not say which site goes first", Some(remedy));
                Rule::Abend
            }
        },
    })
}
