//! Names that somebody may have meant: what errors about unknown names suggest.

/// How many names are suggested.
const SUGGESTED_MAX: usize = 3;
/// How many characters of a name are compared.
const COMPARED_CHARS_MAX: usize = 48;
/// How many candidates are looked at: a suggestion must not cost more than the answer.
const CANDIDATES_MAX: usize = 10_000;

/// Returns up to three of `candidates` that look like `name`, the nearest first.
pub fn near<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let wanted = folded(name);
    let allowed = (wanted.len() / 3).clamp(1, 4);
    let mut rows = Rows::default();
    let mut found: Vec<(usize, &str)> = candidates
        .into_iter()
        .take(CANDIDATES_MAX)
        .filter_map(|candidate| {
            let folded = folded(candidate);
            let edits = rows.edits(&wanted, &folded, allowed)?;
            // Of names that have nothing in common each is as near as any other.
            (edits < wanted.len().max(folded.len())).then_some((edits, candidate))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().take(SUGGESTED_MAX).map(|(_, candidate)| candidate.to_owned()).collect()
}

/// Returns what an error about an unknown name says of those that are `near`: nothing, or
/// `; did you mean a or b?`.
pub fn did_you_mean(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) }
}

fn folded(name: &str) -> Vec<char> {
    name.chars().take(COMPARED_CHARS_MAX).flat_map(char::to_lowercase).collect()
}

/// What a comparison counts with, kept for the next: a name is compared with thousands.
#[derive(Default)]
struct Rows {
    before: Vec<usize>,
    last: Vec<usize>,
    row: Vec<usize>,
}

impl Rows {
    /// How many characters must be inserted, removed or replaced, or neighbours swapped, to turn one text into
    /// the other; nothing if more than `most`.
    fn edits(&mut self, from: &[char], to: &[char], most: usize) -> Option<usize> {
        if from.len().abs_diff(to.len()) > most {
            return None;
        }
        // The rows for the last two characters of `from`; a swap looks back over both.
        self.last.clear();
        self.last.extend(0..=to.len());
        self.before.clone_from(&self.last);
        for (i, a) in from.iter().enumerate() {
            let Self { before, last, row } = self;
            row.clear();
            row.push(i + 1);
            for (j, b) in to.iter().enumerate() {
                let replaced = last[j] + usize::from(a != b);
                let mut least = replaced.min(row[j] + 1).min(last[j + 1] + 1);
                if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                    least = least.min(before[j - 1] + 1);
                }
                row.push(least);
            }
            // What follows is reached from one of these rows, and only grows.
            if row.iter().chain(last.iter()).all(|edits| *edits > most) {
                return None;
            }
            std::mem::swap(before, last);
            std::mem::swap(last, row);
        }
        self.last.last().copied().filter(|edits| *edits <= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_come_first() {
        let names = ["price", "prices", "Region", "origin", "dest"];
        assert_eq!(near("prise", names), ["price"]);
        assert_eq!(near("prices", names), ["prices", "price"]);
        assert_eq!(near("region", names), ["Region"]);
        assert!(near("something else", names).is_empty());
    }

    #[test]
    fn swapped_neighbours_are_one_mistake() {
        assert_eq!(near("tga", ["tag", "toga"]), ["tag", "toga"]);
        assert_eq!(near("tga", ["gta", "tagged"]), ["gta"]);
        assert!(near("x", ["t", "ab"]).is_empty() && near("", ["a"]).is_empty());
    }

    #[test]
    fn a_comparison_that_is_given_up_early_would_have_come_to_more() {
        let mut texts = vec![Vec::new()];
        for start in 0..40 {
            for letter in ['a', 'b', 'c'] {
                let mut text: Vec<char> = texts[start].clone();
                text.push(letter);
                texts.push(text);
            }
        }
        let mut rows = Rows::default();
        for (from, to) in texts.iter().flat_map(|from| texts.iter().map(move |to| (from, to))) {
            let all = rows.edits(from, to, usize::MAX).unwrap();
            assert_eq!(Some(all), rows.edits(to, from, usize::MAX), "{from:?} {to:?}");
            for most in 0..5 {
                let bounded = rows.edits(from, to, most);
                assert_eq!(bounded, Some(all).filter(|all| *all <= most), "{from:?} {to:?} {most}");
            }
        }
    }
}
