//! (Tests only) messages at random, and the plainest thing that can be said about them.

use std::{collections::BTreeSet, sync::Arc};

use arrow_array::Array;
use bytes::Bytes;
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use weir_columns::{Column, ColumnRef, Kind, KindSet, Presence, Rows, System, Value, Values, hash32};

use crate::{
    error::{Fault, StorageError},
    format::record::{RecordPlace, RecordView, encode_message},
    message::{Message, MessageType},
    offset::{Epoch, LogPosition, QueueId, QueueOffset, TopicId},
    queue::{
        block::{Block, ReadRecords, value_of},
        segment::Segment,
        view::{Part, QueueView},
    },
};

/// A log in memory: the bytes of its records, and where each begins.
#[derive(Debug, Default)]
pub(crate) struct ModelLog {
    inner: Mutex<Vec<(LogPosition, Vec<u8>)>>,
}

impl ModelLog {
    /// Appends a record.
    pub(crate) fn append(&self, topic: u32, queue: u32, offset: u64, message: &Message) -> LogPosition {
        let mut records = self.inner.lock();
        let position = end_of(&records);
        let place = RecordPlace {
            position,
            epoch: Epoch(1),
            topic: TopicId(topic),
            incarnation: 3,
            queue: QueueId(queue),
            offset: QueueOffset(offset),
            store_time_ms: store_time(offset),
        };
        let mut bytes = Vec::new();
        encode_message(&mut bytes, &place, message, None);
        records.push((position, bytes));
        position
    }

    /// Returns the end of the log.
    pub(crate) fn end(&self) -> LogPosition {
        end_of(&self.inner.lock())
    }

    /// Returns where the record of a row begins, or the end of the log. All records are of one queue.
    pub(crate) fn position_of(&self, row: u64) -> LogPosition {
        let records = self.inner.lock();
        records.get(row as usize).map_or_else(|| end_of(&records), |(position, _)| *position)
    }

    /// Calls `take` with the records from `position` on, in their order.
    pub(crate) fn from<T>(
        &self,
        position: LogPosition,
        take: impl FnOnce(&mut dyn Iterator<Item = RecordView<'_>>) -> T,
    ) -> T {
        let records = self.inner.lock();
        let start = records.partition_point(|(at, _)| *at < position);
        take(&mut records[start..].iter().map(|(at, bytes)| RecordView::decode(bytes, *at).unwrap()))
    }
}

fn end_of(records: &[(LogPosition, Vec<u8>)]) -> LogPosition {
    LogPosition(records.last().map_or(64, |(position, bytes)| position.0 + bytes.len() as u64))
}

impl ReadRecords for ModelLog {
    fn visit(
        &self,
        positions: &mut dyn Iterator<Item = LogPosition>,
        visit: &mut dyn FnMut(&RecordView<'_>) -> Result<(), Fault>,
    ) -> Result<(), StorageError> {
        let records = self.inner.lock();
        for position in positions {
            let found = records.binary_search_by_key(&position, |(at, _)| *at);
            let number = found.map_err(|_| StorageError::NoRecord { position })?;
            visit(&RecordView::decode(&records[number].1, position).unwrap()).unwrap();
        }
        Ok(())
    }

    fn will_need(&self, _: &mut dyn Iterator<Item = LogPosition>) {}
}

pub(crate) fn store_time(offset: u64) -> i64 {
    1_700_000_000_000 + offset as i64 / 3
}

/// How one property is filled.
#[derive(Clone, Copy, Debug)]
enum Style {
    Constant,
    FewTexts,
    Unique,
    FewInts,
    ManyInts,
    Numbers,
    Typed,
    Odd,
    Everything,
}

/// A maker of messages.
#[derive(Debug)]
pub(crate) struct Messages {
    random: StdRng,
    columns: Vec<(String, Style, f64)>,
    many_names: Option<usize>,
}

impl Messages {
    /// Returns a maker whose messages have some properties, at times from over a thousand names.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let styles = [
            Style::Constant,
            Style::FewTexts,
            Style::Unique,
            Style::FewInts,
            Style::ManyInts,
            Style::Numbers,
            Style::Typed,
            Style::Odd,
            Style::Everything,
        ];
        let count = random.random_range(0..12);
        let columns = (0..count)
            .map(|number| {
                let name = match number {
                    0 => String::new(),
                    1 => "größe ✓".to_owned(),
                    2 => "sys.tag".to_owned(),
                    _ => format!("p{number}"),
                };
                let share = *[1.0, 1.0, 0.9, 0.5, 0.2, 0.01].choose(&mut random).unwrap();
                (name, *styles.choose(&mut random).unwrap(), share)
            })
            .collect();
        let many_names = random.random_bool(0.15).then_some(1500);
        Self { random, columns, many_names }
    }

