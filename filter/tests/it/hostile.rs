//! Texts made to hurt: each is answered at once, with an error or a selector.

use std::time::{Duration, Instant};

use weir_columns::{ColumnRef, Value};
use weir_filter::{
    Dialect, Limits, Predicate, Selector, SelectorError,
    oracle::{Row, Shape, VecRows},
};

fn parse(text: &str) -> Result<Selector, SelectorError> {
    Selector::parse(text, Dialect::Sql92, &Limits::default())
}

/// Limits that only the depth bounds.
const WIDE: Limits = Limits {
    text_bytes_max: usize::MAX,
    tokens_max: usize::MAX,
    depth_max: usize::MAX,
    list_max: usize::MAX,
    pattern_bytes_max: usize::MAX,
    cost_max: u64::MAX,
};

#[test]
fn negations_and_signs_in_a_row_are_fine() {
    assert!(parse(&format!("{}a", "NOT ".repeat(40))).is_ok());
    assert!(parse(&format!("a = {}5", "- ".repeat(400))).is_ok());
    assert!(Selector::parse(&format!("{}a", "NOT ".repeat(100_000)), Dialect::Sql92, &WIDE).is_ok());
}

#[test]
fn deep_nesting_is_refused_where_it_gets_too_deep() {
    assert!(parse(&format!("{}a = 5{}", "(".repeat(32), ")".repeat(32))).is_ok());
    assert_eq!(parse(&format!("{}a = 5{}", "(".repeat(33), ")".repeat(33))).unwrap_err().position(), 32);
    let deep = "(".repeat(100_000);
    assert!(parse(&deep).unwrap_err().message().contains("8192 bytes"));
    // No setting lets a text recurse without bound.
    assert_eq!(Selector::parse(&deep, Dialect::Sql92, &WIDE).unwrap_err().position(), Limits::DEPTH_CEILING);
    let alternating = "NOT (".repeat(100_000);
    assert!(Selector::parse(&alternating, Dialect::Sql92, &WIDE).is_err());
}

#[test]
fn wide_selectors_make_wide_trees() {
    let one_column: Vec<String> = (0..50_000).map(|n| format!("a = {n}")).collect();
    let text = one_column.join(" OR ");
    assert!(parse(&text).is_err());
    let selector = Selector::parse(&text, Dialect::Sql92, &WIDE).unwrap();
    let row: Row = [("a", Value::Text("49999".to_owned()))].into_iter().collect();
    let verdicts = Predicate::new(&selector).evaluate(&VecRows::new(vec![row]), None).unwrap();
    assert!(verdicts.matches.value(0));

    let many_columns: Vec<String> = (0..20_000).map(|n| format!("a{n} = 1")).collect();
    let selector = Selector::parse(&many_columns.join(" AND "), Dialect::Sql92, &WIDE).unwrap();
    assert_eq!(selector.columns().count(), 20_000);

    let sum = vec!["1"; 100_000].join(" + ");
    assert!(Selector::parse(&format!("a = {sum}"), Dialect::Sql92, &WIDE).is_ok());
}

#[test]
fn calls_nest_as_deep_as_parentheses_and_may_be_wide() {
    let deep = |depth| format!("{}a{} = 'x'", "UPPER(".repeat(depth), ")".repeat(depth));
    assert!(parse(&deep(32)).is_ok());
    assert_eq!(parse(&deep(33)).unwrap_err().position(), 32 * 6 + 5);
    for call in ["UPPER(", "CONCAT(a, ", "MOD(1, ", "REGEXP(", "NOW(", "SUBSTRING(a FROM "] {
        assert!(Selector::parse(&call.repeat(100_000), Dialect::Sql92, &WIDE).is_err());
    }
    let wide = format!("CONCAT({}) = 'x'", vec!["a"; 200_000].join(", "));
    assert!(Selector::parse(&wide, Dialect::Sql92, &WIDE).is_ok());
    let many = vec!["UPPER(a) = COALESCE(b, 'x')"; 30_000].join(" OR ");
    assert!(Selector::parse(&many, Dialect::Sql92, &WIDE).is_ok());
    let error = parse(&vec!["a REGEXP 'x'"; 17].join(" OR ")).unwrap_err();
    assert!(error.message().contains("16 regular expressions") && error.position() == 16 * 16 + 9, "{error}");
}

