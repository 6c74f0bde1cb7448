//! Names of tables and patterns of them, as the configuration writes them.
//!
//! A name is two parts with a dot between them. A part is taken as the catalog has it: nothing is folded to lower case. A
//! part in double quotes (doubled inside) may hold anything; outside quotes `*` stands for any run of characters and
//! `?` for one, where a pattern is meant.

use std::fmt;

use globset::{GlobBuilder, GlobMatcher};

/// A table by schema and name, as the catalog has them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TableName {
    /// The schema.
    pub schema: String,
    /// The table.
    pub name: String,
}

impl TableName {
    /// A table's name from its parts.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }

    /// Reads `schema.table`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (schema, name) = split(text)?;
        match (literal(&schema), literal(&name)) {
            (Some(schema), Some(name)) => Ok(Self { schema, name }),
            _ => Err(format!("\"{text}\" holds a wildcard where one table is to be named")),
        }
    }

    /// `"schema"."name"`, for SQL.
    pub fn quoted(&self) -> String {
        irongate_postgres::sql::qualified(&self.schema, &self.name)
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// A pattern of table names, such as `public.*`.
#[derive(Clone, Debug)]
pub struct TablePattern {
    text: String,
    schema: GlobMatcher,
    name: GlobMatcher,
    exact: Option<TableName>,
    /// The schema, if it has no wildcard and the name is nothing but one `*`.
    exact_schema: Option<String>,
}

impl PartialEq for TablePattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl TablePattern {
    /// Reads `schema.table` with wildcards.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (schema, name) = split(text)?;
        let exact_schema = (name[..] == [Piece::Any]).then(|| literal(&schema)).flatten();
        let exact = literal(&schema).zip(literal(&name)).map(|(schema, name)| TableName { schema, name });
        Ok(Self {
            text: text.to_owned(),
            schema: matcher(&schema)?,
            name: matcher(&name)?,
            exact,
            exact_schema,
        })
    }

    /// Whether the table is meant.
    pub fn matches(&self, schema: &str, name: &str) -> bool {
        self.schema.is_match(schema) && self.name.is_match(name)
    }

    /// The regular expressions of a schema and a table that are meant, for PostgreSQL.
    pub fn regular(&self) -> (String, String) {
        // It was read before.
        let (schema, name) = split(&self.text).unwrap_or_default();
        (regular(&schema), regular(&name))
    }

    /// The one table that is meant, if there is no wildcard.
    pub fn exact(&self) -> Option<&TableName> {
        self.exact.as_ref()
    }

    /// The one schema whose every table is meant, as in `public.*`.
    pub fn exact_schema(&self) -> Option<&str> {
        self.exact_schema.as_deref()
    }
}

impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Piece {
    Char(char),
    Any,
    One,
}

/// The two parts of a name.
fn split(text: &str) -> Result<(Vec<Piece>, Vec<Piece>), String> {
    let mut parts = vec![Vec::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(part) = parts.last_mut() else { break };
        match c {
            '"' => loop {
                match chars.next() {
                    Some('"') if chars.next_if_eq(&'"').is_some() => part.push(Piece::Char('"')),
                    Some('"') => break,
                    Some(c) => part.push(Piece::Char(c)),
                    None => return Err(format!("\"{text}\" has a quote that is not closed")),
                }
            },
            '.' => parts.push(Vec::new()),
            '*' => part.push(Piece::Any),
            '?' => part.push(Piece::One),
            c if c.is_whitespace() || c.is_control() => {
                return Err(format!("\"{text}\" holds a blank outside of quotes"));
            }
            c => part.push(Piece::Char(c)),
        }
    }
    match <[_; 2]>::try_from(parts) {
        Ok([schema, name]) if !schema.is_empty() && !name.is_empty() => Ok((schema, name)),
        _ => Err(format!("\"{text}\" is not of the form schema.table")),
    }
}

/// The part as it stands, if it has no wildcard.
fn literal(part: &[Piece]) -> Option<String> {
    let char = |piece: &Piece| match piece {
        Piece::Char(c) => Some(*c),
        Piece::Any | Piece::One => None,
    };
    part.iter().map(char).collect()
}

fn matcher(part: &[Piece]) -> Result<GlobMatcher, String> {
    let mut glob = String::new();
    for piece in part {
        match piece {
            Piece::Any => glob.push('*'),
            Piece::One => glob.push('?'),
            Piece::Char(c) => glob.push_str(&globset::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    let built = GlobBuilder::new(&glob).literal_separator(false).backslash_escape(false).build();
    built.map(|glob| glob.compile_matcher()).map_err(|error| error.to_string())
}

fn regular(part: &[Piece]) -> String {
    let mut text = String::from("^");
    for piece in part {
        match piece {
            Piece::Any => text.push_str(".*"),
            Piece::One => text.push('.'),
            Piece::Char(c) if c.is_ascii_alphanumeric() || *c == '_' || !c.is_ascii() => text.push(*c),
            Piece::Char(c) => text.extend(['\\', *c]),
        }
    }
    text.push('$');
    text
}

/// The regular expression of one name, for PostgreSQL.
pub(crate) fn regular_name(name: &str) -> String {
    regular(&name.chars().map(Piece::Char).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_what_its_wildcards_say_and_nothing_more() {
        let cases = [
            ("public.*", "public", "orders", true),
            ("public.*", "Public", "orders", false),
            ("public.*", "public2", "orders", false),
            ("*.*", "any thing", "a/b\\c", true),
            ("public.tmp_?", "public", "tmp_1", true),
            ("public.tmp_?", "public", "tmp_12", false),
            ("public.a[1]", "public", "a[1]", true),
            ("public.a[1]", "public", "a1", false),
            ("public.{a,b}", "public", "a", false),
            ("\"Odd.Schema\".\"T*\"", "Odd.Schema", "T*", true),
            ("\"Odd.Schema\".\"T*\"", "Odd.Schema", "Tab", false),
            ("s.\"say \"\"x\"\"\"", "s", "say \"x\"", true),
            ("s.back\\slash*", "s", "back\\slash1", true),
        ];
        for (pattern, schema, name, expected) in cases {
            let pattern = TablePattern::parse(pattern).unwrap();
            assert_eq!(pattern.matches(schema, name), expected, "{pattern} {schema}.{name}");
        }
    }

    #[test]
    fn a_pattern_is_told_to_a_server_as_regular_expressions() {
        for (pattern, schema, name) in [
            ("public.*", "^public$", "^.*$"),
            ("*.tmp_?", "^.*$", "^tmp_.$"),
            ("\"Odd.Schema\".\"T*\"", "^Odd\\.Schema$", "^T\\*$"),
        ] {
            let found = TablePattern::parse(pattern).unwrap().regular();
            assert_eq!((found.0.as_str(), found.1.as_str()), (schema, name), "{pattern}");
        }
        assert_eq!(regular_name("a b"), "^a\\ b$");
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        for text in ["orders", "a.b.c", ".b", "a.", "", "a b.c", "\"a.b"] {
            assert!(TablePattern::parse(text).is_err(), "{text}");
        }
        assert!(TableName::parse("public.*").unwrap_err().contains("wildcard"));
        assert_eq!(TableName::parse("\"A b\".c").unwrap(), TableName::new("A b", "c"));
    }
}
