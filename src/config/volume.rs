//! The volumes of a `resource` or `on` section as they are written.

use std::collections::BTreeMap;

use crate::resource::VolumeNumber;

use super::definition::{MINOR_MAX, MetaDisk, VOLUME_MAX};
use super::draft::{Context, read_options};
use super::finding::Pos;
use super::option_table::Unit;
use super::setting::{Level, Wrong, exactly, number};
use super::syntax::Statement;
use super::token::Word;

const VOLUME_WORDS: &[&str] = &["device", "disk", "meta-disk"];

/// What `device` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) node: Option<String>,
    pub(super) minor: u32,
}

/// A volume of a resource or of one host, as far as it is written there.
#[derive(Clone, Default)]
pub(super) struct VolumeDraft {
    pub(super) device: Option<(Device, Pos)>,
    /// A device that has been reported as wrong: it is not reported as missing.
    pub(super) bad_device: bool,
    /// `None` inside: `disk none`.
    pub(super) disk: Option<(Option<String>, Pos)>,
    pub(super) meta_disk: Option<(MetaDisk, Pos)>,
    pub(super) level: Level,
}

/// The volumes of a resource or host: numbered sections, or one volume 0 without a section.
#[derive(Default)]
pub(super) struct Volumes {
    pub(super) numbered: BTreeMap<VolumeNumber, VolumeDraft>,
    /// The first statement that makes volume 0 without a section.
    pub(super) implicit: Option<Pos>,
}

impl Context<'_> {
    /// `volume N { }`, or a statement of volume 0 without a section; false: something else.
    pub(super) fn volume_level(&mut self, statement: &Statement, volumes: &mut Volumes) -> bool {
        match (statement.keyword(), &statement.body) {
            ("volume", Some(body)) => {
                let Some(number) = self.volume_number(statement) else { return true };
                let implicit = number == 0 && volumes.implicit.is_some();
                if volumes.numbered.contains_key(&number) && !implicit {
                    let text = format!("volume {number} is given twice");
                    self.error(statement.words[1].at, text, "keep one section for each volume");
                }
                let mut volume = volumes.numbered.remove(&number).unwrap_or_default();
                for statement in body {
                    if !self.volume_statement(statement, &mut volume) {
                        self.unknown(statement, "volume", VOLUME_WORDS);
                    }
                }
                volumes.numbered.insert(number, volume);
                true
            }
            _ => {
                let mut volume = volumes.numbered.remove(&0).unwrap_or_default();
                let before = volumes.implicit;
                let taken = self.volume_statement(statement, &mut volume);
                if taken {
                    volumes.implicit = before.or(Some(statement.at()));
                }
                if taken || before.is_some() || !is_empty(&volume) {
                    volumes.numbered.insert(0, volume);
                }
                taken
            }
        }
    }

    pub(super) fn volume_number(&mut self, statement: &Statement) -> Option<VolumeNumber> {
        let number = exactly(statement, 1, "N { ... }").and_then(|()| {
            let max = u64::from(VOLUME_MAX);
            number("volume", &statement.arguments()[0], Unit::One, 0, max)
        });
        match number {
            Ok(number) => Some(number as VolumeNumber),
            Err(wrong) => {
                self.wrong(wrong);
                None
            }
        }
    }

    fn volume_statement(&mut self, statement: &Statement, volume: &mut VolumeDraft) -> bool {
        if read_options(statement, &["disk"], self.scope, &mut volume.level, self.report) {
            return true;
        }
        let at = statement.at();
        match (statement.keyword(), &statement.body) {
            ("skip", Some(_)) => {}
            ("device", None) => match self.device(statement) {
                Ok(device) => self.once(&mut volume.device, device, at, "device"),
                Err(wrong) => {
                    self.wrong(wrong);
                    volume.bad_device = true;
                }
            },
            ("disk", None) => match exactly(statement, 1, "PATH|none") {
                Ok(()) => {
                    let word = &statement.arguments()[0];
                    let path = (word.quoted || word.text != "none").then(|| word.text.clone());
                    if let Some(path) = &path
                        && let Err((text, hint)) = absolute(path, "disk", "none")
                    {
                        self.error(word.at, text, hint);
                    }
                    self.once(&mut volume.disk, path, at, "disk");
                }
                Err(wrong) => self.wrong(wrong),
            },
            ("meta-disk" | "flexible-meta-disk", None) => match meta_disk(statement) {
                Ok(meta) => self.once(&mut volume.meta_disk, meta, at, "meta-disk"),
                Err(wrong) => self.wrong(wrong),
            },
            _ => return false,
        }
        true
    }

    /// `device`: `minor M`, `/dev/drbdN`, `NAME minor M`, `/dev/nbdN`, `/dev/nbdN minor M`.
    fn device(&mut self, statement: &Statement) -> Result<Device, Wrong> {
        let words = statement.arguments();
        let minor = |word: &Word| {
            let minor = number("minor", word, Unit::One, 0, u64::from(MINOR_MAX))?;
            Ok(minor as u32)
        };
        let (name, written) = match words {
            [keyword, number] if keyword.text == "minor" => (None, Some(minor(number)?)),
            [name, keyword, number] if keyword.text == "minor" => {
                (Some(name), Some(minor(number)?))
            }
            [name] if name.text != "minor" => (Some(name), None),
            _ => {
                exactly(statement, 2, "minor M")?;
                let hint = "write: device minor M;".to_owned();
                return Err(Wrong { at: words[0].at, text: "not a device".to_owned(), hint });
            }
        };
        let Some(name) = name else {
            return Ok(Device { node: None, minor: written.unwrap_or(0) });
        };
        // In DRBD's files `/dev/` may be left out.
        let in_full = match name.text.starts_with("drbd") {
            true => format!("/dev/{}", name.text),
            false => name.text.clone(),
        };
        let name = &Word { text: in_full, ..name.clone() };
        let digits = |prefix: &str| name.text.strip_prefix(prefix).map(str::to_owned);
        let nbd = digits("/dev/nbd").filter(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
        let nbd = nbd.filter(|rest| !rest.is_empty());
        let named = nbd.clone().or_else(|| digits("/dev/drbd"));
        if let (None, Some(minor), Some(digits)) = (&nbd, written, &named)
            && digits.bytes().all(|b| b.is_ascii_digit())
            && digits.parse() != Ok(minor)
        {
            let text = format!("`{}` is not minor {minor}", name.text);
            let hint = format!("write: device minor {minor};");
            return Err(Wrong { at: name.at, text, hint });
        }
        let minor = match (written, named) {
            (Some(minor), _) => minor,
            (None, Some(digits)) => {
                let word = Word { text: digits, ..name.clone() };
                let path = &name.text;
                minor(&word).map_err(|wrong| Wrong {
                    text: format!("`{path}` names no minor"),
                    hint: "write: device minor M;".to_owned(),
                    ..wrong
                })?
            }
            (None, None) => {
                let text = format!("`{}` names no minor", name.text);
                let hint = format!("write: device {} minor M;", name.text);
                return Err(Wrong { at: name.end, text, hint });
            }
        };
        if nbd.is_none() && self.explained.insert(name.at.file) {
            let text =
                format!("{} is not made: the minor takes effect, the name does not", name.text);
            let hint = format!("exported as RES[/VOL] over NBD; attach it as /dev/nbd{minor}");
            self.report.warning(name.at, self.scope, text, hint);
        }
        Ok(Device { node: nbd.map(|_| name.text.clone()), minor })
    }
}

