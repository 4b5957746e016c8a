//! Text that is put together: `||` and `concat`, with a bound on what they make.
//!
//! DataFusion's own are left out, because what they make is not counted: `SELECT a || a AS a` nested in itself
//! doubles with every level.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, AsArray, StringArray, StringBuilder},
        compute::{can_cast_types, cast},
        datatypes::DataType,
    },
    common::{DataFusionError, Result},
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
    scalar::ScalarValue,
};

use crate::{
    error::{EngineError, LimitKind},
    limits::SQL_CONCAT_BYTES_MAX,
};

/// The function that stands for `||`. Unlike `concat` it is null if any part is.
const OPERATOR: &str = "weir$concat";

/// Puts text together.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Concat {
    signature: Signature,
    is_operator: bool,
}

impl Concat {
    /// Returns the function `concat`, which passes over nulls.
    pub(crate) fn function() -> ScalarUDF {
        Self::with(false)
    }

    /// Returns what stands for `||`.
    pub(crate) fn operator() -> ScalarUDF {
        Self::with(true)
    }

    fn with(is_operator: bool) -> ScalarUDF {
        ScalarUDF::from(Self { signature: Signature::variadic_any(Volatility::Immutable), is_operator })
    }
}

/// Whether values of this type can be parts.
pub(crate) fn has_text(data_type: &DataType) -> bool {
    let is_bytes = matches!(
        data_type,
        DataType::Binary | DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_)
    );
    !is_bytes && !data_type.is_nested() && can_cast_types(data_type, &DataType::Utf8)
}

/// Whether `name` is that of what stands for `||`.
pub(crate) fn is_operator(name: &str) -> bool {
    name == OPERATOR
}

impl ScalarUDFImpl for Concat {
    fn name(&self) -> &str {
        if self.is_operator { OPERATOR } else { "concat" }
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let names = args.iter().map(|arg| arg.schema_name().to_string()).collect::<Vec<_>>();
        Ok(if self.is_operator { names.join(" || ") } else { format!("concat({})", names.join(",")) })
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, parts: &[DataType]) -> Result<DataType> {
        match parts.iter().find(|part| !has_text(part)) {
            None => Ok(DataType::Utf8),
            Some(part) => Err(DataFusionError::Plan(format!("{part} cannot be joined to text"))),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let parts = args.args.iter().map(Part::of).collect::<Result<Vec<_>>>()?;
        let is_scalar = parts.iter().all(|part| matches!(part, Part::One(_)));
        let rows = if is_scalar { 1 } else { args.number_rows };
        let text = self.joined(&parts, rows)?;
        Ok(if is_scalar {
            ColumnarValue::Scalar(ScalarValue::Utf8(text.iter().next().flatten().map(str::to_owned)))
        } else {
            ColumnarValue::Array(Arc::new(text))
        })
    }
}

impl Concat {
    fn joined(&self, parts: &[Part], rows: usize) -> Result<StringArray> {
        let is_null = |row: usize| self.is_operator && parts.iter().any(|part| part.at(row).is_none());
        let length = |row: usize| parts.iter().filter_map(|part| part.at(row)).map(str::len).sum::<usize>();
        // Measured before a byte is copied.
        let bytes = (0..rows).filter(|row| !is_null(*row)).map(length).fold(0_usize, usize::saturating_add);
        if bytes > SQL_CONCAT_BYTES_MAX {
            return Err(DataFusionError::External(Box::new(EngineError::Limit {
                what: "the bytes of text that || or concat makes of one batch of rows",
                actual: bytes as u64,
                limit: SQL_CONCAT_BYTES_MAX as u64,
                kind: LimitKind::Other,
            })));
        }
        let mut text = StringBuilder::with_capacity(rows, bytes);
        let mut value = String::new();
        for row in 0..rows {
            if is_null(row) {
                text.append_null();
            } else {
                value.clear();
                parts.iter().filter_map(|part| part.at(row)).for_each(|part| value.push_str(part));
                text.append_value(&value);
            }
        }
        Ok(text.finish())
    }
}

/// A part of every row.
enum Part {
    /// The same for all; it is never copied for each.
    One(Option<String>),
    Many(StringArray),
}

impl Part {
    fn of(value: &ColumnarValue) -> Result<Self> {
        Ok(match value {
            ColumnarValue::Scalar(value) => match value.cast_to(&DataType::Utf8)? {
                ScalarValue::Utf8(text) => Self::One(text),
                _ => Self::One(None),
            },
            ColumnarValue::Array(array) => {
                Self::Many(cast(array, &DataType::Utf8)?.as_string::<i32>().clone())
            }
        })
    }

    fn at(&self, row: usize) -> Option<&str> {
        match self {
            Self::One(text) => text.as_deref(),
            Self::Many(texts) => texts.is_valid(row).then(|| texts.value(row)),
        }
    }
}
