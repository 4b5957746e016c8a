//! Answers about catalogs, schemas, tables and keys.
//!
//! The schemas are compared to the letter by the ADBC driver, nullability included, and read by JDBC with
//! fixed Java types. Nothing here looks into a topic unless the schemas of tables are asked for.

use std::{collections::BTreeSet, sync::Arc};

use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray, new_empty_array};
use arrow_flight::sql::{Command, CommandGetDbSchemas, CommandGetTables};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use tonic::Status;
use weir_engine::{Broker, TableDescription, TableKind};

use super::{info, sql_info};
use crate::status::to_flight;

/// The one catalog.
pub(crate) const CATALOG: &str = "weir";
/// The schema of topics without a namespace.
pub(crate) const DEFAULT_SCHEMA: &str = "public";

const TABLE: &str = "TABLE";

/// Returns the schema of the answer to `command`, or `None` if it asks no question about metadata.
pub(crate) fn schema(command: &Command) -> Option<SchemaRef> {
    let schema = match command {
        Command::CommandGetCatalogs(_) => Schema::new(vec![text("catalog_name", false)]),
        Command::CommandGetDbSchemas(_) => {
            Schema::new(vec![text("catalog_name", true), text("db_schema_name", false)])
        }
        Command::CommandGetTables(command) => tables_schema(command.include_schema),
        Command::CommandGetTableTypes(_) => Schema::new(vec![text("table_type", false)]),
        Command::CommandGetPrimaryKeys(_) => primary_keys_schema(),
        Command::CommandGetImportedKeys(_)
        | Command::CommandGetExportedKeys(_)
        | Command::CommandGetCrossReference(_) => foreign_keys_schema(),
        Command::CommandGetSqlInfo(_) => return Some(sql_info::schema()),
        _ => return None,
    };
    Some(Arc::new(schema))
}

/// Answers `command`, or returns `None` if it asks no question about metadata.
pub(crate) async fn answer(broker: &Broker, command: &Command) -> Result<Option<RecordBatch>, Status> {
    let Some(schema) = schema(command) else {
        return Ok(None);
    };
    let columns = match command {
        Command::CommandGetCatalogs(_) => vec![strings([CATALOG])],
        Command::CommandGetDbSchemas(command) => schemas(broker, command),
        Command::CommandGetTables(command) => tables(broker, command).await?,
        Command::CommandGetTableTypes(_) => vec![strings(["SYSTEM TABLE", TABLE, "VIEW"])],
        Command::CommandGetSqlInfo(command) => return sql_info::answer(&command.info).map(Some),
        // Topics have no keys.
        _ => schema.fields().iter().map(|field| new_empty_array(field.data_type())).collect(),
    };
    let batch = RecordBatch::try_new(schema, columns).map_err(|error| Status::internal(error.to_string()))?;
    Ok(Some(batch))
}

fn schemas(broker: &Broker, command: &CommandGetDbSchemas) -> Vec<ArrayRef> {
    let mut names: BTreeSet<String> = broker.catalog().into_iter().map(|table| table.schema).collect();
    names.insert(DEFAULT_SCHEMA.to_owned());
    let pattern = command.db_schema_filter_pattern.as_deref();
    names.retain(|name| {
        is_catalog(command.catalog.as_deref()) && pattern.is_none_or(|pattern| matches(pattern, name))
    });
    vec![strings(names.iter().map(|_| CATALOG)), strings(names.iter().map(String::as_str))]
}

async fn tables(broker: &Broker, command: &CommandGetTables) -> Result<Vec<ArrayRef>, Status> {
    let mut found = broker.catalog();
    found.retain(|table| is_asked_for(table, command));
    found.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    if !command.include_schema {
        return Ok(columns(&found));
    }
    let mut known = Vec::with_capacity(found.len());
    let mut messages = Vec::with_capacity(found.len());
    for table in found {
        match broker.table_schema(&table.schema, &table.name).await {
            Ok(schema) => {
                messages.push(info::schema_message(&annotated(&schema, &table))?);
                known.push(table);
            }
            // Deleted since the catalog was read.
            Err(_) if !broker.catalog().contains(&table) => {}
            Err(error) => return Err(to_flight(error)),
        }
    }
    let mut columns = columns(&known);
    columns.push(Arc::new(BinaryArray::from_iter_values(&messages)));
    Ok(columns)
}

