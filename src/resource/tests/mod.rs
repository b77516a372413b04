//! Stories: two cores on perfect disks and a perfect network, what is done to them, and what they do.

mod auto;
mod between;
mod cache;
mod crossing;
mod disks;
mod ends;
mod fencing;
mod give_up;
mod hand_over;
mod handlers;
mod hung_disk;
mod mid_step;
pub(crate) mod pair;
mod parting;
mod pause;
mod resize;
mod rules;
mod second_look;
mod secret;
mod seed;
mod space;
mod stuck_disk;
mod tentative;
mod thread;
mod verify;
mod waiting;
mod walk;
