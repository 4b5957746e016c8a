//! Entries of the catalogue: JSON texts in frames. Layout: `docs/format.md`, "Catalogue".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weir_columns::KindSet;

use crate::{
    catalogue::{GroupEntry, TopicEntry},
    error::Fault,
    format::cursor::{Cursor, put_text32},
    offset::{GroupId, QueueId, QueueOffset, TopicId},
};

/// One change of the catalogue. Each replaces what was known of its subject, so that saying it twice does no
/// harm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CatalogueEntry {
    /// A topic as it is from now on.
    Topic(TopicEntry),
    /// A group as it is from now on.
    Group(GroupEntry),
    /// The topic is gone.
    DropTopic(TopicId),
    /// The group is gone.
    DropGroup(GroupId),
    /// What kinds of values these properties of a topic have had.
    PropertyKinds { topic: TopicId, kinds: BTreeMap<String, KindSet> },
    /// Rows of a queue below `offset` are gone.
    FirstOffset { topic: TopicId, queue: QueueId, offset: QueueOffset },
    /// Ids below these have been given.
    Next { topic: TopicId, group: GroupId },
}

/// Appends an entry: its length, then its text.
pub(crate) fn encode_entry(out: &mut Vec<u8>, entry: &CatalogueEntry) {
    let text = serde_json::to_string(entry).expect("an entry is made of texts and numbers");
    put_text32(out, &text);
}

/// Reads the entries of a frame's payload.
pub(crate) fn decode_entries(payload: &[u8]) -> Result<Vec<CatalogueEntry>, Fault> {
    let mut cursor = Cursor::new(payload);
    let mut entries = Vec::new();
    while !cursor.is_empty() {
        let text = cursor.text32()?;
        entries.push(serde_json::from_str(text).map_err(|_| Fault::Structure("the text of an entry"))?);
    }
    Ok(entries)
}
