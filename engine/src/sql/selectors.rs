//! Finds the conditions of a query that are selectors, and hands them to the scan as selectors.
//!
//! A `WHERE` text that is SQL and a selector alike must select the same rows. Two implementations of one
//! meaning would drift apart, so there is one: where the selector parser accepts the text of a condition
//! and each of its names is a property of one topic, the condition becomes a call of [`MARKER`] with that
//! text, which the table takes as an exact filter and judges as it judges subscriptions. This happens
//! before the SQL planner sees a type, so a comparison that SQL refuses (text with TRUE) works as well.
//!
//! ```text
//! WHERE price > 10 AND ltrim(region) = 'EU'
//! WHERE "weir$selector"('"price" > 10', 'public.orders', queue_id, queue_offset) AND ltrim(region) = 'EU'
//! ```
//!
//! One kind of condition is left to SQL although selectors have it: moments beside properties. SQL has types
//! for moments, by which `order_date > TIMESTAMP '2026-01-02'` means the dates that texts name; to selectors a
//! moment is a number. Beside `sys.` values, which SQL does not know, there is no doubt.
//!
//! The columns in the call only say which relation is meant. The table's own name is in the call too:
//! the planner infers conditions on one side of a join from those on the other, and what it infers for
//! another table must not be taken for a condition on that one.

use std::{collections::HashSet, ops::ControlFlow, sync::Arc};

use datafusion::{
    scalar::ScalarValue,
    sql::sqlparser::ast::{
        BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
        FunctionArguments, Ident, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, Query, Select,
        Statement, TableFactor, TableWithJoins, UnaryOperator, Value, ValueWithSpan, Visit, VisitMut,
        Visitor, VisitorMut,
    },
};
use weir_columns::System;
use weir_filter::{Dialect, Limits, Selector};

/// The function that stands for a selector in a plan. Users cannot name it by accident.
pub(crate) const MARKER: &str = "weir$selector";

/// What must be known of a table of a topic to recognise selectors on it.
pub(crate) trait Properties: std::fmt::Debug + Send + Sync {
    /// Returns the property behind a column of the table, or `None` if the column is none.
    fn property(&self, column: &str) -> Option<&str>;

    /// Returns what names the table in a marker.
    fn key(&self) -> &str;
}

/// Finds the table of a topic by the parts of its name as written; `None` if it is another relation.
pub(crate) type Lookup<'a> = &'a dyn Fn(&[&str]) -> Option<Arc<dyn Properties>>;

/// Replaces every condition of `statement` that is a selector.
pub(crate) fn mark(
    statement: &mut Statement,
    lookup: Lookup<'_>,
    limits: &Limits,
    parameters: &[Option<ScalarValue>],
) {
    let mut names = CommonTables::default();
    let _ = Visit::visit(&*statement, &mut names);
    let mut marker = Marker { lookup, limits, parameters, hidden: names.0 };
    let _ = VisitMut::visit(statement, &mut marker);
}

/// The names of all common table expressions: a relation of such a name may be one of them.
#[derive(Default)]
struct CommonTables(HashSet<String>);

impl Visitor for CommonTables {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        self.0.extend(tables.map(|table| table.alias.name.value.clone()));
        ControlFlow::Continue(())
    }
}

struct Marker<'a> {
    lookup: Lookup<'a>,
    limits: &'a Limits,
    parameters: &'a [Option<ScalarValue>],
    hidden: HashSet<String>,
}

impl VisitorMut for Marker<'_> {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        if select.selection.is_some()
            && let Some(relations) = self.relations(&select.from)
        {
            select.selection = select.selection.take().map(|condition| self.replaced(condition, &relations));
        }
        ControlFlow::Continue(())
    }
}

/// A relation of a FROM clause. `properties` is `None` for anything but the table of a topic.
struct Relation {
    /// How columns of it are qualified: the alias, or the name as written.
    name: Vec<Ident>,
    properties: Option<Arc<dyn Properties>>,
}

impl Relation {
    fn is_called(&self, qualifier: &[Ident]) -> bool {
        // `public.orders` may also be called `orders`.
        qualifier.len() <= self.name.len()
            && self.name.iter().rev().zip(qualifier.iter().rev()).all(|(a, b)| a.value == b.value)
    }
}

