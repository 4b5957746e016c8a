//! Which functions queries may call. What is not named here does not exist, whatever DataFusion brings.
//!
//! A function is named if it is useful for questions about messages, and makes of each row no more than a
//! small multiple of what it was given, in time in proportion to it. So lists, structs and what makes much
//! of little (`repeat`, `lpad`, `replace`, `array_agg`, …) are left out. `docs/queries.md` shows this table.

use std::{collections::HashSet, ops::ControlFlow, sync::Arc};

use datafusion::{
    execution::SessionStateDefaults,
    logical_expr::{AggregateUDF, ScalarUDF, WindowUDF},
    sql::sqlparser::ast::{
        Expr, Function, ObjectName, ObjectNamePart, Statement, TableFactor, Visit, Visitor,
    },
};
use weir_filter::{did_you_mean, function_names, near};

use super::{concat::Concat, selectors::MARKER};
use crate::error::EngineError;

/// Functions of one sort, with all names by which they may be called.
pub(crate) struct Sort {
    /// What the sort is, as the documentation heads it.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test compares the documentation with it"))]
    pub(crate) about: &'static str,
    /// The names, in alphabetical order.
    pub(crate) names: &'static [&'static str],
}

/// All functions.
pub(crate) const FUNCTIONS: [Sort; 7] = [
    Sort {
        about: "aggregates",
        names: &[
            "any_value",
            "approx_distinct",
            "approx_median",
            "approx_percentile_cont",
            "approx_percentile_cont_with_weight",
            "avg",
            "bit_and",
            "bit_or",
            "bit_xor",
            "bool_and",
            "bool_or",
            "corr",
            "count",
            "covar",
            "covar_pop",
            "covar_samp",
            "first_value",
            "grouping",
            "last_value",
            "max",
            "mean",
            "median",
            "min",
            "nth_value",
            "percentile_cont",
            "quantile_cont",
            "regr_avgx",
            "regr_avgy",
            "regr_count",
            "regr_intercept",
            "regr_r2",
            "regr_slope",
            "regr_sxx",
            "regr_sxy",
            "regr_syy",
            "stddev",
            "stddev_pop",
            "stddev_samp",
            "sum",
            "var",
            "var_pop",
            "var_population",
            "var_samp",
            "var_sample",
        ],
    },
    Sort {
        about: "windows",
        names: &[
            "cume_dist",
            "dense_rank",
            "first_value",
            "lag",
            "last_value",
            "lead",
            "nth_value",
            "ntile",
            "percent_rank",
            "rank",
            "row_number",
        ],
    },
    Sort { about: "choices", names: &["coalesce", "greatest", "ifnull", "least", "nullif", "nvl", "nvl2"] },
    Sort {
        about: "dates and times",
        names: &[
            "current_date",
            "current_time",
            "current_timestamp",
            "date_bin",
            "date_format",
            "date_part",
            "date_trunc",
            "datepart",
            "datetrunc",
            "from_unixtime",
            "make_date",
            "make_time",
            "now",
            "to_char",
            "to_date",
            "to_local_time",
            "to_time",
            "to_timestamp",
            "to_timestamp_micros",
            "to_timestamp_millis",
            "to_timestamp_nanos",
            "to_timestamp_seconds",
            "to_unixtime",
            "today",
        ],
    },
    Sort {
        about: "numbers",
        names: &[
            "abs",
            "acos",
            "acosh",
            "asin",
            "asinh",
            "atan",
            "atan2",
            "atanh",
            "cbrt",
            "ceil",
            "cos",
            "cosh",
            "cot",
            "degrees",
            "exp",
            "factorial",
            "floor",
            "gcd",
            "isnan",
            "iszero",
            "lcm",
            "ln",
            "log",
            "log10",
            "log2",
            "nanvl",
            "pi",
            "pow",
            "power",
            "radians",
            "rand",
            "random",
            "round",
            "signum",
            "sin",
            "sinh",
            "sqrt",
            "tan",
            "tanh",
            "trunc",
        ],
    },
    Sort {
        about: "text",
        names: &[
            "ascii",
            "bit_length",
            "btrim",
            "char_length",
            "character_length",
            "chr",
            "concat",
            "contains",
            "ends_with",
            "find_in_set",
            "initcap",
            "instr",
            "left",
            "length",
            "lower",
            "ltrim",
            "octet_length",
            "position",
            "regexp_count",
            "regexp_instr",
            "regexp_like",
            "reverse",
            "right",
            "rtrim",
            "split_part",
            "starts_with",
            "strpos",
            "substr",
            "substr_index",
            "substring",
            "substring_index",
            "to_hex",
            "trim",
            "upper",
        ],
    },
    Sort {
        about: "maps (`properties` of a raw table) and types",
        names: &[
            "array_contains",
            "array_element",
            "array_extract",
            "array_has",
            "array_length",
            "arrow_typeof",
            "cardinality",
            "element_at",
            "get_field",
            "list_contains",
            "list_element",
            "list_extract",
            "list_has",
            "list_length",
            "map_extract",
            "map_keys",
            "map_values",
        ],
    },
];

fn names_of(sorts: &[Sort]) -> impl Iterator<Item = &'static str> {
    sorts.iter().flat_map(|sort| sort.names.iter().copied())
}

