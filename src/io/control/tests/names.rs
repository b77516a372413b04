//! What a disk is called, which minors are taken, and what takes effect later.

use std::collections::BTreeMap;

use super::*;
use crate::secret::Secret;

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
