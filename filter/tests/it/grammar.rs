//! What is a selector and what is refused, where and why.

use weir_filter::{Dialect, Limits, Selector};

fn parse(text: &str) -> Result<Selector, weir_filter::SelectorError> {
    Selector::parse(text, Dialect::Sql92, &Limits::default())
}

#[test]
fn what_people_write_is_accepted() {
    for text in [
        "a",
        "TRUE",
        "NOT a",
        "a = 'x' and B <> 5",
        "a != 5",
        "a=5 or b=6",
        "a IN ('x', 5, TRUE, -1.5)",
        "a NOT IN ('x')",
        "a LIKE '50!%' ESCAPE '!'",
        "a NOT LIKE 'x%'",
        "a CONTAINS 'x' OR a STARTSWITH 'y' OR a NOT ENDSWITH 'z'",
        "a BETWEEN 1 AND 2 AND b NOT BETWEEN 'a' AND 'b'",
        "a BETWEEN b AND c + 1",
        "a IS NULL OR b IS NOT NULL",
        "(a = 5) IS NULL",
        "a + 1 > b * 2 - -c % 3",
        "(a > 5) = TRUE",
        "(a > 5) <> (b > 5) AND c = (a IS NULL)",
        "\"and\" = 1 AND \"a b\" = 2 AND \"sys.tag\" = 3",
        "größe > 5 AND 价格 < 3 AND a.b.c = 1 AND $x = _y",
        "sys.tag = 'a' AND sys.store_time > 1700000000000",
        "a = -9223372036854775808 AND b = 0x7fffffffffffffff AND c = 0.0",
        "a = 5 -- comment",
        "/* x */ a /* y */ = -- z\n 5",
        "a = NULL",
        "5 = 5",
        "'a' IN ('a')",
        "a IN (5, -1.5, +2, 0x1F, 1e3, TIMESTAMP '2026-01-02')",
        "\"a\"\"b\" NOT IN (5, 6) AND \"é \" = 1",
        "upper(a) = 'X' AND Upper = 1 AND length > LENGTH(length)",
        "substring(a from 2 for 3) = 'x' AND from = 1 AND for = 2",
        "timestamp > TIMESTAMP '2026-01-02' AND interval = INTERVAL '-1' days",
        "sys.born_time > NOW() - INTERVAL '1' HOUR OR current_timestamp > now",
        "a REGEXP 'x' AND NOT regexp = 'y' AND REGEXP(b, 'z') = FALSE",
        "COALESCE(a, b, 'x') LIKE 'x%' AND COALESCE(urgent, FALSE)",
        "COALESCE(NULLIF(UPPER(a), ''), LOWER(b)) IS NOT NULL",
        "UPPER(NULL) = 'X' AND ABS(NULL) = 5",
        "- LENGTH(a) + ABS(-b) * MOD(c, 3) BETWEEN FLOOR(d) AND CEILING(e)",
    ] {
        if let Err(error) = parse(text) {
            panic!("{}", error.report(text));
        }
    }
}

