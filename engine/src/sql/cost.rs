//! How much a statement asks of the planner, told from its syntax before anything is planned.
//!
//! Planning an expression takes time with the square of its length, that of `*` with the square of the
//! columns, and a planner that has begun cannot be stopped. So it is counted first what there will be. A
//! common table expression counts as often as it is named, since it is planned, and run, as often.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
};

use datafusion::sql::sqlparser::ast::{
    Expr, Function, GroupByExpr, GroupByWithModifier, NamedWindowExpr, ObjectName, ObjectNamePart, Query,
    Select, SelectItem, Statement, TableFactor, Visit, Visitor, WindowType,
};

use super::text::within;
use crate::{
    error::EngineError,
    limits::{
        SQL_COLUMNS_MAX, SQL_GROUPING_SETS_MAX, SQL_OPERATORS_MAX, SQL_STAR_COLUMNS_MAX, SQL_TABLES_MAX,
    },
};

/// What a window function counts, because each window may need an order of its own.
const WINDOW_OPERATORS: u64 = 4;
/// Columns of a table whose columns are not known yet.
const UNKNOWN_COLUMNS: u64 = 16;

/// What a statement holds when each common table expression is put where it is named.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cost {
    /// Operators, calls of functions, and SELECTs.
    operators: u64,
    /// Tables that FROM clauses name.
    tables: u64,
    /// Times that `*` stands in a select list.
    stars: u64,
    /// How often each table is named that is no common table expression, by the parts of its name.
    named: BTreeMap<Vec<String>, u64>,
}

impl Cost {
    /// Counts `statement`.
    ///
    /// # Errors
    ///
    /// If it holds more operators, tables or grouping sets than a statement may.
    pub(crate) fn of(statement: &Statement) -> Result<Self, EngineError> {
        let mut counter = Counter { frames: vec![Frame::default()], windows: Vec::new(), written: 0 };
        if let ControlFlow::Break(error) = Visit::visit(statement, &mut counter) {
            return Err(*error);
        }
        let cost = counter.frames.pop().unwrap_or_default().cost;
        limited("the operators and function calls of the SQL text", counter.written, SQL_OPERATORS_MAX)?;
        limited(
            "the operators and function calls of the SQL text, with each common table expression counted \
             as often as it is named,",
            cost.operators,
            SQL_OPERATORS_MAX,
        )?;
        limited(
            "the tables of the SQL text, with each common table expression counted as often as it is named,",
            cost.tables,
            SQL_TABLES_MAX,
        )?;
        Ok(cost)
    }

    /// Checks the columns of all tables. `columns` knows how many a table has.
    ///
    /// # Errors
    ///
    /// If there are more than a statement may have.
    pub(crate) fn check_columns(
        &self,
        columns: impl Fn(&[String]) -> Option<usize>,
    ) -> Result<(), EngineError> {
        let of = |(name, times): (&Vec<String>, &u64)| {
            columns(name).map_or(UNKNOWN_COLUMNS, |columns| columns as u64).saturating_mul(*times)
        };
        let all = self.named.iter().map(of).fold(0, u64::saturating_add);
        limited("the columns of all tables that the SQL text names", all, SQL_COLUMNS_MAX)?;
        limited(
            "the columns that * may stand for in the SQL text (name those that you need)",
            all.saturating_mul(self.stars),
            SQL_STAR_COLUMNS_MAX,
        )
    }

    fn add(&mut self, other: &Self) {
        self.operators = self.operators.saturating_add(other.operators);
        self.tables = self.tables.saturating_add(other.tables);
        self.stars = self.stars.saturating_add(other.stars);
        for (name, times) in &other.named {
            let known = self.named.entry(name.clone()).or_default();
            *known = known.saturating_add(*times);
        }
    }
}

fn limited(what: &'static str, actual: u64, limit: usize) -> Result<(), EngineError> {
    within(what, usize::try_from(actual).unwrap_or(usize::MAX), limit)
}

/// A query that is being counted.
#[derive(Default)]
struct Frame {
    cost: Cost,
    /// Its common table expressions so far.
    common: HashMap<String, Cost>,
    /// The names of those that are still to come, by the address of their queries in the tree.
    coming: HashMap<*const Query, String>,
}

struct Counter {
    frames: Vec<Frame>,
    /// The operators of the named windows of each SELECT around.
    windows: Vec<HashMap<String, u64>>,
    /// Operators as they are written, those of common table expressions that nobody names included.
    written: u64,
}

impl Counter {
    fn top(&mut self) -> Option<&mut Frame> {
        self.frames.last_mut()
    }

    fn count(&mut self, operators: u64) {
        self.written = self.written.saturating_add(operators);
        if let Some(frame) = self.top() {
            frame.cost.operators = frame.cost.operators.saturating_add(operators);
        }
    }

