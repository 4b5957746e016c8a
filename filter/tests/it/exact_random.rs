//! Random selectors of the exact dialects over random rows: columns, masks and pruning give the answers
//! that the rows give one by one, failures included.

use arrow_buffer::BooleanBuffer;
use proptest::{
    prelude::*,
    sample::select,
    strategy::{Union, ValueTree},
};
use weir_columns::Rows;
use weir_filter::{
    Dialect, Limits, Predicate, Selector, Truth,
    oracle::{VecStatistics, evaluate_exact},
};

use crate::random::{PATTERNS, TEXTS, block, config, quoted};

const NUMBERS: &[&str] = &[
    "5",
    "0",
    "10",
    "10.5",
    "5.0",
    ".5",
    "1e1",
    "3000000000",
    "9007199254740993",
    "9007199254740992.0",
    "9223372036854775807",
    "16777217",
    "5L",
    "0.1",
    "010",
    "0x1F",
    "0.0",
    "1e400",
    "18446744073709551621",
    "9223372036854775808",
    "99999999999999999999999999",
];

fn one_of(from: &'static [&'static str]) -> BoxedStrategy<String> {
    select(from).prop_map(str::to_owned).boxed()
}

fn column() -> BoxedStrategy<String> {
    one_of(&["a", "b", "c", "d", "a", "b", "c", "d", "TAGS", "KEYS", "JMSPriority", "missing"])
}

fn string() -> BoxedStrategy<String> {
    select(TEXTS).prop_map(quoted).boxed()
}

fn constant() -> BoxedStrategy<String> {
    prop_oneof![
        4 => string(),
        4 => one_of(NUMBERS),
        2 => one_of(NUMBERS).prop_map(|number| format!("-{number}")),
        1 => one_of(&["TRUE", "FALSE", "-NULL", "-'x'", "+5", "- -5", "-TRUE"]),
    ]
    .boxed()
}

