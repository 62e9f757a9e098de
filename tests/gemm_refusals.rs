//! Calls of the GEMM that are wrong in one way each: a typed error says the numbers, no kernel runs
//! (asked of the software GPU's own log, where it is the device), and the outputs keep every byte.
#![expect(
    unsafe_code,
    reason = "views of memory that does not exist or is in use; a C function of the software GPU"
)]
#![expect(
    clippy::expect_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::ffi::c_char;
use std::sync::Arc;

use bytemuck::Pod;
use hadal::device::{Buffer, Context, DeviceError, DeviceKind, Stream, selected};
use hadal::gemm::{
    Arithmetic, Form, Format, Gemm, GemmDesc, GemmError, GemmPlan, Groups, Matrix, MatrixMut,
    OperandError, Operands, Order, Output, Shape, Tile, View, ViewMut, scale_stride,
};
use hadal::transfer::fill_words;

const ROWS: u32 = 4;
const N: u32 = 128;
const K: u32 = 256;
const PATTERN: u8 = 0xa5;

const DESC: GemmDesc = GemmDesc {
    form: Form::Masked {
        slot_rows: ROWS,
        groups: 2,
        expected_rows: 1,
    },
    n: N,
    k: K,
    arithmetic: Arithmetic::E4M3_1D2D,
    output: Output::F32,
    sms: 8,
};

const A: Shape = Shape {
    slots: 2,
    rows: ROWS,
    columns: K,
};
const B: Shape = Shape {
    slots: 2,
    rows: N,
    columns: K,
};
const D: Shape = Shape {
    slots: 2,
    rows: ROWS,
    columns: N,
};

/// A device, and the operands of a valid call.
struct Setup {
    context: Arc<Context>,
    stream: Stream,
    a: Buffer<u8>,
    b: Buffer<u8>,
    scales_a: Buffer<f32>,
    scales_b: Buffer<f32>,
    counts: Buffer<i32>,
    d: Buffer<f32>,
}

impl Setup {
    fn new() -> Self {
        let context = Context::new(0).expect("a device");
        let stream = Stream::new(&context).expect("a stream");
        let mut d = zeros(&stream, 2 * ROWS * N);
        d.fill_bytes(&stream, PATTERN).expect("filled");
        Self {
            a: zeros(&stream, 2 * ROWS * K),
            b: zeros(&stream, 2 * N * K),
            scales_a: zeros(&stream, 2 * 2 * ROWS),
            scales_b: zeros(&stream, 2 * 2),
            counts: Buffer::from_slice(&stream, &[4, 4]).expect("device memory"),
            d,
            context,
            stream,
        }
    }

    fn gemm(&self) -> Gemm {
        let plan = GemmPlan::new(DESC).expect("a plan");
        Gemm::new(&self.context, plan).expect("a kernel")
    }

    /// The valid operands, with a D that may alias whatever it likes.
    fn operands<'a>(&'a self, d: ViewMut<'a, f32>) -> Operands<'a> {
        Operands {
            a: Matrix::fp8_rows(Format::E4m3, &self.a, &self.scales_a, A).expect("A"),
            b: Matrix::fp8_blocks(Format::E4m3, &self.b, &self.scales_b, B).expect("B"),
            groups: Groups::Counts((&self.counts).into()),
            d: MatrixMut::f32(d, D).expect("D"),
        }
    }

    /// A view of D that leaves `self` free.
    fn d(&self) -> ViewMut<'_, f32> {
        self.d_at(self.d.address())
    }

    fn d_at(&self, address: u64) -> ViewMut<'_, f32> {
        ghost_mut(&self.context, address, self.d.len())
    }

    /// The text of the error of a call whose operands were spoiled.
    fn refused<'a>(&'a self, spoil: impl FnOnce(&mut Operands<'a>)) -> String {
        let mut operands = self.operands(self.d());
        spoil(&mut operands);
        self.error(&mut operands).to_string()
    }

    fn error(&self, operands: &mut Operands<'_>) -> GemmError {
        let result = self.gemm().run(&self.stream, operands);
        result.expect_err("the call is wrong")
    }

    /// No kernel but the control has run in this process, and D is as it was.
    fn nothing_happened(&self) {
        let mut control = zeros::<u32>(&self.stream, 1);
        fill_words(&self.stream, &mut control, 1).expect("launched");
        let d = self.d.to_vec(&self.stream).expect("no error is pending");
        let pattern = f32::from_ne_bytes([PATTERN; 4]).to_bits();
        for (at, value) in d.iter().enumerate() {
            assert_eq!(value.to_bits(), pattern, "D[{at}] was written");
        }
        assert_eq!(self.context.launches(), [("fill_words", 1)]);
        if selected().expect("a device").kind == DeviceKind::Soft {
            let log = launch_log();
            assert!(log.contains("fill_words\tlaunches="), "{log}");
            let of_control = |line: &str| line.starts_with("fill_words\t");
            assert!(log.lines().all(of_control), "a kernel ran: {log}");
        }
    }
}

