//! Damaged selectors: texts of a corpus, cut, spliced and sprinkled. None may panic, whatever the dialect, and
//! what is accepted judges rows, prunes blocks and can be cut into its parts.
//!
//! The corpus lies in `filter/tests/corpus`, a text a line and a file a dialect. `PROPTEST_CASES` asks for
//! more than a few seconds of it; `cargo xtask fuzz-selectors` does so for minutes.

use std::sync::{Arc, LazyLock};

use proptest::{prelude::*, sample::select};
use weir_columns::{ColumnRef, Rows, System, Value};
use weir_filter::{
    Dialect, Limits, Part, Predicate, Selector,
    oracle::{Row, Shape, VecRows, VecStatistics},
};

/// What is put between two pieces of text: words of the languages, and characters that are in none.
const TOKENS: &[&str] = &[
    " ",
    "(",
    ")",
    "((((",
    "))))",
    "'",
    "''",
    "\"",
    ",",
    ".",
    "=",
    "<>",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "+",
    "-",
    "*",
    "/",
    "%",
    "--",
    "/*",
    "*/",
    "\n",
    "\0",
    "\u{1}",
    "\u{b}",
    "\u{a0}",
    "😀",
    "é",
    "٥",
    "AND",
    "OR",
    "NOT ",
    "NOT NOT NOT ",
    "BETWEEN",
    "IN",
    "IS",
    "NULL",
    "LIKE",
    "ESCAPE",
    "CONTAINS",
    "STARTSWITH",
    "ENDSWITH",
    "TRUE",
    "FALSE",
    "REGEXP",
    "NOW()",
    "INTERVAL",
    "JSON_VALUE(body, '$.a[0]')",
    "REGEX('(a*)*b', a)",
    "XPATH",
    "sys.",
    "sys.tag",
    "a",
    "b",
    "c",
    "0",
    "-0",
    "0x",
    "0x1p3",
    "010",
    "1e",
    "1e400",
    "5d",
    "99999999999999999999",
    "5L",
    "'%_'",
    "'a' ESCAPE '!'",
    "convert_string_expressions:",
    ":p",
    "?",
    "SUBSTRING(a,",
    "UPPER(",
    "a.b.c",
];

fn corpus(dialect: Dialect) -> &'static [&'static str] {
    static TEXTS: LazyLock<[Vec<&str>; 3]> = LazyLock::new(|| {
        [
            include_str!("../corpus/sql92.txt").lines().collect(),
            include_str!("../corpus/rocketmq.txt").lines().collect(),
            include_str!("../corpus/jms.txt").lines().collect(),
        ]
    });
    &TEXTS[dialect as usize]
}

