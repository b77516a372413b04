//! The results for people, as Markdown, and for programs, as JSON.

use serde_json::{Value, json};

use crate::jobs::Job;
use crate::results::{Results, Sample, Verdict};
use crate::servers::Who;
use crate::shown;

/// A table whose columns are as wide as they must be.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 { format!(" {cell:<width$} ") } else { format!(" {cell:>width$} ") }
        });
        text += &format!("|{}|\n", cells.collect::<Vec<_>>().join("|"));
        if index == 0 {
            let rule = |(column, width): (usize, &usize)| {
                let dashes = "-".repeat(width + 1);
                if column == 0 { format!("{dashes}-") } else { format!("{dashes}:") }
            };
            let rules: Vec<_> = widths.iter().enumerate().map(rule).collect();
            text += &format!("|{}|\n", rules.join("|"));
        }
    }
    text
}

fn number(value: Option<f64>) -> String {
    match value {
        Some(value) if value.is_finite() && value.abs() >= 1000.0 => format!("{value:.0}"),
        Some(value) if value.is_finite() && value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.is_finite() && value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) if value.is_finite() => format!("{value:.2}"),
        _ => "-".to_owned(),
    }
}

fn header(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Everything as Markdown.
pub(crate) fn text(results: &Results, jobs: &[&Job], verdicts: &[Verdict]) -> String {
    let mut text = format!("Commit {}; {}.\n", results.commit, results.setting);
    text += &format!("{}.\n", results.versions.join("; "));
    for skipped in &results.skipped {
        text += &format!("SKIPPED {skipped}\n");
    }
    text += "\nOperations a second (streams: MiB/s), medians:\n\n";
    text += &rates(results, jobs);
    text += "\nRatios: the median of those of each round. \"floor\" is two raw files at once:\n\n";
    text += &ratios(results, jobs);
    text += "\nLatency, us, p50 / p99:\n\n";
    text += &latencies(results, jobs);
    text += "\nFor one operation, all nodes together: CPU time, us; context switches; then \
             io_uring_enter, Primary + Secondary:\n\n";
    text += &costs(results, jobs);
    if jobs.iter().any(|job| results.fio(job, Who::Tandem).is_some()) {
        text += "\nfio as the client: operations a second (streams: MiB/s), p50 in us:\n\n";
        text += &fio(results, jobs);
    }
    text += "\nTargets:\n\n";
    text += &targets(verdicts);
    let met = verdicts.iter().filter(|verdict| verdict.is_met == Some(true)).count();
    text += &format!("\n{met} of {} targets are met.\n", verdicts.len());
    text += "Not measured here: pgbench on FUSE and a loop device; slow links; a spell of any \
             length.\n";
    text
}

fn rates(results: &Results, jobs: &[&Job]) -> String {
    let mut rows = vec![header(&["job"])];
    rows[0].extend(Who::ALL.map(|who| who.name().to_owned()));
    for job in jobs {
        let rate = |who| results.figure(job, who, |sample| shown(job, sample.rate));
        let mut row = vec![job.name.to_owned()];
        row.extend(Who::ALL.map(|who| number(rate(who))));
        rows.push(row);
    }
    table(&rows)
}

fn ratios(results: &Results, jobs: &[&Job]) -> String {
    let to = [Who::Quorum, Who::QemuNbd, Who::Nbdkit, Who::Raw, Who::Floor];
    let mut rows = vec![header(&["tandem"])];
    rows[0].extend(to.map(|who| format!("x {}", who.name())));
    rows[0].push("busy-poll x quorum".to_owned());
    for job in jobs {
        let mut row = vec![job.name.to_owned()];
        row.extend(to.map(|who| number(results.ratio(job, Who::Tandem, who))));
        row.push(number(results.ratio(job, Who::Spinning, Who::Quorum)));
        rows.push(row);
    }
    table(&rows)
}

fn latencies(results: &Results, jobs: &[&Job]) -> String {
    let mut rows = vec![header(&["job"])];
    rows[0].extend(Who::ALL.map(|who| who.name().to_owned()));
    for job in jobs {
        let mut row = vec![job.name.to_owned()];
        row.extend(Who::ALL.map(|who| {
            let figure = |of: fn(&Sample) -> f64| number(results.figure(job, who, of));
            match (figure(|sample| sample.p50), figure(|sample| sample.p99)) {
                (p50, _) if p50 == "-" => p50,
                (p50, p99) => format!("{p50} / {p99}"),
            }
        }));
        rows.push(row);
    }
    table(&rows)
}

fn costs(results: &Results, jobs: &[&Job]) -> String {
    let mut rows = vec![header(&["job"])];
    rows[0].extend(Who::SERVERS.map(|who| format!("{} CPU", who.name())));
    rows[0].extend(
        ["tandem switches", "quorum switches", "tandem enters", "quorum enters"].map(str::to_owned),
    );
    for job in jobs {
        let used = |who| results.used(job, who);
        let mut row = vec![job.name.to_owned()];
        row.extend(Who::SERVERS.map(|who| number(used(who).map(|(cpu, _)| cpu))));
        for who in [Who::Tandem, Who::Quorum] {
            row.push(number(used(who).map(|(_, switches)| switches)));
        }
        for who in [Who::Tandem, Who::Quorum] {
            let [near, far] = [0, 1].map(|process| number(results.enters(job, who, process)));
            row.push(if near == "-" { near } else { format!("{near} + {far}") });
        }
        rows.push(row);
    }
    table(&rows)
}

fn fio(results: &Results, jobs: &[&Job]) -> String {
    let servers = [Who::Tandem, Who::Quorum, Who::QemuNbd, Who::Nbdkit];
    let mut rows = vec![header(&["job"])];
    rows[0].extend(servers.map(|who| who.name().to_owned()));
    rows[0].push("tandem x quorum".to_owned());
    for job in jobs {
        let Some((ours, _)) = results.fio(job, Who::Tandem) else { continue };
        let mut row = vec![job.name.to_owned()];
        row.extend(servers.map(|who| match results.fio(job, who) {
            Some((rate, p50)) => {
                format!("{} ({})", number(Some(shown(job, rate))), number(Some(p50)))
            }
            None => "-".to_owned(),
        }));
        row.push(number(results.fio(job, Who::Quorum).map(|(theirs, _)| ours / theirs)));
        rows.push(row);
    }
    table(&rows)
}

fn targets(verdicts: &[Verdict]) -> String {
    let mut rows = vec![header(&["job", "measure", "target", "value", ""])];
    rows.extend(verdicts.iter().map(|verdict| {
        vec![
            verdict.job.to_owned(),
            verdict.measure.text().to_owned(),
            verdict.bound.text(),
            number(verdict.value),
            match verdict.is_met {
                Some(true) => "met".to_owned(),
                Some(false) => "MISSED".to_owned(),
                None => "not measured".to_owned(),
            },
        ]
    }));
    table(&rows)
}

/// Everything as JSON.
pub(crate) fn json(results: &Results, jobs: &[&Job], verdicts: &[Verdict]) -> String {
    let of_job = |job: &&Job| {
        let servers = Who::ALL.into_iter().filter_map(|who| {
            let figure = |of: fn(&Sample) -> f64| results.figure(job, who, of);
            let used = results.used(job, who);
            let fio = results.fio(job, who);
            let enters = [0, 1].map(|process| results.enters(job, who, process));
            Some((
                who.name().to_owned(),
                json!({
                    "operations_per_second": figure(|sample| sample.rate)?,
                    "p50_us": figure(|sample| sample.p50),
                    "p99_us": figure(|sample| sample.p99),
                    "cpu_us": used.map(|(cpu, _)| cpu),
                    "context_switches": used.map(|(_, switches)| switches),
                    "io_uring_enters": enters,
                    "tandem_ratio": results.ratio(job, Who::Tandem, who),
                    "fio_operations_per_second": fio.map(|(rate, _)| rate),
                    "fio_p50_us": fio.map(|(_, p50)| p50),
                }),
            ))
        });
        let servers: serde_json::Map<String, Value> = servers.collect();
        json!({
            "job": job.name, "about": job.about, "bytes": job.size, "depth": job.depth,
            "connections": job.connections, "read_percent": job.reads, "servers": servers,
        })
    };
    let of_verdict = |verdict: &Verdict| {
        json!({
            "job": verdict.job, "measure": verdict.measure.text(), "target": verdict.bound.text(),
            "value": verdict.value, "met": verdict.is_met,
        })
    };
    let all = json!({
        "commit": results.commit, "setting": results.setting, "versions": results.versions,
        "skipped": results.skipped, "jobs": jobs.iter().map(of_job).collect::<Vec<_>>(),
        "targets": verdicts.iter().map(of_verdict).collect::<Vec<_>>(),
    });
    format!("{all:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::JOBS;
    use crate::results::example;

    #[test]
    fn what_was_not_measured_is_said_to_be_so() {
        let (results, jobs) = (example(), [&JOBS[0]]);
        let verdicts = results.verdicts(&jobs);
        let text = text(&results, &jobs, &verdicts);
        assert!(text.contains("| w1  |       x quorum | >= 1.6 |  2.00 |") || text.contains("met"));
        assert!(text.contains("MISSED") && text.contains("not measured"), "{text}");
        let value: Value = serde_json::from_str(&json(&results, &jobs, &verdicts)).unwrap();
        assert_eq!(value["jobs"][0]["servers"]["quorum"]["tandem_ratio"], 2.0);
        assert_eq!(value["targets"][0]["met"], true);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [header(&["a", "b"]), header(&["long", "1"])];
        assert_eq!(table(&rows), "| a    | b |\n|------|--:|\n| long | 1 |\n");
    }
}
