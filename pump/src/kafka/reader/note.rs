//! The note of where a topic was read to. Nobody believes it: the record at that offset must be the very claim.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::kafka::unit::Author;

/// A claim that counted, behind which everything up to the trail's end lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) offset: i64,
    generation: u64,
    instance: u64,
}

impl Note {
    pub(super) fn new(offset: i64, author: Author) -> Self {
        Self { offset, generation: author.generation, instance: author.instance }
    }

    pub(super) fn author(&self) -> Author {
        Author { generation: self.generation, instance: self.instance }
    }
}

fn path(directory: &Path, group: &str) -> PathBuf {
    directory.join(format!("{group}.topic.json"))
}

pub(super) fn read(directory: &Path, group: &str) -> Option<Note> {
    let text = std::fs::read(path(directory, group)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Replaces the note. One that cannot be written costs the next start time.
pub(super) fn write(directory: &Path, group: &str, note: &Note) {
    let path = path(directory, group);
    let beside = path.with_extension("json.new");
    let written = serde_json::to_vec(note)
        .map_err(std::io::Error::from)
        .and_then(|bytes| std::fs::write(&beside, bytes))
        .and_then(|()| std::fs::rename(&beside, &path));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "the topic's note cannot be written; a start will take longer");
    }
}
