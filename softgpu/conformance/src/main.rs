//! Runs every test file of a folder on the machine's CUDA driver and writes
//! `results/DEVICE.jsonl` there. `cargo xtask gpu --bundle` packs it with the files.

use std::path::Path;
use std::process::ExitCode;

use softgpu_conformance::{child_main, probe, run_folder};

/// Exit code where there is no device.
const NO_DEVICE: u8 = 2;

fn main() -> ExitCode {
    if let Some(code) = child_main() {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let library = std::env::var("CUDA_DRIVER").unwrap_or_else(|_| "libcuda.so.1".into());
    match arguments.as_slice() {
        [one] if one == "--probe" => show_device(&library),
        [folder] if !folder.starts_with('-') => run(Path::new(folder), &library),
        _ => {
            eprintln!("usage: conformance FOLDER | --probe   (CUDA_DRIVER names the library)");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the device is the result")]
fn show_device(library: &str) -> ExitCode {
    match probe(library) {
        Ok(device) => {
            println!("{}", device.name);
            ExitCode::SUCCESS
        }
        Err(why) => no_device(&why),
    }
}

fn no_device(why: &str) -> ExitCode {
    eprintln!("no CUDA device: {why}");
    ExitCode::from(NO_DEVICE)
}

#[expect(clippy::print_stdout, reason = "the summary is the result")]
fn run(folder: &Path, library: &str) -> ExitCode {
    let device = match probe(library) {
        Ok(device) => device,
        Err(why) => return no_device(&why),
    };
    let name: String = device
        .name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    let output = folder.join("results").join(format!("{name}.jsonl"));
    let predicted = folder.join("predicted.jsonl");
    let summary = match run_folder(folder, (library, &device), &output, &predicted) {
        Ok(summary) => summary,
        Err(error) => {
            eprintln!("cannot write {}: {error}", output.display());
            return ExitCode::FAILURE;
        }
    };
    for why in &summary.failed {
        println!("FAILED {why}");
    }
    for (record, differ, bytes) in &summary.otherwise {
        println!("not as predicted: {record}: {differ} of {bytes} bytes differ");
    }
    println!(
        "{}: {} passed, {} failed, {} skipped; records: {} as predicted, {} not; {}",
        device.name,
        summary.passed,
        summary.failed.len(),
        summary.skipped,
        summary.as_predicted,
        summary.otherwise.len(),
        output.display(),
    );
    if summary.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
