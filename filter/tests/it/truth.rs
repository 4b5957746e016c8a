//! What selectors answer, in tables: TRUE (`T`), FALSE (`F`) or UNKNOWN (`U`).

use std::sync::Arc;

use weir_columns::{ColumnRef, System, Value};
use weir_filter::{
    Dialect, Limits, Predicate, Selector, Truth,
    Truth::{False as F, True as T, Unknown as U},
    oracle::{self, Row, Shape, VecRows},
};

fn text(text: &str) -> Option<Value> {
    Some(Value::Text(text.to_owned()))
}

fn str(text: &str) -> Option<Value> {
    Some(Value::Str(text.to_owned()))
}

/// Judges one column `x` in every shape, and by the oracle.
#[track_caller]
fn check(selector: &str, values: &[Option<Value>], expected: &[Truth]) {
    let rows: Vec<Row> =
        values.iter().map(|value| value.iter().map(|value| ("x", value.clone())).collect()).collect();
    check_rows(selector, &rows, &["x"], expected);
}

#[track_caller]
fn check_rows(text: &str, rows: &[Row], columns: &[&str], expected: &[Truth]) {
    let selector = Selector::parse(text, Dialect::Sql92, &Limits::default()).unwrap_or_else(|error| {
        panic!("{}", error.report(text));
    });
    let predicate = Predicate::new(&selector);
    for shape in Shape::ALL {
        let rows = columns.iter().fold(VecRows::new(rows.to_vec()), |rows, name| {
            rows.with_shape(ColumnRef::Property(name), shape)
        });
        let verdicts = predicate.evaluate(&rows, None).unwrap();
        let answers: Vec<Truth> = (0..expected.len()).map(|row| verdicts.truth(row).unwrap()).collect();
        assert_eq!(answers, expected, "{text} as {shape:?}");
        let Ok(plain) = (0..expected.len())
            .map(|row| oracle::evaluate(&selector, &rows, row))
            .collect::<Result<Vec<_>, _>>();
        assert_eq!(plain, expected, "{text}, row by row");
    }
}

/// A missing property is NULL, and a message is delivered only where the selector is TRUE.
#[test]
fn a_missing_property_is_neither_true_nor_false() {
    let values = [text("12"), text("8"), None];
    check("x > 10", &values, &[T, F, U]);
    check("NOT x > 10", &values, &[F, T, U]);
    check("x > 10 OR x IS NULL", &values, &[T, F, T]);
    check("x <> 12", &values, &[F, T, U]);
    check("x NOT IN (12)", &values, &[F, T, U]);
    check("x = 12 OR NULL", &values, &[T, U, U]);
    check("x = 12 AND NULL", &values, &[U, F, U]);
    check("x = x", &values, &[T, T, U]);
}

#[test]
fn untyped_text_is_a_number_beside_a_number() {
    let values = ["5", "05", "+5", "5.0", "5e0", "4", "five", " 5", "", "NaN"].map(text);
    check("x = 5", &values, &[T, T, T, T, T, F, U, U, U, U]);
    check("x <> 5", &values, &[F, F, F, F, F, T, U, U, U, U]);
    check("x >= 4.5", &values, &[T, T, T, T, T, F, U, U, U, U]);
    check("x IN (5, 6)", &values, &[T, T, T, T, T, F, U, U, U, U]);
    check("x BETWEEN 4 AND 4.9", &values, &[F, F, F, F, F, T, U, U, U, U]);
    check("5 = x", &values, &[T, T, T, T, T, F, U, U, U, U]);
}

#[test]
fn untyped_text_is_text_beside_a_string() {
    let values = ["5", "05", "2013-06-15", "2013-05-01", "EU", ""].map(text);
    check("x = '5'", &values, &[T, F, F, F, F, F]);
    check("x > '2013-06'", &values, &[T, F, T, F, T, F]);
    check("x BETWEEN '2013-05' AND '2013-06-30'", &values, &[F, F, T, T, F, F]);
    check("x IN ('EU', '')", &values, &[F, F, F, F, T, T]);
    check("x LIKE '%5%'", &values, &[T, T, T, T, F, F]);
    check("x NOT STARTSWITH '2013'", &values, &[T, T, F, F, T, T]);
    check("x CONTAINS ''", &values, &[T; 6]);
    check("x IN ('EU', 5)", &values, &[T, T, U, U, T, U]);
}

