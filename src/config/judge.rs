//! The options in force, and what becomes of each.
//!
//! The *value in force* is judged, not the word: what another level overrides says nothing, neither
//! does a value that is what Tandem does anyway. The core has one set of options for a resource, so
//! a value that acts must be in force for all its volumes on both hosts.

use std::collections::{BTreeMap, BTreeSet};

use crate::resource::{
    AfterSb0Pri, BLOCK_SIZE, DiskOptions, Fencing, Handler, Options, VolumeNumber,
};

use super::definition::{Place, Waits, same_host};
use super::draft::{Draft, HostDraft};
use super::finding::{Pos, Report, Scope};
use super::option_table::{
    CSUMS_ALGS, Effect, GO_TOGETHER, OPTIONS, REFUSED_VALUES, Section, Spec, VERIFY_ALGS, Value,
    WARNED_VALUES, find,
};
use super::resync_after::ResyncAfter;
use super::setting::{Level, Setting};
use crate::secret::{Algorithm, Secret, Secrets};

/// The levels that are in force for one volume on one host, the strongest first.
type Chain<'a> = Vec<(Rank, &'a Level)>;

/// How near to the volume a level is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    HostVolume,
    ConnectionVolume,
    Volume,
    Host,
    Connection,
    Resource,
    Common,
}

/// The `size` in force for a volume on one host, bytes, a multiple of 4096; `None`: not given.
pub(super) fn size(
    draft: &Draft,
    common: &Level,
    host: &HostDraft,
    number: VolumeNumber,
) -> Option<u64> {
    let size = find("size").expect("the table has it");
    let (_, setting) = in_force(&chain(draft, common, host, number), size)?;
    let Value::Number(sectors) = setting.value else { return None };
    let bytes = sectors * 512;
    (bytes >= BLOCK_SIZE).then_some(bytes - bytes % BLOCK_SIZE)
}

/// `resync-after` in force for a volume on one host, and where it is written.
pub(super) fn resync_after(
    draft: &Draft,
    common: &Level,
    host: &HostDraft,
    number: VolumeNumber,
) -> Option<(ResyncAfter, Pos)> {
    let spec = find("resync-after").expect("the table has it");
    let chain = chain(draft, common, host, number);
    let (_, setting) = in_force(&chain, spec)?;
    // What cannot be read is told by the judge.
    let after = ResyncAfter::of_option(&setting.value.text()).ok()??;
    Some((after, setting.at))
}

/// The `disk` options in force for a volume on one host, where they are not the resource's.
pub(super) fn disk_options(
    draft: &Draft,
    common: &Level,
    host: &HostDraft,
    number: VolumeNumber,
    resource: &Options,
) -> Option<DiskOptions> {
    let chain = chain(draft, common, host, number);
    let mut options = Options::default();
    for spec in OPTIONS.iter().filter(|spec| spec.section == Section::Disk) {
        if let (Some((_, setting)), Effect::Acts(apply)) = (in_force(&chain, spec), spec.effect)
            && setting.value != Value::Bad
        {
            apply(&mut options, &setting.value);
        }
    }
    (options.disk() != resource.disk()).then(|| options.disk())
}

/// What the `startup` section says of waiting.
pub(super) fn waits(draft: &Draft, common: &Level) -> Waits {
    let value = |name: &str| {
        let spec = find(name).expect("the table has it");
        in_force(&outer(draft, common), spec).map(|(_, setting)| setting.value.clone())
    };
    let seconds = |name: &str| match value(name) {
        Some(Value::Number(seconds)) => Some(u32::try_from(seconds).unwrap_or(0)),
        Some(Value::Bool(_) | Value::Word(_) | Value::Bad) | None => None,
    };
    Waits {
        wfc_timeout: seconds("wfc-timeout"),
        degr_wfc_timeout: seconds("degr-wfc-timeout"),
        outdated_wfc_timeout: seconds("outdated-wfc-timeout"),
        wait_after_sb: match value("wait-after-sb") {
            Some(Value::Bool(yes)) => Some(yes),
            Some(Value::Number(_) | Value::Word(_) | Value::Bad) | None => None,
        },
    }
}

