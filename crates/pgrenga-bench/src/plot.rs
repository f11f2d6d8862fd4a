//! Throughput against the number of nodes, as an SVG: small enough to write by
//! hand, and the same bytes for the same numbers.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 56.0;

/// Told apart without colour sight too (Okabe and Ito's palette).
const COLOURS: [&str; 3] = ["#0072b2", "#d55e00", "#009e73"];

/// One line of the plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// What it is.
    pub name: String,
    /// Number of nodes, and throughput relative to one node.
    pub points: Vec<(u16, f64)>,
}

/// Draws the curves and, dashed, what would be ideal: n times as much from n nodes.
#[must_use]
pub fn svg(curves: &[Curve]) -> String {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let nodes = points().map(|(nodes, _)| *nodes).max().unwrap_or(1).max(2);
    let ratio = points().map(|(_, ratio)| *ratio).fold(f64::from(nodes), f64::max).ceil();
    let scale = Scale { nodes: f64::from(nodes), ratio };
    let mut text = String::new();
    let _ = writeln!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#333\">"
    );
    let _ = writeln!(text, "<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>");
    label(&mut text, (WIDTH / 2.0, 24.0), "middle", "Throughput relative to one node");
    label(&mut text, (LEFT.midpoint(WIDTH - RIGHT), HEIGHT - 14.0), "middle", "nodes");
    axes(&mut text, &scale, nodes);
    let ideal = [scale.place(1.0, 1.0), scale.place(f64::from(nodes), f64::from(nodes))];
    line(&mut text, &ideal, "#888", " stroke-dasharray=\"6 5\"");
    legend(&mut text, 0.0, "#888", "ideal");
    let mut row = 1.0;
    for (curve, colour) in curves.iter().zip(COLOURS.into_iter().cycle()) {
        draw(&mut text, &scale, curve, colour);
        legend(&mut text, row, colour, &curve.name);
        row += 1.0;
    }
    text.push_str("</svg>\n");
    text
}

/// Where a value stands on the canvas. The horizontal axis begins at one node, the vertical one at 0.
struct Scale {
    nodes: f64,
    ratio: f64,
}

impl Scale {
    fn place(&self, nodes: f64, ratio: f64) -> (f64, f64) {
        let x = LEFT + (nodes - 1.0) / (self.nodes - 1.0) * (WIDTH - LEFT - RIGHT - 24.0);
        let y = HEIGHT - BOTTOM - ratio / self.ratio * (HEIGHT - TOP - BOTTOM);
        (x, y)
    }
}

fn axes(text: &mut String, scale: &Scale, nodes: u16) {
    let mut ratio = 0.0;
    while ratio <= scale.ratio {
        let (x, y) = scale.place(1.0, ratio);
        line(text, &[(x, y), (WIDTH - RIGHT, y)], "#ddd", "");
        label(text, (x - 10.0, y + 4.0), "end", &format!("{ratio}x"));
        ratio += 1.0;
    }
    for count in 1..=nodes {
        let (x, y) = scale.place(f64::from(count), 0.0);
        line(text, &[(x, y), (x, y + 5.0)], "#888", "");
        label(text, (x, y + 20.0), "middle", &count.to_string());
    }
}

fn draw(text: &mut String, scale: &Scale, curve: &Curve, colour: &str) {
    let places: Vec<_> = curve.points.iter().map(|(nodes, ratio)| scale.place(f64::from(*nodes), *ratio)).collect();
    line(text, &places, colour, "");
    for ((x, y), (_, ratio)) in places.into_iter().zip(&curve.points) {
        let _ = writeln!(text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>");
        label(text, (x + 6.0, y + 17.0), "start", &format!("{ratio:.2}"));
    }
}

fn legend(text: &mut String, row: f64, colour: &str, name: &str) {
    let y = TOP + 14.0 + row * 20.0;
    line(text, &[(LEFT + 14.0, y - 4.0), (LEFT + 40.0, y - 4.0)], colour, "");
    label(text, (LEFT + 48.0, y), "start", name);
}

fn line(text: &mut String, places: &[(f64, f64)], colour: &str, more: &str) {
    let places: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let places = places.join(" ");
    let _ =
        writeln!(text, "<polyline points=\"{places}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{more}/>");
}

fn label(text: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(text, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_as_good_as_the_ideal_lies_on_it() {
        let text = svg(&[Curve { name: "a<b".to_owned(), points: vec![(1, 1.0), (2, 2.0), (3, 3.0)] }]);
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("polyline")).collect();
        let ends = |line: &str| {
            let points = line.split('"').nth(1).unwrap();
            let points: Vec<String> = points.split(' ').map(str::to_owned).collect();
            (points[0].clone(), points[points.len() - 1].clone())
        };
        let ideal = lines.iter().find(|line| line.contains("dasharray")).unwrap();
        let curve = lines.iter().find(|line| line.contains(COLOURS[0]) && line.matches(',').count() == 3).unwrap();
        assert_eq!(ends(ideal), ends(curve));
        assert!(text.contains("a&lt;b") && text.contains(">2.00<") && text.ends_with("</svg>\n"));
    }

    #[test]
    fn everything_stays_on_the_canvas() {
        let points = vec![(1, 1.0), (9, 11.3)];
        let text = svg(&[Curve { name: "x".to_owned(), points }, Curve { name: "y".to_owned(), points: Vec::new() }]);
        for place in text.split("points=\"").skip(1).flat_map(|rest| rest.split('"').next().unwrap().split(' ')) {
            if let Some((x, y)) = place.split_once(',') {
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((0.0..=WIDTH).contains(&x) && (0.0..=HEIGHT).contains(&y), "{place}");
            }
        }
    }
}