    /// Returns the next message.
    pub(crate) fn next_message(&mut self) -> Message {
        let mut properties: Vec<(String, Value)> = Vec::new();
        for (name, style, share) in self.columns.clone() {
            if self.random.random_bool(share) {
                let value = self.value(style);
                properties.push((name, value));
            }
        }
        if let Some(names) = self.many_names {
            let first = self.random.random_range(0..names);
            for name in first..first + 3 {
                let value = self.value(Style::Everything);
                properties.push((format!("many{name}"), value));
            }
        }
        if self.random.random_bool(0.1) {
            properties.reverse();
        }
        let random = &mut self.random;
        let text = |random: &mut StdRng| format!("t{}", random.random_range(0..5));
        Message {
            message_id: if random.random_bool(0.9) {
                format!("{:032x}", random.random::<u128>())
            } else {
                String::new()
            },
            tag: random.random_bool(0.7).then(|| text(random)),
            keys: (0..random.random_range(0..4))
                .map(|_| ["k", "k 2", "", " "][random.random_range(0..4)].to_owned())
                .collect(),
            properties,
            body: Bytes::from(vec![1; random.random_range(0..20)]),
            message_type: *[MessageType::Normal, MessageType::Fifo, MessageType::Lite]
                .choose(random)
                .unwrap(),
            born_time_ms: random.random_bool(0.8).then(|| random.random_range(-5..5)),
            message_group: random.random_bool(0.3).then(|| text(random)),
            lite_topic: random.random_bool(0.1).then(|| text(random)),
            ..Message::default()
        }
    }

    fn value(&mut self, style: Style) -> Value {
        let random = &mut self.random;
        match style {
            Style::Constant => Value::Text("EU".to_owned()),
            Style::FewTexts => Value::Text(["", "a", "b", "ü✓"][random.random_range(0..4)].to_owned()),
            Style::Unique => Value::Text(format!("user-{:016x}", random.random::<u64>())),
            Style::FewInts => Value::Text(random.random_range(-3..3).to_string()),
            Style::ManyInts => Value::Text(random.random::<i64>().to_string()),
            Style::Numbers => Value::Text(
                ["1.5", "-2e3", "7", "0", "9223372036854775807", "1e-300"][random.random_range(0..6)]
                    .to_owned(),
            ),
            Style::Typed => match random.random_range(0..6) {
                0 => Value::Str(["", "5", "x"][random.random_range(0..3)].to_owned()),
                1 => Value::Bool(random.random()),
                2 => Value::I32(random.random_range(-2..2)),
                3 => Value::I64([i64::MIN, i64::MAX, 5][random.random_range(0..3)]),
                4 => Value::F32(f32::from_bits(
                    [0x7fc0_0000, 0xffa0_0001, 0x7f80_0001, 0x7f80_0000, 0x3dcc_cccd, 0x8000_0000]
                        [random.random_range(0..6)],
                )),
                _ => Value::F64(f64::from_bits(
                    [
                        0x7ff8_0000_0000_0000,
                        0xfff0_0000_0000_0001,
                        0xfff0_0000_0000_0000,
                        0x3ff8_0000_0000_0000,
                        1 << 63,
                        0,
                    ][random.random_range(0..6)],
                )),
            },
            Style::Odd => Value::Text(
                ["05", "+5", " 5", "NaN", "0x10", "5d", "5"][random.random_range(0..7)].to_owned(),
            ),
            Style::Everything => {
                let styles = [
                    Style::FewTexts,
                    Style::Unique,
                    Style::FewInts,
                    Style::Numbers,
                    Style::Typed,
                    Style::Odd,
                ];
                let style = styles[random.random_range(0..styles.len())];
                self.value(style)
            }
        }
    }
}

