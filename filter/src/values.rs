//! Columns of a small record batch as sources of values.
//!
//! A property lies in the batch as one array: its distinct values are a struct of `kind`, `text` and,
//! where there are numbers, `int` and `float`; a dictionary shares the codes of the block.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, DictionaryArray, Float64Array, Int64Array, StringArray, StructArray, UInt8Array,
    UInt16Array, types::UInt16Type,
};
use arrow_buffer::NullBuffer;
use arrow_schema::{ArrowError, DataType, Field, Fields};
use weir_columns::{Kind, Values, classify};

use crate::{
    range::NumberRange,
    syntax::Connective,
    tree::{Check, Condition, Test},
    types::{Number, Scalar, Truth, number_of},
};

const KIND: &str = "kind";
const TEXT: &str = "text";
const INT: &str = "int";
const FLOAT: &str = "float";

/// The type of an array of `values`.
pub(crate) fn values_type(values: &Values) -> DataType {
    DataType::Struct(values_fields(values))
}

fn values_fields(values: &Values) -> Fields {
    let mut fields = vec![Field::new(KIND, DataType::UInt8, false), Field::new(TEXT, DataType::Utf8, false)];
    if values.ints.is_some() {
        fields.push(Field::new(INT, DataType::Int64, true));
    }
    if values.floats.is_some() {
        fields.push(Field::new(FLOAT, DataType::Float64, true));
    }
    fields.into()
}

/// The values as one array, null where `present` says so. Shares all buffers.
pub(crate) fn values_array(values: &Values, present: Option<NullBuffer>) -> Result<StructArray, ArrowError> {
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(values.kinds.clone()), Arc::new(values.text.clone())];
    if let Some(ints) = &values.ints {
        arrays.push(Arc::new(ints.clone()));
    }
    if let Some(floats) = &values.floats {
        arrays.push(Arc::new(floats.clone()));
    }
    StructArray::try_new(values_fields(values), arrays, present)
}

/// Something with a value at each place.
///
/// Answers are bytes: the discriminants of [`Truth`], so that loops over them are over plain numbers.
pub(crate) trait Source {
    fn len(&self) -> usize;

    fn scalar(&self, place: usize) -> Scalar<'_>;

    /// Asks something of the text at a place; `None` if the value is no text.
    fn map_text<T>(&self, place: usize, ask: impl FnOnce(&str) -> T) -> Option<T>;

    /// Whether each number is in the range.
    fn number_truths(&self, range: &NumberRange) -> Vec<u8>;

    /// Whether each text is this one.
    fn equal_truths(&self, text: &str) -> Vec<u8>;
}

const FALSE: u8 = Truth::False as u8;
const UNKNOWN: u8 = Truth::Unknown as u8;
const TRUE: u8 = Truth::True as u8;

/// A struct array of values, opened.
pub(crate) struct OpenValues<'a> {
    kinds: &'a UInt8Array,
    text: &'a StringArray,
    ints: Option<&'a Int64Array>,
    floats: Option<&'a Float64Array>,
}

impl<'a> OpenValues<'a> {
    /// Opens what [`values_array`] made; `None` for any other array.
    pub(crate) fn open(array: &'a StructArray) -> Option<Self> {
        let column = |name| array.column_by_name(name).map(|column| column.as_any());
        Some(Self {
            kinds: column(KIND)?.downcast_ref()?,
            text: column(TEXT)?.downcast_ref()?,
            ints: column(INT).and_then(|column| column.downcast_ref()),
            floats: column(FLOAT).and_then(|column| column.downcast_ref()),
        })
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// What is stored at a place: its kind, text, integer and float.
    pub(crate) fn stored(&self, place: usize) -> (Kind, &'a str, Option<i64>, Option<f64>) {
        let int = self.ints.filter(|ints| ints.is_valid(place)).map(|ints| ints.value(place));
        let float = self.floats.filter(|floats| floats.is_valid(place)).map(|floats| floats.value(place));
        (self.kind(place), self.text.value(place), int, float)
    }

    fn kind(&self, place: usize) -> Kind {
        Kind::from_byte(self.kinds.value(place)).unwrap_or(Kind::Text)
    }

    fn int(&self, place: usize) -> Option<Number> {
        self.ints.filter(|ints| ints.is_valid(place)).map(|ints| Number::Int(ints.value(place)))
    }

    fn float(&self, place: usize) -> Option<Number> {
        self.floats.filter(|floats| floats.is_valid(place)).map(|floats| Number::Float(floats.value(place)))
    }
}

impl Source for OpenValues<'_> {
    fn len(&self) -> usize {
        self.kinds.len()
    }

