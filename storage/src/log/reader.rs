//! Reads records by position: from the buffers that were written last, from maps of sealed segments, and with
//! `pread` from the active one, whose bytes still change.

use std::{collections::VecDeque, ops::RangeInclusive, sync::Arc};

use bytes::Bytes;
use parking_lot::RwLock;

use crate::{
    error::{Fault, StorageError},
    format::record::{RecordView, peek_len, records_of},
    log::{
        fences::Fences,
        segment::{FrameLogShared, SegmentFile},
        walk::{Window, for_each_piece},
    },
    offset::LogPosition,
    raw::map::will_need,
};

/// Most records are no longer than this, so that one read gets them.
const READ_MIN: usize = 4 << 10;
/// Records that lie close together are read in pieces of up to this size.
const READ_MAX: usize = 256 << 10;

/// Frames that were written last, in order.
#[derive(Debug)]
pub(crate) struct RecentFrames {
    frames: RwLock<Recent>,
    bytes_max: u64,
}

#[derive(Debug, Default)]
struct Recent {
    frames: VecDeque<(LogPosition, Bytes)>,
    bytes: u64,
}

impl RecentFrames {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { frames: RwLock::default(), bytes_max }
    }

    pub(crate) fn push(&self, position: LogPosition, frame: Bytes) {
        let mut recent = self.frames.write();
        recent.bytes += frame.len() as u64;
        recent.frames.push_back((position, frame));
        while recent.bytes > self.bytes_max {
            let Some((_, oldest)) = recent.frames.pop_front() else {
                break;
            };
            recent.bytes -= oldest.len() as u64;
        }
    }

    /// Returns the frame that holds a position, and where it begins.
    fn at(&self, position: LogPosition) -> Option<(LogPosition, Bytes)> {
        let recent = self.frames.read();
        let after = recent.frames.partition_point(|(start, _)| *start <= position);
        let (start, frame) = recent.frames.get(after.checked_sub(1)?)?;
        (position.0 - start.0 < frame.len() as u64).then(|| (*start, frame.clone()))
    }
}

/// Reads records of the log by position.
#[derive(Debug)]
pub(crate) struct LogReader {
    pub(crate) shared: Arc<FrameLogShared>,
    pub(crate) recent: RecentFrames,
    /// Damaged ranges.
    pub(crate) fences: Fences,
}

