//! From SQL text to one statement that only reads. Limits come first, because the parser recurses.
//!
//! Two things are changed on the way, token by token, so that literals, comments and quoted names stay
//! as they are: `?` becomes `$1`, `$2`, …, and `0x1F` becomes a decimal integer, as in selectors.

use datafusion::sql::sqlparser::{
    ast::{DescribeAlias, Statement},
    dialect::GenericDialect,
    keywords::Keyword,
    parser::Parser,
    tokenizer::{Location, Token, TokenWithSpan, Tokenizer},
};

use crate::{
    error::{EngineError, LimitKind},
    limits::{SQL_BYTES_MAX, SQL_COSTLY_DEPTH_MAX, SQL_DEPTH_MAX, SQL_PARAMETERS_MAX, SQL_TOKENS_MAX},
};

/// Parses `sql`: one statement that reads.
pub(crate) fn parse(sql: &str) -> Result<Statement, EngineError> {
    within("bytes of SQL text", sql.len(), SQL_BYTES_MAX)?;
    let tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location()
        .map_err(|error| EngineError::Sql(error.to_string()))?;
    let tokens = Rewriter::new(sql).rewrite(tokens)?;
    let mut statements = Parser::new(&GenericDialect {})
        .with_recursion_limit(SQL_DEPTH_MAX)
        .with_tokens_with_locations(tokens)
        .parse_statements()
        .map_err(|error| EngineError::Sql(parser_message(&error.to_string())))?;
    match (statements.pop(), statements.is_empty()) {
        (Some(statement), true) => {
            check_reads(&statement)?;
            Ok(statement)
        }
        (None, _) => Err(EngineError::Sql("the SQL text is empty".to_owned())),
        _ => Err(EngineError::Sql("one statement at a time; remove what follows the ';'".to_owned())),
    }
}

fn parser_message(message: &str) -> String {
    let message = message.strip_prefix("sql parser error: ").unwrap_or(message);
    if message.contains("recursion limit") {
        format!("the SQL text nests deeper than {SQL_DEPTH_MAX} levels")
    } else {
        format!("cannot read the SQL text: {message}")
    }
}

/// Refuses what is more than `limit`.
pub(crate) fn within(what: &'static str, actual: usize, limit: usize) -> Result<(), EngineError> {
    if actual <= limit {
        return Ok(());
    }
    Err(EngineError::Limit { what, actual: actual as u64, limit: limit as u64, kind: LimitKind::Other })
}

/// Only what reads may pass; the planner is asked again afterwards.
fn check_reads(statement: &Statement) -> Result<(), EngineError> {
    let verb = match statement {
        Statement::Query(_)
        | Statement::ExplainTable { .. }
        | Statement::ShowTables { .. }
        | Statement::ShowColumns { .. }
        | Statement::ShowFunctions { .. }
        | Statement::ShowVariable { .. } => return Ok(()),
        Statement::Explain { statement, describe_alias, .. } => {
            return match (statement.as_ref(), describe_alias) {
                (Statement::Query(_), _) => Ok(()),
                (Statement::Explain { .. }, _) => {
                    Err(EngineError::Sql("EXPLAIN takes a query, not another EXPLAIN".to_owned()))
                }
                (other, DescribeAlias::Explain | DescribeAlias::Desc | DescribeAlias::Describe) => {
                    check_reads(other)
                }
            };
        }
        other => first_word(&other.to_string()),
    };
    Err(EngineError::Unsupported(format!(
        "{verb} is not possible: SQL only reads here (SELECT, WITH, VALUES, EXPLAIN, SHOW, DESCRIBE); \
         messages are published, and topics are created, through the other calls"
    )))
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphabetic()).take(32).collect()
}

/// Goes once over the tokens.
struct Rewriter<'a> {
    lines: Vec<&'a str>,
    /// How many `?` there were.
    positional: usize,
    /// Whether there was a `$n`.
    numbered: bool,
}

impl<'a> Rewriter<'a> {
    fn new(sql: &'a str) -> Self {
        Self { lines: sql.split('\n').collect(), positional: 0, numbered: false }
    }

