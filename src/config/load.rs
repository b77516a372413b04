//! The files of a config: the first one, what it includes, and their top level.

use std::collections::{BTreeMap, BTreeSet};

use super::claims::Claims;
use super::define::{Shared, define, written_minors};
use super::draft::{Draft, Reader, read_options};
use super::finding::{Pos, Report, Scope};
use super::glob::is_pattern;
use super::option_table::{Effect, OPTIONS, Section, Spec, Value};
use super::setting::{Level, exactly, read_section, suggestion};
use super::syntax::{Statement, parse};
use super::token::{Word, tokens};
use super::{Config, Files, resync_after};

/// Largest config file, bytes.
pub const FILE_MAX: usize = 1 << 20;
/// Most files that one config may consist of.
const FILES_MAX: u32 = 4096;
/// Deepest chain of includes.
const INCLUDES_MAX: usize = 16;

const TOP_WORDS: &[&str] = &["resource", "common", "global", "include", "skip"];
const COMMON_WORDS: &[&str] =
    &["net", "disk", "options", "startup", "handlers", "syncer", "protocol"];

/// Loads the config that starts at `path`.
#[must_use]
pub fn load(files: &dyn Files, path: &str) -> Config {
    let mut loader = Loader {
        files,
        report: Report::default(),
        read: BTreeSet::new(),
        open: Vec::new(),
        top: Vec::new(),
    };
    loader.file(path, None);
    let Loader { mut report, top, .. } = loader;
    let mut common = Level::new();
    let mut drafts: Vec<Draft> = Vec::new();
    let mut reader = Reader::default();
    let mut names: BTreeMap<String, Pos> = BTreeMap::new();
    for File { statements, broken } in top {
        for statement in statements {
            if let Some((name, body)) = resource(&statement, &mut report) {
                if broken {
                    report.refuse(&name.text);
                }
                if let Some(first) = names.insert(name.text.clone(), name.at) {
                    let text = format!("a second resource {}", name.text);
                    let hint = format!("rename one; the other is at {}", report.place(first));
                    report.error(name.at, Scope::Resource(&name.text), text, hint);
                }
                drafts.push(reader.resource(name, body, statement.damaged || broken, &mut report));
            } else {
                top_statement(&statement, &mut common, &mut report);
            }
        }
    }
    let minors = drafts.iter().flat_map(written_minors).collect();
    let (claims, afters) = (Claims::default(), Vec::new());
    let mut shared = Shared { common: &common, claims, minors, next_minor: 0, afters };
    let defined: Vec<_> =
        drafts.iter().map(|draft| define(draft, &mut shared, &mut report)).collect();
    resync_after::check(&drafts, &shared.afters, &mut report);
    let mut config = Config::default();
    let mut refused = BTreeSet::new();
    for (draft, definition) in drafts.iter().zip(defined) {
        match definition {
            Some(definition) if !report.is_refused(&draft.name) => {
                config.resources.push(definition);
            }
            // A name that is given twice is refused once.
            _ if refused.insert(&draft.name) => config.refused.push(draft.name.clone()),
            _ => {}
        }
    }
    config.findings = report.finish();
    config
}

/// The statements of a file, or of the part of one between two includes.
struct File {
    statements: Vec<Statement>,
    broken: bool,
}

struct Loader<'a> {
    files: &'a dyn Files,
    report: Report,
    /// Files that have been read, by their one name: a second include of one says nothing new, as in
    /// DRBD.
    read: BTreeSet<String>,
    /// The chain of includes that is being read, by the same names.
    open: Vec<String>,
    top: Vec<File>,
}

impl Loader<'_> {
    /// Reads a file and what it includes; `included`: the word that names it.
    fn file(&mut self, path: &str, included: Option<&Word>) {
        let text = match self.files.read(path) {
            Ok(text) if text.len() > FILE_MAX => Err(format!("larger than {FILE_MAX} bytes")),
            other => other,
        };
        let text = match text {
            Ok(text) => text,
            Err(why) => {
                let at = match included {
                    Some(word) => word.at,
                    None => Pos { file: self.report.add_source(path, ""), line: 0, column: 0 },
                };
                let text = format!("cannot read {path}: {why}");
                self.report.error(at, Scope::All, text, "");
                return;
            }
        };
        let file = self.report.add_source(path, &text);
        if self.files.is_public(path) {
            self.report.set_public(file);
        }
        let name = self.files.canonical(path);
        self.read.insert(name.clone());
        self.open.push(name);
        let (tokens, clean) = tokens(file, &text, &mut self.report);
        let parsed = parse(tokens, &mut self.report);
        let broken = parsed.broken || !clean || parsed.statements.iter().any(is_left_over);
        if broken && !parsed.statements.iter().all(is_apart) {
            self.report.refuse_all();
        }
        let mut statements = Vec::new();
        for statement in parsed.statements {
            if statement.keyword() == "include" {
                self.top.push(File { statements: std::mem::take(&mut statements), broken });
                self.include(&statement, path);
            } else {
                statements.push(statement);
            }
        }
        self.top.push(File { statements, broken });
        self.open.pop();
    }

    fn include(&mut self, statement: &Statement, from: &str) {
        if statement.body.is_some() {
            let hint = "write: include \"FILE\";";
            self.report.error(statement.at(), Scope::All, "`include` is no section", hint);
            return;
        }
        if let Err(wrong) = exactly(statement, 1, "\"FILE\"") {
            self.report.error(wrong.at, Scope::All, wrong.text, wrong.hint);
            return;
        }
        let word = &statement.arguments()[0];
        let path = beside(from, &word.text);
        if self.open.len() >= INCLUDES_MAX {
            let text = format!("more than {INCLUDES_MAX} files include each other");
            self.report.error(word.at, Scope::All, text, "include it in the first file");
            return;
        }
        let paths = if is_pattern(&path) {
            match self.files.glob(&path) {
                Ok(mut paths) => {
                    paths.sort();
                    paths
                }
                Err(why) => {
                    let text = format!("cannot list {path}: {why}");
                    self.report.error(word.at, Scope::All, text, "");
                    return;
                }
            }
        } else {
            vec![path]
        };
        for path in paths {
            let name = self.files.canonical(&path);
            if self.open.contains(&name) {
                let text = format!("{path} includes itself");
                self.report.error(word.at, Scope::All, text, "remove this line");
            } else if self.read.len() >= FILES_MAX as usize {
                let text = format!("more than {FILES_MAX} files");
                self.report.error(word.at, Scope::All, text, "include fewer");
                return;
            } else if !self.read.contains(&name) {
                self.file(&path, Some(word));
            }
        }
    }
}