/// The options of a resource, and where each is written.
pub(super) fn options(
    draft: &Draft,
    common: &Level,
    hosts: &[&HostDraft],
    volumes: &BTreeSet<VolumeNumber>,
    ids: &[Option<u8>],
    report: &mut Report,
) -> (Options, BTreeMap<String, Place>) {
    let chains = chains(draft, common, hosts, volumes);
    let mut judge = Judge { draft, hosts, ids, report };
    let mut options = Options::default();
    let mut written = BTreeMap::new();
    for spec in OPTIONS.iter().filter(|spec| spec.section != Section::Global) {
        let found: Vec<_> = chains.iter().map(|chain| in_force(chain, spec)).collect();
        let mut settings: Vec<(Rank, &Setting)> = found.iter().copied().flatten().collect();
        settings.sort_by_key(|(rank, setting)| (*rank, setting.at));
        settings.dedup_by_key(|(_, setting)| setting.at);
        for (rank, setting) in &settings {
            judge.setting(*rank, setting);
        }
        let Some((_, nearest)) = settings.first() else { continue };
        if let Effect::Acts(_) = spec.effect {
            let all: Vec<Options> = found.iter().map(|found| judge.applied(*found)).collect();
            match all.windows(2).any(|pair| pair[0] != pair[1]) {
                false => judge.apply(nearest, &mut options),
                // Volumes have their own: what the resource says is for the others.
                true if spec.section == Section::Disk => {
                    if let Some((_, setting)) = in_force(&outer(draft, common), spec) {
                        judge.apply(setting, &mut options);
                    }
                }
                true => judge.differs(nearest),
            }
        }
        written.insert(spec.name.to_owned(), judge.report.place(nearest.at));
    }
    judge.handlers(&chains, &options);
    (options, written)
}

/// What peers must prove, and where it is written; `None`: nothing.
pub(super) fn secrets(
    draft: &Draft,
    common: &Level,
    hosts: &[&HostDraft],
    volumes: &BTreeSet<VolumeNumber>,
    report: &mut Report,
) -> Option<Secrets> {
    let chains = chains(draft, common, hosts, volumes);
    let mut judge = Judge { draft, hosts, ids: &[], report };
    // In a template whose variable is not set, for example.
    let spec = find("shared-secret").expect("the table has it");
    let empty = chains.iter().find_map(|chain| in_force(chain, spec));
    let is_empty = |value: &Value| matches!(value, Value::Word(word) if word.is_empty());
    let empty = empty.map(|(_, setting)| setting).filter(|setting| is_empty(&setting.value));
    let mut value = |name| {
        let spec = find(name).expect("the table has it");
        let found: Vec<_> = chains.iter().map(|chain| in_force(chain, spec)).collect();
        let values = found.iter().map(|found| found.map(|(_, setting)| &setting.value));
        let (_, nearest) = found.iter().copied().flatten().min_by_key(|(rank, _)| *rank)?;
        if values.collect::<Vec<_>>().windows(2).any(|pair| pair[0] != pair[1]) {
            judge.differs(nearest);
        }
        let text = nearest.value.text();
        (!text.is_empty()).then_some((nearest, text))
    };
    let (algorithm, old) = (value("cram-hmac-alg"), value("shared-secret-old"));
    let secret = value("shared-secret").and_then(|(_, text)| Secret::new(&text));
    let Some(shared_secret) = secret else {
        if let Some(setting) = empty {
            let why = "it is empty: peers are not authenticated";
            judge.warn(setting, why, "write: shared-secret \"SECRET\";  or remove the line");
        }
        if let Some((setting, _)) = old {
            let why = "there is no shared-secret that it could be older than";
            judge.refuse(Rank::Resource, setting, why, "write: shared-secret \"NEW SECRET\";");
        }
        if let Some((setting, _)) = algorithm {
            let why = "no effect without shared-secret: peers are not authenticated";
            judge.warn(setting, why, "write: shared-secret \"SECRET\";  or remove the line");
        }
        return None;
    };
    Some(Secrets {
        cram_hmac_alg: algorithm
            .and_then(|(_, name)| Algorithm::from_name(&name))
            .unwrap_or_default(),
        shared_secret,
        shared_secret_old: old.and_then(|(_, text)| Secret::new(&text)),
    })
}

/// A chain for each volume on each host; one for the resource alone if there is none.
fn chains<'a>(
    draft: &'a Draft,
    common: &'a Level,
    hosts: &[&'a HostDraft],
    volumes: &BTreeSet<VolumeNumber>,
) -> Vec<Chain<'a>> {
    let mut chains: Vec<Chain<'a>> = Vec::new();
    for host in hosts {
        for number in volumes {
            let mut chain = chain(draft, common, host, *number);
            // Most volumes say nothing of their own: one chain stands for all of them.
            chain.retain(|(_, level)| !level.is_empty());
            let same = |last: &Chain<'a>| {
                last.len() == chain.len()
                    && last.iter().zip(&chain).all(|(a, b)| std::ptr::eq(a.1, b.1))
            };
            if !chains.last().is_some_and(same) {
                chains.push(chain);
            }
        }
    }
    if chains.is_empty() {
        chains.push(outer(draft, common));
    }
    chains
}

