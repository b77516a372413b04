//! The command line, as a table.

use super::not_built::NOT_SUPPORTED;
use super::*;
use crate::resource::Force;

fn parsed(line: &str) -> Result<Invocation, Answer> {
    parse(line.split_whitespace())
}

/// The verb as `Debug` prints it.
fn verb(line: &str) -> String {
    format!("{:?}", parsed(line).unwrap().verb)
}

#[test]
fn options_stand_before_or_after_the_target() {
    for (before, after) in [
        ("tandemadm primary --force r0", "tandemadm primary r0 --force"),
        ("tandemadm status --json r0", "tandemadm status r0 --json"),
        ("tandemadm wait-sync --wfc-timeout 5 r0", "tandemadm wait-sync r0 --wfc-timeout=5"),
        (
            "tandemadm connect --discard-my-data r0:bob",
            "tandemadm connect r0:bob --discard-my-data",
        ),
        ("tandemadm create-md --max-peers=3 r0/0", "tandemadm create-md r0/0 --max-peers 3"),
    ] {
        assert_eq!(verb(before), verb(after));
    }
    for line in ["tandemadm -d -c f up r0", "tandemadm up -c f r0 -d", "tandemadm up r0 -d -c f"] {
        let globals = parsed(line).unwrap().globals;
        assert!(globals.dry_run);
        assert_eq!(globals.config, PathBuf::from("f"));
    }
}

#[test]
fn force_takes_dangers_by_name() {
    let force = |line: &str| match parsed(line).unwrap().verb {
        Verb::Primary { force, .. } => force,
        other => panic!("{other:?}"),
    };
    let cases = [
        ("", vec![]),
        ("--force", vec![ForceWord::Plain]),
        ("--force=yes", vec![ForceWord::Plain]),
        ("--force=inconsistent", vec![ForceWord::Inconsistent]),
        ("--force=outdated", vec![ForceWord::Outdated]),
        ("--force=blank", vec![ForceWord::Blank]),
        ("--force=no", vec![]),
        ("--force=yes,outdated", vec![ForceWord::Plain, ForceWord::Outdated]),
    ];
    for (word, expected) in cases {
        assert_eq!(force(&format!("tandemadm primary {word} r0")), expected);
    }
    for (danger, word) in Force::WORDS {
        let words = force(&format!("tandemadm primary --force={word} r0"));
        assert_eq!(
            words.into_iter().filter_map(ForceWord::danger).collect::<Vec<_>>(),
            [danger],
            "{word}"
        );
    }
    assert_eq!(parsed("tandemadm primary --force=all r0").unwrap_err().exit_code, 1);
    let both = parsed("tandemadm primary --force --hand-over r0").unwrap_err();
    assert_eq!(both.exit_code, 1, "who is connected need not be forced");
}

#[test]
fn a_wrong_force_lists_its_words_and_suggests_none() {
    for word in ["none", "outdate", "inconsistant"] {
        let told = parsed(&format!("tandemadm primary --force={word} r0")).unwrap_err().text;
        assert!(told.contains("yes, inconsistent, outdated, blank"), "{told}");
        assert!(!told.contains("similar"), "{told}");
    }
}

#[test]
fn the_patience_with_the_daemon_is_an_option() {
    let patience = |line: &str| parsed(line).unwrap().globals.cmd_timeout().as_secs();
    assert_eq!(patience("tandemadm status"), 20);
    assert_eq!(patience("tandemadm status --cmd-timeout 3 r0"), 3);
    assert_eq!(parsed("tandemadm --cmd-timeout 0 status").unwrap_err().exit_code, 1);
    // An option of DRBD that is named alike is not taken for it.
    let words = "tandemadm net-options --timeout=50 r0";
    assert!(verb(words).contains("--timeout=50"), "{}", verb(words));
}

