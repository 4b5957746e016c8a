//! The typed tree: a condition in negation normal form, checked, with constants folded.
//!
//! NOT is pushed down to the tests (`NOT (a AND b)` is `NOT a OR NOT b`), so that, with rare exceptions,
//! AND and OR alone combine truth values. With the order FALSE < UNKNOWN < TRUE these are minimum and maximum: if no test
//! gets larger, neither does the whole. Evaluation over hashes and pruning both stand on that.

use std::fmt;

use hashbrown::{HashMap, HashSet};
use weir_columns::{ColumnRef, Kind, KindSet, System};

use crate::{
    error::SelectorError,
    json::JsonPath,
    lexer::excerpt,
    operand::{Constant, Operand},
    pattern::Pattern,
    range::{NumberRange, TextRange},
    regexp::Regexp,
    syntax::{Comparison, Connective, Expr, ExprKind, Literal},
    types::{Number, Scalar, Truth},
};

/// A condition over columns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Condition {
    Constant(Truth),
    Test(Test),
    /// Whether `condition` is unknown; never unknown itself.
    IsUnknown {
        condition: Box<Condition>,
        negated: bool,
    },
    /// Whether both sides are TRUE or both FALSE; unknown if one is.
    Same {
        sides: Box<[Condition; 2]>,
        negated: bool,
    },
    /// At least two terms, none of which is a junction of the same kind.
    Junction {
        connective: Connective,
        terms: Vec<Condition>,
    },
}

/// A check, the other way round if `negated`; what is unknown stays so.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Test {
    pub(crate) check: Check,
    pub(crate) negated: bool,
}

/// What is asked of one or two values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Check {
    /// Is the number in the range? Unknown if it is no number.
    Number { operand: Operand, range: NumberRange },
    /// Is the text in the range? Unknown if it is no text.
    Text { operand: Operand, range: TextRange },
    /// Is it true? Unknown if it is no boolean.
    Boolean { operand: Operand },
    /// Does it equal one of these?
    In { operand: Operand, set: Set },
    /// Does the text match? Unknown if it is no text.
    Like { operand: Operand, pattern: Box<Pattern> },
    /// Does the expression match some part of the text? Unknown if it is no text.
    Regexp { operand: Operand, regexp: Regexp },
    /// Is it missing? Never unknown.
    Null { operand: Operand },
    /// Is it of one of these kinds, which are kinds of typed clients? Never unknown. No text of `sql92` asks
    /// this; it is part of what the exact dialects are pruned by.
    Typed { operand: Operand, kinds: KindSet },
    /// Two values that are both not constant.
    Compare { left: Operand, comparison: Comparison, right: Operand },
}

/// The entries of a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Set {
    pub(crate) texts: HashSet<String, foldhash::fast::RandomState>,
    pub(crate) numbers: Vec<Number>,
    pub(crate) booleans: Vec<bool>,
    /// The numbers that integers equal.
    ints: HashSet<i64, foldhash::fast::RandomState>,
    /// The bits of the numbers that doubles equal, of zero without sign.
    floats: HashSet<u64, foldhash::fast::RandomState>,
}

/// The name of a column, owned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ColumnName {
    Property(String),
    System(System),
    /// A scalar out of the body, which no row has as a column.
    Json(JsonPath),
}

impl ColumnName {
    /// The column of rows; `None` for what lies in bodies.
    pub(crate) fn as_ref(&self) -> Option<ColumnRef<'_>> {
        match self {
            Self::Property(name) => Some(ColumnRef::Property(name)),
            Self::System(system) => Some(ColumnRef::System(*system)),
            Self::Json(_) => None,
        }
    }

    pub(crate) fn is_system(&self) -> bool {
        matches!(self, Self::System(_))
    }
}

impl fmt::Display for ColumnName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Property(name) => ColumnRef::Property(name).fmt(f),
            Self::System(system) => ColumnRef::System(*system).fmt(f),
            Self::Json(path) => path.fmt(f),
        }
    }
}

#[cfg(feature = "oracle")]
impl From<ColumnRef<'_>> for ColumnName {
    fn from(name: ColumnRef<'_>) -> Self {
        match name {
            ColumnRef::Property(name) => Self::Property(name.to_owned()),
            ColumnRef::System(system) => Self::System(system),
        }
    }
}

