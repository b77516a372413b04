//! Tasks of docs/OPERATIONS.md, taken out of the document and run on a pair.
//!
//! A block that begins with three backquotes and `console NAME` is a task. A line `NODE# COMMAND` is a
//! shell command on that node, or on `both`, which has to succeed. Lines that begin with eight blanks
//! under it are what it prints: `...` stands for any text, and as a line for any lines. Only paths and
//! addresses are put in the place of others.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::pair::{Node, Pair, Said, run, text};

/// A command of a task.
struct Line {
    node: String,
    command: String,
    /// What is printed under it.
    printed: Vec<String>,
}

/// The lines of a task.
fn task(name: &str) -> Vec<Line> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATIONS.md");
    let document = fs::read_to_string(path).expect("the document");
    let fence = format!("```console {name}");
    let block = document.lines().skip_while(|line| *line != fence).skip(1);
    let mut lines: Vec<Line> = Vec::new();
    for line in block.take_while(|line| !line.starts_with("```")) {
        if let Some(printed) = line.strip_prefix("        ") {
            lines.last_mut().expect("a command is first").printed.push(printed.to_owned());
            continue;
        }
        let (node, command) = line.split_once('#').unwrap_or_else(|| panic!("{name}: {line}"));
        assert!(["alice", "bob", "both"].contains(&node), "{name}: {line}");
        let (node, command) = (node.to_owned(), command.trim().to_owned());
        lines.push(Line { node, command, printed: Vec::new() });
    }
    assert!(!lines.is_empty(), "docs/OPERATIONS.md has no task {name}");
    lines
}

/// Whether a text is as it is printed in the document.
fn is_as_printed(text: &[&str], printed: &[String]) -> bool {
    match printed.split_first() {
        None => text.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=text.len()).any(|skipped| is_as_printed(&text[skipped..], rest))
        }
        Some((first, rest)) => text
            .split_first()
            .is_some_and(|(line, more)| is_line(line, first) && is_as_printed(more, rest)),
    }
}

/// Whether a line is as printed, `...` being any text.
fn is_line(line: &str, printed: &str) -> bool {
    match printed.split_once("...") {
        None => line == printed,
        Some((front, rest)) => line.strip_prefix(front).is_some_and(|line| {
            let starts = line.char_indices().map(|(at, _)| at).chain([line.len()]);
            starts.into_iter().any(|at| is_line(&line[at..], rest))
        }),
    }
}

#[test]
fn three_points_are_any_text_and_as_a_line_any_lines() {
    let printed = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    let text = ["r0 role:Primary", "  disk:UpToDate open:no", "  bob"];
    for yes in [
        &["r0 role:Primary", "  disk:... open:no", "  bob"][..],
        &["r0 ...", "..."],
        &["...", "  bob"],
        &["...", "  disk:UpToDate open:no...", "..."],
    ] {
        assert!(is_as_printed(&text, &printed(yes)), "{yes:?}");
    }
    for no in [&["r0 role:Primary"][..], &["...", "  alice"], &["r0 role:Secondary", "..."], &[]] {
        assert!(!is_as_printed(&text, &printed(no)), "{no:?}");
    }
}

/// A pair on which tasks are run.
pub(crate) struct Stage {
    pub(crate) pair: Pair,
    /// Where the task's files are.
    pub(crate) folder: PathBuf,
    /// What stands for something else: as printed, and here.
    pub(crate) places: Vec<(String, String)>,
}

impl Stage {
    pub(crate) fn new(pair: Pair) -> Self {
        let folder = pair.dir.path().join("work");
        for name in ["truck", "backup", "look"] {
            fs::create_dir_all(folder.join(name)).expect("a folder");
        }
        let stage = Self { pair, folder, places: Vec::new() };
        for node in [&stage.pair.alice, &stage.pair.bob] {
            stage.wrap(node);
        }
        stage
    }

    /// `tandemadm` as it is installed on the node.
    fn wrap(&self, node: &Node) {
        let folder = self.folder.join(node.name);
        fs::create_dir_all(&folder).expect("a folder");
        let script = format!(
            "#!/bin/sh\nexec {} --node {} --run-dir {} -c {} \"$@\"\n",
            env!("CARGO_BIN_EXE_tandemadm"),
            node.name,
            node.run_dir.display(),
            node.config.display()
        );
        let file = folder.join("tandemadm");
        fs::write(&file, script).expect("a script");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }

    fn shell(&self, node: &Node, command: &str) -> Said {
        let mut command = command.to_owned();
        let image = node.disk.with_file_name("r0-backup.img");
        let places = [
            ("/var/lib/tandem/r0.img", text(&node.disk)),
            ("/var/lib/tandem/r0-backup.img", text(&image)),
            ("/mnt/truck", text(&self.folder.join("truck"))),
            ("/mnt/backup", text(&self.folder.join("backup"))),
            ("/mnt/look", text(&self.folder.join("look"))),
            ("/run/tandem/", &format!("{}/", node.run_dir.display())),
            ("/etc/tandem.d/r0.res", text(&node.config)),
        ]
        .map(|(printed, here)| (printed.to_owned(), here.to_owned()));
        for (printed, here) in places.iter().chain(&self.places) {
            command = command.replace(printed, here);
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).current_dir(&self.folder);
        // `run` puts more behind the path of this process, not before it.
        let path = format!("PATH={}:{path}:/usr/sbin:/sbin", self.folder.join(node.name).display());
        let mut within = Command::new("env");
        within.arg(path).arg(shell.get_program()).args(shell.get_args());
        within.current_dir(&self.folder);
        run(&mut within)
    }

    /// Runs a task; `between` after each line, with its command.
    pub(crate) fn run_with(&mut self, name: &str, mut between: impl FnMut(&mut Pair, &str)) {
        for Line { node: who, command, printed } in task(name) {
            for node in ["alice", "bob"] {
                if who != node && who != "both" {
                    continue;
                }
                let node = if node == "alice" { &self.pair.alice } else { &self.pair.bob };
                let said = self.shell(node, &command);
                assert_eq!(said.code, 0, "{name}: {who}# {command}: {said:?}");
                let lines: Vec<&str> = said.stdout.lines().collect();
                assert!(
                    printed.is_empty() || is_as_printed(&lines, &printed),
                    "{name}: {who}# {command}: printed {printed:#?}, and it was {lines:#?}"
                );
            }
            between(&mut self.pair, &command);
        }
    }

    pub(crate) fn run(&mut self, name: &str) {
        self.run_with(name, |_, _| ());
    }

    pub(crate) fn why(&self, node: &Node, what: &str) {
        let why = node.ok(&["why", "r0"]);
        assert!(why.contains(what), "{what} in\n{why}");
    }
}
