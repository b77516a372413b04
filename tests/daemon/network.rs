//! Two network namespaces and a veth between them: real partitions, both ways and one way.

use std::process::Command;

use crate::ledger::{Burst, Ledger, under_load};
use crate::namespace::{Namespace, skip};
use crate::pair::{Node, Pair, run, text};
use crate::plan::Plan;
use crate::wait::until;

/// How the two lose sight of each other.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// The cable is unplugged.
    Link,
    /// alice hears nothing of bob; what she sends arrives.
    AliceDeaf,
    /// bob hears nothing of alice.
    BobDeaf,
}

/// The namespaces of alice and bob, joined by a veth.
struct Network {
    alice: Namespace,
    bob: Namespace,
}

impl Network {
    fn new() -> Result<Self, String> {
        let alice = Namespace::new()?;
        let bob = alice.beside()?;
        let network = Self { alice, bob };
        let other = network.bob.pid();
        network.alice.ip(&format!("link add veth0 type veth peer name veth0 netns {other}"))?;
        for (namespace, address) in [(&network.alice, "10.0.0.1"), (&network.bob, "10.0.0.2")] {
            namespace.ip(&format!("address add {address}/24 dev veth0"))?;
            namespace.ip("link set veth0 up")?;
        }
        Ok(network)
    }

    /// The config of a pair here; nothing runs.
    fn plan(&self) -> Plan {
        Plan::new().impatient().within([(&self.alice, "10.0.0.1"), (&self.bob, "10.0.0.2")])
    }

    fn cut(&self, cut: Cut) {
        let deaf = match cut {
            Cut::Link => return self.link("down"),
            Cut::AliceDeaf => &self.alice,
            Cut::BobDeaf => &self.bob,
        };
        deaf.nft("add table inet cut");
        deaf.nft("add chain inet cut input { type filter hook input priority 0 ; policy drop ; }");
    }

    fn heal(&self, cut: Cut) {
        match cut {
            Cut::Link => self.link("up"),
            Cut::AliceDeaf => self.alice.nft("delete table inet cut"),
            Cut::BobDeaf => self.bob.nft("delete table inet cut"),
        }
    }

