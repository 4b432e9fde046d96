//! `onegrid experiment molecules`, on the demo model.

use super::*;

/// Held-out texts as `experiments/molecules/make_data.py` writes them.
const HELDOUT: &str = r"[SMILES]C#CCl[/SMILES][CONFORMER][C]<0.0000,0.0000,0.0000>#[C]<1.2058,0.0000,0.0000>[Cl]<2.9463,0.0140,0.0145>[/CONFORMER]
[SMILES]CCCC=S[/SMILES][CONFORMER][C]<0.0000,0.0000,0.0000>[C]<1.5098,0.0000,0.0000>[C]<2.1200,1.3770,0.0000>[C]<1.7474,2.2069,-1.1723>=[S]<2.7007,3.1302,-1.7257>[/CONFORMER]
[SMILES]N=CC1CC1[/SMILES][CONFORMER][N]<0.0000,0.0000,0.0000>=[C]<1.2835,0.0000,0.0000>[C]<2.1183,1.2144,0.0000>1[C]<3.6112,1.1449,-0.0372>[C]<2.8534,1.4137,-1.3247>1[/CONFORMER]
[SMILES]c1nnsn1[/SMILES][CONFORMER][c]<0.0000,0.0000,0.0000>1[n]<1.3175,0.0000,0.0000>[n]<1.7901,1.2122,0.0000>[s]<0.6952,2.4133,0.0000>[n]<-0.6226,1.1507,0.0000>1[/CONFORMER]
";

const PLAN: &str = r#"
heldout = "heldout.txt"
molecules = 3
batch = 2
rounds = 2
max_tokens = 200
seed = 1
check_seconds = 1000.0
forced_texts = 2
coordinate = '-?[0-9]+\.[0-9]{4}'
placeholder = "0.0000,0.0000,0.0000"
blocked = "<>[]"
methods = ["none", "position", "position-truncate", "position-fitted", "automaton"]
temperatures = [0.0, 1.0]

[[models]]
name = "demo"
model = "demo"
"#;

fn folder_with(plan: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("plan.toml"), plan).unwrap();
    std::fs::write(folder.path().join("heldout.txt"), HELDOUT).unwrap();
    folder
}

fn command(folder: &Path) -> Command {
    let mut command = onegrid(&["experiment", "molecules", "--threads", "1"]);
    command.arg("--plan").arg(folder.join("plan.toml"));
    command.arg("--output").arg(folder.join("results"));
    command
}

#[test]
fn each_method_writes_the_held_out_molecules_and_automata_write_them_validly() {
    let folder = folder_with(PLAN);
    let mut command = command(folder.path());
    command.args(["--format", "json"]);
    let result = json_of(command);
    assert_eq!(result["status"], "done");
    let cells = result["cells"].as_array().unwrap();
    let ids: Vec<_> = cells.iter().map(|cell| &cell["id"]).collect();
    assert_eq!(ids, ["demo/greedy", "demo/temperature-1"]);
    for cell in cells {
        let found = &cell["result"];
        assert_eq!(
            (&found["molecules"], &found["batch"]),
            (&3.into(), &2.into())
        );
        // The one held-out molecule that is no prompt: its last point begins with a sign.
        assert_eq!(found["data"]["conformers"], 1);
        assert_eq!(
            found["data"]["lengths"]["points"],
            json!({"20": 4, "21": 1})
        );
        assert_eq!(
            (&found["data"]["placeholder"], &found["data"]["fitted"]),
            (&20.into(), &20.into())
        );
        let texts = folder
            .path()
            .join("results")
            .join(found["texts"].as_str().unwrap());
        let texts: Value = serde_json::from_slice(&std::fs::read(texts).unwrap()).unwrap();
        assert_eq!(texts["molecules"], json!(["C#CCl", "CCCC=S", "N=CC1CC1"]));
        let methods = found["methods"].as_array().unwrap();
        assert_eq!(methods.len(), 5);
        for (method, written) in methods.iter().zip(texts["methods"].as_array().unwrap()) {
            let name = method["method"].as_str().unwrap();
            assert_eq!(method["method"], written["method"]);
            let written = written["texts"].as_array().unwrap();
            assert_eq!(written.len(), 3);
            let tokens = |text: &Value| text["tokens"].as_array().unwrap().len() as u64;
            let all: u64 = written.iter().map(tokens).sum();
            assert_eq!(method["tokens"], all);
            // Two batches in each of two rounds.
            assert_eq!(method["seconds"].as_array().unwrap().len(), 4);
            assert_eq!(method["compile_ms"].as_array().unwrap().len(), 2);
            let count = |field: &str| method["guided"][field].as_u64().unwrap();
            assert_eq!(count("forced") + count("gathered") + count("full"), 2 * all);
            // The reference engine made the first text of each batch, or up to a near tie.
            let checked = method["checked"].as_array().unwrap();
            assert_eq!(checked.len(), 2, "{name}");
            for one in checked {
                assert!(
                    one["whole"] == true || one["near_tie"] == true,
                    "{name}: {one}"
                );
            }
            let forced = &method["forced"];
            match name {
                "none" => {
                    assert_eq!((count("forced"), &forced["texts"]), (0, &0.into()));
                    assert!(method["speedup"].is_null());
                }
                _ => {
                    assert_eq!(forced["texts"], 2);
                    let mean = forced["mean"].as_f64().unwrap();
                    assert!(mean > 0.5 && mean <= 1.0, "{name}: {mean}");
                    assert_eq!(method["speedup"]["samples"].as_array().unwrap().len(), 4);
                }
            }
            if name == "automaton" {
                assert_eq!(count("full"), 0);
                assert!(
                    written.iter().all(|text| text["valid"] == true),
                    "{written:?}"
                );
            }
        }
    }
}

#[test]
fn data_that_is_missing_or_too_little_is_refused_by_name() {
    for (plan, expected) in [
        (PLAN.replace("heldout.txt", "none.txt"), "none.txt"),
        (
            PLAN.replace("molecules = 3", "molecules = 4"),
            "has 4 molecules",
        ),
    ] {
        let folder = folder_with(&plan);
        let output = command(folder.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            errors.contains("FAILED") && errors.contains(expected),
            "{errors}"
        );
    }
}