    fn rewrite(&mut self, tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>, EngineError> {
        let mut kept = Vec::with_capacity(tokens.len());
        for TokenWithSpan { token, span } in tokens {
            let replaced = match token {
                Token::Whitespace(_) => continue,
                Token::Placeholder(name) if name == "?" => self.placeholder(),
                Token::Placeholder(name) => self.named(name)?,
                Token::HexStringLiteral(digits) if self.is_number(span.start) => hex(&digits)?,
                token => token,
            };
            kept.push(TokenWithSpan { token: replaced, span });
        }
        within("tokens of the SQL text", kept.len(), SQL_TOKENS_MAX)?;
        check_nesting(&kept)?;
        within("parameters of the SQL text", self.positional, SQL_PARAMETERS_MAX)?;
        if self.positional > 0 && self.numbered {
            return Err(EngineError::Sql("use either ? or $1 for parameters, not both".to_owned()));
        }
        Ok(kept)
    }

    fn placeholder(&mut self) -> Token {
        self.positional += 1;
        Token::Placeholder(format!("${}", self.positional))
    }

    fn named(&mut self, name: String) -> Result<Token, EngineError> {
        let Some(number) = name.strip_prefix('$').and_then(|number| number.parse::<usize>().ok()) else {
            return Err(EngineError::Sql(format!(
                "the parameter {name} cannot be bound; parameters are written ? or $1, $2, …"
            )));
        };
        if number == 0 {
            return Err(EngineError::Sql("parameters are counted from $1".to_owned()));
        }
        within("parameters of the SQL text", number, SQL_PARAMETERS_MAX)?;
        self.numbered = true;
        Ok(Token::Placeholder(name))
    }

    /// Whether the literal at `start` begins with a digit: `0x1F` is a number, `X'1F'` is bytes.
    fn is_number(&self, start: Location) -> bool {
        let line = usize::try_from(start.line).ok().and_then(|line| self.lines.get(line.checked_sub(1)?));
        let column = usize::try_from(start.column).unwrap_or(0).saturating_sub(1);
        line.and_then(|line| line.chars().nth(column)) == Some('0')
    }
}

/// Refuses brackets that nest too deep. The parser has a limit of its own, but inside of square and curly
/// brackets and of `CAST(` and its like, it tries another reading at every level after an error, which
/// takes exponential time.
fn check_nesting(tokens: &[TokenWithSpan]) -> Result<(), EngineError> {
    let mut open: Vec<bool> = Vec::new();
    let mut costly = 0_usize;
    let mut before = None;
    for TokenWithSpan { token, .. } in tokens {
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                let is_costly = *token != Token::LParen || before.is_some_and(is_costly_before_parenthesis);
                costly += usize::from(is_costly);
                open.push(is_costly);
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                costly -= usize::from(open.pop().unwrap_or(false));
            }
            _ => {}
        }
        within("the nesting of parentheses in the SQL text", open.len(), SQL_DEPTH_MAX)?;
        within(
            "the nesting of CAST( and of square and curly brackets in the SQL text",
            costly,
            SQL_COSTLY_DEPTH_MAX,
        )?;
        before = Some(token);
    }
    Ok(())
}

/// Whether `token` is a keyword that makes what follows in parentheses something special.
fn is_costly_before_parenthesis(token: &Token) -> bool {
    let Token::Word(word) = token else { return false };
    !matches!(
        word.keyword,
        Keyword::NoKeyword
            | Keyword::ALL
            | Keyword::AND
            | Keyword::ANY
            | Keyword::AS
            | Keyword::BETWEEN
            | Keyword::BY
            | Keyword::CASE
            | Keyword::COALESCE
            | Keyword::COUNT
            | Keyword::DISTINCT
            | Keyword::ELSE
            | Keyword::EXCEPT
            | Keyword::EXISTS
            | Keyword::FILTER
            | Keyword::FROM
            | Keyword::HAVING
            | Keyword::IN
            | Keyword::INTERSECT
            | Keyword::JOIN
            | Keyword::LATERAL
            | Keyword::LIKE
            | Keyword::MAX
            | Keyword::MIN
            | Keyword::NOT
            | Keyword::ON
            | Keyword::OR
            | Keyword::SELECT
            | Keyword::SUM
            | Keyword::THEN
            | Keyword::UNION
            | Keyword::USING
            | Keyword::VALUES
            | Keyword::WHEN
            | Keyword::WHERE
    )
}