/// A checked selector.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) condition: Condition,
    /// The columns that are looked at, each once.
    pub(crate) columns: Vec<ColumnName>,
}

impl Tree {
    /// Checks the types of a syntax tree. `text` is where it came from.
    pub(crate) fn new(text: &str, expr: &Expr) -> Result<Self, SelectorError> {
        let mut checker = Checker { text, columns: HashMap::default(), regexps: 0 };
        let condition = checker.condition(expr, false)?;
        let mut columns: Vec<(ColumnName, usize)> = checker.columns.into_iter().collect();
        columns.sort_unstable_by_key(|(_, place)| *place);
        let mut tree = Self { condition, columns: columns.into_iter().map(|(name, _)| name).collect() };
        tree.forget_folded_columns();
        Ok(tree)
    }

    /// Whether the moment of the scan decides.
    pub(crate) fn has_now(&self) -> bool {
        self.condition.has_now()
    }

    /// The same with the moment of the scan in its place.
    pub(crate) fn at(&self, now_ms: i64) -> Self {
        let mut tree = Self { condition: self.condition.at(now_ms), columns: self.columns.clone() };
        tree.forget_folded_columns();
        tree
    }

    /// One condition of several that must all be TRUE, by itself: the one that most likely leaves few rows, of
    /// those that look at one column. `None` if there is none of which the others would gain.
    pub(crate) fn lead(&self) -> Option<Self> {
        let Condition::Junction { connective: Connective::And, terms } = &self.condition else { return None };
        let rank = |term: &Condition| {
            let Condition::Test(Test { check, negated: false }) = term else { return None };
            let mut columns = Vec::new();
            term.for_each_column(&mut |column| columns.push(column));
            columns.dedup();
            let [column] = columns[..] else { return None };
            // Hashes do not decide, and bodies come last.
            let is_plain = match self.columns.get(column)? {
                ColumnName::Property(_) => true,
                ColumnName::System(system) => !matches!(system, System::Keys | System::MessageId),
                ColumnName::Json(_) => false,
            };
            match check {
                Check::In { .. } | Check::Text { .. } if is_plain => Some(0),
                Check::Like { .. } | Check::Number { .. } | Check::Boolean { .. } if is_plain => Some(1),
                _ => None,
            }
        };
        let best = terms.iter().filter_map(|term| Some((rank(term)?, term))).min_by_key(|(rank, _)| *rank)?.1;
        let mut lead = Self { condition: best.clone(), columns: self.columns.clone() };
        lead.forget_folded_columns();
        (lead.columns.len() < self.columns.len()).then_some(lead)
    }

    /// Drops columns that constants have made irrelevant.
    fn forget_folded_columns(&mut self) {
        let mut used = vec![false; self.columns.len()];
        self.condition.for_each_column(&mut |column| used[column] = true);
        let mut places = Vec::with_capacity(used.len());
        let mut next = 0;
        for used in &used {
            places.push(next);
            next += usize::from(*used);
        }
        self.condition.for_each_column_mut(&mut |column| *column = places[*column]);
        let mut keep = used.into_iter();
        self.columns.retain(|_| keep.next().unwrap_or(false));
    }
}

/// What is known of a value before any row is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// A property: text, a number or a boolean, by row.
    Any,
    Number,
    Text,
    Boolean,
    Null,
}

impl Type {
    pub(crate) const fn noun(self) -> &'static str {
        match self {
            Self::Any => "a property",
            Self::Number => "a number",
            Self::Text => "a string",
            Self::Boolean => "TRUE or FALSE",
            Self::Null => "NULL",
        }
    }
}

/// Looks at types, and makes conditions of what was written. Calls are in [`crate::calls`].
pub(crate) struct Checker<'a> {
    text: &'a str,
    columns: HashMap<ColumnName, usize, foldhash::fast::RandomState>,
    /// How many regular expressions there are so far.
    pub(crate) regexps: usize,
}

