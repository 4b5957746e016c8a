//! How many messages a second are acknowledged, and how long an acknowledgement takes at half of that.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use weir_benches::{Consumer, Latencies, data_dir, head, median, pin, row, spread};

use crate::{
    Arguments, LEAD, PERCENTS, PRICES, cells,
    content::Content,
    load::{Counts, Load},
    milliseconds, ratio,
    side::{Class, Shares, Side},
};

const TOPIC: &str = "publish";
const GROUP: &str = "read-back";
/// Calls under way when a call has several messages.
const BATCH_CALLERS: usize = 16;
/// Messages that are read back and compared.
const READ_BACK: u64 = 2_000;
/// Bytes of a bare write, about what a message of 100 B becomes.
const BARE_BYTES: usize = 304;
/// The file that is written again and again; its blocks are there, as those of a log that writes zeros ahead.
const BARE_FILE: u64 = 16 << 20;

/// What a producer sends.
#[derive(Clone, Copy)]
struct Shape {
    body: usize,
    batch: u64,
}

impl Shape {
    fn name(self) -> String {
        let body = if self.body == 1024 { "1 KiB".to_owned() } else { format!("{} B", self.body) };
        match self.batch {
            1 => body,
            batch => format!("{body}, {batch} a call"),
        }
    }
}

/// What the machine does by itself, measured while both brokers rest.
#[derive(Default)]
struct Bare {
    /// How late a thread on the broker's core is that does nothing but wake every millisecond.
    wakes: Vec<Latencies>,
    /// How long small writes take to be on the disk.
    syncs: Vec<Latencies>,
}

/// What was measured of one broker.
#[derive(Default)]
struct Measured {
    rates: Vec<f64>,
    /// In the last turn at full rate.
    busy: Shares,
    /// The most that other programs had of the cores in any turn.
    others: f64,
    at: f64,
    latencies: Vec<Latencies>,
}

pub(crate) async fn compare(arguments: &Arguments, sides: &[Side; 2], class: Class) -> Result<()> {
    let counts = [Arc::new(Counts::default()), Arc::new(Counts::default())];
    for side in sides {
        side.awake(async |side| {
            side.create_topic(TOPIC)?;
            side.create_groups(&[GROUP.to_owned()])
        })
        .await?;
    }
    let shapes = [
        Shape { body: 100, batch: 1 },
        Shape { body: 1024, batch: 1 },
        Shape { body: 100, batch: arguments.batch },
    ];
    println!("\nClass {}: messages acknowledged a second\n", class.name());
    let [weir, other] = sides.each_ref().map(Side::name);
    let (least, other_least, between) =
        (format!("{weir}, least"), format!("{other}, least"), format!("{weir} / {other}"));
    head(&[
        "messages",
        &least,
        "median",
        "most",
        "broker's core, %",
        "generator's, %",
        &other_least,
        "median",
        "most",
        "broker's core, %",
        "generator's, %",
        &between,
    ]);
    let mut measured = Vec::new();
    for shape in shapes {
        let of_shape = rates(arguments, sides, &counts, shape).await?;
        print_rates(shape, &of_shape);
        measured.push((shape, of_shape));
    }
    let bare = latencies(arguments, sides, &counts, class, &mut measured).await?;
    print_latencies(class, sides, &measured, &bare);
    let others = measured.iter().flat_map(|(_, sides)| sides).map(|side| side.others).fold(0.0, f64::max);
    println!("\nAll other programs together had {:.0} % of a core at most.", others * 100.0);
    for (side, counts) in sides.iter().zip(&counts) {
        side.awake(async |side| {
            side.ensure_stored(TOPIC, counts.acknowledged(), counts.refused())?;
            read_back(side).await
        })
        .await?;
    }
    Ok(())
}

async fn load(arguments: &Arguments, side: &Side, body: usize, counts: &Arc<Counts>) -> Result<Load> {
    let content = Content::new(TOPIC, body, PRICES);
    Load::connect(side, arguments.connections, TOPIC, content, counts).await
}

async fn rates(
    arguments: &Arguments,
    sides: &[Side; 2],
    counts: &[Arc<Counts>; 2],
    shape: Shape,
) -> Result<[Measured; 2]> {
    let mut measured = [Measured::default(), Measured::default()];
    let callers = if shape.batch == 1 { arguments.producers } else { BATCH_CALLERS };
    for _ in 0..arguments.turns {
        for ((side, counts), measured) in sides.iter().zip(counts).zip(&mut measured) {
            side.awake(async |side| {
                let load = load(arguments, side, shape.body, counts).await?;
                let busy = side.busy()?;
                let run = Duration::from_secs_f64(arguments.seconds);
                measured.rates.push(load.flat_out(LEAD, run, callers, shape.batch).await?);
                measured.busy = busy.shares()?;
                measured.others = measured.others.max(measured.busy.others);
                Ok(())
            })
            .await?;
        }
    }
    Ok(measured)
}

