//! What may be the name of a site, a flow, a slot.

use toml::Spanned;

use super::problem::Problems;

/// The longest identifier that PostgreSQL keeps (`NAMEDATALEN` - 1), in bytes.
const LONGEST_IDENTIFIER: usize = 63;
/// Longest name of a deployment. With the longest flow it makes the longest slot.
pub(super) const LONGEST_DEPLOYMENT: usize = 24;
/// Longest name of a flow.
pub(super) const LONGEST_FLOW: usize = 28;

/// Lower-case letters, digits, `_` and `-`, beginning with a letter: fits in file names, units, URLs.
pub(super) fn review_name(problems: &mut Problems<'_>, name: &Spanned<String>, what: &str, longest: usize) {
    let text = name.get_ref();
    let sound = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
        && text.len() <= longest;
    if !sound {
        let remedy = format!(
            "use a lower-case letter, then lower-case letters, digits, \"_\" and \"-\", {longest} characters at most"
        );
        problems.add(name.span(), format!("\"{text}\" cannot be the name of a {what}"), Some(remedy));
    }
}

/// A name that the server cuts off or folds away is another name.
pub(super) fn review_identifier(problems: &mut Problems<'_>, name: &Spanned<String>, what: &str) {
    let text = name.get_ref();
    let reason = if text.is_empty() {
        "it is empty"
    } else if text.len() > LONGEST_IDENTIFIER {
        "it is longer than 63 bytes"
    } else if text.contains('\0') {
        "it holds a NUL character"
    } else {
        return;
    };
    problems.add(name.span(), format!("\"{text}\" cannot be the value of \"{what}\": {reason}"), None);
}

/// PostgreSQL manual, `pg_create_logical_replication_slot`.
pub(super) fn review_slot(problems: &mut Problems<'_>, name: &Spanned<String>) {
    let text = name.get_ref();
    let sound = (1..=LONGEST_IDENTIFIER).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !sound {
        problems.add(
            name.span(),
            format!("\"{text}\" cannot be the name of a replication slot"),
            Some("use lower-case letters, digits and \"_\", 63 characters at most".into()),
        );
    }
}

/// `irongate_<deployment>_<flow>`: a slot's or publication's name that does not depend on where anything is installed.
pub(super) fn stable(deployment: &str, flow: &str) -> String {
    format!("irongate_{deployment}_{flow}").replace('-', "_")
}
