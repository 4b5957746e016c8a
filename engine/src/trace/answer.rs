//! What a trace answers. The names of fields are those of the JSON that the wire and the command line show.

use std::sync::Arc;

use serde::Serialize;
use weir_filter::Dialect;
use weir_storage::{Epoch, LogPosition, QueueId, QueueOffset};

use crate::name::{GroupName, TopicName};

/// What became of messages. Times are milliseconds since 1970, UTC.
#[derive(Clone, Debug, Serialize)]
pub struct MessageTrace {
    /// The messages, newest first.
    pub messages: Vec<TracedMessage>,
    /// Whether there are more that are named so, older ones.
    pub more: bool,
    /// How far it was looked for them.
    pub searched: SearchReach,
    /// What the group journal could tell.
    pub journal: JournalReach,
}

/// How far it was looked for messages, and for their copies in dead-letter topics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SearchReach {
    /// Messages whose hashes were looked at.
    pub messages: u64,
    /// Messages that are retained where it was looked; for a place, in its queue.
    pub of: u64,
    /// Records that were read from the log, since their hashes are those that are looked for.
    pub records: u64,
    /// Blocks and records that are damaged or gone, and so were not looked at.
    pub unreadable: u64,
    /// Whether nothing is left to be looked at; else time ran out, or there were enough.
    pub complete: bool,
    /// All messages that were stored after this time have been looked at; `None` if all have, or there was no time for any.
    pub back_to_ms: Option<i64>,
}

impl SearchReach {
    /// Adds how far it was looked for copies.
    pub(super) fn add(&mut self, copies: &Self) {
        self.messages += copies.messages;
        self.of += copies.of;
        self.records += copies.records;
        self.unreadable += copies.unreadable;
        self.complete &= copies.complete;
        self.back_to_ms = self.back_to_ms.max(copies.back_to_ms);
    }
}

/// What the group journal could tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JournalReach {
    /// When the oldest part of it was begun: of what groups did before, it tells no more than what was open then. `None`
    /// if it holds everything since the data directory was made.
    pub begins_ms: Option<i64>,
    /// Whether it was read to its end; else time ran out.
    pub complete: bool,
    /// Places at which it is damaged, so that some of it is missing.
    pub damaged: u64,
}

impl JournalReach {
    /// Whether nothing that it holds is missing.
    pub(super) const fn is_whole(&self) -> bool {
        self.complete && self.damaged == 0
    }

    /// Whether nothing can be missing of what became of a message that was stored at `time_ms`. In the millisecond in which
    /// the oldest part was begun, it may have been done with before that.
    pub(super) fn holds_all_of(&self, time_ms: i64) -> bool {
        self.is_whole() && self.begins_ms.is_none_or(|begins_ms| begins_ms < time_ms)
    }
}

/// A message, and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct TracedMessage {
    /// Its topic, or the one that it is for while it is pending; `None` if that is deleted.
    pub topic: Option<TopicName>,
    /// Its queue; `None` while it is pending.
    pub queue: Option<QueueId>,
    /// Its offset; `None` while it is pending.
    pub offset: Option<QueueOffset>,
    /// Where its record begins in the log.
    pub log_position: LogPosition,
    /// The epoch in which it was stored.
    pub epoch: Epoch,
    /// The id that its producer gave it; empty if none.
    pub message_id: String,
    /// Its type.
    pub message_type: &'static str,
    /// When it was stored: if it was pending before, when it became visible.
    pub store_time_ms: i64,
    /// When its producer made it.
    pub born_time_ms: Option<i64>,
    /// The host of its producer.
    pub born_host: Option<String>,
    /// The group of its producer.
    pub producer_group: Option<String>,
    /// Its tag.
    pub tag: Option<String>,
    /// Its keys; of many, the first. Of a copy below its message, none: they are those of the message, as are its
    /// properties, tag, message group, host, producer group and trace context.
    pub keys: Vec<String>,
    /// So many keys more.
    pub keys_left_out: u64,
    /// The names of its properties; of many, the first.
    pub properties: Vec<String>,
    /// So many properties more.
    pub properties_left_out: u64,
    /// Its message group.
    pub message_group: Option<String>,
    /// Its priority.
    pub priority: Option<i32>,
    /// The trace context of its producer, as it came.
    pub trace_context: Option<String>,
    /// When it is, or was, to be delivered.
    pub delivery_time_ms: Option<i64>,
    /// The length of its body as its producer sent it.
    pub body_bytes: u32,
    /// What its record takes in the log.
    pub record_bytes: u32,
    /// What it is, or was, before it became visible.
    pub pending: Option<PendingTrace>,
    /// Where it comes from, in a dead-letter topic.
    pub dead_letter_of: Option<DeadLetterTrace>,
    /// What became of it in each group that reads its topic, by name.
    pub groups: Vec<GroupTrace>,
    /// So many groups more read the topic; what became of it there is not told, as the answer is large enough.
    pub groups_left_out: u64,
}

