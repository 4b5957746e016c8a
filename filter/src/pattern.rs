//! LIKE, CONTAINS, STARTSWITH and ENDSWITH: one matcher in linear time.
//!
//! A pattern is cut at its `%` into pieces. Each piece is taken at its first place after the one
//! before, which is never worse than a later place, so nothing is tried twice. A piece without `_` is
//! found by the standard library's linear search; one with `_` by an automaton that keeps one bit a
//! character of the piece.

use crate::syntax::Search;

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// What the text starts with.
    head: Piece,
    /// What follows in this order, anywhere. Only looked at if `open`.
    middle: Vec<Piece>,
    /// What the text ends with. Only looked at if `open`.
    tail: Piece,
    /// Whether there is a `%`; else `head` is the whole text.
    open: bool,
}

impl Pattern {
    /// The pattern of LIKE: `%` is any text, `_` any one character. `escape` takes the meaning from a `%`,
    /// `_` or `escape` behind it; before any other character it stands for itself.
    pub(crate) fn like(pattern: &str, escape: Option<char>) -> Self {
        let mut pieces = vec![Vec::new()];
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            let last = pieces.len() - 1;
            match c {
                c if Some(c) == escape => {
                    let escaped = chars.next_if(|next| matches!(next, '%' | '_') || Some(*next) == escape);
                    pieces[last].push(Some(escaped.unwrap_or(c)));
                }
                '%' => pieces.push(Vec::new()),
                '_' => pieces[last].push(None),
                c => pieces[last].push(Some(c)),
            }
        }
        Self::of_pieces(&pieces)
    }

    /// The pattern that finds `text` in one of three ways.
    pub(crate) fn search(search: Search, text: &str) -> Self {
        let text: Vec<Option<char>> = text.chars().map(Some).collect();
        let none = Vec::new;
        Self::of_pieces(&match search {
            Search::Contains => vec![none(), text, none()],
            Search::StartsWith => vec![text, none()],
            Search::EndsWith => vec![none(), text],
        })
    }

    /// `None` in a piece is any character.
    pub(crate) fn of_pieces(pieces: &[Vec<Option<char>>]) -> Self {
        let (head, rest) =
            pieces.split_first().map_or((&[][..], pieces), |(head, rest)| (head.as_slice(), rest));
        let (middle, tail) =
            rest.split_last().map_or((rest, &[][..]), |(tail, middle)| (middle, tail.as_slice()));
        Self {
            head: Piece::new(head),
            middle: middle.iter().filter(|piece| !piece.is_empty()).map(|piece| Piece::new(piece)).collect(),
            tail: Piece::new(tail),
            open: pieces.len() > 1,
        }
    }

    /// Returns whether all of `text` matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let Some(mut rest) = self.head.strip_from_start(text) else { return false };
        if !self.open {
            return rest.is_empty();
        }
        for piece in &self.middle {
            match piece.strip_to_end_of_first(rest) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        self.tail.is_at_end(rest)
    }

    /// Returns the text that every match starts with.
    pub(crate) fn prefix(&self) -> &str {
        match &self.head {
            Piece::Literal(text) => text,
            Piece::Wild(wild) => &wild.prefix,
        }
    }

    /// Returns the only text that matches, if there is only one.
    pub(crate) fn single(&self) -> Option<&str> {
        match &self.head {
            Piece::Literal(text) if !self.open => Some(text),
            _ => None,
        }
    }

    /// Returns whether every text that starts with [`prefix`](Self::prefix) matches.
    pub(crate) fn is_prefix(&self) -> bool {
        let is_empty = |piece: &Piece| matches!(piece, Piece::Literal(text) if text.is_empty());
        self.open && self.middle.is_empty() && is_empty(&self.tail) && matches!(self.head, Piece::Literal(_))
    }
}

/// What stands between two `%`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Wild(Wild),
}

impl Piece {
    fn new(chars: &[Option<char>]) -> Self {
        let literal: String = chars.iter().map_while(|c| *c).collect();
        if chars.iter().all(Option::is_some) {
            Self::Literal(literal)
        } else {
            Self::Wild(Wild::new(chars, literal))
        }
    }