/// The rows of a queue as they should be: `None` is lost.
#[derive(Debug, Default)]
pub(crate) struct ModelQueue {
    pub(crate) rows: Vec<Option<Message>>,
}

impl ModelQueue {
    /// Checks every cell of a view whose visible end is `end`.
    pub(crate) fn check(&self, view: &QueueView, start: u64, end: u64) {
        assert_eq!(view.range(), QueueOffset(start)..QueueOffset(end));
        let mut next = None;
        let segments = view.segments().iter().flat_map(|segment| {
            self.check_statistics(segment);
            (0..segment.blocks()).map(|number| {
                let block = segment.block(number).unwrap();
                assert_eq!(segment.block_range(number), block.range());
                assert!(
                    block
                        .store_times()
                        .unwrap()
                        .values()
                        .iter()
                        .all(|time| segment.block_times(number).contains(time))
                );
                block
            })
        });
        for block in segments.chain(view.runs().iter().cloned()) {
            assert_eq!(block.base(), next.unwrap_or(block.base()), "blocks follow each other");
            next = Some(block.range().end);
            self.check_block(&block);
        }
        if start < end {
            assert!(next.is_some_and(|next| next >= QueueOffset(end)), "rows up to {end} are here: {next:?}");
        }
        for offset in (start..end).step_by(7) {
            match view.part_at(QueueOffset(offset)).unwrap() {
                Part::Segment(segment, block) => {
                    assert!(segment.block_range(block).contains(&QueueOffset(offset)));
                }
                Part::Run(run) => assert!(run.range().contains(&QueueOffset(offset))),
            }
        }
        assert!(view.part_at(QueueOffset(end)).is_none());
    }

    fn row(&self, block: &Block, row: usize) -> Option<&Message> {
        self.rows[block.base().0 as usize + row].as_ref()
    }

    pub(crate) fn check_block(&self, block: &Block) {
        let len = block.len();
        assert!(block.positions().unwrap().values().is_sorted());
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for row in 0..len {
            let message = self.row(block, row);
            assert_eq!(block.lost().is_some_and(|lost| lost.value(row)), message.is_none());
            names.extend(
                message.iter().flat_map(|message| message.properties.iter().map(|(name, _)| name.as_str())),
            );
        }
        let found: Vec<&str> = block.property_names().collect();
        assert_eq!(found.iter().copied().collect::<BTreeSet<_>>(), names);
        assert_eq!(found.len(), names.len(), "each name once");
        for name in names {
            let column = block.column(ColumnRef::Property(name)).unwrap().unwrap();
            check_column(&column, len, true, |row| {
                let properties = &self.row(block, row)?.properties;
                properties.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
            });
        }
        assert!(block.column(ColumnRef::Property("no such")).unwrap().is_none());
        for system in System::ALL {
            let expected = |row| self.system(block, row, system);
            match block.column(ColumnRef::System(system)).unwrap() {
                Some(Column::Hashed { row_ends, hashes }) => {
                    for row in 0..len {
                        let start = if row == 0 { 0 } else { row_ends.value(row - 1) };
                        let found = &hashes.values()[start as usize..row_ends.value(row) as usize];
                        let expected = expected(row).map_or(Vec::new(), |value| {
                            value.to_text().split(' ').map(|part| hash32(part.as_bytes())).collect()
                        });
                        assert_eq!(found, expected, "{system:?} of row {row}");
                    }
                }
                Some(column) => check_column(&column, len, false, expected),
                None => assert!((0..len).all(|row| expected(row).is_none()), "{system:?}"),
            }
        }
        // Rows are read one by one, too; a few of them suffice.
        for row in (0..len).step_by(len / 5 + 1) {
            let message = self.row(block, row);
            for (name, value) in message.iter().flat_map(|message| &message.properties) {
                assert_eq!(block.value(ColumnRef::Property(name), row).unwrap().as_ref(), Some(value));
            }
            for system in System::ALL.into_iter().filter(|_| message.is_some()) {
                assert_eq!(
                    block.value(ColumnRef::System(system), row).unwrap(),
                    self.system(block, row, system)
                );
            }
        }
    }

