//! What a forward pass reports: a table for people, one JSON line for programs.

use crate::check;
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;
use std::time::Duration;

/// One phase of the pass, over all ranks.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// Name.
    pub name: &'static str,
    /// Device time of the slowest rank.
    pub time: Duration,
    /// Bytes that the phase reads and writes on all ranks together.
    pub bytes: u64,
}

/// Agreement of the output with a full-precision result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// ‖difference‖₂ / ‖expected‖₂.
    pub relative_l2: f64,
    /// Largest |difference| / largest |expected|.
    pub relative_max: f64,
}

/// Everything about one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// What was run.
    pub name: String,
    /// The device it ran on, as selected.
    pub device: String,
    /// Ranks.
    pub ranks: usize,
    /// Tokens of the batch.
    pub tokens: usize,
    /// Width of a token.
    pub hidden: usize,
    /// Routed experts.
    pub experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// By phase, in order.
    pub phases: Vec<Phase>,
    /// Wall-clock time of the forward pass without loading and checking.
    pub wall: Duration,
    /// Device entry points launched, each once.
    pub kernels: Vec<String>,
    /// Stage checks, where asked for.
    pub check: Option<check::Report>,
    /// Agreement with full precision, where asked for.
    pub agreement: Option<Agreement>,
}

#[derive(Serialize)]
struct Line<'a> {
    run: &'a str,
    device: &'a str,
    ranks: usize,
    tokens: usize,
    hidden: usize,
    experts: usize,
    topk: usize,
    max_err_over_bound: Option<f64>,
    max_bound_over_out: Option<f64>,
    rel_l2: Option<f64>,
    wall_s: f64,
    kernels: &'a [String],
}

impl Run {
    /// The run as one line of JSON.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::json!(Line {
            run: &self.name,
            device: &self.device,
            ranks: self.ranks,
            tokens: self.tokens,
            hidden: self.hidden,
            experts: self.experts,
            topk: self.top_k,
            max_err_over_bound: self.check.as_ref().map(check::Report::max_err_over_bound),
            max_bound_over_out: self.check.as_ref().map(check::Report::max_bound_over_out),
            rel_l2: self.agreement.map(|a| a.relative_l2),
            wall_s: self.wall.as_secs_f64(),
            kernels: &self.kernels,
        })
        .to_string()
    }

    /// The run as tables.
    #[must_use]
    pub fn tables(&self) -> String {
        let mut text = format!(
            "{}: {}, {} ranks, {} tokens of {}, top {} of {} experts, {:.3} s\n{}\n",
            self.name,
            self.device,
            self.ranks,
            self.tokens,
            self.hidden,
            self.top_k,
            self.experts,
            self.wall.as_secs_f64(),
            self.phase_table(),
        );
        if let Some(report) = &self.check {
            text.push_str(&format!("{}\n", check_table(report)));
        }
        if let Some(Agreement {
            relative_l2,
            relative_max,
        }) = self.agreement
        {
            text.push_str(&format!(
                "against full precision: relative L2 {relative_l2:.4}, \
                 largest difference / largest output {relative_max:.4}\n"
            ));
        }
        text
    }

    fn phase_table(&self) -> Table {
        let mut table = table(&["phase", "ms", "MB"]);
        for Phase { name, time, bytes } in &self.phases {
            #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
            let megabytes = *bytes as f64 / 1e6;
            let milliseconds = time.as_secs_f64() * 1e3;
            table.add_row([
                Cell::new(name),
                number(format!("{milliseconds:.3}")),
                number(format!("{megabytes:.3}")),
            ]);
        }
        table
    }
}

fn check_table(report: &check::Report) -> Table {
    let mut table = table(&[
        "stage",
        "elements",
        "error / bound",
        "bound / output",
        "verdict",
    ]);
    let ratio = |value: Option<f64>| value.map_or_else(String::new, |v| format!("{v:.4}"));
    for stage in &report.stages {
        table.add_row([
            Cell::new(stage.name),
            number(stage.elements.to_string()),
            number(ratio(stage.err_over_bound)),
            number(ratio(stage.bound_over_out)),
            Cell::new(stage.mismatch.as_deref().unwrap_or("agrees")),
        ]);
    }
    table
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_BORDERS_ONLY)
        .set_header(header);
    table
}

fn number(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_fields_that_programs_read() {
        let run = Run {
            name: "tiny".into(),
            device: "soft".into(),
            ranks: 4,
            tokens: 256,
            hidden: 512,
            experts: 32,
            top_k: 4,
            phases: vec![],
            wall: Duration::from_millis(1500),
            kernels: vec!["moe_route_bf16".into()],
            check: None,
            agreement: Some(Agreement {
                relative_l2: 0.02,
                relative_max: 0.01,
            }),
        };
        let line: serde_json::Value = serde_json::from_str(&run.json()).expect("valid JSON");
        assert_eq!(line["topk"], 4);
        assert_eq!(line["wall_s"], 1.5);
        assert_eq!(line["rel_l2"], 0.02);
        assert_eq!(line["kernels"][0], "moe_route_bf16");
        assert!(line["max_err_over_bound"].is_null());
    }
}
