//! The catalog that queries are planned against, with the snapshot that one query sees.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use datafusion::{
    catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider},
    common::{DataFusionError, Result},
    logical_expr::TableType,
};
use parking_lot::Mutex;
use weir_filter::Limits;
use weir_storage::{Epoch, QueueId, QueueOffset, QueueView};

use super::{
    messages::{Pinned, Shape, TopicTable, external},
    system::SystemTable,
};
use crate::{
    broker::Broker,
    error::EngineError,
    name::TopicName,
    pull::check_range,
    reads::ReadPool,
    schema::{ColumnType, TableColumn},
    topic::TopicDescription,
};

/// The one catalog.
pub(crate) const CATALOG: &str = "weir";
/// The schema of topics without a namespace.
pub(crate) const PUBLIC: &str = "public";
/// The schema of tables about the broker.
pub(crate) const SYSTEM: &str = "weir";
/// What follows a topic's name to name it as a pull shows it. No topic's name holds a `$`.
pub(crate) const RAW_SUFFIX: &str = "$raw";

/// Returns the namespace whose topics are in `schema`.
pub(crate) fn namespace_of(schema: &str) -> &str {
    if schema == PUBLIC { "" } else { schema }
}

/// Returns the schema that holds the topics of `namespace`.
pub(crate) fn schema_of(namespace: &str) -> &str {
    if namespace.is_empty() { PUBLIC } else { namespace }
}

/// A topic at one moment: its rows and columns, fixed.
#[derive(Clone, Debug)]
pub(crate) struct TopicSnapshot {
    /// First offset and end of each queue.
    pub(crate) queues: BTreeMap<u32, (u64, u64)>,
    /// Its properties; `None` if only its native shape was asked for.
    pub(crate) properties: Option<Vec<(String, ColumnType)>>,
    /// The epoch in which the rows were fixed.
    pub(crate) epoch: Epoch,
}

/// A table that was looked up.
#[derive(Clone, Debug)]
pub(crate) enum Table {
    /// Of a topic.
    Topic(Arc<TopicTable>),
    /// Of the broker.
    System(Arc<SystemTable>),
}

impl Table {
    fn provider(&self) -> Arc<dyn TableProvider> {
        match self {
            Self::Topic(table) => Arc::clone(table) as Arc<dyn TableProvider>,
            Self::System(table) => Arc::clone(table) as Arc<dyn TableProvider>,
        }
    }
}

/// The tables of one query. Each topic is looked at once, so that a query sees it in one state.
#[derive(Debug)]
pub(crate) struct Tables {
    broker: Broker,
    pool: ReadPool,
    limits: Limits,
    known: Mutex<HashMap<(String, String), Table>>,
    snapshots: Mutex<BTreeMap<u32, TopicSnapshot>>,
    /// What NOW is in selectors: when the query began; milliseconds since 1970, UTC.
    now_ms: i64,
}

impl Tables {
    /// Returns the tables as `snapshots` fixes them; other topics are seen as they are now.
    pub(crate) fn new(
        broker: Broker,
        pool: ReadPool,
        limits: Limits,
        snapshots: BTreeMap<u32, TopicSnapshot>,
    ) -> Arc<Self> {
        let snapshots = Mutex::new(snapshots);
        let now_ms = broker.clock().wall_ms();
        Arc::new(Self { broker, pool, limits, known: Mutex::default(), snapshots, now_ms })
    }

    /// Returns how the topics that were looked up are seen, by id.
    pub(crate) fn snapshots(&self) -> BTreeMap<u32, TopicSnapshot> {
        self.snapshots.lock().clone()
    }

    /// Returns the table of a topic that was looked up before.
    pub(crate) fn known_topic(&self, schema: &str, name: &str) -> Option<Arc<TopicTable>> {
        match self.known.lock().get(&(schema.to_owned(), name.to_owned())) {
            Some(Table::Topic(table)) => Some(Arc::clone(table)),
            _ => None,
        }
    }

    /// Returns the names of all schemas.
    pub(crate) fn schemas(&self) -> BTreeSet<String> {
        let namespaces = self.broker.topics().into_iter();
        let mut schemas: BTreeSet<String> =
            namespaces.map(|topic| schema_of(topic.name.namespace()).to_owned()).collect();
        schemas.extend([PUBLIC.to_owned(), SYSTEM.to_owned()]);
        schemas
    }

    /// Returns the names of all tables in a schema.
    pub(crate) fn names(&self, schema: &str) -> Vec<String> {
        if schema == SYSTEM {
            return SystemTable::names().map(str::to_owned).collect();
        }
        let topics = self.broker.topics().into_iter();
        let here = topics.filter(|topic| topic.name.namespace() == namespace_of(schema));
        here.flat_map(|topic| {
            let name = topic.name.name().to_owned();
            let raw = format!("{name}{RAW_SUFFIX}");
            [name, raw]
        })
        .collect()
    }

    /// Returns a table, or `None` if there is no such one.
    ///
    /// # Errors
    ///
    /// If the topic cannot be read, or the rows of its snapshot are no longer retained.
    pub(crate) async fn table(&self, schema: &str, name: &str) -> Result<Option<Table>, EngineError> {
        let key = (schema.to_owned(), name.to_owned());
        if let Some(known) = self.known.lock().get(&key) {
            return Ok(Some(known.clone()));
        }
        let table = if schema == SYSTEM {
            SystemTable::named(name, &self.broker).map(|table| Table::System(Arc::new(table)))
        } else {
            self.topic_table(schema, name).await?.map(|table| Table::Topic(Arc::new(table)))
        };
        if let Some(table) = &table {
            self.known.lock().insert(key, table.clone());
        }
        Ok(table)
    }

