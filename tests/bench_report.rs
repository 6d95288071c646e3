//! What `make bench` makes of its measurements: ratios, goals, table, JSON and drawing.

#[path = "../benches/side_by_side/drawing.rs"]
mod drawing;
#[path = "../benches/side_by_side/report.rs"]
mod report;

use report::{Row, Spread, Unit, json, markdown, percentile};

fn row(services: u32, unit: Unit, ours: &[f64], theirs: &[f64]) -> Row {
    Row::new("first-start", "a start", services, unit).beside("kube-proxy", [ours.to_vec(), theirs.to_vec()])
}

#[test]
fn ratios_are_taken_round_by_round_and_more_is_better_for_rates() {
    let times = row(10, Unit::Seconds, &[1.0, 2.0, 4.0], &[10.0, 10.0, 10.0]);
    assert_eq!(times.times_better(), [10.0, 5.0, 2.5]);
    assert_eq!(Spread::of(&times.times_better()), Some(Spread { min: 2.5, median: 5.0, max: 10.0 }));
    assert_eq!(row(10, Unit::PerSecond, &[30.0], &[10.0]).times_better(), [3.0]);
}

#[test]
fn a_goal_is_reached_when_each_of_its_parts_is() {
    let reached = |ours, times| row(10, Unit::Seconds, &[0.2], &[2.0]).goal(ours, times).is_reached();
    assert_eq!(reached(None, None), None);
    assert_eq!(reached(Some(0.2), Some(10.0)), Some(true));
    assert_eq!(reached(Some(0.1), Some(10.0)), Some(false));
    assert_eq!(reached(Some(0.3), Some(11.0)), Some(false));
    let rate = |goal| row(0, Unit::PerSecond, &[50.0], &[]).goal(goal, None).is_reached();
    assert_eq!((rate(40.0), rate(60.0)), (Some(true), Some(false)));
    let alone = row(10, Unit::Seconds, &[0.2], &[]).goal(None, 1.0);
    assert_eq!(alone.is_reached(), Some(false), "a ratio without a peer is not reached");
}

#[test]
fn percentiles_are_values_that_were_measured() {
    let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
    assert_eq!((percentile(&values, 0.5), percentile(&values, 0.99), percentile(&[7.0], 0.99)), (100.0, 198.0, 7.0));
}

#[test]
fn table_and_json_have_every_row_with_its_verdict_and_note() {
    let missed = row(10, Unit::Bytes, &[2e6], &[1e6]).goal(None, 1.0).note("the disk");
    let rows = [row(10, Unit::Seconds, &[0.25], &[2.0]).goal(0.3, 4.0), missed];
    let share = row(0, Unit::Share, &[0.0005], &[0.02]).goal(0.001, None);
    let table = markdown(&[rows.to_vec(), vec![share]].concat(), "here and now");
    assert!(table.starts_with("here and now\n"), "{table}");
    let line = "| first-start | 10 | a start | 250.0 ms (250.0 ms–250.0 ms) | kube-proxy 2.00 s (2.00 s–2.00 s) | **8.00** (8.00–8.00) | ≤ 300.0 ms, 4 × ✓ |";
    assert!(table.contains(line), "{table}");
    assert!(table.contains("| 0.05 % (0.05 %–0.05 %) |"), "{table}");
    assert!(table.contains("| 1 × ✗ |") && table.contains("- first-start, 10: the disk. The API server's own time"), "{table}");
    assert_eq!(
        table.matches("The API server's own time").count(),
        1,
        "a row that reaches its goal needs no explanation: {table}"
    );
    let value: serde_json::Value = serde_json::from_str(&json(&rows, "now")).unwrap();
    assert_eq!(value["rows"][0]["ours"][0], 0.25);
    assert_eq!(value["reached"], serde_json::json!([true, false]));
}

#[test]
fn rows_of_several_sizes_become_lines() {
    let rows = [1000, 10_000].map(|size| row(size, Unit::Seconds, &[f64::from(size) / 1e4], &[9.0]));
    let drawing = drawing::svg(&rows).unwrap();
    assert_eq!(drawing.matches("<polyline").count(), 2, "{drawing}");
    assert!(!drawing.contains("NaN") && !drawing.contains("inf"), "{drawing}");
    assert_eq!(drawing::svg(&rows[..1]), None);
}
