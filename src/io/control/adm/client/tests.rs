//! Connections of tandemadm that end because the daemon is replaced.

use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::thread::{JoinHandle, spawn};

use super::*;

/// What a daemon does with a request.
#[derive(Clone, Copy)]
enum Does {
    Answer(&'static str),
    End,
}

const NOTHING_RUNS: Does = Does::Answer("{\"running\":null}\n");
const COMPLETE: Does = Does::Answer("\"complete\"\n");
const PATIENCE: Duration = Duration::from_secs(60);

/// Daemons that follow each other on one socket, each for one connection and so many requests; what
/// each of them was sent.
fn serve(dir: &Path, daemons: &'static [&'static [Does]]) -> JoinHandle<Vec<Vec<String>>> {
    let listener = UnixListener::bind(dir.join("control.sock")).unwrap();
    let serve = move |does: &&[Does]| {
        let (stream, _) = listener.accept().unwrap();
        let mut requests = BufReader::new(stream);
        let mut heard = Vec::new();
        for one in *does {
            let mut line = String::new();
            if requests.read_line(&mut line).unwrap() == 0 {
                break;
            }
            heard.push(line);
            let Does::Answer(answer) = one else { break };
            requests.get_mut().write_all(answer.as_bytes()).unwrap();
        }
        let _ = requests.get_ref().shutdown(Shutdown::Both);
        heard
    };
    spawn(move || daemons.iter().map(serve).collect())
}

/// What they were sent, when nobody asks any more: who waits for a connection gets an empty one.
fn ended(dir: &Path, daemons: JoinHandle<Vec<Vec<String>>>) -> Vec<Vec<String>> {
    while !daemons.is_finished() {
        drop(UnixStream::connect(dir.join("control.sock")));
    }
    daemons.join().unwrap()
}

/// How many requests each of them was sent.
fn counts(heard: &[Vec<String>]) -> Vec<usize> {
    heard.iter().map(Vec::len).collect()
}

#[test]
fn a_question_that_a_restart_has_cut_off_is_asked_once_more() {
    let dir = tempfile::tempdir().unwrap();
    let daemons = serve(dir.path(), &[&[Does::End], &[NOTHING_RUNS, Does::End], &[NOTHING_RUNS]]);
    let mut client = Client::connect(dir.path(), PATIENCE).unwrap();
    for _ in 0..2 {
        assert_eq!(client.running("r0").map_err(|failure| failure.text), Ok(None));
    }
    drop(client);
    assert_eq!(counts(&ended(dir.path(), daemons)), [1, 2, 1]);
}

#[test]
fn a_question_that_nobody_answers_is_not_asked_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let daemons = serve(dir.path(), &[&[Does::End], &[Does::End], &[Does::End]]);
    let mut client = Client::connect(dir.path(), PATIENCE).unwrap();
    assert_eq!(client.running("r0").unwrap_err().exit_code, 20);
    drop(client);
    assert_eq!(counts(&ended(dir.path(), daemons)), [1, 1, 0]);
}

#[test]
fn an_order_is_given_once_and_to_a_daemon_that_has_answered() {
    let dir = tempfile::tempdir().unwrap();
    // The first is gone before the order; the second with it, done or not.
    let daemons = serve(dir.path(), &[&[Does::End], &[NOTHING_RUNS, Does::End], &[Does::End]]);
    let mut client = Client::connect(dir.path(), PATIENCE).unwrap();
    let failure = client.command("r0", Command::SuspendIo { suspend: true }).unwrap_err();
    assert_eq!(failure.exit_code, 20);
    drop(client);
    let heard = ended(dir.path(), daemons);
    assert!(heard[1][1].contains("suspend"), "{heard:?}");
    assert_eq!(counts(&heard), [1, 2, 0]);
}

#[test]
fn a_daemon_that_is_replaced_is_watched_on_and_one_that_never_answers_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let daemons = serve(dir.path(), &[&[NOTHING_RUNS, COMPLETE], &[COMPLETE], &[Does::End]]);
    let mut client = Client::connect(dir.path(), PATIENCE).unwrap();
    client.watch_on(None).map_err(|failure| failure.text).unwrap();
    for _ in 0..2 {
        let next = client.next(None).map_err(|failure| failure.text);
        assert!(matches!(next, Ok(Some(Response::Complete))), "{next:?}");
    }
    assert_eq!(client.next(None).unwrap_err().exit_code, 20);
    drop(client);
    assert_eq!(counts(&ended(dir.path(), daemons)), [2, 1, 1]);
}
