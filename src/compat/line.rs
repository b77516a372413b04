//! The command lines of `drbdadm` and `drbdsetup`: which tool, its own options, the verb, the rest.

use clap::{Arg, ArgAction, Command};

use crate::config::option_named;

/// Which of the two tools is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Names of the configuration.
    Drbdadm,
    /// What is up.
    Drbdsetup,
}

impl Tool {
    /// The tool of that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        [Self::Drbdadm, Self::Drbdsetup].into_iter().find(|tool| tool.name() == name)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Drbdadm => "drbdadm",
            Self::Drbdsetup => "drbdsetup",
        }
    }

    /// The exit code of a command line that is not understood.
    #[must_use]
    pub fn usage_code(self) -> i32 {
        match self {
            Self::Drbdadm => 1,
            Self::Drbdsetup => 20,
        }
    }
}

/// A command line in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Whose it is.
    pub tool: Tool,
    /// `-c`.
    pub config: Option<String>,
    /// `-d`.
    pub dry_run: bool,
    /// `-v`.
    pub verbose: bool,
    /// `-S`.
    pub stacked: bool,
    /// What to do.
    pub verb: String,
    /// Its options, as they were typed; `--wfc-timeout 5` has become `--wfc-timeout=5`.
    pub options: Vec<String>,
    /// What it is aimed at.
    pub operands: Vec<String>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `--version`.
    Version,
    /// `--help`.
    Help,
    /// A verb.
    Verb(Line),
}

/// A command line that is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misuse {
    /// The sentence for standard error.
    pub text: String,
    /// That of the tool for a usage error, or 10: known, and not supported.
    pub exit_code: i32,
}

/// Global options of drbdadm that make no sense here: other programs, another way to write a peer.
const NOT_SUPPORTED: &[(&str, &str)] = &[
    ("-t", "--config-to-test"),
    ("-s", "--drbdsetup"),
    ("-m", "--drbdmeta"),
    ("-p", "--drbd-proxy-ctl"),
    ("-n", "--sh-varname"),
    ("-P", "--peer"),
    ("-W", "--setup-option"),
    ("-E", "--config-to-exclude"),
];

/// Options that are known, and refused as such: another is a usage error.
const REFUSED: &[&str] = &["--diff"];

/// Options of verbs whose value may stand in a word of its own.
const VALUED: &[&str] = &[
    "--wfc-timeout",
    "--degr-wfc-timeout",
    "--outdated-wfc-timeout",
    "--size",
    "--start",
    "--stop",
    "--max-peers",
    "--wait",
];

/// Reads a command line, without the program's name.
///
/// # Errors
/// It is not understood, or asks for what is not supported.
pub fn parse(tool: Tool, words: &[String]) -> Result<Asked, Misuse> {
    let usage = |text: String| Misuse { text, exit_code: tool.usage_code() };
    let mut line = Line {
        tool,
        config: None,
        dry_run: false,
        verbose: false,
        stacked: false,
        verb: String::new(),
        options: Vec::new(),
        operands: Vec::new(),
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = |name: &str, next: Option<&String>| {
            next.cloned()
                .ok_or_else(|| usage(format!("{}: {name}: a value is missing", tool.name())))
        };
        let is_global = tool == Tool::Drbdadm;
        let before = line.verb.is_empty();
        if let Some((name, is_flag)) = line.option(word) {
            let value = match word.split_once('=') {
                Some((_, value)) => value.to_owned(),
                None if is_flag => yes_or_no(&mut words),
                None => value(word, words.next())?,
            };
            line.options.push(format!("--{name}={value}"));
            continue;
        }
        match word.as_str() {
            "--version" | "-V" if before => return Ok(Asked::Version),
            "--help" | "-h" => return Ok(Asked::Help),
            "-d" | "--dry-run" if is_global => line.dry_run = true,
            // `status -v` asks for more.
            "-v" | "--verbose" if is_global && (before || line.verb != "status") => {
                line.verbose = true;
            }
            "-S" | "--stacked" if is_global => line.stacked = true,
            "-c" | "--config-file" if is_global => line.config = Some(value(word, words.next())?),
            one if is_global && one.starts_with("--config-file=") => {
                line.config = one.split_once('=').map(|(_, file)| file.to_owned());
            }
            one if is_global && one.starts_with("-c") => line.config = Some(one[2..].to_owned()),
            "--wait-after-sb" => {
                line.options.push(format!("{word}={}", yes_or_no(&mut words)));
            }
            one if VALUED.contains(&one) => {
                line.options.push(format!("{one}={}", value(one, words.next())?));
            }
            one if before && one.starts_with('-') => {
                let name = one.split('=').next().unwrap_or(one);
                let known =
                    NOT_SUPPORTED.iter().any(|(short, long)| *short == name || *long == name);
                let (text, exit_code) = match known && is_global {
                    true => (format!("{}: {name} is not supported", tool.name()), 10),
                    false => (format!("{}: unrecognized option '{one}'", tool.name()), 0),
                };
                let exit_code = if exit_code == 0 { tool.usage_code() } else { exit_code };
                return Err(Misuse { text, exit_code });
            }
            one if before => one.clone_into(&mut line.verb),
            one if one.len() > 1 && one.starts_with('-') => line.options.push(one.to_owned()),
            one => line.operands.push(one.to_owned()),
        }
    }
    match line.verb.is_empty() {
        true => Err(usage(format!("{}: No command specified", tool.name()))),
        false => Ok(Asked::Verb(line)),
    }
}

