//! Writes found values into a test file as the expected ones.

use crate::file::{Buffer, Expectation, TestFile};

/// Replaces the given expectations by found elements.
pub(crate) fn rewrite(file: &TestFile, found: &[(&Expectation, Vec<u64>)]) -> Result<(), String> {
    let mut lines: Vec<String> = file.text.lines().map(str::to_owned).collect();
    let mut list: Vec<_> = found.iter().collect();
    // From the end, so that earlier line numbers stay right.
    list.sort_by_key(|(expectation, _)| std::cmp::Reverse(expectation.lines.start));
    for (expectation, elements) in list {
        let mut elements = elements.clone();
        if expectation.sorted {
            elements.sort_unstable();
        }
        let buffer = &file.buffers[expectation.buffer];
        let new = written(expectation, buffer, &elements);
        lines.splice(expectation.lines.clone(), new);
    }
    lines.push(String::new());
    std::fs::write(&file.path, lines.join("\n"))
        .map_err(|e| format!("cannot bless {}: {e}", file.path.display()))
}

/// The directive's lines, of at most about 100 characters, runs of equal values as `value*count`.
fn written(expectation: &Expectation, buffer: &Buffer, elements: &[u64]) -> Vec<String> {
    let mut lines = vec![format!("//@ expect {}:", expectation.head)];
    for run in elements.chunk_by(|a, b| a == b) {
        let mut item = buffer.ty.show(run[0]);
        if run.len() > 1 {
            item = format!("{item}*{}", run.len());
        }
        let last = lines.last().map_or(0, String::len);
        if last + item.len() >= 100 {
            lines.push("//@+".into());
        }
        if let Some(line) = lines.last_mut() {
            line.push(' ');
            line.push_str(&item);
        }
    }
    lines
}