impl Checker<'_> {
    pub(crate) fn error<T>(&self, at: usize, message: impl Into<String>) -> Result<T, SelectorError> {
        Err(SelectorError::new(self.text, at, message))
    }

    pub(crate) fn condition(&mut self, expr: &Expr, negated: bool) -> Result<Condition, SelectorError> {
        match &expr.kind {
            ExprKind::Literal(Literal::Boolean(value)) => {
                Ok(Condition::Constant(Truth::from(*value).negated_if(negated)))
            }
            ExprKind::Literal(Literal::Null) => Ok(Condition::Constant(Truth::Unknown)),
            ExprKind::Property(_) => {
                let operand = self.operand(expr)?.0;
                Ok(Condition::test(Check::Boolean { operand }, negated))
            }
            ExprKind::Literal(_)
            | ExprKind::System(_)
            | ExprKind::JsonValue(_)
            | ExprKind::Now
            | ExprKind::Sign { .. }
            | ExprKind::Arithmetic { .. }
            | ExprKind::Call { .. } => {
                let (operand, kind) = self.operand(expr)?;
                if matches!(kind, Type::Any | Type::Boolean | Type::Null) {
                    return Ok(Condition::test(Check::Boolean { operand }, negated));
                }
                self.error(
                    expr.at,
                    format!("expected a condition, found {}; compare it with something", kind.noun()),
                )
            }
            ExprKind::Compare { left, comparison, right } => self.compare(left, *comparison, right, negated),
            ExprKind::Between { operand, low, high, negated: not } => {
                self.between(operand, low, high, *not != negated)
            }
            ExprKind::In { operand, list, negated: not } => self.list(operand, list, *not != negated),
            ExprKind::Like { operand, pattern, escape, negated: not } => {
                self.like(operand, Pattern::like(pattern, *escape), "LIKE", *not != negated)
            }
            ExprKind::Search { operand, search, text, negated: not } => {
                self.like(operand, Pattern::search(*search, text), "a search", *not != negated)
            }
            ExprKind::Regexp { operand, pattern, negated: not } => {
                self.regexp(operand, pattern, *not != negated)
            }
            ExprKind::IsNull { operand, negated: not } => self.is_null(operand, *not != negated),
            ExprKind::Not(operand) => self.condition(operand, !negated),
            ExprKind::Junction { connective, terms } => {
                let terms: Result<Vec<Condition>, _> =
                    terms.iter().map(|term| self.condition(term, negated)).collect();
                let connective = if negated { connective.other() } else { *connective };
                Ok(Condition::junction(connective, terms?))
            }
        }
    }

    fn compare(
        &mut self,
        left: &Expr,
        comparison: Comparison,
        right: &Expr,
        negated: bool,
    ) -> Result<Condition, SelectorError> {
        if left.is_condition() {
            return self.compare_condition(left, comparison, right, negated);
        }
        if right.is_condition() {
            return self.compare_condition(right, comparison.flipped(), left, negated);
        }
        let (left_operand, left_type) = self.operand(left)?;
        let (right_operand, right_type) = self.operand(right)?;
        self.check_comparable(left_type, comparison, right, right_type)?;
        Ok(compare(left_operand, comparison, right_operand, negated))
    }

    /// `(a > 5) = TRUE`, `(a > 5) <> (b > 5)`, `(a > 5) = flag`.
    fn compare_condition(
        &mut self,
        condition: &Expr,
        comparison: Comparison,
        other: &Expr,
        negated: bool,
    ) -> Result<Condition, SelectorError> {
        if comparison.is_ordering() {
            return self.error(condition.at, "a condition has no order; compare it by = or <>");
        }
        if !other.is_condition() {
            let kind = self.operand(other)?.1;
            if !matches!(kind, Type::Any | Type::Boolean | Type::Null) {
                return self.error(other.at, format!("a condition cannot be compared with {}", kind.noun()));
            }
        }
        let sides = [self.condition(condition, false)?, self.condition(other, false)?];
        Ok(Condition::same(sides, negated != (comparison == Comparison::NotEqual)))
    }

    /// `right` is the expression on the right, where an error is shown.
    pub(crate) fn check_comparable(
        &self,
        left_type: Type,
        comparison: Comparison,
        right: &Expr,
        right_type: Type,
    ) -> Result<(), SelectorError> {
        if comparison.is_ordering() && [left_type, right_type].contains(&Type::Boolean) {
            return self.error(right.at, "TRUE and FALSE have no order; compare them by = or <>");
        }
        let fits = left_type == right_type
            || [left_type, right_type].iter().any(|t| matches!(t, Type::Any | Type::Null));
        if fits {
            return Ok(());
        }
        let hint = match (left_type, right_type) {
            (Type::Number, Type::Text) => "; write numbers without quotes",
            (Type::Text, Type::Number) => "; write strings in single quotes",
            _ => "",
        };
        self.error(
            right.at,
            format!("{} cannot be compared with {}{hint}", left_type.noun(), right_type.noun()),
        )
    }

    fn between(
        &mut self,
        operand: &Expr,
        low: &Expr,
        high: &Expr,
        negated: bool,
    ) -> Result<Condition, SelectorError> {
        let (value, value_type) = self.value(operand, "BETWEEN")?;
        let (low_value, low_type) = self.value(low, "BETWEEN")?;
        let (high_value, high_type) = self.value(high, "BETWEEN")?;
        self.check_comparable(value_type, Comparison::GreaterEqual, low, low_type)?;
        self.check_comparable(value_type, Comparison::LessEqual, high, high_type)?;
        self.check_comparable(low_type, Comparison::LessEqual, high, high_type)?;
        if let (Operand::Constant(low_value), Operand::Constant(high_value)) = (&low_value, &high_value)
            && low_value.as_scalar().compare(Comparison::Greater, high_value.as_scalar()) == Truth::True
        {
            return self.error(low.at, "BETWEEN takes the smaller bound first; no value lies between these");
        }
        let from = compare(value.clone(), Comparison::GreaterEqual, low_value, negated);
        let to = compare(value, Comparison::LessEqual, high_value, negated);
        // Each of the two ranges has one bound, at different ends.
        Ok(match (from, to) {
            (
                Condition::Test(Test { check: Check::Number { operand, range: from }, negated }),
                Condition::Test(Test { check: Check::Number { operand: other, range: to }, .. }),
            ) if operand == other => {
                Condition::test(Check::Number { operand, range: from.intersection(to) }, negated)
            }
            (
                Condition::Test(Test { check: Check::Text { operand, range: from }, negated }),
                Condition::Test(Test { check: Check::Text { operand: other, range: to }, .. }),
            ) if operand == other => Condition::test(
                Check::Text {
                    operand,
                    range: TextRange { low: from.low.or(to.low), high: from.high.or(to.high) },
                },
                negated,
            ),
            (from, to) => {
                let connective = if negated { Connective::Or } else { Connective::And };
                Condition::junction(connective, vec![from, to])
            }
        })
    }

    fn list(&mut self, operand: &Expr, list: &[Literal], negated: bool) -> Result<Condition, SelectorError> {
        let (operand_value, operand_type) = self.value(operand, "IN")?;
        let mut set = Set::default();
        for literal in list {
            let constant = Constant::from(literal);
            if !matches!(operand_type, Type::Any | Type::Null) && operand_type != constant.kind() {
                return self.error(
                    operand.at,
                    format!(
                        "{} is never in a list that holds {}",
                        operand_type.noun(),
                        constant.kind().noun()
                    ),
                );
            }
            set.insert(constant);
        }
        Ok(Condition::test(Check::In { operand: operand_value, set }, negated))
    }

    fn like(
        &mut self,
        operand: &Expr,
        pattern: Pattern,
        what: &str,
        negated: bool,
    ) -> Result<Condition, SelectorError> {
        let (value, value_type) = self.value(operand, what)?;
        if !matches!(value_type, Type::Any | Type::Text | Type::Null) {
            return self.error(operand.at, format!("{what} needs text, found {}", value_type.noun()));
        }
        Ok(Condition::test(Check::Like { operand: value, pattern: Box::new(pattern) }, negated))
    }

    fn is_null(&mut self, operand: &Expr, negated: bool) -> Result<Condition, SelectorError> {
        if !operand.is_condition() {
            let operand = self.operand(operand)?.0;
            return Ok(Condition::test(Check::Null { operand }, negated));
        }
        Ok(Condition::is_unknown(self.condition(operand, false)?, negated))
    }

    /// An operand that must not be a condition.
    pub(crate) fn value(&mut self, expr: &Expr, what: &str) -> Result<(Operand, Type), SelectorError> {
        if expr.is_condition() {
            return self.error(expr.at, format!("{what} takes a value, found a condition"));
        }
        self.operand(expr)
    }

    pub(crate) fn operand(&mut self, expr: &Expr) -> Result<(Operand, Type), SelectorError> {
        match &expr.kind {
            ExprKind::Literal(literal) => {
                let constant = Constant::from(literal);
                let kind = constant.kind();
                Ok((Operand::Constant(constant), kind))
            }
            ExprKind::Property(name) => Ok((self.column(ColumnName::Property(name.clone())), Type::Any)),
            ExprKind::System(system) => {
                let kind = if system.is_int() { Type::Number } else { Type::Text };
                Ok((self.column(ColumnName::System(*system)), kind))
            }
            ExprKind::Sign { negative, operand } => {
                let operand = Box::new(self.number(operand)?);
                Ok((Operand::Sign { negative: *negative, operand }.folded(), Type::Number))
            }
            ExprKind::Arithmetic { first, rest } => {
                let first = Box::new(self.number(first)?);
                let rest: Result<Vec<_>, _> =
                    rest.iter().map(|(operator, operand)| Ok((*operator, self.number(operand)?))).collect();
                Ok((Operand::Arithmetic { first, rest: rest? }.folded(), Type::Number))
            }
            ExprKind::JsonValue(path) => Ok((self.column(ColumnName::Json(path.clone())), Type::Any)),
            ExprKind::Now => Ok((Operand::Now, Type::Number)),
            ExprKind::Call { function, arguments } => self.call(expr.at, *function, arguments),
            _ => self.error(expr.at, "expected a value, found a condition"),
        }
    }

    /// An operand of arithmetic.
    pub(crate) fn number(&mut self, expr: &Expr) -> Result<Operand, SelectorError> {
        let (operand, kind) = self.value(expr, "arithmetic")?;
        match kind {
            Type::Any | Type::Number | Type::Null => Ok(operand),
            Type::Text | Type::Boolean => {
                self.error(expr.at, format!("arithmetic needs numbers, found {}", kind.noun()))
            }
        }
    }

    pub(crate) fn column(&mut self, name: ColumnName) -> Operand {
        let next = self.columns.len();
        Operand::Column(*self.columns.entry(name).or_insert(next))
    }
}