impl LogReader {
    /// Reads the rows' records at some positions, in the order given, and verifies their checksums. Ascending
    /// positions that lie close together are read at once.
    pub(crate) fn visit(
        &self,
        positions: &mut dyn Iterator<Item = LogPosition>,
        visit: &mut dyn FnMut(&RecordView<'_>) -> Result<(), Fault>,
    ) -> Result<(), StorageError> {
        let mut stretch = Stretch::None;
        for position in positions {
            if !stretch.holds(position) {
                stretch = self.stretch_at(position, stretch)?;
            }
            stretch.read_ahead(position);
            loop {
                let fault = match stretch.record(position) {
                    Ok(record) => match visit(&record) {
                        Ok(()) => break,
                        Err(fault) => return Err(stretch.damaged(position, fault)),
                    },
                    Err(fault) => fault,
                };
                // The piece that was read may end within the record.
                if !matches!(fault, Fault::Truncated) || !stretch.read_on(position)? {
                    return Err(stretch.damaged(position, fault));
                }
            }
        }
        Ok(())
    }

    /// Gives the records that begin within a range of positions to `visit`, in order, and some around them: whole frames
    /// are read. What has been unlinked or compacted away of the range is passed over.
    pub(crate) fn scan(
        &self,
        range: RangeInclusive<LogPosition>,
        visit: &mut dyn FnMut(&RecordView<'_>),
    ) -> Result<(), StorageError> {
        let (first, last) = (*range.start(), *range.end());
        let no_record = || StorageError::NoRecord { position: first };
        let goes_on = |segment: &Arc<SegmentFile>| segment.sealed_end().is_none_or(|end| end > first);
        let segment = self.shared.segments.all().into_iter().find(goes_on).ok_or_else(no_record)?;
        let first = first.max(segment.base());
        let mut start = first;
        if segment.tail().is_none() {
            // Frames are found from the beginning of their segment on.
            let mut window = Window::new(&segment);
            start = segment.base();
            while let Some(end) = self.frame_end(&mut window, start)?.filter(|end| *end <= first) {
                start = end;
            }
        }
        for_each_piece(&self.shared.segments, &self.fences, start..LogPosition(last.0 + 1), &mut |piece| {
            for record in records_of(piece.bytes, piece.position) {
                let record = record.map_err(|(position, fault)| {
                    let segment = self.shared.segments.at(position);
                    let path = segment.as_ref().map_or(self.shared.dir(), |segment| &segment.path);
                    let at = segment.as_ref().map_or(0, |segment| segment.file_position(position).0);
                    StorageError::corrupt(path, at)(fault)
                })?;
                if record.kind.is_row() {
                    visit(&record);
                }
            }
            Ok(())
        })
    }

    /// Returns where the frame at a position ends, or the fence; nothing if neither begins there.
    fn frame_end(
        &self,
        window: &mut Window<'_>,
        position: LogPosition,
    ) -> Result<Option<LogPosition>, StorageError> {
        if let Some(fence) = self.fences.at(position) {
            return Ok(Some(fence.end));
        }
        Ok(window.header(position)?.ok().map(|header| header.end()))
    }

    /// Asks the system to read records of sealed segments that are not in memory, and does not wait for it. What
    /// was written last is in memory anyway.
    pub(crate) fn will_need(&self, positions: impl IntoIterator<Item = LogPosition>) {
        let mut asked = LogPosition(0)..LogPosition(0);
        for position in positions {
            if asked.contains(&position) || self.fences.at(position).is_some() {
                continue;
            }
            let Some(segment) = self.shared.segments.at(position) else { continue };
            let Some(bytes) = segment.mapped(position) else { continue };
            will_need(&bytes[..bytes.len().min(READ_MIN)]);
            asked = position..LogPosition(position.0 + READ_MIN as u64);
        }
    }

    /// Finds the bytes at a position. `before` are those that were used last.
    fn stretch_at(&self, position: LogPosition, before: Stretch) -> Result<Stretch, StorageError> {
        if let Some((start, bytes)) = self.recent.at(position) {
            return Ok(Stretch::Frame { start, bytes });
        }
        if self.fences.at(position).is_some() {
            return Err(StorageError::Lost { position });
        }
        let Some(segment) = self.shared.segments.at(position) else {
            return Err(StorageError::NoRecord { position });
        };
        let end = segment.sealed_end().unwrap_or_else(|| self.shared.tip().written);
        if position >= end {
            return Err(StorageError::NoRecord { position });
        }
        let Some(run) = segment.run_at(position)? else {
            return Err(StorageError::NoRecord { position });
        };
        let end = end.min(run.range.end);
        // Behind a fence the next stretch begins.
        let end = self.fences.next(position).unwrap_or(end).min(end);
        if segment.mapped(position).is_some() {
            return Ok(Stretch::Map { segment, end, from: position, ahead: position, len: 0 });
        }
        let (len, bytes) = match before {
            Stretch::Piece(piece) if piece.is_close_before(position) => {
                ((piece.len * 2).min(READ_MAX), piece.bytes)
            }
            _ => (READ_MIN, Vec::new()),
        };
        let mut piece = Piece { segment, start: position, end, len, bytes };
        piece.read(position)?;
        Ok(Stretch::Piece(piece))
    }
}

/// Bytes of the log in which more than one record may lie.
enum Stretch {
    None,
    /// A frame that was written last.
    Frame {
        start: LogPosition,
        bytes: Bytes,
    },
    /// A sealed segment, from a position up to the next fence.
    Map {
        segment: Arc<SegmentFile>,
        from: LogPosition,
        end: LogPosition,
        /// Up to here the system has been asked to read what is not in memory, `len` bytes the last time.
        ahead: LogPosition,
        len: usize,
    },
    /// Bytes of the active segment, or of one that cannot be mapped.
    Piece(Piece),
}

struct Piece {
    segment: Arc<SegmentFile>,
    start: LogPosition,
    /// Everything below had been written when the bytes were read.
    end: LogPosition,
    /// How many bytes are read at once.
    len: usize,
    bytes: Vec<u8>,
}

impl Piece {
    fn is_close_before(&self, position: LogPosition) -> bool {
        (self.start.0..=self.start.0 + (self.bytes.len() + READ_MIN) as u64).contains(&position.0)
    }

    fn read(&mut self, position: LogPosition) -> Result<(), StorageError> {
        let written = usize::try_from(self.end.0 - position.0).unwrap_or(usize::MAX);
        self.start = position;
        self.bytes.resize(self.len.min(written), 0);
        let read = self.segment.read_some(&mut self.bytes, position)?;
        self.bytes.truncate(read);
        Ok(())
    }
}

impl Stretch {
    fn holds(&self, position: LogPosition) -> bool {
        let within = |start: LogPosition, len: usize| (start.0..start.0 + len as u64).contains(&position.0);
        match self {
            Self::None => false,
            Self::Frame { start, bytes } => within(*start, bytes.len()),
            Self::Map { from, end, .. } => (*from..*end).contains(&position),
            Self::Piece(piece) => within(piece.start, piece.bytes.len()),
        }
    }

    /// Has the system read what is not in memory of a map, from a position on: some bytes for a record that lies
    /// alone, more and more while they lie close together.
    fn read_ahead(&mut self, position: LogPosition) {
        let Self::Map { segment, ahead, len, .. } = self else { return };
        if position < *ahead {
            return;
        }
        let is_close = *len > 0 && position.0 - ahead.0 < READ_MIN as u64;
        *len = if is_close { (*len * 2).min(READ_MAX) } else { 2 * READ_MIN };
        *ahead = LogPosition(position.0 + *len as u64);
        // The last record may go on behind it.
        let bytes = segment.mapped(position).unwrap_or_default();
        will_need(&bytes[..bytes.len().min(*len + READ_MIN)]);
    }

    /// Decodes the record of a row at a position that this stretch [holds](Self::holds).
    fn record(&self, position: LogPosition) -> Result<RecordView<'_>, Fault> {
        let from = |start: LogPosition, bytes| bytes_from(bytes, position.0 - start.0);
        let bytes = match self {
            Self::None => &[][..],
            Self::Frame { start, bytes } => from(*start, bytes),
            Self::Map { segment, .. } => segment.mapped(position).unwrap_or_default(),
            Self::Piece(piece) => from(piece.start, &piece.bytes),
        };
        let record = RecordView::decode(bytes, position)?;
        if record.kind.is_row() { Ok(record) } else { Err(Fault::Structure("the kind of the record")) }
    }

    /// Reads a record that is not whole in this piece, from its start; false if that gave no more bytes.
    fn read_on(&mut self, position: LogPosition) -> Result<bool, StorageError> {
        let Self::Piece(piece) = self else { return Ok(false) };
        let held = bytes_from(&piece.bytes, position.0 - piece.start.0);
        let (had, len) = (held.len(), peek_len(held).unwrap_or(READ_MIN));
        let usual = piece.len;
        piece.len = usual.max(len);
        let read = piece.read(position);
        piece.len = usual;
        read?;
        Ok(piece.bytes.len() > had)
    }

    fn damaged(&self, position: LogPosition, fault: Fault) -> StorageError {
        let segment = match self {
            // These bytes are as they were written: no row begins here.
            Self::None | Self::Frame { .. } => return StorageError::NoRecord { position },
            Self::Map { segment, .. } => segment,
            Self::Piece(piece) => &piece.segment,
        };
        StorageError::corrupt(&segment.path, segment.file_position(position).0)(fault)
    }
}

fn bytes_from(bytes: &[u8], at: u64) -> &[u8] {
    usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        thread,
        time::Duration,
    };

