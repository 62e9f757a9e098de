//! `hadal-moe`: runs a mixture-of-experts layer of a checkpoint on a software or real GPU.

use clap::{Args, Parser, Subcommand};
use hadal_moe::bench::{self, Sweep};
use hadal_moe::config::{Config, WeightFormat};
use hadal_moe::demo;
use hadal_moe::doctor;
use hadal_moe::error::{Error, Result};
use hadal_moe::family::{Family, Routing};
use hadal_moe::forward::{self, Form, Request};
use hadal_moe::layer::LayerDesc;
use hadal_moe::plan;
use hadal_moe::seeded;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the forward pass of one layer.
    Forward(ForwardArgs),
    /// Runs the trained layer and a seeded one, checks everything, and reports.
    Demo(DemoArgs),
    /// Times prefill and decode of a seeded layer over numbers of tokens and ranks.
    Bench(BenchArgs),
    /// Tells what will run on this machine, and why not the faster path. Exit code 1 if nothing can.
    Doctor(DoctorArgs),
    /// Tells what a checkpoint is: shapes, layers, bytes, and the arithmetic that would run. Reads no weights.
    Inspect(InspectArgs),
    /// Tells what a layer would take of every rank's device, before anything is allocated.
    Plan(PlanArgs),
    /// Writes a seeded layer and tokens in the checkpoint format.
    Seeded(SeededArgs),
}

#[derive(Debug, Args)]
struct ForwardArgs {
    /// Folder with config.json and safetensors files.
    #[arg(long)]
    checkpoint: PathBuf,
    /// Safetensors file with `hidden_states`, BF16 [tokens, hidden].
    #[arg(long)]
    input: PathBuf,
    /// Where to write `output`, F32 [tokens, hidden].
    #[arg(long)]
    output: PathBuf,
    /// Ranks, one per device; the tokens are split as evenly as they go.
    #[arg(long)]
    ranks: usize,
    /// Form of the pass: prefill (throughput mode, two micro-batches) or decode (latency mode).
    #[arg(long, value_enum, default_value = "prefill")]
    form: Form,
    /// How the experts run; by default as they are stored. BF16 ones can be quantised to FP8 while loading.
    #[arg(long, value_enum)]
    experts: Option<WeightFormat>,
    /// Layer number; without it, the one mixture-of-experts layer present.
    #[arg(long)]
    layer: Option<usize>,
    /// Compare every stage with its oracle, and the output with full precision.
    #[arg(long)]
    check: bool,
    /// Compare the output with tensor `output` of this file rather than with our own full-precision
    /// result.
    #[arg(long)]
    expected: Option<PathBuf>,
    /// Where to write a trace of all ranks' steps, for Perfetto.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// End with one line of JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Name of the run in reports.
    #[arg(long, default_value = "forward")]
    name: String,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Folder for the seeded layer and the outputs; by default `demo` beside the build profile's.
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// End with one line of JSON per run instead of tables.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct BenchArgs {
    #[command(flatten)]
    layer: LayerArgs,
    /// Tokens of all ranks together.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16, 64, 256, 1024])]
    tokens: Vec<usize>,
    /// Ranks, one per device.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8])]
    ranks: Vec<u32>,
    /// Calls of each kind; their median counts.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Where to write a chart, SVG.
    #[arg(long)]
    chart: Option<PathBuf>,
    /// A line of JSON per sample instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct DoctorArgs {
    /// A line of JSON per finding instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct InspectArgs {
    /// Folder with config.json and safetensors files.
    checkpoint: PathBuf,
    /// One line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct PlanArgs {
    /// Folder with config.json; weights need not be there.
    #[arg(long)]
    checkpoint: PathBuf,
    /// Ranks, one per device.
    #[arg(long)]
    ranks: u32,
    /// Most tokens of a rank in one prefill; 0: no prefill.
    #[arg(long, default_value_t = 4096)]
    prefill_tokens: u32,
    /// Most tokens of a rank in one decode; 0: no decode.
    #[arg(long, default_value_t = 128)]
    decode_tokens: u32,
    /// Rows that the experts of a rank can receive in a micro-batch of prefill; by default what always suffices.
    #[arg(long)]
    max_rows: Option<u32>,
    /// A line of JSON per rank instead of a table.
    #[arg(long)]
    json: bool,
}

/// A seeded layer's shape.
#[derive(Debug, Args)]
struct LayerArgs {
    /// Family, by its `model_type`.
    #[arg(long, value_enum, default_value = "deepseek_v3")]
    family: Family,
    /// How the experts are stored.
    #[arg(long, value_enum, default_value = "fp8")]
    weights: WeightFormat,
    /// Width of a token.
    #[arg(long, default_value_t = 7168)]
    hidden: usize,
    /// Intermediate width of an expert.
    #[arg(long, default_value_t = 2048)]
    intermediate: usize,
    /// Routed experts.
    #[arg(long, default_value_t = 8)]
    experts: usize,
    /// Shared experts.
    #[arg(long, default_value_t = 1)]
    shared: usize,
    /// Experts per token.
    #[arg(long, default_value_t = 2)]
    top_k: usize,
}