/// The levels of one volume on one host.
fn chain<'a>(
    draft: &'a Draft,
    common: &'a Level,
    host: &'a HostDraft,
    number: VolumeNumber,
) -> Chain<'a> {
    let own = host.volumes.numbered.get(&number);
    let connection = draft.connections.first();
    let peer = connection.and_then(|connection| connection.volumes.get(&number));
    let general = draft.volumes.numbered.get(&number);
    let mut chain = Chain::new();
    chain.extend(own.map(|volume| (Rank::HostVolume, &volume.level)));
    chain.extend(peer.map(|(_, level)| (Rank::ConnectionVolume, level)));
    chain.extend(general.map(|volume| (Rank::Volume, &volume.level)));
    chain.push((Rank::Host, &host.level));
    chain.extend(outer(draft, common));
    chain
}

/// The levels of all volumes.
fn outer<'a>(draft: &'a Draft, common: &'a Level) -> Chain<'a> {
    let connection = draft.connections.first();
    let mut chain = Chain::new();
    chain.extend(connection.map(|connection| (Rank::Connection, &connection.level)));
    chain.extend([(Rank::Resource, &draft.level), (Rank::Common, common)]);
    chain
}

fn in_force<'a>(chain: &Chain<'a>, spec: &Spec) -> Option<(Rank, &'a Setting)> {
    chain.iter().find_map(|(rank, level)| level.get(spec.name).map(|setting| (*rank, setting)))
}

/// Why a value that takes effect is warned about, and what is right. On a command line too.
pub(super) fn warned(name: &str, value: &str) -> Option<(&'static str, String)> {
    let other_digest = |known: &[&str]| !known.contains(&value);
    match name {
        "verify-alg" if other_digest(VERIFY_ALGS) => {
            let why = "no such digest here: an online verify compares by sha256";
            return Some((why, "verify-alg sha256;  or sha512, or crc32c".to_owned()));
        }
        "csums-alg" if other_digest(CSUMS_ALGS) => {
            let why = "no such digest here: a resync compares by sha256";
            return Some((why, "csums-alg sha256;  or sha512, or none".to_owned()));
        }
        _ => {}
    }
    let (_, value, why) = WARNED_VALUES.iter().find(|row| (row.0, row.1) == (name, value))?;
    let other = match *value {
        "no" => "yes",
        "sha1" => Algorithm::Sha256.name(),
        _ => "no",
    };
    Some((why, format!("{name} {other};")))
}

struct Judge<'a> {
    draft: &'a Draft,
    hosts: &'a [&'a HostDraft],
    ids: &'a [Option<u8>],
    report: &'a mut Report,
}

