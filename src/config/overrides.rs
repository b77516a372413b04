//! One option on a command line: `--c-max-rate=100M`.

use crate::resource::{AfterSb0Pri, Options};

use super::definition::{Definition, same_host};
use super::finding::Pos;
use super::option_table::{Effect, REFUSED_VALUES, Section, Value, find};
use super::setting::value_of;
use super::token::Word;

/// Puts `NAME=VALUE` into `options`, checked as in a file. `section` is `net`, `disk` or `options`.
///
/// # Errors
/// The option is unknown in the section, does not act, or does not take the value: what is wrong,
/// and what would be right.
pub fn override_option(
    definition: &Definition,
    options: &mut Options,
    section: &str,
    name: &str,
    value: &str,
) -> Result<(), String> {
    let here = Section::ALL.into_iter().find(|one| one.name() == section);
    let spec = find(name).filter(|spec| Some(spec.section) == here);
    let spec = spec.ok_or_else(|| match find(name) {
        Some(spec) => format!("{name} has its place in {}, not in {section}", spec.section.name()),
        None => format!("unknown option {name} in {section}"),
    })?;
    if matches!(spec.effect, Effect::Secret) {
        // Others see the words of a command, and its history keeps them.
        return Err(format!("{name} is changed in the config file, then: `tandemadm adjust`"));
    }
    let Effect::Acts(apply) = spec.effect else {
        return Err(format!("{name}: it does not act in Tandem, or cannot change at run time"));
    };
    if let Some((.., why, right)) =
        REFUSED_VALUES.iter().find(|row| (row.0, row.1) == (name, value))
    {
        return Err(format!("{name} {value}: {why}; write: {right}"));
    }
    let at = Pos { file: 0, line: 0, column: 0 };
    let word = Word { text: value.to_owned(), quoted: false, at, end: at };
    let value =
        value_of(spec, &word).map_err(|wrong| format!("{} ({})", wrong.text, wrong.hint))?;
    apply(options, &value);
    if let Value::Word(text) = &value
        && name == "after-sb-0pri"
        && let Some(host) = text.strip_prefix("discard-node-")
    {
        let victim = definition.hosts.iter().find(|one| same_host(&one.name, host));
        let victim = victim.ok_or_else(|| format!("{text}: {host} is no host of the resource"))?;
        options.after_sb_0pri = AfterSb0Pri::DiscardNode(victim.node_id);
    }
    Ok(())
}
