//! A `resource` section as it is written: hosts, volumes and connections with their places, before
//! anything is merged or compared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::resource::{NodeId, VolumeNumber};

use super::address::read_address;
use super::definition::{MINOR_MAX, MetaDisk, NODE_ID_MAX, VOLUME_MAX};
use super::finding::{Pos, Report, Scope};
use super::option_table::{Section, Unit, find};
use super::setting::{
    Level, Wrong, exactly, number, read_option, read_section, read_syncer, suggestion,
};
use super::syntax::Statement;
use super::token::Word;

/// Stands for a node id that has been reported as wrong, so that it is not reported as missing.
pub(super) const BAD_NODE_ID: NodeId = NodeId::MAX;

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

/// An `on` section.
pub(super) struct HostDraft {
    pub(super) name: String,
    pub(super) at: Pos,
    pub(super) node_id: Option<(NodeId, Pos)>,
    pub(super) address: Option<(SocketAddr, Pos)>,
    pub(super) volumes: Volumes,
    /// `disk { }` of the host, outside a volume.
    pub(super) level: Level,
}

/// `host NAME` of a connection.
pub(super) struct EndDraft {
    pub(super) name: Word,
    pub(super) address: Option<(SocketAddr, Pos)>,
    pub(super) port: Option<u16>,
}

/// A `connection` or `connection-mesh`.
pub(super) struct ConnectionDraft {
    pub(super) at: Pos,
    pub(super) ends: Vec<EndDraft>,
    pub(super) level: Level,
    pub(super) volumes: BTreeMap<VolumeNumber, (Pos, Level)>,
}

/// A `resource` section.
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) at: Pos,
    pub(super) level: Level,
    pub(super) volumes: Volumes,
    pub(super) hosts: Vec<HostDraft>,
    pub(super) connections: Vec<ConnectionDraft>,
    /// What seems to be missing may be behind a syntax error, or in a section that is refused.
    pub(super) incomplete: bool,
}

const RESOURCE_WORDS: &[&str] = &[
    "on",
    "volume",
    "device",
    "disk",
    "meta-disk",
    "net",
    "options",
    "startup",
    "handlers",
    "connection",
    "connection-mesh",
    "protocol",
];
const HOST_WORDS: &[&str] = &["address", "node-id", "volume", "device", "disk", "meta-disk"];
const VOLUME_WORDS: &[&str] = &["device", "disk", "meta-disk"];
const CONNECTION_WORDS: &[&str] = &["host", "net", "disk", "volume", "path", "protocol"];

/// Reads resources; remembers across them what is said once only.
#[derive(Default)]
pub(super) struct Reader {
    /// Files in which `/dev/drbdN` has been explained.
    explained: BTreeSet<u32>,
}

/// What one section is read with.
struct Context<'a> {
    scope: Scope<'a>,
    report: &'a mut Report,
    explained: &'a mut BTreeSet<u32>,
}

impl Reader {
    /// Reads the section `resource NAME { body }`.
    pub(super) fn resource(
        &mut self,
        name: &Word,
        body: &[Statement],
        damaged: bool,
        report: &mut Report,
    ) -> Draft {
        let mut draft = Draft {
            name: name.text.clone(),
            at: name.at,
            level: Level::new(),
            volumes: Volumes::default(),
            hosts: Vec::new(),
            connections: Vec::new(),
            incomplete: damaged,
        };
        let scope = Scope::Resource(&name.text);
        let mut context = Context { scope, report, explained: &mut self.explained };
        for statement in body {
            context.resource_statement(statement, &mut draft);
        }
        draft
    }
}

/// Reads `net`, `disk`, `options`, `startup`, `handlers`, `syncer` (sections) and `protocol` into
/// `level`; false: the statement is something else.
pub(super) fn read_options(
    statement: &Statement,
    allowed: &[&str],
    scope: Scope<'_>,
    level: &mut Level,
    report: &mut Report,
) -> bool {
    let keyword = statement.keyword();
    if !allowed.contains(&keyword) {
        return false;
    }
    if keyword == "protocol" {
        let spec = find("protocol").expect("the table has it");
        read_option(spec, false, statement, scope, level, report);
        return true;
    }
    let Some(body) = &statement.body else { return false };
    if let Some(extra) = statement.arguments().first() {
        let text = format!("`{}` is too much here", extra.text);
        report.error(extra.at, scope, text, format!("write: {keyword} {{ ... }}"));
    }
    match Section::ALL.into_iter().find(|section| section.name() == keyword) {
        Some(section) => read_section(section, body, scope, level, report),
        None => read_syncer(body, scope, level, report),
    }
    true
}

