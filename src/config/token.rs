//! Text to tokens: words, quoted or bare, `{`, `}` and `;`, each with its place.
//!
//! A bare word is a run of anything but blanks, `{`, `}`, `;`, `"` and `#`; `#` opens a comment to
//! the end of the line; a quoted word stays on its line. In it, as in DRBD, a backslash takes the
//! character after it as it is: `\"` is a quote, `\\` a backslash, `\c` a c. A bare word has no
//! escapes.

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
                while let Some((c, column)) = chars.next() {
                    match c {
                        '"' => {
                            end = Some(Pos { column: column + 1, ..at });
                            break;
                        }
                        // At the end of the line it takes nothing, and the quote stays open.
                        '\\' => {
                            let taken = chars.next().map(|(c, _)| c);
                            // Which one is not said: it may be a secret's.
                            if taken.is_some_and(|c| !matches!(c, '"' | '\\')) {
                                report.warning(
                                    Pos { column, ..at },
                                    Scope::Nothing,
                                    "in quotes a backslash is not itself: it takes what is behind it as it is, as in DRBD",
                                    "write \\\\ where a backslash is meant, and nothing where it is not",
                                );
                            }
                            word.extend(taken);
                        }
                        c => word.push(c),
                    }
                }
                if end.is_none() {
                    clean = false;
                    report.error(
                        at,
                        Scope::Nothing,
                        "this quote is not closed on its line",
                        "write the closing `\"` before the end of the line",
                    );
                }
                if let Some(c) = word.chars().find(|c| has_no_place(*c)) {
                    clean = false;
                    let (text, hint) = no_place(c);
                    report.error(at, Scope::Nothing, text, hint);
                }
                let end = end.unwrap_or(at);
                out.push(Token::Word(Word { text: word, quoted: true, at, end }));
            }
            c if c.is_whitespace() => {}
            c if has_no_place(c) => {
                clean = false;
                let (text, hint) = no_place(c);
                report.error(at, Scope::Nothing, text, hint);
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
    !(c.is_whitespace() || has_no_place(c) || matches!(c, '{' | '}' | ';' | '"' | '#'))
}

/// What no word can have: control characters, and what stands for bytes that are no text.
fn has_no_place(c: char) -> bool {
    c.is_control() || c == char::REPLACEMENT_CHARACTER
}

/// What is said of one, and what to do.
fn no_place(c: char) -> (String, &'static str) {
    if c == char::REPLACEMENT_CHARACTER {
        let hint = "write it anew, or the whole file: iconv -f LATIN1 -t UTF-8 FILE";
        return ("this is not UTF-8".to_owned(), hint);
    }
    (format!("the character U+{:04X} has no place in a config", c as u32), "remove it")
}

/// A word as it is written in a file: bare where that says the same, in DRBD too.
pub(super) fn written(word: &str) -> String {
    // A backslash is no part of a bare word in DRBD.
    let bare = !word.is_empty() && word.chars().all(|c| is_bare(c) && c != '\\');
    if bare { word.to_owned() } else { quoted(word) }
}

/// A word in quotes.
pub(super) fn quoted(word: &str) -> String {
    let mut out = String::from("\"");
    for c in word.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}
