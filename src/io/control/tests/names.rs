//! What a disk is called, which minors are taken, and what takes effect later.

use std::collections::BTreeMap;

use super::*;
use crate::secret::Secret;

impl Daemon {
    /// r0 with its disk at another path.
    fn at(&self, path: &std::path::Path) -> Box<Definition> {
        let mut definition = self.definition("");
        for host in &mut definition.hosts {
            host.volumes.get_mut(&0).unwrap().disk = Some(path.display().to_string());
        }
        Box::new(definition)
    }
}

#[test]
fn the_disk_in_use_by_another_path_is_only_called_so() {
    let daemon = Daemon::start();
    let mut client = daemon.up("");
    let (disk, link) = (daemon.dir.path().join("r0.img"), daemon.dir.path().join("link"));
    std::os::unix::fs::symlink(&disk, &link).unwrap();
    let attach = |path| Request::Attach { definition: daemon.at(path), volume: 0 };
    assert_eq!(client.order(&attach(&link)).unwrap(), Ok(String::new()));
    let path = |host: &crate::config::Host| host.volumes[&0].disk.clone();
    let running = client.running("r0").unwrap().unwrap();
    assert_eq!(path(&running.hosts[0]), path(&daemon.at(&link).hosts[0]));
    let now = report(&mut client);
    assert_eq!(now.status.devices[0].disk_state, DiskState::UpToDate);
    assert_eq!(now.status.devices[0].backing_disk, link.display().to_string());
    // By that path it is looked at, and lost.
    std::fs::rename(&link, daemon.dir.path().join("aside")).unwrap();
    let refused = client.order(&attach(&link)).unwrap().unwrap_err();
    assert!(refused.hint.contains("link is not there any more"), "{refused:?}");
    // Another file is another disk.
    std::fs::copy(&disk, &link).unwrap();
    assert_eq!(client.order(&attach(&link)).unwrap().unwrap_err().code, 124);
    let other = daemon.dir.path().join("other");
    std::fs::copy(&disk, &other).unwrap();
    assert_eq!(client.order(&attach(&other)).unwrap().unwrap_err().code, 124);
    while let Ok(seen) = daemon.seen.try_recv() {
        assert!(!matches!(seen, Seen::Command(Command::Detach { .. }, _)));
    }
}

/// The folder with the note is slow, or hangs.
#[test]
fn a_name_is_taken_however_long_it_takes_to_note_it() {
    let daemon = Daemon::start();
    let mut client = daemon.up("");
    let (disk, link) = (daemon.dir.path().join("r0.img"), daemon.dir.path().join("link"));
    std::os::unix::fs::symlink(&disk, &link).unwrap();
    let state = std::fs::read_dir(daemon.dir.path().join("state")).unwrap();
    let mut notes = state.map(|entry| entry.unwrap().path());
    let note = notes.find(|path| path.extension().is_some_and(|end| end == "json")).unwrap();
    std::fs::remove_file(&note).unwrap();
    // Whoever reads it waits for a writer.
    nix::unistd::mkfifo(&note, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let attach = Request::Attach { definition: daemon.at(&link), volume: 0 };
    assert_eq!(client.order(&attach).unwrap(), Ok(String::new()));
    let now = report(&mut client);
    assert_eq!(now.status.devices[0].backing_disk, link.display().to_string());
    let writer = std::fs::OpenOptions::new().write(true).open(&note).unwrap();
    std::fs::remove_file(&note).unwrap();
    drop(writer);
}

#[test]
fn a_minor_or_device_of_what_is_up_is_not_given_twice() {
    let daemon = Daemon::start();
    let mut client = daemon.up("");
    let another = |device: Option<&str>, minor: u32| {
        let mut definition = daemon.definition("");
        definition.name = "a0".to_owned();
        for host in &mut definition.hosts {
            host.address.set_port(7799);
            let volume = host.volumes.get_mut(&0).unwrap();
            (volume.minor, volume.device_node) = (minor, device.map(str::to_owned));
            volume.disk = Some("/dev/none".to_owned());
        }
        Request::NewResource { definition: Box::new(definition) }
    };
    let refused = client.order(&another(None, 0)).unwrap().unwrap_err();
    assert_eq!((refused.code, refused.exit_code()), (161, 10));
    assert_eq!(
        refused.hint,
        "a0/0: minor 0 is that of r0/0, which is up. Write another `device` for a0, or `tandemadm \
         down r0` first."
    );
    client.order(&another(Some("/dev/nbd5"), 1)).unwrap().unwrap();
    client.order(&Request::Down { resource: "a0".to_owned() }).unwrap().unwrap();
    // What is down has nothing.
    client.order(&Request::Down { resource: "r0".to_owned() }).unwrap().unwrap();
    client.order(&another(None, 0)).unwrap().unwrap();
}

#[test]
fn what_a_connection_is_opened_with_takes_effect_at_the_next() {
    let daemon = Daemon::start();
    let mut client = daemon.up("");
    let running = *client.running("r0").unwrap().unwrap();
    let mut put = |secrets| {
        let options = Box::new(running.options.clone());
        let (volumes, resync_after) = (BTreeMap::new(), BTreeMap::new());
        let resource = "r0".to_owned();
        let request = Request::Options { resource, options, volumes, resync_after, secrets };
        client.order(&request).unwrap().unwrap()
    };
    let mut secrets = crate::secret::Secrets {
        cram_hmac_alg: crate::secret::Algorithm::Sha256,
        shared_secret: Secret::new("FooFun").unwrap(),
        shared_secret_old: None,
    };
    let said = put(Some(secrets.clone()));
    assert_eq!(
        said,
        "cram-hmac-alg takes effect at the next connection; shared-secret takes effect at the next \
         connection"
    );
    secrets.shared_secret = Secret::new("BarFun").unwrap();
    assert_eq!(put(Some(secrets.clone())), "shared-secret takes effect at the next connection");
    assert_eq!(put(Some(secrets)), "");
    let sndbuf = crate::resource::Options::default().written();
    let sndbuf = sndbuf.iter().find(|option| option.name == "sndbuf-size").unwrap();
    assert_eq!(sndbuf.takes_effect_later(), Some("at the next connection"));
}

#[test]
fn what_all_volumes_say_is_said_once() {
    let (al, rate) =
        ("al-extents takes effect when a disk is attached", "resync-rate takes effect");
    let said = super::super::changes::each_once(&format!("{al}; {rate}; {al}; {al}"));
    assert_eq!(said, [al, rate]);
    assert!(super::super::changes::each_once("").is_empty());
}
