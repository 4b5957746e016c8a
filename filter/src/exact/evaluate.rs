//! The answer for one row, in the order and with the failures of the originals.

use weir_columns::Kind;

use super::{
    datum::{Datum, Failed, Rules, compare, compute, negate},
    tree::{Node, Step, Tree, Unary},
};
use crate::{
    syntax::{Comparison, Connective},
    types::Truth,
};

/// The answer of a condition.
///
/// ActiveMQ has two ways to evaluate. `evaluate` looks at the right side of an AND whose left side is
/// unknown, and fails if that fails; `matches`, by which it delivers, stops there. The two differ only
/// where `evaluate` fails, so that one of six values holds both answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Answer {
    False = 0,
    Unknown = 1,
    True = 2,
    /// Both ways fail.
    Failed = 3,
    /// `evaluate` fails, `matches` does not match.
    FailedNoMatch = 4,
    /// `evaluate` fails, `matches` matches.
    FailedMatch = 5,
}

/// What `matches` says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Match {
    No,
    Yes,
    Failed,
}

impl Answer {
    pub(super) const ALL: [Self; 6] =
        [Self::False, Self::Unknown, Self::True, Self::Failed, Self::FailedNoMatch, Self::FailedMatch];

    pub(crate) const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::False,
            1 => Self::Unknown,
            2 => Self::True,
            4 => Self::FailedNoMatch,
            5 => Self::FailedMatch,
            _ => Self::Failed,
        }
    }

    /// The truth value, or `None` if the evaluation failed.
    pub(crate) const fn truth(self) -> Option<Truth> {
        match self {
            Self::False => Some(Truth::False),
            Self::Unknown => Some(Truth::Unknown),
            Self::True => Some(Truth::True),
            Self::Failed | Self::FailedNoMatch | Self::FailedMatch => None,
        }
    }

    /// Whether the row is delivered: RocketMQ evaluates in the one way only.
    pub(crate) const fn delivers(self, rules: Rules) -> bool {
        match self {
            Self::True => true,
            Self::FailedMatch => matches!(rules, Rules::Jms { .. }),
            Self::False | Self::Unknown | Self::Failed | Self::FailedNoMatch => false,
        }
    }

    const fn as_match(self) -> Match {
        match self {
            Self::True | Self::FailedMatch => Match::Yes,
            Self::Failed => Match::Failed,
            Self::False | Self::Unknown | Self::FailedNoMatch => Match::No,
        }
    }

    /// Combines this answer with that of the next operand. Associative, so that terms may be grouped, but
    /// not commutative: what decides first is the answer.
    pub(super) fn combine(self, connective: Connective, next: Self) -> Self {
        let deciding = match connective {
            Connective::And => Truth::False,
            Connective::Or => Truth::True,
        };
        let truth = match (self.truth(), next.truth()) {
            (Some(truth), _) if truth == deciding => Some(truth),
            (Some(a), Some(b)) => Some(connective.combine(a, b)),
            _ => None,
        };
        let matched = match (connective, self.as_match()) {
            (Connective::And, Match::Yes) | (Connective::Or, Match::No) => next.as_match(),
            (_, decided) => decided,
        };
        match (truth, matched) {
            (Some(truth), _) => truth.into(),
            (None, Match::No) => Self::FailedNoMatch,
            (None, Match::Yes) => Self::FailedMatch,
            (None, Match::Failed) => Self::Failed,
        }
    }

    /// NOT, under which there is only one way to evaluate.
    pub(super) fn negated(self) -> Self {
        self.truth().map_or(Self::Failed, |truth| truth.negated().into())
    }

    fn of(value: Result<Datum<'_>, Failed>) -> Self {
        match value {
            Ok(Datum::Bool(value)) => Truth::from(value).into(),
            Ok(Datum::Null) => Self::Unknown,
            // Only conditions are asked.
            Ok(_) => Self::False,
            Err(Failed) => Self::Failed,
        }
    }
}

impl From<Truth> for Answer {
    fn from(truth: Truth) -> Self {
        match truth {
            Truth::False => Self::False,
            Truth::Unknown => Self::Unknown,
            Truth::True => Self::True,
        }
    }
}

