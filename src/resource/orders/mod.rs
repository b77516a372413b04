//! The administrator's orders: one runs, the others wait.

pub(in crate::resource) mod attach;
pub(in crate::resource) mod auto_promote;
pub(in crate::resource) mod clear_bitmap;
pub(in crate::resource) mod demote;
pub(in crate::resource) mod give_up;
pub(in crate::resource) mod hand_over;
pub(in crate::resource) mod order;
pub(in crate::resource) mod pause;
pub(in crate::resource) mod promote;
pub(in crate::resource) mod resize;
pub(in crate::resource) mod seed;
pub(in crate::resource) mod waits;