    fn table(&mut self, parts: Vec<String>) {
        let common = match &parts[..] {
            [name] => self.frames.iter().rev().find_map(|frame| frame.common.get(name)).cloned(),
            _ => None,
        };
        let Some(frame) = self.top() else { return };
        match common {
            Some(mut cost) => {
                // A name that stands for nothing else costs something, too.
                cost.tables = cost.tables.max(1);
                frame.cost.add(&cost);
            }
            None => {
                frame.cost.add(&Cost { tables: 1, named: BTreeMap::from([(parts, 1)]), ..Cost::default() });
            }
        }
    }

    fn window(&self, function: &Function) -> u64 {
        match &function.over {
            None => 1,
            Some(WindowType::WindowSpec(_)) => WINDOW_OPERATORS,
            Some(WindowType::NamedWindow(name)) => {
                let operators = self.windows.iter().rev().find_map(|windows| windows.get(&name.value));
                WINDOW_OPERATORS.saturating_add(operators.copied().unwrap_or(0))
            }
        }
    }
}

impl Visitor for Counter {
    type Break = Box<EngineError>;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        if !query.pipe_operators.is_empty() {
            let error = "|> is not offered; write the query as SELECT … FROM … WHERE …";
            return ControlFlow::Break(Box::new(EngineError::Unsupported(error.to_owned())));
        }
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        let coming =
            tables.map(|table| (std::ptr::from_ref(&*table.query), table.alias.name.value.clone())).collect();
        self.frames.push(Frame { coming, ..Frame::default() });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        let Some(Frame { cost, .. }) = self.frames.pop() else { return ControlFlow::Continue(()) };
        if let Some(around) = self.top() {
            match around.coming.remove(&std::ptr::from_ref(query)) {
                Some(name) => {
                    around.common.insert(name, cost);
                }
                None => around.cost.add(&cost),
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        if let Err(error) = check_grouping(&select.group_by) {
            return ControlFlow::Break(Box::new(error));
        }
        let is_star =
            |item: &&SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
        let stars = select.projection.iter().filter(is_star).count() as u64;
        if let Some(frame) = self.top() {
            frame.cost.stars = frame.cost.stars.saturating_add(stars);
        }
        let mut windows: HashMap<String, u64> = HashMap::new();
        for definition in &select.named_window {
            let operators = match &definition.1 {
                NamedWindowExpr::NamedWindow(other) => windows.get(&other.value).copied().unwrap_or(0),
                NamedWindowExpr::WindowSpec(spec) => {
                    let mut all = Expressions(0);
                    let _ = Visit::visit(spec, &mut all);
                    all.0
                }
            };
            windows.insert(definition.0.value.clone(), operators);
        }
        self.windows.push(windows);
        self.count(1);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, _: &Select) -> ControlFlow<Self::Break> {
        self.windows.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        if let TableFactor::Table { name, .. } = factor {
            self.table(parts(name));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        let operators = match expr {
            Expr::Identifier(_)
            | Expr::CompoundIdentifier(_)
            | Expr::Value(_)
            | Expr::Nested(_)
            | Expr::TypedString(_)
            | Expr::Interval(_)
            | Expr::Wildcard(_)
            | Expr::QualifiedWildcard(..) => 0,
            Expr::Function(function) => self.window(function),
            Expr::Between { .. } => 2,
            Expr::Case { conditions, .. } => 1 + conditions.len() as u64,
            _ => 1,
        };
        self.count(operators);
        ControlFlow::Continue(())
    }
}

/// Counts every expression, columns and literals included.
struct Expressions(u64);

impl Visitor for Expressions {
    type Break = ();

    fn pre_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
        self.0 += 1;
        ControlFlow::Continue(())
    }
}

fn parts(name: &ObjectName) -> Vec<String> {
    let part = |part: &ObjectNamePart| match part {
        ObjectNamePart::Identifier(ident) => ident.value.clone(),
        ObjectNamePart::Function(function) => function.to_string(),
    };
    name.0.iter().map(part).collect()
}

/// Refuses a GROUP BY that stands for too many groupings: CUBE doubles them with each of its entries.
fn check_grouping(group_by: &GroupByExpr) -> Result<(), EngineError> {
    let (exprs, modifiers) = match group_by {
        GroupByExpr::All(modifiers) => (&[][..], modifiers),
        GroupByExpr::Expressions(exprs, modifiers) => (&exprs[..], modifiers),
    };
    let cube =
        |entries: usize| u32::try_from(entries).ok().and_then(|n| 1_u64.checked_shl(n)).unwrap_or(u64::MAX);
    let of = |expr: &Expr| match expr {
        Expr::Cube(entries) => cube(entries.len()),
        Expr::Rollup(entries) => entries.len() as u64 + 1,
        Expr::GroupingSets(sets) => sets.len() as u64,
        _ => 1,
    };
    let mut sets = exprs.iter().map(of).fold(1, u64::saturating_mul);
    for modifier in modifiers {
        sets = sets.saturating_mul(match modifier {
            GroupByWithModifier::Cube => cube(exprs.len()),
            GroupByWithModifier::Rollup => exprs.len() as u64 + 1,
            GroupByWithModifier::Totals => 2,
            GroupByWithModifier::GroupingSets(expr) => of(expr),
        });
    }
    limited("the grouping sets of a GROUP BY", sets, SQL_GROUPING_SETS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::text;

    #[track_caller]
    fn counted(sql: &str) -> (u64, u64, u64) {
        let cost = Cost::of(&text::parse(sql).unwrap()).unwrap();
        (cost.operators, cost.tables, cost.stars)
    }

    #[test]
    fn operators_tables_and_stars_are_counted() {
        assert_eq!(counted("SELECT 1"), (1, 0, 0));
        assert_eq!(counted("SELECT a, (b) FROM t"), (1, 1, 0));
        assert_eq!(counted("SELECT a + 1, upper(b) FROM t WHERE c = 2 AND NOT d"), (6, 1, 0));
        assert_eq!(counted("SELECT * FROM t, u JOIN v ON t.a = v.a"), (2, 3, 1));
        assert_eq!(
            counted("SELECT a IN (1, 2, 3), b BETWEEN 1 AND 2, CASE WHEN c THEN 1 ELSE 2 END"),
            (6, 0, 0)
        );
        assert_eq!(counted("SELECT sum(a) OVER (ORDER BY b) FROM t"), (5, 1, 0));
        assert_eq!(
            counted("SELECT sum(a) OVER w, min(a) OVER w FROM t WINDOW w AS (ORDER BY b, c)"),
            (13, 1, 0)
        );
        assert_eq!(counted("SELECT 1 UNION ALL SELECT (SELECT max(a) FROM t)"), (5, 1, 0));
        assert_eq!(counted("EXPLAIN SELECT a + 1 FROM t"), (2, 1, 0));
    }

    #[test]
    fn common_table_expressions_count_as_often_as_they_are_named() {
        let doubled = "WITH a AS (SELECT x + 1 AS x FROM t), b AS (SELECT * FROM a, a AS c)";
        assert_eq!(counted(&format!("{doubled} SELECT 1")), (1, 0, 0));
        assert_eq!(counted(&format!("{doubled} SELECT * FROM b, b AS d")), (11, 4, 3));
        // An inner one hides an outer one, and only where it can be seen.
        let hiding =
            "WITH a AS (SELECT 1) SELECT 1 FROM (WITH a AS (SELECT 1 FROM t, t u) SELECT 1 FROM a), a";
        assert_eq!(counted(hiding).1, 3);
        assert_eq!(counted("WITH t AS (SELECT 1 FROM t) SELECT 1 FROM t, public.t").1, 2);
        let mut sql = "WITH c0 AS (SELECT 1 AS n)".to_owned();
        for n in 1..60 {
            sql.push_str(&format!(", c{n} AS (SELECT x.n FROM c{0} x, c{0} y)", n - 1));
        }
        let error = Cost::of(&text::parse(&format!("{sql} SELECT n FROM c59")).unwrap()).unwrap_err();
        assert!(matches!(error, EngineError::Limit { .. }), "{error}");
    }

    #[test]
    fn what_is_too_much_is_refused_with_count_and_limit() {
        let refused = |sql: String| Cost::of(&text::parse(&sql).unwrap()).unwrap_err().to_string();
        let sum = refused(format!("SELECT {}", vec!["1"; 1001].join(" + ")));
        assert_eq!(sum, "the operators and function calls of the SQL text is 1001; the limit is 512");
        let tables: Vec<String> = (0..65).map(|n| format!("t t{n}")).collect();
        assert!(refused(format!("SELECT 1 FROM {}", tables.join(", "))).contains("is 65; the limit is 64"));
        let cube = (0..9).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
        assert!(
            refused(format!("SELECT 1 FROM t GROUP BY CUBE({cube})")).contains("is 512; the limit is 256")
        );
        assert!(
            refused("SELECT 1 FROM t GROUP BY ROLLUP(a, b, c), CUBE(a, b, c), CUBE(d, e, f, g)".to_owned())
                .contains("grouping sets")
        );
        let unnamed = format!("WITH a AS (SELECT {}) SELECT 1", vec!["1"; 1001].join(" + "));
        assert!(refused(unnamed).contains("operators"));
    }

    #[test]
    fn columns_count_for_each_table_and_star() {
        let check = |sql: &str, columns: usize| {
            Cost::of(&text::parse(sql).unwrap()).unwrap().check_columns(|_| Some(columns)).is_ok()
        };
        assert!(check("SELECT * FROM t", 4104));
        assert!(!check("SELECT * FROM t, t u", 4104));
        assert!(!check("SELECT a FROM (SELECT * FROM (SELECT * FROM t))", 4104));
        assert!(check("SELECT t.a FROM t, t u, t v", 4104));
        assert!(check("SELECT * FROM (SELECT * FROM (SELECT * FROM t))", 100));
    }
}
