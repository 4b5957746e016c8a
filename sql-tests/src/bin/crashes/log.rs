//! Reads what the broker's log holds, through a pull of Flight, and has the ledger judge it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{Int32Type, Int64Type},
};
use futures::TryStreamExt;
use weir_server::flight::{
    client::{Client, ConnectOptions},
    command::{PullCommand, PullStart},
};

use crate::{
    ledger::{Ledger, Place, Row},
    load::Load,
};

/// So many rows before the end of each queue are read again every time: a crash damages the end first.
const TAIL: u64 = 100;

/// How much to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What is new, and some rows before it.
    New,
    /// All rows.
    All,
}

/// Checks that the log holds what it must, and nothing else.
pub(crate) async fn check(address: &str, ledger: &mut Ledger, load: &mut Load, extent: Extent) -> Result<()> {
    load.catch_up(|event| ledger.note(event))?;
    let owed = ledger.take_owed();
    let client = Client::connect(&format!("grpc://{address}"), &ConnectOptions::default()).await?;
    let mut rows = Vec::new();
    for (topic, name) in ledger.topics().into_iter().enumerate() {
        let known = ledger.ends(topic);
        let start = |end: &u64| if extent == Extent::All { 0 } else { end.saturating_sub(TAIL) };
        let from: BTreeMap<u32, u64> = (0..).zip(known.iter().map(start)).collect();
        let mut next = from.clone();
        let command = PullCommand { from: Some(PullStart::Offsets(from)), ..PullCommand::of_topic(&name) };
        let mut batches = client.pull(&command).await.context("cannot pull")?.batches;
        while let Some(pulled) = batches.try_next().await.context("a pull broke")? {
            each_row(&pulled.batch, |row| {
                let (queue, offset) = row.place;
                let next = next.get_mut(&queue).context("the pull holds a queue that is not there")?;
                ensure!(*next == offset, "{name}, queue {queue}: offset {offset} follows, not {next}");
                *next += 1;
                if let Some(n) = ledger.see(topic, &row)? {
                    rows.push((topic, n, row.place));
                }
                Ok(())
            })?;
        }
        for ((queue, next), known) in next.into_iter().zip(known) {
            ensure!(
                next >= known,
                "{name}, queue {queue}: ends at {next}, but {known} rows had been read before"
            );
        }
    }
    load.catch_up(|event| ledger.note(event))?;
    ledger.settle(rows, &owed)
}

fn each_row(batch: &RecordBatch, mut see: impl FnMut(Row<'_>) -> Result<()>) -> Result<()> {
    let column = |name: &str| batch.column_by_name(name).with_context(|| format!("the pull lacks {name}"));
    let queues = column("queue_id")?.as_primitive::<Int32Type>();
    let offsets = column("queue_offset")?.as_primitive::<Int64Type>();
    let (ids, tags) = (column("msg_id")?.as_string::<i32>(), column("tags")?.as_string::<i32>());
    let (keys, bodies) = (column("msg_keys")?.as_string::<i32>(), column("body")?.as_binary::<i32>());
    let maps = column("properties")?.as_map();
    for index in 0..batch.num_rows() {
        let place: Place = (queues.value(index).try_into()?, offsets.value(index).try_into()?);
        let entries = maps.value(index);
        let (names, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
        let mut properties: Vec<_> =
            (0..entries.len()).map(|entry| (names.value(entry), values.value(entry))).collect();
        properties.sort_unstable();
        see(Row {
            place,
            id: ids.value(index),
            tag: tags.is_valid(index).then(|| tags.value(index)),
            keys: if keys.is_valid(index) { keys.value(index) } else { "" },
            body: bodies.value(index),
            properties,
        })?;
    }
    Ok(())
}
