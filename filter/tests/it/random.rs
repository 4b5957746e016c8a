//! Random selectors over random rows: the fast way, the pruning and the oracle always agree.
//!
//! On a failure proptest prints the smallest input that it found and keeps its seed in
//! `proptest-regressions`.

use std::{fmt::Write, sync::Arc};

use arrow_buffer::BooleanBuffer;
use proptest::{prelude::*, sample::select, strategy::Union};
use weir_columns::{ColumnRef, Rows, System, Value};
use weir_filter::{
    Dialect, Limits, Predicate, Selector, Truth,
    oracle::{Oracle, Row, Shape, VecRows, VecStatistics},
};

/// Texts on which the languages of the world disagree whether they are numbers, and some others.
pub(super) const TEXTS: &[&str] = &[
    "5",
    "05",
    "+5",
    "5.0",
    "5.",
    ".5",
    "1e1",
    "10",
    "10.5",
    "-3",
    "-0",
    "-0.0",
    "0",
    "9007199254740993",
    "9007199254740992",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "1e400",
    " 5",
    "5d",
    "NaN",
    "Infinity",
    "٥",
    "",
    " ",
    "true",
    "TRUE",
    "False",
    "EU",
    "US",
    "EU US",
    "europe",
    "e",
    "a b",
    "a",
    "b",
    "ab",
    "a%b",
    "50%",
    "a_b",
    "2013-06-01",
    "2013-07-01",
    "1970-01-01T00:00:00.005Z",
    "1970-01-01 02:00:00.01+02:00",
    " a ",
    "Straße",
    "é",
    "😀",
    "\u{ffff}",
];

const INT_TEXTS: &[&str] =
    &["0", "1", "5", "10", "-3", "31", "9007199254740993", "9223372036854775807", "-9223372036854775808"];

const NUMBERS: &[&str] = &[
    "5",
    "-5",
    "10.5",
    "0",
    "0.0",
    "-0.0",
    "10",
    "9007199254740993",
    "9007199254740992.0",
    "9007199254740994e0",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808.0",
    "1e1",
    "0x1F",
    "5.",
    ".5",
    "3",
    "5L",
    "1e308",
    "0.1",
];

pub(super) const PATTERNS: &[&str] =
    &["%", "E%", "EU", "%U", "%e%", "_", "a_b", "a!_b", "50!%", "%0", "", "5%", "2013%", "__", "a%b", "%\\%"];

const EXPRESSIONS: &[&str] =
    &["", "^E", "U$", "^[0-9]+$", "e|5", "a.b", "^.$", "\\.", "(?i)eu", "[^a-z]", "^$", "é", "0{2,}"];

const BODIES: &[&str] = &[
    "",
    "no JSON",
    "5",
    "\"EU\"",
    "null",
    "{\"a\":5,\"b\":\"EU\"}",
    "{\"a\":5.5,\"b\":\"5\",\"c\":[true,{\"a\":10}]}",
    "{\"a\":\"é\",\"b\":null,\"c\":[false]}",
    "{\"a\":[1],\"b\":{\"a\":1},\"a\":3}",
    "{\"a\":9223372036854775808,\"b\":-0.0,\"c\":[]",
    "[1,{\"a\":2}]",
];

const PATHS: &[&str] = &["$", "$.a", "$.b", "$.c[0]", "$.c[1].a", "$[1].a", "$[\"a\"]"];

/// What NOW is in every scan.
const NOW_MS: i64 = 10;

const PROPERTIES: &[&str] = &["a", "b", "c", "d", "größe.mm", "sys.x"];

const SYSTEM: &[System] = &[System::Tag, System::Keys, System::QueueId, System::StoreTime];

/// How the values of one column are chosen, so that every shape has columns that fit it.
#[derive(Clone, Copy, Debug)]
enum Profile {
    Ints,
    Strings,
    Mixed,
}

