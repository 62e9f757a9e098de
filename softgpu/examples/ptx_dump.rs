//! Prints the IR of PTX files, or what is wrong with them.
//!
//! `cargo run -p softgpu --example ptx_dump -- [--quiet] FILE…`

#![expect(clippy::print_stdout, reason = "printing is the purpose")]

use std::process::ExitCode;
use std::time::Instant;

use softgpu::ir::lower::lower;
use softgpu::ptx::parse;

fn main() -> ExitCode {
    let mut files: Vec<String> = std::env::args().skip(1).collect();
    let quiet = files.first().is_some_and(|first| first == "--quiet");
    if quiet {
        files.remove(0);
    }
    let mut failed = false;
    for file in &files {
        if let Err(error) = dump(file, quiet) {
            println!("{file}:{error}");
            failed = true;
        }
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn dump(file: &str, quiet: bool) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!(" {error}"))?;
    let start = Instant::now();
    let module = parse(&text).map_err(|error| error.to_string())?;
    let parsed = start.elapsed();
    let functions = lower(&module, &|_| Some(0x1000)).map_err(|error| error.to_string())?;
    let lowered = start.elapsed() - parsed;
    for function in &functions {
        if quiet {
            let instructions: usize = function.blocks.iter().map(|b| b.instrs.len()).sum();
            println!(
                "{file}: {}: {} blocks, {instructions} instructions, {} slots, {} predicates",
                function.name,
                function.blocks.len(),
                function.slots,
                function.preds
            );
        } else {
            println!("{function}");
        }
    }
    println!(
        "{file}: {} bytes parsed in {parsed:?}, lowered in {lowered:?}",
        text.len()
    );
    Ok(())
}
