//! What a guard writes down of a volume that it serves as a file of FUSE.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::record::{Guarded, failed_line, server_lines};

/// One attached file. It is kept as `DIR/fuse-RES-VOL.device`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FuseRecord {
    /// `r0/0`.
    pub volume: String,
    /// The file.
    pub file: PathBuf,
    /// The loop device over it.
    pub loop_device: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Seconds that I/O waits without any server.
    pub dead_conn_timeout: u64,
    /// The last server.
    pub server: String,
    /// Since when there is none: seconds of this boot.
    pub lost_at: Option<u64>,
    /// What each server said last that could not be used.
    pub refusals: Vec<(String, String)>,
    /// Why the device was let go of: its I/O fails.
    #[serde(default)]
    pub failed: Option<String>,
    /// Who had all that was answered, when it was asked last ([`super::Keeper`]).
    #[serde(default)]
    pub keepers: Vec<super::Keeper>,
}

impl FuseRecord {
    /// What is worked with: the loop device, or the file.
    #[must_use]
    pub fn device(&self) -> String {
        self.loop_device.clone().unwrap_or_else(|| self.file.display().to_string())
    }

    /// One device for people. `now`: seconds of this boot.
    #[must_use]
    pub fn lines(&self, now: u64, guard: Guarded) -> String {
        let Self { volume, server, .. } = self;
        let mut text = format!("{volume} {} {} bytes\n", self.device(), self.size);
        text += &format!("  file: {} (FUSE)\n", self.file.display());
        // What was let go of waits no longer.
        let wait = if self.failed.is_some() { 0 } else { self.dead_conn_timeout };
        let lost = self.lost_at.map(|at| (now.saturating_sub(at), wait));
        text += &server_lines(server, 1, lost, &self.refusals);
        text += &failed_line(self.failed.as_deref());
        text + &guard.line("; without one all I/O fails: detach it")
    }
}
