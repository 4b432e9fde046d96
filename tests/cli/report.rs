//! `onegrid report`.

use std::sync::OnceLock;

use super::*;

/// A result of bench, measured once for all tests, in a folder.
pub(super) fn bench_result(folder: &Path) -> PathBuf {
    static RESULT: OnceLock<String> = OnceLock::new();
    let result = RESULT.get_or_init(|| {
        let mut bench = onegrid(&["bench", "--model", "random:tiny", "--threads", "1"]);
        bench.args(["--engines", "cpu,reference", "--repetitions", "4"]);
        bench.args([
            "--prompt-tokens",
            "5",
            "--new-tokens",
            "4",
            "--format",
            "json",
        ]);
        stdout(bench)
    });
    let path = folder.join("bench.json");
    std::fs::write(&path, result).unwrap();
    path
}

fn report(files: &[&Path], args: &[&str]) -> Command {
    let mut command = onegrid(&["report"]);
    command.args(files).args(args);
    command
}

#[test]
fn a_result_becomes_a_page_and_its_charts_files() {
    let folder = tempfile::tempdir().unwrap();
    let result = bench_result(folder.path());
    let (page, charts) = (folder.path().join("page.html"), folder.path().join("a/b"));
    let mut command = report(&[&result, &result], &["--title", "Two <results>", "-o"]);
    command.arg(&page).arg("--svg").arg(&charts);
    assert_eq!(stdout(command), "");
    let html = scraper::Html::parse_document(&std::fs::read_to_string(&page).unwrap());
    assert!(html.errors.is_empty(), "{:?}", html.errors);
    let count = |selector: &str| {
        html.select(&scraper::Selector::parse(selector).unwrap())
            .count()
    };
    // Decode speed, first token, and one engine over the other, of each file.
    assert_eq!((count(".wide svg"), count(".narrow svg")), (6, 6));
    assert_eq!(count("table"), 1 + 2);
    let title = html
        .select(&scraper::Selector::parse("h1").unwrap())
        .next()
        .unwrap();
    assert_eq!(title.text().collect::<String>(), "Two <results>");
    let mut names: Vec<_> = std::fs::read_dir(&charts)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names.len(), 6);
    assert_eq!(names[1], "decode-decode-speed-engine-over-engine-2.svg");
    for name in &names {
        let svg = std::fs::read_to_string(charts.join(name)).unwrap();
        roxmltree::Document::parse(&svg).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn what_is_no_result_is_refused_and_what_was_there_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (other, page) = (
        folder.path().join("other.json"),
        folder.path().join("page.html"),
    );
    std::fs::write(&other, "{\"loss\": [1, 2]}").unwrap();
    std::fs::write(&page, "old").unwrap();
    let refused = |file: &Path, status| {
        let mut command = report(&[file], &["-o"]);
        command.arg(&page);
        error(command, status)
    };
    assert_says(
        &refused(&other, 2),
        &[
            "other.json",
            "JSON with the fields loss",
            "onegrid experiment",
            "gpu-check",
        ],
    );
    assert_says(&refused(folder.path(), 2), &["is a folder"]);
    assert_says(
        &refused(&folder.path().join("none.json"), 1),
        &["none.json"],
    );
    assert_eq!(std::fs::read_to_string(&page).unwrap(), "old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    assert_says(&error(report(&[&other], &[]), 2), &["--output"]);
    assert_says(&error(report(&[], &["-o", "x.html"]), 2), &["FILES"]);
}

#[test]
fn an_experiment_becomes_a_page_that_says_what_was_not_measured() {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan.toml");
    let text = "phases = 6\nrepeats = 2\nloads = [0]\nthreads = [1, 4096]\nmemory_bytes = 65536\n\
                ways = ['spinning-barrier', 'spawned']\nblocks = [1]";
    std::fs::write(&plan, text).unwrap();
    let mut experiment = onegrid(&["experiment", "sync-overhead", "--device", "cpu"]);
    experiment.arg("--plan").arg(&plan);
    experiment.arg("--output").arg(folder.path());
    stdout(experiment);
    let page = folder.path().join("page.html");
    let mut command = report(&[&folder.path().join("sync-overhead.json")], &["-o"]);
    stdout({
        command.arg(&page);
        command
    });
    let html = scraper::Html::parse_document(&std::fs::read_to_string(&page).unwrap());
    let text = |selector: &str| -> Vec<String> {
        let found = scraper::Selector::parse(selector).unwrap();
        html.select(&found)
            .map(|element| element.text().collect())
            .collect()
    };
    assert_eq!(text(".missing dt"), ["4096 threads/load-0"]);
    assert!(text(".missing dd")[0].contains("this machine has"));
    assert_eq!(text("figcaption strong"), ["Empty phases"]);
    let names = text(".wide svg .entry text");
    assert_eq!(names, ["spinning-barrier", "spawned"]);
    assert!(text(".question")[0].contains("keep threads"));
}

#[test]
fn a_recorded_bench_shows_its_step_by_phase_beside_the_floor() {
    let folder = tempfile::tempdir().unwrap();
    let result = folder.path().join("bench.json");
    let mut bench = onegrid(&["bench", "--model", "random:tiny", "--threads", "1"]);
    bench.args([
        "--device",
        "cpu",
        "--repetitions",
        "2",
        "--prompt-tokens",
        "5",
    ]);
    bench.args(["--new-tokens", "4", "--format", "json", "--trace"]);
    bench
        .arg(folder.path().join("trace.pftrace"))
        .arg("--output")
        .arg(&result);
    stdout(bench);
    let found: Value = serde_json::from_slice(&std::fs::read(&result).unwrap()).unwrap();
    let run = &found["runs"][0];
    let phases = run["phases"].as_array().unwrap();
    let names: Vec<_> = phases
        .iter()
        .map(|phase| phase["phase"].as_str().unwrap())
        .collect();
    for name in ["qkv", "attention", "output", "gate_up", "down", "head"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let sum = |field: &str| {
        phases
            .iter()
            .map(|phase| phase[field].as_f64().unwrap())
            .sum::<f64>()
    };
    // The embedding's row is read too, and is no part of what bench counts.
    let bytes = run["bytes_per_token"].as_f64().unwrap();
    assert!(
        (sum("bytes") / bytes - 1.0).abs() < 0.01,
        "{bytes} {phases:?}"
    );
    assert!(sum("work_microseconds") > 0.0 && sum("wait_microseconds") >= 0.0);
    let page = folder.path().join("page.html");
    let mut command = report(&[&result], &["-o"]);
    stdout({
        command.arg(&page);
        command
    });
    let html = std::fs::read_to_string(&page).unwrap();
    for words in [
        "A decode step by phase: random:tiny, cpu",
        ">gate_up<",
        "above the floor",
    ] {
        assert!(html.contains(words), "{words}");
    }
}
