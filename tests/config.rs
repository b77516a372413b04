//! Config files in, definitions and findings out: the cases in `tests/cases/config`, and random
//! text that must never panic.
//!
//! `UPDATE=1 cargo test --test config` rewrites the expected halves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{env, fs};

use proptest::prelude::*;
use tandem::config::{Config, Definition, Files, Severity, dump, load, matches};
use tandem::io::config_files::ConfigFiles;

/// Files in memory.
struct Memory(BTreeMap<String, String>);

impl Files for Memory {
    fn read(&self, path: &str) -> Result<String, String> {
        self.0.get(path).cloned().ok_or_else(|| "No such file or directory".to_owned())
    }
    fn glob(&self, pattern: &str) -> Result<Vec<String>, String> {
        let parts: Vec<&str> = pattern.split('/').collect();
        let fits = |path: &&String| {
            let names: Vec<&str> = path.split('/').collect();
            names.len() == parts.len() && parts.iter().zip(names).all(|(p, n)| matches(p, n))
        };
        Ok(self.0.keys().filter(fits).cloned().collect())
    }
}

fn loaded(text: &str) -> Config {
    load(&Memory([("t.conf".to_owned(), text.to_owned())].into()), "t.conf")
}

/// A resource r0 of alice and bob on volume 0, with more statements in it.
fn pair(more: &str) -> String {
    format!(
        "resource r0 {{\n{more}\nvolume 0 {{ device minor 0; disk /d0; }}\n\
         on alice {{ address 10.0.0.1:7789; }}\non bob {{ address 10.0.0.2:7789; }}\n}}\n"
    )
}

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/config")
}

/// Loads a case with names relative to the cases' folder.
fn case(path: &str) -> Config {
    struct Below(PathBuf);
    impl Files for Below {
        fn read(&self, path: &str) -> Result<String, String> {
            ConfigFiles.read(self.0.join(path).to_str().unwrap())
        }
        fn glob(&self, pattern: &str) -> Result<Vec<String>, String> {
            let all = ConfigFiles.glob(self.0.join(pattern).to_str().unwrap())?;
            let root = format!("{}/", self.0.display());
            Ok(all.iter().map(|path| path.strip_prefix(&root).unwrap().to_owned()).collect())
        }
    }
    load(&Below(cases()), path)
}

/// r0, r1 and r2, with these statements in their `disk` sections.
fn three(disks: [&str; 3]) -> Config {
    let mut text = String::new();
    for (n, disk) in disks.iter().enumerate() {
        text += &format!(
            "resource r{n} {{ disk {{ {disk} }} volume 0 {{ device minor {n}; disk /d{n}; }}\n\
             on alice {{ address 10.0.0.1:{0}; }} on bob {{ address 10.0.0.2:{0}; }} }}\n",
            7789 + n
        );
    }
    loaded(&text)
}

#[test]
fn a_resync_waits_for_one_that_is_there_and_never_for_itself() {
    let good = three(["resync-after r1/0;", "resync-after r2;", "resync-after -1;"]);
    assert!(good.findings.is_empty(), "{:?}", good.findings);
    let after = |name: &str| {
        let volume = &good.resource(name).unwrap().hosts[0].volumes[&0];
        volume.resync_after.as_ref().map(ToString::to_string)
    };
    assert_eq!(after("r0").as_deref(), Some("r1/0"));
    assert_eq!(after("r1").as_deref(), Some("r2/0"));
    assert_eq!(after("r2"), None);
    let round = three(["resync-after r1/0;", "resync-after r0/0;", "resync-after r0;"]);
    assert_eq!(round.refused, ["r0", "r1"]);
    let text = round.findings[0].to_string();
    assert!(text.contains("r0/0 would wait for itself: r0/0 after r1/0 after r0/0"), "{text}");
    for (bad, why) in [
        ("resync-after r0/0;", "r0/0 would wait for itself"),
        ("resync-after r7/0;", "there is no such volume"),
        ("resync-after r1/3;", "there is no such volume"),
        ("resync-after \"a b\";", "no blanks"),
        ("resync-after r1/x;", "is no RESOURCE/VOLUME"),
    ] {
        let config = three([bad, "", ""]);
        assert_eq!(config.refused, ["r0"], "{bad}");
        let text = config.findings[0].to_string();
        assert!(text.contains(why), "{text}");
    }
}

fn without_places(config: &Config) -> Vec<Definition> {
    let mut definitions = config.resources.clone();
    for definition in &mut definitions {
        definition.source.line = 0;
        definition.source.file.clear();
        definition.written.clear();
    }
    definitions
}

