//! GEMMs that depend on each other, enqueued one after another with nothing between: each may begin
//! before the last one has ended, reads what that one wrote and overwrites what it read.

use hadal::device::Buffer;
use hadal::gemm::{
    Arithmetic, Form, Gemm, GemmDesc, GemmPlan, Groups, Matrix, MatrixMut, Operands, Output, Shape,
    Tile,
};
use half::bf16;

use crate::device::Device;
use crate::problem::Random;

pub(crate) const NAME: &str = "gemm_bf16_64x128";
const ROWS: u32 = 70;
const SIDE: u32 = 256;
const LINKS: usize = 6;

/// `X ← X · Wᵀ` six times between two buffers; both of them. `between` runs after each call.
fn chain(device: &Device, cluster: [u32; 2], between: impl Fn()) -> [Vec<bf16>; 2] {
    let desc = GemmDesc {
        form: Form::Dense { rows: ROWS },
        n: SIDE,
        k: SIDE,
        arithmetic: Arithmetic::Bf16,
        output: Output::Bf16,
        sms: 3,
    };
    let tile = Tile::ALL.into_iter().find(|tile| tile.kernel == NAME);
    let plan = GemmPlan::with_tile(desc, tile.expect("a tile"), cluster).expect("a plan");
    let mut gemm = Gemm::new(&device.context, plan).expect("a kernel");
    let mut random = Random(3);
    let mut values = |rows: u32, largest: f32| -> Vec<bf16> {
        let mut value = || (random.below(2001) as f32 / 1000.0 - 1.0) * largest;
        let count = rows * SIDE;
        (0..count).map(|_| bf16::from_f32(value())).collect()
    };
    let w = device.upload(&values(SIDE, 0.1));
    let mut from = device.upload(&values(ROWS, 1.0));
    let mut to = device.upload(&vec![bf16::ZERO; (ROWS * SIDE) as usize]);
    let (x, square) = (Shape::matrix(ROWS, SIDE), Shape::matrix(SIDE, SIDE));
    for _ in 0..LINKS {
        let mut operands = Operands {
            a: Matrix::bf16(&from, x).expect("A"),
            b: Matrix::bf16(&w, square).expect("B"),
            groups: Groups::None,
            d: MatrixMut::bf16(&mut to, x).expect("D"),
        };
        gemm.run(&device.stream, &mut operands).expect("launched");
        between();
        std::mem::swap(&mut from, &mut to);
    }
    let read = |buffer: Buffer<bf16>| buffer.to_vec(&device.stream).expect("executed");
    [read(from), read(to)]
}

/// Panics when calls that may overlap compute something else than calls that do not.
pub(crate) fn check(device: &Device, cluster: [u32; 2]) {
    let ended = || device.stream.synchronize().expect("executed");
    let expected = chain(device, cluster, ended);
    let got = chain(device, cluster, || ());
    for (buffer, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let bits = |value: &bf16| value.to_bits();
        let differs = (0..got.len()).find(|&i| bits(&got[i]) != bits(&expected[i]));
        if let Some(i) = differs {
            let (row, column) = (i / SIDE as usize, i % SIDE as usize);
            let (got, expected) = (got[i], expected[i]);
            panic!("{cluster:?}, buffer {buffer} [{row}, {column}]: {got}, expected {expected}");
        }
    }
}

#[test]
fn dependent_calls_overlap_without_a_trace() {
    let device = Device::open();
    for cluster in [[1, 1], [2, 1], [1, 2]] {
        check(&device, cluster);
    }
}