    fn scalar(&self, place: usize) -> Scalar<'_> {
        let text = || self.text.value(place);
        match self.kind(place) {
            Kind::Text => Scalar::Text(text(), None),
            Kind::Odd => Scalar::Text(text(), number_of(text())),
            Kind::Int => Scalar::Text(text(), self.int(place)),
            Kind::Float => Scalar::Text(text(), self.float(place)),
            Kind::Str => Scalar::Str(text()),
            Kind::Bool => Scalar::Boolean(text() == "true"),
            Kind::I32 | Kind::I64 => self.int(place).map_or(Scalar::Null, Scalar::Number),
            Kind::F32 | Kind::F64 => self.float(place).map_or(Scalar::Null, Scalar::Number),
        }
    }

    fn map_text<T>(&self, place: usize, ask: impl FnOnce(&str) -> T) -> Option<T> {
        TEXTS[usize::from(self.kinds.value(place) & 15)].then(|| ask(self.text.value(place)))
    }

    fn number_truths(&self, range: &NumberRange) -> Vec<u8> {
        let mut truths = vec![UNKNOWN; self.len()];
        let kinds = self.kinds.values();
        // What lies in these arrays where the kind says otherwise is not looked at.
        if let (Some(ints), Some((low, high))) = (self.ints, or_empty(self.ints, range.ints, (1, 0))) {
            for ((truth, kind), value) in truths.iter_mut().zip(kinds).zip(ints.values()) {
                let inside = u8::from((low <= *value) & (*value <= high)) * TRUE;
                *truth = if INTS[usize::from(kind & 15)] { inside } else { *truth };
            }
        }
        if let (Some(floats), Some((low, high))) =
            (self.floats, or_empty(self.floats, range.floats, (1.0, 0.0)))
        {
            for ((truth, kind), value) in truths.iter_mut().zip(kinds).zip(floats.values()) {
                let inside = u8::from((low <= *value) & (*value <= high)) * TRUE;
                let answer = if value.is_nan() { UNKNOWN } else { inside };
                *truth = if FLOATS[usize::from(kind & 15)] { answer } else { *truth };
            }
        }
        for (place, kind) in kinds.iter().enumerate() {
            if *kind == Kind::Odd as u8
                && let Some(number) = number_of(self.text.value(place))
            {
                truths[place] = u8::from(range.has(number)) * TRUE;
            }
        }
        truths
    }

    fn equal_truths(&self, text: &str) -> Vec<u8> {
        let (wanted, bytes) = (text.as_bytes(), self.text.value_data());
        let last = wanted.last();
        let ends = self.text.value_offsets().windows(2);
        ends.zip(self.kinds.values())
            .map(|(ends, kind)| {
                let value = &bytes[ends[0] as usize..ends[1] as usize];
                // Values of one length mostly differ at their ends.
                let equal = value.len() == wanted.len() && value.last() == last && value == wanted;
                if TEXTS[usize::from(kind & 15)] { u8::from(equal) * TRUE } else { UNKNOWN }
            })
            .collect()
    }
}

/// The range if the array exists; one without values in place of an empty one.
fn or_empty<A, T>(array: Option<&A>, range: Option<(T, T)>, empty: (T, T)) -> Option<(T, T)> {
    array.map(|_| range.unwrap_or(empty))
}

/// Which kinds are in a set, by the lower four bits of their discriminants.
const fn kind_table(wanted: &[Kind]) -> [bool; 16] {
    let mut table = [false; 16];
    let mut index = 0;
    while index < wanted.len() {
        table[wanted[index] as usize] = true;
        index += 1;
    }
    table
}

const INTS: [bool; 16] = kind_table(&[Kind::Int, Kind::I32, Kind::I64]);
const FLOATS: [bool; 16] = kind_table(&[Kind::Float, Kind::F32, Kind::F64]);
const TEXTS: [bool; 16] = kind_table(&[Kind::Text, Kind::Odd, Kind::Int, Kind::Float, Kind::Str]);

/// Integers: of a property that holds nothing else, or of the system.
pub(crate) struct OpenInts<'a> {
    pub(crate) ints: &'a Int64Array,
    pub(crate) of_system: bool,
}

impl Source for OpenInts<'_> {
    fn len(&self) -> usize {
        self.ints.len()
    }

    fn scalar(&self, place: usize) -> Scalar<'_> {
        if self.ints.is_null(place) {
            Scalar::Null
        } else if self.of_system {
            Scalar::Number(Number::Int(self.ints.value(place)))
        } else {
            Scalar::Digits(self.ints.value(place))
        }
    }

    fn map_text<T>(&self, place: usize, ask: impl FnOnce(&str) -> T) -> Option<T> {
        self.scalar(place).map_text(ask)
    }

    fn number_truths(&self, range: &NumberRange) -> Vec<u8> {
        let (low, high) = range.ints.unwrap_or((1, 0));
        self.ints.values().iter().map(|value| u8::from((low <= *value) & (*value <= high)) * TRUE).collect()
    }

    fn equal_truths(&self, text: &str) -> Vec<u8> {
        if self.of_system {
            return vec![UNKNOWN; self.len()];
        }
        // The text of each value is canonical, so other texts equal none.
        match classify(text) {
            (Kind::Int, Some(wanted), _) => {
                self.ints.values().iter().map(|value| u8::from(*value == wanted) * TRUE).collect()
            }
            _ => vec![FALSE; self.len()],
        }
    }
}

