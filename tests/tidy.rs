//! The house rules that no compiler checks, over every file of the source tree.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms that must run the same in the simulator as in the daemon: no files, network, threads,
/// clocks, random sources, `unsafe`.
const PURE: &[&str] = &[
    "src/resource/",
    "src/wire/",
    "src/meta/",
    "src/sim/",
    "src/config/",
    "src/secret/",
    "src/attach/",
    "src/compat/",
    "nbd/src/",
];
/// What pure rooms do not mention, as whole words.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::thread",
    "std::process",
    "std::env",
    "Instant",
    "SystemTime",
    "rand",
    "getrandom",
    "tokio",
    "tokio_uring",
    "io_uring",
    "nix",
    "libc",
    "unsafe",
];
/// Plain data of `std::net`, which the config is made of.
const ADDRESSES: &[&str] =
    &["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "SocketAddrV4", "SocketAddrV6"];
/// The only files with `unsafe`: of the program, and the ioctl that makes a tap for the torture.
const UNSAFE: &[&str] = &["src/io/ring.rs", "src/io/buffer.rs", "tools/src/bin/torture/tap.rs"];
/// Longest file, lines; and for tables of tests.
const LINES_MAX: usize = 700;
const TEST_LINES_MAX: usize = 1000;

/// A file of the tree: its path from the root, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
    fn is_tests(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }
    /// The code: without comments, strings, and the tests at the end.
    fn code(&self) -> String {
        let code = code(&self.text);
        let tests = code.find("#[cfg(test)]\nmod tests {").unwrap_or(code.len());
        code[..tests].to_owned()
    }
}

/// Every text file of the tree, apart from what is built.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    let mut folders = vec![PathBuf::from(root)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_symlink() || matches!(name, "target" | ".git") {
                continue;
            } else if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let path = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                sources.push(Source { path, text });
            }
        }
    }
    assert!(sources.iter().any(|source| source.path == "src/lib.rs"));
    sources
}

/// Rust without comments and without what strings and characters hold; lines stay lines.
fn code(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if c == '"' {
            string(rest)
        } else if let Some(length) = raw_string(&out, rest) {
            length
        } else if let Some(length) = character(rest) {
            length
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        out.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
        out.push(' ');
        rest = &rest[skipped..];
    }
    out
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

fn string(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// The length of `r"..."` or `r#"..."#` at the start of `text`.
fn raw_string(before: &str, text: &str) -> Option<usize> {
    let in_word =
        before.ends_with(|c: char| c.is_alphanumeric() || c == '_') && !before.ends_with('b');
    let after = text.strip_prefix('r').filter(|_| !in_word)?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(body.find(&end).map_or(text.len(), |at| 2 + hashes + at + end.len()))
}

/// The length of a character literal at the start of `text`; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    if let Some(escape) = body.strip_prefix('\\') {
        let first = escape.chars().next()?.len_utf8();
        return escape[first..].find('\'').map(|at| 3 + first + at);
    }
    let c = body.chars().next()?;
    body[c.len_utf8()..].starts_with('\'').then_some(2 + c.len_utf8())
}

/// Where `word` stands as a whole word, and the code from there.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).filter_map(move |(at, _)| {
        let after = &code[at + word.len()..];
        let whole = !code[..at].ends_with(part_of_word) && !after.starts_with(part_of_word);
        whole.then(|| (code[..at].matches('\n').count() + 1, after))
    })
}

/// The names that a path goes on with: `::Name` or `::{A, B}`.
fn names(after: &str) -> Vec<&str> {
    let Some(rest) = after.strip_prefix("::") else { return vec![""] };
    let word_end =
        |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    match rest.strip_prefix('{') {
        Some(list) => {
            let list = &list[..list.find('}').unwrap_or(list.len())];
            list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect()
        }
        None => vec![&rest[..word_end(rest)]],
    }
}

