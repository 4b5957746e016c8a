//! `weir query`: ad-hoc SQL over topics.

use std::io::{self, Write};

use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, DataType, Schema};
use clap::{Args, ValueEnum};
use comfy_table::{Cell, CellAlignment};
use futures::TryStreamExt as _;

use super::{
    Failure, Global,
    output::{counted, eprint_line, print_line, table},
};
use crate::{cli::pull::text_columns, status::Exit};

/// Rows that a table shows; a table cannot be drawn before its last row is known.
const TABLE_ROWS_MAX: usize = 10_000;

/// Answers a SQL query.
#[derive(Debug, Args)]
#[command(
    after_help = "Each topic is a table: SELECT carrier, count(*) FROM flights WHERE dep_delay > 60 GROUP BY 1"
)]
pub(crate) struct QueryArgs {
    /// The query; `-` reads it from standard input.
    sql: String,
    /// How to print the answer.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for people; at most 10,000 rows.
    Table,
    /// CSV with a header.
    Csv,
    /// An array of objects.
    Json,
}

pub(crate) async fn run(args: QueryArgs, global: &Global) -> Result<(), Failure> {
    let sql = if args.sql == "-" { io::read_to_string(io::stdin()).map_err(unreadable)? } else { args.sql };
    let answer = global.connect().await?.query(&sql).await?;
    let format = if global.json { Format::Json } else { args.format };
    let mut batches = answer.batches;
    match format {
        Format::Table => {
            let mut kept = Vec::new();
            let (mut rows, mut all) = (0, 0);
            while let Some(batch) = batches.try_next().await? {
                all += batch.num_rows();
                let wanted = batch.num_rows().min(TABLE_ROWS_MAX - rows);
                rows += wanted;
                if wanted > 0 {
                    kept.push(batch.slice(0, wanted));
                }
            }
            print_line(&draw(&answer.schema, &kept)?)?;
            if all > rows {
                eprint_line(&format!(
                    "{} more; --format csv prints all",
                    counted((all - rows) as u64, "row")
                ));
            }
            Ok(())
        }
        Format::Csv => {
            let mut writer = arrow_csv::WriterBuilder::new().with_header(true).build(stdout());
            let mut empty = true;
            while let Some(batch) = batches.try_next().await? {
                empty = false;
                writer.write(&text_columns(&batch)?).map_err(written)?;
            }
            if empty {
                writer.write(&text_columns(&RecordBatch::new_empty(answer.schema))?).map_err(written)?;
            }
            writer.into_inner().flush()?;
            Ok(())
        }
        Format::Json => {
            let mut writer = arrow_json::WriterBuilder::new()
                .with_explicit_nulls(true)
                .build::<_, arrow_json::writer::JsonArray>(stdout());
            while let Some(batch) = batches.try_next().await? {
                writer.write(&text_columns(&batch)?).map_err(written)?;
            }
            writer.finish().map_err(written)?;
            let mut out = writer.into_inner();
            writeln!(out)?;
            out.flush()?;
            Ok(())
        }
    }
}

/// Returns the rows as a table.
pub(crate) fn draw(schema: &Schema, batches: &[RecordBatch]) -> Result<String, Failure> {
    let mut shown = table([]);
    shown.set_header(schema.fields().iter().map(|field| Cell::new(field.name())));
    let options = FormatOptions::default().with_null("NULL");
    for batch in batches {
        let columns: Vec<ArrayFormatter<'_>> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options))
            .collect::<Result<_, _>>()
            .map_err(written)?;
        for row in 0..batch.num_rows() {
            shown.add_row(columns.iter().zip(schema.fields()).map(|(column, field)| {
                let cell = Cell::new(column.value(row));
                if is_number(field.data_type()) { cell.set_alignment(CellAlignment::Right) } else { cell }
            }));
        }
    }
    Ok(shown.to_string())
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric()
}

/// Returns standard output behind a buffer; what is written there is data and never styled.
pub(crate) fn stdout() -> io::BufWriter<io::Stdout> {
    io::BufWriter::with_capacity(1 << 16, io::stdout())
}

/// Turns what an Arrow writer reports into a failure.
pub(crate) fn written(error: ArrowError) -> Failure {
    match error {
        ArrowError::IoError(_, error) => error.into(),
        ArrowError::CsvError(message) if message.contains("Broken pipe") => {
            io::Error::from(io::ErrorKind::BrokenPipe).into()
        }
        error => Failure::new(Exit::Failed, error.to_string()),
    }
}

fn unreadable(error: io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot read the query from standard input: {error}"))
}
