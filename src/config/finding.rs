//! What is wrong with a config, and where.
//!
//! Invariants: what a finding refuses is recorded even when the finding itself is one too many to
//! keep; findings come out sorted by file (in the order of reading), line and column, each once.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::definition::Place;
use super::nearest::nearest;

/// Findings that are kept; the rest is counted.
const FINDINGS_MAX: usize = 1000;
/// Characters of a source line that are kept.
const LINE_MAX: usize = 240;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Something does not work as written: the resource (or file) is refused.
    Error,
    /// Something is not quite as written, and harmless; or it takes effect and voids a promise.
    Warning,
}

/// One thing that is wrong with the config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file.
    pub file: String,
    /// The line, from 1; 0: the file as a whole.
    pub line: u32,
    /// The column, in characters from 1.
    pub column: u32,
    /// The line as written, cut after 240 characters.
    pub source_line: String,
    /// What is wrong.
    pub text: String,
    /// What would be right.
    pub hint: String,
    /// The resource that it concerns; `None`: the file, `global`, or `common`.
    pub resource: Option<String>,
}

impl Finding {
    /// Where, and what, on one line.
    #[must_use]
    pub fn in_short(&self) -> String {
        match self.line {
            0 => format!("{}: {}", self.file, self.text),
            line => format!("{}:{line}: {}", self.file, self.text),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        if self.line == 0 {
            write!(f, "{}: {severity}: {}", self.file, self.text)?;
        } else {
            write!(f, "{}:{}:{}: {severity}: {}", self.file, self.line, self.column, self.text)?;
            write!(f, "\n    {}", self.source_line)?;
            // Tabs stay tabs, so that the caret stands where the terminal shows the column.
            let before = self.source_line.chars().take(self.column.saturating_sub(1) as usize);
            let blank: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            if blank.chars().count() + 1 == self.column as usize {
                write!(f, "\n    {blank}^")?;
            }
        }
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n    {}", self.hint) }
    }
}

/// A position in one of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pos {
    pub(super) file: u32,
    pub(super) line: u32,
    pub(super) column: u32,
}

/// Whom a finding concerns, and so what it stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope<'a> {
    /// This resource.
    Resource(&'a str),
    /// Every resource: what is in force is not known.
    All,
    /// Nothing is stopped by it (`global`), or what is stopped is recorded apart.
    Nothing,
}

struct Source {
    path: String,
    lines: Vec<String>,
    /// Everybody on the host can read it.
    is_public: bool,
}

/// Names whose values nobody should read in a terminal or a log.
const SECRETS: [&str; 2] = ["shared-secret", "shared-secret-old"];

/// Whether this is the name of a secret, or may be meant for one: what follows it is not repeated.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.contains("secret") || nearest(&name, SECRETS).is_some()
}

/// A text with the values of secrets starred out, character for character; positions stay.
fn without_secrets(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find(is_part) {
        let (before, word) = rest.split_at(begin);
        out += before;
        let (word, after) = word.split_at(word.find(|c| !is_part(c)).unwrap_or(word.len()));
        out += word;
        rest = after;
        // The end of a path is no name.
        if !is_secret(word) || before.ends_with('/') {
            continue;
        }
        if out.rsplit('\n').next().is_some_and(|line| line.trim_start().starts_with('#')) {
            continue;
        }
        let (mut quoted, mut escaped, mut begun) = (false, false, false);
        let end = after.find(|c: char| {
            quoted ^= c == '"' && !escaped;
            // As in a token: what follows a backslash ends no quote, on its line.
            escaped = quoted && c == '\\' && !escaped;
            let ends = match c {
                '\n' => begun,
                ';' | '{' | '}' | '#' => !quoted,
                _ => false,
            };
            begun |= !c.is_whitespace();
            ends
        });
        let (value, left) = after.split_at(end.unwrap_or(after.len()));
        out.extend(value.chars().map(|c| if c.is_whitespace() { c } else { '*' }));
        rest = left;
    }
    out + rest
}

/// Collects findings, and keeps the text that they quote.
#[derive(Default)]
pub(super) struct Report {
    sources: Vec<Source>,
    findings: Vec<(Pos, Finding)>,
    left_out: usize,
    /// An error is among those that are left out.
    left_out_error: bool,
    refused: BTreeSet<String>,
    all_refused: bool,
}

impl Report {
    /// Takes a file's text into the report; the number names it in positions.
    pub(super) fn add_source(&mut self, path: &str, text: &str) -> u32 {
        let cut = |line: &str| line.chars().take(LINE_MAX).collect();
        let lines = without_secrets(text).lines().map(cut).collect();
        self.sources.push(Source { path: path.to_owned(), lines, is_public: false });
        u32::try_from(self.sources.len() - 1).expect("fewer than FILES_MAX files")
    }

    /// Everybody on the host can read this file.
    pub(super) fn set_public(&mut self, file: u32) {
        if let Some(source) = self.sources.get_mut(file as usize) {
            source.is_public = true;
        }
    }

    /// Whether everybody on the host can read the file that `at` is in.
    pub(super) fn is_public(&self, at: Pos) -> bool {
        self.sources.get(at.file as usize).is_some_and(|source| source.is_public)
    }