/// Whether a statement says nothing about the resources of other files: if a file of such
/// statements is broken, the others go on.
fn is_apart(statement: &Statement) -> bool {
    matches!(statement.keyword(), "resource" | "skip") || is_left_over(statement)
}

/// Whether a statement at the top of a file belongs into a resource: a `}` too many is above it.
fn is_left_over(statement: &Statement) -> bool {
    matches!(
        (statement.keyword(), &statement.body),
        ("on" | "volume" | "connection" | "connection-mesh" | "floating", Some(_))
            | ("device" | "disk" | "meta-disk" | "flexible-meta-disk", None)
    )
}

/// A path as written in file `from`: relative paths start in its folder.
fn beside(from: &str, path: &str) -> String {
    match from.rsplit_once('/') {
        Some((folder, _)) if !path.starts_with('/') => format!("{folder}/{path}"),
        _ => path.to_owned(),
    }
}

/// The name and body of a `resource` section.
fn resource<'a>(
    statement: &'a Statement,
    report: &mut Report,
) -> Option<(&'a Word, &'a [Statement])> {
    if statement.keyword() != "resource" {
        return None;
    }
    let (Some(name), Some(body)) = (statement.arguments().first(), &statement.body) else {
        let end = statement.words[statement.words.len() - 1].end;
        report.error(
            end,
            Scope::Nothing,
            "a resource without a section",
            "write: resource NAME { ... }",
        );
        return None;
    };
    if let Some(extra) = statement.arguments().get(1) {
        let text = format!("`{}` is too much here", extra.text);
        let hint = "write: resource NAME { ... }";
        report.error(extra.at, Scope::Resource(&name.text), text, hint);
    }
    Some((name, body))
}

/// `common`, `global`, `skip`, and what is unknown.
fn top_statement(statement: &Statement, common: &mut Level, report: &mut Report) {
    let (at, keyword) = (statement.at(), statement.keyword());
    if let ("common" | "global", Some(extra)) = (keyword, statement.arguments().first()) {
        let text = format!("`{}` is too much here", extra.text);
        report.error(extra.at, Scope::All, text, format!("write: {keyword} {{ ... }}"));
    }
    match (keyword, &statement.body) {
        ("common", Some(body)) => {
            for inner in body {
                if read_options(inner, COMMON_WORDS, Scope::All, common, report) {
                    continue;
                }
                let (at, keyword) = (inner.at(), inner.keyword());
                let hint = if COMMON_WORDS.contains(&keyword) {
                    format!("write: {keyword} {{ ... }}")
                } else {
                    suggestion(report, keyword, COMMON_WORDS.iter().copied())
                };
                report.error(at, Scope::All, format!("unknown word `{keyword}` in common"), hint);
            }
        }
        ("global", Some(body)) => global(body, report),
        // Reported by `resource`, or skipped as asked.
        ("resource", _) | ("skip", Some(_)) => {}
        ("common" | "global" | "skip", None) => {
            let hint = format!("write: {keyword} {{ ... }}");
            report.error(at, Scope::All, format!("`{keyword}` is a section"), hint);
        }
        _ if is_left_over(statement) => {
            let text = format!("`{keyword}` stands outside a resource");
            report.error(at, Scope::Nothing, text, "is a `}` above it too many?");
        }
        _ if keyword.starts_with("require-drbd-module-version-") => {
            let text = format!("{keyword}: no effect, there is no kernel module");
            report.warning(at, Scope::Nothing, text, "remove it");
        }
        _ => {
            // It may be a misspelt `common`: what is in force is not known.
            let hint = suggestion(report, keyword, TOP_WORDS.iter().copied());
            report.error(at, Scope::All, format!("unknown word `{keyword}`"), hint);
        }
    }
}

/// `global`: nothing in it acts; what differs from what Tandem does is told.
fn global(body: &[Statement], report: &mut Report) {
    let mut level = Level::new();
    read_section(Section::Global, body, Scope::Nothing, &mut level, report);
    for Spec { name, effect, .. } in OPTIONS.iter().filter(|spec| spec.section == Section::Global) {
        let (Some(setting), Effect::Harmless(silent, why)) = (level.get(name), effect) else {
            continue;
        };
        if setting.value != Value::Bad && !silent.contains(&setting.value.text().as_str()) {
            let text = format!("{name} {}: {why}", setting.written).replace(" :", ":");
            report.warning(setting.at, Scope::Nothing, text, "remove it");
        }
    }
}
