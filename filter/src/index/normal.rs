//! The disjunctive normal form of a condition: conjunctions of atoms, of which one must hold.

use std::borrow::Cow;

use hashbrown::HashMap;

use crate::{
    syntax::Connective,
    tree::{ColumnName, Condition, Tree},
    types::Truth,
};

/// How many conjunctions one selector may have.
const TERMS_MAX: usize = 64;

/// How many atoms all conjunctions of one selector may have together.
const ATOMS_MAX: usize = 1024;

/// A condition as the index takes it.
#[derive(Debug)]
pub(super) enum Normal<'a> {
    Never,
    Always,
    /// It has no form that helps.
    Whole,
    Terms(Vec<Term<'a>>),
}

/// A conjunction.
#[derive(Clone, Debug, Default)]
pub(super) struct Term<'a> {
    /// Conditions on one column each; at least one.
    pub(super) atoms: Vec<Cow<'a, Condition>>,
    /// Whether tests have been left out, because they look at several columns, or into bodies.
    pub(super) is_partial: bool,
}

/// Where a condition on one column may be left whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Every test for itself: more of them are shared with other selectors.
    Test,
    /// All that is said of one column: there are fewer conjunctions.
    Column,
}

/// Brings the condition of a tree into normal form.
pub(super) fn of(tree: &Tree) -> Normal<'_> {
    let expand = |unit| Expansion { columns: &tree.columns, unit }.of(&tree.condition);
    let Some(terms) = expand(Unit::Test).or_else(|| expand(Unit::Column)) else {
        return Normal::Whole;
    };
    if terms.iter().any(|term| term.atoms.is_empty() && !term.is_partial) {
        return Normal::Always;
    }
    if terms.iter().any(|term| term.atoms.is_empty()) {
        return Normal::Whole;
    }
    if terms.is_empty() { Normal::Never } else { Normal::Terms(terms) }
}

/// A condition on its way to normal form.
struct Expansion<'t> {
    columns: &'t [ColumnName],
    unit: Unit,
}

impl Expansion<'_> {
    /// The column that a condition looks at, if it can be an atom.
    fn column(&self, condition: &Condition) -> Option<usize> {
        let column = condition.single_column()?;
        // Rows have no columns of what lies in bodies.
        self.columns.get(column)?.as_ref().map(|_| column)
    }

    /// `None` if there are too many.
    fn of<'a>(&self, condition: &'a Condition) -> Option<Vec<Term<'a>>> {
        let is_atom = self.column(condition).is_some();
        let atom = || Some(vec![Term { atoms: vec![Cow::Borrowed(condition)], is_partial: false }]);
        match condition {
            Condition::Constant(Truth::True) => Some(vec![Term::default()]),
            Condition::Constant(_) => Some(Vec::new()),
            Condition::Junction { .. } if self.unit == Unit::Column && is_atom => atom(),
            Condition::Junction { connective, terms } => {
                let parts: Vec<Cow<'_, Condition>> = match self.unit {
                    Unit::Test => terms.iter().map(Cow::Borrowed).collect(),
                    Unit::Column => self.group(*connective, terms),
                };
                self.junction(*connective, parts)
            }
            _ if is_atom => atom(),
            _ => Some(vec![Term { atoms: Vec::new(), is_partial: true }]),
        }
    }

    fn junction<'a>(&self, connective: Connective, parts: Vec<Cow<'a, Condition>>) -> Option<Vec<Term<'a>>> {
        let mut all = match connective {
            Connective::And => vec![Term::default()],
            Connective::Or => Vec::new(),
        };
        for part in parts {
            let part = match part {
                Cow::Borrowed(part) => self.of(part)?,
                // Only what is said of one column is put together, and so an atom.
                Cow::Owned(part) => vec![Term { atoms: vec![Cow::Owned(part)], is_partial: false }],
            };
            all = match connective {
                Connective::Or => all.into_iter().chain(part).collect(),
                Connective::And => product(&all, &part)?,
            };
            let atoms: usize = all.iter().map(|term| term.atoms.len()).sum();
            if all.len() > TERMS_MAX || atoms > ATOMS_MAX {
                return None;
            }
        }
        Some(all)
    }

    /// Puts terms on the same column together.
    fn group<'a>(&self, connective: Connective, terms: &'a [Condition]) -> Vec<Cow<'a, Condition>> {
        let mut by_column: HashMap<usize, Vec<&Condition>, foldhash::fast::RandomState> = HashMap::default();
        let mut parts = Vec::new();
        for term in terms {
            match self.column(term) {
                Some(column) => by_column.entry(column).or_default().push(term),
                None => parts.push(Cow::Borrowed(term)),
            }
        }
        for terms in by_column.into_values() {
            parts.push(match *terms {
                [term] => Cow::Borrowed(term),
                _ => Cow::Owned(Condition::junction(connective, terms.into_iter().cloned().collect())),
            });
        }
        parts
    }
}

fn product<'a>(left: &[Term<'a>], right: &[Term<'a>]) -> Option<Vec<Term<'a>>> {
    if left.len() * right.len() > TERMS_MAX {
        return None;
    }
    let pairs = left.iter().flat_map(|left| right.iter().map(move |right| (left, right)));
    Some(
        pairs
            .map(|(left, right)| Term {
                atoms: left.atoms.iter().chain(&right.atoms).cloned().collect(),
                is_partial: left.is_partial || right.is_partial,
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dialect::Dialect, limits::Limits, selector::Selector};

    /// How many atoms each conjunction has; `None` if the selector is not one of conjunctions.
    fn shape(text: &str) -> Option<Vec<usize>> {
        let selector = Selector::parse(text, Dialect::Sql92, &Limits::default()).unwrap();
        match of(selector.tree()) {
            Normal::Terms(terms) => Some(terms.iter().map(|term| term.atoms.len()).collect()),
            _ => None,
        }
    }

    #[test]
    fn conditions_become_conjunctions_of_atoms() {
        assert_eq!(shape("a = 1"), Some(vec![1]));
        assert_eq!(shape("a = 1 AND b = 2 AND c = 3"), Some(vec![3]));
        assert_eq!(shape("a = 1 OR b = 2 AND c = 3"), Some(vec![1, 2]));
        assert_eq!(shape("(a = 1 OR b = 1) AND (c = 1 OR d = 1)"), Some(vec![2, 2, 2, 2]));
        assert_eq!(shape("NOT (a = 1 AND b = 2)"), Some(vec![1, 1]));
        assert_eq!(shape("(a = 1 AND a < 5) IS NULL"), Some(vec![1]));
        assert_eq!(shape("a = b AND c = 1"), Some(vec![1]));
        assert_eq!(shape("JSON_VALUE(body, '$.x') = 1 AND c = 1"), Some(vec![1]));
        assert_eq!(shape("a = b OR c = 1"), None);
        assert_eq!(shape("a = 1 OR TRUE"), None);
        assert_eq!(shape("a = 1 AND NULL"), None);
    }

    #[test]
    fn too_many_conjunctions_are_put_together_by_column_or_refused() {
        let either = |column: &str| {
            let ten: Vec<String> = (0..10).map(|n| format!("{column} > {n}")).collect();
            format!("({})", ten.join(" OR "))
        };
        let two = [either("a"), either("b")].join(" AND ");
        assert_eq!(shape(&two), Some(vec![2]));
        let mixed: Vec<String> = (0..7).map(|n| format!("(a{n} = 1 OR b{n} = 2)")).collect();
        assert_eq!(shape(&mixed[..6].join(" AND ")), Some(vec![6; 64]));
        assert_eq!(shape(&mixed.join(" AND ")), None);
    }
}
