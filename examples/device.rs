//! Prints which device library is used: a GPU's driver or the software GPU.

use std::process::ExitCode;

#[expect(clippy::print_stdout, reason = "prints its result")]
fn main() -> ExitCode {
    match hadal::device::selected() {
        Ok(selected) => {
            println!("{selected}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
