//! The patterns of `include`: `*`, `?` and `[set]` in one path component, as a shell has them.

/// Whether a path names a pattern rather than one file.
#[must_use]
pub fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// Whether a file name matches a pattern (both without `/`). A leading dot is matched only by a
/// leading dot, so that editors' hidden files are not read.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    // `star`: where to go on when the letters after the last `*` do not fit: one letter later.
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, n));
            p += 1;
        } else if let Some(next) = one(&pattern, p, name[n]) {
            p = next;
            n += 1;
        } else if let Some((star_p, star_n)) = star {
            star = Some((star_p, star_n + 1));
            p = star_p + 1;
            n = star_n + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Where the pattern goes on after it has matched the letter `c` at `p`.
fn one(pattern: &[char], p: usize, c: char) -> Option<usize> {
    match pattern.get(p)? {
        '?' => Some(p + 1),
        '[' => match set(pattern, p, c) {
            Some((matched, next)) => matched.then_some(next),
            None => (c == '[').then_some(p + 1),
        },
        letter => (*letter == c).then_some(p + 1),
    }
}

/// Whether the set that opens at `p` has the letter, and where the pattern goes on; `None`: it is
/// never closed, so it is no set.
fn set(pattern: &[char], p: usize, c: char) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(p + 1), Some('!' | '^'));
    let first = if negated { p + 2 } else { p + 1 };
    let mut at = first;
    let mut found = false;
    loop {
        let low = *pattern.get(at)?;
        if low == ']' && at > first {
            return Some((found != negated, at + 1));
        }
        match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some('-'), Some(high)) if *high != ']' => {
                found |= (low..=*high).contains(&c);
                at += 3;
            }
            _ => {
                found |= low == c;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*.res", "r0.res", true),
            ("*.res", "r0.res~", false),
            ("*.res", ".hidden.res", false),
            (".*", ".hidden", true),
            ("*", "", true),
            ("r?.res", "r0.res", true),
            ("r?.res", "r10.res", false),
            ("[!g]*.res", "mail.res", true),
            ("[!g]*.res", "global.res", false),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[]]", "]", true),
            ("[x", "[x", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("**", "any", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