fn value(jms: bool) -> BoxedStrategy<String> {
    let leaf = prop_oneof![3 => column(), 2 => constant()].boxed();
    if !jms {
        return leaf;
    }
    leaf.prop_recursive(2, 6, 2, |inner| {
        let operator = select(&["+", "-", "*", "/", "%"][..]);
        prop_oneof![
            3 => (inner.clone(), operator, inner.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            1 => inner.clone().prop_map(|a| format!("-({a})")),
            1 => (inner.clone(), select(&["a", "[0-9]", "("][..])).prop_map(|(a, pattern)| format!("REPLACE({a}, '{pattern}', 'x')")),
            1 => (inner.clone(), inner).prop_map(|(a, b)| format!("MAKELIST({a}, {b})")),
        ]
    })
    .boxed()
}

fn not() -> BoxedStrategy<String> {
    one_of(&["", "NOT "])
}

fn atom(jms: bool) -> BoxedStrategy<String> {
    let equal = one_of(&["=", "<>"]);
    let comparison = one_of(&["=", "<>", "<", "<=", ">", ">="]);
    let list = proptest::collection::vec(string(), 1..4);
    let mut kinds = vec![
        (6, (column(), equal.clone(), constant()).prop_map(|(x, op, y)| format!("{x} {op} {y}")).boxed()),
        (4, (constant(), equal, column()).prop_map(|(x, op, y)| format!("{x} {op} {y}")).boxed()),
        (
            8,
            (column(), comparison.clone(), one_of(NUMBERS))
                .prop_map(|(x, op, y)| format!("{x} {op} {y}"))
                .boxed(),
        ),
        (
            3,
            (one_of(NUMBERS), comparison.clone(), column())
                .prop_map(|(x, op, y)| format!("{x} {op} {y}"))
                .boxed(),
        ),
        (4, (column(), comparison.clone(), column()).prop_map(|(x, op, y)| format!("{x} {op} {y}")).boxed()),
        (3, (value(jms), comparison, value(jms)).prop_map(|(x, op, y)| format!("{x} {op} {y}")).boxed()),
        (
            3,
            (column(), not(), one_of(NUMBERS), one_of(NUMBERS))
                .prop_map(|(x, not, a, b)| format!("{x} {not}BETWEEN {a} AND {b}"))
                .boxed(),
        ),
        (
            2,
            (value(jms), not(), value(jms), value(jms))
                .prop_map(|(x, not, a, b)| format!("{x} {not}BETWEEN {a} AND {b}"))
                .boxed(),
        ),
        (
            3,
            (column(), not(), list)
                .prop_map(|(x, not, list)| format!("{x} {not}IN ({})", list.join(", ")))
                .boxed(),
        ),
        (3, (column(), not()).prop_map(|(x, not)| format!("{x} IS {not}NULL")).boxed()),
        (1, (value(jms), not()).prop_map(|(x, not)| format!("{x} IS {not}NULL")).boxed()),
        (2, column()),
        (1, one_of(&["TRUE", "FALSE", "NULL"])),
    ];
    if jms {
        let escape = one_of(&["", " ESCAPE '!'", " ESCAPE '%'"]);
        kinds.extend([
            (
                4,
                (column(), not(), select(PATTERNS), escape)
                    .prop_map(|(x, not, pattern, escape)| {
                        format!("{x} {not}LIKE {}{escape}", quoted(pattern))
                    })
                    .boxed(),
            ),
            (
                2,
                (one_of(&["'^[a-e]'", "'5$'", "a", "'('"]), value(jms))
                    .prop_map(|(pattern, x)| format!("REGEX({pattern}, {x})"))
                    .boxed(),
            ),
            (
                2,
                (value(jms), value(jms))
                    .prop_map(|(x, y)| format!("INLIST(MAKELIST('a', 5, {x}), {y})"))
                    .boxed(),
            ),
            (1, column().prop_map(|x| format!("INLIST(SPLIT({x}, ' '), 'EU')")).boxed()),
        ]);
    } else {
        let search = one_of(&["CONTAINS", "STARTSWITH", "ENDSWITH"]);
        kinds.push((
            6,
            (prop_oneof![4 => column(), 1 => constant()], not(), search, string())
                .prop_map(|(x, not, search, text)| format!("{x} {not}{search} {text}"))
                .boxed(),
        ));
    }
    Union::new_weighted(kinds).boxed()
}

fn selector(jms: bool) -> BoxedStrategy<String> {
    atom(jms)
        .prop_recursive(4, 16, 3, move |inner| {
            let many = |word: &'static str| {
                proptest::collection::vec(inner.clone(), 2..4).prop_map(move |terms| terms.join(word))
            };
            // Of an empty text, the left side is not evaluated.
            let search = (inner.clone(), not(), select(&["''", "''", "'a'"][..]))
                .prop_map(|(x, not, text)| format!("({x}) {not}CONTAINS {text}"));
            prop_oneof![
                if jms { 0 } else { 2 } => search,
                3 => many(" AND "),
                3 => many(" OR "),
                2 => inner.clone().prop_map(|x| format!("({x})")),
                1 => inner.clone().prop_map(|x| format!("NOT {x}")),
                2 => inner.clone().prop_map(|x| format!("NOT ({x})")),
                1 => inner.clone().prop_map(|x| format!("NOT NOT ({x})")),
                1 => (inner.clone(), not()).prop_map(|(x, not)| format!("({x}) IS {not}NULL")),
                1 => (inner.clone(), inner).prop_map(|(x, y)| format!("({x}) = ({y})")),
            ]
        })
        .boxed()
}

fn any_selector() -> BoxedStrategy<(Dialect, String)> {
    let of = |dialect| move |text| (dialect, text);
    prop_oneof![
        2 => selector(false).prop_map(of(Dialect::RocketMq)),
        2 => selector(true).prop_map(of(Dialect::Jms)),
        1 => selector(true).prop_map(|text| (Dialect::Jms, format!("convert_string_expressions:{text}"))),
    ]
    .boxed()
}

