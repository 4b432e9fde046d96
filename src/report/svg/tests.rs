use proptest::prelude::*;
use roxmltree::{Document, Node};

use super::gallery;
use super::marks::{COLOURS, Look};
use super::*;
use crate::report::chart::{Axis, Bars, Group, Interval, Panel, Part, Point, RatioRow, Samples};
use crate::report::chart::{Role, Series, Side, Waterfall};

/// Tenths of pixels are rounded.
const ROUNDING: f64 = 0.051;

/// The chart as a page has it.
fn drawn(chart: &Chart, width: f64) -> String {
    inline(chart, width, "chart").into_string()
}

fn number(node: &Node, name: &str) -> f64 {
    let text = node.attribute(name);
    let text = text.unwrap_or_else(|| panic!("{name} of {node:?}"));
    text.parse().unwrap_or_else(|_| panic!("{name} = {text}"))
}

fn of_class<'a>(drawing: &'a Document, class: &str) -> Vec<Node<'a, 'a>> {
    let is = |node: &Node| {
        let classes = node.attribute("class").unwrap_or_default();
        classes.split(' ').any(|one| one == class)
    };
    drawing.descendants().filter(is).collect()
}

/// Every place in a path.
fn places(path: &str) -> Vec<(f64, f64)> {
    let pieces = path
        .split(['M', 'L', 'Z'])
        .filter(|piece| !piece.is_empty());
    let place = |piece: &str| {
        let (x, y) = piece.split_once(' ').expect(path);
        (x.parse().expect(path), y.parse().expect(path))
    };
    pieces.map(place).collect()
}

/// All corners of what is drawn but text.
fn corners(drawing: &Document) -> Vec<(f64, f64)> {
    let mut corners = Vec::new();
    for node in drawing.descendants() {
        let number = |name| number(&node, name);
        match node.tag_name().name() {
            "line" => corners.extend([(number("x1"), number("y1")), (number("x2"), number("y2"))]),
            "circle" => corners.push((number("cx"), number("cy"))),
            "rect" if node.attribute("x").is_some() => {
                assert!(
                    number("width") >= 0.0 && number("height") >= 0.0,
                    "{node:?}"
                );
                corners.push((number("x"), number("y")));
                corners.push((
                    number("x") + number("width"),
                    number("y") + number("height"),
                ));
            }
            "path" => corners.extend(places(node.attribute("d").expect("a path"))),
            _ => {}
        }
    }
    corners
}

/// A text and the box that it takes: left, right, top, bottom.
fn boxes(drawing: &Document) -> Vec<(String, [f64; 4])> {
    let texts = drawing
        .descendants()
        .filter(|node| node.has_tag_name("text"));
    let placed = texts.map(|node| {
        let words = node.text().unwrap_or_default().to_owned();
        let width = text::width(&words, FONT);
        let (x, y) = (number(&node, "x"), number(&node, "y"));
        let left = match node.attribute("text-anchor").expect("an anchor") {
            "start" => x,
            "middle" => x - width / 2.0,
            _ => x - width,
        };
        // From the top of high letters to the bottom of low ones.
        (
            words,
            [left, left + width, y - 0.76 * FONT, y + 0.24 * FONT],
        )
    });
    placed.collect()
}

