//! Plain values as rows, in every shape that a column can have.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arrow_array::{Int64Array, UInt16Array, UInt32Array};
use arrow_buffer::NullBuffer;
use weir_columns::{Column, ColumnRef, Kind, Rows, System, Value, hash32};

use crate::{made, tree::ColumnName};

/// One row: what its producer and the broker set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The properties by name.
    pub properties: HashMap<String, Value>,
    /// The system values.
    pub system: HashMap<System, Value>,
    /// The body.
    pub body: Option<Vec<u8>>,
}

impl Row {
    /// Returns a value, or `None` if it is missing.
    pub fn value(&self, name: ColumnRef<'_>) -> Option<&Value> {
        match name {
            ColumnRef::Property(name) => self.properties.get(name),
            ColumnRef::System(system) => self.system.get(&system),
        }
    }

    fn names(&self) -> impl Iterator<Item = ColumnRef<'_>> {
        let properties = self.properties.keys().map(|name| ColumnRef::Property(name));
        properties.chain(self.system.keys().map(|system| ColumnRef::System(*system)))
    }
}

impl<N: Into<String>> FromIterator<(N, Value)> for Row {
    fn from_iter<I: IntoIterator<Item = (N, Value)>>(properties: I) -> Self {
        let properties = properties.into_iter().map(|(name, value)| (name.into(), value)).collect();
        Self { properties, ..Self::default() }
    }
}

/// The shape in which a column is presented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Shape {
    /// [`Column::Dictionary`].
    #[default]
    Dictionary,
    /// [`Column::Sparse`].
    Sparse,
    /// [`Column::Plain`].
    Plain,
    /// [`Column::Int`], if all values are canonical integers (of a property) or `I64` (of the system).
    Int,
    /// [`Column::Hashed`], if all values are strings.
    Hashed,
}

impl Shape {
    /// All shapes.
    pub const ALL: [Self; 5] = [Self::Dictionary, Self::Sparse, Self::Plain, Self::Int, Self::Hashed];
}

/// Rows made of plain values.
///
/// Columns are dictionaries unless [`with_shape`](Self::with_shape) says otherwise.
#[derive(Debug, Default)]
pub struct VecRows {
    rows: Vec<Row>,
    shapes: HashMap<ColumnName, Shape>,
    values_read: AtomicUsize,
    bodies_read: AtomicUsize,
}

impl VecRows {
    /// Returns these rows.
    pub fn new(rows: Vec<Row>) -> Self {
        Self { rows, ..Self::default() }
    }

    /// Presents a column in another shape; as a dictionary if its values do not fit the shape.
    #[must_use]
    pub fn with_shape(mut self, name: ColumnRef<'_>, shape: Shape) -> Self {
        self.shapes.insert(ColumnName::from(name), shape);
        self
    }

    /// Returns the rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Returns how often single values have been read.
    pub fn values_read(&self) -> usize {
        self.values_read.load(Ordering::Relaxed)
    }

    /// Returns how many bodies have been read.
    pub fn bodies_read(&self) -> usize {
        self.bodies_read.load(Ordering::Relaxed)
    }

    /// The names of all columns that some row has.
    pub(super) fn names(&self) -> Vec<ColumnName> {
        let names: BTreeMap<ColumnRef<'_>, ()> =
            self.rows.iter().flat_map(Row::names).map(|name| (name, ())).collect();
        names.into_keys().map(ColumnName::from).collect()
    }

    pub(super) fn values(&self, name: ColumnRef<'_>) -> Vec<Option<&Value>> {
        self.rows.iter().map(|row| row.value(name)).collect()
    }

    fn int(&self, name: ColumnRef<'_>, values: &[Option<&Value>]) -> Option<Column> {
        let of_system = matches!(name, ColumnRef::System(_));
        let int = |value: &Value| match value {
            Value::I64(value) if of_system => Some(*value),
            Value::Text(text) if !of_system && value.kind() == Kind::Int => text.parse().ok(),
            _ => None,
        };
        let mut ints = Vec::with_capacity(values.len());
        for value in values {
            ints.push(match value {
                None => None,
                Some(value) => Some(int(value)?),
            });
        }
        Some(Column::Int(Int64Array::from(ints)))
    }
}

