//! Text to tokens: words, quoted or bare, `{`, `}` and `;`, each with its place.
//!
//! A bare word is a run of anything but blanks, `{`, `}`, `;`, `"` and `#`; `#` opens a comment to
//! the end of the line; a quoted word stays on its line and has no escapes, as in DRBD.

use super::finding::{Pos, Report, Scope};

/// A word and where it is.
#[derive(Clone, Debug)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) quoted: bool,
    pub(super) at: Pos,
    /// Just after its last character.
    pub(super) end: Pos,
}

#[derive(Clone, Debug)]
pub(super) enum Token {
    Word(Word),
    Open(Pos),
    Close(Pos),
    Semicolon(Pos),
}

/// The tokens of a file, and whether all of it could be read as tokens.
pub(super) fn tokens(file: u32, text: &str, report: &mut Report) -> (Vec<Token>, bool) {
    let mut out = Vec::new();
    let mut clean = true;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (line, index) in text.lines().zip(1..) {
        clean &= line_tokens(file, index, line, &mut out, report);
    }
    (out, clean)
}

fn line_tokens(
    file: u32,
    line: u32,
    text: &str,
    out: &mut Vec<Token>,
    report: &mut Report,
) -> bool {
    let mut clean = true;
    let mut chars = text.chars().zip(1_u32..).peekable();
    while let Some((c, column)) = chars.next() {
        let at = Pos { file, line, column };
        match c {
            '{' => out.push(Token::Open(at)),
            '}' => out.push(Token::Close(at)),
            ';' => out.push(Token::Semicolon(at)),
            '#' => return clean,
            '"' => {
                let mut word = String::new();
                let mut end = None;
                for (c, column) in chars.by_ref() {
                    if c == '"' {
                        end = Some(Pos { column: column + 1, ..at });
                        break;
                    }
                    word.push(c);
                }
                if end.is_none() {
                    clean = false;
                    report.error(
                        at,
                        Scope::Nothing,
                        "this quote is not closed on its line",
                        "write the closing \" before the end of the line",
                    );
                }
                if let Some(c) = word.chars().find(|c| c.is_control()) {
                    clean = false;
                    report.error(at, Scope::Nothing, control(c), "remove it");
                }
                let end = end.unwrap_or(at);
                out.push(Token::Word(Word { text: word, quoted: true, at, end }));
            }
            c if c.is_whitespace() => {}
            c if c.is_control() => {
                clean = false;
                report.error(at, Scope::Nothing, control(c), "remove it");
            }
            c => {
                let mut word = String::from(c);
                while let Some((c, _)) = chars.next_if(|(c, _)| is_bare(*c)) {
                    word.push(c);
                }
                let length = word.chars().count();
                let end = Pos { column: column.saturating_add(length as u32), ..at };
                out.push(Token::Word(Word { text: word, quoted: false, at, end }));
            }
        }
    }
    clean
}

fn is_bare(c: char) -> bool {
    !(c.is_whitespace() || c.is_control() || matches!(c, '{' | '}' | ';' | '"' | '#'))
}

fn control(c: char) -> String {
    format!("the character U+{:04X} has no place in a config", c as u32)
}

/// Whether a word can be written without quotes.
pub(super) fn needs_no_quotes(word: &str) -> bool {
    !word.is_empty() && word.chars().all(is_bare)
}
