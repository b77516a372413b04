//! `/metrics`, `/health` and `/primary/RES`, as a scraper, a load balancer and a stranger see them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::namespace::skip;
use crate::pair::{Node, Pair, text as path_text};
use crate::wait::{PATIENCE, until};

/// Where the metrics of a node are, as its log says.
fn address(node: &Node) -> String {
    until("the log names the address", || {
        let log = node.log_text();
        let rest = log.rsplit_once("metrics: http://")?.1;
        Some(rest.split('/').next()?.to_owned())
    })
}

/// Sends these bytes; the whole answer.
fn ask(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    // A server that has refused half of it already may have closed.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).expect("text")
}

fn get(address: &str, path: &str) -> (u16, String) {
    let answer = ask(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    (status.expect("a status"), body.to_owned())
}

/// The value of a sample.
fn sample(address: &str, name: &str) -> f64 {
    let (status, body) = get(address, "/metrics");
    assert_eq!(status, 200);
    let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {body}")).parse().expect("a number")
}

/// alice and bob in sync, both with an address for metrics.
fn scraped_pair() -> Pair {
    let mut pair = Pair::blank();
    for node in [&mut pair.alice, &mut pair.bob] {
        node.arguments = vec!["--metrics-listen".to_owned(), "127.0.0.1:0".to_owned()];
    }
    pair.bring_up().sync_from_alice()
}

/// Runs promtool on this; `None`: there is none. What it says, and its exit code.
fn promtool(arguments: &[&str], input: &str) -> Option<(i32, String)> {
    // As installed, or as `tools/test` has fetched it.
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(FETCHED);
    let start = |program: &Path| {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(Stdio::piped()).spawn().ok()
    };
    let mut child = start(Path::new("promtool")).or_else(|| start(&fetched))?;
    let mut stdin = child.stdin.take().expect("it is piped");
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned()))
}

const FETCHED: &str = "target/fetched/prometheus/usr/bin/promtool";

/// Names that are drbd-reactor's, and would be others if they were ours.
const REACTORS: [&str; 2] = ["drbd_peerdevice_received_bytes", "drbd_peerdevice_sent_bytes"];