impl Judge<'_> {
    /// Says what becomes of a setting that is in force.
    fn setting(&mut self, rank: Rank, setting: &Setting) {
        let Setting { spec, value, .. } = setting;
        let name = spec.name;
        if *value == Value::Bad {
            // Reported where it is written.
            self.report.refuse(&self.draft.name);
            return;
        }
        let text = value.text();
        match spec.effect {
            Effect::Acts(_) | Effect::Secret => {
                let refused = REFUSED_VALUES.iter().find(|row| (row.0, row.1) == (name, &text));
                if let Some((_, _, why, hint)) = refused {
                    self.refuse(rank, setting, why, &format!("write: {hint}"));
                }
                if let Some((why, right)) = warned(name, &text) {
                    self.warn(setting, why, &format!("write: {right}"));
                }
            }
            // 0 is none; less than a block would be none without a word.
            Effect::PerVolume if matches!(value, Value::Number(sectors) if (1..8).contains(sectors)) =>
            {
                let why = "a volume has one block of 4096 bytes at least";
                self.refuse(rank, setting, why, "write: size 8s;  or more;  or remove the line");
            }
            Effect::PerVolume if name == "resync-after" => {
                if let Err(why) = ResyncAfter::of_option(&text) {
                    let hint = "write: resync-after RESOURCE/VOLUME;  or: resync-after -1;";
                    self.refuse(rank, setting, &why, hint);
                }
            }
            Effect::PerVolume | Effect::Admin => {}
            Effect::Harmless(silent, _) | Effect::Refused(silent, ..)
                if silent.contains(&text.as_str()) => {}
            Effect::Harmless(silent, why) => {
                let hint = match silent.first() {
                    Some(value) if !value.is_empty() => {
                        format!("remove it, or write: {name} {value};")
                    }
                    _ => "remove it".to_owned(),
                };
                self.warn(setting, why, &hint);
            }
            Effect::Refused(_, why, right) => {
                let statement = right.ends_with(';');
                let hint = if statement { format!("write: {right}") } else { right.to_owned() };
                self.refuse(rank, setting, why, &hint);
            }
        }
    }

    /// Handlers that nothing runs, and what has nothing to run.
    fn handlers(&mut self, chains: &[Chain<'_>], options: &Options) {
        let found = |name: &str| {
            let spec = find(name)?;
            chains.iter().find_map(|chain| in_force(chain, spec)).map(|(_, setting)| setting)
        };
        let fences = options.fencing != Fencing::DontCare;
        for handler in [Handler::FencePeer, Handler::UnfencePeer] {
            let setting = found(handler.name()).filter(|_| !fences);
            if let Some(setting) = setting.filter(|_| options.handlers.contains_key(&handler)) {
                self.warn(setting, "never called while fencing is dont-care", "remove it");
            }
        }
        let asks = found("fencing").filter(|_| fences);
        if let Some(setting) = asks.filter(|_| !options.handlers.contains_key(&Handler::FencePeer))
        {
            let why = match options.fencing {
                Fencing::ResourceAndStonith => {
                    "takes effect without a handler fence-peer: a Primary that loses its peer freezes \
                     I/O until the peer is back, or `resume-io`"
                }
                Fencing::ResourceOnly | Fencing::DontCare => {
                    "takes effect without a handler fence-peer: no node is promoted while its peer is \
                     away, but by force"
                }
            };
            self.warn(setting, why, "write: handlers { fence-peer \"...\"; }");
        }
        for (handler, options_of, value) in GO_TOGETHER {
            let name = handler.name();
            let runs = options.handlers.contains_key(handler);
            let specs = options_of.iter().filter_map(|option| find(option));
            let all = specs.flat_map(|spec| chains.iter().filter_map(|c| in_force(c, spec)));
            let calling = all.map(|(_, setting)| setting).find(|s| s.value.text() == *value);
            match (found(name).filter(|_| runs), calling) {
                (Some(setting), None) => {
                    let option = options_of[0];
                    let why = format!("only {option} {value} calls it");
                    self.warn(setting, &why, &format!("remove it, or write: {option} {value};"));
                }
                (None, Some(setting)) => {
                    let why = format!("there is no handler {name}, and nothing is called");
                    self.warn(setting, &why, &format!("write: handlers {{ {name} \"...\"; }}"));
                }
                _ => {}
            }
        }
    }

    fn refuse(&mut self, rank: Rank, setting: &Setting, why: &str, hint: &str) {
        let Setting { spec, written, at, .. } = setting;
        let mut text = format!("{} {written}: {why}", spec.name);
        if rank == Rank::Common {
            text += &format!(" (in force for resource {})", self.draft.name);
        }
        self.report.error(*at, Scope::Resource(&self.draft.name), text, hint);
    }

    fn warn(&mut self, setting: &Setting, why: &str, hint: &str) {
        let Setting { spec, written, at, .. } = setting;
        let text = format!("{} {written}: {why}", spec.name);
        self.report.warning(*at, Scope::Resource(&self.draft.name), text, hint);
    }

    fn differs(&mut self, nearest: &Setting) {
        let name = nearest.spec.name;
        let text = format!(
            "{name} {}: not the same for all volumes and hosts, and a resource has one value",
            nearest.written
        );
        let section = nearest.spec.section.name();
        let hint = format!("write it once, in the resource: {section} {{ {name} ...; }}");
        self.report.error(nearest.at, Scope::Resource(&self.draft.name), text, hint);
    }

    /// The default options with one setting applied, for comparing.
    fn applied(&mut self, found: Option<(Rank, &Setting)>) -> Options {
        let mut options = Options::default();
        if let Some((_, Setting { spec, value, .. })) = found
            && let Effect::Acts(apply) = spec.effect
            && *value != Value::Bad
        {
            apply(&mut options, value);
        }
        options
    }

    fn apply(&mut self, setting: &Setting, options: &mut Options) {
        let Effect::Acts(apply) = setting.spec.effect else { return };
        if setting.value == Value::Bad {
            return;
        }
        apply(options, &setting.value);
        let text = setting.value.text();
        if setting.spec.name == "after-sb-0pri"
            && let Some(name) = text.strip_prefix("discard-node-")
        {
            let host = self.hosts.iter().position(|host| same_host(&host.name, name));
            match host {
                Some(index) => {
                    if let Some(id) = self.ids[index] {
                        options.after_sb_0pri = AfterSb0Pri::DiscardNode(id);
                    }
                }
                None if self.draft.incomplete || self.hosts.len() < 2 => {}
                None => {
                    let names: Vec<&str> =
                        self.hosts.iter().map(|host| host.name.as_str()).collect();
                    let text = format!("{text}: {name} is no host of {}", self.draft.name);
                    let hint = format!("one of: {}", names.join(", "));
                    self.report.error(setting.at, Scope::Resource(&self.draft.name), text, hint);
                }
            }
        }
    }
}
