//! The table, and the file with every sample.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use hadal::device::{DeviceKind, Selected};
use hadal::gemm::GemmPlan;

use crate::Result;
use crate::case::Case;

/// State of L2 before a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum L2 {
    Cold,
    Warm,
}

impl L2 {
    fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
        }
    }
}

/// One case with one state of L2.
pub(crate) struct Row {
    pub(crate) case: Case,
    pub(crate) plan: GemmPlan,
    pub(crate) l2: L2,
    pub(crate) samples: Vec<Duration>,
    /// Driver, clocks, power and temperature under load.
    pub(crate) clocks: Option<String>,
}

pub(crate) struct Report {
    device: &'static Selected,
    file: Option<(PathBuf, File)>,
}

impl Report {
    #[expect(clippy::print_stdout, reason = "the table is the program's result")]
    pub(crate) fn new(device: &'static Selected, output: Option<PathBuf>) -> Result<Self> {
        println!("{device}");
        if device.kind == DeviceKind::Soft {
            println!(
                "SIMULATED: nothing here was measured on a GPU; the times are the simulation's"
            );
        }
        println!(
            "{:<72} {:>4} {:>11} {:>8} {:>8}  published for DeepGEMM",
            "form, N x K", "L2", "median us", "TFLOPS", "GB/s"
        );
        let file = match output {
            None => None,
            Some(folder) => {
                std::fs::create_dir_all(&folder)?;
                let path = folder.join(format!("{}.jsonl", file_name(&device.name)));
                let file = File::create(&path)?;
                Some((path, file))
            }
        };
        Ok(Self { device, file })
    }

    #[expect(clippy::print_stdout, reason = "the table is the program's result")]
    pub(crate) fn add(&mut self, row: &Row) -> Result<()> {
        let Row { case, l2, .. } = row;
        let shape = format!("{:?}, {} x {}", case.form, case.n, case.k);
        let median = median(&row.samples);
        // Rates of a simulation would be taken for a GPU's.
        let rates = match self.device.kind {
            DeviceKind::Soft => ["-", "-"].map(str::to_owned),
            DeviceKind::Cuda => rates(case, median).map(|rate| format!("{rate:.0}")),
        };
        let micros = median.as_secs_f64() * 1e6;
        println!(
            "{shape:<72} {:>4} {micros:>11.1} {:>8} {:>8}  {}",
            l2.name(),
            rates[0],
            rates[1],
            case.published
        );
        let line = self.line(row, median);
        if let Some((_, file)) = &mut self.file {
            writeln!(file, "{line}")?;
        }
        Ok(())
    }

    fn line(&self, row: &Row, median: Duration) -> String {
        let Row {
            case,
            plan,
            l2,
            samples,
            clocks,
        } = row;
        let device = quoted(&self.device.name);
        let soft = self.device.kind == DeviceKind::Soft;
        let rates = match self.device.kind {
            DeviceKind::Soft => String::new(),
            DeviceKind::Cuda => {
                let [tflops, gb] = rates(case, median);
                format!("\"tflops\":{tflops:.1},\"gb_per_s\":{gb:.1},")
            }
        };
        let micros = |time: &Duration| format!("{:.3}", time.as_secs_f64() * 1e6);
        let all: Vec<String> = samples.iter().map(micros).collect();
        let form = quoted(&format!("{:?}", case.form));
        let clocks = clocks.as_deref().map_or("null".into(), quoted);
        format!(
            "{{\"bench\":\"gemm_speed\",\"device\":{device},\"simulated\":{soft},\"form\":{form},\
             \"n\":{},\"k\":{},\"kernel\":{},\"cluster\":{:?},\"grid\":{},\"l2\":\"{}\",\
             \"median_us\":{},{rates}\"published\":{},\"clocks\":{clocks},\"samples_us\":[{}]}}",
            case.n,
            case.k,
            quoted(plan.tile.kernel),
            plan.cluster,
            plan.grid,
            l2.name(),
            micros(&median),
            quoted(case.published),
            all.join(",")
        )
    }

    pub(crate) fn finish(self) -> Result<()> {
        if let Some((path, file)) = self.file {
            file.sync_all()?;
            eprintln!("every sample: {}", path.display());
        }
        Ok(())
    }
}

/// TFLOPS, and GB/s of operands and D once each.
fn rates(case: &Case, time: Duration) -> [f64; 2] {
    let seconds = time.as_secs_f64();
    [case.flops() / seconds / 1e12, case.bytes() / seconds / 1e9]
}

fn median(samples: &[Duration]) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Of names and numbers, without control characters.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn file_name(device: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    device.chars().map(plain).collect()
}
