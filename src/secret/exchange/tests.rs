//! Every wrong answer, reflections, replays, and the steps of a rotation.

use super::*;
use crate::secret::Algorithm;

const WRONG: Failure = Failure::Secret(SecretError::Wrong);

fn secrets(new: &str, old: Option<&str>) -> Arc<Secrets> {
    let old = old.map(|old| Secret::new(old).unwrap());
    Arc::new(Secrets { shared_secret_old: old, ..Secrets::new(Secret::new(new).unwrap()) })
}

fn party(own: NodeId, dialled: bool) -> Party {
    Party { resource: "r0".to_owned(), own, peer: 1 - own, dialled }
}

/// alice (0) dials bob (1).
fn pair(alice: &Arc<Secrets>, bob: &Arc<Secrets>) -> (Exchange, Exchange) {
    (
        Exchange::new(Arc::clone(alice), party(0, true), [0xaa; 32]),
        Exchange::new(Arc::clone(bob), party(1, false), [0xbb; 32]),
    )
}

/// Runs an exchange to its end: what becomes of the acceptor's side, and of the dialler's.
fn run(mut dialler: Exchange, mut acceptor: Exchange) -> (Result<bool, Failure>, Option<bool>) {
    let (first, second) = (dialler.challenge(), acceptor.challenge());
    assert_eq!(acceptor.received(&first), Ok(Next::default()), "says nothing yet");
    let proof = match dialler.received(&second) {
        Ok(next) => next.send.expect("the dialler proves first"),
        Err(failure) => return (Err(failure), None),
    };
    match acceptor.received(&proof) {
        Err(failure) => (Err(failure), None),
        Ok(next) => {
            let answer = next.send.expect("the acceptor answers who has proved");
            (Ok(next.proved), Some(dialler.received(&answer).is_ok_and(|next| next.proved)))
        }
    }
}

fn both(alice: &Arc<Secrets>, bob: &Arc<Secrets>) -> bool {
    let (dialler, acceptor) = pair(alice, bob);
    run(dialler, acceptor) == (Ok(true), Some(true))
}

