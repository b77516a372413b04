//! A finding about an order that runs and does not end at once.

use super::{Finding, View, age, opened, sentence, severity};
use crate::control::waiting_order;

/// The order that runs: whoever gave it may have gone, and later orders wait for its end.
pub(super) fn finding(report: &View<'_>) -> Option<Finding> {
    let status = &report.status;
    let order = waiting_order(status)?;
    let (node, resource, verb) = (&status.node_name, &status.name, &order.verb);
    let seconds = order.for_ms / 1000;
    let since = report.at(report.taken_at.saturating_sub(seconds));
    let behind = match order.behind {
        0 => String::new(),
        1 => " One more order waits for its end.".to_owned(),
        n => format!(" {n} more orders wait for its end."),
    };
    let clients = order.waits_for.starts_with("clients");
    let mut next = Vec::new();
    if clients {
        next.push(format!(
            "close what has the device open, or decide at once: `tandemadm secondary {resource}` \
             ends the wait and is refused while it is open; with `--force` the clients are closed."
        ));
    } else if verb == "shutdown" {
        next.push("wait: tandemd ends in any case, within a minute.".to_owned());
    } else {
        next.push(format!(
            "bring what it waits for back. A disk that hangs is given up by `tandemadm detach \
             --force` on its node; a peer that does not answer is left by `tandemadm disconnect \
             --force {resource}`."
        ));
    }
    let why = match order.left_ms {
        Some(ms) if clients => {
            format!("`secondary --wait` gives them {} more.", age(ms.div_ceil(1000)))
        }
        Some(ms) => format!(
            "if that does not come in {}, the order is refused and nothing has changed.",
            age(ms.div_ceil(1000))
        ),
        None => "it is carried out when that has come, whoever waits for its answer.".to_owned(),
    };
    Some(Finding {
        severity: severity::ORDER,
        headline: format!("{resource}: `{verb}` on {node} has not ended yet"),
        state: format!(
            "it runs since {since} ({} ago) and waits for {}{behind}",
            age(seconds),
            sentence(&order.waits_for)
        ),
        open: if clients { opened(report) } else { Vec::new() },
        why,
        data: None,
        next,
    })
}