/// A message before it became visible.
#[derive(Clone, Debug, Serialize)]
pub struct PendingTrace {
    /// `delayed` or `transaction`.
    pub kind: &'static str,
    /// The queue of the pending topic that it is, or was, in.
    pub queue: QueueId,
    /// The offset there.
    pub offset: QueueOffset,
    /// When it was stored there; `None` if that record is gone.
    pub stored_ms: Option<i64>,
    /// When it is due; of a transaction, when its producer is asked first. `None` if that record is gone.
    pub due_ms: Option<i64>,
    /// What became of it.
    pub state: PendingState,
    /// When that was; `None` if it is not known, or has not been yet.
    pub done_ms: Option<i64>,
}

/// What became of a pending message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PendingState {
    /// Nothing yet.
    Waits,
    /// It became visible.
    Released,
    /// It never became visible, or what it became is not retained any more: a delayed one was recalled, that of a
    /// transaction rolled back or given up. Which of them is written down nowhere.
    Ended,
    /// It is done. Whether it became visible is not known: that was not looked for to the end, or it may have been done while
    /// it was looked for.
    Done,
}

/// Where a message in a dead-letter topic comes from.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetterTrace {
    /// The topic, with its namespace.
    pub topic: String,
    /// The queue.
    pub queue: QueueId,
    /// The offset.
    pub offset: QueueOffset,
    /// The id.
    pub message_id: String,
    /// How often it had been delivered.
    pub attempts: u32,
}

/// What became of a message in a group.
#[derive(Clone, Debug, Serialize)]
pub struct GroupTrace {
    /// The group.
    pub group: GroupName,
    /// What became of it.
    #[serde(flatten)]
    pub state: GroupState,
    /// The selectors of the group on the topic, as they are now.
    pub selectors: Vec<JudgingSelector>,
    /// What the journal holds of it, oldest first; of many, the newest.
    pub events: Vec<TraceEvent>,
    /// So many came before these.
    pub events_left_out: u64,
    /// Its copy in the dead-letter topic of the group, if there is one, and what became of that.
    pub dead_letter: Option<Box<TracedMessage>>,
}

