//! Downloads from a local server that speaks the hub's paths.

mod fake_hub;

use std::path::Path;

use fake_hub::{COMMIT, FakeHub};
use onegrid::model::checkpoint::{self, LoadOptions};
use onegrid::model::hub::{Hub, HubError, HubId, Parts};
use onegrid::model::{Files, Progress, random, shapes};

const ID: &str = "maker/model";

fn id() -> HubId {
    HubId::parse(ID).unwrap()
}

fn hub(server: &FakeHub, cache: &Path) -> Hub {
    Hub {
        endpoint: server.endpoint(),
        cache: cache.to_owned(),
        token: None,
        offline: false,
    }
}

/// The files of a small checkpoint, and a tokenizer that is none.
fn checkpoint_files() -> Vec<(String, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let tiny = random::weights(&shapes::config("tiny").unwrap(), 3, &mut |_, _| ()).unwrap();
    checkpoint::write(folder.path(), &tiny).unwrap();
    let read = |name: &str| {
        (
            name.to_owned(),
            std::fs::read(folder.path().join(name)).unwrap(),
        )
    };
    vec![
        read("config.json"),
        read("model.safetensors"),
        ("tokenizer.json".into(), b"{}".to_vec()),
        ("README.md".into(), b"not wanted".to_vec()),
    ]
}

fn fetch(hub: &Hub, parts: Parts) -> Result<Files, HubError> {
    hub.fetch(&id(), parts, &mut |_| ())
}

fn loads(files: &Files) {
    checkpoint::load(files, LoadOptions::default(), &mut |_, _| ()).unwrap();
}

#[test]
fn a_repository_is_downloaded_once_and_loaded() {
    let server = FakeHub::start(ID, checkpoint_files());
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(&server, cache.path());
    let mut seen = Vec::new();
    let files = hub.fetch(&id(), Parts::All, &mut |progress| {
        if let Progress::Downloading { file, done, total } = progress {
            assert!(done <= total, "{file}: {done} of {total}");
            seen.push((file.to_owned(), done, total));
        }
    });
    let files = files.unwrap();
    loads(&files);
    assert!(files.has("tokenizer.json") && !files.has("README.md"));
    let weights: Vec<_> = seen
        .iter()
        .filter(|(file, ..)| file == "model.safetensors")
        .collect();
    let (_, done, total) = weights.last().expect("progress of the weights");
    assert_eq!(done, total);

    server.forget_requests();
    loads(&fetch(&hub, Parts::All).unwrap());
    let again = server.requests();
    assert!(
        again.iter().all(|path| !path.contains("/resolve/")),
        "{again:?}"
    );
}

#[test]
fn the_cache_serves_without_a_network() {
    let server = FakeHub::start(ID, checkpoint_files());
    let cache = tempfile::tempdir().unwrap();
    let mut hub = hub(&server, cache.path());
    fetch(&hub, Parts::All).unwrap();
    drop(server);

    let mut notes = Vec::new();
    let files = hub.fetch(&id(), Parts::All, &mut |progress| {
        if let Progress::Note(note) = progress {
            notes.push(note.to_owned());
        }
    });
    loads(&files.unwrap());
    assert!(
        notes.len() == 1 && notes[0].contains("using the cache"),
        "{notes:?}"
    );

    hub.offline = true;
    loads(&fetch(&hub, Parts::All).unwrap());
    let by_commit = HubId::parse(&format!("{ID}@{COMMIT}")).unwrap();
    loads(&hub.fetch(&by_commit, Parts::All, &mut |_| ()).unwrap());
}

#[test]
fn without_network_and_cache_both_are_named() {
    let server = FakeHub::start(ID, checkpoint_files());
    let cache = tempfile::tempdir().unwrap();
    let mut hub = hub(&server, cache.path());
    fetch(&hub, Parts::WithoutWeights).unwrap();
    drop(server);
    let error = fetch(&hub, Parts::All).unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error:?}");
    let message = error.to_string();
    assert!(
        message.contains("model.safetensors is missing"),
        "{message}"
    );
    assert!(
        message.contains(&cache.path().display().to_string()),
        "{message}"
    );
    fetch(&hub, Parts::WithoutWeights).unwrap();

    hub.offline = true;
    let message = fetch(&hub, Parts::All).unwrap_err().to_string();
    assert!(message.contains("HF_HUB_OFFLINE"), "{message}");
    hub.cache = cache.path().join("elsewhere");
    let message = fetch(&hub, Parts::All).unwrap_err().to_string();
    assert!(message.contains("doesn't have it"), "{message}");
}

#[test]
fn a_missing_file_is_named() {
    for missing in ["config.json", "model.safetensors"] {
        let mut files = checkpoint_files();
        files.retain(|(name, _)| name != missing);
        let server = FakeHub::start(ID, files);
        let cache = tempfile::tempdir().unwrap();
        let error = fetch(&hub(&server, cache.path()), Parts::All).unwrap_err();
        assert!(
            matches!(&error, HubError::MissingFile { name, .. } if name == missing),
            "{error:?}"
        );
        assert!(error.to_string().contains(missing), "{error}");
    }
    // Listed, but gone when it is asked for.
    let server = FakeHub::start(ID, checkpoint_files());
    server.lose("model.safetensors");
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(&hub(&server, cache.path()), Parts::All).unwrap_err();
    assert!(
        matches!(&error, HubError::MissingFile { name, .. } if name == "model.safetensors"),
        "{error:?}"
    );
}

