//! The index answers as the predicate of each selector does, whatever else it holds.

use std::collections::BTreeMap;

use proptest::prelude::*;
use weir_columns::{ColumnRef, System, Value};
use weir_filter::{
    Dialect, Index, Limits, Predicate, Selector, Truth,
    oracle::{Oracle, Row, Shape, VecRows},
};

use crate::random::{block, config, selector};

fn parse(text: &str) -> Selector {
    Selector::parse(text, Dialect::Sql92, &Limits::default()).unwrap()
}

/// The rows that match each selector, by the index.
fn matches_by_index(index: &mut Index<u32>, rows: &VecRows) -> BTreeMap<u32, Vec<usize>> {
    let mut all = BTreeMap::new();
    let count = weir_columns::Rows::len(rows);
    index
        .evaluate(rows, |key, matches| {
            let mut found = Vec::new();
            matches.for_each(|row| found.push(row));
            assert!(found.is_sorted() && !found.is_empty(), "{found:?}");
            assert_eq!(found.len(), matches.count());
            assert_eq!(matches.to_buffer(count).set_indices().collect::<Vec<_>>(), found);
            assert!(all.insert(*key, found).is_none(), "{key} is reported twice");
        })
        .unwrap();
    all
}

/// The same, by the predicate of each.
fn matches_by_predicates(selectors: &BTreeMap<u32, Selector>, rows: &VecRows) -> BTreeMap<u32, Vec<usize>> {
    let mut all = BTreeMap::new();
    for (key, selector) in selectors {
        let verdicts = Predicate::new(selector).evaluate(rows, None).unwrap();
        let found: Vec<usize> = verdicts.matches.set_indices().collect();
        if !found.is_empty() {
            all.insert(*key, found);
        }
    }
    all
}

fn matches_by_oracle(selectors: &BTreeMap<u32, Selector>, rows: &VecRows) -> BTreeMap<u32, Vec<usize>> {
    let mut all = BTreeMap::new();
    for (key, selector) in selectors {
        let oracle = Oracle::new(selector);
        let found: Vec<usize> = (0..rows.rows().len())
            .filter(|row| {
                let Ok(truth) = oracle.truth(rows, *row);
                truth == Truth::True
            })
            .collect();
        if !found.is_empty() {
            all.insert(*key, found);
        }
    }
    all
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u32, String),
    Remove(u32),
    Judge(VecRowsOf),
}

/// Rows are made anew for each step, since they count what is read of them.
type VecRowsOf = std::sync::Arc<VecRows>;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..24_u32, selector()).prop_map(|(key, text)| Step::Insert(key, text)),
        2 => (0..24_u32).prop_map(Step::Remove),
        3 => block().prop_map(|rows| Step::Judge(rows.into())),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_index_agrees_with_predicates_and_the_oracle(
        steps in proptest::collection::vec(step(), 1..60),
        last in block(),
    ) {
        let mut index = Index::new();
        let mut selectors = BTreeMap::new();
        for step in steps.into_iter().chain([Step::Judge(last.into())]) {
            match step {
                Step::Insert(key, text) => {
                    // Some are refused, because a type cannot fit.
                    let Ok(selector) = Selector::parse(&text, Dialect::Sql92, &Limits::default()) else { continue };
                    index.insert(key, &selector);
                    selectors.insert(key, selector);
                }
                Step::Remove(key) => {
                    prop_assert_eq!(index.remove(&key), selectors.remove(&key).is_some());
                }
                Step::Judge(rows) => {
                    let found = matches_by_index(&mut index, &rows);
                    prop_assert_eq!(&found, &matches_by_predicates(&selectors, &rows), "{:?} of {:?}", selectors, rows);
                    prop_assert_eq!(&found, &matches_by_oracle(&selectors, &rows), "{:?} of {:?}", selectors, rows);
                }
            }
            prop_assert_eq!(index.len(), selectors.len());
        }
        for key in 0..24 {
            index.remove(&key);
        }
        prop_assert!(index.holds_nothing(), "{:?}", index);
    }
}

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

const REGIONS: [&str; 5] = ["EU", "US", "JP", "UK", "CN"];

fn row(numbers: &mut Numbers) -> Row {
    let text = |text: String| Value::Text(text);
    let mut row: Row = [
        ("region", text(REGIONS[numbers.below(5) as usize].to_owned())),
        ("cust", text(format!("c{}", numbers.below(3000)))),
        ("price", text(format!("{}.{:02}", numbers.below(100), numbers.below(100)))),
        ("level", text(numbers.below(10).to_string())),
    ]
    .into_iter()
    .collect();
    if numbers.below(10) == 0 {
        row.properties.remove("level");
    }
    if numbers.below(20) == 0 {
        row.properties.insert("price".to_owned(), text("free".to_owned()));
    }
    row.system.insert(System::Keys, text(format!("k{} batch", numbers.below(2000))));
    row
}

