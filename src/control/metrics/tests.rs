//! The text of `/metrics` by its form and its values; the alerts and the dashboard against it.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::control::fixtures;
use crate::resource::Time;

/// Every sample by its name and labels; checks the form of the whole text.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut samples = BTreeMap::new();
    let mut family = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(kinds.insert(name, kind), None, "{name} twice");
            family = name;
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let name = sample.split('{').next().unwrap();
        let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} in {family}"));
        let allowed: &[&str] = match kinds[family] {
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        assert!(allowed.contains(&suffix), "{line}");
        let value: f64 = value.parse().unwrap();
        assert!(samples.insert(sample.to_owned(), value).is_none(), "{sample} twice");
    }
    samples
}

/// A pair in every state that has samples of its own.
fn all() -> Vec<Report> {
    let mut reports = vec![fixtures::resync_source(), fixtures::two_volumes()];
    reports[1].status.name = "r1".to_owned();
    let histogram = &mut reports[0].status.devices[0].metrics.write;
    for took in [1_000, 20_000, 1 << 40] {
        histogram.note(Time(0), Time(took));
    }
    reports
}

#[test]
fn drbd_reactors_names_have_their_labels_and_values() {
    let samples = samples(&text(&all()));
    for (sample, value) in [
        ("drbdreactor_up", 1.0),
        ("drbd_resource_resources", 2.0),
        ("drbd_resource_role{name=\"r0\",drbd_resource_role=\"Primary\"}", 1.0),
        ("drbd_resource_role{name=\"r0\",drbd_resource_role=\"Secondary\"}", 0.0),
        ("drbd_resource_suspended{name=\"r0\"}", 0.0),
        ("drbd_resource_maypromote{name=\"r0\"}", 0.0),
        ("drbd_resource_promotionscore{name=\"r1\"}", 10_202.0),
        ("drbd_device_size_bytes{name=\"r0\",volume=\"0\",minor=\"0\"}", (100_u64 << 30) as f64),
        ("drbd_device_written_bytes_total{name=\"r1\",volume=\"1\",minor=\"1\"}", 2_097_152.0),
        (
            "drbd_device_state{name=\"r0\",volume=\"0\",minor=\"0\",drbd_device_state=\"UpToDate\"}",
            1.0,
        ),
        (
            "drbd_connection_state{name=\"r0\",conn_name=\"bob\",peer_node_id=\"1\",\
             drbd_connection_state=\"Connected\"}",
            1.0,
        ),
        (
            "drbd_peerdevice_outofsync_bytes{name=\"r0\",conn_name=\"bob\",peer_node_id=\"1\",\
             volume=\"0\"}",
            ((81_u64 << 30) / 10) as f64,
        ),
    ] {
        assert_eq!(samples.get(sample), Some(&value), "{sample}");
    }
}

#[test]
fn buckets_are_cumulative_and_end_with_all() {
    let samples = samples(&text(&all()));
    let labels = "name=\"r0\",volume=\"0\",minor=\"0\"";
    let bucket =
        |le: &str| samples[&format!("tandem_device_write_seconds_bucket{{{labels},le=\"{le}\"}}")];
    assert_eq!(bucket("0.000016384"), 1.0);
    assert_eq!(bucket("0.000032768"), 2.0);
    assert_eq!(bucket("8.589934592"), 2.0);
    assert_eq!(bucket("+Inf"), 3.0);
    assert_eq!(samples[&format!("tandem_device_write_seconds_count{{{labels}}}")], 3.0);
    let sum = samples[&format!("tandem_device_write_seconds_sum{{{labels}}}")];
    assert!((sum - 1_099.511_648_776).abs() < 1e-6, "{sum}");
}

#[test]
fn states_that_need_a_person_have_flags() {
    let samples_of = |report: Report| samples(&text(&[report]));
    let peer = "name=\"r0\",conn_name=\"bob\",peer_node_id=\"1\"";
    let split = samples_of(fixtures::refused(Reason::SplitBrain));
    assert_eq!(split[&format!("tandem_connection_splitbrain{{{peer}}}")], 1.0);
    let reason =
        format!("tandem_connection_reason{{{peer},tandem_connection_reason=\"split-brain\"}}");
    assert_eq!(split[&reason], 1.0);
    assert_eq!(split["tandem_resource_check{name=\"r0\"}"], 2.0);
    let mut frozen = fixtures::resync_source();
    frozen.status.suspended_user = true;
    frozen.status.connections[0].peer_devices[0].resync_suspended.peer = true;
    let frozen = samples_of(frozen);
    assert_eq!(frozen["drbd_resource_suspended{name=\"r0\"}"], 1.0);
    assert_eq!(frozen["tandem_resource_frozen{name=\"r0\",reason=\"user\"}"], 1.0);
    let held = format!("tandem_peerdevice_resync_suspended{{{peer},volume=\"0\",by=\"peer\"}}");
    assert_eq!(frozen[&held], 1.0);
}

