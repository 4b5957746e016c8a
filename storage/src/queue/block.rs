//! A block: up to 8,192 rows of one queue, column by column, in memory or in a file.

use std::{
    fmt,
    ops::{Range, RangeInclusive},
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use arrow_array::{Array, Int64Array, UInt16Array, UInt32Array, UInt64Array};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer};
use weir_columns::{Column, ColumnRef, Kind, Rows, System, Value, Values};

use crate::{
    error::{Fault, StorageError},
    format::{
        block::{BlockHeader, ColumnEntry, Damage, Fixed, Shape},
        record::{RecordView, padded},
    },
    message::{BodyEncoding, StoredMessage},
    offset::{FilePosition, LogPosition, QueueId, QueueOffset, TopicId},
    queue::{builder::narrow, image::Place, young::Young},
    raw::arrays::{Checks, Image, Rest},
    unpack::unpacked,
};

/// The log, as far as consume queues need it: to read what they keep only as hashes.
pub(crate) trait ReadRecords: Send + Sync {
    /// Gives the records of rows that begin at some positions to `visit`, in the order given. Ascending
    /// positions are read fastest.
    fn visit(
        &self,
        positions: &mut dyn Iterator<Item = LogPosition>,
        visit: &mut dyn FnMut(&RecordView<'_>) -> Result<(), Fault>,
    ) -> Result<(), StorageError>;

    /// Gives the records of rows that begin within a range of positions to `visit`, in order, and perhaps some around
    /// them.
    fn scan(
        &self,
        range: RangeInclusive<LogPosition>,
        visit: &mut dyn FnMut(&RecordView<'_>),
    ) -> Result<(), StorageError> {
        let _ = visit;
        Err(StorageError::NoRecord { position: *range.start() })
    }

    /// Asks the system to read records that are not in memory, and does not wait for it.
    fn will_need(&self, positions: &mut dyn Iterator<Item = LogPosition>);

    /// Returns the message whose record begins at `position`.
    fn read(&self, position: LogPosition) -> Result<StoredMessage, StorageError> {
        let mut found = None;
        self.visit(&mut std::iter::once(position), &mut |record| {
            found = Some(record.to_stored()?);
            Ok(())
        })?;
        found.ok_or(StorageError::NoRecord { position })
    }
}

/// No log at all: for consume queues that are built or looked at alone.
#[derive(Debug)]
pub(crate) struct NoLog;

impl ReadRecords for NoLog {
    fn visit(
        &self,
        positions: &mut dyn Iterator<Item = LogPosition>,
        _: &mut dyn FnMut(&RecordView<'_>) -> Result<(), Fault>,
    ) -> Result<(), StorageError> {
        positions.next().map_or(Ok(()), |position| Err(StorageError::NoRecord { position }))
    }

    fn will_need(&self, _: &mut dyn Iterator<Item = LogPosition>) {}
}

/// Up to 8,192 rows of one queue. Row `i` is the offset `base + i`.
///
/// Runs in memory and blocks in files have the same bytes, so that both are read by the same code. Those of a small run
/// are made when somebody asks for them. A column
/// of a file is checked at its first use; a damaged one is an error, and the others stay readable.
pub struct Block {
    place: Place,
    rows: u32,
    /// What its columns are made of, if they are made when somebody asks for one.
    young: Option<Young>,
    image: OnceLock<Image>,
    /// Read and checked at the first use, as all columns: most blocks are judged and never asked for a record.
    positions: OnceLock<Result<UInt64Array, Damage>>,
    store_times: OnceLock<Result<Int64Array, Damage>>,
    lost: Option<BooleanBuffer>,
    rest: OnceLock<Result<Option<Box<Rest>>, Damage>>,
    log: Arc<dyn ReadRecords>,
    source: Option<Source>,
}

/// Where a block lies.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) path: Arc<Path>,
    pub(crate) at: u64,
    /// Set when damage is met, so that the next start builds anew what is damaged.
    pub(crate) is_damaged: Arc<AtomicBool>,
}

impl Source {
    pub(crate) fn corrupt(&self, damage: Damage) -> StorageError {
        if !self.is_damaged.swap(true, Ordering::AcqRel) {
            tracing::error!(path = %self.path.display(), at = self.at, what = damage.what,
                "a file of consume queues is damaged: what is damaged of it is built anew from the log");
        }
        corrupt(&self.path, self.at, damage)
    }
}

/// Returns the error that says which part of which file is wrong.
pub(crate) fn corrupt(path: &Path, start: u64, damage: Damage) -> StorageError {
    StorageError::Corrupt {
        path: path.to_owned(),
        position: FilePosition(start + damage.at as u64),
        fault: Fault::Structure(damage.what),
    }
}

const INCOMPLETE: Damage = Damage::new(0, "the set of fixed columns");

impl Block {
    /// Takes the bytes of a block that this process has built.
    pub(crate) fn built(bytes: Buffer, log: Arc<dyn ReadRecords>) -> Result<Self, StorageError> {
        let in_memory = |damage| corrupt(Path::new("(a run in memory)"), 0, damage);
        let image = Image::built(bytes).map_err(in_memory)?;
        let block = Self::over(image, log, None).map_err(in_memory)?;
        // So that they never fail where only runs are asked.
        block.record_positions().map_err(in_memory)?;
        block.times().map_err(in_memory)?;
        Ok(block)
    }

    /// Takes rows whose columns are made at their first use.
    pub(crate) fn young(young: Young, log: Arc<dyn ReadRecords>) -> Self {
        let positions = young.heads().positions().map(|position| position.0).collect();
        Self {
            place: young.place(),
            rows: young.heads().len() as u32,
            young: Some(young),
            image: OnceLock::new(),
            // Visible ends are found by them.
            positions: OnceLock::from(Ok(positions)),
            store_times: OnceLock::new(),
            lost: None,
            rest: OnceLock::new(),
            log,
            source: None,
        }
    }

    /// Takes the bytes of a block that lie in a file.
    pub(crate) fn open(
        bytes: Buffer,
        checks: &Arc<Checks>,
        first_check: usize,
        log: Arc<dyn ReadRecords>,
        source: Source,
    ) -> Result<Self, StorageError> {
        let image = Image::open(bytes, checks, first_check).map_err(|damage| source.corrupt(damage))?;
        Self::over(image, log, Some(source.clone())).map_err(|damage| source.corrupt(damage))
    }

    fn over(image: Image, log: Arc<dyn ReadRecords>, source: Option<Source>) -> Result<Self, Damage> {
        let lost = match image.find(Some(Fixed::Lost), b"")? {
            Some((number, entry)) => Some(image.bits(number, &entry)?),
            None => None,
        };
        let header = image.header();
        let place = Place {
            topic: header.topic,
            incarnation: header.incarnation,
            queue: header.queue,
            base: header.base,
        };
        let (rows, image) = (header.rows, OnceLock::from(image));
        let (positions, store_times, rest) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Ok(Self { place, rows, young: None, image, positions, store_times, lost, rest, log, source })
    }

    /// Returns the offset of the first row.
    pub fn base(&self) -> QueueOffset {
        self.place.base
    }

    /// Returns how many rows there are; at least one.
    #[expect(clippy::len_without_is_empty, reason = "a block is never empty")]
    pub fn len(&self) -> usize {
        self.rows as usize
    }

    /// Returns the offsets of the rows.
    pub fn range(&self) -> Range<QueueOffset> {
        self.base()..self.base().plus(u64::from(self.rows))
    }

    /// Returns the topic.
    pub fn topic(&self) -> TopicId {
        self.place.topic
    }

    /// Returns the queue.
    pub fn queue(&self) -> QueueId {
        self.place.queue
    }

    /// Returns the position of each row's record. They never fall; a lost row has its successor's.
    ///
    /// # Errors
    ///
    /// If the column is damaged; never in a run.
    pub fn positions(&self) -> Result<&UInt64Array, StorageError> {
        self.record_positions().map_err(|damage| self.damaged(damage))
    }

    pub(crate) fn record_positions(&self) -> Result<&UInt64Array, Damage> {
        let read = || {
            let (number, entry) = self.image().find(Some(Fixed::Position), b"")?.ok_or(INCOMPLETE)?;
            self.image().longs(number, &entry)
        };
        self.positions.get_or_init(read).as_ref().map_err(|damage| *damage)
    }

    /// Returns when each row was stored; milliseconds since 1970, UTC. Null where the row is lost.
    ///
    /// # Errors
    ///
    /// If the column is damaged; never in a run.
    pub fn store_times(&self) -> Result<&Int64Array, StorageError> {
        self.times().map_err(|damage| self.damaged(damage))
    }

    pub(crate) fn times(&self) -> Result<&Int64Array, Damage> {
        let read = || {
            if let Some(young) = &self.young {
                return Ok(young.heads().records().map(|record| record.store_time_ms).collect());
            }
            let (number, entry) = self.image().find(Some(Fixed::StoreTime), b"")?.ok_or(INCOMPLETE)?;
            match self.image().column(number, &entry)? {
                Column::Int(times) => Ok(times),
                _ => Err(INCOMPLETE),
            }
        };
        self.store_times.get_or_init(read).as_ref().map_err(|damage| *damage)
    }

    /// Returns the rows whose record is lost, if there are any. They never match.
    pub fn lost(&self) -> Option<&BooleanBuffer> {
        self.lost.as_ref()
    }

    /// Returns the length of each row's record in the log, without padding.
    ///
    /// # Errors
    ///
    /// If the column is damaged.
    pub fn record_sizes(&self) -> Result<UInt32Array, StorageError> {
        self.words(Fixed::Size).map_err(|damage| self.damaged(damage))
    }

    /// Returns the length of each row's body as its producer sent it, in bytes: what reading it takes, however short
    /// its record is because the broker compressed it. 0 for a lost row.
    ///
    /// # Errors
    ///
    /// If the column is damaged.
    pub fn body_sizes(&self) -> Result<UInt32Array, StorageError> {
        self.words(Fixed::BodySize).map_err(|damage| self.damaged(damage))
    }

    /// Returns what the records of all rows take in the log, in bytes.
    pub fn record_bytes(&self) -> u64 {
        self.young.as_ref().map_or_else(|| self.header().record_bytes, Young::record_bytes)
    }

    /// Returns what the record of each row takes in the log, in bytes; 0 for a lost row.
    ///
    /// # Errors
    ///
    /// If the column is damaged.
    pub fn record_bytes_of_rows(&self) -> Result<impl Iterator<Item = u64>, StorageError> {
        let sizes = self.record_sizes()?;
        Ok((0..sizes.len()).map(move |row| padded(u64::from(sizes.value(row)))))
    }

    /// Returns the message of a row, read from the log.
    ///
    /// # Errors
    ///
    /// If the record cannot be read, or is lost.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub fn message(&self, row: usize) -> Result<StoredMessage, StorageError> {
        self.log.read(LogPosition(self.positions()?.value(row)))
    }

    /// Gives the records of some rows to `visit`, in the order given, without copying them out of the log.
    /// Ascending rows are read fastest: neighbours at once.
    ///
    /// # Errors
    ///
    /// If a record cannot be read, or is lost, or `visit` finds a fault in it. Those before it have been visited.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub fn visit_records(
        &self,
        rows: impl IntoIterator<Item = usize>,
        mut visit: impl FnMut(&RecordView<'_>) -> Result<(), Fault>,
    ) -> Result<(), StorageError> {
        let positions = self.positions()?;
        let mut positions = rows.into_iter().map(|row| LogPosition(positions.value(row)));
        self.log.visit(&mut positions, &mut visit)
    }

    /// Asks the system to read the records of some rows as far as they are not in memory, and does not wait for it.
    /// It may wait for the positions of the records. A row that is not there is passed over.
    pub fn will_need_records(&self, rows: impl IntoIterator<Item = usize>) {
        // If they cannot be read, neither can the records, and who reads them is told.
        let Ok(positions) = self.positions() else { return };
        let positions = rows.into_iter().filter_map(|row| positions.values().get(row).copied());
        self.log.will_need(&mut positions.map(LogPosition));
    }

    /// Asks the system to read columns that may not be in memory, and does not wait for it; and the positions of
    /// records if rows are likely to match.
    pub fn will_need<'a>(&self, columns: impl IntoIterator<Item = ColumnRef<'a>>, positions: bool) {
        if !self.is_from_file() {
            return;
        }
        for column in columns {
            let fixed = match column {
                ColumnRef::Property(name) => {
                    if !self.image().will_need(None, name.as_bytes()) {
                        self.image().will_need(Some(Fixed::Rest), b"");
                    }
                    continue;
                }
                ColumnRef::System(System::StoreTime) => Fixed::StoreTime,
                ColumnRef::System(System::BornTime) => Fixed::BornTime,
                ColumnRef::System(System::Tag) => Fixed::Tag,
                ColumnRef::System(System::Keys) => Fixed::Keys,
                ColumnRef::System(System::MessageId) => Fixed::MessageId,
                ColumnRef::System(System::MessageType) => Fixed::MessageType,
                ColumnRef::System(System::MessageGroup) => Fixed::MessageGroup,
                ColumnRef::System(System::BodySize) => Fixed::BodySize,
                ColumnRef::System(System::QueueId | System::QueueOffset) => continue,
            };
            self.image().will_need(Some(fixed), b"");
        }
        if positions {
            self.image().will_need(Some(Fixed::Position), b"");
        }
    }