/// A comparison as the check that answers it best.
fn compare(left: Operand, comparison: Comparison, right: Operand, negated: bool) -> Condition {
    let (left, comparison, right) = match (&left, &right) {
        (Operand::Constant(_), Operand::Constant(_)) | (_, Operand::Constant(_)) => (left, comparison, right),
        (Operand::Constant(_), _) => (right, comparison.flipped(), left),
        _ => (left, comparison, right),
    };
    // Ranges hold what is equal; "not equal" is their negation.
    let negated_range = negated != (comparison == Comparison::NotEqual);
    match right {
        Operand::Constant(Constant::Null) => Condition::Constant(Truth::Unknown),
        Operand::Constant(Constant::Number(bound)) => Condition::test(
            Check::Number { operand: left, range: NumberRange::new(comparison, bound) },
            negated_range,
        ),
        Operand::Constant(Constant::Text(bound)) => Condition::test(
            Check::Text { operand: left, range: TextRange::new(comparison, &bound) },
            negated_range,
        ),
        Operand::Constant(Constant::Boolean(value)) => {
            Condition::test(Check::Boolean { operand: left }, negated_range == value)
        }
        right => Condition::test(Check::Compare { left, comparison, right }, negated),
    }
}

impl Condition {
    /// A test, folded if it looks at no column.
    pub(crate) fn test(check: Check, negated: bool) -> Self {
        let (first, second) = check.operands();
        if !first.is_fixed() || second.is_some_and(|second| !second.is_fixed()) {
            return Self::Test(Test { check, negated });
        }
        let truth = check.truth(&|_| Scalar::Null);
        Self::Constant(truth.negated_if(negated))
    }