/// The functions as DataFusion takes them.
pub(crate) struct Registry {
    /// For each row.
    pub(crate) scalar: Vec<Arc<ScalarUDF>>,
    /// For each group.
    pub(crate) aggregate: Vec<Arc<AggregateUDF>>,
    /// For each row, with a view of others.
    pub(crate) window: Vec<Arc<WindowUDF>>,
}

impl Registry {
    /// Returns those functions of DataFusion that may be called, and ours in place of some.
    pub(crate) fn new() -> Self {
        let allowed: HashSet<&str> = names_of(&FUNCTIONS).collect();
        let ours = Arc::new(Concat::function());
        let is_allowed = |name: &str| allowed.contains(name);
        let mut scalar = SessionStateDefaults::default_scalar_functions();
        scalar.retain(|function| is_allowed(function.name()) && function.name() != ours.name());
        scalar.push(ours);
        let mut aggregate = SessionStateDefaults::default_aggregate_functions();
        aggregate.retain(|function| is_allowed(function.name()));
        let mut window = SessionStateDefaults::default_window_functions();
        window.retain(|function| is_allowed(function.name()));
        Self { scalar, aggregate, window }
    }
}

/// Whether the function of this name may stand in a plan.
pub(crate) fn is_known(name: &str) -> bool {
    names_of(&FUNCTIONS).any(|known| known == name)
}

/// Refuses a statement that calls a function which exists neither here nor in selectors.
///
/// # Errors
///
/// Names the function, and those that are near.
pub(crate) fn check(statement: &Statement) -> Result<(), EngineError> {
    visited(statement, Calls { is_marked: false })
}

/// Refuses a statement whose selectors have been replaced, if it still calls a function of theirs.
///
/// # Errors
///
/// Names the function.
pub(crate) fn check_marked(statement: &Statement) -> Result<(), EngineError> {
    visited(statement, Calls { is_marked: true })
}

fn visited(statement: &Statement, mut calls: Calls) -> Result<(), EngineError> {
    match Visit::visit(statement, &mut calls) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Calls {
    /// Whether selectors have been replaced.
    is_marked: bool,
}

impl Visitor for Calls {
    type Break = Box<EngineError>;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        match expr {
            Expr::Function(Function { name, .. }) => check_name(name, self.is_marked),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        match factor {
            // There are no functions that make tables.
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                ControlFlow::Break(Box::new(no_function(&name.to_string(), &[])))
            }
            TableFactor::UNNEST { .. } => ControlFlow::Break(Box::new(no_function("unnest", &[]))),
            _ => ControlFlow::Continue(()),
        }
    }
}

fn check_name(name: &ObjectName, is_marked: bool) -> ControlFlow<Box<EngineError>> {
    let plain = match &name.0[..] {
        [ObjectNamePart::Identifier(name)] if name.quote_style.is_some() => name.value.clone(),
        [ObjectNamePart::Identifier(name)] => name.value.to_lowercase(),
        _ => name.to_string(),
    };
    if is_known(&plain) || (is_marked && plain == MARKER) {
        return ControlFlow::Continue(());
    }
    if function_names().any(|known| known.to_ascii_lowercase() == plain) {
        if !is_marked {
            return ControlFlow::Continue(());
        }
        return ControlFlow::Break(Box::new(EngineError::Sql(format!(
            "{plain} is a function of selectors: here it may stand in a WHERE condition that is a selector on one \
             topic, and nowhere else; see docs/queries.md"
        ))));
    }
    ControlFlow::Break(Box::new(no_function(&plain, &FUNCTIONS)))
}

/// Returns the error for a function that may not be called.
pub(crate) fn no_function(name: &str, sorts: &[Sort]) -> EngineError {
    let near = near(name, names_of(sorts));
    let name: String = name.chars().take(100).collect();
    EngineError::Sql(format!(
        "there is no function {name} here{}; docs/queries.md lists all that there are",
        did_you_mean(&near)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_that_of_a_function() {
        let registry = Registry::new();
        let mut real: HashSet<String> = HashSet::new();
        let mut add = |name: &str, aliases: &[String]| {
            assert!(is_known(name), "{name} has no line of its own");
            real.insert(name.to_owned());
            real.extend(aliases.iter().cloned());
        };
        registry.scalar.iter().for_each(|function| add(function.name(), function.aliases()));
        registry.aggregate.iter().for_each(|function| add(function.name(), function.aliases()));
        registry.window.iter().for_each(|function| add(function.name(), function.aliases()));
        for sort in &FUNCTIONS {
            assert!(sort.names.is_sorted(), "{}", sort.about);
            let missing: Vec<_> = sort.names.iter().filter(|name| !real.contains(**name)).collect();
            assert!(missing.is_empty(), "{}: {missing:?}", sort.about);
        }
        let unnamed: Vec<_> = real.iter().filter(|name| !is_known(name)).collect();
        assert!(unnamed.is_empty(), "can be called, but are not listed: {unnamed:?}");
    }

    #[test]
    fn the_documentation_lists_the_same_functions() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/queries.md");
        let text = std::fs::read_to_string(path).unwrap();
        for Sort { about, names } in &FUNCTIONS {
            let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            let line = format!("| {about} | {} |", names.join(", "));
            assert!(text.lines().any(|known| known == line), "docs/queries.md needs the line\n{line}");
        }
    }
}