fn zeros<T: Pod>(stream: &Stream, len: u32) -> Buffer<T> {
    Buffer::zeroed(stream, len as usize).expect("device memory")
}

/// A view for a call that is refused, or of no element: nothing uses it.
fn ghost<T: Pod>(context: &Arc<Context>, address: u64, len: usize) -> View<'_, T> {
    // SAFETY: no kernel gets it.
    unsafe { View::from_raw(context, address, len) }
}

/// The same of an output.
fn ghost_mut<T: Pod>(context: &Arc<Context>, address: u64, len: usize) -> ViewMut<'_, T> {
    // SAFETY: no kernel gets it.
    unsafe { ViewMut::from_raw(context, address, len) }
}

/// The kernels that have run in this process, a line each.
fn launch_log() -> String {
    type Log = unsafe extern "C" fn(*mut c_char, usize) -> usize;
    let all = libloading::os::unix::Library::this();
    // SAFETY: this is the type of the software GPU's function.
    let log = unsafe { all.get::<Log>(b"softgpuLaunchLog") }.expect("the software GPU is open");
    let mut text = vec![0u8; 1 << 16];
    // SAFETY: the buffer is writable and has the size that is told.
    let len = unsafe { log(text.as_mut_ptr().cast(), text.len()) };
    text.truncate(len.min(text.len()));
    String::from_utf8(text).expect("a text")
}

#[test]
fn overlaps() {
    let setup = Setup::new();
    let own = 4 * setup.d.len() as u64;
    let inputs = [
        ("A", setup.a.address(), setup.a.bytes()),
        (
            "scales of A",
            setup.scales_a.address(),
            setup.scales_a.bytes(),
        ),
        ("B", setup.b.address(), setup.b.bytes()),
        (
            "scales of B",
            setup.scales_b.address(),
            setup.scales_b.bytes(),
        ),
        ("groups", setup.counts.address(), setup.counts.bytes()),
    ];
    for (what, first, bytes) in inputs {
        let last = (first + bytes as u64 - 1) & !15;
        // The output's first or last bytes, or all of the input in its middle.
        for address in [last, first - own + 16, first - own / 2] {
            let found = setup.refused(|operands| {
                operands.d = MatrixMut::f32(setup.d_at(address), D).expect("D");
            });
            let (end, input_end) = (address + own, first + bytes as u64);
            let other = format!("overlaps {what} at {first:#x}..{input_end:#x}");
            let expected = format!("D at {address:#x}..{end:#x} {other}");
            // A neighbour of this input may be met first.
            assert!(found == expected || found.contains(" overlaps "), "{found}");
            if address == last {
                assert_eq!(found, expected);
            }
        }
    }
    setup.nothing_happened();
}

/// Memory that touches but shares no byte is no overlap, nor is memory without bytes.
#[test]
fn neighbours_do_not_overlap() {
    let context = Context::new(0).expect("a device");
    let stream = Stream::new(&context).expect("a stream");
    let form = Form::Dense { rows: 0 };
    let plan = GemmPlan::new(GemmDesc { form, ..DESC }).expect("a plan");
    let mut gemm = Gemm::new(&context, plan).expect("a kernel");
    let (codes, scales) = (zeros::<u8>(&stream, N * K), zeros::<f32>(&stream, 2));
    let (no_codes, no_scales) = (zeros::<u8>(&stream, 0), zeros::<f32>(&stream, 0));
    let inside: ViewMut<'_, f32> = ghost_mut(&context, codes.address() + 16, 0);
    let empty = Shape::matrix(0, K);
    let mut operands = Operands {
        a: Matrix::fp8_rows(Format::E4m3, &no_codes, &no_scales, empty).expect("A"),
        b: Matrix::fp8_blocks(Format::E4m3, &codes, &scales, Shape::matrix(N, K)).expect("B"),
        groups: Groups::None,
        d: MatrixMut::f32(inside, Shape::matrix(0, N)).expect("D"),
    };
    gemm.run(&stream, &mut operands).expect("nothing to do");
    assert_eq!(context.launches(), [], "nothing was launched");
}