    /// Combines terms: flattens, drops what changes nothing, and stops at what decides.
    pub(crate) fn junction(connective: Connective, terms: Vec<Self>) -> Self {
        let (neutral, deciding) = match connective {
            Connective::And => (Truth::True, Truth::False),
            Connective::Or => (Truth::False, Truth::True),
        };
        let mut flat = Vec::with_capacity(terms.len());
        for term in terms {
            match term {
                Self::Constant(truth) if truth == neutral => {}
                Self::Constant(truth) if truth == deciding => return Self::Constant(truth),
                Self::Junction { connective: inner, terms } if inner == connective => flat.extend(terms),
                term => flat.push(term),
            }
        }
        match flat.len() {
            0 => Self::Constant(neutral),
            1 => flat.swap_remove(0),
            _ => Self::Junction { connective, terms: flat },
        }
    }

    /// Asks whether a condition is unknown; constants are folded.
    fn is_unknown(condition: Self, negated: bool) -> Self {
        match condition {
            Self::Constant(truth) => Self::Constant(Truth::from(truth == Truth::Unknown).negated_if(negated)),
            condition => Self::IsUnknown { condition: Box::new(condition), negated },
        }
    }

    /// Compares two conditions, of which constants are folded.
    fn same([left, right]: [Self; 2], negated: bool) -> Self {
        match (left, right) {
            (Self::Constant(Truth::Unknown), _) | (_, Self::Constant(Truth::Unknown)) => {
                Self::Constant(Truth::Unknown)
            }
            (Self::Constant(truth), other) | (other, Self::Constant(truth)) => {
                other.negated_if(negated == (truth == Truth::True))
            }
            (left, right) => Self::Same { sides: Box::new([left, right]), negated },
        }
    }

