//! `weir pull`: retained messages in bulk, as Arrow record batches, into a file.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{Array, ArrayRef, BinaryArray, MapArray, RecordBatch, StringArray, cast::AsArray as _};
use arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::{Args, ValueEnum};
use futures::TryStreamExt as _;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
};
use serde_json::json;
use weir_engine::ColumnType;

use super::{
    Failure, Global,
    output::{counted, print_json, print_line, progress, size},
    parameters::ParameterArgs,
    query::{stdout, written},
    selector::with_place,
};
use crate::{
    flight::command::{Moment, PullCommand, PullEnd, PullStart, Yes},
    status::Exit,
};

/// Reads retained messages in bulk.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// The topic.
    topic: String,
    /// Only messages for which this is true, such as "origin = 'JFK' AND dep_delay > 60".
    #[arg(long = "where", value_name = "SQL")]
    selector: Option<String>,
    #[command(flatten)]
    parameters: ParameterArgs,
    /// The columns, in this order: properties, or queue_id, queue_offset, store_time, born_time, msg_id, tags,
    /// msg_keys, body, properties. `NAME:TYPE` fixes the type of a property: int64, float64, utf8 or boolean.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    columns: Vec<String>,
    /// Where to begin: earliest, latest, a time such as 2026-11-01T00:00:00Z, group:NAME, or offsets such as
    /// 0:120,1:77.
    #[arg(long, value_name = "PLACE", value_parser = start)]
    from: Option<PullStart>,
    /// Where to end: now, a time, or offsets.
    #[arg(long, value_name = "PLACE", value_parser = end)]
    to: Option<PullEnd>,
    /// Only these queues, such as 0,3.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    queues: Vec<u32>,
    /// The file to write; `-` is standard output.
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// What to write. Default: by the extension of the file (.arrow, .parquet, .csv, .jsonl); else JSON lines.
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// An Arrow IPC file; on standard output, an Arrow IPC stream.
    Arrow,
    /// Parquet, compressed with Zstandard.
    Parquet,
    /// CSV with a header.
    Csv,
    /// A JSON object a line; what is null is left out.
    #[value(alias = "json")]
    Jsonl,
}

/// Something that takes batches and makes a file of them.
enum Sink {
    ArrowFile(FileWriter<Target>),
    ArrowStream(StreamWriter<Target>),
    Parquet(Box<ArrowWriter<Target>>),
    Csv(arrow_csv::Writer<Target>),
    Jsonl(arrow_json::LineDelimitedWriter<Target>),
}

/// Where bytes go. A file has its name only once it is complete.
enum Target {
    Stdout(BufWriter<io::Stdout>),
    File { file: BufWriter<File>, bytes: u64 },
}

pub(crate) async fn run(mut args: PullArgs, global: &Global) -> Result<(), Failure> {
    args.selector = args.parameters.bind_where(args.selector)?;
    let format = format(&args)?;
    let to_stdout = args.output == Path::new("-");
    let answer = global.connect().await?.pull(&command(&args)).await;
    let answer = answer.map_err(|error| with_place(error.into(), args.selector.as_deref()))?;
    let partial = partial_path(&args.output);
    let target = if to_stdout { Target::Stdout(stdout()) } else { Target::create(&partial)? };
    let mut sink = Sink::new(format, target, &answer.schema)?;
    let bar = progress(answer.rows, "rows");
    let mut batches = answer.batches;
    let (mut rows, mut count) = (0_u64, 0_u64);
    let pulled = async {
        while let Some(pulled) = batches.try_next().await? {
            rows += pulled.batch.num_rows() as u64;
            if pulled.batch.num_rows() > 0 {
                count += 1;
                sink.write(&pulled.batch)?;
            }
            bar.set_position(rows);
            bar.set_message(counted(rows, "row"));
        }
        sink.finish()
    }
    .await;
    bar.finish_and_clear();
    if to_stdout {
        return pulled.map(|_| ());
    }
    let bytes = pulled.and_then(|bytes| keep(&partial, &args.output).map(|()| bytes));
    let bytes = bytes.inspect_err(|_| {
        // What is incomplete must not be taken for a file.
        let _ = fs::remove_file(&partial);
    })?;
    if global.json {
        return print_json(&json!({
            "topic": args.topic, "rows": rows, "batches": count, "bytes": bytes, "file": args.output,
        }));
    }
    print_line(&format!("{} in {} ({})", counted(rows, "row"), args.output.display(), size(bytes)))
}