#[test]
fn addresses() {
    let setup = Setup::new();
    let context = &setup.context;
    let null: View<'_, u8> = ghost(context, 0, setup.a.len());
    let odd: View<'_, u8> = ghost(context, setup.a.address() + 8, setup.a.len());
    let d: ViewMut<'_, f32> = ghost_mut(context, setup.d.address() + 4, setup.d.len());
    let groups: View<'_, i32> = ghost(context, 0, 2);
    let a = |codes| Matrix::fp8_rows(Format::E4m3, codes, &setup.scales_a, A).map(|_| ());
    let text = |result: Result<(), OperandError>| result.expect_err("refused").to_string();
    assert_eq!(text(a(null)), "codes: address 0 for 2048 elements");
    let expected = format!(
        "codes: address {:#x} is not a multiple of 16",
        setup.a.address() + 8
    );
    assert_eq!(text(a(odd)), expected);
    let expected = format!(
        "D: address {:#x} is not a multiple of 16",
        setup.d.address() + 4
    );
    assert_eq!(text(MatrixMut::f32(d, D).map(|_| ())), expected);
    let found = setup.refused(|operands| operands.groups = Groups::Counts(groups));
    assert_eq!(found, "groups: address 0 for 2 elements");
    let odd: View<'_, i32> = ghost(context, setup.counts.address() + 2, 2);
    let found = setup.refused(|operands| operands.groups = Groups::Counts(odd));
    assert!(found.ends_with("is not a multiple of 4"), "{found}");
    setup.nothing_happened();
}

#[test]
fn groups_of_another_form() {
    let setup = Setup::new();
    let view = View::from(&setup.counts);
    for (groups, expected) in [
        (
            Groups::None,
            "groups given as none, but the plan's form is masked",
        ),
        (
            Groups::OfRows(view),
            "groups given as groups of rows, but the plan's form is masked",
        ),
        (
            Groups::Offsets(view),
            "groups given as offsets, but the plan's form is masked",
        ),
        (
            Groups::Counts(view.slice(0..1).expect("inside")),
            "groups: 1 elements, expected 2",
        ),
    ] {
        assert_eq!(setup.refused(|operands| operands.groups = groups), expected);
    }
    setup.nothing_happened();
}

/// Memory, or a kernel, of another context than the stream's.
#[test]
fn contexts() {
    let setup = Setup::new();
    let other = Setup::new();
    let expect = |what: &str, found: String| {
        let expected = format!("{what} belongs to another context than the stream");
        assert_eq!(found, expected);
    };
    expect(
        "A",
        setup.refused(|operands| operands.a = other.operands(other.d()).a),
    );
    expect(
        "B",
        setup.refused(|operands| operands.b = other.operands(other.d()).b),
    );
    let mixed = Matrix::fp8_rows(Format::E4m3, &setup.a, &other.scales_a, A).expect("A");
    expect("scales of A", setup.refused(|operands| operands.a = mixed));
    let counts = Groups::Counts((&other.counts).into());
    expect("groups", setup.refused(|operands| operands.groups = counts));
    expect(
        "D",
        setup.refused(|operands| operands.d = other.operands(other.d()).d),
    );
    let mut gemm = other.gemm();
    let error = gemm.run(&setup.stream, &mut setup.operands(setup.d()));
    let expected = DeviceError::WrongContext {
        operation: "launch",
        what: "kernel",
    };
    assert_eq!(error, Err(expected.into()));
    setup.nothing_happened();
    other.nothing_happened();
}