/// What is done to a text. Places are shares of its length.
#[derive(Clone, Debug)]
enum Damage {
    Insert(f64, &'static str),
    Remove(f64, f64),
    Repeat(f64, f64, usize),
    Splice(f64, &'static str, f64),
}

fn damage(dialect: Dialect) -> impl Strategy<Value = Damage> {
    let place = || 0.0..1.0_f64;
    prop_oneof![
        4 => (place(), select(TOKENS)).prop_map(|(at, token)| Damage::Insert(at, token)),
        3 => (place(), place()).prop_map(|(at, length)| Damage::Remove(at, length * length)),
        1 => (place(), place(), 2..40_usize).prop_map(|(at, length, times)| Damage::Repeat(at, length, times)),
        2 => (place(), select(corpus(dialect)), place()).prop_map(|(at, text, from)| Damage::Splice(at, text, from)),
    ]
}

/// The byte at a share of the length of `text`, moved to the start of its character.
fn at(text: &str, share: f64) -> usize {
    let mut at = ((text.len() as f64 * share) as usize).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn damaged(text: &str, damages: &[Damage]) -> String {
    let mut text = text.to_owned();
    for damage in damages {
        match damage {
            Damage::Insert(place, token) => text.insert_str(at(&text, *place), token),
            Damage::Remove(place, length) => {
                let (start, end) = (at(&text, *place), at(&text, place + (1.0 - place) * length));
                text.replace_range(start..end, "");
            }
            Damage::Repeat(place, length, times) => {
                let (start, end) = (at(&text, *place), at(&text, place + (1.0 - place) * length));
                let piece = text[start..end].repeat(*times);
                text.replace_range(start..end, &piece);
            }
            Damage::Splice(place, other, from) => {
                let start = at(&text, *place);
                text.replace_range(start.., &other[at(other, *from)..]);
            }
        }
        text.truncate(at(&text, 10_000.0 / (text.len().max(10_000)) as f64));
    }
    text
}

/// Rows in which the names of the corpus have values of every sort, and columns have every shape.
fn rows() -> VecRows {
    let values = [
        Value::Text("5".to_owned()),
        Value::Text("EU".to_owned()),
        Value::Text("x".repeat(3000)),
        Value::Text("boom 5d NaN 0x1p3".to_owned()),
        Value::Str("EU".to_owned()),
        Value::Bool(true),
        Value::I32(i32::MIN),
        Value::I64(i64::MIN),
        Value::F32(f32::NAN),
        Value::F64(-0.0),
        Value::F64(f64::INFINITY),
        Value::Text(String::new()),
    ];
    let names = [
        "a", "b", "c", "d", "x", "y", "region", "price", "color", "sku", "vip", "qty", "age", "rate", "n",
        "s", "t", "p", "q", "e", "flag", "total", "h", "w", "Z9", "$tag", "_ok",
    ];
    let row = |index: usize| -> Row {
        let present = names.iter().enumerate().filter(|(place, _)| !(index + place).is_multiple_of(5));
        present.map(|(place, name)| (*name, values[(index * 7 + place) % values.len()].clone())).collect()
    };
    let mut rows = VecRows::new((0..24).map(row).collect());
    let shapes = [Shape::Dictionary, Shape::Sparse, Shape::Plain, Shape::Hashed];
    for (place, name) in names.iter().enumerate() {
        rows = rows.with_shape(ColumnRef::Property(name), shapes[place % shapes.len()]);
    }
    rows.with_shape(ColumnRef::System(System::Keys), Shape::Hashed)
}

fn check(text: &str, dialect: Dialect) {
    let limits = Limits::default();
    let selector = match Selector::parse(text, dialect, &limits) {
        Ok(selector) => selector,
        Err(error) => {
            assert!(error.position() <= text.len());
            assert!(error.report(text).len() < 4000, "{text}");
            return;
        }
    };
    assert_eq!(selector.text(), text);
    let rows = rows();
    let predicate = Arc::new(Predicate::new(&selector));
    let verdicts = predicate.evaluate(&rows, None).unwrap();
    let may_match = predicate.may_match(&VecStatistics::exact(std::slice::from_ref(&rows)));
    assert!(may_match.value(0) || !verdicts.matches.has_true(), "{text} loses rows");
    // Judged alone, every row is what it is among the others.
    for row in 0..rows.len() {
        let only = arrow_buffer::BooleanBuffer::collect_bool(rows.len(), |at| at == row);
        let alone = predicate.evaluate(&rows, Some(&only)).unwrap();
        assert_eq!(alone.matches.value(row), verdicts.matches.value(row), "{text} in row {row}");
    }
    Part::of(&selector, &limits).for_each(&mut |part| {
        assert!(text[part.at..].starts_with(part.selector.text()), "{text}");
    });
}

proptest! {
    #![proptest_config(super::random::config())]

    #[test]
    fn damaged_sql92_is_refused_or_judged(
        (text, damages) in (select(corpus(Dialect::Sql92)), prop::collection::vec(damage(Dialect::Sql92), 0..6))
    ) {
        check(&damaged(text, &damages), Dialect::Sql92);
    }

    #[test]
    fn damaged_rocketmq_is_refused_or_judged(
        (text, damages) in (select(corpus(Dialect::RocketMq)), prop::collection::vec(damage(Dialect::RocketMq), 0..6))
    ) {
        check(&damaged(text, &damages), Dialect::RocketMq);
    }

    #[test]
    fn damaged_jms_is_refused_or_judged(
        (text, damages) in (select(corpus(Dialect::Jms)), prop::collection::vec(damage(Dialect::Jms), 0..6))
    ) {
        check(&damaged(text, &damages), Dialect::Jms);
    }

    #[test]
    fn any_text_is_refused_or_judged(text in "\\PC{0,60}|[ -~\\n]{0,80}") {
        for dialect in Dialect::ALL {
            check(&text, dialect);
        }
    }
}