fn text(numbers: &mut Numbers) -> String {
    let (cust, price, level) = (numbers.below(3000), numbers.below(100), numbers.below(10));
    let region = REGIONS[numbers.below(5) as usize];
    match numbers.below(14) {
        0 | 1 => format!("cust = 'c{cust}' AND price > {price}"),
        2 => format!("cust IN ('c{cust}', 'c{}', 'c{}')", numbers.below(3000), numbers.below(3000)),
        3 | 4 => format!("region = '{region}' AND price > {price}.{level}"),
        5 => {
            format!("region = '{region}' AND NOT price BETWEEN {price} AND {} AND level = {level}", price + 3)
        }
        6 => format!("cust LIKE 'c{price}%' OR level >= {level}"),
        7 => format!("price BETWEEN {price} AND {price}.5"),
        8 => format!(
            "level IS NULL AND price < {price} OR cust = 'c{cust}' OR region = '{region}' AND level = 3"
        ),
        9 => format!("sys.keys = 'k{cust} batch' OR cust = 'c{cust}'"),
        11 => format!("cust = 'c{cust}' AND level IS NULL"),
        12 => format!("cust IN ('c{cust}', 'c7') AND NOT level > {level} AND region = '{region}'"),
        10 => format!("sys.keys = 'k{cust} batch' AND region = '{region}'"),
        _ => format!("region = '{region}' AND level + 1 < price AND cust STARTSWITH 'c{level}'"),
    }
}

/// Enough rows and selectors for every way in which the index works: long and short lists of rows, bitmaps,
/// ranks, anchors that are chosen anew.
#[test]
fn thousands_of_selectors_get_the_answers_of_their_predicates() {
    let mut numbers = Numbers(7);
    let mut index = Index::new();
    let mut selectors = BTreeMap::new();
    for shapes in [
        [Shape::Dictionary, Shape::Dictionary, Shape::Int],
        [Shape::Plain, Shape::Sparse, Shape::Dictionary],
        [Shape::Dictionary, Shape::Plain, Shape::Sparse],
    ] {
        for key in 0..500 {
            if numbers.below(3) > 0 {
                let selector = parse(&text(&mut numbers));
                index.insert(key, &selector);
                selectors.insert(key, selector);
            } else {
                assert_eq!(index.remove(&key), selectors.remove(&key).is_some());
            }
        }
        for rows in [1, 63, 400, 2000] {
            let rows = (0..rows).map(|_| row(&mut numbers)).collect();
            let rows = ["cust", "price", "level"]
                .iter()
                .zip(shapes)
                .fold(VecRows::new(rows), |rows, (name, shape)| {
                    rows.with_shape(ColumnRef::Property(name), shape)
                })
                .with_shape(ColumnRef::System(System::Keys), Shape::Hashed);
            assert_eq!(matches_by_index(&mut index, &rows), matches_by_predicates(&selectors, &rows));
        }
    }
}

/// Otherwise a thousand equal or overlapping selectors would cost a thousand times one.
#[test]
fn what_selectors_share_is_evaluated_once_a_run() {
    let mut index = Index::new();
    for key in 0..1000 {
        index.insert(key, &parse(&format!("tag LIKE 'a%' AND level >= {}", key % 10)));
    }
    let rows = |count: usize| {
        let row = |n: usize| -> Row {
            [("tag", format!("a{}", n % 50)), ("level", (n % 10).to_string())]
                .into_iter()
                .map(|(name, text)| (name, Value::Text(text)))
                .collect()
        };
        VecRows::new((0..count).map(row).collect())
    };
    let before = index.work();
    assert_eq!(matches_by_index(&mut index, &rows(1000)).len(), 1000);
    let work = index.work();
    assert_eq!(work.answered - before.answered, 11, "one pattern and ten ranges");
}

/// The work of a change does not grow with what is in the index.
#[test]
fn a_change_costs_what_its_own_atoms_cost() {
    let mut numbers = Numbers(1);
    let mut index = Index::new();
    let mut most = 0;
    let mut change = |index: &mut Index<u64>, key: u64| {
        let before = index.work().touched;
        let fresh =
            format!("region = 'EU' AND cust IN ('c1', 'c2', 'c{key}') AND price > {}", numbers.below(50));
        index.insert(key, &parse(&fresh));
        index.remove(&(key / 2));
        index.work().touched - before
    };
    for key in 0..100 {
        most = most.max(change(&mut index, key));
    }
    for key in 100..30_000 {
        let cost = change(&mut index, key);
        assert!(cost <= most, "{cost} with {} selectors, {most} with few", index.len());
    }
    assert!(index.len() > 10_000);
}

