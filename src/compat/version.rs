//! `drbdadm --version`: shell assignments, which agents evaluate.

use crate::control::version::VERSION;

/// The lines. `for_agent`: DRBD's OCF agent evaluates them. It looks for `/proc/drbd`, which no
/// daemon can make, with a function that these lines may therefore define anew.
///
/// The numbers are those of the DRBD whose outputs Tandem has: from 9.0.0 on the agent uses events2;
/// drbd-reactor wants a drbdadm of 9.29.0 and a module of 9.1.7 at least.
#[must_use]
pub fn version(for_agent: bool) -> String {
    let mut lines = format!(
        "DRBDADM_BUILDTAG=Tandem\\ {VERSION}\n\
         DRBDADM_API_VERSION=2\n\
         DRBD_KERNEL_VERSION_CODE=0x090200\n\
         DRBD_KERNEL_VERSION=9.2.0\n\
         DRBDADM_VERSION_CODE=0x092100\n\
         DRBDADM_VERSION=9.33.0\n"
    );
    lines += &crate::control::version::lines();
    if for_agent {
        lines += "is_drbd_enabled() { :; }\n";
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn the_agents_test_for_the_module_is_replaced_for_the_agent_only() {
        assert!(version(true).ends_with("\nis_drbd_enabled() { :; }\n"));
        let lines = version(false);
        let is_assignment = |line: &str| {
            let (name, value) = line.split_once('=').unwrap();
            name.chars().all(|c| c.is_ascii_uppercase() || c == '_') && !value.is_empty()
        };
        assert!(lines.lines().all(is_assignment), "{lines}");
        for line in ["DRBD_KERNEL_VERSION_CODE=0x090200", "DRBDADM_VERSION_CODE=0x092100"] {
            assert!(lines.lines().any(|one| one == line), "{lines}");
        }
    }
}