fn columns(tables: &[TableDescription]) -> Vec<ArrayRef> {
    vec![
        strings(tables.iter().map(|_| CATALOG)),
        strings(tables.iter().map(|table| table.schema.as_str())),
        strings(tables.iter().map(|table| table.name.as_str())),
        strings(tables.iter().map(|table| type_name(table.kind))),
    ]
}

fn is_asked_for(table: &TableDescription, command: &CommandGetTables) -> bool {
    let like =
        |pattern: &Option<String>, name| pattern.as_deref().is_none_or(|pattern| matches(pattern, name));
    is_catalog(command.catalog.as_deref())
        && like(&command.db_schema_filter_pattern, &table.schema)
        && like(&command.table_name_filter_pattern, &table.name)
        && is_type(table.kind, &command.table_types)
}

/// The name of a catalog is exact. The empty one means tables without a catalog, of which there are none.
fn is_catalog(asked: Option<&str>) -> bool {
    asked.is_none_or(|asked| asked == CATALOG)
}

/// Grafana asks for `BASE TABLE` and `table`.
fn is_type(kind: TableKind, asked: &[String]) -> bool {
    let name = type_name(kind);
    let is_name = |asked: &String| {
        asked.eq_ignore_ascii_case(name) || (name == TABLE && asked.eq_ignore_ascii_case("BASE TABLE"))
    };
    asked.is_empty() || asked.iter().any(is_name)
}

const fn type_name(kind: TableKind) -> &'static str {
    match kind {
        TableKind::Topic => TABLE,
        TableKind::View => "VIEW",
        TableKind::System => "SYSTEM TABLE",
    }
}

/// Returns whether `name` is `pattern`, or is like it: `%` any run, `_` any character, `\` escapes.
///
/// Names such as `%RETRY%group` hold the characters of patterns, so the plain name comes first.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    pattern == name || is_like(&Wildcard::parse(pattern), &name.chars().collect::<Vec<_>>())
}

#[derive(Clone, Copy, PartialEq)]
enum Wildcard {
    Run,
    Any,
    Is(char),
}

impl Wildcard {
    fn parse(pattern: &str) -> Vec<Self> {
        let mut chars = pattern.chars();
        let mut wildcards = Vec::new();
        while let Some(c) = chars.next() {
            wildcards.push(match c {
                '%' => Self::Run,
                '_' => Self::Any,
                '\\' => Self::Is(chars.next().unwrap_or('\\')),
                c => Self::Is(c),
            });
        }
        wildcards.dedup_by(|a, b| *a == Self::Run && *b == Self::Run);
        wildcards
    }

    fn takes(self, c: char) -> bool {
        match self {
            Self::Run => false,
            Self::Any => true,
            Self::Is(wanted) => wanted == c,
        }
    }
}

/// Goes back to the last run only, so that the time is bounded by the product of the lengths.
fn is_like(pattern: &[Wildcard], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut run: Option<(usize, usize)> = None;
    while let Some(&c) = name.get(n) {
        match pattern.get(p) {
            Some(Wildcard::Run) => {
                run = Some((p + 1, n));
                p += 1;
            }
            Some(wildcard) if wildcard.takes(c) => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((after, taken)) = run else {
                    return false;
                };
                run = Some((after, taken + 1));
                p = after;
                n = taken + 1;
            }
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|wildcard| *wildcard == Wildcard::Run))
}