fn parse((dialect, text): &(Dialect, String)) -> Option<Selector> {
    Selector::parse(text, *dialect, &Limits::default()).ok()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn columns_and_pruning_agree_with_rows(
        blocks in proptest::collection::vec(block(), 1..4),
        selectors in proptest::collection::vec(any_selector(), 8),
        seed in any::<u64>(),
        as_given in any::<bool>(),
    ) {
        let exact = VecStatistics::exact(&blocks);
        let loose = VecStatistics::loosened(&blocks, seed);
        for text in selectors {
            let Some(selector) = parse(&text) else { continue };
            let predicate = Predicate::new(&selector);
            let predicate = if as_given { predicate.with_values_as_given() } else { predicate };
            let (by_exact, by_loose) = (predicate.may_match(&exact), predicate.may_match(&loose));
            for (number, block) in blocks.iter().enumerate() {
                let Ok(expected) = (0..block.len())
                    .map(|row| evaluate_exact(&selector, block, row, !as_given))
                    .collect::<Result<Vec<_>, _>>();
                for only in [None, Some(BooleanBuffer::collect_bool(block.len(), |row| seed >> (row % 64) & 1 == 1))] {
                    let verdicts = predicate.evaluate(block, only.as_ref()).unwrap();
                    let matches = predicate.matches(block, only.as_ref()).unwrap();
                    prop_assert_eq!(&matches, &verdicts.matches, "{:?} in {:?}", text, block);
                    for (row, expected) in expected.iter().enumerate() {
                        let asked = only.as_ref().is_none_or(|only| only.value(row));
                        let expected = if asked { *expected } else { (Some(Truth::False), false) };
                        let found = (verdicts.truth(row), verdicts.matches.value(row));
                        prop_assert_eq!(found, expected, "{:?}, row {} of {:?}", text, row, block);
                    }
                }
                if expected.iter().any(|(_, delivered)| *delivered) {
                    prop_assert!(by_exact.value(number), "{:?} loses block {} of {:?}", text, number, blocks);
                    prop_assert!(by_loose.value(number), "{:?} loses {} of {:?} by {}", text, number, blocks, seed);
                }
            }
        }
    }

    /// Whatever the text is, the answer is a selector or an error inside of the text.
    #[test]
    fn any_text_is_parsed_or_refused(text in token_soup()) {
        for dialect in [Dialect::RocketMq, Dialect::Jms] {
            match Selector::parse(&text, dialect, &Limits::default()) {
                Ok(selector) => {
                    let dropped = selector.dropped().unwrap_or(text.len());
                    prop_assert!(text.is_char_boundary(dropped));
                    // What was dropped does not matter, as long as something that can be dropped follows.
                    let cut = Selector::parse(&format!("{} 'x", &text[..dropped]), dialect, &Limits::default());
                    prop_assert!(cut.is_err(), "{}", text);
                }
                Err(error) => {
                    prop_assert!(error.position() <= text.len());
                    prop_assert!(text.is_char_boundary(error.position()));
                    prop_assert_eq!(error.report(&text).lines().count(), 4);
                }
            }
        }
    }
}

/// Pieces of selectors in any order, and some text that is none.
fn token_soup() -> impl Strategy<Value = String> {
    let words = select(
        &[
            "a",
            "TAGS",
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
            "'",
            "--",
            "/*",
            "*/",
            "\n",
            "é",
            "\u{a0}",
            ";",
            "REGEX(",
            "MAKELIST(",
            "XPATH",
            ".",
            "😀",
            "99999999999999999999",
        ][..],
    );
    let blanks = select(&["", " ", " ", " "][..]);
    proptest::collection::vec((words, blanks), 0..16)
        .prop_map(|parts| parts.iter().flat_map(|(word, blank)| [*word, *blank]).collect())
}

/// The selectors above must mostly be accepted, and have every answer, or they would test nothing.
#[test]
fn random_selectors_of_exact_dialects_have_every_answer() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (selectors, blocks) = (any_selector(), block());
    let (mut accepted, mut answers, mut pruned) = (0, [0; 5], 0);
    for _ in 0..600 {
        let text = selectors.new_tree(&mut runner).unwrap().current();
        let Some(selector) = parse(&text) else { continue };
        accepted += 1;
        let block = block_of(&blocks, &mut runner);
        pruned += usize::from(
            !Predicate::new(&selector)
                .may_match(&VecStatistics::exact(std::slice::from_ref(&block)))
                .value(0),
        );
        for row in 0..block.len() {
            let Ok(answer) = evaluate_exact(&selector, &block, row, true);
            let place = match answer {
                (Some(truth), _) => truth as usize,
                (None, false) => 3,
                (None, true) => 4,
            };
            answers[place] += 1;
        }
    }
    assert!(accepted > 250, "{accepted} of 600");
    assert!(answers[..4].iter().all(|count| *count > 100), "{answers:?}");
    assert!(pruned > 50, "{pruned}");
}

fn block_of(
    blocks: &impl Strategy<Value = weir_filter::oracle::VecRows>,
    runner: &mut proptest::test_runner::TestRunner,
) -> weir_filter::oracle::VecRows {
    blocks.new_tree(runner).unwrap().current()
}
