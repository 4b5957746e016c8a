//! Which blocks are skipped. That none is skipped by mistake, `random.rs` checks.

use std::sync::Arc;

use weir_columns::{System, Value};
use weir_filter::{
    Dialect, Limits, Predicate, Selector,
    oracle::{Row, VecRows, VecStatistics},
};

fn text(text: &str) -> Option<Value> {
    Some(Value::Text(text.to_owned()))
}

/// Blocks of one column `x`, each with these values.
fn blocks(blocks: &[&[Option<Value>]]) -> Vec<VecRows> {
    let row = |value: &Option<Value>| value.iter().map(|value| ("x", value.clone())).collect();
    blocks.iter().map(|values| VecRows::new(values.iter().map(row).collect())).collect()
}

/// `#` is a block that is read, `.` one that is skipped.
#[track_caller]
fn check(blocks: &[VecRows], cases: &[(&str, &str)]) {
    let statistics = VecStatistics::exact(blocks);
    for (selector, expected) in cases {
        let selector = Selector::parse(selector, Dialect::Sql92, &Limits::default()).unwrap();
        let read = Predicate::new(&selector).may_match(&statistics);
        let shown: String = read.iter().map(|read| if read { '#' } else { '.' }).collect();
        assert_eq!(shown, *expected, "{selector}");
    }
}

#[test]
fn numbers_are_skipped_by_their_bounds() {
    let blocks = blocks(&[
        &[text("1"), text("9")],
        &[text("10"), text("99")],
        &[text("10"), None],
        &[text("05")],
        &[text("EU")],
        &[Some(Value::F64(f64::NAN)), Some(Value::F64(7.0))],
        &[None],
    ]);
    check(
        &blocks,
        &[
            ("x = 5", "#..#..."),
            ("x > 9", ".###..."),
            ("x >= 98.5", ".#.#..."),
            ("x <> 10", "##.#.#."),
            ("NOT x > 9", "#..#.#."),
            ("x BETWEEN 20 AND 30", ".#.#..."),
            ("x IN (5, 50)", "##.#..."),
            ("x > 9 OR x IS NULL", ".###..#"),
            ("x > 50 AND x < 60", ".#.#..."),
            ("x IS NULL", "..#...#"),
            ("x IS NOT NULL", "######."),
            ("(x > 5) IS NULL", "..#####"),
            ("y = 1", "......."),
            ("y IS NULL", "#######"),
            ("y = 1 OR x = 10", ".###..."),
            ("x + 1 = 5", "######."),
        ],
    );
}

#[test]
fn texts_are_skipped_by_their_bounds_and_their_bloom_filter() {
    let blocks = blocks(&[
        &[text("apple"), text("melon")],
        &[text("peach"), text("plum")],
        &[text("pear"), None],
        &[Some(Value::I64(5))],
        &[Some(Value::Str("plum".to_owned()))],
    ]);
    check(
        &blocks,
        &[
            ("x = 'pear'", "..#.."),
            ("x = 'kiwi'", "....."),
            ("x <> 'pear'", "##..#"),
            ("x IN ('apple', 'plum')", "##..#"),
            ("x LIKE 'p%'", ".##.#"),
            ("x NOT LIKE 'p%'", "#...."),
            ("x STARTSWITH 'pl'", ".#..#"),
            ("x LIKE '%x%'", "###.#"),
            ("x LIKE 'plum'", ".#..#"),
            ("x > 'peach'", ".##.#"),
            ("x < 'b'", "#...."),
            ("x BETWEEN 'n' AND 'o'", "....."),
            ("x = 5", "...#."),
            ("x", "###.."),
        ],
    );
}

#[test]
fn booleans_and_system_values_are_skipped_too() {
    let mut rows = blocks(&[&[text("true")], &[text("FALSE")], &[Some(Value::Bool(true))], &[text("zebra")]]);
    check(&rows, &[("x", "#.#."), ("NOT x", ".#.."), ("x = TRUE OR x = FALSE", "###.")]);
    rows = (0..4)
        .map(|queue| {
            let system = [(System::QueueId, Value::I64(queue))].into_iter().collect();
            VecRows::new(vec![Row { system, ..Row::default() }])
        })
        .collect();
    check(&rows, &[("sys.queue_id >= 2", "..##"), ("sys.queue_id IN (0, 3)", "#..#")]);
}

#[test]
fn now_skips_as_a_constant_and_coalesce_skips_nothing() {
    let times: Vec<VecRows> = (0..4)
        .map(|hour| {
            let system = [(System::BornTime, Value::I64(hour * 3_600_000))].into_iter().collect();
            VecRows::new(vec![Row { system, ..Row::default() }])
        })
        .collect();
    let statistics = VecStatistics::exact(&times);
    for (text, expected) in [
        ("sys.born_time > NOW() - INTERVAL '1' HOUR", "...#"),
        ("sys.born_time BETWEEN NOW() - 7200000 AND NOW() - 3600000", ".##."),
        ("NOT sys.born_time < NOW()", "...#"),
        ("sys.born_time + 0 > NOW()", "####"),
        ("NOW() < 5", "...."),
    ] {
        let selector = Selector::parse(text, Dialect::Sql92, &Limits::default()).unwrap();
        let read = Arc::new(Predicate::new(&selector)).at(3 * 3_600_000).may_match(&statistics);
        let shown: String = read.iter().map(|read| if read { '#' } else { '.' }).collect();
        assert_eq!(shown, expected, "{text}");
    }
    check(
        &blocks(&[&[text("a")], &[None], &[Some(Value::I64(5))]]),
        &[
            ("UPPER(x) = 'A'", "#.#"),
            ("COALESCE(x, 'A') = 'A'", "###"),
            ("NULLIF(x, y) = 'a'", "#.#"),
            ("x REGEXP 'a'", "#.."),
            ("(x REGEXP 'a') IS NULL", ".##"),
        ],
    );
}

#[test]
fn an_empty_block_is_always_skipped() {
    check(&blocks(&[&[], &[None]]), &[("TRUE", "##"), ("x IS NULL", ".#"), ("NOT x IS NOT NULL", ".#")]);
}