/// Tells JDBC and those above it about each column.
fn annotated(schema: &Schema, table: &TableDescription) -> Schema {
    let fields = schema.fields().iter().map(|field| {
        let mut metadata = field.metadata().clone();
        let facts = [
            ("CATALOG_NAME", CATALOG),
            ("SCHEMA_NAME", &table.schema),
            ("TABLE_NAME", &table.name),
            ("TYPE_NAME", sql_type(field.data_type())),
            ("IS_AUTO_INCREMENT", "0"),
            ("IS_READ_ONLY", "1"),
            ("IS_SEARCHABLE", "1"),
        ];
        metadata.extend(facts.map(|(key, value)| (format!("ARROW:FLIGHT:SQL:{key}"), value.to_owned())));
        field.as_ref().clone().with_metadata(metadata)
    });
    Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone())
}

const fn sql_type(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 => "TINYINT",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INTEGER",
        DataType::Int64 => "BIGINT",
        DataType::Float32 => "REAL",
        DataType::Float64 => "DOUBLE",
        DataType::Decimal128(..) => "DECIMAL",
        DataType::Binary => "VARBINARY",
        DataType::Date32 => "DATE",
        DataType::Timestamp(..) => "TIMESTAMP",
        DataType::Map(..) => "MAP",
        DataType::List(..) => "ARRAY",
        DataType::Struct(..) => "STRUCT",
        _ => "VARCHAR",
    }
}

fn tables_schema(with_schema: bool) -> Schema {
    let mut fields = vec![
        text("catalog_name", true),
        text("db_schema_name", true),
        text("table_name", false),
        text("table_type", false),
    ];
    if with_schema {
        fields.push(Field::new("table_schema", DataType::Binary, false));
    }
    Schema::new(fields)
}

fn primary_keys_schema() -> Schema {
    Schema::new(vec![
        text("catalog_name", true),
        text("db_schema_name", true),
        text("table_name", false),
        text("column_name", false),
        Field::new("key_sequence", DataType::Int32, false),
        text("key_name", true),
    ])
}

fn foreign_keys_schema() -> Schema {
    Schema::new(vec![
        text("pk_catalog_name", true),
        text("pk_db_schema_name", true),
        text("pk_table_name", false),
        text("pk_column_name", false),
        text("fk_catalog_name", true),
        text("fk_db_schema_name", true),
        text("fk_table_name", false),
        text("fk_column_name", false),
        Field::new("key_sequence", DataType::Int32, false),
        text("fk_key_name", true),
        text("pk_key_name", true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ])
}

fn text(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}

fn strings<'a>(values: impl IntoIterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_matches_itself_and_what_is_like_it() {
        for (pattern, name, expected) in [
            ("%", "", true),
            ("%", "orders", true),
            ("", "", true),
            ("", "orders", false),
            ("ord%", "orders", true),
            ("%ers", "orders", true),
            ("%d%s", "orders", true),
            ("o_ders", "orders", true),
            ("o_ders", "oders", false),
            ("ORDERS", "orders", false),
            ("%RETRY%group", "%RETRY%group", true),
            (r"\%RETRY\%group", "%RETRY%group", true),
            (r"a\_b", "a_b", true),
            (r"a\_b", "axb", false),
            (r"x\", r"x\", true),
            ("select * from orders where a like '%'", "orders", false),
            ("%a%a%a%a%b", &"a".repeat(120), false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern:?} {name:?}");
        }
        assert!(!matches(&"%a".repeat(100_000), &"a".repeat(127)));
    }

    #[test]
    fn types_of_tables_are_compared_as_grafana_writes_them() {
        let of =
            |kind, asked: &[&str]| is_type(kind, &asked.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
        assert!(of(TableKind::Topic, &[]));
        assert!(of(TableKind::Topic, &["BASE TABLE"]));
        assert!(of(TableKind::Topic, &["view", "table"]));
        assert!(!of(TableKind::View, &["BASE TABLE", "table"]));
        assert!(of(TableKind::System, &["system table"]));
        assert!(!of(TableKind::Topic, &["LOCAL TEMPORARY"]));
    }
}
