//! DataFusion as it is set up here: what it may use, and how a statement becomes a plan.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use datafusion::{
    arrow::{
        datatypes::{DataType, SchemaRef},
        error::ArrowError,
    },
    common::{Column, DataFusionError, SchemaError, TableReference, config::ConfigOptions},
    execution::{
        SessionState, SessionStateBuilder, SessionStateDefaults,
        context::SQLOptions,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::FairSpillPool,
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
    },
    logical_expr::{LogicalPlan, planner::ExprPlanner},
    optimizer::Analyzer,
    prelude::SessionConfig,
    scalar::ScalarValue,
    sql::{parser::Statement as SqlStatement, sqlparser::ast::Statement},
};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};
use weir_filter::{Limits, did_you_mean, near};

use super::{
    concat::Concat,
    cost::Cost,
    functions::{self, Registry},
    numbers::{NumberOfText, NumbersInText, Operators},
    plan as plans, result,
    selectors::{self, Properties},
    text,
};
use crate::{
    broker::{Broker, BrokerOptions},
    error::EngineError,
    limits::QUERY_WAIT_MAX,
    reads::ReadPool,
    tables::{CATALOG, Catalog, PUBLIC, SelectorMarker, Tables},
};

/// Planners recurse. This is address space; only what is touched is memory.
const STACK_BYTES: usize = 64 << 20;
/// On how many partitions one query works at once.
const PARTITIONS: usize = 2;
/// How many statements are planned at once.
const PLANNED_AT_ONCE: usize = 2;

/// Where queries run, and what they may use.
pub(crate) struct Queries {
    slots: Arc<Semaphore>,
    planners: Arc<Semaphore>,
    threads: usize,
    pool: ReadPool,
    limits: Limits,
    memory_bytes: usize,
    runtime: OnceLock<Option<QueryRuntime>>,
    base: OnceLock<Result<SessionState, String>>,
}

impl Queries {
    /// Returns them as `options` say. Threads start with the first query.
    pub(crate) fn new(options: &BrokerOptions) -> Self {
        let slots = options.query_slots.max(1);
        Self {
            slots: Arc::new(Semaphore::new(slots)),
            planners: Arc::new(Semaphore::new(PLANNED_AT_ONCE)),
            threads: slots.max(PARTITIONS),
            pool: ReadPool::new(slots * PARTITIONS),
            limits: options.selector_limits,
            memory_bytes: options.query_memory_bytes,
            runtime: OnceLock::new(),
            base: OnceLock::new(),
        }
    }

    /// Returns the pool on which queries read rows.
    pub(crate) fn pool(&self) -> &ReadPool {
        &self.pool
    }

    /// Returns the limits of selectors.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the runtime of queries.
    pub(crate) fn handle(&self) -> Result<&Handle, EngineError> {
        let start = || QueryRuntime::start(self.threads).ok();
        match self.runtime.get_or_init(start) {
            Some(runtime) => Ok(runtime.handle()),
            None => Err(EngineError::Busy("the threads of queries cannot be started")),
        }
    }

    /// Waits for the right to plan, then does `work`, for `limit` at most.
    ///
    /// Planners do not yield, so `work` has a thread of its own. If it takes longer, or nobody waits for it
    /// any more, it is given up at the next point where it waits; until then it keeps the right to plan, so
    /// that no more of them run than may.
    ///
    /// # Errors
    ///
    /// Those of `work`, and that it takes too long.
    pub(crate) async fn planned<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
    ) -> Result<T, EngineError> {
        let runtime = self.handle()?.clone();
        let turn = acquire(&self.planners).await?;
        let (waiting, given_up) = oneshot::channel::<()>();
        let planning = self.handle()?.spawn_blocking(move || {
            let _turn = turn;
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = given_up => Err(EngineError::Closed),
                    done = work => done,
                }
            })
        });
        let done = timeout(limit, planning).await;
        drop(waiting);
        match done {
            Ok(Ok(done)) => done,
            Ok(Err(error)) if error.is_panic() => Err(EngineError::Internal(
                "the planner of queries panicked; the log of the broker says where".to_owned(),
            )),
            Ok(Err(_)) => Err(EngineError::Closed),
            Err(_) => Err(EngineError::Sql(format!(
                "the statement cannot be planned in {} seconds; make it shorter, or name fewer columns and tables",
                limit.as_secs()
            ))),
        }
    }

    /// Waits for the right to run a query.
    pub(crate) async fn slot(&self) -> Result<OwnedSemaphorePermit, EngineError> {
        acquire(&self.slots).await
    }

    /// A session for one statement: bare names are looked up in `schema`.
    fn session(&self, tables: &Arc<Tables>, schema: &str) -> Result<SessionState, EngineError> {
        let base = self.base.get_or_init(|| base_state(self.memory_bytes).map_err(|error| error.to_string()));
        let base = base.as_ref().map_err(|error| EngineError::Internal(error.clone()))?;
        let config = base.config().clone().with_default_catalog_and_schema(CATALOG, schema);
        let mut state = SessionStateBuilder::new_from_existing(base.clone())
            .with_config(config)
            .with_catalog_list(Arc::new(Catalog(Arc::clone(tables))))
            .build();
        // Functions such as `now` are constants of a run: they need to know when it began.
        state.mark_start_execution();
        Ok(state)
    }
}