impl Marker<'_> {
    /// The relations of a FROM clause, or `None` if a condition on one of them cannot move into its scan.
    fn relations(&self, from: &[TableWithJoins]) -> Option<Vec<Relation>> {
        let mut relations = Vec::new();
        for table in from {
            relations.push(self.relation(&table.relation));
            for join in &table.joins {
                let inner = matches!(
                    join.join_operator,
                    JoinOperator::Join(_)
                        | JoinOperator::Inner(_)
                        | JoinOperator::CrossJoin(JoinConstraint::None)
                );
                if !inner {
                    return None;
                }
                relations.push(self.relation(&join.relation));
            }
        }
        Some(relations)
    }

    fn relation(&self, factor: &TableFactor) -> Relation {
        let opaque = Relation { name: Vec::new(), properties: None };
        let TableFactor::Table { name, alias, args: None, sample: None, version: None, .. } = factor else {
            return opaque;
        };
        let Some(parts) = identifiers(name) else { return opaque };
        if alias.as_ref().is_some_and(|alias| !alias.columns.is_empty()) {
            return opaque;
        }
        let written: Vec<&str> = parts.iter().map(|part| part.value.as_str()).collect();
        let is_common = matches!(written[..], [name] if self.hidden.contains(name));
        let properties = if is_common { None } else { (self.lookup)(&written) };
        let name = alias.as_ref().map_or(parts, |alias| vec![alias.name.clone()]);
        Relation { name, properties }
    }

    /// `condition` with its selectors replaced: all of it, or those of its conjuncts that are.
    fn replaced(&self, condition: Expr, relations: &[Relation]) -> Expr {
        if let Some(marker) = self.marker(&condition, relations) {
            return marker;
        }
        let mut conjuncts = Vec::new();
        split(condition, &mut conjuncts);
        let mut conjuncts =
            conjuncts.into_iter().map(|conjunct| self.marker(&conjunct, relations).unwrap_or(conjunct));
        let first = conjuncts.next().unwrap_or_else(|| Expr::value(Value::Boolean(true)));
        conjuncts.fold(first, |left, right| Expr::BinaryOp {
            left: Box::new(left),
            op: BinaryOperator::And,
            right: Box::new(right),
        })
    }

    /// The call that stands for `condition`, if it is a selector over one topic.
    fn marker(&self, condition: &Expr, relations: &[Relation]) -> Option<Expr> {
        let mut names = Names {
            relations,
            parameters: self.parameters,
            relation: None,
            has_property: false,
            has_moment: false,
        };
        let mut condition = condition.clone();
        if VisitMut::visit(&mut condition, &mut names).is_break() || (names.has_property && names.has_moment)
        {
            return None;
        }
        let relation = &relations[names.relation?];
        let text = condition.to_string();
        Selector::parse(&text, Dialect::Sql92, self.limits).ok()?;
        Some(call(text, relation, relation.properties.as_deref()?.key()))
    }
}

/// Takes the terms of a conjunction apart, in order, without recursion.
fn split(condition: Expr, into: &mut Vec<Expr>) {
    let mut waiting = vec![condition];
    while let Some(expr) = waiting.pop() {
        match expr {
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                waiting.push(*right);
                waiting.push(*left);
            }
            Expr::Nested(inner) if is_conjunction(&inner) => waiting.push(*inner),
            other => into.push(other),
        }
    }
}

fn is_conjunction(expr: &Expr) -> bool {
    matches!(expr, Expr::BinaryOp { op: BinaryOperator::And, .. })
}

/// Turns the names of a condition into those of selectors, and parameters into literals. Breaks where
/// something has no counterpart.
struct Names<'a> {
    relations: &'a [Relation],
    parameters: &'a [Option<ScalarValue>],
    /// The one relation that all names belong to.
    relation: Option<usize>,
    has_property: bool,
    /// Whether there is NOW, a timestamp or an interval.
    has_moment: bool,
}

