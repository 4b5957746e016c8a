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
use weir_columns::{Kind, Values};

use crate::{
    range::NumberRange,
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
pub(crate) trait Source {
    fn len(&self) -> usize;

    fn scalar(&self, place: usize) -> Scalar<'_>;

    /// Whether the number at each place is in the range, negated or not.
    fn number_truths(&self, range: &NumberRange, negated: bool) -> Vec<Truth>;
}

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

    fn number_truths(&self, range: &NumberRange, negated: bool) -> Vec<Truth> {
        let truth = |place| {
            let number = match self.kind(place) {
                Kind::Int | Kind::I32 | Kind::I64 => self.int(place),
                Kind::Float | Kind::F32 | Kind::F64 => self.float(place),
                Kind::Odd => number_of(self.text.value(place)),
                Kind::Text | Kind::Str | Kind::Bool => None,
            };
            match number {
                Some(Number::Int(value)) => Truth::from(range.has_int(value) != negated),
                Some(Number::Float(value)) if !value.is_nan() => {
                    Truth::from(range.has_float(value) != negated)
                }
                _ => Truth::Unknown,
            }
        };
        (0..self.len()).map(truth).collect()
    }
}

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

    fn number_truths(&self, range: &NumberRange, negated: bool) -> Vec<Truth> {
        let Some((low, high)) = range.ints else {
            return vec![Truth::from(negated); self.len()];
        };
        let (inside, outside) = (Truth::from(!negated), Truth::from(negated));
        self.ints
            .values()
            .iter()
            .map(|value| if low <= *value && *value <= high { inside } else { outside })
            .collect()
    }
}

/// The answer at each place of `source`, to a condition that looks at this one column only.
pub(crate) fn truths(condition: &Condition, source: &impl Source) -> Vec<Truth> {
    match condition {
        Condition::Constant(truth) => vec![*truth; source.len()],
        Condition::Test(test) => test_truths(test, source),
        Condition::IsUnknown { condition, negated } => {
            let mut truths = truths(condition, source);
            for truth in &mut truths {
                *truth = Truth::from((*truth == Truth::Unknown) != *negated);
            }
            truths
        }
        Condition::Junction { connective, terms } => {
            let mut all = terms.iter().map(|term| truths(term, source));
            let mut result = all.next().unwrap_or_default();
            for term in all {
                for (truth, other) in result.iter_mut().zip(&term) {
                    *truth = connective.combine(*truth, *other);
                }
            }
            result
        }
    }
}

fn test_truths(test: &Test, source: &impl Source) -> Vec<Truth> {
    match &test.check {
        Check::Number { range, .. } if test.check.plain_column().is_some() => {
            source.number_truths(range, test.negated)
        }
        _ => (0..source.len()).map(|place| test.truth(&|_| source.scalar(place))).collect(),
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