/// `^` in the second column stands under the place in the first.
#[test]
fn what_is_wrong_is_refused_at_its_place() {
    for (text, place, part) in [
        ("", "^", "cannot be empty"),
        ("-- x", "^", "cannot be empty"),
        ("a =", "   ^", "expected a value, found the end of the text"),
        ("a = 5 b", "      ^", "expected AND, OR or the end of the text, found the name b"),
        ("a = 5)", "     ^", "closes nothing"),
        ("(a = 5", "^", "never closed"),
        ("(a = 5 b)", "       ^", "expected AND, OR or ')'"),
        ("a = 5 = 6", "      ^", "cannot be chained"),
        ("a < b < c", "      ^", "cannot be chained"),
        ("a = 5 IS NULL", "      ^", "cannot be chained"),
        ("a AND", "     ^", "expected a value"),
        ("a = NOT b", "    ^", "NOT stands before a whole condition"),
        ("a NOT 5", "      ^", "after NOT"),
        ("a IS 5", "     ^", "expected NULL or NOT NULL"),
        ("a IS NOT 5", "         ^", "expected NULL"),
        ("a IN 5", "     ^", "expected '('"),
        ("a IN ()", "      ^", "expected a value"),
        ("a IN (5", "       ^", "expected ',' or ')'"),
        ("a IN (b)", "      ^", "strings, numbers, TRUE and FALSE only"),
        ("a IN (5, NULL)", "         ^", "NULL in a list"),
        ("a IN ((5))", "      ^", "without parentheses"),
        ("a LIKE b", "       ^", "expected a pattern in single quotes"),
        ("a LIKE 'x' ESCAPE 'ab'", "                  ^", "exactly one character"),
        ("a LIKE 'x' ESCAPE ''", "                  ^", "exactly one character"),
        ("a CONTAINS 5", "           ^", "expected a text in single quotes after CONTAINS"),
        ("a BETWEEN 1 OR 2", "            ^", "expected AND between the two bounds"),
        ("a BETWEEN 9 AND 3", "          ^", "smaller bound first"),
        ("a BETWEEN -3 AND -9", "          ^", "smaller bound first"),
        ("a BETWEEN 'b' AND 'a'", "          ^", "smaller bound first"),
        ("a BETWEEN 1 AND 'b'", "                ^", "a number cannot be compared with a string"),
        ("a BETWEEN TRUE AND FALSE", "          ^", "have no order"),
        ("5", "^", "expected a condition, found a number"),
        ("'x'", "^", "expected a condition, found a string"),
        ("a AND 'x'", "      ^", "expected a condition, found a string"),
        ("NOT 5", "    ^", "expected a condition, found a number"),
        ("NOT NOT 5", "        ^", "expected a condition, found a number"),
        ("a + 1", "^", "expected a condition, found a number"),
        ("sys.tag", "^", "expected a condition, found a string"),
        ("a + 'x' = 5", "    ^", "arithmetic needs numbers, found a string"),
        ("-'x' = 5", " ^", "arithmetic needs numbers"),
        ("a + TRUE = 5", "    ^", "arithmetic needs numbers"),
        ("a + (b = 1) = 5", "     ^", "arithmetic takes a value, found a condition"),
        ("a > TRUE", "    ^", "have no order"),
        ("'a' = 5", "      ^", "a string cannot be compared with a number"),
        ("a + 1 = 'x'", "        ^", "write numbers without quotes"),
        ("sys.tag > 5", "          ^", "write strings in single quotes"),
        ("sys.queue_id = '3'", "               ^", "write numbers without quotes"),
        ("sys.queue_id LIKE '3'", "^", "LIKE needs text, found a number"),
        ("sys.queue_id IN ('3')", "^", "never in a list"),
        ("(a = 5) = 5", "          ^", "a condition cannot be compared with a number"),
        ("'x' <> (a = 5)", "^", "a condition cannot be compared with a string"),
        ("(a = 5) > TRUE", " ^", "a condition has no order"),
        ("(a = 5) IN (TRUE)", " ^", "IN takes a value, found a condition"),
        ("sys.tga = 'x'", "^", "did you mean sys.tag?"),
        ("sys.storetime > 5", "^", "did you mean sys.store_time?"),
        ("SYS.tag = 'x'", "^", "did you mean sys.tag?"),
        ("sys.qqqqqq = 'x'", "^", "there are sys.store_time, sys.born_time"),
        ("uper(a) = 'X'", "^", "there is no function uper; did you mean UPPER?"),
        ("a = SUBSTR(b, 1)", "    ^", "there is no function SUBSTR; there are ABS, CEIL"),
        ("\"upper\"(a) = 'X'", "^", "cannot be called"),
        ("a.b(5) = 5", "^", "there is no function a.b"),
        ("sys.tag(5) = 5", "^", "there is no function sys.tag"),
        ("UPPER a = 'X'", "      ^", "expected AND, OR or the end of the text"),
        ("UPPER(a = 'X'", "        ^", "expected ',' or ')'"),
        ("UPPER(a", "     ^", "never closed"),
        ("UPPER(a,) = 'X'", "        ^", "expected a value"),
        ("UPPER() = 'X'", "^", "UPPER takes 1 value, found 0"),
        ("b = 1 OR UPPER(a, b) = 'X'", "         ^", "UPPER takes 1 value, found 2"),
        ("COALESCE(a) = 1", "^", "COALESCE takes 2 or more values, found 1"),
        ("UPPER(5) = 'X'", "      ^", "UPPER needs text, found a number"),
        ("LENGTH(sys.queue_id) = 1", "       ^", "LENGTH needs text, found a number"),
        ("CONCAT(a, TRUE) = 'X'", "          ^", "CONCAT needs text, found TRUE or FALSE"),
        ("SUBSTRING(a, 'b') = 'X'", "             ^", "SUBSTRING needs a number, found a string"),
        ("SUBSTRING(a FOR 2) = 'X'", "            ^", "expected ',' or ')'"),
        ("FLOOR(UPPER(a)) = 1", "      ^", "FLOOR needs a number, found a string"),
        ("ROUND((a = 1)) = 1", "       ^", "ROUND takes a value, found a condition"),
        ("UPPER(a) = 5", "           ^", "a string cannot be compared with a number"),
        ("LENGTH(a) = 'X'", "            ^", "write numbers without quotes"),
        ("COALESCE(a, 5, 'x') = 5", "               ^", "one type, found a number and a string"),
        ("NULLIF('a', 5) = 5", "            ^", "a string cannot be compared with a number"),
        ("UPPER(a)", "^", "expected a condition, found a string"),
        ("NOW()", "^", "expected a condition, found a number"),
        ("NOW(5) > 1", "    ^", "NOW takes no values"),
        ("NOW() > 'a'", "        ^", "write numbers without quotes"),
        ("a IN (NOW())", "      ^", "strings, numbers, TRUE and FALSE only"),
        ("a > TIMESTAMP '2026-02-30'", "              ^", "expected a date"),
        ("a > INTERVAL 'x' HOUR", "             ^", "whole number"),
        ("a > INTERVAL '1' MONTH", "                 ^", "expected MILLISECOND, SECOND"),
        ("a > INTERVAL '9999999999999999' DAY", "             ^", "too long"),
        ("JSON_VALUE(a, '$.b') = 1", "           ^", "opens the body and nothing else"),
        ("JSON_VALUE(body) = 1", "               ^", "expected ',' and a path"),
        ("JSON_VALUE(body, b) = 1", "                 ^", "expected a path in single quotes"),
        ("JSON_VALUE(body, 'b') = 1", "                 ^", "begins with $"),
        ("JSON_VALUE(body, '$.b', 1) = 1", "                      ^", "expected ')'"),
        ("a REGEXP b", "         ^", "expected a pattern in single quotes after REGEXP"),
        ("a REGEXP '('", "         ^", "no regular expression: unclosed group"),
        ("a NOT REGEXP '\\w{100}'", "             ^", "too large once compiled"),
        ("REGEXP(a, b)", "          ^", "expected a pattern in single quotes"),
        ("REGEXP(a) = TRUE", "        ^", "expected ',' and a pattern"),
        ("sys.queue_id REGEXP '3'", "^", "REGEXP needs text, found a number"),
        ("a = 9223372036854775808", "    ^", "outside of"),
        ("select = like", "         ^", "expected a value, found LIKE; as a name write it \"LIKE\""),
        ("a = 5;", "     ^", "without a semicolon"),
    ] {
        let error = parse(text).err().unwrap_or_else(|| panic!("accepted: {text}"));
        let report = error.report(text);
        assert_eq!(error.position(), place.len() - 1, "{report}");
        assert!(error.message().contains(part), "{report}");
        assert!(report.ends_with(&format!("  | {place}")), "{report}");
    }
}

#[test]
fn unbuilt_dialects_are_refused_by_name() {
    for dialect in [Dialect::RocketMq, Dialect::Jms] {
        let error = Selector::parse("a = 5", dialect, &Limits::default()).unwrap_err();
        assert!(error.message().contains(dialect.name()), "{error}");
    }
}

#[test]
fn columns_are_named_once_and_only_if_they_decide() {
    let selector = parse("b = 1 AND a = 2 OR \"b\" > sys.queue_id OR (c = 3 AND FALSE)").unwrap();
    let columns: Vec<String> = selector.columns().map(|column| column.to_string()).collect();
    assert_eq!(columns, ["b", "a", "sys.queue_id"]);
    assert!(parse("a = 5 OR TRUE").unwrap().matches_all());
    assert!(!parse("a = a").unwrap().matches_all());
}