#[test]
fn other_forces_are_yes_or_no() {
    for (line, expected) in [
        ("tandemadm secondary r0", false),
        ("tandemadm secondary --force r0", true),
        ("tandemadm secondary --force=yes r0", true),
        ("tandemadm secondary --force=no r0", false),
    ] {
        match parsed(line).unwrap().verb {
            Verb::Secondary { forced, .. } => assert_eq!(forced.force, expected, "{line}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn misuse_is_exit_1() {
    for line in [
        "tandemadm",
        "tandemadm foo r0",
        "tandemadm up",
        "tandemadm up r0/x",
        "tandemadm status --nonsense",
        "tandemadm wait-connect --wfc-timeout -1 r0",
        "tandemadm create-md --max-peers 32 r0",
        "tandemadm create-md --max-peers 0 r0",
    ] {
        let answer = parsed(line).unwrap_err();
        assert_eq!((answer.exit_code, answer.is_error), (1, true), "{line}: {}", answer.text);
    }
    assert!(parsed("tandemadm foo r0").unwrap_err().text.contains("Unknown command 'foo'"));
}

#[test]
fn the_usage_of_an_incomplete_line_names_no_option_as_needed() {
    for (line, usage) in [
        ("tandemadm up -c f", "Usage: tandemadm up [OPTIONS] <TARGET>...\n"),
        ("tandemadm resize --size 8", "Usage: tandemadm resize [OPTIONS] <TARGET>...\n"),
        ("tandemadm device attach -c f", "Usage: tandemadm device attach [OPTIONS] <VOLUME>\n"),
    ] {
        let answer = parsed(line).unwrap_err();
        assert!(answer.text.contains(usage), "{}", answer.text);
    }
}

#[test]
fn no_text_of_the_help_has_a_hole() {
    fn texts(command: &clap::Command, all: &mut Vec<String>) {
        let own = [command.get_about(), command.get_long_about(), command.get_after_help()];
        all.extend(own.into_iter().flatten().map(ToString::to_string));
        let arguments = command.get_arguments().filter_map(clap::Arg::get_help);
        all.extend(arguments.map(ToString::to_string));
        command.get_subcommands().for_each(|one| texts(one, all));
    }
    let mut all = Vec::new();
    texts(&command(), &mut all);
    texts(&crate::attach::command(), &mut all);
    assert!(all.len() > 100, "{}", all.len());
    for text in all {
        assert!(!text.contains("  ") && text.trim() == text, "{text:?}");
    }
}

#[test]
fn verbs_that_are_not_built_are_named() {
    for word in ["set-gi", "events", "sh-list-adjustable", "hidden-commands"] {
        assert!(NOT_SUPPORTED.iter().any(|(one, _)| *one == word), "{word}");
    }
    for (word, instead) in NOT_SUPPORTED {
        let answer = parsed(&format!("tandemadm {word} r0")).unwrap_err();
        assert_eq!(answer.exit_code, 10, "{word}");
        let says = format!("tandemadm: '{word}' is not supported");
        assert!(answer.text.starts_with(&says), "{}", answer.text);
        assert!(answer.text.trim_end().ends_with(instead), "{}", answer.text);
    }
}

#[test]
fn asking_for_more_than_all_is_asking_for_all() {
    for line in ["-vv r0", "-v -v r0", "-v --verbose r0", "--verbose -v r0"] {
        let parsed = parsed(&format!("tandemadm status {line}")).unwrap();
        let Verb::Status { verbose, .. } = parsed.verb else { panic!("{line}") };
        assert!(verbose, "{line}");
    }
}

#[test]
fn version_and_help_are_answers() {
    let version = parsed("tandemadm --version").unwrap_err();
    assert_eq!((version.exit_code, version.is_error), (0, false));
    assert!(version.text.contains("TANDEM_VERSION="));
    assert_eq!(parsed("tandemadm --help").unwrap_err().exit_code, 0);
    assert_eq!(parsed("tandemadm primary --help").unwrap_err().exit_code, 0);
}

#[test]
fn status_events_and_why_need_no_target() {
    for line in ["tandemadm status", "tandemadm events2 --now", "tandemadm why --json"] {
        assert!(parsed(line).is_ok(), "{line}");
    }
}

#[test]
fn the_state_folder_follows_the_run_folder() {
    let folder = |line: &str| parsed(line).unwrap().globals.state_dir();
    assert_eq!(folder("tandemadm status"), PathBuf::from("/var/lib/tandem"));
    assert_eq!(folder("tandemadm --run-dir /tmp/x status"), PathBuf::from("/tmp/x/state"));
    assert_eq!(folder("tandemadm --state-dir /s --run-dir /x status"), PathBuf::from("/s"));
    // Also for whoever reads it in another folder.
    let here = std::env::current_dir().unwrap();
    assert_eq!(folder("tandemadm --run-dir x status"), here.join("x/state"));
    assert_eq!(folder("tandemadm --state-dir s status"), here.join("s"));
}

#[test]
fn times_and_colours_are_understood() {
    let parsed = |line: &str| parse(format!("tandemadm {line}").split_whitespace());
    for (word, expected) in [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200)] {
        let Ok(Invocation { verb: Verb::Disconnect { for_seconds, .. }, .. }) =
            parsed(&format!("disconnect --for {word} r0"))
        else {
            panic!("{word}");
        };
        assert_eq!(for_seconds, Some(expected));
    }
    for word in ["0", "m", "1d", "-1", "1.5h", "9999999999", "169h", ""] {
        assert!(parsed(&format!("disconnect --for={word} r0")).is_err(), "{word}");
    }
    for (line, expected) in [
        ("status", When::Auto),
        ("status --color", When::Always),
        ("status --color=never r0", When::Never),
    ] {
        let Ok(Invocation { verb: Verb::Status { color, .. }, .. }) = parsed(line) else {
            panic!("{line}");
        };
        assert_eq!(color, expected, "{line}");
    }
}

/// The document for who knows DRBD.
const DRBD: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/DRBD.md"));

/// The verbs of drbdadm, drbdsetup and drbdmeta 9, and those of 8.4 that scripts still have.
const DRBDS: &[&str] = &[
    // drbdadm
    "adjust",
    "adjust-with-progress",
    "apply-al",
    "attach",
    "check-resize",
    "connect",
    "create-md",
    "cstate",
    "del-minor",
    "del-path",
    "del-peer",
    "detach",
    "disconnect",
    "disk-options",
    "down",
    "dstate",
    "dump",
    "dump-md",
    "dump-superblock",
    "dump-xml",
    "forget-peer",
    "get-gi",
    "hidden-commands",
    "invalidate",
    "invalidate-remote",
    "net-options",
    "new-current-uuid",
    "new-minor",
    "new-path",
    "new-peer",
    "new-resource",
    "outdate",
    "pause-sync",
    "peer-device-options",
    "primary",
    "proxy-down",
    "proxy-up",
    "repair-md",
    "resize",
    "resource-options",
    "resume-io",
    "resume-sync",
    "role",
    "secondary",
    "set-gi",
    "sh-dev",
    "sh-ip",
    "sh-list-adjustable",
    "sh-list-config-file",
    "sh-ll-dev",
    "sh-lr-of",
    "sh-md-dev",
    "sh-md-idx",
    "sh-minor",
    "sh-mod-parms",
    "sh-nop",
    "sh-resource",
    "sh-resources",
    "sh-udev",
    "show-gi",
    "status",
    "suspend-io",
    "unfence-peer",
    "up",
    "verify",
    "wait-con-int",
    "wait-connect",
    "wait-sync",
    "wipe-md",
    // drbdsetup
    "del-resource",
    "events2",
    "peer-role",
    "rename-resource",
    "show",
    "udev",
    "wait-connect-connection",
    "wait-connect-resource",
    "wait-connect-volume",
    "wait-sync-connection",
    "wait-sync-resource",
    "wait-sync-volume",
    // drbdmeta
    "hexdump-superblock",
    "read-dev-uuid",
    "restore-md",
    "verify-dump",
    "write-dev-uuid",
    // 8.4
    "events",
    "sh-b-pri",
    "sh-status",
    "syncer",
];

/// The verbs that are built, under each of their names.
fn built() -> Vec<String> {
    let names = |verb: &clap::Command| {
        let others = verb.get_all_aliases().map(str::to_owned);
        others.chain([verb.get_name().to_owned()]).collect::<Vec<String>>()
    };
    command().get_subcommands().flat_map(names).collect()
}

#[test]
fn every_verb_of_drbd_is_built_or_refused_by_name() {
    let built = built();
    for verb in DRBDS {
        let not_built = NOT_SUPPORTED.iter().any(|(one, _)| one == verb);
        assert!(built.iter().any(|one| one == verb) != not_built, "{verb}");
    }
    for (verb, _) in NOT_SUPPORTED {
        assert!(DRBDS.contains(verb), "{verb} is no verb of DRBD: who would type it?");
    }
}

#[test]
fn the_document_has_each_verb_once_with_what_becomes_of_it() {
    let verbs = DRBD.split("## Verbs").nth(1).and_then(|text| text.split("\n## ").next());
    let rows: Vec<Vec<&str>> = verbs
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|row| row.split('|').map(|cell| cell.trim().trim_end_matches('`')).collect())
        .collect();
    let built = built();
    let not_built = NOT_SUPPORTED.iter().map(|(verb, _)| (*verb).to_owned());
    for verb in built.iter().cloned().chain(not_built) {
        let found: Vec<_> = rows.iter().filter(|row| row[0] == verb).collect();
        let [row] = found[..] else { panic!("{verb}: {found:?}") };
        let words: &[&str] = match (built.contains(&verb), DRBDS.contains(&verb.as_str())) {
            (true, true) => &["as DRBD", "differs"],
            (true, false) => &["ours"],
            (false, _) => &["not there"],
        };
        assert!(words.contains(&row[1]), "{verb}: {}", row[1]);
        assert!(row[1] != "differs" || !row[2].is_empty(), "{verb}: in what?");
        // What is typed instead is said in the same words.
        let said = NOT_SUPPORTED.iter().find(|(one, _)| *one == verb);
        let same = said.is_none_or(|(_, instead)| instead.trim_end_matches('`') == row[2]);
        assert!(same, "{verb}: {said:?}");
    }
    assert_eq!(rows.len(), built.len() + NOT_SUPPORTED.len(), "a verb that is none");
}