fn hex(digits: &str) -> Result<Token, EngineError> {
    let digits = digits.replace('_', "");
    u64::from_str_radix(&digits, 16)
        .map(|value| Token::Number(value.to_string(), false))
        .map_err(|_| EngineError::Sql(format!("0x{digits:.20} is no integer of 64 bits")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sql: &str, expected: &str) {
        assert_eq!(parse(sql).unwrap().to_string(), expected);
    }

    #[test]
    fn question_marks_become_numbered_parameters_outside_literals() {
        check("SELECT ? + ?", "SELECT $1 + $2");
        check("SELECT '?' , \"?\" /* ? */ FROM t WHERE a = ? -- ?", "SELECT '?', \"?\" FROM t WHERE a = $1");
        check("SELECT ?||'x', ?-1", "SELECT $1 || 'x', $2 - 1");
        check("SELECT $2, $1", "SELECT $2, $1");
        assert!(parse("SELECT ?, $1").is_err());
        assert!(parse("SELECT $0").is_err());
        assert!(parse("SELECT $name").is_err());
        assert!(parse("SELECT $4000000000").is_err());
    }

    #[test]
    fn hexadecimal_numbers_are_integers() {
        check("SELECT 0x1F", "SELECT 31");
        check("SELECT\n  X'1F'", "SELECT X'1F'");
        assert!(parse("SELECT 0xFFFFFFFFFFFFFFFFFF").is_err());
    }

    #[test]
    fn only_reading_statements_pass() {
        for sql in [
            "SELECT 1",
            "WITH a AS (SELECT 1) SELECT * FROM a",
            "VALUES (1)",
            "EXPLAIN SELECT 1",
            "EXPLAIN ANALYZE SELECT 1",
            "SHOW TABLES",
            "SHOW COLUMNS FROM t",
            "SHOW ALL",
            "DESCRIBE t",
            "SELECT 1;",
        ] {
            assert!(parse(sql).is_ok(), "{sql}");
        }
        for sql in [
            "CREATE TABLE t (a INT)",
            "DROP TABLE t",
            "INSERT INTO t VALUES (1)",
            "DELETE FROM t",
            "UPDATE t SET a = 1",
            "SET a = 1",
            "COPY t TO 'x'",
            "EXPLAIN INSERT INTO t VALUES (1)",
            "EXPLAIN EXPLAIN SELECT 1",
            "TRUNCATE TABLE t",
            "BEGIN",
        ] {
            assert!(matches!(parse(sql), Err(EngineError::Unsupported(_) | EngineError::Sql(_))), "{sql}");
        }
        for sql in ["", ";", "SELECT 1; SELECT 2", "SELECT", "SELECT 'x"] {
            assert!(matches!(parse(sql), Err(EngineError::Sql(_))), "{sql}");
        }
    }

    #[test]
    fn hostile_text_is_an_error() {
        let nested = format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(matches!(parse(&nested), Err(EngineError::Limit { .. })));
        let deep = format!("SELECT {}1{}", "(".repeat(1000), ")".repeat(1000));
        assert!(matches!(parse(&deep), Err(EngineError::Sql(_) | EngineError::Limit { .. })));
        let long = format!("SELECT 1 WHERE {}", vec!["1=1"; 15_000].join(" OR "));
        assert!(matches!(parse(&long), Err(EngineError::Limit { .. })));
        let nots = format!("SELECT {} TRUE", "NOT ".repeat(5000));
        assert!(parse(&nots).is_err());
        assert!(matches!(parse(&"x".repeat(1 << 20)), Err(EngineError::Limit { .. })));
    }
}
