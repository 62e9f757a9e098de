//! Plans of the GEMMs of DeepSeek-V3/R1, as a committed table: a change of the model or of the tiles
//! shows in review.

use std::fmt::Write;
use std::path::Path;

use hadal::gemm::{Arithmetic, Form, GemmDesc, GemmPlan, Output, Tile};

/// Set to write the table anew.
const BLESS: &str = "HADAL_BLESS";

/// Hidden size 7168; attention with latent ranks 1536 and 512 (+64), 128 heads; the dense layers'
/// MLP, the shared expert (DeepSeek-V3 technical report, arXiv 2412.19437, section 4.2).
const DENSE: [(&str, u32, u32); 8] = [
    ("q_a + kv_a", 2112, 7168),
    ("q_b", 24576, 1536),
    ("kv_b", 32768, 512),
    ("o", 7168, 16384),
    ("dense gate+up", 36864, 7168),
    ("dense down", 7168, 18432),
    ("expert gate+up", 4096, 7168),
    ("expert down", 7168, 2048),
];

const TOKENS: [u32; 14] = [
    1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192,
];

/// Published times of other kernels in microseconds (DeepGEMM, github.com/deepseek-ai/DeepGEMM,
/// issues 68, 74, 136 and 193), on H800 or H100.
const PUBLISHED: [(&str, Form, u32, u32, f64); 6] = [
    ("#74", Form::Dense { rows: 4096 }, 7168, 16384, 648.3),
    ("#74", Form::Dense { rows: 4096 }, 7168, 2048, 99.9),
    ("#136", Form::Dense { rows: 64 }, 7168, 16384, 51.0),
    ("#74", CONTIGUOUS, 4096, 7168, 348.3),
    ("#74", CONTIGUOUS, 7168, 2048, 190.6),
    ("#193", MASKED, 4096, 7168, 65.4),
];
const CONTIGUOUS: Form = Form::Contiguous {
    rows: 8192,
    groups: 4,
};
const MASKED: Form = Form::Masked {
    slot_rows: 1024,
    groups: 1,
    expected_rows: 1024,
};

fn desc(form: Form, n: u32, k: u32) -> GemmDesc {
    GemmDesc {
        form,
        n,
        k,
        arithmetic: Arithmetic::E4M3_1D2D,
        output: Output::Bf16,
        sms: 132,
    }
}

fn published(text: &mut String) {
    writeln!(
        text,
        "\nmodelled beside published times of other kernels, in microseconds"
    )
    .expect("a string");
    for (source, form, n, k, time) in PUBLISHED {
        let plan = GemmPlan::new(desc(form, n, k)).expect("a plan");
        let modelled = plan.estimate.seconds() * 1e6;
        writeln!(
            text,
            "{form:?}, N {n}, K {k}: {modelled:.1} beside {time} (DeepGEMM {source}), {:+.0} %",
            (modelled / time - 1.0) * 100.0
        )
        .expect("a string");
    }
}

fn table() -> String {
    let mut text = String::from(
        "Plans for 132 SMs and modelled time on an H100; nothing is measured. A plan is its tile \
         (swapped\noperands: s), its cluster if it has one, and microseconds.\n",
    );
    published(&mut text);
    for (name, n, k) in DENSE {
        let form = |rows| Form::Dense { rows };
        section(&mut text, &format!("dense: {name}"), [n, k], &TOKENS, form);
    }
    for groups in [1, 8, 32, 256] {
        for (name, n, k) in &DENSE[6..] {
            let title = |form: &str| format!("{form}, {groups} groups: {name}");
            let rows: Vec<u32> = TOKENS.into_iter().filter(|&rows| rows >= groups).collect();
            let offsets = |rows| Form::Offsets { rows, groups };
            section(&mut text, &title("offsets"), [*n, *k], &rows, offsets);
            let masked = |expected_rows| Form::Masked {
                slot_rows: 1024,
                groups,
                expected_rows,
            };
            section(&mut text, &title("masked"), [*n, *k], &TOKENS[..11], masked);
        }
    }
    text
}

fn section(
    text: &mut String,
    title: &str,
    [n, k]: [u32; 2],
    rows: &[u32],
    form: impl Fn(u32) -> Form,
) {
    writeln!(text, "\n{title}, N {n}, K {k}").expect("a string");
    for &rows in rows {
        let plan = GemmPlan::new(desc(form(rows), n, k)).expect("a plan");
        let order = match plan.tile.order {
            hadal::gemm::Order::Rows => "",
            hadal::gemm::Order::Swapped => "s",
        };
        let cluster = match plan.cluster {
            [1, 1] => String::new(),
            [m, n] => format!(" {m}x{n}"),
        };
        writeln!(
            text,
            "{rows:>6}: {}x{}{order}{cluster}, {} waves, {:.1}, by {}",
            plan.tile.m,
            plan.tile.n,
            plan.estimate.waves,
            plan.estimate.seconds() * 1e6,
            plan.estimate.bound()
        )
        .expect("a string");
    }
}

#[test]
fn plans_of_the_model() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gemm/plans.txt");
    let current = table();
    if std::env::var_os(BLESS).is_some() {
        return std::fs::write(path, current).expect("the table can be written");
    }
    let committed = std::fs::read_to_string(path).expect("the committed table");
    for (number, (old, new)) in committed.lines().zip(current.lines()).enumerate() {
        assert_eq!(
            old,
            new,
            "line {} ({BLESS}=1 writes the table anew)",
            number + 1
        );
    }
    assert_eq!(committed.lines().count(), current.lines().count());
}

#[test]
fn a_plan_explains_itself() {
    let text = GemmPlan::new(desc(Form::Dense { rows: 4096 }, 7168, 2048))
        .expect("a plan")
        .explain();
    for part in [
        "waves",
        "tensor",
        "HBM",
        "bound by",
        "not gemm_1d2d_e4m3_64x128",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
}

#[test]
fn fewer_sms_make_a_smaller_grid() {
    let desc = |sms| GemmDesc {
        sms,
        ..desc(Form::Dense { rows: 4096 }, 4096, 7168)
    };
    for sms in [132, 100, 7, 1] {
        let plan = GemmPlan::new(desc(sms)).expect("a plan");
        assert!(plan.grid <= sms && plan.grid > 0, "{plan:?}");
        assert!(plan.grid.is_multiple_of(plan.cluster[0] * plan.cluster[1]));
    }
}

/// The table of tiles is that of the compiled kernels: threads, shared memory, and instructions per
/// stage as the static report has them.
#[test]
fn tiles_are_those_of_the_kernels() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/static/sm_90a.md");
    let report = std::fs::read_to_string(path).expect("the static report");
    for tile in Tile::ALL {
        let image = hadal::kernels::find(tile.kernel).expect(tile.kernel);
        assert_eq!(image.threads, tile.threads(), "{}", tile.kernel);
        assert_eq!(image.shared_bytes, tile.shared_bytes(), "{}", tile.kernel);
        assert_eq!(image.stack, 0, "{} has a stack", tile.kernel);
        let row = format!("| {} |", tile.kernel);
        let row = report.lines().find(|line| line.starts_with(&row));
        let cells: Vec<&str> = row.expect(tile.kernel).split('|').map(str::trim).collect();
        let number = |from_the_end: usize| -> u32 {
            let cell = cells[cells.len() - from_the_end];
            cell.parse().expect("a number")
        };
        let (instructions, wgmma) = (number(3), number(2));
        let stages = wgmma / (4 * tile.blocks);
        assert_eq!(
            instructions.div_ceil(stages),
            tile.instructions,
            "{}: instructions per stage",
            tile.kernel
        );
    }
}
