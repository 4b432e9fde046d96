//! Any bytes as `config.json`: an error, or dimensions that nothing overflows with.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onegrid::model::config_json;

fuzz_target!(|json: &[u8]| {
    let Ok(config) = config_json::parse(json) else {
        return;
    };
    config.check().expect("what is parsed was checked");
    config.group_size();
    config.parameters();
    config.bytes_per_token(config.max_positions);
    let written = config_json::to_json(&config, "bfloat16").to_string();
    assert_eq!(config_json::parse(written.as_bytes()), Ok(config));
});
