//! A recording is replayed: a core that is made in the same way gets the same events, and must give
//! the same actions. So a failure of real processes becomes a story that can be told again.
//!
//! Invariants:
//! - A recording may end anywhere: what a process that was killed had not written is not missed.

use std::collections::VecDeque;
use std::io::BufRead;

use crate::resource::{Action, Resource};

use super::record::Line;

/// What was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Events that were handled.
    pub events: u64,
    /// Actions that were the same.
    pub actions: u64,
}

/// Replays a recording.
///
/// # Errors
/// The line (from 1) at which the core does something else, and what; or what cannot be read.
pub fn replay(recording: impl BufRead) -> Result<Replayed, String> {
    let mut core: Option<Resource> = None;
    let mut given: VecDeque<Action> = VecDeque::new();
    let mut replayed = Replayed::default();
    let mut lines = recording.lines().zip(1u64..).peekable();
    while let Some((line, number)) = lines.next() {
        let line = line.map_err(|error| format!("line {number}: {error}"))?;
        let parsed: Line = match serde_json::from_str(&line) {
            Ok(parsed) => parsed,
            // The last line of a process that was killed.
            Err(_) if lines.peek().is_none() => break,
            Err(error) => return Err(format!("line {number}: {error}")),
        };
        match (parsed, &mut core) {
            (Line::Start { start }, None) => {
                core =
                    Some(Resource::new(start.config, start.seed, start.now, start.wall_clock_ms));
            }
            (Line::Event { at, event }, Some(core)) => {
                if let Some(more) = given.front() {
                    return Err(format!("line {number}: the replay also gives {more:?}"));
                }
                core.handle(at, event);
                given.extend(std::iter::from_fn(|| core.next_action()));
                replayed.events += 1;
            }
            (Line::Action { action }, Some(_)) => {
                let again = given.pop_front();
                if again.as_ref() != Some(&action) {
                    return Err(format!(
                        "line {number}: recorded {action:?}, the replay gives {again:?}"
                    ));
                }
                replayed.actions += 1;
            }
            (Line::Start { .. }, Some(_)) => {
                return Err(format!("line {number}: a second beginning"));
            }
            (_, None) => return Err(format!("line {number}: before the beginning")),
        }
    }
    Ok(replayed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::record::Start;
    use crate::resource::{Event, Options, PeerConfig, ResourceConfig, Time};

    /// A pair's first moments, as lines: what it is made with, and a few events with what follows.
    fn recorded() -> Vec<String> {
        let config = ResourceConfig {
            name: "r0".to_owned(),
            node_id: 0,
            node_name: "alice".to_owned(),
            peers: vec![PeerConfig {
                node_id: 1,
                name: "bob".to_owned(),
                address: "127.0.0.1:7789".to_owned(),
            }],
            volumes: Vec::new(),
            options: Options::default(),
        };
        let start = Start { config, seed: 7, now: Time(5), wall_clock_ms: 9 };
        let mut core = Resource::new(start.config.clone(), start.seed, start.now, 9);
        let mut lines = vec![serde_json::to_string(&Line::Start { start }).unwrap()];
        let connect =
            crate::resource::Command::Connect { peer: 1, discard_my_data: false, tentative: false };
        for event in [Event::Admin { id: 1, command: connect }, Event::Timeout] {
            let at = Time(1_000_000);
            core.handle(at, event.clone());
            lines.push(serde_json::to_string(&Line::Event { at, event }).unwrap());
            while let Some(action) = core.next_action() {
                lines.push(serde_json::to_string(&Line::Action { action }).unwrap());
            }
        }
        assert!(lines.len() > 3, "{lines:?}");
        lines
    }

    #[test]
    fn a_recording_gives_the_same_actions_again() {
        let lines = recorded();
        let replayed = replay(lines.join("\n").as_bytes()).unwrap();
        assert_eq!(replayed.events, 2);
        assert_eq!(replayed.actions + 3, lines.len() as u64);
        let cut = lines.join("\n");
        assert!(replay(&cut.as_bytes()[..cut.len() - 9]).is_ok(), "the end of a killed process");
    }

    #[test]
    fn a_recording_that_was_changed_is_noticed() {
        let mut lines = recorded();
        let action = lines.iter().position(|line| line.starts_with("{\"action\"")).unwrap();
        lines.remove(action);
        let error = replay(lines.join("\n").as_bytes()).unwrap_err();
        assert!(error.contains("line "), "{error}");
    }
}
