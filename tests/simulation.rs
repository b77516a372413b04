//! The simulator over a fixed set of seeds, and what it promises of itself: the same seed is the
//! same run, and a failure says how to see it again.

use std::sync::atomic::{AtomicU64, Ordering};

use tandem::sim::{
    Coverage, Failure, MarkCounts, Reach, Report, SimOptions, Table, run, shrink, transcript_of,
};

/// Seeds that every run of the tests takes; `tools/simulate` takes many more.
const SEEDS: u64 = 16;
/// The same under Pacemaker: `tools/simulate --pacemaker`.
const PACEMAKER_SEEDS: u64 = 40;
/// Lines of a transcript that a failure prints.
const LINES: usize = 200;

fn try_seed(seed: u64) -> Result<Report, Box<Failure>> {
    run(SimOptions::of_seed(seed), 0)
}

/// What `run` said of so many seeds, from the first one on, in their order.
fn each<T: Send>(seeds: u64, try_one: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let next = AtomicU64::new(1);
    let mut all: Vec<(u64, T)> = std::thread::scope(|scope| {
        let worker = || {
            let seeds = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed))
                .take_while(|seed| *seed <= seeds);
            seeds.map(|seed| (seed, try_one(seed))).collect::<Vec<_>>()
        };
        let threads = [scope.spawn(worker), scope.spawn(worker)];
        threads.into_iter().flat_map(|t| t.join().expect("a run does not panic")).collect()
    });
    all.sort_by_key(|(seed, _)| *seed);
    all.into_iter().map(|(_, said)| said).collect()
}

#[test]
fn no_schedule_of_faults_breaks_a_promise() {
    let shortest = |failure: Box<Failure>| shrink(&failure, LINES).to_string();
    let failures = each(SEEDS, |seed| try_seed(seed).err().map(shortest));
    let failures: Vec<String> = failures.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The cluster is split, notices late, loses attributes and fences; nobody goes on beside another one.
#[test]
fn under_pacemaker_no_stale_node_is_promoted() {
    let (mut failures, mut counts) = (Vec::new(), Vec::new());
    for result in each(PACEMAKER_SEEDS, |seed| run(SimOptions::under_pacemaker(seed), 0)) {
        match result {
            Ok(report) => counts.extend(report.marks),
            Err(failure) => {
                failures.push(format!("seed {}: {}", failure.options.seed, failure.violation.text));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let happened = |what: fn(&MarkCounts) -> u64| counts.iter().map(what).sum::<u64>() > 0;
    assert!(happened(|m| m.told), "no peer has its mark");
    assert!(happened(|m| m.off), "no peer is off");
    assert!(happened(|m| m.given_up), "no fence-peer gives up");
    assert!(happened(|m| m.refused), "no stale node is refused");
    assert!(happened(|m| m.lost), "no attribute is lost");
    assert!(happened(|m| m.removed), "no mark goes");
}

#[test]
fn the_same_seed_is_the_same_run_line_by_line() {
    for seed in [3, 11] {
        let mut options = SimOptions::of_seed(seed);
        options.requests = 200;
        options.length_ms = options.length_ms.min(5_000);
        let text = transcript_of(options.clone());
        assert!(text.lines().count() > 1000, "something happens");
        assert_eq!(text, transcript_of(options), "seed {seed}");
    }
}

#[test]
fn a_failure_names_the_seed_the_faults_that_are_left_and_what_happened() {
    let mut options = SimOptions::of_seed(5);
    options.sabotage = true;
    let failure = run(options, 0).expect_err("the disk of a node was changed behind its back");
    let shown = shrink(&failure, LINES).to_string();
    assert!(shown.contains("seed 5: "), "{shown}");
    assert!(shown.contains("plan:\n"), "{shown}");
    assert!(shown.contains("VIOLATION"), "{shown}");
    let before = failure.options.plan.len();
    let after = shrink(&failure, LINES).options.plan.len();
    assert!(
        after <= before.min(1),
        "nothing of the plan is to blame, {after} of {before} are left"
    );
}

#[test]
fn what_a_run_reaches_is_counted_and_is_what_the_lists_have() {
    let mut coverage = Coverage::default();
    for seed in 1..=6 {
        coverage.add(&try_seed(seed).expect("a seed that keeps its promises").coverage);
    }
    let rows = coverage.rows();
    let reached = |table| rows.iter().filter(|row| row.table == table && row.count > 0).count();
    for table in Table::ALL {
        let some = reached(*table) > 0 || *table == Table::Refusal;
        assert!(some, "nothing of {} is counted", table.name());
    }
    let unlisted: Vec<_> = rows.iter().filter(|row| row.is_surprise()).collect();
    assert!(unlisted.is_empty(), "{unlisted:#?}");
    let listed = |table: Table, name: &str| {
        let row = rows.iter().find(|row| row.table == table && row.name == name);
        row.unwrap_or_else(|| panic!("no row {name}"))
    };
    assert!(listed(Table::Connection, "Connecting -> Connected").count >= 12);
    assert!(listed(Table::Packet, "Data").count > 0);
    assert!(listed(Table::Order, "attach = ok").count >= 12);
    assert!(matches!(listed(Table::Packet, "Challenge").reach, Reach::Not(_)));
    assert!(matches!(listed(Table::Replication, "* -> Ahead").reach, Reach::Not(_)));
}