#[test]
fn typed_values_behave_as_literals_of_their_type() {
    let values = [
        str("5"),
        str("true"),
        Some(Value::Bool(true)),
        Some(Value::I64(5)),
        Some(Value::F32(5.0)),
        Some(Value::F64(f64::NAN)),
    ];
    check("x = 5", &values, &[U, U, U, T, T, U]);
    check("x <> 5", &values, &[U, U, U, F, F, U]);
    check("x = '5'", &values, &[T, F, U, U, U, U]);
    check("x = TRUE", &values, &[U, U, T, U, U, U]);
    check("x", &values, &[U, U, T, U, U, U]);
    check("NOT x", &values, &[U, U, F, U, U, U]);
    check("x LIKE '%'", &values, &[T, T, U, U, U, U]);
    check("x + 1 = 6", &values, &[U, U, U, T, T, U]);
    check("(x + 1) IS NULL", &values, &[T, T, T, F, F, T]);
    check("x IS NULL", &values, &[F; 6]);
    check("x IN ('5', 5, TRUE)", &values, &[T, U, T, T, T, U]);
}

#[test]
fn text_true_and_false_are_booleans_in_any_case() {
    let values = ["true", "TRUE", "False", "yes", "1"].map(text);
    check("x", &values, &[T, T, F, U, U]);
    check("x = FALSE", &values, &[F, F, T, U, U]);
    check("x <> TRUE", &values, &[F, F, T, U, U]);
    check("x = 'true'", &values, &[T, F, F, F, F]);
}

#[test]
fn integers_are_never_rounded() {
    let values = ["9007199254740993", "9007199254740992", "9223372036854775807"].map(text);
    check("x = 9007199254740993", &values, &[T, F, F]);
    check("x = 9007199254740992.0", &values, &[F, T, F]);
    check("x > 9007199254740992.0", &values, &[T, F, T]);
    check("x < 9223372036854775808.0", &values, &[T, T, T]);
    check("x + 1 > 0", &values, &[T, T, U]);
}

#[test]
fn arithmetic_that_has_no_result_is_unknown() {
    let values = [text("4"), text("0"), text("-3"), text("x"), None];
    check("8 / x = 2", &values, &[T, U, F, U, U]);
    check("x / 8 = 0.5", &values, &[T, F, F, U, U]);
    check("7 % x = 1", &values, &[F, U, T, U, U]);
    check("-x = 3", &values, &[F, F, T, U, U]);
    check("x * 2 - 1 = 7", &values, &[T, F, F, U, U]);
    check("2 + x * 3 = 14", &values, &[T, F, F, U, U]);
    check("(x = 4) IS NULL", &values, &[F, F, F, T, T]);
    check("(x / 0) IS NOT NULL", &values, &[F; 5]);
}

#[test]
fn operators_bind_as_in_sql() {
    let values = [text("5"), text("6"), None];
    check("NOT x = 5", &values, &[F, T, U]);
    check("NOT x = 5 AND x = 6", &values, &[F, T, U]);
    check("x = 5 OR x = 6 AND x = 7", &values, &[T, F, U]);
    check("NOT NOT x = 5", &values, &[T, F, U]);
    check("x + 1 = 2 * 3", &values, &[T, F, U]);
    check("x BETWEEN 5 AND 5 AND x = 5", &values, &[T, F, U]);
    check("(x = 5) = FALSE", &values, &[F, T, U]);
    // The two comparisons once became one range without bounds.
    check("'5' BETWEEN x AND x", &values, &[T, F, U]);
    check("10 - 3 - 2 = x", &values, &[T, F, U]);
    check("-5 + 10 = x -- the end", &values, &[T, F, U]);
}

#[test]
fn conditions_compare_as_far_as_both_are_known() {
    let values = [text("5"), text("true"), text("7"), None];
    check("(x = 5) = (x > 6)", &values, &[F, U, F, U]);
    check("(x = 5) <> (x > 6)", &values, &[T, U, T, U]);
    check("(x IS NULL) = (x = 5)", &values, &[F, U, T, U]);
    check("(x IS NOT NULL) = x", &values, &[U, T, U, U]);
    check("(x = 5) = NULL", &values, &[U; 4]);
    check("NOT ((x = 5 OR x = 7) = FALSE)", &values, &[T, U, T, U]);
}

