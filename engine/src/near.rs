//! Names that somebody may have meant.

/// How many names are suggested.
const SUGGESTED_MAX: usize = 3;
/// How many characters of a name are compared.
const COMPARED_CHARS_MAX: usize = 48;
/// How many candidates are looked at: a suggestion must not cost more than the answer.
const CANDIDATES_MAX: usize = 10_000;

/// Returns up to three of `candidates` that look like `name`, the nearest first.
pub(crate) fn near<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let wanted = folded(name);
    let allowed = (wanted.len() / 3).clamp(1, 4);
    let mut found: Vec<(usize, &str)> = candidates
        .into_iter()
        .take(CANDIDATES_MAX)
        .map(|candidate| (edits(&wanted, &folded(candidate)), candidate))
        .filter(|(edits, _)| *edits <= allowed)
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().take(SUGGESTED_MAX).map(|(_, candidate)| candidate.to_owned()).collect()
}

fn folded(name: &str) -> Vec<char> {
    name.chars().take(COMPARED_CHARS_MAX).flat_map(char::to_lowercase).collect()
}

/// How many characters must be inserted, removed or replaced to turn one text into the other.
fn edits(from: &[char], to: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
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
}