    fn strip_from_start<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            Self::Literal(literal) => text.strip_prefix(literal.as_str()),
            Self::Wild(wild) => wild.strip_from_start(text),
        }
    }

    /// The text behind the first place of the piece.
    fn strip_to_end_of_first<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            Self::Literal(literal) => text.find(literal.as_str()).map(|at| &text[at + literal.len()..]),
            Self::Wild(wild) => wild.strip_to_end_of_first(text),
        }
    }

    fn is_at_end(&self, text: &str) -> bool {
        match self {
            Self::Literal(literal) => text.ends_with(literal.as_str()),
            Self::Wild(wild) => wild.is_at_end(text),
        }
    }
}

/// A piece with some `_`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wild {
    chars: Vec<Option<char>>,
    /// The characters before the first `_`.
    prefix: String,
    /// For each character of the piece, the places where it may stand, one bit a place; sorted.
    places: Vec<(char, Vec<u64>)>,
    /// The places of `_`.
    anywhere: Vec<u64>,
    /// The places by the first byte of a character, if one word holds them and the piece is ASCII.
    ascii: Option<Box<[u64; 256]>>,
}

impl Wild {
    fn new(chars: &[Option<char>], prefix: String) -> Self {
        let words = chars.len().div_ceil(64);
        let bits = |wanted: &dyn Fn(Option<char>) -> bool| {
            let mut bits = vec![0_u64; words];
            for (place, _) in chars.iter().enumerate().filter(|(_, c)| wanted(**c)) {
                bits[place / 64] |= 1 << (place % 64);
            }
            bits
        };
        let mut distinct: Vec<char> = chars.iter().copied().flatten().collect();
        distinct.sort_unstable();
        distinct.dedup();
        let places: Vec<(char, Vec<u64>)> =
            distinct.into_iter().map(|c| (c, bits(&|at| at.is_none_or(|at| at == c)))).collect();
        let anywhere = bits(&|at| at.is_none());
        let ascii = (words == 1 && places.iter().all(|(c, _)| c.is_ascii())).then(|| {
            let mut table = Box::new([anywhere[0]; 256]);
            for (c, places) in &places {
                table[*c as usize] = places[0];
            }
            table
        });
        Self { chars: chars.to_vec(), prefix, places, anywhere, ascii }
    }

    fn strip_from_start<'t>(&self, text: &'t str) -> Option<&'t str> {
        let mut rest = text.chars();
        let fits = self.chars.iter().all(|wanted| rest.next().is_some_and(|c| wanted.is_none_or(|w| w == c)));
        fits.then_some(rest.as_str())
    }

    fn is_at_end(&self, text: &str) -> bool {
        let mut rest = text.chars();
        self.chars.iter().rev().all(|wanted| rest.next_back().is_some_and(|c| wanted.is_none_or(|w| w == c)))
    }

    /// Shift-and: bit `n` of `state` says that the first `n + 1` characters of the piece end here.
    fn strip_to_end_of_first<'t>(&self, text: &'t str) -> Option<&'t str> {
        let last = self.chars.len() - 1;
        let (last_word, last_bit) = (last / 64, 1_u64 << (last % 64));
        if let Some(table) = &self.ascii {
            return strip_by_table(table, last_bit, text);
        }
        let mut state = vec![0_u64; self.anywhere.len()];
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            let mut carry = 1;
            let known = self.places.binary_search_by_key(&c, |(known, _)| *known);
            let places = known.map_or(&self.anywhere, |known| &self.places[known].1);
            for (word, places) in state.iter_mut().zip(places) {
                let shifted = (*word << 1) | carry;
                carry = *word >> 63;
                *word = shifted & places;
            }
            if state[last_word] & last_bit != 0 {
                return Some(rest.as_str());
            }
        }
        None
    }
}