#[test]
fn a_missing_repository_is_named() {
    let server = FakeHub::start("maker/other", checkpoint_files());
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(&hub(&server, cache.path()), Parts::All).unwrap_err();
    assert!(
        matches!(error, HubError::NoSuchRepository { status: 404, .. }),
        "{error:?}"
    );
    let message = error.to_string();
    assert!(
        message.contains(ID) && message.contains(&server.endpoint()),
        "{message}"
    );
}

#[test]
fn shards_are_downloaded_as_the_index_lists_them() {
    let mut files = checkpoint_files();
    let (_, weights) = files.remove(1);
    let header_len = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&weights[8..8 + header_len]).unwrap();
    let names = header
        .as_object()
        .unwrap()
        .keys()
        .filter(|name| *name != "__metadata__");
    let map: serde_json::Map<_, _> = names
        .map(|name| (name.clone(), "a.safetensors".into()))
        .collect();
    let index = serde_json::json!({ "weight_map": map }).to_string();
    files.push(("a.safetensors".into(), weights));
    files.push(("model.safetensors.index.json".into(), index.into_bytes()));
    let server = FakeHub::start(ID, files.clone());
    let cache = tempfile::tempdir().unwrap();
    let mut online = hub(&server, cache.path());
    loads(&fetch(&online, Parts::All).unwrap());
    online.offline = true;
    loads(&fetch(&online, Parts::All).unwrap());

    files.retain(|(name, _)| name != "a.safetensors");
    let server = FakeHub::start(ID, files);
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(&hub(&server, cache.path()), Parts::All).unwrap_err();
    assert!(
        matches!(&error, HubError::MissingFile { name, .. } if name == "a.safetensors"),
        "{error:?}"
    );
}

#[test]
fn a_download_cut_short_is_never_taken_as_whole_and_can_be_gone_on_with() {
    let server = FakeHub::start(ID, checkpoint_files());
    let cache = tempfile::tempdir().unwrap();
    let mut hub = hub(&server, cache.path());
    server.cut("model.safetensors", 5000);
    let error = fetch(&hub, Parts::All).unwrap_err();
    assert!(
        matches!(&error, HubError::CutShort { found, .. } if *found > 0),
        "{error:?}"
    );
    let message = error.to_string();
    assert!(message.contains("model.safetensors ended at"), "{message}");
    hub.offline = true;
    let message = fetch(&hub, Parts::All).unwrap_err().to_string();
    assert!(
        message.contains("model.safetensors is missing"),
        "{message}"
    );

    hub.offline = false;
    server.heal();
    loads(&fetch(&hub, Parts::All).unwrap());
}

/// The connection ends well, but the hub sent less than it had announced.
#[test]
fn a_file_shorter_than_announced_is_not_kept() {
    let server = FakeHub::start(ID, checkpoint_files());
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(&server, cache.path());
    server.shorten("model.safetensors", 5000);
    let error = fetch(&hub, Parts::All).unwrap_err();
    assert!(
        matches!(error, HubError::CutShort { found: 5000, .. }),
        "{error:?}"
    );
    server.heal();
    loads(&fetch(&hub, Parts::All).unwrap());
}

#[test]
fn a_new_commit_with_the_same_weights_does_not_download_them_again() {
    let server = FakeHub::start(ID, checkpoint_files());
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(&server, cache.path());
    fetch(&hub, Parts::All).unwrap();
    server.commit("89abcdef");
    server.forget_bytes();
    loads(&fetch(&hub, Parts::All).unwrap());
    assert!(
        server.bytes() < 5000,
        "{} bytes were sent again",
        server.bytes()
    );
    drop(server);
    let offline = fetch(&hub, Parts::All).unwrap();
    assert!(
        offline.path().unwrap().ends_with("89abcdef"),
        "{}",
        offline.describe()
    );
}

#[test]
fn the_environment_is_read_as_huggingface_hub_reads_it() {
    let hub = |variables: &[(&str, &str)]| {
        Hub::from_variables(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    };
    let all = hub(&[
        ("HF_ENDPOINT", "http://localhost:1234/"),
        ("HF_HOME", "/home/cache"),
        ("HF_TOKEN", "secret"),
        ("HF_HUB_OFFLINE", "1"),
    ]);
    assert_eq!(all.endpoint, "http://localhost:1234");
    assert_eq!(all.cache, Path::new("/home/cache/hub"));
    assert_eq!(all.token.as_deref(), Some("secret"));
    assert!(all.offline);
    let cache = hub(&[
        ("HF_HUB_CACHE", "/elsewhere"),
        ("HF_HOME", "/home/cache"),
        ("HF_HUB_OFFLINE", "0"),
    ]);
    assert_eq!(cache.cache, Path::new("/elsewhere"));
    assert_eq!(cache.endpoint, "https://huggingface.co");
    assert!(!cache.offline);
}

#[test]
fn the_token_is_sent() {
    let server = FakeHub::start(ID, checkpoint_files());
    let cache = tempfile::tempdir().unwrap();
    let mut hub = hub(&server, cache.path());
    server.demand_token("secret");
    let error = fetch(&hub, Parts::All).unwrap_err();
    assert!(
        matches!(error, HubError::NoSuchRepository { status: 401, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");
    hub.token = Some("secret".into());
    loads(&fetch(&hub, Parts::All).unwrap());
}