/// What must hold of every drawing: all of it lies inside, and no words lie on others.
fn check(chart: &Chart, width: f64) {
    let svg = drawn(chart, width);
    for broken in ["NaN", "inf"] {
        assert!(!svg.contains(&format!("\"{broken}")), "{svg}");
        assert!(!svg.contains(&format!(" {broken}")), "{svg}");
    }
    let drawing = Document::parse(&svg).unwrap_or_else(|error| panic!("{error}: {svg}"));
    let height = number(&drawing.root_element(), "height");
    assert!(height < 20_000.0, "{height}");
    // Marks at an end of an axis reach over it.
    let margin = 6.0;
    for (x, y) in corners(&drawing) {
        let inside =
            (-margin..=width + margin).contains(&x) && (-margin..=height + margin).contains(&y);
        assert!(
            inside,
            "({x}, {y}) in {width} x {height} of {}",
            chart.title
        );
    }
    let boxes = boxes(&drawing);
    for (words, [left, right, top, bottom]) in &boxes {
        let inside = *left >= -ROUNDING
            && *right <= width + ROUNDING
            && *top >= -ROUNDING
            && *bottom <= height + ROUNDING;
        assert!(
            inside,
            "'{words}' is cut at {width} in {}: {left} to {right}",
            chart.title
        );
    }
    for (index, (words, a)) in boxes.iter().enumerate() {
        for (others, b) in &boxes[..index] {
            let apart = a[1] <= b[0] || b[1] <= a[0] || a[3] <= b[2] || b[3] <= a[2];
            assert!(
                apart,
                "'{words}' lies on '{others}' at {width} in {}",
                chart.title
            );
        }
    }
}

#[test]
fn no_words_lie_on_others_or_are_cut_and_marks_lie_inside() {
    for chart in gallery::all().iter().chain(&gallery::hostile()) {
        check(chart, WIDE);
        check(chart, NARROW);
        let file = file(chart);
        Document::parse(&file).unwrap_or_else(|error| panic!("{error}: {file}"));
    }
}

/// Where a value is, by the ticks on either side of it.
fn by_ticks(ticks: &[(f64, f64)], value: f64) -> f64 {
    let above = ticks
        .iter()
        .position(|tick| tick.0 >= value)
        .expect("a tick above");
    let (a, b) = (ticks[above.max(1) - 1], ticks[above.max(1)]);
    a.1 + (b.1 - a.1) * (value - a.0) / (b.0 - a.0)
}

/// Numbers of an axis with their places, by the anchor of their labels.
fn ticks(drawing: &Document, anchor: &str, place: &str) -> Vec<(f64, f64)> {
    let ticks = of_class(drawing, "tick").into_iter();
    let ticks = ticks.filter(|tick| tick.attribute("text-anchor") == Some(anchor));
    let ticks = ticks.map(|tick| {
        let label = tick
            .text()
            .expect("a number")
            .replace(',', "")
            .replace('\u{2212}', "-");
        (label.parse().expect("a number"), number(&tick, place))
    });
    ticks.collect()
}

#[test]
fn points_lie_where_their_values_are_on_both_axes() {
    let points = [(2.0, 10.0), (5.0, 35.0), (9.0, 20.0)];
    let series = Series::measured("a", points.map(|(x, y)| (x, Interval::from(y))));
    let panel = Panel {
        y: Axis::linear("y", ""),
        series: vec![series],
    };
    let chart = Chart::lines("points", Axis::linear("x", ""), vec![panel]);
    let svg = drawn(&chart, WIDE);
    let drawing = Document::parse(&svg).unwrap();
    let across = ticks(&drawing, "middle", "x");
    let up = ticks(&drawing, "end", "y");
    for axis in [&across, &up] {
        assert!(
            axis.windows(2).all(|pair| pair[0].0 < pair[1].0),
            "{axis:?}"
        );
    }
    assert!(
        across.windows(2).all(|pair| pair[0].1 < pair[1].1),
        "{across:?}"
    );
    assert!(up.windows(2).all(|pair| pair[0].1 > pair[1].1), "{up:?}");
    let marks: Vec<_> = drawing
        .descendants()
        .filter(|node| node.has_tag_name("circle"))
        .collect();
    // The first one is the legend's.
    assert_eq!(marks.len(), 4);
    for ((x, y), mark) in points.iter().zip(&marks[1..]) {
        assert!((number(mark, "cx") - by_ticks(&across, *x)).abs() < 2.0 * ROUNDING);
        // The baseline of a number lies below its tick.
        let expected = by_ticks(&up, *y) - frame::MIDDLE;
        assert!((number(mark, "cy") - expected).abs() < 2.0 * ROUNDING);
    }
}