impl fmt::Debug for Queries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queries")
            .field("threads", &self.threads)
            .field("memory_bytes", &self.memory_bytes)
            .finish_non_exhaustive()
    }
}

async fn acquire(permits: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, EngineError> {
    match timeout(QUERY_WAIT_MAX, Arc::clone(permits).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) => Err(EngineError::Closed),
        Err(_) => Err(EngineError::Busy("other queries are running")),
    }
}

/// A runtime that may be dropped anywhere, its own threads included.
struct QueryRuntime(Option<Runtime>);

impl QueryRuntime {
    fn start(threads: usize) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .max_blocking_threads(threads * 2 + PARTITIONS + PLANNED_AT_ONCE)
            .thread_stack_size(STACK_BYTES)
            .thread_name("weir-query")
            .enable_time()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it is taken only when dropped").handle()
    }
}

impl Drop for QueryRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// What all sessions have in common.
fn base_state(memory_bytes: usize) -> Result<SessionState, DataFusionError> {
    let mut options = ConfigOptions::new();
    options.sql_parser.enable_ident_normalization = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.time_zone = Some("UTC".to_owned());
    options.execution.enable_recursive_ctes = false;
    options.catalog.create_default_catalog_and_schema = false;
    let config =
        SessionConfig::from(options).with_information_schema(true).with_target_partitions(PARTITIONS);
    let Registry { mut scalar, aggregate, window } = Registry::new();
    let number = Arc::new(NumberOfText::function());
    let operators = Operators { number: Arc::clone(&number), concat: Arc::new(Concat::operator()) };
    scalar.extend([Arc::clone(&number), Arc::new(SelectorMarker::function())]);
    let mut planners: Vec<Arc<dyn ExprPlanner>> = vec![Arc::new(operators)];
    planners.extend(SessionStateDefaults::default_expr_planners());
    // Before types are coerced, because coercion turns text into numbers by a cast that may fail.
    let mut rules = Analyzer::new().rules;
    rules.insert(0, Arc::new(NumbersInText(number)));
    Ok(SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime_env(memory_bytes)?)
        .with_default_features()
        .with_scalar_functions(scalar)
        .with_higher_order_functions(Vec::new())
        .with_aggregate_functions(aggregate)
        .with_window_functions(window)
        .with_expr_planners(planners)
        .with_analyzer_rules(rules)
        .build())
}

fn runtime_env(memory_bytes: usize) -> Result<Arc<RuntimeEnv>, DataFusionError> {
    let no_files = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes)))
        .with_disk_manager_builder(no_files)
        .build_arc()
}

/// A statement that is ready to be optimized and run.
pub(crate) struct Prepared {
    /// The session.
    pub(crate) state: SessionState,
    /// The plan, with values for all parameters.
    pub(crate) plan: LogicalPlan,
    /// The schema of the answer.
    pub(crate) schema: SchemaRef,
    /// The types of the parameters, where their use tells.
    pub(crate) parameters: Vec<Option<DataType>>,
}

