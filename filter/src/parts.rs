//! The conditions that a selector is made of, as pieces of its text: for people who ask which part decides.
//!
//! The text is cut between its tokens, not parsed again: at OR, then at AND that belongs to no BETWEEN, outside
//! of parentheses. What is left of a text that does not look like that is one piece. Each piece is a selector
//! of its own, and is parsed, judged and pruned as one.

use crate::{
    dialect::Dialect,
    lexer::{Keyword, Spanned, Symbol, Token, tokens},
    limits::Limits,
    selector::Selector,
};

/// How the conditions of a [`Part`] make it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartKind {
    /// All of them must be TRUE.
    And,
    /// One of them must be TRUE.
    Or,
    /// The one must be FALSE.
    Not,
    /// There are none: it is judged as it is.
    Condition,
}

impl PartKind {
    /// Returns the name: `and`, `or`, `not`, `condition`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::And => "and",
            Self::Or => "or",
            Self::Not => "not",
            Self::Condition => "condition",
        }
    }
}

/// A condition, and those that it is made of.
#[derive(Clone, Debug)]
pub struct Part {
    /// How its parts make it up.
    pub kind: PartKind,
    /// Where it begins in the text of the whole, in bytes.
    pub at: usize,
    /// The condition as a selector of its own.
    pub selector: Selector,
    /// What it is made of.
    pub parts: Vec<Part>,
}

impl Part {
    /// Cuts a selector into its parts.
    pub fn of(selector: &Selector, limits: &Limits) -> Self {
        let whole =
            || Self { kind: PartKind::Condition, at: 0, selector: selector.clone(), parts: Vec::new() };
        if selector.dialect() != Dialect::Sql92 {
            // Their tokens and their NOT are others.
            return whole();
        }
        let text = selector.text();
        let limits = Limits { text_bytes_max: text.len().max(limits.text_bytes_max), ..*limits };
        let Ok(tokens) = tokens(text, &limits) else { return whole() };
        let cutter = Cutter { text, tokens: &tokens, dialect: selector.dialect(), limits: &limits };
        let mut part = cutter.part(0, tokens.len() - 1, 0).unwrap_or_else(whole);
        // Its text may have lost blanks and comments around it.
        part.selector = selector.clone();
        part.at = 0;
        part
    }

    /// Calls `visit` with this part and all below, each before those that it is made of.
    pub fn for_each<'a>(&'a self, visit: &mut impl FnMut(&'a Self)) {
        visit(self);
        for part in &self.parts {
            part.for_each(visit);
        }
    }
}

struct Cutter<'a> {
    text: &'a str,
    /// The last one is the end of the text.
    tokens: &'a [Spanned],
    dialect: Dialect,
    limits: &'a Limits,
}

