//! What ptxas says about a kernel: resources, spills and remarks, read from `ptxas -v`; and the
//! size of the parameter struct, read from the PTX text.

use serde::{Deserialize, Serialize};

use crate::BuildError;

/// Resources of one compiled entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Registers per thread at launch (`setmaxnreg` may move them between warps later).
    pub registers: u32,
    /// Bytes of local memory per thread.
    pub stack: u32,
    /// Named barriers.
    pub barriers: u32,
    /// Bytes of static shared memory.
    pub static_shared: u32,
    /// Bytes of the one parameter struct.
    pub param_bytes: u32,
    /// Bytes of spill stores and loads: 0, or the row does not build.
    pub spill_bytes: u32,
    /// Whether ptxas serialised `wgmma` (a remark C75xx): no, or the row does not build.
    pub serialised_wgmma: bool,
}

/// Reads the part of `output` (of `ptxas -v`) that concerns the entry `row`.
///
/// # Errors
/// [`BuildError::Spills`] and [`BuildError::Remark`] when the code is not acceptable,
/// [`BuildError::Report`] when the output has another form than expected.
pub(crate) fn parse(row: &str, output: &str) -> Result<Resources, BuildError> {
    if let Some((code, text)) = output.lines().find_map(rejected_remark) {
        return Err(BuildError::Remark {
            row: row.into(),
            code,
            text,
        });
    }
    let missing = |missing| BuildError::Report {
        row: row.into(),
        missing,
        output: output.to_owned(),
    };
    let entry = format!("Compiling entry function '{row}'");
    let mut lines = output
        .lines()
        .skip_while(|line| !line.contains(&entry))
        .skip(1)
        .peekable();
    if lines.peek().is_none() {
        return Err(missing("Compiling entry function"));
    }
    let section: Vec<&str> = lines
        .take_while(|line| !line.contains("Compiling entry function"))
        .collect();
    let spills = section
        .iter()
        .find(|l| l.contains("spill stores"))
        .ok_or_else(|| missing("spill stores"))?;
    let used = section
        .iter()
        .find(|l| l.contains("registers"))
        .ok_or_else(|| missing("registers"))?;
    let stores =
        number_before(spills, " bytes spill stores").ok_or_else(|| missing("spill stores"))?;
    let loads =
        number_before(spills, " bytes spill loads").ok_or_else(|| missing("spill loads"))?;
    let resources = Resources {
        registers: number_before(used, " registers").ok_or_else(|| missing("Used N registers"))?,
        stack: number_before(spills, " bytes stack frame").ok_or_else(|| missing("stack frame"))?,
        barriers: number_before(used, " barriers").unwrap_or(0),
        static_shared: number_before(used, " bytes smem").unwrap_or(0),
        param_bytes: 0,
        spill_bytes: stores + loads,
        serialised_wgmma: output.lines().any(|line| rejected_remark(line).is_some()),
    };
    if stores + loads > 0 {
        let registers = resources.registers;
        return Err(BuildError::Spills {
            row: row.into(),
            stores,
            loads,
            registers,
        });
    }
    Ok(resources)
}

/// C75xx: wgmma serialised, setmaxnreg ignored and their kin. All cost a multiple.
fn rejected_remark(line: &str) -> Option<(String, String)> {
    let (_, rest) = line.split_once("(C75")?;
    let (digits, _) = rest.split_once(')')?;
    digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| (format!("C75{digits}"), line.trim().to_owned()))
}

fn number_before(line: &str, suffix: &str) -> Option<u32> {
    let (before, _) = line.split_once(suffix)?;
    let start = before
        .rfind(|c: char| !c.is_ascii_digit())
        .map_or(0, |i| i + 1);
    before.get(start..)?.parse().ok()
}

/// Bytes of the parameters of `.entry name` in `ptx`: exactly one byte-array parameter.
///
/// # Errors
/// [`BuildError::Row`] when the entry is missing or its parameters are not one struct.
pub(crate) fn param_bytes(row: &str, ptx: &str) -> Result<u32, BuildError> {
    let fail = |message: &str| BuildError::Row {
        row: row.into(),
        message: message.into(),
    };
    let list = ptx
        .split(".entry ")
        .skip(1)
        .find_map(|rest| {
            let (name, rest) = rest.split_once('(')?;
            (name.trim() == row).then(|| rest.split_once(')').map(|(list, _)| list))?
        })
        .ok_or_else(|| fail("the PTX has no such .entry with parameters"))?;
    if list.contains(',') {
        return Err(fail(
            "the entry takes several parameters, expected one struct",
        ));
    }
    let (_, rest) = list
        .split_once('[')
        .ok_or_else(|| fail("the parameter is not a struct"))?;
    let (size, _) = rest
        .split_once(']')
        .ok_or_else(|| fail("the parameter list is cut off"))?;
    size.trim()
        .parse()
        .map_err(|_| fail("the parameter has no plain size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'other' for 'sm_90a'
ptxas info    : Function properties for other
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 400 bytes cmem[0]
ptxas info    : Compiling entry function 'gemm' for 'sm_90a'
ptxas info    : Function properties for gemm
    16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 3 barriers, 16 bytes smem, 400 bytes cmem[0]
ptxas info    : Compile time = 41.129 ms
";

    #[test]
    fn reads_only_the_named_entry() {
        let expected = Resources {
            registers: 168,
            stack: 16,
            barriers: 3,
            static_shared: 16,
            ..Resources::default()
        };
        assert_eq!(parse("gemm", CLEAN).unwrap(), expected);
    }

    #[test]
    fn spills_are_refused_with_their_sizes() {
        let error = parse("other", CLEAN).unwrap_err();
        assert!(
            matches!(
                error,
                BuildError::Spills {
                    stores: 4,
                    loads: 4,
                    registers: 255,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn c75_remarks_are_refused_and_others_are_not() {
        let remark = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async \
                      instructions are serialized due to insufficient register resources\n";
        let error = parse("gemm", &format!("{remark}{CLEAN}")).unwrap_err();
        assert!(
            matches!(&error, BuildError::Remark { code, .. } if code == "C7510"),
            "{error}"
        );
        parse(
            "gemm",
            &format!("ptxas info : (C4701) something else\n{CLEAN}"),
        )
        .unwrap();
    }

    #[test]
    fn output_of_another_form_is_an_error() {
        for output in [
            "",
            "ptxas info    : 0 bytes gmem",
            &CLEAN.replace("registers", "r"),
        ] {
            let error = parse("gemm", output).unwrap_err();
            assert!(matches!(error, BuildError::Report { .. }), "{error}");
        }
    }

    #[test]
    fn parameter_bytes_are_those_of_the_entry() {
        let ptx = ".visible .entry a(\n\t.param .align 8 .b8 a_param_0[24]\n)\n{}\n\
                   .visible .entry b(.param .u64 x, .param .u64 y) {}\n.entry c(.param .u64 x)";
        assert_eq!(param_bytes("a", ptx).unwrap(), 24);
        for name in ["b", "c", "d"] {
            param_bytes(name, ptx).unwrap_err();
        }
    }
}
