//! Of an AND, the condition that leaves fewest rows is judged first, and columns of the others are read only where
//! it leaves some.

use std::sync::Mutex;

use arrow_buffer::BooleanBuffer;
use weir_columns::{Column, ColumnRef, Rows, Value};
use weir_filter::{
    Dialect, Limits, Predicate, Selector,
    oracle::{Row, VecRows},
};

/// Rows that note which columns are read.
struct Noted {
    rows: VecRows,
    read: Mutex<Vec<String>>,
    /// A column that cannot be read.
    damaged: Option<&'static str>,
}

impl Noted {
    /// Returns rows with these values of `a`, and `b` and `c` that are always 1.
    fn new(values: &[&str]) -> Self {
        let text = |value: &str| Value::Text(value.to_owned());
        let row =
            |a: &&str| -> Row { [("a", text(a)), ("b", text("1")), ("c", text("1"))].into_iter().collect() };
        Self { rows: VecRows::new(values.iter().map(row).collect()), read: Mutex::default(), damaged: None }
    }

    fn take_read(&self) -> Vec<String> {
        std::mem::take(&mut self.read.lock().unwrap())
    }
}

impl Rows for Noted {
    type Error = String;

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn shape(&self) -> u64 {
        self.rows.shape()
    }

    fn column(&self, name: ColumnRef<'_>) -> Result<Option<Column>, String> {
        self.read.lock().unwrap().push(name.to_string());
        let name_text = name.to_string();
        if self.damaged == Some(&*name_text) {
            return Err(name_text);
        }
        self.rows.column(name).map_err(|never| match never {})
    }

    fn value(&self, name: ColumnRef<'_>, row: usize) -> Result<Option<Value>, String> {
        self.rows.value(name, row).map_err(|never| match never {})
    }

    fn will_read(&self, columns: &mut dyn Iterator<Item = ColumnRef<'_>>) {
        let names: Vec<String> = columns.map(|column| column.to_string()).collect();
        self.read.lock().unwrap().push(format!("soon {}", names.join(" ")));
    }
}

fn predicate(text: &str) -> Predicate {
    Predicate::new(&Selector::parse(text, Dialect::Sql92, &Limits::default()).unwrap())
}

#[test]
fn columns_are_read_where_the_first_condition_leaves_rows() {
    let predicate = predicate("b > 0 AND a = 'x' AND c = 1");
    let (none, some) = (Noted::new(&["y", "z"]), Noted::new(&["y", "x", "x"]));
    for _ in 0..20 {
        assert!(!predicate.matches(&none, None).unwrap().has_true());
        assert_eq!(none.take_read(), ["a"]);
    }
    assert_eq!(predicate.first_columns().map(|column| column.to_string()).collect::<Vec<_>>(), ["a"]);
    let matches = predicate.matches(&some, None).unwrap();
    assert_eq!(matches.set_indices().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(some.take_read(), ["a", "soon b a c", "b", "a", "c"]);
    let only = BooleanBuffer::from(vec![true, true, false]);
    let matches = predicate.matches(&some, Some(&only)).unwrap();
    assert_eq!(matches.set_indices().collect::<Vec<_>>(), [1]);
    // Who wants to know UNKNOWN from FALSE needs all columns.
    predicate.evaluate(&none, None).unwrap();
    assert_eq!(none.take_read(), ["b", "a", "c"]);
}

#[test]
fn a_condition_that_leaves_rows_everywhere_is_not_judged_twice() {
    let predicate = predicate("a = 'x' AND b = 2");
    let some = Noted::new(&["x", "y"]);
    let mut first = 0;
    for _ in 0..1000 {
        predicate.matches(&some, None).unwrap();
        first += usize::from(some.take_read().len() == 4);
    }
    assert!((8..40).contains(&first), "{first}");
    assert_eq!(predicate.first_columns().count(), 2);
    // It is tried now and then, and comes back where data has changed.
    let none = Noted::new(&["y", "z"]);
    for _ in 0..100_000 {
        predicate.matches(&none, None).unwrap();
        if none.take_read() == ["a"] && predicate.first_columns().count() == 1 {
            return;
        }
    }
    panic!("it has not come back");
}

#[test]
fn there_is_nothing_to_gain_from_a_single_column_an_or_or_hashes() {
    for text in ["a = 'x'", "a = 'x' AND a <> 'y'", "a = 'x' OR b = 1", "sys.keys = 'x' AND NOT b = 1"] {
        let predicate = predicate(text);
        let columns = predicate.selector().columns().count();
        assert_eq!(predicate.first_columns().count(), columns, "{text}");
    }
}

/// Whether a column that cannot be read matters depends on the rows, and not on what was judged before.
#[test]
fn a_damaged_column_fails_where_rows_are_left_to_it() {
    let predicate = predicate("a = 'x' AND b = 1");
    let mut none = Noted::new(&["y", "z"]);
    let mut some = Noted::new(&["x", "y"]);
    (none.damaged, some.damaged) = (Some("b"), Some("b"));
    let whole = Noted::new(&["x", "y"]);
    for judged_before in [0, 100] {
        for _ in 0..judged_before {
            predicate.matches(&whole, None).unwrap();
        }
        assert!(!predicate.matches(&none, None).unwrap().has_true());
        assert!(predicate.matches(&some, None).is_err());
        // Of rows that are not asked for nothing is read.
        let nothing = BooleanBuffer::new_unset(2);
        some.take_read();
        assert!(!predicate.matches(&some, Some(&nothing)).unwrap().has_true());
        assert_eq!(some.take_read(), [""; 0]);
    }
    assert_eq!(predicate.first_columns().count(), 2);
}