#[test]
fn what_costs_too_much_is_refused_at_its_most_expensive_part() {
    let opened = |count| vec!["JSON_VALUE(body, '$.a') = 1"; count].join(" OR ");
    assert_eq!(parse(&opened(12)).unwrap().cost(), 12 * 20_020);
    let error = parse(&format!("a REGEXP 'x' OR {}", opened(13))).unwrap_err();
    assert!(error.message().contains("265280 ns at worst, and 250000 are allowed"), "{error}");
    assert_eq!(error.position(), 16);
    // Nothing else can cost so much within the other limits.
    let expressions = vec!["a REGEXP 'x'"; 16].join(" OR ");
    let patterns = vec!["a LIKE '%_%'"; 80].join(" OR ");
    assert!(parse(&format!("{expressions} OR {patterns}")).is_ok());
}

#[test]
fn bounds_are_told_with_their_place() {
    let list: Vec<String> = (0..257).map(|n| n.to_string()).collect();
    let error = Selector::parse(
        &format!("a IN ({})", list.join(",")),
        Dialect::Sql92,
        &Limits { tokens_max: 10_000, ..Limits::default() },
    );
    assert!(error.unwrap_err().message().contains("256 entries"));
    let error = parse(&format!("a LIKE '{}'", "x".repeat(1025))).unwrap_err();
    assert!(error.message().contains("1024 bytes") && error.position() == 7, "{error}");
    let error = parse(&vec!["a"; 300].join(" OR ")).unwrap_err();
    assert!(error.message().contains("512 words"), "{error}");
}