#[derive(Debug, Args)]
struct SeededArgs {
    /// Folder to write config.json, model.safetensors and input.safetensors into.
    #[arg(long)]
    output: PathBuf,
    #[command(flatten)]
    layer: LayerArgs,
    /// Tokens.
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// Seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl LayerArgs {
    fn config(&self) -> Config {
        let family = self.family;
        Config {
            family,
            hidden: self.hidden,
            intermediate: self.intermediate,
            experts: self.experts,
            shared: if family.shared() > 0 { self.shared } else { 0 },
            top_k: self.top_k,
            routing: Routing {
                groups: 1,
                top_groups: 1,
                ..family.routing()
            },
            weights: self.weights,
        }
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Forward(args) => run_forward(args),
        Command::Demo(args) => run_demo(args),
        Command::Bench(args) => run_bench(&args),
        Command::Doctor(args) => run_doctor(&args),
        Command::Inspect(args) => inspect(&args),
        Command::Plan(args) => plan_layer(&args),
        Command::Seeded(args) => write_seeded(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Whether everything that was checked agrees.
#[expect(clippy::print_stdout, reason = "the report is the program's output")]
fn run_forward(args: ForwardArgs) -> Result<bool> {
    let run = forward::run(&Request {
        name: args.name,
        checkpoint: args.checkpoint,
        input: args.input,
        output: args.output,
        ranks: args.ranks,
        form: args.form,
        experts: args.experts,
        trace: args.trace,
        layer: args.layer,
        check: args.check,
        expected: args.expected,
    })?;
    let mismatch = run
        .check
        .as_ref()
        .and_then(hadal_moe::check::Report::mismatch);
    if args.json {
        println!("{}", run.json());
    } else {
        println!("{}", run.tables());
    }
    if let Some(mismatch) = &mismatch {
        eprintln!("error: {mismatch}");
    }
    Ok(mismatch.is_none())
}

/// Whether everything holds.
#[expect(clippy::print_stdout, reason = "the report is the program's output")]
fn run_demo(args: DemoArgs) -> Result<bool> {
    let scratch = args.scratch.unwrap_or_else(|| {
        let program = std::env::current_exe().unwrap_or_default();
        program
            .ancestors()
            .nth(2)
            .unwrap_or(Path::new("."))
            .join("demo")
    });
    let outcomes = demo::run(&scratch)?;
    for outcome in &outcomes {
        for failure in &outcome.failures {
            eprintln!("error: {}: {failure}", outcome.run.name);
        }
    }
    for outcome in &outcomes {
        println!(
            "{}",
            if args.json {
                outcome.run.json()
            } else {
                outcome.run.tables()
            }
        );
    }
    Ok(outcomes.iter().all(|outcome| outcome.failures.is_empty()))
}

#[expect(clippy::print_stdout, reason = "the report is the program's output")]
fn run_bench(args: &BenchArgs) -> Result<bool> {
    let samples = bench::run(&Sweep {
        config: args.layer.config(),
        tokens: args.tokens.clone(),
        ranks: args.ranks.clone(),
        repeat: args.repeat.max(1),
    })?;
    if let Some(path) = &args.chart {
        bench::chart(&samples, path)?;
    }
    if !args.json {
        println!("{}", bench::table(&samples));
        return Ok(true);
    }
    for sample in &samples {
        println!("{}", json(sample)?);
    }
    Ok(true)
}

#[expect(clippy::print_stdout, reason = "the report is the program's output")]
fn run_doctor(args: &DoctorArgs) -> Result<bool> {
    let findings = doctor::examine()?;
    if args.json {
        for finding in &findings {
            println!("{}", json(finding)?);
        }
    } else {
        println!("{}", doctor::table(&findings));
    }
    Ok(doctor::can_run(&findings))
}

#[expect(clippy::print_stdout, reason = "the report is the program's output")]
fn inspect(args: &InspectArgs) -> Result<bool> {
    let inspection = plan::inspect(&args.checkpoint)?;
    if args.json {
        println!("{}", json(&inspection)?);
    } else {
        println!("{}", inspection.table());
    }
    Ok(true)
}

#[expect(clippy::print_stdout, reason = "the report is the program's output")]
fn plan_layer(args: &PlanArgs) -> Result<bool> {
    let desc = LayerDesc {
        prefill_tokens: args.prefill_tokens,
        decode_tokens: args.decode_tokens,
        max_rows: args.max_rows,
        ..LayerDesc::new(Config::read(&args.checkpoint)?, args.ranks, 0)
    };
    let ranks = plan::ranks(&desc)?;
    if !args.json {
        println!("{}", plan::table(&ranks));
        return Ok(true);
    }
    for rank in &ranks {
        println!("{}", json(rank)?);
    }
    Ok(true)
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(Error::from)
}

fn write_seeded(args: &SeededArgs) -> Result<bool> {
    seeded::write(&args.output, &args.layer.config(), args.tokens, args.seed)?;
    Ok(true)
}