impl VisitorMut for Names<'_> {
    type Break = ();

    /// Writes strings as selectors do: sqlparser prints a value that holds two quotes in a row wrongly,
    /// because it takes them for one that is escaped. What it calls a number it prints as it is.
    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<()> {
        if let Value::SingleQuotedString(text) = &value.value {
            value.value = Value::Number(quoted('\'', text), false);
        }
        ControlFlow::Continue(())
    }

    /// In JSON_VALUE `body` is the body, and neither a column nor a property.
    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(Function { name, args: FunctionArguments::List(list), .. }) = expr
            && name.to_string().eq_ignore_ascii_case("JSON_VALUE")
            && let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(body))) = list.args.first_mut()
            && matches!(body, Expr::Identifier(name) if name.value == "body")
            && matches!(self.relations, [relation] if relation.properties.is_some())
            && self.belongs_to(0).is_some()
        {
            *body = Expr::value(Value::Number("body".to_owned(), false));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let replaced = match expr {
            Expr::Identifier(name) => self.column(&[], name),
            Expr::CompoundIdentifier(parts) => self.qualified(parts),
            Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) => self.parameter(name),
            // `- -b` would be printed as `--b`, which is a comment. Selectors read a run of signs as one.
            Expr::UnaryOp { op: UnaryOperator::Minus, expr: operand } if is_minus(operand) => {
                match &**operand {
                    Expr::UnaryOp { expr: inner, .. } => {
                        Some(Expr::UnaryOp { op: UnaryOperator::Plus, expr: inner.clone() })
                    }
                    _ => None,
                }
            }
            Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => None,
            Expr::TypedString(_) | Expr::Interval(_) => {
                self.has_moment = true;
                return ControlFlow::Continue(());
            }
            // Whether selectors have the function, their parser knows.
            Expr::Function(function) => {
                self.has_moment |= is_moment(&function.name);
                return ControlFlow::Continue(());
            }
            _ => return ControlFlow::Continue(()),
        };
        match replaced {
            Some(replaced) => {
                *expr = replaced;
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        }
    }
}

impl Names<'_> {
    fn column(&mut self, qualifier: &[Ident], column: &Ident) -> Option<Expr> {
        let mut candidates = self.relations.iter().enumerate().filter(|(_, relation)| {
            // Of an unknown relation any column may be meant.
            relation.is_called(qualifier)
                && relation.properties.as_ref().is_none_or(|p| p.property(&column.value).is_some())
        });
        let (index, relation) = candidates.next()?;
        if candidates.next().is_some() {
            return None;
        }
        let property = relation.properties.as_ref()?.property(&column.value)?;
        let name = quoted('"', property);
        self.has_property = true;
        self.belongs_to(index)?;
        Some(Expr::Identifier(Ident::new(name)))
    }

    fn qualified(&mut self, parts: &[Ident]) -> Option<Expr> {
        let (column, qualifier) = parts.split_last()?;
        if self.relations.iter().any(|relation| relation.is_called(qualifier)) {
            return self.column(qualifier, column);
        }
        let [relation] = self.relations else { return None };
        if let [prefix] = qualifier
            && prefix.value == "sys"
            && let Some(system) = System::from_name(&column.value)
        {
            relation.properties.as_ref()?;
            self.belongs_to(0)?;
            return Some(Expr::CompoundIdentifier(vec![Ident::new("sys"), Ident::new(system.name())]));
        }
        let dotted: Vec<&str> = parts.iter().map(|part| part.value.as_str()).collect();
        self.column(&[], &Ident::new(dotted.join(".")))
    }

    fn belongs_to(&mut self, relation: usize) -> Option<()> {
        (*self.relation.get_or_insert(relation) == relation).then_some(())
    }

    /// The value of a parameter as a literal.
    fn parameter(&self, name: &str) -> Option<Expr> {
        let number: usize = name.strip_prefix('$')?.parse().ok()?;
        let value = self.parameters.get(number.checked_sub(1)?)?.as_ref()?;
        let literal = match value {
            ScalarValue::Utf8(Some(text)) => Value::Number(quoted('\'', text), false),
            ScalarValue::Boolean(Some(value)) => Value::Boolean(*value),
            ScalarValue::Int64(Some(value)) => return Some(signed(value.to_string())),
            ScalarValue::Float64(Some(value)) if value.is_finite() => {
                return Some(signed(format!("{value:?}")));
            }
            _ => return None,
        };
        Some(Expr::value(literal))
    }
}

fn is_moment(function: &ObjectName) -> bool {
    let name = function.to_string();
    ["NOW", "CURRENT_TIMESTAMP"].iter().any(|moment| name.eq_ignore_ascii_case(moment))
}

fn is_minus(expr: &Expr) -> bool {
    matches!(expr, Expr::UnaryOp { op: UnaryOperator::Minus, .. })
}

fn quoted(quote: char, text: &str) -> String {
    let doubled = String::from_iter([quote, quote]);
    format!("{quote}{}{quote}", text.replace(quote, &doubled))
}