fn value(profile: Profile) -> BoxedStrategy<Value> {
    let text = |from: &'static [&'static str]| select(from).prop_map(|text| Value::Text(text.to_owned()));
    match profile {
        Profile::Ints => text(INT_TEXTS).boxed(),
        Profile::Strings => {
            prop_oneof![3 => text(TEXTS), 1 => select(TEXTS).prop_map(|text| Value::Str(text.to_owned()))]
                .boxed()
        }
        Profile::Mixed => prop_oneof![
            8 => text(TEXTS),
            2 => select(TEXTS).prop_map(|text| Value::Str(text.to_owned())),
            1 => any::<bool>().prop_map(Value::Bool),
            1 => select(&[0, 5, -3, i32::MAX][..]).prop_map(Value::I32),
            1 => select(&[5, 10, i64::MAX, i64::MIN, (1 << 53) + 1][..]).prop_map(Value::I64),
            1 => select(&[0.1_f32, 5.0, f32::NAN, -0.0][..]).prop_map(Value::F32),
            1 => select(&[5.0, 10.5, f64::NAN, f64::INFINITY, -0.0, 1e308][..]).prop_map(Value::F64),
        ]
        .boxed(),
    }
}

fn system_value(system: System) -> BoxedStrategy<Value> {
    if system.is_int() {
        select(&[0_i64, 3, 5, 10, i64::MAX][..]).prop_map(Value::I64).boxed()
    } else {
        select(TEXTS).prop_map(|text| Value::Text(text.to_owned())).boxed()
    }
}

/// The values of one column: some rows lack it, all lack it, or none.
fn gaps(value: BoxedStrategy<Value>, rows: usize) -> BoxedStrategy<Vec<Option<Value>>> {
    let column =
        move |share: f64| proptest::collection::vec(proptest::option::weighted(share, value.clone()), rows);
    prop_oneof![4 => column(0.8), 2 => column(0.1), 1 => column(0.999_999), 1 => column(0.000_001)].boxed()
}

pub(super) fn block() -> impl Strategy<Value = VecRows> {
    let rows = prop_oneof![4 => 0..12_usize, 1 => 60..70_usize];
    let shape = || select(&Shape::ALL[..]);
    let profile = || select(&[Profile::Ints, Profile::Strings, Profile::Mixed][..]);
    let properties = proptest::collection::vec((profile(), shape()), PROPERTIES.len());
    let system = proptest::collection::vec(shape(), SYSTEM.len());
    (rows, properties, system).prop_flat_map(|(rows, properties, system)| {
        let shapes: Vec<Shape> = properties.iter().map(|(_, shape)| *shape).chain(system).collect();
        let properties = properties.into_iter().map(|(profile, _)| gaps(value(profile), rows));
        let system = SYSTEM.iter().map(|system| gaps(system_value(*system), rows));
        let columns: Vec<_> = properties.chain(system).collect();
        let bodies = gaps(select(BODIES).prop_map(|body| Value::Str(body.to_owned())).boxed(), rows);
        (columns, bodies, Just(shapes))
            .prop_map(move |(columns, bodies, shapes)| present(rows, &columns, &bodies, &shapes))
    })
}

fn present(
    rows: usize,
    columns: &[Vec<Option<Value>>],
    bodies: &[Option<Value>],
    shapes: &[Shape],
) -> VecRows {
    let names: Vec<ColumnRef<'_>> = PROPERTIES
        .iter()
        .map(|name| ColumnRef::Property(name))
        .chain(SYSTEM.iter().map(|system| ColumnRef::System(*system)))
        .collect();
    let row = |index: usize| {
        let body = bodies[index].as_ref().map(|body| body.to_text().into_bytes());
        let mut row = Row { body, ..Row::default() };
        for (name, column) in names.iter().zip(columns) {
            if let Some(value) = &column[index] {
                match *name {
                    ColumnRef::Property(name) => row.properties.insert(name.to_owned(), value.clone()),
                    ColumnRef::System(system) => row.system.insert(system, value.clone()),
                };
            }
        }
        row
    };
    let block = VecRows::new((0..rows).map(row).collect());
    names.iter().zip(shapes).fold(block, |block, (name, shape)| block.with_shape(*name, *shape))
}

