//! Small runs whose columns are made at their first use: when they are made, and what is counted of them.

use super::*;

/// A queue with rows that came one by one, each a run of its own.
fn one_by_one(rows: u64) -> Bench {
    let bench = Bench::new();
    bench.queues.add_queue(TopicId(1), QueueId(0), SYNC, QueueOffset(0));
    for offset in 0..rows {
        let start = bench.append(1, 0, offset, &numbered(offset));
        bench.log.from(start, |records| bench.queues.add(records));
        bench.queues.publish(bench.log.end(), bench.log.end(), &mut |_, _, _| {});
    }
    bench
}

#[test]
fn neither_a_look_at_positions_nor_a_merge_nor_a_checkpoint_makes_columns() {
    for rows in [1, 5, MERGED as u64] {
        let bench = one_by_one(rows);
        let view = bench.view(1, 0);
        assert_eq!(view.runs().len() as u64, rows);
        for run in view.runs() {
            assert_eq!(run.positions().unwrap().len(), 1);
            assert_eq!(run.store_times().unwrap().value(0), store_time(run.base().0));
            let size = u64::from(run.record_sizes().unwrap().value(0));
            assert_eq!(run.record_bytes(), size.next_multiple_of(8));
        }
        bench.queues.merge_all();
        bench.checkpoint();
        assert!(view.runs().iter().all(|run| !run.has_columns()), "{rows} rows");
        // Who asks has them, whatever became of the rows since.
        model_of(rows).check(&view, 0, rows);
        model_of(rows).check(&bench.view(1, 0), 0, rows);
    }
}

#[test]
fn columns_that_a_reader_has_made_are_counted_until_the_rows_are_in_a_file() {
    let bench = one_by_one(5);
    let before = bench.queues.run_bytes();
    let view = bench.view(1, 0);
    let columns: usize = view.runs().iter().map(|run| run.bytes().len()).sum();
    assert_eq!(bench.queues.run_bytes(), before + columns as u64);
    bench.checkpoint();
    assert_eq!(bench.queues.run_bytes(), 0, "though a reader has them");
    drop(view);
    assert_eq!(bench.queues.run_bytes(), 0);
}
