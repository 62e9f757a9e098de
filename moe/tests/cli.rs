//! The command line: what a user sees for good and bad input.

use hadal_moe::config::{Config, WeightFormat};
use hadal_moe::family::{Family, Routing};
use hadal_moe::seeded;
use hadal_moe::tensors::{self, TensorFile};
use safetensors::tensor::{Dtype, TensorView};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const HIDDEN: usize = 256;

/// A small checkpoint of its own for one test.
struct Fixture(tempfile::TempDir);

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = Config {
            family: Family::DeepseekV3,
            hidden: HIDDEN,
            intermediate: 128,
            experts: 4,
            shared: 1,
            top_k: 2,
            routing: Routing {
                groups: 2,
                top_groups: 1,
                ..Family::DeepseekV3.routing()
            },
            weights: WeightFormat::Fp8,
        };
        seeded::write(folder.path(), &config, 5, 3).expect("written");
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn forward(&self, ranks: &str) -> Command {
        self.forward_to(&self.path("output.safetensors"), ranks)
    }

    fn forward_to(&self, output: &Path, ranks: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hadal-moe"));
        command
            .arg("forward")
            .arg("--checkpoint")
            .arg(self.0.path());
        command.arg("--input").arg(self.path("input.safetensors"));
        command.arg("--output").arg(output).args(["--ranks", ranks]);
        command
    }

    /// Runs with bad input: exit code 2, a message with every needle, and no output file.
    #[track_caller]
    fn refused(&self, command: &mut Command, needles: &[&str]) {
        let output = command.output().expect("starts");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        for needle in needles {
            assert!(
                message.contains(needle),
                "`{needle}` is missing in: {message}"
            );
        }
        assert!(!message.contains("panicked"), "{message}");
        assert!(
            !self.path("output.safetensors").exists(),
            "a partial output"
        );
    }

    fn refused_by_plan(&self, command: &mut Command) {
        let output = command.output().expect("starts");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && message.contains("ranks"),
            "{message}"
        );
        assert!(!message.contains("panicked"), "{message}");
    }

    fn edit_config(&self, key: &str, value: serde_json::Value) {
        let path = self.path("config.json");
        let text = std::fs::read_to_string(&path).expect("readable");
        let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        config[key] = value;
        std::fs::write(path, config.to_string()).expect("writable");
    }

    fn write_input(&self, name: &str, dtype: Dtype, shape: &[usize]) {
        let bytes = vec![0u8; shape.iter().product::<usize>() * dtype.bitsize() / 8];
        let view = TensorView::new(dtype, shape.to_vec(), &bytes).expect("a tensor");
        tensors::write(&self.path("input.safetensors"), &[(name, view)]).expect("written");
    }
}

