//! The decision of the handshake over all small states: identifiers 0 to 3 in every place, flags,
//! bits, roles and disks on both sides, all policies. An oracle, written on small numbers from the
//! rules of docs/GENERATIONS.md alone, must come to the same verdict.

#[path = "decision/oracle.rs"]
mod oracle;
#[path = "decision/pairs.rs"]
mod pairs;
#[path = "decision/policies.rs"]
mod policies;
#[path = "decision/small.rs"]
mod small;
#[path = "decision/victims.rs"]
mod victims;

use tandem::resource::NodeId;
use tandem::resource::generation::Side;
use tandem::resource::split_brain::Party;

/// A node whose resource has this one volume.
fn party(side: Side<'_>, node_id: NodeId, discard_my_data: bool) -> Party<'_> {
    Party { side, node_id, discard_my_data, changes: side.info.bits }
}