impl Broker {
    /// Plans `sql` against `tables`. Without values, parameters are null.
    pub(crate) async fn prepare(
        &self,
        tables: &Arc<Tables>,
        sql: &str,
        schema: &str,
        values: Option<&[ScalarValue]>,
    ) -> Result<Prepared, EngineError> {
        let statement = text::parse(sql)?;
        functions::check(&statement)?;
        let cost = Cost::of(&statement)?;
        let schema = if schema.is_empty() { PUBLIC } else { schema };
        let state = self.reading().queries.session(tables, schema)?;
        look_up(&state, tables, schema, &statement).await?;
        cost.check_columns(|name| columns_of(tables, schema, name))?;
        let marking = Marking { tables, schema, limits: self.reading().queries.limits() };
        let mut plan = plan(&state, marking.marked(&statement, &[])?).await?;
        let parameters = parameter_types(&plan)?;
        if !parameters.is_empty() || values.is_some_and(|values| !values.is_empty()) {
            let values = bound(&parameters, values)?;
            let literals: Vec<Option<ScalarValue>> =
                values.iter().map(|(value, is_given)| is_given.then(|| value.clone())).collect();
            let values: Vec<ScalarValue> = values.into_iter().map(|(value, _)| value).collect();
            plan = self::plan(&state, marking.marked(&statement, &literals)?)
                .await?
                .with_param_values(values)?;
        }
        reads_only().verify_plan(&plan)?;
        plans::check(&plan)?;
        let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
        let schema = result::announced(plan.schema().as_arrow());
        Ok(Prepared { state, plan, schema, parameters })
    }
}

fn reads_only() -> SQLOptions {
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false)
}

async fn plan(state: &SessionState, statement: Statement) -> Result<LogicalPlan, EngineError> {
    Ok(state.statement_to_plan(SqlStatement::Statement(Box::new(statement))).await?)
}

/// Finds selectors in a statement.
struct Marking<'a> {
    tables: &'a Arc<Tables>,
    schema: &'a str,
    limits: &'a Limits,
}

impl Marking<'_> {
    fn marked(
        &self,
        statement: &Statement,
        literals: &[Option<ScalarValue>],
    ) -> Result<Statement, EngineError> {
        let lookup = |parts: &[&str]| -> Option<Arc<dyn Properties>> {
            let (schema, table) = match *parts {
                [table] => (self.schema, table),
                [schema, table] | [CATALOG, schema, table] => (schema, table),
                _ => return None,
            };
            let table = self.tables.known_topic(schema, table)?;
            Some(Arc::clone(table.shape()) as Arc<dyn Properties>)
        };
        let mut marked = statement.clone();
        selectors::mark(&mut marked, &lookup, self.limits, literals);
        functions::check_marked(&marked)?;
        Ok(marked)
    }
}

/// Looks up every table that the statement names, so that all of them are seen at one moment.
async fn look_up(
    state: &SessionState,
    tables: &Arc<Tables>,
    schema: &str,
    statement: &Statement,
) -> Result<(), EngineError> {
    let statement = SqlStatement::Statement(Box::new(statement.clone()));
    for reference in state.resolve_table_references(&statement)? {
        let (schema, name) = match &reference {
            TableReference::Bare { table } => (schema, table.as_ref()),
            TableReference::Partial { schema, table } => (schema.as_ref(), table.as_ref()),
            TableReference::Full { catalog, schema, table } if catalog.as_ref() == CATALOG => {
                (schema.as_ref(), table.as_ref())
            }
            TableReference::Full { catalog, .. } => {
                return Err(EngineError::Sql(format!(
                    "there is no catalog {catalog:?}; the only one is {CATALOG}"
                )));
            }
        };
        if schema != "information_schema" && tables.table(schema, name).await?.is_none() {
            return Err(no_table(tables, schema, name));
        }
    }
    Ok(())
}

/// How many columns a table has that was looked up.
fn columns_of(tables: &Tables, schema: &str, name: &[String]) -> Option<usize> {
    let (schema, table) = match name {
        [table] => (schema, table.as_str()),
        [schema, table] | [_, schema, table] => (schema.as_str(), table.as_str()),
        _ => return None,
    };
    Some(tables.known_topic(schema, table)?.shape().width())
}

