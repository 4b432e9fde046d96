//! Charts of every kind, for tests.

use crate::report::chart::*;

fn interval(value: f64, spread: f64) -> Interval {
    Interval {
        value,
        low: value * (1.0 - spread),
        high: value * (1.0 + spread),
    }
}

/// Throughput and step time of two engines and a floor against the position.
pub(crate) fn positions(panels: usize) -> Chart {
    let positions: Vec<f64> = (0..16).map(|power| f64::from(1 << power)).collect();
    let time = |scale: f64| move |x: &f64| (*x, interval(scale * (36.0 + x / 900.0), 0.03));
    let speed =
        |scale: f64| move |x: &f64| (*x, interval(1000.0 / (scale * (36.0 + x / 900.0)), 0.03));
    let of = |name: &str, points: Vec<(f64, Interval)>| Series::measured(name, points);
    let floor = |f: &dyn Fn(f64) -> f64| {
        Series::bound(
            "floor at the read bandwidth",
            positions.iter().map(|&x| (x, f(x))),
        )
    };
    let all = [
        Panel {
            y: Axis::linear("decode", "tok/s"),
            series: vec![
                of("megakernel", positions.iter().map(speed(1.0)).collect()),
                of(
                    "launch per phase",
                    positions.iter().map(speed(1.7)).collect(),
                ),
                floor(&|x| 1000.0 / (34.0 + x / 950.0)),
            ],
        },
        Panel {
            y: Axis::linear("step", "ms"),
            series: vec![
                of("megakernel", positions.iter().map(time(1.0)).collect()),
                of(
                    "launch per phase",
                    positions.iter().map(time(1.7)).collect(),
                ),
                floor(&|x| 34.0 + x / 950.0),
            ],
        },
        Panel {
            y: Axis::linear("step, launch per phase over megakernel", "").tight(),
            series: vec![
                of(
                    "ratio",
                    positions
                        .iter()
                        .map(|x| (*x, interval(1.7, 0.02)))
                        .collect(),
                ),
                Series::bound("no difference", [(1.0, 1.0)]),
            ],
        },
    ];
    Chart::lines(
        "Decode against position",
        Axis::log2("positions cached", ""),
        all.into_iter().take(panels).collect(),
    )
    .described("Median of 5 steps; bars are 95% intervals.")
}

/// A forest plot with every verdict.
pub(crate) fn ratios() -> Chart {
    let row = |label: &str, ratio: Option<Interval>, verdict: &str, side| RatioRow {
        label: label.into(),
        ratio,
        verdict: verdict.into(),
        side,
    };
    let long = "block0_norm with barrier epoch and prefetch of 32 KB, position 4,096";
    Chart::ratios(
        "redundant_norm over other variants",
        vec![
            row(
                "block0_norm, position 1",
                Some(interval(1.42, 0.02)),
                "faster",
                Side::Better,
            ),
            row(long, Some(interval(1.38, 0.05)), "faster", Side::Better),
            row(
                "head_blocks, position 1",
                Some(interval(0.59, 0.01)),
                "slower",
                Side::Worse,
            ),
            row(
                "itself",
                Some(interval(1.001, 0.004)),
                "same",
                Side::Neither,
            ),
            row(
                "prefetch 32 KB",
                Some(interval(1.03, 0.06)),
                "unclear",
                Side::Neither,
            ),
            row("fused_phases", None, "wrong output", Side::Neither),
        ],
    )
}

/// Bars in groups, one of them missing.
pub(crate) fn bars(axis: Axis) -> Chart {
    let group = |label: &str, bars: Vec<Option<Interval>>| Group {
        label: label.into(),
        bars,
    };
    Chart::bars(
        "What a barrier costs",
        Bars {
            axis,
            series: vec!["idle".into(), "while memory is read".into()],
            groups: vec![
                group(
                    "spinning",
                    vec![Some(interval(0.21, 0.1)), Some(interval(0.34, 0.2))],
                ),
                group("parking", vec![Some(interval(7.4, 0.1)), None]),
                group(
                    "thread pool (rayon)",
                    vec![Some(interval(5.9, 0.1)), Some(interval(9.1, 0.3))],
                ),
                group(
                    "a thread for each phase",
                    vec![Some(24.7.into()), Some(61.0.into())],
                ),
            ],
        },
    )
}

