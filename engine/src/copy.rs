//! Copies of the data directory of a broker that is at work.

use std::{
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use weir_storage::{Copied, CopyProgress, StorageError};

use crate::{broker::Broker, error::EngineError};

impl Broker {
    /// Copies the data directory to `target`, an absolute path that does not exist, in
    /// [`checkpoint_dir`](crate::BrokerOptions::checkpoint_dir). A broker that is opened there has everything that was
    /// acknowledged before the call. Publishing and delivery go on meanwhile.
    ///
    /// `watch` is told how far it has come, on a thread that may block, and may break it off.
    ///
    /// # Errors
    ///
    /// If `target` is not allowed or exists, another copy is being made, `watch` breaks it off, the broker stops
    /// meanwhile, or a file cannot be read or written. Then there is no copy.
    pub async fn copy_to(
        &self,
        target: &Path,
        mut watch: impl FnMut(CopyProgress) -> ControlFlow<()> + Send + 'static,
    ) -> Result<Copied, EngineError> {
        self.core.check_open()?;
        let options = &self.core.options;
        let (dir, allowed) = (options.data_dir.clone(), options.checkpoint_dir.clone());
        let (storage, target) = (self.core.storage.clone(), target.to_owned());
        let copied = tokio::task::spawn_blocking(move || {
            let target = allowed_target(&target, &dir, allowed.as_deref())?;
            storage.copy_to(&target, &mut watch).map_err(|error| match error {
                StorageError::Closed => EngineError::Closed,
                error => EngineError::Copy(error),
            })
        });
        copied.await.map_err(|error| EngineError::Internal(error.to_string()))?
    }
}

/// Returns where a copy goes, without links and detours on the way, if whoever may speak to the broker may have it write
/// there.
fn allowed_target(target: &Path, data_dir: &Path, allowed: Option<&Path>) -> Result<PathBuf, EngineError> {
    let (Some(parent), Some(name), true) = (target.parent(), target.file_name(), target.is_absolute()) else {
        let target = target.display();
        return Err(EngineError::Invalid(format!("{target} is no absolute path of a new directory")));
    };
    let real = |path: &Path| {
        let found = path.canonicalize();
        found.map_err(|error: io::Error| {
            EngineError::Invalid(format!(
                "{} cannot be used on the machine of the broker: {error}",
                path.display()
            ))
        })
    };
    let data_dir = real(data_dir)?;
    let allowed = match allowed {
        Some(allowed) => real(allowed)?,
        None => data_dir.parent().unwrap_or(&data_dir).to_owned(),
    };
    let target = real(parent)?.join(name);
    if !target.starts_with(&allowed) {
        return Err(EngineError::Invalid(format!(
            "{} does not lie in {}, where this broker makes checkpoints; `checkpoint-dir` in its configuration says where",
            target.display(),
            allowed.display()
        )));
    }
    if target.starts_with(&data_dir) {
        return Err(EngineError::Copy(StorageError::CopyInside { path: target, dir: data_dir }));
    }
    Ok(target)
}