    fn system(&self, block: &Block, row: usize, system: System) -> Option<Value> {
        let offset = block.base().0 + row as u64;
        match system {
            System::QueueId => return Some(Value::I64(block.queue().0.into())),
            System::QueueOffset => return Some(Value::I64(offset as i64)),
            _ => {}
        }
        let message = self.row(block, row)?;
        let text = |text: &String| Value::Str(text.clone());
        match system {
            System::StoreTime => Some(Value::I64(store_time(offset))),
            System::BornTime => message.born_time_ms.map(Value::I64),
            System::Tag => message.tag.as_ref().map(text),
            System::Keys => (!message.keys.is_empty()).then(|| Value::Str(message.keys.join(" "))),
            System::MessageId => (!message.message_id.is_empty()).then(|| text(&message.message_id)),
            System::MessageType => Some(Value::Str(message.message_type.name().to_owned())),
            System::MessageGroup => {
                let is_lite = message.message_type == MessageType::Lite;
                let lite_topic = message.lite_topic.as_ref().filter(|_| is_lite);
                message.message_group.as_ref().or(lite_topic).map(text)
            }
            System::BodySize => Some(Value::I64(message.body.len() as i64)),
            System::QueueId | System::QueueOffset => None,
        }
    }

    /// Checks that the statistics enclose every value, and that nothing is absent that is there.
    pub(crate) fn check_statistics(&self, segment: &Segment) {
        let statistics = segment.statistics();
        assert_eq!(statistics.blocks(), segment.blocks());
        assert!(matches!(
            statistics.column(ColumnRef::Property("no such")),
            Presence::Absent | Presence::Unknown
        ));
        for number in 0..segment.blocks() {
            let block = segment.block(number).unwrap();
            assert_eq!(statistics.rows(number), block.len());
            let names: Vec<String> = block.property_names().map(str::to_owned).collect();
            let properties = names.iter().map(|name| ColumnRef::Property(name));
            for name in properties.chain(System::ALL.map(ColumnRef::System)) {
                let kept = match statistics.column(name) {
                    Presence::Kept(kept) => kept,
                    Presence::Unknown => continue,
                    Presence::Absent => {
                        assert!(block.column(name).unwrap().is_none(), "{name} is said to be absent");
                        continue;
                    }
                };
                assert_eq!(kept.missing.len(), segment.blocks());
                let values: Vec<Option<Value>> = match name {
                    // Their values lie in the log, and nothing but their number is kept.
                    ColumnRef::System(System::Keys | System::MessageId) => continue,
                    ColumnRef::System(
                        System::StoreTime
                        | System::BodySize
                        | System::BornTime
                        | System::QueueId
                        | System::QueueOffset,
                    ) => {
                        let Some(Column::Int(ints)) = block.column(name).unwrap() else { continue };
                        for int in ints.iter().flatten() {
                            assert!(
                                kept.int_min.value(number) <= int && int <= kept.int_max.value(number),
                                "{name}"
                            );
                        }
                        continue;
                    }
                    _ => (0..block.len()).map(|row| self.cell(&block, row, name)).collect(),
                };
                if kept.missing.is_valid(number) {
                    assert_eq!(
                        kept.missing.value(number) as usize,
                        values.iter().filter(|value| value.is_none()).count()
                    );
                }
                check_bounds(&kept, number, values.iter().flatten());
            }
        }
    }

    fn cell(&self, block: &Block, row: usize, name: ColumnRef<'_>) -> Option<Value> {
        match name {
            ColumnRef::System(system) => self.system(block, row, system),
            ColumnRef::Property(name) => {
                let properties = &self.row(block, row)?.properties;
                properties.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
            }
        }
    }
}