    fn negated_if(self, negate: bool) -> Self {
        if !negate {
            return self;
        }
        match self {
            Self::Constant(truth) => Self::Constant(truth.negated()),
            Self::Test(Test { check, negated }) => Self::Test(Test { check, negated: !negated }),
            Self::IsUnknown { condition, negated } => Self::IsUnknown { condition, negated: !negated },
            Self::Same { sides, negated } => Self::Same { sides, negated: !negated },
            Self::Junction { connective, terms } => Self::Junction {
                connective: connective.other(),
                terms: terms.into_iter().map(|term| term.negated_if(true)).collect(),
            },
        }
    }

    /// Calls `visit` with each column that is looked at, as often as it is.
    pub(crate) fn for_each_column(&self, visit: &mut impl FnMut(usize)) {
        match self {
            Self::Constant(_) => {}
            Self::Test(test) => test.check.for_each_column(visit),
            Self::IsUnknown { condition, .. } => condition.for_each_column(visit),
            Self::Same { sides, .. } => sides.iter().for_each(|side| side.for_each_column(visit)),
            Self::Junction { terms, .. } => terms.iter().for_each(|term| term.for_each_column(visit)),
        }
    }

    pub(crate) fn for_each_column_mut(&mut self, visit: &mut impl FnMut(&mut usize)) {
        match self {
            Self::Constant(_) => {}
            Self::Test(test) => {
                let (first, second) = test.check.operands_mut();
                first.for_each_column_mut(visit);
                if let Some(second) = second {
                    second.for_each_column_mut(visit);
                }
            }
            Self::IsUnknown { condition, .. } => condition.for_each_column_mut(visit),
            Self::Same { sides, .. } => sides.iter_mut().for_each(|side| side.for_each_column_mut(visit)),
            Self::Junction { terms, .. } => terms.iter_mut().for_each(|term| term.for_each_column_mut(visit)),
        }
    }

