//! Option statements to settings: a name that is known, a value of its kind and in its range.
//!
//! A bad value is reported once, where it is written, and kept as [`Value::Bad`]: so a resource
//! that overrides it goes on, and one that inherits it is refused.

use std::collections::BTreeMap;

use super::finding::{Pos, Report, Scope, is_secret};
use super::nearest::nearest;
use super::option_table::{AFTER_SB_0PRI, Kind, OPTIONS, SYNCER, Section, Spec, Unit, Value, find};
use super::syntax::Statement;
use super::token::Word;
use crate::secret::{Algorithm, SECRET_MAX, Secret};

/// An option as it is written somewhere.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) spec: &'static Spec,
    pub(super) value: Value,
    /// Its value as written, for messages.
    pub(super) written: String,
    pub(super) at: Pos,
}

/// The settings of one level (`common`, a resource, a connection, a volume), by option name.
pub(super) type Level = BTreeMap<&'static str, Setting>;

/// What is wrong with a value: where, what, and what is right.
pub(super) struct Wrong {
    pub(super) at: Pos,
    pub(super) text: String,
    pub(super) hint: String,
}

/// Reads the statements of an option section into `level`.
pub(super) fn read_section(
    section: Section,
    statements: &[Statement],
    scope: Scope<'_>,
    level: &mut Level,
    report: &mut Report,
) {
    for statement in statements {
        let keyword = statement.keyword();
        match lookup(section, keyword) {
            Some((spec, no)) => read_option(spec, no, statement, scope, level, report),
            None => unknown(section, statement, scope, report),
        }
    }
}

/// Reads 8.4's `syncer` section: known options act, and are told their place of today.
pub(super) fn read_syncer(
    statements: &[Statement],
    scope: Scope<'_>,
    level: &mut Level,
    report: &mut Report,
) {
    for statement in statements {
        let keyword = statement.keyword();
        let known = SYNCER.iter().find(|(old, _)| *old == keyword);
        let Some(spec) = known.and_then(|(_, name)| find(name)) else {
            let hint = suggestion(report, keyword, SYNCER.iter().map(|(old, _)| *old));
            report.error(
                statement.at(),
                scope,
                format!("unknown word `{keyword}` in syncer"),
                hint,
            );
            continue;
        };
        let place = spec.section.name();
        let text = format!("`syncer` is 8.4's place of {}; it takes effect", spec.name);
        let hint = format!("write: {place} {{ {} ...; }}", spec.name);
        report.warning(statement.at(), scope, text, hint);
        read_option(spec, false, statement, scope, level, report);
    }
}

/// Reads one option statement into `level`; `no`: it was written `no-NAME`.
pub(super) fn read_option(
    spec: &'static Spec,
    no: bool,
    statement: &Statement,
    scope: Scope<'_>,
    level: &mut Level,
    report: &mut Report,
) {
    let written = statement.arguments().iter().map(|word| word.text.as_str());
    let mut written = written.collect::<Vec<_>>().join(" ");
    if matches!(spec.kind, Kind::Secret) {
        "...".clone_into(&mut written);
        warn_of_readers(spec, statement, scope, report);
    }
    let value = if no && statement.arguments().is_empty() && statement.body.is_none() {
        "no".clone_into(&mut written);
        Value::Bool(false)
    } else {
        read_value(spec, statement).unwrap_or_else(|wrong| {
            // Whoever inherits a bad value from `common` is refused; the others go on.
            let scope = if scope == Scope::All { Scope::Nothing } else { scope };
            report.error(wrong.at, scope, wrong.text, wrong.hint);
            Value::Bad
        })
    };
    let at = statement.at();
    if let Some(earlier) = level.get(spec.name) {
        let line = report.place(earlier.at);
        let text = format!("{} is given again: this one is in force", spec.name);
        report.warning(at, scope, text, format!("keep one; the other is at {line}"));
    }
    level.insert(spec.name, Setting { spec, value, written, at });
}

/// Who can read the file has the secret.
fn warn_of_readers(spec: &Spec, statement: &Statement, scope: Scope<'_>, report: &mut Report) {
    let at = statement.at();
    let is_given = statement.arguments().iter().any(|word| !word.text.is_empty());
    if is_given && report.is_public(at) {
        let text = format!("{}: everybody on this host can read the file", spec.name);
        let hint = format!("chmod o-r {}", report.place(at).file);
        report.warning(at, scope, text, hint);
    }
}