fn column() -> BoxedStrategy<String> {
    let property = select(PROPERTIES)
        .prop_map(|name| if name == "sys.x" { "\"sys.x\"".to_owned() } else { name.to_owned() });
    let system = select(SYSTEM).prop_map(|system| format!("sys.{}", system.name()));
    prop_oneof![5 => property, 1 => system].boxed()
}

pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn string() -> BoxedStrategy<String> {
    select(TEXTS).prop_map(quoted).boxed()
}

fn number() -> BoxedStrategy<String> {
    select(NUMBERS).prop_map(str::to_owned).boxed()
}

fn boolean() -> BoxedStrategy<String> {
    select(&["TRUE", "false"][..]).prop_map(str::to_owned).boxed()
}

fn literal() -> BoxedStrategy<String> {
    prop_oneof![4 => string(), 4 => number(), 1 => boolean(), 1 => Just("NULL".to_owned())].boxed()
}

fn computed() -> BoxedStrategy<String> {
    let leaf = prop_oneof![3 => column(), 2 => number()];
    let operator = select(&["+", "-", "*", "/", "%"][..]);
    leaf.prop_recursive(3, 8, 2, move |inner| {
        prop_oneof![
            4 => (inner.clone(), operator.clone(), inner.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            1 => (inner.clone(), operator.clone(), inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            1 => inner.clone().prop_map(|a| format!("- ({a})")),
            1 => inner.prop_map(|a| format!("+ {a}")),
        ]
    })
    .boxed()
}

/// A value whose type is a string, or NULL.
fn made_text() -> BoxedStrategy<String> {
    let leaf = prop_oneof![4 => column(), 2 => string()];
    leaf.prop_recursive(3, 8, 3, |inner| {
        let one = select(&["UPPER", "lower", "Trim"][..]);
        prop_oneof![
            3 => (one, inner.clone()).prop_map(|(f, x)| format!("{f}({x})")),
            2 => proptest::collection::vec(inner.clone(), 2..4).prop_map(|x| format!("CONCAT({})", x.join(", "))),
            1 => (inner.clone(), made_number()).prop_map(|(x, from)| format!("SUBSTRING({x}, {from})")),
            2 => (inner.clone(), select(&["1", "-1", "2", "0"][..]), made_number())
                .prop_map(|(x, from, count)| format!("SUBSTRING({x} FROM {from} FOR {count})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(x, y)| format!("COALESCE({x}, {y})")),
            1 => (inner.clone(), inner).prop_map(|(x, y)| format!("NULLIF({x}, {y})")),
        ]
    })
    .boxed()
}

/// A value whose type is a number, or NULL.
fn made_number() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        3 => column(),
        2 => number(),
        1 => Just("NOW()".to_owned()),
        1 => Just("INTERVAL '3' MILLISECOND".to_owned()),
        1 => Just("TIMESTAMP '1970-01-01T00:00:00.005Z'".to_owned()),
        2 => column().prop_map(|x| format!("LENGTH({x})")),
        1 => column().prop_map(|x| format!("EPOCH_MS({x})")),
    ];
    leaf.prop_recursive(2, 6, 2, |inner| {
        let one = select(&["ABS", "FLOOR", "CEIL", "CEILING", "ROUND"][..]);
        let operator = select(&["+", "-", "*", "/", "%"][..]);
        prop_oneof![
            3 => (one, inner.clone()).prop_map(|(f, x)| format!("{f}({x})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(x, y)| format!("MOD({x}, {y})")),
            1 => (inner.clone(), operator, inner.clone()).prop_map(|(x, op, y)| format!("{x} {op} ({y})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(x, y)| format!("COALESCE({x}, {y}, 5)")),
            1 => (inner.clone(), inner).prop_map(|(x, y)| format!("NULLIF({x}, {y})")),
        ]
    })
    .boxed()
}

/// Conditions with functions.
fn made() -> BoxedStrategy<String> {
    let any = prop_oneof![made_text(), made_number()].boxed();
    prop_oneof![
        3 => (made_text(), comparison(), prop_oneof![string(), made_text()]).prop_map(|(x, op, y)| format!("{x} {op} {y}")),
        3 => (made_number(), comparison(), prop_oneof![number(), made_number()]).prop_map(|(x, op, y)| format!("{x} {op} {y}")),
        1 => (column(), comparison(), any.clone()).prop_map(|(x, op, y)| format!("{x} {op} {y}")),
        2 => (system_int(), comparison(), select(&["", " - 5", " + 0.5"][..])).prop_map(|(x, op, y)| format!("{x} {op} NOW(){y}")),
        1 => (any.clone(), not()).prop_map(|(x, not)| format!("{x} IS {not}NULL")),
        1 => (made_text(), not(), string(), string()).prop_map(|(x, not, a, b)| format!("{x} {not}IN ({a}, {b})")),
        1 => (made_number(), not(), number(), number()).prop_map(|(x, not, a, b)| format!("{x} {not}IN ({a}, {b})")),
        1 => (made_number(), not(), made_number(), made_number()).prop_map(|(x, not, a, b)| format!("{x} {not}BETWEEN {a} AND {b}")),
        1 => (made_text(), not(), select(PATTERNS)).prop_map(|(x, not, p)| format!("{x} {not}LIKE {}", quoted(p))),
        2 => (prop_oneof![column(), made_text()], not(), select(EXPRESSIONS)).prop_map(|(x, not, p)| format!("{x} {not}REGEXP {}", quoted(p))),
        1 => (column(), select(EXPRESSIONS)).prop_map(|(x, p)| format!("REGEXP({x}, {})", quoted(p))),
        1 => column().prop_map(|x| format!("COALESCE({x}, TRUE)")),
    ]
    .boxed()
}

fn json() -> BoxedStrategy<String> {
    select(PATHS).prop_map(|path| format!("JSON_VALUE(body, '{path}')")).boxed()
}

/// Conditions on bodies.
fn opened() -> BoxedStrategy<String> {
    prop_oneof![
        4 => (json(), comparison(), literal()).prop_map(|(x, op, y)| format!("{x} {op} {y}")),
        1 => (json(), comparison(), prop_oneof![column(), json()]).prop_map(|(x, op, y)| format!("{x} {op} {y}")),
        1 => (json(), not()).prop_map(|(x, not)| format!("{x} IS {not}NULL")),
        1 => (json(), not(), string(), number()).prop_map(|(x, not, a, b)| format!("{x} {not}IN ({a}, {b}, 5)")),
        1 => (json(), json()).prop_map(|(x, y)| format!("UPPER(COALESCE({x}, {y}, 'x')) LIKE '%'")),
        1 => (json(), column()).prop_map(|(x, y)| format!("(COALESCE({x}, {y}) > 3) IS NULL")),
        1 => json(),
    ]
    .boxed()
}

fn system_int() -> BoxedStrategy<String> {
    select(&["sys.store_time", "sys.queue_id"][..]).prop_map(str::to_owned).boxed()
}

fn comparison() -> impl Strategy<Value = &'static str> {
    select(&["=", "<>", "!=", "<", "<=", ">", ">="][..])
}

fn not() -> impl Strategy<Value = &'static str> {
    select(&["", "NOT "][..])
}

fn atom() -> BoxedStrategy<String> {
    let between = |bounds: BoxedStrategy<String>| {
        (column(), not(), bounds.clone(), bounds)
            .prop_map(|(x, not, a, b)| format!("{x} {not}BETWEEN {a} AND {b}"))
    };
    let list = |entry: BoxedStrategy<String>| {
        (column(), not(), proptest::collection::vec(entry, 1..5))
            .prop_map(|(x, not, list)| format!("{x} {not}IN ({})", list.join(", ")))
    };
    let search = select(&["CONTAINS", "STARTSWITH", "ENDSWITH"][..]);
    Union::new_weighted(vec![
        (8, (column(), comparison(), literal()).prop_map(|(x, op, y)| format!("{x} {op} {y}")).boxed()),
        (3, (literal(), comparison(), column()).prop_map(|(x, op, y)| format!("{x} {op} {y}")).boxed()),
        (4, (column(), comparison(), column()).prop_map(|(x, op, y)| format!("{x} {op} {y}")).boxed()),
        (4, (computed(), comparison(), computed()).prop_map(|(x, op, y)| format!("{x} {op} {y}")).boxed()),
        (2, between(number()).boxed()),
        (2, between(string()).boxed()),
        (1, between(column()).boxed()),
        (1, between(prop_oneof![column(), number(), computed()].boxed()).boxed()),
        (1, (literal(), column(), column()).prop_map(|(x, a, b)| format!("{x} BETWEEN {a} AND {b}")).boxed()),
        (3, list(string()).boxed()),
        (2, list(number()).boxed()),
        (2, list(prop_oneof![string(), number(), boolean()].boxed()).boxed()),
        (1, (computed(), number()).prop_map(|(x, y)| format!("{x} IN ({y}, 5, 10)")).boxed()),
        (
            4,
            (column(), not(), select(PATTERNS), select(&["", " ESCAPE '!'", " ESCAPE '%'"][..]))
                .prop_map(|(x, not, pattern, escape)| format!("{x} {not}LIKE {}{escape}", quoted(pattern)))
                .boxed(),
        ),
        (
            3,
            (column(), not(), search, select(TEXTS))
                .prop_map(|(x, not, search, text)| format!("{x} {not}{search} {}", quoted(text)))
                .boxed(),
        ),
        (
            3,
            (prop_oneof![3 => column(), 1 => computed(), 1 => literal()], not())
                .prop_map(|(x, not)| format!("{x} IS {not}NULL"))
                .boxed(),
        ),
        (2, column()),
        (14, made()),
        (8, opened()),
        (1, select(&["TRUE", "FALSE", "NULL"][..]).prop_map(str::to_owned).boxed()),
    ])
    .boxed()
}

pub(super) fn selector() -> BoxedStrategy<String> {
    atom()
        .prop_recursive(4, 16, 3, |inner| {
            let many = |word: &'static str| {
                proptest::collection::vec(inner.clone(), 2..4).prop_map(move |terms| terms.join(word))
            };
            prop_oneof![
                3 => many(" AND "),
                3 => many(" OR "),
                2 => inner.clone().prop_map(|x| format!("({x})")),
                2 => inner.clone().prop_map(|x| format!("NOT {x}")),
                1 => inner.clone().prop_map(|x| format!("NOT ({x})")),
                1 => (inner.clone(), not()).prop_map(|(x, not)| format!("({x}) IS {not}NULL")),
                1 => (inner.clone(), select(&["=", "<>"][..]), inner.clone())
                    .prop_map(|(x, is, y)| format!("({x}) {is} ({y})")),
                1 => (inner, select(&["= TRUE", "= FALSE", "<> TRUE", "<> FALSE", "= a", "<> b", "= NULL"][..]))
                    .prop_map(|(x, is)| format!("({x}) {is}")),
            ]
        })
        .boxed()
}

/// A few seconds; `PROPTEST_CASES` asks for more.
pub(crate) fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { 600 };
    ProptestConfig { cases, max_shrink_iters: 20_000, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_way_to_judge_rows_gives_the_same_answer(
        blocks in proptest::collection::vec(block(), 1..4),
        texts in proptest::collection::vec(selector(), 8),
        seed in any::<u64>(),
    ) {
        let exact = VecStatistics::exact(&blocks);
        let loose = VecStatistics::loosened(&blocks, seed);
        for text in texts {
            // Some are refused, because a type cannot fit.
            let Ok(selector) = Selector::parse(&text, Dialect::Sql92, &Limits::default()) else { continue };
            let oracle = Oracle::new(&selector).at(NOW_MS);
            let predicate = Arc::new(Predicate::new(&selector)).at(NOW_MS);
            let (by_exact, by_loose) = (predicate.may_match(&exact), predicate.may_match(&loose));
            prop_assert_eq!(by_exact.len(), blocks.len());
            for (number, block) in blocks.iter().enumerate() {
                let Ok(expected) = (0..block.len()).map(|row| oracle.truth(block, row)).collect::<Result<Vec<_>, _>>();
                let answers = |only: Option<&BooleanBuffer>| {
                    let verdicts = predicate.evaluate(block, only).unwrap();
                    (0..block.len()).map(|row| verdicts.truth(row)).collect::<Vec<_>>()
                };
                let all: Vec<_> = expected.iter().copied().map(Some).collect();
                prop_assert_eq!(&answers(None), &all, "{} in {:?}", text, block);

                let matches = predicate.matches(block, None).unwrap();
                let matching: Vec<bool> = expected.iter().map(|truth| *truth == Truth::True).collect();
                prop_assert_eq!(&matches.iter().collect::<Vec<_>>(), &matching, "{} in {:?}", text, block);

                let only = BooleanBuffer::collect_bool(block.len(), |row| seed >> (row % 64) & 1 == 1);
                let masked: Vec<_> = (0..block.len())
                    .map(|row| Some(if only.value(row) { expected[row] } else { Truth::False }))
                    .collect();
                prop_assert_eq!(&answers(Some(&only)), &masked, "{} for some of {:?}", text, block);

                if expected.contains(&Truth::True) {
                    prop_assert!(by_exact.value(number), "{} loses block {} of {:?}", text, number, blocks);
                    prop_assert!(by_loose.value(number), "{} loses {} of {:?} by {}", text, number, blocks, seed);
                }
            }
        }
    }

    #[test]
    fn a_selector_displays_as_a_text_that_means_the_same(text in selector()) {
        if let Ok(selector) = Selector::parse(&text, Dialect::Sql92, &Limits::default()) {
            prop_assert_eq!(selector.to_string(), &text[..]);
            prop_assert_eq!(Selector::parse(selector.text(), selector.dialect(), &Limits::default()).unwrap(), selector);
        }
    }

    /// Whatever the text is, the answer is a selector or an error inside of the text.
    #[test]
    fn any_text_is_parsed_or_refused(text in token_soup()) {
        if let Err(error) = Selector::parse(&text, Dialect::Sql92, &Limits::default()) {
            prop_assert!(error.position() <= text.len());
            prop_assert!(text.is_char_boundary(error.position()));
            let report = error.report(&text);
            prop_assert_eq!(report.lines().count(), 4, "{}", report);
            prop_assert_eq!(error.to_string().lines().count(), 1);
        }
    }
}

/// Pieces of selectors in any order, and some text that is none.
fn token_soup() -> impl Strategy<Value = String> {
    let words = select(
        &[
            "a",
            "sys.tag",
            "sys.",
            "sys.tga",
            "\"x\"",
            "'s'",
            "5",
            "1.5",
            "0x",
            "007",
            "(",
            ")",
            ",",
            "=",
            "<>",
            "<",
            "+",
            "-",
            "*",
            "%",
            "AND",
            "OR",
            "NOT",
            "BETWEEN",
            "IN",
            "LIKE",
            "ESCAPE",
            "IS",
            "NULL",
            "TRUE",
            "CONTAINS",
            "UPPER",
            "SUBSTRING",
            "FROM",
            "REGEXP",
            "NOW",
            "INTERVAL",
            "HOUR",
            "TIMESTAMP",
            "COALESCE",
            "JSON_VALUE",
            "body",
            "'",
            "\"",
            "--",
            "/*",
            "*/",
            "\n",
            "é",
            "\u{a0}",
            ";",
            "!",
            "|",
            ".",
            "..",
            "😀",
        ][..],
    );
    let blanks = select(&["", " ", " ", " "][..]);
    proptest::collection::vec((words, blanks), 0..16).prop_map(|parts| {
        parts.iter().fold(String::new(), |mut text, (word, blank)| {
            write!(text, "{word}{blank}").expect("strings take any text");
            text
        })
    })
}

/// The selectors above must mostly be accepted, or they would test nothing.
#[test]
fn most_random_selectors_are_accepted_and_say_something() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = selector();
    let mut accepted = 0;
    for _ in 0..500 {
        let text = strategy.new_tree(&mut runner).unwrap().current();
        if let Ok(selector) = Selector::parse(&text, Dialect::Sql92, &Limits::default()) {
            accepted += usize::from(selector.columns().count() > 0);
        }
    }
    assert!(accepted > 250, "{accepted} of 500");
}
