//! `onegrid experiment quality`.

use super::*;

/// Writes a plan beside the files that it names.
fn plan(folder: &Path, subjects: &str) -> PathBuf {
    let path = folder.join("plan.toml");
    let set = "[[sets]]\nname = \"tiny\"\nmodel = { model = \"random:tiny\" }\n\
               reference = \"reference.safetensors\"\nyardstick = \"bf16\"\n\
               [[sets.subjects]]\nname = \"bf16\"\nrounded_to = \"bf16\"\n";
    std::fs::write(&path, format!("{set}{subjects}")).unwrap();
    path
}

fn save_logits(path: &Path, device: &str) {
    let args = ["logits", "--model", "random:tiny", "--device", device];
    let mut command = onegrid(&args);
    command.args(["--tokens", "5,6,7,8,9", "--threads", "1", "--output"]);
    command.arg(path).assert().success();
}

fn run(plan: &Path, output: &Path) -> Command {
    let mut command = onegrid(&["experiment", "quality", "--format", "json", "--plan"]);
    command.arg(plan).arg("--output").arg(output);
    command
}

#[test]
fn saved_logits_are_held_against_saved_logits() {
    let folder = tempfile::tempdir().unwrap();
    save_logits(&folder.path().join("reference.safetensors"), "reference");
    save_logits(&folder.path().join("cpu.safetensors"), "cpu");
    let subjects = "[[sets.subjects]]\nname = \"saved\"\nlogits = \"cpu.safetensors\"\n\
                    [[sets.subjects]]\nname = \"not-there\"\nlogits = \"none.safetensors\"\n";
    let plan = plan(folder.path(), subjects);
    let output = folder.path().join("results");
    let result = json_of(run(&plan, &output));
    assert_eq!(
        (&result["experiment"], &result["status"]),
        (&"quality".into(), &"done".into())
    );
    let cells = result["cells"].as_array().unwrap();
    let ids: Vec<_> = cells
        .iter()
        .map(|cell| cell["id"].as_str().unwrap())
        .collect();
    assert_eq!(
        ids,
        [
            "tiny/reference",
            "tiny/bf16",
            "tiny/saved",
            "tiny/not-there"
        ]
    );
    assert_eq!(cells[0]["result"]["texts"], json!([[5, 6, 7, 8, 9]]));
    let saved = &cells[2]["result"];
    assert_says(saved["reference"]["by"].as_str().unwrap(), &["reference"]);
    assert_says(saved["made"]["by"].as_str().unwrap(), &["cpu"]);
    let mean = |index: usize| cells[index]["result"]["divergence"]["kl"]["mean"]["value"].as_f64();
    assert!(
        mean(2) < mean(1),
        "{:?} beside bf16's {:?}",
        mean(2),
        mean(1)
    );
    assert_eq!(saved["divergence"]["perplexity"]["tokens"], 4);
    assert_eq!(cells[3]["outcome"], "not_measured");
    assert_says(cells[3]["reason"].as_str().unwrap(), &["none.safetensors"]);
    // The file is what was shown, and what is there is not measured again.
    let file = std::fs::read(output.join("quality.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&file).unwrap(), result);
    let again = run(&plan, &output).assert().success().get_output().clone();
    assert_says(
        &String::from_utf8(again.stderr).unwrap(),
        &["3 cells were measured before"],
    );
}

#[test]
fn a_plan_that_is_none_is_wrong_use() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), "[[sets.subjects]]\nname = \"bf16\"\n");
    let output = folder.path().join("results");
    assert_says(
        &error(run(&plan, &output), 2),
        &["two subjects are called `bf16`"],
    );
    assert!(!output.exists());
}