    /// Returns the names of all properties that some row has, each once.
    pub fn property_names(&self) -> impl Iterator<Item = &str> {
        let columns = (0..self.header().columns as usize).filter_map(|number| {
            let entry = self.image().entry(number).ok().filter(|entry| entry.fixed.is_none())?;
            str::from_utf8(self.image().name_of(&entry)?).ok()
        });
        let rest = self.rest().ok().flatten();
        columns.chain(rest.into_iter().flat_map(|rest| rest.names.iter().flatten()))
    }

    pub(crate) const fn place(&self) -> Place {
        self.place
    }

    /// Returns where the record of the first row begins.
    pub(crate) fn first_position(&self) -> LogPosition {
        self.young
            .as_ref()
            .and_then(|young| young.heads().positions().next())
            .unwrap_or_else(|| self.header().first_position)
    }

    /// Returns where the record of the last row begins.
    pub(crate) fn last_position(&self) -> LogPosition {
        self.young
            .as_ref()
            .and_then(|young| young.heads().positions().last())
            .unwrap_or_else(|| self.header().last_position)
    }

    /// Returns what its columns are made of, if they are made at their first use.
    pub(crate) const fn as_young(&self) -> Option<&Young> {
        self.young.as_ref()
    }

    /// Whether its columns are made, so that they cost no more.
    pub(crate) fn has_columns(&self) -> bool {
        self.image.get().is_some()
    }

