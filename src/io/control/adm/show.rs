//! `status`, `role`, `peer-role`, `cstate`, `dstate`, `why`, `dump`, `dump-xml`: what only looks.

use std::io::IsTerminal as _;

use crate::control::arguments::When;
use crate::control::status_text::{self, Detail};
use crate::control::target::Target;
use crate::control::{Report, Zone, check, color, status_json, why};

use super::{Failure, Outcome, Session, connections, for_each, print, volumes};

impl Session {
    pub(super) fn status(
        &self,
        targets: &[Target],
        detail: Detail,
        json: bool,
        color: When,
    ) -> Outcome {
        let chosen = self.reports(targets)?;
        let mut reports: Vec<Report> = chosen.into_iter().map(|(_, report)| report).collect();
        self.find_differences(&mut reports);
        if json {
            return print(&status_json::array(&reports));
        }
        if reports.is_empty() {
            return print(status_text::NOTHING);
        }
        let paragraphs: Vec<String> =
            reports.iter().map(|report| status_text::resource(report, detail)).collect();
        let text = paragraphs.join("\n");
        let colours = match color {
            When::Always => true,
            When::Never => false,
            When::Auto => std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        };
        print(&if colours { color::coloured(&text) } else { text })
    }

    /// One line for monitoring, whose exit codes are its own.
    pub(super) fn check(&self, targets: &[Target]) -> Outcome {
        let unknown = |failure: Failure| {
            // The line belongs to standard output; nothing more is said.
            let _ = print(&check::unknown(&failure.text));
            Failure::new(3, "")
        };
        let all = self.client().and_then(|mut client| client.reports(None)).map_err(unknown)?;
        let named: Vec<&str> = targets.iter().filter_map(Target::resource).collect();
        let of_all = named.len() < targets.len().max(1);
        let defined = self.not_up_here(&all);
        let down: Vec<String> =
            defined.into_iter().filter(|name| of_all || named.contains(&&**name)).collect();
        let is_known = |name: &&&str| {
            down.iter().any(|one| one == *name) || all.iter().any(|one| one.status.name == **name)
        };
        if let Some(name) = named.iter().find(|name| !is_known(name)) {
            return Err(unknown(self.no_such_resource(name, &all)));
        }
        let is_meant = |report: &Report| of_all || named.contains(&&*report.status.name);
        let mut reports: Vec<Report> = all.into_iter().filter(is_meant).collect();
        self.find_differences(&mut reports);
        let (line, level) = check::line(&reports, &down);
        print(&line)?;
        match level {
            check::Level::Ok => Ok(()),
            level => Err(Failure::new(level as i32, "")),
        }
    }

    /// What the configuration has for this node, and is not up.
    fn not_up_here(&self, up: &[Report]) -> Vec<String> {
        let Ok(configuration) = self.configuration() else { return Vec::new() };
        let resources = configuration.config().resources.iter();
        let own = resources.filter(|one| one.local(configuration.node()).is_some());
        let is_down = |name: &&String| up.iter().all(|report| report.status.name != **name);
        own.map(|one| &one.name).filter(is_down).cloned().collect()
    }

    pub(super) fn role(&self, targets: &[Target]) -> Outcome {
        for_each(self.reports(targets)?, |(_, report)| print(&status_text::role(&report)))
    }

    /// Unknown, where the peer is not connected.
    pub(super) fn peer_role(&self, targets: &[Target]) -> Outcome {
        for_each(self.reports(targets)?, |(target, report)| {
            for connection in connections(&report, &target)? {
                print(&format!("{}\n", connection.peer_role))?;
            }
            Ok(())
        })
    }

    pub(super) fn cstate(&self, targets: &[Target]) -> Outcome {
        for_each(self.reports(targets)?, |(target, report)| {
            print(&status_text::cstate(&connections(&report, &target)?))
        })
    }

    pub(super) fn dstate(&self, targets: &[Target]) -> Outcome {
        for_each(self.reports(targets)?, |(target, report)| {
            let (devices, peers) = (volumes(&report, &target)?, connections(&report, &target)?);
            print(&status_text::dstate(&devices, &peers))
        })
    }

    pub(super) fn why(&self, targets: &[Target], json: bool) -> Outcome {
        let chosen = self.reports(targets)?;
        let mut reports: Vec<Report> = chosen.into_iter().map(|(_, report)| report).collect();
        self.find_differences(&mut reports);
        let findings: Vec<why::Finding> =
            reports.iter().flat_map(|report| why::findings(report, Zone::Local)).collect();
        match (json, findings.is_empty()) {
            (true, _) => print(&why::json(&findings)),
            (false, true) => print(status_text::NOTHING),
            (false, false) => print(&why::text(&findings)),
        }
    }

    /// The configuration as it was understood.
    pub(super) fn dump(&self, targets: &[Target]) -> Outcome {
        let configuration = self.configuration()?;
        if targets.is_empty() || targets.contains(&Target::All) {
            print(&crate::config::dump(configuration.config()))?;
            // Tells the findings, and makes them the exit code.
            return configuration.for_each(&[Target::All], |_, _, _| Ok(()));
        }
        configuration.for_each(targets, |_, definition, _| {
            let one = crate::config::Config {
                resources: vec![definition.clone()],
                ..crate::config::Config::default()
            };
            print(&crate::config::dump(&one))
        })
    }

    /// The same for programs: those that are refused, or are not of this node, are left out.
    pub(super) fn dump_xml(&self, targets: &[Target]) -> Outcome {
        let configuration = self.configuration()?;
        let all = [Target::All];
        let targets = if targets.is_empty() { &all } else { targets };
        let mut chosen = Vec::new();
        let outcome = configuration.for_each(targets, |_, definition, _| {
            chosen.push(definition.clone());
            Ok(())
        });
        print(&crate::config::dump_xml(configuration.path(), &chosen))?;
        outcome
    }
}
