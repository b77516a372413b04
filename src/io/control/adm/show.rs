//! `status`, `role`, `peer-role`, `cstate`, `dstate`, `why`, `dump`, `dump-xml`: what only looks.

use std::io::IsTerminal as _;

use crate::control::arguments::When;
use crate::control::status_text::{self, Detail};
use crate::control::target::Target;
use crate::control::{Report, Zone, check, color, status_json, why};
use crate::resource::Refusal;

use super::client::holder;
use super::dry_run::refusal_of_up;
use super::{Failure, Outcome, Session, complain, connections, for_each, print, volumes};

/// Seconds in which `check` knows whether the daemon answers: what calls it has 10 s for it, as a rule.
const CHECK_WITHIN: u32 = 8;

/// Says that nothing is known, as the plug-in convention wants it: a line on standard output, exit 3.
pub(super) fn unknown(run_dir: &std::path::Path, failure: &Failure) -> Failure {
    let first = failure.text.lines().next().unwrap_or_default();
    let holder = match failure.exit_code {
        20 => holder(run_dir).map_or(String::new(), |pid| format!(" (lock held by pid {pid})")),
        _ => String::new(),
    };
    // The line belongs to standard output; nothing more is said.
    let _ = print(&check::unknown(&format!("{first}{holder}")));
    Failure::new(3, "")
}

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

    /// Says beside `status` that the configuration has errors by now: what is up does not show it.
    pub(super) fn warn_of_configuration(&self, targets: &[Target]) {
        let Ok(configuration) = self.configuration() else { return };
        // Who may ask the daemon need not be one who may read the file.
        let opened = std::fs::File::open(configuration.path());
        if opened.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied) {
            return;
        }
        let named: Vec<&str> = targets.iter().filter_map(Target::resource).collect();
        let of_all = named.len() < targets.len().max(1);
        let chosen = Some(named.as_slice()).filter(|_| !of_all);
        if let Some(wrong) = configuration.beside(&[], chosen).wrong {
            complain(&format!(
                "the configuration is not valid (`tandemadm dump` tells all), what is up goes on as it is: {wrong}"
            ));
        }
    }

    /// One line for monitoring, whose exit codes are its own.
    pub(super) fn check(&self, targets: &[Target]) -> Outcome {
        // A plug-in that is killed for being late says nothing at all.
        let punctual = Self::new(self.globals.within(CHECK_WITHIN));
        punctual.check_in_time(targets)
    }

    fn check_in_time(&self, targets: &[Target]) -> Outcome {
        let unknown = |failure: Failure| unknown(&self.globals.run_dir, &failure);
        let all = self.client().and_then(|mut client| client.reports(None)).map_err(unknown)?;
        let named: Vec<&str> = targets.iter().filter_map(Target::resource).collect();
        let of_all = named.len() < targets.len().max(1);
        let chosen = Some(named.as_slice()).filter(|_| !of_all);
        let beside = match self.configuration() {
            Ok(configuration) => configuration.beside(&all, chosen),
            Err(failure) => check::Beside { down: Vec::new(), wrong: Some(failure.text) },
        };
        let is_known = |name: &&&str| {
            let is_down = beside.down.iter().any(|one| one == *name);
            // One that the configuration refuses is told of, too.
            is_down || all.iter().any(|one| one.status.name == **name) || self.is_defined(name)
        };
        if let Some(name) = named.iter().find(|name| !is_known(name)) {
            return Err(unknown(self.no_such_resource(name, &all)));
        }
        let is_meant = |report: &Report| of_all || named.contains(&&*report.status.name);
        let mut reports: Vec<Report> = all.into_iter().filter(is_meant).collect();
        self.find_differences(&mut reports);
        let (line, level) = check::line(&reports, &beside);
        print(&line)?;
        match level {
            check::Level::Ok => Ok(()),
            level => Err(Failure::new(level as i32, "")),
        }
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
        let chosen = self.reports_or_refusal(targets)?;
        let mut reports: Vec<Report> = chosen.into_iter().map(|(_, report)| report).collect();
        self.find_differences(&mut reports);
        let mut findings: Vec<why::Finding> =
            reports.iter().flat_map(|report| why::findings(report, Zone::Local)).collect();
        if (targets.is_empty() || targets.contains(&Target::All))
            && let Ok(configuration) = self.configuration()
        {
            let mut client = self.client()?;
            for name in configuration.beside(&reports, None).down {
                let definition = configuration.config().resource(&name);
                let refused = definition.and_then(|one| refusal_of_up(&mut client, one));
                findings.push(why::down(&name, configuration.node(), refused.as_ref()));
            }
        }
        match (json, findings.is_empty()) {
            (true, _) => print(&why::json(&findings)),
            (false, true) => print(status_text::NOTHING),
            (false, false) => print(&why::text(&findings)),
        }
    }

    /// The reports that targets mean; of one that is not up also what stands in the way of its `up`.
    fn reports_or_refusal(&self, targets: &[Target]) -> Result<Vec<(Target, Report)>, Failure> {
        let mut client = self.client()?;
        let up = client.reports(None)?;
        let is_up = |name: &str| up.iter().any(|report| report.status.name == name);
        let named = targets.iter().filter_map(Target::resource).find(|name| !is_up(name));
        let (Some(name), Ok(configuration)) = (named, self.configuration()) else {
            return self.reports(targets);
        };
        let told = |what: String| {
            Failure::new(10, format!("{name}: No such resource\n{name} is not up, and {what}"))
        };
        if configuration.config().is_refused(name) {
            let wrong = configuration.beside(&up, Some(&[name])).wrong.unwrap_or_default();
            return Err(told(format!("the configuration refuses it: {wrong}")));
        }
        let own = configuration.config().resource(name);
        let own = own.filter(|one| one.local(configuration.node()).is_some());
        match own.and_then(|definition| refusal_of_up(&mut client, definition)) {
            Some(Refusal { code, text, hint }) => Err(told(format!(
                "`up` is refused: ({code}) {text}\n{hint}\nThen `tandemadm up {name}`."
            ))),
            None => self.reports(targets),
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