#[test]
fn properties_compare_by_what_both_are() {
    let rows: Vec<Row> = [("5", "5.0"), ("5", "6"), ("a", "a"), ("a", "b"), ("a", "5"), ("10", "9")]
        .into_iter()
        .map(|(x, y)| {
            [("x", Value::Text(x.to_owned())), ("y", Value::Text(y.to_owned()))].into_iter().collect()
        })
        .collect();
    check_rows("x = y", &rows, &["x", "y"], &[T, F, T, F, U, F]);
    check_rows("x <> y", &rows, &["x", "y"], &[F, T, F, T, U, T]);
    check_rows("x < y", &rows, &["x", "y"], &[F, T, U, U, U, F]);
    check_rows("x + y > 11", &rows, &["x", "y"], &[F, F, U, U, U, T]);
    check_rows("x = y AND z = 1", &rows, &["x", "y"], &[U, F, U, F, U, F]);
}

#[test]
fn functions_of_text_take_text_and_give_strings() {
    let values = [text("Ab"), text("05"), text("7"), str("é "), Some(Value::I64(7)), None];
    check("UPPER(x) = 'AB'", &values, &[T, F, F, F, U, U]);
    check("LOWER(x) IN ('ab', '7')", &values, &[T, F, T, F, U, U]);
    check("LENGTH(x) = 2", &values, &[T, T, F, T, U, U]);
    check("TRIM(x) = 'é'", &values, &[F, F, F, T, U, U]);
    check("CONCAT(x, '!', x) ENDSWITH '!7'", &values, &[F, F, T, F, U, U]);
    check("SUBSTRING(x, 2) = '5'", &values, &[F, T, F, F, U, U]);
    // What is made is a string, so it has the order of texts and is no number.
    check("SUBSTRING(x, 1) > '1'", &values, &[T, F, T, T, U, U]);
    check("UPPER(x) = x", &values, &[F, T, T, F, U, U]);
    check("x REGEXP '^[0-9]+$'", &values, &[F, T, T, F, U, U]);
    check("x NOT REGEXP 'A'", &values, &[F, T, T, T, U, U]);
}

#[test]
fn substrings_are_what_lies_in_the_range() {
    let value = [text("añ😀d")];
    for (from, count, expected) in [
        ("1", "", "añ😀d"),
        ("2", ", 2", "ñ😀"),
        ("0", ", 2", "a"),
        ("-5", ", 2", ""),
        ("-1", "", "añ😀d"),
        ("4", ", 100", "d"),
        ("5", ", 1", ""),
        ("9223372036854775807", "", ""),
        ("-9223372036854775808", ", 9223372036854775807", ""),
        ("2.0", ", 1e0", "ñ"),
    ] {
        check(&format!("SUBSTRING(x, {from}{count}) = '{expected}'"), &value, &[T]);
    }
    for none in ["1.5", "1, -1", "1, 0.5", "x", "1e300"] {
        check(&format!("SUBSTRING(x, {none}) IS NULL"), &value, &[T]);
    }
}

#[test]
fn functions_of_numbers_take_numbers_and_number_text() {
    let values = [text("-2.5"), text("05"), Some(Value::F64(2.5)), text("x"), str("5"), None];
    check("ABS(x) = 2.5", &values, &[T, F, T, U, U, U]);
    check("ROUND(x) = -3", &values, &[T, F, F, U, U, U]);
    check("FLOOR(x) IN (-3, 2, 5)", &values, &[T, T, T, U, U, U]);
    check("CEIL(x) = -2", &values, &[T, F, F, U, U, U]);
    check("MOD(x, 2) = 0.5", &values, &[F, F, T, U, U, U]);
    check("ABS(x) IS NULL", &values, &[F, F, F, T, T, T]);
    check("ABS(x) >= 0", &[text("-9223372036854775808"), Some(Value::F64(f64::NAN))], &[U, U]);
    check("MOD(x, 0) = 0", &[text("5")], &[U]);
}

#[test]
fn coalesce_and_nullif_give_values_as_they_are() {
    let values = [text("05"), text("x"), str("5"), Some(Value::Bool(true)), None];
    check("COALESCE(x, 5) = 5", &values, &[T, U, U, U, T]);
    check("COALESCE(x, '5') = '5'", &values, &[F, F, T, U, T]);
    check("COALESCE(y, x, TRUE)", &values, &[U, U, U, T, T]);
    check("COALESCE(x, y) IS NULL", &values, &[F, F, F, F, T]);
    check("NULLIF(x, 5) IS NULL", &values, &[T, F, F, F, T]);
    check("NULLIF(x, y) = '05'", &values, &[T, F, F, U, U]);
    check("NULLIF(x, x) = x", &values, &[U, U, U, U, U]);
}