#[test]
fn what_happens_is_counted_and_who_serves_is_told() {
    let pair = scraped_pair();
    let (alice, bob) = (address(&pair.alice), address(&pair.bob));
    let of_volume = "{name=\"r0\",volume=\"0\",minor=\"0\"}";
    let writes = format!("tandem_device_write_seconds_count{of_volume}");
    let flushes = format!("tandem_device_flush_seconds_count{of_volume}");
    assert_eq!(sample(&alice, &writes), 0.0);
    let mut client = pair.alice.client();
    for block in 0..50 {
        client.write(block * 4096, &[1; 4096], 0).expect("a write");
    }
    client.flush().expect("a flush");
    until("the writes are counted", || (sample(&alice, &writes) == 50.0).then_some(()));
    assert_eq!(sample(&alice, &flushes), 1.0);
    let peer = "name=\"r0\",conn_name=\"bob\",peer_node_id=\"1\"";
    let acks = format!("tandem_peerdevice_write_seconds_count{{{peer},volume=\"0\"}}");
    assert_eq!(sample(&alice, &acks), 50.0);
    let hits = sample(&alice, &format!("tandem_device_alhits_total{of_volume}"));
    let misses = sample(&alice, &format!("tandem_device_almisses_total{of_volume}"));
    assert!(misses >= 1.0 && hits + misses == 50.0, "{hits} and {misses}");
    assert_eq!(
        sample(&alice, "drbd_resource_role{name=\"r0\",drbd_resource_role=\"Primary\"}"),
        1.0
    );
    let sessions = format!("tandem_connection_sessions_total{{{peer}}}");
    assert_eq!(sample(&alice, &sessions), 1.0);

    assert_eq!(get(&alice, "/primary/r0"), (200, "Primary\n".to_owned()));
    assert_eq!(get(&bob, "/primary/r0"), (503, "Secondary\n".to_owned()));
    assert_eq!(get(&bob, "/primary/r7").0, 404);
    let (status, line) = get(&alice, "/health");
    assert!(status == 200 && line.starts_with("OK: "), "{status} {line}");
    pair.alice.ok(&["suspend-io", "r0"]);
    until("frozen is not healthy", || (get(&alice, "/health").0 == 503).then_some(()));
    pair.alice.ok(&["resume-io", "r0"]);
    pair.bob.ok(&["disconnect", "r0"]);
    pair.bob.ok(&["connect", "r0"]);
    pair.wait_synced();
    until("it has reconnected", || (sample(&alice, &sessions) == 2.0).then_some(()));

    // What only the configuration says.
    let written = std::fs::read_to_string(&pair.bob.config).expect("a file");
    std::fs::write(&pair.bob.config, format!("{written}frob;\n")).expect("a file");
    let named = format!("WARNING: {}:", pair.bob.config.display());
    until("/health names the file", || get(&bob, "/health").1.starts_with(&named).then_some(()));
    std::fs::write(&pair.bob.config, written).expect("a file");
    pair.bob.ok(&["down", "r0"]);
    until("/health knows what is down", || {
        get(&bob, "/health").1.starts_with("WARNING: r0 is not up (1 of 1) | ").then_some(())
    });
    pair.bob.ok(&["up", "r0"]);
    pair.wait_synced();

    let text = get(&alice, "/metrics").1;
    let Some((code, said)) = promtool(&["check", "metrics"], &text) else {
        return skip("promtool", "promtool is missing: apt-get install prometheus");
    };
    // 3: all can be read, and names are not as they should be.
    let odd: Vec<&str> =
        said.lines().filter(|line| !REACTORS.iter().any(|name| line.starts_with(name))).collect();
    assert!(code == 3 && odd.is_empty(), "promtool check metrics: {code} {said}");
    let monitoring = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/monitoring");
    for (what, file) in [("check", "tandem.rules.yml"), ("test", "tandem.rules.test.yml")] {
        let file = monitoring.join(file);
        let said = promtool(&[what, "rules", path_text(&file)], "").expect("it was there");
        assert_eq!(said.0, 0, "promtool {what} rules: {}", said.1);
    }
}

#[test]
fn strangers_on_the_metrics_port_disturb_nobody() {
    let pair = scraped_pair();
    let alice = address(&pair.alice);
    for (request, status) in [
        (b"POST /metrics HTTP/1.1\r\n\r\n".to_vec(), "405"),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n".to_vec(), "404"),
        (b"GET /primary/ HTTP/1.1\r\n\r\n".to_vec(), "404"),
        (b"GET /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n".to_vec(), "400"),
        ([0_u8, 255, 1, 254].repeat(1000), "400"),
    ] {
        let answer = ask(&alice, &request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer:?}");
    }
    // Longer than a head may be; the answer may be lost with the bytes that nobody read.
    let answer = ask(&alice, &[b'a'; 100_000]);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    let head = ask(&alice, b"HEAD /metrics HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head:?}");
    // More than there is room for say nothing, or never end: they go, and others are answered.
    let silent: Vec<TcpStream> = (0..17)
        .map(|n| {
            let mut stream = TcpStream::connect(&alice).expect("it listens");
            let _ = stream.write_all(if n % 2 == 0 { b"GET /met" } else { b"" });
            stream
        })
        .collect();
    let mut client = pair.alice.client();
    client.write(0, &[1; 4096], 0).expect("replication goes on");
    client.flush().expect("on both");
    let begun = std::time::Instant::now();
    assert_eq!(get(&alice, "/health").0, 200);
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    drop(silent);
    // One that drips is no better than one that is silent.
    let mut drips = TcpStream::connect(&alice).expect("it listens");
    let begun = std::time::Instant::now();
    until("it is ended", || drips.write_all(b"a").is_err().then_some(()));
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    let whole = ask(&alice, b"GET http://alice:9942/health HTTP/1.1\r\nHost: alice\r\n\r\n");
    assert!(whole.starts_with("HTTP/1.1 200 "), "{whole:?}");
    pair.assert_equal_disks();
}
