//! Writes the files of a checkpoint: which blocks and files become one, what is listed, and what is removed.

mod heal;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use hashbrown::{HashMap, HashSet};

use super::{Checkpointing, Queue, Queues};
use crate::{
    error::StorageError,
    format::block::{BLOCK_BYTES, BLOCK_ROWS, FileHeader, FileKind, SEGMENT_BLOCKS},
    offset::LogPosition,
    queue::{
        block::Block,
        checkpoint::{ListedFile, ListedPart, ListedQueue, QueuesCheckpoint},
        merge::{Group, Slice, merge, pack},
        segment::{FileWriter, QueueFile, Segment},
        tail::{MERGED, Run, level},
    },
};

/// Shared files of one class of size, this many of them, become one.
const SHARED_FILES: usize = 8;
/// A block of fewer rows takes as much for its directory as for its rows: the next checkpoint merges it.
const TINY_ROWS: usize = 64;
/// The smallest class of size of shared files, in bytes.
const SHARED_BYTES: u64 = 64 << 10;

/// Returns the shared files whose blocks should move: mostly dead ones, and many of like size.
pub(super) fn crowded_files(queues: &[Arc<Queue>]) -> HashSet<u64> {
    let mut live: HashMap<u64, (u64, u64)> = HashMap::new();
    for queue in queues {
        let segments = Arc::clone(&queue.state.lock().segments);
        for segment in segments.iter().filter(|segment| segment.is_shared()) {
            let file = segment.file();
            let bytes = segment.bytes();
            live.entry(file.header().number).or_insert((0, file.len())).0 += bytes;
        }
    }
    let mut crowded = HashSet::new();
    let mut by_level: HashMap<u32, Vec<u64>> = HashMap::new();
    for (number, (live, len)) in live {
        if live * 2 < len && len > SHARED_BYTES {
            crowded.insert(number);
        } else {
            by_level.entry((len / SHARED_BYTES).max(1).ilog2() / 3).or_default().push(number);
        }
    }
    crowded.extend(by_level.into_values().filter(|files| files.len() >= SHARED_FILES).flatten());
    crowded
}

/// Lists what the queues need now, and retires what they no longer do.
pub(super) fn list(checkpointing: &mut Checkpointing, queues: &[Arc<Queue>]) -> QueuesCheckpoint {
    let mut listed = QueuesCheckpoint { next_file: checkpointing.next_file, ..QueuesCheckpoint::default() };
    let mut numbers: HashMap<u64, u32> = HashMap::new();
    for queue in queues {
        let state = queue.state.lock();
        if state.removed || state.segments.is_empty() {
            continue;
        }
        let mut parts = Vec::with_capacity(state.segments.len());
        for segment in state.segments.iter() {
            let file = segment.file();
            let number = *numbers.entry(file.header().number).or_insert_with(|| {
                listed.files.push(listed_file(file, segment));
                (listed.files.len() - 1) as u32
            });
            let blocks = segment.blocks_of_file();
            parts.push(ListedPart {
                file: number,
                first_block: blocks.start as u32,
                blocks: blocks.len() as u32,
            });
        }
        listed.queues.push(ListedQueue { topic: queue.topic, queue: queue.queue, parts });
    }
    let unneeded = checkpointing.files.extract_if(|number, _| !numbers.contains_key(number));
    checkpointing.retired.extend(unneeded.map(|(_, file)| file));
    listed
}

fn listed_file(file: &QueueFile, segment: &Segment) -> ListedFile {
    let header = file.header();
    let (topic, queue, base) = match header.kind {
        FileKind::Shared => Default::default(),
        FileKind::Segment => {
            let first = segment.entry(0);
            (first.topic, first.queue, first.base)
        }
    };
    let (number, kind, stamp) = (header.number, header.kind, header.stamp);
    ListedFile { number, kind, stamp, len: file.len(), topic, queue, base }
}

/// What a checkpoint changes in one queue.
pub(super) struct Change {
    pub(super) queue: Arc<Queue>,
    pub(super) segments: Vec<Arc<Segment>>,
    /// The frozen runs lie in files now.
    pub(super) froze: bool,
}

/// Where the next part of a queue comes from, once all files are written.
enum Piece {
    Ready(Arc<Segment>),
    /// A file of this number, all of it.
    New(u64),
    /// This block of the shared file that is being written.
    Shared(usize),
}