    pub(super) fn error(
        &mut self,
        at: Pos,
        scope: Scope<'_>,
        text: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.add(Severity::Error, at, scope, text.into(), hint.into());
    }

    pub(super) fn warning(
        &mut self,
        at: Pos,
        scope: Scope<'_>,
        text: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.add(Severity::Warning, at, scope, text.into(), hint.into());
    }

    fn add(&mut self, severity: Severity, at: Pos, scope: Scope<'_>, text: String, hint: String) {
        if severity == Severity::Error {
            match scope {
                Scope::Resource(name) => self.refuse(name),
                Scope::All => self.all_refused = true,
                Scope::Nothing => {}
            }
        }
        if self.is_full() {
            self.left_out += 1;
            self.left_out_error |= severity == Severity::Error;
            return;
        }
        let resource = match scope {
            Scope::Resource(name) => Some(name.to_owned()),
            Scope::All | Scope::Nothing => None,
        };
        let source = &self.sources[at.file as usize];
        let line = (at.line as usize).checked_sub(1).and_then(|index| source.lines.get(index));
        let finding = Finding {
            severity,
            file: source.path.clone(),
            line: at.line,
            column: at.column,
            source_line: line.cloned().unwrap_or_default(),
            text,
            hint,
            resource,
        };
        self.findings.push((at, finding));
    }

    /// Whether further findings are only counted.
    pub(super) fn is_full(&self) -> bool {
        self.findings.len() >= FINDINGS_MAX
    }

    /// Refuses a resource without a finding of its own.
    pub(super) fn refuse(&mut self, name: &str) {
        self.refused.insert(name.to_owned());
    }

    /// Refuses every resource: a part of the config is unknown.
    pub(super) fn refuse_all(&mut self) {
        self.all_refused = true;
    }

    pub(super) fn is_refused(&self, name: &str) -> bool {
        self.all_refused || self.refused.contains(name)
    }

    pub(super) fn place(&self, at: Pos) -> Place {
        Place { file: self.sources[at.file as usize].path.clone(), line: at.line }
    }

    /// The findings, sorted; the same sentence about one place comes once, whatever the resource.
    pub(super) fn finish(mut self) -> Vec<Finding> {
        self.findings.sort_by(|(a, x), (b, y)| {
            (a, x.severity, &x.text, &x.resource).cmp(&(b, y.severity, &y.text, &y.resource))
        });
        let mut out: Vec<Finding> = Vec::with_capacity(self.findings.len());
        for (_, finding) in self.findings {
            match out.last_mut() {
                Some(last)
                    if (&last.file, last.line, last.column, &last.text)
                        == (&finding.file, finding.line, finding.column, &finding.text) =>
                {
                    if last.resource != finding.resource {
                        last.resource = None;
                    }
                }
                _ => out.push(finding),
            }
        }
        if self.left_out > 0
            && let Some(last) = out.last().cloned()
        {
            let text = format!("{} more findings are not shown", self.left_out);
            let (line, source_line) = (0, String::new());
            let (hint, file) = (String::new(), last.file);
            let severity = match self.left_out_error {
                true => Severity::Error,
                false => Severity::Warning,
            };
            let resource = None;
            out.push(Finding {
                severity,
                file,
                line,
                column: 0,
                source_line,
                text,
                hint,
                resource,
            });
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_starred_out_where_they_stand() {
        for (text, shown) in [
            (
                "net { shared-secret \"a;b # c\"; timeout 5; }",
                "net { shared-secret **** * **; timeout 5; }",
            ),
            ("shared-secret-old \"a\"; b;", "shared-secret-old ***; b;"),
            (r#"shared-secret "a\"b;c" ; timeout 5;"#, "shared-secret ******** ; timeout 5;"),
            (r#"shared-secret "a\\"; timeout 5;"#, "shared-secret *****; timeout 5;"),
            ("shared-secret \"open\\\nping-int 5;", "shared-secret ******\nping-int 5;"),
            ("shared-secret\n  FooFun;\n", "shared-secret\n  ******;\n"),
            ("# the shared-secret\nnet { }", "# the shared-secret\nnet { }"),
            ("shared-secret \"open\nping-int 5;", "shared-secret *****\nping-int 5;"),
            ("timeout 50;", "timeout 50;"),
            ("shared_secret \"a b\"; c;", "shared_secret ** **; c;"),
            ("Shared-Secret a;", "Shared-Secret *;"),
            ("sharde-secert a; b", "sharde-secert *; b"),
            ("secret=a;", "secret**;"),
            ("disk /dev/vg/secret;", "disk /dev/vg/secret;"),
            ("resource secrets {\n  net { }", "resource secrets {\n  net { }"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
    }

    #[test]
    fn an_error_that_is_left_out_is_an_error() {
        let mut report = Report::default();
        let file = report.add_source("x", "");
        let at = Pos { file, line: 1, column: 1 };
        for n in 0..FINDINGS_MAX {
            report.warning(Pos { column: n as u32, ..at }, Scope::Nothing, "so", "");
        }
        report.error(at, Scope::Nothing, "wrong", "");
        let last = report.finish().pop().unwrap();
        assert_eq!(
            (last.severity, last.text.as_str()),
            (Severity::Error, "1 more findings are not shown")
        );
    }
}