    async fn topic_table(&self, schema: &str, name: &str) -> Result<Option<TopicTable>, EngineError> {
        let (topic, is_raw) = match name.strip_suffix(RAW_SUFFIX) {
            Some(topic) => (topic, true),
            None => (name, false),
        };
        let Ok(topic) = TopicName::new(namespace_of(schema), topic) else { return Ok(None) };
        let topic = match self.broker.topic(&topic) {
            Ok(topic) => topic,
            Err(EngineError::TopicNotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let views = self.views(&topic)?;
        let snapshot = self.snapshot(&topic, &views, is_raw).await?;
        let pinned = self.pinned(views, &snapshot).await?;
        let (columns, kind) = if is_raw {
            (TableColumn::native(), TableType::View)
        } else {
            (TableColumn::table(snapshot.properties.as_deref().unwrap_or_default()), TableType::Base)
        };
        let shape = Arc::new(Shape::new(format!("{schema}.{name}"), columns));
        Ok(Some(TopicTable::new(shape, pinned, self.pool.clone(), self.limits, kind, self.now_ms)))
    }

    fn views(&self, topic: &TopicDescription) -> Result<Vec<(QueueId, QueueView)>, EngineError> {
        let queues = topic.queues.iter();
        queues.map(|queue| Ok((queue.queue, self.broker.queue_view(topic.id, queue.queue)?))).collect()
    }

    /// How the query sees a topic. Looks for its properties unless they are known or not needed.
    async fn snapshot(
        &self,
        topic: &TopicDescription,
        views: &[(QueueId, QueueView)],
        is_raw: bool,
    ) -> Result<TopicSnapshot, EngineError> {
        let fixed = self.snapshots.lock().get(&topic.id.0).cloned();
        if let Some(snapshot) = &fixed
            && (is_raw || snapshot.properties.is_some())
        {
            return Ok(snapshot.clone());
        }
        let properties = if is_raw {
            None
        } else {
            let (broker, id, views) = (self.broker.clone(), topic.id, views.to_vec());
            Some(self.pool.run(move || broker.property_types(id, &views)).await??)
        };
        let mut snapshot = fixed.unwrap_or_else(|| TopicSnapshot {
            queues: views
                .iter()
                .map(|(queue, view)| (queue.0, (view.range().start.0, view.range().end.0)))
                .collect(),
            properties: None,
            epoch: self.broker.info().epoch,
        });
        snapshot.properties = properties;
        self.snapshots.lock().insert(topic.id.0, snapshot.clone());
        Ok(snapshot)
    }

    /// The queues of a snapshot, checked to be still what they were.
    async fn pinned(
        &self,
        views: Vec<(QueueId, QueueView)>,
        snapshot: &TopicSnapshot,
    ) -> Result<Vec<Pinned>, EngineError> {
        let pinned: Vec<Pinned> = views
            .into_iter()
            .filter_map(|(queue, view)| {
                let (start, end) = snapshot.queues.get(&queue.0)?;
                Some(Pinned { queue, view, range: QueueOffset(*start)..QueueOffset(*end) })
            })
            .collect();
        let epoch = snapshot.epoch;
        self.pool
            .run(move || {
                for queue in &pinned {
                    check_range(&queue.view, queue.queue, &queue.range, epoch)?;
                }
                Ok(pinned)
            })
            .await?
    }
}

/// [`Tables`] as DataFusion asks for it.
#[derive(Clone, Debug)]
pub(crate) struct Catalog(pub(crate) Arc<Tables>);

impl CatalogProviderList for Catalog {
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| Arc::new(self.clone()) as Arc<dyn CatalogProvider>)
    }
}

impl CatalogProvider for Catalog {
    fn schema_names(&self) -> Vec<String> {
        self.0.schemas().into_iter().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let exists = self.0.schemas().contains(name);
        exists.then(|| {
            Arc::new(Schema { tables: Arc::clone(&self.0), name: name.to_owned() }) as Arc<dyn SchemaProvider>
        })
    }
}

#[derive(Debug)]
struct Schema {
    tables: Arc<Tables>,
    name: String,
}

#[async_trait]
impl SchemaProvider for Schema {
    fn table_names(&self) -> Vec<String> {
        self.tables.names(&self.name)
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let table = self.tables.table(&self.name, name).await.map_err(external)?;
        Ok(table.map(|table| table.provider()))
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        if !self.table_exist(name) {
            return Ok(None);
        }
        let is_raw = self.name != SYSTEM && name.ends_with(RAW_SUFFIX);
        Ok(Some(if is_raw { TableType::View } else { TableType::Base }))
    }

    fn table_exist(&self, name: &str) -> bool {
        if self.name == SYSTEM {
            return SystemTable::names().any(|known| known == name);
        }
        let topic = name.strip_suffix(RAW_SUFFIX).unwrap_or(name);
        TopicName::new(namespace_of(&self.name), topic)
            .is_ok_and(|topic| self.tables.broker.topic(&topic).is_ok())
    }
}
