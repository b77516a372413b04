//! `tandemadm --version`: lines of shell assignments, as `drbdadm --version` prints them.

/// The version of this program, `MAJOR.MINOR.PATCH`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The lines, ready to be evaluated by a shell.
#[must_use]
pub fn lines() -> String {
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    let code = number(env!("CARGO_PKG_VERSION_MAJOR")) << 16
        | number(env!("CARGO_PKG_VERSION_MINOR")) << 8
        | number(env!("CARGO_PKG_VERSION_PATCH"));
    format!("TANDEM_API_VERSION=1\nTANDEM_VERSION_CODE=0x{code:06x}\nTANDEM_VERSION={VERSION}\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_lines_are_assignments() {
        let lines = super::lines();
        assert!(lines.lines().all(|line| line.starts_with("TANDEM_") && line.contains('=')));
        assert!(lines.contains(concat!("TANDEM_VERSION=", env!("CARGO_PKG_VERSION"), "\n")));
    }
}
