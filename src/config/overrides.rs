//! One option on a command line: `--c-max-rate=100M`.

use crate::resource::{AfterSb0Pri, Options};

use super::definition::{Definition, same_host};
use super::finding::Pos;
use super::judge::warned;
use super::option_table::{Effect, Kind, OPTIONS, REFUSED_VALUES, Section, Value, find};
use super::setting::value_of;
use super::token::Word;

/// The option of a section that a word of drbdsetup's names, in full or by a beginning that no other has, as getopt
/// takes it; and whether it is one of `yes` and `no`.
#[must_use]
pub fn option_named(section: &str, word: &str) -> Option<(&'static str, bool)> {
    let here = || OPTIONS.iter().filter(|spec| spec.section.name() == section);
    let mut begin = here().filter(|spec| spec.name.starts_with(word));
    let spec = match (begin.next(), begin.next()) {
        (Some(one), None) => one,
        _ => here().find(|spec| spec.name == word)?,
    };
    Some((spec.name, matches!(spec.kind, Kind::Bool)))
}

/// Puts `NAME=VALUE` into `options`, checked as in a file. `section` is `net`, `disk` or `options`. What it says:
/// a warning, where the option has no effect, or where a file would be warned about the value.
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
) -> Result<Option<String>, String> {
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
    let at = Pos { file: 0, line: 0, column: 0 };
    let word = Word { text: value.to_owned(), quoted: false, at, end: at };
    let read = value_of(spec, &word).map_err(|wrong| format!("{} ({})", wrong.text, wrong.hint))?;
    // As in a file: what Tandem does anyway is silent.
    let apply = match spec.effect {
        Effect::Acts(apply) => apply,
        Effect::Harmless(silent, _) | Effect::Refused(silent, ..)
            if silent.contains(&read.text().as_str()) =>
        {
            return Ok(None);
        }
        Effect::Harmless(_, why) => return Ok(Some(format!("{name} {value}: {why}"))),
        Effect::Refused(_, why, right) => {
            return Err(format!("{name} {value}: {why}; write: {right}"));
        }
        Effect::PerVolume | Effect::Admin | Effect::Secret => {
            return Err(format!("{name}: it cannot change at run time"));
        }
    };
    if let Some((.., why, right)) =
        REFUSED_VALUES.iter().find(|row| (row.0, row.1) == (name, value))
    {
        return Err(format!("{name} {value}: {why}; write: {right}"));
    }
    let warning = warned(name, value);
    apply(options, &read);
    if let Value::Word(text) = &read
        && name == "after-sb-0pri"
        && let Some(host) = text.strip_prefix("discard-node-")
    {
        let victim = definition.hosts.iter().find(|one| same_host(&one.name, host));
        let victim = victim.ok_or_else(|| format!("{text}: {host} is no host of the resource"))?;
        options.after_sb_0pri = AfterSb0Pri::DiscardNode(victim.node_id);
    }
    Ok(warning.map(|(why, right)| {
        let right = right.trim_end_matches(';').replace(";  ", ", ");
        format!("{name} {}: {why}; right is: {right}", word.text)
    }))
}

#[cfg(test)]
mod tests {
    use super::super::{OneFile, load};
    use super::*;

    /// As in a file: some values take effect and void a promise, some names stand for another.
    #[test]
    fn a_value_that_a_file_is_warned_about_is_on_a_command_line_too() {
        let text = "resource r0 { device minor 0; disk /d; on a { address 10.0.0.1:1; } \
                    on b { address 10.0.0.2:1; } }";
        let definition = load(&OneFile(text), "x").resources.remove(0);
        for (section, name, value, said) in [
            (
                "net",
                "verify-alg",
                "md5",
                "verify-alg md5: no such digest here: an online verify compares by sha256; right is: \
                 verify-alg sha256, or sha512, or crc32c",
            ),
            (
                "net",
                "csums-alg",
                "md5",
                "csums-alg md5: no such digest here: a resync compares by sha256; right is: csums-alg \
                 sha256, or sha512, or none",
            ),
            (
                "net",
                "always-asbp",
                "yes",
                "always-asbp yes: takes effect: the after-sb policies also choose a victim where only \
                 history is common; right is: always-asbp no",
            ),
            (
                "disk",
                "disk-flushes",
                "no",
                "disk-flushes no: takes effect: a flush that was acknowledged is not durable on both \
                 disks any more; right is: disk-flushes yes",
            ),
            ("disk", "disk-flushes", "yes", ""),
            ("net", "verify-alg", "sha512", ""),
        ] {
            let mut options = definition.options.clone();
            let warning = override_option(&definition, &mut options, section, name, value);
            assert_eq!(warning.unwrap().unwrap_or_default(), said);
        }
    }

    #[test]
    fn a_beginning_names_the_one_option_that_has_it() {
        assert_eq!(option_named("options", "on-no-data"), Some(("on-no-data-accessible", false)));
        assert_eq!(option_named("options", "on-no-"), None, "two begin so");
        assert_eq!(option_named("net", "timeout"), Some(("timeout", false)));
        assert_eq!(option_named("net", "ping-int"), Some(("ping-int", false)));
        assert_eq!(option_named("net", "always-asbp"), Some(("always-asbp", true)));
        assert_eq!(option_named("disk", "ping-int"), None);
        assert_eq!(option_named("net", "shared-secret"), Some(("shared-secret", false)));
    }

    #[test]
    fn what_has_no_effect_is_said_and_what_somebody_counts_on_is_refused() {
        let text = "resource r0 { volume 0 { device minor 0; disk /dev/x; meta-disk internal; } \
            on alice { node-id 0; address 127.0.0.1:7789; } \
            on bob { node-id 1; address 127.0.0.2:7789; } }";
        let config = crate::config::load(&crate::config::OneFile(text), "r0.res");
        let definition = &config.resources[0];
        let mut options = definition.options.clone();
        let mut put = |section: &str, name: &str, value: &str| {
            let before = options.clone();
            let said = override_option(definition, &mut options, section, name, value);
            (said, before != options)
        };
        let (said, changed) = put("options", "on-no-quorum", "suspend-io");
        assert!(
            !changed && said.unwrap().unwrap().starts_with("on-no-quorum suspend-io: no effect")
        );
        assert_eq!(put("options", "quorum", "off"), (Ok(None), false));
        assert_eq!(put("net", "tcp-cork", "yes"), (Ok(None), false));
        let (said, _) = put("options", "on-no-data-accessible", "suspend-io");
        assert!(said.unwrap_err().contains("on-no-data-accessible suspend-io: "));
        assert!(put("options", "on-no-quorum", "frob").0.is_err(), "no value of it");
        assert!(put("options", "twopc-timeout", "x").0.is_err());
        assert_eq!(put("net", "ping-int", "4"), (Ok(None), true));
    }
}
