//! Data directories with very many messages, for benchmarks that ask what retained messages cost.

use std::{path::Path, sync::Arc, sync::atomic::AtomicU64, sync::atomic::Ordering};

use anyhow::{Result, ensure};
use weir_columns::Value;
use weir_engine::{Broker, Message, TopicName};

/// About what one of the messages of [`retained`] takes on disk.
const BYTES_EACH: u64 = 240;
/// Messages of one call.
const BATCH: u64 = 1_000;
/// Calls under way at once.
const CALLERS: u64 = 4;

/// Returns the message of a number: a body of 32 bytes and three properties, no id. Every thousandth is `urgent`.
pub fn retained(number: u64) -> Message {
    let text = |name: &str, value: String| (name.to_owned(), Value::Text(value));
    let level =
        if number % 1_000 == 999 { "urgent" } else { ["low", "middle", "high"][(number % 3) as usize] };
    Message {
        properties: vec![
            text("level", level.to_owned()),
            text("cust", format!("c{}", number * 7_919 % 10_000)),
            text("price", (number % 997).to_string()),
        ],
        body: vec![b'x'; 32].into(),
        ..Message::default()
    }
}

/// Publishes `count` messages of [`retained`].
///
/// # Errors
///
/// If the broker refuses.
pub async fn retain(broker: &Broker, topic: &TopicName, count: u64) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..CALLERS {
        let (broker, topic, next) = (broker.clone(), topic.clone(), Arc::clone(&next));
        tasks.push(tokio::spawn(async move {
            loop {
                let first = next.fetch_add(BATCH, Ordering::Relaxed);
                if first >= count {
                    return anyhow::Ok(());
                }
                let messages = (first..count.min(first + BATCH)).map(retained).collect();
                broker.publish(&topic, messages).await?;
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// Makes sure that the disk of `dir` has room for `count` messages and `keep_gib` GiB beside them.
///
/// # Errors
///
/// If it has not.
pub fn ensure_room(dir: &Path, count: u64, keep_gib: u64) -> Result<()> {
    let disk = rustix::fs::statvfs(dir)?;
    let free = disk.f_bavail * disk.f_frsize;
    let needed = count * BYTES_EACH + (keep_gib << 30);
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    ensure!(
        free >= needed,
        "{count} messages take {:.1} GiB, and {keep_gib} GiB must stay free, but {} has {:.1} GiB: ask for fewer \
         messages, or name another disk by WEIR_BENCH_DIR",
        gib(count * BYTES_EACH),
        dir.display(),
        gib(free)
    );
    Ok(())
}