/// What a stored value is to the dialect.
///
/// To `rocketmq` every value is text, and empty text is missing if `empty_is_missing`, as it is where
/// RocketMQ has stored it. To `jms` untyped text is a string.
pub(crate) fn stored(
    rules: Rules,
    empty_is_missing: bool,
    kind: Kind,
    text: &str,
    int: Option<i64>,
    float: Option<f64>,
) -> Datum<'_> {
    let as_text = || Datum::Text(text.into());
    match (rules, kind) {
        (Rules::RocketMq, _) if empty_is_missing && text.is_empty() => Datum::Null,
        (Rules::RocketMq, _) | (_, Kind::Text | Kind::Odd | Kind::Int | Kind::Float | Kind::Str) => as_text(),
        (_, Kind::Bool) => Datum::Bool(text == "true"),
        (_, Kind::I32) => int.and_then(|int| i32::try_from(int).ok()).map_or_else(|| Datum::Null, Datum::Int),
        (_, Kind::I64) => int.map_or(Datum::Null, Datum::Long),
        (_, Kind::F32) => float.map_or(Datum::Null, |float| Datum::Float(float as f32)),
        (_, Kind::F64) => float.map_or(Datum::Null, Datum::Double),
    }
}

impl Tree {
    /// The answer of a condition for one row, whose columns `column` gives; missing ones as null.
    pub(crate) fn answer<'a>(&'a self, node: &'a Node, column: &impl Fn(usize) -> Datum<'a>) -> Answer {
        match node {
            Node::Junction { connective, terms } => {
                let deciding = Answer::from(match connective {
                    Connective::And => Truth::False,
                    Connective::Or => Truth::True,
                });
                let mut answer = deciding.negated();
                for term in terms {
                    answer = answer.combine(*connective, self.answer(term, column));
                    // Nothing changes these any more.
                    if answer == deciding || answer == Answer::Failed {
                        break;
                    }
                }
                answer
            }
            Node::Steps { first, steps } => match steps.split_last() {
                // BETWEEN is an AND of two comparisons, or an OR.
                Some((Step::Between { low, high, negated }, before)) => {
                    match self.after_steps(first, before, column) {
                        Ok(value) => self.between(&value, low, high, *negated, column),
                        Err(Failed) => Answer::Failed,
                    }
                }
                _ => Answer::of(self.value(node, column)),
            },
            _ => Answer::of(self.value(node, column)),
        }
    }

    pub(super) fn value<'a>(
        &'a self,
        node: &'a Node,
        column: &impl Fn(usize) -> Datum<'a>,
    ) -> Result<Datum<'a>, Failed> {
        match node {
            Node::Constant(constant) => Ok(constant.borrowed()),
            Node::Column(place) => Ok(self.read(*place, column)),
            Node::Condition(place) => Ok(match self.read(*place, column) {
                Datum::Null => Datum::Null,
                Datum::Bool(value) => Datum::Bool(value),
                _ => Datum::Bool(false),
            }),
            Node::Unary { operators, operand } => {
                let mut value = self.value(operand, column)?;
                for operator in operators {
                    value = match (operator, value) {
                        (Unary::Minus, value) => negate(value),
                        (Unary::Not, Datum::Bool(value)) => Datum::Bool(!value),
                        (Unary::Not, value) => value,
                    };
                }
                Ok(value)
            }
            Node::Steps { first, steps } => self.after_steps(first, steps, column),
            Node::Junction { .. } => match self.answer(node, column).truth() {
                Some(truth) => Ok(datum_of(truth)),
                None => Err(Failed),
            },
            Node::Call(call) => call.value(|argument| self.value(argument, column)),
        }
    }

    fn read<'a>(&'a self, place: usize, column: &impl Fn(usize) -> Datum<'a>) -> Datum<'a> {
        match column(place) {
            Datum::Null => self.columns[place].default.borrowed(),
            value => value,
        }
    }

    fn after_steps<'a>(
        &'a self,
        first: &'a Node,
        steps: &'a [Step],
        column: &impl Fn(usize) -> Datum<'a>,
    ) -> Result<Datum<'a>, Failed> {
        // RocketMQ answers a search for nothing before it looks at what is searched, which may fail.
        let nothing = steps.iter().rposition(|step| matches!(step, Step::Search { pattern: None, .. }));
        let (mut value, steps) = match nothing.and_then(|place| steps.get(place + 1..)) {
            Some(after) => (Datum::Bool(false), after),
            None => (self.value(first, column)?, steps),
        };
        for step in steps {
            value = self.after_step(value, step, column)?;
        }
        Ok(value)
    }

    fn after_step<'a>(
        &'a self,
        value: Datum<'a>,
        step: &'a Step,
        column: &impl Fn(usize) -> Datum<'a>,
    ) -> Result<Datum<'a>, Failed> {
        let known = |truth: Option<bool>| truth.map_or(Datum::Null, Datum::Bool);
        match step {
            // The right side of an order, or of arithmetic, is not looked at if the left one is null.
            Step::Compare(comparison, _) if comparison.is_ordering() && value.is_null() => Ok(Datum::Null),
            Step::Compare(comparison, right) => {
                let right = self.value(right, column)?;
                Ok(known(compare(self.rules, &value, *comparison, &right)?))
            }
            Step::Compute(..) if value.is_null() => Ok(Datum::Null),
            Step::Compute(operator, right) => {
                let right = self.value(right, column)?;
                if right.is_null() { Ok(Datum::Null) } else { compute(&value, *operator, &right) }
            }
            Step::IsNull { negated } => Ok(Datum::Bool(value.is_null() != *negated)),
            Step::Between { low, high, negated } => {
                match self.between(&value, low, high, *negated, column).truth() {
                    Some(truth) => Ok(datum_of(truth)),
                    None => Err(Failed),
                }
            }
            Step::In { texts, negated } => Ok(match value {
                Datum::Text(text) => {
                    let found = texts.binary_search_by(|known| known.as_str().cmp(&text)).is_ok();
                    Datum::Bool(found != *negated)
                }
                _ => Datum::Null,
            }),
            Step::Like { pattern, negated } => Ok(match value {
                Datum::Null => Datum::Null,
                Datum::Text(text) => Datum::Bool(pattern.matches(&text) != *negated),
                _ => Datum::Bool(*negated),
            }),
            Step::Search { pattern, negated } => Ok(Datum::Bool(match (value, pattern) {
                (Datum::Text(text), Some(pattern)) => pattern.matches(&text) != *negated,
                _ => false,
            })),
        }
    }

    fn between<'a>(
        &'a self,
        value: &Datum<'a>,
        low: &'a Node,
        high: &'a Node,
        negated: bool,
        column: &impl Fn(usize) -> Datum<'a>,
    ) -> Answer {
        let side = |comparison, bound: &'a Node| {
            if value.is_null() {
                return Answer::Unknown;
            }
            let truth =
                self.value(bound, column).and_then(|bound| compare(self.rules, value, comparison, &bound));
            truth.map_or(Answer::Failed, |truth| Truth::from(truth).into())
        };
        let (connective, below, above) = if negated {
            (Connective::Or, Comparison::Less, Comparison::Greater)
        } else {
            (Connective::And, Comparison::GreaterEqual, Comparison::LessEqual)
        };
        side(below, low).combine(connective, side(above, high))
    }
}