/// What is printed for each case, dump and findings, stands beside it.
#[test]
fn cases_print_what_is_expected() {
    let mut seen = 0;
    for folder in ["", "people"] {
        for entry in fs::read_dir(cases().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "res") {
                continue;
            }
            seen += 1;
            let name = path.file_name().unwrap().to_str().unwrap();
            let config = case(Path::new(folder).join(name).to_str().unwrap());
            let mut text = dump(&config);
            assert_eq!(without_places(&loaded(&text)), without_places(&config), "{name}: dump");
            for finding in &config.findings {
                text += &format!("\n{finding}\n");
            }
            let expected = path.with_extension("out");
            if env::var_os("UPDATE").is_some() {
                fs::write(&expected, &text).unwrap();
            }
            assert_eq!(fs::read_to_string(&expected).unwrap_or_default(), text, "{name}");
        }
    }
    assert!(seen > 11);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Act,
    Warn,
    Refuse,
}

/// Statements whose verdict is another one than in the `.expect` files, by reason.
#[rustfmt::skip]
const OTHER_VERDICTS: &[(&str, Verdict, &[&str])] = &[
    ("/dev/drbdN is explained once for each file", Verdict::Act, &["01-minimal-84.res:28",
        "08-stacked.res:5", "09-volumes-ipv6.res:16", "10-tandem.d/mail.res:17"]),
    ("it acts: writes of the transfer log", Verdict::Act, &["01-minimal-84.res:18"]),
    ("verify has sha256 in its place", Verdict::Warn, &["10-tandem.d/global_common.conf:11"]),
    ("the resync has no controller with a plan", Verdict::Warn, &["02-nine-node-id.res:25",
        "02-nine-node-id.res:26"]),
    ("SHA-1 is weak", Verdict::Warn, &["04-linstor-proxmox.res:14",
        "10-tandem.d/global_common.conf:27"]),
    ("it acts: the size of the volume, and the least that its disk must have", Verdict::Act, &[
        "09-volumes-ipv6.res:22"]),
    ("it acts: fencing, and handlers run", Verdict::Act, &["05-pacemaker-fencing.res:8",
        "05-pacemaker-fencing.res:10", "05-pacemaker-fencing.res:16", "05-pacemaker-fencing.res:22",
        "05-pacemaker-fencing.res:23", "05-pacemaker-fencing.res:24", "05-pacemaker-fencing.res:25",
        "05-pacemaker-fencing.res:26", "05-pacemaker-fencing.res:27", "05-pacemaker-fencing.res:28",
        "05-pacemaker-fencing.res:29", "10-tandem.d/global_common.conf:15"]),
    ("it acts, and the handler that it calls is missing", Verdict::Warn, &[
        "05-pacemaker-fencing.res:12"]),
    ("it acts: the order of resyncs", Verdict::Act, &["09-volumes-ipv6.res:21"]),
    ("the section is refused where it opens", Verdict::Act, &["06-proxy-wan.res:15",
        "06-proxy-wan.res:17", "06-proxy-wan.res:24", "06-proxy-wan.res:25",
        "06-proxy-wan.res:32", "06-proxy-wan.res:33", "08-stacked.res:10", "08-stacked.res:11"]),
    ("the second of two equal addresses is named", Verdict::Act, &["06-proxy-wan.res:22"]),
    ("the resource is refused for its stacking alone", Verdict::Act, &["08-stacked.res:13",
        "08-stacked.res:14", "08-stacked.res:15", "08-stacked.res:16", "08-stacked.res:17"]),
];

/// The verdict on every statement of the files as people have them.
#[test]
fn statements_as_people_have_them_get_their_verdict() {
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for entry in fs::read_dir(cases().join("people")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "expect") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        let config = case(&format!("people/{name}.res"));
        let mut expected: BTreeMap<String, (Verdict, String)> = BTreeMap::new();
        for line in fs::read_to_string(&path).unwrap().lines() {
            let Some((place, statement)) = line.split_once('|') else { continue };
            let Some((place, verdict)) = place.trim().split_once(' ') else { continue };
            let verdict = match verdict.trim() {
                "act" => Verdict::Act,
                "warn" => Verdict::Warn,
                "refuse" => Verdict::Refuse,
                _ => continue,
            };
            if place == "RESULT" {
                continue;
            }
            let entry = expected.entry(place.to_owned()).or_insert((verdict, statement.to_owned()));
            if verdict > entry.0 {
                *entry = (verdict, statement.to_owned());
            }
        }
        for (place, (verdict, statement)) in expected {
            let here = config.findings.iter().filter(|finding| {
                format!("people/{place}") == format!("{}:{}", finding.file, finding.line)
            });
            let found = here.map(|finding| match finding.severity {
                Severity::Error => Verdict::Refuse,
                Severity::Warning => Verdict::Warn,
            });
            let found = found.max().unwrap_or(Verdict::Act);
            let other = OTHER_VERDICTS.iter().find(|row| row.2.contains(&place.as_str()));
            let wanted = other.map_or(verdict, |row| row.1);
            if other.is_some() {
                used.insert(place.clone());
            }
            if found != wanted {
                wrong.push(format!(
                    "(\"{place}\", Verdict::{found:?}, \"\"), // {wanted:?} {statement}"
                ));
            }
        }
    }
    wrong.sort();
    assert!(wrong.is_empty(), "other verdicts:\n{}", wrong.join("\n"));
    let exceptions: usize = OTHER_VERDICTS.iter().map(|row| row.2.len()).sum();
    assert_eq!(used.len(), exceptions, "each exception is needed");
}

