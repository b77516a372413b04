//! Whether this kernel lets us work: io_uring itself, the features, and the operations that the
//! data plane rests on. Asked once at start, so that what is missing is named with its cure and
//! not found at the first write.

use std::io;

use io_uring::{Probe, opcode};

use super::ring;

/// What is missing. `tandemd` prints it and exits with 20.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel has no io_uring, or a seccomp filter hides it (ENOSYS).
    #[error(
        "this kernel has no io_uring, or a seccomp filter hides it: use Linux 5.15 or later, \
         and in a container allow io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Absent,
    /// `kernel.io_uring_disabled` forbids it.
    #[error(
        "kernel.io_uring_disabled is {0} and forbids io_uring: run `sysctl -w \
         kernel.io_uring_disabled=0`, or with 1 put the daemon's group into kernel.io_uring_group"
    )]
    Disabled(u32),
    /// A security filter forbids it.
    #[error(
        "a security filter (seccomp or LSM) forbids io_uring: allow io_uring_setup, \
         io_uring_enter and io_uring_register, for example with a seccomp profile of the container"
    )]
    Forbidden,
    /// The limit of locked memory is too small (kernels before 5.12).
    #[error("the limit of locked memory is too small for io_uring: raise LimitMEMLOCK to 64M")]
    LockedMemory,
    /// Anything else.
    #[error("io_uring_setup failed: {0}")]
    Setup(io::Error),
    /// The ring lacks features or operations.
    #[error("this kernel's io_uring lacks {}: use Linux 5.15 or later", .0.join(", "))]
    Lacks(Vec<&'static str>),
}

/// Asks the kernel.
///
/// # Errors
/// Something that the data plane needs is missing or forbidden.
pub fn check() -> Result<(), ProbeError> {
    let (ring, _) = ring::create(8, 16).map_err(|error| explain(error, disabled()))?;
    let parameters = ring.params();
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(ProbeError::Setup)?;
    let features = [
        ("NODROP", parameters.is_feature_nodrop()),
        ("FAST_POLL", parameters.is_feature_fast_poll()),
        ("EXT_ARG", parameters.is_feature_ext_arg()),
        ("SUBMIT_STABLE", parameters.is_feature_submit_stable()),
    ];
    let operations = [
        ("READ", opcode::Read::CODE),
        ("WRITE", opcode::Write::CODE),
        ("FSYNC", opcode::Fsync::CODE),
        ("FALLOCATE", opcode::Fallocate::CODE),
        ("RECV", opcode::Recv::CODE),
        ("SENDMSG", opcode::SendMsg::CODE),
        ("ACCEPT", opcode::Accept::CODE),
        ("CONNECT", opcode::Connect::CODE),
        ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
    ];
    let operations = operations.map(|(name, code)| (name, probe.is_supported(code)));
    let all = features.into_iter().chain(operations);
    let lacks: Vec<_> = all.filter(|(_, there)| !there).map(|(name, _)| name).collect();
    if lacks.is_empty() { Ok(()) } else { Err(ProbeError::Lacks(lacks)) }
}

/// `kernel.io_uring_disabled`, 0 where the kernel does not have it.
fn disabled() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn explain(error: io::Error, disabled: u32) -> ProbeError {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => ProbeError::Absent,
        Some(libc::EPERM | libc::EACCES) if disabled > 0 => ProbeError::Disabled(disabled),
        Some(libc::EPERM | libc::EACCES) => ProbeError::Forbidden,
        Some(libc::ENOMEM) => ProbeError::LockedMemory,
        _ => ProbeError::Setup(error),
    }
}

/// Raises the soft limit of open files to the hard one; each client, peer and disk takes some.
///
/// # Errors
/// What getrlimit or setrlimit says; the daemon can go on.
pub fn raise_open_files() -> io::Result<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forbidden_is_named_with_its_cure() {
        let error = |raw| io::Error::from_raw_os_error(raw);
        let text = |raw, disabled| explain(error(raw), disabled).to_string();
        assert!(text(libc::ENOSYS, 0).contains("has no io_uring"));
        assert!(text(libc::EPERM, 2).contains("sysctl -w kernel.io_uring_disabled=0"));
        assert!(text(libc::EPERM, 0).contains("seccomp"));
        assert!(text(libc::ENOMEM, 0).contains("LimitMEMLOCK"));
        let lacks = ProbeError::Lacks(vec!["FSYNC", "ACCEPT"]).to_string();
        assert!(lacks.contains("FSYNC, ACCEPT"));
    }

    #[test]
    fn this_kernel_passes() {
        check().unwrap();
    }
}