/// The option that `keyword` is in this section, and whether it is written as `no-NAME`.
fn lookup(section: Section, keyword: &str) -> Option<(&'static Spec, bool)> {
    let here = |name: &str| {
        find(name).filter(|spec| {
            // 8.4 has `fencing` in `disk`.
            spec.section == section || (section == Section::Disk && spec.name == "fencing")
        })
    };
    let keyword = match keyword {
        "outdate-peer" if section == Section::Handlers => "fence-peer",
        other => other,
    };
    if let Some(spec) = here(keyword) {
        return Some((spec, false));
    }
    let spec = keyword.strip_prefix("no-").and_then(here)?;
    matches!(spec.kind, Kind::Bool).then_some((spec, true))
}

fn unknown(section: Section, statement: &Statement, scope: Scope<'_>, report: &mut Report) {
    let (at, keyword) = (statement.at(), statement.keyword());
    if let Some(spec) = find(keyword) {
        let place = spec.section.name();
        let text = format!("`{keyword}` has no place in {}", section.name());
        report.error(at, scope, text, format!("write: {place} {{ {keyword} ...; }}"));
        return;
    }
    let known = OPTIONS.iter().filter(|spec| spec.section == section).map(|spec| spec.name);
    let hint = suggestion(report, keyword, known);
    report.error(at, scope, format!("unknown word `{keyword}` in {}", section.name()), hint);
}

/// "did you mean", where a known word is near; else where the words are listed.
pub(super) fn suggestion<'a>(
    report: &Report,
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> String {
    if report.is_full() {
        return String::new();
    }
    if word.starts_with("/*") || word.starts_with("//") {
        return "a comment begins with # and ends with its line".to_owned();
    }
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(meant) = nearest(word, known.iter().copied()) {
        return format!("did you mean `{meant}`?");
    }
    let elsewhere = OPTIONS.iter().map(|spec| (spec.section.name(), spec.name));
    if let Some(meant) = nearest(word, elsewhere.clone().map(|(_, name)| name))
        && let Some((section, _)) = elsewhere.clone().find(|(_, name)| *name == meant)
    {
        return format!("did you mean `{meant}`, in {section}?");
    }
    if known.len() <= 16 {
        format!("known here: {}", known.join(", "))
    } else {
        "remove it; the words are those of drbd.conf(5)".to_owned()
    }
}

/// The value of an option statement.
fn read_value(spec: &Spec, statement: &Statement) -> Result<Value, Wrong> {
    let name = spec.name;
    if statement.body.is_some() {
        let text = format!("`{name}` is an option, not a section");
        return Err(Wrong { at: statement.at(), text, hint: format!("write: {name} ...;") });
    }
    let words = statement.arguments();
    let needed = match spec.kind {
        Kind::Any => {
            let all: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
            return Ok(Value::Word(all.join(" ")));
        }
        Kind::Bool if words.is_empty() => return Ok(Value::Bool(true)),
        Kind::Bool
        | Kind::Number(..)
        | Kind::Choice(_)
        | Kind::AfterSb0Pri
        | Kind::Votes
        | Kind::Text
        | Kind::Secret
        | Kind::Algorithm => 1,
    };
    if matches!(spec.kind, Kind::Secret) {
        // The words of this statement are not repeated.
        let hint = format!("write: {name} {};", values_of(spec));
        if exactly(statement, 1, "").is_err() {
            let text = format!("{name} takes one value; blanks are kept in quotes");
            return Err(Wrong { at: statement.at(), text, hint });
        }
        return secret_value(spec, &words[0]);
    }
    exactly(statement, needed, &values_of(spec))?;
    value_of(spec, &words[0])
}

/// Checks that a statement has `count` words after its keyword; a second line hints at a `;`.
pub(super) fn exactly(statement: &Statement, count: usize, form: &str) -> Result<(), Wrong> {
    let (keyword, words) = (statement.keyword(), statement.arguments());
    let hint = format!("write: {keyword} {form};");
    match words.get(count) {
        None if words.len() == count => Ok(()),
        None => {
            let last = &statement.words[statement.words.len() - 1];
            Err(Wrong {
                at: last.end,
                text: format!("a value is missing after `{}`", last.text),
                hint,
            })
        }
        Some(extra) => {
            let before = &statement.words[count];
            if extra.at.line > before.at.line {
                let text = format!("`;` is missing after `{}`", before.text);
                return Err(Wrong { at: before.end, text, hint });
            }
            if is_secret(&before.text) {
                return Err(Wrong { at: extra.at, text: "a word is too much here".into(), hint });
            }
            Err(Wrong { at: extra.at, text: format!("`{}` is too much here", extra.text), hint })
        }
    }
}

fn secret_value(spec: &Spec, word: &Word) -> Result<Value, Wrong> {
    if word.text.is_empty() || Secret::new(&word.text).is_some() {
        return Ok(Value::Word(word.text.clone()));
    }
    let text = match word.text.len() {
        0..=SECRET_MAX => format!("{} has a control character", spec.name),
        length => format!("{} has {length} bytes", spec.name),
    };
    let hint = format!("write: {} {};", spec.name, values_of(spec));
    Err(Wrong { at: word.at, text, hint })
}