#[test]
fn error_bars_reach_from_low_to_high_and_only_where_there_is_an_interval() {
    let interval = Interval {
        value: 20.0,
        low: 10.0,
        high: 40.0,
    };
    let series = Series::measured("a", [(1.0, interval), (2.0, Interval::from(30.0))]);
    let panel = Panel {
        y: Axis::linear("y", ""),
        series: vec![series],
    };
    let chart = Chart::lines("bars", Axis::log2("x", ""), vec![panel]);
    let svg = drawn(&chart, WIDE);
    let drawing = Document::parse(&svg).unwrap();
    let whiskers = of_class(&drawing, "whisker");
    assert_eq!(whiskers.len(), 3);
    let up = ticks(&drawing, "end", "y");
    let ends = [number(&whiskers[0], "y1"), number(&whiskers[0], "y2")];
    for (end, value) in ends.iter().zip([10.0, 40.0]) {
        assert!((end - (by_ticks(&up, value) - frame::MIDDLE)).abs() < 2.0 * ROUNDING);
    }
}

#[test]
fn panels_share_their_horizontal_axis() {
    let svg = drawn(&gallery::positions(3), WIDE);
    let drawing = Document::parse(&svg).unwrap();
    assert_eq!(ticks(&drawing, "middle", "x").len(), 8);
    // The megakernel's points in the first two panels, one below the other.
    let circles = drawing
        .descendants()
        .filter(|node| node.has_tag_name("circle"));
    let x: Vec<f64> = circles.skip(1).map(|mark| number(&mark, "cx")).collect();
    assert_eq!(x.len(), 32);
    assert_eq!(x[..16], x[16..]);
}

#[test]
fn bars_are_as_long_as_their_values() {
    let bars = |values: &[f64]| Bars {
        axis: Axis::linear("v", ""),
        series: vec!["s".into()],
        groups: values
            .iter()
            .map(|value| Group {
                label: "g".into(),
                bars: vec![Some(Interval::from(*value))],
            })
            .collect(),
    };
    let svg = drawn(&Chart::bars("bars", bars(&[10.0, 30.0, 0.0])), WIDE);
    let drawing = Document::parse(&svg).unwrap();
    let widths: Vec<f64> = of_class(&drawing, "bar")
        .iter()
        .map(|bar| number(bar, "width"))
        .collect();
    assert!(
        (widths[1] - 3.0 * widths[0]).abs() < 4.0 * ROUNDING,
        "{widths:?}"
    );
    assert_eq!(widths[2], 0.0);
    // Those below zero reach to the other side of it.
    let svg = drawn(&Chart::bars("bars", bars(&[-10.0, 10.0])), WIDE);
    let drawing = Document::parse(&svg).unwrap();
    let bars = of_class(&drawing, "bar");
    let end = |bar: &Node| number(bar, "x") + number(bar, "width");
    assert!((end(&bars[0]) - number(&bars[1], "x")).abs() < 2.0 * ROUNDING);
}

#[test]
fn each_part_of_a_whole_begins_where_the_one_before_it_ends() {
    let svg = drawn(&gallery::waterfall(None), WIDE);
    let drawing = Document::parse(&svg).unwrap();
    let mut above = of_class(&drawing, "above");
    // The first one is the legend's.
    above.remove(0);
    let end = |part: &Node| number(part, "x") + number(part, "width");
    let whole = above.pop().unwrap();
    for pair in above.windows(2) {
        assert!((end(&pair[0]) - number(&pair[1], "x")).abs() < 3.0 * ROUNDING);
    }
    assert!((end(above.last().unwrap()) - end(&whole)).abs() < 3.0 * ROUNDING);
    assert_eq!(number(&above[0], "x"), number(&whole, "x"));
}