impl<'a> Context<'a> {
    fn error(&mut self, at: Pos, text: impl Into<String>, hint: impl Into<String>) {
        self.report.error(at, self.scope, text, hint);
    }

    fn wrong(&mut self, wrong: Wrong) {
        self.error(wrong.at, wrong.text, wrong.hint);
    }

    fn unknown(&mut self, statement: &Statement, place: &str, known: &[&'static str]) {
        let (at, keyword) = (statement.at(), statement.keyword());
        if known.contains(&keyword) {
            let (text, hint) = if statement.body.is_some() {
                (format!("`{keyword}` is no section here"), format!("write: {keyword} ...;"))
            } else {
                (format!("`{keyword}` is a section"), format!("write: {keyword} {{ ... }}"))
            };
            return self.error(at, text, hint);
        }
        let hint = match find(keyword) {
            Some(spec) => format!("write: {} {{ {keyword} ...; }}", spec.section.name()),
            None => suggestion(keyword, known.iter().copied()),
        };
        self.error(at, format!("unknown word `{keyword}` in {place}"), hint);
    }

    fn resource_statement(&mut self, statement: &Statement, draft: &mut Draft) {
        const OPTION_WORDS: &[&str] =
            &["net", "disk", "options", "startup", "handlers", "syncer", "protocol"];
        if read_options(statement, OPTION_WORDS, self.scope, &mut draft.level, self.report) {
            return;
        }
        let at = statement.at();
        match (statement.keyword(), &statement.body) {
            ("skip", Some(_)) => {}
            ("on", Some(body)) => {
                if let Some(host) = self.host(statement, body, draft) {
                    draft.hosts.push(host);
                }
            }
            ("floating", _) => {
                draft.incomplete = true;
                let hint = "write: on HOSTNAME { address IP:PORT; ... }";
                self.error(at, "`floating`: a host is known by its name only", hint);
            }
            ("stacked-on-top-of", _) => {
                draft.incomplete = true;
                let text = "`stacked-on-top-of`: a resource cannot stand on top of another";
                self.error(at, text, "remove the resource; two nodes is what there is");
            }
            ("proxy", _) => self.proxy(at),
            ("template-file", _) => {
                draft.incomplete = true;
                self.error(at, "`template-file` is not read", "write its statements here");
            }
            ("connection", Some(body)) => self.connection(statement, body, draft),
            ("connection-mesh", Some(body)) => self.mesh(statement, body, draft),
            _ if self.volume_level(statement, &mut draft.volumes) => {}
            _ => self.unknown(statement, "resource", RESOURCE_WORDS),
        }
    }

    fn proxy(&mut self, at: Pos) {
        let text = "`proxy`: there is no DRBD Proxy, its addresses do not lead to the peer";
        self.error(at, text, "remove it, and write the peer's own address");
    }

    fn host(
        &mut self,
        statement: &Statement,
        body: &[Statement],
        draft: &mut Draft,
    ) -> Option<HostDraft> {
        draft.incomplete |= statement.damaged;
        let [name] = statement.arguments() else {
            draft.incomplete = true;
            let (at, text) = match statement.arguments().get(1) {
                Some(second) => (second.at, "an `on` section is for one host"),
                None => (statement.words[0].end, "the host's name is missing"),
            };
            self.error(at, text, "write: on HOSTNAME { ... }");
            return None;
        };
        let mut host = HostDraft {
            name: name.text.clone(),
            at: name.at,
            node_id: None,
            address: None,
            volumes: Volumes::default(),
            level: Level::new(),
        };
        for statement in body {
            self.host_statement(statement, &mut host);
        }
        Some(host)
    }

    fn host_statement(&mut self, statement: &Statement, host: &mut HostDraft) {
        if read_options(statement, &["disk"], self.scope, &mut host.level, self.report) {
            return;
        }
        let at = statement.at();
        match (statement.keyword(), &statement.body) {
            ("skip", Some(_)) => {}
            ("address", None) => match read_address(statement.arguments(), at) {
                Ok((address, 0)) => self.once(&mut host.address, address, at, "address"),
                Ok((_, left)) => {
                    let extra = &statement.words[statement.words.len() - left];
                    let text = format!("`{}` is too much here", extra.text);
                    self.error(extra.at, text, "write: address IP:PORT;");
                }
                Err(wrong) => {
                    self.wrong(wrong);
                    host.address = host.address.or(Some((super::address::BAD, at)));
                }
            },
            ("node-id", None) => {
                let id = exactly(statement, 1, "N").and_then(|()| {
                    let max = u64::from(NODE_ID_MAX);
                    number("node-id", &statement.arguments()[0], Unit::One, 0, max)
                });
                match id {
                    Ok(id) => self.once(&mut host.node_id, id as NodeId, at, "node-id"),
                    Err(wrong) => {
                        self.wrong(wrong);
                        host.node_id = host.node_id.or(Some((BAD_NODE_ID, at)));
                    }
                }
            }
            ("proxy", _) => self.proxy(at),
            _ if self.volume_level(statement, &mut host.volumes) => {}
            _ => self.unknown(statement, "on", HOST_WORDS),
        }
    }

    /// Puts a value into its place, which must be empty.
    fn once<T>(&mut self, slot: &mut Option<(T, Pos)>, value: T, at: Pos, what: &str) {
        match slot {
            Some((_, earlier)) => {
                let place = self.report.place(*earlier);
                self.error(at, format!("{what} is given twice"), format!("keep one; see {place}"));
            }
            None => *slot = Some((value, at)),
        }
    }

    /// `volume N { }`, or a statement of volume 0 without a section; false: something else.
    fn volume_level(&mut self, statement: &Statement, volumes: &mut Volumes) -> bool {
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

    fn volume_number(&mut self, statement: &Statement) -> Option<VolumeNumber> {
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
            ("device", None) => match self.device(statement) {
                Ok(device) => self.once(&mut volume.device, device, at, "device"),
                Err(wrong) => self.wrong(wrong),
            },
            ("disk", None) => match exactly(statement, 1, "PATH|none") {
                Ok(()) => {
                    let word = &statement.arguments()[0];
                    let path = (word.quoted || word.text != "none").then(|| word.text.clone());
                    if path.as_deref() == Some("") {
                        self.error(word.at, "an empty path", "write: disk PATH;  or  disk none;");
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
        let digits = |prefix: &str| name.text.strip_prefix(prefix).map(str::to_owned);
        let nbd = digits("/dev/nbd").filter(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
        let nbd = nbd.filter(|rest| !rest.is_empty());
        let named = nbd.clone().or_else(|| digits("/dev/drbd"));
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

    fn connection(&mut self, statement: &Statement, body: &[Statement], draft: &mut Draft) {
        let mut connection = ConnectionDraft {
            at: statement.at(),
            ends: Vec::new(),
            level: Level::new(),
            volumes: BTreeMap::new(),
        };
        let mut paths = 0;
        for inner in body {
            let allowed = &["net", "disk", "protocol"];
            if read_options(inner, allowed, self.scope, &mut connection.level, self.report) {
                continue;
            }
            match (inner.keyword(), &inner.body) {
                ("skip", Some(_)) => {}
                ("host", None) => self.end(inner, &mut connection.ends),
                ("path", Some(body)) => {
                    paths += 1;
                    if paths > 1 {
                        let text = "a second `path`: a connection has one path";
                        self.error(inner.at(), text, "keep one path");
                        continue;
                    }
                    for inner in body {
                        match (inner.keyword(), &inner.body) {
                            ("host", None) => self.end(inner, &mut connection.ends),
                            _ => self.unknown(inner, "path", &["host"]),
                        }
                    }
                }
                ("volume", Some(body)) => self.connection_volume(inner, body, &mut connection),
                _ => self.unknown(inner, "connection", CONNECTION_WORDS),
            }
        }
        draft.incomplete |= statement.damaged;
        if connection.ends.len() == 2 {
            draft.connections.push(connection);
        } else if !draft.incomplete {
            let text =
                format!("{} hosts in this connection: it has two ends", connection.ends.len());
            self.error(connection.at, text, "write: host A; host B;");
        }
    }

    fn connection_volume(
        &mut self,
        statement: &Statement,
        body: &[Statement],
        connection: &mut ConnectionDraft,
    ) {
        let Some(number) = self.volume_number(statement) else { return };
        let mut level = Level::new();
        for inner in body {
            if !read_options(inner, &["disk"], self.scope, &mut level, self.report) {
                self.unknown(inner, "volume of a connection", &["disk"]);
            }
        }
        let at = statement.words[1].at;
        if connection.volumes.insert(number, (at, level)).is_some() {
            let text = format!("volume {number} is given twice");
            self.error(at, text, "keep one section for each volume");
        }
    }

    /// `host NAME [address ADDRESS] [port PORT]`.
    fn end(&mut self, statement: &Statement, ends: &mut Vec<EndDraft>) {
        let Some(name) = statement.arguments().first() else {
            let hint = "write: host NAME address IP:PORT;";
            return self.error(statement.words[0].end, "the host's name is missing", hint);
        };
        let mut end = EndDraft { name: name.clone(), address: None, port: None };
        let mut words = &statement.arguments()[1..];
        while let Some((keyword, rest)) = words.split_first() {
            words = match keyword.text.as_str() {
                "address" => match read_address(rest, keyword.at) {
                    Ok((address, left)) => {
                        end.address = Some((address, keyword.at));
                        &rest[rest.len() - left..]
                    }
                    Err(wrong) => return self.wrong(wrong),
                },
                "port" if !rest.is_empty() => {
                    match number("port", &rest[0], Unit::One, 1, 65_535) {
                        Ok(port) => end.port = Some(port as u16),
                        Err(wrong) => return self.wrong(wrong),
                    }
                    &rest[1..]
                }
                "via" => {
                    let text = "`via`: the peer must be dialled at its own address";
                    return self.error(keyword.at, text, "remove it");
                }
                other => {
                    let text = format!("unknown word `{other}` after host");
                    let hint = "write: host NAME address IP:PORT;";
                    return self.error(keyword.at, text, hint);
                }
            };
        }
        ends.push(end);
    }

    fn mesh(&mut self, statement: &Statement, body: &[Statement], draft: &mut Draft) {
        let mut connection = ConnectionDraft {
            at: statement.at(),
            ends: Vec::new(),
            level: Level::new(),
            volumes: BTreeMap::new(),
        };
        for inner in body {
            let allowed = &["net", "disk", "protocol"];
            if read_options(inner, allowed, self.scope, &mut connection.level, self.report) {
                continue;
            }
            match (inner.keyword(), &inner.body) {
                ("hosts", None) => {
                    connection.ends.extend(inner.arguments().iter().map(|name| EndDraft {
                        name: name.clone(),
                        address: None,
                        port: None,
                    }))
                }
                _ => self.unknown(inner, "connection-mesh", &["hosts", "net"]),
            }
        }
        draft.incomplete |= statement.damaged;
        match connection.ends.get(2) {
            Some(third) => {
                let at = third.name.at;
                self.error(at, "a resource has two hosts", "keep two of them");
            }
            None if connection.ends.len() == 2 => draft.connections.push(connection),
            None if draft.incomplete => {}
            None => self.error(connection.at, "a mesh needs two hosts", "write: hosts A B;"),
        }
    }
}

fn is_empty(volume: &VolumeDraft) -> bool {
    volume.device.is_none()
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
    if word.text.is_empty() {
        let hint = "write: meta-disk internal;".to_owned();
        return Err(Wrong { at: word.at, text: "an empty path".to_owned(), hint });
    }
    Ok(MetaDisk::External { path: word.text.clone() })
}
