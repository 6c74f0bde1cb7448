//! Whether text means the same at both ends.

use super::{Findings, Side};

/// The encoding that is none: any bytes are text.
const NONE: &str = "SQL_ASCII";

pub(super) fn pair(source: &Side<'_>, target: &Side<'_>, findings: &mut Findings) {
    let (from, to) = (&source.facts, &target.facts);
    let remake = |what: &str, value: &str| format!("create the target's database with {what} '{value}'");
    if from.encoding != to.encoding {
        if from.encoding == NONE || to.encoding == NONE {
            findings.error(
                &target.end,
                "encoding",
                format!(
                    "it is {} and the source's is {}: bytes cannot be told apart from characters",
                    to.encoding, from.encoding
                ),
                remake("ENCODING", &from.encoding),
            );
        } else if to.encoding != "UTF8" {
            findings.error(
                &target.end,
                "encoding",
                format!("it is {}, which lacks characters of the source's {}", to.encoding, from.encoding),
                remake("ENCODING", &from.encoding),
            );
        }
    } else if from.encoding == NONE {
        findings.error(
            &source.end,
            "encoding",
            "it is SQL_ASCII: text that is not valid UTF-8 cannot be sent",
            "move the data to a database with a real encoding",
        );
    }
    for (what, source_has, target_has) in
        [("LC_COLLATE", &from.lc_collate, &to.lc_collate), ("LC_CTYPE", &from.lc_ctype, &to.lc_ctype)]
    {
        if normal(source_has) != normal(target_has) {
            findings.warning(
                &target.end,
                format!("collation ({what})"),
                format!("it is \"{target_has}\" and the source's is \"{source_has}\": text sorts and compares otherwise"),
                remake(what, source_has),
            );
        }
    }
}

/// Operating systems spell one locale in several ways.
fn normal(locale: &str) -> String {
    let lower = locale.to_ascii_lowercase().replace("utf-8", "utf8");
    if lower == "posix" { "c".to_owned() } else { lower }
}

#[cfg(test)]
mod tests {
    use super::normal;

    #[test]
    fn one_locale_has_several_spellings() {
        assert_eq!(normal("en_US.UTF-8"), normal("en_US.utf8"));
        assert_eq!(normal("POSIX"), normal("C"));
        assert_ne!(normal("de_DE.UTF-8"), normal("en_US.UTF-8"));
        assert_ne!(normal("C"), normal("C.UTF-8"));
    }
}
