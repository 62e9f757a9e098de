//! Damaged checkpoints: each ends in a typed error, or in what the undamaged one gives.

use hadal_moe::checkpoint::{Checkpoint, LayerWeights};
use hadal_moe::config::{Config, WeightFormat};
use hadal_moe::error::{Error, Result};
use hadal_moe::family::{Family, Routing};
use hadal_moe::seeded;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;

fn config(family: Family, weights: WeightFormat) -> Config {
    Config {
        family,
        hidden: 128,
        intermediate: 128,
        experts: 4,
        shared: usize::from(family.shared() > 0),
        top_k: 2,
        routing: Routing {
            groups: 1,
            top_groups: 1,
            ..family.routing()
        },
        weights,
    }
}

fn load(folder: &Path) -> Result<(Config, LayerWeights)> {
    let checkpoint = Checkpoint::open(folder)?;
    let layer = checkpoint.choose_layer(None)?;
    Ok((checkpoint.config.clone(), checkpoint.read_layer(layer)?))
}

/// Flips a bit, or puts another byte in.
fn damage(random: &mut ChaCha8Rng, bytes: &mut [u8]) {
    let at = random.random_range(0..bytes.len());
    match random.random_range(0..3) {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at] = b"0123456789-.eE[]{}\":,ntf"[random.random_range(0..24)],
        _ => bytes[at] = random.next_u32().to_le_bytes()[0],
    }
}

/// Replaces a number in a JSON text by an absurd one.
fn absurd(random: &mut ChaCha8Rng, text: &str) -> String {
    const NUMBERS: [&str; 9] = [
        "0",
        "-1",
        "3",
        "127",
        "4294967296",
        "18446744073709551615",
        "1e300",
        "99999999999999999999999",
        "null",
    ];
    let numbers: Vec<(usize, usize)> = {
        let mut found = Vec::new();
        let mut start = None;
        for (at, byte) in text.bytes().chain([b' ']).enumerate() {
            match (byte.is_ascii_digit(), start) {
                (true, None) => start = Some(at),
                (false, Some(from)) => {
                    found.push((from, at));
                    start = None;
                }
                _ => {}
            }
        }
        found
    };
    let (from, to) = numbers[random.random_range(0..numbers.len())];
    let number = NUMBERS[random.random_range(0..NUMBERS.len())];
    format!("{}{number}{}", &text[..from], &text[to..])
}

/// Length of the header of a safetensors file, its length included.
fn header(bytes: &[u8]) -> usize {
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    8 + usize::try_from(length).expect("small")
}

/// One damaged copy of `folder`; what was done to it.
fn mutate(random: &mut ChaCha8Rng, folder: &Path, copy: &Path) -> String {
    let config = std::fs::read_to_string(folder.join("config.json")).expect("readable");
    let mut model = std::fs::read(folder.join("model.safetensors")).expect("readable");
    let mut text = config.clone().into_bytes();
    let what = match random.random_range(0..6) {
        0 => {
            model.truncate(random.random_range(0..model.len()));
            format!("model cut to {} bytes", model.len())
        }
        1 => {
            let end = header(&model);
            damage(random, &mut model[..end]);
            "a byte of the header".to_owned()
        }
        2 => {
            let end = header(&model);
            let head = String::from_utf8(model[8..end].to_vec()).expect("text");
            let head = absurd(random, &head);
            let length = (head.len() as u64).to_le_bytes();
            model = [&length[..], head.as_bytes(), &model[end..]].concat();
            format!("header {head}")
        }
        3 => {
            damage(random, &mut text);
            "a byte of config.json".to_owned()
        }
        4 => {
            text = absurd(random, &config).into_bytes();
            "a number of config.json".to_owned()
        }
        _ => {
            text.truncate(random.random_range(0..text.len()));
            format!("config.json cut to {} bytes", text.len())
        }
    };
    std::fs::write(copy.join("config.json"), &text).expect("writable");
    std::fs::write(copy.join("model.safetensors"), &model).expect("writable");
    format!("{what}: {}", String::from_utf8_lossy(&text))
}

#[test]
fn damaged_checkpoints_are_refused_or_read_right() {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let (mut refused, mut read) = (0, 0);
    for (family, weights) in [
        (Family::DeepseekV3, WeightFormat::Fp8),
        (Family::Mixtral, WeightFormat::Bf16),
        (Family::GraniteMoe, WeightFormat::Bf16),
        (Family::Qwen3Moe, WeightFormat::Fp8),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        seeded::write(folder.path(), &config(family, weights), 0, 3).expect("written");
        let whole = load(folder.path()).expect("undamaged");
        for _ in 0..130 {
            let copy = tempfile::tempdir().expect("a temporary folder");
            let what = mutate(&mut random, folder.path(), copy.path());
            match load(copy.path()) {
                Ok((config, weights)) => {
                    // Other routing is another model, which nothing can know; other weights are wrong.
                    let alike =
                        weights.experts == whole.1.experts && weights.router == whole.1.router;
                    assert!(alike || config != whole.0, "{what}");
                    read += 1;
                }
                Err(error) => {
                    assert!(!matches!(error, Error::Device { .. }), "{what}: {error}");
                    assert_eq!(error.exit_code(), 2, "{what}: {error}");
                    refused += 1;
                }
            }
        }
    }
    assert_eq!(refused + read, 520);
    assert!(refused > 300 && read > 5, "{refused} refused, {read} read");
}
