//! A `resource` section as it is written: hosts, volumes and connections with their places, before
//! anything is merged or compared.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::resource::NodeId;

use super::address::read_address;
use super::connection::ConnectionDraft;
use super::definition::NODE_ID_MAX;
use super::finding::{Pos, Report, Scope};
use super::option_table::{Section, Unit, find};
use super::setting::{
    Level, Wrong, exactly, number, read_option, read_section, read_syncer, suggestion,
};
use super::syntax::Statement;
use super::token::Word;
use super::volume::Volumes;

/// Stands for a node id that has been reported as wrong, so that it is not reported as missing.
pub(super) const BAD_NODE_ID: NodeId = NodeId::MAX;

/// An `on` section.
pub(super) struct HostDraft {
    pub(super) name: String,
    pub(super) at: Pos,
    /// The host that has the address.
    pub(super) floating: bool,
    pub(super) node_id: Option<(NodeId, Pos)>,
    pub(super) address: Option<(SocketAddr, Pos)>,
    pub(super) volumes: Volumes,
    /// `disk { }` of the host, outside a volume.
    pub(super) level: Level,
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
    "floating",
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

/// Reads resources; remembers across them what is said once only.
#[derive(Default)]
pub(super) struct Reader {
    /// Files in which `/dev/drbdN` has been explained.
    explained: BTreeSet<u32>,
}

/// What one section is read with.
pub(super) struct Context<'a> {
    pub(super) scope: Scope<'a>,
    pub(super) report: &'a mut Report,
    pub(super) explained: &'a mut BTreeSet<u32>,
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
    pub(super) fn error(&mut self, at: Pos, text: impl Into<String>, hint: impl Into<String>) {
        self.report.error(at, self.scope, text, hint);
    }

    /// A word that stands where none is read.
    pub(super) fn too_much(&mut self, extra: Option<&Word>, hint: &str) {
        if let Some(extra) = extra {
            self.error(extra.at, format!("`{}` is too much here", extra.text), hint);
        }
    }

    pub(super) fn wrong(&mut self, wrong: Wrong) {
        self.error(wrong.at, wrong.text, wrong.hint);
    }

    pub(super) fn unknown(&mut self, statement: &Statement, place: &str, known: &[&'static str]) {
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
            None => suggestion(self.report, keyword, known.iter().copied()),
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
            ("floating", Some(body)) => self.floating(statement, body, draft),
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

    pub(super) fn proxy(&mut self, at: Pos) {
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
            floating: false,
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

    /// `floating ADDRESS { ... }`: a host whose name is the address.
    fn floating(&mut self, statement: &Statement, body: &[Statement], draft: &mut Draft) {
        draft.incomplete |= statement.damaged;
        let at = statement.at();
        let address = match read_address(statement.arguments(), at) {
            Ok((address, 0)) => address,
            Ok((_, left)) => {
                draft.incomplete = true;
                let extra = &statement.words[statement.words.len() - left];
                let text = format!("`{}` is too much here", extra.text);
                return self.error(extra.at, text, "write: floating IP:PORT { ... }");
            }
            Err(wrong) => {
                draft.incomplete = true;
                let hint = "write: floating IP:PORT { ... }".to_owned();
                return self.wrong(Wrong { hint, ..wrong });
            }
        };
        let mut host = HostDraft {
            name: address.to_string(),
            at,
            floating: true,
            node_id: None,
            address: Some((address, at)),
            volumes: Volumes::default(),
            level: Level::new(),
        };
        for statement in body {
            self.host_statement(statement, &mut host);
        }
        draft.hosts.push(host);
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
                Ok((address, left)) => {
                    let extra = &statement.words[statement.words.len() - left];
                    let text = format!("`{}` is too much here", extra.text);
                    self.error(extra.at, text, "write: address IP:PORT;");
                    host.address = host.address.or(Some((address, at)));
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
    pub(super) fn once<T>(&mut self, slot: &mut Option<(T, Pos)>, value: T, at: Pos, what: &str) {
        match slot {
            Some((_, earlier)) => {
                let place = self.report.place(*earlier);
                self.error(at, format!("{what} is given twice"), format!("keep one; see {place}"));
            }
            None => *slot = Some((value, at)),
        }
    }
}
