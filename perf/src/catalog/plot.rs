//! Search latency and opening time against the number of recordings, as SVG.

use super::Outcome;
use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 60.0;
const LABEL_HEIGHT: f64 = 15.0;

struct Line {
    name: &'static str,
    color: &'static str,
    milliseconds: fn(&Outcome) -> f64,
}

const LINES: [Line; 4] = [
    Line { name: "opening, cold", color: "#1b7837", milliseconds: |outcome| outcome.open_cold_ms.median },
    Line { name: "slowest p99", color: "#b2182b", milliseconds: |outcome| worst(outcome, |asked| asked.p99_ms.median) },
    Line {
        name: "of it CPU",
        color: "#ef8a62",
        milliseconds: |outcome| worst(outcome, |asked| asked.cpu_p99_ms.median),
    },
    Line { name: "median of p50", color: "#2166ac", milliseconds: median },
];

fn worst(outcome: &Outcome, of: fn(&super::Asked) -> f64) -> f64 {
    outcome.questions.iter().map(of).fold(0.0, f64::max)
}

fn median(outcome: &Outcome) -> f64 {
    let mut p50: Vec<f64> = outcome.questions.iter().map(|asked| asked.p50_ms.median).collect();
    p50.sort_by(f64::total_cmp);
    p50[p50.len() / 2]
}

/// Both axes are logarithmic.
pub(super) fn draw(outcomes: &[Outcome]) -> String {
    let decade = |value: f64| value.max(1e-3).log10();
    let sizes = outcomes.iter().map(|outcome| decade(outcome.recordings as f64));
    let (from, to) = sizes.fold((f64::MAX, f64::MIN), |(from, to), size| (from.min(size.floor()), to.max(size.ceil())));
    let to = to.max(from + 1.0);
    let times = || outcomes.iter().flat_map(|outcome| LINES.iter().map(|line| decade((line.milliseconds)(outcome))));
    let low = times().fold(0.0, f64::min).floor();
    let high = times().fold(1.0, f64::max).ceil();
    let x = |size: f64| LEFT + (size - from) / (to - from) * (WIDTH - LEFT - RIGHT);
    let y = |time: f64| HEIGHT - BOTTOM - (time - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">Catalog: searching and opening, by size</text>\n"
    );
    let mut draw = |text: String| svg.push_str(&text);
    for power in from as i32..=to as i32 {
        let x = x(f64::from(power));
        draw(format!(
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"#ddd\"/>\n",
            HEIGHT - BOTTOM
        ));
        let label = HEIGHT - BOTTOM + 18.0;
        draw(format!(
            "<text x=\"{x:.1}\" y=\"{label}\" text-anchor=\"middle\">10<tspan dy=\"-5\" font-size=\"10\">{power}</tspan></text>\n"
        ));
    }
    for power in low as i32..=high as i32 {
        let y = y(f64::from(power));
        draw(format!(
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\n",
            WIDTH - RIGHT
        ));
        let value = 10f64.powi(power);
        draw(format!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value} ms</text>\n", LEFT - 6.0, y + 4.0));
    }
    draw(format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">recordings</text>\n",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 16.0
    ));
    let mut labels = Vec::new();
    for line in &LINES {
        let mut points = String::new();
        let mut end = 0.0;
        for outcome in outcomes {
            let place = (x(decade(outcome.recordings as f64)), y(decade((line.milliseconds)(outcome))));
            write!(points, "{:.1},{:.1} ", place.0, place.1).expect("writing to a string does not fail");
            draw(format!("<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{}\"/>\n", place.0, place.1, line.color));
            end = place.1;
        }
        draw(format!("<polyline points=\"{points}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n", line.color));
        labels.push((end + 4.0, line));
    }
    // One below the other where lines end together.
    labels.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut free = TOP;
    for (end, line) in labels {
        let (x, y) = (WIDTH - RIGHT + 10.0, free.max(end));
        draw(format!("<text x=\"{x}\" y=\"{y:.1}\" fill=\"{}\">{}</text>\n", line.color, line.name));
        free = y + LABEL_HEIGHT;
    }
    svg.push_str("</svg>\n");
    svg
}
