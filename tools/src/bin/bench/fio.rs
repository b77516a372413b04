//! fio: for raw files, and as a second client.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::jobs::{Durable, Job};
use crate::servers::Export;

/// What fio has measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Operations a second; of two files the mean.
    pub(crate) rate: f64,
    /// us.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// The job on raw files, on all of them at once.
pub(crate) fn raw(job: &Job, files: &[&Path], bytes: u64, time: Duration) -> Result<Run, String> {
    let mut arguments = vec!["--ioengine=io_uring".to_owned(), "--direct=1".to_owned()];
    for (index, file) in files.iter().enumerate() {
        arguments.push(format!("--name=j{index}"));
        arguments.push(format!("--filename={}", file.display()));
        arguments.extend(job.fio_arguments());
    }
    run(job, arguments, bytes, time)
}

/// The job on an export.
pub(crate) fn nbd(job: &Job, export: &Export, bytes: u64, time: Duration) -> Result<Run, String> {
    let uri = format!("nbd+unix:///{}?socket={}", export.name, export.socket.display());
    let mut arguments = vec!["--ioengine=nbd".to_owned(), "--name=j".to_owned()];
    arguments.push(format!("--uri={uri}"));
    arguments.extend(job.fio_arguments());
    run(job, arguments, bytes, time)
}

fn run(job: &Job, arguments: Vec<String>, bytes: u64, time: Duration) -> Result<Run, String> {
    let output = Command::new("fio")
        .args(["--output-format=json", "--time_based", "--thread", "--randrepeat=0"])
        .arg(format!("--size={bytes}"))
        .arg(format!("--runtime={}ms", time.as_millis()))
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|error| format!("fio: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(job, &text).ok_or_else(|| format!("fio {}: {}", job.name, text.trim()))
}

fn parse(job: &Job, text: &str) -> Option<Run> {
    let value: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let jobs = value["jobs"].as_array()?;
    let rate = |one: &Value| Some(one["read"]["iops"].as_f64()? + one["write"]["iops"].as_f64()?);
    let rates = jobs.iter().map(rate).collect::<Option<Vec<_>>>()?;
    let part = if job.reads == 0 { "write" } else { "read" };
    let latency = |percent: &str| {
        let one = &jobs.first()?[part]["clat_ns"]["percentile"][percent];
        Some(one.as_f64()? / 1000.0)
    };
    let sum: f64 = rates.iter().sum();
    if sum <= 0.0 {
        return None;
    }
    let mut run = Run {
        rate: sum / rates.len() as f64,
        p50: latency("50.000000")?,
        p99: latency("99.000000")?,
    };
    if job.durable == Durable::Flush {
        // fio times the flush apart.
        (run.p50, run.p99) = (1e6 / run.rate, f64::NAN);
    }
    Some(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::JOBS;

    #[test]
    fn what_fio_says_is_understood() {
        let text = "note\n{\"jobs\":[{\"read\":{\"iops\":0},\"write\":{\"iops\":10,\"clat_ns\":\
            {\"percentile\":{\"50.000000\":2000,\"99.000000\":3000}}}},\
            {\"read\":{\"iops\":0},\"write\":{\"iops\":20}}]}";
        let run = parse(&JOBS[0], text).unwrap();
        assert_eq!((run.rate, run.p50, run.p99), (15.0, 2.0, 3.0));
        assert!(parse(&JOBS[0], "fio: cannot open").is_none());
        assert!(parse(&JOBS[0], "{\"jobs\":[]}").is_none());
    }
}