fn command(args: &PullArgs) -> PullCommand {
    let mut types = BTreeMap::new();
    let names = args.columns.iter().map(|column| {
        // A property may have a colon in its name.
        let typed =
            column.rsplit_once(':').and_then(|(name, kind)| Some((name, kind.parse::<ColumnType>().ok()?)));
        let Some((name, kind)) = typed else { return column.clone() };
        types.insert(name.to_owned(), kind);
        name.to_owned()
    });
    let columns: Vec<String> = names.collect();
    PullCommand {
        queues: (!args.queues.is_empty()).then(|| args.queues.clone()),
        from: args.from.clone(),
        to: args.to.clone(),
        columns: (!columns.is_empty()).then_some(columns),
        types,
        filter: args.selector.clone(),
        ..PullCommand::of_topic(&args.topic)
    }
}

fn format(args: &PullArgs) -> Result<Format, Failure> {
    if let Some(format) = args.format {
        return Ok(format);
    }
    let extension = args.output.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "" => Ok(Format::Jsonl),
        "arrow" | "feather" | "ipc" => Ok(Format::Arrow),
        "parquet" | "pq" => Ok(Format::Parquet),
        "csv" => Ok(Format::Csv),
        "jsonl" | "ndjson" | "json" => Ok(Format::Jsonl),
        other => Err(Failure::new(
            Exit::Usage,
            format!("what to write into a .{other} file? Name --format arrow, parquet, csv or jsonl"),
        )),
    }
}

impl Target {
    fn create(path: &Path) -> Result<Self, Failure> {
        let file = File::create(path).map_err(|error| file_failure("create", path, &error))?;
        Ok(Self::File { file: BufWriter::with_capacity(1 << 20, file), bytes: 0 })
    }

    /// Flushes, and returns how many bytes the file has.
    fn close(self) -> Result<u64, Failure> {
        match self {
            Self::Stdout(mut out) => {
                out.flush()?;
                Ok(0)
            }
            Self::File { mut file, bytes } => {
                file.flush().map_err(|error| Failure::new(Exit::Failed, format!("cannot write: {error}")))?;
                Ok(bytes)
            }
        }
    }
}

impl Write for Target {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(buffer),
            Self::File { file, bytes } => {
                let written = file.write(buffer)?;
                *bytes += written as u64;
                Ok(written)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::File { file, .. } => file.flush(),
        }
    }
}

impl Sink {
    fn new(format: Format, target: Target, schema: &SchemaRef) -> Result<Self, Failure> {
        Ok(match (format, &target) {
            (Format::Arrow, Target::File { .. }) => {
                Self::ArrowFile(FileWriter::try_new(target, schema).map_err(written)?)
            }
            (Format::Arrow, Target::Stdout(_)) => {
                Self::ArrowStream(StreamWriter::try_new(target, schema).map_err(written)?)
            }
            (Format::Parquet, _) => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .build();
                let writer = ArrowWriter::try_new(target, Arc::clone(schema), Some(properties));
                Self::Parquet(Box::new(writer.map_err(parquet_failure)?))
            }
            (Format::Csv, _) => {
                let mut writer = arrow_csv::WriterBuilder::new().with_header(true).build(target);
                // The header stands even over no rows.
                let empty = RecordBatch::new_empty(Arc::clone(schema));
                writer.write(&flat(&text_columns(&empty)?)?).map_err(written)?;
                Self::Csv(writer)
            }
            (Format::Jsonl, _) => Self::Jsonl(arrow_json::LineDelimitedWriter::new(target)),
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        match self {
            Self::ArrowFile(writer) => writer.write(batch).map_err(written),
            Self::ArrowStream(writer) => writer.write(batch).map_err(written),
            Self::Parquet(writer) => writer.write(batch).map_err(parquet_failure),
            Self::Csv(writer) => writer.write(&flat(&text_columns(batch)?)?).map_err(written),
            Self::Jsonl(writer) => writer.write(&text_columns(batch)?).map_err(written),
        }
    }

    /// Completes the file, and returns its size.
    fn finish(self) -> Result<u64, Failure> {
        match self {
            Self::ArrowFile(mut writer) => {
                writer.finish().map_err(written)?;
                writer.into_inner().map_err(written)?.close()
            }
            Self::ArrowStream(mut writer) => {
                writer.finish().map_err(written)?;
                writer.into_inner().map_err(written)?.close()
            }
            Self::Parquet(writer) => writer.into_inner().map_err(parquet_failure)?.close(),
            Self::Csv(writer) => writer.into_inner().close(),
            Self::Jsonl(mut writer) => {
                writer.finish().map_err(written)?;
                writer.into_inner().close()
            }
        }
    }
}

/// Turns binary columns into text: as it is where all of a value is UTF-8, else as base64 after `base64:`.
pub(crate) fn text_columns(batch: &RecordBatch) -> Result<RecordBatch, Failure> {
    map_columns(batch, |column| column.as_any().downcast_ref::<BinaryArray>().map(text))
}

/// Turns maps into JSON text, for formats that have no nested values.
fn flat(batch: &RecordBatch) -> Result<RecordBatch, Failure> {
    map_columns(batch, |column| column.as_any().downcast_ref::<MapArray>().map(json_text))
}

fn map_columns(
    batch: &RecordBatch,
    change: impl Fn(&ArrayRef) -> Option<StringArray>,
) -> Result<RecordBatch, Failure> {
    let schema = batch.schema();
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        match change(column) {
            Some(changed) => {
                fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, field.is_nullable())));
                columns.push(Arc::new(changed) as ArrayRef);
            }
            None => {
                fields.push(Arc::clone(field));
                columns.push(Arc::clone(column));
            }
        }
    }
    let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).map_err(written)
}