#[test]
fn text_that_gets_too_long_is_null() {
    let values = [text(&"a".repeat(32_768)), text(&"a".repeat(32_769)), text(&"ß".repeat(16_384))];
    check("CONCAT(x, x) IS NULL", &values, &[F, T, F]);
    let upper = [text(&"ŉ".repeat(21_845)), text(&"ŉ".repeat(21_846))];
    check("UPPER(x) IS NULL", &upper, &[F, T]);
}

#[test]
fn now_is_one_moment_and_null_before_there_is_one() {
    let born = |time| Row { system: [(System::BornTime, Value::I64(time))].into(), ..Row::default() };
    let rows = VecRows::new(vec![born(1000), born(5000)]);
    let selector = |text| Selector::parse(text, Dialect::Sql92, &Limits::default()).unwrap();
    let young = selector("sys.born_time > NOW() - 2000");
    assert!(young.depends_on_now() && !selector("sys.born_time > 5 OR NOW() > NULL").depends_on_now());
    let predicate = Arc::new(Predicate::new(&young));
    let matches =
        |predicate: &Predicate| predicate.evaluate(&rows, None).unwrap().matches.iter().collect::<Vec<_>>();
    assert_eq!(matches(&predicate), [false, false]);
    assert_eq!(matches(&predicate.at(2000)), [true, true]);
    assert_eq!(matches(&predicate.at(6000)), [false, true]);
    assert_eq!(matches(&predicate.at(6000).at(2000)), [true, true]);
    let constant = Arc::new(Predicate::new(&selector("sys.born_time > 2000")));
    assert!(Arc::ptr_eq(&constant, &constant.at(1)));
}

fn keys(keys: &str) -> Row {
    Row { system: [(System::Keys, Value::Text(keys.to_owned()))].into_iter().collect(), ..Row::default() }
}

/// Hashes answer most rows; only what they leave open is read.
#[test]
fn hashed_columns_are_read_only_where_they_may_match() {
    let rows: Vec<Row> = (0..100).map(|n| keys(&format!("order-{n} batch"))).collect();
    for (text, matching, read) in [
        ("sys.keys = 'order-7 batch'", 1, 1),
        ("sys.keys = 'order-7'", 0, 0),
        ("sys.keys IN ('order-7 batch', 'order-8 batch', 'x')", 2, 2),
        ("sys.keys <> 'order-7 batch'", 99, 1),
        ("sys.keys IS NULL", 0, 0),
        ("sys.keys CONTAINS '7 '", 10, 100),
        ("sys.queue_id = 1 AND sys.keys CONTAINS '7 '", 0, 100),
        ("FALSE AND sys.keys CONTAINS '7 '", 0, 0),
        ("(sys.keys = 'x') IS NULL", 0, 100),
    ] {
        let selector = Selector::parse(text, Dialect::Sql92, &Limits::default()).unwrap();
        let rows = VecRows::new(rows.clone()).with_shape(ColumnRef::System(System::Keys), Shape::Hashed);
        let verdicts = Predicate::new(&selector).evaluate(&rows, None).unwrap();
        assert_eq!((verdicts.matches.count_set_bits(), rows.values_read()), (matching, read), "{text}");
    }
}