fn stdout(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_run_writes_its_output_and_reports() {
    let fixture = Fixture::new();
    let text = stdout(
        &fixture
            .forward("2")
            .arg("--check")
            .output()
            .expect("starts"),
    );
    for needle in [
        "2 ranks",
        "5 tokens",
        "dispatch",
        "combine",
        "agrees",
        "full precision",
    ] {
        assert!(text.contains(needle), "`{needle}` is missing in: {text}");
    }
    let file = TensorFile::open(&fixture.path("output.safetensors")).expect("written");
    file.read("output", &[Dtype::F32], &[Some(5), Some(HIDDEN)])
        .expect("as documented");
    let text = stdout(
        &fixture
            .forward("3")
            .args(["--json", "--check"])
            .output()
            .expect("starts"),
    );
    let line: serde_json::Value = serde_json::from_str(text.trim()).expect("one JSON line");
    assert_eq!((&line["ranks"], &line["tokens"]), (&3.into(), &5.into()));
    assert!(
        line["max_err_over_bound"]
            .as_f64()
            .is_some_and(|r| r > 0.0 && r <= 1.0),
        "{text}"
    );
    assert!(
        line["kernels"].as_array().is_some_and(|k| k.len() >= 8),
        "{text}"
    );
}

#[test]
fn truncated_and_foreign_files_are_named() {
    let fixture = Fixture::new();
    let weights = fixture.path("model.safetensors");
    let bytes = std::fs::read(&weights).expect("readable");
    for length in [0, 7, 100, bytes.len() - 1] {
        std::fs::write(&weights, &bytes[..length]).expect("writable");
        fixture.refused(
            &mut fixture.forward("1"),
            &["model.safetensors", "truncated"],
        );
    }
    std::fs::write(&weights, b"this is no safetensors file, but long enough").expect("writable");
    fixture.refused(&mut fixture.forward("1"), &["model.safetensors"]);
}

#[test]
fn wrong_inputs_are_named_with_the_expectation() {
    let fixture = Fixture::new();
    fixture.write_input("hidden_states", Dtype::F32, &[5, HIDDEN]);
    fixture.refused(
        &mut fixture.forward("1"),
        &["input.safetensors", "hidden_states", "BF16"],
    );
    fixture.write_input("hidden_states", Dtype::BF16, &[5, HIDDEN + 1]);
    fixture.refused(&mut fixture.forward("1"), &["hidden_states", "[any, 256]"]);
    fixture.write_input("hidden_states", Dtype::BF16, &[HIDDEN]);
    fixture.refused(&mut fixture.forward("1"), &["hidden_states", "shape [256]"]);
    fixture.write_input("states", Dtype::BF16, &[5, HIDDEN]);
    fixture.refused(
        &mut fixture.forward("1"),
        &["hidden_states", "not in this file"],
    );
}

#[test]
fn unsupported_configurations_are_named() {
    for (key, value) in [
        ("hidden_size", serde_json::json!(320)),
        ("moe_intermediate_size", serde_json::json!(192)),
        ("scoring_func", serde_json::json!("softmax")),
        (
            "quantization_config",
            serde_json::json!({"quant_method": "awq"}),
        ),
        ("num_experts_per_tok", serde_json::json!(3)),
    ] {
        let fixture = Fixture::new();
        fixture.edit_config(key, value);
        fixture.refused(&mut fixture.forward("1"), &["config.json", key]);
    }
    // A supported configuration that is not the checkpoint's: the tensor's type or shape says so.
    let fixture = Fixture::new();
    fixture.edit_config("quantization_config", serde_json::json!(null));
    let needles = ["gate_proj.weight", "is F8_E4M3, expected [BF16, F16, F32]"];
    fixture.refused(&mut fixture.forward("1"), &needles);
    let fixture = Fixture::new();
    let mut bf16 = fixture.forward("1");
    fixture.refused(
        bf16.args(["--experts", "bf16"]),
        &["--experts is bf16", "expected fp8"],
    );
    let fixture = Fixture::new();
    fixture.edit_config("hidden_size", serde_json::json!(384));
    fixture.refused(&mut fixture.forward("1"), &["[any, 384]"]);
    let fixture = Fixture::new();
    fixture.edit_config("moe_intermediate_size", serde_json::json!(256));
    fixture.refused(
        &mut fixture.forward("1"),
        &["gate_proj.weight", "[256, 256]"],
    );
}

#[test]
fn ranks_layers_and_outputs_out_of_range_are_refused() {
    let fixture = Fixture::new();
    fixture.refused(&mut fixture.forward("9"), &["--ranks is 9", "1 to 8"]);
    fixture.refused(&mut fixture.forward("0"), &["--ranks is 0"]);
    fixture.refused(
        fixture.forward("1").args(["--layer", "7"]),
        &["--layer is 7", "[0]"],
    );
    let nowhere = Path::new("/nonexistent/output.safetensors");
    fixture.refused(
        &mut fixture.forward_to(nowhere, "1"),
        &["--output", "/nonexistent"],
    );
    let mut missing = Command::new(env!("CARGO_BIN_EXE_hadal-moe"));
    missing.args([
        "forward",
        "--checkpoint",
        "/nonexistent",
        "--input",
        "x",
        "--output",
        "y",
    ]);
    fixture.refused(
        missing.args(["--ranks", "1"]),
        &["/nonexistent/config.json"],
    );
}

#[test]
fn without_a_device_the_message_says_what_was_looked_for() {
    let fixture = Fixture::new();
    let mut command = fixture.forward("1");
    command
        .env("HADAL_DEVICE", "soft")
        .env("HADAL_SOFTGPU", "/nonexistent");
    let output = command.output().expect("starts");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("/nonexistent") && message.contains("HADAL_SOFTGPU"),
        "{message}"
    );
}