fn text(values: &BinaryArray) -> StringArray {
    let texts = values.iter().map(|value| {
        value.map(|bytes| match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => format!("base64:{}", BASE64_STANDARD.encode(bytes)),
        })
    });
    texts.collect()
}

fn json_text(maps: &MapArray) -> StringArray {
    let texts = maps.iter().map(|entries| {
        let entries = entries?;
        let keys = entries.column(0).as_string_opt::<i32>()?;
        let values = entries.column(1).as_string_opt::<i32>()?;
        let object: serde_json::Map<String, serde_json::Value> = keys
            .iter()
            .zip(values)
            .filter_map(|(key, value)| Some((key?.to_owned(), value.into())))
            .collect();
        Some(serde_json::Value::Object(object).to_string())
    });
    texts.collect()
}

fn partial_path(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn keep(partial: &Path, output: &Path) -> Result<(), Failure> {
    fs::rename(partial, output).map_err(|error| file_failure("write", output, &error))
}

fn file_failure(action: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot {action} {}: {error}", path.display()))
}

fn parquet_failure(error: ParquetError) -> Failure {
    match error {
        ParquetError::External(error) => match error.downcast::<io::Error>() {
            Ok(error) => (*error).into(),
            Err(error) => Failure::new(Exit::Failed, error.to_string()),
        },
        error => Failure::new(Exit::Failed, error.to_string()),
    }
}

/// Reads where a pull begins.
fn start(text: &str) -> Result<PullStart, String> {
    match text {
        "earliest" => return Ok(PullStart::Earliest(Yes)),
        "latest" => return Ok(PullStart::Latest(Yes)),
        _ => {}
    }
    if let Some(group) = text.strip_prefix("group:") {
        return Ok(PullStart::Group(group.to_owned()));
    }
    match offsets(text) {
        Some(offsets) => Ok(PullStart::Offsets(offsets)),
        None => text.parse::<Moment>().map(PullStart::Timestamp),
    }
}

/// Reads where a pull ends.
fn end(text: &str) -> Result<PullEnd, String> {
    match (text, offsets(text)) {
        ("now", _) => Ok(PullEnd::Snapshot(Yes)),
        (_, Some(offsets)) => Ok(PullEnd::Offsets(offsets)),
        _ => text.parse::<Moment>().map(PullEnd::Timestamp),
    }
}

fn offsets(text: &str) -> Option<BTreeMap<u32, u64>> {
    text.split(',')
        .map(|pair| {
            let (queue, offset) = pair.split_once(':')?;
            Some((queue.parse().ok()?, offset.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_words_times_groups_or_offsets() {
        assert_eq!(start("earliest").unwrap(), PullStart::Earliest(Yes));
        assert_eq!(start("group:g").unwrap(), PullStart::Group("g".to_owned()));
        assert_eq!(start("0:12,3:4").unwrap(), PullStart::Offsets(BTreeMap::from([(0, 12), (3, 4)])));
        assert_eq!(start("1970-01-01T00:00:01Z").unwrap(), PullStart::Timestamp(Moment(1000)));
        assert_eq!(end("now").unwrap(), PullEnd::Snapshot(Yes));
        assert!(start("soon").is_err() && end("earliest").is_err());
    }

    #[test]
    fn bytes_that_are_no_text_become_base64() {
        let bytes = BinaryArray::from_opt_vec(vec![Some(b"{}"), Some(&[0xff]), None]);
        let expected = StringArray::from(vec![Some("{}"), Some("base64:/w=="), None]);
        assert_eq!(text(&bytes), expected);
    }
}