    /// The answer for one row, whose columns `column` gives.
    pub(crate) fn truth<'a>(&'a self, column: &impl Fn(usize) -> Scalar<'a>) -> Truth {
        match self {
            Self::Constant(truth) => *truth,
            Self::Test(test) => test.truth(column),
            Self::IsUnknown { condition, negated } => {
                Truth::from(condition.truth(column) == Truth::Unknown).negated_if(*negated)
            }
            Self::Same { sides, negated } => {
                let [left, right] = &**sides;
                left.truth(column).same_as(right.truth(column)).negated_if(*negated)
            }
            Self::Junction { connective, terms } => {
                let truths = terms.iter().map(|term| term.truth(column));
                let combined = match connective {
                    Connective::And => truths.min(),
                    Connective::Or => truths.max(),
                };
                combined.unwrap_or(Truth::Unknown)
            }
        }
    }

    /// Whether the moment of the scan decides.
    pub(crate) fn has_now(&self) -> bool {
        match self {
            Self::Constant(_) => false,
            Self::Test(test) => {
                let (first, second) = test.check.operands();
                first.has_now() || second.is_some_and(Operand::has_now)
            }
            Self::IsUnknown { condition, .. } => condition.has_now(),
            Self::Same { sides, .. } => sides.iter().any(Self::has_now),
            Self::Junction { terms, .. } => terms.iter().any(Self::has_now),
        }
    }

    /// The same with the moment of the scan in its place, and what is constant then folded.
    fn at(&self, now_ms: i64) -> Self {
        match self {
            Self::Constant(truth) => Self::Constant(*truth),
            Self::Test(Test { check, negated }) => match check.at(now_ms) {
                Check::Compare { left, comparison, right } => compare(left, comparison, right, *negated),
                check => Self::test(check, *negated),
            },
            Self::IsUnknown { condition, negated } => Self::is_unknown(condition.at(now_ms), *negated),
            Self::Same { sides, negated } => {
                let [left, right] = &**sides;
                Self::same([left.at(now_ms), right.at(now_ms)], *negated)
            }
            Self::Junction { connective, terms } => {
                Self::junction(*connective, terms.iter().map(|term| term.at(now_ms)).collect())
            }
        }
    }

    /// The only column that is looked at; `None` if there are several or none.
    pub(crate) fn single_column(&self) -> Option<usize> {
        let mut first = None;
        let mut several = false;
        self.for_each_column(&mut |column| match first {
            None => first = Some(column),
            Some(known) => several |= known != column,
        });
        first.filter(|_| !several)
    }
}

impl Test {
    pub(crate) fn truth<'a>(&'a self, column: &impl Fn(usize) -> Scalar<'a>) -> Truth {
        self.check.truth(column).negated_if(self.negated)
    }
}

impl Check {
    fn operands(&self) -> (&Operand, Option<&Operand>) {
        match self {
            Self::Number { operand, .. }
            | Self::Text { operand, .. }
            | Self::Boolean { operand }
            | Self::In { operand, .. }
            | Self::Like { operand, .. }
            | Self::Regexp { operand, .. }
            | Self::Typed { operand, .. }
            | Self::Null { operand } => (operand, None),
            Self::Compare { left, right, .. } => (left, Some(right)),
        }
    }

    fn operands_mut(&mut self) -> (&mut Operand, Option<&mut Operand>) {
        match self {
            Self::Number { operand, .. }
            | Self::Text { operand, .. }
            | Self::Boolean { operand }
            | Self::In { operand, .. }
            | Self::Like { operand, .. }
            | Self::Regexp { operand, .. }
            | Self::Typed { operand, .. }
            | Self::Null { operand } => (operand, None),
            Self::Compare { left, right, .. } => (left, Some(right)),
        }
    }

    pub(crate) fn for_each_column(&self, visit: &mut impl FnMut(usize)) {
        let (first, second) = self.operands();
        first.for_each_column(visit);
        if let Some(second) = second {
            second.for_each_column(visit);
        }
    }

    /// The column, if the check looks at one column as it is and at nothing else.
    pub(crate) fn plain_column(&self) -> Option<usize> {
        match self.operands() {
            (Operand::Column(column), None) => Some(*column),
            _ => None,
        }
    }

    /// Calls `visit` with each column without whose value the answer is unknown.
    pub(crate) fn for_each_strict_column(&self, visit: &mut impl FnMut(usize)) {
        let (first, second) = self.operands();
        first.for_each_strict_column(visit);
        if let Some(second) = second {
            second.for_each_strict_column(visit);
        }
    }