/// Everything else is asked first; where FALSE and UNKNOWN are one, fewer rows are open.
#[test]
fn bodies_are_read_only_where_all_else_leaves_a_row_open() {
    let row = |n: i64| {
        let mut row = keys(&format!("order-{n} batch"));
        row.body = Some(format!("{{\"n\":{n},\"odd\":{}}}", n % 2 == 1).into_bytes());
        if n < 90 {
            row.properties.insert("x".to_owned(), Value::Text(n.to_string()));
        }
        row
    };
    let rows: Vec<Row> = (0..100).map(row).collect();
    for (text, matching, bodies, bodies_for_truth) in [
        ("JSON_VALUE(body, '$.n') = 7", 1, 100, 100),
        ("JSON_VALUE(body, '$.n') < 50 AND x >= 40", 10, 50, 60),
        ("x >= 40 AND JSON_VALUE(body, '$.odd') AND JSON_VALUE(body, '$.n') < 50", 5, 50, 60),
        ("x < 40 OR JSON_VALUE(body, '$.n') >= 95", 45, 60, 60),
        ("x < 0 AND JSON_VALUE(body, '$.n') = 7", 0, 0, 10),
        ("NOT (x < 10 OR JSON_VALUE(body, '$.n') < 85)", 5, 80, 90),
        ("x IS NULL AND (JSON_VALUE(body, '$.n') > 5) IS NULL", 0, 10, 10),
        ("(x = 3) = JSON_VALUE(body, '$.odd')", 46, 100, 100),
        ("sys.keys CONTAINS '7 ' AND JSON_VALUE(body, '$.n') > 50", 5, 10, 10),
        ("x < 50 OR FALSE AND JSON_VALUE(body, '$.n') = 7", 50, 0, 0),
        ("COALESCE(x, JSON_VALUE(body, '$.n')) = 95", 1, 100, 100),
    ] {
        let selector = Selector::parse(text, Dialect::Sql92, &Limits::default()).unwrap();
        let predicate = Predicate::new(&selector);
        let new = || VecRows::new(rows.clone()).with_shape(ColumnRef::System(System::Keys), Shape::Hashed);
        let (rows, for_truth) = (new(), new());
        let matches = predicate.matches(&rows, None).unwrap();
        assert_eq!((matches.count_set_bits(), rows.bodies_read()), (matching, bodies), "{text}");
        let verdicts = predicate.evaluate(&for_truth, None).unwrap();
        assert_eq!((verdicts.matches, for_truth.bodies_read()), (matches, bodies_for_truth), "{text}");
        assert_eq!(selector.reads_bodies(), bodies > 0 || bodies_for_truth > 0, "{text}");
    }
}

/// More bodies than are looked into at once.
#[test]
fn bodies_are_looked_into_some_at_a_time() {
    let row = |n: i64| Row { body: Some(format!("[{n}]").into_bytes()), ..Row::default() };
    let rows = VecRows::new((0..1000).map(row).collect());
    let selector = Selector::parse("JSON_VALUE(body, '$[0]') % 3 = 0", Dialect::Sql92, &Limits::default());
    let matches = Predicate::new(&selector.unwrap()).matches(&rows, None).unwrap();
    let expected: Vec<usize> = (0..1000).filter(|n| n % 3 == 0).collect();
    assert_eq!(matches.set_indices().collect::<Vec<_>>(), expected);
    assert_eq!(rows.bodies_read(), 1000);
}

#[test]
fn the_name_body_is_a_property_outside_of_json_value() {
    let mut row: Row = [("body", Value::Text("a property".to_owned()))].into_iter().collect();
    row.body = Some(b"{\"a\":\"b\"}".to_vec());
    check_rows("body = 'a property' AND JSON_VALUE(body, '$.a') = 'b'", &[row], &["body"], &[T]);
}

#[test]
fn tags_are_a_list_and_the_star_is_everything() {
    for (expression, text) in [
        ("*", "TRUE"),
        (" ", "TRUE"),
        ("a", "sys.tag IN ('a')"),
        (" a || b||a ", "sys.tag IN ('a', 'b')"),
        ("it's || x", "sys.tag IN ('it''s', 'x')"),
    ] {
        let selector = Selector::parse_tags(expression, &Limits::default()).unwrap();
        assert_eq!(selector.text(), text, "{expression}");
        assert_eq!(selector, Selector::parse(text, Dialect::Sql92, &Limits::default()).unwrap());
        assert_eq!(selector.matches_all(), text == "TRUE");
    }
    assert!(Selector::parse_tags("||", &Limits::default()).is_err());
    let many = (0..257).map(|n| n.to_string()).collect::<Vec<_>>().join("||");
    assert!(Selector::parse_tags(&many, &Limits::default()).unwrap_err().message().contains("256"));
}

#[test]
fn a_mask_of_another_length_is_refused() {
    let predicate = Predicate::new(&Selector::all());
    let rows = VecRows::new(vec![Row::default(); 3]);
    let mask = arrow_buffer::BooleanBuffer::new_set(4);
    assert!(predicate.evaluate(&rows, Some(&mask)).is_err());
    assert_eq!(predicate.evaluate(&rows, None).unwrap().matches.count_set_bits(), 3);
}
