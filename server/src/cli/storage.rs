//! `weir storage`: what is on the disk, whether it is whole, and what can be done if not. Works without a broker, but for
//! checkpoints of a running one.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};
use weir_storage::{
    AffectedRows, DiskEnv, Env, Finding, InspectFilter, Inspection, MachineClock, QueueId, Remedy,
    RepairLock, StorageError, Verified, plan_repair, verify,
};

use super::{
    Failure, Global,
    output::{confirm, counted, field, print_json, print_line, progress, size, table, time},
    storage_checkpoint::{self, CHECKPOINT_HELP, CheckpointArgs},
};
use crate::{config::DATA_DIR_DEFAULT, status::Exit};

/// What to do with a data directory.
#[derive(Debug, Subcommand)]
pub(crate) enum StorageCommand {
    /// Reads a whole data directory and lists what is damaged. Changes nothing; a broker may be at work in it.
    #[command(
        after_help = "Exit codes: 0 everything is whole, 1 damage was found, 74 a file cannot be read."
    )]
    Verify {
        #[command(flatten)]
        at: At,
    },
    /// Shows what a data directory holds. Changes nothing; a broker may be at work in it.
    #[command(
        after_help = "Example: weir storage inspect ./weir-data --view columns --topic orders --queue 0"
    )]
    Inspect(InspectArgs),
    /// Does what is safe about damage, while no broker runs: removes damaged consume queues and checkpoints, which the
    /// next start builds anew, and cuts a damaged end of the group journal. Never removes messages.
    Repair {
        #[command(flatten)]
        at: At,
        /// Says what it would do, and does nothing.
        #[arg(long)]
        dry_run: bool,
        /// Does not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Copies a data directory while the broker serves it: a complete, consistent one in a new directory, with everything
    /// that was acknowledged before.
    #[command(after_help = CHECKPOINT_HELP)]
    Checkpoint(CheckpointArgs),
}

/// Where the data lies.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// The data directory.
    #[arg(value_name = "DIR", env = "WEIR_DATA", default_value = DATA_DIR_DEFAULT)]
    dir: PathBuf,
}

/// What to show.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    at: At,
    /// What to list.
    #[arg(long, value_name = "VIEW", default_value = "segments")]
    view: View,
    /// Only this topic.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Only this queue.
    #[arg(long, value_name = "N")]
    queue: Option<u32>,
    /// Only files whose path ends so.
    #[arg(long, value_name = "NAME")]
    file: Option<String>,
    /// How many lines to show at most.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum View {
    /// The directory as a whole, and the segments of log, journal and catalogue.
    Segments,
    /// Their frames.
    Frames,
    /// The files of consume queues.
    Queues,
    /// Their blocks.
    Blocks,
    /// The columns of blocks.
    Columns,
    /// What is known of columns without opening blocks.
    Statistics,
}

pub(crate) async fn run(command: StorageCommand, global: &Global) -> Result<(), Failure> {
    match command {
        StorageCommand::Verify { at } => verify_all(&at.dir, global),
        StorageCommand::Inspect(args) => inspect(&args, global),
        StorageCommand::Repair { at, dry_run, yes } => repair(&at.dir, dry_run, yes, global),
        StorageCommand::Checkpoint(args) => storage_checkpoint::run(args, global).await,
    }
}

pub(super) fn disk() -> Arc<dyn Env> {
    Arc::new(DiskEnv)
}

/// Returns why a data directory cannot be looked at.
pub(super) fn unreadable(error: StorageError) -> Failure {
    let exit = match &error {
        StorageError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Exit::NotFound,
        StorageError::Foreign { .. } => Exit::NotFound,
        StorageError::Locked { .. } => Exit::Failed,
        StorageError::Newer { .. }
        | StorageError::NeedsNewer { .. }
        | StorageError::CopyUnfinished { .. }
        | StorageError::CopyExists { .. }
        | StorageError::CopyInside { .. } => Exit::Refused,
        StorageError::CopyCancelled { .. } => Exit::Failed,
        _ => Exit::Disk,
    };
    let text = match &error {
        StorageError::Foreign { path } => {
            format!("{} is no Weir data directory: it has no file FORMAT", path.display())
        }
        _ => error.to_string(),
    };
    Failure::new(exit, text)
}

