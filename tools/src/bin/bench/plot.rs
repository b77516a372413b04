//! The ratios as a picture: bars, with the targets as lines across them.

use std::fmt::Write;

use crate::jobs::{Bound, Job, Measure};
use crate::results::Results;
use crate::servers::Who;

/// Who the ratios are to, with a colour.
const TO: [(Who, &str); 3] =
    [(Who::Quorum, "#2f6f9f"), (Who::QemuNbd, "#c78a2c"), (Who::Floor, "#8a8a8a")];
/// All in pixels.
const LEFT: f64 = 90.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 60.0;
const BAR: f64 = 10.0;
const GAP: f64 = 12.0;
const WIDTH: f64 = 760.0;
/// Longer bars end here.
const RATIO_MAX: f64 = 8.0;

/// Bars of each job: Tandem's rate against the others'.
pub(crate) fn svg(results: &Results, jobs: &[&Job]) -> String {
    let ratios: Vec<[Option<f64>; 3]> =
        jobs.iter().map(|job| TO.map(|(who, _)| results.ratio(job, Who::Tandem, who))).collect();
    let targets = |job: &Job| {
        job.targets.iter().find_map(|target| match (target.measure, target.bound) {
            (Measure::Quorum, Bound::AtLeast(bound)) => Some(bound),
            _ => None,
        })
    };
    let values = ratios.iter().flatten().flatten().copied();
    let largest = values.chain(jobs.iter().filter_map(|job| targets(job)));
    let largest =
        largest.filter(|value| value.is_finite()).fold(1.0, f64::max).ceil().min(RATIO_MAX);
    let scale = (WIDTH - LEFT - RIGHT) / largest;
    let group = BAR * TO.len() as f64 + GAP;
    let height = TOP + group * jobs.len() as f64 + 30.0;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">Tandem, two copies: operations a second \
         against others (1 = as many)</text>"
    );
    for (index, (who, colour)) in TO.iter().enumerate() {
        let x = LEFT + 170.0 * index as f64;
        let name = match who {
            Who::Quorum => "quorum, two copies",
            Who::QemuNbd => "qemu-nbd, one copy",
            _ => "two raw files",
        };
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"32\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"42\">{name}</text>",
            x + 16.0
        );
    }
    let _ = writeln!(out, "<text x=\"{}\" y=\"42\" fill=\"#c00\">| target</text>", LEFT + 510.0);
    for tick in 0..=largest as u32 {
        let x = LEFT + scale * f64::from(tick);
        let (bottom, colour) = (height - 26.0, if tick == 1 { "#444" } else { "#ddd" });
        let _ = writeln!(
            out,
            "<line x1=\"{x}\" x2=\"{x}\" y1=\"{TOP}\" y2=\"{bottom}\" stroke=\"{colour}\"/>\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>",
            height - 10.0
        );
    }
    for (index, (job, ratios)) in jobs.iter().zip(&ratios).enumerate() {
        let y = TOP + group * index as f64 + GAP / 2.0;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + BAR * 1.5 + 4.0,
            job.name
        );
        for (row, (ratio, (_, colour))) in ratios.iter().zip(TO).enumerate() {
            let Some(ratio) = ratio.filter(|ratio| ratio.is_finite()) else { continue };
            let (top, width) = (y + BAR * row as f64, ratio.min(largest) * scale);
            let _ = writeln!(
                out,
                "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\">\
                 <title>{}: {ratio:.2}</title></rect>\
                 <text x=\"{:.1}\" y=\"{}\" font-size=\"8\">{ratio:.2}</text>",
                BAR - 1.0,
                job.name,
                LEFT + width + 3.0,
                top + BAR - 2.0
            );
        }
        if let Some(target) = targets(job) {
            let x = LEFT + target * scale;
            let _ = writeln!(
                out,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{}\" stroke=\"#c00\" \
                 stroke-width=\"2\"/>",
                y - 2.0,
                y + BAR + 1.0
            );
        }
    }
    out + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::JOBS;
    use crate::results::example;

    #[test]
    fn a_job_has_its_bars_and_its_target() {
        let text = svg(&example(), &[&JOBS[0]]);
        assert!(text.contains("<title>w1: 2.00</title>") && text.contains("stroke=\"#c00\""));
        assert!(!text.contains("NaN") && text.ends_with("</svg>\n"));
        assert!(svg(&Results::default(), &[]).ends_with("</svg>\n"));
    }
}