/// The answer at each place of `source`, to a condition that looks at this one column only.
///
/// Where the value is missing, the answer means nothing.
pub(crate) fn truths(condition: &Condition, source: &impl Source) -> Vec<u8> {
    match condition {
        Condition::Constant(truth) => vec![*truth as u8; source.len()],
        Condition::Test(test) => test_truths(test, source),
        Condition::IsUnknown { condition, negated } => {
            let mut truths = truths(condition, source);
            for truth in &mut truths {
                *truth = u8::from((*truth == UNKNOWN) != *negated) * TRUE;
            }
            truths
        }
        Condition::Same { sides, negated } => {
            let [mut result, right] = sides.each_ref().map(|side| truths(side, source));
            for (truth, other) in result.iter_mut().zip(&right) {
                let known = (*truth != UNKNOWN) & (*other != UNKNOWN);
                let answer = u8::from((truth == other) != *negated) * TRUE;
                *truth = if known { answer } else { UNKNOWN };
            }
            result
        }
        Condition::Junction { connective, terms } => {
            let mut all = terms.iter().map(|term| truths(term, source));
            let mut result = all.next().unwrap_or_default();
            for term in all {
                combine(*connective, &mut result, &term);
            }
            result
        }
    }
}

fn combine(connective: Connective, result: &mut [u8], term: &[u8]) {
    let pairs = result.iter_mut().zip(term);
    match connective {
        Connective::And => pairs.for_each(|(truth, other)| *truth = (*truth).min(*other)),
        Connective::Or => pairs.for_each(|(truth, other)| *truth = (*truth).max(*other)),
    }
}

fn test_truths(test: &Test, source: &impl Source) -> Vec<u8> {
    let mut truths = check_truths(&test.check, source);
    if test.negated {
        for truth in &mut truths {
            *truth = TRUE - *truth;
        }
    }
    truths
}

/// Lists up to this length are looked for one after another, longer ones by their hashes.
const SHORT_LIST: usize = 4;

fn check_truths(check: &Check, source: &impl Source) -> Vec<u8> {
    let each = |truth: &dyn Fn(usize) -> Truth| (0..source.len()).map(|place| truth(place) as u8).collect();
    if check.plain_column().is_none() {
        return each(&|place| check.truth(&|_| source.scalar(place)));
    }
    match check {
        Check::Number { range, .. } => source.number_truths(range),
        Check::Text { range, .. } => match range.single() {
            Some(text) => source.equal_truths(text),
            None => each(&|place| Truth::from(source.map_text(place, |text| range.has(text)))),
        },
        Check::In { set, .. } if set.is_text_only() && set.texts.len() <= SHORT_LIST => {
            let mut result = vec![FALSE; source.len()];
            for text in &set.texts {
                combine(Connective::Or, &mut result, &source.equal_truths(text));
            }
            result
        }
        Check::In { set, .. } if set.is_text_only() => {
            each(&|place| Truth::from(source.map_text(place, |text| set.texts.contains(text))))
        }
        Check::Like { pattern, .. } => {
            each(&|place| Truth::from(source.map_text(place, |text| pattern.matches(text))))
        }
        _ => each(&|place| check.truth(&|_| source.scalar(place))),
    }
}

/// A column of a batch, whose value in each row can be asked.
pub(crate) enum OpenColumn<'a> {
    Dictionary { codes: &'a UInt16Array, values: OpenValues<'a> },
    Plain { present: Option<&'a NullBuffer>, values: OpenValues<'a> },
    Ints(OpenInts<'a>),
}

impl<'a> OpenColumn<'a> {
    /// Opens an array; `None` if its type is not one that columns have in a batch.
    pub(crate) fn open(array: &'a dyn Array, of_system: bool) -> Option<Self> {
        if let Some(dictionary) = array.as_any().downcast_ref::<DictionaryArray<UInt16Type>>() {
            let values = dictionary.values().as_any().downcast_ref()?;
            return Some(Self::Dictionary { codes: dictionary.keys(), values: OpenValues::open(values)? });
        }
        if let Some(values) = array.as_any().downcast_ref::<StructArray>() {
            return Some(Self::Plain { present: values.nulls(), values: OpenValues::open(values)? });
        }
        let ints = array.as_any().downcast_ref()?;
        Some(Self::Ints(OpenInts { ints, of_system }))
    }

    pub(crate) fn scalar(&self, row: usize) -> Scalar<'_> {
        match self {
            Self::Dictionary { codes, values } if codes.is_valid(row) => {
                values.scalar(usize::from(codes.value(row)))
            }
            Self::Plain { present, values } if present.is_none_or(|present| present.is_valid(row)) => {
                values.scalar(row)
            }
            Self::Dictionary { .. } | Self::Plain { .. } => Scalar::Null,
            Self::Ints(ints) => ints.scalar(row),
        }
    }
}