#[test]
fn garbage_is_refused_at_once() {
    let start = Instant::now();
    for byte in ["\0", "(", "'", "a", "é", "-", "/*", "NOT ", "0", "\u{feff}"] {
        let text = byte.repeat((1 << 20) / byte.len());
        let error = parse(&text).unwrap_err();
        assert!(error.report(&text).len() < 1000);
        let long = Selector::parse(&text, Dialect::Sql92, &WIDE);
        assert!(byte == "a" || byte == "é" || long.is_err());
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn patterns_made_to_be_slow_are_judged_in_linear_time() {
    let start = Instant::now();
    let rows: Vec<Row> =
        (0..50).map(|n| [("a", Value::Text("a".repeat(10_000 + n)))].into_iter().collect()).collect();
    for pattern in ["%a".repeat(400) + "b", "%a_".repeat(300) + "%b", "_".repeat(900) + "%b"] {
        let selector = parse(&format!("a LIKE '{pattern}'")).unwrap();
        for shape in [Shape::Dictionary, Shape::Plain] {
            let rows = VecRows::new(rows.clone()).with_shape(ColumnRef::Property("a"), shape);
            let verdicts = Predicate::new(&selector).evaluate(&rows, None).unwrap();
            assert_eq!(verdicts.matches.count_set_bits(), 0);
        }
    }
    for expression in ["(a*)*b", "(a|a)*b", "(a|aa)+$b", "a{0,50}a{0,50}b", "(.*)(.*)(.*)b"] {
        let selector = parse(&format!("a REGEXP '{expression}'")).unwrap();
        let verdicts = Predicate::new(&selector).evaluate(&VecRows::new(rows.clone()), None).unwrap();
        assert_eq!(verdicts.matches.count_set_bits(), 0);
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

const EXACT: [Dialect; 2] = [Dialect::RocketMq, Dialect::Jms];

#[test]
fn exact_dialects_nest_no_deeper_than_allowed() {
    for dialect in EXACT {
        for (text, accepted) in [
            (format!("{}a", "NOT ".repeat(40)), true),
            (format!("{}a", "NOT ".repeat(100_000)), true),
            (format!("a = {}5", "- ".repeat(100_000)), true),
            (format!("{}a = 5{}", "(".repeat(64), ")".repeat(64)), true),
            (format!("{}a = 5{}", "(".repeat(65), ")".repeat(65)), false),
            ("(".repeat(100_000), false),
            ("NOT (".repeat(100_000), false),
            (format!("{}a{}", "(".repeat(100_000), ")".repeat(100_000)), false),
            (format!("a = 1{}", " = TRUE".repeat(100_000)), true),
        ] {
            let parsed = Selector::parse(&text, dialect, &WIDE);
            assert_eq!(parsed.is_ok(), accepted, "{dialect} {}", &text[..20]);
            let Ok(selector) = parsed else { continue };
            let row: Row = [("a", Value::Text("5".to_owned()))].into_iter().collect();
            Predicate::new(&selector).evaluate(&VecRows::new(vec![row]), None).unwrap();
        }
    }
    let calls = format!("REGEX({}'a', 'b'{}", "REPLACE(".repeat(100_000), ")".repeat(100_000));
    assert!(Selector::parse(&calls, Dialect::Jms, &WIDE).is_err());
}

#[test]
fn exact_dialects_make_wide_trees_of_wide_texts() {
    let start = Instant::now();
    for dialect in EXACT {
        for (term, word) in [("a = ", " OR "), ("b <> ", " AND "), ("a = b OR a = ", " OR ")] {
            let terms: Vec<String> = (0..50_000).map(|n| format!("{term}{n}")).collect();
            let selector = Selector::parse(&terms.join(word), dialect, &WIDE).unwrap();
            let row: Row = [("a", Value::Text("49999".to_owned())), ("b", Value::Text("x".to_owned()))]
                .into_iter()
                .collect();
            let verdicts = Predicate::new(&selector).evaluate(&VecRows::new(vec![row]), None).unwrap();
            let matches = verdicts.matches.value(0);
            assert_eq!(
                matches,
                if dialect == Dialect::RocketMq { term.starts_with('a') } else { term.starts_with('b') }
            );
        }
    }
    let sum = vec!["1"; 100_000].join(" + ");
    assert!(Selector::parse(&format!("a = {sum}"), Dialect::Jms, &WIDE).is_ok());
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn exact_dialects_tell_their_bounds() {
    for dialect in EXACT {
        let parse = |text: &str| Selector::parse(text, dialect, &Limits::default());
        let list = vec!["'x'"; 257].join(",");
        let wide = Limits { tokens_max: 10_000, ..Limits::default() };
        let error = Selector::parse(&format!("a IN ({list})"), dialect, &wide).unwrap_err();
        assert!(error.message().contains("256 entries") && error.position() == 2, "{error}");
        let error = parse(&vec!["a"; 300].join(" OR ")).unwrap_err();
        assert!(error.message().contains("512 words"), "{error}");
        assert!(parse(&"a".repeat(8193)).unwrap_err().message().contains("8192 bytes"));
        let word = if dialect == Dialect::Jms { "LIKE" } else { "CONTAINS" };
        let error = parse(&format!("a {word} '{}'", "x".repeat(1025))).unwrap_err();
        assert!(error.message().contains("1024 bytes"), "{error}");
    }
}

#[test]
fn exact_dialects_answer_garbage_at_once() {
    let start = Instant::now();
    for dialect in EXACT {
        for byte in [
            "\0", "(", ")", "'", "a", "é", "-", "/*", "NOT ", "0", "5", "1e", ".", "\u{feff}", "a.", "a-",
            "--", "*/", "''", "<", ",", "a,", "F(", "a=", "\n", "a IN", "/", "%", "a AND ", "😀",
        ] {
            for lead in ["", "a = 5 ", "a LIKE '", "F("] {
                let text = format!("{lead}{}", byte.repeat((1 << 20) / byte.len()));
                for limits in [WIDE, Limits::default()] {
                    if let Err(error) = Selector::parse(&text, dialect, &limits) {
                        assert!(error.report(&text).len() < 1000);
                    }
                }
            }
        }
    }
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn texts_do_not_grow_without_bound_while_they_are_computed() {
    let start = Instant::now();
    let mut text = "x".to_owned();
    for _ in 0..30 {
        text = format!("REPLACE({text}, 'a', '{}')", "a".repeat(200));
    }
    let sum = vec!["x"; 400].join(" + ");
    let split = "INLIST(SPLIT(x, ''), 'b')".to_owned();
    let regex = "REGEX('(a|a)*(a|aa)*b$', x)".to_owned();
    for text in [format!("{text} = 'a'"), format!("{sum} = 'a'"), split, regex] {
        let selector = Selector::parse(&text, Dialect::Jms, &WIDE).unwrap();
        let row: Row = [("x", Value::Str("a".repeat(100_000)))].into_iter().collect();
        let verdicts = Predicate::new(&selector).evaluate(&VecRows::new(vec![row]), None).unwrap();
        assert!(!verdicts.matches.value(0), "{text}");
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}