/// The value of a flag: `yes`, unless the next word is one.
fn yes_or_no(words: &mut std::slice::Iter<'_, String>) -> String {
    match words.as_slice().first().map(String::as_str) {
        Some(word @ ("yes" | "no")) => {
            words.next();
            word.to_owned()
        }
        _ => "yes".to_owned(),
    }
}

impl Line {
    /// The option of the configuration that a word of drbdsetup changes, and whether it is a flag.
    fn option(&self, word: &str) -> Option<(&'static str, bool)> {
        let section = match (self.tool, self.verb.as_str()) {
            (Tool::Drbdsetup, "net-options") => "net",
            (Tool::Drbdsetup, "disk-options" | "peer-device-options") => "disk",
            (Tool::Drbdsetup, "resource-options") => "options",
            _ => return None,
        };
        let word = word.strip_prefix("--").filter(|word| !word.is_empty())?;
        option_named(section, word.split_once('=').map_or(word, |(name, _)| name))
    }

    /// Takes an option with a value away: `--wait=3`.
    pub fn take_value(&mut self, option: &str) -> Option<String> {
        let is_it =
            |one: &String| one.strip_prefix(option).is_some_and(|value| value.starts_with('='));
        let found = self.options.iter().position(is_it)?;
        Some(self.options.remove(found)[option.len() + 1..].to_owned())
    }

    /// Takes one option away; whether it was there.
    pub fn take(&mut self, option: &str) -> bool {
        let before = self.options.len();
        self.options.retain(|one| one != option);
        self.options.len() < before
    }

    /// The options are all taken, and the operands are so many.
    ///
    /// # Errors
    /// They are not: which is named.
    pub fn end(&self, operands: std::ops::RangeInclusive<usize>) -> Result<(), Misuse> {
        let (tool, verb) = (self.tool.name(), &self.verb);
        let misuse = |text: String, exit_code| Err(Misuse { text, exit_code });
        let usage = self.tool.usage_code();
        if let Some(option) = self.options.first() {
            return match REFUSED.contains(&option.as_str()) {
                true => misuse(format!("{tool} {verb}: {option} is not supported"), 10),
                false => misuse(format!("{tool} {verb}: unrecognized option '{option}'"), usage),
            };
        }
        let count = self.operands.len();
        match (operands.contains(&count), self.operands.get(*operands.end())) {
            (true, _) => Ok(()),
            (false, Some(word)) => misuse(format!("{tool} {verb}: '{word}' is too much"), usage),
            (false, None) if count == 0 => {
                misuse(format!("{tool} {verb}: a target is missing"), usage)
            }
            (false, None) => {
                let needed = operands.start();
                misuse(format!("{tool} {verb}: {count} words, and {needed} are needed"), usage)
            }
        }
    }
}