/// Writes the files of one checkpoint, queue by queue.
pub(super) struct CheckpointWriter<'a> {
    queues: &'a Queues,
    checkpointing: &'a mut Checkpointing,
    shared: Option<(u64, FileWriter<'a>, PathBuf)>,
    shared_blocks: usize,
    new_files: Vec<(u64, PathBuf)>,
    changes: Vec<(Arc<Queue>, Vec<Piece>, bool)>,
    /// Called between pieces of the work, with no lock of a queue held.
    pause: &'a mut dyn FnMut(),
}

impl<'a> CheckpointWriter<'a> {
    pub(super) fn new(
        queues: &'a Queues,
        checkpointing: &'a mut Checkpointing,
        pause: &'a mut dyn FnMut(),
    ) -> Self {
        Self {
            queues,
            checkpointing,
            shared: None,
            shared_blocks: 0,
            new_files: Vec::new(),
            changes: Vec::new(),
            pause,
        }
    }

    /// Writes the files. If one cannot be written, none is left.
    pub(super) fn write(
        mut self,
        queues: &[Arc<Queue>],
        durable: LogPosition,
        crowded: &HashSet<u64>,
    ) -> Result<Vec<Change>, StorageError> {
        let written = queues.iter().try_for_each(|queue| self.queue(queue, durable, crowded));
        let finished = written.and_then(|()| self.finish());
        if finished.is_err() {
            self.undo();
        }
        finished
    }

    fn queue(
        &mut self,
        queue: &Arc<Queue>,
        durable: LogPosition,
        crowded: &HashSet<u64>,
    ) -> Result<(), StorageError> {
        (self.pause)();
        let (segments, runs) = {
            let mut state = queue.state.lock();
            if state.removed {
                return Ok(());
            }
            state.drop_expired();
            let runs = state.tail.freeze(durable, &mut self.checkpointing.builder, &self.queues.log)?;
            (Arc::clone(&state.segments), runs)
        };
        let is_crowded =
            |segment: &Arc<Segment>| segment.is_shared() && crowded.contains(&segment.file().header().number);
        if runs.is_empty() && !segments.iter().any(is_crowded) {
            return Ok(());
        }
        let small = segments.iter().rev().take_while(|segment| segment.is_shared()).count();
        let (large, small) = segments.split_at(segments.len() - small);
        let plan = self.merge_small(small, &runs)?;
        let (kept, new) = match plan {
            Some(plan) => plan,
            // A small block is damaged: it stays as it is, and its readers learn of it.
            None => {
                (small, self.blocks_of(&runs.iter().map(|run| Slice::all(&run.block)).collect::<Vec<_>>())?)
            }
        };
        let mut pieces: Vec<Piece> = Vec::with_capacity(large.len() + kept.len() + 1);
        let full: Vec<Arc<Block>> =
            new.iter().filter(|run| run.full).map(|run| Arc::clone(&run.block)).collect();
        if kept.is_empty() || full.is_empty() {
            self.put_large(queue, large, &full, &mut pieces)?;
        } else {
            // Full blocks behind small ones that could not be merged.
            pieces.extend(large.iter().cloned().map(Piece::Ready));
        }
        for segment in kept {
            let blocks = (0..segment.blocks()).filter(|_| is_crowded(segment));
            match blocks.map(|block| segment.block(block)).collect::<Result<Vec<_>, _>>() {
                Ok(blocks) if !blocks.is_empty() => {
                    for block in blocks {
                        pieces.push(self.put_small(&block)?);
                    }
                }
                Ok(_) => pieces.push(Piece::Ready(Arc::clone(segment))),
                Err(error) => {
                    tracing::warn!(%error, "a block of a consume queue stays in a file that is mostly dead");
                    pieces.push(Piece::Ready(Arc::clone(segment)));
                }
            }
        }
        if !kept.is_empty() && !full.is_empty() {
            self.put_large(queue, &[], &full, &mut pieces)?;
        }
        for run in new.iter().filter(|run| !run.full) {
            pieces.push(self.put_small(&run.block)?);
        }
        self.changes.push((Arc::clone(queue), pieces, !runs.is_empty()));
        Ok(())
    }