#[test]
fn ratios_lie_on_their_side_of_one() {
    let svg = drawn(&gallery::ratios(), WIDE);
    let drawing = Document::parse(&svg).unwrap();
    let one = number(&of_class(&drawing, "one")[0], "x1");
    let middle = |row: &Node| {
        let mark = row
            .children()
            .find(|node| node.attribute("class") == Some("mark"));
        let places = places(mark.unwrap().attribute("d").unwrap());
        places.iter().map(|place| place.0).sum::<f64>() / places.len() as f64
    };
    let (better, worse) = (of_class(&drawing, "better"), of_class(&drawing, "worse"));
    assert_eq!((better.len(), worse.len()), (2, 1));
    assert!(better.iter().all(|row| middle(row) > one));
    assert!(worse.iter().all(|row| middle(row) < one));
    assert!(svg.contains("not measured: wrong output"));
}

#[test]
fn a_histogram_holds_every_sample_once() {
    let values: Vec<f64> = (0..50).map(|index| f64::from(index * index)).collect();
    let set = Samples {
        name: "a".into(),
        values,
    };
    let chart = Chart::histogram("h", Axis::linear("v", ""), vec![set]);
    let svg = drawn(&chart, WIDE);
    let drawing = Document::parse(&svg).unwrap();
    let up = ticks(&drawing, "end", "y");
    let (first, last) = (up[0], up[up.len() - 1]);
    let percent = (last.0 - first.0) / (first.1 - last.1);
    let heights = of_class(&drawing, "bar");
    let sum: f64 = heights
        .iter()
        .map(|bar| number(bar, "height") * percent)
        .sum();
    assert!((sum - 100.0).abs() < 1.0, "{sum}");
}

#[test]
fn what_was_not_measured_says_so() {
    let panel = Panel {
        y: Axis::linear("y", ""),
        series: Vec::new(),
    };
    let nothing = |label: &str| Group {
        label: label.into(),
        bars: vec![None],
    };
    let bars = Bars {
        axis: Axis::linear("v", ""),
        series: vec!["s".into()],
        groups: vec![nothing("a")],
    };
    let unknown = RatioRow {
        label: "a".into(),
        ratio: None,
        verdict: String::new(),
        side: Side::Neither,
    };
    let waterfall = Waterfall {
        axis: Axis::linear("v", ""),
        parts: Vec::new(),
        whole: None,
    };
    for chart in [
        Chart::default(),
        Chart::lines("a", Axis::log2("x", ""), vec![panel]),
        Chart::lines("b", Axis::log2("x", ""), Vec::new()),
        Chart::ratios("c", vec![unknown]),
        Chart::bars("d", bars),
        Chart::waterfall("e", waterfall),
        Chart::histogram("f", Axis::linear("v", ""), Vec::new()),
        Chart::quantiles("g", Axis::log10("v", ""), []),
    ] {
        check(&chart, NARROW);
        let svg = drawn(&chart, NARROW);
        assert!(svg.contains(">not measured<"), "{svg}");
        assert!(!svg.contains("<path") && !svg.contains("<rect"), "{svg}");
    }
}

#[test]
fn a_line_without_points_is_named_as_not_measured() {
    let mut chart = gallery::positions(2);
    let Plot::Lines(lines) = &mut chart.plot else {
        unreachable!("it has lines");
    };
    for panel in &mut lines.panels {
        panel.series.push(Series::measured("cuda", []));
    }
    assert!(drawn(&chart, WIDE).contains(">cuda: not measured<"));
}

#[test]
fn what_an_axis_can_not_show_is_left_out_and_counted() {
    let points = [
        (1.0, 1.0),
        (2.0, f64::NAN),
        (0.0, 3.0),
        (4.0, -1.0),
        (8.0, 2.0),
    ];
    let series = Series::measured("a", points.map(|(x, y)| (x, Interval::from(y))));
    let panel = Panel {
        y: Axis::log10("y", ""),
        series: vec![series],
    };
    let chart = Chart::lines("a", Axis::log2("x", ""), vec![panel]);
    check(&chart, WIDE);
    let svg = drawn(&chart, WIDE);
    assert!(svg.contains("3 values that are not finite"), "{svg}");
    assert_eq!(svg.matches("<circle").count(), 1 + 2);
}