    /// Returns about how many bytes of memory or of a file it takes, which stays the same: without the columns that are
    /// made at their first use.
    pub(crate) fn weight(&self) -> usize {
        self.young.as_ref().map_or_else(|| self.bytes().len(), Young::memory)
    }

    pub(crate) fn header(&self) -> &BlockHeader {
        self.image().header()
    }

    pub(crate) fn bytes(&self) -> &Buffer {
        self.image().bytes()
    }

    pub(crate) fn is_from_file(&self) -> bool {
        self.source.is_some()
    }

    pub(crate) fn image(&self) -> &Image {
        self.image.get_or_init(|| {
            self.young.as_ref().map(Young::build).expect("a block has its columns, or what they are made of")
        })
    }

    /// Returns all columns: fixed ones first, then properties by name. Those in the rest are not among them.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Result<(usize, ColumnEntry), Damage>> {
        (0..self.header().columns as usize).map(|number| Ok((number, self.image().entry(number)?)))
    }

    /// Takes every column once, so that its checksum and structure are checked.
    pub(crate) fn check_columns(&self) -> Result<(), Damage> {
        for column in self.entries() {
            let (number, column) = column?;
            match column.shape {
                Shape::Long => self.image().longs(number, &column).map(|_| ()),
                Shape::Word => self.image().words(number, &column).map(|_| ()),
                Shape::Bits => self.image().bits(number, &column).map(|_| ()),
                Shape::Rest => self.image().rest(number, &column).map(|_| ()),
                _ => self.image().column(number, &column).map(|_| ()),
            }?;
        }
        Ok(())
    }

    pub(crate) fn damaged(&self, damage: Damage) -> StorageError {
        match &self.source {
            Some(source) => source.corrupt(damage),
            None => corrupt(Path::new("(a run in memory)"), 0, damage),
        }
    }

    pub(crate) fn words(&self, fixed: Fixed) -> Result<UInt32Array, Damage> {
        if let Some(young) = &self.young {
            let sizes = young.heads().records().map(|record| match fixed {
                Fixed::BodySize => record.body_len,
                _ => record.size,
            });
            return Ok(sizes.collect());
        }
        let found = self.image().find(Some(fixed), b"")?;
        let (number, entry) = found.ok_or(Damage::new(0, "the set of fixed columns"))?;
        self.image().words(number, &entry)
    }

    pub(crate) fn body_positions(&self) -> Result<Option<UInt64Array>, Damage> {
        match self.image().find(Some(Fixed::BodyPosition), b"")? {
            Some((number, entry)) => Ok(Some(self.image().longs(number, &entry)?)),
            None => Ok(None),
        }
    }

    pub(crate) fn rest(&self) -> Result<Option<&Rest>, Damage> {
        let open = || match self.image().find(Some(Fixed::Rest), b"")? {
            Some((number, entry)) => Ok(Some(Box::new(self.image().rest(number, &entry)?))),
            None => Ok(None),
        };
        self.rest.get_or_init(open).as_ref().map(Option::as_deref).map_err(|damage| *damage)
    }

    pub(crate) fn stored(&self, fixed: Option<Fixed>, name: &str) -> Result<Option<Column>, Damage> {
        match self.image().find(fixed, name.as_bytes())? {
            Some((number, entry)) => self.image().column(number, &entry).map(Some),
            None => Ok(None),
        }
    }

    fn find(&self, name: ColumnRef<'_>) -> Result<Option<Column>, Damage> {
        let system = match name {
            ColumnRef::Property(name) => return self.property(name),
            ColumnRef::System(system) => system,
        };
        match system {
            System::StoreTime => Ok(Some(Column::Int(self.times()?.clone()))),
            System::BornTime => self.stored(Some(Fixed::BornTime), ""),
            System::Tag => self.stored(Some(Fixed::Tag), ""),
            System::Keys => self.stored(Some(Fixed::Keys), ""),
            System::MessageId => self.stored(Some(Fixed::MessageId), ""),
            System::MessageType => self.stored(Some(Fixed::MessageType), ""),
            System::MessageGroup => self.stored(Some(Fixed::MessageGroup), ""),
            System::QueueId => {
                let queue = i64::from(self.queue().0);
                Ok(Some(Column::Int(Int64Array::from_value(queue, self.len()))))
            }
            System::QueueOffset => {
                let base = self.base().0.cast_signed();
                Ok(Some(Column::Int((0..self.len() as i64).map(|row| base.wrapping_add(row)).collect())))
            }
            System::BodySize => {
                let sizes = self.words(Fixed::BodySize)?;
                let sizes = sizes.values().iter().map(|size| i64::from(*size)).collect();
                let known = self.lost.as_ref().map(|lost| NullBuffer::new(!lost));
                Ok(Some(Column::Int(Int64Array::new(sizes, known))))
            }
        }
    }

    fn property(&self, name: &str) -> Result<Option<Column>, Damage> {
        if let Some(column) = self.stored(None, name)? {
            return Ok(Some(column));
        }
        let Some(rest) = self.rest()? else {
            return Ok(None);
        };
        Ok(find_name(rest, name).map(|number| rest_column(rest, number)))
    }

    fn is_lost(&self, row: usize) -> bool {
        self.lost.as_ref().is_some_and(|lost| lost.value(row))
    }

    fn logged(&self, system: System, row: usize) -> Result<Option<Value>, StorageError> {
        let fixed = if system == System::Keys { Fixed::Keys } else { Fixed::MessageId };
        let stored = self.stored(Some(fixed), "").map_err(|damage| self.damaged(damage))?;
        let Some(Column::Hashed { row_ends, .. }) = stored else {
            return Ok(None);
        };
        let start = if row == 0 { 0 } else { row_ends.value(row - 1) };
        if start == row_ends.value(row) {
            return Ok(None);
        }
        let message = self.log.read(LogPosition(self.positions()?.value(row)))?.message;
        let text = if system == System::Keys { message.keys.join(" ") } else { message.message_id };
        Ok(Some(Value::Str(text)))
    }
}