/// The same over bytes: continuation bytes are part of the character before them.
fn strip_by_table<'t>(table: &[u64; 256], last_bit: u64, text: &'t str) -> Option<&'t str> {
    let mut state = 0_u64;
    for (at, byte) in text.bytes().enumerate() {
        if byte & 0xc0 != 0x80 {
            state = ((state << 1) | 1) & table[usize::from(byte)];
            if state & last_bit != 0 {
                let rest = &text.as_bytes()[at + 1..];
                let continued = rest.iter().take_while(|byte| **byte & 0xc0 == 0x80).count();
                return text.get(at + 1 + continued..);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of LIKE as a table over all positions: quadratic, and plain.
    fn plain_like(pattern: &[Option<Option<char>>], text: &[char]) -> bool {
        let mut row: Vec<bool> = (0..=text.len()).map(|end| end == 0).collect();
        for part in pattern {
            let mut next = vec![false; text.len() + 1];
            for end in 0..=text.len() {
                next[end] = match part {
                    None => row[end] || (end > 0 && next[end - 1]),
                    Some(c) => end > 0 && row[end - 1] && c.is_none_or(|c| c == text[end - 1]),
                };
            }
            row = next;
        }
        row[text.len()]
    }

    #[test]
    fn all_short_patterns_match_as_defined() {
        let alphabet = ['a', 'b', '%', '_'];
        let texts: Vec<String> =
            (0..6).flat_map(|len| (0..1 << len).map(move |n| spell(n, len, &['a', 'b'], 1))).collect();
        for len in 0..6 {
            for n in 0..1 << (2 * len) {
                let pattern = spell(n, len, &alphabet, 2);
                let parts: Vec<Option<Option<char>>> = pattern
                    .chars()
                    .map(|c| match c {
                        '%' => None,
                        '_' => Some(None),
                        c => Some(Some(c)),
                    })
                    .collect();
                let compiled = Pattern::like(&pattern, None);
                for text in &texts {
                    let chars: Vec<char> = text.chars().collect();
                    assert_eq!(compiled.matches(text), plain_like(&parts, &chars), "{text} LIKE {pattern}");
                    assert!(!compiled.matches(text) || text.starts_with(compiled.prefix()));
                    assert!(
                        compiled.single().is_none_or(|single| compiled.matches(text) == (text == single))
                    );
                    if compiled.is_prefix() {
                        assert_eq!(compiled.matches(text), text.starts_with(compiled.prefix()));
                    }
                }
            }
        }
    }

    fn spell(n: usize, len: usize, alphabet: &[char], bits: usize) -> String {
        (0..len).map(|i| alphabet[n >> (i * bits) & ((1 << bits) - 1)]).collect()
    }

    #[test]
    fn an_escape_acts_only_before_what_has_a_meaning() {
        for (pattern, escape, text, expected) in [
            ("50!%", Some('!'), "50%", true),
            ("50!%", Some('!'), "50x", false),
            ("a!_b", Some('!'), "axb", false),
            ("a!!b", Some('!'), "a!b", true),
            ("a!b", Some('!'), "a!b", true),
            ("a!", Some('!'), "a!", true),
            ("a\\%", None, "a\\xyz", true),
            ("a\\%", Some('\\'), "a%", true),
            ("€€€_", Some('€'), "€_", true),
            ("%%%", Some('%'), "%", false),
            ("_", None, "😀", true),
            ("%a_%b", None, "xa😀yb", true),
            ("%a_%b", None, "xaé", false),
            ("%a_é%", None, "xaxé", true),
            ("%é_x%", None, "aé😀x", true),
            ("%\n%", None, "a\nb", true),
        ] {
            assert_eq!(
                Pattern::like(pattern, escape).matches(text),
                expected,
                "{text} LIKE {pattern} {escape:?}"
            );
        }
    }

    #[test]
    fn searches_find_plain_text() {
        for (search, text, in_text, expected) in [
            (Search::Contains, "%", "50%", true),
            (Search::Contains, "%", "50", false),
            (Search::Contains, "", "x", true),
            (Search::StartsWith, "_a", "_abc", true),
            (Search::StartsWith, "_a", "xabc", false),
            (Search::EndsWith, "bc", "abc", true),
            (Search::EndsWith, "abcd", "abc", false),
        ] {
            assert_eq!(
                Pattern::search(search, text).matches(in_text),
                expected,
                "{in_text} {search:?} {text}"
            );
        }
    }

    #[test]
    fn patterns_made_to_be_slow_are_not() {
        let text = "a".repeat(100_000);
        let long = format!("%{}b%", "a".repeat(1000));
        let wild = format!("%{}_b%", "a".repeat(900));
        for pattern in
            ["%a".repeat(500) + "%b", "%a_".repeat(300) + "%b%", long, wild, "%_a%_a%_a%b".repeat(20)]
        {
            assert!(!Pattern::like(&pattern, None).matches(&text));
        }
    }
}
