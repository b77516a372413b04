//! Tokens to statements: `word word ... ;` or `word word ... { statements }`, all of DRBD's
//! grammar. What the words mean is decided later.
//!
//! Invariants: a statement has at least one word; sections nest at most [`DEPTH_MAX`] deep; after a
//! syntax error every section around it is `damaged`, and the file counts as broken.

use super::finding::{Pos, Report, Scope, is_secret};
use super::token::{Token, Word};

/// Deepest nesting of sections; DRBD's grammar needs five.
const DEPTH_MAX: usize = 12;

/// A statement, or a section with its statements.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) words: Vec<Word>,
    pub(super) body: Option<Vec<Statement>>,
    /// A syntax error lies within: what seems to be missing may be written.
    pub(super) damaged: bool,
}

impl Statement {
    pub(super) fn keyword(&self) -> &str {
        &self.words[0].text
    }
    pub(super) fn at(&self) -> Pos {
        self.words[0].at
    }
    /// The words after the keyword.
    pub(super) fn arguments(&self) -> &[Word] {
        &self.words[1..]
    }
}

/// A file as statements.
pub(super) struct Parsed {
    pub(super) statements: Vec<Statement>,
    pub(super) broken: bool,
}

struct Frame {
    words: Vec<Word>,
    open: Pos,
    children: Vec<Statement>,
    damaged: bool,
}

struct Parser<'r> {
    report: &'r mut Report,
    stack: Vec<Frame>,
    top: Vec<Statement>,
    words: Vec<Word>,
    broken: bool,
}

/// Sections that stand at the top of a file only.
const TOP: &[&str] = &["resource", "common", "global"];
/// Sections that hold sections.
const OUTER: &[&str] = &["on", "volume", "connection", "connection-mesh"];
/// Sections that hold options only.
const LEAVES: &[&str] = &["net", "disk", "options", "startup", "handlers", "syncer", "global"];

/// Parses the tokens of one file.
pub(super) fn parse(tokens: Vec<Token>, report: &mut Report) -> Parsed {
    let mut parser = Parser { report, stack: vec![], top: vec![], words: vec![], broken: false };
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        match token {
            Token::Word(word) => parser.words.push(word),
            Token::Semicolon(at) => parser.semicolon(at),
            Token::Open(at) => {
                if !parser.open(at) {
                    skip_section(&mut tokens);
                }
            }
            Token::Close(at) => parser.close(at),
        }
    }
    parser.end()
}

/// Consumes to the `}` that matches a `{` just read.
fn skip_section(tokens: &mut impl Iterator<Item = Token>) {
    let mut depth = 1_usize;
    for token in tokens {
        match token {
            Token::Open(_) => depth += 1,
            Token::Close(_) => depth -= 1,
            Token::Word(_) | Token::Semicolon(_) => {}
        }
        if depth == 0 {
            return;
        }
    }
}