fn assert_none(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

#[test]
fn pure_rooms_touch_nothing_outside() {
    let mut found = Vec::new();
    for source in sources() {
        let path = &source.path;
        // The blocking client is for tests and tools: the one file of its crate with sockets.
        if path.starts_with("nbd/src/client") {
            continue;
        }
        if !source.is_rust() || source.is_tests() || !PURE.iter().any(|room| path.starts_with(room))
        {
            continue;
        }
        let code = source.code();
        for word in IMPURE {
            for (line, after) in words(&code, word) {
                let data = ["src/config/", "src/compat/"].iter().any(|room| path.starts_with(room))
                    && *word == "std::net"
                    && names(after).iter().all(|name| ADDRESSES.contains(name));
                if !data {
                    found.push(format!("{path}:{line}: {word}"));
                }
            }
        }
        for (line, after) in words(&code, "std") {
            for name in names(after) {
                let name = name.split("::").next().unwrap_or(name);
                if after.starts_with("::{") && matches!(name, "fs" | "net" | "thread" | "env") {
                    found.push(format!("{path}:{line}: std::{name}"));
                }
            }
        }
    }
    assert_none(&found, "a pure room reaches out");
}

#[test]
fn unsafe_stands_in_two_files_and_a_tool() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        if !UNSAFE.contains(&source.path.as_str()) {
            let code = code(&source.text);
            found.extend(words(&code, "unsafe").map(|(line, _)| format!("{}:{line}", source.path)));
        }
    }
    assert_none(&found, "`unsafe` outside its files");
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut found = Vec::new();
    for Source { path, text } in sources() {
        if !path.ends_with(".rs") {
            continue;
        }
        let lines = text.lines().count();
        let max = if path.ends_with("/tests.rs") { TEST_LINES_MAX } else { LINES_MAX };
        if lines > max {
            found.push(format!("{path}: {lines} lines, {max} at most: split it along its ideas"));
        }
        if !text.starts_with("//!") {
            found.push(format!("{path}: open it with `//!`: what it is, and its invariants"));
        }
    }
    assert_none(&found, "files");
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not find itself.
    let marks = [concat!("FIX", "ME"), concat!("XX", "X")];
    let macros = ["todo", "unimplemented", "dbg"];
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        let code = code(&source.text);
        for name in macros {
            let calls = words(&code, name).filter(|(_, after)| after.starts_with('!'));
            found.extend(calls.map(|(line, _)| format!("{}:{line}: {name}!", source.path)));
        }
        for mark in marks {
            found.extend(
                words(&source.text, mark)
                    .map(|(line, _)| format!("{}:{line}: {mark}", source.path)),
            );
        }
    }
    assert_none(&found, "left for later");
}

#[test]
fn tests_wait_for_states_and_never_sleep() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        if source.path.starts_with("tests/") || source.is_tests() {
            let code = code(&source.text);
            let sleeps = words(&code, "sleep").filter(|(_, after)| after.starts_with('('));
            found.extend(sleeps.map(|(line, _)| format!("{}:{line}", source.path)));
        }
    }
    assert_none(&found, "a test sleeps");
}

#[test]
fn tests_that_the_documents_name_exist() {
    let sources = sources();
    let exists = |name: &str| {
        let (definition, file) = (format!("fn {name}("), format!("tests/daemon/{name}.rs"));
        sources.iter().any(|source| {
            source.path == file || (source.is_rust() && source.text.contains(&definition))
        })
    };
    let named: Vec<&str> = document(&sources, "docs/TESTING.md")
        .lines()
        .filter(|line| line.starts_with('|'))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .filter(|word| word.contains('_') && word.chars().all(|c| c.is_alphanumeric() || c == '_'))
        .collect();
    assert!(named.len() > 30, "{}", named.len());
    let missing: Vec<String> =
        named.iter().filter(|name| !exists(name)).map(|name| (*name).to_owned()).collect();
    assert_none(&missing, "docs/TESTING.md names tests that do not exist");
}

/// The text of a document.
fn document<'a>(sources: &'a [Source], path: &str) -> &'a str {
    &sources.iter().find(|source| source.path == path).unwrap().text
}

/// What stands between backticks in the first cells of tables, with the heading above.
fn listed(text: &str) -> Vec<(&str, &str)> {
    let (mut heading, mut found) = ("", Vec::new());
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            heading = title;
        } else if let Some(row) = line.strip_prefix("| ") {
            let cell = row.split(" | ").next().unwrap_or(row);
            found.extend(cell.split('`').skip(1).step_by(2).map(|name| (heading, name)));
        }
    }
    found
}

#[test]
fn the_architecture_has_every_file_once() {
    let sources = sources();
    let listed = listed(document(&sources, "docs/ARCHITECTURE.md"));
    let mut found = Vec::new();
    let mut count = 0;
    for source in &sources {
        let Some(path) = source.path.strip_suffix(".rs") else { continue };
        let last = path.rsplit('/').next().unwrap_or(path);
        if source.is_tests() || matches!(last, "mod" | "lib") || path.starts_with("src/bin/") {
            continue;
        }
        let rooms = listed.iter().filter(|(heading, name)| {
            heading.split(", ").any(|room| {
                let (parent, short) = room.rsplit_once('/').unwrap_or(("", room));
                format!("{room}/{name}") == path
                    || (name.starts_with(&format!("{short}/"))
                        && format!("{parent}/{name}") == path)
            })
        });
        if path.starts_with("src/") || path.starts_with("nbd/src/") {
            count += 1;
            let times = rooms.count();
            if times != 1 {
                found.push(format!("{path}: {times} times"));
            }
        }
    }
    let files = listed.iter().filter(|(heading, _)| !heading.is_empty()).count();
    if files != count {
        found.push(format!("{files} names for {count} files"));
    }
    assert_none(&found, "docs/ARCHITECTURE.md, \"The files\"");
}