    /// The answer for one row, whose columns `column` gives.
    pub(crate) fn truth<'a>(&'a self, column: &impl Fn(usize) -> Scalar<'a>) -> Truth {
        match self {
            Self::Number { operand, range } => match operand.number(column) {
                Some(Number::Float(value)) if value.is_nan() => Truth::Unknown,
                number => Truth::from(number.map(|number| range.has(number))),
            },
            Self::Text { operand, range } => {
                Truth::from(operand.value(column).as_scalar().map_text(|text| range.has(text)))
            }
            Self::Boolean { operand } => Truth::from(operand.value(column).as_scalar().as_boolean()),
            Self::In { operand, set } => set.truth(operand.value(column).as_scalar()),
            Self::Like { operand, pattern } => {
                Truth::from(operand.value(column).as_scalar().map_text(|text| pattern.matches(text)))
            }
            Self::Regexp { operand, regexp } => {
                Truth::from(operand.value(column).as_scalar().map_text(|text| regexp.matches(text)))
            }
            Self::Null { operand } => Truth::from(operand.value(column).as_scalar().is_null()),
            Self::Typed { operand, kinds } => {
                let has = |some: &[Kind]| some.iter().any(|kind| kinds.contains(*kind));
                Truth::from(match operand.value(column).as_scalar() {
                    Scalar::Null | Scalar::Text(..) | Scalar::Digits(_) => false,
                    Scalar::Str(_) => has(&[Kind::Str]),
                    Scalar::Boolean(_) => has(&[Kind::Bool]),
                    Scalar::Number(Number::Int(_)) => has(&[Kind::I32, Kind::I64]),
                    Scalar::Number(Number::Float(_)) => has(&[Kind::F32, Kind::F64]),
                })
            }
            Self::Compare { left, comparison, right } => {
                left.value(column).as_scalar().compare(*comparison, right.value(column).as_scalar())
            }
        }
    }

    /// The same with the moment of the scan in its place.
    fn at(&self, now_ms: i64) -> Self {
        let mut bound = self.clone();
        let (first, second) = bound.operands_mut();
        *first = first.at(now_ms);
        if let Some(second) = second {
            *second = second.at(now_ms);
        }
        bound
    }
}

impl Constant {
    fn kind(&self) -> Type {
        match self {
            Self::Null => Type::Null,
            Self::Text(_) => Type::Text,
            Self::Boolean(_) => Type::Boolean,
            Self::Number(_) => Type::Number,
        }
    }
}

impl Set {
    fn insert(&mut self, constant: Constant) {
        match constant {
            Constant::Null => {}
            Constant::Text(text) => drop(self.texts.insert(text)),
            Constant::Boolean(value) => self.booleans.push(value),
            Constant::Number(number) => self.insert_number(number),
        }
    }

    fn insert_number(&mut self, number: Number) {
        self.numbers.push(number);
        // Each number equals at most one integer and one double.
        let NumberRange { ints, floats } = NumberRange::new(Comparison::Equal, number);
        self.ints.extend(ints.map(|(int, _)| int));
        self.floats.extend(floats.map(|(float, _)| bits(float)));
    }

    /// Whether one of the numbers equals `value`; `None` for NaN.
    fn has_number(&self, value: Number) -> Option<bool> {
        match value {
            Number::Int(value) => Some(self.ints.contains(&value)),
            Number::Float(value) if value.is_nan() => None,
            Number::Float(value) => Some(self.floats.contains(&bits(value))),
        }
    }

    pub(crate) fn is_text_only(&self) -> bool {
        self.numbers.is_empty() && self.booleans.is_empty()
    }

    /// `value = a OR value = b OR …`
    pub(crate) fn truth(&self, value: Scalar<'_>) -> Truth {
        let mut unknown = value.is_null();
        if !self.texts.is_empty() {
            match value.map_text(|text| self.texts.contains(text)) {
                Some(true) => return Truth::True,
                Some(false) => {}
                None => unknown = true,
            }
        }
        if !self.numbers.is_empty() {
            match value.as_number().and_then(|value| self.has_number(value)) {
                Some(true) => return Truth::True,
                Some(false) => {}
                None => unknown = true,
            }
        }
        for boolean in &self.booleans {
            match value.as_boolean() {
                Some(value) if value == *boolean => return Truth::True,
                Some(_) => {}
                None => unknown = true,
            }
        }
        if unknown { Truth::Unknown } else { Truth::False }
    }
}

/// Equal for equal numbers: 0.0 and -0.0 have the same.
fn bits(value: f64) -> u64 {
    (value + 0.0).to_bits()
}

/// The beginning of a column's name, for messages.
pub(crate) fn shown(column: &ColumnName) -> String {
    excerpt(&column.to_string())
}