impl Parser<'_> {
    fn error(&mut self, at: Pos, text: impl Into<String>, hint: impl Into<String>) {
        self.broken = true;
        for frame in &mut self.stack {
            frame.damaged = true;
        }
        self.report.error(at, Scope::Nothing, text, hint);
    }

    fn finish(&mut self, statement: Statement) {
        match self.stack.last_mut() {
            Some(frame) => frame.children.push(statement),
            None => self.top.push(statement),
        }
    }

    fn semicolon(&mut self, at: Pos) {
        if self.stack.is_empty() {
            self.split_before(&[&["include"]]);
        }
        let words = self.taken();
        if words.is_empty() {
            self.error(at, "a `;` with nothing before it", "remove it");
        } else {
            self.finish(Statement { words, body: None, damaged: false });
        }
    }

    /// Opens a section; false: it is nested too deep, and is to be skipped.
    fn open(&mut self, at: Pos) -> bool {
        self.split_before(&[TOP, OUTER, LEAVES]);
        let mut words = self.taken();
        if let Some(first) = words.first().filter(|word| !word.quoted) {
            let here = format!(" before `{}` in line {}", first.text, first.at.line);
            let name = first.text.as_str();
            if TOP.contains(&name) && !self.stack.is_empty() {
                self.unclosed(&here, usize::MAX);
            } else if (OUTER.contains(&name) || LEAVES.contains(&name)) && self.in_leaf() {
                self.unclosed(&here, 1);
            }
        }
        if self.stack.len() >= DEPTH_MAX {
            self.error(at, "sections are nested too deep", "close a section before it");
            return false;
        }
        if words.is_empty() {
            let hint = "write the section's name before it, e.g. `net {`";
            self.error(at, "a section without a name", hint);
            words.push(Word { text: String::new(), quoted: true, at, end: at });
        }
        self.stack.push(Frame { words, open: at, children: Vec::new(), damaged: false });
        true
    }

    /// Whether the section that is open holds options only.
    fn in_leaf(&self) -> bool {
        let open = self.stack.last().map(|frame| frame.words.as_slice());
        matches!(open, Some([word]) if LEAVES.contains(&word.text.as_str()))
    }

    /// Where a line begins with one of these words, a statement before it has lost its `;`. Every
    /// word is looked at and moved once, however many statements have.
    fn split_before(&mut self, known: &[&[&str]]) {
        for word in self.taken() {
            let opens = known.iter().any(|words| words.contains(&word.text.as_str()));
            let begins = |before: &Word| before.at.line < word.at.line && before.text != "skip";
            if opens && !word.quoted && self.words.last().is_some_and(begins) {
                self.statement_without_end();
            }
            self.words.push(word);
        }
    }

    /// The words read so far, in a piece of memory that has room for no more: a statement keeps it.
    fn taken(&mut self) -> Vec<Word> {
        self.words.drain(..).collect()
    }

    fn close(&mut self, at: Pos) {
        self.statement_without_end();
        match self.stack.pop() {
            Some(frame) => self.finish_frame(frame),
            None => self.error(at, "this `}` closes nothing", "remove it, or write the `{`"),
        }
    }

    fn finish_frame(&mut self, frame: Frame) {
        let Frame { words, children, damaged, .. } = frame;
        // A section without a name has been reported and means nothing.
        if !words[0].text.is_empty() || !words[0].quoted || words.len() > 1 {
            self.finish(Statement { words, body: Some(children), damaged });
        }
    }

    fn statement_without_end(&mut self) {
        let words = self.taken();
        if let Some(last) = words.last() {
            let (_, before) = words.split_last().expect("it has a last word");
            // The value of a secret is in no message.
            let secret = before.iter().find(|word| is_secret(&word.text));
            let text = match secret {
                Some(name) => format!("`;` is missing after the value of `{}`", name.text),
                None => format!("`;` is missing after `{}`", last.text),
            };
            self.error(last.end, text, "end the statement with `;`");
            self.finish(Statement { words, body: None, damaged: true });
        }
    }

    /// The innermost sections, `count` of them, are not closed.
    fn unclosed(&mut self, before: &str, count: usize) {
        let Some(frame) = self.stack.last() else { return };
        let name = &frame.words[0].text;
        let text = format!("the section `{name}` that opens here is not closed{before}");
        self.error(frame.open, text, "write the missing `}`");
        for _ in 0..count {
            let Some(frame) = self.stack.pop() else { return };
            self.finish_frame(frame);
        }
    }

    fn end(mut self) -> Parsed {
        self.statement_without_end();
        self.unclosed(" before the end of the file", usize::MAX);
        Parsed { statements: self.top, broken: self.broken }
    }
}

#[cfg(test)]
mod tests {
    use super::super::token::tokens;
    use super::*;

    fn room(statement: &Statement) -> usize {
        statement.words.capacity() + statement.body.iter().flatten().map(room).sum::<usize>()
    }

    /// Once a file of 60 KB took 11 GB: each of its statements kept room for all words after it.
    #[test]
    fn statements_without_end_have_room_for_their_own_words_only() {
        let lines = 2000;
        for text in ["on\n".repeat(lines) + "{", "include\n".repeat(lines) + ";"] {
            let mut report = Report::default();
            let file = report.add_source("x", &text);
            let (tokens, _) = tokens(file, &text, &mut report);
            let parsed = parse(tokens, &mut report);
            assert_eq!(parsed.statements.len(), lines);
            assert_eq!(parsed.statements.iter().map(room).sum::<usize>(), lines);
        }
    }
}