/// Reads everything, and shows on a terminal how far it has come.
fn look(dir: &Path) -> Result<Verified, Failure> {
    let bar = progress(Some(0), "read");
    let found = verify(&disk(), dir, &mut |progress| {
        bar.set_length(progress.total.max(progress.done));
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    found.map_err(unreadable)
}

fn verify_all(dir: &Path, global: &Global) -> Result<(), Failure> {
    let found = look(dir)?;
    let count = found.findings.len() as u64 + found.more_findings;
    if global.json {
        print_json(&verified(&found))?;
    } else {
        for finding in &found.findings {
            print_line(&shown(finding))?;
        }
        if found.more_findings > 0 {
            print_line(&format!("… and {}", counted(found.more_findings, "more finding")))?;
        }
        print_line(&format!(
            "{} in {}, {}, {}: {}",
            size(found.bytes),
            counted(found.files, "file"),
            counted(found.records, "record"),
            counted(found.rows, "row"),
            if count == 0 { "everything is whole".to_owned() } else { counted(count, "finding") },
        ))?;
    }
    if count == 0 {
        return Ok(());
    }
    let advice = "`weir storage repair --dry-run` says what can be done";
    Err(Failure::new(Exit::Failed, format!("{} is damaged; {advice}", dir.display())))
}

fn shown(finding: &Finding) -> String {
    let mut text = format!("{} at byte {}", finding.path.display(), finding.bytes.start);
    if finding.bytes.end > finding.bytes.start + 1 {
        text.push_str(&format!(" to {}", finding.bytes.end - 1));
    }
    text.push_str(&format!(": {}\n  costs   {}", finding.what, finding.cost));
    for rows in &finding.rows {
        text.push_str(&format!("\n  rows    {rows}"));
    }
    text.push_str(&format!("\n  remedy  {}", finding.remedy.text()));
    text
}

fn verified(found: &Verified) -> Value {
    let findings: Vec<Value> = found.findings.iter().map(finding_json).collect();
    json!({
        "whole": findings.is_empty(),
        "clean": found.clean,
        "files": found.files,
        "bytes": found.bytes,
        "records": found.records,
        "rows": found.rows,
        "log": { "begin": found.log.start.0, "end": found.log.end.0 },
        "findings": findings,
        "more_findings": found.more_findings,
    })
}

fn rows_json(rows: &[AffectedRows]) -> Vec<Value> {
    let row = |rows: &AffectedRows| {
        json!({
            "topic": rows.name, "topic_id": rows.topic.0, "queue": rows.queue.0,
            "first": rows.offsets.start.0, "end": rows.offsets.end.0,
        })
    };
    rows.iter().map(row).collect()
}

fn finding_json(finding: &Finding) -> Value {
    let rows = rows_json(&finding.rows);
    json!({
        "file": finding.path,
        "at": finding.bytes.start,
        "end": finding.bytes.end,
        "what": finding.what,
        "cost": finding.cost,
        "rows": rows,
        "remedy": finding.remedy.word(),
    })
}

fn repair(dir: &Path, dry_run: bool, yes: bool, global: &Global) -> Result<(), Failure> {
    // What is found must still be so when it is repaired.
    let lock = if dry_run {
        None
    } else {
        Some(RepairLock::take(&disk(), dir, &MachineClock::default()).map_err(unreadable)?)
    };
    let found = look(dir)?;
    let steps = plan_repair(&found);
    let missing = found.missing_after_rebuild();
    let stays: Vec<&Finding> = found.findings.iter().filter(|finding| !is_repaired(finding.remedy)).collect();
    if !global.json {
        for step in &steps {
            print_line(&step.to_string())?;
        }
        for finding in &stays {
            print_line(&format!("left as it is: {}", shown(finding)))?;
        }
        for rows in &missing {
            print_line(&format!(
                "missing once consume queues are built anew, as the log has lost it: {rows}"
            ))?;
        }
    }
    let lock = lock.filter(|_| !steps.is_empty());
    if let Some(lock) = &lock {
        if !confirm(&format!("Do {} in {}?", counted(steps.len() as u64, "step"), dir.display()), yes)? {
            return Err(Failure::new(Exit::Failed, "not repaired"));
        }
        for step in &steps {
            lock.apply(step).map_err(unreadable)?;
        }
    }
    if global.json {
        let steps: Vec<Value> = steps
            .iter()
            .map(|step| json!({ "step": step.word(), "file": step.path(), "text": step.to_string() }))
            .collect();
        let stays: Vec<Value> = stays.iter().map(|finding| finding_json(finding)).collect();
        let missing = rows_json(&missing);
        return print_json(
            &json!({ "done": lock.is_some(), "steps": steps, "left": stays, "missing": missing }),
        );
    }
    print_line(match (steps.is_empty(), lock.is_some()) {
        (true, _) => "nothing to repair",
        (false, true) => "repaired; the next start of the broker does the rest",
        (false, false) => "nothing was changed",
    })
}

const fn is_repaired(remedy: Remedy) -> bool {
    !matches!(
        remedy,
        Remedy::StartRestores
            | Remedy::Fenced
            | Remedy::StaysUnreadable
            | Remedy::Known
            | Remedy::Restore
            | Remedy::Nothing
    )
}

/// Why a view ends before its end.
enum Stop {
    Full,
    Failed(StorageError),
}

impl From<StorageError> for Stop {
    fn from(error: StorageError) -> Self {
        Self::Failed(error)
    }
}

/// The lines of a view.
struct Lines {
    lines: Vec<Value>,
    limit: usize,
}

impl Lines {
    fn add(&mut self, line: impl Serialize) -> Result<(), Stop> {
        if self.lines.len() >= self.limit {
            return Err(Stop::Full);
        }
        self.lines.push(serde_json::to_value(line).unwrap_or_default());
        Ok(())
    }
}

fn inspect(args: &InspectArgs, global: &Global) -> Result<(), Failure> {
    let inspection = Inspection::open(&disk(), &args.at.dir).map_err(unreadable)?;
    let filter =
        InspectFilter { topic: args.topic.clone(), queue: args.queue.map(QueueId), file: args.file.clone() };
    let mut lines = Lines { lines: Vec::new(), limit: args.limit };
    let ended = match args.view {
        View::Segments => inspection.segments(&filter, &mut |line| lines.add(line)),
        View::Frames => inspection.frames(&filter, &mut |line| lines.add(line)),
        View::Queues => inspection.queue_files(&filter, &mut |line| lines.add(line)),
        View::Blocks => inspection.blocks(&filter, &mut |line| lines.add(line)),
        View::Columns => inspection.columns(&filter, &mut |line| lines.add(line)),
        View::Statistics => inspection.statistics(&filter, &mut |line| lines.add(line)),
    };
    let is_cut = match ended {
        Ok(()) => false,
        Err(Stop::Full) => true,
        Err(Stop::Failed(error)) => return Err(unreadable(error)),
    };
    let directory = serde_json::to_value(inspection.info()).unwrap_or_default();
    if global.json {
        let name = args.view.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        return print_json(&json!({ "directory": directory, name: lines.lines, "cut": is_cut }));
    }
    if args.view == View::Segments {
        print_directory(&directory)?;
    }
    print_lines(args.view, &lines.lines)?;
    if is_cut {
        print_line(&format!("the first {}; --limit N shows more", counted(args.limit as u64, "line")))?;
    }
    Ok(())
}

fn print_directory(directory: &Value) -> Result<(), Failure> {
    for (name, key) in [
        ("uuid", "uuid"),
        ("stopped cleanly", "clean"),
        ("epoch", "epoch"),
        ("queues end", "queues_end"),
        ("log ends", "log_end"),
        ("journal ends", "journal_end"),
        ("catalogue ends", "catalogue_end"),
        ("fences", "fences"),
        ("topics", "topics"),
        ("groups", "groups"),
        ("queue files", "queue_files"),
        ("queue bytes", "queue_bytes"),
    ] {
        print_line(&format!("{name:<16} {}", field(directory, key)))?;
    }
    Ok(())
}

fn print_lines(view: View, lines: &[Value]) -> Result<(), Failure> {
    match view {
        View::Segments => {
            rows(lines, ["file", "base", "bytes", "form", "capacity", "epoch", "begun_ms", "header"])
        }
        View::Frames => rows(
            lines,
            ["file", "at", "position", "kind", "epoch", "records", "bytes", "durable", "time_ms", "checksum"],
        ),
        View::Queues => rows(lines, ["file", "kind", "bytes", "blocks", "rows", "statistics", "checksum"]),
        View::Blocks => rows(
            lines,
            [
                "file",
                "block",
                "topic",
                "queue",
                "first",
                "rows",
                "columns",
                "at",
                "bytes",
                "store_time_min_ms",
                "store_time_max_ms",
                "checksum",
            ],
        ),
        View::Columns => rows(
            lines,
            [
                "file", "block", "topic", "queue", "column", "shape", "kinds", "missing", "distinct", "at",
                "bytes", "checksum",
            ],
        ),
        View::Statistics => rows(
            lines,
            [
                "file",
                "block",
                "column",
                "missing",
                "distinct",
                "kinds",
                "text_min",
                "text_max",
                "int_min",
                "int_max",
                "float_min",
                "float_max",
                "bloom_bytes",
                "checksum",
            ],
        ),
    }
}

/// Prints a table of these fields of each line. Times are shown as such.
fn rows<const N: usize>(lines: &[Value], fields: [&str; N]) -> Result<(), Failure> {
    let mut shown = table(fields.map(|field| field.trim_end_matches("_ms")));
    for line in lines {
        shown.add_row(fields.map(|name| match line.get(name) {
            Some(Value::Number(ms)) if name.ends_with("_ms") => ms.as_i64().map(time).unwrap_or_default(),
            Some(Value::Array(items)) => {
                let words: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
                words.join(" ")
            }
            _ => field(line, name),
        }));
    }
    print_line(&shown.to_string())
}