impl Rows for VecRows {
    type Error = Infallible;

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn shape(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for name in self.names() {
            let shape = self.shapes.get(&name).copied().unwrap_or_default();
            (name, shape).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn column(&self, name: ColumnRef<'_>) -> Result<Option<Column>, Infallible> {
        let values = self.values(name);
        if values.iter().all(Option::is_none) {
            return Ok(None);
        }
        let shape = self.shapes.get(&ColumnName::from(name)).copied().unwrap_or_default();
        let column = match shape {
            Shape::Dictionary => None,
            Shape::Sparse => Some(sparse(&values)),
            Shape::Plain => Some(plain(&values)),
            Shape::Int => self.int(name, &values),
            Shape::Hashed => hashed(&values),
        };
        Ok(Some(column.unwrap_or_else(|| dictionary(&values))))
    }

    fn value(&self, name: ColumnRef<'_>, row: usize) -> Result<Option<Value>, Infallible> {
        self.values_read.fetch_add(1, Ordering::Relaxed);
        Ok(self.rows[row].value(name).cloned())
    }

    fn bodies(
        &self,
        rows: &mut dyn Iterator<Item = usize>,
        bytes_max: usize,
        visit: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<(), Infallible> {
        for row in rows {
            self.bodies_read.fetch_add(1, Ordering::Relaxed);
            visit(row, self.rows[row].body.as_deref().filter(|body| body.len() <= bytes_max));
        }
        Ok(())
    }
}

/// The distinct values in order of appearance, and the code of each value.
fn codes<'v>(values: &[Option<&'v Value>]) -> (Vec<&'v Value>, Vec<Option<u16>>) {
    let mut distinct: Vec<&Value> = Vec::new();
    let mut known: HashMap<String, u16> = HashMap::new();
    let mut code = |value: &'v Value| {
        let identity = format!("{:?} {}", value.kind(), value.to_text());
        *known.entry(identity).or_insert_with(|| {
            distinct.push(value);
            u16::try_from(distinct.len() - 1).expect("there are at most 65,536 rows")
        })
    };
    let codes = values.iter().map(|value| value.map(&mut code)).collect();
    (distinct, codes)
}

fn dictionary(values: &[Option<&Value>]) -> Column {
    let (distinct, codes) = codes(values);
    let nulls = NullBuffer::from_iter(codes.iter().map(Option::is_some));
    // Under a null any code may lie.
    let codes: Vec<u16> = codes.into_iter().map(|code| code.unwrap_or(u16::MAX)).collect();
    let nulls = (nulls.null_count() > 0).then_some(nulls);
    Column::Dictionary {
        codes: UInt16Array::new(codes.into(), nulls),
        values: Arc::new(made::distinct(distinct.into_iter())),
    }
}

fn sparse(values: &[Option<&Value>]) -> Column {
    let (distinct, codes) = codes(values);
    let present: Vec<(u16, u16)> = (0..)
        .zip(codes)
        .filter_map(|(row, code): (usize, _)| Some((u16::try_from(row).ok()?, code?)))
        .collect();
    Column::Sparse {
        rows: present.iter().map(|(row, _)| *row).collect::<Vec<_>>().into(),
        codes: present.iter().map(|(_, code)| *code).collect::<Vec<_>>().into(),
        values: Arc::new(made::distinct(distinct.into_iter())),
    }
}

fn plain(values: &[Option<&Value>]) -> Column {
    let filler = Value::Text("7".to_owned());
    let nulls = NullBuffer::from_iter(values.iter().map(Option::is_some));
    let values: Vec<&Value> = values.iter().map(|value| value.unwrap_or(&filler)).collect();
    Column::Plain {
        values: Arc::new(made::distinct(values.into_iter())),
        present: (nulls.null_count() > 0).then_some(nulls),
    }
}

fn hashed(values: &[Option<&Value>]) -> Option<Column> {
    let (mut row_ends, mut hashes) = (Vec::new(), Vec::new());
    for value in values {
        match value {
            None => {}
            Some(Value::Text(text) | Value::Str(text)) => {
                hashes.extend(text.split(' ').map(|part| hash32(part.as_bytes())));
            }
            Some(_) => return None,
        }
        row_ends.push(u32::try_from(hashes.len()).ok()?);
    }
    Some(Column::Hashed { row_ends: UInt32Array::from(row_ends), hashes: UInt32Array::from(hashes) })
}
