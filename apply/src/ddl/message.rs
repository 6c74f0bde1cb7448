//! A message of the DDL channel.

use irongate_postgres::sql::{qualified, quote_identifier};
use serde::Deserialize;

use super::structure::Object;

/// The version of messages that is understood.
const VERSION: u32 = 1;

/// What a command of the source changed.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct Message {
    version: u32,
    /// The flow that it is for.
    pub(crate) flow: String,
    /// That flow's publication.
    pub(crate) publication: String,
    /// The command's tag.
    pub(crate) tag: String,
    /// The classes of objects that go with the flow.
    pub(crate) classes: Vec<String>,
    pub(crate) objects: Vec<Object>,
    pub(crate) dropped: Vec<Dropped>,
    /// What the channel does not carry.
    pub(crate) left: Vec<Left>,
    /// Why nothing is known of what the command did.
    #[serde(default)]
    pub(crate) failed: Option<String>,
}

/// Something that the source has no more.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct Dropped {
    pub(crate) kind: String,
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
    /// As the server names it, with the arguments of a function.
    pub(crate) identity: String,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct Left {
    #[serde(rename = "type")]
    pub(crate) sort: Option<String>,
    pub(crate) identity: Option<String>,
}

impl Message {
    /// Reads a message.
    pub(crate) fn parse(content: &str) -> Result<Self, String> {
        let message: Self = serde_json::from_str(content).map_err(|error| error.to_string())?;
        if message.version == VERSION {
            Ok(message)
        } else {
            Err(format!("it is of version {}, and this program knows version {VERSION}", message.version))
        }
    }

    /// Whether a class of objects goes with the flow.
    pub(crate) fn has(&self, class: &str) -> bool {
        self.classes.iter().any(|known| known == class)
    }
}

impl Dropped {
    /// The statement that drops it here, if it is here. Nothing that hangs on it is dropped along: what the source dropped
    /// along is named by itself, and what only the target has must not go without a word.
    pub(crate) fn statement(&self) -> String {
        let name = match &self.schema {
            Some(schema) => qualified(schema, &self.name),
            None => quote_identifier(&self.name),
        };
        match self.kind.as_str() {
            "function" | "procedure" => format!("DROP ROUTINE IF EXISTS {}", self.identity),
            kind => format!("DROP {} IF EXISTS {name}", kind.to_uppercase()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_another_version_is_not_guessed_at() {
        let of = |version: u32| {
            format!(
                r#"{{"version": {version}, "flow": "f", "publication": "p", "tag": "DROP TABLE", "classes": ["tables"], "objects": [],
                    "dropped": [{{"kind": "materialized view", "schema": "s", "name": "a\"b", "identity": "s.x"}},
                                {{"kind": "function", "schema": "s", "name": "g", "identity": "s.g(integer)"}},
                                {{"kind": "schema", "schema": null, "name": "s", "identity": "s"}}], "left": []}}"#
            )
        };
        let message = Message::parse(&of(1)).unwrap();
        let statements: Vec<String> = message.dropped.iter().map(Dropped::statement).collect();
        assert_eq!(
            statements,
            [
                "DROP MATERIALIZED VIEW IF EXISTS \"s\".\"a\"\"b\"",
                "DROP ROUTINE IF EXISTS s.g(integer)",
                "DROP SCHEMA IF EXISTS \"s\""
            ]
        );
        assert!(message.has("tables") && !message.has("views"));
        assert!(Message::parse(&of(2)).unwrap_err().contains("version 2"));
        assert!(Message::parse("{}").is_err());
    }
}