/// Returns the error for a table that does not exist.
pub(crate) fn no_table(tables: &Tables, schema: &str, name: &str) -> EngineError {
    let schemas = tables.schemas();
    if !schemas.contains(schema) {
        let schemas: Vec<&str> = schemas.iter().map(String::as_str).collect();
        let near = near(schema, schemas.iter().copied());
        return EngineError::TableNotFound(format!("there is no schema {schema:?}{}", did_you_mean(&near)));
    }
    let names = tables.names(schema);
    let near = near(name, names.iter().map(String::as_str));
    EngineError::TableNotFound(format!("there is no table {schema}.{name}{}", did_you_mean(&near)))
}

/// The types of `$1`, `$2`, …, where their use tells.
fn parameter_types(plan: &LogicalPlan) -> Result<Vec<Option<DataType>>, EngineError> {
    let mut numbered = BTreeMap::new();
    for (name, data_type) in plan.get_parameter_types()? {
        let number: usize = name.trim_start_matches('$').parse().unwrap_or(0);
        numbered.insert(number, data_type);
    }
    let count = numbered.keys().next_back().copied().unwrap_or(0);
    let given: BTreeSet<usize> = numbered.keys().copied().collect();
    if let Some(missing) = (1..=count).find(|number| !given.contains(number)) {
        return Err(EngineError::Sql(format!("${count} is used, but ${missing} is not")));
    }
    Ok(numbered.into_values().collect())
}

/// The value of each parameter, and whether it was given: null if none were.
fn bound(
    parameters: &[Option<DataType>],
    values: Option<&[ScalarValue]>,
) -> Result<Vec<(ScalarValue, bool)>, EngineError> {
    let Some(values) = values else {
        let null = |data_type: &Option<DataType>| {
            Ok((ScalarValue::try_new_null(data_type.as_ref().unwrap_or(&DataType::Utf8))?, false))
        };
        return parameters.iter().map(null).collect();
    };
    if values.len() != parameters.len() {
        return Err(EngineError::Sql(format!(
            "the statement takes {} parameters; {} were given",
            parameters.len(),
            values.len()
        )));
    }
    Ok(parameters
        .iter()
        .zip(values)
        .map(|(wanted, value)| (converted(value, wanted.as_ref()), true))
        .collect())
}

/// `value` in the wanted type, if that loses nothing: 10.5 for an integer stays 10.5.
fn converted(value: &ScalarValue, wanted: Option<&DataType>) -> ScalarValue {
    let plain = simple(value);
    let Some(wanted) = wanted else { return plain };
    match plain.cast_to(wanted) {
        Ok(cast) if cast.cast_to(&plain.data_type()).is_ok_and(|back| back == plain) => cast,
        _ => plain,
    }
}

/// The value with the widest type of its sort, as literals have it.
fn simple(value: &ScalarValue) -> ScalarValue {
    let wide = match value.data_type() {
        data_type if data_type.is_integer() => DataType::Int64,
        DataType::Float16 | DataType::Float32 => DataType::Float64,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        _ => return value.clone(),
    };
    value.cast_to(&wide).unwrap_or_else(|_| value.clone())
}

impl From<DataFusionError> for EngineError {
    fn from(error: DataFusionError) -> Self {
        if let DataFusionError::ResourcesExhausted(_) = error.find_root() {
            return Self::Busy(
                "the query needs more memory than queries may use; narrow it, or ask for less at once",
            );
        }
        match error {
            DataFusionError::External(source) => match source.downcast::<Self>() {
                Ok(error) => *error,
                Err(source) => Self::Sql(shortened(&source.to_string())),
            },
            DataFusionError::Context(_, source) | DataFusionError::Diagnostic(_, source) => {
                Self::from(*source)
            }
            DataFusionError::ArrowError(source, backtrace) => match *source {
                ArrowError::ExternalError(source) => match source.downcast::<Self>() {
                    Ok(error) => *error,
                    Err(source) => Self::Sql(shortened(&source.to_string())),
                },
                source => Self::Sql(shortened(
                    &DataFusionError::ArrowError(Box::new(source), backtrace).to_string(),
                )),
            },
            DataFusionError::Shared(source) => match Arc::try_unwrap(source) {
                Ok(source) => Self::from(source),
                Err(source) => Self::Sql(shortened(&source.strip_backtrace())),
            },
            DataFusionError::SchemaError(fault, backtrace) => match *fault {
                SchemaError::FieldNotFound { field, valid_fields } => no_column(&field, &valid_fields),
                fault => Self::Sql(shortened(
                    &DataFusionError::SchemaError(Box::new(fault), backtrace).strip_backtrace(),
                )),
            },
            error => Self::Sql(shortened(&error.strip_backtrace())),
        }
    }
}