    use crate::{
        Append, Block, Events, Message, NewTopic, QueueId, QueueOffset, Storage, StorageError,
        StorageOptions, TopicId,
    };

    struct Silent;

    impl Events for Silent {
        fn visible(&self, _: TopicId, _: QueueId, _: QueueOffset) {}
        fn failed(&self, error: &StorageError) {
            panic!("{error}");
        }
    }

    /// Small ones, and some that are longer than a piece.
    fn body(offset: u64) -> Vec<u8> {
        let len = if offset % 97 == 96 { 600_000 } else { 10 + offset % 3000 };
        vec![offset as u8; len as usize]
    }

    fn blocks(storage: &Storage, topic: TopicId) -> Vec<Arc<Block>> {
        let view = storage.view(topic, QueueId(0)).unwrap();
        let sealed = view.segments().iter().flat_map(|segment| {
            (0..segment.blocks()).map(|number| segment.block(number).unwrap()).collect::<Vec<_>>()
        });
        sealed.chain(view.runs().iter().cloned()).collect()
    }

    #[test]
    fn records_are_the_same_however_many_are_read_at_once() {
        const MESSAGES: u64 = 1500;
        let dir = tempfile::tempdir().unwrap();
        let options = StorageOptions { recent_bytes_max: 300_000, ..StorageOptions::small() };
        let storage = Storage::open(dir.path(), options, Arc::new(Silent)).unwrap();
        let topic = storage.create_topic(NewTopic { name: "t".into(), queues: 1, ..NewTopic::default() });
        let topic = topic.unwrap().id;
        for first in (0..MESSAGES).step_by(50) {
            let (sender, receiver) = mpsc::channel();
            let message = |offset| Message { body: body(offset).into(), ..Message::default() };
            let batch = (first..first + 50)
                .map(|offset| Append { topic, queue: QueueId(0), message: message(offset) })
                .collect();
            storage.append(batch, Box::new(move |result| sender.send(result).unwrap()));
            receiver.recv().unwrap().unwrap();
        }
        while storage.view(topic, QueueId(0)).unwrap().range().end.0 < MESSAGES {
            thread::sleep(Duration::from_millis(1));
        }
        let ends = storage.ends();
        assert!(ends.written.0 > 8 << 20, "several segments are sealed, one is active");
        for step in [1, 2, 40, 200] {
            let mut seen = Vec::new();
            for block in blocks(&storage, topic) {
                let rows = (0..block.len()).step_by(step);
                let base = block.base().0;
                let expected: Vec<u64> = rows.clone().map(|row| base + row as u64).collect();
                let mut visited = Vec::new();
                block
                    .visit_records(rows, |record| {
                        assert!(*record.body()? == body(record.offset.0), "{}", record.offset);
                        visited.push(record.offset.0);
                        Ok(())
                    })
                    .unwrap();
                assert_eq!(visited, expected);
                seen.extend(visited);
            }
            assert!(seen.len() as u64 >= MESSAGES / step as u64);
        }
    }
}