pub(super) fn value_of(spec: &Spec, word: &Word) -> Result<Value, Wrong> {
    let text = &word.text;
    let wrong = |why: String, hint: String| Wrong { at: word.at, text: why, hint };
    let not_one = |known: &[&str]| {
        let hint = match nearest(text, known.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("one of: {}", known.join(", ")),
        };
        wrong(format!("{} does not take `{text}`", spec.name), hint)
    };
    match spec.kind {
        Kind::Number(unit, min, max) => number(spec.name, word, unit, min, max).map(Value::Number),
        Kind::Bool => match text.as_str() {
            "yes" => Ok(Value::Bool(true)),
            "no" => Ok(Value::Bool(false)),
            _ => Err(not_one(&["yes", "no"])),
        },
        Kind::Choice(known) if known.contains(&text.as_str()) => Ok(Value::Word(text.clone())),
        // The one choice that DRBD takes in both cases.
        Kind::Choice(known)
            if spec.name == "protocol" && known.contains(&text.to_ascii_uppercase().as_str()) =>
        {
            Ok(Value::Word(text.to_ascii_uppercase()))
        }
        Kind::Choice(known) => Err(not_one(known)),
        Kind::AfterSb0Pri => {
            let host = text.strip_prefix("discard-node-").is_some_and(|host| !host.is_empty());
            if host || AFTER_SB_0PRI.contains(&text.as_str()) {
                Ok(Value::Word(text.clone()))
            } else {
                Err(not_one(&[AFTER_SB_0PRI, &["discard-node-HOST"]].concat()))
            }
        }
        Kind::Votes => match text.as_str() {
            "off" | "majority" | "all" => Ok(Value::Word(text.clone())),
            _ => number(spec.name, word, Unit::One, 1, 32).map(Value::Number),
        },
        Kind::Secret => secret_value(spec, word),
        Kind::Algorithm if text.is_empty() => Ok(Value::Word(String::new())),
        Kind::Algorithm => match Algorithm::from_name(text) {
            Some(algorithm) => Ok(Value::Word(algorithm.name().to_owned())),
            None => Err(not_one(&Algorithm::ALL.map(Algorithm::name))),
        },
        Kind::Text | Kind::Any => Ok(Value::Word(text.clone())),
    }
}

/// A number in `min..=max` of `unit`, with a suffix where the unit has a use for one.
pub(super) fn number(
    name: &str,
    word: &Word,
    unit: Unit,
    min: u64,
    max: u64,
) -> Result<u64, Wrong> {
    let text = &word.text;
    let range = format!("{min} to {max}{}", unit.name());
    let wrong = |why: String, hint: String| Wrong { at: word.at, text: why, hint };
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let suffix = &text[digits.len()..];
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong(format!("{name} does not take `{text}`"), range));
    }
    let timed =
        matches!(unit, Unit::Tenths | Unit::Seconds | Unit::Milliseconds | Unit::Microseconds);
    let multiplier = match suffix {
        "" => unit.factor(),
        _ if timed => {
            let why = format!("{name} {text}: a time is written without a suffix");
            return Err(wrong(why, range));
        }
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "s" | "S" if !matches!(unit, Unit::One | Unit::Pages) => 512,
        _ => return Err(wrong(format!("{name} does not take `{text}`"), range)),
    };
    let value = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(multiplier));
    match value.map(|value| value.div_ceil(unit.factor())) {
        Some(value) if (min..=max).contains(&value) => Ok(value),
        Some(value) if unit == Unit::Tenths && value >= 100 && value / 100 <= max => {
            let meant = value / 100;
            let hint = format!("{range}; did you mean {meant} ({}.{} s)?", meant / 10, meant % 10);
            Err(wrong(format!("{name} {text} is out of range"), hint))
        }
        _ => Err(wrong(format!("{name} {text} is out of range"), range)),
    }
}

/// The form of an option's value, for a hint.
fn values_of(spec: &Spec) -> String {
    match spec.kind {
        Kind::Number(unit, min, max) => format!("N (N from {min} to {max}{})", unit.name()),
        Kind::Bool => "yes|no".to_owned(),
        Kind::Choice(known) => known.join("|"),
        Kind::AfterSb0Pri => AFTER_SB_0PRI.join("|") + "|discard-node-HOST",
        Kind::Votes => "off|majority|all|N".to_owned(),
        Kind::Secret => "\"1 to 64 bytes\"".to_owned(),
        Kind::Algorithm => Algorithm::ALL.map(Algorithm::name).join("|"),
        Kind::Text | Kind::Any => "VALUE".to_owned(),
    }
}