#[test]
fn a_file_is_read_aloud_and_holds_nothing_from_elsewhere() {
    let mut chart = gallery::bars(Axis::linear("<&> \"time\"", "\u{b5}s"));
    chart.title = "</title><script>alert(1)</script> \u{1}".into();
    let file = file(&chart.described("a & b"));
    let drawing = Document::parse(&file).unwrap();
    let svg = drawing.root_element();
    assert_eq!(svg.attribute("role"), Some("img"));
    for id in svg.attribute("aria-labelledby").unwrap().split(' ') {
        assert!(
            drawing
                .descendants()
                .any(|node| node.attribute("id") == Some(id)),
            "{id}"
        );
    }
    let title = svg.first_element_child().unwrap();
    assert_eq!(
        title.text(),
        Some("</title><script>alert(1)</script> \u{fffd}")
    );
    assert!(
        drawing
            .descendants()
            .all(|node| !node.has_tag_name("script"))
    );
    assert!(!file.contains("href") && !file.contains("url(") && !file.contains("@import"));
}

#[test]
fn series_differ_in_colour_and_in_more_than_colour() {
    let shape = |look: Look| {
        let mark = look.mark(0.0, 0.0).into_string();
        (look.dashes(), mark)
    };
    let looks: Vec<Look> = (0..12).map(Look).collect();
    for (index, a) in looks.iter().enumerate() {
        for b in &looks[..index] {
            assert_ne!(shape(*a), shape(*b), "{a:?} {b:?}");
        }
    }
    assert_ne!(looks[0].class(), looks[COLOURS - 1].class());
}

/// The contrast of two colours, by WCAG 2.2.
fn contrast(a: &str, b: &str) -> f64 {
    let luminance = |colour: &str| {
        let short = colour.len() == 4;
        let part = |index: usize| {
            let digits = match short {
                true => colour[index + 1..index + 2].repeat(2),
                false => colour[2 * index + 1..2 * index + 3].to_owned(),
            };
            let value = f64::from(u8::from_str_radix(&digits, 16).expect("a colour")) / 255.0;
            match value <= 0.04045 {
                true => value / 12.92,
                false => ((value + 0.055) / 1.055).powf(2.4),
            }
        };
        0.2126 * part(0) + 0.7152 * part(1) + 0.0722 * part(2)
    };
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

#[test]
fn colours_stand_out_from_the_paper_by_day_and_by_night() {
    let (day, night) = STYLE.split_once("@media").expect("rules for the dark");
    for (rules, paper) in [(day, "#fff"), (night, "#0d1117")] {
        assert!(rules.contains(&format!(".paper {{ fill: {paper}; }}")));
        let colour = |class: &str, property: &str| {
            let names = |line: &&str| {
                let selectors = line.split('{').next().unwrap_or_default();
                let mut selectors = selectors.split(',');
                selectors.any(|selector| selector.trim().ends_with(class))
                    && line.contains(property)
            };
            let rule = rules
                .lines()
                .find(names)
                .unwrap_or_else(|| panic!("{class}"));
            let value = rule.split(&format!("{property}: ")).nth(1).expect(property);
            value[..value.find(';').expect("an end")].to_owned()
        };
        // 3:1 for what is drawn and 4.5:1 for text, by WCAG 2.2, 1.4.11 and 1.4.3.
        let mut drawn: Vec<String> = (0..COLOURS).map(|series| format!(".s{series}")).collect();
        drawn.extend([".better", ".worse", ".neither", ".floor"].map(str::to_owned));
        for class in drawn {
            let contrast = contrast(&colour(&class, "fill"), paper);
            assert!(contrast >= 3.0, "{class} on {paper}: {contrast:.2}");
        }
        for class in ["text", ".tick"] {
            let contrast = contrast(&colour(class, "fill"), paper);
            assert!(contrast >= 4.5, "{class} on {paper}: {contrast:.2}");
        }
    }
}

/// Any number that results may hold.
fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => -1e3..1e3_f64,
        2 => (-30.0..30.0_f64).prop_map(|power| 10_f64.powf(power)),
        1 => any::<f64>(),
        1 => Just(0.0),
    ]
}

