//! How much CPU time it takes to build consume queues out of messages with eight properties.
//!
//! `cargo run --release -p weir-storage --example build_rate -- [MESSAGES]`

#![expect(clippy::disallowed_methods, reason = "a program that measures real files")]

use std::{env, error::Error, fs, path::Path, time::Duration};

use bytes::Bytes;
use weir_columns::Value;
use weir_storage::{Message, measure};

fn main() -> Result<(), Box<dyn Error>> {
    let count: u64 = env::args().nth(1).map_or(Ok(200_000), |count| count.parse())?;
    let messages: Vec<Message> = (0..count).map(message).collect();
    println!("queues  a call  ns/message to build  ns/message into files  bytes/message in files");
    for (queues, per_call) in [(1, 100_000), (1, 1000), (4, 1000), (4, 100), (4, 10), (1000, 1000)] {
        let dir = env::temp_dir().join(format!("weir-build-rate-{}", std::process::id()));
        let built = measure::build(&dir, &messages, queues, per_call, &thread_time)?;
        let bytes = size_of_dir(&dir)?;
        fs::remove_dir_all(&dir)?;
        println!(
            "{queues:6}  {per_call:6}  {:19}  {:21}  {:22}",
            built.build.as_nanos() / u128::from(count),
            built.checkpoint.as_nanos() / u128::from(count),
            bytes / count
        );
    }
    Ok(())
}

/// Returns the CPU time of this thread, which other programs do not lengthen.
fn thread_time() -> Duration {
    let said = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = said.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

/// The message of the measurements in the design: eight properties, 127 bytes of names and values.
fn message(number: u64) -> Message {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let text = |name: &str, value: String| (name.to_owned(), Value::Text(value));
    let region = ["EU", "US", "ASIA", "AFRICA", "LATAM", "MEA", "ANZ", "JP"][(mixed % 8) as usize];
    Message {
        message_id: format!("{mixed:032x}"),
        tag: Some(format!("tag{}", mixed % 100)),
        properties: vec![
            text("region", region.to_owned()),
            text("tag", format!("tag{}", mixed % 100)),
            text("cust", format!("c{}", mixed % 10_000)),
            text("price", (mixed % 10_000).to_string()),
            text("level", (mixed % 10).to_string()),
            text("UNIQ_KEY", format!("{mixed:024x}")),
            text("KEYS", format!("order-{mixed}")),
            text("WAIT", "true".to_owned()),
        ],
        body: Bytes::from_static(&[0; 64]),
        ..Message::default()
    }
}

fn size_of_dir(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        bytes +=
            if entry.file_type()?.is_dir() { size_of_dir(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}
