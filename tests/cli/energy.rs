//! `onegrid experiment energy`.

use super::*;

#[test]
fn what_has_no_counter_is_not_measured_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan.toml");
    let text = "seconds = 10\nrounds = 1\nprompt_tokens = 4\nnew_tokens = 4\ncheck_seconds = 1\n\
                powercap = \"/no/powercap\"\n[[sets]]\nname = \"tiny\"\n\
                model = { model = \"random:tiny\" }\n[[sets.subjects]]\nname = \"cpu\"\n\
                engine = { device = \"cpu\" }\n";
    std::fs::write(&plan, text).unwrap();
    let mut command = onegrid(&["experiment", "energy", "--plan"]);
    command.arg(&plan).arg("--output").arg(folder.path());
    let output = command.assert().success().get_output().clone();
    let reason = "no powercap zone: /no/powercap does not exist";
    assert_says(
        &String::from_utf8(output.stdout).unwrap(),
        &["Energy: tiny", reason],
    );
    assert_says(
        &String::from_utf8(output.stderr).unwrap(),
        &["not measured: tiny", reason],
    );
    let file = std::fs::read(folder.path().join("energy.json")).unwrap();
    let file: Value = serde_json::from_slice(&file).unwrap();
    assert_eq!(file["cells"][0]["outcome"], "not_measured");
}