/// The fields of a plan are public; a kernel that believed a changed one would run out of its
/// shared memory or of D.
#[test]
fn changed_plans() {
    let setup = Setup::new();
    let plan = GemmPlan::new(DESC).expect("a plan");
    let spoils: [fn(&mut GemmPlan); 7] = [
        |plan| plan.grid = 0,
        |plan| plan.grid += 1,
        |plan| plan.band = 0,
        |plan| plan.tiles = 1,
        |plan| plan.shared_bytes = 1024,
        |plan| plan.desc.n += 1024,
        |plan| plan.desc.sms = 1,
    ];
    for (at, spoil) in spoils.into_iter().enumerate() {
        let mut changed = plan;
        spoil(&mut changed);
        let error = Gemm::new(&setup.context, changed).map(|_| ());
        assert_eq!(error, Err(OperandError::PlanChanged.into()), "change {at}");
    }
    let spoils: [fn(&mut GemmPlan); 7] = [
        |plan| {
            let (rows, groups) = (128, 1);
            plan.desc.form = Form::Contiguous { rows, groups };
            plan.tile.m = u32::MAX;
            plan.cluster = [2, 1];
        },
        |plan| plan.cluster = [4, 1],
        |plan| plan.cluster = [0, 0],
        |plan| plan.tile.stages += 1,
        |plan| plan.tile.m *= 2,
        |plan| plan.tile.kernel = "quantise_1x128",
        |plan| plan.desc.arithmetic = Arithmetic::Bf16,
    ];
    for (at, spoil) in spoils.into_iter().enumerate() {
        let mut changed = plan;
        spoil(&mut changed);
        let error = Gemm::new(&setup.context, changed).expect_err("a plan that cannot be");
        let is_cluster = matches!(error, GemmError::Operand(OperandError::Cluster { .. }));
        assert!(is_cluster, "change {at}: {error}");
    }
    setup.nothing_happened();
}

/// Sizes whose products exceed 64 bits are no lengths that memory could have.
#[test]
fn shapes_beyond_memory() {
    let setup = Setup::new();
    let none = setup.a.address();
    let codes = |len| ghost::<u8>(&setup.context, none, len);
    let scales = |len| ghost::<f32>(&setup.context, none, len);
    let huge = |slots, rows, columns| Shape {
        slots,
        rows,
        columns,
    };
    let text = |result: Result<Matrix<'_>, OperandError>| {
        result.map(|_| ()).expect_err("refused").to_string()
    };
    // 2^66 elements: 0 in 64 bits.
    let shape = huge(1 << 31, 1 << 31, 16);
    let e4m3 = Format::E4m3;
    let expected = format!("codes: 0 elements, expected {}", u64::MAX);
    let rows = 1usize << 62;
    assert_eq!(
        text(Matrix::fp8_rows(e4m3, codes(0), scales(rows), shape)),
        expected
    );
    let one = Matrix::fp8_channel(e4m3, codes(0), scales(1), shape);
    assert_eq!(text(one), expected);
    // Scales of 2^31 slots, 2^24 lines and 2^31 rows: 2^86.
    let shape = huge(1 << 31, 1 << 31, 1 << 31);
    let expected = format!("scales: 0 elements, expected {}", u64::MAX);
    assert_eq!(
        text(Matrix::fp8_rows(e4m3, codes(0), scales(0), shape)),
        expected
    );
    assert_eq!(
        text(Matrix::fp8_blocks(e4m3, codes(0), scales(0), shape)),
        expected
    );
    let shape = huge(1, u32::MAX, 16);
    assert_eq!(
        text(Matrix::fp8_rows(e4m3, codes(0), scales(0), shape)),
        "scale stride = 4294967295 is not a multiple of 4"
    );
    assert_eq!(scale_stride(u32::MAX - 3), u32::MAX - 3);
    let d = ghost_mut::<f32>(&setup.context, none, 0);
    let d = MatrixMut::f32(d, huge(1 << 31, 1 << 31, 16)).map(|_| ());
    let expected = format!("D: 0 elements, expected {}", u64::MAX);
    assert_eq!(d.expect_err("refused").to_string(), expected);
    setup.nothing_happened();
}

