//! What the exact dialects accept and answer, beside the vectors in `sql-tests`.

use weir_columns::{ColumnRef, System, Value};
use weir_filter::{
    Dialect, Limits, Predicate, Selector, SelectorError, Truth,
    oracle::{Row, Shape, VecRows, VecStatistics},
};

fn parse(dialect: Dialect, text: &str) -> Result<Selector, SelectorError> {
    Selector::parse(text, dialect, &Limits::default())
}

fn rocketmq(text: &str) -> Result<Selector, SelectorError> {
    parse(Dialect::RocketMq, text)
}

fn jms(text: &str) -> Result<Selector, SelectorError> {
    parse(Dialect::Jms, text)
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// The truth of each row, `None` where the evaluation fails.
fn truths(selector: &Selector, rows: &VecRows) -> Vec<Option<Truth>> {
    let verdicts = Predicate::new(selector).evaluate(rows, None).unwrap();
    (0..rows.rows().len()).map(|row| verdicts.truth(row)).collect()
}

#[test]
fn a_row_that_fails_does_not_touch_its_neighbours() {
    let values = ["5", "boom", "7", "5.0", "", "-1"];
    let rows =
        || VecRows::new(values.iter().map(|value| [("n", text(value))].into_iter().collect()).collect());
    let (t, f, u) = (Some(Truth::True), Some(Truth::False), Some(Truth::Unknown));
    for shape in Shape::ALL {
        let rows = rows().with_shape(ColumnRef::Property("n"), shape);
        assert_eq!(truths(&rocketmq("n > 4").unwrap(), &rows), [t, None, t, None, u, f], "{shape:?}");
        let verdicts = Predicate::new(&rocketmq("n > 4").unwrap()).evaluate(&rows, None).unwrap();
        assert_eq!(verdicts.failed.unwrap().set_indices().collect::<Vec<_>>(), [1, 3]);
        assert_eq!(verdicts.matches.set_indices().collect::<Vec<_>>(), [0, 2]);
    }
}

#[test]
fn empty_text_is_missing_where_the_broker_has_stored_it() {
    let rows = VecRows::new(vec![[("a", text("")), ("b", text("x"))].into_iter().collect()]);
    for (selector, stored, given) in [
        ("a IS NULL", Some(Truth::True), Some(Truth::False)),
        ("a = ''", Some(Truth::Unknown), Some(Truth::True)),
        ("a = missing", Some(Truth::True), Some(Truth::False)),
        ("'x' <> a", Some(Truth::True), Some(Truth::True)),
        ("a NOT CONTAINS 'x'", Some(Truth::False), Some(Truth::True)),
        ("a > 5", Some(Truth::Unknown), None),
    ] {
        let selector = rocketmq(selector).unwrap();
        assert_eq!(truths(&selector, &rows), [stored], "{selector}");
        let predicate = Predicate::new(&selector).with_values_as_given();
        assert_eq!(predicate.evaluate(&rows, None).unwrap().truth(0), given, "{selector}");
    }
    // The other dialects know empty values.
    assert_eq!(truths(&jms("a = ''").unwrap(), &rows), [Some(Truth::True)]);
}

#[test]
fn what_an_empty_text_is_searched_in_is_not_evaluated() {
    let row = || [("x", text("boom")), ("y", text("a"))].into_iter().collect();
    for shape in Shape::ALL {
        let rows = VecRows::new(vec![row()]).with_shape(ColumnRef::Property("x"), shape);
        for (selector, expected) in [
            ("(x = 5) CONTAINS ''", Some(Truth::False)),
            ("(x > 5) NOT ENDSWITH ''", Some(Truth::False)),
            ("x BETWEEN 1 AND 9 STARTSWITH ''", Some(Truth::False)),
            ("(x <> 5 AND y > z) CONTAINS '' IS NULL", Some(Truth::False)),
            ("x = 5 CONTAINS ''", Some(Truth::True)),
            ("NOT (x = 5) NOT STARTSWITH '' OR y = 'a'", Some(Truth::True)),
            ("NOT (((x = 5) CONTAINS 'b') CONTAINS '')", Some(Truth::True)),
            ("(x = 5) CONTAINS '' = FALSE", Some(Truth::True)),
            ("(x = 5) CONTAINS '' = (x = 5)", None),
            ("(x = 5) CONTAINS 'b'", None),
        ] {
            let selector = rocketmq(selector).unwrap();
            assert_eq!(truths(&selector, &rows), [expected], "{selector} as {shape:?}");
            let may_match =
                Predicate::new(&selector).may_match(&VecStatistics::exact(std::slice::from_ref(&rows)));
            assert!(may_match.value(0) || expected != Some(Truth::True), "{selector}");
        }
    }
}

#[test]
fn a_missing_replacement_fails_only_where_something_is_replaced() {
    let rows = VecRows::new(vec![[("x", text("abc")), ("n", Value::I32(1))].into_iter().collect()]);
    for (selector, expected) in [
        ("REPLACE(x, 'q', y) = 'abc'", Some(Truth::True)),
        ("REPLACE(x, 'q', NULL) = 'abc'", Some(Truth::True)),
        ("REPLACE(x, 'b', y) = 'abc'", None),
        ("REPLACE(x, '(', y) = 'abc'", None),
        ("REPLACE(x, 'q', n) = 'abc'", None),
        ("REPLACE(y, 'q', 'a') = 'abc'", None),
        ("REPLACE(x, y, 'a') = 'abc'", None),
    ] {
        assert_eq!(truths(&jms(selector).unwrap(), &rows), [expected], "{selector}");
    }
}

#[test]
fn names_of_rocketmq_and_headers_of_jms_are_system_values() {
    let mut row = Row::default();
    row.system.insert(System::Tag, text("paid"));
    row.system.insert(System::Keys, text("o-1 c-2"));
    row.system.insert(System::MessageId, text("01AB"));
    row.system.insert(System::BornTime, Value::I64(1_700_000_000_000));
    row.system.insert(System::MessageGroup, text("g"));
    row.properties.insert("JMSType".to_owned(), Value::Str("order".to_owned()));
    row.properties.insert("tag".to_owned(), text("other"));
    for shape in Shape::ALL {
        let rows =
            System::ALL.iter().fold(VecRows::new(vec![row.clone(), Row::default()]), |rows, system| {
                rows.with_shape(ColumnRef::System(*system), shape)
            });
        for (dialect, selector, first, second) in [
            (Dialect::RocketMq, "TAGS = 'paid'", Truth::True, Truth::Unknown),
            (Dialect::RocketMq, "KEYS CONTAINS 'o-1'", Truth::True, Truth::False),
            (Dialect::RocketMq, "KEYS = 'o-1 c-2' AND UNIQ_KEY = '01AB'", Truth::True, Truth::Unknown),
            (Dialect::RocketMq, "UNIQ_KEY IS NULL", Truth::False, Truth::True),
            (Dialect::RocketMq, "BORN_TIMESTAMP = '1700000000000'", Truth::True, Truth::Unknown),
            (Dialect::RocketMq, "BORN_TIMESTAMP > 1600000000000", Truth::True, Truth::Unknown),
            (Dialect::RocketMq, "tags = 'paid'", Truth::Unknown, Truth::Unknown),
            (Dialect::Jms, "TAGS = 'paid'", Truth::Unknown, Truth::Unknown),
            (Dialect::Jms, "JMSMessageID = '01AB'", Truth::True, Truth::Unknown),
            (Dialect::Jms, "JMSTimestamp > 1600000000000", Truth::True, Truth::False),
            (Dialect::Jms, "JMSTimestamp = 0", Truth::False, Truth::True),
            (Dialect::Jms, "JMSXGroupID = 'g'", Truth::True, Truth::Unknown),
            (Dialect::Jms, "JMSType = 'order'", Truth::True, Truth::Unknown),
            (Dialect::Jms, "JMSPriority = 4 AND NOT JMSRedelivered", Truth::True, Truth::True),
            (Dialect::Jms, "JMSDeliveryMode = 'NON_PERSISTENT'", Truth::True, Truth::True),
        ] {
            let selector = parse(dialect, selector).unwrap();
            assert_eq!(truths(&selector, &rows), [Some(first), Some(second)], "{selector} as {shape:?}");
            let may_match =
                Predicate::new(&selector).may_match(&VecStatistics::exact(std::slice::from_ref(&rows)));
            assert!(may_match.value(0) || (first != Truth::True && second != Truth::True), "{selector}");
        }
    }
}

#[test]
fn text_behind_the_expression_is_dropped_by_rocketmq_and_refused_by_jms() {
    for (text, dropped) in [
        ("a = 5", None),
        ("a = 5 -- c", Some(6)),
        ("a = 5 -- c\n", None),
        ("a = 5 b = 6 ! # ;", Some(6)),
        ("a = 5) AND FALSE", Some(5)),
        ("n = 007 AND x = 1", Some(5)),
        ("a + 1 = 6", Some(2)),
        ("s LIKE 'r%'", Some(2)),
        ("a = 5 'b''c", Some(6)),
        ("a = 5 '''", Some(6)),
        ("(a = 5) ''' AND", Some(8)),
        ("a ''' IN", Some(2)),
    ] {
        assert_eq!(rocketmq(text).unwrap().dropped(), dropped, "{text}");
    }
    for text in [
        "a = 5 #",
        "a = 5;",
        "a = 5 * 2",
        "a = 5 AND",
        "a = 5 NOT b",
        "(n = 007)",
        "a = 5 'b",
        "a = 'b''c",
        "(a = 5 'b''c",
    ] {
        assert!(rocketmq(text).is_err(), "{text}");
    }
    for text in ["a = 5 b = 6", "a = 5) AND FALSE", "a = 08", "a = 5 -- c AND", "a = 5 'b''c", "a ''' IN"] {
        assert!(jms(text).is_err(), "{text}");
    }
}

#[test]
fn what_jms_reads_of_bodies_and_back_references_is_refused_with_a_reason() {
    for (text, part) in [
        ("XPATH '//a'", "body"),
        ("a = 1 AND XQUERY 'x'", "body"),
        ("REGEX('(?=a)', s)", "linear"),
        ("REGEX('a*+', s)", "possessive"),
        ("LOWER(s) = 'x'", "no function LOWER"),
        ("REGEX('a')", "does not take 1"),
        ("SPLIT(s, ',')", "expected a condition"),
    ] {
        let error = jms(text).unwrap_err();
        assert!(error.message().contains(part), "{text}: {error}");
    }
    // What Java refuses too fails where it is evaluated, as there.
    let rows = VecRows::new(vec![[("s", text("x"))].into_iter().collect(), Row::default()]);
    assert_eq!(truths(&jms("REGEX('(', s)").unwrap(), &rows), [None, Some(Truth::False)]);
}

#[test]
fn jms_delivers_by_a_way_that_stops_earlier() {
    let rows = VecRows::new(vec![[("e", Value::Str("x".to_owned()))].into_iter().collect()]);
    for (selector, delivered) in [
        ("m = 5 AND e - 1 = 2", false),
        ("(m = 5 AND e - 1 = 2) OR TRUE", true),
        ("m BETWEEN 1 AND 2 OR TRUE", true),
        ("e BETWEEN m AND e - 1 OR TRUE", true),
        ("NOT (m = 5 AND e - 1 = 2) OR TRUE", false),
    ] {
        let verdicts = Predicate::new(&jms(selector).unwrap()).evaluate(&rows, None).unwrap();
        assert_eq!(verdicts.matches.value(0), delivered, "{selector}");
        assert_eq!(verdicts.truth(0).is_none(), selector.contains("e - 1"), "{selector}");
    }
    // RocketMQ knows one way only.
    let rows = VecRows::new(vec![[("e", text("x"))].into_iter().collect()]);
    let verdicts =
        Predicate::new(&rocketmq("(m = 5 AND e > 1) OR TRUE").unwrap()).evaluate(&rows, None).unwrap();
    assert!(!verdicts.matches.value(0) && verdicts.truth(0).is_none());
}

#[test]
fn escapes_of_like_are_those_of_activemq() {
    for (selector, value, expected) in [
        ("s LIKE '€€x' ESCAPE '€'", " acx", true),
        ("s LIKE '€€x' ESCAPE '€'", "€x", false),
        ("s LIKE 'a!%' ESCAPE '!'", "a%", true),
        ("s LIKE '!a%' ESCAPE '!'", "!abc", true),
        ("s LIKE 'RE%%' ESCAPE '%'", "RE%", true),
        ("s LIKE 'RE%%' ESCAPE '%'", "REqq", false),
        ("s LIKE '\u{1}\u{1}f' ESCAPE '\u{1}'", "\u{1f}", true),
    ] {
        let rows = VecRows::new(vec![[("s", Value::Str(value.to_owned()))].into_iter().collect()]);
        assert_eq!(truths(&jms(selector).unwrap(), &rows), [Some(Truth::from(expected))], "{selector}");
    }
    for refused in ["s LIKE 'a\t\tx' ESCAPE '\t'", "s LIKE 'a' ESCAPE ''", "s LIKE 'a' ESCAPE '😀'"] {
        assert!(jms(refused).is_err(), "{refused}");
    }
}

/// Blocks of one column `x`; `#` is a block that is read, `.` one that is skipped.
#[track_caller]
fn check_pruning(dialect: Dialect, blocks: &[&[Option<Value>]], cases: &[(&str, &str)]) {
    let row = |value: &Option<Value>| value.iter().map(|value| ("x", value.clone())).collect();
    let blocks: Vec<VecRows> =
        blocks.iter().map(|values| VecRows::new(values.iter().map(row).collect())).collect();
    let statistics = VecStatistics::exact(&blocks);
    for (selector, expected) in cases {
        let read = Predicate::new(&parse(dialect, selector).unwrap()).may_match(&statistics);
        let shown: String = read.iter().map(|read| if read { '#' } else { '.' }).collect();
        assert_eq!(shown, *expected, "{selector}");
    }
}

#[test]
fn blocks_are_skipped_in_exact_dialects_too() {
    let some = |value: &str| Some(text(value));
    check_pruning(
        Dialect::RocketMq,
        &[
            &[some("1"), some("9")],
            &[some("10"), some("99")],
            &[some("EU"), some("US")],
            &[some("05")],
            &[some("٥")],
            &[some("0x1p3")],
            &[some("NaN")],
            &[None, some("9")],
            &[Some(Value::F64(f64::NAN))],
            &[some("9007199254740993")],
        ],
        &[
            ("x = 5", "#..####.#."),
            ("x > 9", ".#.####.##"),
            ("x = 9007199254740992.0", "...####.##"),
            ("x = 9007199254740992", "...####.#."),
            ("x = 'EU'", "..#.....#."),
            ("x IN ('EU', 'XX') AND x IS NOT NULL", "..#.....#."),
            ("x STARTSWITH 'E'", "..#.....#."),
            ("'EU' <> x", "##########"),
            ("x <> 'EU'", "##########"),
            ("x IS NULL", ".......##."),
            ("x", ".........."),
            ("NOT x", "##########"),
            ("x > 9 AND x = 'EU'", "........#."),
        ],
    );
    check_pruning(
        Dialect::Jms,
        &[
            &[some("1"), Some(Value::I32(7))],
            &[Some(Value::I64(10)), Some(Value::I32(99))],
            &[Some(Value::Str("EU".to_owned()))],
            &[Some(Value::F64(f64::NAN))],
            &[Some(Value::Bool(true))],
            &[None],
        ],
        &[
            ("x = 7", "#..#.."),
            ("x > 9", ".#.#.."),
            ("x = 'EU'", "..#..."),
            ("x LIKE 'E_'", "..#..."),
            ("x", "....#."),
            ("x = TRUE", "....#."),
            ("x IS NULL", ".....#"),
            ("convert_string_expressions:x > 9", "#####."),
        ],
    );
}
