//! Config files from the file system, for [`crate::config::load`].

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use crate::config::{FILE_MAX, Files, is_pattern, matches};

/// Most paths that a pattern may match; a folder with more is not one of config files.
const PATHS_MAX: usize = 100_000;

/// The files of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConfigFiles;

impl Files for ConfigFiles {
    fn read(&self, path: &str) -> Result<String, String> {
        // Opening a FIFO must not wait for somebody who writes into it.
        let nonblocking = nix::fcntl::OFlag::O_NONBLOCK.bits();
        let file = File::options().read(true).custom_flags(nonblocking).open(path);
        let file = file.map_err(|error| error.to_string())?;
        if !file.metadata().map_err(|error| error.to_string())?.is_file() {
            return Err("not a regular file".to_owned());
        }
        let mut bytes = Vec::new();
        // One byte more than a config may have, so that a longer file is seen to be longer.
        let limit = FILE_MAX as u64 + 1;
        file.take(limit).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        if bytes.len() > FILE_MAX {
            return Err(format!("larger than {FILE_MAX} bytes"));
        }
        // In a comment anything may stand; elsewhere the place of what is no text is told.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn canonical(&self, path: &str) -> String {
        let found =
            fs::canonicalize(path).ok().and_then(|found| found.into_os_string().into_string().ok());
        found.unwrap_or_else(|| path.to_owned())
    }

    fn is_public(&self, path: &str) -> bool {
        const OTHERS_READ: u32 = 0o004;
        fs::metadata(path).is_ok_and(|found| found.mode() & OTHERS_READ != 0)
    }

    fn glob(&self, pattern: &str) -> Result<Vec<String>, String> {
        let root = if pattern.starts_with('/') { "/" } else { "" };
        let mut paths = vec![PathBuf::from(root)];
        for part in pattern.split('/').filter(|part| !part.is_empty()) {
            let mut next = Vec::new();
            for path in paths {
                if !is_pattern(part) {
                    next.push(path.join(part));
                    continue;
                }
                let folder = if path.as_os_str().is_empty() { ".".into() } else { path.clone() };
                let entries = match fs::read_dir(&folder) {
                    Ok(entries) => entries,
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::NotFound | ErrorKind::NotADirectory
                        ) =>
                    {
                        continue;
                    }
                    Err(error) => return Err(format!("{}: {error}", folder.display())),
                };
                for entry in entries {
                    let entry = entry.map_err(|error| format!("{}: {error}", folder.display()))?;
                    if let Some(name) = entry.file_name().to_str()
                        && matches(part, name)
                    {
                        next.push(path.join(name));
                    }
                }
                if next.len() > PATHS_MAX {
                    return Err(format!("more than {PATHS_MAX} files"));
                }
            }
            paths = next;
        }
        let existing = paths.into_iter().filter(|path| path.exists());
        Ok(existing.filter_map(|path| path.to_str().map(str::to_owned)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_lists_the_files_of_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("tandem.d")).unwrap();
        for name in ["b.res", "a.res", ".hidden.res", "a.res~"] {
            fs::write(folder.path().join("tandem.d").join(name), "").unwrap();
        }
        let root = folder.path().to_str().unwrap();
        let mut found = ConfigFiles.glob(&format!("{root}/tandem.d/*.res")).unwrap();
        found.sort();
        assert_eq!(found, [format!("{root}/tandem.d/a.res"), format!("{root}/tandem.d/b.res")]);
        assert_eq!(ConfigFiles.glob(&format!("{root}/nothing.d/*.res")), Ok(vec![]));
        let mut nested = ConfigFiles.glob(&format!("{root}/t*.d/[a]*.res")).unwrap();
        assert_eq!(nested.pop(), Some(format!("{root}/tandem.d/a.res")));
    }

    #[test]
    fn what_is_no_text_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, b"ab\xff").unwrap();
        assert_eq!(ConfigFiles.read(path.to_str().unwrap()), Ok("ab\u{fffd}".to_owned()));
        let text = "x".repeat(FILE_MAX + 1);
        fs::write(&path, text).unwrap();
        assert!(ConfigFiles.read(path.to_str().unwrap()).unwrap_err().contains("larger"));
        assert!(ConfigFiles.read(folder.path().to_str().unwrap()).is_err());
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let told = ConfigFiles.read(fifo.to_str().unwrap());
        assert_eq!(told, Err("not a regular file".to_owned()));
    }

    #[test]
    fn a_file_that_two_names_lead_to_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let hosts = "on alice { address 10.0.0.1:1; } on bob { address 10.0.0.2:1; }";
        let resource = format!("resource r0 {{ device minor 0; disk /d0; {hosts} }}");
        fs::write(path("real.res"), resource).unwrap();
        std::os::unix::fs::symlink("real.res", path("link.res")).unwrap();
        fs::write(path("x.conf"), "include \"*.res\"; include \"./real.res\";").unwrap();
        let config = crate::config::load(&ConfigFiles, path("x.conf").to_str().unwrap());
        assert_eq!((config.findings, config.resources.len()), (vec![], 1));
        // A circle is one by any name.
        std::os::unix::fs::symlink("x.conf", path("x.res")).unwrap();
        let config = crate::config::load(&ConfigFiles, path("x.conf").to_str().unwrap());
        assert_eq!(config.findings.len(), 1, "{:?}", config.findings);
        assert!(config.findings[0].text.ends_with("x.res includes itself"));
    }
}