fn proofs(packet: &Packet) -> &[u8] {
    match packet {
        Packet::Response { proofs } => proofs,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_same_secret_lets_both_in_and_another_one_neither() {
    for algorithm in Algorithm::ALL {
        let with = |text| {
            let secrets = Secrets::new(Secret::new(text).unwrap());
            Arc::new(Secrets { cram_hmac_alg: algorithm, ..secrets })
        };
        assert!(both(&with("FooFunFactory"), &with("FooFunFactory")));
        let (dialler, acceptor) = pair(&with("FooFunFactory"), &with("FooFunFactorx"));
        assert_eq!(run(dialler, acceptor), (Err(WRONG), None));
    }
}

/// The proofs of a fixed exchange: they change with the protocol's version only.
#[test]
fn golden_proofs() {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let one = secrets("FooFunFactory", None);
    let (mut dialler, mut acceptor) = pair(&one, &one);
    acceptor.received(&dialler.challenge()).unwrap();
    let proof = dialler.received(&acceptor.challenge()).unwrap().send.unwrap();
    assert_eq!(hex(proofs(&proof)), GOLDEN_DIALLER);
    let answer = acceptor.received(&proof).unwrap().send.unwrap();
    assert_eq!(hex(proofs(&answer)), GOLDEN_ACCEPTOR);
}

const GOLDEN_DIALLER: &str = "eb3af5778f66ef7c70d37396291ae1ff7d50503282608928abf11f87352f1c10";
const GOLDEN_ACCEPTOR: &str = "50b222e0bd75cc45d9f38932c528428c6fe05ac348e5ed44dc30e0ec863452d0";

/// Each node is changed by itself; at no step do they not know each other, whoever dials.
#[test]
fn a_secret_is_rotated_one_node_after_the_other() {
    let steps = [
        (secrets("old", None), secrets("old", None)),
        (secrets("new", Some("old")), secrets("old", None)),
        (secrets("new", Some("old")), secrets("new", Some("old"))),
        (secrets("new", None), secrets("new", Some("old"))),
        (secrets("new", None), secrets("new", None)),
    ];
    for (alice, bob) in &steps {
        assert!(both(alice, bob) && both(bob, alice), "{alice:?} {bob:?}");
    }
    assert!(!both(&secrets("new", None), &secrets("old", None)), "the old one is over");
    assert!(!both(&secrets("old", None), &secrets("new", None)));
}

/// With both on both sides the new one is answered with: the old one may be known to others.
#[test]
fn the_new_secret_goes_first() {
    let two = secrets("new", Some("old"));
    let (mut dialler, mut acceptor) = pair(&two, &two);
    acceptor.received(&dialler.challenge()).unwrap();
    let proof = dialler.received(&acceptor.challenge()).unwrap().send.unwrap();
    let answer = acceptor.received(&proof).unwrap().send.unwrap();
    let (mut only_new, _) = pair(&secrets("new", None), &two);
    only_new.received(&acceptor.challenge()).unwrap();
    assert!(only_new.received(&answer).unwrap().proved);
}

#[test]
fn each_thing_that_a_proof_covers_counts() {
    let one = secrets("FooFunFactory", None);
    let change = |change: &dyn Fn(&mut Exchange)| {
        let (mut dialler, acceptor) = pair(&one, &one);
        change(&mut dialler);
        run(dialler, acceptor)
    };
    assert_eq!(change(&|_| {}), (Ok(true), Some(true)));
    assert_eq!(change(&|e| e.party.resource = "r1".to_owned()), (Err(WRONG), None));
    assert_eq!(change(&|e| e.party.own = 2), (Err(WRONG), None));
    assert_eq!(change(&|e| e.party.peer = 2), (Err(WRONG), None));
}

#[test]
fn every_changed_byte_of_a_proof_is_refused_and_every_other_length() {
    let one = secrets("FooFunFactory", None);
    let (mut dialler, mut acceptor) = pair(&one, &one);
    acceptor.received(&dialler.challenge()).unwrap();
    let proof = dialler.received(&acceptor.challenge()).unwrap().send.unwrap();
    let right = proofs(&proof).to_vec();
    for at in 0..right.len() {
        let mut wrong = right.clone();
        wrong[at] ^= 1;
        let response = Packet::Response { proofs: wrong };
        assert_eq!(acceptor.clone().received(&response), Err(WRONG), "byte {at}");
    }
    for length in [0, 1, 31, 33, 63] {
        let mut wrong = right.clone();
        wrong.resize(length, 0);
        let response = Packet::Response { proofs: wrong };
        assert_eq!(acceptor.clone().received(&response), Err(WRONG), "{length} bytes");
    }
    let response = Packet::Response { proofs: right.repeat(3) };
    assert_eq!(acceptor.clone().received(&response), Err(WRONG), "too many");
    let answer = acceptor.received(&proof).unwrap().send.unwrap();
    let response = Packet::Response { proofs: proofs(&answer).repeat(2) };
    assert_eq!(dialler.received(&response), Err(WRONG), "an acceptor has one proof");
}

/// Who has no secret sends a node its own words back, within the connection and on a second one.
#[test]
fn a_reflection_is_refused() {
    let one = secrets("FooFunFactory", None);
    // The dialler meets itself: its own challenge, then its own proof.
    let (mut dialler, acceptor) = pair(&one, &one);
    let own = dialler.challenge();
    let proof = dialler.received(&own).unwrap().send.unwrap();
    assert_eq!(dialler.received(&proof), Err(WRONG));
    // Two connections of one node, each end's words carried to the other: alice dials the stranger,
    // who dials alice, and gives itself out as bob on both.
    let (dialling, _) = pair(&one, &one);
    let accepting = Exchange::new(Arc::clone(&one), party(0, false), [0xcc; 32]);
    assert_eq!(run(dialling, accepting), (Err(WRONG), None));
    drop(acceptor);
}

#[test]
fn a_recorded_exchange_does_not_let_in_again() {
    let one = secrets("FooFunFactory", None);
    let (mut dialler, mut acceptor) = pair(&one, &one);
    let first = dialler.challenge();
    acceptor.received(&first).unwrap();
    let proof = dialler.received(&acceptor.challenge()).unwrap().send.unwrap();
    let answer = acceptor.received(&proof).unwrap().send.unwrap();
    // The same to an acceptor with a fresh challenge.
    let mut later = Exchange::new(Arc::clone(&one), party(1, false), [0xbc; 32]);
    later.received(&first).unwrap();
    assert_eq!(later.received(&proof), Err(WRONG));
    // And to a dialler with a fresh one.
    let mut later = Exchange::new(one, party(0, true), [0xab; 32]);
    later.received(&acceptor.challenge()).unwrap();
    assert_eq!(later.received(&answer), Err(WRONG));
}

#[test]
fn other_algorithms_are_named_and_other_packets_refused() {
    let one = secrets("FooFunFactory", None);
    let sha1 = Arc::new(Secrets { cram_hmac_alg: Algorithm::Sha1, ..(*one).clone() });
    let (mut dialler, acceptor) = pair(&one, &sha1);
    let there = SecretError::Algorithm { here: Algorithm::Sha256, there: Algorithm::Sha1 };
    assert_eq!(dialler.received(&acceptor.challenge()), Err(Failure::Secret(there)));
    let (mut dialler, mut acceptor) = pair(&one, &one);
    let early = Packet::Response { proofs: vec![0; 32] };
    assert_eq!(acceptor.received(&early), Err(Failure::Protocol), "before its challenge");
    assert_eq!(acceptor.received(&Packet::Ping), Err(Failure::Protocol));
    acceptor.received(&dialler.challenge()).unwrap();
    assert_eq!(acceptor.received(&dialler.challenge()), Err(Failure::Protocol), "twice");
    let proof = dialler.received(&acceptor.challenge()).unwrap().send.unwrap();
    acceptor.received(&proof).unwrap();
    assert_eq!(acceptor.received(&proof), Err(Failure::Protocol), "a second proof");
}