fn check_bounds<'a>(
    kept: &weir_columns::ColumnStatistics,
    block: usize,
    values: impl Iterator<Item = &'a Value>,
) {
    let (mut kinds, mut distinct) = (KindSet::default(), BTreeSet::new());
    for value in values {
        let (text, kind) = (value.to_text(), value.kind());
        kinds = kinds.with(kind);
        distinct.insert(format!("{} {value:?}", kind.is_untyped()));
        assert!(kept.may_contain(block, &text), "{text:?} is in the filter");
        assert!(!kept.text_min.is_valid(block) || kept.text_min.value(block) <= text.as_bytes());
        assert!(!kept.text_max.is_valid(block) || kept.text_max.value(block) >= text.as_bytes());
        let int = match value {
            Value::I32(int) => Some(i64::from(*int)),
            Value::I64(int) => Some(*int),
            Value::Text(text) => weir_columns::classify(text).1,
            _ => None,
        };
        if let Some(int) = int {
            assert!(kept.int_min.value(block) <= int && int <= kept.int_max.value(block));
        }
        let float = match value {
            Value::F32(float) => Some(f64::from(*float)),
            Value::F64(float) => Some(*float),
            Value::Text(text) => weir_columns::classify(text).2,
            _ => None,
        };
        if let Some(float) = float.filter(|float| !float.is_nan()) {
            assert!(kept.float_min.value(block) <= float && float <= kept.float_max.value(block));
        }
    }
    assert!(kept.kinds_of(block).is_none_or(|kept| kept == kinds));
    if kept.distinct.is_valid(block) && !distinct.iter().any(|text| text.contains("NaN")) {
        assert_eq!(kept.distinct.value(block) as usize, distinct.len());
    }
}

/// Checks all that the docs of [`Column`] promise, and every cell.
fn check_column(column: &Column, rows: usize, is_property: bool, expected: impl Fn(usize) -> Option<Value>) {
    let cell: Box<dyn Fn(usize) -> Option<Value> + '_> = match column {
        Column::Dictionary { codes, values } => {
            check_values(values, 0..values.len());
            assert_eq!(codes.len(), rows);
            Box::new(|row| codes.is_valid(row).then(|| value_of(values, codes.value(row).into())))
        }
        Column::Sparse { rows: present, codes, values } => {
            check_values(values, 0..values.len());
            assert_eq!(present.len(), codes.len());
            Box::new(|row| {
                let entry = present.values().binary_search(&(row as u16)).ok()?;
                Some(value_of(values, codes.value(entry).into()))
            })
        }
        Column::Plain { values, present } => {
            check_values(values, 0..values.len());
            assert_eq!(values.len(), rows);
            Box::new(move |row| {
                present.as_ref().is_none_or(|present| present.is_valid(row)).then(|| value_of(values, row))
            })
        }
        Column::Int(ints) => {
            assert_eq!(ints.len(), rows);
            Box::new(move |row| {
                ints.is_valid(row).then(|| match is_property {
                    true => Value::Text(ints.value(row).to_string()),
                    false => Value::I64(ints.value(row)),
                })
            })
        }
        Column::Hashed { .. } => panic!("hashes have no values"),
    };
    for row in 0..rows {
        assert_eq!(cell(row), expected(row), "row {row} of {column:?}");
    }
}

fn check_values(values: &Values, used: std::ops::Range<usize>) {
    for index in used {
        let kind: Kind = values.kind(index);
        assert_eq!(values.ints.as_ref().is_some_and(|ints| ints.is_valid(index)), kind.has_int());
        assert_eq!(values.floats.as_ref().is_some_and(|floats| floats.is_valid(index)), kind.has_float());
        assert_eq!(values.text.value(index), value_of(values, index).to_text());
        assert_eq!(value_of(values, index).kind(), kind);
    }
}

pub(crate) fn as_log(log: &Arc<ModelLog>) -> Arc<dyn ReadRecords> {
    Arc::clone(log) as Arc<dyn ReadRecords>
}
