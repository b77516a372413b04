//! Placeholder.
use super::*;
use crate::wire::{Refused, VolumeInfo};
#[derive(Clone, Debug)]
pub(crate) enum Resolution {
    NoSync,
    Source { full: bool },
    Target { full: bool },
    Refuse(Refused),
    Retry(String),
}
#[derive(Debug)]
pub(crate) struct Situation<'a> {
    pub(crate) own: &'a VolumeInfo,
    pub(crate) own_role: Role,
    pub(crate) own_tie: u64,
    pub(crate) own_discard: bool,
    pub(crate) own_node: NodeId,
    pub(crate) peer: &'a VolumeInfo,
    pub(crate) peer_role: Role,
    pub(crate) peer_tie: u64,
    pub(crate) peer_discard: bool,
    pub(crate) peer_node: NodeId,
    pub(crate) open_session: bool,
}
pub(crate) fn judge(_s: &Situation<'_>, _o: &Options) -> (Resolution, String) {
    (Resolution::NoSync, String::new())
}
