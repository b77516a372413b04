//! `connection` and `connection-mesh` as they are written.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::resource::VolumeNumber;

use super::address::read_address;
use super::draft::{Context, Draft, read_options};
use super::finding::Pos;
use super::option_table::Unit;
use super::setting::{Level, number};
use super::syntax::Statement;
use super::token::Word;

const CONNECTION_WORDS: &[&str] = &["host", "net", "disk", "volume", "path", "protocol"];

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
    /// The second `path` and those after it.
    pub(super) more_paths: Vec<(Pos, Vec<EndDraft>)>,
}

impl ConnectionDraft {
    fn new(at: Pos) -> Self {
        Self {
            at,
            ends: Vec::new(),
            level: Level::new(),
            volumes: BTreeMap::new(),
            more_paths: Vec::new(),
        }
    }
}

impl Context<'_> {
    pub(super) fn connection(
        &mut self,
        statement: &Statement,
        body: &[Statement],
        draft: &mut Draft,
    ) {
        // A name is DRBD's, and names nothing here.
        self.too_much(statement.arguments().get(1), "write: connection { ... }");
        let mut connection = ConnectionDraft::new(statement.at());
        let (mut paths, mut outside) = (0, None);
        for inner in body {
            let allowed = &["net", "disk", "protocol"];
            if read_options(inner, allowed, self.scope, &mut connection.level, self.report) {
                continue;
            }
            match (inner.keyword(), &inner.body) {
                ("skip", Some(_)) => {}
                ("host", None) => {
                    outside = outside.or(Some(inner.at()));
                    self.end(inner, &mut connection.ends);
                }
                ("host", Some(_)) => {
                    self.proxy(inner.at());
                    draft.incomplete = true;
                }
                ("path", Some(body)) => {
                    paths += 1;
                    self.too_much(inner.arguments().first(), "write: path { ... }");
                    let mut ends = Vec::new();
                    for inner in body {
                        match (inner.keyword(), &inner.body) {
                            ("host", None) => self.end(inner, &mut ends),
                            _ => self.unknown(inner, "path", &["host"]),
                        }
                    }
                    match paths {
                        1 => connection.ends.append(&mut ends),
                        _ => connection.more_paths.push((inner.at(), ends)),
                    }
                }
                ("volume", Some(body)) => self.connection_volume(inner, body, &mut connection),
                _ => self.unknown(inner, "connection", CONNECTION_WORDS),
            }
        }
        draft.incomplete |= statement.damaged;
        if let Some(at) = outside.filter(|_| paths > 0) {
            let text = "this host stands beside a `path` section: which path it is of is not said";
            let hint = "write: path { host A address IP:PORT; host B address IP:PORT; }";
            self.error(at, text, hint);
        } else if connection.ends.len() != 2 && !draft.incomplete {
            let text = match connection.ends.len() {
                0 => "no host in this connection: it has two ends".to_owned(),
                1 => "one host in this connection: it has two ends".to_owned(),
                more => format!("{more} hosts in this connection: it has two ends"),
            };
            self.error(connection.at, text, "write: host A; host B;");
        }
        connection.ends.truncate(2);
        draft.connections.push(connection);
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

    pub(super) fn mesh(&mut self, statement: &Statement, body: &[Statement], draft: &mut Draft) {
        self.too_much(statement.arguments().first(), "write: connection-mesh { ... }");
        let mut connection = ConnectionDraft::new(statement.at());
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
            None if connection.ends.len() == 2 || draft.incomplete => {}
            None => self.error(connection.at, "a mesh needs two hosts", "write: hosts A B;"),
        }
        connection.ends.truncate(2);
        draft.connections.push(connection);
    }
}
