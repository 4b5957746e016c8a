//! Tests of what a copy of the directory holds back while it is made, and of when that ends.

use std::{ops::ControlFlow, path::Path, sync::Arc};

use super::{
    Storage,
    options::StorageOptions,
    tests::{begin_rotation, selector, send, small_journal, stepped, topic},
};
use crate::{
    catalogue::DurabilityClass, compress::Compression, error::StorageError, journal::Wait,
    log::segment::FrameLogShared, sim::SimEnv,
};

const TARGET: &str = "/copy";

/// Makes a copy, and does something once while it is made.
fn copy_while(storage: &Storage, act: impl FnOnce()) -> Result<(), StorageError> {
    let mut act = Some(act);
    let copied = storage.copy_to(Path::new(TARGET), &mut |_| {
        if let Some(act) = act.take() {
            act();
        }
        ControlFlow::Continue(())
    });
    copied.map(drop)
}

/// Files of a sequence of frames: those that are known, and those that are there.
fn files(env: &SimEnv, frames: &FrameLogShared) -> [usize; 2] {
    let there = env.paths().iter().filter(|path| path.starts_with(frames.dir())).count();
    [frames.segments.all().len(), there]
}

#[test]
fn segments_of_the_journal_that_stay_for_a_copy_go_with_its_end() {
    let env = SimEnv::new(3);
    let (storage, told) = small_journal(&env);
    begin_rotation(&storage, &told);
    let (inner, new) = (storage.inner(), selector(0, "new"));
    copy_while(&storage, || {
        storage.journal(vec![new.clone()], Wait::None, None);
        storage.journal_rotated();
        inner.flush_once(true);
        let [known, there] = files(&env, &inner.journal);
        assert!(known == 2 && there >= 2, "they stay: {known} {there}");
    })
    .unwrap();
    let [known, there] = files(&env, &inner.journal);
    // Zeros may lie ready for the next one.
    assert!(known == 1 && there <= 2, "{known} {there}");
    let first = inner.journal.segments.all()[0].path.clone();
    assert!(env.paths().contains(&first), "what is needed is there");
    env.kill();
    drop(storage);
    assert_eq!(small_journal(&env).0.take_journal(), [new]);
}

#[test]
fn segments_of_the_catalogue_that_stay_for_a_copy_go_with_its_end() {
    let (storage, env, id, _) = stepped(StorageOptions::small());
    let frames = storage.inner().catalogue.frames();
    let before = files(&env, frames)[0];
    copy_while(&storage, || {
        while frames.segments.all().len() == before {
            let attributes = "x".repeat(60_000);
            storage.alter_topic(id, 2, DurabilityClass::Sync, Compression::None, attributes).unwrap();
        }
    })
    .unwrap();
    assert_eq!((before, frames.segments.all().len()), (1, 1));
    let first = frames.segments.all()[0].path.clone();
    let oldest = env.paths().into_iter().find(|path| path.starts_with(frames.dir()));
    assert_eq!(oldest, Some(first), "the file is gone, too");
    assert!(storage.create_topic(topic("t")).is_ok());
}

#[test]
fn nothing_is_unlinked_behind_a_close() {
    let env = SimEnv::new(3);
    let (storage, told) = small_journal(&env);
    begin_rotation(&storage, &told);
    let inner = storage.inner();
    let mut during = [0; 2];
    let copied = copy_while(&storage, || {
        storage.journal(vec![selector(0, "new")], Wait::None, None);
        storage.journal_rotated();
        inner.flush_once(true);
        storage.close().unwrap();
        during = files(&env, &inner.journal);
    });
    assert!(matches!(copied, Err(StorageError::Closed)), "{copied:?}");
    assert_eq!(files(&env, &inner.journal), during, "another process may have it");
}

#[test]
fn a_copy_is_broken_off_when_the_disk_runs_low() {
    let options = StorageOptions { free_bytes_min: 64 << 20, ..StorageOptions::small() };
    let (storage, env, sync, _) = stepped(options.clone());
    let answer = send(&storage, sync, 1);
    let inner = storage.inner();
    inner.append_once();
    inner.flush_once(true);
    inner.build_once();
    assert!(answer.try_recv().unwrap().is_ok());
    let copied = copy_while(&storage, || {
        env.set_capacity(Some(env.used() + (32 << 20)));
        inner.look_at_space();
    });
    let error = copied.unwrap_err();
    assert!(matches!(error, StorageError::CopyLowSpace { .. }), "{error}");
    assert!(error.to_string().contains("/data") && error.to_string().contains(TARGET), "{error}");
    assert!(!env.paths().iter().any(|path| path.starts_with(TARGET)), "nothing is left of it");
    assert!(inner.log.unpinned().is_some(), "space can be freed");
    // With nobody at work there is nothing to be freed.
    storage.close().unwrap();
    drop(storage);
    let options = StorageOptions { env: Arc::new(env.clone()), ..options };
    let copied = Storage::copy_closed(Path::new("/data"), options, Path::new(TARGET), &mut |_| {
        ControlFlow::Continue(())
    });
    assert!(copied.is_ok(), "{copied:?}");
}