fn signed(number: String) -> Expr {
    match number.strip_prefix('-') {
        // In parentheses, so that `a - ?` does not become the comment `a --5`.
        Some(digits) => Expr::Nested(Box::new(Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr: Box::new(Expr::value(Value::Number(digits.to_owned(), false))),
        })),
        None => Expr::value(Value::Number(number, false)),
    }
}

fn call(text: String, relation: &Relation, key: &str) -> Expr {
    let literal = |text: String| Expr::value(Value::SingleQuotedString(text));
    let column = |name: &str| {
        let mut parts = relation.name.clone();
        parts.push(Ident::new(name));
        Expr::CompoundIdentifier(parts)
    };
    let args = [literal(text), literal(key.to_owned()), column("queue_id"), column("queue_offset")]
        .map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)));
    Expr::Function(Function {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::with_quote('"', MARKER))]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: args.into(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn identifiers(name: &ObjectName) -> Option<Vec<Ident>> {
    name.0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(ident) => Some(ident.clone()),
            ObjectNamePart::Function(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::text;

    #[derive(Debug)]
    struct Table(&'static str, &'static [&'static str]);

    impl Properties for Table {
        fn property(&self, column: &str) -> Option<&str> {
            self.1.iter().find(|name| **name == column).map(|name| name.strip_prefix("prop.").unwrap_or(name))
        }

        fn key(&self) -> &str {
            self.0
        }
    }

    /// Returns the marked statement; markers are shown as `{selector}`.
    fn marked(sql: &str, parameters: &[Option<ScalarValue>]) -> String {
        let mut statement = text::parse(sql).unwrap();
        let lookup = |name: &[&str]| -> Option<Arc<dyn Properties>> {
            match name {
                ["orders"] | ["public", "orders"] => {
                    Some(Arc::new(Table("orders", &["price", "region", "a.b", "prop.body", "Upper"])))
                }
                ["other"] => Some(Arc::new(Table("other", &["price", "name"]))),
                _ => None,
            }
        };
        mark(&mut statement, &lookup, &Limits::default(), parameters);
        let _ = VisitMut::visit(&mut statement, &mut Shown);
        statement.to_string()
    }

    struct Shown;

    impl VisitorMut for Shown {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Expr::Function(function) = expr
                && function.name.to_string().contains(MARKER)
                && let FunctionArguments::List(list) = &function.args
                && let [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(text))), ..] = &list.args[..]
                && let Value::SingleQuotedString(text) = &text.value
            {
                *expr = Expr::Identifier(Ident::new(format!("{{{text}}}")));
            }
            ControlFlow::Continue(())
        }
    }

    #[track_caller]
    fn check(condition: &str, expected: &str) {
        let sql = format!("SELECT * FROM orders WHERE {condition}");
        assert_eq!(marked(&sql, &[]), format!("SELECT * FROM orders WHERE {expected}"));
    }

    fn selector(text: &str) -> String {
        format!("{{{text}}}")
    }

    #[test]
    fn a_condition_that_is_a_selector_becomes_one() {
        check("price > 10", &selector(r#""price" > 10"#));
        check("price>10 and region='it''s'", &selector(r#""price" > 10 AND "region" = 'it''s'"#));
        check(
            "region = 'a''''b' OR region LIKE '''' ESCAPE ''''",
            &selector(r#""region" = 'a''''b' OR "region" LIKE '''' ESCAPE ''''"#),
        );
        check("NOT (orders.price / 2 != 0x1F)", &selector(r#"NOT ("price" / 2 <> 31)"#));
        check("region LIKE 'a!_%' ESCAPE '!'", &selector(r#""region" LIKE 'a!_%' ESCAPE '!'"#));
        check("price = - - 5 - -price", &selector(r#""price" = +5 - -"price""#));
        check("- - - price = -(-price)", &selector(r#"-+"price" = -(-"price")"#));
        check("a.b = 1 OR \"prop.body\" IS NULL", &selector(r#""a.b" = 1 OR "body" IS NULL"#));
        check("sys.tag = 'x' AND \"Upper\" = TRUE", &selector(r#"sys.tag = 'x' AND "Upper" = true"#));
    }

    #[test]
    fn functions_that_selectors_have_are_theirs() {
        check("upper(region) = 'it''s'", &selector(r#"upper("region") = 'it''s'"#));
        check(
            "COALESCE(a.b, trim(region)) IN ('x') AND FLOOR(price) = ceil(price)",
            &selector(r#"COALESCE("a.b", TRIM("region")) IN ('x') AND FLOOR("price") = CEIL("price")"#),
        );
        check(
            "substring(region FROM 2 FOR 3) = 'a' OR substr(region, 2) = 'b'",
            "SUBSTRING(region FROM 2 FOR 3) = 'a' OR SUBSTR(region, 2) = 'b'",
        );
        check("substring(region, 2) = 'a'", &selector(r#"SUBSTRING("region", 2) = 'a'"#));
        check(
            "json_value(body, '$.a') = 'it''s' OR price = 1",
            &selector(r#"json_value(body, '$.a') = 'it''s' OR "price" = 1"#),
        );
        check("region NOT REGEXP '^a'", &selector(r#""region" NOT REGEXP '^a'"#));
        check(
            "price > 5 AND sys.born_time > now() - INTERVAL '1' HOUR",
            &format!(
                "{} AND {}",
                selector(r#""price" > 5"#),
                selector("sys.born_time > now() - INTERVAL '1' HOUR")
            ),
        );
        check(
            "sys.store_time > TIMESTAMP '2026-01-02T03:04:05Z'",
            &selector("sys.store_time > TIMESTAMP '2026-01-02T03:04:05Z'"),
        );
    }

    #[test]
    fn conjuncts_are_taken_one_by_one_where_the_whole_is_no_selector() {
        check(
            "price > 10 AND ltrim(region) = 'EU' AND (region = 'a' AND queue_id = 1)",
            &format!(
                "{} AND ltrim(region) = 'EU' AND {} AND queue_id = 1",
                selector(r#""price" > 10"#),
                selector(r#""region" = 'a'"#)
            ),
        );
    }

    #[test]
    fn what_is_no_selector_stays() {
        for condition in [
            "ltrim(region) = 'EU'",
            "TRIM(LEADING 'x' FROM region) = 'EU'",
            "upper(queue_id) = '1'",
            "upper(DISTINCT region) = 'EU'",
            "\"upper\"(region) = 'EU'",
            "region > TIMESTAMP '2026-01-02'",
            "price < now()",
            "price < CURRENT_TIMESTAMP OR sys.born_time > NOW()",
            "price > INTERVAL '1' HOUR",
            "now() > 5",
            "round(price, 2) = 5",
            "price > (SELECT 1)",
            "unknown = 1",
            "upper = 1",
            "body = 'x'",
            "price > $1",
            "true",
            "x.price = 1",
        ] {
            check(condition, condition);
        }
    }

    #[test]
    fn parameters_are_literals_in_selectors() {
        let sql = "SELECT * FROM orders WHERE price - ? > ? AND region = ?";
        let values = [
            Some(ScalarValue::Int64(Some(-5))),
            Some(ScalarValue::Float64(Some(1.5))),
            Some(ScalarValue::Utf8(Some("it's".to_owned()))),
        ];
        let expected = selector(r#""price" - (-5) > 1.5 AND "region" = 'it''s'"#);
        assert_eq!(marked(sql, &values), format!("SELECT * FROM orders WHERE {expected}"));
    }

    #[test]
    fn names_belong_to_one_relation_of_inner_joins() {
        for (sql, markers) in [
            ("SELECT * FROM orders o, other WHERE region = 'x' AND name = 'y' AND price = 1", 2),
            ("SELECT * FROM orders o JOIN other p ON o.x = p.x WHERE o.price = 1 AND p.price = 1", 2),
            ("SELECT * FROM orders o JOIN other p ON o.x = p.x WHERE o.price = 1 OR p.price = 1", 0),
            ("SELECT * FROM orders o LEFT JOIN other p ON o.x = p.x WHERE p.price = 1", 0),
            ("SELECT * FROM orders o JOIN (SELECT 1) p ON TRUE WHERE price = 1", 0),
            ("SELECT * FROM orders o JOIN (SELECT 1) p ON TRUE WHERE o.price = 1", 1),
            ("WITH orders AS (SELECT 1 AS price) SELECT * FROM orders WHERE price = 1", 0),
            ("SELECT * FROM orders AS o(a, b) WHERE price = 1", 0),
            ("SELECT * FROM orders WHERE price IN (SELECT price FROM other WHERE name = 'x')", 1),
            ("SELECT * FROM public.orders WHERE orders.price = 1 AND public.orders.region = 'x'", 1),
        ] {
            assert_eq!(marked(sql, &[]).matches('{').count(), markers, "{sql}");
        }
    }
}