fn find_name(rest: &Rest, name: &str) -> Option<usize> {
    let (mut low, mut high) = (0, rest.names.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        match rest.names.value(middle).cmp(name) {
            std::cmp::Ordering::Equal => return Some(middle),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    None
}

/// Returns the column of one name in the rest: its entries lie together.
fn rest_column(rest: &Rest, number: usize) -> Column {
    let entries = rest.entries(number);
    let (start, len) = (entries.start, entries.len());
    let values = Values {
        kinds: rest.values.kinds.slice(start, len),
        text: rest.values.text.slice(start, len),
        ints: rest.values.ints.as_ref().map(|ints| ints.slice(start, len)),
        floats: rest.values.floats.as_ref().map(|floats| floats.slice(start, len)),
    };
    Column::Sparse {
        rows: rest.rows.slice(start, len),
        codes: UInt16Array::from_iter_values((0..len).map(|code| code as u16)),
        values: Arc::new(values),
    }
}

/// Returns one of the values, with the type that its producer gave it.
pub(crate) fn value_of(values: &Values, index: usize) -> Value {
    let text = || values.text.value(index).to_owned();
    let int = || values.ints.as_ref().map_or(0, |ints| ints.value(index));
    let float = || values.floats.as_ref().map_or(0.0, |floats| floats.value(index));
    match values.kind(index) {
        Kind::Text | Kind::Odd | Kind::Int | Kind::Float => Value::Text(text()),
        Kind::Str => Value::Str(text()),
        Kind::Bool => Value::Bool(values.text.value(index) == "true"),
        Kind::I32 => Value::I32(int() as i32),
        Kind::I64 => Value::I64(int()),
        Kind::F32 => Value::F32(narrow(float())),
        Kind::F64 => Value::F64(float()),
    }
}

/// Returns the value of one row, or `None` if it has none. `is_property` tells canonical integers of
/// producers, which are text, from integers of the system.
fn value_at(column: &Column, row: usize, is_property: bool) -> Option<Value> {
    match column {
        Column::Dictionary { codes, values } => {
            codes.is_valid(row).then(|| value_of(values, codes.value(row).into()))
        }
        Column::Sparse { rows, codes, values } => {
            let entry = rows.values().binary_search(&u16::try_from(row).ok()?).ok()?;
            Some(value_of(values, codes.value(entry).into()))
        }
        Column::Plain { values, present } => {
            present.as_ref().is_none_or(|present| present.is_valid(row)).then(|| value_of(values, row))
        }
        Column::Int(ints) => ints.is_valid(row).then(|| {
            let int = ints.value(row);
            if is_property { Value::Text(int.to_string()) } else { Value::I64(int) }
        }),
        Column::Hashed { .. } => None,
    }
}

impl Rows for Block {
    type Error = StorageError;

    fn len(&self) -> usize {
        Self::len(self)
    }

    fn shape(&self) -> u64 {
        self.header().shape
    }

    fn column(&self, name: ColumnRef<'_>) -> Result<Option<Column>, StorageError> {
        self.find(name).map_err(|damage| self.damaged(damage))
    }

    fn value(&self, name: ColumnRef<'_>, row: usize) -> Result<Option<Value>, StorageError> {
        if row >= Self::len(self) || self.is_lost(row) {
            return Ok(None);
        }
        if let ColumnRef::System(system @ (System::Keys | System::MessageId)) = name {
            return self.logged(system, row);
        }
        let column = self.column(name)?;
        Ok(column.and_then(|column| value_at(&column, row, matches!(name, ColumnRef::Property(_)))))
    }

    fn will_read(&self, columns: &mut dyn Iterator<Item = ColumnRef<'_>>) {
        self.will_need(columns, false);
    }

    fn bodies(
        &self,
        rows: &mut dyn Iterator<Item = usize>,
        bytes_max: usize,
        visit: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<(), StorageError> {
        let rows: Vec<usize> = rows.filter(|row| *row < Self::len(self) && !self.is_lost(*row)).collect();
        let positions = self.positions()?;
        let mut positions = rows.iter().map(|row| LogPosition(positions.value(*row)));
        let mut next = rows.iter();
        self.log.visit(&mut positions, &mut |record| {
            let Some(row) = next.next() else { return Ok(()) };
            match record.body_encoding {
                // What is too long is not decompressed.
                BodyEncoding::Identity if record.body_len as usize > bytes_max => visit(*row, None),
                BodyEncoding::Identity => visit(*row, Some(&record.body()?)),
                BodyEncoding::Gzip => visit(*row, unpacked(&record.body()?, bytes_max).as_deref()),
            }
            Ok(())
        })
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("topic", &self.topic())
            .field("queue", &self.queue())
            .field("range", &self.range())
            .finish_non_exhaustive()
    }
}