/// tandemadm and tandemd have folders of their own: a path must mean the same in both. `word`: what
/// may stand in its place.
fn absolute(path: &str, keyword: &str, word: &str) -> Result<(), (String, String)> {
    if path.starts_with('/') {
        return Ok(());
    }
    let hint = format!("write: {keyword} /PATH;  or  {keyword} {word};");
    match path {
        "" => Err(("an empty path".to_owned(), hint)),
        _ => Err((format!("`{path}` does not begin with `/`"), hint)),
    }
}

fn is_empty(volume: &VolumeDraft) -> bool {
    volume.device.is_none()
        && !volume.bad_device
        && volume.disk.is_none()
        && volume.meta_disk.is_none()
        && volume.level.is_empty()
}

fn meta_disk(statement: &Statement) -> Result<MetaDisk, Wrong> {
    exactly(statement, 1, "internal|PATH")?;
    let word = &statement.arguments()[0];
    if word.text == "internal" {
        return Ok(MetaDisk::Internal);
    }
    let indexed = word.text.strip_suffix(']').and_then(|rest| rest.rsplit_once('['));
    if let Some((path, index)) = indexed
        && index.bytes().all(|b| b.is_ascii_digit())
    {
        let text = format!("`{}`: indexed metadata does not exist here", word.text);
        let hint = format!("write: meta-disk {path};  one device or file for each volume");
        return Err(Wrong { at: word.at, text, hint });
    }
    if let Err((text, hint)) = absolute(&word.text, "meta-disk", "internal") {
        return Err(Wrong { at: word.at, text, hint });
    }
    Ok(MetaDisk::External { path: word.text.clone() })
}
