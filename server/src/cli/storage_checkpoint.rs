//! `weir storage checkpoint`: a copy of a data directory, made by the broker that serves it or, if none does, here.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::{Value, json};
use weir_storage::{Storage, StorageOptions};

use super::{
    Failure, Global,
    output::{count, counted, print_json, print_line, progress, size},
    storage::unreadable,
};
use crate::{
    run::{Stop, signals},
    status::Exit,
};

pub(crate) const CHECKPOINT_HELP: &str = "Example: weir storage checkpoint /var/lib/weir-2026-11-28
Exit codes: 0 the copy is there, 1 cancelled, 3 there is no data directory, 4 refused, 5 no broker answers, 74 the disk \
failed or is full. Unless it ends with 0 there is no copy; what a crash leaves of one is refused by name.";

/// What to copy, and where to.
#[derive(Debug, Args)]
pub(crate) struct CheckpointArgs {
    /// The copy: a directory that does not exist, on the machine of the broker. On the file system of the data directory it
    /// takes little time and room, since files that are complete are linked.
    #[arg(value_name = "TARGET")]
    target: PathBuf,
    /// Copies this data directory, which no broker serves, instead of asking the one at --server.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(crate) async fn run(args: CheckpointArgs, global: &Global) -> Result<(), Failure> {
    let target = std::path::absolute(&args.target)
        .map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", args.target.display())))?;
    let stop = signals().map_err(|error| Failure::new(Exit::Failed, format!("no signals: {error}")))?;
    let copied = match args.data {
        Some(dir) => copy_closed(&dir, &target, stop).await?,
        None => ask(&target, stop, global).await?,
    };
    if global.json {
        return print_json(&copied);
    }
    let (linked, made) = (count(&copied, "linked_bytes"), count(&copied, "copied_bytes"));
    print_line(&format!(
        "{} holds {}: {} linked, {} copied",
        target.display(),
        counted(count(&copied, "files"), "file"),
        size(linked),
        size(made),
    ))
}

/// Has the broker make the copy. It breaks off when this process ends, or is told to.
async fn ask(target: &Path, mut stop: Stop, global: &Global) -> Result<Value, Failure> {
    let client = global.connect().await?;
    let bar = progress(Some(0), "copied");
    let shown = bar.clone();
    let mut watch = move |told: &Value| {
        shown.set_length(count(told, "total"));
        shown.set_position(count(told, "done"));
    };
    let body = json!({ "target": target });
    let copied = tokio::select! {
        copied = client.watched_action("Checkpoint", &body, &mut watch) => copied.map_err(Failure::from),
        () = stop.told() => Err(Failure::new(Exit::Failed, format!("cancelled; {} is not there", target.display()))),
    };
    bar.finish_and_clear();
    copied
}

async fn copy_closed(dir: &Path, target: &Path, stop: Stop) -> Result<Value, Failure> {
    let real = |path: &Path| {
        let failed = |error| Failure::new(Exit::NotFound, format!("{}: {error}", path.display()));
        path.canonicalize().map_err(failed)
    };
    let dir = real(dir)?;
    let parent = target.parent().unwrap_or(target);
    let target = real(parent)?.join(target.file_name().unwrap_or_default());
    let bar = progress(Some(0), "copied");
    let shown = bar.clone();
    let copied = tokio::task::spawn_blocking(move || {
        let options = StorageOptions { free_bytes_min: 0, ..StorageOptions::default() };
        let copied = Storage::copy_closed(&dir, options, &target, &mut |progress| {
            shown.set_length(progress.total);
            shown.set_position(progress.done);
            if stop.is_told() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        copied.map(|copied| {
            json!({
                "target": target,
                "files": copied.files,
                "linked_bytes": copied.linked_bytes,
                "copied_bytes": copied.copied_bytes,
                "log_end": copied.log_end.0,
            })
        })
    });
    let copied = copied.await.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    bar.finish_and_clear();
    copied.map_err(unreadable)
}