/// What became of a message in a group. Each is certain unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum GroupState {
    /// No selector of the group is TRUE for it.
    NotSelected {
        /// Whether the journal goes back to when the message was stored: else a selector that the group had before may have
        /// taken it, and the journal does not know of that any more.
        certain: bool,
    },
    /// A selector is TRUE for it that has not come so far yet.
    Waits {
        /// So many rows of its queue come before it that the selector has not judged either.
        behind: u64,
    },
    /// A member has it.
    Leased {
        /// Which delivery it is, from 1.
        attempt: u32,
        /// When the lease ends, unless it is renewed.
        until_ms: i64,
        /// The member, if it named itself. Of a lease that was given before the start of the broker, it is known for leases
        /// that are renewed, and in FIFO groups for receives that name themselves.
        client: Option<String>,
    },
    /// It was delivered, not acknowledged, and is to be delivered again.
    WaitsForRedelivery {
        /// How often it has been delivered.
        attempts: u32,
        /// When it may be delivered again; `None` if it may be now.
        until_ms: Option<i64>,
    },
    /// It was not delivered yet; it is in the line of its message group, in a FIFO group.
    WaitsInLine {},
    /// It was delivered often enough, and is on its way to the dead-letter topic.
    MovesToDeadLetter {
        /// How often it has been delivered.
        attempts: u32,
    },
    /// It is acknowledged; or it was dropped, because no live selector was TRUE for it any more.
    Acknowledged {
        /// When.
        at_ms: i64,
    },
    /// It went to the dead-letter topic of the group.
    DeadLettered {
        /// When.
        at_ms: i64,
    },
    /// The group was put to an offset behind it, and is not known to have been done with it before: by a reset, or as a
    /// consumer that pulls tells how far it is.
    Passed {
        /// When, if the journal still knows.
        at_ms: Option<i64>,
    },
    /// A selector that is TRUE for it has passed it, and it is not open: it was delivered and is done. How and when is not in
    /// the journal any more.
    DoneBeforeJournal {},
    /// It lies before the first row that the selectors of the group judge, or those that are TRUE for it. What the group did with it is not in the
    /// journal, or not any more.
    BeforeSelectors {
        /// The first row that one of them judges: one that is TRUE for it, if there is one.
        start: QueueOffset,
        /// Whether the journal goes back to when the message was stored: then nobody was given it.
        certain: bool,
    },
    /// It cannot be told: `why` says what is missing.
    Unknown {
        /// Why.
        why: &'static str,
    },
}

/// A selector of a group, and what it says of a message.
#[derive(Clone, Debug, Serialize)]
pub struct JudgingSelector {
    /// Its text; of a long one, the beginning.
    pub text: String,
    /// `all`, `tags` or `sql`.
    pub kind: &'static str,
    /// Its dialect.
    #[serde(with = "crate::serial::dialect")]
    pub dialect: Dialect,
    /// The first row of the queue that it judges.
    pub start: QueueOffset,
    /// It has judged the rows before this one.
    pub cursor: QueueOffset,
    /// Whether a live client receives with it.
    pub live: bool,
    /// `true`, `false`, `unknown` or `failed`, as it judges the message now; `unreadable` if it or the message cannot be
    /// read, `not_judged` if time ran out.
    pub truth: &'static str,
}

/// Something that the journal holds of a message in a group. Times are those at which it was written down, which is a moment later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TraceEvent {
    /// It was given to a member.
    Leased {
        /// When.
        at_ms: i64,
        /// Which delivery it was, from 1.
        attempt: u32,
        /// When the lease ended, or ends.
        until_ms: i64,
        /// How often it was renewed.
        renewals: u32,
        /// The member, as far as it is known: see [`GroupState::Leased`].
        client: Option<String>,
        /// The selector that chose it, if the journal holds that; of a long one, the beginning.
        #[serde(serialize_with = "crate::serial::shared_text")]
        selector: Option<Arc<str>>,
        /// The number of the lease, by which renewals are told from deliveries.
        #[serde(skip)]
        lease: u64,
    },
    /// It is in the line of its message group, in a FIFO group, and was not delivered yet.
    LinedUp {
        /// When.
        at_ms: i64,
    },
    /// Its delivery has failed, or it was put off: it waits until a time.
    PutOff {
        /// When.
        at_ms: i64,
        /// Until when it waits.
        until_ms: i64,
    },
    /// It was open when the oldest part of the journal was begun.
    WasOpen {
        /// When that was.
        at_ms: i64,
        /// How often it had been delivered.
        attempt: u32,
        /// Whether a member had it; else it waited.
        leased: bool,
        /// When the lease or the wait ended.
        until_ms: i64,
    },
    /// It was acknowledged, or dropped because no live selector was TRUE for it any more.
    Acknowledged {
        /// When.
        at_ms: i64,
    },
    /// It went to the dead-letter topic.
    DeadLettered {
        /// When.
        at_ms: i64,
    },
    /// The group was put to an offset of the queue, and forgot what it had open there.
    Reset {
        /// When.
        at_ms: i64,
        /// Where to.
        to: QueueOffset,
    },
}

impl TraceEvent {
    /// Whether the group is done with the message by this.
    pub(super) const fn is_the_end(&self) -> bool {
        matches!(self, Self::Acknowledged { .. } | Self::DeadLettered { .. })
    }
}