#[test]
fn a_name_cannot_make_a_line() {
    let mut report = fixtures::healthy();
    report.status.connections[0].name = "b\"o\nb\\".to_owned();
    let text = text(&[report]);
    assert!(text.contains("conn_name=\"b\\\"o\\nb\\\\\""), "{text}");
    samples(&text);
    assert_eq!(samples(&super::text(&[])).len(), 3, "nothing is up");
}

const RULES: &str = include_str!("../../../tools/monitoring/tandem.rules.yml");
const RULES_TEST: &str = include_str!("../../../tools/monitoring/tandem.rules.test.yml");
const DASHBOARD: &str = include_str!("../../../tools/monitoring/tandem-dashboard.json");

/// Names of metrics in an expression.
fn names(expression: &str) -> BTreeSet<&str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("drbd_") || word.starts_with("tandem_")).collect()
}

fn assert_known(known: &BTreeSet<String>, expression: &str) {
    for name in names(expression) {
        assert!(known.contains(name), "{name} in `{expression}` is not exported");
    }
    let count = |c: char| expression.matches(c).count();
    for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
        assert_eq!(count(open), count(close), "{expression}");
    }
    assert!(!expression.trim().is_empty());
}

fn known() -> BTreeSet<String> {
    let reports = all();
    let samples = samples(&text(&reports));
    samples.keys().map(|sample| sample.split('{').next().unwrap().to_owned()).collect()
}

#[test]
fn every_alert_is_whole_and_asks_for_what_there_is() {
    let known = known();
    let mut alerts: Vec<BTreeMap<&str, &str>> = Vec::new();
    for line in RULES.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let text = line.trim_start();
        assert!(!line.contains('\t') && (line.len() - text.len()).is_multiple_of(2), "{line}");
        let Some((key, value)) = text.split_once(": ") else {
            assert!(text.is_empty() || text.ends_with(':'), "{line}");
            continue;
        };
        match key.strip_prefix("- ") {
            Some("alert") => alerts.push(BTreeMap::from([("alert", value)])),
            Some(key) => assert_eq!((key, value), ("name", "tandem")),
            None => {
                let alert = alerts.last_mut().expect("an alert comes first");
                assert_eq!(alert.insert(key, value), None, "{line}");
            }
        }
    }
    assert!(alerts.len() >= 10, "{}", alerts.len());
    let seen: BTreeSet<&str> = alerts.iter().map(|alert| alert["alert"]).collect();
    assert_eq!(seen.len(), alerts.len(), "a name twice");
    for alert in &alerts {
        let keys: Vec<&str> = alert.keys().copied().collect();
        assert_eq!(keys, ["alert", "description", "expr", "for", "severity", "summary"]);
        assert!(["critical", "warning", "info"].contains(&alert["severity"]), "{alert:?}");
        let (number, unit) = alert["for"].split_at(alert["for"].len() - 1);
        assert!(number.parse::<u32>().is_ok() && "smhd".contains(unit), "{alert:?}");
        assert_known(&known, alert["expr"]);
        for text in ["summary", "description"] {
            assert!(alert[text].starts_with('"') && alert[text].ends_with('"'), "{alert:?}");
        }
        assert!(alert["description"].contains("tandemadm why"), "{alert:?}");
        let fires = format!("alertname=\"{}\"", alert["alert"]);
        assert!(RULES_TEST.contains(&fires), "no test of promtool's fires {}", alert["alert"]);
    }
}

#[test]
fn promtools_test_has_series_that_there_are() {
    let known = known();
    let series: Vec<&str> = RULES_TEST
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- series: '"))
        .filter_map(|rest| rest.split('{').next())
        .filter(|name| *name != "up")
        .collect();
    assert!(series.len() > 10);
    for name in series {
        assert!(known.contains(name), "{name} is not exported");
    }
}

#[test]
fn every_panel_asks_for_what_there_is() {
    let known = known();
    let board: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = board["panels"].as_array().unwrap();
    assert!(panels.len() >= 8);
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        for target in panel["targets"].as_array().unwrap() {
            assert_known(&known, target["expr"].as_str().unwrap());
        }
    }
}