#[test]
fn the_test_manual_has_every_file_of_tests() {
    let sources = sources();
    let manual = document(&sources, "docs/TESTING.md");
    let missing: Vec<String> = sources
        .iter()
        .filter_map(|source| source.path.strip_suffix(".rs"))
        .filter(|path| {
            path.rsplit_once('/').is_some_and(|(folder, last)| {
                let named = [format!("`{last}`"), format!("`{path}.rs`")];
                matches!(folder, "tests" | "tests/daemon")
                    && !named.iter().any(|name| manual.contains(name.as_str()))
            })
        })
        .map(str::to_owned)
        .collect();
    assert_none(&missing, "docs/TESTING.md does not name");
}

/// Folders that every system has at its root; below them a path says nothing of one machine.
const STANDARD: &[&str] = &[
    "bin", "boot", "dev", "etc", "lib", "media", "mnt", "opt", "proc", "run", "sbin", "srv", "sys",
    "tmp", "usr", "var",
];

/// Where developers have their files: homes, and the folder at the root that this tree lies in,
/// where it is none that every system has.
fn private_folders() -> Vec<String> {
    let mut folders = vec![concat!("/ro", "ot/").to_owned(), concat!("/ho", "me/").to_owned()];
    let first = Path::new(env!("CARGO_MANIFEST_DIR")).components().nth(1);
    let first = first.and_then(|folder| folder.as_os_str().to_str());
    let own = first.filter(|folder| !STANDARD.contains(folder));
    folders.extend(own.map(|folder| format!("/{folder}/")));
    folders
}

#[test]
fn no_file_names_a_developers_machine() {
    let paths = private_folders();
    let mut found = Vec::new();
    for Source { path, text } in sources() {
        for (line, number) in text.lines().zip(1..) {
            for start in &paths {
                // Where it stands inside of a longer path it is another folder.
                let own = line.match_indices(start).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || "-_./}".contains(c))
                });
                if own {
                    found.push(format!("{path}:{number}: {start}"));
                }
            }
        }
    }
    assert_none(&found, "a path of one machine");
}

#[test]
fn every_dependency_has_its_reason() {
    let mut found = Vec::new();
    let manifests = sources().into_iter().filter(|source| source.path.ends_with("Cargo.toml"));
    for Source { path, text } in manifests {
        let mut section = "";
        let mut before = "";
        for (line, number) in text.lines().zip(1..) {
            if line.starts_with('[') {
                section = line;
            } else if section.contains("dependencies") && line.contains('=') {
                let shared = line.contains("workspace = true") || line.contains("path = ");
                if !shared && !before.starts_with('#') {
                    found.push(format!("{path}:{number}: {line}"));
                }
            }
            before = line;
        }
    }
    assert_none(&found, "write above the dependency what it is for");
}

/// What a unit says that keeps its daemon from disks; ProtectClock= does so up to systemd 252.
const CLOSED: &[&str] = &[
    "PrivateDevices=",
    "ProtectClock=",
    "DeviceAllow=",
    "DevicePolicy=",
    "ProtectHome=",
    "PrivateUsers=",
    "RootDirectory=",
    "SystemCallFilter=",
];

#[test]
fn the_daemons_unit_leaves_devices_and_folders_open() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.path.ends_with("tandemd.service")) {
        let settings = source.text.lines().filter(|line| !line.starts_with('#'));
        let closed = |line: &&str| CLOSED.iter().any(|setting| line.starts_with(setting));
        found.extend(settings.filter(closed).map(|line| format!("{}: {line}", source.path)));
    }
    assert_none(&found, "a disk could not be opened");
}

#[test]
fn the_daemon_starts_before_a_cluster_and_stops_after_it() {
    let mut found = Vec::new();
    let units = ["debian/tandemd.service", "debian/tandem@.service"];
    for source in sources().iter().filter(|s| units.iter().any(|unit| s.path.ends_with(unit))) {
        let before = source.text.lines().filter_map(|line| line.strip_prefix("Before="));
        let names: Vec<&str> = before.flat_map(str::split_whitespace).collect();
        let lacks = |name: &&str| !names.contains(name);
        let cluster = ["pacemaker.service", "pacemaker_remote.service"].into_iter();
        found.extend(cluster.filter(lacks).map(|name| format!("{}: {name}", source.path)));
    }
    assert_none(&found, "a shutdown takes the device from under the cluster's resources");
}

#[test]
fn the_checks_see_code_only() {
    let text =
        "/* a /* b */ c */ x 'y' '\\'' '\\u{41}' \"s \\\" t\" r#\"u \" v\"# b\"w\" // z\n'a q";
    let code = code(text);
    let left: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(left, ["x", "b", "'a", "q"]);
    assert_eq!(words("unsafe_x an_unsafe unsafe{", "unsafe").count(), 1);
    assert_eq!(names("::{IpAddr, TcpStream};"), ["IpAddr", "TcpStream"]);
    assert_eq!(names("::SocketAddr,"), ["SocketAddr"]);
}