#[test]
fn checkpoints_are_inspected_and_planned() {
    let fixture = Fixture::new();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hadal-moe"));
        stdout(&command.args(arguments).output().expect("starts"))
    };
    let folder = fixture.0.path().to_str().expect("a path");
    let text = run(&["inspect", folder]);
    for needle in ["deepseek_v3", "FP8", "sigmoid", "4, and 1 shared"] {
        assert!(text.contains(needle), "`{needle}` is missing in: {text}");
    }
    let line: serde_json::Value =
        serde_json::from_str(&run(&["inspect", folder, "--json"])).expect("JSON");
    assert_eq!(
        (&line["hidden"], &line["layers"]),
        (&256.into(), &serde_json::json!([0]))
    );
    // Only the configuration is needed.
    std::fs::remove_file(fixture.path("model.safetensors")).expect("removed");
    let plan = ["plan", "--checkpoint", folder, "--ranks", "3"];
    assert!(run(&plan).contains("windows"));
    let lines = run(&[&plan[..], &["--json"]].concat());
    let lines: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 3);
    for (rank, line) in lines.iter().enumerate() {
        let number = |key: &str| line[key].as_u64().expect("a number");
        let parts = ["weights", "workspace", "all_to_all", "windows"].map(number);
        assert_eq!(number("rank"), rank as u64);
        assert_eq!(number("total"), parts.iter().sum::<u64>(), "{line}");
    }
    assert_eq!(lines[0]["experts"], serde_json::json!([0, 2]));
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal-moe"));
    command.args([&plan[..4], &["17"]].concat());
    fixture.refused_by_plan(&mut command);
}

#[test]
fn calls_are_timed_and_charted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let chart = folder.path().join("chart.svg");
    let layer = ["--hidden", "256", "--intermediate", "128", "--experts", "4"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal-moe"));
    command.arg("bench").args(layer).arg("--json");
    command.args(["--tokens", "1,5", "--ranks", "1,2", "--repeat", "1"]);
    command.arg("--chart").arg(&chart);
    let lines = stdout(&command.output().expect("starts"));
    let lines: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2 * 2 * 2, "{lines:?}");
    for line in &lines {
        assert!(line["seconds"].as_f64().is_some_and(|s| s > 0.0), "{line}");
    }
    let svg = std::fs::read_to_string(chart).expect("written");
    for needle in [
        "<svg",
        "decode, 2 ranks",
        "prefill, 1 rank",
        "tokens per second",
    ] {
        assert!(svg.contains(needle), "`{needle}` is missing");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal-moe"));
    let output = command
        .args(["bench", "--ranks", "99"])
        .output()
        .expect("starts");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("--ranks is 99"), "{message}");
}

#[test]
fn the_doctor_tells_what_runs_and_fails_where_nothing_does() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal-moe"));
    let text = stdout(&command.args(["doctor"]).output().expect("starts"));
    for needle in [
        "device library",
        "sm_90",
        "memory handles",
        "peer access",
        "multicast",
    ] {
        assert!(text.contains(needle), "`{needle}` is missing in: {text}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal-moe"));
    command
        .args(["doctor", "--json"])
        .env("HADAL_DEVICE", "soft");
    let output = command
        .env("HADAL_SOFTGPU", "/nonexistent")
        .output()
        .expect("starts");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line: serde_json::Value = serde_json::from_str(text.trim()).expect("one JSON line");
    assert_eq!(line["verdict"], "missing");
    assert!(
        line["found"]
            .as_str()
            .is_some_and(|found| found.contains("/nonexistent")),
        "{line}"
    );
}