fn word() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "resource",
        "common",
        "global",
        "include",
        "skip",
        "on",
        "volume",
        "device",
        "minor",
        "disk",
        "meta-disk",
        "internal",
        "net",
        "options",
        "connection",
        "connection-mesh",
        "host",
        "hosts",
        "path",
        "address",
        "node-id",
        "protocol",
        "C",
        "timeout",
        "al-extents",
        "none",
        "r0",
        "r1",
        "alice",
        "bob",
        "0",
        "1",
        "7",
        "99999999999999999999",
        "10.0.0.1:7789",
        "[::1]:1",
        "ipv6",
        "syncer",
        "rate",
        "after-sb-0pri",
        "discard-node-bob",
        "floating",
        "proxy",
        "{",
        "}",
        ";",
        "\"",
        "#",
        "\n",
        "t.conf",
        "*",
        "[",
        "é",
        "\t",
        "\\",
        "\"a \\\" b\\\\\"",
        "\u{fffd}",
    ];
    prop_oneof![8 => prop::sample::select(KNOWN).prop_map(str::to_owned), 1 => ".{0,6}"]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn random_text_never_panics(text in "\\PC{0,400}|[ -~\n\t]{0,400}") {
        let config = loaded(&text);
        for finding in &config.findings {
            let _ = finding.to_string();
        }
    }

    #[test]
    fn random_words_never_panic_and_what_loads_survives_dump(
        words in prop::collection::vec(word(), 0..120), cut in 0_usize..400, more in word()
    ) {
        let base = pair(&words.join(" "));
        let at = base.char_indices().map(|(at, _)| at).nth(cut).unwrap_or(0);
        let torn = format!("{}{more}{}", &base[..at], &base[at..]);
        for text in [words.join(" "), base, torn] {
            let config = loaded(&text);
            for finding in &config.findings {
                let _ = finding.to_string();
                prop_assert!(finding.line as usize <= text.lines().count() + 1);
            }
            for definition in &config.resources {
                prop_assert!(definition.check().is_ok());
            }
            let again = loaded(&dump(&config));
            prop_assert_eq!(without_places(&again), without_places(&config));
        }
    }
}

/// Where Debian's drbd-utils are: fetched by `tools/test`, or installed.
fn drbd_utils() -> Option<PathBuf> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fetched/drbd-utils");
    let roots = [fetched, PathBuf::from("/")];
    roots.into_iter().find(|root| root.join("usr/share/doc/drbd-utils/examples").is_dir())
}

/// What becomes of the resources in the example file of drbd-utils 9.22: the words of a reason.
const OF_DRBD_UTILS: [(&str, &str); 8] = [
    ("example", "a freeze is counted on"),
    ("ipv6_example_res", ""),
    ("alpha-bravo", ""),
    ("stacked_multi_volume", "cannot stand on top of another"),
    ("drbd_9_two_connection", "a resource has two hosts"),
    ("drbd_9_mesh", "there is no quorum"),
    ("drbd_9_multi_path", "only tcp exists"),
    ("dless", ""),
];

#[test]
fn the_examples_of_drbd_utils_are_taken_or_refused_with_their_reason() {
    let Some(root) = drbd_utils() else {
        println!("SKIP examples_of_drbd_utils: apt-get install drbd-utils, or run tools/test");
        return;
    };
    let load_from = |path: &str| load(&ConfigFiles, root.join(path).to_str().unwrap());
    for path in ["etc/drbd.conf", "etc/drbd.d/global_common.conf"] {
        let config = load_from(path);
        assert!(!config.has_errors(), "{path}: {:?}", config.findings);
    }
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(root.join("usr/share/doc/drbd-utils/examples")).unwrap() {
        let config = load(&ConfigFiles, entry.unwrap().path().to_str().unwrap());
        for finding in &config.findings {
            assert!(!finding.hint.is_empty() && finding.line > 0, "{finding}");
            let unknown =
                finding.text.contains("unknown word") || finding.text.contains("is missing");
            assert!(!unknown, "it is DRBD's grammar: {finding}");
        }
        for (name, reason) in OF_DRBD_UTILS {
            if config.resource(name).is_none() && !config.is_refused(name) {
                continue;
            }
            seen.insert(name);
            let refused = |finding: &&tandem::config::Finding| {
                finding.severity == Severity::Error && finding.resource.as_deref() == Some(name)
            };
            let errors: Vec<_> = config.findings.iter().filter(refused).collect();
            assert_eq!(config.resource(name).is_some(), reason.is_empty(), "{name}: {errors:?}");
            let told = errors.iter().any(|finding| finding.text.contains(reason));
            assert!(reason.is_empty() || told, "{name}: {errors:?}");
        }
    }
    let all: BTreeSet<&str> = OF_DRBD_UTILS.iter().map(|(name, _)| *name).collect();
    assert_eq!(seen, all, "another version of drbd-utils");
}
