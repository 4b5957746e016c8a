//! (For benches) how long the parts of the consume queue take, without the log and its threads.

use std::{path::Path, sync::Arc, time::Duration};

use crate::{
    catalogue::DurabilityClass,
    env::DiskEnv,
    error::StorageError,
    format::record::{RecordPlace, RecordView, encode_message, record_len},
    message::Message,
    offset::{Epoch, LogPosition, QueueId, QueueOffset, TopicId},
    queue::{
        block::NoLog,
        store::{Queues, QueuesSettings},
        view::QueueView,
    },
};

/// How long it took to build queues and to write them into files.
#[derive(Debug)]
pub struct Building {
    /// Until all rows were in memory and visible.
    pub build: Duration,
    /// Until all rows were in files.
    pub checkpoint: Duration,
    /// What was built.
    pub views: Vec<QueueView>,
}

/// Builds consume queues in `dir` out of `messages`, which go to `queues` queues in turn, `per_call` at a time.
/// `now` reads whatever time is to be measured.
///
/// # Errors
///
/// If a message does not fit a record, or the file system refuses.
pub fn build(
    dir: &Path,
    messages: &[Message],
    queues: u32,
    per_call: usize,
    now: &dyn Fn() -> Duration,
) -> Result<Building, StorageError> {
    let mut bytes = Vec::new();
    let mut starts = Vec::with_capacity(messages.len());
    for (number, message) in messages.iter().enumerate() {
        record_len(message)?;
        let number = number as u64;
        starts.push(bytes.len());
        let place = RecordPlace {
            position: LogPosition(bytes.len() as u64),
            epoch: Epoch(1),
            topic: TopicId(1),
            incarnation: 1,
            queue: QueueId((number % u64::from(queues)) as u32),
            offset: QueueOffset(number / u64::from(queues)),
            store_time_ms: 1_700_000_000_000 + number as i64 / 100,
        };
        encode_message(&mut bytes, &place, message, None);
    }
    let end = LogPosition(bytes.len() as u64);
    let settings = QueuesSettings { epoch: Epoch(1), uuid: [0; 16], run_bytes_many: u64::MAX };
    let opened = Queues::open(dir, Arc::new(DiskEnv), Arc::new(NoLog), None, end, settings)?;
    let store = opened.queues;
    for queue in 0..queues {
        store.add_queue(TopicId(1), QueueId(queue), DurabilityClass::Async, QueueOffset(0));
    }
    let decode = |start: &usize| {
        let record = RecordView::decode_checked(&bytes[*start..], LogPosition(*start as u64));
        record.expect("the record was just encoded")
    };
    let mut last = LogPosition(0);
    let started = now();
    for call in starts.chunks(per_call.max(1)) {
        store.add(call.iter().map(decode));
        last = LogPosition(call.last().map_or(last.0, |start| *start as u64 + 1));
        store.publish(last, last, &mut |_, _, _| {});
    }
    let built = now();
    store.checkpoint(end, &mut || ())?;
    let written = now();
    let views = (0..queues).filter_map(|queue| store.view(TopicId(1), QueueId(queue))).collect();
    Ok(Building { build: built - started, checkpoint: written - built, views })
}