/// The command line, for the manual.
#[must_use]
pub fn command() -> Command {
    let flag = |name: &'static str, short: char, help: &'static str| {
        Arg::new(name).long(name).short(short).help(help).action(ArgAction::SetTrue)
    };
    Command::new("tandem-drbd-compat")
        .about("DRBD's drbdadm and drbdsetup on Tandem, for DRBD's agents and scripts")
        .long_about(
            "Run under the name drbdadm or drbdsetup, or with one of them as its first word, it \
             answers as DRBD 9's tools do, for resources of tandemd. `tandem-drbd-names install` \
             puts the two names in place. Where tandemd holds its lock and does not answer, it waits: a \
             silent daemon is not a stopped one. Without --config-file, drbdadm reads tandem.conf; \
             where that defines nothing, /etc/drbd.conf.",
        )
        .arg(
            Arg::new("config-file")
                .long("config-file")
                .short('c')
                .value_name("FILE")
                .help("drbdadm: the configuration"),
        )
        .arg(flag("dry-run", 'd', "drbdadm: print the steps, do nothing"))
        .arg(flag("verbose", 'v', "drbdadm: print the steps, too"))
        .arg(flag("stacked", 'S', "drbdadm: look among stacked resources; there are none"))
        .arg(flag("version", 'V', "Print the version as shell assignments"))
        .arg(Arg::new("TOOL").value_name("drbdadm|drbdsetup").help("Whose command line follows"))
        .arg(Arg::new("VERB").help("What to do: see tandemadm(8), and docs/CLUSTER.md"))
        .arg(
            Arg::new("TARGET")
                .num_args(0..)
                .help("drbdadm: as for tandemadm; drbdsetup: RES, MINOR, RES ID or RES ID VOLUME"),
        )
        .disable_help_flag(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(tool: Tool, text: &str) -> Result<Asked, Misuse> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        parse(tool, &words)
    }

    fn line(tool: Tool, text: &str) -> Line {
        match parsed(tool, text) {
            Ok(Asked::Verb(line)) => line,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn an_agents_lines_are_understood() {
        let one = line(Tool::Drbdadm, "-c /etc/drbd.conf -S adjust --skip-net r0");
        assert_eq!(one.config.as_deref(), Some("/etc/drbd.conf"));
        assert!(one.stacked && !one.dry_run && !one.verbose);
        assert_eq!((one.verb.as_str(), one.options.len()), ("adjust", 1));
        assert_eq!(one.operands, ["r0"]);
        let one = line(Tool::Drbdadm, "-d -v dump r0");
        assert!(one.dry_run && one.verbose);
        assert_eq!(line(Tool::Drbdadm, "status -v r0").options, ["-v"]);
        let one = line(Tool::Drbdsetup, "wait-connect-connection r0 1 --wfc-timeout 5 --x=1");
        assert_eq!(one.options, ["--wfc-timeout=5", "--x=1"]);
        assert_eq!(one.operands, ["r0", "1"]);
        assert_eq!(parsed(Tool::Drbdadm, "--version"), Ok(Asked::Version));
        assert_eq!(parsed(Tool::Drbdadm, "-V"), Ok(Asked::Version));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let refused = |tool, text| parsed(tool, text).unwrap_err();
        let one = refused(Tool::Drbdadm, "--drbdsetup=/x up r0");
        assert_eq!(
            (one.text.as_str(), one.exit_code),
            ("drbdadm: --drbdsetup is not supported", 10)
        );
        assert_eq!(refused(Tool::Drbdadm, "--frob up r0").exit_code, 1);
        assert_eq!(refused(Tool::Drbdsetup, "-c /x events2").exit_code, 20);
        assert_eq!(refused(Tool::Drbdsetup, "").exit_code, 20);
        assert_eq!(refused(Tool::Drbdadm, "-c").exit_code, 1);
        let mut one = line(Tool::Drbdsetup, "events2 --now --diff r0");
        assert!(one.take("--now") && !one.take("--poll"));
        let misuse = one.end(0..=1).unwrap_err();
        assert_eq!(misuse.text, "drbdsetup events2: --diff is not supported");
        assert_eq!(misuse.exit_code, 10);
        assert!(one.take("--diff"));
        assert_eq!(one.end(0..=1), Ok(()));
        assert_eq!(one.end(0..=0).unwrap_err().exit_code, 20);
    }

    #[test]
    fn what_is_no_option_and_no_count_of_operands_is_a_usage_error() {
        for (tool, text, operands, code, says) in [
            (Tool::Drbdsetup, "down --frob r0", 1..=1, 20, "unrecognized option '--frob'"),
            (Tool::Drbdadm, "down --frob r0", 1..=1, 1, "unrecognized option '--frob'"),
            (Tool::Drbdadm, "down", 1..=usize::MAX, 1, "a target is missing"),
            (Tool::Drbdsetup, "show r0 r1", 0..=1, 20, "'r1' is too much"),
            (Tool::Drbdsetup, "new-minor r0 0", 3..=3, 20, "2 words, and 3 are needed"),
        ] {
            let misuse = line(tool, text).end(operands).unwrap_err();
            assert_eq!(misuse.exit_code, code, "{text}");
            assert!(misuse.text.ends_with(says), "{}", misuse.text);
        }
    }

    #[test]
    fn a_value_may_stand_in_a_word_of_its_own() {
        for (text, options, operands) in [
            ("net-options r0 1 --ping-int 4", "--ping-int=4", "r0 1"),
            ("net-options --ping-i=4 r0 1", "--ping-int=4", "r0 1"),
            ("net-options r0 1 --tcp-cork", "--tcp-cork=yes", "r0 1"),
            ("net-options --tcp-cork no r0 1", "--tcp-cork=no", "r0 1"),
            ("disk-options 0 --al-extents 127", "--al-extents=127", "0"),
            ("wait-connect-resource --wait-after-sb no r0", "--wait-after-sb=no", "r0"),
            ("wait-connect-resource --wait-after-sb r0", "--wait-after-sb=yes", "r0"),
            (
                "resource-options --on-no-quorum suspend-io --on-no-data suspend-io r0",
                "--on-no-quorum=suspend-io --on-no-data-accessible=suspend-io",
                "r0",
            ),
            // Of no option of that verb nothing is known.
            ("primary --ping-int 4", "--ping-int", "4"),
        ] {
            let one = line(Tool::Drbdsetup, text);
            assert_eq!(one.options.join(" "), options, "{text}");
            assert_eq!(one.operands.join(" "), operands, "{text}");
        }
        let cut = parsed(Tool::Drbdsetup, "net-options r0 1 --ping-int").unwrap_err();
        assert_eq!(
            (cut.exit_code, cut.text.as_str()),
            (20, "drbdsetup: --ping-int: a value is missing")
        );
    }
}