/// Anchors are chosen before rows have been seen, and must be chosen anew when the guess was wrong.
#[test]
fn anchors_follow_what_columns_turn_out_to_be() {
    let mut index = Index::new();
    for key in 0..3000_u32 {
        // Until rows come, one column looks like the other.
        index.insert(key, &parse(&format!("a = 'x' AND b = 'c{key}'")));
    }
    let rows = |round: u32| {
        let row = |n: u32| -> Row {
            [("a", "x".to_owned()), ("b", format!("c{}", (round * 100 + n) % 3000))]
                .into_iter()
                .map(|(name, text)| (name, Value::Text(text)))
                .collect()
        };
        VecRows::new((0..100).map(row).collect())
    };
    let mut visited = Vec::new();
    for round in 0..20 {
        let before = index.work().visited;
        assert_eq!(matches_by_index(&mut index, &rows(round)).len(), 100);
        visited.push(index.work().visited - before);
    }
    assert_eq!(visited[0], 3000, "all stand behind the same value");
    assert_eq!(visited[19], 100, "{visited:?}");
}

/// A value is found by its text and as a number, and is yet one row. The hashes of a column say something of
/// its texts and nothing of its numbers.
#[test]
fn a_list_of_texts_and_numbers_finds_a_row_once() {
    let selectors: BTreeMap<u32, Selector> = [
        "x IN ('5', 5, 'a')",
        "x IN ('5', 5) AND x IS NOT NULL",
        "x = 5",
        "x = '5' OR x = 5",
        "x IN ('a', 7)",
    ]
    .into_iter()
    .zip(0..)
    .map(|(text, key)| (key, parse(text)))
    .collect();
    let mut index = Index::new();
    selectors.iter().for_each(|(key, selector)| index.insert(*key, selector));
    for shape in Shape::ALL {
        let texts = ["5", "5.0", "a", "7", "05", "5"];
        let rows = texts.map(|text| Row::from_iter([("x", Value::Text(text.to_owned()))])).to_vec();
        let rows = VecRows::new(rows).with_shape(ColumnRef::Property("x"), shape);
        let found = matches_by_index(&mut index, &rows);
        assert_eq!(found[&0], [0, 1, 2, 4, 5], "{shape:?}");
        assert_eq!(found, matches_by_oracle(&selectors, &rows), "{shape:?}");
    }
}

#[test]
fn malformed_columns_are_refused() {
    use std::{convert::Infallible, sync::Arc};
    use weir_columns::{Column, Rows};

    struct Damaged;

    impl Rows for Damaged {
        type Error = Infallible;

        fn len(&self) -> usize {
            2
        }

        fn shape(&self) -> u64 {
            0
        }

        fn column(&self, _: ColumnRef<'_>) -> Result<Option<Column>, Infallible> {
            let rows = VecRows::new(vec![Row::from_iter([("x", Value::Text("1".to_owned()))])]);
            let Some(Column::Dictionary { values, .. }) = rows.column(ColumnRef::Property("x"))? else {
                panic!("it is a dictionary");
            };
            Ok(Some(Column::Dictionary { codes: vec![0_u16, 9].into(), values: Arc::clone(&values) }))
        }

        fn value(&self, _: ColumnRef<'_>, _: usize) -> Result<Option<Value>, Infallible> {
            Ok(None)
        }
    }

    let mut index = Index::new();
    index.insert(1, &parse("x = 1"));
    let error = index.evaluate(&Damaged, |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("column x"), "{error}");
}

#[test]
fn selectors_of_exact_dialects_and_those_that_open_bodies_are_judged_as_they_are() {
    // RocketMQ reads digits of every script as numbers, and `'x' <> p` is TRUE where `p` is missing.
    let texts = ["٥", "5", "4", "x"];
    let row = |text: &str| -> Row { [("n", Value::Text(text.to_owned()))].into_iter().collect() };
    let rows = VecRows::new(texts.into_iter().map(row).collect());
    let mut index = Index::new();
    let mut selectors = BTreeMap::new();
    for (key, (text, dialect)) in (0..).zip([
        ("n >= 5", Dialect::RocketMq),
        ("'x' <> p AND n = '4'", Dialect::RocketMq),
        ("n + 1 = '51'", Dialect::Jms),
        ("n >= 5", Dialect::Sql92),
        ("JSON_VALUE(body, '$.a') IS NULL AND n = 5", Dialect::Sql92),
    ]) {
        let selector = Selector::parse(text, dialect, &Limits::default()).unwrap();
        index.insert(key, &selector);
        selectors.insert(key, selector);
    }
    let found = matches_by_index(&mut index, &rows);
    assert_eq!(found, matches_by_predicates(&selectors, &rows));
    let expected = [(0, vec![0, 1]), (1, vec![2]), (2, vec![1]), (3, vec![1]), (4, vec![1])];
    assert_eq!(found, expected.into_iter().collect());
}