/// Returns the error for a column that does not exist: what may have been meant, then what there is.
fn no_column(field: &Column, valid: &[Column]) -> EngineError {
    /// A topic may have thousands of columns.
    const LISTED_MAX: usize = 20;
    let of_relation = |column: &&Column| field.relation.is_none() || column.relation == field.relation;
    let mut names: Vec<&str> = valid.iter().filter(of_relation).map(Column::name).collect();
    if names.is_empty() {
        names = valid.iter().map(Column::name).collect();
    }
    // Of a join, each side may have the column.
    let mut known = HashSet::new();
    names.retain(|name| known.insert(*name));
    let near = near(&field.name, names.iter().copied());
    let near: Vec<String> = near.iter().map(|name| as_written(name)).collect();
    let listed: Vec<String> = names.iter().take(LISTED_MAX).map(|name| as_written(name)).collect();
    let there_are = match names.len().saturating_sub(LISTED_MAX) {
        _ if names.is_empty() => String::new(),
        0 => format!("columns here are {}", listed.join(", ")),
        more => format!("columns here are {} and {more} more", listed.join(", ")),
    };
    let there_are = match (there_are.as_str(), near.is_empty()) {
        ("", _) => String::new(),
        (columns, true) => format!("; the {columns}"),
        (columns, false) => format!(" The {columns}"),
    };
    let hint = if near.is_empty() { "; strings stand in single quotes" } else { "" };
    let written: String = field.flat_name().chars().take(200).collect();
    EngineError::Sql(shortened(&format!(
        "there is no column {written}{}{there_are}{hint}",
        did_you_mean(&near)
    )))
}

/// A name as SQL text has it: in quotes, unless it is a plain word.
fn as_written(name: &str) -> String {
    let mut chars = name.chars();
    let is_word = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_word { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// Messages of DataFusion may list thousands of columns.
fn shortened(message: &str) -> String {
    const CHARS_MAX: usize = 1000;
    match message.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::limits::SQL_PLAN_TIME_MAX;

    #[tokio::test]
    async fn a_planner_that_does_not_yield_is_given_up_and_keeps_its_turn() {
        let dir = tempfile::tempdir().unwrap();
        let queries = Queries::new(&BrokerOptions::new(dir.path().join("data")));
        let (release, stuck) = mpsc::channel::<()>();
        let stuck = async move {
            let _ = stuck.recv();
            Ok(())
        };
        let error = queries.planned(Duration::from_millis(1), stuck).await.unwrap_err();
        assert!(matches!(error, EngineError::Sql(_)), "{error}");
        assert_eq!(queries.planners.available_permits(), PLANNED_AT_ONCE - 1);
        // Others are planned meanwhile.
        assert_eq!(queries.planned(SQL_PLAN_TIME_MAX, async { Ok(7) }).await.unwrap(), 7);
        drop(release);
        while queries.planners.available_permits() < PLANNED_AT_ONCE {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn planning_ends_when_nobody_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let queries = Queries::new(&BrokerOptions::new(dir.path().join("data")));
        let (started, has_started) = oneshot::channel::<()>();
        let endless = async move {
            let _ = started.send(());
            std::future::pending::<Result<(), EngineError>>().await
        };
        tokio::select! {
            _ = queries.planned(SQL_PLAN_TIME_MAX, endless) => panic!("it never ends"),
            _ = has_started => {}
        }
        while queries.planners.available_permits() < PLANNED_AT_ONCE {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_panic_of_the_planner_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let queries = Queries::new(&BrokerOptions::new(dir.path().join("data")));
        let panics = futures::future::lazy(|_| -> Result<(), EngineError> { panic!("on purpose") });
        let error = queries.planned(SQL_PLAN_TIME_MAX, panics).await.unwrap_err();
        assert!(matches!(error, EngineError::Internal(_)), "{error}");
        assert_eq!(queries.planners.available_permits(), PLANNED_AT_ONCE);
    }
}