/// What `desc` with one change says.
fn refused_plan(spoil: impl FnOnce(&mut GemmDesc)) -> String {
    let mut desc = DESC;
    spoil(&mut desc);
    GemmPlan::new(desc).expect_err("refused").to_string()
}

#[test]
fn sizes() {
    let most = i32::MAX - 1024;
    assert_eq!(
        refused_plan(|d| d.n = 0),
        format!("N = 0, expected 16 to {most}")
    );
    assert_eq!(refused_plan(|d| d.n = 24), "N = 24 is not a multiple of 16");
    assert_eq!(
        refused_plan(|d| d.k = 0),
        format!("K = 0, expected 16 to {most}")
    );
    assert_eq!(refused_plan(|d| d.k = 40), "K = 40 is not a multiple of 16");
    assert_eq!(
        refused_plan(|d| d.sms = 0),
        format!("SMs = 0, expected 1 to {most}")
    );
    let over = 0x8000_0000u32;
    assert_eq!(
        refused_plan(|d| d.n = over),
        format!("N = {over}, expected 16 to {most}")
    );
    assert_eq!(
        refused_plan(|d| d.k = over),
        format!("K = {over}, expected 16 to {most}")
    );
    let form = |form: Form| refused_plan(move |d| d.form = form);
    let rows = u32::MAX;
    let expected = format!("rows of D = {rows}, expected 0 to {most}");
    assert_eq!(form(Form::Dense { rows }), expected);
    assert_eq!(form(Form::Offsets { rows, groups: 1 }), expected);
    let expected = format!("groups = 0, expected 1 to {most}");
    assert_eq!(form(Form::Batched { rows: 1, batch: 0 }), expected);
    assert_eq!(form(Form::Contiguous { rows: 1, groups: 0 }), expected);
    let masked = Form::Masked {
        slot_rows: 1 << 16,
        groups: 1 << 16,
        expected_rows: 0,
    };
    let expected = format!("rows of D = {}, expected 0 to {most}", 1u64 << 32);
    assert_eq!(form(masked), expected);
    let rows = 1 << 16;
    let expected = format!("rows of D = {}, expected 0 to {most}", 1u64 << 32);
    assert_eq!(
        form(Form::KGrouped {
            rows,
            groups: 1 << 16
        }),
        expected
    );
    let groups = 1 << 25;
    let expected = format!("groups x N = {}, expected 0 to {most}", 1u64 << 32);
    assert_eq!(form(Form::Contiguous { rows: 1, groups }), expected);
    let deep = refused_plan(|d| {
        (d.n, d.k) = (16, 1 << 30);
        d.form = Form::Offsets {
            rows: 1,
            groups: 1 << 10,
        };
    });
    let expected = format!("groups x K blocks = {}, expected 0 to {most}", 1u64 << 33);
    assert_eq!(deep, expected);
    let many = refused_plan(|d| {
        d.n = 1 << 30;
        d.form = Form::Dense { rows: 1 << 30 };
    });
    assert!(many.starts_with("tiles = "), "{many}");
    let grouped = refused_plan(|d| {
        d.k = 144;
        d.form = Form::KGrouped { rows: 1, groups: 1 };
    });
    assert_eq!(grouped, "K = 144 is not a multiple of 128");
}

/// Two CTAs on one SM, or with operands swapped.
#[test]
fn too_few_sms_for_a_cluster() {
    let desc = GemmDesc { sms: 1, ..DESC };
    for tile in Tile::candidates(desc.arithmetic, desc.form) {
        let plan = GemmPlan::with_tile(desc, tile, [1, 1]).expect("one CTA");
        assert_eq!(plan.grid, 1);
        for cluster in [[2, 1], [1, 2]] {
            let error = GemmPlan::with_tile(desc, tile, cluster).expect_err("one SM");
            let expected = format!(
                "{} in clusters of {cluster:?} cannot compute the masked form on 1 SMs",
                tile.kernel
            );
            assert_eq!(error.to_string(), expected);
        }
        let two = GemmPlan::with_tile(GemmDesc { sms: 3, ..desc }, tile, [2, 1]);
        match tile.order {
            Order::Rows => assert_eq!(two.expect("two CTAs").grid, 2),
            Order::Swapped => assert!(two.is_err()),
        }
    }
}