/// A step by phase.
pub(crate) fn waterfall(whole: Option<Interval>) -> Chart {
    let part = |label: &str, value, floor| Part {
        label: label.into(),
        value,
        floor,
    };
    Chart::waterfall(
        "A decode step by phase",
        Waterfall {
            axis: Axis::linear("time", "ms"),
            parts: vec![
                part("qkv", 7.1, Some(6.9)),
                part("attention", 0.8, Some(0.1)),
                part("output", 3.6, Some(3.4)),
                part("gate_up", 10.6, Some(10.3)),
                part("down", 5.4, Some(5.1)),
                part("head", 9.3, Some(9.1)),
                part("sample", 0.06, None),
            ],
            whole,
        },
    )
}

/// Two sets of samples, and an empty one.
pub(crate) fn histogram() -> Chart {
    let samples = |name: &str, count: u64, centre: f64| Samples {
        name: name.into(),
        values: (0..count)
            .map(|index| {
                let sum: u64 = (0..6)
                    .map(|term| (index * 7919 + term * 104_729) * 2_654_435_761 % 1000)
                    .sum();
                centre + sum as f64 / 1000.0
            })
            .collect(),
    };
    Chart::histogram(
        "Step times",
        Axis::linear("step", "ms"),
        vec![
            samples("A", 200, 33.0),
            samples("B", 60, 34.5),
            samples("C", 0, 0.0),
        ],
    )
}

/// Divergence by percentile.
pub(crate) fn quantiles() -> Chart {
    let curve = |scale: f64| {
        let percents = [50.0, 90.0, 99.0, 99.9, 100.0];
        let values = [1.0, 6.0, 31.0, 120.0, 300.0];
        let points = percents.into_iter().zip(values.map(|value| value * scale));
        points.collect::<Vec<_>>()
    };
    Chart::quantiles(
        "Divergence from f32",
        Axis::log10("KL(reference || engine)", "nats"),
        [
            ("onegrid".to_owned(), curve(8e-6)),
            ("transformers in bf16".to_owned(), curve(1.1e-4)),
        ],
    )
}

/// Charts with more and longer names than anyone should have, and values far apart.
pub(crate) fn hostile() -> Vec<Chart> {
    let long = "a name of many words that nobody has shortened, with-a-word-that-is-longer-than-a-phone-is-wide-and-has-no-space";
    let series = |index: usize| {
        let points = [(1.0, 1e-9), (32_640.0, 1e9)];
        let points = points.map(|(x, y)| (x * (1.0 + index as f64), interval(y, 0.5)));
        Series::measured(format!("{index} {long}"), points)
    };
    let lines = |y: Axis| {
        let panel = Panel {
            y,
            series: (0..8).map(series).collect(),
        };
        Chart::lines(long, Axis::log2(long, "unit"), vec![panel.clone(), panel])
    };
    let mut bars = bars(Axis::linear(long, "unit"));
    let mut ratios = ratios();
    if let (Plot::Bars(bars), Plot::Ratios(rows)) = (&mut bars.plot, &mut ratios.plot) {
        bars.series[0] = long.into();
        bars.groups[1].label = long.into();
        rows[0].verdict = long.into();
        rows[2].label = long.into();
        rows[3].ratio = Some(interval(1e7, 0.9));
    }
    let near = RatioRow {
        label: "itself".into(),
        ratio: Some(interval(1.0, 1e-6)),
        verdict: "same".into(),
        side: Side::Neither,
    };
    vec![
        lines(Axis::linear(long, "unit")),
        lines(Axis::log10(long, "unit")),
        bars,
        ratios,
        Chart::ratios("near", vec![near]),
    ]
}

/// All of them.
pub(crate) fn all() -> Vec<Chart> {
    vec![
        positions(1),
        positions(2),
        positions(3),
        ratios(),
        bars(Axis::linear("time of a barrier", "us")),
        bars(Axis::log10("time of a barrier", "us")),
        waterfall(None),
        waterfall(Some(interval(37.5, 0.01))),
        histogram(),
        quantiles(),
    ]
}