fn any_interval() -> impl Strategy<Value = Interval> {
    (any_value(), any_value(), any_value()).prop_map(|(value, low, high)| Interval {
        value,
        low,
        high,
    })
}

fn any_axis() -> impl Strategy<Value = Axis> {
    (0..3, any::<bool>(), "[ -~]{0,30}").prop_map(|(scale, tight, label)| {
        let axis = match scale {
            0 => Axis::linear(label, "ms"),
            1 => Axis::log2(label, "ms"),
            _ => Axis::log10(label, "ms"),
        };
        Axis { tight, ..axis }
    })
}

fn any_chart() -> impl Strategy<Value = Chart> {
    let name = || "[ -~]{0,60}";
    let point = (any_value(), any_interval()).prop_map(|(x, y)| Point { x, y });
    let role = prop_oneof![Just(Role::Measured), Just(Role::Bound), Just(Role::Curve)];
    let series = (name(), role, prop::collection::vec(point, 0..6))
        .prop_map(|(name, role, points)| Series { name, role, points });
    let panel = (any_axis(), prop::collection::vec(series, 0..4))
        .prop_map(|(y, series)| Panel { y, series });
    let lines = (any_axis(), prop::collection::vec(panel, 0..4))
        .prop_map(|(x, panels)| Chart::lines("lines", x, panels));
    let row =
        (name(), prop::option::of(any_interval()), name()).prop_map(|(label, ratio, verdict)| {
            RatioRow {
                label,
                ratio,
                verdict,
                side: Side::Neither,
            }
        });
    let ratios = prop::collection::vec(row, 0..6).prop_map(|rows| Chart::ratios("ratios", rows));
    let bar = || prop::option::of(any_interval());
    let group = (name(), bar(), bar()).prop_map(|(label, a, b)| Group {
        label,
        bars: vec![a, b],
    });
    let bars = (any_axis(), prop::collection::vec(group, 0..5)).prop_map(|(axis, groups)| {
        let series = vec!["a".into(), "b".into()];
        Chart::bars(
            "bars",
            Bars {
                axis,
                series,
                groups,
            },
        )
    });
    let part =
        (name(), any_value(), prop::option::of(any_value())).prop_map(|(label, value, floor)| {
            Part {
                label,
                value,
                floor,
            }
        });
    let waterfall = (
        prop::collection::vec(part, 0..6),
        prop::option::of(any_interval()),
    );
    let waterfall = waterfall.prop_map(|(parts, whole)| {
        let axis = Axis::linear("time", "ms");
        Chart::waterfall("waterfall", Waterfall { axis, parts, whole })
    });
    let set = (name(), prop::collection::vec(any_value(), 0..40))
        .prop_map(|(name, values)| Samples { name, values });
    let histogram = (any_axis(), prop::collection::vec(set, 0..4))
        .prop_map(|(axis, sets)| Chart::histogram("histogram", axis, sets));
    let percent = prop_oneof![0.0..100.0_f64, 99.0..100.0_f64, Just(100.0), any_value()];
    let curve = (name(), prop::collection::vec((percent, any_value()), 0..6));
    let quantiles = (any_axis(), prop::collection::vec(curve, 0..4))
        .prop_map(|(axis, curves)| Chart::quantiles("quantiles", axis, curves));
    prop_oneof![lines, ratios, bars, waterfall, histogram, quantiles]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_numbers_and_names_make_a_whole_drawing(chart in any_chart()) {
        check(&chart, WIDE);
        check(&chart, NARROW);
    }
}

/// Writes the gallery for a look at it: `ONEGRID_GALLERY=DIR cargo test --release --lib gallery`.
#[test]
fn the_gallery_is_written_where_a_folder_is_named() {
    let Some(folder) = std::env::var_os("ONEGRID_GALLERY") else {
        return;
    };
    for (index, chart) in gallery::all().iter().chain(&gallery::hostile()).enumerate() {
        let path = std::path::Path::new(&folder).join(format!("{index}.svg"));
        std::fs::write(path, file(chart)).unwrap();
    }
}
