//! Quoting, for the few places where a name or value cannot be a parameter.

/// A name as an identifier, always in quotes: no list of reserved words to keep, no case folding.
///
/// A NUL cannot be in any name; it is left to the server (the protocol cannot carry it) to refuse it.
pub fn quote_identifier(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len() + 2);
    push_identifier(&mut quoted, name);
    quoted
}

/// A text as a string literal that means the same whatever `standard_conforming_strings` says.
pub fn quote_literal(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 3);
    // Only a backslash is read differently, and only the E form reads it alike everywhere.
    let escaped = text.contains('\\');
    quoted.push_str(if escaped { "E'" } else { "'" });
    for c in text.chars() {
        if c == '\'' || c == '\\' {
            quoted.push(c);
        }
        quoted.push(c);
    }
    quoted.push('\'');
    quoted
}

/// `"schema"."name"`.
pub fn qualified(schema: &str, name: &str) -> String {
    let mut quoted = String::with_capacity(schema.len() + name.len() + 5);
    push_identifier(&mut quoted, schema);
    quoted.push('.');
    push_identifier(&mut quoted, name);
    quoted
}

fn push_identifier(quoted: &mut String, name: &str) {
    quoted.push('"');
    for c in name.chars() {
        if c == '"' {
            quoted.push('"');
        }
        quoted.push(c);
    }
    quoted.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_literals_survive_their_own_quotes() {
        assert_eq!(quote_identifier("Order \"x\""), "\"Order \"\"x\"\"\"");
        assert_eq!(qualified("a.b", "c\"d"), "\"a.b\".\"c\"\"d\"");
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\'b"), "E'a\\\\''b'");
        assert_eq!(quote_literal(""), "''");
    }
}