fn print_rates(shape: Shape, [weir, rocketmq]: &[Measured; 2]) {
    let mut cells = vec![shape.name()];
    for measured in [weir, rocketmq] {
        cells.extend(spread(&measured.rates, 0));
        let Shares { broker, generator, .. } = measured.busy;
        cells.extend([broker, generator].map(|share| format!("{:.0}", share * 100.0)));
    }
    cells.push(ratio(median(weir.rates.clone()) / median(rocketmq.rates.clone())));
    row(&cells);
}

/// Measures latencies at half of the rate of each, and syncs of the disk in between.
async fn latencies(
    arguments: &Arguments,
    sides: &[Side; 2],
    counts: &[Arc<Counts>; 2],
    class: Class,
    measured: &mut [(Shape, [Measured; 2])],
) -> Result<Bare> {
    let directory = data_dir("bare")?;
    let file = zeroed(&directory.path().join("bare"))?;
    let mut bare = Bare::default();
    let run = Duration::from_secs_f64(arguments.latency_seconds);
    for (shape, measured) in measured.iter_mut().filter(|(shape, _)| shape.batch == 1) {
        for _ in 0..arguments.turns {
            for ((side, counts), measured) in sides.iter().zip(counts).zip(&mut *measured) {
                measured.at = median(measured.rates.clone()) / 2.0;
                side.awake(async |side| {
                    let load = load(arguments, side, shape.body, counts).await?;
                    let busy = side.busy()?;
                    measured.latencies.push(load.paced(LEAD, run, measured.at, |_| ()).await?);
                    measured.others = measured.others.max(busy.shares()?.others);
                    Ok(())
                })
                .await?;
                bare.wakes.push(woken(arguments.broker_core, run / 4)?);
                if class == Class::Sync {
                    bare.syncs.push(synced(&file, run / 4)?);
                }
            }
        }
    }
    Ok(bare)
}

fn print_latencies(class: Class, sides: &[Side; 2], measured: &[(Shape, [Measured; 2])], bare: &Bare) {
    println!("\nClass {}: from when a message is due to its acknowledgement, ms\n", class.name());
    let mut names = vec!["messages".to_owned(), "broker".to_owned(), "at msg/s".to_owned()];
    names.extend(PERCENTS.iter().map(|percent| format!("p{percent}")));
    names.push("p99.6, least to most".to_owned());
    head(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for (shape, measured) in measured.iter().filter(|(shape, _)| shape.batch == 1) {
        for (side, measured) in sides.iter().zip(measured) {
            let mut cells = vec![shape.name(), side.name().to_owned(), format!("{:.0}", measured.at)];
            cells.extend(cells_of(&measured.latencies));
            row(&cells);
        }
    }
    let syncs = format!("bare `pwrite`, `fdatasync` of {BARE_BYTES} B");
    for (name, turns) in [("a timer alone on the broker's core", &bare.wakes), (&syncs, &bare.syncs)] {
        if !turns.is_empty() {
            let mut cells = vec![String::new(), name.to_owned(), String::new()];
            cells.extend(cells_of(turns));
            row(&cells);
        }
    }
}

fn cells_of(turns: &[Latencies]) -> Vec<String> {
    let mut cells = cells(turns);
    let [least, _, most] = spread(&milliseconds(turns, 99.6), 3);
    cells.push(format!("{least} to {most}"));
    cells
}

/// Reads some of what was published first, and compares it.
async fn read_back(side: &Side) -> Result<()> {
    let content = Content::new(TOPIC, 100, PRICES);
    let mut consumer = Consumer::connect(&side.uri(), "reader@1@0", GROUP, TOPIC, None).await?;
    let mut read = 0;
    while read < READ_BACK {
        let messages = consumer.receive(Duration::from_secs(5)).await?;
        ensure!(!messages.is_empty(), "only {read} messages can be read");
        for message in &messages {
            content.number(message)?;
        }
        consumer.acknowledge(&messages).await?;
        read += messages.len() as u64;
    }
    Ok(())
}

/// Returns how late a thread on a core wakes, every millisecond.
fn woken(core: usize, run: Duration) -> Result<Latencies> {
    let waker = thread::spawn(move || {
        pin(core)?;
        let (start, mut latencies) = (Instant::now(), Latencies::default());
        for number in 1..=run.as_millis() as u32 {
            let due = start + Duration::from_millis(1) * number;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            latencies.record(due.elapsed());
        }
        anyhow::Ok(latencies)
    });
    waker.join().unwrap_or_else(|_| bail!("the thread that wakes has panicked"))
}

fn zeroed(path: &Path) -> Result<File> {
    let file = File::create(path)?;
    file.write_all_at(&vec![0; BARE_FILE as usize], 0)?;
    file.sync_all()?;
    Ok(file)
}

/// Returns how long small writes take to be on the disk, one after the other.
fn synced(file: &File, run: Duration) -> Result<Latencies> {
    let (begin, bytes) = (Instant::now(), [b'x'; BARE_BYTES]);
    let (mut latencies, mut at) = (Latencies::default(), 0);
    while begin.elapsed() < run {
        let start = Instant::now();
        file.write_all_at(&bytes, at)?;
        file.sync_data()?;
        latencies.record(start.elapsed());
        at = (at + BARE_BYTES as u64) % (BARE_FILE - BARE_BYTES as u64);
    }
    Ok(latencies)
}