fn datum_of(truth: Truth) -> Datum<'static> {
    match truth {
        Truth::False => Datum::Bool(false),
        Truth::Unknown => Datum::Null,
        Truth::True => Datum::Bool(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decides_first_is_the_answer() {
        use Answer::{Failed as E, False as F, True as T, Unknown as U};
        for (a, b, and, or) in [
            (F, E, F, E),
            (T, E, E, T),
            (E, F, E, E),
            (E, T, E, E),
            (U, E, Answer::FailedNoMatch, E),
            (U, F, F, U),
            (U, T, U, T),
            (Answer::FailedNoMatch, T, Answer::FailedNoMatch, Answer::FailedMatch),
            (Answer::FailedMatch, U, Answer::FailedNoMatch, Answer::FailedMatch),
        ] {
            assert_eq!(a.combine(Connective::And, b), and, "{a:?} AND {b:?}");
            assert_eq!(a.combine(Connective::Or, b), or, "{a:?} OR {b:?}");
        }
    }

    #[test]
    fn terms_may_be_grouped() {
        for connective in [Connective::And, Connective::Or] {
            for a in Answer::ALL {
                for b in Answer::ALL {
                    for c in Answer::ALL {
                        let left = a.combine(connective, b).combine(connective, c);
                        assert_eq!(left, a.combine(connective, b.combine(connective, c)));
                    }
                }
            }
        }
    }
}
