//! The small files of a data directory: `FORMAT`, `key`, `checkpoint`.

use std::{io, path::Path};

use super::{Finding, Remedy, Verifier};
use crate::{
    env::{Env, read_file},
    error::{Fault, StorageError},
    format::{
        checkpoint::Checkpoint,
        segment::{SEGMENT_HEADER_LEN, SegmentHeader, SegmentKind},
    },
    limits::CHECKPOINT_BYTES_MAX,
    lock::{
        FORMAT, FORMAT_BYTES_MAX, FORMAT_VERSION, KEY, KEY_FILE_LEN, check_format, parse_format, parse_key,
    },
    log::segment::segment_base,
    storage::CHECKPOINT,
};

/// Returns the bytes of the checkpoint file, if there is one.
pub(super) fn read_checkpoint_bytes(env: &dyn Env, dir: &Path) -> Result<Option<Vec<u8>>, StorageError> {
    optional(read_file(env, &dir.join(CHECKPOINT), CHECKPOINT_BYTES_MAX))
}

fn optional<T>(result: Result<T, StorageError>) -> Result<Option<T>, StorageError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(StorageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Verifier<'_> {
    pub(super) fn format(&mut self) -> Result<(), StorageError> {
        let names = self.env.list(self.dir).map_err(StorageError::io("list", self.dir))?;
        check_format(&names, self.dir)?;
        let path = self.dir.join(FORMAT);
        let parsed = match read_file(self.env.as_ref(), &path, FORMAT_BYTES_MAX) {
            Ok(bytes) => {
                self.small_file(bytes.len());
                parse_format(&bytes).map_err(|fault| (fault, bytes.len()))
            }
            // No such file is ours, so that nobody need read it.
            Err(StorageError::TooLarge { .. }) => Err((Fault::Structure("the length"), 0)),
            Err(error) => return Err(error),
        };
        match parsed {
            Ok(format) => {
                format.check(self.dir)?;
                self.uuid = format.uuid;
            }
            Err((fault, len)) => {
                self.find(Finding {
                    path,
                    bytes: 0..len as u64,
                    what: format!("the description of the directory: {fault}"),
                    cost: "the directory cannot be opened; its messages are whole as far as nothing else is said",
                    rows: Vec::new(),
                    remedy: Remedy::Restore,
                });
                self.uuid = self.uuid_of_log()?;
            }
        }
        Ok(())
    }

    fn small_file(&mut self, len: usize) {
        self.found.files += 1;
        self.found.bytes += len as u64;
    }

    /// Returns the UUID that a segment of the log has noted.
    fn uuid_of_log(&self) -> Result<[u8; 16], StorageError> {
        let dir = self.dir.join("log");
        for name in super::list(self.env.as_ref(), &dir)? {
            if segment_base(SegmentKind::Log, &name).is_none() {
                continue;
            }
            let path = dir.join(name);
            let Ok(file) = self.env.open(&path, crate::env::Open::Read) else { continue };
            let mut bytes = vec![0; SEGMENT_HEADER_LEN];
            if file.read_exact_at(&mut bytes, 0).is_ok()
                && let Ok(header) = SegmentHeader::decode(&bytes, SegmentKind::Log)
            {
                return Ok(header.uuid);
            }
        }
        Ok([0; 16])
    }

    pub(super) fn key(&mut self) -> Result<(), StorageError> {
        let path = self.dir.join(KEY);
        let (fault, len) = match optional(read_file(self.env.as_ref(), &path, KEY_FILE_LEN as u64)) {
            Ok(Some(bytes)) => {
                self.small_file(bytes.len());
                match parse_key(&bytes) {
                    Ok(_) => return Ok(()),
                    Err(fault) => (fault, bytes.len() as u64),
                }
            }
            Ok(None) => (Fault::Truncated, 0),
            Err(StorageError::TooLarge { size, .. }) => (Fault::Structure("the length"), size),
            Err(error) => return Err(error),
        };
        self.find(Finding {
            path,
            bytes: 0..len,
            what: format!("the key: {fault}"),
            cost: "the directory cannot be opened; with a new key, receipt handles and tickets given out before are refused",
            rows: Vec::new(),
            remedy: Remedy::NewKey,
        });
        Ok(())
    }

    pub(super) fn read_checkpoint(&mut self) -> Result<(), StorageError> {
        let path = self.dir.join(CHECKPOINT);
        let Some(bytes) = read_checkpoint_bytes(self.env.as_ref(), self.dir)? else {
            // Whoever stops the broker may delete it.
            return Ok(());
        };
        self.small_file(bytes.len());
        let fault = match Checkpoint::decode(&bytes) {
            Ok(checkpoint) if checkpoint.uuid == self.uuid => {
                self.found.clean = checkpoint.clean;
                self.checkpoint = Some(checkpoint);
                return Ok(());
            }
            Ok(_) => Fault::Foreign,
            Err(Fault::Version(found)) => {
                return Err(StorageError::Newer { path, found, supported: FORMAT_VERSION });
            }
            Err(fault) => fault,
        };
        self.find(Finding {
            path,
            bytes: 0..bytes.len() as u64,
            what: format!("the checkpoint: {fault}"),
            cost: "no message; the next start takes longer, and damage at the very end cannot be told from a torn write",
            rows: Vec::new(),
            remedy: Remedy::ReadWholeLog,
        });
        Ok(())
    }
}
