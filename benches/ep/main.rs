//! What the all-to-all puts on the wire: bytes that cross to other ranks, signals and instructions, from the
//! counters of the software GPU, for one round of eight ranks in the shape of DeepSeek-V3. `--json` prints
//! one JSON line per mode and phase. Nothing here is a time.
//!
//! How the figures come about:
//!
//! * Rows that cross: the same round is run with rows that are 128 elements shorter. Everything but the rows
//!   stays the same, so the difference of the bytes, by that of the row's bytes, is the number of rows.
//! * Overhead: all bytes that cross, without the rows' payload and scales, by those rows.
//! * Signals: a round without tokens crosses nothing but signals, credits and counts; without the
//!   counts, whose size the plan tells, every 8 bytes are one.
#![expect(unsafe_code, reason = "asks the software GPU for its counters")]

mod rounds;
mod wire;

use std::error::Error;
use std::process::ExitCode;

use rounds::Mode;
use wire::Counted;

/// Any error: each is printed and ends the program.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// One phase of one mode.
struct Figures {
    mode: &'static str,
    phase: &'static str,
    /// Rows that cross.
    rows: u64,
    overhead_bytes_per_row: f64,
    rows_per_destination_rank: f64,
    signals: u64,
    instr_per_row: f64,
    sms: u32,
    /// Payload and scales of a row.
    unit_bytes: u64,
}

fn main() -> ExitCode {
    let json = std::env::args().any(|argument| argument == "--json");
    for mode in [Mode::Throughput, Mode::Latency] {
        match measure(mode) {
            Ok(figures) if json => figures.iter().for_each(print_json),
            Ok(figures) => figures.iter().for_each(print),
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::from(2);
            }
        }
    }
    ExitCode::SUCCESS
}

fn measure(mode: Mode) -> Result<[Figures; 2]> {
    let [long, short] = [rounds::HIDDEN, rounds::HIDDEN - 128];
    let whole = rounds::run(mode, long, rounds::TOKENS)?;
    let shorter = rounds::run(mode, short, rounds::TOKENS)?;
    let empty = rounds::run(mode, long, 0)?;
    let phase = |at: usize, phase: &'static str| -> Result<Figures> {
        let [whole, shorter, empty]: [&Counted; 3] =
            [&whole, &shorter, &empty].map(|counted| &counted.phases[at]);
        let [unit, shorter_unit] = [long, short].map(|hidden| rounds::unit_bytes(at, hidden));
        let rows = (whole.bytes - shorter.bytes) / (unit - shorter_unit);
        if rows == 0 || rows * (unit - shorter_unit) != whole.bytes - shorter.bytes {
            return Err(format!("{phase}: rows of two lengths do not cross alike").into());
        }
        Ok(Figures {
            mode: mode.name(),
            phase,
            rows,
            overhead_bytes_per_row: (whole.bytes - rows * unit) as f64 / rows as f64,
            rows_per_destination_rank: rows as f64 / rounds::pairs() as f64,
            signals: (empty.bytes - mode.count_bytes(at)) / 8,
            instr_per_row: whole.instructions as f64 / rows as f64,
            sms: whole.ctas,
            unit_bytes: unit,
        })
    };
    Ok([phase(0, "dispatch")?, phase(1, "combine")?])
}

#[expect(clippy::print_stdout, reason = "prints its results")]
fn print(figures: &Figures) {
    println!(
        "{:<10} {:<8} {:6} rows of {} bytes, {:.3} per token and rank; per row {:.1} bytes more and {:.0} \
         instructions; {} signals, {} SMs",
        figures.mode,
        figures.phase,
        figures.rows,
        figures.unit_bytes,
        figures.rows_per_destination_rank,
        figures.overhead_bytes_per_row,
        figures.instr_per_row,
        figures.signals,
        figures.sms,
    );
}

#[expect(clippy::print_stdout, reason = "prints its results")]
fn print_json(figures: &Figures) {
    println!(
        "{{\"bench\":\"ep\",\"mode\":\"{}\",\"phase\":\"{}\",\"ranks\":{},\"tokens_per_rank\":{},\
         \"overhead_bytes_per_row\":{:.3},\"rows_per_destination_rank\":{:.4},\"rows\":{},\
         \"signals\":{},\"instr_per_row\":{:.1},\"sms\":{},\"unit_bytes\":{}}}",
        figures.mode,
        figures.phase,
        rounds::RANKS,
        rounds::TOKENS,
        figures.overhead_bytes_per_row,
        figures.rows_per_destination_rank,
        figures.rows,
        figures.signals,
        figures.instr_per_row,
        figures.sms,
        figures.unit_bytes,
    );
}
