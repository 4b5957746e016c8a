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
    let mut found: Vec<(usize, &str)> = candidates
        .into_iter()
        .take(CANDIDATES_MAX)
        .filter_map(|candidate| {
            let folded = folded(candidate);
            let edits = edits(&wanted, &folded);
            // Of names that have nothing in common each is as near as any other.
            (edits <= allowed && edits < wanted.len().max(folded.len())).then_some((edits, candidate))
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

/// How many characters must be inserted, removed or replaced, or neighbours swapped, to turn one text into
/// the other.
fn edits(from: &[char], to: &[char]) -> usize {
    // The rows for the last two characters of `from`; a swap looks back over both.
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let replaced = last[j] + usize::from(a != b);
            let mut least = replaced.min(row[j] + 1).min(last[j + 1] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[to.len()]
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
}
