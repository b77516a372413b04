//! The data of options, and the replies to them.

use crate::constants::*;
use crate::fields::{Fields, sentence, text};
use crate::session::BlockSizes;

/// Data of `NBD_OPT_INFO` and `NBD_OPT_GO`: a name and the wanted information types.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InfoData {
    pub(super) name: String,
    pub(super) requests: Vec<u16>,
}

impl InfoData {
    /// `None` if the data is not exactly a name and a counted list.
    pub(super) fn parse(data: &[u8]) -> Option<InfoData> {
        let mut fields = Fields::new(data);
        let name = fields.string()?.to_owned();
        let count = usize::from(fields.u16()?);
        // The count must account for the data, so it cannot make us reserve more than arrived.
        if fields.rest().len() != count * 2 {
            return None;
        }
        let requests = std::iter::from_fn(|| fields.u16()).collect();
        Some(InfoData { name, requests })
    }
}

/// Data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MetaData {
    pub(super) name: String,
    /// A query names `base:allocation`.
    pub(super) matched: bool,
}

impl MetaData {
    /// `None` if the data is not exactly a name and a counted list of queries.
    pub(super) fn parse(data: &[u8], listing: bool) -> Option<MetaData> {
        let mut fields = Fields::new(data);
        let name = fields.string()?.to_owned();
        let count = fields.u32()?;
        // A list without queries is a list of all; a selection without queries is empty.
        let mut matched = listing && count == 0;
        for _ in 0..count {
            // Ends with the data, whatever the count says.
            let query = fields.string()?;
            // Other namespaces are ignored, as proto.md demands.
            matched |= query == BASE_ALLOCATION || listing && matches!(query, "" | "base:");
        }
        fields.is_empty().then_some(MetaData { name, matched })
    }
}

/// One reply packet.
pub(super) fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(OPTION_REPLY_HEADER_LENGTH + data.len());
    push(&mut out, option, kind, &[data]);
    out
}

/// One error packet with its sentence.
pub(super) fn reply_error(option: u32, kind: u32, why: &str) -> Vec<u8> {
    reply(option, kind, sentence(why).as_bytes())
}

fn push(out: &mut Vec<u8>, option: u32, kind: u32, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&NBD_REP_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    // Parts are strings of at most 4096 bytes and a few fixed fields.
    out.extend_from_slice(&(length as u32).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// The packets that answer one option, in order.
#[derive(Debug)]
pub(super) struct OptionReply {
    option: u32,
    out: Vec<u8>,
}

impl OptionReply {
    pub(super) fn new(option: u32) -> OptionReply {
        OptionReply { option, out: Vec::new() }
    }

    /// One export of a list. A name that the protocol cannot carry is not shown.
    pub(super) fn server(&mut self, name: &str, description: &str) {
        if text(name.as_bytes()).is_none() {
            return;
        }
        let length = (name.len() as u32).to_be_bytes();
        let parts = [&length[..], name.as_bytes(), sentence(description).as_bytes()];
        push(&mut self.out, self.option, NBD_REP_SERVER, &parts);
    }

    pub(super) fn info_export(&mut self, size: u64, flags: u16) {
        self.info(NBD_INFO_EXPORT, &[&size.to_be_bytes(), &flags.to_be_bytes()]);
    }

    pub(super) fn info_text(&mut self, kind: u16, words: &str) {
        self.info(kind, &[words.as_bytes()]);
    }

    pub(super) fn info_keepers(&mut self, keepers: &[[u8; 16]]) {
        self.info(
            TANDEM_INFO_KEEPERS,
            &[keepers[..keepers.len().min(KEEPERS_LIMIT)].as_flattened()],
        );
    }

    pub(super) fn info_block_size(&mut self, block: &BlockSizes) {
        self.info(
            NBD_INFO_BLOCK_SIZE,
            &[
                &block.minimum().to_be_bytes(),
                &block.preferred().to_be_bytes(),
                &block.maximum().to_be_bytes(),
            ],
        );
    }

    fn info(&mut self, kind: u16, parts: &[&[u8]]) {
        let kind = kind.to_be_bytes();
        let mut all: Vec<&[u8]> = vec![&kind];
        all.extend_from_slice(parts);
        push(&mut self.out, self.option, NBD_REP_INFO, &all);
    }

    pub(super) fn meta_context(&mut self, id: u32, name: &str) {
        let parts = [&id.to_be_bytes()[..], name.as_bytes()];
        push(&mut self.out, self.option, NBD_REP_META_CONTEXT, &parts);
    }

    /// Ends the reply.
    pub(super) fn ack(mut self) -> Vec<u8> {
        push(&mut self.out, self.option, NBD_REP_ACK, &[]);
        self.out
    }
}
