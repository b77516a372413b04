//! `daemon restart` and `daemon stop`.

use super::{Failure, Outcome, Session, print};
use crate::control::arguments::DaemonVerb;
use crate::control::{DaemonOrder, Request};
use crate::resource::Status;

impl Session {
    /// Orders for the daemon itself. Clients that have something open are named first.
    pub(super) fn daemon(&self, verb: &DaemonVerb) -> Outcome {
        let order = match verb {
            DaemonVerb::Restart { timeout } => {
                DaemonOrder::Restart { timeout_ms: u64::from(*timeout) * 1000 }
            }
            DaemonVerb::Stop { forced } => DaemonOrder::Stop { force: forced.force },
        };
        let mut client = self.client()?;
        let reports = client.reports(None)?;
        let statuses: Vec<Status> = reports.into_iter().map(|report| report.status).collect();
        let open = super::super::restart::open_by(&statuses);
        if !open.is_empty() {
            match order {
                DaemonOrder::Restart { .. } => print(&format!("waits meanwhile: {open}\n"))?,
                DaemonOrder::Stop { force: true } => print(&format!("is closed: {open}\n"))?,
                // The refusal names them.
                DaemonOrder::Stop { force: false } => {}
            }
        }
        if self.globals.dry_run {
            return Ok(());
        }
        let pid = client.pid();
        match (client.last_order(&Request::Daemon { order })?, order) {
            (Some(Ok(text)), _) => print(&format!("{text}\n")),
            (Some(Err(refusal)), _) => Err(Failure::refused("tandemd", &refusal)),
            (None, DaemonOrder::Stop { .. }) if client.was_replaced(&pid) => Err(Failure::new(
                11,
                "tandemd was restarted by another order that was given at the same time, and runs; try again",
            )),
            (None, DaemonOrder::Stop { .. }) => Ok(()),
            (None, DaemonOrder::Restart { .. }) if client.was_replaced(&pid) => {
                print("tandemd was started anew by another order that was given at the same time\n")
            }
            (None, DaemonOrder::Restart { .. }) => {
                let text = "tandemd has ended in the middle of its restart: it is as after a crash; its \
                            log says more";
                Err(Failure::new(20, text))
            }
        }
    }
}