    fn link(&self, state: &str) {
        let done = self.alice.ip(&format!("link set veth0 {state}"));
        done.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The network, or a counted word that there is none.
fn network(test: &str) -> Option<Network> {
    Network::new().map_err(|why| skip(test, &why)).ok()
}

fn sees_the_loss(node: &Node) {
    until(&format!("{} sees the loss", node.name), || {
        (node.connection()["connection-state"] != "Connected").then_some(())
    });
}

#[test]
fn a_fresh_pair_in_two_namespaces_is_synced_cut_and_quickly_resynced() {
    let Some(network) = network("a_fresh_pair_in_two_namespaces") else { return };
    let pair = network.plan().in_sync();
    let socket = pair.alice.run_dir.join("nbd.sock");
    let mut fio = Command::new("fio");
    fio.current_dir(pair.dir.path());
    fio.args(["--name=verify", "--ioengine=nbd", "--rw=randwrite", "--bs=4k", "--iodepth=16"]);
    fio.args(["--size=8M", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1"]);
    let said = run(fio.arg(format!("--uri=nbd+unix:///r0?socket={}", text(&socket))));
    assert_eq!(said.code, 0, "{said:?}");
    pair.assert_equal_disks();

    network.cut(Cut::Link);
    let mut ledger = Ledger::seeded(20);
    let mut client = pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(4000)), "no error reaches the client");
    client.flush().expect("a flush alone");
    let out_of_sync = pair.alice.peer_kib("out-of-sync");
    let before = pair.bob.peer_kib("received");
    network.heal(Cut::Link);
    pair.wait_connected();
    pair.wait_synced();
    let moved = pair.bob.peer_kib("received") - before;
    assert!(moved <= 2 * out_of_sync, "{moved} KiB moved for {out_of_sync} KiB");
    ledger.check(&mut client);
    client.flush().expect("a flush of both");
    pair.assert_equal_disks();
}

/// Cut, both promoted and written, healed: a split brain that a person ends.
fn split_brain_by(cut: Cut, network: &Network, seed: u64) {
    let pair = network.plan().in_sync();
    let mut kept = Ledger::seeded(seed);
    let mut lost = Ledger::seeded(seed + 1);
    let mut client = pair.alice.client();
    assert!(kept.write(&mut client, &Burst::Count(300)));
    network.cut(cut);
    assert!(kept.write(&mut client, &Burst::Count(300)), "{cut:?}: alice's client goes on");
    for node in [&pair.alice, &pair.bob] {
        sees_the_loss(node);
    }
    pair.bob.ok(&["primary", "r0"]);
    assert!(lost.write(&mut pair.bob.client(), &Burst::Count(200)));
    pair.bob.client().flush().expect("a flush alone");
    client.flush().expect("a flush alone");
    let disks = [&pair.alice, &pair.bob].map(|node| node.read_disk(node.export_size()));
    network.heal(cut);

    for node in [&pair.alice, &pair.bob] {
        node.wait_connection("StandAlone", "split-brain");
        assert!(node.log_text().contains("Split-Brain detected"), "{}", node.log_text());
    }
    for (node, before) in [&pair.alice, &pair.bob].into_iter().zip(&disks) {
        assert!(*before == node.read_disk(node.export_size()), "{}: overwritten", node.name);
    }
    kept.check(&mut client);
    lost.check(&mut pair.bob.client());

    pair.bob.ok(&["secondary", "--force", "r0"]);
    pair.bob.ok(&["connect", "--discard-my-data", "r0"]);
    pair.alice.ok(&["connect", "r0"]);
    pair.wait_connected();
    pair.wait_synced();
    kept.check(&mut client);
    client.flush().expect("a flush of both");
    pair.assert_equal_disks();
}

#[test]
fn a_cut_link_with_two_primaries_is_a_split_brain() {
    let Some(network) = network("a_cut_link_with_two_primaries") else { return };
    split_brain_by(Cut::Link, &network, 21);
}

#[test]
fn a_deaf_primary_and_a_promoted_peer_are_a_split_brain() {
    let Some(network) = network("a_deaf_primary_and_a_promoted_peer") else { return };
    split_brain_by(Cut::AliceDeaf, &network, 23);
}

#[test]
fn a_deaf_secondary_that_is_promoted_is_a_split_brain() {
    let Some(network) = network("a_deaf_secondary_that_is_promoted") else { return };
    split_brain_by(Cut::BobDeaf, &network, 25);
}

/// What happens in a round, while the Primary is written to.
#[derive(Clone, Copy, Debug)]
enum Blow {
    /// kill -9 of the Primary, and a new start without a promotion.
    Restart,
    /// kill -9 of the Primary, and the other is promoted.
    Failover,
    /// kill -9 of both.
    Both,
    /// The cut is healed while the client writes; its connection ends by order afterwards.
    Cut(Cut),
    /// The Primary ends in order.
    Terminate,
}

/// One round; the roles afterwards.
fn round(blow: Blow, network: &Network, ledger: Ledger, nodes: [&mut Node; 2]) -> (Ledger, bool) {
    let [primary, other] = nodes;
    let client = primary.client();
    let mut ledger = under_load(ledger, client, 400, || match blow {
        Blow::Restart | Blow::Failover => primary.kill(),
        Blow::Both => {
            other.kill();
            primary.kill();
        }
        Blow::Cut(cut) => {
            network.cut(cut);
            sees_the_loss(primary);
            sees_the_loss(other);
            network.heal(cut);
            primary.ok(&["wait-connect", "--wfc-timeout", "60", "r0"]);
            primary.ok(&["secondary", "--force", "r0"]);
        }
        Blow::Terminate => assert!(primary.terminate().success()),
    });
    let failover = matches!(blow, Blow::Failover);
    if failover {
        sees_the_loss(other);
        other.ok(&["primary", "r0"]);
        let mut client = other.client();
        ledger.check(&mut client);
        assert!(ledger.write(&mut client, &Burst::Count(100)), "the other serves alone");
    }
    for node in [&mut *primary, &mut *other] {
        if !node.runs() {
            node.start_up();
        }
    }
    (ledger, failover)
}

#[test]
fn rounds_of_kills_and_cuts_lose_nothing() {
    let Some(network) = network("rounds_of_kills_and_cuts") else { return };
    let mut pair = network.plan().in_sync();
    let mut ledger = Ledger::within(4, 27);
    let mut alice_leads = true;
    let blows = [
        Blow::Failover,
        Blow::Cut(Cut::Link),
        Blow::Restart,
        Blow::Cut(Cut::AliceDeaf),
        Blow::Failover,
        Blow::Both,
        Blow::Cut(Cut::BobDeaf),
        Blow::Terminate,
    ];
    for blow in blows {
        let Pair { alice, bob, .. } = &mut pair;
        let nodes = if alice_leads { [alice, bob] } else { [bob, alice] };
        let (after, failover) = round(blow, &network, ledger, nodes);
        ledger = after;
        alice_leads ^= failover;
        pair.wait_connected();
        pair.wait_synced();
        let leader = if alice_leads { &pair.alice } else { &pair.bob };
        leader.ok(&["primary", "r0"]);
        let mut client = leader.client();
        ledger.check(&mut client);
        client.flush().expect("a flush of both");
        client.disconnect().expect("a clean end of the client");
        pair.assert_equal_disks();
    }
}
