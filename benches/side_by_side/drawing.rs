//! Cost against size, as a drawing: both axes logarithmic, one line a program and row.

use super::report::{Row, Spread, Unit};
use std::collections::BTreeMap;
use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 480.0;
const MARGIN: f64 = 60.0;
/// Room for the names of the lines.
const LEGEND: f64 = 300.0;
const COLOURS: [&str; 8] = ["#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#117a65", "#7b241c", "#34495e"];

/// Medians by number of services: our line, and the peer's.
type Lines = [Vec<(f64, f64)>; 2];

/// An SVG of the rows in seconds that were measured at two sizes or more; `None` when there is none.
pub fn svg(rows: &[Row]) -> Option<String> {
    let mut by_name: BTreeMap<&str, Lines> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.unit == Unit::Seconds && row.services > 0) {
        for (line, values) in by_name.entry(row.name).or_default().iter_mut().zip([&row.ours, &row.theirs]) {
            line.extend(Spread::of(values).map(|spread| (f64::from(row.services), spread.median)));
        }
    }
    by_name.retain(|_, [ours, _]| ours.len() > 1);
    let points: Vec<(f64, f64)> = by_name.values().flatten().flatten().copied().collect();
    let bounds = |values: Vec<f64>| Spread::of(&values).map(|spread| (spread.min.log10().floor(), spread.max.log10().ceil()));
    let across = bounds(points.iter().map(|point| point.0).collect())?;
    let up = bounds(points.iter().map(|point| point.1).collect())?;
    let place = |value: f64, (low, high): (f64, f64), length: f64| (value.log10() - low) / (high - low).max(1.0) * length;
    let x = |services: f64| MARGIN + place(services, across, WIDTH - LEGEND - MARGIN);
    let y = |seconds: f64| HEIGHT - MARGIN - place(seconds, up, HEIGHT - 2.0 * MARGIN);

    let mut drawing = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\">seconds against services (solid: Waypost, dashed: peer)</text>\n"
    );
    let mut put = |line: String| writeln!(drawing, "{line}").expect("a String can be written");
    for power in up.0 as i32..=up.1 as i32 {
        let (value, at) = (10f64.powi(power), y(10f64.powi(power)));
        put(format!("<line x1=\"{MARGIN}\" y1=\"{at:.1}\" x2=\"{}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>", WIDTH - LEGEND));
        put(format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>", MARGIN - 6.0, at + 4.0));
    }
    for power in across.0 as i32..=across.1 as i32 {
        let value = 10f64.powi(power);
        put(format!("<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{value}</text>", x(value), HEIGHT - MARGIN + 20.0));
    }
    for (number, (name, lines)) in by_name.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        for (line, dashes) in lines.iter().zip(["", " stroke-dasharray=\"6 4\""]).filter(|(line, _)| !line.is_empty()) {
            let points: Vec<_> =
                line.iter().map(|(services, seconds)| format!("{:.1},{:.1}", x(*services), y(*seconds))).collect();
            put(format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>",
                points.join(" ")
            ));
        }
        let at = MARGIN + 18.0 * number as f64;
        put(format!("<text x=\"{}\" y=\"{at}\" fill=\"{colour}\">{name}</text>", WIDTH - LEGEND + 12.0));
    }
    Some(drawing + "</svg>\n")
}
