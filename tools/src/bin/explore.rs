//! Goes through every short history of two nodes, with a fault at each step.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use tandem::sim::{Alphabet, Explored, Limits, Table, explore};

/// Goes through every short history of two nodes, with a fault at each step.
///
/// A history is a row of turns: a write, an order, a cut, a start. After each step of each turn a
/// blow may strike: a crash, a power loss, a cut. Prints the states, how often each rule decided,
/// and the first history that breaks a promise (exit code 1).
#[derive(Parser)]
struct Arguments {
    /// Turns of a history.
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// Blows among them.
    #[arg(long, default_value_t = 1)]
    blows: usize,
    /// Orders among them that give data up: force, discard-my-data, invalidate, a new disk.
    #[arg(long, default_value_t = 1)]
    drastic: usize,
    /// States of a layer that are gone on from, at most.
    #[arg(long, default_value_t = usize::MAX)]
    states: usize,
    /// Only what changes the metadata, with one block to write; a state and its mirror image are one.
    #[arg(long)]
    metadata: bool,
    /// One of so many new states is healed: all faults end, and it must come to be in sync.
    #[arg(long, default_value_t = 1)]
    heal: u64,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    std::panic::set_hook(Box::new(|_| {}));
    let limits = Limits {
        turns: arguments.turns,
        blows: arguments.blows,
        drastic: arguments.drastic,
        states: arguments.states,
        alphabet: if arguments.metadata { Alphabet::Metadata } else { Alphabet::Whole },
        heal: arguments.heal,
    };
    let started = Instant::now();
    let on_all = |work: &(dyn Fn() + Sync)| {
        std::thread::scope(|scope| {
            for _ in 0..arguments.threads.max(1) {
                scope.spawn(work);
            }
        });
    };
    let explored = explore(limits, on_all, |turns, states| {
        let seconds = started.elapsed().as_secs();
        eprintln!("{turns} turns: {states} new states, {seconds} s");
    });
    print(&explored);
    match &explored.broken {
        None => ExitCode::SUCCESS,
        Some(broken) => {
            println!("{}", broken.transcript);
            for one in &broken.history {
                println!("  {one}");
            }
            println!("broken: {}", broken.text);
            ExitCode::FAILURE
        }
    }
}

fn print(explored: &Explored) {
    let states: Vec<String> = explored.states.iter().map(usize::to_string).collect();
    let (states, runs) = (states.join(" + "), explored.runs);
    let different = explored.different;
    let pairs = explored.pairs;
    println!(
        "states at rest: {different} ({states} by turns), pairs of metadata: {pairs}, turns played: {runs}"
    );
    if explored.closed {
        println!("closed: no history, however long, leads to another state");
    }
    if explored.left_out > 0 {
        println!("not gone on from: {}", explored.left_out);
    }
    for (end, count) in &explored.ends {
        println!("{count:9} {end}");
    }
    println!("rules of the decision, and how often each decided:");
    for row in explored.coverage.rows().iter().filter(|row| row.table == Table::Rule) {
        println!("{row}");
    }
}