    /// Decides which of the small blocks become one with the new rows, or full.
    ///
    /// Returns the small ones that stay and the new blocks; `None` if a small block cannot be read.
    #[expect(clippy::type_complexity, reason = "a pair, used once")]
    fn merge_small<'s>(
        &mut self,
        small: &'s [Arc<Segment>],
        runs: &[Run],
    ) -> Result<Option<(&'s [Arc<Segment>], Vec<Run>)>, StorageError> {
        let taken = if runs.is_empty() { 0 } else { small_to_merge(small, runs) };
        let (kept, taken) = small.split_at(small.len() - taken);
        let mut slices = Vec::new();
        for segment in taken {
            for number in 0..segment.blocks() {
                match segment.block(number) {
                    Ok(block) => slices.push(Slice::all(&block)),
                    Err(error) => return Ok(unreadable(&error)),
                }
            }
        }
        slices.extend(runs.iter().map(|run| Slice::all(&run.block)));
        match self.blocks_of(&slices) {
            Ok(blocks) => Ok(Some((kept, blocks))),
            Err(error) if !taken.is_empty() => Ok(unreadable(&error)),
            Err(error) => Err(error),
        }
    }

    fn blocks_of(&mut self, slices: &[Slice]) -> Result<Vec<Run>, StorageError> {
        pack(slices.iter().cloned()).into_iter().map(|group| self.block_of(group)).collect()
    }

    fn block_of(&mut self, group: Group) -> Result<Run, StorageError> {
        if let [slice] = group.slices.as_slice()
            && slice.is_all()
            // Columns that are made for the file alone are let go of once they are written, and not with the run.
            && slice.block.has_columns()
        {
            return Ok(Run { block: Arc::clone(&slice.block), full: group.full });
        }
        let bytes = merge(&mut self.checkpointing.builder, &group.slices, self.pause)?;
        Ok(Run { block: Arc::new(Block::built(bytes, Arc::clone(&self.queues.log))?), full: group.full })
    }

    /// Writes full blocks into queue segments, together with the last segments if these are small.
    fn put_large(
        &mut self,
        queue: &Queue,
        large: &[Arc<Segment>],
        full: &[Arc<Block>],
        pieces: &mut Vec<Piece>,
    ) -> Result<(), StorageError> {
        let taken = if full.is_empty() { 0 } else { large_to_merge(large, full.len()) };
        let (kept, taken) = large.split_at(large.len() - taken);
        pieces.extend(kept.iter().cloned().map(Piece::Ready));
        let mut blocks = Vec::new();
        for segment in taken {
            for number in 0..segment.blocks() {
                match segment.block(number) {
                    Ok(block) => blocks.push(block),
                    Err(error) => {
                        tracing::warn!(%error, "a segment of a consume queue is not merged");
                        pieces.extend(taken.iter().cloned().map(Piece::Ready));
                        return self.put_segments(queue, full, pieces);
                    }
                }
            }
        }
        blocks.extend(full.iter().cloned());
        self.put_segments(queue, &blocks, pieces)
    }

    fn put_segments(
        &mut self,
        queue: &Queue,
        blocks: &[Arc<Block>],
        pieces: &mut Vec<Piece>,
    ) -> Result<(), StorageError> {
        for blocks in blocks.chunks(SEGMENT_BLOCKS) {
            let (number, header) = self.header(FileKind::Segment);
            let listed = ListedFile {
                number,
                kind: FileKind::Segment,
                stamp: 0,
                len: 0,
                topic: queue.topic,
                queue: queue.queue,
                base: blocks[0].base(),
            };
            let path = listed.path(&self.queues.dir);
            if let Some(dir) = path.parent() {
                self.queues.env.make_dir(dir).map_err(StorageError::io("create", dir))?;
            }
            let mut writer = FileWriter::create(self.queues.env.as_ref(), path.clone(), header)?;
            for block in blocks {
                writer.add(block)?;
                (self.pause)();
            }
            writer.finish()?;
            self.new_files.push((number, path));
            pieces.push(Piece::New(number));
        }
        Ok(())
    }

    fn put_small(&mut self, block: &Block) -> Result<Piece, StorageError> {
        if self.shared.is_none() {
            let (number, header) = self.header(FileKind::Shared);
            let (topic, queue, base) = Default::default();
            let listed = ListedFile { number, kind: FileKind::Shared, stamp: 0, len: 0, topic, queue, base };
            let path = listed.path(&self.queues.dir);
            let writer = FileWriter::create(self.queues.env.as_ref(), path.clone(), header)?;
            self.shared = Some((number, writer, path));
        }
        let (_, writer, _) = self.shared.as_mut().expect("it was just made");
        writer.add(block)?;
        (self.pause)();
        self.shared_blocks += 1;
        Ok(Piece::Shared(self.shared_blocks - 1))
    }

    fn header(&mut self, kind: FileKind) -> (u64, FileHeader) {
        let number = self.checkpointing.next_file;
        self.checkpointing.next_file += 1;
        let (uuid, stamp) = (self.queues.settings.uuid, self.checkpointing.stamp);
        (number, FileHeader { kind, number, uuid, stamp, blocks: 0 })
    }

    /// Removes what was written, so that a disk that is full does not fill further with every attempt.
    fn undo(&mut self) {
        self.shared = None;
        for (_, path) in self.new_files.drain(..) {
            if let Err(error) = self.queues.env.remove(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a file of consume queues");
            }
        }
    }

    /// Completes the files, makes them durable and maps them.
    fn finish(&mut self) -> Result<Vec<Change>, StorageError> {
        let mut shared_number = 0;
        if let Some((number, writer, path)) = self.shared.take() {
            writer.finish()?;
            self.new_files.push((number, path));
            shared_number = number;
        }
        let env = self.queues.env.as_ref();
        let dirs: HashSet<&Path> = self.new_files.iter().filter_map(|(_, path)| path.parent()).collect();
        for dir in dirs {
            env.sync_dir(dir).map_err(StorageError::io("sync", dir))?;
        }
        let mut files = HashMap::new();
        for (number, path) in &self.new_files {
            let file = Arc::new(QueueFile::open(env, path, Arc::clone(&self.queues.log))?);
            files.insert(*number, file);
        }
        let segment_of = |piece: Piece| match piece {
            Piece::Ready(segment) => Ok(segment),
            Piece::New(number) => {
                let file = Arc::clone(&files[&number]);
                let blocks = file.blocks();
                Segment::new(file, 0..blocks).map(Arc::new)
            }
            Piece::Shared(block) => {
                Segment::new(Arc::clone(&files[&shared_number]), block..block + 1).map(Arc::new)
            }
        };
        let mut changes = Vec::with_capacity(self.changes.len());
        for (queue, pieces, froze) in self.changes.drain(..) {
            (self.pause)();
            let segments = pieces.into_iter().map(segment_of).collect::<Result<_, _>>()?;
            changes.push(Change { queue, segments, froze });
        }
        self.checkpointing.files.extend(files);
        Ok(changes)
    }
}