impl Cutter<'_> {
    fn token(&self, index: usize) -> &Token {
        self.tokens.get(index).map_or(&Token::End, |spanned| &spanned.token)
    }

    fn is(&self, index: usize, keyword: Keyword) -> bool {
        *self.token(index) == Token::Keyword(keyword)
    }

    /// The part that the tokens from `start` to before `end` make; `None` if they make no selector.
    fn part(&self, mut start: usize, mut end: usize, depth: usize) -> Option<Part> {
        let (at, text) = self.piece(start, end)?;
        let selector = Selector::parse(text, self.dialect, self.limits).ok()?;
        let condition = |selector| Some(Part { kind: PartKind::Condition, at, selector, parts: Vec::new() });
        if depth > Limits::DEPTH_CEILING {
            return condition(selector);
        }
        while self.closes_at(start) == Some(end - 1) {
            (start, end) = (start + 1, end - 1);
        }
        for (kind, keyword) in [(PartKind::Or, Keyword::Or), (PartKind::And, Keyword::And)] {
            let cuts = self.cuts(start, end, keyword);
            if cuts.is_empty() {
                continue;
            }
            let starts = std::iter::once(start).chain(cuts.iter().map(|cut| cut + 1));
            let ends = cuts.iter().copied().chain([end]);
            let parts: Option<Vec<Part>> =
                starts.zip(ends).map(|(start, end)| self.part(start, end, depth + 1)).collect();
            return match parts {
                Some(parts) => Some(Part { kind, at, selector, parts }),
                None => condition(selector),
            };
        }
        let negated = (start..end).take_while(|index| self.is(*index, Keyword::Not)).count();
        // In the other dialects NOT is part of what stands before a comparison, unless nothing follows.
        let of_all = self.dialect == Dialect::Sql92 || self.closes_at(start + negated) == Some(end - 1);
        if negated % 2 == 1
            && of_all
            && let Some(part) = self.part(start + negated, end, depth + 1)
        {
            return Some(Part { kind: PartKind::Not, at, selector, parts: vec![part] });
        }
        condition(selector)
    }

    /// Where the tokens begin, and their text.
    fn piece(&self, start: usize, end: usize) -> Option<(usize, &str)> {
        let at = self.tokens.get(start)?.at;
        let text = self.text.get(at..self.tokens.get(end)?.at)?;
        (start < end).then(|| (at, text.trim_end()))
    }

    /// The token that closes the parenthesis which opens at `start`.
    fn closes_at(&self, start: usize) -> Option<usize> {
        if *self.token(start) != Token::Symbol(Symbol::Open) {
            return None;
        }
        let mut depth = 0_usize;
        for (index, spanned) in self.tokens.iter().enumerate().skip(start) {
            match spanned.token {
                Token::Symbol(Symbol::Open) => depth += 1,
                Token::Symbol(Symbol::Close) => {
                    depth = depth.checked_sub(1)?;
                    if depth == 0 {
                        return Some(index);
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// The places of `keyword` outside of parentheses. The AND between two bounds is not one.
    fn cuts(&self, start: usize, end: usize, keyword: Keyword) -> Vec<usize> {
        let mut cuts = Vec::new();
        let (mut depth, mut bounds) = (0_usize, 0_usize);
        for index in start..end {
            match self.token(index) {
                Token::Symbol(Symbol::Open) => depth += 1,
                Token::Symbol(Symbol::Close) => depth = depth.saturating_sub(1),
                Token::Keyword(Keyword::Between) if depth == 0 => bounds += 1,
                Token::Keyword(Keyword::And) if depth == 0 && bounds > 0 => bounds -= 1,
                Token::Keyword(found) if depth == 0 && *found == keyword => cuts.push(index),
                _ => {}
            }
        }
        cuts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(part: &Part) -> String {
        let parts: Vec<String> = part.parts.iter().map(shown).collect();
        match part.kind {
            PartKind::Condition => part.selector.text().to_owned(),
            kind => format!("{}[{}]", kind.name(), parts.join(" | ")),
        }
    }

    fn cut(text: &str) -> String {
        let limits = Limits::default();
        let part = Part::of(&Selector::parse(text, Dialect::Sql92, &limits).unwrap(), &limits);
        part.for_each(&mut |part| {
            let from = &text[part.at..];
            assert!(from.starts_with(part.selector.text()) || part.at == 0, "{text}: {from}");
        });
        shown(&part)
    }

    #[test]
    fn a_text_is_cut_where_its_conditions_meet() {
        for (text, parts) in [
            ("a = 1", "a = 1"),
            ("a = 1 AND b = 2 OR c", "or[and[a = 1 | b = 2] | c]"),
            ("((a = 1) AND (b BETWEEN 1 AND 2 OR NOT c))", "and[(a = 1) | or[b BETWEEN 1 AND 2 | not[c]]]"),
            (
                "a BETWEEN 1 AND 2 AND b NOT BETWEEN (3) AND 4",
                "and[a BETWEEN 1 AND 2 | b NOT BETWEEN (3) AND 4]",
            ),
            ("NOT (a = 1 OR b = 2)", "not[or[a = 1 | b = 2]]"),
            ("NOT NOT a = 1", "NOT NOT a = 1"),
            ("s = 'a AND b' AND \"x OR y\" IS NULL -- AND", "and[s = 'a AND b' | \"x OR y\" IS NULL -- AND]"),
            ("(a = 1 AND b = 2) IS NULL", "(a = 1 AND b = 2) IS NULL"),
            ("(a = 1) = (b = 2)", "(a = 1) = (b = 2)"),
            ("TRUE", "TRUE"),
        ] {
            assert_eq!(cut(text), parts, "{text}");
        }
    }

    #[test]
    fn a_deep_text_is_cut_within_its_limits() {
        let text = format!("{}a = 1{}", "(b = 2 OR ".repeat(30), ")".repeat(30));
        assert_eq!(cut(&text).matches("or[").count(), 30);
    }
}
