//! The table against itself, and against what the documents say of it.

use super::*;

#[test]
fn no_two_options_share_a_name() {
    let mut names: Vec<&str> = OPTIONS.iter().map(|spec| spec.name).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn every_old_and_every_judged_name_is_an_option() {
    let old = SYNCER.iter().map(|(_, name)| *name);
    let refused = REFUSED_VALUES.iter().map(|(name, ..)| *name);
    let warned = WARNED_VALUES.iter().map(|(name, ..)| *name);
    for name in old.chain(refused).chain(warned) {
        assert!(find(name).is_some(), "{name}");
    }
}

#[test]
fn the_defaults_are_in_range() {
    assert_eq!(check_ranges(&Options::default()), Ok(()));
}

/// The document for who knows DRBD.
const DRBD: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/DRBD.md"));

/// Section, name, word and remark of each option in the document.
fn documented() -> Vec<[&'static str; 4]> {
    let (mut section, mut rows) = ("", Vec::new());
    for line in DRBD.lines().take_while(|line| *line != "## Statements") {
        if let Some(title) = line.strip_prefix("### ") {
            section = title;
        } else if let Some(row) = line.strip_prefix("| `") {
            let cells: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
            let [name, word, remark] = cells[..] else { panic!("{line}") };
            rows.push([section, name.trim_end_matches('`'), word, remark]);
        }
    }
    rows
}

#[test]
fn the_document_has_each_option_once_with_what_becomes_of_it() {
    let rows = documented();
    for spec in OPTIONS {
        let word = match spec.effect {
            Effect::Acts(_) | Effect::PerVolume | Effect::Secret | Effect::Admin => "acts",
            Effect::Harmless(..) => "no effect",
            Effect::Refused(..) => "refused",
        };
        let found: Vec<_> = rows.iter().filter(|row| row[1] == spec.name).collect();
        let [[section, name, said, remark]] = found[..] else { panic!("{}: {found:?}", spec.name) };
        assert_eq!((*section, *said), (spec.section.name(), word), "{name}");
        // The value that says what Tandem does anyway, and those that are judged by themselves.
        let silent = match spec.effect {
            Effect::Harmless(values, _) | Effect::Refused(values, ..) => values,
            _ => &[],
        };
        let silent = silent.iter().filter(|value| !value.is_empty());
        let refused = REFUSED_VALUES.iter().filter(|row| row.0 == *name).map(|row| &row.1);
        let warned = WARNED_VALUES.iter().filter(|row| row.0 == *name).map(|row| &row.1);
        for value in silent.chain(refused).chain(warned) {
            assert!(remark.contains(&format!("`{value}`")), "{name}: {value} in {remark}");
        }
    }
    assert_eq!(rows.len(), OPTIONS.len(), "the document has an option that is none");
}