/// Says why small blocks stay as they are.
fn unreadable<T>(error: &StorageError) -> Option<T> {
    tracing::warn!(%error, "a block of a consume queue is not merged");
    None
}

/// Returns how many of the last small blocks become one with new rows: all if the rows fill a block, else
/// those of like size once there are enough, and before that the tiny ones.
fn small_to_merge(small: &[Arc<Segment>], runs: &[Run]) -> usize {
    let rows_of = |segment: &Segment| (segment.range().end.0 - segment.range().start.0) as usize;
    let new_rows: usize = runs.iter().map(|run| run.block.len()).sum();
    let new_bytes: usize = runs.iter().map(|run| run.block.weight()).sum();
    let rows = new_rows + small.iter().map(|segment| rows_of(segment)).sum::<usize>();
    let bytes = new_bytes as u64 + small.iter().map(|segment| segment.bytes()).sum::<u64>();
    if rows >= BLOCK_ROWS || bytes >= BLOCK_BYTES as u64 || runs.iter().any(|run| run.full) {
        return small.len();
    }
    let alike = small.iter().rev().take_while(|segment| level(rows_of(segment)) <= level(new_rows)).count();
    let tiny = small.iter().rev().take_while(|segment| rows_of(segment) < TINY_ROWS).count();
    if alike + 1 >= MERGED { alike } else { tiny }
}

/// Returns how many of the last queue segments become one with new full blocks.
fn large_to_merge(large: &[Arc<Segment>], new: usize) -> usize {
    let is_alike = |segment: &&Arc<Segment>| level(segment.blocks()) <= level(new);
    let alike = large.iter().rev().take_while(is_alike).count();
    if alike + 1 < MERGED {
        return 0;
    }
    let mut blocks = new;
    let fits = |segment: &&Arc<Segment>| {
        blocks += segment.blocks();
        blocks <= SEGMENT_BLOCKS
    };
    large.iter().rev().take(alike).take_while(fits).count()
}
