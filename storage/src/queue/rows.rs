//! How a record becomes a row.

use hashbrown::HashSet;

use crate::{
    format::{
        block::{COLUMNS_MAX, NAMES_MAX},
        record::{RecordView, ValueRef},
    },
    message::MessageType,
    offset::TopicId,
    queue::builder::{RowFacts, RunBuilder},
};

/// The one property that pending rows have a column for: when they are due, in milliseconds since 1970, UTC.
pub const DUE_COLUMN: &str = "due";

/// The property names of a topic that have columns, since the start.
#[derive(Debug, Default)]
pub(crate) struct Names {
    names: HashSet<String>,
    /// It was said that there are too many.
    warned: bool,
}

impl Names {
    /// Returns whether there may be a column of this name, as there may from then on.
    pub(super) fn admit(&mut self, topic: TopicId, name: &str) -> bool {
        if self.names.contains(name) {
            return true;
        }
        if self.names.len() < NAMES_MAX {
            return self.names.insert(name.to_owned());
        }
        if !self.warned {
            self.warned = true;
            tracing::warn!(
                %topic,
                "the topic has more than {NAMES_MAX} property names: further ones are filtered exactly, but slowly"
            );
        }
        false
    }
}

/// Adds the row of a record. `admit` says whether the topic may have another column of a name.
pub(super) fn add_row(
    builder: &mut RunBuilder,
    record: &RecordView<'_>,
    admit: &mut dyn FnMut(&str) -> bool,
) {
    builder.begin_row(RowFacts {
        position: record.position.0,
        store_time_ms: record.store_time_ms,
        born_time_ms: record.born_time_ms,
        size: record.size,
        body_size: record.body_len,
        body_position: record.body_position().map(|position| position.0),
    });
    builder.message_type(record.message_type.name());
    if let Some(target) = record.pending() {
        // All that anybody looks for among pending rows: what is due, and a message by its id or keys.
        add_names(builder, record);
        let due = target.due_ms.to_string();
        builder.property(DUE_COLUMN, ValueRef::Text(&due), admit);
        return builder.end_row();
    }
    // A message of a lite topic has no message group; the lite topic is what keeps it in order.
    let is_lite = record.message_type == MessageType::Lite;
    if let Some(group) = record.message_group().or_else(|| record.lite_topic().filter(|_| is_lite)) {
        builder.message_group(group);
    }
    if let Some(tag) = record.tag() {
        builder.tag(tag);
    }
    add_names(builder, record);
    for (name, value) in record.properties() {
        builder.property(name, value, admit);
    }
    builder.end_row();
}

/// Adds what a message is found by.
fn add_names(builder: &mut RunBuilder, record: &RecordView<'_>) {
    for key in record.keys() {
        builder.key(key);
    }
    if !record.message_id().is_empty() {
        builder.message_id(record.message_id());
    }
}

/// Returns whether all properties of a record have columns, or may have from now on.
pub(super) fn admit_all(record: &RecordView<'_>, names: &mut Names) -> bool {
    match record.pending() {
        Some(_) => names.admit(record.topic, DUE_COLUMN),
        None => record
            .properties()
            .enumerate()
            .all(|(number, (name, _))| number < COLUMNS_MAX && names.admit(record.topic, name)),
    }
}
