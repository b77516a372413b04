//! The known word that a misspelt one probably means.

/// Longest word that is compared: nobody misspells a longer one by a letter.
const WORD_MAX: usize = 40;

/// The candidate with the fewest typing errors (a letter wrong, missing, too many, or two swapped),
/// if they are few for the word's length.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // One typing error makes any letter of any other.
    if word.len() > WORD_MAX || word.chars().count() < 2 {
        return None;
    }
    let limit = (word.chars().count() / 3).clamp(1, 3);
    let distances = candidates.into_iter().map(|known| (distance(word, known), known));
    distances.filter(|(distance, _)| *distance <= limit).min().map(|(_, known)| known)
}

/// The number of typing errors between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            let mut best =
                (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_typing_error_finds_the_known_word() {
        let known = ["protocol", "timeout", "ping-int", "ping-timeout"];
        for (word, meant) in [
            ("protocl", Some("protocol")),
            ("porotocol", Some("protocol")),
            ("tiemout", Some("timeout")),
            ("ping_timeout", Some("ping-timeout")),
            ("ping-itn", Some("ping-int")),
            ("frobnicate", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }
}
